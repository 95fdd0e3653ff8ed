// The parts of a block in int8 (int8.h), for any vector of whole numbers. Whoever includes this has defined what product.h
// asks for, with Vector a vector of LANES 32-bit numbers, and the functions that stand in avx2_int8.h.
//
// Narrow activations and the strip have a byte a channel, the ring 16 bits, all in planes of 32 channels, see README.md.
#include "int8.h"

#define CHANNELS (2 * LANES)  // at once: two vectors of sums, one of 16-bit numbers
#define ROW 32                // bytes of a pixel in a plane

static int64_t narrow_bytes(const Network *n, int channels) { return (void)n, up(channels, 32); }

STEM_ROWS(stem_rows, uint8_t, n->outside)

// ---- statistics -----------------------------------------------------------------------------------------------------

// Sums of numbers up to 2^12 and of their squares: of 255 pixels 32 bits hold them. [2]: see low_pairs.
typedef struct {
    Vector sum[2], square[2];
    Shorts maximum;
    int pixels;
} Partial;  // of CHANNELS channels

INLINE void partial_start(Partial *p) {
    for (int h = 0; h < 2; h++) p->sum[h] = p->square[h] = no_vector();
    p->maximum = no_vector();
    p->pixels = 0;
}
INLINE void partial_end(Partial *p, const Stats *s, int channel) {
    uint32_t sum[LANES], square[LANES];
    int16_t maximum[CHANNELS];
    for (int h = 0; h < 2; h++) {
        store_vector(sum, p->sum[h]), store_vector(square, p->square[h]);
        for (int e = 0; e < LANES; e += 4)
            for (int k = 0, c = channel + 2 * e + 4 * h; k < 4; k++, c++) s->sum[c] += sum[e + k], s->square[c] += square[e + k];
    }
    store_vector(maximum, p->maximum);
    for (int l = 0; l < CHANNELS; l++)
        if (maximum[l] > s->maximum[channel + l]) s->maximum[channel + l] = maximum[l];
    partial_start(p);
}
INLINE void partial_add_pair(Partial *p, Shorts a, Shorts b) {
    Shorts low = low_pairs(a, b), high = high_pairs(a, b);
    p->square[0] = add_pairs(p->square[0], low, low);
    p->square[1] = add_pairs(p->square[1], high, high);
}
INLINE void partial_add_sum(Partial *p, Shorts sum, Shorts top) {
    p->sum[0] = add(p->sum[0], low_pairs(sum, no_vector()));
    p->sum[1] = add(p->sum[1], high_pairs(sum, no_vector()));
    p->maximum = most(p->maximum, top);
}
// Counted so far goes to the statistics before it is too much.
INLINE void partial_room(Partial *p, int pixels, const Stats *s, int channel) {
    if (p->pixels + pixels > 255) partial_end(p, s, channel);
    p->pixels += pixels;
}
INLINE void partial_add(Partial *p, const Shorts *x, const Stats *s, int channel) {  // eight pixels
    partial_room(p, 8, s, channel);
    Shorts sum[4], top[4];
#pragma GCC unroll 4
    for (int t = 0; t < 4; t++) {
        partial_add_pair(p, x[2 * t], x[2 * t + 1]);
        sum[t] = add_shorts(x[2 * t], x[2 * t + 1]), top[t] = most(x[2 * t], x[2 * t + 1]);
    }
    partial_add_sum(p, add_shorts(add_shorts(sum[0], sum[1]), add_shorts(sum[2], sum[3])),
                    most(most(top[0], top[1]), most(top[2], top[3])));
}
INLINE void partial_add_one(Partial *p, Shorts x, const Stats *s, int channel) {
    partial_room(p, 1, s, channel);
    partial_add_pair(p, x, no_vector());
    partial_add_sum(p, x, x);
}

INLINE int16_t *shorts_row(const Ring *ring, int y, int channel) {
    return (int16_t *)ring_row(ring, y, channel / 32) + channel % 32;
}
// Statistics of a row of the ring.
INLINE void count_row(const Block *b, const Ring *ring, int y, Partial *partial, const Stats *stats, int channel) {
    const int16_t *pixels = shorts_row(ring, y, channel) + 32 * b->left;
    int x = 0;
    for (; x + 8 <= b->width; x += 8) {
        Shorts values[8];
#pragma GCC unroll 8
        for (int t = 0; t < 8; t++) values[t] = scaled(load_vector(pixels + 32 * (x + t)), every_short(COUNTED));
        partial_add(partial, values, stats, channel);
    }
    for (; x < b->width; x++) {
        Shorts value = scaled(load_vector(pixels + 32 * x), every_short(COUNTED));
        partial_add_one(partial, value, stats, channel);
    }
}
INLINE void count_rows(const Block *b, const Ring *ring, int first, int last, const Stats *stats, int channel) {
    Partial partial;
    partial_start(&partial);
    for (int y = first; y < last; y++) count_row(b, ring, y, &partial, stats, channel);
    partial_end(&partial, stats, channel);
}
TARGET static void count(const Block *b, const Memory *m, int channel, int first, int last, const Ring *ring) {
    count_rows(b, ring, first, last, &m->wide, channel);
}

