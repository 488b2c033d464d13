/* fold_gram.c - see fold_gram.h. */
#include "fold_gram.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"
#include "window.h"

enum { BLOCK = 256 }; /* rows in double at a time */

/* Rows of a window: all that lie in memory, else some. */
static int64_t wide(const ks_l2_source *x) {
    return x->x && x->type == KS_F32 ? x->n : BLOCK;
}

static ks_status add_means(ks_fold_gram *g, ks__window *rows, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = g->d, n = rows->of->n, step = wide(rows->of);
    for (int64_t from = 0; from < n; from += step) {
        int64_t m = KS_MIN(step, n - from);
        const float *x;
        KS_TRY(ks__window_get(rows, from, m, &x, err));
        KS_TRY(ks__window_check(x, from, m, d, err));
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < d; j++) g->shift[j] += (double)x[i * d + j];
    }
    for (int64_t j = 0; j < d; j++) g->shift[j] /= (double)n;
done:
    return st;
}

static ks_status add_squares(ks_fold_gram *g, ks__window *rows, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = g->d, n = rows->of->n, step = wide(rows->of);
    for (int64_t from = 0; from < n; from += step) {
        int64_t m = KS_MIN(step, n - from);
        const float *x;
        KS_TRY(ks__window_get(rows, from, m, &x, err));
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < d; j++) {
                double off = (double)x[i * d + j] - g->shift[j];
                g->unit[j] += off * off;
            }
    }
    for (int64_t j = 0; j < d; j++) {
        double variance = g->unit[j] / (double)n, mean = g->shift[j];
        g->unit[j] =
            variance > 1e-12 * mean * mean && variance > 0 ? sqrt(variance) : 0;
    }
done:
    return st;
}

static void to_units(const ks_fold_gram *g, const float *row, double *u) {
    for (int64_t j = 0; j < g->d; j++)
        u[j] = g->unit[j] > 0 ? ((double)row[j] - g->shift[j]) / g->unit[j] : 0;
}

/* Rows of one part that wait for their product. */
typedef struct waiting {
    double *u; /* [BLOCK, d] */
    int64_t list[BLOCK], m;
} waiting;

typedef struct rows {
    const uint8_t *part;
    const double *y;
    int64_t n;
} rows;

static void add_block(ks_fold_gram *g, int32_t part, waiting *w,
                      const rows *r) {
    int64_t d = g->d;
    double *sum = g->sum + part * d;
    const double *u = w->u;
    ks__syrk_f64(d, w->m, u, g->gram + part * d * d);
    for (int64_t k = 0; k < w->m; k++)
        for (int64_t j = 0; j < d; j++) sum[j] += u[k * d + j];
    for (int32_t t = 0; t < g->n_targets; t++) {
        double *cross = g->cross + ((int64_t)part * g->n_targets + t) * d;
        for (int64_t k = 0; k < w->m; k++) {
            double y = r->y[t * r->n + w->list[k]];
            g->target[part * g->n_targets + t] += y;
            for (int64_t j = 0; j < d; j++) cross[j] += y * u[k * d + j];
        }
    }
    g->count[part] += (double)w->m;
    w->m = 0;
}

/* Of rows [from, from + n), which lie at x, those of a part. */
static void add_part(ks_fold_gram *g, int32_t part, waiting *w, const float *x,
                     int64_t from, int64_t n, const rows *r) {
    int64_t d = g->d;
    for (int64_t i = 0; i < n; i++) {
        if (r->part[from + i] != part) continue;
        to_units(g, x + i * d, w->u + w->m * d);
        w->list[w->m++] = from + i;
        if (w->m == BLOCK) add_block(g, part, w, r);
    }
}

