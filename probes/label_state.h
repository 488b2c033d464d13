/* label_state.h - what the files of the labelling share. Internal.
 *   label.c        the job: options, inputs
 *   label_settings.c what decides bits: settings, hashes of inputs
 *   label_ranking.c another judge's ranking
 *   label_run.c    who does which chain, and what is written
 *   label_journal.c what was answered, and what --resume makes of it
 *   label_cost.c   what it will cost, before it runs
 *   label_rate.c   and how long that takes
 *   label_chain.c  the stages of a chain
 *   label_search.c the stages of the search
 *   label_ask.c    questions about sets of steps
 *   label_answer.c what the answers to them say
 *   label_subsets.c all subsets of a short prefix
 *   label_roll.c   continuations to the end, and the answers they come to
 *   label_text.c   texts that hold some of a chain's steps
 *   label_write.c  label lines and clean chains
 */
#ifndef KS_LABEL_STATE_H
#define KS_LABEL_STATE_H

#include <pthread.h>

#include "label.h"

typedef struct ks_label_worker ks_label_worker;
typedef struct ks__ask ks__ask;
typedef struct ks__item ks__item;
typedef struct ks__count ks__count;

/* A question that is out. */
struct ks__ask {
    ks__item *item;
    ks__ask *before, *next; /* of the item's */
    char *key;
    const char *cue; /* ahead of the samples */
    ks_ask kind;
    int32_t *ids; /* [n] */
    int32_t n;
    int32_t wanted, answered, right; /* samples */
    char *text;                      /* what the first sample says */
    json_t *tally; /* of rollouts: [[answer, how many], ..], else NULL */
};

/* A chain's text, the original or the cleaned one. */
typedef struct ks__text {
    char *data;
    size_t length;
    ks_spans steps;
    int64_t answer; /* the step that gives it: never kept in a set */
} ks__text;

/* What is being asked; fields in the order in which they are known. */
typedef struct ks__walk {
    ks_greedy greedy;
    bool open, done;
    int32_t n_asked;
} ks__walk;

/* Of all subsets of the searched steps; asked 0: none was. */
typedef struct ks__subsets {
    uint32_t asked, passing;
    int32_t least;    /* steps of the smallest that are enough */
    uint32_t n_least; /* how many of those */
    uint32_t needed;  /* bits: steps in every one that is enough */
} ks__subsets;

enum { KS__THRESHOLDS = 13, KS__MOST_ORDERS = 16 };
extern const double ks__thresholds[KS__THRESHOLDS];

/* One chain on its way. */
struct ks__item {
    struct ks_label_job *job;
    ks_label_worker *worker; /* who is at it */
    const ks_chain *chain;
    const ks_problem *problem;
    char inputs[65]; /* SHA-256 of what is asked about */
    ks_label_skip skip;
    bool too_long;   /* its text with the cue and the answer */
    int32_t longest; /* tokens of its questions, answered */
    int stage;
    int32_t pending; /* questions that are out */
    ks__ask *asks;   /* they */
    json_t *known;   /* key -> answer */
    int64_t asked;
    ks_status status; /* of the first failure, with its err */
    ks_err err;

    ks__text original, clean;
    uint8_t *cut;                  /* [original steps] */
    json_t *map;                   /* clean steps to original ones */
    double necessity, sufficiency; /* of the clean chain */
    double nll_all, nll_answer;    /* of the clean chain, of the answer alone */
    int32_t p;                     /* steps of the sufficient prefix */
    int32_t *steps; /* [q] those of them that are searched: not the answer's */
    int32_t q;
    double *matrix, *score; /* [(q + 1)^2], [q] */
    int32_t *order;         /* [q] least important first */
    int32_t threshold;      /* index; -1: none passed */
    uint8_t *start;         /* [q + 1] T_inf */
    ks__walk main, orders[KS__MOST_ORDERS];
    uint8_t *core;      /* [q + 1] */
    double confirmed;   /* NAN: not asked */
    int8_t last_needed; /* -1: not known */
    double *drop;       /* [q], NULL: not asked */
    double *resample;   /* [q], NULL: not asked */
    double *suppressed; /* [q], NULL: not asked */
    ks__subsets subsets;
    json_t *line, *clean_line, *prefix_line, *skipped_line; /* the results */
};

struct ks_label_worker {
    struct ks_label_job *job;
    ks_engine *engine;
    ks_session *session;
    ks_influence_job *influence;
    ks_suppression_job *suppression;
    ks_generate_options options;
    ks_generate_stats told;
    int32_t in_flight;
    int64_t out;   /* tokens of all questions that are out */
    int32_t group; /* of the next question */
};

