/* graded.h - importance as a matter of degree: a score of the label file, such
 * as a step's influence, regressed on activations. All steps that have the
 * score are rows, labelled or not.
 *
 * The target is the score's rank among all rows (equal ones at their mean
 * rank), over their number: scores have heavy tails, and Spearman's rho, the
 * figure, asks for no more. Ridge regression (ridge.h) with strength, and for
 * `best` layer, chosen inside the training folds; folds by problem, of these
 * rows. */
#ifndef KS_GRADED_H
#define KS_GRADED_H

#include "analyses.h"

typedef struct ks_graded_figures {
    ks_interval spearman; /* of all rows */
    ks_interval within;   /* mean over the chains of three rows or more in which
                             neither is constant */
    ks_interval r2;       /* of the ranks, against their mean */
} ks_graded_figures;

typedef struct ks_graded_baseline {
    const char *name, *note;
    ks_graded_figures figures;
} ks_graded_baseline;

/* A stream and position. */
typedef struct ks_graded_series {
    ks_stream stream;
    ks_position position;
    int32_t n_layers, *layer; /* [n_layers] */
    ks_graded_figures *layers;
    int32_t *chosen; /* [n_fits] layer, in the training folds */
    float *score;    /* [n] predicted rank, of the chosen layers */
    ks_graded_figures best;
    ks_interval surface_free; /* Spearman's rho of what the last baseline leaves
                                 of the target and a regression for that */
    /* AUC of the score for removable < unlabelled and unlabelled < important
     * steps; NaN where a band is empty */
    ks_interval bands[2];
} ks_graded_series;

enum { KS_GRADED_BASELINES = 3, KS_MOST_GRADED = 8 };

/* One score. */
typedef struct ks_graded {
    const char *name; /* borrowed */
    ks_dataset *rows;
    double *target; /* [n] */
    uint8_t *fold;  /* [n_seeds, n] */
    int32_t n_baselines, n_series, n_fits;
    ks_graded_baseline baselines[KS_GRADED_BASELINES];
    ks_graded_series *series;
} ks_graded;

/* For the streams, positions and layers of in->grid. progress: layers done are
 * added to *done. out starts as {0}, and is freed by ks_graded_free also after
 * a failure. */
ks_status ks_graded_run(ks_graded *out, const char *score,
                        const ks_analysis_input *in, int64_t *done,
                        ks_err *err);
void ks_graded_free(ks_graded *graded);

/* Figures of score [n] against target [n] on the rows of d. */
ks_status ks__graded_measure(ks_graded_figures *out, const ks_dataset *d,
                             const float *score, const double *target,
                             const ks_grid_options *options, ks_err *err);

#endif
