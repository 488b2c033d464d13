/* adamw_mlp.cu - adamw for probes with hidden layers: all runs in step, two
 * kernels a mini-batch, captured once as a graph and replayed.
 *
 * input: the first layer, whose weights and moments are what costs. A block
 * owns 64 units and a range of 512 inputs of one run: strip by strip of 32
 * inputs it forms the gradient of the batch behind, updates weights and moments
 * and, while the strip lies in shared memory, adds its share of the next
 * batch's forward; so state is read and written once a step, and gradients
 * never leave the registers. head: a block a run adds the ranges' shares in
 * order, goes up through the small layers to the loss and down again, and
 * updates them. Steps, epochs and powers count in device memory, so the graph
 * stays the same. Runs with fewer batches wait for the others at the end of an
 * epoch.
 *
 * Sums over inputs: by ranges of 512, ascending, whatever the device. */
#include "adamw.cuh"

#include <stdlib.h>

enum {
    THREADS = 256,
    UNITS = KS_ADAMW_UNITS, /* of a block */
    STRIP = 32,             /* inputs at a time */
    RANGE = 512,            /* of a block */
    ROWS = 32,              /* of a batch at a time */
    PITCH = STRIP + 4       /* 16-byte rows; 2 rows apart is 8 banks */
};

/* Where a run stands. */
struct mlp_clock {
    int32_t next, epoch; /* batch that comes */
    double power1, power2;
};

struct mlp_task {
    adamw_task t;
    int32_t n_hidden, hidden[KS_ADAMW_MOST_HIDDEN], ranges;
    int64_t place[KS_ADAMW_MOST_HIDDEN + 1]; /* ks_adamw_place */
    float *moments;                          /* [n_runs, 2, state] */
    mlp_clock *clock;                        /* [n_runs] */
    float *part;          /* [n_runs, ranges, batch, hidden[0]] */
    float *act, *slope;   /* [n_runs, batch, all units] layer by layer */
    int64_t units, state; /* units of all layers; adamw_state */
};

/* Rows that a launch takes: of a batch, or [first, ..) of those to evaluate. */
enum mlp_mode { TRAIN, EVALUATE };

static __device__ int64_t mlp_inputs(const mlp_task &k, int l) {
    return l ? k.hidden[l - 1] : k.t.wide;
}

/* act or slope of layer l of a run: [batch, units]. */
static __device__ float *mlp_layer(const mlp_task &k, float *all, int run,
                                   int l) {
    int64_t before = 0;
    for (int i = 0; i < l; i++) before += k.hidden[i];
    return all + (run * k.units + before) * k.t.batch;
}

/* Rows of batch b of the epoch. */
static __device__ void mlp_rows(const mlp_task &k, const ks_adamw_run &r,
                                int32_t epoch, int32_t b, int32_t *to) {
    int32_t batch = k.t.batch, i = (int32_t)threadIdx.x;
    if (i >= batch) return;
    ks_shuffle order =
        ks_shuffle_open(r.key, (uint32_t)epoch, (uint32_t)r.n_rows);
    to[i] = r.rows[ks_shuffle_at(&order, (uint32_t)(b * batch + i))];
}

/* -------------------------------------------------------------------- input */

/* Inputs [f, f + 32) of 32 rows of the n; zeros outside. */
static __device__ void load_x(const mlp_task &k, const ks_adamw_run &r,
                              float (*x)[PITCH], const int32_t *rows, int32_t n,
                              int32_t first, int64_t f) {
    int i = (int)threadIdx.x / 8, c = (int)threadIdx.x % 8 * 4;
    float4 to = {0, 0, 0, 0};
    f += c;
    if (first + i < n && f < k.t.wide) {
        to = *(const float4 *)adamw_input(k.t, r, rows[first + i], f);
        if (r.centre) {
            float4 centre = *(const float4 *)(r.centre + f);
            float4 by = *(const float4 *)(r.inverse + f);
            to.x = (to.x - centre.x) * by.x, to.y = (to.y - centre.y) * by.y;
            to.z = (to.z - centre.z) * by.z, to.w = (to.w - centre.w) * by.w;
        }
    }
    *(float4 *)&x[i][c] = to;
}

