/* adamw.c - the CPU's adamw: linear probes, one a thread from start to end, so
 * that its 3 wide floats of state stay in L1. A step reads its rows twice: for
 * the margins, eight rows under one load of the weights, and, from L2 then, for
 * gradient and update, a vector of features at a time. */
#include "adamw.h"

#include <stdlib.h>

enum {
    TOGETHER = 8, /* rows whose margins share the weights' loads */
    GROUP = KS_ADAMW_PAD / VL
};

typedef struct linear {
    const ks_adamw_job *job;
    const ks_adamw_run *run;
    float *m, *v;                        /* [n_params] */
    int32_t row[KS_ADAMW_MOST_BATCH];    /* of the batch */
    float z[KS_ADAMW_MOST_BATCH];        /* margins, then residuals */
    const float *x[KS_ADAMW_MOST_BATCH]; /* rows that were found, of the first
                                            layer */
    int64_t hop;   /* from a row of a layer to that of the next */
    float *buffer; /* [batch, wide] of the file's rows */
    bool failed;   /* to read it */
} linear;

/* n rows, at most a batch: where they lie, or out of the file. */
static void find(linear *s, const int32_t *row, int32_t n) {
    const ks_adamw_job *job = s->job;
    int64_t wide = ks_adamw_wide(job), stride = job->stride;
    s->hop = job->file ? stride : job->n * stride;
    for (int32_t i = 0; i < n; i++) {
        float *to = s->buffer + i * wide;
        s->x[i] = job->file
                      ? to
                      : job->x + (s->run->layer * job->n + row[i]) * stride;
        if (job->file && !ks__adamw_read(job, s->run, row[i], 0, wide, to))
            s->failed = true;
    }
}

/* Features at[0..VL) of x as the probe sees them; at is their place in wide. */
KS_INLINE vf see(const ks_adamw_run *r, const float *x, int64_t at) {
    vf a = vload(x);
    if (!r->centre) return a;
    return (a - vload(r->centre + at)) * vload(r->inverse + at);
}

/* z of n rows found, from `first` on, n at most TOGETHER. */
static void some_margins(const linear *s, int32_t first, int n, float *z) {
    const ks_adamw_job *job = s->job;
    vf sum[TOGETHER];
    for (int i = 0; i < TOGETHER; i++) sum[i] = vset(0);
    for (int32_t l = 0; l < job->layers; l++) {
        const float *x[TOGETHER], *w = s->run->param + l * job->stride;
        for (int i = 0; i < TOGETHER; i++)
            x[i] = s->x[first + (i < n ? i : 0)] + l * s->hop;
        for (int64_t j = 0; j < job->stride; j += VL) {
            vf weight = vload(w + j);
            for (int i = 0; i < TOGETHER; i++)
                sum[i] = madd(see(s->run, x[i] + j, l * job->stride + j),
                              weight, sum[i]);
        }
    }
    for (int i = 0; i < n; i++)
        z[i] = vsum(sum[i]) + s->run->param[ks_adamw_wide(job)];
}

static void margins(linear *s, const int32_t *row, int32_t n, float *z) {
    for (int32_t from = 0; from < n; from += s->job->batch) {
        int32_t m = KS_MIN(s->job->batch, n - from);
        find(s, row + from, m);
        for (int32_t i = 0; i < m; i += TOGETHER)
            some_margins(s, i, KS_MIN(TOGETHER, m - i), z + from + i);
    }
}

/* Gradient of 16 features: four chains of rows, added up in pairs. */
KS_INLINE void gradient(const linear *s, const float *const *x, int64_t j,
                        int64_t at, vf out[GROUP]) {
    int32_t n = s->job->batch, i = 0;
    vf g[4][GROUP];
    for (int k = 0; k < 4; k++)
        for (int q = 0; q < GROUP; q++) g[k][q] = vset(0);
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++)
            for (int q = 0; q < GROUP; q++)
                g[k][q] = madd(vset(s->z[i + k]),
                               see(s->run, x[i + k] + j + q * VL, at + q * VL),
                               g[k][q]);
    for (; i < n; i++)
        for (int q = 0; q < GROUP; q++)
            g[0][q] =
                madd(vset(s->z[i]), see(s->run, x[i] + j + q * VL, at + q * VL),
                     g[0][q]);
    for (int q = 0; q < GROUP; q++)
        out[q] = (g[0][q] + g[1][q]) + (g[2][q] + g[3][q]);
}

