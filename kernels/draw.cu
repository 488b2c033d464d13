/* draw.cu - one draw a row of logits by the integer weights of host/draw.h:
 * the id that the CPU's op draws from the same logits.
 *
 * No sort. A row's weights are added up in bins by depth below the top, 1/16
 * octave wide. A search for "the first token in order whose cumulative sum
 * reaches a limit" picks the bin by a scan, then narrows the keys of its
 * tokens, 256 bins a round, until one is left. Top-k searches by number,
 * top-p and the draw by weight. Sums are of integers, so the order of atomics
 * does not show. */
#include "cuda_ops.h"
#include "draw.h"
#include "fault.cuh"
#include "philox.h"
#include "vec.cuh"

enum {
    THREADS = 512,
    WARPS = THREADS / 32,
    BINS_OCTAVE = 16,
    BINS = KS_DRAW_OCTAVES * BINS_OCTAVE,
    NARROW = 256,
    LISTED = 1024, /* keys of one bin that shared memory holds */
    HELD = 64      /* rows whose logits exist at once */
};
static const unsigned ALL = 0xffffffffu;

/* Sums by bin: weights in two halves (shared memory adds 32 bits natively), and
 * numbers of tokens. */
typedef struct bins {
    uint32_t low[BINS], high[BINS], n[BINS];
} bins;

/* A row and where its search stands. */
typedef struct lottery {
    const float *row;
    int n;
    float top;
    double rate;
} lottery;

/* Before the tokens of a bin or interval: sums; in it: number. */
typedef struct place {
    uint64_t weight, n;
    int bin, in;
} place;

/* --------------------------------------------------------------- reductions
 */

static __device__ uint64_t block_least(uint64_t x) {
    SHARED(uint64_t, part, WARPS);
#pragma unroll
    for (int step = 16; step; step /= 2) {
        uint64_t other = __shfl_xor_sync(ALL, x, step);
        x = other < x ? other : x;
    }
    __syncthreads(); /* whoever still reads the last one */
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = part[0];
#pragma unroll
    for (int i = 1; i < WARPS; i++) x = part[i] < x ? part[i] : x;
    return x;
}

static __device__ uint64_t block_add(uint64_t x) {
    SHARED(uint64_t, part, WARPS);
#pragma unroll
    for (int step = 16; step; step /= 2) x += __shfl_xor_sync(ALL, x, step);
    __syncthreads(); /* whoever still reads the last one */
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) x += part[i];
    return x;
}

static __device__ double block_total(float x) {
    SHARED(float, part, WARPS);
    x = ks__warp_sum(x);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    double sum = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) sum += part[i];
    return sum;
}

/* --------------------------------------------------------------------- bins
 */

static __device__ void bins_clear(bins *b, int n) {
    for (int i = (int)threadIdx.x; i < n; i += THREADS)
        b->low[i] = b->high[i] = b->n[i] = 0;
    __syncthreads();
}

static __device__ __forceinline__ void bins_add(bins *b, int bin,
                                                uint64_t weight) {
    uint32_t low = (uint32_t)weight, before = atomicAdd(&b->low[bin], low);
    uint32_t carry = before + low < before;
    atomicAdd(&b->high[bin], (uint32_t)(weight >> 32) + carry);
    atomicAdd(&b->n[bin], 1u);
}

static __device__ __forceinline__ uint64_t bin_weight(const bins *b, int i) {
    return (uint64_t)b->high[i] << 32 | b->low[i];
}

/* Sum over lanes up to this one. */
static __device__ __forceinline__ uint64_t scan(uint64_t x) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        uint64_t other = __shfl_up_sync(ALL, x, step);
        if (lane >= step) x += other;
    }
    return x;
}

/* The first bin of n up to which the sum, of weights or by_number of tokens,
 * added to *at's, reaches the limit; there must be one. Moves *at ahead of it.
 * Warp 0 scans: each lane a run of bins, then one lane its own. */
static __device__ void bins_find(const bins *b, int n, uint64_t limit,
                                 bool by_number, place *at) {
    SHARED(place, found, 1);
    int each = (n + 31) / 32, lane = (int)threadIdx.x;
    __syncthreads();
    if (threadIdx.x < 32) {
        int first = lane * each, end = min(first + each, n);
        uint64_t weight = 0, count = 0;
        for (int i = first; i < end; i++) {
            weight += bin_weight(b, i);
            count += b->n[i];
        }
        uint64_t w = at->weight + scan(weight), c = at->n + scan(count);
        unsigned reach = __ballot_sync(ALL, (by_number ? c : w) >= limit);
        if (lane == __ffs((int)reach) - 1) {
            place p = {w - weight, c - count, first, 0};
            for (;; p.bin++) {
                uint64_t next_w = p.weight + bin_weight(b, p.bin);
                uint64_t next_n = p.n + b->n[p.bin];
                if ((by_number ? next_n : next_w) >= limit) break;
                p.weight = next_w;
                p.n = next_n;
            }
            p.in = (int)b->n[p.bin];
            found[0] = p;
        }
    }
    __syncthreads();
    *at = found[0];
}

