/* value.c - sums of products of generators, and fractions of them. */
#include "value.h"

#include <stdlib.h>
#include <string.h>

/* Coefficients beyond this many bits, and more terms than this, are too large
 * to be worth comparing: the comparison gives up. */
enum { MOST_BITS = 1 << 22, MOST_POWER_BITS = 1 << 16, MOST_TERMS = 2000 };

static void give_up(ks_algebra *a) {
    a->failed = true;
}

static void spend(ks_algebra *a, int64_t work) {
    a->work -= work;
    if (a->work < 0) give_up(a);
}

/* ------------------------------------------------------------------ memory */

static void *take(ks_algebra *a, size_t n, size_t size) {
    void *p = NULL;
    if (a->status == KS_OK)
        a->status = ks_alloc(&p, KS_MAX(n, 1u), size, "an expression", a->err);
    if (a->status != KS_OK) give_up(a);
    return p;
}

/* A sum with room for n terms, owned by a. */
static ks_poly *new_poly(ks_algebra *a, size_t n) {
    if (n > (size_t)MOST_TERMS * 10) give_up(a);
    if (a->failed) return NULL;
    a->status = ks_grow(&a->polys, &a->poly_capacity, a->n_polys + 1,
                        sizeof *a->polys, "an expression", a->err);
    ks_poly *p = a->status == KS_OK ? take(a, 1, sizeof *p) : NULL;
    if (a->status != KS_OK) {
        give_up(a);
        return NULL;
    }
    a->polys[a->n_polys++] = p;
    p->m = take(a, n, sizeof *p->m);
    return a->failed ? NULL : p;
}

static ks_mono *new_mono(ks_algebra *a, ks_poly *p, size_t n_factors) {
    ks_mono *m = &p->m[p->n];
    m->f = take(a, n_factors, sizeof *m->f);
    if (a->failed) return NULL;
    mpq_init(m->c);
    p->n++;
    return m;
}

ks_status ks__algebra_open(ks_algebra *a, ks_err *err) {
    *a = (ks_algebra){.work = 1000000, .err = err};
    mpq_t one;
    mpq_init(one);
    mpq_set_ui(one, 1, 1);
    ks_poly *p = new_poly(a, 1);
    ks_mono *m = p == NULL ? NULL : new_mono(a, p, 0);
    if (m != NULL) mpq_set(m->c, one);
    a->one = p;
    mpq_clear(one);
    if (a->status != KS_OK) ks__algebra_close(a);
    return a->status;
}

void ks__algebra_close(ks_algebra *a) {
    for (size_t i = 0; i < a->n_polys; i++) {
        ks_poly *p = a->polys[i];
        for (size_t k = 0; k < p->n; k++) {
            mpq_clear(p->m[k].c);
            free(p->m[k].f);
        }
        free(p->m);
        free(p);
    }
    for (size_t i = 0; i < a->n_generators; i++) {
        mpz_clear(a->generators[i].prime);
        free(a->generators[i].key);
    }
    free(a->polys);
    free(a->generators);
    ks_status status = a->status;
    *a = (ks_algebra){.status = status};
}

static uint32_t generator(ks_algebra *a, ks_generator_kind kind,
                          const char *key, size_t n) {
    for (size_t i = 0; i < a->n_generators; i++) {
        ks_generator *g = &a->generators[i];
        if (g->kind == kind && strlen(g->key) == n &&
            memcmp(g->key, key, n) == 0) {
            return (uint32_t)i;
        }
    }
    spend(a, 10 + (int64_t)a->n_generators);
    if (a->failed) return 0;
    a->status =
        ks_grow(&a->generators, &a->generator_capacity, a->n_generators + 1,
                sizeof *a->generators, "an expression", a->err);
    char *copy = a->status == KS_OK ? take(a, n + 1, 1) : NULL;
    if (a->status != KS_OK) {
        give_up(a);
        return 0;
    }
    memcpy(copy, key, n);
    ks_generator *g = &a->generators[a->n_generators];
    *g = (ks_generator){.kind = kind, .key = copy};
    mpz_init(g->prime);
    if (kind == KS_G_PRIME) mpz_set_str(g->prime, copy, 10);
    if (kind == KS_G_OPAQUE) a->opaque = true;
    return (uint32_t)a->n_generators++;
}

/* --------------------------------------------------------------- exponents */

static int64_t divisor(int64_t a, int64_t b) {
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a < 0 ? -a : a;
}

