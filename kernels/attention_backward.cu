/* attention_backward.cu - the way back through attention, for many cotangents
 * of one forward (Dao 2023, algorithm 2).
 *
 * First what all cotangents share: level = log2 of each row's sum of exp2, so
 * that P = exp2(score - level); and the dots rowsum(dO O). Then two passes, one
 * over queries for dQ and one over keys for dK and dV, so that nothing is added
 * by two blocks. A block is a tile of one cotangent's rows and a head: it makes
 * the probabilities of a tile again for its cotangent. (Sums of further
 * cotangents do not fit the registers, and carrying P or the sums through
 * memory would cost more time than the one product in four that it saves:
 * computed, not measured, 8 bytes against 2 * head_dim FLOPs an element of P.)
 *
 * The other side (keys for dQ, queries for dK and dV) comes in blocks at
 * absolute positions, in ascending order, heads in order; rows that the
 * cotangent does not cover are zeros. So a cotangent row's bits do not depend
 * on what else is in the batch. */
#include "attention.cuh"
#include "cuda_ops.h"

/* BLOCK rows of the other side; a warp has 16 rows of its own, which SHARE
 * warps share where many dims and terms are, each with its part of the result's
 * columns.
 * Shared memory: two tensors of both, at most 98432 bytes. */
template <int D, int TERMS> struct back_shape {
    static const int WARPS = 4, THREADS = 128;
    static const int SHARE = D * TERMS < 256 ? 1 : D * TERMS / 128;
    static const int ROWS = WARPS * 16 / SHARE;
    static const int BLOCK = D * TERMS < 256 ? 32 : 16;
    static const int COLS = D / SHARE;
    static const int SHARED =
        2 * (ROWS + BLOCK) * D * TERMS * (int)sizeof(bf16) +
        2 * BLOCK * (int)sizeof(float);
};

typedef struct back_args {
    attn_args a; /* out: the forward's */
    const float *dout;
    float *dq, *dk, *dv;
    int64_t dout_stride, dq_stride, dk_stride, dv_stride;
    const int32_t *cot_offsets, *cot_first, *cot_row;
    int32_t n_cot, n_rows;
    float slope;  /* of a score by q.k, uncapped: natural units */
    float *level; /* [n_tok, n_heads] */
    float *dots;  /* [n_rows, n_heads] */
} back_args;

/* A tile: rows [at, at + n) of a cotangent's, at position `position` of a
 * sequence whose first token is `begin`. The cotangent covers positions [first,
 * end), and its row of position p is row0 + p. */
typedef struct back_tile {
    int32_t position, n;
    int32_t begin, first, end;
    int64_t row0;
} back_tile;

/* Shared memory: this side's and the other side's operands. */
template <int D, int TERMS> struct back_room {
    bf16 *mine[2], *other[2];
    float *level, *dots; /* [BLOCK] */
};

template <int D, int TERMS>
static __device__ __forceinline__ back_room<D, TERMS> lay_out(void *shared) {
    typedef back_shape<D, TERMS> shape;
    back_room<D, TERMS> room;
    room.mine[0] = (bf16 *)shared;
    room.mine[1] = room.mine[0] + TERMS * shape::ROWS * D;
    room.other[0] = room.mine[1] + TERMS * shape::ROWS * D;
    room.other[1] = room.other[0] + TERMS * shape::BLOCK * D;
    room.level = (float *)(room.other[1] + TERMS * shape::BLOCK * D);
    room.dots = room.level + shape::BLOCK;
    return room;
}

/* Rows row .. row + N of x, columns from col on, as operands [TERMS][N][D];
 * zeros for rows out of [low, high). */
template <int D, int TERMS, int N>
static __device__ __forceinline__ void
bring(bf16 *to, const float *x, int64_t stride, int64_t row, int64_t low,
      int64_t high, int64_t col, const attn_args *a) {
    int thread = opaque((int)threadIdx.x);
#pragma unroll 2
    for (int i = 0; i < N * D / 4 / back_shape<D, TERMS>::THREADS; i++) {
        int piece = i * back_shape<D, TERMS>::THREADS + thread;
        int r = piece / (D / 4), c = piece % (D / 4) * 4;
        bool in = row + r >= low && row + r < high;
        const float *from = in ? x + (row + r) * stride + col + c : x;
        put_operand<D, TERMS>(
            to, N * D, r, c,
            load_four(from, in ? a->head_dim - c : 0, a->wide));
    }
}

