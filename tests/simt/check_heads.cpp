/* check_heads.cpp - score, sample and share: log-probabilities against the
 * CPU's op and double, draws and shares the same as the CPU's. Logits are exact
 * in any GEMM: heads and hidden states are small multiples of powers of two. */
#include <algorithm>

#include "twin.h"

extern "C" {
#include "draw.h"
#include "philox.h"
}

/* [rows, cols] of multiples of 1/16 in [-1, 1]: exact as bf16. */
static host_rows coarse(int64_t rows, int64_t cols, int64_t stride) {
    host_rows x(rows, cols, stride, false);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            x.at(i)[j] = roundf(random_unit() * 16) / 16;
    return x;
}

static double capped(double x, double cap) {
    return cap > 0 ? cap * tanh(x / cap) : x;
}

static double ref_logprob(const std::vector<double> &l, int32_t id) {
    double top = l[0], sum = 0;
    for (double x : l) top = x > top ? x : top;
    for (double x : l) sum += exp(x - top);
    return l[(size_t)id] - top - log(sum);
}

static std::vector<double> ref_logits(const float *hidden,
                                      const host_rows &head, double cap) {
    std::vector<double> l;
    for (int64_t v = 0; v < head.rows; v++) {
        double sum = 0;
        for (int64_t k = 0; k < head.cols; k++)
            sum += (double)hidden[k] * (double)head.at(v)[k];
        l.push_back(capped(sum, cap));
    }
    return l;
}

/* -------------------------------------------------------------------- score
 */

static void score_one(twin *t, int64_t rows, int64_t vocab, int64_t d,
                      float softcap, int64_t checked) {
    host_rows hidden = coarse(rows, d, d + 8), head = coarse(vocab, d, d);
    std::vector<int32_t> target;
    for (int64_t i = 0; i < rows; i++)
        target.push_back((int32_t)(random_bits() % (uint64_t)vocab));
    target[0] = (int32_t)vocab - 1;
    device_rows dh(hidden), dw(head);
    on_device<int32_t> dt(target);
    host_rows got(1, rows, rows, false), cpu(1, rows, rows, false);
    device_rows out(got), one(host_rows(1, 1, 1, false));
    TWIN_OK(t, ks__cuda_score(t->cuda, out.x.data, dh.view(), dw.view(),
                              softcap, dt.data, &t->err));
    ks_view last = dh.view();
    last.data = (float *)last.data + (rows - 1) * last.stride;
    last.rows = 1;
    TWIN_OK(t, ks__cuda_score(t->cuda, one.x.data, last, dw.view(), softcap,
                              dt.data + rows - 1, &t->err));
    TWIN_SYNC(t);
    TWIN_OK(t, t->ops->score(t->cpu, cpu.at(0), hidden.view(), head.view(),
                             softcap, target.data(), &t->err));
    got = out.read();
    cr_expect(rows_close("score, CPU", got, doubles_of(cpu), 2e-5, 2e-6));
    for (int64_t i = 0; i < rows; i += (rows + checked - 1) / checked) {
        double ref = ref_logprob(
            ref_logits(hidden.at(i), head, (double)softcap), target[(size_t)i]);
        cr_expect(close_f32("score", got.at(0) + i, &ref, 1, 2e-5, 2e-6));
    }
    cr_expect(one.read().at(0)[0] == got.at(0)[rows - 1], "a row alone");
}

Test(simt_heads, score) {
    twin *t = twin_open();
    simt_seed(1);
    score_one(t, 1, 1, 8, 0, 1);
    score_one(t, 13, 771, 64, 0, 13);
    simt_seed(2);
    score_one(t, 7, 255, 32, 2, 7);
    score_one(t, 3, 8192, 8, 0, 3);
    score_one(t, 2, 8193, 8, 1.5f, 2);
    score_one(t, 513, 9, 8, 0, 40); /* more than one tile of rows */
    score_one(t, 512, 9, 8, 0, 3);
}

