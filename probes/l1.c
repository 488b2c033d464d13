/* l1.c - see l1.h. */
#include "l1.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "l1_lasso.h"
#include "l2_fit.h"

enum {
    F32_PASSES = 150, /* before all is double */
    FIRST_HESSIAN = 8 /* passes before it; the next ones after twice as many */
};
static const double LEAST_STEP = 1e-4, MOST_STEP = 1e6; /* of t */
static const size_t MOST_METRICS = (size_t)1 << 30;     /* bytes */

typedef struct state {
    double t, lambda;
    double optimality;
    int32_t metric; /* place in metrics */
    bool fresh;     /* v was not stepped to: its gradient starts a path */
    bool done;
} state;

/* A Hessian that the columns of one hold share. With more features than rows,
 * those rows decide what it is blind to, and a fold more or less makes all the
 * difference; a ratio makes little. */
typedef struct metric {
    int32_t of; /* the column whose it is: of those not done, the one with the
                   least lambda */
    float *b;   /* [d + 1, d + 1]; NULL: not formed, the first one serves */
} metric;

typedef struct work {
    ks_l2_fitting f; /* columns, and one more that holds nothing out */
    ks_l1_column *columns;
    state *states; /* [n] */
    float *b;      /* [d + 1, d + 1] the first metric, b last */
    metric *metrics;
    int32_t n_metrics;
    double tolerance;
    int32_t n;
} work;

/* ------------------------------------------------------------------ metric */

/* The upper triangle from the lower one. Two features alike would leave it
 * singular, and a feature may be constant but for the rows of a fold. */
static void finish_metric(float *b, int64_t m) {
    for (int64_t i = 0; i < m; i++) {
        b[i * m + i] = KS_MAX(1.0001f * b[i * m + i], 1e-4f);
        for (int64_t j = 0; j < i; j++) b[j * m + i] = b[i * m + j];
    }
}

/* A quarter of the class-balanced covariance: the Hessian at w = 0. */
static ks_status find_first(work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks_l2 *l2 = w->f.l2;
    int64_t d = l2->d, m = d + 1;
    float *centre = NULL, *inverse = NULL, *gram = NULL;
    const ks_l2_split *all = &w->f.splits[w->f.states[w->n].split];
    ks_l2_scaling s;
    KS_TRY(ks_alloc(&w->b, (size_t)(m * m), sizeof *w->b, "a covariance", err));
    KS_TRY(ks_alloc(&gram, (size_t)(d * d), sizeof *gram, "a covariance", err));
    KS_TRY(ks_alloc(&centre, (size_t)d, sizeof *centre, "means", err));
    KS_TRY(ks_alloc(&inverse, (size_t)d, sizeof *inverse, "means", err));
    for (int64_t j = 0; j < d; j++) {
        centre[j] = (float)all->centre[j];
        inverse[j] = (float)all->inverse[j];
    }
    s = (ks_l2_scaling){.centre = centre, .inverse = inverse};
    for (int c = 0; c < 2; c++) s.share[c] = (float)sqrt(0.5 / all->count[c]);
    KS_TRY(l2->ops->l2_gram(l2->dev, &l2->rows, &s, gram, err));
    l2->cost.reads += 1;
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j <= i; j++)
            w->b[i * m + j] = 0.25f * gram[i * d + j];
    w->b[m * m - 1] = 0.25f;
    finish_metric(w->b, m);
done:
    free(gram);
    free(centre);
    free(inverse);
    return st;
}

/* Columns with the same training rows share a metric. */
static ks_status group_columns(work *w, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_alloc(&w->metrics, (size_t)w->n, sizeof *w->metrics, "metrics",
                    err));
    for (int32_t k = 0; k < w->n; k++) {
        const ks_l1_column *c = &w->columns[k];
        int32_t at = 0;
        while (at < w->n_metrics &&
               (w->columns[w->metrics[at].of].hold != c->hold ||
                w->columns[w->metrics[at].of].design != c->design))
            at++;
        if (at == w->n_metrics) w->metrics[w->n_metrics++].of = k;
        w->states[k].metric = at;
    }
done:
    return st;
}

static const float *metric_of(const work *w, int32_t k) {
    const float *b = w->metrics[w->states[k].metric].b;
    return b ? b : w->b;
}

/* The Hessians of those that some active column uses; their steps start anew.
 */
