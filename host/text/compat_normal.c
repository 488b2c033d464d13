/* compat_normal.c - the published normal form: an ordered list of rewrites. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "compat.h"
#include "regex.h"

typedef struct rewrite {
    ks_regex find;
    const char *put;
} rewrite;

/* In this order; each runs over the whole text once. */
static rewrite rewrites[] = {
    {KS_REGEX("\\\\(?:[,;:!]|qquad|quad|[hv]space\\{[^{}]*\\})", 0), ""},
    {KS_REGEX("[dt]frac", 0), "frac"},
    {KS_REGEX("\\\\ |[" KS_SPACES "]+", 0), ""},
    {KS_REGEX("\\\\%|\\{,\\}", 0), ""},
    {KS_REGEX("(?<=\\d),(?=\\d)", 0), ""},
    {KS_REGEX("\\\\(?:times|cdot)", 0), "*"},
    /* The decimal comma comes too late: no comma between digits is left. */
    {KS_REGEX("(?<=\\d),(?=\\d)", 0), "."},
    {KS_REGEX("(?<!\\d)\\.(?=\\d)", 0), "0."},
    {KS_REGEX("\\{-\\}", 0), "-"},
    {KS_REGEX("\\{([^{}]*)\\}", 0), "$1"},
    {KS_REGEX("\\\\pi", 0), "pi"},
    {KS_REGEX("\\\\(?:text|mathrm)\\{([^{}]*)\\}", 0), "$1"},
    {KS_REGEX("([a-z]+)\\\\+(?=\\d)", 0), "$1"},
    {KS_REGEX("\\\\text", 0), ""},
    {KS_REGEX("^(?:is|equals|approximately|about|around)(?=\\d)", 0), ""},
};

/* Lower case of each code point into out. */
static ks_status lower(const char *text, size_t n, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    size_t i = 0;
    while (i < n) {
        utf8proc_int32_t c;
        utf8proc_uint8_t bytes[4];
        i += (size_t)utf8proc_iterate((const utf8proc_uint8_t *)text + i,
                                      (utf8proc_ssize_t)(n - i), &c);
        utf8proc_ssize_t w = utf8proc_encode_char(utf8proc_tolower(c), bytes);
        KS_TRY(ks_str_add(out, (const char *)bytes, (size_t)w, err));
    }
done:
    return st;
}

ks_status ks__compat_normal(const char *text, size_t n, ks_str *out,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_str next = {0};
    ks_span inner = ks_text_trim(text, (ks_span){0, n});
    while (inner.begin < inner.end && text[inner.begin] == '$') inner.begin++;
    while (inner.begin < inner.end && text[inner.end - 1] == '$') inner.end--;

    out->length = 0;
    KS_TRY(ks_str_add(out, "", 0, err));
    KS_TRY(lower(text + inner.begin, inner.end - inner.begin, out, err));
    for (size_t i = 0; i < KS_COUNT(rewrites); i++) {
        KS_TRY(ks__regex_replace(&rewrites[i].find, out->data, out->length,
                                 rewrites[i].put, &next, err));
        ks_str swap = *out;
        *out = next;
        next = swap;
    }
done:
    ks_str_free(&next);
    return st;
}