/* Logits of many hundreds, rising and falling over tiles, do not overflow. */
Test(simt_heads, score_of_large_logits) {
    twin *t = twin_open();
    for (int down = 0; down < 2; down++) {
        host_rows head(9000, 1, 1, false);
        for (int i = 0; i < 9000; i++)
            head.at(down ? 8999 - i : i)[0] = (float)(i / 64 * 64 - 4096);
        on_device<float> one({1});
        on_device<int32_t> target({down ? 40 : 8960});
        device_rows dw(head), out(host_rows(1, 1, 1, false));
        TWIN_OK(t,
                ks__cuda_score(t->cuda, out.x.data, {one.data, 1, 1, 1, KS_F32},
                               dw.view(), 0, target.data, &t->err));
        TWIN_SYNC(t);
        float unit = 1;
        double ref = ref_logprob(ref_logits(&unit, head, 0), down ? 40 : 8960);
        cr_expect(close_f32("large", out.read().at(0), &ref, 1, 1e-6, 1e-6));
    }
}

/* ------------------------------------------------------------------- sample
 */

static const ks_sample_spec SPECS[] = {
    {.temperature = 0, .top_p = 1, .top_k = 0, .key = {}, .counter = 0},
    {.temperature = 1, .top_p = 1, .top_k = 0, .key = {}, .counter = 0},
    {.temperature = 0.6f, .top_p = 0.95f, .top_k = 0, .key = {}, .counter = 0},
    {.temperature = 1.3f, .top_p = 0.5f, .top_k = 20, .key = {}, .counter = 0},
    {.temperature = 20, .top_p = 1, .top_k = 0, .key = {}, .counter = 0},
    {.temperature = 1, .top_p = 1, .top_k = 1, .key = {}, .counter = 0},
    {.temperature = 1,
     .top_p = 0.999f,
     .top_k = 1 << 30,
     .key = {},
     .counter = 0},
    {.temperature = 0.01f, .top_p = 0.3f, .top_k = 0, .key = {}, .counter = 0},
    {.temperature = 30, .top_p = 0.7f, .top_k = 777, .key = {}, .counter = 0},
    {.temperature = 2, .top_p = 0, .top_k = 3, .key = {}, .counter = 0},
};
enum { N_SPECS = sizeof SPECS / sizeof *SPECS };

/* Hidden states of one dim that is 1: the head's rows are the logits. */
static void sample_one(twin *t, const host_rows &head, int64_t rows,
                       float softcap) {
    host_rows one(rows, 1, 1, false), w = head;
    std::vector<ks_sample_spec> spec;
    for (int64_t i = 0; i < rows; i++) {
        one.at(i)[0] = 1;
        spec.push_back(SPECS[i % N_SPECS]);
        spec.back().key[0] = 17, spec.back().key[1] = (uint64_t)i << 40;
        spec.back().counter = (uint64_t)i * 3;
    }
    std::vector<int32_t> id((size_t)rows, -7);
    host_rows logprob(1, rows, rows, false);
    device_rows dh(one), dw(head), dl(logprob);
    on_device<int32_t> di(id), again(id);
    on_device<ks_sample_spec> ds(spec);
    TWIN_OK(t, ks__cuda_sample(t->cuda, di.data, dl.x.data, dh.view(),
                               dw.view(), softcap, ds.data, &t->err));
    TWIN_OK(t, ks__cuda_sample(t->cuda, again.data, NULL, dh.view(), dw.view(),
                               softcap, ds.data, &t->err));
    TWIN_SYNC(t);
    TWIN_OK(t, t->ops->sample(t->cpu, id.data(), logprob.at(0), one.view(),
                              w.view(), softcap, spec.data(), &t->err));
    std::vector<int32_t> got = di.read();
    cr_expect(again.read() == got, "the same draws twice");
    for (int64_t i = 0; i < rows; i++)
        cr_expect(got[(size_t)i] == id[(size_t)i],
                  "%d of %d tokens, row %d: %d, the CPU has %d", (int)rows,
                  (int)head.rows, (int)i, got[(size_t)i], id[(size_t)i]);
    cr_expect(
        rows_close("logprob, CPU", dl.read(), doubles_of(logprob), 1e-5, 1e-6));
    float unit = 1;
    std::vector<double> l = ref_logits(&unit, head, (double)softcap);
    for (int64_t i = 0; i < rows; i += 5) {
        double ref = ref_logprob(l, got[(size_t)i]);
        cr_expect(
            close_f32("logprob", dl.read().at(0) + i, &ref, 1, 1e-5, 1e-6));
    }
}

