/* blaslt.cuh - cuBLASLt, opened at run time; what gemm.cu and matmul.cu ask of
 * it. `served` false: not for this shape, the own kernel is to do it. */
#ifndef KS_BLASLT_CUH
#define KS_BLASLT_CUH

#include "cuda.cuh"

/* Sets dev->blaslt. The library is $KS_CUBLASLT, else libcublasLt.so.13; where
 * that is not installed, or KS_CUBLASLT is "none", dev->blaslt stays NULL and
 * the own kernels serve. A library that was named and does not open is an
 * error. */
ks_status ks__blaslt_open(ks_dev *dev, ks_err *err);
void ks__blaslt_close(ks_dev *dev);
/* major * 10000 + minor * 100 + patch; 0: not open. */
size_t ks__blaslt_version(const ks_dev *dev);

ks_status ks__blaslt_matmul(ks_dev *dev, ks_view c, ks_view a, bool ta,
                            ks_view b, bool tb, float alpha, float beta,
                            bool *served, ks_err *err);

/* out = x W^T (+ bias) (+ out), W bf16. */
ks_status ks__blaslt_gemm(ks_dev *dev, ks_view out, ks_view x, ks_view w,
                          const float *bias, bool accumulate, bool *served,
                          ks_err *err);

#endif
