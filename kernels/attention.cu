/* attention.cu - causal attention over packed sequences and the paged store.
 *
 * A row is (token, query head). The rows of one kv head's tile share every key
 * that is read: neighbouring tokens of a sequence, the heads of the group, and,
 * for stored keys, forks with the same pages.
 *
 * One chain of operations for every row. Keys lie in chunks of CHUNK at
 * absolute positions, a chunk in blocks at absolute positions. In a chunk the
 * row runs the online softmax (Milakov and Gimelshein 2018; Dao 2023) from an
 * empty state; chunks are joined in ascending order by their maxima. A block or
 * chunk that a row does not see leaves its state as it is (factor 1, sum + 0).
 * Two forms run this chain, with the same bits: one block walks all chunks of
 * its rows (prompts), or a block a chunk and a second kernel that joins them
 * (few new tokens a sequence: more blocks than rows). So a row's bits depend on
 * its query, keys and position only: not on the form, its companions, or what
 * of its prefix was stored. Roundings that a compiler may fuse are written as
 * intrinsics.
 *
 * HIDE: rows have a hidden range (ks_seqs.hidden), and blocks that lie in those
 * of all a tile's rows are passed over. A flag of the template, not a question
 * at run time: attention_kernel<128, 1, 8> has no register to ask with. */
#include "attention_tile.cuh"
#include "cuda_ops.h"

/* New tokens a sequence, on average, up to which the second form is taken. */
enum { FEW = 4 };

/* What D and TERMS decide. KEYS, of a block, are part of a row's chain: as many
 * as registers allow, and as 98816 bytes of shared memory do, 99848 with hidden
 * keys; every device from sm_80 on has 101376. A warp has 16 rows; where many
 * dims and terms are, SHARE warps make the scores of 16 rows each for itself
 * and part the columns of the result, since a warp's registers hold the sums of
 * a chunk and those of the chunks before. */
template <int D, int TERMS, int WARPS, bool HIDE> struct attn_shape {
    static const int KEYS = TERMS == 1 ? (D > 128 ? 32 : 64)
                                       : (D > 128  ? 16
                                          : D > 64 ? 32
                                                   : 64);
    static const int SHARE = D * TERMS < 256 ? 1 : D * TERMS / 128;
    static const int ROWS = WARPS * 16 / SHARE;
    static const int THREADS = WARPS * 32;
    static const int COLS = D / SHARE; /* of the result, a warp's */
    static const int SHARED =
        KEYS * D * 4 + (ROWS + 2 * KEYS) * D * TERMS * (int)sizeof(bf16) +
        ROWS * (int)sizeof(int) + (HIDE ? (1 + ROWS) * (int)sizeof(int2) : 0);
};

/* Shared memory of a block. */
template <int D, int TERMS, int WARPS, bool HIDE> struct attn_room {
    float *stage;                /* [KEYS][D] */
    bf16 *queries, *key, *value; /* [TERMS][ROWS][D], [TERMS][KEYS][D] */
    int *joined;                 /* [ROWS] */
    int2 *hidden; /* HIDE: [1 + ROWS] keys hidden from all rows, from each */
};

/* ------------------------------------------------------------ rows, queries */

/* The warp's 16 rows begin at; SHARE warps share them. */
template <int SHARE> static __device__ __forceinline__ int warp_row(void) {
    return (int)threadIdx.x / 32 / SHARE * 16;
}

/* The columns of the result that are the warp's begin at. */
template <int SHARE, int COLS>
static __device__ __forceinline__ int warp_col(void) {
    return (int)threadIdx.x / 32 % SHARE * COLS;
}

/* Place of row i of the thread's two. */
template <int SHARE>
static __device__ __forceinline__ int2 thread_row(const attn_tile *tile,
                                                  int i) {
    int r = opaque((int)threadIdx.x) % 32 / 4 + i * 8;
    return row_place(tile, warp_row<SHARE>() + r);
}

