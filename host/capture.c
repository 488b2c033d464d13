/* capture.c - runs a planned capture: batch by batch through the engine, rows
 * to the activation store as each layer yields them. */
#include "capture.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "prompt.h"

enum { RATE_TOKENS = 512 }; /* of the measured forward */

/* -------------------------------------------------------------- open, close */

static void fill_defaults(ks_capture_options *o) {
    if (!o->streams) o->streams = 1u << KS_RESID;
    if (!o->positions) {
        o->positions = (1u << KS_TOKENS) - 1; /* every pooled one */
        if (o->context_none) o->positions &= ~(1u << KS_BEFORE);
    }
}

static ks_status open_tokenizer(ks_capture_job *job, ks_err *err) {
    char *home = NULL;
    const char *path = job->options.tokenizer;
    ks_status st = KS_OK;
    if (!path) {
        KS_TRY(ks_model_home(&home, job->options.model, err));
        path = home;
    }
    KS_TRY(ks_tokenizer_open(&job->tokenizer, path, err));
done:
    free(home);
    return st;
}

static ks_status add_backend(ks_capture_job *job, const char *name, size_t n,
                             ks_err *err) {
    job->backends[job->n_backends] = strndup(name, n);
    if (!job->backends[job->n_backends++])
        return ks_fail(err, KS_NOMEM, "no memory for a backend's name");
    return KS_OK;
}

/* "cuda:0,cuda:1" taken apart. */
static ks_status list_backends(ks_capture_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const char *list = job->options.engine.backend;
    size_t n = 1;
    if (!list) list = "cpu";
    for (const char *c = list; *c; c++) n += *c == ',';
    KS_TRY(ks_alloc(&job->backends, n, sizeof(char *), "backends", err));
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        KS_TRY(add_backend(job, at, strcspn(at, ","), err));
    }
    job->options.engine.backend = job->backends[0];
done:
    return st;
}

/* The list's other devices; they share the first one's model. */
static ks_status open_more(ks_capture_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const char *isa = job->engine->ops->isa;
    KS_TRY(ks_alloc(&job->more, (size_t)job->n_backends, sizeof(ks_engine *),
                    "engines", err));
    for (int32_t i = 1; i < job->n_backends; i++) {
        ks_engine **other = &job->more[i - 1];
        KS_TRY(ks_engine_share(other, job->engine, job->backends[i], err));
        KS_CHECK(strcmp((*other)->ops->isa, isa) == 0, KS_USAGE,
                 "%s is %s and %s is %s, whose bits differ: one file takes "
                 "devices of one kind",
                 job->backends[0], isa, job->backends[i], (*other)->ops->isa);
    }
done:
    return st;
}

static ks_status check_options(const ks_capture_options *o, ks_err *err) {
    if (o->context_none && o->positions & 1u << KS_BEFORE)
        return ks_fail(err, KS_USAGE,
                       "position 'before' needs --context full: "
                       "a step alone has nothing ahead of it");
    return KS_OK;
}

ks_status ks_capture_open(ks_capture_job **out,
                          const ks_capture_options *options, ks_err *err) {
    ks_status st = KS_OK;
    ks_capture_job *job = NULL;
    *out = NULL;
    KS_TRY(check_options(options, err));
    KS_TRY(ks_alloc(&job, 1, sizeof *job, "a capture", err));
    job->options = *options;
    fill_defaults(&job->options);
    double start = ks_seconds();
    KS_TRY(list_backends(job, err));
    KS_TRY(ks_engine_open(&job->engine, options->model, &job->options.engine,
                          err));
    KS_TRY(open_tokenizer(job, err));
    job->cost.open_seconds = ks_seconds() - start;
    KS_TRY(ks__capture_plan(job, err));
    job->cost.plan_seconds = ks_seconds() - start - job->cost.open_seconds;
    KS_TRY(open_more(job, err));
    if (options->random_weights >= 0)
        KS_TRY(ks_model_randomize(job->engine->model,
                                  (uint64_t)options->random_weights, err));
    *out = job;
    job = NULL;
done:
    ks_capture_close(&job);
    return st;
}

void ks_capture_close(ks_capture_job **job_at) {
    ks_capture_job *job = *job_at;
    if (!job) return;
    for (int32_t i = 1; job->more && i < job->n_backends; i++)
        ks_engine_close(&job->more[i - 1]);
    ks_engine_close(&job->engine);
    for (int32_t i = 0; i < job->n_backends; i++) free(job->backends[i]);
    free(job->backends);
    free(job->more);
    ks_tokenizer_close(&job->tokenizer);
    ks_chains_free(&job->chains);
    ks_labels_free(&job->labels);
    free(job->ids);
    free(job->seqs);
    free(job->steps);
    free(job->token_row);
    free(job->chain_rows);
    free(job->config);
    free(job);
    *job_at = NULL;
}

