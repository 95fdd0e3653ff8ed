// AVX512 without bf16: fp32, 16 floats at once. 12 pixels by 32 outputs take 24 of the 32 registers.
#include "paths.h"
#ifdef HAVE_AVX512
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define INLINE TARGET static inline __attribute__((always_inline))
#define LANES 16
#define MOST_PIXELS 12
#define EVERY_SHARE TO_12

typedef __m512 Vector;

INLINE Vector load_vector(const void *from) { return _mm512_loadu_ps(from); }
INLINE void store_vector(float *to, Vector x) { _mm512_storeu_ps(to, x); }
INLINE Vector every(const void *from) { return _mm512_set1_ps(*(const float *)from); }
INLINE Vector to_vector(float x) { return _mm512_set1_ps(x); }
INLINE Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
INLINE Vector least(Vector a, Vector b) { return _mm512_min_ps(a, b); }
INLINE Vector most(Vector a, Vector b) { return _mm512_max_ps(a, b); }
INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Vector dot(Vector sum, Vector x, Vector weights) { return multiply_add(x, weights, sum); }

#include "fp32_vectors.h"

const Path avx512_fp32 = FP32_PATH;
#endif
