/* unpack.c - rows of stored weights as a transposed f32 panel.
 *
 * Types whose elements stand alone (f32, f16, bf16) are transposed while they
 * are loaded; block-quantised rows are expanded to f32 in L1 first. Every
 * value is bit for bit what ks_dequantize gives.
 */
#include "isa.h"
#include "expand.h"

/* ------------------------------------------------- loads of four elements */

/* Four elements of one row, or of two rows four apart (one in each half), as
 * f32: four of these are TW rows and four columns. */
#if defined(__AVX2__)
enum { TW = 8 };
typedef __m256 tv;

KS_INLINE __m128i two_quads(const uint16_t *a, const uint16_t *b) {
    return _mm_castps_si128(_mm_loadh_pi(
        _mm_castsi128_ps(_mm_loadl_epi64((const void *)a)), (const void *)b));
}

KS_INLINE tv load_f32(const char *row, size_t stride, int64_t k) {
    const float *a = (const float *)row + k;
    const float *b = (const float *)(row + 4 * stride) + k;
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)),
                                _mm_loadu_ps(b), 1);
}

KS_INLINE tv load_bf16(const char *row, size_t stride, int64_t k) {
    __m128i q = two_quads((const uint16_t *)row + k,
                          (const uint16_t *)(row + 4 * stride) + k);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(q), 16));
}

KS_INLINE tv load_f16(const char *row, size_t stride, int64_t k) {
    return _mm256_cvtph_ps(two_quads((const uint16_t *)row + k,
                                     (const uint16_t *)(row + 4 * stride) + k));
}

#define SHUFFLE(a, b, pick) _mm256_shuffle_ps(a, b, pick)
#define UNPACK_LOW(a, b) _mm256_unpacklo_ps(a, b)
#define UNPACK_HIGH(a, b) _mm256_unpackhi_ps(a, b)
#define STORE(to, a) _mm256_storeu_ps(to, a)

#else
enum { TW = 4 };
typedef __m128 tv;

KS_INLINE tv load_f32(const char *row, size_t stride, int64_t k) {
    (void)stride;
    return _mm_loadu_ps((const float *)row + k);
}

KS_INLINE tv load_bf16(const char *row, size_t stride, int64_t k) {
    (void)stride;
    __m128i q = _mm_loadl_epi64((const void *)((const uint16_t *)row + k));
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), q));
}

KS_INLINE tv load_f16(const char *row, size_t stride, int64_t k) {
    (void)stride;
    float t[4];
    ks_dequantize(KS_F16, (const uint16_t *)row + k, t, 4);
    return _mm_loadu_ps(t);
}

#define SHUFFLE(a, b, pick) _mm_shuffle_ps(a, b, pick)
#define UNPACK_LOW(a, b) _mm_unpacklo_ps(a, b)
#define UNPACK_HIGH(a, b) _mm_unpackhi_ps(a, b)
#define STORE(to, a) _mm_storeu_ps(to, a)
#endif

/* ---------------------------------------------------------------- transpose */

/* r[i]: rows i (and i + 4), four columns; stores the columns, NR apart. */
KS_INLINE void transpose(const tv *r, float *to) {
    tv a = UNPACK_LOW(r[0], r[1]), b = UNPACK_HIGH(r[0], r[1]);
    tv c = UNPACK_LOW(r[2], r[3]), d = UNPACK_HIGH(r[2], r[3]);
    STORE(to, SHUFFLE(a, c, 0x44));
    STORE(to + NR, SHUFFLE(a, c, 0xEE));
    STORE(to + 2 * NR, SHUFFLE(b, d, 0x44));
    STORE(to + 3 * NR, SHUFFLE(b, d, 0xEE));
}

/* A weight is read once and its rows are short: the processor's own prefetch
 * would start anew for each, so the next rows are asked for here. */
enum { LINE = 64 };

KS_INLINE void prefetch(const char *at, size_t offset) {
    _mm_prefetch((const void *)((uintptr_t)at + offset), _MM_HINT_T0);
}

/* TW rows, kc columns from k0 on, by one of the loads above; ahead: prefetch
 * the TW rows after them. */
KS_INLINE void transpose_rows(tv load(const char *, size_t, int64_t),
                              ks_type type, const char *first, size_t stride,
                              int64_t k0, int64_t kc, float *to, bool ahead) {
    const int64_t size = (int64_t)ks_type_size(type);
    int64_t k = 0;
    for (; k + 4 <= kc; k += 4) {
        tv r[4];
        int64_t byte = k * size;
        if (ahead && byte % LINE < 4 * size)
            for (int i = 0; i < TW; i++)
                prefetch(first + k0 * size + byte, (TW + i) * stride);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            r[i] = load(first + i * stride, stride, k0 + k);
        transpose(r, to + k * NR);
    }
    for (; k < kc; k++)
        for (int i = 0; i < TW; i++)
            ks_dequantize(type, first + i * stride + (k0 + k) * size,
                          to + k * NR + i, 1);
}

