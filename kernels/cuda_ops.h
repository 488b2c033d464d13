/* cuda_ops.h - the CUDA launchers; each has the signature of its slot in
 * struct ks_ops (ops.h), which ops_cuda.cu lists them in. */
#ifndef KS_CUDA_OPS_H
#define KS_CUDA_OPS_H

#include "ops.h"

#ifdef __cplusplus
extern "C" {
#endif

ks_status ks__cuda_l2_pass(ks_dev *, ks_l2_rows *, const ks_l2_pass *,
                           ks_err *);
ks_status ks__cuda_l2_gram(ks_dev *, ks_l2_rows *, const ks_l2_scaling *,
                           float *out, ks_err *);
ks_status ks__cuda_l2_project(ks_dev *, ks_l2_rows *, const ks_l2_scaling *,
                              const float *q, int64_t n_q, float *out,
                              ks_err *);
ks_status ks__cuda_l2_hessian(ks_dev *, ks_l2_rows *, const ks_l2_hessian *,
                              int32_t n, ks_err *);
ks_status ks__cuda_adamw(ks_dev *, const ks_adamw_job *, ks_err *);

#ifdef __cplusplus
}
#endif
#endif
