/* between.h - what the measures between a chain's steps (influence.h,
 * suppress.h) ask of a chain and of an engine. Internal. */
#ifndef KS_BETWEEN_H
#define KS_BETWEEN_H

#include "forward.h"

/* At least two steps with bounds that rise from 1 or more to at most n_tokens,
 * ids that the model takes; what: the measure, for the sentences. */
ks_status ks__between_check(const ks_engine *engine, const char *what,
                            const int32_t *ids, int32_t n_tokens,
                            const int32_t *bounds, int32_t n, ks_err *err);

/* Tokens through the model for the steps [bounds[k], bounds[k + 1]) of a chain:
 * *pulled by gradients, forward and back; *behind by suppression. */
void ks__between_tokens(const int32_t *bounds, int32_t n, int64_t *pulled,
                        int64_t *behind);

/* Bytes that engine->memory leaves beside the engine's run; SIZE_MAX: any. */
size_t ks__between_room(const ks_engine *engine);

#endif
