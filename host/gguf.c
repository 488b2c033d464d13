/* gguf.c - reader of GGUF v2 and v3: header and tensors (metadata values are
 * in gguf_pairs.c). Layout: ggml's docs/gguf.md.
 *
 * The whole header is walked once at open with every length compared with
 * what is left of the file; keys and tensors are then found by binary search
 * in sorted indexes, and getters and iterators read only bytes that the walk
 * has passed.
 */
#include "gguf_pairs.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"

/* ggml's codes of tensor types that we read; names of those that we do not. */
static const struct {
    uint32_t code;
    int type; /* ks_type, or -1 */
    const char *name;
} tensor_types[] = {
    {0, KS_F32, "F32"},    {1, KS_F16, "F16"},      {2, KS_Q4_0, "Q4_0"},
    {3, KS_Q4_1, "Q4_1"},  {6, KS_Q5_0, "Q5_0"},    {7, KS_Q5_1, "Q5_1"},
    {8, KS_Q8_0, "Q8_0"},  {10, KS_Q2_K, "Q2_K"},   {11, KS_Q3_K, "Q3_K"},
    {12, KS_Q4_K, "Q4_K"}, {13, KS_Q5_K, "Q5_K"},   {14, KS_Q6_K, "Q6_K"},
    {26, KS_I32, "I32"},   {30, KS_BF16, "BF16"},   {9, -1, "Q8_1"},
    {15, -1, "Q8_K"},      {16, -1, "IQ2_XXS"},     {17, -1, "IQ2_XS"},
    {18, -1, "IQ3_XXS"},   {19, -1, "IQ1_S"},       {20, -1, "IQ4_NL"},
    {21, -1, "IQ3_S"},     {22, -1, "IQ2_S"},       {23, -1, "IQ4_XS"},
    {24, -1, "I8"},        {25, -1, "I16"},         {27, -1, "I64"},
    {28, -1, "F64"},       {29, -1, "IQ1_M"},       {34, -1, "TQ1_0"},
    {35, -1, "TQ2_0"},     {39, KS_MXFP4, "MXFP4"}, {40, -1, "NVFP4"}};

enum {
    MAX_KEY = 65535, /* the format's own limit */
    MAX_ALIGNMENT = 1 << 20,
    DEFAULT_ALIGNMENT = 32,
    MIN_PAIR = 8 + 4 + 1, /* bytes of the shortest key-value pair */
    MIN_TENSOR = 8 + 4 + 8 + 4 + 8
};

/* ----------------------------------------------------------------- reading */

/* Where the walk is. size is the file's, at never passes it. */
typedef struct cursor {
    const char *path;
    const uint8_t *data;
    size_t at, size;
} cursor;

static ks_status take(cursor *c, void *to, size_t n, const char *what,
                      ks_err *err) {
    if (n > c->size - c->at)
        return ks_fail(err, KS_FORMAT,
                       "%s: cut short: %s at byte %zu needs %zu bytes, the "
                       "file ends at %zu",
                       c->path, what, c->at, n, c->size);
    memcpy(to, c->data + c->at, n);
    c->at += n;
    return KS_OK;
}

/* A counted string; borrowed. */
static ks_status take_string(cursor *c, const char **s, uint64_t *n,
                             const char *what, ks_err *err) {
    size_t start = c->at;
    ks_status st = take(c, n, 8, what, err);
    if (st != KS_OK) return st;
    if (*n > c->size - c->at)
        return ks_fail(err, KS_FORMAT,
                       "%s: %s at byte %zu claims %" PRIu64 " bytes, the file "
                       "ends at %zu",
                       c->path, what, start, *n, c->size);
    *s = (const char *)c->data + c->at;
    c->at += (size_t)*n;
    return KS_OK;
}

/* Keys and tensor names: printable ASCII, so that messages can quote them. */
static ks_status take_name(cursor *c, const char **s, uint64_t *n,
                           uint64_t limit, const char *what, ks_err *err) {
    size_t at = c->at;
    ks_status st = take_string(c, s, n, what, err);
    if (st != KS_OK) return st;
    if (*n == 0 || *n > limit)
        return ks_fail(err, KS_FORMAT,
                       "%s: %s at byte %zu has %" PRIu64 " bytes, expected 1 "
                       "to %" PRIu64,
                       c->path, what, at, *n, limit);
    for (uint64_t i = 0; i < *n; i++)
        if ((*s)[i] < 0x20 || (*s)[i] > 0x7e)
            return ks_fail(err, KS_FORMAT,
                           "%s: %s at byte %zu is not printable ASCII", c->path,
                           what, at);
    return KS_OK;
}

