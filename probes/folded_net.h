/* folded_net.h - the kinds of probes that AdamW trained (trained.h), out of a
 * probes.h5, with standardisation folded into their first layer:
 *
 *     layer 0 = (x - centre) . weight + bias,    centre = the fits' mean `mean`
 *     weight = w / scale,  bias = b - sum weight (mean - centre)  (in double)
 *
 * Without the centre, sum weight mean would be taken off again in f32, where
 * little is left of a feature whose mean is a thousand times its deviation.
 * Layers behind it are as they were trained, with a ReLU between. */
#ifndef KS_FOLDED_NET_H
#define KS_FOLDED_NET_H

#include "folded.h"
#include "trained.h"

typedef struct ks_folded_net {
    char *model_name, *model_sha256, *context;
    ks_recipe recipe;
    ks_stream stream;
    ks_position position;
    bool each_fit;            /* else one score, the mean of all fits' */
    int32_t d;                /* of one layer's activations */
    int32_t n_layers, *layer; /* [n_layers] that a probe reads */
    int32_t n_seeds, n_folds; /* fits: n_seeds n_folds, in this order */
    float *centre;            /* [inputs] */
    float *weight[KS_ADAMW_MOST_HIDDEN + 1]; /* [fits, units, inputs] */
    float *bias[KS_ADAMW_MOST_HIDDEN + 1];   /* [fits, units] */
} ks_folded_net;

/* kind: a word of --probes, or the name that the file has it by. Of
 * linear-layer and mlp-layer the layer of the options; the others read several
 * layers and take KS_LAYER_BEST alone. out starts as {0}; a failed call leaves
 * {0}. KS_USAGE where the file has no such probe, KS_FORMAT where it has no
 * weights of it or what it has cannot be. */
ks_status ks_folded_net_read(ks_folded_net *out, const char *path,
                             const char *kind, const ks_folded_options *options,
                             ks_err *err);
void ks_folded_net_free(ks_folded_net *net);

/* Inputs and units of layer l of the net, of recipe.n_hidden + 1. */
int64_t ks_folded_net_inputs(const ks_folded_net *net, int32_t l);
int64_t ks_folded_net_units(const ks_folded_net *net, int32_t l);

/* activations -> score [n, fits] (one for the mean) and probability, its
 * sigmoid; activations are [n, d] of a layer, or [n, layers, d] of all that are
 * read. Whole or not there, refused as ks_export_onnx does. */
ks_status ks_export_onnx_net(const ks_folded_net *folded, const char *path,
                             bool force, ks_err *err);

#endif
