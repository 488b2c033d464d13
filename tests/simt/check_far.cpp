/* check_far.cpp - where rows lie: every op on three rows that are four
 * gigabytes apart (offsets beyond 2^31), on the same rows side by side, and
 * with one view's rows at places that no load of 16 bytes may touch, must give
 * the same bits. So far out lie rows of a long context's logits or of a large
 * store. Memory that nobody touches costs nothing. */
#include <functional>
#include <string.h>
#include <vector>

#include "check.h"
#include "control.h"

extern "C" {
#include "half.h"
#include "ops.h"
}

namespace {

/* Floats from row to row: the third begins behind 2^31. A view has SLOT of each
 * row. */
const int64_t APART = ((int64_t)1 << 30) + 256, SLOT = 256;
enum { ROWS = 3, SLOTS = 9, DIM = 64 };
const int64_t FAR_PAGE = ((int64_t)1 << 31) / (KS_PAGE * DIM) + 3;

ks_err err;
ks_dev *dev;
const struct ks_ops *ops;
float *room;     /* [ROWS, APART], of which SLOTS * SLOT a row are used */
int slots_taken; /* of a row */

/* The same rows three times; what a call writes there is compared. odd: no row
 * begins at 16 bytes (of f32 rows; those of weights always do). */
struct both {
    ks_view near, far, odd;
    std::vector<char> values;
    int index;
};

int odd_view = -1; /* whose rows are the odd ones in place of the near */
std::vector<both> views;
uint32_t state = 1;

float number(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) * 0x1p-23f - 1;
}

void fill(const both &b, const ks_view &v) {
    size_t row = ks_type_row_bytes(v.type, v.cols);
    for (int64_t i = 0; i < v.rows; i++)
        OK(cudaMemcpy(
            (char *)v.data + i * (int64_t)ks_type_row_bytes(v.type, v.stride),
            b.values.data() + (size_t)i * row, row, cudaMemcpyDefault));
}

std::vector<char> contents(const ks_view &v) {
    size_t row = ks_type_row_bytes(v.type, v.cols);
    std::vector<char> to((size_t)v.rows * row);
    for (int64_t i = 0; i < v.rows; i++)
        OK(cudaMemcpy(to.data() + (size_t)i * row,
                      (char *)v.data +
                          i * (int64_t)ks_type_row_bytes(v.type, v.stride),
                      row, cudaMemcpyDefault));
    return to;
}

both rows(int64_t cols, ks_type type = KS_F32) {
    both b;
    b.values.resize((size_t)(ROWS * cols) * ks_type_size(type));
    for (int64_t i = 0; i < ROWS * cols; i++)
        if (type == KS_F32)
            ((float *)b.values.data())[i] = number();
        else
            ((uint16_t *)b.values.data())[i] = ks_f32_to_bf16(number());
    void *near, *odd;
    OK(cudaMalloc(&near, b.values.size()));
    OK(cudaMalloc(&odd, (size_t)(ROWS * (cols + 4)) * sizeof(float)));
    cr_assert(slots_taken < SLOTS && cols <= SLOT);
    void *far = room + SLOT * slots_taken++;
    int64_t stride = APART * 4 / (int64_t)ks_type_size(type);
    b.near = {near, ROWS, cols, cols, type};
    b.far = {far, ROWS, cols, stride, type};
    b.odd = {(float *)odd + 1, ROWS, cols, cols + 1, type};
    if (cols % 4 == 3) b.odd.stride += 2;
    if (type != KS_F32) b.odd = b.near;
    b.index = (int)views.size();
    for (const ks_view *v : {&b.near, &b.far, &b.odd}) fill(b, *v);
    views.push_back(b);
    return b;
}

/* A small array of the device. */
template <class T> T *array(std::vector<T> from) {
    void *p;
    OK(cudaMalloc(&p, from.size() * sizeof(T)));
    OK(cudaMemcpy(p, from.data(), from.size() * sizeof(T), cudaMemcpyDefault));
    return (T *)p;
}
float *numbers(int n) {
    std::vector<float> x((size_t)n);
    for (float &v : x) v = 1.5f + number();
    return array(x);
}

std::vector<char> read(const void *p, size_t n) {
    std::vector<char> to(n);
    OK(cudaMemcpy(to.data(), p, n, cudaMemcpyDefault));
    return to;
}

typedef std::function<ks_status(bool far)> call;

