/* export_refined.c - concept directions and sparse probes in probes.h5; see
 * export.h. */
#include "acts_format.h"
#include "export.h"
#include "export_h5.h"

/* A group with the layer, one or (by_fit) that of each fit, and weight and bias
 * of the outer fits. */
static ks_status put_weights(const ks_evaluation *r, hid_t parent,
                             const char *path, const char *name,
                             const int32_t *layer, bool by_fit,
                             const float *weight, const float *bias,
                             ks_err *err) {
    ks_status st = KS_OK;
    const hsize_t one = 1,
                  shape[3] = {(hsize_t)r->folds.n_seeds,
                              (hsize_t)r->folds.n_folds, (hsize_t)r->grid.d};
    hid_t at = ks__put_group(parent, name);
    if (at < 0) return ks__h5_fail(err, path, "make a group");
    KS_TRY(ks__put_set(at, path, "layer", H5T_STD_I32LE, H5T_NATIVE_INT32,
                       by_fit ? 2 : 1, by_fit ? shape : &one, layer, err));
    KS_TRY(ks__put_set(at, path, "weight", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 3,
                       shape, weight, err));
    KS_TRY(ks__put_set(at, path, "bias", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 2,
                       shape, bias, err));
done:
    ks__h5_drop(&at);
    return st;
}

ks_status ks__put_refined(const ks_evaluation *r, int32_t series, hid_t at,
                          const char *path, ks_err *err) {
    ks_status st = KS_OK;
    const ks_refined *f = &r->refined;
    static const char *const names[] = {"mean-difference", "lda"};
    for (int k = 0; f->directions && k < KS_N_DIRECTIONS; k++) {
        const ks_directions *d = &f->directions[series];
        KS_TRY(put_weights(r, at, path, names[k], &d->layer, false,
                           d->weight[k], d->bias[k], err));
    }
    if (f->sparse) {
        const ks_sparse *s = &f->sparse[series];
        KS_TRY(put_weights(r, at, path, "l1", s->layers, true, s->weight,
                           s->bias, err));
    }
done:
    return st;
}
