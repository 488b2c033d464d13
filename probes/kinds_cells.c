/* kinds_cells.c - see kinds_cells.h. */
#include "kinds_cells.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------- places
 */

ks_status ks__kind_place_open(ks_kind_place *place, const ks_series *series,
                              ks_err *err) {
    ks_status st = KS_OK;
    ks_kind_place *p = place;
    bool each = p->recipe->input == KS_INPUT_EACH;
    bool embedded = series->stream == KS_RESID && series->cells[0].layer == 0;
    int32_t from = embedded && !each;
    p->stream = series->stream;
    p->position = series->position;
    p->n_layers = series->n_cells - from;
    p->n_probes = each ? p->n_layers : 1;
    p->n_fits = p->folds->n_seeds * p->folds->n_folds;
    p->n_inputs = p->dataset->info->d;
    if (p->recipe->input == KS_INPUT_BESIDE) p->n_inputs *= p->n_layers;
    KS_TRY(ks_recipe_check(p->recipe, p->n_layers, err));
    KS_TRY(ks_alloc(&p->layer, (size_t)p->n_layers, sizeof *p->layer, "layers",
                    err));
    for (int32_t i = 0; i < p->n_layers; i++)
        p->layer[i] = series->cells[from + i].layer;
done:
    return st;
}

void ks__kind_place_close(ks_kind_place *place) {
    free(place->layer);
    place->layer = NULL;
}

bool ks__kind_published(const ks_kind_place *place) {
    return place->o->published && place->recipe->input != KS_INPUT_EACH;
}

/* --------------------------------------------------------------------- keys
 */

/* Lists of numbers; NULL where there is no memory, which packing finds. */
static json_t *whole_numbers(const int32_t *v, int32_t n) {
    json_t *list = json_array();
    for (int32_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(v[i]));
    return list;
}

static json_t *numbers(const double *v, int32_t n) {
    json_t *list = json_array();
    for (int32_t i = 0; i < n; i++)
        json_array_append_new(list, json_real(v[i]));
    return list;
}

/* Of layers [from, from + n) of the place: what they are and hold, and how a
 * probe of them is trained. */
static ks_status recipe_of(json_t **out, const ks_kind_place *p, int32_t from,
                           int32_t n, ks_err *err) {
    ks_status st = KS_OK;
    char values[65];
    KS_TRY(ks_cell_layers_hash(values, p->dataset->acts, p->stream, p->position,
                               p->layer + from, n, err));
    *out =
        json_pack("{s:s,s:s,s:s,s:o,s:s,s:o,s:i,s:i,s:f}", "cell",
                  p->recipe->name, "stream", ks_stream_name(p->stream),
                  "position", ks_position_name(p->position), "layers",
                  whole_numbers(p->layer + from, n), "values", values, "hidden",
                  whole_numbers(p->recipe->hidden, p->recipe->n_hidden),
                  "batch", (int)KS_TRAINED_BATCH, "epochs",
                  (int)KS_TRAINED_EPOCHS, "decay", KS_TRAINED_DECAY);
    KS_CHECK(*out, KS_NOMEM, "out of memory for cells");
done:
    return st;
}

/* Cell c, on the folds of all seeds or of its own. */
static ks_status fit_key(const ks_kind_cells *cells, const json_t *common,
                         int32_t c, ks_err *err) {
    ks_status st = KS_OK;
    const ks_kind_place *p = cells->place;
    bool each = p->recipe->input == KS_INPUT_EACH;
    int32_t seed = c / p->folds->n_folds, fold = c % p->folds->n_folds;
    json_t *own = NULL;
    ks_folds folds = *p->folds;
    if (!each) {
        folds.fold += seed * folds.n;
        folds.n_seeds = 1;
    } else {
        seed = 0;
    }
    KS_TRY(recipe_of(&own, p, each ? c : 0, each ? 1 : p->n_layers, err));
    KS_TRY(ks_cell_add_folds(own, &folds, err));
    KS_TRY(ks_json_set(own, "rates",
                       numbers(ks_trained_rates, KS_TRAINED_RATES), "cells",
                       err));
    KS_TRY(ks_json_set(
        own, "seed",
        json_integer((json_int_t)(p->trained->seed + (uint64_t)seed)), "cells",
        err));
    KS_TRY(ks_json_set(own, "weights",
                       json_boolean(ks_trained_keeps(p->recipe, p->n_probes,
                                                     p->n_inputs, p->trained)),
                       "cells", err));
    if (!each)
        KS_TRY(ks_json_set(own, "fold", json_integer(fold), "cells", err));
    json_t *handed = own;
    own = NULL;
    if (each)
        KS_TRY(ks_cell_key_make(&cells->keys[c], common, handed, err,
                                "%s-%s-%s-layer%02d", p->recipe->name,
                                ks_stream_name(p->stream),
                                ks_position_name(p->position), p->layer[c]));
    else
        KS_TRY(ks_cell_key_make(
            &cells->keys[c], common, handed, err, "%s-%s-%s-seed%llu-fold%d",
            p->recipe->name, ks_stream_name(p->stream),
            ks_position_name(p->position),
            (unsigned long long)(p->trained->seed + (uint64_t)seed), fold));
done:
    json_decref(own);
    return st;
}

