/* import_array.c - see import_array.h. */
#include "import_array.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "acts_format.h"
#include "half.h"
#include "safetensors.h"

enum { NPY = 1, SAFETENSORS, HDF5 };
enum { MAX_HEADER = 1 << 16 };

const char *ks_number_name(ks_number type) {
    static const char *const names[] = {"f16", "bf16", "f32",
                                        "f64", "i32",  "i64"};
    return (size_t)type < KS_COUNT(names) ? names[type] : "?";
}

bool ks_number_is_real(ks_number type) {
    return type <= KS_NUMBER_F64;
}

/* Bytes of the array, UINT64_MAX: more than can be. */
static uint64_t bytes_of(const ks_array *a) {
    uint64_t n = ks_number_size(a->type);
    for (int i = 0; i < a->n_dims; i++)
        if (__builtin_mul_overflow(n, (uint64_t)a->dims[i], &n))
            return UINT64_MAX;
    return n;
}

/* ---------------------------------------------------------------------- npy */

/* A cursor over the header's text, a Python dictionary. */
typedef struct header {
    const char *at, *end;
} header;

static void skip_blanks(header *h) {
    while (h->at < h->end && (*h->at == ' ' || *h->at == '\n')) h->at++;
}

static bool take(header *h, char c) {
    skip_blanks(h);
    if (h->at == h->end || *h->at != c) return false;
    h->at++;
    return true;
}

/* A quoted word without escapes. */
static bool take_word(header *h, char *out, size_t size) {
    skip_blanks(h);
    if (h->at == h->end || (*h->at != '\'' && *h->at != '"')) return false;
    char quote = *h->at++;
    size_t n = 0;
    while (h->at < h->end && *h->at != quote && n + 1 < size)
        out[n++] = *h->at++;
    out[n] = 0;
    return take(h, quote);
}

static bool take_name(header *h, const char *name) {
    size_t n = strlen(name);
    skip_blanks(h);
    if ((size_t)(h->end - h->at) < n || memcmp(h->at, name, n) != 0)
        return false;
    h->at += n;
    return true;
}

static bool take_whole(header *h, int64_t *out) {
    skip_blanks(h);
    if (h->at == h->end || !isdigit((unsigned char)*h->at)) return false;
    for (*out = 0; h->at < h->end && isdigit((unsigned char)*h->at); h->at++) {
        if (*out > INT64_MAX / 100) return false;
        *out = *out * 10 + (*h->at - '0');
    }
    return true;
}

/* (), (3,), (3, 4) */
static bool take_shape(header *h, ks_array *a) {
    if (!take(h, '(')) return false;
    while (!take(h, ')')) {
        if (a->n_dims == KS_ARRAY_DIMS || !take_whole(h, &a->dims[a->n_dims++]))
            return false;
        if (take(h, ',')) continue;
        return take(h, ')');
    }
    return true;
}

typedef struct npy_header {
    char descr[16];
    bool fortran, seen[3];
} npy_header;

static bool take_member(header *h, npy_header *n, ks_array *a) {
    char key[32];
    if (!take_word(h, key, sizeof key) || !take(h, ':')) return false;
    if (strcmp(key, "descr") == 0 && !n->seen[0]) {
        n->seen[0] = true;
        return take_word(h, n->descr, sizeof n->descr);
    }
    if (strcmp(key, "fortran_order") == 0 && !n->seen[1]) {
        n->seen[1] = true;
        n->fortran = take_name(h, "True");
        return n->fortran || take_name(h, "False");
    }
    if (strcmp(key, "shape") == 0 && !n->seen[2]) {
        n->seen[2] = true;
        return take_shape(h, a);
    }
    return false;
}

static bool read_header(header h, npy_header *n, ks_array *a) {
    if (!take(&h, '{')) return false;
    while (!take(&h, '}')) {
        if (!take_member(&h, n, a)) return false;
        if (take(&h, ',')) continue;
        if (!take(&h, '}')) return false;
        break;
    }
    skip_blanks(&h);
    return h.at == h.end && n->seen[0] && n->seen[1] && n->seen[2];
}

