/* sections_transfer.c - from one model to another and from one task to another:
 * what transfer.json says. */
#include "sections.h"

#include <math.h>
#include <string.h>

static json_t *cell_of(const json_t *entry, const char *matrix, size_t row,
                       size_t column) {
    return json_array_get(json_array_get(json_object_get(entry, matrix), row),
                          column);
}

static const char *name_at(ks_report *r, const json_t *entry, size_t i) {
    const char *name =
        json_string_value(json_array_get(json_object_get(entry, "names"), i));
    return name ? ks__report_brief(r, name, 60) : "";
}

static const char *place_of(ks_report *r, const json_t *entry) {
    return ks__report_text(r, "%s %s", ks__named(r, entry, "stream"),
                           ks__named(r, entry, "position"));
}

/* Of the sets, where others were compared at the same stream and position. */
static const char *names_beside(ks_report *r, const json_t *all,
                                const json_t *entry) {
    json_t *other;
    const char *place = place_of(r, entry), *text = "";
    size_t i, alike = 0, n = json_array_size(json_object_get(entry, "names"));
    json_array_foreach(all, i, other) {
        alike += strcmp(place_of(r, other), place) == 0;
    }
    for (i = 0; i < n && alike > 1; i++)
        text = ks__report_text(r, "%s%s%s", text, i ? ", " : ": ",
                               name_at(r, entry, i));
    return ks__report_brief(r, text, 80);
}

typedef struct map {
    const char *file, *matrix, *title, *x, *y, *finding;
} map;

/* Has the set's row anything to say? A control has no labels. */
static bool has_row(const json_t *entry, const char *matrix, size_t row) {
    json_t *cell;
    size_t k;
    json_array_foreach(json_array_get(json_object_get(entry, matrix), row), k,
                       cell) {
        if (json_is_object(cell)) return true;
    }
    return false;
}

/* The first set's row on top. */
static void heat(ks_report *r, const ks_runs *runs, size_t run,
                 const json_t *all, const json_t *entry, const map *m) {
    size_t n = json_array_size(json_object_get(entry, "names"));
    const char *place = place_of(r, entry);
    ks_report_figure *f =
        ks__figure(r, KS_FIGURE_HEAT, ks__file_of(r, runs, run, m->file, place),
                   ks__of_run(r, runs, run,
                              ks__report_text(r, "%s, %s%s", m->title, place,
                                              names_beside(r, all, entry))));
    f->x_label = m->x;
    f->y_label = m->y;
    f->percent = true;
    f->low = 0.5, f->high = 1;
    if (strcmp(m->matrix, "agreement") != 0) ks__reference(f, "chance", 0.5);
    f->finding = m->finding;
    for (size_t k = 0; k < n; k++) ks__heat_column(f, name_at(r, entry, k));
    for (size_t row = n; row-- > 0;) {
        if (!has_row(entry, m->matrix, row)) continue;
        ks__heat_row(f, name_at(r, entry, row));
        for (size_t k = 0; k < n; k++)
            ks__heat_value(
                f, ks__number(cell_of(entry, m->matrix, row, k), "value"));
    }
    ks__figure_end(f);
}

static void models(ks_report *r, const ks_runs *runs, size_t run) {
    static const map maps[] = {
        {"models", "balanced_accuracy",
         "Labels of one model, activations of another", "activations of",
         "labels of",
         "Balanced accuracy in percent of a probe of the column's activations "
         "on the row's labels; 50 is chance."},
        {"models agreement", "agreement",
         "Steps that own and other probe judge alike", "activations of",
         "labels of",
         "Percent of steps for which a probe of the column's activations says "
         "what one of the row's own says."},
        {"models ridge", "carried_by_ridge",
         "A probe carried over by a linear map (ridge)", "activations of",
         "probe of",
         "Balanced accuracy in percent of the row's own probe on the column's "
         "activations, mapped; the diagonal is not mapped."},
        {"models rotation", "carried_by_procrustes",
         "A probe carried over by a rotation", "activations of", "probe of",
         "The same by a map that may only turn the space and stretch it as a "
         "whole."}};
    json_t *entry,
        *all = json_object_get(runs->at[run].transfer, "across_models");
    size_t i;
    json_array_foreach(all, i, entry) {
        for (size_t m = 0; m < KS_COUNT(maps); m++)
            heat(r, runs, run, all, entry, &maps[m]);
    }
}

