/* safetensors.c - layout: 8 bytes little-endian header length, a JSON header
 * of name -> {dtype, shape, data_offsets}, then the data
 * (github.com/huggingface/safetensors, "Format").
 */
#include "safetensors.h"

#include <inttypes.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_HEADER = 100000000, /* the format's own limit */
    MAX_INDEX = 64 << 20,
    MAX_SHARDS = 4096,
    MAX_NAME = 512
};

/* type is KS_N_TYPES where we know only the size. */
static const struct {
    const char *name;
    ks_type type;
    size_t size;
} dtypes[] = {{"F32", KS_F32, 4},        {"F16", KS_F16, 2},
              {"BF16", KS_BF16, 2},      {"I32", KS_I32, 4},
              {"F64", KS_N_TYPES, 8},    {"I64", KS_N_TYPES, 8},
              {"U64", KS_N_TYPES, 8},    {"U32", KS_N_TYPES, 4},
              {"I16", KS_N_TYPES, 2},    {"U16", KS_N_TYPES, 2},
              {"I8", KS_N_TYPES, 1},     {"U8", KS_N_TYPES, 1},
              {"BOOL", KS_N_TYPES, 1},   {"F8_E4M3", KS_N_TYPES, 1},
              {"F8_E5M2", KS_N_TYPES, 1}};

struct ks_safetensors {
    char *path;
    char **files; /* [n_files] paths */
    ks_map *maps;
    size_t n_files;
    ks_st_tensor *tensors;
    size_t n_tensors, capacity;
    json_t *metadata; /* of a single file, or NULL */
};

/* --------------------------------------------------------------- one entry */

/* Names that messages can quote. */
static bool printable(const char *s) {
    while (*s >= 0x20 && *s <= 0x7e) s++;
    return *s == 0;
}

/* A non-negative integer of a JSON array. */
static bool whole(json_t *array, size_t i, uint64_t *out) {
    json_t *v = json_array_get(array, i);
    if (!json_is_integer(v) || json_integer_value(v) < 0) return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

/* Shape into t, and the number of elements. */
static ks_status read_shape(const char *path, json_t *shape, ks_st_tensor *t,
                            uint64_t *count, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = json_array_size(shape);
    KS_CHECK(json_is_array(shape) && n <= 16, KS_FORMAT,
             "%s: tensor '%s' has no shape of at most 16 dimensions", path,
             t->name);
    t->n_dims = (int32_t)n;
    *count = 1;
    for (size_t i = 0; i < n; i++) {
        uint64_t dim;
        KS_CHECK(whole(shape, i, &dim), KS_FORMAT,
                 "%s: tensor '%s' has a dimension that is no whole number",
                 path, t->name);
        KS_CHECK(!*count || dim <= INT64_MAX / 8 / *count, KS_FORMAT,
                 "%s: tensor '%s' has dimension %" PRIu64 " at place %zu, "
                 "which no file can hold",
                 path, t->name, dim, i);
        if (i < 4) t->dims[i] = (int64_t)dim;
        *count *= dim;
    }
done:
    return st;
}

static ks_status read_tensor(const char *path, ks_map map, size_t start,
                             json_t *entry, ks_st_tensor *t, ks_err *err) {
    ks_status st = KS_OK;
    size_t k = 0, room = map.size - start;
    uint64_t count = 0, begin = 0, end = 0;
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    json_t *offsets = json_object_get(entry, "data_offsets");
    KS_CHECK(dtype && strlen(dtype) < sizeof t->dtype, KS_FORMAT,
             "%s: tensor '%s' has no \"dtype\"", path, t->name);
    memcpy(t->dtype, dtype, strlen(dtype) + 1);
    KS_TRY(read_shape(path, json_object_get(entry, "shape"), t, &count, err));
    KS_CHECK(json_array_size(offsets) == 2 && whole(offsets, 0, &begin) &&
                 whole(offsets, 1, &end),
             KS_FORMAT,
             "%s: tensor '%s' has no \"data_offsets\" of two whole numbers",
             path, t->name);
    KS_CHECK(begin <= end && end <= room, KS_FORMAT,
             "%s: tensor '%s' lies at bytes %" PRIu64 " to %" PRIu64 " of "
             "the data, which has %zu",
             path, t->name, begin, end, room);
    while (k < KS_COUNT(dtypes) && strcmp(dtypes[k].name, dtype) != 0) k++;
    t->type = k < KS_COUNT(dtypes) ? dtypes[k].type : KS_N_TYPES;
    KS_CHECK(k == KS_COUNT(dtypes) || count * dtypes[k].size == end - begin,
             KS_FORMAT,
             "%s: tensor '%s' has %" PRIu64 " bytes, its shape and %s need "
             "%" PRIu64,
             path, t->name, end - begin, dtype, count * dtypes[k].size);
    t->data = map.data + start + begin;
    t->size = (size_t)(end - begin);
done:
    return st;
}

/* ---------------------------------------------------------------- one file */

static ks_status add_tensors(ks_safetensors *s, int32_t file, size_t start,
                             json_t *header, ks_err *err) {
    ks_status st = KS_OK;
    const char *path = s->files[file], *name;
    json_t *entry;
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") == 0) continue;
        KS_CHECK(strlen(name) <= MAX_NAME && printable(name), KS_FORMAT,
                 "%s: a tensor name of %zu bytes, expected at most %d, all "
                 "printable ASCII",
                 path, strlen(name), MAX_NAME);
        KS_TRY(ks_grow(&s->tensors, &s->capacity, s->n_tensors + 1,
                       sizeof *s->tensors, "a tensor table", err));
        ks_st_tensor *t = &s->tensors[s->n_tensors];
        *t = (ks_st_tensor){.file = file, .name = strdup(name)};
        KS_CHECK(t->name, KS_NOMEM, "%s: no memory for tensor names", path);
        s->n_tensors++;
        KS_TRY(read_tensor(path, s->maps[file], start, entry, t, err));
    }
done:
    return st;
}

