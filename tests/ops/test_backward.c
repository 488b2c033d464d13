/* The way back through gemm, norm, rope, gate and score: against derivatives in
 * double, taken by hand and by central differences of the forward's reference.
 */
#include "reference.h"

/* A map from cotangent rows to the forward's rows, with repeats. */
static int32_t *random_rows(int64_t n, int64_t tokens) {
    int32_t *row = malloc((size_t)(n + 1) * sizeof *row);
    cr_assert(row);
    for (int64_t i = 0; i < n; i++)
        row[i] = (int32_t)(random_bits() % (uint64_t)tokens);
    if (n) row[0] = (int32_t)tokens - 1;
    return row;
}

#define REFUSED(b, op, ...)                                                    \
    cr_assert_eq((b)->ops->op((b)->dev, __VA_ARGS__, &(b)->err), KS_INTERNAL,  \
                 "%s", (b)->err.text)

/* --------------------------------------------------------------------- gemm */

static void gemm_one(backend *b, ks_type type, int64_t m, int64_t n_out,
                     int64_t n_in, int64_t pad, bool accumulate) {
    ks_view dy = guarded_random(m, n_out, n_out + pad);
    ks_view dx = guarded_random(m, n_in, n_in + pad);
    ks_view w = random_weights(type, n_out, n_in), wf = expanded(&w);
    double *ref = doubles(m * n_in), most = 0;
    for (int64_t i = 0; i < n_out * n_in; i++)
        most = fmax(most, fabs((double)((float *)wf.data)[i]));
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n_in; j++) {
            double sum = accumulate ? (double)at(&dx, i)[j] : 0;
            for (int64_t k = 0; k < n_out; k++)
                sum += (double)at(&dy, i)[k] * (double)at(&wf, k)[j];
            ref[i * n_in + j] = sum;
        }
    ks_view before = guarded(m, n_in, n_in);
    for (int64_t i = 0; i < m; i++)
        memcpy(at(&before, i), at(&dx, i), (size_t)n_in * sizeof(float));
    RUN(b, gemm_backward, dx, dy, w, accumulate);
    for (int64_t i = 0; i < m; i++)
        cr_assert(
            close_f32("gemm backward", at(&dx, i), ref + i * n_in, (size_t)n_in,
                      most * (1e-7 * (double)n_out + 5e-7), 1e-6),
            "%s %s %lldx%lldx%lld row %lld", b->ops->isa, ks_type_name(type),
            (long long)m, (long long)n_out, (long long)n_in, (long long)i);
    cr_assert(guards_whole(&dx) && guards_whole(&dy));
    for (int64_t i = 0; i < m; i += 7) { /* a row alone has the same bits */
        ks_view row = {at(&dy, i), 1, n_out, n_out, KS_F32};
        ks_view to = {at(&before, i), 1, n_in, n_in, KS_F32};
        RUN(b, gemm_backward, to, row, w, accumulate);
        cr_assert(rows_equal(&to, 0, &dx, i), "row %lld alone", (long long)i);
    }
    guarded_free(&dx), guarded_free(&dy), guarded_free(&before);
    free(w.data), free(wf.data), free(ref);
}

static void gemm(backend *b) {
    static const int64_t table[][3] = {
        {1, 1, 1},     {1, 31, 33},  {3, 97, 64},    {14, 321, 95},
        {31, 577, 31}, {97, 33, 97}, {200, 98, 129}, {113, 193, 67},
    };
    for (size_t i = 0; i < KS_COUNT(table); i++) {
        const int64_t *s = table[i];
        gemm_one(b, KS_F32, s[0], s[1], s[2], 0, false);
        gemm_one(b, KS_F32, s[0], s[1], s[2], 5, true);
        gemm_one(b, KS_BF16, s[0], s[1], s[2], 3, i & 1);
        gemm_one(b, KS_F16, s[0], s[1], s[2], 1, i & 2);
    }
}

Test(backward, gemm_odd_shapes) {
    ON_EVERY_BACKEND(gemm);
}

