/* others.h - scorings of the same rows by other kinds of probes than the
 * grid's: whatever gives a score a row out of fold is held beside the best
 * layer of its stream and position. */
#ifndef KS_OTHERS_H
#define KS_OTHERS_H

#include "grid.h"

typedef struct ks_other {
    char probe[48];   /* "lw-mlp 128" */
    const char *note; /* one sentence: what it is and how it was chosen */
    ks_stream stream;
    ks_position position;
    int32_t layer; /* -1: several */
    float *score;  /* [n] out of fold, mean over seeds; owned */
    ks_interval metrics[KS_N_METRICS];
    ks_interval minus_best; /* balanced accuracy, paired, less the grid's best
                               layer there; NaN where the grid has none */
} ks_other;

typedef struct ks_others {
    ks_other *at;
    int32_t n;
    size_t capacity;
} ks_others;

/* Adds `other`, whose first six fields are filled, and its figures. score
 * belongs to `others` from here on, also where the call fails. */
ks_status ks_others_add(ks_others *others, const ks_other *other,
                        const ks_dataset *dataset, const ks_grid *grid,
                        const ks_grid_options *options, ks_err *err);
void ks_others_free(ks_others *others);

#endif
