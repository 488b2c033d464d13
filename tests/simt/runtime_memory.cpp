/* runtime_memory.cpp - allocations, pools, copies. The target of a copy to the
 * host holds NaN until the copy has run. */
#include <map>
#include <set>
#include <stdlib.h>

#include "runtime.h"

struct CUmemPoolHandle_st {
    int device;
    uint64_t threshold, used, high;
};

namespace {

std::map<const char *, size_t> pinned; /* by address */
std::map<const char *, CUmemPoolHandle_st *> pool_of;
std::set<CUmemPoolHandle_st *> pools;
CUmemPoolHandle_st *default_pools[4];

} // namespace

bool simt_is_pinned(const void *p) {
    auto after = pinned.upper_bound((const char *)p);
    if (after == pinned.begin()) return false;
    --after;
    return (const char *)p < after->first + after->second;
}

/* ------------------------------------------------------------- allocations */

static cudaError_t forbidden(uintptr_t caller, const char *what) {
    simt_complain_pc(caller, "%s during a stream capture", what);
    return simt_error(cudaErrorStreamCaptureUnsupported);
}

cudaError_t cudaMalloc(void **out, size_t size) {
    SIMT_API;
    *out = NULL;
    if (!simt_device_count) return simt_error(cudaErrorNoDevice);
    if (simt_capture_forbids()) return forbidden(SIMT_CALLER, "cudaMalloc");
    if (!size) return cudaSuccess;
    char *p = simt_memory_take(simt_device_now(), size);
    if (!p) return simt_error(cudaErrorMemoryAllocation);
    simt_memory_unlock();
    simt_memory_begin(p);
    simt_memory_lock();
    *out = p;
    return cudaSuccess;
}

static bool owned(const void *p, uintptr_t caller, const char *what) {
    if (simt_in_arena(p) && simt_memory_live((const char *)p)) return true;
    char text[160];
    simt_describe(p, text, sizeof text);
    simt_complain_pc(caller, "%s: %s is no live allocation", what, text);
    return false;
}

/* Waits for the device, as the real one does. */
cudaError_t cudaFree(void *p) {
    SIMT_API;
    if (!p) return cudaSuccess;
    if (!owned(p, SIMT_CALLER, "cudaFree"))
        return simt_error(cudaErrorInvalidValue);
    if (simt_capture_forbids()) return forbidden(SIMT_CALLER, "cudaFree");
    simt_drain_device(simt_device_of(p));
    if (!simt_memory_live((char *)p)) return simt_error(cudaErrorInvalidValue);
    simt_memory_unlock();
    simt_memory_end((char *)p);
    simt_memory_release((char *)p);
    simt_memory_lock();
    return cudaSuccess;
}

static CUmemPoolHandle_st *default_pool(int device) {
    CUmemPoolHandle_st **p = &default_pools[device];
    if (!*p) *p = new CUmemPoolHandle_st{device, 0, 0, 0}, pools.insert(*p);
    return *p;
}

static cudaError_t pool_take(void **out, size_t size, CUmemPoolHandle_st *pool,
                             cudaStream_t handle, uintptr_t caller) {
    *out = NULL;
    CUstream_st *s = simt_stream(handle, caller);
    if (!s) return simt_error(cudaErrorInvalidResourceHandle);
    if (s->graph) return forbidden(caller, "cudaMallocAsync");
    if (!pools.count(pool)) return simt_error(cudaErrorInvalidValue);
    if (!size) return cudaSuccess;
    char *p = simt_memory_take(pool->device, size);
    if (!p) return simt_error(cudaErrorMemoryAllocation);
    pool_of[p] = pool;
    pool->used += size;
    if (pool->used > pool->high) pool->high = pool->used;
    *out = p;
    return simt_submit(s, NULL, [p] { simt_memory_begin(p); });
}

cudaError_t cudaMallocAsync(void **out, size_t size, cudaStream_t stream) {
    SIMT_API;
    if (!simt_device_count) return simt_error(cudaErrorNoDevice);
    CUstream_st *s = simt_stream(stream, SIMT_CALLER);
    if (!s) return simt_error(cudaErrorInvalidResourceHandle);
    return pool_take(out, size, default_pool(s->device), stream, SIMT_CALLER);
}
cudaError_t cudaMallocFromPoolAsync(void **out, size_t size, cudaMemPool_t pool,
                                    cudaStream_t stream) {
    SIMT_API;
    return pool_take(out, size, pool, stream, SIMT_CALLER);
}