static ks_status refresh(work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks_l2 *l2 = w->f.l2;
    int64_t d = l2->d, m = d + 1;
    size_t bytes = (size_t)(m * m) * sizeof(float);
    double *h = NULL, *at = NULL;
    bool *due = NULL;
    if ((size_t)w->n_metrics * bytes > MOST_METRICS) return KS_OK;
    KS_TRY(ks_alloc(&h, (size_t)(m * m), sizeof *h, "Hessians", err));
    KS_TRY(ks_alloc(&at, (size_t)d, sizeof *at, "Hessians", err));
    KS_TRY(ks_alloc(&due, (size_t)w->n_metrics, sizeof *due, "Hessians", err));
    for (int32_t a = 0; a < w->f.n_active; a++) {
        int32_t k = w->f.active[a];
        state *c = &w->states[k];
        metric *of = &w->metrics[c->metric];
        if (!due[c->metric] || c->lambda < w->states[of->of].lambda) of->of = k;
        due[c->metric] = true;
        c->t = 1;
    }
    for (int32_t k = 0; k < w->n_metrics; k++) {
        metric *one = &w->metrics[k];
        if (!due[k]) continue;
        if (!one->b)
            KS_TRY(ks_alloc(&one->b, (size_t)(m * m), sizeof *one->b,
                            "Hessians", err));
        ks_l2_hessian what = ks__l2_describe_hessian(&w->f, one->of, at);
        what.out = h;
        KS_TRY(l2->ops->l2_hessian(l2->dev, &l2->rows, &what, 1, err));
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j <= i; j++)
                one->b[i * m + j] = (float)h[i * m + j];
        finish_metric(one->b, m);
    }
    l2->cost.reads += 1;
done:
    free(h);
    free(at);
    free(due);
    return st;
}

/* --------------------------------------------------------------- conditions */

static double length(const double *v, int64_t d) {
    double sum = 0;
    for (int64_t j = 0; j < d; j++) sum += fabs(v[j]);
    return sum;
}

/* g: of the smooth part, features centred at their mean, as scikit-learn has
 * them. A NaN stays one. */
static double missed(const work *w, int32_t k) {
    const ks_l2_fitting *f = &w->f;
    int64_t d = f->l2->d;
    const ks_l2_split *s = &f->splits[f->states[k].split];
    const double *g = f->g + k * (d + 1), *v = f->v + k * (d + 1);
    double most = fabs(g[d]), lambda = w->states[k].lambda;
    for (int64_t j = 0; j < d; j++) {
        double at = g[j] + g[d] * (s->centre[j] - s->mean[j]) * s->inverse[j];
        double off =
            v[j] != 0 ? fabs(at + copysign(lambda, v[j])) : fabs(at) - lambda;
        if (!isnan(most) && !(off <= most)) most = off;
    }
    return most;
}

/* -------------------------------------------------------------------- steps */

/* From base to the next v. scratch [2 m]. */
static void step(work *w, int32_t k, double *scratch, ks__lasso_part *of) {
    ks_l2_fitting *f = &w->f;
    state *c = &w->states[k];
    int64_t m = f->l2->d + 1, at = k * m;
    ks__lasso p = {.b = metric_of(w, k),
                   .g = f->g_base + at,
                   .x = f->base + at,
                   .s = scratch,
                   .q = scratch + m,
                   .m = m,
                   .t = c->t,
                   .lambda = c->lambda};
    memset(scratch, 0, (size_t)(2 * m) * sizeof *scratch);
    ks__lasso_solve(&p, KS_MAX(0.1 * w->tolerance, 0.03 * c->optimality), of);
    for (int64_t j = 0; j < m; j++)
        f->v[at + j] = p.s[j] == -p.x[j] ? 0 : p.x[j] + p.s[j];
}

/* After an evaluation at v: is it kept, and what curvature was on the way? */
static bool accept(const work *w, int32_t k, bool exact, double *curvature) {
    const ks_l2_fitting *f = &w->f;
    const state *c = &w->states[k];
    int64_t d = f->l2->d, at = k * (d + 1);
    const double *v = f->v + at, *x = f->base + at;
    const double *g = f->g + at, *g0 = f->g_base + at;
    double slope = 0, bend = 0, size = 0;
    for (int64_t j = 0; j <= d; j++) {
        double s = v[j] - x[j];
        slope += g[j] * s;
        bend += (g[j] - g0[j]) * s;
        size += fabs(s);
    }
    *curvature = bend;
    slope += c->lambda * (length(v, d) - length(x, d));
    /* what rounding leaves of gradients that should cancel */
    return slope <= size * (exact ? 1e-12 : 2e-7);
}

