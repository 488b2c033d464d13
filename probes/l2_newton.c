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

static const int64_t HESSIAN_BYTES = (int64_t)256 << 20;
enum { MOST_FEATURES = 8192 }; /* a factor has 512 MiB */

int32_t ks__l2_hessians(const ks_l2 *l2) {
    int64_t m = l2->d + 1, bytes = m * m * (int64_t)sizeof(double);
    if (l2->d > MOST_FEATURES) return 0;
    return (int32_t)KS_MIN(KS_MAX(1, HESSIAN_BYTES / bytes), INT32_MAX);
}

/* Rows of a block as the column has them, 1 at the end, each times the square
 * root of its curvature c p (1 - p); held-out rows are left out. Returns the
 * rows there are. */
static int64_t weigh_rows(const ks_l2_fitting *f, int32_t k, const double *w,
                          double b, ks_l2_block block, double *out) {
    const ks_l2 *l2 = f->l2;
    const ks_l2_split *s = &f->splits[f->states[k].split];
    int64_t d = l2->d, rows = 0;
    for (int64_t i = block.begin; i < block.end; i++) {
        uint8_t code = l2->code[s->design * l2->n + i];
        if (s->hold >> (code / 2) & 1) continue;
        const float *x = l2->x + i * d;
        double *to = out + rows++ * (d + 1), z = b;
        for (int64_t j = 0; j < d; j++) z += w[j] * (double)x[j];
        double p = 1 / (1 + exp(-z));
        double share = sqrt(0.5 / s->count[code & 1] * p * (1 - p));
        for (int64_t j = 0; j < d; j++)
            to[j] = share * (((double)x[j] - s->centre[j]) * s->inverse[j]);
        to[d] = share;
    }
    return rows;
}

/* scratch: [KS_L2_BLOCK + 1, d + 1] */
static void factorise(ks_l2_fitting *f, int32_t k, double *hessian,
                      double *scratch) {
    const ks_l2 *l2 = f->l2;
    int64_t m = l2->d + 1;
    double *w = scratch, *rows = scratch + m, b;
    ks__l2_to_shifted(f, k, w, &b);
    memset(hessian, 0, (size_t)(m * m) * sizeof *hessian);
    for (int32_t i = 0; i < l2->n_blocks; i++) {
        int64_t n = weigh_rows(f, k, w, b, l2->blocks[i], rows);
        if (n) ks__syrk_f64(m, n, rows, hessian);
    }
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
    int64_t m = l2->d + 1;
    size_t size = (KS_L2_BLOCK + 1) * (size_t)m;
    int32_t lanes = KS_MAX(1, KS_MIN(l2->threads, n));
    double *scratch = NULL;
    KS_TRY(ks_alloc(&scratch, (size_t)lanes * size, sizeof *scratch,
                    "a column's Hessian", err));
#pragma omp parallel for num_threads(lanes) schedule(dynamic, 1)
    for (int32_t i = 0; i < n; i++)
        if (!ks_interrupted)
            factorise(f, list[i],
                      hessians + (int64_t)f->states[list[i]].slot * m * m,
                      scratch + (size_t)omp_get_thread_num() * size);
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    l2->cost.reads += n > 0;
done:
    free(scratch);
    return st;
}

void ks__l2_solve_hessian(const ks_l2_fitting *f, int32_t k) {
    lapack_int m = (lapack_int)f->l2->d + 1;
    double *p = f->p + (int64_t)k * m;
    LAPACKE_dpotrs(LAPACK_COL_MAJOR, 'U', m, 1, f->states[k].hessian, m, p, m);
}
