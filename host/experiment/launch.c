/* launch.c - which jobs are to be there, and which of them are. See launch.h.
 */
#include "launch_state.h"

#include <stdlib.h>
#include <string.h>

void ks_launch_close(ks_launch *launch) {
    for (size_t i = 0; i < launch->n; i++) {
        free(launch->units[i].tasks);
        free(launch->units[i].queued);
        free(launch->units[i].after);
    }
    free(launch->units);
    free(launch->cancel);
    free(launch->to_do);
    free(launch->last);
    ks_jobs_free(&launch->jobs);
    *launch = (ks_launch){0};
}

size_t ks_launch_count(const ks_launch *launch) {
    size_t n = 0;
    for (size_t i = 0; i < launch->n; i++) {
        const ks_launch_unit *u = &launch->units[i];
        if (u->submit) n += u->part == KS_JOB_SHARDS ? u->n_tasks : 1;
    }
    return n;
}

ks_slurm_script ks__launch_script(const ks_launch *launch, int stage,
                                  ks_job_part part) {
    const ks_section *section = launch->run->plan.stages[stage].section;
    /* what joins cells is the command itself, what joins files needs no GPU */
    bool device = ks_section_has(section, "backend") &&
                  (part != KS_JOB_JOIN || ks_section_has(section, "cells"));
    return (ks_slurm_script){.kind = section->name,
                             .part = part,
                             .device = device,
                             .retries = launch->options->retries,
                             .program = launch->options->program,
                             .scratch = launch->options->scratch,
                             .options = launch->options->slurm};
}

const ks_exp_stage *ks_launch_idle_gpus(const ks_launch *launch) {
    for (size_t i = 0; i < launch->n; i++) {
        const ks_launch_unit *u = &launch->units[i];
        const ks_exp_stage *s = &launch->run->plan.stages[u->stage];
        const char *backend = ks_exp_machine(s, "backend");
        ks_slurm_script script = ks__launch_script(launch, u->stage, u->part);
        if (u->submit && script.device && ks_slurm_gpus(&script) &&
            (!backend || strcmp(backend, "cpu") == 0))
            return s;
    }
    return NULL;
}

/* ------------------------------------------------------------------- units */

typedef struct planning {
    ks_launch *launch;
    const ks_queue *queue;
} planning;

static ks_status add_unit(ks_launch *l, int stage, ks_job_part part, int shards,
                          ks_launch_unit **unit, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_grow(&l->units, &l->capacity, l->n + 1, sizeof *l->units, "jobs",
                   err));
    *unit = &l->units[l->n];
    **unit = (ks_launch_unit){.stage = stage, .part = part, .shards = shards};
    l->last[stage] = l->n++;
done:
    return st;
}

static ks_status add_cancel(ks_launch *l, long long id, ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < l->n_cancel; i++)
        if (l->cancel[i] == id) return KS_OK;
    KS_TRY(ks_grow(&l->cancel, &l->cancel_capacity, l->n_cancel + 1,
                   sizeof *l->cancel, "jobs", err));
    l->cancel[l->n_cancel++] = id;
done:
    return st;
}

static ks_status add_queued(ks_launch_unit *u, long long id, int task,
                            ks_err *err) {
    size_t n = u->n_queued + 1;
    ks_launch_queued *grown = reallocarray(u->queued, n, sizeof *grown);
    if (!grown) return ks_fail(err, KS_NOMEM, "out of memory for jobs");
    u->queued = grown;
    grown[u->n_queued++] = (ks_launch_queued){id, task};
    return KS_OK;
}

/* The last units of what the stage takes from. *fresh: one of them is still to
 * be submitted. */
static ks_status wait_for_inputs(const ks_launch *l, ks_launch_unit *u,
                                 bool *fresh, ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &l->run->plan.stages[u->stage];
    *fresh = false;
    KS_TRY(ks_alloc(&u->after, s->n_inputs, sizeof *u->after, "jobs", err));
    for (size_t i = 0; i < s->n_inputs; i++) {
        int of = s->inputs[i].stage;
        if (of < 0 || !l->to_do[of]) continue;
        bool twice = false;
        for (size_t k = 0; k < u->n_after; k++)
            twice |= u->after[k] == l->last[of];
        if (!twice) u->after[u->n_after++] = l->last[of];
        *fresh |= l->units[l->last[of]].submit;
    }
done:
    return st;
}

/* The job of a part that has not ended; NULL: none. */
static const ks_job *queued_job(const planning *p, const char *stage,
                                ks_job_part part, int task) {
    const ks_job *job = ks_jobs_last(&p->launch->jobs, stage, part, task);
    return job && ks_queue_find(p->queue, job->id, task) ? job : NULL;
}

/* One job: it stays if it is queued and waits for nothing new. */
static ks_status settle(const planning *p, ks_launch_unit *u, bool fresh,
                        ks_err *err) {
    ks_status st = KS_OK;
    ks_launch *l = p->launch;
    const char *id = l->run->plan.stages[u->stage].id;
    const ks_job *job = queued_job(p, id, u->part, 0);
    u->submit = !job || fresh;
    if (!job) goto done;
    KS_CHECK(job->shards == u->shards, KS_MISMATCH,
             "%s is queued with %d shards, not %d: scancel %lld first, or "
             "launch it with --ranks %d",
             id, job->shards, u->shards, job->id, job->shards);
    if (u->submit)
        KS_TRY(add_cancel(l, job->id, err));
    else
        KS_TRY(add_queued(u, job->id, 0, err));
done:
    return st;
}