/* 64 units of 32 rows of the first layer's slope; zeros outside. */
static __device__ void load_slope(const mlp_task &k, const float *slope,
                                  float (*to)[UNITS], int32_t first,
                                  int32_t unit) {
    for (int e = (int)threadIdx.x; e < ROWS * UNITS / 4; e += THREADS) {
        int i = e / (UNITS / 4), u = e % (UNITS / 4) * 4;
        float4 s = {0, 0, 0, 0};
        if (first + i < k.t.batch)
            s = *(const float4
                      *)&slope[(int64_t)(first + i) * k.hidden[0] + unit + u];
        *(float4 *)&to[i][u] = s;
    }
}

/* The thread's 2 inputs x 4 units of the strip: updated, and to w. */
static __device__ void step_strip(const mlp_task &k, const ks_adamw_run &r,
                                  const float *moments, int64_t f, int32_t unit,
                                  const float g[2][4],
                                  const ks_adamw_rate *rate,
                                  float (*w)[UNITS]) {
    int u = (int)threadIdx.x % 16 * 4, c = (int)threadIdx.x / 16 * 2;
    int64_t n = k.state;
    for (int a = 0; a < 2; a++) {
        float4 now = {0, 0, 0, 0};
        if (f + c + a < k.t.wide) {
            int64_t at = (f + c + a) * k.hidden[0] + unit + u;
            now = *(float4 *)(r.param + at);
            if (rate) {
                float4 *first = (float4 *)(moments + at);
                float4 *second = (float4 *)(moments + n + at);
                float4 m = *first, v = *second;
                adamw_one(&now.x, g[a][0], &m.x, &v.x, *rate);
                adamw_one(&now.y, g[a][1], &m.y, &v.y, *rate);
                adamw_one(&now.z, g[a][2], &m.z, &v.z, *rate);
                adamw_one(&now.w, g[a][3], &m.w, &v.w, *rate);
                *first = m, *second = v;
                *(float4 *)(r.param + at) = now;
            }
        }
        *(float4 *)&w[c + a][u] = now;
    }
}

/* Gradient of the thread's 2 inputs x 4 units: the sum over the batch's rows.
 */
static __device__ void gradient(const mlp_task &k, const ks_adamw_run &r,
                                const float *slope, const int32_t *rows,
                                int64_t f, int32_t unit, float (*x)[PITCH],
                                float (*s)[UNITS], float g[2][4]) {
    int u = (int)threadIdx.x % 16 * 4, c = (int)threadIdx.x / 16 * 2;
    for (int32_t first = 0; first < k.t.batch; first += ROWS) {
        __syncthreads();
        load_x(k, r, x, rows, k.t.batch, first, f);
        load_slope(k, slope, s, first, unit);
        __syncthreads();
        for (int i = 0; i < ROWS; i++)
            for (int a = 0; a < 2; a++)
                for (int b = 0; b < 4; b++)
                    g[a][b] = fmaf(x[i][c + a], s[i][u + b], g[a][b]);
    }
}

/* Block (x, y, z): units 64 x.., inputs 512 y.., run z. Bound: 24 bytes a
 * weight and step (6 FMA a byte at batches of 32: memory, on an H100). */
