/* cmd_score.c - keystep score: log-probabilities of a continuation, a line at a
 * time; or with --chains scores of the steps of chains. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../forward.h"
#include "../prompt.h"
#include "../score.h"
#include "cli.h"
#include "sections.h"

enum { KEY_WHAT = KS_KEY_OWN, KEY_TOKENIZER };

typedef struct input {
    ks_cli_common common;
    const char *own_tokenizer;
    uint32_t kinds;
    ks_progress *progress;
    double since; /* of *seconds */
    ks_engine *engine;
    ks_tokenizer *tokenizer;
    size_t line;      /* of standard input, from 1 */
    ks_tokens tokens; /* reused from line to line */
    ks_str text;
    int32_t *ids; /* [n_ids], a BOS in front where the model has one */
    float *logprobs;
    size_t ids_capacity, logprobs_capacity;
} input;

const struct argp_option ks_cmd_score_options[] = {
    KS_CLI_MODEL,
    KS_CLI_CHAINS,
    {"out", KS_KEY_OUT, "FILE", 0,
     "scores of the steps of --chains, a label-format line a chain; - is "
     "stdout",
     0},
    {"what", KEY_WHAT, "LIST", 0,
     "of logprob, entropy (default: both), judge, judge-step: what a step of "
     "--chains is given",
     0},
    {"problems", KS_KEY_PROBLEMS, "FILE", 0,
     "problems: the questions of chains that carry none, for the judge", 0},
    {"tokenizer", KEY_TOKENIZER, "PATH", 0,
     "tokenizer.json, when it is not the model's own", 0},
    KS_CLI_TEMPLATE,
    KS_CLI_FORCE,
    KS_CLI_RESUME,
    KS_CLI_SHARD,
    KS_CLI_BACKENDS,
    KS_CLI_THREADS,
    KS_CLI_MEMORY,
    KS_CLI_BATCH_TOKENS,
    KS_CLI_DRY_RUN,
    KS_CLI_JSON,
    KS_CLI_QUIET,
    {0}};

static void read_kinds(input *in, const char *text, struct argp_state *state) {
    in->kinds = 0;
    for (const char *at = text; at;) {
        const char *end = strchrnul(at, ',');
        size_t n = (size_t)(end - at);
        int k = 0;
        while (k < KS_SCORE_N_KINDS &&
               (strlen(ks_score_name((ks_score_kind)k)) != n ||
                strncmp(ks_score_name((ks_score_kind)k), at, n) != 0))
            k++;
        if (k == KS_SCORE_N_KINDS)
            argp_error(state,
                       "--what takes some of logprob, entropy, judge, "
                       "judge-step, got '%.*s'",
                       (int)n, at);
        in->kinds |= 1u << k;
        at = *end ? end + 1 : NULL;
    }
}

/* Plumbing takes a model and one device. */
static void check(input *in, struct argp_state *state) {
    ks_cli_common *c = &in->common;
    if (!c->model) argp_error(state, "--model is missing");
    if (c->chains) {
        if (!c->out && !c->dry_run) argp_error(state, "--out is missing");
        if (c->out && c->json && strcmp(c->out, "-") == 0)
            argp_error(state, "--json and --out - both want standard output");
        ks_cli_shard_outputs(c, (const char **[]){&c->out}, 1, state);
        return;
    }
    const char *of_chains = c->out              ? "out"
                            : in->kinds         ? "what"
                            : c->problems       ? "problems"
                            : c->template_      ? "template"
                            : in->own_tokenizer ? "tokenizer"
                            : c->resume         ? "resume"
                            : c->force          ? "force"
                            : c->dry_run        ? "dry-run"
                            : c->json           ? "json"
                            : c->shard.n        ? "shard"
                                                : NULL;
    if (of_chains)
        argp_error(state, "--%s goes with --chains, which is missing",
                   of_chains);
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_WHAT:
        read_kinds(in, arg, state);
        return 0;
    case KEY_TOKENIZER:
        in->own_tokenizer = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "too many arguments: %s", arg);
        return 0;
    case ARGP_KEY_END:
        check(in, state);
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

static const struct argp argp = {
    .options = ks_cmd_score_options,
    .parser = parse,
    .args_doc = "--model PATH\n--model PATH --chains FILE --out FILE",
    .doc =
        "Without --chains it reads {\"context\",\"continuation\"} a line and "
        "answers with the continuation's {\"ids\",\"logprobs\"}: one "
        "tokenisation of both, a token belongs to the part that holds its "
        "first byte. An empty context stands for the model's BOS.\n\n"
        "With --chains it scores every step of every chain, for keystep probe "
        "--baseline-scores.\v"
        "logprob: mean log-probability of the step's tokens. entropy: mean "
        "entropy of the distributions that gave them, in nats. judge: the "
        "model is asked whether the step is important or removable, with the "
        "question and the steps before it in view; log P(\" important\") - log "
        "P(\" removable\") as its answer, nothing is sampled. judge-step: the "
        "same of the step alone. A step without a token, or beyond the model's "
        "context, gets null. docs/method.md has the judge's text.",
};

