/* check_device.cpp - the CUDA backend's device: opening, memory, sentences. */
#include "check.h"
#include "control.h"

#include "../../kernels/cuda.cuh"

static ks_err err;

static ks_dev *opened(size_t memory) {
    ks_dev *dev;
    cr_assert(ks__cuda_open(&dev, 0, memory, &err) == KS_OK, "%s", err.text);
    return dev;
}

static bool says(const char *words) {
    return strstr(err.text, words) != NULL;
}

Test(device, facts) {
    simt_set_capability(9, 0);
    simt_set_memory(1 << 24);
    ks_dev *dev = opened(0);
    cr_expect(eq(int, dev->ordinal, 0));
    cr_expect(eq(int, dev->sm, 90));
    cr_expect(eq(int, dev->n_sm, 4));
    cr_expect(eq(sz, dev->shared_most, 227 << 10));
    cr_expect(eq(sz, dev->memory, 1 << 24));
    cr_expect(dev->limited == false && dev->precise == false);
    cr_expect(strcmp(dev->isa, "sm_90") == 0, "%s", dev->isa);
    cr_expect(dev->stream && dev->side && dev->stream != dev->side);
    ks__cuda_close(&dev);
    cr_expect(dev == NULL);
    ks__cuda_close(&dev);
}

Test(device, refusals) {
    simt_set_devices(1);
    ks_dev *dev;
    cr_expect(ks__cuda_open(&dev, 1, 0, &err) == KS_USAGE && !dev);
    cr_expect(says("no CUDA device 1: 0 to 0"), "%s", err.text);
    cr_expect(ks__cuda_open(&dev, -1, 0, &err) == KS_USAGE && !dev);
    simt_set_memory(1000);
    cr_expect(ks__cuda_open(&dev, 0, 1001, &err) == KS_LIMIT && !dev);
    cr_expect(says("--memory 1001") && says("1000 bytes"), "%s", err.text);
    dev = opened(1000);
    ks__cuda_close(&dev);
    simt_set_capability(7, 5);
    cr_expect(ks__cuda_open(&dev, 0, 0, &err) == KS_UNSUPPORTED && !dev);
    cr_expect(says("7.5") && says("8.0"), "%s", err.text);
    simt_set_devices(0);
    cr_expect(ks__cuda_open(&dev, 0, 0, &err) == KS_INTERNAL && !dev);
    cr_expect(says("no CUDA-capable device"), "%s", err.text);
}

Test(device, second_of_two) {
    simt_set_devices(2);
    ks_dev *dev;
    cr_assert(ks__cuda_open(&dev, 1, 0, &err) == KS_OK, "%s", err.text);
    void *p;
    cr_assert(ks__cuda_take(dev, &p, 8, "a test", &err) == KS_OK);
    cudaPointerAttributes at;
    OK(cudaPointerGetAttributes(&at, p));
    cr_expect(eq(int, at.device, 1));
    ks__cuda_close(&dev);
    cr_expect(eq(sz, simt_live_allocations(), 0));
}

/* Bytes are counted to the last one, whatever the order of giving back. */
Test(device, memory_is_counted) {
    ks_dev *dev = opened(100);
    void *p[4];
    for (int i = 0; i < 4; i++) {
        cr_assert(ks__cuda_take(dev, &p[i], 25, "a test", &err) == KS_OK);
        cr_expect(eq(sz, dev->in_use, (size_t)(i + 1) * 25));
    }
    void *more = p;
    cr_expect(ks__cuda_take(dev, &more, 1, "the last straw", &err) == KS_NOMEM);
    cr_expect(more == NULL && says("the last straw: 1 bytes") &&
                  says("100 of the 100"),
              "%s", err.text);
    cr_expect(says("taken; a larger --memory"), "%s", err.text);
    cr_expect(ks__cuda_take(dev, &more, 0, "nothing", &err) == KS_OK && !more);
    ks__cuda_give(dev, NULL);
    static const int order[] = {1, 3, 0, 2};
    for (int i = 0; i < 4; i++) {
        ks__cuda_give(dev, p[order[i]]);
        cr_expect(eq(sz, dev->in_use, (size_t)(3 - i) * 25));
    }
    cr_expect(ks__cuda_take(dev, &more, SIZE_MAX, "all", &err) == KS_NOMEM);
    cr_assert(ks__cuda_take(dev, &more, 100, "a test", &err) == KS_OK);
    ks__cuda_close(&dev);
    cr_expect(eq(sz, simt_live_allocations(), 0));
}

/* Without a limit the device's own end is met, and what others took counts. */
Test(device, memory_of_the_device) {
    simt_set_memory(1 << 20);
    ks_dev *dev = opened(0);
    void *other, *p;
    OK(cudaMalloc(&other, 1 << 19));
    cr_expect(ks__cuda_take(dev, &p, (1 << 19) + 1, "the rest", &err) ==
              KS_NOMEM);
    cr_expect(p == NULL && says("the rest: 524289 bytes") &&
                  says("524288 of the device's 1048576 free"),
              "%s", err.text);
    cr_expect(eq(sz, dev->in_use, 0));
    OK(cudaGetLastError());
    OK(cudaFree(other));
    ks__cuda_close(&dev);
}

Test(device, status) {
    cr_expect(ks__cuda_status(cudaSuccess, "norm", &err) == KS_OK);
    cr_expect(ks__cuda_status(cudaErrorInvalidValue, "norm", &err) ==
              KS_INTERNAL);
    cr_expect(says("norm: ") && says("invalid argument") &&
                  says("cudaErrorInvalidValue"),
              "%s", err.text);
    cr_expect(ks__cuda_status(cudaErrorMemoryAllocation, "sort", &err) ==
              KS_NOMEM);
    cr_expect(says("sort: "), "%s", err.text);
    (void)cudaSetDevice(77);
    (void)ks__cuda_status(cudaErrorInvalidDevice, "open", NULL);
    OK(cudaGetLastError()); /* it was taken away */
}
