/* status_show.c - see status_show.h. */
#include "status_show.h"

#include <math.h>
#include <string.h>

typedef struct words {
    char text[400];
} words;

typedef struct brief {
    char text[32];
} brief;

static brief duration(double s) {
    brief w = {"?"};
    if (!isfinite(s) || s > 1e7) return w;
    int n = (int)(s + 0.5);
    if (n >= 3600)
        snprintf(w.text, sizeof w.text, "%d:%02d:%02d", n / 3600, n / 60 % 60,
                 n % 60);
    else
        snprintf(w.text, sizeof w.text, "%d:%02d", n / 60, n % 60);
    return w;
}

ks_status ks_status_summary(const ks_watch *watch, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_str_printf(out, err, "%s: %zu of %zu stages done", watch->name,
                         watch->counts[KS_WATCH_DONE], watch->n));
    for (int i = KS_WATCH_DONE - 1; i >= 0; i--)
        if (watch->counts[i])
            KS_TRY(ks_str_printf(out, err, ", %zu %s", watch->counts[i],
                                 ks_watch_state_name((ks_watch_state)i)));
    if (watch->counts[KS_WATCH_DONE] == watch->n) goto done;
    if (!watch->active)
        KS_TRY(ks_str_printf(out, err, "; nobody works on it"));
    else if (isnan(watch->left))
        KS_TRY(ks_str_printf(out, err, "; how long it takes is not known yet"));
    else
        KS_TRY(ks_str_printf(out, err, "; %s%s left",
                             watch->at_least ? "at least " : "",
                             duration(watch->left).text));
done:
    return st;
}

/* ------------------------------------------------------------------- rows */

/* "gpu07", "job 17_2 (Priority)" */
static words where_of(const ks_watch_task *t) {
    words w = {""};
    if (t->state == KS_WATCH_QUEUED && t->reason[0])
        snprintf(w.text, sizeof w.text, "job %lld (%s)", t->job, t->reason);
    else if (t->state == KS_WATCH_QUEUED)
        snprintf(w.text, sizeof w.text, "job %lld", t->job);
    else
        snprintf(w.text, sizeof w.text, "%s", t->host);
    return w;
}

/* "340 of 1000 chains, 12.1 tok/s" */
static words done_of(const ks_watch_task *t) {
    words w = {""};
    if (t->state != KS_WATCH_RUNNING || isnan(t->done) || isnan(t->total))
        return w;
    int n = snprintf(w.text, sizeof w.text, "%.0f of %.0f %s", t->done,
                     t->total, t->unit);
    if (n < 0 || isnan(t->rate) || t->rate == 0) return w;
    snprintf(w.text + n, sizeof w.text - (size_t)n, ", %.*f %s/s",
             t->rate < 10 ? 1 : 0, t->rate, t->rate_unit);
    return w;
}

/* What is left of what runs, what was taken by what is done. */
static words time_of(const ks_watch_task *t) {
    words w = {""};
    if (t->state == KS_WATCH_RUNNING && !isnan(t->left))
        snprintf(w.text, sizeof w.text, "%s left", duration(t->left).text);
    else if (t->state == KS_WATCH_RUNNING && !isnan(t->seconds))
        snprintf(w.text, sizeof w.text, "since %s", duration(t->seconds).text);
    else if (t->state == KS_WATCH_DONE && !isnan(t->seconds))
        snprintf(w.text, sizeof w.text, "took %s", duration(t->seconds).text);
    return w;
}

/* A line, its end cut off where the terminal ends. */
static ks_status add_line(ks_str *out, int width, const char *line,
                          ks_err *err) {
    size_t n = strlen(line);
    int columns = 0;
    for (size_t i = 0; width > 0 && i < n; i++) {
        bool first = ((unsigned char)line[i] & 0xc0) != 0x80;
        if (first && columns++ == width) n = i;
    }
    while (n && line[n - 1] == ' ') n--;
    ks_status st = ks_str_add(out, line, n, err);
    return st == KS_OK ? ks_str_add(out, "\n", 1, err) : st;
}

