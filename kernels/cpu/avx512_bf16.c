// AVX512_BF16: products in bf16, the depthwise convolution in fp32; see mobilenet.h.
//
// Narrow activations (between blocks) and the strip (what is projected) are bf16, in planes of 32 channels, 16 where there
// are no more: [C/32][pixels][32]. The ring is fp32, in planes of 16.
#include "paths.h"
#ifdef HAVE_AVX512_BF16
#include "avx512_bf16.h"

static int depth(int channels) { return channels <= 16 ? 16 : 32; }
static int64_t narrow_bytes(const Network *n, int channels) {
    (void)n;
    return 2 * up(channels, depth(channels));
}

static int64_t strip_bytes(const Network *n, int channels) {
    (void)n;
    return 2 * up(channels, 32);
}

INLINE f32x16 relu6(f32x16 x) { return _mm512_min_ps(_mm512_max_ps(x, _mm512_setzero_ps()), _mm512_set1_ps(CAP)); }

typedef struct {
    f32x16 sum, square, maximum;
} Partial;  // of 16 channels over a row

INLINE void partial_start(Partial *p) { p->sum = p->square = p->maximum = _mm512_setzero_ps(); }  // activations are >= 0
INLINE void add_doubles(double *to, f32x16 values) {
    __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(values));
    __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(values, 1));
    _mm512_storeu_pd(to, _mm512_add_pd(_mm512_loadu_pd(to), low));
    _mm512_storeu_pd(to + 8, _mm512_add_pd(_mm512_loadu_pd(to + 8), high));
}
INLINE void partial_end(const Partial *p, const Stats *s, int channel) {
    add_doubles(s->sum + channel, p->sum);
    add_doubles(s->square + channel, p->square);
    _mm512_storeu_ps(s->maximum + channel, _mm512_max_ps(_mm512_loadu_ps(s->maximum + channel), p->maximum));
}

// Pixels are made eight at a time. Where that does not end with them, the last eight overlap those before: what is made twice
// is the same, and is left out of the statistics.
static int eight_at(int x, int end) { return x + 8 <= end ? x : end - 8; }
INLINE void leave_out(f32x16 *x, int first) {
    if (first == 0) return;
#pragma GCC unroll 8
    for (int t = 0; t < 8; t++) x[t] = _mm512_maskz_mov_ps(t < first ? 0 : 0xffff, x[t]);
}

// Eight pixels at once: as trees, for one after another each would wait for the one before.
INLINE void partial_add(Partial *p, const f32x16 *x) {
    f32x16 even = _mm512_mul_ps(x[0], x[0]), odd = _mm512_mul_ps(x[1], x[1]);
    for (int t = 2; t < 8; t += 2) {
        even = _mm512_fmadd_ps(x[t], x[t], even);
        odd = _mm512_fmadd_ps(x[t + 1], x[t + 1], odd);
    }
    f32x16 sum[4], top[4];
    for (int t = 0; t < 4; t++) sum[t] = _mm512_add_ps(x[t], x[t + 4]), top[t] = _mm512_max_ps(x[t], x[t + 4]);
    p->sum = _mm512_add_ps(p->sum, _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
    p->square = _mm512_add_ps(p->square, _mm512_add_ps(even, odd));
    p->maximum = _mm512_max_ps(p->maximum, _mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3])));
}

// ---- products -------------------------------------------------------------------------------------------------------

typedef struct {
    const uint16_t *a;  // [steps][plane pixels][depth]
    int64_t plane;      // elements from one step's pixels to the next's
    const uint16_t *b;  // see Product
    int steps, depth, pixel;  // elements of a pixel: of what is multiplied, and from one to the next
} Operands;

static Operands operands(const Product *p, const uint16_t *a, int64_t pixels) {
    int d = depth(p->inputs);
    return (Operands){a, pixels * d, p->weights, up(p->inputs, d) / d, d, d};
}

