/* ridge.c - see ridge.h. */
#include "ridge.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"
#include "fold_gram.h"
#include "holds.h"
#include "window.h"

double ks_ridge_strength(int32_t k) {
    return pow(10, -3 + 6.0 * k / (KS_RIDGE_STRENGTHS - 1));
}

typedef struct work {
    const ks_folds *folds;
    const double *y;
    int32_t n_targets;
    ks_fold_gram gram; /* parts: folds */
    ks_holds holds;    /* inner, then outer */
    double *w, *b;     /* [holds, strengths, targets, d] of u; [...] */
    float *margin;     /* [holds, strengths, targets, n] */
    ks_ridge *out;
} work;

static int64_t column_of(const work *w, int32_t hold, int32_t k, int32_t t) {
    return ((int64_t)hold * KS_RIDGE_STRENGTHS + k) * w->n_targets + t;
}

/* What a set's training rows say of their targets: means [targets], and
 * covariances with standardised features [targets, d]. */
static void find_targets(const work *w, uint64_t take, double n,
                         const double *mean, const double *inverse, double *y,
                         double *cross) {
    const ks_fold_gram *g = &w->gram;
    int64_t d = g->d;
    for (int32_t t = 0; t < w->n_targets; t++) {
        double *to = cross + t * d;
        y[t] = 0;
        memset(to, 0, (size_t)d * sizeof *to);
        for (int32_t f = 0; f < g->n_parts; f++) {
            if (!(take >> f & 1)) continue;
            const double *from = g->cross + ((int64_t)f * w->n_targets + t) * d;
            y[t] += g->target[f * w->n_targets + t] / n;
            for (int64_t j = 0; j < d; j++) to[j] += from[j] / n;
        }
        for (int64_t j = 0; j < d; j++)
            to[j] = (to[j] - y[t] * mean[j]) * inverse[j];
    }
}

/* scratch [2 d + 2 targets + 2, d] and [targets] */
static ks_status solve_hold(work *w, int32_t hold, double *scratch,
                            ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = w->gram.d;
    int32_t n_targets = w->n_targets;
    double *c = scratch, *factor = c + d * d, *mean = factor + d * d;
    double *inverse = mean + d, *cross = inverse + d;
    double *v = cross + n_targets * d, *y = v + n_targets * d;
    uint64_t take = (1ull << w->folds->n_folds) - 1;
    take &= ~(uint64_t)w->holds.set[hold];
    double n = ks_fold_gram_moments(&w->gram, take, mean, inverse);
    memset(c, 0, (size_t)(d * d) * sizeof *c);
    ks_fold_gram_add(&w->gram, take, 1, inverse, mean, c);
    find_targets(w, take, n, mean, inverse, y, cross);
    for (int32_t k = 0; k < KS_RIDGE_STRENGTHS; k++) {
        memcpy(v, cross, (size_t)(n_targets * d) * sizeof *v);
        KS_TRY(ks__solve_ridge(c, d, ks_ridge_strength(k), v, n_targets, factor,
                               err));
        for (int32_t t = 0; t < n_targets; t++) {
            int64_t at = column_of(w, hold, k, t);
            double *to = w->w + at * d;
            w->b[at] = y[t];
            for (int64_t j = 0; j < d; j++) {
                to[j] = v[t * d + j] * inverse[j];
                w->b[at] -= to[j] * mean[j];
            }
        }
    }
done:
    return st;
}

static ks_status solve_all(work *w, ks_err *err) {
    ks_status st = KS_OK;
    size_t d = (size_t)w->gram.d, targets = (size_t)w->n_targets;
    int restore = ks__blas_serial();
#pragma omp parallel for num_threads(w->gram.threads) schedule(dynamic, 1)
    for (int32_t h = 0; h < w->holds.n; h++) {
        ks_err mine = {0};
        double *scratch = NULL;
        ks_status got =
            ks_alloc(&scratch, (2 * d + 2 * targets + 2) * d + targets,
                     sizeof *scratch, "a regression", &mine);
        if (got == KS_OK) got = solve_hold(w, h, scratch, &mine);
        free(scratch);
        if (got != KS_OK)
#pragma omp critical(ks_ridge)
        {
            st = got;
            if (err) *err = mine;
        }
    }
    ks__blas_restore(restore);
    return st;
}

/* Of fold k: the mean over its inner parts of the mean squared error. */
static double inner_error(work *w, int32_t seed, int32_t k, int32_t strength,
                          int32_t t) {
    const ks_folds *f = w->folds;
    const uint8_t *fold = f->fold + seed * f->n;
    double error = 0;
    for (int32_t part = 0; part < f->n_inner; part++) {
        int32_t h = ks__hold_inner(&w->holds, f, k, part);
        uint32_t in = w->holds.set[h] & ~(1u << k);
        const float *z = w->margin + column_of(w, h, strength, t) * f->n;
        double sum = 0, n = 0;
        for (int64_t i = 0; i < f->n; i++) {
            if (!(in >> fold[i] & 1)) continue;
            double off = (double)z[i] - w->y[t * f->n + i];
            sum += off * off;
            n++;
        }
        error += sum / n / f->n_inner;
    }
    return error;
}

