/* attention_batch.h - a random packed batch for the attention checks: queries,
 * keys, values, store and pages on host and device, and what the answer is. */
#ifndef KS_SIMT_ATTENTION_BATCH_H
#define KS_SIMT_ATTENTION_BATCH_H

#include <string.h>
#include <vector>

#include "check.h"
#include "compare.h"
#include "control.h"
#include "upload.h"

#include "../../kernels/cuda.cuh"
#include "../../kernels/cuda_ops.h"

typedef std::vector<float> floats;

/* A sequence: tokens in the store, new ones, and how many of the first have
 * the same pages as those of the sequence before. */
struct part {
    int32_t past, n, shared;
};

enum wrong {
    NOTHING_WRONG,
    WRONG_HEADS,
    NO_HEADS,
    NO_KV_HEADS,
    WRONG_DIM,
    NO_DIM,
    NO_STORE,
    NO_PAGES,
    SHORT_OUT,
    NARROW_Q,
    TYPE_OF_K,
    STRIDE_OF_V,
    NO_TOKENS,
    NO_MEMORY
};

/* Number i of a stream of numbers in [-1, 1). */
static inline float number_at(uint64_t stream, uint64_t i) {
    uint64_t x = (stream * 0x9e3779b97f4a7c15u) ^ (i * 0xbf58476d1ce4e5b9u);
    x ^= x >> 31, x *= 0x94d049bb133111ebu;
    x ^= x >> 29, x *= 0xbf58476d1ce4e5b9u;
    return (float)((x ^ x >> 32) >> 40 & 0xffffff) * 0x1p-23f - 1;
}

/* Memory of the device with exactly these contents: reads past the end are
 * caught. */
template <class T> struct on_device {
    T *data;
    size_t n;
    on_device(const T *from, size_t count) : data(NULL), n(count) {
        OK(cudaMalloc(&data, n * sizeof(T) + (n == 0)));
        OK(upload(data, from, n * sizeof(T)));
    }
    explicit on_device(const std::vector<T> &x)
        : on_device(x.data(), x.size()) {
    }
    ~on_device() {
        OK(cudaFree(data));
    }
    on_device(const on_device &) = delete;
};

struct attn_batch {
    ks_attn_spec spec;
    floats sinks, q, k, v, out, store_k, store_v;
    std::vector<part> parts;
    std::vector<int32_t> offsets, past, pages;
    std::vector<int32_t> hidden; /* [n_seq, 2], or empty */
    int32_t n_seq, n_tok, max_pages, n_pages;
    int64_t q_cols, kv_cols, q_stride, kv_stride;
    uint64_t launches;
    std::vector<uint64_t> own; /* stream of a sequence's numbers */
    std::vector<int32_t> root; /* [n_seq, max_pages] whose page it is */

    /* Tokens have the same numbers in every batch whose first sequence is the
     * root, by position: batches can be compared. */
    attn_batch(ks_attn_spec spec_, bool sinks_, const part *parts_, int32_t n,
               int32_t pad)
        : spec(spec_), parts(parts_, parts_ + n), n_seq(n), n_tok(0) {
        for (int32_t s = 0; s < n; s++) own.push_back((uint64_t)s);
        build(sinks_, pad);
    }

    /* Sequence s with its numbers. */
    attn_batch alone(int32_t s) const {
        attn_batch b = *this;
        b.parts = {{parts[s].past, parts[s].n, 0}};
        b.own = {own[s]};
        if (!hidden.empty())
            b.hidden = {hidden[(size_t)s * 2], hidden[(size_t)s * 2 + 1]};
        b.n_seq = 1, b.n_tok = 0;
        std::vector<int32_t> streams(root.begin() + s * max_pages,
                                     root.begin() + (s + 1) * max_pages);
        b.build(!sinks.empty(), 0, &streams);
        return b;
    }

