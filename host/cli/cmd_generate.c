/* cmd_generate.c - keystep generate: problems in, reasoning chains out.
 *
 * Chains go to OUT.part as they end, in any order; when all are there OUT is
 * written whole, in the order of the problems. --resume takes over what
 * OUT.part has. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../generate.h"
#include "cli.h"

enum { KEY_INSTRUCTION = KS_KEY_OWN, KEY_TOKENIZER };

typedef struct input {
    ks_cli_common common;
    const char *instruction, *tokenizer;
} input;

static const struct argp_option option_list[] = {
    KS_CLI_MODEL,
    KS_CLI_PROBLEMS,
    KS_CLI_OUT,
    KS_CLI_FORCE,
    KS_CLI_RESUME,
    KS_CLI_SAMPLES,
    KS_CLI_TEMPERATURE,
    KS_CLI_TOP_P,
    KS_CLI_TOP_K,
    KS_CLI_MAX_NEW,
    KS_CLI_TEMPLATE,
    KS_CLI_SEED,
    KS_CLI_BACKENDS,
    KS_CLI_THREADS,
    KS_CLI_MEMORY,
    KS_CLI_BATCH_TOKENS,
    KS_CLI_DRY_RUN,
    KS_CLI_JSON,
    KS_CLI_QUIET,
    {"instruction", KEY_INSTRUCTION, "TEXT", 0,
     "what the user's turn asks ahead of the problem (default: to solve it and "
     "to put the final answer in \\boxed{}; empty: nothing)",
     0},
    {"tokenizer", KEY_TOKENIZER, "PATH", 0,
     "tokenizer.json, when it is not the model's own", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_INSTRUCTION:
        in->instruction = arg;
        return 0;
    case KEY_TOKENIZER:
        in->tokenizer = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "too many arguments: %s", arg);
        return 0;
    case ARGP_KEY_END:
        if (!in->common.model) argp_error(state, "--model is missing");
        if (!in->common.problems) argp_error(state, "--problems is missing");
        if (!in->common.out && !in->common.dry_run)
            argp_error(state, "--out is missing");
        if (in->common.json && in->common.out &&
            strcmp(in->common.out, "-") == 0)
            argp_error(state, "--json and --out - both want standard output");
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

static const struct argp argp = {
    .options = option_list,
    .parser = parse,
    .args_doc = "--model PATH --problems FILE --out FILE",
    .doc = "Lets a model solve problems and writes its reasoning as chains, "
           "JSON Lines. Greedy unless --temperature is given. A draw depends "
           "on seed, problem, sample and place only.",
};

/* Everything of one call; chain i is sample i % samples of problem
 * i / samples. */
typedef struct work {
    const input *in;
    ks_engines engines;
    ks_engine *engine; /* the first of them */
    ks_tokenizer *tokenizer;
    ks_prompt prompt;
    ks_problems problems;
    int32_t samples;
    size_t n, n_done;     /* chains */
    json_t **chains;      /* [n], NULL: not there yet */
    ks_str *prompts;      /* [problems] */
    ks_tokens *tokens;    /* [problems] */
    ks_request *requests; /* [n_requests] */
    size_t *places;       /* [n_requests] chain of a request */
    size_t n_requests;
    int64_t n_prompt_tokens; /* of all requests */
    ks_str *names;           /* [problems] */
    ks_generate_options options;
    ks_compose compose;
    json_t *settings;
    ks_part part;
    const char *from; /* what is taken over: OUT.part, or OUT */
    ks_progress *progress;
    ks_generate_stats stats;
} work;

/* ------------------------------------------------------------------- opening
 */

