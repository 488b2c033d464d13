/* cmd_bench.c - keystep bench: measures this machine. What is compared runs in
 * turn in the same process, so that a busy or throttled machine slows both.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../ops.h"
#include "cli.h"

enum { KEY_SHAPES = KS_KEY_OWN, KEY_TYPES, KEY_REPEATS, KEY_ISA };

typedef struct input {
    ks_cli_common common;
    const char *what, *shapes, *types, *isa;
    int repeats;
} input;

static const struct argp_option option_list[] = {
    KS_CLI_THREADS,
    KS_CLI_OUT,
    KS_CLI_FORCE,
    KS_CLI_JSON,
    {"shapes", KEY_SHAPES, "LIST", 0,
     "rows x outputs x inputs, e.g. 512x576x1536; default: SmolLM2-135M's", 0},
    {"types", KEY_TYPES, "LIST", 0,
     "of the weights, e.g. f32,q4_1; default: "
     "f32,bf16,q8_0,q4_1",
     0},
    {"repeats", KEY_REPEATS, "N", 0, "of each pair, default 11", 0},
    {"isa", KEY_ISA, "NAME", 0, "instruction set: v2, avx2 or avx512", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_SHAPES:
        in->shapes = arg;
        return 0;
    case KEY_TYPES:
        in->types = arg;
        return 0;
    case KEY_ISA:
        in->isa = arg;
        return 0;
    case KEY_REPEATS: {
        char *end;
        long n = strtol(arg, &end, 10);
        if (*end || n < 1 || n > 1000)
            argp_error(state, "--repeats %s: expected 1..1000", arg);
        in->repeats = (int)n;
        return 0;
    }
    case ARGP_KEY_ARG:
        if (in->what) argp_error(state, "one bench at a time: '%s'", arg);
        in->what = arg;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "what to measure: gemm");
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ------------------------------------------------------------------ the gemm
 */

typedef struct shape {
    long long m, n, k;
} shape;

/* Of one shape and type: GFLOP/s in rising order, and the pairs' ratios. */
typedef struct figures {
    double *ours, *blas, *ratio;
    int n;
} figures;

typedef struct bench {
    ks_dev *dev;
    const struct ks_ops *ops;
    ks_str text;
    json_t *rows;
    bool json;
    int repeats;
} bench;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, int n, double q) {
    double at = q * (n - 1);
    int i = (int)at, j = i + 1 < n ? i + 1 : i;
    return sorted[i] + (at - i) * (sorted[j] - sorted[i]);
}

static ks_status add_row(bench *b, shape s, ks_type type, figures *f,
                         ks_err *err) {
    double *lists[] = {f->ours, f->blas, f->ratio}, q[3][3];
    for (int i = 0; i < 3; i++) {
        qsort(lists[i], (size_t)f->n, sizeof(double), by_value);
        for (int j = 0; j < 3; j++)
            q[i][j] = quantile(lists[i], f->n, 0.25 + 0.25 * j);
    }
    if (b->json)
        return json_array_append_new(
                   b->rows,
                   json_pack("{s:I,s:I,s:I,s:s,s:s,s:i,s:f,s:f,s:f,s:f,s:f,"
                             "s:f,s:f}",
                             "m", s.m, "n", s.n, "k", s.k, "type",
                             ks_type_name(type), "isa", b->ops->isa, "threads",
                             ks_dev_threads(b->dev), "gflops", q[0][1],
                             "gflops_q1", q[0][0], "gflops_q3", q[0][2],
                             "blas_gflops", q[1][1], "blas_gflops_q1", q[1][0],
                             "blas_gflops_q3", q[1][2], "ratio", q[2][1]))
                   ? ks_fail(err, KS_NOMEM, "no memory for the table")
                   : KS_OK;
    return ks_str_printf(&b->text, err,
                         "%lld,%lld,%lld,%s,%s,%d,%.1f,%.1f,%.1f,%.1f,%.1f,"
                         "%.1f,%.3f\n",
                         s.m, s.n, s.k, ks_type_name(type), b->ops->isa,
                         ks_dev_threads(b->dev), q[0][1], q[0][0], q[0][2],
                         q[1][1], q[1][0], q[1][2], q[2][1]);
}

/* Weights of any type whose values are small: every byte the same, scales
 * f16(0x1111) and bf16 or f32 of that pattern are below 1e-3. */
