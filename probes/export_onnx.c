/* export_onnx.c - folded probes as ONNX, opset 13: of the L2 probes a Gemm and
 * a Sigmoid (folded.h), of networks a Gemm a layer and fit (folded_net.h).
 *
 * An ONNX file is one message of protocol buffers (onnx/onnx.proto; the wire
 * format: protobuf.dev/programming-guides/encoding): fields are a number with
 * a kind, then a varint, or a length and bytes. That is all that is needed
 * here; numbers of fields stand beside their names. */
#include <stdlib.h>
#include <string.h>

#include "folded_net.h"

enum {
    IR_VERSION = 8,
    OPSET = 13,
    FLOAT = 1,
    ATTRIBUTE_INT = 2,
    ATTRIBUTE_INTS = 7
};

/* -------------------------------------------------------------- wire format */

static ks_status varint(ks_str *s, uint64_t v, ks_err *err) {
    char bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (char)((v & 127) | (v > 127 ? 128 : 0));
        v >>= 7;
    } while (v);
    return ks_str_add(s, bytes, n, err);
}

static ks_status number(ks_str *s, int field, int64_t v, ks_err *err) {
    ks_status st = varint(s, (uint64_t)field << 3, err);
    return st == KS_OK ? varint(s, (uint64_t)v, err) : st;
}

static ks_status bytes(ks_str *s, int field, const void *data, size_t n,
                       ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(varint(s, (uint64_t)field << 3 | 2, err));
    KS_TRY(varint(s, n, err));
    KS_TRY(ks_str_add(s, data, n, err));
done:
    return st;
}

static ks_status text(ks_str *s, int field, const char *value, ks_err *err) {
    return bytes(s, field, value, strlen(value), err);
}

/* A finished message as a field of another; it is emptied. */
static ks_status message(ks_str *s, int field, ks_str *inner, ks_err *err) {
    ks_status st = bytes(s, field, inner->data, inner->length, err);
    ks_str_free(inner);
    return st;
}

/* ----------------------------------------------------------------- messages */

/* Of a node: a whole number, or a list of one. */
typedef struct attribute {
    const char *name; /* NULL: none */
    bool list;
    int64_t value;
} attribute;
enum { MOST_ATTRIBUTES = 2 };

/* NodeProto: input 1, output 2, name 3, op_type 4, attribute 5; an attribute:
 * name 1, i 3, ints 8, type 20. attributes: [MOST_ATTRIBUTES] or NULL. */
static ks_status node(ks_str *graph, const char *op, const char *const *inputs,
                      int64_t n, const char *output,
                      const attribute *attributes, ks_err *err) {
    ks_status st = KS_OK;
    ks_str s = {0}, one = {0};
    for (int64_t i = 0; i < n; i++) KS_TRY(text(&s, 1, inputs[i], err));
    KS_TRY(text(&s, 2, output, err));
    KS_TRY(text(&s, 3, output, err));
    KS_TRY(text(&s, 4, op, err));
    for (int i = 0; attributes && i < MOST_ATTRIBUTES; i++) {
        const attribute *a = &attributes[i];
        if (!a->name) continue;
        KS_TRY(text(&one, 1, a->name, err));
        KS_TRY(number(&one, a->list ? 8 : 3, a->value, err));
        KS_TRY(number(&one, 20, a->list ? ATTRIBUTE_INTS : ATTRIBUTE_INT, err));
        KS_TRY(message(&s, 5, &one, err));
    }
    KS_TRY(message(graph, 1, &s, err));
done:
    ks_str_free(&s);
    ks_str_free(&one);
    return st;
}

