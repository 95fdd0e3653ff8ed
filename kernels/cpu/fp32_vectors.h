// The parts of a block in fp32, for any vector of floats. Whoever includes this has defined what product.h asks for, with
// Vector a vector of LANES floats, and: to_vector(float), store_vector, add, multiply_add(a, b, c) = a b + c, least, most.
//
// Narrow activations, the strip and the ring are fp32 in planes of 16 channels, see README.md.
#include "product.h"

#define CHANNELS (2 * LANES)  // at once
#define ROW 64                // bytes of a pixel in a plane

static int64_t narrow_bytes(const Network *n, int channels) { return (void)n, 4 * up(channels, 16); }

STEM_ROWS(stem_rows, float, n->around)

INLINE Vector relu6(Vector x) { return least(most(x, to_vector(0)), to_vector(CAP)); }

// ---- statistics -----------------------------------------------------------------------------------------------------

typedef struct {
    Vector sum, square, maximum;
} Partial;  // of LANES channels of a row

INLINE void partial_start(Partial *p) { p->sum = p->square = p->maximum = to_vector(0); }  // activations are >= 0
INLINE void partial_end(const Partial *p, const Stats *s, int channel) {
    float sum[LANES], square[LANES], maximum[LANES];
    store_vector(sum, p->sum), store_vector(square, p->square), store_vector(maximum, p->maximum);
    for (int l = 0; l < LANES; l++) s->sum[channel + l] += sum[l];
    for (int l = 0; l < LANES; l++) s->square[channel + l] += square[l];
    for (int l = 0; l < LANES; l++)
        s->maximum[channel + l] = s->maximum[channel + l] > maximum[l] ? s->maximum[channel + l] : maximum[l];
}
// Eight pixels at once: as trees, for one after another each would wait for the one before.
INLINE void partial_add(Partial *p, const Vector *x) {
    Vector even = multiply_add(x[0], x[0], to_vector(0)), odd = multiply_add(x[1], x[1], to_vector(0)), sum[4], top[4];
#pragma GCC unroll 3
    for (int t = 2; t < 8; t += 2) even = multiply_add(x[t], x[t], even), odd = multiply_add(x[t + 1], x[t + 1], odd);
#pragma GCC unroll 4
    for (int t = 0; t < 4; t++) sum[t] = add(x[t], x[t + 4]), top[t] = most(x[t], x[t + 4]);
    p->sum = add(p->sum, add(add(sum[0], sum[1]), add(sum[2], sum[3])));
    p->square = add(p->square, add(even, odd));
    p->maximum = most(p->maximum, most(most(top[0], top[1]), most(top[2], top[3])));
}
INLINE void partial_add_one(Partial *p, Vector x) {
    p->sum = add(p->sum, x), p->square = multiply_add(x, x, p->square), p->maximum = most(p->maximum, x);
}

// Statistics of a row of the ring, of channels from `channel` on.
INLINE void count_row(const Block *b, const Ring *ring, int y, const Stats *stats, int channel) {
    int width = b->width;
    for (int c = channel; c < channel + CHANNELS && c < b->wide; c += LANES) {
        const float *pixels = (const float *)ring_row(ring, y, c / 16) + b->left * 16 + c % 16;
        Partial partial;
        partial_start(&partial);
        int x = 0;
        for (; x + 8 <= width; x += 8) {
            Vector values[8];
#pragma GCC unroll 8
            for (int t = 0; t < 8; t++) values[t] = load_vector(pixels + 16 * (x + t));
            partial_add(&partial, values);
        }
        for (; x < width; x++) partial_add_one(&partial, load_vector(pixels + 16 * x));
        partial_end(&partial, stats, c);
    }
}
TARGET static void count(const Block *b, const Memory *m, int channel, int first, int last, const Ring *ring) {
    for (int y = first; y < last; y++) count_row(b, ring, y, &m->wide, channel);
}

// Whether a second vector of the wide channels from `channel` on has a place in the ring.
INLINE int has_second(const Block *b, int channel) { return channel + LANES < up(b->wide, 16); }

// ---- expansion ------------------------------------------------------------------------------------------------------

