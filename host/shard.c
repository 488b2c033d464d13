/* shard.c - see shard.h. */
#include "shard.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char format[] = "keystep shard";

/* ------------------------------------------------------------ which, names */

static bool read_number(const char **at, int32_t *out) {
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)**at)) return false;
    long n = strtol(*at, &end, 10);
    *at = end;
    *out = (int32_t)n;
    return errno == 0 && n >= 1 && n <= KS_MOST_SHARDS;
}

bool ks_shard_read(const char *text, ks_shard *out) {
    return read_number(&text, &out->k) && *text++ == '/' &&
           read_number(&text, &out->n) && !*text && out->k <= out->n;
}

ks_status ks_shard_range(ks_shard shard, size_t n, const char *path,
                         const char *what, size_t *begin, size_t *end,
                         ks_err *err) {
    size_t k = (size_t)shard.k, of = (size_t)shard.n;
    *begin = 0;
    *end = n;
    if (!of) return KS_OK;
    if (of > n)
        return ks_fail(err, KS_USAGE,
                       "--shard %d/%d: %s has %zu %s, so there are at most as "
                       "many shards",
                       shard.k, shard.n, path, n, what);
    *begin = (k - 1) * n / of;
    *end = k * n / of;
    return KS_OK;
}

ks_status ks_shard_path(ks_shard shard, const char *path, char *out,
                        ks_err *err) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const char *dot = strrchr(name, '.');
    char tag[32] = "";
    if (shard.n) snprintf(tag, sizeof tag, ".%d-of-%d", shard.k, shard.n);
    /* a dot in front hides a file and begins no extension */
    if (!dot || dot == name) dot = name + strlen(name);
    int n =
        snprintf(out, PATH_MAX, "%.*s%s%s", (int)(dot - path), path, tag, dot);
    return n < PATH_MAX
               ? KS_OK
               : ks_fail(err, KS_IO, "%.80s...: the name is too long", path);
}

/* ------------------------------------------------------------------- notes */

static ks_status note_path(const char *path, char **out, ks_err *err) {
    if (asprintf(out, "%s.shard.json", path) >= 0) return KS_OK;
    *out = NULL;
    return ks_fail(err, KS_NOMEM, "out of memory for a path");
}

/* All but what is told of the file. */
static json_t *claims_of(const ks_shard_note *note) {
    char shard[32];
    snprintf(shard, sizeof shard, "%d/%d", note->shard.k, note->shard.n);
    return json_pack(
        "{s:s,s:i,s:s,s:s,s:s,s:{s:s,s:I,s:I,s:I,s:s},s:O}", "format", format,
        "format_version", 1, "command", note->command, "output", note->output,
        "shard", shard, "input", "what", note->what, "n", (json_int_t)note->n,
        "begin", (json_int_t)note->begin, "end", (json_int_t)note->end,
        "sha256", note->inputs, "settings", note->settings);
}

static size_t count_lines(const ks_map *file) {
    size_t n = 0;
    const uint8_t *at = file->data, *end = at + file->size;
    while (at && (at = memchr(at, '\n', (size_t)(end - at)))) n++, at++;
    return n;
}

ks_status ks_shard_note_write(const ks_shard_note *note, const char *path,
                              ks_err *err) {
    ks_status st = KS_OK;
    ks_map file = {0};
    json_t *all = NULL;
    char *to = NULL, *text = NULL, hash[65];
    if (!note->shard.n || !path) return KS_OK;
    KS_TRY(note_path(path, &to, err));
    KS_TRY(ks_map_open(&file, path, err));
    ks_sha256_of(file.data, file.size, hash);
    all = claims_of(note);
    KS_TRY(ks_json_set(all, "lines",
                       json_integer((json_int_t)count_lines(&file)), to, err));
    KS_TRY(ks_json_set(all, "bytes", json_integer((json_int_t)file.size), to,
                       err));
    KS_TRY(ks_json_set(all, "sha256", json_string(hash), to, err));
    text = json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    KS_CHECK(text, KS_NOMEM, "%s: out of memory", to);
    KS_TRY(ks_write_file(to, text, strlen(text), true, err));
done:
    ks_map_close(&file);
    json_decref(all);
    free(text);
    free(to);
    return st;
}

