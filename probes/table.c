/* table.c - see table.h. */
#include "table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------- cells */

enum { LINE = 79, CELL = 40, MAX_COLUMNS = KS_N_STREAMS * KS_N_POSITIONS + 8 };

typedef char text_cell[CELL];

/* Rows of cells; the first is the heading. */
typedef struct grid_text {
    int32_t n_columns, n_rows;
    text_cell *at; /* [n_rows, n_columns] */
    size_t capacity;
} grid_text;

static text_cell *add_row(grid_text *t, ks_err *err) {
    size_t need = (size_t)(t->n_rows + 1) * (size_t)t->n_columns;
    if (ks_grow(&t->at, &t->capacity, need, sizeof *t->at, "table", err) !=
        KS_OK)
        return NULL;
    text_cell *row = t->at + (size_t)t->n_rows++ * (size_t)t->n_columns;
    for (int32_t c = 0; c < t->n_columns; c++) row[c][0] = 0;
    return row;
}

/* A line of the cells of column 0 and [from, to). */
static ks_status write_row(text_cell *row, const int *width, int32_t from,
                           int32_t to, bool markdown, ks_str *out,
                           ks_err *err) {
    ks_status st = KS_OK;
    for (int32_t c = 0; c < to; c++) {
        if (c > 0 && c < from) continue;
        bool last = c + 1 == to && !markdown;
        KS_TRY(ks_str_printf(out, err, "%s%-*s%s", markdown ? "| " : "",
                             last ? 0 : width[c], row[c],
                             last       ? ""
                             : markdown ? " "
                                        : "  "));
    }
    KS_TRY(ks_str_printf(out, err, markdown ? "|\n" : "\n"));
done:
    return st;
}

/* The first column that no longer fits a line beside column 0 and from. */
static int32_t fitting(const grid_text *t, const int *width, int32_t from) {
    int used = width[0];
    int32_t to = from;
    for (; to < t->n_columns; to++) {
        if (to > from && used + 2 + width[to] > LINE) break;
        used += 2 + width[to];
    }
    return to;
}

/* On a terminal, columns that do not fit a line follow below, with the first
 * one repeated. */
static ks_status write_grid(const grid_text *t, bool markdown, ks_str *out,
                            ks_err *err) {
    ks_status st = KS_OK;
    int width[MAX_COLUMNS] = {0};
    for (int32_t r = 0; r < t->n_rows; r++)
        for (int32_t c = 0; c < t->n_columns; c++)
            width[c] = (int)KS_MAX((size_t)width[c],
                                   strlen(t->at[r * t->n_columns + c]));
    for (int32_t from = 1, to; from < t->n_columns; from = to) {
        to = markdown ? t->n_columns : fitting(t, width, from);
        for (int32_t r = 0; r < t->n_rows; r++) {
            KS_TRY(write_row(t->at + r * t->n_columns, width, from, to,
                             markdown, out, err));
            if (!markdown || r > 0) continue;
            for (int32_t c = 0; c < t->n_columns; c++) {
                KS_TRY(ks_str_printf(out, err, "|"));
                for (int k = 0; k < width[c] + 2; k++)
                    KS_TRY(ks_str_printf(out, err, "-"));
            }
            KS_TRY(ks_str_printf(out, err, "|\n"));
        }
        KS_TRY(ks_str_printf(out, err, "\n"));
    }
done:
    return st;
}

/* Words of text in lines, those after the first indented. */
static ks_status write_wrapped(const char *text, int indent, ks_str *out,
                               ks_err *err) {
    ks_status st = KS_OK;
    int used = 0;
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (used > 0 && used + 1 + n > LINE) {
            KS_TRY(ks_str_printf(out, err, "\n%*s", indent, ""));
            used = indent;
        } else if (used > 0) {
            KS_TRY(ks_str_printf(out, err, " "));
            used++;
        }
        KS_TRY(ks_str_printf(out, err, "%.*s", n, text));
        used += n;
        text += n;
        text += strspn(text, " ");
    }
    KS_TRY(ks_str_printf(out, err, "\n"));
