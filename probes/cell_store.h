/* cell_store.h - fits kept as files in a folder, so that long work can be
 * divided among processes and goes on where one was ended. A cell is what is
 * computed, stored and read back as a whole: the fits of one layer (grid.h), a
 * trained probe's of one layer or fold (trained.h), trainings of the published
 * protocol (published.h). It holds the floats themselves, so whatever is made
 * of cells has the same bits whoever computed them.
 *
 * A cell's key says all that decides its numbers, and its file is named by a
 * hash of that: a file of other labels, settings or activations has another
 * name and is never taken. Files are .safetensors, whole or not there: written
 * aside under a name of their own, synced and renamed, so that two processes
 * may write one cell.
 *
 *     open - expect, each cell in turn - settle - take or put, by any thread */
#ifndef KS_CELL_STORE_H
#define KS_CELL_STORE_H

#include "base.h"

typedef struct ks_cell_store_options {
    const char *folder; /* NULL: there is no store; made where it is not */
    bool need;          /* nothing is computed: a cell that is missing or
                           unfit is an error */
    bool look;          /* nothing is put, and no folder made: what is there is
                           counted */
    int32_t shard, of;  /* compute and keep the shard'th share of `of`, from
                           1; 0: all */
    const char *isa, *backend; /* of the ops that compute; NULL: the CPU's */
    void (*say)(void *user, const char *sentence); /* for people; may be NULL */
    void *user;
} ks_cell_store_options;

typedef struct ks_cell_store ks_cell_store;

/* A cell by its file's name and what decides it, JSON as one text. */
typedef struct ks_cell_key {
    char name[192]; /* "l2-resid-mean-layer07-<16 hex>.safetensors" */
    char *decides;  /* owned */
} ks_cell_key;
void ks_cell_key_free(ks_cell_key *key);

/* An array of a cell, in the order in which they lie in the file. */
typedef struct ks_cell_part {
    const char *name;  /* "weight" */
    const char *dtype; /* "F64", "F32" or "I32" */
    int64_t shape[2];  /* of one dimension where shape[1] is 0 */
    void *data;        /* NULL, reading: not wanted */
} ks_cell_part;

enum { KS_CELL_PARTS = 16 };

ks_status ks_cell_store_open(ks_cell_store **out,
                             const ks_cell_store_options *options, ks_err *err);
void ks_cell_store_close(ks_cell_store **store);
const ks_cell_store_options *ks_cell_store_get(const ks_cell_store *store);

/* Whose key is label-HASH, of the members of common and own together; own is
 * taken over. */
ks_status ks_cell_key_make(ks_cell_key *out, const json_t *common, json_t *own,
                           ks_err *err, const char *label, ...) KS_PRINTF(5, 6);

/* A cell that will be asked for, and about how many operations it takes; again
 * the same: nothing. */
ks_status ks_cell_store_expect(ks_cell_store *store, const ks_cell_key *key,
                               double cost, ks_err *err);
/* Once all are named: which are there, and whose share each is: by costs, the
 * largest first to whom has least, whether or not it is there, so that
 * processes that start at different times agree. KS_MISMATCH under `need` where
 * one is missing, naming it and, as far as the others tell, its shard. */
ks_status ks_cell_store_settle(ks_cell_store *store, ks_err *err);
/* Is it of this process's share, and was not there when that was settled? */
bool ks_cell_store_missing(const ks_cell_store *store, const ks_cell_key *key);

/* *found: the parts' data are filled. A file that does not hold up (torn, a
 * flipped bit, other shapes) is told and not taken; under `need` KS_FORMAT. */
ks_status ks_cell_store_take(ks_cell_store *store, const ks_cell_key *key,
                             const ks_cell_part *parts, size_t n, bool *found,
                             ks_err *err);
ks_status ks_cell_store_put(ks_cell_store *store, const ks_cell_key *key,
                            const ks_cell_part *parts, size_t n, ks_err *err);

/* Of the cells of this process (all, or its share): how many there are, were
 * there when the store was settled, and were put since. */
typedef struct ks_cell_counts {
    int64_t all, share, there, made;
} ks_cell_counts;
ks_cell_counts ks_cell_store_counts(const ks_cell_store *store);

/* ------------------------------------------------------------------ files */

/* Key, checksum, shapes and order are held against what is expected, and what
 * the parts want is filled; n 0: key and checksum alone. */
ks_status ks__cell_read(const char *path, const ks_cell_key *key,
                        const ks_cell_part *parts, size_t n, ks_err *err);
/* The key of any cell's file, new, and the shard that it says it is of ("2/4",
 * or ""); nothing else is looked at. */
ks_status ks__cell_peek(const char *path, json_t **decides, char shard[32],
                        ks_err *err);
ks_status ks__cell_write(const char *path, const ks_cell_key *key,
                         const char *shard, const ks_cell_part *parts, size_t n,
                         ks_err *err);

#endif
