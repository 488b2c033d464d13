/* Dequantisation and 16-bit floats, bit for bit. */
#include "files.h"

#include "gguf.h"
#include "half.h"
#include "ops.h"

static const ks_gguf_tensor *tensor(const ks_gguf *g, ks_type type,
                                    const char *what) {
    char name[64];
    snprintf(name, sizeof name, "%s.%s", ks_type_name(type), what);
    const ks_gguf_tensor *t = ks_gguf_tensor_find(g, name);
    cr_assert(t != NULL, "%s", name);
    return t;
}

/* The expected numbers are the `gguf` package's own; see
 * tests/golden/make_model_files.py. */
Test(quant, every_type_equals_the_package_bit_for_bit) {
    ks_gguf *g;
    ks_err err;
    cr_assert(eq(int, ks_gguf_open(&g, KS_TEST_DATA "/model/quants.gguf", &err),
                 KS_OK),
              "%s", err.text);
    for (ks_type type = 0; type < KS_I32; type++) {
        const ks_gguf_tensor *raw = tensor(g, type, "raw");
        const ks_gguf_tensor *want = tensor(g, type, "expected");
        int64_t n = want->dims[0];
        cr_assert(eq(int, raw->type, type));
        cr_assert(eq(long, raw->dims[0], n));
        cr_assert(eq(sz, raw->size, ks_type_row_bytes(type, n)));
        float *got = malloc((size_t)n * sizeof *got);
        ks_dequantize(type, raw->data, got, n);
        for (int64_t i = 0; i < n; i++) {
            float e = ((const float *)want->data)[i];
            cr_assert(eq(u32, ks_bits_of_f32(got[i]), ks_bits_of_f32(e)),
                      "%s at %ld: got %.9g, expected %.9g", ks_type_name(type),
                      (long)i, (double)got[i], (double)e);
        }
        /* a part of a row: whole blocks from the middle */
        int64_t block = ks_type_block(type), skip = n / 2 / block * block;
        const char *middle =
            (const char *)raw->data + ks_type_row_bytes(type, skip);
        float *part = malloc((size_t)n * sizeof *part);
        ks_dequantize(type, middle, part, n - skip);
        cr_assert(memcmp(part, got + skip, (size_t)(n - skip) * sizeof *part) ==
                  0);
        free(part);
        free(got);
    }
    ks_gguf_close(&g);
    cr_assert(g == NULL);
}

Test(quant, sizes) {
    static const struct {
        ks_type type;
        int64_t block;
        size_t size;
    } want[] = {{KS_F32, 1, 4},      {KS_F16, 1, 2},      {KS_BF16, 1, 2},
                {KS_Q4_0, 32, 18},   {KS_Q4_1, 32, 20},   {KS_Q5_0, 32, 22},
                {KS_Q5_1, 32, 24},   {KS_Q8_0, 32, 34},   {KS_Q2_K, 256, 84},
                {KS_Q3_K, 256, 110}, {KS_Q4_K, 256, 144}, {KS_Q5_K, 256, 176},
                {KS_Q6_K, 256, 210}, {KS_MXFP4, 32, 17},  {KS_I32, 1, 4}};
    cr_assert(eq(sz, KS_COUNT(want), KS_N_TYPES));
    for (size_t i = 0; i < KS_COUNT(want); i++) {
        cr_expect(eq(long, ks_type_block(want[i].type), want[i].block));
        cr_expect(eq(sz, ks_type_size(want[i].type), want[i].size));
        cr_expect(eq(sz, ks_type_row_bytes(want[i].type, 512),
                     512 / (size_t)want[i].block * want[i].size));
    }
    cr_expect(eq(str, (char *)ks_type_name(KS_Q4_1), "q4_1"));
}

/* Every f16 is an f32; coming back gives the same bits. */
Test(half, f16_round_trips) {
    for (uint32_t h = 0; h < 0x10000; h++) {
        float x = ks_f16_to_f32((uint16_t)h);
        bool nan = (h & 0x7fff) > 0x7c00;
        cr_assert(eq(int, isnan(x) != 0, nan));
        uint16_t back = ks_f32_to_f16(x);
        cr_assert(nan ? (back & 0x7fff) > 0x7c00 : back == h, "%04x", h);
    }
    cr_expect(eq(flt, ks_f16_to_f32(0x3c00), 1));
    cr_expect(eq(flt, ks_f16_to_f32(0xc000), -2));
    cr_expect(eq(flt, ks_f16_to_f32(0x7bff), 65504));
    cr_expect(eq(flt, ks_f16_to_f32(0x0001), 0x1p-24f));
    cr_expect(eq(flt, ks_f16_to_f32(0x0400), 0x1p-14f));
}

/* Half way between neighbours goes to the even one, a hair off to the near
 * one; f32 has the room for both. */
Test(half, f16_rounds_to_nearest_even) {
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float low = ks_f16_to_f32((uint16_t)h);
        float high = ks_f16_to_f32((uint16_t)(h + 1));
        float middle = (low + high) / 2;
        uint32_t even = h & 1 ? h + 1 : h;
        cr_assert(eq(u32, ks_f32_to_f16(middle), even), "%04x", h);
        cr_assert(eq(u32, ks_f32_to_f16(nextafterf(middle, 0)), h));
        cr_assert(eq(u32, ks_f32_to_f16(nextafterf(middle, 1e9f)), h + 1));
        cr_assert(eq(u32, ks_f32_to_f16(-middle), even | 0x8000));
    }
    cr_expect(eq(u32, ks_f32_to_f16(nextafterf(65520, 0)), 0x7bff));
    cr_expect(eq(u32, ks_f32_to_f16(65520), 0x7c00)); /* overflow */
    cr_expect(eq(u32, ks_f32_to_f16(INFINITY), 0x7c00));
    cr_expect(eq(u32, ks_f32_to_f16(1e-30f), 0));
}

Test(half, bf16_rounds_to_nearest_even) {
    for (uint32_t h = 0; h < 0x7f80; h++) {
        uint32_t bits = h << 16;
        cr_assert(eq(u32, ks_f32_to_bf16(ks_f32_of_bits(bits)), h));
        cr_assert(eq(u32, ks_f32_to_bf16(ks_f32_of_bits(bits | 0x7fff)), h));
        cr_assert(eq(u32, ks_f32_to_bf16(ks_f32_of_bits(bits | 0x8000)),
                     h + (h & 1)));
        cr_assert(
            eq(u32, ks_f32_to_bf16(ks_f32_of_bits(bits | 0x8001)), h + 1));
    }
    cr_expect(eq(u32, ks_f32_to_bf16(INFINITY), 0x7f80));
    cr_expect(eq(u32, ks_f32_to_bf16(-INFINITY), 0xff80));
    uint32_t thin = 0x7f800001; /* a NaN whose upper half alone is infinity */
    cr_expect(isnan(ks_bf16_to_f32(ks_f32_to_bf16(ks_f32_of_bits(thin)))));
}
