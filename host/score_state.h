/* score_state.h - what score.c (reads and asks), score_cost.c (counts what will
 * be asked) and score_line.c (lines, also those of an interrupted run) share.
 * Internal. */
#ifndef KS_SCORE_STATE_H
#define KS_SCORE_STATE_H

#include <pthread.h>

#include "score.h"

typedef struct ks__scored ks__scored;

/* One question: tokens whose scores a chain waits for. */
typedef struct ks__score_ask {
    ks__scored *of;
    ks_score_kind kind; /* LOGPROB: also for ENTROPY */
    int32_t step;       /* of the judge's */
    int sign;           /* +1 important, -1 removable */
    int32_t *ids;       /* [request.n_prompt], owned */
    ks_request request;
} ks__score_ask;

/* A chain under way. */
struct ks__scored {
    const ks_chain *chain;
    const char *question; /* NULL: not known, and not needed */
    char inputs[65];      /* of all that its scores depend on */
    json_t *line;         /* done */
    double *value;        /* [KS_SCORE_N_KINDS, n_steps], NAN: none */
    ks_span *tokens;      /* [n_steps] in the sequence that the model reads */
    ks__score_ask *asks;  /* [n_asks] */
    size_t n_asks, n_left;
};

typedef struct ks__score_worker {
    ks_score_job *job;
    ks_session *session;
    ks_generate_options options;
    ks_generate_stats told;
    int32_t in_flight;
} ks__score_worker;

struct ks_score_job {
    ks_score_options options;
    ks_engines engines;
    ks_tokenizer *tokenizer;
    ks_prompt prompt;
    ks_problems problems;
    ks_chains chains;
    ks__scored *items;  /* [chains.n] */
    size_t first, end;  /* the chains that are scored: the shard's */
    ks_shard_note note; /* of OUT */
    char inputs[65];    /* SHA-256 of all items' */
    json_t *noted;      /* settings, and what is scored */
    int32_t longest;    /* tokens of a question */
    json_t *settings;   /* of every line's "scoring" */
    ks_part part;
    const char *from; /* whose lines are taken over */
    pthread_mutex_t mutex;
    size_t next, n_done, n_taken_over;
    ks__score_worker *workers;
    ks_generate_stats stats;
    ks_score_fn progress;
    void *user;
};

/* An item's questions, in the order in which they are asked; and what is freed
 * when they are answered. */
ks_status ks__score_begin(ks_score_job *job, ks__scored *item, ks_err *err);
void ks__score_end(ks__scored *item);
/* Threads or devices at work, and the options of a member's session. */
int ks__score_crew(const ks_score_job *job);
ks_generate_options ks__score_session(const ks_score_job *job, int size);

/* settings, and every chain's inputs. */
ks_status ks__score_settle(ks_score_job *job, ks_err *err);
/* The line of a chain whose values are there. */
ks_status ks__score_line(const ks_score_job *job, ks__scored *item,
                         ks_err *err);
/* OUT.part, with what an interrupted run left; *whole: OUT is there with all,
 * and stays. KS_MISMATCH where this run would write otherwise. */
ks_status ks__score_take_over(ks_score_job *job, bool *whole, ks_err *err);
ks_status ks__score_write(ks_score_job *job, ks_err *err);
int64_t ks__score_without(const json_t *line);

#endif
