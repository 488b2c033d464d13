/* adamw.cuh - what the two AdamW families share on the device. */
#ifndef KS_ADAMW_CUH
#define KS_ADAMW_CUH

#include "cuda.cuh"
#include "cuda_ops.h"

/* The job as kernels take it: pointers to device memory. */
struct adamw_task {
    const float *x;
    int64_t n, stride, wide; /* wide: inputs of a probe */
    int32_t batch;
    bool each_epoch;
    double beta1, beta2;
    float eps;
    const double *rate; /* [epochs] */
    const ks_adamw_run *runs;
};

/* One step of a parameter with gradient g; m and v: its moments. */
static __device__ __forceinline__ void
adamw_one(float *w, float g, float *m, float *v, const ks_adamw_rate &a) {
    float first = fmaf(g - *m, a.new1, *m);
    float second = fmaf(g * g, a.new2, *v * a.beta2);
    *m = first;
    *v = second;
    float root = fmaf(sqrtf(second), a.root, a.eps);
    *w = fmaf(-a.step, first / root, *w * a.keep);
}

static __device__ __forceinline__ ks_adamw_rate
adamw_rate(const adamw_task &t, const ks_adamw_run &r, int epoch, double power1,
           double power2) {
    return ks_adamw_rate_of(r.lr * t.rate[epoch], r.decay, t.beta1, t.beta2,
                            t.eps, power1, power2);
}

/* Where run r keeps the margins of epoch e; NULL: not wanted. */
static __device__ __forceinline__ float *
adamw_margins(const adamw_task &t, const ks_adamw_run &r, int e) {
    if (!r.margin || e >= r.epochs) return NULL;
    if (!t.each_epoch && e + 1 < r.epochs) return NULL;
    return r.margin + (t.each_epoch ? (int64_t)e * r.n_eval : 0);
}

/* Row `row` of the layer that holds input f, at f; wide has 31 bits. */
static __device__ __forceinline__ const float *
adamw_input(const adamw_task &t, const ks_adamw_run &r, int32_t row,
            int64_t f) {
    uint32_t stride = (uint32_t)t.stride, at = (uint32_t)f;
    int64_t layer = r.layer + (int32_t)(at / stride);
    return t.x + (layer * t.n + row) * t.stride + at % stride;
}

/* Floats of one moment of a run: its parameters, and up to 16 bytes. */
static inline int64_t adamw_state(const ks_adamw_job *job) {
    return ks__ceil_div(ks_adamw_place(job, job->n_hidden + 1), 4) * 4;
}

/* adamw.cu and adamw_mlp.cu: train all runs. moments: [n_runs, 2, state],
 * zeros. */
ks_status ks__cuda_adamw_linear(ks_dev *dev, const ks_adamw_job *job,
                                const adamw_task *task, float *moments,
                                ks_err *err);
ks_status ks__cuda_adamw_mlp(ks_dev *dev, const ks_adamw_job *job,
                             const adamw_task *task, float *moments,
                             ks_err *err);

#endif
