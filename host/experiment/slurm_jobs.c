/* slurm_jobs.c - what was submitted: RUN/slurm/jobs.json. See slurm.h. */
#include "slurm.h"

#include <stdlib.h>
#include <string.h>

static const char format_name[] = "keystep jobs";
static const char *const part_names[] = {"stage", "shards", "join"};
enum { VERSION = 1, MOST_SHARDS = 1 << 20 };

void ks_job_free(ks_job *job) {
    free(job->stage);
    free(job->tasks);
    free(job->submitted);
    *job = (ks_job){0};
}

void ks_jobs_free(ks_jobs *jobs) {
    for (size_t i = 0; i < jobs->n; i++) ks_job_free(&jobs->at[i]);
    free(jobs->at);
    *jobs = (ks_jobs){0};
}

ks_status ks_jobs_add(ks_jobs *jobs, ks_job *job, ks_err *err) {
    ks_status st = ks_grow(&jobs->at, &jobs->capacity, jobs->n + 1,
                           sizeof *jobs->at, "jobs", err);
    if (st != KS_OK) return st;
    jobs->at[jobs->n++] = *job;
    *job = (ks_job){0};
    return KS_OK;
}

/* ----------------------------------------------------------------- reading */

static ks_status read_text(json_t *object, const char *key, const char *where,
                           char **out, ks_err *err) {
    const char *text = NULL;
    size_t n = 0;
    ks_status st = ks_json_string(object, key, where, &text, &n, err);
    if (st != KS_OK) return st;
    *out = strndup(text, n);
    return *out ? KS_OK : ks_fail(err, KS_NOMEM, "out of memory for %s", key);
}

static ks_status read_tasks(json_t *object, const char *where, ks_job *job,
                            ks_err *err) {
    ks_status st = KS_OK;
    json_t *tasks = json_object_get(object, "tasks"), *task;
    size_t i;
    KS_CHECK(json_is_array(tasks) && json_array_size(tasks) <= MOST_SHARDS,
             KS_FORMAT, "%s: tasks: expected a list of numbers, found %s",
             where, ks_json_kind(tasks));
    KS_TRY(ks_alloc(&job->tasks, json_array_size(tasks), sizeof *job->tasks,
                    "tasks", err));
    json_array_foreach(tasks, i, task) {
        json_int_t least = i ? job->tasks[i - 1] + 1 : 1;
        KS_CHECK(json_is_integer(task) && json_integer_value(task) >= least &&
                     json_integer_value(task) <= job->shards,
                 KS_FORMAT,
                 "%s: tasks: expected ascending numbers from 1 to %d", where,
                 job->shards);
        job->tasks[i] = (int)json_integer_value(task);
    }
    job->n_tasks = json_array_size(tasks);
done:
    return st;
}

static ks_status read_job(json_t *object, const char *where, ks_job *job,
                          ks_err *err) {
    ks_status st = KS_OK;
    const char *part = NULL;
    int64_t shards = 1, each = 1, id = 0;
    KS_CHECK(json_is_object(object), KS_FORMAT,
             "%s: expected an object, found %s", where, ks_json_kind(object));
    KS_TRY(read_text(object, "stage", where, &job->stage, err));
    KS_TRY(ks_json_string(object, "part", where, &part, NULL, err));
    size_t k = 0;
    while (k < KS_COUNT(part_names) && strcmp(part_names[k], part) != 0) k++;
    KS_CHECK(k < KS_COUNT(part_names), KS_FORMAT,
             "%s: part '%.40s': expected stage, shards or join", where, part);
    job->part = (ks_job_part)k;
    KS_TRY(ks_json_int(object, "job", where, 1, INT64_MAX, &id, err));
    job->id = id;
    KS_TRY(read_text(object, "submitted", where, &job->submitted, err));
    if (job->part != KS_JOB_STAGE)
        KS_TRY(
            ks_json_int(object, "shards", where, 1, MOST_SHARDS, &shards, err));
    job->shards = (int)shards;
    if (job->part == KS_JOB_SHARDS) {
        KS_TRY(
            ks_json_int(object, "shards_a_task", where, 1, shards, &each, err));
        KS_TRY(read_tasks(object, where, job, err));
    }
    job->shards_a_task = (int)each;
done:
    return st;
}

