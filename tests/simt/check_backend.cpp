/* check_backend.cpp - the CUDA backend as ks_dev_open gives it, on simulated
 * devices: names, sentences where there is none, facts, the whole table. */
#include "check.h"
#include "control.h"

extern "C" {
#include "dev.h"
}

static ks_err err;
static ks_dev *dev;
static const struct ks_ops *ops;

static void refused(const char *backend, const char *isa, ks_status status,
                    const char *words) {
    cr_expect(eq(int, ks_dev_open(&dev, &ops, backend, 0, isa, &err), status));
    cr_expect(dev == NULL && ops == NULL);
    cr_expect(strstr(err.text, words) != NULL, "%s", err.text);
}

Test(backend, opens) {
    simt_set_devices(2);
    simt_set_capability(9, 0);
    cr_expect(strcmp(ks_backend_name(1), "cuda") == 0);
    setenv("KS_CUBLASLT", "none", 1);
    static const struct {
        const char *backend, *isa, *gives;
    } cases[] = {
        {"cuda", NULL, "sm_90"},
        {"cuda:1", "bf16", "sm_90"},
        {"cuda:0", "sm_90", "sm_90"},
        {"cuda:1", "f32", "sm_90-f32"},
        {"cuda", "sm_90-f32", "sm_90-f32"},
    };
    for (auto &c : cases) {
        cr_assert(ks_dev_open(&dev, &ops, c.backend, 3, c.isa, &err) == KS_OK,
                  "%s", err.text);
        cr_expect(strcmp(ops->name, "cuda") == 0);
        cr_expect(strcmp(ops->isa, c.gives) == 0, "%s", ops->isa);
        cr_expect(eq(int, ks_dev_threads(dev), 1));
        cr_expect(eq(int, ks_dev_lanes(dev), 1));
        cr_expect(ops->graphs && ops->unified == false);
        ks_dev_close(&dev, ops);
        cr_expect(dev == NULL);
    }
    cr_expect(eq(sz, simt_live_allocations(), 0));
}

/* Its products have other bits than ours: what was begun with the one is not
 * continued with the other. */
Test(backend, isa_names_cublaslt) {
    const char *given = getenv("KS_CUBLASLT");
    if (!given) cr_skip("no cuBLASLt was named");
    cr_assert(ks_dev_open(&dev, &ops, "cuda", 0, "f32", &err) == KS_OK);
    char with[64];
    snprintf(with, sizeof with, "%s", ops->isa);
    const char *library = strstr(with, "-f32-lt1");
    cr_expect(library != NULL, "%s", with);
    ks_dev_close(&dev, ops);
    cr_assert(ks_dev_open(&dev, &ops, "cuda", 0, with, &err) == KS_OK);
    cr_expect(strcmp(ops->isa, with) == 0, "%s", ops->isa);
    ks_dev_close(&dev, ops);
    setenv("KS_CUBLASLT", "none", 1);
    refused("cuda", with, KS_UNSUPPORTED, "-f32");
    cr_assert(ks_dev_open(&dev, &ops, "cuda", 0, "f32", &err) == KS_OK);
    cr_expect(strstr(ops->isa, "-lt") == NULL, "%s", ops->isa);
    ks_dev_close(&dev, ops);
}

Test(backend, refusals) {
    simt_set_devices(1);
    setenv("KS_CUBLASLT", "none", 1);
    refused("cuda:1", NULL, KS_USAGE, "no CUDA device 1: 0 to 0");
    refused("cuda", "avx2", KS_UNSUPPORTED, "sm_80 (bf16 operands)");
    simt_set_capability(7, 5);
    refused("cuda", NULL, KS_UNSUPPORTED, "capability 7.5");
    simt_fail_devices(cudaErrorLaunchFailure);
    refused("cuda", NULL, KS_UNSUPPORTED, "(CUDA 13.0) says: unspecified");
    simt_fail_devices(0);
    simt_set_devices(0);
    refused("cuda", NULL, KS_UNSUPPORTED, "(CUDA 13.0) finds no device");
    simt_set_driver(12040);
    refused("cuda", NULL, KS_UNSUPPORTED,
            "is for CUDA 12.4; this build needs "
            "one for CUDA 13, version 580");
    simt_set_driver(0);
    refused("cuda:3", NULL, KS_UNSUPPORTED, "there is no NVIDIA driver here");
    cr_expect(eq(sz, simt_live_allocations(), 0));
}

