/* attention_fit.c - ks_attention_fit: L-BFGS on all columns in step, one read
 * of the tokens a round. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention_state.h"
#include "l2_fit.h"

enum { PAIRS = 10, PATIENCE = 10, TRIES = 30 };
static const double ARMIJO = 1e-4, STALLED = 1e-6, ROUNDING = 2e-7;

typedef struct state {
    double lambda, class_c[2];
    double *mean, *inverse; /* [d] of u over the training tokens */
    double f, f_base, slope, t, f_past;
    double rho[PAIRS];
    int32_t pairs, next, tries, since;
    bool started, done, converged;
} state;

typedef struct work {
    const ks_attention *a;
    ks_attention_column *columns;
    int32_t n, n_active;
    int64_t m; /* 2 d + 1 */
    double tolerance;
    state *states;
    int32_t *active;
    double *scale;                              /* [n, 2, d] */
    double *v, *base, *g, *g_base, *p;          /* [n, m] */
    float *s, *y;                               /* [n, PAIRS, m] */
    double *w, *q, *gw, *gq;                    /* [n, d], by active column */
    double *b, *r, *loss, *class_c;             /* [n] */
    uint32_t *hold;                             /* [n] */
    float **margin, **entropy, **first, **last; /* [n] */
} work;

static double dot_f32(const double *a, const float *b, int64_t n) {
    double sum[8] = {0};
    int64_t j = 0;
    for (; j + 8 <= n; j += 8)
        for (int k = 0; k < 8; k++) sum[k] += a[j + k] * (double)b[j + k];
    for (; j < n; j++) sum[0] += a[j] * (double)b[j];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) +
           ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* --------------------------------------------------------------- evaluation */

/* Active column i's point on u. */
static void to_pass(work *w, int32_t i) {
    int64_t d = w->a->rows.d;
    int32_t k = w->active[i];
    const state *c = &w->states[k];
    const double *v = w->v + k * w->m;
    double root = 1 / sqrt((double)d);
    w->hold[i] = w->columns[k].hold;
    memcpy(w->class_c + 2 * i, c->class_c, sizeof c->class_c);
    w->b[i] = v[2 * d];
    for (int64_t j = 0; j < d; j++) {
        w->w[i * d + j] = v[j] * c->inverse[j];
        w->q[i * d + j] = v[d + j] * c->inverse[j] * root;
        w->b[i] -= w->w[i * d + j] * c->mean[j];
    }
}

static void from_pass(work *w, int32_t i) {
    int64_t d = w->a->rows.d;
    int32_t k = w->active[i];
    state *c = &w->states[k];
    const double *v = w->v + k * w->m;
    double *g = w->g + k * w->m, root = 1 / sqrt((double)d);
    for (int64_t j = 0; j < d; j++) {
        g[j] = (w->gw[i * d + j] - w->r[i] * c->mean[j]) * c->inverse[j] +
               c->lambda * v[j];
        g[d + j] =
            w->gq[i * d + j] * c->inverse[j] * root + c->lambda * v[d + j];
    }
    g[2 * d] = w->r[i];
    c->f = w->loss[i] + 0.5 * c->lambda * ks__l2_dot(v, v, 2 * d);
    w->columns[k].passes++;
}

static ks_status evaluate(work *w, bool look, ks_err *err) {
    ks_status st = KS_OK;
    const ks_attention *a = w->a;
#pragma omp parallel for num_threads(a->threads) schedule(static)
    for (int32_t i = 0; i < w->n_active; i++) to_pass(w, i);
    const ks_attention_pass pass = {.n = w->n_active,
                                    .hold = w->hold,
                                    .class_c = w->class_c,
                                    .w = w->w,
                                    .q = w->q,
                                    .b = w->b,
                                    .gw = w->gw,
                                    .gq = w->gq,
                                    .r = w->r,
                                    .loss = w->loss,
                                    .look = look,
                                    .margin = w->margin,
                                    .entropy = w->entropy,
                                    .first = w->first,
                                    .last = w->last};
    KS_TRY(ks__attention_evaluate(a, &pass, err));
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    if (look) return KS_OK;
#pragma omp parallel for num_threads(a->threads) schedule(static)
    for (int32_t i = 0; i < w->n_active; i++) from_pass(w, i);
done:
    return st;
}

