/* label_rate.c - how long a job will take: the tokens that label_cost.c counts,
 * at rates that are measured here on the beginning of its longest chain.
 */
#include <stdlib.h>
#include <string.h>

#include "../host/rates.h"
#include "between.h"
#include "label_state.h"

/* Tokens of the steps between which influences are timed. */
enum { FEW_TOKENS = 128, LEAST_TOKENS = 4 };
#define LONG_ENOUGH 0.1 /* seconds */

/* Of one member of the crew. */
typedef struct part {
    double pulled, suppressing; /* tokens a second */
    size_t bytes;
} part;

typedef struct trial {
    const struct ks_label_job *job;
    const ks__item *item;        /* the longest chain */
    ks_tokens tokens;            /* of it, its prompt in front */
    size_t front;                /* tokens of the prompt, at least one */
    int32_t *bounds;             /* [n + 1] of its steps, taken to be alike */
    int32_t n;                   /* 0: the chain is too short to measure on */
    int32_t few[FEW_TOKENS + 2]; /* [n_few + 1] behind one token ahead */
    int32_t n_few;
    const int32_t *ids; /* what few is about */
    part *parts;        /* [members] */
} trial;

/* -------------------------------------------------------------------- chain */

static const ks__item *longest_item(const struct ks_label_job *job) {
    const ks__item *longest = NULL;
    for (size_t i = job->first; i < job->end; i++) {
        const ks__item *item = &job->items[i];
        if (ks__may_be_asked(item) &&
            (!longest || item->longest > longest->longest))
            longest = item;
    }
    return longest;
}

/* n steps of about the same length in the tokens [from, end). */
static void divide(int32_t *bounds, int32_t n, int32_t from, int32_t end) {
    for (int32_t k = 0; k <= n; k++)
        bounds[k] = from + (int32_t)((int64_t)(end - from) * k / n);
}

static ks_status open_trial(trial *t, ks_err *err) {
    ks_status st = KS_OK;
    const ks__item *item = t->item;
    const ks_chain *c = item->chain;
    ks_str text = {0};
    int32_t context = t->job->engines.at[0]->model->config.n_context;
    KS_TRY(ks_str_add(&text, c->prompt, c->prompt_length, err));
    KS_TRY(ks_str_add(&text, c->text, c->text_length, err));
    KS_TRY(ks_tokenize(t->job->tokenizer, text.data, text.length, &t->tokens,
                       err));
    int32_t end = (int32_t)KS_MIN(t->tokens.n, (size_t)context);
    if (end < LEAST_TOKENS) goto done;
    t->front = 1;
    while ((int32_t)t->front < end - LEAST_TOKENS + 1 &&
           (size_t)t->tokens.begin[t->front] < c->prompt_length)
        t->front++;
    int32_t steps = (int32_t)KS_MIN(item->original.steps.n, (size_t)INT32_MAX);
    t->n = KS_MAX(steps, 2);
    KS_TRY(ks_alloc(&t->bounds, (size_t)t->n + 1, sizeof *t->bounds, "steps",
                    err));
    divide(t->bounds, t->n, (int32_t)t->front, end);
    int32_t few = KS_MIN(FEW_TOKENS, end - (int32_t)t->front);
    int32_t length = KS_MAX((end - (int32_t)t->front) / t->n, 1);
    t->n_few = KS_MAX(few / length, 2);
    divide(t->few, t->n_few, 1, 1 + few);
    t->ids = t->tokens.ids + t->front - 1;
done:
    ks_str_free(&text);
    return st;
}

/* --------------------------------------------------------------- influences */

/* Of passes over the same steps: the last one's rate counts, once there were
 * two, since the first makes buffers, and all took long enough. */
typedef struct watch {
    double all; /* seconds */
    int passes;
} watch;

static bool goes_on(const watch *c) {
    return c->passes < 2 || c->all < LONG_ENOUGH;
}

/* The rate of a pass over so many tokens. */
static double tick(watch *c, double since, int64_t tokens) {
    double took = KS_MAX(ks_seconds() - since, 1e-9);
    c->all += took;
    c->passes++;
    return (double)tokens / took;
}

/* What the run says where a chain does not fit. */
static ks_status name_chain(const trial *t, ks_status st, ks_err *err) {
    if (st != KS_LIMIT) return st;
    return ks_fail_more(err, st, "; a larger --memory is needed for chain %s",
                        t->item->chain->id);
}