/* ------------------------------------------------------------------- search
 */

static __device__ __forceinline__ uint64_t depth_of(const lottery *l, float x) {
    return ks_draw_depth(x, l->top, l->rate);
}

static __device__ __forceinline__ int bin_of(uint64_t depth) {
    return (int)(depth >> 28);
}

static __device__ __forceinline__ uint64_t key_of(float logit, int id) {
    return ks_draw_key(__float_as_uint(logit), id);
}

static __device__ __forceinline__ uint64_t weight_of(const lottery *l,
                                                     uint64_t key) {
    return ks_draw_weight(depth_of(l, __uint_as_float(ks_draw_bits(key))));
}

/* Key i of the row, or of the list; all ones: not in the bin. */
static __device__ __forceinline__ uint64_t member(const lottery *l,
                                                  const uint64_t *list, int bin,
                                                  int i) {
    if (list) return list[i];
    float x = l->row[i];
    return bin_of(depth_of(l, x)) == bin ? key_of(x, i) : ~0ull;
}

/* The bin's keys into the list, in any order: what is done with them has none.
 */
static __device__ void collect(const lottery *l, int bin, uint64_t *list) {
    SHARED(int, used, 1);
    if (threadIdx.x == 0) used[0] = 0;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < l->n; i += THREADS) {
        uint64_t key = member(l, NULL, bin, i);
        if (key != ~0ull) list[atomicAdd(used, 1)] = key;
    }
    __syncthreads();
}

/* The first token in order whose cumulative sum (by_number: whose place)
 * reaches the limit: its key; *sum: the weights up to it, its own too.
 * depths: the row's bins. */
static __device__ uint64_t search(const lottery *l, const bins *depths,
                                  bins *narrow, uint64_t *list, uint64_t limit,
                                  bool by_number, uint64_t *sum) {
    place at = {0, 0, 0, 0};
    bins_find(depths, BINS, limit, by_number, &at);
    int bin = at.bin, n = l->n;
    uint64_t low = 0, high = ~0ull - 1;
    if (at.in <= LISTED) {
        collect(l, bin, list);
        n = at.in;
    } else {
        list = NULL;
    }
    for (;;) {
        uint64_t least = ~0ull, most_down = ~0ull; /* ~ of the highest */
        for (int i = (int)threadIdx.x; i < n; i += THREADS) {
            uint64_t key = member(l, list, bin, i);
            if (key < low || key > high) continue;
            least = key < least ? key : least;
            most_down = ~key < most_down ? ~key : most_down;
        }
        low = block_least(least);
        high = ~block_least(most_down);
        if (low == high) break;
        int shift = 0;
        while ((high - low) >> shift >= NARROW) shift++;
        bins_clear(narrow, NARROW);
        for (int i = (int)threadIdx.x; i < n; i += THREADS) {
            uint64_t key = member(l, list, bin, i);
            if (key >= low && key <= high)
                bins_add(narrow, (int)((key - low) >> shift),
                         weight_of(l, key));
        }
        bins_find(narrow, NARROW, limit, by_number, &at);
        low += (uint64_t)at.bin << shift;
        uint64_t last = low + (1ull << shift) - 1;
        high = last < high ? last : high;
    }
    *sum = at.weight + weight_of(l, low);
    return low;
}

/* The key that the spec draws: top-k, then top-p cut what is kept, then the
 * place that u names. all, count: weights and number of the tokens in bins. */
static __device__ uint64_t draw(const lottery *l, const bins *depths,
                                bins *narrow, uint64_t *list, uint64_t all,
                                uint64_t count, const ks_sample_spec *spec) {
    uint32_t words[4];
    ks_philox(spec->key, spec->counter, words);
    uint64_t kept = all, sum;
    if (spec->top_k > 0 && (uint64_t)spec->top_k < count)
        search(l, depths, narrow, list, (uint64_t)spec->top_k, true, &kept);
    if (spec->top_p < 1)
        search(l, depths, narrow, list, ks_draw_share(kept, spec->top_p), false,
               &kept);
    return search(l, depths, narrow, list, ks_draw_place(kept, words[0]), false,
                  &sum);
}

/* ------------------------------------------------------------------- kernel
 */

