/* The way back through attention against plain loops in double, which are
 * themselves checked by central differences. */
#include "reference.h"

typedef struct problem {
    ks_attn_spec spec;
    ks_seqs seqs;
    ks_cots cots;
    int64_t pad; /* columns between a row's end and the next row */
} problem;

/* ------------------------------------------------------------ the reference */

static int64_t sequence_begin(const ks_seqs *seqs, int64_t t) {
    int64_t begin = 0;
    for (int32_t s = 0; s < seqs->n_seq; s++)
        if (seqs->offsets[s] <= t) begin = seqs->offsets[s];
    return begin;
}

typedef struct doubles3 {
    double *q, *k, *v;
    int64_t q_cols, k_cols;
} doubles3;

static double dot(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Probabilities p and slopes ds/d(q.k) of one token's head over [begin, t]. */
static void ref_weights(const problem *a, const doubles3 *x, int64_t t,
                        int32_t head, double *p, double *slope) {
    const ks_attn_spec *spec = &a->spec;
    int64_t d = spec->head_dim, begin = sequence_begin(&a->seqs, t);
    int64_t group = head / (spec->n_heads / spec->n_kv_heads);
    double top = spec->sinks ? (double)spec->sinks[head] : -INFINITY;
    double total = 0, cap = (double)spec->softcap;
    for (int64_t j = begin; j <= t; j++) {
        double s =
            (double)spec->scale * dot(x->q + t * x->q_cols + head * d,
                                      x->k + j * x->k_cols + group * d, d);
        slope[j - begin] = (double)spec->scale;
        if (cap > 0) {
            double u = tanh(s / cap);
            s = cap * u;
            slope[j - begin] *= 1 - u * u;
        }
        if (spec->window > 0 && j <= t - spec->window) s = -INFINITY;
        p[j - begin] = s;
        top = fmax(top, s);
    }
    if (spec->sinks) total = exp((double)spec->sinks[head] - top);
    for (int64_t j = 0; j <= t - begin; j++) total += p[j] = exp(p[j] - top);
    for (int64_t j = 0; j <= t - begin; j++) p[j] /= total;
}

/* Sum over cotangent c of dout . out: what the gradients are of. */
static double ref_objective(const problem *a, const doubles3 *x,
                            const ks_view *dout, int32_t c) {
    int64_t d = a->spec.head_dim;
    int64_t share = a->spec.n_heads / a->spec.n_kv_heads;
    double sum = 0, *p = doubles(a->seqs.n_tok),
           *slope = doubles(a->seqs.n_tok);
    for (int32_t i = a->cots.offsets[c]; i < a->cots.offsets[c + 1]; i++) {
        int64_t t = a->cots.row[i], begin = sequence_begin(&a->seqs, t);
        for (int32_t h = 0; h < a->spec.n_heads; h++) {
            ref_weights(a, x, t, h, p, slope);
            for (int64_t j = begin; j <= t; j++)
                for (int64_t e = 0; e < d; e++)
                    sum += (double)at(dout, i)[h * d + e] * p[j - begin] *
                           x->v[j * x->k_cols + h / share * d + e];
        }
    }
    free(p), free(slope);
    return sum;
}

/* Gradients of cotangent c with respect to every row of q, k and v. */
static doubles3 ref_backward(const problem *a, const doubles3 *x,
                             const ks_view *dout, int32_t c) {
    int64_t n = a->seqs.n_tok, d = a->spec.head_dim;
    int64_t share = a->spec.n_heads / a->spec.n_kv_heads;
    doubles3 g = {doubles(n * x->q_cols), doubles(n * x->k_cols),
                  doubles(n * x->k_cols), x->q_cols, x->k_cols};
    double *p = doubles(n), *slope = doubles(n), *dp = doubles(n);
    double *o = doubles(d);
    for (int32_t i = a->cots.offsets[c]; i < a->cots.offsets[c + 1]; i++) {
        int64_t t = a->cots.row[i], begin = sequence_begin(&a->seqs, t);
        for (int32_t h = 0; h < a->spec.n_heads; h++) {
            const float *from = at(dout, i) + h * d;
            int64_t kv = h / share * d;
            double mean = 0;
            for (int64_t e = 0; e < d; e++) o[e] = (double)from[e];
            ref_weights(a, x, t, h, p, slope);
            for (int64_t j = begin; j <= t; j++) {
                dp[j - begin] = dot(o, x->v + j * x->k_cols + kv, d);
                mean += p[j - begin] * dp[j - begin];
            }
            for (int64_t j = begin; j <= t; j++) {
                double w = p[j - begin];
                double ds = w * (dp[j - begin] - mean) * slope[j - begin];
                for (int64_t e = 0; e < d; e++) {
                    g.v[j * g.k_cols + kv + e] += w * o[e];
                    g.q[t * g.q_cols + h * d + e] +=
                        ds * x->k[j * x->k_cols + kv + e];
                    g.k[j * g.k_cols + kv + e] +=
                        ds * x->q[t * x->q_cols + h * d + e];
                }
            }
        }
    }
    free(p), free(slope), free(dp), free(o);
    return g;
}

static double *widened(const ks_view *v) {
    double *x = doubles(v->rows * v->cols);
    for (int64_t i = 0; i < v->rows; i++)
        for (int64_t j = 0; j < v->cols; j++)
            x[i * v->cols + j] = (double)at(v, i)[j];
    return x;
}

static void free3(doubles3 *x) {
    free(x->q), free(x->k), free(x->v);
}

/* ----------------------------------------------------------------- problems */

static float sinks[] = {0.3f, -1.2f, 1.1f, 0, 2.0f, 0.4f, -0.6f, 0.9f};

static const int32_t LENGTHS[] = {0, 31, 32, 162, 229}; /* offsets */

/* Rows of each cotangent: the forward's from, to. Whole sequences, one token,
 * tiles' edges, nothing, and what starts in the middle. */
static const int32_t COVER[][2] = {
    {0, 31},   {7, 30},    {31, 32},   {32, 162},  {32, 96},
    {95, 162}, {96, 161},  {130, 131}, {150, 150}, {100, 128},
    {32, 33},  {162, 229}, {190, 229}, {228, 229},
};
enum { N_COTS = sizeof COVER / sizeof *COVER };

static void cover(problem *a) {
    static int32_t offsets[N_COTS + 1], first[N_COTS], row[1024];
    int32_t n = 0;
    for (int c = 0; c < N_COTS; c++) {
        offsets[c] = n;
        first[c] = COVER[c][0];
        for (int32_t t = COVER[c][0]; t < COVER[c][1]; t++) row[n++] = t;
    }
    offsets[N_COTS] = n;
    a->cots = (ks_cots){N_COTS, n, offsets, first, row};
}

static problem problem_of(int32_t heads, int32_t groups, int32_t d,
                          float softcap, int32_t window, bool sinks_on,
                          int64_t pad) {
    problem a = {
        .spec = {.n_heads = heads,
                 .n_kv_heads = groups,
                 .head_dim = d,
                 .scale = 1.5f / sqrtf((float)d),
                 .softcap = softcap,
                 .window = window,
                 .sinks = sinks_on ? sinks : NULL},
        .seqs = {.n_seq = 4, .n_tok = LENGTHS[4], .offsets = LENGTHS},
        .pad = pad,
    };
    cover(&a);
    return a;
}

typedef struct values {
    ks_view q, k, v, out, dout, dq, dk, dv;
} values;

static values values_of(backend *b, const problem *a) {
    int64_t n = a->seqs.n_tok, r = a->cots.n_rows;
    int64_t hc = (int64_t)a->spec.n_heads * a->spec.head_dim;
    int64_t gc = (int64_t)a->spec.n_kv_heads * a->spec.head_dim;
    values x = {
        .q = guarded_random(n, hc, hc + a->pad),
        .k = guarded_random(n, gc, gc + a->pad),
        .v = guarded_random(n, gc, gc + a->pad),
        .out = guarded(n, hc, hc + a->pad),
        .dout = guarded_random(r, hc, hc + a->pad),
        .dq = guarded_random(r, hc, hc + a->pad),
        .dk = guarded_random(r, gc, gc + a->pad),
        .dv = guarded_random(r, gc, gc + a->pad),
    };
    for (int64_t i = 0; i < n; i++) /* decided attention */
        for (int64_t j = 0; j < hc; j++) at(&x.q, i)[j] *= 2;
    RUN(b, attention, x.out, x.q, x.k, x.v, &a->spec, &a->seqs, NULL);
    return x;
}

static void values_free(values *x) {
    ks_view *all[] = {&x->q,    &x->k,  &x->v,  &x->out,
                      &x->dout, &x->dq, &x->dk, &x->dv};
    for (size_t i = 0; i < KS_COUNT(all); i++) guarded_free(all[i]);
}

static void run(backend *b, const problem *a, values *x) {
    RUN(b, attention_backward, x->dq, x->dk, x->dv, x->dout, x->out, x->q, x->k,
        x->v, &a->spec, &a->seqs, &a->cots);
}

/* -------------------------------------------------------------------- tests */

static void compare(const char *what, const ks_view *got, const double *ref,
                    const problem *a, int32_t c) {
    for (int32_t i = a->cots.offsets[c]; i < a->cots.offsets[c + 1]; i++)
        cr_assert(close_f32(what, at(got, i), ref + a->cots.row[i] * got->cols,
                            (size_t)got->cols, 1e-5, 1e-5),
                  "cotangent %d row %d", c, a->cots.row[i]);
}

static void check_problem(backend *b, const problem *a) {
    values x = values_of(b, a);
    doubles3 f = {widened(&x.q), widened(&x.k), widened(&x.v), x.q.cols,
                  x.k.cols};
    run(b, a, &x);
    for (int32_t c = 0; c < a->cots.n_cot; c++) {
        doubles3 ref = ref_backward(a, &f, &x.dout, c);
        compare("dq", &x.dq, ref.q, a, c);
        compare("dk", &x.dk, ref.k, a, c);
        compare("dv", &x.dv, ref.v, a, c);
        free3(&ref);
    }
    cr_assert(guards_whole(&x.dq) && guards_whole(&x.dk) &&
              guards_whole(&x.dv) && guards_whole(&x.dout));
    free3(&f);
    values_free(&x);
}

static void problems(backend *b) {
    problem table[] = {
        problem_of(1, 1, 8, 0, 0, false, 0),
        problem_of(4, 2, 16, 0, 0, false, 3),
        problem_of(6, 3, 31, 0, 33, false, 1),
        problem_of(3, 3, 64, 1.5f, 0, false, 0),
        problem_of(4, 1, 33, 2.5f, 65, true, 5),
        problem_of(8, 2, 96, 0, 1, true, 0),
    };
    for (size_t i = 0; i < KS_COUNT(table); i++) check_problem(b, &table[i]);
}

Test(attention_backward, against_double) {
    ON_EVERY_BACKEND(problems);
}

static void wide_heads(backend *b) {
    problem a = problem_of(2, 1, 256, 0, 100, false, 0);
    check_problem(b, &a);
}

Test(attention_backward, widest_heads) {
    ON_EVERY_BACKEND(wide_heads);
}

/* Central differences of the objective, in double: is the reference right? */
static void differences(backend *b) {
    problem a = problem_of(4, 2, 5, 1.7f, 21, true, 0);
    int32_t c = 1;
    values x = values_of(b, &a);
    doubles3 f = {widened(&x.q), widened(&x.k), widened(&x.v), x.q.cols,
                  x.k.cols};
    doubles3 ref = ref_backward(&a, &f, &x.dout, c);
    double *from[] = {f.q, f.k, f.v}, *grad[] = {ref.q, ref.k, ref.v};
    int64_t cols[] = {f.q_cols, f.k_cols, f.k_cols};
    for (int which = 0; which < 3; which++)
        for (int64_t i = 0; i < 31 * cols[which]; i += 7) {
            double *at_ = from[which] + i, was = *at_, h = 1e-5;
            *at_ = was + h;
            double up = ref_objective(&a, &f, &x.dout, c);
            *at_ = was - h;
            double down = ref_objective(&a, &f, &x.dout, c);
            *at_ = was;
            double d = (up - down) / (2 * h);
            cr_assert(fabs(d - grad[which][i]) <= 1e-7 * (1 + fabs(d)),
                      "%d at %lld: %g, differences give %g", which,
                      (long long)i, grad[which][i], d);
        }
    free3(&f), free3(&ref);
    values_free(&x);
}

Test(attention_backward, reference_against_central_differences) {
    backend b;
    cr_assert(backend_open(&b, "v2", 1));
    differences(&b);
    backend_close(&b);
}

/* A cotangent alone has the bits that it has among others. */
static void alone(backend *b) {
    problem a = problem_of(4, 2, 24, 3, 40, true, 2), one = a;
    values x = values_of(b, &a);
    run(b, &a, &x);
    for (int32_t c = 0; c < N_COTS; c++) {
        int32_t n = a.cots.offsets[c + 1] - a.cots.offsets[c];
        int32_t offsets[] = {0, n}, from = a.cots.offsets[c];
        one.cots =
            (ks_cots){1, n, offsets, a.cots.first + c, a.cots.row + from};
        values y = x;
        y.dout.data = at(&x.dout, from);
        y.dq = guarded(n, x.dq.cols, x.dq.cols);
        y.dk = guarded(n, x.dk.cols, x.dk.cols);
        y.dv = guarded(n, x.dv.cols, x.dv.cols);
        y.dout.rows = n;
        run(b, &one, &y);
        for (int32_t i = 0; i < n; i++)
            cr_assert(rows_equal(&y.dq, i, &x.dq, from + i) &&
                          rows_equal(&y.dk, i, &x.dk, from + i) &&
                          rows_equal(&y.dv, i, &x.dv, from + i),
                      "%s: cotangent %d row %d", b->ops->isa, c, i);
        guarded_free(&y.dq), guarded_free(&y.dk), guarded_free(&y.dv);
    }
    values_free(&x);
}

Test(attention_backward, bits_of_a_cotangent_alone) {
    ON_EVERY_BACKEND(alone);
}

/* The same bits from one thread and from three. */
Test(attention_backward, bits_on_any_number_of_threads) {
    for (size_t i = 0; i < KS_COUNT(ISAS); i++) {
        backend b, c;
        if (!backend_open(&b, ISAS[i], 1)) continue;
        cr_assert(backend_open(&c, ISAS[i], 3));
        problem a = problem_of(6, 3, 16, 0, 0, false, 0);
        values x = values_of(&b, &a), y = x;
        y.dq = guarded(x.dq.rows, x.dq.cols, x.dq.stride);
        y.dk = guarded(x.dk.rows, x.dk.cols, x.dk.stride);
        y.dv = guarded(x.dv.rows, x.dv.cols, x.dv.stride);
        run(&b, &a, &x);
        run(&c, &a, &y);
        for (int64_t r = 0; r < x.dq.rows; r++)
            cr_assert(rows_equal(&x.dq, r, &y.dq, r) &&
                      rows_equal(&x.dk, r, &y.dk, r) &&
                      rows_equal(&x.dv, r, &y.dv, r));
        guarded_free(&y.dq), guarded_free(&y.dk), guarded_free(&y.dv);
        values_free(&x);
        backend_close(&b), backend_close(&c);
    }
}

#define REFUSED(b, status, ...)                                                \
    cr_assert_eq(                                                              \
        (b)->ops->attention_backward((b)->dev, __VA_ARGS__, &(b)->err),        \
        status, "%s", (b)->err.text)

static void refusals(backend *b) {
    problem a = problem_of(4, 2, 8, 0, 0, false, 0);
    values x = values_of(b, &a);
    ks_view *views[] = {&x.dq, &x.dk, &x.dv, &x.dout, &x.out, &x.q, &x.k, &x.v};
    for (size_t i = 0; i < KS_COUNT(views); i++)
        for (int side = 0; side < 2; side++) {
            ks_view was = *views[i];
            *(side ? &views[i]->rows : &views[i]->cols) -= 1;
            REFUSED(b, KS_INTERNAL, x.dq, x.dk, x.dv, x.dout, x.out, x.q, x.k,
                    x.v, &a.spec, &a.seqs, &a.cots);
            *views[i] = was;
        }
    static const int32_t past[] = {0, 0, 3, 0};
    ks_seqs seqs = a.seqs;
    seqs.past = past;
    REFUSED(b, KS_INTERNAL, x.dq, x.dk, x.dv, x.dout, x.out, x.q, x.k, x.v,
            &a.spec, &seqs, &a.cots);
    seqs = a.seqs, seqs.hidden = past;
    REFUSED(b, KS_INTERNAL, x.dq, x.dk, x.dv, x.dout, x.out, x.q, x.k, x.v,
            &a.spec, &seqs, &a.cots);
    cr_expect(strstr(b->err.text, "hidden keys"), "%s", b->err.text);
    ks_attn_spec spec = a.spec;
    spec.head_dim = 257;
    REFUSED(b, KS_UNSUPPORTED, x.dq, x.dk, x.dv, x.dout, x.out, x.q, x.k, x.v,
            &spec, &a.seqs, &a.cots);
    spec = a.spec, spec.n_kv_heads = 3;
    REFUSED(b, KS_UNSUPPORTED, x.dq, x.dk, x.dv, x.dout, x.out, x.q, x.k, x.v,
            &spec, &a.seqs, &a.cots);
    values_free(&x);
}

Test(attention_backward, refusals) {
    ON_EVERY_BACKEND(refusals);
}
