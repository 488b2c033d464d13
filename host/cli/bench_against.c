/* bench_against.c - a table of a bench held against an earlier one of it.
 *
 * Both have a row a pair. Rows of one set of identifying columns are one
 * figure, its values those of the pairs; what is compared is the mean of their
 * logarithms, so that a ratio and its inverse say the same. The noise of either
 * run is the spread of its own pairs: Welch's interval asks nothing about how
 * the two compare. What it cannot know is what changed between the runs beside
 * the program; the margin is for that, and `relative` figures, over what ran in
 * turn beside them, have most of it taken out. */
#include <gsl/gsl_cdf.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static const double LEVEL = 0.975; /* one side of a 95% interval */

/* Of one figure in one table. */
typedef struct sample {
    int32_t n, holes; /* values; fields that hold none */
    double mean, squares;
} sample;

static void take(sample *s, double speed) {
    double x = log(speed), off = x - s->mean;
    s->n++;
    s->mean += off / s->n;
    s->squares += off * (x - s->mean);
}

typedef struct ratio {
    double value, low, high; /* NaN: no interval */
} ratio;

static ratio welch(const sample *was, const sample *now) {
    ratio r = {NAN, NAN, NAN};
    if (was->n < 1 || now->n < 1) return r;
    double apart = now->mean - was->mean;
    r.value = exp(apart);
    if (was->n < 2 || now->n < 2) return r;
    double a = was->squares / (was->n - 1) / was->n;
    double b = now->squares / (now->n - 1) / now->n;
    double half = 0;
    if (a + b > 0) {
        double freedom =
            (a + b) * (a + b) / (a * a / (was->n - 1) + b * b / (now->n - 1));
        half = gsl_cdf_tdist_Pinv(LEVEL, freedom) * sqrt(a + b);
    }
    r.low = exp(apart - half);
    r.high = exp(apart + half);
    return r;
}

/* --------------------------------------------------------------------- keys */

/* "m=512 n=576 type=f32" */
static ks_status key_of(const ks_bench_kind *kind, const json_t *row,
                        ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    out->length = 0;
    KS_TRY(ks_str_add(out, "", 0, err));
    for (size_t i = 0; i < KS_BENCH_NAMES && kind->identity[i]; i++) {
        const char *text =
            json_string_value(json_object_get(row, kind->identity[i]));
        KS_TRY(ks_str_printf(out, err, "%s%s=%s", i ? " " : "",
                             kind->identity[i], text ? text : ""));
    }
done:
    return st;
}

static bool is_pair(const json_t *row) {
    const char *pair = json_string_value(json_object_get(row, "pair"));
    return pair && *pair && strspn(pair, "0123456789") == strlen(pair);
}

/* Rows of pairs by their key, in order; new. */
static ks_status group(const ks_bench_kind *kind, const json_t *rows,
                       json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    ks_str key = {0};
    json_t *groups = json_object();
    for (size_t i = 0; i < json_array_size(rows); i++) {
        json_t *row = json_array_get(rows, i);
        if (!is_pair(row)) continue;
        KS_TRY(key_of(kind, row, &key, err));
        json_t *list = json_object_get(groups, key.data);
        if (!list) {
            list = json_array();
            KS_CHECK(!json_object_set_new(groups, key.data, list), KS_NOMEM,
                     "no memory to compare tables");
        }
        KS_CHECK(!json_array_append(list, row), KS_NOMEM,
                 "no memory to compare tables");
    }
    *out = groups;
    groups = NULL;
done:
    json_decref(groups);
    ks_str_free(&key);
    return st;
}

static sample sample_of(const json_t *rows, const ks_bench_measure *m) {
    sample s = {0};
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const char *text = json_string_value(
            json_object_get(json_array_get(rows, i), m->column));
        char *end;
        double v = text ? strtod(text, &end) : NAN;
        if (isfinite(v) && v > 0)
            take(&s, m->time ? 1 / v : v);
        else
            s.holes++;
    }
    return s;
}

/* ------------------------------------------------------------------ verdicts
 */

static const char *verdict_of(const ratio *r, const sample *was,
                              const sample *now, double margin) {
    if (was->n == 0) return "no figure before";
    if (now->n == 0) return "no figure now";
    if (now->holes > 0 && was->holes == 0) return "figures missing now";
    if (!isfinite(r->low)) return "one pair: no noise known";
    if (r->high < 1 - margin) return "slower";
    if (r->low > 1 + margin) return "faster";
    return r->low >= 1 - margin ? "no slower" : "undecided";
}

/* What was a figure and is none may not pass for one that is as fast. */
static bool is_bad(const char *verdict) {
    return strcmp(verdict, "slower") == 0 ||
           strcmp(verdict, "no figure now") == 0 ||
           strcmp(verdict, "figures missing now") == 0;
}

static ks_status add_bad(ks_bench_verdict *v, const char *key,
                         const char *column, const char *verdict,
                         const ratio *r, ks_err *err) {
    enum { SHOWN = 6 };
    if (v->n_slower++ >= SHOWN) return KS_OK;
    const char *gap = v->slower.length ? "; " : "";
    if (!isfinite(r->value) || strcmp(verdict, "slower") != 0)
        return ks_str_printf(&v->slower, err, "%s%.100s %s: %s", gap, key,
                             column, verdict);
    return ks_str_printf(&v->slower, err, "%s%.100s %s: %.3f [%.3f, %.3f]", gap,
                         key, column, r->value, r->low, r->high);
}

