/* check_copy.cpp - the memory slots of the CUDA backend: copies in the order
 * of the ops and beside them, late errors, graphs. */
#include <thread>

#include "check.h"
#include "child.h"
#include "small.h"

#include "../../kernels/cuda.cuh"
#include "../../kernels/cuda_ops.h"

static ks_err err;

#define RUN(call) cr_assert(KS_OK == (call), "%s", err.text)
#define FAILS(status, words, call)                                             \
    do {                                                                       \
        cr_expect(eq(int, (int)(call), (int)(status)));                        \
        cr_expect(strstr(err.text, words) != NULL, "%s", err.text);            \
    } while (0)

static ks_dev *opened(void) {
    ks_dev *dev;
    RUN(ks__cuda_open(&dev, 0, 0, &err));
    RUN(ks__cuda_copies_open(dev, &err));
    RUN(ks__cuda_fault_open(dev, &err));
    return dev;
}

static void close_dev(ks_dev *dev) {
    ks__cuda_copies_close(dev);
    ks__cuda_close(&dev);
    cr_expect(eq(sz, simt_live_allocations(), 0));
}

static ks_buf taken(ks_dev *dev, size_t size) {
    ks_buf buf;
    RUN(ks__cuda_alloc(dev, &buf, size, "a test", &err));
    cr_assert(eq(sz, buf.size, size));
    return buf;
}

static float last(const float *x, int n) {
    return x[n - 1];
}

/* As far as can be told: a real device does not count. */
static bool nothing_launched(void) {
    return !simt_simulated() || simt_launches() == 0;
}

/* More than all stages hold, odd, at an odd place; the source changes at once.
 */
Test(copy, in_and_out) {
    const size_t n = (9 << 18) + 13;
    ks_dev *dev = opened();
    ks_buf buf = taken(dev, n + 1), second = taken(dev, n + 1);
    unsigned char *x = (unsigned char *)malloc(n), *y, *z;
    y = (unsigned char *)malloc(n), z = (unsigned char *)malloc(n);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < n; i++)
            x[i] = (unsigned char)((i * 2654435761u + (size_t)round) >> 9);
        memcpy(z, x, n);
        RUN(ks__cuda_copy(dev, (char *)buf.data + 1, x, n, &err));
        memset(x, 7, n);
        RUN(ks__cuda_copy(dev, (char *)second.data + 1, (char *)buf.data + 1, n,
                          &err));
        RUN(ks__cuda_zero(dev, buf.data, n + 1, &err));
        RUN(ks__cuda_copy(dev, y, (char *)second.data + 1, n, &err));
        RUN(ks__cuda_copy(dev, x, (char *)buf.data + 1, n, &err));
        RUN(ks__cuda_sync(dev, &err));
        cr_expect(memcmp(y, z, n) == 0);
        cr_expect(x[0] == 0 && x[n - 1] == 0);
    }
    RUN(ks__cuda_copy(dev, NULL, NULL, 0, &err));
    RUN(ks__cuda_zero(dev, NULL, 0, &err));
    free(x), free(y), free(z);
    ks__cuda_free(dev, &buf);
    cr_expect(buf.data == NULL && buf.size == 0);
    close_dev(dev);
}

/* Eight chunks in flight need no wait, the ninth waits for the first only. */
Test(copy, stages_wait) {
    ks_dev *dev = opened();
    ks_buf buf = taken(dev, 12 * sizeof(float));
    float *x = (float *)buf.data;
    RUN(ks__cuda_zero(dev, x, buf.size, &err));
    for (int i = 0; i < 8; i++) {
        float one = (float)i;
        RUN(ks__cuda_copy(dev, x + i, &one, sizeof one, &err));
    }
    OK(small_add(x, 12, 100, dev->stream));
    cr_expect(nothing_launched());
    for (int i = 8; i < 11; i++) {
        float one = (float)i;
        RUN(ks__cuda_copy(dev, x + i, &one, sizeof one, &err));
    }
    cr_expect(nothing_launched());
    float y[12];
    RUN(ks__cuda_copy(dev, y, x, sizeof y, &err));
    RUN(ks__cuda_sync(dev, &err));
    for (int i = 0; i < 12; i++)
        cr_expect(y[i] == (float)(i < 8    ? i + 100
                                  : i < 11 ? i
                                           : 100),
                  "%d: %g", i, (double)y[i]);
    /* host to host comes after what is on its way out */
    RUN(ks__cuda_copy(dev, y, x + 1, sizeof *y, &err));
    RUN(ks__cuda_copy(dev, y + 1, y, sizeof *y, &err));
    cr_expect(y[1] == 101, "%g", (double)y[1]);
    close_dev(dev);
}

