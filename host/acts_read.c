/* acts_read.c - opens an activation file and reads its layers: from the mapped
 * file where a data set lies in it, through HDF5 where it is virtual. */
#include "acts_format.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ops.h"

/* --------------------------------------------------------------- data sets */

/* Bytes [*at, *at + n * size) of the file, n values of the extent. */
static ks_status place_of(const ks_acts_file *f, hid_t set, const char *name,
                          const hsize_t *extent, int rank, size_t size,
                          uint64_t *at, ks_err *err) {
    ks_status st = KS_OK;
    uint64_t bytes = size, end = 0;
    for (int i = 0; i < rank; i++)
        KS_CHECK(!__builtin_mul_overflow(bytes, extent[i], &bytes), KS_FORMAT,
                 "%s: %s has an impossible size", f->path, name);
    haddr_t where = H5Dget_offset(set);
    if (bytes == 0) where = 0;
    KS_CHECK(
        where != HADDR_UNDEF && !__builtin_add_overflow(where, bytes, &end) &&
            end <= f->map.size,
        KS_FORMAT,
        "%s: %s should end at byte %llu; "
        "the file has %zu (was it cut short?)",
        f->path, name, (unsigned long long)(where == HADDR_UNDEF ? bytes : end),
        f->map.size);
    *at = where;
done:
    return st;
}

/* Opens /<group>/<stream>/<position>, compares type and extent, and says how
 * it lies. *set stays open when virtual. */
static ks_status open_set(const ks_acts_file *f, const char *name, hid_t type,
                          size_t size, const hsize_t *want, int rank,
                          uint64_t *at, hid_t *set, ks_err *err) {
    ks_status st = KS_OK;
    hid_t space = -1, how = -1, have = -1;
    hsize_t extent[H5S_MAX_RANK] = {0};
    *set = H5Dopen2(f->file, name, H5P_DEFAULT);
    KS_CHECK(*set >= 0, KS_FORMAT, "%s: has no data set %s", f->path, name);
    space = H5Dget_space(*set);
    have = H5Dget_type(*set);
    how = H5Dget_create_plist(*set);
    KS_CHECK(H5Sget_simple_extent_ndims(space) == rank &&
                 H5Sget_simple_extent_dims(space, extent, NULL) == rank,
             KS_FORMAT, "%s: %s does not have %d dimensions", f->path, name,
             rank);
    for (int i = 0; i < rank; i++)
        KS_CHECK(extent[i] == want[i], KS_FORMAT,
                 "%s: %s has extent %llu in "
                 "dimension %d, expected %llu",
                 f->path, name, (unsigned long long)extent[i], i,
                 (unsigned long long)want[i]);
    KS_CHECK(H5Tequal(have, type) > 0, KS_FORMAT,
             "%s: %s is not stored as its dtype attribute says", f->path, name);
    H5D_layout_t layout = H5Pget_layout(how);
    if (layout == H5D_VIRTUAL) {
        KS_TRY(ks__acts_check_virtual(f, *set, name, NULL, NULL, err));
    } else {
        KS_CHECK(layout == H5D_CONTIGUOUS && H5Pget_external_count(how) == 0,
                 KS_FORMAT,
                 "%s: %s is chunked or external, expected "
                 "contiguous",
                 f->path, name);
        KS_TRY(place_of(f, *set, name, extent, rank, size, at, err));
        ks__h5_drop(set);
    }
done:
    if (st != KS_OK) ks__h5_drop(set);
    ks__h5_drop(&have);
    ks__h5_drop(&how);
    ks__h5_drop(&space);
    return st;
}

static bool has_link(hid_t file, const char *group, const char *stream,
                     const char *position, char name[80]) {
    snprintf(name, 80, "/%s", group);
    if (H5Lexists(file, name, H5P_DEFAULT) <= 0) return false;
    snprintf(name, 80, "/%s/%s", group, stream);
    if (H5Lexists(file, name, H5P_DEFAULT) <= 0) return false;
    snprintf(name, 80, "/%s/%s/%s", group, stream, position);
    return H5Lexists(file, name, H5P_DEFAULT) > 0;
}

