/* sections_refined.c - probes that see more than a label: directions, sparse
 * ones, attention over a step's tokens, graded scores. */
#include "sections.h"

#include <math.h>
#include <string.h>

static json_t *list_of(const ks_runs *runs, size_t run, const char *name) {
    return json_object_get(runs->at[run].summary, name);
}

/* -------------------------------------------------------------- directions */

static void directions(ks_report *r, const ks_runs *runs, size_t run) {
    static const ks_lines_spec lines = {
        .file = "directions",
        .title = "The difference of the class means as a probe",
        .finding = "How well the plain difference between the mean of "
                   "important steps and that of removable ones tells them, "
                   "nothing else fitted",
        .before = "layer ",
        .behind = "",
        .list = "layers",
        .x = "layer",
        .y = "mean_difference",
        .x_label = "layer (0: embedding)",
        .y_label = "balanced accuracy, %",
        .reference = "chance",
        .at = 0.5,
        .low = 0.4,
        .high = 1,
        .percent = true,
        .whole_x = true};
    ks__lines_of(r, runs, run, list_of(runs, run, "directions"), &lines);
}

static void direction_table(ks_report *r, const ks_runs *runs) {
    static const ks_column_spec columns[] = {
        {"layer", "layer", KS_COLUMN_WHOLE, false},
        {"difference of means, %", "mean_difference", KS_COLUMN_PERCENT, false},
        {"linear discriminant, %", "lda", KS_COLUMN_PERCENT, false}};
    ks_report_table *t = ks__table(r, "directions", "Directions by layer");
    t->note = "Balanced accuracy. The discriminant discounts features that "
              "vary together, the difference of means does not.";
    ks__run_column(t, runs);
    ks__columns_of(t, columns, KS_COUNT(columns));
    for (size_t run = 0; run < runs->n; run++)
        ks__rows_of(t, runs, run, list_of(runs, run, "directions"), "layers",
                    columns, KS_COUNT(columns), true);
    ks__table_end(t);
}

static void cosine_table(ks_report *r, const ks_runs *runs) {
    static const char *const cosines[] = {"cosine_l2_mean_difference",
                                          "cosine_l2_lda",
                                          "cosine_mean_difference_lda"};
    json_t *one;
    size_t i;
    ks_report_table *t =
        ks__table(r, "cosines", "Do the probes point the same way?");
    t->note = "Cosines between the directions of three linear probes at the "
              "layer that most folds chose: 1 the same direction, 0 at right "
              "angles.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_WHOLE, "layer");
    ks__column(t, KS_COLUMN_NUMBER, "L2, difference of means");
    ks__column(t, KS_COLUMN_NUMBER, "L2, discriminant");
    ks__column(t, KS_COLUMN_NUMBER, "difference of means, discriminant");
    for (size_t run = 0; run < runs->n; run++) {
        json_array_foreach(list_of(runs, run, "directions"), i, one) {
            ks__run_cell(t, runs, run);
            ks__cell_text(t, ks__where(r, &runs->at[run], one));
            ks__cell_number(t, ks__number(one, "layer"));
            for (size_t c = 0; c < KS_COUNT(cosines); c++)
                ks__cell_number(t, ks__number(one, cosines[c]));
        }
    }
    ks__table_end(t);
}

/* ------------------------------------------------------------------ sparse */

static void sparse(ks_report *r, const ks_runs *runs, size_t run) {
    static const ks_column_spec columns[] = {
        {KS_MOST_FOLDS, "layer", KS_COLUMN_WHOLE, true},
        {"dimensions", "dimensions", KS_COLUMN_COUNT, false},
        {"balanced accuracy, %", "balanced_accuracy", KS_COLUMN_PERCENT, false},
        {"lead of the chosen strength, points", "chosen_minus_this",
         KS_COLUMN_POINTS, false}};
    static const ks_lines_spec lines = {
        .file = "sparse",
        .title = "How few dimensions carry it",
        .finding = "Balanced accuracy of a probe that may use few dimensions "
                   "(L1), from few to many",
        .before = "",
        .behind = " dimensions",
        .list = "points",
        .x = "dimensions",
        .y = "balanced_accuracy",
        .x_label = "dimensions with a weight",
        .y_label = "balanced accuracy, %",
        .reference = "chance",
        .at = 0.5,
        .low = 0.4,
        .high = 1,
        .percent = true,
        .log_x = true};
    static const ks_table_spec table = {
        .file = "sparse",
        .title = "Accuracy by the number of dimensions",
        .note = "L1 from strong to weak. dimensions: those with a weight, mean "
                "over fits.",
        .list = "points",
        .columns = columns,
        .n_columns = KS_COUNT(columns)};
    const json_t *all = list_of(runs, run, "sparse");
    ks__lines_of(r, runs, run, all, &lines);
    ks__table_of(r, runs, run, all, &table);
}

