/* export_h5.c - probes.h5; see export.h. */
#include <hdf5.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "acts_format.h"
#include "export.h"
#include "export_h5.h"

hid_t ks__put_group(hid_t at, const char *name) {
    hid_t how = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(how, false);
    hid_t group = H5Gcreate2(at, name, H5P_DEFAULT, how, H5P_DEFAULT);
    ks__h5_drop(&how);
    return group;
}

ks_status ks__put_set(hid_t at, const char *path, const char *name,
                      hid_t file_type, hid_t type, int rank,
                      const hsize_t *shape, const void *data, ks_err *err) {
    hid_t how = H5Pcreate(H5P_DATASET_CREATE);
    hid_t space = H5Screate_simple(rank, shape, NULL), set = -1;
    bool good =
        how >= 0 && space >= 0 && H5Pset_obj_track_times(how, false) >= 0;
    if (good)
        set = H5Dcreate2(at, name, file_type, space, H5P_DEFAULT, how,
                         H5P_DEFAULT);
    good = set >= 0 &&
           H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0;
    ks_status st = good ? KS_OK : ks__h5_fail(err, path, "write a data set");
    ks__h5_drop(&set);
    ks__h5_drop(&space);
    ks__h5_drop(&how);
    return st;
}

ks_status ks__put_text(hid_t at, const char *path, const char *name,
                       const char *text, ks_err *err) {
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR), set = -1;
    bool good = H5Tset_size(type, KS_MAX(strlen(text), 1)) >= 0 &&
                H5Tset_cset(type, H5T_CSET_UTF8) >= 0;
    if (good) set = H5Acreate2(at, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    good = set >= 0 && H5Awrite(set, type, text) >= 0;
    ks_status st = good ? KS_OK : ks__h5_fail(err, path, "write an attribute");
    ks__h5_drop(&set);
    ks__h5_drop(&space);
    ks__h5_drop(&type);
    return st;
}

/* --------------------------------------------------------------- one series */

typedef struct target {
    const ks_evaluation *evaluation;
    const char *path;
    hid_t at;
    hsize_t layers, seeds, folds, d, steps;
} target;

enum what { WEIGHT, BIAS, MEAN, SCALE };

static const float *part_of(const ks_nest *nest, enum what what) {
    return what == WEIGHT ? nest->weight
           : what == BIAS ? nest->bias
           : what == MEAN ? nest->mean
                          : nest->scale;
}

static ks_status put_part(const target *t, const ks_series *s, enum what what,
                          ks_err *err) {
    static const char *const names[] = {"weight", "bias", "mean", "scale"};
    ks_status st = KS_OK;
    hsize_t shape[4] = {t->layers, t->seeds, t->folds, t->d};
    size_t one = (size_t)(t->seeds * t->folds * (what == BIAS ? 1 : t->d));
    float *all = NULL;
    KS_TRY(
        ks_alloc(&all, one * (size_t)t->layers, sizeof *all, "weights", err));
    for (int32_t i = 0; i < s->n_cells; i++)
        memcpy(all + (size_t)i * one, part_of(&s->cells[i].nest, what),
               one * sizeof *all);
    KS_TRY(ks__put_set(t->at, t->path, names[what], H5T_IEEE_F32LE,
                       H5T_NATIVE_FLOAT, what == BIAS ? 3 : 4, shape, all,
                       err));
done:
    free(all);
    return st;
}

static ks_status put_fits(const target *t, const ks_series *s, ks_err *err) {
    ks_status st = KS_OK;
    hsize_t shape[3] = {t->layers, t->seeds, t->folds};
    size_t fits = (size_t)(t->seeds * t->folds);
    double *strength = NULL;
    int32_t *layer = NULL, *chosen = NULL;
    KS_TRY(ks_alloc(&strength, fits * (size_t)t->layers, sizeof *strength,
                    "fits", err));
    KS_TRY(ks_alloc(&layer, (size_t)t->layers, sizeof *layer, "fits", err));
    KS_TRY(ks_alloc(&chosen, fits, sizeof *chosen, "fits", err));
    for (int32_t i = 0; i < s->n_cells; i++) {
        layer[i] = s->cells[i].layer;
        memcpy(strength + (size_t)i * fits, s->cells[i].nest.strength,
               fits * sizeof *strength);
    }
    for (size_t i = 0; i < fits; i++) chosen[i] = layer[s->chosen[i]];
    KS_TRY(ks__put_set(t->at, t->path, "layer", H5T_STD_I32LE, H5T_NATIVE_INT32,
                       1, shape, layer, err));
    KS_TRY(ks__put_set(t->at, t->path, "strength", H5T_IEEE_F64LE,
                       H5T_NATIVE_DOUBLE, 3, shape, strength, err));
    KS_TRY(ks__put_set(t->at, t->path, "chosen_layer", H5T_STD_I32LE,
                       H5T_NATIVE_INT32, 2, shape + 1, chosen, err));
done:
    free(strength);
    free(layer);
    free(chosen);
    return st;
}