template <int groups>
static __global__ void __launch_bounds__(THREADS, 1)
    input_kernel(mlp_task k, mlp_mode mode, int32_t begin) {
    SHARED2(float, x, ROWS, PITCH);
    SHARED2(float, s, ROWS, UNITS);
    SHARED2(float, w, STRIP, UNITS);
    SHARED(int32_t, behind, KS_ADAMW_MOST_BATCH);
    SHARED(int32_t, ahead, KS_ADAMW_MOST_BATCH);
    SHARED(ks_adamw_rate, rate, 1);
    int run = (int)blockIdx.z, u = (int)threadIdx.x % 16 * 4;
    int i = (int)threadIdx.x / 16 * 2;
    const ks_adamw_run &r = k.t.runs[run];
    mlp_clock now = k.clock[run];
    int32_t unit = (int32_t)blockIdx.x * UNITS, n = k.t.batch;
    bool update = mode == TRAIN && now.next > 0, forward = true;
    if (mode == TRAIN) {
        if (now.next > r.n_batches) return;
        forward = now.next < r.n_batches;
        if (update) mlp_rows(k, r, now.epoch, now.next - 1, behind);
        if (forward) mlp_rows(k, r, now.epoch, now.next, ahead);
        if (threadIdx.x == 0 && update)
            rate[0] = adamw_rate(k.t, r, now.epoch, now.power1, now.power2);
    } else {
        n = min(n, r.n_eval - begin);
        if (n <= 0 || !adamw_margins(k.t, r, now.epoch)) return;
        if ((int)threadIdx.x < n)
            ahead[threadIdx.x] = r.eval[begin + (int)threadIdx.x];
    }
    const float *slope = mlp_layer(k, k.slope, run, 0);
    const float *moments = k.moments + (int64_t)run * 2 * k.state;
    int64_t f = (int64_t)blockIdx.y * RANGE;
    int64_t end = min(f + RANGE, k.t.wide);
    float sum[groups][2][4] = {};
    for (; f < end; f += STRIP) {
        float g[2][4] = {};
        if (update) gradient(k, r, slope, behind, f, unit, x, s, g);
        __syncthreads();
        step_strip(k, r, moments, f, unit, g, update ? rate : NULL, w);
#pragma unroll
        for (int q = 0; q < groups; q++) {
            if (!forward || q * ROWS >= n) continue;
            if (q) __syncthreads();
            load_x(k, r, x, ahead, n, q * ROWS, f);
            __syncthreads();
            for (int j = 0; j < STRIP; j++)
                for (int a = 0; a < 2; a++)
                    for (int b = 0; b < 4; b++)
                        sum[q][a][b] =
                            fmaf(x[i + a][j], w[j][u + b], sum[q][a][b]);
        }
    }
    float *part = k.part + ((int64_t)run * k.ranges + blockIdx.y) * k.t.batch *
                               k.hidden[0];
#pragma unroll
    for (int q = 0; q < groups; q++)
        for (int a = 0; a < 2; a++) {
            int32_t row = q * ROWS + i + a;
            for (int b = 0; b < 4 && forward && row < n; b++)
                part[(int64_t)row * k.hidden[0] + unit + u + b] = sum[q][a][b];
        }
}

/* --------------------------------------------------------------------- head */

/* A NaN stays. */
static __device__ float relu(float x) {
    return x < 0 ? 0 : x;
}

/* act of all layers of n rows, each from the one below. */
static __device__ void climb(const mlp_task &k, const ks_adamw_run &r, int run,
                             int32_t n) {
    const float *part =
        k.part + (int64_t)run * k.ranges * k.t.batch * k.hidden[0];
    for (int l = 0; l < k.n_hidden; l++) {
        int32_t units = k.hidden[l];
        int64_t inputs = mlp_inputs(k, l);
        const float *w = r.param + k.place[l], *bias = w + inputs * units;
        float *act = mlp_layer(k, k.act, run, l);
        const float *below = l ? mlp_layer(k, k.act, run, l - 1) : NULL;
        for (int32_t e = (int32_t)threadIdx.x; e < n * units; e += THREADS) {
            int32_t i = e / units, u = e % units;
            float sum = 0;
            if (l == 0)
                for (int q = 0; q < k.ranges; q++)
                    sum += part[((int64_t)q * k.t.batch + i) * units + u];
            else
                for (int32_t j = 0; j < inputs; j++)
                    sum = fmaf(below[i * inputs + j], w[j * units + u], sum);
            act[e] = relu(sum + bias[u]);
        }
        __syncthreads();
    }
}

