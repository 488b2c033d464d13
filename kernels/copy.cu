/* copy.cu - memory slots: copies in the order of the ops, and copies to pinned
 * host memory beside them. */
#include "cuda.cuh"
#include "cuda_ops.h"

#include <stdlib.h>
#include <string.h>

/* Host memory is read through pinned stages: a copy straight from pageable
 * memory would wait for the stream, and the caller may change his bytes as soon
 * as copy returns. Eight of 256 KiB: the ninth waits for the first. Tickets
 * have an event each, used again after TICKETS more. */
enum { STAGES = 8, STAGE_BYTES = 256 << 10, TICKETS = 16 };

struct ks__copies {
    char *stages;              /* [STAGES, STAGE_BYTES], pinned */
    unsigned long long *fault; /* [TICKETS] the word behind it, pinned */
    cudaEvent_t read[STAGES], left, done[TICKETS];
    uint64_t staged;           /* chunks, since the device was opened */
    uint64_t tickets, arrived; /* the last one given, and waited for */
};

/* ----------------------------------------------------------- open and close */

static ks_status make_events(cudaEvent_t *events, int n, ks_err *err) {
    /* A thread that waits sleeps: writers have work for its core. */
    unsigned flags = cudaEventDisableTiming | cudaEventBlockingSync;
    for (int i = 0; i < n; i++)
        KS_CUDA_TRY(cudaEventCreateWithFlags(&events[i], flags), "open");
    return KS_OK;
}

ks_status ks__cuda_copies_open(ks_dev *dev, ks_err *err) {
    ks_status st =
        ks_alloc(&dev->copies, 1, sizeof *dev->copies, "copies", err);
    if (st != KS_OK) return st;
    struct ks__copies *c = dev->copies;
    st = make_events(c->read, STAGES, err);
    if (st == KS_OK) st = make_events(&c->left, 1, err);
    if (st == KS_OK) st = make_events(c->done, TICKETS, err);
    if (st != KS_OK) return st;
    size_t words = TICKETS * sizeof *c->fault;
    KS_CUDA_TRY(cudaHostAlloc((void **)&c->stages,
                              (size_t)STAGES * STAGE_BYTES + words,
                              cudaHostAllocPortable),
                "open");
    c->fault = (unsigned long long *)(c->stages + (size_t)STAGES * STAGE_BYTES);
    return KS_OK;
}

void ks__cuda_copies_close(ks_dev *dev) {
    struct ks__copies *c = dev->copies;
    if (!c) return;
    (void)cudaStreamSynchronize(dev->stream);
    (void)cudaStreamSynchronize(dev->side);
    for (int i = 0; i < STAGES; i++)
        if (c->read[i]) (void)cudaEventDestroy(c->read[i]);
    for (int i = 0; i < TICKETS; i++)
        if (c->done[i]) (void)cudaEventDestroy(c->done[i]);
    if (c->left) (void)cudaEventDestroy(c->left);
    (void)cudaFreeHost(c->stages);
    free(c);
    dev->copies = NULL;
}

/* ------------------------------------------------------------------- memory */

ks_status ks__cuda_alloc(ks_dev *dev, ks_buf *buf, size_t size,
                         const char *what, ks_err *err) {
    *buf = {NULL, 0};
    if (dev->recording)
        return ks_fail(err, KS_INTERNAL,
                       "alloc of %s while a graph is recorded", what);
    void *data;
    ks_status st = ks__cuda_take(dev, &data, size, what, err);
    if (st == KS_OK) *buf = {data, size};
    return st;
}

void ks__cuda_free(ks_dev *dev, ks_buf *buf) {
    struct ks__copies *c = dev->copies;
    if (c->arrived < c->tickets) /* a copy beside may still read it */
        (void)cudaStreamWaitEvent(dev->stream, c->done[c->tickets % TICKETS],
                                  0);
    ks__cuda_give(dev, buf->data);
    *buf = {NULL, 0};
}

ks_status ks__cuda_alloc_host(ks_dev *dev, ks_buf *buf, size_t size,
                              const char *what, ks_err *err) {
    *buf = {NULL, 0};
    void *data;
    const char *less = dev->less ? dev->less : "";
    cudaError_t error = cudaHostAlloc(&data, size, cudaHostAllocPortable);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return ks_fail(err, KS_NOMEM,
                       "no pinned host memory for %s: %zu bytes wanted%s%s",
                       what, size, dev->less ? "; " : "", less);
    }
    KS_CUDA_TRY(error, what);
    *buf = {data, size};
    return KS_OK;
}

void ks__cuda_free_host(ks_dev *dev, ks_buf *buf) {
    /* Of copies on their way to it: nothing says that cudaFreeHost waits. */
    if (buf->data) (void)cudaStreamSynchronize(dev->stream);
    if (buf->data) (void)cudaStreamSynchronize(dev->side);
    (void)cudaFreeHost(buf->data);
    *buf = {NULL, 0};
}

