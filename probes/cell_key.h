/* cell_key.h - what decides the numbers of cells (cell_store.h): the part of
 * their keys that fits on the same rows have in common. */
#ifndef KS_CELL_KEY_H
#define KS_CELL_KEY_H

#include "cell_store.h"
#include "dataset.h"
#include "nest.h"

/* The rows of a data set in an activation file, which may be another than the
 * data set's own. */
typedef struct ks_cell_rows {
    const ks_dataset *dataset; /* y */
    const ks_acts_file *file;
    const int64_t *place; /* [n] of ks_dataset_match, or dataset->row */
} ks_cell_rows;

/* A new object: version, backend, instruction set and BLAS, the file (made by,
 * spec, type), rows and labels by their hashes. */
ks_status ks_cell_common(json_t **out, const ks_cell_store *store,
                         const ks_cell_rows *rows, ks_err *err);
/* Adds folds and seeds, by a hash. */
ks_status ks_cell_add_folds(json_t *common, const ks_folds *folds, ks_err *err);
/* Hash of the values of `n` layers of a stream and position, hex. */
ks_status ks_cell_layers_hash(char hex[65], const ks_acts_file *file,
                              ks_stream stream, ks_position position,
                              const int32_t *layer, int32_t n, ks_err *err);

#endif
