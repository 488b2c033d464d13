/* cmd_transfer.c - keystep transfer: probes carried across models and across
 * tasks. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../probes/transfer.h"
#include "../dev.h"
#include "probe_options.h"
#include "sections.h"

enum {
    KEY_SET = KS_KEY_OWN,
    KEY_FOLDS,
    KEY_INNER,
    KEY_SEEDS,
    KEY_STRENGTHS,
    KEY_BOOTSTRAP
};

enum { MAX_NAME = 64 };

typedef struct input {
    ks_cli_common common;
    ks_transfer_source sets[KS_MAX_SETS];
    char *owned[KS_MAX_SETS]; /* the argument, cut into its parts */
    const char *chains[KS_MAX_SETS];
    int n_sets, n_chains, folds, inner, seeds, bootstrap, n_strengths;
    double strengths[KS_MAX_STRENGTHS];
    ks_cli_stages stages;
} input;

/* ------------------------------------------------------------------ options */

const struct argp_option ks_cmd_transfer_options[] = {
    {"set", KEY_SET, "NAME=ACTS[:LABELS]", 0,
     "activations with their labels (default: the file's own, if any); twice "
     "or more. Without labels, or of random weights, a set lends its "
     "activations alone",
     0},
    {"chains", KS_KEY_CHAINS, "FILE", 0,
     "the sets' chains, JSON Lines; may be repeated. Problems of two sets that "
     "ask the same question are then known as one, whatever their ids",
     0},
    {"out", KS_KEY_OUT, "FOLDER", 0,
     "for table.md, transfer.csv and transfer.json", 0},
    KS_CLI_FORCE,
    KS_CLI_STREAMS,
    {"positions", KS_KEY_POSITIONS, "LIST", 0,
     "of mean, first, middle, last, before (default: mean)", 0},
    KS_CLI_LAYERS,
    {"folds", KEY_FOLDS, "N", 0, "folds made of problems (default 5)", 0},
    {"inner-folds", KEY_INNER, "N", 0,
     "parts of the training folds that choose strengths and layer (default: "
     "one less than the folds)",
     0},
    {"seeds", KEY_SEEDS, "N", 0, "splits, their scores averaged (default 1)",
     0},
    {"strengths", KEY_STRENGTHS, "LIST", 0,
     "C of scikit-learn (default: 8 values from 1e-4 to 10)", 0},
    {"bootstrap", KEY_BOOTSTRAP, "N", 0,
     "draws of problems for intervals (default 2000)", 0},
    {"seed", KS_KEY_SEED, "N", 0,
     "of the first split; the next ones count up (default 1)", 0},
    KS_CLI_BACKEND,
    {"memory", KS_KEY_MEMORY, "BYTES", 0,
     "most of a device's memory, e.g. 2G (default: all)", 0},
    KS_CLI_THREADS,
    KS_CLI_JSON,
    KS_CLI_QUIET,
    {0}};

static void read_set(input *in, const char *text, struct argp_state *state) {
    const char *equals = strchr(text, '=');
    if (!equals || equals == text || !equals[1] || equals - text > MAX_NAME) {
        argp_error(state,
                   "--set takes NAME=ACTS or NAME=ACTS:LABELS, a name of at "
                   "most %d bytes, got '%s'",
                   MAX_NAME, text);
        return;
    }
    if (in->n_sets == KS_MAX_SETS) {
        argp_error(state, "more than %d --set", KS_MAX_SETS);
        return;
    }
    char *copy = strdup(text);
    if (!copy) {
        argp_error(state, "out of memory for --set");
        return;
    }
    in->owned[in->n_sets] = copy;
    ks_transfer_source *s = &in->sets[in->n_sets++];
    char *acts = copy + (equals - text), *colon;
    *acts++ = 0;
    colon = strrchr(acts, ':');
    if (colon) *colon++ = 0;
    *s = (ks_transfer_source){copy, acts, colon};
    bool good = *acts && (!colon || *colon) &&
                ks_utf8_check(copy, strlen(copy)) == strlen(copy);
    for (const char *c = copy; *c; c++) good &= (unsigned char)*c >= ' ';
    if (!good)
        argp_error(state, "--set takes NAME=ACTS[:LABELS], got '%s'", text);
    for (int k = 0; k + 1 < in->n_sets; k++)
        if (strcmp(in->sets[k].name, copy) == 0)
            argp_error(state, "two sets are named '%s'", copy);
}