static ks_status skip_array(cursor *c, const char *what, ks_err *err) {
    ks_status st = KS_OK;
    uint32_t type = 0;
    uint64_t n = 0, length = 0;
    const char *s;
    KS_TRY(take(c, &type, 4, what, err));
    KS_TRY(take(c, &n, 8, what, err));
    if (type == V_STRING) {
        for (uint64_t i = 0; i < n; i++)
            KS_TRY(take_string(c, &s, &length, "a string of an array", err));
        goto done;
    }
    KS_CHECK(type < V_COUNT && ks__gguf_scalar_size[type], KS_FORMAT,
             "%s: %s at byte %zu is an array of type %u, expected scalars or "
             "strings",
             c->path, what, c->at - 12, type);
    KS_CHECK(n <= (c->size - c->at) / ks__gguf_scalar_size[type], KS_FORMAT,
             "%s: %s at byte %zu claims %" PRIu64 " elements, the file ends "
             "at %zu",
             c->path, what, c->at, n, c->size);
    c->at += (size_t)n * ks__gguf_scalar_size[type];
done:
    return st;
}

static ks_status take_pair(cursor *c, ks__gguf_pair *p, ks_err *err) {
    ks_status st = KS_OK;
    uint64_t n = 0;
    char what[80];
    KS_TRY(take_name(c, &p->key, &n, MAX_KEY, "a metadata key", err));
    p->key_length = (uint32_t)n;
    snprintf(what, sizeof what, "value of '%.*s'", (int)KS_MIN(n, 60), p->key);
    KS_TRY(take(c, &p->type, 4, what, err));
    p->value = c->data + c->at;
    KS_CHECK(p->type < V_COUNT, KS_FORMAT,
             "%s: %s has type %u, expected 0 to %d", c->path, what, p->type,
             V_COUNT - 1);
    if (p->type == V_STRING) {
        const char *s;
        KS_TRY(take_string(c, &s, &n, what, err));
    } else if (p->type == V_ARRAY) {
        KS_TRY(skip_array(c, what, err));
    } else {
        uint8_t value[8];
        KS_TRY(take(c, value, ks__gguf_scalar_size[p->type], what, err));
    }
done:
    return st;
}

/* Type code and shape of one tensor; data is still an offset (in size). */
static ks_status take_tensor(cursor *c, ks_gguf_tensor *t, uint64_t *offset,
                             ks_err *err) {
    ks_status st = KS_OK;
    const char *s = "";
    uint64_t n = 0, dim = 0, count = 1;
    uint32_t n_dims = 0, code = 0;
    size_t k = 0;
    KS_TRY(take_name(c, &s, &n, sizeof t->name - 1, "a tensor name", err));
    memcpy(t->name, s, (size_t)n);
    t->name[n] = 0;
    KS_TRY(take(c, &n_dims, 4, t->name, err));
    KS_CHECK(n_dims >= 1 && n_dims <= 4, KS_FORMAT,
             "%s: tensor '%s' has %u dimensions, expected 1 to 4", c->path,
             t->name, n_dims);
    t->n_dims = (int32_t)n_dims;
    for (uint32_t i = 0; i < 4; i++) {
        t->dims[i] = 1;
        if (i >= n_dims) continue;
        KS_TRY(take(c, &dim, 8, t->name, err));
        KS_CHECK(dim >= 1 && dim <= INT64_MAX / 8 / count, KS_FORMAT,
                 "%s: tensor '%s' has dimension %" PRIu64 " at place %u, "
                 "which no file can hold",
                 c->path, t->name, dim, i);
        t->dims[i] = (int64_t)dim;
        count *= dim;
    }
    KS_TRY(take(c, &code, 4, t->name, err));
    while (k < KS_COUNT(tensor_types) && tensor_types[k].code != code) k++;
    KS_CHECK(k < KS_COUNT(tensor_types), KS_FORMAT,
             "%s: tensor '%s' has the unknown type %u", c->path, t->name, code);
    KS_CHECK(tensor_types[k].type >= 0, KS_UNSUPPORTED,
             "%s: tensor '%s' is stored as %s, which is not supported; F32, "
             "F16, BF16, Q4_0 to Q8_0 and Q2_K to Q6_K are",
             c->path, t->name, tensor_types[k].name);
    t->type = (ks_type)tensor_types[k].type;
    KS_TRY(take(c, offset, 8, t->name, err));
    KS_CHECK(t->dims[0] % ks_type_block(t->type) == 0, KS_FORMAT,
             "%s: tensor '%s' has rows of %" PRId64 ", not a multiple of the "
             "%s block of %" PRId64,
             c->path, t->name, t->dims[0], ks_type_name(t->type),
             ks_type_block(t->type));
    /* A block has at most 4 bytes an element, so this cannot overflow. */
    t->size = (size_t)(count / (uint64_t)ks_type_block(t->type)) *
              ks_type_size(t->type);
done:
    return st;
}

