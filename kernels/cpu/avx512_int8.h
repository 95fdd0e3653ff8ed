// What int8_vectors.h asks for, in AVX512, but for `dot`, `add_pairs` and TARGET.
#include <immintrin.h>
#include <string.h>

#define INLINE TARGET static inline __attribute__((always_inline))
#define LANES 16
#define MOST_PIXELS 12
#define EVERY_SHARE TO_12

typedef __m512i Vector, Shorts;  // of 16 32-bit numbers, of 32 16-bit ones

INLINE Vector load_vector(const void *from) { return _mm512_loadu_si512(from); }
INLINE void store_vector(void *to, Vector x) { _mm512_storeu_si512(to, x); }
INLINE Vector no_vector(void) { return _mm512_setzero_si512(); }
INLINE Vector every(const void *from) {  // 4 bytes, at any address
    int32_t bytes;
    memcpy(&bytes, from, sizeof bytes);
    return _mm512_set1_epi32(bytes);
}
INLINE Vector add(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
INLINE Vector shifted(Vector a, Vector by) { return _mm512_srav_epi32(a, by); }

INLINE Shorts every_short(int x) { return _mm512_set1_epi16((int16_t)x); }
INLINE Shorts least(Shorts a, Shorts b) { return _mm512_min_epi16(a, b); }
INLINE Shorts most(Shorts a, Shorts b) { return _mm512_max_epi16(a, b); }
INLINE Shorts add_shorts(Shorts a, Shorts b) { return _mm512_add_epi16(a, b); }
INLINE Shorts add_saturated(Shorts a, Shorts b) { return _mm512_adds_epi16(a, b); }
INLINE Shorts times(Shorts a, Shorts b) { return _mm512_mullo_epi16(a, b); }
INLINE Shorts scaled(Shorts a, Shorts b) { return _mm512_mulhrs_epi16(a, b); }  // (a b + 2^14) >> 15
INLINE Shorts without_bits(Shorts a, int bits) { return _mm512_sra_epi16(a, _mm_cvtsi32_si128(bits)); }
// 16-bit numbers, of a and b by turns: of channels 0 to 3 of every eight, and 4 to 7.
INLINE Shorts low_pairs(Shorts a, Shorts b) { return _mm512_unpacklo_epi16(a, b); }
INLINE Shorts high_pairs(Shorts a, Shorts b) { return _mm512_unpackhi_epi16(a, b); }
INLINE Vector multiply_pairs(Shorts a, Shorts b) { return _mm512_madd_epi16(a, b); }  // sums of two products
// With saturation, in order.
INLINE Shorts packed(Vector a, Vector b) {
    return _mm512_permutexvar_epi64(_mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0), _mm512_packs_epi32(a, b));
}
// Cut to 0 .. cap, in order.
INLINE Shorts cut(Vector a, Vector b, Shorts cap) {
    Shorts both = _mm512_permutexvar_epi64(_mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0), _mm512_packus_epi32(a, b));
    return _mm512_min_epu16(both, cap);
}

// Numbers from 0 to 255 as bytes.
INLINE void store_shorts(uint8_t *to, Shorts x) { _mm256_storeu_si256((void *)to, _mm512_cvtepi16_epi8(x)); }
