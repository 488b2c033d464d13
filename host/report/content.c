/* content.c - see content.h: sections, tables and figures put together. */
#include "content.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ memory */

/* Room for one more in an array of the report; false after a failure. */
static bool room(ks_report *r, void *array, size_t *capacity, size_t n,
                 size_t size) {
    if (r->st == KS_OK)
        r->st = ks_grow(array, capacity, n + 1, size, "the report", &r->err);
    return r->st == KS_OK;
}

void *ks__report_memory(ks_report *r, size_t size) {
    void *memory = NULL;
    if (!room(r, (void *)&r->memory, &r->memory_room, r->n_memory,
              sizeof *r->memory))
        return NULL;
    r->st = ks_alloc((void *)&memory, 1, size, "the report", &r->err);
    if (memory) r->memory[r->n_memory++] = memory;
    return memory;
}

const char *ks__report_text(ks_report *r, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = n < 0 ? NULL : ks__report_memory(r, (size_t)n + 1);
    va_start(args, format);
    if (text) vsnprintf(text, (size_t)n + 1, format, args);
    va_end(args);
    return text ? text : "";
}

const char *ks__report_name(ks_report *r, const char *first,
                            const char *second) {
    enum { MOST = 60 };
    char name[MOST + 1];
    size_t n = 0;
    bool gap = false;
    for (int i = 0; i < 2; i++) {
        const char *from = i == 0 ? first : second;
        if (!from) continue;
        for (gap = n > 0; *from && n < MOST - 1; from++) {
            bool plain = (*from & 0x80) == 0 && isalnum((unsigned char)*from);
            if (plain && gap && n) name[n++] = '-';
            if (plain) name[n++] = (char)tolower((unsigned char)*from);
            gap = !plain;
        }
    }
    name[n] = 0;
    return ks__report_text(r, "%s", n ? name : "x");
}

/* Bytes of a character that nobody sees and that turns or joins the others
 * around it: marks and isolates of direction, U+FEFF; 0: none. */
static size_t unseen(const char *at) {
    static const char *const marks[] = {
        "\u061C", "\u200E", "\u200F", "\u202A", "\u202B", "\u202C", "\u202D",
        "\u202E", "\u2066", "\u2067", "\u2068", "\u2069", "\uFEFF"};
    for (size_t i = 0; i < KS_COUNT(marks); i++)
        if (strncmp(at, marks[i], strlen(marks[i])) == 0)
            return strlen(marks[i]);
    return 0;
}

const char *ks__report_brief(ks_report *r, const char *text, size_t most) {
    char *copy = ks__report_memory(r, strlen(text) + 4);
    size_t n = 0;
    if (!copy) return "";
    while (*text) {
        size_t skip = unseen(text);
        if (skip) {
            text += skip;
            continue;
        }
        unsigned char c = (unsigned char)*text++;
        copy[n++] = (char)(c < 0x20 || c == 0x7F ? ' ' : c);
    }
    copy[n] = 0;
    if (n <= most) return copy;
    n = most > 3 ? most - 3 : 0; /* the ellipsis has three bytes */
    while (n > 0 && (copy[n] & 0xC0) == 0x80) n--;
    memcpy(copy + n, "\u2026", 4);
    return copy;
}

/* ---------------------------------------------------------------- sections */

ks_report_section *ks__section(ks_report *r, const char *name,
                               const char *title, const char *lead) {
    if (!room(r, (void *)&r->sections, &r->section_room, r->n_sections,
              sizeof *r->sections))
        return NULL;
    ks_report_section *s = &r->sections[r->n_sections++];
    *s = (ks_report_section){.name = name, .title = title, .lead = lead};
    return s;
}

/* NULL after a failure. */
static ks_report_part *new_part(ks_report *r) {
    if (r->st != KS_OK || !r->n_sections) return NULL;
    ks_report_section *s = &r->sections[r->n_sections - 1];
    if (!room(r, (void *)&s->parts, &s->room, s->n_parts, sizeof *s->parts))
        return NULL;
    ks_report_part *part = &s->parts[s->n_parts++];
    *part = (ks_report_part){0};
    return part;
}

void ks__section_text(ks_report *r, const char *text) {
    ks_report_part *part = new_part(r);
    if (part) part->kind = KS_PART_TEXT, part->text = text;
}

void ks__absent(ks_report *r, const char *text) {
    if (room(r, (void *)&r->absent, &r->absent_room, r->n_absent,
             sizeof *r->absent))
        r->absent[r->n_absent++] = text;
}

static const char *name_of(const ks_report_part *part, ks_part_kind kind) {
    if (part->kind != kind) return NULL;
    return kind == KS_PART_TABLE ? part->table->name : part->figure->name;
}

