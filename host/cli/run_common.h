/* run_common.h - what the commands around a run's folder share. */
#ifndef KS_CLI_RUN_COMMON_H
#define KS_CLI_RUN_COMMON_H

#include "../experiment/execute.h"
#include "cli.h"
#include "sections.h"

/* ------------------------------------------------------------- run_talk.c */

/* Who is told of what happens: a line on stderr as stages start and end, on a
 * terminal a line that lives besides. */
typedef struct ks_cli_talk {
    const ks_exp_run *run;
    bool quiet;
    bool line; /* a living line lies on the terminal */
} ks_cli_talk;

void ks_cli_tell(void *talk, const ks_exp_event *event);
void ks_cli_left(void *talk, const char *path);
void ks_cli_reading(void *talk, const char *path, uint64_t bytes);

/* "foreign: no context": of what a stage is, without its command. */
typedef struct ks_cli_stage_words {
    char text[160];
} ks_cli_stage_words;
ks_cli_stage_words ks_cli_stage_is(const ks_exp_stage *stage);
/* "3:07" */
typedef struct ks_cli_time {
    char text[24];
} ks_cli_time;
ks_cli_time ks_cli_time_of(double seconds);

/* ---------------------------------------------------------- run_explain.c */

/* Each stage's command line, held against its own command: a bad one is an
 * error that names the line of the section, or of the option. */
ks_status ks_cli_check_stages(const ks_exp_run *run, ks_err *err);
/* The plan on standard output. */
ks_status ks_cli_explain(ks_exp_run *run, bool json, ks_err *err);

/* ---------------------------------------------------------- run_figures.c */

/* run.json of a folder, its form checked; *out is the caller's. */
ks_status ks_cli_run_read(const char *folder, json_t **out, ks_err *err);
/* [{"stage","state","took","program","host","of"}], what is known of each. */
json_t *ks_cli_run_stages(const char *folder, json_t *run);
/* [{"cell","probe","stream","position","balanced_accuracy","low","high"}], of
 * the layer that is best by the training folds. */
json_t *ks_cli_run_found(const char *folder, json_t *run);
/* What a run found, on standard output: a line a position of each cell. */
ks_status ks_cli_run_sum_up(const ks_exp_run *run, bool json, ks_err *err);

/* -------------------------------------------------------- run_reference.c */

int ks_cli_run_reference(void);

#endif