cudaError_t cudaFreeAsync(void *p, cudaStream_t handle) {
    SIMT_API;
    if (!p) return cudaSuccess;
    CUstream_st *s = simt_stream(handle, SIMT_CALLER);
    if (!s) return simt_error(cudaErrorInvalidResourceHandle);
    if (!owned(p, SIMT_CALLER, "cudaFreeAsync"))
        return simt_error(cudaErrorInvalidValue);
    if (s->graph) return forbidden(SIMT_CALLER, "cudaFreeAsync");
    auto found = pool_of.find((char *)p);
    if (found != pool_of.end()) {
        found->second->used -= simt_find(p)->size;
        pool_of.erase(found);
    }
    char *bytes = (char *)p;
    simt_memory_doom(bytes);
    return simt_submit(s, NULL, [bytes] {
        simt_memory_end(bytes);
        simt_memory_release(bytes);
    });
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *out, int device) {
    SIMT_API;
    if (device < 0 || device >= simt_device_count)
        return simt_error(cudaErrorInvalidDevice);
    *out = default_pool(device);
    return cudaSuccess;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t *out,
                              const cudaMemPoolProps *props) {
    SIMT_API;
    if (props->allocType != cudaMemAllocationTypePinned ||
        props->location.type != cudaMemLocationTypeDevice ||
        props->location.id < 0 || props->location.id >= simt_device_count)
        return simt_error(cudaErrorInvalidValue);
    *out = new CUmemPoolHandle_st{props->location.id, 0, 0, 0};
    pools.insert(*out);
    return cudaSuccess;
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
    SIMT_API;
    if (!pools.erase(pool)) return simt_error(cudaErrorInvalidValue);
    if (pool->used)
        simt_complain_pc(SIMT_CALLER,
                         "a pool is destroyed with %llu bytes in "
                         "use",
                         (unsigned long long)pool->used);
    delete pool;
    return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) {
    SIMT_API;
    return pools.count(pool) ? cudaSuccess : simt_error(cudaErrorInvalidValue);
}

static uint64_t *pool_attribute(cudaMemPool_t pool, cudaMemPoolAttr which) {
    switch (which) {
    case cudaMemPoolAttrReleaseThreshold:
        return &pool->threshold;
    case cudaMemPoolAttrUsedMemCurrent:
    case cudaMemPoolAttrReservedMemCurrent:
        return &pool->used;
    case cudaMemPoolAttrUsedMemHigh:
    case cudaMemPoolAttrReservedMemHigh:
        return &pool->high;
    default:
        return NULL;
    }
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr which,
                                    void *value) {
    SIMT_API;
    uint64_t *at = pools.count(pool) ? pool_attribute(pool, which) : NULL;
    if (!at) {
        simt_complain_pc(SIMT_CALLER, "unknown pool attribute %d", (int)which);
        return simt_error(cudaErrorInvalidValue);
    }
    memcpy(value, at, sizeof *at);
    return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr which,
                                    void *value) {
    SIMT_API;
    if (!pools.count(pool) || which != cudaMemPoolAttrReleaseThreshold) {
        simt_complain_pc(SIMT_CALLER, "unknown pool attribute %d", (int)which);
        return simt_error(cudaErrorInvalidValue);
    }
    memcpy(&pool->threshold, value, sizeof pool->threshold);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    SIMT_API;
    if (!simt_device_count) return simt_error(cudaErrorNoDevice);
    *total = simt_memory_total();
    *free_bytes = *total - simt_memory_used(simt_device_now());
    return cudaSuccess;
}

/* ------------------------------------------------------------- host memory */

