/* join.h - the outputs of --shard K/N as one file: activations (HDF5) as
 * virtual data sets over the shards or copied, JSON Lines one behind another.
 * What is joined or copied is byte for byte what a single process writes.
 */
#ifndef KS_JOIN_H
#define KS_JOIN_H

#include "shard.h"

typedef struct ks_join_options {
    const char *out; /* as --out of the shards was; they lie beside it */
    int32_t shards;
    bool copy;   /* activations: rows too, so that the shards may go */
    bool remove; /* the shards, once out is durable; activations: with copy */
    bool force;  /* replace out, and join what differs in backend, instruction
                    set or program version */
} ks_join_options;

typedef struct ks_join_sum {
    bool acts, copied;
    int64_t chains, steps; /* of activations */
    int64_t lines;         /* of JSON Lines */
    uint64_t bytes;        /* of out */
} ks_join_sum;

/* Bytes so far and in all, where much is copied. May be NULL. */
typedef void (*ks_join_fn)(void *user, uint64_t done, uint64_t all);

/* Written aside, synced, renamed; a failed join leaves nothing behind.
 *   KS_IO       a shard is missing or unfinished (the sentence names it)
 *   KS_EXISTS   out is there, or another process writes it
 *   KS_MISMATCH a shard of another run, by both values of what differs
 *   KS_FORMAT   a shard is damaged
 *   KS_INTERRUPTED */
ks_status ks_join(const ks_join_options *options, ks_join_fn progress,
                  void *user, ks_join_sum *sum, ks_err *err);

/* acts_join.c: makes `to`, in the folder of the shards [options->shards], with
 * all data on disk. */
ks_status ks__acts_join(const ks_join_options *options, char *const *shards,
                        const char *to, ks_join_fn progress, void *user,
                        ks_join_sum *sum, ks_err *err);

#endif
