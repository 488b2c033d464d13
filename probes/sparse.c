/* sparse.c - see sparse.h. */
#include "sparse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "holds.h"
#include "l1.h"
#include "layer.h"

static const double LAST = 1e-2, TOLERANCE = 1e-6;

double ks_sparse_ratio(int32_t point) {
    return pow(LAST, (point + 1.0) / KS_SPARSE_POINTS);
}

/* ------------------------------------------------------------------ one path
 */

typedef struct work {
    ks_l2 *l2;
    const ks_folds *folds;
    const int8_t *y;
    uint32_t outer; /* folds asked for (nest.h) */
    ks_holds holds; /* inner, then outer */
    ks_l1_column *columns;
    float *margin; /* [holds, KS_SPARSE_POINTS, n] */
    int64_t d;
    double *weight; /* [folds, KS_SPARSE_POINTS, d + 1] of the outer fits */
    int32_t max_passes;
    double tolerance;
    ks_sparse_path *out;
} work;

/* Adds a fold's rows of one column's margins, as one of n_seeds. */
static void add_rows(const work *w, int32_t seed, int32_t k, int32_t column,
                     float *score) {
    const ks_folds *f = w->folds;
    const uint8_t *fold = f->fold + seed * f->n;
    for (int64_t i = 0; i < f->n; i++)
        if (fold[i] == k)
            score[i] += w->margin[column * f->n + i] / (float)f->n_seeds;
}

static ks_status choose(work *w, int32_t seed, int32_t k, ks_err *err) {
    const ks_folds *f = w->folds;
    ks_sparse_path *out = w->out;
    int32_t fit = seed * f->n_folds + k, outer = ks__hold(&w->holds, 1u << k);
    double least = INFINITY;
    for (int32_t p = 0; p < KS_SPARSE_POINTS; p++) {
        int32_t column = outer * KS_SPARSE_POINTS + p;
        double loss = ks__holds_loss(&w->holds, f, seed, k, w->margin,
                                     KS_SPARSE_POINTS, p, w->y);
        double share = 1.0 / (f->n_seeds * f->n_folds);
        if (loss < least) {
            least = loss;
            out->point[fit] = p;
        }
        out->dimensions[p] += share * w->columns[column].dimensions;
        out->lambda[p] += share * w->columns[column].lambda;
        add_rows(w, seed, k, column, out->of + p * f->n);
    }
    if (!isfinite(least))
        return ks_fail(err, KS_NUMERIC,
                       "seed %d fold %d: no strength has a finite loss", seed,
                       k);
    int32_t chosen = outer * KS_SPARSE_POINTS + out->point[fit];
    const double *weight = w->columns[chosen].weight;
    add_rows(w, seed, k, chosen, out->score);
    for (int64_t j = 0; j < w->d; j++)
        out->weight[fit * w->d + j] = (float)weight[j];
    out->bias[fit] = (float)weight[w->d];
    return KS_OK;
}

static ks_status run_seed(work *w, int32_t seed, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = w->folds;
    int32_t n = w->holds.n * KS_SPARSE_POINTS;
    int32_t outer = (w->holds.n - ks__holds_n_asked(w->outer, f->n_folds)) *
                    KS_SPARSE_POINTS;
    for (int32_t i = 0; i < n; i++)
        w->columns[i] = (ks_l1_column){
            .design = seed,
            .hold = w->holds.set[i / KS_SPARSE_POINTS],
            .ratio = ks_sparse_ratio(i % KS_SPARSE_POINTS),
            .weight = i < outer ? NULL : w->weight + (i - outer) * (w->d + 1),
            .margin = w->margin + i * f->n};
    KS_TRY(ks_l1_fit(w->l2, w->columns, n, w->tolerance, w->max_passes, err));
    w->out->fits += n;
    for (int32_t i = 0; i < n; i++)
        w->out->unconverged += !w->columns[i].converged;
    for (int32_t k = 0; k < f->n_folds; k++)
        if (ks__holds_asked(w->outer, k)) KS_TRY(choose(w, seed, k, err));
done:
    return st;
}

static ks_status alloc_path(ks_sparse_path *out, const ks_folds *f, int64_t d,
                            ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)f->n, fits = (size_t)f->n_seeds * (size_t)f->n_folds;
    KS_TRY(ks_alloc(&out->weight, fits * (size_t)d, sizeof(float), "weights",
                    err));
    KS_TRY(ks_alloc(&out->bias, fits, sizeof(float), "weights", err));
    KS_TRY(ks_alloc(&out->score, n, sizeof(float), "scores", err));
    KS_TRY(
        ks_alloc(&out->of, n * KS_SPARSE_POINTS, sizeof(float), "scores", err));
    KS_TRY(ks_alloc(&out->point, fits, sizeof(int32_t), "fits", err));
done:
    return st;
}