static ks_status compare_one(ks_bench_verdict *v, const char *key,
                             const ks_bench_measure *m, const json_t *was,
                             const json_t *now, double margin, bool judged,
                             ks_err *err) {
    ks_status st = KS_OK;
    sample a = sample_of(was, m), b = sample_of(now, m);
    if (a.n == 0 && b.n == 0) return KS_OK; /* such rows have no such figure */
    ratio r = welch(&a, &b);
    const char *verdict = verdict_of(&r, &a, &b, margin);
    v->compared += judged && (isfinite(r.low) || is_bad(verdict));
    json_t *row = json_pack(
        "{s:s,s:s,s:i,s:i,s:o,s:o,s:o,s:s}", "row", key, "figure", m->column,
        "pairs_before", a.n, "pairs_now", b.n, "speed", ks_bench_real(r.value),
        "low", ks_bench_real(r.low), "high", ks_bench_real(r.high), "verdict",
        judged ? verdict : "not judged");
    KS_CHECK(row && !json_array_append_new(v->rows, row), KS_NOMEM,
             "no memory to compare tables");
    if (judged && is_bad(verdict))
        KS_TRY(add_bad(v, key, m->column, verdict, &r, err));
done:
    return st;
}

void ks_bench_verdict_free(ks_bench_verdict *v) {
    json_decref(v->rows);
    ks_str_free(&v->slower);
    *v = (ks_bench_verdict){0};
}

ks_status ks_bench_compare(const ks_bench_kind *kind, const json_t *earlier,
                           const json_t *later, double margin, bool relative,
                           ks_bench_verdict *out, ks_err *err) {
    ks_status st = KS_OK;
    json_t *was = NULL, *now = NULL, *rows;
    const char *key;
    *out = (ks_bench_verdict){.rows = json_array()};
    KS_TRY(ks_str_add(&out->slower, "", 0, err));
    KS_TRY(group(kind, earlier, &was, err));
    KS_TRY(group(kind, later, &now, err));
    json_object_foreach(now, key, rows) {
        const json_t *before = json_object_get(was, key);
        out->added += !before;
        for (size_t i = 0; before && i < KS_BENCH_MEASURES; i++) {
            const ks_bench_measure *m = &kind->measures[i];
            if (!m->column) break;
            KS_TRY(compare_one(out, key, m, before, rows, margin,
                               m->relative == relative, err));
        }
    }
    json_object_foreach(was, key, rows) out->missing +=
        !json_object_get(now, key);
    KS_CHECK(out->compared > 0, KS_MISMATCH,
             "nothing can be compared: of %zu figures now and %zu before none "
             "is in both with two pairs or more",
             json_object_size(now), json_object_size(was));
done:
    json_decref(was);
    json_decref(now);
    if (st != KS_OK) ks_bench_verdict_free(out);
    return st;
}

/* ------------------------------------------------------------------ machines
 */

static bool has(const json_t *rows, const char *column) {
    for (size_t i = 0; i < json_array_size(rows); i++)
        if (json_object_get(json_array_get(rows, i), column)) return true;
    return false;
}

/* A field that holds something else than a number, in a column of figures. */
static ks_status check_numbers(const ks_bench_kind *kind, const char *path,
                               const json_t *rows, ks_err *err) {
    for (size_t i = 0; i < json_array_size(rows); i++)
        for (size_t k = 0; k < KS_BENCH_MEASURES; k++) {
            const char *column = kind->measures[k].column;
            if (!column) break;
            const char *text = json_string_value(
                json_object_get(json_array_get(rows, i), column));
            char *end;
            if (!text) continue;
            strtod(text, &end);
            if (*end || end == text)
                return ks_fail(err, KS_FORMAT,
                               "%s, row %zu: %s is '%.40s', a number is "
                               "expected",
                               path, i + 1, column, text);
        }
    return KS_OK;
}

ks_status ks_bench_check_earlier(const ks_bench_kind *kind, const char *path,
                                 const json_t *rows, const json_t *machine,
                                 bool other_machine, ks_err *err) {
    static const char *const same[] = {"machine", "backend", "device"};
    ks_status st = KS_OK;
    KS_CHECK(has(rows, "pair"), KS_FORMAT,
             "%s: no column 'pair': no table of keystep bench %s", path,
             kind->name);
    for (size_t i = 0; i < KS_BENCH_NAMES && kind->identity[i]; i++)
        KS_CHECK(has(rows, kind->identity[i]), KS_FORMAT,
                 "%s: no column '%s': no table of keystep bench %s", path,
                 kind->identity[i], kind->name);
    KS_TRY(check_numbers(kind, path, rows, err));
    for (size_t i = 0; machine && i < json_array_size(rows); i++)
        for (size_t k = 0; k < KS_COUNT(same); k++) {
            const char *was = json_string_value(
                json_object_get(json_array_get(rows, i), same[k]));
            const char *is =
                json_string_value(json_object_get(machine, same[k]));
            if (!was || !is || strcmp(was, is) == 0) continue;
            KS_CHECK(other_machine, KS_MISMATCH,
                     "%s is of another %s: '%.100s' there, '%.100s' here; "
                     "--other-machine compares all the same",
                     path, same[k], was, is);
            if (i == 0)
                ks_log(KS_LOG_INFO, "%s is of another %s: '%s', here '%s'",
                       path, same[k], was, is);
        }
done:
    return st;
}
