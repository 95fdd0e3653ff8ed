// Values from the sums of tiles, and their statistics, in AVX512-FP16.
//
// What counts here is which of a core's two vector units an instruction needs. For some 50 ns after any instruction on tiles
// one of them neither multiplies nor converts (measured on one CPU with AMX; it still adds, packs and compares bits), and
// storing tiles needs both.
#ifndef METAQAP_FP16_H
#define METAQAP_FP16_H
#include "tiles.h"

typedef __m512h f16x32;

// ---- values from sums -------------------------------------------------------------------------------------------------

typedef struct {
    f32x16 scale[2], bias[2];
} Affine;  // of 32 outputs

// bf16 has no scales.
FP16_INLINE Affine affine(const Product *p, int kind, int output) {
    Affine f = {{_mm512_setzero_ps(), _mm512_setzero_ps()},
                {_mm512_loadu_ps(p->bias + output), _mm512_loadu_ps(p->bias + output + 16)}};
    for (int j = 0; j < 2 && kind != BF16; j++) f.scale[j] = _mm512_loadu_ps(p->scale + output + 16 * j);
    return f;
}
// Pixel t of 32, block j of 2, of sums [2][2][16][16].
FP16_INLINE const void *sum_at(const char *sums, int t, int j) { return sums + (t / 16 * 2 + j) * 1024 + t % 16 * 64; }
FP16_INLINE f32x16 value(const char *sums, int kind, int t, int j, const Affine *f) {
    const void *at = sum_at(sums, t, j);
    if (kind == BF16) return _mm512_add_ps(_mm512_load_ps(at), f->bias[j]);
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(at)), f->scale[j], f->bias[j]);
}
FP16_INLINE f16x32 clamp(f16x32 x, f16x32 low, f16x32 high) { return _mm512_min_ph(_mm512_max_ph(x, low), high); }
FP16_INLINE f16x32 half_of(float x) { return _mm512_set1_ph((_Float16)x); }
FP16_INLINE f32x16 half(f16x32 x, int high) {
    __m512i bits = (__m512i)x;
    return _mm512_cvtxph_ps((__m256h)(high ? _mm512_extracti64x4_epi64(bits, 1) : _mm512_castsi512_si256(bits)));
}

// From sums to the ring, 16 pixels. Weights hold what would be multiplied by, and saturation is ReLU6's lower end. Packing
// puts four of the first 16 outputs and four of the second by turns, and weights stand in an order that makes up for it.

// bf16: weights and bias hold 2^-112, with which fp32 has fp16's exponents, 13 bits higher. What is cut off below is made up
// for on average, by CUT (packing.py), in what reads the ring.

FP16_INLINE void floats_to_ring(const char *sums, const Affine *f, uint16_t *to) {
    const __m512i cap = (__m512i)half_of(CAP);  // as whole numbers, for a large float can be none in fp16
    for (int t = 0; t < 16; t++) {
        __m512i a = _mm512_srai_epi32((__m512i)value(sums, BF16, t, 0, f), 13);
        __m512i b = _mm512_srai_epi32((__m512i)value(sums, BF16, t, 1, f), 13);
        _mm512_store_si512(to + 32 * t, _mm512_min_epu16(_mm512_packus_epi32(a, b), cap));
    }
}

// int8, but for the stem: the ring holds whole numbers of a step, see Steps. As fp16 a whole number's bits up to 2^11 are as
// many times 2^-24: they need no conversion.
typedef struct {
    __m512i bias[2], shift, cap;
} Whole;

FP16_INLINE Whole whole(const Steps *s, int output) {
    return (Whole){{_mm512_loadu_si512(s->bias + output), _mm512_loadu_si512(s->bias + output + 16)},
                   _mm512_loadu_si512(s->shift + output),
                   _mm512_loadu_si512(s->cap + output)};
}
// 32 outputs of a pixel; `a`, `b`: sums with their bias.
FP16_INLINE __m512i whole_value(__m512i a, __m512i b, const Whole *w) {
    return _mm512_min_epu16(_mm512_srlv_epi16(_mm512_packus_epi32(a, b), w->shift), w->cap);
}
FP16_INLINE void whole_to_ring(const char *sums, const Whole *w, uint16_t *to) {
    for (int t = 0; t < 16; t++) {
        __m512i a = _mm512_add_epi32(_mm512_load_si512(sum_at(sums, t, 0)), w->bias[0]);
        __m512i b = _mm512_add_epi32(_mm512_load_si512(sum_at(sums, t, 1)), w->bias[1]);
        _mm512_store_si512(to + 32 * t, whole_value(a, b, w));
    }
}

