/* run_figures.c - what a run's folder says of itself and of what it found: its
 * stages, and best balanced accuracies with intervals. Its own files are all
 * that is read, so a folder that was moved, or came from elsewhere, will do. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inspect.h"
#include "run_common.h"

static ks_status load(const char *folder, const char *name, json_t **out,
                      ks_err *err) {
    ks_status st = KS_OK;
    json_error_t reason;
    char *path = NULL;
    KS_TRY(ks_path_join(&path, folder, name, err));
    *out = json_load_file(path, JSON_REJECT_DUPLICATES, &reason);
    KS_CHECK(*out, KS_FORMAT, "%s line %d: %s", path, reason.line, reason.text);
done:
    free(path);
    return st;
}

static json_t *load_of_stage(const char *folder, const char *id,
                             const char *name) {
    char path[512];
    snprintf(path, sizeof path, "stages/%.64s/%s", id, name);
    char *whole = NULL;
    json_t *all = NULL;
    if (ks_path_join(&whole, folder, path, NULL) == KS_OK)
        all = json_load_file(whole, JSON_REJECT_DUPLICATES, NULL);
    free(whole);
    return all;
}

ks_status ks_cli_run_read(const char *folder, json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    static const char *const lists[] = {"cells", "stages", "hosts"};
    KS_TRY(load(folder, "run.json", out, err));
    const char *format = json_string_value(json_object_get(*out, "format"));
    bool good = format && strcmp(format, "keystep run") == 0 &&
                json_is_string(json_object_get(*out, "name")) &&
                json_is_object(json_object_get(*out, "config"));
    for (size_t i = 0; good && i < KS_COUNT(lists); i++)
        good = json_is_array(json_object_get(*out, lists[i]));
    KS_CHECK(good, KS_FORMAT, "%s/run.json: is not what keystep run writes",
             folder);
    KS_CHECK(json_integer_value(json_object_get(*out, "version")) == 1,
             KS_FORMAT, "%s/run.json: version 1 is expected", folder);
done:
    return st;
}

/* ----------------------------------------------------------------- figures */

static const char *text_of(json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static void add_figures(json_t *list, const char *cell, const char *probe,
                        json_t *summary) {
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(summary, "probes"), i, one) {
        json_t *b =
            json_object_get(json_object_get(one, "best"), "balanced_accuracy");
        json_t *v[3] = {json_object_get(b, "value"), json_object_get(b, "low"),
                        json_object_get(b, "high")};
        if (!json_is_number(v[0])) continue;
        json_array_append_new(
            list, json_pack("{s:s,s:s,s:s,s:s,s:O,s:O*,s:O*}", "cell", cell,
                            "probe", *probe ? probe : "probe", "stream",
                            text_of(one, "stream"), "position",
                            text_of(one, "position"), "balanced_accuracy", v[0],
                            "low", v[1], "high", v[2]));
    }
}

json_t *ks_cli_run_found(const char *folder, json_t *run) {
    json_t *list = json_array(), *cell, *probe;
    size_t i, k;
    json_array_foreach(json_object_get(run, "cells"), i, cell) {
        json_array_foreach(json_object_get(cell, "probes"), k, probe) {
            json_t *summary = load_of_stage(folder, text_of(probe, "stage"),
                                            "probes/summary.json");
            add_figures(list, text_of(cell, "name"), text_of(probe, "name"),
                        summary);
            json_decref(summary);
        }
    }
    return list;
}

/* As keystep status says it. */
static void add_state(json_t *row, const ks_watch_stage *s) {
    int done = 0;
    for (int i = 0; s->shards && i < s->n_shards; i++)
        done += s->shards[i].state == KS_WATCH_DONE;
    json_object_set_new(row, "state",
                        json_string(ks_watch_state_name(s->state)));
    if (s->shards && s->n_shards)
        json_object_set_new(row, "shards",
                            json_sprintf("%d of %d done", done, s->n_shards));
}

json_t *ks_cli_run_stages(const char *folder, json_t *run,
                          const ks_watch *watch) {
    json_t *list = json_array(), *one;
    size_t i;
    json_array_foreach(json_object_get(run, "stages"), i, one) {
        const char *id = text_of(one, "id"), *what = text_of(one, "what");
        const char *cells = text_of(one, "cells");
        json_t *done = load_of_stage(folder, id, "stage.json");
        json_t *task = load_of_stage(folder, id, "task-whole.json");
        json_t *from = done ? done : task;
        json_t *row = json_pack("{s:s}", "stage", id);
        if (watch && i < watch->n) add_state(row, &watch->stages[i]);
        json_t *seconds = json_object_get(from, "seconds");
        if (json_is_number(seconds)) json_object_set(row, "seconds", seconds);
        if (done)
            json_object_set_new(row, "program",
                                json_string(text_of(done, "program")));
        if (from)
            json_object_set_new(row, "host",
                                json_string(text_of(from, "host")));
        if (*cells || *what)
            json_object_set_new(row, "of",
                                json_sprintf("%s%s%s", cells,
                                             *cells && *what ? ": " : "",
                                             what));
        json_array_append_new(list, row);
        json_decref(done);
        json_decref(task);
    }
    return list;
}

