/* power.c - powers and roots of values. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "value.h"

/* Primes are looked for up to here; what is left over counts as one. Two
 * roots that hide a common factor beyond this are told apart numerically. */
enum { LARGEST_TRIED = 20000, MOST_FACTORED_BITS = 4096, MOST_POWER = 200 };

static ks_fraction whole_power(ks_algebra *a, ks_fraction x, int32_t k) {
    ks_fraction result = {a->one, a->one};
    if (k < 0) {
        x = ks__value_invert(a, x);
        k = -k;
    }
    bool sum = x.top->n > 1 || x.bottom->n > 1;
    if (sum && k > MOST_POWER) a->failed = true;
    while (k > 0 && !a->failed) {
        if (k & 1) result = ks__value_multiply(a, result, x);
        k >>= 1;
        if (k > 0) x = ks__value_multiply(a, x, x);
        /* squaring doubles the size of numbers: stop before it hurts */
        if (x.top->n == 1 &&
            mpz_sizeinbase(mpq_numref(x.top->m[0].c), 2) > (1u << 17)) {
            a->failed = k > 0;
        }
    }
    return result;
}

/* prime^(p/q) as a value */
static ks_fraction prime_power(ks_algebra *a, const mpz_t prime, int64_t p,
                               int64_t q) {
    char *key = mpz_get_str(NULL, 10, prime);
    ks_fraction x = {a->one, a->one};
    if (key == NULL || p > 100000 || p < -100000) a->failed = true;
    if (!a->failed) {
        mpq_t whole;
        mpq_init(whole);
        mpz_set(mpq_numref(whole), prime);
        /* whole part apart, so that the generator stays in (0,1) */
        int64_t floor = p >= 0 ? p / q : -((-p + q - 1) / q);
        ks_fraction base = ks__value_rational(a, whole);
        x = whole_power(a, base, (int32_t)floor);
        p -= floor * q;
        mpq_clear(whole);
        if (p > 0 && !a->failed) {
            ks_fraction root =
                ks__value_generator(a, KS_G_PRIME, key, strlen(key));
            ks_factor *f = &root.top->m[0].f[0];
            f->above = (int32_t)p;
            f->below = (int32_t)q;
            int32_t g = (int32_t)p, h = (int32_t)q;
            while (h != 0) {
                int32_t rest = g % h;
                g = h;
                h = rest;
            }
            f->above /= g;
            f->below /= g;
            x = ks__value_multiply(a, x, root);
        }
    }
    free(key);
    return x;
}

/* n^(p/q) for an integer n > 0 */
static ks_fraction integer_root(ks_algebra *a, const mpz_t n, int32_t p,
                                int32_t q) {
    ks_fraction x = {a->one, a->one};
    mpz_t rest, f;
    if (mpz_sizeinbase(n, 2) > MOST_FACTORED_BITS) {
        a->failed = true;
        return x;
    }
    mpz_init_set(rest, n);
    mpz_init(f);
    if (mpz_root(f, n, (unsigned long)q) != 0) {
        mpq_t root;
        mpq_init(root);
        mpz_set(mpq_numref(root), f);
        x = whole_power(a, ks__value_rational(a, root), p);
        mpq_clear(root);
        mpz_set_ui(rest, 1);
    }
    for (unsigned long d = 2; d <= LARGEST_TRIED && !a->failed; d++) {
        if (mpz_cmp_ui(rest, 1) == 0) break;
        if (!mpz_divisible_ui_p(rest, d)) continue;
        mpz_set_ui(f, d);
        int64_t times = (int64_t)mpz_remove(rest, rest, f);
        x = ks__value_multiply(a, x, prime_power(a, f, times * p, q));
    }
    a->work -= 1000;
    if (mpz_cmp_ui(rest, 1) != 0 && !a->failed) {
        int64_t times = 1;
        if (mpz_perfect_square_p(rest)) {
            mpz_sqrt(rest, rest);
            times = 2;
        }
        if (!mpz_probab_prime_p(rest, 15)) a->opaque = true;
        x = ks__value_multiply(a, x, prime_power(a, rest, times * p, q));
    }
    mpz_clear(rest);
    mpz_clear(f);
    return x;
}

