/* table.c - see table.h. */
#include "table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "table_analyses.h"
#include "published_write.h"
#include "refined_write.h"
#include "text_table.h"

/* ------------------------------------------------------------------ heading */

static int32_t first_of(const ks_grid *g, ks_stream stream, int32_t *n) {
    int32_t first = -1;
    *n = 0;
    for (int32_t k = 0; k < g->n_series; k++)
        if (g->series[k].stream == stream) {
            if (first < 0) first = k;
            ++*n;
        }
    return first;
}

static void heading(ks_text_cell *row, const char *first, const ks_grid *g,
                    bool streams) {
    snprintf(row[0], KS_TEXT_CELL, "%s", first);
    for (int32_t k = 0; k < g->n_series; k++)
        snprintf(row[k + 1], KS_TEXT_CELL, "%s%s%s",
                 streams ? ks_stream_name(g->series[k].stream) : "",
                 streams ? "/" : "", ks_position_name(g->series[k].position));
}

static bool many_streams(const ks_grid *g) {
    for (int32_t k = 1; k < g->n_series; k++)
        if (g->series[k].stream != g->series[0].stream) return true;
    return false;
}

/* ------------------------------------------------------------------- layers */

/* The chosen layers of a series, with how many of the fits chose each. */
static void chosen_cell(ks_text_cell out, const ks_series *s, int32_t n_fits) {
    int32_t low = INT32_MAX, high = -1;
    for (int32_t i = 0; i < n_fits; i++) {
        int32_t layer = s->cells[s->chosen[i]].layer;
        low = KS_MIN(low, layer);
        high = KS_MAX(high, layer);
    }
    int32_t usual = s->cells[ks_series_usual(s, n_fits)].layer;
    if (low == high)
        snprintf(out, KS_TEXT_CELL, "layer %d", low);
    else
        snprintf(out, KS_TEXT_CELL, "layers %d-%d, most %d", low, high, usual);
}

static ks_status layer_rows(const ks_evaluation *r, ks_stream stream,
                            ks_text_grid *t, ks_err *err) {
    int32_t n, first = first_of(&r->grid, stream, &n);
    const ks_series *s = &r->grid.series[first];
    int32_t n_fits = r->folds.n_seeds * r->folds.n_folds;
    ks_text_cell *row;
    t->n_columns = n + 1;
    if (!(row = ks__grid_row(t, err))) return KS_NOMEM;
    snprintf(row[0], KS_TEXT_CELL, "%s layer", ks_stream_name(stream));
    for (int32_t k = 0; k < n; k++)
        snprintf(row[k + 1], KS_TEXT_CELL, "%s",
                 ks_position_name(s[k].position));
    for (int32_t i = 0; i < s->n_cells; i++) {
        if (!(row = ks__grid_row(t, err))) return KS_NOMEM;
        snprintf(row[0], KS_TEXT_CELL, "%d", s->cells[i].layer);
        for (int32_t k = 0; k < n; k++)
            ks__cell_judged(row[k + 1],
                            s[k].cells[i].metrics[KS_BALANCED_ACCURACY], false,
                            s[k].cells[i].p_holm);
    }
    if (!(row = ks__grid_row(t, err))) return KS_NOMEM;
    snprintf(row[0], KS_TEXT_CELL, "best *");
    for (int32_t k = 0; k < n; k++)
        ks__cell_judged(row[k + 1], s[k].metrics[KS_BALANCED_ACCURACY], false,
                        s[k].p_holm);
    if (!(row = ks__grid_row(t, err))) return KS_NOMEM;
    snprintf(row[0], KS_TEXT_CELL, "chosen");
    for (int32_t k = 0; k < n; k++) chosen_cell(row[k + 1], &s[k], n_fits);
    static const ks_metric more[] = {KS_AUC, KS_WITHIN_AUC, KS_BRIER};
    static const char *const names[] = {"best: AUC", "best: within-chain AUC",
                                        "best: Brier"};
    for (size_t m = 0; m < KS_COUNT(more); m++) {
        if (!(row = ks__grid_row(t, err))) return KS_NOMEM;
        snprintf(row[0], KS_TEXT_CELL, "%s", names[m]);
        for (int32_t k = 0; k < n; k++)
            ks__cell_value(row[k + 1], s[k].metrics[more[m]].value);
    }
    if (!(row = ks__grid_row(t, err))) return KS_NOMEM;
    snprintf(row[0], KS_TEXT_CELL, "permuted labels");
    for (int32_t k = 0; k < n; k++)
        ks__cell_interval(
            row[k + 1],
            r->permuted[(first + k) * KS_N_METRICS + KS_BALANCED_ACCURACY],
            false);
    return KS_OK;
}

