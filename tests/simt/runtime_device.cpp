/* runtime_device.cpp - devices, their properties, functions, errors. */
#include <map>
#include <stdlib.h>

#include "runtime.h"

int simt_device_count = 1;

namespace {

thread_local int device_now;
thread_local cudaError_t last_error;
int major = 8, minor = 0;
int driver = CUDART_VERSION, devices_error;
std::map<const void *, int> dynamic_limits; /* by kernel */

} // namespace

int simt_device_now(void) {
    return device_now;
}

bool simt_simulated(void) {
    return true;
}

void simt_set_devices(int count) {
    simt_device_count = count < 0 ? 0 : count > 4 ? 4 : count;
}

void simt_set_capability(int to_major, int to_minor) {
    major = to_major;
    minor = to_minor;
}

void simt_set_driver(int version) {
    driver = version;
}

void simt_fail_devices(int error) {
    devices_error = error;
}

/* ------------------------------------------------------------------ errors */

cudaError_t simt_error(cudaError_t error) {
    if (error) last_error = error;
    return error;
}

#define ERRORS(X)                                                              \
    X(cudaSuccess, "no error")                                                 \
    X(cudaErrorInvalidValue, "invalid argument")                               \
    X(cudaErrorMemoryAllocation, "out of memory")                              \
    X(cudaErrorInitializationError, "initialization error")                    \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument")         \
    X(cudaErrorInvalidPitchValue, "invalid pitch argument")                    \
    X(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")    \
    X(cudaErrorInsufficientDriver,                                             \
      "CUDA driver version is insufficient for CUDA runtime version")          \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected")                 \
    X(cudaErrorInvalidDevice, "invalid device ordinal")                        \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle")               \
    X(cudaErrorIllegalState,                                                   \
      "the operation cannot be performed in the present state")                \
    X(cudaErrorNotReady, "device not ready")                                   \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered")     \
    X(cudaErrorLaunchTimeout, "the launch timed out and was terminated")       \
    X(cudaErrorLaunchFailure, "unspecified launch failure")                    \
    X(cudaErrorHostMemoryAlreadyRegistered,                                    \
      "part or all of the requested memory range is already mapped")           \
    X(cudaErrorHostMemoryNotRegistered,                                        \
      "pointer does not correspond to a registered memory region")             \
    X(cudaErrorNotSupported, "operation not supported")                        \
    X(cudaErrorStreamCaptureUnsupported,                                       \
      "operation not permitted when stream is capturing")                      \
    X(cudaErrorStreamCaptureInvalidated,                                       \
      "operation failed due to a previous error during capture")               \
    X(cudaErrorStreamCaptureUnmatched,                                         \
      "capture was not initiated in this stream")                              \
    X(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work")    \
    X(cudaErrorStreamCaptureIsolation,                                         \
      "dependency created on uncaptured work in another stream")               \
    X(cudaErrorCapturedEvent,                                                  \
      "operation not permitted on an event last recorded in a capturing "      \
      "stream")                                                                \
    X(cudaErrorGraphExecUpdateFailure,                                         \
      "the graph update was not performed: its topology differs")              \
    X(cudaErrorUnknown, "unknown error")

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
#define TEXT(code, text)                                                       \
    case code:                                                                 \
        return text;
        ERRORS(TEXT)
    default:
        return "unrecognized error code";
    }
}
const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
#define NAME(code, text)                                                       \
    case code:                                                                 \
        return #code;
        ERRORS(NAME)
    default:
        return "unrecognized error code";
    }
}
cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}
cudaError_t cudaPeekAtLastError(void) {
    return last_error;
}

/* ----------------------------------------------------------------- devices */

