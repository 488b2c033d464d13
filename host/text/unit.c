/* unit.c - units of measure with exact factors. */
#include <ctype.h>
#include <string.h>

#include "expr.h"

enum { LENGTH, MASS, TIME, DOLLAR, ANGLE, HEAT };

typedef struct measure {
    const char *names; /* separated by blanks */
    int64_t above, below;
    int8_t dimension[KS_N_DIMENSIONS];
} measure;

/* Base units: metre, gram, second, dollar, degree, joule. Inch, pound and
 * gallon by their legal definitions. */
static const measure measures[] = {
    {"m meter meters metre metres", 1, 1, {1}},
    {"km kilometer kilometers kilometre kilometres", 1000, 1, {1}},
    {"cm centimeter centimeters centimetre centimetres", 1, 100, {1}},
    {"mm millimeter millimeters millimetre millimetres", 1, 1000, {1}},
    {"in inch inches", 254, 10000, {1}},
    {"ft foot feet", 3048, 10000, {1}},
    {"yd yard yards", 9144, 10000, {1}},
    {"mi mile miles", 1609344, 1000, {1}},
    {"g gram grams", 1, 1, {0, 1}},
    {"kg kilogram kilograms", 1000, 1, {0, 1}},
    {"mg milligram milligrams", 1, 1000, {0, 1}},
    {"lb lbs pound pounds", 45359237, 100000, {0, 1}},
    {"oz ounce ounces", 45359237, 1600000, {0, 1}},
    {"s sec secs second seconds", 1, 1, {0, 0, 1}},
    {"min mins minute minutes", 60, 1, {0, 0, 1}},
    {"h hr hrs hour hours", 3600, 1, {0, 0, 1}},
    {"day days", 86400, 1, {0, 0, 1}},
    {"week weeks", 604800, 1, {0, 0, 1}},
    {"dollar dollars usd", 1, 1, {0, 0, 0, 1}},
    {"cent cents", 1, 100, {0, 0, 0, 1}},
    {"degree degrees deg", 1, 1, {0, 0, 0, 0, 1}},
    {"l liter liters litre litres", 1, 1000, {3}},
    {"ml milliliter milliliters millilitre millilitres", 1, 1000000, {3}},
    {"gallon gallons gal", 473176473, 125000000000, {3}},
    {"mph", 1609344, 3600000, {1, 0, -1}},
    {"kph kmh", 1000, 3600, {1, 0, -1}},
    {"j joule joules", 1, 1, {0, 0, 0, 0, 0, 1}},
    {"kj kilojoule kilojoules", 1000, 1, {0, 0, 0, 0, 0, 1}},
};

static bool in_list(const char *names, const char *word, size_t n) {
    while (*names != 0) {
        size_t length = strcspn(names, " ");
        if (length == n && memcmp(names, word, n) == 0) return true;
        names += length;
        names += strspn(names, " ");
    }
    return false;
}

static const measure *find(const char *word, size_t n) {
    char low[32];
    if (n == 0 || n >= sizeof low) return NULL;
    for (size_t i = 0; i < n; i++)
        low[i] = (char)tolower((unsigned char)word[i]);
    /* M, S, G, H are no units; L is. */
    if (n == 1 && isupper((unsigned char)word[0]) && word[0] != 'L')
        return NULL;
    for (size_t i = 0; i < KS_COUNT(measures); i++) {
        if (in_list(measures[i].names, low, n)) return &measures[i];
    }
    return NULL;
}

bool ks__unit_known(const char *word, size_t n) {
    return find(word, n) != NULL;
}

static bool multiply(int64_t *a, int64_t b) {
    int64_t product;
    if (__builtin_mul_overflow(*a, b, &product) || product > INT64_MAX / 2)
        return false;
    *a = product;
    return true;
}

static void reduce(ks_unit *u) {
    int64_t a = u->above, b = u->below;
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    u->above /= a;
    u->below /= a;
}

