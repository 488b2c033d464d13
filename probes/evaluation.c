/* evaluation.c - see evaluation.h. */
#include "evaluation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "evaluation_open.h"
#include "layer.h"
#include "significance.h"

static const char CELLS[] = "layer x position";

/* ------------------------------------------------------------------- rivals */

static ks_status compare(const ks_evaluation *r, const ks_series *best,
                         const float *other, ks_gain *gain, ks_err *err) {
    ks_scored rows = ks_grid_scored(r->dataset, best->score);
    ks_status st = KS_OK;
    KS_TRY(ks_stats_balanced(&rows, other, r->options->grid.bootstrap,
                             r->options->grid.seed, NULL, &gain->points, err));
    KS_TRY(ks_p_paired(&rows, other, KS_CROSS_VALIDATED, r->options->grid.seed,
                       &gain->p, err));
done:
    return st;
}

static ks_status run_rival(ks_evaluation *r, ks_rival *rival,
                           const ks_grid_options *options, ks_err *err) {
    ks_status st = KS_OK;
    ks_grid_options mine = *options;
    mine.nest.keep_weights = mine.nest.keep_inner = false;
    if (r->options->begin)
        r->options->begin(mine.user, rival->name, CELLS,
                          ks_grid_cells(rival->file, &mine));
    st = ks_grid_run(&rival->grid, r->dataset, rival->file, rival->path,
                     rival->place, &r->folds, &mine, err);
    if (r->options->end) r->options->end(mine.user);
    KS_TRY(st);
    r->other_fits += rival->grid.columns;
    r->other_unconverged += rival->grid.unconverged;
    KS_TRY(ks_alloc(&rival->gain, (size_t)r->grid.n_series, sizeof *rival->gain,
                    "comparison", err));
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_series *best = &r->grid.series[k];
        const ks_series *other =
            ks_grid_find(&rival->grid, best->stream, best->position);
        rival->gain[k] = (ks_gain){{NAN, NAN, NAN}, NAN, NAN};
        if (other) KS_TRY(compare(r, best, other->score, &rival->gain[k], err));
    }
done:
    return st;
}

static ks_status run_rivals(ks_evaluation *r, const ks_grid_options *options,
                            ks_err *err) {
    ks_status st = KS_OK;
    for (int32_t i = 0; i < r->n_rivals; i++)
        KS_TRY(run_rival(r, &r->rivals[i], options, err));
done:
    return st;
}

/* ---------------------------------------------------------------- baselines */

static ks_status run_baselines(ks_evaluation *r, ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation_options *o = r->options;
    ks_baseline_options options = {.nest = o->grid.nest,
                                   .room = r->after.room,
                                   .bootstrap = o->grid.bootstrap,
                                   .seed = o->grid.seed,
                                   .words = !o->no_text,
                                   .n_scores = o->n_scores,
                                   .scores = o->scores};
    int32_t n_series = r->grid.n_series;
    options.nest.keep_weights = false;
    options.progress = o->grid.progress;
    options.user = o->grid.user;
    if (o->begin)
        o->begin(o->grid.user, "baselines", "baseline",
                 ks_baselines_count(r->dataset, &options));
    st = ks_baselines_run(&r->baselines, r->dataset, &r->folds, &options, err);
    if (o->end) o->end(o->grid.user);
    KS_TRY(st);
    r->other_fits += r->baselines.fits;
    r->other_unconverged += r->baselines.unconverged;
    KS_TRY(ks_alloc(&r->gain, (size_t)(r->baselines.n * n_series),
                    sizeof *r->gain, "comparison", err));
    for (int32_t b = 0; b < r->baselines.n; b++)
        for (int32_t k = 0; k < n_series; k++)
            KS_TRY(compare(r, &r->grid.series[k], r->baselines.at[b].score,
                           &r->gain[b * n_series + k], err));
done:
    return st;
}

/* Holm over all that a series was compared with. */
static ks_status adjust(ks_evaluation *r, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = r->baselines.n + r->n_rivals, n_series = r->grid.n_series;
    double *p = NULL;
    KS_TRY(ks_alloc(&p, (size_t)n, sizeof *p, "p values", err));
    for (int32_t k = 0; k < n_series; k++) {
        for (int32_t i = 0; i < n; i++) p[i] = ks__evaluation_gain(r, i, k)->p;
        KS_TRY(ks_p_holm(p, n, p, err));
        for (int32_t i = 0; i < n; i++)
            ks__evaluation_gain(r, i, k)->p_holm = p[i];
    }
done:
    free(p);
    return st;
}

