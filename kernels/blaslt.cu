/* blaslt.cu - matrix products by NVIDIA's cuBLASLt, opened at run time so that
 * the program starts without it.
 *
 * Bits of a row. cuBLASLt chooses an algorithm by shape, the number of rows
 * included, so a product of all rows at once would give a row other bits in
 * another batch. Here every product with weights is cut into blocks of exactly
 * 512 rows, the last one filled up with zeros, and each block is the same call:
 * same shape, same alignment, same algorithm, no reduction across blocks of
 * threads (no split along k). cuBLAS promises the same bits for the same call
 * on the same kind of GPU, from one version of the library; that a row's bits
 * do not depend on its place in the block or on the other rows is not in its
 * documentation, but follows from each element being summed by one block of
 * threads in an order that its kernel fixes. That is the remaining risk, and
 * tests/simt/check_blaslt_ops.cpp has the test for it to run on a GPU.
 *
 * For few rows this multiplies zeros: while a generator runs, which has few,
 * dev->few_rows leaves all of them to the own kernel. Otherwise one of the two
 * serves all products with bf16 weights, whatever their number of rows. */
#include "blaslt.cuh"

#include <stdlib.h>
#include <string.h>

#if __has_include(<cublasLt.h>)

#include <cublasLt.h>
#include <dlfcn.h>

/* A block that does not lie in out has its rows as far apart as out's, for both
 * to be the same call: WIDEST floats at most. */
enum { BLOCK_ROWS = 512, ALIGNED = 16, WORKSPACE = 32 << 20, WIDEST = 1 << 18 };

/* X(member, symbol): all that is called. */
#define FUNCTIONS(X)                                                           \
    X(create, cublasLtCreate)                                                  \
    X(destroy, cublasLtDestroy)                                                \
    X(version, cublasLtGetVersion)                                             \
    X(say, cublasLtGetStatusString)                                            \
    X(layout, cublasLtMatrixLayoutCreate)                                      \
    X(layout_destroy, cublasLtMatrixLayoutDestroy)                             \
    X(desc, cublasLtMatmulDescCreate)                                          \
    X(desc_set, cublasLtMatmulDescSetAttribute)                                \
    X(desc_destroy, cublasLtMatmulDescDestroy)                                 \
    X(preference, cublasLtMatmulPreferenceCreate)                              \
    X(preference_set, cublasLtMatmulPreferenceSetAttribute)                    \
    X(preference_destroy, cublasLtMatmulPreferenceDestroy)                     \
    X(heuristic, cublasLtMatmulAlgoGetHeuristic)                               \
    X(matmul, cublasLtMatmul)

/* What decides an algorithm, in cuBLASLt's words (column-major): d [m, n] =
 * op(a) op(b), inner length k. */
typedef struct shape {
    int64_t m, n, k, lda, ldb, ldd;
    uint32_t aligned; /* bytes, all pointers */
    uint8_t half, ta, tb, bias;
} shape;

typedef struct plan {
    shape key;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
    bool usable; /* cuBLASLt has an algorithm */
} plan;

struct ks__blaslt {
    void *library;
    cublasLtHandle_t handle;
    plan *plans;
    size_t n_plans, room;
#define MEMBER(member, symbol) decltype(&symbol) member;
    FUNCTIONS(MEMBER)
#undef MEMBER
};

#define LT_TRY(lt, call)                                                       \
    do {                                                                       \
        cublasStatus_t try_status = (call);                                    \
        if (try_status)                                                        \
            return ks_fail(err, KS_INTERNAL, "cuBLASLt: %s",                   \
                           (lt)->say(try_status));                             \
    } while (0)

/* ----------------------------------------------------------- open and close */

