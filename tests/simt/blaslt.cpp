/* blaslt.cpp - cuBLASLt's matmul as a plain loop, in a module that is opened
 * like the real library: dlopen of the path in KS_CUBLASLT. Queued on the
 * stream like a kernel; accumulates in f32 in ascending k; what it does not
 * know (other types, orders, epilogues) it refuses with
 * CUBLAS_STATUS_NOT_SUPPORTED and a line on stderr. */
#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime.h"

namespace {

struct layout {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
    cublasLtOrder_t order;
    int32_t batch;
    int64_t stride;
};

struct desc {
    cublasOperation_t op[2]; /* of a and b */
    cublasLtEpilogue_t epilogue;
    const void *bias;
    int32_t bias_type; /* -1: that of d */
};

struct preference {
    size_t workspace;
};

/* The library's opaque structs are larger than these. */
template <class T, class Opaque> T *inside(Opaque *o) {
    static_assert(sizeof(T) <= sizeof(Opaque), "fits");
    return (T *)o;
}
template <class T, class Opaque> const T *inside(const Opaque *o) {
    return (const T *)o;
}

size_t size_of(cudaDataType type) {
    return type == CUDA_R_32F                          ? 4
           : type == CUDA_R_16BF || type == CUDA_R_16F ? 2
                                                       : 0;
}

float load(const char *p, cudaDataType type, size_t i) {
    if (type == CUDA_R_32F) return ((const float *)p)[i];
    if (type == CUDA_R_16BF)
        return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
    return __half2float(((const __half *)p)[i]);
}

void store(char *p, cudaDataType type, size_t i, float x) {
    if (type == CUDA_R_32F)
        ((float *)p)[i] = x;
    else if (type == CUDA_R_16BF)
        ((__nv_bfloat16 *)p)[i] = __float2bfloat16(x);
    else
        ((__half *)p)[i] = __float2half(x);
}

size_t index_of(const layout *l, uint64_t row, uint64_t col) {
    return l->order == CUBLASLT_ORDER_ROW ? row * (uint64_t)l->ld + col
                                          : col * (uint64_t)l->ld + row;
}

size_t bytes_of(const layout *l) { /* of all the batch */
    if (!l->rows || !l->cols) return 0;
    size_t last = index_of(l, l->rows - 1, l->cols - 1) +
                  (size_t)(l->batch - 1) * (size_t)l->stride;
    return (last + 1) * size_of(l->type);
}

cublasStatus_t unknown(const char *what, int value) {
    fprintf(stderr, "simt cublasLt: %s %d is not simulated\n", what, value);
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

/* Attributes come as bytes of a stated size. */
template <class T> bool take(T *to, const void *from, size_t size) {
    if (size != sizeof *to) return false;
    memcpy(to, from, size);
    return true;
}

struct product {
    desc how;
    float alpha, beta;
    const char *a, *b, *c;
    char *d;
    layout la, lb, lc, ld;
};

} // namespace

/* ------------------------------------------------------------ the product */

static float *expand(const char *p, const layout *l, bool transposed,
                     int batch) {
    uint64_t rows = transposed ? l->cols : l->rows;
    uint64_t cols = transposed ? l->rows : l->cols;
    float *out = (float *)malloc(rows * cols * sizeof *out + 1);
    size_t base = (size_t)batch * (size_t)l->stride;
    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t j = 0; j < cols; j++)
            out[i * cols + j] = load(
                p, l->type,
                base + (transposed ? index_of(l, j, i) : index_of(l, i, j)));
    return out;
}

static float bias_of(const product *p, uint64_t row) {
    if (p->how.epilogue != CUBLASLT_EPILOGUE_BIAS) return 0;
    cudaDataType type =
        p->how.bias_type < 0 ? p->ld.type : (cudaDataType)p->how.bias_type;
    return load((const char *)p->how.bias, type, row);
}

static void multiply(const product *p) {
    uint64_t m = p->ld.rows, n = p->ld.cols;
    bool ta = p->how.op[0] != CUBLAS_OP_N, tb = p->how.op[1] != CUBLAS_OP_N;
    uint64_t k = ta ? p->la.rows : p->la.cols;
    float *row = (float *)malloc(n * sizeof *row + 1);
    for (int batch = 0; batch < p->ld.batch; batch++) {
        float *a = expand(p->a, &p->la, ta, batch);
        float *b = expand(p->b, &p->lb, tb, batch);
        size_t base_c = (size_t)batch * (size_t)p->lc.stride;
        size_t base_d = (size_t)batch * (size_t)p->ld.stride;
        for (uint64_t i = 0; i < m; i++) {
            memset(row, 0, n * sizeof *row);
            for (uint64_t l = 0; l < k; l++) {
                float x = a[i * k + l];
                for (uint64_t j = 0; j < n; j++) row[j] += x * b[l * n + j];
            }
            for (uint64_t j = 0; j < n; j++) {
                float y = p->alpha * row[j] + bias_of(p, i);
                if (p->beta != 0)
                    y += p->beta * load(p->c, p->lc.type,
                                        base_c + index_of(&p->lc, i, j));
                store(p->d, p->ld.type, base_d + index_of(&p->ld, i, j), y);
            }
        }
        free(a);
        free(b);
    }
    free(row);
    for (int batch = 0; batch < p->ld.batch; batch++) {
        /* Row or column at a time: what lies between is not written. */
        bool by_row = p->ld.order == CUBLASLT_ORDER_ROW;
        for (uint64_t i = 0; i < (by_row ? m : n); i++) {
            size_t at =
                (size_t)batch * (size_t)p->ld.stride + i * (size_t)p->ld.ld;
            size_t size = size_of(p->ld.type);
            simt_library_wrote(p->d + at * size, (by_row ? n : m) * size);
        }
    }
}