ks_gain *ks__evaluation_gain(const ks_evaluation *r, int32_t i, int32_t k) {
    return i < r->baselines.n ? &r->gain[i * r->grid.n_series + k]
                              : &r->rivals[i - r->baselines.n].gain[k];
}

static ks_analysis_input analysis_input(const ks_evaluation *r) {
    return (ks_analysis_input){r->dataset, &r->grid, &r->folds, &r->after};
}

/* The permuted control on every position's usual layer. */
static ks_status run_permuted(ks_evaluation *r, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = r->dataset;
    const ks_grid_options *o = &r->after;
    KS_TRY(ks_alloc(&r->permuted, (size_t)r->grid.n_series * KS_N_METRICS,
                    sizeof *r->permuted, "control", err));
    if (r->options->begin)
        r->options->begin(o->user, "permuted labels", "position",
                          r->grid.n_series);
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_series *series = &r->grid.series[k];
        const ks_cell *usual = &series->cells[ks_series_usual(
            series, r->folds.n_seeds * r->folds.n_folds)];
        ks_layer layer = {.dataset = d,
                          .file = d->acts,
                          .place = d->row,
                          .stream = series->stream,
                          .position = series->position,
                          .layer = usual->layer};
        ks_l2_source source = ks_layer_source(&layer);
        KS_TRY(ks_permuted_run(&source, d, &r->folds, usual->nest.strength,
                               &o->nest, &o->room, o->seed,
                               r->permuted + k * KS_N_METRICS,
                               &r->other_unconverged, err));
        r->other_fits += KS_PERMUTATIONS * r->folds.n_folds;
        if (o->progress) o->progress(o->user, k + 1);
    }
done:
    if (r->options->end) r->options->end(o->user);
    return st;
}

/* ------------------------------------------------------------- independence */

static ks_status run_independence(ks_evaluation *r, ks_err *err) {
    ks_status st = KS_OK;
    const ks_grid_options *o = &r->after;
    if (!r->dataset->has_text || !(r->options->analyses >> KS_SURFACE & 1))
        return KS_OK;
    if (r->options->begin)
        r->options->begin(o->user, "surface taken out", "layer",
                          r->grid.n_series);
    st = ks_independence_run(&r->independence, r->dataset, &r->grid, &r->folds,
                             o, err);
    if (r->options->end) r->options->end(o->user);
    KS_TRY(st);
    r->other_fits += r->independence.fits;
    r->other_unconverged += r->independence.unconverged;
done:
    return st;
}

/* ----------------------------------------------------------------- analyses */

static ks_status run_analyses(ks_evaluation *r, ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation_options *o = r->options;
    const ks_analysis_input in = analysis_input(r);
    if (!o->analyses) return KS_OK;
    if (o->begin)
        o->begin(o->grid.user, "analyses", "position", r->grid.n_series);
    st = ks_analyses_run(&r->analyses, &in, o->analyses, err);
    if (o->end) o->end(o->grid.user);
    KS_TRY(st);
    r->other_fits += r->analyses.fits;
    r->other_unconverged += r->analyses.unconverged;
done:
    return st;
}

/* -------------------------------------------------------------- other kinds */

static ks_status run_kinds(ks_evaluation *r, const ks_grid_options *grid,
                           ks_err *err) {
    const ks_evaluation_options *o = r->options;
    if (!o->kinds.n_recipes) return KS_OK;
    if (o->begin)
        o->begin(o->grid.user, "trained probes", "fit",
                 ks_kinds_fits(&r->grid, &r->folds, &o->kinds));
    ks_status st = ks_kinds_run(&r->kinds, &r->others, r->dataset, &r->grid,
                                &r->folds, &o->kinds, grid, err);
    if (o->end) o->end(o->grid.user);
    return st;
}

/* ------------------------------------------------------- text, as published */

/* Other activations that are one vector a step are sentence embeddings. */
static ks_status run_published_texts(ks_evaluation *r,
                                     const ks_grid_options *grid, ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation_options *o = r->options;
    ks_published_vectors *vectors = NULL;
    int32_t n = 0;
    if (!o->kinds.published) return KS_OK;
    KS_TRY(ks_alloc(&vectors, (size_t)KS_MAX(r->n_rivals, 1), sizeof *vectors,
                    "vectors", err));
    for (int32_t i = 0; i < r->n_rivals; i++) {
        const ks_rival *rival = &r->rivals[i];
        const ks_series *s = rival->grid.series;
        if (rival->grid.n_series == 1 && s->n_cells == 1)
            vectors[n++] = (ks_published_vectors){
                rival->name, rival->file, rival->place,
                s->stream,   s->position, s->cells[0].layer};
    }
    if (o->begin) o->begin(o->grid.user, "text as published", "reader", n + 1);
    st = ks_published_texts_run(&r->published_texts, r->dataset, !o->no_text,
                                vectors, n, grid, err);
    if (o->end) o->end(o->grid.user);
done:
    free(vectors);
    return st;
}