/* Rows of a fit: each by the one that held it out. */
static void put_inner(work *w, int32_t seed, int32_t k, int32_t strength,
                      int32_t t) {
    const ks_folds *f = w->folds;
    const uint8_t *fold = f->fold + seed * f->n;
    int64_t fit = (int64_t)t * w->out->n_fits + seed * f->n_folds + k;
    float *to = w->out->inner + fit * f->n;
    for (int32_t part = -1; part < f->n_inner; part++) {
        uint32_t set =
            part < 0 ? 1u << k : ks_nest_hold(f->n_folds, f->n_inner, k, part);
        uint32_t in = part < 0 ? set : set & ~(1u << k);
        const float *z =
            w->margin +
            column_of(w, ks__hold(&w->holds, set), strength, t) * f->n;
        for (int64_t i = 0; i < f->n; i++)
            if (in >> fold[i] & 1) to[i] = z[i];
    }
}

static ks_status choose(work *w, int32_t seed, int32_t t, ks_err *err) {
    const ks_folds *f = w->folds;
    ks_ridge *out = w->out;
    const uint8_t *fold = f->fold + seed * f->n;
    float *score = out->score + ((int64_t)t * f->n_seeds + seed) * f->n;
    for (int32_t k = 0; k < f->n_folds; k++) {
        int32_t at = t * out->n_fits + seed * f->n_folds + k, best = 0;
        out->loss[at] = INFINITY;
        for (int32_t c = 0; c < KS_RIDGE_STRENGTHS; c++) {
            double loss = inner_error(w, seed, k, c, t);
            if (!(loss < out->loss[at])) continue;
            out->loss[at] = loss;
            best = c;
        }
        if (!isfinite(out->loss[at]))
            return ks_fail(err, KS_NUMERIC,
                           "seed %d fold %d: no strength has a finite error",
                           seed, k);
        out->strength[at] = ks_ridge_strength(best);
        int32_t outer = ks__hold(&w->holds, 1u << k);
        const float *z = w->margin + column_of(w, outer, best, t) * f->n;
        for (int64_t i = 0; i < f->n; i++)
            if (fold[i] == k) score[i] = z[i];
        if (out->inner) put_inner(w, seed, k, best, t);
    }
    return KS_OK;
}

static ks_status run_seed(work *w, const ks_l2_source *x, int32_t seed,
                          int threads, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = w->folds;
    KS_TRY(ks_fold_gram_open(&w->gram, x, f->fold + seed * f->n, f->n_folds,
                             w->y, w->n_targets, threads, err));
    KS_TRY(solve_all(w, err));
    KS_TRY(ks_fold_gram_margins(&w->gram, x, w->w, w->b,
                                w->holds.n * KS_RIDGE_STRENGTHS * w->n_targets,
                                w->margin, err));
    for (int32_t t = 0; t < w->n_targets; t++) KS_TRY(choose(w, seed, t, err));
done:
    ks_fold_gram_close(&w->gram);
    return st;
}

ks_status ks_ridge_fit(ks_ridge *out, const ks_l2_source *x, const double *y,
                       int32_t n_targets, const ks_folds *folds,
                       bool keep_inner, int threads, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = x->d;
    work w = {.folds = folds, .y = y, .n_targets = n_targets, .out = out};
    ks__holds_fill(&w.holds, folds, 0, true);
    *out = (ks_ridge){.n_fits = folds->n_seeds * folds->n_folds};
    size_t columns = (size_t)column_of(&w, w.holds.n, 0, 0);
    size_t fits = (size_t)n_targets * (size_t)out->n_fits, n = (size_t)folds->n;
    KS_TRY(ks_alloc(&out->score, (size_t)(n_targets * folds->n_seeds) * n,
                    sizeof(float), "scores", err));
    KS_TRY(ks_alloc(&out->strength, fits, sizeof(double), "fits", err));
    KS_TRY(ks_alloc(&out->loss, fits, sizeof(double), "fits", err));
    if (keep_inner)
        KS_TRY(ks_alloc(&out->inner, fits * n, sizeof(float), "scores", err));
    KS_TRY(ks_alloc(&w.w, columns * (size_t)d, sizeof *w.w, "weights", err));
    KS_TRY(ks_alloc(&w.b, columns, sizeof *w.b, "weights", err));
    KS_TRY(ks_alloc(&w.margin, columns * n, sizeof *w.margin, "margins", err));
    for (int32_t s = 0; s < folds->n_seeds; s++)
        KS_TRY(run_seed(&w, x, s, threads, err));
done:
    free(w.w);
    free(w.b);
    free(w.margin);
    if (st != KS_OK) ks_ridge_free(out);
    return st;
}

size_t ks_ridge_bytes(const ks_l2_source *x, int32_t n_targets,
                      const ks_folds *folds, int threads) {
    size_t d = (size_t)x->d, n = (size_t)folds->n, t = (size_t)threads;
    size_t targets = (size_t)n_targets;
    ks_holds holds;
    ks__holds_fill(&holds, folds, 0, true);
    size_t columns = (size_t)holds.n * KS_RIDGE_STRENGTHS * targets;
    return ks_fold_gram_bytes(x, folds->n_folds, n_targets, threads) +
           t * ((2 * d + 2 * targets + 2) * d * sizeof(double) +
                KS_WINDOW * columns * sizeof(double) + ks_l2_blas_bytes(x->d)) +
           columns * (d * sizeof(double) + n * sizeof(float)) +
           ks_ridge_kept(n_targets, folds);
}

size_t ks_ridge_kept(int32_t n_targets, const ks_folds *folds) {
    return (size_t)n_targets * (size_t)folds->n_seeds *
           ((size_t)folds->n * sizeof(float) +
            (size_t)folds->n_folds * 2 * sizeof(double));
}

void ks_ridge_free(ks_ridge *ridge) {
    free(ridge->score);
    free(ridge->strength);
    free(ridge->loss);
    free(ridge->inner);
    *ridge = (ks_ridge){0};
}