template <int D, int TERMS>
static __device__ __forceinline__ int own_row(void) {
    return (int)threadIdx.x / 32 / back_shape<D, TERMS>::SHARE * 16;
}

template <int D, int TERMS>
static __device__ __forceinline__ int own_col(void) {
    typedef back_shape<D, TERMS> shape;
    return (int)threadIdx.x / 32 % shape::SHARE * shape::COLS;
}

/* The warp's sums to rows row0 + [0, n) of the tile, columns from col on. */
template <int D, int TERMS>
static __device__ __forceinline__ void
give(float *to, int64_t stride, int64_t row0, int32_t n, int64_t col,
     const float x[back_shape<D, TERMS>::COLS / 8][4], const attn_args *a) {
    int first = own_col<D, TERMS>() + (int)threadIdx.x % 4 * 2;
    for (int i = 0; i < 2; i++) {
        int r = own_row<D, TERMS>() + (int)threadIdx.x % 32 / 4 + i * 8;
        if (r >= n) continue;
        float *row = to + (row0 + r) * stride + col + first;
#pragma unroll
        for (int c = 0; c < back_shape<D, TERMS>::COLS / 8; c++)
            store_two(row + c * 8, a->head_dim - first - c * 8,
                      __fadd_rn(x[c][i * 2], 0.0f),
                      __fadd_rn(x[c][i * 2 + 1], 0.0f), a->wide);
    }
}

/* ---------------------------------------------------------------- what shares
 */

/* level[token, head]: grid (tiles of tokens, heads). Bound: tensor cores, a
 * third of the forward's. */
template <int D, int TERMS>
static __global__ void __launch_bounds__(128, 1)
    level_kernel(const back_args b) {
    typedef back_shape<D, TERMS> shape;
    DYN_SHARED(float, shared);
    const attn_args *a = &b.a;
    back_room<D, TERMS> room = lay_out<D, TERMS>(shared);
    int32_t number = (int32_t)blockIdx.x, head = (int32_t)blockIdx.y;
    int32_t s = search_numbered(a->offsets, a->n_seq, shape::ROWS, 1, number);
    int32_t begin = a->offsets[s], end = a->offsets[s + 1];
    int32_t at = (number - begin / shape::ROWS - s) * shape::ROWS;
    int32_t high = min(at + shape::ROWS, end - begin);
    if (at >= high) return;
    attn_rows rows;
    attn_norm norm = {{-INFINITY, -INFINITY}, {0, 0}};
    int r = at + own_row<D, TERMS>() + (int)threadIdx.x % 32 / 4;
    for (int i = 0; i < 2; i++) {
        rows.high[i] = r + i * 8;
        rows.low[i] = a->window > 0 ? r + i * 8 - a->window + 1 : 0;
    }
    bring<D, TERMS, shape::ROWS>(room.mine[0], a->q, a->q_stride, begin + at,
                                 begin, end, (int64_t)head * a->head_dim, a);
    int32_t base = a->window > 0 ? max(at - a->window + 1, 0) : 0;
    base = base / shape::BLOCK * shape::BLOCK;
    for (; base < high; base += shape::BLOCK) {
        float p[shape::BLOCK / 8][4], factor[2];
        bring<D, TERMS, shape::BLOCK>(
            room.other[0], a->k, a->k_stride, begin + base, begin, begin + high,
            (int64_t)(head / a->group) * a->head_dim, a);
        __syncthreads();
        multiply_rows<D, shape::BLOCK, TERMS>(p, room.mine[0], shape::ROWS * D,
                                              own_row<D, TERMS>(),
                                              room.other[0]);
        soften<shape::BLOCK, false>(p, &norm, factor, &rows, NULL, a, base);
        __syncthreads();
    }
    for (int i = 0; i < 2; i++) {
        float top, total, weight[2];
        start_norm(&top, &total, a, head);
        join_norm(&top, &total, norm.top[i], over_quad_sum(norm.total[i]),
                  weight);
        if (r + i * 8 < high && threadIdx.x % 4 == 0 &&
            own_col<D, TERMS>() == 0)
            b.level[(int64_t)(begin + r + i * 8) * a->n_heads + head] =
                top + log2f(total);
    }
}

