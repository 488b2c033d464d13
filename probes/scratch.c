/* scratch.c - see scratch.h. */
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A file in the folder that no name leads to. */
static int open_nameless(const char *folder) {
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return fd;
    char *path = NULL; /* a file system that makes none: named for a moment */
    if (asprintf(&path, "%s/.keystep-XXXXXX", folder) < 0) return -1;
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0) unlink(path);
    free(path);
    return fd;
}

ks_status ks__scratch_open(int *fd, const char *folder, int64_t bytes,
                           ks_err *err) {
    ks_status st = KS_OK;
    *fd = open_nameless(folder);
    KS_CHECK(*fd >= 0, KS_IO,
             "%s: cannot make a scratch file for rows that do not fit in "
             "--memory: %s",
             folder, strerror(errno));
    int failed = fallocate(*fd, 0, 0, bytes) ? errno : 0;
    KS_CHECK(!failed || failed == EOPNOTSUPP || failed == ENOSYS, KS_IO,
             "%s: no room for a scratch file of %lld bytes, rows that do not "
             "fit in --memory: %s",
             folder, (long long)bytes, strerror(failed));
    if (failed)
        KS_CHECK(ftruncate(*fd, bytes) == 0, KS_IO,
                 "%s: no room for a scratch file of %lld bytes: %s", folder,
                 (long long)bytes, strerror(errno));
done:
    if (st != KS_OK && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return st;
}

ks_status ks__scratch_write(int fd, const void *from, size_t size, int64_t at,
                            ks_err *err) {
    for (size_t done = 0; done < size;) {
        ssize_t some = pwrite(fd, (const char *)from + done, size - done,
                              at + (off_t)done);
        if (some < 0 && errno == EINTR) continue;
        if (some <= 0)
            return ks_fail(err, KS_IO, "a scratch file cannot be written: %s",
                           some < 0 ? strerror(errno) : "nothing is taken");
        done += (size_t)some;
    }
    return KS_OK;
}

ks_status ks__scratch_read(int fd, void *to, size_t size, int64_t at,
                           ks_err *err) {
    for (size_t done = 0; done < size;) {
        ssize_t some =
            pread(fd, (char *)to + done, size - done, at + (off_t)done);
        if (some < 0 && errno == EINTR) continue;
        if (some <= 0)
            return ks_fail(err, KS_IO, "a scratch file cannot be read: %s",
                           some < 0 ? strerror(errno) : "it ends early");
        done += (size_t)some;
    }
    return KS_OK;
}
