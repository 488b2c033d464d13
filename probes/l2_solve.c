/* l2_solve.c - L-BFGS on all columns in step: one read of x a round.
 *
 * Directions: Nocedal's two-loop recursion (Math. Comp. 35, 1980) around the
 * spectral inverse Hessian of l2.h. A unit step is tried and nearly always
 * kept; whether it went too far is read from the slope at its end (the loss is
 * convex), so losses are never formed and no digits cancel. Columns leave
 * once their gradient, measured in f32, and the step that would follow are
 * small enough; then one pass in double verifies them all and gives the
 * held-out margins, and columns above the tolerance go on in double. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "l2_state.h"

enum {
    PAIRS = 12,        /* of L-BFGS */
    POLISH = 6,        /* most further passes for a small step, see below, */
    POLISH_EXACT = 30, /* and with those in double */
    MAX_TRIES = 8      /* shortened steps in a row */
};

/* Share of the tolerance that f32 must show: leaves room for its rounding. */
static const double MARGIN = 0.7;
/* The next step over the weights' norm: near a well-conditioned optimum the
 * distance to it, so weights agree to more digits than a gradient says. */
static const double STEP = 1e-4;
/* A step is kept while its slope is below this share of the first slope. */
static const double OVERSHOT = 0.5;

/* What the training rows of (design, hold) decide. Internally x is centred at
 * the mean of the class means, where w and b hardly touch each other; b being
 * free, that changes nothing but b. */
typedef struct split {
    int32_t design;
    uint32_t hold;
    double n, count[2];
    double *centre, *mean, *inverse, *gap; /* [d]; gap: class means' distance
                                              over the scale */
} split;

typedef struct state {
    int32_t split;
    double lambda, h, slope, t;
    int32_t pairs, next, tries, polish;
    bool fresh; /* the coming evaluation starts a line, adds no pair */
    bool done;
    double rho[PAIRS];
} state;

typedef struct fit {
    ks_l2 *l2;
    ks_l2_column *columns;
    int32_t n, n_splits, n_active;
    double tolerance;
    int32_t max_passes;
    split *splits;
    double *split_data;
    state *states;
    /* [n, d + 1] standardised weights, b last: point, start of the line,
     * gradients at both, direction */
    double *v, *base, *g, *g_base, *p;
    float *s, *y; /* [n, PAIRS, d + 1] */
    int32_t *active;
    /* an evaluation's arguments, by active column */
    int32_t *design;
    uint32_t *hold;
    double *class_c, *w, *b, *gw, *r, *h;
    float **margin;
} fit;

/* Eight partial sums: vectorises, and the order is fixed. */
static double dot_f32(const float *a, const double *b, int64_t n) {
    double sum[8] = {0};
    int64_t j = 0;
    for (; j + 8 <= n; j += 8)
        for (int k = 0; k < 8; k++) sum[k] += (double)a[j + k] * b[j + k];
    for (; j < n; j++) sum[0] += (double)a[j] * b[j];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) +
           ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

static double dot(const double *a, const double *b, int64_t n) {
    double sum[8] = {0};
    int64_t j = 0;
    for (; j + 8 <= n; j += 8)
        for (int k = 0; k < 8; k++) sum[k] += a[j + k] * b[j + k];
    for (; j < n; j++) sum[0] += a[j] * b[j];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) +
           ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* ------------------------------------------------------------------ splits */

