/* runtime_stream.cpp - streams, events, launches, host functions. */
#include <dlfcn.h>
#include <map>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "runtime.h"

std::recursive_mutex simt_mutex;

namespace {

std::set<CUstream_st *> streams; /* live ones, the default ones too */
CUstream_st *defaults[4];
int injected;

} // namespace

static CUstream_st *new_stream(int device, bool blocking) {
    CUstream_st *s = new CUstream_st{};
    s->device = device;
    s->blocking = blocking;
    streams.insert(s);
    return s;
}

static CUstream_st *default_stream(int device) {
    if (!defaults[device]) defaults[device] = new_stream(device, true);
    return defaults[device];
}

CUstream_st *simt_stream(cudaStream_t handle, uintptr_t caller) {
    if (!handle || handle == cudaStreamLegacy)
        return default_stream(simt_device_now());
    if (streams.count(handle)) return handle;
    simt_complain_pc(caller, "no such stream (%p)", (void *)handle);
    return NULL;
}

/* ------------------------------------------------------------------- queue */

static void step(CUstream_st *s) {
    simt_work work = std::move(s->queue.front());
    s->queue.pop_front();
    simt_memory_unlock();
    work();
    simt_memory_lock();
    s->popped++;
}

static void run_to(CUstream_st *s, uint64_t mark) {
    while (s->popped < mark && !s->queue.empty()) step(s);
}

static void push(CUstream_st *s, simt_work work) {
    s->queue.push_back(std::move(work));
    s->pushed++;
}

/* The default stream and the blocking ones of a device wait for each other. */
static void push_order(CUstream_st *s) {
    CUstream_st *d = defaults[s->device];
    if (!s->blocking) return;
    if (s != d) {
        if (!d || d->queue.empty()) return;
        uint64_t mark = d->pushed;
        push(s, [d, mark] { run_to(d, mark); });
        return;
    }
    for (CUstream_st *other : streams) {
        if (other == d || !other->blocking || other->device != d->device ||
            other->queue.empty())
            continue;
        uint64_t mark = other->pushed;
        push(d, [other, mark] {
            if (streams.count(other)) run_to(other, mark);
        });
    }
}

cudaError_t simt_submit(CUstream_st *s, const void *kind, simt_work work) {
    if (s->graph) {
        s->graph->nodes.push_back({std::move(work), kind, s->tail});
        s->tail = {(int)s->graph->nodes.size() - 1};
        return cudaSuccess;
    }
    push_order(s);
    push(s, std::move(work));
    return cudaSuccess;
}

void simt_drain(CUstream_st *s) {
    while (!s->queue.empty()) step(s);
}

/* Independent streams advance in an order drawn from the seed. */
void simt_drain_device(int device) {
    for (;;) {
        std::vector<CUstream_st *> busy;
        for (CUstream_st *s : streams)
            if (s->device == device && !s->queue.empty()) busy.push_back(s);
        if (busy.empty()) return;
        step(busy[simt_random((uint32_t)busy.size())]);
    }
}

cudaError_t simt_sync_result(void) {
    int error = injected;
    injected = 0;
    return simt_error((cudaError_t)error);
}

void simt_fail_next_sync(int error) {
    injected = error;
}

bool simt_capture_forbids(void) {
    bool forbids = false;
    for (CUstream_st *s : streams)
        if (s->graph && !s->relaxed) s->broken = forbids = true;
    return forbids;
}

void simt_each_stream_of(CUgraph_st *graph, void (*call)(CUstream_st *)) {
    for (CUstream_st *s : streams)
        if (s->graph == graph) call(s);
}