cudaError_t cudaHostAlloc(void **out, size_t size, unsigned) {
    SIMT_API;
    *out = NULL;
    if (!simt_device_count) return simt_error(cudaErrorNoDevice);
    if (!size) return cudaSuccess;
    *out = malloc(size);
    if (!*out) return simt_error(cudaErrorMemoryAllocation);
    simt_memory_fill_nan(*out, size);
    pinned[(char *)*out] = size;
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **out, size_t size) {
    return cudaHostAlloc(out, size, 0);
}
cudaError_t cudaFreeHost(void *p) {
    SIMT_API;
    if (!p) return cudaSuccess;
    /* Nothing says that it waits: what is queued and reads it meets ASan. */
    if (!pinned.count((char *)p)) return simt_error(cudaErrorInvalidValue);
    pinned.erase((char *)p);
    free(p);
    return cudaSuccess;
}
cudaError_t cudaHostRegister(void *p, size_t size, unsigned) {
    SIMT_API;
    if (!p || !size) return simt_error(cudaErrorInvalidValue);
    if (simt_is_pinned(p))
        return simt_error(cudaErrorHostMemoryAlreadyRegistered);
    pinned[(char *)p] = size;
    return cudaSuccess;
}
cudaError_t cudaHostUnregister(void *p) {
    SIMT_API;
    for (int i = 0; i < simt_device_count; i++) simt_drain_device(i);
    return pinned.erase((char *)p)
               ? cudaSuccess
               : simt_error(cudaErrorHostMemoryNotRegistered);
}
cudaError_t cudaHostGetDevicePointer(void **out, void *p, unsigned) {
    SIMT_API;
    if (!simt_is_pinned(p)) return simt_error(cudaErrorInvalidValue);
    *out = p;
    return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *out,
                                     const void *p) {
    SIMT_API;
    *out = {};
    out->device = -1;
    if (simt_in_arena(p)) {
        out->type = cudaMemoryTypeDevice;
        out->device = simt_device_of(p);
        out->devicePointer = (void *)p;
    } else if (simt_is_pinned(p)) {
        out->type = cudaMemoryTypeHost;
        out->device = 0;
        out->devicePointer = out->hostPointer = (void *)p;
    }
    return cudaSuccess;
}

/* ------------------------------------------------------------------ copies */

namespace {

struct span { /* rows of `width` bytes, `pitch` apart */
    char *p;
    size_t pitch, width, rows;
    bool device;
};

} // namespace

static size_t extent(const span *s) {
    return s->rows && s->width ? (s->rows - 1) * s->pitch + s->width : 0;
}

/* Inside one live allocation, or host memory that ASan knows to be there. */
static bool fits(const span *s, uintptr_t caller, const char *what) {
    char text[160];
    simt_describe(s->p, text, sizeof text);
    if (s->device != simt_in_arena(s->p)) {
        simt_complain_pc(caller, "%s: %s, while the direction says %s", what,
                         text, s->device ? "device" : "host");
        return false;
    }
    if (!s->device) {
#if SIMT_ASAN
        if (__asan_region_is_poisoned(s->p, extent(s)))
            simt_refuse_pc(caller, "%s: %zu bytes at %s are not all there",
                           what, extent(s), text);
#endif
        return true;
    }
    const simt_block_of_memory *b = simt_find(s->p);
    if (b && b->live && !b->doomed && s->p + extent(s) <= b->begin + b->size)
        return true;
    simt_complain_pc(caller, "%s: over-long: %zu bytes at %s", what, extent(s),
                     text);
    return false;
}

static void move(const span *to, const span *from) {
    for (size_t i = 0; i < to->rows; i++) {
        char *t = to->p + i * to->pitch;
        const char *f = from->p + i * from->pitch;
        memmove(t, f, to->width);
        if (to->device && from->device)
            simt_race_copy(t, f, to->width);
        else if (to->device)
            simt_memory_wrote(t, to->width);
    }
}

static bool direction(cudaMemcpyKind kind, span *to, span *from) {
    switch (kind) {
    case cudaMemcpyHostToHost:
    case cudaMemcpyHostToDevice:
    case cudaMemcpyDeviceToHost:
    case cudaMemcpyDeviceToDevice:
        to->device =
            kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
        from->device =
            kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
        return true;
    case cudaMemcpyDefault:
        to->device = simt_in_arena(to->p);
        from->device = simt_in_arena(from->p);
        return true;
    }
    return false;
}

static cudaError_t copy(span to, span from, cudaMemcpyKind kind,
                        cudaStream_t handle, bool wait, uintptr_t caller,
                        const char *what) {
    SIMT_API;
    if (!simt_device_count) return simt_error(cudaErrorNoDevice);
    CUstream_st *s = simt_stream(handle, caller);
    if (!s) return simt_error(cudaErrorInvalidResourceHandle);
    if (wait && simt_capture_forbids()) return forbidden(caller, what);
    if (!direction(kind, &to, &from))
        return simt_error(cudaErrorInvalidMemcpyDirection);
    if (!extent(&to)) return cudaSuccess;
    const size_t most = INT32_MAX; /* cudaDevAttrMaxPitch; of 2D copies */
    if (to.pitch < to.width || from.pitch < from.width ||
        (to.rows > 1 && (to.pitch > most || from.pitch > most)))
        return simt_error(cudaErrorInvalidPitchValue);
    if (!fits(&to, caller, what) || !fits(&from, caller, what))
        return simt_error(cudaErrorInvalidValue);
    if (!to.device && from.device && !s->graph)
        for (size_t i = 0; i < to.rows; i++)
            simt_memory_fill_nan(to.p + i * to.pitch, to.width);
    cudaError_t error = simt_submit(s, what, [to, from] { move(&to, &from); });
    if (!wait || error) return error;
    simt_drain(s);
    return simt_sync_result();
}

