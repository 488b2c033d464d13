/* acts_verify.c - is an activation file what it says: the shards behind its
 * virtual data sets, the checksum of every row, NaN only where allowed. */
#include "acts_format.h"

#include <libgen.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"
#include "shard.h"

/* ----------------------------------------------------------------- sources */

/* A shard's path as HDF5 finds it: beside the joined file (what a link to that
 * means) unless absolute, "." is the file itself. */
static ks_status source_path(const char *joined, const char *name, char **out,
                             ks_err *err) {
    if (name[0] == '/' || strcmp(name, ".") == 0) {
        *out = strdup(name[0] == '/' ? name : joined);
        return *out ? KS_OK
                    : ks_fail(err, KS_NOMEM, "out of memory for a path");
    }
    char *real = realpath(joined, NULL);
    if (!real) return ks_fail(err, KS_IO, "%s: cannot tell its folder", joined);
    ks_status st = ks_path_join(out, dirname(real), name, err);
    free(real);
    return st;
}

/* The name of mapping i's source file or data set, malloc'd. */
static char *mapping_name(hid_t how, size_t i, bool file) {
    ssize_t n = file ? H5Pget_virtual_filename(how, i, NULL, 0)
                     : H5Pget_virtual_dsetname(how, i, NULL, 0);
    char *name = n > 0 && n < 65536 ? calloc((size_t)n + 1, 1) : NULL;
    if (!name) return NULL;
    n = file ? H5Pget_virtual_filename(how, i, name, (size_t)n + 1)
             : H5Pget_virtual_dsetname(how, i, name, (size_t)n + 1);
    if (n <= 0) {
        free(name);
        return NULL;
    }
    return name;
}

/* The extent holds what the mapping takes: all of it (h5py writes that when a
 * whole shard is mapped; the library then keeps no extent) or a part. */
static ks_status check_extent(const char *path, const char *name,
                              const hsize_t *extent, int rank, hid_t wanted,
                              hssize_t points, ks_err *err) {
    ks_status st = KS_OK;
    hsize_t low[H5S_MAX_RANK], high[H5S_MAX_RANK];
    if (H5Sget_select_type(wanted) == H5S_SEL_ALL) {
        uint64_t all = 1;
        for (int i = 0; i < rank; i++)
            if (__builtin_mul_overflow(all, extent[i], &all)) all = 0;
        KS_CHECK(all == (uint64_t)points, KS_FORMAT,
                 "%s: the shard's %s has "
                 "%llu values, the joined file takes %lld",
                 path, name, (unsigned long long)all, (long long)points);
        return KS_OK;
    }
    KS_CHECK(rank == H5Sget_simple_extent_ndims(wanted) &&
                 points == H5Sget_select_npoints(wanted) &&
                 H5Sget_select_bounds(wanted, low, high) >= 0,
             KS_FORMAT,
             "%s: the shard's %s has another shape than the joined file takes",
             path, name);
    for (int i = 0; i < rank; i++)
        KS_CHECK(high[i] < extent[i], KS_FORMAT,
                 "%s: the shard's %s has %llu "
                 "rows in dimension %d, the joined file takes %llu",
                 path, name, (unsigned long long)extent[i], i,
                 (unsigned long long)high[i] + 1);
done:
    return st;
}

/* Is the file at path one of the shards that joined was made of, behind those
 * up to *last? */
static ks_status check_origin(const ks_acts_file *joined, const char *path,
                              hid_t file, int32_t *last, ks_err *err) {
    ks_status st = KS_OK;
    char *shard = NULL, *whole = NULL;
    ks_shard which;
    static const char expected[] = "a shard";
    if (!joined->info.n_shards) return KS_OK;
    KS_TRY(ks__h5_text(file, path, "shard", expected, &shard, err));
    KS_TRY(ks__h5_text(file, path, "whole_sha256", expected, &whole, err));
    KS_CHECK(strcmp(whole, joined->spec_hash) == 0, KS_MISMATCH,
             "%s: is a shard of another run than %s was joined from "
             "(%.12s..., expected %.12s...)",
             path, joined->path, whole, joined->spec_hash);
    KS_CHECK(ks_shard_read(shard, &which) && which.n == joined->info.n_shards &&
                 which.k > *last,
             KS_MISMATCH, "%s: is shard %.32s, expected one behind %d of %d",
             path, shard, *last, joined->info.n_shards);
    *last = which.k;
done:
    free(shard);
    free(whole);
    return st;
}

