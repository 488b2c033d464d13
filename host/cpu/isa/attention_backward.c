/* attention_backward.c - the way back through attention, for many cotangents of
 * one forward.
 *
 * Tiles of 64 queries by 64 keys at absolute positions (Dao 2023, algorithm 2).
 * Probabilities of a tile are made once and serve every cotangent that covers
 * its queries; each then costs four products by the GEMM's micro-kernel. A task
 * is (kv head, a few cotangents of one sequence): it alone writes their rows of
 * dq, dk and dv, key tiles in order, query heads in order, query tiles in
 * order, so sums do not depend on threads or on the other cotangents.
 */
#include "isa.h"
#include "vmath.h"

enum { BLOCK = 64, MOST_SHARING = 16 };

typedef struct work {
    const ks_attn_spec *spec;
    const ks_seqs *seqs;
    const ks_cots *cots;
    ks_view dq, dk, dv, dout, q, k, v;
    const float *top, *rate; /* [n_tok, H]: P = exp(s - top) rate */
    const float *dots;       /* [n_rows, H]: rowsum(dO O) */
    int32_t seq, group;      /* sequence, kv head */
    int32_t cot, n_cots;     /* cotangents [cot, cot + n_cots) */
    /* [queries, BLOCK], or [keys, BLOCK] where turned */
    float *p, *slope, *ds, *turned_p, *turned_ds;
    float *keys, *values;               /* [BLOCK / NR][D, NR] */
    float *key_rows, *q_rows, *do_rows; /* [Dp / NR][BLOCK, NR] */
} work;

static int32_t padded(int32_t dim) {
    return (dim + NR - 1) / NR * NR;
}

static void lay_out(work *w, float *scratch) {
    int64_t panel = (int64_t)BLOCK * padded(w->spec->head_dim);
    float **tiles[] = {&w->p, &w->slope, &w->ds, &w->turned_p, &w->turned_ds};
    float **panels[] = {&w->keys, &w->values, &w->key_rows, &w->q_rows,
                        &w->do_rows};
    for (size_t i = 0; i < KS_COUNT(tiles); i++, scratch += BLOCK * BLOCK)
        *tiles[i] = scratch;
    for (size_t i = 0; i < KS_COUNT(panels); i++, scratch += panel)
        *panels[i] = scratch;
}

/* ------------------------------------------------------------------- pieces */

/* out[m, n] (+)= x[m, kc] panels, panels of kc rows one after another. */
static void multiply(int32_t m, int32_t n, int32_t kc, const float *x,
                     int64_t x_stride, const float *panels, float *out,
                     int64_t out_stride, bool add) {
    for (int32_t j = 0; j < n; j += NR, panels += (int64_t)kc * NR)
        for (int32_t i = 0; i < m; i += MR)
            ks__multiply(KS_MIN(MR, m - i), kc, x + i * x_stride, x_stride,
                         panels, out + i * out_stride + j, out_stride,
                         KS_MIN(NR, n - j), NULL, add);
}

/* n rows of one head as panels [n / NR][D, NR]: transposed. */
static void turn_rows(const float *from, int64_t stride, int32_t n, int32_t d,
                      float *panels) {
    ks_view rows = {(void *)(uintptr_t)from, n, d, stride, KS_F32};
    for (int32_t i = 0; i < n; i += NR, panels += (int64_t)d * NR)
        ks__unpack(&rows, i, KS_MIN(NR, n - i), 0, d, panels, NULL);
}

/* n rows of one head as panels [D / NR][n, NR]. */
static void cut_rows(const float *from, int64_t stride, int32_t n, int32_t d,
                     float *panels) {
    ks_view rows = {(void *)(uintptr_t)from, n, d, stride, KS_F32};
    ks__unpack_rows(&rows, 0, n, 0, d, panels, NULL);
}

/* to[j, i] = from[i, j], whole tiles. */
static void turn_tile(const float *from, float *to) {
    for (int i = 0; i < BLOCK; i += 4)
        for (int j = 0; j < BLOCK; j += 4) {
            const float *f = from + i * BLOCK + j;
            __m128 a = _mm_loadu_ps(f), b = _mm_loadu_ps(f + BLOCK);
            __m128 c = _mm_loadu_ps(f + 2 * BLOCK);
            __m128 d = _mm_loadu_ps(f + 3 * BLOCK);
            _MM_TRANSPOSE4_PS(a, b, c, d);
            float *t = to + j * BLOCK + i;
            _mm_storeu_ps(t, a);
            _mm_storeu_ps(t + BLOCK, b);
            _mm_storeu_ps(t + 2 * BLOCK, c);
            _mm_storeu_ps(t + 3 * BLOCK, d);
        }
}

