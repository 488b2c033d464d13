/* cmd_probe.c - keystep probe: activations and labels in, probes of every
 * layer and position, baselines and the per-layer table out. */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../probes/export.h"
#include "../../probes/table.h"
#include "probe_dry.h"
#include "probe_options.h"
#include "sections.h"

enum {
    KEY_RIVAL = KS_KEY_OWN,
    KEY_SCORES,
    KEY_STRATA,
    KEY_FOLDS,
    KEY_INNER,
    KEY_SEEDS,
    KEY_STRENGTHS,
    KEY_BOOTSTRAP,
    KEY_NO_TEXT,
    KEY_ANALYSES,
    KEY_PROBES,
    KEY_GRADED,
    KEY_PROTOCOL,
    KEY_RATES,
    KEY_CELLS,
    KEY_NEED
};

enum { MAX_RIVALS = 16, MAX_SCORES = 16 };

typedef struct input {
    ks_cli_common common;
    const char *strata;
    char *rival_names[MAX_RIVALS]; /* owned */
    const char *rival_paths[MAX_RIVALS];
    ks_given_scores scores[MAX_SCORES]; /* strings owned */
    int n_scores, n_rivals, folds, inner, seeds, bootstrap, n_strengths;
    double strengths[KS_MAX_STRENGTHS];
    uint32_t analyses;
    const char *cells;
    bool no_text, need;
    ks_kinds_options kinds;
    ks_refined_options refined;
    ks_cli_stages stages;
} input;

/* ------------------------------------------------------------------ options */

const struct argp_option ks_cmd_probe_options[] = {
    KS_CLI_ACTS,
    KS_CLI_LABELS,
    KS_CLI_LABELS_ON,
    KS_CLI_CLEAN,
    KS_CLI_CHAINS,
    {"out", KS_KEY_OUT, "FOLDER", 0,
     "for table.md, metrics.csv, summary.json and probes.h5", 0},
    KS_CLI_FORCE,
    {"streams", KS_KEY_STREAMS, "LIST", 0,
     "of resid, attn, mlp (default: all in the file)", 0},
    {"positions", KS_KEY_POSITIONS, "LIST", 0,
     "of mean, first, middle, last, before (default: all in the file)", 0},
    KS_CLI_LAYERS,
    {"baseline-acts", KEY_RIVAL, "FILE", 0,
     "NAME=FILE: other activations of the same steps, compared on the same "
     "rows and "
     "folds, e.g. 'random weights=random.h5'; may be repeated",
     0},
    {"baseline-scores", KEY_SCORES, "FILE", 0,
     "NAME=FILE: scores of the same steps as a baseline: label lines with "
     "\"scores\", "
     "such as keystep score writes; NAME=FILE:FIELD+..: these fields of them "
     "(default: all); may be repeated",
     0},
    {"strata", KEY_STRATA, "FIELD", 0,
     "a field of the label lines, a list with one value a step: important "
     "steps "
     "of each value against all removable ones",
     0},
    {"folds", KEY_FOLDS, "N", 0, "folds made of problems (default 5)", 0},
    {"inner-folds", KEY_INNER, "N", 0,
     "parts of the training folds that choose strength and layer (default: one "
     "less than the folds)",
     0},
    {"seeds", KEY_SEEDS, "N", 0, "splits, their scores averaged (default 1)",
     0},
    {"strengths", KEY_STRENGTHS, "LIST", 0,
     "C of scikit-learn (default: 8 values from 1e-4 to 10)", 0},
    {"bootstrap", KEY_BOOTSTRAP, "N", 0,
     "draws of problems for intervals (default 2000)", 0},
    {"analyses", KEY_ANALYSES, "LIST", 0,
     "of refinement, layer-transfer, layers-needed, selectivity, "
     "learning-curve, surface; all (default) or none",
     0},
    {"probes", KEY_PROBES, "LIST", 0,
     "kinds beside l2, which always runs. Trained with AdamW: linear, mlp "
     "(256x2; on the mean over the layers behind the embeddings), lw-linear, "
     "lw-mlp (128; on those layers side by side), linear-layer, mlp-layer "
     "(128; one for each layer). lw-mlp:1024, mlp:128x5: other units, and "
     "hidden layers, each half as wide as the one before. Concept directions: "
     "mean-difference, lda. l1: how few dimensions carry the signal. "
     "attention: "
     "over the step's tokens (capture --positions mean,tokens), on each fold's "
     "best layer at mean; attention:all: on all layers",
     0},
    {"graded", KEY_GRADED, "SCORE,..", 0,
     "scores of the label lines, such as influence,drop, to regress on "
     "activations, on all steps that have them, labelled or not",
     0},
    {"protocol", KEY_PROTOCOL, "honest|published", 0,
     "published: also the published protocol, with all steps from it to the "
     "honest one, for --probes (default: linear,mlp,lw-linear,lw-mlp), and the "
     "published text baselines",
     0},
    {"published-rates", KEY_RATES, "LIST", 0,
     "learning rates of the published protocol (default 3e-4); of several the "
     "best on the evaluation steps, as the published code does",
     0},
    {"no-text", KEY_NO_TEXT, NULL, 0,
     "leave out the word baselines, the slowest part on long texts", 0},
    {"seed", KS_KEY_SEED, "N", 0,
     "of the first split; the next ones count up (default 1)", 0},
    {"cells", KEY_CELLS, "FOLDER", 0,
     "where fits of the layers, of --baseline-acts and of trained --probes are "
     "kept, a file each: those that are there are taken, the others made; the "
     "same command goes on where one was ended, and other analyses reuse them",
     0},
    {"shard", KS_KEY_SHARD, "K/N", 0,
     "only make the K-th of N shares of --cells, and no table; --out is not "
     "needed. Any number of processes may, on one folder",
     0},
    {"need-cells", KEY_NEED, NULL, 0,
     "make none: a missing one of --cells is an error", 0},
    KS_CLI_BACKEND,
    {"memory", KS_KEY_MEMORY, "BYTES", 0,
     "most that it may take beyond what it starts with, e.g. 2G: layers that "
     "do not fit are read from a scratch file in --out; with a device, most of "
     "its memory (default: all)",
     0},
    KS_CLI_THREADS,
    {"dry-run", KS_KEY_DRY_RUN, NULL, 0,
     "say what it would cost and stop: all is read and checked, a layer or a "
     "few are fitted, and nothing is written; --out is not needed",
     0},
    KS_CLI_JSON,
    KS_CLI_QUIET,
    {0}};

