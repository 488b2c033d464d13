/* plan_rates.c - see plan_rates.h. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "../ops.h"
#include "plan_rates.h"

static const char MEASURED[] = "measured", SHEET[] = "data sheet",
                  ASSUMED[] = "assumed";
static const char PRODUCTS[] = "products, bf16", F32_RATE[] = "f32",
                  DISK[] = "activations are written at";
static const char *const share_names[KS_PLAN_STAGES] = {
    "share of the least time's speed, generate", "the same, label",
    "the same, capture", "the same, probe"};

static void put(ks_plan_values *v, const char *name, double value,
                const char *unit, const char *mark, const char *source) {
    ks_plan_value *to = NULL;
    for (int32_t i = 0; i < v->n; i++)
        if (strcmp(v->at[i].name, name) == 0) to = &v->at[i];
    if (!to && v->n < KS_PLAN_MOST_VALUES) to = &v->at[v->n++];
    if (!to) return;
    *to = (ks_plan_value){
        .name = name, .unit = unit, .mark = mark, .value = value};
    snprintf(to->source, sizeof to->source, "%s", source);
}

void ks_plan_list_values(ks_plan_values *v, const ks_plan_shape *m,
                         const ks_plan_device *on, const ks_plan_asked *a) {
    const char *mark = strcmp(on->name, "cpu") == 0 ? MEASURED : SHEET;
    const char *asked = "the command line, or its default";
    put(v, "parameters", ks_plan_parameters(m), "", SHEET, m->source);
    put(v, PRODUCTS, on->tensor, "FLOP/s", mark, on->source);
    put(v, F32_RATE, on->float_, "FLOP/s", mark, on->source);
    put(v, "double", on->double_, "FLOP/s", mark == MEASURED ? ASSUMED : SHEET,
        mark == MEASURED ? "half of f32" : on->source);
    put(v, "memory's rate", on->bandwidth, "B/s", mark, on->source);
    put(v, "devices", a->devices, "", ASSUMED, asked);
    put(v, "chains", a->chains, "", ASSUMED, asked);
    put(v, "tokens a chain", a->chain_tokens, "", ASSUMED, asked);
    put(v, "steps a chain", a->steps, "", ASSUMED, asked);
    put(v, "prompt's tokens", a->prompt_tokens, "", ASSUMED, asked);
    put(v, "tokens of labelling's cue", a->cue_tokens, "", ASSUMED,
        "the default cue");
    put(v, "tokens of its sampled answers", a->sample_tokens, "", ASSUMED,
        "an answer of four tokens");
    put(v, "steps that are needed", 0.5, "", ASSUMED,
        "as label --dry-run supposes");
    put(v, "passes over a layer", a->reads, "", MEASURED,
        "results/bench/probe-figures.csv");
    put(v, "bytes of a token as text", a->text_bytes, "B", ASSUMED,
        "English prose");
    for (int i = 0; i < KS_PLAN_STAGES; i++)
        put(v, share_names[i], a->share[i], "", ASSUMED, "--share");
    put(v, DISK, a->disk, "B/s", ASSUMED, "--disk");
}

/* ------------------------------------------------------------- this machine */

enum { ROWS = 512, WIDTH = 1024, TIMES = 3 };

static ks_status measure_products(const struct ks_ops *ops, ks_dev *dev,
                                  double *rate, ks_err *err) {
    ks_status st = KS_OK;
    float *x = NULL, *out = NULL;
    uint16_t *w = NULL;
    KS_TRY(ks_alloc(&x, (size_t)ROWS * WIDTH, sizeof *x, "products", err));
    KS_TRY(ks_alloc(&out, (size_t)ROWS * WIDTH, sizeof *out, "products", err));
    KS_TRY(ks_alloc(&w, (size_t)WIDTH * WIDTH, sizeof *w, "products", err));
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = (float)(i % 97) / 97;
    for (int i = 0; i < WIDTH * WIDTH; i++)
        w[i] = (uint16_t)(0x3c00 + i % 97); /* small bf16 */
    ks_view weights = {w, WIDTH, WIDTH, WIDTH, KS_BF16};
    *rate = 0;
    for (int k = 0; k <= TIMES; k++) { /* the first warms up */
        double start = ks_seconds();
        KS_TRY(ops->gemm(dev, ks_view_f32(out, ROWS, WIDTH),
                         ks_view_f32(x, ROWS, WIDTH), weights, NULL, false,
                         err));
        double flops = 2.0 * ROWS * WIDTH * WIDTH;
        if (k) *rate = fmax(*rate, flops / (ks_seconds() - start));
    }
done:
    free(x), free(out), free(w);
    return st;
}

/* Bytes a second of reading and writing what no cache holds. */
static ks_status measure_memory(int threads, double *rate, ks_err *err) {
    enum { FLOATS = 32 << 20 };
    ks_status st = KS_OK;
    float *a = NULL, *b = NULL;
    KS_TRY(ks_alloc(&a, FLOATS, sizeof *a, "a copy", err));
    KS_TRY(ks_alloc(&b, FLOATS, sizeof *b, "a copy", err));
    *rate = 0;
    for (int k = 0; k <= TIMES; k++) {
        double start = ks_seconds();
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int i = 0; i < FLOATS; i++) b[i] = a[i] + (float)k;
        double bytes = 2.0 * FLOATS * sizeof *a;
        if (k) *rate = fmax(*rate, bytes / (ks_seconds() - start));
    }
