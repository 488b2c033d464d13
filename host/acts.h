/* acts.h - the activation store: one HDF5 file that stock h5py and h5dump
 * read, written crash-safe at fixed offsets, layer-major.
 *
 * Life of a file: everything is known before the first forward, so
 * ks_acts_create writes structure, steps and attributes to X.h5.part, closes
 * and syncs it and reserves all its space; from then on a writer thread puts
 * raw rows at fixed offsets and a journal beside it (X.h5.journal) records
 * what is durable; ks_acts_finish syncs, renames to X.h5 and removes the
 * journal. A file named X.h5 is therefore always whole. docs/formats.md has
 * the format.
 *
 * Every row (one step of one layer) has a CRC-32C of its stored bytes in the
 * file, so that a flipped bit is found and named by chain, step and layer.
 */
#ifndef KS_ACTS_H
#define KS_ACTS_H

#include "base.h"

/* One row of /steps: a step of a chain. Tokens count in the sequence that the
 * model read: the chain's, or with context none the step's own (which starts
 * with a BOS where the model has one). */
typedef struct ks_step_row {
    int32_t chain; /* row of /chains */
    int32_t index; /* step in its chain */
    int32_t token_begin, token_end;
    int32_t byte_begin, byte_end; /* in the chain's text */
    uint8_t valid; /* 0: no token, or `before` asked for at token 0: NaN */
    int8_t label;  /* 1, 0, -1 null; with has_labels */
} ks_step_row;

typedef struct ks_chain_row {
    const char *id, *problem;
    char text_sha256[65];
} ks_chain_row;

/* All that decides the file's bytes, activations aside. Borrowed by create;
 * steps must stay until finish or abandon. */
typedef struct ks_acts_spec {
    uint32_t streams, positions; /* bit sets */
    int32_t n_layers, d;
    int32_t n_listed;      /* 0: all layers; else those that the file holds, */
    const int32_t *listed; /* ascending; kept until finish, too */
    ks_type dtype;         /* KS_BF16, KS_F16 or KS_F32 */
    bool context_none;
    int64_t n_steps, n_chains;
    const ks_step_row *steps; /* [n_steps], by chain, then by index */
    const ks_chain_row *chains;
    bool has_labels;
    int64_t random_weights; /* seed of the random-weights control, or -1 */
    const char *model_name, *model_sha256, *tokenizer_hash, *isa, *backend;
    const char *config; /* JSON text of the settings that decide bits */
    /* "2/4", and the ks_acts_spec_hash of the run that it is a shard of; NULL:
     * it is all of a run. */
    const char *shard, *whole_sha256;
} ks_acts_spec;

/* Identity of a spec but for instruction set, backend and program version. */
ks_status ks_acts_spec_hash(const ks_acts_spec *spec, char hex[65],
                            ks_err *err);

/* ----------------------------------------------------------------- writing */

typedef struct ks_acts ks_acts;

typedef struct ks_acts_options {
    bool force;  /* replace a finished file, discard an interrupted one */
    bool resume; /* continue an interrupted one; afresh when there is none */
    size_t ring_bytes;   /* rows in flight; 0: KS_ACTS_RING */
    double sync_seconds; /* between syncs; 0: 5 s; negative: every commit */
} ks_acts_options;

#define KS_ACTS_RING ((size_t)32 << 20)
/* Checksums of rows that wait for the next sync, at most about so many bytes.
 */
#define KS_ACTS_SUMS ((size_t)4 << 20)

/* Bytes of the finished file, before anything is made: exact but for the
 * metadata, which is bounded from above. UINT64_MAX: more than a file can
 * have. */
uint64_t ks_acts_file_bytes(const ks_acts_spec *spec);

/* *done: the rows of steps [0, *done) are durable, the caller goes on from
 * there (0 for a fresh file). Errors leave nothing behind that was not there.
 *   KS_EXISTS    path or an interrupted path.part exists, and neither force
 *                nor resume covers it; or another process is writing it
 *   KS_MISMATCH  resume: the interrupted file's spec differs (the sentence
 *                names the first difference with both values). Another
 *                instruction set, backend or program version is let through
 *                by force, and the file then names both.
 *   KS_IO        no space for the whole file, among others
 * resume and path is already there, complete and of this spec: KS_OK with
 * *done == n_steps and *out == NULL. */
ks_status ks_acts_create(ks_acts **out, const char *path,
                         const ks_acts_spec *spec,
                         const ks_acts_options *options, int64_t *done,
                         ks_err *err);
