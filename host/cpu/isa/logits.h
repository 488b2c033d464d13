/* logits.h - what every use of a row of logits begins with. */
#ifndef KS_LOGITS_H
#define KS_LOGITS_H

#include "vmath.h"

static inline void cap_row(float *row, int64_t n, float softcap) {
    for (int64_t j = 0; j < n; j += VL) {
        int64_t m = KS_MIN(VL, n - j);
        vstore_n(row + j, vsoftcap(vload_n(row + j, m, 0), softcap), m);
    }
}

static inline float highest(const float *row, int64_t n) {
    vf top = vset(-INFINITY);
    int64_t j = 0;
    for (; j + VL <= n; j += VL) top = vmax(vload(row + j), top);
    if (j < n) top = vmax(vload_n(row + j, n - j, -INFINITY), top);
    return vmaxlane(top);
}

/* sum of exp(row - shift), in f32: for few values at a time. */
static inline float exp_sum(const float *row, int64_t n, float shift) {
    vf sum = vset(0);
    for (int64_t j = 0; j < n; j += VL) {
        vf v =
            j + VL <= n ? vload(row + j) : vload_n(row + j, n - j, -INFINITY);
        sum = sum + vexp(v - vset(shift));
    }
    return vsum(sum);
}

#endif
