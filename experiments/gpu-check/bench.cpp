/* bench.cpp - times the ops of the CUDA table at the shapes of real models, one
 * CSV line an op: what it moved, what it computed, and its share of what the
 * device's own figures allow.
 *   gpu-check bench [--shapes tiny,1.5b,7b] [--repeats N] [--csv FILE]
 * The cache is overwritten before every repeat; times are medians of events on
 * the backend's stream. */
#include "program.h"

#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "../../kernels/cuda.cuh"

struct shape {
    const char *name;
    int d, heads, kv_heads, head_dim, ff;
    int tokens, context;
};

/* Qwen2.5-1.5B and -7B; tiny is for devices that are simulated. */
static const struct shape shapes[] = {
    {"tiny", 64, 2, 1, 64, 96, 40, 40},
    {"1.5b", 1536, 12, 2, 128, 8960, 8192, 4096},
    {"7b", 3584, 28, 4, 128, 18944, 8192, 4096},
};

struct bench {
    ks_dev *dev;
    const struct ks_ops *ops;
    ks_err err;
    FILE *csv;
    int repeats;
    double bytes_most, flops_most; /* a second; 0: not known */
    void *flush;
    size_t flush_size;
    std::vector<ks_buf> held;
    bool failed;
};

/* ------------------------------------------------------------------ device */

/* Bytes and dense bf16 operations a second, of the device's own attributes;
 * operations a multiprocessor and clock from NVIDIA's architecture papers. */
static void know_device(struct bench *b) {
    int khz = 0, memory_khz = 0, bits = 0;
    cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, b->dev->ordinal);
    cudaDeviceGetAttribute(&memory_khz, cudaDevAttrMemoryClockRate,
                           b->dev->ordinal);
    cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth,
                           b->dev->ordinal);
    (void)cudaGetLastError();
    b->bytes_most = 2.0 * memory_khz * 1e3 * bits / 8;
    double per_clock = b->dev->sm == 80    ? 2048
                       : b->dev->sm == 90  ? 4096
                       : b->dev->sm == 100 ? 8192
                                           : 0;
    b->flops_most = per_clock * b->dev->n_sm * khz * 1e3;
}

static void *room(struct bench *b, size_t size) {
    ks_buf buf = {};
    if (b->ops->alloc(b->dev, &buf, size, "a bench", &b->err) != KS_OK) {
        fprintf(stderr, "%s\n", b->err.text);
        b->failed = true;
        return NULL;
    }
    b->held.push_back(buf);
    return buf.data;
}

/* Room of n elements, small numbers in it. */
static void *numbers(struct bench *b, ks_type type, int64_t n) {
    size_t size = (size_t)n * (type == KS_F32 ? 4 : 2);
    void *to = room(b, size);
    if (!to) return NULL;
    std::vector<uint16_t> half(type == KS_F32 ? 0 : (size_t)n);
    std::vector<float> full(type == KS_F32 ? (size_t)n : 0);
    uint32_t state = 12345;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        float x = (float)(int32_t)state * 0x1p-32f;
        uint32_t word;
        memcpy(&word, &x, 4);
        if (type == KS_F32)
            full[(size_t)i] = x;
        else
            half[(size_t)i] = (uint16_t)(word >> 16);
    }
    const void *from = type == KS_F32 ? (void *)full.data() : half.data();
    if (b->ops->copy(b->dev, to, from, size, &b->err) != KS_OK ||
        b->ops->sync(b->dev, &b->err) != KS_OK)
        b->failed = true;
    return to;
}

static ks_view rows(void *data, int64_t n, int64_t cols, ks_type type) {
    return (ks_view){data, n, cols, cols, type};
}

static void forget(struct bench *b) {
    for (ks_buf &buf : b->held) b->ops->free(b->dev, &buf);
    b->held.clear();
    b->failed = false;
}

/* ------------------------------------------------------------------ timing */

