/* execute.h - runs what a plan has left to do: tasks side by side, those that
 * fail tried again, what is done left alone.
 */
#ifndef KS_EXPERIMENT_EXECUTE_H
#define KS_EXPERIMENT_EXECUTE_H

#include "task.h"

typedef enum ks_exp_happening {
    KS_EXP_STARTED,
    KS_EXP_ENDED,   /* well */
    KS_EXP_RETRIED, /* it failed, and starts again */
    KS_EXP_FAILED,
    KS_EXP_STOPPED, /* by a signal; it goes on from where it is */
    KS_EXP_TICK     /* twice a second while tasks run */
} ks_exp_happening;

typedef struct ks_exp_event {
    ks_exp_happening happening;
    const ks_exp_child *child;   /* of all but KS_EXP_TICK */
    const ks_exp_child *running; /* [n_running] */
    int n_running, done, to_do;  /* stages */
    const char *why;             /* of RETRIED and FAILED */
} ks_exp_event;

typedef struct ks_exp_options {
    int workers; /* tasks side by side; 0: 1 */
    int ranks;   /* shards of a stage that can be dealt out; 0: workers */
    int threads; /* of all workers together; 0: as many as it may use. With one
                    worker and 0 commands decide themselves */
    int retries; /* of each task */
    const char *scratch; /* absolute; NULL: outputs are made in place */
    void (*tell)(void *user, const ks_exp_event *event); /* may be NULL */
    void *user;
} ks_exp_options;

/* Runs every stage that is not done, ahead of those that take from it. The run
 * must be held (ks_exp_run_hold). Takes SIGINT, SIGTERM and SIGUSR1: each child
 * gets a SIGTERM, finishes the batch in flight and leaves what resumes;
 * KS_INTERRUPTED then. A stage that fails holds back those that need it and no
 * others; KS_IO names it at the end, with its last words and its log. */
ks_status ks_exp_execute(ks_exp_run *run, const ks_exp_options *options,
                         ks_err *err);

/* One task alone, for schedulers that know when (keystep run RUN --stage KEY).
 * Holds the task and not the run. What it takes must be done; what is done
 * already is left alone. A shard beyond those that there are does nothing. */
ks_status ks_exp_execute_task(ks_exp_run *run, const ks_exp_task *task,
                              const ks_exp_options *options, ks_err *err);

/* Which stages are to be run: to_do [n_stages]; returns how many. What is done
 * and gone is made again only where one of them needs it, or nobody does. */
int ks_exp_to_do(const ks_exp_run *run, bool *to_do);
/* Removes what is left of a stage that is stale or gone, ahead of making it
 * anew; ks_exp_execute does so itself, schedulers ahead of the first task. */
ks_status ks_exp_clear(ks_exp_run *run, int stage, ks_err *err);

#endif
