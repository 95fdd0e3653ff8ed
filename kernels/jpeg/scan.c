/* The data of one scan of a JPEG (ITU T.81): where it ends, and what can be seen of it without decoding.
 *
 * `metaqap_fast/formats/scan.py` says the same in Python, and is what this is tested against.
 */

#include <stdint.h>
#include <string.h>

#define ZEROS 64

typedef struct {
    int64_t end;      /* where the next marker, or the fill before it, stands; `length` without one */
    int32_t marked;   /* whether there is one */
    int32_t in_order; /* restart markers: 0, 1, ... 7, 0, ... */
    int32_t zeros;    /* whether there is a run of 64 zeros */
} Scan;

/* Of 64 places in a row one is looked at; only around a zero are its neighbours. */
static int32_t has_zeros(const uint8_t *data, int64_t at, int64_t end) {
    for (int64_t i = at + ZEROS - 1; i < end;) {
        if (data[i] != 0) {
            i += ZEROS;
            continue;
        }
        int64_t first = i;
        while (first > at && i - first < ZEROS - 1 && data[first - 1] == 0) first--;
        int64_t behind = i + 1;
        while (behind < end && behind - first < ZEROS && data[behind] == 0) behind++;
        if (behind - first >= ZEROS) return 1;
        i = behind + ZEROS; /* data[behind] is no zero, or the end */
    }
    return 0;
}

/* Bytes `at` to `length` of `data`. `restarts`: restart markers belong to the scan and do not end it. */
void jpeg_scan(const uint8_t *data, int64_t length, int64_t at, int32_t restarts, Scan *found) {
    const uint8_t *place = data + at, *stop = data + length;
    int32_t next = 0;
    found->in_order = 1;
    found->marked = 0;
    while (place < stop && (place = memchr(place, 0xFF, (size_t)(stop - place))) != NULL) {
        const uint8_t *behind = place + 1;
        while (behind < stop && *behind == 0xFF) behind++;
        if (behind == stop) break;
        if (restarts && (*behind & 0xF8) == 0xD0) {
            found->in_order &= (*behind & 7) == next;
            next = (next + 1) & 7;
        } else if (*behind != 0) {
            found->marked = 1;
            stop = place;
            break;
        }
        place = behind + 1;
    }
    found->end = stop - data;
    found->zeros = has_zeros(data, at, found->end);
}