/* Values that bf16 holds, half of them on a coarse grid: ties. */
static host_rows logits(int32_t n, float spread) {
    host_rows head(n, 1, 1, false);
    for (int32_t i = 0; i < n; i++) {
        float x = random_unit();
        x = (i & 1 ? x : roundf(x * 8) / 8) * spread;
        head.at(i)[0] = ks_bf16_to_f32(ks_f32_to_bf16(x));
    }
    return head;
}

Test(simt_heads, sample) {
    twin *t = twin_open();
    simt_seed(1);
    sample_one(t, logits(1, 1), N_SPECS, 0);
    sample_one(t, logits(33, 3), 3 * N_SPECS, 0);
    simt_seed(2);
    sample_one(t, logits(512, 12), 2 * N_SPECS, 0);
    sample_one(t, logits(1009, 12), N_SPECS, 5);
    sample_one(t, logits(2003, 200), N_SPECS, 0);
    simt_seed(3);
    sample_one(t, logits(3001, 0.01f), 2 * N_SPECS, 0); /* one bin, no list */
    sample_one(t, logits(65, 4), 67, 0); /* more rows than are held */
    sample_one(t, logits(5, 4), 64, 0);  /* as many */
}

/* All alike: ids decide; 1024 and 1025 in a bin are listed and not. */
Test(simt_heads, sample_ties) {
    twin *t = twin_open();
    for (int32_t n : {1024, 1025}) {
        host_rows head(n, 1, 1, false);
        for (int32_t i = 0; i < n; i++) head.at(i)[0] = i % 2 ? 0.0f : -0.0f;
        sample_one(t, head, N_SPECS, 0);
    }
}

/* Every place of a small distribution, and of bins' edges. */
Test(simt_heads, sample_every_octave) {
    twin *t = twin_open();
    host_rows head(97, 1, 1, false);
    for (int i = 0; i < 97; i++) head.at(i)[0] = -(float)i / 2;
    head.at(96)[0] = -0x1p100f;
    sample_one(t, head, 4 * N_SPECS, 0);
}

/* -------------------------------------------------------------------- share
 */

typedef std::vector<int32_t> ids;

/* Every set under every spec, and under top-k about the number of tokens. */
static void share_each(twin *t, const host_rows &head,
                       const std::vector<ids> &sets, float softcap) {
    std::vector<ks_sample_spec> how(SPECS, SPECS + N_SPECS), spec;
    for (int32_t k = (int32_t)head.rows - 1; k <= head.rows + 1; k++) {
        how.push_back(SPECS[1]);
        how.back().top_k = k;
    }
    ids offsets = {0}, all;
    for (const ks_sample_spec &s : how)
        for (const ids &set : sets) {
            all.insert(all.end(), set.begin(), set.end());
            offsets.push_back((int32_t)all.size());
            spec.push_back(s);
            spec.back().counter = random_bits(); /* not read */
        }
    int64_t rows = (int64_t)spec.size();
    host_rows one(rows, 1, 1, false), w = head;
    for (int64_t i = 0; i < rows; i++) one.at(i)[0] = 1;
    std::vector<double> cpu((size_t)rows), guarded((size_t)rows + 2, -7);
    device_rows dh(one), dw(head);
    on_device<double> out(guarded), alone({-7});
    on_device<ks_sample_spec> ds(spec);
    on_device<int32_t> at(offsets), di(all);
    TWIN_OK(t, ks__cuda_share(t->cuda, out.data + 1, dh.view(), dw.view(),
                              softcap, ds.data, at.data, di.data, &t->err));
    ks_view last = dh.view();
    last.data = (float *)last.data + rows - 1;
    last.rows = 1;
    TWIN_OK(t, ks__cuda_share(t->cuda, alone.data, last, dw.view(), softcap,
                              ds.data + rows - 1, at.data + rows - 1, di.data,
                              &t->err));
    TWIN_SYNC(t);
    TWIN_OK(t, t->ops->share(t->cpu, cpu.data(), one.view(), w.view(), softcap,
                             spec.data(), offsets.data(), all.data(), &t->err));
    guarded = out.read();
    cr_expect(guarded[0] == -7 && guarded[(size_t)rows + 1] == -7);
    cr_expect(alone.read()[0] == guarded[(size_t)rows], "a row alone");
    for (size_t i = 0; i < (size_t)rows; i++) {
        double got = guarded[i + 1];
        bool same = softcap > 0 ? got == cpu[i] || fabs(got - cpu[i]) <= 1e-5
                                : memcmp(&got, &cpu[i], sizeof got) == 0;
        cr_expect(
            same, "%d tokens, spec %zu, set %zu: %.17g, the CPU has %.17g",
            (int)head.rows, i / sets.size(), i % sets.size(), got, cpu[i]);
    }
}