/* ---------------------------------------------------------------- indexing */

static int by_name(const void *a, const void *b) {
    const ks_gguf_tensor *const *p = a, *const *q = b;
    return strcmp((*p)->name, (*q)->name);
}

static ks_status read_pairs(ks_gguf *g, cursor *c, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(g->n_pairs <= (c->size - c->at) / MIN_PAIR, KS_FORMAT,
             "%s: claims %" PRIu64 " metadata pairs, more than its %zu bytes "
             "can hold",
             g->path, g->n_pairs, c->size);
    KS_TRY(ks_alloc(&g->pairs, g->n_pairs, sizeof *g->pairs, "GGUF metadata",
                    err));
    for (uint64_t i = 0; i < g->n_pairs; i++)
        KS_TRY(take_pair(c, &g->pairs[i], err));
    if (g->n_pairs)
        qsort(g->pairs, g->n_pairs, sizeof *g->pairs, ks__gguf_by_key);
    for (uint64_t i = 1; i < g->n_pairs; i++)
        KS_CHECK(ks__gguf_by_key(&g->pairs[i - 1], &g->pairs[i]) != 0,
                 KS_FORMAT, "%s: metadata key '%.*s' is there twice", g->path,
                 (int)KS_MIN(g->pairs[i].key_length, 100), g->pairs[i].key);
done:
    return st;
}

/* Checks every tensor's byte range once the place of the data is known. */
static ks_status place_tensors(ks_gguf *g, const cursor *c,
                               const uint64_t *offsets, ks_err *err) {
    ks_status st = KS_OK;
    uint64_t start = (c->at + g->alignment - 1) / g->alignment * g->alignment;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        ks_gguf_tensor *t = &g->tensors[i];
        KS_CHECK(offsets[i] % g->alignment == 0, KS_FORMAT,
                 "%s: tensor '%s' lies at offset %" PRIu64 ", not a multiple "
                 "of the alignment %" PRIu64,
                 g->path, t->name, offsets[i], g->alignment);
        KS_CHECK(start <= c->size && offsets[i] <= c->size - start &&
                     t->size <= c->size - start - offsets[i],
                 KS_FORMAT,
                 "%s: tensor '%s' needs %zu bytes at offset %" PRIu64 " of "
                 "the data, which starts at byte %" PRIu64 ", but the file "
                 "ends at %zu",
                 g->path, t->name, t->size, offsets[i], start, c->size);
        t->data = c->data + start + offsets[i];
    }
done:
    return st;
}

static ks_status read_tensors(ks_gguf *g, cursor *c, ks_err *err) {
    ks_status st = KS_OK;
    uint64_t *offsets = NULL;
    KS_CHECK(g->n_tensors <= (c->size - c->at) / MIN_TENSOR, KS_FORMAT,
             "%s: claims %" PRIu64 " tensors, more than its %zu bytes can "
             "hold",
             g->path, g->n_tensors, c->size);
    KS_TRY(ks_alloc(&g->tensors, g->n_tensors, sizeof *g->tensors,
                    "GGUF tensor table", err));
    KS_TRY(ks_alloc(&g->sorted, g->n_tensors, sizeof *g->sorted,
                    "GGUF tensor table", err));
    KS_TRY(ks_alloc(&offsets, g->n_tensors, sizeof *offsets,
                    "GGUF tensor table", err));
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        KS_TRY(take_tensor(c, &g->tensors[i], &offsets[i], err));
        g->sorted[i] = &g->tensors[i];
    }
    KS_TRY(place_tensors(g, c, offsets, err));
    if (g->n_tensors)
        qsort(g->sorted, g->n_tensors, sizeof *g->sorted, by_name);
    for (uint64_t i = 1; i < g->n_tensors; i++)
        KS_CHECK(strcmp(g->sorted[i - 1]->name, g->sorted[i]->name) != 0,
                 KS_FORMAT, "%s: tensor '%s' is there twice", g->path,
                 g->sorted[i]->name);
