/* check_runtime.cpp - streams, events, graphs, launches, devices, errors of
 * the runtime stand-in. */
#include "check.h"
#include "child.h"
#include "small.h"

enum { N = 100 };

static float last_of(const float *x, int n) {
    float y = -1;
    OK(cudaMemcpy(&y, x + n - 1, sizeof y, cudaMemcpyDeviceToHost));
    return y;
}

/* Work happens at the synchronisation, not before. */
Test(simt_streams, lazy) {
    cudaStream_t s;
    OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    float *x = device_floats(N);
    float *host;
    OK(cudaMallocHost((void **)&host, sizeof(float)));
    OK(small_set(x, N, 3, s));
    OK(cudaMemcpyAsync(host, x + N - 1, sizeof(float), cudaMemcpyDeviceToHost,
                       s));
    cr_expect(host[0] != host[0], "the target is NaN before the copy");
    cr_expect(eq(u64, simt_launches(), 0));
    OK(cudaStreamSynchronize(s));
    cr_expect(eq(u64, simt_launches(), 1));
    cr_expect(host[0] == 3);

    OK(cudaFreeHost(host));
    OK(cudaFree(x));
    OK(cudaStreamDestroy(s));
}

/* A missing wait gives wrong data; a wait gives right data, under every seed.
 */
static int two_streams(bool wait) {
    cudaStream_t a, b;
    cudaEvent_t done;
    void *p;
    if (cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking) ||
        cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking) ||
        cudaEventCreateWithFlags(&done, cudaEventDisableTiming) ||
        cudaMalloc(&p, N * sizeof(float)))
        return 2;
    float *x = (float *)p, y = 0;
    if (small_set(x, N, 1, a) || small_add(x, N, 1, a) ||
        cudaEventRecord(done, a))
        return 2;
    if (wait && cudaStreamWaitEvent(b, done, 0)) return 2;
    if (small_scale(x, N, 5, b) ||
        cudaMemcpyAsync(&y, x + N - 1, sizeof y, cudaMemcpyDeviceToHost, b) ||
        cudaStreamSynchronize(b))
        return 2;
    return y != 10;
}

Test(simt_streams, events_order) {
    for (uint64_t seed = 0; seed < 20; seed++) {
        outcome good = run_child(seed, [] { return two_streams(true); });
        cr_expect(eq(int, good.status, 0), "seed %d: %s", (int)seed, good.text);
        if (seed >= 12) continue;
        outcome bad = run_child(seed, [] { return two_streams(false); });
        cr_expect(ne(int, bad.status, 0), "seed %d", (int)seed);
        if (built("race"))
            cr_expect(strstr(bad.text, "never written") != NULL, "%s",
                      bad.text);
    }
}

/* The default stream waits for blocking ones, and they for it. */
Test(simt_streams, legacy_default) {
    for (uint64_t seed = 0; seed < 8; seed++) {
        simt_seed(seed);
        cudaStream_t s;
        OK(cudaStreamCreate(&s));
        float *x = device_floats(N);
        OK(small_set(x, N, 2, s));
        OK(small_add(x, N, 3, NULL));
        OK(small_scale(x, N, 7, s));
        OK(cudaDeviceSynchronize());
        float y = last_of(x, N);
        cr_expect(y == 35, "seed %d: %g", (int)seed, (double)y);
        OK(cudaStreamDestroy(s));
        OK(cudaFree(x));
    }
}

static void count_call(void *n) {
    ++*(int *)n;
}

Test(simt_streams, host_functions_and_queries) {
    cudaStream_t s;
    cudaEvent_t a, b;
    OK(cudaStreamCreate(&s));
    OK(cudaEventCreate(&a));
    OK(cudaEventCreate(&b));
    int calls = 0;
    OK(cudaEventRecord(a, s));
    OK(cudaLaunchHostFunc(s, count_call, &calls));
    OK(cudaEventRecord(b, s));
    GIVES(cudaErrorNotReady, cudaEventQuery(b));
    float ms = -1;
    GIVES(cudaErrorNotReady, cudaEventElapsedTime(&ms, a, b));
    int polls = 0;
    while (cudaEventQuery(b) == cudaErrorNotReady && polls < 100) polls++;
    cr_expect(eq(int, calls, 1));
    cr_expect(lt(int, polls, 100));
    OK(cudaEventElapsedTime(&ms, a, b));
    cr_expect(ms >= 0);
    OK(cudaStreamQuery(s));
    OK(cudaEventSynchronize(b));
    OK(cudaEventDestroy(a));
    OK(cudaEventDestroy(b));
    OK(cudaStreamDestroy(s));
    GIVES(cudaErrorInvalidResourceHandle, cudaStreamSynchronize(s));
}

