/* adamw_mlp.c - the CPU's adamw for probes with hidden layers.
 *
 * The first layer's state (weights and two moments) is what costs: it is walked
 * once a step. Each piece of it gets the gradient of the batch behind, is
 * updated, and serves the next batch's forward while it lies in cache; so a
 * step is: pieces of `RANGE` inputs of all runs of a group, then each run's
 * head (the sums of the pieces, the layers above, the loss, and back to the
 * first layer's units). Sums over inputs go by ranges, in order, whatever the
 * threads.
 *
 * Weights lie [inputs, units]: vectors are of units. */
#include "adamw_blocks.h"

#include <stdlib.h>

enum {
    RANGE = 1024, /* inputs of a piece; sums join in this size */
    STRIP = 64    /* of them at a time: x of a batch stays in L1 */
};

/* One run while it trains. */
typedef struct mlp {
    const ks_adamw_job *job;
    const ks_adamw_run *run;
    float *m, *v; /* [n_params] */
    ks_adamw_clock clock;
    ks_adamw_rate rate;  /* of the step behind */
    ks_shuffle order;    /* of the epoch */
    int32_t epoch, next; /* batch that comes */
    int32_t *row[2];     /* [batch] of the batch behind, and of the next */
    float *x[2];         /* [strips, batch, STRIP] their inputs */
    float *act[KS_ADAMW_MOST_HIDDEN];   /* [batch, units] after ReLU */
    float *slope[KS_ADAMW_MOST_HIDDEN]; /* of the loss by what went into it */
    float *part;                        /* [ranges, batch, units] of layer 0 */
    float *z;                           /* [batch] */
    bool failed;                        /* to read the job's file */
} mlp;

/* ------------------------------------------------------------------- inputs */

/* count features of a row from x on, as the probe sees them; at: their place
 * in wide. */
static void gather_row(const ks_adamw_run *r, const float *x, int64_t at,
                       int64_t count, float *to) {
    if (!r->centre) {
        memcpy(to, x, (size_t)count * sizeof *to);
        return;
    }
    for (int64_t j = 0; j < count; j += VL)
        vstore(to + j, (vload(x + j) - vload(r->centre + at + j)) *
                           vload(r->inverse + at + j));
}

/* Inputs of a range out of the file, [n, RANGE] into read; in memory they stay
 * where they lie. */
static void read_range(mlp *s, const int32_t *row, int32_t n, int64_t first,
                       int64_t count, float *read) {
    bool failed = false;
    if (!s->job->file) return;
    for (int32_t i = 0; i < n; i++)
        failed |= !ks__adamw_read(s->job, s->run, row[i], first, count,
                                  read + i * (int64_t)RANGE);
    if (failed)
#pragma omp atomic write
        s->failed = true;
}

/* Inputs [first, first + count) of the rows, [n, STRIP] with zeros behind: from
 * one layer's rows, then from the next one's; or what was read of the file. */
static void gather(const mlp *s, const int32_t *row, int32_t n_rows, int32_t n,
                   int64_t first, int64_t count, const float *read, float *to) {
    const ks_adamw_job *job = s->job;
    int64_t end = first + count, part;
    for (int32_t i = 0; job->file && i < n; i++)
        if (i < n_rows)
            gather_row(s->run, read + i * (int64_t)RANGE + first % RANGE, first,
                       count, to + i * STRIP);
        else
            memset(to + i * STRIP, 0, (size_t)count * sizeof *to);
    if (job->file) return;
    for (int64_t f = first; f < end; f += part, to += part) {
        int64_t layer = s->run->layer + f / job->stride;
        const float *x = job->x + layer * job->n * job->stride;
        x += f % job->stride;
        part = KS_MIN(end - f, job->stride - f % job->stride);
        for (int32_t i = 0; i < n_rows; i++)
            gather_row(s->run, x + row[i] * job->stride, f, part,
                       to + i * STRIP);
        for (int32_t i = n_rows; i < n; i++)
            memset(to + i * STRIP, 0, (size_t)part * sizeof *to);
    }
}

/* Rows lie anywhere: the strip from f on is asked for ahead. */
static void fetch(const mlp *s, const int32_t *row, int32_t n, int64_t f) {
    const ks_adamw_job *job = s->job;
    if (job->file) return;
    int64_t layer = s->run->layer + f / job->stride;
    const float *x = job->x + layer * job->n * job->stride + f % job->stride;
    for (int32_t i = 0; i < n; i++)
        for (int j = 0; j < STRIP; j += 16)
            __builtin_prefetch(x + row[i] * job->stride + j, 0, 2);
}