done:
    return st;
}

static void interval_cell(text_cell out, ks_interval v, bool sign) {
    if (isnan(v.value))
        snprintf(out, CELL, "n/a");
    else if (isnan(v.low))
        snprintf(out, CELL, sign ? "%+.1f" : "%.1f", 100 * v.value);
    else
        snprintf(out, CELL, sign ? "%+.1f [%+.1f, %+.1f]" : "%.1f [%.1f, %.1f]",
                 100 * v.value, 100 * v.low, 100 * v.high);
}

static void value_cell(text_cell out, double v) {
    if (isnan(v))
        snprintf(out, CELL, "n/a");
    else
        snprintf(out, CELL, "%.3f", v);
}

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

static void heading(text_cell *row, const char *first, const ks_grid *g,
                    bool streams) {
    snprintf(row[0], CELL, "%s", first);
    for (int32_t k = 0; k < g->n_series; k++)
        snprintf(row[k + 1], CELL, "%s%s%s",
                 streams ? ks_stream_name(g->series[k].stream) : "",
                 streams ? "/" : "", ks_position_name(g->series[k].position));
}

static ks_status title(ks_str *out, bool markdown, ks_err *err,
                       const char *text) {
    return ks_str_printf(out, err, "%s%s\n\n", markdown ? "## " : "", text);
}

static bool many_streams(const ks_grid *g) {
    for (int32_t k = 1; k < g->n_series; k++)
        if (g->series[k].stream != g->series[0].stream) return true;
    return false;
}

/* ------------------------------------------------------------------- layers */

/* The chosen layers of a series, with how many of the fits chose each. */
static void chosen_cell(text_cell out, const ks_series *s, int32_t n_fits) {
    int32_t low = INT32_MAX, high = -1;
    for (int32_t i = 0; i < n_fits; i++) {
        int32_t layer = s->cells[s->chosen[i]].layer;
        low = KS_MIN(low, layer);
        high = KS_MAX(high, layer);
    }
    int32_t usual = s->cells[ks_series_usual(s, n_fits)].layer;
    if (low == high)
        snprintf(out, CELL, "layer %d", low);
    else
        snprintf(out, CELL, "layers %d-%d, most %d", low, high, usual);
}

static ks_status layer_rows(const ks_evaluation *r, ks_stream stream,
                            grid_text *t, ks_err *err) {
    int32_t n, first = first_of(&r->grid, stream, &n);
    const ks_series *s = &r->grid.series[first];
    int32_t n_fits = r->folds.n_seeds * r->folds.n_folds;
    text_cell *row;
    t->n_columns = n + 1;
    if (!(row = add_row(t, err))) return KS_NOMEM;
    snprintf(row[0], CELL, "%s layer", ks_stream_name(stream));
    for (int32_t k = 0; k < n; k++)
        snprintf(row[k + 1], CELL, "%s", ks_position_name(s[k].position));
    for (int32_t i = 0; i < s->n_cells; i++) {
        if (!(row = add_row(t, err))) return KS_NOMEM;
        snprintf(row[0], CELL, "%d", s->cells[i].layer);
        for (int32_t k = 0; k < n; k++)
            interval_cell(row[k + 1],
                          s[k].cells[i].metrics[KS_BALANCED_ACCURACY], false);
    }
    if (!(row = add_row(t, err))) return KS_NOMEM;
    snprintf(row[0], CELL, "best *");
    for (int32_t k = 0; k < n; k++)
        interval_cell(row[k + 1], s[k].metrics[KS_BALANCED_ACCURACY], false);
    if (!(row = add_row(t, err))) return KS_NOMEM;
    snprintf(row[0], CELL, "chosen");
    for (int32_t k = 0; k < n; k++) chosen_cell(row[k + 1], &s[k], n_fits);
    static const ks_metric more[] = {KS_AUC, KS_WITHIN_AUC, KS_BRIER};
    static const char *const names[] = {"best: AUC", "best: within-chain AUC",
                                        "best: Brier"};
    for (size_t m = 0; m < KS_COUNT(more); m++) {
        if (!(row = add_row(t, err))) return KS_NOMEM;
        snprintf(row[0], CELL, "%s", names[m]);
        for (int32_t k = 0; k < n; k++)
            value_cell(row[k + 1], s[k].metrics[more[m]].value);
    }
    if (!(row = add_row(t, err))) return KS_NOMEM;
    snprintf(row[0], CELL, "permuted labels");
    for (int32_t k = 0; k < n; k++)
        interval_cell(
            row[k + 1],
            r->permuted[(first + k) * KS_N_METRICS + KS_BALANCED_ACCURACY],
            false);
    return KS_OK;
}

