/* independence.c - see independence.h. */
#include "independence.h"

#include <stdlib.h>

#include "correlate.h"
#include "removed.h"
#include "rows.h"
#include "surface.h"

typedef struct work {
    const ks_dataset *d;
    const ks_grid *grid;
    const ks_folds *folds;
    const ks_grid_options *options;
    float *z;   /* [n, features] */
    float *one; /* [n] scores of one layer */
    int64_t done;
    ks_independence *out;
} work;

/* ------------------------------------------------------------- correlations */

enum {
    LABELS,
    SCORES,
    PREDICTIONS,
    N_TARGETS,
    TOGETHER = 8 /* features in double at a time */
};

/* Features [from, from + n_x); x [n, n_x]: scratch. */
static ks_status correlate_some(work *w, int32_t from, int32_t n_x, double *x,
                                const double *t, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->d;
    ks_independence *out = w->out;
    ks_interval r[TOGETHER * N_TARGETS];
    for (int64_t i = 0; i < d->n; i++)
        for (int32_t j = 0; j < n_x; j++)
            x[i * n_x + j] = (double)w->z[i * out->n_features + from + j];
    KS_TRY(ks_correlate(x, n_x, t, N_TARGETS, d->n, d->group, d->n_groups,
                        w->options->bootstrap, w->options->seed, r, err));
    for (int32_t j = 0; j < n_x; j++)
        out->features[from + j] =
            (ks_surface_r){.name = ks_surface_feature(KS_SURFACE_ALL, from + j),
                           .labels = r[j * N_TARGETS + LABELS],
                           .scores = r[j * N_TARGETS + SCORES],
                           .predictions = r[j * N_TARGETS + PREDICTIONS]};
done:
    return st;
}

static ks_status correlate(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->d;
    const float *score = w->grid->series[w->out->of].score;
    double *x = NULL, *t = NULL;
    KS_TRY(ks_alloc(&x, (size_t)(d->n * TOGETHER), sizeof *x, "features", err));
    KS_TRY(ks_alloc(&t, (size_t)(d->n * N_TARGETS), sizeof *t, "scores", err));
    for (int64_t i = 0; i < d->n; i++) {
        t[i * N_TARGETS + LABELS] = d->y[i];
        t[i * N_TARGETS + SCORES] = (double)score[i];
        t[i * N_TARGETS + PREDICTIONS] = score[i] > 0;
    }
    for (int32_t j = 0; j < w->out->n_features; j += TOGETHER)
        KS_TRY(correlate_some(w, j, KS_MIN(TOGETHER, w->out->n_features - j), x,
                              t, err));
done:
    free(x);
    free(t);
    return st;
}

/* ----------------------------------------------------------------- removing */

/* Besides the rows: of a fit, beside z, which is there. */
static size_t bytes(void *user, int threads, bool scratch) {
    const work *w = user;
    const ks_acts_info *info = w->d->info;
    const ks_l2_source x = {.n = w->d->n, .d = info->d, .type = info->dtype};
    return ks_removed_bytes(&x, w->out->n_features, w->folds, &w->options->nest,
                            threads, scratch);
}

static const char WHAT[] = "probes of what is left without surface";

/* Adds the scores of the probes of one layer, of the outer fits that are asked
 * for. */
static ks_status add_layer(work *w, const ks_series *series, int32_t cell,
                           const bool *asked, float *score, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->d;
    const ks_grid_options *o = w->options;
    const ks_analysis_input in = {d, w->grid, w->folds, o};
    ks_nest_options nest = o->nest;
    ks__rows rows = {0};
    KS_TRY(ks__rows_open(&rows, &in, series, series->cells[cell].layer, bytes,
                         w, WHAT, err));
    nest.threads = rows.threads;
    if (!rows.x) nest.scratch = o->room.scratch;
    KS_TRY(ks_removed_fit(&rows.source, w->z, w->out->n_features, d->y,
                          w->folds, asked, &nest, w->one, &w->out->fits,
                          &w->out->unconverged, err));
    for (int64_t i = 0; i < d->n; i++) score[i] += w->one[i];
done:
    ks__rows_close(&rows);
    return st;
}

