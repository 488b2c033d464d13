/* folded.c - see folded.h. */
#include "folded.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "probes_read.h"

/* ------------------------------------------------------------- from the file
 */

/* The fits of one layer. */
typedef struct fits {
    float *weight, *mean, *scale; /* [n, d] */
    float *bias;                  /* [n] */
} fits;

static void free_fits(fits *f) {
    free(f->weight);
    free(f->mean);
    free(f->scale);
    free(f->bias);
}

/* Layer `at` of a data set [layers, seeds, folds(, d)], whose shape
 * ks_probes_read has checked. Inside ks__h5_enter. */
static ks_status get_layer(hid_t file, const char *path, const char *group,
                           const char *name, int rank, const hsize_t *one,
                           hsize_t at, float *out, ks_err *err) {
    char full[128];
    snprintf(full, sizeof full, "%s/%s", group, name);
    hid_t set = H5Dopen2(file, full, H5P_DEFAULT);
    ks_status st = ks__probes_read_place(set, path, rank, one, at, out, err);
    ks__h5_drop(&set);
    return st;
}

static ks_status get_fits(const ks_folded *o, hid_t file, const char *path,
                          int32_t at, fits *f, ks_err *err) {
    ks_status st = KS_OK;
    char group[64];
    const hsize_t one[4] = {1, (hsize_t)o->n_seeds, (hsize_t)o->n_folds,
                            (hsize_t)o->d};
    snprintf(group, sizeof group, "/probes/%s-%s", ks_stream_name(o->stream),
             ks_position_name(o->position));
    KS_TRY(get_layer(file, path, group, "weight", 4, one, (hsize_t)at,
                     f->weight, err));
    KS_TRY(get_layer(file, path, group, "mean", 4, one, (hsize_t)at, f->mean,
                     err));
    KS_TRY(get_layer(file, path, group, "scale", 4, one, (hsize_t)at, f->scale,
                     err));
    KS_TRY(get_layer(file, path, group, "bias", 3, one, (hsize_t)at, f->bias,
                     err));
done:
    return st;
}

/* --------------------------------------------------------------------- fold */

/* w [d] and *b of fit i are added. */
static ks_status add_fit(const fits *f, int32_t i, int64_t d, const char *path,
                         int32_t layer, double *w, double *b, ks_err *err) {
    ks_status st = KS_OK;
    double shift = 0;
    for (int64_t j = 0; j < d; j++) {
        double scale = (double)f->scale[i * d + j];
        double mean = (double)f->mean[i * d + j];
        double weight = (double)f->weight[i * d + j] / scale;
        KS_CHECK(scale > 0 && isfinite(scale) && isfinite(mean) &&
                     isfinite(weight),
                 KS_FORMAT,
                 "%s: fit %d of layer %d has weight %g, mean %g, scale %g at "
                 "feature %lld, expected finite ones and a scale above 0",
                 path, i, layer, (double)f->weight[i * d + j], mean, scale,
                 (long long)j);
        w[j] += weight;
        shift += weight * mean;
    }
    KS_CHECK(isfinite((double)f->bias[i]), KS_FORMAT,
             "%s: fit %d of layer %d has bias %g", path, i, layer,
             (double)f->bias[i]);
    *b += (double)f->bias[i] - shift;
done:
    return st;
}

static ks_status fold_layer(ks_folded *o, const fits *f, const char *path,
                            int32_t at, ks_err *err) {
    ks_status st = KS_OK;
    int32_t all = o->n_seeds * o->n_folds, share = all / o->n_fits;
    double *w = NULL;
    KS_TRY(ks_alloc(&w, (size_t)o->d, sizeof *w, "weights", err));
    for (int32_t k = 0; k < o->n_fits; k++) {
        int64_t fit = (int64_t)at * o->n_fits + k;
        double b = 0;
        memset(w, 0, (size_t)o->d * sizeof *w);
        for (int32_t i = k * share; i < (k + 1) * share; i++)
            KS_TRY(add_fit(f, i, o->d, path, o->layer[at], w, &b, err));
        for (int32_t j = 0; j < o->d; j++)
            o->weight[fit * o->d + j] = (float)(w[j] / share);
        o->bias[fit] = (float)(b / share);
    }
done:
    free(w);
    return st;
}

/* places [n_layers]: in the file. */
static ks_status fold_layers(ks_folded *o, const char *path,
                             const int32_t *places, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)o->n_seeds * (size_t)o->n_folds, d = (size_t)o->d;
    size_t all = (size_t)o->n_layers * (size_t)o->n_fits;
    fits f = {0};
    hid_t file = -1;
    ks__h5 was;
    ks__h5_enter(&was);
    KS_TRY(ks_alloc(&f.weight, n * d, sizeof(float), "weights", err));
    KS_TRY(ks_alloc(&f.mean, n * d, sizeof(float), "weights", err));
    KS_TRY(ks_alloc(&f.scale, n * d, sizeof(float), "weights", err));
    KS_TRY(ks_alloc(&f.bias, n, sizeof(float), "weights", err));
    KS_TRY(ks_alloc(&o->weight, all * d, sizeof(float), "weights", err));
    KS_TRY(ks_alloc(&o->bias, all, sizeof(float), "weights", err));
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (H5Pset_file_locking(access, false, true) >= 0)
        file = H5Fopen(path, H5F_ACC_RDONLY, access);
    ks__h5_drop(&access);
    if (file < 0) KS_TRY(ks__h5_fail(err, path, "open as HDF5"));
    for (int32_t l = 0; l < o->n_layers; l++) {
        KS_TRY(get_fits(o, file, path, places[l], &f, err));
        KS_TRY(fold_layer(o, &f, path, l, err));
    }
