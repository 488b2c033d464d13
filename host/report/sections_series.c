/* sections_series.c - lists with an entry a position and points in each, by
 * layer or by something else, as lines and as rows. */
#include <math.h>

#include "sections.h"

void ks__lines_of(ks_report *r, const ks_runs *runs, size_t run,
                  const json_t *all, const ks_lines_spec *s) {
    json_t *one, *point;
    size_t i, k;
    ks_report_figure *f = ks__figure(
        r, KS_FIGURE_LINES, ks__file_of(r, runs, run, s->file, s->more),
        ks__of_run(r, runs, run, s->title));
    f->x_label = s->x_label;
    f->y_label = s->y_label;
    f->percent = s->percent;
    f->log_x = s->log_x;
    f->whole_x = s->whole_x;
    if (s->reference) ks__reference(f, s->reference, s->at);
    json_array_foreach(all, i, one) {
        ks__line(f, ks__where(r, &runs->at[run], one), ks__tone(one));
        json_array_foreach(json_object_get(one, s->list), k, point) {
            double x = ks__number(point, s->x);
            if (!(s->log_x && x <= 0))
                ks__point_interval(f, x, json_object_get(point, s->y));
        }
    }
    ks__fit_range(f, s->low, s->high);
    f->finding = ks__lines_finding(r, f, s->finding, s->before, s->behind);
    ks__figure_end(f);
}

void ks__columns_of(ks_report_table *t, const ks_column_spec *columns,
                    size_t n) {
    ks__column(t, KS_COLUMN_TEXT, "position");
    for (size_t c = 0; c < n; c++)
        ks__column(t, columns[c].kind, columns[c].name);
}

static void add_cell(ks_report_table *t, const ks_column_spec *column,
                     const json_t *one, const json_t *point) {
    const json_t *from = column->of_entry ? one : point;
    if (column->kind == KS_COLUMN_WHOLE || column->kind == KS_COLUMN_NUMBER ||
        column->kind == KS_COLUMN_COUNT || column->kind == KS_COLUMN_P)
        ks__cell_number(t, ks__number(from, column->key));
    else
        ks__cell_interval_of(t, json_object_get(from, column->key));
}

void ks__rows_of(ks_report_table *t, const ks_runs *runs, size_t run,
                 const json_t *all, const char *list,
                 const ks_column_spec *columns, size_t n, bool named) {
    json_t *one, *point;
    size_t i, k;
    json_array_foreach(all, i, one) {
        const char *where = ks__where(t->of, &runs->at[run], one);
        json_array_foreach(json_object_get(one, list), k, point) {
            if (named) ks__run_cell(t, runs, run);
            ks__cell_text(t, where);
            for (size_t c = 0; c < n; c++) add_cell(t, &columns[c], one, point);
        }
    }
}

void ks__table_of(ks_report *r, const ks_runs *runs, size_t run,
                  const json_t *all, const ks_table_spec *s) {
    ks_report_table *t = ks__table(r, ks__file_of(r, runs, run, s->file, NULL),
                                   ks__of_run(r, runs, run, s->title));
    t->note = s->note;
    ks__columns_of(t, s->columns, s->n_columns);
    ks__rows_of(t, runs, run, all, s->list, s->columns, s->n_columns, false);
    ks__table_end(t);
}
