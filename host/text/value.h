/* value.h - exact arithmetic on expressions.
 *
 * A value is a fraction of two sums of products. Factors are generators with
 * rational exponents: symbols, pi, e, i (i^2 = -1), roots of primes, and
 * whatever has no rule of its own (a function of a value, a root of a sum),
 * known by its canonical text. Coefficients are rationals of any size. Two
 * values over the same generators are equal exactly when the cross-multiplied
 * difference has no term left; where the difference holds a generator without
 * a rule, unequal only means "not shown to be equal".
 */
#ifndef KS_TEXT_VALUE_H
#define KS_TEXT_VALUE_H

#include "expr.h"

/* generator ^ (above/below), lowest terms, below > 0, above != 0 */
typedef struct ks_factor {
    uint32_t generator;
    int32_t above, below;
} ks_factor;

/* coefficient * factors, factors by ascending generator */
typedef struct ks_mono {
    mpq_t c;
    ks_factor *f;
    size_t n;
} ks_mono;

/* Terms in a fixed order, no coefficient zero; n == 0 is zero. */
typedef struct ks_poly {
    ks_mono *m;
    size_t n;
} ks_poly;

typedef struct ks_fraction {
    const ks_poly *top, *bottom;
} ks_fraction;

typedef enum ks_generator_kind {
    KS_G_SYMBOL,
    KS_G_IMAGINARY,
    KS_G_PRIME, /* only with exponents in (0,1) */
    KS_G_OPAQUE /* without a rule */
} ks_generator_kind;

typedef struct ks_generator {
    ks_generator_kind kind;
    char *key;
    mpz_t prime;
} ks_generator;

/* One comparison: its generators, all its sums (freed together), and how much
 * work it may still do. */
typedef struct ks_algebra {
    ks_generator *generators;
    size_t n_generators, generator_capacity;
    ks_poly **polys;
    size_t n_polys, poly_capacity;
    const ks_poly *one;
    int64_t work;     /* left; below zero: failed */
    bool opaque;      /* some generator has no rule */
    bool failed;      /* no value: too large, undefined, or no number at all */
    ks_status status; /* not KS_OK: no memory */
    ks_err *err;
} ks_algebra;

ks_status ks__algebra_open(ks_algebra *a, ks_err *err);
void ks__algebra_close(ks_algebra *a);

/* Arithmetic; the result is undefined once a->failed is set. */
ks_fraction ks__value_rational(ks_algebra *a, const mpq_t q);
ks_fraction ks__value_generator(ks_algebra *a, ks_generator_kind kind,
                                const char *key, size_t n);
ks_fraction ks__value_add(ks_algebra *a, ks_fraction x, ks_fraction y);
ks_fraction ks__value_multiply(ks_algebra *a, ks_fraction x, ks_fraction y);
ks_fraction ks__value_negate(ks_algebra *a, ks_fraction x);
ks_fraction ks__value_invert(ks_algebra *a, ks_fraction x);
/* x^(p/q), q > 0. Even roots of a negative number other than square roots, and
 * roots of sums, become opaque. */
ks_fraction ks__value_power(ks_algebra *a, ks_fraction x, int32_t p, int32_t q);
/* name(arguments) without a rule */
ks_fraction ks__value_opaque(ks_algebra *a, const char *name,
                             const ks_fraction *arguments, size_t n);

bool ks__value_is_zero(ks_fraction x);
/* The value as a rational number; false when it is none. */
bool ks__value_as_rational(ks_fraction x, mpq_t out);
/* x == y, shown exactly */
bool ks__value_equal(ks_algebra *a, ks_fraction x, ks_fraction y);
/* x == c y for a rational c != 0 (positive: c > 0), shown exactly */
bool ks__value_proportional(ks_algebra *a, ks_fraction x, ks_fraction y,
                            bool positive);

/* The value of a tree's node; pm is the sign that +- stands for. */
ks_fraction ks__value_of(ks_algebra *a, const ks_tree *tree, int32_t at,
                         int pm);

#endif
