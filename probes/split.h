/* split.h - folds made of problems: no problem, so no chain, is on two sides.
 *
 * A problem's fold comes from the ids, sizes and labels of all problems and
 * from the seed (SHA-256, then a greedy fill that keeps the folds' sizes and
 * class shares even). It does not depend on the order of the rows, but another
 * set of rows or labels gives other folds. */
#ifndef KS_SPLIT_H
#define KS_SPLIT_H

#include "base.h"

typedef struct ks_split_input {
    int64_t n;
    const int8_t *y;      /* [n] 1 or 0 */
    const int32_t *group; /* [n] problem of the row, 0..n_groups-1 */
    int32_t n_groups;
    const char *const *ids; /* [n_groups] problem ids; NULL: the numbers */
} ks_split_input;

/* fold[i] in 0..n_folds-1 for each row. Problems are taken by size, largest
 * first, those of one size in the order of SHA-256("seed id"), and each goes
 * to the fold where the shares of both classes stay nearest to even. Fails
 * (KS_MISMATCH) when there are fewer problems than folds, or when some fold's
 * complement would hold one class only, and with the hash's own error. */
ks_status ks_split_folds(const ks_split_input *input, int32_t n_folds,
                         uint64_t seed, uint8_t *fold, ks_err *err);

/* Number of rows whose text stands in more than one fold; -1 on failure. */
int64_t ks_split_shared_texts(int64_t n, const char *const *texts,
                              const uint8_t *fold, ks_err *err);

#endif
