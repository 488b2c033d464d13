/* check_score_backward.cpp - the way back from log-probabilities: against the
 * CPU's op and derivatives in double. */
#include "twin.h"

struct score_case {
    ks_type type;
    int64_t rows, vocab, d, gap;
    float softcap, size; /* of hidden: larger, more decided */
    bool of_probability;
};

struct head_of { /* as stored, and in f32 */
    std::vector<uint8_t> stored;
    std::vector<float> x;
};

static head_of random_head(ks_type type, int64_t vocab, int64_t d) {
    head_of h = {random_weights(type, vocab, d),
                 std::vector<float>((size_t)(vocab * d))};
    for (int64_t v = 0; v < vocab; v++)
        ks_dequantize(type,
                      h.stored.data() + (size_t)v * ks_type_row_bytes(type, d),
                      &h.x[(size_t)(v * d)], d);
    return h;
}

/* One row: log p of the target, and the gradient behind ref. */
static double ref_score(const float *hidden, const head_of &head,
                        const score_case &c, int32_t target, double weight,
                        std::vector<double> *ref) {
    std::vector<double> s((size_t)c.vocab), dh((size_t)c.d);
    double top = -INFINITY, total = 0, cap = (double)c.softcap;
    for (int64_t v = 0; v < c.vocab; v++) {
        double z = 0;
        for (int64_t j = 0; j < c.d; j++)
            z += (double)hidden[j] * (double)head.x[(size_t)(v * c.d + j)];
        s[(size_t)v] = cap > 0 ? cap * tanh(z / cap) : z;
        top = fmax(top, s[(size_t)v]);
    }
    for (double x : s) total += exp(x - top);
    double logprob = s[(size_t)target] - top - log(total);
    if (c.of_probability) weight *= exp(logprob);
    for (int64_t v = 0; v < c.vocab; v++) {
        double x = s[(size_t)v];
        double d = weight * ((v == target) - exp(x - top) / total);
        if (cap > 0) d *= 1 - x / cap * (x / cap);
        for (int64_t j = 0; j < c.d; j++)
            dh[(size_t)j] += d * (double)head.x[(size_t)(v * c.d + j)];
    }
    ref->insert(ref->end(), dh.begin(), dh.end());
    return logprob;
}

static double largest(const std::vector<double> &x) {
    double most = 0;
    for (double v : x) most = fmax(most, fabs(v));
    return most;
}

/* Rows [first, first + n) alone: the same bits. */
static void alone(twin *t, const score_case &c, ks_view hidden, ks_view head,
                  const int32_t *target, const float *weight,
                  const host_rows &all, int64_t first, int64_t n) {
    device_rows to(host_rows(n, c.d, c.d, false));
    hidden.data = (float *)hidden.data + first * hidden.stride;
    hidden.rows = n;
    TWIN_OK(t, ks__cuda_score_backward(
                   t->cuda, to.view(), NULL, hidden, head, c.softcap,
                   target + first, weight + first, c.of_probability, &t->err));
    TWIN_SYNC(t);
    host_rows got = to.read();
    for (int64_t i = 0; i < n; i++)
        cr_expect(
            !memcmp(got.at(i), all.at(first + i), (size_t)c.d * sizeof(float)),
            "row %d alone", (int)(first + i));
}

static void score_one(twin *t, const score_case &c) {
    host_rows hidden(c.rows, c.d, c.d + c.gap, true);
    host_rows cpu(c.rows, c.d, c.d, false),
        out(c.rows, c.d, c.d + c.gap, false);
    std::vector<int32_t> target;
    std::vector<float> weight, logprob((size_t)c.rows), cpu_logprob(logprob);
    head_of head = random_head(c.type, c.vocab, c.d);
    std::vector<double> ref, ref_logprob;
    for (int64_t i = 0; i < c.rows; i++) {
        for (int64_t j = 0; j < c.d; j++) hidden.at(i)[j] *= c.size;
        target.push_back(i ? (int32_t)(random_bits() % (uint64_t)c.vocab)
                           : (int32_t)c.vocab - 1);
        weight.push_back(random_unit());
        ref_logprob.push_back(ref_score(hidden.at(i), head, c, target.back(),
                                        (double)weight.back(), &ref));
    }
    device_rows dh(hidden), to(out);
    on_device<uint8_t> dhead(head.stored);
    on_device<int32_t> dtarget(target);
    on_device<float> dweight(weight), dlogprob(logprob);
    ks_view w = {dhead.data, c.vocab, c.d, c.d, c.type};
    TWIN_OK(t, ks__cuda_score_backward(
                   t->cuda, to.view(), dlogprob.data, dh.view(), w, c.softcap,
                   dtarget.data, dweight.data, c.of_probability, &t->err));
    TWIN_SYNC(t);
    w.data = head.stored.data();
    TWIN_OK(t,
            t->ops->score_backward(t->cpu, cpu.view(), cpu_logprob.data(),
                                   hidden.view(), w, c.softcap, target.data(),
                                   weight.data(), c.of_probability, &t->err));
    host_rows got = to.read();
    logprob = dlogprob.read();
    double atol = 1e-4 * largest(ref) + 1e-12;
    cr_expect(rows_close("score backward", got, ref, atol, 1e-4));
    cr_expect(
        rows_close("score backward, CPU", got, doubles_of(cpu), atol, 1e-4));
    for (int64_t i = 0; i < c.rows; i++)
        cr_expect(fabs((double)logprob[(size_t)i] - ref_logprob[(size_t)i]) <=
                      1e-4 + 1e-5 * fabs(ref_logprob[(size_t)i]),
                  "row %d: %g, %g", (int)i, (double)logprob[(size_t)i],
                  ref_logprob[(size_t)i]);
    w.data = dhead.data;
    alone(t, c, dh.view(), w, dtarget.data, dweight.data, got, c.rows - 1, 1);
}