static void gemm_types(backend *b) {
    for (ks_type type = KS_F32; type < KS_I32; type++) {
        int64_t block = ks_type_block(type);
        gemm_one(b, type, 5, 37, block * 3, 3, false);
        gemm_one(b, type, 131, 331, block, 0, true);
        if (block < 256) gemm_one(b, type, 100, 9, block * 7, 0, false);
    }
}

Test(backward, gemm_of_every_type) {
    ON_EVERY_BACKEND(gemm_types);
}

static void gemm_refusals(backend *b) {
    float x[64] = {0};
    ks_view dx = ks_view_f32(x, 2, 8), dy = ks_view_f32(x + 16, 2, 4);
    ks_view w = ks_view_f32(x + 24, 4, 8), bad = dx;
    bad.cols = 7;
    REFUSED(b, gemm_backward, bad, dy, w, false);
    bad = dx, bad.rows = 1;
    REFUSED(b, gemm_backward, bad, dy, w, false);
    bad = dy, bad.cols = 3;
    REFUSED(b, gemm_backward, dx, bad, w, false);
    bad = dy, bad.type = KS_BF16;
    REFUSED(b, gemm_backward, dx, bad, w, false);
}

Test(backward, gemm_refusals) {
    ON_EVERY_BACKEND(gemm_refusals);
}

/* --------------------------------------------------------------------- norm */

/* sum_j dy[j] norm(x)[j] */
static double norm_objective(const double *x, const float *dy, const float *w,
                             double eps, int64_t n, double *y) {
    double sum = 0;
    ref_norm(y, x, w, eps, n);
    for (int64_t j = 0; j < n; j++) sum += (double)dy[j] * y[j];
    return sum;
}

static void ref_norm_backward(double *dx, const float *dy, const float *x,
                              const float *w, double eps, int64_t n) {
    double squares = 0, dots = 0;
    for (int64_t j = 0; j < n; j++) {
        squares += (double)x[j] * (double)x[j];
        dots += (double)w[j] * (double)dy[j] * (double)x[j];
    }
    double r = 1 / sqrt(squares / (double)n + eps);
    for (int64_t j = 0; j < n; j++)
        dx[j] = r * (double)w[j] * (double)dy[j] -
                (double)x[j] * r * r * r * dots / (double)n;
}

Test(backward, norm_reference_against_central_differences) {
    enum { N = 13 };
    float *x = random_array(N), *dy = random_array(N), *w = random_array(N);
    double at_[N], y[N], dx[N], h = 1e-6;
    for (int j = 0; j < N; j++) at_[j] = (double)x[j];
    ref_norm_backward(dx, dy, x, w, 0.01, N);
    for (int j = 0; j < N; j++) {
        at_[j] += h;
        double up = norm_objective(at_, dy, w, 0.01, N, y);
        at_[j] -= 2 * h;
        double down = norm_objective(at_, dy, w, 0.01, N, y);
        at_[j] += h;
        cr_assert(fabs((up - down) / (2 * h) - dx[j]) < 1e-8);
    }
    free(x), free(dy), free(w);
}

static void norm_one(backend *b, int64_t tokens, int64_t rows, int32_t heads,
                     int64_t n, int64_t pad, bool mapped, bool accumulate,
                     bool in_place) {
    ks_view x = guarded_random(tokens * heads, n, n + pad);
    ks_view dy = guarded_random(rows * heads, n, n + pad);
    ks_view dx = in_place ? dy : guarded_random(rows * heads, n, n + pad);
    float *w = random_array(n), *alone = malloc((size_t)n * sizeof *alone + 1);
    int32_t *row = random_rows(rows, tokens);
    double *ref = doubles(rows * heads * n);
    for (int64_t i = 0; i < rows * heads; i++) {
        int64_t t = mapped ? row[i / heads] * heads + i % heads : i;
        ref_norm_backward(ref + i * n, at(&dy, i), at(&x, t), w, 1e-3, n);
        for (int64_t j = 0; j < n && accumulate; j++)
            ref[i * n + j] += (double)at(&dx, i)[j];
    }
    /* row 2 alone */
    int64_t one = KS_MIN(2, rows * heads - 1);
    memcpy(alone, at(accumulate ? &dx : &dy, one), (size_t)n * sizeof *alone);
    int64_t t = mapped ? row[one / heads] * heads + one % heads : one;
    ks_view xa = {at(&x, t), 1, n, n, KS_F32};
    ks_view to = ks_view_f32(alone, 1, n),
            from = {at(&dy, one), 1, n, n, KS_F32};
    RUN(b, norm_backward, to, accumulate ? from : to, xa, NULL, 1, w, 1e-3f,
        accumulate);
    RUN(b, norm_backward, dx, dy, x, mapped ? row : NULL, heads, w, 1e-3f,
        accumulate);
    cr_assert(memcmp(alone, at(&dx, one), (size_t)n * sizeof *alone) == 0,
              "%s: a row alone", b->ops->isa);
    for (int64_t i = 0; i < rows * heads; i++)
        cr_assert(close_f32("norm backward", at(&dx, i), ref + i * n, (size_t)n,
                            3e-6, 3e-6));
    cr_assert(guards_whole(&dx) && guards_whole(&dy) && guards_whole(&x));
    if (!in_place) guarded_free(&dx);
    guarded_free(&dy), guarded_free(&x);
    free(w), free(row), free(ref), free(alone);
}