/* Of a matrix of p values. */
static void p_cell(ks_report_table *t, const json_t *entry, const char *matrix,
                   size_t row, size_t column) {
    json_t *p = cell_of(entry, matrix, row, column);
    ks__cell_number(t, json_is_number(p) ? json_number_value(p) : NAN);
}

static void model_row(ks_report_table *t, const json_t *entry, size_t row,
                      size_t column) {
    static const char *const more[] = {"agreement", "label_agreement"};
    ks__cell_text(t, place_of(t->of, entry));
    ks__cell_text(t, name_at(t->of, entry, row));
    ks__cell_text(t, name_at(t->of, entry, column));
    ks__cell_interval_of(t, cell_of(entry, "balanced_accuracy", row, column));
    p_cell(t, entry, "p_holm", row, column);
    ks__cell_interval_of(t, cell_of(entry, "minus_self", row, column));
    p_cell(t, entry, "minus_self_p_holm", row, column);
    for (size_t k = 0; k < KS_COUNT(more); k++)
        ks__cell_interval_of(t, cell_of(entry, more[k], row, column));
}

static void model_rows(ks_report_table *t, const ks_runs *runs, size_t run) {
    json_t *entry,
        *all = json_object_get(runs->at[run].transfer, "across_models");
    size_t i;
    json_array_foreach(all, i, entry) {
        size_t n = json_array_size(json_object_get(entry, "names"));
        for (size_t row = 0; row < n; row++)
            for (size_t column = 0;
                 column < n && has_row(entry, "balanced_accuracy", row);
                 column++) {
                ks__run_cell(t, runs, run);
                model_row(t, entry, row, column);
            }
    }
}

static void model_table(ks_report *r, const ks_runs *runs) {
    ks_report_table *t = ks__table(r, "across-models", "Across models");
    t->note = "A probe of one set's activations on another's labels, on the "
              "same steps. minus own: balanced accuracy less that of the "
              "labels' own activations, paired. same predictions: steps that "
              "both probes judge alike. p against chance one-sided, p of the "
              "difference two-sided, both corrected (Holm) over the sets.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_TEXT, "labels of");
    ks__column(t, KS_COLUMN_TEXT, "activations of");
    ks__column(t, KS_COLUMN_PERCENT, "balanced accuracy, %");
    ks__column(t, KS_COLUMN_P, "p (Holm)");
    ks__column(t, KS_COLUMN_POINTS, "minus own, points");
    ks__column(t, KS_COLUMN_P, "p of difference (Holm)");
    ks__column(t, KS_COLUMN_PERCENT, "same predictions, %");
    ks__column(t, KS_COLUMN_PERCENT, "same labels, %");
    for (size_t run = 0; run < runs->n; run++) model_rows(t, runs, run);
    ks__table_end(t);
}

/* "A on B" */
static void map_row(ks_report_table *t, const json_t *entry,
                    const json_t *one) {
    ks__cell_text(t, place_of(t->of, entry));
    ks__cell_text(t, ks__named(t->of, one, "probe_of"));
    ks__cell_text(t, ks__named(t->of, one, "activations_of"));
    ks__cell_text(t, ks__named(t->of, one, "map"));
    ks__cell_interval_of(t, json_object_get(one, "balanced_accuracy"));
    ks__cell_number(t, ks__number(one, "p_holm"));
    ks__cell_interval_of(t, json_object_get(one, "minus_own"));
    ks__cell_number(t, ks__number(one, "minus_own_p_holm"));
    ks__cell_interval_of(t, json_object_get(one, "agreement"));
    ks__cell_interval_of(t, json_object_get(one, "r2"));
}

