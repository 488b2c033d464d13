/* schema.c - see schema.h. */
#include "schema.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Where we are: the file and the path in it. Deeper than any table goes. */
enum { DEPTH = 16 };

typedef struct place {
    const char *where;
    const char *name[DEPTH]; /* NULL: a list's place */
    size_t index[DEPTH];
    int n;
} place;

static void enter(place *at, const char *name, size_t index) {
    if (at->n < DEPTH) {
        at->name[at->n] = name;
        at->index[at->n] = index;
    }
    at->n++;
}

static void leave(place *at) {
    at->n--;
}

/* "probes[2].layers[3].auc" */
static void spell(const place *at, char *out, size_t size) {
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; i < at->n && i < DEPTH && used < size; i++) {
        int n = at->name[i]
                    ? snprintf(out + used, size - used, "%s%s", used ? "." : "",
                               at->name[i])
                    : snprintf(out + used, size - used, "[%zu]", at->index[i]);
        used += n > 0 ? (size_t)n : 0;
    }
}

static ks_status wrong(const place *at, const json_t *value,
                       const char *expected, ks_err *err) {
    char path[256];
    spell(at, path, sizeof path);
    return ks_fail(err, KS_FORMAT, "%s: %s is %s, expected %s", at->where,
                   *path ? path : "the whole", ks_json_kind(value), expected);
}

/* ------------------------------------------------------------------- kinds */

static ks_status check_number(place *at, json_t *value, const ks_field *f,
                              ks_err *err) {
    char expected[96], path[256];
    bool whole = f->kind == KS_FIELD_WHOLE;
    snprintf(expected, sizeof expected, "a %snumber from %.10g to %.10g%s",
             whole ? "whole " : "", f->low, f->high,
             f->needed ? "" : " or null");
    if (json_is_null(value)) return KS_OK;
    if (whole ? !json_is_integer(value) : !json_is_number(value))
        return wrong(at, value, expected, err);
    double v = json_number_value(value);
    if (v >= f->low && v <= f->high) return KS_OK;
    spell(at, path, sizeof path);
    return ks_fail(err, KS_FORMAT, "%s: %s is %.10g, expected %s", at->where,
                   path, v, expected);
}

static ks_status check_text(place *at, json_t *value, const ks_field *f,
                            ks_err *err) {
    char path[256];
    if (!json_is_string(value)) return wrong(at, value, "a string", err);
    spell(at, path, sizeof path);
    if (f->kind == KS_FIELD_TEXT) {
        if (json_string_length(value) <= f->most) return KS_OK;
        return ks_fail(err, KS_FORMAT,
                       "%s: %s has %zu bytes, expected at most %zu", at->where,
                       path, json_string_length(value), f->most);
    }
    for (const char *const *name = f->names; *name; name++)
        if (strcmp(json_string_value(value), *name) == 0) return KS_OK;
    return ks_fail(err, KS_FORMAT, "%s: %s is '%.40s', expected %s or the like",
                   at->where, path, json_string_value(value), f->names[0]);
}

static ks_status check_list(place *at, json_t *value, size_t most,
                            ks_err *err) {
    char path[256];
    if (!json_is_array(value)) return wrong(at, value, "an array", err);
    if (json_array_size(value) <= most) return KS_OK;
    spell(at, path, sizeof path);
    return ks_fail(err, KS_FORMAT,
                   "%s: %s has %zu entries, expected at most "
                   "%zu",
                   at->where, path, json_array_size(value), most);
}

static ks_status check_numbers(place *at, json_t *value, const ks_field *f,
                               ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(check_list(at, value, f->most, err));
    for (size_t i = 0; i < json_array_size(value); i++) {
        enter(at, NULL, i);
        KS_TRY(check_number(at, json_array_get(value, i), f, err));
        leave(at);
    }
done:
    return st;
}

static ks_status check_matrix(place *at, json_t *value, const ks_field *f,
                              ks_err *err) {
    ks_status st = KS_OK;
    char path[256];
    KS_TRY(check_list(at, value, f->most, err));
    size_t n = json_array_size(json_array_get(value, 0));
    for (size_t i = 0; i < json_array_size(value); i++) {
        json_t *row = json_array_get(value, i);
        enter(at, NULL, i);
        KS_TRY(check_numbers(at, row, f, err));
        spell(at, path, sizeof path);
        KS_CHECK(json_array_size(row) == n, KS_FORMAT,
                 "%s: %s has %zu entries, the row ahead of it %zu", at->where,
                 path, json_array_size(row), n);
        leave(at);
    }
done:
    return st;
}

/* "value", "low", "high" of an object. */
static ks_status check_range(place *at, json_t *value, const ks_field *f,
                             ks_err *err) {
    static const char *const parts[] = {"value", "low", "high"};
    ks_status st = KS_OK;
    if (!json_is_object(value))
        return wrong(at, value, "an object with value, low and high", err);
    ks_field number = {.kind = KS_FIELD_NUMBER, .low = f->low, .high = f->high};
    for (size_t i = 0; i < KS_COUNT(parts); i++) {
        json_t *part = json_object_get(value, parts[i]);
        enter(at, parts[i], 0);
        if (!part) KS_TRY(wrong(at, part, "a number or null", err));
        KS_TRY(check_number(at, part, &number, err));
        leave(at);
    }
done:
    return st;
}

