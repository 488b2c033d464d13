/* fold_gram.c - see fold_gram.h. */
#include "fold_gram.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"

enum { BLOCK = 256 }; /* rows in double at a time */

static ks_status check_finite(const float *x, int64_t n, int64_t d,
                              ks_err *err) {
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int64_t j = 0; j < d; j++) sum += x[i * d + j] * 0.0f;
        if (sum == 0) continue; /* NaN unless every value is finite */
        int64_t j = 0;
        while (j + 1 < d && isfinite(x[i * d + j])) j++;
        return ks_fail(err, KS_NUMERIC,
                       "row %lld, feature %lld: expected a finite value, found "
                       "%g",
                       (long long)i, (long long)j, (double)x[i * d + j]);
    }
    return KS_OK;
}

static void find_units(ks_fold_gram *g, const float *x, int64_t n) {
    int64_t d = g->d;
    memset(g->shift, 0, (size_t)d * sizeof *g->shift);
    memset(g->unit, 0, (size_t)d * sizeof *g->unit);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++) g->shift[j] += (double)x[i * d + j];
    for (int64_t j = 0; j < d; j++) g->shift[j] /= (double)n;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++) {
            double off = (double)x[i * d + j] - g->shift[j];
            g->unit[j] += off * off;
        }
    for (int64_t j = 0; j < d; j++) {
        double variance = g->unit[j] / (double)n, mean = g->shift[j];
        g->unit[j] =
            variance > 1e-12 * mean * mean && variance > 0 ? sqrt(variance) : 0;
    }
}

static void to_units(const ks_fold_gram *g, const float *row, double *u) {
    for (int64_t j = 0; j < g->d; j++)
        u[j] = g->unit[j] > 0 ? ((double)row[j] - g->shift[j]) / g->unit[j] : 0;
}

typedef struct rows {
    const float *x;
    const uint8_t *part;
    const double *y;
    int64_t n;
} rows;

static void add_block(ks_fold_gram *g, int32_t part, const double *u,
                      const int64_t *list, int64_t m, const rows *r) {
    int64_t d = g->d;
    double *sum = g->sum + part * d;
    ks__syrk_f64(d, m, u, g->gram + part * d * d);
    for (int64_t k = 0; k < m; k++)
        for (int64_t j = 0; j < d; j++) sum[j] += u[k * d + j];
    for (int32_t t = 0; t < g->n_targets; t++) {
        double *cross = g->cross + ((int64_t)part * g->n_targets + t) * d;
        for (int64_t k = 0; k < m; k++) {
            double y = r->y[t * r->n + list[k]];
            g->target[part * g->n_targets + t] += y;
            for (int64_t j = 0; j < d; j++) cross[j] += y * u[k * d + j];
        }
    }
    g->count[part] += (double)m;
}

static ks_status add_part(ks_fold_gram *g, int32_t part, const rows *r,
                          ks_err *err) {
    ks_status st = KS_OK;
    double *u = NULL;
    int64_t list[BLOCK], m = 0, d = g->d;
    KS_TRY(ks_alloc(&u, (size_t)(BLOCK * d), sizeof *u, "moments", err));
    for (int64_t i = 0; i < r->n; i++) {
        if (r->part[i] != part) continue;
        to_units(g, r->x + i * d, u + m * d);
        list[m++] = i;
        if (m < BLOCK) continue;
        add_block(g, part, u, list, m, r);
        m = 0;
    }
    if (m) add_block(g, part, u, list, m, r);
done:
    free(u);
    return st;
}

static ks_status alloc_all(ks_fold_gram *g, ks_err *err) {
    ks_status st = KS_OK;
    size_t d = (size_t)g->d, parts = (size_t)g->n_parts;
    size_t targets = parts * (size_t)g->n_targets;
    KS_TRY(ks_alloc(&g->shift, d, sizeof(double), "moments", err));
    KS_TRY(ks_alloc(&g->unit, d, sizeof(double), "moments", err));
    KS_TRY(ks_alloc(&g->count, parts, sizeof(double), "moments", err));
    KS_TRY(ks_alloc(&g->sum, parts * d, sizeof(double), "moments", err));
    KS_TRY(ks_alloc(&g->gram, parts * d, d * sizeof(double),
                    "covariances of folds", err));
    KS_TRY(ks_alloc(&g->target, targets + 1, sizeof(double), "moments", err));
    KS_TRY(
        ks_alloc(&g->cross, targets * d + 1, sizeof(double), "moments", err));
done:
    return st;
}

