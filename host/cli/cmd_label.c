/* cmd_label.c - keystep label: which steps of a chain carry the answer. */
#include <math.h>
#include <string.h>

#include "../../probes/label.h"
#include "cli.h"
#include "sections.h"
#include "label.h"

enum {
    KEY_METHOD = KS_KEY_OWN,
    KEY_INFLUENCE,
    KEY_SUFFICIENCY,
    KEY_CUE_EMPTY,
    KEY_CONFIRM,
    KEY_ORDERS,
    KEY_ENOUGH,
    KEY_RANKING,
    KEY_PREFIXES,
    KEY_SKIPPED,
    KEY_PER_TOKEN,
    KEY_OF_LOG,
    KEY_NO_DROP,
    KEY_ALL,
    KEY_COMPAT,
    KEY_ROLLOUTS,
    KEY_SUPPRESS,
    KEY_SUBSETS,
    KEY_TOKENIZER
};

typedef struct input {
    ks_cli_common common;
    ks_label_options options;
} input;

const struct argp_option ks_cmd_label_options[] = {
    KS_CLI_MODEL,
    KS_CLI_PROBLEMS,
    KS_CLI_CHAINS,
    KS_CLI_OUT,
    {"clean", KS_KEY_CLEAN, "FILE", 0,
     "the chains that the labels index: without the steps that give the "
     "answer away",
     0},
    KS_CLI_FORCE,
    KS_CLI_RESUME,
    KS_CLI_SHARD,
    /* ks_cmd_label_help makes the texts of these and of --compat */
    {"method", KEY_METHOD, "NAME", 0, "", 0},
    {"influence", KEY_INFLUENCE, "KIND", 0, "", 0},
    {"per-token", KEY_PER_TOKEN, NULL, 0,
     "influences over the root of the source's length", 0},
    {"of-log", KEY_OF_LOG, NULL, 0,
     "influences on log-probabilities in place of probabilities", 0},
    {"ranking", KEY_RANKING, "FILE", 0,
     "lines {\"chain\",\"order\",\"start\"?} of another judge, over the steps "
     "that --prefixes writes; for --method external",
     0},
    {"prefixes", KEY_PREFIXES, "FILE", 0,
     "write what another judge would rank (--ranking): question, steps of the "
     "sufficient prefix, answer",
     0},
    {"skipped", KEY_SKIPPED, "FILE", 0,
     "write which chains have no labels, and why", 0},
    {"sufficiency", KEY_SUFFICIENCY, "sampled|exact", 0,
     "share of samples that are right (default), or the probability of the "
     "answer under the same sampling",
     0},
    {"samples", KS_KEY_SAMPLES, "K", 0, "samples of a set (default: 5)", 0},
    {"confirm", KEY_CONFIRM, "N", 0,
     "fresh samples of each core (default: 20; 0: none)", 0},
    {"orders", KEY_ORDERS, "N", 0,
     "random orders beside the method (default: 3)", 0},
    {"enough", KEY_ENOUGH, "X", 0,
     "least sufficiency, attainability and necessity (default: 0.8)", 0},
    {"temperature", KS_KEY_TEMPERATURE, "X", 0, "default: 0.6", 0},
    {"top-p", KS_KEY_TOP_P, "X", 0, "default: 0.95", 0},
    KS_CLI_TOP_K,
    {"cue", KS_KEY_CUE, "TEXT", 0,
     "asks for the answer behind the kept steps (default: the template's)", 0},
    {"cue-empty", KEY_CUE_EMPTY, "TEXT", 0, "the same where no step is kept",
     0},
    {"no-drop", KEY_NO_DROP, NULL, 0,
     "without the score drop: what the answer loses without each step", 0},
    {"suppression", KEY_SUPPRESS, NULL, 0,
     "also scores by what later steps lose without attention to each", 0},
    {"subsets", KEY_SUBSETS, "N", 0,
     "also ask about all subsets of prefixes of at most N steps (to 12)", 0},
    {"rollouts", KEY_ROLLOUTS, "N", 0,
     "also scores by N continuations from before and from after each step: "
     "how far their answers differ (default: 0, none)",
     0},
    {"max-new", KS_KEY_MAX_NEW, "N", 0,
     "with --rollouts: most tokens of a continuation (default: 1024)", 0},
    {"all-prefixes", KEY_ALL, NULL, 0,
     "sufficiency of every prefix, not only up to the first that is enough", 0},
    {"compat", KEY_COMPAT, "LIST", OPTION_ARG_OPTIONAL, "", 0},
    KS_CLI_TEMPLATE,
    KS_CLI_SEED,
    KS_CLI_BACKENDS,
    KS_CLI_THREADS,
    KS_CLI_MEMORY,
    KS_CLI_BATCH_TOKENS,
    KS_CLI_DRY_RUN,
    KS_CLI_JSON,
    KS_CLI_QUIET,
    {"tokenizer", KEY_TOKENIZER, "PATH", 0,
     "tokenizer.json, when it is not the model's own", 0},
    {0}};