static ks_status add_parts(ks_fold_gram *g, ks__window *window, const rows *r,
                           ks_err *err) {
    ks_status st = KS_OK;
    waiting *parts = NULL;
    double *u = NULL;
    size_t n_parts = (size_t)g->n_parts, block = (size_t)(BLOCK * g->d);
    int64_t step = wide(window->of);
    KS_TRY(ks_alloc(&parts, n_parts, sizeof *parts, "moments", err));
    KS_TRY(ks_alloc(&u, n_parts * block, sizeof *u, "moments", err));
    for (size_t k = 0; k < n_parts; k++) parts[k].u = u + k * block;
    for (int64_t from = 0; from < r->n; from += step) {
        int64_t m = KS_MIN(step, r->n - from);
        const float *x;
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        KS_TRY(ks__window_get(window, from, m, &x, err));
#pragma omp parallel for num_threads(g->threads) schedule(dynamic, 1)
        for (int32_t k = 0; k < g->n_parts; k++)
            add_part(g, k, &parts[k], x, from, m, r);
    }
#pragma omp parallel for num_threads(g->threads) schedule(dynamic, 1)
    for (int32_t k = 0; k < g->n_parts; k++)
        if (parts[k].m) add_block(g, k, &parts[k], r);
done:
    free(parts);
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

ks_status ks_fold_gram_open(ks_fold_gram *out, const ks_l2_source *x,
                            const uint8_t *part, int32_t n_parts,
                            const double *y, int32_t n_targets, int threads,
                            ks_err *err) {
    ks_status st = KS_OK;
    const rows r = {part, y, x->n};
    ks__window window = {0};
    int restore = ks__blas_serial();
    *out = (ks_fold_gram){.d = x->d,
                          .n_parts = n_parts,
                          .n_targets = n_targets,
                          .threads = threads > 0 ? threads : restore};
    KS_TRY(ks__blas_check(err));
    KS_TRY(alloc_all(out, err));
    KS_TRY(ks__window_open(&window, x, wide(x), err));
    KS_TRY(add_means(out, &window, err));
    KS_TRY(add_squares(out, &window, err));
    KS_TRY(add_parts(out, &window, &r, err));
done:
    ks__window_close(&window);
    ks__blas_restore(restore);
    if (st != KS_OK) ks_fold_gram_close(out);
    return st;
}

size_t ks_fold_gram_bytes(const ks_l2_source *x, int32_t n_parts,
                          int32_t n_targets, int threads) {
    size_t d = (size_t)x->d, parts = (size_t)n_parts;
    size_t block = (size_t)BLOCK * d * sizeof(double);
    return parts * d * sizeof(double) * (d + 1 + (size_t)n_targets) +
           parts * block +
           (size_t)threads * (block + ks__window_bytes(x, BLOCK));
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

/* Of rows [from, from + m), m at most BLOCK; u [m, d + k]: scratch. */
static ks_status margins(const ks_fold_gram *g, ks__window *window,
                         int64_t from, int64_t m, const double *w,
                         const double *b, int32_t k, double *u, float *z,
                         ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = g->d, n = window->of->n;
    double *out = u + m * d;
    const float *x;
    KS_TRY(ks__window_get(window, from, m, &x, err));
    for (int64_t i = 0; i < m; i++) to_units(g, x + i * d, u + i * d);
    ks__gemm_f64(false, true, m, k, d, u, d, w, d, 0, out, k);
    for (int64_t i = 0; i < m; i++)
        for (int32_t c = 0; c < k; c++)
            z[c * n + from + i] = (float)(out[i * k + c] + b[c]);
done:
    return st;
}

ks_status ks_fold_gram_margins(const ks_fold_gram *g, const ks_l2_source *x,
                               const double *w, const double *b, int32_t k,
                               float *z, ks_err *err) {
    ks_status st = KS_OK;
    int restore = ks__blas_serial();
#pragma omp parallel num_threads(g->threads)
    {
        ks_err mine = {0};
        ks__window window = {0};
        double *u = NULL;
        ks_status got = ks_alloc(&u, (size_t)BLOCK * (size_t)(g->d + k),
                                 sizeof *u, "margins", &mine);
        if (got == KS_OK) got = ks__window_open(&window, x, BLOCK, &mine);
#pragma omp for schedule(dynamic, 1)
        for (int64_t from = 0; from < x->n; from += BLOCK)
            if (got == KS_OK)
                got = margins(g, &window, from, KS_MIN(BLOCK, x->n - from), w,
                              b, k, u, z, &mine);
        if (got != KS_OK)
#pragma omp critical(ks_fold_gram)
        {
            st = got;
            if (err) *err = mine;
        }
        ks__window_close(&window);
        free(u);
    }
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