/* TensorProto: dims 1, data_type 2, name 8, raw_data 9. */
static ks_status initializer(ks_str *graph, const char *name,
                             const int64_t *shape, int rank, const float *data,
                             ks_err *err) {
    ks_status st = KS_OK;
    ks_str s = {0};
    size_t n = sizeof *data;
    for (int i = 0; i < rank; i++) {
        KS_TRY(number(&s, 1, shape[i], err));
        n *= (size_t)shape[i];
    }
    KS_TRY(number(&s, 2, FLOAT, err));
    KS_TRY(text(&s, 8, name, err));
    KS_TRY(bytes(&s, 9, data, n, err));
    KS_TRY(message(graph, 5, &s, err));
done:
    ks_str_free(&s);
    return st;
}

/* ValueInfoProto: name 1, type 2 -> tensor_type 1 -> elem_type 1, shape 2 ->
 * dim 1 -> dim_value 1 or dim_param 2: [n, wide]. */
static ks_status value(ks_str *graph, int field, const char *name,
                       const int64_t *wide, int rank, ks_err *err) {
    ks_status st = KS_OK;
    ks_str s = {0}, type = {0}, tensor = {0}, shape = {0}, dim = {0};
    KS_TRY(text(&dim, 2, "n", err));
    KS_TRY(message(&shape, 1, &dim, err));
    for (int i = 0; i < rank; i++) {
        KS_TRY(number(&dim, 1, wide[i], err));
        KS_TRY(message(&shape, 1, &dim, err));
    }
    KS_TRY(number(&tensor, 1, FLOAT, err));
    KS_TRY(message(&tensor, 2, &shape, err));
    KS_TRY(message(&type, 1, &tensor, err));
    KS_TRY(text(&s, 1, name, err));
    KS_TRY(message(&s, 2, &type, err));
    KS_TRY(message(graph, field, &s, err));
done:
    ks_str_free(&s);
    ks_str_free(&type);
    ks_str_free(&tensor);
    ks_str_free(&shape);
    ks_str_free(&dim);
    return st;
}

/* GraphProto: node 1, name 2, initializer 5, input 11, output 12. */

static const attribute transposed[MOST_ATTRIBUTES] = {{"transB", false, 1}};

/* The last node, and the graph's name. */
static ks_status put_probability(ks_str *s, ks_err *err) {
    static const char *const score[] = {"score"};
    ks_status st = KS_OK;
    KS_TRY(node(s, "Sigmoid", score, 1, "probability", NULL, err));
    KS_TRY(text(s, 2, "keystep_probe", err));
done:
    return st;
}

/* What goes in, [n, wide], and what comes out, [n, columns]. */
static ks_status put_values(ks_str *s, const int64_t *wide, int rank,
                            int64_t columns, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(value(s, 11, "activations", wide, rank, err));
    KS_TRY(value(s, 12, "score", &columns, 1, err));
    KS_TRY(value(s, 12, "probability", &columns, 1, err));
done:
    return st;
}

static ks_status make_graph(ks_str *s, const ks_folded *f, ks_err *err) {
    static const char *const gemm[] = {"activations", "weight", "bias"};
    ks_status st = KS_OK;
    const int64_t shape[2] = {f->n_fits, f->d};
    KS_TRY(node(s, "Gemm", gemm, 3, "score", transposed, err));
    KS_TRY(put_probability(s, err));
    KS_TRY(initializer(s, "weight", shape, 2, f->weight, err));
    KS_TRY(initializer(s, "bias", shape, 1, f->bias, err));
    KS_TRY(put_values(s, shape + 1, 1, f->n_fits, err));
done:
    return st;
}

/* ----------------------------------------------------------------- networks
 */

typedef char tensor_name[48];

