/* cmd_launch.c - keystep launch: an experiment on Slurm, or by several
 * processes of this machine. */
#include "run_common.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <wordexp.h>

#include "../experiment/launch.h"

enum { KEY_SET = KS_KEY_OWN, KEY_SLURM, KEY_LOCAL, KEY_RANKS, KEY_PRINT };

enum { RETRIES = 2 };

typedef struct input {
    ks_cli_experiment experiment;
    ks_slurm_options slurm;
    bool on_slurm, print;
    int workers, ranks;
} input;

static const struct argp_option option_list[] = {
    {"slurm", KEY_SLURM, "LIST", 0,
     "submit to Slurm, with these of sbatch's long options: "
     "partition=gpu,gpus=8,time=4:00:00; KIND.OPTION=.. is for stages of one "
     "kind, join.OPTION=.. for what joins shards; may be repeated, and comes "
     "on top of launch.slurm in the file",
     0},
    {"local", KEY_LOCAL, "N", 0, "N processes on this machine", 0},
    {"ranks", KEY_RANKS, "N", 0,
     "shards of each stage that can be dealt out (default: launch.ranks, else "
     "as many as a job has GPUs, or processes)",
     0},
    {"print", KEY_PRINT, NULL, 0,
     "print the scripts and what would be submitted; write nothing", 0},
    {"set", KEY_SET, "KEY=VALUE", 0,
     "a setting in place of the file's, as in keystep run; may be repeated", 0},
    {"out", KS_KEY_OUT, "FOLDER", 0, "the run's folder (default: runs/NAME)",
     0},
    KS_CLI_JSON,
    KS_CLI_QUIET,
    {0}};

static void add_slurm(input *in, const char *list, struct argp_state *state) {
    ks_err err = {0};
    in->on_slurm = true;
    if (ks_slurm_parse(&in->slurm, list, "--slurm", &err) != KS_OK)
        argp_error(state, "%s", err.text);
}

