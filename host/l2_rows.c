/* l2_rows.c - see l2_rows.h. The values are those that would stand in memory,
 * to the bit. */
#include "l2_rows.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "ops.h"

enum {
    PIECE = 256 << 10,       /* bytes read at once through the page cache */
    ASK = 128 << 10,         /* bytes announced at once: it takes no more */
    AHEAD = 4 << 20,         /* bytes announced ahead, and a block at least */
    ALIGN = KS_L2_FILE_ALIGN /* of what is read past it */
};

static size_t row_bytes(const ks_l2_rows *l2) {
    return ks_type_row_bytes(l2->file->type, l2->d);
}

static int64_t piece_rows(const ks_l2_rows *l2) {
    return KS_MAX(1, PIECE / (int64_t)row_bytes(l2));
}

static size_t padded(size_t size) {
    return (size + ALIGN - 1) / ALIGN * ALIGN;
}

/* Of the rows of a block as stored, with what alignment adds at both ends; of a
 * piece of them where f32 is not read in place. */
static size_t raw_bytes(const ks_l2_rows *l2) {
    if (l2->file->direct)
        return padded(KS_L2_BLOCK * row_bytes(l2)) + 2 * (size_t)ALIGN;
    if (l2->file->type == KS_F32) return padded(KS_L2_BLOCK * row_bytes(l2));
    return padded((size_t)piece_rows(l2) * row_bytes(l2));
}

size_t ks_l2_reader_bytes(const ks_l2_rows *l2) {
    if (!l2->file) return 0;
    size_t raw = raw_bytes(l2) * (l2->file->direct ? 2 : 1);
    size_t wide = padded(KS_L2_BLOCK * (size_t)l2->d * sizeof(float));
    return ALIGN + raw + (l2->file->type == KS_F32 ? 0 : wide);
}

/* ----------------------------------------------------------------- reading */

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

static int64_t block_at(const ks_l2_rows *l2, int32_t k) {
    return l2->blocks[k].begin * (int64_t)row_bytes(l2);
}

/* Rows of block k in a buffer that a direct read filled. */
static char *rows_in(const ks_l2_rows *l2, int32_t k, char *raw) {
    return raw + block_at(l2, k) % ALIGN;
}

static ks_status read_direct(const ks_l2_rows *l2, int32_t k, char *raw,
                             ks_err *err) {
    int64_t begin = block_at(l2, k) / ALIGN * ALIGN;
    int64_t end = l2->blocks[k].end * (int64_t)row_bytes(l2);
    return read_at(l2->file->fd, raw, padded((size_t)(end - begin)), begin,
                   err);
}

static void shift_rows(const ks_l2_rows *l2, int64_t rows, float *x) {
    const float *shift = l2->file->shift;
    for (int64_t i = 0; i < rows; i++) {
        float *restrict row = x + i * l2->d;
        for (int64_t j = 0; j < l2->d; j++) row[j] -= shift[j];
    }
}

/* Stored rows of a narrow type to f32, shifted, a piece at a time that stays in
 * cache. */
static void widen(const ks_l2_rows *l2, const char *from, int64_t rows,
                  float *to) {
    int64_t step = piece_rows(l2), d = l2->d;
    if (l2->file->type == KS_F32) return;
    for (int64_t i = 0; i < rows; i += step) {
        int64_t now = KS_MIN(step, rows - i);
        ks_dequantize(l2->file->type, from + (size_t)i * row_bytes(l2),
                      to + i * d, now * d);
        shift_rows(l2, now, to + i * d);
    }
}

/* ------------------------------------------------ through the page cache */

static void ask(const ks_l2_file *file, int64_t from, int64_t to) {
    for (; from < to; from += ASK)
        posix_fadvise(file->fd, from, KS_MIN(ASK, to - from),
                      POSIX_FADV_WILLNEED);
}

/* What block k adds to what the blocks ahead of it have announced. */
static void announce(const ks_l2_rows *l2, int32_t k, int32_t to,
                     int32_t next) {
    int64_t bytes = (int64_t)row_bytes(l2);
    int64_t ahead = KS_MAX(AHEAD, KS_L2_BLOCK * bytes);
    int64_t begin = block_at(l2, k), behind = l2->blocks[k].end * bytes;
    int64_t end = l2->blocks[to - 1].end * bytes;
    ask(l2->file, KS_MIN(begin + ahead, end), KS_MIN(behind + ahead, end));
    if (behind + ahead > end) { /* as much of where reading goes on */
        int64_t start = block_at(l2, next);
        ask(l2->file, start + KS_MAX(0, begin + ahead - end),
            KS_MIN(start + behind + ahead - end, l2->n * bytes));
    }
}