static const char *analysis_name(int i) {
    return ks_analysis_name((ks_analysis)i);
}

static void read_analyses(input *in, const char *text,
                          struct argp_state *state) {
    if (strcmp(text, "none") == 0)
        in->analyses = 0;
    else if (strcmp(text, "all") == 0)
        in->analyses = (1u << KS_N_ANALYSES) - 1;
    else
        in->analyses =
            ks_cli_names(text, analysis_name, KS_N_ANALYSES, "analyses", state);
}

static void read_protocol(input *in, const char *text,
                          struct argp_state *state) {
    in->kinds.published = strcmp(text, "published") == 0;
    if (!in->kinds.published && strcmp(text, "honest") != 0)
        argp_error(state, "--protocol is honest or published, got '%s'", text);
}

static void read_probes(input *in, const char *text, struct argp_state *state) {
    ks_err err = {0};
    ks_status st = ks_probe_words_read(text, &in->kinds, &in->refined, &err);
    if (st != KS_OK) argp_error(state, "--probes: %s", err.text);
}

static void read_graded(input *in, const char *text, struct argp_state *state) {
    ks_err err = {0};
    if (ks_graded_read(text, &in->refined, &err) != KS_OK)
        argp_error(state, "--graded: %s", err.text);
}

static void read_rates(input *in, const char *text, struct argp_state *state) {
    in->kinds.n_rates = 0;
    for (const char *at = text; at;) {
        char *end;
        double rate = strtod(at, &end);
        if (end == at || (*end && *end != ',') || !(rate > 0 && rate <= 1) ||
            in->kinds.n_rates == KS_MOST_RATES) {
            argp_error(state,
                       "--published-rates takes up to %d numbers above 0 and "
                       "up to 1 such as 3e-5,3e-4,3e-3, got '%s'",
                       KS_MOST_RATES, text);
            return;
        }
        in->kinds.rates[in->kinds.n_rates++] = rate;
        at = *end ? end + 1 : NULL;
    }
}

