// AVX-VNNI: int8, 8 sums of four products at once. Of CPUs that have it and no AVX512.
#include "paths.h"
#ifdef HAVE_AVX_VNNI
#define TARGET __attribute__((target("avx2,fma,avxvnni")))
#include "avx2_int8.h"

INLINE Vector dot(Vector sum, Vector x, Vector weights) { return _mm256_dpbusd_avx_epi32(sum, x, weights); }
INLINE Vector add_pairs(Vector sum, Shorts a, Shorts b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }

#include "int8_vectors.h"

const Path avx_vnni_int8 = INT8_PATH;
#endif
