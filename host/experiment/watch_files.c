/* watch_files.c - files of a run's folder, none of which is to be trusted. See
 * watch.h. */
#include "watch.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A pipe would keep us waiting, a device has no end. -1: no file. */
static int open_file(const char *path, struct stat *info) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return -1;
    if (fstat(fd, info) == 0 && S_ISREG(info->st_mode)) return fd;
    close(fd);
    return -1;
}

json_t *ks__watch_json(const char *path) {
    enum { MOST = 16 << 20 };
    struct stat info;
    json_t *root = NULL;
    int fd = open_file(path, &info);
    if (fd < 0) return NULL;
    size_t n = info.st_size > MOST ? 0 : (size_t)info.st_size;
    char *text = malloc(n + 1);
    if (text && n && read(fd, text, n) == (ssize_t)n)
        root = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    close(fd);
    if (json_is_object(root)) return root;
    json_decref(root);
    return NULL;
}

double ks__watch_age(const char *path) {
    struct stat info;
    if (stat(path, &info) != 0) return NAN;
    return KS_MAX(0, difftime(time(NULL), info.st_mtime));
}

void ks__watch_text(char *out, size_t n, const char *text) {
    size_t at = 0, length = strlen(text);
    for (size_t i = 0; i < length && at + 1 < n;) {
        unsigned char c = (unsigned char)text[i];
        size_t k = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        k = KS_MIN(k, length - i);
        bool good = ks_utf8_check(text + i, k) == k;
        /* U+0080 to U+009F are controls too */
        bool control = c < ' ' || c == 127 ||
                       (c == 0xc2 && (unsigned char)text[i + 1] < 0xa0);
        if (good && !control && at + k >= n) break;
        if (good && !control)
            memcpy(out + at, text + i, k);
        else
            out[at] = '?';
        at += good && !control ? k : 1;
        i += good ? k : 1;
    }
    out[at] = 0;
}

void ks__watch_last_line(const char *path, char *out, size_t n) {
    char tail[4097];
    struct stat info;
    int fd = open_file(path, &info);
    out[0] = 0;
    if (fd < 0) return;
    off_t from = KS_MAX(0, info.st_size - (off_t)sizeof tail + 1);
    ssize_t got = pread(fd, tail, sizeof tail - 1, from);
    close(fd);
    if (got <= 0) return;
    for (ssize_t i = 0; i < got; i++)
        if (!tail[i]) tail[i] = '?';
    tail[got] = 0;
    char *save = NULL;
    for (char *line = strtok_r(tail, "\r\n", &save); line;
         line = strtok_r(NULL, "\r\n", &save))
        if (line[strspn(line, " \t")]) ks__watch_text(out, n, line);
}
