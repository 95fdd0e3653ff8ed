// The way through the network; see mobilenet.h.
#include "mobilenet.h"

#include <math.h>

#include "paths.h"

static void stats_start(const Stats *s, int channels) {
    memset(s->sum, 0, channels * sizeof(double));
    memset(s->square, 0, channels * sizeof(double));
    memset(s->maximum, 0, channels * sizeof(float));
}

// `times`: what values are to be multiplied by, or NULL.
static float *stats_end(const Stats *s, const float *times, int channels, double pixels, float epsilon, float *taps) {
    for (int c = 0; c < channels; c++) {
        double mean = s->sum[c] / pixels, variance = s->square[c] / pixels - mean * mean, unit = times ? times[c] : 1;
        taps[c] = (float)(mean * unit);
        taps[channels + c] = (float)sqrt((variance > 0 ? variance * unit * unit : 0) + epsilon);
        taps[2 * channels + c] = s->maximum[c] * (float)unit;
    }
    return taps + 3 * channels;
}

static int64_t row_bytes(const Path *p, const Block *b) {
    return (int64_t)up(b->wide, p->plane) / p->plane * ring_width(b) * PIXEL;
}

static int rows_together(const Network *n, const Path *p, const Block *b) {
    return p->rows_together ? p->rows_together(n, b) : strip_rows(b);
}

static void *take(uintptr_t *at, int64_t bytes) {
    uintptr_t here = *at;
    *at += lines(bytes);
    return (void *)here;
}

// Lays the buffers out from `at` on, each the size of the largest block's; the end.
static uintptr_t lay_out(const Network *n, const Path *p, uintptr_t at, Memory *m) {
    int64_t narrow = 0, residual = 0, ring = 0, strip = 0;
    int wide = up(n->block->wide, 32);
    for (int i = 0; i < n->blocks; i++) {
        const Block *b = n->block + i;
        int64_t found[4] = {
            b->depthwise ? (out_pixels(b) + APART) * p->narrow_bytes(n, b->project.outputs) : 0,
            b->depthwise && n->eight ? (out_pixels(b) + APART) * 2 * up(b->project.outputs, 32) : 0,
            ring_rows(b) * row_bytes(p, b) + ring_width(b) * PIXEL,
            ((int64_t)rows_together(n, p, b) * out_side(b, b->width) + APART) * p->strip_bytes(n, b->wide),
        };
        int64_t *largest[4] = {&narrow, &residual, &ring, &strip};
        for (int k = 0; k < 4; k++)
            if (found[k] > *largest[k]) *largest[k] = found[k];
        if (up(b->wide, 32) > wide) wide = up(b->wide, 32);
    }
    for (int k = 0; k < 2; k++) {
        m->narrow[k] = take(&at, narrow);
        m->residual[k] = take(&at, residual);
    }
    m->ring = take(&at, ring);
    m->strip = take(&at, strip);
    m->rows = take(&at, 4 * 3 * line_size(n));
    m->patches = take(&at, 2 * 9 * patch_columns(n));
    m->order = take(&at, 2 * 9 * 32);
    Stats *stats[2] = {&m->stem, &m->wide};
    for (int k = 0; k < 2; k++) {
        stats[k]->sum = take(&at, 8 * wide);
        stats[k]->square = take(&at, 8 * wide);
        stats[k]->maximum = take(&at, 4 * wide);
    }
    m->origin = take(&at, 2 * wide);
    return at;
}

int64_t mobilenet_workspace(const Network *n, int path) {
    Memory memory;
    return (int64_t)lay_out(n, path_of(n, path), 0, &memory);
}

static void run_block(const Network *n, const Block *b, const Path *p, const uint8_t *image, Memory *m, int keep) {
    int rows = out_side(b, b->height), width = out_side(b, b->width), step = strip_rows(b), made = 0, projected = 0;
    m->together = rows_together(n, p, b);
    Ring ring = {m->ring, ring_rows(b), ring_width(b), row_bytes(p, b), NULL};
    int planes = (int)(ring.slots * ring.row / ring.width / PIXEL);
    ring.zeros = ring.rows + ring.slots * ring.row;
    memset(ring.zeros, 0, ring.width * PIXEL);
    for (int i = 0; i < planes && b->depthwise; i++) {  // zeros left and right of every row
        char *row = ring.rows + (int64_t)i * ring.width * PIXEL, *right = row + (b->left + b->width) * PIXEL;
        memset(row, 0, b->left * PIXEL);
        memset(right, 0, (ring.width - b->left - b->width) * PIXEL);
    }
    for (int first = 0; first < rows; first += step) {
        int last = first + step < rows ? first + step : rows;
        int need = b->depthwise ? (last - 1) * b->stride - b->top + b->kernel : last;
        need = need < b->height ? need : b->height;
        for (int y = made; y < need && !b->expand.weights; y++) p->stem(n, b, m, image, y, &ring);
        // What is made of 32 channels is read while it is in the nearest cache.
        for (int left = 0, done = 0, tile = tile_width(b); left < b->width; left += tile) {
            Area from = {made, need, left, left + tile}, to = {first, last, done, width};
            if (from.right < b->width) to.right = ((from.right + b->left - b->kernel) / b->stride + 1) / 8 * 8;
            for (int c = 0; c < b->wide; c += p->channels) {
                if (b->expand.weights) p->expand(n, b, m, c, from, &ring);
                if (b->depthwise) p->depthwise(n, b, m, c, to, &ring);
                else p->count(b, m, c, first, last, &ring);
            }
            done = to.right;
        }
        made = need;
        if (!b->depthwise || (last < rows && last - projected < m->together)) continue;
        p->project(n, b, m, projected * width, (last - projected) * width, keep);
        projected = last;
    }
}

double mobilenet_run(const Network *n, int path, const uint8_t *image, void *workspace, float *taps) {
    return run_along(path_of(n, path), n, image, workspace, taps, NULL);
}

double run_along(const Path *p, const Network *n, const uint8_t *image, void *workspace, float *taps, void (*done)(int)) {
    const float *first = taps;
    Memory m;
    lay_out(n, p, (uintptr_t)workspace, &m);
    stats_start(&m.stem, n->block->wide);
    unsigned before = p->begin ? p->begin() : 0;
    for (int i = 0; i < n->blocks; i++) {
        const Block *b = n->block + i;
        stats_start(&m.wide, b->wide);
        run_block(n, b, p, image, &m, i + 1 < n->blocks && n->block[i + 1].residual);
        if (i == 0)
            taps = stats_end(&m.stem, p->whole ? n->steps.times : NULL, b->wide, (double)b->height * b->width, n->epsilon, taps);
        taps = stats_end(&m.wide, p->whole ? b->steps.times : NULL, b->wide, (double)out_pixels(b), n->epsilon, taps);
        void *narrow = m.narrow[0], *residual = m.residual[0];
        m.narrow[0] = m.narrow[1], m.narrow[1] = narrow;
        m.residual[0] = m.residual[1], m.residual[1] = residual;
        if (done) done(i);
    }
    if (p->end) p->end(before);
    double prediction = n->bias, sums[8] = {0};  // several, for an addition has to wait for the one before
    int64_t count = taps - first, i = 0;
    for (; i + 8 <= count; i += 8)
        for (int k = 0; k < 8; k++) sums[k] += (double)first[i + k] * n->head[i + k];
    for (; i < count; i++) prediction += (double)first[i] * n->head[i];
    for (int k = 0; k < 8; k++) prediction += sums[k];
    return prediction;
}
