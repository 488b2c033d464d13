/* transfer_models.c - sets on the same chains: labels of one, activations of
 * another. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "significance.h"
#include "transfer.h"

typedef struct work {
    ks_transfer *transfer;
    ks_transfer_models *models;
    const ks_transfer_rows *rows;
    int32_t n; /* sets */
    ks_grid
        *grids; /* [n, n] labels of (the first with these), activations of */
    int64_t done;
} work;

static const ks_transfer_set *set_of(const work *w, int32_t k) {
    return &w->transfer->sets[w->rows->set[k]];
}

static ks_transfer_cell *cell_of(const work *w, int32_t self, int32_t cross) {
    return &w->models->cells[self * w->n + cross];
}

static const ks_series *series_of(const work *w, int32_t self, int32_t cross) {
    return w->grids[w->rows->labels_of[self] * w->n + cross].series;
}

/* The common rows with the labels of one set. */
static ks_dataset view_of(const work *w, int32_t k) {
    ks_dataset view = w->rows->view;
    view.y = w->rows->y[k];
    return view;
}

/* -------------------------------------------------------------------- grids */

/* The grid's count starts anew with each; shown is all of them. */
static void show(void *user, int64_t cells) {
    const work *w = user;
    const ks_grid_options *o = &w->transfer->options->grid;
    if (o->progress) o->progress(o->user, w->done + cells);
}

static ks_grid_options options_of(work *w, int32_t k) {
    ks_grid_options o = w->transfer->options->grid;
    o.nest.keep_weights = true;
    o.streams = 1u << w->models->stream;
    o.positions = 1u << w->models->position;
    o.layers = set_of(w, k)->layers;
    o.progress = show;
    o.user = w;
    return o;
}

static ks_status run_grid(work *w, int32_t self, int32_t cross, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_set *s = set_of(w, cross);
    ks_grid *grid = &w->grids[self * w->n + cross];
    ks_grid_options o = options_of(w, cross);
    ks_dataset view = view_of(w, self);
    ks_err inner = {0};
    st = ks_grid_run(grid, &view, s->file, s->source->acts,
                     w->rows->place[cross], &w->rows->folds, &o, &inner);
    KS_CHECK(st == KS_OK, st, "labels of %s: %s", set_of(w, self)->source->name,
             inner.text);
    w->transfer->fits += grid->columns;
    w->transfer->unconverged += grid->unconverged;
    w->done += ks_grid_cells(s->file, &o);
done:
    return st;
}

static ks_status run_grids(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_options *o = w->transfer->options;
    int64_t total = 0;
    int32_t distinct = 0;
    for (int32_t k = 0; k < w->n; k++)
        distinct += w->rows->y[k] && w->rows->labels_of[k] == k;
    for (int32_t k = 0; k < w->n; k++) {
        ks_grid_options mine = options_of(w, k);
        total += distinct * ks_grid_cells(set_of(w, k)->file, &mine);
    }
    if (o->begin) o->begin(o->grid.user, "across models", "layer", total);
    for (int32_t self = 0; st == KS_OK && self < w->n; self++)
        for (int32_t cross = 0; st == KS_OK && cross < w->n; cross++)
            if (w->rows->y[self] && w->rows->labels_of[self] == self)
                st = run_grid(w, self, cross, err);
    if (o->end) o->end(o->grid.user);
    return st;
}

/* ------------------------------------------------------------------ figures */

/* Share of rows for which a == b: value and interval. */
static void share(const double *total, const void *user, double *out) {
    (void)user;
    *out = total[0] / total[1];
}

static ks_status agreement(const work *w, const float *a, const float *b,
                           ks_interval *out, ks_err *err) {
    const ks_dataset *v = &w->rows->view;
    const ks_grid_options *o = &w->transfer->options->grid;
    double(*sums)[2] = NULL;
    ks_status st =
        ks_alloc(&sums, (size_t)v->n_groups, sizeof *sums, "problems", err);
    for (int64_t i = 0; st == KS_OK && i < v->n; i++) {
        sums[v->group[i]][0] += (a[i] > 0) == (b[i] > 0);
        sums[v->group[i]][1]++;
    }
    if (st == KS_OK)
        st = ks_stats_of_sums(*sums, v->n_groups, 2, share, NULL, 1,
                              o->bootstrap, o->seed, out, err);
    free(sums);
    return st;
}