/* The first symbol that is missing, or NULL. */
static const char *bind(struct ks__blaslt *lt) {
#define BIND(member, symbol)                                                   \
    lt->member = (decltype(lt->member))dlsym(lt->library, #symbol);            \
    if (!lt->member) return #symbol;
    FUNCTIONS(BIND)
#undef BIND
    return NULL;
}

static ks_status start(struct ks__blaslt *lt, const char *name, ks_err *err) {
    const char *missing = bind(lt);
    if (missing)
        return ks_fail(err, KS_UNSUPPORTED, "%s: has no %s", name, missing);
    LT_TRY(lt, lt->create(&lt->handle));
    return KS_OK;
}

ks_status ks__blaslt_open(ks_dev *dev, ks_err *err) {
    const char *named = getenv("KS_CUBLASLT");
    const char *name = named ? named : "libcublasLt.so.13";
    dev->blaslt = NULL;
    if (strcmp(name, "none") == 0) return KS_OK;
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library && !named) return KS_OK;
    if (!library)
        return ks_fail(err, KS_IO, "KS_CUBLASLT names %s: %s", name, dlerror());
    ks_status st = ks_alloc(&dev->blaslt, 1, sizeof *dev->blaslt,
                            "cuBLASLt's functions", err);
    if (st != KS_OK) (void)dlclose(library);
    if (st != KS_OK) return st;
    dev->blaslt->library = library;
    st = start(dev->blaslt, name, err);
    if (st != KS_OK) ks__blaslt_close(dev);
    return named ? st : KS_OK;
}

size_t ks__blaslt_version(const ks_dev *dev) {
    return dev->blaslt ? dev->blaslt->version() : 0;
}

static void drop_plan(const struct ks__blaslt *lt, plan *p) {
    if (p->desc) (void)lt->desc_destroy(p->desc);
    if (p->a) (void)lt->layout_destroy(p->a);
    if (p->b) (void)lt->layout_destroy(p->b);
    if (p->d) (void)lt->layout_destroy(p->d);
}

void ks__blaslt_close(ks_dev *dev) {
    struct ks__blaslt *lt = dev->blaslt;
    if (!lt) return;
    for (size_t i = 0; i < lt->n_plans; i++) drop_plan(lt, &lt->plans[i]);
    if (lt->handle) (void)lt->destroy(lt->handle);
    (void)dlclose(lt->library);
    free(lt->plans);
    free(lt);
    dev->blaslt = NULL;
}

/* -------------------------------------------------------------------- plans */

#define SET(lt, desc, which, value)                                            \
    LT_TRY(lt, (lt)->desc_set(desc, which, &(value), sizeof(value)))

static ks_status describe(const struct ks__blaslt *lt, plan *p, ks_err *err) {
    const shape *s = &p->key;
    cudaDataType_t in = s->half ? CUDA_R_16BF : CUDA_R_32F, f32 = CUDA_R_32F;
    cublasOperation_t ta = s->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t tb = s->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    LT_TRY(lt, lt->desc(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    SET(lt, p->desc, CUBLASLT_MATMUL_DESC_TRANSA, ta);
    SET(lt, p->desc, CUBLASLT_MATMUL_DESC_TRANSB, tb);
    if (s->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        SET(lt, p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
        SET(lt, p->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, f32);
    }
    int64_t a_rows = s->ta ? s->k : s->m, a_cols = s->ta ? s->m : s->k;
    int64_t b_rows = s->tb ? s->n : s->k, b_cols = s->tb ? s->k : s->n;
    LT_TRY(lt,
           lt->layout(&p->a, in, (uint64_t)a_rows, (uint64_t)a_cols, s->lda));
    LT_TRY(lt,
           lt->layout(&p->b, in, (uint64_t)b_rows, (uint64_t)b_cols, s->ldb));
    LT_TRY(lt, lt->layout(&p->d, f32, (uint64_t)s->m, (uint64_t)s->n, s->ldd));
    return KS_OK;
}

/* The library's first choice; none is no error. */
static ks_status choose(const struct ks__blaslt *lt, plan *p, ks_err *err) {
    cublasLtMatmulPreference_t want = NULL;
    LT_TRY(lt, lt->preference(&want));
    uint64_t workspace = WORKSPACE;
    uint32_t no_reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
    struct {
        cublasLtMatmulPreferenceAttributes_t which;
        const void *value;
        size_t size;
    } set[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
         sizeof workspace},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_reduction,
         sizeof no_reduction},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &p->key.aligned, 4},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &p->key.aligned, 4},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &p->key.aligned, 4},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &p->key.aligned, 4}};
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; i < sizeof set / sizeof *set && !status; i++)
        status =
            lt->preference_set(want, set[i].which, set[i].value, set[i].size);
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    memset(&best, 0, sizeof best);
    if (!status)
        status = lt->heuristic(lt->handle, p->desc, p->a, p->b, p->d, p->d,
                               want, 1, &best, &found);
    (void)lt->preference_destroy(want);
    p->usable = !status && found == 1 && !best.state;
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) status = CUBLAS_STATUS_SUCCESS;
    LT_TRY(lt, status);
    p->algo = best.algo;
    p->workspace = best.workspaceSize;
    return KS_OK;
}

