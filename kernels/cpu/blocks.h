// What every path shares: sizes, the ring, statistics, and the way through the network. No instruction set is named here.
#ifndef METAQAP_BLOCKS_H
#define METAQAP_BLOCKS_H
#include <stdint.h>
#include <string.h>

#include "mobilenet.h"

#define CAP 6.0f        // of ReLU6, which every activation here is
// Output pixels that a block makes at once: at least a row, and no more than this if it is shorter. As many as take .5 us,
// after which tiles would have to wake up (vectors.h).
#define STRIP(kernel) ((kernel) == 5 ? 64 : 128)
#define NEAREST 49152   // bytes of a core's nearest cache
#define APART 2         // pixels that planes may be longer, see product.h
#define MAX_KERNEL 5
#define INSIDE 4        // a column that is no neighbour of what is around the image

static inline int up(int value, int step) { return (value + step - 1) / step * step; }
static inline int64_t lines(int64_t bytes) { return (bytes + 127) / 64 * 64; }  // of cache, and one more
static inline int out_side(const Block *b, int side) { return b->depthwise ? (side + b->stride - 1) / b->stride : side; }
static inline int64_t out_pixels(const Block *b) { return (int64_t)out_side(b, b->height) * out_side(b, b->width); }
// Columns that the stem reads: the image's, what is around it, and what is read with the last ones; values of a row of them.
static inline int patch_columns(const Network *n) { return up(n->size + 4, 32); }
static inline int line_size(const Network *n) { return 3 * patch_columns(n) + 32; }

// ---- the ring: the rows of a block's wide activation that are needed now --------------------------------------------

#define PIXEL 64  // bytes of a pixel in a plane: of 16 channels in fp32, of 32 in fp16

static inline int rows_read(const Block *b, int rows) { return b->depthwise ? (rows - 1) * b->stride + b->kernel : rows; }

// Rows of output that are made at once.
static inline int strip_rows(const Block *b) {
    int width = out_side(b, b->width), most = STRIP(b->kernel), rows = width >= most ? 1 : most / width;
    while (rows * width % 32 == 0 && rows > 1 && rows_read(b, rows) * b->width * PIXEL > NEAREST * 2 / 3) rows /= 2;
    return rows;
}
// Columns of input of which the wide activation is made at once: all, unless an expansion has a depthwise convolution to feed.
static inline int tile_width(const Block *b) {
    int width = b->width, rows = rows_read(b, strip_rows(b));
    if (!b->expand.weights || !b->depthwise) return width;
    while (width % 64 == 0 && rows * width * PIXEL >= NEAREST) width /= 2;
    return width;
}

typedef struct {
    char *rows;        // [slots][planes of channels][width][PIXEL], row y of the image in slot y % slots
    int slots, width;  // width with its padding
    int64_t row;       // bytes of a row
    char *zeros;       // a row of one plane
} Ring;

static inline void *ring_row(const Ring *r, int y, int plane) {
    return r->rows + (y < r->slots ? y : y % r->slots) * r->row + (int64_t)plane * r->width * PIXEL;
}
// The rows of the ring that row y of the outputs reads, of one plane.
static inline void around(const Block *b, int kernel, int stride, int y, const Ring *r, int plane, const void **rows) {
    int row = y * stride - b->top, slot = (row + r->slots) % r->slots;
    for (int i = 0; i < kernel; i++, row++, slot = slot + 1 == r->slots ? 0 : slot + 1)
        rows[i] = row < 0 || row >= b->height ? r->zeros : ring_row(r, slot, plane);
}
static inline int ring_rows(const Block *b) { return rows_read(b, strip_rows(b)); }
static inline int ring_width(const Block *b) {
    if (!b->depthwise) return b->width;
    int reach = (out_side(b, b->width) - 1) * b->stride + b->kernel;  // columns that are read, from -left on
    return reach > b->left + b->width ? reach : b->left + b->width;
}

// ---- statistics -------------------------------------------------------------------------------------------------

typedef struct {
    double *sum, *square;  // [C]
    float *maximum;
} Stats;

// ---- the way through the network, the same for all -----------------------------------------------------------------

typedef struct {
    void *narrow[2], *residual[2];  // of a block's input and output
    void *ring, *strip;
    int together;  // rows of the strip, see rows_together; of the block that runs
    // What the stem reads. `rows`: three rows of the image, [3][line_size]; AVX512_BF16 and AMX have more, see stem_bf16.c
    // and copy_lines.
    uint16_t *rows, *order, *patches;
    Stats stem, wide;
    uint16_t *origin;  // amx: what statistics are differences from, of every wide channel, fp16
} Memory;

typedef struct {
    int first, last, left, right;  // rows first to last - 1, columns left to right - 1, of an input or an output
} Area;

typedef struct {
    int plane;                                               // the ring's channels of a plane
    int channels;                                            // that are expanded and then convolved at once, 16 or 32
    int whole;                                               // statistics are of whole numbers, see Steps.times
    int64_t (*narrow_bytes)(const Network *, int channels);  // of one pixel between blocks
    int64_t (*strip_bytes)(const Network *, int channels);   // of one pixel of what is projected
    int (*rows_together)(const Network *, const Block *);    // rows that are projected at once; NULL: a strip
    unsigned (*begin)(void);                                 // of a network; NULL: nothing is to be done
    void (*end)(unsigned);                                   // gets what `begin` gave
    void (*stem)(const Network *, const Block *, const Memory *, const uint8_t *image, int y, const Ring *);
    // `channels` from `channel` on; areas are of expand's input and of depthwise's output:
    void (*expand)(const Network *, const Block *, const Memory *, int channel, Area, const Ring *);
    void (*count)(const Block *, const Memory *, int channel, int first, int last, const Ring *);
    void (*depthwise)(const Network *, const Block *, const Memory *, int channel, Area, const Ring *);
    void (*project)(const Network *, const Block *, const Memory *, int first, int pixels, int keep);
    double (*peak)(int64_t rounds, int eight);  // see mobilenet_peak; NULL: there is none
} Path;
#endif
