/* bench_csv.c - a bench's CSV read again (RFC 4180), as the file of a stranger:
 * every line has the fields that the first one names, no name comes twice. */
#include <string.h>

#include "bench.h"

typedef struct reader {
    const char *path, *at, *end;
    int64_t line;
} reader;

static ks_status bad(const reader *r, ks_err *err, const char *what) {
    return ks_fail(err, KS_FORMAT, "%s line %lld: %s", r->path,
                   (long long)r->line, what);
}

/* A quoted field, its quotes taken off; at stands behind the last one. */
static ks_status quoted(reader *r, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    const reader begin = *r;
    for (r->at++;; r->at++) {
        if (r->at == r->end)
            return bad(&begin, err, "a quoted field has no end");
        if (*r->at == '\n') r->line++;
        if (*r->at == '"') {
            r->at++;
            if (r->at == r->end || *r->at != '"') break;
        }
        KS_TRY(ks_str_add(out, r->at, 1, err));
    }
    if (r->at < r->end && !strchr(",\r\n", *r->at))
        return bad(r, err, "a quoted field goes on behind its quote");
done:
    return st;
}

/* The next field of a line; *last: it was the line's last, and what ends the
 * line is taken too. */
static ks_status field(reader *r, ks_str *out, bool *last, ks_err *err) {
    ks_status st = KS_OK;
    out->length = 0;
    KS_TRY(ks_str_add(out, "", 0, err));
    if (r->at < r->end && *r->at == '"') {
        KS_TRY(quoted(r, out, err));
    } else {
        const char *from = r->at;
        while (r->at < r->end && !strchr(",\r\n\"", *r->at)) r->at++;
        if (r->at < r->end && *r->at == '"')
            return bad(r, err, "a quote within a field");
        KS_TRY(ks_str_add(out, from, (size_t)(r->at - from), err));
    }
    *last = r->at == r->end || *r->at != ',';
    if (r->at < r->end && *r->at == ',') r->at++;
    if (*last && r->at < r->end && *r->at == '\r') r->at++;
    if (*last && r->at < r->end) {
        if (*r->at != '\n') return bad(r, err, "a line break in two");
        r->at++;
        r->line++;
    }
done:
    return st;
}

static ks_status read_names(reader *r, json_t *names, ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    json_t *seen = json_object();
    for (bool last = false; !last;) {
        KS_TRY(field(r, &text, &last, err));
        KS_CHECK(text.length > 0, KS_FORMAT,
                 "%s line 1: a column without a name", r->path);
        KS_CHECK(!json_object_get(seen, text.data), KS_FORMAT,
                 "%s line 1: two columns '%.60s'", r->path, text.data);
        KS_CHECK(!json_object_set_new(seen, text.data, json_true()) &&
                     !json_array_append_new(names, json_string(text.data)),
                 KS_NOMEM, "no memory for %s", r->path);
    }
done:
    json_decref(seen);
    ks_str_free(&text);
    return st;
}

/* Empty fields are not there. */
static ks_status read_row(reader *r, const json_t *names, json_t *row,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    const reader begin = *r;
    size_t n = 0;
    for (bool last = false; !last; n++) {
        KS_TRY(field(r, &text, &last, err));
        if (n >= json_array_size(names) || !text.length) continue;
        const char *name = json_string_value(json_array_get(names, n));
        KS_CHECK(!json_object_set_new(row, name, json_string(text.data)),
                 KS_NOMEM, "no memory for %s", r->path);
    }
    KS_CHECK(n == json_array_size(names), KS_FORMAT,
             "%s line %lld: %zu fields, the first line names %zu", r->path,
             (long long)begin.line, n, json_array_size(names));
done:
    ks_str_free(&text);
    return st;
}

ks_status ks_bench_csv_read(const char *path, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    char *text = NULL;
    size_t n = 0;
    json_t *names = json_array(), *rows = json_array(), *row = NULL;
    *out = NULL;
    KS_TRY(ks_read_file(path, KS_MOST_CONFIG, &text, &n, err));
    KS_CHECK(ks_utf8_check(text, n) == n && !memchr(text, 0, n), KS_FORMAT,
             "%s: no table: byte %zu is no text", path,
             KS_MIN(ks_utf8_check(text, n), strlen(text)));
    reader r = {.path = path, .at = text, .end = text + n, .line = 1};
    KS_TRY(read_names(&r, names, err));
    while (r.at < r.end) {
        row = json_object();
        KS_TRY(read_row(&r, names, row, err));
        KS_CHECK(!json_array_append_new(rows, row), KS_NOMEM,
                 "no memory for %s", path);
        row = NULL;
    }
    KS_CHECK(json_array_size(rows) > 0, KS_FORMAT, "%s: a table without rows",
             path);
    *out = rows;
    rows = NULL;
done:
    free(text);
    json_decref(names);
    json_decref(rows);
    json_decref(row);
    return st;
}