ks_status ks_fold_gram_open(ks_fold_gram *out, const float *x, int64_t n,
                            int64_t d, const uint8_t *part, int32_t n_parts,
                            const double *y, int32_t n_targets, int threads,
                            ks_err *err) {
    ks_status st = KS_OK;
    const rows r = {x, part, y, n};
    int restore = ks__blas_serial();
    *out = (ks_fold_gram){.d = d,
                          .n_parts = n_parts,
                          .n_targets = n_targets,
                          .threads = threads > 0 ? threads : restore};
    KS_TRY(ks__blas_check(err));
    KS_TRY(alloc_all(out, err));
    KS_TRY(check_finite(x, n, d, err));
    find_units(out, x, n);
#pragma omp parallel for num_threads(out->threads) schedule(dynamic, 1)
    for (int32_t k = 0; k < n_parts; k++) {
        ks_err mine = {0};
        ks_status got = add_part(out, k, &r, &mine);
        if (got != KS_OK)
#pragma omp critical(ks_fold_gram)
        {
            st = got;
            if (err) *err = mine;
        }
    }
done:
    ks__blas_restore(restore);
    if (st != KS_OK) ks_fold_gram_close(out);
    return st;
}

void ks_fold_gram_close(ks_fold_gram *g) {
    free(g->shift);
    free(g->unit);
    free(g->count);
    free(g->sum);
    free(g->gram);
    free(g->target);
    free(g->cross);
    *g = (ks_fold_gram){0};
}

/* ------------------------------------------------------------------- of sets
 */

static double means_of(const ks_fold_gram *g, uint64_t take, double *mean) {
    int64_t d = g->d;
    double n = 0;
    memset(mean, 0, (size_t)d * sizeof *mean);
    for (int32_t k = 0; k < g->n_parts; k++) {
        if (!(take >> k & 1)) continue;
        n += g->count[k];
        for (int64_t j = 0; j < d; j++) mean[j] += g->sum[k * d + j];
    }
    for (int64_t j = 0; j < d; j++) mean[j] /= n;
    return n;
}

double ks_fold_gram_moments(const ks_fold_gram *g, uint64_t take, double *mean,
                            double *inverse) {
    int64_t d = g->d;
    double n = means_of(g, take, mean);
    for (int64_t j = 0; j < d; j++) {
        double square = 0;
        for (int32_t k = 0; k < g->n_parts; k++)
            if (take >> k & 1) square += g->gram[k * d * d + j * d + j];
        double variance = square / n - mean[j] * mean[j];
        inverse[j] = variance > 1e-12 ? 1 / sqrt(variance) : 0;
    }
    return n;
}

double ks_fold_gram_add(const ks_fold_gram *g, uint64_t take, double weight,
                        const double *inverse, double *mean, double *a) {
    int64_t d = g->d;
    double n = means_of(g, take, mean);
    for (int64_t i = 0; i < d; i++) {
        double *row = a + i * d;
        for (int32_t k = 0; k < g->n_parts; k++) {
            if (!(take >> k & 1)) continue;
            const double *from = g->gram + k * d * d + i * d;
            double scale = weight * inverse[i] / n;
            for (int64_t j = 0; j <= i; j++)
                row[j] += scale * from[j] * inverse[j];
        }
        double scale = weight * inverse[i] * mean[i];
        for (int64_t j = 0; j <= i; j++) row[j] -= scale * mean[j] * inverse[j];
    }
    return n;
}

double ks_fold_gram_about(const ks_fold_gram *g, uint64_t take,
                          const double *mean, const double *inverse,
                          double *a) {
    int64_t d = g->d;
    double n = 0;
    memset(a, 0, (size_t)(d * d) * sizeof *a);
    for (int32_t k = 0; k < g->n_parts; k++) {
        if (!(take >> k & 1)) continue;
        const double *sum = g->sum + k * d, *gram = g->gram + k * d * d;
        double m = g->count[k];
        n += m;
        for (int64_t i = 0; i < d; i++)
            for (int64_t j = 0; j <= i; j++)
                a[i * d + j] += gram[i * d + j] - mean[i] * sum[j] -
                                mean[j] * (sum[i] - m * mean[i]);
    }
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j <= i; j++)
            a[i * d + j] *= inverse[i] * inverse[j];
    return n;
}

