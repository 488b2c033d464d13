/* check_embed.cpp - rows of a table of every storage type: the bits of
 * ks_dequantize, which is the CPU's op. */
#include "twin.h"

static void embed_one(twin *t, ks_type type, int64_t cols, int64_t stride,
                      int64_t out_stride) {
    enum { VOCAB = 37, ROWS = 35 };
    std::vector<uint8_t> w = random_weights(type, VOCAB, stride);
    std::vector<int32_t> ids;
    for (int i = 0; i < ROWS; i++) ids.push_back((i * 11 + VOCAB - 1) % VOCAB);
    host_rows want(ROWS, cols, out_stride, false);
    ks_view table = {w.data(), VOCAB, cols, stride, type};
    TWIN_OK(t, t->ops->embed(t->cpu, want.view(), table, ids.data(), 3.3f,
                             &t->err));
    /* the last row ends the buffer */
    w.resize(ks_type_row_bytes(type, stride) * (VOCAB - 1) +
             ks_type_row_bytes(type, cols));
    on_device<uint8_t> dw(w);
    on_device<int32_t> di(ids);
    device_rows out(host_rows(ROWS, cols, out_stride, false));
    table.data = dw.data;
    TWIN_OK(t,
            ks__cuda_embed(t->cuda, out.view(), table, di.data, 3.3f, &t->err));
    TWIN_SYNC(t);
    cr_expect(same_bits(out.read(), want), "%s, %d columns", ks_type_name(type),
              (int)cols);
}

Test(simt_embed, every_type_has_the_cpu_s_bits) {
    twin *t = twin_open();
    for (int type = 0; type < KS_I32; type++) {
        ks_type y = (ks_type)type;
        simt_seed((uint64_t)type);
        if (ks_type_block(y) > 1) {
            embed_one(t, y, 256, 256, 256);
            embed_one(t, y, 768, 768, 771);
            continue;
        }
        for (int64_t cols : {1, 7, 8, 9, 15, 31, 33, 64, 101}) {
            embed_one(t, y, cols, cols, cols);
            embed_one(t, y, cols, cols + 3, (cols + 7) / 4 * 4);
            embed_one(t, y, cols, (cols + 15) / 8 * 8, cols + 1);
        }
    }
}

/* More than one block of threads, and blocks that end where the rows do. */
Test(simt_embed, blocks) {
    twin *t = twin_open();
    std::vector<uint8_t> w = random_weights(KS_Q4_K, 3, 256);
    std::vector<float> f(3 * 256);
    ks_dequantize(KS_Q4_K, w.data(), f.data(), 3 * 256);
    on_device<uint8_t> dw(w);
    for (int64_t rows : {8, 16, 17}) { /* 32 threads a row of 256 */
        std::vector<int32_t> ids;
        for (int64_t i = 0; i < rows; i++) ids.push_back((int32_t)(i % 3));
        on_device<int32_t> di(ids);
        device_rows out(host_rows(rows, 256, 256, false));
        TWIN_OK(t, ks__cuda_embed(t->cuda, out.view(),
                                  {dw.data, 3, 256, 256, KS_Q4_K}, di.data, 1,
                                  &t->err));
        TWIN_SYNC(t);
        host_rows got = out.read();
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < 256; j++)
                cr_assert(got.at(i)[j] == f[(size_t)(i % 3 * 256 + j)]);
    }
}

Test(simt_embed, what_is_refused) {
    twin *t = twin_open();
    ks_view out = ks_view_f32(NULL, 0, 8);
    ks_view w = {NULL, 4, 9, 9, KS_F32};
    cr_expect(ks__cuda_embed(t->cuda, out, w, NULL, 1, &t->err) == KS_INTERNAL);
    cr_expect(strstr(t->err.text, "8 columns from 9") != NULL);
    w.cols = 8;
    cr_expect(ks__cuda_embed(t->cuda, out, w, NULL, 1, &t->err) == KS_OK);
    w.type = KS_I32;
    out.rows = 1;
    cr_expect(ks__cuda_embed(t->cuda, out, w, NULL, 1, &t->err) == KS_INTERNAL);
    cr_expect(strstr(t->err.text, "i32") != NULL);
}
