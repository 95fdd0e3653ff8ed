// Products in int8 without tiles, for the first expansions and the stem, which have few inputs: a tile's depth would be
// mostly zeros.
//
// What decides is not the product alone. Tiles lower the core's clock, the more the denser they follow each other (measured
// on one CPU: 3.3 GHz without them, 3.0 to 2.4 with), and after .5 us without them the next one waits .3 us, after several
// us up to 2. Without tiles the first blocks, half of all vectors, run at the higher clock.
#ifndef METAQAP_VECTORS_H
#define METAQAP_VECTORS_H
#include "fp16.h"

// Whether a block's wide activation is made by vectors (vectors.h), not in tiles: from few inputs, many pixels.
static inline int by_vectors(const Network *n, const Block *b) {
    return n->eight && b->depthwise && b->expand.inputs <= 24 && out_side(b, b->width) >= 64;
}
// Rows of output that are projected at once: where tiles only project, seldom and many.
#define TOGETHER (1 << 20)  // bytes of rows that are projected at once, where that is not a strip: half of a core's own cache
static int rows_together(const Network *n, const Block *b) {
    int rows = strip_rows(b), most = TOGETHER / (out_side(b, b->width) * up(b->wide, 64));
    return by_vectors(n, b) && most > rows ? most / rows * rows : rows;
}

#define AT_ONCE 8  // pixels: with two accumulators each, enough to hide a product's latency

// Whole numbers from 0 to 65535 as fp16, times 2^-13: the exponent less 13, and 0 is 0.
FP16_INLINE __m512i scaled(__m512i x) { return _mm512_subs_epu16((__m512i)_mm512_cvtepu16_ph(x), _mm512_set1_epi16(13 << 10)); }

// 32 outputs of `pixels` pixels, a multiple of AT_ONCE, to the ring. Of each of `count` rows a pixel has 4 `quads` inputs from 0
// to 255, the next one is `step` bytes further on. `weights`: as for tiles, which hold four inputs of 16 outputs a row.
// `wide`: NULL but for the stem.
FP16_INLINE void widen(const uint8_t *const *rows, int count, int quads, int step, const char *weights, const Whole *w,
                       const int32_t *wide, uint16_t *to, int pixels) {
    for (int x = 0; x < pixels; x += AT_ONCE) {
        __m512i sum[AT_ONCE][2];
#pragma GCC unroll 8
        for (int t = 0; t < AT_ONCE; t++) sum[t][0] = w->bias[0], sum[t][1] = w->bias[1];
#pragma GCC unroll 9
        for (int k = 0; k < count * quads; k++) {
            const uint8_t *from = rows[k / quads] + (int64_t)x * step + k % quads * 4;
            __m512i first = _mm512_loadu_si512(weights + 64 * k), second = _mm512_loadu_si512(weights + 1024 + 64 * k);
#pragma GCC unroll 8
            for (int t = 0; t < AT_ONCE; t++) {
                int32_t four;
                memcpy(&four, from + t * step, 4);
                sum[t][0] = _mm512_dpbusd_epi32(sum[t][0], _mm512_set1_epi32(four), first);
                sum[t][1] = _mm512_dpbusd_epi32(sum[t][1], _mm512_set1_epi32(four), second);
            }
        }
#pragma GCC unroll 8
        for (int t = 0; t < AT_ONCE; t++) {
            __m512i value;
            if (wide) {
                for (int j = 0; j < 2; j++) sum[t][j] = _mm512_srav_epi32(sum[t][j], _mm512_loadu_si512(wide + 16 * j));
                value = _mm512_min_epu16(scaled(_mm512_packus_epi32(sum[t][0], sum[t][1])), w->cap);
            } else {
                value = whole_value(sum[t][0], sum[t][1], w);
            }
            _mm512_store_si512(to + 32 * (x + t), value);
        }
    }
}

// `widen` for rows of an expansion's input, of `row` bytes a pixel.
FP16_INLINE void widen_rows(const Block *b, const Memory *m, int row, int quads, int channel, Area area, const Ring *ring) {
    Whole w = whole(&b->steps, channel);
    const char *weights = (const char *)b->expand.weights + channel * 64;
    for (int y = area.first; y < area.last; y++) {
        const uint8_t *from = (const uint8_t *)m->narrow[0] + ((int64_t)y * b->width + area.left) * row;
        uint16_t *to = (uint16_t *)ring_row(ring, y, channel / 32) + (b->left + area.left) * 32;
        widen(&from, 1, quads, row, weights, &w, NULL, to, area.right - area.left);
    }
}

// Image rows as the stem reads them: pixels as they are, with what is around the image. Row r stands at r % LINES; those for
// the next row of outputs are copied with this one's, for what was just stored cannot be loaded in pieces of another size.
#define LINES 5
static uint8_t *line(const Network *n, const Memory *m, int row) {
    return (uint8_t *)m->rows + (row + LINES) % LINES * line_size(n);
}
static void copy_lines(const Network *n, const Memory *m, const uint8_t *image, int y) {
    int from = 2 * y - n->top;
    for (int row = y == 0 ? from : from + 3; row < from + LINES; row++) {
        int inside = row >= 0 && row < n->size;
        uint8_t *to = line(n, m, row);
        for (int k = 0; k < line_size(n) && (y == 0 || !inside); k++) to[k] = (uint8_t)n->outside[k % 3];
        if (inside) memcpy(to + 3 * n->left, image + (int64_t)row * n->size * 3, 3 * n->size);
    }
}
// 32 outputs of the stem's row y.
FP16_INLINE void widen_lines(const Network *n, const Memory *m, int y, int output, uint16_t *to, int pixels) {
    const uint8_t *rows[3];
    for (int i = 0; i < 3; i++) rows[i] = line(n, m, 2 * y - n->top + i);
    const Steps *s = &n->steps;
    Whole w = {{_mm512_loadu_si512(s->bias + output), _mm512_loadu_si512(s->bias + output + 16)},
               _mm512_setzero_si512(),
               _mm512_loadu_si512(s->cap + output)};
    const char *weights = (const char *)n->stem.weights + output * 64;
    widen(rows, 3, 3, 6, weights, &w, s->wide_shift + output, to, pixels);
}
#endif