template <int SHARE>
static __device__ __forceinline__ void
place_rows(attn_rows *rows, const attn_args *a, const attn_tile *tile) {
    for (int i = 0; i < 2; i++) {
        int32_t token = thread_row<SHARE>(tile, i).x;
        int2 seen = make_int2(0, -1);
        if (token >= 0) seen = keys_seen(a, tile->seq, token);
        rows->low[i] = seen.x;
        rows->high[i] = seen.y;
    }
}

/* The rows' queries as operands [TERMS][ROWS][D]. */
template <int D, int TERMS, int WARPS, bool HIDE>
static __device__ __forceinline__ void
load_queries(bf16 *queries, const attn_args *a, const attn_tile *tile) {
    typedef attn_shape<D, TERMS, WARPS, HIDE> shape;
#pragma unroll 1
    for (int i = 0; i < shape::ROWS * D / 4 / shape::THREADS; i++) {
        int piece = i * shape::THREADS + (int)threadIdx.x;
        int row = piece / (D / 4), col = piece % (D / 4) * 4;
        int2 at = row_place(tile, row);
        const float *q =
            a->q + at.x * a->q_stride + (int64_t)at.y * a->head_dim + col;
        put_operand<D, TERMS>(
            queries, shape::ROWS * D, row, col,
            load_four(q, at.x >= 0 ? a->head_dim - col : 0, a->wide));
    }
}

/* ---------------------------------------------------------------- the chain */

/* + 0: no negative zero, which masked keys may or may not leave behind. */
static __device__ __forceinline__ float share(float sum, float rate) {
    return __fadd_rn(__fmul_rn(sum, rate), 0.0f);
}

/* -------------------------------------------------------- the walk over keys
 */

/* Leaves the operands of the first block's keys, its values on their way. */
template <int D, int TERMS, int WARPS, bool HIDE>
static __device__ __forceinline__ void
start_walk(const attn_room<D, TERMS, WARPS, HIDE> *room, const attn_args *a,
           const attn_tile *tile, const attn_source *from) {
    typedef attn_shape<D, TERMS, WARPS, HIDE> shape;
    const int KEYS = shape::KEYS, THREADS = shape::THREADS;
    int32_t base = first_block<KEYS, HIDE>(room->hidden, tile);
    fetch_keys<D, KEYS, THREADS>(room->stage, a, from, false, base, tile->low,
                                 tile->high);
    load_queries<D, TERMS, WARPS, HIDE>(room->queries, a, tile);
    convert_keys<D, KEYS, THREADS, TERMS>(room->key, room->stage);
    fetch_keys<D, KEYS, THREADS>(room->stage, a, from, true, base, tile->low,
                                 tile->high);
    __syncthreads();
}

/* Does any of the warp's rows see a key of base .. base + KEYS? */
template <int KEYS>
static __device__ __forceinline__ bool any_sees(const attn_rows *rows,
                                                int32_t base) {
    bool sees = false;
    for (int i = 0; i < 2; i++)
        sees = sees || (rows->high[i] >= base && rows->low[i] < base + KEYS);
    return __any_sync(0xffffffffu, sees);
}

/* One block of keys: norm and o [16, COLS] go on. Two phases, scores and
 * values, each of which also brings the operands of the next; behind the last
 * block these are zeros. */
