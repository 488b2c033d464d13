/* probe_l2.cu - l2_pass: one evaluation of loss derivatives for all columns,
 * in f32 or double. */
#include "probe_l2.cuh"

template <class T> struct pass_memory {
    T *w, *out, *sums, *parts;
    double *w64, *b, *class_c, *g, *rh;
    int32_t *design;
    uint32_t *hold;
    float *margin;
};

template <class T>
static void place_pass(pass_memory<T> *m, pool *p, const ks_l2_rows *l2,
                       const ks_l2_pass *pass, int32_t wide, bool margins) {
    int64_t n = pass->n, d = l2->d, rows = l2->n;
    m->w64 = (double *)place(p, n * d, sizeof(double));
    m->w = pass->exact ? (T *)m->w64 : (T *)place(p, n * d, sizeof(T));
    m->out = (T *)place(p, rows * wide, sizeof(T));
    m->sums = (T *)place(p, ks__ceil_div(rows, TILE) * 2 * wide, sizeof(T));
    m->parts =
        (T *)place(p, ks__ceil_div(rows, part_rows(rows)) * n * d, sizeof(T));
    m->b = (double *)place(p, n, sizeof(double));
    m->class_c = (double *)place(p, n, 2 * sizeof(double));
    m->g = (double *)place(p, n * d, sizeof(double));
    m->rh = (double *)place(p, 2 * (int64_t)wide, sizeof(double));
    m->design = (int32_t *)place(p, n, sizeof(int32_t));
    m->hold = (uint32_t *)place(p, n, sizeof(uint32_t));
    m->margin = margins ? (float *)place(p, rows * wide, sizeof(float)) : NULL;
}

template <class T>
static product_task<T> residuals(const ks_l2_rows *l2, const ks_l2_pass *pass,
                                 const pass_memory<T> *m, int32_t wide) {
    product_task<T> p = {};
    p.a = plain_rows<T>(l2);
    p.kind = RESIDUAL;
    p.n = pass->n, p.wide = wide;
    p.w = m->w, p.out = m->out, p.sums = m->sums;
    p.code = l2->code, p.design = m->design, p.hold = m->hold;
    p.class_c = m->class_c, p.b = m->b;
    p.margin = m->margin;
    return p;
}

/* Both products, and their parts added up. */
template <class T>
static ks_status queue_pass(ks_dev *dev, const ks_l2_rows *l2,
                            const ks_l2_pass *pass, const pass_memory<T> *m,
                            int32_t wide, ks_err *err) {
    int64_t n = pass->n, d = l2->d, per = part_rows(l2->n);
    int64_t row_tiles = ks__ceil_div(l2->n, TILE);
    int64_t parts = ks__ceil_div(l2->n, per);
    product_task<T> p = residuals(l2, pass, m, wide);
    KS_CUDA_TRY(launch(product_kernel<T>, (unsigned)(row_tiles * wide / TILE),
                       THREADS, 0, dev->stream, p),
                "l2_pass");
    KS_CUDA_TRY(launch(add_parts_kernel<T>, blocks_of(2 * wide), THREADS, 0,
                       dev->stream, m->rh, m->sums, 2 * wide, row_tiles),
                "l2_pass");
    outer_task<T> o = {};
    o.a = p.a;
    o.part_rows = per;
    o.r = m->out, o.wide = wide;
    o.n = pass->n, o.width = (int32_t)d, o.out = m->parts;
    KS_CUDA_TRY(launch(outer_kernel<T>,
                       dim3((unsigned)ks__ceil_div(d, TILE),
                            (unsigned)(wide / TILE), (unsigned)parts),
                       THREADS, 0, dev->stream, o),
                "l2_pass");
    KS_CUDA_TRY(launch(add_parts_kernel<T>, blocks_of(n * d), THREADS, 0,
                       dev->stream, m->g, m->parts, n * d, parts),
                "l2_pass");
    return KS_OK;
}

