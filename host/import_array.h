/* import_array.h - arrays of numbers that other programs wrote: one data set of
 * an .npy, .safetensors or HDF5 file, mapped where it lies. Every file is
 * hostile: header, shape and type are held against the file's size before a
 * value is touched, and of HDF5 the library reads the structure alone. */
#ifndef KS_IMPORT_ARRAY_H
#define KS_IMPORT_ARRAY_H

#include "base.h"

enum { KS_ARRAY_DIMS = 4 };

typedef enum ks_number {
    KS_NUMBER_F16,
    KS_NUMBER_BF16,
    KS_NUMBER_F32,
    KS_NUMBER_F64,
    KS_NUMBER_I32,
    KS_NUMBER_I64
} ks_number;

typedef struct ks_array {
    ks_number type;
    int n_dims;
    int64_t dims[KS_ARRAY_DIMS]; /* the last runs fastest */
    const uint8_t *data;         /* aligned to nothing, little-endian */
    void *owner; /* of the bytes: a map or an open file; kind says which */
    int kind;
} ks_array;

/* The kind of file is told by its suffix: .npy, .safetensors, .h5 or .hdf5.
 * name: of the tensor or data set; NULL: the only one that there is (an .npy
 * has one, without a name). bf16: 16-bit whole numbers of an .npy are the upper
 * halves of f32. KS_USAGE where a name is missing or bf16 does not fit,
 * KS_FORMAT where the file is not what it says. A failed call leaves {0}. */
ks_status ks_array_open(ks_array *out, const char *path, const char *name,
                        bool bf16, ks_err *err);
/* Another one of the same safetensors or HDF5 file, or KS_OK with *there false
 * where it has none of that name. Its owner is the first one's. */
ks_status ks_array_beside(const ks_array *array, const char *path,
                          const char *name, ks_array *out, bool *there,
                          ks_err *err);
void ks_array_close(ks_array *array);

static inline size_t ks_number_size(ks_number type) {
    return type <= KS_NUMBER_BF16                           ? 2
           : type == KS_NUMBER_F32 || type == KS_NUMBER_I32 ? 4
                                                            : 8;
}
const char *ks_number_name(ks_number type);
bool ks_number_is_real(ks_number type);
/* n values from element `at` on, `stride` elements apart, to f32 (an f64 is
 * rounded). */
void ks_array_read(const ks_array *array, int64_t at, int64_t stride, int64_t n,
                   float *out);
/* One whole number. */
int64_t ks_array_integer(const ks_array *array, int64_t at);

#endif
