/* layer.h - one layer of a data set as a source of rows (l2.h): read from the
 * activation file a piece at a time, and never whole. */
#ifndef KS_LAYER_H
#define KS_LAYER_H

#include "dataset.h"
#include "l2.h"

typedef struct ks_layer {
    const ks_dataset *dataset;
    const ks_acts_file *file;
    const int64_t *place; /* of ks_dataset_match, or dataset->row */
    ks_stream stream;
    ks_position position;
    int32_t layer;
} ks_layer;

/* Borrows the layer. */
ks_l2_source ks_layer_source(ks_layer *layer);

/* KS_NUMERIC where a value is not finite: how many of the data set's rows hold
 * one, and the first by chain and step. path: of the file. */
ks_status ks_layer_check(ks_layer *layer, const char *path, ks_err *err);

#endif
