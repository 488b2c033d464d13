/* attention.c - causal attention over packed sequences and the paged store.
 *
 * A task is (sequence, heads of one kv head, tile of tokens). Its rows (token,
 * head) share every key block of 64 at absolute positions: scores by the
 * GEMM's micro-kernel on the transposed keys, online softmax a row at a time
 * (Milakov and Gimelshein 2018), then probabilities times values by the same
 * kernel. A row's operations depend on its position and keys only: in a block
 * it does not see it is left as it is (factor exp(0) = 1, sum + 0), so its
 * bits are the same in a prefill, in another tile, or decoded alone.
 */
#include "isa.h"
#include "vmath.h"

/* A tile of at most SMALL rows (a decoded token) reads values where they lie,
 * FEW rows and WIDTH vectors of accumulators at a time. */
enum { BLOCK = 64, ROWS = 96, SMALL = 8, FEW = 3, WIDTH = 4 };

typedef struct tile {
    const ks_attn_spec *spec;
    const ks_seqs *seqs;
    const ks_kv_layer *kv;
    ks_view out, q, k, v;
    int32_t seq, group;       /* sequence, kv head */
    int32_t head, n_heads;    /* query heads [head, head + n_heads) */
    int32_t token, n_tokens;  /* in the sequence's part of the batch */
    int32_t n_rows, position; /* position of the first token */
    int32_t hide,
        resume; /* tokens from `resume` on do not see [hide, resume) */
    float *queries, *scores, *sums; /* [rows, D] [rows, BLOCK] [rows, Dp] */
    float *keys;                    /* [NR, D] */
    float *panels;                  /* [D, NR] of keys, [BLOCK, Dp] of values */
    float *highest, *total;         /* [rows] running maximum, sum of exp */
} tile;

static int32_t padded(int32_t dim) {
    return (dim + NR - 1) / NR * NR;
}

static void lay_out(tile *t, float *scratch) {
    int32_t d = t->spec->head_dim;
    t->queries = scratch;
    t->scores = t->queries + ROWS * padded(d);
    t->sums = t->scores + ROWS * BLOCK;
    t->keys = t->sums + ROWS * padded(d);
    t->panels = t->keys + BLOCK * padded(d);
    t->highest = t->panels + BLOCK * padded(d);
    t->total = t->highest + ROWS;
}

static void start(tile *t) {
    int32_t d = t->spec->head_dim;
    int64_t first = t->seqs->offsets[t->seq] + t->token;
    for (int32_t r = 0; r < t->n_rows; r++) {
        const float *q = ks__row_f32(&t->q, first + r / t->n_heads);
        int32_t head = t->head + r % t->n_heads;
        memcpy(t->queries + r * d, q + head * d, (size_t)d * sizeof *q);
        t->highest[r] = t->spec->sinks ? t->spec->sinks[head] : -INFINITY;
        t->total[r] = t->spec->sinks ? 1 : 0;
    }
    memset(t->sums, 0, (size_t)t->n_rows * padded(d) * sizeof(float));
}

/* Keys (or values) that lie a stride apart: of one page of the store, or what
 * the batch has. */
typedef struct stretch {
    const float *at;
    int64_t stride;
    int32_t n;
} stretch;

/* The stretch from a position on, at most `most` long. */
static stretch stretch_at(const tile *t, const ks_view *batch,
                          const float *store, int32_t position, int32_t most) {
    int32_t d = t->spec->head_dim, past = ks__past(t->seqs, t->seq);
    if (position >= past)
        return (stretch){
            ks__row_f32(batch, t->seqs->offsets[t->seq] + position - past) +
                t->group * d,
            batch->stride, most};
    const int32_t *pages =
        t->seqs->pages + (int64_t)t->seq * t->seqs->max_pages;
    uint32_t in_page = (uint32_t)position % KS_PAGE;
    int64_t stride = (int64_t)t->spec->n_kv_heads * d;
    int64_t row = (int64_t)pages[position / KS_PAGE] * KS_PAGE + in_page;
    int32_t left = KS_MIN(KS_PAGE - (int32_t)in_page, past - position);
    return (stretch){store + row * stride + t->group * d, stride,
                     KS_MIN(left, most)};
}

static stretch keys_at(const tile *t, int32_t position, int32_t most) {
    return stretch_at(t, &t->k, t->kv ? t->kv->k : NULL, position, most);
}

static stretch values_at(const tile *t, int32_t position, int32_t most) {
    return stretch_at(t, &t->v, t->kv ? t->kv->v : NULL, position, most);
}

