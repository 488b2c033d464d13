/* check.h - what the tests of the simulator share. */
#ifndef KS_SIMT_CHECK_H
#define KS_SIMT_CHECK_H

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <cuda_runtime.h>

#define OK(call) cr_assert(eq(int, (int)(call), (int)cudaSuccess))
#define GIVES(error, call) cr_expect(eq(int, (int)(call), (int)(error)))

/* Is this the build of that name (plain, asan, race)? */
static inline bool built(const char *build) {
    return strcmp(SIMT_BUILD, build) == 0;
}

/* The caller's, for cudaFree. */
static inline float *device_floats(int n) {
    void *p = NULL;
    OK(cudaMalloc(&p, (size_t)n * sizeof(float)));
    return (float *)p;
}

#endif
