/* acts_meta.c - attributes, chains and steps of an activation file, read and
 * checked. The file may come from anywhere: counts and offsets are held
 * against the file's size before anything is allocated or read. */
#include "acts_format.h"

#include <stdlib.h>
#include <string.h>

/* -------------------------------------------------------------- attributes */

static ks_status get_text(hid_t at, const char *path, const char *name,
                          char **out, ks_err *err) {
    return ks__h5_text(at, path, name, "an activation file", out, err);
}

static ks_status get_int(hid_t at, const char *path, const char *name,
                         int64_t low, int64_t high, int64_t *out, ks_err *err) {
    ks_status st = KS_OK;
    hid_t attribute = H5Aopen(at, name, H5P_DEFAULT), space = -1, type = -1;
    KS_CHECK(attribute >= 0, KS_FORMAT,
             "%s: has no attribute '%s'; expected "
             "an activation file of keystep",
             path, name);
    space = H5Aget_space(attribute);
    type = H5Aget_type(attribute);
    KS_CHECK(H5Tget_class(type) == H5T_INTEGER &&
                 H5Sget_simple_extent_npoints(space) == 1,
             KS_FORMAT, "%s: attribute '%s' is not one whole number", path,
             name);
    if (H5Aread(attribute, H5T_NATIVE_INT64, out) < 0)
        KS_TRY(ks__h5_fail(err, path, "read an attribute"));
    KS_CHECK(*out >= low && *out <= high, KS_FORMAT,
             "%s: attribute '%s' is "
             "%lld, expected %lld to %lld",
             path, name, (long long)*out, (long long)low, (long long)high);
done:
    ks__h5_drop(&type);
    ks__h5_drop(&space);
    ks__h5_drop(&attribute);
    return st;
}

/* "layers": those that are there, ascending; no attribute: all. */
static ks_status get_listed(ks_acts_file *f, ks_err *err) {
    ks_status st = KS_OK;
    hid_t attribute = -1, space = -1, type = -1;
    if (H5Aexists(f->file, "layers") <= 0) return KS_OK;
    attribute = H5Aopen(f->file, "layers", H5P_DEFAULT);
    space = H5Aget_space(attribute);
    type = H5Aget_type(attribute);
    hssize_t n = H5Sget_simple_extent_npoints(space);
    KS_CHECK(H5Tget_class(type) == H5T_INTEGER &&
                 H5Sget_simple_extent_ndims(space) == 1 && n > 0 &&
                 n <= f->info.n_layers + 1,
             KS_FORMAT, "%s: attribute 'layers' is not a list of layers",
             f->path);
    KS_TRY(ks_alloc(&f->listed, (size_t)n, sizeof *f->listed, "layers", err));
    if (H5Aread(attribute, H5T_NATIVE_INT32, f->listed) < 0)
        KS_TRY(ks__h5_fail(err, f->path, "read an attribute"));
    for (hssize_t i = 0; i < n; i++)
        KS_CHECK(f->listed[i] > (i ? f->listed[i - 1] : -1) &&
                     f->listed[i] <= f->info.n_layers,
                 KS_FORMAT,
                 "%s: attribute 'layers' has %d at place %lld, expected "
                 "ascending ones up to %d",
                 f->path, f->listed[i], (long long)i, f->info.n_layers);
    f->info.listed = f->layout.listed = f->listed;
    f->info.n_listed = f->layout.n_listed = (int32_t)n;
done:
    ks__h5_drop(&type);
    ks__h5_drop(&space);
    ks__h5_drop(&attribute);
    return st;
}

/* indices of texts */
enum {
    FORMAT,
    MODEL,
    SHA,
    TOKENIZER,
    ISA,
    BACKEND,
    CONFIG,
    VERSION,
    SHARD,
    WHOLE,
    WORD
};

/* Of a shard which one it is and of what; of a joined file how many it has. */
static ks_status get_shard(ks_acts_file *f, ks_err *err) {
    ks_status st = KS_OK;
    int64_t n = 0;
    char **t = f->texts;
    if (H5Aexists(f->file, "shard") > 0) {
        KS_TRY(get_text(f->file, f->path, "shard", &t[SHARD], err));
        KS_TRY(get_text(f->file, f->path, "whole_sha256", &t[WHOLE], err));
        f->info.shard = t[SHARD];
        f->info.whole_sha256 = t[WHOLE];
    }
    if (H5Aexists(f->file, "shards") > 0)
        KS_TRY(get_int(f->file, f->path, "shards", 1, INT32_MAX, &n, err));
    f->info.n_shards = (int32_t)n;
done:
    return st;
}

