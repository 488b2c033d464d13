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
    json_t *one, *layer, *all = list_of(runs, run, "directions");
    size_t i, k;
    ks_report_figure *f = ks__figure(
        r, KS_FIGURE_LINES, ks__file_of(r, runs, run, "directions", NULL),
        ks__of_run(r, runs, run, "The difference of means as a probe"));
    f->x_label = "layer (0: embedding)";
    f->y_label = "balanced accuracy, %";
    f->percent = f->whole_x = true;
    ks__reference(f, "chance", 0.5);
    json_array_foreach(all, i, one) {
        ks__line(f, ks__where(r, &runs->at[run], one), ks__tone(one));
        json_array_foreach(json_object_get(one, "layers"), k, layer) {
            ks__point_interval(f, ks__number(layer, "layer"),
                               json_object_get(layer, "mean_difference"));
        }
    }
    ks__fit_range(f, 0.4, 1);
    f->finding = ks__lines_finding(
        r, f,
        "Balanced accuracy in percent of the difference between the means of "
        "the two kinds of steps");
    ks__figure_end(f);
}

static void direction_rows(ks_report_table *t, const ks_runs *runs,
                           size_t run) {
    json_t *one, *layer;
    size_t i, k;
    json_array_foreach(list_of(runs, run, "directions"), i, one) {
        json_array_foreach(json_object_get(one, "layers"), k, layer) {
            ks__run_cell(t, runs, run);
            ks__cell_text(t, ks__where(t->of, &runs->at[run], one));
            ks__cell_number(t, ks__number(layer, "layer"));
            ks__cell_interval_of(t, json_object_get(layer, "mean_difference"));
            ks__cell_interval_of(t, json_object_get(layer, "lda"));
        }
    }
}

static void direction_tables(ks_report *r, const ks_runs *runs) {
    static const char *const cosines[] = {"cosine_l2_mean_difference",
                                          "cosine_l2_lda",
                                          "cosine_mean_difference_lda"};
    json_t *one;
    size_t i;
    ks_report_table *t = ks__table(r, "directions", "Directions by layer");
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_WHOLE, "layer");
    ks__column(t, KS_COLUMN_PERCENT, "difference of means, %");
    ks__column(t, KS_COLUMN_PERCENT, "linear discriminant, %");
    for (size_t run = 0; run < runs->n; run++) direction_rows(t, runs, run);
    ks__table_end(t);
    t = ks__table(r, "cosines", "How alike the directions are");
    t->note = "Cosines at the layer that most folds chose.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_WHOLE, "layer");
    ks__column(t, KS_COLUMN_NUMBER, "L2 and means");
    ks__column(t, KS_COLUMN_NUMBER, "L2 and discriminant");
    ks__column(t, KS_COLUMN_NUMBER, "means and discriminant");
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
    json_t *one, *point, *all = list_of(runs, run, "sparse");
    size_t i, k;
    ks_report_figure *f = ks__figure(
        r, KS_FIGURE_LINES, ks__file_of(r, runs, run, "sparse", NULL),
        ks__of_run(r, runs, run, "How few dimensions carry it"));
    ks_report_table *t =
        ks__table(r, ks__file_of(r, runs, run, "sparse", NULL),
                  ks__of_run(r, runs, run, "How few dimensions carry it"));
    t->note = "The path of L1 from strong to weak; dimensions: those with a "
              "weight, mean over fits.";
    f->x_label = "dimensions with a weight";
    f->y_label = "balanced accuracy, %";
    f->percent = f->log_x = true;
    ks__reference(f, "chance", 0.5);
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_WHOLE, "layer");
    ks__column(t, KS_COLUMN_NUMBER, "dimensions");
    ks__column(t, KS_COLUMN_PERCENT, "balanced accuracy, %");
    ks__column(t, KS_COLUMN_POINTS, "chosen strength minus this, points");
    json_array_foreach(all, i, one) {
        const char *where = ks__where(r, &runs->at[run], one);
        ks__line(f, where, ks__tone(one));
        json_array_foreach(json_object_get(one, "points"), k, point) {
            json_t *accuracy = json_object_get(point, "balanced_accuracy");
            double dimensions = ks__number(point, "dimensions");
            if (dimensions > 0) ks__point_interval(f, dimensions, accuracy);
            ks__cell_text(t, where);
            ks__cell_number(t, ks__number(one, "layer"));
            ks__cell_number(t, dimensions);
            ks__cell_interval_of(t, accuracy);
            ks__cell_interval_of(t,
                                 json_object_get(point, "chosen_minus_this"));
        }
    }
    ks__fit_range(f, 0.4, 1);
    f->finding = ks__lines_finding(
        r, f, "Balanced accuracy in percent by the dimensions with a weight");
    ks__table_end(t);
    ks__figure_end(f);
}

