/* l2_scratch.c - the file of rows that do not fit in memory: made, and read
 * through the page cache or past it, whichever is faster. */
#include <fcntl.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "l2_state.h"
#include "scratch.h"

static int64_t file_bytes(const ks_l2 *l2) {
    return l2->n * (int64_t)ks_type_row_bytes(l2->file.type, l2->d);
}

ks_status ks__l2_open_scratch(ks_l2 *l2, const char *folder, ks_err *err) {
    int64_t bytes = file_bytes(l2);
    bytes =
        (bytes + KS_L2_FILE_ALIGN - 1) / KS_L2_FILE_ALIGN * KS_L2_FILE_ALIGN;
    return ks__scratch_open(&l2->file.fd, folder, bytes, err);
}

/* Bytes that the kernel could keep in its page cache. */
static int64_t cache_bytes(void) {
    int64_t bytes = 0;
    char *text = NULL;
    if (ks_read_file("/proc/meminfo", SIZE_MAX, &text, NULL, NULL) == KS_OK) {
        const char *at = strstr(text, "\nMemAvailable:");
        if (at) bytes = strtoll(at + 14, NULL, 10) << 10;
    }
    free(text);
    text = NULL;
    if (ks_read_file("/sys/fs/cgroup/memory.max", SIZE_MAX, &text, NULL,
                     NULL) == KS_OK) {
        int64_t most = strtoll(text, NULL, 10); /* "max": 0 */
        if (most > 0) bytes = KS_MIN(bytes, most);
    }
    free(text);
    return bytes;
}

/* Passes go past the page cache from now on. */
static void go_direct(ks_l2 *l2) {
    if (fdatasync(l2->file.fd)) return;
    posix_fadvise(l2->file.fd, 0, 0, POSIX_FADV_DONTNEED);
    l2->file.direct = fcntl(l2->file.fd, F_SETFL, O_DIRECT) == 0;
}

/* A page cache that could not hold the file beside what else is there would
 * read it from the disk in every pass, and copy it. */
void ks__l2_choose_way(ks_l2 *l2, ks_l2_way way) {
    bool full = cache_bytes() < 2 * file_bytes(l2);
    l2->may_be_direct = way == KS_L2_ANY && !full;
    if (way == KS_L2_DIRECT || (way == KS_L2_ANY && full)) go_direct(l2);
}

/* Bytes a second that the disk has, from a part of the file; 0: unknown. */
static double disk_rate(const ks_l2 *l2) {
    enum { REQUEST = 4 << 20, REQUESTS = 8, READERS = 2 };
    char path[40];
    char *memory = NULL;
    double rate = 0;
    bool failed = false;
    snprintf(path, sizeof path, "/proc/self/fd/%d", l2->file.fd);
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd < 0 || file_bytes(l2) < REQUESTS * (int64_t)REQUEST ||
        sync_file_range(l2->file.fd, 0, REQUESTS * (off_t)REQUEST,
                        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                            SYNC_FILE_RANGE_WAIT_AFTER) ||
        ks_alloc(&memory, READERS * (size_t)REQUEST + KS_L2_FILE_ALIGN, 1,
                 "rows", NULL) != KS_OK)
        goto done;
    char *to = memory + KS_L2_FILE_ALIGN - (uintptr_t)memory % KS_L2_FILE_ALIGN;
    double start = ks_seconds();
#pragma omp parallel for num_threads(READERS) schedule(dynamic, 1)
    for (int k = 0; k < REQUESTS; k++)
        if (pread(fd, to + omp_get_thread_num() * (ptrdiff_t)REQUEST, REQUEST,
                  k * (off_t)REQUEST) != REQUEST)
#pragma omp atomic write
            failed = true;
    rate = failed ? 0 : REQUESTS * (double)REQUEST / (ks_seconds() - start);
done:
    free(memory);
    if (fd >= 0) close(fd);
    return rate;
}

/* A disk faster than passes through the page cache, whose copies cost processor
 * time, is asked itself. */
void ks__l2_weigh_way(ks_l2 *l2, double seconds) {
    if (!l2->may_be_direct) return;
    l2->may_be_direct = false;
    if (disk_rate(l2) > 1.1 * (double)file_bytes(l2) / seconds) go_direct(l2);
}
