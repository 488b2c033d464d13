/* grid.c - see grid.h. */
#include "grid.h"

#include <omp.h>
#include <stdlib.h>

#include "grid_cells.h"
#include "layer.h"
#include "n_threads.h"
#include "significance.h"

static const int64_t LANE_BYTES = (int64_t)512 << 20;

ks_scored ks_grid_scored(const ks_dataset *d, const float *score) {
    return (ks_scored){.n = d->n,
                       .score = score,
                       .y = d->y,
                       .group = d->group,
                       .chain = d->chain,
                       .n_groups = d->n_groups,
                       .n_chains = d->n_chains};
}

static bool wants(const ks_acts_file *file, const ks_grid_options *o, int s,
                  int p) {
    return (!o->streams || o->streams >> s & 1) &&
           (!o->positions || o->positions >> p & 1) && p != KS_TOKENS &&
           ks_acts_has(file, (ks_stream)s, (ks_position)p);
}

/* resid has the embedding output in front. */
static int32_t layers_of(const ks_acts_info *info, int s) {
    return info->n_layers + (s == KS_RESID);
}

static int32_t count_layers(const ks_acts_file *file, const ks_grid_options *o,
                            int s) {
    const ks_acts_info *info = ks_acts_get_info(file);
    int32_t n = 0;
    for (int32_t l = 0; l < layers_of(info, s); l++)
        n += (!o->layers || o->layers[l]) &&
             ks_acts_has_layer(file, (ks_stream)s, l);
    return n;
}

int32_t ks_grid_shapes(const ks_acts_file *file, const ks_grid_options *o,
                       ks_grid_shape out[KS_N_STREAMS * KS_N_POSITIONS]) {
    int32_t n = 0;
    for (int s = 0; s < KS_N_STREAMS; s++)
        for (int p = 0; p < KS_N_POSITIONS; p++) {
            int32_t cells = wants(file, o, s, p) ? count_layers(file, o, s) : 0;
            if (cells)
                out[n++] = (ks_grid_shape){(ks_stream)s, (ks_position)p, cells};
        }
    return n;
}

int64_t ks_grid_cells(const ks_acts_file *file, const ks_grid_options *o) {
    ks_grid_shape shapes[KS_N_STREAMS * KS_N_POSITIONS];
    int64_t n = 0;
    for (int32_t k = ks_grid_shapes(file, o, shapes); k-- > 0;)
        n += shapes[k].n_cells;
    return n;
}

static int threads_of(const ks_grid_options *o) {
    return ks_threads(o->nest.threads);
}

/* ----------------------------------------------------------------- intervals
 */

/* Draws are the same whatever thread does them. */
static ks_status add_intervals(ks_series *series, const ks_dataset *d,
                               const ks_grid_options *o, ks_err *err) {
    ks_status st = KS_OK;
#pragma omp parallel for schedule(dynamic) num_threads(threads_of(o))
    for (int32_t i = 0; i <= series->n_cells; i++) {
        ks_err mine = {0};
        bool best = i == series->n_cells;
        ks_scored rows =
            ks_grid_scored(d, best ? series->score : series->cells[i].score);
        ks_status got = ks_stats_bootstrap(
            &rows, o->bootstrap, o->seed,
            best ? series->metrics : series->cells[i].metrics, &mine);
        if (got == KS_OK)
            got = ks_p_within(&rows, KS_CROSS_VALIDATED,
                              best ? &series->p : &series->cells[i].p, &mine);
        if (got == KS_OK && best)
            got = ks_calibrate(&rows, o->bootstrap, o->seed,
                               &series->calibration, &mine);
        if (got != KS_OK)
#pragma omp critical(ks_grid_intervals)
        {
            st = got;
            if (err) *err = mine;
        }
    }
    return st;
}

/* Holm: layers within each series, the best ones over all series. */
static ks_status adjust(ks_grid *grid, ks_err *err) {
    ks_status st = KS_OK;
    double *p = NULL;
    int32_t most = grid->n_series;
    for (int32_t k = 0; k < grid->n_series; k++)
        most = KS_MAX(most, grid->series[k].n_cells);
    KS_TRY(ks_alloc(&p, (size_t)most, sizeof *p, "p values", err));
    for (int32_t k = 0; k < grid->n_series; k++) {
        ks_series *s = &grid->series[k];
        for (int32_t i = 0; i < s->n_cells; i++) p[i] = s->cells[i].p;
        KS_TRY(ks_p_holm(p, s->n_cells, p, err));
        for (int32_t i = 0; i < s->n_cells; i++) s->cells[i].p_holm = p[i];
    }
    for (int32_t k = 0; k < grid->n_series; k++) p[k] = grid->series[k].p;
    KS_TRY(ks_p_holm(p, grid->n_series, p, err));
    for (int32_t k = 0; k < grid->n_series; k++) grid->series[k].p_holm = p[k];
done:
    free(p);
    return st;
}

