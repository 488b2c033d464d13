/* score, sample and share. */
#include "draw.h"
#include "philox.h"
#include "reference.h"

/* -------------------------------------------------------------------- score */

static double *ref_logits(const ks_view *hidden, const ks_view *head,
                          double softcap) {
    int64_t n = hidden->rows * head->rows;
    double *logits = doubles(n);
    ref_gemm(logits, hidden, head, NULL, NULL);
    for (int64_t i = 0; i < n && softcap > 0; i++)
        logits[i] = softcap * tanh(logits[i] / softcap);
    return logits;
}

static void score_one(backend *b, ks_type type, int64_t rows, int64_t vocab,
                      int64_t d, float softcap) {
    ks_view hidden = guarded_random(rows, d, d + 3);
    ks_view head = random_weights(type, vocab, d), hf = expanded(&head);
    double *logits = ref_logits(&hidden, &hf, (double)softcap);
    double *ref = doubles(rows);
    int32_t *target = malloc(sizeof *target * (size_t)rows);
    float *got = malloc(sizeof *got * (size_t)(rows + 1)), alone;
    got[rows] = GUARD_VALUE;
    for (int64_t i = 0; i < rows; i++) {
        target[i] = (int32_t)(random_bits() % (uint64_t)vocab);
        if (i == 0) target[i] = (int32_t)vocab - 1;
        ref[i] = ref_logprob(logits + i * vocab, vocab, target[i]);
    }
    RUN(b, score, got, hidden, head, softcap, target);
    cr_assert(close_f32("score", got, ref, (size_t)rows, 2e-5, 2e-6), "%s %s",
              b->ops->isa, ks_type_name(type));
    cr_assert(got[rows] == GUARD_VALUE);
    for (int64_t i = 0; i < rows; i += 7) {
        ks_view row = {at(&hidden, i), 1, d, d, KS_F32};
        RUN(b, score, &alone, row, head, softcap, target + i);
        cr_assert(alone == got[i], "row %lld alone", (long long)i);
    }
    guarded_free(&hidden), free(head.data), free(hf.data);
    free(logits), free(ref), free(target), free(got);
}

static void score(backend *b) {
    score_one(b, KS_F32, 1, 1, 33, 0);
    score_one(b, KS_F32, 13, 771, 64, 0);
    score_one(b, KS_BF16, 101, 2003, 96, 2);
    score_one(b, KS_Q8_0, 33, 769, 64, 0);
    score_one(b, KS_F32, 400, 800, 8, 0); /* more than one group of rows */
}

Test(heads, score) {
    ON_EVERY_BACKEND(score);
}

/* Logits of many hundreds do not overflow. */
static void score_large(backend *b) {
    float hidden = 1, head[1500], got;
    for (int i = 0; i < 1500; i++) head[i] = (float)i - 300;
    int32_t target = 1499;
    RUN(b, score, &got, ks_view_f32(&hidden, 1, 1), ks_view_f32(head, 1500, 1),
        0, &target);
    double ref = -log(1 / (1 - exp(-1.0)));
    cr_assert(close_f32("large", &got, &ref, 1, 1e-6, 1e-6));
}

Test(heads, score_of_large_logits) {
    ON_EVERY_BACKEND(score_large);
}

/* ------------------------------------------------------------------- sample */

static const float *order_by;

static int by_logit(const void *a, const void *b) {
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (order_by[i] != order_by[j]) return order_by[i] > order_by[j] ? -1 : 1;
    return (i > j) - (i < j);
}

/* What the rule of ops.h leaves, word for word, by a full sort: ids in order,
 * their weights and the sum of those of the first `kept`. */
typedef struct nucleus {
    int32_t *ids, kept;
    double *weight, total;
} nucleus;

