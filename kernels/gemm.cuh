/* gemm.cuh - the tile that every matrix product with stored weights is made of:
 * out [m, n] = x [m, k] W^T with W [n, k], or x W with W [k, n] (turned), f32
 * in and out, by mma.m16n8k16 on bf16 terms with f32 sums.
 *
 * Terms. v = hi + lo, hi = bf16(v), lo = bf16(v - hi): 16 bits of mantissa.
 * A step of 16 along k adds hi hi, then (weights of two terms) hi lo, then
 * (x of two terms) lo hi.
 *
 * Bits. An element is one chain of steps of 16 along k, from zero, then the
 * bias, then what was in out. All tile shapes do just that, whatever else they
 * differ in, so a row's bits know nothing of how many rows there are.
 *
 * Shared memory. Rows of 32 (turned: of 32 or 128) bf16 in chunks of 16 bytes;
 * the chunk is xored with bits of the row, so that the eight rows of an
 * ldmatrix, and the eight chunks of a quarter warp's stores, lie in all 32
 * banks. x goes through registers (f32 to terms) into two stages: loads of the
 * next block are in flight while this one multiplies. bf16 weights come by
 * cp.async into four stages, others through registers like x. One barrier a
 * pass: the stage that is filled is the one read a pass ago. A pass is 32 deep
 * for many rows; for few, where there is little to multiply and a barrier costs
 * as much as ever, it is four blocks of 32. */
#ifndef KS_GEMM_CUH
#define KS_GEMM_CUH

#include "expand.cuh"

enum { KS_GEMM_THREADS = 256, KS_GEMM_K = 32 };

typedef struct ks__product {
    float *out;
    const float *x;
    const uint8_t *w;
    const float *bias;      /* [n], of experts [n_experts, n]; or NULL */
    const int32_t *offsets; /* [n_experts + 1] rows of each expert; or NULL */
    const int32_t *row;     /* [m] rows of x; or NULL: each its own */
    int64_t out_stride, x_stride;
    int64_t w_row, w_expert; /* bytes */
    int32_t m, n, k, n_experts;
    int32_t blocks; /* of 32 along k */
    int32_t tiles_m, tiles_n;
    ks_type type; /* of w */
    bool accumulate;
} ks__product;

/* Constants of a tile: bm x bn of out by warps wm x wn (others only load), a
 * pass of `at_once` blocks; xt, wt terms of x and w; direct: w is bf16 and
 * comes by cp.async; turned: w is [k, n]. */
template <int bm, int bn, int wm, int wn, int at_once, int xt, int wt,
          bool direct, bool turned>
struct ks__tile {
    enum {
        BM = bm,
        BN = bn,
        WM = wm,
        WN = wn,
        AT_ONCE = at_once,
        XT = xt,
        WT = wt,
        DIRECT = direct,
        TURNED = turned,
        MT = bm / wm / 16,                   /* of a warp: m16 tiles */
        NT = bn / wn / 8,                    /* and n8 tiles */
        X_CHUNKS = at_once * bm * 4,         /* of eight, a pass */
        X_MINE = X_CHUNKS / KS_GEMM_THREADS, /* a thread */
        W_CHUNKS = at_once * bn * 4,
        W_MINE = W_CHUNKS / KS_GEMM_THREADS,
        W_LINE = turned ? bn / 8 : 4,     /* chunks a row */
        W_ROWS = turned ? KS_GEMM_K : bn, /* rows a block */
        X_STAGE = xt * X_CHUNKS * 8,      /* elements */
        W_STAGE = wt * W_CHUNKS * 8,
        W_STAGES = direct ? 4 : 2,
        BYTES = (2 * X_STAGE + W_STAGES * W_STAGE) * 2
    };
    static_assert(wm * wn * 32 <= KS_GEMM_THREADS, "warps");
};

/* Where a block of threads works. */
typedef struct ks__place {
    int32_t m0, m_end, n0;
    const uint8_t *w;
    const float *bias;
} ks__place;

/* -------------------------------------------------------------------- place */

/* The expert and rows of tile `at` when each expert's rows are cut on their
 * own; every warp looks by itself. False: there are fewer tiles. */
