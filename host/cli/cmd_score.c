/* cmd_score.c - keystep score: log-probabilities of a continuation. */
#include <stdlib.h>
#include <string.h>

#include "../forward.h"
#include "../prompt.h"
#include "cli.h"

typedef struct input {
    ks_cli_common common;
    ks_engine *engine;
    ks_tokenizer *tokenizer;
    size_t line;      /* of standard input, from 1 */
    ks_tokens tokens; /* reused from line to line */
    ks_str text;
    int32_t *ids; /* [n_ids], a BOS in front where the model has one */
    float *logprobs;
    size_t ids_capacity, logprobs_capacity;
} input;

static const struct argp_option option_list[] = {
    KS_CLI_MODEL, KS_CLI_BACKEND, KS_CLI_THREADS, KS_CLI_MEMORY, {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    if (key == ARGP_KEY_ARG) argp_error(state, "too many arguments: %s", arg);
    if (key == ARGP_KEY_END && !in->common.model)
        argp_error(state, "--model is missing");
    return ks_cli_common_key(&in->common, key, arg, state);
}

static const struct argp argp = {
    .options = option_list,
    .parser = parse,
    .args_doc = "--model PATH",
    .doc = "Reads {\"context\",\"continuation\"} a line and answers with the "
           "continuation's {\"ids\",\"logprobs\"}: one tokenisation of both, "
           "a token belongs to the part that holds its first byte. An empty "
           "context stands for the model's BOS.",
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

int ks_cmd_score(int argc, char **argv) {
    input in = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "score", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    ks_err err = {0};
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