static ks_status get_set(ks_acts_file *f, ks_stream s, ks_position p,
                         hid_t type, ks_err *err) {
    ks_status st = KS_OK;
    char name[80];
    hid_t sums = -1;
    const char *stream = ks_stream_name(s), *position = ks_position_name(p);
    if (!has_link(f->file, "activations", stream, position, name)) return KS_OK;
    int i = f->layout.n_sets;
    ks__acts_set *set = &f->layout.sets[i];
    *set = (ks__acts_set){s,
                          p,
                          f->info.n_listed ? f->info.n_listed
                                           : f->info.n_layers + (s == KS_RESID),
                          p == KS_TOKENS ? f->info.n_tokens : f->info.n_steps,
                          0,
                          0};
    hsize_t want[] = {(hsize_t)set->n_layers, (hsize_t)set->n_rows,
                      (hsize_t)f->info.d};
    size_t size = f->info.dtype == KS_F32 ? 4 : 2;
    f->layout.row_bytes = size * (size_t)f->info.d;
    KS_TRY(open_set(f, name, type, size, want, 3, &set->data_at, &f->virtual[i],
                    err));
    f->layout.n_sets++;
    f->set_of[s][p] = (int8_t)i;
    f->info.streams |= 1u << s;
    f->info.positions |= 1u << p;
    if (has_link(f->file, "checksums", stream, position, name)) {
        KS_TRY(open_set(f, name, H5T_STD_U32LE, 4, want, 2, &set->sums_at,
                        &sums, err));
        /* joined files check their rows in the shards */
        f->has_sums[i] = sums < 0 && f->virtual[i] < 0;
    }
done:
    ks__h5_drop(&sums);
    return st;
}

static ks_status get_sets(ks_acts_file *f, ks_err *err) {
    ks_status st = KS_OK;
    hid_t type = ks__h5_type(f->info.dtype);
    for (ks_stream s = 0; s < KS_N_STREAMS; s++)
        for (ks_position p = 0; p < KS_N_POSITIONS; p++)
            KS_TRY(get_set(f, s, p, type, err));
    KS_CHECK(f->layout.n_sets > 0, KS_FORMAT,
             "%s: has no data set under "
             "/activations",
             f->path);
    f->layout.n_tokens = f->info.n_tokens;
    f->layout.file_bytes = f->map.size;
done:
    ks__h5_drop(&type);
    return st;
}

/* ------------------------------------------------------------ open and close
 */

/* Inside the library's lock. */
static ks_status open_structure(ks_acts_file *f, ks_err *err) {
    ks_status st = KS_OK;
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    /* shards lie beside the file, not beside a link to it */
    char *real = realpath(f->path, NULL);
    if (real && H5Pset_file_locking(access, false, true) >= 0)
        f->file = H5Fopen(real, H5F_ACC_RDONLY, access);
    free(real);
    if (f->file < 0) KS_TRY(ks__h5_fail(err, f->path, "open as HDF5"));
    KS_TRY(ks__acts_get_meta(f, err));
    KS_TRY(get_sets(f, err));
    bool any = false;
    for (int i = 0; i < f->layout.n_sets; i++) any |= f->virtual[i] >= 0;
    if (!any) ks__h5_drop(&f->file);
done:
    ks__h5_drop(&access);
    return st;
}

