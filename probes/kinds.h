/* kinds.h - the trained kinds of probes (trained.h) of a whole evaluation, and
 * their published protocol (published.h): every stream and position of the
 * grid, one stack of layers in memory at a time. */
#ifndef KS_KINDS_H
#define KS_KINDS_H

#include "others.h"
#include "published.h"

/* Weights of a kind of a stream and position are kept while they take no more.
 */
enum { KS_KINDS_KEPT_MIB = 256 };

typedef struct ks_kinds_options {
    int32_t n_recipes;
    ks_recipe recipes[KS_MOST_RECIPES];
    bool published; /* and as published, but for KS_INPUT_EACH */
    int32_t n_rates;
    double rates[KS_MOST_RATES]; /* of it */
} ks_kinds_options;

/* linear, mlp 256x2, lw-linear and lw-mlp 128, for a published protocol that
 * names none, and its rate, 3e-4. */
void ks_kinds_default(ks_kinds_options *options);

/* A recipe on a stream and position. */
typedef struct ks_kind {
    const ks_recipe *recipe; /* of the options */
    ks_stream stream;
    ks_position position;
    int32_t n_layers, *layer; /* [n_layers] that its probes read */
    int32_t n_probes;         /* 1, or one a layer */
    ks_trained *probes;
} ks_kind;

typedef struct ks_kinds {
    int32_t n;
    ks_kind *at;
    int32_t n_protocols;
    ks_protocol *protocols;
} ks_kinds;

/* Names the cells of an outline's series (grid.h) to the store of grid_options,
 * ahead of ks_cell_store_settle. */
ks_status ks_kinds_expect(const ks_dataset *dataset, const ks_grid *outline,
                          const ks_folds *folds,
                          const ks_kinds_options *options,
                          const ks_grid_options *grid_options, ks_err *err);
/* Their scores go to others. progress and user are those of grid_options. A
 * failed run leaves out {0}. Of a store that is shared the missing cells of the
 * share are made, grid may be an outline, and out and others stay empty. */
ks_status ks_kinds_run(ks_kinds *out, ks_others *others,
                       const ks_dataset *dataset, const ks_grid *grid,
                       const ks_folds *folds, const ks_kinds_options *options,
                       const ks_grid_options *grid_options, ks_err *err);
/* Fits that ks_kinds_run reports to progress. */
int64_t ks_kinds_fits(const ks_grid *grid, const ks_folds *folds,
                      const ks_kinds_options *options);
/* Bytes that it takes for a stream and position of so many layers: at least,
 * rows in a scratch file and a fit at a time, or with nothing that bounds it;
 * what of it stays is added to *kept. */
double ks_kinds_bytes(const ks_kinds_options *options, const ks_acts_info *info,
                      int32_t cells, const ks_folds *folds, bool bounded,
                      double *kept);
void ks_kinds_free(ks_kinds *kinds);

#endif