/* s'Bs of the last step. */
static double measure(const work *w, int32_t k, double *s) {
    const ks_l2_fitting *f = &w->f;
    const float *b = metric_of(w, k);
    int64_t m = f->l2->d + 1, at = k * m;
    double sum = 0;
    for (int64_t j = 0; j < m; j++) s[j] = f->v[at + j] - f->base[at + j];
    for (int64_t i = 0; i < m; i++) {
        if (s[i] == 0) continue;
        double q = 0;
        for (int64_t j = 0; j < m; j++) q += (double)b[i * m + j] * s[j];
        sum += s[i] * q;
    }
    return sum;
}

/* The next point of column k, or its end. */
static void move(work *w, int32_t k, bool exact, double *scratch,
                 ks__lasso_part *of) {
    ks_l2_fitting *f = &w->f;
    state *c = &w->states[k];
    int64_t m = f->l2->d + 1, at = k * m;
    double curvature = 0;
    if (!c->fresh && !accept(w, k, exact, &curvature)) {
        c->t = KS_MIN(3 * c->t, MOST_STEP);
        step(w, k, scratch, of);
        return;
    }
    if (!c->fresh) {
        double size = measure(w, k, scratch);
        double fitted = size > 0 ? curvature / size : c->t;
        c->t =
            KS_MIN(KS_MAX(fitted, KS_MAX(0.2 * c->t, LEAST_STEP)), MOST_STEP);
    }
    c->fresh = false;
    memcpy(f->base + at, f->v + at, (size_t)m * sizeof *f->v);
    memcpy(f->g_base + at, f->g + at, (size_t)m * sizeof *f->g);
    c->optimality = missed(w, k);
    c->done = c->optimality <= w->tolerance;
    if (!c->done) step(w, k, scratch, of);
}

/* -------------------------------------------------------------------- rounds
 */

static void drop_done(work *w) {
    int32_t n = 0;
    for (int32_t a = 0; a < w->f.n_active; a++)
        if (!w->states[w->f.active[a]].done) w->f.active[n++] = w->f.active[a];
    w->f.n_active = n;
}

static ks_status move_all(work *w, bool exact, ks_err *err) {
    ks_status st = KS_OK;
    size_t m = (size_t)w->f.l2->d + 1, threads = (size_t)w->f.l2->threads;
    double *scratch = NULL;
    ks__lasso_part *parts = NULL;
    KS_TRY(ks_alloc(&scratch, threads * 2 * m, sizeof *scratch, "steps", err));
    KS_TRY(ks_alloc(&parts, threads, sizeof *parts, "steps", err));
    for (size_t t = 0; t < threads; t++)
        KS_TRY(ks__lasso_open(&parts[t], (int64_t)m, err));
#pragma omp parallel for num_threads(w->f.l2->threads) schedule(dynamic, 1)
    for (int32_t a = 0; a < w->f.n_active; a++) {
        size_t thread = (size_t)omp_get_thread_num();
        move(w, w->f.active[a], exact, scratch + thread * 2 * m,
             &parts[thread]);
    }
    drop_done(w);
done:
    for (size_t t = 0; parts && t < threads; t++) ks__lasso_close(&parts[t]);
    free(parts);
    free(scratch);
    return st;
}

static int by_design(const void *pa, const void *pb) {
    const ks_l1_column *a = *(ks_l1_column *const *)pa;
    const ks_l1_column *b = *(ks_l1_column *const *)pb;
    if (a->design != b->design) return a->design < b->design ? -1 : 1;
    return a < b ? -1 : a > b;
}

static ks_status activate_all(work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks_l1_column **sorted = NULL;
    KS_TRY(ks_alloc(&sorted, (size_t)w->n, sizeof *sorted, "columns", err));
    for (int32_t k = 0; k < w->n; k++) {
        sorted[k] = &w->columns[k];
        w->states[k].done = false;
        w->states[k].fresh = true;
    }
    qsort(sorted, (size_t)w->n, sizeof *sorted, by_design);
    for (int32_t k = 0; k < w->n; k++)
        w->f.active[k] = (int32_t)(sorted[k] - w->columns);
    w->f.n_active = w->n;
done:
    free(sorted);
    return st;
}

