// What int8_vectors.h asks for, in AVX2, but for `dot`, `add_pairs` and TARGET.
#include <immintrin.h>

#define INLINE TARGET static inline __attribute__((always_inline))
#define LANES 8
#ifndef MOST_PIXELS
#define MOST_PIXELS 6
#define EVERY_SHARE TO_6
#endif

typedef __m256i Vector, Shorts;  // of 8 32-bit numbers, of 16 16-bit ones

INLINE Vector load_vector(const void *from) { return _mm256_loadu_si256(from); }
INLINE void store_vector(void *to, Vector x) { _mm256_storeu_si256(to, x); }
INLINE Vector no_vector(void) { return _mm256_setzero_si256(); }
INLINE Vector every(const void *from) { return _mm256_castps_si256(_mm256_broadcast_ss(from)); }  // 4 bytes
INLINE Vector add(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
INLINE Vector shifted(Vector a, Vector by) { return _mm256_srav_epi32(a, by); }

INLINE Shorts every_short(int x) { return _mm256_set1_epi16((int16_t)x); }
INLINE Shorts least(Shorts a, Shorts b) { return _mm256_min_epi16(a, b); }
INLINE Shorts most(Shorts a, Shorts b) { return _mm256_max_epi16(a, b); }
INLINE Shorts add_shorts(Shorts a, Shorts b) { return _mm256_add_epi16(a, b); }
INLINE Shorts add_saturated(Shorts a, Shorts b) { return _mm256_adds_epi16(a, b); }
INLINE Shorts times(Shorts a, Shorts b) { return _mm256_mullo_epi16(a, b); }
INLINE Shorts scaled(Shorts a, Shorts b) { return _mm256_mulhrs_epi16(a, b); }  // (a b + 2^14) >> 15
INLINE Shorts without_bits(Shorts a, int bits) { return _mm256_sra_epi16(a, _mm_cvtsi32_si128(bits)); }
// 16-bit numbers, of a and b by turns: of channels 0 to 3 of every eight, and 4 to 7.
INLINE Shorts low_pairs(Shorts a, Shorts b) { return _mm256_unpacklo_epi16(a, b); }
INLINE Shorts high_pairs(Shorts a, Shorts b) { return _mm256_unpackhi_epi16(a, b); }
INLINE Vector multiply_pairs(Shorts a, Shorts b) { return _mm256_madd_epi16(a, b); }  // sums of two products
// With saturation, in order.
INLINE Shorts packed(Vector a, Vector b) { return _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8); }
// Cut to 0 .. cap, in order.
INLINE Shorts cut(Vector a, Vector b, Shorts cap) {
    return _mm256_min_epu16(_mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xD8), cap);
}

// Numbers from 0 to 255 as bytes.
INLINE void store_shorts(uint8_t *to, Shorts x) {
    _mm_storeu_si128((void *)to, _mm_packus_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
}