static cublasStatus_t check_shapes(const product *p) {
    uint64_t m = p->ld.rows, n = p->ld.cols;
    bool ta = p->how.op[0] != CUBLAS_OP_N, tb = p->how.op[1] != CUBLAS_OP_N;
    uint64_t am = ta ? p->la.cols : p->la.rows;
    uint64_t ak = ta ? p->la.rows : p->la.cols;
    uint64_t bk = tb ? p->lb.cols : p->lb.rows;
    uint64_t bn = tb ? p->lb.rows : p->lb.cols;
    const layout *all[] = {&p->la, &p->lb, &p->lc, &p->ld};
    for (const layout *l : all) {
        uint64_t least = l->order == CUBLASLT_ORDER_ROW ? l->cols : l->rows;
        if (l->ld < (int64_t)least || l->batch != p->ld.batch) {
            fprintf(stderr,
                    "simt cublasLt: leading dimension %lld for %llu, "
                    "batch %d for %d\n",
                    (long long)l->ld, (unsigned long long)least, l->batch,
                    p->ld.batch);
            return CUBLAS_STATUS_INVALID_VALUE;
        }
        if (!size_of(l->type)) return unknown("type", (int)l->type);
    }
    if (am == m && bn == n && ak == bk && p->lc.rows == m && p->lc.cols == n)
        return CUBLAS_STATUS_SUCCESS;
    fprintf(stderr,
            "simt cublasLt: %llu x %llu times %llu x %llu is no %llu "
            "x %llu\n",
            (unsigned long long)am, (unsigned long long)ak,
            (unsigned long long)bk, (unsigned long long)bn,
            (unsigned long long)m, (unsigned long long)n);
    return CUBLAS_STATUS_INVALID_VALUE;
}

