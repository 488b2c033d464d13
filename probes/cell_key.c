/* cell_key.c - see cell_key.h. */
#include "cell_key.h"

#include <string.h>

#include "blas.h"

/* Instruction set of the CPU's ops, which fits take that no device was given
 * for. */
static ks_status cpu_isa(char isa[64], ks_err *err) {
    ks_dev *dev = NULL;
    const struct ks_ops *ops = NULL;
    ks_status st = ks_dev_open(&dev, &ops, "cpu", 1, NULL, err);
    if (st == KS_OK) snprintf(isa, 64, "%s", ops->isa);
    ks_dev_close(&dev, ops);
    return st;
}

ks_status ks_cell_common(json_t **out, const ks_cell_store *store,
                         const ks_cell_rows *rows, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cell_store_options *o = ks_cell_store_get(store);
    const ks_acts_info *info = ks_acts_get_info(rows->file);
    size_t n = (size_t)rows->dataset->n;
    char isa[64], place[65], y[65];
    if (o->isa)
        snprintf(isa, sizeof isa, "%s", o->isa);
    else
        KS_TRY(cpu_isa(isa, err));
    ks_sha256_of(rows->place, n * sizeof *rows->place, place);
    ks_sha256_of(rows->dataset->y, n, y);
    *out =
        json_pack("{s:s,s:s,s:s,s:s,s:[s,s,s],s:s,s:s,s:i,s:s,s:s}", "program",
                  KS_VERSION, "backend", o->backend ? o->backend : "cpu", "isa",
                  isa, "blas", openblas_get_config(), "acts_made_by",
                  info->backend, info->isa, info->program_version, "acts_spec",
                  info->spec_sha256, "dtype", ks_type_name(info->dtype), "d",
                  (int)info->d, "rows", place, "labels", y);
    KS_CHECK(*out, KS_NOMEM, "out of memory for cells");
done:
    return st;
}

ks_status ks_cell_add_folds(json_t *common, const ks_folds *f, ks_err *err) {
    ks_status st = KS_OK;
    char hex[65];
    ks_sha256_of(f->fold, (size_t)f->n_seeds * (size_t)f->n, hex);
    KS_TRY(ks_json_set(common, "folds", json_string(hex), "cells", err));
    KS_TRY(
        ks_json_set(common, "n_folds", json_integer(f->n_folds), "cells", err));
    KS_TRY(
        ks_json_set(common, "n_seeds", json_integer(f->n_seeds), "cells", err));
done:
    return st;
}

ks_status ks_cell_layers_hash(char hex[65], const ks_acts_file *file,
                              ks_stream stream, ks_position position,
                              const int32_t *layer, int32_t n, ks_err *err) {
    ks_sha256 *hash = NULL;
    ks_status st = ks_sha256_open(&hash, err);
    for (int32_t i = 0; st == KS_OK && i < n; i++) {
        char one[65];
        st = ks_acts_layer_hash(file, stream, position, layer[i], one, err);
        if (st == KS_OK) ks_sha256_add(hash, one, strlen(one) + 1);
    }
    ks_sha256_close(&hash, hex);
    return st;
}