static void map_table(ks_report *r, const ks_runs *runs) {
    json_t *entry, *one;
    size_t i, k;
    ks_report_table *t =
        ks__table(r, "maps", "Probes carried over by linear maps");
    t->note = "A set's own probe, unchanged, on another's activations that a "
              "map, fitted without labels, brought into its space. ridge: any "
              "linear map; procrustes: a turn and one stretch. Controls: "
              "shuffled, ridge on steps that do not belong together; "
              "identity, no map; mean, the own mean for every step. R2: of the "
              "map on held-out problems. p as above, corrected over the pairs "
              "of a kind of map.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_TEXT, "probe of");
    ks__column(t, KS_COLUMN_TEXT, "activations of");
    ks__column(t, KS_COLUMN_TEXT, "map");
    ks__column(t, KS_COLUMN_PERCENT, "balanced accuracy, %");
    ks__column(t, KS_COLUMN_P, "p (Holm)");
    ks__column(t, KS_COLUMN_POINTS, "minus own, points");
    ks__column(t, KS_COLUMN_P, "p of difference (Holm)");
    ks__column(t, KS_COLUMN_PERCENT, "same predictions, %");
    ks__column(t, KS_COLUMN_RANGE, "R2");
    for (size_t run = 0; run < runs->n; run++) {
        json_array_foreach(
            json_object_get(runs->at[run].transfer, "across_models"), i,
            entry) {
            json_array_foreach(json_object_get(entry, "maps"), k, one) {
                ks__run_cell(t, runs, run);
                map_row(t, entry, one);
            }
        }
    }
    ks__table_end(t);
}

static void tasks(ks_report *r, const ks_runs *runs, size_t run) {
    static const map one = {
        "tasks",
        "balanced_accuracy",
        "Trained on one task, tested on another",
        "tested on",
        "trained on",
        "Balanced accuracy in percent; the diagonal is each set's own "
        "cross-validated probe."};
    json_t *entry,
        *all = json_object_get(runs->at[run].transfer, "across_tasks");
    size_t i;
    json_array_foreach(all, i, entry) {
        map m = one;
        m.title = ks__report_text(r, "%s, %s", one.title,
                                  ks__named(r, entry, "model"));
        heat(r, runs, run, all, entry, &m);
    }
}

static void task_row(ks_report_table *t, const json_t *entry, size_t row,
                     size_t column) {
    ks__cell_text(t, ks__named(t->of, entry, "model"));
    ks__cell_text(t, place_of(t->of, entry));
    ks__cell_text(t, name_at(t->of, entry, row));
    ks__cell_text(t, name_at(t->of, entry, column));
    ks__cell_interval_of(t, cell_of(entry, "balanced_accuracy", row, column));
    p_cell(t, entry, "p_holm", row, column);
    ks__cell_interval_of(t, cell_of(entry, "minus_within", row, column));
    p_cell(t, entry, "minus_within_p_holm", row, column);
}

static void task_rows(ks_report_table *t, const ks_runs *runs, size_t run) {
    json_t *entry,
        *all = json_object_get(runs->at[run].transfer, "across_tasks");
    size_t i;
    json_array_foreach(all, i, entry) {
        size_t n = json_array_size(json_object_get(entry, "names"));
        for (size_t row = 0; row < n; row++)
            for (size_t column = 0; column < n; column++) {
                ks__run_cell(t, runs, run);
                task_row(t, entry, row, column);
            }
    }
}

static void task_table(ks_report *r, const ks_runs *runs) {
    ks_report_table *t = ks__table(r, "across-tasks", "Across tasks");
    t->note = "minus within: balanced accuracy less that of the tested set's "
              "own cross-validated probe, paired. p against chance one-sided, "
              "p of the difference two-sided, both corrected (Holm) over the "
              "sets.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "model");
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_TEXT, "trained on");
    ks__column(t, KS_COLUMN_TEXT, "tested on");
    ks__column(t, KS_COLUMN_PERCENT, "balanced accuracy, %");
    ks__column(t, KS_COLUMN_P, "p (Holm)");
    ks__column(t, KS_COLUMN_POINTS, "minus within, points");
    ks__column(t, KS_COLUMN_P, "p of difference (Holm)");
    for (size_t run = 0; run < runs->n; run++) task_rows(t, runs, run);
    ks__table_end(t);
}

void ks__section_transfer(ks_report *r, const ks_runs *runs) {
    ks__section(r, "transfer", "From one model or task to another",
                "Whether one model's activations know what another model's "
                "labels say, and whether a probe works where it was not "
                "trained.");
    for (size_t run = 0; run < runs->n; run++) models(r, runs, run);
    model_table(r, runs);
    map_table(r, runs);
    for (size_t run = 0; run < runs->n; run++) tasks(r, runs, run);
    task_table(r, runs);
}
