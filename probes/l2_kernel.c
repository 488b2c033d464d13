/* l2_kernel.c - from margins to residuals, the one element-wise step of a
 * pass. Columns lie side by side, so the loop over them is vectorised; the
 * instruction set is picked at run time and does not change the bits, since
 * products are not contracted and every column has its own sums. */
#include <string.h>

#include "l2_state.h"

/* 1 / (1 + exp(-z)) to 2 ulp: exp as in Cephes' expf, range-reduced by a
 * magic addition that rounds to an integer without a branch. */
static inline __attribute__((always_inline)) float sigmoid(float z) {
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    float x = z > 87.0f ? -87.0f : z < -87.0f ? 87.0f : -z;
    float shifted = x * 1.44269504088896341f + magic;
    float k = shifted - magic;
    float f = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    float e = 1.9875691500e-4f;
    e = e * f + 1.3981999507e-3f;
    e = e * f + 8.3334519073e-3f;
    e = e * f + 4.1665795894e-2f;
    e = e * f + 1.6666665459e-1f;
    e = e * f + 5.0000001201e-1f;
    e = e * (f * f) + f + 1.0f;
    uint32_t bits, power;
    memcpy(&bits, &shifted, 4);
    power = (bits + 127u - 0x4B400000u) << 23; /* 2^k */
    float scale;
    memcpy(&scale, &power, 4);
    return 1.0f / (1.0f + e * scale);
}

static inline __attribute__((always_inline)) void
body(int64_t rows, int64_t n, int64_t stride, float *restrict z,
     const float *restrict bias, const uint8_t *restrict code,
     const float *restrict c, float *restrict r_sum, float *restrict h_sum) {
    for (int64_t i = 0; i < rows; i++) {
        float *restrict row = z + i * stride;
        const float *restrict weight = c + code[i] * stride;
        float y = (float)(code[i] & 1);
        for (int64_t j = 0; j < n; j++) {
            float p = sigmoid(row[j] + bias[j]);
            float r = weight[j] * (p - y);
            h_sum[j] += weight[j] * (p - p * p);
            r_sum[j] += r;
            row[j] = r;
        }
    }
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