/* Problems of the rows, by which the protocol splits. */
static ks_status problems_hash(const ks_dataset *d, char hex[65], ks_err *err) {
    ks_sha256 *hash = NULL;
    ks_status st = ks_sha256_open(&hash, err);
    if (st != KS_OK) return st;
    ks_sha256_add(hash, d->group, (size_t)d->n * sizeof *d->group);
    for (int32_t g = 0; g < d->n_groups; g++)
        ks_sha256_add(hash, d->group_ids[g], strlen(d->group_ids[g]) + 1);
    ks_sha256_close(&hash, hex);
    return KS_OK;
}

static ks_status published_key(const ks_kind_cells *cells, const json_t *common,
                               int32_t unit, ks_err *err) {
    ks_status st = KS_OK;
    const ks_kind_place *p = cells->place;
    double rate = p->o->rates[unit % p->o->n_rates];
    uint64_t seed = ks_published_seeds[unit / p->o->n_rates];
    char hex[65];
    json_t *own = NULL;
    KS_TRY(recipe_of(&own, p, 0, p->n_layers, err));
    KS_TRY(problems_hash(p->dataset, hex, err));
    KS_TRY(ks_json_set(own, "cell",
                       json_sprintf("published %s", p->recipe->name), "cells",
                       err));
    KS_TRY(ks_json_set(own, "problems", json_string(hex), "cells", err));
    KS_TRY(ks_json_set(own, "rate", json_real(rate), "cells", err));
    KS_TRY(
        ks_json_set(own, "seed", json_integer((json_int_t)seed), "cells", err));
    json_t *handed = own;
    own = NULL;
    KS_TRY(ks_cell_key_make(&cells->published[unit], common, handed, err,
                            "%s-published-%s-%s-seed%llu-rate%g",
                            p->recipe->name, ks_stream_name(p->stream),
                            ks_position_name(p->position),
                            (unsigned long long)seed, rate));
done:
    json_decref(own);
    return st;
}

ks_status ks__kind_cells_open(ks_kind_cells *out, const ks_kind_place *p,
                              ks_err *err) {
    ks_status st = KS_OK;
    bool each = p->recipe->input == KS_INPUT_EACH;
    const ks_cell_rows rows = {p->dataset, p->dataset->acts, p->dataset->row};
    json_t *common = NULL;
    *out = (ks_kind_cells){.place = p};
    if (!p->grid->store) return KS_OK;
    KS_TRY(ks_cell_common(&common, p->grid->store, &rows, err));
    out->n = each ? p->n_probes : p->n_fits;
    out->fits = each ? p->n_fits : 1;
    KS_TRY(
        ks_alloc(&out->keys, (size_t)out->n, sizeof *out->keys, "cells", err));
    for (int32_t c = 0; c < out->n; c++) KS_TRY(fit_key(out, common, c, err));
    if (!ks__kind_published(p)) goto done;
    out->n_published = KS_PUBLISHED_SEEDS * p->o->n_rates;
    KS_TRY(ks_alloc(&out->published, (size_t)out->n_published,
                    sizeof *out->published, "cells", err));
    for (int32_t u = 0; u < out->n_published; u++)
        KS_TRY(published_key(out, common, u, err));
done:
    json_decref(common);
    return st;
}

void ks__kind_cells_close(ks_kind_cells *c) {
    for (int32_t i = 0; c->keys && i < c->n; i++) ks_cell_key_free(&c->keys[i]);
    for (int32_t i = 0; c->published && i < c->n_published; i++)
        ks_cell_key_free(&c->published[i]);
    free(c->keys);
    free(c->published);
    *c = (ks_kind_cells){0};
}

/* About the operations of a training on a share of the rows. */
static double training(const ks_kind_place *p, double share) {
    return 9.0 * (double)ks_recipe_params(p->recipe, p->n_inputs) * share *
           (double)p->folds->n * KS_TRAINED_EPOCHS;
}

ks_status ks__kind_cells_expect(const ks_kind_cells *cells, ks_err *err) {
    ks_status st = KS_OK;
    const ks_kind_place *p = cells->place;
    double n = p->folds->n_folds;
    double fit =
        KS_TRAINED_RATES * training(p, (n - 2) / n) + training(p, (n - 1) / n);
    for (int32_t c = 0; c < cells->n; c++)
        KS_TRY(ks_cell_store_expect(p->grid->store, &cells->keys[c],
                                    cells->fits * fit, err));
    for (int32_t u = 0; u < cells->n_published; u++)
        KS_TRY(ks_cell_store_expect(p->grid->store, &cells->published[u],
                                    KS_PUBLISHED_TRAININGS * training(p, 0.7),
                                    err));
done:
    return st;
}

/* ------------------------------------------------------------------ numbers
 */