static ks_status cross_part(const ks_fold_gram *g, int32_t part,
                            const ks_fold_pairs *p, double *cross,
                            ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = g->d, to = p->d_out, m = 0;
    double *u = NULL, *v = NULL;
    KS_TRY(ks_alloc(&u, (size_t)(BLOCK * d), sizeof *u, "moments", err));
    KS_TRY(ks_alloc(&v, (size_t)(BLOCK * to), sizeof *v, "moments", err));
    for (int64_t i = 0; i <= p->n; i++) {
        if (m == BLOCK || (i == p->n && m)) {
            ks__gemm_f64(true, false, to, d, m, v, to, u, d, 1, cross, d);
            m = 0;
        }
        if (i == p->n || p->part[i] != part) continue;
        const float *y = p->y + (p->pair ? p->pair[i] : i) * to;
        to_units(g, p->x + i * d, u + m * d);
        for (int64_t j = 0; j < to; j++)
            v[m * to + j] = (double)y[j] - p->at[j];
        m++;
    }
done:
    free(u);
    free(v);
    return st;
}

ks_status ks_fold_gram_cross(const ks_fold_gram *g, const ks_fold_pairs *pairs,
                             double *cross, ks_err *err) {
    ks_status st = KS_OK;
    int restore = ks__blas_serial();
#pragma omp parallel for num_threads(g->threads) schedule(dynamic, 1)
    for (int32_t k = 0; k < g->n_parts; k++) {
        ks_err mine = {0};
        ks_status got =
            cross_part(g, k, pairs, cross + k * pairs->d_out * g->d, &mine);
        if (got != KS_OK)
#pragma omp critical(ks_fold_gram)
        {
            st = got;
            if (err) *err = mine;
        }
    }
    ks__blas_restore(restore);
    return st;
}

ks_status ks_fold_gram_margins(const ks_fold_gram *g, const float *x, int64_t n,
                               const double *w, const double *b, int32_t k,
                               float *z, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = g->d;
    int restore = ks__blas_serial();
    bool failed = false;
#pragma omp parallel for num_threads(g->threads) schedule(dynamic, 1)
    for (int64_t from = 0; from < n; from += BLOCK) {
        int64_t m = KS_MIN(BLOCK, n - from);
        double *u = malloc((size_t)(m * (d + k)) * sizeof *u);
        if (!u) {
#pragma omp atomic write
            failed = true;
            continue;
        }
        double *out = u + m * d;
        for (int64_t i = 0; i < m; i++)
            to_units(g, x + (from + i) * d, u + i * d);
        ks__gemm_f64(false, true, m, k, d, u, d, w, d, 0, out, k);
        for (int64_t i = 0; i < m; i++)
            for (int32_t c = 0; c < k; c++)
                z[c * n + from + i] = (float)(out[i * k + c] + b[c]);
        free(u);
    }
    KS_CHECK(!failed, KS_NOMEM, "out of memory for margins");
done:
    ks__blas_restore(restore);
    return st;
}

ks_status ks__solve_ridge(const double *a, int64_t d, double ridge, double *b,
                          int32_t n_b, double *scratch, ks_err *err) {
    memcpy(scratch, a, (size_t)(d * d) * sizeof *scratch);
    for (int64_t j = 0; j < d; j++) scratch[j * d + j] += ridge;
    /* the lower triangle row-major is the upper one column-major */
    lapack_int info = LAPACKE_dposv_work(LAPACK_COL_MAJOR, 'U', (lapack_int)d,
                                         (lapack_int)n_b, scratch,
                                         (lapack_int)d, b, (lapack_int)d);
    if (info == 0) return KS_OK;
    return ks_fail(err, KS_NUMERIC,
                   "a covariance of %lld features with %g on its diagonal is "
                   "not positive definite",
                   (long long)d, ridge);
}