/* A note may come from anywhere. */
static ks_status check_form(json_t *note, const char *where, ks_err *err) {
    ks_status st = KS_OK;
    static const char *const texts[] = {"format", "command", "output", "shard",
                                        "sha256"};
    json_t *input = json_object_get(note, "input");
    const char *text;
    int64_t n;
    for (size_t i = 0; i < KS_COUNT(texts); i++)
        KS_TRY(ks_json_string(note, texts[i], where, &text, NULL, err));
    text = json_string_value(json_object_get(note, "format"));
    KS_CHECK(strcmp(text, format) == 0, KS_FORMAT,
             "%s: its format is '%.40s', expected '%s'", where, text, format);
    KS_TRY(ks_json_int(note, "format_version", where, 1, 1, &n, err));
    KS_TRY(ks_json_int(note, "lines", where, 0, INT64_MAX, &n, err));
    KS_TRY(ks_json_int(note, "bytes", where, 0, INT64_MAX, &n, err));
    KS_CHECK(json_is_object(json_object_get(note, "settings")) &&
                 json_is_object(input),
             KS_FORMAT, "%s: \"settings\" or \"input\" is no object", where);
    KS_TRY(ks_json_string(input, "what", where, &text, NULL, err));
    KS_TRY(ks_json_string(input, "sha256", where, &text, NULL, err));
    KS_TRY(ks_json_int(input, "n", where, 1, INT64_MAX, &n, err));
    KS_TRY(ks_json_int(input, "end", where, 0, n, &n, err));
    KS_TRY(ks_json_int(input, "begin", where, 0, n, &n, err));
done:
    return st;
}

ks_status ks__shard_note_read(const char *path, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    json_error_t reason;
    json_t *note = NULL;
    char *from = NULL, *text = NULL;
    size_t n = 0;
    *out = NULL;
    KS_TRY(note_path(path, &from, err));
    KS_CHECK(ks_file_exists(from), KS_FORMAT,
             "%s: %s is not there, which says what it is a shard of", path,
             from);
    KS_TRY(ks_read_file(from, KS_MOST_CONFIG, &text, &n, err));
    note = ks_json_loadb(text, n, JSON_REJECT_DUPLICATES, &reason);
    KS_CHECK(note, KS_FORMAT, "%s line %d: %s", from, reason.line, reason.text);
    KS_CHECK(json_is_object(note), KS_FORMAT, "%s: expected a JSON object",
             from);
    KS_TRY(check_form(note, from, err));
    *out = note;
    note = NULL;
done:
    json_decref(note);
    free(text);
    free(from);
    return st;
}

ks_status ks_shard_note_check(const ks_shard_note *note, const char *path,
                              ks_err *err) {
    ks_status st = KS_OK;
    json_t *here = NULL, *there = NULL;
    char where[PATH_MAX];
    if (!note->shard.n || !path) return KS_OK;
    KS_TRY(ks__shard_note_read(path, &there, err));
    json_object_del(there, "lines");
    json_object_del(there, "bytes");
    json_object_del(there, "sha256");
    here = claims_of(note);
    KS_CHECK(here, KS_NOMEM, "out of memory for settings");
    snprintf(where, sizeof where, "%s was made with other settings", path);
    KS_TRY(ks_json_same(json_object_get(here, "settings"),
                        json_object_get(there, "settings"), where, err));
    snprintf(where, sizeof where, "%s is a shard of another run", path);
    KS_TRY(ks_json_same(here, there, where, err));
done:
    json_decref(here);
    json_decref(there);
    return st;
}

bool ks__shard_of_machine(const char *setting) {
    static const char *const names[] = {"backend", "isa", "version",
                                        "program_version"};
    for (size_t i = 0; i < KS_COUNT(names); i++)
        if (strcmp(setting, names[i]) == 0) return true;
    return false;
}
