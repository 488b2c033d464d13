/* evaluation_cost.c - see evaluation_cost.h. */
#include "evaluation_cost.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "evaluation_open.h"
#include "evaluation_room.h"

typedef struct work {
    const ks_evaluation *r;
    const ks_grid_options *grid;
    bool share;
    double turns; /* of layers side by side, in those of the grid's width */
    ks_evaluation_cost *out;
} work;

/* ------------------------------------------------------------------- counts */

/* Of a grid, the main one or a rival's: what is left to fit. */
static ks_status add_left(work *w, const ks_acts_file *file,
                          const int64_t *place, ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation *r = w->r;
    const ks_acts_info *info = ks_acts_get_info(file);
    ks_grid outline = {0};
    int lanes;
    double width = (double)info->d / r->dataset->info->d;
    ks_grid_takes(file, &r->folds, w->grid, &lanes);
    KS_TRY(ks_grid_outline(&outline, file, w->grid, err));
    for (int32_t k = 0; k < outline.n_series; k++) {
        int32_t left;
        KS_TRY(ks_grid_left(&outline, k, r->dataset, file, place, &r->folds,
                            w->grid, &left, err));
        w->out->left += left;
        w->out->read_bytes += (uint64_t)left * (uint64_t)r->dataset->n *
                              (uint64_t)ks_type_row_bytes(info->dtype, info->d);
        int32_t turns = (left + lanes - 1) / lanes;
        w->turns += width * turns;
    }
done:
    ks_grid_free(&outline);
    return st;
}

static ks_status count_grids(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation *r = w->r;
    ks_evaluation_cost *out = w->out;
    ks_grid_shape shapes[KS_N_STREAMS * KS_N_POSITIONS];
    int32_t columns = ks_nest_columns(&r->folds, &w->grid->nest);
    out->series = ks_grid_shapes(r->dataset->acts, w->grid, shapes);
    for (int32_t k = 0; k < out->series; k++)
        out->most_layers = KS_MAX(out->most_layers, shapes[k].n_cells);
    out->cells = ks_grid_cells(r->dataset->acts, w->grid);
    out->fits = out->cells * columns;
    out->n_rivals = r->n_rivals;
    KS_TRY(add_left(w, r->dataset->acts, r->dataset->row, err));
    for (int32_t i = 0; i < r->n_rivals; i++) {
        const ks_rival *rival = &r->rivals[i];
        out->rival_cells += ks_grid_cells(rival->file, w->grid);
        KS_TRY(add_left(w, rival->file, rival->place, err));
    }
    out->rival_fits = out->rival_cells * columns;
done:
    return st;
}

/* Of a series. A share of cells has none. */
static int64_t fits_behind(const work *w) {
    const ks_evaluation *r = w->r;
    const ks_nest_options *nest = &w->grid->nest;
    uint32_t which = r->options->analyses;
    bool text = r->dataset->has_text;
    ks_folds f = r->folds;
    int64_t n = (int64_t)KS_PERMUTATIONS * f.n_folds;
    if (w->share) return 0;
    if (text && which >> KS_SELECTIVITY & 1) n += ks_nest_columns(&f, nest);
    if (text && which >> KS_SURFACE & 1)
        n += (int64_t)f.n_seeds * f.n_folds *
             (f.n_inner * nest->n_strengths + 1);
    f.n_seeds = KS_CURVE_DRAWS;
    if (which >> KS_LEARNING_CURVE & 1 && 2 * f.n_folds <= KS_L2_MAX_FOLDS)
        n += (KS_CURVE_POINTS - 1) * ks_nest_columns(&f, nest);
    return n;
}

static void count_others(work *w, const ks_grid *outline) {
    const ks_evaluation *r = w->r;
    const ks_evaluation_options *o = r->options;
    const ks_baseline_options baselines = {
        .words = !o->no_text, .n_scores = o->n_scores, .scores = o->scores};
    if (o->kinds.n_recipes)
        w->out->kind_fits = ks_kinds_fits(outline, &r->folds, &o->kinds);
    if (w->share) return;
    w->out->later_fits = w->out->series * fits_behind(w);
    w->out->refined_layers = ks_refined_layers(outline, &o->refined);
    w->out->baselines = ks_baselines_count(r->dataset, &baselines);
}

static void leave_out(ks_evaluation_cost *out, bool there, const char *what) {
    size_t n = strlen(out->without);
    if (there)
        snprintf(out->without + n, sizeof out->without - n, "%s%s",
                 n ? ", " : "", what);
}

