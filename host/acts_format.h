/* acts_format.h - what writing and reading an activation file share. Internal
 * to acts_*.c; the format is in docs/formats.md. */
#ifndef KS_ACTS_FORMAT_H
#define KS_ACTS_FORMAT_H

#include <hdf5.h>

#include "acts.h"

enum {
    KS__ACTS_VERSION = 1,
    KS__ACTS_SETS = KS_N_STREAMS * KS_N_POSITIONS,
    /* bytes of the attributes that a forced resume may have to lengthen */
    KS__ACTS_WORD = 64,
    KS__ACTS_ALIGN = 4096 /* large data sets start at multiples of it */
};

/* One /activations/<stream>/<position> [n_layers, n_rows, d] and its
 * /checksums/<stream>/<position> [n_layers, n_rows]. */
typedef struct ks__acts_set {
    ks_stream stream;
    ks_position position;
    int32_t n_layers;
    int64_t n_rows;
    uint64_t data_at, sums_at; /* byte offsets in the file */
} ks__acts_set;

typedef struct ks__acts_layout {
    ks__acts_set sets[KS__ACTS_SETS]; /* by stream, then position */
    int n_sets;
    int32_t n_listed;      /* layers that a set holds, 0: all; */
    const int32_t *listed; /* ascending, borrowed */
    size_t row_bytes;      /* d values as stored */
    int64_t n_tokens;
    uint64_t raw_bytes;  /* of activations, checksums, steps and chains */
    uint64_t file_bytes; /* 0 until built */
} ks__acts_layout;

/* Checks the spec and sizes every set; offsets come with build. */
ks_status ks__acts_plan(ks__acts_layout *layout, const ks_acts_spec *spec,
                        ks_err *err);
/* Bytes of the longest id, or problem, of the chains. */
size_t ks__acts_longest(const ks_acts_spec *spec, bool problem);

/* The files whose rows, one after another, are those of a virtual file:
 * names [n] as HDF5 finds them, layouts [n] with the same sets. */
typedef struct ks__acts_parts {
    int32_t n;
    const char *const *names;
    const ks__acts_layout *const *layouts;
} ks__acts_parts;

/* Makes the HDF5 file at path with everything but the rows; fills offsets.
 * parts not NULL: activations are virtual data sets over them. */
ks_status ks__acts_build(const char *path, const ks_acts_spec *spec,
                         ks__acts_layout *layout, const ks__acts_parts *parts,
                         ks_err *err);
/* Rewrites isa, backend and program_version in place ("avx2+avx512"). */
ks_status ks__acts_amend(const char *path, const char *isa, const char *backend,
                         const char *version, ks_err *err);

/* Where a layer stands in the sets, -1: nowhere; and which one stands there. */
static inline int32_t ks__acts_place(const ks__acts_layout *layout,
                                     int32_t layer) {
    if (!layout->n_listed) return layer;
    for (int32_t i = 0; i < layout->n_listed; i++)
        if (layout->listed[i] == layer) return i;
    return -1;
}

static inline int32_t ks__acts_layer(const ks__acts_layout *layout,
                                     int32_t place) {
    return layout->n_listed ? layout->listed[place] : place;
}

static inline uint64_t ks__acts_row_at(const ks__acts_layout *layout,
                                       const ks__acts_set *set, int64_t layer,
                                       int64_t row) {
    return set->data_at +
           (uint64_t)(layer * set->n_rows + row) * layout->row_bytes;
}

static inline uint64_t ks__acts_sum_at(const ks__acts_set *set, int64_t layer,
                                       int64_t row) {
    return set->sums_at + (uint64_t)(layer * set->n_rows + row) * 4;
}

/* ----------------------------------------------------------------- reading */

struct ks_acts_file {
    char *path;
    ks_map map;
    hid_t file; /* open while a set is virtual */
    ks_acts_info info;
    ks__acts_layout layout;
    hid_t virtual[KS__ACTS_SETS]; /* -1: lies in the map */
    bool has_sums[KS__ACTS_SETS];
    char (*hashes_of[KS__ACTS_SETS])[65]; /* [n_layers] of a virtual set, once
                                             asked for (acts_hash.c) */
    int8_t set_of[KS_N_STREAMS][KS_N_POSITIONS]; /* -1: not there */
    ks_step_row *steps;
    ks_chain_row *chains;
    int32_t *listed;
    char *texts[11], *ids, *problems, *hashes, spec_hash[65];
};

