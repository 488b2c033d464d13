/* files.c - see files.h. */
#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Reading this much takes a second or more. */
#define SLOW_BYTES ((uint64_t)1 << 30)

enum { TICK = 2 }; /* seconds between two times of the coarsest file system */

/* What is in path into files->known. */
static ks_status read_known(ks_exp_files *files, const char *path,
                            ks_err *err) {
    ks_status st = KS_OK;
    json_error_t reason;
    json_t *all = json_load_file(path, JSON_REJECT_DUPLICATES, &reason), *known;
    KS_CHECK(all, KS_FORMAT, "%s line %d: %s", path, reason.line, reason.text);
    known = json_object_get(all, "files");
    KS_CHECK(json_is_object(known), KS_FORMAT,
             "%s: expected an object 'files' as keystep run writes it", path);
    json_object_update(files->known, known);
done:
    json_decref(all);
    return st;
}

ks_status ks_exp_files_open(ks_exp_files *files, const char *path,
                            ks_err *err) {
    *files = (ks_exp_files){.known = json_object()};
    if (!files->known)
        return ks_fail(err, KS_NOMEM, "out of memory for inputs");
    if (path && ks_file_exists(path) &&
        read_known(files, path, &files->spoilt) != KS_OK)
        files->changed = true; /* what is there gives way */
    return KS_OK;
}

void ks_exp_files_close(ks_exp_files *files) {
    json_decref(files->known);
    *files = (ks_exp_files){0};
}

ks_status ks_exp_files_write(ks_exp_files *files, const char *path,
                             ks_err *err) {
    ks_status st = KS_OK;
    json_t *all = NULL;
    char *text = NULL;
    if (!files->changed) return KS_OK;
    all = json_pack("{s:s,s:i,s:O}", "format", "keystep run inputs", "version",
                    1, "files", files->known);
    if (all) text = json_dumps(all, JSON_INDENT(1) | JSON_SORT_KEYS);
    KS_CHECK(text, KS_NOMEM, "out of memory for %s", path);
    KS_TRY(ks_write_file(path, text, strlen(text), true, err));
    files->changed = false;
done:
    json_decref(all);
    free(text);
    return st;
}

ks_status ks_exp_file_hash(const char *path, char hex[65], ks_err *err) {
    enum { PIECE = 1 << 20 };
    ks_status st = KS_OK;
    ks_sha256 *hash = NULL;
    char *piece = NULL;
    ssize_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    KS_CHECK(fd >= 0, KS_IO, "%s: cannot open: %s", path, strerror(errno));
    KS_TRY(ks_alloc(&piece, PIECE, 1, "a file's bytes", err));
    KS_TRY(ks_sha256_open(&hash, err));
    while (!ks_interrupted && (n = read(fd, piece, PIECE)) > 0)
        ks_sha256_add(hash, piece, (size_t)n);
    KS_CHECK(n >= 0, KS_IO, "%s: cannot read: %s", path, strerror(errno));
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "%s: interrupted while reading",
             path);
done:
    if (hash) ks_sha256_close(&hash, hex);
    if (fd >= 0) close(fd);
    free(piece);
    return st;
}

static json_int_t modified(const struct stat *info) {
    return (json_int_t)info->st_mtim.tv_sec * 1000000000 +
           info->st_mtim.tv_nsec;
}

static const char *known_hash(const ks_exp_files *files, const char *path) {
    const char *hex = json_string_value(
        json_object_get(json_object_get(files->known, path), "sha256"));
    return hex && strlen(hex) == 64 && strspn(hex, "0123456789abcdef") == 64
               ? hex
               : NULL;
}

static ks_status remember(ks_exp_files *files, const char *path, json_t *entry,
                          ks_err *err) {
    json_t *had = json_object_get(files->known, path);
    if (!had || !json_equal(had, entry)) files->changed = true;
    return ks_json_set(files->known, path, entry, "inputs", err);
}

static ks_status hash_one(ks_exp_files *files, const char *path, char hex[65],
                          ks_err *err) {
    ks_status st = KS_OK;
    struct stat info;
    json_t *had = json_object_get(files->known, path);
    const char *was = known_hash(files, path);
    KS_CHECK(stat(path, &info) == 0, KS_IO, "%s: %s", path, strerror(errno));
    KS_CHECK(S_ISREG(info.st_mode), KS_IO, "%s: is no file", path);
    json_int_t bytes = json_integer_value(json_object_get(had, "bytes"));
    json_int_t when = json_integer_value(json_object_get(had, "modified"));
    if (was && bytes == (json_int_t)info.st_size && when == modified(&info)) {
        memcpy(hex, was, 65);
        return KS_OK;
    }
    /* One that was written just now may be written again within one tick of
     * its file system's clock; only an older one is known by its time. */
    bool settled = info.st_mtim.tv_sec < time(NULL) - TICK;
    if (files->reading && (uint64_t)info.st_size >= SLOW_BYTES)
        files->reading(files->user, path, (uint64_t)info.st_size);
    KS_TRY(ks_exp_file_hash(path, hex, err));
    json_t *entry =
        settled ? json_pack("{s:I,s:I,s:s}", "bytes", (json_int_t)info.st_size,
                            "modified", modified(&info), "sha256", hex)
                : json_pack("{s:s}", "sha256", hex);
    KS_TRY(remember(files, path, entry, err));
done:
    return st;
}