/* The plan of this shape, made at its first use. */
static ks_status find_plan(struct ks__blaslt *lt, const shape *key, plan **out,
                           ks_err *err) {
    for (size_t i = 0; i < lt->n_plans; i++)
        if (memcmp(&lt->plans[i].key, key, sizeof *key) == 0) {
            *out = &lt->plans[i];
            return KS_OK;
        }
    ks_status st = ks_grow(&lt->plans, &lt->room, lt->n_plans + 1,
                           sizeof *lt->plans, "cuBLASLt's plans", err);
    if (st != KS_OK) return st;
    plan *p = &lt->plans[lt->n_plans];
    memset((void *)p, 0, sizeof *p);
    p->key = *key;
    st = describe(lt, p, err);
    if (st == KS_OK) st = choose(lt, p, err);
    if (st != KS_OK) drop_plan(lt, p);
    if (st == KS_OK) lt->n_plans++;
    *out = p;
    return st;
}

/* d = alpha op(a) op(b) + beta d (+ bias) by a usable plan. */
static ks_status multiply(ks_dev *dev, const plan *p, float alpha,
                          const void *a, const void *b, float beta, float *d,
                          const float *bias, ks_err *err) {
    struct ks__blaslt *lt = dev->blaslt;
    if (bias) SET(lt, p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    void *workspace;
    ks_status st = ks__cuda_take(dev, &workspace, p->workspace,
                                 "cuBLASLt's workspace", err);
    if (st != KS_OK) return st;
    cublasStatus_t status = lt->matmul(lt->handle, p->desc, &alpha, a, p->a, b,
                                       p->b, &beta, d, p->d, d, p->d, &p->algo,
                                       workspace, p->workspace, dev->stream);
    ks__cuda_give(dev, workspace);
    LT_TRY(lt, status);
    return KS_OK;
}

/* --------------------------------------------------------------- f32 matmul */

static bool on16(const ks_view *v) {
    return (uintptr_t)v->data % ALIGNED == 0 &&
           v->stride * (int64_t)ks_type_size(v->type) % ALIGNED == 0;
}

/* Row-major c = op(a) op(b) is column-major c^T = op(b)^T op(a)^T, and a
 * row-major matrix read by columns is its transpose already. */
ks_status ks__blaslt_matmul(ks_dev *dev, ks_view c, ks_view a, bool ta,
                            ks_view b, bool tb, float alpha, float beta,
                            bool *served, ks_err *err) {
    shape key;
    memset(&key, 0, sizeof key);
    key.m = c.cols, key.n = c.rows, key.k = ta ? a.rows : a.cols;
    key.lda = b.stride, key.ldb = a.stride, key.ldd = c.stride;
    key.ta = tb, key.tb = ta;
    key.aligned = on16(&c) && on16(&a) && on16(&b) ? ALIGNED : 4;
    plan *p = NULL;
    ks_status st = find_plan(dev->blaslt, &key, &p, err);
    *served = st == KS_OK && p->usable;
    if (!*served) return st;
    return multiply(dev, p, alpha, b.data, a.data, beta, (float *)c.data, NULL,
                    err);
}

/* ------------------------------------------------------------- bf16 weights */

/* out [rows, k] = bf16(x), and with lo != NULL lo = bf16(x - out); rows from m
 * on are zeros. Bound (computed): 6 bytes an element, 8 with lo. */
static __global__ void __launch_bounds__(256)
    terms_kernel(bf16 *hi, bf16 *lo, const float *x, int64_t x_stride, int m,
                 int k) {
    int row = (int)blockIdx.x, col = (int)(blockIdx.y * 256 + threadIdx.x) * 2;
    if (col >= k) return; /* k is even */
    const float *from = x + row * x_stride + col;
    float a = row < m ? from[0] : 0, b = row < m ? from[1] : 0;
    int64_t at = (int64_t)row * k + col;
    __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
    float2 back = __bfloat1622float2(h);
    *(__nv_bfloat162 *)(hi + at) = h;
    if (lo)
        *(__nv_bfloat162 *)(lo + at) =
            __floats2bfloat162_rn(a - back.x, b - back.y);
}

typedef struct block_scratch {
    bf16 *hi, *lo; /* [rows up to whole blocks, k]; lo NULL unless precise */
    float *edge;   /* [BLOCK_ROWS, ldd]: a block that does not lie in out */
    int64_t ldd;
} block_scratch;

static ks_status copy_rows(ks_dev *dev, float *to, int64_t to_stride,
                           const float *from, int64_t from_stride, int64_t rows,
                           int64_t cols, ks_err *err) {
    KS_CUDA_TRY(cudaMemcpy2DAsync(to, (size_t)to_stride * 4, from,
                                  (size_t)from_stride * 4, (size_t)cols * 4,
                                  (size_t)rows, cudaMemcpyDeviceToDevice,
                                  dev->stream),
                "gemm");
    return KS_OK;
}

/* Plans of a block, with and without bias; NULL: cuBLASLt has none. */
static ks_status block_plans(ks_dev *dev, const ks_view *w, int64_t ldd,
                             bool bias, shape *key, plan **out, ks_err *err) {
    memset(key, 0, sizeof *key);
    key->m = w->rows, key->n = BLOCK_ROWS, key->k = w->cols;
    key->lda = w->stride, key->ldb = w->cols, key->ldd = ldd;
    key->ta = 1, key->half = 1, key->aligned = ALIGNED, key->bias = bias;
    ks_status st = find_plan(dev->blaslt, key, out, err);
    if (st == KS_OK && !(*out)->usable) *out = NULL;
    return st;
}

/* d [BLOCK_ROWS, n] = x W^T (+ bias) (+ d), x by its terms. */
static ks_status multiply_block(ks_dev *dev, const ks_view *w,
                                const float *bias, bool accumulate, float *d,
                                const block_scratch *s, int64_t first,
                                ks_err *err) {
    shape key;
    plan *p;
    int64_t at = first * w->cols;
    ks_status st = block_plans(dev, w, s->ldd, bias != NULL, &key, &p, err);
    if (st == KS_OK)
        st = multiply(dev, p, 1, w->data, s->hi + at, accumulate, d, bias, err);
    if (st != KS_OK || !s->lo) return st;
    st = block_plans(dev, w, s->ldd, false, &key, &p, err);
    if (st == KS_OK)
        st = multiply(dev, p, 1, w->data, s->lo + at, 1, d, NULL, err);
    return st;
}

/* Rows [first, first + BLOCK_ROWS) of the product, through `edge` where out has
 * fewer rows or is not aligned. */
static ks_status one_block(ks_dev *dev, ks_view out, const ks_view *w,
                           const float *bias, bool accumulate,
                           const block_scratch *s, int64_t first, ks_err *err) {
    int64_t rows = KS_MIN(out.rows - first, (int64_t)BLOCK_ROWS);
    float *to = (float *)out.data + first * out.stride;
    if (rows == BLOCK_ROWS && on16(&out))
        return multiply_block(dev, w, bias, accumulate, to, s, first, err);
    ks_status st = KS_OK;
    if (accumulate)
        st = copy_rows(dev, s->edge, s->ldd, to, out.stride, rows, out.cols,
                       err);
    if (st == KS_OK)
        st = multiply_block(dev, w, bias, accumulate, s->edge, s, first, err);
    if (st == KS_OK)
        st = copy_rows(dev, to, out.stride, s->edge, s->ldd, rows, out.cols,
                       err);
    return st;
}

static ks_status all_blocks(ks_dev *dev, ks_view out, ks_view x,
                            const ks_view *w, const float *bias,
                            bool accumulate, const block_scratch *s,
                            ks_err *err) {
    int64_t padded = ks__ceil_div(x.rows, BLOCK_ROWS) * BLOCK_ROWS;
    dim3 grid((unsigned)padded, (unsigned)ks__ceil_div(x.cols, 512));
    KS_CUDA_TRY(launch(terms_kernel, grid, 256, 0, dev->stream, s->hi, s->lo,
                       (const float *)x.data, x.stride, (int)x.rows,
                       (int)x.cols),
                "gemm");
    ks_status st = KS_OK;
    for (int64_t m = 0; m < x.rows && st == KS_OK; m += BLOCK_ROWS)
        st = one_block(dev, out, w, bias, accumulate, s, m, err);
    return st;
}

/* Whether this serves depends on the weights and on where out's rows lie, not
 * on how many there are. */
ks_status ks__blaslt_gemm(ks_dev *dev, ks_view out, ks_view x, ks_view w,
                          const float *bias, bool accumulate, bool *served,
                          ks_err *err) {
    *served = false;
    if (w.type != KS_BF16 || w.cols % 8 || w.rows % 4 || !on16(&w) ||
        out.stride > WIDEST)
        return KS_OK;
    block_scratch s = {};
    s.ldd = out.stride % 4 ? out.cols : out.stride;
    for (int with = 0; with <= (bias != NULL); with++) {
        shape key;
        plan *p = NULL;
        ks_status st = block_plans(dev, &w, s.ldd, with, &key, &p, err);
        if (st != KS_OK || !p) return st;
    }
    *served = true;
    size_t rows = (size_t)ks__ceil_div(x.rows, BLOCK_ROWS) * BLOCK_ROWS;
    size_t bytes = rows * (size_t)x.cols * sizeof(bf16);
    void *terms = NULL, *edge = NULL;
    ks_status st = ks__cuda_take(dev, &terms, bytes * (1 + dev->precise),
                                 "x in bf16", err);
    if (st == KS_OK)
        st = ks__cuda_take(dev, &edge, BLOCK_ROWS * (size_t)s.ldd * 4,
                           "a block of a product", err);
    s.hi = (bf16 *)terms;
    s.lo = dev->precise ? s.hi + bytes / sizeof(bf16) : NULL;
    s.edge = (float *)edge;
    if (st == KS_OK)
        st = all_blocks(dev, out, x, &w, bias, accumulate, &s, err);
    ks__cuda_give(dev, edge);
    ks__cuda_give(dev, terms);
    return st;
}

#else

ks_status ks__blaslt_open(ks_dev *dev, ks_err *) {
    dev->blaslt = NULL;
    return KS_OK;
}

void ks__blaslt_close(ks_dev *) {
}

size_t ks__blaslt_version(const ks_dev *) {
    return 0;
}

ks_status ks__blaslt_matmul(ks_dev *, ks_view, ks_view, bool, ks_view, bool,
                            float, float, bool *served, ks_err *) {
    *served = false;
    return KS_OK;
}

ks_status ks__blaslt_gemm(ks_dev *, ks_view, ks_view, ks_view, const float *,
                          bool, bool *served, ks_err *) {
    *served = false;
    return KS_OK;
}

#endif