/* --------------------------------------------------------------- directions */

/* The pair of the step from base to v; left out where it does not curve up. */
static void add_pair(work *w, int32_t k) {
    state *c = &w->states[k];
    int64_t m = w->m, at = k * m;
    float *s = w->s + ((int64_t)k * PAIRS + c->next) * m;
    float *y = w->y + ((int64_t)k * PAIRS + c->next) * m;
    double sy = 0, yy = 0;
    for (int64_t j = 0; j < m; j++) {
        double change = w->g[at + j] - w->g_base[at + j];
        sy += (w->v[at + j] - w->base[at + j]) * change;
        yy += change * change;
    }
    if (!(sy > 1e-10 * yy)) return;
    for (int64_t j = 0; j < m; j++) {
        s[j] = (float)(w->v[at + j] - w->base[at + j]);
        y[j] = (float)(w->g[at + j] - w->g_base[at + j]);
    }
    c->rho[c->next] = 1 / sy;
    c->next = (c->next + 1) % PAIRS;
    c->pairs = KS_MIN(c->pairs + 1, PAIRS);
}

/* p = - H g by the two-loop recursion. */
static void direct(work *w, int32_t k) {
    state *c = &w->states[k];
    int64_t m = w->m;
    double *p = w->p + k * m, alpha[PAIRS] = {0};
    const float *s = w->s + (int64_t)k * PAIRS * m;
    const float *y = w->y + (int64_t)k * PAIRS * m;
    for (int64_t j = 0; j < m; j++) p[j] = -w->g[k * m + j];
    for (int32_t i = 1; i <= c->pairs; i++) {
        int32_t at = (c->next - i + PAIRS) % PAIRS;
        alpha[at] = c->rho[at] * dot_f32(p, s + at * m, m);
        for (int64_t j = 0; j < m; j++)
            p[j] -= alpha[at] * (double)y[at * m + j];
    }
    if (c->pairs) {
        int32_t at = (c->next - 1 + PAIRS) % PAIRS;
        double yy = 0;
        for (int64_t j = 0; j < m; j++)
            yy += (double)y[at * m + j] * (double)y[at * m + j];
        for (int64_t j = 0; j < m; j++) p[j] *= 1 / (c->rho[at] * yy);
    }
    for (int32_t i = c->pairs; i >= 1; i--) {
        int32_t at = (c->next - i + PAIRS) % PAIRS;
        double beta = c->rho[at] * dot_f32(p, y + at * m, m);
        for (int64_t j = 0; j < m; j++)
            p[j] += (alpha[at] - beta) * (double)s[at * m + j];
    }
}

static void start_line(work *w, int32_t k) {
    state *c = &w->states[k];
    int64_t m = w->m, at = k * m;
    const double *g = w->g + at;
    direct(w, k);
    c->slope = ks__l2_dot(w->p + at, g, m);
    if (!(c->slope < 0)) { /* rounding: forget what was learned */
        c->pairs = 0;
        direct(w, k);
        c->slope = ks__l2_dot(w->p + at, g, m);
    }
    c->t = c->pairs ? 1 : KS_MIN(1, 1 / sqrt(-c->slope));
    c->tries = 0;
    c->f_base = c->f;
    memcpy(w->base + at, w->v + at, (size_t)m * sizeof *w->v);
    memcpy(w->g_base + at, g, (size_t)m * sizeof *g);
    for (int64_t j = 0; j < m; j++)
        w->v[at + j] = w->base[at + j] + c->t * w->p[at + j];
}

static double largest(const double *g, int64_t n) {
    double most = 0;
    for (int64_t j = 0; j < n; j++)
        if (!(fabs(g[j]) <= most)) most = fabs(g[j]); /* a NaN stays */
    return most;
}

static void back_to_base(work *w, int32_t k) {
    size_t bytes = (size_t)w->m * sizeof *w->v;
    memcpy(w->v + k * w->m, w->base + k * w->m, bytes);
    memcpy(w->g + k * w->m, w->g_base + k * w->m, bytes);
    w->states[k].f = w->states[k].f_base;
}

