/* task.h - one command of a stage as a child process: a whole stage, one of its
 * shards, or the joining of them. What a task was and is stands in
 * RUN/stages/ID/task-NAME.json (docs/formats.md, Runs).
 */
#ifndef KS_EXPERIMENT_TASK_H
#define KS_EXPERIMENT_TASK_H

#include <sys/types.h>

#include "folder.h"

typedef enum ks_exp_kind {
    KS_EXP_WHOLE,
    KS_EXP_SHARD,
    KS_EXP_JOIN
} ks_exp_kind;

typedef struct ks_exp_task {
    int stage;
    ks_exp_kind kind;
    int shard, of; /* 1..of; of: how many, also of a join */
} ks_exp_task;

/* "whole", "2-of-4", "join-of-4" */
typedef struct ks_exp_task_name {
    char text[40];
} ks_exp_task_name;
ks_exp_task_name ks_exp_task_name_of(const ks_exp_task *task);

/* Where a task runs. */
typedef struct ks_exp_site {
    int threads;         /* 0: all that it may use */
    const char *backend; /* in place of the experiment's; NULL: that */
    const char *scratch; /* folder on the node, absolute, where outputs are
                            made, then moved; NULL: they are made in place */
} ks_exp_site;

/* The words of a task's command n (0..), argv of a child in RUN: the caller's,
 * by ks_exp_words_free; *words NULL beyond the last. A join has a command for
 * each output. */
ks_status ks_exp_task_words(const ks_exp_run *run, const ks_exp_task *task,
                            const ks_exp_site *site, int n, char ***words,
                            ks_err *err);
void ks_exp_words_free(char **words);
/* In a child, behind fork: becomes the command, or says on its stderr why not
 * and ends with 127. */
_Noreturn void ks_exp_become(char *const *words);
/* As a user would type it. */
ks_status ks_exp_words_shown(char *const *words, ks_str *out, ks_err *err);

/* How a child ended. */
typedef enum ks_exp_end {
    KS_EXP_END_GOOD,
    KS_EXP_END_FAILED,
    KS_EXP_END_USAGE, /* trying again is no use */
    KS_EXP_END_INTERRUPTED
} ks_exp_end;

/* A task under way. */
typedef struct ks_exp_child {
    ks_exp_task task;
    ks_exp_site site;
    pid_t pid;
    int command; /* which of the task's */
    int attempts;
    double since;     /* ks_seconds */
    char started[32]; /* ks_exp_now */
    char **words;
    ks_lock lock; /* of the task: no other process runs it */
    char *log, *progress;
    off_t log_from;
    char why[512]; /* after a failure: the command's last words */
} ks_exp_child;

/* machine.STAGE.KEY of the experiment, else machine.KEY; NULL: neither. */
const char *ks_exp_machine(const ks_exp_stage *s, const char *key);

/* Starts its first command, or the next (c->command > 0). KS_MISMATCH where a
 * given input is not what the stage's key was made of; ks_exp_task_ended finds
 * the same of one that changed meanwhile. */
ks_status ks_exp_task_start(ks_exp_child *c, ks_exp_run *run,
                            const ks_exp_task *task, const ks_exp_site *site,
                            ks_err *err);
/* After waitpid: status as it gives it. *more: there is another command to
 * start. Else the task is over, its record written and, after a whole stage or
 * a join that went well, stage.json. */
ks_status ks_exp_task_ended(ks_exp_child *c, ks_exp_run *run, int status,
                            ks_exp_end *end, bool *more, ks_err *err);
void ks_exp_task_close(ks_exp_child *c);

/* Are all outputs of a shard there? */
bool ks_exp_shard_is_there(const ks_exp_run *run, const ks_exp_task *task);
/* How many shards a stage has when `ranks` are wanted: no more than lines in
 * what is dealt out (capture: chains with a step), which must be there. */
ks_status ks_exp_shards(const ks_exp_run *run, int stage, int ranks, int *n,
                        ks_err *err);
/* Removes a stage's record and all that it made. */
ks_status ks_exp_stage_drop(ks_exp_run *run, int stage, ks_err *err);

/* scratch.c. folder: the task's own on the node (new; the caller's). In: what
 * an interrupted attempt left in the stage's folder goes there. Out: all of it
 * goes back, copied, synced, renamed, whole or not. Unused: removed where it is
 * empty. */
ks_status ks__exp_scratch_name(const ks_exp_run *run, const ks_exp_task *task,
                               const char *scratch, char **folder, ks_err *err);
ks_status ks__exp_scratch_in(const ks_exp_run *run, const ks_exp_task *task,
                             const char *folder, ks_err *err);
ks_status ks__exp_scratch_out(const ks_exp_run *run, const ks_exp_task *task,
                              const char *folder, ks_err *err);
void ks__exp_scratch_unused(const ks_exp_run *run, const ks_exp_task *task,
                            const char *scratch);

/* outputs.c. What a finished stage made: [{"file","bytes","sha256"}]. */
ks_status ks__exp_outputs(const ks_exp_run *run, int stage, json_t **out,
                          ks_err *err);
/* Shards of lines, after they were joined. */
void ks__exp_drop_shards(const ks_exp_run *run, int stage);
/* Those of another number than the task joined, as an attempt with other ranks
 * left them. */
void ks__exp_drop_other_shards(const ks_exp_run *run, const ks_exp_task *task);
/* What a task that ended well made, where it may not stay. */
void ks__exp_drop_made(const ks_exp_run *run, const ks_exp_task *task);
/* A folder with all in it; nothing where it is not there. */
void ks__exp_remove(const char *folder);
/* "acts.2-of-4.h5" */
ks_status ks__exp_shard_name(const char *name, const ks_exp_task *task,
                             char **out, ks_err *err);

#endif
