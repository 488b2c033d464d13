/* l2_rows.h - blocks of a layer's rows as f32, shifted, wherever they lie: in
 * memory, or in a file (ks_l2_rows.file) of which a block is read at a time.
 * Each thread brings memory of its own for that, ks_l2_read_bytes of it. */
#ifndef KS_L2_ROWS_H
#define KS_L2_ROWS_H

#include "train.h"

/* A multiple of 64; 0 where the rows lie in memory. */
size_t ks_l2_read_bytes(const ks_l2_rows *l2);
/* *x: the block's rows [rows, d], until the memory is used again. */
ks_status ks_l2_read(const ks_l2_rows *l2, ks_l2_block block, void *memory,
                     const float **x, ks_err *err);
/* Block k is about to be read, then those behind it up to `to`, then from block
 * `next` on: the disk may begin. */
void ks_l2_announce(const ks_l2_rows *l2, int32_t k, int32_t to, int32_t next);

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
