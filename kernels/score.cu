/* score.cu - log-probabilities of given tokens. Logits exist a tile of rows
 * and vocabulary at a time; each row keeps a maximum and a sum, carried from
 * tile to tile (the online softmax of Milakov and Gimelshein, 2018). */
#include "cuda_ops.h"
#include "vec.cuh"

/* TILE_COLS is the same for every model and batch, and so is the order of a
 * row's sum. A tile is 16 MB, in the L2 of the devices this is for. */
enum { THREADS = 256, WARPS = THREADS / 32, TILE_ROWS = 512, TILE_COLS = 8192 };
static const unsigned ALL = 0xffffffffu;

/* Of a row, over the tiles so far: sum of exp(logit - top). */
typedef struct carry {
    double sum;
    float top, wanted;
} carry;

typedef struct score_args {
    float *logprob;
    const float *logits; /* [rows, cols] */
    carry *state;        /* [rows] */
    const int32_t *target;
    int64_t begin; /* of the tile in the vocabulary */
    int cols;
    float softcap;
    bool last;
} score_args;

static __device__ __forceinline__ float logit_at(const score_args *a,
                                                 const float *row, int i) {
    float x = row[i];
    return a->softcap > 0 ? a->softcap * tanhf(x / a->softcap) : x;
}

/* Maximum over the block; the sum's barriers keep its memory apart. */
static __device__ float block_max(float x) {
    SHARED(float, part, WARPS);
#pragma unroll
    for (int step = 16; step; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL, x, step));
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = part[0];
#pragma unroll
    for (int i = 1; i < WARPS; i++) x = fmaxf(x, part[i]);
    return x;
}

static __device__ float block_sum(float x) {
    SHARED(float, part, WARPS);
    x = ks__warp_sum(x);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) x += part[i];
    return x;
}

/* A block a row of the tile. A NaN is no maximum, but makes the sum one.
 * Bound: 8 bytes a logit from L2 (two passes), against the tile's GEMM. */
static __global__ void __launch_bounds__(THREADS) score_kernel(score_args a) {
    const float *row = a.logits + (int64_t)blockIdx.x * a.cols;
    float top = -INFINITY, sum = 0;
    for (int i = (int)threadIdx.x; i < a.cols; i += THREADS)
        top = fmaxf(top, logit_at(&a, row, i));
    top = block_max(top);
    for (int i = (int)threadIdx.x; i < a.cols; i += THREADS)
        sum += expf(logit_at(&a, row, i) - top);
    sum = block_sum(sum);
    if (threadIdx.x) return;
    carry c = {0, -INFINITY, 0};
    if (a.begin) c = a.state[blockIdx.x];
    float most = fmaxf(c.top, top);
    /* nothing so far: exp(-inf - top) is 0, times the sum of 0 */
    c.sum = c.sum * exp((double)c.top - most) +
            (double)sum * exp((double)top - most);
    c.top = most;
    int64_t target = a.target[blockIdx.x] - a.begin;
    if (target >= 0 && target < a.cols)
        c.wanted = logit_at(&a, row, (int)target);
    a.state[blockIdx.x] = c;
    if (a.last)
        a.logprob[blockIdx.x] = (float)(c.wanted - ((double)most + log(c.sum)));
}

/* ---------------------------------------------------------------- launchers
 */

/* One tile of rows, over the vocabulary. */
static ks_status score_rows(ks_dev *dev, score_args a, float *tile,
                            ks_view rows, ks_view head, ks_err *err) {
    a.logits = tile;
    for (; a.begin < head.rows; a.begin += TILE_COLS) {
        ks_view part = head;
        part.data = (char *)head.data +
                    (size_t)a.begin * ks_type_row_bytes(head.type, head.stride);
        part.rows = ks__least(TILE_COLS, head.rows - a.begin);
        a.cols = (int)part.rows;
        a.last = a.begin + TILE_COLS >= head.rows;
        ks_view logits = ks_view_f32(tile, rows.rows, part.rows);
        ks_status st = ks__cuda_gemm(dev, logits, rows, part, NULL, false, err);
        if (st != KS_OK) return st;
        KS_CUDA_TRY(launch(score_kernel, (unsigned)rows.rows, THREADS, 0,
                           dev->stream, a),
                    "score");
    }
    return KS_OK;
}

ks_status ks__cuda_score(ks_dev *dev, float *logprob, ks_view hidden,
                         ks_view head, float softcap, const int32_t *target,
                         ks_err *err) {
    if (hidden.cols != head.cols)
        return ks_fail(err, KS_INTERNAL, "logits: [%lld,%lld] by [%lld,%lld]",
                       (long long)hidden.rows, (long long)hidden.cols,
                       (long long)head.rows, (long long)head.cols);
    int64_t held = ks__least(TILE_ROWS, hidden.rows);
    size_t tile = (size_t)(held * ks__least(TILE_COLS, head.rows)) * 4;
    tile = (tile + 15) / 16 * 16; /* the states behind it */
    void *scratch = NULL;
    ks_status st = ks__cuda_take(dev, &scratch, tile + held * sizeof(carry),
                                 "scoring", err);
    for (int64_t m = 0; st == KS_OK && m < hidden.rows; m += TILE_ROWS) {
        ks_view rows = hidden;
        rows.data = (float *)hidden.data + m * hidden.stride;
        rows.rows = ks__least(TILE_ROWS, hidden.rows - m);
        carry *state = (carry *)((char *)scratch + tile);
        score_args a = {logprob + m, NULL, state,   target + m,
                        0,           0,    softcap, false};
        st = score_rows(dev, a, (float *)scratch, rows, head, err);
    }
    ks__cuda_give(dev, scratch);
    return st;
}