static nucleus ref_nucleus(const float *logits, int32_t n,
                           const ks_sample_spec *spec) {
    nucleus r = {malloc(sizeof *r.ids * (size_t)n), n, doubles(n), 0};
    for (int32_t i = 0; i < n; i++) r.ids[i] = i;
    order_by = logits;
    qsort(r.ids, (size_t)n, sizeof *r.ids, by_logit);
    if (spec->top_k > 0 && spec->top_k < n) r.kept = spec->top_k;
    if (!(spec->temperature > 0)) r.kept = 1;
    double sum = 0, top = (double)logits[r.ids[0]];
    for (int32_t i = 0; i < r.kept; i++)
        r.total += r.weight[i] = r.kept == 1
                                     ? 1
                                     : exp(((double)logits[r.ids[i]] - top) /
                                           (double)spec->temperature);
    int32_t m = 0;
    while (m < r.kept && (m == 0 || sum < (double)spec->top_p * r.total))
        sum += r.weight[m++];
    if (spec->top_p < 1) r.kept = m, r.total = sum;
    return r;
}

static void nucleus_free(nucleus *r) {
    free(r->ids), free(r->weight);
}

static int32_t ref_sample(const float *logits, int32_t n,
                          const ks_sample_spec *spec) {
    nucleus r = ref_nucleus(logits, n, spec);
    int32_t id = r.ids[0];
    uint32_t words[4];
    ks_philox(spec->key, spec->counter, words);
    double u = (double)ks_philox_unit(words[0]), cumulative = 0;
    for (int32_t i = 0; i < r.kept; i++) {
        id = r.ids[i];
        if ((cumulative += r.weight[i]) > u * r.total) break;
    }
    nucleus_free(&r);
    return id;
}

static const ks_sample_spec SPECS[] = {
    {.temperature = 0, .top_p = 1},
    {.temperature = 1, .top_p = 1},
    {.temperature = 0.6f, .top_p = 0.95f},
    {.temperature = 1.3f, .top_p = 0.5f, .top_k = 20},
    {.temperature = 20, .top_p = 1},
    {.temperature = 1, .top_p = 1, .top_k = 1},
    {.temperature = 1, .top_p = 0.999f, .top_k = 100000},
    {.temperature = 0.01f, .top_p = 0.3f},
};

/* Half of them ties: multiples of 1/8 of the spread. */
static float *random_logits(int32_t n, float spread) {
    float *x = random_array(n);
    for (int32_t i = 0; i < n; i++)
        x[i] = i & 1 ? x[i] * spread : roundf(x[i] * 8) / 8 * spread;
    return x;
}

/* Hidden states of one dim that is 1: the head's rows are the logits. */
static void rule(backend *b, int32_t n, float spread, float softcap) {
    enum { ROWS = 70 };
    float *head = random_logits(n, spread), one[ROWS], logprob[ROWS];
    ks_sample_spec spec[ROWS];
    int32_t ids[ROWS];
    for (int i = 0; i < ROWS; i++) one[i] = 1;
    for (size_t c = 0; c < sizeof SPECS / sizeof *SPECS; c++) {
        for (int i = 0; i < ROWS; i++) {
            spec[i] = SPECS[c];
            spec[i].key[0] = 17 + c, spec[i].key[1] = (uint64_t)i << 40;
            spec[i].counter = (uint64_t)i * 3;
        }
        RUN(b, sample, ids, logprob, ks_view_f32(one, ROWS, 1),
            ks_view_f32(head, n, 1), softcap, spec);
        for (int i = 0; i < ROWS; i++) {
            int32_t id = ref_sample(head, n, spec + i);
            cr_assert(ids[i] == id, "%s case %zu row %d: %d, expected %d",
                      b->ops->isa, c, i, ids[i], id);
            double *logits = doubles(n);
            for (int32_t j = 0; j < n; j++) logits[j] = (double)head[j];
            double ref = ref_logprob(logits, n, id);
            cr_assert(close_f32("logprob", logprob + i, &ref, 1, 1e-5, 1e-6));
            free(logits);
        }
    }
    free(head);
}

static void sample(backend *b) {
    rule(b, 1, 1, 0);
    rule(b, 33, 3, 0);
    rule(b, 1009, 12, 0);
    rule(b, 5003, 200, 0);
    rule(b, 3001, 0.01f, 0); /* flat: nearly all ids are candidates */
}

