/* upload.h - host data to the device, for ops on any stream: a copy from
 * pageable memory may return before a real device has the last bytes, and the
 * backend's streams do not wait for the default one's. */
#ifndef KS_SIMT_UPLOAD_H
#define KS_SIMT_UPLOAD_H

#include <cuda_runtime.h>

static inline cudaError_t upload(void *to, const void *from, size_t size) {
    cudaError_t error = cudaMemcpy(to, from, size, cudaMemcpyHostToDevice);
    return error ? error : cudaStreamSynchronize(NULL);
}

#endif