/* n <= NR keys as a panel, straight from a page or the batch where they are
 * one stretch. */
static void load_panel(tile *t, int32_t position, int32_t n) {
    int32_t d = t->spec->head_dim;
    stretch s = keys_at(t, position, n);
    if (s.n < n) {
        for (int32_t i = 0; i < n; i += s.n) {
            s = keys_at(t, position + i, n - i);
            for (int32_t r = 0; r < s.n; r++)
                memcpy(t->keys + (i + r) * d, s.at + r * s.stride,
                       (size_t)d * sizeof(float));
        }
        s = (stretch){t->keys, d, n};
    }
    ks_view keys = {(void *)(uintptr_t)s.at, n, d, s.stride, KS_F32};
    ks__unpack(&keys, 0, n, 0, d, t->panels, NULL);
}

/* scores[rows, n] = queries keys^T for keys base .. base + n. */
static void score_block(tile *t, int32_t base, int32_t n) {
    int32_t d = t->spec->head_dim;
    for (int32_t i = 0; i < n; i += NR) {
        load_panel(t, base + i, KS_MIN(NR, n - i));
        for (int32_t r = 0; r < t->n_rows; r += MR)
            ks__multiply(KS_MIN(MR, t->n_rows - r), d, t->queries + r * d, d,
                         t->panels, t->scores + r * BLOCK + i, BLOCK, NR, NULL,
                         false);
    }
}

KS_INLINE float exp_one(float x) {
    return vexp(vset(x))[0];
}

/* Turns one row's scores into probabilities relative to its new maximum,
 * keys [low, high) of the block visible, with a gap those in [hide, resume)
 * not; rescales what it had. */
KS_INLINE void soften(tile *t, int32_t row, int32_t low, int32_t high,
                      const bool gap, int32_t hide, int32_t resume) {
    const ks_attn_spec *spec = t->spec;
    float *s = t->scores + row * BLOCK;
    vi lane;
    for (int i = 0; i < VL; i++) lane[i] = i;
    vf v[BLOCK / VL], top = vset(-INFINITY);
    for (int i = 0; i < BLOCK / VL; i++) {
        vi key = lane + i * VL;
        v[i] = vload(s + i * VL) * vset(spec->scale);
        if (spec->softcap > 0) v[i] = vsoftcap(v[i], spec->softcap);
        vi visible = (key >= low) & (key < high);
        if (gap) visible &= (key < hide) | (key >= resume);
        v[i] = vselect(visible, v[i], vset(-INFINITY));
        top = vmax(v[i], top); /* a NaN is passed over here, not by exp */
    }
    float before = t->highest[row], after = vmaxlane(top);
    after = after > before ? after : before;
    float shift = after > -INFINITY ? after : 0;
    vf sum = vset(0);
    for (int i = 0; i < BLOCK / VL; i++) {
        v[i] = vexp(v[i] - vset(shift));
        vstore(s + i * VL, v[i]);
        sum = sum + v[i];
    }
    float factor = exp_one(before - shift);
    t->highest[row] = after;
    t->total[row] = madd1(t->total[row], factor, vsum(sum));
    if (factor == 1) return;
    int32_t dp = padded(spec->head_dim);
    float *o = t->sums + row * dp;
    for (int32_t j = 0; j < dp; j += VL)
        vstore(o + j, vload(o + j) * vset(factor));
}

static void softmax_row(tile *t, int32_t row, int32_t low, int32_t high) {
    soften(t, row, low, high, false, 0, 0);
}

static void softmax_split_row(tile *t, int32_t row, int32_t low, int32_t high,
                              int32_t hide, int32_t resume) {
    soften(t, row, low, high, true, hide, resume);
}

static void softmax_block(tile *t, int32_t base, int32_t n) {
    for (int32_t r = 0; r < t->n_rows; r++) {
        int32_t position = t->position + r / t->n_heads;
        int32_t low = 0, high = KS_MIN(n, position + 1 - base);
        int32_t hide = t->hide - base, resume = t->resume - base;
        if (t->spec->window > 0)
            low = KS_MAX(0, position - t->spec->window + 1 - base);
        bool gap = position >= t->resume && hide < high && resume > low;
        if (gap && hide <= low) low = resume, gap = false;
        if (low >= high)
            memset(t->scores + r * BLOCK, 0, BLOCK * sizeof(float));
        else if (gap)
            softmax_split_row(t, r, low, high, hide, resume);
        else
            softmax_row(t, r, low, high);
    }
}