static ks_status add_row(ks_str *out, int width, const char *name,
                         const char *state, const ks_watch_task *t,
                         ks_err *err) {
    char line[2048];
    snprintf(line, sizeof line, "%-26s %-8s %-18s %-34s %s", name, state,
             where_of(t).text, done_of(t).text, time_of(t).text);
    return add_line(out, width, line, err);
}

/* Why it failed, what it says, and where to read on. */
static ks_status add_why(ks_str *out, int width, const ks_watch_task *t,
                         ks_err *err) {
    ks_status st = KS_OK;
    bool ended = t->state == KS_WATCH_FAILED || t->state == KS_WATCH_STOPPED;
    char line[1024];
    if (ended && (t->said[0] || t->log[0])) {
        char attempt[32] = "";
        if (t->attempts > 1)
            snprintf(attempt, sizeof attempt, " (attempt %d)", t->attempts);
        snprintf(line, sizeof line, "    %s%s%s%s", t->said,
                 t->said[0] && t->log[0] ? "  " : "", t->log, attempt);
        KS_TRY(add_line(out, width, line, err));
    }
    if (t->state == KS_WATCH_RUNNING && t->silent > 0) {
        snprintf(line, sizeof line, "    silent for %s",
                 duration(t->silent).text);
        KS_TRY(add_line(out, width, line, err));
    }
done:
    return st;
}

static ks_status add_stage(ks_str *out, int width, const ks_watch_stage *s,
                           ks_err *err) {
    ks_status st = KS_OK;
    static const ks_watch_task none = {
        .done = NAN, .left = NAN, .seconds = NAN};
    bool cut = s->n_shards && s->state != KS_WATCH_DONE;
    bool alone = !cut || s->joining || s->whole.state == KS_WATCH_FAILED;
    char name[256];
    KS_TRY(add_row(out, width, s->id, ks_watch_state_name(s->state),
                   alone ? &s->whole : &none, err));
    if (s->what[0] || s->cells[0]) {
        snprintf(name, sizeof name, "    %s%s%s", s->what,
                 s->what[0] && s->cells[0] ? "; " : "", s->cells);
        KS_TRY(add_line(out, width, name, err));
    }
    if (alone) KS_TRY(add_why(out, width, &s->whole, err));
    for (int i = 0; cut && !s->joining && i < s->n_shards; i++) {
        const ks_watch_task *t = &s->shards[i];
        snprintf(name, sizeof name, "  %d of %d", i + 1, s->n_shards);
        KS_TRY(
            add_row(out, width, name, ks_watch_state_name(t->state), t, err));
        KS_TRY(add_why(out, width, t, err));
    }
done:
    return st;
}

ks_status ks_status_table(const ks_watch *watch, int width, ks_str *out,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_str summary = {0};
    KS_TRY(ks_status_summary(watch, &summary, err));
    KS_TRY(add_line(out, width, summary.data, err));
    KS_TRY(add_line(out, width, "", err));
    for (size_t i = 0; i < watch->n; i++)
        KS_TRY(add_stage(out, width, &watch->stages[i], err));
done:
    ks_str_free(&summary);
    return st;
}

/* ----------------------------------------------------------------- changes */

static ks_status add_change(ks_str *out, const char *id, const ks_watch_task *t,
                            int of, ks_watch_state was, ks_err *err) {
    ks_status st = KS_OK;
    if (t->state == was) return KS_OK;
    KS_TRY(ks_str_printf(out, err, "%s", id));
    if (t->shard)
        KS_TRY(ks_str_printf(out, err, ", shard %d of %d", t->shard, of));
    KS_TRY(ks_str_printf(out, err, ": %s", ks_watch_state_name(t->state)));
    words where = where_of(t), took = time_of(t);
    bool queued = t->state == KS_WATCH_QUEUED;
    if (where.text[0])
        KS_TRY(ks_str_printf(out, err, "%s%s", queued ? ", " : " on ",
                             where.text));
    if (t->state == KS_WATCH_DONE && took.text[0])
        KS_TRY(ks_str_printf(out, err, ", %s", took.text));
    bool ended = t->state == KS_WATCH_FAILED || t->state == KS_WATCH_STOPPED;
    if (ended && t->said[0]) KS_TRY(ks_str_printf(out, err, ": %s", t->said));
    KS_TRY(ks_str_printf(out, err, "\n"));
done:
    return st;
}

