/* grid.c - see grid.h. */
#include "grid.h"

#include <omp.h>
#include <stdlib.h>

ks_scored ks_grid_scored(const ks_dataset *d, const float *score) {
    return (ks_scored){.n = d->n, .score = score, .y = d->y,
                       .group = d->group, .chain = d->chain,
                       .n_groups = d->n_groups, .n_chains = d->n_chains};
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

static int32_t count_layers(const ks_acts_info *info,
                            const ks_grid_options *o, int s) {
    int32_t n = 0;
    for (int32_t l = 0; l < layers_of(info, s); l++)
        n += !o->layers || o->layers[l];
    return n;
}

int64_t ks_grid_cells(const ks_acts_file *file, const ks_grid_options *o) {
    const ks_acts_info *info = ks_acts_get_info(file);
    int64_t n = 0;
    for (int s = 0; s < KS_N_STREAMS; s++)
        for (int p = 0; p < KS_N_POSITIONS; p++)
            if (wants(file, o, s, p)) n += count_layers(info, o, s);
    return n;
}

/* ----------------------------------------------------------------- intervals */

/* Draws are the same whatever thread does them. */
static ks_status add_intervals(ks_series *series, const ks_dataset *d,
                               const ks_grid_options *o, ks_err *err) {
    ks_status st = KS_OK;
    int threads = o->nest.threads ? o->nest.threads : omp_get_max_threads();
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int32_t i = 0; i <= series->n_cells; i++) {
        ks_err mine = {0};
        bool best = i == series->n_cells;
        ks_scored rows =
            ks_grid_scored(d, best ? series->score : series->cells[i].score);
        ks_status got = ks_stats_bootstrap(
            &rows, o->bootstrap, o->seed,
            best ? series->metrics : series->cells[i].metrics, &mine);
        if (got != KS_OK)
#pragma omp critical(ks_grid_intervals)
        {
            st = got;
            if (err) *err = mine;
        }
    }
    return st;
}

/* -------------------------------------------------------------------- series */

typedef struct work {
    const ks_dataset *dataset;
    const ks_acts_file *file;
    const char *path;
    const int64_t *place;
    const ks_folds *folds;
    const ks_grid_options *options;
    const int8_t *y[KS_MAX_SEEDS];
    float *buffer, *x;
    int64_t done;
    ks_grid *out;
} work;

static ks_status fit_cell(work *w, const ks_series *series, ks_cell *cell,
                          ks_err *err) {
    ks_status st = KS_OK;
    const ks_nest *nest = &cell->nest;
    ks_err inner = {0};
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    KS_TRY(ks_dataset_read(w->dataset, w->file, w->place, series->stream,
                           series->position, cell->layer, w->buffer, w->x,
                           err));
    st = ks_nest_fit(&cell->nest, w->x, w->out->d, w->y, w->folds,
                     &w->options->nest, &inner);
    KS_CHECK(st == KS_OK, st, "%s: %s/%s layer %d: %s", w->path,
             ks_stream_name(series->stream),
             ks_position_name(series->position), cell->layer, inner.text);
    KS_TRY(ks_alloc(&cell->score, (size_t)w->folds->n, sizeof(float), "scores",
                    err));
    ks_nest_mix(&nest, NULL, w->folds, cell->score);
    w->out->columns += nest->columns;
    w->out->passes = KS_MAX(w->out->passes, nest->passes);
    w->out->unconverged += nest->unconverged;
    w->done++;
    if (w->options->progress) w->options->progress(w->options->user, w->done);
done:
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

static ks_status run_series(work *w, ks_series *series, ks_err *err) {
    ks_status st = KS_OK;
    const ks_acts_info *info = ks_acts_get_info(w->file);
    const ks_grid_options *o = w->options;
    KS_TRY(ks_alloc(&series->cells,
                    (size_t)count_layers(info, o, series->stream),
                    sizeof *series->cells, "layers", err));
    for (int32_t l = 0; l < layers_of(info, series->stream); l++)
        if (!o->layers || o->layers[l])
            series->cells[series->n_cells++].layer = l;
    for (int32_t i = 0; i < series->n_cells; i++)
        KS_TRY(fit_cell(w, series, &series->cells[i], err));
    KS_TRY(choose_layers(w, series, err));
done:
    return st;
}

ks_status ks_grid_run(ks_grid *out, const ks_dataset *dataset,
                      const ks_acts_file *file, const char *path,
                      const int64_t *place, const ks_folds *folds,
                      const ks_grid_options *options, ks_err *err) {
    ks_status st = KS_OK;
    const ks_acts_info *info = ks_acts_get_info(file);
    size_t d = (size_t)info->d;
    work w = {.dataset = dataset, .file = file, .path = path, .place = place,
              .folds = folds, .options = options, .out = out};
    *out = (ks_grid){.d = info->d};
    for (int32_t s = 0; s < folds->n_seeds; s++) w.y[s] = dataset->y;
    KS_CHECK(ks_grid_cells(file, options) > 0, KS_USAGE,
             "%s holds none of the streams, positions and layers asked for",
             path);
    KS_TRY(ks_alloc(&w.buffer, (size_t)info->n_steps * d, sizeof(float),
                    "activations of a layer", err));
    KS_TRY(ks_alloc(&w.x, (size_t)dataset->n * d, sizeof(float),
                    "activations of a layer", err));
    KS_TRY(ks_alloc(&out->series, KS_N_STREAMS * KS_N_POSITIONS,
                    sizeof *out->series, "series", err));
    for (int s = 0; s < KS_N_STREAMS; s++)
        for (int p = 0; p < KS_N_POSITIONS; p++) {
            if (!wants(file, options, s, p) ||
                !count_layers(info, options, s))
                continue;
            ks_series *series = &out->series[out->n_series++];
            series->stream = (ks_stream)s;
            series->position = (ks_position)p;
            KS_TRY(run_series(&w, series, err));
        }
done:
    free(w.buffer);
    free(w.x);
    if (st != KS_OK) ks_grid_free(out);
    return st;
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
