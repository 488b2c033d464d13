/* table_analyses.c - the analyses (analyses.h) as text. */
#include "table_analyses.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text_table.h"

static void place_cell(ks_text_cell out, const ks_series *s) {
    snprintf(out, KS_TEXT_CELL, "%s/%s", ks_stream_name(s->stream),
             ks_position_name(s->position));
}

/* ---------------------------------------------------------------- refinement
 */

static ks_status refinement(const ks_evaluation *r, bool markdown, ks_str *out,
                            ks_err *err) {
    ks_status st = KS_OK;
    static const char *const names[] = {"series", "trend over layers",
                                        "within 3 points, %", "half as last"};
    ks_text_grid t = {.n_columns = 4};
    ks_text_cell *row;
    KS_TRY(ks__text_title(out, markdown, err, "From layer to layer"));
    KS_TRY(ks__grid_heading(&t, names, err));
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_refinement *f = &r->analyses.refinement[k];
        const ks_series *s = &r->grid.series[k];
        int32_t first = -1;
        for (int32_t c = s->n_cells - 1;
             c >= 0 && f->correlation[c].value >= 0.5; c--)
            first = s->cells[c].layer;
        KS_TRY(ks__grid_where(&t, s->stream, s->position, &row, err));
        ks__cell_plain(row[1], f->trend);
        ks__cell_interval(row[2], f->near_best, false);
        if (first >= 0) snprintf(row[3], KS_TEXT_CELL, "layer %d", first);
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
    KS_TRY(ks_str_printf(
        out, err,
        "Trend: Spearman's correlation of layer and balanced accuracy. Within "
        "3 points:\nlayers that far below best (chosen in the training folds) "
        "at most. Half as last: from\nwhich layer on scores correlate with the "
        "last layer's by 0.5 or more; summary.json\nhas all layers.\n\n"));
done:
    free(t.at);
    return st;
}

/* ------------------------------------------------------------- layers needed
 */

static ks_status needed(const ks_evaluation *r, bool markdown, ks_str *out,
                        ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = r->grid.n_series;
    ks_text_grid t = {.n_columns = n + 1};
    ks_text_cell *row = ks__grid_row(&t, err);
    const ks_layers_needed *all = r->analyses.layers_needed;
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    KS_TRY(ks__text_title(out, markdown, err,
                          "Layers together, balanced accuracy, %"));
    snprintf(row[0], KS_TEXT_CELL, "layers");
    for (int32_t k = 0; k < n; k++) place_cell(row[k + 1], &r->grid.series[k]);
    for (int32_t i = 0; i < all[0].n_sizes; i++) {
        KS_CHECK((row = ks__grid_row(&t, err)), KS_NOMEM,
                 "out of memory for a table");
        if (i + 1 == all[0].n_sizes)
            snprintf(row[0], KS_TEXT_CELL, "all");
        else
            snprintf(row[0], KS_TEXT_CELL, "%d", all[0].size[i]);
        for (int32_t k = 0; k < n; k++)
            if (i < all[k].n_sizes)
                ks__cell_interval(row[k + 1], all[k].accuracy[i], false);
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
    KS_TRY(ks_str_printf(
        out, err,
        "Logistic regression on the scores of the layers' probes; the layers "
        "are chosen\none after another inside the training folds.\n\n"));
done:
    free(t.at);
    return st;
}

/* ------------------------------------------------------ selectivity, learning
 */

static ks_status selectivity(const ks_evaluation *r, bool markdown, ks_str *out,
                             ks_err *err) {
    ks_status st = KS_OK;
    static const char *const names[] = {"series", KS_MOST_FOLDS, "real, %",
                                        "control, %", "selectivity"};
    ks_text_grid t = {.n_columns = 5};
    ks_text_cell *row;
    KS_TRY(ks__text_title(out, markdown, err,
                          "Control task: a random label for each text"));
    KS_TRY(ks__grid_heading(&t, names, err));
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_selectivity *s = &r->analyses.selectivity[k];
        KS_TRY(ks__grid_where(&t, r->grid.series[k].stream,
                              r->grid.series[k].position, &row, err));
        snprintf(row[1], KS_TEXT_CELL, "%d", s->layer);
        ks__cell_interval(row[2], s->real, false);
        ks__cell_interval(row[3], s->control, false);
        ks__cell_interval(row[4], s->selectivity, true);
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
done:
    free(t.at);
    return st;
}

static ks_status learning(const ks_evaluation *r, bool markdown, ks_str *out,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_text_grid t = {.n_columns = KS_CURVE_POINTS + 1};
    ks_text_cell *row = ks__grid_row(&t, err);
    const ks_learning_curve *curves = r->analyses.learning_curve;
    const ks_learning_curve *most = &curves[0];
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    for (int32_t k = 1; k < r->grid.n_series; k++)
        if (curves[k].n_points > most->n_points) most = &curves[k];
    if (!most->n_points) goto done;
    t.n_columns = most->n_points + 1;
    KS_TRY(ks__text_title(out, markdown, err,
                          "Training problems, balanced accuracy, % (best "
                          "layer, chosen by fold)"));
    snprintf(row[0], KS_TEXT_CELL, "series");
    for (int32_t i = 0; i < most->n_points; i++)
        snprintf(row[i + 1], KS_TEXT_CELL, "%.0f", most->problems[i]);
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_learning_curve *c = &curves[k];
        int32_t skip = most->n_points - c->n_points; /* small ones fail */
        KS_TRY(ks__grid_where(&t, r->grid.series[k].stream,
                              r->grid.series[k].position, &row, err));
        for (int32_t i = 0; i < c->n_points; i++)
            ks__cell_interval(row[i + skip + 1], c->accuracy[i], false);
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
done:
    free(t.at);
    return st;
}

/* ----------------------------------------------------------------------- all
 */

ks_status ks_table_analyses(const ks_evaluation *r, bool markdown, ks_str *out,
                            ks_err *err) {
    ks_status st = KS_OK;
    const ks_analyses *a = &r->analyses;
    if (!r->grid.n_series) return KS_OK;
    if (a->refinement) KS_TRY(refinement(r, markdown, out, err));
    if (a->layers_needed && a->layers_needed[0].n_sizes > 1)
        KS_TRY(needed(r, markdown, out, err));
    if (a->selectivity) KS_TRY(selectivity(r, markdown, out, err));
    if (a->learning_curve) KS_TRY(learning(r, markdown, out, err));
done:
    return st;
}
