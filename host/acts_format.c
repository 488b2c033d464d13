/* acts_format.c - makes an activation file with HDF5: groups, attributes,
 * steps, chains, and empty data sets whose rows are written later at fixed
 * offsets, or virtual ones over the files of shards. The same spec gives the
 * same bytes: no times, no names of machines, alignment and allocation fixed.
 */
#include "acts_format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Large data sets start on a page, so that they can be mapped and read
 * directly; small ones stay packed. */
enum { ALIGN_FROM = 16384 };
enum { MAX_STRING = 60000 }; /* an object header message holds 64 KiB */

/* -------------------------------------------------------------- attributes */

/* Of n bytes, the NUL at the end among them. */
static hid_t string_type(size_t n) {
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type < 0) return type;
    if (H5Tset_size(type, n) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0)
        ks__h5_drop(&type);
    return type;
}

/* Fixed length, padded with zeros to at least `room` bytes. */
static ks_status put_text(hid_t at, const char *path, const char *name,
                          const char *text, size_t room, ks_err *err) {
    ks_status st = KS_OK;
    hid_t type = -1, space = -1, attribute = -1;
    char *padded = NULL;
    size_t n = strlen(text);
    KS_CHECK(n <= MAX_STRING, KS_LIMIT,
             "%s: attribute %s of %zu bytes; at "
             "most %d fit",
             path, name, n, MAX_STRING);
    size_t size = KS_MAX(n + 1, room);
    KS_TRY(ks_alloc(&padded, size, 1, "an attribute", err));
    memcpy(padded, text, n);
    type = string_type(size);
    space = H5Screate(H5S_SCALAR);
    attribute = H5Acreate2(at, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0 || H5Awrite(attribute, type, padded) < 0)
        KS_TRY(ks__h5_fail(err, path, "write an attribute"));
done:
    free(padded);
    ks__h5_drop(&attribute);
    ks__h5_drop(&space);
    ks__h5_drop(&type);
    return st;
}

static ks_status put_int(hid_t at, const char *path, const char *name,
                         int64_t value, ks_err *err) {
    ks_status st = KS_OK;
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute =
        H5Acreate2(at, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0 || H5Awrite(attribute, H5T_NATIVE_INT64, &value) < 0)
        st = ks__h5_fail(err, path, "write an attribute");
    ks__h5_drop(&attribute);
    ks__h5_drop(&space);
    return st;
}

/* The numbers of the layers that are there. */
static ks_status put_listed(hid_t at, const char *path,
                            const ks_acts_spec *spec, ks_err *err) {
    ks_status st = KS_OK;
    hsize_t n = (hsize_t)spec->n_listed;
    if (!n) return KS_OK;
    hid_t space = H5Screate_simple(1, &n, NULL);
    hid_t attribute = H5Acreate2(at, "layers", H5T_STD_I32LE, space,
                                 H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0 ||
        H5Awrite(attribute, H5T_NATIVE_INT32, spec->listed) < 0)
        st = ks__h5_fail(err, path, "write an attribute");
    ks__h5_drop(&attribute);
    ks__h5_drop(&space);
    return st;
}

static ks_status put_attributes(hid_t file, const char *path,
                                const ks_acts_spec *spec, ks_err *err) {
    ks_status st = KS_OK;
    char hash[65];
    KS_TRY(ks_acts_spec_hash(spec, hash, err));
    KS_TRY(put_text(file, path, "format", "keystep activations", 0, err));
    KS_TRY(put_int(file, path, "format_version", KS__ACTS_VERSION, err));
    KS_TRY(put_text(file, path, "program_version", KS_VERSION, KS__ACTS_WORD,
                    err));
    KS_TRY(put_text(file, path, "isa", spec->isa, KS__ACTS_WORD, err));
    KS_TRY(put_text(file, path, "backend", spec->backend, KS__ACTS_WORD, err));
    KS_TRY(put_text(file, path, "model_name", spec->model_name, 0, err));
    KS_TRY(put_text(file, path, "model_sha256", spec->model_sha256, 0, err));
    KS_TRY(
        put_text(file, path, "tokenizer_hash", spec->tokenizer_hash, 0, err));
    KS_TRY(put_int(file, path, "n_layers", spec->n_layers, err));
    KS_TRY(put_listed(file, path, spec, err));
    KS_TRY(put_int(file, path, "d_model", spec->d, err));
    KS_TRY(put_text(file, path, "dtype", ks_type_name(spec->dtype), 0, err));
    KS_TRY(put_text(file, path, "context", spec->context_none ? "none" : "full",
                    0, err));
    KS_TRY(put_int(file, path, "random_weights", spec->random_weights, err));
    KS_TRY(put_text(file, path, "config", spec->config, 0, err));
    KS_TRY(put_text(file, path, "spec_sha256", hash, 0, err));
    if (!spec->shard) return KS_OK;
    KS_TRY(put_text(file, path, "shard", spec->shard, 0, err));
    KS_TRY(put_text(file, path, "whole_sha256", spec->whole_sha256, 0, err));
done:
    return st;
}

