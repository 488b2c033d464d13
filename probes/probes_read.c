/* probes_read.c - what a probes.h5 holds; export_h5.c writes it. The file may
 * come from anywhere: shapes are held against one another and against the
 * file's size before anything is allocated or read. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "probes_read.h"

typedef struct reader {
    ks__probes_file from;
    ks_probes_info *out;
} reader;

/* -------------------------------------------------------------- data sets */

static const char *held(H5T_class_t class) {
    return class == H5T_FLOAT     ? "floating-point numbers"
           : class == H5T_INTEGER ? "whole numbers"
                                  : "strings";
}

ks_status ks__probes_open_set(const ks__probes_file *file, const char *name,
                              H5T_class_t class, int rank, int64_t *want,
                              hid_t *set, ks_err *err) {
    ks_status st = KS_OK;
    hid_t space = -1, type = -1, how = -1;
    hsize_t extent[H5S_MAX_RANK] = {0};
    uint64_t bytes = 0;
    *set = H5Dopen2(file->id, name, H5P_DEFAULT);
    KS_CHECK(*set >= 0, KS_FORMAT, "%s: has no data set %s", file->path, name);
    space = H5Dget_space(*set);
    type = H5Dget_type(*set);
    how = H5Dget_create_plist(*set);
    KS_CHECK(H5Tget_class(type) == class, KS_FORMAT, "%s: %s does not hold %s",
             file->path, name, held(class));
    KS_CHECK(H5Sget_simple_extent_ndims(space) == rank &&
                 H5Sget_simple_extent_dims(space, extent, NULL) == rank,
             KS_FORMAT, "%s: %s does not have %d dimensions", file->path, name,
             rank);
    bytes = H5Tget_size(type);
    for (int i = 0; i < rank; i++) {
        if (want[i] < 0 && extent[i] >= 1 && extent[i] <= INT32_MAX)
            want[i] = (int64_t)extent[i];
        KS_CHECK(want[i] >= 0 && extent[i] == (hsize_t)want[i], KS_FORMAT,
                 "%s: %s has extent %llu in dimension %d, expected %lld",
                 file->path, name, (unsigned long long)extent[i], i,
                 (long long)want[i]);
        if (__builtin_mul_overflow(bytes, extent[i], &bytes))
            bytes = UINT64_MAX;
    }
    haddr_t at = H5Dget_offset(*set);
    KS_CHECK(H5Pget_layout(how) == H5D_CONTIGUOUS &&
                 H5Pget_external_count(how) == 0 && at != HADDR_UNDEF &&
                 bytes <= file->size && at <= file->size - bytes,
             KS_FORMAT,
             "%s: %s is not whole in its %llu bytes (was it cut short?)",
             file->path, name, (unsigned long long)file->size);
done:
    if (st != KS_OK) ks__h5_drop(set);
    ks__h5_drop(&how);
    ks__h5_drop(&type);
    ks__h5_drop(&space);
    return st;
}

ks_status ks__probes_read_place(hid_t set, const char *path, int rank,
                                const hsize_t *one, hsize_t at, float *out,
                                ks_err *err) {
    hsize_t from[H5S_MAX_RANK] = {at};
    hid_t space = H5Dget_space(set);
    hid_t memory = H5Screate_simple(rank, one, NULL);
    bool good =
        space >= 0 && memory >= 0 &&
        H5Sget_simple_extent_ndims(space) == rank &&
        H5Sselect_hyperslab(space, H5S_SELECT_SET, from, NULL, one, NULL) >=
            0 &&
        H5Sselect_valid(space) > 0 &&
        H5Dread(set, H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT, out) >= 0;
    ks_status st = good ? KS_OK : ks__h5_fail(err, path, "read the weights");
    ks__h5_drop(&memory);
    ks__h5_drop(&space);
    return st;
}