template <int D, int TERMS, int WARPS, bool HIDE>
static __device__ __forceinline__ void
walk_block(const attn_room<D, TERMS, WARPS, HIDE> *room, const attn_args *a,
           const attn_tile *tile, const attn_source *from,
           const attn_rows *rows, int32_t base, attn_norm *norm,
           float o[attn_shape<D, TERMS, WARPS, HIDE>::COLS / 8][4]) {
    typedef attn_shape<D, TERMS, WARPS, HIDE> shape;
    const int KEYS = shape::KEYS, THREADS = shape::THREADS, COLS = shape::COLS;
    bool sees = any_sees<KEYS>(rows, base);
    float s[KEYS / 8][4], factor[2];
    if (sees)
        multiply_rows<D, KEYS, TERMS>(s, room->queries, shape::ROWS * D,
                                      warp_row<shape::SHARE>(), room->key);
    convert_keys<D, KEYS, THREADS, TERMS>(room->value, room->stage);
    fetch_keys<D, KEYS, THREADS>(
        room->stage, a, from, false,
        open_block<KEYS, HIDE>(room->hidden, base + KEYS), tile->low,
        tile->high);
    __syncthreads();
    if (sees) {
        soften<KEYS, HIDE>(s, norm, factor, rows,
                           room->hidden + 1 + warp_row<shape::SHARE>() +
                               (int)threadIdx.x % 32 / 4,
                           a, base);
#pragma unroll
        for (int n = 0; n < COLS / 8; n++)
            for (int i = 0; i < 4; i++)
                o[n][i] = __fmul_rn(o[n][i], factor[i / 2]);
        multiply_keys<D, KEYS, TERMS, COLS / 8>(o, s, room->value,
                                                warp_col<shape::SHARE, COLS>());
    }
    convert_keys<D, KEYS, THREADS, TERMS>(room->key, room->stage);
    fetch_keys<D, KEYS, THREADS>(
        room->stage, a, from, true,
        open_block<KEYS, HIDE>(room->hidden, base + KEYS), tile->low,
        tile->high);
    __syncthreads();
}

/* The blocks of [base, end), within one chunk: from an empty state. Returns the
 * block behind them. */
template <int D, int TERMS, int WARPS, bool HIDE>
static __device__ __forceinline__ int32_t
walk_chunk(const attn_room<D, TERMS, WARPS, HIDE> *room, const attn_args *a,
           const attn_tile *tile, const attn_source *from,
           const attn_rows *rows, int32_t base, int32_t end, attn_norm *norm,
           float o[attn_shape<D, TERMS, WARPS, HIDE>::COLS / 8][4]) {
    typedef attn_shape<D, TERMS, WARPS, HIDE> shape;
    clear<shape::COLS / 8>(o);
    for (int i = 0; i < 2; i++) norm->top[i] = -INFINITY, norm->total[i] = 0;
    for (; base < end;
         base = open_block<shape::KEYS, HIDE>(room->hidden, base + shape::KEYS))
        walk_block(room, a, tile, from, rows, base, norm, o);
    for (int i = 0; i < 2; i++) norm->total[i] = over_quad_sum(norm->total[i]);
    return base;
}

/* ------------------------------------------------------------------ results */

/* Row i of a thread's two, all columns of its warp, times `rate`: the result,
 * or with rate 1 a partial sum. */
template <int N>
static __device__ __forceinline__ void
store_row(float *row, const float o[N][4], int i, int col, float rate,
          const attn_args *a) {
    col += (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < N; n++)
        store_two(row + col + n * 8, a->head_dim - col - n * 8,
                  share(o[n][i * 2], rate), share(o[n][i * 2 + 1], rate),
                  a->wide);
}

static __device__ __forceinline__ float *out_row(const attn_args *a,
                                                 int32_t token, int32_t head) {
    return a->out + token * a->out_stride + (int64_t)head * a->head_dim;
}

/* Number of (token, head, chunk) in the scratch of partial results. */
static __device__ __forceinline__ int64_t part_at(const attn_args *a,
                                                  int32_t token, int32_t head,
                                                  int32_t chunk) {
    return ((int64_t)token * a->n_heads + head) * a->chunks + chunk;
}

/* One chunk of the tile, into scratch. */
template <int D, int TERMS, int WARPS, bool HIDE>
static __device__ __forceinline__ void
run_part(const attn_room<D, TERMS, WARPS, HIDE> *room, const attn_args *a,
         const attn_tile *tile, const attn_rows *rows) {
    typedef attn_shape<D, TERMS, WARPS, HIDE> shape;
    const int N = shape::COLS / 8;
    attn_source from = source_of(a, tile->seq, tile->kv);
    attn_norm norm;
    float o[N][4];
    if (HIDE) place_hidden<shape::ROWS>(room->hidden, a, tile);
    start_walk(room, a, tile, &from);
    walk_chunk(room, a, tile, &from, rows,
               first_block<shape::KEYS, HIDE>(room->hidden, tile),
               tile->high + 1, &norm, o);
    int col = warp_col<shape::SHARE, shape::COLS>();
    for (int i = 0; i < 2; i++) {
        int2 row = thread_row<shape::SHARE>(tile, i);
        if (row.x < 0) continue;
        int64_t at = part_at(a, row.x, row.y, tile->low / CHUNK);
        store_row<N>(a->part_sum + at * a->head_dim, o, i, col, 1, a);
        if (threadIdx.x % 4 || col) continue;
        a->part_norm[at * 2] = norm.top[i];
        a->part_norm[at * 2 + 1] = norm.total[i];
    }
    cp_async_wait<0>(); /* of the fetch beyond the end: the stage is reused */
}