/* ------------------------------------------------------------------ refined */

static ks_status run_refined(ks_evaluation *r, ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation_options *o = r->options;
    const ks_analysis_input in = analysis_input(r);
    int64_t layers = ks_refined_layers(&r->grid, &o->refined);
    if (!layers) return KS_OK;
    if (o->begin) o->begin(o->grid.user, "refined probes", "layer", layers);
    st = ks_refined_run(&r->refined, &r->others, &in, &o->refined, err);
    if (o->end) o->end(o->grid.user);
    KS_TRY(st);
    r->other_fits += r->refined.fits;
    r->other_unconverged += r->refined.unconverged;
done:
    return st;
}

/* ------------------------------------------------------------------- strata */

/* Important rows of one stratum with all removable rows, numbered anew. */
typedef struct part {
    ks_scored rows;
    int64_t *from; /* row of the data set */
    float *score;
    int8_t *y;
    int32_t *group, *chain;
} part;

static void free_part(part *p) {
    free(p->from);
    free(p->score);
    free(p->y);
    free(p->group);
    free(p->chain);
}

static ks_status take_part(part *p, const ks_dataset *d, int32_t stratum,
                           ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)d->n;
    int32_t last_chain = -1;
    int32_t *number = NULL; /* of a problem */
    KS_TRY(ks_alloc(&p->from, n, sizeof *p->from, "stratum", err));
    KS_TRY(ks_alloc(&p->score, n, sizeof *p->score, "stratum", err));
    KS_TRY(ks_alloc(&p->y, n, sizeof *p->y, "stratum", err));
    KS_TRY(ks_alloc(&p->group, n, sizeof *p->group, "stratum", err));
    KS_TRY(ks_alloc(&p->chain, n, sizeof *p->chain, "stratum", err));
    KS_TRY(
        ks_alloc(&number, (size_t)d->n_groups, sizeof *number, "stratum", err));
    p->rows = (ks_scored){
        .score = p->score, .y = p->y, .group = p->group, .chain = p->chain};
    for (int64_t i = 0; i < d->n; i++) {
        if (d->y[i] == 1 && d->stratum[i] != stratum) continue;
        int64_t k = p->rows.n++;
        p->from[k] = i;
        p->y[k] = d->y[i];
        if (!number[d->group[i]]) number[d->group[i]] = ++p->rows.n_groups;
        p->group[k] = number[d->group[i]] - 1;
        if (d->chain[i] != last_chain) p->rows.n_chains++;
        last_chain = d->chain[i];
        p->chain[k] = p->rows.n_chains - 1;
    }
done:
    free(number);
    return st;
}

static ks_status run_stratum(ks_evaluation *r, int32_t stratum, ks_err *err) {
    ks_status st = KS_OK;
    const ks_grid_options *o = &r->options->grid;
    ks_stratum_row *row = &r->strata[stratum];
    part p = {0};
    KS_TRY(take_part(&p, r->dataset, stratum, err));
    for (int64_t i = 0; i < p.rows.n; i++)
        *(p.y[i] ? &row->n_important : &row->n_removable) += 1;
    KS_TRY(ks_alloc(&row->metrics, (size_t)r->grid.n_series * KS_N_METRICS,
                    sizeof *row->metrics, "stratum", err));
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        for (int64_t i = 0; i < p.rows.n; i++)
            p.score[i] = r->grid.series[k].score[p.from[i]];
        KS_TRY(ks_stats_bootstrap(&p.rows, o->bootstrap, o->seed,
                                  row->metrics + k * KS_N_METRICS, err));
    }
done:
    free_part(&p);
    return st;
}

static ks_status run_strata(ks_evaluation *r, ks_err *err) {
    ks_status st = KS_OK;
    if (!r->dataset->n_strata) return KS_OK;
    KS_TRY(ks_alloc(&r->strata, (size_t)r->dataset->n_strata, sizeof *r->strata,
                    "strata", err));
    for (int32_t s = 0; s < r->dataset->n_strata; s++)
        KS_TRY(run_stratum(r, s, err));
done:
    return st;
}

