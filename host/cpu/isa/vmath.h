/* vmath.h - exp, tanh, erf on vectors, and sine and cosine for angles: own
 * code, so that bits depend on the instruction set only and not on a libm.
 */
#ifndef KS_VMATH_H
#define KS_VMATH_H

#include "simd.h"

/* e^x, within 2 ulp of the true value (subnormal results: 2 units of 2^-149);
 * 0 below -104, infinity above 88.73, NaN for NaN, 1 for 0. Reduction and
 * polynomial: Cephes expf. */
KS_INLINE vf vexp(vf x) {
    x = vmax(vset(-105.0f), vmin(vset(89.0f), x)); /* keeps a NaN */
    vi n = vround(x * vset(1.44269504088896341f));
    vf nf = vfloat(n);
    vf r = madd(nf, vset(-0.693359375f), x);
    r = madd(nf, vset(2.12194440e-4f), r);
    vf y = vset(1.9875691500e-4f);
    y = madd(y, r, vset(1.3981999507e-3f));
    y = madd(y, r, vset(8.3334519073e-3f));
    y = madd(y, r, vset(4.1665795894e-2f));
    y = madd(y, r, vset(1.6666665459e-1f));
    y = madd(y, r, vset(5.0000001201e-1f));
    y = madd(y, r * r, r) + vset(1.0f);
    /* 2^n in two factors: n reaches -151 and 128 */
    vi half = n >> 1;
    y = y * (vf)((half + 127) << 23);
    return y * (vf)((n - half + 127) << 23);
}

KS_INLINE vf vabs(vf x) {
    return (vf)((vi)x & 0x7fffffff);
}

/* Magnitude of a, sign of b. */
KS_INLINE vf vcopysign(vf a, vf b) {
    return (vf)(((vi)a & 0x7fffffff) | ((vi)b & (int32_t)0x80000000));
}

/* Within 2 ulp; polynomial of Cephes tanhf below 0.625. */
KS_INLINE vf vtanh(vf x) {
    vf a = vabs(x), z = x * x;
    vf p = vset(-5.70498872745e-3f);
    p = madd(p, z, vset(2.06390887954e-2f));
    p = madd(p, z, vset(-5.37397155531e-2f));
    p = madd(p, z, vset(1.33314422036e-1f));
    p = madd(p, z, vset(-3.33332819422e-1f));
    vf small = madd(p * z, x, x);
    vf large = vset(1.0f) - vset(2.0f) / (vexp(a + a) + vset(1.0f));
    return vselect(a < vset(0.625f), small, vcopysign(large, x));
}

/* Within 2 ulp: two polynomials, 1 - exp of the second beyond 0.9277. */
KS_INLINE vf verf(vf x) {
    vf a = vabs(x), s = x * x;
    vf r = madd(vset(-1.72853470e-5f), a, vset(3.83197126e-4f));
    vf u = madd(vset(-3.88396438e-3f), a, vset(2.42546219e-2f));
    r = madd(r, s, u);
    r = madd(r, a, vset(-1.06777877e-1f));
    r = madd(r, a, vset(-6.34846687e-1f));
    r = madd(r, a, vset(-1.28717512e-1f));
    r = madd(r, a, -a);
    vf large = vcopysign(vset(1.0f) - vexp(r), x);
    vf p = vset(-5.96761703e-4f);
    p = madd(p, s, vset(4.99119423e-3f));
    p = madd(p, s, vset(-2.67681349e-2f));
    p = madd(p, s, vset(1.12819925e-1f));
    p = madd(p, s, vset(-3.76125336e-1f));
    p = madd(p, s, vset(1.28379166e-1f));
    vf small = madd(p, x, x);
    /* beyond 4 erf is 1 in f32, and the polynomial's powers may overflow */
    large = vselect(a > vset(4.0f), vcopysign(vset(1.0f), x), large);
    return vselect(a > vset(0.927734375f), large, small);
}

/* cap * tanh(s / cap) */
KS_INLINE vf vsoftcap(vf s, float cap) {
    return vset(cap) * vtanh(s / vset(cap));
}

/* Sine and cosine of n angles, correctly rounded but for rare half ulps, for
 * |angle| < 2^28. In double: multiples of pi/2 taken off in two parts,
 * polynomials of FreeBSD msun (k_sinf.c, k_cosf.c). */
KS_INLINE void sines(const float *angle, float *sine, float *cosine,
                     int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double x = angle[i];
        double turns = __builtin_rint(x * 0.63661977236758134308);
        double r = x - turns * 1.57079631090164184570e+00;
        r = r - turns * 1.58932547735281966916e-08;
        double z = r * r;
        double s = r + r * z *
                           (-0x15555554cbac77.0p-55 +
                            z * (0x111110896efbb2.0p-59 +
                                 z * (-0x1a00f9e2cae774.0p-65 +
                                      z * 0x16cd878c3b46a7.0p-71)));
        double c = 1.0 + z * (-0x1ffffffd0c5e81.0p-54 +
                              z * (0x155553e1053a42.0p-57 +
                                   z * (-0x16c087e80f1e27.0p-62 +
                                        z * 0x199342e0ee5069.0p-68)));
        int32_t quarter = (int32_t)turns;
        double a = quarter & 1 ? c : s, b = quarter & 1 ? s : c;
        sine[i] = (float)(quarter & 2 ? -a : a);
        cosine[i] = (float)((quarter + 1) & 2 ? -b : b);
    }
}

#endif