/* Keys [low, high) of the block at `base` that a query sees. */
static void visible(const ks_attn_spec *spec, int32_t query, int32_t base,
                    int32_t n, int32_t *low, int32_t *high) {
    *low = 0;
    if (spec->window > 0) *low = KS_MAX(0, query - spec->window + 1 - base);
    *high = KS_MIN(n, query + 1 - base);
}

/* One row of raw scores, capped and masked (-inf). */
KS_INLINE vf capped(const ks_attn_spec *spec, const float *s, int i,
                    int32_t low, int32_t high) {
    vi key;
    for (int lane = 0; lane < VL; lane++) key[lane] = lane + i;
    vf v = vload(s + i) * vset(spec->scale);
    if (spec->softcap > 0) v = vsoftcap(v, spec->softcap);
    return vselect((key >= low) & (key < high), v, vset(-INFINITY));
}

/* ------------------------------------------- maxima and sums of the softmax */

typedef struct normaliser {
    const ks_attn_spec *spec;
    const ks_seqs *seqs;
    ks_view q, k;
    float *top, *rate;
} normaliser;

/* Online, a key block at a time, as in attention.c. */
static void normalise_row(const normaliser *a, const float *s, int32_t low,
                          int32_t high, float *top, float *total) {
    vf v[BLOCK / VL], most = vset(-INFINITY), sum = vset(0);
    for (int i = 0; i < BLOCK / VL; i++) {
        v[i] = capped(a->spec, s, i * VL, low, high);
        most = vmax(v[i], most);
    }
    float after = vmaxlane(most);
    after = after > *top ? after : *top;
    float shift = after > -INFINITY ? after : 0;
    for (int i = 0; i < BLOCK / VL; i++) sum = sum + vexp(v[i] - vset(shift));
    *total = madd1(*total, vexp(vset(*top - shift))[0], vsum(sum));
    *top = after;
}

/* Queries of the block at position `at` of a sequence, all heads. */
static void normalise(const normaliser *a, int32_t seq, int32_t at,
                      float *scratch) {
    const ks_attn_spec *spec = a->spec;
    int32_t d = spec->head_dim, begin = a->seqs->offsets[seq];
    int32_t n = KS_MIN(BLOCK, a->seqs->offsets[seq + 1] - begin - at);
    int32_t share = spec->n_heads / spec->n_kv_heads, low = 0;
    float *scores = scratch, *keys = scores + BLOCK * BLOCK;
    if (spec->window > 0) low = KS_MAX(0, at - spec->window + 1);
    for (int32_t h = 0; h < spec->n_heads; h++) {
        float top[BLOCK], total[BLOCK];
        for (int32_t i = 0; i < n; i++) {
            top[i] = spec->sinks ? spec->sinks[h] : -INFINITY;
            total[i] = spec->sinks ? 1 : 0;
        }
        for (int32_t base = low / BLOCK * BLOCK; base < at + n; base += BLOCK) {
            int32_t m = KS_MIN(BLOCK, at + n - base);
            turn_rows(ks__row_f32(&a->k, begin + base) + h / share * d,
                      a->k.stride, m, d, keys);
            multiply(n, m, d, ks__row_f32(&a->q, begin + at) + h * d,
                     a->q.stride, keys, scores, BLOCK, false);
            for (int32_t i = 0; i < n; i++) {
                int32_t from, to;
                visible(spec, at + i, base, m, &from, &to);
                if (from < to)
                    normalise_row(a, scores + i * BLOCK, from, to, top + i,
                                  total + i);
            }
        }
        for (int32_t i = 0; i < n; i++) {
            int64_t to = (int64_t)(begin + at + i) * spec->n_heads + h;
            a->top[to] = top[i];
            a->rate[to] = 1 / total[i];
        }
    }
}

/* dots[i, h] = dout[i, h] . out[row[i], h] */
static void dot_heads(float *to, const float *dout, const float *out,
                      int32_t n_heads, int32_t d) {
    for (int32_t h = 0; h < n_heads; h++, dout += d, out += d) {
        vf sum = vset(0);
        for (int32_t j = 0; j < d; j += VL)
            sum = madd(vload_n(dout + j, KS_MIN(VL, d - j), 0),
                       vload_n(out + j, KS_MIN(VL, d - j), 0), sum);
        to[h] = vsum(sum);
    }
}

/* -------------------------------------------------------------------- tiles */

