/* check_probe_l2.cpp - the CUDA l2 ops against the CPU's and plain loops in
 * double, and the whole solver on the simulated device against the CPU. */
#include "probe_fixture.h"

extern "C" {
#include "l2.h"
#include "nest.h"
}

/* f32 products of at most some hundred terms of size 1, over sums of |terms|;
 * found: 4e-7. */
static const double F32 = 3e-6;
static const double F64 = 1e-12;

/* ------------------------------------------------------------ rows to read */

struct layer {
    int64_t n, d;
    int32_t n_designs;
    std::vector<float> x;
    std::vector<uint8_t> code;
    std::vector<int64_t> order;
    std::vector<ks_l2_block> blocks;
    std::vector<uint32_t> block_folds;
    ks_buf work;
    ks_l2_rows host, device;
};

static void open_layer(sim *s, layer *l, int64_t n, int64_t d,
                       int32_t n_designs, uint32_t seed) {
    l->n = n, l->d = d, l->n_designs = n_designs;
    l->x = numbers(seed, (size_t)(n * d));
    for (int64_t k = 0; k < n * n_designs; k++) {
        uint32_t word = (uint32_t)(number(seed + 1, (uint64_t)k) * 4096 + 4096);
        l->code.push_back((uint8_t)(2 * (word % 5) + word / 5 % 2));
    }
    for (int64_t i = 0; i < n; i++) l->order.push_back((i * 7 + 3) % n);
    for (int64_t i = 0; i < n; i += KS_L2_BLOCK)
        l->blocks.push_back({i, KS_MIN(i + KS_L2_BLOCK, n)});
    l->block_folds.assign(l->blocks.size() * (size_t)n_designs, 31u);
    l->work = {};
    ks_l2_rows r = {};
    r.n = n, r.d = d, r.n_designs = n_designs;
    r.n_blocks = (int32_t)l->blocks.size(), r.n_lanes = 1;
    r.x = l->x.data();
    r.code = r.host_code = l->code.data();
    r.order = l->order.data(), r.blocks = l->blocks.data();
    r.block_folds = l->block_folds.data(), r.work = &l->work;
    l->host = l->device = r;
    l->device.x = to_device(s, l->x);
    l->device.code = to_device(s, l->code);
}

static void close_layer(sim *s, layer *l) {
    s->cpu_ops->free(s->cpu, &l->work);
    ks__cuda_give(s->dev, (void *)l->device.x);
    ks__cuda_give(s->dev, (void *)l->device.code);
}

/* --------------------------------------------------------------------- pass */

struct columns {
    int32_t n;
    std::vector<int32_t> design;
    std::vector<uint32_t> hold;
    std::vector<double> class_c, w, b;
    std::vector<double> g, r, h;
    std::vector<float> margin;
    std::vector<float *> margins;
    ks_l2_pass pass;
};

/* Column c draws by first + c: the same alone and among others. */
static void open_columns(columns *c, const layer *l, int32_t n, int32_t first,
                         bool exact) {
    *c = {};
    c->n = n;
    c->margin.assign((size_t)(n * l->n), 77);
    for (int32_t k = 0; k < n; k++) {
        uint64_t at = (uint64_t)(first + k);
        c->design.push_back((first + k) * l->n_designs / 131 % l->n_designs);
        c->hold.push_back((uint32_t)(number(5, at) * 16 + 16));
        c->class_c.push_back(0.6 / (double)l->n);
        c->class_c.push_back((1.5 + number(6, at)) / (double)l->n);
        for (int64_t j = 0; j < l->d; j++)
            c->w.push_back(2 * number(7, at * 100003 + (uint64_t)j));
        c->b.push_back(number(8, at));
        c->margins.push_back(k % 3 == 2 ? NULL
                                        : &c->margin[(size_t)(k * l->n)]);
    }
    c->g.assign((size_t)(n * l->d), NAN);
    c->r.assign((size_t)n, NAN);
    c->h.assign((size_t)n, NAN);
    c->pass = {};
    c->pass.n = n;
    c->pass.design = c->design.data(), c->pass.hold = c->hold.data();
    c->pass.class_c = c->class_c.data();
    c->pass.w = c->w.data(), c->pass.b = c->b.data();
    c->pass.g = c->g.data(), c->pass.r = c->r.data(), c->pass.h = c->h.data();
    c->pass.exact = exact;
    c->pass.margin = c->margins.data();
}

