/* label.h - which steps of a chain carry the answer, measured by what the
 * model still answers without them (arXiv 2604.18307; docs/method.md).
 *
 * A chain goes through stages: filters, steps that give the answer away cut,
 * the shortest prefix that is enough, influences between its steps, selection
 * by a threshold, greedy removal. Each stage asks about sets of steps, and a
 * set is asked about once: what is answered is kept in a journal, so that a
 * run that was interrupted goes on where it was. Requests of all chains under
 * way share one session. An answer is a function of seed, chain and set; so
 * are the labels.
 */
#ifndef KS_LABEL_H
#define KS_LABEL_H

#include "chains.h"
#include "generate.h"
#include "influence.h"
#include "search.h"
#include "shard.h"
#include "suppress.h"

/* How the steps are ranked and where removal starts. */
typedef enum ks_label_method {
    KS_LABEL_INFLUENCE,   /* by gradients between steps */
    KS_LABEL_SUPPRESSION, /* by what steps lose without attention to others */
    KS_LABEL_RANDOM,      /* from all steps, in random orders: important is what
                             all of them keep, removable what none keeps */
    KS_LABEL_EXTERNAL,    /* start and order from a file */
    KS_LABEL_CURVE,       /* no labels: sufficiency of every prefix of the chain
                            as it is, no filter but the problem's answer */
    KS_N_LABEL_METHODS
} ks_label_method;
/* "influence", "suppression", ... */
const char *ks_label_method_name(ks_label_method method);

/* What the published code does otherwise, a bit each. */
typedef enum ks_label_compat {
    KS_COMPAT_SPANS = 1,   /* influence: source spans one token too far right */
    KS_COMPAT_BOS = 2,     /* a second BOS ahead of the prompt */
    KS_COMPAT_EQUAL = 4,   /* answers compared as it does */
    KS_COMPAT_BOX = 8,     /* an empty completion is judged by an earlier box */
    KS_COMPAT_PPL = 16,    /* perplexity of question and template too */
    KS_COMPAT_STATES = 32, /* its rule for steps that state the answer */
    KS_COMPAT_PREFIX = 64, /* the prefix by sufficiency alone */
    KS_COMPAT_LAST = 128,  /* the last step may be missing from the selection,
                              and is called important untested */
    KS_COMPAT_KEEP = 256   /* chains of which greedy removal took nothing, or
                              whose prefix is not of 10 to 200 steps, are
                              dropped */
} ks_label_compat;
/* Name of the i-th; behind the last "all", then NULL. */
const char *ks_label_compat_name(int i);
/* "spans,bos", "all"; KS_USAGE naming the known ones. */
ks_status ks_label_compat_find(const char *list, uint32_t *out, ks_err *err);

typedef struct ks_label_options {
    const char *model, *tokenizer; /* tokenizer NULL: the model's own */
    const char *problems, *chains; /* JSON Lines */
    const char *out, *clean;       /* clean NULL: not written */
    const char *ranking;           /* KS_LABEL_EXTERNAL */
    const char *prefixes; /* what another judge would rank; may be NULL */
    const char *skipped;  /* chains without labels, and why; may be NULL */
    ks_template template_;
    ks_label_method method;
    ks_influence_how influence;
    uint32_t compat; /* of ks_label_compat */
    /* NULL: the template's. cue_empty: where no step is kept. */
    const char *cue, *cue_empty;
    bool exact; /* sufficiency by scoring, else by sampling */
    /* Further scores of the prefix's steps. */
    bool drop;       /* loss of the answer's log-probability without the step */
    bool suppress;   /* mean loss of later steps without attention to it */
    bool all;        /* sufficiency of every prefix, behind the first that is
                        enough too */
    int32_t subsets; /* prefixes of so many steps, at most 12, are asked about
                        with all their subsets; 0: none */
    int32_t rollouts;    /* continuations from before and after each step, to
                            compare their answers; 0: none */
    int32_t rollout_new; /* most tokens of one */
    int32_t samples;     /* K */
    int32_t confirm;     /* fresh samples for the core; 0: none */
    int32_t orders;      /* random ones, KS_LABEL_RANDOM */
    double temperature, top_p;
    int32_t top_k;
    double enough; /* tau, of sufficiency, attainability and necessity */
    uint64_t seed;
    bool force, resume;
    ks_shard shard; /* n 0: all chains */
    size_t memory;  /* bytes of keys and values and of all buffers; 0: no limit
                       but the store's default */
    ks_engine_options engine;
} ks_label_options;
/* Settings of the method. */
ks_label_options ks_label_defaults(void);

