// AMX and AVX512-FP16: products in bf16 or int8, the depthwise convolution in fp16; see mobilenet.h.
//
// Narrow activations (between blocks) stand in planes of so many channels as a tile is deep, 32 in bf16, 64 in int8, fewer
// where there are no more: [C/32][pixels][32]. The strip (what is projected) is alike, but never less deep. In int8 they are
// what the scales make of them, plus 128, and what a later block adds is kept in bf16 too, [C/32][pixels][32]. The ring is
// fp16, in planes of 32; see fp16.h for what its numbers mean.
#include "paths.h"
#ifdef HAVE_AMX
#include "depthwise.h"
#include "vectors.h"

static int depth(int eight, int channels) {
    if (channels <= 16) return 16;
    return !eight || channels <= 32 ? 32 : 64;
}
static int64_t narrow_bytes(const Network *n, int channels) { return (2 - n->eight) * up(channels, depth(n->eight, channels)); }

// Tiles of 16 rows of 64 bytes; and floats too small for full precision are 0, which costs nothing. What was set before.
FP16 static unsigned begin_tiles(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {1, 0, {0}, {0}, {0}};
    for (int t = 0; t < 8; t++) config.bytes[t] = 64, config.rows[t] = 16;
    __asm__ volatile("" : : "m"(config) : "memory");  // GCC does not see that the next line reads all of it
    _tile_loadconfig(&config);
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | _MM_FLUSH_ZERO_ON | 0x40);  // and read as 0
    return before;
}
FP16 static void end_tiles(unsigned before) {
    _tile_release();
    _mm_setcsr(before);
}

// ---- the parts of a block -------------------------------------------------------------------------------------------

// Statistics of rows of the ring.
FP16_INLINE void count_rows(const Ring *ring, const Block *b, int left, int first, int last, const Steps *s, const Stats *stats,
                            int channel) {
    f16x32 origin = _mm512_setzero_ph(), step = _mm512_loadu_ph(s->step + channel);
    Partial32 partial;
    partial32_start(&partial);
    for (int y = first; y < last; y++) {
        const uint16_t *pixels = (const uint16_t *)ring_row(ring, y, channel / 32) + 32 * left;
        if (y == first) origin = _mm512_mul_ph(_mm512_load_ph(pixels + 32 * INSIDE), step);
        for (int x = 0; x < b->width; x += 8) {
            f16x32 d[8];
            for (int t = 0; t < 8; t++) d[t] = _mm512_fmsub_ph(_mm512_load_ph(pixels + 32 * (x + t)), step, origin);
            partial32_add(&partial, d, flushes(x, b->width));
        }
    }
    f32x16 low = _mm512_loadu_ps(s->times + channel), high = _mm512_loadu_ps(s->times + channel + 16);
    partial32_end(&partial, origin, (last - first) * b->width, low, high, stats, channel);
}

// Every product is begun before the values of the one before are made: tiles and vectors work side by side.
FP16_INLINE void expand_as(int kind, const Block *b, const Products *p, int k, Area area, const Ring *ring) {
    char sums[4096] __attribute__((aligned(64)));
    int x = area.left, y = area.first;
    Affine f = {0};
    Whole w = {0};
    if (kind == BF16) f = affine(&b->expand, BF16, k);
    else w = whole(&b->steps, k);
    uint16_t *to = (uint16_t *)ring_row(ring, y, k / 32) + b->left * 32;
    for (int q = 0; q < p->pixels; q += 16) {
        if (q % 32 == 0) advance(p, kind, q, k, sums);
        const char *from = sums + q % 32 * 128;
        if (kind == BF16) floats_to_ring(from, &f, to + 32 * x);
        else whole_to_ring(from, &w, to + 32 * x);
        x += 16;
        if (x == area.right) x = area.left, y++, to = (uint16_t *)ring_row(ring, y, k / 32) + b->left * 32;
    }
}
FP16 static void expand(const Network *n, const Block *b, const Memory *m, int channel, Area area, const Ring *ring) {
    int d = depth(n->eight, b->expand.inputs), run = area.right - area.left;
    if (by_vectors(n, b)) {
        if (d == 16) widen_rows(b, m, d, 4, channel, area, ring);
        else widen_rows(b, m, d, 6, channel, area, ring);
        return;
    }
    Products p = {operands(&b->expand, n->eight, m->narrow[0], (int64_t)b->height * b->width, d),
                  area.first * b->width + area.left,
                  (area.last - area.first) * run,
                  b->wide,
                  run,
                  b->width - run};
    memset((char *)m->narrow[0] + p.o.steps * p.o.plane, 0, 64);  // read with the last pixels, times 0: let it be a number
    if (channel == 0) begin(&p, n->eight ? EIGHT : BF16);
    if (n->eight) expand_as(EIGHT, b, &p, channel, area, ring);
    else expand_as(BF16, b, &p, channel, area, ring);
}

