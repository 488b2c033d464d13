/* fault.cuh - errors that only the data decide (a value beyond f16, logits that
 * are not finite) without a wait an op: a kernel leaves the earliest in one
 * word of device memory, sync reads it along. */
#ifndef KS_FAULT_CUH
#define KS_FAULT_CUH

#include "cuda.cuh"

typedef enum ks__fault { KS__BEYOND_F16, KS__LOGITS } ks__fault;

/* Where a launch reports: the lowest of (call, row, kind) stays. */
typedef struct ks__report {
    unsigned long long *word;
    uint32_t call;
} ks__report;

/* For the next launch that may find a fault; calls count since sync. */
static inline ks__report ks__cuda_reporting(ks_dev *dev) {
    return (ks__report){dev->fault, dev->fault_calls++};
}

static __device__ __forceinline__ void
ks__cuda_report(ks__report to, ks__fault kind, int64_t row) {
    atomicMin(to.word, (unsigned long long)to.call << 32 |
                           (unsigned long long)row << 1 | kind);
}

#endif