static void norm(backend *b) {
    static const int64_t widths[] = {1, 7, 8, 31, 33, 64, 577};
    for (size_t i = 0; i < KS_COUNT(widths); i++) {
        norm_one(b, 9, 9, 1, widths[i], 3, false, false, false);
        norm_one(b, 5, 37, 1, widths[i], 0, true, true, false);
        norm_one(b, 5, 37, 1, widths[i], 1, true, false, true);
        norm_one(b, 7, 11, 3, widths[i], 0, true, false, true);
    }
    norm_one(b, 31, 301, 1, 101, 0, true, true, false);
}

Test(backward, norm) {
    ON_EVERY_BACKEND(norm);
}

static void norm_refusals(backend *b) {
    float d[64] = {0};
    int32_t row[] = {0, 0, 0, 0};
    ks_view x = ks_view_f32(d, 2, 4), y = ks_view_f32(d + 8, 4, 4), bad = y;
    REFUSED(b, norm_backward, y, y, x, NULL, 1, d, 1, false);
    REFUSED(b, norm_backward, y, y, x, row, 3, d, 1, false);
    REFUSED(b, norm_backward, y, y, x, row, 0, d, 1, false);
    bad.cols = 3;
    REFUSED(b, norm_backward, bad, y, x, row, 1, d, 1, false);
    REFUSED(b, norm_backward, y, bad, x, row, 1, d, 1, false);
    bad = y, bad.rows = 3;
    REFUSED(b, norm_backward, bad, y, x, row, 1, d, 1, false);
}

Test(backward, norm_refusals) {
    ON_EVERY_BACKEND(norm_refusals);
}

/* --------------------------------------------------------------------- rope */

/* Transposed: <rope(x), dy> = <x, back(dy)> for all x, checked on the basis. */
static void rope_one(backend *b, int32_t d, int32_t rot, bool interleaved,
                     bool mapped) {
    enum { H = 3, G = 2 };
    static const int32_t offsets[] = {0, 5, 17}, past[] = {0, 100};
    ks_seqs seqs = {2, 17, offsets, past, NULL, 0, NULL};
    float inv_freq[128];
    for (int i = 0; i < 128; i++) inv_freq[i] = powf(10, -(float)i / 16);
    ks_rope rope = {inv_freq, 1.3f, rot, interleaved};
    int64_t n = mapped ? 23 : 17;
    ks_view dq = guarded_random(n, H * d, H * d + 3);
    ks_view dk = guarded_random(n, G * d, G * d);
    int32_t *row = random_rows(n, 17);
    double *rq = doubles(n * H * d), *rk = doubles(n * G * d);
    double *unit = doubles(d);
    for (int64_t i = 0; i < n; i++) {
        int32_t t = mapped ? row[i] : (int32_t)i;
        int32_t position = t < 5 ? t : 100 + t - 5;
        for (int32_t j = 0; j < d; j++) {
            memset(unit, 0, (size_t)d * sizeof *unit);
            unit[j] = 1;
            ref_rope(unit, position, &rope);
            for (int32_t e = 0; e < d; e++) {
                for (int h = 0; h < H; h++)
                    rq[i * H * d + h * d + j] +=
                        unit[e] * (double)at(&dq, i)[h * d + e];
                for (int h = 0; h < G; h++)
                    rk[i * G * d + h * d + j] +=
                        unit[e] * (double)at(&dk, i)[h * d + e];
            }
        }
    }
    RUN(b, rope_backward, dq, dk, d, &rope, &seqs, mapped ? row : NULL);
    for (int64_t i = 0; i < n; i++)
        cr_assert(close_f32("dq", at(&dq, i), rq + i * H * d, (size_t)(H * d),
                            1e-6, 1e-6) &&
                  close_f32("dk", at(&dk, i), rk + i * G * d, (size_t)(G * d),
                            1e-6, 1e-6));
    cr_assert(guards_whole(&dq) && guards_whole(&dk));
    guarded_free(&dq), guarded_free(&dk);
    free(row), free(rq), free(rk), free(unit);
}

