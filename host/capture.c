/* capture.c - runs a planned capture: batch by batch through the engine, rows
 * to the activation store as each layer yields them. */
#include "capture.h"

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
    KS_TRY(ks_engine_open(&job->engine, options->model, &options->engine, err));
    KS_TRY(open_tokenizer(job, err));
    job->cost.open_seconds = ks_seconds() - start;
    KS_TRY(ks__capture_plan(job, err));
    job->cost.plan_seconds = ks_seconds() - start - job->cost.open_seconds;
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
    ks_engine_close(&job->engine);
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

/* A batch: what the engine gets, and what its rows are. One after the other
 * they are a pass over the chains. */
typedef struct ks_capture_pass {
    const ks_capture_job *job;
    ks_acts *acts;
    size_t from, to;        /* sequences */
    int64_t step, n_steps;  /* rows of pooled positions */
    int32_t *offsets, *ids; /* ids borrowed from the job */
    ks_segment *segments;
} batch;

static ks_status emit(void *user, ks_stream stream, ks_position position,
                      int32_t layer, const void *rows, int64_t n_rows,
                      ks_err *err) {
    const batch *b = user;
    int64_t row = position == KS_TOKENS ? b->job->token_row[b->step] : b->step;
    return ks_acts_write(b->acts, stream, position, layer, row, n_rows, rows,
                         err);
}

/* The sequences lie end to end in the job's ids, so a batch is a window. */
static void fill_batch(batch *b) {
    const ks_capture_job *job = b->job;
    const ks_capture_seq *first = &job->seqs[b->from];
    b->ids = job->ids + first->token;
    b->step = first->step;
    b->n_steps = 0;
    for (size_t s = b->from; s < b->to; s++) {
        const ks_capture_seq *seq = &job->seqs[s];
        int32_t at = (int32_t)(s - b->from);
        int32_t token = (int32_t)(seq->token - first->token);
        b->offsets[at] = token;
        b->offsets[at + 1] = token + seq->n_tokens;
        for (int32_t i = 0; i < seq->n_steps; i++) {
            const ks_step_row *step = &job->steps[seq->step + i];
            b->segments[b->n_steps++] = (ks_segment){
                at, token + step->token_begin, token + step->token_end};
        }
    }
}

/* The forward knows sequences; here they have names. */
static ks_status name_fault(const batch *b, ks_status st, ks_err *err) {
    if (st != KS_NUMERIC || !b->job->engine->run) return st;
    ks_fault fault = ks_run_fault(b->job->engine->run);
    if (fault.seq < 0 || fault.seq >= (int32_t)(b->to - b->from)) return st;
    const ks_capture_seq *seq = &b->job->seqs[b->from + (size_t)fault.seq];
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
    ks_batch tokens = {.n_seq = (int32_t)(b->to - b->from),
                       .offsets = b->offsets,
                       .ids = b->ids};
    ks_capture capture = {.streams = o->streams,
                          .positions = o->positions,
                          .dtype = o->dtype,
                          .n_segments = (int32_t)b->n_steps,
                          .segments = b->segments,
                          .emit = emit,
                          .user = b};
    ks_status st = ks_engine_run(b->job->engine, &tokens, &capture, err);
    return name_fault(b, st, err);
}

/* ---------------------------------------------------------------------- run */

static ks_status reserve(const ks_capture_job *job, ks_err *err) {
    ks_run_limits limits = {.max_tokens = job->max_tokens,
                            .max_rows = job->max_rows,
                            .streams = job->options.streams,
                            .positions = job->options.positions,
                            .dtype = job->options.dtype};
    return ks_engine_reserve(job->engine, &limits, err);
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

ks_status ks_capture_begin(ks_capture_pass **out, const ks_capture_job *job,
                           int64_t *resumed, ks_err *err) {
    ks_status st = KS_OK;
    batch *b = NULL;
    int64_t done = 0;
    ks_acts_options store = {.force = job->options.force,
                             .resume = job->options.resume};
    *out = NULL;
    KS_TRY(reserve(job, err));
    KS_TRY(ks_alloc(&b, 1, sizeof *b, "a capture's pass", err));
    b->job = job;
    KS_TRY(ks_alloc(&b->offsets, job->n_seqs + 1, sizeof *b->offsets, "a batch",
                    err));
    KS_TRY(ks_alloc(&b->segments, (size_t)job->max_rows, sizeof *b->segments,
                    "a batch", err));
    KS_TRY(ks_acts_create(&b->acts, job->options.out, &job->spec, &store, &done,
                          err));
    if (resumed) *resumed = done;
    if (!b->acts) goto done; /* complete already */
    b->from = b->to = first_undone(job, done);
    KS_CHECK(b->to == job->n_seqs || job->seqs[b->to].step == done, KS_INTERNAL,
             "%s.part ends inside a chain, at step %lld", job->options.out,
             (long long)done);
    *out = b;
    b = NULL;
done:
    ks_capture_drop(&b);
    return st;
}

ks_status ks_capture_step(ks_capture_pass *b, bool *more, ks_err *err) {
    ks_status st = KS_OK;
    const ks_capture_job *job = b->job;
    if (b->to < job->n_seqs) {
        int32_t tokens, steps;
        b->from = b->to;
        b->to = ks__capture_batch_end(job, b->from, &tokens, &steps);
        KS_TRY(run_batch(b, err));
        KS_TRY(ks_acts_commit(b->acts, b->step, b->step + b->n_steps, err));
    }
    *more = b->to < job->n_seqs;
done:
    return st;
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
    batch *b = *pass;
    if (!b) return;
    ks_acts_abandon(&b->acts);
    free(b->offsets);
    free(b->segments);
    free(b);
    *pass = NULL;
}

/* Steps of the batches that are through. */
static int64_t steps_done(const batch *b) {
    const ks_capture_job *job = b->job;
    return b->to < job->n_seqs ? job->seqs[b->to].step : job->spec.n_steps;
}

static ks_status stop_here(const batch *b, ks_err *err) {
    return ks_fail(err, KS_INTERRUPTED,
                   "%s.part keeps %lld of %lld steps; "
                   "--resume goes on from there",
                   b->job->options.out, (long long)steps_done(b),
                   (long long)b->job->spec.n_steps);
}

ks_status ks_capture_run(ks_capture_job *job, ks_capture_progress_fn progress,
                         void *user, int64_t *resumed, ks_err *err) {
    ks_status st = KS_OK;
    batch *b = NULL;
    KS_TRY(ks_capture_begin(&b, job, resumed, err));
    if (!b) goto done;
    for (bool more = b->to < job->n_seqs; more;) {
        if (ks_interrupted) KS_TRY(stop_here(b, err));
        KS_TRY(ks_capture_step(b, &more, err));
        if (progress)
            progress(user, tokens_before(job, b->to), (int64_t)job->n_ids);
    }
    KS_TRY(ks_capture_end(&b, err));
done:
    ks_capture_drop(&b);
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
    KS_TRY(reserve(job, err));
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