template <int BM>
static __device__ bool ks__find_expert(const ks__product *p, int at,
                                       ks__place *place, int *expert) {
    int lane = (int)threadIdx.x % 32, before = 0;
    for (int first = 0; first < p->n_experts; first += 32) {
        bool in = first + lane < p->n_experts;
        int begin = in ? p->offsets[first + lane] : 0;
        int end = in ? p->offsets[first + lane + 1] : 0;
        int tiles = (end - begin + BM - 1) / BM, sum = tiles;
        for (int step = 1; step < 32; step *= 2) {
            int other = __shfl_up_sync(0xffffffffu, sum, step);
            if (lane >= step) sum += other;
        }
        unsigned past = __ballot_sync(0xffffffffu, before + sum > at);
        if (past) {
            int who = __ffs((int)past) - 1;
            int ahead = before + __shfl_sync(0xffffffffu, sum - tiles, who);
            place->m0 =
                __shfl_sync(0xffffffffu, begin, who) + (at - ahead) * BM;
            place->m_end = __shfl_sync(0xffffffffu, end, who);
            *expert = first + who;
            return true;
        }
        before += __shfl_sync(0xffffffffu, sum, 31);
    }
    return false;
}

/* Tiles are numbered down groups of eight rows of tiles, so that those at work
 * together share rows of x and of w in L2. */
template <class T>
static __device__ bool ks__find_place(const ks__product *p, ks__place *place) {
    enum { GROUP = 8 };
    int id = (int)blockIdx.x, group = id / (GROUP * p->tiles_n);
    int in = id - group * GROUP * p->tiles_n;
    int high = min(p->tiles_m - group * GROUP, (int)GROUP);
    int row = group * GROUP + in % high, expert = 0;
    place->n0 = in / high * T::BN;
    place->m0 = row * T::BM;
    place->m_end = p->m;
    if (p->offsets && !ks__find_expert<T::BM>(p, row, place, &expert))
        return false;
    place->w = p->w + expert * p->w_expert;
    place->bias = p->bias ? p->bias + (int64_t)expert * p->n : NULL;
    return true;
}

/* ------------------------------------------------------------------ loading */

/* Of chunk q of a row of `line` chunks, the place in elements. */
template <int line>
static __device__ __forceinline__ int ks__chunk_at(int row, int q) {
    return line == 4 ? row * 32 + (q ^ (row / 2 % 4)) * 8
                     : row * line * 8 + (q ^ row % 8) * 8;
}

/* Eight floats as terms, 16 bytes each, `apart` elements from hi to lo. */
template <int terms>
static __device__ __forceinline__ void ks__store_terms(bf16 *to, int apart,
                                                       const float v[8]) {
    uint32_t hi[4], lo[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        __nv_bfloat162 h = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
        float2 back = __bfloat1622float2(h);
        __nv_bfloat162 l =
            __floats2bfloat162_rn(v[2 * i] - back.x, v[2 * i + 1] - back.y);
        hi[i] = *(uint32_t *)&h;
        lo[i] = *(uint32_t *)&l;
    }
    *(uint4 *)to = make_uint4(hi[0], hi[1], hi[2], hi[3]);
    if (terms == 2)
        *(uint4 *)(to + apart) = make_uint4(lo[0], lo[1], lo[2], lo[3]);
}

/* The row of x that chunk i of this thread comes from; NULL: none. */
template <class T>
static __device__ __forceinline__ const float *
ks__row_of_x(const ks__product *p, const ks__place *place, int i) {
    int c = (int)threadIdx.x + i * KS_GEMM_THREADS;
    int64_t row = place->m0 + c / 4 % T::BM;
    if (row >= place->m_end) return NULL;
    return p->x + (p->row ? p->row[row] : row) * p->x_stride;
}

/* Pass t: this thread's chunks of x, from their rows. */
template <class T>
static __device__ __forceinline__ void
ks__load_x(ks__raw8 raw[T::X_MINE], const ks__product *p,
           const float *const from[T::X_MINE], int t) {
#pragma unroll
    for (int i = 0; i < T::X_MINE; i++) {
        int c = (int)threadIdx.x + i * KS_GEMM_THREADS;
        int block = t * T::AT_ONCE + c / 4 / T::BM;
        int k = block * KS_GEMM_K + c % 4 * 8;
        ks__load8<KS_F32>(&raw[i], from[i] ? from[i] : p->x, k,
                          from[i] ? p->k - k : 0);
    }
}

template <class T>
static __device__ __forceinline__ void
ks__store_x(bf16 *stage, const ks__raw8 raw[T::X_MINE]) {
#pragma unroll
    for (int i = 0; i < T::X_MINE; i++) {
        int c = (int)threadIdx.x + i * KS_GEMM_THREADS;
        float v[8];
        ks__decode8<KS_F32>(v, &raw[i], 0);
        ks__store_terms<T::XT>(stage + ks__chunk_at<4>(c / 4, c % 4),
                               T::X_CHUNKS * 8, v);
    }
}