/* Slurm is not asked: a job that it has counts as queued until its task says
 * more. */
static ks_status stages_of(const char *folder, json_t *run, json_t **out,
                           ks_err *err) {
    ks_status st = KS_OK;
    ks_jobs jobs = {0};
    ks_watch watch = {0};
    KS_TRY(ks_jobs_read(&jobs, folder, err));
    KS_TRY(ks_watch_read(&watch, folder, &jobs, NULL, err));
    *out = ks_cli_run_stages(folder, run, &watch);
done:
    ks_watch_free(&watch);
    ks_jobs_free(&jobs);
    return st;
}

/* --------------------------------------------------------------------- text */

static void print_figures(json_t *found) {
    size_t i;
    json_t *f;
    int width = 4;
    json_array_foreach(found, i, f) {
        const char *probe = text_of(f, "probe");
        int n = (int)(strlen(text_of(f, "cell")) + strlen(probe) + 2);
        width = KS_MAX(width, n);
    }
    if (json_array_size(found))
        printf("%-*s  stream position  best layer's balanced accuracy, %%\n",
               width, "cell");
    json_array_foreach(found, i, f) {
        char name[192];
        snprintf(name, sizeof name, "%s, %s", text_of(f, "cell"),
                 text_of(f, "probe"));
        printf("%-*s  %-6s %-8s  %.1f", width, name, text_of(f, "stream"),
               text_of(f, "position"),
               100 *
                   json_number_value(json_object_get(f, "balanced_accuracy")));
        json_t *low = json_object_get(f, "low"),
               *high = json_object_get(f, "high");
        if (json_is_number(low) && json_is_number(high))
            printf(" [%.1f, %.1f]", 100 * json_number_value(low),
                   100 * json_number_value(high));
        putchar('\n');
    }
}

ks_status ks_cli_run_sum_up(const ks_exp_run *run, bool json, ks_err *err) {
    ks_status st = KS_OK;
    json_t *all = NULL, *found = NULL, *stages = NULL;
    KS_TRY(ks_cli_run_read(run->folder, &all, err));
    found = ks_cli_run_found(run->folder, all);
    if (json) {
        KS_TRY(stages_of(run->folder, all, &stages, err));
        ks_cli_print_json(json_pack("{s:s,s:s,s:o,s:O}", "name", run->exp.name,
                                    "out", run->shown, "stages", stages,
                                    "found", found));
        goto done;
    }
    print_figures(found);
    if (run->plan.report >= 0)
        printf("%s/report/index.html\n", run->shown);
    else
        printf("%s\n", run->shown);
done:
    json_decref(all);
    json_decref(found);
    return st;
}

/* ------------------------------------------------------------------ inspect */

ks_status ks__inspect_run(const char *folder, json_t *o, ks_err *err) {
    ks_status st = KS_OK;
    json_t *run = NULL, *cells = json_array(), *stages = NULL, *one;
    size_t i;
    KS_TRY(ks_cli_run_read(folder, &run, err));
    KS_TRY(stages_of(folder, run, &stages, err));
    json_array_foreach(json_object_get(run, "cells"), i, one)
        json_array_append(cells, json_object_get(one, "name"));
    bool good =
        ks__put(o, "kind", json_string("run of an experiment")) &&
        ks__put(o, "name", json_incref(json_object_get(run, "name"))) &&
        ks__put(o, "about", json_string(text_of(run, "about"))) &&
        ks__put(o, "from",
                json_string(text_of(json_object_get(run, "source"), "file"))) &&
        ks__put(o, "program", json_string(text_of(run, "program"))) &&
        ks__put(o, "hosts", json_incref(json_object_get(run, "hosts"))) &&
        ks__put(o, "cells", json_incref(cells)) &&
        ks__put(o, "stages", json_incref(stages)) &&
        ks__put(o, "best", ks_cli_run_found(folder, run));
    KS_CHECK(good, KS_NOMEM, "no memory to describe %s", folder);
done:
    json_decref(cells);
    json_decref(stages);
    json_decref(run);
    return st;
}