ks_status ks__acts_open_any(ks_acts_file **out, const char *path, ks_err *err) {
    ks_status st = KS_OK;
    ks_acts_file *f = NULL;
    *out = NULL;
    KS_TRY(ks_alloc(&f, 1, sizeof *f, "an activation file", err));
    f->file = -1;
    for (int i = 0; i < KS__ACTS_SETS; i++) f->virtual[i] = -1;
    memset(f->set_of, -1, sizeof f->set_of);
    f->path = strdup(path);
    KS_CHECK(f->path, KS_NOMEM, "out of memory for a path");
    KS_TRY(ks_map_open(&f->map, path, err));
    KS_CHECK(f->map.size > 0, KS_FORMAT, "%s: is empty", path);
    ks__h5 was;
    ks__h5_enter(&was);
    st = open_structure(f, err);
    ks__h5_leave(&was);
    if (st != KS_OK) goto done;
    *out = f;
    f = NULL;
done:
    ks_acts_close(&f);
    return st;
}

ks_status ks_acts_open(ks_acts_file **out, const char *path, ks_err *err) {
    size_t n = strlen(path);
    *out = NULL;
    if (n > 5 && strcmp(path + n - 5, ".part") == 0)
        return ks_fail(err, KS_FORMAT,
                       "%s: is an unfinished file; capture "
                       "--resume finishes it",
                       path);
    ks_status st = ks__acts_open_any(out, path, err);
    if (st == KS_IO && !ks_file_exists(path)) {
        char *part = NULL;
        if (asprintf(&part, "%s.part", path) >= 0 && ks_file_exists(part))
            ks_fail(err, KS_IO,
                    "%s: is not finished (%s is there); capture "
                    "--resume finishes it",
                    path, part);
        free(part);
    }
    return st;
}

ks_status ks_acts_open_whole(ks_acts_file **out, const char *path,
                             ks_err *err) {
    ks_status st = ks_acts_open(out, path, err);
    if (st != KS_OK || !(*out)->info.shard) return st;
    st = ks_fail(err, KS_MISMATCH,
                 "%s: is shard %.32s of a run; keystep join makes one file of "
                 "all of them",
                 path, (*out)->info.shard);
    ks_acts_close(out);
    return st;
}

void ks_acts_close(ks_acts_file **file) {
    ks_acts_file *f = *file;
    if (!f) return;
    ks__h5 was;
    ks__h5_enter(&was);
    for (int i = 0; i < KS__ACTS_SETS; i++) ks__h5_drop(&f->virtual[i]);
    for (int i = 0; i < KS__ACTS_SETS; i++) free(f->hashes_of[i]);
    ks__h5_drop(&f->file);
    ks__h5_leave(&was);
    ks_map_close(&f->map);
    for (size_t i = 0; i < KS_COUNT(f->texts); i++) free(f->texts[i]);
    free(f->listed);
    free(f->steps);
    free(f->chains);
    free(f->ids);
    free(f->problems);
    free(f->hashes);
    free(f->path);
    free(f);
    *file = NULL;
}

const ks_acts_info *ks_acts_get_info(const ks_acts_file *file) {
    return &file->info;
}

bool ks_acts_has(const ks_acts_file *f, ks_stream stream,
                 ks_position position) {
    return stream < KS_N_STREAMS && position < KS_N_POSITIONS &&
           f->set_of[stream][position] >= 0;
}

bool ks_acts_has_layer(const ks_acts_file *f, ks_stream stream, int32_t layer) {
    if (f->info.n_listed) return ks__acts_place(&f->layout, layer) >= 0;
    return layer >= 0 && layer < f->info.n_layers + (stream == KS_RESID);
}

/* ----------------------------------------------------------------- reading */

const uint8_t *ks__acts_mapped(const ks_acts_file *f, const ks__acts_set *set,
                               int32_t layer, int64_t row) {
    if (f->virtual[set - f->layout.sets] >= 0) return NULL;
    return f->map.data + ks__acts_row_at(&f->layout, set, layer, row);
}

const uint8_t *ks__acts_mapped_sums(const ks_acts_file *f,
                                    const ks__acts_set *set, int32_t layer,
                                    int64_t row) {
    if (!f->has_sums[set - f->layout.sets]) return NULL;
    return f->map.data + ks__acts_sum_at(set, layer, row);
}