static ks_fraction opaque_power(ks_algebra *a, ks_fraction x, int32_t p,
                                int32_t q) {
    char name[48];
    snprintf(name, sizeof name, "root %d", q);
    return whole_power(a, ks__value_opaque(a, name, &x, 1), p);
}

/* One product: the root of the number and of every factor. */
static ks_fraction mono_power(ks_algebra *a, const ks_mono *m, int32_t p,
                              int32_t q) {
    ks_fraction x, y;
    mpz_t above;
    mpz_init(above);
    mpz_abs(above, mpq_numref(m->c));
    x = integer_root(a, above, p, q);
    if (!a->failed)
        x = ks__value_multiply(a, x, integer_root(a, mpq_denref(m->c), -p, q));
    mpz_clear(above);
    if (mpq_sgn(m->c) < 0 && q == 2)
        x = ks__value_multiply(
            a, x,
            whole_power(a, ks__value_generator(a, KS_G_IMAGINARY, "i", 1), p));
    if (mpq_sgn(m->c) < 0 && q % 2 == 1 && p % 2 != 0)
        x = ks__value_negate(a, x);
    for (size_t i = 0; i < m->n && !a->failed; i++) {
        const ks_factor *f = &m->f[i];
        const ks_generator *g = &a->generators[f->generator];
        y = ks__value_generator(a, g->kind, g->key, strlen(g->key));
        if (a->failed) break;
        int64_t above_e = (int64_t)f->above * p,
                below_e = (int64_t)f->below * q;
        int64_t u = above_e < 0 ? -above_e : above_e, v = below_e;
        while (v != 0) {
            int64_t rest = u % v;
            u = v;
            v = rest;
        }
        if (u > 1) {
            above_e /= u;
            below_e /= u;
        }
        if (above_e > 1000000 || above_e < -1000000 || below_e > 1000000) {
            a->failed = true;
            break;
        }
        y.top->m[0].f[0].above = (int32_t)above_e;
        y.top->m[0].f[0].below = (int32_t)below_e;
        x = ks__value_multiply(a, x, y);
    }
    return x;
}

/* The root of x^2 is |x|, of a negative number imaginary: no rule for either.
 */
static bool has_rule(const ks_algebra *a, const ks_mono *m, int32_t q) {
    if (mpq_sgn(m->c) < 0 && q % 2 == 0 && q != 2) return false;
    for (size_t i = 0; i < m->n; i++) {
        if (a->generators[m->f[i].generator].kind == KS_G_IMAGINARY)
            return false;
        bool real = a->generators[m->f[i].generator].kind == KS_G_PRIME;
        if (!real && q % 2 == 0 &&
            (m->f[i].above % 2 == 0 || mpq_sgn(m->c) < 0)) {
            return false;
        }
    }
    return true;
}

ks_fraction ks__value_power(ks_algebra *a, ks_fraction x, int32_t p,
                            int32_t q) {
    ks_fraction one = {a->one, a->one};
    if (a->failed || p == 0) return one;
    if (q == 1) return whole_power(a, x, p);
    if (x.top->n == 0) {
        a->failed = a->failed || p < 0;
        return x;
    }
    bool product = x.top->n == 1 && x.bottom->n == 1;
    if (!product || !has_rule(a, &x.top->m[0], q) ||
        !has_rule(a, &x.bottom->m[0], q)) {
        return opaque_power(a, x, p, q);
    }
    ks_fraction top = mono_power(a, &x.top->m[0], p, q);
    if (x.bottom == a->one || a->failed) return top;
    ks_fraction bottom = mono_power(a, &x.bottom->m[0], p, q);
    return ks__value_multiply(a, top, ks__value_invert(a, bottom));
}
