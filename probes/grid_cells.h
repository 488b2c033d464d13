/* grid_cells.h - the grid's layers as cells of a store. Internal to grid*.c. */
#ifndef KS_GRID_CELLS_H
#define KS_GRID_CELLS_H

#include "cell_key.h"
#include "grid.h"

/* Keys [n_cells] of a series, new; free with ks__grid_keys_free. */
ks_status ks__grid_keys(ks_cell_key **out, const ks_series *series,
                        const ks_cell_rows *rows, const ks_folds *folds,
                        const ks_grid_options *options, ks_err *err);
void ks__grid_keys_free(ks_cell_key **keys, int32_t n);

/* A cell's fits from the store, as far as options->nest keeps them; *found:
 * nest is filled. */
ks_status ks__grid_take(ks_nest *nest, const ks_cell_key *key, int64_t d,
                        const ks_folds *folds, const ks_grid_options *options,
                        bool *found, ks_err *err);
/* A cell's fits, all of which were kept, into the store; then what
 * options->nest does not keep is freed. */
ks_status ks__grid_put(ks_nest *nest, const ks_cell_key *key,
                       const ks_folds *folds, const ks_grid_options *options,
                       ks_err *err);
/* What is fitted for a store: everything, so that the same cell serves whatever
 * is asked for later. */
ks_nest_options ks__grid_whole(const ks_grid_options *options);

#endif
