/* export_safetensors.c - folded probes as .safetensors. See folded.h. */
#include "folded.h"
#include "safetensors.h"

ks_status ks_export_safetensors(const ks_folded *f, const char *path,
                                bool force, ks_err *err) {
    ks_status st = KS_OK;
    int64_t shape[4], layers = f->n_layers;
    int rank = ks__folded_shape(f, shape);
    size_t bias = (size_t)f->n_layers * (size_t)f->n_fits * sizeof(float);
    size_t weight = bias * (size_t)f->d, layer = (size_t)layers * 4, at = 0;
    json_t *header = json_object(), *metadata = NULL;
    ks_str out = {0};
    KS_CHECK(header, KS_NOMEM, "out of memory for a header");
    KS_TRY(ks__folded_metadata(f, &metadata, err));
    KS_TRY(
        ks_json_set(header, "__metadata__", json_incref(metadata), path, err));
    KS_TRY(ks_safetensors_add(header, "weight", "F32", shape, rank, weight, &at,
                              path, err));
    KS_TRY(ks_safetensors_add(header, "bias", "F32", shape, rank - 1, bias, &at,
                              path, err));
    KS_TRY(ks_safetensors_add(header, "layer", "I32", &layers, f->all_layers,
                              layer, &at, path, err));
    KS_TRY(ks_safetensors_begin(&out, header, path, err));
    KS_TRY(ks_str_add(&out, (const char *)f->weight, weight, err));
    KS_TRY(ks_str_add(&out, (const char *)f->bias, bias, err));
    KS_TRY(ks_str_add(&out, (const char *)f->layer, layer, err));
    KS_TRY(ks_write_file(path, out.data, out.length, force, err));
done:
    json_decref(header);
    json_decref(metadata);
    ks_str_free(&out);
    return st;
}
