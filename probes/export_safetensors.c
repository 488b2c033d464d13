/* export_safetensors.c - folded probes as .safetensors: 8 bytes of header
 * length, a JSON header padded with blanks to a multiple of 8, the data
 * (github.com/huggingface/safetensors, "Format"). See folded.h. */
#include <stdlib.h>
#include <string.h>

#include "folded.h"

/* One tensor of the header; *at is its place in the data and moves on. */
static ks_status tensor(json_t *header, const char *name, const char *dtype,
                        const int64_t *shape, int rank, size_t bytes,
                        size_t *at, ks_err *err) {
    json_t *dims = json_array();
    for (int i = 0; i < rank; i++)
        json_array_append_new(dims, json_integer(shape[i]));
    size_t end = *at + bytes;
    json_t *one = json_pack("{s:s,s:o,s:[I,I]}", "dtype", dtype, "shape", dims,
                            "data_offsets", (json_int_t)*at, (json_int_t)end);
    *at = end;
    return ks_json_set(header, name, one, "safetensors header", err);
}

ks_status ks_export_safetensors(const ks_folded *f, const char *path,
                                bool force, ks_err *err) {
    ks_status st = KS_OK;
    int64_t shape[4], layers = f->n_layers;
    int rank = ks__folded_shape(f, shape);
    size_t bias = (size_t)f->n_layers * (size_t)f->n_fits * sizeof(float);
    size_t weight = bias * (size_t)f->d, layer = (size_t)layers * 4, at = 0;
    json_t *header = json_object(), *metadata = NULL;
    char *text = NULL;
    ks_str out = {0};
    KS_CHECK(header, KS_NOMEM, "out of memory for a header");
    KS_TRY(ks__folded_metadata(f, &metadata, err));
    KS_TRY(
        ks_json_set(header, "__metadata__", json_incref(metadata), path, err));
    KS_TRY(tensor(header, "weight", "F32", shape, rank, weight, &at, err));
    KS_TRY(tensor(header, "bias", "F32", shape, rank - 1, bias, &at, err));
    KS_TRY(tensor(header, "layer", "I32", &layers, f->all_layers, layer, &at,
                  err));
    text = json_dumps(header, JSON_COMPACT | JSON_SORT_KEYS);
    KS_CHECK(text, KS_NOMEM, "out of memory for a header");
    size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    for (int i = 0; i < 8; i++) {
        char byte = (char)((uint64_t)padded >> 8 * i & 255);
        KS_TRY(ks_str_add(&out, &byte, 1, err));
    }
    KS_TRY(ks_str_add(&out, text, length, err));
    KS_TRY(ks_str_add(&out, "        ", padded - length, err));
    KS_TRY(ks_str_add(&out, (const char *)f->weight, weight, err));
    KS_TRY(ks_str_add(&out, (const char *)f->bias, bias, err));
    KS_TRY(ks_str_add(&out, (const char *)f->layer, layer, err));
    KS_TRY(ks_write_file(path, out.data, out.length, force, err));
done:
    json_decref(header);
    json_decref(metadata);
    free(text);
    ks_str_free(&out);
    return st;
}