/* The definition, in double. */
static void plain_pass(columns *c, const layer *l) {
    for (int32_t k = 0; k < c->n; k++) {
        double *g = &c->g[(size_t)(k * l->d)];
        for (int64_t j = 0; j < l->d; j++) g[j] = 0;
        c->r[k] = c->h[k] = 0;
        for (int64_t i = 0; i < l->n; i++) {
            const float *x = &l->x[(size_t)(i * l->d)];
            uint8_t code = l->code[(size_t)(c->design[k] * l->n + i)];
            double z = c->b[k];
            for (int64_t j = 0; j < l->d; j++)
                z += c->w[(size_t)(k * l->d + j)] * (double)x[j];
            if (c->hold[k] >> (code / 2) & 1) {
                if (c->margins[k] && c->pass.exact)
                    c->margins[k][l->order[(size_t)i]] = (float)z;
                continue;
            }
            double p = 1 / (1 + exp(-z));
            double share = c->class_c[(size_t)(2 * k + (code & 1))];
            double r = share * (p - (code & 1));
            c->r[k] += r, c->h[k] += share * p * (1 - p);
            for (int64_t j = 0; j < l->d; j++) g[j] += r * (double)x[j];
        }
    }
}

static void compare_pass(const columns *got, const columns *want,
                         double limit) {
    NEAR("g", worst(got->g.data(), want->g.data(), got->g.size(), 1), limit);
    NEAR("r", worst(got->r.data(), want->r.data(), got->r.size(), 1), limit);
    NEAR("h", worst(got->h.data(), want->h.data(), got->h.size(), 1), limit);
    NEAR("margin",
         worst(got->margin.data(), want->margin.data(), got->margin.size(), 1),
         3e-5);
}

static void check_pass(int64_t n, int64_t d, int32_t n_columns,
                       int32_t n_designs) {
    sim s = open_sim();
    layer l = {};
    open_layer(&s, &l, n, d, n_designs, (uint32_t)(n + d));
    for (int exact = 0; exact < 2; exact++) {
        columns want, cpu, first, again, alone;
        double limit = exact ? F64 : F32;
        open_columns(&want, &l, n_columns, 0, exact);
        open_columns(&cpu, &l, n_columns, 0, exact);
        plain_pass(&want, &l);
        FINE(s.cpu_ops->l2_pass(s.cpu, &l.host, &cpu.pass, err));
        for (uint64_t seed = 0; seed < 3; seed++) {
            columns *c = seed ? &again : &first;
            simt_seed(seed);
            open_columns(c, &l, n_columns, 0, exact);
            FINE(ks__cuda_l2_pass(s.dev, &l.device, &c->pass, err));
            compare_pass(c, &want, limit);
            compare_pass(c, &cpu, limit);
            if (!seed) continue;
            cr_expect(first.g == again.g && first.r == again.r &&
                          first.h == again.h && first.margin == again.margin,
                      "seed %d: other bits", (int)seed);
        }
        int32_t last = n_columns - 1; /* alone, without its neighbours */
        open_columns(&alone, &l, 1, last, exact);
        FINE(ks__cuda_l2_pass(s.dev, &l.device, &alone.pass, err));
        cr_expect(alone.r[0] == first.r[last] && alone.h[0] == first.h[last] &&
                      !memcmp(alone.g.data(), &first.g[(size_t)(last * d)],
                              (size_t)d * sizeof(double)),
                  "a column's bits depend on its neighbours");
    }
    close_layer(&s, &l);
    close_sim(&s);
}

Test(simt_probe_l2, pass_one) {
    check_pass(1, 1, 1, 1);
}
Test(simt_probe_l2, pass_odd) {
    check_pass(131, 17, 5, 2);
}
Test(simt_probe_l2, pass_tiles) {
    check_pass(67, 68, 65, 1); /* rows of x at 16 bytes, two column tiles */
}
Test(simt_probe_l2, pass_parts) {
    check_pass(1031, 33, 3, 3);
}
Test(simt_probe_l2, pass_many_rows) {
    if (!built("plain")) return; /* parts of more than 512 rows */
    check_pass(33001, 3, 2, 1);
}

