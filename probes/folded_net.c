/* folded_net.c - see folded_net.h. */
#include "folded_net.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kinds.h"
#include "probes_read.h"

int64_t ks_folded_net_units(const ks_folded_net *net, int32_t l) {
    return l < net->recipe.n_hidden ? net->recipe.hidden[l] : 1;
}

int64_t ks_folded_net_inputs(const ks_folded_net *net, int32_t l) {
    if (l) return net->recipe.hidden[l - 1];
    return net->recipe.input == KS_INPUT_BESIDE
               ? (int64_t)net->n_layers * net->d
               : net->d;
}

static int64_t fits_of(const ks_folded_net *net) {
    return (int64_t)net->n_seeds * net->n_folds;
}

/* ------------------------------------------------------------- from the file
 */

/* A kind's group in a probes.h5; what a data set of it holds is all probes,
 * one a layer or one alone. */
typedef struct reader {
    ks_folded_net *net;
    ks__probes_file from;
    char group[96];
    int32_t n_probes, place; /* the probe that is wanted */
    int64_t n_inputs;        /* of it */
} reader;

static ks_status open_set(const reader *r, const char *name, H5T_class_t class,
                          int rank, int64_t *want, hid_t *set, ks_err *err) {
    char full[128];
    snprintf(full, sizeof full, "%s/%s", r->group, name);
    return ks__probes_open_set(&r->from, full, class, rank, want, set, err);
}

/* All fits of the wanted probe: shape [rank] behind probes, seeds and folds. */
static ks_status get_fits(const reader *r, const char *name, int rank,
                          const int64_t *shape, float **out, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folded_net *net = r->net;
    int64_t want[5] = {r->n_probes, net->n_seeds, net->n_folds};
    hsize_t one[5] = {1, (hsize_t)net->n_seeds, (hsize_t)net->n_folds};
    size_t n = (size_t)fits_of(net);
    hid_t set = -1;
    for (int i = 0; i < rank; i++) {
        want[3 + i] = shape[i];
        one[3 + i] = (hsize_t)shape[i];
        n *= (size_t)shape[i];
    }
    KS_TRY(open_set(r, name, H5T_FLOAT, 3 + rank, want, &set, err));
    KS_TRY(ks_alloc(out, n, sizeof **out, "weights", err));
    KS_TRY(ks__probes_read_place(set, r->from.path, 3 + rank, one,
                                 (hsize_t)r->place, *out, err));
done:
    ks__h5_drop(&set);
    return st;
}

/* The layers that the kind reads, all of them. */
static ks_status get_layers(reader *r, ks_err *err) {
    ks_status st = KS_OK;
    ks_folded_net *net = r->net;
    int64_t n = -1;
    hid_t set = -1;
    KS_TRY(open_set(r, "layer", H5T_INTEGER, 1, &n, &set, err));
    KS_TRY(ks_alloc(&net->layer, (size_t)n, sizeof *net->layer, "layers", err));
    net->n_layers = (int32_t)n;
    if (H5Dread(set, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                net->layer) < 0)
        KS_TRY(ks__h5_fail(err, r->from.path, "read a data set"));
done:
    ks__h5_drop(&set);
    return st;
}

/* Of a probe a layer the one that is asked for. */
static ks_status choose_layer(reader *r, int32_t layer, ks_err *err) {
    ks_status st = KS_OK;
    ks_folded_net *net = r->net;
    r->n_probes = 1;
    if (net->recipe.input == KS_INPUT_EACH) {
        r->n_probes = net->n_layers;
        while (r->place < net->n_layers && net->layer[r->place] != layer)
            r->place++;
        KS_CHECK(r->place < net->n_layers, KS_USAGE,
                 "%s: layer %d has no probe %s", r->from.path, layer,
                 net->recipe.name);
        net->layer[0] = layer;
        net->n_layers = 1;
    }
done:
    return st;
}

/* Inputs, and the width of a layer: any that goes into them. */
static ks_status find_width(reader *r, ks_err *err) {
    ks_status st = KS_OK;
    ks_folded_net *net = r->net;
    int64_t shape[4] = {r->n_probes, net->n_seeds, net->n_folds, -1};
    int64_t beside = net->recipe.input == KS_INPUT_BESIDE ? net->n_layers : 1;
    hid_t set = -1;
    KS_TRY(open_set(r, "mean", H5T_FLOAT, 4, shape, &set, err));
    KS_CHECK(shape[3] % beside == 0, KS_FORMAT,
             "%s: %s/mean is of %lld inputs, which are not those of %lld "
             "layers side by side",
             r->from.path, r->group, (long long)shape[3], (long long)beside);
    r->n_inputs = shape[3];
    net->d = (int32_t)(shape[3] / beside);
done:
    ks__h5_drop(&set);
    return st;
}

