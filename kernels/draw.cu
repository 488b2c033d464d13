/* draw.cu - one draw a row of logits by the integer weights of host/draw.h, or
 * the share of a set of ids in what may be drawn: what the CPU's ops answer
 * from the same logits.
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
    LISTED = 1024,      /* keys of one bin that shared memory holds */
    HELD = KS_DRAW_ROWS /* rows whose logits exist at once */
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

/* What a spec leaves of a row: the sum of weights, and the last key. */
typedef struct cut {
    uint64_t sum, last;
} cut;

/* What lies in the block's shared memory. */
typedef struct room {
    bins *depths, *narrow;
    uint64_t *list;
} room;

/* A row made ready: its greedy key, weights and number of the tokens in bins
 * (of a spec that draws), the sum of exp(logit - top). */
typedef struct tally {
    uint64_t best, all, count;
    double total;
} tally;

/* Top-k cuts, then top-p. */
static __device__ cut cut_of(const lottery *l, const room *m, const tally *t,
                             const ks_sample_spec *spec) {
    cut c = {t->all, ~0ull};
    if (spec->top_k > 0 && (uint64_t)spec->top_k < t->count)
        c.last = search(l, m->depths, m->narrow, m->list, (uint64_t)spec->top_k,
                        true, &c.sum);
    if (spec->top_p < 1)
        c.last = search(l, m->depths, m->narrow, m->list,
                        ks_draw_share(c.sum, spec->top_p), false, &c.sum);
    return c;
}

/* The key that u's place names. */
static __device__ uint64_t draw(const lottery *l, const room *m, const cut *c,
                                const ks_sample_spec *spec) {
    uint32_t words[4];
    uint64_t sum;
    ks_philox(spec->key, spec->counter, words);
    return search(l, m->depths, m->narrow, m->list,
                  ks_draw_place(c->sum, words[0]), false, &sum);
}

/* Weights of those of n ids that the cut leaves. */
static __device__ uint64_t sum_set(const lottery *l, const cut *c,
                                   const int32_t *ids, int n) {
    uint64_t sum = 0;
    for (int i = (int)threadIdx.x; i < n; i += THREADS) {
        uint64_t key = key_of(l->row[ids[i]], ids[i]);
        if (key <= c->last) sum += weight_of(l, key);
    }
    return block_add(sum);
}

/* ------------------------------------------------------------------ kernels
 */

typedef struct draw_args {
    float *logits; /* [rows, n], capped in place */
    const ks_sample_spec *spec;
    int64_t first; /* of the op's rows */
    int n;
    float softcap;
    ks__report report;
    int32_t *id;    /* sample's */
    float *logprob; /* or NULL */
    double *share;  /* share's */
    const int32_t *offsets, *ids;
} draw_args;

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

/* The block's row, its bins filled. False, and reported: NaN, or an infinite
 * logit. */
static __device__ bool open_row(const draw_args *a, const room *m,
                                const ks_sample_spec *spec, lottery *l,
                                tally *t) {
    bool draws = spec->temperature > 0;
    float *row = a->logits + (int64_t)blockIdx.x * a->n, sum = 0;
    uint64_t all = 0, count = 0;
    bins_clear(m->depths, BINS);
    t->best = highest(row, a->n, a->softcap);
    float top = __uint_as_float(ks_draw_bits(t->best));
    *l = {row, a->n, top, draws ? ks_draw_rate(spec->temperature) : 0};
    for (int i = (int)threadIdx.x; i < a->n; i += THREADS) {
        float x = row[i];
        sum += expf(x - top);
        uint64_t depth = depth_of(l, x);
        if (!draws || bin_of(depth) >= BINS) continue;
        uint64_t weight = ks_draw_weight(depth);
        all += weight;
        count++;
        bins_add(m->depths, bin_of(depth), weight);
    }
    t->total = block_total(sum);
    t->all = block_add(all);
    t->count = block_add(count);
    bool good = t->total < INFINITY;
    if (!good && threadIdx.x == 0)
        ks__cuda_report(a->report, KS__LOGITS, a->first + blockIdx.x);
    return good;
}

/* A block a row. Bound: a row of logits a pass from L2, two passes and one a
 * search (one to three). */
