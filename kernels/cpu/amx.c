// AMX and AVX512-FP16: products in bf16 or int8, the depthwise convolution in fp16; see mobilenet.h.
//
// Narrow activations (between blocks) and the strip (what is projected) stand in planes of so many channels as a tile is
// deep, 32 in bf16, 64 in int8, fewer where there are no more: [C/32][pixels][32]. In int8 they are what the scales make
// of them, and what a later block adds is kept in bf16 too, [C/32][pixels][32]. The ring is fp16, in planes of 32.
#include "blocks.h"

#define FP16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512fp16,fma")))
#define FP16_INLINE FP16 static inline __attribute__((always_inline))
#define TILES __attribute__((target("amx-tile,amx-bf16,amx-int8"))) static inline __attribute__((always_inline))

typedef __m512h f16x32;

static int depth(int eight, int channels) {
    if (channels <= 16) return 16;
    return !eight || channels <= 32 ? 32 : 64;
}
static int64_t narrow_bytes(const Network *n, int channels) {
    return (2 - n->eight) * up(channels, depth(n->eight, channels));
}

// ---- products: 32 pixels by 32 outputs into 4 tiles ----------------------------------------------------------------

enum { BF16, SIGNED, UNSIGNED };  // the pixels: bf16; int8, int8 from 0 to 255

typedef struct {
    const uint8_t *a;  // [steps][plane pixels][row bytes]
    int64_t plane;     // bytes from one step's pixels to the next's
    const uint8_t *b;  // see Product
    int steps, row;    // bytes of a pixel in a plane: what a tile is wide
} Operands;

static Operands operands(const Product *p, int eight, const void *a, int64_t pixels) {
    int d = depth(eight, p->inputs), row = (2 - eight) * d;
    return (Operands){a, pixels * row, p->weights, up(p->inputs, d) / d, row};
}

__attribute__((target("amx-tile"))) static void configure(int row) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {1, 0, {0}, {0}, {0}};
    for (int t = 0; t < 8; t++) {  // 0 to 3: sums, 4 and 5: pixels, 6 and 7: weights
        config.bytes[t] = t == 4 || t == 5 ? row : 64;
        config.rows[t] = t >= 6 ? row / 4 : 16;
    }
    __asm__ volatile("" : : "m"(config) : "memory");  // GCC does not see that the next line reads all of it
    _tile_loadconfig(&config);
}

__attribute__((target("amx-tile"))) void amx_end(void) { _tile_release(); }

#define MULTIPLY(sum, pixels, weights)                                \
    do {                                                              \
        if (kind == BF16) _tile_dpbf16ps(sum, pixels, weights);       \
        else if (kind == SIGNED) _tile_dpbssd(sum, pixels, weights);  \
        else _tile_dpbusd(sum, pixels, weights);                      \
    } while (0)

// Pixels from `pixel` on, 32 or 16 of them, by outputs of block `n` of 16 and the next -> sums [2 pixels][2 outputs][256].
TILES void product(const Operands *o, int kind, int pixel, int n, int two, void *sums) {
    int64_t next = (int64_t)o->steps * o->row * 16;
    const uint8_t *a = o->a + (int64_t)pixel * o->row, *b = o->b + n * next;
    char *out = sums;
    __asm__ volatile("" : : : "memory");  // nor that tiles are read from memory that was written before
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < o->steps; k++, a += o->plane, b += o->row * 16) {
        _tile_loadd(4, a, o->row);
        _tile_loadd(6, b, 64);
        MULTIPLY(0, 4, 6);
        _tile_loadd(7, b + next, 64);
        MULTIPLY(1, 4, 7);
        if (!two) continue;
        _tile_loadd(5, a + 16 * o->row, o->row);
        MULTIPLY(2, 5, 6);
        MULTIPLY(3, 5, 7);
    }
    _tile_stored(0, out, 64);
    _tile_stored(1, out + 1024, 64);
    if (!two) return;
    _tile_stored(2, out + 2048, 64);
    _tile_stored(3, out + 3072, 64);
}

