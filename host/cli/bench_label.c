/* bench_label.c - keystep bench label: what labelling asks of a model, part by
 * part on the same chains, in turn.
 *   prefixes    K samples behind every prefix of a chain and the cue: sampled
 *               sufficiency
 *   exact       the answer's probability behind each: exact sufficiency
 *   drop        its log-probability behind the whole chain, and behind the
 *               chain without each step
 *   influences  the chain's influence matrix, by gradients
 * Questions are put as keystep label puts them, through one session that
 * computes once what they have in common; no answer is looked at, so any model
 * and any chains do. */
#include <stdlib.h>
#include <string.h>

#include "../../probes/influence.h"
#include "../session.h"
#include "../tokenizer.h"
#include "bench.h"

typedef enum part { PREFIXES, EXACT, DROP, INFLUENCES, N_PARTS } part;
static const char *const part_names[N_PARTS] = {"prefixes", "exact", "drop",
                                                "influences"};

static const char CUE[] = " Therefore, the final answer is \\boxed{";
static const char ANSWER[] = "12}";
enum { MAX_NEW = 8, MOST_ACTIVE = 512 };

/* What one run of a part did. */
typedef struct figures {
    double seconds;
    int64_t questions, samples; /* sets of steps; completions */
    int64_t tokens;             /* through the model, forward and backward */
} figures;

typedef struct label_bench {
    ks_bench *bench;
    ks_bench_source source;
    ks_engine *engine;
    ks_tokenizer *tokenizer;
    ks_chains chains;
    ks_bench_tokens *tokens; /* [chains.n] */
    ks_tokens cue, answer;
    int32_t *ids; /* of all questions of a part, end to end */
    size_t n_ids, ids_capacity;
    ks_request *requests;
    size_t n_requests, requests_capacity;
    double *matrix; /* of the longest chain */
    int32_t longest, samples;
    figures *runs[N_PARTS]; /* [pairs] */
} label_bench;

/* ---------------------------------------------------------------- questions */

static ks_status add_ids(label_bench *b, const int32_t *ids, size_t n,
                         ks_err *err) {
    ks_status st = ks_grow(&b->ids, &b->ids_capacity, b->n_ids + n,
                           sizeof *b->ids, "questions", err);
    if (st != KS_OK) return st;
    memcpy(b->ids + b->n_ids, ids, n * sizeof *ids);
    b->n_ids += n;
    return KS_OK;
}

/* The first p steps, without one of them (-1: none), and the cue. prompt is
 * left to a later turn: ids may move while they grow. */
static ks_status ask(label_bench *b, const ks_bench_tokens *t, int32_t p,
                     int32_t without, part what, ks_err *err) {
    ks_status st = KS_OK;
    size_t begin = b->n_ids;
    int32_t wanted = what == PREFIXES ? b->samples : 1;
    int32_t gap = without < 0 ? t->bounds[p] : t->bounds[without];
    int32_t on = without < 0 ? t->bounds[p] : t->bounds[without + 1];
    KS_TRY(add_ids(b, t->ids, (size_t)gap, err));
    KS_TRY(add_ids(b, t->ids + on, (size_t)(t->bounds[p] - on), err));
    KS_TRY(add_ids(b, b->cue.ids, b->cue.n, err));
    int32_t from = (int32_t)(b->n_ids - begin);
    if (what != PREFIXES) KS_TRY(add_ids(b, b->answer.ids, b->answer.n, err));
    int32_t n = (int32_t)(b->n_ids - begin);
    b->longest = KS_MAX(b->longest, n + (what == PREFIXES ? MAX_NEW : 0));
    KS_TRY(ks_grow(&b->requests, &b->requests_capacity,
                   b->n_requests + (size_t)wanted, sizeof *b->requests,
                   "questions", err));
    for (int32_t k = 0; k < wanted; k++) {
        b->requests[b->n_requests] =
            (ks_request){.n_prompt = n,
                         .stream = b->n_requests,
                         .group = (int32_t)b->n_requests - k,
                         .max_new = MAX_NEW,
                         .tag = begin,
                         .ask = what == PREFIXES ? KS_ASK_SAMPLE
                                : what == EXACT  ? KS_ASK_SHARE
                                                 : KS_ASK_SCORE,
                         .from = from};
        b->n_requests++;
    }
done:
    return st;
}

