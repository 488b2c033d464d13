/* grid_cells.c - see grid_cells.h. */
#include "grid_cells.h"

#include <stdlib.h>

/* -------------------------------------------------------------------- keys */

static json_t *strengths_of(const ks_nest_options *o) {
    json_t *list = json_array();
    for (int32_t i = 0; i < o->n_strengths; i++)
        json_array_append_new(list, json_real(o->strengths[i]));
    return list;
}

static ks_status key_of(ks_cell_key *out, const json_t *common,
                        const ks_series *series, int32_t layer,
                        const ks_cell_rows *rows, const ks_folds *folds,
                        const ks_nest_options *o, ks_err *err) {
    ks_status st = KS_OK;
    const char *stream = ks_stream_name(series->stream);
    const char *position = ks_position_name(series->position);
    char values[65];
    KS_TRY(ks_cell_layers_hash(values, rows->file, series->stream,
                               series->position, &layer, 1, err));
    json_t *own = json_pack(
        "{s:s,s:s,s:s,s:i,s:s,s:i,s:o,s:f,s:i}", "cell", "l2", "stream", stream,
        "position", position, "layer", (int)layer, "values", values,
        "inner_parts", (int)folds->n_inner, "strengths", strengths_of(o),
        "tolerance", ks_nest_tolerance(o), "most_passes",
        o->max_passes ? (int)o->max_passes : KS_DEFAULT_PASSES);
    KS_TRY(ks_cell_key_make(out, common, own, err, "l2-%s-%s-layer%02d", stream,
                            position, layer));
done:
    return st;
}

ks_status ks__grid_keys(ks_cell_key **out, const ks_series *series,
                        const ks_cell_rows *rows, const ks_folds *folds,
                        const ks_grid_options *options, ks_err *err) {
    ks_status st = KS_OK;
    json_t *common = NULL;
    int32_t n = series->n_cells;
    KS_TRY(ks_alloc(out, (size_t)n, sizeof **out, "cells", err));
    KS_TRY(ks_cell_common(&common, options->store, rows, err));
    KS_TRY(ks_cell_add_folds(common, folds, err));
    for (int32_t i = 0; i < n; i++)
        KS_TRY(key_of(&(*out)[i], common, series, series->cells[i].layer, rows,
                      folds, &options->nest, err));
done:
    json_decref(common);
    if (st != KS_OK) ks__grid_keys_free(out, n);
    return st;
}

void ks__grid_keys_free(ks_cell_key **keys, int32_t n) {
    for (int32_t i = 0; *keys && i < n; i++) ks_cell_key_free(&(*keys)[i]);
    free(*keys);
    *keys = NULL;
}

/* About so many passes' operations of the solver's products. */
static double cost_of(int64_t d, const ks_folds *folds,
                      const ks_nest_options *o) {
    enum { PASSES = 9 };
    return 4.0 * PASSES * (double)folds->n * (double)d *
           ks_nest_columns(folds, o);
}

ks_status ks_grid_expect(const ks_grid *outline, const ks_dataset *dataset,
                         const ks_acts_file *file, const int64_t *place,
                         const ks_folds *folds, const ks_grid_options *options,
                         ks_err *err) {
    ks_status st = KS_OK;
    const ks_cell_rows rows = {dataset, file, place};
    double cost = cost_of(outline->d, folds, &options->nest);
    ks_cell_key *keys = NULL;
    int32_t n = 0;
    for (int32_t k = 0; k < outline->n_series; k++) {
        n = outline->series[k].n_cells;
        KS_TRY(ks__grid_keys(&keys, &outline->series[k], &rows, folds, options,
                             err));
        for (int32_t i = 0; i < n; i++)
            KS_TRY(ks_cell_store_expect(options->store, &keys[i], cost, err));
        ks__grid_keys_free(&keys, n);
    }
done:
    ks__grid_keys_free(&keys, n);
    return st;
}