/* Rows beyond what is held at once, vocabularies around a block's stride, soft
 * caps, targets that are almost certain; f32 operands. */
Test(simt_score_backward, against_cpu_and_double) {
    twin *t = twin_open();
    t->cuda->precise = true;
    const score_case cases[] = {
        {KS_F32, 1, 1, 33, 0, 0, 1, false},
        {KS_F32, 3, 31, 16, 3, 0, 1, true},
        {KS_F32, 131, 7, 8, 0, 0, 4, true},
        {KS_BF16, 5, 1023, 16, 1, 0, 1, false},
        {KS_BF16, 2, 1025, 8, 0, 2, 3, true},
        {KS_F32, 5, 67, 40, 0, 1.5f, 2, false},
        {KS_F32, 17, 24, 16, 0, 0, 6, false}, /* some p near 1 */
        {KS_Q8_0, 3, 129, 32, 0, 0, 1, false},
    };
    uint64_t seed = 0;
    for (const score_case &c : cases) {
        simt_seed(seed++);
        score_one(t, c);
    }
    t->cuda->precise = false;
}

/* Near p = 1 the gradient keeps its digits: with d = 1 and a head of +-1, the
 * target's dz is 1 - p. */
Test(simt_score_backward, almost_certain) {
    twin *t = twin_open();
    t->cuda->precise = true;
    score_case c = {KS_F32, 1, 2, 1, 0, 0, 1, false};
    for (float h : {4.0f, 8.0f}) {
        std::vector<float> head = {1, -1}, weight = {1};
        std::vector<int32_t> target = {0};
        host_rows hidden(1, 1, 1, false), out(1, 1, 1, false);
        hidden.at(0)[0] = h;
        device_rows dh(hidden), to(out);
        on_device<float> dhead(head), dweight(weight);
        on_device<int32_t> dtarget(target);
        ks_view w = {dhead.data, 2, 1, 1, KS_F32};
        TWIN_OK(t, ks__cuda_score_backward(t->cuda, to.view(), NULL, dh.view(),
                                           w, c.softcap, dtarget.data,
                                           dweight.data, false, &t->err));
        TWIN_SYNC(t);
        double want = 2 / (1 + exp(2 * (double)h));
        cr_expect(fabs((double)to.read().at(0)[0] - want) <= 1e-4 * want,
                  "%g, expected %g", (double)to.read().at(0)[0], want);
    }
    t->cuda->precise = false;
}

/* A NaN stays in its row; bf16 operands agree loosely. */
Test(simt_score_backward, nan_and_bf16_operands) {
    twin *t = twin_open();
    score_case c = {KS_BF16, 3, 65, 16, 0, 0, 1, false};
    head_of head = random_head(c.type, c.vocab, c.d);
    host_rows hidden(c.rows, c.d, c.d, true), out(c.rows, c.d, c.d, false);
    std::vector<double> ref;
    std::vector<int32_t> target = {1, 2, 3};
    std::vector<float> weight = {1, 1, 1};
    for (int64_t i = 0; i < c.rows; i++)
        ref_score(hidden.at(i), head, c, target[(size_t)i], 1, &ref);
    for (bool nan : {false, true}) {
        if (nan) hidden.at(1)[3] = NAN;
        device_rows dh(hidden), to(out);
        on_device<uint8_t> dhead(head.stored);
        on_device<int32_t> dtarget(target);
        on_device<float> dweight(weight);
        ks_view w = {dhead.data, c.vocab, c.d, c.d, c.type};
        TWIN_OK(t, ks__cuda_score_backward(t->cuda, to.view(), NULL, dh.view(),
                                           w, 0, dtarget.data, dweight.data,
                                           false, &t->err));
        TWIN_SYNC(t);
        host_rows got = to.read();
        if (!nan) cr_expect(rows_close("bf16", got, ref, 2e-2, 2e-2));
        for (int64_t i = 0; i < c.rows; i++)
            for (int64_t j = 0; j < c.d; j++)
                cr_expect(isnan(got.at(i)[j]) == (nan && i == 1), "row %d",
                          (int)i);
    }
}

Test(simt_score_backward, what_is_refused) {
    twin *t = twin_open();
    ks_view x = ks_view_f32(NULL, 2, 4), head = ks_view_f32(NULL, 3, 4),
            bad = x;
    auto status = [&](ks_view to, ks_view from) {
        return ks__cuda_score_backward(t->cuda, to, NULL, from, head, 0, NULL,
                                       NULL, false, &t->err);
    };
    bad.cols = 3;
    cr_expect(status(x, bad) == KS_INTERNAL);
    cr_expect(status(bad, x) == KS_INTERNAL);
    cr_expect(status(bad, bad) == KS_INTERNAL);
    cr_expect(strstr(t->err.text, "score backward: [2,3] from [2,3] by [3,4]"),
              "%s", t->err.text);
    bad = x, bad.rows = 1;
    cr_expect(status(bad, x) == KS_INTERNAL);
    x.rows = 0;
    cr_expect(status(x, x) == KS_OK);
    x.rows = 2, head.type = KS_I32; /* the product's own refusal comes back */
    cr_expect(status(x, x) == KS_INTERNAL);
    size_t limit = t->cuda->memory;
    t->cuda->memory = t->cuda->in_use, head.type = KS_F32;
    cr_expect(status(x, x) == KS_NOMEM);
    cr_expect(strstr(t->err.text, "logits of a few rows") != NULL, "%s",
              t->err.text);
    t->cuda->memory = limit;
}
