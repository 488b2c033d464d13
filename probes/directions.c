/* directions.c - see directions.h. */
#include "directions.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"
#include "fold_gram.h"
#include "holds.h"
#include "rows.h"
#include "window.h"

const double ks_shrinkages[KS_SHRINKAGES] = {1e-3, 1e-2, 1e-1, 0.3, 0.9};

/* What is solved for each set held out: the difference and each shrinkage. */
enum { SOLVED = KS_SHRINKAGES + 1 };

const char *ks_direction_name(ks_direction direction) {
    return direction == KS_LDA ? "LDA" : "mean difference";
}

/* ---------------------------------------------------------------- one matrix
 */

typedef struct work {
    const ks_folds *folds;
    const int8_t *y;
    ks_fold_gram gram;      /* parts: 2 fold + y */
    ks_holds holds;         /* inner, then outer */
    double *w, *b;          /* [holds, SOLVED, d] of u, [holds, SOLVED] */
    double *mean, *inverse; /* [holds, d] of u over the training rows */
    float *margin;          /* [holds, SOLVED, n] */
    ks_nest *out;
} work;

static uint64_t parts_of(const work *w, int32_t hold, int y) {
    uint64_t parts = 0;
    for (int32_t f = 0; f < w->folds->n_folds; f++)
        if (!(w->holds.set[hold] >> f & 1)) parts |= 1ull << (2 * f + y);
    return parts;
}

static double dot(const double *a, const double *b, int64_t d) {
    return cblas_ddot((int)d, a, 1, b, 1);
}

/* w on standardised features to w and b on u. */
static void put(work *w, int32_t hold, int32_t k, const double *v, double a,
                const double *middle) {
    int64_t d = w->gram.d, at = (int64_t)hold * SOLVED + k;
    const double *inverse = w->inverse + hold * d;
    double *to = w->w + at * d;
    for (int64_t j = 0; j < d; j++) to[j] = a * v[j] * inverse[j];
    w->b[at] = -dot(to, middle, d);
}

/* scratch [2 d, d] and [5, d]. */
static ks_status solve_hold(work *w, int32_t hold, double *scratch,
                            ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = w->gram.d;
    double *s = scratch, *factor = s + d * d, *m0 = factor + d * d;
    double *m1 = m0 + d, *gap = m1 + d, *v = gap + d, *middle = v + d;
    double *mean = w->mean + hold * d, *inverse = w->inverse + hold * d;
    uint64_t of0 = parts_of(w, hold, 0), of1 = parts_of(w, hold, 1);
    ks_fold_gram_moments(&w->gram, of0 | of1, mean, inverse);
    memset(s, 0, (size_t)(d * d) * sizeof *s);
    ks_fold_gram_add(&w->gram, of0, 0.5, inverse, m0, s);
    ks_fold_gram_add(&w->gram, of1, 0.5, inverse, m1, s);
    double trace = 0;
    for (int64_t j = 0; j < d; j++) {
        gap[j] = (m1[j] - m0[j]) * inverse[j];
        middle[j] = 0.5 * (m0[j] + m1[j]);
        trace += s[j * d + j];
    }
    cblas_dsymv(CblasRowMajor, CblasLower, (int)d, 1, s, (int)d, gap, 1, 0, v,
                1);
    double length = dot(gap, gap, d), spread = dot(gap, v, d);
    put(w, hold, 0, gap, spread > 0 ? length / spread : 0, middle);
    for (int32_t k = 0; k < KS_SHRINKAGES; k++) {
        double keep = 1 - ks_shrinkages[k];
        double ridge = ks_shrinkages[k] * trace / (double)d;
        memcpy(v, gap, (size_t)d * sizeof *v);
        if (trace > 0) /* else no feature varies: gap is 0 */
            KS_TRY(ks__solve_ridge(s, d, ridge / keep, v, 1, factor, err));
        put(w, hold, k + 1, v, 1 / keep, middle);
    }
done:
    return st;
}

static ks_status solve_all(work *w, ks_err *err) {
    ks_status st = KS_OK;
    size_t d = (size_t)w->gram.d;
    int restore = ks__blas_serial();
#pragma omp parallel for num_threads(w->gram.threads) schedule(dynamic, 1)
    for (int32_t h = 0; h < w->holds.n; h++) {
        ks_err mine = {0};
        double *scratch = NULL;
        ks_status got = ks_alloc(&scratch, 2 * d * d + 5 * d, sizeof *scratch,
                                 "a discriminant", &mine);
        if (got == KS_OK) got = solve_hold(w, h, scratch, &mine);
        free(scratch);
        if (got != KS_OK)
#pragma omp critical(ks_directions)
        {
            st = got;
            if (err) *err = mine;
        }
    }
    ks__blas_restore(restore);
    return st;
}