/* ------------------------------------------------------- outer products */

struct scaling {
    std::vector<float> centre, inverse;
    ks_l2_scaling s;
};

static void open_scaling(scaling *s, int64_t d, uint32_t seed) {
    s->centre = numbers(seed, (size_t)d);
    s->inverse = numbers(seed + 1, (size_t)d);
    for (float &x : s->inverse) x = x * x + 0.5f;
    if (d > 1) s->inverse[(size_t)(d / 2)] = 0; /* a constant feature */
    s->s = {s->centre.data(), s->inverse.data(), {0.05f, 0.11f}};
}

/* a_i in double */
static std::vector<double> plain_scaled(const layer *l, const scaling *s) {
    std::vector<double> a((size_t)(l->n * l->d));
    for (int64_t i = 0; i < l->n; i++)
        for (int64_t j = 0; j < l->d; j++)
            a[(size_t)(i * l->d + j)] =
                (double)s->s.share[l->code[(size_t)i] & 1] *
                ((double)l->x[(size_t)(i * l->d + j)] -
                 (double)s->centre[(size_t)j]) *
                (double)s->inverse[(size_t)j];
    return a;
}

static void check_gram(int64_t n, int64_t d) {
    sim s = open_sim();
    layer l = {};
    scaling sc;
    open_layer(&s, &l, n, d, 2, 21);
    open_scaling(&sc, d, 31);
    std::vector<double> a = plain_scaled(&l, &sc), want((size_t)(d * d));
    double size = 0;
    for (int64_t p = 0; p < d; p++)
        for (int64_t q = 0; q <= p; q++) {
            double sum = 0;
            for (int64_t i = 0; i < n; i++)
                sum += a[(size_t)(i * d + p)] * a[(size_t)(i * d + q)];
            want[(size_t)(p * d + q)] = sum;
            size = fmax(size, fabs(sum));
        }
    std::vector<float> cpu((size_t)(d * d)), first;
    FINE(s.cpu_ops->l2_gram(s.cpu, &l.host, &sc.s, cpu.data(), err));
    for (uint64_t seed = 0; seed < 3; seed++) {
        simt_seed(seed);
        std::vector<float> got((size_t)(d * d), NAN);
        FINE(ks__cuda_l2_gram(s.dev, &l.device, &sc.s, got.data(), err));
        for (int64_t p = 0; p < d; p++) /* above the diagonal: not told */
            for (int64_t q = p + 1; q < d; q++)
                got[(size_t)(p * d + q)] = cpu[(size_t)(p * d + q)] = 0;
        NEAR("gram", worst(got.data(), want.data(), got.size(), size), 1e-6);
        NEAR("gram, CPU", worst(got.data(), cpu.data(), got.size(), size),
             1e-6);
        if (seed)
            cr_expect(got == first, "other bits");
        else
            first = got;
    }
    close_layer(&s, &l);
    close_sim(&s);
}

Test(simt_probe_l2, gram) {
    check_gram(37, 1);
    check_gram(131, 67);
    check_gram(531, 20);
}

static void check_project(int64_t n, int64_t d, int64_t n_q) {
    sim s = open_sim();
    layer l = {};
    scaling sc;
    open_layer(&s, &l, n, d, 1, 41);
    open_scaling(&sc, d, 51);
    std::vector<double> a = plain_scaled(&l, &sc);
    std::vector<double> want((size_t)(n_q * d));
    std::vector<float> q = numbers(61, (size_t)(n_q * d));
    double size = 0;
    for (int64_t k = 0; k < n_q; k++)
        for (int64_t i = 0; i < n; i++) {
            double z = 0;
            for (int64_t j = 0; j < d; j++)
                z += a[(size_t)(i * d + j)] * (double)q[(size_t)(k * d + j)];
            for (int64_t j = 0; j < d; j++)
                want[(size_t)(k * d + j)] += z * a[(size_t)(i * d + j)];
        }
    for (double x : want) size = fmax(size, fabs(x));
    std::vector<float> cpu(want.size()), first;
    FINE(s.cpu_ops->l2_project(s.cpu, &l.host, &sc.s, q.data(), n_q, cpu.data(),
                               err));
    for (uint64_t seed = 0; seed < 3; seed++) {
        simt_seed(seed);
        std::vector<float> got(want.size(), NAN);
        FINE(ks__cuda_l2_project(s.dev, &l.device, &sc.s, q.data(), n_q,
                                 got.data(), err));
        NEAR("project", worst(got.data(), want.data(), got.size(), size), 2e-6);
        NEAR("project, CPU", worst(got.data(), cpu.data(), got.size(), size),
             2e-6);
        if (seed)
            cr_expect(got == first, "other bits");
        else
            first = got;
    }
    close_layer(&s, &l);
    close_sim(&s);
}