done:
    free(a), free(b);
    return st;
}

ks_status ks_plan_measure_cpu(ks_plan_device *out, int threads, ks_err *err) {
    ks_status st = KS_OK;
    ks_dev *dev = NULL;
    const struct ks_ops *ops = NULL;
    double pages = (double)sysconf(_SC_PHYS_PAGES);
    *out = (ks_plan_device){.name = "cpu",
                            .title = "this machine",
                            .source = "measured now on this machine",
                            .memory = pages * (double)sysconf(_SC_PAGESIZE)};
    KS_TRY(ks_dev_open(&dev, &ops, "cpu", threads, NULL, err));
    KS_TRY(measure_products(ops, dev, &out->tensor, err));
    KS_TRY(measure_memory(ks_dev_threads(dev), &out->bandwidth, err));
    out->float_ = out->tensor;
    out->double_ = out->tensor / 2;
done:
    ks_dev_close(&dev, ops);
    return st;
}

/* -------------------------------------------------------- tables of a bench */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static const char *text_of(const json_t *row, const char *column) {
    const char *text = json_string_value(json_object_get(row, column));
    return text ? text : "";
}

/* The median of a column, of rows of pairs where there are any; NaN: none. */
static ks_status median_of(const char *path, const json_t *rows,
                           const char *column, const char *what, double least_m,
                           double *out, ks_err *err) {
    ks_status st = KS_OK;
    double *values = NULL;
    size_t n = 0, all = json_array_size(rows);
    KS_TRY(ks_alloc(&values, all, sizeof *values, "a table", err));
    for (size_t i = 0; i < all; i++) {
        const json_t *row = json_array_get(rows, i);
        const char *text = text_of(row, column);
        char *end;
        if (!*text || strcmp(text_of(row, "pair"), "all") == 0) continue;
        if (what && strcmp(text_of(row, "what"), what) != 0) continue;
        if (strtod(text_of(row, "m"), NULL) < least_m) continue;
        double v = strtod(text, &end);
        KS_CHECK(!*end && isfinite(v) && v > 0, KS_FORMAT,
                 "%s, row %zu: %s is '%.40s', a number above 0 is expected",
                 path, i + 1, column, text);
        values[n++] = v;
    }
    qsort(values, n, sizeof *values, by_value);
    *out = n ? (values[(n - 1) / 2] + values[n / 2]) / 2 : NAN;
done:
    free(values);
    return st;
}

ks_status ks_plan_take_measured(const char *path, ks_plan_device *on,
                                ks_plan_asked *a, ks_plan_values *v,
                                ks_err *err) {
    ks_status st = KS_OK;
    enum { LARGE = 512 };
    json_t *rows = NULL;
    double gemm, capture, probe, io;
    KS_TRY(ks_bench_csv_read(path, &rows, err));
    KS_TRY(median_of(path, rows, "gflops", NULL, LARGE, &gemm, err));
    KS_TRY(median_of(path, rows, "products_share", "pooled", 0, &capture, err));
    KS_TRY(median_of(path, rows, "over_bare", NULL, 0, &probe, err));
    KS_TRY(median_of(path, rows, "keystep_mb_s", NULL, 0, &io, err));
    bool cpu = strcmp(on->name, "cpu") == 0;
    bool on_cpu = strcmp(text_of(json_array_get(rows, 0), "backend"), "cuda");
    KS_CHECK(isfinite(io) || cpu == on_cpu, KS_MISMATCH,
             "%s was measured on %s, the plan is for %s", path,
             on_cpu ? "a CPU" : "a device", on->title);
    KS_CHECK(isfinite(gemm) || isfinite(capture) || isfinite(probe) ||
                 isfinite(io),
             KS_FORMAT,
             "%s: no table of keystep bench gemm (with 512 rows or more), "
             "capture, probe or io",
             path);
    if (isfinite(gemm)) {
        on->tensor = on->float_ = gemm * 1e9;
        on->double_ = on->tensor / 2;
        put(v, PRODUCTS, on->tensor, "FLOP/s", MEASURED, path);
        put(v, F32_RATE, on->float_, "FLOP/s", MEASURED, path);
        put(v, "double", on->double_, "FLOP/s", ASSUMED, "half of f32");
    }
    if (isfinite(capture)) {
        a->share[KS_PLAN_CAPTURE] = fmin(capture, 1);
        put(v, share_names[KS_PLAN_CAPTURE], a->share[KS_PLAN_CAPTURE], "",
            MEASURED, path);
    }
    if (isfinite(probe)) {
        a->share[KS_PLAN_PROBE] = fmin(1 / probe, 1);
        put(v, share_names[KS_PLAN_PROBE], a->share[KS_PLAN_PROBE], "",
            MEASURED, path);
    }
    if (isfinite(io)) {
        a->disk = io * 1e6;
        put(v, DISK, a->disk, "B/s", MEASURED, path);
    }
done:
    json_decref(rows);
    return st;
}