// 8 pixels by 16 or 32 outputs, from block `n` of 16 outputs on -> sums [2][8].
INLINE void product(const Operands *o, int pixel, int n, int two, f32x16 sum[2][8]) {
    const uint16_t *a = o->a + (int64_t)pixel * o->pixel;
    int64_t next = (int64_t)o->steps * o->depth * 16;
    const uint16_t *b = o->b + n * next;
    for (int t = 0; t < 8; t++) sum[0][t] = sum[1][t] = _mm512_setzero_ps();
    for (int k = 0; k < o->steps; k++, a += o->plane, b += o->depth * 16)
        for (int pair = 0; pair < o->depth / 2; pair++) {
            __m512bh w = (__m512bh)_mm512_loadu_si512(b + 32 * pair);
            __m512bh w2 = two ? (__m512bh)_mm512_loadu_si512(b + next + 32 * pair) : w;
#pragma GCC unroll 8
            for (int t = 0; t < 8; t++) {
                int32_t both;
                memcpy(&both, a + t * o->pixel + 2 * pair, 4);
                __m512bh x = (__m512bh)_mm512_set1_epi32(both);
                sum[0][t] = _mm512_dpbf16_ps(sum[0][t], x, w);
                if (two) sum[1][t] = _mm512_dpbf16_ps(sum[1][t], x, w2);
            }
        }
}

// 8 pixels of blocks n and n + 1 of the wide activation, to where they stand in the ring.
INLINE void product_to_ring(const Operands *o, const Product *p, int pixel, int n, int two, float *to, int64_t next) {
    f32x16 sum[2][8];
    if (two) product(o, pixel, n, 1, sum);
    else product(o, pixel, n, 0, sum);
    for (int j = 0; j <= two; j++)
        for (int t = 0; t < 8; t++)
            _mm512_store_ps(to + j * next + 16 * t, relu6(_mm512_add_ps(sum[j][t], _mm512_loadu_ps(p->bias + 16 * (n + j)))));
}

AVX512_BF16 static void expand(const Network *n, const Block *b, const Memory *m, int channel, Area area, const Ring *ring) {
    (void)n;
    int k = channel / 16, two = channel + 16 < b->wide;
    Operands o = operands(&b->expand, m->narrow[0], (int64_t)b->height * b->width);
    for (int y = area.first; y < area.last; y++) {
        float *row = (float *)ring_row(ring, y, k) + b->left * 16;
        for (int x = area.left; x < area.right; x += 8) {
            int at = eight_at(x, area.right);
            product_to_ring(&o, &b->expand, y * b->width + at, k, two, row + 16 * at, (int64_t)ring->width * 16);
        }
    }
}

// Statistics of a row of the ring.
INLINE void count_row(const float *pixels, int width, const Stats *stats, int channel) {
    Partial partial;
    partial_start(&partial);
    for (int x = 0; x < width; x += 8) {
        int at = eight_at(x, width);
        f32x16 values[8];
        for (int t = 0; t < 8; t++) values[t] = _mm512_load_ps(pixels + 16 * (at + t));
        leave_out(values, x - at);
        partial_add(&partial, values);
    }
    partial_end(&partial, stats, channel);
}

AVX512_BF16 static void stem(const Network *n, const Block *b, const Memory *m, const uint8_t *image, int y, const Ring *ring) {
    stem_patches(n, image, y, m);
    Operands o = operands(&n->stem, m->patches, b->width);
    o.pixel = WINDOW;
    float *row = (float *)ring_row(ring, y, 0) + b->left * 16;
    int64_t next = (int64_t)ring->width * 16;
    for (int k = 0; k < b->wide / 16; k += 2)
        for (int x = 0; x < b->width; x += 8) {
            int at = eight_at(x, b->width);
            product_to_ring(&o, &n->stem, at, k, 1, row + k * next + 16 * at, next);
        }
    for (int k = 0; k < b->wide / 16; k++) count_row(row + k * next, b->width, &m->stem, 16 * k);
}

AVX512_BF16 static void count(const Block *b, const Memory *m, int channel, int first, int last, const Ring *ring) {
    for (int y = first; y < last; y++)
        for (int c = channel / 16; c < b->wide / 16 && c < channel / 16 + 2; c++)
            count_row(ring_row(ring, y, c), b->width, &m->wide, 16 * c);
}

// ---- depthwise ----------------------------------------------------------------------------------------------------