static ks_status get_cached(ks_l2_reader *r, int32_t k, ks_err *err) {
    ks_status st = KS_OK;
    const ks_l2_rows *l2 = r->l2;
    ks_l2_block b = l2->blocks[k];
    int64_t step = piece_rows(l2);
    size_t bytes = row_bytes(l2);
    for (int64_t i = b.begin; i < b.end; i += step) {
        int64_t rows = KS_MIN(step, b.end - i);
        float *to = r->x + (i - b.begin) * l2->d;
        char *from = l2->file->type == KS_F32 ? (char *)to : r->raw[0];
        KS_TRY(read_at(l2->file->fd, from, (size_t)rows * bytes,
                       i * (int64_t)bytes, err));
        widen(l2, from, rows, to);
    }
done:
    return st;
}

/* ------------------------------------------------------- past the page cache
 */

static void *read_ahead(void *user) {
    ks_l2_reader *r = user;
    for (;;) {
        while (sem_wait(&r->go)) continue; /* a signal */
        if (r->stop) return NULL;
        r->st = read_direct(r->l2, r->ahead, r->raw[1 - r->now], &r->err);
        sem_post(&r->done);
    }
}

/* The block that is being read ahead is there, or failed. */
static void await(ks_l2_reader *r) {
    if (r->ahead < 0) return;
    while (sem_wait(&r->done)) continue;
    r->ahead = -1;
}

static ks_status get_direct(ks_l2_reader *r, int32_t k, int32_t next,
                            ks_err *err) {
    ks_status st = KS_OK;
    const ks_l2_rows *l2 = r->l2;
    bool there = r->ahead == k;
    await(r);
    if (there && r->st != KS_OK && err) *err = r->err;
    if (there) KS_TRY(r->st);
    r->now = 1 - r->now;
    if (!there) KS_TRY(read_direct(l2, k, r->raw[r->now], err));
    if (r->started) {
        r->ahead = next;
        sem_post(&r->go);
    }
    char *from = rows_in(l2, k, r->raw[r->now]);
    if (l2->file->type == KS_F32) r->x = (float *)(void *)from;
    widen(l2, from, l2->blocks[k].end - l2->blocks[k].begin, r->x);
done:
    return st;
}

/* ------------------------------------------------------------------ reader */

void ks_l2_reader_open(ks_l2_reader *r, const ks_l2_rows *l2, void *memory) {
    *r = (ks_l2_reader){.l2 = l2, .ahead = -1};
    if (!l2->file) return;
    size_t raw = raw_bytes(l2);
    r->raw[0] = (char *)memory + (ALIGN - (uintptr_t)memory % ALIGN) % ALIGN;
    r->raw[1] = r->raw[0] + raw;
    r->x = (float *)(void *)(r->raw[0] + (l2->file->type == KS_F32 ? 0
                                          : l2->file->direct       ? 2 * raw
                                                                   : raw));
    if (!l2->file->direct) return;
    sem_init(&r->go, 0, 0);
    sem_init(&r->done, 0, 0);
    /* without a thread blocks are read when they are asked for */
    r->started = pthread_create(&r->thread, NULL, read_ahead, r) == 0;
}

ks_status ks_l2_reader_get(ks_l2_reader *r, int32_t k, int32_t to, int32_t next,
                           const float **x, ks_err *err) {
    ks_status st = KS_OK;
    const ks_l2_rows *l2 = r->l2;
    if (!l2->file) {
        *x = l2->x + l2->blocks[k].begin * l2->d;
        return KS_OK;
    }
    if (l2->file->direct) {
        KS_TRY(get_direct(r, k, k + 1 < to ? k + 1 : next, err));
    } else {
        announce(l2, k, to, next);
        KS_TRY(get_cached(r, k, err));
    }
    *x = r->x;
done:
    return st;
}

void ks_l2_reader_close(ks_l2_reader *r) {
    if (!r->l2 || !r->l2->file || !r->l2->file->direct) return;
    await(r);
    r->stop = true;
    if (r->started) {
        sem_post(&r->go);
        pthread_join(r->thread, NULL);
    }
    sem_destroy(&r->go);
    sem_destroy(&r->done);
    *r = (ks_l2_reader){0};
}