static __global__ void __launch_bounds__(THREADS) sample_kernel(draw_args a) {
    SHARED(bins, depths, 1);
    SHARED(bins, narrow, 1);
    SHARED(uint64_t, list, LISTED);
    room m = {depths, narrow, list};
    int64_t r = a.first + blockIdx.x;
    const ks_sample_spec *spec = a.spec + r;
    lottery l;
    tally t;
    bool good = open_row(&a, &m, spec, &l, &t);
    uint64_t key = t.best;
    if (good && spec->temperature > 0) {
        cut c = cut_of(&l, &m, &t, spec);
        key = draw(&l, &m, &c, spec);
    }
    if (threadIdx.x) return;
    a.id[r] = good ? (int32_t)(uint32_t)key : 0;
    float logit = __uint_as_float(ks_draw_bits(key));
    if (a.logprob) a.logprob[r] = (float)((double)logit - l.top - log(t.total));
}

/* A block a row. Bound: a row of logits a pass from L2, two passes and one a
 * search (none to two); the set's ids once, their logits one by one. */
static __global__ void __launch_bounds__(THREADS) share_kernel(draw_args a) {
    SHARED(bins, depths, 1);
    SHARED(bins, narrow, 1);
    SHARED(uint64_t, list, LISTED);
    room m = {depths, narrow, list};
    int64_t r = a.first + blockIdx.x;
    const ks_sample_spec *spec = a.spec + r;
    lottery l;
    tally t;
    double share = NAN;
    if (open_row(&a, &m, spec, &l, &t)) {
        cut c = {ks_draw_weight(0), t.best}; /* greedy: the best alone */
        if (spec->temperature > 0) c = cut_of(&l, &m, &t, spec);
        int begin = a.offsets[r], n = a.offsets[r + 1] - begin;
        share = ks_draw_log(sum_set(&l, &c, a.ids + begin, n), c.sum);
    }
    if (threadIdx.x == 0) a.share[r] = share;
}

/* ---------------------------------------------------------------- launchers
 */

/* HELD rows at a time: their logits, then what the kernel makes of them. */
static ks_status draw_rows(ks_dev *dev, void (*kernel)(draw_args), draw_args a,
                           ks_view hidden, ks_view head, ks_err *err) {
    for (; a.first < hidden.rows; a.first += HELD) {
        ks_view rows = hidden;
        rows.data = (float *)hidden.data + a.first * hidden.stride;
        rows.rows = ks__least(HELD, hidden.rows - a.first);
        ks_view logits = ks_view_f32(a.logits, rows.rows, head.rows);
        ks_status st = ks__cuda_gemm(dev, logits, rows, head, NULL, false, err);
        if (st != KS_OK) return st;
        KS_CUDA_TRY(
            launch(kernel, (unsigned)rows.rows, THREADS, 0, dev->stream, a),
            "sampling");
    }
    return KS_OK;
}

/* The rest of the arguments, which both ops have. */
static ks_status run(ks_dev *dev, void (*kernel)(draw_args), draw_args a,
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
    a.logits = (float *)logits;
    a.spec = spec;
    a.n = (int)head.rows;
    a.softcap = softcap;
    a.report = ks__cuda_reporting(dev);
    st = draw_rows(dev, kernel, a, hidden, head, err);
    ks__cuda_give(dev, logits);
    return st;
}

ks_status ks__cuda_sample(ks_dev *dev, int32_t *id, float *logprob,
                          ks_view hidden, ks_view head, float softcap,
                          const ks_sample_spec *spec, ks_err *err) {
    draw_args a = {};
    a.id = id;
    a.logprob = logprob;
    return run(dev, sample_kernel, a, hidden, head, softcap, spec, err);
}

ks_status ks__cuda_share(ks_dev *dev, double *share, ks_view hidden,
                         ks_view head, float softcap,
                         const ks_sample_spec *spec, const int32_t *offsets,
                         const int32_t *ids, ks_err *err) {
    draw_args a = {};
    a.share = share;
    a.offsets = offsets;
    a.ids = ids;
    return run(dev, share_kernel, a, hidden, head, softcap, spec, err);
}