static void needed_table(ks_report *r, const ks_runs *runs) {
    json_t *one;
    size_t i;
    ks_report_table *t = ks__table(r, "needed", "Dimensions needed");
    t->note = "needed: the fewest dimensions over which the strength chosen in "
              "the training folds has no lead, that is, the paired interval "
              "of its lead includes 0.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_WHOLE, KS_MOST_FOLDS);
    ks__column(t, KS_COLUMN_PERCENT, "chosen strength, balanced accuracy, %");
    ks__column(t, KS_COLUMN_COUNT, "needed");
    for (size_t run = 0; run < runs->n; run++) {
        json_array_foreach(list_of(runs, run, "sparse"), i, one) {
            ks__run_cell(t, runs, run);
            ks__cell_text(t, ks__where(r, &runs->at[run], one));
            ks__cell_number(t, ks__number(one, "layer"));
            ks__cell_interval_of(t, json_object_get(one, "balanced_accuracy"));
            ks__cell_number(t, ks__number(one, "needed"));
        }
    }
    ks__table_end(t);
}

/* --------------------------------------------------------------- attention */

static void attention(ks_report *r, const ks_runs *runs) {
    static const char *const numbers[] = {"first", "last", "even", "entropy"};
    json_t *one;
    size_t i;
    ks_report_table *t =
        ks__table(r, "attention", "Probes that weigh a step's tokens");
    t->note = "layer: the one that most folds chose, each fold on its own; "
              "with attention:all each layer in turn. mean: the L2 "
              "probe of the same layer's mean over the step, on the same rows. "
              "first token, last token: the share of the weight that they get; "
              "even: what one token would get if all had the same. entropy: of "
              "the weights, 1 where they are even, 0 where "
              "one token has all.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "stream");
    ks__column(t, KS_COLUMN_WHOLE, "layer");
    ks__column(t, KS_COLUMN_PERCENT, "balanced accuracy, %");
    ks__column(t, KS_COLUMN_PERCENT, "mean, %");
    ks__column(t, KS_COLUMN_POINTS, "minus mean, points");
    ks__column(t, KS_COLUMN_NUMBER, "first token");
    ks__column(t, KS_COLUMN_NUMBER, "last token");
    ks__column(t, KS_COLUMN_NUMBER, "even");
    ks__column(t, KS_COLUMN_NUMBER, "entropy");
    for (size_t run = 0; run < runs->n; run++) {
        json_array_foreach(list_of(runs, run, "attention"), i, one) {
            ks__run_cell(t, runs, run);
            ks__cell_text(t, ks__named(r, one, "stream"));
            ks__cell_number(t, ks__number(one, "layer"));
            ks__cell_interval_of(t, json_object_get(one, "balanced_accuracy"));
            ks__cell_interval_of(
                t, json_object_get(one, "mean_balanced_accuracy"));
            ks__cell_interval_of(t, json_object_get(one, "minus_mean"));
            for (size_t c = 0; c < KS_COUNT(numbers); c++)
                ks__cell_number(t, ks__number(one, numbers[c]));
        }
    }
    ks__table_end(t);
}

/* ------------------------------------------------------------------ graded */

/* Is it the first entry of its score? Those of one score stand together. */
static bool begins_score(const json_t *all, size_t i) {
    const char *score = ks__text(json_array_get(all, i), "score");
    return i == 0 ||
           strcmp(ks__text(json_array_get(all, i - 1), "score"), score) != 0;
}

