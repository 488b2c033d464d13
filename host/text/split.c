/* split.c - a chain's steps. */
#include <string.h>

#include "text.h"

/* Code points a piece must have to stand on its own. */
enum { SHORTEST_STEP = 10 };

static bool paragraph_at(const char *text, size_t n, size_t i) {
    return (n - i >= 2 && memcmp(text + i, "\n\n", 2) == 0) ||
           (n - i >= 4 && memcmp(text + i, "\r\n\r\n", 4) == 0);
}

static bool sentence_at(const char *text, size_t n, size_t i) {
    char c = text[i];
    return (c == '.' || c == '?' || c == '!') && i + 1 < n &&
           (text[i + 1] == ' ' || text[i + 1] == '\n');
}

/* Adds text[begin, end), or joins it to the step before it. */
static ks_status add_piece(const char *text, size_t begin, size_t end,
                           ks_spans *out, ks_err *err) {
    ks_span own = ks_text_trim(text, (ks_span){begin, end});
    size_t length = ks_text_code_points(text + own.begin, own.end - own.begin);
    if (length < SHORTEST_STEP && out->n > 0) {
        out->at[out->n - 1].end = end;
        return KS_OK;
    }
    return ks_spans_add(out, begin, end, err);
}

ks_status ks_text_split(const char *text, size_t n, ks_spans *out,
                        ks_err *err) {
    ks_status st = KS_OK;
    out->n = 0;
    KS_TRY(ks_text_check(text, n, "text", err));
    /* All marks are ASCII, so bytes can be walked in place of code points. */
    size_t begin = 0;
    for (size_t i = 0; i < n; i++) {
        if (!paragraph_at(text, n, i) && !sentence_at(text, n, i)) continue;
        KS_TRY(add_piece(text, begin, i + 1, out, err));
        begin = i + 1;
    }
    ks_span tail = ks_text_trim(text, (ks_span){begin, n});
    if (tail.begin < tail.end) KS_TRY(add_piece(text, begin, n, out, err));
done:
    return st;
}