/* --------------------------------------------------------------- first layer
 */

static int32_t padded(int32_t n) {
    return (n + ROWS - 1) / ROWS * ROWS;
}

static int32_t n_ranges(const ks_adamw_job *job) {
    return (int32_t)((ks_adamw_wide(job) + RANGE - 1) / RANGE);
}

/* out [padded n, units] = the range's share of the rows' first layer. */
static void forward_range(mlp *s, int32_t range, const int32_t *row, int32_t n,
                          float *strip, float *read, float *out) {
    const ks_adamw_job *job = s->job;
    int64_t units = job->hidden[0], wide = ks_adamw_wide(job);
    int64_t begin = range * (int64_t)RANGE, end = KS_MIN(wide, begin + RANGE);
    read_range(s, row, n, begin, end - begin, read);
    memset(out, 0, (size_t)(padded(n) * units) * sizeof *out);
    for (int64_t f = begin; f < end; f += STRIP) {
        int64_t count = KS_MIN(STRIP, end - f);
        gather(s, row, n, padded(n), f, count, read, strip);
        forward_block(out, strip, STRIP, padded(n), s->run->param + f * units,
                      count, units);
    }
}

/* One range of one step: the update of the batch behind, then its share of the
 * next batch's forward, strip by strip. */
static void run_range(mlp *s, int32_t range, float *read) {
    const ks_adamw_job *job = s->job;
    int32_t n = job->batch, wide_n = padded(n);
    int64_t units = job->hidden[0], wide = ks_adamw_wide(job);
    int64_t begin = range * (int64_t)RANGE, end = KS_MIN(wide, begin + RANGE);
    bool update = s->next > 0, forward = s->next < s->run->n_batches;
    float *out = s->part + range * (int64_t)wide_n * units;
    if (s->next > s->run->n_batches) return;
    if (forward) {
        memset(out, 0, (size_t)(wide_n * units) * sizeof *out);
        read_range(s, s->row[1], n, begin, end - begin, read);
    }
    for (int64_t f = begin; f < end; f += STRIP) {
        int64_t count = KS_MIN(STRIP, end - f), at = f * units;
        if (forward) {
            gather(s, s->row[1], n, wide_n, f, count, read,
                   s->x[1] + f * wide_n);
            if (f + STRIP < end) fetch(s, s->row[1], n, f + STRIP);
        }
        if (update)
            step_block(s->run->param + at, s->m + at, s->v + at, count, units,
                       s->x[0] + f * wide_n, STRIP, s->slope[0], n, &s->rate);
        if (forward)
            forward_block(out, s->x[1] + f * wide_n, STRIP, wide_n,
                          s->run->param + at, count, units);
    }
}

/* --------------------------------------------------------------------- head */

/* act = relu(act + bias) */
static void activate(float *act, const float *bias, int32_t n, int64_t units) {
    for (int32_t i = 0; i < n; i++)
        for (int64_t u = 0; u < units; u += VL)
            vstore(act + i * units + u,
                   vmax(vset(0), /* a NaN stays */
                        vload(act + i * units + u) + vload(bias + u)));
}

/* From the first layer's parts to margins of n rows. */
static void head_forward(const mlp *s, float *const *act, const float *part,
                         int32_t n, float *z) {
    const ks_adamw_job *job = s->job;
    const float *param = s->run->param;
    int32_t wide_n = padded(n), last = job->n_hidden - 1;
    int64_t size = wide_n * (int64_t)job->hidden[0];
    for (int64_t k = 0; k < size; k += VL) {
        vf sum = vload(part + k);
        for (int32_t r = 1; r < n_ranges(job); r++)
            sum = sum + vload(part + r * size + k);
        vstore(act[0] + k, sum);
    }
    for (int32_t l = 0; l <= last; l++) {
        int64_t units = job->hidden[l], inputs = ks_adamw_inputs(job, l);
        const float *w = param + ks_adamw_place(job, l);
        if (l) {
            memset(act[l], 0, (size_t)(wide_n * units) * sizeof *act[l]);
            forward_block(act[l], act[l - 1], inputs, wide_n, w, inputs, units);
        }
        activate(act[l], w + inputs * units, wide_n, units);
    }
    int64_t units = job->hidden[last];
    const float *w = param + ks_adamw_place(job, job->n_hidden);
    for (int32_t i = 0; i < n; i++) {
        vf sum = vset(0);
        for (int64_t u = 0; u < units; u += VL)
            sum = madd(vload(act[last] + i * units + u), vload(w + u), sum);
        z[i] = vsum(sum) + w[units];
    }
}