/* z[i] of n rows, a warp each. */
static __device__ void logits(const mlp_task &k, const ks_adamw_run &r, int run,
                              int32_t n, float *z) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int32_t units = k.hidden[k.n_hidden - 1];
    const float *w = r.param + k.place[k.n_hidden];
    const float *act = mlp_layer(k, k.act, run, k.n_hidden - 1);
    for (int32_t i = warp; i < n; i += THREADS / 32) {
        float sum = 0;
        for (int32_t u = lane; u < units; u += 32)
            sum = fmaf(act[i * units + u], w[u], sum);
        for (int step = 16; step; step /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (lane == 0) z[i] = sum + w[units];
    }
}

/* slope of layer l from what lies above it: residuals, or a layer. */
static __device__ void descend(const mlp_task &k, const ks_adamw_run &r,
                               int run, int l, const float *z) {
    bool last = l + 1 == k.n_hidden;
    int32_t units = k.hidden[l], above = last ? 1 : k.hidden[l + 1];
    const float *w = r.param + k.place[l + 1];
    const float *act = mlp_layer(k, k.act, run, l);
    const float *from = last ? z : mlp_layer(k, k.slope, run, l + 1);
    float *slope = mlp_layer(k, k.slope, run, l);
    for (int32_t e = (int32_t)threadIdx.x; e < k.t.batch * units;
         e += THREADS) {
        int32_t i = e / units, u = e % units;
        float sum = 0;
        if (act[e] > 0)
            for (int32_t j = 0; j < above; j++)
                sum = fmaf(from[i * above + j], w[u * above + j], sum);
        slope[e] = sum;
    }
}

/* Steps of a layer above the first, or of the output (l == n_hidden): its
 * gradients are sums over rows of below' above. */
static __device__ void step_layer(const mlp_task &k, const ks_adamw_run &r,
                                  int run, int l, const float *z,
                                  float *moments, const ks_adamw_rate &rate) {
    int32_t units = l < k.n_hidden ? k.hidden[l] : 1;
    int32_t inputs = k.hidden[l - 1];
    const float *below = mlp_layer(k, k.act, run, l - 1);
    const float *above = l < k.n_hidden ? mlp_layer(k, k.slope, run, l) : z;
    float *w = r.param + k.place[l], *m = moments + k.place[l];
    float *v = m + k.state;
    for (int32_t e = (int32_t)threadIdx.x; e < inputs * units; e += THREADS) {
        int32_t j = e / units, u = e % units;
        float g = 0;
        for (int32_t i = 0; i < k.t.batch; i++)
            g = fmaf(below[i * inputs + j], above[i * units + u], g);
        adamw_one(&w[e], g, &m[e], &v[e], rate);
    }
}

/* Steps of the biases of layer l, or of the output. */
static __device__ void step_bias(const mlp_task &k, const ks_adamw_run &r,
                                 int run, int l, const float *z, float *moments,
                                 const ks_adamw_rate &rate) {
    int32_t units = l < k.n_hidden ? k.hidden[l] : 1;
    const float *above = l < k.n_hidden ? mlp_layer(k, k.slope, run, l) : z;
    int64_t at = k.place[l] + mlp_inputs(k, l) * units;
    float *w = r.param + at, *m = moments + at;
    float *v = m + k.state;
    for (int32_t u = (int32_t)threadIdx.x; u < units; u += THREADS) {
        float g = 0;
        for (int32_t i = 0; i < k.t.batch; i++) g += above[i * units + u];
        adamw_one(&w[u], g, &m[u], &v[u], rate);
    }
}