static ks_status fill_split(const ks_l2 *l2, split *s, ks_err *err) {
    ks_status st = KS_OK;
    const ks_l2_moments *m = l2->moments + s->design * KS_L2_MAX_FOLDS;
    for (int32_t f = 0; f < KS_L2_MAX_FOLDS; f++)
        if (!(s->hold >> f & 1))
            for (int c = 0; c < 2; c++) s->count[c] += (double)m[f].count[c];
    s->n = s->count[0] + s->count[1];
    KS_CHECK(s->count[0] > 0 && s->count[1] > 0, KS_MISMATCH,
             "a probe's training rows need both classes: found %.0f important "
             "and %.0f removable steps outside folds 0x%x",
             s->count[1], s->count[0], (unsigned)s->hold);
    for (int64_t j = 0; j < l2->d; j++) {
        double sum[2] = {0, 0}, square = 0;
        for (int32_t f = 0; f < KS_L2_MAX_FOLDS; f++)
            if (!(s->hold >> f & 1) && m[f].square) {
                sum[0] += m[f].sum[0][j], sum[1] += m[f].sum[1][j];
                square += m[f].square[j];
            }
        double mean = (sum[0] + sum[1]) / s->n;
        double variance = square / s->n - mean * mean;
        double mean0 = sum[0] / s->count[0], mean1 = sum[1] / s->count[1];
        s->mean[j] = mean;
        s->centre[j] = 0.5 * (mean0 + mean1);
        s->inverse[j] = variance > 1e-12 * mean * mean && variance > 0
                            ? 1 / sqrt(variance)
                            : 0;
        s->gap[j] = (mean1 - mean0) * s->inverse[j];
    }
done:
    return st;
}

static ks_status find_splits(fit *f, ks_err *err) {
    ks_status st = KS_OK;
    size_t d = (size_t)f->l2->d;
    KS_TRY(
        ks_alloc(&f->splits, (size_t)f->n, sizeof *f->splits, "splits", err));
    for (int32_t k = 0; k < f->n; k++) {
        const ks_l2_column *c = &f->columns[k];
        int32_t at = 0;
        while (at < f->n_splits && (f->splits[at].design != c->design ||
                                    f->splits[at].hold != c->hold))
            at++;
        if (at == f->n_splits) {
            f->splits[at].design = c->design;
            f->splits[at].hold = c->hold;
            f->n_splits++;
        }
        f->states[k].split = at;
    }
    KS_TRY(ks_alloc(&f->split_data, (size_t)f->n_splits * d, 4 * sizeof(double),
                    "splits", err));
    for (int32_t k = 0; k < f->n_splits; k++) {
        split *s = &f->splits[k];
        s->centre = f->split_data + 4 * (size_t)k * d;
        s->mean = s->centre + d;
        s->inverse = s->centre + 2 * d;
        s->gap = s->centre + 3 * d;
        KS_TRY(fill_split(f->l2, s, err));
    }
done:
    return st;
}

/* ------------------------------------------------------- inverse Hessian, LDA
 */

/* q [n, d] to spectral coordinates out [n, rank]. */
static void to_spectrum(const ks_l2 *l2, const float *q, int64_t n,
                        float *out) {
    ks__gemm_f32(false, true, n, l2->rank, l2->d, q, l2->d, l2->vector, l2->d,
                 0, out, l2->rank);
}

/* q [n, d] = out [n, rank] in the features' coordinates + beta q */
static void from_spectrum(const ks_l2 *l2, const float *in, int64_t n,
                          float beta, float *q) {
    ks__gemm_f32(false, false, n, l2->d, l2->rank, in, l2->rank, l2->vector,
                 l2->d, beta, q, l2->d);
}

/* E[p (1 - p)] for margins of two classes that the discriminant puts at
 * +-delta/2 with variance delta. */
static double mean_slope(double delta) {
    double sum = 0, total = 0;
    for (int k = -20; k <= 20; k++) {
        double u = 0.2 * k, weight = exp(-0.5 * u * u);
        double p = 1 / (1 + exp(-(0.5 * delta + sqrt(delta) * u)));
        sum += weight * p * (1 - p);
        total += weight;
    }
    return KS_MAX(sum / total, 1e-4);
}

/* The linear discriminant with the strength's ridge. The within-class
 * covariance is the spectrum's less gap gap'/4 (Sherman-Morrison); the ridge
 * lambda / h and the weights decide h together, found by iteration. */
