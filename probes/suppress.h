/* suppress.h - what later steps lose when none of their tokens may attend to a
 * step (attention suppression; Bogdan et al. 2025, arXiv 2506.19143):
 *
 *     S[k][j] = mean over the tokens t of step k of
 *               log P(t | before t) - log P(t | before t, step j suppressed)
 *
 * Suppressed: in every layer and head the tokens behind step j do not see its
 * keys; positions, and what the step's own tokens do, are as they were. Where
 * step k was sampled from the model itself at temperature 1, this is an
 * unbiased estimate of the KL divergence per token of what the model says there
 * from what it would say; for any other text it is the log-probability that the
 * text loses, which may be negative. The first token behind step j is read off
 * the step's own last token and loses nothing.
 */
#ifndef KS_SUPPRESS_H
#define KS_SUPPRESS_H

#include "forward.h"

typedef struct ks_suppression_job ks_suppression_job;

/* For chains one after another. A job has run buffers and a KV store of its
 * own, which grow to what the longest chain so far took; where engine->memory
 * is set they fit into what it leaves beside the engine's own run, which is not
 * to grow before the job is closed. The engine is to outlive it. */
ks_status ks_suppression_open(ks_suppression_job **out, ks_engine *engine,
                              ks_err *err);
void ks_suppression_close(ks_suppression_job **job);

/* Of the steps [bounds[k], bounds[k + 1]) of ids [n_tokens], the last of them
 * the answer suffix; bounds [n + 1] rise from 1 or more to at most n_tokens,
 * and tokens behind the last are not read. matrix [n, n], in nats per token:
 * row target k, column source j, 0 on and above the diagonal; row and column of
 * a step without tokens are 0. One pass over the chain, and for each step one
 * over the tokens behind it, as many at once as engine->limits.max_tokens or
 * memory allow. The bits depend on ids, bounds and the backend alone. KS_USAGE,
 * KS_MISMATCH or KS_LIMIT for what cannot be asked, KS_NUMERIC where a value is
 * not finite, KS_INTERRUPTED once ks_interrupted is set. */
ks_status ks_suppression_of(ks_suppression_job *job, const int32_t *ids,
                            int32_t n_tokens, const int32_t *bounds, int32_t n,
                            double *matrix, ks_err *err);
/* Bytes that buffers for such a chain take; KS_LIMIT where memory does not hold
 * them. */
ks_status ks_suppression_bytes(ks_suppression_job *job, const int32_t *bounds,
                               int32_t n, size_t *bytes, ks_err *err);

#endif