/* All of a step but the first layer's weights. z: [batch], logits. */
static __device__ void learn(const mlp_task &k, const ks_adamw_run &r, int run,
                             const mlp_clock &now, float *z,
                             const ks_adamw_rate &rate) {
    float *moments = k.moments + (int64_t)run * 2 * k.state;
    int i = (int)threadIdx.x;
    if (i < k.t.batch) {
        ks_shuffle order =
            ks_shuffle_open(r.key, (uint32_t)now.epoch, (uint32_t)r.n_rows);
        int32_t row =
            r.rows[ks_shuffle_at(&order, (uint32_t)(now.next * k.t.batch + i))];
        z[i] = ks_adamw_residual(z[i], r.y[row], r.class_weight, k.t.batch);
    }
    __syncthreads();
    for (int l = k.n_hidden; l-- > 0;) {
        descend(k, r, run, l, z);
        __syncthreads();
        step_layer(k, r, run, l + 1, z, moments, rate);
    }
    for (int l = 0; l <= k.n_hidden; l++)
        step_bias(k, r, run, l, z, moments, rate);
}

/* Block x: run x. Bound: latency, some microseconds; its data lie in L2. */
static __global__ void __launch_bounds__(THREADS)
    head_kernel(mlp_task k, mlp_mode mode, int32_t begin) {
    SHARED(float, z, KS_ADAMW_MOST_BATCH);
    SHARED(ks_adamw_rate, rate, 1);
    int run = (int)blockIdx.x;
    const ks_adamw_run &r = k.t.runs[run];
    mlp_clock now = k.clock[run];
    int32_t n = k.t.batch;
    if (mode == EVALUATE) {
        float *to = adamw_margins(k.t, r, now.epoch);
        n = min(n, r.n_eval - begin);
        if (n <= 0 || !to) return;
        climb(k, r, run, n);
        logits(k, r, run, n, to + begin);
        return;
    }
    __syncthreads(); /* all have read the clock */
    if (now.next < r.n_batches) {
        if (threadIdx.x == 0)
            rate[0] = adamw_rate(k.t, r, now.epoch, now.power1 * k.t.beta1,
                                 now.power2 * k.t.beta2);
        climb(k, r, run, n);
        logits(k, r, run, n, z);
        __syncthreads();
        learn(k, r, run, now, z, rate[0]);
    }
    if (threadIdx.x || now.next > r.n_batches) return;
    if (now.next++ < r.n_batches) {
        now.power1 *= k.t.beta1;
        now.power2 *= k.t.beta2;
    }
    k.clock[run] = now;
}

/* The clocks at the start of an epoch. */
static __global__ void epoch_kernel(mlp_clock *clock, const ks_adamw_run *runs,
                                    int32_t n_runs, int32_t epoch) {
    int32_t k = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
    if (k >= n_runs) return;
    mlp_clock now = {0, epoch, 1, 1};
    if (epoch >= runs[k].epochs) now.next = runs[k].n_batches + 1;
    if (epoch > 0) {
        now.power1 = clock[k].power1;
        now.power2 = clock[k].power2;
    }
    clock[k] = now;
}

/* ---------------------------------------------------------------- launching */

static ks_status queue_batch(ks_dev *dev, const mlp_task *k, int32_t n_runs,
                             mlp_mode mode, int32_t begin, ks_err *err) {
    dim3 grid((unsigned)(k->hidden[0] / UNITS), (unsigned)k->ranges,
              (unsigned)n_runs);
    void (*input)(mlp_task, mlp_mode, int32_t) = input_kernel<1>;
    if (k->t.batch > ROWS) input = input_kernel<KS_ADAMW_MOST_BATCH / ROWS>;
    KS_CUDA_TRY(launch(input, grid, THREADS, 0, dev->stream, *k, mode, begin),
                "adamw");
    KS_CUDA_TRY(launch(head_kernel, (unsigned)n_runs, THREADS, 0, dev->stream,
                       *k, mode, begin),
                "adamw");
    return KS_OK;
}

