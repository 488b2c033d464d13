/* l2_solve.c - L-BFGS on all columns in step: one read of x a round.
 *
 * Directions: Nocedal's two-loop recursion (Math. Comp. 35, 1980) around the
 * spectral inverse Hessian of l2.h. A unit step is tried and nearly always
 * kept; whether it went too far is read from the slope at its end (the loss is
 * convex), so losses are never formed and no digits cancel. Columns leave
 * once their gradient, measured in f32, and the step that would follow are
 * small enough; then one pass in double verifies them all and gives the
 * held-out margins, and columns above the tolerance go on in double.
 *
 * A column that f32 has not brought there by then goes on in double around its
 * own inverse Hessian (l2_newton.c), formed anew every few passes: Newton's
 * method, where the spectrum of all rows is too far from the column's own, or
 * the tolerance is below what f32 resolves. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "l2_fit.h"

enum {
    PATIENCE = 40, /* passes in f32, or d / 40: a Hessian costs d^2 n, a pass
                      d n with little to hold in cache */
    REFRESH = 4    /* passes that a column's Hessian serves */
};

typedef void (*chunk_fn)(ks_l2_fitting *f, const int32_t *list, int32_t n,
                         bool exact, float *q, float *t);

static void start_lda(ks_l2_fitting *f, const int32_t *list, int32_t n,
                      bool exact, float *q, float *t) {
    (void)exact;
    ks__l2_start_chunk(f, list, n, q, t);
}

/* Active columns in chunks of fixed make-up, whatever the threads. */
static ks_status each_chunk(ks_l2_fitting *f, chunk_fn run, bool exact,
                            ks_err *err) {
    ks_status st = KS_OK;
    int32_t chunks = (f->n_active + KS_L2_CHUNK - 1) / KS_L2_CHUNK;
    size_t size = (size_t)(f->l2->d + f->l2->rank) * 2 * KS_L2_CHUNK;
    float *scratch = NULL;
    KS_TRY(ks_alloc(&scratch, (size_t)chunks * size, sizeof(float),
                    "directions", err));
#pragma omp parallel for num_threads(f->l2->threads) schedule(static, 1)
    for (int32_t k = 0; k < chunks; k++) {
        int32_t from = k * KS_L2_CHUNK;
        float *q = scratch + (size_t)k * size;
        run(f, f->active + from, KS_MIN(KS_L2_CHUNK, f->n_active - from), exact,
            q, q + f->l2->d * 2 * KS_L2_CHUNK);
    }
done:
    free(scratch);
    return st;
}

