/* ops_cuda.cu - the CUDA backend: which device, its table, what it says where
 * there is none. Without a driver the program starts all the same: the runtime
 * is linked in and looks for libcuda itself. */
#include "blaslt.cuh"
#include "cuda_ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ devices */

/* The first driver of this toolkit's CUDA; minor versions do not matter. */
#define DRIVER (CUDART_VERSION / 1000 == 13 ? "580" : "a later one")

/* Why no device answers. */
static ks_status no_device(cudaError_t error, ks_err *err) {
    int driver = 0, need = CUDART_VERSION / 1000;
    (void)cudaGetLastError();
    (void)cudaDriverGetVersion(&driver);
    if (driver == 0)
        return ks_fail(err, KS_UNSUPPORTED,
                       "backend 'cuda': there is no NVIDIA driver here; this "
                       "build needs one for CUDA %d, version %s or later",
                       need, DRIVER);
    if (driver / 1000 < need)
        return ks_fail(err, KS_UNSUPPORTED,
                       "backend 'cuda': the NVIDIA driver here is for CUDA "
                       "%d.%d; this build needs one for CUDA %d, version %s or "
                       "later",
                       driver / 1000, driver % 1000 / 10, need, DRIVER);
    if (error == cudaErrorNoDevice)
        return ks_fail(err, KS_UNSUPPORTED,
                       "backend 'cuda': the NVIDIA driver here (CUDA %d.%d) "
                       "finds no device; CUDA_VISIBLE_DEVICES may hide it",
                       driver / 1000, driver % 1000 / 10);
    return ks_fail(err, KS_UNSUPPORTED,
                   "backend 'cuda': the NVIDIA driver here (CUDA %d.%d) says: "
                   "%s",
                   driver / 1000, driver % 1000 / 10,
                   cudaGetErrorString(error));
}

static ks_status count(int *n, ks_err *err) {
    cudaError_t error = cudaGetDeviceCount(n);
    if (error == cudaSuccess && *n > 0) return KS_OK;
    *n = 0;
    return no_device(error ? error : cudaErrorNoDevice, err);
}

static ks_status facts(int ordinal, ks_dev_facts *out, ks_err *err) {
    int n;
    cudaDeviceProp p;
    ks_status st = count(&n, err);
    if (st != KS_OK) return st;
    KS_CUDA_TRY(cudaSetDevice(ordinal), "device");
    KS_CUDA_TRY(cudaGetDeviceProperties(&p, ordinal), "device");
    KS_CUDA_TRY(cudaMemGetInfo(&out->unused, &out->memory), "device");
    KS_CUDA_TRY(cudaDriverGetVersion(&out->driver), "device");
    KS_CUDA_TRY(cudaRuntimeGetVersion(&out->runtime), "device");
    snprintf(out->name, sizeof out->name, "%s", p.name);
    snprintf(out->isa, sizeof out->isa, "sm_%d", p.major * 10 + p.minor);
    out->multiprocessors = p.multiProcessorCount;
    return KS_OK;
}

/* -------------------------------------------------------------------- table */

/* In the order of ops.h. */
static struct ks_ops table(const char *isa) {
    struct ks_ops ops = {};
    ops.name = "cuda";
    ops.isa = isa;
    ops.unified = false;
    ops.graphs = true;
    ops.each = ks__each_alone;
#define SLOT(name) ops.name = ks__cuda_##name
    SLOT(alloc);
    SLOT(free);
    SLOT(copy);
    SLOT(sync);
    SLOT(zero);
    SLOT(enter);
    SLOT(alloc_host);
    SLOT(free_host);
    SLOT(copy_out);
    SLOT(wait);
    SLOT(record);
    SLOT(recorded);
    SLOT(replay);
    SLOT(free_graph);
    SLOT(embed);
    SLOT(gemm);
    SLOT(norm);
    SLOT(add);
    SLOT(rope);
    SLOT(attention);
    SLOT(gate);
    SLOT(route);
    SLOT(group);
    SLOT(gemm_grouped);
    SLOT(gate_clamped);
    SLOT(combine);
    SLOT(pool);
    SLOT(convert);
    SLOT(count_nonfinite);
    SLOT(score);
    SLOT(sample);
    SLOT(share);
    SLOT(gemm_backward);
    SLOT(norm_backward);
    SLOT(rope_backward);
    SLOT(gate_backward);
    SLOT(attention_backward);
    SLOT(score_backward);
    SLOT(matmul);
    SLOT(l2_pass);
    SLOT(l2_gram);
    SLOT(l2_project);
    SLOT(l2_hessian);
    SLOT(adamw);
#undef SLOT
    return ops;
}