struct ks_label_job {
    ks_label_options options;
    ks_engines engines;
    ks_tokenizer *tokenizer;
    ks_prompt prompt;
    ks_problems problems;
    ks_chains chains;
    json_t *rankings;  /* chain -> {"start","order"}, or NULL */
    char ranking[65];  /* SHA-256 of its file */
    ks__item *items;   /* [chains.n] */
    size_t first, end; /* the chains that are labelled: the shard's */
    json_t *settings, *all_settings; /* of answers, with those of labels */
    json_t *made;                    /* {"version","backend","isa"} */
    json_t *made_by;  /* the same, of all runs that the journal tells of */
    json_t *sampling; /* all_settings and made, or once the journal is open
                         made_by */
    char inputs[65];  /* SHA-256 of the items' */
    bool begun;       /* the journal has a header */
    bool elsewhere;   /* and its last one is another made than this */
    ks_label_worker *workers; /* while it runs */
    const char *cue, *cue_empty;
    int32_t *closers, n_closers; /* ids that begin with "}" */
    int32_t longest;             /* tokens of any question */
    ks__count *count; /* what is asked is counted, not sent; else NULL */

    pthread_mutex_t mutex; /* of what follows */
    size_t next, n_done;
    ks_part part; /* the journal */
    int64_t resumed;
    ks_generate_stats stats;
    ks_label_progress_fn progress;
    void *user;
};

/* ------------------------------------------------------- settings, journal */

/* Of the items, which are open. */
ks_status ks__settings_open(struct ks_label_job *job, ks_err *err);
/* Of the output by this option, for its shard. */
ks_shard_note ks__shard_note_of(const struct ks_label_job *job,
                                const char *output);
json_t *ks__compat_names(uint32_t compat);
/* Of options.ranking, all that can be told of it before the model runs. */
ks_status ks__rankings_read(struct ks_label_job *job, ks_err *err);
/* The item's line: score, order, start. */
ks_status ks__rank_as_told(ks__item *item, ks_err *err);
/* Takes over what an interrupted run has answered. *lines: of OUT, where that
 * is whole and the same already, and nothing was opened; else 0. */
ks_status ks__journal_open(struct ks_label_job *job, int64_t *lines,
                           ks_err *err);

/* ------------------------------------------------------------------- texts */

void ks__text_free(ks__text *text);
/* A copy, split unless the chain has steps. */
ks_status ks__text_open(ks__text *out, const ks_chain *chain, ks_err *err);
/* Step i with what lies behind it up to the next one, and ahead of the first:
 * they come and go with it. Blanks behind the last step are in no set. */
ks_span ks__text_extent(const ks__text *t, size_t i);
/* Without the steps of cut [steps]; split anew where the original was. map: of
 * its steps to the original's. */
ks_status ks__text_cut(const ks__text *from, const uint8_t *cut, ks__text *out,
                       json_t **map, ks_err *err);
/* Appends the steps of keep [steps], but for the answer's; *any: there was
 * one. */
ks_status ks__text_keep(const ks__text *text, const uint8_t *keep, ks_str *out,
                        bool *any, ks_err *err);

/* --------------------------------------------------------------- questions */

/* Sufficiency of a set of a text's steps. true: *out is known, else it is
 * asked, or the item has failed. fresh: other draws than the search saw, as
 * many as options.confirm says. */
bool ks__ask_enough(ks__item *item, const ks__text *text, const uint8_t *keep,
                    bool fresh, double *out);
/* The same where it was asked before. */
bool ks__recall_enough(ks__item *item, const ks__text *text,
                       const uint8_t *keep, double *out);
/* Mean negative log-probability a token of the set given the prompt; suffix:
 * the cue and the answer behind it count too. No tokens: 0. */
bool ks__ask_nll(ks__item *item, const ks__text *text, const uint8_t *keep,
                 bool suffix, double *out);
/* Of the answer behind the prompt and the cue alone. */
bool ks__ask_answer_nll(ks__item *item, double *out);
/* Log-probability of the answer behind the set. */
bool ks__ask_answer(ks__item *item, const ks__text *text, const uint8_t *keep,
                    double *out);
void ks__ask_free(ks__ask *ask);
/* What a question with this key was answered, or NULL. */
json_t *ks__recall(const ks__item *item, const char *key);
bool ks__is_out(const ks__item *item, const char *key);
/* Of the ids of front, and of rest (NULL: none) behind them. */
ks_status ks__ask_open(ks__item *item, const char *key, ks_ask kind,
                       const ks_tokens *front, const ks_tokens *rest,
                       ks__ask **out, ks_err *err);
