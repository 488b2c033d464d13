/* kinds_cells.h - trained probes and their published protocol as cells of a
 * store: a cell is all fits of one layer, where a kind has a probe for each, or
 * else one fit; of the protocol one seed and rate. Internal to kinds*.c. */
#ifndef KS_KINDS_CELLS_H
#define KS_KINDS_CELLS_H

#include "cell_key.h"
#include "kinds.h"

/* A recipe on a stream and position. */
typedef struct ks_kind_place {
    const ks_dataset *dataset;
    const ks_folds *folds;
    const ks_kinds_options *o;
    const ks_grid_options *grid; /* its store may be NULL */
    const ks_trained_options *trained;
    const ks_recipe *recipe;
    ks_stream stream;
    ks_position position;
    int32_t n_layers, *layer; /* [n_layers] that its probes read; owned */
    int32_t n_probes, n_fits; /* fits of a probe */
    int64_t n_inputs;
} ks_kind_place;

/* KS_USAGE where the recipe is left no layer. Close it also on failure. */
ks_status ks__kind_place_open(ks_kind_place *place, const ks_series *series,
                              ks_err *err);
void ks__kind_place_close(ks_kind_place *place);
bool ks__kind_published(const ks_kind_place *place);

typedef struct ks_kind_cells {
    const ks_kind_place *place;
    int32_t n, fits;     /* cells; fits of each: cell c has those numbered (as
                            ks_trained_fit does) c * fits and on */
    ks_cell_key *keys;   /* [n] */
    int32_t n_published; /* units (published.h) */
    ks_cell_key *published; /* [n_published] */
} ks_kind_cells;

/* The keys; none where there is no store. Close it also on failure. */
ks_status ks__kind_cells_open(ks_kind_cells *out, const ks_kind_place *place,
                              ks_err *err);
void ks__kind_cells_close(ks_kind_cells *cells);
ks_status ks__kind_cells_expect(const ks_kind_cells *cells, ks_err *err);

/* Cell c into its probe's fits, and from there. */
ks_status ks__kind_take(const ks_kind_cells *cells, int32_t c,
                        ks_trained *probes, bool *found, ks_err *err);
ks_status ks__kind_put(const ks_kind_cells *cells, int32_t c,
                       const ks_trained *probes, ks_err *err);
/* A unit's margins likewise. */
ks_status ks__published_take(const ks_kind_cells *cells, int32_t unit,
                             ks_published *published, bool *found, ks_err *err);
ks_status ks__published_put(const ks_kind_cells *cells, int32_t unit,
                            ks_published *published, ks_err *err);

#endif
