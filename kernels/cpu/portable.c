// The portable path: plain C, no instruction set, in fp32 and int8. What every other path is tested against and ported from:
// in int8 bit for bit, in fp32 within rounding. Layouts are those of the vector paths, see README.md.
//
// One pixel by 16 outputs at a time, so that the inner loops are ones that compilers vectorise.
#include "int8.h"

static float relu6(float x) { return x < 0 ? 0 : x > CAP ? CAP : x; }

static void add_value(const Stats *s, int channel, float x) {
    s->sum[channel] += x;
    s->square[channel] += (double)x * x;
    if (x > s->maximum[channel]) s->maximum[channel] = x;
}

// ---- fp32 -------------------------------------------------------------------------------------------------------------

STEM_ROWS(stem_floats, float, n->around)

static int64_t float_bytes(const Network *n, int channels) { return (void)n, 4 * up(channels, 16); }

// 16 outputs from `output` on of a pixel.
static void float_sums(const Operands *o, int64_t pixel, int output, const float *bias, float *sum) {
    const float *w = (const float *)(o->weights + output / 16 * o->block);
    for (int j = 0; j < 16; j++) sum[j] = bias[output + j];
    for (int s = 0; s < o->steps; s++, w += 16 * o->quads) {
        const float *a = (const float *)(o->a + s * o->plane + pixel * o->row);
        for (int k = 0; k < (s + 1 < o->steps ? o->quads : o->last); k++)
            for (int j = 0; j < 16; j++) sum[j] += a[k] * w[16 * k + j];
    }
}

static void expand_floats(const Network *n, const Block *b, const Memory *m, int channel, Area area, const Ring *ring) {
    (void)n;
    Operands o = operands(&b->expand, m->narrow[0], (int64_t)b->height * b->width, 4);
    for (int y = area.first; y < area.last; y++)
        for (int x = area.left; x < area.right; x++) {
            float *to = (float *)ring_row(ring, y, channel / 16) + 16 * (b->left + x);
            float_sums(&o, (int64_t)y * b->width + x, channel, b->expand.bias, to);
            for (int j = 0; j < 16; j++) to[j] = relu6(to[j]);
        }
}

static void count_float_row(const Block *b, const Ring *ring, int y, const Stats *stats, int channel) {
    const float *pixels = (const float *)ring_row(ring, y, channel / 16) + 16 * b->left;
    for (int x = 0; x < b->width; x++)
        for (int j = 0; j < 16; j++) add_value(stats, channel + j, pixels[16 * x + j]);
}
static void count_floats(const Block *b, const Memory *m, int channel, int first, int last, const Ring *ring) {
    for (int y = first; y < last; y++) count_float_row(b, ring, y, &m->wide, channel);
}

static void stem_in_floats(const Network *n, const Block *b, const Memory *m, const uint8_t *image, int y, const Ring *ring) {
    stem_floats(n, image, y, (float *)m->rows);
    Operands o = stem_operands(n, m->rows, 4);
    for (int c = 0; c < b->wide; c += 16) {
        float *to = (float *)ring_row(ring, y, c / 16) + 16 * b->left;
        for (int x = 0; x < b->width; x++, to += 16) {
            float_sums(&o, x, c, n->stem.bias, to);
            for (int j = 0; j < 16; j++) to[j] = relu6(to[j]);
        }
        count_float_row(b, ring, y, &m->stem, c);
    }
}

static void depthwise_floats(const Network *n, const Block *b, const Memory *m, int channel, Area area, const Ring *ring) {
    (void)n;
    int width = out_side(b, b->width), pixels = (area.last - area.first) * width, kernel = b->kernel;
    const float *weights = (const float *)b->depthwise + (int64_t)channel * kernel * kernel;
    for (int y = area.first; y < area.last; y++) {
        const void *rows[MAX_KERNEL];
        around(b, kernel, b->stride, y, ring, channel / 16, rows);
        float *to = (float *)m->strip + (channel / 16 * apart(pixels) + (y - area.first) * width) * 16;
        for (int x = area.left; x < area.right; x++) {
            float sum[16];
            memcpy(sum, b->depthwise_bias + channel, sizeof sum);
            for (int i = 0; i < kernel; i++)
                for (int j = 0; j < kernel; j++) {
                    const float *from = (const float *)rows[i] + 16 * (x * b->stride + j), *w = weights + 16 * (i * kernel + j);
                    for (int l = 0; l < 16; l++) sum[l] += from[l] * w[l];
                }
            for (int l = 0; l < 16; l++) add_value(&m->wide, channel + l, to[16 * x + l] = relu6(sum[l]));
        }
    }
}