done:
    ks__h5_drop(&file);
    ks__h5_leave(&was);
    free_fits(&f);
    return st;
}

/* ---------------------------------------------------------------------- all */

static ks_status find_series(const ks_probes_info *info, const char *path,
                             const ks_folded_options *options, int *out,
                             ks_err *err) {
    ks_status st = KS_OK;
    *out = ks_probes_find(info, options->stream, options->position);
    KS_CHECK(*out >= 0, KS_USAGE, "%s: has no probes of %s at %s", path,
             ks_stream_name(options->stream),
             ks_position_name(options->position));
    KS_CHECK(info->series[*out].has_weights, KS_FORMAT,
             "%s: has no weights of %s at %s", path,
             ks_stream_name(options->stream),
             ks_position_name(options->position));
done:
    return st;
}

static ks_status choose_layers(ks_folded *o, const ks_probes_info *info,
                               int series, const char *path, int32_t layer,
                               int32_t *places, ks_err *err) {
    ks_status st = KS_OK;
    const ks_probes_series *s = &info->series[series];
    int32_t want =
        layer == KS_LAYER_BEST ? ks_probes_usual(info, series) : layer;
    for (int32_t l = 0; l < s->n_layers; l++) {
        if (layer != KS_LAYERS_ALL && s->layer[l] != want) continue;
        o->layer[o->n_layers] = s->layer[l];
        places[o->n_layers++] = l;
        if (layer != KS_LAYERS_ALL) break;
    }
    KS_CHECK(o->n_layers, KS_USAGE, "%s: layer %d has no probe", path, layer);
done:
    return st;
}

ks_status ks_folded_read(ks_folded *out, const char *path,
                         const ks_folded_options *options, ks_err *err) {
    ks_status st = KS_OK;
    ks_probes_info info = {0};
    int32_t *places = NULL;
    int series;
    *out = (ks_folded){.stream = options->stream,
                       .position = options->position,
                       .all_layers = options->layer == KS_LAYERS_ALL,
                       .each_fit = options->each_fit};
    KS_TRY(ks_probes_read(&info, path, err));
    KS_TRY(find_series(&info, path, options, &series, err));
    size_t layers = (size_t)info.series[series].n_layers;
    out->d = info.d;
    out->n_seeds = info.n_seeds;
    out->n_folds = info.n_folds;
    out->n_fits = options->each_fit ? info.n_seeds * info.n_folds : 1;
    KS_TRY(ks_alloc(&out->layer, layers, sizeof *out->layer, "layers", err));
    KS_TRY(ks_alloc(&places, layers, sizeof *places, "layers", err));
    KS_TRY(
        choose_layers(out, &info, series, path, options->layer, places, err));
    KS_TRY(fold_layers(out, path, places, err));
    out->model_name = info.model_name;
    out->model_sha256 = info.model_sha256;
    out->context = info.context;
    info.model_name = info.model_sha256 = info.context = NULL;
done:
    free(places);
    ks_probes_free(&info);
    if (st != KS_OK) ks_folded_free(out);
    return st;
}

void ks_folded_free(ks_folded *f) {
    free(f->model_name);
    free(f->model_sha256);
    free(f->context);
    free(f->layer);
    free(f->weight);
    free(f->bias);
    *f = (ks_folded){0};
}

int ks__folded_shape(const ks_folded *f, int64_t shape[4]) {
    int n = 0;
    if (f->all_layers) shape[n++] = f->n_layers;
    if (f->each_fit) {
        shape[n++] = f->n_seeds;
        shape[n++] = f->n_folds;
    }
    shape[n++] = f->d;
    return n;
}

ks_status ks__about_json(const ks__about *a, json_t **out, ks_err *err) {
    *out = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s}", "format",
                     "keystep probe 1", "probe", a->probe, "model",
                     a->model_name, "model_sha256", a->model_sha256, "context",
                     a->context, "stream", ks_stream_name(a->stream),
                     "position", ks_position_name(a->position), "layer",
                     a->layer, "fits", a->fits, "score", a->score);
    return *out ? KS_OK : ks_fail(err, KS_NOMEM, "out of memory for metadata");
}

ks_status ks__folded_metadata(const ks_folded *f, json_t **out, ks_err *err) {
    char layer[32], which[96];
    snprintf(layer, sizeof layer, f->all_layers ? "all" : "%d", f->layer[0]);
    snprintf(which, sizeof which, "%s of %d seeds x %d folds",
             f->each_fit ? "each" : "mean", f->n_seeds, f->n_folds);
    const ks__about about = {
        .probe = "l2",
        .model_name = f->model_name,
        .model_sha256 = f->model_sha256,
        .context = f->context,
        .stream = f->stream,
        .position = f->position,
        .layer = layer,
        .fits = which,
        .score = "activations . weight + bias, standardisation folded in; "
                 "above 0: the step is important"};
    return ks__about_json(&about, out, err);
}