static ks_status check_texts(place *at, json_t *value, const ks_field *f,
                             ks_err *err) {
    ks_status st = KS_OK;
    ks_field one = {.kind = KS_FIELD_TEXT, .most = 400};
    KS_TRY(check_list(at, value, f->most, err));
    for (size_t i = 0; i < json_array_size(value); i++) {
        enter(at, NULL, i);
        KS_TRY(check_text(at, json_array_get(value, i), &one, err));
        leave(at);
    }
done:
    return st;
}

static ks_status check_intervals(place *at, json_t *value, const ks_field *f,
                                 ks_err *err) {
    ks_status st = KS_OK;
    char path[256];
    KS_TRY(check_list(at, value, f->most, err));
    size_t n = json_array_size(value);
    for (size_t i = 0; i < n; i++) {
        json_t *row = json_array_get(value, i);
        enter(at, NULL, i);
        KS_TRY(check_list(at, row, f->most, err));
        spell(at, path, sizeof path);
        KS_CHECK(json_array_size(row) == n, KS_FORMAT,
                 "%s: %s has %zu entries, expected %zu, one for each row",
                 at->where, path, json_array_size(row), n);
        for (size_t k = 0; k < n; k++) {
            json_t *cell = json_array_get(row, k);
            enter(at, NULL, k);
            if (!json_is_null(cell)) KS_TRY(check_range(at, cell, f, err));
            leave(at);
        }
        leave(at);
    }
done:
    return st;
}

static ks_status check_object(place *at, json_t *value, const ks_field *fields,
                              ks_err *err);

static ks_status check_objects(place *at, json_t *value, const ks_field *f,
                               ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(check_list(at, value, f->most, err));
    for (size_t i = 0; i < json_array_size(value); i++) {
        enter(at, NULL, i);
        KS_TRY(check_object(at, json_array_get(value, i), f->fields, err));
        leave(at);
    }
done:
    return st;
}

static ks_status check_one(place *at, json_t *value, const ks_field *f,
                           ks_err *err) {
    switch (f->kind) {
    case KS_FIELD_TEXT:
    case KS_FIELD_NAME:
        return check_text(at, value, f, err);
    case KS_FIELD_NUMBER:
    case KS_FIELD_WHOLE:
        return check_number(at, value, f, err);
    case KS_FIELD_INTERVAL:
    case KS_FIELD_RANGE:
        return check_range(at, value, f, err);
    case KS_FIELD_OBJECT:
        return check_object(at, value, f->fields, err);
    case KS_FIELD_LIST:
        return check_objects(at, value, f, err);
    case KS_FIELD_NUMBERS:
        return check_numbers(at, value, f, err);
    case KS_FIELD_MATRIX:
        return check_matrix(at, value, f, err);
    case KS_FIELD_TEXTS:
        return check_texts(at, value, f, err);
    case KS_FIELD_INTERVALS:
        return check_intervals(at, value, f, err);
    }
    return KS_OK;
}

static ks_status check_object(place *at, json_t *value, const ks_field *fields,
                              ks_err *err) {
    ks_status st = KS_OK;
    if (!json_is_object(value)) return wrong(at, value, "an object", err);
    for (const ks_field *f = fields; f->name || f->kind == KS_FIELD_RANGE;
         f++) {
        if (f->kind == KS_FIELD_RANGE) {
            KS_TRY(check_range(at, value, f, err));
            continue;
        }
        json_t *member = json_object_get(value, f->name);
        if (!f->needed && (!member || json_is_null(member))) continue;
        enter(at, f->name, 0);
        if (!member) KS_TRY(wrong(at, member, "it to be there", err));
        if (f->needed && json_is_null(member))
            KS_TRY(wrong(at, member, "a value", err));
        KS_TRY(check_one(at, member, f, err));
        leave(at);
    }
done:
    return st;
}

ks_status ks__schema_check(json_t *value, const ks_field *fields,
                           const char *where, ks_err *err) {
    place at = {.where = where};
    return check_object(&at, value, fields, err);
}

/* -------------------------------------------------------------------- file */

ks_status ks__schema_read(const char *path, const ks_field *fields, size_t most,
                          json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    ks_map map = {0};
    json_error_t reason;
    json_t *value = NULL;
    KS_TRY(ks_map_open(&map, path, err));
    KS_CHECK(map.size > 0, KS_FORMAT, "%s: is empty, expected a JSON object",
             path);
    KS_CHECK(map.size <= most, KS_FORMAT,
             "%s: has %zu bytes, expected at most %zu", path, map.size, most);
    value = ks_json_loadb((const char *)map.data, map.size,
                          JSON_REJECT_DUPLICATES, &reason);
    KS_CHECK(value, KS_FORMAT, "%s line %d: %s", path, reason.line,
             reason.text);
    KS_TRY(ks__schema_check(value, fields, path, err));
    *out = value;
    value = NULL;
done:
    json_decref(value);
    ks_map_close(&map);
    return st;
}
