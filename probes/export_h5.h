/* export_h5.h - the parts of export_h5.c that write probes.h5. Internal. */
#ifndef KS_EXPORT_H5_H
#define KS_EXPORT_H5_H

#include <hdf5.h>

#include "evaluation.h"

/* Object times off: the same run gives the same bytes. -1: failed. */
hid_t ks__put_group(hid_t at, const char *name);
ks_status ks__put_set(hid_t at, const char *path, const char *name,
                      hid_t file_type, hid_t type, int rank,
                      const hsize_t *shape, const void *data, ks_err *err);
/* An attribute. */
ks_status ks__put_text(hid_t at, const char *path, const char *name,
                       const char *text, ks_err *err);

/* The trained kinds of a stream and position, into the group `trained` of its
 * group; nothing where there are none (export_trained.c). */
ks_status ks__put_kinds(const ks_evaluation *r, const ks_series *series,
                        hid_t at, const char *path, ks_err *err);

/* The directions and the sparse probe of series number `series` of the grid
 * (export_refined.c). */
ks_status ks__put_refined(const ks_evaluation *r, int32_t series, hid_t at,
                          const char *path, ks_err *err);

#endif
