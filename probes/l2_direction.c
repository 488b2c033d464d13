/* l2_direction.c - from gradients to the next points: keeps or shortens the
 * last step, then L-BFGS around the spectral inverse Hessian; tells which
 * columns are done. */
#include <math.h>
#include <string.h>

#include "l2_fit.h"

enum {
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

/* Of the line along p, at v. */
static double slope_at(const ks_l2_fitting *f, int32_t k) {
    int64_t m = f->l2->d + 1;
    return ks__l2_dot(f->g + k * m, f->p + k * m, m);
}

static bool overshot(const ks_l2_progress *c, double slope) {
    return !c->fresh && c->tries < MAX_TRIES &&
           !(slope <= OVERSHOT * -c->slope);
}

bool ks__l2_overshot(const ks_l2_fitting *f, int32_t k) {
    return overshot(&f->states[k], slope_at(f, k));
}

/* Keeps the step that led to v, or shortens it. True: v starts a new line. */
static bool keep_step(ks_l2_fitting *f, int32_t k) {
    int64_t m = f->l2->d + 1;
    ks_l2_progress *c = &f->states[k];
    double *v = f->v + k * m, *base = f->base + k * m, *p = f->p + k * m;
    double *g = f->g + k * m, *g_base = f->g_base + k * m;
    double slope = slope_at(f, k);
    if (overshot(c, slope)) {
        double shrink = isfinite(slope) ? -c->slope / (slope - c->slope) : 0.1;
        c->t *= KS_MAX(0.1, KS_MIN(0.6, shrink));
        c->tries++;
        for (int64_t j = 0; j < m; j++) v[j] = base[j] + c->t * p[j];
        return false;
    }
    if (!c->fresh) {
        float *s = f->s + (k * KS_L2_PAIRS + c->next) * m;
        float *y = f->y + (k * KS_L2_PAIRS + c->next) * m;
        double sy = 0;
        for (int64_t j = 0; j < m; j++) {
            s[j] = (float)(v[j] - base[j]);
            y[j] = (float)(g[j] - g_base[j]);
            sy += (double)s[j] * (double)y[j];
        }
        if (sy > 1e-30) {
            c->rho[c->next] = 1 / sy;
            c->next = (c->next + 1) % KS_L2_PAIRS;
            c->pairs = KS_MIN(c->pairs + 1, KS_L2_PAIRS);
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
static const float *newest(const ks_l2_fitting *f, int32_t k) {
    int32_t at = (f->states[k].next + KS_L2_PAIRS - 1) % KS_L2_PAIRS;
    return f->y + (k * KS_L2_PAIRS + at) * (f->l2->d + 1);
}

static void recurse_down(ks_l2_fitting *f, int32_t k, double *alpha) {
    int64_t m = f->l2->d + 1;
    ks_l2_progress *c = &f->states[k];
    double *p = f->p + k * m;
    memcpy(p, f->g + k * m, (size_t)m * sizeof *p);
    for (int32_t i = 0; i < c->pairs; i++) {
        int32_t at = (c->next - 1 - i + 2 * KS_L2_PAIRS) % KS_L2_PAIRS;
        const float *s = f->s + (k * KS_L2_PAIRS + at) * m;
        const float *y = f->y + (k * KS_L2_PAIRS + at) * m;
        alpha[at] = c->rho[at] * dot_f32(s, p, m);
        for (int64_t j = 0; j < m; j++) p[j] -= alpha[at] * (double)y[j];
    }
}

static void recurse_up(ks_l2_fitting *f, int32_t k, const double *alpha) {
    int64_t m = f->l2->d + 1;
    ks_l2_progress *c = &f->states[k];
    double *p = f->p + k * m;
    for (int32_t i = c->pairs - 1; i >= 0; i--) {
        int32_t at = (c->next - 1 - i + 2 * KS_L2_PAIRS) % KS_L2_PAIRS;
        const float *s = f->s + (k * KS_L2_PAIRS + at) * m;
        const float *y = f->y + (k * KS_L2_PAIRS + at) * m;
        double change = alpha[at] - c->rho[at] * dot_f32(y, p, m);
        for (int64_t j = 0; j < m; j++) p[j] += change * (double)s[j];
    }
    for (int64_t j = 0; j < m; j++) p[j] = -p[j];
    c->slope = slope_at(f, k);
}

/* The share of the model's step that the newest pair allows: s'y / y'M^-1 y,
 * at most 1. Where margins saturate, h at a point says too little of the
 * curvature a step ahead. t [n, rank]: newest pairs' y in spectral coordinates;
 * damp out [n]. */
static void damping(const ks_l2_fitting *f, const int32_t *list, int32_t n,
                    const float *t, double *damp) {
    const ks_l2 *l2 = f->l2;
    int64_t d = l2->d, rank = l2->rank;
    for (int32_t i = 0; i < n; i++) {
        const ks_l2_progress *c = &f->states[list[i]];
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
        int32_t at = (c->next + KS_L2_PAIRS - 1) % KS_L2_PAIRS;
        damp[i] = c->pairs ? KS_MIN(1, 1 / (c->rho[at] * model)) : 1;
    }
}

/* p = damped (V diag(1 / (h value + lambda)) V' + the tail's part) p */
static void precondition(ks_l2_fitting *f, const int32_t *list, int32_t n,
                         float *q, float *t) {
    const ks_l2 *l2 = f->l2;
    int64_t d = l2->d, rank = l2->rank;
    double damp[KS_L2_CHUNK];
    for (int32_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < d; j++)
            q[i * d + j] = (float)f->p[list[i] * (d + 1) + j];
        memcpy(q + (n + i) * d, newest(f, list[i]), (size_t)d * sizeof *q);
    }
    ks__l2_to_spectrum(l2, q, 2 * n, t); /* one product for both */
    damping(f, list, n, t + n * rank, damp);
    for (int32_t i = 0; i < n; i++) {
        const ks_l2_progress *c = &f->states[list[i]];
        double rest = rank < d ? 1 / (c->h * (double)l2->tail + c->lambda) : 0;
        for (int64_t j = 0; j < rank; j++)
            t[i * rank + j] *=
                (float)(1 / (c->h * (double)l2->value[j] + c->lambda) - rest);
        for (int64_t j = 0; j < d; j++) q[i * d + j] *= (float)rest;
    }
    ks__l2_from_spectrum(l2, t, n, 1, q);
    for (int32_t i = 0; i < n; i++) {
        double *p = f->p + list[i] * (d + 1);
        const ks_l2_split *s = &f->splits[f->states[list[i]].split];
        for (int64_t j = 0; j < d; j++)
            p[j] = s->inverse[j] > 0 ? damp[i] * (double)q[i * d + j] : 0;
        p[d] *= damp[i] / f->states[list[i]].h;
    }
}

/* Small gradient; and a small next step, for which a few further passes are
 * spent. The step cannot shrink below what f32 shows of the gradient. */
static bool f32_done(ks_l2_fitting *f, int32_t k) {
    int64_t m = f->l2->d + 1;
    ks_l2_progress *c = &f->states[k];
    if (ks__l2_max_gradient(f, k) > MARGIN * f->tolerance) return false;
    const double *p = f->p + k * m, *v = f->v + k * m;
    return ks__l2_dot(p, p, m - 1) <= STEP * STEP * ks__l2_dot(v, v, m - 1) ||
           c->polish++ >= POLISH;
}

bool ks__l2_verified(ks_l2_fitting *f, int32_t k) {
    int64_t m = f->l2->d + 1;
    ks_l2_progress *c = &f->states[k];
    const double *p = f->p + k * m, *v = f->v + k * m;
    f->columns[k].gradient = ks__l2_max_gradient(f, k);
    if (f->columns[k].gradient > f->tolerance) return false;
    return c->t * c->t * ks__l2_dot(p, p, m - 1) <=
               STEP * STEP * ks__l2_dot(v, v, m - 1) ||
           c->polish++ >= POLISH_EXACT;
}

void ks__l2_direct_chunk(ks_l2_fitting *f, const int32_t *chunk, int32_t n,
                         bool exact, float *q, float *t) {
    int64_t m = f->l2->d + 1;
    int32_t list[KS_L2_CHUNK], n_list = 0;
    double alpha[KS_L2_CHUNK][KS_L2_PAIRS];
    for (int32_t i = 0; i < n; i++) {
        int32_t k = chunk[i];
        if (keep_step(f, k)) list[n_list++] = k;
    }
    for (int32_t i = 0; i < n_list; i++) recurse_down(f, list[i], alpha[i]);
    int32_t shared[KS_L2_CHUNK], n_shared = 0;
    for (int32_t i = 0; i < n_list; i++)
        if (f->states[list[i]].hessian)
            ks__l2_solve_hessian(f, list[i]);
        else
            shared[n_shared++] = list[i];
    if (n_shared) precondition(f, shared, n_shared, q, t);
    for (int32_t i = 0; i < n_list; i++) {
        int32_t k = list[i];
        double *v = f->v + k * m, *p = f->p + k * m;
        recurse_up(f, k, alpha[i]);
        if (!(f->states[k].slope < 0)) { /* rounding: start over downhill */
            f->states[k].pairs = 0;
            for (int64_t j = 0; j < m; j++) p[j] = -f->g[k * m + j];
            f->states[k].slope = slope_at(f, k);
        }
        if (!exact && f32_done(f, k))
            f->states[k].done = true;
        else
            for (int64_t j = 0; j < m; j++) v[j] += p[j];
    }
}
