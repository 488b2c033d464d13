/* vmath_check.h - the accuracy of vmath.h, for the instruction set that the
 * including test is compiled for: errors in units of the last place, over all
 * binades and both signs. */
#ifndef KS_TESTS_OPS_VMATH_CHECK_H
#define KS_TESTS_OPS_VMATH_CHECK_H

#include <criterion/criterion.h>
#include <math.h>

#include "cpu/isa/vmath.h"

/* Distance in units of the last place of the true value as f32; subnormal
 * values count in units of the smallest. */
static double ulps(float got, double ref) {
    if (isinf(got) || isinf((float)ref))
        return (double)got == (double)(float)ref ? 0 : INFINITY;
    int exponent;
    frexp(ref, &exponent);
    double unit = ldexp(1, exponent - 24 < -149 ? -149 : exponent - 24);
    return fabs((double)got - ref) / unit;
}

typedef vf (*vector_fn)(vf);

/* Worst error over floats [low, high], every `step`th bit pattern. */
static double worst(vector_fn f, double (*ref)(double), float low, float high,
                    uint32_t step) {
    double most = 0;
    uint32_t a, b;
    memcpy(&a, &low, sizeof a);
    memcpy(&b, &high, sizeof b);
    if (a > b) {
        uint32_t t = a;
        a = b, b = t;
    }
    for (uint64_t u = a; u <= b; u += (uint64_t)step * VL) {
        float x[VL], y[VL];
        for (int i = 0; i < VL; i++) {
            uint64_t v = u + (uint64_t)i * step;
            uint32_t bits = (uint32_t)(v < b ? v : b);
            memcpy(x + i, &bits, sizeof bits);
        }
        vstore(y, f(vload(x)));
        for (int i = 0; i < VL; i++) {
            double e = ulps(y[i], ref((double)x[i]));
            cr_assert(e < 1e6, "f(%a) = %a", (double)x[i], (double)y[i]);
            most = e > most ? e : most;
        }
    }
    return most;
}

static vf call_exp(vf x) {
    return vexp(x);
}
static vf call_tanh(vf x) {
    return vtanh(x);
}
static vf call_erf(vf x) {
    return verf(x);
}

static void check_accuracy(void) {
    enum { STEP = 997 };
    double e = fmax(worst(call_exp, exp, 0, 100, STEP),
                    worst(call_exp, exp, -0.0f, -110, STEP));
    cr_assert(e <= 2, "exp: %g ulp", e);
    e = fmax(worst(call_tanh, tanh, 0, 3e38f, STEP),
             worst(call_tanh, tanh, -0.0f, -3e38f, STEP));
    cr_assert(e <= 2, "tanh: %g ulp", e);
    e = fmax(worst(call_erf, erf, 0, 3e38f, STEP),
             worst(call_erf, erf, -0.0f, -3e38f, STEP));
    cr_assert(e <= 2, "erf: %g ulp", e);
}

static float at_one(vector_fn f, float x) {
    float y[VL];
    vstore(y, f(vset(x)));
    return y[VL - 1];
}

static void check_special_values(void) {
    cr_assert(at_one(call_exp, 0) == 1);
    cr_assert(at_one(call_exp, -INFINITY) == 0);
    cr_assert(at_one(call_exp, INFINITY) == INFINITY);
    cr_assert(isnan(at_one(call_exp, NAN)));
    cr_assert(at_one(call_tanh, INFINITY) == 1);
    cr_assert(at_one(call_tanh, -INFINITY) == -1);
    cr_assert(isnan(at_one(call_tanh, NAN)));
    cr_assert(at_one(call_erf, INFINITY) == 1);
    cr_assert(at_one(call_erf, -INFINITY) == -1);
    cr_assert(isnan(at_one(call_erf, NAN)));
}

/* Angles to far beyond any context: half an ulp and rarely more. */
static void check_sines(void) {
    for (float x = 0; x < 3e7f; x = x * 1.00037f + 1e-4f) {
        float angle[2] = {x, -x}, s[2], c[2];
        sines(angle, s, c, 2);
        for (int i = 0; i < 2; i++) {
            double a = (double)angle[i];
            cr_assert(ulps(s[i], sin(a)) <= 0.51, "sin %a", a);
            cr_assert(ulps(c[i], cos(a)) <= 0.51, "cos %a", a);
        }
    }
}

#endif