/* dots[row, head] = dout . out: a warp each. Bound: device memory, dout. */
static __global__ void __launch_bounds__(128) dots_kernel(const back_args b) {
    int lane = (int)threadIdx.x % 32;
    int64_t number = (int64_t)blockIdx.x * 4 + (int)threadIdx.x / 32;
    int64_t row = number / b.a.n_heads, head = number % b.a.n_heads;
    if (row >= b.n_rows) return;
    const float *x = b.dout + row * b.dout_stride + head * b.a.head_dim;
    const float *y =
        b.a.out + b.cot_row[row] * b.a.out_stride + head * b.a.head_dim;
    float sum = 0;
    for (int i = lane; i < b.a.head_dim; i += 32)
        sum = __fmaf_rn(x[i], y[i], sum);
    for (int step = 16; step; step /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0) b.dots[number] = sum;
}

/* ------------------------------------------------------------------- tiles */

/* Tile `number` of all cotangents' rows, numbered as in attention.cu. */
static __device__ __forceinline__ bool
find_rows(back_tile *tile, const back_args *b, int32_t most, int32_t number) {
    int32_t c = search_numbered(b->cot_offsets, b->n_cot, most, 1, number);
    int32_t row = b->cot_offsets[c], n = b->cot_offsets[c + 1] - row;
    int32_t at = (number - row / most - c) * most;
    if (at >= n) return false;
    int32_t s =
        search_numbered(b->a.offsets, b->a.n_seq, 1, 0, b->cot_first[c]);
    tile->begin = b->a.offsets[s];
    tile->first = b->cot_first[c] - tile->begin;
    tile->end = tile->first + n;
    tile->position = tile->first + at;
    tile->n = min(most, n - at);
    tile->row0 = (int64_t)row - tile->first;
    return true;
}

/* Raw product to probability of (query, key), and the slope of its score. */
static __device__ __forceinline__ float
probability(float x, float level, bool seen, float *slope, const back_args *b) {
    const attn_args *a = &b->a;
    x = __fmul_rn(x, a->scale);
    *slope = b->slope;
    if (a->cap > 0) {
        x = tanhf(x);
        *slope = b->slope * (1.0f - x) * (1.0f + x);
        x = __fmul_rn(x, a->cap);
    }
    return seen ? exp2f(__fsub_rn(x, level)) : 0.0f;
}

static __device__ __forceinline__ bool sees(const attn_args *a, int32_t query,
                                            int32_t key) {
    return key <= query && (a->window <= 0 || key > query - a->window);
}

/* P of the tile's products in place of them, and dS = P (dP - dot) slope in
 * place of dP. TURNED: rows are keys from `row` on and columns queries from
 * `col` on, with their level and dot in shared memory; else the reverse, the
 * rows' level and dot given. */
template <int D, int TERMS, bool TURNED>
static __device__ __forceinline__ void
differentiate(float p[back_shape<D, TERMS>::BLOCK / 8][4],
              float ds[back_shape<D, TERMS>::BLOCK / 8][4], int32_t row,
              int32_t col, const back_tile *tile, const float *level,
              const float *dots, const back_args *b) {
    row += (int)threadIdx.x % 32 / 4;
#pragma unroll
    for (int n = 0; n < back_shape<D, TERMS>::BLOCK / 8; n++)
        for (int i = 0; i < 4; i++) {
            int c = n * 8 + (int)threadIdx.x % 4 * 2 + i % 2, r = i / 2;
            int32_t query = TURNED ? col + c : row + r * 8;
            int32_t key = TURNED ? row + r * 8 : col + c;
            bool seen = sees(&b->a, query, key) && query >= tile->first &&
                        query < tile->end;
            float slope, weight = probability(p[n][i], level[TURNED ? c : r],
                                              seen, &slope, b);
            p[n][i] = weight;
            ds[n][i] = weight * (ds[n][i] - dots[TURNED ? c : r]) * slope;
        }
}