__attribute__((target("amx-tile,amx-bf16,amx-int8"), noinline)) static void product_bf16(const Operands *o, int pixel,
                                                                                         int n, int two, void *sums) {
    if (two) product(o, BF16, pixel, n, 1, sums);
    else product(o, BF16, pixel, n, 0, sums);
}
__attribute__((target("amx-tile,amx-bf16,amx-int8"), noinline)) static void product_signed(const Operands *o, int pixel,
                                                                                           int n, int two, void *sums) {
    if (two) product(o, SIGNED, pixel, n, 1, sums);
    else product(o, SIGNED, pixel, n, 0, sums);
}
__attribute__((target("amx-tile,amx-bf16,amx-int8"), noinline)) static void product_unsigned(const Operands *o, int pixel,
                                                                                             int n, int two, void *sums) {
    if (two) product(o, UNSIGNED, pixel, n, 1, sums);
    else product(o, UNSIGNED, pixel, n, 0, sums);
}

// ---- values from sums -------------------------------------------------------------------------------------------------

typedef struct {
    f32x16 scale[2], bias[2];
} Affine;  // of 32 outputs

FP16_INLINE Affine affine(const Product *p, int output) {
    return (Affine){{_mm512_loadu_ps(p->scale + output), _mm512_loadu_ps(p->scale + output + 16)},
                    {_mm512_loadu_ps(p->bias + output), _mm512_loadu_ps(p->bias + output + 16)}};
}
// Pixel t of 32, block j of 2, of sums [2][2][16][16].
FP16_INLINE f32x16 value(const void *sums, int kind, int t, int j, const Affine *f) {
    const char *at = (const char *)sums + (t / 16 * 2 + j) * 1024 + t % 16 * 64;
    f32x16 sum = kind == BF16 ? _mm512_load_ps(at) : _mm512_cvtepi32_ps(_mm512_load_si512(at));
    return _mm512_fmadd_ps(sum, f->scale[j], f->bias[j]);
}
FP16_INLINE f16x32 relu6(f16x32 x) {
    return _mm512_min_ph(_mm512_max_ph(x, _mm512_setzero_ph()), _mm512_set1_ph((_Float16)CAP));
}
FP16_INLINE f16x32 pack(f32x16 low, f32x16 high) {
    __m256i a = (__m256i)_mm512_cvtxps_ph(low), b = (__m256i)_mm512_cvtxps_ph(high);
    return (f16x32)_mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}
FP16_INLINE f32x16 half(f16x32 x, int high) {
    __m512i bits = (__m512i)x;
    return _mm512_cvtxph_ps((__m256h)(high ? _mm512_extracti64x4_epi64(bits, 1) : _mm512_castsi512_si256(bits)));
}
FP16_INLINE void sums_to_ring(const void *sums, int kind, int pixels, const Affine *f, uint16_t *to) {
    for (int t = 0; t < pixels; t++)
        _mm512_store_ph(to + 32 * t, relu6(pack(value(sums, kind, t, 0, f), value(sums, kind, t, 1, f))));
}

// ---- statistics: sums of eight pixels in fp16, and of those in fp32 ----------------------------------------------------
//
// Of differences from a pixel of the row: where a channel is flat, its deviation is not lost in fp16's rounding, and
// elsewhere that averages out.

typedef struct {
    f32x16 sum[2], square[2];
    f16x32 maximum, origin;
} Partial32;

