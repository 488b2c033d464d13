/* sections_layers.c - the runs, their claims, and accuracy by layer and
 * position. */
#include "sections.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------ claims */

static ks_column_kind kind_of_unit(const char *unit) {
    if (unit && strcmp(unit, "points") == 0) return KS_COLUMN_POINTS;
    if (unit && strcmp(unit, "percent") == 0) return KS_COLUMN_PERCENT;
    return KS_COLUMN_RANGE;
}

/* "+4.9 points" and "[+4.1, +5.8]": units differ from row to row. */
static void figure_cells(ks_report_table *t, const json_t *claim) {
    ks_report *r = t->of;
    json_t *figure = json_object_get(claim, "figure");
    const char *unit = ks__text(claim, "unit"), *range;
    ks_column_kind kind = kind_of_unit(unit);
    char one[64], all[128];
    ks_report_cell cell = {NULL, ks__number(figure, "value"), NAN, NAN};
    ks__cell_show(&cell, kind, one, sizeof one);
    cell.low = ks__number(figure, "low");
    cell.high = ks__number(figure, "high");
    ks__cell_show(&cell, kind, all, sizeof all);
    range = strchr(all, '[');
    if (!unit || strcmp(unit, "number") == 0 || isnan(cell.value))
        unit = "";
    else if (kind == KS_COLUMN_PERCENT)
        unit = "%";
    else
        unit = ks__report_text(r, " %s", ks__report_brief(r, unit, 40));
    ks__cell_text(t, ks__report_text(r, "%s%s", one, unit));
    ks__cell_text(t, range ? ks__report_text(r, "%s", range) : "");
}

static void add_claims(ks_report_table *t, const ks_runs *runs, size_t run) {
    ks_report *r = t->of;
    json_t *claim, *all = json_object_get(runs->at[run].summary, "claims");
    size_t i;
    json_array_foreach(all, i, claim) {
        const char *note = ks__text(claim, "note");
        const char *rule = ks__text(claim, "rule");
        ks__run_cell(t, runs, run);
        ks__cell_text(t,
                      ks__report_brief(r, ks__text(claim, "question"), 1000));
        figure_cells(t, claim);
        ks__cell_number(t, ks__number(claim, "p"));
        ks__cell_text(t, ks__named(r, claim, "verdict"));
        ks__cell_text(t, rule ? ks__report_brief(r, rule, 1000) : "");
        ks__cell_text(t, note ? ks__report_brief(r, note, 1000) : "");
    }
    if (!json_array_size(all))
        ks__absent_in(r, runs, run, "no claims with their verdicts");
}

void ks__section_claims(ks_report *r, const ks_runs *runs) {
    ks__section(r, "claims", "Questions and answers",
                "Each question with its figure, its 95% interval and the "
                "verdict by a rule that was stated before.");
    ks_report_table *t = ks__table(r, "claims", "Questions and answers");
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "question");
    ks__column(t, KS_COLUMN_TEXT, "figure");
    ks__column(t, KS_COLUMN_TEXT, "95% interval");
    ks__column(t, KS_COLUMN_P, "p");
    ks__column(t, KS_COLUMN_TEXT, "verdict");
    ks__column(t, KS_COLUMN_TEXT, "rule");
    ks__column(t, KS_COLUMN_TEXT, "what the figure is");
    for (size_t i = 0; i < runs->n; i++)
        if (runs->at[i].summary) add_claims(t, runs, i);
    ks__table_end(t);
}

/* -------------------------------------------------------------------- runs */

void ks__section_runs(ks_report *r, const ks_runs *runs) {
    static const char *const counts[] = {"steps",  "important", "removable",
                                         "chains", "problems",  "unlabelled"};
    static const char *const settings[] = {"folds", "seeds"};
    ks__section(r, "data", "What was measured",
                "Steps are split by problem: no problem is on both sides of "
                "a split, and nothing is chosen on test rows.");
    ks_report_table *t = ks__table(r, "runs", "What was measured");
    ks__column(t, KS_COLUMN_TEXT, "run");
    ks__column(t, KS_COLUMN_TEXT, "model");
    ks__column(t, KS_COLUMN_TEXT, "dataset");
    ks__column(t, KS_COLUMN_TEXT, "context");
    for (size_t c = 0; c < KS_COUNT(counts); c++)
        ks__column(t, KS_COLUMN_WHOLE, counts[c]);
    for (size_t c = 0; c < KS_COUNT(settings); c++)
        ks__column(t, KS_COLUMN_WHOLE, settings[c]);
    for (size_t i = 0; i < runs->n; i++) {
        const json_t *s = runs->at[i].summary;
        if (!s) continue;
        ks__cell_text(t, ks__report_brief(r, runs->at[i].name, 60));
        ks__cell_text(t, ks__named(r, s, "model"));
        ks__cell_text(t, ks__named(r, s, "dataset"));
        ks__cell_text(t, ks__named(r, s, "context"));
        for (size_t c = 0; c < KS_COUNT(counts); c++)
            ks__cell_number(t,
                            ks__number(json_object_get(s, "rows"), counts[c]));
        for (size_t c = 0; c < KS_COUNT(settings); c++)
            ks__cell_number(
                t, ks__number(json_object_get(s, "settings"), settings[c]));
    }
    ks__table_end(t);
}

