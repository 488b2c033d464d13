/* capture_pass.c - runs a planned capture: batch by batch through the engines,
 * rows to the activation store as each layer yields them. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "capture_share.h"

enum { RATE_TOKENS = 512 }; /* of the measured forward */

/* ------------------------------------------------------------------- batches
 */

/* Sequences of a batch, and rows of their pooled positions. */
typedef struct span {
    size_t from, to;
    int64_t step, n_steps;
} span;

/* What one engine computes at a time, and what its rows are. */
typedef struct batch {
    ks_capture_pass *pass;
    const ks_capture_job *job;
    ks_engine *engine;
    pthread_t thread;
    bool started;
    span at;
    ks__share *share;
    ks_segment *segments;
} batch;

/* A pass over the chains: batch after batch, on one engine or several. The
 * mutex guards what they share. */
struct ks_capture_pass {
    const ks_capture_job *job;
    batch *batches; /* [engines.n] */
    ks_capture_progress_fn progress;
    void *user;
    pthread_mutex_t mutex;
    ks_acts *acts;
    size_t next;    /* sequence that the next batch starts with */
    size_t done;    /* sequences before it are committed */
    span *finished; /* [n_finished] computed, behind a batch in work */
    size_t n_finished, finished_capacity;
    int64_t n_tokens;   /* of all that is finished */
    size_t failed_from; /* batch of the failure; with several the first */
    ks_status status;
    ks_err err;
};

static ks_status emit(void *user, ks_stream stream, ks_position position,
                      int32_t layer, const void *rows, int64_t n_rows,
                      ks_err *err) {
    const batch *b = user;
    int64_t step = b->at.step;
    int64_t row = position == KS_TOKENS ? b->job->token_row[step] : step;
    pthread_mutex_lock(&b->pass->mutex);
    ks_status st = ks_acts_write(b->pass->acts, stream, position, layer, row,
                                 n_rows, rows, err);
    pthread_mutex_unlock(&b->pass->mutex);
    return st;
}

/* Steps of the batch, counted from where each sequence begins in it. */
static void fill_segments(batch *b, const ks_batch *tokens,
                          const ks_stored *stored) {
    const ks_capture_job *job = b->job;
    b->at.step = job->seqs[b->at.from].step;
    b->at.n_steps = 0;
    for (size_t s = b->at.from; s < b->at.to; s++) {
        const ks_capture_seq *seq = &job->seqs[s];
        int32_t at = (int32_t)(s - b->at.from);
        int32_t token = tokens->offsets[at] - (stored ? stored->past[at] : 0);
        for (int32_t i = 0; i < seq->n_steps; i++) {
            const ks_step_row *step = &job->steps[seq->step + i];
            b->segments[b->at.n_steps++] = (ks_segment){
                at, token + step->token_begin, token + step->token_end};
        }
    }
}

/* The forward knows sequences; here they have names. faulty: of the batch. */
static ks_status name_fault(const batch *b, ks_status st, int32_t faulty,
                            ks_err *err) {
    if (st != KS_NUMERIC || faulty < 0 ||
        faulty >= (int32_t)(b->at.to - b->at.from))
        return st;
    ks_fault fault = ks_run_fault(b->engine->run);
    const ks_capture_seq *seq = &b->job->seqs[b->at.from + (size_t)faulty];
    char where[64] = "in the prompt or between steps";
    for (int32_t i = 0; i < seq->n_steps; i++) {
        const ks_step_row *s = &b->job->steps[seq->step + i];
        if (fault.token >= s->token_begin && fault.token < s->token_end)
            snprintf(where, sizeof where, "step %d", s->index);
    }
    const char *id = b->job->chains.at[seq->chain].id;
    const char *stream = ks_stream_name(fault.stream);
    long long count = (long long)fault.count;
    if (fault.overflow)
        return ks_fail(err, st,
                       "chain '%s', %s layer %d: %lld values are "
                       "beyond the range of %s, the first at token %d (%s); "
                       "--dtype bf16 has the range of f32",
                       id, stream, fault.layer, count,
                       ks_type_name(b->job->options.dtype), fault.token, where);
    return ks_fail(err, st,
                   "chain '%s', %s layer %d: %lld values are not "
                   "finite, the first at token %d (%s)",
                   id, stream, fault.layer, count, fault.token, where);
}

static ks_status run_batch(batch *b, ks_err *err) {
    const ks_capture_options *o = &b->job->options;
    ks_batch tokens;
    const ks_stored *stored;
    int32_t faulty = -1;
    ks_status st = ks__share_batch(b->share, b->at.from, b->at.to, &tokens,
                                   &stored, &faulty, err);
    if (st != KS_OK) return name_fault(b, st, faulty, err);
    fill_segments(b, &tokens, stored);
    ks_capture capture = {.streams = o->streams,
                          .positions = o->positions,
                          .dtype = o->dtype,
                          .n_segments = (int32_t)b->at.n_steps,
                          .segments = b->segments,
                          .emit = emit,
                          .user = b};
    st = ks__engine_run_behind(b->engine, &tokens, stored, &capture, err);
    if (st == KS_NUMERIC) faulty = ks_run_fault(b->engine->run).seq;
    return name_fault(b, st, faulty, err);
}

