/* check_norm.cpp - norm with residual add, in place and for heads as rows, and
 * add: against the CPU's op and loops in double. */
#include "twin.h"

/* Rows alone and among others: the same bits, wherever the row lies. */
static void alone(twin *t, const host_rows &x, const std::vector<float> &w,
                  const host_rows &all, int64_t row) {
    host_rows one(1, x.cols, x.cols, false);
    memcpy(one.at(0), x.at(row), (size_t)x.cols * sizeof(float));
    device_rows dx(one), out(host_rows(1, x.cols, x.cols, false));
    on_device<float> dw(w);
    TWIN_OK(t, ks__cuda_norm(t->cuda, out.view(), dx.view(), NULL, dw.data,
                             1e-5f, &t->err));
    TWIN_SYNC(t);
    host_rows got = out.read();
    cr_expect(!memcmp(got.at(0), all.at(row), (size_t)x.cols * sizeof(float)),
              "row %d alone, %d columns", (int)row, (int)x.cols);
}

static std::vector<double> ref_norm(const host_rows &x,
                                    const std::vector<float> &w) {
    std::vector<double> ref;
    for (int64_t i = 0; i < x.rows; i++) {
        double sum = 0;
        for (int64_t j = 0; j < x.cols; j++)
            sum += (double)x.at(i)[j] * (double)x.at(i)[j];
        for (int64_t j = 0; j < x.cols; j++)
            ref.push_back((double)x.at(i)[j] /
                          sqrt(sum / (double)x.cols + (double)1e-5f) *
                          (double)w[(size_t)j]);
    }
    return ref;
}

static void norm_one(twin *t, int64_t rows, int64_t cols, int64_t gap,
                     bool residual) {
    host_rows x(rows, cols, cols + gap, true),
        y(rows, cols, cols + 2 * gap, true);
    host_rows cpu(rows, cols, cols + gap, false);
    std::vector<float> w;
    for (int64_t j = 0; j < cols; j++) w.push_back(random_unit());
    device_rows dx(x), dy(y), out(host_rows(rows, cols, cols + gap, false));
    on_device<float> dw(w);
    ks_view add = dy.view();
    TWIN_OK(t, ks__cuda_norm(t->cuda, out.view(), dx.view(),
                             residual ? &add : NULL, dw.data, 1e-5f, &t->err));
    TWIN_SYNC(t);
    add = y.view();
    TWIN_OK(t, t->ops->norm(t->cpu, cpu.view(), x.view(),
                            residual ? &add : NULL, w.data(), 1e-5f, &t->err));
    host_rows got = out.read();
    cr_expect(same_bits(dx.read(), x), "x, %d columns", (int)cols);
    cr_expect(rows_close("norm, CPU", got, doubles_of(cpu), 1e-9, 2e-6));
    cr_expect(rows_close("norm", got, ref_norm(x, w), 1e-9, 2e-6));
    alone(t, x, w, got, rows - 1);
    if (residual) return;
    TWIN_OK(t, ks__cuda_norm(t->cuda, dx.view(), dx.view(), NULL, dw.data,
                             1e-5f, &t->err));
    TWIN_SYNC(t);
    cr_expect(same_bits(dx.read(), got), "in place, %d columns", (int)cols);
}

/* Widths at both sides of every form's limit, 16-byte rows and others. */
Test(simt_norm, norm) {
    twin *t = twin_open();
    uint64_t seed = 0;
    for (int64_t cols : {1, 31, 34, 64, 127, 128, 129, 256, 257, 512, 513, 1021,
                         1024, 1025, 2048, 2049, 4096})
        for (int64_t gap : {0, 3, 4}) {
            simt_seed(seed++);
            norm_one(t, cols > 512 ? 3 : 17, cols, gap, seed % 2);
        }
    for (int64_t cols : {4097, 8192, 8193, 16384}) {
        norm_one(t, 1, cols, 0, true);
        norm_one(t, 2, cols, 1, false);
    }
}

Test(simt_norm, add) {
    twin *t = twin_open();
    for (int64_t cols : {1, 31, 33, 511, 512, 513, 577})
        for (int64_t gap : {0, 3, 4}) {
            host_rows x(7, cols, cols + gap, true),
                y(7, cols, cols + gap, true);
            device_rows dx(x), dy(y);
            TWIN_OK(t, ks__cuda_add(t->cuda, dx.view(), dy.view(), &t->err));
            TWIN_SYNC(t);
            TWIN_OK(t, t->ops->add(t->cpu, x.view(), y.view(), &t->err));
            cr_expect(same_bits(dx.read(), x), "%d columns", (int)cols);
        }
}

/* A NaN stays in its row. */
Test(simt_norm, nan) {
    twin *t = twin_open();
    for (int64_t cols : {33, 700}) {
        host_rows x(3, cols, cols, true);
        x.at(1)[32] = NAN;
        std::vector<float> w((size_t)cols, 1);
        device_rows dx(x);
        on_device<float> dw(w);
        TWIN_OK(t, ks__cuda_norm(t->cuda, dx.view(), dx.view(), NULL, dw.data,
                                 0, &t->err));
        TWIN_SYNC(t);
        host_rows got = dx.read();
        for (int64_t j = 0; j < cols; j++)
            cr_assert(isnan(got.at(1)[j]) && isfinite(got.at(0)[j]) &&
                      isfinite(got.at(2)[j]));
    }
}

Test(simt_norm, what_is_refused) {
    twin *t = twin_open();
    ks_view x = ks_view_f32(NULL, 0, 8), y = ks_view_f32(NULL, 0, 9);
    ks_view z = ks_view_f32(NULL, 1, 8), wide = ks_view_f32(NULL, 1, 16385);
    cr_expect(ks__cuda_add(t->cuda, x, x, &t->err) == KS_OK);
    cr_expect(ks__cuda_add(t->cuda, x, y, &t->err) == KS_INTERNAL);
    cr_expect(ks__cuda_add(t->cuda, x, z, &t->err) == KS_INTERNAL);
    cr_expect(ks__cuda_norm(t->cuda, x, x, &x, NULL, 0, &t->err) == KS_OK);
    for (ks_view bad : {y, z}) {
        cr_expect(ks__cuda_norm(t->cuda, x, bad, NULL, NULL, 0, &t->err) ==
                  KS_INTERNAL);
        cr_expect(ks__cuda_norm(t->cuda, x, x, &bad, NULL, 0, &t->err) ==
                  KS_INTERNAL);
    }
    cr_expect(ks__cuda_norm(t->cuda, wide, wide, NULL, NULL, 0, &t->err) ==
              KS_UNSUPPORTED);
    cr_expect(strstr(t->err.text, "16385") != NULL, "%s", t->err.text);
}
