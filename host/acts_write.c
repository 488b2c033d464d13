/* acts_write.c - rows on their way into the file: a bounded ring between the
 * caller, who computes, and one writer thread, which checksums, writes at
 * fixed offsets, syncs and journals.
 *
 * Writes are buffered: the page cache merges the short runs of a layer-major
 * file far better than O_DIRECT could (a batch gives each layer only a few
 * rows), and a second thread starts write-back early so that a sync finds
 * little left.
 * The cost of syncing is spread: one fdatasync of the file and one of the
 * journal cover every commit of the last seconds. */
#include "acts_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* One group of writes: rows that lie side by side in the file. */
enum { GROUP_PIECES = 64, GROUP_ITEMS = 512 };
/* Start write-back after so many bytes; sync at the latest after so many. */
static const uint64_t FLUSH_BYTES = (uint64_t)16 << 20;
static const uint64_t SYNC_BYTES = (uint64_t)2 << 30;

/* ------------------------------------------------------------------- input */

static ks_status io_error(const ks_acts *acts, const char *doing, ks_err *err) {
    return ks_fail(err, KS_IO, "%s: cannot %s: %s", acts->part, doing,
                   strerror(errno));
}

/* pread that fails on a short file */
static ks_status read_at(const ks_acts *acts, void *to, size_t n, uint64_t at,
                         ks_err *err) {
    for (size_t got = 0; got < n;) {
        ssize_t now =
            pread(acts->fd, (char *)to + got, n - got, (off_t)(at + got));
        if (now < 0 && errno == EINTR) continue;
        if (now < 0) return io_error(acts, "read", err);
        if (now == 0)
            return ks_fail(err, KS_IO, "%s: ends before byte %llu", acts->part,
                           (unsigned long long)(at + n));
        got += (size_t)now;
    }
    return KS_OK;
}

ks_status ks__acts_run_sum(const ks_acts *acts, int64_t begin, int64_t end,
                           uint32_t *crc, ks_err *err) {
    ks_status st = KS_OK;
    uint32_t *sums = NULL;
    size_t capacity = 0;
    *crc = 0;
    for (int i = 0; i < acts->layout.n_sets; i++) {
        const ks__acts_set *set = &acts->layout.sets[i];
        int64_t row = ks__acts_rows_until(acts, set, begin);
        int64_t n = ks__acts_rows_until(acts, set, end) - row;
        if (n == 0) continue;
        KS_TRY(ks_grow(&sums, &capacity, (size_t)n, sizeof *sums, "checksums",
                       err));
        for (int32_t l = 0; l < set->n_layers; l++) {
            KS_TRY(read_at(acts, sums, (size_t)n * 4,
                           ks__acts_sum_at(set, l, row), err));
            *crc = ks__crc32c(*crc, sums, (size_t)n * 4);
        }
    }
done:
    free(sums);
    return st;
}

/* ------------------------------------------------------------------ output */

/* pwritev in full; changes the vector. */
static ks_status write_at(const ks_acts *acts, struct iovec *piece, int n,
                          uint64_t at, ks_err *err) {
    while (n) {
        ssize_t wrote = pwritev(acts->fd, piece, n, (off_t)at);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return io_error(acts, "write", err);
        at += (uint64_t)wrote;
        while (n && (size_t)wrote >= piece->iov_len) {
            wrote -= (ssize_t)piece->iov_len;
            piece++, n--;
        }
        if (!n) break;
        piece->iov_base = (char *)piece->iov_base + wrote;
        piece->iov_len -= (size_t)wrote;
    }
    return KS_OK;
}

/* Rows of one layer in one write; their checksums wait. Items follow each
 * other in the file. */
