/* bench_gemm.c - keystep bench gemm: the forward's matrix product on stored
 * weights beside the BLAS's sgemm on the same weights in f32. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../ops.h"
#include "bench.h"

typedef struct shape {
    long long m, n, k;
} shape;

/* Of one shape and type: GFLOP/s of each pair, and their ratios. */
typedef struct figures {
    double *ours, *blas, *ratio;
    int n;
} figures;

typedef struct gemm_bench {
    ks_bench *bench;
    ks_dev *dev;
    const struct ks_ops *ops;
    int repeats;
} gemm_bench;

static ks_status add_row(gemm_bench *b, shape s, ks_type type, json_t *pair,
                         ks_spread ours, ks_spread blas, double ratio,
                         ks_err *err) {
    return ks_bench_row(
        b->bench,
        json_pack("{s:I,s:I,s:I,s:s,s:o,s:s,s:i,s:f,s:o,s:o,s:f,s:o,s:o,s:f}",
                  "m", s.m, "n", s.n, "k", s.k, "type", ks_type_name(type),
                  "pair", pair, "isa", b->ops->isa, "threads",
                  ks_dev_threads(b->dev), "gflops", ours.median, "gflops_q1",
                  ks_bench_real(ours.q1), "gflops_q3", ks_bench_real(ours.q3),
                  "blas_gflops", blas.median, "blas_gflops_q1",
                  ks_bench_real(blas.q1), "blas_gflops_q3",
                  ks_bench_real(blas.q3), "ratio", ratio),
        err);
}

/* A row a pair, then the medians. */
static ks_status add_rows(gemm_bench *b, shape s, ks_type type, figures *f,
                          ks_err *err) {
    ks_status st = KS_OK;
    for (int i = 0; i < f->n; i++) {
        ks_spread ours = {.median = f->ours[i], .q1 = NAN, .q3 = NAN};
        ks_spread blas = {.median = f->blas[i], .q1 = NAN, .q3 = NAN};
        KS_TRY(add_row(b, s, type, json_integer(i + 1), ours, blas, f->ratio[i],
                       err));
    }
    KS_TRY(add_row(b, s, type, json_string("all"),
                   ks_bench_spread(f->ours, f->n),
                   ks_bench_spread(f->blas, f->n),
                   ks_bench_spread(f->ratio, f->n).median, err));
done:
    return st;
}

/* Weights of any type whose values are small: every byte the same, scales
 * f16(0x1111) and bf16 or f32 of that pattern are below 1e-3. */
static ks_status make_operands(ks_buf *x, ks_buf *w, ks_buf *wf, ks_buf *out,
                               gemm_bench *b, shape s, ks_type type,
                               ks_err *err) {
    ks_status st = KS_OK;
    size_t rows = (size_t)s.n, f = sizeof(float);
    size_t row = ks_type_row_bytes(type, s.k);
    KS_TRY(b->ops->alloc(b->dev, x, (size_t)(s.m * s.k) * f, "x", err));
    KS_TRY(b->ops->alloc(b->dev, w, row * rows, "the weights", err));
    KS_TRY(
        b->ops->alloc(b->dev, wf, (size_t)s.k * f * rows, "the weights", err));
    KS_TRY(b->ops->alloc(b->dev, out, (size_t)(s.m * s.n) * f, "out", err));
    for (int64_t i = 0; i < s.m * s.k; i++)
        ((float *)x->data)[i] = (float)(i % 97) / 97;
    memset(w->data, 0x11, w->size);
    memset(out->data, 0, out->size);
    for (int64_t i = 0; i < s.n; i++)
        ks_dequantize(type, (char *)w->data + (size_t)i * row,
                      (float *)wf->data + i * s.k, s.k);
done:
    return st;
}

