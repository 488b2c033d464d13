/* gguf_pairs.c - metadata of a GGUF file by key, as types. */
#include "gguf_pairs.h"

#include <string.h>

const uint8_t ks__gguf_scalar_size[V_COUNT] = {
    [V_U8] = 1,  [V_I8] = 1,  [V_U16] = 2, [V_I16] = 2,
    [V_U32] = 4, [V_I32] = 4, [V_F32] = 4, [V_BOOL] = 1,
    [V_U64] = 8, [V_I64] = 8, [V_F64] = 8};

static const char *const value_name[V_COUNT] = {
    "u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
    "bool", "string", "array", "u64", "i64", "f64"};

static int compare_keys(const char *a, size_t na, const char *b, size_t nb) {
    int order = memcmp(a, b, KS_MIN(na, nb));
    return order ? order : (na > nb) - (na < nb);
}

int ks__gguf_by_key(const void *a, const void *b) {
    const ks__gguf_pair *p = a, *q = b;
    return compare_keys(p->key, p->key_length, q->key, q->key_length);
}

static const ks__gguf_pair *find_pair(const ks_gguf *g, const char *key) {
    ks__gguf_pair want = {.key = key, .key_length = (uint32_t)strlen(key)};
    if (!g->n_pairs) return NULL;
    return bsearch(&want, g->pairs, g->n_pairs, sizeof want, ks__gguf_by_key);
}

static ks_status wrong_type(const char *path, const char *key, size_t n,
                            const char *expected, uint32_t type, ks_err *err) {
    return ks_fail(err, KS_FORMAT,
                   "%s: metadata '%.*s' is of type %s, expected %s", path,
                   (int)KS_MIN(n, 100), key, value_name[type], expected);
}

/* A scalar that is an integer or a bool, at `at`. */
static bool load_int(uint32_t type, const uint8_t *at, int64_t *value) {
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } v;
    if (type >= V_COUNT) return false;
    memcpy(&v, at, ks__gguf_scalar_size[type]);
    switch (type) {
    case V_U8:
        *value = v.u8;
        return true;
    case V_I8:
        *value = v.i8;
        return true;
    case V_U16:
        *value = v.u16;
        return true;
    case V_I16:
        *value = v.i16;
        return true;
    case V_U32:
        *value = v.u32;
        return true;
    case V_I32:
        *value = v.i32;
        return true;
    case V_BOOL:
        *value = v.u8 != 0;
        return true;
    case V_I64:
        *value = v.i64;
        return true;
    case V_U64:
        *value = (int64_t)v.u64;
        return v.u64 <= INT64_MAX;
    default:
        return false;
    }
}

static bool load_float(uint32_t type, const uint8_t *at, double *value) {
    float f;
    int64_t i;
    if (type == V_F32) {
        memcpy(&f, at, sizeof f);
        *value = (double)f;
        return true;
    }
    if (type == V_F64) {
        memcpy(value, at, sizeof *value);
        return true;
    }
    if (type == V_BOOL || !load_int(type, at, &i)) return false;
    *value = (double)i;
    return true;
}

ks_status ks_gguf_string(const ks_gguf *g, const char *key, const char **s,
                         size_t *n, bool *found, ks_err *err) {
    const ks__gguf_pair *p = find_pair(g, key);
    uint64_t length;
    *found = p != NULL;
    if (!p) return KS_OK;
    if (p->type != V_STRING)
        return wrong_type(g->path, key, strlen(key), "a string", p->type, err);
    memcpy(&length, p->value, 8);
    *n = (size_t)length;
    *s = (const char *)p->value + 8;
    return KS_OK;
}

ks_status ks_gguf_int(const ks_gguf *g, const char *key, int64_t *value,
                      bool *found, ks_err *err) {
    const ks__gguf_pair *p = find_pair(g, key);
    *found = p != NULL;
    if (!p || load_int(p->type, p->value, value)) return KS_OK;
    return wrong_type(g->path, key, strlen(key), "an integer below 2^63",
                      p->type, err);
}

ks_status ks_gguf_float(const ks_gguf *g, const char *key, double *value,
                        bool *found, ks_err *err) {
    const ks__gguf_pair *p = find_pair(g, key);
    *found = p != NULL;
    if (!p || load_float(p->type, p->value, value)) return KS_OK;
    return wrong_type(g->path, key, strlen(key), "a number", p->type, err);
}

ks_status ks_gguf_array_open(const ks_gguf *g, const char *key,
                             ks_gguf_array *array, uint64_t *n, bool *found,
                             ks_err *err) {
    const ks__gguf_pair *p = find_pair(g, key);
    *found = p != NULL;
    *n = 0;
    if (!p) return KS_OK;
    if (p->type != V_ARRAY)
        return wrong_type(g->path, key, strlen(key), "an array", p->type, err);
    memcpy(&array->type, p->value, 4);
    memcpy(n, p->value + 4, 8);
    array->at = p->value + 12;
    array->end = g->map.data + g->map.size;
    array->left = *n;
    array->path = g->path;
    array->key = p->key;
    array->key_length = p->key_length;
    return KS_OK;
}

/* The walk at open has passed every element, so only the caller's own
 * mistakes (too many calls, another type) are left to find here. */
static ks_status next_of(ks_gguf_array *a, const char *expected, bool fits,
                         ks_err *err) {
    int n = (int)KS_MIN(a->key_length, 100);
    if (a->left == 0)
        return ks_fail(err, KS_FORMAT,
                       "%s: metadata '%.*s' has no further "
                       "element, expected %s",
                       a->path, n, a->key, expected);
    if (!fits)
        return ks_fail(err, KS_FORMAT,
                       "%s: metadata '%.*s' is an array of %s, expected %s",
                       a->path, n, a->key, value_name[a->type], expected);
    a->left--;
    return KS_OK;
}

ks_status ks_gguf_next_string(ks_gguf_array *a, const char **s, size_t *n,
                              ks_err *err) {
    uint64_t length;
    ks_status st = next_of(a, "strings", a->type == V_STRING, err);
    if (st != KS_OK) return st;
    memcpy(&length, a->at, 8);
    *s = (const char *)a->at + 8;
    *n = (size_t)length;
    a->at += 8 + length;
    return KS_OK;
}

ks_status ks_gguf_next_int(ks_gguf_array *a, int64_t *value, ks_err *err) {
    bool fits = a->left == 0 || load_int(a->type, a->at, value);
    ks_status st = next_of(a, "integers below 2^63", fits, err);
    if (st == KS_OK) a->at += ks__gguf_scalar_size[a->type];
    return st;
}

ks_status ks_gguf_next_float(ks_gguf_array *a, double *value, ks_err *err) {
    bool fits = a->left == 0 || load_float(a->type, a->at, value);
    ks_status st = next_of(a, "numbers", fits, err);
    if (st == KS_OK) a->at += ks__gguf_scalar_size[a->type];
    return st;
}
