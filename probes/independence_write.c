/* independence_write.c - see independence.h: as text and as JSON. */
#include <math.h>
#include <stdlib.h>

#include "export_json.h"
#include "text_table.h"

static void cell_r(ks_text_cell out, ks_interval r) {
    if (isnan(r.value))
        snprintf(out, KS_TEXT_CELL, "n/a");
    else
        snprintf(out, KS_TEXT_CELL, "%+.2f [%+.2f, %+.2f]", r.value, r.low,
                 r.high);
}

static ks_status write_features(const ks_independence *in, bool markdown,
                                ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    ks_text_grid t = {.n_columns = 4};
    ks_text_cell *row = ks__grid_row(&t, err);
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    static const char *const names[] = {"r of", "labels", "scores",
                                        "predictions"};
    for (int c = 0; c < 4; c++) snprintf(row[c], KS_TEXT_CELL, "%s", names[c]);
    for (int32_t j = 0; j < in->n_features; j++) {
        const ks_surface_r *f = &in->features[j];
        KS_CHECK((row = ks__grid_row(&t, err)), KS_NOMEM,
                 "out of memory for a table");
        snprintf(row[0], KS_TEXT_CELL, "%s", f->name);
        cell_r(row[1], f->labels);
        cell_r(row[2], f->scores);
        cell_r(row[3], f->predictions);
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
done:
    free(t.at);
    return st;
}

static ks_status write_removed(const ks_independence *in, const ks_grid *grid,
                               bool markdown, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    ks_text_grid t = {.n_columns = 4};
    ks_text_cell *row = ks__grid_row(&t, err);
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    static const char *const names[] = {"surface taken out", KS_MOST_FOLDS,
                                        "balanced, %", "minus as it is"};
    for (int c = 0; c < 4; c++) snprintf(row[c], KS_TEXT_CELL, "%s", names[c]);
    for (int32_t k = 0; k < in->n_series; k++)
        for (int32_t i = 0; i < in->removed[k].n_layers; i++) {
            const ks_removed_layer *l = &in->removed[k].at[i];
            KS_CHECK((row = ks__grid_row(&t, err)), KS_NOMEM,
                     "out of memory for a table");
            snprintf(row[0], KS_TEXT_CELL, "%s/%s",
                     ks_stream_name(grid->series[k].stream),
                     ks_position_name(grid->series[k].position));
            snprintf(row[1], KS_TEXT_CELL, "%d", l->layer);
            ks__cell_interval(row[2], l->metrics[KS_BALANCED_ACCURACY], false);
            ks__cell_interval(row[3], l->minus, true);
        }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
done:
    free(t.at);
    return st;
}

ks_status ks_independence_table(const ks_independence *in, const ks_grid *grid,
                                bool markdown, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    if (!in->n_features) return KS_OK;
    const ks_series *of = &grid->series[in->of];
    KS_TRY(ks__text_title(out, markdown, err, "Independence from surface"));
    KS_TRY(write_features(in, markdown, out, err));
    KS_TRY(ks_str_printf(
        out, err,
        "Correlations [95%% interval over problems] with the labels, with the "
        "best\nlayer's out-of-fold scores (%s, %s) and with their "
        "predictions.\n\n",
        ks_stream_name(of->stream), ks_position_name(of->position)));
    KS_TRY(write_removed(in, grid, markdown, out, err));
    KS_TRY(ks_str_printf(
        out, err,
        "All of these features taken out of the activations by least squares "
        "in the\ntraining folds, then the same nested probe on what is "
        "left.\n\n"));
done:
    return st;
}

static json_t *json_removed(const ks_removed_series *removed,
                            const ks_series *series) {
    json_t *one = ks__json_where(series), *layers = json_array();
    for (int32_t i = 0; i < removed->n_layers; i++) {
        const ks_removed_layer *l = &removed->at[i];
        json_array_append_new(
            layers,
            json_pack("{s:i,s:o,s:o}", "layer", (int)l->layer,
                      "balanced_accuracy",
                      ks__json_interval(l->metrics[KS_BALANCED_ACCURACY]),
                      "minus", ks__json_interval(l->minus)));
    }
    json_object_set_new(one, "layers", layers);
    return one;
}

json_t *ks_independence_json(const ks_independence *in, const ks_grid *grid) {
    json_t *object = ks__json_where(&grid->series[in->of]),
           *features = json_array(), *removed = json_array();
    for (int32_t j = 0; j < in->n_features; j++) {
        const ks_surface_r *f = &in->features[j];
        json_array_append_new(
            features,
            json_pack("{s:s,s:o,s:o,s:o}", "name", f->name, "with_labels",
                      ks__json_interval(f->labels), "with_scores",
                      ks__json_interval(f->scores), "with_predictions",
                      ks__json_interval(f->predictions)));
    }
    for (int32_t k = 0; k < in->n_series; k++)
        json_array_append_new(removed,
                              json_removed(&in->removed[k], &grid->series[k]));
    json_object_set_new(object, "features", features);
    json_object_set_new(object, "removed", removed);
    return object;
}
