/* rope_backward.cu - the way back through rotary positions: the rotation turned
 * round, times the same scale. */
#include "cuda_ops.h"
#include "rope.cuh"

typedef struct rope_backward_args {
    float *dq, *dk;
    int64_t q_stride, k_stride;
    int q_cols, k_cols, head_dim, pairs;
    const float *inv_freq;
    float scale;
    const int32_t *row; /* may be NULL */
    ks_seqs seqs;
} rope_backward_args;

/* A block a row of cotangents. Bound: bytes, 8 an element of dq and dk. */
template <int by, bool interleaved>
static __global__ void __launch_bounds__(KS__ROPE_THREADS, 8)
    rope_backward_kernel(rope_backward_args a) {
    SHARED(float2, turn, KS__ROPE_MOST_DIMS / 2);
    int64_t row = blockIdx.x;
    int t = a.row ? a.row[row] : (int)row, s = ks__sequence_of(&a.seqs, t);
    int pos = ks__past(a.seqs.past, s) + t - a.seqs.offsets[s];
    for (int i = (int)threadIdx.x; i < a.pairs; i += KS__ROPE_THREADS) {
        float2 one = ks__turn_of((float)pos * a.inv_freq[i]);
        turn[i] = make_float2(one.x * a.scale, -one.y * a.scale);
    }
    __syncthreads();
    ks__rotate<by, interleaved>(a.dq + row * a.q_stride, a.q_cols, a.head_dim,
                                a.pairs, turn, NULL);
    ks__rotate<by, interleaved>(a.dk + row * a.k_stride, a.k_cols, a.head_dim,
                                a.pairs, turn, NULL);
}

/* -------------------------------------------------------------- launchers */

static cudaError_t run_rope_backward(ks_dev *dev, const rope_backward_args *a,
                                     int64_t rows, bool by_four,
                                     bool interleaved) {
    void (*kernel)(rope_backward_args) =
        by_four ? (interleaved ? rope_backward_kernel<4, true>
                               : rope_backward_kernel<4, false>)
                : (interleaved ? rope_backward_kernel<1, true>
                               : rope_backward_kernel<1, false>);
    return launch(kernel, (unsigned)rows, KS__ROPE_THREADS, 0, dev->stream, *a);
}

ks_status ks__cuda_rope_backward(ks_dev *dev, ks_view dq, ks_view dk,
                                 int32_t head_dim, const ks_rope *rope,
                                 const ks_seqs *seqs, const int32_t *row,
                                 ks_err *err) {
    if (head_dim > KS__ROPE_MOST_DIMS || rope->rot_dims > head_dim)
        return ks_fail(err, KS_UNSUPPORTED,
                       "rope backward: %d of %d dims of a head, at most %d are "
                       "built in",
                       (int)rope->rot_dims, (int)head_dim,
                       (int)KS__ROPE_MOST_DIMS);
    if (dq.cols % head_dim || dk.cols % head_dim || dq.rows != dk.rows ||
        (!row && dq.rows != seqs->n_tok))
        return ks_fail(err, KS_INTERNAL,
                       "rope backward: [%lld,%lld] and [%lld,%lld], head of "
                       "%d, %d tokens",
                       (long long)dq.rows, (long long)dq.cols,
                       (long long)dk.rows, (long long)dk.cols, (int)head_dim,
                       (int)seqs->n_tok);
    if (dq.rows == 0) return KS_OK;
    rope_backward_args a = {
        (float *)dq.data, (float *)dk.data, dq.stride, dk.stride,
        (int)dq.cols,     (int)dk.cols,     head_dim,  rope->rot_dims / 2,
        rope->inv_freq,   rope->scale,      row,       *seqs};
    bool by_four =
        ks__wide(&dq) && ks__wide(&dk) && a.pairs % 4 == 0 && head_dim % 4 == 0;
    KS_CUDA_TRY(run_rope_backward(dev, &a, dq.rows, by_four, rope->interleaved),
                "rope backward");
    return KS_OK;
}