/* Cohen's kappa, and the share of equal labels, of counts [a][b]. */
static void kappa(const double *c, const void *user, double *out) {
    (void)user;
    double n = c[0] + c[1] + c[2] + c[3], same = (c[0] + c[3]) / n;
    double chance =
        ((c[0] + c[1]) * (c[0] + c[2]) + (c[2] + c[3]) * (c[1] + c[3])) /
        (n * n);
    out[0] = chance < 1 ? (same - chance) / (1 - chance) : NAN;
    out[1] = same;
}

static ks_status compare_labels(const work *w, int32_t a, int32_t b,
                                ks_transfer_cell *cell, ks_err *err) {
    const ks_dataset *v = &w->rows->view;
    const ks_grid_options *o = &w->transfer->options->grid;
    const int8_t *x = w->rows->y[a], *y = w->rows->y[b];
    double(*sums)[4] = NULL;
    ks_interval both[2];
    ks_status st =
        ks_alloc(&sums, (size_t)v->n_groups, sizeof *sums, "problems", err);
    for (int64_t i = 0; st == KS_OK && i < v->n; i++)
        sums[v->group[i]][2 * x[i] + y[i]]++;
    if (st == KS_OK)
        st = ks_stats_of_sums(*sums, v->n_groups, 4, kappa, NULL, 2,
                              o->bootstrap, o->seed, both, err);
    if (st == KS_OK) cell->kappa = both[0], cell->same = both[1];
    free(sums);
    return st;
}

static ks_status against(const work *w, const float *score, int32_t labels,
                         ks_interval *out, ks_err *err) {
    const ks_grid_options *o = &w->transfer->options->grid;
    ks_dataset view = view_of(w, labels);
    ks_scored rows = ks_grid_scored(&view, score);
    return ks_stats_balanced(&rows, NULL, o->bootstrap, o->seed, out, NULL,
                             err);
}

static ks_status paired(const work *w, int32_t self, const float *a,
                        const float *b, ks_interval *out, ks_err *err) {
    const ks_grid_options *o = &w->transfer->options->grid;
    ks_dataset view = view_of(w, self);
    ks_scored rows = ks_grid_scored(&view, a);
    return ks_stats_balanced(&rows, b, o->bootstrap, o->seed, NULL, out, err);
}

static ks_status p_values(const work *w, int32_t self, const float *score,
                          const float *other, ks_transfer_p *out, ks_err *err) {
    ks_dataset view = view_of(w, self);
    ks_scored rows = ks_grid_scored(&view, score);
    return ks__transfer_p(out, &rows, KS_CROSS_VALIDATED, other,
                          w->transfer->options->grid.seed, err);
}

static ks_status fill_cell(const work *w, int32_t self, int32_t cross,
                           ks_err *err) {
    ks_status st = KS_OK;
    const ks_series *s = series_of(w, self, cross);
    const ks_series *own = series_of(w, self, self);
    ks_transfer_cell *c = cell_of(w, self, cross);
    size_t n = (size_t)w->rows->view.n;
    size_t fits =
        (size_t)w->rows->folds.n_seeds * (size_t)w->rows->folds.n_folds;
    const ks_interval none = {NAN, NAN, NAN};
    KS_TRY(ks_alloc(&c->score, n, sizeof(float), "scores", err));
    KS_TRY(ks_alloc(&c->layer, fits, sizeof *c->layer, "layers", err));
    memcpy(c->score, s->score, n * sizeof(float));
    memcpy(c->metrics, s->metrics, sizeof c->metrics);
    for (size_t i = 0; i < fits; i++)
        c->layer[i] = s->cells[s->chosen[i]].layer;
    KS_TRY(paired(w, self, s->score, own->score, &c->minus_self, err));
    KS_TRY(agreement(w, s->score, own->score, &c->agreement, err));
    KS_TRY(p_values(w, self, s->score, self == cross ? NULL : own->score, &c->p,
                    err));
    c->against_cross = c->kappa = c->same = none;
    if (w->rows->y[cross]) {
        KS_TRY(against(w, own->score, cross, &c->against_cross, err));
        KS_TRY(compare_labels(w, self, cross, c, err));
    }
    c->there = true;
done:
    return st;
}

static void r2(const double *total, const void *user, double *out) {
    (void)user;
    *out = 1 - total[0] / total[1];
}

