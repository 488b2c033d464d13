/* rows.c - see rows.h. */
#include "rows.h"

#include <stdlib.h>

#include "ops.h"

static size_t constant(void *user, int threads, bool scratch) {
    (void)threads, (void)scratch;
    return *(const size_t *)user;
}

ks_status ks__rows_room(const ks_analysis_input *in, size_t bytes,
                        const char *what, ks_err *err) {
    ks_room_plan plan;
    ks_room room = in->options->room;
    room.tested = false;
    return ks_room_choose(&room, 0, constant, &bytes, 1, 1, what, &plan, err);
}

ks_status ks__rows_read(const ks_analysis_input *in, const ks_series *series,
                        int32_t layer, size_t besides, const char *what,
                        float **x, ks_err *err) {
    ks_status st = KS_OK;
    enum { PIECE = 256 }; /* rows as stored at a time */
    const ks_dataset *d = in->dataset;
    const ks_acts_info *info = d->info;
    int64_t width = info->d;
    size_t row = ks_type_row_bytes(info->dtype, width);
    char *raw = NULL;
    *x = NULL;
    KS_TRY(ks__rows_room(in, besides + (size_t)(d->n * width) * sizeof **x,
                         what, err));
    KS_TRY(ks_alloc(x, (size_t)(d->n * width), sizeof **x,
                    "activations of a layer", err));
    KS_TRY(ks_alloc(&raw, PIECE, row, "rows", err));
    for (int64_t i = 0; i < d->n; i += PIECE) {
        int64_t n = KS_MIN(PIECE, d->n - i);
        KS_TRY(ks_acts_gather(d->acts, series->stream, series->position, layer,
                              d->row + i, n, raw, err));
        for (int64_t k = 0; k < n; k++)
            ks_dequantize(info->dtype, raw + (size_t)k * row,
                          *x + (i + k) * width, width);
    }
done:
    free(raw);
    if (st != KS_OK) {
        free(*x);
        *x = NULL;
    }
    return st;
}