/* ------------------------------------------------------------------ kernels */

template <int D, int TERMS, int WARPS, bool HIDE>
static __device__ __forceinline__ attn_room<D, TERMS, WARPS, HIDE>
lay_out(void *shared) {
    typedef attn_shape<D, TERMS, WARPS, HIDE> shape;
    attn_room<D, TERMS, WARPS, HIDE> room;
    room.stage = (float *)shared;
    room.queries = (bf16 *)(room.stage + shape::KEYS * D);
    room.key = room.queries + TERMS * shape::ROWS * D;
    room.value = room.key + TERMS * shape::KEYS * D;
    room.joined = (int *)(room.value + TERMS * shape::KEYS * D);
    room.hidden = (int2 *)(room.joined + shape::ROWS);
    return room;
}

/* The block's tile of the first form. */
static __device__ __forceinline__ bool find_block(attn_tile *tile,
                                                  const attn_args *a) {
    int32_t number = (int32_t)(gridDim.x - 1 - blockIdx.x);
    if (!find_tile(tile, a, opaque(number))) return false;
    place_heads(tile, a, opaque((int)blockIdx.y));
    return true;
}

/* Prompts: grid (tiles, kv heads), the tiles with most keys first. Bound on an
 * H100 (computed): tensor cores with two terms; with one, keys and values in
 * f32 from L2 (8 bytes an element for 512 FLOPs at 128 rows) take about as
 * long. Chunks are joined in registers; the tile is looked up again at the
 * end, for the walk leaves none to keep it. */
template <int D, int TERMS, int WARPS, bool HIDE>
static __global__ void __launch_bounds__(WARPS * 32, 1)
    attention_kernel(const attn_args a) {
    typedef attn_shape<D, TERMS, WARPS, HIDE> shape;
    const int N = shape::COLS / 8;
    DYN_SHARED(float, shared);
    attn_room<D, TERMS, WARPS, HIDE> room =
        lay_out<D, TERMS, WARPS, HIDE>(shared);
    attn_tile tile;
    attn_rows rows;
    attn_norm norm, all;
    float o[N][4], sum[N][4], weight[2][2];
    if (!find_block(&tile, &a)) return;
    place_rows<shape::SHARE>(&rows, &a, &tile);
    if (HIDE) place_hidden<shape::ROWS>(room.hidden, &a, &tile);
    attn_source from = source_of(&a, tile.seq, tile.kv);
    start_walk(&room, &a, &tile, &from);
    clear<N>(sum);
    for (int i = 0; i < 2; i++)
        start_norm(&all.top[i], &all.total[i], &a,
                   thread_row<shape::SHARE>(&tile, i).y);
    int32_t base = first_block<shape::KEYS, HIDE>(room.hidden, &tile);
    while (base <= tile.high) {
        int32_t end = base / CHUNK * CHUNK + CHUNK;
        int32_t next = walk_chunk(&room, &a, &tile, &from, &rows, base,
                                  min(end, tile.high + 1), &norm, o);
        for (int i = 0; i < 2; i++)
            join_norm(&all.top[i], &all.total[i], norm.top[i], norm.total[i],
                      weight[i]);
#pragma unroll
        for (int n = 0; n < N; n++)
            for (int i = 0; i < 4; i++)
                sum[n][i] = join_sum(sum[n][i], o[n][i], weight[i / 2]);
        base = HIDE ? next : end;
    }
    find_block(&tile, &a);
    for (int i = 0; i < 2; i++) {
        int2 at = thread_row<shape::SHARE>(&tile, i);
        if (at.x >= 0)
            store_row<N>(out_row(&a, at.x, at.y), sum, i,
                         warp_col<shape::SHARE, shape::COLS>(),
                         __fdividef(1.0f, all.total[i]), &a);
    }
}