// The eight pixels that begin a row; the fifth is no neighbour of what is around the image.
FP16_INLINE void partial32_start(Partial32 *p, const f16x32 *x) {
    for (int j = 0; j < 2; j++) p->sum[j] = p->square[j] = _mm512_setzero_ps();
    p->maximum = _mm512_setzero_ph();
    p->origin = x[4];
}
FP16_INLINE void partial32_add(Partial32 *p, const f16x32 *x) {
    f16x32 sum[4], top[4], square[4];
    for (int t = 0; t < 4; t++) {
        f16x32 a = _mm512_sub_ph(x[t], p->origin), b = _mm512_sub_ph(x[t + 4], p->origin);
        sum[t] = _mm512_add_ph(a, b);
        top[t] = _mm512_max_ph(x[t], x[t + 4]);
        square[t] = _mm512_fmadd_ph(a, a, _mm512_mul_ph(b, b));
    }
    f16x32 all = _mm512_add_ph(_mm512_add_ph(sum[0], sum[1]), _mm512_add_ph(sum[2], sum[3]));
    f16x32 squares = _mm512_add_ph(_mm512_add_ph(square[0], square[1]), _mm512_add_ph(square[2], square[3]));
    p->maximum = _mm512_max_ph(p->maximum, _mm512_max_ph(_mm512_max_ph(top[0], top[1]), _mm512_max_ph(top[2], top[3])));
    for (int j = 0; j < 2; j++) {
        p->sum[j] = _mm512_add_ps(p->sum[j], half(all, j));
        p->square[j] = _mm512_add_ps(p->square[j], half(squares, j));
    }
}
FP16_INLINE __m512d eighth(f32x16 x, int high) {
    return _mm512_cvtps_pd(high ? _mm512_extractf32x8_ps(x, 1) : _mm512_castps512_ps256(x));
}
FP16_INLINE void partial32_end(const Partial32 *p, int width, const Stats *s, int channel) {
    __m512d n = _mm512_set1_pd(width);
    for (int e = 0; e < 4; e++) {  // with d = x - o: the sum of x is that of d and n o; of x x, of d d, and (2 d + n o) o
        double *sum = s->sum + channel + 8 * e, *square = s->square + channel + 8 * e;
        __m512d origin = eighth(half(p->origin, e / 2), e % 2), d = eighth(p->sum[e / 2], e % 2);
        __m512d all = _mm512_mul_pd(n, origin), dd = eighth(p->square[e / 2], e % 2);
        _mm512_storeu_pd(sum, _mm512_add_pd(_mm512_loadu_pd(sum), _mm512_add_pd(d, all)));
        dd = _mm512_fmadd_pd(_mm512_add_pd(_mm512_add_pd(d, d), all), origin, dd);
        _mm512_storeu_pd(square, _mm512_add_pd(_mm512_loadu_pd(square), dd));
    }
    for (int j = 0; j < 2; j++) {
        float *to = s->maximum + channel + 16 * j;
        _mm512_storeu_ps(to, _mm512_max_ps(_mm512_loadu_ps(to), half(p->maximum, j)));
    }
}
FP16_INLINE void count_row(const uint16_t *pixels, int width, const Stats *stats, int channel) {
    Partial32 partial = {0};
    for (int x = 0; x < width; x += 8) {
        f16x32 values[8];
        for (int t = 0; t < 8; t++) values[t] = _mm512_load_ph(pixels + 32 * (x + t));
        if (x == 0) partial32_start(&partial, values);
        partial32_add(&partial, values);
    }
    partial32_end(&partial, width, stats, channel);
}

// ---- the parts of a block -------------------------------------------------------------------------------------------

static uint16_t *ring_row(const Ring *r, int y, int plane) {
    return (uint16_t *)r->rows + y % r->slots * r->row + (int64_t)plane * r->width * 32;
}

FP16 static void expand(const Network *n, const Block *b, const Memory *m, int first, int last, const Ring *ring) {
    Operands o = operands(&b->expand, n->eight, m->narrow[0], (int64_t)b->height * b->width);
    char sums[2][4096] __attribute__((aligned(64)));
    int step = b->width < 32 ? 16 : 32;
    configure(o.row);
    for (int k = 0; k < b->wide; k += 32) {
        Affine f = affine(&b->expand, k);
        for (int y = first; y < last; y++) {
            uint16_t *to = ring_row(ring, y, k / 32) + b->left * 32;
            for (int x = 0; x < b->width; x += step) {
                char *out = sums[x / step % 2];
                if (n->eight) {
                    product_signed(&o, y * b->width + x, k / 16, step == 32, out);
                    sums_to_ring(out, SIGNED, step, &f, to + 32 * x);
                } else {
                    product_bf16(&o, y * b->width + x, k / 16, step == 32, out);
                    sums_to_ring(out, BF16, step, &f, to + 32 * x);
                }
            }
        }
    }
}