/* Scores over all steps of the file, NaN where one was not probed. */
static ks_status put_scores(const target *t, const ks_series *s, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = t->evaluation->dataset;
    hsize_t shape[2] = {t->layers, t->steps};
    size_t steps = (size_t)t->steps, layers = (size_t)t->layers;
    float *all = NULL;
    KS_TRY(ks_alloc(&all, steps * layers, sizeof *all, "scores", err));
    for (size_t i = 0; i < steps * layers; i++) all[i] = NAN;
    for (size_t l = 0; l < layers; l++)
        for (int64_t i = 0; i < d->n; i++)
            all[l * steps + (size_t)d->row[i]] = s->cells[l].score[i];
    KS_TRY(ks__put_set(t->at, t->path, "scores", H5T_IEEE_F32LE,
                       H5T_NATIVE_FLOAT, 2, shape, all, err));
    for (int64_t i = 0; i < d->n; i++) all[d->row[i]] = s->score[i];
    KS_TRY(ks__put_set(t->at, t->path, "best_scores", H5T_IEEE_F32LE,
                       H5T_NATIVE_FLOAT, 1, shape + 1, all, err));
done:
    free(all);
    return st;
}

static ks_status put_series(const ks_evaluation *r, const ks_series *s,
                            hid_t parent, const char *path, ks_err *err) {
    ks_status st = KS_OK;
    char name[64];
    snprintf(name, sizeof name, "%s-%s", ks_stream_name(s->stream),
             ks_position_name(s->position));
    target t = {.evaluation = r,
                .path = path,
                .at = ks__put_group(parent, name),
                .layers = (hsize_t)s->n_cells,
                .seeds = (hsize_t)r->folds.n_seeds,
                .folds = (hsize_t)r->folds.n_folds,
                .d = (hsize_t)r->grid.d,
                .steps = (hsize_t)r->dataset->info->n_steps};
    if (t.at < 0) return ks__h5_fail(err, path, "make a group");
    KS_TRY(put_fits(&t, s, err));
    for (int what = WEIGHT; what <= SCALE; what++)
        if (s->cells[0].nest.weight)
            KS_TRY(put_part(&t, s, (enum what)what, err));
    KS_TRY(put_scores(&t, s, err));
    KS_TRY(ks__put_kinds(r, s, t.at, path, err));
    KS_TRY(ks__put_refined(r, (int32_t)(s - r->grid.series), t.at, path, err));
done:
    ks__h5_drop(&t.at);
    return st;
}

/* ---------------------------------------------------------------- whole file
 */

static ks_status put_folds(const ks_evaluation *r, hid_t file, const char *path,
                           ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = r->dataset;
    size_t steps = (size_t)d->info->n_steps, seeds = (size_t)r->folds.n_seeds;
    hsize_t shape[2] = {seeds, steps};
    uint8_t *all = NULL;
    KS_TRY(ks_alloc(&all, seeds * steps, 1, "folds", err));
    memset(all, 255, seeds * steps);
    for (size_t s = 0; s < seeds; s++)
        for (int64_t i = 0; i < d->n; i++)
            all[s * steps + (size_t)d->row[i]] =
                r->fold[s * (size_t)d->n + (size_t)i];
    KS_TRY(ks__put_set(file, path, "fold", H5T_STD_U8LE, H5T_NATIVE_UINT8, 2,
                       shape, all, err));
done:
    free(all);
    return st;
}

/* The steps that scores are of: in which chain, where in its text, and their
 * label (-1: none that was probed). */
static ks_status put_steps(const ks_evaluation *r, hid_t file, const char *path,
                           ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = r->dataset;
    const ks_step_row *steps = d->info->steps;
    size_t n = (size_t)d->info->n_steps;
    hsize_t shape[1] = {n};
    int32_t *all = NULL;
    int8_t *label = NULL;
    hid_t at = ks__put_group(file, "steps");
    if (at < 0) return ks__h5_fail(err, path, "make a group");
    KS_TRY(ks_alloc(&all, 3 * n, sizeof *all, "steps", err));
    KS_TRY(ks_alloc(&label, n, 1, "labels", err));
    for (size_t i = 0; i < n; i++) {
        all[i] = steps[i].chain;
        all[n + i] = steps[i].byte_begin;
        all[2 * n + i] = steps[i].byte_end;
        label[i] = -1;
    }
    for (int64_t i = 0; i < d->n; i++) label[d->row[i]] = d->y[i];
    static const char *const names[] = {"chain", "byte_begin", "byte_end"};
    for (size_t k = 0; k < KS_COUNT(names); k++)
        KS_TRY(ks__put_set(at, path, names[k], H5T_STD_I32LE, H5T_NATIVE_INT32,
                           1, shape, all + k * n, err));
    KS_TRY(ks__put_set(at, path, "label", H5T_STD_I8LE, H5T_NATIVE_INT8, 1,
                       shape, label, err));
done:
    ks__h5_drop(&at);
    free(all);
    free(label);
    return st;
}