/* ---------------------------------------------------------------------- run */

static ks_status reserve(const ks_capture_job *job, ks_engine *engine,
                         ks_err *err) {
    ks_run_limits limits = {.max_tokens = job->max_tokens,
                            .max_rows = job->max_rows,
                            .max_pages =
                                (int64_t)job->max_seqs * job->share_columns,
                            .streams = job->options.streams,
                            .positions = job->options.positions,
                            .dtype = job->options.dtype};
    return ks_engine_reserve(engine, &limits, err);
}

/* The first sequence that is not done; done counts whole sequences. */
static size_t first_undone(const ks_capture_job *job, int64_t done) {
    size_t low = 0, high = job->n_seqs;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (job->seqs[middle].step < done)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int64_t tokens_before(const ks_capture_job *job, size_t seq) {
    return seq < job->n_seqs ? job->seqs[seq].token : (int64_t)job->n_ids;
}

static ks_status open_batches(ks_capture_pass *pass, ks_err *err) {
    ks_status st = KS_OK;
    const ks_capture_job *job = pass->job;
    KS_TRY(ks_alloc(&pass->batches, (size_t)job->engines.n,
                    sizeof *pass->batches, "batches", err));
    for (int32_t i = 0; i < job->engines.n; i++) {
        batch *b = &pass->batches[i];
        *b = (batch){.pass = pass, .job = job};
        b->engine = job->engines.at[i];
        KS_TRY(b->engine->ops->enter(b->engine->dev, err));
        KS_TRY(ks__share_open(&b->share, job, b->engine, err));
        KS_TRY(ks_alloc(&b->segments, (size_t)job->max_rows,
                        sizeof *b->segments, "a batch", err));
    }
    KS_TRY(job->engine->ops->enter(job->engine->dev, err));
done:
    return st;
}

ks_status ks_capture_begin(ks_capture_pass **out, const ks_capture_job *job,
                           int64_t *resumed, ks_err *err) {
    ks_status st = KS_OK;
    ks_capture_pass *pass = NULL;
    int64_t done = 0;
    ks_acts_options store = {.force = job->options.force,
                             .resume = job->options.resume};
    *out = NULL;
    KS_TRY(reserve(job, job->engine, err));
    KS_TRY(ks_alloc(&pass, 1, sizeof *pass, "a capture's pass", err));
    pass->job = job;
    pthread_mutex_init(&pass->mutex, NULL);
    KS_TRY(open_batches(pass, err));
    KS_TRY(ks_acts_create(&pass->acts, job->options.out, &job->spec, &store,
                          &done, err));
    if (resumed) *resumed = done;
    if (!pass->acts) goto done; /* complete already */
    pass->next = pass->done = first_undone(job, done);
    pass->n_tokens = tokens_before(job, pass->next);
    KS_CHECK(pass->next == job->n_seqs || job->seqs[pass->next].step == done,
             KS_INTERNAL, "%s.part ends inside a chain, at step %lld",
             job->options.out, (long long)done);
    *out = pass;
    pass = NULL;
done:
    ks_capture_drop(&pass);
    return st;
}

/* The next batch; false: there is none, or another engine has failed. */
static bool take_batch(batch *b) {
    ks_capture_pass *p = b->pass;
    int32_t tokens, steps;
    pthread_mutex_lock(&p->mutex);
    bool more = p->next < p->job->n_seqs && p->status == KS_OK;
    if (more) {
        b->at = (span){.from = p->next};
        b->at.to = ks__capture_batch_end(p->job, p->next, &tokens, &steps);
        p->next = b->at.to;
    }
    pthread_mutex_unlock(&p->mutex);
    return more;
}

/* Commits what is finished as far as it goes without a gap. */
static ks_status commit(ks_capture_pass *p, ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < p->n_finished; i++) {
        span at = p->finished[i];
        if (at.from != p->done) continue;
        KS_TRY(ks_acts_commit(p->acts, at.step, at.step + at.n_steps, err));
        p->done = at.to;
        p->finished[i] = p->finished[--p->n_finished];
        i = (size_t)-1; /* from the start */
    }
done:
    return st;
}

static void end_batch(batch *b, ks_status st, ks_err *err) {
    ks_capture_pass *p = b->pass;
    pthread_mutex_lock(&p->mutex);
    if (st == KS_OK)
        st = ks_grow(&p->finished, &p->finished_capacity, p->n_finished + 1,
                     sizeof *p->finished, "batches", err);
    if (st == KS_OK) {
        p->finished[p->n_finished++] = b->at;
        st = commit(p, err);
    }
    if (st == KS_OK) {
        p->n_tokens +=
            tokens_before(p->job, b->at.to) - tokens_before(p->job, b->at.from);
        if (p->progress)
            p->progress(p->user, p->n_tokens, (int64_t)p->job->n_ids);
    } else if (p->status == KS_OK || b->at.from < p->failed_from) {
        p->status = st;
        p->err = *err;
        p->failed_from = b->at.from;
    }
    pthread_mutex_unlock(&p->mutex);
}

