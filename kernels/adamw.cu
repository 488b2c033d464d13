/* adamw.cu - adamw: linear probes, one resident block each from the first step
 * to the last, and the entry of both families.
 *
 * A step reads its rows twice, in tiles of 32 rows by 256 inputs (with two rows
 * more, centre and inverse, where inputs are standardised): first for margins,
 * a warp a row, then for gradient and update, a thread an input. Tiles are one
 * sequence through all phases, steps and epochs, whose order is known ahead;
 * the next one is on its way by cp.async while the present one is used, across
 * steps too. Weights and moments lie in shared memory while they fit there
 * (some 12,000 inputs on an H100), else in global memory, which is L2 then.
 *
 * Shared memory is free of conflicts: a warp reads 32 neighbouring floats of a
 * row in both phases. */
#include "adamw.cuh"

#include <stdlib.h>

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    ROWS = 32,     /* of a tile */
    COLUMNS = 256, /* inputs of a tile; one a thread */
    SCALES = 2,    /* rows of centre and inverse behind them */
    PER_WARP = ROWS / WARPS
};

/* Margins go group by group of 32 rows, each over all chunks of 256 inputs;
 * gradients chunk by chunk, each over all groups. */
static __device__ int32_t groups_of(int32_t rows) {
    return (rows + ROWS - 1) / ROWS;
}

/* What the block works on; the same in all its threads. */
struct linear {
    const adamw_task *t;
    const ks_adamw_run *r;
    float *w, *m, *v;                         /* [wide + 1]; the bias is last */
    float (*tile)[(ROWS + SCALES) * COLUMNS]; /* two of them */
    int32_t *row;        /* [2, batch] of this step and the next */
    float *z;            /* [batch] */
    ks_adamw_rate *rate; /* of this step */
    int32_t chunks;
    int32_t now;           /* tile in use */
    double power1, power2; /* of the betas, up to this step */
};

/* Starts the copy of rows [32 group..] and inputs [256 chunk..] to a tile. */
static __device__ void fetch(const linear &s, int which, const int32_t *rows,
                             int32_t n_rows, int32_t group, int32_t chunk) {
    const ks_adamw_run &r = *s.r;
    int32_t count = r.centre ? ROWS + SCALES : ROWS;
    int32_t c = (int32_t)threadIdx.x % (COLUMNS / 4) * 4;
    int64_t f = (int64_t)chunk * COLUMNS + c;
    bool in = f < s.t->wide; /* the thread's column, in every row */
    const float *column = in ? adamw_input(*s.t, r, 0, f) : s.t->x;
    for (int32_t i = (int32_t)threadIdx.x / (COLUMNS / 4); i < count;
         i += THREADS / (COLUMNS / 4)) {
        int32_t at = group * ROWS + i;
        const float *from = column;
        bool valid = in;
        if (i >= ROWS)
            from = in ? (i == ROWS ? r.centre : r.inverse) + f : from;
        else if (at < n_rows)
            from += rows[at] * s.t->stride * in;
        else
            valid = false;
        cp_async16(&s.tile[which][i * COLUMNS + c], from, valid);
    }
    cp_async_commit();
}

/* Element (i, c) of the tile as the probe sees it. */
static __device__ float see(const linear &s, const float *tile, int i, int c) {
    float x = tile[i * COLUMNS + c];
    if (!s.r->centre) return x;
    return (x - tile[ROWS * COLUMNS + c]) * tile[(ROWS + 1) * COLUMNS + c];
}

/* Waits for the tile that was fetched last and makes it the present one; the
 * other is free for the next fetch. */
static __device__ const float *arrive(linear *s) {
    cp_async_wait<0>();
    __syncthreads();
    const float *tile = s->tile[s->now];
    s->now ^= 1;
    return tile;
}

/* The tile after (group, chunk) of a margins' pass, if there is one. */
static __device__ void fetch_margins(const linear &s, const int32_t *rows,
                                     int32_t n_rows, int32_t at) {
    if (at < groups_of(n_rows) * s.chunks)
        fetch(s, s.now, rows, n_rows, at / s.chunks, at % s.chunks);
}

/* out[i] = z of the rows. The first tile is on its way; `then` is fetched
 * behind the last one: the first of the gradients' pass (GRADIENT), or nothing.
 */
enum after { NOTHING, GRADIENT };
static __device__ void margins(linear *s, const int32_t *rows, int32_t n_rows,
                               float *out, after then) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int32_t count = groups_of(n_rows) * s->chunks;
    float sum[PER_WARP] = {};
    for (int32_t at = 0; at < count; at++) {
        const float *tile = arrive(s);
        if (at + 1 < count)
            fetch_margins(*s, rows, n_rows, at + 1);
        else if (then == GRADIENT)
            fetch(*s, s->now, rows, n_rows, 0, 0);
        int64_t first = (int64_t)(at % s->chunks) * COLUMNS;
        for (int c = lane; c < COLUMNS && first + c < s->t->wide; c += 32) {
            float w = s->w[first + c];
            for (int k = 0; k < PER_WARP; k++)
                sum[k] = fmaf(see(*s, tile, warp + k * WARPS, c), w, sum[k]);
        }
        if ((at + 1) % s->chunks) continue;
        for (int k = 0; k < PER_WARP; k++) {
            for (int step = 16; step; step /= 2)
                sum[k] += __shfl_xor_sync(0xffffffffu, sum[k], step);
            int32_t i = at / s->chunks * ROWS + warp + k * WARPS;
            if (lane == 0 && i < n_rows) out[i] = sum[k] + s->w[s->t->wide];
            sum[k] = 0;
        }
    }
}