typedef struct sample_args {
    int32_t *id;
    float *logprob; /* or NULL */
    float *logits;  /* [rows, n], capped in place */
    const ks_sample_spec *spec;
    int64_t first; /* of the op's rows */
    int n;
    float softcap;
    ks__report report;
} sample_args;

/* Caps the row and returns the least key: of the highest logit, lowest id. */
static __device__ uint64_t highest(float *row, int n, float softcap) {
    uint64_t best = ~0ull;
    for (int i = (int)threadIdx.x; i < n; i += THREADS) {
        float x = row[i];
        if (softcap > 0) row[i] = x = softcap * tanhf(x / softcap);
        uint64_t key = key_of(x, i);
        best = key < best ? key : best;
    }
    return block_least(best);
}

/* A block a row. Bound: a row of logits a pass from L2, two passes and one a
 * search (one to three). */
static __global__ void __launch_bounds__(THREADS) sample_kernel(sample_args a) {
    SHARED(bins, depths, 1);
    SHARED(bins, narrow, 1);
    SHARED(uint64_t, list, LISTED);
    int64_t r = a.first + blockIdx.x;
    ks_sample_spec spec = a.spec[r];
    bool draws = spec.temperature > 0;
    float *row = a.logits + (int64_t)blockIdx.x * a.n, sum = 0;
    bins_clear(depths, BINS);
    uint64_t key = highest(row, a.n, a.softcap), all = 0, count = 0;
    float top = __uint_as_float(ks_draw_bits(key));
    lottery l = {row, a.n, top, draws ? ks_draw_rate(spec.temperature) : 0};
    for (int i = (int)threadIdx.x; i < a.n; i += THREADS) {
        float x = row[i];
        sum += expf(x - top);
        uint64_t depth = depth_of(&l, x);
        if (!draws || bin_of(depth) >= BINS) continue;
        uint64_t weight = ks_draw_weight(depth);
        all += weight;
        count++;
        bins_add(depths, bin_of(depth), weight);
    }
    double total = block_total(sum);
    bool good = total < INFINITY; /* false: NaN, or an infinite logit */
    if (good && draws)
        key = draw(&l, depths, narrow, list, block_add(all), block_add(count),
                   &spec);
    if (threadIdx.x) return;
    if (!good) ks__cuda_report(a.report, KS__LOGITS, r);
    a.id[r] = good ? (int32_t)(uint32_t)key : 0;
    float logit = __uint_as_float(ks_draw_bits(key));
    if (a.logprob) a.logprob[r] = (float)((double)logit - top - log(total));
}

/* ----------------------------------------------------------------- launcher
 */

/* HELD rows at a time: their logits, then their draws. */
static ks_status sample_rows(ks_dev *dev, sample_args a, ks_view hidden,
                             ks_view head, ks_err *err) {
    for (; a.first < hidden.rows; a.first += HELD) {
        ks_view rows = hidden;
        rows.data = (float *)hidden.data + a.first * hidden.stride;
        rows.rows = ks__least(HELD, hidden.rows - a.first);
        ks_view logits = ks_view_f32(a.logits, rows.rows, head.rows);
        ks_status st = ks__cuda_gemm(dev, logits, rows, head, NULL, false, err);
        if (st != KS_OK) return st;
        KS_CUDA_TRY(launch(sample_kernel, (unsigned)rows.rows, THREADS, 0,
                           dev->stream, a),
                    "sample");
    }
    return KS_OK;
}

ks_status ks__cuda_sample(ks_dev *dev, int32_t *id, float *logprob,
                          ks_view hidden, ks_view head, float softcap,
                          const ks_sample_spec *spec, ks_err *err) {
    if (hidden.cols != head.cols)
        return ks_fail(err, KS_INTERNAL, "logits: [%lld,%lld] by [%lld,%lld]",
                       (long long)hidden.rows, (long long)hidden.cols,
                       (long long)head.rows, (long long)head.cols);
    if (head.rows > KS_DRAW_TOKENS)
        return ks_fail(err, KS_UNSUPPORTED,
                       "sampling: %lld tokens, at most %d are built in",
                       (long long)head.rows, (int)KS_DRAW_TOKENS);
    void *logits = NULL;
    size_t size = (size_t)(ks__least(HELD, hidden.rows) * head.rows) * 4;
    ks_status st = ks__cuda_take(dev, &logits, size, "sampling", err);
    if (st != KS_OK) return st;
    sample_args a = {
        id, logprob,        (float *)logits, spec,
        0,  (int)head.rows, softcap,         ks__cuda_reporting(dev)};
    st = sample_rows(dev, a, hidden, head, err);
    ks__cuda_give(dev, logits);
    return st;
}