/* ----------------------------------------------------------------- folders */

/* Files that a model or a tokenizer is read from. */
static int is_part(const struct dirent *entry) {
    static const char *const ends[] = {".json", ".safetensors", ".jinja",
                                       ".model", ".txt"};
    for (size_t i = 0; i < KS_COUNT(ends); i++)
        if (*entry->d_name != '.' && ks_ends_with(entry->d_name, ends[i]))
            return 1;
    return 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name); /* whatever the locale */
}

static ks_status hash_folder(ks_exp_files *files, const char *folder,
                             char hex[65], ks_err *err) {
    ks_status st = KS_OK;
    struct dirent **list = NULL;
    ks_str all = {0};
    char *path = NULL, one[65];
    int n = scandir(folder, &list, is_part, by_bytes);
    KS_CHECK(n >= 0, KS_IO, "%s: cannot list: %s", folder, strerror(errno));
    KS_CHECK(n > 0, KS_IO, "%s: a folder without a model's files", folder);
    for (int i = 0; i < n; i++) {
        KS_TRY(ks_path_join(&path, folder, list[i]->d_name, err));
        KS_TRY(hash_one(files, path, one, err));
        KS_TRY(ks_str_printf(&all, err, "%s %s\n", one, list[i]->d_name));
        free(path);
        path = NULL;
    }
    ks_sha256_of(all.data, all.length, hex);
    KS_TRY(remember(files, folder, json_pack("{s:s}", "sha256", hex), err));
done:
    for (int i = 0; i < n; i++) free(list[i]);
    free(list);
    free(path);
    ks_str_free(&all);
    return st;
}

/* tokenizer.json is read with the tokenizer_config.json beside it, whatever
 * either is called; *out NULL: there is none, or it is that itself. */
static ks_status find_config(const char *path, char **out, ks_err *err) {
    static const char name[] = "tokenizer_config.json";
    ks_status st = KS_OK;
    char *copy = strdup(path);
    *out = NULL;
    KS_CHECK(copy, KS_NOMEM, "out of memory for a path");
    if (!ks_ends_with(path, ".json") || ks_ends_with(path, name)) goto done;
    KS_TRY(ks_path_join(out, dirname(copy), name, err));
    if (ks_file_exists(*out)) goto done;
    free(*out);
    *out = NULL;
done:
    free(copy);
    return st;
}

static ks_status hash_with_config(ks_exp_files *files, const char *path,
                                  char hex[65], ks_err *err) {
    ks_status st = KS_OK;
    char *config = NULL, beside[65], both[130];
    KS_TRY(find_config(path, &config, err));
    if (!config) return hash_one(files, path, hex, err);
    KS_TRY(ks_exp_file_hash(path, hex, err));
    KS_TRY(hash_one(files, config, beside, err));
    snprintf(both, sizeof both, "%s\n%s", hex, beside);
    ks_sha256_of(both, strlen(both), hex);
    KS_TRY(remember(files, path, json_pack("{s:s}", "sha256", hex), err));
done:
    free(config);
    return st;
}

/* A weight file is read with what lies beside it. */
static ks_status hash_beside(ks_exp_files *files, const char *path,
                             char hex[65], ks_err *err) {
    ks_status st = KS_OK;
    char *copy = strdup(path);
    KS_CHECK(copy, KS_NOMEM, "out of memory for a path");
    KS_TRY(hash_folder(files, dirname(copy), hex, err));
    KS_TRY(remember(files, path, json_pack("{s:s}", "sha256", hex), err));
done:
    free(copy);
    return st;
}

ks_status ks_exp_files_hash(ks_exp_files *files, const char *path, char hex[65],
                            bool *there, ks_err *err) {
    struct stat info;
    const char *was = known_hash(files, path);
    *there = stat(path, &info) == 0;
    if (!*there) {
        if (!was) return ks_fail(err, KS_IO, "%s: there is no such file", path);
        memcpy(hex, was, 65);
        return KS_OK;
    }
    if (S_ISDIR(info.st_mode)) return hash_folder(files, path, hex, err);
    if (ks_ends_with(path, ".safetensors") ||
        ks_ends_with(path, ".safetensors.index.json"))
        return hash_beside(files, path, hex, err);
    return hash_with_config(files, path, hex, err);
}
