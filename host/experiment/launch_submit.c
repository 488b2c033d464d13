/* launch_submit.c - scripts written, jobs submitted. See launch.h. */
#include "launch_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ----------------------------------------------------------------- scripts */

static bool same_script(const ks_launch *l, const ks_launch_unit *a,
                        const ks_launch_unit *b) {
    const ks_exp_stage *s = l->run->plan.stages;
    return a->part == b->part && s[a->stage].section == s[b->stage].section;
}

/* The first of those that are submitted with its script? */
static bool brings_script(const ks_launch *l, size_t i) {
    for (size_t k = 0; k < i; k++)
        if (l->units[k].submit && same_script(l, &l->units[k], &l->units[i]))
            return false;
    return l->units[i].submit;
}

static ks_status make_script(const ks_launch *l, const ks_launch_unit *u,
                             char **name, ks_str *text, ks_err *err) {
    ks_status st = KS_OK;
    ks_slurm_script script = ks__launch_script(l, u->stage, u->part);
    KS_TRY(ks_slurm_script_name(&script, name, err));
    KS_TRY(ks_slurm_script_text(&script, text, err));
done:
    return st;
}

/* Another script than there was takes its place whole. */
static ks_status write_script(const ks_launch *l, const ks_launch_unit *u,
                              ks_err *err) {
    ks_status st = KS_OK;
    char *name = NULL, *path = NULL;
    ks_str text = {0};
    KS_TRY(make_script(l, u, &name, &text, err));
    KS_CHECK(asprintf(&path, "%s/slurm/%s", l->run->folder, name) >= 0,
             KS_NOMEM, "out of memory for a path");
    KS_TRY(ks_write_file(path, text.data, text.length, true, err));
    KS_CHECK(chmod(path, 0755) == 0, KS_IO, "%s: cannot make it executable: %s",
             path, strerror(errno));
done:
    free(name);
    free(path);
    ks_str_free(&text);
    return st;
}

/* ------------------------------------------------------------------ sbatch */

typedef struct words {
    char *at[10]; /* ends with NULL */
    size_t n;
} words;

static ks_status add(words *w, char *text, ks_err *err) {
    if (!text) return ks_fail(err, KS_NOMEM, "out of memory for a command");
    w->at[w->n++] = text;
    return KS_OK;
}

static void free_words(words *w) {
    for (size_t i = 0; i < w->n; i++) free(w->at[i]);
}

/* "1-4,7" */
static ks_status list_tasks(const ks_launch_unit *u, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < u->n_tasks;) {
        size_t k = i;
        while (k + 1 < u->n_tasks && u->tasks[k + 1] == u->tasks[k] + 1) k++;
        KS_TRY(ks_str_printf(out, err, "%s%d", i ? "," : "", u->tasks[i]));
        if (k > i) KS_TRY(ks_str_printf(out, err, "-%d", u->tasks[k]));
        i = k + 1;
    }
done:
    return st;
}

/* shell: jobs that are not submitted yet by the variables that --print sets. */
static ks_status list_after(const ks_launch *l, const ks_launch_unit *u,
                            bool shell, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < u->n_after; i++) {
        const ks_launch_unit *a = &l->units[u->after[i]];
        /* task by task: an array that has lost one is never all well */
        for (size_t k = 0; k < a->n_queued; k++) {
            KS_TRY(ks_str_printf(out, err, ":%lld", a->queued[k].id));
            if (a->queued[k].task)
                KS_TRY(ks_str_printf(out, err, "_%d", a->queued[k].task));
        }
        if (a->submit && shell)
            KS_TRY(ks_str_printf(out, err, ":$job%zu", u->after[i] + 1));
        else if (a->submit)
            KS_TRY(ks_str_printf(out, err, ":%lld", a->id));
    }
done:
    return st;
}

static char *format_word(const char *before, const char *text) {
    char *word = NULL;
    return asprintf(&word, "%s%s", before, text) < 0 ? NULL : word;
}

static ks_status sbatch_words(const ks_launch *l, const ks_launch_unit *u,
                              bool shell, words *w, ks_err *err) {
    ks_status st = KS_OK;
    const char *id = l->run->plan.stages[u->stage].id;
    const char *end = u->part == KS_JOB_JOIN ? ".join" : "";
    ks_str tasks = {0}, after = {0};
    char *name = NULL, number[16], job[80];
    ks_slurm_script script = ks__launch_script(l, u->stage, u->part);
    snprintf(job, sizeof job, "%s%s", id, end);
    snprintf(number, sizeof number, "%d", u->shards);
    KS_TRY(ks_slurm_script_name(&script, &name, err));
    KS_TRY(list_tasks(u, &tasks, err));
    KS_TRY(list_after(l, u, shell, &after, err));
    KS_TRY(add(w, strdup("sbatch"), err));
    KS_TRY(add(w, strdup("--parsable"), err));
    KS_TRY(add(w, format_word("--job-name=", job), err));
    if (tasks.length) KS_TRY(add(w, format_word("--array=", tasks.data), err));
    if (after.length)
        KS_TRY(add(w, format_word("--dependency=afterok", after.data), err));
    KS_TRY(add(w, format_word("slurm/", name), err));
    KS_TRY(add(w, strdup(id), err));
    if (u->part != KS_JOB_STAGE) KS_TRY(add(w, strdup(number), err));
done:
    free(name);
    ks_str_free(&tasks);
    ks_str_free(&after);
    return st;
}

/* ------------------------------------------------------------------- print */