Test(heads, sample_by_the_rule) {
    ON_EVERY_BACKEND(sample);
}

/* Draws follow the distribution: chi-square over 20,000 draws, 5 ids. */
static void frequencies(backend *b) {
    enum { N = 20000 };
    static const double p[] = {0.4, 0.3, 0.15, 0.1, 0.05};
    float head[5], *one = random_array(N);
    for (int i = 0; i < 5; i++) head[i] = (float)log(p[i]);
    ks_sample_spec *spec = calloc(N, sizeof *spec);
    int32_t *ids = malloc(N * sizeof *ids);
    for (int i = 0; i < N; i++) {
        one[i] = 1;
        spec[i] = (ks_sample_spec){1, 1, 0, {5, 6}, (uint64_t)i};
    }
    RUN(b, sample, ids, NULL, ks_view_f32(one, N, 1), ks_view_f32(head, 5, 1),
        0, spec);
    int count[5] = {0};
    for (int i = 0; i < N; i++) count[ids[i]]++;
    double chi = 0;
    for (int i = 0; i < 5; i++) chi += pow(count[i] - N * p[i], 2) / (N * p[i]);
    cr_assert(chi < 18.5, "chi-square %g with 4 degrees of freedom", chi);
    free(one), free(spec), free(ids);
}

Test(heads, sample_frequencies) {
    ON_EVERY_BACKEND(frequencies);
}

static void sample_alone(backend *b) {
    enum { ROWS = 67, N = 1000, D = 65 };
    ks_view hidden = guarded_random(ROWS, D, D + 1);
    ks_view head = random_weights(KS_F16, N, D);
    ks_sample_spec spec[ROWS];
    int32_t ids[ROWS], id;
    float logprob[ROWS], one;
    for (int i = 0; i < ROWS; i++)
        spec[i] = (ks_sample_spec){0.8f, 0.9f, 0, {1, (uint64_t)i}, 7};
    RUN(b, sample, ids, logprob, hidden, head, 5, spec);
    for (int i = 0; i < ROWS; i++) {
        ks_view row = {at(&hidden, i), 1, D, D, KS_F32};
        RUN(b, sample, &id, &one, row, head, 5, spec + i);
        cr_assert(id == ids[i] && one == logprob[i], "row %d", i);
    }
    at(&hidden, 66)[3] = NAN;
    cr_assert(b->ops->sample(b->dev, ids, logprob, hidden, head, 0, spec,
                             &b->err) == KS_NUMERIC);
    cr_assert(strstr(b->err.text, "row 66"), "%s", b->err.text);
    guarded_free(&hidden), free(head.data);
}

Test(heads, sample_alone_and_nan) {
    ON_EVERY_BACKEND(sample_alone);
}

static void greedy_ties(backend *b) {
    float head[] = {1, 3, 2, 3, -1, 3}, one = 1;
    ks_sample_spec spec = {0};
    int32_t id;
    RUN(b, sample, &id, NULL, ks_view_f32(&one, 1, 1), ks_view_f32(head, 6, 1),
        0, &spec);
    cr_assert(id == 1);
    float zero[] = {-1, -0.0f, 0.0f};
    RUN(b, sample, &id, NULL, ks_view_f32(&one, 1, 1), ks_view_f32(zero, 3, 1),
        0, &spec);
    cr_assert(id == 1);
}

Test(heads, greedy_takes_the_lowest_id) {
    ON_EVERY_BACKEND(greedy_ties);
}

/* -------------------------------------------------------------------- share */

/* Sets of ids, one behind the other; ahead of the first and behind the last
 * lie ids that no vocabulary has. */
enum { SETS = 77, AHEAD = 3 };
typedef struct sets {
    int32_t offsets[SETS + 1], *ids;
} sets;

