/* acts_format.c - sizes an activation file and makes it with HDF5: groups,
 * attributes, steps, chains, and empty data sets whose rows are written later
 * at fixed offsets. The same spec gives the same bytes: no times, no names of
 * machines, alignment and allocation fixed. */
#include "acts_format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Large data sets start on a page, so that they can be mapped and read
 * directly; small ones stay packed. */
enum { ALIGN_FROM = 16384, ALIGN_TO = 4096 };
enum { MAX_STRING = 60000 }; /* an object header message holds 64 KiB */

/* ------------------------------------------------------------------ sizing */

static ks_status check_spec(const ks_acts_spec *spec, ks_err *err) {
    ks_status st = KS_OK;
    uint32_t streams = (1u << KS_N_STREAMS) - 1;
    uint32_t positions = (1u << KS_N_POSITIONS) - 1;
    KS_CHECK(spec->streams && !(spec->streams & ~streams), KS_USAGE,
             "no stream, or an unknown one, to keep activations of");
    KS_CHECK(spec->positions && !(spec->positions & ~positions), KS_USAGE,
             "no position, or an unknown one, to keep activations of");
    KS_CHECK(!spec->context_none || !(spec->positions & 1u << KS_BEFORE),
             KS_USAGE,
             "position 'before' needs context: a step alone has "
             "nothing ahead of it");
    KS_CHECK(spec->dtype == KS_BF16 || spec->dtype == KS_F16 ||
                 spec->dtype == KS_F32,
             KS_USAGE, "activations are stored as bf16, f16 or f32, not as %s",
             ks_type_name(spec->dtype));
    KS_CHECK(spec->n_layers > 0 && spec->d > 0, KS_USAGE,
             "a model of %d layers and width %d has no activations",
             spec->n_layers, spec->d);
    for (int32_t i = 0; i < spec->n_listed; i++)
        KS_CHECK(spec->listed[i] > (i ? spec->listed[i - 1] : -1) &&
                     spec->listed[i] <
                         spec->n_layers + (spec->streams == 1u << KS_RESID),
                 KS_USAGE, "layer %d is out of order or beyond the model's %d",
                 spec->listed[i], spec->n_layers);
    KS_CHECK(spec->n_steps > 0 && spec->n_chains > 0, KS_USAGE,
             "there is no step to keep activations of");
    for (int64_t i = 0; i < spec->n_steps; i++) {
        const ks_step_row *s = &spec->steps[i];
        KS_CHECK(s->chain >= 0 && s->chain < spec->n_chains &&
                     s->token_begin >= 0 && s->token_begin <= s->token_end,
                 KS_INTERNAL,
                 "step %lld of the activations has chain %d of "
                 "%lld and tokens %d to %d",
                 (long long)i, s->chain, (long long)spec->n_chains,
                 s->token_begin, s->token_end);
    }
done:
    return st;
}

/* total += a * b * c, false past what an off_t can count. */
static bool add_product(uint64_t *total, uint64_t a, uint64_t b, uint64_t c) {
    uint64_t p;
    return !__builtin_mul_overflow(a, b, &p) &&
           !__builtin_mul_overflow(p, c, &p) &&
           !__builtin_add_overflow(*total, p, total) &&
           *total < (uint64_t)INT64_MAX / 2;
}

static size_t longest(const ks_acts_spec *spec, bool problem) {
    size_t n = 0;
    for (int64_t i = 0; i < spec->n_chains; i++) {
        const ks_chain_row *c = &spec->chains[i];
        n = KS_MAX(n, strlen(problem ? c->problem : c->id));
    }
    return n;
}

ks_status ks__acts_plan(ks__acts_layout *layout, const ks_acts_spec *spec,
                        ks_err *err) {
    ks_status st = KS_OK;
    *layout = (ks__acts_layout){0};
    KS_TRY(check_spec(spec, err));
    layout->row_bytes = (size_t)spec->d * (spec->dtype == KS_F32 ? 4 : 2);
    layout->n_listed = spec->n_listed;
    layout->listed = spec->listed;
    for (int64_t i = 0; i < spec->n_steps; i++)
        layout->n_tokens +=
            spec->steps[i].token_end - spec->steps[i].token_begin;
    bool fits = true;
    for (ks_stream s = 0; s < KS_N_STREAMS; s++)
        for (ks_position p = 0; p < KS_N_POSITIONS; p++) {
            if (!(spec->streams & 1u << s) || !(spec->positions & 1u << p))
                continue;
            ks__acts_set *set = &layout->sets[layout->n_sets++];
            *set = (ks__acts_set){
                s,
                p,
                spec->n_listed ? spec->n_listed
                               : spec->n_layers + (s == KS_RESID),
                p == KS_TOKENS ? layout->n_tokens : spec->n_steps,
                0,
                0};
            fits = fits &&
                   add_product(&layout->raw_bytes, (uint64_t)set->n_layers,
                               (uint64_t)set->n_rows, layout->row_bytes + 4);
        }
    size_t step_bytes = 6 * sizeof(int32_t) + 2;
    size_t chain_bytes = longest(spec, false) + longest(spec, true) + 67;
    fits = fits &&
           add_product(&layout->raw_bytes, (uint64_t)spec->n_steps, step_bytes,
                       1) &&
           add_product(&layout->raw_bytes, (uint64_t)spec->n_chains,
                       chain_bytes, 1);
    KS_CHECK(fits, KS_LIMIT,
             "%lld steps of %d layers of width %d are more "
             "than a file can hold",
             (long long)spec->n_steps, spec->n_layers, spec->d);
done:
    return st;
}