Test(copy, no_memory) {
    ks_dev *dev = opened();
    ks_buf buf;
    RUN(ks__cuda_limit(dev, dev->in_use + 100, "less of it", &err));
    FAILS(KS_NOMEM, "less of it; a larger --memory",
          ks__cuda_alloc(dev, &buf, 101, "the whole", &err));
    cr_expect(buf.data == NULL && buf.size == 0);
    buf = taken(dev, 100);
    ks__cuda_free(dev, &buf);
    buf = taken(dev, 0);
    ks__cuda_free(dev, &buf);
    if (!built("asan")) { /* which has a limit of its own */
        FAILS(KS_NOMEM, "bytes wanted; less of it",
              ks__cuda_alloc_host(dev, &buf, SIZE_MAX / 2, "the ring", &err));
        cr_expect(buf.data == NULL && buf.size == 0);
    }
    close_dev(dev);
}

/* The copy takes what was there when it was queued, the ops behind it do not
 * wait, and wait waits for it alone. */
static int beside(void) {
    ks_dev *dev = opened();
    enum { N = 33 };
    ks_buf a = taken(dev, N * 4), b = taken(dev, N * 4), host;
    RUN(ks__cuda_alloc_host(dev, &host, 4 * N * 4, "a test", &err));
    float *x = (float *)a.data, *other = (float *)b.data;
    float *y = (float *)host.data;
    uint64_t first, second;
    OK(small_set(x, N, 3, dev->stream));
    RUN(ks__cuda_copy_out(dev, y, x, N * 4, &first, &err));
    OK(small_set(other, N, 5, dev->stream));
    RUN(ks__cuda_copy_out(dev, y + N, other, N * 4, &second, &err));
    if (first != 1 || second != 2) return 1;
    OK(small_add(other, N, 1, dev->stream));
    RUN(ks__cuda_wait(dev, first, &err));
    if (last(y, N) != 3 || y[0] != 3) return 2;
    OK(small_set(x, N, 4, dev->stream)); /* free to be written */
    RUN(ks__cuda_wait(dev, second, &err));
    RUN(ks__cuda_wait(dev, first, &err)); /* once more: nothing */
    RUN(ks__cuda_wait(dev, 0, &err));
    if (last(y + N, N) != 5 && last(y + N, N) != 6) return 3;
    ks__cuda_free_host(dev, &host);
    close_dev(dev);
    return host.data != NULL;
}

Test(copy, beside) {
    for (uint64_t seed = 0; seed < 8; seed++) {
        outcome got = run_child(seed, beside);
        cr_expect(eq(int, got.status, 0), "seed %d: %s", (int)seed, got.text);
    }
}

/* Tickets outnumber their events; a block is given back while its copy is on
 * its way and is taken again at once. */