/* After an evaluation at v: the next point of column k, or its end. */
static void move(work *w, int32_t k) {
    state *c = &w->states[k];
    int64_t at = k * w->m;
    if (c->started) {
        double enough =
            c->f_base + ARMIJO * c->t * c->slope + ROUNDING * fabs(c->f_base);
        if (!(c->f <= enough)) {
            c->t *= 0.4;
            if (++c->tries == TRIES) {
                back_to_base(w, k);
                c->done = true;
                return;
            }
            for (int64_t j = 0; j < w->m; j++)
                w->v[at + j] = w->base[at + j] + c->t * w->p[at + j];
            return;
        }
        add_pair(w, k);
    }
    if (largest(w->g + at, w->m) <= w->tolerance) {
        c->done = c->converged = true;
        return;
    }
    if (!c->started || c->since == PATIENCE) {
        if (c->started && !(c->f_past - c->f > STALLED * fabs(c->f_past))) {
            c->done = c->converged = true;
            return;
        }
        c->f_past = c->f;
        c->since = 0;
    }
    c->started = true;
    c->since++;
    start_line(w, k);
}

static void drop_done(work *w) {
    int32_t n = 0;
    for (int32_t i = 0; i < w->n_active; i++)
        if (!w->states[w->active[i]].done) w->active[n++] = w->active[i];
    w->n_active = n;
}

/* -------------------------------------------------------------------- columns
 */

static ks_status prepare_column(work *w, int32_t k, ks_err *err) {
    ks_status st = KS_OK;
    const ks_attention_rows *r = &w->a->rows;
    ks_attention_column *c = &w->columns[k];
    state *s = &w->states[k];
    int64_t d = r->d;
    double count[2] = {0, 0};
    KS_CHECK(c->strength > 0 && isfinite(c->strength) && c->start, KS_USAGE,
             "column %d: expected a strength above 0 and a start, got %g", k,
             c->strength);
    for (int64_t i = 0; i < r->n; i++)
        if (!(c->hold >> r->fold[i] & 1)) count[r->y[i]]++;
    KS_CHECK(count[0] > 0 && count[1] > 0, KS_MISMATCH,
             "a probe's training rows need both classes: found %.0f important "
             "and %.0f removable steps outside folds 0x%x",
             count[1], count[0], (unsigned)c->hold);
    for (int y = 0; y < 2; y++) s->class_c[y] = 0.5 / count[y];
    s->lambda = 1 / (c->strength * (count[0] + count[1]));
    s->mean = w->scale + 2 * k * d;
    s->inverse = s->mean + d;
    ks_attention_scale(w->a, c->hold, s->mean, s->inverse);
    for (int64_t j = 0; j < d; j++) { /* of x to of u */
        double unit = w->a->unit[j];
        s->mean[j] = unit > 0 ? (s->mean[j] - w->a->shift[j]) / unit : 0;
        s->inverse[j] *= unit;
    }
    memcpy(w->v + k * w->m, c->start, (size_t)w->m * sizeof *w->v);
    for (int64_t j = 0; j < d; j++)
        if (s->inverse[j] == 0) w->v[k * w->m + j] = w->v[k * w->m + d + j] = 0;
    c->passes = 0;
    w->active[k] = k;
done:
    return st;
}