// ---- expansion ------------------------------------------------------------------------------------------------------

// P pixels of CHANNELS outputs, to where the first of them stands in the ring. `wide`: what the stem's sums are shifted by.
INLINE void to_ring(const Operands *o, int row, int64_t pixel, const Steps *s, const int32_t *wide, int channel, int P,
                    int16_t *to) {
    Vector sum[MOST_PIXELS][2];
#pragma GCC unroll 16
    for (int t = 0; t < P; t++)
        for (int v = 0; v < 2; v++) sum[t][v] = load_vector(s->bias + channel + v * LANES);
    product(o, row, pixel, channel, P, 2, sum);
    Shorts cap = load_vector(s->cap + channel), factor = load_vector(s->shift + channel);
#pragma GCC unroll 16
    for (int t = 0; t < P; t++) {
        if (wide)
            for (int v = 0; v < 2; v++) sum[t][v] = shifted(sum[t][v], load_vector(wide + channel + v * LANES));
        store_vector(to + 32 * t, times(cut(sum[t][0], sum[t][1], cap), factor));
    }
}

TARGET static void expand(const Network *n, const Block *b, const Memory *m, int channel, Area area, const Ring *ring) {
    (void)n;
    Operands o = operands(&b->expand, m->narrow[0], (int64_t)b->height * b->width, 1);
    for (int y = area.first; y < area.last; y++) {
        int16_t *to = shorts_row(ring, y, channel) + 32 * (b->left + area.left);
        int64_t pixel = (int64_t)y * b->width + area.left;
#define TILE(x, P) to_ring(&o, ROW, pixel + x, &b->steps, NULL, channel, P, to + 32 * x)
        IN_TILES(area.right - area.left, TILE)
#undef TILE
    }
}

TARGET static void stem(const Network *n, const Block *b, const Memory *m, const uint8_t *image, int y, const Ring *ring) {
    stem_rows(n, image, y, (uint8_t *)m->rows);
    Operands o = stem_operands(n, m->rows, 1);
    for (int c = 0; c < b->wide; c += CHANNELS) {
        int16_t *to = shorts_row(ring, y, c) + 32 * b->left;
#define TILE(x, P) to_ring(&o, 6, x, &n->steps, n->steps.wide_shift, c, P, to + 32 * x)
        IN_TILES(b->width, TILE)
#undef TILE
        count_rows(b, ring, y, y + 1, &m->stem, c);
    }
}

// ---- depthwise ------------------------------------------------------------------------------------------------------

// `pixels` pixels next to each other. Every input is loaded once, for all that it is multiplied by.
INLINE void convolve(const void *const *rows, int offset, const int16_t *weights, int kernel, int stride, int x, int pixels,
                     Shorts bias, Shorts *sum) {
#pragma GCC unroll 8
    for (int t = 0; t < pixels; t++) sum[t] = bias;
#pragma GCC unroll 5
    for (int i = 0; i < kernel; i++) {
        const int16_t *from = (const int16_t *)rows[i] + 32 * (x * stride) + offset;
        Shorts w[MAX_KERNEL];
#pragma GCC unroll 5
        for (int j = 0; j < kernel; j++) w[j] = load_vector(weights + 32 * (i * kernel + j));
#pragma GCC unroll 19
        for (int c = 0; c < (pixels - 1) * stride + kernel; c++) {
            Shorts value = load_vector(from + 32 * c);
#pragma GCC unroll 5
            for (int j = 0; j < kernel; j++)
                if (c >= j && (c - j) % stride == 0 && (c - j) / stride < pixels) {
                    Shorts *to = sum + (c - j) / stride;
                    *to = add_saturated(*to, scaled(value, w[j]));
                }
        }
    }
}

