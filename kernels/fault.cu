/* fault.cu - what kernels report through one word of device memory. */
#include "fault.cuh"

static const unsigned long long NONE = ~0ull;

ks_status ks__cuda_fault_open(ks_dev *dev, ks_err *err) {
    void *p = NULL;
    ks_status st = ks__cuda_take(dev, &p, sizeof NONE, "the fault word", err);
    if (st != KS_OK) return st;
    dev->fault = (unsigned long long *)p;
    KS_CUDA_TRY(cudaMemsetAsync(p, 0xff, sizeof NONE, dev->stream), "open");
    return KS_OK;
}

static ks_status sentence(unsigned long long word, ks_err *err) {
    long long row = (long long)(word >> 1 & 0x7fffffff);
    if ((word & 1) == KS__LOGITS)
        return ks_fail(err, KS_NUMERIC,
                       "sampling: the logits of row %lld are not finite", row);
    return ks_fail(
        err, KS_NUMERIC,
        "row %lld holds values beyond f16's 65504: store bf16 or f32", row);
}

ks_status ks__cuda_fault_fetch(ks_dev *dev, unsigned long long *to,
                               cudaStream_t stream, ks_err *err) {
    KS_CUDA_TRY(cudaMemcpyAsync(to, dev->fault, sizeof *to,
                                cudaMemcpyDeviceToHost, stream),
                "fault");
    return KS_OK;
}

ks_status ks__cuda_fault_tell(ks_dev *dev, unsigned long long word,
                              ks_err *err) {
    if (word == NONE) return KS_OK;
    KS_CUDA_TRY(cudaMemsetAsync(dev->fault, 0xff, sizeof word, dev->stream),
                "fault");
    return sentence(word, err);
}

ks_status ks__cuda_fault_sync(ks_dev *dev, ks_err *err) {
    unsigned long long word = NONE;
    ks_status st =
        ks__cuda_late(cudaMemcpyAsync(&word, dev->fault, sizeof word,
                                      cudaMemcpyDeviceToHost, dev->stream),
                      "sync", err);
    if (st == KS_OK)
        st = ks__cuda_late(cudaStreamSynchronize(dev->stream), "sync", err);
    if (st != KS_OK) return st;
    dev->fault_calls = 0;
    return ks__cuda_fault_tell(dev, word, err);
}