/* Is there a table, or a figure, of that name? */
static bool is_taken(const ks_report *r, ks_part_kind kind, const char *name) {
    for (size_t s = 0; s < r->n_sections; s++)
        for (size_t p = 0; p < r->sections[s].n_parts; p++) {
            const char *other = name_of(&r->sections[s].parts[p], kind);
            if (other && strcmp(other, name) == 0) return true;
        }
    return false;
}

/* The name, or NAME-2, NAME-3, .. where another has it: names from files are
 * cut and lose what cannot stand in a file's name. */
static const char *free_name(ks_report *r, ks_part_kind kind,
                             const char *name) {
    const char *own = name;
    for (int i = 2; r->st == KS_OK && is_taken(r, kind, own); i++)
        own = ks__report_text(r, "%s-%d", name, i);
    return own;
}

ks_report_table *ks__table(ks_report *r, const char *name, const char *title) {
    static ks_report dead = {.st = KS_NOMEM};
    static ks_report_table none = {.of = &dead};
    const char *own = free_name(r, KS_PART_TABLE, name);
    ks_report_table *t = ks__report_memory(r, sizeof *t);
    ks_report_part *part = t ? new_part(r) : NULL;
    if (!part) return &none;
    *t = (ks_report_table){.of = r, .name = own, .title = title};
    part->kind = KS_PART_TABLE;
    part->table = t;
    return t;
}

ks_report_figure *ks__figure(ks_report *r, ks_figure_kind kind,
                             const char *name, const char *title) {
    static ks_report dead = {.st = KS_NOMEM};
    static ks_report_figure none = {.of = &dead};
    const char *own = free_name(r, KS_PART_FIGURE, name);
    ks_report_figure *f = ks__report_memory(r, sizeof *f);
    ks_report_part *part = f ? new_part(r) : NULL;
    if (!part) {
        none = (ks_report_figure){.of = &dead};
        return &none;
    }
    *f = (ks_report_figure){.of = r,
                            .kind = kind,
                            .name = own,
                            .title = title,
                            .finding = "",
                            .x_label = "",
                            .y_label = ""};
    part->kind = KS_PART_FIGURE;
    part->figure = f;
    return f;
}

/* The part with this table or figure goes again. */
static void drop_part(ks_report *r, const void *which) {
    ks_report_section *s = &r->sections[r->n_sections - 1];
    size_t kept = 0;
    for (size_t p = 0; p < s->n_parts; p++) {
        ks_report_part part = s->parts[p];
        if (part.table != which && part.figure != which)
            s->parts[kept++] = part;
    }
    s->n_parts = kept;
}

static void free_table(ks_report_table *t) {
    free(t->columns);
    free(t->cells);
}

static void free_figure(ks_report_figure *f) {
    void *const all[] = {f->lines,      f->points,       f->bars,
                         f->references, (void *)f->rows, (void *)f->columns,
                         f->values,     f->marks};
    for (size_t i = 0; i < KS_COUNT(all); i++) free(all[i]);
}

void ks_report_free(ks_report *r) {
    for (size_t s = 0; s < r->n_sections; s++) {
        ks_report_section *section = &r->sections[s];
        for (size_t p = 0; p < section->n_parts; p++) {
            if (section->parts[p].table) free_table(section->parts[p].table);
            if (section->parts[p].figure) free_figure(section->parts[p].figure);
        }
        free(section->parts);
    }
    free(r->sections);
    free((void *)r->absent);
    for (size_t i = 0; i < r->n_memory; i++) free(r->memory[i]);
    free((void *)r->memory);
    *r = (ks_report){0};
}

void ks__table_end(ks_report_table *t) {
    if (t->of->st != KS_OK || t->n_cells) return;
    free_table(t);
    drop_part(t->of, t);
}

void ks__figure_end(ks_report_figure *f) {
    if (f->of->st != KS_OK) return;
    bool any = false;
    for (size_t i = 0; i < f->n_points; i++) any |= !isnan(f->points[i].y);
    for (size_t i = 0; i < f->n_bars; i++) any |= !isnan(f->bars[i].value);
    for (size_t i = 0; i < f->n_values; i++) any |= !isnan(f->values[i]);
    if (any) return;
    free_figure(f);
    drop_part(f->of, f);
}

/* ------------------------------------------------------------------ tables */

void ks__column(ks_report_table *t, ks_column_kind kind, const char *name) {
    if (room(t->of, (void *)&t->columns, &t->column_room, t->n_columns,
             sizeof *t->columns))
        t->columns[t->n_columns++] = (ks_report_column){name, kind};
}

size_t ks__table_rows(const ks_report_table *t) {
    return t->n_columns ? t->n_cells / t->n_columns : 0;
}

