/* test_pattern.c - patterns match what Oniguruma matches; the expected pieces
 * are those that `tokenizers` 0.23.3 gives for Split(Regex, "isolated"). */
#include "fixture.h"

/* The pieces that matches cut the text into, between bars. */
static const char *pieces(const char *pattern, const char *text) {
    static char out[512];
    ks_pattern p;
    ks_matcher m;
    ks_err err = {0};
    ks_range r;
    bool found;
    size_t n = 0;
    int32_t done = 0, length = (int32_t)strlen(text);
    cr_assert(
        eq(int,
           ks_pattern_open(&p, pattern, strlen(pattern), false, "test", &err),
           KS_OK),
        "%s", err.text);
    cr_assert(eq(int, ks_matcher_open(&m, &err), KS_OK));
    out[0] = 0;
    for (;;) {
        cr_assert(eq(int,
                     ks_matcher_next(&m, &p, text, length, &r, &found, &err),
                     KS_OK));
        int32_t ends[2] = {found ? r.begin : length, found ? r.end : length};
        for (int i = 0; i < 2; i++) {
            if (ends[i] > done)
                n += (size_t)snprintf(out + n, sizeof(out) - n, "|%.*s",
                                      ends[i] - done, text + done);
            done = ends[i];
        }
        if (!found) break;
    }
    ks_matcher_close(&m);
    ks_pattern_close(&p);
    return out;
}

Test(pattern, matches_as_oniguruma) {
    static const struct {
        const char *pattern, *text, *expected;
    } rows[] = {
        {"\\s+",
         "a\u180eb\xc2\x85"
         "c\vd\u200be\ufefff\u00a0g\x1cx",
         "|a\u180eb|\xc2\x85|"
         "c|\v|d\u200be\ufefff|\u00a0|g\x1cx"},
        {"[^\\s]+", "a\u180eb\u2003c", "|a\u180eb|\u2003|c"},
        {"(?i:'s|'t)", "a'\u017fb'S'x", "|a|'\u017f|b|'S|'x"},
        {"a$", "a\nba", "|a|\nb|a"},
        {"^a", "a\nab", "|a|\n|a|b"},
        {"\\w+", "a\u0301b_c\u203fd\u200de\u2460\u00b2\u0663-x",
         "|a\u0301b_c\u203fd|\u200d|e|\u2460|\u00b2\u0663|-|x"},
        {"[\\w]+", "e\u00b2\u0663", "|e|\u00b2|\u0663"},
        {"\\d", "1\u0663\u00b2", "|1|\u0663|\u00b2"},
        {"\\D+", "a\u06631", "|a|\u06631"},
        {"x*", "axxb", "|a|xx|b"},
        {"\\p{Han}+", "\u6f22\u3001\u5b57\u3006\u3005x",
         "|\u6f22|\u3001|\u5b57|\u3006|\u3005|x"},
        {"\\P{Han}+", "\u6f22\u3001\u3006\u5b57",
         "|\u6f22|\u3001\u3006|\u5b57"},
        {"\\u4e2d", "a\u4e2db", "|a|\u4e2d|b"},
        {"a{,2}b", "aaab", "|a|aab"},
        {"[]a]+", "b]a]c", "|b|]a]|c"},
        {"[[:digit:]]+", "a12b", "|a|12|b"},
        {".+", "a\r\nb", "|a\r|\n|b"},
    };
    for (size_t i = 0; i < KS_COUNT(rows); i++)
        cr_assert(eq(str, (char *)pieces(rows[i].pattern, rows[i].text),
                     (char *)rows[i].expected),
                  "%s", rows[i].pattern);
}