/* ------------------------------------------------------------------- panels */

/* The TW rows from `first` on. Blocks that [k0, k0 + kc) cuts are expanded
 * whole. */
static void unpack_rows(ks_type type, const char *first, size_t stride,
                        int64_t k0, int64_t kc, float *to, float *rows) {
    switch (type) {
    case KS_F32:
        transpose_rows(load_f32, KS_F32, first, stride, k0, kc, to, true);
        return;
    case KS_F16:
        transpose_rows(load_f16, KS_F16, first, stride, k0, kc, to, true);
        return;
    case KS_BF16:
        transpose_rows(load_bf16, KS_BF16, first, stride, k0, kc, to, true);
        return;
    default:
        break;
    }
    int64_t size = ks_type_block(type), b0 = k0 / size;
    int64_t b1 = (k0 + kc + size - 1) / size;
    size_t from = b0 * ks_type_size(type),
           bytes = (b1 - b0) * ks_type_size(type);
    for (int i = 0; i < TW; i++) {
        const char *row = first + i * stride + from;
        for (size_t j = 0; j < bytes; j += LINE) prefetch(row, TW * stride + j);
        expand(type, row, rows + i * KS_ROWS_STRIDE, (b1 - b0) * size);
    }
    transpose_rows(load_f32, KS_F32, (const char *)rows,
                   KS_ROWS_STRIDE * sizeof *rows, k0 - b0 * size, kc, to,
                   false);
}

/* One row where fewer than TW are left. */
static void unpack_row(ks_type type, const char *row, int64_t k0, int64_t kc,
                       float *to, float *rows) {
    if (type == KS_F32) { /* attention's keys come without scratch */
        const float *from = (const float *)(const void *)row + k0;
        for (int64_t k = 0; k < kc; k++) to[k * NR] = from[k];
        return;
    }
    int64_t size = ks_type_block(type), b0 = k0 / size;
    int64_t b1 = (k0 + kc + size - 1) / size;
    expand(type, row + b0 * ks_type_size(type), rows, (b1 - b0) * size);
    for (int64_t k = 0; k < kc; k++) to[k * NR] = rows[k0 - b0 * size + k];
}

void ks__unpack(const ks_view *w, int64_t n0, int64_t n, int64_t k0, int64_t kc,
                float *panel, float *rows) {
    size_t stride = ks_type_row_bytes(w->type, w->stride);
    const char *first = (const char *)w->data + n0 * stride;
    int64_t i = 0;
    for (; i + TW <= n; i += TW)
        unpack_rows(w->type, first + i * stride, stride, k0, kc, panel + i,
                    rows);
    for (; i < n; i++)
        unpack_row(w->type, first + i * stride, k0, kc, panel + i, rows);
    if (n < NR)
        for (int64_t k = 0; k < kc; k++)
            memset(panel + k * NR + n, 0, (size_t)(NR - n) * sizeof *panel);
}

/* ------------------------------------------------------------- rows as rows */

/* n elements of f16 or bf16 to f32. */
static void widen(ks_type type, const char *from, float *to, int64_t n) {
    int64_t i = 0;
#if defined(__AVX2__)
    for (; i + 8 <= n; i += 8) {
        __m128i q = _mm_loadu_si128((const void *)(from + 2 * i));
        __m256 v = type == KS_F16 ? _mm256_cvtph_ps(q)
                                  : _mm256_castsi256_ps(_mm256_slli_epi32(
                                        _mm256_cvtepu16_epi32(q), 16));
        _mm256_storeu_ps(to + i, v);
    }
#endif
    ks_dequantize(type, from + 2 * i, to + i, n - i);
}

void ks__unpack_rows(const ks_view *w, int64_t k0, int64_t kc, int64_t n0,
                     int64_t n, float *panels, float *rows) {
    size_t stride = ks_type_row_bytes(w->type, w->stride);
    int64_t size = ks_type_block(w->type), b0 = n0 / size;
    int64_t whole = (n0 + n + size - 1) / size * size - b0 * size;
    const char *first =
        (const char *)w->data + k0 * stride + b0 * ks_type_size(w->type);
    for (int64_t k = 0; k < kc; k++, first += stride) {
        const float *from = rows;
        if (w->type == KS_F32) {
            from = (const float *)(const void *)first;
        } else if (size == 1) {
            widen(w->type, first, rows, n);
        } else {
            expand(w->type, first, rows, whole);
            from += n0 - b0 * size;
        }
        float *to = panels + k * NR;
        for (int64_t j = 0; j < n; j += NR, to += kc * NR)
            for (int i = 0; i < NR; i += VL)
                vstore(to + i, j + i + VL <= n
                                   ? vload(from + j + i)
                                   : vload_n(from + j + i, n - j - i, 0));
    }
}
