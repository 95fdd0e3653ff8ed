// AVX2 in int8 without VNNI: products of bytes are summed two by two in 16 bits, which hold them, for weights are from -64
// to 64: 2 times 255 times 64 is less than 2^15.
#include "paths.h"
#ifdef HAVE_AVX2
#define TARGET __attribute__((target("avx2,fma")))
#define MOST_PIXELS 5  // by 16 outputs are 10 registers, weights 2, a pixel, a product, and ones
#define EVERY_SHARE TO_5
#include "avx2_int8.h"

INLINE Vector dot(Vector sum, Vector x, Vector weights) {
    return add(sum, multiply_pairs(_mm256_maddubs_epi16(x, weights), every_short(1)));
}

INLINE Vector add_pairs(Vector sum, Shorts a, Shorts b) { return add(sum, multiply_pairs(a, b)); }

#include "int8_vectors.h"

const Path avx2_int8 = INT8_PATH;
#endif