/* slope[l] from slope[l + 1], or from residuals z for the last layer; w: the
 * weights between. */
static void back(const mlp *s, int32_t l, const float *w) {
    const ks_adamw_job *job = s->job;
    bool last = l + 1 == job->n_hidden;
    int64_t units = job->hidden[l], above = last ? 1 : job->hidden[l + 1];
    for (int32_t i = 0; i < job->batch; i++)
        for (int64_t u = 0; u < units; u++) {
            float g = 0, *to = &s->slope[l][i * units + u];
            *to = 0;
            if (!(s->act[l][i * units + u] > 0)) continue;
            if (last) {
                *to = s->z[i] * w[u];
                continue;
            }
            vf sum = vset(0);
            for (int64_t k = 0; k < above; k += VL)
                sum = madd(vload(s->slope[l + 1] + i * above + k),
                           vload(w + u * above + k), sum);
            g = vsum(sum);
            *to = g;
        }
}

static void step_output(mlp *s) {
    const ks_adamw_job *job = s->job;
    int32_t last = job->n_hidden - 1;
    int64_t units = job->hidden[last], at = ks_adamw_place(job, job->n_hidden);
    float *w = s->run->param + at, *m = s->m + at, *v = s->v + at, g = 0;
    for (int64_t u = 0; u < units; u += VL) {
        vf sum = vset(0);
        for (int32_t i = 0; i < job->batch; i++)
            sum = madd(vset(s->z[i]), vload(s->act[last] + i * units + u), sum);
        vstore(w + u,
               ks__adamw_vector(vload(w + u), sum, m + u, v + u, &s->rate));
    }
    for (int32_t i = 0; i < job->batch; i++) g += s->z[i];
    ks__adamw_one(w + units, g, m + units, v + units, &s->rate);
}

/* The rest of the step: everything but the first layer's weights is updated. */
static void run_head(mlp *s) {
    const ks_adamw_job *job = s->job;
    const ks_adamw_run *r = s->run;
    if (s->next++ >= r->n_batches) return;
    head_forward(s, s->act, s->part, job->batch, s->z);
    for (int32_t i = 0; i < job->batch; i++)
        s->z[i] = ks_adamw_residual(s->z[i], r->y[s->row[1][i]],
                                    r->class_weight, job->batch);
    s->rate = ks__adamw_tick(job, r, s->epoch, &s->clock);
    for (int32_t l = job->n_hidden; l-- > 0;) {
        int64_t at = ks_adamw_place(job, l + 1), units = job->hidden[l];
        back(s, l, r->param + at);
        if (l + 1 == job->n_hidden) {
            step_output(s);
            continue;
        }
        step_block(r->param + at, s->m + at, s->v + at, units,
                   job->hidden[l + 1], s->act[l], units, s->slope[l + 1],
                   job->batch, &s->rate);
    }
    for (int32_t l = 0; l < job->n_hidden; l++) {
        int64_t at =
            ks_adamw_place(job, l) + ks_adamw_inputs(job, l) * job->hidden[l];
        step_bias(r->param + at, s->m + at, s->v + at, job->hidden[l],
                  s->slope[l], job->batch, &s->rate);
    }
}

/* ----------------------------------------------------------------- training */

static void find_rows(mlp *s) {
    const ks_adamw_job *job = s->job;
    int32_t *was = s->row[0];
    float *x = s->x[0];
    s->row[0] = s->row[1], s->row[1] = was;
    s->x[0] = s->x[1], s->x[1] = x;
    if (s->next >= s->run->n_batches) return;
    for (int32_t i = 0; i < job->batch; i++)
        s->row[1][i] = s->run->rows[ks_shuffle_at(
            &s->order, (uint32_t)(s->next * job->batch + i))];
}

/* Floats of parts and activations of a batch. */
static int64_t batch_floats(const ks_adamw_job *job) {
    int64_t floats = n_ranges(job) * (int64_t)job->hidden[0];
    for (int32_t l = 0; l < job->n_hidden; l++) floats += job->hidden[l];
    return floats * padded(job->batch);
}

/* Of a thread: those, and a range of a batch out of the file. */
static int64_t thread_floats(const ks_adamw_job *job) {
    return batch_floats(job) +
           (job->file ? RANGE * (int64_t)padded(job->batch) : 0);
}

