/* plan_stages.c - the stages of an experiment as work for devices of one kind;
 * docs/plan.md has the formulas. */
#include <math.h>

#include "plan.h"

enum { F32 = 4, DEVICE_ROWS = 8192, STORED_CHAINS = 4, LABEL_ACTIVE = 512 };

const char *ks_plan_stage_name(ks_plan_stage_kind kind) {
    static const char *const names[KS_PLAN_STAGES] = {"generate", "label",
                                                      "capture", "probe"};
    return names[kind];
}

ks_plan_asked ks_plan_defaults(void) {
    return (ks_plan_asked){.chains = 1000,
                           .chain_tokens = 4000,
                           .prompt_tokens = 150,
                           .steps = 100, /* of 40 tokens, as the roofline's */
                           .samples = 5,
                           .sample_tokens = 7,
                           .cue_tokens = 10,
                           .orders = 3,
                           .devices = 1,
                           .batch_tokens = 8192,
                           .active = 128,
                           .streams = 1,
                           .positions = 5,
                           .value_bytes = 2,
                           .folds = 5,
                           .strengths = 8,
                           .reads = 24,
                           .text_bytes = 4.5,
                           .disk = 1e9,
                           .share = {0.5, 0.5, 0.5, 0.5}};
}

/* -------------------------------------------------------------------- memory
 */

double ks_plan_parameters(const ks_plan_shape *m) {
    double q = m->heads * m->dim, kv = m->kv * m->dim, e = m->experts;
    double mlp = e > 0 ? e * (3 * m->ff * m->d + m->d) : 3 * m->ff * m->d;
    return m->layers * (2 * (q + kv) * m->d + mlp) +
           (m->tied ? 1 : 2) * m->vocab * m->d;
}

double ks_plan_weight_bytes(const ks_plan_shape *m) {
    double mlp = m->layers * 3 * m->ff * m->d * fmax(m->experts, 1);
    return mlp * m->weights + (ks_plan_parameters(m) - mlp) * m->attention;
}

double ks_plan_token_bytes(const ks_plan_shape *m) {
    return m->layers * 2 * m->kv * m->dim * F32;
}

/* As run.c lays them out for a batch of n tokens. */
static double buffers(const ks_plan_shape *m, double n) {
    double rows = fmin(n, DEVICE_ROWS) * fmax(m->active, 1);
    double q = m->heads * m->dim, kv = m->kv * m->dim;
    return F32 * (n * (m->d + 2 * q + 2 * kv) +
                  fmin(n, DEVICE_ROWS) * 2 * m->d + rows * 2 * m->ff);
}

/* What a chain's influences keep beside that: the residual stream of all
 * layers, one layer's inner values, and one target's way back. */
static double trace(const ks_plan_shape *m, double t) {
    double q = m->heads * m->dim, kv = m->kv * m->dim;
    return F32 * t *
           ((m->layers + 1) * m->d + 2 * (2 * q + 2 * kv + 2 * m->ff + m->d));
}

/* Sequences that a device holds at a time; below 1: not even one. */
static double room_for(const ks_plan_shape *m, const ks_plan_device *on,
                       double held, double tokens, double most) {
    double left = on->memory - held;
    return fmin(floor(left / (tokens * ks_plan_token_bytes(m))), most);
}

/* --------------------------------------------------------------------- work */

static void add(ks_plan_work *sum, ks_plan_work one, double times) {
    sum->bytes += one.bytes * times;
    sum->flops += one.flops * times;
    sum->seconds += one.seconds * times;
}

static double step_tokens(const ks_plan_asked *a) {
    return fmax(a->chain_tokens / a->steps, 1);
}

/* All tokens in batches. */
static ks_plan_work through(const ks_plan_shape *m, const ks_plan_device *on,
                            const ks_plan_asked *a, double tokens,
                            double context, bool scored) {
    ks_plan_work sum = {0};
    double batch = fmax(a->batch_tokens, context);
    ks_plan_kernels k =
        ks_plan_prefill(m, batch, context, step_tokens(a), scored);
    add(&sum, ks_plan_sum(&k, on), tokens / batch);
    return sum;
}

static void generate(const ks_plan_shape *m, const ks_plan_device *on,
                     const ks_plan_asked *a, ks_plan_stage *s) {
    double p = a->prompt_tokens, t = a->chain_tokens;
    double held = ks_plan_weight_bytes(m) + buffers(m, a->batch_tokens);
    double most = fmin(a->active, ceil(a->chains / a->devices));
    double forks = room_for(m, on, held, p + t, most);
    s->fits = forks >= 1;
    s->active = fmax(forks, 1);
    s->memory = held + s->active * (p + t) * ks_plan_token_bytes(m);
    s->tokens = a->chains * (p + t);
    s->work = through(m, on, a, a->chains * p, p, false);
    /* no chain shares its prompt; what a step reads grows with the chain */
    ks_plan_kernels k = ks_plan_decode(m, s->active, 0, p + t / 2);
    add(&s->work, ks_plan_sum(&k, on), a->chains * t / s->active);
    s->file_bytes = a->chains * ((p + t) * a->text_bytes + 30 * a->steps);
}

double ks_plan_label_tokens(const ks_plan_asked *a, double *sampled,
                            double *backward) {
    double t = a->chain_tokens, n = a->steps;
    /* steps alone, prefixes, removal, drop, random orders */
    double asked = n * (1 + 1 + 0.5 + 1 + 1.5 * a->orders);
    /* once: filters and the whole; selections; then what lies behind a step
     * that is left out of half the chain, of the chain, of three quarters */
    double text = a->prompt_tokens + 2 * t + 2 * t / 3 +
                  n * t * (1.0 / 8 + 1.0 / 2 + 9.0 / 16 * a->orders);
    *sampled = 1.5 * asked * a->sample_tokens;
    *backward = t + n * t / 2;
    return text + asked * a->cue_tokens + *sampled + *backward;
}