FP16 static void stem(const Network *n, const Block *b, const Memory *m, int y, const Ring *ring) {
    Operands o = operands(&n->stem, 0, m->patches, b->width);
    char sums[2][4096] __attribute__((aligned(64)));
    configure(o.row);
    for (int k = 0; k < b->wide; k += 32) {
        Affine f = affine(&n->stem, k);
        uint16_t *to = ring_row(ring, y, k / 32) + b->left * 32;
        for (int x = 0; x < b->width; x += 32) {
            char *out = sums[x / 32 % 2];
            product_bf16(&o, x, k / 16, 1, out);
            sums_to_ring(out, BF16, 32, &f, to + 32 * x);
        }
        count_row(to, b->width, &m->stem, k);
    }
}

FP16 static void count(const Block *b, const Memory *m, int first, int last, const Ring *ring) {
    for (int c = 0; c < b->wide; c += 32)
        for (int y = first; y < last; y++) count_row(ring_row(ring, y, c / 32), b->width, &m->wide, c);
}

FP16_INLINE void strip(const Network *n, const Block *b, int kernel, int stride, const Memory *m, int first, int last,
                       const Ring *ring) {
    int width = out_side(b, b->width), pixels = (last - first) * width, plane = depth(n->eight, b->wide);
    f16x32 scale = _mm512_set1_ph((_Float16)b->wide_scale);
    for (int c = 0; c < b->wide; c += 32) {
        const uint16_t *weights = (const uint16_t *)b->depthwise + (int64_t)c * kernel * kernel;
        f16x32 bias = _mm512_loadu_ph((const uint16_t *)b->depthwise_bias + c);
        for (int y = first; y < last; y++) {
            const uint16_t *rows[MAX_KERNEL];
            for (int i = 0; i < kernel; i++) {
                int row = y * stride - b->top + i;
                rows[i] = row < 0 || row >= b->height ? ring->zeros : ring_row(ring, row, c / 32);
            }
            int64_t at = ((int64_t)(c / plane) * pixels + (y - first) * width) * plane + c % plane;
            Partial32 partial = {0};
            for (int x = 0; x < width; x += 8) {
                f16x32 sum[8];
                for (int t = 0; t < 8; t++) sum[t] = bias;
#pragma GCC unroll 5
                for (int i = 0; i < kernel; i++)
#pragma GCC unroll 5
                    for (int j = 0; j < kernel; j++) {
                        f16x32 w = _mm512_loadu_ph(weights + 32 * (i * kernel + j));
                        const uint16_t *from = rows[i] + 32 * (x * stride + j);
                        for (int t = 0; t < 8; t++)
                            sum[t] = _mm512_fmadd_ph(_mm512_load_ph(from + 32 * stride * t), w, sum[t]);
                    }
                for (int t = 0; t < 8; t++) {
                    sum[t] = relu6(sum[t]);
                    if (n->eight) {
                        __m512i whole = _mm512_cvtph_epu16(_mm512_mul_ph(sum[t], scale));
                        _mm256_store_si256((void *)((uint8_t *)m->strip + at + plane * (x + t)),
                                           _mm512_cvtusepi16_epi8(whole));
                    } else {
                        _mm512_store_si512((uint16_t *)m->strip + at + plane * (x + t),
                                           (__m512i)_mm512_cvtne2ps_pbh(half(sum[t], 1), half(sum[t], 0)));
                    }
                }
                if (x == 0) partial32_start(&partial, sum);
                partial32_add(&partial, sum);
            }
            partial32_end(&partial, width, &m->wide, c);
        }
    }
}

FP16 static void depthwise(const Network *n, const Block *b, const Memory *m, int first, int last, const Ring *ring) {
    if (b->kernel == 3 && b->stride == 1) strip(n, b, 3, 1, m, first, last, ring);
    else if (b->kernel == 3) strip(n, b, 3, 2, m, first, last, ring);
    else if (b->stride == 1) strip(n, b, 5, 1, m, first, last, ring);
    else strip(n, b, 5, 2, m, first, last, ring);
}