/* The fits of a cell in their probe, and the scores of their test rows. */
typedef struct numbers_of {
    ks_trained *t;
    int32_t first; /* fit of the probe */
    int64_t n;     /* test rows of all */
    float *score;  /* [n] owned */
} numbers_of;

/* Copies scores between a probe and the cell, fit by fit. */
static void copy_scores(const ks_kind_cells *cells, const numbers_of *v,
                        bool to_probe) {
    const ks_folds *f = cells->place->folds;
    float *at = v->score;
    for (int32_t k = v->first; k < v->first + cells->fits; k++) {
        int64_t seed = k / f->n_folds;
        const uint8_t *fold = f->fold + seed * f->n;
        float *row = v->t->by_seed + seed * f->n;
        for (int64_t i = 0; i < f->n; i++) {
            if (fold[i] != k % f->n_folds) continue;
            if (to_probe)
                row[i] = *at++;
            else
                *at++ = row[i];
        }
    }
}

static ks_status open_numbers(numbers_of *v, const ks_kind_cells *cells,
                              int32_t c, ks_trained *probes,
                              ks_cell_part *parts, size_t *n, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *f = cells->place->folds;
    int32_t from = c * cells->fits, m = cells->fits;
    ks_trained *t = &probes[from / cells->place->n_fits];
    int64_t at = from % cells->place->n_fits;
    *v = (numbers_of){.t = t, .first = (int32_t)at};
    for (int32_t k = v->first; k < v->first + m; k++)
        for (int64_t i = 0; i < f->n; i++)
            v->n += f->fold[k / f->n_folds * f->n + i] == k % f->n_folds;
    KS_TRY(ks_alloc(&v->score, (size_t)v->n, sizeof *v->score, "scores", err));
    *n = 0;
    parts[(*n)++] = (ks_cell_part){"score", "F32", {v->n}, v->score};
    parts[(*n)++] = (ks_cell_part){"rate", "F64", {m}, t->rate + at};
    parts[(*n)++] = (ks_cell_part){"epochs", "I32", {m}, t->epochs + at};
    if (!t->param) goto done;
    parts[(*n)++] = (ks_cell_part){
        "parameters", "F32", {m, t->n_params}, t->param + at * t->n_params};
    parts[(*n)++] = (ks_cell_part){
        "mean", "F32", {m, t->n_inputs}, t->mean + at * t->n_inputs};
    parts[(*n)++] = (ks_cell_part){
        "scale", "F32", {m, t->n_inputs}, t->scale + at * t->n_inputs};
done:
    return st;
}

ks_status ks__kind_take(const ks_kind_cells *cells, int32_t c,
                        ks_trained *probes, bool *found, ks_err *err) {
    ks_status st = KS_OK;
    ks_cell_part parts[KS_CELL_PARTS];
    numbers_of v = {0};
    size_t n;
    *found = false;
    KS_TRY(open_numbers(&v, cells, c, probes, parts, &n, err));
    KS_TRY(ks_cell_store_take(cells->place->grid->store, &cells->keys[c], parts,
                              n, found, err));
    if (*found) copy_scores(cells, &v, true);
done:
    free(v.score);
    return st;
}

ks_status ks__kind_put(const ks_kind_cells *cells, int32_t c,
                       const ks_trained *probes, ks_err *err) {
    ks_status st = KS_OK;
    ks_cell_part parts[KS_CELL_PARTS];
    numbers_of v = {0};
    size_t n;
    KS_TRY(open_numbers(&v, cells, c, (ks_trained *)(uintptr_t)probes, parts,
                        &n, err));
    copy_scores(cells, &v, false);
    KS_TRY(ks_cell_store_put(cells->place->grid->store, &cells->keys[c], parts,
                             n, err));
done:
    free(v.score);
    return st;
}

static void margins_of(ks_published *published, int32_t unit,
                       ks_cell_part parts[KS_PUBLISHED_TRAININGS]) {
    ks_published_margins all[KS_PUBLISHED_TRAININGS];
    ks_published_unit(published, unit, all);
    for (int k = 0; k < KS_PUBLISHED_TRAININGS; k++)
        parts[k] = (ks_cell_part){
            all[k].name, "F32", {all[k].epochs, all[k].rows}, all[k].margin};
}

ks_status ks__published_take(const ks_kind_cells *cells, int32_t unit,
                             ks_published *published, bool *found,
                             ks_err *err) {
    ks_cell_part parts[KS_PUBLISHED_TRAININGS];
    margins_of(published, unit, parts);
    return ks_cell_store_take(cells->place->grid->store,
                              &cells->published[unit], parts,
                              KS_PUBLISHED_TRAININGS, found, err);
}

ks_status ks__published_put(const ks_kind_cells *cells, int32_t unit,
                            ks_published *published, ks_err *err) {
    ks_cell_part parts[KS_PUBLISHED_TRAININGS];
    margins_of(published, unit, parts);
    return ks_cell_store_put(cells->place->grid->store, &cells->published[unit],
                             parts, KS_PUBLISHED_TRAININGS, err);
}