static ks_status alloc_all(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = w->folds;
    size_t n = (size_t)f->n, columns = (size_t)w->holds.n * KS_SPARSE_POINTS;
    size_t d = (size_t)w->d;
    KS_TRY(ks_alloc(&w->columns, columns, sizeof *w->columns, "columns", err));
    KS_TRY(
        ks_alloc(&w->margin, columns * n, sizeof *w->margin, "margins", err));
    KS_TRY(ks_alloc(&w->weight, (size_t)f->n_folds * KS_SPARSE_POINTS * (d + 1),
                    sizeof *w->weight, "weights", err));
    KS_TRY(alloc_path(w->out, f, w->d, err));
done:
    return st;
}

ks_status ks_sparse_fit(ks_sparse_path *out, const ks_l2_source *source,
                        const int8_t *y, const ks_folds *folds,
                        const ks_nest_options *o, ks_err *err) {
    ks_status st = KS_OK;
    ks_l2_design designs[KS_MAX_SEEDS];
    work w = {.folds = folds,
              .y = y,
              .d = source->d,
              .outer = o->outer,
              .max_passes = o->max_passes ? o->max_passes : KS_DEFAULT_PASSES,
              .tolerance = o->tolerance > 0 ? o->tolerance : TOLERANCE,
              .out = out};
    const ks_l2_place place = {.ops = o->ops,
                               .dev = o->dev,
                               .threads = o->threads,
                               .scratch = o->scratch};
    *out = (ks_sparse_path){0};
    ks__holds_fill(&w.holds, folds, o->outer, true);
    for (int32_t s = 0; s < folds->n_seeds; s++)
        designs[s] = (ks_l2_design){y, folds->fold + s * folds->n};
    KS_TRY(alloc_all(&w, err));
    KS_TRY(
        ks_l2_open_from(&w.l2, source, &place, designs, folds->n_seeds, err));
    for (int32_t s = 0; s < folds->n_seeds; s++) KS_TRY(run_seed(&w, s, err));
done:
    ks_l2_close(&w.l2);
    free(w.columns);
    free(w.margin);
    free(w.weight);
    if (st != KS_OK) ks_sparse_path_free(out);
    return st;
}

size_t ks_sparse_bytes(const ks_l2_source *source, const ks_folds *folds,
                       int threads, bool scratch) {
    ks_holds holds;
    ks__holds_fill(&holds, folds, 0, true);
    size_t columns = (size_t)holds.n * KS_SPARSE_POINTS, d = (size_t)source->d;
    const ks_l2_shape shape = {.n = folds->n,
                               .d = source->d,
                               .type = source->type,
                               .n_designs = folds->n_seeds,
                               .n_folds = folds->n_folds,
                               .n_columns = (int32_t)columns + 1,
                               .n_splits = holds.n + 1};
    size_t n = (size_t)folds->n, outer = (size_t)folds->n_folds;
    return ks_l2_bytes(&shape, threads, scratch) +
           ks_l1_bytes(source->d, holds.n, threads) +
           columns * (n * sizeof(float) + sizeof(ks_l1_column)) +
           outer * KS_SPARSE_POINTS * (d + 1) * sizeof(double) +
           KS_SPARSE_POINTS * n * sizeof(float) + ks_sparse_kept(source, folds);
}

size_t ks_sparse_kept(const ks_l2_source *source, const ks_folds *folds) {
    size_t fits = (size_t)folds->n_seeds * (size_t)folds->n_folds;
    return (fits * ((size_t)source->d + 1) + 2 * (size_t)folds->n) *
           sizeof(float);
}

void ks_sparse_path_free(ks_sparse_path *path) {
    free(path->score);
    free(path->point);
    free(path->of);
    free(path->weight);
    free(path->bias);
    *path = (ks_sparse_path){0};
}

/* ------------------------------------------------------------------ a series
 */

ks_status ks__sparse_measure(ks_sparse *out, const ks_analysis_input *in,
                             const ks_sparse_path *path, ks_err *err) {
    ks_status st = KS_OK;
    const ks_grid_options *o = in->options;
    ks_scored rows = ks_grid_scored(in->dataset, path->score);
    KS_TRY(ks_stats_balanced(&rows, NULL, o->bootstrap, o->seed, &out->accuracy,
                             NULL, err));
    out->needed = NAN;
    for (int32_t p = 0; p < KS_SPARSE_POINTS; p++) {
        ks_sparse_point *point = &out->points[p];
        const float *of = path->of + p * in->dataset->n;
        point->lambda = path->lambda[p];
        point->dimensions = path->dimensions[p];
        KS_TRY(ks_stats_balanced(&rows, of, o->bootstrap, o->seed, NULL,
                                 &point->chosen_minus_this, err));
        rows.score = of;
        KS_TRY(ks_stats_balanced(&rows, NULL, o->bootstrap, o->seed,
                                 &point->accuracy, NULL, err));
        rows.score = path->score;
        if (point->chosen_minus_this.low <= 0 &&
            !(point->dimensions >= out->needed))
            out->needed = point->dimensions;
    }
done:
    return st;
}