/* Layer l of a fit's net on `from`, whose name becomes that of its output. */
static ks_status put_level(ks_str *s, const ks_folded_net *f, int64_t fit,
                           int32_t l, tensor_name from, ks_err *err) {
    ks_status st = KS_OK;
    tensor_name weight, bias, out;
    const char *const gemm[] = {from, weight, bias}, *const relu[] = {out};
    const int64_t shape[2] = {ks_folded_net_units(f, l),
                              ks_folded_net_inputs(f, l)};
    bool last = l == f->recipe.n_hidden;
    snprintf(weight, sizeof weight, "weight%d_%lld", l, (long long)fit);
    snprintf(bias, sizeof bias, "bias%d_%lld", l, (long long)fit);
    if (last)
        snprintf(out, sizeof out, "score_%lld", (long long)fit);
    else
        snprintf(out, sizeof out, "layer%d_%lld", l, (long long)fit);
    KS_TRY(node(s, "Gemm", gemm, 3, out, transposed, err));
    KS_TRY(initializer(s, weight, shape, 2,
                       f->weight[l] + fit * shape[0] * shape[1], err));
    KS_TRY(initializer(s, bias, shape, 1, f->bias[l] + fit * shape[0], err));
    if (last) {
        memcpy(from, out, sizeof out);
        goto done;
    }
    snprintf(from, sizeof out, "relu%d_%lld", l, (long long)fit);
    KS_TRY(node(s, "Relu", relu, 1, from, NULL, err));
done:
    return st;
}

/* Scores of all fits [n, fits], or their mean [n, 1]. */
static ks_status put_scores(ks_str *s, const ks_folded_net *f,
                            const char *inputs, ks_err *err) {
    static const attribute columns[MOST_ATTRIBUTES] = {{"axis", false, 1}},
                           mean[MOST_ATTRIBUTES] = {{"axes", true, 1},
                                                    {"keepdims", false, 1}};
    static const char *const scores[] = {"scores"};
    ks_status st = KS_OK;
    int64_t fits = (int64_t)f->n_seeds * f->n_folds;
    tensor_name *names = NULL;
    const char **all = NULL;
    KS_TRY(ks_alloc(&names, (size_t)fits, sizeof *names, "names", err));
    KS_TRY(ks_alloc((void *)&all, (size_t)fits, sizeof *all, "names", err));
    for (int64_t k = 0; k < fits; k++) {
        snprintf(names[k], sizeof names[k], "%s", inputs);
        for (int32_t l = 0; l <= f->recipe.n_hidden; l++)
            KS_TRY(put_level(s, f, k, l, names[k], err));
        all[k] = names[k];
    }
    KS_TRY(node(s, "Concat", all, fits, f->each_fit ? "score" : *scores,
                columns, err));
    if (!f->each_fit)
        KS_TRY(node(s, "ReduceMean", scores, 1, "score", mean, err));
done:
    free(names);
    free((void *)all);
    return st;
}

static ks_status make_net_graph(ks_str *s, const ks_folded_net *f,
                                ks_err *err) {
    static const attribute over_layers[MOST_ATTRIBUTES] = {
        {"axes", true, 1}, {"keepdims", false, 0}};
    static const char *const given[] = {"activations"};
    ks_status st = KS_OK;
    ks_input input = f->recipe.input;
    bool each = input == KS_INPUT_EACH;
    const int64_t shape[2] = {f->n_layers, f->d},
                  wide = ks_folded_net_inputs(f, 0),
                  fits = f->each_fit ? (int64_t)f->n_seeds * f->n_folds : 1;
    const char *inputs = each                     ? "activations"
                         : input == KS_INPUT_MEAN ? "mean_of_layers"
                                                  : "layers_side_by_side";
    const char *const less[] = {inputs, "centre"};
    if (input == KS_INPUT_MEAN)
        KS_TRY(node(s, "ReduceMean", given, 1, inputs, over_layers, err));
    else if (!each)
        KS_TRY(node(s, "Flatten", given, 1, inputs, NULL, err));
    KS_TRY(node(s, "Sub", less, 2, "centred", NULL, err));
    KS_TRY(initializer(s, "centre", &wide, 1, f->centre, err));
    KS_TRY(put_scores(s, f, "centred", err));
    KS_TRY(put_probability(s, err));
    KS_TRY(put_values(s, shape + each, 2 - each, fits, err));
done:
    return st;
}