/* -------------------------------------------------------------- the library */

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out) {
    *out = (cublasLtHandle_t)malloc(1);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion(void) {
    return CUBLAS_VERSION;
}
const char *cublasLtGetStatusString(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "success";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "invalid value";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "not supported";
    default:
        return "unknown status";
    }
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t out,
                                                 size_t size, cudaDataType type,
                                                 uint64_t rows, uint64_t cols,
                                                 int64_t ld) {
    if (size < sizeof(layout)) return CUBLAS_STATUS_INVALID_VALUE;
    *inside<layout>(out) = {type, rows, cols, ld, CUBLASLT_ORDER_COL, 1, 0};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out,
                                          cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
    *out = new cublasLtMatrixLayoutOpaque_t{};
    return cublasLtMatrixLayoutInit_internal(*out, sizeof **out, type, rows,
                                             cols, ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(const cublasLtMatrixLayout_t l) {
    delete l;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t
cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t handle,
                                 cublasLtMatrixLayoutAttribute_t which,
                                 const void *value, size_t size) {
    layout *l = inside<layout>(handle);
    bool good = true;
    switch (which) {
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        good = take(&l->order, value, size);
        if (l->order != CUBLASLT_ORDER_COL && l->order != CUBLASLT_ORDER_ROW)
            return unknown("order", (int)l->order);
        break;
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        good = take(&l->batch, value, size);
        break;
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        good = take(&l->stride, value, size);
        break;
    case CUBLASLT_MATRIX_LAYOUT_LD:
        good = take(&l->ld, value, size);
        break;
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        good = take(&l->rows, value, size);
        break;
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        good = take(&l->cols, value, size);
        break;
    default:
        return unknown("layout attribute", (int)which);
    }
    return good ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t out,
                                               size_t size,
                                               cublasComputeType_t compute,
                                               cudaDataType_t scale) {
    if (size < sizeof(desc)) return CUBLAS_STATUS_INVALID_VALUE;
    if (compute != CUBLAS_COMPUTE_32F &&
        compute != CUBLAS_COMPUTE_32F_FAST_TF32 &&
        compute != CUBLAS_COMPUTE_32F_PEDANTIC)
        return unknown("compute type", (int)compute);
    if (scale != CUDA_R_32F) return unknown("scale type", (int)scale);
    *inside<desc>(out) = {
        {CUBLAS_OP_N, CUBLAS_OP_N}, CUBLASLT_EPILOGUE_DEFAULT, NULL, -1};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out,
                                        cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    *out = new cublasLtMatmulDescOpaque_t{};
    cublasStatus_t status =
        cublasLtMatmulDescInit_internal(*out, sizeof **out, compute, scale);
    if (status) delete *out, *out = NULL;
    return status;
}
cublasStatus_t cublasLtMatmulDescDestroy(const cublasLtMatmulDesc_t d) {
    delete d;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t
cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle,
                               cublasLtMatmulDescAttributes_t which,
                               const void *value, size_t size) {
    desc *d = inside<desc>(handle);
    bool good = true;
    switch (which) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        good = take(&d->op[0], value, size);
        break;
    case CUBLASLT_MATMUL_DESC_TRANSB:
        good = take(&d->op[1], value, size);
        break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        good = take(&d->epilogue, value, size);
        if (d->epilogue != CUBLASLT_EPILOGUE_DEFAULT &&
            d->epilogue != CUBLASLT_EPILOGUE_BIAS)
            return unknown("epilogue", (int)d->epilogue);
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        good = take(&d->bias, value, size);
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        good = take(&d->bias_type, value, size);
        break;
    default:
        return unknown("matmul attribute", (int)which);
    }
    return good ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
    *out = new cublasLtMatmulPreferenceOpaque_t{};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t
cublasLtMatmulPreferenceDestroy(const cublasLtMatmulPreference_t p) {
    delete p;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t
cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t handle,
                                     cublasLtMatmulPreferenceAttributes_t which,
                                     const void *value, size_t size) {
    preference *p = inside<preference>(handle);
    uint32_t ignored; /* reduction schemes: one loop, one order */
    uint64_t bytes;
    bool good = true;
    switch (which) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        good = take(&bytes, value, size);
        if (good) p->workspace = bytes;
        break;
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        good = take(&ignored, value, size);
        break;
    default:
        return unknown("preference", (int)which);
    }
    return good ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t, cublasLtMatmulDesc_t how, cublasLtMatrixLayout_t a,
    cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
    cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t pref, int asked,
    cublasLtMatmulHeuristicResult_t results[], int *found) {
    *found = 0;
    if (asked < 1) return CUBLAS_STATUS_INVALID_VALUE;
    /* What the real one may answer: "none" or that it does not know how. */
    const char *no = getenv("KS_SIMT_NO_ALGORITHM");
    if (no)
        return strcmp(no, "none") ? CUBLAS_STATUS_NOT_SUPPORTED
                                  : CUBLAS_STATUS_SUCCESS;
    product p = {*inside<desc>(how),
                 1,
                 0,
                 NULL,
                 NULL,
                 NULL,
                 NULL,
                 *inside<layout>(a),
                 *inside<layout>(b),
                 *inside<layout>(c),
                 *inside<layout>(d)};
    cublasStatus_t status = check_shapes(&p);
    if (status) return status;
    memset((void *)&results[0], 0, sizeof results[0]);
    results[0].state = CUBLAS_STATUS_SUCCESS;
    results[0].workspaceSize = inside<preference>(pref)->workspace / 2;
    results[0].wavesCount = 1;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t how,
                              const void *alpha, const void *a,
                              cublasLtMatrixLayout_t la, const void *b,
                              cublasLtMatrixLayout_t lb, const void *beta,
                              const void *c, cublasLtMatrixLayout_t lc, void *d,
                              cublasLtMatrixLayout_t ld,
                              const cublasLtMatmulAlgo_t *, void *workspace,
                              size_t workspace_size, cudaStream_t stream) {
    if (!handle || !how || !a || !b || !d) return CUBLAS_STATUS_INVALID_VALUE;
    product p = {
        *inside<desc>(how),  *(const float *)alpha, *(const float *)beta,
        (const char *)a,     (const char *)b,       (const char *)c,
        (char *)d,           *inside<layout>(la),   *inside<layout>(lb),
        *inside<layout>(lc), *inside<layout>(ld)};
    cublasStatus_t status = check_shapes(&p);
    if (status) return status;
    if (p.how.epilogue == CUBLASLT_EPILOGUE_BIAS && !p.how.bias)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (p.beta != 0 && !c) return CUBLAS_STATUS_INVALID_VALUE;
    simt_library_check(a, bytes_of(&p.la), "cublasLtMatmul a");
    simt_library_check(b, bytes_of(&p.lb), "cublasLtMatmul b");
    if (p.beta != 0) simt_library_check(c, bytes_of(&p.lc), "cublasLtMatmul c");
    simt_library_check(d, bytes_of(&p.ld), "cublasLtMatmul d");
    if (workspace_size)
        simt_library_check(workspace, workspace_size,
                           "cublasLtMatmul workspace");
    if (p.how.epilogue == CUBLASLT_EPILOGUE_BIAS) {
        cudaDataType type =
            p.how.bias_type < 0 ? p.ld.type : (cudaDataType)p.how.bias_type;
        simt_library_check(p.how.bias, p.ld.rows * size_of(type),
                           "cublasLtMatmul bias");
    }
    int error = simt_library_submit(stream, (const void *)cublasLtMatmul,
                                    [p] { multiply(&p); });
    return error ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
}