/* ------------------------------------------------------------------ kernels */

/* dQ: grid (tiles of rows, heads). Bound: tensor cores, three products. */
template <int D, int TERMS>
static __global__ void __launch_bounds__(128, 1)
    query_kernel(const back_args b) {
    typedef back_shape<D, TERMS> shape;
    DYN_SHARED(float, shared);
    const attn_args *a = &b.a;
    back_room<D, TERMS> room = lay_out<D, TERMS>(shared);
    back_tile tile;
    if (!find_rows(&tile, &b, shape::ROWS, (int32_t)blockIdx.x)) return;
    int32_t head = (int32_t)blockIdx.y, last = tile.position + tile.n;
    int64_t col = (int64_t)head * a->head_dim;
    int64_t kv = (int64_t)(head / a->group) * a->head_dim;
    int64_t row = tile.row0 + tile.position;
    bring<D, TERMS, shape::ROWS>(room.mine[0], a->q, a->q_stride,
                                 tile.begin + tile.position, 0,
                                 tile.begin + last, col, a);
    bring<D, TERMS, shape::ROWS>(room.mine[1], b.dout, b.dout_stride, row, row,
                                 row + tile.n, col, a);
    float dq[shape::COLS / 8][4], level[2] = {0, 0}, dots[2] = {0, 0};
    clear<shape::COLS / 8>(dq);
    int mine = own_row<D, TERMS>(), r = mine + (int)threadIdx.x % 32 / 4;
    for (int i = 0; i < 2; i++)
        if (r + i * 8 < tile.n) {
            int64_t token = tile.begin + tile.position + r + i * 8;
            level[i] = b.level[token * a->n_heads + head];
            dots[i] = b.dots[(row + r + i * 8) * a->n_heads + head];
        }
    int32_t base = a->window > 0 ? max(tile.position - a->window + 1, 0) : 0;
    base = base / shape::BLOCK * shape::BLOCK;
    for (; base < last; base += shape::BLOCK) {
        float p[shape::BLOCK / 8][4], ds[shape::BLOCK / 8][4];
        bring<D, TERMS, shape::BLOCK>(room.other[0], a->k, a->k_stride,
                                      tile.begin + base, 0, tile.begin + last,
                                      kv, a);
        bring<D, TERMS, shape::BLOCK>(room.other[1], a->v, a->v_stride,
                                      tile.begin + base, 0, tile.begin + last,
                                      kv, a);
        __syncthreads();
        multiply_rows<D, shape::BLOCK, TERMS>(p, room.mine[0], shape::ROWS * D,
                                              mine, room.other[0]);
        multiply_rows<D, shape::BLOCK, TERMS>(ds, room.mine[1], shape::ROWS * D,
                                              mine, room.other[1]);
        differentiate<D, TERMS, false>(p, ds, tile.position + mine, base, &tile,
                                       level, dots, &b);
        multiply_keys<D, shape::BLOCK, TERMS, shape::COLS / 8>(
            dq, ds, room.other[0], own_col<D, TERMS>());
        __syncthreads();
    }
    give<D, TERMS>(b.dq, b.dq_stride, row, tile.n, col, dq, a);
}

/* dK and dV: grid (tiles of rows, kv heads), heads of the group in order.
 * Bound: tensor cores, four products. */