static ks_status open_model(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &w->in->common;
    char *home = NULL;
    ks_template which = KS_TEMPLATE_AUTO;
    /* All of a device's memory; of the host's at most a half for buffers, keys
     * and values take the rest. */
    bool device = ks_cli_on_device(c->backend);
    ks_engine_options options = {.backend = c->backend,
                                 .threads = c->threads,
                                 .memory = device ? c->memory : c->memory / 2,
                                 .batch_tokens = c->batch_tokens};
    if (c->template_) KS_TRY(ks_template_find(c->template_, &which, err));
    KS_TRY(ks_model_home(&home, c->model, err));
    KS_TRY(ks_tokenizer_open(&w->tokenizer,
                             w->in->tokenizer ? w->in->tokenizer : home, err));
    KS_TRY(ks_prompt_open(&w->prompt, c->model, w->tokenizer, which, err));
    if (w->in->instruction) w->prompt.instruction = w->in->instruction;
    KS_TRY(ks_engines_open(&w->engines, c->model, &options, err));
    w->engine = w->engines.at[0];
done:
    free(home);
    return st;
}

static ks_status settle(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &w->in->common;
    ks_model_info info = ks_engine_info(w->engine);
    double temperature = c->temperature < 0 ? 0 : c->temperature;
    double top_p = c->top_p < 0 ? 1 : c->top_p;
    w->options = (ks_generate_options){.temperature = (float)temperature,
                                       .top_p = (float)top_p,
                                       .top_k = c->top_k,
                                       .max_new = c->max_new,
                                       .seed = c->seed,
                                       .stops = w->prompt.stops,
                                       .n_stops = w->prompt.n_stops,
                                       .memory = c->memory,
                                       .room = c->memory};
    w->settings =
        json_pack("{s:f,s:f,s:i,s:i,s:I,s:s,s:s,s:s}", "temperature",
                  temperature, "top_p", top_p, "top_k", c->top_k, "max_new",
                  c->max_new, "seed", (json_int_t)c->seed, "template",
                  ks_template_name(w->prompt.which), "model_sha256",
                  info.sha256, "tokenizer", ks_tokenizer_hash(w->tokenizer));
    KS_CHECK(w->settings, KS_NOMEM, "out of memory for settings");
    w->compose =
        (ks_compose){w->tokenizer, w->prompt.which, info.name, w->settings};
done:
    return st;
}

static ks_status prepare_prompts(work *w, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = w->problems.n;
    int32_t context = w->engine->model->config.n_context;
    int32_t vocabulary = w->engine->model->config.n_vocab;
    KS_TRY(ks_alloc(&w->prompts, n, sizeof *w->prompts, "prompts", err));
    KS_TRY(ks_alloc(&w->tokens, n, sizeof *w->tokens, "prompts", err));
    for (size_t i = 0; i < n; i++) {
        const ks_problem *p = &w->problems.at[i];
        ks_str *text = &w->prompts[i];
        KS_TRY(ks_prompt_render(&w->prompt, p->question, text, err));
        KS_TRY(ks_tokenize(w->tokenizer, text->data, text->length,
                           &w->tokens[i], err));
        KS_CHECK(w->tokens[i].n > 0 && w->tokens[i].n < (size_t)context,
                 KS_LIMIT,
                 "%s: problem %s: its prompt has %zu tokens, the model's "
                 "context is %d",
                 w->in->common.problems, p->id, w->tokens[i].n, context);
        for (size_t t = 0; t < w->tokens[i].n; t++)
            KS_CHECK(w->tokens[i].ids[t] < vocabulary, KS_MISMATCH,
                     "%s: problem %s has token id %d; the model's vocabulary "
                     "is 0 to %d: the tokenizer does not fit the model",
                     w->in->common.problems, p->id, w->tokens[i].ids[t],
                     vocabulary - 1);
    }
done:
    return st;
}

/* ------------------------------------------------------------------ resuming
 */

