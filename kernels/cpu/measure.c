// What a path could do at best, and where its time goes; see mobilenet.h.
#include <stddef.h>
#include <time.h>

#include "paths.h"

double mobilenet_peak(int set, int eight, int64_t rounds) {
    const Path *path = path_of(&(Network){.eight = eight}, set);
    return path && path->peak ? path->peak(rounds, eight) : 0;
}

// A path whose functions call those of another one, between two looks at the clock.
static _Thread_local struct {
    const Path *path;
    double seconds[PARTS], *block;
} watch;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define TIMED(part, call) \
    double start = now(); \
    watch.path->call;     \
    watch.seconds[part] += now() - start;

static void stem(const Network *n, const Block *b, const Memory *m, const uint8_t *image, int y, const Ring *r) {
    TIMED(STEM, stem(n, b, m, image, y, r))
}
static void expand(const Network *n, const Block *b, const Memory *m, int channel, Area area, const Ring *r) {
    TIMED(EXPAND, expand(n, b, m, channel, area, r))
}
static void count(const Block *b, const Memory *m, int channel, int first, int last, const Ring *r) {
    TIMED(COUNT, count(b, m, channel, first, last, r))
}
static void depthwise(const Network *n, const Block *b, const Memory *m, int channel, Area area, const Ring *r) {
    TIMED(DEPTHWISE, depthwise(n, b, m, channel, area, r))
}
static void project(const Network *n, const Block *b, const Memory *m, int first, int pixels, int keep) {
    TIMED(PROJECT, project(n, b, m, first, pixels, keep))
}

static void done(int block) {
    memcpy(watch.block + block * PARTS, watch.seconds, sizeof watch.seconds);
    memset(watch.seconds, 0, sizeof watch.seconds);
}

double mobilenet_times(const Network *n, int set, const uint8_t *image, void *workspace, float *taps, double *seconds) {
    Path timed = *path_of(n, set);
    watch.path = path_of(n, set), watch.block = seconds;
    memset(watch.seconds, 0, sizeof watch.seconds);
    timed.stem = stem, timed.expand = expand, timed.count = count, timed.depthwise = depthwise, timed.project = project;
    return run_along(&timed, n, image, workspace, taps, done);
}
