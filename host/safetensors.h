/* safetensors.h - reader of .safetensors files, one or many behind an index:
 * every name, shape and byte range checked against the file before use; and
 * what stands ahead of the data in files that we write. */
#ifndef KS_SAFETENSORS_H
#define KS_SAFETENSORS_H

#include "base.h"

/* The format knows types that we do not compute with (F64, I64, F8_E4M3...):
 * such tensors are listed, their type is KS_N_TYPES. */
typedef struct ks_st_tensor {
    char *name;
    ks_type type;
    char dtype[16];   /* the file's word for the type */
    int32_t n_dims;   /* may exceed 4; then dims holds the first 4 */
    int64_t dims[4];  /* as in the file: the last runs fastest */
    const void *data; /* aligned to nothing */
    size_t size;
    int32_t file; /* which file it lies in */
} ks_st_tensor;

typedef struct ks_safetensors ks_safetensors;

/* path: a .safetensors file, or a model.safetensors.index.json whose shards
 * lie in the same folder (a name that leads elsewhere is refused). */
ks_status ks_safetensors_open(ks_safetensors **out, const char *path,
                              ks_err *err);
void ks_safetensors_close(ks_safetensors **safetensors);
const char *ks_safetensors_path(const ks_safetensors *safetensors);

/* Sorted by name. */
size_t ks_safetensors_n(const ks_safetensors *safetensors);
const ks_st_tensor *ks_safetensors_at(const ks_safetensors *safetensors,
                                      size_t i);
const ks_st_tensor *ks_safetensors_find(const ks_safetensors *safetensors,
                                        const char *name);
/* "__metadata__" of a single file, borrowed; NULL where it has none. Whatever
 * it holds is the file's word. */
json_t *ks_safetensors_metadata(const ks_safetensors *safetensors);
/* The file that a tensor lies in, for messages. */
const char *ks_safetensors_file(const ks_safetensors *safetensors,
                                int32_t file);

/* Hands the mappings over, files in order of name: the caller unmaps each and
 * frees the array; call ks_safetensors_close next. */
void ks_safetensors_take_maps(ks_safetensors *safetensors, ks_map **maps,
                              size_t *n);

/* ----------------------------------------------------------------- writing */

/* A tensor of `rank` dims [shape] in the header; *at, its place in the data,
 * moves behind it. */
ks_status ks_safetensors_add(json_t *header, const char *name,
                             const char *dtype, const int64_t *shape, int rank,
                             size_t bytes, size_t *at, const char *path,
                             ks_err *err);
/* Adds what the file begins with: 8 bytes of length, the header padded with
 * blanks to a multiple of 8 (github.com/huggingface/safetensors, "Format"). */
ks_status ks_safetensors_begin(ks_str *out, const json_t *header,
                               const char *path, ks_err *err);

#endif