    void build(bool with_sinks, int32_t pad,
               const std::vector<int32_t> *streams = NULL) {
        q_cols = (int64_t)spec.n_heads * spec.head_dim;
        kv_cols = (int64_t)spec.n_kv_heads * spec.head_dim;
        q_stride = q_cols + pad, kv_stride = kv_cols + pad;
        sinks.clear();
        for (int32_t h = 0; with_sinks && h < spec.n_heads; h++)
            sinks.push_back(3 * number_at(99, (uint64_t)h));
        offsets = {0}, past.clear(), max_pages = 0;
        for (const part &p : parts) {
            offsets.push_back(offsets.back() + p.n);
            past.push_back(p.past);
            int32_t need = (p.past + p.n + KS_PAGE - 1) / KS_PAGE;
            max_pages = need > max_pages ? need : max_pages;
        }
        n_tok = offsets.back();
        number_pages(streams);
        fill();
    }

    /* Pages in shuffled order; ids beyond a sequence's past are -1. */
    void number_pages(const std::vector<int32_t> *streams) {
        pages.assign((size_t)n_seq * max_pages, -1);
        root.assign((size_t)n_seq * max_pages, -1);
        n_pages = 0;
        for (int32_t s = 0; s < n_seq; s++)
            for (int32_t i = 0; i < max_pages; i++) {
                size_t at = (size_t)s * max_pages + i;
                root[at] = streams ? (*streams)[i] : (int32_t)own[s];
                if (i * KS_PAGE < parts[s].shared) {
                    root[at] = root[at - max_pages];
                    pages[at] = pages[at - max_pages];
                } else if (i * KS_PAGE < parts[s].past) {
                    pages[at] = n_pages++;
                }
            }
        for (int32_t &p : pages)
            if (p >= 0) p = n_pages - 1 - p;
    }

    /* Stream of the keys at a position of a sequence. */
    uint64_t stream_of(int32_t s, int32_t position) const {
        return (uint64_t)root[(size_t)s * max_pages + position / KS_PAGE];
    }

    float key(int32_t s, int32_t position, int64_t col, bool value) const {
        return number_at(stream_of(s, position) * 4 + 10 + value,
                         (uint64_t)(position * kv_cols + col));
    }

    void fill() {
        q.assign((size_t)(n_tok ? (n_tok - 1) * q_stride + q_cols : 0), NAN);
        k.assign((size_t)(n_tok ? (n_tok - 1) * kv_stride + kv_cols : 0), NAN);
        v = k;
        store_k.assign((size_t)n_pages * KS_PAGE * kv_cols, NAN);
        store_v = store_k;
        for (int32_t s = 0; s < n_seq; s++)
            for (int32_t t = 0; t < parts[s].past + parts[s].n; t++)
                fill_token(s, t);
    }

    void fill_token(int32_t s, int32_t t) {
        int64_t row = offsets[s] + t - past[s];
        bool stored = t < past[s];
        int64_t at = row * kv_stride;
        if (stored)
            at =
                ((int64_t)pages[(size_t)s * max_pages + t / KS_PAGE] * KS_PAGE +
                 t % KS_PAGE) *
                kv_cols;
        for (int64_t j = 0; j < kv_cols; j++) {
            (stored ? store_k : k)[at + j] = key(s, t, j, false);
            (stored ? store_v : v)[at + j] = key(s, t, j, true);
        }
        for (int64_t j = 0; !stored && j < q_cols; j++)
            q[row * q_stride + j] =
                number_at(own[s] * 4 + 12, (uint64_t)(t * q_cols + j));
    }

    /* ---------------------------------------------------------------- runs */

    ks_seqs seqs_at(const int32_t *o, const int32_t *p, const int32_t *ids,
                    const int32_t *hide) {
        bool any = n_pages > 0;
        return {n_seq,
                n_tok,
                o,
                any ? p : NULL,
                any ? ids : NULL,
                max_pages,
                hidden.empty() ? NULL : hide};
    }