/* One op, timed: `run` queues it. A failure names op and shape. */
template <class Run>
static int measure(struct bench *b, const struct shape *s, const char *op,
                   const char *what, double bytes, double flops, Run run) {
    std::vector<float> ms;
    cudaEvent_t begin = NULL, end = NULL;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    ks_status st = b->failed ? KS_NOMEM : KS_OK;
    for (int i = -2; i < b->repeats && st == KS_OK; i++) {
        if (b->flush)
            cudaMemsetAsync(b->flush, i & 0xff, b->flush_size, b->dev->stream);
        cudaEventRecord(begin, b->dev->stream);
        st = run();
        cudaEventRecord(end, b->dev->stream);
        if (st == KS_OK) st = b->ops->sync(b->dev, &b->err);
        float took = NAN;
        cudaEventSynchronize(end);
        cudaEventElapsedTime(&took, begin, end);
        if (i >= 0) ms.push_back(took);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    if (st != KS_OK) {
        printf("FAIL %s %s at %s: %s\n", op, what, s->name, b->err.text);
        return 1;
    }
    std::sort(ms.begin(), ms.end());
    double median = ms[ms.size() / 2];
    double rate = bytes / median * 1e3, speed = flops / median * 1e3;
    double share = std::max(b->bytes_most > 0 ? rate / b->bytes_most : 0,
                            b->flops_most > 0 ? speed / b->flops_most : 0);
    printf("%-10s %-28s %-5s %10.4f ms %8.1f GB/s %8.2f TFLOP/s %5.1f%%\n", op,
           what, s->name, median, rate * 1e-9, speed * 1e-12, share * 100);
    fflush(stdout);
    if (b->csv) {
        fprintf(b->csv, "%s,%s,%s,%.6f,%.6f,%.6f,%.0f,%.0f,%.4f\n", op, what,
                s->name, median, ms.front(), ms.back(), bytes, flops, share);
        fflush(b->csv);
    }
    return 0;
}

/* ------------------------------------------------------------------- ops */

/* As it is for a prompt (cuBLASLt's, where it was found), then as for few rows
 * (our own kernel's). */
static int bench_gemm(struct bench *b, const struct shape *s, const char *what,
                      int tokens, int n, int k) {
    void *x = numbers(b, KS_F32, (int64_t)tokens * k);
    void *w = numbers(b, KS_BF16, (int64_t)n * k);
    void *out = room(b, (size_t)tokens * (size_t)n * 4);
    char words[64];
    snprintf(words, sizeof words, "%s %dx%dx%d", what, tokens, n, k);
    int bad = 0;
    for (int few = 0; few < 2; few++) {
        ks_dev_few_rows(b->dev, few);
        bad += measure(b, s, few ? "gemm_few" : "gemm", words,
                       4.0 * tokens * k + 2.0 * n * k + 4.0 * tokens * n,
                       2.0 * tokens * n * k, [=] {
                           return b->ops->gemm(
                               b->dev, rows(out, tokens, n, KS_F32),
                               rows(x, tokens, k, KS_F32),
                               rows(w, n, k, KS_BF16), NULL, false, &b->err);
                       });
    }
    ks_dev_few_rows(b->dev, false);
    forget(b);
    return bad;
}

static int bench_gemms(struct bench *b, const struct shape *s) {
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim, bad = 0;
    for (int tokens : {s->tokens, 64, 1}) {
        bad += bench_gemm(b, s, "q", tokens, q, s->d);
        bad += bench_gemm(b, s, "kv", tokens, kv, s->d);
        bad += bench_gemm(b, s, "o", tokens, s->d, q);
        bad += bench_gemm(b, s, "up", tokens, s->ff, s->d);
        bad += bench_gemm(b, s, "down", tokens, s->d, s->ff);
    }
    return bad;
}

static int bench_rows(struct bench *b, const struct shape *s) {
    int64_t n = s->tokens, d = s->d, ff = s->ff;
    char words[64];
    snprintf(words, sizeof words, "%dx%d", (int)n, (int)d);
    float *x = (float *)numbers(b, KS_F32, n * d);
    float *w = (float *)numbers(b, KS_F32, d),
          *out = (float *)room(b, n * d * 4);
    int bad = measure(b, s, "norm", words, 8.0 * n * d, 4.0 * n * d, [=] {
        return b->ops->norm(b->dev, rows(out, n, d, KS_F32),
                            rows(x, n, d, KS_F32), NULL, w, 1e-6f, &b->err);
    });
    bad += measure(b, s, "norm+add", words, 16.0 * n * d, 5.0 * n * d, [=] {
        ks_view add = rows(out, n, d, KS_F32);
        return b->ops->norm(b->dev, rows(out, n, d, KS_F32),
                            rows(x, n, d, KS_F32), &add, w, 1e-6f, &b->err);
    });
    forget(b);
    snprintf(words, sizeof words, "%dx%d", (int)n, (int)ff);
    float *gate = (float *)numbers(b, KS_F32, n * ff);
    float *up = (float *)numbers(b, KS_F32, n * ff);
    bad += measure(b, s, "gate", words, 12.0 * n * ff, 5.0 * n * ff, [=] {
        return b->ops->gate(b->dev, rows(gate, n, ff, KS_F32),
                            rows(gate, n, ff, KS_F32), rows(up, n, ff, KS_F32),
                            KS_SILU, &b->err);
    });
    forget(b);
    return bad;
}

/* Causal attention of tokens / context sequences of that length. */
static int bench_attention(struct bench *b, const struct shape *s) {
    int n_seq = s->tokens / s->context;
    int64_t n = (int64_t)n_seq * s->context;
    int64_t q_cols = s->heads * s->head_dim, k_cols = s->kv_heads * s->head_dim;
    std::vector<int32_t> offsets;
    for (int i = 0; i <= n_seq; i++) offsets.push_back(i * s->context);
    void *q = numbers(b, KS_F32, n * q_cols),
         *k = numbers(b, KS_F32, n * k_cols);
    void *v = numbers(b, KS_F32, n * k_cols), *out = room(b, n * q_cols * 4);
    int32_t *at = (int32_t *)room(b, offsets.size() * 4);
    if (at && b->ops->copy(b->dev, at, offsets.data(), offsets.size() * 4,
                           &b->err) != KS_OK)
        b->failed = true;
    ks_seqs seqs = {};
    seqs.n_seq = n_seq;
    seqs.n_tok = (int32_t)n;
    seqs.offsets = at;
    ks_attn_spec spec = {};
    spec.n_heads = s->heads;
    spec.n_kv_heads = s->kv_heads;
    spec.head_dim = s->head_dim;
    spec.scale = 1 / sqrtf((float)s->head_dim);
    char words[64];
    snprintf(words, sizeof words, "%d of %d, %d/%d heads of %d", n_seq,
             s->context, s->heads, s->kv_heads, s->head_dim);
    for (char *c = words; *c; c++)
        if (*c == ',') *c = ';';
    double pairs = 0.5 * n * (s->context + 1);
    int bad = measure(
        b, s, "attention", words, 4.0 * n * (2 * q_cols + 2 * k_cols),
        4.0 * pairs * (double)q_cols, [=] {
            return b->ops->attention(
                b->dev, rows(out, n, q_cols, KS_F32),
                rows(q, n, q_cols, KS_F32), rows(k, n, k_cols, KS_F32),
                rows(v, n, k_cols, KS_F32), &spec, &seqs, NULL, &b->err);
        });
    forget(b);
    return bad;
}

/* ------------------------------------------------------------------- main */

static int bench_all(struct bench *b, const struct shape *s) {
    return bench_gemms(b, s) + bench_rows(b, s) + bench_attention(b, s);
}

static bool named(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at += n)
        if ((at == list || at[-1] == ',') && (at[n] == 0 || at[n] == ','))
            return true;
    return false;
}

