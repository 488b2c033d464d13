/* join.c - see join.h: finds the shards, joins JSON Lines, gives the file its
 * name. */
#include "join.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static ks_status io_error(ks_err *err, const char *path, const char *doing) {
    return ks_fail(err, KS_IO, "%s: cannot %s: %s", path, doing,
                   strerror(errno));
}

/* ------------------------------------------------------------------- shards */

/* Why a shard is not there, where that shows. */
static const char *why_missing(const char *path) {
    char part[PATH_MAX];
    int n = snprintf(part, sizeof part, "%s.part", path);
    return n < (int)sizeof part && ks_file_exists(part)
               ? " (interrupted or under way: its .part is there)"
               : "";
}

static ks_status find_shards(const ks_join_options *o, char **paths,
                             ks_err *err) {
    ks_status st = KS_OK;
    enum { NAMED = 4 };
    char path[PATH_MAX];
    ks_str missing = {0};
    int32_t n = 0;
    KS_TRY(ks_str_add(&missing, "", 0, err));
    for (int32_t k = 1; k <= o->shards; k++) {
        KS_TRY(ks_shard_path((ks_shard){k, o->shards}, o->out, path, err));
        paths[k - 1] = strdup(path);
        KS_CHECK(paths[k - 1], KS_NOMEM, "out of memory for a path");
        if (ks_file_exists(path) || n++ >= NAMED) continue;
        KS_TRY(ks_str_printf(&missing, err, "%s%s%s", n > 1 ? ", " : "", path,
                             why_missing(path)));
    }
    KS_CHECK(n == 0, KS_IO, "%d of %d shards %s missing: %s%s", n, o->shards,
             n == 1 ? "is" : "are", missing.data, n > NAMED ? ", .." : "");
done:
    ks_str_free(&missing);
    return st;
}

static ks_status is_hdf5(const char *path, bool *out, ks_err *err) {
    static const char magic[] = "\x89HDF\r\n\x1a\n";
    char head[8] = {0};
    FILE *file = fopen(path, "rbe");
    if (!file) return io_error(err, path, "open");
    size_t n = fread(head, 1, sizeof head, file);
    fclose(file);
    *out = n == sizeof head && memcmp(head, magic, sizeof head) == 0;
    return KS_OK;
}

/* --------------------------------------------------------------- JSON Lines */

typedef struct lines {
    const ks_join_options *options;
    char *const *paths;
    FILE *to;
    const char *to_path;
    json_t *first; /* note of shard 1, borrowed */
    ks_join_fn progress;
    void *user;
    uint64_t all; /* bytes */
    ks_join_sum *sum;
} lines;

static bool is_asked(const char *setting) {
    return !ks__shard_of_machine(setting);
}

static ks_status compare_settings(const lines *l, int32_t i,
                                  const json_t *there, ks_err *err) {
    const json_t *here = json_object_get(l->first, "settings");
    const char *name = ks_json_difference(here, there, is_asked);
    if (!name) name = ks_json_difference(there, here, is_asked);
    bool machine = !name;
    if (machine && l->options->force) return KS_OK;
    if (!name) name = ks_json_difference(here, there, NULL);
    if (!name) name = ks_json_difference(there, here, NULL);
    if (!name) return KS_OK;
    char *a = json_dumps(json_object_get(here, name), JSON_ENCODE_ANY);
    char *b = json_dumps(json_object_get(there, name), JSON_ENCODE_ANY);
    ks_fail(err, KS_MISMATCH,
            "%s and %s are shards of different runs: \"%s\" is %.200s in the "
            "first and %.200s in the second%s",
            l->paths[0], l->paths[i], name, a ? a : "not set",
            b ? b : "not set",
            machine ? "; --force joins them all the same" : "");
    free(a);
    free(b);
    return KS_MISMATCH;
}

