/* holds.h - the sets of folds that nested choice holds out (nest.h), for every
 * solver that is fitted under it. Internal. */
#ifndef KS_HOLDS_H
#define KS_HOLDS_H

#include "nest.h"

/* The distinct sets; two outer folds share one where they can. */
typedef struct ks_holds {
    uint32_t set[KS_L2_MAX_FOLDS * (KS_L2_MAX_FOLDS + 1)];
    int32_t n;
} ks_holds;

/* Place of a set, which is added where it is new. */
int32_t ks__hold(ks_holds *all, uint32_t set);
/* Place of what is held out for inner part `part` of fold k. */
int32_t ks__hold_inner(ks_holds *all, const ks_folds *folds, int32_t k,
                       int32_t part);
/* Is a fold in the bit set of those asked for? 0: all are. */
static inline bool ks__holds_asked(uint32_t asked, int32_t fold) {
    return !asked || asked >> fold & 1;
}
int32_t ks__holds_n_asked(uint32_t asked, int32_t n_folds);
/* The folds of one seed that chose a cell (grid.h); chosen [n_folds]. 0: none,
 * and then there is nothing to ask for. */
uint32_t ks__holds_choosing(const int32_t *chosen, int32_t n_folds,
                            int32_t cell);
/* The sets of the inner parts of all folds asked for; tested: and behind them
 * those of these folds themselves. */
void ks__holds_fill(ks_holds *all, const ks_folds *folds, uint32_t asked,
                    bool tested);

/* Of fold k of a seed: the mean over its inner parts of the balanced log-loss
 * of candidate c of n_candidates. margin [holds, n_candidates, n]. */
double ks__holds_loss(ks_holds *all, const ks_folds *folds, int32_t seed,
                      int32_t k, const float *margin, int32_t n_candidates,
                      int32_t c, const int8_t *y);

#endif
