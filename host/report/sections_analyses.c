/* sections_analyses.c - how importance builds up over layers, controls, what
 * the surface of a step explains, calibration, learning curves. */
#include "sections.h"

#include <math.h>
#include <string.h>

static json_t *analysis(const ks_runs *runs, size_t run, const char *name) {
    return ks__member(runs->at[run].summary, "analyses", name);
}

/* ------------------------------------------------------------------- depth */

static void agreement(ks_report *r, const ks_runs *runs, size_t run) {
    static const ks_column_spec columns[] = {
        {"layer", "layer", KS_COLUMN_WHOLE, false},
        {"agreement, %", "agreement", KS_COLUMN_PERCENT, false},
        {"correlation of scores", "correlation", KS_COLUMN_RANGE, false}};
    static const ks_lines_spec lines = {
        .file = "agreement",
        .title = "Agreement with the last layer's probe",
        .finding = "Steps that a layer's probe judges as the last layer's "
                   "does: all of them at the last layer itself",
        .list = "layers",
        .x = "layer",
        .y = "agreement",
        .x_label = "layer (0: embedding)",
        .y_label = "steps judged alike, %",
        .low = 0.5,
        .high = 1,
        .percent = true,
        .whole_x = true};
    static const ks_table_spec table = {
        .file = "agreement",
        .title = "Each layer's probe with the last layer's",
        .list = "layers",
        .columns = columns,
        .n_columns = KS_COUNT(columns)};
    const json_t *all = analysis(runs, run, "agreement");
    ks__lines_of(r, runs, run, all, &lines);
    ks__table_of(r, runs, run, all, &table);
}

static void one_layer_transfer(ks_report *r, const ks_runs *runs, size_t run,
                               const json_t *one) {
    const char *where = ks__where(r, &runs->at[run], one);
    json_t *layers = json_object_get(one, "layers"), *value,
           *matrix = json_object_get(one, "balanced_accuracy"), *row;
    size_t i, k;
    const char *title = ks__of_run(
        r, runs, run,
        ks__report_text(r, "A probe of one layer on another, %s", where));
    const char *name = ks__file_of(r, runs, run, "layer transfer", where);
    ks_report_figure *f = ks__figure(r, KS_FIGURE_HEAT, name, title);
    ks_report_table *t = ks__table(
        r, name, ks__report_text(r, "%s, balanced accuracy, %%", title));
    t->note = "Rows: trained on; columns: tested on.";
    f->x_label = "tested on layer";
    f->y_label = "trained on layer";
    f->percent = true;
    f->low = 0.5, f->high = 1;
    ks__reference(f, "chance", 0.5);
    f->finding = "Balanced accuracy in percent of a layer's probe on another "
                 "layer's activations: where rows look alike, layers say it in "
                 "the same direction.";
    ks__column(t, KS_COLUMN_TEXT, "trained on");
    json_array_foreach(layers, i, value) {
        const char *label =
            ks__report_text(r, "%.0f", json_number_value(value));
        ks__heat_row(f, label);
        ks__heat_column(f, label);
        ks__column(t, KS_COLUMN_PERCENT, label);
    }
    json_array_foreach(matrix, i, row) {
        ks__cell_text(
            t, ks__report_text(r, "%.0f",
                               json_number_value(json_array_get(layers, i))));
        json_array_foreach(row, k, value) {
            double v = json_is_number(value) ? json_number_value(value) : NAN;
            ks__heat_value(f, v);
            ks__cell_range(t, v, NAN, NAN);
        }
    }
    /* the table first: it is the section's last part */
    ks__table_end(t);
    ks__figure_end(f);
}

