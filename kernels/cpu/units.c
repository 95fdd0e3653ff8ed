// What else reads the taps: the shares of the hidden units.
//
// Weights are read once for a view, from memory: there are far more of them than caches hold. So they are kept in 16 bits, as a
// bundle has them, where this CPU turns 16 into 32 bits on the way (F16C), and several units share what is read of the taps.
// Sums are added up in one order everywhere, and nothing is fused: every path gives the same bits.
#include "mobilenet.h"
#include "paths.h"

enum { SUMS = 16 };  // at a time: an addition has to wait for the one before

void mobilenet_units(const float *weights, int units, int64_t count, const float *taps, float *sums) {
    for (int unit = 0; unit < units; unit++, weights += count) {
        float parts[SUMS] = {0}, sum = 0;
        int64_t i = 0;
        for (; i + SUMS <= count; i += SUMS)
            for (int k = 0; k < SUMS; k++) parts[k] += weights[i + k] * taps[i + k];
        for (; i < count; i++) sum += weights[i] * taps[i];
        for (int k = 0; k < SUMS; k++) sum += parts[k];
        sums[unit] = sum;
    }
}

#ifdef HAVE_AVX2
#include <immintrin.h>
#define TARGET __attribute__((target("avx2,f16c")))

enum { TOGETHER = 4 };  // units: their 8 sums, two of taps and what is at hand are the 16 registers

TARGET static inline __attribute__((always_inline)) __m256 eight(const uint16_t *halves) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves));
}

TARGET static inline __attribute__((always_inline)) void some(const uint16_t *weights, int units, int64_t count,
                                                              const float *taps, float *sums) {
    __m256 parts[TOGETHER][2];
    int64_t i = 0;
    for (int u = 0; u < units; u++) parts[u][0] = parts[u][1] = _mm256_setzero_ps();
    for (; i + SUMS <= count; i += SUMS) {
        __m256 low = _mm256_loadu_ps(taps + i), high = _mm256_loadu_ps(taps + i + 8);
        for (int u = 0; u < units; u++) {
            const uint16_t *row = weights + u * count + i;
            parts[u][0] = _mm256_add_ps(parts[u][0], _mm256_mul_ps(eight(row), low));
            parts[u][1] = _mm256_add_ps(parts[u][1], _mm256_mul_ps(eight(row + 8), high));
        }
    }
    for (int u = 0; u < units; u++) {
        float each[SUMS], sum = 0;
        _mm256_storeu_ps(each, parts[u][0]);
        _mm256_storeu_ps(each + 8, parts[u][1]);
        for (int64_t k = i; k < count; k++) sum += _cvtsh_ss(weights[u * count + k]) * taps[k];
        for (int k = 0; k < SUMS; k++) sum += each[k];
        sums[u] = sum;
    }
}

TARGET void mobilenet_units_half(const uint16_t *weights, int units, int64_t count, const float *taps, float *sums) {
    int unit = 0;
    for (; unit + TOGETHER <= units; unit += TOGETHER) some(weights + unit * count, TOGETHER, count, taps, sums + unit);
    for (; unit < units; unit++) some(weights + unit * count, 1, count, taps, sums + unit);
}
#else
void mobilenet_units_half(const uint16_t *weights, int units, int64_t count, const float *taps, float *sums) {
    (void)weights, (void)units, (void)count, (void)taps, (void)sums;  // nobody calls it, see mobilenet_has_halves
}
#endif
