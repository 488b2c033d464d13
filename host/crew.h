/* crew.h - the same work on several threads with an engine each: one for each
 * device, or, for a small model, one for each thread of the processor.
 *
 * Where a layer takes microseconds, threads that meet after every op spend
 * their time meeting. Members of a crew meet when they like. */
#ifndef KS_CREW_H
#define KS_CREW_H

#include <stdatomic.h>

#include "engines.h"

/* Of several engines one each; of one engine as many as its threads when the
 * model is small and each member's store, a share of `memory` bytes (0:
 * KS_STORE_BYTES), holds some sequences as long as the context, and its share
 * of the engine's memory a fair batch; at most n. 1: threads serve better
 * inside each op. */
int ks_crew_size(const ks_engines *engines, size_t memory, size_t n);
/* A member's share of memory bytes; 0 stays what it means where a member has
 * its own device. */
size_t ks_crew_memory(const ks_engines *engines, int size, size_t memory);

/* Calls does for every member of [0, size) at the same time, member 0 on the
 * caller's thread. The first failure sets *stop for the others and is
 * returned. */
typedef ks_status (*ks_crew_fn)(void *user, int member, ks_engine *engine,
                                const atomic_bool *stop, ks_err *err);
ks_status ks_crew_run(const ks_engines *engines, int size, ks_crew_fn does,
                      void *user, ks_err *err);

#endif