/* Ids of context + continuation; *first: where the continuation begins. */
static ks_status read_ids(input *in, json_t *line, size_t *n, size_t *first,
                          ks_err *err) {
    ks_status st = KS_OK;
    const char *context, *continuation;
    size_t n_context, n_continuation;
    KS_TRY(ks_json_string(line, "context", "line", &context, &n_context, err));
    KS_TRY(ks_json_string(line, "continuation", "line", &continuation,
                          &n_continuation, err));
    in->text.length = 0;
    KS_TRY(ks_str_add(&in->text, context, n_context, err));
    KS_TRY(ks_str_add(&in->text, continuation, n_continuation, err));
    ks_tokens *t = &in->tokens;
    KS_TRY(ks_tokenize(in->tokenizer, in->text.data, in->text.length, t, err));
    int32_t bos = ks_tokenizer_bos(in->tokenizer);
    size_t front = 0;
    for (*first = 0; *first < t->n; (*first)++)
        if ((size_t)t->begin[*first] >= n_context) break;
    if (*first == 0 && *first < t->n) {
        KS_CHECK(bos >= 0, KS_MISMATCH,
                 "the context has no token and the model no BOS: nothing to "
                 "predict the first token from");
        front = 1;
    }
    KS_TRY(ks_grow(&in->ids, &in->ids_capacity, t->n + 1, sizeof *in->ids,
                   "ids", err));
    in->ids[0] = bos;
    if (t->n) memcpy(in->ids + front, t->ids, t->n * sizeof *in->ids);
    *first += front;
    *n = t->n + front;
done:
    return st;
}

/* The forward knows a sequence; here it is a line. */
static ks_status name_fault(const input *in, ks_status st, ks_err *err) {
    ks_fault fault = ks_run_fault(in->engine->run);
    if (st != KS_NUMERIC || fault.seq < 0) return st;
    return ks_fail(err, st,
                   "line %zu: %s layer %d: %lld values are not finite, the "
                   "first at token %d",
                   in->line, ks_stream_name(fault.stream), fault.layer,
                   (long long)fault.count, fault.token);
}

static ks_status compute(input *in, size_t n, size_t first, ks_err *err) {
    ks_status st = KS_OK;
    ks_engine *e = in->engine;
    const ks_config *c = &e->model->config;
    ks_view hidden;
    KS_CHECK(n <= (size_t)c->n_context, KS_LIMIT,
             "%zu tokens, the model's context is %d", n, c->n_context);
    for (size_t i = 0; i < n; i++)
        KS_CHECK(in->ids[i] < c->n_vocab, KS_MISMATCH,
                 "id %d, the model's vocabulary is 0 to %d: wrong tokenizer?",
                 in->ids[i], c->n_vocab - 1);
    ks_run_limits limits = {.max_tokens = (int32_t)n};
    KS_TRY(ks_engine_reserve(e, &limits, err));
    ks_seqs seqs = {1, (int32_t)n, (int32_t[]){0, (int32_t)n}, NULL, NULL,
                    0, NULL};
    st = ks_forward(e->run, &seqs, in->ids, NULL, NULL, NULL, &hidden, err);
    KS_TRY(name_fault(in, st, err));
    KS_TRY(ks_grow(&in->logprobs, &in->logprobs_capacity, n, sizeof(float),
                   "log-probabilities", err));
    ks_view rows = hidden; /* the state before a token predicts it */
    rows.data = (float *)hidden.data + (int64_t)(first - 1) * hidden.stride;
    rows.rows = (int64_t)(n - first);
    KS_TRY(ks_run_score(e->run, rows, in->ids + first, in->logprobs, err));
done:
    return st;
}

static ks_status answer(void *user, json_t *line, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    input *in = user;
    size_t n = 0, first = 0;
    in->line++;
    json_t *ids = json_array(), *logprobs = json_array();
    KS_TRY(read_ids(in, line, &n, &first, err));
    if (first < n) KS_TRY(compute(in, n, first, err));
    int bad = 0;
    for (size_t i = first; i < n; i++) {
        bad |= json_array_append_new(ids, json_integer(in->ids[i]));
        bad |= json_array_append_new(
            logprobs, json_real((double)in->logprobs[i - first]));
    }
    *out = bad ? NULL : json_pack("{sOsO}", "ids", ids, "logprobs", logprobs);
    KS_CHECK(*out, KS_NUMERIC,
             "line %zu: the log-probabilities of its %zu tokens are not finite",
             in->line, n - first);
done:
    json_decref(ids);
    json_decref(logprobs);
    return st;
}

static ks_status open_all(input *in, ks_err *err) {
    ks_status st = KS_OK;
    char *home = NULL;
    ks_engine_options options = {.backend = in->common.backend,
                                 .threads = in->common.threads,
                                 .memory = in->common.memory};
    KS_TRY(ks_model_home(&home, in->common.model, err));
    KS_TRY(ks_tokenizer_open(&in->tokenizer, home, err));
    KS_TRY(ks_engine_open(&in->engine, in->common.model, &options, err));
done:
    free(home);
    return st;
}