typedef const char *(*text_of_fn)(const ks_chain_row *chain);

static const char *id_of(const ks_chain_row *chain) {
    return chain->id;
}

static const char *problem_of(const ks_chain_row *chain) {
    return chain->problem;
}

static const char *hash_of(const ks_chain_row *chain) {
    return chain->text_sha256;
}

/* One string a chain, all as wide as the longest. */
static ks_status put_strings(hid_t at, const char *path, const char *name,
                             const ks_acts_info *info, text_of_fn text_of,
                             ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)info->n_chains, wide = 1;
    hsize_t shape[1] = {n};
    char *all = NULL;
    hid_t type = H5Tcopy(H5T_C_S1);
    for (size_t i = 0; i < n; i++)
        wide = KS_MAX(wide, strlen(text_of(&info->chains[i])));
    KS_TRY(ks_alloc(&all, n, wide, "strings", err));
    for (size_t i = 0; i < n; i++)
        memcpy(all + i * wide, text_of(&info->chains[i]),
               strlen(text_of(&info->chains[i])));
    H5Tset_size(type, wide);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    KS_TRY(ks__put_set(at, path, name, type, type, 1, shape, all, err));
done:
    ks__h5_drop(&type);
    free(all);
    return st;
}

static ks_status put_chains(const ks_evaluation *r, hid_t file,
                            const char *path, ks_err *err) {
    ks_status st = KS_OK;
    const ks_acts_info *info = r->dataset->info;
    hid_t at = ks__put_group(file, "chains");
    if (at < 0) return ks__h5_fail(err, path, "make a group");
    KS_TRY(put_strings(at, path, "id", info, id_of, err));
    KS_TRY(put_strings(at, path, "problem", info, problem_of, err));
    KS_TRY(put_strings(at, path, "text_sha256", info, hash_of, err));
done:
    ks__h5_drop(&at);
    return st;
}

static ks_status fill(const ks_evaluation *r, hid_t file, const char *path,
                      ks_err *err) {
    ks_status st = KS_OK;
    const ks_acts_info *info = r->dataset->info;
    hid_t probes = ks__put_group(file, "probes");
    if (probes < 0) return ks__h5_fail(err, path, "make a group");
    KS_TRY(ks__put_text(file, path, "model_name", info->model_name, err));
    KS_TRY(ks__put_text(file, path, "model_sha256", info->model_sha256, err));
    KS_TRY(ks__put_text(file, path, "context",
                        info->context_none ? "none" : "full", err));
    KS_TRY(ks__put_text(file, path, "program_version", KS_VERSION, err));
    KS_TRY(put_folds(r, file, path, err));
    KS_TRY(put_chains(r, file, path, err));
    KS_TRY(put_steps(r, file, path, err));
    for (int32_t k = 0; k < r->grid.n_series; k++)
        KS_TRY(put_series(r, &r->grid.series[k], probes, path, err));
done:
    ks__h5_drop(&probes);
    return st;
}

static ks_status write_file(const ks_evaluation *r, const char *part,
                            ks_err *err) {
    ks__h5 was;
    ks__h5_enter(&was);
    hid_t how = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_obj_track_times(how, false);
    H5Pset_file_locking(access, false, true);
    hid_t file = H5Fcreate(part, H5F_ACC_TRUNC, how, access);
    ks_status st = file < 0 ? ks__h5_fail(err, part, "create the file")
                            : fill(r, file, part, err);
    if (file >= 0 && H5Fclose(file) < 0 && st == KS_OK)
        st = ks__h5_fail(err, part, "close the file");
    ks__h5_drop(&access);
    ks__h5_drop(&how);
    ks__h5_leave(&was);
    return st;
}

ks_status ks_export_h5(const ks_evaluation *evaluation, const char *path,
                       ks_err *err) {
    ks_status st = KS_OK;
    ks_str part = {0};
    KS_TRY(ks_str_printf(&part, err, "%s.part", path));
    KS_TRY(write_file(evaluation, part.data, err));
    KS_CHECK(rename(part.data, path) == 0, KS_IO, "%s: cannot rename to %s",
             part.data, path);
    KS_TRY(ks_sync_folder_of(path, err));
done:
    if (st != KS_OK && part.data) unlink(part.data);
    ks_str_free(&part);
    return st;
}
