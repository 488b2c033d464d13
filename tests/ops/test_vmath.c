/* exp, tanh, erf, sines as the v2 set computes them (no FMA). */
#define KS_ISA v2
#include "vmath_check.h"

Test(vmath, accuracy) {
    check_accuracy();
}

Test(vmath, special_values) {
    check_special_values();
}

Test(vmath, sines) {
    check_sines();
}