/* Margins of rows [from, from + n) of those to evaluate; memory: of a
 * thread. */
static void evaluate(mlp *s, int32_t from, int32_t n, float *memory,
                     float *to) {
    const ks_adamw_job *job = s->job;
    float *act[KS_ADAMW_MOST_HIDDEN], *part = memory;
    float strip[(KS_ADAMW_MOST_BATCH + ROWS) * STRIP];
    int64_t size = padded(n) * (int64_t)job->hidden[0];
    float *at = memory + n_ranges(job) * size;
    unsigned was = ks__tiny_is_zero();
    for (int32_t l = 0; l < KS_ADAMW_MOST_HIDDEN; l++) {
        act[l] = at;
        if (l < job->n_hidden) at += padded(n) * (int64_t)job->hidden[l];
    }
    for (int32_t r = 0; r < n_ranges(job); r++)
        forward_range(s, r, s->run->eval + from, n, strip,
                      memory + batch_floats(job), part + r * size);
    head_forward(s, act, part, n, to + from);
    _mm_setcsr(was);
}

static void mlp_close(mlp *s) {
    free(s->m);
    free(s->part);
    for (int k = 0; k < 2; k++) {
        free(s->row[k]);
        free(s->x[k]);
    }
}

static ks_status mlp_open(mlp *s, const ks_adamw_job *job,
                          const ks_adamw_run *run, ks_err *err) {
    ks_status st = KS_OK;
    int64_t n = ks_adamw_place(job, job->n_hidden + 1);
    int64_t rows = padded(job->batch);
    *s = (mlp){.job = job, .run = run, .clock = {1, 1}};
    KS_TRY(ks_alloc(&s->m, 2 * (size_t)n, sizeof(float), "moments", err));
    s->v = s->m + n;
    KS_TRY(ks_alloc(&s->part, (size_t)(2 * batch_floats(job) + rows),
                    sizeof(float), "a batch", err));
    float *at = s->part + n_ranges(job) * rows * (int64_t)job->hidden[0];
    for (int32_t l = 0; l < job->n_hidden; l++) {
        s->act[l] = at;
        s->slope[l] = at + rows * job->hidden[l];
        at += 2 * rows * (int64_t)job->hidden[l];
    }
    s->z = at;
    int64_t wide = (ks_adamw_wide(job) + STRIP - 1) / STRIP * STRIP;
    for (int k = 0; k < 2; k++) {
        KS_TRY(ks_alloc(&s->row[k], (size_t)rows, sizeof(int32_t), "a batch",
                        err));
        KS_TRY(ks_alloc(&s->x[k], (size_t)(rows * wide), sizeof(float),
                        "a batch", err));
    }
done:
    if (st) mlp_close(s);
    return st;
}

/* Steps of the epoch; none behind a run's end. */
static int32_t begin_epoch(mlp *s, int32_t epoch) {
    const ks_adamw_run *r = s->run;
    bool more = epoch < r->epochs;
    s->epoch = epoch, s->next = more ? 0 : r->n_batches + 1;
    s->order = ks_shuffle_open(r->key, (uint32_t)epoch, (uint32_t)r->n_rows);
    find_rows(s);
    return more ? r->n_batches : 0;
}

/* All steps of an epoch of a group, by all threads. */
static void group_epoch(ks_dev *dev, mlp *runs, int32_t n, int32_t epoch,
                        float *memory) {
    const ks_adamw_job *job = runs->job;
    int32_t ranges = n_ranges(runs->job), most = 0;
    for (int32_t k = 0; k < n; k++)
        most = KS_MAX(most, begin_epoch(&runs[k], epoch));
#pragma omp parallel num_threads(dev->threads)
    {
        unsigned was = ks__tiny_is_zero();
        for (int32_t b = 0; b <= most; b++) {
#pragma omp for schedule(static)
            for (int32_t k = 0; k < n * ranges; k++)
                run_range(&runs[k / ranges], k % ranges,
                          memory + omp_get_thread_num() * thread_floats(job) +
                              batch_floats(job));
#pragma omp for schedule(static, 1)
            for (int32_t k = 0; k < n; k++) {
                run_head(&runs[k]);
                find_rows(&runs[k]);
            }
        }
        _mm_setcsr(was);
    }
}

/* Margins after an epoch: batches of rows of all runs, by all threads.
 * memory: [threads, thread_floats]. */
