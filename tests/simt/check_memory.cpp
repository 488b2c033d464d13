/* check_memory.cpp - allocations, pools, copies, protection. */
#include "check.h"
#include "child.h"
#include "small.h"

/* The body must be refused with these words, under 12 seeds. */
template <class Body> static void refused(const char *word, Body body) {
    for (uint64_t seed = 0; seed < 12; seed++) {
        outcome got = run_child(seed, body);
        cr_expect(ne(int, got.status, 0), "seed %d, '%s'", (int)seed, word);
        cr_expect(strstr(got.text, word) != NULL, "no '%s' in: %s", word,
                  got.text);
    }
}

Test(simt_memory, fresh_is_nan) {
    float x[5], *p = device_floats(5);
    OK(cudaMemcpy(x, p, sizeof x, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 5; i++) cr_expect(x[i] != x[i]);
    OK(cudaFree(p));
}

Test(simt_memory, copies_2d_and_sets) {
    float x[6][5], y[6][4];
    for (int i = 0; i < 30; i++) x[i / 5][i % 5] = (float)i;
    float *p = device_floats(6 * 7);
    OK(cudaMemset(p, 0, 42 * sizeof(float)));
    OK(cudaMemcpy2D(p + 1, 28, x, 20, 16, 6, cudaMemcpyHostToDevice));
    OK(cudaMemset2D(p + 2, 28, 0, 4, 6)); /* one column */
    OK(cudaMemcpy2D(y, 16, p + 1, 28, 16, 6, cudaMemcpyDefault));
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 4; j++)
            cr_expect(y[i][j] == (j == 1 ? 0 : x[i][j]));
    GIVES(cudaErrorInvalidPitchValue,
          cudaMemcpy2D(y, 12, p, 28, 16, 6, cudaMemcpyDeviceToHost));
}

Test(simt_memory, over_long_copies) {
    float x[8] = {0}, *p = device_floats(7);
    GIVES(cudaErrorInvalidValue, cudaMemcpy(p, x, 32, cudaMemcpyHostToDevice));
    GIVES(cudaErrorInvalidValue,
          cudaMemcpy(x, p + 1, 28, cudaMemcpyDeviceToHost));
    GIVES(cudaErrorInvalidValue, cudaMemset(p, 0, 29));
    GIVES(cudaErrorInvalidValue,
          cudaMemcpy2D(p, 8, x, 8, 8, 4, cudaMemcpyHostToDevice));
    GIVES(cudaErrorInvalidValue, /* the direction is a lie */
          cudaMemcpy(x, p, 28, cudaMemcpyHostToDevice));
    OK(cudaMemcpy(p, x, 28, cudaMemcpyHostToDevice));
    outcome got = run_child(0, [p] {
        float y[8] = {0};
        return (int)cudaMemcpy(p, y, 32, cudaMemcpyHostToDevice);
    });
    cr_expect(strstr(got.text, "check_memory.cpp:") != NULL, "%s", got.text);
    cr_expect(strstr(got.text, "over-long") != NULL, "%s", got.text);
}

Test(simt_memory, frees) {
    float *p = device_floats(7);
    OK(cudaFree(p));
    GIVES(cudaErrorInvalidValue, cudaFree(p));
    GIVES(cudaErrorInvalidValue, cudaMemset(p, 0, 4));
    OK(cudaFree(NULL));
}

Test(simt_memory, limits) {
    simt_set_memory(1000);
    void *p, *q;
    size_t room, total;
    OK(cudaMalloc(&p, 600));
    GIVES(cudaErrorMemoryAllocation, cudaMalloc(&q, 401));
    cr_expect(q == NULL);
    OK(cudaMemGetInfo(&room, &total));
    cr_expect(eq(sz, room, 400));
    cr_expect(eq(sz, total, 1000));
    OK(cudaFree(p));
    OK(cudaMalloc(&q, 1000));
    cr_expect(eq(sz, simt_live_allocations(), 1));
    OK(cudaFree(q));
    cr_expect(eq(sz, simt_live_allocations(), 0));
}