Test(simt_probe_l2, project) {
    check_project(45, 13, 1);
    check_project(67, 131, 66);
    check_project(1100, 5, 3);
}

static void check_hessian(int64_t n, int64_t d) {
    enum { COLUMNS = 2 };
    sim s = open_sim();
    layer l = {};
    columns c;
    open_layer(&s, &l, n, d, 2, 71);
    open_columns(&c, &l, COLUMNS, 64, true);
    int64_t m = d + 1;
    std::vector<double> centre, inverse, want((size_t)(COLUMNS * m * m));
    for (int64_t j = 0; j < d; j++) {
        centre.push_back(number(81, (uint64_t)j));
        inverse.push_back(1.5 + number(82, (uint64_t)j));
    }
    std::vector<double> got(want.size(), NAN), cpu(want.size(), NAN);
    ks_l2_hessian here[COLUMNS], there[COLUMNS];
    for (int32_t k = 0; k < COLUMNS; k++) {
        c.design[(size_t)k] = 1 - k;
        here[k] = {c.design[(size_t)k],
                   c.hold[(size_t)k],
                   {c.class_c[(size_t)(2 * k)], c.class_c[(size_t)(2 * k + 1)]},
                   c.b[(size_t)k],
                   &c.w[(size_t)(k * d)],
                   centre.data(),
                   inverse.data(),
                   &cpu[(size_t)(k * m * m)]};
        there[k] = here[k];
        there[k].out = &got[(size_t)(k * m * m)];
        for (int64_t i = 0; i < n; i++) {
            uint8_t code = l.code[(size_t)(c.design[(size_t)k] * n + i)];
            if (c.hold[(size_t)k] >> (code / 2) & 1) continue;
            std::vector<double> a;
            double z = c.b[(size_t)k];
            for (int64_t j = 0; j < d; j++) {
                double x = (double)l.x[(size_t)(i * d + j)];
                z += c.w[(size_t)(k * d + j)] * x;
                a.push_back((x - centre[(size_t)j]) * inverse[(size_t)j]);
            }
            a.push_back(1);
            double p = 1 / (1 + exp(-z));
            double h = here[k].class_c[code & 1] * p * (1 - p);
            for (int64_t u = 0; u < m; u++)
                for (int64_t v = 0; v <= u; v++)
                    want[(size_t)((k * m + u) * m + v)] +=
                        h * a[(size_t)u] * a[(size_t)v];
        }
    }
    FINE(s.cpu_ops->l2_hessian(s.cpu, &l.host, here, COLUMNS, err));
    FINE(ks__cuda_l2_hessian(s.dev, &l.device, there, COLUMNS, err));
    for (int64_t k = 0; k < COLUMNS * m; k++)
        for (int64_t v = k % m + 1; v < m; v++)
            got[(size_t)(k * m + v)] = cpu[(size_t)(k * m + v)] = 0;
    NEAR("Hessian", worst(got.data(), want.data(), got.size(), 1), F64);
    NEAR("Hessian, CPU", worst(got.data(), cpu.data(), got.size(), 1), F64);
    close_layer(&s, &l);
    close_sim(&s);
}

Test(simt_probe_l2, hessian) {
    check_hessian(33, 1);
    check_hessian(131, 63);
    check_hessian(600, 64);
}

/* ------------------------------------------------------------------- errors */

