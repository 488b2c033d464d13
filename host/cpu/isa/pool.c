/* pool.c - what capture keeps: pooling over steps, rounding to storage types,
 * and the search for values that are not finite.
 */
#include "isa.h"
#include "../../half.h"

/* Rounds n values to nearest even, the definitions of half.h; true when a
 * finite value became infinite. */
static bool round_row(ks_type type, void *to, const float *from, int64_t n) {
    uint16_t *h = to;
    if (type == KS_F32) {
        memcpy(to, from, (size_t)n * sizeof *from);
        return false;
    }
    if (type == KS_BF16) {
        for (int64_t i = 0; i < n; i++) {
            uint32_t u = ks_bits_of_f32(from[i]);
            uint32_t even = (u + 0x7fff + (u >> 16 & 1)) >> 16;
            uint32_t nan = u >> 16 | 0x40;
            h[i] = (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? nan : even);
        }
        return false;
    }
    int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((void *)(h + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(from + i),
                                         _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n; i++) h[i] = ks_f32_to_f16(from[i]);
    uint32_t overflow = 0;
    for (i = 0; i < n; i++) {
        uint32_t rest = ks_bits_of_f32(from[i]) & 0x7fffffff;
        overflow |= rest >= 0x477ff000 && rest < 0x7f800000;
    }
    return overflow;
}

static ks_status overflowed(int64_t row, ks_err *err) {
    return ks_fail(
        err, KS_NUMERIC,
        "row %lld holds values beyond f16's 65504: store bf16 or f32",
        (long long)row);
}

static bool check_type(ks_type type) {
    return type == KS_F32 || type == KS_F16 || type == KS_BF16;
}

/* --------------------------------------------------------------------- pool */

enum { CHUNK = 256 }; /* columns at a time, in L1 */

/* Mean of rows [begin,end), columns [j, j + n): f32 sums in token order. */
static void mean_chunk(float *sum, const ks_view *x, const ks_pool_row *row,
                       int64_t j, int64_t n) {
    memset(sum, 0, CHUNK * sizeof *sum);
    for (int32_t t = row->begin; t < row->end; t++) {
        const float *v = ks__row_f32(x, t) + j;
        for (int64_t i = 0; i < n; i++) sum[i] += v[i];
    }
    float count = (float)(row->end - row->begin);
    for (int64_t i = 0; i < n; i++) sum[i] /= count;
}

/* Index of the row that a position picks; -1: none. */
static int32_t picked(ks_position position, const ks_pool_row *row) {
    int32_t n = row->end - row->begin;
    if (n <= 0) return -1;
    switch (position) {
    case KS_FIRST:
        return row->begin;
    case KS_MIDDLE:
        return row->begin + n / 2;
    case KS_LAST:
        return row->end - 1;
    default:
        return row->before;
    }
}

static bool pool_one(char *to, ks_type type, const ks_view *x,
                     const ks_pool_row *row, ks_position position) {
    float chunk[CHUNK];
    bool overflow = false, mean = position == KS_MEAN && row->end > row->begin;
    int32_t from = position == KS_MEAN ? -1 : picked(position, row);
    for (int64_t j = 0; j < x->cols; j += CHUNK) {
        int64_t n = KS_MIN(CHUNK, x->cols - j);
        const float *values = chunk;
        if (mean)
            mean_chunk(chunk, x, row, j, n);
        else if (from >= 0)
            values = ks__row_f32(x, from) + j;
        else
            for (int64_t i = 0; i < n; i++) chunk[i] = NAN;
        overflow |= round_row(type, to + j * ks_type_size(type), values, n);
    }
    return overflow;
}

ks_status KS_ISA_NAME(pool)(ks_dev *dev, void *const out[KS_N_POSITIONS],
                            ks_type type, ks_view x, const ks_pool_row *rows,
                            int64_t n_rows, uint32_t positions, ks_err *err) {
    if (!check_type(type) || positions >> KS_TOKENS)
        return ks_fail(err, KS_INTERNAL, "pool: type %s, positions %#x",
                       ks_type_name(type), (unsigned)positions);
    int64_t bad = n_rows;
    size_t size = ks_type_row_bytes(type, x.cols);
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 4)        \
    reduction(min                                                              \
              : bad)
    for (int64_t r = 0; r < n_rows; r++)
        for (int p = 0; p < KS_TOKENS; p++)
            if (positions >> p & 1 && pool_one((char *)out[p] + r * size, type,
                                               &x, rows + r, (ks_position)p))
                bad = KS_MIN(bad, r);
    return bad < n_rows ? overflowed(bad, err) : KS_OK;
}

/* ------------------------------------------------------------------ convert */

ks_status KS_ISA_NAME(convert)(ks_dev *dev, void *out, ks_type type, ks_view x,
                               const int32_t *index, int64_t n_rows,
                               ks_err *err) {
    if (!check_type(type))
        return ks_fail(err, KS_INTERNAL, "convert: to %s", ks_type_name(type));
    int64_t bad = n_rows;
    size_t size = ks_type_row_bytes(type, x.cols);
#pragma omp parallel for num_threads(dev->threads)                             \
    reduction(min                                                              \
              : bad) if (n_rows > 8)
    for (int64_t r = 0; r < n_rows; r++)
        if (round_row(type, (char *)out + r * size,
                      ks__row_f32(&x, index ? index[r] : r), x.cols))
            bad = KS_MIN(bad, r);
    return bad < n_rows ? overflowed(bad, err) : KS_OK;
}

/* ---------------------------------------------------------- count_nonfinite */

ks_status KS_ISA_NAME(count_nonfinite)(ks_dev *dev, ks_view x, int64_t *count,
                                       int64_t *row, ks_err *err) {
    (void)err;
    int64_t total = 0, first = x.rows;
#pragma omp parallel for num_threads(dev->threads) reduction(+ : total)        \
    reduction(min : first) if (x.rows > 8)
    for (int64_t r = 0; r < x.rows; r++) {
        const float *v = ks__row_f32(&x, r);
        int32_t n = 0; /* 32 bits a lane; a row is shorter */
        for (int64_t j = 0; j < x.cols; j++)
            n += (ks_bits_of_f32(v[j]) & 0x7f800000) == 0x7f800000;
        total += n;
        if (n) first = KS_MIN(first, r);
    }
    *count = total;
    *row = total ? first : -1;
    return KS_OK;
}