static ks_status get_weights(const reader *r, float **mean, float **scale,
                             ks_err *err) {
    ks_status st = KS_OK;
    ks_folded_net *net = r->net;
    KS_TRY(get_fits(r, "mean", 1, &r->n_inputs, mean, err));
    KS_TRY(get_fits(r, "scale", 1, &r->n_inputs, scale, err));
    for (int32_t l = 0; l <= net->recipe.n_hidden; l++) {
        const int64_t shape[2] = {ks_folded_net_units(net, l),
                                  ks_folded_net_inputs(net, l)};
        char name[16];
        snprintf(name, sizeof name, "weight%d", l);
        KS_TRY(get_fits(r, name, 2, shape, &net->weight[l], err));
        snprintf(name, sizeof name, "bias%d", l);
        KS_TRY(get_fits(r, name, 1, shape, &net->bias[l], err));
    }
done:
    return st;
}

static bool has(const reader *r, const char *name) {
    char full[128];
    snprintf(full, sizeof full, "%s%s", r->group, name);
    return H5Lexists(r->from.id, full, H5P_DEFAULT) > 0;
}

static ks_status find_kind(reader *r, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folded_net *net = r->net;
    const char *stream = ks_stream_name(net->stream),
               *position = ks_position_name(net->position);
    snprintf(r->group, sizeof r->group, "/probes/%s-%s/trained", stream,
             position);
    bool there = has(r, "");
    size_t used = strlen(r->group);
    snprintf(r->group + used, sizeof r->group - used, "/%s", net->recipe.name);
    KS_CHECK(
        there && has(r, ""), KS_USAGE,
        "%s: has no probe %s of %s at %s; 'keystep probe --probes' trains them",
        r->from.path, net->recipe.name, stream, position);
    KS_CHECK(has(r, "/weight0"), KS_FORMAT,
             "%s: has no weights of %s of %s at %s: they took more than %d MiB",
             r->from.path, net->recipe.name, stream, position,
             KS_KINDS_KEPT_MIB);
done:
    return st;
}

/* --------------------------------------------------------------------- fold
 */

/* What all fits have taken off their inputs. mean [fits, inputs] */
static ks_status find_centre(const reader *r, const float *mean, ks_err *err) {
    ks_status st = KS_OK;
    int64_t fits = fits_of(r->net);
    KS_TRY(ks_alloc(&r->net->centre, (size_t)r->n_inputs, sizeof(float),
                    "weights", err));
    for (int64_t j = 0; j < r->n_inputs; j++) {
        double sum = 0;
        for (int64_t k = 0; k < fits; k++)
            sum += (double)mean[k * r->n_inputs + j];
        r->net->centre[j] = (float)(sum / (double)fits);
    }
done:
    return st;
}

/* Unit u of the first layer, all its fit's numbers of the inputs. */
static ks_status fold_unit(const reader *r, int64_t fit, int64_t u,
                           const float *mean, const float *scale, ks_err *err) {
    ks_status st = KS_OK;
    ks_folded_net *net = r->net;
    int64_t units = ks_folded_net_units(net, 0);
    float *w = net->weight[0] + (fit * units + u) * r->n_inputs;
    double shift = 0;
    for (int64_t j = 0; j < r->n_inputs; j++) {
        double by = (double)scale[j], from = (double)mean[j];
        double weight = (double)w[j] / by;
        KS_CHECK(by > 0 && isfinite(by) && isfinite(from) && isfinite(weight),
                 KS_FORMAT,
                 "%s: fit %lld of %s has weight %g, mean %g, scale %g at input "
                 "%lld, expected finite ones and a scale above 0",
                 r->from.path, (long long)fit, net->recipe.name, (double)w[j],
                 from, by, (long long)j);
        w[j] = (float)weight;
        shift += weight * (from - (double)net->centre[j]);
    }
    net->bias[0][fit * units + u] =
        (float)((double)net->bias[0][fit * units + u] - shift);
done:
    return st;
}

static ks_status check_finite(const reader *r, const char *what, int32_t l,
                              const float *v, int64_t n, ks_err *err) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite((double)v[i]))
            return ks_fail(err, KS_FORMAT, "%s: %s/%s%d has a value of %g",
                           r->from.path, r->group, what, l, (double)v[i]);
    return KS_OK;
}