/* n values as int32; *out is malloc'd, NULL: the data set is only checked. */
static ks_status get_set(const reader *r, const char *group, const char *name,
                         H5T_class_t class, int rank, int64_t *want,
                         int32_t **out, ks_err *err) {
    ks_status st = KS_OK;
    char full[128];
    hid_t set = -1;
    size_t n = 1;
    snprintf(full, sizeof full, "%s/%s", group, name);
    KS_TRY(ks__probes_open_set(&r->from, full, class, rank, want, &set, err));
    if (!out) goto done;
    for (int i = 0; i < rank; i++) n *= (size_t)want[i];
    KS_TRY(ks_alloc(out, n, sizeof **out, name, err));
    if (H5Dread(set, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, *out) < 0)
        KS_TRY(ks__h5_fail(err, r->from.path, "read a data set"));
done:
    ks__h5_drop(&set);
    return st;
}

/* --------------------------------------------------------------- one series */

static ks_status check_chosen(const reader *r, const ks_probes_series *s,
                              const char *group, ks_err *err) {
    int64_t fits = (int64_t)r->out->n_seeds * r->out->n_folds;
    for (int64_t i = 0; i < fits; i++) {
        int32_t l = 0;
        while (l < s->n_layers && s->layer[l] != s->chosen[i]) l++;
        if (l == s->n_layers)
            return ks_fail(err, KS_FORMAT,
                           "%s: %s/chosen_layer holds layer %d, which is not "
                           "in %s/layer",
                           r->from.path, group, s->chosen[i], group);
    }
    return KS_OK;
}

static ks_status get_weights(const reader *r, ks_probes_series *s,
                             const char *group, ks_err *err) {
    static const char *const names[] = {"weight", "mean", "scale"};
    ks_status st = KS_OK;
    char name[128];
    int64_t shape[4] = {s->n_layers, r->out->n_seeds, r->out->n_folds, -1};
    snprintf(name, sizeof name, "%s/weight", group);
    s->has_weights = H5Lexists(r->from.id, name, H5P_DEFAULT) > 0;
    if (!s->has_weights) return KS_OK;
    for (size_t i = 0; i < KS_COUNT(names); i++)
        KS_TRY(get_set(r, group, names[i], H5T_FLOAT, 4, shape, NULL, err));
    KS_TRY(get_set(r, group, "bias", H5T_FLOAT, 3, shape, NULL, err));
    KS_CHECK(!r->out->d || shape[3] == r->out->d, KS_FORMAT,
             "%s: %s/weight is for %lld features, those before it for %d",
             r->from.path, group, (long long)shape[3], r->out->d);
    r->out->d = (int32_t)shape[3];
done:
    return st;
}

static ks_status get_series(const reader *r, ks_stream stream,
                            ks_position position, ks_err *err) {
    ks_status st = KS_OK;
    ks_probes_info *o = r->out;
    char group[64];
    snprintf(group, sizeof group, "/probes/%s-%s", ks_stream_name(stream),
             ks_position_name(position));
    if (H5Lexists(r->from.id, group, H5P_DEFAULT) <= 0) return KS_OK;
    ks_probes_series *s = &o->series[o->n_series++];
    *s = (ks_probes_series){.stream = stream, .position = position};
    int64_t layers = -1, fits[3] = {0, o->n_seeds, -1};
    KS_TRY(get_set(r, group, "layer", H5T_INTEGER, 1, &layers, &s->layer, err));
    s->n_layers = (int32_t)layers;
    fits[0] = layers;
    if (o->n_folds) fits[2] = o->n_folds;
    KS_TRY(get_set(r, group, "strength", H5T_FLOAT, 3, fits, NULL, err));
    o->n_folds = (int32_t)fits[2];
    KS_TRY(get_set(r, group, "chosen_layer", H5T_INTEGER, 2, fits + 1,
                   &s->chosen, err));
    KS_TRY(check_chosen(r, s, group, err));
    int64_t scores[2] = {layers, o->n_steps};
    KS_TRY(get_set(r, group, "scores", H5T_FLOAT, 2, scores, NULL, err));
    KS_TRY(
        get_set(r, group, "best_scores", H5T_FLOAT, 1, scores + 1, NULL, err));
    KS_TRY(get_weights(r, s, group, err));
done:
    return st;
}

/* --------------------------------------------------------------- whole file
 */

