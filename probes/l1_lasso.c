/* l1_lasso.c - see l1_lasso.h: coordinate descent on a working set, as in
 * Friedman, Hastie, Tibshirani (J. Stat. Softw. 33, 2010): covariances in place
 * of residuals, all conditions looked at when the set is solved. */
#include "l1_lasso.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>

enum {
    SWEEPS = 12,  /* of coordinate descent before it is made exact */
    POLISHES = 6, /* of both, before other coordinates are looked at */
    ROUNDS = 25,  /* of that */
    MOST_EXACT = 2048
};

void ks__lasso_close(ks__lasso_part *p) {
    free(p->list);
    free(p->b);
    free(p->q);
    free(p->was);
    free(p->exact);
}

ks_status ks__lasso_open(ks__lasso_part *p, int64_t m, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_alloc(&p->list, (size_t)m, sizeof *p->list, "steps", err));
    KS_TRY(ks_alloc(&p->q, (size_t)m, sizeof *p->q, "steps", err));
    KS_TRY(ks_alloc(&p->was, (size_t)m, sizeof *p->was, "steps", err));
done:
    return st;
}

/* How far coordinate j's condition is off. */
static double off_by(const ks__lasso *p, int64_t j) {
    double g = p->g[j] + p->t * p->q[j], w = p->x[j] + p->s[j];
    if (j + 1 == p->m) return fabs(g);
    if (w != 0) return fabs(g + copysign(p->lambda, w));
    return KS_MAX(fabs(g) - p->lambda, 0);
}

/* Lists what is not 0, and of the rest what is off by a quarter of the most:
 * where features outnumber rows, all of them are off at first, and few stay.
 * Returns the most. */
static double choose(const ks__lasso *p, ks__lasso_part *of) {
    double all = 0, most = 0; /* of those that are 0 */
    for (int64_t j = 0; j < p->m; j++) {
        double off = off_by(p, j);
        all = KS_MAX(all, off);
        if (j + 1 < p->m && p->x[j] + p->s[j] == 0) most = KS_MAX(most, off);
    }
    of->n = 0;
    for (int64_t j = 0; j < p->m; j++)
        if (j + 1 == p->m || p->x[j] + p->s[j] != 0 ||
            (most > 0 && off_by(p, j) >= 0.25 * most))
            of->list[of->n++] = (int32_t)j;
    return all;
}

/* What of B is the part's, and of B s; without memory, rows of B. */
static void gather(const ks__lasso *p, ks__lasso_part *of) {
    size_t n = (size_t)of->n;
    if (n <= MOST_EXACT && n * n > of->room) {
        free(of->b);
        free(of->exact);
        of->b = malloc(n * n * sizeof *of->b);
        of->exact = malloc(n * (n + 1) * sizeof *of->exact);
        of->room = of->b && of->exact ? n * n : 0;
    }
    for (size_t i = 0; i < n; i++) {
        int64_t j = of->list[i];
        of->q[i] = p->q[j];
        of->was[i] = p->s[j];
        for (size_t k = 0; n * n <= of->room && k < n; k++)
            of->b[i * n + k] = p->b[j * p->m + of->list[k]];
    }
}

/* of->q after a step of its coordinate i. */
static void moved(const ks__lasso *p, ks__lasso_part *of, int32_t i,
                  double step) {
    size_t n = (size_t)of->n;
    const float *row = p->b + of->list[i] * p->m;
    if (n * n <= of->room) {
        const float *mine = of->b + (size_t)i * n;
        for (size_t k = 0; k < n; k++) of->q[k] += step * (double)mine[k];
        return;
    }
    for (size_t k = 0; k < n; k++) of->q[k] += step * (double)row[of->list[k]];
}