void run_once(const char *op, const call &run, bool far) {
    OK(cudaStreamSynchronize(NULL)); /* uploads: see upload.h */
    cr_assert(run(far) == KS_OK && ops->sync(dev, &err) == KS_OK, "%s: %s", op,
              err.text);
}

/* Runs the op on near and far rows, and with each view's rows in turn at odd
 * places; compares all views; then they are gone. */
void check(const char *op, const call &run) {
    run_once(op, run, false);
    run_once(op, run, true);
    std::vector<std::vector<char>> want;
    for (const both &b : views) {
        want.push_back(contents(b.near));
        cr_expect(contents(b.far) == want.back(), "%s: far rows of view %d", op,
                  b.index);
    }
    for (odd_view = 0; odd_view < (int)views.size(); odd_view++) {
        for (const both &b : views) fill(b, b.near);
        run_once(op, run, false);
        for (const both &b : views)
            cr_expect(contents(b.index == odd_view ? b.odd : b.near) ==
                          want[(size_t)b.index],
                      "%s: view %d with odd rows of view %d", op, b.index,
                      odd_view);
    }
    odd_view = -1;
    for (const both &b : views) OK(cudaFree(b.near.data));
    views.clear();
    slots_taken = 0;
}

/* The same for results that are arrays of their own. */
template <class T> void same(const char *op, T *const out[2], size_t n) {
    cr_expect(read(out[0], n * sizeof(T)) == read(out[1], n * sizeof(T)), "%s",
              op);
}

void begin(void) {
    if (simt_simulated()) simt_set_memory((size_t)14 << 30);
    cr_assert(ks_dev_open(&dev, &ops, "cuda", 0, "f32", &err) == KS_OK, "%s",
              err.text);
    size_t size = (size_t)((ROWS - 1) * APART + SLOTS * SLOT +
                           8 * KS_PAGE * DIM) * /* FAR_PAGE */
                  sizeof(float);
    if (cudaMalloc((void **)&room, size) != cudaSuccess)
        cr_skip("the device has no 9 GB free");
}

void end(void) {
    OK(cudaFree(room));
    ks_dev_close(&dev, ops);
}

const ks_view &at(const both &b, bool far) {
    return far ? b.far : b.index == odd_view ? b.odd : b.near;
}

} // namespace

TestSuite(far, .init = begin, .fini = end);

Test(far, rows) {
    float *w = numbers(128);
    both x = rows(128), y = rows(128), out = rows(128);
    check("norm", [&](bool f) {
        return ops->norm(dev, at(out, f), at(x, f), &at(y, f), w, 1e-6f, &err);
    });
    x = rows(96), y = rows(96);
    check("add",
          [&](bool f) { return ops->add(dev, at(x, f), at(y, f), &err); });
    x = rows(96), y = rows(96), out = rows(96);
    check("gate", [&](bool f) {
        return ops->gate(dev, at(out, f), at(x, f), at(y, f), KS_SILU, &err);
    });
    x = rows(96), out = rows(48);
    check("gate_clamped", [&](bool f) {
        return ops->gate_clamped(dev, at(out, f), at(x, f), {1.702f, 7}, &err);
    });
    int32_t *place = array<int32_t>({2, 0, 1});
    float *weight = numbers(3);
    x = rows(64), out = rows(64);
    check("combine", [&](bool f) {
        return ops->combine(dev, at(out, f), at(x, f), place, weight, 1, &err);
    });
    int32_t *row = array<int32_t>({2, 0, 1});
    both dx = rows(128), dy = rows(128);
    x = rows(128);
    check("norm_backward", [&](bool f) {
        return ops->norm_backward(dev, at(dx, f), at(dy, f), at(x, f), row, 1,
                                  w, 1e-6f, true, &err);
    });
    both dg = rows(96), du = rows(96), dout = rows(96);
    x = rows(96), y = rows(96);
    check("gate_backward", [&](bool f) {
        return ops->gate_backward(dev, at(dg, f), at(du, f), at(dout, f),
                                  at(x, f), at(y, f), row, KS_SILU, &err);
    });
    int32_t *ids = array<int32_t>({2, 0, 2});
    both table = rows(96, KS_BF16);
    out = rows(96);
    check("embed", [&](bool f) {
        return ops->embed(dev, at(out, f), at(table, f), ids, 2, &err);
    });
}

