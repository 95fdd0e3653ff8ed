// Products of pixels and weights, 4 bytes of a pixel at a time: a float, two 16-bit or four 8-bit whole numbers, a `quad`.
// No instruction set is named here: whoever includes this to multiply by vectors defines TARGET, INLINE, LANES, MOST_PIXELS,
// Vector, load_vector and dot first (portable.c only takes Operands and the stem's rows).
#ifndef METAQAP_PRODUCT_H
#define METAQAP_PRODUCT_H
#include "paths.h"

// Pixels stand in planes of as many channels as make 64 bytes in fp32, 16, and of 32 in int8: [planes][pixels][row bytes].
// Weights: [N/16][steps][quads][16 outputs][4 bytes], a step is a plane.
typedef struct {
    const char *a, *weights;
    int64_t plane, block;        // bytes from a plane to the next, from 16 outputs' weights to the next
    int row;                     // bytes from a pixel to the next
    int steps, quads, last;      // of a step, and of the last step
} Operands;

// Pixels from a plane to the next, of which there are `pixels`: if that were a power of two, all planes of a pixel would
// want the same places of the nearest cache.
static inline int64_t apart(int64_t pixels) { return pixels + APART; }

// `size`: bytes of a channel of a pixel, 4, 2 or 1.
static inline Operands operands(const Product *p, const void *a, int64_t pixels, int size) {
    int depth = size == 4 ? 16 : 32, row = depth * size, steps = up(p->inputs, depth) / depth;
    int last = up((p->inputs - (steps - 1) * depth) * size, 4) / 4;
    return (Operands){a, p->weights, apart(pixels) * row, (int64_t)steps * row * 16, row, steps, row / 4, last};
}

// The stem reads three rows of the image, [3][line_size], of which a pixel has 9 values and the next begins 6 further on.
static inline Operands stem_operands(const Network *n, const void *rows, int size) {
    int quads = up(9 * size, 4) / 4;
    return (Operands){rows, n->stem.weights, (int64_t)line_size(n) * size, 3 * quads * 64, 6 * size, 3, quads, quads};
}
// Those of row y of its outputs, with what is around the image.
#define STEM_ROWS(name, type, outside)                                                \
    static void name(const Network *n, const uint8_t *image, int y, type *to) {       \
        int line = line_size(n), values = 3 * n->size;                                \
        for (int i = 0; i < 3; i++, to += line) {                                     \
            int row = 2 * y - n->top + i, inside = row >= 0 && row < n->size;         \
            const uint8_t *from = image + (int64_t)row * values * inside;             \
            int first = inside ? 3 * n->left : line;                                  \
            for (int k = 0; k < first; k++) to[k] = (type)outside[k % 3];             \
            if (!inside) continue;                                                    \
            for (int k = 0; k < values; k++) to[first + k] = from[k];                 \
            for (int k = first + values; k < line; k++) to[k] = (type)outside[k % 3]; \
        }                                                                             \
    }

#ifdef LANES
// P pixels from `pixel` on by V vectors of outputs from `output` on, added to `sum`. P, V and `row`, which is the operands',
// are constants where it is inlined.
INLINE void product(const Operands *o, int row, int64_t pixel, int output, int P, int V, Vector sum[][2]) {
    const char *a = o->a + pixel * row, *w[2];
    for (int v = 0; v < V; v++) {
        int first = output + v * LANES;
        w[v] = o->weights + first / 16 * o->block + first % 16 * 4;
    }
    for (int s = 0; s < o->steps; s++, a += o->plane) {
        int quads = s + 1 < o->steps ? o->quads : o->last;
        for (int q = 0; q < quads; q++) {
            Vector weights[2];
            for (int v = 0; v < V; v++) weights[v] = load_vector(w[v] + 64 * q);
#pragma GCC unroll 16
            for (int t = 0; t < P; t++) {
                Vector x = every(a + row * t + 4 * q);
#pragma GCC unroll 2
                for (int v = 0; v < V; v++) sum[t][v] = dot(sum[t][v], x, weights[v]);
            }
        }
        for (int v = 0; v < V; v++) w[v] += 64 * o->quads;
    }
}

// As many products as `product` has at work, `rounds` times, from registers alone; how many. To a compiler, x is another one
// each time, and what comes of it is used.
TARGET static int64_t products_of_registers(int64_t rounds) {
    static const char zeros[64];
    Vector sum[MOST_PIXELS][2], x = load_vector(zeros), weights[2] = {load_vector(zeros), load_vector(zeros)};
    for (int t = 0; t < MOST_PIXELS; t++) sum[t][0] = sum[t][1] = load_vector(zeros);
    __asm__ volatile("" : "+v"(weights[0]), "+v"(weights[1]));
    for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 16
        for (int t = 0; t < MOST_PIXELS; t++) {
            __asm__ volatile("" : "+v"(x));
            sum[t][0] = dot(sum[t][0], x, weights[0]);
            sum[t][1] = dot(sum[t][1], x, weights[1]);
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < MOST_PIXELS; t++) __asm__ volatile("" : : "v"(sum[t][0]), "v"(sum[t][1]));
    return rounds * MOST_PIXELS * 2;
}

// `count` pixels in shares as equal as can be, of MOST_PIXELS at most: CALL(first, P), where P is a constant.
#define IN_TILES(count, CALL)                                                                     \
    for (int first_ = 0, left_ = ((count) + MOST_PIXELS - 1) / MOST_PIXELS; left_ > 0; left_--) { \
        int share_ = ((count) - first_ + left_ - 1) / left_;                                      \
        switch (share_) { EVERY_SHARE(CALL, first_) default : break; }                            \
        first_ += share_;                                                                         \
    }
#define SHARE_(CALL, first, P) \
    case P: CALL(first, P); break;
#define TO_5(CALL, first) \
    SHARE_(CALL, first, 1) SHARE_(CALL, first, 2) SHARE_(CALL, first, 3) SHARE_(CALL, first, 4) SHARE_(CALL, first, 5)
#define TO_6(CALL, first) TO_5(CALL, first) SHARE_(CALL, first, 6)
#define TO_12(CALL, first) \
    TO_6(CALL, first)      \
    SHARE_(CALL, first, 7) \
    SHARE_(CALL, first, 8) SHARE_(CALL, first, 9) SHARE_(CALL, first, 10) SHARE_(CALL, first, 11) SHARE_(CALL, first, 12)
#endif
#endif