static ks_status write_layers(const ks_evaluation *r, bool markdown,
                              ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    ks_text_grid t = {0};
    KS_TRY(ks__text_title(out, markdown, err,
                          "Balanced accuracy, % [95% interval over "
                          "problems]"));
    for (int s = 0; s < KS_N_STREAMS; s++) {
        int32_t n;
        if (first_of(&r->grid, (ks_stream)s, &n) < 0) continue;
        t.n_rows = 0;
        KS_TRY(layer_rows(r, (ks_stream)s, &t, err));
        KS_TRY(ks__grid_write(&t, markdown, out, err));
    }
    KS_TRY(ks_str_printf(
        out, err,
        "* the layer with the least loss on inner parts of the training "
        "folds, chosen\nanew for every fold; test rows were read once. "
        "ns: not significant at 5%% by a\ntest of whether steps of a "
        "chain are told apart, after Holm over the\nlayers (best *: over "
        "positions and streams). Permuted labels: training labels\npermuted "
        "within folds, %d times, on the layer chosen most: mean [95%% of "
        "the\npermutations].\n\n",
        KS_PERMUTATIONS));
done:
    free(t.at);
    return st;
}

/* ---------------------------------------------------------------- baselines */

static ks_status write_baselines(const ks_evaluation *r, bool markdown,
                                 ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    ks_text_grid t = {.n_columns = 6};
    ks_text_cell *row = ks__grid_row(&t, err);
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    KS_TRY(ks__text_title(
        out, markdown, err,
        "Baselines on the same rows and folds (within-chain: AUC)"));
    static const char *const names[] = {"baseline",     "balanced, %",
                                        "accuracy, %",  "AUC",
                                        "within-chain", "Brier"};
    for (int c = 0; c < 6; c++) snprintf(row[c], KS_TEXT_CELL, "%s", names[c]);
    for (int32_t b = 0; b < r->baselines.n; b++) {
        const ks_baseline *base = &r->baselines.at[b];
        KS_CHECK((row = ks__grid_row(&t, err)), KS_NOMEM,
                 "out of memory for a table");
        snprintf(row[0], KS_TEXT_CELL, "%s", base->name);
        ks__cell_interval(row[1], base->metrics[KS_BALANCED_ACCURACY], false);
        snprintf(row[2], KS_TEXT_CELL, "%.1f",
                 100 * base->metrics[KS_ACCURACY].value);
        ks__cell_value(row[3], base->metrics[KS_AUC].value);
        ks__cell_value(row[4], base->metrics[KS_WITHIN_AUC].value);
        ks__cell_value(row[5], base->metrics[KS_BRIER].value);
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
    for (int32_t b = 0; markdown && b < r->baselines.n; b++) {
        char note[512];
        snprintf(note, sizeof note, "- %s: %s.", r->baselines.at[b].name,
                 r->baselines.at[b].note);
        KS_TRY(ks__text_wrapped(note, 2, out, err));
    }
    if (markdown) KS_TRY(ks_str_printf(out, err, "\n"));
done:
    free(t.at);
    return st;
}

static ks_status write_rivals(const ks_evaluation *r, bool markdown,
                              ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    ks_text_grid t = {.n_columns = r->grid.n_series + 1};
    if (!r->n_rivals) return KS_OK;
    ks_text_cell *row = ks__grid_row(&t, err);
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    KS_TRY(ks__text_title(out, markdown, err,
                          "Other activations, their own best layer, "
                          "balanced accuracy, %"));
    heading(row, "activations", &r->grid, many_streams(&r->grid));
    for (int32_t i = 0; i < r->n_rivals; i++) {
        KS_CHECK((row = ks__grid_row(&t, err)), KS_NOMEM,
                 "out of memory for a table");
        snprintf(row[0], KS_TEXT_CELL, "%s", r->rivals[i].name);
        for (int32_t k = 0; k < r->grid.n_series; k++) {
            const ks_series *s =
                ks_grid_find(&r->rivals[i].grid, r->grid.series[k].stream,
                             r->grid.series[k].position);
            if (s)
                ks__cell_judged(row[k + 1], s->metrics[KS_BALANCED_ACCURACY],
                                false, s->p_holm);
            else
                snprintf(row[k + 1], KS_TEXT_CELL, "not there");
        }
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
    KS_TRY(ks_str_printf(out, err, "ns: as of best * above.\n\n"));
done:
    free(t.at);
    return st;
}

static ks_status write_gains(const ks_evaluation *r, bool markdown, ks_str *out,
                             ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = r->grid.n_series;
    ks_text_grid t = {.n_columns = n + 1};
    ks_text_cell *row = ks__grid_row(&t, err);
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    KS_TRY(ks__text_title(out, markdown, err,
                          "Best layer minus baseline, points of "
                          "balanced accuracy, paired"));
    heading(row, "minus", &r->grid, many_streams(&r->grid));
    for (int32_t b = 0; b < r->baselines.n + r->n_rivals; b++) {
        bool rival = b >= r->baselines.n;
        KS_CHECK((row = ks__grid_row(&t, err)), KS_NOMEM,
                 "out of memory for a table");
        snprintf(row[0], KS_TEXT_CELL, "%s",
                 rival ? r->rivals[b - r->baselines.n].name
                       : r->baselines.at[b].name);
        for (int32_t k = 0; k < n; k++)
            ks__cell_judged(row[k + 1], ks__evaluation_gain(r, b, k)->points,
                            true, ks__evaluation_gain(r, b, k)->p_holm);
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
    KS_TRY(ks_str_printf(out, err,
                         "ns: not significant at 5%% by sign flips over "
                         "problems, after Holm over the\ncolumn's rows.\n\n"));
done:
    free(t.at);
    return st;
}

static ks_status write_strata(const ks_evaluation *r, bool markdown,
                              ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = r->grid.n_series;
    ks_text_grid t = {.n_columns = n + 2};
    const char *field = r->options->paths.strata;
    char text[128];
    if (!r->dataset->n_strata) return KS_OK;
    ks_text_cell *row = ks__grid_row(&t, err);
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    snprintf(text, sizeof text, "By %.60s, best layer, balanced accuracy, %%",
             field);
    KS_TRY(ks__text_title(out, markdown, err, text));
    snprintf(row[0], KS_TEXT_CELL, "%s", field);
    snprintf(row[1], KS_TEXT_CELL, "important");
    for (int32_t k = 0; k < n; k++)
        snprintf(row[k + 2], KS_TEXT_CELL, "%s%s%s",
                 many_streams(&r->grid)
                     ? ks_stream_name(r->grid.series[k].stream)
                     : "",
                 many_streams(&r->grid) ? "/" : "",
                 ks_position_name(r->grid.series[k].position));
    for (int32_t s = 0; s < r->dataset->n_strata; s++) {
        KS_CHECK((row = ks__grid_row(&t, err)), KS_NOMEM,
                 "out of memory for a table");
        snprintf(row[0], KS_TEXT_CELL, "%s", r->dataset->strata[s]);
        snprintf(row[1], KS_TEXT_CELL, "%lld",
                 (long long)r->strata[s].n_important);
        for (int32_t k = 0; k < n; k++)
            ks__cell_interval(
                row[k + 2],
                r->strata[s].metrics[k * KS_N_METRICS + KS_BALANCED_ACCURACY],
                false);
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
    KS_TRY(ks_str_printf(out, err,
                         "Important steps of the stratum against all "
                         "removable ones.\n\n"));
done:
    free(t.at);
    return st;
}

/* ------------------------------------------------------------- other probes */

static ks_status write_others(const ks_evaluation *r, bool markdown,
                              ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    ks_text_grid t = {.n_columns = 7};
    if (!r->others.n) return KS_OK;
    ks_text_cell *row = ks__grid_row(&t, err);
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    KS_TRY(ks__text_title(out, markdown, err,
                          "Other probes on the same rows and folds"));
    static const char *const names[] = {"probe",       "of",           "layer",
                                        "balanced, %", "within-chain", "Brier",
                                        "minus best *"};
    for (int c = 0; c < 7; c++) snprintf(row[c], KS_TEXT_CELL, "%s", names[c]);
    for (int32_t i = 0; i < r->others.n; i++) {
        const ks_other *o = &r->others.at[i];
        KS_CHECK((row = ks__grid_row(&t, err)), KS_NOMEM,
                 "out of memory for a table");
        snprintf(row[0], KS_TEXT_CELL, "%s", o->probe);
        snprintf(row[1], KS_TEXT_CELL, "%s/%s", ks_stream_name(o->stream),
                 ks_position_name(o->position));
        if (o->layer >= 0)
            snprintf(row[2], KS_TEXT_CELL, "%d", o->layer);
        else
            snprintf(row[2], KS_TEXT_CELL, "several");
        ks__cell_interval(row[3], o->metrics[KS_BALANCED_ACCURACY], false);
        ks__cell_value(row[4], o->metrics[KS_WITHIN_AUC].value);
        ks__cell_value(row[5], o->metrics[KS_BRIER].value);
        ks__cell_interval(row[6], o->minus_best, true);
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
    for (int32_t i = 0; i < r->others.n; i++) {
        const ks_other *o = &r->others.at[i];
        char note[512];
        int32_t before = 0; /* the first with that note */
        while (strcmp(o->note, r->others.at[before].note) != 0) before++;
        if (before < i) continue;
        snprintf(note, sizeof note, "- %s: %s.", o->probe, o->note);
        KS_TRY(ks__text_wrapped(note, 2, out, err));
    }
    KS_TRY(ks_str_printf(out, err, "\n"));
done:
    free(t.at);
    return st;
}

/* ---------------------------------------------------------------------- all */

static ks_status write_top(const ks_evaluation *r, bool markdown, ks_str *out,
                           ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = r->dataset;
    KS_TRY(ks_str_printf(out, err, "%sProbes of %s%s\n\n", markdown ? "# " : "",
                         d->info->model_name,
                         d->info->random_weights >= 0 ? ", random weights"
                         : d->info->context_none ? ", steps without context"
                                                 : ""));
    KS_TRY(ks_str_printf(
        out, err,
        "%lld steps (%lld important, %lld removable) of %d chains and %d "
        "problems;\n%lld unlabelled and %lld without an activation are left "
        "out. %d folds by problem,\n%d seed%s; strength of L2 chosen on %d "
        "inner parts of the training folds by\nbalanced log-loss.\n\n",
        (long long)d->n, (long long)d->n_important, (long long)d->n_removable,
        d->n_chains, d->n_groups, (long long)d->n_unlabelled,
        (long long)d->n_invalid, r->folds.n_folds, r->folds.n_seeds,
        r->folds.n_seeds > 1 ? "s" : "", r->folds.n_inner));
    if (r->shared_texts)
        KS_TRY(ks_str_printf(out, err,
                             "%lld steps have a text that also stands in "
                             "another fold.\n\n",
                             (long long)r->shared_texts));
    if (r->grid.unconverged)
        KS_TRY(ks_str_printf(out, err,
                             "%d of %d fits did not reach the tolerance.\n\n",
                             r->grid.unconverged, r->grid.columns));
    if (r->other_unconverged)
        KS_TRY(ks_str_printf(out, err,
                             "%d of %d fits of baselines, controls, analyses, "
                             "other probes and activations did not reach the "
                             "tolerance.\n\n",
                             r->other_unconverged, r->other_fits));
done:
    return st;
}

ks_status ks_table_write(const ks_evaluation *evaluation, bool markdown,
                         ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    const ks_evaluation *r = evaluation;
    KS_TRY(write_top(r, markdown, out, err));
    KS_TRY(write_layers(r, markdown, out, err));
    KS_TRY(write_baselines(r, markdown, out, err));
    if (markdown) {
        KS_TRY(write_rivals(r, markdown, out, err));
        KS_TRY(write_gains(r, markdown, out, err));
    }
    KS_TRY(write_others(r, markdown, out, err));
    KS_TRY(ks__protocols_table(&r->kinds, markdown, out, err));
    KS_TRY(ks__published_texts_table(&r->published_texts, markdown, out, err));
    if (markdown) {
        KS_TRY(write_strata(r, markdown, out, err));
        KS_TRY(ks_independence_table(&r->independence, &r->grid, markdown, out,
                                     err));
        KS_TRY(ks_table_analyses(r, markdown, out, err));
        KS_TRY(ks__refined_table(r, markdown, out, err));
    }
    KS_TRY(ks_table_claims(r, markdown, out, err));
done:
    return st;
}
