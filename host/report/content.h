/* content.h - what a report says, before any format: sections of sentences,
 * tables and figures. Every format is one writer over these, every figure one
 * description that gnuplot and the page both draw. Internal to host/report/.
 *
 * A report is filled by calls that append: a column, a cell, a point. The
 * first that fails (memory) is remembered in `st`, and those after it do
 * nothing; whoever built the report looks at the end.
 */
#ifndef KS_REPORT_CONTENT_H
#define KS_REPORT_CONTENT_H

#include "../base.h"

/* ------------------------------------------------------------------ tables */

typedef enum ks_column_kind {
    KS_COLUMN_TEXT,
    KS_COLUMN_WHOLE,   /* 3264 */
    KS_COLUMN_NUMBER,  /* 0.981 */
    KS_COLUMN_COUNT,   /* 61.2: a mean of counts */
    KS_COLUMN_PERCENT, /* 96.8 [96.1, 97.4]: value, low, high as fractions */
    KS_COLUMN_POINTS,  /* +4.9 [+4.1, +5.8]: likewise, a difference */
    KS_COLUMN_RANGE,   /* 0.21 [0.16, 0.26]: a correlation, a Brier score */
    KS_COLUMN_P        /* <0.001 */
} ks_column_kind;

typedef struct ks_report_column {
    const char *name;
    ks_column_kind kind;
} ks_report_column;

/* Not there: text NULL, value NaN. low and high NaN: no interval. */
typedef struct ks_report_cell {
    const char *text;
    double value, low, high;
} ks_report_cell;

typedef struct ks_report_table {
    struct ks_report *of;
    const char *name; /* of its files: letters, digits, '-' */
    const char *title;
    const char *note; /* one or more sentences, or NULL */
    ks_report_column *columns;
    ks_report_cell *cells; /* [n_rows, n_columns] */
    size_t n_columns, n_cells, column_room, cell_room;
} ks_report_table;

/* ----------------------------------------------------------------- figures */

typedef enum ks_figure_kind {
    KS_FIGURE_LINES, /* y over x with intervals, a line each series */
    KS_FIGURE_BARS,  /* values with intervals, from the first reference on */
    KS_FIGURE_HEAT,  /* a matrix of values */
    KS_FIGURE_STRIP  /* a chain: layers up, steps across, labels beneath */
} ks_figure_kind;

typedef struct ks_report_point {
    double x, y, low, high; /* low, high NaN: none */
} ks_report_point;

/* What is drawn in one colour. tone: a position's number, which keeps its
 * colour and mark in every figure; 5 to 9: a run's; -1: grey. */
typedef struct ks_report_line {
    const char *name;
    int tone;
    size_t first, n; /* of the figure's points */
} ks_report_line;

typedef struct ks_report_bar {
    const char *name;
    const char *group; /* bars of one group stand together; NULL: none */
    int tone;
    double value, low, high;
} ks_report_bar;

typedef struct ks_report_reference {
    const char *name;
    double at;
} ks_report_reference;

typedef struct ks_report_figure {
    struct ks_report *of;
    ks_figure_kind kind;
    const char *name; /* of its files */
    const char *title;
    const char *finding; /* what one sees, for who cannot; a sentence */
    const char *x_label, *y_label;
    double low, high; /* of y, of bars, of the colours */
    bool percent;     /* values are fractions, shown times 100 */
    bool diverging;   /* colours (ramp.h) leave the middle of low and high */
    bool diagonal;    /* LINES: y = x is what is wanted */
    bool log_x;       /* LINES: x, all above 0, by their logarithms */
    bool whole_x;     /* LINES: x are whole numbers */

    ks_report_line *lines;
    ks_report_point *points;
    ks_report_bar *bars;
    ks_report_reference *references; /* HEAT: at low, named by the key */
    size_t n_lines, n_points, n_bars, n_references;

    /* HEAT and STRIP: row 0 is the lowest */
    const char **rows, **columns;
    double *values; /* [n_rows, n_columns] NaN: none */
    int8_t *marks;  /* STRIP: [n_columns] the label, 1, 0 or -1 */
    size_t n_rows, n_columns, n_values, n_marks;

    size_t line_room, point_room, bar_room, reference_room, row_room,
        column_room, value_room, mark_room;
} ks_report_figure;

/* ---------------------------------------------------------------- sections */