/* Behind the methods' names in --help. */
static const char *const method_notes[] = {
    " (default: gradients between steps)",
    " (what steps lose without attention to others)", " (orders alone)",
    " (--ranking)",
    " (no labels: sufficiency of every prefix of every chain as it is)"};
_Static_assert(KS_COUNT(method_notes) == KS_N_LABEL_METHODS, "one for each");

static const char *method_name(int i) {
    return i < KS_N_LABEL_METHODS ? ks_label_method_name((ks_label_method)i)
                                  : NULL;
}

static const char *method_note(int i) {
    return method_notes[i];
}

static const char *influence_name(int i) {
    return i < KS_N_INFLUENCES ? ks_influence_name((ks_influence_kind)i) : NULL;
}

static const char *influence_note(int i) {
    return i == 0 ? " (default)" : "";
}

/* "a, b, c" into out, each with its note (NULL: none); out.data NULL: out of
 * memory. */
static void list_names(ks_str *out, const char *front, const char *(*name)(int),
                       const char *(*note)(int)) {
    ks_status st = ks_str_printf(out, NULL, "%s", front);
    for (int i = 0; st == KS_OK && name(i); i++)
        st = ks_str_printf(out, NULL, "%s%s%s", i ? ", " : "", name(i),
                           note ? note(i) : "");
    if (st != KS_OK) ks_str_free(out);
}

/* The place of arg among the names; none is a usage error. */
static int find_name(const char *option, const char *arg,
                     const char *(*name)(int), struct argp_state *state) {
    for (int i = 0; name(i); i++)
        if (strcmp(arg, name(i)) == 0) return i;
    ks_str known = {0};
    list_names(&known, "", name, NULL);
    argp_error(state, "--%s %s: one of %s is expected", option, arg,
               known.data ? known.data : "those in --help");
    return 0;
}

/* Texts that are made of the tables; what it gives back argp frees. */
char *ks_cmd_label_help(int key, const char *help, void *user) {
    ks_str made = {0};
    (void)user;
    if (key == KEY_METHOD)
        list_names(&made, "how steps are ranked, and where removal starts: ",
                   method_name, method_note);
    else if (key == KEY_INFLUENCE)
        list_names(&made, "", influence_name, influence_note);
    else if (key == KEY_COMPAT)
        list_names(&made,
                   "as the published code, where it departs from the paper "
                   "(docs/method.md; without LIST: all): ",
                   ks_label_compat_name, NULL);
    return made.data ? made.data : (char *)help;
}

