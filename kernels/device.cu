/* device.cu - a device's state: opening it, its memory, and CUDA's error codes
 * as sentences. */
#include "cuda.cuh"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ errors */

/* Ops that the calling thread has queued lately, the latest last. */
enum { RECENT = 6 };
static thread_local const char *recent[RECENT];

static void note(const char *op) {
    if (recent[RECENT - 1] && strcmp(recent[RECENT - 1], op) == 0) return;
    memmove(recent, recent + 1, (RECENT - 1) * sizeof *recent);
    recent[RECENT - 1] = op;
}

ks_status ks__cuda_status(cudaError_t error, const char *op, ks_err *err) {
    if (error == cudaSuccess) {
        note(op);
        return KS_OK;
    }
    (void)cudaGetLastError(); /* or a later check would find it again */
    ks_status code =
        error == cudaErrorMemoryAllocation ? KS_NOMEM : KS_INTERNAL;
    return ks_fail(err, code, "%s: CUDA says: %s (%s)", op,
                   cudaGetErrorString(error), cudaGetErrorName(error));
}

ks_status ks__cuda_late(cudaError_t error, const char *op, ks_err *err) {
    if (error == cudaSuccess) return KS_OK;
    (void)cudaGetLastError();
    char ops[200] = "";
    for (int i = 0; i < RECENT; i++)
        if (recent[i] && strlen(ops) + strlen(recent[i]) + 3 < sizeof ops)
            strcat(strcat(ops, ops[0] ? ", " : ""), recent[i]);
    return ks_fail(err, KS_INTERNAL,
                   "%s: CUDA says: %s (%s); the fault lies in what was queued "
                   "before, lately: %s; with CUDA_LAUNCH_BLOCKING=1 the op "
                   "itself fails",
                   op, cudaGetErrorString(error), cudaGetErrorName(error), ops);
}

/* ------------------------------------------------------------------ memory */

/* How much was wanted for what, how much of what there is is taken, and what
 * lowers the one or raises the other. */
static ks_status no_memory(const ks_dev *dev, size_t size, const char *what,
                           ks_err *err) {
    const char *less = dev->less ? dev->less : "";
    const char *mark = dev->less ? "; " : "";
    if (dev->limited)
        return ks_fail(err, KS_NOMEM,
                       "no device memory for %s: %zu bytes wanted, %zu of the "
                       "%zu that --memory allows are taken%s%s; a larger "
                       "--memory allows more",
                       what, size, dev->in_use, dev->memory, mark, less);
    size_t unused = 0, total = 0;
    (void)cudaMemGetInfo(&unused, &total);
    return ks_fail(err, KS_NOMEM,
                   "no device memory for %s: %zu bytes wanted, %zu taken here, "
                   "%zu of the device's %zu free%s%s",
                   what, size, dev->in_use, unused, dev->memory, mark, less);
}

/* Memory that `stream` may use from here on, counted and listed. */
static ks_status take(ks_dev *dev, void **out, size_t size, cudaStream_t stream,
                      const char *what, ks_err *err) {
    if (size > dev->memory - dev->in_use)
        return no_memory(dev, size, what, err);
    ks_status st =
        ks_grow(&dev->taken, &dev->taken_room, dev->n_taken + 1,
                sizeof *dev->taken, "the list of device memory", err);
    if (st != KS_OK) return st;
    cudaError_t error = cudaMallocFromPoolAsync(out, size, dev->pool, stream);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return no_memory(dev, size, what, err);
    }
    KS_CUDA_TRY(error, what);
    dev->taken[dev->n_taken++] = {*out, size};
    dev->in_use += size;
    return KS_OK;
}

/* A recording cannot allocate: its memory comes from the side stream, which
 * ks__cuda_recorded waits for, and must not move as long as it is replayed. */
static ks_status take_recording(ks_dev *dev, void **out, size_t size,
                                const char *what, ks_err *err) {
    struct ks_graph *g = dev->recording;
    struct ks__segment *best = NULL;
    for (size_t i = 0; i < g->n_blocks; i++) {
        struct ks__segment *b = &g->blocks[i];
        if (!b->busy && b->size >= size && (!best || b->size < best->size))
            best = b;
    }
    if (!best) {
        ks_status st = ks_grow(&g->blocks, &g->room, g->n_blocks + 1,
                               sizeof *g->blocks, "a graph's memory", err);
        if (st == KS_OK) st = take(dev, out, size, dev->side, what, err);
        if (st != KS_OK) return st;
        best = &g->blocks[g->n_blocks++];
        *best = {*out, size, false};
    }
    best->busy = true;
    *out = best->data;
    return KS_OK;
}

ks_status ks__cuda_take(ks_dev *dev, void **out, size_t size, const char *what,
                        ks_err *err) {
    *out = NULL;
    if (size == 0) return KS_OK;
    return dev->recording ? take_recording(dev, out, size, what, err)
                          : take(dev, out, size, dev->stream, what, err);
}

