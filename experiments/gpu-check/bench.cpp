/* bench.cpp - times the ops of the CUDA table at the shapes of real models, one
 * CSV line an op: what it moved, what it computed, and its share of what the
 * device's own figures allow.
 *   gpu-check bench [--shapes tiny,1.5b,7b,gpt-oss] [--repeats N] [--csv FILE]
 * The cache is overwritten before every repeat; times are medians of events on
 * the backend's stream. */
#include "bench.h"
#include "program.h"

#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Qwen2.5-1.5B and -7B, gpt-oss-20b (its experts alone); tiny is for devices
 * that are simulated. */
static const struct shape shapes[] = {
    {"tiny", 64, 2, 1, 64, 96, 96, 4, 2, 40, 40, 10, 3, 32, 9, 2},
    {"1.5b", 1536, 12, 2, 128, 8960, 151936, 0, 0, 8192, 4096, 40, 32, 2048,
     512, 8},
    {"7b", 3584, 28, 4, 128, 18944, 152064, 0, 0, 8192, 4096, 40, 32, 2048, 512,
     8},
    {"gpt-oss", 2880, 0, 0, 0, 2880, 0, 32, 4, 8192, 4096, 40, 32, 2048, 512,
     8},
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

void *bench_room(struct bench *b, size_t size) {
    ks_buf buf = {};
    ks_status st = b->ops->alloc(b->dev, &buf, size, "a bench", &b->err);
    if (st != KS_OK) {
        b->status = st;
        return NULL;
    }
    b->held.push_back(buf);
    return buf.data;
}

void *bench_fill(struct bench *b, size_t size, const void *pattern,
                 size_t length) {
    char *to = (char *)bench_room(b, size);
    ks_status st = b->status;
    for (size_t at = 0; st == KS_OK && at < size; at += length)
        st = b->ops->copy(b->dev, to + at, pattern, std::min(length, size - at),
                          &b->err);
    if (st == KS_OK) st = b->ops->sync(b->dev, &b->err);
    b->status = st;
    return st == KS_OK ? to : NULL;
}

void *bench_numbers(struct bench *b, ks_type type, int64_t n) {
    const size_t most = 1048573; /* a prime: no two rows alike */
    size_t each = ks_type_size(type), count = std::min((size_t)n, most);
    std::vector<char> pattern(count * each);
    uint32_t state = 12345;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        float x = (float)(int32_t)state * 0x1p-32f;
        /* bf16: the upper half */
        memcpy(&pattern[i * each], (char *)&x + sizeof x - each, each);
    }
    return bench_fill(b, (size_t)n * each, pattern.data(), pattern.size());
}

void bench_forget(struct bench *b) {
    for (ks_buf &buf : b->held) b->ops->free(b->dev, &buf);
    b->held.clear();
    b->status = KS_OK;
}

/* ------------------------------------------------------------------ timing */

/* Milliseconds of each repeat; the first two do not count. */
static ks_status repeat(struct bench *b, std::vector<float> *ms,
                        const std::function<ks_status(void)> &run) {
    cudaEvent_t begin = NULL, end = NULL;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    ks_status st = b->status;
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
        if (i >= 0) ms->push_back(took);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return st;
}

int bench_measure(struct bench *b, const struct shape *s, const char *op,
                  const char *what, double bytes, double flops,
                  const std::function<ks_status(void)> &run) {
    std::vector<float> ms;
    ks_status st = repeat(b, &ms, run);
    if (st != KS_OK) {
        printf("%s %s %s at %s: %s\n", st == KS_NOMEM ? "SKIP" : "FAIL", op,
               what, s->name, b->err.text);
        return st != KS_NOMEM;
    }
    std::sort(ms.begin(), ms.end());
    double median = ms[ms.size() / 2];
    double rate = bytes / median * 1e3, speed = flops / median * 1e3;
    double share = std::max(b->bytes_most > 0 ? rate / b->bytes_most : 0,
                            b->flops_most > 0 ? speed / b->flops_most : 0);
    printf("%-18s %-34s %-7s %10.4f ms %8.1f GB/s %8.2f TFLOP/s %5.1f%%\n", op,
           what, s->name, median, rate * 1e-9, speed * 1e-12, share * 100);
    fflush(stdout);
    if (b->csv) {
        fprintf(b->csv, "%s,%s,%s,%.6f,%.6f,%.6f,%.0f,%.0f,%.4f\n", op, what,
                s->name, median, ms.front(), ms.back(), bytes, flops, share);
        fflush(b->csv);
    }
    return 0;
}

/* ------------------------------------------------------------------- main */

static int bench_all(struct bench *b, const struct shape *s) {
    int bad = s->experts ? bench_experts(b, s) : 0;
    if (!s->heads) return bad;
    return bad + bench_products(b, s) + bench_row_ops(b, s) +
           bench_attention(b, s) + bench_heads(b, s);
}

static bool named(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at += n)
        if ((at == list || at[-1] == ',') && (at[n] == 0 || at[n] == ','))
            return true;
    return false;
}

int run_bench(int argc, char **argv) {
    const char *which = "1.5b,7b,gpt-oss", *csv = NULL;
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
