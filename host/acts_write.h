/* acts_write.h - between making a file (acts_create.c) and filling it
 * (acts_write.c). Internal. */
#ifndef KS_ACTS_WRITE_H
#define KS_ACTS_WRITE_H

#include <pthread.h>

#include "acts_format.h"

/* A queued run of rows, or (set NULL) a commit of steps [row, row + n). Also
 * the checksums of such a run, at and bytes in acts->sums. */
typedef struct ks__acts_item {
    const ks__acts_set *set;
    int32_t layer;
    int64_t row, n;
    size_t at, bytes; /* place in the ring */
    size_t taken;     /* of the ring, the unused rest at its end included */
} ks__acts_item;

enum { KS__ACTS_QUEUE = 4096 };

struct ks_acts {
    char *path, *part, *journal_path;
    ks_lock lock;
    int fd;
    ks__journal journal;
    ks__acts_layout layout;
    ks__acts_set *set_of[KS_N_STREAMS][KS_N_POSITIONS];
    int64_t n_steps;
    int64_t *token_row; /* [n_steps + 1] rows of KS_TOKENS before a step */
    double sync_seconds;

    /* the producer's side */
    int64_t committed;      /* steps [0, committed) were committed */
    int64_t rows_since;     /* rows queued and not committed */
    bool running, flushing; /* the threads were started */
    pthread_t thread, flusher;

    /* shared, under mutex */
    pthread_mutex_t mutex;
    pthread_cond_t not_full, not_empty, flush;
    uint8_t *ring;
    size_t ring_size, head, used; /* bytes: next free, taken */
    ks__acts_item *queue;         /* [KS__ACTS_QUEUE] */
    size_t first, n_items;
    bool stop, sync_wanted, flush_wanted, flush_stop;
    ks_err failure; /* of the writer thread; code KS_OK: none */

    /* the writer thread's own */
    ks__acts_run *runs; /* committed, not yet durable */
    size_t n_runs, runs_capacity;
    uint64_t unsynced; /* bytes since the last sync */
    uint32_t *sums;    /* checksums of rows written, not yet in the file */
    size_t n_sums, sums_capacity;
    ks__acts_item *sum_runs; /* where they go */
    size_t n_sum_runs, sum_runs_capacity;
};

/* CRC-32C over the stored checksums of the rows of steps [begin,end). */
ks_status ks__acts_run_sum(const ks_acts *acts, int64_t begin, int64_t end,
                           uint32_t *crc, ks_err *err);
ks_status ks__acts_start(ks_acts *acts, size_t ring_bytes, ks_err *err);
/* Lets the writer thread finish what is queued and sync it; its failure. */
ks_status ks__acts_stop(ks_acts *acts, ks_err *err);

/* Rows of a set that belong to steps [0, step). */
static inline int64_t ks__acts_rows_until(const ks_acts *acts,
                                          const ks__acts_set *set,
                                          int64_t step) {
    return set->position == KS_TOKENS ? acts->token_row[step] : step;
}

#endif