static ks_status fold(const reader *r, const float *mean, const float *scale,
                      ks_err *err) {
    ks_status st = KS_OK;
    ks_folded_net *net = r->net;
    int64_t fits = fits_of(net), units = ks_folded_net_units(net, 0);
    KS_TRY(find_centre(r, mean, err));
    for (int64_t k = 0; k < fits * units; k++)
        KS_TRY(fold_unit(r, k / units, k % units,
                         mean + k / units * r->n_inputs,
                         scale + k / units * r->n_inputs, err));
    for (int32_t l = 0; l <= net->recipe.n_hidden; l++) {
        int64_t n = fits * ks_folded_net_units(net, l);
        KS_TRY(check_finite(r, "weight", l, net->weight[l],
                            n * ks_folded_net_inputs(net, l), err));
        KS_TRY(check_finite(r, "bias", l, net->bias[l], n, err));
    }
done:
    return st;
}

/* ---------------------------------------------------------------------- all
 */

/* "lw-mlp:8", or "lw-mlp 8" as it is called in files. */
static ks_status read_kind(const char *kind, ks_recipe *out, ks_err *err) {
    ks_status st = KS_OK;
    char word[48];
    ks_recipe recipes[KS_MOST_RECIPES];
    int32_t n = 0;
    snprintf(word, sizeof word, "%s", kind);
    char *blank = strchr(word, ' ');
    if (blank) *blank = ':';
    KS_CHECK(strlen(kind) < sizeof word &&
                 ks_recipes_read(word, recipes, &n, NULL) == KS_OK && n == 1,
             KS_USAGE,
             "probe '%s': expected l2, linear, mlp, lw-linear, lw-mlp, "
             "linear-layer or mlp-layer, as keystep probe --probes had it",
             kind);
    *out = recipes[0];
done:
    return st;
}

static ks_status read_net(reader *r, int32_t layer, ks_err *err) {
    ks_status st = KS_OK;
    float *mean = NULL, *scale = NULL;
    KS_TRY(find_kind(r, err));
    KS_TRY(get_layers(r, err));
    KS_TRY(choose_layer(r, layer, err));
    KS_TRY(find_width(r, err));
    KS_TRY(get_weights(r, &mean, &scale, err));
    KS_TRY(fold(r, mean, scale, err));
done:
    free(mean);
    free(scale);
    return st;
}

ks_status ks_folded_net_read(ks_folded_net *out, const char *path,
                             const char *kind, const ks_folded_options *options,
                             ks_err *err) {
    ks_status st = KS_OK;
    ks_probes_info info = {0};
    int32_t layer = options->layer;
    reader r = {.net = out};
    ks__h5 was;
    *out = (ks_folded_net){.stream = options->stream,
                           .position = options->position,
                           .each_fit = options->each_fit};
    KS_TRY(read_kind(kind, &out->recipe, err));
    KS_CHECK(out->recipe.input == KS_INPUT_EACH || layer == KS_LAYER_BEST,
             KS_USAGE, "%s reads all its layers together and takes no --layer",
             out->recipe.name);
    KS_CHECK(layer != KS_LAYERS_ALL, KS_USAGE,
             "an ONNX file holds the probe of one layer, not of all: --layer "
             "N");
    KS_TRY(ks_probes_read(&info, path, err));
    int series = ks_probes_find(&info, options->stream, options->position);
    if (layer == KS_LAYER_BEST && series >= 0)
        layer = ks_probes_usual(&info, series);
    out->n_seeds = info.n_seeds;
    out->n_folds = info.n_folds;
    ks__h5_enter(&was);
    st = ks__probes_file_open(&r.from, path, err);
    if (st == KS_OK) st = read_net(&r, layer, err);
    ks__probes_file_close(&r.from);
    ks__h5_leave(&was);
    KS_TRY(st);
    out->model_name = info.model_name;
    out->model_sha256 = info.model_sha256;
    out->context = info.context;
    info.model_name = info.model_sha256 = info.context = NULL;
done:
    ks_probes_free(&info);
    if (st != KS_OK) ks_folded_net_free(out);
    return st;
}

void ks_folded_net_free(ks_folded_net *net) {
    free(net->model_name);
    free(net->model_sha256);
    free(net->context);
    free(net->layer);
    free(net->centre);
    for (int32_t l = 0; l <= KS_ADAMW_MOST_HIDDEN; l++) {
        free(net->weight[l]);
        free(net->bias[l]);
    }
    *net = (ks_folded_net){0};
}