/* Steps that a fold holds, from the first seed. */
static ks_status get_folds(const reader *r, ks_err *err) {
    ks_status st = KS_OK;
    int32_t *fold = NULL;
    int64_t shape[2] = {-1, -1};
    KS_TRY(get_set(r, "", "fold", H5T_INTEGER, 2, shape, &fold, err));
    r->out->n_seeds = (int32_t)shape[0];
    r->out->n_steps = shape[1];
    for (int64_t i = 0; i < shape[1]; i++) r->out->n_probed += fold[i] != 255;
done:
    free(fold);
    return st;
}

static ks_status get_all(const reader *r, ks_err *err) {
    static const char expected[] = "a probes.h5";
    ks_status st = KS_OK;
    ks_probes_info *o = r->out;
    KS_TRY(ks__h5_text(r->from.id, r->from.path, "model_name", expected,
                       &o->model_name, err));
    KS_TRY(ks__h5_text(r->from.id, r->from.path, "model_sha256", expected,
                       &o->model_sha256, err));
    KS_TRY(ks__h5_text(r->from.id, r->from.path, "context", expected,
                       &o->context, err));
    KS_TRY(ks__h5_text(r->from.id, r->from.path, "program_version", expected,
                       &o->program_version, err));
    KS_TRY(get_folds(r, err));
    for (ks_stream s = 0; s < KS_N_STREAMS; s++)
        for (ks_position p = 0; p < KS_N_POSITIONS; p++)
            KS_TRY(get_series(r, s, p, err));
    KS_CHECK(o->n_series > 0, KS_FORMAT, "%s: has no group under /probes",
             r->from.path);
done:
    return st;
}

ks_status ks__probes_file_open(ks__probes_file *out, const char *path,
                               ks_err *err) {
    struct stat info;
    *out = (ks__probes_file){.path = path, .id = -1};
    if (stat(path, &info) != 0)
        return ks_fail(err, KS_IO, "%s: there is no such file", path);
    out->size = (uint64_t)info.st_size;
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (H5Pset_file_locking(access, false, true) >= 0)
        out->id = H5Fopen(path, H5F_ACC_RDONLY, access);
    ks__h5_drop(&access);
    return out->id < 0 ? ks__h5_fail(err, path, "open as HDF5") : KS_OK;
}

void ks__probes_file_close(ks__probes_file *file) {
    ks__h5_drop(&file->id);
}

bool ks_probes_is(const char *path) {
    ks__h5 was;
    ks__probes_file file;
    ks__h5_enter(&was);
    bool is = ks__probes_file_open(&file, path, NULL) == KS_OK &&
              H5Lexists(file.id, "/probes", H5P_DEFAULT) > 0;
    ks__probes_file_close(&file);
    ks__h5_leave(&was);
    return is;
}

ks_status ks_probes_read(ks_probes_info *out, const char *path, ks_err *err) {
    ks_status st = KS_OK;
    reader r = {.out = out};
    ks__h5 was;
    *out = (ks_probes_info){0};
    ks__h5_enter(&was);
    st = ks__probes_file_open(&r.from, path, err);
    if (st == KS_OK) st = get_all(&r, err);
    ks__probes_file_close(&r.from);
    ks__h5_leave(&was);
    if (st != KS_OK) ks_probes_free(out);
    return st;
}

void ks_probes_free(ks_probes_info *p) {
    free(p->model_name);
    free(p->model_sha256);
    free(p->context);
    free(p->program_version);
    for (int i = 0; i < p->n_series; i++) {
        free(p->series[i].layer);
        free(p->series[i].chosen);
    }
    *p = (ks_probes_info){0};
}

int ks_probes_find(const ks_probes_info *p, ks_stream stream,
                   ks_position position) {
    for (int k = 0; k < p->n_series; k++)
        if (p->series[k].stream == stream && p->series[k].position == position)
            return k;
    return -1;
}

int32_t ks_probes_usual(const ks_probes_info *p, int series) {
    const ks_probes_series *s = &p->series[series];
    int64_t best = 0, most = 0, fits = (int64_t)p->n_seeds * p->n_folds;
    for (int32_t l = 0; l < s->n_layers; l++) {
        int64_t times = 0;
        for (int64_t i = 0; i < fits; i++) times += s->chosen[i] == s->layer[l];
        if (times > most) {
            most = times;
            best = l;
        }
    }
    return s->layer[best];
}
