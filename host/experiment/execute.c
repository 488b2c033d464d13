/* execute.c - see execute.h: one thread, which starts children and waits. */
#include "execute.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

typedef enum phase { WAITS, RUNS, ENDED } phase;

typedef struct job {
    ks_exp_task task;
    phase phase;
    int tries;
} job;

typedef struct pool {
    ks_exp_run *run;
    const ks_exp_options *options;
    int workers, ranks, threads;
    job *jobs;
    size_t n_jobs, capacity;
    bool *dealt, *failed, *to_do; /* [n_stages] */
    int *shards_left;             /* [n_stages] */
    ks_exp_child *children;       /* [workers], the first n_running run */
    size_t *of;                   /* [workers] the child's job */
    char **backends;              /* [workers] its devices, NULL: all */
    int n_running, n_to_do;
    int stopped;      /* signals so far */
    ks_str complaint; /* of stages that failed */
    int n_failed;
    sigset_t ours, before;
} pool;

/* ------------------------------------------------------------- what is left */

int ks_exp_to_do(const ks_exp_run *run, bool *to_do) {
    const ks_exp_plan *p = &run->plan;
    int n = 0;
    for (size_t i = 0; i < p->n_stages; i++) to_do[i] = false;
    for (size_t i = p->n_stages; i-- > 0;) { /* those that take stand behind */
        ks_exp_state state = ks_exp_run_state(run, (int)i);
        bool taken = false;
        for (size_t k = i + 1; k < p->n_stages; k++)
            for (size_t m = 0; m < p->stages[k].n_inputs; m++) {
                if (p->stages[k].inputs[m].stage != (int)i) continue;
                taken = true;
                to_do[i] |= to_do[k];
            }
        if (state == KS_EXP_DONE)
            to_do[i] = false;
        else if (state != KS_EXP_GONE || !taken)
            to_do[i] = true;
        n += to_do[i];
    }
    return n;
}

ks_status ks_exp_clear(ks_exp_run *run, int stage, ks_err *err) {
    /* another process may have made it since we looked */
    ks_status st = ks_exp_run_look(run, stage, err);
    if (st != KS_OK) return st;
    ks_exp_state state = ks_exp_run_state(run, stage);
    if (state != KS_EXP_STALE && state != KS_EXP_GONE) return KS_OK;
    return ks_exp_stage_drop(run, stage, err);
}

static void tell(pool *p, ks_exp_happening what, const ks_exp_child *child,
                 const char *why) {
    ks_exp_event event = {what,
                          child,
                          p->children,
                          p->n_running,
                          (int)p->run->plan.n_stages - p->n_to_do,
                          p->n_to_do,
                          why};
    if (p->options->tell) p->options->tell(p->options->user, &event);
}

/* ----------------------------------------------------------------- dealing */

static ks_status add_job(pool *p, ks_exp_task task, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_grow(&p->jobs, &p->capacity, p->n_jobs + 1, sizeof *p->jobs,
                   "tasks", err));
    p->jobs[p->n_jobs++] = (job){.task = task};
done:
    return st;
}

static ks_status deal(pool *p, int stage, ks_err *err) {
    ks_status st = KS_OK;
    int n;
    p->dealt[stage] = true;
    KS_TRY(ks_exp_clear(p->run, stage, err));
    KS_TRY(ks_exp_shards(p->run, stage, p->ranks, &n, err));
    if (n < 2) return add_job(p, (ks_exp_task){stage, KS_EXP_WHOLE, 0, 0}, err);
    for (int k = 1; k <= n; k++) {
        ks_exp_task shard = {stage, KS_EXP_SHARD, k, n};
        if (ks_exp_shard_is_there(p->run, &shard)) continue;
        p->shards_left[stage]++;
        KS_TRY(add_job(p, shard, err));
    }
    KS_TRY(add_job(p, (ks_exp_task){stage, KS_EXP_JOIN, 0, n}, err));
done:
    return st;
}

static bool has_its_inputs(const pool *p, const ks_exp_stage *s) {
    for (size_t i = 0; i < s->n_inputs; i++)
        if (s->inputs[i].stage >= 0 && p->to_do[s->inputs[i].stage])
            return false;
    return true;
}