/* Ids by falling logit. */
static ids in_order(const host_rows &head) {
    std::vector<uint64_t> keys;
    for (int32_t i = 0; i < head.rows; i++)
        keys.push_back(ks_draw_key(ks_bits_of_f32(head.at(i)[0]), i));
    std::sort(keys.begin(), keys.end());
    ids order;
    for (uint64_t key : keys) order.push_back((int32_t)(uint32_t)key);
    return order;
}

/* The first so many in order, and the last so many from the back. */
static std::vector<ids> heads_and_tails(const host_rows &head,
                                        const std::vector<int> &sizes) {
    ids order = in_order(head);
    std::vector<ids> sets = {{}};
    for (int n : sizes) {
        sets.push_back(ids(order.begin(), order.begin() + n));
        sets.push_back(ids(order.rbegin(), order.rbegin() + n));
    }
    return sets;
}

/* Each token alone: which are left, and with what weight. */
static std::vector<ids> singles(const host_rows &head) {
    std::vector<ids> sets;
    for (int32_t i = 0; i < head.rows; i++) sets.push_back({i});
    return sets;
}

Test(simt_heads, share) {
    twin *t = twin_open();
    simt_seed(1);
    host_rows head = logits(1, 1);
    share_each(t, head, heads_and_tails(head, {1}), 0);
    head = logits(7, 3);
    share_each(t, head, singles(head), 1);
    head = logits(33, 3);
    share_each(t, head, singles(head), 0);
    simt_seed(2);
    head = logits(1009, 12);
    share_each(t, head, heads_and_tails(head, {1, 19, 20, 511, 512, 513, 1009}),
               0);
    share_each(t, head, heads_and_tails(head, {3, 700}), 5);
    head = logits(1301, 200);
    share_each(t, head, heads_and_tails(head, {1, 2, 100, 1300}), 0);
    simt_seed(3);
    head = logits(2003, 0.01f); /* one bin, no list */
    share_each(t, head, heads_and_tails(head, {1, 776, 777, 778, 2003}), 0);
}

/* All alike: ids decide who is left. */
Test(simt_heads, share_ties) {
    twin *t = twin_open();
    host_rows head(22, 1, 1, false);
    for (int32_t i = 0; i < 22; i++) head.at(i)[0] = i % 2 ? 0.0f : -0.0f;
    share_each(t, head, singles(head), 0);
}

Test(simt_heads, share_every_octave) {
    twin *t = twin_open();
    host_rows head(97, 1, 1, false);
    for (int i = 0; i < 97; i++) head.at(i)[0] = -(float)i / 2;
    head.at(96)[0] = -0x1p100f;
    share_each(t, head, heads_and_tails(head, {1, 2, 3, 60, 61, 62, 63, 97}),
               0);
}

