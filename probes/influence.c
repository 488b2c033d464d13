/* influence.c - influence of steps on later steps, over the backward pass. A
 * target's cotangents cover the tokens from the first step on: what lies ahead
 * of it is no source, and gradients reach sources through later tokens alone.
 */
#include "influence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backward.h"
#include "between.h"

/* A turn of targets replays the layers once, so rows for many times the chain's
 * tokens make the replays cheap beside them. Inner values of short chains, for
 * which they are not, are kept, up to so many bytes where nobody names any. */
enum { TURN_OF_CHAINS = 16 };
#define KEPT_BYTES ((size_t)1 << 30)

struct ks_influence_job {
    ks_engine *engine;
    ks_backward *backward; /* NULL before the first chain */
    ks_backward_limits limits;

    /* Of the chain in work. */
    const int32_t *ids, *bounds;
    int32_t n;
    const ks_influence_how *how;
    double *matrix;
    ks_target *targets; /* [n_targets] */
    int32_t *step;      /* [n_targets] the step that each of them is */
    int32_t n_targets, longest;
    int64_t n_rows;        /* of all targets */
    float *weight;         /* [n_tok, d] what gradients are taken times, from
                              the first step on; NULL: 1 */
    float *inputs, *point; /* [n_tok, d] the embeddings, and a point on the way
                              there from the baseline */
    float *sums;           /* [rows of a turn, d] of gradients at the points */
    int64_t *place;        /* [targets of a turn] their first rows in sums */
    int32_t first, done;   /* targets ahead of this turn; points behind */
};

const char *ks_influence_name(ks_influence_kind kind) {
    static const char *const names[KS_N_INFLUENCES] = {
        "gradient", "gradient-input", "integrated"};
    return names[kind];
}

static size_t width(const ks_influence_job *job) {
    return (size_t)job->engine->model->config.d_model;
}

/* -------------------------------------------------------------------- chain
 */

/* Steps with tokens, and with a token of an earlier step ahead of them. */
static ks_status list_targets(ks_influence_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const int32_t *bounds = job->bounds;
    size_t n = (size_t)job->n;
    KS_TRY(ks_alloc(&job->targets, n, sizeof *job->targets, "targets", err));
    KS_TRY(ks_alloc(&job->step, n, sizeof *job->step, "targets", err));
    KS_TRY(ks_alloc(&job->place, n, sizeof *job->place, "targets", err));
    for (int32_t k = 1; k < job->n; k++) {
        if (bounds[k] == bounds[k + 1] || bounds[k] == bounds[0]) continue;
        int32_t rows = bounds[k + 1] - 1 - bounds[0];
        job->step[job->n_targets] = k;
        job->targets[job->n_targets++] =
            (ks_target){0, bounds[k], bounds[k + 1], bounds[0]};
        job->n_rows += rows;
        job->longest = KS_MAX(job->longest, rows);
    }
done:
    return st;
}

static void forget_chain(ks_influence_job *job) {
    free(job->targets), free(job->step), free(job->place);
    free(job->weight), free(job->inputs), free(job->point), free(job->sums);
    *job = (ks_influence_job){.engine = job->engine,
                              .backward = job->backward,
                              .limits = job->limits};
}

/* ------------------------------------------------------------------- memory
 */

/* Bytes that a chain takes under these limits where they are counted: of the
 * backend, and of the host where that is the same memory. */
static size_t bytes_of(const ks_influence_job *job,
                       const ks_backward_limits *limits) {
    const ks_engine *e = job->engine;
    size_t bytes = ks_backward_bytes(e->ops, &e->model->config, limits);
    size_t rows = 0, row = width(job) * sizeof(float);
    if (job->how->kind != KS_INFLUENCE_GRADIENT)
        rows += (size_t)limits->max_tokens;
    if (job->how->kind == KS_INFLUENCE_INTEGRATED)
        rows += 2 * (size_t)limits->max_tokens + (size_t)limits->max_rows;
    if (!e->ops->unified) return bytes;
    if (rows > SIZE_MAX / 2 / row || bytes > SIZE_MAX / 2) return SIZE_MAX;
    return bytes + rows * row;
}