/* Deals what has become ready. */
static ks_status settle(pool *p, ks_err *err) {
    ks_status st = KS_OK;
    p->n_to_do = ks_exp_to_do(p->run, p->to_do);
    for (size_t i = 0; i < p->run->plan.n_stages; i++)
        if (p->to_do[i] && !p->dealt[i] &&
            has_its_inputs(p, &p->run->plan.stages[i]))
            KS_TRY(deal(p, (int)i, err));
done:
    return st;
}

/* ---------------------------------------------------------------- starting */

static bool may_start(const pool *p, const job *j) {
    int stage = j->task.stage;
    return j->phase == WAITS && !p->failed[stage] &&
           (j->task.kind != KS_EXP_JOIN || p->shards_left[stage] == 0);
}

/* machine.threads, or machine.COMMAND.threads; 0: not said. */
static int threads_in(const ks_doc *machine) {
    const ks_doc *item = ks_doc_find(machine, "threads");
    int64_t n = 0;
    return item && ks_doc_whole(item, &n) ? (int)n : 0;
}

/* Threads for one more child, beside those that run and will: no more than
 * machine.COMMAND.threads. */
static int share(const pool *p, const ks_exp_stage *s) {
    if (p->workers == 1) return p->options->threads;
    int beside = p->n_running;
    int most = threads_in(ks_doc_find(s->machine, s->section->name));
    for (size_t i = 0; i < p->n_jobs; i++) beside += may_start(p, &p->jobs[i]);
    int n = KS_MAX(1, p->threads / KS_MAX(1, KS_MIN(p->workers, beside)));
    return most ? KS_MIN(n, most) : n;
}

static ks_status start(pool *p, size_t at, ks_err *err) {
    ks_status st = KS_OK;
    ks_exp_child *c = &p->children[p->n_running];
    job *j = &p->jobs[at];
    int slot = 0; /* the lowest whose devices are free */
    for (int i = 0; i < p->n_running; i++)
        if (p->children[i].site.backend == p->backends[slot] &&
            p->backends[slot])
            slot++, i = -1;
    ks_exp_site site = {.threads =
                            share(p, &p->run->plan.stages[j->task.stage]),
                        .backend = p->backends[slot],
                        .scratch = p->options->scratch};
    c->command = 0;
    KS_TRY(ks_exp_task_start(c, p->run, &j->task, &site, err));
    p->of[p->n_running++] = at;
    j->phase = RUNS;
    j->tries++;
    tell(p, KS_EXP_STARTED, c, NULL);
done:
    return st;
}

static ks_status start_some(pool *p, ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < p->n_jobs && p->n_running < p->workers; i++)
        if (!p->stopped && may_start(p, &p->jobs[i])) KS_TRY(start(p, i, err));
done:
    return st;
}

/* ------------------------------------------------------------------ ending */

static ks_status complain(pool *p, const ks_exp_child *c, ks_err *err) {
    const ks_exp_stage *s = &p->run->plan.stages[c->task.stage];
    p->n_failed += !p->failed[c->task.stage]; /* of its shards all may */
    p->failed[c->task.stage] = true;
    return ks_str_printf(&p->complaint, err, "%s%s (%s): %s [%s]",
                         p->complaint.length ? "; " : "", s->id,
                         ks_exp_task_name_of(&c->task).text,
                         c->why[0] ? c->why : "it said nothing", c->log);
}

static ks_status take_end(pool *p, ks_exp_child *c, job *j, ks_exp_end end,
                          ks_err *err) {
    ks_status st = KS_OK;
    j->phase = ENDED;
    if (end == KS_EXP_END_GOOD) {
        if (j->task.kind == KS_EXP_SHARD) p->shards_left[j->task.stage]--;
        KS_TRY(settle(p, err));
        tell(p, KS_EXP_ENDED, c, NULL);
    } else if (end == KS_EXP_END_INTERRUPTED) {
        if (!p->stopped) p->stopped = 1;
        tell(p, KS_EXP_STOPPED, c, c->why);
    } else if (end == KS_EXP_END_FAILED && j->tries <= p->options->retries &&
               !p->stopped) {
        j->phase = WAITS;
        tell(p, KS_EXP_RETRIED, c, c->why);
    } else {
        KS_TRY(complain(p, c, err));
        tell(p, KS_EXP_FAILED, c, c->why);
    }
done:
    return st;
}

