/* A picture made smaller by an antialiased cubic filter (Keys 1981, a = -1/2), as DALI's `resize` makes it.
 *
 * `metaqap_fast/decode/resize.py` calls it. Every sum is made in the same order and without fused operations, so the result
 * is the same on every CPU. An output row is made of input rows first, a stripe at a time, which is summed in registers; what
 * it reads is still in the cache for the next row.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHANNELS 3

#if defined(__x86_64__) && !defined(PORTABLE)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))
#define LANES 8
#define VECTORS 8 /* that are summed at once */
#endif

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t Whole __attribute__((vector_size(16)));

/* Which `taps` inputs, from `first[i]` on, output i is the sum of, and their weights. */
typedef struct {
    int64_t taps;
    int64_t *first;
    float *weight;
} Filter;

static double cubic(double x) {
    x = fabs(x);
    if (x >= 2) return 0;
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : ((2.5 - .5 * x) * x - 4) * x + 2;
}

static void release(Filter *filter) {
    free(filter->first);
    free(filter->weight);
}

/* Beyond its ends a row goes on as it ends. 0, or -1 for want of memory. */
static int prepare(Filter *filter, int64_t inputs, int64_t outputs) {
    const double scale = (double)inputs / (double)outputs, wide = scale > 1 ? scale : 1;
    const int64_t reach = (int64_t)ceil(4 * wide) + 1;
    const int64_t taps = reach < inputs ? reach : inputs;
    filter->taps = taps;
    filter->first = malloc((size_t)outputs * sizeof *filter->first);
    filter->weight = calloc((size_t)(outputs * taps), sizeof *filter->weight);
    if (!filter->first || !filter->weight) return -1;
    for (int64_t i = 0; i < outputs; i++) {
        const double centre = ((double)i + .5) * scale - .5;
        const int64_t from = (int64_t)ceil(centre - 2 * wide);
        int64_t first = from < 0 ? 0 : from;
        if (first > inputs - taps) first = inputs - taps;
        double sum = 0;
        for (int64_t k = 0; k < reach; k++) sum += cubic(((double)(from + k) - centre) / wide);
        for (int64_t k = 0; k < reach; k++) {
            int64_t at = from + k;
            const double weight = cubic(((double)at - centre) / wide) / sum;
            if (at < 0) at = 0;
            if (at >= inputs) at = inputs - 1;
            filter->weight[i * taps + at - first] += (float)weight;
        }
        filter->first[i] = first;
    }
    return 0;
}

/* Values `from` to `width` of a row: the sum of `taps` weighted rows of `in`. */
static inline void down_from(int64_t from, const uint8_t *in, int64_t width, int64_t taps, const float *weight, float *row) {
    for (int64_t x = from; x < width; x++) row[x] = 0;
    for (int64_t k = 0; k < taps; k++)
        for (int64_t x = from; x < width; x++) row[x] += (float)in[k * width + x] * weight[k];
}

static void down(const uint8_t *in, int64_t width, int64_t taps, const float *weight, float *row) {
    down_from(0, in, width, taps, weight, row);
}

#ifdef AVX2
/* The same in stripes, each of which is summed in registers. */
AVX2 static void down_avx2(const uint8_t *in, int64_t width, int64_t taps, const float *weight, float *row) {
    int64_t x = 0;
    for (; x + LANES * VECTORS <= width; x += LANES * VECTORS) {
        __m256 sum[VECTORS];
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; j++) sum[j] = _mm256_setzero_ps();
        for (int64_t k = 0; k < taps; k++) {
            const __m256 times = _mm256_set1_ps(weight[k]);
#pragma GCC unroll 8
            for (int j = 0; j < VECTORS; j++) {
                const __m128i bytes = _mm_loadl_epi64((const __m128i *)(in + k * width + x + LANES * j));
                const __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
                sum[j] = _mm256_add_ps(sum[j], _mm256_mul_ps(value, times));
            }
        }
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; j++) _mm256_storeu_ps(row + x + LANES * j, sum[j]);
    }
    down_from(x, in, width, taps, weight, row);
}
#endif

/* The pixels of one output row, from `row`, which has a float more than its pixels. */
static inline __attribute__((always_inline)) void across(const float *row, const Filter *filter, int64_t outputs, uint8_t *out) {
    for (int64_t i = 0; i < outputs; i++) {
        const float *from = row + CHANNELS * filter->first[i], *weight = filter->weight + i * filter->taps;
        Four even = {0}, odd = {0}; /* two sums, as one would wait for itself */
        int64_t k = 0;
        for (; k + 1 < filter->taps; k += 2) {
            even += *(const Four *)(from + CHANNELS * k) * weight[k];
            odd += *(const Four *)(from + CHANNELS * (k + 1)) * weight[k + 1];
        }
        if (k < filter->taps) even += *(const Four *)(from + CHANNELS * k) * weight[k];
        even += odd;
        const Whole whole = __builtin_convertvector(even + .5f, Whole); /* towards 0, so what is not below 0 is rounded */
        for (int c = 0; c < CHANNELS; c++) out[CHANNELS * i + c] = (uint8_t)(whole[c] < 0 ? 0 : whole[c] > 255 ? 255 : whole[c]);
    }
}

typedef struct {
    const uint8_t *in;
    int64_t width;
    uint8_t *out;
    int64_t out_height, out_width;
    Filter rows, columns;
    float *row;
} Job;

typedef void Down(const uint8_t *, int64_t, int64_t, const float *, float *);

static inline __attribute__((always_inline)) void all(const Job *job, Down *down) {
    const int64_t width = CHANNELS * job->width;
    for (int64_t y = 0; y < job->out_height; y++) {
        const Filter *rows = &job->rows;
        down(job->in + rows->first[y] * width, width, rows->taps, rows->weight + y * rows->taps, job->row);
        across(job->row, &job->columns, job->out_width, job->out + y * CHANNELS * job->out_width);
    }
}

/* [height, width, 3] as [out_height, out_width, 3]. 0, or -1 for want of memory. */
int32_t resize_cubic(const uint8_t *in, int64_t height, int64_t width, uint8_t *out, int64_t out_height, int64_t out_width) {
    Job job = {in, width, out, out_height, out_width, {0}, {0}, malloc((size_t)(CHANNELS * width + 1) * sizeof(float))};
    int32_t failed = -(!job.row || prepare(&job.rows, height, out_height) || prepare(&job.columns, width, out_width));
    if (!failed) {
        job.row[CHANNELS * width] = 0;
#ifdef AVX2
        if (__builtin_cpu_supports("avx2")) all(&job, down_avx2);
        else
#endif
            all(&job, down);
    }
    release(&job.rows);
    release(&job.columns);
    free(job.row);
    return failed;
}
