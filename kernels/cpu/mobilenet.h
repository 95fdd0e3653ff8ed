// A network of MobileNet blocks on a CPU, one image on one thread. Block by block and a few rows at a time, so that a
// block's wide activation (expand, depthwise) stays in the core's own cache; the statistics that the head reads are taken
// while its values are in registers. Layer by layer, as inference libraries go, such a network waits for memory instead.
// Sums have a fixed order: an image's result depends on nothing but the image.
//
// A path is an implementation for an instruction set; README.md has them all, with the layouts of memory. Sums of products
// are fp32 or int32 in each.
#ifndef METAQAP_MOBILENET_H
#define METAQAP_MOBILENET_H
#include <stdint.h>

// The instruction sets that have paths, see paths.h.
enum { PORTABLE, AVX2, AVX_VNNI, AVX512, AVX512_VNNI, AVX512_BF16, AMX, SETS };

// A 1x1 convolution as a matrix product: K inputs to N outputs, zero where padded.
// Weights in bf16 are stored in pairs of inputs, [N/16][K/32][16][16][2]; in int8 in fours, [N/16][K/64][16][16][4]. Where
// there are no more than 16 inputs, avx has these stand for 32. For amx, outputs that go to the ring and, in int8, inputs
// from the strip are in an order of their own (packing.py), and the former hold a factor of 2^-112 in bf16; see fp16.h.
typedef struct {
    int32_t inputs, outputs;
    const void *weights;
    const float *bias;         // [N rounded up to 32]
    const float *scale;        // as bias: what a product is multiplied by before; 1 for bf16
} Product;

// What goes to the ring in int8: product + bias, >> shift, from 0 to `cap`, which stands for ReLU6's 6, counts steps of its
// own for every output: `cap` is from 2^10 to 2^11, or less where sums are coarser. The stem's sums, which 16 bits do not
// hold: >> wide_shift, in fp16 times 2^-13, and so is their cap. NULL in bf16, but for the last two.
typedef struct {
    const int32_t *bias;         // [N rounded up to 32], in the order of the weights; inputs are 128 larger than they mean
    const int32_t *wide_shift;   // as bias: the stem's
    const uint16_t *shift, *cap; // [N rounded up to 32], in the outputs' own order
    const uint16_t *step;        // as cap, fp16, amx, the stem and the last block: what the ring is multiplied by for its
                                 // statistics; what a depthwise convolution multiplies it by is in `depthwise`
    const float *times;          // as cap: what these are multiplied by then
} Steps;

// What makes a projection's sums in int8 what the next block reads; see int8.h. Not for amx.
typedef struct {
    const int32_t *start, *shift;  // [N rounded up to 32]
    const int16_t *times;          // as start
    int32_t kept, added, half;
} Narrowing;

typedef struct {
    int32_t height, width;     // of the input
    int32_t kernel, stride, top, left;
    int32_t residual;          // the input is added to the output
    int32_t wide;              // channels, a multiple of 16
    Product expand;            // outputs = wide; weights NULL in the first block, whose wide input is the stem's
    Steps steps;
    const void *depthwise;     // avx: fp32 [wide/16][kernel kernel][16]; amx: fp16 [wide/32][kernel kernel + 5][32], the
                               // weights and what else a channel has (see amx.c); NULL in the last block, which only expands
    const float *depthwise_bias;  // avx: [wide]
    Product project;           // inputs = wide
    float residual_scale;      // int8: what the input is multiplied by where it is added, see amx.c
    Narrowing narrowing;
} Block;

typedef struct {
    int32_t size;              // side of the image in pixels; AMX: a multiple of 512, AVX512_BF16: of 32
    int32_t eight;             // products in int8
    int32_t top, left;         // the stem's padding in pixels
    uint16_t outside[4];       // the colour around the image, which the normalisation makes 0, as pixels are read: bf16, or
                               // from 0 to 255
    Product stem;              // bf16: 27 inputs in the order of columns, rows, colours, of pixels times 2^-16; int8: rows,
                               // columns, colours, and three zeros after every row
    Steps steps;               // amx: of the stem's outputs
    int32_t blocks;
    const Block *block;
    float epsilon, bias;
    const float *head;         // [all taps]
    float around[4];           // fp32: as `outside`
} Network;

// What is so of an instruction set: the library has a path for it that computes in int8 (`eight`) or in floating point, and
// the CPU and the operating system offer it to this process.
enum { BUILT = 1, OFFERED = 2 };
int mobilenet_has(int set, int eight);

// Bytes of memory, 64-byte aligned and zero at first, that one call of mobilenet_run works in.
int64_t mobilenet_workspace(const Network *network, int set);

// image [size, size, 3] uint8 -> the network's prediction. `taps` gets what the head reads: for the stem, every depthwise
// convolution and the last expansion, one after another, mean, standard deviation (of the variance plus epsilon) and
// maximum of every channel, [3 C].
double mobilenet_run(const Network *network, int set, const uint8_t *image, void *workspace, float *taps);

// What else reads the taps: sums[u] is row u of `weights` [units, count] times `taps` [count]. Added up in the same order by
// any number of threads, which no library of linear algebra promises.
void mobilenet_units(const float *weights, int units, int64_t count, const float *taps, float *sums);

// The same of weights in 16 bits, and whether it runs here.
void mobilenet_units_half(const uint16_t *weights, int units, int64_t count, const float *taps, float *sums);
int mobilenet_has_halves(void);

// The same run by a clock: `seconds` [blocks][PARTS] of each block's parts. Reading the clock costs a few percent.
enum { STEM, EXPAND, COUNT, DEPTHWISE, PROJECT, PARTS };
double mobilenet_times(const Network *network, int set, const uint8_t *image, void *workspace, float *taps, double *seconds);

// What a core can do at best: `rounds` times as many independent products as its registers hold, of registers alone, by the
// instructions that the path multiplies with. The operations that were done, of which a product and its sum are two; 0 where
// the path has no such loop.
double mobilenet_peak(int set, int eight, int64_t rounds);
#endif