FP16_INLINE void stem_in_tiles(const Network *n, const Block *b, const Products *p, int k, uint16_t *to) {
    char sums[4096] __attribute__((aligned(64)));
    Affine f = affine(&n->stem, BF16, k);
    for (int x = 0; x < b->width; x += 16) {
        if (x % 32 == 0) advance(p, BF16, x, k, sums);
        floats_to_ring(sums + x % 32 * 128, &f, to + 32 * x);
    }
}
FP16 static void stem(const Network *n, const Block *b, const Memory *m, const uint8_t *image, int y, const Ring *ring) {
    Products p = {operands(&n->stem, 0, m->patches, b->width, 32), 0, b->width, b->wide, b->width, 0};
    p.o.row = 2 * WINDOW;
    if (n->eight) {
        copy_lines(n, m, image, y);
    } else {
        stem_patches(n, image, y, m);
        begin(&p, BF16);
    }
    for (int k = 0; k < b->wide; k += 32) {
        uint16_t *to = (uint16_t *)ring_row(ring, y, k / 32) + b->left * 32;
        if (n->eight) widen_lines(n, m, y, k, to, b->width);
        else stem_in_tiles(n, b, &p, k, to);
        count_rows(ring, b, b->left, y, y + 1, &n->steps, &m->stem, k);
    }
}

FP16 static void count(const Block *b, const Memory *m, int channel, int first, int last, const Ring *ring) {
    count_rows(ring, b, 0, first, last, &b->steps, &m->wide, channel);
}

FP16_INLINE void strip_as(const Block *b, int mode, const Memory *m, int c, Area area, const Ring *ring) {
    if (b->kernel == 3 && b->stride == 1) strip(b, 3, 1, mode, m, c, area, ring);
    else if (b->kernel == 3) strip(b, 3, 2, mode, m, c, area, ring);
    else if (b->stride == 1) strip(b, 5, 1, mode, m, c, area, ring);
    else strip(b, 5, 2, mode, m, c, area, ring);
}
FP16 static void depthwise(const Network *n, const Block *b, const Memory *m, int channel, Area area, const Ring *ring) {
    if (!n->eight) strip_as(b, AS_BF16, m, channel, area, ring);
    else if (channel % 64) strip_as(b, SECOND, m, channel, area, ring);
    else strip_as(b, FIRST, m, channel, area, ring);
}

// Where a projection's outputs go.
typedef struct {
    const uint16_t *added;  // bf16: what is added to the outputs, [pixels][32], or NULL
    uint16_t *kept;         // bf16: what a later block adds, or NULL
    uint8_t *to;            // the outputs, `row` bytes a pixel
    int row;
} Outputs;

// Block j of 16 outputs of pixel t, as numbers from -127 to 127, which may be exceeded.
FP16_INLINE __m512i whole_output(const char *sums, int t, int j, const Affine *f, int add, f32x16 times, int keep, Outputs o) {
    f32x16 x = value(sums, EIGHT, t, j, f);
    if (add) x = _mm512_fmadd_ps(from_bf16(_mm256_load_si256((const void *)(o.added + 32 * t + 16 * j))), times, x);
    if (keep) _mm256_store_si256((void *)(o.kept + 32 * t + 16 * j), (__m256i)_mm512_cvtneps_pbh(x));
    return _mm512_cvtps_epi32(x);
}
// Sums of 16 pixels by 32 outputs (16 where `two` is 0) -> numbers from 0 to 255, 64 values at once. Packing takes four of
// each of what it packs by turns. What that does to outputs, the order of the weights makes up for; to pixels, `sorted`.
FP16_INLINE void sums_to_bytes(const char *sums, int two, const Affine *f, int add, f32x16 times, int keep, Outputs o) {
    const __m512i sorted =
        two ? _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0) : _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    for (int t = 0; t < 16; t += 4 - 2 * two) {
        __m512i x[4];
        for (int i = 0; i < 4; i++) x[i] = whole_output(sums, t + (two ? i / 2 : i), two && i % 2, f, add, times, keep, o);
        __m512i all = _mm512_packs_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3]));
        all = _mm512_xor_si512(all, _mm512_set1_epi8(-128));  // plus 128
        all = two ? _mm512_permutexvar_epi64(sorted, all) : _mm512_permutexvar_epi32(sorted, all);
        if (!two) {
            _mm512_store_si512((void *)(o.to + 16 * t), all);
            continue;
        }
        _mm256_store_si256((void *)(o.to + o.row * t), _mm512_castsi512_si256(all));
        _mm256_store_si256((void *)(o.to + o.row * (t + 1)), _mm512_extracti64x4_epi64(all, 1));
    }
}
// The same -> bf16.
FP16_INLINE void sums_to_bf16(const char *sums, int two, const Affine *f, Outputs o) {
    for (int t = 0; t < 16; t++)
        for (int j = 0; j <= two; j++) {
            f32x16 x = value(sums, BF16, t, j, f);
            if (o.added) x = _mm512_add_ps(x, from_bf16(_mm256_load_si256((const void *)(o.added + o.row / 2 * t + 16 * j))));
            _mm256_store_si256((void *)(o.to + o.row * t + 32 * j), (__m256i)_mm512_cvtneps_pbh(x));
        }
}
FP16_INLINE void sums_to_outputs(const char *sums, int kind, int two, const Affine *f, f32x16 times, Outputs o) {
    if (kind == BF16) sums_to_bf16(sums, two, f, o);
    else if (o.added && o.kept) sums_to_bytes(sums, two, f, 1, times, 1, o);
    else if (o.added) sums_to_bytes(sums, two, f, 1, times, 0, o);
    else if (o.kept) sums_to_bytes(sums, two, f, 0, times, 1, o);
    else sums_to_bytes(sums, two, f, 0, times, 0, o);
}