/* One row of values, cut into panels n rows apart; zeros behind the end. */
KS_INLINE void cut_row(const float *v, int32_t d, float *to, int32_t apart) {
    for (int32_t j = 0; j < d; j += NR, to += apart * NR)
        for (int i = 0; i < NR; i += VL)
            vstore(to + i, j + i + VL <= d ? vload(v + j + i)
                                           : vload_n(v + j + i, d - j - i, 0));
}

/* sums += probabilities values */
static void value_block(tile *t, int32_t base, int32_t n) {
    int32_t d = t->spec->head_dim, dp = padded(d);
    stretch s;
    for (int32_t i = 0; i < n; i += s.n) {
        s = values_at(t, base + i, n - i);
        for (int32_t r = 0; r < s.n; r++)
            cut_row(s.at + r * s.stride, d, t->panels + (i + r) * NR, n);
    }
    for (int32_t j = 0; j < d; j += NR)
        for (int32_t r = 0; r < t->n_rows; r += MR)
            ks__multiply(KS_MIN(MR, t->n_rows - r), n, t->scores + r * BLOCK,
                         BLOCK, t->panels + j * n, t->sums + r * dp + j, dp, NR,
                         NULL, true);
}

/* The same, chain for chain, for few rows: the values are not worth a copy.
 * width vectors of columns from j on, the last one cut to `tail` if that is
 * less than VL. */
KS_INLINE void weigh(const tile *t, const int rows, const int width,
                     int32_t row, int32_t j, int64_t tail, int32_t base,
                     int32_t n) {
    vf acc[FEW * WIDTH];
    const float *p = t->scores + row * BLOCK;
    stretch s;
#pragma GCC unroll 16
    for (int i = 0; i < rows * width; i++) acc[i] = vset(0);
    for (int32_t i = 0; i < n; i += s.n) {
        s = values_at(t, base + i, n - i);
        const float *v = s.at + j;
        for (int32_t k = i; k < i + s.n; k++, v += s.stride) {
            vf b[WIDTH];
#pragma GCC unroll 4
            for (int c = 0; c < width; c++)
                b[c] = width == 1 && tail < VL ? vload_n(v, tail, 0)
                                               : vload(v + c * VL);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
                for (int c = 0; c < width; c++)
                    acc[r * width + c] =
                        madd(vset(p[r * BLOCK + k]), b[c], acc[r * width + c]);
        }
    }
    int32_t dp = padded(t->spec->head_dim);
    float *to = t->sums + row * dp + j;
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < width; c++) {
            float *o = to + r * dp + c * VL;
            vstore(o, acc[r * width + c] + vload(o));
        }
}

KS_INLINE void weigh_rows(const tile *t, const int rows, int32_t row,
                          int32_t base, int32_t n) {
    int32_t d = t->spec->head_dim, j = 0;
    for (; j + WIDTH * VL <= d; j += WIDTH * VL)
        weigh(t, rows, WIDTH, row, j, VL, base, n);
    for (; j < d; j += VL) weigh(t, rows, 1, row, j, d - j, base, n);
}

static void value_block_few(tile *t, int32_t base, int32_t n) {
    for (int32_t r = 0; r < t->n_rows; r += FEW) {
        switch (KS_MIN(FEW, t->n_rows - r)) {
        case 1:
            weigh_rows(t, 1, r, base, n);
            break;
        case 2:
            weigh_rows(t, 2, r, base, n);
            break;
        default:
            weigh_rows(t, FEW, r, base, n);
        }
    }
}

static void finish(tile *t) {
    int32_t d = t->spec->head_dim, dp = padded(d);
    int64_t first = t->seqs->offsets[t->seq] + t->token;
    for (int32_t r = 0; r < t->n_rows; r++) {
        float *o = ks__row_f32(&t->out, first + r / t->n_heads) +
                   (t->head + r % t->n_heads) * d;
        for (int32_t j = 0; j < d; j++)
            o[j] = t->sums[r * dp + j] / t->total[r];
    }
}

/* No row of the tile sees a key of base .. base + n. */
static bool hides(const tile *t, int32_t base, int32_t n) {
    return t->position >= t->resume && base >= t->hide && base + n <= t->resume;
}

static void run_tile(tile *t) {
    int32_t last = t->position + t->n_tokens - 1, low = 0;
    if (t->spec->window > 0) low = KS_MAX(0, t->position - t->spec->window + 1);
    start(t);
    for (int32_t base = low / BLOCK * BLOCK; base <= last; base += BLOCK) {
        int32_t n = KS_MIN(BLOCK, last + 1 - base);
        if (hides(t, base, n)) continue;
        score_block(t, base, n);
        softmax_block(t, base, n);
        if (t->n_rows <= SMALL)
            value_block_few(t, base, n);
        else
            value_block(t, base, n);
    }
    finish(t);
}

