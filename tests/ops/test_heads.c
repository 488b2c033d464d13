/* score and sample. */
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

/* The rule of ops.h, word for word, by a full sort. */
static int32_t ref_sample(const float *logits, int32_t n,
                          const ks_sample_spec *spec) {
    int32_t *ids = malloc(sizeof *ids * (size_t)n);
    for (int32_t i = 0; i < n; i++) ids[i] = i;
    order_by = logits;
    qsort(ids, (size_t)n, sizeof *ids, by_logit);
    int32_t kept = spec->top_k > 0 && spec->top_k < n ? spec->top_k : n;
    int32_t id = ids[0];
    if (spec->temperature > 0) {
        double *w = doubles(n), total = 0, sum = 0;
        for (int32_t i = 0; i < kept; i++)
            total += w[i] =
                exp(((double)logits[ids[i]] - (double)logits[ids[0]]) /
                    (double)spec->temperature);
        int32_t m = 0;
        while (m < kept && (m == 0 || sum < (double)spec->top_p * total))
            sum += w[m++];
        if (spec->top_p < 1) kept = m, total = sum;
        uint32_t words[4];
        ks_philox(spec->key, spec->counter, words);
        double u = (double)ks_philox_unit(words[0]), cumulative = 0;
        for (int32_t i = 0; i < kept; i++) {
            id = ids[i];
            if ((cumulative += w[i]) > u * total) break;
        }
        free(w);
    }
    free(ids);
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

/* Hidden states of one dim that is 1: the head's rows are the logits. */
static void rule(backend *b, int32_t n, float spread, float softcap) {
    enum { ROWS = 70 };
    float *head = random_array(n), one[ROWS], logprob[ROWS];
    ks_sample_spec spec[ROWS];
    int32_t ids[ROWS];
    for (int32_t i = 0; i < n; i++) /* ties: multiples of 1/8 of the spread */
        head[i] = i & 1 ? head[i] * spread : roundf(head[i] * 8) / 8 * spread;
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
