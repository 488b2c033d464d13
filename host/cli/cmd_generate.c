/* cmd_generate.c - keystep generate: problems in, reasoning chains out.
 *
 * Chains go to OUT.part as they end, in any order; when all are there OUT is
 * written whole, in the order of the problems. --resume takes over what
 * OUT.part has. */
#include <stdlib.h>
#include <string.h>

#include "generate_work.h"
#include "sections.h"

enum { KEY_INSTRUCTION = KS_KEY_OWN, KEY_TOKENIZER };
/* The method's budget of new tokens. */
enum { MOST_NEW = 8000 };

const struct argp_option ks_cmd_generate_options[] = {
    KS_CLI_MODEL,
    KS_CLI_PROBLEMS,
    KS_CLI_OUT,
    KS_CLI_FORCE,
    KS_CLI_RESUME,
    KS_CLI_SHARD,
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
    ks_generate_input *in = state->input;
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
        ks_cli_shard_outputs(&in->common, (const char **[]){&in->common.out}, 1,
                             state);
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

static const struct argp argp = {
    .options = ks_cmd_generate_options,
    .parser = parse,
    .args_doc = "--model PATH --problems FILE --out FILE",
    .doc = "Lets a model solve problems and writes its reasoning as chains, "
           "JSON Lines. Greedy unless --temperature is given. A draw depends "
           "on seed, problem, sample and place only.\v"
           "Problems whose prompt leaves no room in the model's context are "
           "left out and named. --resume takes over what an interrupted run "
           "has, if this one would make the same; where the backend, the "
           "instruction set or the program differs, with --force.",
};

/* ------------------------------------------------------------------- opening
 */

static ks_status open_model(ks_generate_work *w, ks_err *err) {
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

static ks_status settle(ks_generate_work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &w->in->common;
    ks_model_info info = ks_engine_info(w->engine);
    double temperature = c->temperature < 0 ? 0 : c->temperature;
    double top_p = c->top_p < 0 ? 1 : c->top_p;
    int max_new = c->max_new ? c->max_new : MOST_NEW;
    bool raw = w->prompt.which == KS_TEMPLATE_RAW; /* asks nothing more */
    w->options = (ks_generate_options){.temperature = (float)temperature,
                                       .top_p = (float)top_p,
                                       .top_k = c->top_k,
                                       .max_new = max_new,
                                       .seed = c->seed,
                                       .stops = w->prompt.stops,
                                       .n_stops = w->prompt.n_stops,
                                       .memory = c->memory,
                                       .room = c->memory};
    w->settings =
        json_pack("{s:f,s:f,s:i,s:i,s:I,s:s,s:s,s:s,s:s,s:s,s:s,s:s}",
                  "temperature", temperature, "top_p", top_p, "top_k", c->top_k,
                  "max_new", max_new, "seed", (json_int_t)c->seed, "template",
                  ks_template_name(w->prompt.which), "instruction",
                  raw ? "" : w->prompt.instruction, "model_sha256", info.sha256,
                  "tokenizer", ks_tokenizer_hash(w->tokenizer), "backend",
                  w->engine->ops->name, "isa", w->engine->ops->isa,
                  "program_version", KS_VERSION);
    KS_CHECK(w->settings, KS_USAGE, "--instruction is not valid UTF-8");
    w->compose =
        (ks_compose){w->tokenizer, w->prompt.which, info.name, w->settings};
done:
    return st;
}

int64_t ks__most_new(const ks_generate_work *w, size_t problem) {
    int64_t room =
        w->engine->model->config.n_context - (int64_t)w->tokens[problem].n;
    return KS_MIN(room, w->options.max_new);
}

static ks_status prepare_prompt(ks_generate_work *w, size_t i, ks_err *err) {
    ks_status st = KS_OK;
    int32_t context = w->engine->model->config.n_context;
    int32_t vocabulary = w->engine->model->config.n_vocab;
    const ks_problem *p = &w->problems.at[i];
    ks_str *text = &w->prompts[i];
    ks_tokens *tokens = &w->tokens[i];
    KS_TRY(ks_prompt_render(&w->prompt, p->question, text, err));
    KS_TRY(ks_tokenize(w->tokenizer, text->data, text->length, tokens, err));
    for (size_t t = 0; t < tokens->n; t++)
        KS_CHECK(tokens->ids[t] < vocabulary, KS_MISMATCH,
                 "%s: problem %s has token id %d; the model's vocabulary "
                 "is 0 to %d: the tokenizer does not fit the model",
                 w->in->common.problems, p->id, tokens->ids[t], vocabulary - 1);
    w->fits[i] = tokens->n == 0                 ? KS_FIT_EMPTY
                 : tokens->n >= (size_t)context ? KS_FIT_LONG
                                                : KS_FIT_GOOD;
done:
    return st;
}

static ks_status prepare_prompts(ks_generate_work *w, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = w->problems.n, good = 0;
    KS_TRY(ks_alloc(&w->prompts, n, sizeof *w->prompts, "prompts", err));
    KS_TRY(ks_alloc(&w->tokens, n, sizeof *w->tokens, "prompts", err));
    KS_TRY(ks_alloc(&w->fits, n, sizeof *w->fits, "prompts", err));
    for (size_t i = 0; i < n; i++) {
        KS_TRY(prepare_prompt(w, i, err));
        good += w->fits[i] == KS_FIT_GOOD;
        bool mine = i >= w->first && i < w->end;
        if (mine && w->fits[i] == KS_FIT_GOOD) w->n_asked += (size_t)w->samples;
        if (!mine) w->fits[i] = KS_FIT_OTHERS;
    }
    KS_CHECK(good > 0, KS_LIMIT,
             "%s: problem %s has a prompt of %zu tokens, the model's context "
             "is %d; no other problem fits either",
             w->in->common.problems, w->problems.at[0].id, w->tokens[0].n,
             w->engine->model->config.n_context);
done:
    return st;
}

/* ------------------------------------------------------------------ requests
 */

static ks_status list_requests(ks_generate_work *w, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_alloc(&w->requests, w->n, sizeof *w->requests, "requests", err));
    KS_TRY(ks_alloc(&w->places, w->n, sizeof *w->places, "requests", err));
    KS_TRY(ks_alloc(&w->names, w->problems.n, sizeof *w->names, "names", err));
    for (size_t p = 0; p < w->problems.n; p++)
        KS_TRY(ks_str_printf(&w->names[p], err, "problem %s",
                             w->problems.at[p].id));
    for (size_t i = 0; i < w->n; i++) {
        size_t p = i / (size_t)w->samples;
        if (w->chains[i] || w->fits[p] != KS_FIT_GOOD) continue;
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
        w->most_left += ks__most_new(w, p);
    }
done:
    return st;
}

/* ------------------------------------------------------------------- running
 */

static ks_status keep(void *user, size_t request, const int32_t *ids, int32_t n,
                      ks_finish finish, ks_err *err) {
    ks_status st = KS_OK;
    ks_generate_work *w = user;
    size_t at = w->places[request], p = at / (size_t)w->samples;
    KS_TRY(ks_compose_chain(&w->compose, &w->problems.at[p],
                            (int32_t)(at % (size_t)w->samples),
                            w->prompts[p].data, w->prompts[p].length, ids, n,
                            finish, &w->chains[at], err));
    KS_TRY(ks_part_add(&w->part, w->chains[at], err));
    w->n_done++;
    w->n_ended++;
    w->ended_tokens += n;
    w->most_left -= ks__most_new(w, p);
    ks_progress_set(w->progress, (double)w->n_done);
done:
    return st;
}

static void show(void *user, const ks_generate_stats *so_far) {
    ks__generate_progress(user, so_far);
}

/* What the shard's note tells. */
static ks_status describe_shard(ks_generate_work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks_sha256 *hash = NULL;
    const ks_cli_common *c = &w->in->common;
    if (!c->shard.n) return KS_OK;
    KS_TRY(ks_sha256_open(&hash, err));
    for (size_t i = 0; i < w->problems.n; i++) {
        const ks_problem *p = &w->problems.at[i];
        const char *answer = p->answer ? p->answer : "";
        ks_sha256_add(hash, p->id, strlen(p->id) + 1);
        ks_sha256_add(hash, p->question, strlen(p->question) + 1);
        ks_sha256_add(hash, p->answer ? "=" : "", 1);
        ks_sha256_add(hash, answer, strlen(answer) + 1);
    }
    ks_sha256_close(&hash, w->inputs);
    w->noted = json_copy(w->settings);
    KS_TRY(ks_json_set(w->noted, "samples", json_integer(w->samples),
                       "settings", err));
    w->note = (ks_shard_note){c->shard,   "generate",    "out",
                              "problems", w->problems.n, w->first,
                              w->end,     w->inputs,     w->noted};
done:
    return st;
}

static ks_status write_all(ks_generate_work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks_str all = {0};
    KS_TRY(ks_str_add(&all, "", 0, err));
    for (size_t i = 0; i < w->n; i++)
        if (w->chains[i]) KS_TRY(ks_jsonl_add(&all, w->chains[i], err));
    KS_TRY(ks_write_out(w->in->common.out, all.data, all.length, true, err));
    KS_TRY(ks_shard_note_write(&w->note, w->in->common.out, err));
    ks_part_close(&w->part, true);
done:
    ks_str_free(&all);
    return st;
}

static ks_status check_files(const ks_generate_input *in, ks_err *err) {
    const ks_cli_common *c = &in->common;
    const ks_use uses[] = {{"--out", c->out, true},
                           {"--problems", c->problems, false},
                           {"--model", c->model, false},
                           {"--tokenizer", in->tokenizer, false}};
    return ks_refuse_overlap(uses, KS_COUNT(uses), err);
}

static ks_status run(ks_generate_work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &w->in->common;
    bool whole;
    KS_TRY(check_files(w->in, err));
    KS_TRY(ks_problems_read(&w->problems, c->problems, KS_KEEP_FIELDS, err));
    KS_TRY(ks_shard_range(c->shard, w->problems.n, c->problems, "problems",
                          &w->first, &w->end, err));
    KS_TRY(open_model(w, err));
    KS_TRY(settle(w, err));
    w->samples = c->samples ? c->samples : 1;
    w->n = w->problems.n * (size_t)w->samples;
    KS_TRY(ks_alloc(&w->chains, w->n, sizeof *w->chains, "chains", err));
    KS_TRY(prepare_prompts(w, err));
    KS_TRY(describe_shard(w, err));
    if (c->dry_run) return ks__generate_plan(w, err);
    KS_TRY(ks__generate_take_over(w, &whole, err));
    if (whole) {
        ks_log(KS_LOG_INFO, "%s is already whole", c->out);
        ks__generate_sum_up(w, 0);
        return KS_OK;
    }
    KS_TRY(list_requests(w, err));
    w->progress = ks_progress_open("generate", "chain", (double)w->n_asked);
    w->options.progress = show;
    double start = ks_seconds();
    if (w->n_requests > 0)
        st = ks_generate_on(&w->engines, &w->options, w->requests,
                            w->n_requests, keep, w, &w->stats, err);
    ks_progress_rate(w->progress, "tok",
                     (double)w->stats.sampled / (ks_seconds() - start), 0,
                     false);
    ks_progress_close(&w->progress);
    KS_CHECK(st != KS_INTERRUPTED || !w->part.path, KS_INTERRUPTED,
             "%s keeps %zu of %zu chains; --resume goes on from there",
             w->part.path, w->n_done, w->n_asked);
    KS_TRY(st);
    KS_TRY(write_all(w, err));
    ks__generate_sum_up(w, ks_seconds() - start);
done:
    return st;
}

static void finish(ks_generate_work *w) {
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
    free(w->fits);
    free(w->tokens);
    free(w->requests);
    free(w->places);
    free(w->names);
    json_decref(w->settings);
    json_decref(w->noted);
    ks_prompt_close(&w->prompt);
    ks_problems_free(&w->problems);
    ks_tokenizer_close(&w->tokenizer);
    ks_engines_close(&w->engines);
}

int ks_cmd_generate(int argc, char **argv) {
    ks_generate_input in = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "generate", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    ks_generate_work w = {.in = &in};
    ks_err err = {0};
    if (run(&w, &err) != KS_OK) code = ks_cli_failed("generate", &err);
    finish(&w);
    return code;
}