/* A child that has ended gives its place to the last one. */
static ks_status reap(pool *p, int i, int status, ks_err *err) {
    ks_status st = KS_OK;
    ks_exp_child *c = &p->children[i];
    job *j = &p->jobs[p->of[i]];
    ks_exp_end end;
    bool more;
    st = ks_exp_task_ended(c, p->run, status, &end, &more, err);
    if (st != KS_OK && st != KS_NOMEM &&
        err) { /* its outputs, or moving them */
        snprintf(c->why, sizeof c->why, "%.500s", err->text);
        end = KS_EXP_END_FAILED;
        more = false;
        st = KS_OK;
    }
    KS_TRY(st);
    if (more && !p->stopped) {
        st = ks_exp_task_start(c, p->run, &c->task, &c->site, err);
        if (st == KS_OK) return st;
        goto done; /* it has no process that could be stopped */
    }
    if (more) end = KS_EXP_END_INTERRUPTED;
    KS_TRY(take_end(p, c, j, end, err));
done:
    ks_exp_task_close(c);
    p->n_running--;
    p->children[i] = p->children[p->n_running];
    p->of[i] = p->of[p->n_running];
    return st;
}

static void stop_children(const pool *p) {
    for (int i = 0; i < p->n_running; i++) kill(p->children[i].pid, SIGTERM);
}

/* Until a child ends or half a second is over. */
static ks_status wait_a_while(pool *p, ks_err *err) {
    ks_status st = KS_OK;
    struct timespec moment = {0, 500000000};
    int number = sigtimedwait(&p->ours, NULL, &moment);
    if (number == SIGINT || number == SIGTERM || number == SIGUSR1) {
        p->stopped++;
        stop_children(p);
    }
    for (int i = p->n_running - 1; i >= 0; i--) {
        int status;
        pid_t got = waitpid(p->children[i].pid, &status, WNOHANG);
        bool stopped = p->stopped != 0;
        if (got == p->children[i].pid) KS_TRY(reap(p, i, status, err));
        /* one that was stopped by others stops all */
        if (!stopped && p->stopped) stop_children(p);
    }
    if (p->n_running) tell(p, KS_EXP_TICK, NULL, NULL);
done:
    return st;
}

/* ------------------------------------------------------------------- whole */

static int processors(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return KS_MAX(1, n);
}

/* A list of devices is dealt to the workers. */
static ks_status deal_devices(pool *p, ks_err *err) {
    ks_status st = KS_OK;
    const char *list =
        ks_exp_text(ks_doc_find(&p->run->exp.root, "machine"), "backend");
    size_t n = 1;
    if (!list || !strchr(list, ',') || p->workers < 2) return KS_OK;
    for (const char *at = list; (at = strchr(at, ',')); at++) n++;
    for (int i = 0; i < p->workers; i++) {
        const char *at = list;
        for (size_t k = (size_t)i % n; k > 0; k--) at = strchr(at, ',') + 1;
        p->backends[i] = strndup(at, strcspn(at, ","));
        KS_CHECK(p->backends[i], KS_NOMEM, "out of memory for devices");
    }
done:
    return st;
}

static ks_status open_pool(pool *p, ks_exp_run *run,
                           const ks_exp_options *options, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = run->plan.n_stages + 1;
    *p = (pool){.run = run, .options = options};
    sigemptyset(&p->ours);
    sigaddset(&p->ours, SIGINT);
    sigaddset(&p->ours, SIGTERM);
    sigaddset(&p->ours, SIGUSR1);
    sigaddset(&p->ours, SIGCHLD);
    sigprocmask(SIG_BLOCK, &p->ours, &p->before);
    p->workers = KS_MAX(1, options->workers);
    p->ranks = options->ranks ? options->ranks : p->workers;
    int threads = threads_in(ks_doc_find(&run->exp.root, "machine"));
    p->threads = options->threads ? options->threads
                 : threads        ? threads
                                  : processors();
    size_t w = (size_t)p->workers;
    KS_TRY(ks_alloc(&p->dealt, n, sizeof *p->dealt, "stages", err));
    KS_TRY(ks_alloc(&p->failed, n, sizeof *p->failed, "stages", err));
    KS_TRY(ks_alloc(&p->to_do, n, sizeof *p->to_do, "stages", err));
    KS_TRY(ks_alloc(&p->shards_left, n, sizeof(int), "stages", err));
    KS_TRY(ks_alloc(&p->children, w, sizeof *p->children, "workers", err));
    KS_TRY(ks_alloc(&p->of, w, sizeof *p->of, "workers", err));
    KS_TRY(ks_alloc(&p->backends, w + 1, sizeof *p->backends, "workers", err));
    KS_TRY(deal_devices(p, err));
done:
    return st;
}

