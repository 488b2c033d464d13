/* gguf.h - reader of GGUF v2 and v3: metadata and tensor table, every offset
 * and length checked against the file before it is used. */
#ifndef KS_GGUF_H
#define KS_GGUF_H

#include "base.h"

typedef struct ks_gguf ks_gguf;

typedef struct ks_gguf_tensor {
    char name[128];
    ks_type type;
    int32_t n_dims;
    int64_t dims[4]; /* as in the file: dims[0] runs fastest */
    const void *data;
    size_t size;
} ks_gguf_tensor;

ks_status ks_gguf_open(ks_gguf **out, const char *path, ks_err *err);
void ks_gguf_close(ks_gguf **gguf);
bool ks_gguf_is(const char *path); /* by magic */
const char *ks_gguf_path(const ks_gguf *gguf);

/* Typed metadata; found says whether the key is there (a key of another type
 * is an error). Strings are not NUL-terminated and borrowed from the map. */
ks_status ks_gguf_string(const ks_gguf *, const char *key, const char **s,
                         size_t *n, bool *found, ks_err *err);
ks_status ks_gguf_int(const ks_gguf *, const char *key, int64_t *value,
                      bool *found, ks_err *err); /* any integer or bool */
ks_status ks_gguf_float(const ks_gguf *, const char *key, double *value,
                        bool *found, ks_err *err);
/* Arrays: walked by index through an iterator, strings borrowed. */
typedef struct ks_gguf_array {
    const uint8_t *at, *end;
    uint32_t type; /* GGUF's own code */
    uint64_t left;
    const char *path, *key; /* for messages; key is not NUL-terminated */
    size_t key_length;
} ks_gguf_array;
ks_status ks_gguf_array_open(const ks_gguf *, const char *key,
                             ks_gguf_array *array, uint64_t *n, bool *found,
                             ks_err *err);
ks_status ks_gguf_next_string(ks_gguf_array *, const char **s, size_t *n,
                              ks_err *err);
ks_status ks_gguf_next_int(ks_gguf_array *, int64_t *value, ks_err *err);
ks_status ks_gguf_next_float(ks_gguf_array *, double *value, ks_err *err);

uint64_t ks_gguf_n_tensors(const ks_gguf *);
const ks_gguf_tensor *ks_gguf_tensor_at(const ks_gguf *, uint64_t i);
const ks_gguf_tensor *ks_gguf_tensor_find(const ks_gguf *, const char *name);
/* The mapping, for hashing and for models that keep it. */
ks_map ks_gguf_map(const ks_gguf *);
/* Hands the mapping over: the caller unmaps it with ks_map_close, after which
 * no pointer from this reader holds; call ks_gguf_close next. */
ks_map ks_gguf_take_map(ks_gguf *);

#endif