/* Set i: one id, some, many or all, about the edge of what is left, or none. */
static void add_set(sets *s, int i, const nucleus *r, int32_t n) {
    int32_t *to = s->ids + s->offsets[i], *begin = to;
    for (int32_t j = n - 1; j >= 0; j--) {
        bool last = j == r->kept - 1, cut = j == r->kept;
        bool in[] = {j == 0,
                     last,
                     cut,
                     true,
                     j >= r->kept,
                     j < r->kept,
                     random_bits() & 1,
                     false,
                     last || cut,
                     j && j < r->kept,
                     j == i % n};
        if (in[i % (int)KS_COUNT(in)]) *to++ = r->ids[j];
    }
    s->offsets[i + 1] = s->offsets[i] + (int32_t)(to - begin);
}

/* Of the ids with a flag in what r leaves. A weight is within 1.4e-9 of
 * e^(..), but for its rounding down to 2^-44. exact: the logits are the op's
 * own, then its integers are known. */
static void expect_share(double got, const bool *in, const nucleus *r,
                         const float *logits, const ks_sample_spec *spec,
                         bool exact, const char *what) {
    uint64_t part = 0, all = 0;
    double p = 0, rate = ks_draw_rate(r->kept > 1 ? spec->temperature : 1);
    for (int32_t i = 0; i < r->kept; i++) {
        int32_t id = r->ids[i];
        uint64_t w =
            ks_draw_weight(ks_draw_depth(logits[id], logits[r->ids[0]], rate));
        all += w;
        if (!in[id]) continue;
        part += w;
        p += r->weight[i] / r->total;
    }
    double bits = ks_draw_log(part, all), slack = (r->kept + 1) * 0x1p-44;
    if (exact)
        cr_assert(memcmp(&got, &bits, sizeof got) == 0,
                  "%s: %.17g, expected %.17g", what, got, bits);
    cr_assert(got <= 0 &&
                  fabs(exp(got) - p) <= (exact ? 4e-9 : 1e-4) * p + slack,
              "%s: e^%.17g, expected %.17g", what, got, p);
}

static void share_of_spec(backend *b, ks_view head, float softcap,
                          const float *capped, const ks_sample_spec *spec) {
    float one[SETS];
    ks_sample_spec specs[SETS];
    double got[SETS + 1];
    int32_t n = (int32_t)head.rows;
    sets s = {{AHEAD},
              malloc(sizeof(int32_t) * (size_t)(SETS * n + 2 * AHEAD))};
    nucleus r = ref_nucleus(capped, n, spec);
    for (int i = 0; i < AHEAD; i++) s.ids[i] = -1;
    for (int i = 0; i < SETS; i++) {
        one[i] = 1, specs[i] = *spec;
        specs[i].key[0] = specs[i].counter = random_bits(); /* not read */
        add_set(&s, i, &r, n);
    }
    s.ids[s.offsets[SETS]] = INT32_MAX;
    got[SETS] = -7;
    RUN(b, share, got, ks_view_f32(one, SETS, 1), head, softcap, specs,
        s.offsets, s.ids);
    cr_assert(got[SETS] == -7);
    for (int i = 0; i < SETS; i++) {
        char what[99];
        bool *in = calloc((size_t)n, sizeof *in);
        for (int32_t j = s.offsets[i]; j < s.offsets[i + 1]; j++)
            in[s.ids[j]] = true;
        snprintf(what, sizeof what, "%s: %d tokens, temperature %g, set %d",
                 b->ops->isa, n, (double)spec->temperature, i);
        expect_share(got[i], in, &r, capped, spec, softcap == 0, what);
        free(in);
    }
    nucleus_free(&r), free(s.ids);
}

static void share_rule(backend *b, int32_t n, float spread, float softcap) {
    float *head = random_logits(n, spread), *capped = random_array(n);
    for (int32_t i = 0; i < n; i++)
        capped[i] = softcap > 0 ? softcap * tanhf(head[i] / softcap) : head[i];
    for (size_t c = 0; c < KS_COUNT(SPECS); c++)
        share_of_spec(b, ks_view_f32(head, n, 1), softcap, capped, SPECS + c);
    free(head), free(capped);
}