/* f's exponent becomes above/below in lowest terms. */
static void set_exponent(ks_algebra *a, ks_factor *f, int64_t above,
                         int64_t below) {
    int64_t g = divisor(above, below);
    if (g > 1) {
        above /= g;
        below /= g;
    }
    if (above > 1000000 || above < -1000000 || below > 1000000) give_up(a);
    f->above = (int32_t)above;
    f->below = (int32_t)below;
}

static int compare_factors(const ks_mono *x, const ks_mono *y) {
    for (size_t i = 0; i < x->n && i < y->n; i++) {
        const ks_factor *p = &x->f[i], *q = &y->f[i];
        if (p->generator != q->generator)
            return p->generator < q->generator ? -1 : 1;
        int64_t left = (int64_t)p->above * q->below;
        int64_t right = (int64_t)q->above * p->below;
        if (left != right) return left < right ? -1 : 1;
    }
    return (x->n > y->n) - (x->n < y->n);
}

static int by_factors(const void *x, const void *y) {
    return compare_factors(x, y);
}

/* c *= base^k; base an integer > 0 */
static void scale_power(ks_algebra *a, mpq_t c, const mpz_t base, int32_t k) {
    unsigned long times = (unsigned long)(k < 0 ? -(int64_t)k : k);
    if ((double)mpz_sizeinbase(base, 2) * (double)times > MOST_POWER_BITS) {
        give_up(a);
        return;
    }
    mpz_t power;
    mpz_init(power);
    mpz_pow_ui(power, base, times);
    if (k >= 0)
        mpz_mul(mpq_numref(c), mpq_numref(c), power);
    else
        mpz_mul(mpq_denref(c), mpq_denref(c), power);
    mpq_canonicalize(c);
    mpz_clear(power);
}

/* Whole powers of primes go into the coefficient, i^2 is -1, factors with
 * exponent 0 go away. */
static void normalise(ks_algebra *a, ks_mono *m) {
    size_t kept = 0;
    for (size_t i = 0; i < m->n && !a->failed; i++) {
        ks_factor f = m->f[i];
        const ks_generator *g = &a->generators[f.generator];
        if (g->kind == KS_G_PRIME) {
            int32_t whole = f.above / f.below;
            if (f.above < 0 && f.above % f.below != 0) whole--;
            if (whole != 0) scale_power(a, m->c, g->prime, whole);
            f.above -= whole * f.below;
        } else if (g->kind == KS_G_IMAGINARY && f.below == 1) {
            int32_t turn = ((f.above % 4) + 4) % 4;
            if (turn >= 2) mpq_neg(m->c, m->c);
            f.above = turn % 2;
        }
        if (f.above != 0) m->f[kept++] = f;
    }
    m->n = kept;
}

/* -------------------------------------------------------------------- sums */

/* Sorts, joins equal products, drops zeros. */
static void collect(ks_poly *p) {
    qsort(p->m, p->n, sizeof *p->m, by_factors);
    size_t kept = 0;
    for (size_t i = 0; i < p->n; i++) {
        ks_mono *m = &p->m[i];
        if (kept > 0 && compare_factors(&p->m[kept - 1], m) == 0) {
            mpq_add(p->m[kept - 1].c, p->m[kept - 1].c, m->c);
            mpq_clear(m->c);
            free(m->f);
        } else {
            if (kept > 0 && mpq_sgn(p->m[kept - 1].c) == 0) {
                kept--;
                mpq_clear(p->m[kept].c);
                free(p->m[kept].f);
            }
            p->m[kept++] = *m;
        }
    }
    if (kept > 0 && mpq_sgn(p->m[kept - 1].c) == 0) {
        kept--;
        mpq_clear(p->m[kept].c);
        free(p->m[kept].f);
    }
    p->n = kept;
}

static int64_t cost(const mpq_t c) {
    return 4 + (int64_t)(mpz_size(mpq_numref(c)) + mpz_size(mpq_denref(c)));
}

static const ks_poly *poly_add(ks_algebra *a, const ks_poly *x,
                               const ks_poly *y) {
    if (a->failed) return a->one;
    ks_poly *sum = new_poly(a, x->n + y->n);
    for (size_t i = 0; i < x->n + y->n && !a->failed; i++) {
        const ks_mono *m = i < x->n ? &x->m[i] : &y->m[i - x->n];
        ks_mono *copy = new_mono(a, sum, m->n);
        if (copy == NULL) break;
        mpq_set(copy->c, m->c);
        if (m->n > 0) memcpy(copy->f, m->f, m->n * sizeof *m->f);
        copy->n = m->n;
        spend(a, cost(m->c) + (int64_t)m->n);
    }
    if (sum == NULL) return a->one;
    collect(sum);
    return sum;
}