/* Pairs of our product on stored weights and the BLAS's on f32. */
static ks_status measure(gemm_bench *b, shape s, ks_type type, figures *f,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks_buf x = {0}, wb = {0}, wf = {0}, ob = {0};
    KS_TRY(make_operands(&x, &wb, &wf, &ob, b, s, type, err));
    ks_view out = ks_view_f32(ob.data, s.m, s.n);
    ks_view in = ks_view_f32(x.data, s.m, s.k);
    ks_view w = {wb.data, s.n, s.k, s.k, type};
    double work = 2e-9 * (double)s.m * (double)s.n * (double)s.k;
    /* A run lasts a few milliseconds, or the clock would be measured. */
    int times = (int)KS_MIN(100000, ceil(0.2 / work));
    for (int r = -1; r < b->repeats; r++) { /* -1 warms up */
        double t0 = ks_seconds();
        for (int i = 0; i < times; i++)
            KS_TRY(b->ops->gemm(b->dev, out, in, w, NULL, false, err));
        double t1 = ks_seconds();
        for (int i = 0; i < times; i++)
            KS_TRY(b->ops->matmul(b->dev, out, in, false,
                                  ks_view_f32(wf.data, s.n, s.k), true, 1, 0,
                                  err));
        double t2 = ks_seconds();
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        if (r < 0) continue;
        f->ours[r] = work * times / (t1 - t0);
        f->blas[r] = work * times / (t2 - t1);
        f->ratio[r] = f->ours[r] / f->blas[r];
    }
    f->n = b->repeats;
done:
    b->ops->free(b->dev, &x);
    b->ops->free(b->dev, &wb);
    b->ops->free(b->dev, &wf);
    b->ops->free(b->dev, &ob);
    return st;
}

static ks_status parse_shape(const char *text, shape *s, ks_err *err) {
    long long *to[] = {&s->m, &s->n, &s->k};
    const char *at = text;
    bool good = true;
    for (int i = 0; i < 3 && good; i++) {
        char *end;
        *to[i] = strtoll(at, &end, 10);
        good = end > at && *end == (i < 2 ? 'x' : 0) && *to[i] >= 1 &&
               *to[i] <= 1 << 20;
        at = end + 1;
    }
    if (!good)
        return ks_fail(err, KS_USAGE,
                       "--shapes: '%s' is not MxNxK, each 1..1048576", text);
    return KS_OK;
}

static ks_status parse_type(const char *text, ks_type *type, ks_err *err) {
    for (*type = 0; *type < KS_I32; (*type)++)
        if (strcmp(text, ks_type_name(*type)) == 0) return KS_OK;
    return ks_fail(err, KS_USAGE, "--types: no weight type '%s'", text);
}

static ks_status bench_types(gemm_bench *b, const char *types, shape s,
                             figures *f, ks_err *err) {
    ks_status st = KS_OK;
    char item[64];
    while (ks_bench_item(&types, item)) {
        ks_type type;
        KS_TRY(parse_type(item, &type, err));
        if (s.k % ks_type_block(type)) continue; /* no such weights exist */
        KS_TRY(measure(b, s, type, f, err));
        KS_TRY(add_rows(b, s, type, f, err));
    }
done:
    return st;
}

static ks_status bench_shapes(gemm_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    char item[64];
    double *memory = NULL;
    const ks_bench_input *in = b->bench->in;
    const char *shapes = in->shapes ? in->shapes
                                    : "512x576x576,512x192x576,512x1536x576,"
                                      "512x576x1536,2048x576x576,2048x192x576,"
                                      "2048x1536x576,2048x576x1536,"
                                      "1x1536x576,8x1536x576,64x1536x576";
    const char *types = in->types ? in->types : "f32,bf16,q8_0,q4_1";
    KS_TRY(ks_alloc(&memory, 3 * (size_t)b->repeats, sizeof *memory,
                    "the figures", err));
    figures f = {memory, memory + b->repeats, memory + 2 * b->repeats, 0};
    while (ks_bench_item(&shapes, item)) {
        shape s;
        KS_TRY(parse_shape(item, &s, err));
        KS_TRY(bench_types(b, types, s, &f, err));
    }
done:
    free(memory);
    return st;
}

ks_status ks_bench_gemm(ks_bench *bench, ks_err *err) {
    ks_status st = KS_OK;
    gemm_bench b = {.bench = bench, .repeats = bench->in->repeats};
    KS_TRY(ks_dev_open(&b.dev, &b.ops, "cpu", bench->in->common.threads,
                       bench->in->isa, err));
    KS_TRY(bench_shapes(&b, err));
done:
    ks_dev_close(&b.dev, b.ops);
    return st;
}
