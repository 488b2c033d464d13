/* folder.h - RUN, the folder of an experiment's stages (docs/formats.md, Runs):
 * run.json, experiment.yaml, inputs.json, stages/ID/. A run is opened from
 * experiment.yaml or from the folder itself; both give the same plan.
 */
#ifndef KS_EXPERIMENT_FOLDER_H
#define KS_EXPERIMENT_FOLDER_H

#include "plan.h"

typedef enum ks_exp_state {
    KS_EXP_TO_DO,
    KS_EXP_BEGUN, /* something of it is there */
    KS_EXP_STALE, /* done, of inputs that were made anew since */
    KS_EXP_GONE,  /* done, and its files are not there any more: made again
                     where another stage needs them */
    KS_EXP_DONE
} ks_exp_state;

typedef struct ks_exp_run {
    ks_exp exp;
    ks_exp_files files;
    ks_exp_plan plan;
    char *folder;     /* absolute, whether it is there or not */
    char *shown;      /* as the user knows it */
    json_t **records; /* [plan.n_stages] stage.json, NULL: none */
    ks_lock lock;
} ks_exp_run;

/* What leads to a run. what: experiment.yaml, or a run's folder; then sets come
 * on top of those that it was made with. */
typedef struct ks_exp_open_options {
    const ks_section *sections;
    const char *what;
    const char *folder; /* NULL: runs/NAME, or what */
    const char *const *sets;
    size_t n_sets;
    ks_exp_left_fn left;
    void (*reading)(void *user, const char *path, uint64_t bytes);
    void (*spoilt)(void *user, const char *why); /* inputs.json; may be NULL */
    void *user;
} ks_exp_open_options;

/* Writes nothing. KS_EXISTS where the folder holds another experiment. */
ks_status ks_exp_run_open(ks_exp_run *run, const ks_exp_open_options *o,
                          ks_err *err);
void ks_exp_run_close(ks_exp_run *run);
bool ks_exp_is_run(const char *path);

/* Makes the folder, or takes the one that is there, as its one coordinator:
 * KS_EXISTS names the process that is it already. Writes run.json and what it
 * stands on. */
ks_status ks_exp_run_hold(ks_exp_run *run, ks_err *err);
/* RUN/report -> the report's folder, relative. Nothing without a report. */
ks_status ks_exp_run_link(const ks_exp_run *run, ks_err *err);

ks_exp_state ks_exp_run_state(const ks_exp_run *run, int stage);
/* Reads stage.json again, where another process may have written it. */
ks_status ks_exp_run_look(ks_exp_run *run, int stage, ks_err *err);
/* The version that made a finished stage, if it is not this program's. */
const char *ks_exp_run_other_version(const ks_exp_run *run, int stage);

/* KS_MISMATCH: what the stage takes from another one is not what that one made;
 * files that were not written to since are not read for it. */
ks_status ks_exp_run_check_inputs(const ks_exp_run *run, int stage,
                                  ks_err *err);

/* RUN/stages/ID[/name] */
ks_status ks_exp_stage_path(const ks_exp_run *run, int stage, const char *name,
                            char **out, ks_err *err);
/* Hash over all that a finished stage made; record NULL: NULL. */
json_t *ks_exp_outputs_hash(const json_t *record);

/* This program, as records name it: its version, and behind it the commit once
 * that was set (the library does not know it, so that a new commit compiles
 * nothing of it anew). Set it before anything is recorded. */
const char *ks_exp_version(void);
void ks_exp_set_commit(const char *commit);

/* "2026-11-30T05:20:00Z" */
void ks_exp_now(char out[32]);

#endif