/* Of this thread's chunk i of w in pass t: row and first column in memory;
 * true if it is in the matrix. */
template <class T>
static __device__ __forceinline__ bool
ks__w_chunk(const ks__product *p, const ks__place *place, int t, int i,
            int *row, int *col) {
    int c = (int)threadIdx.x + i * KS_GEMM_THREADS;
    int q = c % T::W_LINE * 8, r = c / T::W_LINE % T::W_ROWS;
    int block = t * T::AT_ONCE + c / T::W_LINE / T::W_ROWS;
    *row = T::TURNED ? block * KS_GEMM_K + r : place->n0 + r;
    *col = T::TURNED ? place->n0 + q : block * KS_GEMM_K + q;
    return *row < (T::TURNED ? p->k : p->n) && *col < (T::TURNED ? p->n : p->k);
}

/* Its place in the stage. */
template <class T> static __device__ __forceinline__ int ks__w_chunk_at(int i) {
    int c = (int)threadIdx.x + i * KS_GEMM_THREADS;
    return ks__chunk_at<T::W_LINE>(c / T::W_LINE, c % T::W_LINE);
}

template <class T>
static __device__ __forceinline__ void
ks__copy_w(bf16 *stage, const ks__product *p, const ks__place *place, int t) {
#pragma unroll
    for (int i = 0; i < T::W_MINE; i++) {
        int row, col;
        bool in = ks__w_chunk<T>(p, place, t, i, &row, &col);
        const bf16 *from = (const bf16 *)(place->w + (in ? row : 0) * p->w_row);
        cp_async16(stage + ks__w_chunk_at<T>(i), from + (in ? col : 0), in);
    }
}

template <class T>
static __device__ __forceinline__ void
ks__load_w(ks__raw8 raw[T::W_MINE], const ks__product *p,
           const ks__place *place, int t) {
#pragma unroll
    for (int i = 0; i < T::W_MINE; i++) {
        int row, col;
        if (!ks__w_chunk<T>(p, place, t, i, &row, &col)) continue;
        const uint8_t *from = place->w + row * p->w_row;
        int n = (T::TURNED ? p->n : p->k) - col;
        switch ((int)p->type) { /* the launcher knows them all */
#define KS_LOAD(type)                                                          \
    case type:                                                                 \
        ks__load8<type>(&raw[i], from, col, n);                                \
        break;
            KS_EXPAND_TYPES(KS_LOAD)
#undef KS_LOAD
        }
    }
}

template <class T>
static __device__ __forceinline__ void
ks__store_w(bf16 *stage, const ks__product *p, const ks__place *place,
            const ks__raw8 raw[T::W_MINE], int t) {
#pragma unroll
    for (int i = 0; i < T::W_MINE; i++) {
        int row, col;
        float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        if (ks__w_chunk<T>(p, place, t, i, &row, &col)) {
            switch ((int)p->type) { /* the launcher knows them all */
#define KS_DECODE(type)                                                        \
    case type:                                                                 \
        ks__decode8<type>(v, &raw[i], col);                                    \
        break;
                KS_EXPAND_TYPES(KS_DECODE)
#undef KS_DECODE
            }
        }
        ks__store_terms<T::WT>(stage + ks__w_chunk_at<T>(i), T::W_CHUNKS * 8,
                               v);
    }
}

/* -------------------------------------------------------------- multiplying */

/* Fragments of two n8 tiles, 16 deep from k16 * 16: the warp's tiles 2 pair
 * and 2 pair + 1; w: the block's first row in the stage. */
template <class T>
static __device__ __forceinline__ void
ks__fragment_w(uint32_t f[4], const bf16 *w, int k16, int col) {
    int lane = (int)threadIdx.x % 32;
    if constexpr (T::TURNED)
        ldmatrix_x4_trans(f, w + ks__chunk_at<T::W_LINE>(k16 * 16 + lane % 16,
                                                         col / 8 + lane / 16));
    else
        ldmatrix_x4(f, w + ks__chunk_at<4>(col + lane / 16 * 8 + lane % 8,
                                           k16 * 2 + lane / 8 % 2));
}