static span flat(const void *p, size_t n) {
    return {(char *)p, n, n, 1, false};
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n,
                       cudaMemcpyKind kind) {
    return copy(flat(to, n), flat(from, n), kind, NULL, true, SIMT_CALLER,
                "cudaMemcpy");
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n,
                            cudaMemcpyKind kind, cudaStream_t stream) {
    return copy(flat(to, n), flat(from, n), kind, stream, false, SIMT_CALLER,
                "cudaMemcpyAsync");
}
cudaError_t cudaMemcpyPeerAsync(void *to, int, const void *from, int, size_t n,
                                cudaStream_t stream) {
    return copy(flat(to, n), flat(from, n), cudaMemcpyDeviceToDevice, stream,
                false, SIMT_CALLER, "cudaMemcpyPeerAsync");
}
cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from,
                         size_t from_pitch, size_t width, size_t rows,
                         cudaMemcpyKind kind) {
    return copy({(char *)to, to_pitch, width, rows, false},
                {(char *)from, from_pitch, width, rows, false}, kind, NULL,
                true, SIMT_CALLER, "cudaMemcpy2D");
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from,
                              size_t from_pitch, size_t width, size_t rows,
                              cudaMemcpyKind kind, cudaStream_t stream) {
    return copy({(char *)to, to_pitch, width, rows, false},
                {(char *)from, from_pitch, width, rows, false}, kind, stream,
                false, SIMT_CALLER, "cudaMemcpy2DAsync");
}

static cudaError_t set(span to, int value, cudaStream_t handle, bool wait,
                       uintptr_t caller, const char *what) {
    SIMT_API;
    if (!simt_device_count) return simt_error(cudaErrorNoDevice);
    CUstream_st *s = simt_stream(handle, caller);
    if (!s) return simt_error(cudaErrorInvalidResourceHandle);
    if (wait && simt_capture_forbids()) return forbidden(caller, what);
    to.device = true;
    if (!extent(&to)) return cudaSuccess;
    if (to.pitch < to.width) return simt_error(cudaErrorInvalidPitchValue);
    if (!fits(&to, caller, what)) return simt_error(cudaErrorInvalidValue);
    return simt_submit(s, what, [to, value] {
        for (size_t i = 0; i < to.rows; i++) {
            memset(to.p + i * to.pitch, value, to.width);
            simt_memory_wrote(to.p + i * to.pitch, to.width);
        }
    });
}

/* To device memory it does not wait, as the real one. */
cudaError_t cudaMemset(void *p, int value, size_t n) {
    return set(flat(p, n), value, NULL, true, SIMT_CALLER, "cudaMemset");
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t stream) {
    return set(flat(p, n), value, stream, false, SIMT_CALLER,
               "cudaMemsetAsync");
}
cudaError_t cudaMemset2D(void *p, size_t pitch, int value, size_t width,
                         size_t rows) {
    return set({(char *)p, pitch, width, rows, true}, value, NULL, true,
               SIMT_CALLER, "cudaMemset2D");
}
cudaError_t cudaMemset2DAsync(void *p, size_t pitch, int value, size_t width,
                              size_t rows, cudaStream_t stream) {
    return set({(char *)p, pitch, width, rows, true}, value, stream, false,
               SIMT_CALLER, "cudaMemset2DAsync");
}

/* ------------------------------------------------------ for the BLAS module */

extern "C" void simt_library_check(const void *p, size_t n, const char *what) {
    SIMT_API;
    const simt_block_of_memory *b = simt_in_arena(p) ? simt_find(p) : NULL;
    if (b && b->live && (const char *)p + n <= b->begin + b->size) return;
    char text[160];
    simt_describe(p, text, sizeof text);
    simt_refuse({what, 0}, "out of bounds: %zu bytes at %s", n, text);
}

extern "C" void simt_library_wrote(void *p, size_t n) {
    simt_memory_wrote(p, n);
}