/* Whether memory holds it. */
static bool fits(const ks_influence_job *job,
                 const ks_backward_limits *limits) {
    ks_backward_limits replays = *limits;
    size_t bytes = bytes_of(job, limits);
    replays.keep = false;
    return bytes <= ks__between_room(job->engine) &&
           (job->engine->memory ||
            bytes - bytes_of(job, &replays) <= KEPT_BYTES);
}

/* The most rows at once for this chain that memory holds, but no more than make
 * replays cheap; then no replays at all, if that fits, too. */
static ks_status plan(const ks_influence_job *job, ks_backward_limits *out,
                      ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = job->bounds[job->n];
    int64_t most = KS_MIN(job->n_rows, (int64_t)TURN_OF_CHAINS * n);
    int32_t low = job->longest;
    int32_t high = (int32_t)KS_MIN(KS_MAX(most, low), INT32_MAX / 4);
    ks_backward_limits limits = {
        .max_tokens = n, .max_rows = low, .lanes = job->engine->limits.lanes};
    KS_CHECK(fits(job, &limits), KS_LIMIT,
             "influence between steps of %d tokens takes %zu bytes, there is "
             "room for %zu",
             n, bytes_of(job, &limits), ks__between_room(job->engine));
    while (low < high) {
        limits.max_rows = low + (high - low + 1) / 2;
        if (fits(job, &limits))
            low = limits.max_rows;
        else
            high = limits.max_rows - 1;
    }
    limits.max_rows = low;
    limits.keep = true;
    limits.keep = fits(job, &limits);
    *out = limits;
done:
    return st;
}

/* A backward pass that has room for the chain; what an earlier one needed is
 * kept where both fit. */
static ks_status reserve(ks_influence_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const ks_engine *e = job->engine;
    const ks_backward_limits have = job->limits;
    ks_backward_limits want, both;
    KS_TRY(plan(job, &want, err));
    both = want;
    both.max_tokens = KS_MAX(have.max_tokens, want.max_tokens);
    both.max_rows = KS_MAX(have.max_rows, want.max_rows);
    if (!fits(job, &both)) both = want;
    if (job->backward && both.max_tokens == have.max_tokens &&
        both.max_rows == have.max_rows && both.keep == have.keep)
        goto done;
    ks_backward_close(&job->backward);
    job->limits = (ks_backward_limits){0};
    KS_TRY(ks_backward_open(&job->backward, e->dev, e->ops, &e->model->config,
                            ks_placed_weights(e->placed), &both, err));
    job->limits = both;
done:
    return st;
}

/* --------------------------------------------------------------- embeddings
 */

/* Of all tokens, as ops->embed gives them; from the model's own table, for
 * that lies in host memory on every backend. */
static ks_status embed(const ks_influence_job *job, float **out, ks_err *err) {
    ks_status st = KS_OK;
    const ks_model *m = job->engine->model;
    const ks_weight *table = &m->weights.embed;
    size_t d = width(job), row = ks_type_row_bytes(table->type, table->cols);
    int32_t n = job->bounds[job->n];
    KS_TRY(ks_alloc(out, (size_t)n * d, sizeof **out, "embeddings", err));
    for (int32_t t = 0; t < n; t++) {
        float *to = *out + (size_t)t * d;
        ks_dequantize(table->type,
                      (const char *)table->data + (size_t)job->ids[t] * row, to,
                      (int64_t)d);
        for (size_t i = 0; i < d; i++) to[i] *= m->config.embed_scale;
    }
done:
    return st;
}

/* The baseline, and how far from it each embedding is (weight). */
static ks_status take_baseline(ks_influence_job *job, ks_err *err) {
    ks_status st = KS_OK;
    size_t d = width(job), n = (size_t)job->bounds[job->n];
    size_t from = (size_t)job->bounds[0];
    KS_TRY(ks_alloc(&job->point, n * d, sizeof(float), "embeddings", err));
    KS_TRY(ks_alloc(&job->weight, n * d, sizeof(float), "embeddings", err));
    for (size_t i = 0; i < d; i++) {
        double sum = 0;
        for (size_t t = from; t < n; t++) sum += (double)job->inputs[t * d + i];
        float mean = (float)(sum / (double)(n - from));
        for (size_t t = from; t < n; t++)
            job->weight[t * d + i] = job->inputs[t * d + i] - mean;
    }
done:
    return st;
}

