/* cmd_run.c - keystep run: an experiment from one file, stage after stage, each
 * of them a command of ours. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "run_common.h"

enum {
    KEY_SET = KS_KEY_OWN,
    KEY_EXPLAIN,
    KEY_AGAIN,
    KEY_REFERENCE,
    KEY_STAGE,
    KEY_JOIN,
    KEY_SCRATCH
};

enum { MOST_AGAIN = 32 };

typedef struct input {
    ks_cli_experiment experiment;
    const char *again[MOST_AGAIN];
    size_t n_again;
    bool explain, reference;
    const char *stage, *scratch;
    ks_exp_task task;
} input;

static const struct argp_option option_list[] = {
    {"set", KEY_SET, "KEY=VALUE", 0,
     "a setting in place of the file's, e.g. capture.streams=[attn]; VALUE is "
     "YAML, false leaves a section out; may be repeated",
     0},
    {"out", KS_KEY_OUT, "FOLDER", 0, "the run's folder (default: runs/NAME)",
     0},
    {"explain", KEY_EXPLAIN, NULL, 0,
     "say what would be done, what of it is done, and about what it costs", 0},
    {"again", KEY_AGAIN, "STAGE", 0,
     "make a finished stage anew (capture: all of them; capture-3f2a9c10b2), "
     "and what was made of it where it comes out otherwise; may be repeated",
     0},
    {"reference", KEY_REFERENCE, NULL, 0,
     "print all that experiment.yaml may say, Markdown", 0},
    KS_CLI_JSON,
    KS_CLI_QUIET,
    {NULL, 0, NULL, 0, "For schedulers, one task of a run's folder each:", 1},
    {"stage", KEY_STAGE, "KEY", 0, "the stage with this key alone", 1},
    {"shard", KS_KEY_SHARD, "K/N", 0, "of it the K-th of N shards", 1},
    {"join", KEY_JOIN, "N", 0, "join its N shards", 1},
    {"scratch", KEY_SCRATCH, "DIR", 0,
     "make outputs in DIR, on the node, and move them when they are done or "
     "interrupted",
     1},
    {0}};

static void check(const input *in, struct argp_state *state) {
    const ks_shard shard = in->experiment.common.shard;
    bool part = shard.n || in->task.kind != KS_EXP_WHOLE || in->scratch;
    if (in->reference) return;
    if (!in->experiment.what)
        argp_error(state, "EXPERIMENT.yaml or RUN is missing");
    if (shard.n && in->task.kind == KS_EXP_JOIN)
        argp_error(state, "--shard and --join are two tasks; one is expected");
    if (part && !in->stage)
        argp_error(state, "--shard, --join and --scratch go with --stage");
    if (in->stage && (in->experiment.n_sets || in->n_again || in->explain))
        argp_error(state, "--stage runs what a run's folder has planned: no "
                          "--set, --again or --explain");
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_SET:
        ks_cli_experiment_set(&in->experiment, arg, state);
        return 0;
    case KEY_AGAIN:
        if (in->n_again == MOST_AGAIN) argp_error(state, "too many --again");
        in->again[in->n_again++] = arg;
        return 0;
    case KEY_EXPLAIN:
        in->explain = true;
        return 0;
    case KEY_REFERENCE:
        in->reference = true;
        return 0;
    case KEY_STAGE:
        in->stage = arg;
        return 0;
    case KEY_JOIN:
        in->task.kind = KS_EXP_JOIN;
        in->task.of = (int)ks_cli_whole(arg, 1, KS_MOST_SHARDS, "join", state);
        return 0;
    case KEY_SCRATCH:
        in->scratch = arg;
        return 0;
    case ARGP_KEY_ARG:
        ks_cli_experiment_what(&in->experiment, arg, state);
        return 0;
    case ARGP_KEY_END:
        check(in, state);
        return 0;
    default:
        return ks_cli_common_key(&in->experiment.common, key, arg, state);
    }
}

/* --------------------------------------------------------------------- runs */

