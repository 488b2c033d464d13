/* slurm.h - stages of an experiment as jobs of Slurm: options, the scripts that
 * are submitted, what was submitted (RUN/slurm/jobs.json), and what the queue
 * says of it. Nothing here knows how a stage is made: a job calls
 * `keystep run RUN --stage STAGE [--shard K/N | --join N]`. */
#ifndef KS_SLURM_H
#define KS_SLURM_H

#include "../base.h"

/* ----------------------------------------------------------------- options */

/* One of sbatch's long options. */
typedef struct ks_slurm_option {
    char *kind; /* for jobs of this kind of stage, or "join"; NULL: for all */
    char *name, *value; /* value NULL: an option that takes none */
} ks_slurm_option;

typedef struct ks_slurm_options {
    ks_slurm_option *at;
    size_t n, capacity;
} ks_slurm_options;

/* "partition=gpu,gpus=8,exclude=n[1,3],report.partition=cpu,exclusive":
 * replaces what was said before of the same name and kind. KS_USAGE, the
 * sentence led by `where`, for a name that is not sbatch's way of writing one,
 * one that launch sets itself, and a value that does not fit a line of a
 * script. */
ks_status ks_slurm_parse(ks_slurm_options *options, const char *list,
                         const char *where, ks_err *err);
/* The same from a mapping of names to text, numbers, true (no value), or to a
 * mapping of names for the jobs of one kind of stage. */
ks_status ks_slurm_from_json(ks_slurm_options *options, json_t *mapping,
                             const char *where, ks_err *err);
/* Takes over a copy of one that was checked. */
ks_status ks_slurm_set(ks_slurm_options *options, const ks_slurm_option *option,
                       ks_err *err);
void ks_slurm_free(ks_slurm_options *options);

/* ----------------------------------------------------------------- scripts */

typedef enum ks_job_part {
    KS_JOB_STAGE,  /* a stage as a whole */
    KS_JOB_SHARDS, /* its shards, some to each task of an array */
    KS_JOB_JOIN    /* what makes one of them */
} ks_job_part;

/* What all jobs of one script have in common. Strings are borrowed. */
typedef struct ks_slurm_script {
    const char *kind; /* of stage: "capture" */
    ks_job_part part;
    bool device; /* the stage computes on a GPU where one is asked for */
    int retries; /* of a failed job */
    const char *program; /* absolute path of keystep */
    const char *scratch; /* folder on the node, in which its shell
                            puts variables; NULL: none */
    const ks_slurm_options *options;
} ks_slurm_script;

/* GPUs of a job of the script, each for a rank of its own: 0 where none is
 * asked for. */
int ks_slurm_gpus(const ks_slurm_script *script);
/* Shards to a task of the array: as many as it has GPUs, at least one. */
int ks_slurm_shards_a_task(const ks_slurm_script *script);
/* "capture.sh", "capture-join.sh"; malloc'd. */
ks_status ks_slurm_script_name(const ks_slurm_script *script, char **name,
                               ks_err *err);
/* Appends the text of the script, for sh. */
ks_status ks_slurm_script_text(const ks_slurm_script *script, ks_str *text,
                               ks_err *err);

/* ---------------------------------------------------------- jobs submitted */

/* One submission: a job, or an array of them. */
typedef struct ks_job {
    char *stage; /* folder of stages/ */
    ks_job_part part;
    int shards; /* 1: not cut */
    int shards_a_task;
    int *tasks; /* [n_tasks] of the array, ascending; none but of shards */
    size_t n_tasks;
    long long id;    /* Slurm's */
    char *submitted; /* 2026-11-30T04:45:13Z */
} ks_job;

typedef struct ks_jobs {
    ks_job *at; /* as submitted, in order */
    size_t n, capacity;
} ks_jobs;

/* RUN/slurm/jobs.json; none where it is not there. */
ks_status ks_jobs_read(ks_jobs *jobs, const char *run, ks_err *err);
ks_status ks_jobs_write(const ks_jobs *jobs, const char *run, ks_err *err);
/* Takes over what job has. */
ks_status ks_jobs_add(ks_jobs *jobs, ks_job *job, ks_err *err);
/* The last job of a part of a stage, of shards the one with the task; NULL. */
const ks_job *ks_jobs_last(const ks_jobs *jobs, const char *stage,
                           ks_job_part part, int task);
void ks_jobs_free(ks_jobs *jobs);
void ks_job_free(ks_job *job);

/* --------------------------------------------------------------- the queue */

/* A job, or a task of an array, that has not ended. */
typedef struct ks_queued {
    long long id;
    int task;                             /* 0: no array */
    char state[32], reason[64], node[64]; /* as squeue says: PENDING, RUNNING */
} ks_queued;

typedef struct ks_queue {
    ks_queued *at; /* [n] by id, then task */
    size_t n, capacity;
} ks_queue;

/* Asks squeue about the user's jobs. *there: false where there is no squeue;
 * any other failure of it is KS_IO with its own words. */
ks_status ks_queue_ask(ks_queue *queue, bool *there, ks_err *err);
/* What squeue -h -r -o "%F|%K|%T|%N|%r" printed. */
ks_status ks_queue_read(ks_queue *queue, const char *text, ks_err *err);
const ks_queued *ks_queue_find(const ks_queue *queue, long long id, int task);
void ks_queue_free(ks_queue *queue);

/* Runs argv in `folder` (NULL: here) by PATH, without a shell. KS_IO with what
 * it said on its standard error when it fails. *out is malloc'd, *there false
 * where there is no such program (and then nothing failed; NULL: that fails).
 */
ks_status ks_slurm_run(char *const *argv, const char *folder, char **out,
                       bool *there, ks_err *err);

#endif