// P pixels by V vectors of outputs, to where the first of them stands in the ring.
INLINE void to_ring(const Operands *o, int row, int64_t pixel, const float *bias, int channel, int P, int V, const Ring *ring,
                    float *to) {
    Vector sum[MOST_PIXELS][2];
#pragma GCC unroll 16
    for (int t = 0; t < P; t++)
        for (int v = 0; v < V; v++) sum[t][v] = load_vector(bias + channel + v * LANES);
    product(o, row, pixel, channel, P, V, sum);
    int64_t second = LANES == 16 ? (int64_t)ring->width * 16 : LANES;
#pragma GCC unroll 16
    for (int t = 0; t < P; t++)
        for (int v = 0; v < V; v++) store_vector(to + 16 * t + v * second, relu6(sum[t][v]));
}

TARGET static void expand(const Network *n, const Block *b, const Memory *m, int channel, Area area, const Ring *ring) {
    (void)n;
    Operands o = operands(&b->expand, m->narrow[0], (int64_t)b->height * b->width, 4);
    for (int y = area.first; y < area.last; y++) {
        float *to = (float *)ring_row(ring, y, channel / 16) + (b->left + area.left) * 16 + channel % 16;
        int64_t pixel = (int64_t)y * b->width + area.left;
#define TILE(x, P) to_ring(&o, ROW, pixel + x, b->expand.bias, channel, P, 2, ring, to + 16 * x)
#define TILE_OF_ONE(x, P) to_ring(&o, ROW, pixel + x, b->expand.bias, channel, P, 1, ring, to + 16 * x)
        if (has_second(b, channel)) IN_TILES(area.right - area.left, TILE)
        else IN_TILES(area.right - area.left, TILE_OF_ONE)
#undef TILE
#undef TILE_OF_ONE
    }
}

TARGET static void stem(const Network *n, const Block *b, const Memory *m, const uint8_t *image, int y, const Ring *ring) {
    stem_rows(n, image, y, (float *)m->rows);
    Operands o = stem_operands(n, m->rows, 4);
    for (int c = 0; c < b->wide; c += CHANNELS) {
        float *to = (float *)ring_row(ring, y, c / 16) + b->left * 16 + c % 16;
#define TILE(x, P) to_ring(&o, 24, x, n->stem.bias, c, P, 2, ring, to + 16 * x)
#define TILE_OF_ONE(x, P) to_ring(&o, 24, x, n->stem.bias, c, P, 1, ring, to + 16 * x)
        if (has_second(b, c)) IN_TILES(b->width, TILE)
        else IN_TILES(b->width, TILE_OF_ONE)
#undef TILE
#undef TILE_OF_ONE
        count_row(b, ring, y, &m->stem, c);
    }
}

// ---- depthwise ------------------------------------------------------------------------------------------------------

// `pixels` pixels next to each other. Every input is loaded once, for all that it is multiplied by.
INLINE void convolve(const void *const *rows, int offset, const float *weights, int kernel, int stride, int x, int pixels,
                     Vector bias, Vector *sum) {
#pragma GCC unroll 8
    for (int t = 0; t < pixels; t++) sum[t] = bias;
#pragma GCC unroll 5
    for (int i = 0; i < kernel; i++) {
        const float *from = (const float *)rows[i] + 16 * (x * stride) + offset;
        Vector w[MAX_KERNEL];
#pragma GCC unroll 5
        for (int j = 0; j < kernel; j++) w[j] = load_vector(weights + 16 * (i * kernel + j));
#pragma GCC unroll 19
        for (int c = 0; c < (pixels - 1) * stride + kernel; c++) {
            Vector value = load_vector(from + 16 * c);
#pragma GCC unroll 5
            for (int j = 0; j < kernel; j++)
                if (c >= j && (c - j) % stride == 0 && (c - j) / stride < pixels)
                    sum[(c - j) / stride] = multiply_add(value, w[j], sum[(c - j) / stride]);
        }
    }
}

