/* check_blaslt.cpp - the cuBLASLt stand-in, opened as the backend opens the
 * real one: dlopen, dlsym. Distinct values, all transposes and orders. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <dlfcn.h>
#include <vector>

#include "child.h"

#define OK(call) cr_assert(eq(int, (int)(call), 0))

namespace {

struct library {
    decltype(&cublasLtCreate) create;
    decltype(&cublasLtDestroy) destroy;
    decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
    decltype(&cublasLtMatmulDescDestroy) desc_destroy;
    decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
    decltype(&cublasLtMatrixLayoutCreate) layout;
    decltype(&cublasLtMatrixLayoutSetAttribute) layout_set;
    decltype(&cublasLtMatmulDescCreate) desc;
    decltype(&cublasLtMatmulDescSetAttribute) desc_set;
    decltype(&cublasLtMatmulPreferenceCreate) preference;
    decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
    decltype(&cublasLtMatmul) matmul;
};

library lt;
cublasLtHandle_t handle;

template <class F> void bind(void *so, F *to, const char *name) {
    *to = (F)dlsym(so, name);
    cr_assert(to[0] != NULL, "%s", name);
}

void open_library(void) {
    const char *path = getenv("KS_CUBLASLT");
    cr_assert(path != NULL, "KS_CUBLASLT names no library (run by ctest)");
    void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    cr_assert(so != NULL, "%s", dlerror());
    bind(so, &lt.create, "cublasLtCreate");
    bind(so, &lt.destroy, "cublasLtDestroy");
    bind(so, &lt.layout_destroy, "cublasLtMatrixLayoutDestroy");
    bind(so, &lt.desc_destroy, "cublasLtMatmulDescDestroy");
    bind(so, &lt.preference_destroy, "cublasLtMatmulPreferenceDestroy");
    bind(so, &lt.layout, "cublasLtMatrixLayoutCreate");
    bind(so, &lt.layout_set, "cublasLtMatrixLayoutSetAttribute");
    bind(so, &lt.desc, "cublasLtMatmulDescCreate");
    bind(so, &lt.desc_set, "cublasLtMatmulDescSetAttribute");
    bind(so, &lt.preference, "cublasLtMatmulPreferenceCreate");
    bind(so, &lt.heuristic, "cublasLtMatmulAlgoGetHeuristic");
    bind(so, &lt.matmul, "cublasLtMatmul");
    OK(lt.create(&handle));
}

struct operand { /* a matrix on both sides */
    int rows, cols, ld, batch;
    bool row_major;
    cudaDataType type;
    std::vector<float> host;
    void *device;
    cublasLtMatrixLayout_t layout;
};

size_t place(const operand *o, int b, int i, int j) {
    int lines = o->row_major ? o->rows : o->cols;
    return (size_t)b * lines * o->ld +
           (o->row_major ? (size_t)i * o->ld + j : (size_t)j * o->ld + i);
}

size_t size_of(cudaDataType type) {
    return type == CUDA_R_32F ? 4 : 2;
}

void put(char *p, cudaDataType type, size_t i, float x) {
    if (type == CUDA_R_32F) ((float *)p)[i] = x;
    if (type == CUDA_R_16BF) ((__nv_bfloat16 *)p)[i] = __float2bfloat16(x);
    if (type == CUDA_R_16F) ((__half *)p)[i] = __float2half(x);
}

float get(const char *p, cudaDataType type, size_t i) {
    if (type == CUDA_R_32F) return ((const float *)p)[i];
    if (type == CUDA_R_16BF)
        return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
    return __half2float(((const __half *)p)[i]);
}

operand make(int rows, int cols, int batch, bool row_major, cudaDataType type,
             int seed) {
    operand o = {rows,  cols,      (row_major ? cols : rows) + 3,
                 batch, row_major, type,
                 {},    NULL,      NULL};
    int lines = row_major ? rows : cols;
    size_t n = (size_t)batch * lines * o.ld;
    o.host.resize(n);
    std::vector<char> bytes(n * size_of(type));
    for (size_t i = 0; i < n; i++) {
        /* Small integers: exact in every type, sums too. */
        o.host[i] = (float)((int)(i * 7 + (size_t)seed * 13) % 11 - 5);
        put(bytes.data(), type, i, o.host[i]);
    }
    OK(cudaMalloc(&o.device, bytes.size()));
    OK(cudaMemcpy(o.device, bytes.data(), bytes.size(),
                  cudaMemcpyHostToDevice));
    OK(lt.layout(&o.layout, type, rows, cols, o.ld));
    cublasLtOrder_t order = row_major ? CUBLASLT_ORDER_ROW : CUBLASLT_ORDER_COL;
    int64_t stride = (int64_t)lines * o.ld;
    int32_t count = batch;
    OK(lt.layout_set(o.layout, CUBLASLT_MATRIX_LAYOUT_ORDER, &order,
                     sizeof order));
    OK(lt.layout_set(o.layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                     sizeof count));
    OK(lt.layout_set(o.layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                     &stride, sizeof stride));
    return o;
}

void drop(operand *o) {
    OK(lt.layout_destroy(o->layout));
    OK(cudaFree(o->device));
}

struct trial {
    bool ta, tb, row_major, bias;
    int batch;
    cudaDataType in, out;
    float beta;
};