static ks_status fill_map(const work *w, int32_t self, int32_t cross,
                          const float *score, const double *squares,
                          ks_transfer_map *map, ks_err *err) {
    ks_status st = KS_OK;
    const ks_grid_options *o = &w->transfer->options->grid;
    const float *own = series_of(w, self, self)->score;
    ks_dataset view = view_of(w, self);
    ks_scored rows = ks_grid_scored(&view, score);
    KS_TRY(ks_stats_bootstrap(&rows, o->bootstrap, o->seed, map->metrics, err));
    KS_TRY(paired(w, self, score, own, &map->minus_own, err));
    KS_TRY(agreement(w, score, own, &map->agreement, err));
    KS_TRY(p_values(w, self, score, own, &map->p, err));
    map->against_cross = (ks_interval){NAN, NAN, NAN};
    if (w->rows->y[cross])
        KS_TRY(against(w, score, cross, &map->against_cross, err));
    KS_TRY(ks_stats_of_sums(squares, w->rows->n_problems, 2, r2, NULL, 1,
                            o->bootstrap, o->seed, &map->r2, err));
    map->there = true;
done:
    return st;
}

/* Maps start from cross's layers of its own labels, if it has any. */
static ks_status map_cell(const work *w, int32_t self, int32_t cross,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_transfer_cell *c = cell_of(w, self, cross);
    ks__mapped mapped = {0};
    int32_t by = w->rows->y[cross] ? cross : self;
    KS_TRY(ks__transfer_maps(w->transfer, w->models, self, cross,
                             series_of(w, self, self), series_of(w, by, cross),
                             &mapped, err));
    for (int k = 0; k < KS_N_MAPS; k++)
        if (mapped.there[k])
            KS_TRY(fill_map(w, self, cross, mapped.score[k], mapped.squares[k],
                            &c->maps[k], err));
    c->strength = mapped.strength;
    c->from_layer = mapped.from_layer;
    mapped.strength = NULL;
    mapped.from_layer = NULL;
done:
    ks__transfer_maps_free(&mapped);
    return st;
}

static ks_status run_maps(const work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_options *o = w->transfer->options;
    int64_t total = 0, done = 0;
    for (int32_t k = 0; k < w->n; k++) total += w->rows->y[k] ? w->n - 1 : 0;
    if (o->begin) o->begin(o->grid.user, "linear maps", "pair", total);
    for (int32_t self = 0; self < w->n; self++)
        for (int32_t cross = 0; cross < w->n; cross++) {
            if (!w->rows->y[self] || self == cross) continue;
            KS_TRY(map_cell(w, self, cross, err));
            if (o->grid.progress) o->grid.progress(o->grid.user, ++done);
        }
done:
    if (o->end) o->end(o->grid.user);
    return st;
}

/* Cells among themselves, and the pairs of each kind of map. */
static ks_status adjust(const work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks_transfer_p *list[KS_MAX_SETS * KS_MAX_SETS];
    for (int k = -1; k < KS_N_MAPS; k++) {
        int32_t n = 0;
        for (int32_t i = 0; i < w->n * w->n; i++) {
            ks_transfer_cell *c = &w->models->cells[i];
            if (k < 0 && c->there) list[n++] = &c->p;
            if (k >= 0 && c->maps[k].there) list[n++] = &c->maps[k].p;
        }
        if (n) KS_TRY(ks__transfer_holm(list, n, err));
    }
done:
    return st;
}

ks_status ks__transfer_models(ks_transfer *t, ks_transfer_models *m,
                              ks_err *err) {
    ks_status st = KS_OK;
    work w = {
        .transfer = t, .models = m, .rows = m->rows, .n = m->rows->n_sets};
    size_t cells = (size_t)w.n * (size_t)w.n;
    KS_TRY(ks_alloc(&m->cells, cells, sizeof *m->cells, "sets", err));
    KS_TRY(ks_alloc(&w.grids, cells, sizeof *w.grids, "probes", err));
    KS_TRY(run_grids(&w, err));
    for (int32_t self = 0; self < w.n; self++)
        for (int32_t cross = 0; cross < w.n; cross++)
            if (w.rows->y[self]) KS_TRY(fill_cell(&w, self, cross, err));
    KS_TRY(run_maps(&w, err));
    KS_TRY(adjust(&w, err));
done:
    for (size_t i = 0; w.grids && i < cells; i++) ks_grid_free(&w.grids[i]);
    free(w.grids);
    return st;
}

void ks__transfer_models_free(ks_transfer_models *m) {
    int32_t n = m->rows->n_sets;
    for (int32_t i = 0; m->cells && i < n * n; i++) {
        free(m->cells[i].score);
        free(m->cells[i].layer);
        free(m->cells[i].strength);
        free(m->cells[i].from_layer);
    }
    free(m->cells);
    *m = (ks_transfer_models){0};
}
