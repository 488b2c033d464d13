/* heads.c - ops on logits, which exist a tile at a time only: score keeps a
 * maximum and a sum for each piece of the vocabulary, sample a few rows.
 */
#include "isa.h"
#include "logits.h"
#include "weights.h"
#include "../../philox.h"

/* A piece of logits in L2: rows x vocabulary; rows of score in one go, and
 * rows whose whole logits sample holds. */
enum { PIECE_ROWS = 96, PIECE_COLS = 768, GROUP = 384, HELD = 64 };

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

/* ------------------------------------------------------------------- sample */

static uint64_t sort_key(float logit, int32_t id) {
    uint32_t bits;
    memcpy(&bits, &logit, sizeof bits);
    return ks_draw_key(bits, id);
}

static int by_key(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Keys of all logits >= least, sorted; returns their number. */
static int64_t candidates(uint64_t *keys, const float *row, int64_t n,
                          float least) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        if (row[i] >= least) keys[count++] = sort_key(row[i], (int32_t)i);
    qsort(keys, (size_t)count, sizeof *keys, by_key);
    return count;
}

/* sum of exp(row - top) over all ids, in double over pieces */
static double total_exp(const float *row, int64_t n, float top) {
    double total = 0;
    for (int64_t j = 0; j < n; j += PIECE_COLS)
        total += exp_sum(row + j, KS_MIN(PIECE_COLS, n - j), top);
    return total;
}

/* A row of logits and what its weights need (draw.h). */
typedef struct lottery {
    const float *row;
    int64_t n;
    float top;
    double rate;
} lottery;

static uint64_t weight_of(const lottery *l, int64_t id) {
    return ks_draw_weight(ks_draw_depth(l->row[id], l->top, l->rate));
}

/* Sum of the first `last` sorted candidates, or up to where it reaches
 * `enough`; *count: how many that takes. */
static uint64_t sum_to(const lottery *l, const uint64_t *keys, int64_t last,
                       uint64_t enough, int64_t *count) {
    uint64_t sum = 0;
    int64_t i = 0;
    while (i < last && sum < enough)
        sum += weight_of(l, (int64_t)(keys[i++] & UINT32_MAX));
    *count = i;
    return sum;
}

/* Walks the sorted candidates: finds the kept total under top-k and top-p,
 * then the draw. everything: the sum of all ids. all: no other id weighs
 * anything. -1: more candidates are needed. */
static int32_t walk(const lottery *l, const uint64_t *keys, int64_t count,
                    bool all, uint64_t everything, const ks_sample_spec *spec,
                    uint32_t word) {
    uint64_t kept = everything;
    int64_t last = count;
    if (spec->top_k > 0) {
        if (count < spec->top_k && !all) return -1;
        last = KS_MIN(last, spec->top_k);
        kept = sum_to(l, keys, last, UINT64_MAX, &last);
    }
    if (spec->top_p < 1) {
        uint64_t share = ks_draw_share(kept, spec->top_p);
        kept = sum_to(l, keys, last, share, &last);
        if (kept < share) return -1;
    }
    uint64_t place = ks_draw_place(kept, word);
    if (sum_to(l, keys, last, place, &last) < place) return -1;
    return (int32_t)(keys[last - 1] & UINT32_MAX);
}

static int32_t draw(uint64_t *keys, const float *row, int64_t n, float top,
                    const ks_sample_spec *spec) {
    if (!(spec->temperature > 0)) {
        int64_t i = 0;
        while (row[i] != top) i++;
        return (int32_t)i;
    }
    uint32_t words[4];
    ks_philox(spec->key, spec->counter, words);
    lottery l = {row, n, top, ks_draw_rate(spec->temperature)};
    uint64_t everything =
        spec->top_k > 0 ? 0 : sum_weights(row, n, top, l.rate);
    /* Almost always a short head of the distribution holds the draw; 32
     * temperatures (46 octaves) below the top nothing weighs anything. */
    int32_t id = -1;
    for (int reach = 8; id < 0; reach *= 2) {
        int64_t count =
            candidates(keys, row, n, top - (float)reach * spec->temperature);
        id = walk(&l, keys, count, count == n || reach >= 32, everything, spec,
                  words[0]);
    }
    return id;
}

static bool sample_row(int32_t *id, float *logprob, float *row, int64_t n,
                       float softcap, const ks_sample_spec *spec,
                       uint64_t *keys) {
    if (softcap > 0) cap_row(row, n, softcap);
    float top = highest(row, n);
    double total = total_exp(row, n, top);
    if (!(total < INFINITY)) return false; /* NaN, or an infinite logit */
    *id = draw(keys, row, n, top, spec);
    if (logprob) *logprob = (float)((double)row[*id] - top - log(total));
    return true;
}

ks_status KS_ISA_NAME(sample)(ks_dev *dev, int32_t *id, float *logprob,
                              ks_view hidden, ks_view head, float softcap,
                              const ks_sample_spec *spec, ks_err *err) {
    ks_status st = check(hidden, head, err);
    int64_t n = head.rows, held = KS_MIN(HELD, hidden.rows), bad = hidden.rows;
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
    for (int64_t first = 0; first < hidden.rows; first += held) {
        int64_t rows = KS_MIN(held, hidden.rows - first);
        ks_product p = logits_of(hidden, head);
        p.out_stride = n;
#pragma omp parallel num_threads(dev->threads)
        {
#pragma omp for schedule(dynamic, 1)
            for (int64_t j = 0; j < n; j += NB)
                ks__product(&p, logits + j, first, first + rows, j,
                            KS_MIN(j + NB, n), ks__scratch(dev));
#pragma omp for schedule(dynamic, 1) reduction(min : bad)
            for (int64_t i = 0; i < rows; i++)
                if (!sample_row(id + first + i,
                                logprob ? logprob + first + i : NULL,
                                logits + i * n, n, softcap, spec + first + i,
                                keys + n * omp_get_thread_num()))
                    bad = KS_MIN(bad, first + i);
        }
    }
    if (bad < hidden.rows)
        return ks_fail(err, KS_NUMERIC,
                       "sampling: the logits of row %lld are not finite",
                       (long long)bad);
    return KS_OK;
}