/* The source data set is there, of the type, contiguous within its file's
 * length, and holds the `points` values that the mapping takes. */
static ks_status check_source(const ks_acts_file *joined, const char *path,
                              const char *name, hid_t type, hid_t wanted,
                              hssize_t points, int32_t *last, ks_err *err) {
    ks_status st = KS_OK;
    hid_t access = -1, file = -1, set = -1, have = -1, space = -1;
    hsize_t extent[H5S_MAX_RANK];
    ks_map map = {0};
    st = ks_map_open(&map, path, err);
    if (st != KS_OK) {
        ks_fail(err, KS_IO, "%s: a shard cannot be opened", path);
        goto done;
    }
    access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_file_locking(access, false, true);
    file = H5Fopen(path, H5F_ACC_RDONLY, access);
    if (file < 0) KS_TRY(ks__h5_fail(err, path, "open as HDF5"));
    KS_TRY(check_origin(joined, path, file, last, err));
    set = H5Dopen2(file, name, H5P_DEFAULT);
    KS_CHECK(set >= 0, KS_FORMAT, "%s: the shard has no data set %s", path,
             name);
    have = H5Dget_type(set);
    KS_CHECK(H5Tequal(have, type) > 0, KS_MISMATCH,
             "%s: the shard stores %s in another type than the joined file",
             path, name);
    space = H5Dget_space(set);
    int rank = H5Sget_simple_extent_ndims(space);
    KS_CHECK(rank > 0 && H5Sget_simple_extent_dims(space, extent, NULL) == rank,
             KS_FORMAT, "%s: the shard's %s has no extent", path, name);
    KS_TRY(check_extent(path, name, extent, rank, wanted, points, err));
    uint64_t bytes = H5Tget_size(have);
    for (int i = 0; i < rank; i++)
        KS_CHECK(!__builtin_mul_overflow(bytes, extent[i], &bytes), KS_FORMAT,
                 "%s: %s has an impossible size", path, name);
    haddr_t at = H5Dget_offset(set);
    KS_CHECK(at != HADDR_UNDEF && bytes <= map.size && at <= map.size - bytes,
             KS_FORMAT, "%s: the shard's %s is not whole in its %zu bytes",
             path, name, map.size);
done:
    ks__h5_drop(&space);
    ks__h5_drop(&have);
    ks__h5_drop(&set);
    ks__h5_drop(&file);
    ks__h5_drop(&access);
    ks_map_close(&map);
    return st;
}