/* ------------------------------------------------------------ steps, chains */

static hid_t make_group(hid_t at, const char *name) {
    hid_t how = H5Pcreate(H5P_GROUP_CREATE);
    if (how < 0) return how;
    H5Pset_obj_track_times(how, false);
    hid_t group = H5Gcreate2(at, name, H5P_DEFAULT, how, H5P_DEFAULT);
    ks__h5_drop(&how);
    return group;
}

/* Contiguous and allocated at once, so that its offset is known and stays. */
static hid_t data_set_plan(void) {
    hid_t how = H5Pcreate(H5P_DATASET_CREATE);
    if (how < 0) return how;
    if (H5Pset_obj_track_times(how, false) < 0 ||
        H5Pset_layout(how, H5D_CONTIGUOUS) < 0 ||
        H5Pset_alloc_time(how, H5D_ALLOC_TIME_EARLY) < 0)
        ks__h5_drop(&how);
    return how;
}

static ks_status put_array(hid_t at, const char *path, const char *name,
                           hid_t file_type, hid_t type, int64_t n,
                           const void *data, ks_err *err) {
    hsize_t extent = (hsize_t)n;
    hid_t how = data_set_plan();
    hid_t space = H5Screate_simple(1, &extent, NULL);
    hid_t set =
        H5Dcreate2(at, name, file_type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    ks_status st = KS_OK;
    if (set < 0 || H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        st = ks__h5_fail(err, path, "write the steps and chains");
    ks__h5_drop(&set);
    ks__h5_drop(&space);
    ks__h5_drop(&how);
    return st;
}

static ks_status put_steps(hid_t file, const char *path,
                           const ks_acts_spec *spec, ks_err *err) {
    static const struct {
        const char *name;
        size_t at;
    } fields[] = {{"chain", offsetof(ks_step_row, chain)},
                  {"index", offsetof(ks_step_row, index)},
                  {"token_begin", offsetof(ks_step_row, token_begin)},
                  {"token_end", offsetof(ks_step_row, token_end)},
                  {"byte_begin", offsetof(ks_step_row, byte_begin)},
                  {"byte_end", offsetof(ks_step_row, byte_end)}};
    ks_status st = KS_OK;
    int32_t *column = NULL;
    int64_t n = spec->n_steps;
    hid_t group = make_group(file, "steps");
    KS_TRY(ks_alloc(&column, (size_t)n, sizeof *column, "the steps", err));
    for (size_t f = 0; f < KS_COUNT(fields); f++) {
        for (int64_t i = 0; i < n; i++)
            memcpy(&column[i], (const char *)&spec->steps[i] + fields[f].at,
                   sizeof *column);
        KS_TRY(put_array(group, path, fields[f].name, H5T_STD_I32LE,
                         H5T_NATIVE_INT32, n, column, err));
    }
    int8_t *bytes = (int8_t *)column;
    for (int64_t i = 0; i < n; i++) bytes[i] = spec->steps[i].valid != 0;
    KS_TRY(put_array(group, path, "valid", H5T_STD_U8LE, H5T_NATIVE_UINT8, n,
                     bytes, err));
    if (spec->has_labels) {
        for (int64_t i = 0; i < n; i++) bytes[i] = spec->steps[i].label;
        KS_TRY(put_array(group, path, "label", H5T_STD_I8LE, H5T_NATIVE_INT8, n,
                         bytes, err));
    }
done:
    free(column);
    ks__h5_drop(&group);
    return st;
}

static const char *chain_text(const ks_chain_row *row, int field) {
    return field == 0 ? row->id : field == 1 ? row->problem : row->text_sha256;
}

static ks_status put_chains(hid_t file, const char *path,
                            const ks_acts_spec *spec, ks_err *err) {
    static const char *const names[] = {"id", "problem", "text_sha256"};
    size_t widths[] = {ks__acts_longest(spec, false) + 1,
                       ks__acts_longest(spec, true) + 1, 65};
    ks_status st = KS_OK;
    hid_t type = -1;
    char *column = NULL;
    size_t n = (size_t)spec->n_chains;
    hid_t group = make_group(file, "chains");
    for (int f = 0; f < 3; f++) {
        KS_TRY(ks_alloc(&column, n, widths[f], "the chains' names", err));
        for (size_t i = 0; i < n; i++) {
            const char *text = chain_text(&spec->chains[i], f);
            memcpy(column + i * widths[f], text, strnlen(text, widths[f] - 1));
        }
        type = string_type(widths[f]);
        KS_TRY(put_array(group, path, names[f], type, type, spec->n_chains,
                         column, err));
        ks__h5_drop(&type);
        free(column);
        column = NULL;
    }
done:
    free(column);
    ks__h5_drop(&type);
    ks__h5_drop(&group);
    return st;
}

/* --------------------------------------------------------------- data sets */

/* Fill time NEVER: the space is reserved and written by us. The fill value
 * stays in the header, so that a hole (a missing shard) reads as NaN. */
static ks_status put_empty(hid_t at, const char *path, const char *name,
                           hid_t type, const void *fill, int rank,
                           const hsize_t *extent, uint64_t *offset,
                           ks_err *err) {
    ks_status st = KS_OK;
    hid_t how = data_set_plan();
    hid_t space = H5Screate_simple(rank, extent, NULL);
    hid_t set = -1;
    if (how >= 0 && H5Pset_fill_time(how, H5D_FILL_TIME_NEVER) >= 0 &&
        (!fill || H5Pset_fill_value(how, type, fill) >= 0))
        set = H5Dcreate2(at, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    if (set < 0) KS_TRY(ks__h5_fail(err, path, "make a data set"));
    haddr_t where = H5Dget_offset(set);
    KS_CHECK(where != HADDR_UNDEF || extent[1] == 0, KS_INTERNAL,
             "%s: the HDF5 library gave no offset for data set %s", path, name);
    *offset = where;
done:
    ks__h5_drop(&set);
    ks__h5_drop(&space);
    ks__h5_drop(&how);
    return st;
}

/* Rows of the parts one after another; a part without rows has none to map. */
static ks_status put_virtual(hid_t at, const char *path, const char *name,
                             hid_t type, const void *fill,
                             const hsize_t *extent, const ks__acts_parts *parts,
                             int set_at, ks_err *err) {
    ks_status st = KS_OK;
    hid_t how = H5Pcreate(H5P_DATASET_CREATE), from = -1, set = -1;
    hid_t space = H5Screate_simple(3, extent, NULL);
    hsize_t start[] = {0, 0, 0};
    char source[96];
    bool good = H5Pset_obj_track_times(how, false) >= 0 &&
                H5Pset_fill_value(how, type, fill) >= 0;
    for (int32_t i = 0; good && i < parts->n; i++) {
        const ks__acts_set *part = &parts->layouts[i]->sets[set_at];
        hsize_t rows[] = {extent[0], (hsize_t)part->n_rows, extent[2]};
        snprintf(source, sizeof source, "/activations/%s/%s",
                 ks_stream_name(part->stream),
                 ks_position_name(part->position));
        if (part->n_rows == 0) continue;
        from = H5Screate_simple(3, rows, NULL);
        good = from >= 0 &&
               H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, rows,
                                   NULL) >= 0 &&
               H5Pset_virtual(how, space, parts->names[i], source, from) >= 0;
        start[1] += rows[1];
        ks__h5_drop(&from);
    }
    if (good && H5Sselect_all(space) >= 0)
        set = H5Dcreate2(at, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    if (set < 0) st = ks__h5_fail(err, path, "make a virtual data set");
    ks__h5_drop(&set);
    ks__h5_drop(&space);
    ks__h5_drop(&how);
    return st;
}

/* Checksums lie beside rows: none where these are virtual. */
static ks_status put_sets(hid_t file, const char *path,
                          const ks_acts_spec *spec, ks__acts_layout *layout,
                          const ks__acts_parts *parts, ks_err *err) {
    /* quiet NaN of each storage type, little-endian */
    static const uint8_t nan_f32[] = {0, 0, 0xc0, 0x7f};
    static const uint8_t nan_bf16[] = {0xc0, 0x7f}, nan_f16[] = {0, 0x7e};
    const uint8_t *nan = spec->dtype == KS_F32    ? nan_f32
                         : spec->dtype == KS_BF16 ? nan_bf16
                                                  : nan_f16;
    ks_status st = KS_OK;
    hid_t type = ks__h5_type(spec->dtype);
    hid_t acts = make_group(file, "activations");
    hid_t sums = parts ? -1 : make_group(file, "checksums");
    hid_t acts_stream = -1, sums_stream = -1;
    if (!parts)
        KS_TRY(put_text(sums, path, "algorithm",
                        "CRC-32C of the stored bytes of a row [d]", 0, err));
    for (int i = 0; i < layout->n_sets; i++) {
        ks__acts_set *set = &layout->sets[i];
        if (i == 0 || set->stream != set[-1].stream) {
            const char *name = ks_stream_name(set->stream);
            ks__h5_drop(&acts_stream);
            ks__h5_drop(&sums_stream);
            acts_stream = make_group(acts, name);
            if (!parts) sums_stream = make_group(sums, name);
        }
        const char *name = ks_position_name(set->position);
        hsize_t extent[] = {(hsize_t)set->n_layers, (hsize_t)set->n_rows,
                            (hsize_t)spec->d};
        if (parts && set->n_rows > 0) {
            KS_TRY(put_virtual(acts_stream, path, name, type, nan, extent,
                               parts, i, err));
            continue;
        }
        if (!parts)
            KS_TRY(put_empty(sums_stream, path, name, H5T_STD_U32LE, NULL, 2,
                             extent, &set->sums_at, err));
        KS_TRY(put_empty(acts_stream, path, name, type, nan, 3, extent,
                         &set->data_at, err));
    }
done:
    ks__h5_drop(&acts_stream);
    ks__h5_drop(&sums_stream);
    ks__h5_drop(&acts);
    ks__h5_drop(&sums);
    ks__h5_drop(&type);
    return st;
}

/* Default library version bounds on purpose: with v110 the superblock carries
 * a 'being written' mark that a killed writer leaves set, and the file is
 * refused. The library's own locks are off: ours is held. */
static hid_t create_file(const char *path) {
    hid_t how = H5Pcreate(H5P_FILE_CREATE);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    hid_t file = -1;
    if (how >= 0 && access >= 0 && H5Pset_obj_track_times(how, false) >= 0 &&
        H5Pset_alignment(access, ALIGN_FROM, KS__ACTS_ALIGN) >= 0 &&
        H5Pset_file_locking(access, false, true) >= 0)
        file = H5Fcreate(path, H5F_ACC_TRUNC, how, access);
    ks__h5_drop(&access);
    ks__h5_drop(&how);
    return file;
}

ks_status ks__acts_build(const char *path, const ks_acts_spec *spec,
                         ks__acts_layout *layout, const ks__acts_parts *parts,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks__h5 was;
    ks__h5_enter(&was);
    errno = 0;
    hid_t file = create_file(path);
    if (file < 0) {
        st = errno ? ks_fail(err, KS_IO, "%s: cannot create: %s", path,
                             strerror(errno))
                   : ks__h5_fail(err, path, "create");
        goto done;
    }
    KS_TRY(put_attributes(file, path, spec, err));
    if (parts) KS_TRY(put_int(file, path, "shards", parts->n, err));
    KS_TRY(put_steps(file, path, spec, err));
    KS_TRY(put_chains(file, path, spec, err));
    KS_TRY(put_sets(file, path, spec, layout, parts, err));
    hid_t closing = file;
    file = -1;
    if (H5Fclose(closing) < 0) KS_TRY(ks__h5_fail(err, path, "close"));
    struct stat info;
    KS_CHECK(stat(path, &info) == 0, KS_IO, "%s: cannot stat: %s", path,
             strerror(errno));
    layout->file_bytes = (uint64_t)info.st_size;
done:
    ks__h5_drop(&file);
    ks__h5_leave(&was);
    if (st == KS_FORMAT && err) err->code = st = KS_IO;
    return st;
}

/* ------------------------------------------------------------------- amend */

static ks_status rewrite_text(hid_t file, const char *path, const char *name,
                              const char *text, ks_err *err) {
    ks_status st = KS_OK;
    char padded[KS__ACTS_WORD] = {0};
    memcpy(padded, text, strnlen(text, sizeof padded - 1));
    hid_t attribute = H5Aopen(file, name, H5P_DEFAULT);
    hid_t type = string_type(sizeof padded);
    if (attribute < 0 || H5Awrite(attribute, type, padded) < 0)
        st = ks__h5_fail(err, path, "rewrite an attribute");
    ks__h5_drop(&type);
    ks__h5_drop(&attribute);
    return st;
}

ks_status ks__acts_amend(const char *path, const char *isa, const char *backend,
                         const char *version, ks_err *err) {
    ks_status st = KS_OK;
    ks__h5 was;
    ks__h5_enter(&was);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), file = -1;
    if (H5Pset_file_locking(access, false, true) >= 0)
        file = H5Fopen(path, H5F_ACC_RDWR, access);
    if (file < 0) KS_TRY(ks__h5_fail(err, path, "open to amend"));
    KS_TRY(rewrite_text(file, path, "isa", isa, err));
    KS_TRY(rewrite_text(file, path, "backend", backend, err));
    KS_TRY(rewrite_text(file, path, "program_version", version, err));
    hid_t closing = file;
    file = -1;
    if (H5Fclose(closing) < 0) KS_TRY(ks__h5_fail(err, path, "close"));
done:
    ks__h5_drop(&file);
    ks__h5_drop(&access);
    ks__h5_leave(&was);
    return st;
}