/* n: how many shards there will be, fewer than ranks where lines are few. */
static bool task_is_there(const ks_launch *l, const ks_launch_unit *u, int n,
                          int each, int task) {
    bool there = true;
    for (int k = (task - 1) * each + 1; k <= task * each && k <= n; k++)
        there &= ks_exp_shard_is_there(
            l->run, &(ks_exp_task){u->stage, KS_EXP_SHARD, k, n});
    return there;
}

static ks_status settle_task(const planning *p, ks_launch_unit *u, int n,
                             int each, int task, bool fresh, ks_err *err) {
    ks_status st = KS_OK;
    ks_launch *l = p->launch;
    const char *id = l->run->plan.stages[u->stage].id;
    const ks_job *job = queued_job(p, id, KS_JOB_SHARDS, task);
    KS_CHECK(!job || (job->shards == u->shards && job->shards_a_task == each),
             KS_MISMATCH,
             "%s is queued with %d shards, %d a job, not %d and %d: scancel "
             "%lld first",
             id, job->shards, job->shards_a_task, u->shards, each, job->id);
    if (job && fresh) KS_TRY(add_cancel(l, job->id, err));
    if (job && !fresh)
        KS_TRY(add_queued(u, job->id, task, err));
    else if (fresh || !task_is_there(l, u, n, each, task))
        u->tasks[u->n_tasks++] = task;
done:
    return st;
}

/* An array of what is missing, and what joins it. */
static ks_status plan_shards(const planning *p, int stage, int shards,
                             ks_err *err) {
    ks_status st = KS_OK;
    ks_launch *l = p->launch;
    ks_launch_unit *u;
    bool fresh;
    ks_slurm_script script = ks__launch_script(l, stage, KS_JOB_SHARDS);
    int each = ks_slurm_shards_a_task(&script);
    int n = shards, n_tasks = (shards + each - 1) / each;
    KS_TRY(add_unit(l, stage, KS_JOB_SHARDS, shards, &u, err));
    KS_TRY(wait_for_inputs(l, u, &fresh, err));
    KS_TRY(
        ks_alloc(&u->tasks, (size_t)n_tasks, sizeof *u->tasks, "tasks", err));
    for (int task = 1; task <= n_tasks; task++)
        KS_TRY(settle_task(p, u, n, each, task, fresh, err));
    u->submit = u->n_tasks > 0;
    size_t of = l->last[stage];
    fresh = u->submit;
    bool waits = u->submit || u->n_queued;
    KS_TRY(add_unit(l, stage, KS_JOB_JOIN, shards, &u, err));
    KS_TRY(ks_alloc(&u->after, 1, sizeof *u->after, "jobs", err));
    if (waits) u->after[u->n_after++] = of;
    KS_TRY(settle(p, u, fresh, err));
done:
    return st;
}

static ks_status plan_stage(const planning *p, int stage, ks_err *err) {
    ks_status st = KS_OK;
    ks_launch *l = p->launch;
    ks_slurm_script script = ks__launch_script(l, stage, KS_JOB_SHARDS);
    int ranks =
        l->options->ranks ? l->options->ranks : ks_slurm_shards_a_task(&script);
    if (l->run->plan.stages[stage].shards && ranks > 1)
        return plan_shards(p, stage, ranks, err);
    ks_launch_unit *u;
    bool fresh;
    KS_TRY(add_unit(l, stage, KS_JOB_STAGE, 1, &u, err));
    KS_TRY(wait_for_inputs(l, u, &fresh, err));
    KS_TRY(settle(p, u, fresh, err));
done:
    return st;
}

ks_status ks_launch_plan(ks_launch *out, ks_exp_run *run,
                         const ks_launch_options *options, ks_err *err) {
    ks_status st = KS_OK;
    ks_queue queue = {0};
    size_t n = run->plan.n_stages;
    bool there = true;
    *out = (ks_launch){.run = run, .options = options};
    planning p = {out, &queue};
    KS_TRY(ks_alloc(&out->to_do, n + 1, sizeof *out->to_do, "stages", err));
    KS_TRY(ks_alloc(&out->last, n + 1, sizeof *out->last, "stages", err));
    KS_TRY(ks_jobs_read(&out->jobs, run->folder, err));
    if (out->jobs.n) KS_TRY(ks_queue_ask(&queue, &there, err));
    KS_CHECK(there, KS_IO,
             "%s/slurm/jobs.json names jobs, and there is no squeue to say "
             "which are still there",
             run->shown);
    /* the queue first: a job that has left it since has left its record */
    for (size_t i = 0; i < n; i++) KS_TRY(ks_exp_run_look(run, (int)i, err));
    ks_exp_to_do(run, out->to_do);
    for (size_t i = 0; i < n; i++)
        if (out->to_do[i]) KS_TRY(plan_stage(&p, (int)i, err));
done:
    ks_queue_free(&queue);
    if (st != KS_OK) ks_launch_close(out);
    return st;
}