/* One coordinate; returns how far its condition was off. */
static double descend(const ks__lasso *p, ks__lasso_part *of, int32_t i) {
    int64_t j = of->list[i];
    double curve = p->t * (double)p->b[j * p->m + j];
    double old = p->x[j] + p->s[j];
    double to = old - (p->g[j] + p->t * of->q[i]) / curve;
    double shrink = j + 1 < p->m ? p->lambda / curve : 0;
    double now = fabs(to) > shrink ? to - copysign(shrink, to) : 0;
    double step = now - old;
    if (step == 0) return 0;
    p->s[j] = now == 0 ? -p->x[j] : p->s[j] + step;
    moved(p, of, i, step);
    return fabs(step) * curve;
}

/* Returns how far a condition was off in the last sweep. */
static double sweep(const ks__lasso *p, ks__lasso_part *of, double enough) {
    double off = INFINITY;
    for (int32_t k = 0; k < SWEEPS && off > enough; k++) {
        off = 0;
        for (int32_t i = 0; i < of->n; i++) {
            double by = descend(p, of, i);
            off = KS_MAX(off, by);
        }
    }
    return off;
}

/* Coordinate descent is slow where features are alike: the exact solution for
 * the signs that it has found, or, where one would turn, as far as that. */
static void polish(const ks__lasso *p, ks__lasso_part *of) {
    int32_t n = of->n, k = 0, turns = -1;
    double *a = of->exact, *delta = a + (int64_t)n * n;
    int32_t at[MOST_EXACT];
    for (int32_t i = 0; i < n; i++) {
        int32_t j = of->list[i];
        if (j + 1 == p->m || p->x[j] + p->s[j] != 0) at[k++] = i;
    }
    for (int32_t i = 0; i < k; i++) {
        int32_t j = of->list[at[i]];
        double w = p->x[j] + p->s[j];
        double pull = j + 1 < p->m ? copysign(p->lambda, w) : 0;
        delta[i] = -(p->g[j] + p->t * of->q[at[i]] + pull) / p->t;
        for (int32_t l = 0; l <= i; l++)
            a[i * k + l] = (double)of->b[(int64_t)at[i] * n + at[l]];
    }
    if (LAPACKE_dposv_work(LAPACK_COL_MAJOR, 'U', k, 1, a, k, delta, k) != 0)
        return;
    double share = 1;
    for (int32_t i = 0; i < k; i++) {
        int32_t j = of->list[at[i]];
        double w = p->x[j] + p->s[j];
        if (j + 1 == p->m || w * (w + share * delta[i]) >= 0) continue;
        share = -w / delta[i];
        turns = i;
    }
    for (int32_t i = 0; i < k; i++) {
        int32_t j = of->list[at[i]];
        double step = i == turns ? -(p->x[j] + p->s[j]) : share * delta[i];
        p->s[j] = i == turns ? -p->x[j] : p->s[j] + step;
        moved(p, of, at[i], step);
    }
}

/* The gradients of all coordinates once the part is solved. */
static void give_back(const ks__lasso *p, const ks__lasso_part *of) {
    for (int32_t i = 0; i < of->n; i++) {
        const float *row = p->b + of->list[i] * p->m;
        double step = p->s[of->list[i]] - of->was[i];
        for (int64_t l = 0; step != 0 && l < p->m; l++)
            p->q[l] += step * (double)row[l];
    }
}

void ks__lasso_solve(const ks__lasso *p, double enough, ks__lasso_part *of) {
    for (int32_t round = 0; round < ROUNDS; round++) {
        if (choose(p, of) <= enough) break;
        gather(p, of);
        for (int32_t k = 0; k < POLISHES; k++) {
            if (sweep(p, of, 0.5 * enough) <= 0.5 * enough) break;
            if ((size_t)of->n * (size_t)of->n > of->room) break;
            polish(p, of);
        }
        give_back(p, of);
    }
}

size_t ks__lasso_bytes(int64_t m) {
    size_t n = (size_t)KS_MIN(m, MOST_EXACT);
    return n * n * sizeof(float) + n * (n + 1) * sizeof(double) +
           (size_t)m * (sizeof(int32_t) + 2 * sizeof(double));
}