uint64_t ks_acts_file_bytes(const ks_acts_spec *spec) {
    ks__acts_layout layout;
    if (ks__acts_plan(&layout, spec, NULL) != KS_OK) return UINT64_MAX;
    /* headers and at most a page of alignment for each of two sets a pair */
    uint64_t each = 2 * (1024 + ALIGN_TO);
    return layout.raw_bytes + 65536 + each * (uint64_t)layout.n_sets;
}

/* ---------------------------------------------------------------- identity */

static void hash_text(ks_sha256 *hash, const char *text) {
    ks_sha256_add(hash, text, strlen(text) + 1);
}

ks_status ks__acts_spec_hash(const ks_acts_spec *spec, char hex[65],
                             ks_err *err) {
    ks_sha256 *hash = NULL;
    ks_status st = ks_sha256_open(&hash, err);
    if (st != KS_OK) return st;
    int64_t numbers[] = {
        KS__ACTS_VERSION, spec->streams,    spec->positions,     spec->n_layers,
        spec->d,          spec->dtype,      spec->context_none,  spec->n_steps,
        spec->n_chains,   spec->has_labels, spec->random_weights};
    ks_sha256_add(hash, numbers, sizeof numbers);
    if (spec->n_listed) /* nothing, where all layers are there */
        ks_sha256_add(hash, spec->listed,
                      (size_t)spec->n_listed * sizeof *spec->listed);
    hash_text(hash, spec->model_name);
    hash_text(hash, spec->model_sha256);
    hash_text(hash, spec->tokenizer_hash);
    hash_text(hash, spec->config);
    for (int64_t i = 0; i < spec->n_steps; i++) {
        const ks_step_row *s = &spec->steps[i];
        int32_t row[] = {s->chain,       s->index,
                         s->token_begin, s->token_end,
                         s->byte_begin,  s->byte_end,
                         s->valid,       spec->has_labels ? s->label : 0};
        ks_sha256_add(hash, row, sizeof row);
    }
    for (int64_t i = 0; i < spec->n_chains; i++) {
        hash_text(hash, spec->chains[i].id);
        hash_text(hash, spec->chains[i].problem);
        hash_text(hash, spec->chains[i].text_sha256);
    }
    ks_sha256_close(&hash, hex);
    return KS_OK;
}

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
    KS_TRY(ks__acts_spec_hash(spec, hash, err));
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
    size_t widths[] = {longest(spec, false) + 1, longest(spec, true) + 1, 65};
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

static ks_status put_sets(hid_t file, const char *path,
                          const ks_acts_spec *spec, ks__acts_layout *layout,
                          ks_err *err) {
    /* quiet NaN of each storage type, little-endian */
    static const uint8_t nan_f32[] = {0, 0, 0xc0, 0x7f};
    static const uint8_t nan_bf16[] = {0xc0, 0x7f}, nan_f16[] = {0, 0x7e};
    const uint8_t *nan = spec->dtype == KS_F32    ? nan_f32
                         : spec->dtype == KS_BF16 ? nan_bf16
                                                  : nan_f16;
    ks_status st = KS_OK;
    hid_t type = ks__h5_type(spec->dtype);
    hid_t acts = make_group(file, "activations");
    hid_t sums = make_group(file, "checksums");
    hid_t acts_stream = -1, sums_stream = -1;
    KS_TRY(put_text(sums, path, "algorithm",
                    "CRC-32C of the stored bytes of a row [d]", 0, err));
    for (int i = 0; i < layout->n_sets; i++) {
        ks__acts_set *set = &layout->sets[i];
        if (i == 0 || set->stream != set[-1].stream) {
            const char *name = ks_stream_name(set->stream);
            ks__h5_drop(&acts_stream);
            ks__h5_drop(&sums_stream);
            acts_stream = make_group(acts, name);
            sums_stream = make_group(sums, name);
        }
        const char *name = ks_position_name(set->position);
        hsize_t extent[] = {(hsize_t)set->n_layers, (hsize_t)set->n_rows,
                            (hsize_t)spec->d};
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
        H5Pset_alignment(access, ALIGN_FROM, ALIGN_TO) >= 0 &&
        H5Pset_file_locking(access, false, true) >= 0)
        file = H5Fcreate(path, H5F_ACC_TRUNC, how, access);
    ks__h5_drop(&access);
    ks__h5_drop(&how);
    return file;
}

ks_status ks__acts_build(const char *path, const ks_acts_spec *spec,
                         ks__acts_layout *layout, ks_err *err) {
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
    KS_TRY(put_steps(file, path, spec, err));
    KS_TRY(put_chains(file, path, spec, err));
    KS_TRY(put_sets(file, path, spec, layout, err));
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
