/* embed.cu - rows of the token table, as stored, to f32. */
#include "cuda_ops.h"
#include "expand.cuh"
#include "vec.cuh"

enum { THREADS = 128, EIGHT = 8 };

/* out[t, j..j + 7] = scale table[ids[t], j..j + 7]; a block a row and 1024
 * columns. Bound: bytes, 4 + the stored ones an element. */
template <ks_type type>
static __global__ void __launch_bounds__(THREADS)
    embed_kernel(float *out, int64_t out_stride, const uint8_t *table,
                 int64_t row_bytes, const int32_t *ids, float scale, int cols,
                 bool wide) {
    int j = (int)(blockIdx.y * THREADS + threadIdx.x) * EIGHT, n = cols - j;
    if (n <= 0) return;
    float v[EIGHT];
    ks__expand8<type>(v, table + ids[blockIdx.x] * row_bytes, j, n);
#pragma unroll
    for (int k = 0; k < EIGHT; k++) v[k] *= scale;
    float *to = out + blockIdx.x * out_stride + j;
    ks__store4(to, make_float4(v[0], v[1], v[2], v[3]), n, wide);
    ks__store4(to + 4, make_float4(v[4], v[5], v[6], v[7]), n - 4, wide);
}

/* -------------------------------------------------------------- launchers */

ks_status ks__cuda_embed(ks_dev *dev, ks_view out, ks_view table,
                         const int32_t *ids, float scale, ks_err *err) {
    if (out.cols != table.cols)
        return ks_fail(err, KS_INTERNAL, "embed: %lld columns from %lld",
                       (long long)out.cols, (long long)table.cols);
    if (out.rows == 0) return KS_OK;
    int64_t row_bytes = (int64_t)ks_type_row_bytes(table.type, table.stride);
    dim3 grid = ks__row_grid(&out, THREADS * EIGHT);
    switch (table.type) {
#define EMBED(type)                                                            \
    case type:                                                                 \
        KS_CUDA_TRY(launch(embed_kernel<type>, grid, THREADS, 0, dev->stream,  \
                           (float *)out.data, out.stride,                      \
                           (const uint8_t *)table.data, row_bytes, ids, scale, \
                           (int)out.cols, ks__wide(&out)),                     \
                    "embed");                                                  \
        return KS_OK;
        KS_EXPAND_TYPES(EMBED)
#undef EMBED
    default:
        return ks_fail(err, KS_INTERNAL, "embed: a table of %s",
                       ks_type_name(table.type));
    }
}
