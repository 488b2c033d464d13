/* watch.c - see watch.h. */
#include "watch.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MOST_STAGES = 1 << 16,
    MOST_SHARDS = 1 << 16,
    LONG = 60 /* seconds without a word that are worth one */
};

const char *ks_watch_state_name(ks_watch_state state) {
    static const char *const names[] = {"waiting", "queued", "running",
                                        "stopped", "failed", "done"};
    return names[state];
}

void ks_watch_free(ks_watch *watch) {
    for (size_t i = 0; i < watch->n; i++) {
        ks_watch_stage *s = &watch->stages[i];
        free(s->id);
        free(s->kind);
        free(s->what);
        free(s->cells);
        free(s->shards);
        free(s->after);
    }
    free(watch->stages);
    free(watch->name);
    *watch = (ks_watch){0};
}

/* -------------------------------------------------------------- run.json */

static ks_status copy_text(json_t *object, const char *key, const char *where,
                           char **out, ks_err *err) {
    const char *text = NULL;
    size_t n;
    ks_status st = ks_json_string(object, key, where, &text, &n, err);
    if (st != KS_OK) return st;
    *out = calloc(n + 1, 1);
    if (!*out) return ks_fail(err, KS_NOMEM, "out of memory for %s", key);
    ks__watch_text(*out, n + 1, text);
    return KS_OK;
}

/* It becomes part of paths. */
static bool is_id(const char *id) {
    return *id && strlen(id) < 64 &&
           strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(id);
}

static int find_stage(const ks_watch *watch, const char *id) {
    for (size_t i = 0; id && i < watch->n; i++)
        if (strcmp(watch->stages[i].id, id) == 0) return (int)i;
    return -1;
}

static ks_status read_inputs(const ks_watch *watch, json_t *object,
                             const char *where, ks_watch_stage *s,
                             ks_err *err) {
    ks_status st = KS_OK;
    json_t *list = json_object_get(object, "inputs"), *one;
    size_t i;
    KS_CHECK(json_is_array(list), KS_FORMAT,
             "%s: inputs: expected a list, found %s", where,
             ks_json_kind(list));
    KS_TRY(ks_alloc(&s->after, json_array_size(list), sizeof *s->after,
                    "inputs", err));
    json_array_foreach(list, i, one) {
        json_t *from = json_object_get(one, "stage");
        if (!from) continue; /* a file that is given */
        int stage = find_stage(watch, json_string_value(from));
        KS_CHECK(stage >= 0, KS_FORMAT,
                 "%s: input %zu: expected a stage that stands before it", where,
                 i + 1);
        s->after[s->n_after++] = stage;
    }
done:
    return st;
}

/* The stage counts from here on, also where the rest of it is refused. */
static ks_status read_stage(ks_watch *watch, json_t *object, const char *where,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_watch_stage *s = &watch->stages[watch->n];
    KS_CHECK(json_is_object(object), KS_FORMAT,
             "%s: expected an object, found %s", where, ks_json_kind(object));
    KS_TRY(copy_text(object, "id", where, &s->id, err));
    KS_CHECK(is_id(s->id) && find_stage(watch, s->id) < 0, KS_FORMAT,
             "%s: id '%.60s': expected a name such as capture-3f2a9c10b2, once",
             where, s->id);
    KS_TRY(copy_text(object, "stage", where, &s->kind, err));
    KS_TRY(copy_text(object, "what", where, &s->what, err));
    KS_TRY(copy_text(object, "cells", where, &s->cells, err));
    KS_TRY(read_inputs(watch, object, where, s, err));
done:
    watch->n++;
    return st;
}

