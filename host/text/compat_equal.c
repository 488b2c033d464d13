/* compat_equal.c - the published list of equivalences, true at the first. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compat.h"
#include "regex.h"

/* The published comparison calls itself on parts; parts are shorter, but a
 * chain of a=b=c... is as deep as it is long. */
enum { DEEPEST = 32 };

static ks_regex list =
    KS_REGEX("^\\(?+([\\w.+\\-*/^]++(?:,[\\w.+\\-*/^]++)++)\\)?$", 0);
static ks_regex assignment = KS_REGEX("^[a-z_]\\w*=(.+)$", 0);
static ks_regex between = KS_REGEX("^(-?[\\d.]+)(?:<=?|≤|\\\\leq?|\\\\lt)\\\\?["
                                   "a-z]\\w*(?:<=?|≤|\\\\leq?|\\\\lt)"
                                   "(-?[\\d.]+)$",
                                   PCRE2_CASELESS);
static ks_regex open = KS_REGEX("^\\((-?[\\d.]+),(-?[\\d.]+)\\)$", 0);
static ks_regex spaces = KS_REGEX("[$" KS_SPACES "]+|\\\\[,;:! ]", 0);
static ks_regex rationals[] = {
    KS_REGEX("^[+-]?\\\\[dt]?frac\\{(\\d+)\\}\\{(\\d+)\\}$", 0),
    KS_REGEX("^[+-]?(\\d+)/(\\d+)$", 0),
    KS_REGEX("^[+-]?(\\d+):(\\d+)$", 0),
};
static ks_regex whole = KS_REGEX("^[+-]?\\d+$", 0);
static ks_regex word = KS_REGEX("^([a-z]+)(?![a-z])", 0);

typedef struct side {
    const char *raw; /* as given */
    size_t n;
    ks_str normal; /* normal form */
    ks_str tight;  /* as given, without white space and $ */
} side;

static ks_status equal(const char *a, size_t n_a, const char *b, size_t n_b,
                       int depth, bool *out, ks_err *err);

static bool same(const char *a, size_t n_a, const char *b, size_t n_b) {
    return n_a == n_b && memcmp(a, b, n_a) == 0;
}

/* The parts of a comma list one by one; false at its end. */
static bool next_part(const char *text, ks_span all, size_t *at,
                      ks_span *part) {
    if (*at > all.end) return false;
    const char *comma =
        *at < all.end ? memchr(text + *at, ',', all.end - *at) : NULL;
    part->begin = *at;
    part->end = comma == NULL ? all.end : (size_t)(comma - text);
    *at = part->end + 1;
    return true;
}

static ks_status by_list(const side *a, const side *b, int depth, bool *out,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks_span g[2][2], p, q;
    bool is_a, is_b;
    KS_TRY(ks__regex_find(&list, a->normal.data, a->normal.length, 0, g[0], 2,
                          &is_a, err));
    KS_TRY(ks__regex_find(&list, b->normal.data, b->normal.length, 0, g[1], 2,
                          &is_b, err));
    if (!is_a || !is_b) return KS_OK;
    size_t at = g[0][1].begin, bt = g[1][1].begin;
    while (true) {
        bool more_a = next_part(a->normal.data, g[0][1], &at, &p);
        bool more_b = next_part(b->normal.data, g[1][1], &bt, &q);
        if (more_a != more_b) return KS_OK;
        if (!more_a) break;
        bool part;
        KS_TRY(equal(a->normal.data + p.begin, p.end - p.begin,
                     b->normal.data + q.begin, q.end - q.begin, depth + 1,
                     &part, err));
        if (!part) return KS_OK;
    }
    *out = true;
done:
    return st;
}

static ks_status by_assignment(const side *a, const side *b, int depth,
                               bool *out, ks_err *err) {
    ks_status st = KS_OK;
    ks_span g[2][2];
    bool is_a, is_b;
    KS_TRY(ks__regex_find(&assignment, a->normal.data, a->normal.length, 0,
                          g[0], 2, &is_a, err));
    KS_TRY(ks__regex_find(&assignment, b->normal.data, b->normal.length, 0,
                          g[1], 2, &is_b, err));
    if (is_a == is_b) return KS_OK;
    if (is_a) {
        KS_TRY(equal(a->normal.data + g[0][1].begin,
                     g[0][1].end - g[0][1].begin, b->normal.data,
                     b->normal.length, depth + 1, out, err));
    } else {
        KS_TRY(equal(a->normal.data, a->normal.length,
                     b->normal.data + g[1][1].begin,
                     g[1][1].end - g[1][1].begin, depth + 1, out, err));
    }
done:
    return st;
}