/* ----------------------------------------------------------------- figures */

/* The baseline that does best in balanced accuracy: a line to compare with. */
static void best_baseline(ks_report_figure *f, const ks_run *run) {
    json_t *one, *best = NULL,
                 *all = json_object_get(run->summary, "baselines");
    double most = -1;
    size_t i;
    json_array_foreach(all, i, one) {
        double v = ks__number(ks__member(one, "metrics", "balanced_accuracy"),
                              "value");
        if (v > most && !ks__reads_labels(one)) most = v, best = one;
    }
    /* on top of the line of chance it would only hide its name */
    if (best && most > 0.51)
        ks__reference(f,
                      ks__report_text(f->of, "best baseline: %s",
                                      ks__named(f->of, best, "name")),
                      most);
}

/* Is it of this stream? NULL: of any. */
static bool is_of(const json_t *series, const char *stream) {
    return !stream || strcmp(ks__text(series, "stream"), stream) == 0;
}

static void layer_lines(ks_report *r, const ks_runs *runs, size_t run,
                        const char *stream) {
    json_t *series, *layer,
        *all = json_object_get(runs->at[run].summary, "probes");
    size_t i, k;
    const char *title =
        stream ? ks__report_text(r, "Balanced accuracy by layer, stream %s",
                                 stream)
               : "Balanced accuracy by layer";
    ks_report_figure *f = ks__figure(
        r, KS_FIGURE_LINES, ks__file_of(r, runs, run, "layers", stream),
        ks__of_run(r, runs, run, title));
    f->x_label = "layer (0: embedding)";
    f->y_label = "balanced accuracy, %";
    f->percent = f->whole_x = true;
    ks__reference(f, "chance", 0.5);
    best_baseline(f, &runs->at[run]);
    json_array_foreach(all, i, series) {
        if (!is_of(series, stream)) continue;
        ks__line(f, ks__named(r, series, "position"), ks__tone(series));
        json_array_foreach(json_object_get(series, "layers"), k, layer) {
            ks__point_interval(f, ks__number(layer, "layer"),
                               json_object_get(layer, "balanced_accuracy"));
        }
    }
    ks__fit_range(f, 0.4, 1);
    f->finding = ks__lines_finding(
        r, f,
        "How well each layer tells the steps, by the position that is "
        "read",
        "layer ", "");
    ks__figure_end(f);
}

/* A layer's balanced accuracy; NULL: the series has not that layer. */
static json_t *at_layer(const json_t *series, int32_t layer) {
    json_t *one;
    size_t i;
    json_array_foreach(json_object_get(series, "layers"), i, one) {
        if (ks__number(one, "layer") == layer)
            return json_object_get(one, "balanced_accuracy");
    }
    return NULL;
}

/* The first layer from this one on that any series has; -1: none. */
static int32_t next_layer(const json_t *all, int32_t from) {
    json_t *series, *one;
    size_t i, k;
    double next = INFINITY;
    json_array_foreach(all, i, series) {
        json_array_foreach(json_object_get(series, "layers"), k, one) {
            double layer = ks__number(one, "layer");
            if (layer >= from) next = fmin(next, layer);
        }
    }
    return isfinite(next) ? (int32_t)next : -1;
}

/* Layers up, positions across. */
static void layer_heat(ks_report *r, const ks_runs *runs, size_t run,
                       const char *stream) {
    json_t *series, *all = json_object_get(runs->at[run].summary, "probes");
    size_t i;
    const char *title =
        stream ? ks__report_text(r, "Layer by position, stream %s", stream)
               : "Layer by position";
    ks_report_figure *f =
        ks__figure(r, KS_FIGURE_HEAT, ks__file_of(r, runs, run, "map", stream),
                   ks__of_run(r, runs, run, title));
    f->x_label = "position";
    f->y_label = "layer";
    f->percent = true;
    json_array_foreach(all, i, series) {
        if (is_of(series, stream))
            ks__heat_column(f, ks__named(r, series, "position"));
    }
    for (int32_t l = next_layer(all, 0); l >= 0; l = next_layer(all, l + 1)) {
        ks__heat_row(f, ks__report_text(r, "%d", l));
        json_array_foreach(all, i, series) {
            if (is_of(series, stream))
                ks__heat_value(f, ks__number(at_layer(series, l), "value"));
        }
    }
    f->low = 0.5;
    f->high = 1;
    ks__reference(f, "chance", 0.5);
    f->finding = "The same figures as the lines over layers, as colours: "
                 "from chance, 50%, to 100%.";
    ks__figure_end(f);
}