static void multiply_mono(ks_algebra *a, ks_poly *p, const ks_mono *x,
                          const ks_mono *y) {
    ks_mono *m = new_mono(a, p, x->n + y->n);
    if (m == NULL) return;
    if (mpz_sizeinbase(mpq_numref(x->c), 2) > MOST_BITS ||
        mpz_sizeinbase(mpq_denref(x->c), 2) > MOST_BITS) {
        give_up(a);
    }
    mpq_mul(m->c, x->c, y->c);
    size_t i = 0, k = 0;
    while (i < x->n || k < y->n) {
        ks_factor *f = &m->f[m->n++];
        if (k == y->n || (i < x->n && x->f[i].generator < y->f[k].generator)) {
            *f = x->f[i++];
        } else if (i == x->n || y->f[k].generator < x->f[i].generator) {
            *f = y->f[k++];
        } else {
            const ks_factor *u = &x->f[i++], *v = &y->f[k++];
            f->generator = u->generator;
            set_exponent(a, f,
                         (int64_t)u->above * v->below +
                             (int64_t)v->above * u->below,
                         (int64_t)u->below * v->below);
        }
    }
    normalise(a, m);
    spend(a, cost(m->c) + 2 * (int64_t)m->n);
}

static const ks_poly *poly_multiply(ks_algebra *a, const ks_poly *x,
                                    const ks_poly *y) {
    if (a->failed || x == a->one) return y;
    if (y == a->one) return x;
    ks_poly *product = new_poly(a, x->n * y->n);
    for (size_t i = 0; i < x->n && !a->failed; i++) {
        for (size_t k = 0; k < y->n && !a->failed; k++)
            multiply_mono(a, product, &x->m[i], &y->m[k]);
    }
    if (product == NULL) return a->one;
    collect(product);
    if (product->n > MOST_TERMS) give_up(a);
    return product;
}

static bool poly_same(const ks_poly *x, const ks_poly *y) {
    if (x == y) return true;
    if (x->n != y->n) return false;
    for (size_t i = 0; i < x->n; i++) {
        if (compare_factors(&x->m[i], &y->m[i]) != 0 ||
            !mpq_equal(x->m[i].c, y->m[i].c)) {
            return false;
        }
    }
    return true;
}

/* ------------------------------------------------------------------ values */

static ks_fraction nothing(ks_algebra *a) {
    return (ks_fraction){a->one, a->one};
}

ks_fraction ks__value_rational(ks_algebra *a, const mpq_t q) {
    ks_poly *p = new_poly(a, 1);
    if (p == NULL) return nothing(a);
    if (mpq_sgn(q) != 0) {
        ks_mono *m = new_mono(a, p, 0);
        if (m == NULL) return nothing(a);
        mpq_set(m->c, q);
    }
    return (ks_fraction){p, a->one};
}

ks_fraction ks__value_generator(ks_algebra *a, ks_generator_kind kind,
                                const char *key, size_t n) {
    uint32_t g = generator(a, kind, key, n);
    ks_poly *p = new_poly(a, 1);
    ks_mono *m = p == NULL ? NULL : new_mono(a, p, 1);
    if (m == NULL) return nothing(a);
    mpq_set_ui(m->c, 1, 1);
    m->f[0] = (ks_factor){g, 1, 1};
    m->n = 1;
    return (ks_fraction){p, a->one};
}

ks_fraction ks__value_add(ks_algebra *a, ks_fraction x, ks_fraction y) {
    if (a->failed) return nothing(a);
    if (poly_same(x.bottom, y.bottom))
        return (ks_fraction){poly_add(a, x.top, y.top), x.bottom};
    const ks_poly *left = poly_multiply(a, x.top, y.bottom);
    const ks_poly *right = poly_multiply(a, y.top, x.bottom);
    return (ks_fraction){poly_add(a, left, right),
                         poly_multiply(a, x.bottom, y.bottom)};
}

ks_fraction ks__value_multiply(ks_algebra *a, ks_fraction x, ks_fraction y) {
    if (a->failed) return nothing(a);
    return (ks_fraction){poly_multiply(a, x.top, y.top),
                         poly_multiply(a, x.bottom, y.bottom)};
}

ks_fraction ks__value_negate(ks_algebra *a, ks_fraction x) {
    mpq_t minus;
    mpq_init(minus);
    mpq_set_si(minus, -1, 1);
    ks_fraction m = ks__value_rational(a, minus);
    mpq_clear(minus);
    return ks__value_multiply(a, m, x);
}

