/* check.h - what the tests of the simulator share. */
#ifndef KS_SIMT_CHECK_H
#define KS_SIMT_CHECK_H

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <cuda_runtime.h>

#include "build_name.h"

#define OK(call) cr_assert(eq(int, (int)(call), (int)cudaSuccess))
#define GIVES(error, call) cr_expect(eq(int, (int)(call), (int)(error)))

/* The caller's, for cudaFree. */
static inline float *device_floats(int n) {
    void *p = NULL;
    OK(cudaMalloc(&p, (size_t)n * sizeof(float)));
    return (float *)p;
}

#endif