/* Ends of lo<v<hi or (lo,hi) in the text without white space. */
static ks_status ends(const side *s, ks_span *g, bool *found, ks_err *err) {
    ks_status st = ks__regex_find(&between, s->tight.data, s->tight.length, 0,
                                  g, 3, found, err);
    if (st == KS_OK && !*found) {
        st = ks__regex_find(&open, s->tight.data, s->tight.length, 0, g, 3,
                            found, err);
    }
    return st;
}

static ks_status by_interval(const side *a, const side *b, bool *out,
                             ks_err *err) {
    ks_status st = KS_OK;
    ks_span g[2][3];
    bool is_a, is_b;
    KS_TRY(ends(a, g[0], &is_a, err));
    KS_TRY(ends(b, g[1], &is_b, err));
    if (!is_a || !is_b) return KS_OK;
    *out = true;
    for (int i = 1; i <= 2; i++) {
        *out = *out &&
               same(a->tight.data + g[0][i].begin, g[0][i].end - g[0][i].begin,
                    b->tight.data + g[1][i].begin, g[1][i].end - g[1][i].begin);
    }
done:
    return st;
}

static ks_status by_number(const side *a, const side *b, bool *out,
                           ks_err *err) {
    ks_status st = KS_OK;
    double f, g;
    bool is_a, is_b;
    KS_TRY(ks__compat_number(a->raw, a->n, &f, &is_a, err));
    KS_TRY(ks__compat_number(b->raw, b->n, &g, &is_b, err));
    if (!is_a || !is_b) return KS_OK;
    if (fabs(g) <= 1e-10)
        *out = fabs(f - g) < 1e-10;
    else
        *out = fabs(f - g) / fabs(g) < 5e-4;
done:
    return st;
}

/* The sign of a fraction is lost here, as published. */
static ks_status rational(const side *s, int64_t *above, int64_t *below,
                          bool *found, ks_err *err) {
    ks_status st = KS_OK;
    ks_span g[3];
    *found = false;
    for (size_t i = 0; i < KS_COUNT(rationals) && !*found; i++) {
        KS_TRY(ks__regex_find(&rationals[i], s->tight.data, s->tight.length, 0,
                              g, 3, found, err));
    }
    if (*found) {
        /* beyond 18 digits: not a rational here */
        if (g[1].end - g[1].begin > 18 || g[2].end - g[2].begin > 18) {
            *found = false;
            return KS_OK;
        }
        *above = strtoll(s->tight.data + g[1].begin, NULL, 10);
        *below = strtoll(s->tight.data + g[2].begin, NULL, 10);
        *found = *below != 0;
        return KS_OK;
    }
    KS_TRY(ks__regex_find(&whole, s->tight.data, s->tight.length, 0, g, 1,
                          found, err));
    if (s->tight.length > 18) *found = false;
    if (*found) {
        *above = strtoll(s->tight.data, NULL, 10);
        *below = 1;
    }
done:
    return st;
}

static int64_t divisor(int64_t a, int64_t b) {
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a < 0 ? -a : a;
}

/* p/q == r/s, q and s positive, compared in lowest terms. */
static bool cross_equal(int64_t p, int64_t q, int64_t r, int64_t s) {
    int64_t g = divisor(p, q), h = divisor(r, s);
    return p / g == r / h && q / g == s / h;
}

static ks_status by_rational(const side *a, const side *b, bool *out,
                             ks_err *err) {
    ks_status st = KS_OK;
    int64_t p, q, r, s;
    bool is_a, is_b;
    KS_TRY(rational(a, &p, &q, &is_a, err));
    KS_TRY(rational(b, &r, &s, &is_b, err));
    *out = is_a && is_b && cross_equal(p, q, r, s);
done:
    return st;
}

/* Bytes of a signed term; minus says its sign. */
typedef struct term {
    const char *text;
    size_t n;
    bool minus;
} term;

/* Positive terms first, each kind by its text. */
static int by_sign_and_text(const void *x, const void *y) {
    const term *a = x, *b = y;
    if (a->minus != b->minus) return a->minus ? 1 : -1;
    int order = memcmp(a->text, b->text, KS_MIN(a->n, b->n));
    if (order != 0) return order;
    return (a->n > b->n) - (a->n < b->n);
}