/* ------------------------------------------------------------------- batches
 */

/* Sequences of a batch, and rows of their pooled positions. */
typedef struct span {
    size_t from, to;
    int64_t step, n_steps;
} span;

/* What the engines of a job share; the mutex guards all of it. */
typedef struct crew {
    const ks_capture_job *job;
    ks_acts *acts;
    ks_capture_progress_fn progress;
    void *user;
    pthread_mutex_t mutex;
    size_t next;    /* sequence that the next batch starts with */
    size_t done;    /* sequences before it are committed */
    span *finished; /* [n_finished] computed, behind a batch in work */
    size_t n_finished, finished_capacity;
    int64_t n_tokens; /* of all that is finished */
    bool stop;
    size_t failed_from; /* batch of the failure; with several the first */
    ks_status status;
    ks_err err;
} crew;

/* What an engine gets, and what its rows are. */
typedef struct batch {
    crew *crew;
    const ks_capture_job *job;
    ks_engine *engine;
    pthread_t thread;
    bool started;
    span at;
    int32_t *offsets, *ids; /* ids borrowed from the job */
    ks_segment *segments;
} batch;

static ks_status emit(void *user, ks_stream stream, ks_position position,
                      int32_t layer, const void *rows, int64_t n_rows,
                      ks_err *err) {
    const batch *b = user;
    int64_t step = b->at.step;
    int64_t row = position == KS_TOKENS ? b->job->token_row[step] : step;
    pthread_mutex_lock(&b->crew->mutex);
    ks_status st = ks_acts_write(b->crew->acts, stream, position, layer, row,
                                 n_rows, rows, err);
    pthread_mutex_unlock(&b->crew->mutex);
    return st;
}

/* The sequences lie end to end in the job's ids, so a batch is a window. */
static void fill_batch(batch *b) {
    const ks_capture_job *job = b->job;
    const ks_capture_seq *first = &job->seqs[b->at.from];
    b->ids = job->ids + first->token;
    b->at.step = first->step;
    b->at.n_steps = 0;
    for (size_t s = b->at.from; s < b->at.to; s++) {
        const ks_capture_seq *seq = &job->seqs[s];
        int32_t at = (int32_t)(s - b->at.from);
        int32_t token = (int32_t)(seq->token - first->token);
        b->offsets[at] = token;
        b->offsets[at + 1] = token + seq->n_tokens;
        for (int32_t i = 0; i < seq->n_steps; i++) {
            const ks_step_row *step = &job->steps[seq->step + i];
            b->segments[b->at.n_steps++] = (ks_segment){
                at, token + step->token_begin, token + step->token_end};
        }
    }
}

/* The forward knows sequences; here they have names. */
static ks_status name_fault(const batch *b, ks_status st, ks_err *err) {
    if (st != KS_NUMERIC || !b->engine->run) return st;
    ks_fault fault = ks_run_fault(b->engine->run);
    if (fault.seq < 0 || fault.seq >= (int32_t)(b->at.to - b->at.from))
        return st;
    const ks_capture_seq *seq = &b->job->seqs[b->at.from + (size_t)fault.seq];
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
    fill_batch(b);
    ks_batch tokens = {.n_seq = (int32_t)(b->at.to - b->at.from),
                       .offsets = b->offsets,
                       .ids = b->ids};
    ks_capture capture = {.streams = o->streams,
                          .positions = o->positions,
                          .dtype = o->dtype,
                          .n_segments = (int32_t)b->at.n_steps,
                          .segments = b->segments,
                          .emit = emit,
                          .user = b};
    ks_status st = ks_engine_run(b->engine, &tokens, &capture, err);
    return name_fault(b, st, err);
}

/* ---------------------------------------------------------------------- run */