done:
    free(offsets);
    return st;
}

static ks_status read_alignment(ks_gguf *g, ks_err *err) {
    int64_t value = DEFAULT_ALIGNMENT;
    bool found;
    ks_status st = ks_gguf_int(g, "general.alignment", &value, &found, err);
    if (st != KS_OK) return st;
    /* At least 4, so that mapped f32 can be read in place. */
    if (value < 4 || value > MAX_ALIGNMENT || (value & (value - 1)))
        return ks_fail(err, KS_FORMAT,
                       "%s: general.alignment is %" PRId64 ", expected a "
                       "power of two from 4 to %d",
                       g->path, value, MAX_ALIGNMENT);
    g->alignment = (uint64_t)value;
    return KS_OK;
}

static ks_status read_header(ks_gguf *g, cursor *c, ks_err *err) {
    ks_status st = KS_OK;
    char magic[4] = "";
    uint32_t version = 0;
    KS_TRY(take(c, magic, 4, "the magic", err));
    KS_CHECK(memcmp(magic, "GGUF", 4) == 0, KS_FORMAT,
             "%s: not a GGUF file: it does not begin with 'GGUF'", g->path);
    KS_TRY(take(c, &version, 4, "the version", err));
    KS_CHECK(!version || (version & 0xffff), KS_UNSUPPORTED,
             "%s: a big-endian GGUF file, which is not supported", g->path);
    KS_CHECK(version == 2 || version == 3, KS_UNSUPPORTED,
             "%s: GGUF version %u, expected 2 or 3", g->path, version);
    KS_TRY(take(c, &g->n_tensors, 8, "the number of tensors", err));
    KS_TRY(take(c, &g->n_pairs, 8, "the number of metadata pairs", err));
done:
    return st;
}

ks_status ks_gguf_open(ks_gguf **out, const char *path, ks_err *err) {
    ks_status st = KS_OK;
    ks_gguf *g = NULL;
    *out = NULL;
    KS_TRY(ks_alloc(&g, 1, sizeof *g, "a GGUF reader", err));
    g->path = strdup(path);
    KS_CHECK(g->path, KS_NOMEM, "%s: no memory for its name", path);
    KS_TRY(ks_map_open(&g->map, path, err));
    cursor c = {.path = g->path, .data = g->map.data, .size = g->map.size};
    KS_TRY(read_header(g, &c, err));
    KS_TRY(read_pairs(g, &c, err));
    KS_TRY(read_alignment(g, err));
    KS_TRY(read_tensors(g, &c, err));
    *out = g;
    g = NULL;
done:
    ks_gguf_close(&g);
    return st;
}

void ks_gguf_close(ks_gguf **gguf) {
    ks_gguf *g = *gguf;
    if (!g) return;
    ks_map_close(&g->map);
    free(g->path);
    free(g->pairs);
    free(g->tensors);
    free(g->sorted);
    free(g);
    *gguf = NULL;
}

bool ks_gguf_is(const char *path) {
    char magic[4] = {0};
    FILE *f = fopen(path, "rb");
    if (!f) return false;
    bool is = fread(magic, 1, 4, f) == 4 && memcmp(magic, "GGUF", 4) == 0;
    fclose(f);
    return is;
}

const char *ks_gguf_path(const ks_gguf *gguf) {
    return gguf->path;
}

/* ----------------------------------------------------------------- tensors */

uint64_t ks_gguf_n_tensors(const ks_gguf *g) {
    return g->n_tensors;
}

const ks_gguf_tensor *ks_gguf_tensor_at(const ks_gguf *g, uint64_t i) {
    return i < g->n_tensors ? &g->tensors[i] : NULL;
}

static int against_name(const void *key, const void *b) {
    const ks_gguf_tensor *const *q = b;
    return strcmp(key, (*q)->name);
}

const ks_gguf_tensor *ks_gguf_tensor_find(const ks_gguf *g, const char *name) {
    if (!g->n_tensors) return NULL;
    const ks_gguf_tensor *const *hit =
        bsearch(name, g->sorted, g->n_tensors, sizeof *g->sorted, against_name);
    return hit ? *hit : NULL;
}

ks_map ks_gguf_map(const ks_gguf *g) {
    return g->map;
}

ks_map ks_gguf_take_map(ks_gguf *g) {
    ks_map map = g->map;
    g->map = (ks_map){0};
    return map;
}