static void project_floats(const Network *n, const Block *b, const Memory *m, int first, int pixels, int keep) {
    (void)n, (void)keep;
    Operands o = operands(&b->project, m->strip, pixels, 4);
    for (int k = 0; k < b->project.outputs; k += 16) {
        int64_t at = (k / 16 * apart(out_pixels(b)) + first) * 16;
        const float *added = b->residual ? (const float *)m->narrow[0] + at : NULL;
        float *to = (float *)m->narrow[1] + at;
        for (int x = 0; x < pixels; x++, to += 16) {
            float_sums(&o, x, k, b->project.bias, to);
            for (int j = 0; j < 16 && added; j++) to[j] += added[16 * x + j];
        }
    }
}

const Path portable_fp32 = {.plane = 16,
                            .channels = 16,
                            .narrow_bytes = float_bytes,
                            .strip_bytes = float_bytes,
                            .stem = stem_in_floats,
                            .expand = expand_floats,
                            .count = count_floats,
                            .depthwise = depthwise_floats,
                            .project = project_floats};

// ---- int8, see int8.h for the arithmetic ------------------------------------------------------------------------------

STEM_ROWS(stem_bytes, uint8_t, n->outside)

static int64_t byte_bytes(const Network *n, int channels) { return (void)n, up(channels, 32); }

static int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }
static int short_of(int x) { return clamp(x, -32768, 32767); }
// (a b) / 2^15, rounded to the nearest, up from the middle.
static int scaled(int a, int b) { return (a * b + (1 << 14)) >> 15; }

// 16 outputs from `output` on of a pixel, the bias among them.
static void whole_sums(const Operands *o, int64_t pixel, int output, const int32_t *bias, int32_t *sum) {
    const int8_t *w = (const int8_t *)(o->weights + output / 16 * o->block);
    for (int j = 0; j < 16; j++) sum[j] = bias[output + j];
    for (int s = 0; s < o->steps; s++, w += 64 * o->quads) {
        const uint8_t *a = (const uint8_t *)(o->a + s * o->plane + pixel * o->row);
        for (int q = 0; q < (s + 1 < o->steps ? o->quads : o->last); q++)
            for (int j = 0; j < 16; j++)
                for (int i = 0; i < 4; i++) sum[j] += a[4 * q + i] * w[64 * q + 4 * j + i];
    }
}

// Sums to the ring; `wide`: what the stem's are shifted by.
static void whole_to_ring(const Operands *o, int64_t pixel, const Steps *s, const int32_t *wide, int channel, int16_t *to) {
    int32_t sum[16];
    whole_sums(o, pixel, channel, s->bias, sum);
    for (int j = 0; j < 16; j++) {
        if (wide) sum[j] >>= wide[channel + j];
        to[j] = (int16_t)(clamp(sum[j], 0, s->cap[channel + j]) * s->shift[channel + j]);
    }
}
static int16_t *whole_row(const Ring *ring, int y, int channel) {
    return (int16_t *)ring_row(ring, y, channel / 32) + channel % 32;
}

static void expand_whole(const Network *n, const Block *b, const Memory *m, int channel, Area area, const Ring *ring) {
    (void)n;
    Operands o = operands(&b->expand, m->narrow[0], (int64_t)b->height * b->width, 1);
    for (int y = area.first; y < area.last; y++)
        for (int x = area.left; x < area.right; x++)
            whole_to_ring(&o, (int64_t)y * b->width + x, &b->steps, NULL, channel,
                          whole_row(ring, y, channel) + 32 * (b->left + x));
}