int run_bench(int argc, char **argv) {
    const char *which = "1.5b,7b", *csv = NULL;
    struct bench b = {};
    b.repeats = 20;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--shapes")) which = argv[i + 1];
        if (!strcmp(argv[i], "--repeats")) b.repeats = atoi(argv[i + 1]);
        if (!strcmp(argv[i], "--csv")) csv = argv[i + 1];
    }
    if (b.repeats < 1) b.repeats = 1;
    if (ks_dev_open(&b.dev, &b.ops, "cuda", 0, NULL, &b.err) != KS_OK) {
        printf("FAIL open: %s\n", b.err.text);
        return 1;
    }
    know_device(&b);
    b.csv = csv ? fopen(csv, "w") : NULL;
    if (b.csv)
        fprintf(b.csv, "op,shape,model,ms,ms_least,ms_most,bytes,flops,"
                       "share\n");
    b.flush_size = named(which, "tiny") ? 0 : (size_t)256 << 20;
    if (b.flush_size) cudaMalloc(&b.flush, b.flush_size);
    printf("%s, %d multiprocessors, %.0f GB/s, %.0f TFLOP/s in bf16 by its "
           "attributes (0: not known)\n",
           b.dev->isa, b.dev->n_sm, b.bytes_most * 1e-9, b.flops_most * 1e-12);
    int bad = 0;
    for (const struct shape &s : shapes)
        if (named(which, s.name)) bad += bench_all(&b, &s);
    if (b.flush) cudaFree(b.flush);
    if (b.csv) fclose(b.csv);
    ks_dev_close(&b.dev, b.ops);
    printf("%d failed\n", bad);
    return bad != 0;
}
