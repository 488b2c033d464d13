/* folded.h - probes of a probes.h5 as plain linear maps of activations, with
 * standardisation folded in, and what they are written as for other programs.
 *
 *     score = sum weight (x - mean) / scale + bias = x.w + b,
 *     w = weight / scale,  b = bias - sum w mean  (in double)
 *
 * A score above 0 predicts an important step; sigmoid(score) is a probability
 * where classes are balanced. */
#ifndef KS_FOLDED_H
#define KS_FOLDED_H

#include "export.h"

/* Which layers and fits of a series. */
enum { KS_LAYER_BEST = -1, KS_LAYERS_ALL = -2 };

typedef struct ks_folded_options {
    ks_stream stream;
    ks_position position;
    int32_t layer; /* a number, the one that most folds chose, or all */
    /* All fits by themselves; else their mean: as scores are linear, its score
     * is the mean of theirs. */
    bool each_fit;
} ks_folded_options;

typedef struct ks_folded {
    char *model_name, *model_sha256, *context;
    ks_stream stream;
    ks_position position;
    bool all_layers, each_fit;
    int32_t d, n_layers, *layer; /* [n_layers] */
    int32_t n_seeds, n_folds;    /* of the file */
    int32_t n_fits;              /* each_fit: n_seeds n_folds, else 1 */
    float *weight;               /* [n_layers, n_fits, d] */
    float *bias;                 /* [n_layers, n_fits] */
} ks_folded;

/* out starts as {0}; a failed call leaves {0}. KS_USAGE where the file has no
 * such series or layer, KS_FORMAT where a value is not finite or a scale not
 * above 0. */
ks_status ks_folded_read(ks_folded *out, const char *path,
                         const ks_folded_options *options, ks_err *err);
void ks_folded_free(ks_folded *folded);

/* All three: whole or not there; an existing path is refused unless force; the
 * same probes give the same bytes.
 *
 * npz: weight and bias as float32, layer as int32, metadata as JSON (bytes).
 * safetensors: weight, bias, layer; metadata as its __metadata__.
 * Shapes: weight [layers, seeds, folds, d], bias [layers, seeds, folds], layer
 * [layers], without `layers` for one layer and without `seeds, folds` for the
 * mean of the fits.
 * onnx: activations [n, d] -> score [n, fits] and probability, its sigmoid;
 * metadata as metadata_props. One layer (KS_USAGE else). */
ks_status ks_export_npz(const ks_folded *folded, const char *path, bool force,
                        ks_err *err);
ks_status ks_export_safetensors(const ks_folded *folded, const char *path,
                                bool force, ks_err *err);
ks_status ks_export_onnx(const ks_folded *folded, const char *path, bool force,
                         ks_err *err);

/* What goes beside the weights: an object of strings, new. Internal. */
typedef struct ks__about {
    const char *probe, *model_name, *model_sha256, *context;
    ks_stream stream;
    ks_position position;
    const char *layer, *fits, *score; /* in words */
} ks__about;
ks_status ks__about_json(const ks__about *about, json_t **out, ks_err *err);
ks_status ks__folded_metadata(const ks_folded *folded, json_t **out,
                              ks_err *err);
/* Dimensions of weight (bias: all but the last) as above; how many. */
int ks__folded_shape(const ks_folded *folded, int64_t shape[4]);

#endif