/* The note is of shard i, with the lines that are its share. */
static ks_status check_place(const lines *l, int32_t i, const json_t *note,
                             ks_err *err) {
    ks_status st = KS_OK;
    char which[32];
    const ks_shard shard = {i + 1, l->options->shards};
    const json_t *input = json_object_get(note, "input");
    const char *is = json_string_value(json_object_get(note, "shard"));
    json_int_t n = json_integer_value(json_object_get(input, "n"));
    json_int_t from = json_integer_value(json_object_get(input, "begin"));
    json_int_t to = json_integer_value(json_object_get(input, "end"));
    size_t begin, end;
    snprintf(which, sizeof which, "%d/%d", shard.k, shard.n);
    KS_CHECK(strcmp(is, which) == 0, KS_MISMATCH,
             "%s: is shard %.32s, expected %s", l->paths[i], is, which);
    KS_TRY(ks_shard_range(shard, (size_t)n, l->paths[i], "inputs", &begin, &end,
                          err));
    KS_CHECK((size_t)from == begin && (size_t)to == end, KS_MISMATCH,
             "%s: takes %lld to %lld of its input's %lld, expected %zu to %zu",
             l->paths[i], (long long)from, (long long)to, (long long)n, begin,
             end);
done:
    return st;
}

/* All that the input is, but for which part of it. */
static ks_status compare_inputs(const lines *l, int32_t i, const json_t *there,
                                ks_err *err) {
    ks_status st = KS_OK;
    static const char *const own[] = {"begin", "end"};
    char where[1024];
    json_t *here = json_deep_copy(json_object_get(l->first, "input"));
    KS_CHECK(here, KS_NOMEM, "out of memory for a note");
    for (size_t k = 0; k < KS_COUNT(own); k++)
        KS_TRY(ks_json_set(here, own[k],
                           json_incref(json_object_get(there, own[k])),
                           l->paths[i], err));
    snprintf(where, sizeof where,
             "%.400s and %.400s are shards of different "
             "inputs",
             l->paths[0], l->paths[i]);
    KS_TRY(ks_json_same(here, there, where, err));
done:
    json_decref(here);
    return st;
}

/* Shard i of the run that shard 0 is of. */
static ks_status compare_note(const lines *l, int32_t i, const json_t *note,
                              ks_err *err) {
    ks_status st = KS_OK;
    static const char *const texts[] = {"command", "output"};
    KS_TRY(check_place(l, i, note, err));
    for (size_t k = 0; k < KS_COUNT(texts); k++) {
        const char *a = json_string_value(json_object_get(l->first, texts[k]));
        const char *b = json_string_value(json_object_get(note, texts[k]));
        KS_CHECK(strcmp(a, b) == 0, KS_MISMATCH,
                 "%s is a shard of another run than %s: its %s is '%.80s', "
                 "that of the first '%.80s'",
                 l->paths[i], l->paths[0], texts[k], b, a);
    }
    KS_TRY(compare_settings(l, i, json_object_get(note, "settings"), err));
    KS_TRY(compare_inputs(l, i, json_object_get(note, "input"), err));
done:
    return st;
}

/* Appends the file, which must be what its note says. */
static ks_status copy_lines(lines *l, int32_t i, const json_t *note,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_sha256 *hash = NULL;
    char buffer[1 << 16], hex[65];
    size_t n, bytes = 0;
    const char *path = l->paths[i];
    FILE *from = fopen(path, "rbe");
    if (!from) KS_TRY(io_error(err, path, "open"));
    KS_TRY(ks_sha256_open(&hash, err));
    while ((n = fread(buffer, 1, sizeof buffer, from)) > 0) {
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED,
                 "interrupted; nothing is left of the join");
        ks_sha256_add(hash, buffer, n);
        if (fwrite(buffer, 1, n, l->to) != n)
            KS_TRY(io_error(err, l->to_path, "write"));
        bytes += n;
        if (l->progress) l->progress(l->user, l->sum->bytes + bytes, l->all);
    }
    if (ferror(from)) KS_TRY(io_error(err, path, "read"));
    ks_sha256_close(&hash, hex);
    const char *want = json_string_value(json_object_get(note, "sha256"));
    KS_CHECK(strcmp(want, hex) == 0, KS_FORMAT,
             "%s: is not what was written: it has %zu bytes of SHA-256 "
             "%.12s..., expected %lld of %.12s...",
             path, bytes, hex,
             (long long)json_integer_value(json_object_get(note, "bytes")),
             want);
    l->sum->bytes += bytes;
    l->sum->lines += json_integer_value(json_object_get(note, "lines"));