void ks__cuda_give(ks_dev *dev, void *scratch) {
    if (!scratch) return;
    struct ks_graph *g = dev->recording;
    for (size_t i = 0; g && i < g->n_blocks; i++) {
        if (g->blocks[i].data != scratch) continue;
        g->blocks[i].busy = false;
        return;
    }
    /* Scratch goes back last in, first out: it is found at once. */
    for (size_t i = dev->n_taken; i-- > 0;) {
        if (dev->taken[i].data != scratch) continue;
        dev->in_use -= dev->taken[i].size;
        dev->taken[i] = dev->taken[--dev->n_taken];
        (void)cudaFreeAsync(scratch, dev->stream);
        return;
    }
}

/* ----------------------------------------------------------- open and close */

ks_status ks__cuda_limit(ks_dev *dev, size_t memory, const char *less,
                         ks_err *err) {
    cudaDeviceProp p;
    KS_CUDA_TRY(cudaGetDeviceProperties(&p, dev->ordinal), "open");
    if (memory > p.totalGlobalMem)
        return ks_fail(err, KS_LIMIT,
                       "--memory %zu is more than the %zu bytes of device %d "
                       "(%s)",
                       memory, p.totalGlobalMem, dev->ordinal, p.name);
    if (memory && memory < dev->in_use)
        return ks_fail(err, KS_LIMIT,
                       "--memory %zu is less than the %zu bytes in use on "
                       "device %d (%s)",
                       memory, dev->in_use, dev->ordinal, p.name);
    dev->limited = memory != 0;
    dev->less = less;
    dev->memory = memory ? memory : p.totalGlobalMem;
    return KS_OK;
}

static ks_status learn(ks_dev *dev, ks_err *err) {
    cudaDeviceProp p;
    KS_CUDA_TRY(cudaGetDeviceProperties(&p, dev->ordinal), "open");
    dev->sm = p.major * 10 + p.minor;
    dev->n_sm = p.multiProcessorCount;
    dev->shared_most = p.sharedMemPerBlockOptin;
    snprintf(dev->isa, sizeof dev->isa, "sm_%d", dev->sm);
    if (dev->sm < 80)
        return ks_fail(err, KS_UNSUPPORTED,
                       "device %d (%s) has compute capability %d.%d; the "
                       "kernels need 8.0 or later",
                       dev->ordinal, p.name, p.major, p.minor);
    return KS_OK;
}

/* What is given back stays with the pool, to be taken again without a call to
 * the driver. */
static ks_status make_pool(ks_dev *dev, ks_err *err) {
    cudaMemPoolProps props = {};
    props.allocType = cudaMemAllocationTypePinned;
    props.location.type = cudaMemLocationTypeDevice;
    props.location.id = dev->ordinal;
    KS_CUDA_TRY(cudaMemPoolCreate(&dev->pool, &props), "open");
    uint64_t keep = UINT64_MAX;
    KS_CUDA_TRY(cudaMemPoolSetAttribute(dev->pool,
                                        cudaMemPoolAttrReleaseThreshold, &keep),
                "open");
    /* Apart from the default stream, which is the whole process's. */
    for (cudaStream_t *stream : {&dev->stream, &dev->side})
        KS_CUDA_TRY(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking),
                    "open");
    return KS_OK;
}

static ks_status open_device(ks_dev *dev, int ordinal, size_t memory,
                             ks_err *err) {
    int count = 0;
    KS_CUDA_TRY(cudaGetDeviceCount(&count), "open");
    if (ordinal < 0 || ordinal >= count)
        return ks_fail(err, KS_USAGE,
                       "there is no CUDA device %d: 0 to %d are "
                       "here",
                       ordinal, count - 1);
    dev->ordinal = ordinal;
    KS_CUDA_TRY(cudaSetDevice(ordinal), "open");
    ks_status st = learn(dev, err);
    if (st == KS_OK) st = ks__cuda_limit(dev, memory, NULL, err);
    return st == KS_OK ? make_pool(dev, err) : st;
}

ks_status ks__cuda_open(ks_dev **out, int ordinal, size_t memory, ks_err *err) {
    ks_dev *dev = NULL;
    *out = NULL;
    ks_status st = ks_alloc(&dev, 1, sizeof *dev, "the CUDA backend", err);
    if (st != KS_OK) return st;
    st = open_device(dev, ordinal, memory, err);
    if (st == KS_OK)
        *out = dev;
    else
        ks__cuda_close(&dev);
    return st;
}

/* CUDA destroys streams and the pool once what is queued on them is done; who
 * copies beside the ops has waited for that (ks__cuda_copies_close). */
void ks__cuda_close(ks_dev **dev) {
    ks_dev *d = *dev;
    if (!d) return;
    (void)cudaSetDevice(d->ordinal);
    while (d->n_taken) ks__cuda_give(d, d->taken[d->n_taken - 1].data);
    if (d->stream) (void)cudaStreamDestroy(d->stream);
    if (d->side) (void)cudaStreamDestroy(d->side);
    if (d->pool) (void)cudaMemPoolDestroy(d->pool);
    free(d->taken);
    free(d);
    *dev = NULL;
}
