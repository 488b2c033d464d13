/* compare.h - the one comparator of arrays: fails unless
 * |got - ref| <= atol + rtol * |ref|, so a NaN on either side fails. */
#ifndef KS_TESTS_COMPARE_H
#define KS_TESTS_COMPARE_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Prints the worst index with both values and returns false on a mismatch. */
static inline bool close_f32(const char *what, const float *got,
                             const double *ref, size_t n, double atol,
                             double rtol) {
    size_t worst = 0, bad = 0;
    double excess = -1;
    for (size_t i = 0; i < n; i++) {
        double diff = fabs((double)got[i] - ref[i]);
        double limit = atol + rtol * fabs(ref[i]);
        if (diff <= limit) continue;
        bad++;
        double e = diff / limit;
        if (!(e <= excess)) worst = i, excess = isnan(e) ? INFINITY : e;
    }
    if (bad)
        fprintf(stderr,
                "%s: %zu of %zu differ, worst at %zu: got %.9g, "
                "expected %.9g\n",
                what, bad, n, worst, (double)got[worst], ref[worst]);
    return bad == 0;
}

/* |got - ref| / |ref| over the whole array (Frobenius); NaN if any is NaN. */
static inline double relative_error(const float *got, const float *ref,
                                    size_t n) {
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)ref[i];
        diff += d * d;
        norm += (double)ref[i] * (double)ref[i];
    }
    return sqrt(diff) / sqrt(norm > 0 ? norm : 1);
}

#endif
