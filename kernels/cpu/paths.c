// Which path runs a network, and what of a path is there: in this library, and in this CPU.
#include "paths.h"

#include <stddef.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static const Path *const paths[SETS][2] = {
    [PORTABLE] = {&portable_fp32, &portable_int8},
#ifdef HAVE_AVX2
    [AVX2] = {&avx2_fp32, &avx2_int8},
#endif
#ifdef HAVE_AVX_VNNI
    [AVX_VNNI] = {NULL, &avx_vnni_int8},
#endif
#ifdef HAVE_AVX512
    [AVX512] = {&avx512_fp32, &avx512_int8},
#endif
#ifdef HAVE_AVX512_VNNI
    [AVX512_VNNI] = {NULL, &avx512_vnni_int8},
#endif
#ifdef HAVE_AVX512_BF16
    [AVX512_BF16] = {&avx512_bf16_path, NULL},
#endif
#ifdef HAVE_AMX
    [AMX] = {&amx_path, &amx_path},
#endif
};

const Path *path_of(const Network *n, int set) { return paths[set][n->eight]; }

#if defined(__x86_64__)
static int bit(unsigned value, int place) { return value >> place & 1; }

static int offered(int set) {
    unsigned a, b, c, d, seven_b, seven_c, seven_d, one_a = 0, most, saved = 0, high;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    if (bit(c, 27)) __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));  // registers that the operating system saves
    int fma = bit(c, 12) && bit(c, 28) && (saved & 6) == 6;
    if (!__get_cpuid_count(7, 0, &most, &seven_b, &seven_c, &seven_d)) return 0;
    if (most) __get_cpuid_count(7, 1, &one_a, &b, &c, &d);
    int avx2 = fma && bit(seven_b, 5);
    int avx512 = avx2 && (saved & 0xE0) == 0xE0 &&  // F, DQ, BW, VL
                 bit(seven_b, 16) && bit(seven_b, 17) && bit(seven_b, 30) && bit(seven_b, 31);
    int vnni = avx512 && bit(seven_c, 11), bf16 = avx512 && bit(one_a, 5);
    switch (set) {
        case AVX2: return avx2;
        case AVX_VNNI: return avx2 && bit(one_a, 4);
        case AVX512: return avx512;
        case AVX512_VNNI: return vnni;
        case AVX512_BF16: return bf16;
        default: break;
    }
    // Tiles: bf16, AVX512-FP16, tiles, int8. The kernel gives a process their registers (state component 18) when it asks.
    return vnni && bf16 && bit(seven_d, 22) && bit(seven_d, 23) && bit(seven_d, 24) && bit(seven_d, 25) &&
           syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

int mobilenet_has_halves(void) {
    unsigned a, b, c, d;
    return offered(AVX2) && __get_cpuid(1, &a, &b, &c, &d) && bit(c, 29);  // F16C
}
#else
static int offered(int set) { return (void)set, 0; }
int mobilenet_has_halves(void) { return 0; }
#endif

int mobilenet_has(int set, int eight) {
    return (paths[set][eight] ? BUILT : 0) | (set == PORTABLE || offered(set) ? OFFERED : 0);
}
