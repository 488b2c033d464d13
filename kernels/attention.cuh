/* attention.cuh - what the attention kernels share: tiles of f32 rows brought
 * into shared memory as bf16 operands, and products of such tiles.
 *
 * Operands. With TERMS 1 a number is its nearest bf16; with TERMS 2 it is
 * hi + lo, both bf16 (16 bits of mantissa), and a product is lo hi + hi lo +
 * hi hi, added in that order. All sums are f32 chains along k in steps of 16.
 *
 * Staging. Rows are f32 in global memory. A thread copies its own 16-byte
 * pieces into a staging buffer by cp.async, and a phase later the same thread
 * turns them into operands: no barrier lies between the two, the copy of a tile
 * overlaps the products of the tile before, and one barrier a phase publishes
 * operands and frees those read. Pieces are numbered along rows, so a warp's
 * copies are whole rows and its accesses to the stage are consecutive.
 *
 * Banks. Operand tiles have no padding; the 16-byte granules of a row are
 * permuted by its number (swizzled). ldmatrix then finds the 8 rows of a matrix
 * in 8 different granules of 128 bytes, and the 8-byte stores of half a warp
 * fill 128 bytes once. */
#ifndef KS_ATTENTION_CUH
#define KS_ATTENTION_CUH

#include "cuda.cuh"

#define LOG2_E 1.4426950408889634f

/* Everything that an attention kernel reads, by value. */
typedef struct attn_args {
    const float *q, *k, *v;
    float *out;
    int64_t q_stride, k_stride, v_stride, out_stride;
    const float *store_k, *store_v;
    const int32_t *offsets, *past, *pages;
    int32_t n_seq, n_tok, max_pages;
    int32_t n_heads, n_kv, head_dim;
    int32_t group;              /* query heads of a kv head */
    int32_t heads, parts, step; /* a tile: heads of it, tokens; parts a group */
    int32_t chunks;             /* more than any position needs */
    int32_t window;
    float scale; /* of q.k: to exp2's argument, or to tanh's */
    float cap;   /* 0, or softcap to exp2's argument */
    const float *sinks;
    float *part_sum;  /* [n_tok, n_heads, chunks, head_dim] */
    float *part_norm; /* [n_tok, n_heads, chunks, 2]: maximum, sum of exp2 */
    bool wide;        /* rows may be read and written 16 bytes at a time */
    const int32_t *hidden; /* [n_seq, 2] or NULL; attention.cu alone asks */
} attn_args;

/* Whose keys: a sequence and a kv head. Few numbers, since they stay in
 * registers over a walk; the rest comes from attn_args, constant memory. */
typedef struct attn_source {
    int32_t seq, kv;
    int32_t past;  /* keys before it lie in the store */
    int32_t first; /* token of the batch at position `past` */
} attn_source;

static __device__ __forceinline__ attn_source source_of(const attn_args *a,
                                                        int32_t seq,
                                                        int32_t kv) {
    attn_source from = {seq, kv, ks__past(a->past, seq), a->offsets[seq]};
    return from;
}

/* The dims of the key, or of the value, at a position. */
static __device__ __forceinline__ const float *key_row(const attn_args *a,
                                                       const attn_source *from,
                                                       bool value,
                                                       int32_t position) {
    int64_t head = (int64_t)opaque(from->kv) * a->head_dim;
    if (position >= from->past) {
        int64_t row = from->first + (position - from->past);
        return value ? a->v + row * a->v_stride + head
                     : a->k + row * a->k_stride + head;
    }
    const int32_t *pages = a->pages + (int64_t)from->seq * a->max_pages;
    int64_t row =
        (int64_t)pages[position / KS_PAGE] * KS_PAGE + position % KS_PAGE;
    return (value ? a->store_v : a->store_k) + row * a->n_kv * a->head_dim +
           head;
}

/* Element (row, col) of an operand tile [.., D]. A row of D = 64 n is n whole
 * lines of 8 granules: XOR by row % 8. D = 96 has 12 granules, rows start at
 * alternate halves of a line: XOR by row / 2 % 4 within fours. */
template <int D>
static __device__ __forceinline__ int operand_at(int row, int col) {
    int key = D % 64 == 0 ? row % 8 : row / 2 % 4;
    return row * D + ((col / 8 ^ key) * 8 + col % 8);
}

