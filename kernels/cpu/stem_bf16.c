// The stem's inputs in bf16, for AVX512_BF16 and AMX.
#include "paths.h"
#ifdef HAVE_AVX512_BF16
#include "avx512_bf16.h"

// An image row as the stem reads it, with what is around the image; from top to bottom, `fresh` where `to` holds none yet.
// Pixels are whole numbers up to 255, which bf16 holds; times 2^-16, so that amx's weights are not too small.
AVX512_BF16 static void stem_row(const Network *n, const uint8_t *image, int row, uint16_t *to, int fresh) {
    int line = line_size(n), inside = row >= 0 && row < n->size;
    if (fresh || !inside)  // later on, what is left and right of the image is still there
        for (int k = 0; k < line; k++) to[k] = n->outside[k % 3];
    const uint8_t *from = image + (int64_t)row * n->size * 3;
    f32x16 times = _mm512_set1_ps(0x1p-16f);
    for (int k = 0; inside && k < 3 * n->size; k += 32) {
        f32x16 x[2];
        for (int j = 0; j < 2; j++) {
            __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(from + k + 16 * j)));
            x[j] = _mm512_mul_ps(_mm512_cvtepi32_ps(bytes), times);
        }
        _mm512_storeu_si512(to + 3 * n->left + k, (__m512i)_mm512_cvtne2ps_pbh(x[1], x[0]));
    }
}
// Three rows to columns, 32 columns (nine vectors) at a time: a vector has values of five columns at most, which are fifteen
// of a row. `order`: where each is in the first two rows' sixteen, and, from 32 on, in the third's.
AVX512_BF16 static void interleave(const uint16_t *const *rows, int columns, const uint16_t *order, uint16_t *to) {
    for (int u = 0; u < columns; u += 32)
        for (int q = 0; q < 9; q++) {
            int at = 3 * (u + 32 * q / 9);
            __m512i two = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)(rows[0] + at)));
            two = _mm512_inserti64x4(two, _mm256_loadu_si256((const void *)(rows[1] + at)), 1);
            __m512i third = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)(rows[2] + at)));
            _mm512_storeu_si512(to + 9 * u + 32 * q, _mm512_permutex2var_epi16(two, _mm512_loadu_si512(order + 32 * q), third));
        }
}
// What row y of the stem, 3x3 with stride 2, reads: columns of three pixels, bf16, [columns][3 rows][3]. A window is three
// columns, the next one begins two further on. Row r of the image stands at r % 3; called with y = 0 first.
AVX512_BF16 void stem_patches(const Network *n, const uint8_t *image, int y, const Memory *m) {
    const uint16_t *rows[3];
    for (int i = 0; i < 3; i++) {
        int row = 2 * y - n->top + i;
        uint16_t *to = m->rows + (row + 3) % 3 * line_size(n);
        if (y == 0 || i > 0) stem_row(n, image, row, to, y == 0);
        rows[i] = to;
    }
    for (int k = 0; k < 9 * 32 && y == 0; k++) {  // see interleave
        int column = k / 9 - k / 32 * 32 / 9, row = k % 9 / 3;
        m->order[k] = 16 * row + 3 * column + k % 3;
    }
    interleave(rows, patch_columns(n), m->order, m->patches);
}
#endif
