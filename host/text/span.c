/* span.c - spans of text, white space, code points. */
#include <stdlib.h>
#include <utf8proc.h>

#include "text.h"

void ks_spans_free(ks_spans *spans) {
    free(spans->at);
    *spans = (ks_spans){0};
}

ks_status ks_spans_add(ks_spans *spans, size_t begin, size_t end, ks_err *err) {
    ks_status st = ks_grow(&spans->at, &spans->capacity, spans->n + 1,
                           sizeof *spans->at, "spans", err);
    if (st == KS_OK) spans->at[spans->n++] = (ks_span){begin, end};
    return st;
}

ks_status ks_text_check(const char *text, size_t n, const char *what,
                        ks_err *err) {
    size_t bad = n > 0 ? ks_utf8_check(text, n) : 0;
    if (bad == n) return KS_OK;
    return ks_fail(err, KS_FORMAT, "%s: byte %zu (0x%02x) is not valid UTF-8",
                   what, bad, (unsigned)(unsigned char)text[bad]);
}

bool ks_is_space(int32_t c) {
    if (c < 0x80) return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20);
    const utf8proc_property_t *property = utf8proc_get_property(c);
    return property->bidi_class == UTF8PROC_BIDI_CLASS_WS ||
           property->bidi_class == UTF8PROC_BIDI_CLASS_B ||
           property->bidi_class == UTF8PROC_BIDI_CLASS_S ||
           property->category == UTF8PROC_CATEGORY_ZS;
}

static int32_t code_point(const char *text, size_t at, size_t end) {
    utf8proc_int32_t c = -1;
    utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                     (utf8proc_ssize_t)(end - at), &c);
    return c;
}

static size_t sequence(unsigned char lead) {
    return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

ks_span ks_text_trim(const char *text, ks_span span) {
    while (span.begin < span.end &&
           ks_is_space(code_point(text, span.begin, span.end))) {
        span.begin += sequence((unsigned char)text[span.begin]);
    }
    while (span.begin < span.end) {
        size_t last = span.end - 1;
        while (last > span.begin && ((unsigned char)text[last] & 0xc0) == 0x80)
            last--;
        if (!ks_is_space(code_point(text, last, span.end))) break;
        span.end = last;
    }
    return span;
}

size_t ks_text_code_points(const char *text, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    }
    return count;
}