static ks_status work_alloc(work *w, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)w->n, d = (size_t)w->a->rows.d, m = 2 * d + 1;
    KS_TRY(ks_alloc(&w->states, n, sizeof *w->states, "columns", err));
    KS_TRY(ks_alloc(&w->active, n, sizeof *w->active, "columns", err));
    KS_TRY(ks_alloc(&w->hold, n, sizeof *w->hold, "columns", err));
    KS_TRY(ks_alloc(&w->scale, 2 * n * d, sizeof(double), "columns", err));
    double **wide[] = {&w->v, &w->base, &w->g, &w->g_base, &w->p};
    for (size_t i = 0; i < KS_COUNT(wide); i++)
        KS_TRY(ks_alloc(wide[i], n * m, sizeof(double), "columns", err));
    for (int i = 0; i < 2; i++)
        KS_TRY(ks_alloc(i ? &w->y : &w->s, n * m, PAIRS * sizeof(float),
                        "steps", err));
    double **thin[] = {&w->w, &w->q, &w->gw, &w->gq};
    for (size_t i = 0; i < KS_COUNT(thin); i++)
        KS_TRY(ks_alloc(thin[i], n * d, sizeof(double), "columns", err));
    double **one[] = {&w->b, &w->r, &w->loss};
    for (size_t i = 0; i < KS_COUNT(one); i++)
        KS_TRY(ks_alloc(one[i], n, sizeof(double), "columns", err));
    KS_TRY(ks_alloc(&w->class_c, n, 2 * sizeof(double), "columns", err));
    float ***looks[] = {&w->margin, &w->entropy, &w->first, &w->last};
    for (size_t i = 0; i < KS_COUNT(looks); i++)
        KS_TRY(ks_alloc(looks[i], n, sizeof(float *), "columns", err));
done:
    return st;
}

size_t ks__attention_fit_bytes(const ks_attention_rows *r, int32_t n) {
    size_t d = (size_t)r->d, m = 2 * d + 1;
    return (size_t)n * (m * (5 * sizeof(double) + 2 * PAIRS * sizeof(float)) +
                        6 * d * sizeof(double) + sizeof(state) +
                        4 * sizeof(float *) + 8 * sizeof(double));
}

static void work_free(work *w) {
    void *all[] = {w->states,  w->active, w->hold,    w->scale, w->v,   w->base,
                   w->g,       w->g_base, w->p,       w->s,     w->y,   w->w,
                   w->q,       w->gw,     w->gq,      w->b,     w->r,   w->loss,
                   w->class_c, w->margin, w->entropy, w->first, w->last};
    for (size_t i = 0; i < KS_COUNT(all); i++) free(all[i]);
}

/* Margins and what attention looks at, for the columns that want them. */
static ks_status look(work *w, ks_err *err) {
    w->n_active = 0;
    for (int32_t k = 0; k < w->n; k++) {
        const ks_attention_column *c = &w->columns[k];
        if (!c->margin) continue;
        w->margin[w->n_active] = c->margin;
        w->entropy[w->n_active] = c->entropy;
        w->first[w->n_active] = c->first;
        w->last[w->n_active] = c->last;
        w->active[w->n_active++] = k;
    }
    return w->n_active ? evaluate(w, true, err) : KS_OK;
}

ks_status ks_attention_fit(ks_attention *a, ks_attention_column *columns,
                           int32_t n_columns, double tolerance,
                           int32_t max_passes, ks_err *err) {
    ks_status st = KS_OK;
    work w = {.a = a,
              .columns = columns,
              .n = n_columns,
              .n_active = n_columns,
              .m = 2 * a->rows.d + 1,
              .tolerance = tolerance};
    KS_TRY(work_alloc(&w, err));
    for (int32_t k = 0; k < n_columns; k++) KS_TRY(prepare_column(&w, k, err));
    for (int32_t pass = 0; w.n_active && pass < max_passes; pass++) {
        KS_TRY(evaluate(&w, false, err));
#pragma omp parallel for num_threads(a->threads) schedule(dynamic, 1)
        for (int32_t i = 0; i < w.n_active; i++) move(&w, w.active[i]);
        drop_done(&w);
    }
    /* those that the limit stopped stay where they were last measured */
    for (int32_t i = 0; i < w.n_active; i++) back_to_base(&w, w.active[i]);
    for (int32_t k = 0; k < n_columns; k++) {
        columns[k].objective = w.states[k].f;
        columns[k].gradient = largest(w.g + k * w.m, w.m);
        columns[k].converged = w.states[k].converged;
        if (columns[k].param)
            memcpy(columns[k].param, w.v + k * w.m, (size_t)w.m * sizeof *w.v);
    }
    KS_TRY(look(&w, err));
done:
    work_free(&w);
    return st;
}
