/* run_common.h - what the commands around a run's folder share. */
#ifndef KS_CLI_RUN_COMMON_H
#define KS_CLI_RUN_COMMON_H

#include "../experiment/execute.h"
#include "../experiment/watch.h"
#include "cli.h"
#include "sections.h"

/* ------------------------------------------------------------- run_talk.c */

/* Who is told of what happens: a line on stderr as stages start and end, on a
 * terminal a line that lives besides. */
typedef struct ks_cli_talk {
    const ks_exp_run *run;
    bool quiet;
    bool line; /* a living line lies on the terminal */
    bool any;  /* a stage was started */
} ks_cli_talk;

void ks_cli_tell(void *talk, const ks_exp_event *event);
void ks_cli_left(void *talk, const char *path);
void ks_cli_reading(void *talk, const char *path, uint64_t bytes);
void ks_cli_spoilt(void *talk, const char *why);

/* "foreign: no context": of what a stage is, without its command. */
typedef struct ks_cli_stage_words {
    char text[160];
} ks_cli_stage_words;
ks_cli_stage_words ks_cli_stage_is(const ks_exp_stage *stage);

/* ------------------------------------------------------------- run_open.c */

/* What run and launch are told of an experiment. */
enum { KS_CLI_MOST_SETS = 256 };
typedef struct ks_cli_experiment {
    ks_cli_common common;
    ks_cli_talk talk;
    const char *what; /* EXPERIMENT.yaml or RUN; NULL: not given */
    const char *sets[KS_CLI_MOST_SETS];
    size_t n_sets;
} ks_cli_experiment;

/* The plan's folder, opened; records name this build. Close run also on
 * failure. */
ks_status ks_cli_experiment_open(ks_cli_experiment *e, ks_exp_run *run,
                                 ks_err *err);
/* --set, and the argument. */
void ks_cli_experiment_set(ks_cli_experiment *e, const char *arg,
                           struct argp_state *state);
void ks_cli_experiment_what(ks_cli_experiment *e, const char *arg,
                            struct argp_state *state);
/* All that is left, here: checked, locked, run and summed up. before(user) may
 * be NULL; it comes once the folder is this process's. */
ks_status ks_cli_experiment_execute(
    ks_cli_experiment *e, ks_exp_run *run, const ks_exp_options *options,
    ks_status (*before)(void *user, ks_exp_run *run, ks_err *err), void *user,
    ks_err *err);

/* ---------------------------------------------------------- run_explain.c */

/* Each stage's command line, held against its own command: a bad one is an
 * error that names the line of the section, or of the option. */
ks_status ks_cli_check_stages(const ks_exp_run *run, ks_err *err);
/* The plan on standard output. */
ks_status ks_cli_explain(ks_exp_run *run, bool json, ks_err *err);

/* ---------------------------------------------------------- run_figures.c */

/* run.json of a folder, its form checked; *out is the caller's. */
ks_status ks_cli_run_read(const char *folder, json_t **out, ks_err *err);
/* [{"stage","state","shards","seconds","program","host","of"}], what is known
 * of each; states are the watch's, NULL: none. */
json_t *ks_cli_run_stages(const char *folder, json_t *run,
                          const ks_watch *watch);
/* [{"cell","probe","stream","position","balanced_accuracy","low","high"}], of
 * the layer that is best by the training folds. */
json_t *ks_cli_run_found(const char *folder, json_t *run);
/* What a run found, on standard output: a line a position of each cell. */
ks_status ks_cli_run_sum_up(const ks_exp_run *run, bool json, ks_err *err);

/* -------------------------------------------------------- run_reference.c */

int ks_cli_run_reference(void);

#endif
