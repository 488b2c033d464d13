/* Opening the CPU backend, memory, and the BLAS product. */
#include "reference.h"

Test(dev, refuses_what_is_not_there) {
    ks_dev *dev;
    const struct ks_ops *ops;
    ks_err err;
    cr_assert(ks_dev_open(&dev, &ops, "tpu", 0, NULL, &err) == KS_UNSUPPORTED);
    cr_assert(strstr(err.text, "tpu") && !dev);
    cr_assert(ks_dev_open(&dev, &ops, "cpu", 0, "avx9", &err) ==
              KS_UNSUPPORTED);
    cr_assert(strstr(err.text, "avx9") && strstr(err.text, "v2"), "%s",
              err.text);
    cr_assert(ks_dev_open(&dev, &ops, "cpu", -1, NULL, &err) == KS_USAGE);
    setenv("KS_ISA", "nonsense", 1);
    cr_assert(ks_dev_open(&dev, &ops, NULL, 0, NULL, &err) == KS_UNSUPPORTED);
    setenv("KS_ISA", "v2", 1);
    cr_assert(ks_dev_open(&dev, &ops, NULL, 2, NULL, &err) == KS_OK);
    cr_assert(strcmp(ops->isa, "v2") == 0 && ks_dev_threads(dev) == 2);
    ks_dev_close(&dev, ops);
    cr_assert(!dev);
    ks_dev_close(&dev, ops);
    unsetenv("KS_ISA");
    cr_assert(ks_dev_open(&dev, &ops, "cpu", 0, NULL, &err) == KS_OK);
    cr_assert(ops == ks_ops_cpu() && ks_dev_threads(dev) >= 1);
    ks_dev_close(&dev, ops);
}

static void refused(const char *name, ks_status status, const char *words) {
    ks_dev *dev;
    const struct ks_ops *ops;
    ks_err err;
    cr_expect(ks_dev_open(&dev, &ops, name, 1, NULL, &err) == status, "%s: %s",
              name, err.text);
    cr_expect(!dev && !ops && strstr(err.text, words), "%s: %s", name,
              err.text);
}

Test(dev, names) {
    cr_expect(strcmp(ks_backend_name(0), "cpu") == 0);
    cr_expect(!ks_backend_name(2) && !ks_backend_name(-1));
    refused("cpu:", KS_USAGE, "cpu:");
    refused("cpu:x", KS_USAGE, "such as cuda:1");
    refused("cpu:0x", KS_USAGE, "cpu:0x");
    refused("cpu:-1", KS_USAGE, "cpu:-1");
    refused("cpu:+1", KS_USAGE, "cpu:+1");
    refused("cpu:10000", KS_USAGE, "cpu:10000");
    refused("cpu:1", KS_USAGE, "one device");
    refused("cp", KS_UNSUPPORTED, "has: cpu");
    refused("cpus", KS_UNSUPPORTED, "'cpus'");
    refused("", KS_UNSUPPORTED, "''");
    if (!ks_backend_name(1)) refused("cuda:1", KS_UNSUPPORTED, "--preset cuda");
    ks_dev *dev;
    const struct ks_ops *ops;
    ks_err err;
    cr_assert(ks_dev_open(&dev, &ops, "cpu:0", 1, NULL, &err) == KS_OK);
    cr_expect(ks_dev_limit(dev, 1, "fewer rows need less", &err) == KS_OK);
    cr_expect(ks_dev_room(dev) == SIZE_MAX);
    ks_dev_close(&dev, ops);
}

Test(dev, facts) {
    int n = 0;
    ks_err err;
    ks_dev_facts facts;
    cr_assert(ks_dev_count("cpu", &n, &err) == KS_OK && n == 1);
    cr_assert(ks_dev_describe("cpu", &facts, &err) == KS_OK);
    cr_expect(facts.name[0] && facts.threads >= 1 && strstr(facts.isa, "v2"),
              "'%s', %d threads, '%s'", facts.name, facts.threads, facts.isa);
    cr_expect(ks_dev_count("tpu", &n, &err) == KS_UNSUPPORTED && n == 0);
    cr_expect(ks_dev_describe("tpu", &facts, &err) == KS_UNSUPPORTED);
}

static void beside(backend *b) {
    ks_buf host = {0}, mine = {0};
    uint64_t ticket;
    RUN(b, alloc_host, &host, 100, "a test");
    RUN(b, alloc, &mine, 100, "a test");
    RUN(b, zero, mine.data, 100);
    RUN(b, copy, (char *)mine.data + 99, "x", 1);
    cr_assert(b->ops->enter(b->dev, &b->err) == KS_OK);
    RUN(b, copy_out, host.data, mine.data, 100, &ticket);
    RUN(b, wait, ticket);
    cr_expect(((char *)host.data)[98] == 0 && ((char *)host.data)[99] == 'x');
    b->ops->free_host(b->dev, &host);
    b->ops->free(b->dev, &mine);
    cr_expect(!host.data && !host.size);
    ks_graph *graph = (ks_graph *)&host;
    cr_expect(!b->ops->graphs);
    cr_expect(b->ops->record(b->dev, &b->err) == KS_UNSUPPORTED);
    cr_expect(b->ops->recorded(b->dev, &graph, &b->err) == KS_UNSUPPORTED);
    cr_expect(!graph);
    cr_expect(b->ops->replay(b->dev, graph, &b->err) == KS_UNSUPPORTED);
    b->ops->free_graph(b->dev, &graph);
}

Test(dev, copies_beside_and_graphs) {
    ON_EVERY_BACKEND(beside);
}