static void group_margins(ks_dev *dev, mlp *runs, int32_t n, int32_t epoch,
                          float *memory) {
    const ks_adamw_job *job = runs->job;
    int32_t batches = 0; /* the most of a run */
    for (int32_t k = 0; k < n; k++)
        batches = KS_MAX(batches,
                         (runs[k].run->n_eval + job->batch - 1) / job->batch);
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1)
    for (int32_t k = 0; k < n * batches; k++) {
        mlp *s = &runs[k / batches];
        float *to = ks__adamw_margins(job, s->run, epoch);
        int32_t from = k % batches * job->batch;
        if (to && from < s->run->n_eval)
            evaluate(s, from, KS_MIN(job->batch, s->run->n_eval - from),
                     memory + omp_get_thread_num() * thread_floats(job), to);
    }
}

/* Groups of runs by all threads. */
static ks_status train_together(ks_dev *dev, const ks_adamw_job *job,
                                float *memory, ks_err *err) {
    ks_status st = KS_OK;
    int32_t group = KS_MIN(job->n_runs, dev->threads), open = 0;
    /* alone, a big run's state has the caches to itself */
    if (n_ranges(job) >= 2 * dev->threads) group = 1;
    mlp *runs = NULL;
    KS_TRY(ks_alloc(&runs, (size_t)group, sizeof *runs, "probes", err));
    for (int32_t from = 0; from < job->n_runs; from += group) {
        int32_t n = KS_MIN(group, job->n_runs - from);
        for (; open < n; open++)
            KS_TRY(mlp_open(&runs[open], job, &job->runs[from + open], err));
        for (int32_t e = 0; e < job->epochs; e++) {
            KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
            group_epoch(dev, runs, n, e, memory);
            group_margins(dev, runs, n, e, memory);
            for (int32_t k = 0; k < n && st == KS_OK; k++)
                if (runs[k].failed) st = ks__adamw_unread(err);
            if (st != KS_OK) goto done;
        }
        while (open) mlp_close(&runs[--open]);
    }
done:
    while (open) mlp_close(&runs[--open]);
    free(runs);
    return st;
}

/* One run from start to end by one thread. */
static ks_status train_alone(const ks_adamw_job *job, const ks_adamw_run *run,
                             float *memory, ks_err *err) {
    mlp s;
    ks_status st = mlp_open(&s, job, run, err);
    if (st != KS_OK) return st;
    unsigned was = ks__tiny_is_zero();
    for (int32_t e = 0; e < run->epochs && !ks_interrupted && !s.failed; e++) {
        for (int32_t b = begin_epoch(&s, e); b >= 0; b--) {
            for (int32_t r = 0; r < n_ranges(job); r++)
                run_range(&s, r, memory + batch_floats(job));
            run_head(&s);
            find_rows(&s);
        }
        float *to = ks__adamw_margins(job, run, e);
        for (int32_t at = 0; to && at < run->n_eval; at += job->batch)
            evaluate(&s, at, KS_MIN(job->batch, run->n_eval - at), memory, to);
    }
    _mm_setcsr(was);
    mlp_close(&s);
    return s.failed ? ks__adamw_unread(err) : KS_OK;
}

/* Small runs: threads do not wait for one another in every step. */
static ks_status train_apart(ks_dev *dev, const ks_adamw_job *job,
                             float *memory, ks_err *err) {
    ks_status st = KS_OK;
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1)
    for (int32_t k = 0; k < job->n_runs; k++) {
        ks_err mine = {0};
        float *own = memory + omp_get_thread_num() * thread_floats(job);
        ks_status got = train_alone(job, &job->runs[k], own, &mine);
        if (got != KS_OK)
#pragma omp critical(ks_adamw_apart)
        {
            st = got;
            if (err) *err = mine;
        }
    }
    if (st == KS_OK && ks_interrupted)
        st = ks_fail(err, KS_INTERRUPTED, "interrupted");
    return st;
}

ks_status KS_ISA_NAME(adamw_mlp)(ks_dev *dev, const ks_adamw_job *job,
                                 ks_err *err) {
    ks_status st = KS_OK;
    float *memory = NULL;
    int32_t ranges = n_ranges(job);
    bool apart = ranges == 1 ||
                 (job->n_runs >= dev->threads && ranges < 2 * dev->threads);
    KS_TRY(ks_alloc(&memory, (size_t)(dev->threads * thread_floats(job)),
                    sizeof *memory, "a batch", err));
    KS_TRY(apart ? train_apart(dev, job, memory, err)
                 : train_together(dev, job, memory, err));
done:
    free(memory);
    return st;
}