/* Why a chain has no labels; the first that holds. */
typedef enum ks_label_skip {
    KS_SKIP_NONE,
    KS_SKIP_NO_ANSWER,  /* the problem has none */
    KS_SKIP_UNFINISHED, /* the thinking did not end */
    KS_SKIP_NO_STEPS,
    KS_SKIP_WRONG,        /* the answer is not the problem's */
    KS_SKIP_NOT_STATED,   /* no step gives it */
    KS_SKIP_TOO_LONG,     /* for the model's context */
    KS_SKIP_UNNEEDED,     /* answered without a chain */
    KS_SKIP_ONE_STEP,     /* nothing to leave out */
    KS_SKIP_ALL_CUT,      /* nothing is left without steps that give it away */
    KS_SKIP_INSUFFICIENT, /* and what is left is not enough */
    KS_SKIP_NOTHING_REMOVED, /* compat: keep */
    KS_SKIP_LENGTH,          /* compat: keep */
    KS_N_SKIPS
} ks_label_skip;
const char *ks_label_skip_name(ks_label_skip skip);

typedef struct ks_label_summary {
    /* OUT was there already, whole and the same: nothing ran, and of what
     * follows chains, labelled and curves alone are known. */
    bool whole;
    int64_t chains, skipped[KS_N_SKIPS];
    int64_t labelled, curves; /* the rest: one of them, by the method */
    int64_t steps, important, removable, unlabelled; /* of prefixes */
    /* Steps that gave the answer away: of labelled chains, of others. */
    int64_t cut, cut_of_others;
    int64_t asked;       /* sets of steps, of which */
    int64_t resumed;     /* the journal had */
    int64_t unconfirmed; /* cores that fail with fresh samples */
    ks_generate_stats stats;
    double seconds;
} ks_label_summary;

/* Tokens through the model. */
typedef struct ks_label_cost {
    int64_t chains, tokens; /* that are asked about */
    int64_t walked;         /* of which the questions were counted one by one;
                               the others by their sizes */
    int64_t shared;      /* with what questions have in common computed once */
    int64_t least, most; /* the same with all samples of a set alike, or parted
                            at their first token */
    int64_t filters;     /* of shared, up to the last filter; curve: all */
    int64_t alone;       /* a prompt and a sample at a time */
    int64_t sampled;     /* of shared, drawn one by one */
    int64_t between;     /* besides: influences, forward and backward */
    int64_t suppressed;  /* of between, forward alone */
    /* Measured on a short piece of the work, tokens a second; 0: none is asked
     * for. pulled: of between but for what is suppressed. */
    double read, drawn, pulled, suppressing;
    int64_t at_once; /* samples that are drawn at a time */
    double seconds;  /* that all of it takes */
    size_t bytes;    /* of host memory for buffers and stores, once all of them
                        are used */
} ks_label_cost;

typedef struct ks_label_job ks_label_job;
/* Reads and checks everything before the model computes anything. */
ks_status ks_label_open(ks_label_job **out, const ks_label_options *options,
                        ks_err *err);
void ks_label_close(ks_label_job **at);
int64_t ks_label_chains(const ks_label_job *job);
/* After a run: why chain i has no labels, and its id. */
ks_label_skip ks_label_skipped(const ks_label_job *job, int64_t i,
                               const char **id);
/* What a run will cost, as if every chain that is not filtered by its text
 * alone went through all stages; the head of label_cost.c says what else is
 * supposed. Before a run. */
ks_status ks_label_estimate(ks_label_job *job, ks_label_cost *out, ks_err *err);
/* Fills rates, seconds and bytes of what ks_label_estimate has counted. A
 * fraction of a second for a small model, several forwards of 512 tokens for a
 * large one. */
ks_status ks_label_measure(ks_label_job *job, ks_label_cost *cost, ks_err *err);
typedef void (*ks_label_progress_fn)(void *user, int64_t done, int64_t all,
                                     const ks_generate_stats *stats);
/* KS_INTERRUPTED: OUT.part has what was answered. */
ks_status ks_label_run(ks_label_job *job, ks_label_progress_fn progress,
                       void *user, ks_label_summary *summary, ks_err *err);

#endif
