/* label_run.c - who does which chain, and what is written. */
#include <stdlib.h>

#include "label_state.h"

/* Chains that one worker has under way: enough to fill batches, few enough
 * that what they share stays in the store. */
enum { IN_FLIGHT = 32, MOST_ACTIVE = 512 };

/* ----------------------------------------------------------------- workers */

static ks__item *next_item(struct ks_label_job *job) {
    pthread_mutex_lock(&job->mutex);
    ks__item *item = job->next < job->end ? &job->items[job->next++] : NULL;
    pthread_mutex_unlock(&job->mutex);
    return item;
}

static void item_ended(ks_label_worker *w) {
    struct ks_label_job *job = w->job;
    w->in_flight--;
    pthread_mutex_lock(&job->mutex);
    job->n_done++;
    pthread_mutex_unlock(&job->mutex);
}

static ks_status fail_of(const ks__item *item, ks_err *err) {
    if (item->status != KS_OK && err) *err = item->err;
    return item->status;
}

/* New chains while there is room for them. */
static ks_status take_chains(ks_label_worker *w, ks_err *err) {
    while (w->in_flight < IN_FLIGHT) {
        ks__item *item = next_item(w->job);
        if (!item) break;
        w->in_flight++;
        item->worker = w;
        ks__item_advance(item);
        if (fail_of(item, err) != KS_OK) return item->status;
        if (ks__item_done(item)) item_ended(w);
    }
    return KS_OK;
}

static ks_status answered(void *user, const ks_request *request,
                          const ks_answer *answer, ks_err *err) {
    ks_status st = KS_OK;
    ks_label_worker *w = user;
    ks__item *item = NULL;
    KS_TRY(ks__answered(request, answer, &item, err));
    if (!item) return KS_OK;
    ks__item_advance(item);
    KS_TRY(fail_of(item, err));
    if (!ks__item_done(item)) return KS_OK;
    item_ended(w);
    KS_TRY(take_chains(w, err));
done:
    return st;
}

static void tell(void *user, const ks_generate_stats *so_far) {
    ks_label_worker *w = user;
    struct ks_label_job *job = w->job;
    pthread_mutex_lock(&job->mutex);
    ks_generate_stats_add(&job->stats, so_far, &w->told);
    w->told = *so_far;
    if (job->progress)
        job->progress(job->user, (int64_t)job->n_done, ks_label_chains(job),
                      &job->stats);
    pthread_mutex_unlock(&job->mutex);
}

static ks_status work(void *user, int member, ks_engine *engine,
                      const atomic_bool *stop, ks_err *err) {
    ks_status st = KS_OK;
    ks_label_worker *w = &((struct ks_label_job *)user)->workers[member];
    w->engine = engine;
    w->options.progress = tell;
    KS_TRY(ks_session_open(&w->session, engine, &w->options, w->job->longest,
                           true, err));
    KS_TRY(take_chains(w, err));
    KS_TRY(ks_session_run(w->session, answered, w, stop, err));
done:
    ks_session_close(&w->session);
    ks_influence_close(&w->influence);
    ks_suppression_close(&w->suppression);
    return st;
}

int ks__label_crew(const struct ks_label_job *job) {
    bool host = job->engines.at[0]->ops->unified;
    size_t memory = job->options.memory;
    return ks_crew_size(&job->engines, host ? memory / 2 : memory,
                        job->end - job->first);
}

ks_generate_options ks__label_session(const struct ks_label_job *job,
                                      int size) {
    const ks_label_options *o = &job->options;
    size_t memory = ks_crew_memory(&job->engines, size, o->memory);
    return (ks_generate_options){.temperature = (float)o->temperature,
                                 .top_p = (float)o->top_p,
                                 .top_k = o->top_k,
                                 .seed = o->seed,
                                 .most_active = MOST_ACTIVE,
                                 .stops = job->prompt.stops,
                                 .n_stops = job->prompt.n_stops,
                                 .memory = memory,
                                 .room = memory,
                                 .aside = ks__measures_between(o)};
}

static ks_status open_workers(struct ks_label_job *job, int size, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_alloc(&job->workers, (size_t)size, sizeof *job->workers,
                    "workers", err));
    for (int i = 0; i < size; i++)
        job->workers[i] = (ks_label_worker){
            .job = job, .options = ks__label_session(job, size)};
done:
    return st;
}

/* ----------------------------------------------------------------- writing */

static ks_status write_lines(const struct ks_label_job *job, const char *output,
                             const char *path,
                             json_t *(*line)(const ks__item *), ks_err *err) {
    ks_status st = KS_OK;
    ks_str all = {0};
    KS_TRY(ks_str_add(&all, "", 0, err));
    for (size_t i = job->first; i < job->end; i++) {
        json_t *object = line(&job->items[i]);
        if (object) KS_TRY(ks_jsonl_add(&all, object, err));
    }
    KS_TRY(ks_write_out(path, all.data, all.length, true, err));
    ks_shard_note note = ks__shard_note_of(job, output);
    KS_TRY(ks_shard_note_write(&note, path, err));
done:
    ks_str_free(&all);
    return st;
}