ks_fraction ks__value_invert(ks_algebra *a, ks_fraction x) {
    if (a->failed) return nothing(a);
    if (x.top->n == 0) { /* 1/0 */
        give_up(a);
        return nothing(a);
    }
    if (x.top->n > 1) return (ks_fraction){x.bottom, x.top};
    const ks_mono *m = &x.top->m[0];
    ks_poly *p = new_poly(a, 1);
    ks_mono *inverse = p == NULL ? NULL : new_mono(a, p, m->n);
    if (inverse == NULL) return nothing(a);
    mpq_inv(inverse->c, m->c);
    for (size_t i = 0; i < m->n; i++) {
        inverse->f[i] = m->f[i];
        inverse->f[i].above = -inverse->f[i].above;
    }
    inverse->n = m->n;
    normalise(a, inverse);
    return (ks_fraction){poly_multiply(a, x.bottom, p), a->one};
}

bool ks__value_is_zero(ks_fraction x) {
    return x.top->n == 0;
}

bool ks__value_as_rational(ks_fraction x, mpq_t out) {
    bool whole = x.bottom->n == 1 && x.bottom->m[0].n == 0;
    if (!whole || x.top->n > 1) return false;
    if (x.top->n == 0) {
        mpq_set_ui(out, 0, 1);
        return true;
    }
    if (x.top->m[0].n != 0) return false;
    mpq_div(out, x.top->m[0].c, x.bottom->m[0].c);
    return true;
}

bool ks__value_equal(ks_algebra *a, ks_fraction x, ks_fraction y) {
    if (a->failed) return false;
    if (poly_same(x.bottom, y.bottom)) return poly_same(x.top, y.top);
    const ks_poly *left = poly_multiply(a, x.top, y.bottom);
    const ks_poly *right = poly_multiply(a, y.top, x.bottom);
    return !a->failed && poly_same(left, right);
}

bool ks__value_proportional(ks_algebra *a, ks_fraction x, ks_fraction y,
                            bool positive) {
    if (a->failed) return false;
    if (x.top->n == 0 || y.top->n == 0) return x.top->n == y.top->n;
    const ks_poly *p = x.top, *q = y.top;
    if (positive) { /* a bottom could turn the sign: only without */
        if (x.bottom->n > 1 || y.bottom->n > 1) return false;
    }
    if (p->n != q->n) return false;
    mpq_t ratio, other;
    mpq_init(ratio);
    mpq_init(other);
    mpq_div(ratio, p->m[0].c, q->m[0].c);
    bool same = !positive || mpq_sgn(ratio) > 0;
    for (size_t i = 0; i < p->n && same; i++) {
        mpq_div(other, p->m[i].c, q->m[i].c);
        same =
            compare_factors(&p->m[i], &q->m[i]) == 0 && mpq_equal(ratio, other);
    }
    mpq_clear(ratio);
    mpq_clear(other);
    return same;
}

/* ----------------------------------------------------------- opaque values */

static void write_poly(ks_algebra *a, ks_str *s, const ks_poly *p) {
    for (size_t i = 0; i < p->n && a->status == KS_OK; i++) {
        const ks_mono *m = &p->m[i];
        char *c = mpq_get_str(NULL, 10, m->c);
        a->status = ks_str_printf(s, a->err, "+%s", c == NULL ? "?" : c);
        spend(a, cost(m->c) * 20);
        free(c);
        for (size_t k = 0; k < m->n && a->status == KS_OK; k++) {
            a->status =
                ks_str_printf(s, a->err, "*g%u^%d/%d", m->f[k].generator,
                              m->f[k].above, m->f[k].below);
        }
    }
    if (a->status != KS_OK) give_up(a);
}

ks_fraction ks__value_opaque(ks_algebra *a, const char *name,
                             const ks_fraction *arguments, size_t n) {
    ks_str key = {0};
    if (a->failed) return nothing(a);
    a->status = ks_str_printf(&key, a->err, "%s", name);
    for (size_t i = 0; i < n && a->status == KS_OK; i++) {
        a->status = ks_str_printf(&key, a->err, "(");
        write_poly(a, &key, arguments[i].top);
        if (a->status == KS_OK) a->status = ks_str_printf(&key, a->err, "/");
        write_poly(a, &key, arguments[i].bottom);
        if (a->status == KS_OK) a->status = ks_str_printf(&key, a->err, ")");
    }
    if (a->status != KS_OK) give_up(a);
    ks_fraction x =
        a->failed ? nothing(a)
                  : ks__value_generator(a, KS_G_OPAQUE, key.data, key.length);
    ks_str_free(&key);
    return x;
}