static ks_status read_all(json_t *root, const char *path, ks_jobs *jobs,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_job job = {0};
    const char *format = NULL;
    int64_t version = 0;
    char where[400];
    size_t i;
    json_t *one, *list = json_object_get(root, "jobs");
    KS_CHECK(json_is_object(root), KS_FORMAT,
             "%s: expected an object, found %s", path, ks_json_kind(root));
    KS_TRY(ks_json_string(root, "format", path, &format, NULL, err));
    KS_CHECK(strcmp(format, format_name) == 0, KS_FORMAT,
             "%s: format '%.40s': expected '%s'", path, format, format_name);
    KS_TRY(ks_json_int(root, "version", path, VERSION, VERSION, &version, err));
    KS_CHECK(json_is_array(list), KS_FORMAT,
             "%s: jobs: expected a list, found %s", path, ks_json_kind(list));
    json_array_foreach(list, i, one) {
        snprintf(where, sizeof where, "%s: job %zu", path, i + 1);
        KS_TRY(read_job(one, where, &job, err));
        KS_TRY(ks_jobs_add(jobs, &job, err));
    }
done:
    ks_job_free(&job);
    return st;
}

static ks_status path_in(const char *run, char **path, ks_err *err) {
    return ks_path_join(path, run, "slurm/jobs.json", err);
}

ks_status ks_jobs_read(ks_jobs *jobs, const char *run, ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL, *text = NULL;
    size_t n = 0;
    json_t *root = NULL;
    json_error_t reason;
    KS_TRY(path_in(run, &path, err));
    if (!ks_file_exists(path)) goto done;
    KS_TRY(ks_read_file(path, KS_MOST_CONFIG, &text, &n, err));
    root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &reason);
    KS_CHECK(root, KS_FORMAT, "%s line %d: %s", path, reason.line, reason.text);
    KS_TRY(read_all(root, path, jobs, err));
done:
    json_decref(root);
    free(text);
    free(path);
    return st;
}

/* ----------------------------------------------------------------- writing */

static json_t *job_json(const ks_job *job) {
    json_t *object =
        json_pack("{s:s, s:s, s:I, s:s}", "stage", job->stage, "part",
                  part_names[job->part], "job", (json_int_t)job->id,
                  "submitted", job->submitted);
    if (job->part != KS_JOB_STAGE)
        json_object_set_new(object, "shards", json_integer(job->shards));
    if (job->part != KS_JOB_SHARDS) return object;
    json_object_set_new(object, "shards_a_task",
                        json_integer(job->shards_a_task));
    json_t *tasks = json_array();
    for (size_t i = 0; i < job->n_tasks; i++)
        json_array_append_new(tasks, json_integer(job->tasks[i]));
    json_object_set_new(object, "tasks", tasks);
    return object;
}

ks_status ks_jobs_write(const ks_jobs *jobs, const char *run, ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL, *text = NULL;
    json_t *list = json_array();
    for (size_t i = 0; i < jobs->n; i++)
        json_array_append_new(list, job_json(&jobs->at[i]));
    json_t *root = json_pack("{s:s, s:i, s:o}", "format", format_name,
                             "version", VERSION, "jobs", list);
    text = json_dumps(root, JSON_INDENT(2));
    KS_CHECK(text && json_array_size(list) == jobs->n, KS_NOMEM,
             "out of memory for jobs.json");
    KS_TRY(path_in(run, &path, err));
    KS_TRY(ks_write_file(path, text, strlen(text), true, err));
done:
    json_decref(root);
    free(text);
    free(path);
    return st;
}

const ks_job *ks_jobs_last(const ks_jobs *jobs, const char *stage,
                           ks_job_part part, int task) {
    for (size_t i = jobs->n; i-- > 0;) {
        const ks_job *job = &jobs->at[i];
        if (job->part != part || strcmp(job->stage, stage) != 0) continue;
        if (part != KS_JOB_SHARDS) return job;
        for (size_t k = 0; k < job->n_tasks; k++)
            if (job->tasks[k] == task) return job;
    }
    return NULL;
}