static void label(const ks_plan_shape *m, const ks_plan_device *on,
                  const ks_plan_asked *a, ks_plan_stage *s) {
    double sampled, backward, context = a->prompt_tokens + a->chain_tokens;
    double all = ks_plan_label_tokens(a, &sampled, &backward);
    double held = ks_plan_weight_bytes(m) + buffers(m, a->batch_tokens) +
                  trace(m, context);
    s->refused = m->experts > 0;
    s->active = LABEL_ACTIVE;
    s->memory = held + STORED_CHAINS * context * ks_plan_token_bytes(m);
    s->fits = s->memory <= on->memory;
    if (s->refused) all -= backward, backward = 0;
    s->tokens = a->chains * all;
    /* the chain is scored once, for what sets are attainable */
    s->work = through(m, on, a, a->chains * a->chain_tokens, context, true);
    double rest = all - sampled - backward - a->chain_tokens;
    add(&s->work, through(m, on, a, a->chains * rest, context, false), 1);
    ks_plan_kernels k =
        ks_plan_decode(m, LABEL_ACTIVE, context / 2, a->cue_tokens);
    add(&s->work, ks_plan_sum(&k, on), a->chains * sampled / LABEL_ACTIVE);
    if (!s->refused) {
        enum { TARGETS = 8 };
        k = ks_plan_backward(m, TARGETS, context, step_tokens(a));
        /* a target reaches half of the chain on average */
        add(&s->work, ks_plan_sum(&k, on), a->chains * a->steps / TARGETS / 2);
        add(&s->work, through(m, on, a, a->chains * context, context, false),
            1);
    }
    s->file_bytes =
        a->chains * (a->chain_tokens * a->text_bytes + 120 * a->steps);
}

static void capture(const ks_plan_shape *m, const ks_plan_device *on,
                    const ks_plan_asked *a, ks_plan_stage *s) {
    double context = a->prompt_tokens + a->chain_tokens;
    double batch = fmax(a->batch_tokens, context);
    s->tokens = a->chains * context;
    s->work = through(m, on, a, s->tokens, context, false);
    s->memory = ks_plan_weight_bytes(m) + buffers(m, batch);
    s->fits = s->memory <= on->memory;
    /* a row and its checksum, of every layer and the embedding */
    s->file_bytes = a->chains * a->steps * (m->layers + 1) * a->streams *
                    a->positions * (m->d * a->value_bytes + 4);
}

/* One layer at one position: Gram matrix, its eigenvectors, passes over the
 * rows for all columns, and two in double that verify. */
static ks_plan_kernels probe_kernels(const ks_plan_shape *m,
                                     const ks_plan_asked *a, double n) {
    enum { CACHE = 32 * 1000 * 1000, EIGEN = 9 };
    double d = m->d, x = F32 * n * d;
    double sets = a->folds + a->folds * (a->folds - 1) / 2;
    double columns = a->strengths * sets, pass = 4 * n * d * columns;
    ks_plan_kernels k = {
        .at = {{"Gram matrix", KS_PLAN_FLOAT, 1, x + F32 * d * d,
                2 * n * d * d},
               {"eigenvectors", KS_PLAN_FLOAT, 1, 3 * F32 * d * d,
                EIGEN * d * d * d},
               {"loss and gradient", KS_PLAN_FLOAT, a->reads,
                x <= CACHE ? x : 2 * x, pass},
               {"gradient in double", KS_PLAN_DOUBLE, 2, 2 * x, pass}},
        .n = 4};
    return k;
}

static void probe(const ks_plan_shape *m, const ks_plan_device *on,
                  const ks_plan_asked *a, ks_plan_stage *s) {
    double n = a->chains * a->steps, d = m->d;
    double sets = a->folds + a->folds * (a->folds - 1) / 2;
    double grid = (m->layers + 1) * a->positions * a->streams;
    ks_plan_kernels k = probe_kernels(m, a, n);
    add(&s->work, ks_plan_sum(&k, on), grid);
    s->memory = F32 * (n * d + 3 * d * d + a->strengths * sets * (n + 3 * d));
    s->fits = s->memory <= on->memory;
    /* scores of every row, weights of every fold in double */
    s->file_bytes = grid * (F32 * n + 8 * a->folds * (d + 1));
}

void ks_plan_stages(const ks_plan_shape *m, const ks_plan_device *on,
                    const ks_plan_asked *a, ks_plan_stage out[KS_PLAN_STAGES]) {
    static void (*const stages[KS_PLAN_STAGES])(
        const ks_plan_shape *, const ks_plan_device *, const ks_plan_asked *,
        ks_plan_stage *) = {generate, label, capture, probe};
    for (int i = 0; i < KS_PLAN_STAGES; i++) {
        ks_plan_stage *s = &out[i];
        *s = (ks_plan_stage){0};
        stages[i](m, on, a, s);
        s->device_seconds = s->work.seconds / a->share[i];
        s->wall_seconds = s->device_seconds / a->devices;
    }
    /* the writer works while the next batch is computed */
    ks_plan_stage *c = &out[KS_PLAN_CAPTURE];
    c->wall_seconds = fmax(c->wall_seconds, c->file_bytes / a->disk);
}
