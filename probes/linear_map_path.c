/* linear_map_path.c - ridge at all strengths: how well it maps what was held
 * out; see linear_map.h. */
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"
#include "linear_map.h"

/* Of the training parts, in the basis of the covariance's eigenvectors. */
typedef struct path {
    ks_map_train *train;
    double *value;                   /* [d_in] eigenvalues */
    double *vector;                  /* [d_in, d_in] a row each */
    double *target[KS_MAP_PAIRINGS]; /* [d_out, d_in] coefficients of y in units
                                        of its deviation; times 1 / (value +
                                        strength) they are the map's */
    double *product[KS_MAP_PAIRINGS]; /* [d_in, d_in] target' target, lower */
    double *a, *b;                    /* scratch [d_in, most of both] */
    double *held;                     /* [d_in, d_in] covariance, likewise */
    double *with;                     /* [d_in] of y that is held out and what
                                         the target makes of it */
    double *least;                    /* [d_in] */
} path;

static ks_status open_path(path *p, ks_map_train *train, ks_err *err) {
    ks_status st = KS_OK;
    size_t in = (size_t)train->of->x.d, to = (size_t)train->of->d_out;
    size_t most = in * KS_MAX(in, to);
    *p = (path){.train = train, .vector = train->covariance};
    KS_TRY(ks_alloc(&p->value, in, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&p->a, most, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&p->b, most, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&p->held, in * in, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&p->with, in, sizeof(double), "map", err));
    KS_TRY(ks_alloc(&p->least, in, sizeof(double), "map", err));
    for (int k = 0; k < KS_MAP_PAIRINGS; k++) {
        KS_TRY(ks_alloc(&p->product[k], in * in, sizeof(double), "map", err));
        p->target[k] = train->cross[k];
    }
done:
    return st;
}

static void close_path(path *p) {
    free(p->value);
    free(p->a);
    free(p->b);
    free(p->held);
    free(p->with);
    free(p->least);
    for (int k = 0; k < KS_MAP_PAIRINGS; k++) free(p->product[k]);
}

/* Rows of y in units of their deviation, constant ones away. */
static void scale_rows(const ks_map_train *t, double *y) {
    int64_t in = t->of->x.d;
    for (int64_t o = 0; o < t->of->d_out; o++) {
        double by = t->y_scale[o] > 0 ? 1 / t->y_scale[o] : 0;
        for (int64_t j = 0; j < in; j++) y[o * in + j] *= by;
    }
}

static ks_status decompose(path *p, ks_err *err) {
    ks_status st = KS_OK;
    int64_t in = p->train->of->x.d, to = p->train->of->d_out;
    /* the lower triangle row-major is the upper one column-major, and
     * eigenvectors as columns there are rows here */
    lapack_int info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'U', (lapack_int)in,
                                     p->vector, (lapack_int)in, p->value);
    KS_CHECK(info == 0, KS_NUMERIC,
             "the eigenvectors of a covariance of %lld features did not "
             "converge",
             (long long)in);
    /* rounding can leave tiny negative values */
    for (int64_t a = 0; a < in; a++) p->value[a] = fmax(p->value[a], 0);
    for (int k = 0; k < KS_MAP_PAIRINGS; k++) {
        scale_rows(p->train, p->target[k]);
        ks__gemm_f64(false, true, to, in, in, p->target[k], in, p->vector, in,
                     0, p->a, in);
        memcpy(p->target[k], p->a, (size_t)(in * to) * sizeof *p->a);
        ks__syrk_f64(in, to, p->target[k], p->product[k]);
    }
done:
    return st;
}

/* What is held out about the training means, in the same basis. */
static void turn_held(path *p, uint64_t held) {
    const ks_map_train *t = p->train;
    int64_t in = t->of->x.d;
    ks_fold_gram_about(&t->of->x, held, t->mean, t->inverse, p->a);
    ks__symm_f64(in, in, p->vector, p->a, p->b);
    ks__gemm_f64(false, true, in, in, in, p->b, in, p->vector, in, 0, p->held,
                 in);
}

static void turn_held_targets(path *p, int pairing, uint64_t held) {
    const ks_map_train *t = p->train;
    int64_t in = t->of->x.d, to = t->of->d_out;
    ks__map_cross(t, pairing, held, p->a);
    scale_rows(t, p->a);
    ks__gemm_f64(false, true, to, in, in, p->a, in, p->vector, in, 0, p->b, in);
    memset(p->with, 0, (size_t)in * sizeof *p->with);
    for (int64_t o = 0; o < to; o++)
        for (int64_t a = 0; a < in; a++)
            p->with[a] += p->b[o * in + a] * p->target[pairing][o * in + a];
}

/* Squares of y about its training mean. */
static double held_squares(const ks_map_train *t, uint64_t held) {
    const ks_map_pairs *p = t->of;
    int64_t to = p->d_out;
    double total = 0;
    for (int32_t k = 0; k < p->x.n_parts; k++) {
        if (!(held >> k & 1)) continue;
        for (int64_t o = 0; o < to; o++) {
            double m = t->y_mean[o], unit = t->y_scale[o] * t->y_scale[o];
            if (unit == 0) continue;
            total += (p->yy[k * to + o] +
                      m * (p->x.count[k] * m - 2 * p->y[k * to + o])) /
                     unit;
        }
    }
    return total;
}

/* |Y|^2 - 2 tr(Y'X W') + |X W'|^2, less |Y|^2. */
static double error_of(path *p, int pairing, double strength) {
    int64_t in = p->train->of->x.d;
    double *by = p->least, error = 0;
    const double *product = p->product[pairing];
    for (int64_t a = 0; a < in; a++) by[a] = 1 / (p->value[a] + strength);
    for (int64_t a = 0; a < in; a++) {
        double sum = 0;
        for (int64_t b = 0; b < a; b++)
            sum += p->held[a * in + b] * product[a * in + b] * by[b];
        sum += 0.5 * p->held[a * in + a] * product[a * in + a] * by[a];
        error += 2 * by[a] * (sum - p->with[a]);
    }
    return error;
}

ks_status ks_map_path(ks_map_train *train, const uint64_t *held, int32_t n_held,
                      const double *strengths, int32_t n, double *r2,
                      ks_err *err) {
    ks_status st = KS_OK;
    path p = {0};
    int threads = ks__blas_serial();
    KS_TRY(open_path(&p, train, err));
    KS_TRY(decompose(&p, err));
    for (int32_t h = 0; h < n_held; h++) {
        double total = held_squares(train, held[h]);
        turn_held(&p, held[h]);
        for (int k = 0; k < KS_MAP_PAIRINGS; k++) {
            turn_held_targets(&p, k, held[h]);
            for (int32_t c = 0; c < n; c++)
                *r2++ = -error_of(&p, k, strengths[c]) / total;
        }
    }
done:
    ks__blas_restore(threads);
    close_path(&p);
    return st;
}
