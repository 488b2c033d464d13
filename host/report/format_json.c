/* format_json.c - tables, figures and the whole report as JSON. */
#include "content.h"

#include <math.h>

static json_t *number(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *text(const char *s) {
    return s ? json_string(s) : json_null();
}

/* Hands *object over as *out, or fails where one of its parts did. */
static ks_status finish(json_t *object, json_t **out, ks_err *err) {
    if (!object)
        return ks_fail(err, KS_NOMEM, "out of memory for the report as JSON");
    *out = object;
    return KS_OK;
}

/* ------------------------------------------------------------------ tables */

static const char *kind_name(ks_column_kind kind) {
    static const char *const names[] = {"text",    "whole",  "number", "count",
                                        "percent", "points", "range",  "p"};
    return names[kind];
}

static json_t *cell_json(const ks_report_cell *c, ks_column_kind kind) {
    switch (kind) {
    case KS_COLUMN_TEXT:
        return text(c->text);
    case KS_COLUMN_WHOLE:
        return isnan(c->value) ? json_null()
                               : json_integer((json_int_t)c->value);
    case KS_COLUMN_NUMBER:
    case KS_COLUMN_COUNT:
    case KS_COLUMN_P:
        return number(c->value);
    default:
        return json_pack("{s:o,s:o,s:o}", "value", number(c->value), "low",
                         number(c->low), "high", number(c->high));
    }
}

ks_status ks__table_json(const ks_report_table *t, json_t **out, ks_err *err) {
    json_t *columns = json_array(), *rows = json_array();
    for (size_t c = 0; c < t->n_columns; c++)
        json_array_append_new(columns,
                              json_pack("{s:s,s:s}", "name", t->columns[c].name,
                                        "kind", kind_name(t->columns[c].kind)));
    for (size_t r = 0; r < ks__table_rows(t); r++) {
        json_t *row = json_array();
        for (size_t c = 0; c < t->n_columns; c++)
            json_array_append_new(
                row,
                cell_json(&t->cells[r * t->n_columns + c], t->columns[c].kind));
        json_array_append_new(rows, row);
    }
    return finish(json_pack("{s:s,s:s,s:o,s:o,s:o}", "name", t->name, "title",
                            t->title, "note", text(t->note), "columns", columns,
                            "rows", rows),
                  out, err);
}

/* ----------------------------------------------------------------- figures */

static json_t *lines_json(const ks_report_figure *f) {
    json_t *lines = json_array();
    for (size_t i = 0; i < f->n_lines; i++) {
        const ks_report_line *line = &f->lines[i];
        json_t *points = json_array();
        for (size_t k = line->first; k < line->first + line->n; k++)
            json_array_append_new(points,
                                  json_pack("[o,o,o,o]", number(f->points[k].x),
                                            number(f->points[k].y),
                                            number(f->points[k].low),
                                            number(f->points[k].high)));
        json_array_append_new(lines,
                              json_pack("{s:s,s:i,s:o}", "name", line->name,
                                        "tone", line->tone, "points", points));
    }
    return lines;
}

static json_t *bars_json(const ks_report_figure *f) {
    json_t *bars = json_array();
    for (size_t i = 0; i < f->n_bars; i++)
        json_array_append_new(
            bars,
            json_pack("{s:s,s:o,s:i,s:o,s:o,s:o}", "name", f->bars[i].name,
                      "group", text(f->bars[i].group), "tone", f->bars[i].tone,
                      "value", number(f->bars[i].value), "low",
                      number(f->bars[i].low), "high", number(f->bars[i].high)));
    return bars;
}

static json_t *names_json(const char *const *names, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_string(names[i]));
    return list;
}

