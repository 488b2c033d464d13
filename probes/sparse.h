/* sparse.h - how few dimensions carry the signal: L1-regularised logistic
 * regression (l1.h) along a path of strengths, for each outer fold on the layer
 * that it chose in the grid. */
#ifndef KS_SPARSE_H
#define KS_SPARSE_H

#include "analyses.h"
#include "l2.h"
#include "others.h"

enum { KS_SPARSE_POINTS = 20 };

/* lambda over each fit's own lambda_max: from 0.79 down to 0.01 in equal
 * ratios. */
double ks_sparse_ratio(int32_t point);

/* A path under nested choice. */
typedef struct ks_sparse_path {
    float *score;   /* [n] of the strength chosen in the training folds */
    int32_t *point; /* [n_fits] chosen, by inner loss as in nest.h */
    float *of;      /* [KS_SPARSE_POINTS, n] out of fold at each strength */
    double dimensions[KS_SPARSE_POINTS]; /* not 0, mean over outer fits */
    double lambda[KS_SPARSE_POINTS];     /* likewise */
    float *weight; /* [n_fits, d] of the chosen strength, on standardised
                      features */
    float *bias;   /* [n_fits] */
    int32_t fits, unconverged;
} ks_sparse_path;

/* Of folds->n rows; options: threads, scratch, backend, tolerance and passes,
 * and `outer`, the folds to do: those of others stay 0.
 * Scores are means over seeds. out starts as {0}; a failed call leaves {0}. */
ks_status ks_sparse_fit(ks_sparse_path *out, const ks_l2_source *source,
                        const int8_t *y, const ks_folds *folds,
                        const ks_nest_options *options, ks_err *err);
/* Bytes that it takes at most. */
size_t ks_sparse_bytes(const ks_l2_source *source, const ks_folds *folds,
                       int threads, bool scratch);
/* Those of its weights and scores. */
size_t ks_sparse_kept(const ks_l2_source *source, const ks_folds *folds);
void ks_sparse_path_free(ks_sparse_path *path);

typedef struct ks_sparse_point {
    double lambda, dimensions;
    ks_interval accuracy;          /* balanced */
    ks_interval chosen_minus_this; /* paired, of the chosen strength */
} ks_sparse_point;

/* Of one series. needed: the fewest dimensions of a point that the chosen
 * strength does not beat: the interval of its lead includes 0. NaN: none. */
typedef struct ks_sparse {
    int32_t layer;   /* that most folds chose */
    int32_t *layers; /* [n_fits] of each fit; owned */
    ks_sparse_point points[KS_SPARSE_POINTS];
    ks_interval accuracy; /* balanced, of the chosen strength */
    double needed;
    float *weight, *bias; /* as in the path; owned */
} ks_sparse;

/* Scores of the chosen strength go to others; fits and unconverged are added
 * to. */
ks_status ks_sparse_run(ks_sparse *out, ks_others *others,
                        const ks_analysis_input *in, const ks_series *series,
                        int32_t *fits, int32_t *unconverged, ks_err *err);
void ks_sparse_free(ks_sparse *sparse);
/* The figures of a path. */
ks_status ks__sparse_measure(ks_sparse *out, const ks_analysis_input *in,
                             const ks_sparse_path *path, ks_err *err);

#endif