// 16 values as int8.
FP16_INLINE __m128i bytes(f32x16 x, f32x16 scale) {
    return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x, scale)));
}

typedef struct {
    const uint16_t *added;  // bf16: what is added to the outputs, [pixels][32], or NULL
    uint16_t *kept;         // bf16: what a later block adds, or NULL
    uint8_t *to;            // the outputs, `row` bytes a pixel
    int row;
} Outputs;

// Sums of up to 32 pixels by 32 outputs (16 where `two` is 0) -> int8.
FP16_INLINE void sums_to_bytes(const void *sums, int pixels, int two, const Affine *f, f32x16 scale, Outputs o) {
    for (int t = 0; t < pixels; t++) {
        f32x16 x[2];
        for (int j = 0; j <= two; j++) {
            x[j] = value(sums, UNSIGNED, t, j, f);
            if (o.added) x[j] = _mm512_add_ps(x[j], from_bf16(_mm256_load_si256((const void *)(o.added + 32 * t + 16 * j))));
            if (o.kept) _mm256_store_si256((void *)(o.kept + 32 * t + 16 * j), (__m256i)_mm512_cvtneps_pbh(x[j]));
            _mm_store_si128((void *)(o.to + o.row * t + 16 * j), bytes(x[j], scale));
        }
    }
}
// The same -> bf16.
FP16_INLINE void sums_to_bf16(const void *sums, int pixels, int two, const Affine *f, Outputs o) {
    for (int t = 0; t < pixels; t++)
        for (int j = 0; j <= two; j++) {
            f32x16 x = value(sums, BF16, t, j, f);
            if (o.added) x = _mm512_add_ps(x, from_bf16(_mm256_load_si256((const void *)(o.added + o.row / 2 * t + 16 * j))));
            _mm256_store_si256((void *)(o.to + o.row * t + 32 * j), (__m256i)_mm512_cvtneps_pbh(x));
        }
}

FP16 static void project(const Network *n, const Block *b, const Memory *m, int first, int pixels, int keep) {
    Operands o = operands(&b->project, n->eight, m->strip, pixels);
    int outputs = b->project.outputs, plane = depth(n->eight, outputs), step = pixels < 32 ? 16 : 32, size = 2 - n->eight;
    char sums[2][4096] __attribute__((aligned(64)));
    f32x16 scale = _mm512_set1_ps(b->narrow_scale);
    configure(o.row);
    for (int k = 0; k < outputs; k += 32) {
        Affine f = affine(&b->project, k);
        int64_t at = (((int64_t)(k / plane) * out_pixels(b) + first) * plane + k % plane) * size;
        int64_t at32 = ((int64_t)(k / 32) * out_pixels(b) + first) * 32;
        for (int x = 0; x < pixels; x += step) {
            char *out = sums[x / step % 2];
            Outputs to = {NULL, NULL, (uint8_t *)m->narrow[1] + at + plane * size * x, plane * size};
            if (!n->eight) {
                if (b->residual) to.added = (const uint16_t *)((const uint8_t *)m->narrow[0] + at) + plane * x;
                product_bf16(&o, x, k / 16, step == 32, out);
                if (plane == 16) sums_to_bf16(out, step, 0, &f, to);
                else if (b->residual) sums_to_bf16(out, step, 1, &f, to);
                else sums_to_bf16(out, step, 1, &f, (Outputs){NULL, NULL, to.to, to.row});
                continue;
            }
            if (b->residual) to.added = (const uint16_t *)m->residual[0] + at32 + 32 * x;
            if (keep) to.kept = (uint16_t *)m->residual[1] + at32 + 32 * x;
            product_unsigned(&o, x, k / 16, step == 32, out);
            if (plane == 16) sums_to_bytes(out, step, 0, &f, scale, to);
            else sums_to_bytes(out, step, 1, &f, scale, to);
        }
    }
}

const Path amx_path = {32, 2, narrow_bytes, expand, stem, count, depthwise, project};