/* ------------------------------------------------------------------- chains
 */

static void show(void *user, size_t done, size_t all,
                 const ks_generate_stats *stats) {
    input *in = user;
    double took = ks_seconds() - in->since;
    if (!in->progress) return;
    ks_progress_rate(
        in->progress, "tok", (double)stats->computed / took,
        done ? took * (double)(all - done) / (double)done : INFINITY, false);
    ks_progress_set(in->progress, (double)done);
}

static void sum_up(const input *in, const ks_score_sum *sum) {
    if (in->common.json)
        ks_cli_print_json(json_pack(
            "{s:s,s:I,s:I,s:I,s:I,s:I,s:f}", "out", in->common.out, "chains",
            (json_int_t)sum->chains, "taken_over", (json_int_t)sum->taken_over,
            "steps", (json_int_t)sum->steps, "without",
            (json_int_t)sum->without, "computed",
            (json_int_t)sum->stats.computed, "seconds", sum->took));
    if (in->common.quiet) return;
    if (sum->without)
        ks_log(KS_LOG_INFO,
               "score: %lld of %lld steps lack a score (no token of their own, "
               "or beyond the context): null",
               (long long)sum->without, (long long)sum->steps);
    ks_log(
        KS_LOG_INFO,
        "score: %lld steps of %zu chains, %lld tokens through the model, %.1f "
        "s",
        (long long)sum->steps, sum->chains, (long long)sum->stats.computed,
        sum->took);
}

static void print_cost(const input *in, const ks_score_cost *cost,
                       uint64_t held) {
    uint64_t all = held + cost->bytes;
    if (in->common.json) {
        ks_cli_print_json(json_pack(
            "{s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:f}", "chains",
            (json_int_t)cost->chains, "walked", (json_int_t)cost->walked,
            "steps", (json_int_t)cost->steps, "computed",
            (json_int_t)cost->computed, "held_bytes", (json_int_t)held,
            "memory_bytes", (json_int_t)all, "tokens_per_second", cost->read,
            "seconds", cost->seconds));
        return;
    }
    printf("%zu chains of %lld steps: about %lld tokens go through the model",
           cost->chains, (long long)cost->steps, (long long)cost->computed);
    if (cost->walked < cost->chains)
        printf(", counted on %zu chains", cost->walked);
    puts(".");
    if (cost->read > 0)
        printf("That takes about %s at %.0f tok/s, as measured on a short "
               "piece of them.\n",
               ks_cli_time_of(cost->seconds).text, cost->read);
    ks_cli_print_memory(held, all);
}

static ks_status dry_run(const input *in, ks_score_job *job, ks_err *err) {
    ks_status st = KS_OK;
    ks_score_cost cost;
    KS_TRY(ks_score_estimate(job, &cost, err));
    uint64_t held = ks_cli_resident_now().peak;
    KS_TRY(ks_score_measure(job, &cost, err));
    print_cost(in, &cost, held);
done:
    return st;
}

static ks_status score_chains(input *in, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &in->common;
    const uint32_t both = 1u << KS_SCORE_LOGPROB | 1u << KS_SCORE_ENTROPY;
    ks_score_job *job = NULL;
    ks_score_sum sum;
    ks_score_options options = {
        .model = c->model,
        .tokenizer = in->own_tokenizer,
        .chains = c->chains,
        .problems = c->problems,
        .out = c->out,
        .kinds = in->kinds ? in->kinds : both,
        .force = c->force,
        .resume = c->resume,
        .shard = c->shard,
        .memory = c->memory,
        .engine = {.backend = c->backend,
                   .threads = c->threads,
                   .memory = ks_cli_on_device(c->backend) ? c->memory : 0,
                   .batch_tokens = c->batch_tokens}};
    if (c->template_)
        KS_TRY(ks_template_find(c->template_, &options.which, err));
    KS_TRY(ks_score_open(&job, &options, err));
    if (c->dry_run) {
        st = dry_run(in, job, err);
        goto done;
    }
    in->progress =
        ks_progress_open("score", "chain", (double)ks_score_chains(job));
    in->since = ks_seconds();
    st = ks_score_run(job, show, in, &sum, err);
    ks_progress_close(&in->progress);
    KS_TRY(st);
    sum_up(in, &sum);
done:
    ks_score_close(&job);
    return st;
}

/* --------------------------------------------------------------------- all */

int ks_cmd_score(int argc, char **argv) {
    input in = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "score", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    ks_err err = {0};
    if (in.common.chains) {
        if (score_chains(&in, &err) != KS_OK)
            code = ks_cli_failed("score", &err);
        return code;
    }
    if (open_all(&in, &err) == KS_OK)
        code = ks_cli_lines(answer, &in);
    else
        code = ks_cli_failed("score", &err);
    ks_tokens_free(&in.tokens);
    ks_str_free(&in.text);
    free(in.ids);
    free(in.logprobs);
    ks_tokenizer_close(&in.tokenizer);
    ks_engine_close(&in.engine);
    return code;
}