/* Few new tokens a sequence: grid (chunks x sequences, kv heads); a block's
 * keys serve every sequence of its group. Bound: device memory, the stored keys
 * and values of each group once (a group of more rows than a tile reads them
 * again, from L2). */
template <int D, int TERMS, int WARPS, bool HIDE>
static __global__ void __launch_bounds__(WARPS * 32, 1)
    attention_part_kernel(const attn_args a) {
    typedef attn_shape<D, TERMS, WARPS, HIDE> shape;
    DYN_SHARED(float, shared);
    attn_tile tile;
    attn_rows rows;
    attn_room<D, TERMS, WARPS, HIDE> room =
        lay_out<D, TERMS, WARPS, HIDE>(shared);
    int32_t s = (int32_t)blockIdx.x % a.n_seq;
    if (!find_group(&tile, &a, s, (int32_t)blockIdx.x / a.n_seq, room.joined))
        return;
    place_heads(&tile, &a, (int)blockIdx.y);
    int32_t end = tile.first + tile.n;
    for (; tile.first < end; tile.first += a.step) {
        tile.n = min(a.step, end - tile.first);
        place_rows<shape::SHARE>(&rows, &a, &tile);
        run_part(&room, &a, &tile, &rows);
    }
}

/* Joins the chunks of a row: a warp a (token, head), lanes along dims. Bound:
 * device memory, what the part kernel wrote. */
enum { JOIN_WARPS = 4, JOIN_COLS = 256 / 32 };
static __global__ void __launch_bounds__(JOIN_WARPS * 32)
    attention_join_kernel(const attn_args a) {
    int lane = (int)threadIdx.x % 32;
    int64_t number = (int64_t)blockIdx.x * JOIN_WARPS + (int)threadIdx.x / 32;
    if (number >= (int64_t)a.n_tok * a.n_heads) return;
    int32_t token = (int32_t)(number / a.n_heads);
    int32_t head = (int32_t)(number % a.n_heads);
    int32_t s = search_numbered(a.offsets, a.n_seq, 1, 0, token);
    int2 seen = keys_seen(&a, s, token);
    float top, total, weight[2], sum[JOIN_COLS] = {};
    start_norm(&top, &total, &a, head);
    for (int32_t c = seen.x / CHUNK; c <= seen.y / CHUNK; c++) {
        int64_t at = part_at(&a, token, head, c);
        const float *part = a.part_sum + at * a.head_dim;
        join_norm(&top, &total, a.part_norm[at * 2], a.part_norm[at * 2 + 1],
                  weight);
#pragma unroll
        for (int i = 0; i < JOIN_COLS; i++)
            if (i * 32 + lane < a.head_dim)
                sum[i] = join_sum(sum[i], part[i * 32 + lane], weight);
    }
    float *out = out_row(&a, token, head);
#pragma unroll
    for (int i = 0; i < JOIN_COLS; i++)
        if (i * 32 + lane < a.head_dim)
            out[i * 32 + lane] = share(sum[i], __fdividef(1.0f, total));
}

/* ---------------------------------------------------------------- launchers */

/* The form's grid, over `blocks` tiles or groups, with all the room it needs.
 */
template <int D, int TERMS, int WARPS, bool HIDE>
static ks_status launch_tiles(ks_dev *dev, void (*kernel)(attn_args),
                              attn_args *a, ks_err *err) {
    typedef attn_shape<D, TERMS, WARPS, HIDE> shape;
    a->heads = min(a->group, shape::ROWS);
    a->step = shape::ROWS / a->heads;
    a->parts = (int32_t)ks__ceil_div(a->group, a->heads);
    int64_t blocks = a->part_sum ? (int64_t)a->chunks * a->n_seq
                                 : a->n_tok / a->step + a->n_seq;
    KS_CUDA_TRY(
        cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape::SHARED),
        "attention");
    return ks__cuda_status(
        launch(kernel, dim3((unsigned)blocks, (unsigned)(a->n_kv * a->parts)),
               shape::THREADS, shape::SHARED, dev->stream, *a),
        "attention", err);
}