/* Samples 0 .. wanted - 1 of at most max_new tokens, or the scores of tokens
 * from `from` on. */
ks_status ks__ask_send(ks__ask *ask, int32_t from, int32_t max_new,
                       const int32_t *last_ids, int32_t n_last_ids,
                       ks_err *err);
/* Ids of a text, behind a second BOS where the published code has one. */
ks_status ks__tokenize(const ks__item *item, const ks_str *text,
                       ks_tokens *tokens, ks_err *err);
/* Keeps an answer, in the journal too. text: of the first sample; tally: of
 * rollouts; either may be NULL. */
ks_status ks__remember(ks__item *item, const char *key, double value,
                       const char *text, json_t *tally, ks_err *err);
#define KS__BOX "\\boxed{"
/* The cue leaves a box open, which the answer closes. */
bool ks__leaves_box(const char *cue);
/* Counts the answer that a completion comes to. */
ks_status ks__roll_take(ks__ask *ask, const ks_str *completion, ks_err *err);
/* Keeps what was answered; *item: whose last open question that was, or NULL.
 */
ks_status ks__answered(const ks_request *request, const ks_answer *answer,
                       ks__item **item, ks_err *err);
/* Prompt, kept steps, cue, answer and what closes it, one tokenisation; where
 * each of the q steps and the suffix begin: bounds [q + 2]. */
ks_status ks__tokens_of_prefix(ks__item *item, ks_tokens *tokens,
                               int32_t *bounds, ks_err *err);
/* Tokens of the longest question about the item, answered: *least if no cut
 * undoes a merge of tokens, *most with what those of short steps may add. */
ks_status ks__longest_question(ks__item *item, int32_t *least, int32_t *most,
                               ks_err *err);
/* Whether another question may be sent: those that are out hold their tokens.
 */
bool ks__may_ask(const ks__item *item);

/* Threads or devices at work, and the options of a member's session. */
int ks__label_crew(const struct ks_label_job *job);
ks_generate_options ks__label_session(const struct ks_label_job *job, int size);

/* Before a run: whether anything may be asked about the item. */
bool ks__may_be_asked(const ks__item *item);
/* In place of sending it and of computing the influences of item's matrix. */
ks_status ks__count_ask(ks__ask *ask, int32_t max_new, ks_err *err);
void ks__count_between(ks__item *item, const int32_t *bounds);

/* ------------------------------------------------------------------ stages */

typedef enum ks__stage_result {
    KS__WAIT, /* for answers, or it failed */
    KS__NEXT
} ks__stage_result;

/* Until it waits, or is done: then its line is there. */
void ks__item_advance(ks__item *item);
bool ks__item_done(const ks__item *item);
void ks__item_free(ks__item *item);

ks__stage_result ks__stage_influence(ks__item *item);
ks__stage_result ks__stage_sweep(ks__item *item);
ks__stage_result ks__stage_greedy(ks__item *item);
ks__stage_result ks__stage_confirm(ks__item *item);
ks__stage_result ks__stage_drop(ks__item *item);
ks__stage_result ks__stage_resample(ks__item *item);
ks__stage_result ks__stage_subsets(ks__item *item);
/* A value for each step of the clean chain, of the searched ones that of their
 * place `at` among them, of others null. */
typedef json_t *(*ks__value_fn)(const ks__item *item, int32_t at,
                                const void *user);
json_t *ks__per_step(const ks__item *item, ks__value_fn value,
                     const void *user);
/* null where none was asked; NULL: out of memory */
json_t *ks__subsets_json(const ks__item *item);

/* Attainability of a set, rounded as it is compared. */
bool ks__attainability(ks__item *item, const uint8_t *keep, bool suffix,
                       double *out);
/* Whether a set of the prefix's steps, mask [q + 1], is enough. */
bool ks__passes(ks__item *item, const uint8_t *mask, bool *passes);
double ks__round4(double x);
ks__stage_result ks__fail_item(ks__item *item, ks_status status);

/* Whether steps are measured by others, in memory beside the session's. */
static inline bool ks__measures_between(const ks_label_options *o) {
    return o->suppress || o->method == KS_LABEL_INFLUENCE ||
           o->method == KS_LABEL_SUPPRESSION;
}

/* -1 unlabelled, 0 removable, 1 important: of step i of the q. */
int8_t ks__label_of(const ks__item *item, int32_t i);
ks_status ks__write_item(ks__item *item, ks_err *err);

#endif
