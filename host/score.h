/* score.h - scores of the steps of chains by a model itself, as a label-format
 * file: how probable and how undecided each step's tokens were, and what the
 * model says when it is asked outright whether a step matters.
 *
 * open reads and checks everything; run asks one session a worker, chain by
 * chain, and writes a line as soon as a chain is done. */
#ifndef KS_SCORE_H
#define KS_SCORE_H

#include "chains.h"
#include "engines.h"
#include "generate.h"
#include "prompt.h"
#include "shard.h"

typedef enum ks_score_kind {
    KS_SCORE_LOGPROB, /* mean log P of the step's tokens, each given all that
                         stand before it */
    KS_SCORE_ENTROPY, /* mean entropy, in nats, of the distributions that they
                         were given by */
    KS_SCORE_JUDGE,   /* log P(" important") - log P(" removable") as the
                         model's verdict on the step, which it reads behind the
                         question and the steps before it */
    KS_SCORE_JUDGE_STEP, /* the same of the step alone */
    KS_SCORE_N_KINDS
} ks_score_kind;

/* "judge-step"; NULL beyond the list. */
const char *ks_score_name(ks_score_kind kind);
/* What the judge is told ahead of the text, without and with context. */
const char *ks_score_task(ks_score_kind kind);

typedef struct ks_score_options {
    const char *model;     /* as for ks_engine_open */
    const char *tokenizer; /* NULL: the model's own */
    const char *chains, *out;
    const char *problems; /* the questions of chains that carry none; or NULL */
    uint32_t kinds;       /* bit set of ks_score_kind */
    ks_template which;    /* KS_TEMPLATE_AUTO: the model's */
    bool force, resume;
    ks_shard shard;           /* n 0: all chains */
    size_t memory;            /* as ks_generate_options.room; 0: any */
    ks_engine_options engine; /* backend: also a list */
} ks_score_options;

typedef struct ks_score_sum {
    size_t chains, taken_over; /* all; done by an earlier run */
    int64_t steps, without;    /* without: lack a score that was asked for */
    ks_generate_stats stats;
    double took; /* seconds of run */
} ks_score_sum;

typedef struct ks_score_job ks_score_job;

/* Options and what they point to are borrowed. A failed open leaves NULL. */
ks_status ks_score_open(ks_score_job **out, const ks_score_options *options,
                        ks_err *err);
/* Called after each batch, never twice at a time; may be NULL. */
typedef void (*ks_score_fn)(void *user, size_t done, size_t all,
                            const ks_generate_stats *stats);
/* Writes OUT, by way of OUT.part (a line a chain, in any order), which stays
 * when it is interrupted and which resume goes on from. */
ks_status ks_score_run(ks_score_job *job, ks_score_fn progress, void *user,
                       ks_score_sum *sum, ks_err *err);
size_t ks_score_chains(const ks_score_job *job);

/* What a run will cost, what questions have in common computed once. */
typedef struct ks_score_cost {
    size_t chains, walked; /* walked: of which the questions were counted one by
                              one; the others by their sizes */
    int64_t steps;
    int64_t computed; /* tokens through the model */
    double read;      /* tokens a second, on a short piece of the work */
    double seconds;   /* that all of it takes */
    size_t bytes;     /* of host memory for buffers and stores, once all of
                         them are used */
} ks_score_cost;
/* All but rate, time and bytes; before a run. */
ks_status ks_score_estimate(ks_score_job *job, ks_score_cost *out, ks_err *err);
/* Those, too: of what was estimated. A fraction of a second for a small model,
 * forwards of 64 and of 512 tokens for a large one. */
ks_status ks_score_measure(ks_score_job *job, ks_score_cost *cost, ks_err *err);

void ks_score_close(ks_score_job **at);

/* ----------------------------------------------------- the judge's question */

/* The text that stands ahead of a verdict: the prompt of step `step` with the
 * chat template applied, an opened thinking closed, up to the word. Appends. */
ks_status ks_score_prompt(const ks_prompt *prompt, ks_score_kind kind,
                          const char *question, const ks_chain *chain,
                          int32_t step, ks_str *out, ks_err *err);

#endif
