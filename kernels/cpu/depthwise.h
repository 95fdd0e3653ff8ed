// The depthwise convolution in fp16: from the ring to the strip, and to the statistics.
#ifndef METAQAP_DEPTHWISE_H
#define METAQAP_DEPTHWISE_H
#include "fp16.h"

// What a channel of a depthwise convolution has beside its weights: a bias; the largest value, CAP or in int8 what 255 stands
// for; in int8, what a value is multiplied by to become a number from 0 to 255, and the inverse; and what statistics are
// multiplied by. All but the last in a unit of the channel's own, for in int8 fp16 could not hold every weight times the
// ring's step.
enum { BIAS, MOST, SCALE, INVERSE, TIMES, OWN };

// The depthwise convolution of `pixels` pixels next to each other.
FP16_INLINE void convolve(const void *const *rows, const uint16_t *weights, int kernel, int stride, int x, int pixels,
                          f16x32 bias, f16x32 *sum) {
    for (int t = 0; t < pixels; t++) sum[t] = bias;
#pragma GCC unroll 5
    for (int i = 0; i < kernel; i++)
#pragma GCC unroll 5
        for (int j = 0; j < kernel; j++) {
            f16x32 w = _mm512_loadu_ph(weights + 32 * (i * kernel + j));
            const uint16_t *from = (const uint16_t *)rows[i] + 32 * (x * stride + j);
            for (int t = 0; t < pixels; t++) sum[t] = _mm512_fmadd_ph(_mm512_load_ph(from + 32 * stride * t), w, sum[t]);
        }
}
// Numbers from 0 to CAP as bf16: fp16's bits but for three, the exponent moved; below 2^-14, about 2^-15.
FP16_INLINE __m512i to_bf16(f16x32 x) {
    __m512i rounded = _mm512_add_epi16((__m512i)x, _mm512_set1_epi16(4));
    return _mm512_add_epi16(_mm512_srli_epi16(rounded, 3), _mm512_set1_epi16(112 << 7));
}

enum { AS_BF16, FIRST, SECOND };  // int8: the second 32 channels of 64 go to the high bytes of the first, whose weights are 0
#define ONES 0x1p10f              // int8: fp16 counts by ones from here on, and the low byte is the number

// An origin that is a whole number in int8, for what is added to differences from it has to be one.
FP16_INLINE f16x32 settled(int mode, f16x32 x, f16x32 scale, f16x32 inverse) {
    if (mode == AS_BF16) return x;
    return _mm512_mul_ph(_mm512_sub_ph(_mm512_fmadd_ph(x, scale, half_of(ONES)), half_of(ONES)), inverse);
}

// What is the same for all pixels of 32 channels. Sums start from the bias, as differences from the origin.
typedef struct {
    const uint16_t *weights;
    f16x32 start, low, high, scale, offset, origin;
} Channels;

// `pixels` of a row from x on, 8 or 16, to the strip's row and the statistics; the row ends at `right`.
FP16_INLINE void strip_pixels(const Channels *c, int kernel, int stride, int mode, const void *const *rows, int x, int pixels,
                              int right, char *to, Partial32 *partial, f16x32 *inside) {
    const __m512i upwards = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0E000C000A000800, 0x0600040002000000));
    f16x32 all[16];
    convolve(rows, c->weights, kernel, stride, x, pixels, c->start, all);
#pragma GCC unroll 2
    for (int e = 0; e < pixels; e += 8) {
        f16x32 *d = all + e;
#pragma GCC unroll 8
        for (int t = 0; t < 8; t++) {
            d[t] = clamp(d[t], c->low, c->high);
            void *at = to + 64 * (x + e + t);
            __m512i bits;
            if (mode == AS_BF16) bits = to_bf16(_mm512_add_ph(d[t], c->origin));
            else bits = (__m512i)_mm512_fmadd_ph(d[t], c->scale, c->offset);
            if (mode == SECOND) bits = _mm512_mask_shuffle_epi8(_mm512_load_si512(at), 0xAAAAAAAAAAAAAAAA, bits, upwards);
            _mm512_store_si512(at, bits);
        }
        if (x + e == 0) *inside = d[INSIDE];
        partial32_add(partial, d, flushes(x + e, right));
    }
}

// 32 channels of rows of the strip.
FP16_INLINE void strip(const Block *b, int kernel, int stride, int mode, const Memory *m, int channel, Area area,
                       const Ring *ring) {
    int width = out_side(b, b->width), together = m->together, plane = channel / (mode == AS_BF16 ? 32 : 64);
    // An accumulator a pixel hides the latency of sums: 16 are faster than 8, but where every second column is left out.
    int most = kernel == 3 && stride == 2 ? 8 : 16;
    const uint16_t *weights = (const uint16_t *)b->depthwise + (int64_t)channel * (kernel * kernel + OWN);
    const uint16_t *own = weights + 32 * kernel * kernel;
    f16x32 bias = _mm512_loadu_ph(own + 32 * BIAS), cap = _mm512_loadu_ph(own + 32 * MOST);
    f16x32 scale = _mm512_loadu_ph(own + 32 * SCALE), inverse = _mm512_loadu_ph(own + 32 * INVERSE);
    f16x32 times = _mm512_loadu_ph(own + 32 * TIMES);
    f16x32 origin = _mm512_loadu_ph(m->origin + channel), inside = origin;
    const void *rows[MAX_KERNEL];
    if (area.first == 0 && area.left == 0) {
        around(b, kernel, stride, 0, ring, channel / 32, rows);
        convolve(rows, weights, kernel, stride, INSIDE, 1, bias, &inside);
        origin = settled(mode, clamp(inside, _mm512_setzero_ph(), cap), scale, inverse);
    }
    Channels c = {weights,
                  _mm512_sub_ph(bias, origin),
                  _mm512_sub_ph(_mm512_setzero_ph(), origin),
                  _mm512_sub_ph(cap, origin),
                  scale,
                  _mm512_fmadd_ph(origin, scale, half_of(ONES)),
                  origin};
    Partial32 partial;
    partial32_start(&partial);
    for (int y = area.first; y < area.last; y++) {
        around(b, kernel, stride, y, ring, channel / 32, rows);
        char *to = (char *)m->strip + ((int64_t)plane * together + y % together) * width * 64;
        int x = area.left;
        for (; x + most <= area.right; x += most)
            strip_pixels(&c, kernel, stride, mode, rows, x, most, area.right, to, &partial, &inside);
        if (x < area.right) strip_pixels(&c, kernel, stride, mode, rows, x, 8, area.right, to, &partial, &inside);
        if (area.left == 0) {
            f16x32 next = settled(mode, _mm512_add_ph(inside, origin), scale, inverse);
            _mm512_storeu_ph(m->origin + channel, next);
        }
    }
    int pixels = (area.last - area.first) * (area.right - area.left);
    partial32_end(&partial, origin, pixels, half(times, 0), half(times, 1), &m->wide, channel);
}
#endif
