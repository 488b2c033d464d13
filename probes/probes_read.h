/* probes_read.h - what reading a probes.h5 shares. Internal; inside
 * ks__h5_enter. */
#ifndef KS_PROBES_READ_H
#define KS_PROBES_READ_H

#include "acts_format.h"
#include "export.h"

/* A probes.h5 that may come from anywhere. */
typedef struct ks__probes_file {
    const char *path;
    uint64_t size; /* bytes */
    hid_t id;
} ks__probes_file;

ks_status ks__probes_file_open(ks__probes_file *out, const char *path,
                               ks_err *err);
void ks__probes_file_close(ks__probes_file *file);

/* Opens a data set of this class and rank whose values lie in the file.
 * want[i] < 0: any from 1 on, and filled in. */
ks_status ks__probes_open_set(const ks__probes_file *file, const char *name,
                              H5T_class_t class, int rank, int64_t *want,
                              hid_t *set, ks_err *err);

/* Place `at` of its first dimension as floats; one [rank]: its shape with 1 in
 * front. */
ks_status ks__probes_read_place(hid_t set, const char *path, int rank,
                                const hsize_t *one, hsize_t at, float *out,
                                ks_err *err);

#endif
