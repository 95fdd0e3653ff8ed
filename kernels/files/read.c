/* Files read many at a time: `metaqap_fast/input/local.py` calls this without the interpreter's lock.
 *
 * Only what is easy is done here: a regular file that is as long as it said. Whatever else there is to say of a file
 * is said by the Python that reads one at a time.
 */

#define _GNU_SOURCE /* statx, which older versions of glibc have too; fstat is another symbol in newer ones */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    const char *path; /* NULL: it is not opened */
    int64_t size;     /* in bytes */
    int64_t mtime_ns; /* since 1970 */
    uint8_t *data;    /* where its bytes go; NULL: it is not read */
    int32_t fd;       /* -1 where it is not open */
    int32_t complete; /* whether all of it is there */
} File;

/* Open each and see how long it is. What is no regular file is closed again; a FIFO is not waited for. */
void files_open(File *files, int64_t count) {
    for (File *file = files; file < files + count; file++) {
        struct statx seen;
        file->complete = 0;
        file->data = NULL;
        file->fd = file->path == NULL ? -1 : open(file->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (file->fd < 0) continue;
        if (statx(file->fd, "", AT_EMPTY_PATH, STATX_TYPE | STATX_SIZE | STATX_MTIME, &seen) != 0 || !S_ISREG(seen.stx_mode)) {
            close(file->fd);
            file->fd = -1;
            continue;
        }
        file->size = (int64_t)seen.stx_size;
        file->mtime_ns = seen.stx_mtime.tv_sec * 1000000000 + seen.stx_mtime.tv_nsec;
    }
}

/* Read those that have a place to go to; close all. */
void files_read(File *files, int64_t count) {
    for (File *file = files; file < files + count; file++) {
        if (file->fd < 0) continue;
        int64_t done = 0;
        while (file->data != NULL && done < file->size) {
            ssize_t more = read(file->fd, file->data + done, (size_t)(file->size - done));
            if (more < 0 && errno == EINTR) continue;
            if (more <= 0) break;
            done += more;
        }
        file->complete = file->data != NULL && done == file->size;
        close(file->fd);
        file->fd = -1;
    }
}
