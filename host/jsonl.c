/* jsonl.c - JSON Lines through jansson, with the place in every sentence. */
#include "base.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Well-formed UTF-8 after Unicode's table 3-7: no overlong forms, no
 * surrogates, nothing above U+10FFFF. */
size_t ks_utf8_check(const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    size_t i = 0;
    while (i < n) {
        unsigned char c = s[i];
        size_t more;
        unsigned char low = 0x80, high = 0xBF;
        if (c < 0x80) {
            i++;
            continue;
        } else if (c >= 0xC2 && c <= 0xDF) {
            more = 1;
        } else if (c >= 0xE0 && c <= 0xEF) {
            more = 2;
            if (c == 0xE0) low = 0xA0;
            if (c == 0xED) high = 0x9F;
        } else if (c >= 0xF0 && c <= 0xF4) {
            more = 3;
            if (c == 0xF0) low = 0x90;
            if (c == 0xF4) high = 0x8F;
        } else {
            return i;
        }
        if (more >= n - i) return i;
        if (s[i + 1] < low || s[i + 1] > high) return i;
        for (size_t k = 2; k <= more; k++)
            if ((s[i + k] & 0xC0) != 0x80) return i;
        i += more + 1;
    }
    return n;
}

static ks_status parse_line(const char *name, size_t number, const char *line,
                            size_t n, json_t **out, ks_err *err) {
    size_t bad = ks_utf8_check(line, n);
    if (bad < n)
        return ks_fail(err, KS_FORMAT,
                       "%s line %zu: byte %zu is not valid UTF-8", name, number,
                       bad + 1);
    json_error_t reason;
    json_t *object =
        json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &reason);
    if (!object)
        return ks_fail(err, KS_FORMAT, "%s line %zu column %d: %s", name,
                       number, reason.column, reason.text);
    if (!json_is_object(object)) {
        json_decref(object);
        return ks_fail(err, KS_FORMAT,
                       "%s line %zu: expected a JSON object {...}", name,
                       number);
    }
    *out = object;
    return KS_OK;
}

static bool is_blank(const char *line, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n", line[i]) || !line[i]) return false;
    return true;
}

/* What a line says may be wrong, and others still be right. */
static bool is_of_the_line(ks_status st) {
    return st == KS_FORMAT || st == KS_LIMIT || st == KS_MISMATCH ||
           st == KS_UNSUPPORTED;
}

static ks_status read_lines(FILE *file, const char *name, ks_jsonl_fn each,
                            ks_jsonl_bad_fn bad, void *user, ks_err *err) {
    ks_status st = KS_OK;
    char *line = NULL;
    size_t capacity = 0;
    ssize_t got;
    for (size_t number = 1; (got = getline(&line, &capacity, file)) >= 0;
         number++) {
        if (is_blank(line, (size_t)got)) continue;
        json_t *object = NULL;
        ks_err why = {0};
        st = parse_line(name, number, line, (size_t)got, &object, &why);
        if (st == KS_OK) st = each(user, number, object, &why);
        json_decref(object);
        if (bad && is_of_the_line(st)) {
            bad(user, &why);
            st = KS_OK;
        }
        if (st != KS_OK && err) *err = why;
        if (st != KS_OK) goto done;
    }
    /* of a line that memory does not hold the file knows no error */
    KS_CHECK(feof(file), KS_IO, "%s: cannot read: %s", name, strerror(errno));
done:
    free(line);
    return st;
}

ks_status ks_jsonl_read_good(const char *path, ks_jsonl_fn each,
                             ks_jsonl_bad_fn bad, void *user, ks_err *err) {
    FILE *file = NULL;
    ks_status st = ks_open_input(&file, path, err);
    if (st != KS_OK) return st;
    st = read_lines(file, file == stdin ? "standard input" : path, each, bad,
                    user, err);
    ks_close_input(file);
    return st;
}