static __device__ __forceinline__ uint32_t pack_pair(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

/* Two numbers as pairs of terms: terms[0] the high ones, terms[1] the rest. */
template <int TERMS>
static __device__ __forceinline__ void split_pair(uint32_t terms[TERMS],
                                                  float low, float high) {
    terms[0] = pack_pair(low, high);
    if (TERMS == 2)
        terms[TERMS - 1] =
            pack_pair(__fsub_rn(low, __uint_as_float(terms[0] << 16)),
                      __fsub_rn(high, __uint_as_float(terms[0] & 0xffff0000u)));
}

/* Four numbers into an operand tile and its term of the rest, `apart` elements
 * behind it. */
template <int D, int TERMS>
static __device__ __forceinline__ void put_operand(bf16 *tile, int apart,
                                                   int row, int col, float4 x) {
    uint32_t a[TERMS], b[TERMS];
    split_pair<TERMS>(a, x.x, x.y);
    split_pair<TERMS>(b, x.z, x.w);
    for (int term = 0; term < TERMS; term++)
        *(uint2 *)(tile + term * apart + operand_at<D>(row, col)) =
            make_uint2(a[term], b[term]);
}

/* The first n of four f32, zeros for the others; wide: all or none. */
static __device__ __forceinline__ float4 load_four(const float *from, int n,
                                                   bool wide) {
    float4 x = make_float4(0, 0, 0, 0);
    if (wide) {
        if (n > 0) x = *(const float4 *)from;
        return x;
    }
    if (n > 0) x.x = from[0];
    if (n > 1) x.y = from[1];
    if (n > 2) x.z = from[2];
    if (n > 3) x.w = from[3];
    return x;
}

/* Starts copying keys (or values) base .. base + KEYS into the stage: those in
 * [low, high], zeros for the others, which may have never been written. */
template <int D, int KEYS, int THREADS>
static __device__ __forceinline__ void
fetch_keys(float *stage, const attn_args *a, const attn_source *from,
           bool value, int32_t base, int32_t low, int32_t high) {
    int thread = opaque((int)threadIdx.x);
#pragma unroll 2
    for (int i = 0; i < KEYS * D / 4 / THREADS; i++) {
        int piece = i * THREADS + thread;
        int col = piece % (D / 4) * 4;
        int32_t position = base + piece / (D / 4);
        bool in = position >= low && position <= high && col < a->head_dim;
        const float *row = in ? key_row(a, from, value, position) + col : a->q;
        if (a->wide)
            cp_async16(stage + piece * 4, row, in);
        else
            *(float4 *)(stage + piece * 4) =
                load_four(row, in ? a->head_dim - col : 0, false);
    }
    cp_async_commit();
}

/* Turns what this thread has fetched into operands [TERMS][KEYS][D]. */
template <int D, int KEYS, int THREADS, int TERMS>
static __device__ __forceinline__ void convert_keys(bf16 *tile,
                                                    const float *stage) {
    int thread = opaque((int)threadIdx.x);
    cp_async_wait<0>();
#pragma unroll 2
    for (int i = 0; i < KEYS * D / 4 / THREADS; i++) {
        int piece = i * THREADS + thread;
        put_operand<D, TERMS>(tile, KEYS * D, piece / (D / 4),
                              piece % (D / 4) * 4,
                              *(const float4 *)(stage + piece * 4));
    }
}

/* d[0], d[1] += a b for two neighbouring 16 x 8 tiles: b holds the fragments
 * of both, as ldmatrix gives them; every pair of terms but lo lo. */
template <int TERMS>
static __device__ __forceinline__ void
multiply_pair(float d[2][4], const uint32_t a[TERMS][4],
              const uint32_t b[TERMS][4]) {
    if (TERMS == 2) {
        mma_bf16(d[0], a[TERMS - 1], b[0]);
        mma_bf16(d[1], a[TERMS - 1], b[0] + 2);
        mma_bf16(d[0], a[0], b[TERMS - 1]);
        mma_bf16(d[1], a[0], b[TERMS - 1] + 2);
    }
    mma_bf16(d[0], a[0], b[0]);
    mma_bf16(d[1], a[0], b[0] + 2);
}

/* s [16, KEYS] = rows [row, row + 16) of x times keys^T; both operands with
 * [.., D] rows, their second terms x_apart and KEYS D elements behind. */
template <int D, int KEYS, int TERMS>
static __device__ __forceinline__ void
multiply_rows(float s[KEYS / 8][4], const bf16 *x, int x_apart, int row,
              const bf16 *keys) {
    int lane = opaque((int)threadIdx.x) % 32;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
        for (int i = 0; i < 4; i++) s[n][i] = 0;
#pragma unroll(2 / TERMS)
    for (int k = 0; k < D; k += 16) {
        uint32_t a[TERMS][4], b[TERMS][4];
        for (int term = 0; term < TERMS; term++)
            ldmatrix_x4(a[term],
                        x + term * x_apart +
                            operand_at<D>(row + lane % 16, k + lane / 16 * 8));
#pragma unroll
        for (int n = 0; n < KEYS; n += 16) {
            int at = operand_at<D>(n + lane / 16 * 8 + lane % 8,
                                   k + lane / 8 % 2 * 8);
            for (int term = 0; term < TERMS; term++)
                ldmatrix_x4(b[term], keys + term * KEYS * D + at);
            multiply_pair<TERMS>(s + n / 8, a, b);
        }
    }
}

/* o [16, 8 N] += p [16, KEYS] times columns [col, col + 8 N) of values [KEYS,
 * D]. p lies in the layout of products, two of whose tiles are one operand. */
template <int D, int KEYS, int TERMS, int N>
static __device__ __forceinline__ void
multiply_keys(float o[N][4], const float p[KEYS / 8][4], const bf16 *values,
              int col) {
    int lane = opaque((int)threadIdx.x) % 32;
#pragma unroll
    for (int k = 0; k < KEYS; k += 16) {
        uint32_t a[TERMS][4], b[TERMS][4];
        for (int i = 0; i < 4; i++) {
            const float *pair = p[k / 8 + i / 2] + i % 2 * 2;
            uint32_t terms[TERMS];
            split_pair<TERMS>(terms, pair[0], pair[1]);
            for (int term = 0; term < TERMS; term++) a[term][i] = terms[term];
        }
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            int at = operand_at<D>(k + lane % 16, col + n * 8 + lane / 16 * 8);
            for (int term = 0; term < TERMS; term++)
                ldmatrix_x4_trans(b[term], values + term * KEYS * D + at);
            multiply_pair<TERMS>(o + n, a, b);
        }
    }
}