/* A tile: queries [query, query + nq) and keys [key, key + nk) of the sequence,
 * one head. */
typedef struct tile {
    int32_t head, query, nq, key, nk;
} tile;

/* Probabilities and slopes of the tile; 0 where a key is not seen. */
static void probabilities(const work *w, const tile *t) {
    const ks_attn_spec *spec = w->spec;
    int32_t d = spec->head_dim;
    int64_t first = w->seqs->offsets[w->seq] + t->query;
    multiply(t->nq, t->nk, d, ks__row_f32(&w->q, first) + t->head * d,
             w->q.stride, w->keys, w->p, BLOCK, false);
    for (int32_t r = 0; r < t->nq; r++) {
        int64_t at = (first + r) * spec->n_heads + t->head;
        float *p = w->p + r * BLOCK, *slope = w->slope + r * BLOCK;
        int32_t low, high;
        visible(spec, t->query + r, t->key, t->nk, &low, &high);
        for (int i = 0; i < BLOCK; i += VL) {
            vf s = capped(spec, p, i, low, high), k = vset(spec->scale);
            if (spec->softcap > 0) {
                vf c = vmax(s, vset(-spec->softcap)) / vset(spec->softcap);
                k = k * ((vset(1) - c) * (vset(1) + c));
            }
            vstore(slope + i, k);
            vstore(p + i, vexp(s - vset(w->top[at])) * vset(w->rate[at]));
        }
    }
}

/* ds = p (ds - dot) slope for rows [from, to) of the tile; row `from` is row
 * `row` of the cotangents. */
static void score_cotangents(const work *w, const tile *t, int32_t from,
                             int32_t to, int64_t row) {
    for (int32_t r = from; r < to; r++, row++) {
        vf dot = vset(w->dots[row * w->spec->n_heads + t->head]);
        for (int i = r * BLOCK; i < (r + 1) * BLOCK; i += VL) {
            vf p = vload(w->p + i), d = vload(w->ds + i) - dot;
            vstore(w->ds + i, p * d * vload(w->slope + i));
        }
    }
}

/* What one cotangent takes from a tile. */
static void pull(const work *w, const tile *t, int32_t cot) {
    int32_t d = w->spec->head_dim, begin = w->seqs->offsets[w->seq];
    int32_t first = w->cots->first[cot] - begin;
    int64_t base = w->cots->offsets[cot];
    int32_t end = first + w->cots->offsets[cot + 1] - (int32_t)base;
    int32_t from = KS_MAX(first, t->query) - t->query;
    int32_t to = KS_MIN(end, t->query + t->nq) - t->query;
    if (from >= to) return;
    int32_t n = to - from;
    int64_t row = base + t->query + from - first;
    const float *dout = ks__row_f32(&w->dout, row) + t->head * d;
    multiply(n, t->nk, d, dout, w->dout.stride, w->values, w->ds + from * BLOCK,
             BLOCK, false);
    score_cotangents(w, t, from, to, row);
    multiply(n, d, t->nk, w->ds + from * BLOCK, BLOCK, w->key_rows,
             ks__row_f32(&w->dq, row) + t->head * d, w->dq.stride, true);
    int32_t low = KS_MAX(first, t->key) - t->key;
    int32_t high = KS_MIN(end, t->key + t->nk) - t->key;
    if (low >= high) return;
    row = base + t->key + low - first;
    turn_tile(w->ds, w->turned_ds);
    cut_rows(ks__row_f32(&w->q, begin + t->query + from) + t->head * d,
             w->q.stride, n, d, w->q_rows);
    cut_rows(dout, w->dout.stride, n, d, w->do_rows);
    multiply(high - low, d, n, w->turned_ds + low * BLOCK + from, BLOCK,
             w->q_rows, ks__row_f32(&w->dk, row) + w->group * d, w->dk.stride,
             true);
    multiply(high - low, d, n, w->turned_p + low * BLOCK + from, BLOCK,
             w->do_rows, ks__row_f32(&w->dv, row) + w->group * d, w->dv.stride,
             true);
}

/* --------------------------------------------------------------------- task */

static void clear(const work *w) {
    int32_t d = w->spec->head_dim;
    int32_t share = w->spec->n_heads / w->spec->n_kv_heads;
    size_t head = (size_t)d * sizeof(float);
    int32_t begin = w->cots->offsets[w->cot];
    int32_t end = w->cots->offsets[w->cot + w->n_cots];
    for (int32_t i = begin; i < end; i++) {
        memset(ks__row_f32(&w->dq, i) + w->group * share * d, 0, share * head);
        memset(ks__row_f32(&w->dk, i) + w->group * d, 0, head);
        memset(ks__row_f32(&w->dv, i) + w->group * d, 0, head);
    }
}