static void rope(backend *b) {
    for (int form = 0; form < 4; form++) {
        rope_one(b, 8, 8, form & 1, form & 2);
        rope_one(b, 34, 34, form & 1, form & 2);
        rope_one(b, 64, 24, form & 1, form & 2);
        rope_one(b, 256, 256, form & 1, form & 2);
    }
}

Test(backward, rope) {
    ON_EVERY_BACKEND(rope);
}

static void rope_refusals(backend *b) {
    static const int32_t offsets[] = {0, 2};
    ks_seqs seqs = {1, 2, offsets, NULL, NULL, 0, NULL};
    float x[64] = {0};
    ks_rope rope = {x, 1, 4, false};
    ks_view q = ks_view_f32(x, 2, 8), k = ks_view_f32(x + 16, 2, 4), bad = k;
    bad.rows = 1;
    REFUSED(b, rope_backward, q, bad, 4, &rope, &seqs, NULL);
    bad = q, bad.cols = 7;
    REFUSED(b, rope_backward, bad, k, 4, &rope, &seqs, NULL);
    bad = k, bad.cols = 3;
    REFUSED(b, rope_backward, q, bad, 4, &rope, &seqs, NULL);
    seqs.n_tok = 3;
    REFUSED(b, rope_backward, q, k, 4, &rope, &seqs, NULL);
    rope.rot_dims = 6;
    cr_assert_eq(
        b->ops->rope_backward(b->dev, q, k, 4, &rope, &seqs, NULL, &b->err),
        KS_UNSUPPORTED);
}

Test(backward, rope_refusals) {
    ON_EVERY_BACKEND(rope_refusals);
}

/* --------------------------------------------------------------------- gate */

static double act_slope(double x, ks_act act) {
    double h = 1e-5; /* a five-point difference: 1e-12 here */
    return (ref_act(x - 2 * h, act) - 8 * ref_act(x - h, act) +
            8 * ref_act(x + h, act) - ref_act(x + 2 * h, act)) /
           (12 * h);
}

static void gate_one(backend *b, ks_act act, int64_t n, int64_t pad,
                     bool mapped, int in_place) {
    enum { TOKENS = 7 };
    int64_t rows = mapped ? 19 : TOKENS;
    ks_view gate = guarded_random(TOKENS, n, n + pad);
    ks_view up = guarded_random(TOKENS, n, n + pad);
    ks_view dout = guarded_random(rows, n, n + pad);
    ks_view dgate = in_place == 1 ? dout : guarded(rows, n, n + pad);
    ks_view dup = in_place == 2 ? dout : guarded(rows, n, n + pad);
    int32_t *row = random_rows(rows, TOKENS);
    double *rg = doubles(rows * n), *ru = doubles(rows * n);
    for (int64_t i = 0; i < TOKENS; i++)
        for (int64_t j = 0; j < n; j++)
            at(&gate, i)[j] *= (float)(j % 5 ? 3 : 12);
    for (int64_t i = 0; i < rows; i++) {
        int64_t t = mapped ? row[i] : i;
        for (int64_t j = 0; j < n; j++) {
            double g = (double)at(&gate, t)[j], d = (double)at(&dout, i)[j];
            rg[i * n + j] = d * (double)at(&up, t)[j] * act_slope(g, act);
            ru[i * n + j] = d * ref_act(g, act);
        }
    }
    RUN(b, gate_backward, dgate, dup, dout, gate, up, mapped ? row : NULL, act);
    for (int64_t i = 0; i < rows; i++)
        cr_assert(close_f32("dgate", at(&dgate, i), rg + i * n, (size_t)n, 1e-6,
                            1e-6) &&
                      close_f32("dup", at(&dup, i), ru + i * n, (size_t)n, 1e-6,
                                1e-6),
                  "%s act %d", b->ops->isa, (int)act);
    cr_assert(guards_whole(&dgate) && guards_whole(&dup) &&
              guards_whole(&gate) && guards_whole(&up));
    if (in_place != 1) guarded_free(&dgate);
    if (in_place != 2) guarded_free(&dup);
    guarded_free(&dout), guarded_free(&gate), guarded_free(&up);
    free(row), free(rg), free(ru);
}