static void layers_needed(ks_report *r, const ks_runs *runs, size_t run) {
    static const ks_column_spec columns[] = {
        {"layers", "n", KS_COLUMN_WHOLE, false},
        {"balanced accuracy, %", "balanced_accuracy", KS_COLUMN_PERCENT, false},
        {"minus all layers, points", "minus_all", KS_COLUMN_POINTS, false}};
    static const ks_lines_spec lines = {
        .file = "layers needed",
        .title = "How many layers are needed",
        .finding = "Balanced accuracy when a probe sees the scores of a set of "
                   "layers, which were taken in the training folds",
        .before = "size ",
        .behind = "",
        .list = "sizes",
        .x = "n",
        .y = "balanced_accuracy",
        .x_label = "layers that the probe sees",
        .y_label = "balanced accuracy, %",
        .reference = "chance",
        .at = 0.5,
        .low = 0.4,
        .high = 1,
        .percent = true,
        .whole_x = true};
    static const ks_table_spec table = {.file = "layers needed",
                                        .title = "The best subset of layers",
                                        .list = "sizes",
                                        .columns = columns,
                                        .n_columns = KS_COUNT(columns)};
    const json_t *all = analysis(runs, run, "layers_needed");
    ks__lines_of(r, runs, run, all, &lines);
    ks__table_of(r, runs, run, all, &table);
}

void ks__section_depth(ks_report *r, const ks_runs *runs) {
    ks__section(r, "depth", "How it builds up",
                "Whether layers say the same in the same directions, and how "
                "many of them it takes.");
    for (size_t run = 0; run < runs->n; run++) {
        json_t *one;
        size_t i;
        agreement(r, runs, run);
        json_array_foreach(analysis(runs, run, "layer_transfer"), i, one)
            one_layer_transfer(r, runs, run, one);
        layers_needed(r, runs, run);
        if (runs->at[run].summary && !analysis(runs, run, "agreement"))
            ks__absent_in(r, runs, run,
                          "no agreement, transfer and number of layers");
    }
}

/* ---------------------------------------------------------------- controls */

static void calibration(ks_report *r, const ks_runs *runs, size_t run) {
    json_t *series, *bin,
        *all = json_object_get(runs->at[run].summary, "probes");
    size_t i, k;
    ks_report_figure *f = ks__figure(
        r, KS_FIGURE_LINES, ks__file_of(r, runs, run, "calibration", NULL),
        ks__of_run(r, runs, run, "Calibration of the best layers"));
    ks_report_table *t =
        ks__table(r, ks__file_of(r, runs, run, "calibration", NULL),
                  ks__of_run(r, runs, run, "Calibration of the best layers"));
    f->x_label = "probability that the probe says, %";
    f->y_label = "important steps, %";
    f->percent = f->diagonal = true;
    f->low = 0, f->high = 1;
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_WHOLE, "steps");
    ks__column(t, KS_COLUMN_PERCENT, "predicted, %");
    ks__column(t, KS_COLUMN_PERCENT, "important, %");
    json_array_foreach(all, i, series) {
        json_t *bins =
            ks__member(json_object_get(series, "best"), "calibration", "bins");
        if (!json_array_size(bins)) continue;
        const char *where = ks__where(r, &runs->at[run], series);
        ks__line(f, where, ks__tone(series));
        json_array_foreach(bins, k, bin) {
            double x = ks__number(bin, "predicted");
            json_t *observed = json_object_get(bin, "observed");
            if (ks__number(bin, "n") == 0 || isnan(x)) continue;
            ks__point_interval(f, x, observed);
            ks__cell_text(t, where);
            ks__cell_number(t, ks__number(bin, "n"));
            ks__cell_range(t, x, NAN, NAN);
            ks__cell_interval_of(t, observed);
        }
    }
    f->finding = "Percent of important steps among those to which the probe "
                 "gives a probability; on the diagonal it is right about its "
                 "own certainty.";
    if (!t->n_cells && runs->at[run].summary)
        ks__absent_in(r, runs, run, "no calibration");
    ks__table_end(t);
    ks__figure_end(f);
}

static void selectivity(ks_report *r, const ks_runs *runs) {
    ks_report_table *t = ks__table(r, "selectivity", "Control task");
    t->note = "control: the same probe trained on labels drawn at random for "
              "each step's text. selectivity: real minus control.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_WHOLE, KS_MOST_FOLDS);
    ks__column(t, KS_COLUMN_PERCENT, "real, %");
    ks__column(t, KS_COLUMN_PERCENT, "control, %");
    ks__column(t, KS_COLUMN_POINTS, "selectivity, points");
    for (size_t run = 0; run < runs->n; run++) {
        json_t *one, *all = analysis(runs, run, "selectivity");
        size_t i;
        json_array_foreach(all, i, one) {
            ks__run_cell(t, runs, run);
            ks__cell_text(t, ks__where(r, &runs->at[run], one));
            ks__cell_number(t, ks__number(one, "layer"));
            ks__cell_interval_of(t, json_object_get(one, "real"));
            ks__cell_interval_of(t, json_object_get(one, "control"));
            ks__cell_interval_of(t, json_object_get(one, "selectivity"));
        }
        if (runs->at[run].summary && !json_array_size(all))
            ks__absent_in(r, runs, run, "no control task");
    }
    ks__table_end(t);
}

