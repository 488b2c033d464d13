/* approx.h - the numerical second look at values that have no exact rule. */
#ifndef KS_TEXT_APPROX_H
#define KS_TEXT_APPROX_H

#include "expr.h"

enum { KS_APPROX_POINTS = 6 };

/* A real number and a bound on its error. */
typedef struct ks_real {
    long double value, error;
    bool known; /* false: not real, not finite, or no number at all */
} ks_real;

/* The value of node `at` where each symbol has a fixed number that depends on
 * its name and on the point; the first half of the points is positive. */
ks_real ks__approx(const ks_tree *tree, int32_t at, int pm, int point);

/* No number in the tree has more than nine digits: two different values then
 * hardly ever agree to the last bits of a long double by chance. */
bool ks__approx_is_small(const ks_tree *tree);
bool ks__approx_has_symbol(const ks_tree *tree, int32_t node);

/* a and b agree to within their error bounds, and these are tight. */
bool ks__approx_same(ks_real a, ks_real b);

#endif