/* point = b + a (E - b) = E - (1 - a) (E - b) from the first step on. */
static void go_to_point(ks_influence_job *job, int32_t number) {
    size_t d = width(job), n = (size_t)job->bounds[job->n] * d;
    size_t from = (size_t)job->bounds[0] * d;
    float left = (float)(KS_INFLUENCE_POINTS - number) / KS_INFLUENCE_POINTS;
    memcpy(job->point, job->inputs, from * sizeof(float));
    for (size_t i = from; i < n; i++)
        job->point[i] = job->inputs[i] - left * job->weight[i];
}

/* -------------------------------------------------------------------- norms
 */

/* Sum of squares of n gradients times weight (NULL: 1). */
static double squares(const float *rows, const float *weight, size_t n) {
    double sum[4] = {0};
    for (size_t i = 0; i < n; i++) {
        double v = (double)rows[i];
        if (weight) v *= (double)weight[i];
        sum[i % 4] += v * v;
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* The matrix's row of a target, from rows [n_rows, d] of the tokens from the
 * first step on: all that the target depends on. */
static void fill_row(const ks_influence_job *job, int32_t target,
                     const float *rows, int64_t n_rows, double scale) {
    const int32_t *bounds = job->bounds;
    int32_t k = job->step[target], shift = job->how->compat ? 1 : 0;
    size_t d = width(job);
    double *out = job->matrix + (size_t)k * (size_t)job->n;
    for (int32_t j = 0; j < k; j++) {
        int64_t begin = bounds[j] - bounds[0] + shift;
        int64_t end = KS_MIN(bounds[j + 1] - bounds[0] + shift, n_rows);
        if (begin >= end) continue;
        size_t at = (size_t)begin * d, first = (size_t)bounds[0] * d;
        out[j] =
            scale * sqrt(squares(rows + at,
                                 job->weight ? job->weight + first + at : NULL,
                                 (size_t)(end - begin) * d));
        if (job->how->per_token) out[j] /= sqrt(bounds[j + 1] - bounds[j]);
    }
}

static ks_status take_gradient(void *user, int32_t target, int32_t layer,
                               const float *rows, int64_t n, ks_err *err) {
    (void)layer, (void)err;
    fill_row(user, target, rows, n, 1);
    return KS_OK;
}

/* ------------------------------------------------------------------- passes
 */

static ks_status forward(ks_influence_job *job, const float *inputs,
                         ks_err *err) {
    int32_t n = job->bounds[job->n];
    ks_seqs seqs = {.n_seq = 1, .n_tok = n, .offsets = (int32_t[]){0, n}};
    return ks_backward_forward(job->backward, &seqs, job->ids, inputs, err);
}

static ks_status pull_gradients(ks_influence_job *job, ks_err *err) {
    ks_status st = KS_OK;
    ks_gradients want = {.n_targets = job->n_targets,
                         .targets = job->targets,
                         .of_log = job->how->of_log,
                         .emit = take_gradient,
                         .user = job};
    if (job->how->kind == KS_INFLUENCE_TIMES_INPUT)
        KS_TRY(embed(job, &job->weight, err));
    KS_TRY(forward(job, NULL, err));
    KS_TRY(ks_backward_pull(job->backward, &want, err));
done:
    return st;
}

/* Sums of a turn's gradients; behind the last point they are all there. */
static ks_status add_gradient(void *user, int32_t target, int32_t layer,
                              const float *rows, int64_t n, ks_err *err) {
    ks_influence_job *job = user;
    size_t d = width(job);
    float *sums = job->sums + (size_t)job->place[target] * d;
    (void)layer, (void)err;
    for (size_t i = 0; i < (size_t)n * d; i++) sums[i] += rows[i];
    if (job->done == KS_INFLUENCE_POINTS - 1)
        fill_row(job, job->first + target, sums, n, 1.0 / KS_INFLUENCE_POINTS);
    return KS_OK;
}

/* The targets of one turn at every point. */
static ks_status integrate(ks_influence_job *job, int32_t n_targets,
                           size_t n_rows, ks_err *err) {
    ks_status st = KS_OK;
    ks_gradients want = {.n_targets = n_targets,
                         .targets = job->targets + job->first,
                         .of_log = job->how->of_log,
                         .emit = add_gradient,
                         .user = job};
    memset(job->sums, 0, n_rows * width(job) * sizeof *job->sums);
    for (job->done = 0; job->done < KS_INFLUENCE_POINTS; job->done++) {
        go_to_point(job, job->done + 1);
        KS_TRY(forward(job, job->point, err));
        KS_TRY(ks_backward_pull(job->backward, &want, err));
    }
done:
    return st;
}

/* Sums take as much as cotangents do, so targets go through all points a turn
 * at a time, each at the price of its forwards. */
static ks_status pull_integrated(ks_influence_job *job, ks_err *err) {
    ks_status st = KS_OK;
    size_t most = (size_t)KS_MIN(job->n_rows, job->limits.max_rows);
    KS_TRY(embed(job, &job->inputs, err));
    KS_TRY(take_baseline(job, err));
    KS_TRY(ks_alloc(&job->sums, most * width(job), sizeof(float),
                    "sums of gradients", err));
    for (int32_t n; job->first < job->n_targets; job->first += n) {
        int64_t rows = 0;
        for (n = 0; job->first + n < job->n_targets; n++) {
            const ks_target *t = &job->targets[job->first + n];
            int32_t more = t->end - 1 - t->from;
            if (rows + more > job->limits.max_rows) break;
            job->place[n] = rows;
            rows += more;
        }
        KS_TRY(integrate(job, n, (size_t)rows, err));
    }
done:
    return st;
}

ks_status ks_influence_of(ks_influence_job *job, const int32_t *ids,
                          int32_t n_tokens, const int32_t *bounds, int32_t n,
                          const ks_influence_how *how, double *matrix,
                          ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks__between_check(job->engine, "influence", ids, n_tokens, bounds, n,
                             err));
    job->ids = ids;
    job->bounds = bounds;
    job->n = n;
    job->how = how;
    job->matrix = matrix;
    memset(matrix, 0, (size_t)n * (size_t)n * sizeof *matrix);
    KS_TRY(list_targets(job, err));
    if (job->n_targets == 0) goto done;
    KS_TRY(reserve(job, err));
    if (how->kind == KS_INFLUENCE_INTEGRATED)
        KS_TRY(pull_integrated(job, err));
    else
        KS_TRY(pull_gradients(job, err));
done:
    forget_chain(job);
    return st;
}

ks_status ks_influence_bytes(ks_influence_job *job, const int32_t *bounds,
                             int32_t n, const ks_influence_how *how,
                             size_t *bytes, ks_err *err) {
    ks_status st = KS_OK;
    ks_backward_limits limits;
    job->bounds = bounds;
    job->n = n;
    job->how = how;
    *bytes = 0;
    KS_TRY(list_targets(job, err));
    if (job->n_targets == 0) goto done;
    KS_TRY(plan(job, &limits, err));
    *bytes = bytes_of(job, &limits);
done:
    forget_chain(job);
    return st;
}

/* --------------------------------------------------------------- open, close
 */

ks_status ks_influence_open(ks_influence_job **out, ks_engine *engine,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_influence_job *job = NULL;
    *out = NULL;
    KS_CHECK(engine->model->config.n_experts == 0, KS_UNSUPPORTED,
             "%s: a model of %d experts has no backward pass",
             engine->model->name, engine->model->config.n_experts);
    KS_TRY(ks__engine_place(engine, err));
    KS_TRY(ks_alloc(&job, 1, sizeof *job, "influence", err));
    job->engine = engine;
    *out = job;
done:
    return st;
}

void ks_influence_close(ks_influence_job **job) {
    if (!*job) return;
    ks_backward_close(&(*job)->backward);
    free(*job);
    *job = NULL;
}