static ks_status get_attributes(ks_acts_file *f, ks_err *err) {
    ks_status st = KS_OK;
    ks_acts_info *info = &f->info;
    int64_t n = 0;
    char **t = f->texts;
    KS_TRY(get_text(f->file, f->path, "format", &t[FORMAT], err));
    KS_CHECK(strcmp(t[FORMAT], "keystep activations") == 0, KS_FORMAT,
             "%s: its format is '%.40s', expected 'keystep activations'",
             f->path, t[FORMAT]);
    KS_TRY(get_int(f->file, f->path, "format_version", 1, KS__ACTS_VERSION, &n,
                   err));
    KS_TRY(get_text(f->file, f->path, "model_name", &t[MODEL], err));
    KS_TRY(get_text(f->file, f->path, "model_sha256", &t[SHA], err));
    KS_TRY(get_text(f->file, f->path, "tokenizer_hash", &t[TOKENIZER], err));
    KS_TRY(get_text(f->file, f->path, "isa", &t[ISA], err));
    KS_TRY(get_text(f->file, f->path, "backend", &t[BACKEND], err));
    KS_TRY(get_text(f->file, f->path, "config", &t[CONFIG], err));
    KS_TRY(get_text(f->file, f->path, "program_version", &t[VERSION], err));
    KS_TRY(get_int(f->file, f->path, "n_layers", 1, INT32_MAX / 2, &n, err));
    info->n_layers = (int32_t)n;
    KS_TRY(get_listed(f, err));
    KS_TRY(get_int(f->file, f->path, "d_model", 1, INT32_MAX / 8, &n, err));
    info->d = (int32_t)n;
    KS_TRY(get_int(f->file, f->path, "random_weights", -1, INT64_MAX,
                   &info->random_weights, err));
    KS_TRY(get_text(f->file, f->path, "context", &t[WORD], err));
    info->context_none = strcmp(t[WORD], "none") == 0;
    KS_CHECK(info->context_none || strcmp(t[WORD], "full") == 0, KS_FORMAT,
             "%s: context is '%.40s', expected full or none", f->path, t[WORD]);
    free(t[WORD]);
    KS_TRY(get_text(f->file, f->path, "dtype", &t[WORD], err));
    while (info->dtype <= KS_BF16 &&
           strcmp(t[WORD], ks_type_name(info->dtype)) != 0)
        info->dtype++;
    KS_CHECK(info->dtype <= KS_BF16, KS_FORMAT,
             "%s: dtype is '%.40s', expected bf16, f16 or f32", f->path,
             t[WORD]);
    free(t[WORD]);
    KS_TRY(get_text(f->file, f->path, "spec_sha256", &t[WORD], err));
    snprintf(f->spec_hash, sizeof f->spec_hash, "%s", t[WORD]);
    info->model_name = t[MODEL];
    info->model_sha256 = t[SHA];
    info->tokenizer_hash = t[TOKENIZER];
    info->isa = t[ISA];
    info->backend = t[BACKEND];
    info->config = t[CONFIG];
    info->program_version = t[VERSION];
    info->spec_sha256 = f->spec_hash;
    KS_TRY(get_shard(f, err));
done:
    return st;
}

/* ---------------------------------------------------------------- columns */

/* A one-dimensional data set whose bytes lie in this file. */
static ks_status open_column(const ks_acts_file *f, const char *name,
                             int64_t *n, hid_t *set, ks_err *err) {
    ks_status st = KS_OK;
    hid_t space = -1, how = -1;
    hsize_t extent[H5S_MAX_RANK];
    *set = H5Dopen2(f->file, name, H5P_DEFAULT);
    KS_CHECK(*set >= 0, KS_FORMAT, "%s: has no data set %s", f->path, name);
    space = H5Dget_space(*set);
    int rank = H5Sget_simple_extent_ndims(space);
    KS_CHECK(rank == 1 && H5Sget_simple_extent_dims(space, extent, NULL) == 1,
             KS_FORMAT, "%s: %s has %d dimensions, expected 1", f->path, name,
             rank);
    KS_CHECK(*n < 0 || extent[0] == (hsize_t)*n, KS_FORMAT,
             "%s: %s has %llu "
             "rows, expected %lld",
             f->path, name, (unsigned long long)extent[0], (long long)*n);
    how = H5Dget_create_plist(*set);
    H5D_layout_t layout = H5Pget_layout(how);
    KS_CHECK(layout == H5D_CONTIGUOUS || layout == H5D_COMPACT, KS_FORMAT,
             "%s: %s is chunked or virtual, expected contiguous", f->path,
             name);
    hsize_t bytes = H5Dget_storage_size(*set);
    KS_CHECK(H5Pget_external_count(how) == 0 && bytes <= f->map.size &&
                 extent[0] <= bytes,
             KS_FORMAT,
             "%s: %s says it has %llu rows in %llu bytes; the file has %zu",
             f->path, name, (unsigned long long)extent[0],
             (unsigned long long)bytes, f->map.size);
    *n = (int64_t)extent[0];
done:
    if (st != KS_OK) ks__h5_drop(set);
    ks__h5_drop(&how);
    ks__h5_drop(&space);
    return st;
}

