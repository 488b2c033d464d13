/* check_pool.cpp - pool, convert, count_nonfinite: the CPU's bits. */
#include "twin.h"

static const ks_pool_row STEPS[] = {
    {0, 1, -1}, {1, 3, 0}, {3, 3, 2}, {3, 26, 2}, {26, 27, 25}, {28, 35, 27},
};
enum { N_STEPS = sizeof STEPS / sizeof *STEPS, TOKENS = 35 };

static void pool_one(twin *t, ks_type type, int64_t cols, int64_t gap,
                     uint32_t set) {
    host_rows x(TOKENS, cols, cols + gap, true);
    size_t bytes = ks_type_row_bytes(type, cols) * N_STEPS;
    std::vector<uint8_t> fresh(bytes, 0xa5), want[KS_TOKENS];
    device_rows dx(x);
    on_device<ks_pool_row> rows(
        std::vector<ks_pool_row>(STEPS, STEPS + N_STEPS));
    on_device<uint8_t> *got[KS_TOKENS];
    void *to[KS_N_POSITIONS] = {}, *host[KS_N_POSITIONS] = {};
    for (int p = 0; p < KS_TOKENS; p++) {
        want[p] = fresh;
        got[p] = new on_device<uint8_t>(fresh);
        to[p] = got[p]->data;
        host[p] = want[p].data();
    }
    TWIN_OK(t, ks__cuda_pool(t->cuda, to, type, dx.view(), rows.data, N_STEPS,
                             set, &t->err));
    TWIN_SYNC(t);
    TWIN_OK(t, t->ops->pool(t->cpu, host, type, x.view(), STEPS, N_STEPS, set,
                            &t->err));
    for (int p = 0; p < KS_TOKENS; p++) {
        cr_expect(got[p]->read() == want[p], "%s, %d columns, position %d",
                  ks_type_name(type), (int)cols, p);
        delete got[p];
    }
}

Test(simt_pool, pool) {
    twin *t = twin_open();
    for (int type = KS_F32; type <= KS_BF16; type++)
        for (int64_t cols : {1, 31, 33, 512, 516, 577})
            for (int64_t gap : {0, 3, 4}) {
                simt_seed((uint64_t)(cols + gap));
                pool_one(t, (ks_type)type, cols, gap, 31 - (1 << KS_LAST));
                if (cols == 33)
                    pool_one(t, (ks_type)type, cols, gap, 1 << KS_LAST);
            }
}

/* Values whose rounding is a question: ties, subnormals, limits. */
static const float HARD[] = {
    0,
    -0.0f,
    1,
    1 + 0x1p-8f,
    1 + 0x3p-9f,
    1 + 0x1p-11f,
    1 + 0x3p-12f,
    0x1p-24f,
    0x1p-25f,
    0x1.000002p-25f,
    -0x3p-26f,
    0x1.ffcp-15f,
    65504,
    65519.996f,
    0x1p-140f,
    INFINITY,
    -INFINITY,
    NAN,
    3,
    0x1.fep127f,
};
enum { N_HARD = sizeof HARD / sizeof *HARD };

static void convert_one(twin *t, ks_type type, int64_t cols, int64_t gap,
                        bool gather) {
    host_rows x(24, cols, cols + gap, true);
    for (int i = 0; i < N_HARD - (type == KS_F16); i++) /* the last overflows */
        x.at(i)[i % cols] = HARD[i];
    std::vector<int32_t> index = {23, 0, 3, 3, 17, 1, 15, 16};
    int64_t n = gather ? (int64_t)index.size() : 24;
    std::vector<uint8_t> want(ks_type_row_bytes(type, cols) * (size_t)n);
    device_rows dx(x);
    on_device<int32_t> di(index);
    on_device<uint8_t> got(want);
    TWIN_OK(t, ks__cuda_convert(t->cuda, got.data, type, dx.view(),
                                gather ? di.data : NULL, n, &t->err));
    TWIN_SYNC(t);
    TWIN_OK(t, t->ops->convert(t->cpu, want.data(), type, x.view(),
                               gather ? index.data() : NULL, n, &t->err));
    cr_expect(got.read() == want, "%s, %d columns", ks_type_name(type),
              (int)cols);
}