static void close_pool(pool *p) {
    stop_children(p);
    for (int i = 0; i < p->n_running; i++) {
        waitpid(p->children[i].pid, NULL, 0);
        ks_exp_task_close(&p->children[i]);
    }
    for (int i = 0; p->backends && i < p->workers; i++) free(p->backends[i]);
    free(p->jobs);
    free(p->dealt);
    free(p->failed);
    free(p->to_do);
    free(p->shards_left);
    free(p->children);
    free(p->of);
    free(p->backends);
    ks_str_free(&p->complaint);
    sigprocmask(SIG_SETMASK, &p->before, NULL);
}

static ks_status work(pool *p, ks_err *err) {
    ks_status st = KS_OK;
    while (true) {
        KS_TRY(start_some(p, err));
        if (!p->n_running) break;
        KS_TRY(wait_a_while(p, err));
    }
    KS_CHECK(!p->stopped, KS_INTERRUPTED,
             "interrupted; %s keeps what is done, and the same command goes on",
             p->run->shown);
    KS_CHECK(!p->n_failed, KS_IO, "%d of %zu stages failed: %s", p->n_failed,
             p->run->plan.n_stages, p->complaint.data);
done:
    return st;
}

ks_status ks_exp_execute(ks_exp_run *run, const ks_exp_options *options,
                         ks_err *err) {
    ks_status st = KS_OK;
    pool p;
    st = open_pool(&p, run, options, err);
    /* signals wait from here on: one that came before was not ours to see */
    if (st == KS_OK && ks_interrupted)
        st = ks_fail(err, KS_INTERRUPTED, "interrupted");
    if (st == KS_OK) st = settle(&p, err);
    if (st == KS_OK) st = work(&p, err);
    close_pool(&p);
    if (st == KS_OK) st = ks_exp_run_link(run, err);
    return st;
}

/* ---------------------------------------------------------------- one task */

static ks_status check_task(const ks_exp_run *run, const ks_exp_task *task,
                            ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &run->plan.stages[task->stage];
    KS_CHECK(task->kind == KS_EXP_WHOLE || s->shards, KS_USAGE,
             "%s: keystep %s has no shards", s->id, s->section->name);
    for (size_t i = 0; i < s->n_inputs; i++) {
        int of = s->inputs[i].stage;
        KS_CHECK(of < 0 || ks_exp_run_state(run, of) == KS_EXP_DONE,
                 KS_MISMATCH, "%s takes from %s, which is not done", s->id,
                 run->plan.stages[of].id);
    }
done:
    return st;
}

ks_status ks_exp_execute_task(ks_exp_run *run, const ks_exp_task *task,
                              const ks_exp_options *options, ks_err *err) {
    ks_status st = KS_OK;
    ks_exp_task t = *task;
    pool p;
    KS_TRY(check_task(run, task, err));
    ks_exp_state state = ks_exp_run_state(run, t.stage);
    if (state == KS_EXP_DONE) return KS_OK;
    /* others may be at its other shards: clearing it is for who sees all */
    KS_CHECK(state != KS_EXP_STALE || t.kind == KS_EXP_WHOLE, KS_MISMATCH,
             "%s was made of inputs that were made anew since: its shards are "
             "of the old ones; 'keystep launch' removes them, and 'keystep run "
             "%s --again %s' makes it anew",
             run->plan.stages[t.stage].id, run->shown,
             run->plan.stages[t.stage].id);
    if (t.kind == KS_EXP_WHOLE) KS_TRY(ks_exp_clear(run, t.stage, err));
    if (t.kind != KS_EXP_WHOLE)
        KS_TRY(ks_exp_shards(run, t.stage, task->of, &t.of, err));
    if (t.kind == KS_EXP_SHARD &&
        (t.shard > t.of || ks_exp_shard_is_there(run, &t)))
        return KS_OK;
    st = open_pool(&p, run, options, err);
    if (st == KS_OK) {
        for (size_t i = 0; i < run->plan.n_stages; i++) p.dealt[i] = true;
        p.n_to_do = ks_exp_to_do(run, p.to_do);
        st = add_job(&p, t, err);
    }
    if (st == KS_OK) st = work(&p, err);
    close_pool(&p);
    if (st == KS_OK && t.stage == run->plan.report)
        st = ks_exp_run_link(run, err);
done:
    return st;
}