/* ------------------------------------------------------------------- cells */

static ks_status share_grid(const ks_evaluation *r, const ks_acts_file *file,
                            const char *name, const char *path,
                            const int64_t *place, ks_grid *outline,
                            const ks_grid_options *grid, ks_err *err) {
    ks_status st = ks_grid_outline(outline, file, grid, err);
    if (st != KS_OK) return st;
    if (r->options->begin)
        r->options->begin(grid->user, name, CELLS, ks_grid_cells(file, grid));
    st = ks_grid_share(outline, r->dataset, file, path, place, &r->folds, grid,
                       err);
    if (r->options->end) r->options->end(grid->user);
    return st;
}

ks_status ks_evaluate_share(const ks_evaluation_options *options, ks_err *err) {
    ks_status st = KS_OK;
    ks_evaluation r = {.options = options};
    ks_grid_options grid = options->grid;
    KS_TRY(ks__evaluation_open(&r, &grid, true, err));
    KS_TRY(ks__evaluation_open_cells(&r, &grid, err));
    KS_CHECK(grid.store, KS_USAGE, "a share of cells needs a folder of cells");
    KS_TRY(share_grid(&r, r.dataset->acts, "probe", options->paths.acts,
                      r.dataset->row, &r.grid, &grid, err));
    for (int32_t i = 0; i < r.n_rivals; i++)
        KS_TRY(share_grid(&r, r.rivals[i].file, r.rivals[i].name,
                          r.rivals[i].path, r.rivals[i].place,
                          &r.rivals[i].grid, &grid, err));
    KS_TRY(run_kinds(&r, &grid, err));
done:
    ks__evaluation_close_cells(&grid, options->counts);
    ks_evaluation_free(&r);
    return st;
}

/* -------------------------------------------------------------------- whole */

ks_status ks_evaluate(ks_evaluation *out, const ks_evaluation_options *options,
                      ks_err *err) {
    ks_status st = KS_OK;
    ks_evaluation *r = out;
    ks_grid_options grid = options->grid;
    *r = (ks_evaluation){.options = options, .after = options->grid};
    KS_TRY(ks__evaluation_open(r, &grid, false, err));
    KS_TRY(ks__evaluation_open_cells(r, &grid, err));
    if (options->begin)
        options->begin(grid.user, "probe", CELLS,
                       ks_grid_cells(r->dataset->acts, &grid));
    st =
        ks_grid_run(&r->grid, r->dataset, r->dataset->acts, options->paths.acts,
                    r->dataset->row, &r->folds, &grid, err);
    if (options->end) options->end(grid.user);
    KS_TRY(st);
    grid.room.tested = r->after.room.tested = true;
    KS_TRY(run_strata(r, err));
    KS_TRY(run_permuted(r, err));
    KS_TRY(run_analyses(r, err));
    KS_TRY(run_baselines(r, err));
    KS_TRY(run_independence(r, err));
    KS_TRY(run_rivals(r, &grid, err));
    KS_TRY(run_kinds(r, &grid, err));
    KS_TRY(run_published_texts(r, &grid, err));
    KS_TRY(run_refined(r, err));
    KS_TRY(adjust(r, err));
    ks_claims_of(&r->claims, r);
done:
    ks__evaluation_close_cells(&grid, options->counts);
    if (st != KS_OK) ks_evaluation_free(r);
    return st;
}

const char *ks_evaluation_name(const ks_evaluation_options *o) {
    const char *path = o->paths.labels ? o->paths.labels : o->paths.acts;
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

void ks_evaluation_free(ks_evaluation *r) {
    for (int32_t i = 0; i < r->n_rivals; i++) {
        ks_grid_free(&r->rivals[i].grid);
        ks_acts_close(&r->rivals[i].file);
        free(r->rivals[i].place);
        free(r->rivals[i].gain);
    }
    free(r->rivals);
    for (int32_t s = 0; r->strata && s < r->dataset->n_strata; s++)
        free(r->strata[s].metrics);
    free(r->strata);
    ks_baselines_free(&r->baselines);
    ks_analyses_free(&r->analyses);
    ks_kinds_free(&r->kinds);
    ks_published_texts_free(&r->published_texts);
    ks_refined_free(&r->refined);
    ks_others_free(&r->others);
    ks_independence_free(&r->independence);
    free(r->gain);
    free(r->permuted);
    ks_grid_free(&r->grid);
    free(r->layers);
    free(r->fold);
    ks_dataset_close(&r->dataset);
    *r = (ks_evaluation){0};
}