static ks_status run_passes(work *w, bool exact, int32_t limit, ks_err *err) {
    ks_status st = KS_OK;
    int64_t m = w->f.l2->d + 1;
    int32_t due = FIRST_HESSIAN;
    KS_TRY(activate_all(w, err));
    for (int32_t pass = 0; w->f.n_active && pass < limit; pass++) {
        KS_TRY(ks__l2_evaluate(&w->f, exact, err));
        if (pass == due) {
            KS_TRY(refresh(w, err));
            due *= 2;
        }
        for (int32_t a = 0; a < w->f.n_active; a++)
            w->columns[w->f.active[a]].passes++;
        KS_TRY(move_all(w, exact, err));
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    }
    /* those that the limit stopped stay where they were last measured */
    for (int32_t a = 0; a < w->f.n_active; a++)
        memcpy(w->f.v + w->f.active[a] * m, w->f.base + w->f.active[a] * m,
               (size_t)m * sizeof *w->f.v);
done:
    return st;
}

static ks_status prepare(work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks_l2_fitting *f = &w->f;
    int64_t d = f->l2->d;
    KS_TRY(ks_alloc(&f->columns, (size_t)f->n, sizeof *f->columns, "columns",
                    err));
    KS_TRY(
        ks_alloc(&w->states, (size_t)w->n, sizeof *w->states, "columns", err));
    KS_TRY(ks__l2_fitting_open(f, false, err));
    for (int32_t k = 0; k < w->n; k++)
        f->columns[k] = (ks_l2_column){.design = w->columns[k].design,
                                       .hold = w->columns[k].hold,
                                       .margin = w->columns[k].margin};
    KS_TRY(ks__l2_find_splits(f, err));
    for (int32_t k = 0; k < w->n; k++) {
        const ks_l2_split *s = &f->splits[f->states[k].split];
        double most = 0;
        for (int64_t j = 0; j < d; j++) most = KS_MAX(most, fabs(s->gap[j]));
        w->columns[k].passes = 0;
        w->states[k].t = 1;
        w->states[k].lambda = w->columns[k].lambda =
            w->columns[k].ratio * most / 4;
    }
    KS_TRY(find_first(w, err));
    KS_TRY(group_columns(w, err));
done:
    return st;
}

static void put_column(const work *w, int32_t k) {
    const ks_l2_fitting *f = &w->f;
    ks_l1_column *c = &w->columns[k];
    int64_t d = f->l2->d;
    const double *v = f->v + k * (d + 1);
    const ks_l2_split *s = &f->splits[f->states[k].split];
    c->dimensions = 0;
    for (int64_t j = 0; j < d; j++) c->dimensions += v[j] != 0;
    c->optimality = w->states[k].optimality;
    c->converged = c->optimality <= w->tolerance;
    if (!c->weight) return;
    memcpy(c->weight, v, (size_t)(d + 1) * sizeof *v);
    for (int64_t j = 0; j < d; j++) /* from the centre to the mean */
        c->weight[d] += v[j] * (s->mean[j] - s->centre[j]) * s->inverse[j];
}

size_t ks_l1_bytes(int64_t d, int32_t n_holds, int threads) {
    size_t m = (size_t)d + 1, square = m * m;
    size_t metrics = (size_t)n_holds * square * sizeof(float);
    if (metrics > MOST_METRICS) metrics = 0;
    return square * (2 * sizeof(float) + sizeof(double)) + metrics +
           (size_t)threads *
               (ks__lasso_bytes((int64_t)m) + 2 * m * sizeof(double));
}

ks_status ks_l1_fit(ks_l2 *l2, ks_l1_column *columns, int32_t n_columns,
                    double tolerance, int32_t max_passes, ks_err *err) {
    ks_status st = KS_OK;
    work w = {.f = {.l2 = l2, .n = n_columns + 1},
              .columns = columns,
              .tolerance = tolerance,
              .n = n_columns};
    int restore = ks__blas_serial();
    for (int32_t k = 0; k < n_columns; k++)
        KS_CHECK(columns[k].ratio > 0 && isfinite(columns[k].ratio), KS_USAGE,
                 "column %d: expected a ratio above 0, got %g", k,
                 columns[k].ratio);
    KS_TRY(prepare(&w, err));
    KS_TRY(run_passes(&w, false, KS_MIN(max_passes, F32_PASSES), err));
    KS_TRY(run_passes(&w, true, max_passes, err));
    if (w.f.n_active) /* margins where those ended, not where they looked */
        KS_TRY(ks__l2_evaluate(&w.f, true, err));
    for (int32_t k = 0; k < n_columns; k++) put_column(&w, k);
done:
    free(w.f.columns);
    free(w.states);
    for (int32_t k = 0; k < w.n_metrics; k++) free(w.metrics[k].b);
    free(w.metrics);
    free(w.b);
    ks__l2_fitting_close(&w.f);
    ks__blas_restore(restore);
    return st;
}