ks_status ks__acts_check_virtual(const ks_acts_file *joined, hid_t set,
                                 const char *what, ks__acts_source_fn each,
                                 void *user, ks_err *err) {
    ks_status st = KS_OK;
    const char *path = joined->path;
    int32_t last = 0;
    static const char elsewhere[] = "HDF5_VDS_PREFIX";
    hid_t how = H5Dget_create_plist(set), type = H5Dget_type(set);
    hid_t space = H5Dget_space(set), to = -1, from = -1;
    char *file = NULL, *name = NULL, *source = NULL;
    size_t count = 0;
    hssize_t covered = 0;
    /* the library looks there first, and we beside the file */
    KS_CHECK(!getenv(elsewhere), KS_UNSUPPORTED,
             "%s: is joined from shards, and %s is set, which has other files "
             "read in their place: unset it",
             path, elsewhere);
    if (H5Pget_virtual_count(how, &count) < 0)
        KS_TRY(ks__h5_fail(err, path, "read the sources of a data set"));
    for (size_t i = 0; i < count; i++) {
        to = H5Pget_virtual_vspace(how, i);
        from = H5Pget_virtual_srcspace(how, i);
        file = mapping_name(how, i, true);
        name = mapping_name(how, i, false);
        KS_CHECK(to >= 0 && from >= 0 && file && name, KS_FORMAT,
                 "%s: source %zu of %s cannot be read", path, i, what);
        hssize_t points = H5Sget_select_npoints(to);
        KS_CHECK(points >= 0, KS_FORMAT,
                 "%s: source %zu of %s (%s) has no fixed extent", path, i, what,
                 file);
        covered += points;
        KS_TRY(source_path(path, file, &source, err));
        KS_TRY(
            check_source(joined, source, name, type, from, points, &last, err));
        if (each) KS_TRY(each(user, source, err));
        free(file);
        free(name);
        free(source);
        file = name = source = NULL;
        ks__h5_drop(&to);
        ks__h5_drop(&from);
    }
    hssize_t all = H5Sget_simple_extent_npoints(space);
    KS_CHECK(covered == all, KS_FORMAT,
             "%s: the shards of %s give %lld of its "
             "%lld values",
             path, what, (long long)covered, (long long)all);
done:
    free(file);
    free(name);
    free(source);
    ks__h5_drop(&from);
    ks__h5_drop(&to);
    ks__h5_drop(&space);
    ks__h5_drop(&type);
    ks__h5_drop(&how);
    return st;
}

/* The distinct shards of a file. */
typedef struct names {
    char **at;
    size_t n, capacity;
} names;

static ks_status remember(void *user, const char *path, ks_err *err) {
    names *all = user;
    for (size_t i = 0; i < all->n; i++)
        if (strcmp(all->at[i], path) == 0) return KS_OK;
    ks_status st = ks_grow(&all->at, &all->capacity, all->n + 1,
                           sizeof *all->at, "the shards", err);
    if (st != KS_OK) return st;
    char *copy = strdup(path);
    if (!copy) return ks_fail(err, KS_NOMEM, "out of memory for a path");
    all->at[all->n++] = copy;
    return KS_OK;
}

static ks_status list_sources(const ks_acts_file *f, names *all, ks_err *err) {
    ks_status st = KS_OK;
    ks__h5 was;
    ks__h5_enter(&was);
    for (int i = 0; i < f->layout.n_sets; i++)
        if (f->virtual[i] >= 0)
            KS_TRY(ks__acts_check_virtual(
                f, f->virtual[i], ks_position_name(f->layout.sets[i].position),
                remember, all, err));
done:
    ks__h5_leave(&was);
    return st;
}

/* -------------------------------------------------------------------- rows */

/* May this row hold NaN? Only where the step has nothing to show there. */
static bool nan_allowed(const ks_acts_info *info, const ks__acts_set *set,
                        int64_t row) {
    return set->position != KS_TOKENS && !info->steps[row].valid;
}

static ks_status blame(const ks_acts_file *f, const ks__acts_set *set,
                       int32_t layer, int64_t row, const char *what,
                       ks_err *err) {
    const ks_acts_info *info = &f->info;
    int64_t step = row;
    if (set->position == KS_TOKENS) {
        int64_t past = 0;
        for (step = 0; step < info->n_steps - 1; step++) {
            past += info->steps[step].token_end - info->steps[step].token_begin;
            if (past > row) break;
        }
    }
    const ks_step_row *s = &info->steps[step];
    return ks_fail(err, KS_FORMAT,
                   "%s: /activations/%s/%s layer %d row %lld (chain '%s', step "
                   "%d) %s",
                   f->path, ks_stream_name(set->stream),
                   ks_position_name(set->position),
                   ks__acts_layer(&f->layout, layer), (long long)row,
                   info->chains[s->chain].id, s->index, what);
}