template <int D, int TERMS>
static __global__ void __launch_bounds__(128, 1) key_kernel(const back_args b) {
    typedef back_shape<D, TERMS> shape;
    DYN_SHARED(float, shared);
    const attn_args *a = &b.a;
    back_room<D, TERMS> room = lay_out<D, TERMS>(shared);
    back_tile tile;
    if (!find_rows(&tile, &b, shape::ROWS, (int32_t)blockIdx.x)) return;
    int32_t last = tile.position + tile.n, end = tile.end;
    if (a->window > 0) end = min(end, last - 1 + a->window);
    int64_t kv = (int64_t)blockIdx.y * a->head_dim;
    bring<D, TERMS, shape::ROWS>(room.mine[0], a->k, a->k_stride,
                                 tile.begin + tile.position, 0,
                                 tile.begin + last, kv, a);
    bring<D, TERMS, shape::ROWS>(room.mine[1], a->v, a->v_stride,
                                 tile.begin + tile.position, 0,
                                 tile.begin + last, kv, a);
    float dk[shape::COLS / 8][4], dv[shape::COLS / 8][4];
    clear<shape::COLS / 8>(dk);
    clear<shape::COLS / 8>(dv);
    int mine = own_row<D, TERMS>(), turn = (int)threadIdx.x;
    int32_t first = tile.position / shape::BLOCK * shape::BLOCK;
    for (int32_t h = 0; h < a->group; h++)
        for (int32_t base = first; base < end; base += shape::BLOCK) {
            float p[shape::BLOCK / 8][4], ds[shape::BLOCK / 8][4];
            int64_t head = (int64_t)blockIdx.y * a->group + h;
            bring<D, TERMS, shape::BLOCK>(
                room.other[0], a->q, a->q_stride, tile.begin + base,
                tile.begin + tile.first, tile.begin + end, head * a->head_dim,
                a);
            bring<D, TERMS, shape::BLOCK>(
                room.other[1], b.dout, b.dout_stride, tile.row0 + base,
                tile.row0 + tile.first, tile.row0 + end, head * a->head_dim, a);
            if (turn < shape::BLOCK) {
                bool in = base + turn >= tile.first && base + turn < end;
                int64_t token = tile.begin + base + turn;
                int64_t row = tile.row0 + base + turn;
                room.level[turn] =
                    in ? b.level[token * a->n_heads + head] : 0.0f;
                room.dots[turn] = in ? b.dots[row * a->n_heads + head] : 0.0f;
            }
            __syncthreads();
            multiply_rows<D, shape::BLOCK, TERMS>(
                p, room.mine[0], shape::ROWS * D, mine, room.other[0]);
            multiply_rows<D, shape::BLOCK, TERMS>(
                ds, room.mine[1], shape::ROWS * D, mine, room.other[1]);
            differentiate<D, TERMS, true>(p, ds, tile.position + mine, base,
                                          &tile, room.level, room.dots, &b);
            multiply_keys<D, shape::BLOCK, TERMS, shape::COLS / 8>(
                dv, p, room.other[1], own_col<D, TERMS>());
            multiply_keys<D, shape::BLOCK, TERMS, shape::COLS / 8>(
                dk, ds, room.other[0], own_col<D, TERMS>());
            __syncthreads();
        }
    int64_t row = tile.row0 + tile.position;
    give<D, TERMS>(b.dk, b.dk_stride, row, tile.n, kv, dk, a);
    give<D, TERMS>(b.dv, b.dv_stride, row, tile.n, kv, dv, a);
}

/* ---------------------------------------------------------------- launchers */

template <int D, int TERMS>
static ks_status launch_one(ks_dev *dev, void (*kernel)(back_args),
                            const back_args *b, int64_t blocks, int32_t heads,
                            ks_err *err) {
    typedef back_shape<D, TERMS> shape;
    KS_CUDA_TRY(
        cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape::SHARED),
        "attention backward");
    return ks__cuda_status(
        launch(kernel, dim3((unsigned)blocks, (unsigned)heads), shape::THREADS,
               shape::SHARED, dev->stream, *b),
        "attention backward", err);
}