template <int D, int TERMS, bool HIDE>
static ks_status launch_form(ks_dev *dev, attn_args *a, ks_err *err) {
    const int MANY = TERMS == 1 ? 8 : 4;
    if (!a->part_sum)
        return launch_tiles<D, TERMS, MANY, HIDE>(
            dev, attention_kernel<D, TERMS, MANY, HIDE>, a, err);
    ks_status st = launch_tiles<D, TERMS, 4, HIDE>(
        dev, attention_part_kernel<D, TERMS, 4, HIDE>, a, err);
    if (st) return st;
    int64_t rows = (int64_t)a->n_tok * a->n_heads;
    return ks__cuda_status(launch(attention_join_kernel,
                                  (unsigned)ks__ceil_div(rows, JOIN_WARPS),
                                  JOIN_WARPS * 32, 0, dev->stream, *a),
                           "attention", err);
}

template <int D, int TERMS>
static ks_status launch_hidden(ks_dev *dev, attn_args *a, ks_err *err) {
    return a->hidden ? launch_form<D, TERMS, true>(dev, a, err)
                     : launch_form<D, TERMS, false>(dev, a, err);
}

template <int D>
static ks_status launch_terms(ks_dev *dev, attn_args *a, ks_err *err) {
    return dev->precise ? launch_hidden<D, 2>(dev, a, err)
                        : launch_hidden<D, 1>(dev, a, err);
}

static ks_status launch_dims(ks_dev *dev, attn_args *a, ks_err *err) {
    if (a->head_dim <= 64) return launch_terms<64>(dev, a, err);
    if (a->head_dim <= 96) return launch_terms<96>(dev, a, err);
    if (a->head_dim <= 128) return launch_terms<128>(dev, a, err);
    return launch_terms<256>(dev, a, err);
}

ks_status ks__cuda_attention(ks_dev *dev, ks_view out, ks_view q, ks_view k,
                             ks_view v, const ks_attn_spec *spec,
                             const ks_seqs *seqs, const ks_kv_layer *kv,
                             ks_err *err) {
    int32_t n = seqs->n_tok, d = spec->head_dim;
    int64_t positions = n;
    ks_status st = attn_check_spec(spec, err);
    if (!st) st = attn_check_view("out", out, n, spec->n_heads, d, err);
    if (!st) st = attn_check_view("q", q, n, spec->n_heads, d, err);
    if (!st) st = attn_check_view("k", k, n, spec->n_kv_heads, d, err);
    if (!st) st = attn_check_view("v", v, n, spec->n_kv_heads, d, err);
    if (st || n == 0) return st;
    if (seqs->past && !(kv && seqs->pages))
        return ks_fail(err, KS_INTERNAL,
                       "attention: %d sequences with a past and no store",
                       (int)seqs->n_seq);
    if (seqs->past) positions += (int64_t)seqs->max_pages * KS_PAGE;
    attn_args a = attn_arguments(out, q, k, v, spec, seqs, kv);
    a.chunks = (int32_t)ks__ceil_div(positions, CHUNK);
    if (a.chunks == 1 || n > FEW * seqs->n_seq)
        return launch_dims(dev, &a, err);
    size_t parts = (size_t)n * (size_t)a.n_heads * (size_t)a.chunks;
    void *scratch;
    st = ks__cuda_take(dev, &scratch, parts * (size_t)(d + 2) * sizeof(float),
                       "attention: partial sums", err);
    if (st) return st;
    a.part_sum = (float *)scratch;
    a.part_norm = a.part_sum + parts * (size_t)d;
    st = launch_dims(dev, &a, err);
    ks__cuda_give(dev, scratch);
    return st;
}