/* Of fold k of a seed: the weights of candidate c of its fit. */
static void keep_weights(const work *w, ks_nest *nest, int32_t fit,
                         int32_t hold, int32_t c) {
    int64_t d = w->gram.d, at = (int64_t)hold * SOLVED + c;
    const ks_fold_gram *g = &w->gram;
    double bias = w->b[at];
    for (int64_t j = 0; j < d; j++) {
        double inverse = w->inverse[hold * d + j], mean = w->mean[hold * d + j];
        bool varies = inverse > 0 && g->unit[j] > 0;
        double v = varies ? w->w[at * d + j] / inverse : 0;
        nest->weight[fit * d + j] = (float)v;
        nest->mean[fit * d + j] = (float)(g->shift[j] + g->unit[j] * mean);
        nest->scale[fit * d + j] = (float)(varies ? g->unit[j] / inverse : 1);
        bias += w->w[at * d + j] * mean;
    }
    nest->bias[fit] = (float)bias;
}

static ks_status choose(work *w, ks_nest *nest, int32_t seed, int32_t first,
                        int32_t n, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = w->folds;
    const uint8_t *fold = f->fold + seed * f->n;
    for (int32_t k = 0; k < f->n_folds; k++) {
        int32_t fit = seed * f->n_folds + k, best = first;
        nest->loss[fit] = INFINITY;
        for (int32_t c = first; c < first + n; c++) {
            double loss = ks__holds_loss(&w->holds, f, seed, k, w->margin,
                                         SOLVED, c, w->y);
            if (!(loss < nest->loss[fit])) continue;
            nest->loss[fit] = loss;
            best = c;
        }
        KS_CHECK(isfinite(nest->loss[fit]), KS_NUMERIC,
                 "seed %d fold %d: no direction has a finite loss", seed, k);
        nest->strength[fit] = first ? ks_shrinkages[best - 1] : NAN;
        int32_t outer = ks__hold(&w->holds, 1u << k);
        const float *z = w->margin + ((int64_t)outer * SOLVED + best) * f->n;
        for (int64_t i = 0; i < f->n; i++)
            if (fold[i] == k) nest->score[seed * f->n + i] = z[i];
        if (nest->weight) keep_weights(w, nest, fit, outer, best);
    }
done:
    return st;
}

static ks_status run_seed(work *w, const ks_l2_source *x, int32_t seed,
                          int threads, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = w->folds;
    uint8_t *part = NULL;
    KS_TRY(ks_alloc(&part, (size_t)f->n, 1, "folds", err));
    for (int64_t i = 0; i < f->n; i++)
        part[i] = (uint8_t)(2 * f->fold[seed * f->n + i] + w->y[i]);
    KS_TRY(ks_fold_gram_open(&w->gram, x, part, 2 * f->n_folds, NULL, 0,
                             threads, err));
    KS_TRY(solve_all(w, err));
    KS_TRY(ks_fold_gram_margins(&w->gram, x, w->w, w->b, w->holds.n * SOLVED,
                                w->margin, err));
    KS_TRY(choose(w, &w->out[KS_MEAN_DIFFERENCE], seed, 0, 1, err));
    KS_TRY(choose(w, &w->out[KS_LDA], seed, 1, KS_SHRINKAGES, err));
done:
    free(part);
    ks_fold_gram_close(&w->gram);
    return st;
}

static ks_status alloc_nest(ks_nest *nest, const ks_folds *f, int64_t d,
                            bool weights, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n_fits = f->n_seeds * f->n_folds;
    size_t fits = (size_t)n_fits, width = fits * (size_t)d;
    *nest = (ks_nest){.n = f->n, .d = d, .n_fits = n_fits};
    KS_TRY(ks_alloc(&nest->score, (size_t)f->n_seeds * (size_t)f->n,
                    sizeof(float), "scores", err));
    KS_TRY(ks_alloc(&nest->strength, fits, sizeof(double), "fits", err));
    KS_TRY(ks_alloc(&nest->loss, fits, sizeof(double), "fits", err));
    KS_TRY(ks_alloc(&nest->gradient, fits, sizeof(double), "fits", err));
    KS_TRY(ks_alloc(&nest->reads, fits, sizeof(int32_t), "fits", err));
    if (!weights) return KS_OK;
    KS_TRY(ks_alloc(&nest->bias, fits, sizeof(float), "weights", err));
    KS_TRY(ks_alloc(&nest->weight, width, sizeof(float), "weights", err));
    KS_TRY(ks_alloc(&nest->mean, width, sizeof(float), "weights", err));
    KS_TRY(ks_alloc(&nest->scale, width, sizeof(float), "weights", err));
done:
    return st;
}