static void gate(backend *b) {
    static const int64_t widths[] = {1, 15, 16, 33, 1500};
    for (ks_act act = KS_SILU; act <= KS_GELU_ERF; act++)
        for (size_t i = 0; i < KS_COUNT(widths); i++)
            for (int form = 0; form < 3; form++)
                gate_one(b, act, widths[i], form, form != 1, form);
}

Test(backward, gate) {
    ON_EVERY_BACKEND(gate);
}

static void gate_refusals(backend *b) {
    float d[64] = {0};
    int32_t row[] = {0, 0};
    ks_view x = ks_view_f32(d, 2, 4), bad;
    for (int i = 0; i < 5; i++)
        for (int side = 0; side < 2; side++) {
            ks_view v[] = {x, x, x, x, x};
            *(side ? &v[i].rows : &v[i].cols) = 1;
            REFUSED(b, gate_backward, v[0], v[1], v[2], v[3], v[4],
                    side && i == 2 ? NULL : row, KS_SILU);
        }
    bad = x, bad.rows = 1;
    REFUSED(b, gate_backward, x, x, x, bad, bad, NULL, KS_SILU);
}

Test(backward, gate_refusals) {
    ON_EVERY_BACKEND(gate_refusals);
}

/* -------------------------------------------------------------------- score */

/* Log-probability of the target in double. */
static double ref_score(const double *hidden, const ks_view *head, double cap,
                        int32_t target, double *logits) {
    for (int64_t v = 0; v < head->rows; v++) {
        logits[v] = 0;
        for (int64_t j = 0; j < head->cols; j++)
            logits[v] += hidden[j] * (double)at(head, v)[j];
        if (cap > 0) logits[v] = cap * tanh(logits[v] / cap);
    }
    return ref_logprob(logits, head->rows, target);
}

/* The gradient by hand. */
static void ref_score_backward(double *dh, const double *hidden,
                               const ks_view *head, double cap, int32_t target,
                               double weight, bool of_probability) {
    double *s = doubles(head->rows);
    double l = ref_score(hidden, head, cap, target, s), total = 0, top = s[0];
    if (of_probability) weight *= exp(l);
    for (int64_t v = 0; v < head->rows; v++) top = fmax(top, s[v]);
    for (int64_t v = 0; v < head->rows; v++) total += exp(s[v] - top);
    for (int64_t j = 0; j < head->cols; j++) dh[j] = 0;
    for (int64_t v = 0; v < head->rows; v++) {
        double d = weight * ((v == target) - exp(s[v] - top) / total);
        if (cap > 0) d *= 1 - s[v] / cap * (s[v] / cap);
        for (int64_t j = 0; j < head->cols; j++)
            dh[j] += d * (double)at(head, v)[j];
    }
    free(s);
}

