/* run_talk.c - what keystep run says while stages run. */
#include <string.h>
#include <unistd.h>

#include "run_common.h"

ks_cli_stage_words ks_cli_stage_is(const ks_exp_stage *stage) {
    ks_cli_stage_words words;
    const char *between = *stage->cells && *stage->what ? ": " : "";
    snprintf(words.text, sizeof words.text, "%.100s%s%.50s", stage->cells,
             between, stage->what);
    return words;
}

static void wipe(ks_cli_talk *t) {
    if (t->line) fputs("\r\033[K", stderr);
    t->line = false;
}

/* "capture-3f2a9c10b2 2/4 foreign: no context" */
static void name_task(const ks_cli_talk *t, const ks_exp_task *task, char *out,
                      size_t n) {
    const ks_exp_stage *s = &t->run->plan.stages[task->stage];
    char part[48] = "";
    if (task->kind == KS_EXP_SHARD)
        snprintf(part, sizeof part, " %d/%d", task->shard, task->of);
    if (task->kind == KS_EXP_JOIN)
        snprintf(part, sizeof part, " joins %d", task->of);
    ks_cli_stage_words is = ks_cli_stage_is(s);
    snprintf(out, n, "%s%s%s%s", s->id, part, *is.text ? "  " : "", is.text);
}

/* The child's own progress: "42%, 1:20 left". */
static void add_progress(const ks_exp_child *c, char *out, size_t n) {
    double done, total, left = -1;
    json_t *p = json_load_file(c->progress, 0, NULL);
    snprintf(out, n, "%s", ks_cli_time_of(ks_seconds() - c->since).text);
    if (p && json_unpack(p, "{s:F,s:F}", "done", &done, "total", &total) == 0 &&
        total > 0) {
        json_t *l = json_object_get(p, "left");
        const char *what = json_string_value(json_object_get(p, "what"));
        if (json_is_number(l)) left = json_number_value(l);
        snprintf(out, n, "%.20s %.0f%%%s%s%s", what ? what : "",
                 100 * done / total, left >= 0 ? ", " : "",
                 left >= 0 ? ks_cli_time_of(left).text : "",
                 left >= 0 ? " left" : "");
    }
    json_decref(p);
}

static void show_line(ks_cli_talk *t, const ks_exp_event *e) {
    char name[256], how[96];
    if (isatty(STDERR_FILENO) != 1 || !e->n_running) return;
    name_task(t, &e->running[0].task, name, sizeof name);
    add_progress(&e->running[0], how, sizeof how);
    wipe(t);
    fprintf(stderr, "[%d/%d] %.60s  %s", e->done, e->done + e->to_do, name,
            how);
    if (e->n_running > 1) fprintf(stderr, "  (%d more)", e->n_running - 1);
    fflush(stderr);
    t->line = true;
}

void ks_cli_tell(void *talk, const ks_exp_event *e) {
    ks_cli_talk *t = talk;
    char name[256];
    if (e->happening == KS_EXP_TICK) {
        if (!t->quiet) show_line(t, e);
        return;
    }
    wipe(t);
    name_task(t, &e->child->task, name, sizeof name);
    ks_cli_time took = ks_cli_time_of(ks_seconds() - e->child->since);
    int all = e->done + e->to_do;
    t->any = true;
    if (e->happening == KS_EXP_STARTED)
        ks_log(KS_LOG_INFO, "[%d/%d] %s", e->done, all, name);
    else if (e->happening == KS_EXP_ENDED)
        ks_log(KS_LOG_INFO, "[%d/%d] %s: done in %s", e->done, all, name,
               took.text);
    else if (e->happening == KS_EXP_STOPPED)
        ks_log(KS_LOG_INFO, "[%d/%d] %s: stopped", e->done, all, name);
    else
        ks_log(KS_LOG_INFO, "[%d/%d] %s: %s: %s", e->done, all, name,
               e->happening == KS_EXP_RETRIED ? "failed, tried again"
                                              : "failed",
               e->why);
}

void ks_cli_left(void *talk, const char *path) {
    (void)talk;
    ks_log(KS_LOG_INFO, "run: an optional baseline is left out: no %s", path);
}

void ks_cli_reading(void *talk, const char *path, uint64_t bytes) {
    (void)talk;
    ks_log(KS_LOG_INFO, "run: reading %s (%.1f GB) for its SHA-256", path,
           (double)bytes / 1e9);
}

void ks_cli_spoilt(void *talk, const char *why) {
    (void)talk;
    ks_log(KS_LOG_INFO, "run: given files are read anew for their SHA-256: %s",
           why);
}