/* Gradient and step of all parameters from residuals z. Behind the last tile
 * the first of the next pass is fetched: `next` rows, or none. */
static __device__ void update(linear *s, const int32_t *rows,
                              const int32_t *next, int32_t n_next) {
    int32_t batch = s->t->batch, groups = groups_of(batch);
    int32_t count = groups * s->chunks;
    float g = 0;
    for (int32_t at = 0; at < count; at++) {
        const float *tile = arrive(s);
        if (at + 1 < count)
            fetch(*s, s->now, rows, batch, (at + 1) % groups,
                  (at + 1) / groups);
        else if (n_next)
            fetch(*s, s->now, next, n_next, 0, 0);
        int32_t first = at % groups * ROWS;
        for (int i = 0; i < ROWS && first + i < batch; i++)
            g = fmaf(s->z[first + i], see(*s, tile, i, (int)threadIdx.x), g);
        if ((at + 1) % groups) continue;
        int64_t f = (int64_t)(at / groups) * COLUMNS + threadIdx.x;
        if (f < s->t->wide)
            adamw_one(&s->w[f], g, &s->m[f], &s->v[f], *s->rate);
        g = 0;
    }
    if (threadIdx.x == 0) {
        int64_t f = s->t->wide;
        for (int32_t i = 0; i < batch; i++) g += s->z[i];
        adamw_one(&s->w[f], g, &s->m[f], &s->v[f], *s->rate);
    }
}

/* The rows of batch b of an epoch; b beyond the epoch's: none. */
static __device__ void find_rows(const linear &s, const ks_shuffle &order,
                                 int32_t b, int32_t *to) {
    int32_t batch = s.t->batch;
    if (b >= s.r->n_batches) return;
    for (int32_t i = (int32_t)threadIdx.x; i < batch; i += THREADS)
        to[i] = s.r->rows[ks_shuffle_at(&order, (uint32_t)(b * batch + i))];
}

/* One step; its first tile is on its way, and then that of the next step, or of
 * the rows to evaluate. Barriers between a step's parts are those of arrive. */
static __device__ void one_step(linear *s, const ks_shuffle &order, int32_t e,
                                int32_t b, int32_t n_eval) {
    const ks_adamw_run &r = *s->r;
    int32_t batch = s->t->batch;
    int32_t *rows = s->row + b % 2 * batch,
            *next = s->row + (b + 1) % 2 * batch;
    bool last = b + 1 == r.n_batches;
    find_rows(*s, order, b + 1, next);
    margins(s, rows, batch, s->z, GRADIENT);
    s->power1 *= s->t->beta1;
    s->power2 *= s->t->beta2;
    if (threadIdx.x == 0)
        *s->rate = adamw_rate(*s->t, r, e, s->power1, s->power2);
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < batch; i += THREADS)
        s->z[i] =
            ks_adamw_residual(s->z[i], r.y[rows[i]], r.class_weight, batch);
    update(s, rows, last ? r.eval : next, last ? n_eval : batch);
}

static __device__ void train(linear *s) {
    const adamw_task &t = *s->t;
    const ks_adamw_run &r = *s->r;
    for (int32_t e = 0; e < r.epochs; e++) {
        ks_shuffle order =
            ks_shuffle_open(r.key, (uint32_t)e, (uint32_t)r.n_rows);
        float *out = adamw_margins(t, r, e);
        int32_t n_eval = out ? r.n_eval : 0;
        find_rows(*s, order, 0, s->row);
        __syncthreads();
        fetch(*s, s->now, s->row, t.batch, 0, 0);
        for (int32_t b = 0; b < r.n_batches; b++)
            one_step(s, order, e, b, n_eval);
        if (n_eval) margins(s, r.eval, n_eval, out, NOTHING);
    }
}

/* Block x: run x. Bound (H100, computed): the bytes of its rows, twice from L2
 * or once from memory and once from L2, 25 GB/s an SM: 3 us a step of 32 rows
 * of 576. */