INLINE void strip(const Block *b, int kernel, int stride, const Memory *m, int channel, Area area, const Ring *ring) {
    int width = out_side(b, b->width), pixels = (area.last - area.first) * width;
    for (int c = channel; c < channel + CHANNELS && c < b->wide; c += LANES) {
        int offset = c % 16;
        const float *weights = (const float *)b->depthwise + (int64_t)(c / 16) * kernel * kernel * 16 + offset;
        Vector bias = load_vector(b->depthwise_bias + c);
        for (int y = area.first; y < area.last; y++) {
            const void *rows[MAX_KERNEL];
            around(b, kernel, stride, y, ring, c / 16, rows);
            float *to = (float *)m->strip + (c / 16 * apart(pixels) + (y - area.first) * width) * 16 + offset;
            Partial partial;
            partial_start(&partial);
            int x = area.left;
            for (; x + 8 <= area.right; x += 8) {
                Vector sum[8];
                convolve(rows, offset, weights, kernel, stride, x, 8, bias, sum);
#pragma GCC unroll 8
                for (int t = 0; t < 8; t++) store_vector(to + 16 * (x + t), sum[t] = relu6(sum[t]));
                partial_add(&partial, sum);
            }
            for (; x < area.right; x++) {
                Vector sum[1];
                convolve(rows, offset, weights, kernel, stride, x, 1, bias, sum);
                store_vector(to + 16 * x, sum[0] = relu6(sum[0]));
                partial_add_one(&partial, sum[0]);
            }
            partial_end(&partial, &m->wide, c);
        }
    }
}

TARGET static void depthwise(const Network *n, const Block *b, const Memory *m, int channel, Area area, const Ring *ring) {
    (void)n;
    if (b->kernel == 3 && b->stride == 1) strip(b, 3, 1, m, channel, area, ring);
    else if (b->kernel == 3) strip(b, 3, 2, m, channel, area, ring);
    else if (b->stride == 1) strip(b, 5, 1, m, channel, area, ring);
    else strip(b, 5, 2, m, channel, area, ring);
}

// ---- projection -----------------------------------------------------------------------------------------------------

// P pixels by V vectors of outputs, from the strip to the block's output, to which its input is added if it is not NULL.
INLINE void to_narrow(const Operands *o, const Product *p, int pixel, int output, int P, int V, int64_t plane, const float *added,
                      float *to) {
    Vector sum[MOST_PIXELS][2];
#pragma GCC unroll 16
    for (int t = 0; t < P; t++)
        for (int v = 0; v < V; v++) sum[t][v] = load_vector(p->bias + output + v * LANES);
    product(o, ROW, pixel, output, P, V, sum);
    for (int v = 0; v < V; v++) {
        int64_t at = (output + v * LANES) / 16 * plane + pixel * 16 + (output + v * LANES) % 16;
#pragma GCC unroll 16
        for (int t = 0; t < P; t++) {
            Vector value = sum[t][v];
            if (added) value = add(value, load_vector(added + at + 16 * t));
            store_vector(to + at + 16 * t, value);
        }
    }
}

TARGET static void project(const Network *n, const Block *b, const Memory *m, int first, int pixels, int keep) {
    (void)n, (void)keep;
    Operands o = operands(&b->project, m->strip, pixels, 4);
    int64_t plane = apart(out_pixels(b)) * 16;
    const float *added = b->residual ? (const float *)m->narrow[0] + (int64_t)first * 16 : NULL;
    float *to = (float *)m->narrow[1] + (int64_t)first * 16;
    for (int k = 0; k < b->project.outputs; k += CHANNELS) {
#define TILE(x, P) to_narrow(&o, &b->project, x, k, P, 2, plane, added, to)
#define TILE_OF_ONE(x, P) to_narrow(&o, &b->project, x, k, P, 1, plane, added, to)
        if (k + LANES < b->project.outputs) IN_TILES(pixels, TILE)
        else IN_TILES(pixels, TILE_OF_ONE)
#undef TILE
#undef TILE_OF_ONE
    }
}

TARGET static double peak(int64_t rounds, int eight) { return (void)eight, 2.0 * LANES * products_of_registers(rounds); }

#define FP32_PATH                  \
    {.plane = 16,                  \
     .channels = CHANNELS,         \
     .narrow_bytes = narrow_bytes, \
     .strip_bytes = narrow_bytes,  \
     .stem = stem,                 \
     .expand = expand,             \
     .count = count,               \
     .depthwise = depthwise,       \
     .project = project,           \
     .peak = peak}