static void add_cell(ks_report_table *t, ks_report_cell cell) {
    if (room(t->of, (void *)&t->cells, &t->cell_room, t->n_cells,
             sizeof *t->cells))
        t->cells[t->n_cells++] = cell;
}

void ks__cell_text(ks_report_table *t, const char *text) {
    add_cell(t, (ks_report_cell){text, NAN, NAN, NAN});
}

void ks__cell_number(ks_report_table *t, double value) {
    add_cell(t, (ks_report_cell){NULL, value, NAN, NAN});
}

void ks__cell_range(ks_report_table *t, double value, double low, double high) {
    add_cell(t, (ks_report_cell){NULL, value, low, high});
}

/* "+0.0" and not "-0.0" */
static double round_to(double v, double unit) {
    double rounded = round(v / unit) * unit;
    return rounded == 0 ? 0 : v;
}

static void show_range(const ks_report_cell *c, double times, const char *one,
                       const char *three, double unit, char *out, size_t n) {
    double v[3] = {c->value * times, c->low * times, c->high * times};
    for (int i = 0; i < 3; i++) v[i] = round_to(v[i], unit);
    if (isnan(c->low) || isnan(c->high))
        snprintf(out, n, one, v[0]);
    else
        snprintf(out, n, three, v[0], v[1], v[2]);
}

void ks__cell_show(const ks_report_cell *c, ks_column_kind kind, char *out,
                   size_t n) {
    if (kind == KS_COLUMN_TEXT)
        snprintf(out, n, "%s", c->text ? c->text : "");
    else if (isnan(c->value))
        snprintf(out, n, "n/a");
    else if (kind == KS_COLUMN_WHOLE)
        snprintf(out, n, "%.0f", c->value);
    else if (kind == KS_COLUMN_NUMBER)
        snprintf(out, n, "%.3f", round_to(c->value, 1e-3));
    else if (kind == KS_COLUMN_COUNT)
        snprintf(out, n, "%.1f", c->value);
    else if (kind == KS_COLUMN_PERCENT)
        show_range(c, 100, "%.1f", "%.1f [%.1f, %.1f]", 0.1, out, n);
    else if (kind == KS_COLUMN_POINTS)
        show_range(c, 100, "%+.1f", "%+.1f [%+.1f, %+.1f]", 0.1, out, n);
    else if (kind == KS_COLUMN_RANGE)
        show_range(c, 1, "%.3f", "%.3f [%.3f, %.3f]", 1e-3, out, n);
    else if (c->value < 0.001)
        snprintf(out, n, "<0.001");
    else
        snprintf(out, n, "%.3f", c->value);
}

/* ----------------------------------------------------------------- figures */

void ks__line(ks_report_figure *f, const char *name, int tone) {
    if (room(f->of, (void *)&f->lines, &f->line_room, f->n_lines,
             sizeof *f->lines))
        f->lines[f->n_lines++] = (ks_report_line){name, tone, f->n_points, 0};
}

void ks__point(ks_report_figure *f, double x, double y, double low,
               double high) {
    if (!f->n_lines || !room(f->of, (void *)&f->points, &f->point_room,
                             f->n_points, sizeof *f->points))
        return;
    f->points[f->n_points++] = (ks_report_point){x, y, low, high};
    f->lines[f->n_lines - 1].n++;
}

void ks__bar(ks_report_figure *f, const char *group, const char *name, int tone,
             double value, double low, double high) {
    if (room(f->of, (void *)&f->bars, &f->bar_room, f->n_bars, sizeof *f->bars))
        f->bars[f->n_bars++] =
            (ks_report_bar){name, group, tone, value, low, high};
}

void ks__reference(ks_report_figure *f, const char *name, double at) {
    if (room(f->of, (void *)&f->references, &f->reference_room, f->n_references,
             sizeof *f->references))
        f->references[f->n_references++] = (ks_report_reference){name, at};
}

void ks__heat_row(ks_report_figure *f, const char *name) {
    if (room(f->of, (void *)&f->rows, &f->row_room, f->n_rows, sizeof *f->rows))
        f->rows[f->n_rows++] = name;
}

void ks__heat_column(ks_report_figure *f, const char *name) {
    if (room(f->of, (void *)&f->columns, &f->column_room, f->n_columns,
             sizeof *f->columns))
        f->columns[f->n_columns++] = name;
}

void ks__heat_value(ks_report_figure *f, double value) {
    if (room(f->of, (void *)&f->values, &f->value_room, f->n_values,
             sizeof *f->values))
        f->values[f->n_values++] = value;
}

void ks__strip_mark(ks_report_figure *f, int8_t label) {
    if (room(f->of, (void *)&f->marks, &f->mark_room, f->n_marks,
             sizeof *f->marks))
        f->marks[f->n_marks++] = label;
}
