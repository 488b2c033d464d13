/* l2_newton.c - a column's own Hessian, for the few that the shared spectrum
 * serves badly: where some rows dominate a feature's variance, the folds held
 * out decide the scale, and where margins saturate, few rows carry the
 * curvature. Formed and factorised in double: the least eigenvalue is lambda,
 * beyond what f32 leaves beside the greatest. */
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "l2_fit.h"

/* Bytes of those there are at a time: some share of the rows' own, so that they
 * do not outgrow what a scratch file saves. Not of --memory, which would then
 * decide how columns are grouped, and with it bits. */
static const int64_t LEAST_BYTES = (int64_t)16 << 20;
static const int64_t MOST_BYTES = (int64_t)256 << 20;
enum { SHARE = 16, MOST_AT_A_TIME = 8 };
enum { MOST_FEATURES = 8192 }; /* a factor has 512 MiB */

int32_t ks__l2_hessians(int64_t n, int64_t d) {
    int64_t m = d + 1, bytes = m * m * (int64_t)sizeof(double);
    int64_t most = n * d * (int64_t)sizeof(float) / SHARE;
    most = KS_MIN(KS_MAX(most, LEAST_BYTES), MOST_BYTES);
    if (d > MOST_FEATURES) return 0;
    return (int32_t)KS_MIN(KS_MAX(1, most / bytes), MOST_AT_A_TIME);
}

ks_l2_hessian ks__l2_describe_hessian(const ks_l2_fitting *f, int32_t k,
                                      double *w) {
    const ks_l2_progress *c = &f->states[k];
    const ks_l2_split *s = &f->splits[c->split];
    ks_l2_hessian h = {.design = s->design,
                       .hold = s->hold,
                       .class_c = {0.5 / s->count[0], 0.5 / s->count[1]},
                       .w = w,
                       .centre = s->centre,
                       .inverse = s->inverse};
    ks__l2_to_shifted(f, k, w, &h.b);
    return h;
}

static void factorise(ks_l2_fitting *f, int32_t k, double *hessian) {
    int64_t m = f->l2->d + 1;
    for (int64_t j = 0; j < m - 1; j++)
        hessian[j * (m + 1)] += f->states[k].lambda;
    hessian[m * m - 1] = KS_MAX(hessian[m * m - 1], 1e-9);
    /* the lower triangle row-major is the upper one column-major */
    lapack_int info = LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'U', (lapack_int)m,
                                     hessian, (lapack_int)m);
    f->states[k].hessian = info == 0 ? hessian : NULL;
    f->states[k].age = 0;
    f->states[k].pairs = 0; /* they tell of other points */
}

ks_status ks__l2_find_hessians(ks_l2_fitting *f, const int32_t *list, int32_t n,
                               double *hessians, ks_err *err) {
    ks_status st = KS_OK;
    ks_l2 *l2 = f->l2;
    ks_l2_hessian *columns = NULL;
    double *w = NULL;
    int64_t size = (int64_t)(l2->d + 1) * (l2->d + 1);
    KS_TRY(ks_alloc(&columns, (size_t)n, sizeof *columns, "Hessians", err));
    KS_TRY(ks_alloc(&w, (size_t)(n * l2->d), sizeof *w, "Hessians", err));
    for (int32_t i = 0; i < n; i++) {
        columns[i] = ks__l2_describe_hessian(f, list[i], w + i * l2->d);
        columns[i].out = hessians + f->states[list[i]].slot * size;
    }
    KS_TRY(l2->ops->l2_hessian(l2->dev, &l2->rows, columns, n, err));
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
#pragma omp parallel for num_threads(KS_MIN(l2->threads, n))                   \
    schedule(dynamic, 1)
    for (int32_t i = 0; i < n; i++) factorise(f, list[i], columns[i].out);
    l2->cost.reads += 1;
done:
    free(columns);
    free(w);
    return st;
}

void ks__l2_solve_hessian(const ks_l2_fitting *f, int32_t k) {
    lapack_int m = (lapack_int)f->l2->d + 1;
    double *p = f->p + (int64_t)k * m;
    LAPACKE_dpotrs(LAPACK_COL_MAJOR, 'U', m, 1, f->states[k].hessian, m, p, m);
}
