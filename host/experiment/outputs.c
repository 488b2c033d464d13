/* outputs.c - what lies in a stage's folder: outputs apart from what is kept
 * beside them, shards and what is left of others. */
#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "task.h"

static bool begins_with(const char *s, const char *start) {
    return strncmp(s, start, strlen(start)) == 0;
}

/* "labels.2-of-4.jsonl" and the note beside it: all in the file that they were
 * joined to. */
static bool is_shard_of_lines(const char *name) {
    const char *of = strstr(name, "-of-"), *dot = strchr(name, '.');
    return of && dot && dot < of && strstr(of, ".jsonl");
}

/* What the run keeps beside outputs, and what is on the way to one. */
static bool is_beside(const char *name) {
    static const char *const starts[] = {".",         "stage.json", "log.",
                                         "log-",      "task-",      "cells",
                                         "progress-", "moving-"};
    static const char *const ends[] = {".part", ".journal", ".lock", ".new"};
    for (size_t i = 0; i < KS_COUNT(starts); i++)
        if (begins_with(name, starts[i])) return true;
    for (size_t i = 0; i < KS_COUNT(ends); i++)
        if (ks_ends_with(name, ends[i])) return true;
    return is_shard_of_lines(name);
}

static int by_bytes(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static ks_status add_file(const char *path, const char *shown, json_int_t bytes,
                          json_t *all, ks_err *err) {
    ks_status st = KS_OK;
    char hex[65];
    KS_TRY(ks_exp_file_hash(path, hex, err));
    json_t *one = json_pack("{s:s,s:I,s:s}", "file", shown, "bytes", bytes,
                            "sha256", hex);
    KS_CHECK(json_array_append_new(all, one) == 0, KS_NOMEM,
             "out of memory for outputs");
done:
    return st;
}

/* Files below folder, whose names in the list begin with `front`. */
static ks_status list_folder(const char *folder, const char *front, bool top,
                             json_t *all, ks_err *err) {
    ks_status st = KS_OK;
    struct dirent **names = NULL;
    char *path = NULL, *shown = NULL;
    int n = scandir(folder, &names, NULL, by_bytes);
    KS_CHECK(n >= 0, KS_IO, "%s: cannot list: %s", folder, strerror(errno));
    for (int i = 0; i < n; i++) {
        const char *name = names[i]->d_name;
        struct stat info;
        if (name[0] == '.' || (top && is_beside(name))) continue;
        KS_TRY(ks_path_join(&path, folder, name, err));
        KS_CHECK(asprintf(&shown, "%s%s", front, name) >= 0, KS_NOMEM,
                 "out of memory for a path");
        KS_CHECK(lstat(path, &info) == 0, KS_IO, "%s: %s", path,
                 strerror(errno));
        if (S_ISDIR(info.st_mode)) {
            char deeper[512];
            snprintf(deeper, sizeof deeper, "%s/", shown);
            KS_TRY(list_folder(path, deeper, false, all, err));
        } else if (S_ISREG(info.st_mode)) {
            KS_TRY(add_file(path, shown, (json_int_t)info.st_size, all, err));
        }
        free(path);
        free(shown);
        path = shown = NULL;
    }
done:
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
    free(path);
    free(shown);
    return st;
}

ks_status ks__exp_outputs(const ks_exp_run *run, int stage, json_t **out,
                          ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &run->plan.stages[stage];
    char *folder = NULL, *path = NULL;
    *out = json_array();
    KS_TRY(ks_exp_stage_path(run, stage, NULL, &folder, err));
    for (size_t i = 0; s->outputs[i]; i++) {
        KS_TRY(ks_exp_stage_path(run, stage, s->outputs[i], &path, err));
        KS_CHECK(ks_file_exists(path), KS_FORMAT,
                 "keystep %s ended well and did not make %s", s->section->name,
                 path);
        free(path);
        path = NULL;
    }
    KS_TRY(list_folder(folder, "", true, *out, err));
done:
    free(folder);
    free(path);
    return st;
}

/* ------------------------------------------------------------------ shards */

ks_status ks__exp_shard_name(const char *name, const ks_exp_task *task,
                             char **out, ks_err *err) {
    const char *dot = strrchr(name, '.');
    size_t n = dot ? (size_t)(dot - name) : strlen(name);
    if (asprintf(out, "%.*s.%d-of-%d%s", (int)n, name, task->shard, task->of,
                 dot ? dot : "") < 0)
        return ks_fail(err, KS_NOMEM, "out of memory for a path");
    return KS_OK;
}

bool ks_exp_shard_is_there(const ks_exp_run *run, const ks_exp_task *task) {
    const ks_exp_stage *s = &run->plan.stages[task->stage];
    bool there = true;
    if (ks_section_has(s->section, "cells")) return false;
    for (size_t i = 0; there && s->outputs[i]; i++) {
        char *name = NULL, *path = NULL;
        there =
            ks__exp_shard_name(s->outputs[i], task, &name, NULL) == KS_OK &&
            ks_exp_stage_path(run, task->stage, name, &path, NULL) == KS_OK &&
            ks_file_exists(path);
        free(name);
        free(path);
    }
    return there;
}

/* A line that is wrong is the command's to refuse. */
static bool has_steps(const char *line) {
    json_t *chain = json_loads(line, 0, NULL);
    bool has = !chain || json_array_size(json_object_get(chain, "steps")) > 0;
    json_decref(chain);
    return has;
}

/* steps: of those alone that have a step. */
static ks_status count_lines(const char *path, bool steps, int most, int *n,
                             ks_err *err) {
    FILE *file = fopen(path, "rbe");
    if (!file)
        return ks_fail(err, KS_IO, "%s: cannot open: %s", path,
                       strerror(errno));
    char *line = NULL;
    size_t capacity = 0;
    *n = 0;
    while (*n < most && getline(&line, &capacity, file) > 0)
        *n += line[strspn(line, " \t\r\n")] && (!steps || has_steps(line));
    bool bad = ferror(file); /* fewer lines would be fewer shards */
    free(line);
    fclose(file);
    return bad ? ks_fail(err, KS_IO, "%s: cannot be read to its end", path)
               : KS_OK;
}

ks_status ks_exp_shards(const ks_exp_run *run, int stage, int ranks, int *n,
                        ks_err *err) {
    ks_status st = KS_OK;
    const ks_exp_stage *s = &run->plan.stages[stage];
    bool problems = strcmp(s->section->name, "generate") == 0;
    bool steps = strcmp(s->section->name, "capture") == 0;
    const char *role = problems ? "problems" : "chains";
    char *path = NULL;
    *n = s->shards ? ranks : 1;
    if (*n < 2 || ks_section_has(s->section, "cells")) return KS_OK;
    for (size_t i = 0; i < s->n_inputs; i++) {
        const ks_exp_input *in = &s->inputs[i];
        if (strcmp(in->role, role) != 0) continue;
        if (in->stage >= 0)
            KS_TRY(ks_exp_stage_path(run, in->stage, in->name, &path, err));
        KS_TRY(count_lines(path ? path : in->name, steps, ranks, n, err));
        *n = KS_MAX(*n, 1);
        break;
    }
done:
    free(path);
    return st;
}

/* ----------------------------------------------------------------- removal */

static int remove_one(const char *path, const struct stat *info, int what,
                      struct FTW *at) {
    (void)info, (void)what, (void)at;
    return remove(path);
}

/* Past `before` and digits; 0: something else stands there. */
static int take_number(const char **at, const char *before) {
    if (!begins_with(*at, before)) return 0;
    const char *digits = *at + strlen(before);
    size_t n = strspn(digits, "0123456789");
    *at = digits + n;
    return n > 0 && n < 8 ? (int)strtol(digits, NULL, 10) : 0;
}

/* "acts.2-of-4.h5" or what is beside it: the 4; 0: no shard of `output`. */
static int shards_of(const char *name, const char *output) {
    const char *dot = strrchr(output, '.');
    size_t n = dot ? (size_t)(dot - output) : strlen(output);
    if (strncmp(name, output, n) != 0) return 0;
    const char *at = name + n;
    int shard = take_number(&at, "."),
        of = shard ? take_number(&at, "-of-") : 0;
    return begins_with(at, dot ? dot : "") ? of : 0;
}

/* stay: the number of those that do; -1: what is of lines goes. */
static bool has_to_go(const ks_exp_stage *s, const char *name, int stay) {
    if (stay < 0) return is_shard_of_lines(name);
    for (size_t i = 0; s->outputs[i]; i++) {
        int of = shards_of(name, s->outputs[i]);
        if (of > 0 && of != stay) return true;
    }
    return false;
}

static void drop_shards(const ks_exp_run *run, int stage, int stay) {
    const ks_exp_stage *s = &run->plan.stages[stage];
    char *folder = NULL, *path = NULL;
    struct dirent **names = NULL;
    int n = -1;
    if (ks_exp_stage_path(run, stage, NULL, &folder, NULL) == KS_OK)
        n = scandir(folder, &names, NULL, by_bytes);
    for (int i = 0; i < n; i++) {
        if (has_to_go(s, names[i]->d_name, stay) &&
            ks_path_join(&path, folder, names[i]->d_name, NULL) == KS_OK)
            unlink(path);
        free(path);
        path = NULL;
        free(names[i]);
    }
    free(names);
    free(folder);
}

void ks__exp_drop_shards(const ks_exp_run *run, int stage) {
    drop_shards(run, stage, -1);
}

void ks__exp_drop_other_shards(const ks_exp_run *run, const ks_exp_task *task) {
    drop_shards(run, task->stage, task->kind == KS_EXP_JOIN ? task->of : 0);
}

void ks__exp_remove(const char *folder) {
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void ks__exp_drop_made(const ks_exp_run *run, const ks_exp_task *task) {
    const char *const *outputs = run->plan.stages[task->stage].outputs;
    for (size_t i = 0; outputs[i]; i++) {
        char *name = NULL, *path = NULL;
        ks_status st = KS_OK;
        if (task->kind == KS_EXP_SHARD)
            st = ks__exp_shard_name(outputs[i], task, &name, NULL);
        if (st == KS_OK &&
            ks_exp_stage_path(run, task->stage, name ? name : outputs[i], &path,
                              NULL) == KS_OK)
            ks__exp_remove(path);
        free(name);
        free(path);
    }
}

ks_status ks_exp_stage_drop(ks_exp_run *run, int stage, ks_err *err) {
    ks_status st = KS_OK;
    char *record = NULL, *folder = NULL;
    KS_TRY(ks_exp_stage_path(run, stage, "stage.json", &record, err));
    KS_TRY(ks_exp_stage_path(run, stage, NULL, &folder, err));
    KS_CHECK(unlink(record) == 0 || errno == ENOENT, KS_IO,
             "%s: cannot remove: %s", record, strerror(errno));
    ks__exp_remove(folder);
    KS_CHECK(mkdir(folder, 0777) == 0, KS_IO, "%s: cannot make: %s", folder,
             strerror(errno));
    KS_TRY(ks_exp_run_look(run, stage, err));
done:
    free(record);
    free(folder);
    return st;
}