static ks_status write_layers(const ks_evaluation *r, bool markdown,
                              ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    grid_text t = {0};
    KS_TRY(title(out, markdown, err,
                 "Balanced accuracy, % [95% interval over "
                 "problems]"));
    for (int s = 0; s < KS_N_STREAMS; s++) {
        int32_t n;
        if (first_of(&r->grid, (ks_stream)s, &n) < 0) continue;
        t.n_rows = 0;
        KS_TRY(layer_rows(r, (ks_stream)s, &t, err));
        KS_TRY(write_grid(&t, markdown, out, err));
    }
    KS_TRY(ks_str_printf(
        out, err,
        "* the layer with the least loss on inner parts of the training "
        "folds, chosen\nanew for every fold; test rows were read once. "
        "Permuted labels: training\nlabels permuted within folds, %d times, "
        "on the layer chosen most: mean [95%% of\nthe permutations].\n\n",
        KS_PERMUTATIONS));
done:
    free(t.at);
    return st;
}

/* ---------------------------------------------------------------- baselines */

static ks_status write_baselines(const ks_evaluation *r, bool markdown,
                                 ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    grid_text t = {.n_columns = 6};
    text_cell *row = add_row(&t, err);
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    KS_TRY(title(out, markdown, err,
                 "Baselines on the same rows and folds (within-chain: AUC)"));
    static const char *const names[] = {"baseline",     "balanced, %",
                                        "accuracy, %",  "AUC",
                                        "within-chain", "Brier"};
    for (int c = 0; c < 6; c++) snprintf(row[c], CELL, "%s", names[c]);
    for (int32_t b = 0; b < r->baselines.n; b++) {
        const ks_baseline *base = &r->baselines.at[b];
        KS_CHECK((row = add_row(&t, err)), KS_NOMEM,
                 "out of memory for a table");
        snprintf(row[0], CELL, "%s", base->name);
        interval_cell(row[1], base->metrics[KS_BALANCED_ACCURACY], false);
        snprintf(row[2], CELL, "%.1f", 100 * base->metrics[KS_ACCURACY].value);
        value_cell(row[3], base->metrics[KS_AUC].value);
        value_cell(row[4], base->metrics[KS_WITHIN_AUC].value);
        value_cell(row[5], base->metrics[KS_BRIER].value);
    }
    KS_TRY(write_grid(&t, markdown, out, err));
    for (int32_t b = 0; b < r->baselines.n; b++) {
        char note[512];
        snprintf(note, sizeof note, "- %s: %s.", r->baselines.at[b].name,
                 r->baselines.at[b].note);
        KS_TRY(write_wrapped(note, 2, out, err));
    }
    KS_TRY(ks_str_printf(out, err, "\n"));
done:
    free(t.at);
    return st;
}

static ks_status write_rivals(const ks_evaluation *r, bool markdown,
                              ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    grid_text t = {.n_columns = r->grid.n_series + 1};
    if (!r->n_rivals) return KS_OK;
    text_cell *row = add_row(&t, err);
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    KS_TRY(title(out, markdown, err,
                 "Other activations, their own best layer, "
                 "balanced accuracy, %"));
    heading(row, "activations", &r->grid, many_streams(&r->grid));
    for (int32_t i = 0; i < r->n_rivals; i++) {
        KS_CHECK((row = add_row(&t, err)), KS_NOMEM,
                 "out of memory for a table");
        snprintf(row[0], CELL, "%s", r->rivals[i].name);
        for (int32_t k = 0; k < r->grid.n_series; k++) {
            const ks_series *s =
                ks_grid_find(&r->rivals[i].grid, r->grid.series[k].stream,
                             r->grid.series[k].position);
            if (s)
                interval_cell(row[k + 1], s->metrics[KS_BALANCED_ACCURACY],
                              false);
            else
                snprintf(row[k + 1], CELL, "not there");
        }
    }
    KS_TRY(write_grid(&t, markdown, out, err));
done:
    free(t.at);
    return st;
}