/* --------------------------------------------------------------- attention */

static void attention(ks_report *r, const ks_runs *runs) {
    static const char *const numbers[] = {"first", "last", "even", "entropy"};
    json_t *one;
    size_t i;
    ks_report_table *t =
        ks__table(r, "attention", "Probes that weigh a step's tokens");
    t->note = "minus mean: less the L2 probe of the same layer's mean over "
              "the step. first token, last token: the weight that they get; "
              "even: what one would get if all had the same.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "stream");
    ks__column(t, KS_COLUMN_WHOLE, "layer");
    ks__column(t, KS_COLUMN_PERCENT, "balanced accuracy, %");
    ks__column(t, KS_COLUMN_PERCENT, "of the mean, %");
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
    json_t *one, *layer, *all = list_of(runs, run, "graded");
    const char *score = ks__named(r, json_array_get(all, from), "score");
    size_t i = from, k;
    ks_report_figure *f = ks__figure(
        r, KS_FIGURE_LINES, ks__file_of(r, runs, run, "graded", score),
        ks__of_run(r, runs, run,
                   ks__report_text(r, "Graded importance: %s", score)));
    f->x_label = "layer (0: embedding)";
    f->y_label = "rank correlation";
    f->whole_x = true;
    ks__reference(f, "none", 0);
    do {
        one = json_array_get(all, i);
        ks__line(f, ks__where(r, &runs->at[run], one), ks__tone(one));
        json_array_foreach(json_object_get(one, "layers"), k, layer) {
            ks__point_interval(f, ks__number(layer, "layer"),
                               json_object_get(layer, "spearman"));
        }
    } while (++i < json_array_size(all) && !begins_score(all, i));
    ks__fit_range(f, 0, 0.5);
    f->finding = ks__lines_finding(
        r, f, "Spearman's correlation of what is predicted and the score");
    ks__figure_end(f);
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
    t->note = "surface free: the rank correlation after surface features are "
              "taken out. The last two: AUC of the unlabelled band between "
              "removable and important steps, from either side.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "score");
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_TEXT, "predicted by");
    ks__column(t, KS_COLUMN_RANGE, "Spearman");
    ks__column(t, KS_COLUMN_RANGE, "within chains");
    ks__column(t, KS_COLUMN_RANGE, "R2");
    ks__column(t, KS_COLUMN_RANGE, "surface free");
    ks__column(t, KS_COLUMN_RANGE, "removable, unlabelled");
    ks__column(t, KS_COLUMN_RANGE, "unlabelled, important");
    for (size_t run = 0; run < runs->n; run++) graded_rows(t, runs, run);
    ks__table_end(t);
}

void ks__section_refined(ks_report *r, const ks_runs *runs) {
    ks__section(r, "refined", "Directions, dimensions and grades",
                "Probes that say more than a label: which direction, how few "
                "dimensions, which tokens, how much.");
    for (size_t run = 0; run < runs->n; run++) directions(r, runs, run);
    direction_tables(r, runs);
    for (size_t run = 0; run < runs->n; run++) sparse(r, runs, run);
    attention(r, runs);
    for (size_t run = 0; run < runs->n; run++) {
        const json_t *all = list_of(runs, run, "graded");
        for (size_t i = 0; i < json_array_size(all); i++)
            if (begins_score(all, i)) graded_lines(r, runs, run, i);
    }
    graded_table(r, runs);
}