/* Rows of a virtual set as stored: HDF5 gathers them from the shards, with no
 * conversion of its own. Inside the library's lock. */
static ks_status read_stored(const ks_acts_file *f, int i, int32_t layer,
                             int64_t row, int64_t n, void *out, ks_err *err) {
    ks_status st = KS_OK;
    hsize_t start[] = {(hsize_t)layer, (hsize_t)row, 0};
    hsize_t count[] = {1, (hsize_t)n, (hsize_t)f->info.d};
    hid_t type = ks__h5_type(f->info.dtype);
    hid_t file_space = H5Dget_space(f->virtual[i]);
    hid_t memory = H5Screate_simple(3, count, NULL);
    if (H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, count,
                            NULL) < 0 ||
        H5Dread(f->virtual[i], type, memory, file_space, H5P_DEFAULT, out) < 0)
        KS_TRY(ks__h5_fail(err, f->path, "read a shard"));
done:
    ks__h5_drop(&memory);
    ks__h5_drop(&file_space);
    ks__h5_drop(&type);
    return st;
}

/* A few at a time; we widen. */
static ks_status read_virtual(const ks_acts_file *f, int i, int32_t layer,
                              int64_t row, int64_t n, float *out, ks_err *err) {
    ks_status st = KS_OK;
    int64_t d = f->info.d;
    int64_t step = KS_MAX((1 << 22) / (int64_t)f->layout.row_bytes, 1);
    void *raw = NULL;
    ks__h5 was;
    ks__h5_enter(&was);
    KS_TRY(ks_alloc(&raw, (size_t)KS_MIN(step, n), f->layout.row_bytes,
                    "rows of a shard", err));
    for (int64_t at = 0; at < n; at += step) {
        int64_t now = KS_MIN(step, n - at);
        KS_TRY(read_stored(f, i, layer, row + at, now, raw, err));
        ks_dequantize(f->info.dtype, raw, out + at * d, now * d);
    }
done:
    ks__h5_leave(&was);
    free(raw);
    return st;
}

/* Small data sets of a file are packed and may start at any byte. */
static void widen(ks_type type, const uint8_t *from, float *to, int64_t n) {
    size_t size = type == KS_F32 ? 4 : 2;
    if ((uintptr_t)from % size == 0) {
        ks_dequantize(type, from, to, n);
        return;
    }
    uint32_t aligned[1024];
    int64_t step = (int64_t)(sizeof aligned / size);
    for (int64_t i = 0; i < n; i += step) {
        int64_t now = KS_MIN(step, n - i);
        memcpy(aligned, from + (size_t)i * size, (size_t)now * size);
        ks_dequantize(type, aligned, to + i, now);
    }
}

static ks_status check_rows(const ks_acts_file *f, ks_stream stream,
                            ks_position position, int32_t layer, int64_t row,
                            int64_t n, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(ks_acts_has(f, stream, position), KS_MISMATCH,
             "%s: has no activations of %s at %s", f->path,
             ks_stream_name(stream), ks_position_name(position));
    const ks__acts_set *set = &f->layout.sets[f->set_of[stream][position]];
    KS_CHECK(ks_acts_has_layer(f, stream, layer) && row >= 0 && n >= 0 &&
                 row <= set->n_rows && n <= set->n_rows - row,
             KS_LIMIT,
             "%s: %lld rows at row %lld of layer %d of %s/%s are asked for; it "
             "has %lld rows and %d layers%s",
             f->path, (long long)n, (long long)row, layer,
             ks_stream_name(stream), ks_position_name(position),
             (long long)set->n_rows, set->n_layers,
             f->info.n_listed ? ", not all of the model's" : "");
done:
    return st;
}