/* ------------------------------------------------------------------ tables */

/* "8", "6 to 7, most 6" */
static const char *chosen_words(ks_report *r, const json_t *series) {
    json_t *list = json_object_get(series, "best_layer_by_fold"), *one, *other;
    size_t i, k, most = 0;
    double low = INFINITY, high = -1, usual = 0;
    json_array_foreach(list, i, one) {
        double v = json_number_value(one);
        size_t times = 0;
        json_array_foreach(list, k, other) {
            times += json_number_value(other) == v;
        }
        if (times > most) most = times, usual = v;
        low = fmin(low, v);
        high = fmax(high, v);
    }
    if (high < 0) return "";
    if (low == high) return ks__report_text(r, "%.0f", low);
    return ks__report_text(r, "%.0f to %.0f, most %.0f", low, high, usual);
}

static void layer_table(ks_report *r, const ks_runs *runs, size_t run) {
    const json_t *summary = runs->at[run].summary;
    json_t *series, *all = json_object_get(summary, "probes"),
                    *permuted = json_object_get(summary, "permuted_labels");
    size_t i;
    ks_report_table *t = ks__table(
        r, ks__file_of(r, runs, run, "layers", NULL),
        ks__of_run(r, runs, run, "Balanced accuracy by layer and position, %"));
    t->note = "In brackets 95% intervals over problems. best: the layer with "
              "the least loss on inner parts of the training folds, chosen "
              "anew for every fold. permuted labels: training labels permuted "
              "within folds.";
    ks__column(t, KS_COLUMN_TEXT, "layer");
    json_array_foreach(all, i, series) {
        ks__column(t, KS_COLUMN_PERCENT, ks__where(r, &runs->at[run], series));
    }
    for (int32_t l = next_layer(all, 0); l >= 0; l = next_layer(all, l + 1)) {
        ks__cell_text(t, ks__report_text(r, "%d", l));
        json_array_foreach(all, i, series) {
            ks__cell_interval_of(t, at_layer(series, l));
        }
    }
    if (json_array_size(all)) ks__cell_text(t, "best");
    json_array_foreach(all, i, series) {
        ks__cell_interval_of(t,
                             ks__member(series, "best", "balanced_accuracy"));
    }
    if (json_array_size(all) && json_array_size(permuted)) {
        ks__cell_text(t, "permuted labels");
        json_array_foreach(all, i, series) {
            ks__cell_interval_of(
                t, json_object_get(ks__same_where(permuted, series),
                                   "balanced_accuracy"));
        }
    }
    ks__table_end(t);
}

/* p of each layer, as far as the run has them. */
static void p_table(ks_report *r, const ks_runs *runs, size_t run) {
    static const ks_column_spec columns[] = {
        {"layer", "layer", KS_COLUMN_WHOLE, false},
        {"balanced accuracy, %", "balanced_accuracy", KS_COLUMN_PERCENT, false},
        {"p", "p", KS_COLUMN_P, false},
        {"p (Holm)", "p_holm", KS_COLUMN_P, false}};
    static const ks_table_spec table = {
        .file = "layers p",
        .title = "Each layer against chance",
        .note = "p: one-sided; p (Holm): corrected over the layers of the "
                "position.",
        .list = "layers",
        .columns = columns,
        .n_columns = KS_COUNT(columns)};
    json_t *series, *layer,
        *all = json_object_get(runs->at[run].summary, "probes");
    size_t i, k;
    bool any = false;
    json_array_foreach(all, i, series) {
        json_array_foreach(json_object_get(series, "layers"), k, layer) {
            any |= !isnan(ks__number(layer, "p"));
        }
    }
    if (!any) return;
    ks__table_of(r, runs, run, all, &table);
}

