/* l2_fit.h - one fit: its columns' state, shared by the files that move it. */
#ifndef KS_L2_FIT_H
#define KS_L2_FIT_H

#include "l2_state.h"

enum { KS_L2_PAIRS = 12 /* of L-BFGS */ };

/* What the training rows of (design, hold) decide. Internally x is centred at
 * the mean of the class means, where w and b hardly touch each other; b being
 * free, that changes nothing but b. */
typedef struct ks_l2_split {
    int32_t design;
    uint32_t hold;
    double n, count[2];
    double *centre, *mean, *inverse, *gap; /* [d]; gap: class means' distance
                                              over the scale */
} ks_l2_split;

typedef struct ks_l2_progress {
    int32_t split;
    double lambda, h, slope, t;
    int32_t pairs, next, tries, polish;
    bool fresh; /* the coming evaluation starts a line, adds no pair */
    bool done;
    /* of l2_newton.c: the factor of the column's own Hessian or NULL, its place
     * among those kept, evaluations since it was formed */
    double *hessian;
    int32_t slot, age;
    double rho[KS_L2_PAIRS];
} ks_l2_progress;

typedef struct ks_l2_fitting {
    ks_l2 *l2;
    ks_l2_column *columns;
    int32_t n, n_splits, n_active;
    double tolerance;
    int32_t max_passes;
    ks_l2_split *splits;
    double *split_data;
    ks_l2_progress *states;
    /* [n, d + 1] standardised weights, b last: point, start of the line,
     * gradients at both, direction */
    double *v, *base, *g, *g_base, *p;
    float *s, *y; /* [n, KS_L2_PAIRS, d + 1] */
    int32_t *active;
    /* an evaluation's arguments, by active column */
    int32_t *design;
    uint32_t *hold;
    double *class_c, *w, *b, *gw, *r, *h;
    float **margin;
} ks_l2_fitting;

/* Eight partial sums: vectorises, and the order is fixed. */
static inline double ks__l2_dot(const double *a, const double *b, int64_t n) {
    double sum[8] = {0};
    int64_t j = 0;
    for (; j + 8 <= n; j += 8)
        for (int k = 0; k < 8; k++) sum[k] += a[j + k] * b[j + k];
    for (; j < n; j++) sum[0] += a[j] * b[j];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) +
           ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* The arrays of f->n columns; pairs: those of L-BFGS too. */
ks_status ks__l2_fitting_open(ks_l2_fitting *f, bool pairs, ks_err *err);
void ks__l2_fitting_close(ks_l2_fitting *f);

/* Fills f->splits and every column's place in them; KS_MISMATCH where training
 * rows are of one class. */
ks_status ks__l2_find_splits(ks_l2_fitting *f, ks_err *err);

/* Points of a chunk of columns: the linear discriminant. q, t: [2 n, d]
 * and [2 n, rank], scratch. */
void ks__l2_start_chunk(ks_l2_fitting *f, const int32_t *list, int32_t n,
                        float *q, float *t);
/* The point of column k: the caller's weights. */
void ks__l2_start_from(ks_l2_fitting *f, int32_t k);

/* Weights of column k on shifted x, b as a pass takes it. */
void ks__l2_to_shifted(const ks_l2_fitting *f, int32_t k, double *w, double *b);
/* One read of x: gradients and h of the active columns at their points. */
ks_status ks__l2_evaluate(ks_l2_fitting *f, bool exact, ks_err *err);
/* Max-norm as scikit-learn's coordinates have it: x centred at its mean. A NaN
 * stays one, and no column with it has converged. */
double ks__l2_max_gradient(const ks_l2_fitting *f, int32_t k);

/* How many columns of n rows of d features may have a Hessian of their own at a
 * time; 0: none, it would be too big. */
int32_t ks__l2_hessians(int64_t n, int64_t d);
/* Hessians of the columns listed at their points, factorised into hessians
 * [slots, d + 1, d + 1] at their slots; one more read of x. Their pairs are
 * forgotten. A factor that fails is left out. */
ks_status ks__l2_find_hessians(ks_l2_fitting *f, const int32_t *list, int32_t n,
                               double *hessians, ks_err *err);
/* What the op needs of column k at its point, but where to; w: [d], filled. */
ks_l2_hessian ks__l2_describe_hessian(const ks_l2_fitting *f, int32_t k,
                                      double *w);
/* p of column k: its own inverse Hessian times p. */
void ks__l2_solve_hessian(const ks_l2_fitting *f, int32_t k);

/* After an evaluation: was column k's last step too long? The next direction
 * then shortens it instead of starting a line at v. */
bool ks__l2_overshot(const ks_l2_fitting *f, int32_t k);
/* After an evaluation in double: the gradient is reported. Is it within the
 * tolerance? A column whose last step was not small (an ill-conditioned one)
 * is taken further while passes last. */
bool ks__l2_verified(ks_l2_fitting *f, int32_t k);

/* After an evaluation of a chunk of columns: gives them their next points; not
 * exact: marks those that are done, which stay. q, t: scratch as above. */
void ks__l2_direct_chunk(ks_l2_fitting *f, const int32_t *chunk, int32_t n,
                         bool exact, float *q, float *t);

#endif