static ks_status reserve(const ks_capture_job *job, ks_engine *engine,
                         ks_err *err) {
    ks_run_limits limits = {.max_tokens = job->max_tokens,
                            .max_rows = job->max_rows,
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

static ks_status stop_here(const ks_capture_job *job, int64_t done,
                           ks_err *err) {
    return ks_fail(err, KS_INTERRUPTED,
                   "%s.part keeps %lld of %lld steps; "
                   "--resume goes on from there",
                   job->options.out, (long long)done,
                   (long long)job->spec.n_steps);
}

/* The next batch; false: there is none, or someone has to stop. */
static bool take_batch(batch *b) {
    crew *c = b->crew;
    int32_t tokens, steps;
    pthread_mutex_lock(&c->mutex);
    bool more = c->next < c->job->n_seqs && !c->stop && !ks_interrupted;
    if (more) {
        b->at = (span){.from = c->next};
        b->at.to = ks__capture_batch_end(c->job, c->next, &tokens, &steps);
        c->next = b->at.to;
    }
    pthread_mutex_unlock(&c->mutex);
    return more;
}

/* Commits what is finished as far as it goes without a gap. */
static ks_status commit(crew *c, ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < c->n_finished; i++) {
        span at = c->finished[i];
        if (at.from != c->done) continue;
        KS_TRY(ks_acts_commit(c->acts, at.step, at.step + at.n_steps, err));
        c->done = at.to;
        c->finished[i] = c->finished[--c->n_finished];
        i = (size_t)-1; /* from the start */
    }
done:
    return st;
}

static void end_batch(batch *b, ks_status st, ks_err *err) {
    crew *c = b->crew;
    pthread_mutex_lock(&c->mutex);
    if (st == KS_OK)
        st = ks_grow(&c->finished, &c->finished_capacity, c->n_finished + 1,
                     sizeof *c->finished, "batches", err);
    if (st == KS_OK) {
        c->finished[c->n_finished++] = b->at;
        st = commit(c, err);
    }
    if (st == KS_OK) {
        c->n_tokens +=
            tokens_before(c->job, b->at.to) - tokens_before(c->job, b->at.from);
        if (c->progress)
            c->progress(c->user, c->n_tokens, (int64_t)c->job->n_ids);
    } else if (c->status == KS_OK || b->at.from < c->failed_from) {
        c->status = st;
        c->err = *err;
        c->failed_from = b->at.from;
        c->stop = true;
    }
    pthread_mutex_unlock(&c->mutex);
}

/* One engine's share of the batches. */
static void *work(void *at) {
    batch *b = at;
    const ks_capture_job *job = b->job;
    ks_err err = {0};
    ks_status st = KS_OK;
    KS_TRY(reserve(job, b->engine, &err));
    KS_TRY(ks_alloc(&b->offsets, job->n_seqs + 1, sizeof *b->offsets, "a batch",
                    &err));
    KS_TRY(ks_alloc(&b->segments, (size_t)job->max_rows, sizeof *b->segments,
                    "a batch", &err));
    while (take_batch(b)) {
        st = run_batch(b, &err);
        end_batch(b, st, &err);
        if (st != KS_OK) break;
    }
    st = KS_OK;
done:
    if (st != KS_OK) end_batch(b, st, &err);
    free(b->offsets);
    free(b->segments);
    return NULL;
}

/* The caller's thread drives the first engine, and those that got no thread. */
static ks_status run_batches(crew *c, ks_err *err) {
    ks_status st = KS_OK;
    const ks_capture_job *job = c->job;
    int32_t n = job->n_backends;
    batch *b = NULL;
    KS_TRY(ks_alloc(&b, (size_t)n, sizeof *b, "batches", err));
    for (int32_t i = 0; i < n; i++) {
        b[i] = (batch){.crew = c, .job = job};
        b[i].engine = i ? job->more[i - 1] : job->engine;
        b[i].started =
            i > 0 && pthread_create(&b[i].thread, NULL, work, &b[i]) == 0;
    }
    for (int32_t i = 0; i < n; i++)
        if (!b[i].started) work(&b[i]);
    for (int32_t i = 1; i < n; i++)
        if (b[i].started) pthread_join(b[i].thread, NULL);
    st = c->status;
    if (st != KS_OK && err) *err = c->err;
    if (st == KS_OK && c->done < job->n_seqs)
        st = stop_here(job, job->seqs[c->done].step, err);
done:
    free(b);
    return st;
}

ks_status ks_capture_run(ks_capture_job *job, ks_capture_progress_fn progress,
                         void *user, int64_t *resumed, ks_err *err) {
    ks_status st = KS_OK;
    crew c = {.job = job,
              .progress = progress,
              .user = user,
              .mutex = PTHREAD_MUTEX_INITIALIZER};
    int64_t done = 0;
    ks_acts_options store = {.force = job->options.force,
                             .resume = job->options.resume};
    KS_TRY(reserve(job, job->engine, err));
    KS_TRY(ks_acts_create(&c.acts, job->options.out, &job->spec, &store, &done,
                          err));
    if (resumed) *resumed = done;
    if (!c.acts) goto done; /* complete already */
    c.next = c.done = first_undone(job, done);
    c.n_tokens = tokens_before(job, c.next);
    KS_CHECK(c.next == job->n_seqs || job->seqs[c.next].step == done,
             KS_INTERNAL, "%s.part ends inside a chain, at step %lld",
             job->options.out, (long long)done);
    KS_TRY(run_batches(&c, err));
    KS_TRY(ks_acts_finish(&c.acts, err));
done:
    ks_acts_abandon(&c.acts);
    free(c.finished);
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