/* For each outer fold the layer that it chose in its training folds. */
static ks_status add_chosen(work *w, const ks_series *series, float *score,
                            ks_err *err) {
    ks_status st = KS_OK;
    int32_t n_fits = w->folds->n_seeds * w->folds->n_folds;
    bool asked[KS_MAX_SEEDS * KS_L2_MAX_FOLDS];
    for (int32_t c = 0; c < series->n_cells; c++) {
        bool any = false;
        for (int32_t k = 0; k < n_fits; k++)
            any |= asked[k] = series->chosen[k] == c;
        if (any) KS_TRY(add_layer(w, series, c, asked, score, err));
    }
done:
    return st;
}

static ks_status remove_from(work *w, const ks_series *series,
                             ks_removed_layer *out, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = w->d;
    const ks_grid_options *o = w->options;
    int32_t n_fits = w->folds->n_seeds * w->folds->n_folds;
    out->layer = series->cells[ks_series_usual(series, n_fits)].layer;
    KS_TRY(
        ks_alloc(&out->score, (size_t)d->n, sizeof *out->score, "scores", err));
    KS_TRY(add_chosen(w, series, out->score, err));
    ks_scored rows = ks_grid_scored(d, out->score);
    KS_TRY(ks_stats_bootstrap(&rows, o->bootstrap, o->seed, out->metrics, err));
    KS_TRY(ks_stats_balanced(&rows, series->score, o->bootstrap, o->seed, NULL,
                             &out->minus, err));
    if (o->progress) o->progress(o->user, ++w->done);
done:
    return st;
}

static ks_status remove_all(work *w, ks_err *err) {
    ks_status st = KS_OK;
    for (int32_t k = 0; k < w->grid->n_series; k++) {
        const ks_series *series = &w->grid->series[k];
        ks_removed_series *out = &w->out->removed[k];
        KS_TRY(ks_alloc(&out->at, 1, sizeof *out->at, "layers", err));
        out->n_layers = 1;
        KS_TRY(remove_from(w, series, out->at, err));
    }
done:
    return st;
}

/* ---------------------------------------------------------------------- all */

size_t ks_independence_bytes(const ks_dataset *d, const ks_folds *folds,
                             const ks_grid_options *o, int threads,
                             bool scratch) {
    size_t n = (size_t)d->n, z = KS_SURFACE_FEATURES * n * sizeof(float);
    const ks_l2_source x = {.n = d->n, .d = d->info->d, .type = d->info->dtype};
    size_t fit = ks_removed_bytes(&x, KS_SURFACE_FEATURES, folds, &o->nest,
                                  threads, scratch);
    size_t sums =
        (size_t)d->n_groups * TOGETHER * 2 * N_TARGETS * sizeof(double);
    return z + KS_MAX(fit, (TOGETHER + N_TARGETS) * n * sizeof(double) + sums);
}

ks_status ks_independence_run(ks_independence *out, const ks_dataset *d,
                              const ks_grid *grid, const ks_folds *folds,
                              const ks_grid_options *options, ks_err *err) {
    ks_status st = KS_OK;
    work w = {
        .d = d, .grid = grid, .folds = folds, .options = options, .out = out};
    *out = (ks_independence){0};
    if (!d->has_text) return KS_OK;
    out->n_features = ks_surface_n_features(KS_SURFACE_ALL);
    out->n_series = grid->n_series;
    out->of = ks_grid_main(grid);
    KS_TRY(ks_alloc(&w.z, (size_t)(d->n * out->n_features), sizeof *w.z,
                    "features", err));
    KS_TRY(ks_alloc(&out->features, (size_t)out->n_features,
                    sizeof *out->features, "features", err));
    KS_TRY(ks_alloc(&out->removed, (size_t)KS_MAX(out->n_series, 1),
                    sizeof *out->removed, "series", err));
    KS_TRY(ks_alloc(&w.one, (size_t)d->n, sizeof *w.one, "scores", err));
    KS_TRY(ks_surface_features(d, KS_SURFACE_ALL, options->nest.threads, w.z,
                               err));
    KS_TRY(correlate(&w, err));
    KS_TRY(remove_all(&w, err));
done:
    free(w.z);
    free(w.one);
    if (st != KS_OK) ks_independence_free(out);
    return st;
}

void ks_independence_free(ks_independence *out) {
    for (int32_t k = 0; out->removed && k < out->n_series; k++) {
        for (int32_t i = 0; i < out->removed[k].n_layers; i++)
            free(out->removed[k].at[i].score);
        free(out->removed[k].at);
    }
    free(out->removed);
    free(out->features);
    *out = (ks_independence){0};
}
