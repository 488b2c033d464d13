/* cmd_capture.c - keystep capture: chains in, activations of every layer in
 * HDF5 out. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../capture.h"
#include "cli.h"
#include "sections.h"

enum { KEY_RANDOM = KS_KEY_OWN, KEY_TRUNCATE, KEY_TOKENIZER };

typedef struct input {
    ks_cli_common common;
    const char *tokenizer;
    int64_t random_weights;
    bool truncate;
} input;

const struct argp_option ks_cmd_capture_options[] = {
    KS_CLI_MODEL,
    KS_CLI_CHAINS,
    KS_CLI_LABELS,
    KS_CLI_LABELS_ON,
    KS_CLI_CLEAN,
    {"out", KS_KEY_OUT, "FILE", 0, "the activations, HDF5", 0},
    KS_CLI_FORCE,
    KS_CLI_RESUME,
    KS_CLI_SHARD,
    KS_CLI_STREAMS,
    KS_CLI_POSITIONS,
    KS_CLI_CONTEXT,
    KS_CLI_DTYPE,
    KS_CLI_BACKENDS,
    KS_CLI_THREADS,
    KS_CLI_MEMORY,
    KS_CLI_BATCH_TOKENS,
    KS_CLI_DRY_RUN,
    KS_CLI_JSON,
    KS_CLI_QUIET,
    {"tokenizer", KEY_TOKENIZER, "PATH", 0,
     "tokenizer.json, when it is not the model's own", 0},
    {"truncate", KEY_TRUNCATE, NULL, 0,
     "cut chains at the model's context instead of refusing them", 0},
    {"random-weights", KEY_RANDOM, "SEED", 0,
     "control: the model's shapes with weights drawn anew", 0},
    {0}};

static void check(input *in, struct argp_state *state) {
    ks_cli_common *c = &in->common;
    const char *missing = !c->model    ? "--model"
                          : !c->chains ? "--chains"
                          : !c->out    ? "--out"
                                       : NULL;
    if (missing) argp_error(state, "%s is missing", missing);
    if (c->out && strcmp(c->out, "-") == 0)
        argp_error(state, "--out takes a file: HDF5 is not written to a pipe");
    if (c->context_none && c->positions & 1u << KS_BEFORE)
        argp_error(state, "position 'before' needs --context full");
    ks_cli_clean(c, state);
    ks_cli_shard_outputs(c, (const char **[]){&c->out}, 1, state);
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_RANDOM:
        in->random_weights =
            ks_cli_whole(arg, 0, INT64_MAX, "random-weights", state);
        return 0;
    case KEY_TRUNCATE:
        in->truncate = true;
        return 0;
    case KEY_TOKENIZER:
        in->tokenizer = arg;
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

/* ------------------------------------------------------------------- output */

static void print_bytes(const char *what, uint64_t bytes, const char *note) {
    char text[32];
    ks_cli_bytes(text, bytes);
    printf("%-10s %s%s\n", what, text, note);
}

/* What a capture takes of memory, at its peak. */
typedef struct memory {
    uint64_t held; /* resident once all is planned: program, model, chains */
    uint64_t all;
} memory;

static memory measure(const ks_capture_cost *cost) {
    ks_cli_resident resident = ks_cli_resident_now();
    memory m = {.held = resident.now};
    m.all = KS_MAX(resident.peak, m.held + cost->run_bytes +
                                      cost->thread_bytes + cost->store_bytes);
    return m;
}

static double seconds_of(const ks_capture_cost *cost, double rate) {
    return (double)(cost->tokens - cost->shared) / rate;
}

static void print_cost(const ks_capture_cost *cost, const memory *m,
                       double rate) {
    printf("%-10s %lld with %lld steps\n", "chains", (long long)cost->chains,
           (long long)cost->steps);
    printf("%-10s %lld in %lld batches", "tokens", (long long)cost->tokens,
           (long long)cost->batches);
    if (cost->shared)
        printf("; %lld of them are other chains' too and computed once",
               (long long)cost->shared);
    putchar('\n');
    print_bytes("file", cost->file_bytes, "");
    print_bytes("memory", m->all, " at the peak, of it:");
    print_bytes("  held", m->held,
                " of program, model, chains, tokens and steps");
    print_bytes("  run", cost->run_bytes, " of buffers for a batch");
    print_bytes("  threads", cost->thread_bytes, " of scratch and stacks");
    print_bytes("  store", cost->store_bytes, " on the way to the file");
    print_bytes("weights", cost->model_bytes,
                ", mapped from the model's files");
    printf("%-10s about %.0f s at %.0f tok/s, measured on a short forward\n",
           "time", seconds_of(cost, rate), rate);
}

/* more: taken over */
static void print_json(const ks_capture_cost *cost, const memory *m,
                       json_t *more) {
    json_t *object = json_pack(
        "{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "chains",
        (json_int_t)cost->chains, "steps", (json_int_t)cost->steps, "tokens",
        (json_int_t)cost->tokens, "shared_tokens", (json_int_t)cost->shared,
        "batches", (json_int_t)cost->batches, "invalid_steps",
        (json_int_t)cost->invalid, "truncated_chains",
        (json_int_t)cost->truncated, "file_bytes", (json_int_t)cost->file_bytes,
        "memory_bytes", (json_int_t)m->all, "model_bytes",
        (json_int_t)cost->model_bytes);
    json_object_update(object, more);
    json_decref(more);
    ks_cli_print_json(object);
}

