/* launch.h - what a run has left to do, submitted to Slurm: a job for each
 * stage, or an array of its shards and a job that joins them, each held back
 * until the ones it takes from have ended well.
 */
#ifndef KS_EXPERIMENT_LAUNCH_H
#define KS_EXPERIMENT_LAUNCH_H

#include "execute.h"
#include "slurm.h"

/* Borrowed, all of it. */
typedef struct ks_launch_options {
    const ks_slurm_options *slurm;
    int ranks; /* shards of a stage that can be dealt out; 0: as many as a job
                  has GPUs */
    int retries;
    const char *scratch; /* NULL: none */
    const char *program; /* absolute */
} ks_launch_options;

/* A job of Slurm, or a task of an array. */
typedef struct ks_launch_queued {
    long long id;
    int task; /* 0: no array */
} ks_launch_queued;

/* A job that is to be there. */
typedef struct ks_launch_unit {
    int stage;
    ks_job_part part;
    int shards; /* 1: not cut */
    int *tasks; /* [n_tasks] of an array that are to be submitted */
    size_t n_tasks;
    bool submit;              /* false: all of it is queued already */
    long long id;             /* of what is submitted, once it is */
    ks_launch_queued *queued; /* [n_queued] that were there and stay */
    size_t n_queued;
    size_t *after; /* [n_after] units that it waits for */
    size_t n_after;
} ks_launch_unit;

typedef struct ks_launch {
    ks_exp_run *run;
    const ks_launch_options *options;
    ks_jobs jobs; /* RUN/slurm/jobs.json */
    ks_launch_unit *units;
    size_t n, capacity;
    long long *cancel; /* [n_cancel] jobs that wait for what will not come */
    size_t n_cancel, cancel_capacity;
    bool *to_do;  /* [stages] */
    size_t *last; /* [stages] the unit that ends it */
} ks_launch;

/* Writes nothing. Leaves alone what is done, and what squeue says is queued or
 * runs. KS_MISMATCH where a stage is queued in another number of shards. */
ks_status ks_launch_plan(ks_launch *out, ks_exp_run *run,
                         const ks_launch_options *options, ks_err *err);
void ks_launch_close(ks_launch *launch);
/* How many jobs and tasks of arrays are to be submitted. */
size_t ks_launch_count(const ks_launch *launch);
/* A stage whose jobs are to ask for GPUs that it would leave idle, since its
 * backend is cpu; NULL: none. */
const ks_exp_stage *ks_launch_idle_gpus(const ks_launch *launch);

/* The scripts, and what is said to sbatch, as a shell would take it. */
ks_status ks_launch_print(const ks_launch *launch, ks_str *out, ks_err *err);
/* The run must be held. Writes the scripts, submits, and notes each job in
 * RUN/slurm/jobs.json before the next; told of each. Looks at ks_interrupted
 * between two. */
typedef void (*ks_launch_fn)(void *user, const ks_launch *launch,
                             const ks_launch_unit *unit);
ks_status ks_launch_submit(ks_launch *launch, ks_launch_fn told, void *user,
                           ks_err *err);

#endif
