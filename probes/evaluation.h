/* evaluation.h - one whole evaluation: the grid of probes, the baselines on the
 * same rows and folds, what the best layer has beyond each of them, and the
 * strata. table.h prints it, export.h writes it. */
#ifndef KS_EVALUATION_H
#define KS_EVALUATION_H

#include "analyses.h"
#include "baselines.h"
#include "cell_store.h"
#include "claims.h"
#include "grid.h"
#include "independence.h"
#include "kinds.h"
#include "others.h"
#include "published_text.h"
#include "refined.h"

/* What the best layer of a series has beyond another scoring, in balanced
 * accuracy, paired. p by sign flips over problems (significance.h), p_holm
 * over all that the series is compared with; NaN where the other lacks it. */
typedef struct ks_gain {
    ks_interval points;
    double p, p_holm;
} ks_gain;

/* Another activation file probed on the same rows and folds. */
typedef struct ks_rival {
    const char *name, *path;
    ks_acts_file *file;
    int64_t *place; /* [n] its row for each row of the data set */
    ks_grid grid;
    ks_gain *gain; /* [n_series] of the main grid; its best layer against this
                      one's */
} ks_rival;

typedef struct ks_stratum_row {
    int64_t n_important, n_removable; /* of the stratum, of all */
    ks_interval *metrics; /* [n_series, KS_N_METRICS] of the chosen layers */
} ks_stratum_row;

typedef struct ks_evaluation_options {
    ks_dataset_paths paths;
    ks_grid_options grid; /* its layers are taken from layers_of */
    int32_t n_folds, n_inner, n_seeds;
    int32_t n_rivals;
    const char *const *rival_names;
    const char *const *rival_paths;
    int32_t n_scores; /* scores that others gave, as baselines */
    const ks_given_scores *scores;
    uint32_t analyses;           /* bit set of ks_analysis */
    bool no_text;                /* leave the word baselines out */
    ks_cell_store_options cells; /* of the grids and of what is trained; isa and
                                    backend are filled in */
    ks_cell_counts *counts; /* of cells, filled also where the run fails; may
                               be NULL */
    ks_kinds_options kinds;
    ks_refined_options refined;
    /* "0,3-7" to a bool per layer; NULL: all layers */
    ks_status (*layers_of)(const char *text, int32_t n, bool *on, ks_err *err);
    const char *layers;
    /* words for progress, a pair a stage, with grid.progress between; may be
     * NULL. unit: what is counted, up to `total` */
    void (*begin)(void *user, const char *what, const char *unit,
                  int64_t total);
    void (*end)(void *user);
} ks_evaluation_options;

typedef struct ks_evaluation {
    const ks_evaluation_options *options;
    ks_grid_options after; /* of what follows the grid, whose memory is known to
                              be enough */
    ks_dataset *dataset;
    uint8_t *fold; /* [n_seeds, n] */
    ks_folds folds;
    int64_t shared_texts; /* rows of seed 0 whose text is in two folds */
    bool *layers;
    ks_grid grid;
    ks_baselines baselines;
    ks_gain *gain;         /* [n_baselines, n_series] */
    ks_interval *permuted; /* [n_series, KS_N_METRICS] */
    ks_independence independence;
    ks_analyses analyses;
    ks_claims claims;
    ks_kinds kinds; /* trained by AdamW */
    ks_published_texts published_texts;
    ks_refined refined;
    ks_others others; /* probes of other kinds */
    ks_rival *rivals;
    int32_t n_rivals;
    ks_stratum_row *strata;                /* [dataset->n_strata] */
    int32_t other_fits, other_unconverged; /* of baselines, control,
                                              analyses, rivals */
} ks_evaluation;

/* out starts as {0}; options are borrowed until free. A failed run leaves
 * {0}. */
ks_status ks_evaluate(ks_evaluation *out, const ks_evaluation_options *options,
                      ks_err *err);
/* Of an evaluation whose cells are shared: this share's cells, and nothing
 * else. */
ks_status ks_evaluate_share(const ks_evaluation_options *options, ks_err *err);
/* Name of the label file, of the activation file where labels came from it;
 * borrowed. */
const char *ks_evaluation_name(const ks_evaluation_options *options);
/* The comparison of series k with baseline i, or behind them with a rival. */
ks_gain *ks__evaluation_gain(const ks_evaluation *r, int32_t i, int32_t k);
void ks_evaluation_free(ks_evaluation *report);

#endif
