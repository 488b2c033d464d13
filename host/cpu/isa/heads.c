/* heads.c - ops on logits, which exist a tile at a time only: score keeps a
 * maximum and a sum for each piece of the vocabulary, sample and share a few
 * rows.
 */
#include "isa.h"
#include "logits.h"
#include "weights.h"
#include "../../philox.h"

/* A piece of logits in L2: rows x vocabulary; rows of score in one go, and
 * rows whose whole logits sample and share hold. */
enum { PIECE_ROWS = 96, PIECE_COLS = 768, GROUP = 384, HELD = KS_DRAW_ROWS };

static ks_product logits_of(ks_view hidden, ks_view head) {
    return (ks_product){.x = hidden.data, .x_stride = hidden.stride, .w = head};
}

static ks_status check(ks_view hidden, ks_view head, ks_err *err) {
    if (hidden.cols != head.cols)
        return ks_fail(err, KS_INTERNAL, "logits: [%lld,%lld] by [%lld,%lld]",
                       (long long)hidden.rows, (long long)hidden.cols,
                       (long long)head.rows, (long long)head.cols);
    return KS_OK;
}

/* -------------------------------------------------------------------- score */

typedef struct scorer {
    ks_product logits;
    float softcap;
    const int32_t *target;
    int64_t rows, pieces;
    float *highest, *sum, *wanted; /* [GROUP, pieces] twice, [GROUP] */
} scorer;

/* Rows [m, m_end), piece number `piece` of the vocabulary. */
static void score_piece(const scorer *s, int64_t first, int64_t m,
                        int64_t m_end, int64_t piece, char *scratch) {
    int64_t n0 = piece * PIECE_COLS;
    int64_t n = KS_MIN(PIECE_COLS, s->logits.w.rows - n0);
    ks_product p = s->logits;
    float *tile = (float *)scratch;
    p.out_stride = PIECE_COLS;
    ks__product(&p, tile, m, m_end, n0, n0 + n,
                scratch + PIECE_ROWS * PIECE_COLS * sizeof(float));
    for (int64_t i = m; i < m_end; i++) {
        float *row = tile + (i - m) * PIECE_COLS;
        if (s->softcap > 0) cap_row(row, n, s->softcap);
        float top = highest(row, n);
        int64_t at = (i - first) * s->pieces + piece;
        s->highest[at] = top;
        s->sum[at] = exp_sum(row, n, top);
        int64_t target = s->target[i] - n0;
        if (target >= 0 && target < n) s->wanted[i - first] = row[target];
    }
}

/* log(sum over pieces of sum_i e^top_i) */
static double log_sum(const float *top, const float *sum, int64_t n) {
    double most = -INFINITY, total = 0;
    for (int64_t i = 0; i < n; i++) most = top[i] > most ? top[i] : most;
    for (int64_t i = 0; i < n; i++) total += sum[i] * exp(top[i] - most);
    return most + log(total);
}

ks_status KS_ISA_NAME(score)(ks_dev *dev, float *logprob, ks_view hidden,
                             ks_view head, float softcap, const int32_t *target,
                             ks_err *err) {
    ks_status st = check(hidden, head, err);
    int64_t pieces = (head.rows + PIECE_COLS - 1) / PIECE_COLS;
    scorer s = {logits_of(hidden, head),
                softcap,
                target,
                hidden.rows,
                pieces,
                NULL,
                NULL,
                NULL};
    if (st == KS_OK)
        st = ks__shared(dev, (size_t)GROUP * (2 * pieces + 1) * sizeof(float),
                        "scoring", err);
    if (st != KS_OK) return st;
    s.highest = dev->shared.data;
    s.sum = s.highest + GROUP * pieces;
    s.wanted = s.sum + GROUP * pieces;
    for (int64_t first = 0; first < hidden.rows; first += GROUP) {
        int64_t end = KS_MIN(first + GROUP, hidden.rows);
        int64_t tiles = (end - first + PIECE_ROWS - 1) / PIECE_ROWS;
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1)
        for (int64_t task = 0; task < tiles * pieces; task++) {
            int64_t m = first + task % tiles * PIECE_ROWS;
            score_piece(&s, first, m, KS_MIN(m + PIECE_ROWS, end), task / tiles,
                        ks__scratch(dev));
        }
        for (int64_t i = first; i < end; i++) {
            int64_t at = (i - first) * pieces;
            double z = log_sum(s.highest + at, s.sum + at, pieces);
            logprob[i] = (float)(s.wanted[i - first] - z);
        }
    }
    return KS_OK;
}