static int many(bool ops_first) {
    ks_dev *dev = opened();
    enum { N = 7, MANY = 37 };
    ks_buf host;
    RUN(ks__cuda_alloc_host(dev, &host, MANY * N * 4, "a test", &err));
    float *y = (float *)host.data;
    uint64_t ticket = 0, before = 0;
    for (int i = 0; i < MANY; i++) {
        ks_buf a = taken(dev, N * 4);
        OK(small_set((float *)a.data, N, (float)i, dev->stream));
        RUN(ks__cuda_copy_out(dev, y + i * N, a.data, N * 4, &ticket, &err));
        if (ticket != before + 1) return 1;
        before = ticket;
        ks__cuda_free(dev, &a);
        if (i == 20) RUN(ks__cuda_wait(dev, ticket - 4, &err));
    }
    uint64_t same;
    RUN(ks__cuda_copy_out(dev, y, NULL, 0, &same, &err));
    if (same != ticket) return 2;
    if (ops_first) RUN(ks__cuda_sync(dev, &err)); /* all is given back */
    RUN(ks__cuda_wait(dev, ticket, &err));
    for (int i = 0; i < MANY; i++)
        if (last(y + i * N, N) != (float)i) return 3;
    if (ks__cuda_wait(dev, ticket + 1, &err) != KS_INTERNAL) return 4;
    if (!strstr(err.text, "ticket 38, the last one given is 37")) return 5;
    ks__cuda_free_host(dev, &host);
    close_dev(dev);
    return 0;
}

Test(copy, many_tickets) {
    for (uint64_t seed = 0; seed < 4; seed++) {
        outcome got = run_child(seed, [seed] { return many(seed % 2); });
        cr_expect(eq(int, got.status, 0), "seed %d: %s", (int)seed, got.text);
    }
}

/* Closing waits for copies in both directions, whose stages it frees. */
Test(copy, closed_with_copies_on_their_way) {
    for (uint64_t seed = 0; seed < 4; seed++) {
        simt_seed(seed);
        ks_dev *dev = opened();
        ks_buf a = taken(dev, 64), host;
        uint64_t ticket;
        char x[64] = {7};
        RUN(ks__cuda_alloc_host(dev, &host, 64, "a test", &err));
        RUN(ks__cuda_copy_out(dev, host.data, a.data, 64, &ticket, &err));
        RUN(ks__cuda_copy(dev, a.data, x, 64, &err));
        close_dev(dev);
        OK(cudaFreeHost(host.data));
    }
}

Test(copy, host_memory_freed_with_copies_on_their_way) {
    ks_dev *dev = opened();
    ks_buf a = taken(dev, 64), one, other;
    uint64_t ticket;
    RUN(ks__cuda_alloc_host(dev, &one, 64, "a test", &err));
    RUN(ks__cuda_alloc_host(dev, &other, 64, "a test", &err));
    RUN(ks__cuda_copy(dev, one.data, a.data, 64, &err));
    ks__cuda_free_host(dev, &one);
    RUN(ks__cuda_copy_out(dev, other.data, a.data, 64, &ticket, &err));
    ks__cuda_free_host(dev, &other);
    cr_expect(one.data == NULL && other.data == NULL);
    close_dev(dev);
}

/* The sentence of a late error has the ops that were queued. */
Test(copy, late_errors) {
    ks_dev *dev = opened();
    ks_buf a = taken(dev, 64), host;
    RUN(ks__cuda_alloc_host(dev, &host, 64, "a test", &err));
    RUN(ks__cuda_zero(dev, a.data, 64, &err));
    for (int i = 0; i < 3; i++)
        RUN(ks__cuda_status(small_set((float *)a.data, 16, 1, dev->stream),
                            "norm", &err));
    simt_fail_next_sync(cudaErrorIllegalAddress);
    FAILS(KS_INTERNAL, "lately: ", ks__cuda_sync(dev, &err));
    cr_expect(strstr(err.text, "zero, norm;") != NULL, "%s", err.text);
    cr_expect(strstr(err.text, "sync: CUDA says: an illegal memory access") !=
                  NULL,
              "%s", err.text);
    OK(cudaGetLastError());
    uint64_t ticket;
    RUN(ks__cuda_copy_out(dev, host.data, a.data, 64, &ticket, &err));
    simt_fail_next_sync(cudaErrorLaunchFailure);
    FAILS(KS_INTERNAL, "wait: ", ks__cuda_wait(dev, ticket, &err));
    RUN(ks__cuda_wait(dev, ticket, &err));
    char x[64] = {0};
    for (int i = 0; i < 8; i++) RUN(ks__cuda_copy(dev, a.data, x, 1, &err));
    simt_fail_next_sync(cudaErrorLaunchFailure);
    FAILS(KS_INTERNAL, "copy: ", ks__cuda_copy(dev, a.data, x, 1, &err));
    RUN(ks__cuda_sync(dev, &err));
    simt_fail_next_sync(cudaErrorLaunchFailure);
    FAILS(KS_INTERNAL, "sync: ", ks__cuda_copy(dev, x, x, 1, &err));
    /* an over-long copy is refused at once */
    FAILS(KS_INTERNAL, "copy: CUDA says",
          ks__cuda_copy(dev, x, (char *)a.data + 1, 64, &err));
    FAILS(KS_INTERNAL, "zero: CUDA says",
          ks__cuda_zero(dev, (char *)a.data + 1, 64, &err));
    ks__cuda_free_host(dev, &host);
    close_dev(dev);
}