static void say_versions(const ks_exp_run *run) {
    for (size_t i = 0; i < run->plan.n_stages; i++) {
        const char *other = ks_exp_run_other_version(run, (int)i);
        if (other)
            ks_log(KS_LOG_INFO,
                   "run: %s was made by keystep %s, this is %s; --again %s "
                   "makes it anew",
                   run->plan.stages[i].id, other, ks_exp_version(),
                   run->plan.stages[i].id);
    }
}

static ks_status again(void *user, ks_exp_run *run, ks_err *err) {
    ks_status st = KS_OK;
    const input *in = user;
    for (size_t i = 0; i < in->n_again; i++) {
        const char *name = in->again[i];
        size_t found = 0;
        for (size_t k = 0; k < run->plan.n_stages; k++) {
            const ks_exp_stage *s = &run->plan.stages[k];
            if (strcmp(s->section->name, name) != 0 && strcmp(s->id, name) != 0)
                continue;
            KS_TRY(ks_exp_stage_drop(run, (int)k, err));
            found++;
        }
        KS_CHECK(found, KS_USAGE,
                 "--again %s: no stage of this run has that name; --explain "
                 "lists them",
                 name);
    }
    say_versions(run);
done:
    return st;
}

static ks_status run_task(input *in, ks_exp_run *run, ks_err *err) {
    ks_status st = KS_OK;
    char *scratch = in->scratch ? realpath(in->scratch, NULL) : NULL;
    ks_exp_options options = {
        .scratch = scratch, .tell = ks_cli_tell, .user = &in->experiment.talk};
    KS_CHECK(!in->scratch || scratch, KS_IO, "--scratch %s: %s", in->scratch,
             strerror(errno));
    const ks_shard shard = in->experiment.common.shard;
    if (shard.n) {
        in->task.kind = KS_EXP_SHARD;
        in->task.shard = shard.k;
        in->task.of = shard.n;
    }
    in->experiment.talk.run = run;
    in->task.stage = ks_exp_plan_find(&run->plan, in->stage);
    KS_CHECK(in->task.stage >= 0, KS_USAGE,
             "--stage %s: %s has no stage, or several, of that key", in->stage,
             run->shown);
    KS_TRY(ks_exp_execute_task(run, &in->task, &options, err));
done:
    free(scratch);
    return st;
}

static ks_status run(input *in, ks_err *err) {
    ks_status st = KS_OK;
    ks_exp_run run = {0};
    KS_CHECK(!in->stage || ks_exp_is_run(in->experiment.what), KS_USAGE,
             "--stage takes a run's folder, and %s is none",
             in->experiment.what);
    KS_TRY(ks_cli_experiment_open(&in->experiment, &run, err));
    const ks_exp_options options = {
        .retries = (int)ks_exp_launch(&run.exp, "retries", 0)};
    if (in->stage)
        st = run_task(in, &run, err);
    else if (in->explain)
        st = ks_cli_explain(&run, in->experiment.common.json, err);
    else
        st = ks_cli_experiment_execute(&in->experiment, &run, &options, again,
                                       in, err);
done:
    in->experiment.talk.run = NULL;
    ks_exp_run_close(&run);
    return st;
}

int ks_cmd_run(int argc, char **argv) {
    static const struct argp argp = {
        .options = option_list,
        .parser = parse,
        .args_doc = "EXPERIMENT.yaml\nRUN\n--reference",
        .doc =
            "Runs an experiment: chains, labels, activations, probes and their "
            "report, from one file that says what is to be done, for every "
            "cell of a grid. Each stage is a command of keystep, shown by "
            "--explain; what is done already, with the same settings and "
            "inputs, is not done again.\v"
            "The same command, or keystep run RUN, goes on with what was "
            "interrupted. docs/experiments.md has the file's form and all "
            "keys."};
    input in = {0};
    ks_err err = {0};
    ks_cli_common_init(&in.experiment.common);
    int code = ks_cli_parse(&argp, "run", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    if (in.reference) return ks_cli_run_reference();
    return run(&in, &err) == KS_OK ? code : ks_cli_failed("run", &err);
}
