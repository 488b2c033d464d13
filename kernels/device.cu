/* device.cu - a device's state: opening it, its memory, and CUDA's error codes
 * as sentences. */
#include "cuda.cuh"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ errors */

ks_status ks__cuda_status(cudaError_t error, const char *op, ks_err *err) {
    if (error == cudaSuccess) return KS_OK;
    (void)cudaGetLastError(); /* or a later check would find it again */
    ks_status code =
        error == cudaErrorMemoryAllocation ? KS_NOMEM : KS_INTERNAL;
    return ks_fail(err, code, "%s: CUDA says: %s (%s)", op,
                   cudaGetErrorString(error), cudaGetErrorName(error));
}

/* ------------------------------------------------------------------ memory */

/* How much was wanted for what, how much of what there is is taken, and what
 * lowers the one or raises the other. */
static ks_status no_memory(const ks_dev *dev, size_t size, const char *what,
                           ks_err *err) {
    if (dev->limited)
        return ks_fail(err, KS_NOMEM,
                       "no device memory for %s: %zu bytes wanted, %zu of the "
                       "%zu that --memory allows are taken; a smaller "
                       "--batch-tokens needs less, a larger --memory allows "
                       "more",
                       what, size, dev->in_use, dev->memory);
    size_t unused = 0, total = 0;
    (void)cudaMemGetInfo(&unused, &total);
    return ks_fail(err, KS_NOMEM,
                   "no device memory for %s: %zu bytes wanted, %zu taken here, "
                   "%zu of the device's %zu free; a smaller --batch-tokens or "
                   "--memory needs less",
                   what, size, dev->in_use, unused, dev->memory);
}

ks_status ks__cuda_take(ks_dev *dev, void **out, size_t size, const char *what,
                        ks_err *err) {
    *out = NULL;
    if (size == 0) return KS_OK;
    if (size > dev->memory - dev->in_use)
        return no_memory(dev, size, what, err);
    ks_status st =
        ks_grow(&dev->taken, &dev->taken_room, dev->n_taken + 1,
                sizeof *dev->taken, "the list of device memory", err);
    if (st != KS_OK) return st;
    cudaError_t error =
        cudaMallocFromPoolAsync(out, size, dev->pool, dev->stream);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return no_memory(dev, size, what, err);
    }
    KS_CUDA_TRY(error, what);
    dev->taken[dev->n_taken++] = {*out, size};
    dev->in_use += size;
    return KS_OK;
}

void ks__cuda_give(ks_dev *dev, void *scratch) {
    if (!scratch) return;
    /* Scratch goes back last in, first out: it is found at once. */
    for (size_t i = dev->n_taken; i-- > 0;) {
        if (dev->taken[i].data != scratch) continue;
        dev->in_use -= dev->taken[i].size;
        dev->taken[i] = dev->taken[--dev->n_taken];
        (void)ks__cuda_status(cudaFreeAsync(scratch, dev->stream), "free",
                              NULL);
        return;
    }
}

/* ----------------------------------------------------------- open and close */

static ks_status learn(ks_dev *dev, size_t memory, ks_err *err) {
    cudaDeviceProp p;
    KS_CUDA_TRY(cudaGetDeviceProperties(&p, dev->ordinal), "open");
    dev->sm = p.major * 10 + p.minor;
    dev->n_sm = p.multiProcessorCount;
    dev->shared_most = p.sharedMemPerBlockOptin;
    dev->limited = memory != 0;
    dev->memory = memory ? memory : p.totalGlobalMem;
    snprintf(dev->isa, sizeof dev->isa, "sm_%d", dev->sm);
    if (dev->sm < 80)
        return ks_fail(err, KS_UNSUPPORTED,
                       "device %d (%s) has compute capability %d.%d; the "
                       "kernels need 8.0 or later",
                       dev->ordinal, p.name, p.major, p.minor);
    if (memory > p.totalGlobalMem)
        return ks_fail(err, KS_LIMIT,
                       "--memory %zu is more than the %zu bytes of device %d "
                       "(%s)",
                       memory, p.totalGlobalMem, dev->ordinal, p.name);
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
    KS_CUDA_TRY(cudaStreamCreateWithFlags(&dev->stream, cudaStreamNonBlocking),
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
    ks_status st = learn(dev, memory, err);
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

void ks__cuda_close(ks_dev **dev) {
    ks_dev *d = *dev;
    if (!d) return;
    while (d->n_taken) ks__cuda_give(d, d->taken[d->n_taken - 1].data);
    if (d->stream) (void)cudaStreamSynchronize(d->stream);
    if (d->stream) (void)cudaStreamDestroy(d->stream);
    if (d->pool) (void)cudaMemPoolDestroy(d->pool);
    free(d->taken);
    free(d);
    *dev = NULL;
}