/* A thread that did not open the device enters it first. */
Test(copy, threads_enter) {
    simt_set_devices(2);
    ks_dev *dev;
    RUN(ks__cuda_open(&dev, 1, 0, &err));
    RUN(ks__cuda_copies_open(dev, &err));
    RUN(ks__cuda_fault_open(dev, &err));
    ks_buf a = taken(dev, 64);
    cudaError_t without = cudaSuccess, with = cudaErrorUnknown;
    std::thread([&] {
        without = small_set((float *)a.data, 16, 1, dev->stream);
        RUN(ks__cuda_enter(dev, &err));
        with = small_set((float *)a.data, 16, 2, dev->stream);
    }).join();
    cr_expect(without != cudaSuccess);
    OK(with);
    RUN(ks__cuda_sync(dev, &err));
    close_dev(dev);
}

/* ------------------------------------------------------------------- graphs */

/* out = 2 (in + 1), with scratch taken twice: the second use of the first
 * block, and a larger one. */
static void twice(ks_dev *dev, float *out, const float *in, int n) {
    void *first, *second, *third;
    RUN(ks__cuda_take(dev, &first, (size_t)n * 4, "a test", &err));
    RUN(ks__cuda_copy(dev, first, in, (size_t)n * 4, &err));
    OK(small_add((float *)first, n, 1, dev->stream));
    RUN(ks__cuda_take(dev, &third, (size_t)n * 8, "a test", &err));
    RUN(ks__cuda_copy(dev, out, first, (size_t)n * 4, &err));
    ks__cuda_give(dev, third);
    ks__cuda_give(dev, first);
    RUN(ks__cuda_take(dev, &second, (size_t)n * 4 - 1, "a test", &err));
    if (dev->recording) cr_expect(second == first);
    RUN(ks__cuda_zero(dev, second, (size_t)n * 4 - 1, &err));
    ks__cuda_give(dev, second);
    OK(small_scale(out, n, 2, dev->stream));
}

static int replayed(void) {
    ks_dev *dev = opened();
    enum { N = 31 };
    ks_buf in = taken(dev, N * 4), out = taken(dev, N * 4);
    float x[N], y[N];
    ks_graph *graph = NULL;
    size_t used = dev->in_use;
    RUN(ks__cuda_record(dev, &err));
    twice(dev, (float *)out.data, (const float *)in.data, N);
    RUN(ks__cuda_recorded(dev, &graph, &err));
    if (dev->recording || !nothing_launched()) return 1;
    if (dev->in_use != used + N * 4 + N * 8) return 2;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) x[i] = (float)(i + round);
        RUN(ks__cuda_copy(dev, in.data, x, sizeof x, &err));
        RUN(ks__cuda_replay(dev, graph, &err));
        RUN(ks__cuda_copy(dev, y, out.data, sizeof y, &err));
        RUN(ks__cuda_sync(dev, &err));
        for (int i = 0; i < N; i++)
            if (y[i] != 2 * (float)(i + round + 1)) return 3;
        twice(dev, (float *)out.data, (const float *)in.data, N);
    }
    ks__cuda_free_graph(dev, &graph);
    if (graph || dev->in_use != used) return 4;
    ks__cuda_free_graph(dev, &graph);
    close_dev(dev);
    return 0;
}