static void start_chunk(fit *f, const int32_t *list, int32_t n, float *q,
                        float *t) {
    const ks_l2 *l2 = f->l2;
    int64_t d = l2->d, rank = l2->rank;
    for (int32_t k = 0; k < n; k++)
        for (int64_t j = 0; j < d; j++)
            q[k * d + j] = (float)f->splits[f->states[list[k]].split].gap[j];
    to_spectrum(l2, q, n, t);
    double scale[KS_L2_CHUNK], rest_share[KS_L2_CHUNK];
    for (int32_t k = 0; k < n; k++) {
        double rest = 0, h = 0.25, lambda = f->states[list[k]].lambda, gap;
        for (int64_t j = 0; j < d; j++)
            rest += (double)q[k * d + j] * (double)q[k * d + j];
        for (int64_t j = 0; j < rank; j++)
            rest -= (double)t[k * rank + j] * (double)t[k * rank + j];
        if (rank == d || rest < 0) rest = 0;
        for (int round = 0; round < 4; round++) {
            gap = rest / ((double)l2->tail + lambda / h);
            for (int64_t j = 0; j < rank; j++)
                gap += (double)t[k * rank + j] * (double)t[k * rank + j] /
                       ((double)l2->value[j] + lambda / h);
            scale[k] = 1 / (1 - KS_MIN(gap / 4, 0.95));
            if (round < 3) h = mean_slope(gap * scale[k]);
        }
        rest_share[k] = rank < d ? 1 / ((double)l2->tail + lambda / h) : 0;
        for (int64_t j = 0; j < rank; j++)
            t[k * rank + j] *= (float)(1 / ((double)l2->value[j] + lambda / h) -
                                       rest_share[k]);
        for (int64_t j = 0; j < d; j++) q[k * d + j] *= (float)rest_share[k];
    }
    from_spectrum(l2, t, n, 1, q);
    for (int32_t k = 0; k < n; k++) {
        double *v = f->v + list[k] * (d + 1);
        const split *s = &f->splits[f->states[list[k]].split];
        for (int64_t j = 0; j < d; j++)
            v[j] = s->inverse[j] > 0 ? scale[k] * (double)q[k * d + j] : 0;
        v[d] = 0;
    }
}

static void start_from(fit *f, int32_t k) {
    int64_t d = f->l2->d;
    const double *from = f->columns[k].start;
    const split *s = &f->splits[f->states[k].split];
    double *v = f->v + k * (d + 1), b = from[d];
    for (int64_t j = 0; j < d; j++) {
        v[j] = s->inverse[j] > 0 ? from[j] / s->inverse[j] : 0;
        if (s->inverse[j] > 0)
            b += (s->centre[j] + (double)f->l2->shift[j]) * from[j];
    }
    v[d] = b;
}

/* --------------------------------------------------------------- evaluation */

/* Weights on shifted x, b as a pass takes it. */
static void to_shifted(const fit *f, int32_t k, double *w, double *b) {
    int64_t d = f->l2->d;
    const split *s = &f->splits[f->states[k].split];
    const double *v = f->v + k * (d + 1);
    *b = v[d];
    for (int64_t j = 0; j < d; j++) {
        w[j] = v[j] * s->inverse[j];
        *b -= s->centre[j] * w[j];
    }
}

