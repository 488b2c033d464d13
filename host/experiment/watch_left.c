/* watch_left.c - how long a run still takes: what running tasks say, what like
 * ones took, and which stages wait for which. See watch.h. */
#include "watch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a shard takes, by those that are done, else by those that run. */
static double typical_shard(const ks_watch_stage *s) {
    double sum = 0;
    int n = 0;
    for (int pass = 0; pass < 2 && n == 0; pass++)
        for (int i = 0; i < s->n_shards; i++) {
            const ks_watch_task *t = &s->shards[i];
            bool done = t->state == KS_WATCH_DONE;
            bool runs = t->state == KS_WATCH_RUNNING;
            double whole = done ? t->seconds : t->seconds + t->left;
            if ((pass == 0 ? !done : !runs) || !isfinite(whole)) continue;
            sum += whole;
            n++;
        }
    return n ? sum / n : NAN;
}

/* Shards that wait are taken up as those that run end. */
static double left_of_shards(const ks_watch_stage *s) {
    double running = 0;
    int n_running = 0, n_waiting = 0;
    for (int i = 0; i < s->n_shards; i++) {
        const ks_watch_task *t = &s->shards[i];
        if (t->state == KS_WATCH_RUNNING) {
            running = isnan(t->left) ? NAN : fmax(running, t->left);
            if (isnan(running)) return NAN;
            n_running++;
        } else if (t->state != KS_WATCH_DONE) {
            n_waiting++;
        }
    }
    if (!n_waiting) return running;
    int waves = n_running ? (n_waiting + n_running - 1) / n_running : 1;
    return running + waves * typical_shard(s);
}

/* What stages of the kind took in this run. */
static double typical_stage(const ks_watch *watch, const char *kind) {
    double sum = 0;
    int n = 0;
    for (size_t i = 0; i < watch->n; i++) {
        const ks_watch_stage *s = &watch->stages[i];
        if (s->state != KS_WATCH_DONE || strcmp(s->kind, kind) != 0 ||
            !isfinite(s->whole.seconds) || s->n_shards)
            continue;
        sum += s->whole.seconds;
        n++;
    }
    return n ? sum / n : NAN;
}

static double left_of(const ks_watch *watch, const ks_watch_stage *s) {
    if (s->state == KS_WATCH_DONE) return 0;
    if (s->whole.state == KS_WATCH_RUNNING) return s->whole.left;
    if (s->joining) return 0; /* seconds, if it is not known better */
    for (int i = 0; i < s->n_shards; i++)
        if (s->shards[i].state == KS_WATCH_RUNNING) return left_of_shards(s);
    return typical_stage(watch, s->kind);
}

void ks__watch_left(ks_watch *watch) {
    double *until = calloc(watch->n ? watch->n : 1, sizeof *until);
    watch->left = 0;
    watch->at_least = false;
    for (size_t i = 0; until && i < watch->n; i++) {
        ks_watch_stage *s = &watch->stages[i];
        double before = 0;
        s->left = left_of(watch, s);
        for (size_t k = 0; k < s->n_after; k++)
            before = fmax(before, until[s->after[k]]);
        if (isnan(s->left)) watch->at_least = true;
        until[i] = before + (isnan(s->left) ? 0 : s->left);
        watch->left = fmax(watch->left, until[i]);
    }
    if (watch->at_least && watch->left == 0) watch->left = NAN;
    free(until);
}