Test(simt_memory, pools) {
    cudaMemPool_t pool, own;
    cudaStream_t s;
    void *p;
    uint64_t bytes = UINT64_MAX;
    OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    OK(cudaDeviceGetDefaultMemPool(&pool, 0));
    OK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &bytes));
    OK(cudaMallocAsync(&p, 400, s));
    OK(small_set((float *)p, 100, 6, s));
    float y = 0;
    OK(cudaMemcpyAsync(&y, (float *)p + 99, 4, cudaMemcpyDeviceToHost, s));
    OK(cudaFreeAsync(p, s));
    GIVES(cudaErrorInvalidValue, cudaFreeAsync(p, s));
    OK(cudaStreamSynchronize(s));
    cr_expect(y == 6);
    OK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &bytes));
    cr_expect(eq(u64, bytes, 400));
    OK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &bytes));
    cr_expect(eq(u64, bytes, 0));
    cudaMemPoolProps props = {};
    props.allocType = cudaMemAllocationTypePinned;
    props.location.type = cudaMemLocationTypeDevice;
    OK(cudaMemPoolCreate(&own, &props));
    OK(cudaMallocFromPoolAsync(&p, 100, own, s));
    OK(cudaFreeAsync(p, s));
    OK(cudaStreamSynchronize(s));
    OK(cudaMemPoolDestroy(own));
    OK(cudaStreamDestroy(s));
}

/* Kernels: what a freed, a foreign or a protected pointer does. */
Test(simt_memory, wrong_pointers) {
    float *out = device_floats(1), *freed = device_floats(1);
    OK(cudaFree(freed));
    if (built("race")) {
        refused("use after free", [out, freed] {
            small_read(out, freed);
            return (int)cudaDeviceSynchronize();
        });
        refused("host memory", [out] {
            float *heap = (float *)calloc(1, sizeof *heap);
            small_read(out, heap);
            return (int)cudaDeviceSynchronize();
        });
        refused("dynamic", [] {
            small_dynamic_past(32);
            return (int)cudaDeviceSynchronize();
        });
    } else if (built("asan")) {
        refused("use-after-poison", [out, freed] {
            small_read(out, freed);
            return (int)cudaDeviceSynchronize();
        });
        refused("use-after-poison", [] {
            small_dynamic_past(32);
            return (int)cudaDeviceSynchronize();
        });
    } else {
        refused("out of bounds: a write at shared 'dynamic'", [] {
            small_dynamic_past(32);
            return (int)cudaDeviceSynchronize();
        });
    }
}

/* One element past either end, in every build. */
Test(simt_memory, stores_past_the_ends) {
    float *x = device_floats(7);
    const char *word = built("asan") ? "use-after-poison" : "out of bounds";
    for (int at = -1; at < 8; at += 8)
        refused(word, [x, at] {
            small_store(x, at);
            return (int)cudaDeviceSynchronize();
        });
    outcome got = run_child(0, [x] {
        small_store(x, 6);
        return (int)cudaDeviceSynchronize();
    });
    cr_expect(eq(int, got.status, 0), "%s", got.text);
}

Test(simt_memory, pinned_memory_is_readable) {
    float *out = device_floats(1), *host, y = 0;
    OK(cudaMallocHost((void **)&host, sizeof *host));
    *host = 8;
    OK(small_read(out, host));
    OK(cudaMemcpy(&y, out, sizeof y, cudaMemcpyDeviceToHost));
    cr_expect(y == 8);
    OK(cudaFreeHost(host));
    float z[2];
    OK(cudaHostRegister(z, sizeof z, 0));
    GIVES(cudaErrorHostMemoryAlreadyRegistered,
          cudaHostRegister(z, sizeof z, 0));
    OK(cudaHostUnregister(z));
    GIVES(cudaErrorHostMemoryNotRegistered, cudaHostUnregister(z));
}

Test(simt_memory, protection) {
    outcome got = run_child(0, [] {
        simt_set_protect(true);
        void *p;
        float x = 2, y = 0;
        if (cudaMalloc(&p, 4) || cudaMemcpy(p, &x, 4, cudaMemcpyHostToDevice) ||
            small_add((float *)p, 1, 3, NULL) ||
            cudaMemcpy(&y, p, 4, cudaMemcpyDeviceToHost) || cudaFree(p))
            return 2;
        return y == 5 ? 0 : 1;
    });
    cr_expect(eq(int, got.status, 0), "%s", got.text);
    got = run_child(0, [] {
        simt_set_protect(true);
        void *p;
        if (cudaMalloc(&p, 4)) return 2;
        *(volatile float *)p = 1; /* host code */
        return 0;
    });
    cr_expect(ne(int, got.status, 0));
}