static ks_status evaluate(fit *f, bool exact, ks_err *err) {
    ks_status st = KS_OK;
    ks_l2 *l2 = f->l2;
    int64_t d = l2->d;
    double rows = 0;
#pragma omp parallel for num_threads(l2->threads) schedule(static)
    for (int32_t a = 0; a < f->n_active; a++) {
        int32_t k = f->active[a];
        const split *s = &f->splits[f->states[k].split];
        f->design[a] = s->design;
        f->hold[a] = s->hold;
        f->margin[a] = f->columns[k].margin;
        for (int c = 0; c < 2; c++) f->class_c[2 * a + c] = 0.5 / s->count[c];
        to_shifted(f, k, f->w + a * d, &f->b[a]);
    }
    ks_l2_pass pass = {.n = f->n_active,
                       .design = f->design,
                       .hold = f->hold,
                       .class_c = f->class_c,
                       .w = f->w,
                       .b = f->b,
                       .g = f->gw,
                       .r = f->r,
                       .h = f->h,
                       .exact = exact,
                       .margin = f->margin};
    KS_TRY(ks__l2_run_pass(l2, &pass, err));
#pragma omp parallel for num_threads(l2->threads) schedule(static)
    for (int32_t a = 0; a < f->n_active; a++) {
        int32_t k = f->active[a];
        const split *s = &f->splits[f->states[k].split];
        double *g = f->g + k * (d + 1);
        const double *v = f->v + k * (d + 1), *gw = f->gw + a * d;
        for (int64_t j = 0; j < d; j++)
            g[j] = (gw[j] - f->r[a] * s->centre[j]) * s->inverse[j] +
                   f->states[k].lambda * v[j];
        g[d] = f->r[a];
        f->states[k].h = KS_MAX(f->h[a], 1e-9);
        f->columns[k].passes++;
    }
    for (int32_t a = 0; a < f->n_active; a++)
        rows += f->splits[f->states[f->active[a]].split].n;
    l2->cost.pass_columns += (exact ? 2 : 1) * rows / (double)l2->n;
done:
    return st;
}

/* Max-norm as scikit-learn's coordinates have it: x centred at its mean. A NaN
 * stays one, and no column with it has converged. */
static double max_gradient(const fit *f, int32_t k) {
    int64_t d = f->l2->d;
    const split *s = &f->splits[f->states[k].split];
    const double *g = f->g + k * (d + 1);
    double most = fabs(g[d]);
    for (int64_t j = 0; j < d; j++) {
        double plain =
            g[j] + g[d] * (s->centre[j] - s->mean[j]) * s->inverse[j];
        if (!isnan(most) && !(fabs(plain) <= most)) most = fabs(plain);
    }
    return most;
}

/* -------------------------------------------------------------- directions */

/* Keeps the step that led to v, or shortens it. True: v starts a new line. */
static bool keep_step(fit *f, int32_t k) {
    int64_t m = f->l2->d + 1;
    state *c = &f->states[k];
    double *v = f->v + k * m, *base = f->base + k * m, *p = f->p + k * m;
    double *g = f->g + k * m, *g_base = f->g_base + k * m;
    if (!c->fresh) {
        double slope = dot(g, p, m);
        if (!(slope <= OVERSHOT * -c->slope) && c->tries < MAX_TRIES) {
            double shrink =
                isfinite(slope) ? -c->slope / (slope - c->slope) : 0.1;
            c->t *= KS_MAX(0.1, KS_MIN(0.6, shrink));
            c->tries++;
            for (int64_t j = 0; j < m; j++) v[j] = base[j] + c->t * p[j];
            return false;
        }
        float *s = f->s + (k * PAIRS + c->next) * m;
        float *y = f->y + (k * PAIRS + c->next) * m;
        double sy = 0;
        for (int64_t j = 0; j < m; j++) {
            s[j] = (float)(v[j] - base[j]);
            y[j] = (float)(g[j] - g_base[j]);
            sy += (double)s[j] * (double)y[j];
        }
        if (sy > 1e-30) {
            c->rho[c->next] = 1 / sy;
            c->next = (c->next + 1) % PAIRS;
            c->pairs = KS_MIN(c->pairs + 1, PAIRS);
        }
    }
    c->fresh = false;
    c->tries = 0;
    c->t = 1;
    memcpy(base, v, (size_t)m * sizeof *v);
    memcpy(g_base, g, (size_t)m * sizeof *g);
    return true;
}

/* y of the newest pair; zeros while there is none. */
static const float *newest(const fit *f, int32_t k) {
    int32_t at = (f->states[k].next + PAIRS - 1) % PAIRS;
    return f->y + (k * PAIRS + at) * (f->l2->d + 1);
}