Test(backward, score_reference_against_central_differences) {
    enum { D = 9, V = 37 };
    float *x = random_array(D), *w = random_array(D * V);
    ks_view head = ks_view_f32(w, V, D);
    double hidden[D], dh[D], logits[V], h = 1e-6;
    for (int form = 0; form < 4; form++) {
        double cap = form & 1 ? 1.5 : 0;
        for (int j = 0; j < D; j++) hidden[j] = 2 * (double)x[j];
        ref_score_backward(dh, hidden, &head, cap, 5, 0.7, form & 2);
        for (int j = 0; j < D; j++) {
            hidden[j] += h;
            double up = ref_score(hidden, &head, cap, 5, logits);
            hidden[j] -= 2 * h;
            double down = ref_score(hidden, &head, cap, 5, logits);
            hidden[j] += h;
            if (form & 2) up = exp(up), down = exp(down);
            cr_assert(fabs(0.7 * (up - down) / (2 * h) - dh[j]) < 1e-8);
        }
    }
    free(x), free(w);
}

static void score_one(backend *b, ks_type type, int64_t rows, int64_t vocab,
                      int64_t d, float softcap, float size,
                      bool of_probability) {
    ks_view hidden = guarded_random(rows, d, d + 3);
    ks_view dhidden = guarded(rows, d, d + 1);
    ks_view head = random_weights(type, vocab, d), hf = expanded(&head);
    int32_t *target = random_rows(rows, vocab);
    float *weight = random_array(rows), *logprob = random_array(rows + 1);
    double *ref = doubles(d), *x = doubles(d), *logits = doubles(vocab);
    logprob[rows] = GUARD_VALUE;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < d; j++) at(&hidden, i)[j] *= size;
    RUN(b, score_backward, dhidden, logprob, hidden, head, softcap, target,
        weight, of_probability);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < d; j++) x[j] = (double)at(&hidden, i)[j];
        double l = ref_score(x, &hf, (double)softcap, target[i], logits);
        cr_assert(close_f32("log-probability", logprob + i, &l, 1, 2e-5, 2e-6));
        ref_score_backward(ref, x, &hf, (double)softcap, target[i],
                           (double)weight[i], of_probability);
        double most = 1e-30;
        for (int64_t j = 0; j < d; j++) most = fmax(most, fabs(ref[j]));
        cr_assert(close_f32("score backward", at(&dhidden, i), ref, (size_t)d,
                            3e-5 * most, 1e-5),
                  "%s %s row %lld", b->ops->isa, ks_type_name(type),
                  (long long)i);
    }
    cr_assert(guards_whole(&dhidden) && logprob[rows] == GUARD_VALUE);
    for (int64_t i = 0; i < rows; i += 29) {
        ks_view one = {at(&hidden, i), 1, d, d, KS_F32};
        ks_view to = guarded(1, d, d);
        RUN(b, score_backward, to, NULL, one, head, softcap, target + i,
            weight + i, of_probability);
        cr_assert(rows_equal(&to, 0, &dhidden, i), "row %lld alone",
                  (long long)i);
        guarded_free(&to);
    }
    guarded_free(&hidden), guarded_free(&dhidden);
    free(head.data), free(hf.data), free(target), free(weight), free(logprob);
    free(ref), free(x), free(logits);
}

static void score(backend *b) {
    score_one(b, KS_F32, 1, 1, 33, 0, 1, false);
    score_one(b, KS_F32, 13, 771, 64, 0, 1, true);
    score_one(b, KS_BF16, 101, 1003, 96, 2, 1, false);
    score_one(b, KS_Q8_0, 33, 769, 64, 3, 1, true);
    score_one(b, KS_F32, 200, 100, 8, 0, 6, true); /* some p near 1 */
    score_one(b, KS_F32, 200, 100, 8, 0, 6, false);
}

Test(backward, score) {
    ON_EVERY_BACKEND(score);
}

static void score_refusals(backend *b) {
    float d[64] = {0};
    int32_t target[] = {0, 0};
    ks_view x = ks_view_f32(d, 2, 4), head = ks_view_f32(d + 8, 3, 4), bad = x;
    bad.cols = 3;
    REFUSED(b, score_backward, x, NULL, bad, head, 0, target, d, false);
    REFUSED(b, score_backward, bad, NULL, x, head, 0, target, d, false);
    bad = x, bad.rows = 1;
    REFUSED(b, score_backward, bad, NULL, x, head, 0, target, d, false);
}

Test(backward, score_refusals) {
    ON_EVERY_BACKEND(score_refusals);
}