static ks_status read_run(ks_watch *watch, const char *run, ks_err *err) {
    ks_status st = KS_OK;
    char *path = NULL, where[PATH_MAX + 64];
    const char *format = NULL;
    int64_t version = 0;
    json_t *root = NULL, *one;
    size_t i;
    KS_TRY(ks_path_join(&path, run, "run.json", err));
    KS_CHECK(ks_file_exists(path), KS_IO,
             "%s: not there: expected a folder of keystep run or launch", path);
    root = ks__watch_json(path);
    KS_CHECK(root, KS_FORMAT, "%s: not a JSON object", path);
    KS_TRY(ks_json_string(root, "format", path, &format, NULL, err));
    KS_CHECK(strcmp(format, "keystep run") == 0, KS_FORMAT,
             "%s: format '%.40s': expected 'keystep run'", path, format);
    KS_TRY(ks_json_int(root, "version", path, 1, 1, &version, err));
    KS_TRY(copy_text(root, "name", path, &watch->name, err));
    json_t *list = json_object_get(root, "stages");
    KS_CHECK(json_is_array(list) && json_array_size(list) <= MOST_STAGES,
             KS_FORMAT, "%s: stages: expected a list, found %s", path,
             ks_json_kind(list));
    KS_TRY(ks_alloc(&watch->stages, json_array_size(list),
                    sizeof *watch->stages, "stages", err));
    json_array_foreach(list, i, one) {
        snprintf(where, sizeof where, "%s: stage %zu", path, i + 1);
        KS_TRY(read_stage(watch, one, where, err));
    }
done:
    json_decref(root);
    free(path);
    return st;
}

/* ------------------------------------------------------------------ tasks */

typedef struct reading {
    const char *run;
    const ks_jobs *jobs;
    const ks_queue *queue;
    char host[128]; /* ours */
} reading;

/* RUN/stages/ID/BEFORE-NAME.AFTER */
static void path_of(const reading *r, const ks_watch_stage *s,
                    const char *before, const char *name, const char *after,
                    char out[PATH_MAX]) {
    snprintf(out, PATH_MAX, "%s/stages/%s/%s%s%s", r->run, s->id, before, name,
             after);
}

static double number_of(json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    double number = json_is_number(value) ? json_number_value(value) : NAN;
    return isfinite(number) && number >= 0 ? number : NAN;
}

static int attempts_of(json_t *object) {
    double n = number_of(object, "attempts");
    return isnan(n) ? 0 : (int)fmin(n, 1e6);
}

static void text_of(json_t *object, const char *key, char *out, size_t n) {
    const char *text = json_string_value(json_object_get(object, key));
    if (text) ks__watch_text(out, n, text);
}

static void read_progress(const reading *r, const ks_watch_stage *s,
                          const char *name, ks_watch_task *t) {
    char path[PATH_MAX];
    path_of(r, s, "progress-", name, ".json", path);
    json_t *all = ks__watch_json(path);
    double age = ks__watch_age(path);
    if (all && age > LONG) t->silent = age;
    t->done = number_of(all, "done");
    t->total = number_of(all, "total");
    t->rate = number_of(all, "rate");
    t->left = number_of(all, "left");
    text_of(all, "unit", t->unit, sizeof t->unit);
    text_of(all, "rate_unit", t->rate_unit, sizeof t->rate_unit);
    json_decref(all);
}