/* Positions that the task's cotangents cover. */
static void extent(const work *w, int32_t *first, int32_t *end) {
    const ks_cots *c = w->cots;
    int32_t begin = w->seqs->offsets[w->seq];
    *first = INT32_MAX, *end = 0;
    for (int32_t i = w->cot; i < w->cot + w->n_cots; i++) {
        int32_t n = c->offsets[i + 1] - c->offsets[i];
        if (n == 0) continue;
        *first = KS_MIN(*first, c->first[i] - begin);
        *end = KS_MAX(*end, c->first[i] - begin + n);
    }
}

static void run_tile(const work *w, const tile *t) {
    probabilities(w, t);
    turn_tile(w->p, w->turned_p);
    for (int32_t c = 0; c < w->n_cots; c++) pull(w, t, w->cot + c);
}

static void run_task(work *w) {
    const ks_attn_spec *spec = w->spec;
    int32_t share = spec->n_heads / spec->n_kv_heads, d = spec->head_dim;
    int32_t begin = w->seqs->offsets[w->seq], first, end;
    clear(w);
    extent(w, &first, &end);
    for (int32_t key = 0; key < end; key += BLOCK) {
        int32_t nk = KS_MIN(BLOCK, end - key), last = end;
        int32_t query = KS_MAX(key, first / BLOCK * BLOCK);
        if (spec->window > 0) /* no later query sees the block's last key */
            last = KS_MIN(end, key + nk - 1 + spec->window);
        if (query >= last) continue;
        const float *k = ks__row_f32(&w->k, begin + key) + w->group * d;
        turn_rows(k, w->k.stride, nk, d, w->keys);
        cut_rows(k, w->k.stride, nk, d, w->key_rows);
        turn_rows(ks__row_f32(&w->v, begin + key) + w->group * d, w->v.stride,
                  nk, d, w->values);
        for (int32_t h = 0; h < share; h++)
            for (int32_t at = query; at < last; at += BLOCK) {
                tile t = {w->group * share + h, at, KS_MIN(BLOCK, end - at),
                          key, nk};
                run_tile(w, &t);
            }
    }
}

/* ------------------------------------------------------------------- launch */

static bool fits(const ks_view *v, int64_t rows, int64_t cols) {
    return v->rows == rows && v->cols == cols && v->type == KS_F32;
}

static ks_status check(const work *w, const ks_view *out, ks_err *err) {
    const ks_attn_spec *s = w->spec;
    int64_t n = w->seqs->n_tok, r = w->cots->n_rows;
    int64_t d = s->head_dim;
    if (d < 1 || d > KS_MAX_HEAD_DIM || s->n_kv_heads < 1 ||
        s->n_heads % s->n_kv_heads)
        return ks_fail(err, KS_UNSUPPORTED,
                       "attention backward: %d heads on %d, of %d dims (at "
                       "most %d)",
                       (int)s->n_heads, (int)s->n_kv_heads, (int)d,
                       (int)KS_MAX_HEAD_DIM);
    int64_t heads = s->n_heads * d, groups = s->n_kv_heads * d;
    if (!fits(&w->dq, r, heads) || !fits(&w->dk, r, groups) ||
        !fits(&w->dv, r, groups) || !fits(&w->dout, r, heads) ||
        !fits(out, n, heads) || !fits(&w->q, n, heads) ||
        !fits(&w->k, n, groups) || !fits(&w->v, n, groups))
        return ks_fail(err, KS_INTERNAL,
                       "attention backward: %lld rows of cotangents for %lld "
                       "tokens, %lld and %lld columns: a view has others",
                       (long long)r, (long long)n, (long long)heads,
                       (long long)groups);
    for (int32_t i = 0; i < w->seqs->n_seq; i++)
        if (ks__past(w->seqs, i) > 0)
            return ks_fail(err, KS_INTERNAL,
                           "attention backward: sequence %d has a past",
                           (int)i);
    if (w->seqs->hidden)
        return ks_fail(err, KS_INTERNAL,
                       "attention backward: %d sequences with hidden keys",
                       (int)w->seqs->n_seq);
    return KS_OK;
}