static ks_status npy_type(const char *path, const char *descr, bool bf16,
                          ks_number *out, ks_err *err) {
    static const struct {
        const char *descr;
        ks_number type;
    } types[] = {{"<f2", KS_NUMBER_F16},
                 {"<f4", KS_NUMBER_F32},
                 {"<f8", KS_NUMBER_F64},
                 {"<i4", KS_NUMBER_I32},
                 {"<i8", KS_NUMBER_I64}};
    ks_status st = KS_OK;
    /* how numpy writes bfloat16 of ml_dtypes; 16-bit words as such */
    bool words = strcmp(descr, "<u2") == 0 || strcmp(descr, "|V2") == 0 ||
                 strcmp(descr, "<V2") == 0;
    KS_CHECK(words || !bf16, KS_USAGE,
             "%s: its numbers are '%s'; --bf16 is for 16-bit words (<u2, V2)",
             path, descr);
    KS_CHECK(!words || bf16, KS_USAGE,
             "%s: its numbers are 16-bit words '%s'; --bf16 reads them as the "
             "upper halves of f32",
             path, descr);
    *out = KS_NUMBER_BF16;
    if (words) return KS_OK;
    for (size_t i = 0; i < KS_COUNT(types); i++)
        if (strcmp(descr, types[i].descr) == 0) {
            *out = types[i].type;
            return KS_OK;
        }
    KS_CHECK(false, KS_FORMAT,
             "%s: its numbers are '%.15s', expected <f2, <f4 or <f8", path,
             descr);
done:
    return st;
}

static ks_status read_npy(ks_array *a, const char *path, const ks_map *map,
                          bool bf16, ks_err *err) {
    ks_status st = KS_OK;
    npy_header n = {{0}, false, {false}};
    size_t length = 0, from = 0;
    KS_CHECK(map->size >= 12 && memcmp(map->data, "\x93NUMPY", 6) == 0,
             KS_FORMAT, "%s: does not begin as an .npy file does", path);
    int major = map->data[6];
    KS_CHECK(major >= 1 && major <= 3, KS_FORMAT,
             "%s: version %d of .npy, expected 1 to 3", path, major);
    from = major == 1 ? 10 : 12;
    for (size_t i = 8; i < from; i++)
        length |= (size_t)map->data[i] << 8 * (i - 8);
    KS_CHECK(length <= MAX_HEADER && length <= map->size - from, KS_FORMAT,
             "%s: says that its header has %zu bytes; the file has %zu, and a "
             "header at most %d",
             path, length, map->size, MAX_HEADER);
    header h = {(const char *)map->data + from,
                (const char *)map->data + from + length};
    KS_CHECK(read_header(h, &n, a), KS_FORMAT,
             "%s: its header is not a dictionary of descr, fortran_order and a "
             "shape of at most %d dimensions",
             path, KS_ARRAY_DIMS);
    KS_TRY(npy_type(path, n.descr, bf16, &a->type, err));
    KS_CHECK(!n.fortran, KS_USAGE,
             "%s: is in Fortran's order; numpy.ascontiguousarray gives the "
             "order that is read",
             path);
    a->data = map->data + from + length;
    size_t room = map->size - from - length;
    KS_CHECK(bytes_of(a) == room, KS_FORMAT,
             "%s: its shape takes %llu bytes, behind the header are %zu", path,
             (unsigned long long)bytes_of(a), room);
done:
    return st;
}

static ks_status open_npy(ks_array *a, const char *path, const char *name,
                          bool bf16, ks_err *err) {
    ks_status st = KS_OK;
    ks_map *map = NULL;
    KS_CHECK(!name, KS_USAGE, "%s: an .npy file has no name to choose by",
             path);
    KS_TRY(ks_alloc(&map, 1, sizeof *map, "a file", err));
    a->owner = map;
    a->kind = NPY;
    KS_TRY(ks_map_open(map, path, err));
    KS_TRY(read_npy(a, path, map, bf16, err));
done:
    return st;
}

/* -------------------------------------------------------------- safetensors */

static ks_status from_tensor(ks_array *a, const char *path,
                             const ks_st_tensor *t, ks_err *err) {
    static const struct {
        const char *dtype;
        ks_number type;
    } types[] = {{"F16", KS_NUMBER_F16}, {"BF16", KS_NUMBER_BF16},
                 {"F32", KS_NUMBER_F32}, {"F64", KS_NUMBER_F64},
                 {"I32", KS_NUMBER_I32}, {"I64", KS_NUMBER_I64}};
    ks_status st = KS_OK;
    size_t k = 0;
    while (k < KS_COUNT(types) && strcmp(types[k].dtype, t->dtype) != 0) k++;
    KS_CHECK(k < KS_COUNT(types), KS_FORMAT,
             "%s: tensor '%s' is of type %s, expected F16, BF16, F32 or F64",
             path, t->name, t->dtype);
    KS_CHECK(t->n_dims <= KS_ARRAY_DIMS, KS_FORMAT,
             "%s: tensor '%s' has %d dimensions, expected at most %d", path,
             t->name, t->n_dims, KS_ARRAY_DIMS);
    a->type = types[k].type;
    a->n_dims = t->n_dims;
    for (int i = 0; i < t->n_dims; i++) a->dims[i] = t->dims[i];
    a->data = t->data;
    KS_CHECK(bytes_of(a) == t->size, KS_FORMAT,
             "%s: tensor '%s' has %zu bytes, its shape takes %llu", path,
             t->name, t->size, (unsigned long long)bytes_of(a));
done:
    return st;
}