// Where outputs from `output` on of pixels from `first` on go; and those of the next 16 pixels.
FP16_INLINE Outputs outputs(int kind, const Block *b, const Memory *m, int plane, int first, int output, int keep) {
    int size = kind == BF16 ? 2 : 1;
    int64_t pixels = out_pixels(b), at = ((output / plane * pixels + first) * plane + output % plane) * size;
    Outputs o = {NULL, NULL, (uint8_t *)m->narrow[1] + at, plane * size};
    if (b->residual && kind == BF16) o.added = (const uint16_t *)((const uint8_t *)m->narrow[0] + at);
    else if (b->residual) o.added = (const uint16_t *)m->residual[0] + (output / 32 * pixels + first) * 32;
    if (keep && kind != BF16) o.kept = (uint16_t *)m->residual[1] + (output / 32 * pixels + first) * 32;
    return o;
}
FP16_INLINE Outputs after(Outputs o, int kind) {
    if (o.added) o.added += kind == BF16 ? 8 * o.row : 16 * 32;
    if (o.kept) o.kept += 16 * 32;
    o.to += 16 * o.row;
    return o;
}
FP16_INLINE void project_as(int kind, const Network *n, const Block *b, const Memory *m, int first, int pixels, int keep) {
    int count = b->project.outputs, plane = depth(n->eight, count);
    int64_t together = (int64_t)m->together * out_side(b, b->width);
    Products p = {operands(&b->project, n->eight, m->strip, together, n->eight ? 64 : 32), 0, pixels, count, pixels, 0};
    char sums[4096] __attribute__((aligned(64)));
    f32x16 times = _mm512_set1_ps(b->residual_scale);
    if (plane == 16) {
        Affine f = affine(&b->project, kind, 0);
        Outputs to = outputs(kind, b, m, 16, first, 0, keep);
        product_of_one(&p.o, kind, 0, pixels / 16, NULL);
        for (int x = 0; x < pixels; x += 16, to = after(to, kind)) {
            if (x % 64 == 0) product_of_one(&p.o, kind, x + 64, (pixels - x) / 16 - 4, sums);
            sums_to_outputs(sums + x % 64 * 64, kind, 0, &f, times, to);
        }
        return;
    }
    begin(&p, kind);
    for (int k = 0; k < count; k += 32) {
        Affine f = affine(&b->project, kind, k);
        Outputs to = outputs(kind, b, m, plane, first, k, keep);
        for (int x = 0; x < pixels; x += 16, to = after(to, kind)) {
            if (x % 32 == 0) advance(&p, kind, x, k, sums);
            sums_to_outputs(sums + x % 32 * 128, kind, 1, &f, times, to);
        }
    }
}
FP16 static void project(const Network *n, const Block *b, const Memory *m, int first, int pixels, int keep) {
    if (n->eight) project_as(EIGHT, n, b, m, first, pixels, keep);
    else project_as(BF16, n, b, m, first, pixels, keep);
}

static int64_t strip_bytes(const Network *n, int channels) { return (2 - n->eight) * up(channels, 64); }

// Of each product's 16x16 sums there are four, as in `product`: the next one need not wait for the one before.
FP16_INLINE void products_of_tiles(int kind, int64_t rounds) {
    for (int64_t i = 0; i < rounds; i++) {
        MULTIPLY(0, 4, 6);
        MULTIPLY(1, 4, 7);
        MULTIPLY(2, 5, 6);
        MULTIPLY(3, 5, 7);
    }
}
FP16 static double peak(int64_t rounds, int eight) {
    unsigned before = begin_tiles();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    if (eight) products_of_tiles(EIGHT, rounds);
    else products_of_tiles(BF16, rounds);
    end_tiles(before);
    return 4.0 * 16 * 16 * (eight ? 64 : 32) * 2 * (double)rounds;
}

const Path amx_path = {.plane = 32,
                       .channels = 32,
                       .narrow_bytes = narrow_bytes,
                       .strip_bytes = strip_bytes,
                       .rows_together = rows_together,
                       .begin = begin_tiles,
                       .end = end_tiles,
                       .stem = stem,
                       .expand = expand,
                       .count = count,
                       .depthwise = depthwise,
                       .project = project,
                       .peak = peak};
#endif
