/* acts_h5.c - the HDF5 library held at arm's length: one thread at a time,
 * its errors as sentences, its ids closed by one call. */
#include "acts_format.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TEXT = 1 << 20 }; /* bytes of an attribute */

static pthread_mutex_t library = PTHREAD_MUTEX_INITIALIZER;

void ks__h5_enter(ks__h5 *was) {
    pthread_mutex_lock(&library);
    H5Eget_auto2(H5E_DEFAULT, &was->report, &was->data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void ks__h5_leave(const ks__h5 *was) {
    H5Eset_auto2(H5E_DEFAULT, was->report, was->data);
    pthread_mutex_unlock(&library);
}

static herr_t innermost(unsigned n, const H5E_error2_t *entry, void *text) {
    if (n == 0 && entry->desc) snprintf(text, 256, "%s", entry->desc);
    return 0;
}

ks_status ks__h5_fail(ks_err *err, const char *path, const char *doing) {
    char reason[256] = "the HDF5 library gave no reason";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, reason);
    return ks_fail(err, KS_FORMAT, "%s: cannot %s: %s", path, doing, reason);
}

void ks__h5_drop(hid_t *id) {
    if (*id >= 0) H5Idec_ref(*id);
    *id = -1;
}

/* bf16 as HDF5 describes it: sign at bit 15, 8 bits of exponent from bit 7, 7
 * of mantissa from bit 0, bias 127. The fields must be narrowed before the
 * size, and the bias set last, or the library refuses the steps between. */
static hid_t bf16_type(void) {
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (type < 0) return type;
    if (H5Tset_fields(type, 15, 7, 8, 0, 7) < 0 || H5Tset_size(type, 2) < 0 ||
        H5Tset_ebias(type, 127) < 0)
        ks__h5_drop(&type);
    return type;
}

/* IEEE half precision; the 1.10 library has no predefined type for it. */
static hid_t f16_type(void) {
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (type < 0) return type;
    if (H5Tset_fields(type, 15, 10, 5, 0, 10) < 0 || H5Tset_size(type, 2) < 0 ||
        H5Tset_ebias(type, 15) < 0)
        ks__h5_drop(&type);
    return type;
}

hid_t ks__h5_type(ks_type type) {
    switch (type) {
    case KS_BF16:
        return bf16_type();
    case KS_F16:
        return f16_type();
    default:
        return H5Tcopy(H5T_IEEE_F32LE);
    }
}

ks_status ks__h5_text(hid_t at, const char *path, const char *name,
                      const char *expected, char **out, ks_err *err) {
    ks_status st = KS_OK;
    hid_t attribute = -1, type = -1, space = -1, memory = -1;
    char *variable = NULL;
    *out = NULL;
    attribute = H5Aopen(at, name, H5P_DEFAULT);
    KS_CHECK(attribute >= 0, KS_FORMAT,
             "%s: has no attribute '%s'; expected %s of keystep", path, name,
             expected);
    type = H5Aget_type(attribute);
    space = H5Aget_space(attribute);
    KS_CHECK(type >= 0 && H5Tget_class(type) == H5T_STRING &&
                 H5Sget_simple_extent_npoints(space) == 1,
             KS_FORMAT, "%s: attribute '%s' is not one string", path, name);
    memory = H5Tcopy(type);
    if (H5Tis_variable_str(type) > 0) {
        if (H5Aread(attribute, memory, &variable) < 0)
            KS_TRY(ks__h5_fail(err, path, "read an attribute"));
        KS_CHECK(variable, KS_FORMAT, "%s: attribute '%s' is a null string",
                 path, name);
        *out = strdup(variable);
        KS_CHECK(*out, KS_NOMEM, "out of memory for an attribute");
    } else {
        size_t n = H5Tget_size(type);
        KS_CHECK(n <= MAX_TEXT, KS_FORMAT, "%s: attribute '%s' has %zu bytes",
                 path, name, n);
        KS_TRY(ks_alloc(out, n + 1, 1, "an attribute", err));
        if (H5Aread(attribute, memory, *out) < 0)
            KS_TRY(ks__h5_fail(err, path, "read an attribute"));
    }
done:
    if (variable) H5free_memory(variable);
    if (st != KS_OK) {
        free(*out);
        *out = NULL;
    }
    ks__h5_drop(&memory);
    ks__h5_drop(&space);
    ks__h5_drop(&type);
    ks__h5_drop(&attribute);
    return st;
}
