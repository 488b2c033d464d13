/* grid.h - every layer x position of an activation file probed, as many
 * matrices in memory at a time as threads and memory allow, and for every
 * position the best layer, chosen inside the training folds: for each outer
 * fold the layer with the least inner loss (nest.h) gives the scores of that
 * fold's rows, so that no test row is looked at when layer or strength are
 * chosen. */
#ifndef KS_GRID_H
#define KS_GRID_H

#include "calibration.h"
#include "cell_store.h"
#include "dataset.h"
#include "nest.h"
#include "room.h"
#include "stats.h"

typedef struct ks_grid_options {
    ks_nest_options nest;
    uint32_t streams, positions; /* bit sets; 0: all that the file holds */
    const bool *layers;          /* [info.n_layers + 1]; NULL: all */
    int32_t bootstrap;           /* replicates */
    uint64_t seed;
    ks_room room; /* of the host */
    size_t later; /* bytes of it that one layer takes at least after the grid */
    ks_cell_store *store; /* fits are taken from and put there; NULL: none */
    void (*progress)(void *user, int64_t cells); /* may be NULL */
    void *user;
} ks_grid_options;

typedef struct ks_cell {
    int32_t layer;
    ks_nest nest;
    float *score; /* [n] mean over seeds of the out-of-fold margins */
    ks_interval metrics[KS_N_METRICS];
    double p, p_holm; /* tells steps of a chain apart (ks_p_within); over the
                         layers of the series */
} ks_cell;

/* The layers of one stream and position. */
typedef struct ks_series {
    ks_stream stream;
    ks_position position;
    int32_t n_cells;
    ks_cell *cells;
    int32_t *chosen; /* [fits] place in cells, inside the training folds */
    float *score;    /* [n] of the chosen layers */
    ks_interval metrics[KS_N_METRICS];
    double p, p_holm; /* likewise; over the series of the grid */
    ks_calibration calibration;
} ks_series;

typedef struct ks_grid {
    int32_t d, n_series;
    ks_series *series;
    int32_t columns, passes, unconverged;
} ks_grid;

/* Pooled rows as ks_stats takes them. */
ks_scored ks_grid_scored(const ks_dataset *dataset, const float *score);

/* Series and cells with their layers, and nothing fitted. A failed call leaves
 * {0}. */
ks_status ks_grid_outline(ks_grid *out, const ks_acts_file *file,
                          const ks_grid_options *options, ks_err *err);

/* KS_TOKENS is left out: it has no row a step. path names file in errors;
 * place as in ks_dataset_match. out starts as {0}, a failed run leaves {0}. */
ks_status ks_grid_run(ks_grid *out, const ks_dataset *dataset,
                      const ks_acts_file *file, const char *path,
                      const int64_t *place, const ks_folds *folds,
                      const ks_grid_options *options, ks_err *err);
void ks_grid_free(ks_grid *grid);

/* Names the cells of an outline to the store, ahead of ks_cell_store_settle. */
ks_status ks_grid_expect(const ks_grid *outline, const ks_dataset *dataset,
                         const ks_acts_file *file, const int64_t *place,
                         const ks_folds *folds, const ks_grid_options *options,
                         ks_err *err);
/* How many cells of a series of an outline a run would fit: all, but for those
 * that a settled store has or leaves to another share. */
ks_status ks_grid_left(const ks_grid *outline, int32_t series,
                       const ks_dataset *dataset, const ks_acts_file *file,
                       const int64_t *place, const ks_folds *folds,
                       const ks_grid_options *options, int32_t *left,
                       ks_err *err);
/* Of an outline the store's share: what is missing of it is fitted, put and
 * forgotten. */
ks_status ks_grid_share(ks_grid *outline, const ks_dataset *dataset,
                        const ks_acts_file *file, const char *path,
                        const int64_t *place, const ks_folds *folds,
                        const ks_grid_options *options, ks_err *err);
/* Bytes of what ks_grid_run would leave in out. */
size_t ks_grid_kept(const ks_acts_file *file, const ks_folds *folds,
                    const ks_grid_options *options);
/* The least room.limit with which ks_grid_run goes to work; share: or
 * ks_grid_share, of which nothing stays. */
size_t ks_grid_least(const ks_acts_file *file, const ks_folds *folds,
                     const ks_grid_options *options, bool share);
/* Bytes that its fits take while they are worked on, in the way that the room
 * lets it choose; *lanes: layers side by side, may be NULL. */
size_t ks_grid_takes(const ks_acts_file *file, const ks_folds *folds,
                     const ks_grid_options *options, int *lanes);
/* Streams and positions that ks_grid_run would make series of, in order; their
 * number. */
typedef struct ks_grid_shape {
    ks_stream stream;
    ks_position position;
    int32_t n_cells;
} ks_grid_shape;
int32_t ks_grid_shapes(const ks_acts_file *file, const ks_grid_options *options,
                       ks_grid_shape out[KS_N_STREAMS * KS_N_POSITIONS]);
/* Cells that ks_grid_run would fit. */
int64_t ks_grid_cells(const ks_acts_file *file, const ks_grid_options *options);
/* NULL: the grid has no such series. */
const ks_series *ks_grid_find(const ks_grid *grid, ks_stream stream,
                              ks_position position);
/* The series that questions are asked of: the residual stream's mean, or else
 * the first. */
int32_t ks_grid_main(const ks_grid *grid);
/* Place in cells of the layer that most fits chose; the lower on a tie. */
int32_t ks_series_usual(const ks_series *series, int32_t n_fits);

#endif