static void recurse_down(fit *f, int32_t k, double *alpha) {
    int64_t m = f->l2->d + 1;
    state *c = &f->states[k];
    double *p = f->p + k * m;
    memcpy(p, f->g + k * m, (size_t)m * sizeof *p);
    for (int32_t i = 0; i < c->pairs; i++) {
        int32_t at = (c->next - 1 - i + 2 * PAIRS) % PAIRS;
        const float *s = f->s + (k * PAIRS + at) * m;
        const float *y = f->y + (k * PAIRS + at) * m;
        alpha[at] = c->rho[at] * dot_f32(s, p, m);
        for (int64_t j = 0; j < m; j++) p[j] -= alpha[at] * (double)y[j];
    }
}

static void recurse_up(fit *f, int32_t k, const double *alpha) {
    int64_t m = f->l2->d + 1;
    state *c = &f->states[k];
    double *p = f->p + k * m;
    for (int32_t i = c->pairs - 1; i >= 0; i--) {
        int32_t at = (c->next - 1 - i + 2 * PAIRS) % PAIRS;
        const float *s = f->s + (k * PAIRS + at) * m;
        const float *y = f->y + (k * PAIRS + at) * m;
        double change = alpha[at] - c->rho[at] * dot_f32(y, p, m);
        for (int64_t j = 0; j < m; j++) p[j] += change * (double)s[j];
    }
    for (int64_t j = 0; j < m; j++) p[j] = -p[j];
    c->slope = dot(p, f->g + k * m, m);
}

/* The share of the model's step that the newest pair allows: s'y / y'M^-1 y,
 * at most 1. Where margins saturate, h at a point says too little of the
 * curvature a step ahead. q, t: scratch of a chunk; damp out [n]. */
static void damping(const fit *f, const int32_t *list, int32_t n, float *q,
                    float *t, double *damp) {
    const ks_l2 *l2 = f->l2;
    int64_t d = l2->d, rank = l2->rank;
    for (int32_t i = 0; i < n; i++)
        memcpy(q + i * d, newest(f, list[i]), (size_t)d * sizeof *q);
    to_spectrum(l2, q, n, t);
    for (int32_t i = 0; i < n; i++) {
        const state *c = &f->states[list[i]];
        const float *y = newest(f, list[i]);
        double model = (double)y[d] * (double)y[d] / c->h, rest = 0;
        for (int64_t j = 0; j < rank; j++) {
            double square = (double)t[i * rank + j] * (double)t[i * rank + j];
            model += square / (c->h * (double)l2->value[j] + c->lambda);
            rest -= square;
        }
        if (rank < d) {
            for (int64_t j = 0; j < d; j++) rest += (double)y[j] * (double)y[j];
            model += KS_MAX(rest, 0) / (c->h * (double)l2->tail + c->lambda);
        }
        int32_t at = (c->next + PAIRS - 1) % PAIRS;
        damp[i] = c->pairs ? KS_MIN(1, 1 / (c->rho[at] * model)) : 1;
    }
}

/* p = damped (V diag(1 / (h value + lambda)) V' + the tail's part) p */
static void precondition(fit *f, const int32_t *list, int32_t n, float *q,
                         float *t) {
    const ks_l2 *l2 = f->l2;
    int64_t d = l2->d, rank = l2->rank;
    double damp[KS_L2_CHUNK];
    damping(f, list, n, q, t, damp);
    for (int32_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++)
            q[i * d + j] = (float)f->p[list[i] * (d + 1) + j];
    to_spectrum(l2, q, n, t);
    for (int32_t i = 0; i < n; i++) {
        const state *c = &f->states[list[i]];
        double rest = rank < d ? 1 / (c->h * (double)l2->tail + c->lambda) : 0;
        for (int64_t j = 0; j < rank; j++)
            t[i * rank + j] *=
                (float)(1 / (c->h * (double)l2->value[j] + c->lambda) - rest);
        for (int64_t j = 0; j < d; j++) q[i * d + j] *= (float)rest;
    }
    from_spectrum(l2, t, n, 1, q);
    for (int32_t i = 0; i < n; i++) {
        double *p = f->p + list[i] * (d + 1);
        const split *s = &f->splits[f->states[list[i]].split];
        for (int64_t j = 0; j < d; j++)
            p[j] = s->inverse[j] > 0 ? damp[i] * (double)q[i * d + j] : 0;
        p[d] *= damp[i] / f->states[list[i]].h;
    }
}