static ks_status open_tensor(ks_array *a, const char *path, const char *name,
                             ks_err *err) {
    ks_status st = KS_OK;
    ks_safetensors *s = NULL;
    KS_TRY(ks_safetensors_open(&s, path, err));
    a->owner = s;
    a->kind = SAFETENSORS;
    KS_CHECK(name || ks_safetensors_n(s) == 1, KS_USAGE,
             "%s: has %zu tensors; --tensor names one", path,
             ks_safetensors_n(s));
    const ks_st_tensor *t =
        name ? ks_safetensors_find(s, name) : ks_safetensors_at(s, 0);
    KS_CHECK(t, KS_USAGE, "%s: has no tensor '%s'", path, name);
    KS_TRY(from_tensor(a, path, t, err));
done:
    return st;
}

/* --------------------------------------------------------------------- HDF5 */

/* Little-endian IEEE numbers, our bf16, and whole ones. */
static bool h5_number(hid_t type, ks_number *out) {
    hid_t bf16 = ks__h5_type(KS_BF16);
    hid_t f16 = ks__h5_type(KS_F16);
    bool good = true;
    if (H5Tequal(type, H5T_IEEE_F32LE) > 0)
        *out = KS_NUMBER_F32;
    else if (H5Tequal(type, H5T_IEEE_F64LE) > 0)
        *out = KS_NUMBER_F64;
    else if (H5Tequal(type, f16) > 0)
        *out = KS_NUMBER_F16;
    else if (H5Tequal(type, bf16) > 0)
        *out = KS_NUMBER_BF16;
    else if (H5Tequal(type, H5T_STD_I32LE) > 0)
        *out = KS_NUMBER_I32;
    else if (H5Tequal(type, H5T_STD_I64LE) > 0)
        *out = KS_NUMBER_I64;
    else
        good = false;
    ks__h5_drop(&f16);
    ks__h5_drop(&bf16);
    return good;
}

/* Inside ks__h5_enter. */
static ks_status from_set(ks_array *a, const char *path, const char *name,
                          hid_t set, const ks_map *map, ks_err *err) {
    ks_status st = KS_OK;
    hid_t space = H5Dget_space(set), type = H5Dget_type(set);
    hid_t how = H5Dget_create_plist(set);
    hsize_t extent[H5S_MAX_RANK];
    int rank = H5Sget_simple_extent_ndims(space);
    KS_CHECK(rank >= 1 && rank <= KS_ARRAY_DIMS &&
                 H5Sget_simple_extent_dims(space, extent, NULL) == rank,
             KS_FORMAT, "%s: %s has %d dimensions, expected 1 to %d", path,
             name, rank, KS_ARRAY_DIMS);
    KS_CHECK(h5_number(type, &a->type), KS_FORMAT,
             "%s: %s does not hold little-endian numbers of f16, bf16, f32 or "
             "f64",
             path, name);
    a->n_dims = rank;
    for (int i = 0; i < rank; i++) {
        KS_CHECK(extent[i] <= INT64_MAX, KS_FORMAT, "%s: %s is too large", path,
                 name);
        a->dims[i] = (int64_t)extent[i];
    }
    KS_CHECK(H5Pget_layout(how) == H5D_CONTIGUOUS &&
                 H5Pget_external_count(how) == 0,
             KS_FORMAT,
             "%s: %s is chunked, compressed or elsewhere; h5repack -l CONTI "
             "-f NONE gives a file that is read",
             path, name);
    haddr_t at = H5Dget_offset(set);
    uint64_t bytes = bytes_of(a);
    KS_CHECK(at != HADDR_UNDEF && bytes <= map->size && at <= map->size - bytes,
             KS_FORMAT,
             "%s: %s takes %llu bytes, which do not lie in the file's %zu (was "
             "it cut short?)",
             path, name, (unsigned long long)bytes, map->size);
    a->data = map->data + at;
done:
    ks__h5_drop(&how);
    ks__h5_drop(&type);
    ks__h5_drop(&space);
    return st;
}