static bool apply(ks_unit *u, const measure *m, int power) {
    int sign = power < 0 ? -1 : 1;
    for (int i = 0; i < sign * power; i++) {
        bool fits = sign > 0 ? multiply(&u->above, m->above) &&
                                   multiply(&u->below, m->below)
                             : multiply(&u->above, m->below) &&
                                   multiply(&u->below, m->above);
        if (!fits) return false;
        reduce(u);
    }
    for (int i = 0; i < KS_N_DIMENSIONS; i++)
        u->dimension[i] = (int8_t)(u->dimension[i] + power * m->dimension[i]);
    return true;
}

/* The label, with the word in lower case and in the singular. */
static void add_label(ks_unit *u, const char *word, size_t n, bool per) {
    size_t used = strlen(u->label);
    if (n > 3 && memcmp(word + n - 3, "ies", 3) == 0)
        n -= 2; /* ponies, poni */
    else if (n > 1 && word[n - 1] == 's')
        n--;
    else if (n > 1 && word[n - 1] == 'y')
        n--;
    const char *gap = per ? "/" : used > 0 ? " " : "";
    size_t room = sizeof u->label - used - 1;
    size_t lead = strlen(gap);
    if (room <= lead) return;
    memcpy(u->label + used, gap, lead);
    size_t take = KS_MIN(n, room - lead);
    for (size_t i = 0; i < take; i++) {
        u->label[used + lead + i] = (char)tolower((unsigned char)word[i]);
    }
    u->label[used + lead + take] = 0;
}

typedef struct reader {
    const char *text;
    size_t n, at;
} reader;

static void skip_blanks(reader *r) {
    while (r->at < r->n && strchr(" \t\n.{}*\\,~", r->text[r->at]) != NULL)
        r->at++;
}

/* The exponent behind a word, 1 when there is none. */
static int exponent(reader *r) {
    skip_blanks(r);
    if (r->at >= r->n || r->text[r->at] != '^') return 1;
    r->at++;
    skip_blanks(r);
    bool minus = r->at < r->n && r->text[r->at] == '-';
    if (minus) r->at++;
    if (r->at >= r->n || r->text[r->at] < '1' || r->text[r->at] > '4') return 0;
    int power = r->text[r->at++] - '0';
    return minus ? -power : power;
}

static bool word_is(const char *word, size_t n, const char *names) {
    char low[16];
    if (n >= sizeof low) return false;
    for (size_t i = 0; i < n; i++)
        low[i] = (char)tolower((unsigned char)word[i]);
    return in_list(names, low, n);
}

bool ks__unit_parse(const char *text, size_t n, ks_unit *out) {
    reader r = {text, n, 0};
    int words = 0, power = 1;
    bool per = false;
    *out = (ks_unit){.above = 1, .below = 1};
    while (skip_blanks(&r), r.at < n) {
        unsigned char c = (unsigned char)text[r.at];
        if (c == '/') {
            per = true;
            r.at++;
            continue;
        }
        size_t length = 0;
        while (r.at + length < n &&
               (isalpha((unsigned char)text[r.at + length]) ||
                (unsigned char)text[r.at + length] >= 0x80 ||
                (length > 0 && strchr("'-", text[r.at + length])))) {
            length++;
        }
        if (length == 0) return false;
        const char *word = text + r.at;
        r.at += length;
        if (word_is(word, length, "per an a each")) {
            per = per || word_is(word, length, "per");
        } else if (word_is(word, length, "square sq")) {
            power = 2;
        } else if (word_is(word, length, "cubic cu")) {
            power = 3;
        } else if (word_is(word, length, "of the")) {
            continue;
        } else {
            const measure *m = find(word, length);
            if (word_is(word, length, "squared") && words > 0) return false;
            power *= exponent(&r);
            if (power == 0) return false;
            if (m != NULL && !apply(out, m, per ? -power : power)) return false;
            if (m == NULL) add_label(out, word, length, per);
            words++;
            power = 1;
            per = false;
        }
    }
    return words > 0;
}
