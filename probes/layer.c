/* layer.c - see layer.h. */
#include "layer.h"

#include <math.h>
#include <stdlib.h>

#include "ops.h"

static ks_status read_rows(void *user, int64_t row, int64_t n, void *out,
                           ks_err *err) {
    const ks_layer *l = user;
    return ks_acts_gather(l->file, l->stream, l->position, l->layer,
                          l->place + row, n, out, err);
}

ks_l2_source ks_layer_source(ks_layer *l) {
    const ks_acts_info *info = ks_acts_get_info(l->file);
    return (ks_l2_source){.n = l->dataset->n,
                          .d = info->d,
                          .type = info->dtype,
                          .read = read_rows,
                          .user = l};
}

static bool is_finite(const float *x, int64_t d) {
    float sum = 0; /* NaN unless every value is finite */
    for (int64_t j = 0; j < d; j++) sum += x[j] * 0.0f;
    return sum == 0;
}

ks_status ks_layer_check(ks_layer *l, const char *path, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *data = l->dataset;
    ks_l2_source source = ks_layer_source(l);
    int64_t bad = 0, first = -1;
    void *raw = NULL;
    float *x = NULL;
    KS_TRY(ks_alloc(&raw, (size_t)source.d, sizeof(float), "a row", err));
    KS_TRY(ks_alloc(&x, (size_t)source.d, sizeof(float), "a row", err));
    for (int64_t i = 0; i < source.n; i++) {
        KS_TRY(read_rows(l, i, 1, raw, err));
        ks_dequantize(source.type, raw, x, source.d);
        if (!is_finite(x, source.d) && !bad++) first = i;
    }
    if (!bad) goto done;
    const ks_step_row *step = &data->info->steps[data->row[first]];
    KS_CHECK(false, KS_NUMERIC,
             "%s: %s/%s layer %d: %lld of %lld probed steps hold a value that "
             "is not finite, the first is step %d of chain %s",
             path, ks_stream_name(l->stream), ks_position_name(l->position),
             l->layer, (long long)bad, (long long)data->n, step->index,
             data->info->chains[step->chain].id);
done:
    free(raw);
    free(x);
    return st;
}
