/* influence.h - how much each step of a chain moves the probabilities of the
 * steps behind it: gradients with respect to the source step's input embeddings
 * (arXiv 2604.18307), all targets of a chain against one forward.
 *
 *     I[k][j] = | d f_k / d E_j |_F,   f_k = sum of P(t | tokens before t)
 *
 * over the tokens t of step k; E_j: the embeddings (scale applied) of the
 * tokens of step j. search.h says what is done with the matrix.
 */
#ifndef KS_INFLUENCE_H
#define KS_INFLUENCE_H

#include "forward.h"

typedef enum ks_influence_kind {
    KS_INFLUENCE_GRADIENT,
    /* | E_j * gradient |_F, by the element */
    KS_INFLUENCE_TIMES_INPUT,
    /* | (E_j - b) * mean gradient |_F at b + a (E - b), a = 1/5, 2/5, .., 1. b
     * is the mean embedding of the tokens of all steps, the same at each of
     * them; those ahead of the first step stay as they are. */
    KS_INFLUENCE_INTEGRATED,
    KS_N_INFLUENCES
} ks_influence_kind;

enum { KS_INFLUENCE_POINTS = 5 }; /* of the integral */

/* "gradient", "gradient-input", "integrated" */
const char *ks_influence_name(ks_influence_kind kind);

typedef struct ks_influence_how {
    ks_influence_kind kind;
    bool of_log; /* f_k of log P in place of P */
    /* Over the root of the source's number of tokens: what an average token of
     * the step does (root mean square). The plain norm of a step whose tokens
     * all do the same grows with that root, so dividing by the number itself
     * would turn the preference for long steps into one for short steps. The
     * target's length is left alone: it cancels in the shares of a row. */
    bool per_token;
    /* As the published code, whose source spans lie one token too far right:
     * tokens begin + 1 .. end of each, of which the last is the next step's. */
    bool compat;
} ks_influence_how;

typedef struct ks_influence_job ks_influence_job;

/* For chains one after another. Buffers grow to what a chain needs: what the
 * longest so far took, with targets in as many turns as engine->memory, where
 * it is set, makes of them. The engine's own run counts there too, and is not
 * to grow before the job is closed. The engine is to outlive it. */
ks_status ks_influence_open(ks_influence_job **out, ks_engine *engine,
                            ks_err *err);
void ks_influence_close(ks_influence_job **job);

/* Of the steps [bounds[k], bounds[k + 1]) of ids [n_tokens], the last of them
 * the answer suffix; bounds [n + 1] rise from 1 or more (what has no token
 * ahead has no probability) to at most n_tokens, and tokens behind the last are
 * not read. matrix [n, n]: row target, column source, 0 on and above the
 * diagonal; row and column of a step without tokens are 0. The bits depend on
 * ids, bounds, how and the backend alone. KS_USAGE, KS_MISMATCH or KS_LIMIT for
 * what cannot be asked, KS_NUMERIC where a value is not finite, KS_INTERRUPTED
 * once ks_interrupted is set. */
ks_status ks_influence_of(ks_influence_job *job, const int32_t *ids,
                          int32_t n_tokens, const int32_t *bounds, int32_t n,
                          const ks_influence_how *how, double *matrix,
                          ks_err *err);
/* Bytes that buffers for such a chain take; KS_LIMIT where memory does not hold
 * them. */
ks_status ks_influence_bytes(ks_influence_job *job, const int32_t *bounds,
                             int32_t n, const ks_influence_how *how,
                             size_t *bytes, ks_err *err);

#endif
