/* export_onnx.c - folded probes as ONNX: opset 13, a Gemm and a Sigmoid. See
 * folded.h.
 *
 * An ONNX file is one message of protocol buffers (onnx/onnx.proto; the wire
 * format: protobuf.dev/programming-guides/encoding): fields are a number with
 * a kind, then a varint, or a length and bytes. That is all that is needed
 * here; numbers of fields stand beside their names. */
#include <stdlib.h>
#include <string.h>

#include "folded.h"

enum { IR_VERSION = 8, OPSET = 13, FLOAT = 1, ATTRIBUTE_INT = 2 };

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

/* NodeProto: input 1, output 2, name 3, op_type 4, attribute 5; an attribute:
 * name 1, i 3, type 20. transpose: its second input. */
static ks_status node(ks_str *graph, const char *op, const char *const *inputs,
                      int n, const char *output, bool transpose, ks_err *err) {
    ks_status st = KS_OK;
    ks_str s = {0}, attribute = {0};
    for (int i = 0; i < n; i++) KS_TRY(text(&s, 1, inputs[i], err));
    KS_TRY(text(&s, 2, output, err));
    KS_TRY(text(&s, 3, output, err));
    KS_TRY(text(&s, 4, op, err));
    if (transpose) {
        KS_TRY(text(&attribute, 1, "transB", err));
        KS_TRY(number(&attribute, 3, 1, err));
        KS_TRY(number(&attribute, 20, ATTRIBUTE_INT, err));
        KS_TRY(message(&s, 5, &attribute, err));
    }
    KS_TRY(message(graph, 1, &s, err));
done:
    ks_str_free(&s);
    ks_str_free(&attribute);
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
static ks_status value(ks_str *graph, int field, const char *name, int64_t wide,
                       ks_err *err) {
    ks_status st = KS_OK;
    ks_str s = {0}, type = {0}, tensor = {0}, shape = {0}, dim = {0};
    KS_TRY(text(&dim, 2, "n", err));
    KS_TRY(message(&shape, 1, &dim, err));
    KS_TRY(number(&dim, 1, wide, err));
    KS_TRY(message(&shape, 1, &dim, err));
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
static ks_status make_graph(ks_str *s, const ks_folded *f, ks_err *err) {
    static const char *const gemm[] = {"activations", "weight", "bias"};
    static const char *const sigmoid[] = {"score"};
    ks_status st = KS_OK;
    const int64_t shape[2] = {f->n_fits, f->d};
    KS_TRY(node(s, "Gemm", gemm, 3, "score", true, err));
    KS_TRY(node(s, "Sigmoid", sigmoid, 1, "probability", false, err));
    KS_TRY(text(s, 2, "keystep_probe", err));
    KS_TRY(initializer(s, "weight", shape, 2, f->weight, err));
    KS_TRY(initializer(s, "bias", shape, 1, f->bias, err));
    KS_TRY(value(s, 11, "activations", f->d, err));
    KS_TRY(value(s, 12, "score", f->n_fits, err));
    KS_TRY(value(s, 12, "probability", f->n_fits, err));
done:
    return st;
}

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
 * opset_import 8 -> version 2, metadata_props 14. */
ks_status ks_export_onnx(const ks_folded *f, const char *path, bool force,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks_str model = {0}, graph = {0}, opset = {0};
    json_t *metadata = NULL;
    KS_CHECK(
        !f->all_layers, KS_USAGE,
        "an ONNX file holds the probe of one layer, not of all: --layer N");
    KS_TRY(ks__folded_metadata(f, &metadata, err));
    KS_TRY(number(&model, 1, IR_VERSION, err));
    KS_TRY(text(&model, 2, "keystep", err));
    KS_TRY(text(&model, 3, KS_VERSION, err));
    KS_TRY(make_graph(&graph, f, err));
    KS_TRY(message(&model, 7, &graph, err));
    KS_TRY(number(&opset, 2, OPSET, err));
    KS_TRY(message(&model, 8, &opset, err));
    KS_TRY(put_metadata(&model, metadata, err));
    KS_TRY(ks_write_file(path, model.data, model.length, force, err));
done:
    json_decref(metadata);
    ks_str_free(&model);
    ks_str_free(&graph);
    ks_str_free(&opset);
    return st;
}
