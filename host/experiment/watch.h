/* watch.h - how far a run is, read from its folder alone: who works on it, by
 * which means, and whether the experiment's own files are still there does not
 * matter. All of it is somebody else's and may be half of another time.
 */
#ifndef KS_EXPERIMENT_WATCH_H
#define KS_EXPERIMENT_WATCH_H

#include "slurm.h"

typedef enum ks_watch_state {
    KS_WATCH_WAITING, /* for what it takes, or for somebody to start it */
    KS_WATCH_QUEUED,  /* with Slurm */
    KS_WATCH_RUNNING,
    KS_WATCH_STOPPED, /* begun; goes on when it is started again */
    KS_WATCH_FAILED,
    KS_WATCH_DONE
} ks_watch_state;
const char *ks_watch_state_name(ks_watch_state state);

/* One process of a stage, past, present or to come. Seconds and rates that
 * nobody knows are NAN. Texts are UTF-8 without control characters. */
typedef struct ks_watch_task {
    ks_watch_state state;
    int shard; /* from 1; 0: the whole stage, or its join */
    char host[128];
    char unit[32], rate_unit[32];
    double done, total, rate, left; /* of a running one */
    double seconds;                 /* that it took, or takes so far */
    double silent; /* since it was last heard of, where that is long */
    int attempts;
    long long job;   /* of Slurm; 0: none */
    char reason[64]; /* why it is queued, by squeue */
    char log[96];    /* in the run's folder; "": none */
    char said[256];  /* the log's last line, or why it failed */
} ks_watch_task;

typedef struct ks_watch_stage {
    char *id, *kind, *what, *cells;
    ks_watch_state state;
    bool joining;          /* all shards are there */
    ks_watch_task whole;   /* the stage in one process, or its join */
    ks_watch_task *shards; /* [n_shards]; 0: it is not cut */
    int n_shards;
    int *after; /* [n_after] stages that it takes from */
    size_t n_after;
    double left; /* until its end once it can start; NAN: nobody knows */
} ks_watch_stage;

typedef struct ks_watch {
    char *name;
    ks_watch_stage *stages; /* a stage stands behind those it takes from */
    size_t n;
    size_t counts[KS_WATCH_DONE + 1]; /* stages by state */
    bool active;   /* something runs, is queued, or somebody sees to it */
    double left;   /* of the whole */
    bool at_least; /* there are stages of which nobody knows */
} ks_watch;

/* KS_FORMAT where run.json is not what keystep run writes; other files of the
 * folder that are broken are taken as not there. queue NULL: Slurm is not
 * asked (tests; a machine without it). */
ks_status ks_watch_read(ks_watch *watch, const char *run, const ks_jobs *jobs,
                        const ks_queue *queue, ks_err *err);
void ks_watch_free(ks_watch *watch);

/* watch_left.c: fills the times that are left. */
void ks__watch_left(ks_watch *watch);

/* watch_jobs.c: what Slurm says of a task whose own record was read. What the
 * queue knows counts more than what a task wrote before it was put there again;
 * a job that is not there any more runs nothing. queue NULL: nobody knows. */
void ks__watch_job(const char *run, const ks_watch_stage *stage,
                   ks_job_part part, const ks_jobs *jobs, const ks_queue *queue,
                   ks_watch_task *task);
/* The last words of a job that failed before its task had any of its own. */
void ks__watch_job_words(const char *run, const ks_watch_stage *stage,
                         ks_job_part part, const ks_jobs *jobs,
                         ks_watch_task *task);

/* watch_files.c. A JSON object of at most a few megabytes; NULL: it is not
 * there, no file, or no object. */
json_t *ks__watch_json(const char *path);
/* Age of a file in seconds; NAN: it is not there. */
double ks__watch_age(const char *path);
/* The last line of a text that says something. */
void ks__watch_last_line(const char *path, char *out, size_t n);
/* Copies what may be shown: what is no UTF-8 and control characters become ?.
 */
void ks__watch_text(char *out, size_t n, const char *text);

#endif