/* ----------------------------------------------------------- open and close */

/* "f32", "bf16", or one of this device's own names, which tell all that decides
 * bits: cuBLASLt's products have others than ours, and another version's may.
 */
static ks_status choose(ks_dev *dev, const char *isa, ks_err *err) {
    char plain[sizeof dev->isa], precise[sizeof dev->isa];
    char library[24] = "";
    unsigned v = (unsigned)ks__blaslt_version(dev);
    if (v)
        snprintf(library, sizeof library, "-lt%u.%u.%u", v / 10000,
                 v / 100 % 100, v % 100);
    snprintf(plain, sizeof plain, "sm_%d%s", dev->sm, library);
    snprintf(precise, sizeof precise, "sm_%d-f32%s", dev->sm, library);
    if (!isa || !*isa) isa = getenv("KS_ISA");
    if (!isa || !*isa) isa = plain;
    dev->precise = strcmp(isa, "f32") == 0 || strcmp(isa, precise) == 0;
    if (!dev->precise && strcmp(isa, "bf16") != 0 && strcmp(isa, plain) != 0)
        return ks_fail(err, KS_UNSUPPORTED,
                       "instruction set '%s' is not one that runs on device "
                       "%d: %s (bf16 operands) or %s",
                       isa, dev->ordinal, plain, precise);
    memcpy(dev->isa, dev->precise ? precise : plain, sizeof dev->isa);
    return KS_OK;
}

static void close_cuda(ks_dev **dev) {
    if (!*dev) return;
    (void)cudaSetDevice((*dev)->ordinal);
    ks__cuda_copies_close(*dev); /* waits for the device */
    ks__blaslt_close(*dev);
    ks__cuda_close(dev);
}

static ks_status fill(ks_dev *dev, const char *isa, ks_err *err) {
    ks_status st = ks__blaslt_open(dev, err);
    if (st == KS_OK) st = choose(dev, isa, err);
    if (st == KS_OK) st = ks__cuda_copies_open(dev, err);
    if (st == KS_OK) st = ks__cuda_fault_open(dev, err);
    dev->ops = table(dev->isa);
    return st;
}

/* The host's threads compute nothing here. */
static ks_status open_cuda(ks_dev **out, const struct ks_ops **ops, int ordinal,
                           int, const char *isa, ks_err *err) {
    int n;
    ks_dev *dev = NULL;
    ks_status st = count(&n, err);
    if (st == KS_OK) st = ks__cuda_open(&dev, ordinal, 0, err);
    if (st != KS_OK) return st;
    dev->backend = &ks__backend_cuda;
    st = fill(dev, isa, err);
    if (st != KS_OK) {
        close_cuda(&dev);
        return st;
    }
    *ops = &dev->ops;
    *out = dev;
    return KS_OK;
}

static int threads(const ks_dev *) {
    return 1;
}

static void few_rows(ks_dev *dev, bool few) {
    dev->few_rows = few;
}

/* Others may have taken of the device's memory; what lies unused in our pool is
 * ours, but hard to tell from it, and little. */
static size_t room(const ks_dev *dev) {
    size_t unused = 0, total = 0;
    (void)cudaMemGetInfo(&unused, &total);
    return KS_MIN(dev->memory - dev->in_use, unused);
}

const ks__backend ks__backend_cuda = {
    "cuda",    "the kernels, the driver or the device are at fault",
    open_cuda, close_cuda,
    threads,   ks__cuda_limit,
    few_rows,  room,
    count,     facts,
};