/* Takes path over. */
static ks_status add_file(ks_safetensors *s, char *path, ks_err *err) {
    ks_status st = KS_OK;
    json_t *header = NULL;
    json_error_t where;
    uint64_t length;
    int32_t file = (int32_t)s->n_files;
    s->files[s->n_files++] = path;
    ks_map *map = &s->maps[file];
    KS_TRY(ks_map_open(map, path, err));
    KS_CHECK(map->size >= 8, KS_FORMAT,
             "%s: cut short: %zu bytes, expected a header length of 8", path,
             map->size);
    memcpy(&length, map->data, 8);
    KS_CHECK(length <= MAX_HEADER && length <= map->size - 8, KS_FORMAT,
             "%s: claims a header of %" PRIu64 " bytes, but the file has %zu "
             "(cut short, or not a safetensors file)",
             path, length, map->size);
    header = json_loadb((const char *)map->data + 8, (size_t)length,
                        JSON_REJECT_DUPLICATES, &where);
    KS_CHECK(header, KS_FORMAT, "%s: the header is not JSON: %s", path,
             where.text);
    KS_CHECK(json_is_object(header), KS_FORMAT,
             "%s: the header is no JSON object", path);
    KS_TRY(add_tensors(s, file, 8 + (size_t)length, header, err));
    if (strcmp(path, s->path) == 0)
        s->metadata = json_incref(json_object_get(header, "__metadata__"));
done:
    json_decref(header);
    return st;
}

/* ------------------------------------------------------------------ shards */

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The shards' names, sorted, each once; borrowed from the index. */
static ks_status shard_names(const char *path, json_t *weight_map,
                             const char ***out, size_t *n, ks_err *err) {
    ks_status st = KS_OK;
    const char *name, **names = NULL;
    json_t *value;
    size_t count = 0, kept = 0;
    KS_TRY(ks_alloc(&names, json_object_size(weight_map), sizeof *names,
                    "shard names", err));
    json_object_foreach(weight_map, name, value) {
        const char *shard = json_string_value(value);
        KS_CHECK(shard, KS_FORMAT, "%s: the shard of a tensor is no string",
                 path);
        KS_CHECK(printable(shard) && printable(name), KS_FORMAT,
                 "%s: a name that is not printable ASCII", path);
        KS_CHECK(*shard && *shard != '.' && !strchr(shard, '/'), KS_FORMAT,
                 "%s: the shard '%.200s' is no plain file name beside it", path,
                 shard);
        names[count++] = shard;
    }
    KS_CHECK(count, KS_FORMAT, "%s: \"weight_map\" is empty", path);
    qsort(names, count, sizeof *names, by_text);
    for (size_t i = 0; i < count; i++)
        if (!kept || strcmp(names[kept - 1], names[i]) != 0)
            names[kept++] = names[i];
    KS_CHECK(kept <= MAX_SHARDS, KS_LIMIT,
             "%s: %zu shards, expected at most %d", path, kept, MAX_SHARDS);
    *out = names;
    *n = kept;
    names = NULL;
done:
    free(names);
    return st;
}