static void heat_json(const ks_report_figure *f, json_t *object) {
    json_t *values = json_array();
    for (size_t r = 0; r < f->n_rows; r++) {
        json_t *row = json_array();
        for (size_t c = 0; c < f->n_columns; c++)
            json_array_append_new(row, number(f->values[r * f->n_columns + c]));
        json_array_append_new(values, row);
    }
    json_object_set_new(object, "rows", names_json(f->rows, f->n_rows));
    json_object_set_new(object, "columns",
                        names_json(f->columns, f->n_columns));
    json_object_set_new(object, "values", values);
    if (f->kind != KS_FIGURE_STRIP) return;
    json_t *marks = json_array();
    for (size_t i = 0; i < f->n_marks; i++)
        json_array_append_new(
            marks, f->marks[i] < 0 ? json_null() : json_integer(f->marks[i]));
    json_object_set_new(object, "labels", marks);
}

ks_status ks__figure_json(const ks_report_figure *f, json_t **out,
                          ks_err *err) {
    static const char *const kinds[] = {"lines", "bars", "heat", "strip"};
    json_t *references = json_array();
    for (size_t i = 0; i < f->n_references; i++)
        json_array_append_new(
            references, json_pack("{s:s,s:o}", "name", f->references[i].name,
                                  "at", number(f->references[i].at)));
    json_t *object = json_pack(
        "{s:s,s:s,s:s,s:s,s:s,s:s,s:o,s:o,s:b,s:b,s:b,s:b,s:b,s:o}", "name",
        f->name, "kind", kinds[f->kind], "title", f->title, "finding",
        f->finding, "x_label", f->x_label, "y_label", f->y_label, "low",
        number(f->low), "high", number(f->high), "percent", (int)f->percent,
        "diverging", (int)f->diverging, "diagonal", (int)f->diagonal, "log_x",
        (int)f->log_x, "whole_x", (int)f->whole_x, "references", references);
    if (object && f->kind == KS_FIGURE_LINES)
        json_object_set_new(object, "lines", lines_json(f));
    else if (object && f->kind == KS_FIGURE_BARS)
        json_object_set_new(object, "bars", bars_json(f));
    else if (object)
        heat_json(f, object);
    return finish(object, out, err);
}

/* ------------------------------------------------------------------- whole */

static ks_status part_json(const ks_report_part *part, json_t *into,
                           ks_err *err) {
    ks_status st = KS_OK;
    json_t *one = NULL;
    if (part->kind == KS_PART_TABLE) {
        KS_TRY(ks__table_json(part->table, &one, err));
        json_array_append_new(into, json_pack("{s:o}", "table", one));
    } else if (part->kind == KS_PART_FIGURE) {
        KS_TRY(ks__figure_json(part->figure, &one, err));
        json_array_append_new(into, json_pack("{s:o}", "figure", one));
    } else {
        json_array_append_new(into, json_pack("{s:s}", "text", part->text));
    }
done:
    return st;
}

ks_status ks__report_json(const ks_report *r, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    json_t *sections = json_array(), *absent = json_array(), *parts = NULL;
    for (size_t s = 0; s < r->n_sections; s++) {
        const ks_report_section *section = &r->sections[s];
        parts = json_array();
        for (size_t p = 0; p < section->n_parts; p++)
            KS_TRY(part_json(&section->parts[p], parts, err));
        json_array_append_new(
            sections, json_pack("{s:s,s:s,s:o,s:O}", "name", section->name,
                                "title", section->title, "lead",
                                text(section->lead), "parts", parts));
        json_decref(parts);
        parts = NULL;
    }
    for (size_t i = 0; i < r->n_absent; i++)
        json_array_append_new(absent, json_string(r->absent[i]));
    KS_TRY(finish(json_pack("{s:s,s:i,s:s,s:s,s:O,s:O}", "format",
                            "keystep report", "format_version", 1, "program",
                            "keystep " KS_VERSION, "title", r->title,
                            "sections", sections, "absent", absent),
                  out, err));
done:
    json_decref(parts);
    json_decref(sections);
    json_decref(absent);
    return st;
}