ks_status ks_directions_fit(ks_nest out[KS_N_DIRECTIONS], const ks_l2_source *x,
                            const int8_t *y, const ks_folds *folds,
                            bool keep_weights, int threads, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = x->d;
    work w = {.folds = folds, .y = y, .out = out};
    ks__holds_fill(&w.holds, folds, 0, true);
    size_t sets = (size_t)w.holds.n, columns = sets * SOLVED;
    for (int k = 0; k < KS_N_DIRECTIONS; k++)
        KS_TRY(alloc_nest(&out[k], folds, d, keep_weights, err));
    KS_TRY(ks_alloc(&w.w, columns * (size_t)d, sizeof *w.w, "weights", err));
    KS_TRY(ks_alloc(&w.b, columns, sizeof *w.b, "weights", err));
    KS_TRY(ks_alloc(&w.mean, sets * (size_t)d, sizeof *w.mean, "means", err));
    KS_TRY(ks_alloc(&w.inverse, sets * (size_t)d, sizeof *w.inverse, "means",
                    err));
    KS_TRY(ks_alloc(&w.margin, columns * (size_t)folds->n, sizeof *w.margin,
                    "margins", err));
    for (int32_t s = 0; s < folds->n_seeds; s++)
        KS_TRY(run_seed(&w, x, s, threads, err));
done:
    free(w.w);
    free(w.b);
    free(w.mean);
    free(w.inverse);
    free(w.margin);
    for (int k = 0; st != KS_OK && k < KS_N_DIRECTIONS; k++)
        ks_nest_free(&out[k]);
    return st;
}

/* ------------------------------------------------------------------ a series
 */

static double cosine(const float *a, const float *b, int64_t d) {
    double aa = 0, bb = 0, ab = 0;
    for (int64_t j = 0; j < d; j++) {
        aa += (double)a[j] * (double)a[j];
        bb += (double)b[j] * (double)b[j];
        ab += (double)a[j] * (double)b[j];
    }
    return ab / sqrt(aa * bb); /* NaN where one is 0 */
}

static double mean_cosine(const ks_nest *a, const ks_nest *b) {
    double sum = 0;
    if (!a->weight || !b->weight) return NAN;
    for (int32_t k = 0; k < a->n_fits; k++)
        sum += cosine(a->weight + k * a->d, b->weight + k * a->d, a->d);
    return sum / a->n_fits;
}

static ks_status balanced(ks_interval *out, const ks_analysis_input *in,
                          const ks_nest *nest, float *score, ks_err *err) {
    ks_nest_mix(&nest, NULL, in->folds, score);
    ks_scored rows = ks_grid_scored(in->dataset, score);
    return ks_stats_balanced(&rows, NULL, in->options->bootstrap,
                             in->options->seed, out, NULL, err);
}

size_t ks_directions_bytes(const ks_l2_source *x, const ks_folds *f,
                           int threads) {
    size_t d = (size_t)x->d, n = (size_t)f->n, t = (size_t)threads;
    ks_holds holds;
    ks__holds_fill(&holds, f, 0, true);
    size_t columns = (size_t)holds.n * SOLVED;
    size_t fits = (size_t)f->n_seeds * (size_t)f->n_folds;
    return ks_fold_gram_bytes(x, 2 * f->n_folds, 0, threads) +
           t * ((2 * d + 5) * d * sizeof(double) +
                KS_WINDOW * columns * sizeof(double) + ks_l2_blas_bytes(x->d)) +
           columns * (d * sizeof(double) + n * sizeof(float)) +
           (size_t)holds.n * 2 * d * sizeof(double) + n +
           KS_N_DIRECTIONS * ((size_t)f->n_seeds * n + 3 * fits * d) *
               sizeof(float);
}

size_t ks_directions_kept(const ks_folds *f) {
    return KS_N_DIRECTIONS * (size_t)f->n_seeds * (size_t)f->n * sizeof(float);
}

typedef struct needs {
    ks_l2_source x; /* as the file has it */
    const ks_folds *folds;
} needs;

static size_t bytes(void *user, int threads, bool scratch) {
    const needs *u = user;
    (void)scratch; /* windows are counted either way */
    return ks_directions_bytes(&u->x, u->folds, threads);
}