/* Nobody removes the record of a process that was killed. */
static bool is_gone(const reading *r, const ks_watch_task *t, json_t *record) {
    json_int_t pid = json_integer_value(json_object_get(record, "pid"));
    if (strcmp(t->host, r->host) != 0 || pid <= 0 || pid > INT_MAX)
        return false;
    return kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

static ks_watch_state recorded(const reading *r, const ks_watch_task *t,
                               json_t *record) {
    const char *state = json_string_value(json_object_get(record, "state"));
    if (!state) return KS_WATCH_WAITING;
    if (strcmp(state, "done") == 0) return KS_WATCH_DONE;
    if (strcmp(state, "failed") == 0) return KS_WATCH_FAILED;
    if (strcmp(state, "running") == 0 && !is_gone(r, t, record))
        return KS_WATCH_RUNNING;
    return KS_WATCH_STOPPED;
}

static void read_task(const reading *r, const ks_watch_stage *s,
                      const char *name, ks_job_part part, ks_watch_task *t) {
    char path[PATH_MAX];
    path_of(r, s, "task-", name, ".json", path);
    json_t *record = ks__watch_json(path);
    t->seconds = number_of(record, "seconds");
    t->attempts = attempts_of(record);
    text_of(record, "host", t->host, sizeof t->host);
    t->state = recorded(r, t, record);
    ks__watch_job(r->run, s, part, r->jobs, r->queue, t);
    if (t->state == KS_WATCH_RUNNING) {
        read_progress(r, s, name, t);
        path_of(r, s, "task-", name, ".json", path);
        t->seconds = ks__watch_age(path); /* it is written at the start */
    }
    const char *log = part == KS_JOB_SHARDS ? name : "";
    path_of(r, s, *log ? "log-" : "log", log, ".txt", path);
    if (ks_file_exists(path)) {
        snprintf(t->log, sizeof t->log, "%s", path + strlen(r->run) + 1);
        ks__watch_last_line(path, t->said, sizeof t->said);
    }
    if (recorded(r, t, record) == KS_WATCH_FAILED)
        text_of(record, "why", t->said, sizeof t->said);
    ks__watch_job_words(r->run, s, part, r->jobs, t);
    json_decref(record);
}

/* ----------------------------------------------------------------- stages */

/* Past `before`; false: text has something else there. */
static bool skip(const char **text, const char *before) {
    size_t n = strlen(before);
    if (strncmp(*text, before, n) != 0) return false;
    *text += n;
    return true;
}

/* Past digits, which are from 1 to most. */
static bool skip_number(const char **text, long most, long *out) {
    char *end;
    if (**text < '0' || **text > '9') return false;
    *out = strtol(*text, &end, 10);
    *text = end;
    return *out >= 1 && *out <= most;
}

/* task-2-of-4.json: 4 */
static int shards_by_name(const char *name) {
    long shard, of;
    bool is = skip(&name, "task-") && skip_number(&name, MOST_SHARDS, &shard) &&
              skip(&name, "-of-") && skip_number(&name, MOST_SHARDS, &of) &&
              strcmp(name, ".json") == 0;
    return is && shard <= of ? (int)of : 0;
}

/* Into how many shards a stage was submitted last; 0: it was not, or whole. */
static int submitted_shards(const reading *r, const ks_watch_stage *s) {
    for (size_t i = r->jobs ? r->jobs->n : 0; i-- > 0;)
        if (strcmp(r->jobs->at[i].stage, s->id) == 0)
            return r->jobs->at[i].part == KS_JOB_STAGE ? 0
                                                       : r->jobs->at[i].shards;
    return 0;
}

/* As the youngest task is called; before there is one as it was submitted. A
 * stage has no more shards than lines, whatever it was submitted as. */
static int count_shards(const reading *r, const ks_watch_stage *s) {
    char path[PATH_MAX];
    double age = INFINITY;
    int n = 0, submitted = submitted_shards(r, s);
    path_of(r, s, "", "", "", path);
    DIR *folder = opendir(path);
    const struct dirent *entry;
    while (folder && (entry = readdir(folder))) {
        int of = shards_by_name(entry->d_name);
        path_of(r, s, entry->d_name, "", "", path);
        double its = of ? ks__watch_age(path) : NAN;
        if (its < age || (its <= age && of > n)) {
            age = its;
            n = of;
        }
    }
    if (folder) closedir(folder);
    return n && (!submitted || n <= submitted) ? n : submitted;
}

static ks_watch_state state_of(const ks_watch_stage *s) {
    size_t counts[KS_WATCH_DONE + 1] = {0};
    for (int i = 0; i < s->n_shards; i++) counts[s->shards[i].state]++;
    if (!s->n_shards || s->joining) return s->whole.state;
    if (counts[KS_WATCH_RUNNING]) return KS_WATCH_RUNNING;
    if (counts[KS_WATCH_FAILED]) return KS_WATCH_FAILED;
    if (counts[KS_WATCH_QUEUED]) return KS_WATCH_QUEUED;
    return counts[KS_WATCH_STOPPED] || counts[KS_WATCH_DONE] ? KS_WATCH_STOPPED
                                                             : KS_WATCH_WAITING;
}

static void read_done(const reading *r, ks_watch_stage *s, json_t *record) {
    char path[PATH_MAX];
    s->state = s->whole.state = KS_WATCH_DONE;
    s->whole.seconds = number_of(record, "seconds");
    s->whole.attempts = attempts_of(record);
    s->n_shards = (int)KS_MIN(
        json_array_size(json_object_get(record, "shards")), MOST_SHARDS);
    text_of(record, "host", s->whole.host, sizeof s->whole.host);
    path_of(r, s, "log", "", ".txt", path);
    if (ks_file_exists(path))
        snprintf(s->whole.log, sizeof s->whole.log, "%s",
                 path + strlen(r->run) + 1);
}

static ks_status read_state(const reading *r, ks_watch_stage *s, ks_err *err) {
    ks_status st = KS_OK;
    char path[PATH_MAX], name[40];
    path_of(r, s, "stage", "", ".json", path);
    json_t *record = ks__watch_json(path);
    if (record) {
        read_done(r, s, record);
        goto done;
    }
    int n = count_shards(r, s);
    KS_TRY(ks_alloc(&s->shards, (size_t)n, sizeof *s->shards, "shards", err));
    s->n_shards = n;
    s->joining = n > 0;
    for (int i = 0; i < n; i++) {
        s->shards[i].shard = i + 1;
        snprintf(name, sizeof name, "%d-of-%d", i + 1, n);
        read_task(r, s, name, KS_JOB_SHARDS, &s->shards[i]);
        s->joining &= s->shards[i].state == KS_WATCH_DONE;
    }
    snprintf(name, sizeof name, "join-of-%d", n);
    read_task(r, s, n ? name : "whole", n ? KS_JOB_JOIN : KS_JOB_STAGE,
              &s->whole);
    s->state = state_of(s);
done:
    json_decref(record);
    return st;
}

/* RUN/run.lock is there while a coordinator is, and says which. */
static bool is_seen_to(const reading *r) {
    char path[PATH_MAX], line[256];
    const char *at = line;
    long pid;
    snprintf(path, sizeof path, "%s/run.lock", r->run);
    ks__watch_last_line(path, line, sizeof line);
    if (!skip(&at, "process ") || !skip_number(&at, INT_MAX, &pid) ||
        !skip(&at, " on "))
        return false;
    if (strcmp(at, r->host) != 0) return true; /* who can tell from here */
    return kill((pid_t)pid, 0) == 0 || errno != ESRCH;
}

ks_status ks_watch_read(ks_watch *watch, const char *run, const ks_jobs *jobs,
                        const ks_queue *queue, ks_err *err) {
    ks_status st = KS_OK;
    reading r = {.run = run, .jobs = jobs, .queue = queue};
    gethostname(r.host, sizeof r.host - 1);
    KS_CHECK(strlen(run) < PATH_MAX - 256, KS_USAGE, "the path is too long");
    KS_TRY(read_run(watch, run, err));
    for (size_t i = 0; i < watch->n; i++) {
        KS_TRY(read_state(&r, &watch->stages[i], err));
        watch->counts[watch->stages[i].state]++;
    }
    watch->active = is_seen_to(&r) || watch->counts[KS_WATCH_RUNNING] ||
                    watch->counts[KS_WATCH_QUEUED];
    ks__watch_left(watch);
done:
    return st;
}