ks_status ks_jsonl_read(const char *path, ks_jsonl_fn each, void *user,
                        ks_err *err) {
    return ks_jsonl_read_good(path, each, NULL, user, err);
}

ks_status ks_jsonl_read_text(const char *name, const char *text, size_t n,
                             ks_jsonl_fn each, void *user, ks_err *err) {
    if (n == 0) return KS_OK;
    FILE *file = fmemopen((void *)(uintptr_t)text, n, "r");
    if (!file) return ks_fail(err, KS_NOMEM, "%s: no memory to read it", name);
    ks_status st = read_lines(file, name, each, NULL, user, err);
    fclose(file);
    return st;
}

const char *ks_json_kind(const json_t *value) {
    if (!value) return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_NULL:
        return "null";
    default:
        return "a boolean";
    }
}

/* Reads the whole lines of path and cuts off what follows them; *left: bytes.
 */
static ks_status read_part(const char *path, ks_jsonl_fn each, void *user,
                           size_t *left, ks_err *err) {
    ks_status st = KS_OK;
    char *text = NULL;
    size_t n = 0;
    KS_TRY(ks_read_file(path, SIZE_MAX, &text, &n, err));
    while (n > 0 && text[n - 1] != '\n') n--;
    KS_CHECK(truncate(path, (off_t)n) == 0, KS_IO, "%s: cannot truncate: %s",
             path, strerror(errno));
    KS_TRY(ks_jsonl_read_text(path, text, n, each, user, err));
    *left = n;
done:
    free(text);
    return st;
}

static ks_status open_part(ks_part *part, bool append, ks_err *err) {
    part->file = fopen(part->path, append ? "ae" : "we");
    if (part->file) return KS_OK;
    return ks_fail(err, KS_IO, "%s: cannot open: %s", part->path,
                   strerror(errno));
}

ks_status ks_part_open(ks_part *part, const char *out, bool resume, bool force,
                       ks_jsonl_fn each, void *user, ks_found *found,
                       ks_err *err) {
    ks_status st = KS_OK;
    size_t left = 0;
    *part = (ks_part){0};
    *found = KS_FOUND_NOTHING;
    if (!out || strcmp(out, "-") == 0) return KS_OK;
    KS_TRY(ks_refuse_existing(out, force || resume, err));
    KS_TRY(ks_lock_take(&part->lock, out, err));
    /* another process may have ended meanwhile */
    KS_TRY(ks_refuse_existing(out, force || resume, err));
    if (asprintf(&part->path, "%s.part", out) < 0) {
        part->path = NULL;
        KS_CHECK(false, KS_NOMEM, "out of memory for a path");
    }
    bool there = ks_file_exists(part->path);
    KS_CHECK(!there || resume || force, KS_EXISTS,
             "%s is left from an interrupted run: --resume continues it, "
             "--force starts afresh",
             part->path);
    if (resume && !there && ks_file_exists(out)) {
        *found = KS_FOUND_WHOLE;
        return KS_OK;
    }
    if (there && resume) KS_TRY(read_part(part->path, each, user, &left, err));
    if (left > 0) *found = KS_FOUND_PART;
    KS_TRY(open_part(part, left > 0, err));
done:
    return st;
}

ks_status ks_part_begin(ks_part *part, ks_err *err) {
    return open_part(part, false, err);
}

ks_status ks_part_add(ks_part *part, const json_t *object, ks_err *err) {
    if (!part->path) return KS_OK;
    if (json_dumpf(object, part->file, JSON_COMPACT) ||
        putc('\n', part->file) == EOF || fflush(part->file))
        return ks_fail(err, KS_IO, "%s: cannot write: %s", part->path,
                       strerror(errno));
    return KS_OK;
}

void ks_part_close(ks_part *part, bool gone) {
    bool made = part->file != NULL;
    if (made) fclose(part->file);
    if (gone && made) unlink(part->path);
    free(part->path);
    ks_lock_drop(&part->lock);
    *part = (ks_part){0};
}

