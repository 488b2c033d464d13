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
    const char *file, *matrix, *title, *x, *y;
    double low;
} map;

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
    f->low = m->low, f->high = 1;
    f->finding = "Percent; the table beneath has the figures with their "
                 "intervals.";
    for (size_t i = 0; i < n; i++) {
        ks__heat_column(f, name_at(r, entry, i));
        ks__heat_row(f, name_at(r, entry, n - 1 - i));
    }
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++)
            ks__heat_value(
                f,
                ks__number(cell_of(entry, m->matrix, n - 1 - i, k), "value"));
    ks__figure_end(f);
}

static void models(ks_report *r, const ks_runs *runs, size_t run) {
    static const map maps[] = {{"models", "balanced_accuracy",
                                "Labels of one model, activations of another",
                                "activations of", "labels of", 0.5},
                               {"models agreement", "agreement",
                                "Steps that own and other probe judge alike",
                                "activations of", "labels of", 0.5},
                               {"models ridge", "carried_by_ridge",
                                "A probe carried over by a linear map (ridge)",
                                "activations of", "probe of", 0.5},
                               {"models rotation", "carried_by_procrustes",
                                "A probe carried over by a rotation",
                                "activations of", "probe of", 0.5}};
    json_t *entry,
        *all = json_object_get(runs->at[run].transfer, "across_models");
    size_t i;
    json_array_foreach(all, i, entry) {
        for (size_t m = 0; m < KS_COUNT(maps); m++)
            heat(r, runs, run, all, entry, &maps[m]);
    }
}

static void model_rows(ks_report_table *t, const ks_runs *runs, size_t run) {
    static const char *const figures[] = {
        "balanced_accuracy", "accuracy",         "minus_self",
        "agreement",         "carried_by_ridge", "carried_by_procrustes",
        "label_agreement"};
    json_t *entry,
        *all = json_object_get(runs->at[run].transfer, "across_models");
    size_t i;
    json_array_foreach(all, i, entry) {
        size_t n = json_array_size(json_object_get(entry, "names"));
        for (size_t row = 0; row < n; row++)
            for (size_t column = 0; column < n; column++) {
                ks__run_cell(t, runs, run);
                ks__cell_text(t, place_of(t->of, entry));
                ks__cell_text(t, name_at(t->of, entry, row));
                ks__cell_text(t, name_at(t->of, entry, column));
                for (size_t k = 0; k < KS_COUNT(figures); k++)
                    ks__cell_interval_of(
                        t, cell_of(entry, figures[k], row, column));
            }
    }
}

static void model_table(ks_report *r, const ks_runs *runs) {
    ks_report_table *t = ks__table(r, "across-models", "Across models");
    t->note = "labels of a model, activations of another on the same chains; "
              "carried: the first model's own probe on the other's "
              "activations, mapped. minus own: balanced accuracy less that of "
              "the first model's own probe.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_TEXT, "labels of");
    ks__column(t, KS_COLUMN_TEXT, "activations of");
    ks__column(t, KS_COLUMN_PERCENT, "balanced accuracy, %");
    ks__column(t, KS_COLUMN_PERCENT, "accuracy, %");
    ks__column(t, KS_COLUMN_POINTS, "minus own, points");
    ks__column(t, KS_COLUMN_PERCENT, "agreement, %");
    ks__column(t, KS_COLUMN_PERCENT, "carried by ridge, %");
    ks__column(t, KS_COLUMN_PERCENT, "carried by rotation, %");
    ks__column(t, KS_COLUMN_PERCENT, "labels alike, %");
    for (size_t run = 0; run < runs->n; run++) model_rows(t, runs, run);
    ks__table_end(t);
}

static void tasks(ks_report *r, const ks_runs *runs, size_t run) {
    static const map one = {"tasks",
                            "balanced_accuracy",
                            "Trained on one task, tested on another",
                            "tested on",
                            "trained on",
                            0.5};
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

static void task_rows(ks_report_table *t, const ks_runs *runs, size_t run) {
    static const char *const figures[] = {"balanced_accuracy", "accuracy",
                                          "minus_within"};
    json_t *entry,
        *all = json_object_get(runs->at[run].transfer, "across_tasks");
    size_t i;
    json_array_foreach(all, i, entry) {
        size_t n = json_array_size(json_object_get(entry, "names"));
        for (size_t row = 0; row < n; row++)
            for (size_t column = 0; column < n; column++) {
                ks__run_cell(t, runs, run);
                ks__cell_text(t, ks__named(t->of, entry, "model"));
                ks__cell_text(t, place_of(t->of, entry));
                ks__cell_text(t, name_at(t->of, entry, row));
                ks__cell_text(t, name_at(t->of, entry, column));
                for (size_t k = 0; k < KS_COUNT(figures); k++)
                    ks__cell_interval_of(
                        t, cell_of(entry, figures[k], row, column));
            }
    }
}

static void task_table(ks_report *r, const ks_runs *runs) {
    ks_report_table *t = ks__table(r, "across-tasks", "Across tasks");
    t->note = "minus within: balanced accuracy less that of the tested set's "
              "own cross-validated probe.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "model");
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_TEXT, "trained on");
    ks__column(t, KS_COLUMN_TEXT, "tested on");
    ks__column(t, KS_COLUMN_PERCENT, "balanced accuracy, %");
    ks__column(t, KS_COLUMN_PERCENT, "accuracy, %");
    ks__column(t, KS_COLUMN_POINTS, "minus within, points");
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
    for (size_t run = 0; run < runs->n; run++) tasks(r, runs, run);
    task_table(r, runs);
}