/* Queues rows [row, row + n) of one layer, [n, d] as stored, for the writer
 * thread; copies them (waits while the ring is full). KS_TOKENS: token rows,
 * counted over the tokens of all steps in order. Reports what went wrong in
 * the writer thread since the last call. One thread at a time. */
ks_status ks_acts_write(ks_acts *acts, ks_stream stream, ks_position position,
                        int32_t layer, int64_t row, int64_t n, const void *rows,
                        ks_err *err);
/* All rows of steps [begin,end) were queued (and perhaps some of later steps):
 * journal them once durable. begin is the end of the commit before (or *done).
 */
ks_status ks_acts_commit(ks_acts *acts, int64_t begin, int64_t end,
                         ks_err *err);
/* Waits until everything queued is written, synced and, as far as it was
 * committed, journaled. */
ks_status ks_acts_sync(ks_acts *acts, ks_err *err);
/* Waits, syncs, renames to the final name, removes the journal. Frees *acts
 * in any case; on an error the .part file resumes. */
ks_status ks_acts_finish(ks_acts **acts, ks_err *err);
/* Writes and journals what was committed, then frees: the .part resumes. */
void ks_acts_abandon(ks_acts **acts);

/* ----------------------------------------------------------------- reading */

typedef struct ks_acts_file ks_acts_file;

typedef struct ks_acts_info {
    uint32_t streams, positions; /* the union; has() tells a pair */
    int32_t n_layers, d;
    int32_t n_listed;      /* 0: all layers; else those that are there, */
    const int32_t *listed; /* ascending */
    ks_type dtype;
    bool context_none, has_labels;
    int64_t n_steps, n_chains;
    int64_t n_tokens;         /* of all steps: rows of KS_TOKENS */
    const ks_step_row *steps; /* owned by the file handle */
    const ks_chain_row *chains;
    int64_t random_weights;
    const char *model_name, *model_sha256, *tokenizer_hash, *isa, *backend;
    const char *config, *program_version, *spec_sha256;
    const char *shard, *whole_sha256; /* as in the spec; NULL: no shard */
    int32_t n_shards; /* of a file that keystep join made virtual; else 0 */
} ks_acts_info;

/* Also opens virtual data sets over shards; a missing or short shard, or one
 * of another run, is an error (the HDF5 library would silently read fill
 * values). */
ks_status ks_acts_open(ks_acts_file **out, const char *path, ks_err *err);
/* The same, and a single shard is refused: for who takes the file for all that
 * there is. */
ks_status ks_acts_open_whole(ks_acts_file **out, const char *path, ks_err *err);
void ks_acts_close(ks_acts_file **file);
const ks_acts_info *ks_acts_get_info(const ks_acts_file *file);
bool ks_acts_has(const ks_acts_file *file, ks_stream stream,
                 ks_position position);
/* Is this layer of the stream among those that the file holds? */
bool ks_acts_has_layer(const ks_acts_file *file, ks_stream stream,
                       int32_t layer);
/* Rows [row, row + n) of one layer as f32 into out [n, d]. Thread-safe. */
ks_status ks_acts_read(const ks_acts_file *file, ks_stream stream,
                       ks_position position, int32_t layer, int64_t row,
                       int64_t n, float *out, ks_err *err);

/* The rows listed, n of one layer, into out [n, d] as they are stored; pages of
 * a mapped file do not stay resident. Thread-safe. */
ks_status ks_acts_gather(const ks_acts_file *file, ks_stream stream,
                         ks_position position, int32_t layer,
                         const int64_t *rows, int64_t n, void *out,
                         ks_err *err);

/* What the values of a layer are: SHA-256 over the checksums of its rows, the
 * same for a joined file; "" where the file has none. Thread-safe. */
ks_status ks_acts_layer_hash(const ks_acts_file *file, ks_stream stream,
                             ks_position position, int32_t layer, char hex[65],
                             ks_err *err);

typedef struct ks_acts_report {
    int64_t rows;     /* checked, over all data sets and layers */
    int64_t nan_rows; /* of them NaN where a step has no token to show */
    int64_t invalid;  /* steps with valid 0 */
    int32_t sources;  /* shards behind virtual data sets */
    bool has_checksums;
} ks_acts_report;

/* Structure, every row's checksum, NaN only where steps are not valid,
 * sources of virtual data sets (each verified in turn). report may be NULL. */
ks_status ks_acts_verify(const char *path, ks_acts_report *report, ks_err *err);

#endif