static ks_status fit_layer(ks_directions *out, const ks_analysis_input *in,
                           const ks_series *series, int32_t cell,
                           ks_nest nests[KS_N_DIRECTIONS], float *score,
                           ks_err *err) {
    ks_status st = KS_OK;
    ks__rows rows = {0};
    ks_err own = {0};
    const ks_cell *of = &series->cells[cell];
    const ks_acts_info *info = in->dataset->info;
    needs user = {{.n = in->folds->n, .d = info->d, .type = info->dtype},
                  in->folds};
    bool usual = of->layer == out->layer;
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    KS_TRY(ks__rows_open(&rows, in, series, of->layer, bytes, &user,
                         "mean difference and LDA", err));
    st = ks_directions_fit(nests, &rows.source, in->dataset->y, in->folds,
                           usual, rows.threads, &own);
    KS_CHECK(st == KS_OK, st, "%s/%s layer %d, mean difference and LDA: %s",
             ks_stream_name(series->stream), ks_position_name(series->position),
             of->layer, own.text);
    for (int k = 0; k < KS_N_DIRECTIONS; k++)
        KS_TRY(balanced(&out->accuracy[k][cell], in, &nests[k], score, err));
    if (!usual) goto done;
    for (int k = 0; k < KS_N_DIRECTIONS; k++) { /* kept from here on */
        out->weight[k] = nests[k].weight;
        out->bias[k] = nests[k].bias;
    }
    out->l2_mean = mean_cosine(&of->nest, &nests[KS_MEAN_DIFFERENCE]);
    out->l2_lda = mean_cosine(&of->nest, &nests[KS_LDA]);
    out->mean_lda = mean_cosine(&nests[KS_MEAN_DIFFERENCE], &nests[KS_LDA]);
done:
    ks__rows_close(&rows);
    return st;
}

static ks_status add_other(ks_others *others, const ks_analysis_input *in,
                           const ks_series *series, ks_direction direction,
                           const ks_nest *nests, ks_err *err) {
    ks_status st = KS_OK;
    static const char *const notes[] = {
        "the difference of the class means on standardised features; layer "
        "chosen in the training folds",
        "linear discriminant with shrunk covariance; shrinkage and layer "
        "chosen in the training folds"};
    ks_other other = {.note = notes[direction],
                      .stream = series->stream,
                      .position = series->position,
                      .layer = -1};
    const ks_nest **of = NULL;
    int32_t *chosen = NULL, n = series->n_cells;
    KS_TRY(ks_alloc(&of, (size_t)n, sizeof *of, "layers", err));
    KS_TRY(ks_alloc(&chosen, (size_t)nests[0].n_fits, sizeof *chosen, "layers",
                    err));
    for (int32_t c = 0; c < n; c++)
        of[c] = &nests[c * KS_N_DIRECTIONS + (int)direction];
    snprintf(other.probe, sizeof other.probe, "%s",
             ks_direction_name(direction));
    KS_TRY(ks_alloc(&other.score, (size_t)in->dataset->n, sizeof(float),
                    "scores", err));
    ks_nest_choose(of, n, chosen);
    ks_nest_mix(of, chosen, in->folds, other.score);
    KS_TRY(
        ks_others_add(others, &other, in->dataset, in->grid, in->options, err));
done:
    free(of);
    free(chosen);
    return st;
}

ks_status ks_directions_run(ks_directions *out, ks_others *others,
                            const ks_analysis_input *in,
                            const ks_series *series, uint32_t which,
                            int64_t *done, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)series->n_cells;
    const ks_folds *f = in->folds;
    ks_nest *nests = NULL;
    float *score = NULL;
    int32_t usual = ks_series_usual(series, f->n_seeds * f->n_folds);
    out->layer = series->cells[usual].layer;
    KS_TRY(ks_alloc(&nests, n * KS_N_DIRECTIONS, sizeof *nests, "layers", err));
    KS_TRY(
        ks_alloc(&score, (size_t)in->dataset->n, sizeof *score, "scores", err));
    for (int k = 0; k < KS_N_DIRECTIONS; k++)
        KS_TRY(
            ks_alloc(&out->accuracy[k], n, sizeof(ks_interval), "layers", err));
    for (int32_t c = 0; c < series->n_cells; c++) {
        KS_TRY(fit_layer(out, in, series, c, nests + c * KS_N_DIRECTIONS, score,
                         err));
        ++*done;
        if (in->options->progress)
            in->options->progress(in->options->user, *done);
    }
    for (ks_direction k = 0; k < KS_N_DIRECTIONS; k++)
        if (which >> k & 1)
            KS_TRY(add_other(others, in, series, k, nests, err));
done:
    for (size_t k = 0; nests && k < n * KS_N_DIRECTIONS; k++) {
        if (nests[k].weight == out->weight[k % KS_N_DIRECTIONS])
            nests[k].weight = nests[k].bias = NULL;
        ks_nest_free(&nests[k]);
    }
    free(nests);
    free(score);
    return st;
}

void ks_directions_free(ks_directions *directions) {
    for (int k = 0; k < KS_N_DIRECTIONS; k++) {
        free(directions->accuracy[k]);
        free(directions->weight[k]);
        free(directions->bias[k]);
    }
    *directions = (ks_directions){0};
}
