/* shard.h - one of N processes' shares of an input: which lines it takes, what
 * its outputs are called, and what stands beside those of JSON Lines so that
 * keystep join can tell that nothing is missing and all is of one run.
 */
#ifndef KS_SHARD_H
#define KS_SHARD_H

#include <limits.h>

#include "base.h"

/* The k-th of n, from 1; n 0: all of it. */
typedef struct ks_shard {
    int32_t k, n;
} ks_shard;

enum { KS_MOST_SHARDS = 100000 };

/* "2/4"; false: anything else. */
bool ks_shard_read(const char *text, ks_shard *out);
/* Lines [*begin, *end) of the n that path has of `what` ("chains"): [0, n)
 * where shard.n is 0. KS_USAGE where there are more shards than lines. */
ks_status ks_shard_range(ks_shard shard, size_t n, const char *path,
                         const char *what, size_t *begin, size_t *end,
                         ks_err *err);
/* "a/acts.h5" to "a/acts.2-of-4.h5"; path itself where shard.n is 0. out
 * [PATH_MAX] */
ks_status ks_shard_path(ks_shard shard, const char *path, char *out,
                        ks_err *err);

/* ------------------------------------------------------------------- notes */

/* What a shard of JSON Lines is a shard of; borrowed. FILE.shard.json holds it
 * beside FILE, with FILE's lines, bytes and SHA-256. */
typedef struct ks_shard_note {
    ks_shard shard;
    const char *command, *output; /* "label"; the option that names FILE */
    const char *what;             /* "chains": what the input has n of, */
    size_t n, begin, end;         /* and which of them are this shard's */
    const char *inputs;           /* SHA-256 of all n */
    const json_t *settings;       /* that decide bits, and what made them */
} ks_shard_note;

/* Of a finished file. Nothing where note->shard.n is 0 or path is NULL. */
ks_status ks_shard_note_write(const ks_shard_note *note, const char *path,
                              ks_err *err);
/* A finished file that was found: KS_FORMAT without a note, KS_MISMATCH where
 * that says otherwise. Nothing in the same cases as above. */
ks_status ks_shard_note_check(const ks_shard_note *note, const char *path,
                              ks_err *err);
/* FILE.shard.json, its form checked; the caller's. */
ks_status ks__shard_note_read(const char *path, json_t **out, ks_err *err);
/* Is it one of the settings that tell of the program and the machine, which
 * --force lets differ? */
bool ks__shard_of_machine(const char *setting);

#endif
