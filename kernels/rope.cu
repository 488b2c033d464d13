/* rope.cu - rotary positions (Su et al., RoFormer, 2021) for q and k, with the
 * write of k and v into the paged store. */
#include "cuda_ops.h"
#include "rope.cuh"

typedef struct rope_args {
    float *q, *k;
    const float *v;
    int64_t q_stride, k_stride, v_stride;
    int q_cols, k_cols, head_dim, half; /* half: pairs that rotate */
    const float *inv_freq;
    float scale;
    ks_seqs seqs;
    ks_kv_layer kv; /* k NULL: no store */
    bool wide_v;    /* v and the store by 16 bytes */
} rope_args;

/* Writes what does not rotate of k, and v, into the store. */
static __device__ __forceinline__ void
store_rest(const rope_args *a, const float *k, const float *v, int64_t to) {
    int rest = a->head_dim - 2 * a->half;
    int items = a->k_cols / a->head_dim * rest;
    for (int p = (int)threadIdx.x; p < items; p += KS__ROPE_THREADS) {
        int at = p / rest * a->head_dim + 2 * a->half + p % rest;
        a->kv.k[to + at] = k[at];
    }
    for (int j = 4 * (int)threadIdx.x; j < a->k_cols;
         j += 4 * KS__ROPE_THREADS) {
        int n = a->k_cols - j;
        ks__store4(a->kv.v + to + j, ks__load4(v + j, n, a->wide_v), n,
                   a->wide_v);
    }
}

/* A block a token. Bound: bytes, 8 an element of q, and 8 (with the store 12
 * and 8 for v) of k. */
template <int by, bool interleaved>
static __global__ void __launch_bounds__(KS__ROPE_THREADS, 8)
    rope_kernel(rope_args a) {
    SHARED(float2, turn, KS__ROPE_MOST_DIMS / 2);
    int t = (int)blockIdx.x, s = ks__sequence_of(&a.seqs, t);
    int pos = ks__past(a.seqs.past, s) + t - a.seqs.offsets[s];
    for (int i = (int)threadIdx.x; i < a.half; i += KS__ROPE_THREADS) {
        float2 one = ks__turn_of((float)pos * a.inv_freq[i]);
        turn[i] = make_float2(one.x * a.scale, one.y * a.scale);
    }
    __syncthreads();
    float *k = a.k + t * a.k_stride;
    int64_t to = 0;
    if (a.kv.k) {
        int page = a.seqs.pages[(int64_t)s * a.seqs.max_pages + pos / KS_PAGE];
        to = ((int64_t)page * KS_PAGE + pos % KS_PAGE) * a.k_cols;
        store_rest(&a, k, a.v + t * a.v_stride, to);
    }
    ks__rotate<by, interleaved>(a.q + t * a.q_stride, a.q_cols, a.head_dim,
                                a.half, turn, NULL);
    ks__rotate<by, interleaved>(k, a.k_cols, a.head_dim, a.half, turn,
                                a.kv.k ? a.kv.k + to : NULL);
}

/* -------------------------------------------------------------- launchers */

static cudaError_t run_rope(ks_dev *dev, const rope_args *a, bool by_four,
                            bool interleaved) {
    void (*kernel)(rope_args) =
        by_four ? (interleaved ? rope_kernel<4, true> : rope_kernel<4, false>)
                : (interleaved ? rope_kernel<1, true> : rope_kernel<1, false>);
    return launch(kernel, (unsigned)a->seqs.n_tok, KS__ROPE_THREADS, 0,
                  dev->stream, *a);
}

ks_status ks__cuda_rope(ks_dev *dev, ks_view q, ks_view k, ks_view v,
                        int32_t head_dim, const ks_rope *rope,
                        const ks_seqs *seqs, const ks_kv_layer *kv,
                        ks_err *err) {
    if (head_dim > KS__ROPE_MOST_DIMS || rope->rot_dims > head_dim)
        return ks_fail(err, KS_UNSUPPORTED,
                       "rope: %d of %d dims of a head, at most %d are built in",
                       (int)rope->rot_dims, (int)head_dim,
                       (int)KS__ROPE_MOST_DIMS);
    if (q.cols % head_dim || k.cols % head_dim || v.cols != k.cols)
        return ks_fail(err, KS_INTERNAL,
                       "rope: %lld, %lld, %lld columns, head of %d",
                       (long long)q.cols, (long long)k.cols, (long long)v.cols,
                       (int)head_dim);
    if (seqs->n_tok == 0) return KS_OK;
    rope_args a = {(float *)q.data,
                   (float *)k.data,
                   (const float *)v.data,
                   q.stride,
                   k.stride,
                   v.stride,
                   (int)q.cols,
                   (int)k.cols,
                   head_dim,
                   rope->rot_dims / 2,
                   rope->inv_freq,
                   rope->scale,
                   *seqs,
                   kv ? *kv : ks_kv_layer{NULL, NULL},
                   ks__wide(&v) && k.cols % 4 == 0};
    bool by_four =
        ks__wide(&q) && ks__wide(&k) && a.half % 4 == 0 && head_dim % 4 == 0;
    KS_CUDA_TRY(run_rope(dev, &a, by_four, rope->interleaved), "rope");
    return KS_OK;
}
