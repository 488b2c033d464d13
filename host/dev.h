/* dev.h - what a backend tells dev.c about itself. Every struct ks_dev begins
 * with a pointer to its backend. */
#ifndef KS_DEV_H
#define KS_DEV_H

#include "ops.h"

typedef struct ks__backend {
    const char *name;   /* "cuda" */
    const char *remedy; /* what helps where its products are wrong */
    /* threads >= 0, isa as in ks_dev_open; leaves nothing open on failure */
    ks_status (*open)(ks_dev **, const struct ks_ops **, int ordinal,
                      int threads, const char *isa, ks_err *);
    void (*close)(ks_dev **);
    int (*threads)(const ks_dev *);
    ks_status (*limit)(ks_dev *, size_t memory, const char *less, ks_err *);
    void (*few_rows)(ks_dev *, bool few); /* or NULL */
    size_t (*room)(const ks_dev *);
    ks_status (*count)(int *n, ks_err *);
    ks_status (*facts)(int ordinal, ks_dev_facts *, ks_err *);
} ks__backend;

/* ops->each with one lane: the device itself, in order. */
ks_status ks__each_alone(ks_dev *, int32_t lanes, int32_t n, ks_each_fn body,
                         void *user, ks_err *);

extern const ks__backend ks__backend_cpu;
/* There when the CUDA part is linked: a build with KS_CUDA, or a test that
 * brings the kernels along with a simulated device. */
#if defined(KS_CUDA) || defined(__cplusplus)
extern const ks__backend ks__backend_cuda;
#else
extern const ks__backend ks__backend_cuda __attribute__((weak));
#endif

#endif
