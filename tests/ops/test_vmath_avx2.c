/* exp, tanh, erf, sines as the avx2 set computes them: this file is compiled
 * for it whatever the rest is (GCC; clang checks v2 again). */
#include <criterion/criterion.h>
#ifndef __clang__
#pragma GCC target("arch=x86-64-v3")
#endif
#define KS_ISA avx2
#include "vmath_check.h"

static void skip_without_avx2(void) {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        cr_skip_test("this processor has no AVX2");
}

Test(vmath_avx2, accuracy, .init = skip_without_avx2) {
    check_accuracy();
}

Test(vmath_avx2, special_values, .init = skip_without_avx2) {
    check_special_values();
}

Test(vmath_avx2, sines, .init = skip_without_avx2) {
    check_sines();
}