/* The index and the shards tell the same story. */
static ks_status check_index(ks_safetensors *s, json_t *weight_map,
                             const char **shards, ks_err *err) {
    ks_status st = KS_OK;
    const char *name;
    json_t *value;
    json_object_foreach(weight_map, name, value) {
        const ks_st_tensor *t = ks_safetensors_find(s, name);
        KS_CHECK(t && strcmp(shards[t->file], json_string_value(value)) == 0,
                 KS_MISMATCH,
                 "%s: says that tensor '%.200s' is in '%.200s', but it is not",
                 s->path, name, json_string_value(value));
    }
done:
    return st;
}

static int by_name(const void *a, const void *b) {
    const ks_st_tensor *p = a, *q = b;
    return strcmp(p->name, q->name);
}

static ks_status sort_tensors(ks_safetensors *s, ks_err *err) {
    if (!s->n_tensors)
        return ks_fail(err, KS_FORMAT, "%s: has no tensors", s->path);
    qsort(s->tensors, s->n_tensors, sizeof *s->tensors, by_name);
    for (size_t i = 1; i < s->n_tensors; i++)
        if (by_name(&s->tensors[i - 1], &s->tensors[i]) == 0)
            return ks_fail(err, KS_FORMAT, "%s: tensor '%s' is there twice",
                           s->files[s->tensors[i].file], s->tensors[i].name);
    return KS_OK;
}

static ks_status open_shards(ks_safetensors *s, const char **shards, size_t n,
                             ks_err *err) {
    ks_status st = KS_OK;
    char *copy = strdup(s->path), *path = NULL;
    KS_CHECK(copy, KS_NOMEM, "%s: no memory for its name", s->path);
    const char *folder = dirname(copy);
    KS_TRY(ks_alloc(&s->files, n, sizeof *s->files, "shard paths", err));
    KS_TRY(ks_alloc(&s->maps, n, sizeof *s->maps, "shard maps", err));
    for (size_t i = 0; i < n; i++) {
        KS_TRY(ks_path_join(&path, folder, shards[i], err));
        KS_TRY(add_file(s, path, err));
    }
    KS_TRY(sort_tensors(s, err));
done:
    free(copy);
    return st;
}

static ks_status open_index(ks_safetensors *s, ks_err *err) {
    ks_status st = KS_OK;
    ks_map map = {0};
    json_t *root = NULL;
    json_error_t where;
    const char **shards = NULL;
    size_t n = 0;
    KS_TRY(ks_map_open(&map, s->path, err));
    KS_CHECK(map.size > 0 && map.size <= MAX_INDEX, KS_FORMAT,
             "%s: has %zu bytes, expected 1 to %d", s->path, map.size,
             MAX_INDEX);
    root = json_loadb((const char *)map.data, map.size, JSON_REJECT_DUPLICATES,
                      &where);
    KS_CHECK(root, KS_FORMAT, "%s line %d: not JSON: %s", s->path, where.line,
             where.text);
    json_t *weight_map = json_object_get(root, "weight_map");
    KS_CHECK(json_is_object(weight_map), KS_FORMAT,
             "%s: has no object \"weight_map\"", s->path);
    KS_TRY(shard_names(s->path, weight_map, &shards, &n, err));
    KS_TRY(open_shards(s, shards, n, err));
    KS_TRY(check_index(s, weight_map, shards, err));
done:
    free(shards);
    json_decref(root);
    ks_map_close(&map);
    return st;
}

/* ------------------------------------------------------------------ public */