typedef enum ks_part_kind {
    KS_PART_TEXT,
    KS_PART_TABLE,
    KS_PART_FIGURE
} ks_part_kind;

typedef struct ks_report_part {
    ks_part_kind kind;
    const char *text;
    ks_report_table *table;
    ks_report_figure *figure;
} ks_report_part;

typedef struct ks_report_section {
    const char *name, *title, *lead; /* lead: a sentence beneath the title */
    ks_report_part *parts;
    size_t n_parts, room;
} ks_report_section;

typedef struct ks_report {
    ks_status st; /* the first failure */
    ks_err err;
    const char *title;
    ks_report_section *sections;
    size_t n_sections, section_room;
    const char **absent; /* what was not in the runs, a line each */
    size_t n_absent, absent_room;
    void **memory; /* strings, tables, figures */
    size_t n_memory, memory_room;
} ks_report;

void ks_report_free(ks_report *report);

/* ---------------------------------------------------------------- to build */

/* A string that lives as long as the report; "" after a failure. */
const char *ks__report_text(ks_report *r, const char *format, ...)
    KS_PRINTF(2, 3);
/* Zeroed memory likewise; NULL after a failure. */
void *ks__report_memory(ks_report *r, size_t size);
/* A name for files: lower-case letters and digits of both, joined by '-'. */
const char *ks__report_name(ks_report *r, const char *first,
                            const char *second);
/* On one line: line breaks and control characters become blanks, characters
 * that turn the direction go, and what is longer than `most` bytes is cut
 * between characters, with an ellipsis. */
const char *ks__report_brief(ks_report *r, const char *text, size_t most);

ks_report_section *ks__section(ks_report *r, const char *name,
                               const char *title, const char *lead);
void ks__section_text(ks_report *r, const char *text);
void ks__absent(ks_report *r, const char *text);

/* Into the last section. Where another table (figure) has the name, it becomes
 * NAME-2 and so on. Neither is ever NULL: after a failure it is one that takes
 * nothing. */
ks_report_table *ks__table(ks_report *r, const char *name, const char *title);
ks_report_figure *ks__figure(ks_report *r, ks_figure_kind kind,
                             const char *name, const char *title);

void ks__column(ks_report_table *t, ks_column_kind kind, const char *name);
/* Cells from left to right, row after row. text NULL: not there. */
void ks__cell_text(ks_report_table *t, const char *text);
void ks__cell_number(ks_report_table *t, double value);
void ks__cell_range(ks_report_table *t, double value, double low, double high);

/* A table without rows, or a figure without values, does not stay. */
void ks__table_end(ks_report_table *t);
void ks__figure_end(ks_report_figure *f);

void ks__line(ks_report_figure *f, const char *name, int tone);
void ks__point(ks_report_figure *f, double x, double y, double low,
               double high);
void ks__bar(ks_report_figure *f, const char *group, const char *name, int tone,
             double value, double low, double high);
void ks__reference(ks_report_figure *f, const char *name, double at);
void ks__heat_row(ks_report_figure *f, const char *name);
void ks__heat_column(ks_report_figure *f, const char *name);
void ks__heat_value(ks_report_figure *f, double value);
void ks__strip_mark(ks_report_figure *f, int8_t label);

/* ---------------------------------------------------------------- to write */

size_t ks__table_rows(const ks_report_table *table);

/* A cell as people read it, "n/a" where nothing is; out [n]. */
void ks__cell_show(const ks_report_cell *cell, ks_column_kind kind, char *out,
                   size_t n);

ks_status ks__table_csv(const ks_report_table *table, ks_str *out, ks_err *err);
ks_status ks__table_markdown(const ks_report_table *table, ks_str *out,
                             ks_err *err);
ks_status ks__table_latex(const ks_report_table *table, ks_str *out,
                          ks_err *err);
/* New references. */
ks_status ks__table_json(const ks_report_table *table, json_t **out,
                         ks_err *err);
ks_status ks__figure_json(const ks_report_figure *figure, json_t **out,
                          ks_err *err);
/* Sections, tables and figures, what is absent. */
ks_status ks__report_json(const ks_report *report, json_t **out, ks_err *err);
/* pictures: figures/NAME.svg are there to be shown. */
ks_status ks__report_markdown(const ks_report *report, bool pictures,
                              ks_str *out, ks_err *err);

#endif
