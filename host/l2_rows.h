/* l2_rows.h - blocks of a layer's rows as f32, shifted, wherever they lie: in
 * memory, or in a file (ks_l2_rows.file) of which a block or two are in memory
 * at a time. Each thread has a reader of its own. */
#ifndef KS_L2_ROWS_H
#define KS_L2_ROWS_H

#include <pthread.h>
#include <semaphore.h>

#include "train.h"

/* A direct file is read by a thread of the reader's, one block ahead, past the
 * page cache and its copy: that thread sleeps, and all processors compute. */
typedef struct ks_l2_reader {
    const ks_l2_rows *l2;
    char *raw[2];  /* as stored */
    float *x;      /* other types: widened */
    int now;       /* which of raw is being worked on */
    int32_t ahead; /* block that is read meanwhile; -1: none */
    bool stop, started;
    ks_status st; /* of the block ahead */
    ks_err err;
    pthread_t thread;
    sem_t go, done;
} ks_l2_reader;

/* Bytes of memory that a reader is to be given; 0 where rows lie in memory. */
size_t ks_l2_reader_bytes(const ks_l2_rows *l2);
/* Borrows rows and memory until it is closed. */
void ks_l2_reader_open(ks_l2_reader *reader, const ks_l2_rows *l2,
                       void *memory);
/* *x: rows [rows, d] of block k, until the next call. Blocks behind it up to
 * `to` are likely to be asked for next, and then those from block `next` on. */
ks_status ks_l2_reader_get(ks_l2_reader *reader, int32_t k, int32_t to,
                           int32_t next, const float **x, ks_err *err);
/* One that was never opened is {0}. */
void ks_l2_reader_close(ks_l2_reader *reader);

/* The first failure of threads side by side. */
typedef struct ks__l2_outcome {
    ks_status st;
    ks_err err;
} ks__l2_outcome;

static inline void ks__l2_tell(ks__l2_outcome *all, ks_status st,
                               const ks_err *err) {
    if (st == KS_OK) return;
#pragma omp critical(ks_l2_outcome)
    if (all->st == KS_OK) *all = (ks__l2_outcome){st, *err};
}

/* Did none fail so far? */
static inline bool ks__l2_well(const ks__l2_outcome *all) {
    ks_status st;
#pragma omp atomic read
    st = all->st;
    return st == KS_OK;
}

#endif