    static ks_view view(float *data, int64_t rows, int64_t cols,
                        int64_t stride) {
        return {data, rows, cols, stride, KS_F32};
    }

    void run(bool precise) {
        ks_err err;
        ks_dev *dev;
        cr_assert(ks__cuda_open(&dev, 0, 0, &err) == KS_OK, "%s", err.text);
        dev->precise = precise;
        ks_status st = run_on(dev, NOTHING_WRONG, &err);
        cr_assert(st == KS_OK, "%s", err.text);
        cr_expect(eq(sz, dev->in_use, 0));
        ks__cuda_close(&dev);
    }

    ks_status run_wrong(int what, ks_err *err) {
        ks_dev *dev;
        cr_assert(ks__cuda_open(&dev, 0, what == NO_MEMORY ? 64 : 0, err) ==
                  KS_OK);
        ks_status st = run_on(dev, what, err);
        ks__cuda_close(&dev);
        return st;
    }

    ks_status run_on(ks_dev *dev, int what, ks_err *err) {
        out.assign((size_t)(n_tok ? (n_tok - 1) * q_stride + q_cols : 0),
                   -12345.678f);
        on_device<float> dq(q), dk(k), dv(v), dout(out), dsk(store_k),
            dsv(store_v), dsinks(sinks);
        on_device<int32_t> doff(offsets), dpast(past), dpages(pages),
            dhidden(hidden);
        ks_seqs seqs =
            seqs_at(doff.data, dpast.data, dpages.data, dhidden.data);
        ks_kv_layer kv = {dsk.data, dsv.data};
        ks_attn_spec sp = spec;
        if (!sinks.empty()) sp.sinks = dsinks.data;
        ks_view vo = view(dout.data, n_tok, q_cols, q_stride);
        ks_view vq = view(dq.data, n_tok, q_cols, q_stride);
        ks_view vk = view(dk.data, n_tok, kv_cols, kv_stride);
        ks_view vv = view(dv.data, n_tok, kv_cols, kv_stride);
        if (what == WRONG_HEADS) sp.n_heads = 3, sp.n_kv_heads = 2;
        if (what == NO_HEADS) sp.n_heads = 0;
        if (what == NO_KV_HEADS) sp.n_kv_heads = 0;
        if (what == WRONG_DIM) sp.head_dim = 257;
        if (what == NO_DIM) sp.head_dim = 0;
        if (what == NO_PAGES) seqs.pages = NULL;
        if (what == SHORT_OUT) vo.rows--;
        if (what == NARROW_Q) vq.cols--;
        if (what == TYPE_OF_K) vk.type = KS_BF16;
        if (what == STRIDE_OF_V) vv.stride--;
        if (what == NO_TOKENS) seqs.n_tok = 0;
        uint64_t before = simt_simulated() ? simt_launches() : 0;
        bool no_store = what == NO_STORE || n_pages == 0;
        ks_status st = ks__cuda_attention(dev, vo, vq, vk, vv, &sp, &seqs,
                                          no_store ? NULL : &kv, err);
        OK(cudaStreamSynchronize(dev->stream));
        if (simt_simulated()) launches = simt_launches() - before;
        OK(cudaMemcpy(out.data(), dout.data, out.size() * sizeof(float),
                      cudaMemcpyDeviceToHost));
        return st;
    }

    /* --------------------------------------------------------- comparisons */

    bool sees(int32_t s, int32_t position, int32_t j) const {
        if (spec.window > 0 && j <= position - spec.window) return false;
        if (hidden.empty() || position < hidden[(size_t)s * 2 + 1]) return true;
        return j < hidden[(size_t)s * 2] || j >= hidden[(size_t)s * 2 + 1];
    }

