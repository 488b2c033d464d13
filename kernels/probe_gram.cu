/* probe_gram.cu - l2_gram, l2_project, l2_hessian: sums of outer products of a
 * layer's rows. */
#include "probe_l2.cuh"

/* out[i] = share of row i's class */
static __global__ void share_kernel(float *out, const uint8_t *code, int64_t n,
                                    float zero, float one) {
    int64_t k = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (k < n) out[k] = code[k] & 1 ? one : zero;
}

/* -------------------------------------------------------- Gram, projection */

struct cover_memory {
    float *centre, *inverse, *share;
    float *q, *product, *parts, *gram;
    double *sums;
};

/* n_q 0: a Gram matrix. */
static void place_cover(cover_memory *m, pool *p, const ks_l2_rows *l2,
                        int64_t n_q, int32_t wide) {
    int64_t d = l2->d, parts = ks__ceil_div(l2->n, part_rows(l2->n));
    m->centre = (float *)place(p, d, sizeof(float));
    m->inverse = (float *)place(p, d, sizeof(float));
    m->share = (float *)place(p, l2->n, sizeof(float));
    m->gram = (float *)place(p, n_q ? 0 : d * d, sizeof(float));
    m->q = (float *)place(p, n_q * d, sizeof(float));
    m->product = (float *)place(p, l2->n * wide, sizeof(float));
    m->parts = (float *)place(p, parts * n_q * d, sizeof(float));
    m->sums = (double *)place(p, n_q * d, sizeof(double));
}

static ks_status scaled_rows(ks_dev *dev, const ks_l2_rows *l2,
                             const ks_l2_scaling *s, const cover_memory *m,
                             row_source<float> *a, ks_err *err) {
    TRY(upload(dev, m->centre, s->centre, l2->d, sizeof(float), err));
    TRY(upload(dev, m->inverse, s->inverse, l2->d, sizeof(float), err));
    KS_CUDA_TRY(launch(share_kernel, blocks_of(l2->n), THREADS, 0, dev->stream,
                       m->share, l2->code, l2->n, s->share[0], s->share[1]),
                "l2");
    *a = plain_rows<float>(l2);
    a->centre = m->centre, a->inverse = m->inverse;
    a->weight = m->share, a->weight_stride = 1;
    return KS_OK;
}

static ks_status run_gram(ks_dev *dev, const ks_l2_rows *l2,
                          const ks_l2_scaling *s, const cover_memory *m,
                          float *out, ks_err *err) {
    outer_task<float> o = {};
    TRY(scaled_rows(dev, l2, s, m, &o.a, err));
    o.part_rows = l2->n;
    o.n = o.width = (int32_t)l2->d;
    o.out = m->gram;
    unsigned int tiles = (unsigned int)ks__ceil_div(l2->d, TILE);
    KS_CUDA_TRY(launch(outer_kernel<float>, dim3(tiles, tiles), THREADS, 0,
                       dev->stream, o),
                "l2_gram");
    TRY(download(dev, out, m->gram, l2->d * l2->d, sizeof(float), err));
    KS_CUDA_TRY(cudaStreamSynchronize(dev->stream), "l2_gram");
    return KS_OK;
}

ks_status ks__cuda_l2_gram(ks_dev *dev, ks_l2_rows *l2, const ks_l2_scaling *s,
                           float *out, ks_err *err) {
    TRY(check_rows(l2, "l2_gram", err));
    pool count = {}, pieces = {};
    cover_memory m;
    place_cover(&m, &count, l2, 0, 0);
    TRY(ks__cuda_take(dev, (void **)&pieces.memory, count.used, "a Gram matrix",
                      err));
    place_cover(&m, &pieces, l2, 0, 0);
    ks_status st = run_gram(dev, l2, s, &m, out, err);
    ks__cuda_give(dev, pieces.memory);
    return st;
}

/* Both products, and their parts added up. */
static ks_status queue_project(ks_dev *dev, const row_source<float> *a,
                               const cover_memory *m, int32_t n_q, int32_t wide,
                               ks_err *err) {
    int64_t per = part_rows(a->n), parts = ks__ceil_div(a->n, per);
    int64_t row_tiles = ks__ceil_div(a->n, TILE), size = (int64_t)n_q * a->d;
    product_task<float> p = {};
    p.a = *a;
    p.kind = KEEP;
    p.n = n_q, p.wide = wide;
    p.w = m->q, p.out = m->product;
    KS_CUDA_TRY(launch(product_kernel<float>,
                       (unsigned)(row_tiles * wide / TILE), THREADS, 0,
                       dev->stream, p),
                "l2_project");
    outer_task<float> o = {};
    o.a = *a;
    o.part_rows = per;
    o.r = m->product, o.wide = wide;
    o.n = n_q, o.width = a->d, o.out = m->parts;
    KS_CUDA_TRY(launch(outer_kernel<float>,
                       dim3((unsigned)ks__ceil_div(a->d, TILE),
                            (unsigned)(wide / TILE), (unsigned)parts),
                       THREADS, 0, dev->stream, o),
                "l2_project");
    KS_CUDA_TRY(launch(add_parts_kernel<float>, blocks_of(size), THREADS, 0,
                       dev->stream, m->sums, m->parts, size, parts),
                "l2_project");
    KS_CUDA_TRY(launch(narrow_kernel, blocks_of(size), THREADS, 0, dev->stream,
                       m->q, m->sums, size),
                "l2_project");
    return KS_OK;
}