Test(simt_probe_l2, bad_shapes_are_refused) {
    sim s = open_sim();
    ks_err err = {};
    ks_l2_rows none = {};
    ks_l2_pass pass = {};
    ks_l2_scaling sc = {};
    cr_expect(
        eq(int, ks__cuda_l2_pass(s.dev, &none, &pass, &err), (int)KS_INTERNAL));
    cr_expect(eq(int, ks__cuda_l2_gram(s.dev, &none, &sc, NULL, &err),
                 (int)KS_INTERNAL));
    cr_expect(eq(int,
                 ks__cuda_l2_project(s.dev, &none, &sc, NULL, 1, NULL, &err),
                 (int)KS_INTERNAL));
    cr_expect(eq(int, ks__cuda_l2_hessian(s.dev, &none, NULL, 1, &err),
                 (int)KS_INTERNAL));
    none.n = (int64_t)INT32_MAX + 1, none.d = 1;
    cr_expect(eq(int, ks__cuda_l2_gram(s.dev, &none, &sc, NULL, &err),
                 (int)KS_INTERNAL));
    none.n = 1, none.d = INT32_MAX / 2;
    cr_expect(eq(int, ks__cuda_l2_gram(s.dev, &none, &sc, NULL, &err),
                 (int)KS_INTERNAL));
    none.n = 0, none.d = 1;
    cr_expect(eq(int, ks__cuda_l2_gram(s.dev, &none, &sc, NULL, &err),
                 (int)KS_INTERNAL));
    none.n = 1, none.d = 0;
    cr_expect(eq(int, ks__cuda_l2_gram(s.dev, &none, &sc, NULL, &err),
                 (int)KS_INTERNAL));
    none.n = none.d = 1;
    cr_expect(
        eq(int, ks__cuda_l2_pass(s.dev, &none, &pass, &err), (int)KS_INTERNAL));
    cr_expect(eq(int,
                 ks__cuda_l2_project(s.dev, &none, &sc, NULL, 0, NULL, &err),
                 (int)KS_INTERNAL));
    s.dev->memory = 1000, s.dev->limited = true;
    pass.n = 1;
    cr_expect(
        eq(int, ks__cuda_l2_pass(s.dev, &none, &pass, &err), (int)KS_NOMEM));
    cr_expect(strstr(err.text, "a pass") != NULL, "%s", err.text);
    cr_expect(eq(int, ks__cuda_l2_gram(s.dev, &none, &sc, NULL, &err),
                 (int)KS_NOMEM));
    cr_expect(eq(int,
                 ks__cuda_l2_project(s.dev, &none, &sc, NULL, 1, NULL, &err),
                 (int)KS_NOMEM));
    cr_expect(eq(int, ks__cuda_l2_hessian(s.dev, &none, NULL, 1, &err),
                 (int)KS_NOMEM));
    close_sim(&s);
}

/* --------------------------------------------------------------- the solver */

struct fit {
    std::vector<ks_l2_column> columns;
    std::vector<double> weight, scale;
    std::vector<float> margin;
};

static void run_fit(fit *f, sim *s, bool device, const std::vector<float> &x,
                    int64_t n, int64_t d, const ks_l2_design *design,
                    const std::vector<double> &strengths) {
    size_t count = strengths.size() * 2;
    f->weight.assign(count * (size_t)(d + 1), NAN);
    f->scale.assign(count * (size_t)d, NAN);
    f->margin.assign(count * (size_t)n, 0);
    for (size_t k = 0; k < count; k++) {
        ks_l2_column c = {};
        c.hold = k % 2 ? 4 : 9;
        c.strength = strengths[k / 2];
        c.weight = &f->weight[k * (size_t)(d + 1)];
        c.scale = &f->scale[k * (size_t)d];
        c.margin = &f->margin[k * (size_t)n];
        f->columns.push_back(c);
    }
    ks_l2 *l2 = NULL;
    if (device)
        FINE(ks_l2_open_on(&l2, &s->ops, s->dev, x.data(), n, d, design, 1, 2,
                           err));
    else
        FINE(ks_l2_open(&l2, x.data(), n, d, design, 1, 2, err));
    FINE(ks_l2_fit(l2, f->columns.data(), (int32_t)count, 1e-6, 1000, err));
    ks_l2_close(&l2);
}