/* acc += one block: x, w are its rows in the stage. */
template <class T>
static __device__ __forceinline__ void
ks__multiply(float acc[T::MT][T::NT][4], const bf16 *x, const bf16 *w, int row0,
             int col0) {
    int lane = (int)threadIdx.x % 32;
    const bf16 *x_lo = x + T::X_CHUNKS * 8, *w_lo = w + T::W_CHUNKS * 8;
#pragma unroll
    for (int k16 = 0; k16 < KS_GEMM_K / 16; k16++) {
        uint32_t b[T::NT / 2][4], b_lo[T::NT / 2][4];
#pragma unroll
        for (int j = 0; j < T::NT / 2; j++) {
            ks__fragment_w<T>(b[j], w, k16, col0 + j * 16);
            if (T::WT == 2)
                ks__fragment_w<T>(b_lo[j], w_lo, k16, col0 + j * 16);
        }
#pragma unroll
        for (int i = 0; i < T::MT; i++) {
            int at =
                ks__chunk_at<4>(row0 + i * 16 + lane % 16, k16 * 2 + lane / 16);
            uint32_t a[4];
            ldmatrix_x4(a, x + at);
#pragma unroll
            for (int j = 0; j < T::NT; j++) {
                mma_bf16(acc[i][j], a, &b[j / 2][j % 2 * 2]);
                if (T::WT == 2) mma_bf16(acc[i][j], a, &b_lo[j / 2][j % 2 * 2]);
            }
            if (T::XT == 2) {
                ldmatrix_x4(a, x_lo + at);
#pragma unroll
                for (int j = 0; j < T::NT; j++)
                    mma_bf16(acc[i][j], a, &b[j / 2][j % 2 * 2]);
            }
        }
    }
}

/* ------------------------------------------------------------------ results */

/* One element: the sum, then bias, then what was there. */
static __device__ __forceinline__ void ks__finish(const ks__product *p,
                                                  const ks__place *place,
                                                  int row, int col, float v) {
    if (row >= place->m_end || col >= p->n) return;
    float *to = p->out + row * p->out_stride + col;
    if (place->bias) v += place->bias[col];
    if (p->accumulate) v += *to;
    *to = v;
}

/* Of a warp: rows from row0, columns from col0 of the tile. A quad's eight
 * floats are one sector of 32 bytes. */
template <class T>
static __device__ __forceinline__ void
ks__write(const ks__product *p, const ks__place *place,
          const float v[T::MT][T::NT][4], int row0, int col0) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < T::MT; i++)
#pragma unroll
        for (int j = 0; j < T::NT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                ks__finish(p, place,
                           place->m0 + row0 + i * 16 + lane / 4 + e / 2 * 8,
                           place->n0 + col0 + j * 8 + lane % 4 * 2 + e % 2,
                           v[i][j][e]);
}

/* ------------------------------------------------------------------- kernel */

/* Bound (computed): 2 m n k FLOPs a pair of terms on tensor cores from some
 * 300 rows on (H100, bf16), below that the bytes of w as stored, plus x once a
 * column of tiles from L2. */
template <class T>
static __global__ void __launch_bounds__(KS_GEMM_THREADS,
                                         T::DIRECT &&T::BM <= 64 ? 2 : 1)
    ks__gemm_kernel(ks__product p) {
    DYN_SHARED(bf16, smem);
    bf16 *xs = smem, *ws = smem + 2 * T::X_STAGE;
    ks__place place;
    if (!ks__find_place<T>(&p, &place)) return;
    int warp = (int)threadIdx.x / 32;
    int row0 = warp / T::WN * (T::BM / T::WM);
    int col0 = warp % T::WN * (T::BN / T::WN);
    int passes = (p.blocks + T::AT_ONCE - 1) / T::AT_ONCE;
    float acc[T::MT][T::NT][4] = {};
    ks__raw8 x_next[T::X_MINE], w_next[T::W_MINE];

    const float *x_row[T::X_MINE];
#pragma unroll
    for (int i = 0; i < T::X_MINE; i++)
        x_row[i] = ks__row_of_x<T>(&p, &place, i);
    ks__load_x<T>(x_next, &p, x_row, 0);
    if constexpr (T::DIRECT) {
        for (int t = 0; t < T::W_STAGES - 1; t++) {
            if (t < passes) ks__copy_w<T>(ws + t * T::W_STAGE, &p, &place, t);
            cp_async_commit();
        }
        cp_async_wait<T::W_STAGES - 2>();
    } else {
        ks__load_w<T>(w_next, &p, &place, 0);
        ks__store_w<T>(ws, &p, &place, w_next, 0);
    }
    ks__store_x<T>(xs, x_next);
    __syncthreads();

    for (int t = 0; t < passes; t++) {
        bool more = t + 1 < passes;
        if (more) ks__load_x<T>(x_next, &p, x_row, t + 1);
        if constexpr (T::DIRECT) {
            int ahead = t + T::W_STAGES - 1;
            if (ahead < passes)
                ks__copy_w<T>(ws + ahead % T::W_STAGES * T::W_STAGE, &p, &place,
                              ahead);
            cp_async_commit();
        } else if (more) {
            ks__load_w<T>(w_next, &p, &place, t + 1);
        }
        if (warp < T::WM * T::WN) {
            const bf16 *x = xs + t % 2 * T::X_STAGE;
            const bf16 *w = ws + t % T::W_STAGES * T::W_STAGE;
            int here = min(p.blocks - t * T::AT_ONCE, (int)T::AT_ONCE);
            for (int b = 0; b < here; b++)
                ks__multiply<T>(acc, x + b * T::BM * KS_GEMM_K,
                                w + b * T::BN * KS_GEMM_K, row0, col0);
        }
        if (more) {
            ks__store_x<T>(xs + (t + 1) % 2 * T::X_STAGE, x_next);
            if constexpr (T::DIRECT)
                cp_async_wait<T::W_STAGES - 2>();
            else
                ks__store_w<T>(ws + (t + 1) % 2 * T::W_STAGE, &p, &place,
                               w_next, t + 1);
            __syncthreads();
        }
    }
    if (warp < T::WM * T::WN) ks__write<T>(&p, &place, acc, row0, col0);
}