static ks_status write_group(ks_acts *acts, const ks__acts_item *const *items,
                             int n, ks_err *err) {
    ks_status st = KS_OK;
    struct iovec pieces[GROUP_PIECES];
    const ks__acts_item *head = items[0];
    int64_t rows = 0;
    for (int i = 0; i < n; i++) rows += items[i]->n;
    KS_TRY(ks_grow(&acts->sums, &acts->sums_capacity,
                   acts->n_sums + (size_t)rows, sizeof *acts->sums, "checksums",
                   err));
    KS_TRY(ks_grow(&acts->sum_runs, &acts->sum_runs_capacity,
                   acts->n_sum_runs + 1, sizeof *acts->sum_runs, "checksums",
                   err));
    acts->sum_runs[acts->n_sum_runs++] =
        (ks__acts_item){.set = head->set,
                        .layer = head->layer,
                        .row = head->row,
                        .n = rows,
                        .at = acts->n_sums * sizeof *acts->sums,
                        .bytes = (size_t)rows * sizeof *acts->sums};
    for (int i = 0; i < n; i++) {
        uint8_t *data = acts->ring + items[i]->at;
        pieces[i] = (struct iovec){data, items[i]->bytes};
        for (int64_t r = 0; r < items[i]->n;
             r++, data += acts->layout.row_bytes)
            acts->sums[acts->n_sums++] =
                ks__crc32c(0, data, acts->layout.row_bytes);
    }
    KS_TRY(write_at(
        acts, pieces, n,
        ks__acts_row_at(&acts->layout, head->set, head->layer, head->row),
        err));
    acts->unsynced += (uint64_t)rows * (acts->layout.row_bytes + 4);
done:
    return st;
}

