// The paths, and what of them this compiler can build.
#ifndef METAQAP_PATHS_H
#define METAQAP_PATHS_H
#include "blocks.h"

// A compiler that does not know an instruction set leaves its path out, not the library. `COMPILER` can be defined to play
// an older GCC.
#ifndef COMPILER
#if defined(__clang__)
#define COMPILER (__clang_major__ >= 14 ? 12 : __clang_major__ >= 12 ? 11 : 9)  // the GCC that knows as much
#else
#define COMPILER __GNUC__
#endif
#endif

#if defined(__x86_64__)
#define HAVE_AVX2
#define HAVE_AVX512
#if COMPILER >= 8
#define HAVE_AVX512_VNNI
#endif
#if COMPILER >= 10
#define HAVE_AVX512_BF16
#endif
#if COMPILER >= 11
#define HAVE_AVX_VNNI
#endif
#if COMPILER >= 12
#define HAVE_AMX
#endif
#endif

extern const Path portable_fp32, portable_int8, avx2_fp32, avx2_int8, avx_vnni_int8, avx512_fp32, avx512_int8, avx512_vnni_int8,
    avx512_bf16_path, amx_path;

// The path of an instruction set for a network; NULL if there is none.
const Path *path_of(const Network *, int set);

// See mobilenet_run; `done` is called with the number of each block that has been run, unless it is NULL.
double run_along(const Path *, const Network *, const uint8_t *image, void *workspace, float *taps, void (*done)(int block));
#endif
