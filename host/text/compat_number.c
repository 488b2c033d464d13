/* compat_number.c - the published numeric parser. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compat.h"
#include "regex.h"

#define UNITS                                                                  \
    "(?:dollars?|cents?|meters?|feet|foot|inch(?:es)?|pounds?|kilograms?|kg|"  \
    "km|cm|mm|seconds?|minutes?|hours?|mph|kph|miles?|mi|m)"

static ks_regex noise =
    KS_REGEX("[$" KS_SPACES "]|\\\\[,;:!]|(?<=\\d),(?=\\d)", 0);
static ks_regex minus = KS_REGEX("\\{-\\}", 0);
static ks_regex magnitude =
    KS_REGEX("(million|billion|trillion|thousand|hundred)", PCRE2_CASELESS);
static ks_regex boxed_unit =
    KS_REGEX("\\\\text\\{" UNITS "\\}", PCRE2_CASELESS);
static ks_regex unit = KS_REGEX(UNITS "$", PCRE2_CASELESS);
static ks_regex lead =
    KS_REGEX("^(?:is|equals|=|approximately|about|around)", PCRE2_CASELESS);

/* What is left must match one of these whole; tried in this order. */
enum form { CLOCK, REPEATING, MIXED, FRACTION, SLASH, RATIO, POWER, PLAIN };
#define REAL "([+-]?(?:\\d+(?:\\.\\d*)?|\\.\\d+))"
static ks_regex forms[] = {
    [CLOCK] = KS_REGEX("^([+-]?\\d+)o'clock$", PCRE2_CASELESS),
    [REPEATING] = KS_REGEX("^([+-]?\\d*)\\.(\\d*)\\\\overline\\{(\\d+)\\}$", 0),
    [MIXED] =
        KS_REGEX("^([+-]?)(\\d+)\\\\[dt]?frac\\{(\\d+)\\}\\{(\\d+)\\}$", 0),
    [FRACTION] =
        KS_REGEX("^([+-]?)\\\\[dt]?frac\\{" REAL "\\}\\{" REAL "\\}$", 0),
    [SLASH] = KS_REGEX("^" REAL "/" REAL "$", 0),
    [RATIO] = KS_REGEX("^" REAL ":" REAL "$", 0),
    [POWER] = KS_REGEX("^" REAL "\\^\\{?" REAL "\\}?$", 0),
    [PLAIN] = KS_REGEX("^([+-]?(?:\\d+(?:\\.\\d*)?|\\.\\d+)(?:e[+-]?\\d+)?)$",
                       PCRE2_CASELESS),
};

static double real(const char *text, ks_span at) {
    /* A stop behind the group: strtod reads on through digits only. */
    char word[64] = "";
    size_t n = KS_MIN(at.end - at.begin, sizeof word - 1);
    if (at.end - at.begin >= sizeof word) return strtod(text + at.begin, NULL);
    memcpy(word, text + at.begin, n);
    return strtod(word, NULL);
}

static bool negative(const char *text, ks_span sign) {
    return sign.end > sign.begin && text[sign.begin] == '-';
}

/* The value of one form; false for a zero denominator. */
static bool evaluate(enum form form, const char *text, const ks_span *g,
                     double *out) {
    switch (form) {
    case CLOCK:
    case PLAIN:
        *out = real(text, g[1]);
        return true;
    case REPEATING: {
        double head = fabs(real(text, g[1]));
        double scale = pow(10, -(double)(g[2].end - g[2].begin));
        double nines = pow(10, (double)(g[3].end - g[3].begin)) - 1;
        double tail = real(text, g[3]) / nines * scale;
        *out = head + real(text, g[2]) * scale + tail;
        if (negative(text, g[1])) *out = -*out;
        return true;
    }
    case MIXED: {
        double below = real(text, g[4]);
        if (below == 0) return false;
        *out = real(text, g[2]) + real(text, g[3]) / below;
        if (negative(text, g[1])) *out = -*out;
        return true;
    }
    case FRACTION: {
        double below = real(text, g[3]);
        if (below == 0) return false;
        *out = real(text, g[2]) / below;
        if (negative(text, g[1])) *out = -*out;
        return true;
    }
    case SLASH:
    case RATIO: {
        double below = real(text, g[2]);
        if (below == 0) return false;
        *out = real(text, g[1]) / below;
        return true;
    }
    case POWER:
        *out = pow(real(text, g[1]), real(text, g[2]));
        return true;
    }
    return false;
}

/* Takes the one magnitude word out and says by how much it multiplies. */
static ks_status take_magnitude(ks_str *text, ks_str *spare, double *scale,
                                ks_err *err) {
    ks_span word;
    bool found;
    ks_status st = ks__regex_find(&magnitude, text->data, text->length, 0,
                                  &word, 1, &found, err);
    *scale = 1;
    if (st != KS_OK || !found) return st;
    switch (text->data[word.begin] & ~0x20) {
    case 'H':
        *scale = 1e2;
        break;
    case 'M':
        *scale = 1e6;
        break;
    case 'B':
        *scale = 1e9;
        break;
    default:
        *scale = (text->data[word.begin + 1] & ~0x20) == 'H' ? 1e3 : 1e12;
    }
    spare->length = 0;
    KS_TRY(ks_str_add(spare, text->data, word.begin, err));
    KS_TRY(
        ks_str_add(spare, text->data + word.end, text->length - word.end, err));
    ks_str swap = *text;
    *text = *spare;
    *spare = swap;
done:
    return st;
}

static ks_status strip(ks_str *text, ks_str *spare, ks_regex *what,
                       const char *put, ks_err *err) {
    ks_status st =
        ks__regex_replace(what, text->data, text->length, put, spare, err);
    ks_str swap = *text;
    *text = *spare;
    *spare = swap;
    return st;
}

ks_status ks__compat_number(const char *text, size_t n, double *out,
                            bool *found, ks_err *err) {
    ks_status st = KS_OK;
    ks_str s = {0}, spare = {0};
    double scale;
    *found = false;
    KS_TRY(ks_str_add(&s, text, n, err));
    KS_TRY(strip(&s, &spare, &noise, "", err));
    KS_TRY(strip(&s, &spare, &minus, "-", err));
    KS_TRY(take_magnitude(&s, &spare, &scale, err));
    KS_TRY(strip(&s, &spare, &boxed_unit, "", err));
    KS_TRY(strip(&s, &spare, &unit, "", err));
    KS_TRY(strip(&s, &spare, &lead, "", err));
    for (size_t i = 0; i < KS_COUNT(forms); i++) {
        ks_span g[5];
        bool match;
        KS_TRY(
            ks__regex_find(&forms[i], s.data, s.length, 0, g, 5, &match, err));
        if (!match) continue;
        *found = evaluate((enum form)i, s.data, g, out);
        *out *= scale;
        if (*found && !isfinite(*out)) *found = false;
        break;
    }
done:
    ks_str_free(&s);
    ks_str_free(&spare);
    return st;
}