static ks_status terms_of(const ks_str *s, term **terms, size_t *n,
                          ks_err *err) {
    ks_status st = KS_OK;
    size_t capacity = 0, begin = 0;
    bool minus = false;
    *n = 0;
    for (size_t i = 0; i <= s->length; i++) {
        bool end = i == s->length || s->data[i] == '+' || s->data[i] == '-';
        if (!end) continue;
        if (i > begin) {
            KS_TRY(ks_grow(terms, &capacity, *n + 1, sizeof **terms, "terms",
                           err));
            (*terms)[(*n)++] = (term){s->data + begin, i - begin, minus};
        }
        minus = i < s->length && s->data[i] == '-';
        begin = i + 1;
    }
    if (*n > 1) qsort(*terms, *n, sizeof **terms, by_sign_and_text);
done:
    return st;
}

static ks_status by_sum(const side *a, const side *b, bool *out, ks_err *err) {
    ks_status st = KS_OK;
    term *left = NULL, *right = NULL;
    size_t n_left, n_right;
    if (memchr(a->normal.data, '(', a->normal.length) ||
        memchr(b->normal.data, '(', b->normal.length)) {
        return KS_OK;
    }
    KS_TRY(terms_of(&a->normal, &left, &n_left, err));
    KS_TRY(terms_of(&b->normal, &right, &n_right, err));
    *out = n_left == n_right && n_left > 1;
    for (size_t i = 0; *out && i < n_left; i++) {
        *out = by_sign_and_text(&left[i], &right[i]) == 0;
    }
done:
    free(left);
    free(right);
    return st;
}

static const char *const months[] = {
    "january", "february", "march",     "april",   "may",      "june",
    "july",    "august",   "september", "october", "november", "december",
};

/* 1..12 for a month's name or its abbreviation of three letters (sept too). */
static int month(const char *text, size_t n) {
    if (n == 4 && memcmp(text, "sept", 4) == 0) return 9;
    for (int i = 0; i < 12; i++) {
        if (same(text, n, months[i], strlen(months[i])) ||
            same(text, n, months[i], 3)) {
            return i + 1;
        }
    }
    return 0;
}

static ks_status by_month(const side *a, const side *b, bool *out,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_span g[2];
    bool is_a, is_b;
    KS_TRY(ks__regex_find(&word, a->normal.data, a->normal.length, 0, &g[0], 1,
                          &is_a, err));
    KS_TRY(ks__regex_find(&word, b->normal.data, b->normal.length, 0, &g[1], 1,
                          &is_b, err));
    if (!is_a || !is_b) return KS_OK;
    int m = month(a->normal.data, g[0].end);
    *out = m != 0 && m == month(b->normal.data, g[1].end) &&
           same(a->normal.data + g[0].end, a->normal.length - g[0].end,
                b->normal.data + g[1].end, b->normal.length - g[1].end);
done:
    return st;
}

static ks_status side_open(side *s, const char *text, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    s->raw = text;
    s->n = n;
    KS_TRY(ks__compat_normal(text, n, &s->normal, err));
    KS_TRY(ks__regex_replace(&spaces, text, n, "", &s->tight, err));
done:
    return st;
}

static void side_close(side *s) {
    ks_str_free(&s->normal);
    ks_str_free(&s->tight);
}

static ks_status equal(const char *a, size_t n_a, const char *b, size_t n_b,
                       int depth, bool *out, ks_err *err) {
    ks_status st = KS_OK;
    side l = {0}, r = {0};
    *out = false;
    if (depth > DEEPEST) return KS_OK;
    KS_TRY(side_open(&l, a, n_a, err));
    KS_TRY(side_open(&r, b, n_b, err));
    *out = same(l.normal.data, l.normal.length, r.normal.data, r.normal.length);
    if (!*out) KS_TRY(by_list(&l, &r, depth, out, err));
    if (!*out) KS_TRY(by_assignment(&l, &r, depth, out, err));
    if (!*out) KS_TRY(by_interval(&l, &r, out, err));
    if (!*out) KS_TRY(by_number(&l, &r, out, err));
    /* a:b = \frac{a}{b} is one of the rationals too */
    if (!*out) KS_TRY(by_rational(&l, &r, out, err));
    if (!*out) KS_TRY(by_sum(&l, &r, out, err));
    if (!*out) KS_TRY(by_month(&l, &r, out, err));
done:
    side_close(&l);
    side_close(&r);
    return st;
}

ks_status ks__compat_equal(const char *a, size_t n_a, const char *b, size_t n_b,
                           bool *out, ks_err *err) {
    return equal(a, n_a, b, n_b, 0, out, err);
}
