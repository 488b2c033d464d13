/* format_csv.c - a table as CSV (RFC 4180): a figure with an interval is three
 * columns, fractions, empty where nothing is. */
#include "content.h"

#include <math.h>
#include <string.h>

static bool has_interval(ks_column_kind kind) {
    return kind == KS_COLUMN_PERCENT || kind == KS_COLUMN_POINTS ||
           kind == KS_COLUMN_RANGE;
}

static ks_status add_text(ks_str *out, const char *text, ks_err *err) {
    ks_status st = KS_OK;
    if (!text[strcspn(text, ",\"\r\n")])
        return ks_str_add(out, text, strlen(text), err);
    KS_TRY(ks_str_add(out, "\"", 1, err));
    for (; *text; text++) {
        if (*text == '"') KS_TRY(ks_str_add(out, "\"", 1, err));
        KS_TRY(ks_str_add(out, text, 1, err));
    }
    KS_TRY(ks_str_add(out, "\"", 1, err));
done:
    return st;
}

static ks_status add_number(ks_str *out, double v, ks_err *err) {
    return isnan(v) ? KS_OK : ks_str_printf(out, err, "%.9g", v);
}

/* Of a column's name without its unit, for here all are fractions. */
static size_t length_of(const ks_report_column *column) {
    static const char *const units[] = {", %", ", points"};
    size_t n = strlen(column->name);
    for (size_t i = 0; i < KS_COUNT(units); i++) {
        size_t m = strlen(units[i]);
        if (has_interval(column->kind) && n > m &&
            strcmp(column->name + n - m, units[i]) == 0)
            return n - m;
    }
    return n;
}

static ks_status head(const ks_report_table *t, ks_str *out, ks_err *err) {
    static const char *const ends[] = {"", " low", " high"};
    ks_status st = KS_OK;
    char name[512];
    for (size_t c = 0; c < t->n_columns; c++)
        for (int i = 0; i < (has_interval(t->columns[c].kind) ? 3 : 1); i++) {
            if (c + (size_t)i > 0) KS_TRY(ks_str_add(out, ",", 1, err));
            snprintf(name, sizeof name, "%.*s%s",
                     (int)length_of(&t->columns[c]), t->columns[c].name,
                     ends[i]);
            KS_TRY(add_text(out, name, err));
        }
    KS_TRY(ks_str_add(out, "\n", 1, err));
done:
    return st;
}

static ks_status add_cell(ks_str *out, const ks_report_cell *cell,
                          ks_column_kind kind, ks_err *err) {
    ks_status st = KS_OK;
    if (kind == KS_COLUMN_TEXT)
        return add_text(out, cell->text ? cell->text : "", err);
    KS_TRY(add_number(out, cell->value, err));
    if (!has_interval(kind)) goto done;
    KS_TRY(ks_str_add(out, ",", 1, err));
    KS_TRY(add_number(out, cell->low, err));
    KS_TRY(ks_str_add(out, ",", 1, err));
    KS_TRY(add_number(out, cell->high, err));
done:
    return st;
}

ks_status ks__table_csv(const ks_report_table *t, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(head(t, out, err));
    for (size_t r = 0; r < ks__table_rows(t); r++) {
        for (size_t c = 0; c < t->n_columns; c++) {
            if (c) KS_TRY(ks_str_add(out, ",", 1, err));
            KS_TRY(add_cell(out, &t->cells[r * t->n_columns + c],
                            t->columns[c].kind, err));
        }
        KS_TRY(ks_str_add(out, "\n", 1, err));
    }
done:
    return st;
}