/* Small gradient; and a small next step, for which a few further passes are
 * spent. The step cannot shrink below what f32 shows of the gradient. */
static bool f32_done(fit *f, int32_t k) {
    int64_t m = f->l2->d + 1;
    state *c = &f->states[k];
    if (max_gradient(f, k) > MARGIN * f->tolerance) return false;
    const double *p = f->p + k * m, *v = f->v + k * m;
    return dot(p, p, m - 1) <= STEP * STEP * dot(v, v, m - 1) ||
           c->polish++ >= POLISH;
}

/* In double: the gradient is reported; a column whose last step in f32 was
 * not small (an ill-conditioned one) is taken further while passes last. */
static bool verified(fit *f, int32_t k) {
    int64_t m = f->l2->d + 1;
    state *c = &f->states[k];
    const double *p = f->p + k * m, *v = f->v + k * m;
    f->columns[k].gradient = max_gradient(f, k);
    if (f->columns[k].gradient > f->tolerance) return false;
    return c->t * c->t * dot(p, p, m - 1) <= STEP * STEP * dot(v, v, m - 1) ||
           c->polish++ >= POLISH_EXACT;
}

static void direct_chunk(fit *f, const int32_t *chunk, int32_t n, bool exact,
                         float *q, float *t) {
    int64_t m = f->l2->d + 1;
    int32_t list[KS_L2_CHUNK], n_list = 0;
    double alpha[KS_L2_CHUNK][PAIRS];
    for (int32_t i = 0; i < n; i++) {
        int32_t k = chunk[i];
        if (exact && verified(f, k))
            f->states[k].done = true;
        else if (keep_step(f, k))
            list[n_list++] = k;
    }
    for (int32_t i = 0; i < n_list; i++) recurse_down(f, list[i], alpha[i]);
    if (n_list) precondition(f, list, n_list, q, t);
    for (int32_t i = 0; i < n_list; i++) {
        int32_t k = list[i];
        double *v = f->v + k * m, *p = f->p + k * m;
        recurse_up(f, k, alpha[i]);
        if (!(f->states[k].slope < 0)) { /* rounding: start over downhill */
            f->states[k].pairs = 0;
            for (int64_t j = 0; j < m; j++) p[j] = -f->g[k * m + j];
            f->states[k].slope = dot(p, f->g + k * m, m);
        }
        if (!exact && f32_done(f, k))
            f->states[k].done = true;
        else
            for (int64_t j = 0; j < m; j++) v[j] += p[j];
    }
}

/* ------------------------------------------------------------------ the fit */

typedef void (*chunk_fn)(fit *f, const int32_t *list, int32_t n, bool exact,
                         float *q, float *t);

static void start_lda(fit *f, const int32_t *list, int32_t n, bool exact,
                      float *q, float *t) {
    (void)exact;
    start_chunk(f, list, n, q, t);
}

/* Active columns in chunks of fixed make-up, whatever the threads. */
static ks_status each_chunk(fit *f, chunk_fn run, bool exact, ks_err *err) {
    ks_status st = KS_OK;
    int32_t chunks = (f->n_active + KS_L2_CHUNK - 1) / KS_L2_CHUNK;
    size_t size = (size_t)(f->l2->d + f->l2->rank) * KS_L2_CHUNK;
    float *scratch = NULL;
    KS_TRY(ks_alloc(&scratch, (size_t)chunks * size, sizeof(float),
                    "directions", err));
#pragma omp parallel for num_threads(f->l2->threads) schedule(static, 1)
    for (int32_t k = 0; k < chunks; k++) {
        int32_t from = k * KS_L2_CHUNK;
        float *q = scratch + (size_t)k * size;
        run(f, f->active + from, KS_MIN(KS_L2_CHUNK, f->n_active - from), exact,
            q, q + f->l2->d * KS_L2_CHUNK);
    }
done:
    free(scratch);
    return st;
}