/* The largest weights carry: 2^19 tokens would fill 63 bits. */
Test(simt_heads, weights) {
    double rate = ks_draw_rate(1);
    cr_expect(ks_draw_weight(ks_draw_depth(3, 3, rate)) == 1ull << 44);
    cr_expect(ks_draw_weight(ks_draw_depth(-INFINITY, 3, rate)) == 0);
    for (int i = 0; i < 20000; i++) {
        float x = -15 * (1 + random_unit());
        double got = (double)ks_draw_weight(ks_draw_depth(x, 0, rate));
        double ref = ldexp(exp((double)x), 44);
        cr_assert(fabs(got - ref) <= 1 + 1.4e-9 * ref, "%g", (double)x);
    }
    for (float x : {-0.0f, 0.0f, 1.0f, -1.0f, 3e-40f, -3e38f, INFINITY}) {
        uint32_t bits = ks_bits_of_f32(x);
        cr_expect(ks_f32_of_bits(ks_draw_bits(ks_draw_key(bits, 5))) == x);
    }
}

Test(simt_heads, nan_names_its_row) {
    twin *t = twin_open();
    host_rows hidden = coarse(67, 8, 8), head = coarse(33, 8, 8);
    hidden.at(66)[3] = NAN;
    std::vector<ks_sample_spec> spec(67, SPECS[2]);
    device_rows dh(hidden), dw(head);
    on_device<int32_t> id(std::vector<int32_t>(67));
    on_device<float> logprob(std::vector<float>(67));
    on_device<ks_sample_spec> ds(spec);
    TWIN_OK(t, ks__cuda_sample(t->cuda, id.data, logprob.data, dh.view(),
                               dw.view(), 0, ds.data, &t->err));
    cr_expect(ks__cuda_fault_sync(t->cuda, &t->err) == KS_NUMERIC);
    cr_expect(strstr(t->err.text, "row 66 ") != NULL, "%s", t->err.text);
    cr_expect(id.read()[66] == 0 && isnan(logprob.read()[66]));
    TWIN_SYNC(t);
    on_device<double> share(std::vector<double>(67));
    on_device<int32_t> offsets(std::vector<int32_t>(68, 0));
    TWIN_OK(t, ks__cuda_share(t->cuda, share.data, dh.view(), dw.view(), 0,
                              ds.data, offsets.data, id.data, &t->err));
    cr_expect(ks__cuda_fault_sync(t->cuda, &t->err) == KS_NUMERIC);
    cr_expect(strstr(t->err.text, "row 66 ") != NULL, "%s", t->err.text);
    cr_expect(share.read()[65] == -INFINITY && isnan(share.read()[66]));
    TWIN_SYNC(t);
}

Test(simt_heads, what_is_refused) {
    twin *t = twin_open();
    ks_view x = ks_view_f32(NULL, 0, 8), w = ks_view_f32(NULL, 5, 9);
    auto sample = [&]() {
        return ks__cuda_sample(t->cuda, NULL, NULL, x, w, 0, NULL, &t->err);
    };
    auto share = [&]() {
        return ks__cuda_share(t->cuda, NULL, x, w, 0, NULL, NULL, NULL,
                              &t->err);
    };
    cr_expect(sample() == KS_INTERNAL && share() == KS_INTERNAL);
    cr_expect(ks__cuda_score(t->cuda, NULL, x, w, 0, NULL, &t->err) ==
              KS_INTERNAL);
    w.cols = 8;
    cr_expect(sample() == KS_OK && share() == KS_OK);
    cr_expect(ks__cuda_score(t->cuda, NULL, x, w, 0, NULL, &t->err) == KS_OK);
    w.rows = KS_DRAW_TOKENS + 1;
    cr_expect(sample() == KS_UNSUPPORTED && share() == KS_UNSUPPORTED);
    w.rows = KS_DRAW_TOKENS;
    cr_expect(sample() == KS_OK && share() == KS_OK);
}
