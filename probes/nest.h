/* nest.h - one matrix probed with its strength chosen inside the training
 * folds.
 *
 * The rows of outer fold f are scored by a fit that never saw them, and so is
 * the choice of that fit's strength: the other folds are cut into inner parts
 * (whole folds, so problems stay together), each held out in turn together
 * with f, and the strength with the least balanced log-loss
 *     sum over classes of (mean log(1 + exp(-s z)) of its rows) / 2
 * on the inner parts is refitted on all training folds. A fit that holds out
 * folds f and g serves both as outer folds, so the parts cost half. */
#ifndef KS_NEST_H
#define KS_NEST_H

#include "l2.h"
#include "ops.h"

enum { KS_MAX_STRENGTHS = 64, KS_MAX_SEEDS = 64 };

/* What the library and the command take where nobody asks for more. */
enum { KS_DEFAULT_STRENGTHS = 8, KS_DEFAULT_PASSES = 1000 };
/* C from 1e-4 to 10 in equal ratios. */
void ks_nest_default_strengths(double strengths[KS_DEFAULT_STRENGTHS]);

/* Folds of all rows, one set a seed; the solver's limit is 32. */
typedef struct ks_folds {
    int64_t n;
    int32_t n_folds, n_inner, n_seeds;
    const uint8_t *fold; /* [n_seeds, n]; fold + n_folds: a row of that fold
                            which is scored with it and never trains, for up
                            to 16 folds */
} ks_folds;

typedef struct ks_nest_options {
    int32_t n_strengths;
    const double *strengths;  /* C of scikit-learn, ascending */
    double tolerance;         /* 0: 1e-6 */
    int32_t max_passes;       /* 0: KS_DEFAULT_PASSES */
    int threads;              /* 0: all */
    const struct ks_ops *ops; /* where fits run; NULL: the CPU */
    ks_dev *dev;
    const char *scratch; /* folder: rows stay in a file there (l2.h) */
    bool keep_weights, keep_inner;
    uint32_t outer; /* bit set of the outer folds to fit and score, for a
                       matrix made for one of them; 0: all. Loss of the others
                       is INFINITY, their rows' scores stay 0 */
} ks_nest_options;

typedef struct ks_nest {
    int64_t n, d;
    int32_t n_fits;      /* seeds x folds */
    float *score;        /* [n_seeds, n] out-of-fold margins */
    double *strength;    /* [n_fits] chosen */
    double *loss;        /* [n_fits] its balanced log-loss on the inner parts */
    double *gradient;    /* [n_fits] max-norm at the solution, in double */
    int32_t *reads;      /* [n_fits] of x while it was being solved */
    float *inner;        /* [n_fits, n] margins of the fit's training rows by
                            its inner fits, of its test rows by itself; NULL:
                            not kept */
    float *weight;       /* [n_fits, d] on standardised x; NULL: not kept */
    float *bias;         /* [n_fits] */
    float *mean, *scale; /* [n_fits, d] of the training rows */
    int32_t columns, passes, unconverged; /* all fits; passes: the most */
} ks_nest;

/* The folds held out, as bit sets, for the inner part `part` of outer fold f:
 * f's own bit and those of the part. */
uint32_t ks_nest_hold(int32_t n_folds, int32_t n_inner, int32_t f,
                      int32_t part);

/* train_y: [n_seeds, n] labels to train and choose on, one set a seed. out
 * starts as {0}; a failed call leaves {0}. */
ks_status ks_nest_fit(ks_nest *out, const float *x, int64_t d,
                      const int8_t *const *train_y, const ks_folds *folds,
                      const ks_nest_options *options, ks_err *err);
/* The same of folds->n rows that are read from where they are. */
ks_status ks_nest_fit_from(ks_nest *out, const ks_l2_source *source,
                           const int8_t *const *train_y, const ks_folds *folds,
                           const ks_nest_options *options, ks_err *err);
void ks_nest_free(ks_nest *nest);

/* A nest that a fit of n_features would fill, zeros; a failed call leaves {0}.
 */
ks_status ks_nest_alloc(ks_nest *out, int64_t n_features, const ks_folds *f,
                        const ks_nest_options *options, ks_err *err);
/* Frees what the options do not keep. */
void ks_nest_drop(ks_nest *nest, const ks_nest_options *options);
/* Fits that it solves: its `columns`. */
int32_t ks_nest_columns(const ks_folds *folds, const ks_nest_options *options);
/* That it solves them to. */
double ks_nest_tolerance(const ks_nest_options *options);

/* Bytes that a fit of d features of that type takes at most, by so many threads
 * of the CPU, and those of its result, which stay. */
size_t ks_nest_bytes(int64_t d, ks_type type, const ks_folds *folds,
                     const ks_nest_options *options, int threads, bool scratch);
size_t ks_nest_kept(int64_t d, const ks_folds *folds,
                    const ks_nest_options *options);

/* Balanced log-loss of margins over the rows whose fold is in `in`. */
double ks_nest_loss(const float *margin, const int8_t *y, const uint8_t *fold,
                    int64_t n, uint32_t in);

/* Which of n_nests (layers) each fit's training folds prefer: least loss, the
 * first on a tie. chosen: [n_fits]. */
void ks_nest_choose(const ks_nest *const *nests, int32_t n_nests,
                    int32_t *chosen);
/* score [n]: the mean over seeds of by_seed [n_seeds, n]. */
void ks_mean_over_seeds(const float *by_seed, const ks_folds *folds,
                        float *score);
/* score [n]: the mean over seeds of the out-of-fold margins, each row's from
 * the nest chosen for its fold; chosen NULL: nests[0] for all. */
void ks_nest_mix(const ks_nest *const *nests, const int32_t *chosen,
                 const ks_folds *folds, float *score);

#endif