void ks__section_controls(ks_report *r, const ks_runs *runs) {
    ks__section(r, "controls", "Calibration and controls",
                "Whether a probe's probabilities can be taken at their word, "
                "and whether it would learn anything else as well.");
    for (size_t run = 0; run < runs->n; run++) calibration(r, runs, run);
    selectivity(r, runs);
}

/* ----------------------------------------------------------------- surface */

/* A feature's name in words. */
static const char *feature_words(ks_report *r, const char *name) {
    static const char *const words[][2] = {
        {"relative_position", "relative position"},
        {"tfidf_mean_before", "likeness to the steps before, mean"},
        {"tfidf_max_before", "likeness to the steps before, most"},
        {"tfidf_prompt", "likeness to the question"}};
    for (size_t i = 0; i < KS_COUNT(words); i++)
        if (strcmp(words[i][0], name) == 0) return words[i][1];
    return ks__report_brief(r, name, 80);
}

static void features(ks_report *r, const ks_runs *runs, size_t run) {
    json_t *one,
        *all = json_object_get(analysis(runs, run, "surface"), "features");
    size_t i;
    ks_report_figure *f = ks__figure(
        r, KS_FIGURE_BARS, ks__file_of(r, runs, run, "surface", NULL),
        ks__of_run(r, runs, run, "Surface of a step and the probe's score"));
    ks_report_table *t = ks__table(
        r, ks__file_of(r, runs, run, "surface", NULL),
        ks__of_run(r, runs, run, "Correlations with the surface of a step"));
    f->x_label = "correlation with the probe's score";
    ks__reference(f, "none", 0);
    ks__column(t, KS_COLUMN_TEXT, "feature");
    ks__column(t, KS_COLUMN_RANGE, "with labels");
    ks__column(t, KS_COLUMN_RANGE, "with scores");
    ks__column(t, KS_COLUMN_RANGE, "with predictions");
    json_array_foreach(all, i, one) {
        const char *name = feature_words(r, ks__text(one, "name"));
        json_t *with = json_object_get(one, "with_scores");
        if (!isnan(ks__number(with, "value"))) /* not the same in all steps */
            ks__bar_interval(f, NULL, name, -1, with);
        ks__cell_text(t, name);
        ks__cell_interval_of(t, json_object_get(one, "with_labels"));
        ks__cell_interval_of(t, json_object_get(one, "with_scores"));
        ks__cell_interval_of(t, json_object_get(one, "with_predictions"));
    }
    ks__fit_range(f, -0.3, 0.3);
    f->finding =
        "How far each thing that can be read off a step's surface goes "
        "along with the probe's score: 0 not at all, 1 in step.";
    ks__table_end(t);
    ks__figure_end(f);
}

/* One row a position, both ways side by side: each fold on the layer that it
 * chose, as `best` is. */
static void removed_bars(ks_report *r, const ks_runs *runs, size_t run,
                         const json_t *all) {
    json_t *one, *layer, *whole,
        *probes = json_object_get(runs->at[run].summary, "probes");
    size_t i, k;
    ks_report_figure *f = ks__figure(
        r, KS_FIGURE_BARS, ks__file_of(r, runs, run, "removed", NULL),
        ks__of_run(r, runs, run, "With the surface, and without it"));
    f->x_label = "balanced accuracy, %";
    f->percent = true;
    ks__reference(f, "chance", 0.5);
    json_array_foreach(all, i, one) {
        const char *group = ks__where(r, &runs->at[run], one);
        whole = ks__same_where(probes, one);
        ks__bar_interval(f, group, "as it is", ks__tone(one),
                         ks__member(whole, "best", "balanced_accuracy"));
        json_array_foreach(json_object_get(one, "layers"), k, layer)
            ks__bar_interval(f, group, "surface taken out", ks__tone(one),
                             json_object_get(layer, "balanced_accuracy"));
    }
    ks__fit_range(f, 0.4, 1);
    f->finding = "Balanced accuracy in percent of the best layer's probe, and "
                 "of one on what surface features do not explain.";
    ks__figure_end(f);
}