/* ------------------------------------------------------------------- launch */

template <class T>
static ks_status ks__gemm_launch(ks_dev *dev, ks__product p, const char *op,
                                 ks_err *err) {
    p.tiles_m = (int32_t)(ks__ceil_div(p.m, T::BM) + p.n_experts);
    p.tiles_n = (int32_t)ks__ceil_div(p.n, T::BN);
    void (*kernel)(ks__product) = ks__gemm_kernel<T>;
    KS_CUDA_TRY(
        cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, T::BYTES),
        op);
    KS_CUDA_TRY(launch(kernel, (unsigned)p.tiles_m * (unsigned)p.tiles_n,
                       KS_GEMM_THREADS, T::BYTES, dev->stream, p),
                op);
    return KS_OK;
}

/* By the terms that x and w need; direct: bf16 whose chunks are aligned. */
template <int bm, int bn, int wm, int wn, int at_once, bool turned>
static ks_status ks__gemm_by_terms(ks_dev *dev, const ks__product *p,
                                   bool direct, const char *op, ks_err *err) {
#define KS_RUN(xt, wt, straight)                                               \
    ks__gemm_launch<                                                           \
        ks__tile<bm, bn, wm, wn, at_once, xt, wt, straight, turned>>(dev, *p,  \
                                                                     op, err)
    if (direct) return dev->precise ? KS_RUN(2, 1, true) : KS_RUN(1, 1, true);
    if (dev->precise) return KS_RUN(2, 2, false);
    if (p->type == KS_F32 || p->type == KS_F16) return KS_RUN(1, 2, false);
    return KS_RUN(1, 1, false);
#undef KS_RUN
}

/* Fills what follows from the rest, and runs the tile that the number of rows
 * (of an expert, on average) asks for; few: 64 rows or fewer a tile. */
template <bool turned>
static ks_status ks__gemm_run(ks_dev *dev, ks__product p, int64_t w_cols,
                              const char *op, ks_err *err) {
    enum { MANY = 128 };
    p.blocks = (int32_t)ks__ceil_div(p.k, KS_GEMM_K);
    bool direct = p.type == KS_BF16 && w_cols % 8 == 0 && p.w_row % 16 == 0 &&
                  (uintptr_t)p.w % 16 == 0;
    int64_t rows = ks__ceil_div(p.m, p.n_experts + !p.n_experts);
    int64_t tiles = ks__ceil_div(p.m, MANY) * ks__ceil_div(p.n, MANY);
    if (rows > 64 && tiles >= dev->n_sm)
        return ks__gemm_by_terms<MANY, 128, 2, 4, 1, turned>(dev, &p, direct,
                                                             op, err);
    if (rows > 16)
        return ks__gemm_by_terms<64, 32, 4, 2, 4, turned>(dev, &p, direct, op,
                                                          err);
    return ks__gemm_by_terms<16, 32, 1, 2, 4, turned>(dev, &p, direct, op, err);
}

#endif
