// The way through the network; see mobilenet.h.
#include "mobilenet.h"

#include <math.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "blocks.h"

static const Path *path(int arithmetic) { return arithmetic == AMX ? &amx_path : &avx_path; }

static void stats_start(const Stats *s, int channels) {
    memset(s->sum, 0, channels * sizeof(double));
    memset(s->square, 0, channels * sizeof(double));
    memset(s->maximum, 0, channels * sizeof(float));
}

static float *stats_end(const Stats *s, int channels, double pixels, float epsilon, float *taps) {
    for (int c = 0; c < channels; c++) {
        double mean = s->sum[c] / pixels, variance = s->square[c] / pixels - mean * mean;
        taps[c] = (float)mean;
        taps[channels + c] = (float)sqrt((variance > 0 ? variance : 0) + epsilon);
        taps[2 * channels + c] = s->maximum[c];
    }
    return taps + 3 * channels;
}

static int64_t row_bytes(const Path *p, const Block *b) {
    return (int64_t)up(b->wide, p->plane) / p->plane * ring_width(b) * PIXEL;
}

static void *take(char **at, int64_t bytes) {
    void *here = *at;
    *at += lines(bytes);
    return here;
}

// Lays the buffers out from `at` on, each the size of the largest block's; the end.
static char *lay_out(const Network *n, const Path *p, char *at, Memory *m) {
    int64_t narrow = 0, residual = 0, ring = 0, strip = 0;
    int wide = up(n->block->wide, 32);
    for (int i = 0; i < n->blocks; i++) {
        const Block *b = n->block + i;
        int64_t found[4] = {
            b->depthwise ? out_pixels(b) * p->narrow_bytes(n, b->project.outputs) : 0,
            b->depthwise && n->eight ? out_pixels(b) * 2 * up(b->project.outputs, 32) : 0,
            ring_rows(b) * row_bytes(p, b) + ring_width(b) * PIXEL,
            (int64_t)rows_together(n, b) * out_side(b, b->width) * (2 - n->eight) * up(b->wide, 64),
        };
        int64_t *largest[4] = {&narrow, &residual, &ring, &strip};
        for (int k = 0; k < 4; k++)
            if (found[k] > *largest[k]) *largest[k] = found[k];
        if (up(b->wide, 32) > wide) wide = up(b->wide, 32);
    }
    for (int k = 0; k < 2; k++) {
        m->narrow[k] = take(&at, narrow);
        m->residual[k] = take(&at, residual);
    }
    m->ring = take(&at, ring);
    m->strip = take(&at, strip);
    m->rows = take(&at, 2 * 3 * line_size(n));
    m->patches = take(&at, 2 * 9 * patch_columns(n));
    m->order = take(&at, 2 * 9 * 32);
    Stats *stats[2] = {&m->stem, &m->wide};
    for (int k = 0; k < 2; k++) {
        stats[k]->sum = take(&at, 8 * wide);
        stats[k]->square = take(&at, 8 * wide);
        stats[k]->maximum = take(&at, 4 * wide);
    }
    m->origin = take(&at, 2 * wide);
    return at;
}

int64_t mobilenet_workspace(const Network *n, int arithmetic) {
    Memory memory;
    return lay_out(n, path(arithmetic), NULL, &memory) - (char *)NULL;
}

int mobilenet_arithmetic(void) {
    unsigned eax, ebx, ecx, edx;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") ||
        !__builtin_cpu_supports("avx512bf16"))
        return NONE;
    __asm__("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "a"(7), "c"(0));
    int has = (edx >> 22 & 1) && (edx >> 23 & 1) && (edx >> 24 & 1) && (edx >> 25 & 1) &&  // bf16, fp16, tiles, int8
              (ecx >> 11 & 1);                                                             // VNNI
    // The kernel gives a process the tiles' registers (state component 18) when it asks.
    return has && syscall(SYS_arch_prctl, 0x1023, 18) == 0 ? AMX : AVX;
}