Test(graph, replayed) {
    for (uint64_t seed = 0; seed < 8; seed++) {
        outcome got = run_child(seed, replayed);
        cr_expect(eq(int, got.status, 0), "seed %d: %s", (int)seed, got.text);
    }
}

Test(graph, refusals) {
    ks_dev *dev = opened();
    ks_buf a = taken(dev, 64), more, host;
    RUN(ks__cuda_alloc_host(dev, &host, 64, "a test", &err));
    ks_graph *graph = (ks_graph *)dev, *empty;
    uint64_t ticket;
    char x[8] = {0};
    FAILS(KS_INTERNAL, "nothing is being recorded",
          ks__cuda_recorded(dev, &graph, &err));
    cr_expect(graph == NULL);
    RUN(ks__cuda_record(dev, &err));
    RUN(ks__cuda_recorded(dev, &empty, &err));
    RUN(ks__cuda_record(dev, &err));
    FAILS(KS_INTERNAL, "already", ks__cuda_record(dev, &err));
    FAILS(KS_INTERNAL, "alloc of more",
          ks__cuda_alloc(dev, &more, 64, "more", &err));
    FAILS(KS_INTERNAL, "copy from host",
          ks__cuda_copy(dev, a.data, x, 8, &err));
    FAILS(KS_INTERNAL, "copy to host", ks__cuda_copy(dev, x, a.data, 8, &err));
    FAILS(KS_INTERNAL, "copy_out",
          ks__cuda_copy_out(dev, host.data, a.data, 8, &ticket, &err));
    FAILS(KS_INTERNAL, "replay while", ks__cuda_replay(dev, empty, &err));
    RUN(ks__cuda_zero(dev, a.data, 64, &err));
    RUN(ks__cuda_recorded(dev, &graph, &err));
    RUN(ks__cuda_replay(dev, graph, &err));
    ks__cuda_free_graph(dev, &graph);
    ks__cuda_free_graph(dev, &empty);
    /* a synchronisation spoils the recording, and nothing is left of it */
    RUN(ks__cuda_record(dev, &err));
    size_t used = dev->in_use;
    void *p;
    RUN(ks__cuda_take(dev, &p, 5, "a test", &err));
    FAILS(KS_INTERNAL, "sync: ", ks__cuda_sync(dev, &err));
    FAILS(KS_INTERNAL, "recorded: ", ks__cuda_recorded(dev, &graph, &err));
    cr_expect(graph == NULL && dev->recording == NULL);
    cr_expect(eq(sz, dev->in_use, used));
    /* the stream is under capture already: record fails and opens nothing */
    OK(cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeRelaxed));
    FAILS(KS_INTERNAL, "record: ", ks__cuda_record(dev, &err));
    cr_expect(NULL == dev->recording);
    cudaGraph_t own;
    OK(cudaStreamEndCapture(dev->stream, &own));
    OK(cudaGraphDestroy(own));
    /* no memory for a graph's scratch */
    RUN(ks__cuda_limit(dev, dev->in_use + 4, NULL, &err));
    RUN(ks__cuda_record(dev, &err));
    FAILS(KS_NOMEM, "a test: 5 bytes",
          ks__cuda_take(dev, &p, 5, "a test", &err));
    RUN(ks__cuda_take(dev, &p, 4, "a test", &err));
    RUN(ks__cuda_recorded(dev, &graph, &err));
    ks__cuda_free_graph(dev, &graph);
    ks__cuda_free_host(dev, &host);
    close_dev(dev);
}
