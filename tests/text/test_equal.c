/* Whether two answers mean the same: a table of pairs, both ways round. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "text/text.h"

static bool equal(const char *a, const char *b, bool compat) {
    bool same = false;
    ks_err err = {0};
    ks_status st =
        ks_text_equal(a, strlen(a), b, strlen(b), compat, &same, &err);
    cr_assert(st == KS_OK, "'%s' and '%s': %s", a, b, err.text);
    return same;
}

typedef struct pair {
    char *rule, *verdict, *compat, *a, *b;
} pair;

/* Splits a line of the table in place; false for comments. */
static bool read_pair(char *line, pair *out) {
    if (line[0] == '#' || line[0] == 0) return false;
    out->rule = strsep(&line, "\t");
    out->verdict = strsep(&line, "\t");
    out->compat = strsep(&line, "\t");
    out->a = strsep(&line, "\t");
    out->b = strsep(&line, "\t");
    cr_assert(out->b != NULL && line == NULL, "not five columns: %s",
              out->rule);
    return true;
}

Test(equal, table) {
    char *text = NULL;
    size_t n, pairs = 0, wrong = 0;
    ks_err err = {0};
    cr_assert(ks_read_file(KS_TEST_DATA "/text/equal.tsv", SIZE_MAX, &text, &n,
                           &err) == KS_OK,
              "%s", err.text);
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        pair p;
        if (!read_pair(line, &p)) continue;
        bool same = p.verdict[0] == '=';
        bool bad =
            equal(p.a, p.b, false) != same || equal(p.b, p.a, false) != same;
        if (p.compat[0] != '.')
            bad |= equal(p.a, p.b, true) != (p.compat[0] == '=');
        if (bad)
            fprintf(stderr, "%s: '%s' and '%s' should be %s/%s\n", p.rule, p.a,
                    p.b, p.verdict, p.compat);
        wrong += bad;
        pairs++;
    }
    free(text);
    cr_assert(wrong == 0, "%zu of %zu pairs", wrong, pairs);
    cr_assert(pairs > 400, "only %zu pairs", pairs);
}

/* The next "`a` = `b`" or "`a` != `b`" of a text, cut out in place. */
static char *next_example(char *at, char **a, char **b, bool *same) {
    while ((at = strchr(at, '`')) != NULL) {
        char *end = strchr(at + 1, '`');
        if (!end) return NULL;
        *same = strncmp(end, "` = `", 5) == 0;
        if (!*same && strncmp(end, "` != `", 6) != 0) {
            at = end + 1;
            continue;
        }
        *a = at + 1;
        *b = end + (*same ? 5 : 6);
        *end = 0;
        end = strchr(*b, '`');
        cr_assert_not_null(end);
        *end = 0;
        return end + 1;
    }
    return NULL;
}

/* What the documentation promises. */
Test(equal, examples_of_the_docs) {
    char *text = NULL, *at, *a, *b;
    size_t examples = 0;
    bool same;
    cr_assert(ks_read_file(KS_TEST_DATA "/../../docs/answers.md", SIZE_MAX,
                           &text, NULL, NULL) == KS_OK);
    at = text;
    while ((at = next_example(at, &a, &b, &same)) != NULL) {
        cr_expect(equal(a, b, false) == same && equal(b, a, false) == same,
                  "%s and %s", a, b);
        examples++;
    }
    cr_expect_geq(examples, 50, "%zu", examples);
    free(text);
}

/* Every side of every pair is itself. */
Test(equal, reflexive) {
    char *text = NULL;
    size_t n;
    ks_err err = {0};
    cr_assert(ks_read_file(KS_TEST_DATA "/text/equal.tsv", SIZE_MAX, &text, &n,
                           &err) == KS_OK);
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        pair p;
        if (!read_pair(line, &p)) continue;
        cr_expect(equal(p.a, p.a, false), "%s", p.a);
        cr_expect(equal(p.b, p.b, true), "%s", p.b);
    }
    free(text);
}

Test(equal, long_integers_are_exact) {
    size_t n = 60000;
    char *a = malloc(n + 1), *b = malloc(n + 1);
    memset(a, '7', n);
    memset(b, '7', n);
    a[n] = b[n] = 0;
    cr_expect(equal(a, b, false));
    b[n - 1] = '8';
    cr_expect_not(equal(a, b, false));
    free(a);
    free(b);
}

/* The published tolerance is on the second answer. */
Test(equal, compat_tolerance) {
    cr_expect(equal("10004", "10000", true));
    cr_expect_not(equal("10006", "10000", true));
    cr_expect(equal("0.00000000001", "0", true));
    cr_expect_not(equal("0.001", "0", true));
}

Test(equal, refuses_bad_utf8_by_byte) {
    ks_err err = {0};
    bool same;
    ks_status st = ks_text_equal("12\xff", 3, "12", 2, false, &same, &err);
    cr_expect(st == KS_FORMAT);
    cr_expect(strstr(err.text, "a: byte 2") != NULL, "%s", err.text);
    st = ks_text_equal("12", 2, "\xc3", 1, true, &same, &err);
    cr_expect(st == KS_FORMAT);
    cr_expect(strstr(err.text, "b: byte 0") != NULL, "%s", err.text);
}

Test(equal, nul_is_a_character) {
    bool same = true;
    ks_err err = {0};
    cr_expect(ks_text_equal("1\0002", 3, "1", 1, false, &same, &err) == KS_OK);
    cr_expect_not(same);
    cr_expect(ks_text_equal("1\0002", 3, "1", 1, true, &same, &err) == KS_OK);
    cr_expect_not(same);
}