// An image row as the stem reads it, with what is around the image; from top to bottom, `fresh` where `to` holds none yet.
// Pixels are whole numbers up to 255, which bf16 holds; times 2^-16, so that amx's weights are not too small.
VECTOR static void stem_row(const Network *n, const uint8_t *image, int row, uint16_t *to, int fresh) {
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
VECTOR static void interleave(const uint16_t *const *rows, int columns, const uint16_t *order, uint16_t *to) {
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
VECTOR void stem_patches(const Network *n, const uint8_t *image, int y, const Memory *m) {
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

static void run_block(const Network *n, const Block *b, const Path *p, const uint8_t *image, Memory *m, int keep) {
    int rows = out_side(b, b->height), width = out_side(b, b->width), step = strip_rows(b), made = 0, projected = 0;
    m->together = rows_together(n, b);
    Ring ring = {m->ring, ring_rows(b), ring_width(b), row_bytes(p, b), NULL};
    int planes = (int)(ring.slots * ring.row / ring.width / PIXEL);
    ring.zeros = ring.rows + ring.slots * ring.row;
    memset(ring.zeros, 0, ring.width * PIXEL);
    for (int i = 0; i < planes && b->depthwise; i++) {  // zeros left and right of every row
        char *row = ring.rows + (int64_t)i * ring.width * PIXEL, *right = row + (b->left + b->width) * PIXEL;
        memset(row, 0, b->left * PIXEL);
        memset(right, 0, (ring.width - b->left - b->width) * PIXEL);
    }
    if (b->wide % 32 && p->plane == 16) memset(m->strip, 0, (int64_t)step * width * 2 * up(b->wide, 32));
    for (int first = 0; first < rows; first += step) {
        int last = first + step < rows ? first + step : rows;
        int need = b->depthwise ? (last - 1) * b->stride - b->top + b->kernel : last;
        need = need < b->height ? need : b->height;
        for (int y = made; y < need && !b->expand.weights; y++) p->stem(n, b, m, image, y, &ring);
        // What is made of 32 channels is read while it is in the nearest cache.
        for (int left = 0, done = 0, tile = tile_width(b); left < b->width; left += tile) {
            Area from = {made, need, left, left + tile}, to = {first, last, done, width};
            if (from.right < b->width) to.right = ((from.right + b->left - b->kernel) / b->stride + 1) / 8 * 8;
            for (int c = 0; c < b->wide; c += 32) {
                if (b->expand.weights) p->expand(n, b, m, c, from, &ring);
                if (b->depthwise) p->depthwise(n, b, m, c, to, &ring);
                else p->count(b, m, c, first, last, &ring);
            }
            done = to.right;
        }
        made = need;
        if (!b->depthwise || (last < rows && last - projected < m->together)) continue;
        p->project(n, b, m, projected * width, (last - projected) * width, keep);
        projected = last;
    }
}

double mobilenet_run(const Network *n, int arithmetic, const uint8_t *image, void *workspace, float *taps) {
    const Path *p = path(arithmetic);
    const float *first = taps;
    Memory m;
    lay_out(n, p, workspace, &m);
    stats_start(&m.stem, n->block->wide);
    unsigned before = arithmetic == AMX ? amx_begin() : 0;
    for (int i = 0; i < n->blocks; i++) {
        const Block *b = n->block + i;
        stats_start(&m.wide, b->wide);
        run_block(n, b, p, image, &m, i + 1 < n->blocks && n->block[i + 1].residual);
        if (i == 0) taps = stats_end(&m.stem, b->wide, (double)b->height * b->width, n->epsilon, taps);
        taps = stats_end(&m.wide, b->wide, (double)out_pixels(b), n->epsilon, taps);
        void *narrow = m.narrow[0], *residual = m.residual[0];
        m.narrow[0] = m.narrow[1], m.narrow[1] = narrow;
        m.residual[0] = m.residual[1], m.residual[1] = residual;
    }
    if (arithmetic == AMX) amx_end(before);
    double prediction = n->bias, sums[8] = {0};  // several, for an addition has to wait for the one before
    int64_t count = taps - first, i = 0;
    for (; i + 8 <= count; i += 8)
        for (int k = 0; k < 8; k++) sums[k] += (double)first[i + k] * n->head[i + k];
    for (; i < count; i++) prediction += (double)first[i] * n->head[i];
    for (int k = 0; k < 8; k++) prediction += sums[k];
    return prediction;
}