static ks_status make_operands(ks_buf *x, ks_buf *w, ks_buf *wf, ks_buf *out,
                               bench *b, shape s, ks_type type, ks_err *err) {
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
static ks_status measure(bench *b, shape s, ks_type type, figures *f,
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
        double t0 = seconds();
        for (int i = 0; i < times; i++)
            KS_TRY(b->ops->gemm(b->dev, out, in, w, NULL, false, err));
        double t1 = seconds();
        for (int i = 0; i < times; i++)
            KS_TRY(b->ops->matmul(b->dev, out, in, false,
                                  ks_view_f32(wf.data, s.n, s.k), true, 1, 0,
                                  err));
        double t2 = seconds();
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

/* The next of a comma-separated list, or false at its end. */
static bool next_item(const char **list, char item[64]) {
    if (!**list) return false;
    size_t n = strcspn(*list, ",");
    snprintf(item, 64, "%.*s", (int)KS_MIN(n, 63), *list);
    *list += n + ((*list)[n] == ',');
    return true;
}

static ks_status parse_shape(const char *text, shape *s, ks_err *err) {
    int end = 0;
    if (sscanf(text, "%lldx%lldx%lld%n", &s->m, &s->n, &s->k, &end) != 3 ||
        text[end] || KS_MIN(KS_MIN(s->m, s->n), s->k) < 1 ||
        KS_MAX(KS_MAX(s->m, s->n), s->k) > 1 << 20)
        return ks_fail(err, KS_USAGE,
                       "--shapes: '%s' is not MxNxK, each 1..1048576", text);
    return KS_OK;
}

static ks_status parse_type(const char *text, ks_type *type, ks_err *err) {
    for (*type = 0; *type < KS_I32; (*type)++)
        if (strcmp(text, ks_type_name(*type)) == 0) return KS_OK;
    return ks_fail(err, KS_USAGE, "--types: no weight type '%s'", text);
}

static ks_status bench_types(bench *b, const char *types, shape s, figures *f,
                             ks_err *err) {
    ks_status st = KS_OK;
    char item[64];
    while (next_item(&types, item)) {
        ks_type type;
        KS_TRY(parse_type(item, &type, err));
        if (s.k % ks_type_block(type)) continue; /* no such weights exist */
        KS_TRY(measure(b, s, type, f, err));
        KS_TRY(add_row(b, s, type, f, err));
    }
done:
    return st;
}

static ks_status bench_gemm(bench *b, const input *in, ks_err *err) {
    ks_status st = KS_OK;
    char item[64];
    double *memory = NULL;
    const char *shapes = in->shapes ? in->shapes
                                    : "512x576x576,512x192x576,512x1536x576,"
                                      "512x576x1536,2048x576x576,2048x192x576,"
                                      "2048x1536x576,2048x576x1536,"
                                      "1x1536x576,8x1536x576,64x1536x576";
    const char *types = in->types ? in->types : "f32,bf16,q8_0,q4_1";
    KS_TRY(ks_alloc(&memory, 3 * (size_t)b->repeats, sizeof *memory,
                    "the figures", err));
    figures f = {memory, memory + b->repeats, memory + 2 * b->repeats, 0};
    KS_TRY(ks_str_printf(&b->text, err,
                         "m,n,k,type,isa,threads,gflops,gflops_q1,gflops_q3,"
                         "blas_gflops,blas_gflops_q1,blas_gflops_q3,ratio\n"));
    while (next_item(&shapes, item)) {
        shape s;
        KS_TRY(parse_shape(item, &s, err));
        KS_TRY(bench_types(b, types, s, &f, err));
    }
done:
    free(memory);
    return st;
}

/* ------------------------------------------------------------------- command
 */

static ks_status write_table(const bench *b, const input *in, ks_err *err) {
    char *json = b->json ? json_dumps(b->rows, JSON_INDENT(1)) : NULL;
    if (b->json && !json) return ks_fail(err, KS_NOMEM, "no memory for JSON");
    const char *text = json ? json : b->text.data;
    ks_status st = KS_OK;
    if (in->common.out && strcmp(in->common.out, "-") != 0)
        st = ks_write_file(in->common.out, text, strlen(text), in->common.force,
                           err);
    else if (fputs(text, stdout) == EOF || fflush(stdout))
        st = ks_fail(err, KS_IO, "standard output cannot be written");
    free(json);
    return st;
}

static ks_status run(const input *in, ks_err *err) {
    ks_status st = KS_OK;
    bench b = {.json = in->common.json, .repeats = in->repeats};
    KS_CHECK(strcmp(in->what, "gemm") == 0, KS_USAGE,
             "no bench '%s': there is gemm", in->what);
    if (in->common.out && strcmp(in->common.out, "-") != 0)
        KS_TRY(ks_refuse_existing(in->common.out, in->common.force, err));
    b.rows = json_array();
    KS_TRY(
        ks_dev_open(&b.dev, &b.ops, "cpu", in->common.threads, in->isa, err));
    KS_TRY(bench_gemm(&b, in, err));
    KS_TRY(write_table(&b, in, err));
done:
    ks_dev_close(&b.dev, b.ops);
    json_decref(b.rows);
    ks_str_free(&b.text);
    return st;
}

int ks_cmd_bench(int argc, char **argv) {
    static const struct argp argp = {
        .options = option_list,
        .parser = parse,
        .args_doc = "gemm",
        .doc = "Measures this machine. gemm: the forward's matrix product on "
               "stored weights beside the BLAS's sgemm on the same weights in "
               "f32, in turn: median and quartiles of GFLOP/s, and the median "
               "of the pairs' ratios, as CSV."};
    input in = {.repeats = 11};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "bench", argc, argv, &in);
    if (code == KS_EXIT_USAGE || !in.what) return code;
    ks_err err;
    return run(&in, &err) == KS_OK ? KS_EXIT_DONE
                                   : ks_cli_failed("bench", &err);
}
