// Products in AMX tiles.
#ifndef METAQAP_TILES_H
#define METAQAP_TILES_H
#include "avx512_bf16.h"

#define AMX_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512fp16,avx512vnni,fma,amx-tile,amx-bf16,amx-int8"
#define FP16 __attribute__((target(AMX_TARGET)))
#define FP16_INLINE FP16 static inline __attribute__((always_inline))

enum { BF16, EIGHT };  // the pixels: bf16; whole numbers from 0 to 255, by weights in int8

typedef struct {
    const uint8_t *a;  // [steps][plane pixels][row bytes]
    int64_t plane;     // bytes from one step's pixels to the next's
    const uint8_t *b;  // see Product
    int steps, row;    // bytes from one pixel in a plane to the next
} Operands;

static Operands operands(const Product *p, int eight, const void *a, int64_t pixels, int d) {
    int row = (2 - eight) * d;
    return (Operands){a, pixels * row, p->weights, up(p->inputs, d) / d, row};
}

#define MULTIPLY(sum, pixels, weights)                          \
    do {                                                        \
        if (kind == BF16) _tile_dpbf16ps(sum, pixels, weights); \
        else _tile_dpbusd(sum, pixels, weights);                \
    } while (0)

// Pixels from `pixel` on, 32 or 16 of them, by outputs of block `n` of 16 and the next, into tiles 0 to 3, each of which is
// stored to `before` first, where that is not NULL: products and stores go side by side. Tiles 4 and 5 hold pixels, 6 and 7
// weights, which are there already unless `load`. Where pixels have fewer bytes than a tile's row, the next ones are read
// too, and multiplied by zeros.
FP16_INLINE void product(const Operands *o, int kind, int pixel, int n, int two, int load, char *before) {
    int64_t next = (int64_t)o->steps * 1024, row = o->row;
    const uint8_t *a = o->a + pixel * row, *b = o->b + n * next;
    __asm__ volatile("" : : : "memory");  // GCC does not know that tiles are read from memory
    if (before) _tile_stored(0, before, 64);
    _tile_loadd(4, a, row);
    if (load) _tile_loadd(6, b, 64);
    _tile_zero(0);
    MULTIPLY(0, 4, 6);
    if (before) _tile_stored(1, before + 1024, 64);
    if (load) _tile_loadd(7, b + next, 64);
    _tile_zero(1);
    MULTIPLY(1, 4, 7);
    if (before) _tile_stored(2, before + 2048, 64);
    if (two) {
        _tile_loadd(5, a + 16 * row, row);
        _tile_zero(2);
        MULTIPLY(2, 5, 6);
    }
    if (before) _tile_stored(3, before + 3072, 64);
    if (two) {
        _tile_zero(3);
        MULTIPLY(3, 5, 7);
    }
    for (int k = 1; k < o->steps; k++) {
        a += o->plane, b += 1024;
        _tile_loadd(4, a, row);
        _tile_loadd(6, b, 64);
        MULTIPLY(0, 4, 6);
        _tile_loadd(7, b + next, 64);
        MULTIPLY(1, 4, 7);
        if (!two) continue;
        _tile_loadd(5, a + 16 * row, row);
        MULTIPLY(2, 5, 6);
        MULTIPLY(3, 5, 7);
    }
    __asm__ volatile("" : : : "memory");
}
FP16_INLINE void store(char *sums) {
    __asm__ volatile("" : : : "memory");
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 1024, 64);
    _tile_stored(2, sums + 2048, 64);
    _tile_stored(3, sums + 3072, 64);
    __asm__ volatile("" : : : "memory");
}

// A row of products: outputs by outputs of 32, of each 32 pixels by 32 pixels of `pixels`, a multiple of 16. After every
// `run` of them, a multiple of 32 where that is not all, `skip` are left out.
typedef struct {
    Operands o;
    int start, pixels, outputs, run, skip;
} Products;

FP16_INLINE void begin(const Products *p, int kind) {
    if (p->pixels > 16) product(&p->o, kind, p->start, 0, 1, 1, NULL);
    else product(&p->o, kind, p->start, 0, 0, 1, NULL);
}
// Sums [2 pixels][2 outputs][256] of the product of pixel x and `output`; the one after it is begun.
FP16_INLINE void advance(const Products *p, int kind, int x, int output, char *sums) {
    x += 32;
    if (x >= p->pixels) x = 0, output += 32;
    int load = x == 0 || p->o.steps > 1, pixel = p->start + x + (p->skip ? x / p->run * p->skip : 0);
    if (output >= p->outputs) store(sums);
    else if (x + 16 < p->pixels) product(&p->o, kind, pixel, output / 16, 1, load, sums);
    else product(&p->o, kind, pixel, output / 16, 0, load, sums);
}

// `blocks` of 16 pixels from `pixel` on, up to 4 of them, by 16 outputs, otherwise as `product`. Weights: tile 6.
FP16_INLINE void product_of_one(const Operands *o, int kind, int pixel, int blocks, char *before) {
#define PART(t, pixels)                                               \
    do {                                                              \
        if (k == 0 && before) _tile_stored(t, before + 1024 * t, 64); \
        if (t >= blocks) break;                                       \
        if (k == 0) _tile_zero(t);                                    \
        _tile_loadd(pixels, a + 16 * t * row, row);                   \
        MULTIPLY(t, pixels, 6);                                       \
    } while (0)
    int64_t row = o->row;
    const uint8_t *a = o->a + pixel * row, *b = o->b;
    __asm__ volatile("" : : : "memory");
    for (int k = 0; k < o->steps; k++, a += o->plane, b += 1024) {
        if (!before || o->steps > 1) _tile_loadd(6, b, 64);
        PART(0, 4);
        PART(1, 5);
        PART(2, 4);
        PART(3, 5);
    }
    __asm__ volatile("" : : : "memory");
}
#endif