/* ----------------------------------------------------------------- streams */

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags,
                                         int) {
    SIMT_API;
    if (!simt_device_count) return simt_error(cudaErrorNoDevice);
    *out = new_stream(simt_device_now(), !(flags & cudaStreamNonBlocking));
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    return cudaStreamCreateWithPriority(out, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t *out) {
    return cudaStreamCreateWithPriority(out, 0, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
    SIMT_API;
    CUstream_st *s = handle ? simt_stream(handle, SIMT_CALLER) : NULL;
    if (!s) return simt_error(cudaErrorInvalidResourceHandle);
    simt_drain(s);
    streams.erase(s);
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    SIMT_API;
    CUstream_st *s = simt_stream(handle, SIMT_CALLER);
    if (!s) return simt_error(cudaErrorInvalidResourceHandle);
    if (s->graph) {
        s->broken = true;
        simt_complain_pc(SIMT_CALLER, "synchronisation of a stream under "
                                      "capture");
        return simt_error(cudaErrorStreamCaptureUnsupported);
    }
    push_order(s);
    simt_drain(s);
    return simt_sync_result();
}

/* A poll makes some progress, so that a loop of them ends. */
cudaError_t cudaStreamQuery(cudaStream_t handle) {
    SIMT_API;
    CUstream_st *s = simt_stream(handle, SIMT_CALLER);
    if (!s) return simt_error(cudaErrorInvalidResourceHandle);
    if (s->queue.empty()) return cudaSuccess;
    step(s);
    return cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void) {
    SIMT_API;
    if (!simt_device_count) return simt_error(cudaErrorNoDevice);
    if (simt_capture_forbids())
        return simt_error(cudaErrorStreamCaptureUnsupported);
    simt_drain_device(simt_device_now());
    return simt_sync_result();
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t fn,
                               void *arg) {
    SIMT_API;
    CUstream_st *s = simt_stream(handle, SIMT_CALLER);
    if (!s) return simt_error(cudaErrorInvalidResourceHandle);
    return simt_submit(s, (const void *)fn, [fn, arg] { fn(arg); });
}

/* ------------------------------------------------------------------ events */

static double clock_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    SIMT_API;
    if (!simt_device_count) return simt_error(cudaErrorNoDevice);
    auto state = std::make_shared<simt_event_state>();
    state->timing = !(flags & cudaEventDisableTiming);
    state->device = simt_device_now();
    *out = new CUevent_st{state};
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *out) {
    return cudaEventCreateWithFlags(out, 0);
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    SIMT_API;
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
    SIMT_API;
    CUstream_st *s = simt_stream(stream, SIMT_CALLER);
    if (!s || !handle) return simt_error(cudaErrorInvalidResourceHandle);
    std::shared_ptr<simt_event_state> e = handle->state;
    if (e->device != s->device)
        return simt_error(cudaErrorInvalidResourceHandle);
    e->graph = s->graph;
    e->nodes = s->tail;
    if (s->graph) return cudaSuccess;
    e->stream = s;
    uint64_t record = ++e->issued;
    return simt_submit(s, NULL, [e, record] {
        e->done = record;
        e->time = clock_ms();
    });
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned) {
    return cudaEventRecord(e, s);
}

void simt_reach(simt_event_state *e, uint64_t record) {
    while (e->done < record && streams.count(e->stream) &&
           !e->stream->queue.empty())
        step(e->stream);
}

/* The capture that an event was recorded in, while it lasts. */
static bool in_capture(simt_event_state *e) {
    bool lasts = false;
    for (CUstream_st *s : streams)
        lasts = lasts || (e->graph && s->graph == e->graph);
    if (!lasts) e->graph = NULL;
    return lasts;
}

/* A captured event draws the waiting stream into its capture. */
static cudaError_t wait_in_capture(CUstream_st *s, const simt_event_state *e) {
    if (!e->graph || (s->graph && s->graph != e->graph)) {
        s->broken = true;
        return simt_error(cudaErrorStreamCaptureIsolation);
    }
    if (!s->graph) {
        s->graph = e->graph;
        for (CUstream_st *o : streams)
            if (o->graph == e->graph && o->origin == o) s->origin = o;
        s->relaxed = s->origin && s->origin->relaxed;
        s->tail.clear();
    }
    s->tail.insert(s->tail.end(), e->nodes.begin(), e->nodes.end());
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle,
                                unsigned) {
    SIMT_API;
    CUstream_st *s = simt_stream(stream, SIMT_CALLER);
    if (!s || !handle) return simt_error(cudaErrorInvalidResourceHandle);
    std::shared_ptr<simt_event_state> e = handle->state;
    bool captured = in_capture(e.get());
    if (s->graph || captured) return wait_in_capture(s, e.get());
    uint64_t record = e->issued;
    return simt_submit(s, NULL, [e, record] { simt_reach(e.get(), record); });
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
    SIMT_API;
    if (!handle) return simt_error(cudaErrorInvalidResourceHandle);
    if (in_capture(handle->state.get()))
        return simt_error(cudaErrorCapturedEvent);
    simt_reach(handle->state.get(), handle->state->issued);
    return simt_sync_result();
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
    SIMT_API;
    if (!handle) return simt_error(cudaErrorInvalidResourceHandle);
    simt_event_state *e = handle->state.get();
    if (e->done >= e->issued) return cudaSuccess;
    if (!e->stream->queue.empty()) step(e->stream);
    return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) {
    SIMT_API;
    if (!a || !b || !a->state->timing || !b->state->timing ||
        !a->state->issued || !b->state->issued)
        return simt_error(cudaErrorInvalidResourceHandle);
    if (a->state->done < a->state->issued || b->state->done < b->state->issued)
        return cudaErrorNotReady;
    *ms = (float)(b->state->time - a->state->time);
    return cudaSuccess;
}

/* ------------------------------------------------------------------ launch */

size_t simt_shared_limit(const void *kernel); /* runtime_device.cpp */

static cudaError_t check_launch(const void *kernel, dim3 g, dim3 b,
                                size_t shared, simt_site at) {
    uint64_t threads = (uint64_t)b.x * b.y * b.z;
    if (!threads || b.x > 1024 || b.y > 1024 || b.z > 64 ||
        threads > SIMT_MAX_THREADS) {
        simt_complain(at, "launch with blocks of %u x %u x %u threads: 1 to %d",
                      b.x, b.y, b.z, SIMT_MAX_THREADS);
        return cudaErrorInvalidConfiguration;
    }
    if (!g.x || !g.y || !g.z || g.x > 0x7fffffffu || g.y > 65535 ||
        g.z > 65535) {
        simt_complain(at,
                      "launch with a grid of %u x %u x %u: 1 to 2147483647 "
                      "x 65535 x 65535",
                      g.x, g.y, g.z);
        return cudaErrorInvalidConfiguration;
    }
    if (shared > simt_shared_limit(kernel)) {
        simt_complain(at,
                      "launch with %zu bytes of dynamic shared memory: the "
                      "kernel may have %zu (cudaFuncSetAttribute)",
                      shared, simt_shared_limit(kernel));
        return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}

/* A line "program address bytes" for $KS_SIMT_SHARED, each once a process. */
static void note_shared(const void *kernel, size_t shared) {
    static const char *const path = getenv("KS_SIMT_SHARED");
    static std::map<const void *, size_t> noted;
    Dl_info info;
    if (!path || !shared || noted[kernel] >= shared || !dladdr(kernel, &info))
        return;
    noted[kernel] = shared;
    char program[4096];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program);
    FILE *out = fopen(path, "a");
    if (!out) return;
    fprintf(out, "%.*s %#zx %zu\n", (int)n, program,
            (size_t)((uintptr_t)kernel - (uintptr_t)info.dli_fbase), shared);
    fclose(out);
}

cudaError_t simt_launch(const void *kernel, const char *text, dim3 grid,
                        dim3 block, size_t shared, cudaStream_t stream,
                        simt_call call, const char *file, int line) {
    SIMT_API;
    std::shared_ptr<void> args(call.args, call.drop);
    simt_site at = {file, line};
    if (!simt_device_count) return simt_error(cudaErrorNoDevice);
    CUstream_st *s = simt_stream(stream, SIMT_CALLER);
    if (!s || s->device != simt_device_now()) {
        if (s)
            simt_complain(at,
                          "launch on a stream of device %d while device %d "
                          "is set",
                          s->device, simt_device_now());
        return simt_error(cudaErrorInvalidResourceHandle);
    }
    cudaError_t error = check_launch(kernel, grid, block, shared, at);
    if (error) return simt_error(error);
    note_shared(kernel, shared);
    simt_launch_spec spec = {text,     at,        grid,
                             block,    shared,    simt_shared_limit(kernel),
                             call.run, call.args, call.size,
                             s->device};
    return simt_submit(s, kernel, [spec, args] { simt_run_grid(&spec); });
}

extern "C" int simt_library_submit(cudaStream_t stream, const void *kind,
                                   simt_work work) {
    SIMT_API;
    CUstream_st *s = simt_stream(stream, SIMT_CALLER);
    if (!s) return (int)simt_error(cudaErrorInvalidResourceHandle);
    return (int)simt_submit(s, kind, std::move(work));
}
