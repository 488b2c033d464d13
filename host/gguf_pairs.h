/* gguf_pairs.h - what the walk of a GGUF file (gguf.c) and its metadata
 * (gguf_pairs.c) share. Internal. */
#ifndef KS_GGUF_PAIRS_H
#define KS_GGUF_PAIRS_H

#include "gguf.h"

/* GGUF's codes of metadata values. */
enum {
    V_U8,
    V_I8,
    V_U16,
    V_I16,
    V_U32,
    V_I32,
    V_F32,
    V_BOOL,
    V_STRING,
    V_ARRAY,
    V_U64,
    V_I64,
    V_F64,
    V_COUNT
};

/* Bytes of a scalar; 0: no scalar. */
extern const uint8_t ks__gguf_scalar_size[V_COUNT];

typedef struct ks__gguf_pair {
    const char *key;
    uint32_t key_length;
    uint32_t type;
    const uint8_t *value; /* after the type code */
} ks__gguf_pair;

struct ks_gguf {
    char *path;
    ks_map map;
    ks__gguf_pair *pairs; /* sorted by key */
    uint64_t n_pairs;
    ks_gguf_tensor *tensors;       /* in file order */
    const ks_gguf_tensor **sorted; /* by name */
    uint64_t n_tensors;
    uint64_t alignment;
};

/* For qsort and bsearch over pairs. */
int ks__gguf_by_key(const void *a, const void *b);

#endif
