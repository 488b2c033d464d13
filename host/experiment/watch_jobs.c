/* watch_jobs.c - what Slurm knows of a task. See watch.h. */
#include <limits.h>
#include <string.h>

#include "watch.h"

/* The last job that was to do the task; *in: which task of its array. */
static const ks_job *job_of(const ks_jobs *jobs, const ks_watch_stage *s,
                            ks_job_part part, int shard, int *in) {
    *in = 0;
    for (size_t i = jobs ? jobs->n : 0; i-- > 0;) {
        const ks_job *job = &jobs->at[i];
        if (job->part != part || strcmp(job->stage, s->id) != 0) continue;
        if (part != KS_JOB_SHARDS) return job;
        *in = (shard - 1) / job->shards_a_task + 1;
        for (size_t k = 0; k < job->n_tasks; k++)
            if (job->tasks[k] == *in) return job;
    }
    return NULL;
}

/* RUN/slurm/NAME[.TASK].failures: the script tells of each there. */
static bool has_failed(const char *run, const ks_watch_stage *s,
                       ks_job_part part, int in) {
    char path[PATH_MAX], task[16] = "";
    if (in) snprintf(task, sizeof task, ".%d", in);
    snprintf(path, sizeof path, "%s/slurm/%s%s%s.failures", run, s->id,
             part == KS_JOB_JOIN ? ".join" : "", task);
    return ks_file_exists(path);
}

void ks__watch_job(const char *run, const ks_watch_stage *s, ks_job_part part,
                   const ks_jobs *jobs, const ks_queue *queue,
                   ks_watch_task *t) {
    int in;
    const ks_job *job = job_of(jobs, s, part, t->shard, &in);
    if (!job || t->state == KS_WATCH_DONE) return;
    t->job = job->id;
    if (!queue) {
        if (t->state == KS_WATCH_WAITING) t->state = KS_WATCH_QUEUED;
        return;
    }
    const ks_queued *queued = ks_queue_find(queue, job->id, in);
    if (!queued) {
        if (has_failed(run, s, part, in))
            t->state = KS_WATCH_FAILED;
        else if (t->state == KS_WATCH_RUNNING ||
                 (part == KS_JOB_SHARDS && t->state == KS_WATCH_WAITING))
            t->state = KS_WATCH_STOPPED;
        return;
    }
    bool pending = strcmp(queued->state, "PENDING") == 0;
    if (pending)
        ks__watch_text(t->reason, sizeof t->reason, queued->reason);
    else if (t->state != KS_WATCH_RUNNING)
        ks__watch_text(t->host, sizeof t->host, queued->node);
    t->state = pending ? KS_WATCH_QUEUED : KS_WATCH_RUNNING;
}

void ks__watch_job_words(const char *run, const ks_watch_stage *s,
                         ks_job_part part, const ks_jobs *jobs,
                         ks_watch_task *t) {
    char path[PATH_MAX], task[16] = "";
    int in;
    const ks_job *job = job_of(jobs, s, part, t->shard, &in);
    if (!job || t->said[0] || t->state != KS_WATCH_FAILED) return;
    if (in) snprintf(task, sizeof task, "_%d", in);
    snprintf(path, sizeof path, "%s/slurm/%s%s.%lld%s.log", run, s->id,
             part == KS_JOB_JOIN ? ".join" : "", job->id, task);
    if (!ks_file_exists(path)) return;
    snprintf(t->log, sizeof t->log, "%s", path + strlen(run) + 1);
    ks__watch_last_line(path, t->said, sizeof t->said);
}