/* Attributes, chains and steps of an opened file, checked. Inside
 * ks__h5_enter. */
ks_status ks__acts_get_meta(ks_acts_file *file, ks_err *err);

/* ks_acts_open for a file that may be named .part. */
ks_status ks__acts_open_any(ks_acts_file **out, const char *path, ks_err *err);
/* Stored bytes of rows [row, row + n) of a layer inside the mapped file, or
 * NULL for a set that is not contiguous there. */
const uint8_t *ks__acts_mapped(const ks_acts_file *file,
                               const ks__acts_set *set, int32_t layer,
                               int64_t row);
/* Stored checksums likewise (unaligned bytes, little-endian). */
const uint8_t *ks__acts_mapped_sums(const ks_acts_file *file,
                                    const ks__acts_set *set, int32_t layer,
                                    int64_t row);
/* Called with the path of each shard. */
typedef ks_status (*ks__acts_source_fn)(void *user, const char *path,
                                        ks_err *err);
/* The sources of one virtual data set: present, of this type, large enough,
 * together as many values as the set has, and, where keystep join made it, the
 * shards of this run in their order. Inside ks__h5_enter. */
ks_status ks__acts_check_virtual(const ks_acts_file *joined, hid_t set,
                                 const char *what, ks__acts_source_fn each,
                                 void *user, ks_err *err);

/* ----------------------------------------------------------------- journal */

/* Steps [begin,end) are durable; crc is the CRC-32C over the checksums of
 * their rows, data set by data set, layer by layer. */
typedef struct ks__acts_run {
    int64_t begin, end;
    uint32_t crc;
} ks__acts_run;

typedef struct ks__journal {
    int fd; /* -1: closed */
    char *path;
} ks__journal;

/* Replaces path by a journal with these runs, synced; opens it to append. */
ks_status ks__journal_create(ks__journal *out, const char *path,
                             const char *spec_hash, uint64_t file_bytes,
                             const ks__acts_run *runs, size_t n, ks_err *err);
/* Runs of a journal, cut at the first line that is torn or does not follow.
 * *runs is malloc'd. A journal of another spec or size is KS_MISMATCH. */
ks_status ks__journal_read(const char *path, const char *spec_hash,
                           uint64_t file_bytes, int64_t n_steps,
                           ks__acts_run **runs, size_t *n, ks_err *err);
/* Appends and syncs. */
ks_status ks__journal_append(ks__journal *journal, const ks__acts_run *runs,
                             size_t n, ks_err *err);
void ks__journal_close(ks__journal *journal);

/* ------------------------------------------------------------------ checks */

/* CRC-32C (Castagnoli) of n bytes, continuing crc (0 to start). */
uint32_t ks__crc32c(uint32_t crc, const void *data, size_t n);
/* The same bit by bit, for processors without SSE 4.2 and for tests. */
uint32_t ks__crc32c_plain(uint32_t crc, const void *data, size_t n);

/* -------------------------------------------------------------------- HDF5 */

/* HDF5 is not thread-safe here: one thread at a time, its own error printing
 * switched off for the while. */
typedef struct ks__h5 {
    H5E_auto2_t report;
    void *data;
} ks__h5;
void ks__h5_enter(ks__h5 *was);
void ks__h5_leave(const ks__h5 *was);
/* "path: cannot <doing>: <innermost reason of the library>" */
ks_status ks__h5_fail(ks_err *err, const char *path, const char *doing);
/* Closes any kind of id; -1 is fine. */
void ks__h5_drop(hid_t *id);
/* The file type of a storage type; a new id, or negative. */
hid_t ks__h5_type(ks_type type);
/* A string attribute, malloc'd; expected, for the sentence where there is
 * none: "an activation file". */
ks_status ks__h5_text(hid_t at, const char *path, const char *name,
                      const char *expected, char **out, ks_err *err);

#endif
