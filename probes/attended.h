/* attended.h - the attention-pooled probe (attention.h) under nested choice,
 * beside the L2 probe of the mean on the same rows. */
#ifndef KS_ATTENDED_H
#define KS_ATTENDED_H

#include "analyses.h"
#include "attention.h"
#include "others.h"

enum { KS_ATTENDED_STRENGTHS = 4, KS_ATTENDED_PASSES = 300 };
extern const double ks_attended_strengths[KS_ATTENDED_STRENGTHS]; /* of C */

/* Results of one seed, by place in the order. */
typedef struct ks_attended_fit {
    float *score;                  /* [n] out of fold */
    float *entropy, *first, *last; /* [n] of the same fits (attention.h) */
    int32_t fits, unconverged;
} ks_attended_fit;

/* Nested choice of strength (nest.h) on one seed's folds. Every fit starts from
 * q = 0 and from a random q, with w of the L2 probe of the mean, and the end
 * with the lower objective counts. tokens and rows: as of ks_attention_open,
 * and where, by threads and scratch of options; its `outer`: the folds to do
 * (nest.h), scores of the others' rows stay 0. folds: n_seeds 1, in the order
 * of the rows. */
ks_status ks_attended_fit_rows(ks_attended_fit *out, const ks_l2_source *tokens,
                               const ks_attention_rows *rows,
                               const ks_folds *folds,
                               const ks_nest_options *options, uint64_t seed,
                               ks_err *err);
/* Which of n ends of a column counts: the lowest objective, the first on a tie.
 */
int32_t ks__attended_end(const ks_attention_column *ends, int32_t n);
void ks_attended_fit_free(ks_attended_fit *fit);

/* One stream and layer, or the layers that the outer folds chose. */
typedef struct ks_attended {
    ks_stream stream;
    int32_t layer;               /* that most folds chose */
    ks_interval accuracy;        /* balanced */
    ks_interval mean, less_mean; /* of the same layers' L2 probes at `mean`, and
                                    this less that, paired */
    /* over test rows of several tokens: entropy of attention over log of the
     * tokens, its share on the first and the last token, and what one token
     * has if all have the same */
    double entropy, first, last, even;
} ks_attended;

/* `series`: of the grid, at `mean`; a file with tokens of its stream. cell: a
 * layer of it, -1: for each outer fold the one that it chose. Scores go to
 * others; fits and unconverged are added to. */
ks_status ks_attended_run(ks_attended *out, ks_others *others,
                          const ks_analysis_input *in, const ks_series *series,
                          int32_t cell, int32_t *fits, int32_t *unconverged,
                          ks_err *err);

/* Bytes that it takes for the rows of a data set. */
size_t ks_attended_bytes(const ks_dataset *dataset, const ks_folds *folds,
                         int threads, bool scratch);

#endif