static void check(input *in, struct argp_state *state) {
    ks_cli_common *c = &in->common;
    if (in->n_sets < 2) argp_error(state, "--set is needed twice or more");
    if (!c->out) argp_error(state, "--out is missing");
    if (c->positions & 1u << KS_TOKENS)
        argp_error(state, "position 'tokens' has no row a step: probes take "
                          "mean, first, middle, last, before");
    if (c->memory && !ks_cli_on_device(c->backend))
        argp_error(state, "--memory bounds a device's; --backend cpu takes "
                          "what the activations of two layers need");
    if (!c->streams) c->streams = 1u << KS_RESID;
    if (!c->positions) c->positions = 1u << KS_MEAN;
    if (!in->inner) in->inner = in->folds - 1;
    if (in->inner >= in->folds)
        argp_error(state, "--inner-folds %d: at most one less than --folds %d",
                   in->inner, in->folds);
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_SET:
        read_set(in, arg, state);
        return 0;
    case KS_KEY_CHAINS:
        if (in->n_chains == KS_MAX_SETS)
            argp_error(state, "more than %d --chains", KS_MAX_SETS);
        in->chains[in->n_chains++] = arg;
        return 0;
    case KEY_FOLDS:
        in->folds = (int)ks_cli_whole(arg, 3, 32, "folds", state);
        return 0;
    case KEY_INNER:
        in->inner = (int)ks_cli_whole(arg, 2, 31, "inner-folds", state);
        return 0;
    case KEY_SEEDS:
        in->seeds = (int)ks_cli_whole(arg, 1, KS_MAX_SEEDS, "seeds", state);
        return 0;
    case KEY_STRENGTHS:
        in->n_strengths = ks_cli_strengths(in->strengths, arg, state);
        return 0;
    case KEY_BOOTSTRAP:
        in->bootstrap =
            (int)ks_cli_whole(arg, 100, 1000000, "bootstrap", state);
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

static const char *const file_names[] = {"table.md", "transfer.csv",
                                         "transfer.json"};
enum { TABLE, CSV, JSON, N_FILES };

static ks_status write_all(const input *in, const ks_transfer *transfer,
                           char *paths[N_FILES], ks_err *err) {
    ks_status st = KS_OK;
    ks_cli_tables out = {0};
    KS_TRY(ks_transfer_table(transfer, true, &out.markdown, err));
    KS_TRY(ks_transfer_table(transfer, false, &out.shown, err));
    KS_TRY(ks_transfer_csv(transfer, &out.csv, err));
    KS_TRY(ks_transfer_json(transfer, &out.json, err));
    KS_TRY(ks_cli_tables_write(&out, paths[TABLE], paths[CSV], paths[JSON],
                               in->common.json, err));
done:
    ks_cli_tables_free(&out);
    return st;
}

/* ---------------------------------------------------------------------- run */

static ks_status run(input *in, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &in->common;
    char *paths[N_FILES] = {NULL};
    bool made = false;
    ks_dev *dev = NULL;
    const struct ks_ops *ops = NULL;
    ks_transfer transfer = {0};
    ks_transfer_options options = {
        .n_sets = in->n_sets,
        .sets = in->sets,
        .n_chains = in->n_chains,
        .chains = in->chains,
        .grid = {.nest = {.n_strengths = in->n_strengths,
                          .strengths = in->strengths,
                          .threads = c->threads},
                 .streams = c->streams,
                 .positions = c->positions,
                 .bootstrap = in->bootstrap,
                 .seed = c->seed,
                 .progress = ks_cli_stage_show,

                 .user = &in->stages},
        .n_folds = in->folds,
        .n_inner = in->inner,
        .n_seeds = in->seeds,
        .layers_of = ks_cli_layers,
        .layers = c->layers,
        .begin = ks_cli_stage_begin,
        .end = ks_cli_stage_end};
    KS_TRY(ks_cli_folder(c->out, c->force, N_FILES, file_names, paths, &made,
                         err));
    if (ks_cli_on_device(c->backend)) {
        KS_TRY(ks_dev_open(&dev, &ops, c->backend, c->threads, NULL, err));
        KS_TRY(ks_dev_limit(dev, c->memory, "--backend cpu needs none", err));
        options.grid.nest.ops = ops, options.grid.nest.dev = dev;
    }
    st = ks_transfer_run(&transfer, &options, err);
    KS_CHECK(st != KS_INTERRUPTED, KS_INTERRUPTED,
             "interrupted; nothing is written to %s, and the same command "
             "starts again",
             c->out);
    KS_TRY(st);
    KS_TRY(write_all(in, &transfer, paths, err));
done:
    ks_transfer_free(&transfer);
    ks_dev_close(&dev, ops);
    if (st != KS_OK && made) rmdir(c->out); /* stays unless it is empty */
    for (int i = 0; i < N_FILES; i++) free(paths[i]);
    return st;
}

int ks_cmd_transfer(int argc, char **argv) {
    static const struct argp argp = {
        ks_cmd_transfer_options,
        parse,
        "--set NAME=ACTS[:LABELS] --set .. --out FOLDER",
        "Carries probes from one set of activations to another. Sets on the "
        "same chains are compared across models: the labels of one on the "
        "activations of another, and probes brought over unchanged by linear "
        "maps between the two spaces. Labelled sets of one model on other "
        "chains are compared across tasks: trained on one, tested on the "
        "other.",
        NULL,
        NULL,
        NULL};
    input in = {.folds = 5,
                .seeds = 1,
                .bootstrap = 2000,
                .n_strengths = KS_DEFAULT_STRENGTHS};
    ks_err err = {0};
    ks_cli_common_init(&in.common);
    in.common.seed = 1;
    ks_nest_default_strengths(in.strengths);
    int code = ks_cli_parse(&argp, "transfer", argc, argv, &in);
    if (code == KS_EXIT_DONE && run(&in, &err) != KS_OK)
        code = ks_cli_failed("transfer", &err);
    for (int i = 0; i < in.n_sets; i++) free(in.owned[i]);
    return code;
}