// ---- statistics: sums of 32 pixels in fp16, and of those in fp32 -------------------------------------------------------
//
// Of differences from a pixel, the origin: where a channel is flat, its deviation is not lost in fp16's rounding, and
// elsewhere that averages out.

typedef struct {
    f32x16 sum[2], square[2];
    f16x32 sum16, square16, maximum;
} Partial32;

FP16_INLINE void partial32_start(Partial32 *p) {
    for (int j = 0; j < 2; j++) p->sum[j] = p->square[j] = _mm512_setzero_ps();
    p->sum16 = p->square16 = _mm512_setzero_ph();
    p->maximum = half_of(-CAP);
}
// Eight pixels' differences; `flush` at the latest the fourth time.
FP16_INLINE void partial32_add(Partial32 *p, const f16x32 *d, int flush) {
    f16x32 sum[4], top[4], square[2] = {p->square16, _mm512_mul_ph(d[0], d[0])};
    for (int t = 0; t < 4; t++) {
        sum[t] = _mm512_add_ph(d[t], d[t + 4]);
        top[t] = _mm512_max_ph(d[t], d[t + 4]);
    }
    for (int t = 1; t < 8; t++) square[t % 2] = _mm512_fmadd_ph(d[t], d[t], square[t % 2]);
    sum[0] = _mm512_add_ph(_mm512_add_ph(sum[0], sum[1]), _mm512_add_ph(sum[2], sum[3]));
    p->maximum = _mm512_max_ph(p->maximum, _mm512_max_ph(_mm512_max_ph(top[0], top[1]), _mm512_max_ph(top[2], top[3])));
    p->sum16 = _mm512_add_ph(p->sum16, sum[0]);
    p->square16 = _mm512_add_ph(square[0], square[1]);
    if (!flush) return;
    for (int j = 0; j < 2; j++) {
        p->sum[j] = _mm512_add_ps(p->sum[j], half(p->sum16, j));
        p->square[j] = _mm512_add_ps(p->square[j], half(p->square16, j));
    }
    p->sum16 = p->square16 = _mm512_setzero_ph();
}
FP16_INLINE __m512d eighth(f32x16 x, int high) {
    return _mm512_cvtps_pd(high ? _mm512_extractf32x8_ps(x, 1) : _mm512_castps512_ps256(x));
}
// `low`, `high`: what every value is to be multiplied by.
FP16_INLINE void partial32_end(const Partial32 *p, f16x32 from, int pixels, f32x16 low, f32x16 high, const Stats *s,
                               int channel) {
    __m512d n = _mm512_set1_pd(pixels);
    for (int e = 0; e < 4; e++) {  // with d = x - o: the sum of x is that of d and n o; of x x, of d d, and (2 d + n o) o
        double *sum = s->sum + channel + 8 * e, *square = s->square + channel + 8 * e;
        __m512d origin = eighth(half(from, e / 2), e % 2), d = eighth(p->sum[e / 2], e % 2);
        __m512d all = _mm512_mul_pd(n, origin), dd = eighth(p->square[e / 2], e % 2);
        __m512d factor = eighth(e < 2 ? low : high, e % 2);
        _mm512_storeu_pd(sum, _mm512_fmadd_pd(_mm512_add_pd(d, all), factor, _mm512_loadu_pd(sum)));
        dd = _mm512_fmadd_pd(_mm512_add_pd(_mm512_add_pd(d, d), all), origin, dd);
        _mm512_storeu_pd(square, _mm512_fmadd_pd(dd, _mm512_mul_pd(factor, factor), _mm512_loadu_pd(square)));
    }
    for (int j = 0; j < 2; j++) {
        float *to = s->maximum + channel + 16 * j;
        f32x16 top = _mm512_mul_ps(_mm512_add_ps(half(p->maximum, j), half(from, j)), j ? high : low);
        _mm512_storeu_ps(to, _mm512_max_ps(_mm512_loadu_ps(to), top));
    }
}
// Whether the pixels from x on of a row are the fourth eight, or the last.
FP16_INLINE int flushes(int x, int width) { return x % 32 == 24 || x + 8 == width; }
#endif