static void check(input *in, struct argp_state *state) {
    ks_cli_common *c = &in->common;
    if (!c->model) argp_error(state, "--model is missing");
    if (!c->problems) argp_error(state, "--problems is missing");
    if (!c->chains) argp_error(state, "--chains is missing");
    if (!c->out && !c->dry_run) argp_error(state, "--out is missing");
    if (!c->clean && !c->dry_run)
        argp_error(state,
                   "--clean is missing: labels index the chains written there");
    ks_label_options *o = &in->options;
    const char *outs[] = {c->out, c->clean, o->prefixes, o->skipped};
    for (size_t i = 0; i < KS_COUNT(outs); i++)
        if (c->json && !c->dry_run && outs[i] && strcmp(outs[i], "-") == 0)
            argp_error(state, "--json and labels or chains to - both want "
                              "standard output");
    if ((o->method == KS_LABEL_EXTERNAL) != !!o->ranking)
        argp_error(state, "--method external and --ranking go together");
    if (o->method == KS_LABEL_RANDOM && o->orders == 0)
        argp_error(state, "--method random takes --orders of 1 or more");
    const char **made[] = {&c->out, &c->clean, &o->prefixes, &o->skipped};
    ks_cli_shard_outputs(c, made, KS_COUNT(made), state);
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    ks_label_options *o = &in->options;
    ks_err err;
    switch (key) {
    case KEY_METHOD:
        o->method =
            (ks_label_method)find_name("method", arg, method_name, state);
        return 0;
    case KEY_INFLUENCE:
        o->influence.kind = (ks_influence_kind)find_name("influence", arg,
                                                         influence_name, state);
        return 0;
    case KEY_SUFFICIENCY:
        o->exact = strcmp(arg, "exact") == 0;
        if (!o->exact && strcmp(arg, "sampled") != 0)
            argp_error(state, "--sufficiency %s: sampled or exact is expected",
                       arg);
        return 0;
    case KEY_CUE_EMPTY:
        o->cue_empty = arg;
        return 0;
    case KEY_CONFIRM:
        o->confirm = (int32_t)ks_cli_whole(arg, 0, 10000, "confirm", state);
        return 0;
    case KEY_ORDERS:
        o->orders = (int32_t)ks_cli_whole(arg, 0, 16, "orders", state);
        return 0;
    case KEY_ENOUGH:
        o->enough = ks_cli_real(arg, 1e-6, 1, "enough", state);
        return 0;
    case KEY_RANKING:
        o->ranking = arg;
        return 0;
    case KEY_PREFIXES:
        o->prefixes = arg;
        return 0;
    case KEY_SKIPPED:
        o->skipped = arg;
        return 0;
    case KEY_PER_TOKEN:
        o->influence.per_token = true;
        return 0;
    case KEY_OF_LOG:
        o->influence.of_log = true;
        return 0;
    case KEY_NO_DROP:
        o->drop = false;
        return 0;
    case KEY_ALL:
        o->all = true;
        return 0;
    case KEY_COMPAT:
        if (ks_label_compat_find(arg ? arg : "all", &o->compat, &err) != KS_OK)
            argp_error(state, "--compat: %s", err.text);
        return 0;
    case KEY_SUPPRESS:
        o->suppress = true;
        return 0;
    case KEY_SUBSETS:
        o->subsets = (int32_t)ks_cli_whole(arg, 0, 12, "subsets", state);
        return 0;
    case KEY_ROLLOUTS:
        o->rollouts = (int32_t)ks_cli_whole(arg, 0, 1000, "rollouts", state);
        return 0;
    case KEY_TOKENIZER:
        o->tokenizer = arg;
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
    .options = ks_cmd_label_options,
    .parser = parse,
    .help_filter = ks_cmd_label_help,
    .args_doc = "--model PATH --problems FILE --chains FILE --out FILE "
                "--clean FILE\n--compare A.jsonl B.jsonl\nselect|greedy",
    .doc = "Labels each step of a chain by what the model still answers "
           "without it: 1 important, 0 removable, null in between or not "
           "measured.\vA step is removable when the answer comes without it, "
           "and others with it, from text that the model still finds probable; "
           "docs/method.md says how that is searched. What is measured "
           "depends on seed, chain and set of steps only.\n\n"
           "--compare prints how far two label files agree; select and greedy "
           "are the search alone, for matrices and oracles of others. "
           "'keystep label --compare --help', 'keystep label select --help' "
           "say more.",
};

static ks_status take_common(input *in, ks_err *err) {
    ks_status st = KS_OK;
    const ks_cli_common *c = &in->common;
    ks_label_options *o = &in->options;
    o->model = c->model;
    o->problems = c->problems;
    o->chains = c->chains;
    o->out = c->out;
    o->clean = c->clean;
    o->cue = c->cue;
    if (c->max_new) o->rollout_new = c->max_new;
    if (c->samples) o->samples = c->samples;
    if (c->temperature >= 0) o->temperature = c->temperature;
    if (c->top_p >= 0) o->top_p = c->top_p;
    o->top_k = c->top_k;
    if (c->seeded) o->seed = c->seed;
    o->force = c->force;
    o->resume = c->resume;
    o->shard = c->shard;
    o->memory = c->memory;
    o->engine = (ks_engine_options){
        .backend = c->backend,
        .threads = c->threads,
        .memory = ks_cli_on_device(c->backend) ? c->memory : 0,
        .batch_tokens = c->batch_tokens};
    if (c->template_)
        KS_TRY(ks_template_find(c->template_, &o->template_, err));
done:
    return st;
}

static void show(void *user, int64_t done, int64_t all,
                 const ks_generate_stats *stats) {
    ks_progress *progress = user;
    (void)all;
    ks_progress_note(progress, "%lld tok", (long long)stats->computed);
    ks_progress_set(progress, (double)done);
}

/* Takes the reference. */
static ks_status print_json(json_t *all, ks_err *err) {
    bool written =
        all && !json_dumpf(all, stdout, JSON_INDENT(1)) && putchar('\n') != EOF;
    json_decref(all);
    return written ? KS_OK
                   : ks_fail(err, KS_IO, "standard output: cannot write");
}

static void say_labels(const ks_label_summary *s) {
    double n = s->steps > 0 ? (double)s->steps : 1;
    ks_log(KS_LOG_INFO,
           "%lld of %lld chains labelled; of %lld steps in sufficient prefixes "
           "%.1f%% important, %.1f%% removable, %.1f%% in between; %lld cores "
           "fail with fresh samples",
           (long long)s->labelled, (long long)s->chains, (long long)s->steps,
           100 * (double)s->important / n, 100 * (double)s->removable / n,
           100 * (double)s->unlabelled / n, (long long)s->unconfirmed);
    ks_log(KS_LOG_INFO,
           "steps that give the answer away were cut: %lld of labelled chains, "
           "%lld of others",
           (long long)s->cut, (long long)s->cut_of_others);
}

static void sum_up(const input *in, const ks_label_summary *s) {
    bool curve = in->options.method == KS_LABEL_CURVE;
    if (s->whole) {
        ks_log(KS_LOG_INFO, "%s is already whole: %lld of %lld chains %s",
               in->common.out, (long long)(curve ? s->curves : s->labelled),
               (long long)s->chains, curve ? "with curves" : "labelled");
        return;
    }
    for (int i = KS_SKIP_NONE + 1; i < KS_N_SKIPS; i++)
        if (s->skipped[i] > 0)
            ks_log(KS_LOG_INFO, "%lld chains %s", (long long)s->skipped[i],
                   ks_label_skip_name((ks_label_skip)i));
    if (curve)
        ks_log(KS_LOG_INFO, "%lld of %lld chains with curves",
               (long long)s->curves, (long long)s->chains);
    else
        say_labels(s);
    ks_log(KS_LOG_INFO,
           "%lld questions, %lld answers from an interrupted run; %lld tokens "
           "through the model (%.0f a second), %lld shared, %lld sampled, "
           "%lld scored",
           (long long)s->asked, (long long)s->resumed,
           (long long)s->stats.computed,
           s->seconds > 0 ? (double)s->stats.computed / s->seconds : 0,
           (long long)s->stats.shared, (long long)s->stats.sampled,
           (long long)s->stats.scored);
}

/* Ids of the chains without labels, by reason. */
static json_t *skipped_of(const ks_label_job *job) {
    json_t *by = json_object();
    for (int64_t i = 0; by && i < ks_label_chains(job); i++) {
        const char *id;
        ks_label_skip why = ks_label_skipped(job, i, &id);
        const char *name = ks_label_skip_name(why);
        if (why == KS_SKIP_NONE) continue;
        if (!json_object_get(by, name))
            json_object_set_new(by, name, json_array());
        json_array_append_new(json_object_get(by, name), json_string(id));
    }
    return by;
}

static json_t *sums_of(const ks_label_job *job, const ks_label_summary *s) {
    if (s->whole)
        return json_pack("{s:b,s:I,s:I,s:I}", "whole", 1, "chains",
                         (json_int_t)s->chains, "labelled",
                         (json_int_t)s->labelled, "curves",
                         (json_int_t)s->curves);
    return json_pack(
        "{s:I,s:I,s:I,s:o,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,"
        "s:f}",
        "chains", (json_int_t)s->chains, "labelled", (json_int_t)s->labelled,
        "curves", (json_int_t)s->curves, "skipped", skipped_of(job), "steps",
        (json_int_t)s->steps, "important", (json_int_t)s->important,
        "removable", (json_int_t)s->removable, "unlabelled",
        (json_int_t)s->unlabelled, "cut", (json_int_t)s->cut, "cut_of_others",
        (json_int_t)s->cut_of_others, "unconfirmed", (json_int_t)s->unconfirmed,
        "asked", (json_int_t)s->asked, "resumed", (json_int_t)s->resumed,
        "computed", (json_int_t)s->stats.computed, "shared",
        (json_int_t)s->stats.shared, "sampled", (json_int_t)s->stats.sampled,
        "scored", (json_int_t)s->stats.scored, "seconds", s->seconds);
}

static ks_status run(input *in, ks_err *err) {
    ks_status st = KS_OK;
    ks_label_job *job = NULL;
    ks_progress *progress = NULL;
    ks_label_summary summary;
    KS_TRY(take_common(in, err));
    KS_TRY(ks_label_open(&job, &in->options, err));
    if (in->common.dry_run) {
        st = ks_cli_label_cost(job, in->common.json, err);
        goto done;
    }
    progress = ks_progress_open("label", "chain", (double)ks_label_chains(job));
    st = ks_label_run(job, progress ? show : NULL, progress, &summary, err);
    ks_progress_close(&progress);
    KS_TRY(st);
    if (!in->common.quiet) sum_up(in, &summary);
    if (in->common.json) KS_TRY(print_json(sums_of(job, &summary), err));
done:
    ks_label_close(&job);
    return st;
}

/* The parts that need no model; -1: none was named. */
static int run_part(int argc, char **argv) {
    const char *part = argc > 1 ? argv[1] : "";
    if (strcmp(part, "select") == 0)
        return ks_cli_label_select(argc - 1, argv + 1);
    if (strcmp(part, "greedy") == 0)
        return ks_cli_label_greedy(argc - 1, argv + 1);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--compare") != 0) continue;
        memmove(argv + 2, argv + 1, sizeof *argv * (size_t)(i - 1));
        return ks_cli_label_compare(argc - 1, argv + 1);
    }
    return -1;
}

int ks_cmd_label(int argc, char **argv) {
    int part = run_part(argc, argv);
    if (part >= 0) return part;
    input in = {.options = ks_label_defaults()};
    ks_err err = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "label", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    if (run(&in, &err) != KS_OK) code = ks_cli_failed("label", &err);
    return code;
}