ks_status ks_status_changes(const ks_watch *watch, const ks_watch *before,
                            ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < watch->n; i++) {
        const ks_watch_stage *s = &watch->stages[i];
        const ks_watch_stage *b =
            before && i < before->n ? &before->stages[i] : NULL;
        bool cut = s->n_shards && s->shards;
        for (int k = 0; cut && k < s->n_shards; k++) {
            bool known = b && b->shards && k < b->n_shards;
            KS_TRY(add_change(out, s->id, &s->shards[k], s->n_shards,
                              known ? b->shards[k].state : KS_WATCH_WAITING,
                              err));
        }
        ks_watch_state was = b                           ? b->whole.state
                             : s->state == KS_WATCH_DONE ? KS_WATCH_DONE
                                                         : KS_WATCH_WAITING;
        KS_TRY(add_change(out, s->id, &s->whole, 0, was, err));
    }
done:
    return st;
}

/* -------------------------------------------------------------------- JSON */

static json_t *figure(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *text(const char *say) {
    return *say ? json_string(say) : json_null();
}

static json_t *task_json(const ks_watch_task *t) {
    bool runs = t->state == KS_WATCH_RUNNING;
    json_t *all =
        json_pack("{s:s,s:o,s:o,s:o,s:i,s:o,s:o,s:o,s:o}", "state",
                  ks_watch_state_name(t->state), "host", text(t->host), "job",
                  t->job ? json_integer(t->job) : json_null(), "reason",
                  text(t->reason), "attempts", t->attempts, "seconds",
                  figure(t->seconds), "left", figure(runs ? t->left : NAN),
                  "log", text(t->log), "said", text(t->said));
    if (!runs || isnan(t->done)) return all;
    json_object_set_new(all, "done", figure(t->done));
    json_object_set_new(all, "total", figure(t->total));
    json_object_set_new(all, "unit", text(t->unit));
    json_object_set_new(all, "rate", figure(t->rate));
    json_object_set_new(all, "rate_unit", text(t->rate_unit));
    json_object_set_new(all, "silent", figure(t->silent));
    return all;
}

static json_t *stage_json(const ks_watch_stage *s) {
    json_t *all = task_json(&s->whole), *shards = json_array();
    json_object_set_new(all, "id", json_string(s->id));
    json_object_set_new(all, "stage", json_string(s->kind));
    json_object_set_new(all, "what", json_string(s->what));
    json_object_set_new(all, "cells", json_string(s->cells));
    json_object_set_new(all, "state",
                        json_string(ks_watch_state_name(s->state)));
    json_object_set_new(all, "left", figure(s->left));
    for (int i = 0; s->shards && i < s->n_shards; i++) {
        json_t *one = task_json(&s->shards[i]);
        json_object_set_new(one, "shard", json_integer(i + 1));
        json_array_append_new(shards, one);
    }
    json_object_set_new(all, "shards", shards);
    return all;
}

json_t *ks_status_json(const ks_watch *watch) {
    json_t *stages = json_array(), *counts = json_object();
    for (size_t i = 0; i < watch->n; i++)
        json_array_append_new(stages, stage_json(&watch->stages[i]));
    for (int i = 0; i <= KS_WATCH_DONE; i++)
        json_object_set_new(counts, ks_watch_state_name((ks_watch_state)i),
                            json_integer((json_int_t)watch->counts[i]));
    return json_pack("{s:s,s:b,s:o,s:b,s:o,s:o}", "name", watch->name, "active",
                     watch->active, "left", figure(watch->left), "at_least",
                     watch->at_least, "counts", counts, "stages", stages);
}