/* ------------------------------------------------------ in the ops' own order
 */

static bool on_device(const void *p) {
    cudaPointerAttributes at; /* of any pointer, since CUDA 11 */
    return cudaPointerGetAttributes(&at, p) == cudaSuccess &&
           at.type == cudaMemoryTypeDevice;
}

/* Host memory to device, a stage at a time; all of it has been read when this
 * returns. */
static ks_status copy_in(ks_dev *dev, char *to, const char *from, size_t size,
                         ks_err *err) {
    struct ks__copies *c = dev->copies;
    for (size_t at = 0; at < size; at += STAGE_BYTES) {
        size_t n = KS_MIN(size - at, (size_t)STAGE_BYTES);
        int i = (int)(c->staged % STAGES);
        char *stage = c->stages + (size_t)i * STAGE_BYTES;
        if (c->staged++ >= STAGES)
            if (ks_status st = ks__cuda_late(cudaEventSynchronize(c->read[i]),
                                             "copy", err))
                return st;
        memcpy(stage, from + at, n);
        KS_CUDA_TRY(cudaMemcpyAsync(to + at, stage, n, cudaMemcpyHostToDevice,
                                    dev->stream),
                    "copy");
        KS_CUDA_TRY(cudaEventRecord(c->read[i], dev->stream), "copy");
    }
    return KS_OK;
}

ks_status ks__cuda_copy(ks_dev *dev, void *to, const void *from, size_t size,
                        ks_err *err) {
    if (size == 0) return KS_OK;
    bool out = !on_device(to), in = !on_device(from);
    if ((out || in) && dev->recording)
        return ks_fail(err, KS_INTERNAL,
                       "copy %s host memory while a graph is recorded",
                       in ? "from" : "to");
    if (in && out) {
        ks_status st = ks__cuda_sync(dev, err); /* what comes out before it */
        if (st == KS_OK) memmove(to, from, size);
        return st;
    }
    if (in) return copy_in(dev, (char *)to, (const char *)from, size, err);
    KS_CUDA_TRY(
        cudaMemcpyAsync(to, from, size,
                        out ? cudaMemcpyDeviceToHost : cudaMemcpyDeviceToDevice,
                        dev->stream),
        "copy");
    return KS_OK;
}

ks_status ks__cuda_zero(ks_dev *dev, void *data, size_t size, ks_err *err) {
    if (size == 0) return KS_OK;
    KS_CUDA_TRY(cudaMemsetAsync(data, 0, size, dev->stream), "zero");
    return KS_OK;
}

ks_status ks__cuda_enter(ks_dev *dev, ks_err *err) {
    KS_CUDA_TRY(cudaSetDevice(dev->ordinal), "enter");
    return KS_OK;
}

ks_status ks__cuda_sync(ks_dev *dev, ks_err *err) {
    return ks__cuda_fault_sync(dev, err);
}

/* --------------------------------------------------------- beside the ops */

ks_status ks__cuda_copy_out(ks_dev *dev, void *to, const void *from,
                            size_t size, uint64_t *ticket, ks_err *err) {
    struct ks__copies *c = dev->copies;
    *ticket = c->tickets;
    if (size == 0) return KS_OK;
    if (dev->recording)
        return ks_fail(err, KS_INTERNAL, "copy_out while a graph is recorded");
    if (c->tickets >= TICKETS) { /* its event is used again */
        ks_status st = ks__cuda_wait(dev, c->tickets + 1 - TICKETS, err);
        if (st != KS_OK) return st;
    }
    KS_CUDA_TRY(cudaEventRecord(c->left, dev->stream), "copy_out");
    KS_CUDA_TRY(cudaStreamWaitEvent(dev->side, c->left, 0), "copy_out");
    KS_CUDA_TRY(
        cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToHost, dev->side),
        "copy_out");
    *ticket = ++c->tickets;
    ks_status st =
        ks__cuda_fault_fetch(dev, &c->fault[*ticket % TICKETS], dev->side, err);
    KS_CUDA_TRY(cudaEventRecord(c->done[*ticket % TICKETS], dev->side),
                "copy_out");
    return st;
}

ks_status ks__cuda_wait(ks_dev *dev, uint64_t ticket, ks_err *err) {
    struct ks__copies *c = dev->copies;
    if (ticket <= c->arrived) return KS_OK;
    if (ticket > c->tickets)
        return ks_fail(
            err, KS_INTERNAL, "wait: ticket %llu, the last one given is %llu",
            (unsigned long long)ticket, (unsigned long long)c->tickets);
    ks_status st = ks__cuda_late(
        cudaEventSynchronize(c->done[ticket % TICKETS]), "wait", err);
    if (st != KS_OK) return st;
    c->arrived = ticket;
    return ks__cuda_fault_tell(dev, c->fault[ticket % TICKETS], err);
}
