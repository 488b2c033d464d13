/* text_table.h - tables as text: pipe tables of Markdown, or columns for a
 * terminal, and what goes into a cell. Internal. */
#ifndef KS_TEXT_TABLE_H
#define KS_TEXT_TABLE_H

#include "acts.h"
#include "stats.h"

enum { KS_TEXT_CELL = 56 };

/* Heading of a layer that stands for several: each outer fold has its own. */
#define KS_MOST_FOLDS "layer (most folds)"

typedef char ks_text_cell[KS_TEXT_CELL];

/* Rows of cells; the first is the heading. at is freed by its owner. */
typedef struct ks_text_grid {
    int32_t n_columns, n_rows;
    ks_text_cell *at; /* [n_rows, n_columns] */
    size_t capacity;
} ks_text_grid;

/* A new row of empty cells, good until the next one; NULL: out of memory, told
 * in err. */
ks_text_cell *ks__grid_row(ks_text_grid *table, ks_err *err);
/* A new row of n_columns names. */
ks_status ks__grid_heading(ks_text_grid *table, const char *const *names,
                           ks_err *err);
/* A new row whose first cell is "stream/position". */
ks_status ks__grid_where(ks_text_grid *table, ks_stream stream,
                         ks_position position, ks_text_cell **row, ks_err *err);
/* On a terminal, columns that do not fit a line follow below, with the first
 * one repeated. */
ks_status ks__grid_write(const ks_text_grid *table, bool markdown, ks_str *out,
                         ks_err *err);

/* Words of text in lines, those after the first indented. */
ks_status ks__text_wrapped(const char *text, int indent, ks_str *out,
                           ks_err *err);
ks_status ks__text_title(ks_str *out, bool markdown, ks_err *err,
                         const char *text);

/* "91.2 [90.1, 92.3]" of fractions; sign: "+1.2 [..]"; "n/a". */
void ks__cell_interval(ks_text_cell out, ks_interval v, bool sign);
/* With " ns" behind it where p is not below 5%. */
void ks__cell_judged(ks_text_cell out, ks_interval v, bool sign, double p);
/* "+0.83 [+0.79, +0.98]"; "n/a" */
void ks__cell_plain(ks_text_cell out, ks_interval v);
void ks__cell_value(ks_text_cell out, double v);
/* "<0.001", "0.012", "n/a" */
void ks__cell_p(ks_text_cell out, double p);

#endif