static json_t *label_line(const ks__item *item) {
    return item->line;
}

static json_t *clean_line(const ks__item *item) {
    return item->clean_line;
}

static json_t *prefix_line(const ks__item *item) {
    return item->prefix_line;
}

static json_t *skipped_line(const ks__item *item) {
    return item->skipped_line;
}

/* The chains that have no labels, and why. */
static ks_status write_skipped(struct ks_label_job *job, const char *path,
                               ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = job->first; i < job->end; i++) {
        ks__item *item = &job->items[i];
        if (item->skip == KS_SKIP_NONE) continue;
        item->skipped_line = json_pack("{s:s,s:s}", "chain", item->chain->id,
                                       "why", ks_label_skip_name(item->skip));
        KS_CHECK(item->skipped_line, KS_NOMEM,
                 "out of memory for a chain without labels");
    }
    KS_TRY(write_lines(job, "skipped", path, skipped_line, err));
done:
    return st;
}

static void sum_up(const struct ks_label_job *job, ks_label_summary *sum) {
    for (size_t i = job->first; i < job->end; i++) {
        const ks__item *item = &job->items[i];
        sum->chains++;
        sum->skipped[item->skip]++;
        sum->asked += item->asked;
        bool done = item->skip == KS_SKIP_NONE;
        for (size_t k = 0; item->cut && k < item->original.steps.n; k++)
            *(done ? &sum->cut : &sum->cut_of_others) += item->cut[k];
        if (!done) continue;
        if (job->options.method == KS_LABEL_CURVE) {
            sum->curves++;
            continue;
        }
        sum->labelled++;
        sum->steps += item->q;
        for (int32_t k = 0; k < item->q; k++) {
            int8_t label = ks__label_of(item, k);
            sum->important += label == 1;
            sum->removable += label == 0;
            sum->unlabelled += label == -1;
        }
        sum->unconfirmed += ks__round4(item->confirmed) < job->options.enough;
    }
    sum->resumed = job->resumed;
    sum->stats = job->stats;
}

static ks_status run_all(struct ks_label_job *job, int size, ks_err *err) {
    ks_status st = KS_OK;
    if (job->longest > 0)
        st = ks_crew_run(&job->engines, size, work, job, err);
    else /* all are filtered: nothing is asked */
        for (size_t i = job->first; i < job->end && st == KS_OK; i++) {
            ks__item_advance(&job->items[i]);
            st = fail_of(&job->items[i], err);
        }
    if (st == KS_OK || !job->part.path) return st;
    if (st == KS_INTERRUPTED)
        return ks_fail(
            err, st, "%s keeps what was answered; --resume goes on from there",
            job->part.path);
    return ks_fail_more(err, st,
                        "; %s keeps what was answered, --resume goes on from "
                        "there",
                        job->part.path);
}

/* None waits for an answer to a question that nobody asked. */
static ks_status check_done(const struct ks_label_job *job, ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = job->first; i < job->end; i++) {
        const ks__item *item = &job->items[i];
        KS_CHECK(ks__item_done(item), KS_INTERNAL,
                 "chain %s: stage %d waits for an answer, and no question is "
                 "open",
                 item->chain->id, item->stage);
    }
done:
    return st;
}

ks_status ks_label_run(ks_label_job *job, ks_label_progress_fn progress,
                       void *user, ks_label_summary *summary, ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &job->options;
    double start = ks_seconds();
    int64_t lines = 0;
    int size = ks__label_crew(job);
    job->progress = progress;
    job->user = user;
    *summary = (ks_label_summary){0};
    KS_TRY(ks__journal_open(job, &lines, err));
    if (lines > 0) {
        bool curve = o->method == KS_LABEL_CURVE;
        *summary = (ks_label_summary){.whole = true,
                                      .chains = ks_label_chains(job),
                                      .labelled = curve ? 0 : lines,
                                      .curves = curve ? lines : 0};
        goto done;
    }
    KS_TRY(open_workers(job, size, err));
    KS_TRY(run_all(job, size, err));
    KS_TRY(check_done(job, err));
    sum_up(job, summary);
    summary->seconds = ks_seconds() - start;
    if (o->clean) KS_TRY(write_lines(job, "clean", o->clean, clean_line, err));
    if (o->prefixes)
        KS_TRY(write_lines(job, "prefixes", o->prefixes, prefix_line, err));
    if (o->skipped) KS_TRY(write_skipped(job, o->skipped, err));
    if (o->out) KS_TRY(write_lines(job, "out", o->out, label_line, err));
    ks_part_close(&job->part, true);
done:
    free(job->workers);
    job->workers = NULL;
    return st;
}