static ks_status time_gradients(const trial *t, ks_engine *engine, part *p,
                                double *matrix, ks_err *err) {
    ks_status st = KS_OK;
    ks_influence_job *job = NULL;
    const ks_influence_how *how = &t->job->options.influence;
    bool integrated = how->kind == KS_INFLUENCE_INTEGRATED;
    int64_t pulled, behind;
    watch c = {0};
    size_t bytes;
    ks__between_tokens(t->few, t->n_few, &pulled, &behind);
    if (integrated) pulled *= KS_INFLUENCE_POINTS;
    KS_TRY(ks_influence_open(&job, engine, err));
    st = ks_influence_bytes(job, t->bounds, t->n, how, &bytes, err);
    KS_TRY(name_chain(t, st, err));
    p->bytes = KS_MAX(p->bytes, bytes);
    while (goes_on(&c)) {
        double start = ks_seconds();
        KS_TRY(ks_influence_of(job, t->ids, t->few[t->n_few], t->few, t->n_few,
                               how, matrix, err));
        p->pulled = tick(&c, start, pulled);
    }
done:
    ks_influence_close(&job);
    return st;
}

static ks_status time_suppression(const trial *t, ks_engine *engine, part *p,
                                  double *matrix, ks_err *err) {
    ks_status st = KS_OK;
    ks_suppression_job *job = NULL;
    int64_t pulled, behind;
    watch c = {0};
    size_t bytes;
    ks__between_tokens(t->few, t->n_few, &pulled, &behind);
    KS_TRY(ks_suppression_open(&job, engine, err));
    st = ks_suppression_bytes(job, t->bounds, t->n, &bytes, err);
    KS_TRY(name_chain(t, st, err));
    p->bytes = KS_MAX(p->bytes, bytes);
    while (goes_on(&c)) {
        double start = ks_seconds();
        KS_TRY(ks_suppression_of(job, t->ids, t->few[t->n_few], t->few,
                                 t->n_few, matrix, err));
        p->suppressing = tick(&c, start, behind);
    }
done:
    ks_suppression_close(&job);
    return st;
}

static ks_status time_between(void *user, int member, ks_engine *engine,
                              ks_err *err) {
    ks_status st = KS_OK;
    const trial *t = user;
    const ks_label_options *o = &t->job->options;
    double *matrix = NULL;
    size_t n = (size_t)t->n_few;
    KS_TRY(ks_alloc(&matrix, n * n, sizeof *matrix, "influences", err));
    if (o->method == KS_LABEL_INFLUENCE)
        KS_TRY(time_gradients(t, engine, &t->parts[member], matrix, err));
    if (o->suppress || o->method == KS_LABEL_SUPPRESSION)
        KS_TRY(time_suppression(t, engine, &t->parts[member], matrix, err));
done:
    free(matrix);
    return st;
}

/* --------------------------------------------------------------------- all */

static double time_of(int64_t tokens, double rate) {
    return rate > 0 ? (double)tokens / rate : 0;
}

static void sum_up(const trial *t, int size, const ks_rates *rates,
                   ks_label_cost *cost) {
    cost->read = rates->read;
    cost->drawn = rates->drawn;
    cost->at_once = rates->at_once;
    cost->bytes = rates->bytes;
    cost->pulled = cost->suppressing = 0;
    for (int i = 0; i < size; i++) {
        cost->pulled += t->parts[i].pulled;
        cost->suppressing += t->parts[i].suppressing;
        /* where memory is bounded a session leaves room for them (aside) */
        const ks_engine *e = t->job->engines.at[0];
        if (e->ops->unified && !e->memory) cost->bytes += t->parts[i].bytes;
    }
    cost->seconds = time_of(cost->shared - cost->sampled, cost->read) +
                    time_of(cost->sampled, cost->drawn) +
                    time_of(cost->between - cost->suppressed, cost->pulled) +
                    time_of(cost->suppressed, cost->suppressing);
}

ks_status ks_label_measure(ks_label_job *job, ks_label_cost *cost,
                           ks_err *err) {
    ks_status st = KS_OK;
    trial t = {.job = job, .item = longest_item(job)};
    ks_rates rates;
    int size = ks__label_crew(job);
    if (!t.item || cost->shared == 0) return KS_OK; /* nothing is asked */
    ks_generate_options session = ks__label_session(job, size);
    bool between = ks__measures_between(&job->options);
    KS_TRY(ks_alloc(&t.parts, (size_t)size, sizeof *t.parts, "members", err));
    KS_TRY(open_trial(&t, err));
    if (t.n == 0) goto done;
    ks_rates_of of = {.engines = &job->engines,
                      .size = size,
                      .options = &session,
                      .longest = job->longest,
                      .scores = true,
                      .ask = job->options.exact ? KS_ASK_SCORE : KS_ASK_SAMPLE,
                      .ids = t.tokens.ids,
                      .n_ids = (int32_t)t.tokens.n,
                      .length = t.item->longest,
                      .drawn = cost->sampled > 0 ? SIZE_MAX : 0,
                      .drawn_length = t.item->longest,
                      .besides = between ? time_between : NULL,
                      .user = &t};
    KS_TRY(ks_rates_measure(&rates, &of, err));
    sum_up(&t, size, &rates, cost);
done:
    ks_tokens_free(&t.tokens);
    free(t.bounds);
    free(t.parts);
    return st;
}