static void graded_lines(ks_report *r, const ks_runs *runs, size_t run,
                         size_t from) {
    json_t *all = list_of(runs, run, "graded"), *own = json_array();
    const char *score = ks__named(r, json_array_get(all, from), "score");
    ks_lines_spec lines = {
        .file = "graded",
        .more = score,
        .title = ks__report_text(r, "Graded importance: %s", score),
        .finding = "Rank correlation (Spearman) of the score and what is "
                   "predicted for it from each layer",
        .before = "layer ",
        .behind = "",
        .list = "layers",
        .x = "layer",
        .y = "spearman",
        .x_label = "layer (0: embedding)",
        .y_label = "rank correlation",
        .reference = "none",
        .high = 0.5,
        .whole_x = true};
    do json_array_append(own, json_array_get(all, from));
    while (++from < json_array_size(all) && !begins_score(all, from));
    ks__lines_of(r, runs, run, own, &lines);
    json_decref(own);
}

static void graded_cells(ks_report_table *t, const json_t *figures) {
    static const char *const names[] = {"spearman", "within_spearman", "r2"};
    for (size_t c = 0; c < KS_COUNT(names); c++)
        ks__cell_interval_of(t, json_object_get(figures, names[c]));
}

static void graded_rows(ks_report_table *t, const ks_runs *runs, size_t run) {
    json_t *one, *baseline;
    size_t i, k;
    json_array_foreach(list_of(runs, run, "graded"), i, one) {
        json_t *best = json_object_get(one, "best"),
               *bands = json_object_get(best, "bands");
        ks__run_cell(t, runs, run);
        ks__cell_text(t, ks__named(t->of, one, "score"));
        ks__cell_text(t, ks__where(t->of, &runs->at[run], one));
        ks__cell_text(t, "best layer");
        graded_cells(t, best);
        ks__cell_interval_of(t, json_object_get(best, "surface_free"));
        ks__cell_interval_of(t, json_object_get(bands, "removable_unlabelled"));
        ks__cell_interval_of(t, json_object_get(bands, "unlabelled_important"));
        json_array_foreach(json_object_get(one, "baselines"), k, baseline) {
            ks__run_cell(t, runs, run);
            ks__cell_text(t, ks__named(t->of, one, "score"));
            ks__cell_text(t, ks__where(t->of, &runs->at[run], one));
            ks__cell_text(t, ks__named(t->of, baseline, "name"));
            graded_cells(t, baseline);
            for (int c = 0; c < 3; c++) ks__cell_range(t, NAN, NAN, NAN);
        }
    }
}

static void graded_table(ks_report *r, const ks_runs *runs) {
    ks_report_table *t = ks__table(r, "graded", "Graded importance");
    t->note = "Rank correlations (Spearman), over all steps and within chains, "
              "and R2 of the ranks. surface free: the correlation with what "
              "surface features leave of the score. The last two: AUC, how "
              "often the predicted score is lower for a removable step than "
              "for an unlabelled one, and for an unlabelled one than for an "
              "important one.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "score");
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_TEXT, "predicted by");
    ks__column(t, KS_COLUMN_RANGE, "rank correlation");
    ks__column(t, KS_COLUMN_RANGE, "within chains");
    ks__column(t, KS_COLUMN_RANGE, "R2");
    ks__column(t, KS_COLUMN_RANGE, "surface free");
    ks__column(t, KS_COLUMN_RANGE, "removable below unlabelled");
    ks__column(t, KS_COLUMN_RANGE, "unlabelled below important");
    for (size_t run = 0; run < runs->n; run++) graded_rows(t, runs, run);
    ks__table_end(t);
}

void ks__section_refined(ks_report *r, const ks_runs *runs) {
    ks__section(r, "refined", "Directions, dimensions, tokens and grades",
                "Probes that say more than how well: in which direction, with "
                "how few dimensions, from which tokens, and how much a step "
                "matters.");
    for (size_t run = 0; run < runs->n; run++) directions(r, runs, run);
    direction_table(r, runs);
    cosine_table(r, runs);
    for (size_t run = 0; run < runs->n; run++) sparse(r, runs, run);
    needed_table(r, runs);
    attention(r, runs);
    for (size_t run = 0; run < runs->n; run++) {
        const json_t *all = list_of(runs, run, "graded");
        for (size_t i = 0; i < json_array_size(all); i++)
            if (begins_score(all, i)) graded_lines(r, runs, run, i);
    }
    graded_table(r, runs);
}
