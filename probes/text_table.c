/* text_table.c - see text_table.h. */
#include "text_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------- cells */

enum { LINE = 79 };

ks_text_cell *ks__grid_row(ks_text_grid *t, ks_err *err) {
    size_t need = (size_t)(t->n_rows + 1) * (size_t)t->n_columns;
    if (ks_grow(&t->at, &t->capacity, need, sizeof *t->at, "table", err) !=
        KS_OK)
        return NULL;
    ks_text_cell *row = t->at + (size_t)t->n_rows++ * (size_t)t->n_columns;
    for (int32_t c = 0; c < t->n_columns; c++) row[c][0] = 0;
    return row;
}

ks_status ks__grid_heading(ks_text_grid *t, const char *const *names,
                           ks_err *err) {
    ks_text_cell *row = ks__grid_row(t, err);
    if (!row) return KS_NOMEM;
    for (int32_t c = 0; c < t->n_columns; c++)
        snprintf(row[c], KS_TEXT_CELL, "%s", names[c]);
    return KS_OK;
}

ks_status ks__grid_where(ks_text_grid *t, ks_stream stream,
                         ks_position position, ks_text_cell **row,
                         ks_err *err) {
    *row = ks__grid_row(t, err);
    if (!*row) return KS_NOMEM;
    snprintf(**row, KS_TEXT_CELL, "%s/%s", ks_stream_name(stream),
             ks_position_name(position));
    return KS_OK;
}

/* A line of the cells of column 0 and [from, to). */
static ks_status write_row(ks_text_cell *row, const int *width, int32_t from,
                           int32_t to, bool markdown, ks_str *out,
                           ks_err *err) {
    ks_status st = KS_OK;
    for (int32_t c = 0; c < to; c++) {
        if (c > 0 && c < from) continue;
        bool last = c + 1 == to && !markdown;
        KS_TRY(ks_str_printf(out, err, "%s%-*s%s", markdown ? "| " : "",
                             last ? 0 : width[c], row[c],
                             last       ? ""
                             : markdown ? " "
                                        : "  "));
    }
    KS_TRY(ks_str_printf(out, err, markdown ? "|\n" : "\n"));
done:
    return st;
}

/* The first column that no longer fits a line beside column 0 and from. */
static int32_t fitting(const ks_text_grid *t, const int *width, int32_t from) {
    int used = width[0];
    int32_t to = from;
    for (; to < t->n_columns; to++) {
        if (to > from && used + 2 + width[to] > LINE) break;
        used += 2 + width[to];
    }
    return to;
}

/* On a terminal, columns that do not fit a line follow below, with the first
 * one repeated. */
ks_status ks__grid_write(const ks_text_grid *t, bool markdown, ks_str *out,
                         ks_err *err) {
    ks_status st = KS_OK;
    int *width = NULL;
    KS_TRY(ks_alloc(&width, (size_t)t->n_columns, sizeof *width, "table", err));
    for (int32_t r = 0; r < t->n_rows; r++)
        for (int32_t c = 0; c < t->n_columns; c++)
            width[c] = (int)KS_MAX((size_t)width[c],
                                   strlen(t->at[r * t->n_columns + c]));
    for (int32_t from = 1, to; from < t->n_columns; from = to) {
        to = markdown ? t->n_columns : fitting(t, width, from);
        for (int32_t r = 0; r < t->n_rows; r++) {
            KS_TRY(write_row(t->at + r * t->n_columns, width, from, to,
                             markdown, out, err));
            if (!markdown || r > 0) continue;
            for (int32_t c = 0; c < t->n_columns; c++) {
                KS_TRY(ks_str_printf(out, err, "|"));
                for (int k = 0; k < width[c] + 2; k++)
                    KS_TRY(ks_str_printf(out, err, "-"));
            }
            KS_TRY(ks_str_printf(out, err, "|\n"));
        }
        KS_TRY(ks_str_printf(out, err, "\n"));
    }
done:
    free(width);
    return st;
}

/* Words of text in lines, those after the first indented. */
ks_status ks__text_wrapped(const char *text, int indent, ks_str *out,
                           ks_err *err) {
    ks_status st = KS_OK;
    int used = 0;
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (used > 0 && used + 1 + n > LINE) {
            KS_TRY(ks_str_printf(out, err, "\n%*s", indent, ""));
            used = indent;
        } else if (used > 0) {
            KS_TRY(ks_str_printf(out, err, " "));
            used++;
        }
        KS_TRY(ks_str_printf(out, err, "%.*s", n, text));
        used += n;
        text += n;
        text += strspn(text, " ");
    }
    KS_TRY(ks_str_printf(out, err, "\n"));
done:
    return st;
}

void ks__cell_interval(ks_text_cell out, ks_interval v, bool sign) {
    if (isnan(v.value))
        snprintf(out, KS_TEXT_CELL, "n/a");
    else if (isnan(v.low))
        snprintf(out, KS_TEXT_CELL, sign ? "%+.1f" : "%.1f", 100 * v.value);
    else
        snprintf(out, KS_TEXT_CELL,
                 sign ? "%+.1f [%+.1f, %+.1f]" : "%.1f [%.1f, %.1f]",
                 100 * v.value, 100 * v.low, 100 * v.high);
}

void ks__cell_judged(ks_text_cell out, ks_interval v, bool sign, double p) {
    ks__cell_interval(out, v, sign);
    size_t used = strlen(out);
    if (p >= 0.05) snprintf(out + used, KS_TEXT_CELL - used, " ns");
}

void ks__cell_plain(ks_text_cell out, ks_interval v) {
    if (isnan(v.value))
        snprintf(out, KS_TEXT_CELL, "n/a");
    else
        snprintf(out, KS_TEXT_CELL, "%+.2f [%+.2f, %+.2f]", v.value, v.low,
                 v.high);
}

void ks__cell_value(ks_text_cell out, double v) {
    if (isnan(v))
        snprintf(out, KS_TEXT_CELL, "n/a");
    else
        snprintf(out, KS_TEXT_CELL, "%.3f", v);
}

ks_status ks__text_title(ks_str *out, bool markdown, ks_err *err,
                         const char *text) {
    return ks_str_printf(out, err, "%s%s\n\n", markdown ? "## " : "", text);
}

void ks__cell_p(ks_text_cell out, double p) {
    if (isnan(p))
        snprintf(out, KS_TEXT_CELL, "n/a");
    else if (p < 0.001)
        snprintf(out, KS_TEXT_CELL, "<0.001");
    else
        snprintf(out, KS_TEXT_CELL, "%.3f", p);
}