/* What is no fit of the grid's kind. */
static void name_without(work *w) {
    const ks_evaluation_options *o = w->r->options;
    leave_out(w->out, !w->share, "baselines");
    for (int i = KS_LAYER_TRANSFER; i <= KS_LAYERS_NEEDED; i++)
        leave_out(w->out, !w->share && o->analyses >> i & 1,
                  ks_analysis_name((ks_analysis)i));
    leave_out(w->out, w->out->kind_fits > 0, "trained probes");
    leave_out(w->out, !w->share && o->kinds.published, "text as published");
    leave_out(w->out, w->out->refined_layers > 0, "refined probes");
}

/* --------------------------------------------------------------------- time */

/* The least time of the grid's own run. A short one is repeated, for the first
 * also wakes threads and touches memory. */
static ks_status time_grid(const ks_evaluation *r, const ks_grid_options *o,
                           double *least, ks_err *err) {
    static const double LONG = 0.5; /* seconds of all */
    ks_status st = KS_OK;
    double begin = ks_seconds(), start = begin, now;
    *least = INFINITY;
    do {
        ks_grid fitted = {0};
        KS_TRY(ks_grid_run(&fitted, r->dataset, r->dataset->acts,
                           r->options->paths.acts, r->dataset->row, &r->folds,
                           o, err));
        ks_grid_free(&fitted);
        now = ks_seconds();
        *least = KS_MIN(*least, now - start);
        start = now;
    } while (now - begin < LONG);
done:
    return st;
}

/* As many layers of the first series, from its middle, as are worked on side by
 * side. */
static ks_status measure(work *w, const ks_grid *outline, ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation *r = w->r;
    const ks_series *s = outline->series;
    ks_grid_options few = *w->grid;
    bool *layers = NULL;
    int lanes;
    if (!w->out->left && !w->out->later_fits) return KS_OK;
    ks_grid_takes(r->dataset->acts, &r->folds, w->grid, &lanes);
    KS_TRY(ks_alloc(&layers, (size_t)r->dataset->info->n_layers + 1,
                    sizeof *layers, "layers", err));
    int32_t n = KS_MIN(lanes, s->n_cells), first = (s->n_cells - n) / 2;
    for (int32_t i = 0; i < n; i++) layers[s->cells[first + i].layer] = true;
    few.layers = layers;
    few.streams = 1u << s->stream;
    few.positions = 1u << s->position;
    few.store = NULL;
    few.progress = NULL;
    KS_TRY(time_grid(r, &few, &w->out->measured_seconds, err));
    w->out->measured = n;
    double fits = (double)n * ks_nest_columns(&r->folds, &w->grid->nest);
    w->out->seconds = w->out->measured_seconds *
                      (w->turns + (double)w->out->later_fits / fits);
done:
    free(layers);
    return st;
}

/* ---------------------------------------------------------------------- all */

static ks_status fill(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation *r = w->r;
    const ks_dataset *d = r->dataset;
    ks_evaluation_needs needs;
    ks_grid outline = {0};
    ks_evaluation_cost *out = w->out;
    out->rows = d->n;
    out->unlabelled = d->n_unlabelled;
    out->invalid = d->n_invalid;
    out->chains = d->n_chains;
    out->problems = d->n_groups;
    KS_TRY(ks_grid_outline(&outline, d->acts, w->grid, err));
    KS_CHECK(outline.n_series > 0, KS_USAGE,
             "%s holds none of the streams, positions and layers asked for",
             r->options->paths.acts);
    KS_TRY(count_grids(w, err));
    count_others(w, &outline);
    name_without(w);
    if (!w->grid->nest.dev) {
        KS_TRY(ks__evaluation_needs(&needs, r, w->grid, w->share, err));
        out->least_bytes = needs.least;
        out->most_bytes = needs.most;
        out->most_of = needs.what;
    }
    KS_TRY(measure(w, &outline, err));
done:
    ks_grid_free(&outline);
    return st;
}

ks_status ks_evaluation_cost_of(ks_evaluation_cost *out,
                                const ks_evaluation_options *options,
                                ks_err *err) {
    ks_status st = KS_OK;
    ks_evaluation_options o = *options;
    ks_grid_options grid = o.grid;
    ks_evaluation r = {.options = &o, .after = o.grid};
    bool share = o.cells.of != 0;
    work w = {.r = &r, .grid = &grid, .share = share, .out = out};
    *out = (ks_evaluation_cost){0};
    o.cells.look = true;
    KS_TRY(ks__evaluation_open(&r, &grid, share, err));
    KS_TRY(ks__evaluation_open_cells(&r, &grid, err));
    out->stored = grid.store != NULL;
    KS_TRY(fill(&w, err));
done:
    ks__evaluation_close_cells(&grid, &out->counts);
    ks_evaluation_free(&r);
    return st;
}