/* massive: a few rows a thousand times larger, so that columns end around
 * Hessians of their own. */
static void check_solver(int64_t n, int64_t d, bool massive,
                         const std::vector<double> &strengths) {
    sim s = open_sim();
    s.ops.l2_pass = ks__cuda_l2_pass, s.ops.l2_gram = ks__cuda_l2_gram;
    s.ops.l2_project = ks__cuda_l2_project;
    s.ops.l2_hessian = ks__cuda_l2_hessian;
    std::vector<float> x = numbers(91, (size_t)(n * d));
    std::vector<int8_t> y;
    std::vector<uint8_t> fold;
    for (int64_t i = 0; i < n; i++) {
        double pull = 2 * number(92, (uint64_t)i);
        for (int64_t j = 0; j < KS_MIN(d, 8); j++)
            pull += (double)x[(size_t)(i * d + j)];
        y.push_back(pull > 0.3);
        fold.push_back((uint8_t)(i * 5 / n));
        for (int64_t j = 0; massive && i % 50 == 0 && j < d; j++)
            x[(size_t)(i * d + j)] *= 1000;
    }
    ks_l2_design design = {y.data(), fold.data()};
    fit cpu, cuda;
    run_fit(&cpu, &s, false, x, n, d, &design, strengths);
    run_fit(&cuda, &s, true, x, n, d, &design, strengths);
    for (size_t k = 0; k < cuda.columns.size(); k++) {
        size_t m = (size_t)d + 1;
        std::vector<double> a, b;
        for (size_t j = 0; j < m; j++) {
            double by = j < (size_t)d ? cpu.scale[k * (size_t)d + j] : 1;
            a.push_back(cuda.weight[k * m + j] * by);
            b.push_back(cpu.weight[k * m + j] * by);
        }
        NEAR("weights", distance(a.data(), b.data(), m), 1e-3);
        NEAR("margins",
             distance(&cuda.margin[k * (size_t)n], &cpu.margin[k * (size_t)n],
                      (size_t)n),
             1e-3);
        cr_expect(cuda.columns[k].converged && cuda.columns[k].gradient <= 1e-6,
                  "column %zu: gradient %g", k, cuda.columns[k].gradient);
    }
    close_sim(&s);
}

Test(simt_probe_l2, solver) {
    check_solver(311, 19, false, {1e-3, 0.1, 10});
}
Test(simt_probe_l2, solver_around_a_hessian) {
    check_solver(400, 12, true, {10});
}
Test(simt_probe_l2, solver_of_a_leading_spectrum) {
    if (!built("plain")) return; /* seconds */
    check_solver(41, 1281, false, {1e-2});
}

/* Strengths chosen inside the folds, as keystep probe does it. */
Test(simt_probe_l2, nest) {
    enum { N = 90, D = 7 };
    sim s = open_sim();
    s.ops.l2_pass = ks__cuda_l2_pass, s.ops.l2_gram = ks__cuda_l2_gram;
    std::vector<float> x = numbers(95, N * D);
    std::vector<int8_t> y;
    std::vector<uint8_t> fold;
    for (int i = 0; i < N; i++) {
        y.push_back(number(96, (uint64_t)i) + (double)x[(size_t)(i * D)] > 0);
        fold.push_back((uint8_t)(i % 3));
    }
    const int8_t *labels[] = {y.data()};
    const double strengths[] = {1e-2, 1};
    ks_folds folds = {N, 3, 2, 1, fold.data()};
    ks_nest_options o = {};
    o.n_strengths = 2, o.strengths = strengths, o.threads = 1;
    ks_nest cpu, cuda;
    FINE(ks_nest_fit(&cpu, x.data(), D, labels, &folds, &o, err));
    o.ops = &s.ops, o.dev = s.dev;
    FINE(ks_nest_fit(&cuda, x.data(), D, labels, &folds, &o, err));
    NEAR("scores", distance(cuda.score, cpu.score, N), 1e-3);
    for (int k = 0; k < 3; k++)
        cr_expect(eq(dbl, cuda.strength[k], cpu.strength[k]));
    ks_nest_free(&cpu);
    ks_nest_free(&cuda);
    close_sim(&s);
}
