/* export_trained.c - trained kinds of probes in probes.h5; see export.h. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "acts_format.h"
#include "export.h"
#include "export_h5.h"

/* One kind; shape: probes, seeds, folds, and room for two more. */
typedef struct target {
    const ks_evaluation *evaluation;
    const ks_kind *kind;
    const char *path;
    hid_t at;
    hsize_t shape[5];
    size_t fits; /* of a probe */
} target;

static ks_status put_floats(target *t, const char *name, int rank,
                            const float *all, ks_err *err) {
    return ks__put_set(t->at, t->path, name, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT,
                       rank, t->shape, all, err);
}

/* Of each fit `count` numbers, from `skip` on, of an array of ks_trained (its
 * offset there) that has `stride` of them a fit. */
static ks_status put_part(target *t, const char *name, int rank,
                          size_t offset_of, size_t stride, size_t skip,
                          size_t count, ks_err *err) {
    ks_status st = KS_OK;
    size_t fits = t->fits;
    float *all = NULL;
    KS_TRY(ks_alloc(&all, (size_t)t->kind->n_probes * fits * count, sizeof *all,
                    "weights", err));
    for (size_t k = 0; k < (size_t)t->kind->n_probes * fits; k++) {
        const ks_trained *p = &t->kind->probes[k / fits];
        const float *from = NULL;
        memcpy(&from, (const char *)p + offset_of, sizeof from);
        memcpy(all + k * count, from + k % fits * stride + skip,
               count * sizeof *all);
    }
    KS_TRY(put_floats(t, name, rank, all, err));
done:
    free(all);
    return st;
}

/* weight0, bias0, weight1, ..: as PyTorch's Linear has them. */
static ks_status put_weights(target *t, ks_err *err) {
    ks_status st = KS_OK;
    const ks_trained *p = &t->kind->probes[0];
    const ks_recipe *recipe = t->kind->recipe;
    size_t stride = (size_t)p->n_params, skip = 0;
    size_t inputs = (size_t)p->n_inputs;
    for (int32_t l = 0; l <= recipe->n_hidden; l++) {
        char name[32];
        size_t units = l < recipe->n_hidden ? (size_t)recipe->hidden[l] : 1;
        t->shape[3] = units, t->shape[4] = inputs;
        snprintf(name, sizeof name, "weight%d", l);
        KS_TRY(put_part(t, name, 5, offsetof(ks_trained, param), stride, skip,
                        units * inputs, err));
        skip += units * inputs;
        snprintf(name, sizeof name, "bias%d", l);
        KS_TRY(put_part(t, name, 4, offsetof(ks_trained, param), stride, skip,
                        units, err));
        skip += units;
        inputs = units;
    }
    t->shape[3] = (hsize_t)p->n_inputs;
    inputs = (size_t)p->n_inputs;
    KS_TRY(put_part(t, "mean", 4, offsetof(ks_trained, mean), inputs, 0, inputs,
                    err));
    KS_TRY(put_part(t, "scale", 4, offsetof(ks_trained, scale), inputs, 0,
                    inputs, err));
done:
    return st;
}

static ks_status put_choices(target *t, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)t->kind->n_probes;
    double *rate = NULL;
    int32_t *epochs = NULL;
    KS_TRY(ks_alloc(&rate, n * t->fits, sizeof *rate, "fits", err));
    KS_TRY(ks_alloc(&epochs, n * t->fits, sizeof *epochs, "fits", err));
    for (size_t k = 0; k < n; k++) {
        const ks_trained *p = &t->kind->probes[k];
        memcpy(rate + k * t->fits, p->rate, t->fits * sizeof *rate);
        memcpy(epochs + k * t->fits, p->epochs, t->fits * sizeof *epochs);
    }
    KS_TRY(ks__put_set(t->at, t->path, "rate", H5T_IEEE_F64LE,
                       H5T_NATIVE_DOUBLE, 3, t->shape, rate, err));
    KS_TRY(ks__put_set(t->at, t->path, "epochs", H5T_STD_I32LE,
                       H5T_NATIVE_INT32, 3, t->shape, epochs, err));
done:
    free(rate);
    free(epochs);
    return st;
}

/* Over all steps of the file, NaN where one was not probed. */
static ks_status put_scores(target *t, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = t->evaluation->dataset;
    size_t steps = (size_t)d->info->n_steps, n = (size_t)t->kind->n_probes;
    hsize_t shape[2] = {n, steps};
    float *all = NULL;
    KS_TRY(ks_alloc(&all, n * steps, sizeof *all, "scores", err));
    for (size_t i = 0; i < n * steps; i++) all[i] = NAN;
    for (size_t k = 0; k < n; k++)
        for (int64_t i = 0; i < d->n; i++)
            all[k * steps + (size_t)d->row[i]] = t->kind->probes[k].score[i];
    KS_TRY(ks__put_set(t->at, t->path, "scores", H5T_IEEE_F32LE,
                       H5T_NATIVE_FLOAT, 2, shape, all, err));
done:
    free(all);
    return st;
}

static ks_status put_kind(const ks_evaluation *r, const ks_kind *kind,
                          hid_t parent, const char *path, ks_err *err) {
    static const char *const inputs[] = {"mean", "beside", "each"};
    ks_status st = KS_OK;
    hsize_t layers = (hsize_t)kind->n_layers;
    target t = {.evaluation = r,
                .kind = kind,
                .path = path,
                .at = ks__put_group(parent, kind->recipe->name),
                .shape = {(hsize_t)kind->n_probes, (hsize_t)r->folds.n_seeds,
                          (hsize_t)r->folds.n_folds},
                .fits = (size_t)r->folds.n_seeds * (size_t)r->folds.n_folds};
    if (t.at < 0) return ks__h5_fail(err, path, "make a group");
    KS_TRY(ks__put_text(t.at, path, "input", inputs[kind->recipe->input], err));
    KS_TRY(ks__put_set(t.at, path, "layer", H5T_STD_I32LE, H5T_NATIVE_INT32, 1,
                       &layers, kind->layer, err));
    KS_TRY(put_choices(&t, err));
    KS_TRY(put_scores(&t, err));
    if (kind->probes[0].param) KS_TRY(put_weights(&t, err));
done:
    ks__h5_drop(&t.at);
    return st;
}

ks_status ks__put_kinds(const ks_evaluation *r, const ks_series *series,
                        hid_t at, const char *path, ks_err *err) {
    ks_status st = KS_OK;
    hid_t group = -1;
    for (int32_t i = 0; i < r->kinds.n; i++) {
        const ks_kind *kind = &r->kinds.at[i];
        if (kind->stream != series->stream ||
            kind->position != series->position)
            continue;
        if (group < 0 && (group = ks__put_group(at, "trained")) < 0)
            return ks__h5_fail(err, path, "make a group");
        KS_TRY(put_kind(r, kind, group, path, err));
    }
done:
    ks__h5_drop(&group);
    return st;
}