ks_status ks_jsonl_add(ks_str *lines, const json_t *object, ks_err *err) {
    char *line = json_dumps(object, JSON_COMPACT);
    if (!line) return ks_fail(err, KS_NOMEM, "out of memory for a line");
    ks_status st = ks_str_add(lines, line, strlen(line), err);
    if (st == KS_OK) st = ks_str_add(lines, "\n", 1, err);
    free(line);
    return st;
}

json_t *ks_json_loadb(const char *text, size_t n, size_t flags,
                      json_error_t *reason) {
    json_t *object = json_loadb(text, n, flags, reason);
    if (!object && json_error_code(reason) == json_error_numeric_overflow)
        object = json_loadb(text, n, flags | JSON_DECODE_INT_AS_REAL, reason);
    return object;
}

ks_status ks_json_string(json_t *object, const char *key, const char *where,
                         const char **out, size_t *length, ks_err *err) {
    json_t *value = json_object_get(object, key);
    if (!value)
        return ks_fail(err, KS_FORMAT, "%s: no \"%s\", expected a string",
                       where, key);
    if (!json_is_string(value))
        return ks_fail(err, KS_FORMAT, "%s: \"%s\" is %s, expected a string",
                       where, key, ks_json_kind(value));
    *out = json_string_value(value);
    size_t n = json_string_length(value);
    if (length)
        *length = n;
    else if (strlen(*out) != n)
        return ks_fail(err, KS_FORMAT, "%s: \"%s\" holds a NUL character",
                       where, key);
    return KS_OK;
}

ks_status ks_json_int(json_t *object, const char *key, const char *where,
                      int64_t low, int64_t high, int64_t *out, ks_err *err) {
    json_t *value = json_object_get(object, key);
    if (!value)
        return ks_fail(err, KS_FORMAT, "%s: no \"%s\", expected an integer",
                       where, key);
    if (!json_is_integer(value))
        return ks_fail(err, KS_FORMAT, "%s: \"%s\" is %s, expected an integer",
                       where, key, ks_json_kind(value));
    *out = json_integer_value(value);
    if (*out < low || *out > high)
        return ks_fail(err, KS_LIMIT,
                       "%s: \"%s\" is %lld, expected %lld to %lld", where, key,
                       (long long)*out, (long long)low, (long long)high);
    return KS_OK;
}

ks_status ks_json_set(json_t *object, const char *key, json_t *value,
                      const char *where, ks_err *err) {
    if (!value || json_object_set_new(object, key, value))
        return ks_fail(err, KS_NOMEM, "%s: out of memory for \"%s\"", where,
                       key);
    return KS_OK;
}

const char *ks_json_difference(const json_t *a, const json_t *b,
                               bool (*of)(const char *name)) {
    const char *name;
    json_t *value;
    /* jansson's loop takes what is not const, and leaves it as it is */
    json_object_foreach((json_t *)(uintptr_t)a, name, value) {
        if ((!of || of(name)) && !json_equal(value, json_object_get(b, name)))
            return name;
    }
    return NULL;
}

ks_status ks_json_same(const json_t *here, const json_t *there,
                       const char *where, ks_err *err) {
    if (!json_is_object(there))
        return ks_fail(err, KS_FORMAT,
                       "%s: the settings are %s, expected an object", where,
                       ks_json_kind(there));
    const char *name = ks_json_difference(here, there, NULL);
    if (!name) name = ks_json_difference(there, here, NULL);
    if (!name) return KS_OK;
    char *x =
        json_dumps(json_object_get(here, name), JSON_ENCODE_ANY | JSON_COMPACT);
    char *y = json_dumps(json_object_get(there, name),
                         JSON_ENCODE_ANY | JSON_COMPACT);
    ks_fail(err, KS_MISMATCH, "%s: %s is %.300s here and %.300s there", where,
            name, x ? x : "not set", y ? y : "not set");
    free(x);
    free(y);
    return KS_MISMATCH;
}
