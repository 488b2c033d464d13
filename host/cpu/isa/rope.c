/* rope.c - rotary positions for q and k, with the write into the KV store. */
#include "isa.h"
#include "vmath.h"

/* The sequence that holds packed token t. */
static int32_t sequence_of(const ks_seqs *seqs, int32_t t) {
    int32_t low = 0, high = seqs->n_seq;
    while (high - low > 1) {
        int32_t mid = low + (high - low) / 2;
        if (seqs->offsets[mid] <= t)
            low = mid;
        else
            high = mid;
    }
    return low;
}

/* One head: pairs (i, i + half), or neighbours. */
KS_INLINE void rotate(float *x, const float *cosine, const float *sine,
                      int32_t half, bool interleaved) {
    if (interleaved) {
        for (int32_t i = 0; i < half; i++) {
            float a = x[2 * i], b = x[2 * i + 1];
            x[2 * i] = a * cosine[i] - b * sine[i];
            x[2 * i + 1] = b * cosine[i] + a * sine[i];
        }
        return;
    }
    float *y = x + half;
    int32_t i = 0;
    for (; i + VL <= half; i += VL) {
        vf a = vload(x + i), b = vload(y + i);
        vf c = vload(cosine + i), s = vload(sine + i);
        vstore(x + i, a * c - b * s);
        vstore(y + i, b * c + a * s);
    }
    for (; i < half; i++) {
        float a = x[i], b = y[i];
        x[i] = a * cosine[i] - b * sine[i];
        y[i] = b * cosine[i] + a * sine[i];
    }
}

ks_status KS_ISA_NAME(rope)(ks_dev *dev, ks_view q, ks_view k, ks_view v,
                            int32_t head_dim, const ks_rope *rope,
                            const ks_seqs *seqs, const ks_kv_layer *kv,
                            ks_err *err) {
    int32_t half = rope->rot_dims / 2;
    if (head_dim > KS_MAX_HEAD_DIM || rope->rot_dims > head_dim)
        return ks_fail(err, KS_UNSUPPORTED,
                       "rope: %d of %d dims of a head, at most %d are built in",
                       (int)rope->rot_dims, (int)head_dim,
                       (int)KS_MAX_HEAD_DIM);
    if (q.cols % head_dim || k.cols % head_dim || v.cols != k.cols)
        return ks_fail(err, KS_INTERNAL, "rope: %lld, %lld columns, head of %d",
                       (long long)q.cols, (long long)k.cols, (int)head_dim);
#pragma omp parallel for num_threads(dev->threads) if (seqs->n_tok > 8)
    for (int32_t t = 0; t < seqs->n_tok; t++) {
        float angle[KS_MAX_HEAD_DIM / 2], sine[KS_MAX_HEAD_DIM / 2];
        float cosine[KS_MAX_HEAD_DIM / 2];
        int32_t s = sequence_of(seqs, t);
        int32_t pos = ks__past(seqs, s) + t - seqs->offsets[s];
        for (int32_t i = 0; i < half; i++)
            angle[i] = (float)pos * rope->inv_freq[i];
        sines(angle, sine, cosine, half);
        for (int32_t i = 0; i < half; i++) {
            sine[i] *= rope->scale;
            cosine[i] *= rope->scale;
        }
        float *qt = ks__row_f32(&q, t), *kt = ks__row_f32(&k, t);
        for (int64_t h = 0; h < q.cols; h += head_dim)
            rotate(qt + h, cosine, sine, half, rope->interleaved);
        for (int64_t h = 0; h < k.cols; h += head_dim)
            rotate(kt + h, cosine, sine, half, rope->interleaved);
        if (!kv) continue;
        int32_t page =
            seqs->pages[(int64_t)s * seqs->max_pages + pos / KS_PAGE];
        int64_t at = ((int64_t)page * KS_PAGE + pos % KS_PAGE) * k.cols;
        memcpy(kv->k + at, kt, (size_t)k.cols * sizeof(float));
        memcpy(kv->v + at, ks__row_f32(&v, t), (size_t)v.cols * sizeof(float));
    }
    return KS_OK;
}