/* -------------------------------------------------------------------- series
 */

typedef struct work {
    const ks_dataset *dataset;
    const ks_acts_file *file;
    const char *path;
    const int64_t *place;
    const ks_folds *folds;
    const ks_grid_options *options;
    const int8_t *y[KS_MAX_SEEDS];
    ks_room_plan plan;
    bool share;              /* of a store: nothing stays */
    const ks_cell_key *keys; /* [n_cells] of the series that is fitted, or NULL
                              */
    int64_t done;
    ks_grid *out;
} work;

size_t ks_grid_kept(const ks_acts_file *file, const ks_folds *folds,
                    const ks_grid_options *o) {
    size_t cell = ks_nest_kept(ks_acts_get_info(file)->d, folds, &o->nest) +
                  sizeof(float) * (size_t)folds->n + sizeof(ks_cell);
    return cell * (size_t)ks_grid_cells(file, o);
}

/* One layer with its scores. What a store gets is whole. */
static size_t cell_bytes(void *user, int threads, bool scratch) {
    const work *w = user;
    bool stored = w->options->store != NULL;
    ks_nest_options nest =
        stored ? ks__grid_whole(w->options) : w->options->nest;
    size_t own = ks_nest_bytes(w->out->d, ks_acts_get_info(w->file)->dtype,
                               w->folds, &nest, threads, scratch);
    if (stored) own += ks_nest_kept(w->out->d, w->folds, &nest);
    return scratch ? KS_MAX(own, w->options->later) : own;
}

size_t ks_grid_least(const ks_acts_file *file, const ks_folds *folds,
                     const ks_grid_options *o, bool share) {
    ks_grid out = {.d = ks_acts_get_info(file)->d};
    work w = {.file = file, .folds = folds, .options = o, .out = &out};
    return ks_room_least(&o->room, share ? 0 : ks_grid_kept(file, folds, o),
                         cell_bytes, &w, threads_of(o));
}

/* Small matrices go side by side, each on its own thread, which scales better
 * than threads within one; big ones one after another, so that memory holds
 * few of them. Bits do not depend on it. */
static ks_status plan_lanes(work *w, ks_err *err) {
    const ks_grid_options *o = w->options;
    int threads = threads_of(o);
    int64_t bytes = 4 * w->folds->n * w->out->d, n = w->folds->n;
    int lanes = (int)KS_MIN(threads, KS_MAX(1, LANE_BYTES / bytes));
    ks_room room = o->room;
    char what[96];
    snprintf(what, sizeof what, "probes of %lld steps x %d features",
             (long long)n, w->out->d);
    if (o->nest.dev) { /* a device works on one, in memory of its own */
        lanes = 1;
        room.limit = 0;
    }
    size_t kept = w->share ? 0 : ks_grid_kept(w->file, w->folds, o);
    return ks_room_choose(&room, kept, cell_bytes, w, lanes, threads, what,
                          &w->plan, err);
}

size_t ks_grid_takes(const ks_acts_file *file, const ks_folds *folds,
                     const ks_grid_options *o, int *lanes) {
    ks_grid out = {.d = ks_acts_get_info(file)->d};
    work w = {.file = file, .folds = folds, .options = o, .out = &out};
    ks_err none = {0}; /* what does not fit is told by the run */
    if (plan_lanes(&w, &none) != KS_OK) w.plan.scratch = o->room.scratch;
    if (lanes) *lanes = w.plan.lanes;
    return (size_t)w.plan.lanes *
           cell_bytes(&w, w.plan.threads, w.plan.scratch != NULL);
}

/* The fits of a layer. */
static ks_status fit_layer(work *w, const ks_series *series, ks_cell *cell,
                           ks_err *err) {
    ks_status st = KS_OK;
    const ks_grid_options *o = w->options;
    ks_nest_options options = o->store ? ks__grid_whole(o) : o->nest;
    ks_err inner = {0};
    ks_layer layer = {.dataset = w->dataset,
                      .file = w->file,
                      .place = w->place,
                      .stream = series->stream,
                      .position = series->position,
                      .layer = cell->layer};
    ks_l2_source source = ks_layer_source(&layer);
    options.threads = w->plan.threads;
    options.scratch = w->plan.scratch;
    st = ks_nest_fit_from(&cell->nest, &source, w->y, w->folds, &options,
                          &inner);
    ks_status found = st;
    if (found == KS_NUMERIC) KS_TRY(ks_layer_check(&layer, w->path, err));
    st = found;
    KS_CHECK(st == KS_OK, st, "%s: %s/%s layer %d: %s", w->path,
             ks_stream_name(series->stream), ks_position_name(series->position),
             cell->layer, inner.text);
done:
    return st;
}

