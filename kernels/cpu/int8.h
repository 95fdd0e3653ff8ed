// The arithmetic in int8, of every path but AMX's: whole numbers alone, so that all paths agree bit for bit.
//
// 1x1 convolutions: what they read is from 0 to 255, weights are from -127 to 127, sums are exact in 32 bits. AVX2 and
// AVX512 without VNNI are given smaller weights (avx2_int8.c); the arithmetic is the same.
// - An expansion reads values plus a zero. Its sums, the bias among them, are cut to 0 .. cap, which stands for 6 and is a
//   number of 15 bits at most, and times a power of two (`shift`) go to the ring, where 6 is from 2^14 to 2^15 - 1. The
//   stem's, which 15 bits do not hold, are shifted to the right first.
// - A projection's sums start at `start`, their bias. Shifted to the right they are cut to 16 bits; (sum times + 2^14) >> 15
//   counts 2^`kept`-th parts of what the next block counts. What the block read, kept like that, times `added` over 2^15,
//   is added twice (`added` is half of what it stands for), with saturation. Without these parts, rounded, from -`half` to
//   `half` - 1, plus `half`, this is what the next block reads.
// Depthwise convolutions, in 16 bits: a product is (value weight + 2^14) >> 15, and is added to the sum, which starts at
// the bias, with saturation, row by row. Sums are cut to 0 .. MOST, which stands for 6 or for the largest value that the
// calibration saw; (sum SCALE + 2^14) >> 15, is what the projection reads.
// Statistics are sums of whole numbers, exact: of the sums of depthwise convolutions, and of the ring over 8 (COUNTED).
#ifndef METAQAP_INT8_H
#define METAQAP_INT8_H
#include "product.h"

enum { BIAS, MOST, SCALE, OWN };  // what a channel of a depthwise convolution has beside its weights
#define COUNTED (1 << 12)         // over 2^15
#endif
