/* capture.h - chains in, activations of every layer in HDF5 out.
 *
 * open reads, validates and tokenises everything, so that a bad line, a step
 * outside its text or a chain beyond the model's context is found before the
 * first forward; run packs whole chains into batches, and while one batch is
 * computed the writer thread puts the rows of the one before into the file.
 * Several devices take batches in turn; which one computes what shows nowhere
 * in the file.
 */
#ifndef KS_CAPTURE_H
#define KS_CAPTURE_H

#include "acts.h"
#include "chains.h"
#include "engines.h"
#include "shard.h"

typedef struct ks_capture_options {
    const char *model;           /* as for ks_engine_open */
    const char *tokenizer;       /* NULL: the model's own */
    const char *chains, *labels; /* JSON Lines; labels may be NULL */
    const char *clean;           /* chains that the labels index, cut from
                                    `chains`; NULL: they index `chains` */
    const char *out;             /* the HDF5 file */
    uint32_t streams;            /* bit set; 0: resid */
    uint32_t positions; /* 0: every pooled one that the context allows */
    ks_type dtype;
    bool context_none; /* each step alone, behind a BOS where there is one */
    bool truncate;     /* cut chains at the model's context */
    bool force, resume;
    ks_shard shard;         /* n 0: all chains */
    int64_t random_weights; /* seed of the control with random weights, or -1 */
    ks_engine_options engine; /* backend: also a list, "cuda:0,cuda:1"; "cuda"
                                 takes every device that there is */
} ks_capture_options;

/* A sequence that the model reads: a chain, or with context none a step. */
typedef struct ks_capture_seq {
    int64_t token; /* its first, in the job's ids */
    int32_t n_tokens;
    int32_t chain;
    int64_t step; /* its first, in the job's steps */
    int32_t n_steps;
    int32_t common; /* tokens in front that the sequence before has too, and
                       in which neither captures anything */
} ks_capture_seq;

/* What a capture takes; known before anything is computed or made. */
typedef struct ks_capture_cost {
    int64_t chains, steps, tokens, batches;
    int64_t shared;     /* tokens computed for several chains at once, counted
                           as often as that saves */
    int64_t invalid;    /* steps without a token, or `before` at token 0 */
    int64_t truncated;  /* chains cut at the model's context */
    int64_t unlabelled; /* steps whose label is null or missing */
    uint64_t file_bytes;
    uint64_t model_bytes; /* weight files, mapped */
    /* what ks_capture_run takes beside what the job holds since open */
    uint64_t run_bytes;    /* buffers of the forward pass */
    uint64_t thread_bytes; /* of all threads' own */
    uint64_t store_bytes;  /* rows on their way into the file, its tables */
    double open_seconds;   /* model and tokenizer */
    double plan_seconds;   /* chains read and tokenised, the model hashed */
} ks_capture_cost;

typedef struct ks_capture_job {
    ks_capture_options options;
    ks_engines engines;
    ks_engine *engine; /* the first of them */
    ks_tokenizer *tokenizer;
    ks_chains chains;
    ks_labels labels;

    int32_t *ids; /* [n_ids] of all sequences, end to end */
    size_t n_ids, ids_capacity;
    ks_capture_seq *seqs; /* those with steps */
    size_t n_seqs, seqs_capacity;
    ks_step_row *steps; /* [spec.n_steps] */
    size_t n_steps, steps_capacity;
    int64_t *token_row; /* [n_steps + 1] rows of KS_TOKENS before a step */
    ks_chain_row *chain_rows; /* [chains.n] */
    size_t first, end;        /* the chains that are captured: the shard's */
    char shard[32], whole_sha256[65]; /* of the spec */
    char *config;
    ks_acts_spec spec;
    int32_t batch_tokens;         /* packing limit */
    int32_t max_tokens, max_rows; /* of the largest batch */
    size_t max_seqs;
    int32_t share_pages, share_columns; /* pages that the common tokens of a
                                           batch take, and those of a group */
    ks_capture_cost cost;
} ks_capture_job;

/* Errors: KS_LIMIT for a chain longer than the model's context (the numbers
 * and the remedies are in the sentence), KS_MISMATCH for labels or a
 * tokenizer that do not fit, those of the readers. */
ks_status ks_capture_open(ks_capture_job **out,
                          const ks_capture_options *options, ks_err *err);
void ks_capture_close(ks_capture_job **job);

/* Measures a short forward (a fraction of a second to a few seconds). */
ks_status ks_capture_rate(ks_capture_job *job, double *tokens_per_second,
                          ks_err *err);

/* Called between batches with tokens done so far and in all. */
typedef void (*ks_capture_progress_fn)(void *user, int64_t done, int64_t all);

/* Runs what is not done yet and finishes the file. *resumed (may be NULL):
 * steps found done. ks_interrupted set: finishes the batch in flight, leaves a
 * file that resumes, KS_INTERRUPTED. Values that are not finite: KS_NUMERIC
 * naming chain, step and layer. */
ks_status ks_capture_run(ks_capture_job *job, ks_capture_progress_fn progress,
                         void *user, int64_t *resumed, ks_err *err);

/* The same a batch at a time. begin: *out is NULL when the file is complete
 * already. step: *more tells whether batches are left. end: finishes the file.
 * drop: leaves a .part that resumes. Both free *pass. */
typedef struct ks_capture_pass ks_capture_pass;
ks_status ks_capture_begin(ks_capture_pass **out, const ks_capture_job *job,
                           int64_t *resumed, ks_err *err);
ks_status ks_capture_step(ks_capture_pass *pass, bool *more, ks_err *err);
/* Waits until the batches done are durable. */
ks_status ks_capture_sync(ks_capture_pass *pass, ks_err *err);
ks_status ks_capture_end(ks_capture_pass **pass, ks_err *err);
void ks_capture_drop(ks_capture_pass **pass);

/* capture_plan.c: fills everything but the engine. */
ks_status ks__capture_plan(ks_capture_job *job, ks_err *err);
/* The end of the batch that starts at sequence `from`. */
size_t ks__capture_batch_end(const ks_capture_job *job, size_t from,
                             int32_t *n_tokens, int32_t *n_steps);

#endif