Test(far, products) {
    both x = rows(64), w = rows(64, KS_BF16), out = rows(ROWS);
    check("gemm", [&](bool f) {
        return ops->gemm(dev, at(out, f), at(x, f), at(w, f), NULL, true, &err);
    });
    w = rows(64, KS_BF16), x = rows(ROWS), out = rows(64);
    check("gemm_backward", [&](bool f) {
        return ops->gemm_backward(dev, at(out, f), at(x, f), at(w, f), true,
                                  &err);
    });
    x = rows(64), w = rows(64), out = rows(ROWS);
    check("matmul", [&](bool f) {
        return ops->matmul(dev, at(out, f), at(x, f), false, at(w, f), true, 1,
                           1, &err);
    });
    /* a width that cuBLASLt takes */
    std::vector<uint16_t> some(8 * 64);
    for (uint16_t &v : some) v = ks_f32_to_bf16(number());
    ks_view near = {array(some), 8, 64, 64, KS_BF16};
    float *dense[2] = {numbers(ROWS * 8), numbers(ROWS * 8)};
    x = rows(64);
    check("gemm, 8 wide", [&](bool f) {
        return ops->gemm(dev, ks_view_f32(dense[f], ROWS, 8), at(x, f), near,
                         NULL, false, &err);
    });
    same("gemm, 8 wide", dense, ROWS * 8);
    x = rows(64), out = rows(8);
    ks_dev_few_rows(dev, true); /* rows so far apart are left to our kernel */
    check("gemm, out far apart", [&](bool f) {
        return ops->gemm(dev, at(out, f), at(x, f), near, NULL, true, &err);
    });
    ks_dev_few_rows(dev, false);
    x = rows(64), out = rows(8);
    cr_assert(ops->gemm(dev, out.far, x.far, near, NULL, true, &err) == KS_OK,
              "%s", err.text);
    views.clear(), slots_taken = 0;
    int32_t *offsets = array<int32_t>({0, 1, 3}),
            *row = array<int32_t>({2, 0, 2});
    x = rows(64), out = rows(4);
    check("gemm_grouped", [&](bool f) {
        return ops->gemm_grouped(dev, at(out, f), at(x, f), row, near, NULL,
                                 offsets, 2, &err);
    });
}

Test(far, heads_and_capture) {
    int32_t *target = array<int32_t>({2, 0, 1});
    float *weight = numbers(ROWS), *logprob[2] = {numbers(3), numbers(3)};
    both x = rows(64), head = rows(64, KS_BF16), dx = rows(64);
    check("score_backward", [&](bool f) {
        return ops->score_backward(dev, at(dx, f), logprob[f], at(x, f),
                                   at(head, f), 0, target, weight, true, &err);
    });
    same("score_backward", logprob, 3);
    x = rows(64), head = rows(64, KS_BF16);
    check("score", [&](bool f) {
        return ops->score(dev, logprob[f], at(x, f), at(head, f), 0, target,
                          &err);
    });
    same("score", logprob, 3);
    ks_sample_spec one = {1, 0.9f, 0, {3, 4}, 5};
    ks_sample_spec *specs = array<ks_sample_spec>({one, one, one});
    int32_t *id[2] = {array<int32_t>({9, 9, 9}), array<int32_t>({8, 8, 8})};
    x = rows(64), head = rows(64, KS_BF16);
    check("sample", [&](bool f) {
        return ops->sample(dev, id[f], logprob[f], at(x, f), at(head, f), 0,
                           specs, &err);
    });
    same("sample", id, 3);
    same("sample", logprob, 3);
    double *part[2] = {array<double>({9, 9, 9}), array<double>({8, 8, 8})};
    int32_t *sets = array<int32_t>({0, 1, 4, 6});
    int32_t *ids = array<int32_t>({1, 0, 1, 2, 2, 0});
    x = rows(64), head = rows(64, KS_BF16);
    check("share", [&](bool f) {
        return ops->share(dev, part[f], at(x, f), at(head, f), 0, specs, sets,
                          ids, &err);
    });
    same("share", part, 3);
    int32_t *expert[2] = {array<int32_t>({9, 9, 9, 9, 9, 9}),
                          array<int32_t>({8, 8, 8, 8, 8, 8})};
    float *share[2] = {numbers(6), numbers(6)};
    x = rows(32);
    check("route", [&](bool f) {
        return ops->route(dev, expert[f], share[f], at(x, f), 2, true, &err);
    });
    same("route", expert, 6);
    same("route", share, 6);
    ks_pool_row *steps = array<ks_pool_row>({{1, 3, 0}, {0, 2, -1}});
    float *mean[2] = {numbers(128), numbers(128)};
    x = rows(64);
    check("pool", [&](bool f) {
        void *out[KS_N_POSITIONS] = {};
        out[KS_MEAN] = mean[f];
        return ops->pool(dev, out, KS_F32, at(x, f), steps, 2, 1u << KS_MEAN,
                         &err);
    });
    same("pool", mean, 128);
    int32_t *index = array<int32_t>({2, 0});
    x = rows(64);
    check("convert", [&](bool f) {
        return ops->convert(dev, mean[f], KS_F32, at(x, f), index, 2, &err);
    });
    same("convert", mean, 128);
    x = rows(64);
    both &b = views.back();
    ((float *)b.values.data())[2 * 64 + 63] = INFINITY;
    for (const ks_view *v : {&b.near, &b.far, &b.odd}) fill(b, *v);
    check("count_nonfinite", [&](bool f) {
        int64_t count = 0, row = 0;
        ks_status st = ops->count_nonfinite(dev, at(x, f), &count, &row, &err);
        cr_expect(count == 1 && row == 2);
        return st;
    });
}

