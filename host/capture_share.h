/* capture_share.h - what neighbouring sequences of a batch have in common is
 * computed once. Internal to capture.
 *
 * Several chains of one problem share its prompt, and all chains of a file the
 * template's head. Sequences are grouped where they lie side by side; a
 * group's common tokens go through the model as one sequence whose keys and
 * values stay in a KV store, and its members go on behind them. Their bits are
 * those of whole sequences: ks_forward gives a token the same bits whether its
 * prefix lies in the store or in the batch. */
#ifndef KS_CAPTURE_SHARE_H
#define KS_CAPTURE_SHARE_H

#include "capture.h"

/* Sequences [first, first + n) of a batch, counted from its begin; n_tokens:
 * common ones in front, 0 for a sequence alone. */
typedef struct ks__share_group {
    int32_t first, n, n_tokens;
} ks__share_group;

/* Fills job->seqs[].common. */
void ks__share_common(ks_capture_job *job);
/* Groups of the batch [from, to): groups has room for to - from, work for
 * 2 (to - from + 1). Returns their number: the cut that saves most tokens. */
int32_t ks__share_groups(const ks_capture_job *job, size_t from, size_t to,
                         ks__share_group *groups, int32_t *work);

typedef struct ks__share ks__share;
ks_status ks__share_open(ks__share **out, const ks_capture_job *job,
                         ks_engine *engine, ks_err *err);
void ks__share_close(ks__share **share);
/* Computes what the batch's groups share; then *batch and *stored (NULL:
 * nothing is shared) are what is left to compute. Both are borrowed until the
 * next call. On KS_NUMERIC *faulty is the batch's sequence in whose common
 * tokens it arose. */
ks_status ks__share_batch(ks__share *share, size_t from, size_t to,
                          ks_batch *batch, const ks_stored **stored,
                          int32_t *faulty, ks_err *err);

#endif
