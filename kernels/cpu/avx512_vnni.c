// AVX512-VNNI: int8, 16 sums of four products at once.
#include "paths.h"
#ifdef HAVE_AVX512_VNNI
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")))
#include "avx512_int8.h"

INLINE Vector dot(Vector sum, Vector x, Vector weights) { return _mm512_dpbusd_epi32(sum, x, weights); }
INLINE Vector add_pairs(Vector sum, Shorts a, Shorts b) { return _mm512_dpwssd_epi32(sum, a, b); }

#include "int8_vectors.h"

const Path avx512_vnni_int8 = INT8_PATH;
#endif
