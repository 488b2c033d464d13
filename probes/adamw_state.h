/* adamw_state.h - what the files of the AdamW trainers share. */
#ifndef KS_ADAMW_STATE_H
#define KS_ADAMW_STATE_H

#include "adamw.h"

struct ks_adamw_data {
    const struct ks_ops *ops;
    ks_dev *dev;
    const float *x;     /* [layers, n, d] host; NULL: in the file */
    ks_adamw_file file; /* without x */
    int32_t layers;
    int64_t n, d, stride;
    ks_buf buf;            /* [layers, n, stride]; empty: x itself serves */
    const float *resident; /* x where the ops find it */
};

/* A row of a layer: where it lies, or out of the file into buffer [d]. */
ks_status ks__adamw_row(const ks_adamw_data *data, int32_t layer, int32_t row,
                        float *buffer, const float **x, ks_err *err);

#endif