/* ------------------------------------------------------------------- launch */

/* Tiles are numbered so that sequence s starts at offsets[s] / step + s: no
 * table needed, at most one number a sequence goes unused. */
static int32_t tile_base(const ks_seqs *seqs, int32_t s, int32_t step) {
    return seqs->offsets[s] / step + s;
}

static bool find_tile(tile *t, int32_t number, int32_t step) {
    const ks_seqs *seqs = t->seqs;
    int32_t low = 0, high = seqs->n_seq;
    while (high - low > 1) {
        int32_t mid = low + (high - low) / 2;
        if (tile_base(seqs, mid, step) <= number)
            low = mid;
        else
            high = mid;
    }
    int32_t length = seqs->offsets[low + 1] - seqs->offsets[low];
    t->seq = low;
    t->token = (number - tile_base(seqs, low, step)) * step;
    if (t->token >= length) return false;
    t->n_tokens = KS_MIN(step, length - t->token);
    t->position = ks__past(seqs, low) + t->token;
    if (!seqs->hidden) return true;
    t->hide = KS_MAX(0, seqs->hidden[2 * low]);
    t->resume = KS_MAX(t->hide, seqs->hidden[2 * low + 1]);
    return true;
}

static ks_status check(const ks_attn_spec *spec, const ks_seqs *seqs,
                       const ks_kv_layer *kv, const ks_view *q,
                       const ks_view *k, ks_err *err) {
    if (spec->head_dim > KS_MAX_HEAD_DIM)
        return ks_fail(err, KS_UNSUPPORTED,
                       "attention: a head of %d dims, at most %d are built in",
                       (int)spec->head_dim, (int)KS_MAX_HEAD_DIM);
    if (spec->n_kv_heads < 1 || spec->n_heads % spec->n_kv_heads)
        return ks_fail(err, KS_INTERNAL, "attention: %d heads on %d",
                       (int)spec->n_heads, (int)spec->n_kv_heads);
    if (q->cols != (int64_t)spec->n_heads * spec->head_dim ||
        k->cols != (int64_t)spec->n_kv_heads * spec->head_dim)
        return ks_fail(err, KS_INTERNAL,
                       "attention: %lld and %lld columns for %d and %d heads "
                       "of %d",
                       (long long)q->cols, (long long)k->cols,
                       (int)spec->n_heads, (int)spec->n_kv_heads,
                       (int)spec->head_dim);
    for (int32_t s = 0; seqs->past && s < seqs->n_seq; s++)
        if (seqs->past[s] > 0 && (!kv || !seqs->pages))
            return ks_fail(err, KS_INTERNAL,
                           "attention: sequence %d has a past and no store",
                           (int)s);
    return KS_OK;
}

ks_status KS_ISA_NAME(attention)(ks_dev *dev, ks_view out, ks_view q, ks_view k,
                                 ks_view v, const ks_attn_spec *spec,
                                 const ks_seqs *seqs, const ks_kv_layer *kv,
                                 ks_err *err) {
    ks_status st = check(spec, seqs, kv, &q, &k, err);
    if (st != KS_OK || seqs->n_tok == 0) return st;
    int32_t group = spec->n_heads / spec->n_kv_heads;
    int32_t heads = KS_MIN(group, ROWS); /* query heads of one task */
    int32_t parts = (group + heads - 1) / heads;
    int32_t step = ROWS / heads;
    int64_t tiles = seqs->n_tok / step + seqs->n_seq;
    int64_t per_tile = (int64_t)spec->n_kv_heads * parts;
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1)
    for (int64_t task = tiles * per_tile - 1; task >= 0; task--) {
        tile t = {.spec = spec,
                  .seqs = seqs,
                  .kv = kv,
                  .out = out,
                  .q = q,
                  .k = k,
                  .v = v};
        if (!find_tile(&t, (int32_t)(task / per_tile), step)) continue;
        int32_t part = (int32_t)(task % per_tile);
        t.group = part / parts;
        t.head = t.group * group + part % parts * heads;
        t.n_heads = KS_MIN(heads, (t.group + 1) * group - t.head);
        t.n_rows = t.n_tokens * t.n_heads;
        lay_out(&t, ks__scratch(dev));
        run_tile(&t);
    }
    return KS_OK;
}