static ks_status adopt(void *user, size_t line, json_t *object, ks_err *err) {
    ks_status st = KS_OK;
    work *w = user;
    char where[320], other[512];
    const char *text, *id = json_string_value(json_object_get(object, "id"));
    const char *problem = json_string_value(json_object_get(object, "problem"));
    const ks_problem *p =
        problem ? ks_problems_find(&w->problems, problem) : NULL;
    size_t length = problem ? strlen(problem) : 0;
    char *end = NULL;
    snprintf(where, sizeof where, "%.280s line %zu",
             w->from ? w->from : w->part.path, line);
    KS_CHECK(p && id && strncmp(id, problem, length) == 0 && id[length] == '/',
             KS_MISMATCH, "%s: not a chain of these problems", where);
    long sample = strtol(id + length + 1, &end, 10);
    KS_CHECK(!*end && end != id + length + 1 && sample >= 0 &&
                 sample < w->samples,
             KS_MISMATCH, "%s: sample %s of 0 to %d", where, id + length + 1,
             w->samples - 1);
    snprintf(other, sizeof other, "%s was sampled with other settings", where);
    KS_TRY(ks_json_same(w->settings, json_object_get(object, "sampling"), other,
                        err));
    KS_TRY(ks_json_string(object, "text", where, &text, &length, err));
    KS_TRY(ks_json_string(object, "prompt", where, &text, &length, err));
    const ks_str *prompt = &w->prompts[p - w->problems.at];
    KS_CHECK(length == prompt->length &&
                 memcmp(text, prompt->data, length) == 0,
             KS_MISMATCH,
             "%s: chain %s was sampled from another prompt: a question, an "
             "instruction or the template was other",
             where, id);
    size_t at =
        (size_t)(p - w->problems.at) * (size_t)w->samples + (size_t)sample;
    if (w->chains[at]) goto done;
    w->chains[at] = json_incref(object);
    w->n_done++;
done:
    return st;
}

/* An OUT that is there already, all of it and the same, stays: *whole. */
static ks_status look_at_whole(work *w, bool *whole, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &w->in->common;
    w->from = c->out;
    KS_TRY(ks_jsonl_read(c->out, adopt, w, err));
    KS_CHECK(w->n_done == w->n, KS_MISMATCH,
             "%s is whole with %zu of the %zu chains that are asked for",
             c->out, w->n_done, w->n);
    *whole = true;
done:
    if (st == KS_OK) return st;
    if (!c->force) return ks_fail_more(err, st, "; --force overwrites it");
    for (size_t i = 0; i < w->n; i++) {
        json_decref(w->chains[i]);
        w->chains[i] = NULL;
    }
    w->n_done = 0;
    return ks_part_begin(&w->part, err);
}

static ks_status take_up(work *w, bool *whole, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &w->in->common;
    ks_found found;
    *whole = false;
    st = ks_part_open(&w->part, c->out, c->resume, c->force, adopt, w, &found,
                      err);
    if (st == KS_OK && found == KS_FOUND_WHOLE)
        st = look_at_whole(w, whole, err);
    else if (st == KS_MISMATCH || st == KS_FORMAT)
        ks_fail_more(err, st, "; --force without --resume starts afresh");
    return st;
}

static ks_status list_requests(work *w, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_alloc(&w->requests, w->n, sizeof *w->requests, "requests", err));
    KS_TRY(ks_alloc(&w->places, w->n, sizeof *w->places, "requests", err));
    KS_TRY(ks_alloc(&w->names, w->problems.n, sizeof *w->names, "names", err));
    for (size_t p = 0; p < w->problems.n; p++)
        KS_TRY(ks_str_printf(&w->names[p], err, "problem %s",
                             w->problems.at[p].id));
    for (size_t i = 0; i < w->n; i++) {
        if (w->chains[i]) continue;
        size_t p = i / (size_t)w->samples;
        int32_t sample = (int32_t)(i % (size_t)w->samples);
        ks_request *request = &w->requests[w->n_requests];
        *request = (ks_request){.prompt = w->tokens[p].ids,
                                .n_prompt = (int32_t)w->tokens[p].n,
                                .group = (int32_t)p,
                                .name = w->names[p].data};
        KS_TRY(ks_philox_stream(&request->stream, w->problems.at[p].id, "",
                                sample, err));
        w->places[w->n_requests++] = i;
        w->n_prompt_tokens += (int64_t)w->tokens[p].n;
    }