/* -------------------------------------------------------- rows, arguments */

static __device__ __forceinline__ void store_two(float *to, int n, float x,
                                                 float y, bool wide) {
    if (wide) {
        if (n > 0) *(float2 *)to = make_float2(x, y);
        return;
    }
    if (n > 0) to[0] = x;
    if (n > 1) to[1] = y;
}

/* A product of query and key to the score, in powers of 2. */
static __device__ __forceinline__ float attn_score(float x,
                                                   const attn_args *a) {
    x = __fmul_rn(x, a->scale);
    return a->cap > 0 ? __fmul_rn(tanhf(x), a->cap) : x;
}

/* The keys [low, high] that a thread's two rows of its warp's 16 see; none for
 * a row that does not exist. */
typedef struct attn_rows {
    int32_t low[2], high[2];
} attn_rows;

/* State of a thread's two rows: maximum of the scores, sum of exp2(score -
 * maximum), in a chunk the thread's share of that. */
typedef struct attn_norm {
    float top[2], total[2];
} attn_norm;

static __device__ __forceinline__ float over_quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

static __device__ __forceinline__ float over_quad_sum(float x) {
    x = __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

/* What to subtract before exp2: no maximum yet stands for exp2(-inf) = 0. */
static __device__ __forceinline__ float shift_of(float top) {
    return top == -INFINITY ? 0.0f : top;
}

/* Products of queries with keys base .. turned into probabilities relative to
 * the new maximum, in place; factor: what the older sums shrink by. HIDE: the
 * thread's rows do not see keys [x, y) of hidden[0] and hidden[8]. */
template <int KEYS, bool HIDE>
static __device__ __forceinline__ void
soften(float s[KEYS / 8][4], attn_norm *norm, float factor[2],
       const attn_rows *rows, const int2 *hidden, const attn_args *a,
       int32_t base) {
    int first = (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float top = -INFINITY, sum = 0;
        int32_t low = rows->low[i] - base, high = rows->high[i] - base;
        int32_t shut = HIDE ? hidden[i * 8].x - base : 0;
        int32_t open = HIDE ? hidden[i * 8].y - base : 0;
#pragma unroll
        for (int n = 0; n < KEYS / 4; n++) {
            float *x = &s[n / 2][i * 2 + n % 2];
            int key = n / 2 * 8 + first + n % 2;
            *x = attn_score(*x, a);
            *x = key >= low && key <= high ? *x : -INFINITY;
            if (HIDE && key >= shut && key < open) *x = -INFINITY;
            top = fmaxf(top, *x); /* a NaN is passed over here, not by exp2 */
        }
        top = fmaxf(norm->top[i], over_quad_max(top));
        float shift = shift_of(top);
#pragma unroll
        for (int n = 0; n < KEYS / 4; n++) {
            float *x = &s[n / 2][i * 2 + n % 2];
            *x = exp2f(__fsub_rn(*x, shift));
            sum = __fadd_rn(sum, *x);
        }
        factor[i] = exp2f(__fsub_rn(norm->top[i], shift));
        norm->total[i] = __fmaf_rn(norm->total[i], factor[i], sum);
        norm->top[i] = top;
    }
}

template <int N> static __device__ __forceinline__ void clear(float o[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
        for (int i = 0; i < 4; i++) o[n][i] = 0;
}

/* Joins a chunk's (top, total) to those of the chunks before; weight: what the
 * sums of both are to be multiplied by. */
static __device__ __forceinline__ void join_norm(float *top, float *total,
                                                 float chunk_top,
                                                 float chunk_total,
                                                 float weight[2]) {
    float both = fmaxf(*top, chunk_top), shift = shift_of(both);
    weight[0] = exp2f(__fsub_rn(*top, shift));
    weight[1] = exp2f(__fsub_rn(chunk_top, shift));
    *total = __fmaf_rn(*total, weight[0], __fmul_rn(chunk_total, weight[1]));
    *top = both;
}

static __device__ __forceinline__ float join_sum(float sum, float chunk,
                                                 const float weight[2]) {
    return __fmaf_rn(sum, weight[0], __fmul_rn(chunk, weight[1]));
}

/* The state before the first chunk: a sink is a key without a value. */
static __device__ __forceinline__ void
start_norm(float *top, float *total, const attn_args *a, int32_t head) {
    *top = a->sinks ? __fmul_rn(a->sinks[head], LOG2_E) : -INFINITY;
    *total = a->sinks ? 1.0f : 0.0f;
}

/* The last s of [0, n) with offsets[s] / step + s * extra <= number. */
static __device__ __forceinline__ int32_t
search_numbered(const int32_t *offsets, int32_t n, int32_t step, int32_t extra,
                int32_t number) {
    int32_t low = 0, high = n;
    while (high - low > 1) {
        int32_t mid = low + (high - low) / 2;
        if (offsets[mid] / step + mid * extra <= number)
            low = mid;
        else
            high = mid;
    }
    return low;
}

static ks_status attn_check_view(const char *name, ks_view x, int32_t rows,
                                 int32_t heads, int32_t head_dim, ks_err *err) {
    if (x.type == KS_F32 && x.rows >= rows && x.stride >= x.cols &&
        x.cols == (int64_t)heads * head_dim)
        return KS_OK;
    return ks_fail(err, KS_INTERNAL,
                   "attention: %s has %s [%lld, %lld], wanted is f32 [%d, %d * "
                   "%d]",
                   name, ks_type_name(x.type), (long long)x.rows,
                   (long long)x.cols, (int)rows, (int)heads, (int)head_dim);
}

static ks_status attn_check_spec(const ks_attn_spec *spec, ks_err *err) {
    if (spec->head_dim < 1 || spec->head_dim > 256)
        return ks_fail(err, KS_UNSUPPORTED,
                       "attention: a head of %d dims, 1 to 256 are built in",
                       (int)spec->head_dim);
    if (spec->n_kv_heads < 1 || spec->n_heads < 1 ||
        spec->n_heads % spec->n_kv_heads)
        return ks_fail(err, KS_INTERNAL, "attention: %d heads on %d",
                       (int)spec->n_heads, (int)spec->n_kv_heads);
    return KS_OK;
}

static bool attn_by_16(const void *p, int64_t stride) {
    return (uintptr_t)p % 16 == 0 && stride % 4 == 0;
}

/* Without a store its pointers are others', never read. */
static attn_args attn_arguments(ks_view out, ks_view q, ks_view k, ks_view v,
                                const ks_attn_spec *spec, const ks_seqs *seqs,
                                const ks_kv_layer *kv) {
    attn_args a = {};
    a.q = (const float *)q.data, a.q_stride = q.stride;
    a.k = (const float *)k.data, a.k_stride = k.stride;
    a.v = (const float *)v.data, a.v_stride = v.stride;
    a.out = (float *)out.data, a.out_stride = out.stride;
    a.store_k = kv ? kv->k : a.k;
    a.store_v = kv ? kv->v : a.v;
    a.offsets = seqs->offsets, a.past = seqs->past;
    a.pages = seqs->pages ? seqs->pages : seqs->offsets;
    a.hidden = seqs->hidden;
    a.n_seq = seqs->n_seq, a.n_tok = seqs->n_tok;
    a.max_pages = seqs->max_pages;
    a.n_heads = spec->n_heads, a.n_kv = spec->n_kv_heads;
    a.group = spec->n_heads / spec->n_kv_heads;
    a.head_dim = spec->head_dim, a.window = spec->window;
    a.scale = spec->scale * LOG2_E, a.sinks = spec->sinks;
    if (spec->softcap > 0) {
        a.scale = spec->scale / spec->softcap;
        a.cap = spec->softcap * LOG2_E;
    }
    a.wide = attn_by_16(q.data, q.stride) && attn_by_16(k.data, k.stride) &&
             attn_by_16(v.data, v.stride) && attn_by_16(out.data, out.stride) &&
             attn_by_16(a.store_k, spec->head_dim) &&
             attn_by_16(a.store_v, spec->head_dim);
    return a;
}

#endif