ks_status ks_acts_read(const ks_acts_file *f, ks_stream stream,
                       ks_position position, int32_t layer, int64_t row,
                       int64_t n, float *out, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(check_rows(f, stream, position, layer, row, n, err));
    int i = f->set_of[stream][position];
    const ks__acts_set *set = &f->layout.sets[i];
    layer = ks__acts_place(&f->layout, layer);
    if (n == 0) goto done;
    if (f->virtual[i] >= 0)
        KS_TRY(read_virtual(f, i, layer, row, n, out, err));
    else
        widen(f->info.dtype, ks__acts_mapped(f, set, layer, row), out,
              n * f->info.d);
done:
    return st;
}

/* How many of the rows, ascending and not far apart, are read at once. */
static int64_t span_of(const int64_t *rows, int64_t n, int64_t most) {
    enum { GAP = 64 };
    int64_t k = 1;
    while (k < n && rows[k] > rows[k - 1] && rows[k] - rows[k - 1] <= GAP &&
           rows[k] - rows[0] < most)
        k++;
    return k;
}

static ks_status gather_virtual(const ks_acts_file *f, int i, int32_t layer,
                                const int64_t *rows, int64_t n, char *out,
                                ks_err *err) {
    ks_status st = KS_OK;
    size_t bytes = f->layout.row_bytes;
    int64_t most = KS_MAX((1 << 20) / (int64_t)bytes, 1);
    char *raw = NULL;
    ks__h5 was;
    ks__h5_enter(&was);
    KS_TRY(ks_alloc(&raw, (size_t)most, bytes, "rows of a shard", err));
    for (int64_t at = 0, end; at < n; at = end) {
        end = at + span_of(rows + at, n - at, most);
        KS_TRY(read_stored(f, i, layer, rows[at], rows[end - 1] - rows[at] + 1,
                           raw, err));
        for (int64_t k = at; k < end; k++)
            memcpy(out + (size_t)k * bytes,
                   raw + (size_t)(rows[k] - rows[at]) * bytes, bytes);
    }
done:
    ks__h5_leave(&was);
    free(raw);
    return st;
}

/* The kernel maps what lies around a page along with it: within 64 KiB, or all
 * of a large folio. */
static void let_go(const ks_acts_file *f, const uint8_t *from,
                   const uint8_t *to) {
    enum { AROUND = 2 << 20 };
    size_t begin = (size_t)(from - f->map.data) / AROUND;
    size_t end = (size_t)(to - f->map.data) / AROUND + 2;
    begin = begin ? (begin - 1) * AROUND : 0;
    end = KS_MIN(end * AROUND, f->map.size);
    madvise((void *)(f->map.data + begin), end - begin, MADV_DONTNEED);
}

ks_status ks_acts_gather(const ks_acts_file *f, ks_stream stream,
                         ks_position position, int32_t layer,
                         const int64_t *rows, int64_t n, void *out,
                         ks_err *err) {
    ks_status st = KS_OK;
    int64_t low = n > 0 ? rows[0] : 0, high = low;
    for (int64_t k = 0; k < n; k++) {
        KS_TRY(check_rows(f, stream, position, layer, rows[k], 1, err));
        low = KS_MIN(low, rows[k]);
        high = KS_MAX(high, rows[k]);
    }
    if (n <= 0) goto done;
    int i = f->set_of[stream][position];
    const ks__acts_set *set = &f->layout.sets[i];
    size_t bytes = f->layout.row_bytes;
    layer = ks__acts_place(&f->layout, layer);
    if (f->virtual[i] >= 0) {
        KS_TRY(gather_virtual(f, i, layer, rows, n, out, err));
        goto done;
    }
    for (int64_t k = 0; k < n; k++)
        memcpy((char *)out + (size_t)k * bytes,
               ks__acts_mapped(f, set, layer, rows[k]), bytes);
    let_go(f, ks__acts_mapped(f, set, layer, low),
           ks__acts_mapped(f, set, layer, high) + bytes);
done:
    return st;
}
