/* rows.h - one layer's rows for a solver that goes through them a few times: in
 * memory, as f32, or, where --memory does not hold them, read anew from the
 * file each time. The solver does not see which. Internal. */
#ifndef KS_ROWS_H
#define KS_ROWS_H

#include "analyses.h"
#include "layer.h"

typedef struct ks__rows {
    ks_l2_source source;
    ks_layer layer; /* that it reads; of no use when x is there */
    float *x;
    int threads; /* of the solver */
} ks__rows;

/* The data set's rows of a layer. besides: bytes that the solver takes; what:
 * who needs them, for KS_LIMIT where --memory does not leave as much. The
 * source borrows *out. */
ks_status ks__rows_open(ks__rows *out, const ks_analysis_input *in,
                        const ks_series *series, int32_t layer,
                        ks_room_fn besides, void *user, const char *what,
                        ks_err *err);
void ks__rows_close(ks__rows *rows);

#endif