/* -------------------------------------------------------- sample and share */

static uint64_t sort_key(float logit, int32_t id) {
    uint32_t bits;
    memcpy(&bits, &logit, sizeof bits);
    return ks_draw_key(bits, id);
}

static int by_key(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* sum of exp(row - top) over all ids, in double over pieces */
static double total_exp(const float *row, int64_t n, float top) {
    double total = 0;
    for (int64_t j = 0; j < n; j += PIECE_COLS)
        total += exp_sum(row + j, KS_MIN(PIECE_COLS, n - j), top);
    return total;
}

/* A row of logits, what its weights need (draw.h), and its candidates: the keys
 * of all logits down to `reach` temperatures below the top, sorted. */
typedef struct lottery {
    const float *row;
    int64_t n;
    const ks_sample_spec *spec;
    float top;
    double rate;
    uint64_t *keys; /* [n] */
    int64_t count;
    int reach;
} lottery;

/* What top-k and top-p leave: the sum of weights, and the last key. */
typedef struct cut {
    uint64_t sum, last;
} cut;

static bool greedy(const ks_sample_spec *spec) {
    return !(spec->temperature > 0);
}

static uint64_t weight_of(const lottery *l, int64_t id) {
    return ks_draw_weight(ks_draw_depth(l->row[id], l->top, l->rate));
}

/* Almost always a short head of the distribution holds what is looked for. */
static void more_candidates(lottery *l) {
    l->reach = l->reach ? 2 * l->reach : 8;
    l->count = 0;
    float least = l->top - (float)l->reach * l->spec->temperature;
    for (int64_t i = 0; i < l->n; i++)
        if (l->row[i] >= least)
            l->keys[l->count++] = sort_key(l->row[i], (int32_t)i);
    qsort(l->keys, (size_t)l->count, sizeof *l->keys, by_key);
}

/* Sum of the first `last` candidates, or up to where it reaches `enough`;
 * *count: how many that takes. */
static uint64_t sum_to(const lottery *l, int64_t last, uint64_t enough,
                       int64_t *count) {
    uint64_t sum = 0;
    int64_t i = 0;
    while (i < last && sum < enough)
        sum += weight_of(l, (int64_t)(l->keys[i++] & UINT32_MAX));
    *count = i;
    return sum;
}

/* False: more candidates are needed. everything: the sum of all ids. */
static bool cut_candidates(const lottery *l, uint64_t everything, cut *out) {
    int32_t top_k = l->spec->top_k;
    int64_t last = l->count;
    out->sum = everything;
    if (top_k > 0) {
        /* 32 temperatures (46 octaves) below the top nothing weighs anything */
        if (last < top_k && last < l->n && l->reach < 32) return false;
        out->sum = sum_to(l, KS_MIN(last, top_k), UINT64_MAX, &last);
    }
    if (l->spec->top_p < 1) {
        uint64_t share = ks_draw_share(out->sum, l->spec->top_p);
        out->sum = sum_to(l, last, share, &last);
        if (out->sum < share) return false;
    }
    out->last = l->keys[last - 1];
    return true;
}

static cut cut_of(lottery *l) {
    const ks_sample_spec *spec = l->spec;
    cut c = {0, UINT64_MAX};
    if (greedy(spec)) {
        int32_t i = 0;
        while (l->row[i] != l->top) i++;
        return (cut){ks_draw_weight(0), sort_key(l->top, i)};
    }
    if (spec->top_k <= 0) c.sum = sum_weights(l->row, l->n, l->top, l->rate);
    if (spec->top_k <= 0 && !(spec->top_p < 1)) return c;
    uint64_t everything = c.sum;
    do more_candidates(l);
    while (!cut_candidates(l, everything, &c));
    return c;
}

static int32_t draw(lottery *l) {
    cut c = cut_of(l);
    if (greedy(l->spec)) return (int32_t)(c.last & UINT32_MAX);
    uint32_t words[4];
    ks_philox(l->spec->key, l->spec->counter, words);
    uint64_t place = ks_draw_place(c.sum, words[0]);
    int64_t at;
    while (sum_to(l, l->count, place, &at) < place) more_candidates(l);
    return (int32_t)(l->keys[at - 1] & UINT32_MAX);
}

static double share_of(lottery *l, const int32_t *ids, int64_t n) {
    cut c = cut_of(l);
    uint64_t part = 0;
    for (int64_t i = 0; i < n; i++)
        if (sort_key(l->row[ids[i]], ids[i]) <= c.last)
            part += weight_of(l, ids[i]);
    return ks_draw_log(part, c.sum);
}

/* Rows of either op. */
typedef struct drawing {
    ks_view hidden, head;
    float softcap;
    const ks_sample_spec *spec;
    int32_t *id; /* sample's */
    float *logprob;
    double *share; /* share's; NULL: sample */
    const int32_t *offsets, *ids;
} drawing;

static bool draw_row(const drawing *d, int64_t i, float *row, uint64_t *keys) {
    const ks_sample_spec *spec = d->spec + i;
    int64_t n = d->head.rows;
    if (d->softcap > 0) cap_row(row, n, d->softcap);
    float top = highest(row, n);
    double total = total_exp(row, n, top);
    bool good = total < INFINITY; /* false: NaN, or an infinite logit */
    lottery l = {.row = row, .n = n, .spec = spec, .top = top};
    l.keys = keys;
    if (!greedy(spec)) l.rate = ks_draw_rate(spec->temperature);
    if (d->share) {
        const int32_t *at = d->offsets + i;
        d->share[i] = good ? share_of(&l, d->ids + at[0], at[1] - at[0]) : NAN;
    } else if (good) {
        d->id[i] = draw(&l);
        if (d->logprob)
            d->logprob[i] = (float)((double)row[d->id[i]] - top - log(total));
    }
    return good;
}

static ks_status draw_rows(ks_dev *dev, const drawing *d, ks_err *err) {
    ks_status st = check(d->hidden, d->head, err);
    int64_t n = d->head.rows, all = d->hidden.rows, bad = all;
    int64_t held = KS_MIN(HELD, all);
    if (st == KS_OK && n > KS_DRAW_TOKENS)
        return ks_fail(err, KS_UNSUPPORTED,
                       "sampling: %lld tokens, at most %d are built in",
                       (long long)n, (int)KS_DRAW_TOKENS);
    if (st == KS_OK)
        st = ks__shared(dev,
                        (size_t)n * (held * sizeof(float) +
                                     dev->threads * sizeof(uint64_t)),
                        "sampling", err);
    if (st != KS_OK) return st;
    uint64_t *keys = dev->shared.data;
    float *logits = (float *)(keys + n * dev->threads);
    for (int64_t first = 0; first < all; first += held) {
        int64_t rows = KS_MIN(held, all - first);
        ks_product p = logits_of(d->hidden, d->head);
        p.out_stride = n;
#pragma omp parallel num_threads(dev->threads)
        {
#pragma omp for schedule(dynamic, 1)
            for (int64_t j = 0; j < n; j += NB)
                ks__product(&p, logits + j, first, first + rows, j,
                            KS_MIN(j + NB, n), ks__scratch(dev));
#pragma omp for schedule(dynamic, 1) reduction(min : bad)
            for (int64_t i = 0; i < rows; i++)
                if (!draw_row(d, first + i, logits + i * n,
                              keys + n * omp_get_thread_num()))
                    bad = KS_MIN(bad, first + i);
        }
    }
    if (bad < all)
        return ks_fail(err, KS_NUMERIC,
                       "sampling: the logits of row %lld are not finite",
                       (long long)bad);
    return KS_OK;
}

ks_status KS_ISA_NAME(sample)(ks_dev *dev, int32_t *id, float *logprob,
                              ks_view hidden, ks_view head, float softcap,
                              const ks_sample_spec *spec, ks_err *err) {
    drawing d = {
        .hidden = hidden, .head = head, .softcap = softcap, .spec = spec};
    d.id = id;
    d.logprob = logprob;
    return draw_rows(dev, &d, err);
}

ks_status KS_ISA_NAME(share)(ks_dev *dev, double *share, ks_view hidden,
                             ks_view head, float softcap,
                             const ks_sample_spec *spec, const int32_t *offsets,
                             const int32_t *ids, ks_err *err) {
    drawing d = {.hidden = hidden,
                 .head = head,
                 .softcap = softcap,
                 .spec = spec,
                 .offsets = offsets,
                 .ids = ids};
    d.share = share;
    return draw_rows(dev, &d, err);
}