/* Held-out rows' margins to the caller's places. */
static void put_margins(const ks_l2_rows *l2, const ks_l2_pass *pass,
                        const float *z, int32_t wide) {
    for (int32_t c = 0; c < pass->n; c++) {
        if (!pass->margin[c]) continue;
        const uint8_t *code = l2->host_code + pass->design[c] * l2->n;
        for (int64_t i = 0; i < l2->n; i++)
            if (pass->hold[c] >> (code[i] / 2) & 1)
                pass->margin[c][l2->order[i]] = z[i * wide + c];
    }
}

template <class T>
static ks_status run_pass(ks_dev *dev, const ks_l2_rows *l2,
                          const ks_l2_pass *pass, const pass_memory<T> *m,
                          int32_t wide, float *z, double *rh, ks_err *err) {
    int64_t n = pass->n, d = l2->d;
    TRY(upload(dev, m->w64, pass->w, n * d, sizeof(double), err));
    TRY(upload(dev, m->b, pass->b, n, sizeof(double), err));
    TRY(upload(dev, m->class_c, pass->class_c, n, 2 * sizeof(double), err));
    TRY(upload(dev, m->design, pass->design, n, sizeof(int32_t), err));
    TRY(upload(dev, m->hold, pass->hold, n, sizeof(uint32_t), err));
    if (!pass->exact)
        KS_CUDA_TRY(launch(narrow_kernel, blocks_of(n * d), THREADS, 0,
                           dev->stream, (float *)m->w, m->w64, n * d),
                    "l2_pass");
    TRY(queue_pass(dev, l2, pass, m, wide, err));
    TRY(download(dev, pass->g, m->g, n * d, sizeof(double), err));
    TRY(download(dev, rh, m->rh, 2 * (int64_t)wide, sizeof(double), err));
    if (z) TRY(download(dev, z, m->margin, l2->n * wide, sizeof(float), err));
    KS_CUDA_TRY(cudaStreamSynchronize(dev->stream), "l2_pass");
    for (int32_t c = 0; c < pass->n; c++)
        pass->r[c] = rh[c], pass->h[c] = rh[wide + c];
    if (z) put_margins(l2, pass, z, wide);
    return KS_OK;
}

template <class T>
static ks_status pass_as(ks_dev *dev, const ks_l2_rows *l2,
                         const ks_l2_pass *pass, ks_err *err) {
    int32_t wide = (int32_t)ks__ceil_div(pass->n, TILE) * TILE;
    bool margins = false;
    for (int32_t c = 0; pass->exact && pass->margin && c < pass->n; c++)
        margins = margins || pass->margin[c];
    pool count = {}, pieces = {};
    pass_memory<T> m;
    place_pass(&m, &count, l2, pass, wide, margins);
    float *z = NULL;
    double *rh = NULL;
    ks_status st = ks_alloc(&rh, 2 * (size_t)wide, sizeof *rh, "a pass", err);
    if (st == KS_OK && margins)
        st = ks_alloc(&z, (size_t)(l2->n * wide), sizeof *z, "margins", err);
    if (st == KS_OK)
        st = ks__cuda_take(dev, (void **)&pieces.memory, count.used, "a pass",
                           err);
    if (st == KS_OK) {
        place_pass(&m, &pieces, l2, pass, wide, margins);
        st = run_pass(dev, l2, pass, &m, wide, z, rh, err);
        ks__cuda_give(dev, pieces.memory);
    }
    free(z);
    free(rh);
    return st;
}

ks_status ks__cuda_l2_pass(ks_dev *dev, ks_l2_rows *l2, const ks_l2_pass *pass,
                           ks_err *err) {
    TRY(check_rows(l2, "l2_pass", err));
    if (pass->n < 1)
        return ks_fail(err, KS_INTERNAL, "l2_pass: %d columns", pass->n);
    return pass->exact ? pass_as<double>(dev, l2, pass, err)
                       : pass_as<float>(dev, l2, pass, err);
}