static ks_status capture_step(ks_dev *dev, const mlp_task *k, int32_t n_runs,
                              cudaGraphExec_t *out, ks_err *err) {
    cudaGraph_t graph = NULL;
    KS_CUDA_TRY(
        cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeThreadLocal),
        "adamw");
    ks_status st = queue_batch(dev, k, n_runs, TRAIN, 0, err);
    cudaError_t error = cudaStreamEndCapture(dev->stream, &graph);
    if (st == KS_OK) st = ks__cuda_status(error, "adamw", err);
    if (st == KS_OK)
        st = ks__cuda_status(cudaGraphInstantiate(out, graph, 0), "adamw", err);
    if (graph) (void)cudaGraphDestroy(graph);
    return st;
}

static ks_status train_epoch(ks_dev *dev, const ks_adamw_job *job,
                             const mlp_task *k, cudaGraphExec_t step,
                             int32_t epoch, ks_err *err) {
    int32_t most = 0, n_eval = 0;
    for (int32_t i = 0; i < job->n_runs; i++) {
        const ks_adamw_run *r = &job->runs[i];
        if (epoch >= r->epochs) continue;
        most = KS_MAX(most, r->n_batches);
        if (job->each_epoch || epoch + 1 == r->epochs)
            n_eval = KS_MAX(n_eval, r->n_eval);
    }
    KS_CUDA_TRY(launch(epoch_kernel,
                       (unsigned)ks__ceil_div(job->n_runs, THREADS), THREADS, 0,
                       dev->stream, k->clock, k->t.runs, job->n_runs, epoch),
                "adamw");
    for (int32_t b = 0; b <= most; b++)
        KS_CUDA_TRY(cudaGraphLaunch(step, dev->stream), "adamw");
    for (int32_t at = 0; at < n_eval; at += job->batch) {
        ks_status st = queue_batch(dev, k, job->n_runs, EVALUATE, at, err);
        if (st != KS_OK) return st;
    }
    return KS_OK;
}

static ks_status train(ks_dev *dev, const ks_adamw_job *job, const mlp_task *k,
                       ks_err *err) {
    cudaGraphExec_t step = NULL;
    ks_status st = capture_step(dev, k, job->n_runs, &step, err);
    for (int32_t e = 0; st == KS_OK && !ks_interrupted && e < job->epochs;
         e++) {
        st = train_epoch(dev, job, k, step, e, err);
        if (st ==
            KS_OK) /* or the queue would hold epochs, interrupted or not */
            st = ks__cuda_status(cudaStreamSynchronize(dev->stream), "adamw",
                                 err);
    }
    if (step) (void)cudaGraphExecDestroy(step);
    return st;
}

ks_status ks__cuda_adamw_mlp(ks_dev *dev, const ks_adamw_job *job,
                             const adamw_task *task, float *moments,
                             ks_err *err) {
    mlp_task k = {};
    k.t = *task;
    k.n_hidden = job->n_hidden;
    for (int32_t l = 0; l < job->n_hidden; l++) {
        k.hidden[l] = job->hidden[l];
        k.units += job->hidden[l];
    }
    for (int32_t l = 0; l <= job->n_hidden; l++)
        k.place[l] = ks_adamw_place(job, l);
    k.state = adamw_state(job);
    k.ranges = (int32_t)ks__ceil_div(task->wide, RANGE);
    k.moments = moments;
    int64_t rows = (int64_t)job->n_runs * job->batch;
    int64_t parts = rows * k.ranges * k.hidden[0], acts = rows * k.units;
    char *memory = NULL;
    size_t clocks = (size_t)job->n_runs * sizeof(mlp_clock);
    clocks = (clocks + 255) / 256 * 256;
    ks_status st =
        ks__cuda_take(dev, (void **)&memory,
                      clocks + (size_t)(parts + 2 * acts) * sizeof(float),
                      "the probes' batches", err);
    if (st != KS_OK) return st;
    k.clock = (mlp_clock *)memory;
    k.part = (float *)(memory + clocks);
    k.act = k.part + parts;
    k.slope = k.act + acts;
    st = train(dev, job, &k, err);
    ks__cuda_give(dev, memory);
    return st;
}