static void read_rival(input *in, const char *text, struct argp_state *state) {
    const char *equals = strchr(text, '=');
    if (!equals || equals == text || !equals[1]) {
        argp_error(state, "--baseline-acts takes NAME=FILE, got '%s'", text);
        return;
    }
    if (in->n_rivals == MAX_RIVALS) {
        argp_error(state, "more than %d --baseline-acts", MAX_RIVALS);
        return;
    }
    in->rival_names[in->n_rivals] = strndup(text, (size_t)(equals - text));
    in->rival_paths[in->n_rivals++] = equals + 1;
}

/* NAME=FILE[:FIELD+..]; a colon ahead of the last slash is the file's. */
static void read_scores(input *in, const char *text, struct argp_state *state) {
    const char *equals = strchr(text, '=');
    if (!equals || equals == text || !equals[1]) {
        argp_error(state,
                   "--baseline-scores takes NAME=FILE or NAME=FILE:FIELD, got "
                   "'%s'",
                   text);
        return;
    }
    if (in->n_scores == MAX_SCORES) {
        argp_error(state, "more than %d --baseline-scores", MAX_SCORES);
        return;
    }
    ks_given_scores *s = &in->scores[in->n_scores++];
    const char *path = equals + 1, *colon = strrchr(path, ':');
    if (colon && strchr(colon, '/')) colon = NULL;
    s->name = strndup(text, (size_t)(equals - text));
    s->path = colon ? strndup(path, (size_t)(colon - path)) : strdup(path);
    s->fields = colon ? strdup(colon + 1) : NULL;
    if (!s->name || !s->path || (colon && !s->fields))
        argp_failure(state, KS_EXIT_FAILED, 0, "out of memory");
}