INLINE void strip(const Block *b, int kernel, int stride, const Memory *m, int channel, Area area, const Ring *ring) {
    int width = out_side(b, b->width), pixels = (area.last - area.first) * width;
    for (int c = channel / 16; c < b->wide / 16 && c < channel / 16 + 2; c++) {
        const float *weights = (const float *)b->depthwise + (int64_t)c * kernel * kernel * 16;
        f32x16 bias = _mm512_loadu_ps(b->depthwise_bias + 16 * c);
        for (int y = area.first; y < area.last; y++) {
            const void *rows[MAX_KERNEL];
            around(b, kernel, stride, y, ring, c, rows);
            uint16_t *to = (uint16_t *)m->strip + ((int64_t)(c / 2) * pixels + (y - area.first) * width) * 32 + c % 2 * 16;
            Partial partial;
            partial_start(&partial);
            for (int x = area.left; x < area.right; x += 8) {
                int at = eight_at(x, area.right);
                f32x16 sum[8];
                for (int t = 0; t < 8; t++) sum[t] = bias;
#pragma GCC unroll 5
                for (int i = 0; i < kernel; i++)
#pragma GCC unroll 5
                    for (int j = 0; j < kernel; j++) {
                        f32x16 w = _mm512_loadu_ps(weights + 16 * (i * kernel + j));
                        const float *from = (const float *)rows[i] + 16 * (at * stride + j);
                        for (int t = 0; t < 8; t++) sum[t] = _mm512_fmadd_ps(_mm512_load_ps(from + 16 * stride * t), w, sum[t]);
                    }
                for (int t = 0; t < 8; t++) {
                    sum[t] = relu6(sum[t]);
                    _mm256_store_si256((__m256i *)(to + 32 * (at + t)), (__m256i)_mm512_cvtneps_pbh(sum[t]));
                }
                leave_out(sum, x - at);
                partial_add(&partial, sum);
            }
            partial_end(&partial, &m->wide, 16 * c);
        }
    }
}

AVX512_BF16 static void depthwise(const Network *n, const Block *b, const Memory *m, int channel, Area area, const Ring *ring) {
    (void)n;
    if (b->kernel == 3 && b->stride == 1) strip(b, 3, 1, m, channel, area, ring);
    else if (b->kernel == 3) strip(b, 3, 2, m, channel, area, ring);
    else if (b->stride == 1) strip(b, 5, 1, m, channel, area, ring);
    else strip(b, 5, 2, m, channel, area, ring);
}

// ---- projection -----------------------------------------------------------------------------------------------------

AVX512_BF16 static void project(const Network *n, const Block *b, const Memory *m, int first, int pixels, int keep) {
    (void)n, (void)keep;
    int rest = b->wide % 32;  // read with the last channels, times 0: let them be numbers
    for (int x = 0; x < pixels && rest; x++)
        memset((uint16_t *)m->strip + ((int64_t)(b->wide / 32) * pixels + x) * 32 + rest, 0, 2 * (32 - rest));
    Operands o = operands(&b->project, m->strip, pixels);
    int outputs = b->project.outputs, d = depth(outputs);
    for (int k = 0; k < outputs; k += d) {
        int64_t at = (k / d * out_pixels(b) + first) * d;
        const uint16_t *added = b->residual ? (const uint16_t *)m->narrow[0] + at : NULL;
        uint16_t *to = (uint16_t *)m->narrow[1] + at;
        for (int x = 0; x < pixels; x += 8) {
            int from = eight_at(x, pixels);
            f32x16 sum[2][8];
            if (d == 32) product(&o, from, k / 16, 1, sum);
            else product(&o, from, k / 16, 0, sum);
            for (int t = 0; t < 8; t++)
                for (int j = 0; j < d / 16; j++) {
                    int64_t place = (int64_t)d * (from + t) + 16 * j;
                    f32x16 value = _mm512_add_ps(sum[j][t], _mm512_loadu_ps(b->project.bias + k + 16 * j));
                    if (added) value = _mm512_add_ps(value, from_bf16(_mm256_load_si256((const void *)(added + place))));
                    _mm256_store_si256((void *)(to + place), (__m256i)_mm512_cvtneps_pbh(value));
                }
        }
    }
}

AVX512_BF16 static double peak(int64_t rounds, int eight) {
    (void)eight;  // there is no other
    f32x16 sum[16];
    __m512bh x = (__m512bh)_mm512_setzero_si512(), weights[2] = {x, x};
    for (int t = 0; t < 16; t++) sum[t] = _mm512_setzero_ps();
    for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 16
        for (int t = 0; t < 16; t++) {
            __asm__ volatile("" : "+v"(x));
            sum[t] = _mm512_dpbf16_ps(sum[t], x, weights[t % 2]);
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < 16; t++) __asm__ volatile("" : : "v"(sum[t]));
    return 16.0 * 64 * rounds;
}

const Path avx512_bf16_path = {.plane = 16,
                               .channels = 32,
                               .narrow_bytes = narrow_bytes,
                               .strip_bytes = strip_bytes,
                               .stem = stem,
                               .expand = expand,
                               .count = count,
                               .depthwise = depthwise,
                               .project = project,
                               .peak = peak};
#endif