ks_status ks_launch_print(const ks_launch *l, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    char *name = NULL;
    words w = {0};
    for (size_t i = 0; i < l->n; i++) {
        if (!brings_script(l, i)) continue;
        ks_str text = {0};
        st = make_script(l, &l->units[i], &name, &text, err);
        if (st == KS_OK)
            st = ks_str_printf(out, err, "==> slurm/%s <==\n%s\n", name,
                               text.data);
        ks_str_free(&text);
        free(name);
        name = NULL;
        KS_TRY(st);
    }
    KS_TRY(
        ks_str_printf(out, err, "==> submitted, in %s <==\n", l->run->folder));
    for (size_t i = 0; i < l->n_cancel; i++)
        KS_TRY(ks_str_printf(out, err, "scancel %lld\n", l->cancel[i]));
    for (size_t i = 0; i < l->n; i++) {
        if (!l->units[i].submit) continue;
        KS_TRY(sbatch_words(l, &l->units[i], true, &w, err));
        KS_TRY(ks_str_printf(out, err, "job%zu=$(", i + 1));
        for (size_t k = 0; k < w.n; k++)
            KS_TRY(ks_str_printf(out, err, "%s%s", k ? " " : "", w.at[k]));
        KS_TRY(ks_str_printf(out, err, ")\n"));
        free_words(&w);
        w = (words){0};
    }
done:
    free_words(&w);
    return st;
}

/* ------------------------------------------------------------------ submit */

/* Failures of earlier launches do not count against this one. */
static void forget_failures(const ks_launch *l, const ks_launch_unit *u) {
    const char *id = l->run->plan.stages[u->stage].id;
    const char *join = u->part == KS_JOB_JOIN ? ".join" : "";
    for (size_t i = 0; i < KS_MAX(u->n_tasks, 1); i++) {
        char *path = NULL, task[16] = "";
        if (u->n_tasks) snprintf(task, sizeof task, ".%d", u->tasks[i]);
        if (asprintf(&path, "%s/slurm/%s%s%s.failures", l->run->folder, id,
                     join, task) < 0)
            return;
        unlink(path);
        free(path);
    }
}

/* "17", or "17;cluster" */
static ks_status read_id(const char *said, long long *id, ks_err *err) {
    char *end = NULL;
    errno = 0;
    *id = strtoll(said, &end, 10);
    if (errno || *id <= 0 || (*end && *end != '\n' && *end != ';'))
        return ks_fail(err, KS_IO,
                       "sbatch answered '%.60s', not a job's number", said);
    return KS_OK;
}

/* Noted at once: a job that nobody knows of would be submitted twice. */
static ks_status note(ks_launch *l, const ks_launch_unit *u, ks_err *err) {
    ks_status st = KS_OK;
    char now[32];
    ks_slurm_script script = ks__launch_script(l, u->stage, u->part);
    ks_job job = {.part = u->part, .shards = u->shards, .id = u->id};
    ks_exp_now(now);
    job.shards_a_task = ks_slurm_shards_a_task(&script);
    job.stage = strdup(l->run->plan.stages[u->stage].id);
    job.submitted = strdup(now);
    KS_CHECK(job.stage && job.submitted, KS_NOMEM, "out of memory for a job");
    KS_TRY(ks_alloc(&job.tasks, u->n_tasks, sizeof *job.tasks, "tasks", err));
    if (u->n_tasks) memcpy(job.tasks, u->tasks, u->n_tasks * sizeof *job.tasks);
    job.n_tasks = u->n_tasks;
    KS_TRY(ks_jobs_add(&l->jobs, &job, err));
    KS_TRY(ks_jobs_write(&l->jobs, l->run->folder, err));
done:
    ks_job_free(&job);
    return st;
}

static ks_status submit(ks_launch *l, ks_launch_unit *u, ks_err *err) {
    ks_status st = KS_OK;
    words w = {0};
    char *said = NULL;
    forget_failures(l, u);
    KS_TRY(sbatch_words(l, u, false, &w, err));
    KS_TRY(ks_slurm_run(w.at, l->run->folder, &said, NULL, err));
    KS_TRY(read_id(said, &u->id, err));
    KS_TRY(note(l, u, err));
done:
    free_words(&w);
    free(said);
    return st;
}

static ks_status cancel(const ks_launch *l, ks_err *err) {
    ks_status st = KS_OK;
    char number[24], *argv[] = {"scancel", number, NULL}, *said = NULL;
    for (size_t i = 0; i < l->n_cancel; i++) {
        snprintf(number, sizeof number, "%lld", l->cancel[i]);
        KS_TRY(ks_slurm_run(argv, NULL, &said, NULL, err));
        free(said);
        said = NULL;
    }
done:
    free(said);
    return st;
}

/* What is stale goes before its jobs come, but nothing that jobs are at. */
static ks_status clear(const ks_launch *l, const ks_launch_unit *u,
                       ks_err *err) {
    bool first = u->part != KS_JOB_JOIN && !u->n_queued && u->submit;
    return first ? ks_exp_clear(l->run, u->stage, err) : KS_OK;
}

ks_status ks_launch_submit(ks_launch *l, ks_launch_fn told, void *user,
                           ks_err *err) {
    ks_status st = KS_OK;
    char *folder = NULL;
    KS_TRY(ks_path_join(&folder, l->run->folder, "slurm", err));
    KS_CHECK(mkdir(folder, 0777) == 0 || errno == EEXIST, KS_IO,
             "%s: cannot make the folder: %s", folder, strerror(errno));
    for (size_t i = 0; i < l->n; i++)
        if (brings_script(l, i)) KS_TRY(write_script(l, &l->units[i], err));
    KS_TRY(cancel(l, err));
    for (size_t i = 0; i < l->n; i++) {
        ks_launch_unit *u = &l->units[i];
        KS_TRY(clear(l, u, err));
        if (u->submit) KS_TRY(submit(l, u, err));
        if (told) told(user, l, u);
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    }
done:
    free(folder);
    return st;
}