static ks_status ask_all(label_bench *b, part what, int64_t *questions,
                         ks_err *err) {
    ks_status st = KS_OK;
    b->n_ids = b->n_requests = 0;
    b->longest = 1;
    *questions = 0;
    for (size_t i = 0; i < b->chains.n; i++) {
        const ks_bench_tokens *t = &b->tokens[i];
        /* the longest first: it computes what the others share */
        for (int32_t p = t->n_steps; p > 0 && what != DROP; p--, ++*questions)
            KS_TRY(ask(b, t, p, -1, what, err));
        for (int32_t j = -1; j < t->n_steps && what == DROP; j++, ++*questions)
            KS_TRY(ask(b, t, t->n_steps, j, what, err));
    }
    for (size_t i = 0; i < b->n_requests; i++)
        b->requests[i].prompt = b->ids + b->requests[i].tag;
done:
    return st;
}

static ks_status take(void *user, const ks_request *request,
                      const ks_answer *answer, ks_err *err) {
    (void)user;
    (void)request;
    (void)answer;
    (void)err;
    return KS_OK;
}

static ks_status run_questions(label_bench *b, part what, figures *f,
                               ks_err *err) {
    ks_status st = KS_OK;
    ks_session *session = NULL;
    ks_generate_options options = {.temperature = 0.6f,
                                   .top_p = 0.95f,
                                   .max_new = MAX_NEW,
                                   .seed = b->bench->in->common.seed,
                                   .memory = b->bench->in->common.memory,
                                   .room = b->bench->in->common.memory,
                                   .most_active = MOST_ACTIVE};
    double start = ks_seconds();
    KS_TRY(ask_all(b, what, &f->questions, err));
    KS_TRY(ks_session_open(&session, b->engine, &options, b->longest,
                           what != PREFIXES, err));
    for (size_t i = 0; i < b->n_requests; i++)
        KS_TRY(ks_session_add(session, &b->requests[i], err));
    KS_TRY(ks_session_run(session, take, NULL, NULL, err));
    f->tokens = ks_session_stats(session)->computed;
    f->samples = what == PREFIXES ? (int64_t)b->n_requests : 0;
    f->seconds = ks_seconds() - start;
done:
    ks_session_close(&session);
    return st;
}

/* Backward every target goes through the tokens that it reaches. */
static int64_t reached(const ks_bench_tokens *t) {
    int64_t n = t->bounds[t->n_steps];
    for (int32_t k = 1; k < t->n_steps; k++)
        if (t->bounds[k + 1] > t->bounds[k])
            n += t->bounds[k + 1] - 1 - t->bounds[0];
    return n;
}

static ks_status run_influences(label_bench *b, figures *f, ks_err *err) {
    ks_status st = KS_OK;
    const ks_influence_how how = {.kind = KS_INFLUENCE_GRADIENT};
    ks_influence_job *job = NULL;
    double start = ks_seconds();
    KS_TRY(ks_influence_open(&job, b->engine, err));
    for (size_t i = 0; i < b->chains.n; i++) {
        const ks_bench_tokens *t = &b->tokens[i];
        KS_TRY(ks_influence_of(job, t->ids, t->n_tokens, t->bounds, t->n_steps,
                               &how, b->matrix, err));
        f->tokens += reached(t);
        f->questions++;
    }
    f->seconds = ks_seconds() - start;
done:
    ks_influence_close(&job);
    return st;
}

/* Every part once; each leads in its turn. pair < 0: places the weights. */
static ks_status run_pair(label_bench *b, int pair, ks_err *err) {
    ks_status st = KS_OK;
    for (int k = 0; k < N_PARTS; k++) {
        part what = (part)((k + KS_MAX(pair, 0)) % N_PARTS);
        figures f = {0};
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        if (what == INFLUENCES)
            KS_TRY(run_influences(b, &f, err));
        else
            KS_TRY(run_questions(b, what, &f, err));
        if (pair >= 0) b->runs[what][pair] = f;
    }
done:
    return st;
}

/* -------------------------------------------------------------------- table */

static ks_status add_row(const label_bench *b, part what, json_t *pair,
                         const figures *f, double all, ks_err *err) {
    int64_t steps = 0, tokens = 0;
    for (size_t i = 0; i < b->chains.n; i++) {
        steps += b->tokens[i].n_steps;
        tokens += b->tokens[i].n_tokens;
    }
    return ks_bench_row(
        b->bench,
        json_pack("{s:s,s:o,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:o,s:f,s:f,s:f}",
                  "what", part_names[what], "pair", pair, "model",
                  b->engine->model->name, "chains", (json_int_t)b->chains.n,
                  "steps", (json_int_t)steps, "chain_tokens",
                  (json_int_t)tokens, "questions", (json_int_t)f->questions,
                  "samples", (json_int_t)f->samples, "tokens",
                  (json_int_t)f->tokens, "seconds", f->seconds, "samples_per_s",
                  f->samples ? json_real((double)f->samples / f->seconds)
                             : json_null(),
                  "tokens_per_s", (double)f->tokens / f->seconds,
                  "chain_seconds", f->seconds / (double)b->chains.n,
                  "share_of_parts", f->seconds / all),
        err);
}