static ks_status open_single(ks_safetensors *s, ks_err *err) {
    ks_status st = KS_OK;
    char *path = strdup(s->path);
    KS_CHECK(path, KS_NOMEM, "%s: no memory for its name", s->path);
    KS_TRY(ks_alloc(&s->files, 1, sizeof *s->files, "a path", err));
    KS_TRY(ks_alloc(&s->maps, 1, sizeof *s->maps, "a map", err));
    char *handed = path;
    path = NULL;
    KS_TRY(add_file(s, handed, err));
    KS_TRY(sort_tensors(s, err));
done:
    free(path);
    return st;
}

ks_status ks_safetensors_open(ks_safetensors **out, const char *path,
                              ks_err *err) {
    ks_status st = KS_OK;
    ks_safetensors *s = NULL;
    size_t n = strlen(path);
    *out = NULL;
    KS_TRY(ks_alloc(&s, 1, sizeof *s, "a safetensors reader", err));
    s->path = strdup(path);
    KS_CHECK(s->path, KS_NOMEM, "%s: no memory for its name", path);
    bool index = n > 5 && strcmp(path + n - 5, ".json") == 0;
    KS_TRY(index ? open_index(s, err) : open_single(s, err));
    *out = s;
    s = NULL;
done:
    ks_safetensors_close(&s);
    return st;
}

void ks_safetensors_close(ks_safetensors **safetensors) {
    ks_safetensors *s = *safetensors;
    if (!s) return;
    for (size_t i = 0; i < s->n_files; i++) {
        free(s->files[i]);
        if (s->maps) ks_map_close(&s->maps[i]);
    }
    for (size_t i = 0; i < s->n_tensors; i++) free(s->tensors[i].name);
    free(s->tensors);
    json_decref(s->metadata);
    free(s->files);
    free(s->maps);
    free(s->path);
    free(s);
    *safetensors = NULL;
}

const char *ks_safetensors_path(const ks_safetensors *s) {
    return s->path;
}

size_t ks_safetensors_n(const ks_safetensors *s) {
    return s->n_tensors;
}

const ks_st_tensor *ks_safetensors_at(const ks_safetensors *s, size_t i) {
    return i < s->n_tensors ? &s->tensors[i] : NULL;
}

const ks_st_tensor *ks_safetensors_find(const ks_safetensors *s,
                                        const char *name) {
    ks_st_tensor want = {0};
    char copy[MAX_NAME + 1];
    size_t n = strlen(name);
    if (n > MAX_NAME || !s->n_tensors) return NULL;
    want.name = memcpy(copy, name, n + 1);
    return bsearch(&want, s->tensors, s->n_tensors, sizeof want, by_name);
}

json_t *ks_safetensors_metadata(const ks_safetensors *s) {
    return s->metadata;
}

const char *ks_safetensors_file(const ks_safetensors *s, int32_t file) {
    return s->files[file];
}

void ks_safetensors_take_maps(ks_safetensors *s, ks_map **maps, size_t *n) {
    *maps = s->maps;
    *n = s->n_files;
    s->maps = NULL;
}

/* ----------------------------------------------------------------- writing */

ks_status ks_safetensors_add(json_t *header, const char *name,
                             const char *dtype, const int64_t *shape, int rank,
                             size_t bytes, size_t *at, const char *path,
                             ks_err *err) {
    json_t *dims = json_array();
    for (int i = 0; i < rank; i++)
        json_array_append_new(dims, json_integer(shape[i]));
    size_t end = *at + bytes;
    json_t *one = json_pack("{s:s,s:o,s:[I,I]}", "dtype", dtype, "shape", dims,
                            "data_offsets", (json_int_t)*at, (json_int_t)end);
    *at = end;
    return ks_json_set(header, name, one, path, err);
}

ks_status ks_safetensors_begin(ks_str *out, const json_t *header,
                               const char *path, ks_err *err) {
    ks_status st = KS_OK;
    char length[8], *text = json_dumps(header, JSON_COMPACT | JSON_SORT_KEYS);
    KS_CHECK(text, KS_NOMEM, "out of memory for %s", path);
    size_t have = strlen(text), padded = (have + 7) / 8 * 8;
    for (int i = 0; i < 8; i++)
        length[i] = (char)((uint64_t)padded >> 8 * i & 255);
    KS_TRY(ks_str_add(out, length, 8, err));
    KS_TRY(ks_str_add(out, text, have, err));
    KS_TRY(ks_str_add(out, "        ", padded - have, err));
done:
    free(text);
    return st;
}
