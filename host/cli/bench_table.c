/* bench_table.c - a bench's table: spreads, rows, CSV, text. */
#include <gsl/gsl_cdf.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../probes/csv.h"
#include "../../probes/text_table.h"
#include "bench.h"

/* ------------------------------------------------------------------ spread */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, int n, double q) {
    double at = q * (n - 1);
    int i = (int)at, j = i + 1 < n ? i + 1 : i;
    return sorted[i] + (at - i) * (sorted[j] - sorted[i]);
}

ks_spread ks_bench_spread(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    ks_spread s = {.q1 = quantile(values, n, 0.25),
                   .median = quantile(values, n, 0.5),
                   .q3 = quantile(values, n, 0.75),
                   .min = values[0],
                   .max = values[n - 1],
                   .low = NAN,
                   .high = NAN};
    double squares = 0;
    for (int i = 0; i < n; i++) s.mean += values[i] / n;
    for (int i = 0; i < n; i++)
        squares += (values[i] - s.mean) * (values[i] - s.mean);
    if (n < 2) return s;
    double half =
        gsl_cdf_tdist_Pinv(0.975, n - 1) * sqrt(squares / (n - 1) / n);
    s.low = s.mean - half;
    s.high = s.mean + half;
    return s;
}

/* -------------------------------------------------------------------- rows */

json_t *ks_bench_real(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

void ks_bench_remove(const char *path) {
    static const char *const more[] = {"", ".part", ".journal", ".lock"};
    for (size_t i = 0; i < KS_COUNT(more); i++) {
        ks_str name = {0};
        if (ks_str_printf(&name, NULL, "%s%s", path, more[i]) == KS_OK)
            unlink(name.data);
        ks_str_free(&name);
    }
}

bool ks_bench_item(const char **list, char item[64]) {
    if (!**list) return false;
    size_t n = strcspn(*list, ",");
    snprintf(item, 64, "%.*s", (int)KS_MIN(n, 63), *list);
    *list += n + ((*list)[n] == ',');
    return true;
}

ks_status ks_bench_row(ks_bench *bench, json_t *row, ks_err *err) {
    if (row && json_array_append_new(bench->rows, row) == 0) return KS_OK;
    return ks_fail(err, KS_NOMEM, "no memory for the table");
}

/* --------------------------------------------------------------------- CSV */

ks_status ks_bench_cell(const json_t *value, ks_str *out, ks_err *err) {
    if (json_is_string(value))
        return ks_str_printf(out, err, "%s", json_string_value(value));
    if (json_is_integer(value))
        return ks_str_printf(out, err, "%lld",
                             (long long)json_integer_value(value));
    if (json_is_real(value))
        return ks_str_printf(out, err, "%.5g", json_real_value(value));
    return ks_str_add(out, "", 0, err); /* null: nothing to say */
}

static ks_status csv_line(ks_str *text, ks_status st) {
    if (st == KS_OK) text->data[text->length - 1] = '\n'; /* the last comma */
    return st;
}

ks_status ks_bench_to_csv(const json_t *rows, ks_str *text, ks_err *err) {
    ks_status st = KS_OK;
    const char *key;
    json_t *value, *first = json_array_get(rows, 0);
    ks_str cell = {0};
    json_object_foreach(first, key, value)
        KS_TRY(ks__csv_field(text, key, err));
    KS_TRY(csv_line(text, st));
    for (size_t i = 0; i < json_array_size(rows); i++) {
        json_object_foreach(first, key, value) {
            cell.length = 0;
            KS_TRY(ks_bench_cell(json_object_get(json_array_get(rows, i), key),
                                 &cell, err));
            KS_TRY(ks__csv_field(text, cell.data, err));
        }
        KS_TRY(csv_line(text, st));
    }
done:
    ks_str_free(&cell);
    return st;
}

/* -------------------------------------------------------------------- text */

static bool is_all(const json_t *row) {
    const char *pair = json_string_value(json_object_get(row, "pair"));
    return pair && strcmp(pair, "all") == 0;
}

static ks_status text_line(ks_text_grid *grid, const json_t *row,
                           const char *const *names, ks_err *err) {
    ks_status st = KS_OK;
    ks_str cell = {0};
    ks_text_cell *to = ks__grid_row(grid, err);
    KS_CHECK(to, KS_NOMEM, "no memory for the table");
    for (int32_t c = 0; c < grid->n_columns; c++) {
        cell.length = 0;
        KS_TRY(ks_bench_cell(json_object_get(row, names[c]), &cell, err));
        snprintf(to[c], KS_TEXT_CELL, "%s", cell.data);
    }
done:
    ks_str_free(&cell);
    return st;
}

static ks_status machine_line(const json_t *machine, ks_str *text,
                              ks_err *err) {
    ks_status st = KS_OK;
    const char *key;
    json_t *value;
    ks_str cell = {0};
    json_object_foreach((json_t *)(uintptr_t)machine, key, value) {
        cell.length = 0;
        KS_TRY(ks_bench_cell(value, &cell, err));
        /* the machine's name has the processor's in it */
        if (cell.length && strcmp(key, "processor") != 0)
            KS_TRY(ks_str_printf(text, err, "%s%s: %s",
                                 text->length ? "; " : "", key, cell.data));
    }
done:
    ks_str_free(&cell);
    return st;
}

ks_status ks_bench_to_text(const json_t *rows, const json_t *machine,
                           ks_str *text, ks_err *err) {
    enum { MOST = 64 };
    ks_status st = KS_OK;
    const char *names[MOST], *key;
    json_t *value;
    bool any = false;
    ks_text_grid grid = {0};
    ks_str line = {0};
    for (size_t i = 0; i < json_array_size(rows); i++)
        any |= is_all(json_array_get(rows, i));
    json_object_foreach(json_array_get(rows, 0), key, value) {
        bool shown = !json_object_get(machine, key) &&
                     !(any && strcmp(key, "pair") == 0);
        if (shown && grid.n_columns < MOST) names[grid.n_columns++] = key;
    }
    KS_TRY(ks__grid_heading(&grid, names, err));
    for (size_t i = 0; i < json_array_size(rows); i++)
        if (!any || is_all(json_array_get(rows, i)))
            KS_TRY(text_line(&grid, json_array_get(rows, i), names, err));
    KS_TRY(ks__grid_write(&grid, false, text, err));
    if (machine) {
        KS_TRY(machine_line(machine, &line, err));
        KS_TRY(ks__text_wrapped(line.data, 0, text, err));
    }
done:
    ks_str_free(&line);
    free(grid.at);
    return st;
}
