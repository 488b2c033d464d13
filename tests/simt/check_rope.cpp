/* check_rope.cpp - rotary positions and the write into the paged store. */
#include "twin.h"

struct rope_case {
    int32_t dim, rot, heads, kv_heads;
    bool interleaved, store;
    int32_t past, gap;
};

enum { N = 23, PAGES = 4, N_SEQ = 3 };

struct rope_world {
    host_rows q, k, v, store_k, store_v;
    std::vector<float> inv_freq;
    std::vector<int32_t> offsets, past, pages;
    int32_t max_pages;
    explicit rope_world(rope_case c)
        : q(N, c.heads * c.dim, c.heads * c.dim + c.gap, true),
          k(N, c.kv_heads * c.dim, c.kv_heads * c.dim + c.gap, true),
          v(N, c.kv_heads * c.dim, c.kv_heads * c.dim + c.gap, true),
          store_k(N_SEQ * PAGES * KS_PAGE, k.cols, k.cols, false),
          store_v(N_SEQ * PAGES * KS_PAGE, k.cols, k.cols, false),
          offsets{0, 13, 13, N}, past{c.past, 0, c.past + 5},
          max_pages((c.past + N) / KS_PAGE + 1) {
        for (int i = 0; i < c.rot / 2; i++)
            inv_freq.push_back(powf(10000, -2.0f * (float)i / (float)c.rot));
        for (int i = 0; i < N_SEQ * max_pages; i++) /* each its own, reversed */
            pages.push_back(i / max_pages * PAGES +
                            (max_pages - 1 - i % max_pages) % PAGES);
    }
};

/* One head at a position; the angle is a product in f32. */
static void ref_rope(double *x, int32_t position, const ks_rope *rope) {
    int32_t pairs = rope->rot_dims / 2;
    for (int32_t i = 0; i < pairs; i++) {
        float angle = (float)position * rope->inv_freq[i];
        double c = cos((double)angle) * (double)rope->scale;
        double s = sin((double)angle) * (double)rope->scale;
        double *a = rope->interleaved ? x + 2 * i : x + i;
        double *b = rope->interleaved ? x + 2 * i + 1 : x + i + pairs;
        double u = *a, w = *b;
        *a = u * c - w * s;
        *b = w * c + u * s;
    }
}

static std::vector<double> ref_rows(const host_rows &x, rope_case c,
                                    const rope_world &w, const ks_rope *rope) {
    std::vector<double> ref = doubles_of(x);
    for (int32_t t = 0; t < N; t++) {
        int32_t s = t < 13 ? 0 : 2;
        int32_t pos =
            t - w.offsets[(size_t)s] + (c.past ? w.past[(size_t)s] : 0);
        for (int64_t h = 0; h < x.cols; h += c.dim)
            ref_rope(ref.data() + t * x.cols + h, pos, rope);
    }
    return ref;
}

static void rope_one(twin *t, rope_case c) {
    rope_world w(c);
    ks_rope rope = {w.inv_freq.data(), 1.1f, c.rot, c.interleaved};
    std::vector<double> want_q = ref_rows(w.q, c, w, &rope);
    std::vector<double> want_k = ref_rows(w.k, c, w, &rope);
    device_rows q(w.q), k(w.k), v(w.v), sk(w.store_k), sv(w.store_v);
    on_device<float> freq(w.inv_freq);
    on_device<int32_t> offsets(w.offsets), past(w.past), pages(w.pages);
    ks_rope drope = rope;
    drope.inv_freq = freq.data;
    ks_seqs seqs = {
        N_SEQ,      N,           offsets.data, c.past ? past.data : NULL,
        pages.data, w.max_pages, NULL};
    ks_kv_layer kv = {sk.x.data, sv.x.data};
    TWIN_OK(t, ks__cuda_rope(t->cuda, q.view(), k.view(), v.view(), c.dim,
                             &drope, &seqs, c.store ? &kv : NULL, &t->err));
    TWIN_SYNC(t);
    ks_kv_layer host_kv = {w.store_k.x.data(), w.store_v.x.data()};
    seqs = {N_SEQ,
            N,
            w.offsets.data(),
            c.past ? w.past.data() : NULL,
            w.pages.data(),
            w.max_pages,
            nullptr};
    TWIN_OK(t, t->ops->rope(t->cpu, w.q.view(), w.k.view(), w.v.view(), c.dim,
                            &rope, &seqs, c.store ? &host_kv : NULL, &t->err));
    cr_expect(rows_close("q", q.read(), want_q, 3e-7, 3e-7));
    cr_expect(rows_close("k", k.read(), want_k, 3e-7, 3e-7));
    cr_expect(rows_close("q, CPU", q.read(), doubles_of(w.q), 3e-7, 3e-7));
    cr_expect(rows_close("k, CPU", k.read(), doubles_of(w.k), 3e-7, 3e-7));
    cr_expect(
        rows_close("stored k", sk.read(), doubles_of(w.store_k), 3e-7, 3e-7));
    cr_expect(same_bits(sv.read(), w.store_v), "stored v");
}

Test(simt_rope, rope) {
    twin *t = twin_open();
    static const rope_case cases[] = {
        {64, 64, 5, 3, false, false, 0, 0},
        {64, 64, 9, 3, true, true, 0, 0},
        {128, 128, 2, 1, false, true, 1, 4},
        {80, 32, 2, 2, false, true, 17, 0},
        {34, 34, 3, 1, true, true, 20, 0},
        {256, 64, 2, 1, true, false, 0, 4},
        {64, 64, 1, 1, false, true, 131000, 1},
        {2, 2, 1, 1, false, true, 3, 0},
        {256, 256, 1, 1, false, true, 0, 0},
        {33, 6, 3, 5, true, true, 2, 3},
        {68, 24, 3, 2, true, true, 9, 4},
    };
    uint64_t seed = 0;
    for (rope_case c : cases) {
        simt_seed(seed++);
        rope_one(t, c);
    }
}

Test(simt_rope, what_is_refused) {
    twin *t = twin_open();
    ks_view x = ks_view_f32(NULL, 0, 64), odd = ks_view_f32(NULL, 0, 65);
    ks_seqs none = {};
    ks_rope rope = {NULL, 1, 64, false}, wide = {NULL, 1, 258, false};
    auto run = [&](ks_view q, ks_view k, ks_view v, int32_t dim, ks_rope *r) {
        return ks__cuda_rope(t->cuda, q, k, v, dim, r, &none, NULL, &t->err);
    };
    cr_expect(run(x, x, x, 64, &rope) == KS_OK);
    cr_expect(run(x, x, x, 257, &rope) == KS_UNSUPPORTED);
    cr_expect(run(x, x, x, 256, &wide) == KS_UNSUPPORTED);
    cr_expect(run(x, x, x, 32, &rope) == KS_UNSUPPORTED);
    cr_expect(run(odd, x, x, 64, &rope) == KS_INTERNAL);
    cr_expect(run(x, odd, odd, 64, &rope) == KS_INTERNAL);
    cr_expect(run(x, x, odd, 64, &rope) == KS_INTERNAL);
}