/* A layer of the store's share, where it is missing. */
static ks_status share_cell(work *w, const ks_series *series, ks_cell *cell,
                            const ks_cell_key *key, ks_err *err) {
    ks_status st = KS_OK;
    ks_cell_store *store = w->options->store;
    if (!ks_cell_store_missing(store, key)) return KS_OK;
    KS_TRY(fit_layer(w, series, cell, err));
    KS_TRY(ks__grid_put(&cell->nest, key, w->folds, w->options, err));
done:
    ks_nest_free(&cell->nest);
    return st;
}

static ks_status fit_cell(work *w, const ks_series *series, ks_cell *cell,
                          ks_err *err) {
    ks_status st = KS_OK;
    const ks_nest *nest = &cell->nest;
    const ks_cell_key *key = w->keys ? &w->keys[cell - series->cells] : NULL;
    bool found = false;
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    if (w->share) return share_cell(w, series, cell, key, err);
    if (key)
        KS_TRY(ks__grid_take(&cell->nest, key, w->out->d, w->folds, w->options,
                             &found, err));
    if (!found) KS_TRY(fit_layer(w, series, cell, err));
    if (key && !found)
        KS_TRY(ks__grid_put(&cell->nest, key, w->folds, w->options, err));
    KS_TRY(ks_alloc(&cell->score, (size_t)w->folds->n, sizeof(float), "scores",
                    err));
    ks_nest_mix(&nest, NULL, w->folds, cell->score);
done:
    return st;
}

static void count_cell(work *w, const ks_nest *nest) {
    w->out->columns += nest->columns;
    w->out->passes = KS_MAX(w->out->passes, nest->passes);
    w->out->unconverged += nest->unconverged;
    w->done++;
    if (w->options->progress) w->options->progress(w->options->user, w->done);
}

/* The error of the lowest layer that failed is told. */
static ks_status fit_cells(work *w, ks_series *series, ks_err *err) {
    ks_status st = KS_OK;
    int32_t failed = series->n_cells;
    ks_cell_key *keys = NULL;
    const ks_cell_rows rows = {w->dataset, w->file, w->place};
    if (w->options->store)
        KS_TRY(ks__grid_keys(&keys, series, &rows, w->folds, w->options, err));
    w->keys = keys;
    int was = omp_get_max_active_levels();
    if (w->plan.threads > 1 && w->plan.lanes > 1) omp_set_max_active_levels(2);
#pragma omp parallel for num_threads(w->plan.lanes) schedule(dynamic, 1)
    for (int32_t i = 0; i < series->n_cells; i++) {
        ks_err mine = {0};
        int32_t limit;
#pragma omp atomic read
        limit = failed;
        if (limit < i) continue;
        ks_status got = fit_cell(w, series, &series->cells[i], &mine);
#pragma omp critical(ks_grid_cells)
        {
            if (got == KS_OK) {
                count_cell(w, &series->cells[i].nest);
            } else if (i < failed) {
#pragma omp atomic write
                failed = i;
                st = got;
                if (err) *err = mine;
            }
        }
    }
    omp_set_max_active_levels(was);
done:
    w->keys = NULL;
    ks__grid_keys_free(&keys, series->n_cells);
    return st;
}

static ks_status choose_layers(work *w, ks_series *series, ks_err *err) {
    ks_status st = KS_OK;
    const ks_nest **nests = NULL;
    KS_TRY(ks_alloc(&nests, (size_t)series->n_cells, sizeof *nests, "layers",
                    err));
    for (int32_t i = 0; i < series->n_cells; i++)
        nests[i] = &series->cells[i].nest;
    KS_TRY(ks_alloc(&series->chosen, (size_t)nests[0]->n_fits,
                    sizeof *series->chosen, "layers", err));
    KS_TRY(ks_alloc(&series->score, (size_t)w->folds->n, sizeof(float),
                    "scores", err));
    ks_nest_choose(nests, series->n_cells, series->chosen);
    ks_nest_mix(nests, series->chosen, w->folds, series->score);
    KS_TRY(add_intervals(series, w->dataset, w->options, err));
done:
    free(nests);
    return st;
}