static void drop_done(fit *f) {
    int32_t n = 0;
    for (int32_t a = 0; a < f->n_active; a++)
        if (!f->states[f->active[a]].done) f->active[n++] = f->active[a];
    f->n_active = n;
}

static int by_design(const void *pa, const void *pb) {
    const ks_l2_column *a = *(ks_l2_column *const *)pa;
    const ks_l2_column *b = *(ks_l2_column *const *)pb;
    if (a->design != b->design) return a->design < b->design ? -1 : 1;
    return a < b ? -1 : a > b;
}

/* All columns, ordered by design as passes want them. */
static ks_status activate_all(fit *f, ks_err *err) {
    ks_status st = KS_OK;
    ks_l2_column **sorted = NULL;
    KS_TRY(ks_alloc(&sorted, (size_t)f->n, sizeof *sorted, "columns", err));
    for (int32_t k = 0; k < f->n; k++) sorted[k] = &f->columns[k];
    qsort(sorted, (size_t)f->n, sizeof *sorted, by_design);
    for (int32_t k = 0; k < f->n; k++) {
        f->active[k] = (int32_t)(sorted[k] - f->columns);
        f->states[k].done = false;
        f->states[k].fresh = true;
    }
    f->n_active = f->n;
done:
    free(sorted);
    return st;
}

static ks_status solve(fit *f, ks_err *err) {
    ks_status st = KS_OK;
    double start = ks__seconds();
    KS_TRY(activate_all(f, err));
    KS_TRY(each_chunk(f, start_lda, false, err));
    for (int32_t k = 0; k < f->n; k++)
        if (f->columns[k].start) start_from(f, k);
    for (int32_t pass = 0; f->n_active && pass < f->max_passes; pass++) {
        double before = ks__seconds();
        KS_TRY(evaluate(f, false, err));
        f->l2->cost.passes += ks__seconds() - before;
        KS_TRY(each_chunk(f, direct_chunk, false, err));
        drop_done(f);
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    }
    /* where max_passes ended it, v is a step ahead of what was measured */
    KS_TRY(activate_all(f, err));
    for (int32_t pass = 0; f->n_active && pass <= f->max_passes / 2; pass++) {
        double before = ks__seconds();
        KS_TRY(evaluate(f, true, err));
        f->l2->cost.verify += ks__seconds() - before;
        KS_TRY(each_chunk(f, direct_chunk, true, err));
        if (pass == f->max_passes / 2)
            /* not converged: the weights that were measured */
            for (int32_t a = 0; a < f->n_active; a++) {
                int64_t m = f->l2->d + 1, k = f->active[a];
                if (!f->states[k].done)
                    memcpy(f->v + k * m, f->base + k * m,
                           (size_t)m * sizeof *f->v);
            }
        drop_done(f);
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    }
    f->l2->cost.other += ks__seconds() - start;
done:
    return st;
}

static void put_column(const fit *f, int32_t k) {
    int64_t d = f->l2->d;
    ks_l2_column *c = &f->columns[k];
    const split *s = &f->splits[f->states[k].split];
    c->converged = c->gradient <= f->tolerance;
    if (c->weight) {
        to_shifted(f, k, c->weight, &c->weight[d]);
        for (int64_t j = 0; j < d; j++)
            c->weight[d] -= (double)f->l2->shift[j] * c->weight[j];
    }
    for (int64_t j = 0; j < d; j++) {
        if (c->mean) c->mean[j] = s->mean[j] + (double)f->l2->shift[j];
        if (c->scale) c->scale[j] = s->inverse[j] > 0 ? 1 / s->inverse[j] : 1;
    }
}

