/* rows.h - one layer's rows in memory, for solvers that need them all at once
 * and in f32. Internal. */
#ifndef KS_ROWS_H
#define KS_ROWS_H

#include "analyses.h"

/* The data set's rows [n, d] of a layer; *x is allocated. `besides`: bytes that
 * its solver takes; KS_LIMIT where --memory does not leave as much for `what`.
 */
ks_status ks__rows_read(const ks_analysis_input *in, const ks_series *series,
                        int32_t layer, size_t besides, const char *what,
                        float **x, ks_err *err);
/* KS_LIMIT where --memory does not leave so many bytes on the host. */
ks_status ks__rows_room(const ks_analysis_input *in, size_t bytes,
                        const char *what, ks_err *err);

#endif