/* ------------------------------------------------------------------ graphs */

static cudaGraphExec_t captured(cudaStream_t s, float *x, float value) {
    cudaGraph_t graph;
    cudaGraphExec_t exec = NULL;
    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    OK(small_add(x, N, value, s));
    OK(small_scale(x, N, 2, s));
    OK(cudaStreamEndCapture(s, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    return exec;
}

Test(simt_graphs, capture_launch_update) {
    cudaStream_t s;
    OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    float *x = device_floats(N);
    OK(small_set(x, N, 1, s));
    cudaGraphExec_t exec = captured(s, x, 2);
    OK(cudaGraphLaunch(exec, s)); /* (1 + 2) * 2 = 6 */
    OK(cudaGraphLaunch(exec, s)); /* (6 + 2) * 2 = 16 */
    /* Other arguments, same shape: updated; the queued launches keep theirs. */
    cudaGraph_t graph;
    cudaGraphExecUpdateResultInfo info;
    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    OK(small_add(x, N, 10, s));
    OK(small_scale(x, N, 3, s));
    OK(cudaStreamEndCapture(s, &graph));
    OK(cudaGraphExecUpdate(exec, graph, &info));
    OK(cudaGraphDestroy(graph));
    OK(cudaGraphLaunch(exec, s)); /* (16 + 10) * 3 = 78 */
    OK(cudaStreamSynchronize(s));
    cr_expect(last_of(x, N) == 78);
    /* Another shape: refused. */
    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    OK(small_scale(x, N, 3, s));
    OK(cudaStreamEndCapture(s, &graph));
    GIVES(cudaErrorGraphExecUpdateFailure,
          cudaGraphExecUpdate(exec, graph, &info));
    cr_expect(info.result == cudaGraphExecUpdateErrorTopologyChanged);
    OK(cudaGraphDestroy(graph));
    OK(cudaGraphExecDestroy(exec));
    OK(cudaStreamDestroy(s));
}

/* Fork and join inside a capture; without the edge the result is not the
 * same under all seeds. */
static float forked(uint64_t seed, bool edge) {
    simt_seed(seed);
    cudaStream_t a, b;
    cudaEvent_t begun, done;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    OK(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
    OK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
    OK(cudaEventCreateWithFlags(&begun, cudaEventDisableTiming));
    OK(cudaEventCreateWithFlags(&done, cudaEventDisableTiming));
    float *x = device_floats(N);
    OK(small_set(x, N, 1, a));
    OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
    if (!edge) OK(cudaEventRecord(begun, a));
    OK(small_add(x, N, 1, a));
    if (edge) OK(cudaEventRecord(begun, a));
    OK(cudaStreamWaitEvent(b, begun, 0));
    OK(small_scale(x, N, 10, b));
    OK(cudaEventRecord(done, b));
    OK(cudaStreamWaitEvent(a, done, 0));
    OK(cudaStreamEndCapture(a, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphLaunch(exec, a));
    OK(cudaStreamSynchronize(a));
    OK(cudaGraphDestroy(graph));
    OK(cudaGraphExecDestroy(exec));
    OK(cudaEventDestroy(begun));
    OK(cudaEventDestroy(done));
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
    return last_of(x, N);
}

Test(simt_graphs, edges) {
    int wrong = 0;
    for (uint64_t seed = 0; seed < 12; seed++) {
        cr_expect(forked(seed, true) == 20);
        wrong += forked(seed, false) != 20;
    }
    cr_expect(gt(int, wrong, 0));
}

Test(simt_graphs, refusals) {
    cudaStream_t s, other;
    cudaEvent_t e;
    cudaGraph_t graph;
    void *p;
    OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    OK(cudaEventCreate(&e));
    float *x = device_floats(N);
    GIVES(cudaErrorStreamCaptureUnsupported,
          cudaStreamBeginCapture(NULL, cudaStreamCaptureModeGlobal));
    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    GIVES(cudaErrorStreamCaptureUnsupported, cudaStreamSynchronize(s));
    GIVES(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(s, &graph));
    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    GIVES(cudaErrorStreamCaptureUnsupported, cudaMalloc(&p, 4));
    GIVES(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(s, &graph));
    /* An event from outside. */
    OK(cudaEventRecord(e, other));
    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    GIVES(cudaErrorStreamCaptureIsolation, cudaStreamWaitEvent(s, e, 0));
    GIVES(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(s, &graph));
    /* A fork that does not come back. */
    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    OK(cudaEventRecord(e, s));
    OK(cudaStreamWaitEvent(other, e, 0));
    OK(small_set(x, N, 1, other));
    GIVES(cudaErrorStreamCaptureUnjoined, cudaStreamEndCapture(s, &graph));
    /* Afterwards both are ordinary streams. */
    OK(small_set(x, N, 4, other));
    OK(cudaStreamSynchronize(other));
    cr_expect(last_of(x, N) == 4);
    OK(cudaEventDestroy(e));
    OK(cudaStreamDestroy(s));
    OK(cudaStreamDestroy(other));
}

/* ---------------------------------------------------------------- launches */

Test(simt_launches, limits) {
    GIVES(cudaErrorInvalidConfiguration, small_blocks(1, 1025));
    GIVES(cudaErrorInvalidConfiguration, small_blocks(1, dim3(32, 33)));
    GIVES(cudaErrorInvalidConfiguration, small_blocks(1, dim3(1, 1, 65)));
    GIVES(cudaErrorInvalidConfiguration, small_blocks(0, 1));
    GIVES(cudaErrorInvalidConfiguration, small_blocks(dim3(1, 65536), 1));
    GIVES(cudaErrorInvalidConfiguration, cudaGetLastError());
    GIVES(cudaSuccess, cudaGetLastError());
    OK(small_blocks(dim3(3, 2, 2), dim3(8, 4, 32)));
    OK(cudaDeviceSynchronize());
}

Test(simt_launches, shared_memory) {
    OK(small_dynamic(48 << 10, 0));
    GIVES(cudaErrorInvalidValue, small_dynamic((48 << 10) + 1, 0));
    OK(small_dynamic(163 << 10, 163 << 10));
    GIVES(cudaErrorInvalidValue, small_dynamic(1, (163 << 10) + 1));
    simt_set_capability(8, 6);
    GIVES(cudaErrorInvalidValue, small_dynamic(1, (99 << 10) + 1));
    simt_set_capability(9, 0);
    OK(small_dynamic(227 << 10, 227 << 10));
    OK(cudaDeviceSynchronize());
    OK(small_static(8 << 10));
    OK(cudaDeviceSynchronize());
    outcome got = run_child(1, [] {
        small_static((8 << 10) + 16);
        return (int)cudaDeviceSynchronize();
    });
    cr_expect(eq(int, got.status, -1));
    cr_expect(strstr(got.text, "small.cu:") != NULL, "%s", got.text);
}

Test(simt_launches, watchdog) {
    simt_set_watchdog(0.3);
    outcome got = run_child(0, [] {
        small_spin();
        return (int)cudaDeviceSynchronize();
    });
    cr_expect(eq(int, got.status, -1));
    cr_expect(strstr(got.text, "watchdog") != NULL, "%s", got.text);
    cr_expect(strstr(got.text, "small.cu:") != NULL, "%s", got.text);
}

Test(simt_launches, trap) {
    outcome got = run_child(0, [] {
        small_trap();
        return (int)cudaDeviceSynchronize();
    });
    cr_expect(eq(int, got.status, -1));
    cr_expect(strstr(got.text, "__trap") != NULL, "%s", got.text);
}

/* ------------------------------------------------------ collectives, atomics
 */

Test(simt_warps, votes_by_halves) {
    void *p;
    OK(cudaMalloc(&p, 128 * sizeof(unsigned)));
    for (uint64_t seed = 0; seed < 12; seed++) {
        simt_seed(seed);
        unsigned out[128];
        OK(small_votes((unsigned *)p));
        OK(cudaMemcpy(out, p, sizeof out, cudaMemcpyDeviceToHost));
        for (unsigned lane = 0; lane < 32; lane++) {
            bool low = lane < 16;
            cr_expect(eq(u32, out[lane], low ? 0x9249u : 0x49240000u));
            cr_expect(eq(u32, out[32 + lane], low ? 120 : 376));
            cr_expect(eq(u32, out[64 + lane], low ? 15u << 8 : 31u << 8 | 16));
            cr_expect(eq(u32, out[96 + lane], low ? 1 : 2));
        }
    }
}

Test(simt_warps, shuffles) {
    void *p;
    OK(cudaMalloc(&p, sizeof(int)));
    for (uint64_t seed = 0; seed < 12; seed++) {
        simt_seed(seed);
        int bad = -1;
        OK(cudaMemset(p, 0, sizeof bad));
        OK(small_shuffles((int *)p));
        OK(cudaMemcpy(&bad, p, sizeof bad, cudaMemcpyDeviceToHost));
        cr_expect(eq(int, bad, 0));
    }
}

Test(simt_warps, atomics) {
    void *p;
    OK(cudaMalloc(&p, 7 * sizeof(unsigned)));
    unsigned got[7], begin[7] = {0, 0, 999, 0, 0xffff, 0, 7};
    OK(cudaMemcpy(p, begin, sizeof begin, cudaMemcpyHostToDevice));
    OK(small_atomics((unsigned *)p));
    OK(cudaMemcpy(got, p, sizeof got, cudaMemcpyDeviceToHost));
    unsigned want[7] = {256, 127, 0, 0xffffffffu, 0xff00, 0, 100};
    for (int i = 0; i < 7; i++) cr_expect(eq(u32, got[i], want[i]));
}

/* Partial masks order their lanes, and only those. */
Test(simt_warps, syncwarp_by_halves) {
    for (uint64_t seed = 0; seed < 20; seed++) {
        auto run = [](bool defect) {
            void *p;
            return cudaMalloc(&p, 32 * sizeof(float)) ||
                   small_half_warps((float *)p, defect) ||
                   cudaDeviceSynchronize();
        };
        outcome good = run_child(seed, [run] { return run(false); });
        cr_expect(eq(int, good.status, 0), "seed %d: %s", (int)seed, good.text);
        if (!built("race") || seed >= 12) continue;
        outcome bad = run_child(seed, [run] { return run(true); });
        cr_expect(eq(int, bad.status, -1), "seed %d", (int)seed);
        cr_expect(strstr(bad.text, "small.cu:") != NULL, "%s", bad.text);
    }
}

/* ----------------------------------------------------------------- devices */

Test(simt_devices, none) {
    simt_set_devices(0);
    int n = -1;
    void *p;
    GIVES(cudaErrorNoDevice, cudaGetDeviceCount(&n));
    cr_expect(eq(int, n, 0));
    GIVES(cudaErrorNoDevice, cudaMalloc(&p, 4));
    GIVES(cudaErrorNoDevice, small_blocks(1, 1));
    cr_expect(eq(str, (char *)cudaGetErrorString(cudaErrorNoDevice),
                 (char *)"no CUDA-capable device is detected"));
    cr_expect(eq(str, (char *)cudaGetErrorName(cudaErrorNoDevice),
                 (char *)"cudaErrorNoDevice"));
}

Test(simt_devices, several) {
    simt_set_devices(3);
    int n, now;
    OK(cudaGetDeviceCount(&n));
    cr_expect(eq(int, n, 3));
    float *first = device_floats(N);
    GIVES(cudaErrorInvalidDevice, cudaSetDevice(3));
    OK(cudaSetDevice(2));
    OK(cudaGetDevice(&now));
    cr_expect(eq(int, now, 2));
    float *third = device_floats(N);
    cudaPointerAttributes of;
    OK(cudaPointerGetAttributes(&of, third));
    cr_expect(eq(int, of.device, 2));
    cudaStream_t s;
    OK(cudaStreamCreate(&s));
    OK(small_set(third, N, 5, s));
    OK(cudaMemcpyPeerAsync(first, 0, third, 2, N * sizeof(float), s));
    OK(cudaDeviceSynchronize());
    cr_expect(last_of(first, N) == 5);
    OK(cudaSetDevice(0));
    GIVES(cudaErrorInvalidResourceHandle, small_set(first, N, 1, s));
    OK(cudaStreamDestroy(s));
    if (!built("race")) return;
    outcome got = run_child(1, [third] {
        small_set(third, N, 1, NULL);
        return (int)cudaDeviceSynchronize();
    });
    cr_expect(strstr(got.text, "device 2's memory on device 0") != NULL, "%s",
              got.text);
}

Test(simt_devices, attributes) {
    int value = -1;
    OK(cudaDeviceGetAttribute(&value, cudaDevAttrWarpSize, 0));
    cr_expect(eq(int, value, 32));
    GIVES(cudaErrorInvalidValue,
          cudaDeviceGetAttribute(&value, cudaDevAttrIsMultiGpuBoard, 0));
    cudaDeviceProp prop;
    OK(cudaGetDeviceProperties(&prop, 0));
    cr_expect(eq(int, prop.major, 8));
    cr_expect(eq(int, prop.warpSize, 32));
    GIVES(cudaErrorInvalidDevice, cudaGetDeviceProperties(&prop, 1));
}

/* An error that surfaces late. */
Test(simt_devices, injected_error) {
    float *x = device_floats(N);
    OK(small_set(x, N, 1, NULL));
    simt_fail_next_sync(cudaErrorIllegalAddress);
    GIVES(cudaErrorIllegalAddress, cudaDeviceSynchronize());
    OK(cudaDeviceSynchronize());
}