static ks_status verify_row(const ks_acts_file *f, const ks__acts_set *set,
                            int32_t layer, int64_t row, float *scratch,
                            ks_acts_report *report, ks_err *err) {
    ks_status st = KS_OK;
    const ks_acts_info *info = &f->info;
    const uint8_t *sum = ks__acts_mapped_sums(f, set, layer, row);
    if (sum) {
        uint32_t stored;
        memcpy(&stored, sum, sizeof stored);
        if (ks__crc32c(0, ks__acts_mapped(f, set, layer, row),
                       f->layout.row_bytes) != stored)
            KS_TRY(blame(f, set, layer, row,
                         "does not have the checksum that was stored with it",
                         err));
        report->has_checksums = true;
    }
    KS_TRY(ks_acts_read(f, set->stream, set->position,
                        ks__acts_layer(&f->layout, layer), row, 1, scratch,
                        err));
    int bad = 0;
    for (int32_t i = 0; i < info->d; i++) bad |= !isfinite(scratch[i]);
    if (bad && !nan_allowed(info, set, row))
        KS_TRY(blame(f, set, layer, row,
                     "is not finite though the step has "
                     "tokens",
                     err));
    report->nan_rows += bad;
    report->rows++;
done:
    return st;
}

static ks_status verify_rows(const ks_acts_file *f, ks_acts_report *report,
                             ks_err *err) {
    ks_status st = KS_OK;
    float *scratch = NULL;
    KS_TRY(
        ks_alloc(&scratch, (size_t)f->info.d, sizeof *scratch, "a row", err));
    for (int i = 0; i < f->layout.n_sets; i++) {
        const ks__acts_set *set = &f->layout.sets[i];
        if (f->virtual[i] >= 0) continue; /* the shards are verified */
        for (int32_t l = 0; l < set->n_layers; l++)
            for (int64_t r = 0; r < set->n_rows; r++)
                KS_TRY(verify_row(f, set, l, r, scratch, report, err));
    }
done:
    free(scratch);
    return st;
}

/* ------------------------------------------------------------------- files */

static ks_status same_origin(const ks_acts_file *joined,
                             const ks_acts_file *shard, ks_err *err) {
    const ks_acts_info *a = &joined->info, *b = &shard->info;
    if (strcmp(a->model_sha256, b->model_sha256) != 0 ||
        a->context_none != b->context_none ||
        a->random_weights != b->random_weights)
        return ks_fail(err, KS_MISMATCH,
                       "%s: the shard %s is of model %s "
                       "(SHA-256 %.12s...), the joined file of %s (%.12s...), "
                       "or of another context",
                       joined->path, shard->path, b->model_name,
                       b->model_sha256, a->model_name, a->model_sha256);
    return KS_OK;
}

/* A joined file's shards hold rows themselves: one level is enough. */
static ks_status verify_file(const char *path, const ks_acts_file *joined,
                             ks_acts_report *report, ks_err *err) {
    ks_status st = KS_OK;
    ks_acts_file *f = NULL;
    names shards = {0};
    KS_TRY(ks_acts_open(&f, path, err));
    KS_TRY(list_sources(f, &shards, err));
    KS_CHECK(!joined || shards.n == 0, KS_FORMAT,
             "%s: is a shard and itself joined from shards", path);
    if (joined) KS_TRY(same_origin(joined, f, err));
    for (size_t i = 0; i < shards.n; i++)
        KS_TRY(verify_file(shards.at[i], f, report, err));
    report->sources += (int32_t)shards.n;
    KS_TRY(verify_rows(f, report, err));
    if (!joined)
        for (int64_t i = 0; i < f->info.n_steps; i++)
            report->invalid += !f->info.steps[i].valid;
done:
    for (size_t i = 0; i < shards.n; i++) free(shards.at[i]);
    free(shards.at);
    ks_acts_close(&f);
    return st;
}

ks_status ks_acts_verify(const char *path, ks_acts_report *report,
                         ks_err *err) {
    ks_acts_report own = {0};
    ks_status st = verify_file(path, NULL, &own, err);
    if (report) *report = own;
    return st;
}