static ks_status net_metadata(const ks_folded_net *f, json_t **out,
                              ks_err *err) {
    static const char *const read[] = {
        [KS_INPUT_MEAN] = "on the mean over the layers of activations "
                          "[n, layers, d]",
        [KS_INPUT_BESIDE] = "on the layers of activations [n, layers, d] side "
                            "by side",
        [KS_INPUT_EACH] = "on activations [n, d]"};
    ks_status st = KS_OK;
    ks_str layers = {0};
    char which[96], score[160];
    for (int32_t l = 0; l < f->n_layers; l++)
        KS_TRY(ks_str_printf(&layers, err, "%s%d", l ? "," : "", f->layer[l]));
    snprintf(which, sizeof which, "%s of %d seeds x %d folds",
             f->each_fit ? "each" : "mean of the scores", f->n_seeds,
             f->n_folds);
    snprintf(score, sizeof score,
             "a net %s, standardisation folded in; above 0: the step is "
             "important",
             read[f->recipe.input]);
    const ks__about about = {.probe = f->recipe.name,
                             .model_name = f->model_name,
                             .model_sha256 = f->model_sha256,
                             .context = f->context,
                             .stream = f->stream,
                             .position = f->position,
                             .layer = layers.data,
                             .fits = which,
                             .score = score};
    KS_TRY(ks__about_json(&about, out, err));
done:
    ks_str_free(&layers);
    return st;
}

/* -------------------------------------------------------------------- model
 */

/* metadata_props 14: key 1, value 2. */
static ks_status put_metadata(ks_str *model, json_t *metadata, ks_err *err) {
    ks_status st = KS_OK;
    ks_str entry = {0};
    const char *key;
    json_t *v;
    json_object_foreach(metadata, key, v) {
        KS_TRY(text(&entry, 1, key, err));
        KS_TRY(text(&entry, 2, json_string_value(v), err));
        KS_TRY(message(model, 14, &entry, err));
    }
done:
    ks_str_free(&entry);
    return st;
}

/* ModelProto: ir_version 1, producer_name 2, producer_version 3, graph 7,
 * opset_import 8 -> version 2, metadata_props 14. The graph is emptied. */
static ks_status write_model(ks_str *graph, json_t *metadata, const char *path,
                             bool force, ks_err *err) {
    ks_status st = KS_OK;
    ks_str model = {0}, opset = {0};
    KS_TRY(number(&model, 1, IR_VERSION, err));
    KS_TRY(text(&model, 2, "keystep", err));
    KS_TRY(text(&model, 3, KS_VERSION, err));
    KS_TRY(message(&model, 7, graph, err));
    KS_TRY(number(&opset, 2, OPSET, err));
    KS_TRY(message(&model, 8, &opset, err));
    KS_TRY(put_metadata(&model, metadata, err));
    KS_TRY(ks_write_file(path, model.data, model.length, force, err));
done:
    ks_str_free(&model);
    ks_str_free(&opset);
    return st;
}

ks_status ks_export_onnx(const ks_folded *f, const char *path, bool force,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks_str graph = {0};
    json_t *metadata = NULL;
    KS_CHECK(
        !f->all_layers, KS_USAGE,
        "an ONNX file holds the probe of one layer, not of all: --layer N");
    KS_TRY(ks__folded_metadata(f, &metadata, err));
    KS_TRY(make_graph(&graph, f, err));
    KS_TRY(write_model(&graph, metadata, path, force, err));
done:
    json_decref(metadata);
    ks_str_free(&graph);
    return st;
}

ks_status ks_export_onnx_net(const ks_folded_net *f, const char *path,
                             bool force, ks_err *err) {
    ks_status st = KS_OK;
    ks_str graph = {0};
    json_t *metadata = NULL;
    KS_TRY(net_metadata(f, &metadata, err));
    KS_TRY(make_net_graph(&graph, f, err));
    KS_TRY(write_model(&graph, metadata, path, force, err));
done:
    json_decref(metadata);
    ks_str_free(&graph);
    return st;
}