static ks_status run_project(ks_dev *dev, const ks_l2_rows *l2,
                             const ks_l2_scaling *s, const cover_memory *m,
                             const float *q, int64_t n_q, int32_t wide,
                             float *out, ks_err *err) {
    row_source<float> a;
    TRY(scaled_rows(dev, l2, s, m, &a, err));
    TRY(upload(dev, m->q, q, n_q * l2->d, sizeof(float), err));
    TRY(queue_project(dev, &a, m, (int32_t)n_q, wide, err));
    TRY(download(dev, out, m->q, n_q * l2->d, sizeof(float), err));
    KS_CUDA_TRY(cudaStreamSynchronize(dev->stream), "l2_project");
    return KS_OK;
}

ks_status ks__cuda_l2_project(ks_dev *dev, ks_l2_rows *l2,
                              const ks_l2_scaling *s, const float *q,
                              int64_t n_q, float *out, ks_err *err) {
    TRY(check_rows(l2, "l2_project", err));
    if (n_q < 1)
        return ks_fail(err, KS_INTERNAL, "l2_project: %lld vectors",
                       (long long)n_q);
    int32_t wide = (int32_t)ks__ceil_div(n_q, TILE) * TILE;
    pool count = {}, pieces = {};
    cover_memory m;
    place_cover(&m, &count, l2, n_q, wide);
    TRY(ks__cuda_take(dev, (void **)&pieces.memory, count.used,
                      "a layer's spectrum", err));
    place_cover(&m, &pieces, l2, n_q, wide);
    ks_status st = run_project(dev, l2, s, &m, q, n_q, wide, out, err);
    ks__cuda_give(dev, pieces.memory);
    return st;
}

/* ------------------------------------------------------------------ Hessian */

struct hessian_memory {
    double *w, *b, *class_c, *centre, *inverse, *share, *out;
    int32_t *design;
    uint32_t *hold;
};

static void place_hessian(hessian_memory *m, pool *p, const ks_l2_rows *l2) {
    int64_t d = l2->d;
    m->w = (double *)place(p, d, sizeof(double));
    m->b = (double *)place(p, 1, sizeof(double));
    m->class_c = (double *)place(p, 2, sizeof(double));
    m->centre = (double *)place(p, d, sizeof(double));
    m->inverse = (double *)place(p, d, sizeof(double));
    m->share = (double *)place(p, l2->n * TILE, sizeof(double));
    m->out = (double *)place(p, (d + 1) * (d + 1), sizeof(double));
    m->design = (int32_t *)place(p, 1, sizeof(int32_t));
    m->hold = (uint32_t *)place(p, 1, sizeof(uint32_t));
}

/* One column: its rows' shares, then their outer products. A few columns of a
 * layer get here, one after another; each fills the machine. */
static ks_status run_hessian(ks_dev *dev, const ks_l2_rows *l2,
                             const ks_l2_hessian *h, const hessian_memory *m,
                             ks_err *err) {
    int64_t d = l2->d, width = d + 1;
    TRY(upload(dev, m->w, h->w, d, sizeof(double), err));
    TRY(upload(dev, m->b, &h->b, 1, sizeof(double), err));
    TRY(upload(dev, m->class_c, h->class_c, 2, sizeof(double), err));
    TRY(upload(dev, m->centre, h->centre, d, sizeof(double), err));
    TRY(upload(dev, m->inverse, h->inverse, d, sizeof(double), err));
    TRY(upload(dev, m->design, &h->design, 1, sizeof(int32_t), err));
    TRY(upload(dev, m->hold, &h->hold, 1, sizeof(uint32_t), err));
    product_task<double> p = {};
    p.a = plain_rows<double>(l2);
    p.kind = CURVATURE;
    p.n = 1, p.wide = TILE;
    p.w = m->w, p.out = m->share;
    p.code = l2->code, p.design = m->design, p.hold = m->hold;
    p.class_c = m->class_c, p.b = m->b;
    KS_CUDA_TRY(launch(product_kernel<double>,
                       (unsigned)ks__ceil_div(l2->n, TILE), THREADS, 0,
                       dev->stream, p),
                "l2_hessian");
    outer_task<double> o = {};
    o.a = p.a;
    o.a.centre = m->centre, o.a.inverse = m->inverse, o.a.ones = true;
    o.a.weight = m->share, o.a.weight_stride = TILE;
    o.part_rows = l2->n;
    o.n = o.width = (int32_t)width;
    o.out = m->out;
    unsigned int tiles = (unsigned int)ks__ceil_div(width, TILE);
    KS_CUDA_TRY(launch(outer_kernel<double>, dim3(tiles, tiles), THREADS, 0,
                       dev->stream, o),
                "l2_hessian");
    TRY(download(dev, h->out, m->out, width * width, sizeof(double), err));
    KS_CUDA_TRY(cudaStreamSynchronize(dev->stream), "l2_hessian");
    return KS_OK;
}

ks_status ks__cuda_l2_hessian(ks_dev *dev, ks_l2_rows *l2,
                              const ks_l2_hessian *columns, int32_t n,
                              ks_err *err) {
    TRY(check_rows(l2, "l2_hessian", err));
    pool count = {}, pieces = {};
    hessian_memory m;
    place_hessian(&m, &count, l2);
    TRY(ks__cuda_take(dev, (void **)&pieces.memory, count.used,
                      "a column's Hessian", err));
    place_hessian(&m, &pieces, l2);
    ks_status st = KS_OK;
    for (int32_t k = 0; st == KS_OK && k < n && !ks_interrupted; k++)
        st = run_hessian(dev, l2, &columns[k], &m, err);
    ks__cuda_give(dev, pieces.memory);
    return st;
}