static ks_status fit_alloc(fit *f, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)f->n, d = (size_t)f->l2->d, m = d + 1;
    KS_TRY(ks_alloc(&f->states, n, sizeof *f->states, "columns", err));
    double **wide[] = {&f->v, &f->base, &f->g, &f->g_base, &f->p};
    for (size_t i = 0; i < KS_COUNT(wide); i++)
        KS_TRY(ks_alloc(wide[i], n * m, sizeof(double), "columns", err));
    KS_TRY(ks_alloc(&f->s, n * m, PAIRS * sizeof(float), "steps", err));
    KS_TRY(ks_alloc(&f->y, n * m, PAIRS * sizeof(float), "steps", err));
    double **data[] = {&f->w, &f->gw};
    for (size_t i = 0; i < KS_COUNT(data); i++)
        KS_TRY(ks_alloc(data[i], n * d, sizeof(double), "columns", err));
    double **thin[] = {&f->b, &f->r, &f->h};
    for (size_t i = 0; i < KS_COUNT(thin); i++)
        KS_TRY(ks_alloc(thin[i], n, sizeof(double), "columns", err));
    KS_TRY(ks_alloc(&f->class_c, n, 2 * sizeof(double), "columns", err));
    KS_TRY(ks_alloc(&f->active, n, sizeof *f->active, "columns", err));
    KS_TRY(ks_alloc(&f->design, n, sizeof *f->design, "columns", err));
    KS_TRY(ks_alloc(&f->hold, n, sizeof *f->hold, "columns", err));
    KS_TRY(ks_alloc(&f->margin, n, sizeof *f->margin, "columns", err));
done:
    return st;
}

static void fit_free(fit *f) {
    void *all[] = {f->splits, f->split_data, f->states, f->v,       f->base,
                   f->g,      f->g_base,     f->p,      f->s,       f->y,
                   f->active, f->design,     f->hold,   f->class_c, f->w,
                   f->b,      f->gw,         f->r,      f->h,       f->margin};
    for (size_t i = 0; i < KS_COUNT(all); i++) free(all[i]);
}

static ks_status check(const ks_l2 *l2, const ks_l2_column *columns,
                       int32_t n_columns, double tolerance, int32_t max_passes,
                       ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(n_columns >= 1 && tolerance > 0 && max_passes >= 1, KS_USAGE,
             "a fit needs columns, a tolerance and passes above 0, got %d, %g "
             "and %d",
             n_columns, tolerance, max_passes);
    for (int32_t k = 0; k < n_columns; k++) {
        KS_CHECK(columns[k].design >= 0 && columns[k].design < l2->n_designs,
                 KS_USAGE, "column %d: expected a design below %d, got %d", k,
                 l2->n_designs, columns[k].design);
        KS_CHECK(columns[k].strength > 0 && isfinite(columns[k].strength),
                 KS_USAGE, "column %d: expected a strength above 0, got %g", k,
                 columns[k].strength);
    }
done:
    return st;
}

ks_status ks_l2_fit(ks_l2 *l2, ks_l2_column *columns, int32_t n_columns,
                    double tolerance, int32_t max_passes, ks_err *err) {
    ks_status st = KS_OK;
    int restore = ks__blas_serial();
    fit f = {.l2 = l2,
             .columns = columns,
             .n = n_columns,
             .tolerance = tolerance,
             .max_passes = max_passes};
    KS_TRY(check(l2, columns, n_columns, tolerance, max_passes, err));
    KS_TRY(fit_alloc(&f, err));
    KS_TRY(find_splits(&f, err));
    for (int32_t k = 0; k < n_columns; k++) {
        f.states[k].lambda =
            1 / (columns[k].strength * f.splits[f.states[k].split].n);
        columns[k].passes = 0;
    }
    KS_TRY(solve(&f, err));
    for (int32_t k = 0; k < n_columns; k++) put_column(&f, k);
done:
    fit_free(&f);
    ks__blas_restore(restore);
    return st;
}
