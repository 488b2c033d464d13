/* l2_kernel.c - from margins to residuals, the one element-wise step of a
 * pass. Columns lie side by side, eight to a vector, written with the
 * compilers' vector types: left to themselves they find branches in the clamp
 * and stay scalar. The instruction set is picked at run time and does not
 * change the bits, since products are not contracted and every column has its
 * own sums. */
#include <string.h>

#include "l2_cpu.h"

typedef float vector __attribute__((vector_size(4 * KS_L2_PAD)));
typedef int32_t whole __attribute__((vector_size(4 * KS_L2_PAD)));
typedef uint32_t words __attribute__((vector_size(4 * KS_L2_PAD)));

/* KS_L2_PAD columns of all rows, one vector each. The sigmoid 1 / (1 + exp(-z))
 * to 2 ulp: exp as in Cephes' expf, range-reduced by a magic addition that
 * rounds to an integer without a branch. */
static inline __attribute__((always_inline)) void
strip(int64_t rows, int64_t stride, float *z, const float *bias,
      const uint8_t *code, const float *c, float *r_sum, float *h_sum) {
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    const vector zero = {0}, low = zero - 87.0f, high = zero + 87.0f;
    vector shift, r_all, h_all;
    memcpy(&shift, bias, sizeof shift);
    memcpy(&r_all, r_sum, sizeof r_all);
    memcpy(&h_all, h_sum, sizeof h_all);
    for (int64_t i = 0; i < rows; i++) {
        vector x, weight;
        memcpy(&x, z + i * stride, sizeof x);
        memcpy(&weight, c + code[i] * stride, sizeof weight);
        x = -(x + shift);
        whole below = x<low, above = x> high; /* NaN is neither */
        x = (vector)(((whole)x & ~below & ~above) | ((whole)low & below) |
                     ((whole)high & above));
        vector shifted = x * 1.44269504088896341f + magic;
        vector k = shifted - magic;
        vector f = (x - k * 0.693359375f) + k * 2.12194440e-4f;
        vector e = f * 1.9875691500e-4f + 1.3981999507e-3f;
        e = e * f + 8.3334519073e-3f;
        e = e * f + 4.1665795894e-2f;
        e = e * f + 1.6666665459e-1f;
        e = e * f + 5.0000001201e-1f;
        e = e * (f * f) + f + 1.0f;
        vector power = (vector)(((words)shifted - (0x4B400000u - 127)) << 23);
        vector p = 1.0f / (1.0f + e * power);
        vector r = weight * (p - (float)(code[i] & 1));
        h_all += weight * (p - p * p);
        r_all += r;
        memcpy(z + i * stride, &r, sizeof r);
    }
    memcpy(r_sum, &r_all, sizeof r_all);
    memcpy(h_sum, &h_all, sizeof h_all);
}

/* Fewer than KS_L2_PAD columns, where another design's stand behind them: by
 * way of a copy. */
static inline __attribute__((always_inline)) void
rest(int64_t rows, int64_t n, int64_t stride, float *z, const float *bias,
     const uint8_t *code, const float *c, float *r_sum, float *h_sum) {
    float own[KS_L2_BLOCK][KS_L2_PAD], table[KS_L2_CODES][KS_L2_PAD];
    float thin[3][KS_L2_PAD] = {{0}}; /* bias, r, h */
    size_t size = (size_t)n * sizeof(float);
    memset(own, 0, sizeof own);
    memset(table, 0, sizeof table);
    for (int64_t i = 0; i < rows; i++) memcpy(own[i], z + i * stride, size);
    for (int k = 0; k < KS_L2_CODES; k++)
        memcpy(table[k], c + k * stride, size);
    memcpy(thin[0], bias, size);
    memcpy(thin[1], r_sum, size);
    memcpy(thin[2], h_sum, size);
    strip(rows, KS_L2_PAD, own[0], thin[0], code, table[0], thin[1], thin[2]);
    for (int64_t i = 0; i < rows; i++) memcpy(z + i * stride, own[i], size);
    memcpy(r_sum, thin[1], size);
    memcpy(h_sum, thin[2], size);
}

static inline __attribute__((always_inline)) void
body(int64_t rows, int64_t n, int64_t stride, float *z, const float *bias,
     const uint8_t *code, const float *c, float *r_sum, float *h_sum) {
    int64_t j = 0;
    for (; j + KS_L2_PAD <= n; j += KS_L2_PAD)
        strip(rows, stride, z + j, bias + j, code, c + j, r_sum + j, h_sum + j);
    if (j < n)
        rest(rows, n - j, stride, z + j, bias + j, code, c + j, r_sum + j,
             h_sum + j);
}

#define KS_VARIANT(name, attribute)                                            \
    attribute static void name(                                                \
        int64_t rows, int64_t n, int64_t stride, float *z, const float *bias,  \
        const uint8_t *code, const float *c, float *r_sum, float *h_sum) {     \
        body(rows, n, stride, z, bias, code, c, r_sum, h_sum);                 \
    }
KS_VARIANT(plain, )
#ifdef __x86_64__
KS_VARIANT(avx2, __attribute__((target("avx2"))))
#endif

void ks__l2_kernel(int64_t rows, int64_t n, int64_t stride, float *z,
                   const float *bias, const uint8_t *code, const float *c,
                   float *r_sum, float *h_sum) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) {
        avx2(rows, n, stride, z, bias, code, c, r_sum, h_sum);
        return;
    }
#endif
    plain(rows, n, stride, z, bias, code, c, r_sum, h_sum);
}
