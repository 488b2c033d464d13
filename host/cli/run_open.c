/* run_open.c - what keystep run and keystep launch do alike: an experiment by
 * its file or folder, --set, and the stages run by this process. */
#include "build.h"
#include "run_common.h"

void ks_cli_experiment_set(ks_cli_experiment *e, const char *arg,
                           struct argp_state *state) {
    if (e->n_sets == KS_CLI_MOST_SETS) argp_error(state, "too many --set");
    e->sets[e->n_sets++] = arg;
}

void ks_cli_experiment_what(ks_cli_experiment *e, const char *arg,
                            struct argp_state *state) {
    if (e->what) argp_error(state, "too many arguments: %s", arg);
    e->what = arg;
}

ks_status ks_cli_experiment_open(ks_cli_experiment *e, ks_exp_run *run,
                                 ks_err *err) {
    ks_exp_open_options options = {.sections = ks_cli_sections,
                                   .what = e->what,
                                   .folder = e->common.out,
                                   .sets = e->sets,
                                   .n_sets = e->n_sets,
                                   .left = ks_cli_left,
                                   .reading = ks_cli_reading,
                                   .spoilt = ks_cli_spoilt,
                                   .user = &e->talk};
    e->talk.quiet = e->common.quiet;
    ks_exp_set_commit(ks_build_commit());
    return ks_exp_run_open(run, &options, err);
}

ks_status ks_cli_experiment_execute(
    ks_cli_experiment *e, ks_exp_run *run, const ks_exp_options *options,
    ks_status (*before)(void *user, ks_exp_run *run, ks_err *err), void *user,
    ks_err *err) {
    ks_status st = KS_OK;
    ks_exp_options told = *options;
    told.tell = ks_cli_tell;
    told.user = &e->talk;
    KS_TRY(ks_cli_check_stages(run, err));
    KS_TRY(ks_exp_run_hold(run, err));
    if (before) KS_TRY(before(user, run, err));
    e->talk.run = run;
    KS_TRY(ks_exp_execute(run, &told, err));
    if (!e->talk.any)
        ks_log(KS_LOG_INFO, "%s: all stages are done", run->shown);
    KS_TRY(ks_cli_run_sum_up(run, e->common.json, err));
done:
    return st;
}
