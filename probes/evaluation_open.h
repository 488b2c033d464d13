/* evaluation_open.h - everything of an evaluation that comes ahead of its long
 * work: what it reads, its folds, whether all fits together and into memory,
 * and which cells are there. Internal. */
#ifndef KS_EVALUATION_OPEN_H
#define KS_EVALUATION_OPEN_H

#include "evaluation.h"

/* r has its options and nothing else; grid, a copy of theirs, becomes what the
 * parts take. share: for a share of cells, with nothing behind them. */
ks_status ks__evaluation_open(ks_evaluation *r, ks_grid_options *grid,
                              bool share, ks_err *err);
/* Cells of all grids and kinds, settled: grid->store, NULL where none are kept.
 */
ks_status ks__evaluation_open_cells(const ks_evaluation *r,
                                    ks_grid_options *grid, ks_err *err);
/* counts may be NULL. */
void ks__evaluation_close_cells(ks_grid_options *grid, ks_cell_counts *counts);

#endif