static ks_status status_of(const ks_capture_pass *pass, ks_err *err) {
    if (pass->status != KS_OK && err) *err = pass->err;
    return pass->status;
}

static bool step(batch *b) {
    ks_err err = {0};
    if (!take_batch(b)) return false;
    ks_status st = run_batch(b, &err);
    end_batch(b, st, &err);
    return st == KS_OK;
}

ks_status ks_capture_step(ks_capture_pass *pass, bool *more, ks_err *err) {
    (void)step(&pass->batches[0]);
    *more = pass->done < pass->job->n_seqs;
    return status_of(pass, err);
}

ks_status ks_capture_sync(ks_capture_pass *pass, ks_err *err) {
    return ks_acts_sync(pass->acts, err);
}

ks_status ks_capture_end(ks_capture_pass **pass, ks_err *err) {
    ks_status st = ks_acts_finish(&(*pass)->acts, err);
    ks_capture_drop(pass);
    return st;
}

void ks_capture_drop(ks_capture_pass **pass) {
    ks_capture_pass *p = *pass;
    if (!p) return;
    ks_acts_abandon(&p->acts);
    for (int32_t i = 0; p->batches && i < p->job->engines.n; i++) {
        ks__share_close(&p->batches[i].share);
        free(p->batches[i].segments);
    }
    pthread_mutex_destroy(&p->mutex);
    free(p->batches);
    free(p->finished);
    free(p);
    *pass = NULL;
}

/* One engine's share of the batches, in a thread of its own. */
static void *work(void *at) {
    batch *b = at;
    ks_err err = {0};
    ks_status st = b->engine->ops->enter(b->engine->dev, &err);
    if (st == KS_OK) st = reserve(b->job, b->engine, &err);
    if (st != KS_OK) {
        b->at = (span){0};
        end_batch(b, st, &err);
    } else {
        while (!ks_interrupted && step(b)) continue;
    }
    return NULL;
}

/* All engines at once; the caller's thread drives the first, and those that
 * got no thread. */
static void run_engines(ks_capture_pass *pass) {
    int32_t n = pass->job->engines.n;
    for (int32_t i = 1; i < n; i++) {
        batch *b = &pass->batches[i];
        b->started = pthread_create(&b->thread, NULL, work, b) == 0;
    }
    for (int32_t i = 0; i < n; i++)
        if (!pass->batches[i].started) work(&pass->batches[i]);
    for (int32_t i = 1; i < n; i++)
        if (pass->batches[i].started)
            pthread_join(pass->batches[i].thread, NULL);
}

ks_status ks_capture_run(ks_capture_job *job, ks_capture_progress_fn progress,
                         void *user, int64_t *resumed, ks_err *err) {
    ks_status st = KS_OK;
    ks_capture_pass *pass = NULL;
    KS_TRY(ks_capture_begin(&pass, job, resumed, err));
    if (!pass) goto done;
    pass->progress = progress;
    pass->user = user;
    run_engines(pass);
    KS_TRY(status_of(pass, err));
    KS_CHECK(pass->done == job->n_seqs, KS_INTERRUPTED,
             "%s.part keeps %lld of %lld steps; --resume goes on from there",
             job->options.out, (long long)job->seqs[pass->done].step,
             (long long)job->spec.n_steps);
    KS_TRY(ks_capture_end(&pass, err));
done:
    ks_capture_drop(&pass);
    return st;
}

/* --------------------------------------------------------------------- rate */

ks_status ks_capture_rate(ks_capture_job *job, double *tokens_per_second,
                          ks_err *err) {
    ks_status st = KS_OK;
    /* whole sequences as they come, cut to a short batch */
    int32_t offsets[RATE_TOKENS + 1] = {0}, n = 0;
    int32_t budget = KS_MIN(RATE_TOKENS, job->max_tokens);
    for (size_t s = 0; s < job->n_seqs && offsets[n] < budget; s++, n++)
        offsets[n + 1] = KS_MIN(offsets[n] + job->seqs[s].n_tokens, budget);
    ks_batch tokens = {.n_seq = n, .offsets = offsets, .ids = job->ids};
    KS_TRY(reserve(job, job->engine, err));
    double best = 0;
    /* the first pass maps weights and wakes threads */
    for (int pass = 0; pass < 2; pass++) {
        double start = ks_seconds();
        KS_TRY(ks_engine_run(job->engine, &tokens, NULL, err));
        best = offsets[n] / KS_MAX(ks_seconds() - start, 1e-9);
    }
    *tokens_per_second = best;
done:
    return st;
}