static void share(backend *b) {
    share_rule(b, 1, 1, 0);
    share_rule(b, 33, 3, 0);
    share_rule(b, 1009, 12, 0);
    share_rule(b, 1009, 12, 5);
    share_rule(b, 2003, 200, 0);
    share_rule(b, 3001, 0.01f, 0);
}

Test(heads, share_by_the_rule) {
    ON_EVERY_BACKEND(share);
}

/* What is left reaches far below the top: a third of all lies 9 temperatures
 * down and more. */
static void share_tail(backend *b) {
    enum { N = 4001 };
    static const ks_sample_spec how[] = {
        {.temperature = 1, .top_p = 1},
        {.temperature = 1, .top_p = 0.95f},
        {.temperature = 1, .top_p = 0.9f, .top_k = 3500},
    };
    float *head = random_array(N);
    for (int i = 0; i < N; i++) head[i] = i == 17 ? 3 : head[i] / 4 - 6.25f;
    for (size_t c = 0; c < KS_COUNT(how); c++)
        share_of_spec(b, ks_view_f32(head, N, 1), 0, head, how + c);
    free(head);
}

Test(heads, share_of_a_long_tail) {
    ON_EVERY_BACKEND(share_tail);
}

/* The parts of a vocabulary: one is drawn. */
static void share_partition(backend *b) {
    enum { N = 1009, PARTS = 7 };
    float *head = random_logits(N, 6), one[PARTS];
    int32_t offsets[PARTS + 1] = {0}, ids[N];
    for (int i = 0, n = 0; i < PARTS; i++, offsets[i] = n)
        for (int j = 0; j < N; j++)
            if (j * 31 % 97 % PARTS == i) ids[n++] = j;
    for (size_t c = 0; c < KS_COUNT(SPECS); c++) {
        ks_sample_spec spec[PARTS];
        double share[PARTS], sum = 0;
        for (int i = 0; i < PARTS; i++) one[i] = 1, spec[i] = SPECS[c];
        RUN(b, share, share, ks_view_f32(one, PARTS, 1),
            ks_view_f32(head, N, 1), 0, spec, offsets, ids);
        for (int i = 0; i < PARTS; i++) sum += exp(share[i]);
        cr_assert(fabs(sum - 1) <= 1e-14, "case %zu: %.17g", c, sum);
    }
    free(head);
}

Test(heads, shares_of_a_partition_are_all) {
    ON_EVERY_BACKEND(share_partition);
}

/* What share says is what sample does: 20,000 draws, sets of many sizes. */
static void share_frequency(backend *b) {
    enum { N = 60, DRAWS = 20000, ROWS = 24 };
    static const ks_sample_spec how = {
        .temperature = 0.7f, .top_p = 0.9f, .top_k = 40, .key = {5, 6}};
    float *head = random_logits(N, 2), *one = random_array(DRAWS);
    ks_sample_spec *spec = calloc(DRAWS, sizeof *spec);
    int32_t *drawn = malloc(DRAWS * sizeof *drawn), offsets[ROWS + 1] = {0};
    int32_t ids[ROWS * N], inner = 0;
    double share[ROWS];
    for (int i = 0; i < DRAWS; i++)
        one[i] = 1, spec[i] = how, spec[i].counter = (uint64_t)i;
    for (int i = 0, n = 0; i < ROWS; i++, offsets[i] = n)
        for (int j = 0; j < N; j++)
            if (random_bits() % ROWS <= (uint64_t)i) ids[n++] = j;
    RUN(b, share, share, ks_view_f32(one, ROWS, 1), ks_view_f32(head, N, 1), 0,
        spec, offsets, ids);
    RUN(b, sample, drawn, NULL, ks_view_f32(one, DRAWS, 1),
        ks_view_f32(head, N, 1), 0, spec);
    for (int i = 0; i < ROWS; i++) {
        double p = exp(share[i]), met = 0;
        for (int t = 0; t < DRAWS; t++)
            for (int32_t j = offsets[i]; j < offsets[i + 1]; j++)
                met += drawn[t] == ids[j];
        double sd = sqrt(DRAWS * p * (1 - p));
        inner += p > 0.01 && p < 0.99;
        cr_assert(fabs(met - DRAWS * p) <= 4.5 * sd,
                  "set %d: %g of %d draws, expected %g", i, met, DRAWS,
                  DRAWS * p);
    }
    cr_assert(inner >= 15, "%d sets that tell", inner);
    free(head), free(one), free(spec), free(drawn);
}

