/* generate_work.h - what keystep generate is made of: cmd_generate.c runs it,
 * generate_resume.c takes over what an interrupted run has left, and
 * generate_say.c tells of it. */
#ifndef KS_GENERATE_WORK_H
#define KS_GENERATE_WORK_H

#include "../generate.h"
#include "cli.h"

typedef struct ks_generate_input {
    ks_cli_common common;
    const char *instruction, *tokenizer;
} ks_generate_input;

/* Problems that no chain is sampled for. */
typedef enum ks_fit {
    KS_FIT_GOOD,
    KS_FIT_LONG,  /* the context leaves no room behind its prompt */
    KS_FIT_EMPTY, /* its prompt has no token */
    KS_FIT_OTHERS /* another shard's */
} ks_fit;

/* Everything of one call; chain i is sample i % samples of problem
 * i / samples. */
typedef struct ks_generate_work {
    const ks_generate_input *in;
    ks_engines engines;
    ks_engine *engine; /* the first of them */
    ks_tokenizer *tokenizer;
    ks_prompt prompt;
    ks_problems problems;
    int32_t samples;
    size_t n;             /* chains, had all problems fitted */
    size_t first, end;    /* problems that are asked: the shard's */
    size_t n_asked;       /* chains */
    size_t n_done;        /* of them */
    json_t **chains;      /* [n], NULL: not there yet, or not asked for */
    ks_str *prompts;      /* [problems] */
    ks_tokens *tokens;    /* [problems] */
    ks_fit *fits;         /* [problems] */
    ks_request *requests; /* [n_requests] */
    size_t *places;       /* [n_requests] chain of a request */
    size_t n_requests;
    int64_t n_prompt_tokens; /* of all requests */
    ks_str *names;           /* [problems] */
    ks_generate_options options;
    ks_compose compose;
    json_t *settings;
    ks_shard_note note; /* of the output */
    char inputs[65];    /* SHA-256 of the problems */
    json_t *noted;      /* settings and samples */
    ks_part part;
    const char *from; /* whose lines are taken over: OUT.part, or OUT */
    ks_progress *progress;
    double sampling_since; /* when tokens first came, of *seconds; 0: not yet */
    int64_t sampled_then;
    size_t n_ended;
    int64_t ended_tokens; /* sampled of those that ended */
    int64_t most_left;    /* new tokens that the others may come to */
    ks_generate_stats stats;
} ks_generate_work;

/* New tokens that a chain of a problem's may come to. */
int64_t ks__most_new(const ks_generate_work *work, size_t problem);

/* OUT.part, and of its chains those that this run would have made as well:
 * KS_MISMATCH naming line and both values for any other, and --force starts
 * afresh. *whole: OUT itself is there, with all of them, and stays. */
ks_status ks__generate_take_over(ks_generate_work *work, bool *whole,
                                 ks_err *err);

void ks__generate_progress(ks_generate_work *work,
                           const ks_generate_stats *so_far);
/* --dry-run: little is computed, to measure how fast it goes. */
ks_status ks__generate_plan(const ks_generate_work *work, ks_err *err);
void ks__generate_sum_up(const ks_generate_work *work, double took);

#endif
