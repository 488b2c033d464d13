/* adamw_rows.c - see adamw.h: the rows, where they lie and where the ops find
 * them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adamw_state.h"
#include "scratch.h"

static ks_status check_finite(const ks_adamw_data *a, ks_err *err) {
    int64_t bad = -1;
#pragma omp parallel for
    for (int64_t i = 0; i < a->layers * a->n; i++) {
        float sum = 0;
        for (int64_t j = 0; j < a->d; j++) sum += a->x[i * a->d + j] * 0.0f;
        if (sum == 0) continue; /* NaN unless every value is finite */
#pragma omp critical(ks_adamw_bad)
        if (bad < 0 || i < bad) bad = i;
    }
    if (bad < 0) return KS_OK;
    int64_t j = 0;
    while (isfinite(a->x[bad * a->d + j])) j++;
    return ks_fail(err, KS_NUMERIC,
                   "layer %lld, row %lld, feature %lld: expected a finite "
                   "value, found %g",
                   (long long)(bad / a->n), (long long)(bad % a->n),
                   (long long)j, (double)a->x[bad * a->d + j]);
}

/* One layer at a time through a padded copy. */
static ks_status place_rows(ks_adamw_data *a, ks_err *err) {
    ks_status st = KS_OK;
    float *layer = NULL;
    size_t bytes = (size_t)a->n * (size_t)a->stride * sizeof(float);
    a->resident = a->x;
    if (a->stride == a->d && a->ops->unified) return KS_OK;
    KS_TRY(ks_alloc(&layer, bytes, 1, "a layer", err));
    KS_TRY(a->ops->alloc(a->dev, &a->buf, bytes * (size_t)a->layers,
                         "all layers' activations", err));
    for (int32_t l = 0; l < a->layers; l++) {
        for (int64_t i = 0; i < a->n; i++)
            memcpy(layer + i * a->stride, a->x + (l * a->n + i) * a->d,
                   (size_t)a->d * sizeof *layer);
        KS_TRY(a->ops->copy(a->dev, (char *)a->buf.data + (size_t)l * bytes,
                            layer, bytes, err));
        KS_TRY(a->ops->sync(a->dev, err));
    }
    a->resident = a->buf.data;
done:
    free(layer);
    return st;
}

static ks_status open_data(ks_adamw_data **out, const struct ks_ops *ops,
                           ks_dev *dev, int32_t layers, int64_t n, int64_t d,
                           ks_err *err) {
    ks_status st = KS_OK;
    ks_adamw_data *a = NULL;
    KS_CHECK(layers >= 1 && n >= 1 && d >= 1, KS_USAGE,
             "a probe needs layers, rows and features, got %d, %lld and %lld",
             layers, (long long)n, (long long)d);
    KS_CHECK(n <= INT32_MAX && d <= INT32_MAX / KS_L2_BLOCK, KS_LIMIT,
             "%lld rows of %lld features are too many", (long long)n,
             (long long)d);
    KS_TRY(ks_alloc(&a, 1, sizeof *a, "probe trainer", err));
    *a = (ks_adamw_data){
        .ops = ops, .dev = dev, .layers = layers, .n = n, .d = d};
    a->stride = ks_adamw_stride(d);
    *out = a;
done:
    return st;
}

int64_t ks_adamw_stride(int64_t d) {
    return (d + KS_ADAMW_PAD - 1) / KS_ADAMW_PAD * KS_ADAMW_PAD;
}

ks_status ks_adamw_open(ks_adamw_data **out, const struct ks_ops *ops,
                        ks_dev *dev, const float *x, int32_t layers, int64_t n,
                        int64_t d, ks_err *err) {
    ks_status st = KS_OK;
    *out = NULL;
    KS_CHECK(x, KS_USAGE, "a probe needs rows");
    KS_TRY(open_data(out, ops, dev, layers, n, d, err));
    (*out)->x = x;
    KS_TRY(check_finite(*out, err));
    KS_TRY(place_rows(*out, err));
done:
    if (st != KS_OK) ks_adamw_close(out);
    return st;
}

ks_status ks_adamw_open_file(ks_adamw_data **out, const struct ks_ops *ops,
                             ks_dev *dev, const ks_adamw_file *file, int64_t n,
                             int64_t d, ks_err *err) {
    ks_status st = KS_OK;
    *out = NULL;
    KS_CHECK(ops->unified, KS_INTERNAL, "a device reads no scratch file");
    KS_TRY(open_data(out, ops, dev, file->matrices, n, d, err));
    (*out)->file = *file;
done:
    return st;
}

void ks_adamw_close(ks_adamw_data **data) {
    if (!data || !*data) return;
    (*data)->ops->free((*data)->dev, &(*data)->buf);
    free(*data);
    *data = NULL;
}

ks_status ks__adamw_row(const ks_adamw_data *a, int32_t layer, int32_t row,
                        float *buffer, const float **x, ks_err *err) {
    int64_t at = ((int64_t)row * a->layers + layer) * a->stride;
    *x = a->x ? a->x + ((int64_t)layer * a->n + row) * a->d : buffer;
    return a->x ? KS_OK
                : ks__scratch_read(a->file.fd, buffer,
                                   (size_t)a->d * sizeof *buffer,
                                   at * (int64_t)sizeof *buffer, err);
}