static ks_status get_numbers(const ks_acts_file *f, const char *name, int64_t n,
                             size_t at, int32_t *scratch, ks_err *err) {
    hid_t set = -1;
    ks_status st = open_column(f, name, &n, &set, err);
    if (st != KS_OK) return st;
    if (H5Dread(set, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, scratch) <
        0)
        st = ks__h5_fail(err, f->path, "read the steps");
    ks__h5_drop(&set);
    for (int64_t i = 0; i < n && st == KS_OK; i++)
        memcpy((char *)&f->steps[i] + at, &scratch[i], sizeof *scratch);
    return st;
}

static ks_status get_flags(ks_acts_file *f, int32_t *scratch, ks_err *err) {
    ks_status st = KS_OK;
    int64_t n = f->info.n_steps;
    hid_t set = -1;
    KS_TRY(open_column(f, "/steps/valid", &n, &set, err));
    if (H5Dread(set, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, scratch) <
        0)
        KS_TRY(ks__h5_fail(err, f->path, "read the steps"));
    for (int64_t i = 0; i < n; i++) {
        KS_CHECK(scratch[i] == 0 || scratch[i] == 1, KS_FORMAT,
                 "%s: /steps/valid[%lld] is %d, expected 0 or 1", f->path,
                 (long long)i, scratch[i]);
        f->steps[i].valid = (uint8_t)scratch[i];
        f->steps[i].label = -1;
    }
    ks__h5_drop(&set);
    f->info.has_labels = H5Lexists(f->file, "/steps/label", H5P_DEFAULT) > 0;
    if (!f->info.has_labels) goto done;
    KS_TRY(open_column(f, "/steps/label", &n, &set, err));
    if (H5Dread(set, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, scratch) <
        0)
        KS_TRY(ks__h5_fail(err, f->path, "read the labels"));
    for (int64_t i = 0; i < n; i++) {
        KS_CHECK(scratch[i] >= -1 && scratch[i] <= 1, KS_FORMAT,
                 "%s: /steps/label[%lld] is %d, expected 1, 0 or -1", f->path,
                 (long long)i, scratch[i]);
        f->steps[i].label = (int8_t)scratch[i];
    }
done:
    ks__h5_drop(&set);
    return st;
}

static ks_status check_steps(ks_acts_file *f, ks_err *err) {
    ks_status st = KS_OK;
    for (int64_t i = 0; i < f->info.n_steps; i++) {
        const ks_step_row *s = &f->steps[i];
        KS_CHECK(s->chain >= 0 && s->chain < f->info.n_chains, KS_FORMAT,
                 "%s: step %lld is of chain %d; there are %lld chains", f->path,
                 (long long)i, s->chain, (long long)f->info.n_chains);
        KS_CHECK(s->index >= 0 && s->token_begin >= 0 &&
                     s->token_begin <= s->token_end && s->byte_begin >= 0 &&
                     s->byte_begin <= s->byte_end,
                 KS_FORMAT,
                 "%s: step %lld has index %d, tokens %d to %d, bytes %d to %d",
                 f->path, (long long)i, s->index, s->token_begin, s->token_end,
                 s->byte_begin, s->byte_end);
        f->info.n_tokens += s->token_end - s->token_begin;
    }
done:
    return st;
}