INLINE void strip(const Block *b, int kernel, int stride, const Memory *m, int channel, Area area, const Ring *ring) {
    int width = out_side(b, b->width), pixels = (area.last - area.first) * width, offset = channel % 32;
    const int16_t *weights = (const int16_t *)b->depthwise + (int64_t)(channel / 32) * (kernel * kernel + OWN) * 32 + offset;
    const int16_t *own = weights + 32 * kernel * kernel;
    Shorts bias = load_vector(own + 32 * BIAS), cap = load_vector(own + 32 * MOST), scale = load_vector(own + 32 * SCALE);
    Partial partial;
    partial_start(&partial);
    for (int y = area.first; y < area.last; y++) {
        const void *rows[MAX_KERNEL];
        around(b, kernel, stride, y, ring, channel / 32, rows);
        uint8_t *to = (uint8_t *)m->strip + (channel / 32 * apart(pixels) + (y - area.first) * width) * 32 + offset;
        int x = area.left;
        for (; x + 8 <= area.right; x += 8) {
            Shorts sum[8];
            convolve(rows, offset, weights, kernel, stride, x, 8, bias, sum);
#pragma GCC unroll 8
            for (int t = 0; t < 8; t++) {
                sum[t] = least(most(sum[t], no_vector()), cap);
                store_shorts(to + 32 * (x + t), scaled(sum[t], scale));
            }
            partial_add(&partial, sum, &m->wide, channel);
        }
        for (; x < area.right; x++) {
            Shorts sum[1];
            convolve(rows, offset, weights, kernel, stride, x, 1, bias, sum);
            sum[0] = least(most(sum[0], no_vector()), cap);
            store_shorts(to + 32 * x, scaled(sum[0], scale));
            partial_add_one(&partial, sum[0], &m->wide, channel);
        }
    }
    partial_end(&partial, &m->wide, channel);
}

TARGET static void depthwise(const Network *n, const Block *b, const Memory *m, int channel, Area area, const Ring *ring) {
    (void)n;
    if (b->kernel == 3 && b->stride == 1) strip(b, 3, 1, m, channel, area, ring);
    else if (b->kernel == 3) strip(b, 3, 2, m, channel, area, ring);
    else if (b->stride == 1) strip(b, 5, 1, m, channel, area, ring);
    else strip(b, 5, 2, m, channel, area, ring);
}

// ---- projection -----------------------------------------------------------------------------------------------------

typedef struct {
    const int16_t *added;  // what is added to the outputs, or NULL
    int16_t *kept;         // what a later block adds, or NULL
    uint8_t *to;
    int64_t plane;         // numbers from 32 outputs to the next
} Outputs;

// P pixels by V vectors of outputs. Where that is one, nothing reads what the other would be.
INLINE void to_narrow(const Operands *o, const Narrowing *s, int pixel, int output, int P, int V, const Outputs *out) {
    Vector sum[MOST_PIXELS][2], shift[2];
    for (int v = 0; v < 2; v++) {
        shift[v] = load_vector(s->shift + output + v * LANES);
#pragma GCC unroll 16
        for (int t = 0; t < P; t++) sum[t][v] = load_vector(s->start + output + v * LANES);
    }
    product(o, ROW, pixel, output, P, V, sum);
    int64_t at = output / 32 * out->plane + pixel * 32 + output % 32;
    Shorts factor = load_vector(s->times + output), ratio = every_short(s->added), half = every_short(s->half);
    Shorts rounding = every_short(1 << s->kept >> 1), below = every_short(-s->half), above = every_short(s->half - 1);
#pragma GCC unroll 16
    for (int t = 0; t < P; t++) {
        Shorts value = scaled(packed(shifted(sum[t][0], shift[0]), shifted(sum[t][1], shift[1])), factor);
        if (out->added) {
            Shorts more = scaled(load_vector(out->added + at + 32 * t), ratio);
            value = add_saturated(add_saturated(value, more), more);
        }
        if (out->kept) store_vector(out->kept + at + 32 * t, value);
        value = without_bits(add_saturated(value, rounding), s->kept);
        store_shorts(out->to + at + 32 * t, add_shorts(least(most(value, below), above), half));
    }
}

TARGET static void project(const Network *n, const Block *b, const Memory *m, int first, int pixels, int keep) {
    (void)n;
    Operands o = operands(&b->project, m->strip, pixels, 1);
    int64_t at = (int64_t)first * 32;
    Outputs out = {b->residual ? (const int16_t *)m->residual[0] + at : NULL, keep ? (int16_t *)m->residual[1] + at : NULL,
                   (uint8_t *)m->narrow[1] + at, apart(out_pixels(b)) * 32};
    for (int k = 0; k < b->project.outputs; k += CHANNELS) {
#define TILE(x, P) to_narrow(&o, &b->narrowing, x, k, P, 2, &out)
#define TILE_OF_ONE(x, P) to_narrow(&o, &b->narrowing, x, k, P, 1, &out)
        if (k + LANES < b->project.outputs) IN_TILES(pixels, TILE)
        else IN_TILES(pixels, TILE_OF_ONE)
#undef TILE
#undef TILE_OF_ONE
    }
}

TARGET static double peak(int64_t rounds, int eight) { return (void)eight, 8.0 * LANES * products_of_registers(rounds); }

#define INT8_PATH                  \
    {.plane = 32,                  \
     .channels = CHANNELS,         \
     .whole = 1,                   \
     .narrow_bytes = narrow_bytes, \
     .strip_bytes = narrow_bytes,  \
     .stem = stem,                 \
     .expand = expand,             \
     .count = count,               \
     .depthwise = depthwise,       \
     .project = project,           \
     .peak = peak}