static int by_place(const ks__acts_item *x, const ks__acts_item *y) {
    if (x->set != y->set) return x->set < y->set ? -1 : 1;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* A row queued twice keeps its order: the last one wins. */
static int items_by_place(const void *a, const void *b) {
    const ks__acts_item *x = *(const ks__acts_item *const *)a;
    const ks__acts_item *y = *(const ks__acts_item *const *)b;
    int order = by_place(x, y);
    return order ? order : x < y ? -1 : x > y;
}

static int sums_by_place(const void *a, const void *b) {
    const ks__acts_item *x = a, *y = b;
    int order = by_place(x, y);
    return order ? order : x->at < y->at ? -1 : x->at > y->at;
}

static bool follows(const ks__acts_item *a, const ks__acts_item *b) {
    return a->set == b->set && a->layer == b->layer && a->row + a->n == b->row;
}

/* A few bytes a row and layer: written one by one they would dirty the same
 * pages again for every batch, and write-back would rewrite them each time. */
static ks_status write_sums(ks_acts *acts, ks_err *err) {
    ks_status st = KS_OK;
    struct iovec pieces[GROUP_PIECES];
    const ks__acts_item *runs = acts->sum_runs;
    uint8_t *sums = (uint8_t *)acts->sums;
    if (acts->n_sum_runs)
        qsort(acts->sum_runs, acts->n_sum_runs, sizeof *runs, sums_by_place);
    for (size_t i = 0, end; i < acts->n_sum_runs; i = end) {
        int n = 0;
        end = i;
        do {
            pieces[n++] = (struct iovec){sums + runs[end].at, runs[end].bytes};
            end++;
        } while (end < acts->n_sum_runs && n < GROUP_PIECES &&
                 follows(&runs[end - 1], &runs[end]));
        KS_TRY(write_at(
            acts, pieces, n,
            ks__acts_sum_at(runs[i].set, runs[i].layer, runs[i].row), err));
    }
    acts->n_sums = acts->n_sum_runs = 0;
done:
    return st;
}

static ks_status write_items(ks_acts *acts, const ks__acts_item **items, int n,
                             ks_err *err) {
    ks_status st = KS_OK;
    qsort(items, (size_t)n, sizeof *items, items_by_place);
    for (int i = 0, end; i < n; i = end) {
        end = i + 1;
        while (end < n && end - i < GROUP_PIECES &&
               follows(items[end - 1], items[end]))
            end++;
        KS_TRY(write_group(acts, items + i, end - i, err));
    }
done:
    return st;
}

/* -------------------------------------------------------------- durability */

/* Bytes first, then the line that vouches for them. */
static ks_status sync_and_journal(ks_acts *acts, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(write_sums(acts, err));
    if (acts->unsynced || acts->n_runs) {
        if (fdatasync(acts->fd) != 0) KS_TRY(io_error(acts, "sync", err));
        acts->unsynced = 0;
    }
    for (size_t i = 0; i < acts->n_runs; i++)
        KS_TRY(ks__acts_run_sum(acts, acts->runs[i].begin, acts->runs[i].end,
                                &acts->runs[i].crc, err));
    KS_TRY(ks__journal_append(&acts->journal, acts->runs, acts->n_runs, err));
    acts->n_runs = 0;
done:
    return st;
}

static ks_status note_run(ks_acts *acts, const ks__acts_item *item,
                          ks_err *err) {
    ks_status st = ks_grow(&acts->runs, &acts->runs_capacity, acts->n_runs + 1,
                           sizeof *acts->runs, "the journal", err);
    if (st != KS_OK) return st;
    acts->runs[acts->n_runs++] =
        (ks__acts_run){item->row, item->row + item->n, 0};
    return KS_OK;
}

/* ----------------------------------------------------------------- threads */

/* Starting write-back waits where the disk's queue is full: a thread of its
 * own does it, while the writer fills more pages. A failure shows at the sync.
 */
static void *flusher(void *argument) {
    ks_acts *acts = argument;
    pthread_mutex_lock(&acts->mutex);
    while (true) {
        while (!acts->flush_wanted && !acts->flush_stop)
            pthread_cond_wait(&acts->flush, &acts->mutex);
        if (acts->flush_stop) break;
        acts->flush_wanted = false;
        pthread_mutex_unlock(&acts->mutex);
        sync_file_range(acts->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
        pthread_mutex_lock(&acts->mutex);
    }
    pthread_mutex_unlock(&acts->mutex);
    return NULL;
}

static void ask_to_flush(ks_acts *acts) {
    pthread_mutex_lock(&acts->mutex);
    acts->flush_wanted = true;
    pthread_cond_signal(&acts->flush);
    pthread_mutex_unlock(&acts->mutex);
}

/* The queued items up to the first commit, at most a quarter of the ring so
 * that the producer never waits for all of it. *end: the queue after them. */
static int gather(const ks_acts *acts, const ks__acts_item **items) {
    size_t bytes = 0;
    int n = 0;
    while ((size_t)n < acts->n_items && n < GROUP_ITEMS) {
        size_t i = (acts->first + (size_t)n) % KS__ACTS_QUEUE;
        const ks__acts_item *item = &acts->queue[i];
        if (n && (!item->set || bytes + item->bytes > acts->ring_size / 4))
            break;
        items[n++] = item;
        bytes += item->bytes;
        if (!item->set) break;
    }
    return n;
}

/* Waits for work until the moment of the next sync; false: time to sync. */
static bool wait_for_work(ks_acts *acts, double sync_at) {
    while (!acts->n_items && !acts->stop && !acts->sync_wanted) {
        if (!acts->n_runs) {
            pthread_cond_wait(&acts->not_empty, &acts->mutex);
            continue;
        }
        struct timespec until = {(time_t)sync_at, 0};
        until.tv_nsec = (long)((sync_at - (double)until.tv_sec) * 1e9);
        if (pthread_cond_clockwait(&acts->not_empty, &acts->mutex,
                                   CLOCK_MONOTONIC, &until) == ETIMEDOUT &&
            !acts->n_items)
            return false;
    }
    return true;
}

static void release(ks_acts *acts, int n, ks_status st, const ks_err *err) {
    for (int i = 0; i < n; i++) {
        acts->used -= acts->queue[acts->first].taken;
        acts->first = (acts->first + 1) % KS__ACTS_QUEUE;
    }
    acts->n_items -= (size_t)n;
    if (st != KS_OK && acts->failure.code == KS_OK) acts->failure = *err;
    pthread_cond_signal(&acts->not_full);
}

static ks_status do_items(ks_acts *acts, const ks__acts_item **items, int n,
                          double *sync_at, ks_err *err) {
    ks_status st = KS_OK;
    if (n && !items[0]->set) {
        if (!acts->n_runs) *sync_at = ks_seconds() + acts->sync_seconds;
        KS_TRY(note_run(acts, items[0], err));
    } else if (n) {
        uint64_t before = acts->unsynced / FLUSH_BYTES;
        KS_TRY(write_items(acts, items, n, err));
        if (acts->unsynced / FLUSH_BYTES != before) ask_to_flush(acts);
        if (acts->n_sums * sizeof *acts->sums >= KS_ACTS_SUMS)
            KS_TRY(write_sums(acts, err));
    }
    bool due = acts->n_runs && ks_seconds() >= *sync_at;
    if (due || acts->unsynced >= SYNC_BYTES)
        KS_TRY(sync_and_journal(acts, err));
done:
    return st;
}

/* The queue is empty, and somebody waits for a sync. The mutex is held. */
static ks_status answer_sync(ks_acts *acts, ks_status st, ks_err *err) {
    pthread_mutex_unlock(&acts->mutex);
    if (st == KS_OK) st = sync_and_journal(acts, err);
    pthread_mutex_lock(&acts->mutex);
    acts->sync_wanted = false;
    release(acts, 0, st, err);
    return st;
}

static void *writer(void *argument) {
    ks_acts *acts = argument;
    const ks__acts_item *items[GROUP_ITEMS];
    ks_err err = {0};
    ks_status st = KS_OK;
    double sync_at = 0;
    pthread_mutex_lock(&acts->mutex);
    while (true) {
        bool work = wait_for_work(acts, sync_at);
        if (work && !acts->n_items && acts->sync_wanted) {
            st = answer_sync(acts, st, &err);
            continue;
        }
        if (work && !acts->n_items) break; /* stop */
        int n = work ? gather(acts, items) : 0;
        pthread_mutex_unlock(&acts->mutex);
        /* after a failure the queue is only emptied */
        if (st == KS_OK) st = do_items(acts, items, n, &sync_at, &err);
        pthread_mutex_lock(&acts->mutex);
        release(acts, n, st, &err);
        if (st != KS_OK) acts->n_runs = 0;
    }
    pthread_mutex_unlock(&acts->mutex);
    if (st == KS_OK) st = sync_and_journal(acts, &err);
    if (st != KS_OK && acts->failure.code == KS_OK) acts->failure = err;
    return NULL;
}

ks_status ks__acts_start(ks_acts *acts, size_t ring_bytes, ks_err *err) {
    ks_status st = KS_OK;
    size_t least = KS_MAX((size_t)1 << 20, 8 * acts->layout.row_bytes);
    acts->ring_size = KS_MAX(ring_bytes ? ring_bytes : KS_ACTS_RING, least);
    KS_TRY(ks_alloc(&acts->ring, acts->ring_size, 1, "the writer's ring", err));
    KS_TRY(ks_alloc(&acts->queue, KS__ACTS_QUEUE, sizeof *acts->queue,
                    "the writer's queue", err));
    int failed = pthread_create(&acts->flusher, NULL, flusher, acts);
    acts->flushing = !failed;
    if (!failed) failed = pthread_create(&acts->thread, NULL, writer, acts);
    KS_CHECK(!failed, KS_NOMEM, "cannot start the writer's threads: %s",
             strerror(failed));
    acts->running = true;
done:
    return st;
}

ks_status ks__acts_stop(ks_acts *acts, ks_err *err) {
    if (acts->running) {
        pthread_mutex_lock(&acts->mutex);
        acts->stop = true;
        pthread_cond_signal(&acts->not_empty);
        pthread_mutex_unlock(&acts->mutex);
        pthread_join(acts->thread, NULL);
        acts->running = false;
    }
    if (acts->flushing) {
        pthread_mutex_lock(&acts->mutex);
        acts->flush_stop = true;
        pthread_cond_signal(&acts->flush);
        pthread_mutex_unlock(&acts->mutex);
        pthread_join(acts->flusher, NULL);
        acts->flushing = false;
    }
    if (acts->failure.code != KS_OK && err) *err = acts->failure;
    return acts->failure.code;
}

/* ---------------------------------------------------------------- producer */

ks_status ks_acts_sync(ks_acts *acts, ks_err *err) {
    pthread_mutex_lock(&acts->mutex);
    acts->sync_wanted = true;
    pthread_cond_signal(&acts->not_empty);
    while (acts->sync_wanted) pthread_cond_wait(&acts->not_full, &acts->mutex);
    ks_status st = acts->failure.code;
    if (st != KS_OK && err) *err = acts->failure;
    pthread_mutex_unlock(&acts->mutex);
    return st;
}

/* Room for `bytes` in one piece; the mutex is held. An item that does not fit
 * before the ring's end takes that rest along and starts at 0. */
static ks_status reserve(ks_acts *acts, size_t bytes, ks__acts_item *item,
                         ks_err *err) {
    while (true) {
        if (acts->failure.code != KS_OK) {
            if (err) *err = acts->failure;
            return acts->failure.code;
        }
        size_t rest = acts->ring_size - acts->head;
        size_t skip = bytes > rest ? rest : 0;
        if (acts->n_items < KS__ACTS_QUEUE &&
            acts->used + skip + bytes <= acts->ring_size) {
            item->at = skip ? 0 : acts->head;
            item->bytes = bytes;
            item->taken = skip + bytes;
            acts->head = (item->at + bytes) % acts->ring_size;
            acts->used += item->taken;
            return KS_OK;
        }
        pthread_cond_wait(&acts->not_full, &acts->mutex);
    }
}

static ks_status push(ks_acts *acts, ks__acts_item item, const void *rows,
                      ks_err *err) {
    size_t bytes = item.set ? (size_t)item.n * acts->layout.row_bytes : 0;
    pthread_mutex_lock(&acts->mutex);
    ks_status st = reserve(acts, bytes, &item, err);
    if (st == KS_OK) {
        /* the room is ours, and nobody else queues: copy without the lock */
        pthread_mutex_unlock(&acts->mutex);
        if (bytes) memcpy(acts->ring + item.at, rows, bytes);
        pthread_mutex_lock(&acts->mutex);
        size_t i = (acts->first + acts->n_items++) % KS__ACTS_QUEUE;
        acts->queue[i] = item;
        pthread_cond_signal(&acts->not_empty);
    }
    pthread_mutex_unlock(&acts->mutex);
    return st;
}

ks_status ks_acts_write(ks_acts *acts, ks_stream stream, ks_position position,
                        int32_t layer, int64_t row, int64_t n, const void *rows,
                        ks_err *err) {
    ks_status st = KS_OK;
    const ks__acts_set *set = stream < KS_N_STREAMS && position < KS_N_POSITIONS
                                  ? acts->set_of[stream][position]
                                  : NULL;
    int32_t place = ks__acts_place(&acts->layout, layer);
    KS_CHECK(
        set && place >= 0 && place < set->n_layers && row >= 0 && n >= 0 &&
            row <= set->n_rows && n <= set->n_rows - row,
        KS_INTERNAL,
        "%s: %lld rows at row %lld of %s/%s layer %d are not part of the file",
        acts->path, (long long)n, (long long)row, ks_stream_name(stream),
        ks_position_name(position), layer);
    /* small enough that several pieces are in flight at once */
    size_t row_bytes = acts->layout.row_bytes;
    int64_t step = (int64_t)KS_MAX(acts->ring_size / 8 / row_bytes, 1);
    for (int64_t at = 0; at < n; at += step) {
        ks__acts_item item = {.set = set,
                              .layer = place,
                              .row = row + at,
                              .n = KS_MIN(step, n - at)};
        KS_TRY(
            push(acts, item, (const char *)rows + (size_t)at * row_bytes, err));
    }
    acts->rows_since += n;
done:
    return st;
}

ks_status ks_acts_commit(ks_acts *acts, int64_t begin, int64_t end,
                         ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(begin == acts->committed && end > begin && end <= acts->n_steps,
             KS_INTERNAL,
             "%s: steps %lld to %lld are committed; %lld of %lld "
             "were before",
             acts->path, (long long)begin, (long long)end,
             (long long)acts->committed, (long long)acts->n_steps);
    int64_t expected = 0;
    for (int i = 0; i < acts->layout.n_sets; i++) {
        const ks__acts_set *set = &acts->layout.sets[i];
        expected += set->n_layers * (ks__acts_rows_until(acts, set, end) -
                                     ks__acts_rows_until(acts, set, begin));
    }
    /* more: of later steps; none is left over at the end */
    KS_CHECK(acts->rows_since == expected ||
                 (acts->rows_since > expected && end < acts->n_steps),
             KS_INTERNAL,
             "%s: steps %lld to %lld have %lld rows, %lld were written",
             acts->path, (long long)begin, (long long)end, (long long)expected,
             (long long)acts->rows_since);
    KS_TRY(
        push(acts, (ks__acts_item){.row = begin, .n = end - begin}, NULL, err));
    acts->rows_since -= expected;
    acts->committed = end;
done:
    return st;
}