static void check(const input *in, struct argp_state *state) {
    if (!in->experiment.what)
        argp_error(state, "EXPERIMENT.yaml or RUN is missing");
    if (in->workers && in->on_slurm)
        argp_error(state,
                   "--local and --slurm are two places; one is expected");
    if (in->workers && in->print)
        argp_error(state, "--print shows what goes to Slurm; 'keystep run "
                          "--explain' shows what --local would do");
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_SET:
        ks_cli_experiment_set(&in->experiment, arg, state);
        return 0;
    case KEY_SLURM:
        add_slurm(in, arg, state);
        return 0;
    case KEY_LOCAL:
        in->workers = (int)ks_cli_whole(arg, 1, 1024, "local", state);
        return 0;
    case KEY_RANKS:
        in->ranks = (int)ks_cli_whole(arg, 1, KS_MOST_SHARDS, "ranks", state);
        return 0;
    case KEY_PRINT:
        in->print = true;
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

/* ------------------------------------------------------------- this machine */

static const ks_doc *launch_section(const ks_exp_run *run) {
    return ks_doc_find(&run->exp.root, "launch");
}

/* launch.scratch with its variables put in, as a node's shell does; absolute,
 * since processes work in the run's folder. */
static ks_status scratch_here(const ks_exp_run *run, char **out, ks_err *err) {
    ks_status st = KS_OK;
    wordexp_t words = {0};
    const ks_doc *section = launch_section(run);
    const char *scratch = section ? ks_exp_text(section, "scratch") : NULL;
    *out = NULL;
    if (!scratch) return KS_OK;
    int code = wordexp(scratch, &words, WRDE_NOCMD | WRDE_UNDEF);
    KS_CHECK(code == 0 && words.we_wordc == 1, KS_USAGE,
             "launch.scratch '%s': expected a path, or variables that are set",
             scratch);
    *out = realpath(words.we_wordv[0], NULL);
    KS_CHECK(*out, KS_IO, "launch.scratch '%s': %s", scratch, strerror(errno));
done:
    if (code == 0) wordfree(&words);
    return st;
}

static ks_status launch_here(input *in, ks_exp_run *run, ks_err *err) {
    ks_status st = KS_OK;
    char *scratch = NULL;
    int64_t ranks = ks_exp_launch(&run->exp, "ranks", in->workers);
    ks_exp_options options = {
        .workers = in->workers,
        .ranks = in->ranks ? in->ranks : (int)ranks,
        .retries = (int)ks_exp_launch(&run->exp, "retries", RETRIES)};
    KS_TRY(scratch_here(run, &scratch, err));
    options.scratch = scratch;
    KS_TRY(ks_cli_experiment_execute(&in->experiment, run, &options, NULL, NULL,
                                     err));
done:
    free(scratch);
    return st;
}

/* ------------------------------------------------------------------- Slurm */

/* The file's options, and those of the command line on top. */
static ks_status read_slurm(const input *in, const ks_exp_run *run,
                            ks_slurm_options *options, ks_err *err) {
    ks_status st = KS_OK;
    const ks_doc *slurm = ks_doc_find(launch_section(run), "slurm");
    json_t *mapping = slurm ? ks_doc_json(slurm) : NULL;
    KS_CHECK(slurm || in->on_slurm, KS_USAGE,
             "where? --slurm OPTIONS, --local N, or launch.slurm in %s is "
             "expected",
             run->exp.file);
    if (mapping) {
        ks_doc_place where = ks_doc_where(slurm);
        KS_TRY(ks_slurm_from_json(options, mapping, where.text, err));
    }
    for (size_t i = 0; i < in->slurm.n; i++)
        KS_TRY(ks_slurm_set(options, &in->slurm.at[i], err));
done:
    json_decref(mapping);
    return st;
}

static void tell_unit(void *user, const ks_launch *l, const ks_launch_unit *u) {
    const input *in = user;
    const char *id = l->run->plan.stages[u->stage].id;
    const char *part = u->part == KS_JOB_JOIN ? ", joined" : "";
    if (in->experiment.common.json) return;
    for (size_t i = 0; i < u->n_queued; i++)
        if (!i || u->queued[i].id != u->queued[i - 1].id)
            ks_log(KS_LOG_INFO, "%s%s: job %lld is queued already", id, part,
                   u->queued[i].id);
    if (!u->submit) return;
    printf("%lld %s%s", u->id, id, part);
    if (u->part == KS_JOB_SHARDS)
        printf(", %d shard%s in %zu job%s", u->shards,
               ks_plural((size_t)u->shards), u->n_tasks, ks_plural(u->n_tasks));
    putchar('\n');
    fflush(stdout);
}

static json_t *launched(const ks_launch *l) {
    static const char *const parts[] = {"stage", "shards", "join"};
    json_t *all = json_array();
    for (size_t i = 0; i < l->n; i++) {
        const ks_launch_unit *u = &l->units[i];
        if (u->submit)
            json_array_append_new(
                all, json_pack("{s:I,s:s,s:s,s:i}", "job", (json_int_t)u->id,
                               "stage", l->run->plan.stages[u->stage].id,
                               "part", parts[u->part], "shards", u->shards));
    }
    return json_pack("{s:s,s:o}", "run", l->run->shown, "submitted", all);
}

/* How to take it back, also after Ctrl-C: what is submitted stays. */
static void say_jobs(const ks_launch *l) {
    ks_str ids = {0};
    for (size_t i = 0; i < l->n; i++)
        if (l->units[i].id) ks_str_printf(&ids, NULL, " %lld", l->units[i].id);
    if (ids.length)
        ks_log(KS_LOG_INFO,
               "'keystep status %s --follow' shows how far it is; 'scancel%s' "
               "takes back what was submitted",
               l->run->shown, ids.data);
    ks_str_free(&ids);
}

static void say_done(const ks_launch *l) {
    ks_log(KS_LOG_INFO, "%s: all stages are done", l->run->shown);
}

static ks_status submit(input *in, ks_launch *l, ks_err *err) {
    ks_status st = ks_launch_submit(l, tell_unit, in, err);
    if (st == KS_INTERRUPTED)
        ks_fail(err, st,
                "interrupted; the jobs that were submitted stay, and the same "
                "command submits the others");
    if (!l->n)
        say_done(l);
    else
        say_jobs(l);
    if (st == KS_OK && in->experiment.common.json)
        ks_cli_print_json(launched(l));
    return st;
}

static ks_status print(const ks_launch *l, ks_err *err) {
    ks_str out = {0};
    ks_status st = KS_OK;
    if (!l->n) {
        say_done(l);
    } else if (!ks_launch_count(l) && !l->n_cancel) {
        ks_log(KS_LOG_INFO, "%s: all that is not done is queued already",
               l->run->shown);
    } else {
        st = ks_launch_print(l, &out, err);
        if (st == KS_OK) fputs(out.data, stdout);
    }
    ks_str_free(&out);
    return st;
}

static ks_status launch_there(input *in, ks_exp_run *run, ks_err *err) {
    ks_status st = KS_OK;
    char program[PATH_MAX];
    ks_launch launch = {0};
    ks_slurm_options slurm = {0};
    const ks_doc *section = launch_section(run);
    KS_CHECK(ks_cli_self(program), KS_IO, "/proc/self/exe: cannot be read");
    KS_TRY(read_slurm(in, run, &slurm, err));
    const ks_launch_options options = {
        .slurm = &slurm,
        .ranks =
            in->ranks ? in->ranks : (int)ks_exp_launch(&run->exp, "ranks", 0),
        .retries = (int)ks_exp_launch(&run->exp, "retries", RETRIES),
        .scratch = section ? ks_exp_text(section, "scratch") : NULL,
        .program = program};
    KS_TRY(ks_cli_check_stages(run, err));
    if (!in->print) KS_TRY(ks_exp_run_hold(run, err));
    KS_TRY(ks_launch_plan(&launch, run, &options, err));
    const ks_exp_stage *idle = ks_launch_idle_gpus(&launch);
    if (idle)
        ks_log(
            KS_LOG_INFO,
            "%s asks for GPUs and leaves them idle, since machine.backend is "
            "cpu; --set machine.backend=cuda would use them",
            idle->id);
    KS_TRY(in->print ? print(&launch, err) : submit(in, &launch, err));
done:
    ks_launch_close(&launch);
    ks_slurm_free(&slurm);
    return st;
}

static ks_status launch(input *in, ks_err *err) {
    ks_status st = KS_OK;
    ks_exp_run run = {0};
    KS_TRY(ks_cli_experiment_open(&in->experiment, &run, err));
    KS_TRY(in->workers ? launch_here(in, &run, err)
                       : launch_there(in, &run, err));
done:
    ks_exp_run_close(&run);
    return st;
}

int ks_cmd_launch(int argc, char **argv) {
    static const struct argp argp = {
        .options = option_list,
        .parser = parse,
        .args_doc = "EXPERIMENT.yaml\nRUN",
        .doc =
            "Runs an experiment as keystep run does, on Slurm (--slurm) or by "
            "several processes of this machine (--local). Stages that can be "
            "dealt out (generate, label, capture, score, probe) are cut into "
            "shards, one rank each, one GPU a rank where GPUs are asked for, "
            "and joined: to the same bytes as in one process.\v"
            "Scripts, logs and the list of jobs lie in RUN/slurm. A shard that "
            "fails is tried again (launch.retries, 2), also on another node; "
            "one that is stopped by its time limit goes back into the queue "
            "and goes on. The same command again submits what is neither done "
            "nor queued. 'keystep status RUN' shows how far it is."};
    input in = {0};
    ks_err err = {0};
    ks_cli_common_init(&in.experiment.common);
    int code = ks_cli_parse(&argp, "launch", argc, argv, &in);
    if (code == KS_EXIT_DONE && launch(&in, &err) != KS_OK)
        code = ks_cli_failed("launch", &err);
    ks_slurm_free(&in.slurm);
    return code;
}