done:
    return st;
}

/* ------------------------------------------------------------------- running
 */

static ks_status keep(void *user, size_t request, const int32_t *ids, int32_t n,
                      ks_finish finish, ks_err *err) {
    ks_status st = KS_OK;
    work *w = user;
    size_t at = w->places[request], p = at / (size_t)w->samples;
    KS_TRY(ks_compose_chain(&w->compose, &w->problems.at[p],
                            (int32_t)(at % (size_t)w->samples),
                            w->prompts[p].data, w->prompts[p].length, ids, n,
                            finish, &w->chains[at], err));
    KS_TRY(ks_part_add(&w->part, w->chains[at], err));
    w->n_done++;
    ks_progress_set(w->progress, (double)w->n_done);
done:
    return st;
}

/* Chains end late: what moves meanwhile are prompts, then tokens. */
static void show(void *user, const ks_generate_stats *so_far) {
    work *w = user;
    int64_t all = w->n_prompt_tokens;
    if (so_far->prompts < all)
        ks_progress_note(w->progress, "prompts %lld%%",
                         (long long)(100 * so_far->prompts / all));
    else
        ks_progress_note(w->progress, "%lld tok", (long long)so_far->sampled);
    ks_progress_set(w->progress, (double)w->n_done);
}

static ks_status write_all(work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks_str all = {0};
    KS_TRY(ks_str_add(&all, "", 0, err));
    for (size_t i = 0; i < w->n; i++)
        KS_TRY(ks_jsonl_add(&all, w->chains[i], err));
    KS_TRY(ks_write_out(w->in->common.out, all.data, all.length, true, err));
    ks_part_close(&w->part, true);
done:
    ks_str_free(&all);
    return st;
}

/* Takes the reference. */
static void print_json(json_t *object) {
    json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(object);
}

static void print_sums(const work *w, size_t unfinished, double took) {
    const ks_generate_stats *s = &w->stats;
    print_json(json_pack(
        "{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f}", "chains", (json_int_t)w->n,
        "unfinished", (json_int_t)unfinished, "sampled", (json_int_t)s->sampled,
        "computed", (json_int_t)s->computed, "prompt_tokens",
        (json_int_t)w->n_prompt_tokens, "shared_tokens", (json_int_t)s->shared,
        "batches", (json_int_t)s->batches, "preempted",
        (json_int_t)s->preempted, "seconds", took));
}

static void sum_up(const work *w, double took) {
    size_t finished = 0, correct = 0, judged = 0;
    long long retokenized = 0;
    for (size_t i = 0; i < w->n; i++) {
        const json_t *c = w->chains[i];
        const json_t *right = json_object_get(c, "correct");
        finished += json_is_true(json_object_get(c, "finished"));
        judged += json_is_boolean(right);
        correct += json_is_true(right);
        retokenized += json_integer_value(json_object_get(c, "retokenized"));
    }
    ks_log(KS_LOG_INFO,
           "%zu chains, %zu unfinished, %zu of %zu right; %lld tokens sampled "
           "(%.0f a second), %lld prompt tokens shared, %lld ids differ when "
           "the text is tokenised again",
           w->n, w->n - finished, correct, judged, (long long)w->stats.sampled,
           took > 0 ? (double)w->stats.sampled / took : 0,
           (long long)w->stats.shared, retokenized);
    if (w->in->common.json) print_sums(w, w->n - finished, took);
}