static void removed(ks_report *r, const ks_runs *runs, size_t run) {
    static const ks_column_spec columns[] = {
        {"layer", "layer", KS_COLUMN_WHOLE, false},
        {"balanced accuracy, %", "balanced_accuracy", KS_COLUMN_PERCENT, false},
        {"change, points", "minus", KS_COLUMN_POINTS, false}};
    static const ks_lines_spec lines = {
        .file = "removed",
        .title = "After the surface is taken out",
        .finding = "Balanced accuracy on what place, length and words of a "
                   "step do not explain",
        .before = "layer ",
        .behind = "",
        .list = "layers",
        .x = "layer",
        .y = "balanced_accuracy",
        .x_label = "layer (0: embedding)",
        .y_label = "balanced accuracy, %",
        .reference = "chance",
        .at = 0.5,
        .low = 0.4,
        .high = 1,
        .percent = true,
        .whole_x = true};
    static const ks_table_spec table = {
        .file = "removed",
        .title = "After the surface is taken out",
        .note = "layer: the one that most folds chose; each fold is on its "
                "own. change: less the best layer's probe on the activations "
                "as they are, paired.",
        .list = "layers",
        .columns = columns,
        .n_columns = KS_COUNT(columns)};
    json_t *one,
        *all = json_object_get(analysis(runs, run, "surface"), "removed");
    size_t i, most = 0;
    json_array_foreach(all, i, one) {
        most = KS_MAX(most, json_array_size(json_object_get(one, "layers")));
    }
    if (most > 1)
        ks__lines_of(r, runs, run, all, &lines);
    else
        removed_bars(r, runs, run, all);
    ks__table_of(r, runs, run, all, &table);
}

void ks__section_surface(ks_report *r, const ks_runs *runs) {
    ks__section(r, "surface", "Is it only the surface?",
                "How far position, length and words of a step go along with "
                "the probe's score, and what is left without them.");
    for (size_t run = 0; run < runs->n; run++) {
        features(r, runs, run);
        removed(r, runs, run);
        if (runs->at[run].summary && !analysis(runs, run, "surface"))
            ks__absent_in(r, runs, run, "no surface features");
    }
}

/* ------------------------------------------------------------------ curves */

static void learning(ks_report *r, const ks_runs *runs, size_t run) {
    static const ks_column_spec columns[] = {
        {KS_MOST_FOLDS, "layer", KS_COLUMN_WHOLE, true},
        {"problems, mean over folds", "problems", KS_COLUMN_WHOLE, false},
        {"balanced accuracy, %", "balanced_accuracy", KS_COLUMN_PERCENT,
         false}};
    static const ks_lines_spec lines = {
        .file = "learning",
        .title = "Learning curve",
        .finding = "Balanced accuracy by the number of problems that train",
        .before = "",
        .behind = " problems",
        .list = "points",
        .x = "problems",
        .y = "balanced_accuracy",
        .x_label = "problems to train on",
        .y_label = "balanced accuracy, %",
        .reference = "chance",
        .at = 0.5,
        .low = 0.4,
        .high = 1,
        .percent = true};
    static const ks_table_spec table = {.file = "learning",
                                        .title = "Learning curve",
                                        .list = "points",
                                        .columns = columns,
                                        .n_columns = KS_COUNT(columns)};
    const json_t *all = analysis(runs, run, "learning_curve");
    ks__lines_of(r, runs, run, all, &lines);
    ks__table_of(r, runs, run, all, &table);
    if (runs->at[run].summary && !json_array_size(all))
        ks__absent_in(r, runs, run, "no learning curve");
}

void ks__section_curves(ks_report *r, const ks_runs *runs) {
    ks__section(r, "learning", "How many problems it takes",
                "The chosen layer trained on fewer problems, tested on the "
                "same ones.");
    for (size_t run = 0; run < runs->n; run++) learning(r, runs, run);
}