Test(backend, memory) {
    simt_set_memory(64 << 20);
    cr_assert(ks_dev_open(&dev, &ops, "cuda", 0, NULL, &err) == KS_OK, "%s",
              err.text);
    size_t taken = (64 << 20) - ks_dev_room(dev);
    cr_expect(ks_dev_limit(dev, (64 << 20) + 1, "fewer rows need less", &err) ==
              KS_LIMIT);
    cr_expect(ks_dev_limit(dev, taken + 100, "fewer rows need less", &err) ==
              KS_OK);
    cr_expect(eq(sz, ks_dev_room(dev), 100));
    ks_buf buf;
    cr_expect(ops->alloc(dev, &buf, 101, "the rows", &err) == KS_NOMEM);
    cr_expect(strstr(err.text, "the rows: 101 bytes") != NULL, "%s", err.text);
    cr_expect(strstr(err.text,
                     "taken; fewer rows need less; a larger --memory") != NULL,
              "%s", err.text);
    cr_expect(ops->alloc(dev, &buf, 100, "the rows", &err) == KS_OK);
    cr_expect(eq(sz, ks_dev_room(dev), 0));
    cr_expect(ks_dev_limit(dev, taken + 99, "fewer rows need less", &err) ==
              KS_LIMIT);
    cr_expect(strstr(err.text, "in use") != NULL, "%s", err.text);
    cr_expect(ks_dev_limit(dev, 0, "fewer rows need less", &err) == KS_OK);
    cr_expect(eq(sz, ks_dev_room(dev), (64 << 20) - taken - 100));
    void *other; /* somebody else's */
    size_t left = ks_dev_room(dev);
    OK(cudaMalloc(&other, 1 << 20));
    cr_expect(eq(sz, ks_dev_room(dev), left - (1 << 20)));
    OK(cudaFree(other));
    ops->free(dev, &buf);
    ks_dev_close(&dev, ops);
}

static ks_status lane(void *user, ks_dev *on, int32_t at, int32_t i, ks_err *) {
    cr_expect(on == dev && at == 0);
    ((int *)user)[0] = ((int *)user)[0] * 10 + i;
    return i == 3 ? KS_IO : KS_OK;
}

Test(backend, each) {
    int order = 0;
    cr_assert(ks_dev_open(&dev, &ops, "cuda", 0, NULL, &err) == KS_OK);
    cr_expect(ops->each(dev, 1, 3, lane, &order, &err) == KS_OK);
    cr_expect(eq(int, order, 12));
    cr_expect(ops->each(dev, 0, 5, lane, &order, &err) == KS_IO);
    cr_expect(eq(int, order, 120123));
    cr_expect(ops->each(dev, 2, 5, lane, &order, &err) == KS_INTERNAL);
    ks_dev_close(&dev, ops);
}

Test(backend, facts) {
    simt_set_devices(2);
    simt_set_capability(12, 0);
    simt_set_memory(1 << 24);
    int n;
    ks_dev_facts facts;
    cr_expect(ks_dev_count("cuda", &n, &err) == KS_OK && n == 2);
    cr_assert(ks_dev_describe("cuda:1", &facts, &err) == KS_OK);
    cr_expect(strcmp(facts.name, "simulated device 1") == 0, "%s", facts.name);
    cr_expect(strcmp(facts.isa, "sm_120") == 0, "%s", facts.isa);
    cr_expect(eq(int, facts.multiprocessors, 4));
    cr_expect(eq(int, facts.driver, CUDART_VERSION));
    cr_expect(eq(int, facts.runtime, CUDART_VERSION));
    cr_expect(eq(sz, facts.memory, 1 << 24));
    cr_expect(eq(sz, facts.unused, 1 << 24));
    cr_expect(ks_dev_describe("cuda:2", &facts, &err) == KS_INTERNAL);
    simt_set_driver(0);
    cr_expect(ks_dev_count("cuda", &n, &err) == KS_UNSUPPORTED && n == 0);
    cr_expect(ks_dev_describe("cuda", &facts, &err) == KS_UNSUPPORTED);
}