template <int D, int TERMS>
static ks_status launch_all(ks_dev *dev, const back_args *b, ks_err *err) {
    const int ROWS = back_shape<D, TERMS>::ROWS;
    const attn_args *a = &b->a;
    int64_t tokens = a->n_tok / ROWS + a->n_seq;
    int64_t tiles = b->n_rows / ROWS + b->n_cot;
    int64_t dots = ks__ceil_div((int64_t)b->n_rows * a->n_heads, 4);
    ks_status st = launch_one<D, TERMS>(dev, level_kernel<D, TERMS>, b, tokens,
                                        a->n_heads, err);
    if (!st)
        st = ks__cuda_status(
            launch(dots_kernel, (unsigned)dots, 128, 0, dev->stream, *b),
            "attention backward", err);
    if (!st)
        st = launch_one<D, TERMS>(dev, query_kernel<D, TERMS>, b, tiles,
                                  a->n_heads, err);
    if (!st)
        st = launch_one<D, TERMS>(dev, key_kernel<D, TERMS>, b, tiles, a->n_kv,
                                  err);
    return st;
}

template <int D>
static ks_status launch_terms(ks_dev *dev, const back_args *b, ks_err *err) {
    return dev->precise ? launch_all<D, 2>(dev, b, err)
                        : launch_all<D, 1>(dev, b, err);
}

static ks_status launch_dims(ks_dev *dev, const back_args *b, ks_err *err) {
    if (b->a.head_dim <= 64) return launch_terms<64>(dev, b, err);
    if (b->a.head_dim <= 96) return launch_terms<96>(dev, b, err);
    if (b->a.head_dim <= 128) return launch_terms<128>(dev, b, err);
    return launch_terms<256>(dev, b, err);
}

ks_status ks__cuda_attention_backward(ks_dev *dev, ks_view dq, ks_view dk,
                                      ks_view dv, ks_view dout, ks_view out,
                                      ks_view q, ks_view k, ks_view v,
                                      const ks_attn_spec *spec,
                                      const ks_seqs *seqs, const ks_cots *cots,
                                      ks_err *err) {
    int32_t n = seqs->n_tok, r = cots->n_rows, d = spec->head_dim;
    int32_t heads = spec->n_heads, groups = spec->n_kv_heads;
    ks_status st = attn_check_spec(spec, err);
    if (!st) st = attn_check_view("dq", dq, r, heads, d, err);
    if (!st) st = attn_check_view("dk", dk, r, groups, d, err);
    if (!st) st = attn_check_view("dv", dv, r, groups, d, err);
    if (!st) st = attn_check_view("dout", dout, r, heads, d, err);
    if (!st) st = attn_check_view("out", out, n, heads, d, err);
    if (!st) st = attn_check_view("q", q, n, heads, d, err);
    if (!st) st = attn_check_view("k", k, n, groups, d, err);
    if (!st) st = attn_check_view("v", v, n, groups, d, err);
    if (st || r == 0) return st;
    if (seqs->past || seqs->hidden)
        return ks_fail(err, KS_INTERNAL,
                       "attention backward: %d sequences with %s",
                       (int)seqs->n_seq, seqs->past ? "a past" : "hidden keys");
    back_args b = {};
    b.a = attn_arguments(out, q, k, v, spec, seqs, NULL);
    b.dout = (const float *)dout.data, b.dout_stride = dout.stride;
    b.dq = (float *)dq.data, b.dq_stride = dq.stride;
    b.dk = (float *)dk.data, b.dk_stride = dk.stride;
    b.dv = (float *)dv.data, b.dv_stride = dv.stride;
    b.a.wide = b.a.wide && attn_by_16(dout.data, dout.stride) &&
               attn_by_16(dq.data, dq.stride) &&
               attn_by_16(dk.data, dk.stride) && attn_by_16(dv.data, dv.stride);
    b.cot_offsets = cots->offsets, b.cot_first = cots->first;
    b.cot_row = cots->row, b.n_cot = cots->n_cot, b.n_rows = r;
    b.slope = spec->scale;
    size_t levels = (size_t)n * (size_t)heads, dots = (size_t)r * (size_t)heads;
    void *scratch;
    st = ks__cuda_take(dev, &scratch, (levels + dots) * sizeof(float),
                       "attention backward: levels and dots", err);
    if (st) return st;
    b.level = (float *)scratch, b.dots = b.level + levels;
    st = launch_dims(dev, &b, err);
    ks__cuda_give(dev, scratch);
    return st;
}
