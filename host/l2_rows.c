/* l2_rows.c - see l2_rows.h. Pieces are read, widened and shifted while they
 * lie in cache; the values are those that would stand in memory, to the bit. */
#include "l2_rows.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "ops.h"

enum {
    PIECE = 256 << 10, /* bytes read at once */
    ASK = 128 << 10,   /* bytes announced at once: the kernel takes no more */
    AHEAD = 4 << 20    /* bytes announced ahead, and a block at least */
};

static size_t row_bytes(const ks_l2_rows *l2) {
    return ks_type_row_bytes(l2->file->type, l2->d);
}

static int64_t piece_rows(const ks_l2_rows *l2) {
    return KS_MAX(1, PIECE / (int64_t)row_bytes(l2));
}

static size_t padded(size_t size) {
    return (size + 63) / 64 * 64;
}

size_t ks_l2_read_bytes(const ks_l2_rows *l2) {
    if (!l2->file) return 0;
    size_t rows = padded(KS_L2_BLOCK * (size_t)l2->d * sizeof(float));
    if (l2->file->type == KS_F32) return rows;
    return rows + padded((size_t)piece_rows(l2) * row_bytes(l2));
}

static ks_status read_at(int fd, void *to, size_t size, int64_t at,
                         ks_err *err) {
    for (size_t done = 0; done < size;) {
        ssize_t got =
            pread(fd, (char *)to + done, size - done, at + (off_t)done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            return ks_fail(err, KS_IO,
                           "the scratch file of a layer cannot be read: %s",
                           got < 0 ? strerror(errno) : "it ends early");
        done += (size_t)got;
    }
    return KS_OK;
}

static void shift_rows(const ks_l2_rows *l2, int64_t rows, float *x) {
    const float *shift = l2->file->shift;
    for (int64_t i = 0; i < rows; i++) {
        float *restrict row = x + i * l2->d;
        for (int64_t j = 0; j < l2->d; j++) row[j] -= shift[j];
    }
}

ks_status ks_l2_read(const ks_l2_rows *l2, ks_l2_block block, void *memory,
                       const float **x, ks_err *err) {
    ks_status st = KS_OK;
    const ks_l2_file *file = l2->file;
    int64_t d = l2->d;
    *x = file ? memory : l2->x + block.begin * d;
    if (!file) return KS_OK;
    size_t bytes = row_bytes(l2);
    void *raw = (char *)memory + padded(KS_L2_BLOCK * (size_t)d * sizeof **x);
    int64_t step = piece_rows(l2);
    for (int64_t i = block.begin; i < block.end; i += step) {
        int64_t rows = KS_MIN(step, block.end - i);
        float *to = (float *)memory + (i - block.begin) * d;
        void *from = file->type == KS_F32 ? (void *)to : raw;
        KS_TRY(read_at(file->fd, from, (size_t)rows * bytes, i * (int64_t)bytes,
                       err));
        if (from != to) ks_dequantize(file->type, raw, to, rows * d);
        shift_rows(l2, rows, to);
    }
    if (file->cold)
        posix_fadvise(file->fd, block.begin * (off_t)bytes,
                      (block.end - block.begin) * (off_t)bytes,
                      POSIX_FADV_DONTNEED);
done:
    return st;
}

static void ask(const ks_l2_file *file, int64_t from, int64_t to) {
    for (; from < to; from += ASK)
        posix_fadvise(file->fd, from, KS_MIN(ASK, to - from),
                      POSIX_FADV_WILLNEED);
}

/* What block k adds to what the blocks ahead of it have announced. */
void ks_l2_announce(const ks_l2_rows *l2, int32_t k, int32_t to,
                     int32_t next) {
    if (!l2->file) return;
    int64_t bytes = (int64_t)row_bytes(l2);
    int64_t ahead = KS_MAX(AHEAD, KS_L2_BLOCK * bytes);
    int64_t begin = l2->blocks[k].begin * bytes;
    int64_t behind = l2->blocks[k].end * bytes;
    int64_t end = l2->blocks[to - 1].end * bytes;
    ask(l2->file, KS_MIN(begin + ahead, end), KS_MIN(behind + ahead, end));
    if (behind + ahead > end) { /* as much of where reading goes on */
        int64_t start = l2->blocks[next].begin * bytes;
        ask(l2->file, start + KS_MAX(0, begin + ahead - end),
            KS_MIN(start + behind + ahead - end, l2->n * bytes));
    }
}