static __global__ void __launch_bounds__(THREADS, 1)
    linear_kernel(adamw_task t, float *moments, bool resident) {
    DYN_SHARED(float, smem);
    const ks_adamw_run &r = t.runs[blockIdx.x];
    int64_t n = t.wide + 1;
    int32_t batch = t.batch;
    linear s;
    s.t = &t, s.r = &r;
    s.tile = (float(*)[(ROWS + SCALES) * COLUMNS]) smem;
    s.rate = (ks_adamw_rate *)(smem + 2 * (ROWS + SCALES) * COLUMNS);
    s.z = (float *)(s.rate + 1);
    s.row = (int32_t *)(s.z + batch);
    s.chunks = (int32_t)((t.wide + COLUMNS - 1) / COLUMNS);
    s.now = 0;
    s.power1 = s.power2 = 1;
    float *global = moments + (int64_t)blockIdx.x * 2 * n;
    float *own = s.z + 3 * batch;
    s.w = resident ? own : r.param;
    s.m = resident ? own + n : global;
    s.v = s.m + n;
    for (int64_t k = threadIdx.x; k < n && resident; k += THREADS) {
        s.w[k] = r.param[k];
        s.m[k] = s.v[k] = 0;
    }
    train(&s);
    __syncthreads();
    for (int64_t k = threadIdx.x; k < n && resident; k += THREADS)
        r.param[k] = s.w[k];
}

ks_status ks__cuda_adamw_linear(ks_dev *dev, const ks_adamw_job *job,
                                const adamw_task *task, float *moments,
                                ks_err *err) {
    size_t shared = sizeof(ks_adamw_rate) +
                    (2 * (ROWS + SCALES) * COLUMNS + 3 * (size_t)job->batch) *
                        sizeof(float);
    size_t state = 3 * (size_t)(task->wide + 1) * sizeof(float);
    bool resident = shared + state <= dev->shared_most;
    if (resident) shared += state;
    KS_CUDA_TRY(cudaFuncSetAttribute(
                    linear_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                    (int)shared),
                "adamw");
    KS_CUDA_TRY(launch(linear_kernel, (unsigned)job->n_runs, THREADS, shared,
                       dev->stream, *task, moments, resident),
                "adamw");
    return KS_OK;
}

/* -------------------------------------------------------------------- entry */

static ks_status check(const ks_adamw_job *job, ks_err *err) {
    bool whole = job->stride >= 1 && job->stride % KS_ADAMW_PAD == 0 &&
                 job->layers >= 1 && job->batch >= 1 &&
                 job->batch <= KS_ADAMW_MOST_BATCH && job->n_runs >= 1 &&
                 job->n_hidden <= KS_ADAMW_MOST_HIDDEN &&
                 ks_adamw_wide(job) <= INT32_MAX;
    for (int32_t k = 0; whole && k < job->n_hidden; k++)
        whole = job->hidden[k] >= 1 && job->hidden[k] % KS_ADAMW_UNITS == 0;
    if (whole) return KS_OK;
    return ks_fail(err, KS_INTERNAL,
                   "adamw: %d runs, stride %lld, %d layers, batches of %d, %d "
                   "hidden layers",
                   job->n_runs, (long long)job->stride, job->layers, job->batch,
                   job->n_hidden);
}

static ks_status train_job(ks_dev *dev, const ks_adamw_job *job,
                           adamw_task *task, float *moments, size_t bytes,
                           double *rate, ks_adamw_run *runs, ks_err *err) {
    KS_CUDA_TRY(cudaMemcpyAsync(rate, job->rate,
                                (size_t)job->epochs * sizeof *rate,
                                cudaMemcpyHostToDevice, dev->stream),
                "adamw");
    KS_CUDA_TRY(cudaMemcpyAsync(runs, job->runs,
                                (size_t)job->n_runs * sizeof *runs,
                                cudaMemcpyHostToDevice, dev->stream),
                "adamw");
    KS_CUDA_TRY(cudaMemsetAsync(moments, 0, bytes, dev->stream), "adamw");
    task->rate = rate;
    task->runs = runs;
    ks_status st = job->n_hidden
                       ? ks__cuda_adamw_mlp(dev, job, task, moments, err)
                       : ks__cuda_adamw_linear(dev, job, task, moments, err);
    if (st != KS_OK) return st;
    KS_CUDA_TRY(cudaStreamSynchronize(dev->stream), "adamw");
    return ks_interrupted ? ks_fail(err, KS_INTERRUPTED, "interrupted") : KS_OK;
}

ks_status ks__cuda_adamw(ks_dev *dev, const ks_adamw_job *job, ks_err *err) {
    ks_status st = check(job, err);
    if (st != KS_OK) return st;
    size_t moments =
        (size_t)job->n_runs * 2 * (size_t)adamw_state(job) * sizeof(float);
    moments = (moments + 255) / 256 * 256;
    size_t rates = ((size_t)job->epochs * sizeof(double) + 255) / 256 * 256;
    char *memory = NULL;
    st = ks__cuda_take(dev, (void **)&memory,
                       moments + rates +
                           (size_t)job->n_runs * sizeof(ks_adamw_run),
                       "the probes' moments", err);
    if (st != KS_OK) return st;
    adamw_task task = {};
    task.x = job->x;
    task.n = job->n, task.stride = job->stride, task.wide = ks_adamw_wide(job);
    task.batch = job->batch, task.each_epoch = job->each_epoch;
    task.beta1 = job->beta1, task.beta2 = job->beta2, task.eps = job->eps;
    st = train_job(dev, job, &task, (float *)memory, moments,
                   (double *)(memory + moments),
                   (ks_adamw_run *)(memory + moments + rates), err);
    ks__cuda_give(dev, memory);
    return st;
}