static void count_whole_row(const Block *b, const Ring *ring, int y, const Stats *stats, int channel) {
    const int16_t *pixels = whole_row(ring, y, channel) + 32 * b->left;
    for (int x = 0; x < b->width; x++)
        for (int j = 0; j < 16; j++) add_value(stats, channel + j, (float)scaled(pixels[32 * x + j], COUNTED));
}
static void count_whole(const Block *b, const Memory *m, int channel, int first, int last, const Ring *ring) {
    for (int y = first; y < last; y++) count_whole_row(b, ring, y, &m->wide, channel);
}

static void stem_whole(const Network *n, const Block *b, const Memory *m, const uint8_t *image, int y, const Ring *ring) {
    stem_bytes(n, image, y, (uint8_t *)m->rows);
    Operands o = stem_operands(n, m->rows, 1);
    for (int c = 0; c < b->wide; c += 16) {
        int16_t *to = whole_row(ring, y, c) + 32 * b->left;
        for (int x = 0; x < b->width; x++) whole_to_ring(&o, x, &n->steps, n->steps.wide_shift, c, to + 32 * x);
        count_whole_row(b, ring, y, &m->stem, c);
    }
}

static void depthwise_whole(const Network *n, const Block *b, const Memory *m, int channel, Area area, const Ring *ring) {
    (void)n;
    int width = out_side(b, b->width), pixels = (area.last - area.first) * width, kernel = b->kernel;
    const int16_t *weights =
        (const int16_t *)b->depthwise + (int64_t)(channel / 32) * (kernel * kernel + OWN) * 32 + channel % 32;
    const int16_t *own = weights + 32 * kernel * kernel;
    for (int y = area.first; y < area.last; y++) {
        const void *rows[MAX_KERNEL];
        around(b, kernel, b->stride, y, ring, channel / 32, rows);
        uint8_t *to = (uint8_t *)m->strip + (channel / 32 * apart(pixels) + (y - area.first) * width) * 32 + channel % 32;
        for (int x = area.left; x < area.right; x++)
            for (int l = 0; l < 16; l++) {
                int sum = own[32 * BIAS + l];
                for (int i = 0; i < kernel; i++)
                    for (int j = 0; j < kernel; j++) {
                        int value = ((const int16_t *)rows[i])[32 * (x * b->stride + j) + channel % 32 + l];
                        sum = short_of(sum + scaled(value, weights[32 * (i * kernel + j) + l]));
                    }
                sum = clamp(sum, 0, own[32 * MOST + l]);
                add_value(&m->wide, channel + l, (float)sum);
                to[32 * x + l] = (uint8_t)scaled(sum, own[32 * SCALE + l]);
            }
    }
}

static void project_whole(const Network *n, const Block *b, const Memory *m, int first, int pixels, int keep) {
    (void)n;
    Operands o = operands(&b->project, m->strip, pixels, 1);
    const Narrowing *s = &b->narrowing;
    for (int k = 0; k < b->project.outputs; k += 16) {
        int64_t at = (k / 32 * apart(out_pixels(b)) + first) * 32 + k % 32;
        const int16_t *added = b->residual ? (const int16_t *)m->residual[0] + at : NULL;
        int16_t *kept = (int16_t *)m->residual[1] + at;
        uint8_t *to = (uint8_t *)m->narrow[1] + at;
        for (int x = 0; x < 32 * pixels; x += 32) {
            int32_t sum[16];
            whole_sums(&o, x / 32, k, s->start, sum);
            for (int j = 0; j < 16; j++) {
                int value = scaled(short_of(sum[j] >> s->shift[k + j]), s->times[k + j]);
                int more = added ? scaled(added[x + j], s->added) : 0;
                value = short_of(short_of(value + more) + more);
                if (keep) kept[x + j] = (int16_t)value;
                to[x + j] = (uint8_t)(s->half + clamp(short_of(value + (1 << s->kept >> 1)) >> s->kept, -s->half, s->half - 1));
            }
        }
    }
}

const Path portable_int8 = {.plane = 32,
                            .channels = 16,
                            .whole = 1,
                            .narrow_bytes = byte_bytes,
                            .strip_bytes = byte_bytes,
                            .stem = stem_whole,
                            .expand = expand_whole,
                            .count = count_whole,
                            .depthwise = depthwise_whole,
                            .project = project_whole};
