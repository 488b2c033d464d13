/* rope.c - rotary positions for q and k, with the write into the KV store, and
 * the way back. */
#include "isa.h"
#include "vmath.h"

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

/* The rotation of one position; sines negative: back. */
typedef struct turn {
    float sine[KS_MAX_HEAD_DIM / 2], cosine[KS_MAX_HEAD_DIM / 2];
} turn;

static void turn_to(turn *t, const ks_rope *rope, int32_t position,
                    float direction) {
    float angle[KS_MAX_HEAD_DIM / 2];
    int32_t half = rope->rot_dims / 2;
    for (int32_t i = 0; i < half; i++)
        angle[i] = (float)position * rope->inv_freq[i];
    sines(angle, t->sine, t->cosine, half);
    for (int32_t i = 0; i < half; i++) {
        t->sine[i] *= direction * rope->scale;
        t->cosine[i] *= rope->scale;
    }
}

static void turn_heads(float *x, int64_t cols, int32_t head_dim, const turn *t,
                       const ks_rope *rope) {
    for (int64_t h = 0; h < cols; h += head_dim)
        rotate(x + h, t->cosine, t->sine, rope->rot_dims / 2,
               rope->interleaved);
}

static ks_status check(const ks_rope *rope, int32_t head_dim, int64_t q_cols,
                       int64_t k_cols, ks_err *err) {
    if (head_dim > KS_MAX_HEAD_DIM || rope->rot_dims > head_dim)
        return ks_fail(err, KS_UNSUPPORTED,
                       "rope: %d of %d dims of a head, at most %d are built in",
                       (int)rope->rot_dims, (int)head_dim,
                       (int)KS_MAX_HEAD_DIM);
    if (q_cols % head_dim || k_cols % head_dim)
        return ks_fail(err, KS_INTERNAL, "rope: %lld, %lld columns, head of %d",
                       (long long)q_cols, (long long)k_cols, (int)head_dim);
    return KS_OK;
}

ks_status KS_ISA_NAME(rope)(ks_dev *dev, ks_view q, ks_view k, ks_view v,
                            int32_t head_dim, const ks_rope *rope,
                            const ks_seqs *seqs, const ks_kv_layer *kv,
                            ks_err *err) {
    ks_status st = check(rope, head_dim, q.cols, k.cols, err);
    if (st != KS_OK) return st;
    if (v.cols != k.cols)
        return ks_fail(err, KS_INTERNAL, "rope: %lld columns of k, %lld of v",
                       (long long)k.cols, (long long)v.cols);
#pragma omp parallel for num_threads(dev->threads) if (seqs->n_tok > 8)
    for (int32_t t = 0; t < seqs->n_tok; t++) {
        turn at;
        int32_t s = ks__sequence_of(seqs, t);
        int32_t pos = ks__past(seqs, s) + t - seqs->offsets[s];
        float *qt = ks__row_f32(&q, t), *kt = ks__row_f32(&k, t);
        turn_to(&at, rope, pos, 1);
        turn_heads(qt, q.cols, head_dim, &at, rope);
        turn_heads(kt, k.cols, head_dim, &at, rope);
        if (!kv) continue;
        int32_t page =
            seqs->pages[(int64_t)s * seqs->max_pages + pos / KS_PAGE];
        int64_t to = ((int64_t)page * KS_PAGE + pos % KS_PAGE) * k.cols;
        memcpy(kv->k + to, kt, (size_t)k.cols * sizeof(float));
        memcpy(kv->v + to, ks__row_f32(&v, t), (size_t)v.cols * sizeof(float));
    }
    return KS_OK;
}

ks_status KS_ISA_NAME(rope_backward)(ks_dev *dev, ks_view dq, ks_view dk,
                                     int32_t head_dim, const ks_rope *rope,
                                     const ks_seqs *seqs, const int32_t *row,
                                     ks_err *err) {
    ks_status st = check(rope, head_dim, dq.cols, dk.cols, err);
    if (st != KS_OK) return st;
    if (dq.rows != dk.rows || (!row && dq.rows != seqs->n_tok))
        return ks_fail(
            err, KS_INTERNAL, "rope backward: %lld and %lld rows for %d tokens",
            (long long)dq.rows, (long long)dk.rows, (int)seqs->n_tok);
#pragma omp parallel for num_threads(dev->threads) if (dq.rows > 8)
    for (int64_t i = 0; i < dq.rows; i++) {
        turn at;
        int32_t t = row ? row[i] : (int32_t)i;
        int32_t s = ks__sequence_of(seqs, t);
        turn_to(&at, rope, ks__past(seqs, s) + t - seqs->offsets[s], -1);
        turn_heads(ks__row_f32(&dq, i), dq.cols, head_dim, &at, rope);
        turn_heads(ks__row_f32(&dk, i), dk.cols, head_dim, &at, rope);
    }
    return KS_OK;
}