static ks_status write_gains(const ks_evaluation *r, bool markdown, ks_str *out,
                             ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = r->grid.n_series;
    grid_text t = {.n_columns = n + 1};
    text_cell *row = add_row(&t, err);
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    KS_TRY(title(out, markdown, err,
                 "Best layer minus baseline, points of "
                 "balanced accuracy, paired"));
    heading(row, "minus", &r->grid, many_streams(&r->grid));
    for (int32_t b = 0; b < r->baselines.n + r->n_rivals; b++) {
        bool rival = b >= r->baselines.n;
        const ks_interval *gain =
            rival ? r->rivals[b - r->baselines.n].gain : r->gain + b * n;
        KS_CHECK((row = add_row(&t, err)), KS_NOMEM,
                 "out of memory for a table");
        snprintf(row[0], CELL, "%s",
                 rival ? r->rivals[b - r->baselines.n].name
                       : r->baselines.at[b].name);
        for (int32_t k = 0; k < n; k++)
            interval_cell(row[k + 1], gain[k], true);
    }
    KS_TRY(write_grid(&t, markdown, out, err));
done:
    free(t.at);
    return st;
}

static ks_status write_strata(const ks_evaluation *r, bool markdown,
                              ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = r->grid.n_series;
    grid_text t = {.n_columns = n + 2};
    const char *field = r->options->paths.strata;
    char text[128];
    if (!r->dataset->n_strata) return KS_OK;
    text_cell *row = add_row(&t, err);
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    snprintf(text, sizeof text, "By %.60s, best layer, balanced accuracy, %%",
             field);
    KS_TRY(title(out, markdown, err, text));
    snprintf(row[0], CELL, "%s", field);
    snprintf(row[1], CELL, "important");
    for (int32_t k = 0; k < n; k++)
        snprintf(row[k + 2], CELL, "%s%s%s",
                 many_streams(&r->grid)
                     ? ks_stream_name(r->grid.series[k].stream)
                     : "",
                 many_streams(&r->grid) ? "/" : "",
                 ks_position_name(r->grid.series[k].position));
    for (int32_t s = 0; s < r->dataset->n_strata; s++) {
        KS_CHECK((row = add_row(&t, err)), KS_NOMEM,
                 "out of memory for a table");
        snprintf(row[0], CELL, "%s", r->dataset->strata[s]);
        snprintf(row[1], CELL, "%lld", (long long)r->strata[s].n_important);
        for (int32_t k = 0; k < n; k++)
            interval_cell(
                row[k + 2],
                r->strata[s].metrics[k * KS_N_METRICS + KS_BALANCED_ACCURACY],
                false);
    }
    KS_TRY(write_grid(&t, markdown, out, err));
    KS_TRY(ks_str_printf(out, err,
                         "Important steps of the stratum against all "
                         "removable ones.\n\n"));
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
                             "%d of %d fits of baselines, permuted labels and "
                             "other activations did not reach the "
                             "tolerance.\n\n",
                             r->other_unconverged, r->other_fits));
done:
    return st;
}

ks_status ks_table_write(const ks_evaluation *evaluation, bool markdown,
                         ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(write_top(evaluation, markdown, out, err));
    KS_TRY(write_layers(evaluation, markdown, out, err));
    KS_TRY(write_baselines(evaluation, markdown, out, err));
    KS_TRY(write_rivals(evaluation, markdown, out, err));
    KS_TRY(write_gains(evaluation, markdown, out, err));
    KS_TRY(write_strata(evaluation, markdown, out, err));
done:
    return st;
}