static double sum_of(const label_bench *b, int pair) {
    double all = 0;
    for (int k = 0; k < N_PARTS; k++) all += b->runs[k][pair].seconds;
    return all;
}

static ks_status write_rows(label_bench *b, int pairs, ks_err *err) {
    ks_status st = KS_OK;
    double *values = NULL, all = 0, median[N_PARTS];
    KS_TRY(ks_alloc(&values, (size_t)pairs, sizeof *values, "figures", err));
    for (int i = 0; i < pairs; i++)
        for (int k = 0; k < N_PARTS; k++)
            KS_TRY(add_row(b, (part)k, json_integer(i + 1), &b->runs[k][i],
                           sum_of(b, i), err));
    for (int k = 0; k < N_PARTS; k++) {
        for (int i = 0; i < pairs; i++) values[i] = b->runs[k][i].seconds;
        median[k] = ks_bench_spread(values, pairs).median;
        all += median[k];
    }
    for (int k = 0; k < N_PARTS; k++) {
        figures f = b->runs[k][0];
        f.seconds = median[k];
        KS_TRY(add_row(b, (part)k, json_string("all"), &f, all, err));
    }
done:
    free(values);
    return st;
}

/* ------------------------------------------------------------------ command */

static ks_status open_chains(label_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    size_t most = 0;
    KS_TRY(ks_chains_read(&b->chains, b->source.chains, KS_KEEP_FIELDS, err));
    KS_TRY(ks_alloc(&b->tokens, b->chains.n, sizeof *b->tokens, "chains", err));
    for (size_t i = 0; i < b->chains.n; i++) {
        KS_TRY(ks_bench_tokenize(&b->tokens[i], b->tokenizer, &b->chains.at[i],
                                 err));
        most = KS_MAX(most, (size_t)b->tokens[i].n_steps);
    }
    KS_TRY(
        ks_alloc(&b->matrix, most * most, sizeof *b->matrix, "a matrix", err));
    KS_TRY(ks_tokenize(b->tokenizer, CUE, strlen(CUE), &b->cue, err));
    KS_TRY(ks_tokenize(b->tokenizer, ANSWER, strlen(ANSWER), &b->answer, err));
    KS_CHECK(b->answer.n > 0, KS_MISMATCH,
             "%s: its vocabulary cannot write '%s'", b->source.model, ANSWER);
done:
    return st;
}

static ks_status open_bench(label_bench *b, int pairs, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &b->bench->in->common;
    ks_engine_options options = {.backend = c->backend,
                                 .threads = c->threads,
                                 .memory = c->memory,
                                 .batch_tokens = c->batch_tokens};
    b->samples = c->samples ? c->samples : 5;
    KS_TRY(ks_bench_source_open(&b->source, b->bench->in,
                                "keystep-bench-chains.jsonl", 4, err));
    KS_TRY(ks_engine_open(&b->engine, b->source.model, &options, err));
    KS_TRY(ks_tokenizer_open(&b->tokenizer, b->source.model, err));
    KS_TRY(open_chains(b, err));
    for (int k = 0; k < N_PARTS; k++)
        KS_TRY(ks_alloc(&b->runs[k], (size_t)pairs, sizeof *b->runs[k],
                        "figures", err));
done:
    return st;
}

static void close_bench(label_bench *b) {
    for (size_t i = 0; b->tokens && i < b->chains.n; i++)
        ks_bench_tokens_free(&b->tokens[i]);
    ks_chains_free(&b->chains);
    ks_tokens_free(&b->cue);
    ks_tokens_free(&b->answer);
    ks_tokenizer_close(&b->tokenizer);
    ks_engine_close(&b->engine);
    ks_bench_source_close(&b->source);
    for (int k = 0; k < N_PARTS; k++) free(b->runs[k]);
    free(b->tokens), free(b->ids), free(b->requests), free(b->matrix);
}

ks_status ks_bench_label(ks_bench *bench, ks_err *err) {
    ks_status st = KS_OK;
    label_bench b = {.bench = bench};
    int pairs = bench->in->repeats;
    KS_TRY(open_bench(&b, pairs, err));
    for (int i = -1; i < pairs; i++) {
        KS_TRY(run_pair(&b, i, err));
        if (i >= 0)
            ks_log(KS_LOG_INFO, "pair %d of %d: %.3f s, %.3f s, %.3f s, %.3f s",
                   i + 1, pairs, b.runs[PREFIXES][i].seconds,
                   b.runs[EXACT][i].seconds, b.runs[DROP][i].seconds,
                   b.runs[INFLUENCES][i].seconds);
    }
    KS_TRY(write_rows(&b, pairs, err));
done:
    close_bench(&b);
    return st;
}