static ks_status get_steps(ks_acts_file *f, ks_err *err) {
    ks_status st = KS_OK;
    int32_t *scratch = NULL;
    hid_t set = -1;
    int64_t n = -1;
    KS_TRY(open_column(f, "/steps/chain", &n, &set, err));
    ks__h5_drop(&set);
    KS_CHECK(n > 0, KS_FORMAT, "%s: has no steps", f->path);
    f->info.n_steps = n;
    KS_TRY(ks_alloc(&f->steps, (size_t)n, sizeof *f->steps, "the steps", err));
    KS_TRY(ks_alloc(&scratch, (size_t)n, sizeof *scratch, "the steps", err));
#define GET(field)                                                             \
    KS_TRY(get_numbers(f, "/steps/" #field, n, offsetof(ks_step_row, field),   \
                       scratch, err))
    GET(chain);
    GET(index);
    GET(token_begin);
    GET(token_end);
    GET(byte_begin);
    GET(byte_end);
#undef GET
    KS_TRY(get_flags(f, scratch, err));
    KS_TRY(check_steps(f, err));
    f->info.steps = f->steps;
done:
    free(scratch);
    return st;
}

/* Strings of fixed or variable length, one after another in *out, each with
 * a NUL, each `*stride` bytes apart. */
static ks_status get_strings(const ks_acts_file *f, const char *name,
                             int64_t *n, char **out, size_t *stride,
                             ks_err *err) {
    ks_status st = KS_OK;
    hid_t set = -1, type = -1, space = -1;
    char **variable = NULL;
    KS_TRY(open_column(f, name, n, &set, err));
    type = H5Dget_type(set);
    space = H5Dget_space(set);
    size_t rows = (size_t)*n, width = 0;
    KS_CHECK(H5Tget_class(type) == H5T_STRING, KS_FORMAT,
             "%s: %s does not hold strings", f->path, name);
    if (H5Tis_variable_str(type) > 0) {
        KS_TRY(ks_alloc(&variable, rows, sizeof *variable, name, err));
        if (H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, variable) < 0)
            KS_TRY(ks__h5_fail(err, f->path, "read the chains"));
        for (size_t i = 0; i < rows; i++)
            width = KS_MAX(width, variable[i] ? strlen(variable[i]) : 0);
        KS_TRY(ks_alloc(out, rows, width + 1, name, err));
        for (size_t i = 0; i < rows; i++)
            if (variable[i]) strcpy(*out + i * (width + 1), variable[i]);
    } else {
        width = H5Tget_size(type);
        KS_TRY(ks_alloc(out, rows, width + 1, name, err));
        /* read packed, then spread from the end, a NUL after each */
        if (H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, *out) < 0)
            KS_TRY(ks__h5_fail(err, f->path, "read the chains"));
        for (size_t i = rows; i-- > 0;) {
            memmove(*out + i * (width + 1), *out + i * width, width);
            (*out)[i * (width + 1) + width] = 0;
        }
    }
    *stride = width + 1;
done:
    if (variable) {
        H5Dvlen_reclaim(type, space, H5P_DEFAULT, variable);
        free(variable);
    }
    ks__h5_drop(&space);
    ks__h5_drop(&type);
    ks__h5_drop(&set);
    return st;
}

static ks_status get_chains(ks_acts_file *f, ks_err *err) {
    ks_status st = KS_OK;
    int64_t n = -1;
    size_t wide[3];
    KS_TRY(get_strings(f, "/chains/id", &n, &f->ids, &wide[0], err));
    KS_CHECK(n > 0, KS_FORMAT, "%s: has no chains", f->path);
    KS_TRY(get_strings(f, "/chains/problem", &n, &f->problems, &wide[1], err));
    KS_TRY(
        get_strings(f, "/chains/text_sha256", &n, &f->hashes, &wide[2], err));
    KS_TRY(
        ks_alloc(&f->chains, (size_t)n, sizeof *f->chains, "the chains", err));
    for (size_t i = 0; i < (size_t)n; i++) {
        ks_chain_row *c = &f->chains[i];
        c->id = f->ids + i * wide[0];
        c->problem = f->problems + i * wide[1];
        snprintf(c->text_sha256, sizeof c->text_sha256, "%s",
                 f->hashes + i * wide[2]);
    }
    f->info.n_chains = n;
    f->info.chains = f->chains;
done:
    return st;
}

ks_status ks__acts_get_meta(ks_acts_file *f, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(get_attributes(f, err));
    KS_TRY(get_chains(f, err));
    KS_TRY(get_steps(f, err));
done:
    return st;
}