static void warn(const ks_capture_job *job) {
    const ks_capture_cost *cost = &job->cost;
    if (cost->truncated)
        ks_log(KS_LOG_INFO, "capture: %lld %s cut at the model's context",
               (long long)cost->truncated,
               job->options.context_none ? "steps were" : "chains were");
    if (cost->invalid)
        ks_log(KS_LOG_INFO,
               "capture: %lld of %lld steps have no token to show "
               "(rows NaN, valid 0)",
               (long long)cost->invalid, (long long)cost->steps);
    if (job->options.labels && cost->unlabelled)
        ks_log(KS_LOG_INFO, "capture: %lld of %lld steps have no label",
               (long long)cost->unlabelled, (long long)cost->steps);
}

/* --------------------------------------------------------------------- runs */

static ks_status dry_run(ks_capture_job *job, bool json, ks_err *err) {
    double rate;
    memory m = measure(&job->cost);
    ks_status st = ks_capture_rate(job, &rate, err);
    if (st != KS_OK) return st;
    if (json)
        print_json(&job->cost, &m,
                   json_pack("{s:f,s:f}", "tokens_per_second", rate, "seconds",
                             seconds_of(&job->cost, rate)));
    else
        print_cost(&job->cost, &m, rate);
    return KS_OK;
}

static void show(void *user, int64_t done, int64_t all) {
    (void)all;
    ks_progress_set(user, (double)done);
}

static ks_status capture(ks_capture_job *job, bool json, ks_err *err) {
    int64_t resumed = 0;
    memory m = measure(&job->cost);
    double start = ks_seconds();
    ks_progress *progress =
        ks_progress_open("capture", "tok", (double)job->cost.tokens);
    ks_status st = ks_capture_run(job, show, progress, &resumed, err);
    ks_progress_close(&progress);
    if (st != KS_OK) return st;
    double seconds = ks_seconds() - start;
    struct stat info; /* the plan's figure is an upper bound */
    if (stat(job->options.out, &info) == 0)
        job->cost.file_bytes = (uint64_t)info.st_size;
    if (resumed)
        ks_log(KS_LOG_INFO, "capture: %lld of %lld steps were there already",
               (long long)resumed, (long long)job->cost.steps);
    if (json) {
        print_json(&job->cost, &m,
                   json_pack("{s:f,s:f,s:f}", "open_seconds",
                             job->cost.open_seconds, "plan_seconds",
                             job->cost.plan_seconds, "seconds", seconds));
        return KS_OK;
    }
    char bytes[32];
    ks_cli_bytes(bytes, job->cost.file_bytes);
    printf("%s: %lld steps of %lld chains, %s\n", job->options.out,
           (long long)job->cost.steps, (long long)job->cost.chains, bytes);
    return KS_OK;
}

int ks_cmd_capture(int argc, char **argv) {
    static const struct argp argp = {
        .options = ks_cmd_capture_options,
        .parser = parse,
        .args_doc = "--model PATH --chains FILE --out FILE",
        .doc = "Runs the chains through the model and stores the activations "
               "of every layer, pooled over steps, in one HDF5 file. Chains "
               "need \"steps\": keystep split makes them.\v"
               "An interrupted capture goes on with --resume; the file is then "
               "the same byte for byte. --labels stores labels in the file; "
               "keystep probe can also take them later."};
    input in = {.random_weights = -1};
    ks_err err = {0};
    ks_capture_job *job = NULL;
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "capture", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    const ks_cli_common *c = &in.common;
    ks_capture_options options = {.model = c->model,
                                  .tokenizer = in.tokenizer,
                                  .chains = c->chains,
                                  .labels = c->labels,
                                  .clean = c->clean,
                                  .out = c->out,
                                  .streams = c->streams,
                                  .positions = c->positions,
                                  .dtype = c->dtype,
                                  .context_none = c->context_none,
                                  .truncate = in.truncate,
                                  .force = c->force,
                                  .resume = c->resume,
                                  .shard = c->shard,
                                  .random_weights = in.random_weights,
                                  .engine = {.backend = c->backend,
                                             .threads = c->threads,
                                             .memory = c->memory,
                                             .batch_tokens = c->batch_tokens}};
    const ks_use uses[] = {
        {"--out", c->out, true},        {"--chains", c->chains, false},
        {"--labels", c->labels, false}, {"--clean", c->clean, false},
        {"--model", c->model, false},   {"--tokenizer", in.tokenizer, false}};
    ks_status st = ks_refuse_overlap(uses, KS_COUNT(uses), &err);
    /* before minutes of reading: the answer will not change */
    if (st == KS_OK && !c->resume && !c->dry_run)
        st = ks_refuse_existing(c->out, c->force, &err);
    if (st == KS_OK) st = ks_capture_open(&job, &options, &err);
    if (st == KS_OK) {
        warn(job);
        st = c->dry_run ? dry_run(job, c->json, &err)
                        : capture(job, c->json, &err);
    }
    ks_capture_close(&job);
    return st == KS_OK ? KS_EXIT_DONE : ks_cli_failed("capture", &err);
}
