// AVX2 with FMA: fp32, 8 floats at once. 6 pixels by 16 outputs take 12 of the 16 registers, the weights 2, a pixel 1.
#include "paths.h"
#ifdef HAVE_AVX2
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))
#define INLINE TARGET static inline __attribute__((always_inline))
#define LANES 8
#define MOST_PIXELS 6
#define EVERY_SHARE TO_6

typedef __m256 Vector;

INLINE Vector load_vector(const void *from) { return _mm256_loadu_ps(from); }
INLINE void store_vector(float *to, Vector x) { _mm256_storeu_ps(to, x); }
INLINE Vector every(const void *from) { return _mm256_broadcast_ss(from); }
INLINE Vector to_vector(float x) { return _mm256_set1_ps(x); }
INLINE Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
INLINE Vector least(Vector a, Vector b) { return _mm256_min_ps(a, b); }
INLINE Vector most(Vector a, Vector b) { return _mm256_max_ps(a, b); }
INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Vector dot(Vector sum, Vector x, Vector weights) { return multiply_add(x, weights, sum); }

#include "fp32_vectors.h"

const Path avx2_fp32 = FP32_PATH;
#endif