ks_status ks_grid_left(const ks_grid *outline, int32_t series,
                       const ks_dataset *dataset, const ks_acts_file *file,
                       const int64_t *place, const ks_folds *folds,
                       const ks_grid_options *options, int32_t *left,
                       ks_err *err) {
    ks_status st = KS_OK;
    const ks_series *s = &outline->series[series];
    const ks_cell_rows rows = {dataset, file, place};
    ks_cell_key *keys = NULL;
    *left = s->n_cells;
    if (!options->store) return KS_OK;
    KS_TRY(ks__grid_keys(&keys, s, &rows, folds, options, err));
    *left = 0;
    for (int32_t i = 0; i < s->n_cells; i++)
        *left += ks_cell_store_missing(options->store, &keys[i]);
done:
    ks__grid_keys_free(&keys, s->n_cells);
    return st;
}

/* ------------------------------------------------------------------- numbers
 */

enum { COLUMNS, PASSES, UNCONVERGED, N_COUNTS };

/* Arrays of a nest; those that it does not have are not wanted. */
static size_t parts_of(const ks_nest *nest, const ks_folds *folds,
                       int32_t counts[N_COUNTS], ks_cell_part *parts) {
    int64_t fits = nest->n_fits, n = nest->n, d = nest->d;
    const ks_cell_part all[] = {
        {"score", "F32", {folds->n_seeds, n}, nest->score},
        {"strength", "F64", {fits}, nest->strength},
        {"loss", "F64", {fits}, nest->loss},
        {"gradient", "F64", {fits}, nest->gradient},
        {"reads", "I32", {fits}, nest->reads},
        {"columns_passes_unconverged", "I32", {N_COUNTS}, counts},
        {"bias", "F32", {fits}, nest->bias},
        {"weight", "F32", {fits, d}, nest->weight},
        {"mean", "F32", {fits, d}, nest->mean},
        {"scale", "F32", {fits, d}, nest->scale},
        {"inner", "F32", {fits, n}, nest->inner},
    };
    _Static_assert(KS_COUNT(all) <= KS_CELL_PARTS, "room for all parts");
    for (size_t i = 0; i < KS_COUNT(all); i++) parts[i] = all[i];
    return KS_COUNT(all);
}

ks_status ks__grid_take(ks_nest *nest, const ks_cell_key *key, int64_t d,
                        const ks_folds *folds, const ks_grid_options *options,
                        bool *found, ks_err *err) {
    ks_status st = KS_OK;
    int32_t counts[N_COUNTS];
    ks_cell_part parts[KS_CELL_PARTS];
    int32_t columns = ks_nest_columns(folds, &options->nest);
    KS_TRY(ks_nest_alloc(nest, d, folds, &options->nest, err));
    size_t n = parts_of(nest, folds, counts, parts);
    KS_TRY(ks_cell_store_take(options->store, key, parts, n, found, err));
    if (!*found) goto done;
    KS_CHECK(counts[COLUMNS] == columns && counts[PASSES] >= 0 &&
                 counts[UNCONVERGED] >= 0 && counts[UNCONVERGED] <= columns,
             KS_FORMAT, "%s: counts %d fits, expected %d", key->name,
             counts[COLUMNS], columns);
    nest->columns = counts[COLUMNS];
    nest->passes = counts[PASSES];
    nest->unconverged = counts[UNCONVERGED];
done:
    if (st != KS_OK || !*found) ks_nest_free(nest);
    return st;
}

ks_status ks__grid_put(ks_nest *nest, const ks_cell_key *key,
                       const ks_folds *folds, const ks_grid_options *options,
                       ks_err *err) {
    int32_t counts[N_COUNTS] = {nest->columns, nest->passes, nest->unconverged};
    ks_cell_part parts[KS_CELL_PARTS];
    size_t n = parts_of(nest, folds, counts, parts);
    ks_status st = ks_cell_store_put(options->store, key, parts, n, err);
    ks_nest_drop(nest, &options->nest);
    return st;
}

ks_nest_options ks__grid_whole(const ks_grid_options *options) {
    ks_nest_options whole = options->nest;
    whole.keep_weights = whole.keep_inner = true;
    return whole;
}