typedef struct needs {
    const ks_l2_source *source;
    const ks_folds *folds;
} needs;

static size_t bytes(void *user, int threads, bool scratch) {
    const needs *u = user;
    return ks_sparse_bytes(u->source, u->folds, threads, scratch);
}

/* Adds one seed's path of the folds in `outer`. */
static void add_path(ks_sparse_path *all, const ks_sparse_path *one,
                     const ks_folds *f, int32_t seed, uint32_t outer,
                     int64_t d) {
    for (int64_t i = 0; i < f->n; i++)
        all->score[i] += one->score[i] / (float)f->n_seeds;
    for (int64_t i = 0; i < KS_SPARSE_POINTS * f->n; i++)
        all->of[i] += one->of[i] / (float)f->n_seeds;
    for (int32_t p = 0; p < KS_SPARSE_POINTS; p++) {
        all->dimensions[p] += one->dimensions[p] / f->n_seeds;
        all->lambda[p] += one->lambda[p] / f->n_seeds;
    }
    for (int32_t k = 0; k < f->n_folds; k++) {
        int32_t fit = seed * f->n_folds + k;
        if (!ks__holds_asked(outer, k)) continue;
        all->point[fit] = one->point[k];
        all->bias[fit] = one->bias[k];
        memcpy(all->weight + fit * d, one->weight + k * d,
               (size_t)d * sizeof *one->weight);
    }
    all->fits += one->fits;
    all->unconverged += one->unconverged;
}

/* The folds of one seed that chose the layer `cell`. */
static ks_status run_layer(ks_sparse_path *all, const ks_analysis_input *in,
                           const ks_series *series, int32_t cell, int32_t seed,
                           uint32_t outer, ks_err *err) {
    ks_status st = KS_OK;
    ks_folds one = *in->folds;
    ks_nest_options options = in->options->nest;
    ks_sparse_path path = {0};
    ks_err own = {0};
    ks_layer layer = {.dataset = in->dataset,
                      .file = in->dataset->acts,
                      .place = in->dataset->row,
                      .stream = series->stream,
                      .position = series->position,
                      .layer = series->cells[cell].layer};
    const ks_l2_source source = ks_layer_source(&layer);
    needs user = {&source, &one};
    one.n_seeds = 1;
    one.fold += seed * one.n;
    options.outer = outer;
    KS_TRY(ks_room_fit(&in->options->room, bytes, &user, "sparse probes",
                       &options, err));
    st = ks_sparse_fit(&path, &source, in->dataset->y, &one, &options, &own);
    KS_CHECK(st == KS_OK, st, "%s/%s layer %d, L1: %s",
             ks_stream_name(series->stream), ks_position_name(series->position),
             layer.layer, own.text);
    add_path(all, &path, in->folds, seed, outer, source.d);
done:
    ks_sparse_path_free(&path);
    return st;
}

ks_status ks_sparse_run(ks_sparse *out, ks_others *others,
                        const ks_analysis_input *in, const ks_series *series,
                        int32_t *fits, int32_t *unconverged, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = in->folds;
    int32_t n_fits = f->n_seeds * f->n_folds;
    ks_sparse_path path = {0};
    ks_other other = {.probe = "L1",
                      .note = "L1-regularised logistic regression; layer (that "
                              "of the best row) and strength chosen in the "
                              "training folds",
                      .stream = series->stream,
                      .position = series->position,
                      .layer = -1};
    out->layer = series->cells[ks_series_usual(series, n_fits)].layer;
    KS_TRY(alloc_path(&path, f, in->grid->d, err));
    KS_TRY(ks_alloc(&out->layers, (size_t)n_fits, sizeof *out->layers, "layers",
                    err));
    for (int32_t k = 0; k < n_fits; k++)
        out->layers[k] = series->cells[series->chosen[k]].layer;
    for (int32_t s = 0; s < f->n_seeds; s++)
        for (int32_t c = 0; c < series->n_cells; c++) {
            uint32_t outer = ks__holds_choosing(series->chosen + s * f->n_folds,
                                                f->n_folds, c);
            if (outer) KS_TRY(run_layer(&path, in, series, c, s, outer, err));
        }
    *fits += path.fits;
    *unconverged += path.unconverged;
    KS_TRY(ks__sparse_measure(out, in, &path, err));
    other.score = path.score;
    out->weight = path.weight;
    out->bias = path.bias;
    path.score = path.weight = path.bias = NULL;
    KS_TRY(
        ks_others_add(others, &other, in->dataset, in->grid, in->options, err));
done:
    ks_sparse_path_free(&path);
    return st;
}

void ks_sparse_free(ks_sparse *sparse) {
    free(sparse->layers);
    free(sparse->weight);
    free(sparse->bias);
    *sparse = (ks_sparse){0};
}