static void best_table(ks_report *r, const ks_runs *runs) {
    static const char *const names[] = {"balanced_accuracy", "accuracy", "auc",
                                        "within_chain_auc", "brier"};
    static const char *const shown[] = {"balanced accuracy, %", "accuracy, %",
                                        "AUC", "within-chain AUC", "Brier"};
    ks_report_table *t =
        ks__table(r, "best", "The chosen layer of each position");
    t->note = "p: one-sided, against chance; p (Holm): corrected over the "
              "positions of the run. ECE: expected calibration error.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_TEXT, "layers chosen");
    for (size_t m = 0; m < KS_COUNT(names); m++)
        ks__column(t, m < 2 ? KS_COLUMN_PERCENT : KS_COLUMN_RANGE, shown[m]);
    ks__column(t, KS_COLUMN_RANGE, "ECE");
    ks__column(t, KS_COLUMN_P, "p");
    ks__column(t, KS_COLUMN_P, "p (Holm)");
    for (size_t run = 0; run < runs->n; run++) {
        json_t *series, *all = json_object_get(runs->at[run].summary, "probes");
        size_t i;
        json_array_foreach(all, i, series) {
            json_t *best = json_object_get(series, "best");
            ks__run_cell(t, runs, run);
            ks__cell_text(t, ks__where(r, &runs->at[run], series));
            ks__cell_text(t, chosen_words(r, series));
            for (size_t m = 0; m < KS_COUNT(names); m++)
                ks__cell_interval_of(t, json_object_get(best, names[m]));
            ks__cell_interval_of(t, ks__member(best, "calibration", "ece"));
            ks__cell_number(t, ks__number(best, "p"));
            ks__cell_number(t, ks__number(best, "p_holm"));
        }
    }
    ks__table_end(t);
}

/* -------------------------------------------------------------------- runs */

/* The runs in one picture, each at the position that did best on held-out
 * steps: a choice made on test data, so its title says how it was made. */
static void runs_lines(ks_report *r, const ks_runs *runs) {
    size_t with = 0;
    for (size_t i = 0; i < runs->n; i++) with += runs->at[i].summary != NULL;
    if (with < 2) return;
    ks_report_figure *f =
        ks__figure(r, KS_FIGURE_LINES, "layers-of-all",
                   "Balanced accuracy over depth, each run at the position of "
                   "its highest figure");
    f->x_label = "depth: layer / last layer";
    f->y_label = "balanced accuracy, %";
    f->percent = true;
    ks__reference(f, "chance", 0.5);
    for (size_t i = 0; i < runs->n; i++) {
        json_t *series = ks__best_series(&runs->at[i]), *layer,
               *layers = json_object_get(series, "layers");
        size_t k, n = json_array_size(layers);
        double last = ks__number(json_array_get(layers, n - 1), "layer");
        if (!n) continue;
        ks__line(f,
                 ks__report_text(r, "%s, %s",
                                 ks__report_brief(r, runs->at[i].name, 40),
                                 ks__where(r, &runs->at[i], series)),
                 5 + (int)(i % 5)); /* positions have the tones below */
        json_array_foreach(layers, k, layer) {
            ks__point_interval(f,
                               last > 0 ? ks__number(layer, "layer") / last : 0,
                               json_object_get(layer, "balanced_accuracy"));
        }
    }
    ks__fit_range(f, 0.4, 1);
    f->finding = ks__lines_finding(
        r, f,
        "How well each run tells the steps over the share of layers "
        "passed",
        "depth ", "");
    ks__figure_end(f);
}

/* The streams of a run, in the order of their series; [n] at most. */
static size_t streams_of(const ks_run *run, const char **out, size_t n) {
    json_t *series, *all = json_object_get(run->summary, "probes");
    size_t i, found = 0;
    json_array_foreach(all, i, series) {
        const char *stream = ks__text(series, "stream");
        size_t k = 0;
        while (k < found && strcmp(out[k], stream) != 0) k++;
        if (k == found && found < n) out[found++] = stream;
    }
    return found;
}

void ks__section_layers(ks_report *r, const ks_runs *runs) {
    ks__section(r, "layers", "Layer by layer",
                "How well a linear probe on a layer tells steps that matter "
                "from those that do not, on problems that it never saw.");
    runs_lines(r, runs);
    for (size_t run = 0; run < runs->n; run++) {
        const char *streams[KS_N_STREAMS];
        size_t n = streams_of(&runs->at[run], streams, KS_N_STREAMS);
        for (size_t s = 0; s < n; s++) {
            layer_lines(r, runs, run, n > 1 ? streams[s] : NULL);
            layer_heat(r, runs, run, n > 1 ? streams[s] : NULL);
        }
    }
    best_table(r, runs);
    for (size_t run = 0; run < runs->n; run++) {
        layer_table(r, runs, run);
        p_table(r, runs, run);
    }
}