    /* One query head of a token in double. */
    void reference(double *o, int32_t s, int32_t t, int32_t h) const {
        int32_t d = spec.head_dim, position = past[s] + t;
        int64_t c = (int64_t)(h / (spec.n_heads / spec.n_kv_heads)) * d;
        const float *query = &q[(offsets[s] + t) * q_stride + (int64_t)h * d];
        std::vector<double> x((size_t)position + 1);
        double top = sinks.empty() ? -INFINITY : (double)sinks[h], total = 0;
        for (int32_t j = 0; j <= position; j++) {
            if (!sees(s, position, j)) continue;
            double sum = 0;
            for (int32_t i = 0; i < d; i++)
                sum += (double)query[i] * (double)key(s, j, c + i, false);
            sum *= (double)spec.scale;
            if (spec.softcap > 0)
                sum = (double)spec.softcap * tanh(sum / (double)spec.softcap);
            x[j] = sum;
            top = sum > top ? sum : top;
        }
        if (!sinks.empty()) total = exp((double)sinks[h] - top);
        for (int32_t i = 0; i < d; i++) o[i] = 0;
        for (int32_t j = 0; j <= position; j++) {
            if (!sees(s, position, j)) continue;
            double p = exp(x[j] - top);
            total += p;
            for (int32_t i = 0; i < d; i++)
                o[i] += p * (double)key(s, j, c + i, true);
        }
        for (int32_t i = 0; i < d; i++) o[i] /= total;
    }

    bool compare_reference(double tolerance) const {
        bool good = true;
        std::vector<double> want((size_t)spec.head_dim);
        for (int32_t s = 0; s < n_seq; s++)
            for (int32_t t = 0; t < parts[s].n; t++)
                for (int32_t h = 0; h < spec.n_heads; h++) {
                    reference(want.data(), s, t, h);
                    const float *got = &out[(offsets[s] + t) * q_stride +
                                            (int64_t)h * spec.head_dim];
                    good = close_f32("attention", got, want.data(), want.size(),
                                     tolerance, tolerance) &&
                           good;
                }
        return good;
    }

    bool compare_cpu(double tolerance) {
        ks_err err;
        ks_dev *dev;
        const struct ks_ops *ops;
        ks_status st = ks_dev_open(&dev, &ops, "cpu", 1, NULL, &err);
        cr_assert(st == KS_OK, "%s", err.text);
        ks_attn_spec sp = spec;
        if (!sinks.empty()) sp.sinks = sinks.data();
        floats mine(out.size());
        ks_kv_layer kv = {store_k.data(), store_v.data()};
        ks_seqs seqs =
            seqs_at(offsets.data(), past.data(), pages.data(), hidden.data());
        st = ops->attention(dev, view(mine.data(), n_tok, q_cols, q_stride),
                            view(q.data(), n_tok, q_cols, q_stride),
                            view(k.data(), n_tok, kv_cols, kv_stride),
                            view(v.data(), n_tok, kv_cols, kv_stride), &sp,
                            &seqs, n_pages ? &kv : NULL, &err);
        cr_assert(st == KS_OK, "%s", err.text);
        ks_dev_close(&dev, ops);
        bool good = true;
        for (int32_t t = 0; t < n_tok; t++) {
            std::vector<double> want(&mine[t * q_stride],
                                     &mine[t * q_stride] + q_cols);
            good = close_f32("attention, CPU", &out[t * q_stride], want.data(),
                             want.size(), tolerance, tolerance) &&
                   good;
        }
        return good;
    }

    bool guards_whole() const {
        for (size_t i = 0; i < out.size(); i++)
            if ((int64_t)i % q_stride >= q_cols && out[i] != -12345.678f)
                return false;
        return true;
    }

    /* n rows from `row` on have the bits of the other's from `of` on. */
    bool rows_equal(int32_t row, const attn_batch &other, int32_t of,
                    int32_t n) const {
        for (int32_t i = 0; i < n; i++)
            if (memcmp(&out[(row + i) * q_stride],
                       &other.out[(of + i) * other.q_stride],
                       (size_t)q_cols * sizeof(float)))
                return false;
        return true;
    }
};

#endif
