/* engine.c - the engine of keystep.h: a model, a backend and run buffers that
 * grow to what is asked, behind checks of everything that comes from outside.
 */
#include "forward.h"

#include <stdlib.h>

/* Long enough to feed every GEMM. */
enum { DEFAULT_BATCH_TOKENS = 2048, DEVICE_BATCH_TOKENS = 8192 };

/* What to do where memory is short. */
#define LESS "a smaller batch (--batch-tokens) or shorter texts need less"

/* The most tokens, up to `most`, whose buffers fit into memory (0: any). */
static int32_t fitting_tokens(const ks_engine *engine, ks_run_limits limits,
                              size_t memory, int32_t most) {
    int32_t low = 0, high = most;
    if (memory == 0) return most;
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2;
        limits.max_tokens = middle;
        if (ks_run_bytes(engine->ops, &engine->model->config, &limits) <=
            memory)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static ks_status check_options(const ks_engine_options *o, ks_err *err) {
    if (o->threads < 0 || o->batch_tokens < 0)
        return ks_fail(err, KS_USAGE,
                       "engine options: %d threads, %d batch tokens; both must "
                       "be 0 (default) or more",
                       o->threads, o->batch_tokens);
    return KS_OK;
}

/* Run buffers may take all the host memory that the option allows. */
static ks_status open_device(ks_engine *engine, const char *backend,
                             ks_err *err) {
    ks_status st = KS_OK;
    const ks_engine_options *o = &engine->options;
    KS_TRY(ks_dev_open(&engine->dev, &engine->ops, backend, o->threads, NULL,
                       err));
    engine->limits.lanes = ks_dev_lanes(engine->dev);
    engine->memory = o->memory;
done:
    return st;
}

/* Of a device's own memory the limit holds the weights too, and a part is left
 * for what ops take. */
static ks_status measure_room(ks_engine *engine, ks_err *err) {
    ks_status st = KS_OK;
    if (engine->ops->unified) return KS_OK;
    KS_TRY(ks_dev_limit(engine->dev, engine->options.memory, LESS, err));
    size_t room = ks_dev_room(engine->dev) / 16 * 15;
    size_t weights = ks_place_bytes(engine->ops, engine->model);
    KS_CHECK(weights < room, KS_NOMEM,
             "%s: the weights take %zu bytes, device memory has room for %zu; "
             "a larger --memory allows more where the device has it",
             engine->model->name, weights, room);
    engine->memory = room - weights;
done:
    return st;
}

ks_status ks_engine_fit(ks_engine *engine, size_t memory, int32_t most,
                        ks_err *err) {
    ks_status st = KS_OK;
    ks_run_limits one = engine->limits;
    one.max_tokens = 1;
    int32_t n = fitting_tokens(engine, engine->limits, memory, most);
    KS_CHECK(n > 0, KS_LIMIT,
             "%s: the buffers for one token take %zu bytes, more than the "
             "%zu allowed; a larger --memory allows more",
             engine->model->name,
             ks_run_bytes(engine->ops, &engine->model->config, &one), memory);
    engine->limits.max_tokens = n;
done:
    return st;
}

ks_status ks_engine_open(ks_engine **out, const char *model,
                         const ks_engine_options *options, ks_err *err) {
    ks_status st = KS_OK;
    ks_engine *engine = NULL;
    *out = NULL;
    KS_TRY(ks_alloc(&engine, 1, sizeof *engine, "an engine", err));
    if (options) engine->options = *options;
    ks_engine_options *o = &engine->options;
    if (!o->backend) o->backend = "cpu";
    KS_TRY(check_options(o, err));
    KS_TRY(open_device(engine, o->backend, err)); /* quick, unlike a model */
    KS_TRY(ks_model_open(&engine->model, model, err));
    KS_TRY(measure_room(engine, err));
    int32_t most =
        engine->ops->unified ? DEFAULT_BATCH_TOKENS : DEVICE_BATCH_TOKENS;
    if (o->batch_tokens) most = o->batch_tokens;
    KS_TRY(ks_engine_fit(engine, engine->memory, most, err));
    *out = engine;
    engine = NULL;
done:
    ks_engine_close(&engine);
    return st;
}

ks_status ks_engine_share(ks_engine **out, const ks_engine *of,
                          const char *backend, ks_err *err) {
    ks_status st = KS_OK;
    ks_engine *engine = NULL;
    *out = NULL;
    KS_TRY(ks_alloc(&engine, 1, sizeof *engine, "an engine", err));
    engine->options = of->options;
    engine->options.backend = backend;
    engine->model = of->model;
    engine->shares_model = true;
    KS_TRY(open_device(engine, backend, err));
    KS_TRY(measure_room(engine, err));
    engine->limits.max_tokens = of->limits.max_tokens;
    *out = engine;
    engine = NULL;
done:
    ks_engine_close(&engine);
    return st;
}

void ks_engine_close(ks_engine **engine) {
    if (!*engine) return;
    ks_run_close(&(*engine)->run);
    ks_placed_close(&(*engine)->placed);
    if (!(*engine)->shares_model) ks_model_close(&(*engine)->model);
    if ((*engine)->dev) ks_dev_close(&(*engine)->dev, (*engine)->ops);
    free(*engine);
    *engine = NULL;
}

ks_model_info ks_engine_info(const ks_engine *engine) {
    ks_model *m = engine->model;
    ks_model_hash(m, NULL); /* once; on failure the hash stays empty */
    return (ks_model_info){
        .name = m->name,
        .architecture = m->config.arch,
        .sha256 = m->sha256,
        .n_layers = m->config.n_layers,
        .d_model = m->config.d_model,
        .n_vocab = m->config.n_vocab,
        .n_context = m->config.n_context,
    };
}

int32_t ks_engine_longest(const ks_engine *engine, bool *by_memory) {
    const ks_config *c = &engine->model->config;
    int32_t n =
        fitting_tokens(engine, engine->limits, engine->memory, c->n_context);
    if (by_memory) *by_memory = n < c->n_context;
    return n;
}

int32_t ks_engine_tokens(const ks_engine *engine, const ks_run_limits *limits,
                         size_t memory) {
    return fitting_tokens(engine, *limits, memory, limits->max_tokens);
}

static bool covers(const ks_run_limits *have, const ks_run_limits *want) {
    return have->max_tokens >= want->max_tokens &&
           have->max_rows >= want->max_rows &&
           have->max_last >= want->max_last &&
           have->max_pages >= want->max_pages &&
           !(want->streams & ~have->streams) &&
           !(want->positions & ~have->positions) &&
           (!want->streams || have->dtype == want->dtype);
}

ks_status ks__engine_place(ks_engine *engine, ks_err *err) {
    if (engine->placed) return KS_OK;
    return ks_place(&engine->placed, engine->dev, engine->ops, engine->model,
                    err);
}

ks_status ks_engine_reserve(ks_engine *engine, const ks_run_limits *want,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_run_limits *have = &engine->limits;
    if (engine->run && covers(have, want)) return KS_OK;
    ks_run_limits both = {
        .max_tokens = KS_MAX(have->max_tokens, want->max_tokens),
        .max_rows = KS_MAX(have->max_rows, want->max_rows),
        .max_last = KS_MAX(have->max_last, want->max_last),
        .max_pages = KS_MAX(have->max_pages, want->max_pages),
        .streams = have->streams | want->streams,
        .positions = have->positions | want->positions,
        .dtype = want->streams ? want->dtype : have->dtype,
        .lanes = have->lanes,
    };
    int32_t fits = ks_engine_tokens(engine, &both, engine->memory);
    if (!engine->run) both.max_tokens = KS_MAX(want->max_tokens, fits);
    size_t bytes = ks_run_bytes(engine->ops, &engine->model->config, &both);
    KS_CHECK(!engine->memory || bytes <= engine->memory, KS_LIMIT,
             "run buffers for %d tokens and %d steps take %zu bytes, more than "
             "the %zu allowed: " LESS ", a larger --memory allows more",
             both.max_tokens, both.max_rows, bytes, engine->memory);
    ks_run_close(&engine->run);
    KS_TRY(ks__engine_place(engine, err));
    KS_TRY(ks_run_open(&engine->run, engine->dev, engine->ops,
                       &engine->model->config,
                       ks_placed_weights(engine->placed), &both, err));
    *have = both;
done:
    return st;
}

ks_status ks__engine_check(const ks_engine *engine, const ks_batch *batch,
                           const ks_stored *stored, ks_err *err) {
    ks_status st = KS_OK;
    const ks_config *c = &engine->model->config;
    KS_CHECK(batch->n_seq > 0, KS_USAGE, "a batch of %d sequences",
             batch->n_seq);
    KS_CHECK(batch->offsets[0] == 0, KS_USAGE,
             "a batch's offsets begin at %d, expected 0", batch->offsets[0]);
    for (int32_t s = 0; s < batch->n_seq; s++) {
        int32_t begin = batch->offsets[s], end = batch->offsets[s + 1];
        KS_CHECK(end > begin, KS_USAGE,
                 "sequence %d of the batch has no token (offsets %d to %d)", s,
                 begin, end);
        int32_t n = end - begin + (stored ? stored->past[s] : 0);
        KS_CHECK(n <= c->n_context, KS_LIMIT,
                 "sequence %d of the batch has %d tokens, the model's context "
                 "is %d",
                 s, n, c->n_context);
        for (int32_t t = begin; t < end; t++)
            KS_CHECK(batch->ids[t] >= 0 && batch->ids[t] < c->n_vocab,
                     KS_MISMATCH,
                     "token %d of sequence %d has id %d, the model's "
                     "vocabulary is 0 to %d: wrong tokenizer?",
                     t - begin, s, batch->ids[t], c->n_vocab - 1);
    }
done:
    return st;
}

static ks_status check_capture(const ks_capture *capture, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(capture->streams && capture->streams < 1u << KS_N_STREAMS &&
                 capture->positions &&
                 capture->positions < 1u << KS_N_POSITIONS,
             KS_USAGE, "a capture of streams %#x, positions %#x",
             capture->streams, capture->positions);
    KS_CHECK(capture->emit, KS_USAGE, "a capture without emit");
    KS_CHECK(capture->n_segments >= 0, KS_USAGE, "a capture of %d steps",
             capture->n_segments);
done:
    return st;
}

ks_status ks_engine_run(ks_engine *engine, const ks_batch *batch,
                        const ks_capture *capture, ks_err *err) {
    return ks__engine_run_behind(engine, batch, NULL, capture, err);
}

ks_status ks__engine_run_behind(ks_engine *engine, const ks_batch *batch,
                                const ks_stored *stored,
                                const ks_capture *capture, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks__engine_check(engine, batch, stored, err));
    ks_seqs seqs = {.n_seq = batch->n_seq,
                    .n_tok = batch->offsets[batch->n_seq],
                    .offsets = batch->offsets};
    ks_run_limits limits = {.max_tokens = seqs.n_tok};
    if (stored) {
        seqs.past = stored->past;
        seqs.pages = stored->pages;
        seqs.max_pages = stored->max_pages;
        limits.max_pages = (int64_t)seqs.n_seq * seqs.max_pages;
    }
    if (capture) {
        KS_TRY(check_capture(capture, err));
        limits.max_rows = capture->n_segments;
        limits.streams = capture->streams;
        limits.positions = capture->positions;
        limits.dtype = capture->dtype;
    }
    KS_TRY(ks_engine_reserve(engine, &limits, err));
    if (stored && !stored->keep)
        KS_TRY(ks_forward_behind(engine->run, &seqs, batch->ids, stored->kv,
                                 capture, NULL, err));
    else
        KS_TRY(ks_forward(engine->run, &seqs, batch->ids,
                          stored ? stored->kv : NULL, capture, NULL, NULL,
                          err));
done:
    return st;
}