/* *there false: the file has no such data set, which is then no error. */
static ks_status find_set(ks_array *a, const char *path, const char *name,
                          const ks_map *map, bool *there, ks_err *err) {
    ks_status st = KS_OK;
    ks__h5 was;
    hid_t file = -1, set = -1;
    ks__h5_enter(&was);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (H5Pset_file_locking(access, false, true) >= 0)
        file = H5Fopen(path, H5F_ACC_RDONLY, access);
    ks__h5_drop(&access);
    if (file < 0) KS_TRY(ks__h5_fail(err, path, "open as HDF5"));
    set = H5Dopen2(file, name, H5P_DEFAULT);
    *there = set >= 0;
    if (set >= 0) KS_TRY(from_set(a, path, name, set, map, err));
done:
    ks__h5_drop(&set);
    ks__h5_drop(&file);
    ks__h5_leave(&was);
    return st;
}

static ks_status open_h5(ks_array *a, const char *path, const char *name,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks_map *map = NULL;
    bool there;
    KS_CHECK(name, KS_USAGE,
             "%s: --tensor names the data set to read, such as "
             "/activations",
             path);
    KS_TRY(ks_alloc(&map, 1, sizeof *map, "a file", err));
    a->owner = map;
    a->kind = HDF5;
    KS_TRY(ks_map_open(map, path, err));
    KS_TRY(find_set(a, path, name, map, &there, err));
    KS_CHECK(there, KS_USAGE, "%s: has no data set '%s'", path, name);
done:
    return st;
}

/* ---------------------------------------------------------------------- all */

static bool ends_in(const char *path, const char *suffix) {
    size_t n = strlen(path), m = strlen(suffix);
    return n > m && strcmp(path + n - m, suffix) == 0;
}

ks_status ks_array_open(ks_array *out, const char *path, const char *name,
                        bool bf16, ks_err *err) {
    ks_status st = KS_OK;
    *out = (ks_array){0};
    bool npy = ends_in(path, ".npy"), tensors = ends_in(path, ".safetensors");
    KS_CHECK(npy || tensors || ends_in(path, ".h5") || ends_in(path, ".hdf5"),
             KS_USAGE, "%s: expected a file named .npy, .safetensors or .h5",
             path);
    KS_CHECK(npy || !bf16, KS_USAGE,
             "%s: --bf16 is for .npy files; others say what their numbers are",
             path);
    KS_TRY(npy       ? open_npy(out, path, name, bf16, err)
           : tensors ? open_tensor(out, path, name, err)
                     : open_h5(out, path, name, err));
done:
    if (st != KS_OK) ks_array_close(out);
    return st;
}

ks_status ks_array_beside(const ks_array *array, const char *path,
                          const char *name, ks_array *out, bool *there,
                          ks_err *err) {
    *out = (ks_array){0};
    *there = false;
    if (array->kind == HDF5)
        return find_set(out, path, name, array->owner, there, err);
    if (array->kind != SAFETENSORS) return KS_OK;
    const ks_st_tensor *t = ks_safetensors_find(array->owner, name);
    *there = t != NULL;
    return t ? from_tensor(out, path, t, err) : KS_OK;
}

void ks_array_close(ks_array *a) {
    if (a->kind == SAFETENSORS) {
        ks_safetensors *s = a->owner;
        ks_safetensors_close(&s);
    } else if (a->owner) {
        ks_map_close(a->owner);
        free(a->owner);
    }
    *a = (ks_array){0};
}

/* Bytes lie anywhere and are taken as little-endian, as the machine is. */
void ks_array_read(const ks_array *a, int64_t at, int64_t stride, int64_t n,
                   float *out) {
    size_t size = ks_number_size(a->type);
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *from = a->data + (size_t)(at + i * stride) * size;
        uint16_t word;
        double wide;
        switch (a->type) {
        case KS_NUMBER_F16:
            memcpy(&word, from, sizeof word);
            out[i] = ks_f16_to_f32(word);
            break;
        case KS_NUMBER_BF16:
            memcpy(&word, from, sizeof word);
            out[i] = ks_bf16_to_f32(word);
            break;
        case KS_NUMBER_F64:
            memcpy(&wide, from, sizeof wide);
            out[i] = (float)wide;
            break;
        default:
            memcpy(&out[i], from, sizeof *out);
        }
    }
}

int64_t ks_array_integer(const ks_array *a, int64_t at) {
    int64_t wide;
    int32_t narrow;
    if (a->type == KS_NUMBER_I64) {
        memcpy(&wide, a->data + 8 * at, sizeof wide);
        return wide;
    }
    memcpy(&narrow, a->data + 4 * at, sizeof narrow);
    return narrow;
}