done:
    if (from) fclose(from);
    ks_sha256_close(&hash, NULL);
    return st;
}

static ks_status join_lines(lines *l, ks_err *err) {
    ks_status st = KS_OK;
    json_t *notes = json_array(), *note;
    int32_t n = l->options->shards;
    KS_CHECK(!l->options->copy, KS_USAGE,
             "--copy is for activations: %s holds JSON Lines, which are always "
             "copied",
             l->paths[0]);
    KS_CHECK(notes, KS_NOMEM, "out of memory for notes");
    for (int32_t i = 0; i < n; i++) {
        KS_TRY(ks__shard_note_read(l->paths[i], &note, err));
        KS_CHECK(!json_array_append_new(notes, note), KS_NOMEM,
                 "out of memory for notes");
        if (i == 0) l->first = note;
        KS_TRY(compare_note(l, i, note, err));
        l->all += (uint64_t)json_integer_value(json_object_get(note, "bytes"));
    }
    l->to = fopen(l->to_path, "wbe");
    if (!l->to) KS_TRY(io_error(err, l->to_path, "create"));
    for (int32_t i = 0; i < n; i++)
        KS_TRY(copy_lines(l, i, json_array_get(notes, (size_t)i), err));
    if (fflush(l->to) != 0 || fsync(fileno(l->to)) != 0)
        KS_TRY(io_error(err, l->to_path, "write"));
done:
    if (l->to) fclose(l->to);
    json_decref(notes);
    return st;
}

/* ---------------------------------------------------------------------- all */

/* A file that is gone already is as good. */
static ks_status remove_shards(char *const *paths, int32_t n, ks_err *err) {
    char note[PATH_MAX];
    for (int32_t i = 0; i < n; i++) {
        if (unlink(paths[i]) != 0 && errno != ENOENT)
            return io_error(err, paths[i], "remove");
        int length = snprintf(note, sizeof note, "%s.shard.json", paths[i]);
        if (length < (int)sizeof note) unlink(note);
    }
    return KS_OK;
}

static ks_status check_options(const ks_join_options *o, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(o->shards >= 1 && o->shards <= KS_MOST_SHARDS, KS_USAGE,
             "%d shards, expected 1 to %d", o->shards, KS_MOST_SHARDS);
    KS_TRY(ks_refuse_existing(o->out, o->force, err));
done:
    return st;
}

ks_status ks_join(const ks_join_options *options, ks_join_fn progress,
                  void *user, ks_join_sum *sum, ks_err *err) {
    ks_status st = KS_OK;
    char **paths = NULL, *to = NULL;
    ks_lock lock = {0};
    bool acts = false, made = false;
    *sum = (ks_join_sum){0};
    KS_TRY(check_options(options, err));
    KS_TRY(
        ks_alloc(&paths, (size_t)options->shards, sizeof *paths, "paths", err));
    KS_TRY(find_shards(options, paths, err));
    KS_TRY(is_hdf5(paths[0], &acts, err));
    KS_CHECK(!acts || options->copy || !options->remove, KS_USAGE,
             "--remove would take away the rows: %s is virtual, over the "
             "shards, without --copy",
             options->out);
    KS_TRY(ks_lock_take(&lock, options->out, err));
    KS_TRY(ks_refuse_existing(options->out, options->force, err));
    if (asprintf(&to, "%s.new", options->out) < 0) {
        to = NULL;
        KS_CHECK(false, KS_NOMEM, "out of memory for a path");
    }
    made = true;
    if (acts) {
        KS_TRY(ks__acts_join(options, paths, to, progress, user, sum, err));
    } else {
        lines l = {.options = options,
                   .paths = paths,
                   .to_path = to,
                   .progress = progress,
                   .user = user,
                   .sum = sum};
        KS_TRY(join_lines(&l, err));
    }
    if (rename(to, options->out) != 0)
        KS_TRY(io_error(err, options->out, "rename to"));
    made = false;
    KS_TRY(ks_sync_folder_of(options->out, err));
    if (options->remove) KS_TRY(remove_shards(paths, options->shards, err));
done:
    if (made) unlink(to);
    ks_lock_drop(&lock);
    for (int32_t i = 0; paths && i < options->shards; i++) free(paths[i]);
    free(paths);
    free(to);
    return st;
}