static void check(input *in, struct argp_state *state) {
    const ks_cli_common *c = &in->common;
    bool writes = !c->shard.n && !c->dry_run;
    const char *missing = !c->acts            ? "--acts"
                          : !c->out && writes ? "--out"
                                              : NULL;
    if (missing) argp_error(state, "%s is missing", missing);
    if (!in->cells && (c->shard.n || in->need))
        argp_error(state, "--%s needs --cells",
                   c->shard.n ? "shard" : "need-cells");
    if (c->shard.n && in->need)
        argp_error(state, "--shard makes cells, --need-cells makes none");
    if (c->positions & 1u << KS_TOKENS)
        argp_error(state, "position 'tokens' has no row a step: probes take "
                          "mean, first, middle, last, before");
    ks_cli_clean(c, state);
    if (in->refined.n_graded && !c->labels)
        argp_error(state, "--graded needs --labels");
    if (in->kinds.n_rates && !in->kinds.published)
        argp_error(state, "--published-rates needs --protocol published");
    if (in->kinds.published) ks_kinds_default(&in->kinds);
    if (!in->inner) in->inner = in->folds - 1;
    if (in->inner >= in->folds)
        argp_error(state, "--inner-folds %d: at most one less than --folds %d",
                   in->inner, in->folds);
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_RIVAL:
        read_rival(in, arg, state);
        return 0;
    case KEY_SCORES:
        read_scores(in, arg, state);
        return 0;
    case KEY_STRATA:
        in->strata = arg;
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
    case KEY_ANALYSES:
        read_analyses(in, arg, state);
        return 0;
    case KEY_PROBES:
        read_probes(in, arg, state);
        return 0;
    case KEY_GRADED:
        read_graded(in, arg, state);
        return 0;
    case KEY_PROTOCOL:
        read_protocol(in, arg, state);
        return 0;
    case KEY_RATES:
        read_rates(in, arg, state);
        return 0;
    case KEY_NO_TEXT:
        in->no_text = true;
        return 0;
    case KEY_CELLS:
        if (!*arg) argp_error(state, "--cells: a folder's name is empty");
        in->cells = arg;
        return 0;
    case KEY_NEED:
        in->need = true;
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

static const char *const file_names[] = {"table.md", "metrics.csv",
                                         "summary.json", "probes.h5"};
enum { TABLE, CSV, JSON, H5, N_FILES };

static ks_status write_all(const input *in, const ks_evaluation *evaluation,
                           char *paths[N_FILES], ks_err *err) {
    ks_status st = KS_OK;
    ks_cli_tables out = {0};
    KS_TRY(ks_table_write(evaluation, true, &out.markdown, err));
    KS_TRY(ks_table_write(evaluation, false, &out.shown, err));
    KS_TRY(ks_export_csv(evaluation, &out.csv, err));
    KS_TRY(ks_export_json(evaluation, &out.json, err));
    KS_TRY(ks_export_h5(evaluation, paths[H5], err));
    KS_TRY(ks_cli_tables_write(&out, paths[TABLE], paths[CSV], paths[JSON],
                               in->common.json, err));
done:
    ks_cli_tables_free(&out);
    return st;
}

/* ---------------------------------------------------------------------- run */

static void say(const ks_evaluation *r) {
    if (r->dataset->n_chains_unlabelled)
        ks_log(KS_LOG_INFO, "probe: %d chains of %s have no label line",
               r->dataset->n_chains_unlabelled, r->options->paths.acts);
    ks_log(KS_LOG_INFO,
           "probe: %d fits, at most %d passes each, %d above the "
           "tolerance",
           r->grid.columns, r->grid.passes, r->grid.unconverged);
    if (r->other_unconverged)
        ks_log(KS_LOG_INFO,
               "probe: %d of %d fits of baselines, controls, analyses, other "
               "probes and activations above the tolerance",
               r->other_unconverged, r->other_fits);
}

static void say_of_cells(void *user, const char *sentence) {
    (void)user;
    ks_log(KS_LOG_INFO, "probe: %s", sentence);
}

/* The line that a share of cells ends with. */
static void tell_share(const input *in, const ks_cell_counts *n) {
    const ks_shard shard = in->common.shard;
    if (in->common.json)
        ks_cli_print_json(json_pack(
            "{s:s,s:i,s:i,s:I,s:I,s:I,s:I}", "cells", in->cells, "shard",
            (int)shard.k, "of", (int)shard.n, "all", (json_int_t)n->all,
            "share", (json_int_t)n->share, "there", (json_int_t)n->there,
            "made", (json_int_t)n->made));
    else
        printf("%s: shard %d/%d: %lld of %lld cells, %lld were there, %lld "
               "made\n",
               in->cells, (int)shard.k, (int)shard.n, (long long)n->share,
               (long long)n->all, (long long)n->there, (long long)n->made);
}

/* The host's share of --memory. What is freed goes back at once, or the
 * allocator would keep some of it beside what is taken next. */
static ks_room bound_memory(const ks_cli_common *c, const char *scratch) {
    ks_room room = {
        .limit = c->memory, .start = ks_process_bytes(), .scratch = scratch};
    if (ks_cli_on_device(c->backend)) room.limit = 0;
    if (room.limit) mallopt(M_MMAP_THRESHOLD, 256 << 10);
    if (room.limit) mallopt(M_TRIM_THRESHOLD, 256 << 10);
    return room;
}

/* Where rows lie that do not fit. A dry run makes no folder, and has them where
 * one is. */
static const char *scratch_of(const input *in) {
    const char *temporary = getenv("TMPDIR");
    if (in->common.dry_run) return temporary ? temporary : "/tmp";
    return in->common.shard.n ? in->cells : in->common.out;
}

static ks_status run(input *in, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &in->common;
    char *paths[N_FILES] = {NULL};
    bool made = false;
    ks_dev *dev = NULL;
    const struct ks_ops *ops = NULL;
    ks_evaluation evaluation = {0};
    ks_cell_counts counts = {0};
    ks_evaluation_options options = {
        .paths = {.acts = c->acts,
                  .labels = c->labels,
                  .chains = c->chains,
                  .strata = in->strata,
                  .clean = c->clean},
        .grid = {.nest = {.n_strengths = in->n_strengths,
                          .strengths = in->strengths,
                          .threads = c->threads,
                          .keep_weights = true},
                 .streams = c->streams,
                 .positions = c->positions,
                 .bootstrap = in->bootstrap,
                 .seed = c->seed,
                 .progress = ks_cli_stage_show,

                 .user = &in->stages},
        .n_folds = in->folds,
        .n_inner = in->inner,
        .n_seeds = in->seeds,
        .n_rivals = in->n_rivals,
        .rival_names = (const char *const *)in->rival_names,
        .rival_paths = in->rival_paths,
        .n_scores = in->n_scores,
        .scores = in->scores,
        .analyses = in->analyses,
        .no_text = in->no_text,
        .cells = {.folder = in->cells,
                  .need = in->need,
                  .shard = c->shard.k,
                  .of = c->shard.n,
                  .say = say_of_cells},
        .counts = &counts,
        .kinds = in->kinds,
        .refined = in->refined,
        .layers_of = ks_cli_layers,
        .layers = c->layers,
        .begin = ks_cli_stage_begin,
        .end = ks_cli_stage_end};
    bool share = c->shard.n != 0;
    options.grid.room = bound_memory(c, scratch_of(in));
    if (!share && !c->dry_run)
        KS_TRY(ks_cli_folder(c->out, c->force, N_FILES, file_names, paths,
                             &made, err));
    if (ks_cli_on_device(c->backend)) {
        KS_TRY(ks_dev_open(&dev, &ops, c->backend, c->threads, NULL, err));
        KS_TRY(ks_dev_limit(dev, c->memory, "--backend cpu needs none", err));
        options.grid.nest.ops = ops, options.grid.nest.dev = dev;
    }
    if (c->dry_run) {
        st = ks_cli_probe_cost(&options, c->json, err);
        goto done;
    }
    st = share ? ks_evaluate_share(&options, err)
               : ks_evaluate(&evaluation, &options, err);
    KS_CHECK(st != KS_INTERRUPTED || !in->cells, KS_INTERRUPTED,
             "interrupted; %lld cells were made, and the same command goes on "
             "from what is in %s",
             (long long)counts.made, in->cells);
    KS_CHECK(st != KS_INTERRUPTED, KS_INTERRUPTED,
             "interrupted; nothing is written to %s, and the same command "
             "starts again",
             c->out);
    KS_TRY(st);
    if (share) {
        tell_share(in, &counts);
        goto done;
    }
    say(&evaluation);
    KS_TRY(write_all(in, &evaluation, paths, err));
    ks_log(KS_LOG_INFO, "probe: %s has all tables, %s every figure",
           paths[TABLE], paths[JSON]);
done:
    ks_evaluation_free(&evaluation);
    ks_dev_close(&dev, ops);
    if (st != KS_OK && made) rmdir(c->out); /* stays unless it is empty */
    for (int i = 0; i < N_FILES; i++) free(paths[i]);
    return st;
}

int ks_cmd_probe(int argc, char **argv) {
    static const struct argp argp = {
        ks_cmd_probe_options,
        parse,
        "--acts FILE --out FOLDER",
        "Trains an L2-regularised logistic regression on every layer and "
        "position of an activation file, tests it on problems it never saw, "
        "and prints balanced accuracies beside those of baselines.\v"
        "Without --labels the file's own labels are used. --chains adds the "
        "baselines that need text.",
        NULL,
        NULL,
        NULL};
    input in = {.folds = 5,
                .seeds = 1,
                .bootstrap = 2000,
                .analyses = (1u << KS_N_ANALYSES) - 1,
                .n_strengths = KS_DEFAULT_STRENGTHS};
    ks_err err = {0};
    ks_cli_common_init(&in.common);
    in.common.seed = 1;
    ks_nest_default_strengths(in.strengths);
    int code = ks_cli_parse(&argp, "probe", argc, argv, &in);
    if (code == KS_EXIT_DONE && run(&in, &err) != KS_OK)
        code = ks_cli_failed("probe", &err);
    for (int i = 0; i < in.n_rivals; i++) free(in.rival_names[i]);
    for (int i = 0; i < in.n_scores; i++) {
        free((char *)(uintptr_t)in.scores[i].name);
        free((char *)(uintptr_t)in.scores[i].path);
        free((char *)(uintptr_t)in.scores[i].fields);
    }
    return code;
}