static void memory(backend *b) {
    ks_buf buf = {0};
    static const size_t sizes[] = {0, 1, 4097, 10 << 20};
    for (int i = 0; i < 4; i++) {
        RUN(b, alloc, &buf, sizes[i], "a test");
        cr_assert(buf.size == sizes[i] && (uintptr_t)buf.data % 64 == 0);
        char text[1] = {'x'}, back[1];
        if (buf.size) {
            RUN(b, copy, (char *)buf.data + buf.size - 1, text, 1);
            RUN(b, copy, back, (char *)buf.data + buf.size - 1, 1);
            cr_assert(back[0] == 'x');
        }
        RUN(b, copy, buf.data, text, 0);
        cr_assert(b->ops->sync(b->dev, &b->err) == KS_OK);
        b->ops->free(b->dev, &buf);
        cr_assert(!buf.data && !buf.size);
    }
    cr_assert(b->ops->alloc(b->dev, &buf, SIZE_MAX - 100, "the impossible",
                            &b->err) == KS_NOMEM);
    cr_assert(strstr(b->err.text, "the impossible"), "%s", b->err.text);
}

Test(dev, memory) {
    ON_EVERY_BACKEND(memory);
}

/* Every item once, each on its lane's handle, which computes alone; items of
 * one lane never meet. Items FAIL and up fail. */
enum { ITEMS = 37, FAIL = 20, LANES = 2 };

typedef struct visits {
    backend *backend;
    ks_dev *dev_of[LANES];
    int seen[ITEMS], busy[LANES];
    bool fail;
} visits;

static ks_status visit(void *user, ks_dev *dev, int32_t lane, int32_t i,
                       ks_err *err) {
    visits *v = user;
    float x[6] = {1, 2, 3, 4, 5, 6}, y[6] = {0};
    if (lane < 0 || lane >= LANES || v->busy[lane])
        return ks_fail(err, KS_USAGE, "lane %d is busy or none", lane);
    v->busy[lane] = 1;
    v->dev_of[lane] = dev;
    ks_status st =
        v->backend->ops->gemm(dev, ks_view_f32(y, 2, 2), ks_view_f32(x, 2, 3),
                              ks_view_f32(x, 2, 3), NULL, false, err);
    v->seen[i] += st == KS_OK && y[0] == 14 && y[1] == 32 && y[3] == 77;
    v->busy[lane] = 0;
    if (v->fail && i >= FAIL) return ks_fail(err, KS_NUMERIC, "item %d", i);
    return st;
}

static void each(backend *b) {
    for (int lanes = 1; lanes <= KS_MIN(LANES, ks_dev_lanes(b->dev)); lanes++) {
        visits v = {.backend = b};
        RUN(b, each, lanes, ITEMS, visit, &v);
        for (int i = 0; i < ITEMS; i++)
            cr_expect_eq(v.seen[i], 1, "item %d", i);
        if (lanes == 1) cr_expect(v.dev_of[0] == b->dev);
        cr_expect(!v.dev_of[1] || v.dev_of[1] != v.dev_of[0]);
        v.fail = true;
        cr_expect_eq(b->ops->each(b->dev, lanes, ITEMS, visit, &v, &b->err),
                     KS_NUMERIC);
        cr_expect_str_eq(b->err.text, "item 20", "%d lanes: %s", lanes,
                         b->err.text);
        RUN(b, each, lanes, 0, visit, &v);
    }
    cr_expect_eq(
        b->ops->each(b->dev, ks_dev_lanes(b->dev) + 1, 1, visit, NULL, &b->err),
        KS_INTERNAL);
}

Test(dev, each) {
    ON_EVERY_BACKEND(each);
}

/* op(a) as [rows, cols] in double */
static double entry(const ks_view *a, bool t, int64_t i, int64_t j) {
    return (double)(t ? at(a, j)[i] : at(a, i)[j]);
}

static void matmul_one(backend *b, int64_t m, int64_t n, int64_t k, bool ta,
                       bool tb) {
    ks_view a = ta ? guarded_random(k, m, m + 2) : guarded_random(m, k, k + 1);
    ks_view c = guarded_random(m, n, n + 3);
    ks_view w = tb ? guarded_random(n, k, k + 4) : guarded_random(k, n, n);
    double *ref = doubles(m * n);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += entry(&a, ta, i, l) * entry(&w, tb, l, j);
            ref[i * n + j] = 0.5 * sum - 2 * (double)at(&c, i)[j];
        }
    RUN(b, matmul, c, a, ta, w, tb, 0.5f, -2);
    for (int64_t i = 0; i < m; i++)
        cr_assert(close_f32("matmul", at(&c, i), ref + i * n, (size_t)n,
                            1e-6 + 1e-7 * (double)k, 1e-6));
    cr_assert(guards_whole(&c));
    guarded_free(&a), guarded_free(&w), guarded_free(&c), free(ref);
}

static void matmul(backend *b) {
    static const int64_t sizes[][3] = {
        {1, 1, 1}, {31, 33, 7}, {5, 1, 300}, {64, 97, 128}, {130, 40, 61},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int t = 0; t < 4; t++)
            matmul_one(b, sizes[i][0], sizes[i][1], sizes[i][2], t & 1, t >> 1);
    float x[6] = {0};
    cr_assert(b->ops->matmul(b->dev, ks_view_f32(x, 1, 1), ks_view_f32(x, 1, 2),
                             false, ks_view_f32(x, 3, 1), false, 1, 0,
                             &b->err) == KS_INTERNAL);
}

Test(dev, matmul) {
    ON_EVERY_BACKEND(matmul);
}