Test(heads, share_is_the_frequency_of_draws) {
    ON_EVERY_BACKEND(share_frequency);
}

static void share_alone(backend *b) {
    enum { ROWS = 67, N = 1000, D = 65, EACH = 9 };
    ks_view hidden = guarded_random(ROWS, D, D + 1);
    ks_view head = random_weights(KS_F16, N, D);
    ks_sample_spec spec[ROWS];
    int32_t offsets[ROWS + 1] = {0}, ids[ROWS * EACH];
    double share[ROWS], one;
    for (int i = 0; i < ROWS; i++) {
        spec[i] = (ks_sample_spec){0.8f, 0.9f, 0, {1, (uint64_t)i}, 7};
        offsets[i + 1] = offsets[i] + EACH;
        for (int j = 0; j < EACH; j++)
            ids[i * EACH + j] = (i * 131 + j * 97) % N;
    }
    RUN(b, share, share, hidden, head, 5, spec, offsets, ids);
    for (int i = 0; i < ROWS; i++) {
        ks_view row = {at(&hidden, i), 1, D, D, KS_F32};
        RUN(b, share, &one, row, head, 5, spec + i, offsets + i, ids);
        cr_assert(memcmp(&one, share + i, sizeof one) == 0, "row %d", i);
    }
    at(&hidden, 66)[3] = NAN;
    cr_assert(b->ops->share(b->dev, share, hidden, head, 5, spec, offsets, ids,
                            &b->err) == KS_NUMERIC);
    cr_assert(strstr(b->err.text, "row 66"), "%s", b->err.text);
    cr_assert(isnan(share[66]));
    guarded_free(&hidden), free(head.data);
}

Test(heads, share_alone_and_nan) {
    ON_EVERY_BACKEND(share_alone);
}

static void refused(backend *b) {
    ks_view x = ks_view_f32(NULL, 0, 8), w = ks_view_f32(NULL, 5, 9);
    ks_status st =
        b->ops->share(b->dev, NULL, x, w, 0, NULL, NULL, NULL, &b->err);
    cr_assert(st == KS_INTERNAL);
    cr_assert(b->ops->sample(b->dev, NULL, NULL, x, w, 0, NULL, &b->err) == st);
    w = ks_view_f32(NULL, KS_DRAW_TOKENS + 1, 8);
    st = b->ops->share(b->dev, NULL, x, w, 0, NULL, NULL, NULL, &b->err);
    cr_assert(st == KS_UNSUPPORTED);
    cr_assert(b->ops->sample(b->dev, NULL, NULL, x, w, 0, NULL, &b->err) == st);
}

Test(heads, shapes_are_checked) {
    ON_EVERY_BACKEND(refused);
}

/* Against the C library's in 64 bits of mantissa. */
Test(heads, draw_log) {
    const uint64_t most = (uint64_t)1 << 63;
    cr_assert(ks_draw_log(0, 1) == -INFINITY && ks_draw_log(0, most) < -1e300);
    for (int i = 0; i < 300000; i++) {
        uint64_t all = random_bits() >> (1 + random_bits() % 62) | 1;
        uint64_t part = (random_bits() >> random_bits() % 63) % all + 1;
        if (i % 3 == 0) part = all - part + 1; /* close to all */
        if (i % 64 == 0) all = most, part = i % 128 ? part : all;
        long double ref = logl((long double)part / (long double)all);
        if (part > all / 2)
            ref = log1pl(-(long double)(all - part) / (long double)all);
        double got = ks_draw_log(part, all);
        cr_assert(fabsl((long double)got - ref) <= -5e-16L * ref,
                  "log(%llu / %llu): %.17g", (unsigned long long)part,
                  (unsigned long long)all, got);
    }
}
