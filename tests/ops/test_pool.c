/* pool, convert, count_nonfinite. */
#include "reference.h"

static float load(ks_type type, const void *from, int64_t i) {
    float x;
    const char *p = (const char *)from + (size_t)i * ks_type_size(type);
    ks_dequantize(type, p, &x, 1);
    return x;
}

/* One rounding of a number to a storage type, as half.h defines it. */
static float rounded(ks_type type, float x) {
    if (type == KS_F16) return ks_f16_to_f32(ks_f32_to_f16(x));
    if (type == KS_BF16) return ks_bf16_to_f32(ks_f32_to_bf16(x));
    return x;
}

static float pooled(const ks_view *x, const ks_pool_row *row, int position,
                    int64_t j) {
    int32_t n = row->end - row->begin, t = row->before;
    if (n <= 0) return NAN;
    if (position == KS_MEAN) {
        float sum = 0; /* f32, in token order */
        for (int32_t i = row->begin; i < row->end; i++) sum += at(x, i)[j];
        return sum / (float)n;
    }
    if (position == KS_FIRST) t = row->begin;
    if (position == KS_MIDDLE) t = row->begin + n / 2;
    if (position == KS_LAST) t = row->end - 1;
    return t < 0 ? NAN : at(x, t)[j];
}

static bool same(float a, float b) {
    return a == b || (isnan(a) && isnan(b));
}

static void pool_type(backend *b, ks_type type, int64_t cols) {
    static const ks_pool_row rows[] = {
        {0, 1, -1}, {1, 3, 0},    {3, 3, 2},
        {3, 40, 2}, {40, 41, 39}, {44, 60, 43},
    };
    enum { N = sizeof rows / sizeof *rows };
    ks_view x = guarded_random(60, cols, cols + 3);
    size_t bytes = ks_type_row_bytes(type, cols) * N;
    uint8_t *memory = malloc(KS_TOKENS * (bytes + GUARD));
    memset(memory, 0xA5, KS_TOKENS * (bytes + GUARD));
    void *out[KS_N_POSITIONS] = {0};
    for (int p = 0; p < KS_TOKENS; p++) out[p] = memory + p * (bytes + GUARD);
    uint32_t set = (1u << KS_TOKENS) - 1 - (1u << KS_LAST); /* one left out */
    RUN(b, pool, out, type, x, rows, N, set);
    for (int p = 0; p < KS_TOKENS; p++) {
        for (int64_t r = 0; r < N && p != KS_LAST; r++)
            for (int64_t j = 0; j < cols; j++)
                cr_assert(same(load(type, out[p], r * cols + j),
                               rounded(type, pooled(&x, rows + r, p, j))),
                          "%s position %d row %lld column %lld",
                          ks_type_name(type), p, (long long)r, (long long)j);
        size_t from = p == KS_LAST ? 0 : bytes;
        for (size_t i = from; i < bytes + GUARD; i++)
            cr_assert(((uint8_t *)out[p])[i] == 0xA5, "position %d", p);
    }
    guarded_free(&x), free(memory);
}

static void pool(backend *b) {
    static const int64_t cols[] = {1, 31, 33, 576, 641};
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) {
        pool_type(b, KS_F32, cols[i]);
        pool_type(b, KS_F16, cols[i]);
        pool_type(b, KS_BF16, cols[i]);
    }
}

Test(pool, positions_and_types) {
    ON_EVERY_BACKEND(pool);
}

/* ------------------------------------------------------------------- convert
 */

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
    0x1.fep127f,
    3,
};

static void convert(backend *b) {
    enum { N = sizeof HARD / sizeof *HARD, COLS = 37 };
    ks_view x = guarded_random(50, COLS, COLS + 1);
    for (int i = 0; i < N; i++) at(&x, i)[i % COLS] = HARD[i];
    int32_t index[] = {49, 0, 3, 3, 17, 1, 2, 5, 8, 9, 10};
    for (int t = KS_F32; t <= KS_BF16; t++) {
        ks_type type = (ks_type)t;
        if (type == KS_F16) at(&x, 18)[18] = 1; /* beyond f16 */
        char *out = malloc(ks_type_row_bytes(type, COLS) * 51);
        RUN(b, convert, out, type, x, NULL, 50);
        for (int64_t i = 0; i < 50; i++)
            for (int64_t j = 0; j < COLS; j++)
                cr_assert(same(load(type, out, i * COLS + j),
                               rounded(type, at(&x, i)[j])),
                          "%s %a", ks_type_name(type), (double)at(&x, i)[j]);
        RUN(b, convert, out, type, x, index, 11);
        for (int64_t i = 0; i < 11; i++)
            for (int64_t j = 0; j < COLS; j++)
                cr_assert(same(load(type, out, i * COLS + j),
                               rounded(type, at(&x, index[i])[j])));
        free(out);
    }
    guarded_free(&x);
}

Test(pool, convert) {
    ON_EVERY_BACKEND(convert);
}

static void overflow(backend *b) {
    ks_view x = guarded_random(9, 33, 33);
    at(&x, 6)[32] = -65520;
    uint16_t out[9 * 33];
    cr_assert(b->ops->convert(b->dev, out, KS_F16, x, NULL, 9, &b->err) ==
              KS_NUMERIC);
    cr_assert(strstr(b->err.text, "row 6"), "%s", b->err.text);
    static const ks_pool_row rows[] = {{0, 3, -1}, {6, 7, 5}};
    void *to[KS_N_POSITIONS] = {out};
    cr_assert(b->ops->pool(b->dev, to, KS_F16, x, rows, 2, 1u << KS_MEAN,
                           &b->err) == KS_NUMERIC);
    cr_assert(strstr(b->err.text, "row 1"), "%s", b->err.text);
    cr_assert(b->ops->pool(b->dev, to, KS_Q8_0, x, rows, 2, 1u << KS_MEAN,
                           &b->err) == KS_INTERNAL);
    at(&x, 6)[32] = INFINITY; /* no overflow of ours: count_nonfinite's */
    RUN(b, convert, out, KS_F16, x, NULL, 9);
    guarded_free(&x);
}

Test(pool, f16_overflow_is_an_error) {
    ON_EVERY_BACKEND(overflow);
}

/* ----------------------------------------------------------- count_nonfinite
 */

static void count(backend *b) {
    ks_view x = guarded_random(40, 101, 107); /* guards in between are finite */
    int64_t n = -1, row = -1;
    RUN(b, count_nonfinite, x, &n, &row);
    cr_assert(n == 0 && row == -1);
    at(&x, 39)[100] = NAN;
    at(&x, 17)[0] = INFINITY;
    at(&x, 17)[57] = -INFINITY;
    at(&x, 3)[5] = 3.4e38f;
    RUN(b, count_nonfinite, x, &n, &row);
    cr_assert(n == 3 && row == 17, "%lld in row %lld", (long long)n,
              (long long)row);
    guarded_free(&x);
}

Test(pool, count_nonfinite) {
    ON_EVERY_BACKEND(count);
}