static void drop_done(ks_l2_fitting *f) {
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
static ks_status activate_all(ks_l2_fitting *f, ks_err *err) {
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

/* Evaluates the active columns; checks for a stop. */
static ks_status read_once(ks_l2_fitting *f, bool exact, ks_err *err) {
    ks_status st = KS_OK;
    double before = ks_seconds();
    KS_TRY(ks__l2_evaluate(f, exact, err));
    double took = ks_seconds() - before;
    *(exact ? &f->l2->cost.verify : &f->l2->cost.passes) += took;
    *(exact ? &f->l2->cost.f64_reads : &f->l2->cost.f32_reads) += 1;
    if (!exact) ks__l2_weigh_way(f->l2, took);
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
done:
    return st;
}

/* In f32, all columns at once. Those that the limit stops stay where they were
 * last measured. */
static ks_status run_f32(ks_l2_fitting *f, ks_err *err) {
    ks_status st = KS_OK;
    int64_t m = f->l2->d + 1;
    int32_t limit = f->max_passes;
    if (ks__l2_hessians(f->l2->n, f->l2->d))
        limit = (int32_t)KS_MIN(limit, KS_MAX(PATIENCE, f->l2->d / 40));
    KS_TRY(activate_all(f, err));
    KS_TRY(each_chunk(f, start_lda, false, err));
    for (int32_t k = 0; k < f->n; k++) {
        if (f->columns[k].start) ks__l2_start_from(f, k);
        f->states[k].age = REFRESH - 2;
    }
    for (int32_t pass = 0; f->n_active && pass < limit; pass++) {
        KS_TRY(read_once(f, false, err));
        KS_TRY(each_chunk(f, ks__l2_direct_chunk, false, err));
        drop_done(f);
    }
    for (int32_t a = 0; a < f->n_active; a++) {
        int32_t k = f->active[a];
        memcpy(f->v + k * m, f->base + k * m, (size_t)m * sizeof *f->v);
        f->states[k].age = REFRESH;
    }
done:
    return st;
}

static ks_status verify(ks_l2_fitting *f, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(read_once(f, true, err));
    for (int32_t a = 0; a < f->n_active; a++)
        f->states[f->active[a]].done = ks__l2_verified(f, f->active[a]);
    drop_done(f);
done:
    return st;
}

/* The active columns' Hessians, where they are due and v is a point that will
 * be kept: of a step too long they would say nothing about where the next line
 * starts; due: [n]. */
static ks_status refresh(ks_l2_fitting *f, double *hessians, int32_t *due,
                         ks_err *err) {
    int32_t n = 0;
    for (int32_t a = 0; a < f->n_active; a++) {
        ks_l2_progress *c = &f->states[f->active[a]];
        if (c->age++ >= REFRESH && !ks__l2_overshot(f, f->active[a]))
            due[n++] = f->active[a];
    }
    return n ? ks__l2_find_hessians(f, due, n, hessians, err) : KS_OK;
}

/* What one pass in double did not find done, as many columns together as may
 * have a Hessian. They end where they were last measured. */
static ks_status run_f64(ks_l2_fitting *f, ks_err *err) {
    ks_status st = KS_OK;
    int32_t *rest = NULL, *due = NULL, n,
            group = ks__l2_hessians(f->l2->n, f->l2->d);
    double *hessians = NULL;
    size_t m = (size_t)f->l2->d + 1;
    KS_TRY(activate_all(f, err));
    KS_TRY(verify(f, err));
    if (!(n = f->n_active)) goto done;
    KS_TRY(ks_alloc(&rest, (size_t)n, sizeof *rest, "columns", err));
    KS_TRY(ks_alloc(&due, (size_t)n, sizeof *due, "columns", err));
    memcpy(rest, f->active, (size_t)n * sizeof *rest);
    int32_t step = group ? KS_MIN(group, n) : n;
    for (int32_t from = 0; from < n; from += step) {
        f->n_active = KS_MIN(step, n - from);
        memcpy(f->active, rest + from, (size_t)f->n_active * sizeof *rest);
        for (int32_t a = 0; a < f->n_active; a++)
            f->states[f->active[a]].slot = a;
        for (int32_t i = 0; f->n_active && i < f->max_passes / 2; i++) {
            if (group && !hessians)
                KS_TRY(ks_alloc(&hessians, (size_t)step * m * m,
                                sizeof *hessians, "Hessians", err));
            if (group) KS_TRY(refresh(f, hessians, due, err));
            KS_TRY(each_chunk(f, ks__l2_direct_chunk, true, err));
            KS_TRY(verify(f, err));
        }
    }
done:
    free(rest);
    free(due);
    free(hessians);
    return st;
}

static ks_status solve(ks_l2_fitting *f, ks_err *err) {
    ks_status st = KS_OK;
    double start = ks_seconds();
    KS_TRY(run_f32(f, err));
    KS_TRY(run_f64(f, err));
    f->l2->cost.other += ks_seconds() - start;
done:
    return st;
}

static void put_column(const ks_l2_fitting *f, int32_t k) {
    int64_t d = f->l2->d;
    ks_l2_column *c = &f->columns[k];
    const ks_l2_split *s = &f->splits[f->states[k].split];
    c->converged = c->gradient <= f->tolerance;
    if (c->weight) {
        ks__l2_to_shifted(f, k, c->weight, &c->weight[d]);
        for (int64_t j = 0; j < d; j++)
            c->weight[d] -= (double)f->l2->shift[j] * c->weight[j];
    }
    for (int64_t j = 0; j < d; j++) {
        if (c->mean) c->mean[j] = s->mean[j] + (double)f->l2->shift[j];
        if (c->scale) c->scale[j] = s->inverse[j] > 0 ? 1 / s->inverse[j] : 1;
    }
}

ks_status ks__l2_fitting_open(ks_l2_fitting *f, bool pairs, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)f->n, d = (size_t)f->l2->d, m = d + 1;
    KS_TRY(ks_alloc(&f->states, n, sizeof *f->states, "columns", err));
    double **wide[] = {&f->v, &f->base, &f->g, &f->g_base, &f->p};
    for (size_t i = 0; i < KS_COUNT(wide); i++)
        KS_TRY(ks_alloc(wide[i], n * m, sizeof(double), "columns", err));
    for (int i = 0; pairs && i < 2; i++)
        KS_TRY(ks_alloc(i ? &f->y : &f->s, n * m, KS_L2_PAIRS * sizeof(float),
                        "steps", err));
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

void ks__l2_fitting_close(ks_l2_fitting *f) {
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
    ks_l2_fitting f = {.l2 = l2,
                       .columns = columns,
                       .n = n_columns,
                       .tolerance = tolerance,
                       .max_passes = max_passes};
    KS_TRY(check(l2, columns, n_columns, tolerance, max_passes, err));
    KS_TRY(ks__l2_fitting_open(&f, true, err));
    KS_TRY(ks__l2_find_splits(&f, err));
    for (int32_t k = 0; k < n_columns; k++) {
        f.states[k].lambda =
            1 / (columns[k].strength * f.splits[f.states[k].split].n);
        columns[k].passes = 0;
    }
    KS_TRY(solve(&f, err));
    for (int32_t k = 0; k < n_columns; k++) put_column(&f, k);
done:
    ks__l2_fitting_close(&f);
    ks__blas_restore(restore);
    return st;
}