/* Gradient and step of all parameters, on the rows whose margins are z. */
static void step(linear *s, const ks_adamw_rate *rate) {
    const ks_adamw_job *job = s->job;
    float *param = s->run->param;
    for (int32_t l = 0; l < job->layers; l++) {
        const float *x[KS_ADAMW_MOST_BATCH];
        for (int32_t i = 0; i < job->batch; i++) x[i] = s->x[i] + l * s->hop;
        for (int64_t j = 0; j < job->stride; j += KS_ADAMW_PAD) {
            int64_t at = l * job->stride + j;
            vf g[GROUP];
            gradient(s, x, j, at, g);
            for (int q = 0; q < GROUP; q++, at += VL)
                vstore(param + at,
                       ks__adamw_vector(vload(param + at), g[q], s->m + at,
                                        s->v + at, rate));
        }
    }
    int64_t bias = ks_adamw_wide(job);
    float g = 0;
    for (int32_t i = 0; i < job->batch; i++) g += s->z[i];
    ks__adamw_one(param + bias, g, s->m + bias, s->v + bias, rate);
}

static void one_epoch(linear *s, int32_t epoch, ks_adamw_clock *clock) {
    const ks_adamw_job *job = s->job;
    const ks_adamw_run *r = s->run;
    ks_shuffle order =
        ks_shuffle_open(r->key, (uint32_t)epoch, (uint32_t)r->n_rows);
    for (int32_t b = 0; b < r->n_batches; b++) {
        for (int32_t i = 0; i < job->batch; i++)
            s->row[i] =
                r->rows[ks_shuffle_at(&order, (uint32_t)(b * job->batch + i))];
        margins(s, s->row, job->batch, s->z);
        for (int32_t i = 0; i < job->batch; i++)
            s->z[i] = ks_adamw_residual(s->z[i], r->y[s->row[i]],
                                        r->class_weight, job->batch);
        ks_adamw_rate rate = ks__adamw_tick(job, r, epoch, clock);
        step(s, &rate);
    }
}

/* memory: moments, and behind them rows of the file. False: it cannot be read.
 */
static bool train(const ks_adamw_job *job, const ks_adamw_run *r,
                  float *memory) {
    int64_t n = ks_adamw_place(job, job->n_hidden + 1);
    linear s = {.job = job, .run = r, .m = memory, .v = memory + n};
    ks_adamw_clock clock = {1, 1};
    memset(memory, 0, 2 * (size_t)n * sizeof *memory);
    s.buffer = memory + 2 * n;
    unsigned was = ks__tiny_is_zero();
    for (int32_t e = 0; e < r->epochs && !ks_interrupted && !s.failed; e++) {
        one_epoch(&s, e, &clock);
        float *to = ks__adamw_margins(job, r, e);
        if (to) margins(&s, r->eval, r->n_eval, to);
    }
    _mm_setcsr(was);
    return !s.failed;
}

static ks_status train_linear(ks_dev *dev, const ks_adamw_job *job,
                              ks_err *err) {
    ks_status st = KS_OK;
    float *memory = NULL;
    bool good = true;
    int64_t n = 2 * ks_adamw_place(job, job->n_hidden + 1);
    int threads = KS_MAX(1, KS_MIN(dev->threads, job->n_runs));
    if (job->file) n += job->batch * ks_adamw_wide(job);
    KS_TRY(ks_alloc(&memory, (size_t)(threads * n), sizeof *memory, "moments",
                    err));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)             \
    reduction(&& : good)
    for (int32_t k = 0; k < job->n_runs; k++)
        good = train(job, &job->runs[k], memory + omp_get_thread_num() * n) &&
               good;
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    if (!good) st = ks__adamw_unread(err);
done:
    free(memory);
    return st;
}

ks_status KS_ISA_NAME(adamw)(ks_dev *dev, const ks_adamw_job *job,
                             ks_err *err) {
    if (job->stride < 1 || job->stride % KS_ADAMW_PAD || job->batch < 1 ||
        job->batch > KS_ADAMW_MOST_BATCH)
        return ks_fail(err, KS_INTERNAL, "adamw: stride %lld, batches of %d",
                       (long long)job->stride, job->batch);
    return job->n_hidden ? KS_ISA_NAME(adamw_mlp)(dev, job, err)
                         : train_linear(dev, job, err);
}