int wrong(trial t) {
    const int m = 5, n = 7, k = 9;
    operand a = make(t.ta ? k : m, t.ta ? m : k, t.batch, t.row_major, t.in, 1);
    operand b = make(t.tb ? n : k, t.tb ? k : n, t.batch, t.row_major, t.in, 2);
    operand d = make(m, n, t.batch, t.row_major, t.out, 3);
    operand bias = make(m, 1, 1, false, CUDA_R_32F, 4);
    cublasLtMatmulDesc_t how;
    cublasOperation_t op[] = {CUBLAS_OP_N, CUBLAS_OP_T};
    OK(lt.desc(&how, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    OK(lt.desc_set(how, CUBLASLT_MATMUL_DESC_TRANSA, &op[t.ta], sizeof *op));
    OK(lt.desc_set(how, CUBLASLT_MATMUL_DESC_TRANSB, &op[t.tb], sizeof *op));
    if (t.bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        int32_t type = CUDA_R_32F;
        OK(lt.desc_set(how, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                       sizeof epilogue));
        OK(lt.desc_set(how, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.device,
                       sizeof(void *)));
        OK(lt.desc_set(how, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type,
                       sizeof type));
    }
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    OK(lt.preference(&preference));
    OK(lt.heuristic(handle, how, a.layout, b.layout, d.layout, d.layout,
                    preference, 1, &best, &found));
    cr_assert(eq(int, found, 1));
    float alpha = 2;
    OK(lt.matmul(handle, how, &alpha, a.device, a.layout, b.device, b.layout,
                 &t.beta, d.device, d.layout, d.device, d.layout, &best.algo,
                 NULL, 0, NULL));
    std::vector<char> got(d.host.size() * size_of(t.out));
    OK(cudaMemcpy(got.data(), d.device, got.size(), cudaMemcpyDeviceToHost));
    std::vector<float> want = d.host; /* gaps between rows stay as they are */
    for (int s = 0; s < t.batch; s++)
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++) {
                float sum = 0;
                for (int l = 0; l < k; l++)
                    sum +=
                        a.host[t.ta ? place(&a, s, l, i) : place(&a, s, i, l)] *
                        b.host[t.tb ? place(&b, s, j, l) : place(&b, s, l, j)];
                float *y = &want[place(&d, s, i, j)];
                *y = alpha * sum + t.beta * *y +
                     (t.bias ? bias.host[(size_t)i] : 0);
                std::vector<char> rounded(4);
                put(rounded.data(), t.out, 0, *y);
                *y = get(rounded.data(), t.out, 0);
            }
    int bad = 0;
    for (size_t i = 0; i < want.size(); i++)
        bad += !(get(got.data(), t.out, i) == want[i]);
    for (operand *o : {&a, &b, &d, &bias}) drop(o);
    OK(lt.preference_destroy(preference));
    OK(lt.desc_destroy(how));
    return bad;
}

} // namespace

Test(simt_blaslt, products) {
    open_library();
    cudaDataType types[] = {CUDA_R_32F, CUDA_R_16BF, CUDA_R_16F};
    for (int bits = 0; bits < 16; bits++)
        for (int in = 0; in < 3; in++)
            for (int out = 0; out < 3; out++) {
                trial t = {(bits & 1) != 0, (bits & 2) != 0,
                           (bits & 4) != 0, (bits & 8) != 0,
                           1 + bits % 3,    types[in],
                           types[out],      bits % 2 ? 1.0f : 0.0f};
                int bad = wrong(t);
                cr_expect(eq(int, bad, 0), "bits %d, in %d, out %d", bits, in,
                          out);
            }
    OK(lt.destroy(handle));
}

Test(simt_blaslt, refusals) {
    open_library();
    cublasLtMatmulDesc_t how;
    cr_expect(eq(int, lt.desc(&how, CUBLAS_COMPUTE_64F, CUDA_R_64F),
                 CUBLAS_STATUS_NOT_SUPPORTED));
    OK(lt.desc(&how, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_GELU;
    cr_expect(eq(int,
                 lt.desc_set(how, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                             sizeof epilogue),
                 CUBLAS_STATUS_NOT_SUPPORTED));
    OK(lt.desc_destroy(how));
    OK(lt.desc(&how, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    operand a = make(4, 5, 1, true, CUDA_R_32F, 1);
    operand b = make(6, 3, 1, true, CUDA_R_32F, 2);
    operand d = make(4, 3, 1, true, CUDA_R_32F, 3);
    float one = 1, zero = 0;
    cr_expect(eq(int,
                 lt.matmul(handle, how, &one, a.device, a.layout, b.device,
                           b.layout, &zero, d.device, d.layout, d.device,
                           d.layout, NULL, NULL, 0, NULL),
                 CUBLAS_STATUS_INVALID_VALUE));
    /* A buffer shorter than its layout. */
    operand c = make(5, 3, 1, true, CUDA_R_32F, 4);
    outcome got = run_child(0, [&] {
        void *few;
        if (cudaMalloc(&few, 8)) return 2;
        lt.matmul(handle, how, &one, a.device, a.layout, few, c.layout, &zero,
                  d.device, d.layout, d.device, d.layout, NULL, NULL, 0, NULL);
        return 0;
    });
    cr_expect(eq(int, got.status, -1));
    cr_expect(strstr(got.text, "out of bounds") != NULL, "%s", got.text);
    for (operand *o : {&a, &b, &c, &d}) drop(o);
    OK(lt.desc_destroy(how));
    OK(lt.destroy(handle));
}