static void say_plan(const work *w) {
    int64_t prompts = 0;
    size_t longest = 0;
    for (size_t i = 0; i < w->problems.n; i++) {
        prompts += (int64_t)w->tokens[i].n;
        longest = KS_MAX(longest, w->tokens[i].n);
    }
    if (w->in->common.json) {
        print_json(json_pack("{s:I,s:i,s:s,s:I,s:I}", "problems",
                             (json_int_t)w->problems.n, "samples", w->samples,
                             "template", ks_template_name(w->prompt.which),
                             "prompt_tokens", (json_int_t)prompts,
                             "longest_prompt", (json_int_t)longest));
        return;
    }
    printf("%zu problems x %d samples, template %s, %lld prompt tokens, the "
           "longest prompt has %zu\n",
           w->problems.n, w->samples, ks_template_name(w->prompt.which),
           (long long)prompts, longest);
}

static ks_status check_files(const input *in, ks_err *err) {
    const ks_cli_common *c = &in->common;
    const ks_use uses[] = {{"--out", c->out, true},
                           {"--problems", c->problems, false},
                           {"--model", c->model, false},
                           {"--tokenizer", in->tokenizer, false}};
    return ks_refuse_overlap(uses, KS_COUNT(uses), err);
}

static ks_status run(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &w->in->common;
    bool whole;
    KS_TRY(check_files(w->in, err));
    KS_TRY(ks_problems_read(&w->problems, c->problems, KS_KEEP_FIELDS, err));
    KS_TRY(open_model(w, err));
    KS_TRY(settle(w, err));
    w->samples = c->samples ? c->samples : 1;
    w->n = w->problems.n * (size_t)w->samples;
    KS_TRY(ks_alloc(&w->chains, w->n, sizeof *w->chains, "chains", err));
    KS_TRY(prepare_prompts(w, err));
    if (c->dry_run) {
        say_plan(w);
        return KS_OK;
    }
    KS_TRY(take_up(w, &whole, err));
    if (whole) {
        ks_log(KS_LOG_INFO, "%s is already whole", c->out);
        sum_up(w, 0);
        return KS_OK;
    }
    KS_TRY(list_requests(w, err));
    if (!c->quiet)
        w->progress = ks_progress_open("generate", "chain", (double)w->n);
    w->options.progress = show;
    double start = ks_seconds();
    st = ks_generate_on(&w->engines, &w->options, w->requests, w->n_requests,
                        keep, w, &w->stats, err);
    ks_progress_close(&w->progress);
    KS_CHECK(st != KS_INTERRUPTED || !w->part.path, KS_INTERRUPTED,
             "%s keeps %zu of %zu chains; --resume goes on from there",
             w->part.path, w->n_done, w->n);
    KS_TRY(st);
    KS_TRY(write_all(w, err));
    sum_up(w, ks_seconds() - start);
done:
    return st;
}

static void finish(work *w) {
    for (size_t i = 0; w->chains && i < w->n; i++) json_decref(w->chains[i]);
    for (size_t i = 0; w->prompts && i < w->problems.n; i++)
        ks_str_free(&w->prompts[i]);
    for (size_t i = 0; w->tokens && i < w->problems.n; i++)
        ks_tokens_free(&w->tokens[i]);
    for (size_t i = 0; w->names && i < w->problems.n; i++)
        ks_str_free(&w->names[i]);
    ks_part_close(&w->part, false);
    free(w->chains);
    free(w->prompts);
    free(w->tokens);
    free(w->requests);
    free(w->places);
    free(w->names);
    json_decref(w->settings);
    ks_prompt_close(&w->prompt);
    ks_problems_free(&w->problems);
    ks_tokenizer_close(&w->tokenizer);
    ks_engines_close(&w->engines);
}

int ks_cmd_generate(int argc, char **argv) {
    input in = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "generate", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    work w = {.in = &in};
    ks_err err = {0};
    if (run(&w, &err) != KS_OK) code = ks_cli_failed("generate", &err);
    finish(&w);
    return code;
}