Test(simt_pool, convert) {
    twin *t = twin_open();
    for (int type = KS_F32; type <= KS_BF16; type++)
        for (int64_t cols : {1, 37, 64, 512, 513})
            for (int64_t gap : {0, 3, 4}) {
                convert_one(t, (ks_type)type, cols, gap, false);
                convert_one(t, (ks_type)type, cols, gap, true);
            }
}

/* The row of the earliest overflow is in sync's answer, once. */
Test(simt_pool, beyond_f16) {
    twin *t = twin_open();
    for (int column = 0; column < 5; column++) {
        host_rows x(9, 5, 5, true);
        x.at(6)[column] = -65520;
        x.at(8)[column] = 65520;
        device_rows dx(x);
        on_device<uint8_t> out(std::vector<uint8_t>(9 * 5 * 2));
        on_device<ks_pool_row> rows({{0, 3, -1}, {3, 4, 2}, {6, 7, 5}});
        void *to[KS_N_POSITIONS] = {out.data};
        TWIN_OK(t, ks__cuda_convert(t->cuda, out.data, KS_F16, dx.view(), NULL,
                                    6, &t->err));
        TWIN_SYNC(t);
        TWIN_OK(t, ks__cuda_convert(t->cuda, out.data, KS_F16, dx.view(), NULL,
                                    9, &t->err));
        TWIN_OK(t, ks__cuda_pool(t->cuda, to, KS_F16, dx.view(), rows.data, 3,
                                 1u << KS_MEAN, &t->err));
        cr_expect(ks__cuda_fault_sync(t->cuda, &t->err) == KS_NUMERIC);
        cr_expect(strstr(t->err.text, "row 6 ") != NULL, "%s", t->err.text);
        TWIN_SYNC(t);
        TWIN_OK(t, ks__cuda_pool(t->cuda, to, KS_F16, dx.view(), rows.data, 3,
                                 1u << KS_MEAN, &t->err));
        TWIN_OK(t, ks__cuda_convert(t->cuda, out.data, KS_F16, dx.view(), NULL,
                                    9, &t->err));
        cr_expect(ks__cuda_fault_sync(t->cuda, &t->err) == KS_NUMERIC);
        cr_expect(strstr(t->err.text, "row 2 ") != NULL, "%s", t->err.text);
        TWIN_OK(t, ks__cuda_convert(t->cuda, out.data, KS_BF16, dx.view(), NULL,
                                    9, &t->err));
        TWIN_SYNC(t);
    }
}

Test(simt_pool, count_nonfinite) {
    twin *t = twin_open();
    for (int64_t cols : {5, 101, 516})
        for (int64_t gap : {0, 4}) {
            host_rows x(21, cols, cols + gap, true);
            int64_t n = -1, row = -2;
            for (int bad = 0; bad < 2; bad++) {
                device_rows dx(x);
                TWIN_OK(t, ks__cuda_count_nonfinite(t->cuda, dx.view(), &n,
                                                    &row, &t->err));
                cr_expect(n == (bad ? 6 : 0) && row == (bad ? 17 : -1),
                          "%d in row %d", (int)n, (int)row);
                for (int j = 0; j < 4; j++) x.at(17)[j] = INFINITY;
                x.at(20)[cols - 1] = NAN;
                x.at(19)[0] = -INFINITY;
                x.at(3)[4] = 3.4e38f;
            }
        }
    int64_t n = -1, row = -2;
    ks_view none = ks_view_f32(NULL, 0, 8);
    TWIN_OK(t, ks__cuda_count_nonfinite(t->cuda, none, &n, &row, &t->err));
    cr_expect(n == 0 && row == -1);
}

Test(simt_pool, what_is_refused) {
    twin *t = twin_open();
    ks_view x = ks_view_f32(NULL, 0, 8);
    void *to[KS_N_POSITIONS] = {};
    auto pool = [&](ks_type type, uint32_t set) {
        return ks__cuda_pool(t->cuda, to, type, x, NULL, 0, set, &t->err);
    };
    cr_expect(pool(KS_F32, 31) == KS_OK);
    cr_expect(pool(KS_Q8_0, 31) == KS_INTERNAL);
    cr_expect(pool(KS_F32, 32) == KS_INTERNAL);
    cr_expect(ks__cuda_convert(t->cuda, NULL, KS_F16, x, NULL, 0, &t->err) ==
              KS_OK);
    cr_expect(ks__cuda_convert(t->cuda, NULL, KS_I32, x, NULL, 0, &t->err) ==
              KS_INTERNAL);
}