static ks_status outline_series(ks_series *series, const ks_acts_file *file,
                                const ks_grid_options *o,
                                const ks_grid_shape *shape, ks_err *err) {
    ks_status st = KS_OK;
    const ks_acts_info *info = ks_acts_get_info(file);
    series->stream = shape->stream;
    series->position = shape->position;
    KS_TRY(ks_alloc(&series->cells, (size_t)shape->n_cells,
                    sizeof *series->cells, "layers", err));
    for (int32_t l = 0; l < layers_of(info, series->stream); l++)
        if ((!o->layers || o->layers[l]) &&
            ks_acts_has_layer(file, series->stream, l))
            series->cells[series->n_cells++].layer = l;
done:
    return st;
}

ks_status ks_grid_outline(ks_grid *out, const ks_acts_file *file,
                          const ks_grid_options *options, ks_err *err) {
    ks_status st = KS_OK;
    ks_grid_shape shapes[KS_N_STREAMS * KS_N_POSITIONS];
    int32_t n_series = ks_grid_shapes(file, options, shapes);
    *out = (ks_grid){.d = ks_acts_get_info(file)->d};
    KS_TRY(ks_alloc(&out->series, KS_N_STREAMS * KS_N_POSITIONS,
                    sizeof *out->series, "series", err));
    for (int32_t k = 0; k < n_series; k++)
        KS_TRY(outline_series(&out->series[out->n_series++], file, options,
                              &shapes[k], err));
done:
    if (st != KS_OK) ks_grid_free(out);
    return st;
}

/* w is whole but for y and plan. */
static ks_status run(work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks_grid *out = w->out;
    for (int32_t s = 0; s < w->folds->n_seeds; s++) w->y[s] = w->dataset->y;
    KS_CHECK(out->n_series > 0, KS_USAGE,
             "%s holds none of the streams, positions and layers asked for",
             w->path);
    KS_TRY(plan_lanes(w, err));
    for (int32_t k = 0; k < out->n_series; k++) {
        KS_TRY(fit_cells(w, &out->series[k], err));
        if (!w->share) KS_TRY(choose_layers(w, &out->series[k], err));
    }
    if (!w->share) KS_TRY(adjust(out, err));
done:
    return st;
}

ks_status ks_grid_run(ks_grid *out, const ks_dataset *dataset,
                      const ks_acts_file *file, const char *path,
                      const int64_t *place, const ks_folds *folds,
                      const ks_grid_options *options, ks_err *err) {
    work w = {.dataset = dataset,
              .file = file,
              .path = path,
              .place = place,
              .folds = folds,
              .options = options,
              .out = out};
    ks_status st = ks_grid_outline(out, file, options, err);
    if (st != KS_OK) return st;
    st = run(&w, err);
    if (st != KS_OK) ks_grid_free(out);
    return st;
}

ks_status ks_grid_share(ks_grid *outline, const ks_dataset *dataset,
                        const ks_acts_file *file, const char *path,
                        const int64_t *place, const ks_folds *folds,
                        const ks_grid_options *options, ks_err *err) {
    work w = {.dataset = dataset,
              .file = file,
              .path = path,
              .place = place,
              .folds = folds,
              .options = options,
              .share = true,
              .out = outline};
    return run(&w, err);
}

void ks_grid_free(ks_grid *grid) {
    for (int32_t k = 0; k < grid->n_series; k++) {
        ks_series *s = &grid->series[k];
        for (int32_t i = 0; i < s->n_cells; i++) {
            ks_nest_free(&s->cells[i].nest);
            free(s->cells[i].score);
        }
        free(s->cells);
        free(s->chosen);
        free(s->score);
    }
    free(grid->series);
    *grid = (ks_grid){0};
}

const ks_series *ks_grid_find(const ks_grid *grid, ks_stream stream,
                              ks_position position) {
    for (int32_t i = 0; i < grid->n_series; i++)
        if (grid->series[i].stream == stream &&
            grid->series[i].position == position)
            return &grid->series[i];
    return NULL;
}

int32_t ks_grid_main(const ks_grid *grid) {
    const ks_series *found = ks_grid_find(grid, KS_RESID, KS_MEAN);
    return found ? (int32_t)(found - grid->series) : 0;
}

int32_t ks_series_usual(const ks_series *series, int32_t n_fits) {
    int32_t best = 0, most = 0;
    for (int32_t c = 0; c < series->n_cells; c++) {
        int32_t times = 0;
        for (int32_t i = 0; i < n_fits; i++) times += series->chosen[i] == c;
        if (times > most) {
            most = times;
            best = c;
        }
    }
    return best;
}
