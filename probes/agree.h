/* agree.h - how far two label files agree: labels by confusion and Cohen's
 * kappa, scores by rank correlations, with intervals that resample problems. */
#ifndef KS_AGREE_H
#define KS_AGREE_H

#include "chains.h"
#include "stats.h"

typedef struct ks_agree_options {
    /* Whose "problem" is taken; NULL, or where a chain is not in it: the id up
     * to its last '/'. */
    const ks_chains *chains;
    /* "a=b,c=d": score a of the first with b of the second file, beside those
     * of one name; NULL: none */
    const char *pairs;
    int32_t replicates; /* of the bootstrap; 0: 2000, below 0: no intervals */
    uint64_t seed;
} ks_agree_options;

enum { KS_AGREE_BANDS = 3 }; /* important, removable, unlabelled */

/* Two scores of the same steps, where both files have a number. */
typedef struct ks_agree_score {
    char *a, *b; /* names */
    int64_t steps;
    int32_t chains;        /* with a correlation of their own */
    ks_interval within[2]; /* Spearman, Kendall tau-b: mean over chains */
    ks_interval pooled[2]; /* the same over all steps together */
} ks_agree_score;

typedef struct ks_agreement {
    int64_t chains, steps; /* in both files */
    int64_t only_a, only_b;
    int32_t problems;
    int64_t confusion[KS_AGREE_BANDS][KS_AGREE_BANDS]; /* [a][b] */
    ks_interval same;          /* share of steps labelled in both */
    ks_interval kappa;         /* Cohen's, of steps labelled in both */
    ks_interval kappa_3;       /* of all steps, unlabelled a third value */
    ks_agree_score *scores;    /* by name */
    size_t n_scores, capacity; /* of scores */
} ks_agreement;

/* Both lists read with their objects. KS_MISMATCH where no chain is in both, a
 * chain has another number of steps or another text_sha256; KS_USAGE where
 * pairs name no score. Values that are not defined (one class only, constant
 * scores) are NaN. Kappa: (p_o - p_e) / (1 - p_e). */
ks_status ks_agree(ks_agreement *out, const ks_labels *a, const ks_labels *b,
                   const ks_agree_options *options, ks_err *err);
void ks_agree_free(ks_agreement *agreement);

/* Reads both files and prints: a table, or one JSON object. */
ks_status ks_agree_print(const char *a, const char *b,
                         const ks_agree_options *options, bool json, FILE *out,
                         ks_err *err);

#endif
