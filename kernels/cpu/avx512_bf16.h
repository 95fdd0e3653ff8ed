// What the paths that multiply in bf16 share, AVX512_BF16 and AMX: 16 floats at once.
#ifndef METAQAP_AVX512_BF16_H
#define METAQAP_AVX512_BF16_H
#include <immintrin.h>

#include "blocks.h"

#define AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")))
#define INLINE AVX512_BF16 static inline __attribute__((always_inline))
#define WINDOW 18  // values from a window of the stem to the next, see stem_patches

typedef __m512 f32x16;

INLINE f32x16 from_bf16(__m256i bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)); }

void stem_patches(const Network *, const uint8_t *image, int y, const Memory *);  // stem_bf16.c
#endif