static void prepare(ks_dev *dev, const work *w, const ks_view *out,
                    const normaliser *a, float *dots) {
    const ks_attn_spec *spec = w->spec;
    const ks_seqs *seqs = w->seqs;
    int32_t low = INT32_MAX, high = 0; /* tokens that cotangents cover */
    for (int32_t i = 0; i < w->cots->n_cot; i++) {
        int32_t n = w->cots->offsets[i + 1] - w->cots->offsets[i];
        low = KS_MIN(low, w->cots->first[i]);
        high = KS_MAX(high, w->cots->first[i] + n);
    }
    int32_t tiles = seqs->n_tok / BLOCK + seqs->n_seq;
#pragma omp parallel num_threads(dev->threads)
    {
#pragma omp for schedule(dynamic, 1) nowait
        for (int32_t i = tiles - 1; i >= 0; i--) {
            /* sequence s starts at tile offsets[s] / BLOCK + s */
            int32_t s = 0, end = seqs->n_seq;
            while (end - s > 1) {
                int32_t mid = s + (end - s) / 2;
                if (seqs->offsets[mid] / BLOCK + mid <= i)
                    s = mid;
                else
                    end = mid;
            }
            int32_t at = (i - seqs->offsets[s] / BLOCK - s) * BLOCK;
            int32_t token = seqs->offsets[s] + at;
            if (token < seqs->offsets[s + 1] && token < high &&
                token + BLOCK > low)
                normalise(a, s, at, ks__scratch(dev));
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < w->cots->n_rows; i++)
            dot_heads(dots + i * spec->n_heads, ks__row_f32(&w->dout, i),
                      ks__row_f32(out, w->cots->row[i]), spec->n_heads,
                      spec->head_dim);
    }
}

/* The next cotangents that one task takes, from `cot` on: neighbours of one
 * sequence, at most `most`. */
static int32_t neighbours(const work *w, int32_t cot, int32_t most) {
    int32_t seq = ks__sequence_of(w->seqs, w->cots->first[cot]), n = 1;
    while (n < most && cot + n < w->cots->n_cot &&
           ks__sequence_of(w->seqs, w->cots->first[cot + n]) == seq)
        n++;
    return n;
}

ks_status KS_ISA_NAME(attention_backward)(ks_dev *dev, ks_view dq, ks_view dk,
                                          ks_view dv, ks_view dout, ks_view out,
                                          ks_view q, ks_view k, ks_view v,
                                          const ks_attn_spec *spec,
                                          const ks_seqs *seqs,
                                          const ks_cots *cots, ks_err *err) {
    work all = {.spec = spec,
                .seqs = seqs,
                .cots = cots,
                .dq = dq,
                .dk = dk,
                .dv = dv,
                .dout = dout,
                .q = q,
                .k = k,
                .v = v};
    ks_status st = check(&all, &out, err);
    if (st != KS_OK || cots->n_rows == 0) return st;
    int64_t stats = (int64_t)seqs->n_tok * spec->n_heads;
    int64_t floats = 2 * stats + (int64_t)cots->n_rows * spec->n_heads;
    st = ks__shared(dev,
                    (size_t)floats * sizeof(float) +
                        (size_t)cots->n_cot * 2 * sizeof(int32_t),
                    "attention backward", err);
    if (st != KS_OK) return st;
    float *top = dev->shared.data, *rate = top + stats, *dots = rate + stats;
    int32_t(*parts)[2] = (int32_t(*)[2])(top + floats), n_parts = 0;
    normaliser a = {spec, seqs, q, k, top, rate};
    prepare(dev, &all, &out, &a, dots);
    all.top = top, all.rate = rate, all.dots = dots;
    /* Cotangents that share probabilities, against tasks for every thread. */
    int64_t wanted = 4 * (int64_t)dev->threads;
    int64_t most = (int64_t)cots->n_cot * spec->n_kv_heads / wanted;
    most = KS_MAX(1, KS_MIN(MOST_SHARING, most));
    for (int32_t c = 0; c < cots->n_cot; n_parts++) {
        parts[n_parts][0] = c;
        c += parts[n_parts][1] = neighbours(&all, c, (int32_t)most);
    }
    int64_t tasks = (int64_t)n_parts * spec->n_kv_heads;
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1)
    for (int64_t i = tasks - 1; i >= 0; i--) {
        work w = all;
        w.cot = parts[i / spec->n_kv_heads][0];
        w.n_cots = parts[i / spec->n_kv_heads][1];
        w.group = (int32_t)(i % spec->n_kv_heads);
        w.seq = ks__sequence_of(seqs, cots->first[w.cot]);
        lay_out(&w, ks__scratch(dev));
        run_task(&w);
    }
    return KS_OK;
}