/* Queries, keys and values far apart, stored ones in a page far out. */
Test(far, attention) {
    const int page = KS_PAGE * DIM;
    ks_rope rope = {numbers(DIM / 2), 1, DIM, false};
    ks_attn_spec spec = {2, 1, DIM, 0.125f, 0, 0, NULL};
    ks_seqs seqs[2]; /* page 0; a page beyond 2^31 floats */
    for (int f = 0; f < 2; f++)
        seqs[f] = {1,
                   ROWS,
                   array<int32_t>({0, ROWS}),
                   array<int32_t>({0}),
                   array<int32_t>({f ? (int32_t)FAR_PAGE : 0}),
                   1,
                   nullptr};
    float *near = array(std::vector<float>((size_t)page * 2));
    ks_kv_layer kv[2] = {{near, near + page},
                         {room + SLOT * SLOTS, room + SLOT * SLOTS + page}};
    both q = rows(2 * DIM), k = rows(DIM), v = rows(DIM);
    check("rope", [&](bool f) {
        return ops->rope(dev, at(q, f), at(k, f), at(v, f), DIM, &rope,
                         &seqs[f], &kv[f], &err);
    });
    for (int value = 0; value < 2; value++) {
        float *a = value ? kv[0].v : kv[0].k, *b = value ? kv[1].v : kv[1].k;
        cr_expect(read(a, ROWS * DIM * 4) ==
                      read(b + FAR_PAGE * page, ROWS * DIM * 4),
                  "the store's %s", value ? "values" : "keys");
    }
    for (int f = 0; f < 2; f++) seqs[f].past = array<int32_t>({ROWS});
    both out = rows(2 * DIM);
    q = rows(2 * DIM), k = rows(DIM), v = rows(DIM);
    check("attention", [&](bool f) {
        return ops->attention(dev, at(out, f), at(q, f), at(k, f), at(v, f),
                              &spec, &seqs[f], &kv[f], &err);
    });
}

Test(far, attention_backward) {
    ks_rope rope = {numbers(DIM / 2), 1, DIM, false};
    ks_attn_spec spec = {2, 1, DIM, 0.125f, 0, 0, NULL};
    ks_seqs seqs = {1, ROWS, array<int32_t>({0, ROWS}), NULL, NULL, 0, NULL};
    int32_t *row = array<int32_t>({0, 1, 2});
    ks_cots cots = {1, ROWS, array<int32_t>({0, ROWS}), array<int32_t>({0}),
                    row};
    both dq = rows(2 * DIM), dk = rows(DIM), dv = rows(DIM),
         dout = rows(2 * DIM), out = rows(2 * DIM), q = rows(2 * DIM),
         k = rows(DIM), v = rows(DIM);
    check("attention_backward", [&](bool f) {
        ks_status st = ops->attention(dev, at(out, f), at(q, f), at(k, f),
                                      at(v, f), &spec, &seqs, NULL, &err);
        if (st != KS_OK) return st;
        return ops->attention_backward(
            dev, at(dq, f), at(dk, f), at(dv, f), at(dout, f), at(out, f),
            at(q, f), at(k, f), at(v, f), &spec, &seqs, &cots, &err);
    });
    dq = rows(2 * DIM), dk = rows(DIM);
    check("rope_backward", [&](bool f) {
        return ops->rope_backward(dev, at(dq, f), at(dk, f), DIM, &rope, &seqs,
                                  row, &err);
    });
}