cudaError_t cudaGetDeviceCount(int *count) {
    SIMT_API;
    *count = 0;
    if (devices_error) return simt_error((cudaError_t)devices_error);
    if (driver / 1000 < CUDART_VERSION / 1000)
        return simt_error(cudaErrorInsufficientDriver);
    *count = simt_device_count;
    return simt_device_count ? cudaSuccess : simt_error(cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
    SIMT_API;
    if (device < 0 || device >= simt_device_count)
        return simt_error(cudaErrorInvalidDevice);
    device_now = device;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    SIMT_API;
    if (!simt_device_count) return simt_error(cudaErrorNoDevice);
    *device = device_now;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = driver;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int, int) {
    *can = 0;
    return cudaSuccess;
}

/* Opt-in limit of shared memory a block, by capability. */
static int shared_optin(void) {
    if (major == 8 && minor == 0) return 163 << 10;
    if ((major == 8) || major == 12) return 99 << 10;
    return 227 << 10;
}

static bool attribute(cudaDeviceAttr which, int *value) {
    switch (which) {
#define IS(name, number)                                                       \
    case name:                                                                 \
        *value = (number);                                                     \
        return true;
        IS(cudaDevAttrComputeCapabilityMajor, major)
        IS(cudaDevAttrComputeCapabilityMinor, minor)
        IS(cudaDevAttrMultiProcessorCount, 4)
        IS(cudaDevAttrWarpSize, 32)
        IS(cudaDevAttrMaxThreadsPerBlock, 1024)
        IS(cudaDevAttrMaxBlockDimX, 1024)
        IS(cudaDevAttrMaxBlockDimY, 1024)
        IS(cudaDevAttrMaxBlockDimZ, 64)
        IS(cudaDevAttrMaxGridDimX, 0x7fffffff)
        IS(cudaDevAttrMaxGridDimY, 65535)
        IS(cudaDevAttrMaxGridDimZ, 65535)
        IS(cudaDevAttrMaxSharedMemoryPerBlock, 48 << 10)
        IS(cudaDevAttrMaxSharedMemoryPerBlockOptin, shared_optin())
        IS(cudaDevAttrMaxSharedMemoryPerMultiprocessor,
           shared_optin() + (1 << 10))
        IS(cudaDevAttrReservedSharedMemoryPerBlock, 1 << 10)
        IS(cudaDevAttrMaxThreadsPerMultiProcessor, 2048)
        IS(cudaDevAttrMaxBlocksPerMultiprocessor, 32)
        IS(cudaDevAttrMaxRegistersPerBlock, 65536)
        IS(cudaDevAttrMaxRegistersPerMultiprocessor, 65536)
        IS(cudaDevAttrL2CacheSize, 4 << 20)
        IS(cudaDevAttrMemoryPoolsSupported, 1)
        IS(cudaDevAttrUnifiedAddressing, 1)
        IS(cudaDevAttrConcurrentKernels, 1)
        IS(cudaDevAttrAsyncEngineCount, 2)
        IS(cudaDevAttrCooperativeLaunch, 0)
        IS(cudaDevAttrManagedMemory, 0)
        IS(cudaDevAttrIntegrated, 0)
#undef IS
    default:
        return false;
    }
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr which,
                                   int device) {
    SIMT_API;
    if (device < 0 || device >= simt_device_count)
        return simt_error(cudaErrorInvalidDevice);
    if (attribute(which, value)) return cudaSuccess;
    simt_complain_pc(SIMT_CALLER, "device attribute %d is not simulated",
                     (int)which);
    return simt_error(cudaErrorInvalidValue);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int device) {
    SIMT_API;
    if (device < 0 || device >= simt_device_count)
        return simt_error(cudaErrorInvalidDevice);
    /* What is not filled in is visibly wrong. */
    memset((void *)out, 0xff, sizeof *out);
    snprintf(out->name, sizeof out->name, "simulated device %d", device);
    out->major = major;
    out->minor = minor;
    out->totalGlobalMem = simt_memory_total();
    out->multiProcessorCount = 4;
    out->warpSize = 32;
    out->maxThreadsPerBlock = 1024;
    out->maxThreadsPerMultiProcessor = 2048;
    out->sharedMemPerBlock = 48 << 10;
    out->sharedMemPerBlockOptin = (size_t)shared_optin();
    out->sharedMemPerMultiprocessor = (size_t)shared_optin() + 1024;
    out->regsPerBlock = out->regsPerMultiprocessor = 65536;
    out->l2CacheSize = 4 << 20;
    out->memoryBusWidth = 256;
    out->maxThreadsDim[0] = out->maxThreadsDim[1] = 1024;
    out->maxThreadsDim[2] = 64;
    out->maxGridSize[0] = 0x7fffffff;
    out->maxGridSize[1] = out->maxGridSize[2] = 65535;
    out->unifiedAddressing = out->memoryPoolsSupported = 1;
    out->concurrentKernels = 1;
    out->asyncEngineCount = 2;
    out->integrated = out->managedMemory = out->cooperativeLaunch = 0;
    out->pciBusID = out->pciDomainID = 0;
    out->pciDeviceID = device;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device) {
    SIMT_API;
    if (device < 0 || device >= simt_device_count)
        return simt_error(cudaErrorInvalidDevice);
    snprintf(text, (size_t)size, "0000:00:%02x.0", (unsigned)device);
    return cudaSuccess;
}

cudaError_t cudaDeviceReset(void) {
    SIMT_API;
    simt_drain_device(device_now);
    return cudaSuccess;
}

/* --------------------------------------------------------------- functions */

size_t simt_shared_limit(const void *kernel) {
    auto found = dynamic_limits.find(kernel);
    size_t opted = found == dynamic_limits.end() ? 0 : (size_t)found->second;
    size_t usual = SIMT_STATIC_SHARED;
    return opted > usual ? opted : usual;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute which,
                                 int value) {
    SIMT_API;
    if (!simt_device_count) return simt_error(cudaErrorNoDevice);
    if (which == cudaFuncAttributePreferredSharedMemoryCarveout)
        return cudaSuccess;
    if (which != cudaFuncAttributeMaxDynamicSharedMemorySize) {
        simt_complain_pc(SIMT_CALLER, "function attribute %d is not simulated",
                         (int)which);
        return simt_error(cudaErrorInvalidValue);
    }
    if (value < 0 || value > shared_optin()) {
        simt_complain_pc(SIMT_CALLER,
                         "%d bytes of dynamic shared memory asked "
                         "for, %d at most on capability %d.%d",
                         value, shared_optin(), major, minor);
        return simt_error(cudaErrorInvalidValue);
    }
    dynamic_limits[kernel] = value;
    return cudaSuccess;
}

/* Of threads and shared memory alone: registers are nvcc's to count. */
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks,
                                                          const void *,
                                                          int threads,
                                                          size_t shared) {
    SIMT_API;
    if (threads < 1 || threads > SIMT_MAX_THREADS)
        return simt_error(cudaErrorInvalidValue);
    int by_threads = 2048 / threads;
    int by_shared = (int)((size_t)(shared_optin() + 1024) / (shared + 1024));
    int least = by_threads < by_shared ? by_threads : by_shared;
    *blocks = least < 32 ? least : 32;
    return cudaSuccess;
}
