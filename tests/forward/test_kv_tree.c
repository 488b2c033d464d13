/* test_kv_tree.c - the tree of pages against a list of what was computed. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kv_tree.h"

enum { PAGES = 40, MOST = 6, RUNS = 4000 };

static ks_err err;
static ks_dev *dev;
static const struct ks_ops *ops;
static ks_kv *kv;
static ks_kv_tree *tree;

static void begin(void) {
    ks_config config = {.n_layers = 1, .n_kv_heads = 1, .head_dim = 2};
    cr_assert_eq(ks_dev_open(&dev, &ops, "cpu", 1, NULL, &err), KS_OK);
    cr_assert_eq(ks_kv_open(&kv, dev, ops, &config, PAGES, &err), KS_OK);
    cr_assert_eq(ks_kv_tree_open(&tree, kv, PAGES, &err), KS_OK);
}

static void end(void) {
    ks_kv_tree_close(&tree);
    cr_expect_eq(ks_kv_free_pages(kv), PAGES, "a page was not given back");
    ks_kv_close(&kv);
    ks_dev_close(&dev, ops);
}

TestSuite(kv_tree, .init = begin, .fini = end);

/* A text is a word of few letters, a letter a page of tokens. */
static void write_ids(const char *word, int32_t *ids) {
    for (int i = 0; word[i]; i++)
        for (int t = 0; t < KS_PAGE; t++)
            ids[i * KS_PAGE + t] = word[i] * 100 + t;
}

static int32_t tokens_of(const char *word) {
    return (int32_t)strlen(word) * KS_PAGE;
}

static int32_t find(const char *word, int32_t *pages, bool *coming) {
    int32_t ids[MOST * KS_PAGE];
    ks_kv_rest rest;
    write_ids(word, ids);
    int32_t n = ks_kv_tree_find(tree, ids, tokens_of(word), NULL, pages, &rest);
    cr_expect(rest.page == -1 && rest.tokens == 0, "letters have no front");
    *coming = rest.coming;
    return n;
}

static void drop(const int32_t *pages, int32_t n) {
    for (int32_t i = 0; i < n; i++) ks_kv_page_drop(kv, pages[i]);
}

/* As a sequence does it; whether it got pages. */
static bool compute(const char *word, int32_t *pages) {
    int32_t ids[MOST * KS_PAGE], n = (int32_t)strlen(word);
    bool coming;
    write_ids(word, ids);
    int32_t have = find(word, pages, &coming);
    cr_assert(!coming);
    ks_kv_tree_announce(tree, ids, n * KS_PAGE);
    for (int32_t i = have; i < n; i++) {
        pages[i] = ks_kv_page_take(kv);
        if (pages[i] < 0 && ks_kv_tree_evict(tree, 3) > 0)
            pages[i] = ks_kv_page_take(kv);
        if (pages[i] >= 0) continue;
        ks_kv_tree_forget(tree, ids, n * KS_PAGE);
        drop(pages, i);
        return false;
    }
    for (int32_t i = have + 1; i <= n; i++) /* page by page */
        ks_kv_tree_ready(tree, ids, i * KS_PAGE, NULL, pages);
    return true;
}

Test(kv_tree, shares_what_is_common) {
    int32_t a[MOST], b[MOST], c[MOST];
    bool coming;
    cr_assert(compute("abcd", a));
    cr_expect_eq(find("abce", b, &coming), 3);
    cr_expect(!coming && memcmp(a, b, 3 * sizeof *a) == 0);
    cr_expect_eq(find("bbcd", c, &coming), 0, "the page behind others");
    cr_expect_eq(ks_kv_tree_spare(tree), 0);
    drop(a, 4);
    cr_expect_eq(ks_kv_tree_spare(tree), 1, "three are another's still");
    drop(b, 3);
    cr_expect_eq(ks_kv_tree_spare(tree), 4);
    cr_expect_eq(ks_kv_free_pages(kv), PAGES - 4);
    int32_t ids[2 * KS_PAGE]; /* a page that is not full is not there */
    ks_kv_rest rest;
    write_ids("ab", ids);
    cr_expect_eq(ks_kv_tree_find(tree, ids, 2 * KS_PAGE - 1, NULL, a, &rest),
                 1);
    cr_expect_eq(rest.tokens, KS_PAGE - 1, "but its front is");
    ks_kv_page_drop(kv, rest.page);
    drop(a, 1);
}

Test(kv_tree, who_comes_is_waited_for) {
    int32_t ids[3 * KS_PAGE], pages[MOST], other[MOST];
    bool coming;
    write_ids("abc", ids);
    ks_kv_tree_announce(tree, ids, 3 * KS_PAGE);
    cr_expect_eq(find("abd", other, &coming), 0);
    cr_expect(coming);
    pages[0] = ks_kv_page_take(kv);
    ks_kv_tree_ready(tree, ids, 2 * KS_PAGE - 1, NULL, pages);
    cr_expect_eq(find("abd", other, &coming), 1);
    cr_expect(coming);
    drop(other, 1);
    cr_expect_eq(find("ad", other, &coming), 1);
    cr_expect(!coming, "what it waits for is nobody's work");
    drop(other, 1);
    ks_kv_tree_forget(tree, ids, 3 * KS_PAGE);
    cr_expect_eq(find("abd", other, &coming), 1);
    cr_expect(!coming);
    drop(other, 1);
    drop(pages, 1);
}

/* Of the pages that might follow the one with most of the next tokens. */
Test(kv_tree, a_page_begins_like_another) {
    int32_t ids[2 * KS_PAGE], pages[MOST], other[MOST];
    ks_kv_rest rest;
    cr_assert(compute("ab", pages));
    cr_assert(compute("ac", other));
    write_ids("ac", ids);
    for (int32_t same = 0; same <= KS_PAGE; same++) {
        int32_t asked[3 * KS_PAGE], found[MOST];
        write_ids("axx", asked);
        memcpy(asked + KS_PAGE, ids + KS_PAGE, (size_t)same * sizeof *ids);
        int32_t n =
            ks_kv_tree_find(tree, asked, 2 * KS_PAGE + 3, NULL, found, &rest);
        cr_expect_eq(n, same < KS_PAGE ? 1 : 2);
        cr_expect_eq(rest.tokens, same < KS_PAGE ? same : 0);
        cr_expect_eq(rest.page, same > 0 && same < KS_PAGE ? other[1] : -1);
        if (rest.page >= 0) ks_kv_page_drop(kv, rest.page);
        drop(found, n);
    }
    drop(pages, 2);
    drop(other, 2);
}

/* Who wants scores gets pages, and fronts of pages, that have them. */
Test(kv_tree, scores_come_with_pages) {
    int32_t ids[3 * KS_PAGE], pages[MOST], found[MOST];
    float mine[3 * KS_PAGE], theirs[3 * KS_PAGE];
    ks_kv_rest rest;
    write_ids("abc", ids);
    cr_assert(compute("abc", pages));
    for (int t = 0; t < 3 * KS_PAGE; t++) {
        mine[t] = t < 2 * KS_PAGE + 5 ? (float)t : NAN;
        theirs[t] = NAN;
    }
    ks_kv_scores give = {mine, 7}, take = {theirs, 7};
    cr_expect_eq(ks_kv_tree_find(tree, ids, 3 * KS_PAGE, &take, found, &rest),
                 0, "nobody has said any score");
    cr_expect_eq(rest.tokens, 7, "but those ahead of 7 are not asked for");
    ks_kv_page_drop(kv, rest.page);
    ks_kv_tree_ready(tree, ids, 3 * KS_PAGE, &give, pages);
    cr_expect_eq(ks_kv_tree_find(tree, ids, 3 * KS_PAGE, &take, found, &rest),
                 2);
    cr_expect_eq(rest.tokens, 5);
    cr_expect_eq(rest.page, pages[2]);
    ks_kv_page_drop(kv, rest.page);
    drop(found, 2);
    for (int t = 0; t < 3 * KS_PAGE; t++)
        if (t < 7 || t >= 2 * KS_PAGE + 5)
            cr_expect(isnan(theirs[t]), "token %d", t);
        else
            cr_expect_eq(theirs[t], (float)t, "token %d", t);
    drop(pages, 3);
}

/* The least recently used goes first, and a page never before those behind. */
Test(kv_tree, evicts_in_order) {
    int32_t pages[MOST];
    bool coming;
    static const char *const words[] = {"abc", "abd", "xyz"};
    for (int i = 0; i < 3; i++) {
        cr_assert(compute(words[i], pages));
        drop(pages, 3);
    }
    drop(pages, find("abc", pages, &coming)); /* used again */
    cr_expect_eq(ks_kv_tree_evict(tree, 1), 1);
    cr_expect_eq(find("abd", pages, &coming), 2, "used the longest ago");
    drop(pages, 2);
    cr_expect_eq(ks_kv_tree_evict(tree, 3), 3);
    cr_expect_eq(find("xyz", pages, &coming), 0);
    cr_expect_eq(find("abc", pages, &coming), 3);
    cr_expect_eq(ks_kv_tree_evict(tree, 9), 0, "all are in use");
    drop(pages, 3);
    cr_expect_eq(ks_kv_tree_evict(tree, 9), 3);
    cr_expect_eq(ks_kv_free_pages(kv), PAGES);
}

/* All that is spare can be had: also below a page that a search stopped at for
 * want of scores, and ahead of what somebody has announced. */
Test(kv_tree, evicts_what_is_spare) {
    int32_t ids[3 * KS_PAGE], pages[MOST], found[MOST];
    float at[3 * KS_PAGE];
    ks_kv_rest rest;
    bool coming;
    cr_assert(compute("ab", pages));
    drop(pages, 2);
    cr_assert(compute("xy", pages));
    drop(pages, 2);
    write_ids("abc", ids);
    for (int t = 0; t < 3 * KS_PAGE; t++) at[t] = NAN;
    ks_kv_scores none = {at, 1};
    cr_assert_eq(ks_kv_tree_find(tree, ids, 3 * KS_PAGE, &none, found, &rest),
                 0);
    if (rest.page >= 0) ks_kv_page_drop(kv, rest.page);
    ks_kv_tree_announce(tree, ids, 3 * KS_PAGE);
    for (int i = 0; i < 3; i++) pages[i] = ks_kv_page_take(kv);
    ks_kv_tree_ready(tree, ids, 3 * KS_PAGE, NULL, pages);
    drop(pages, 3);
    cr_expect_eq(ks_kv_tree_spare(tree), 5);
    cr_expect_eq(ks_kv_tree_evict(tree, 2), 2);
    cr_expect_eq(find("xy", found, &coming), 0, "not used for longest");
    cr_expect_eq(ks_kv_tree_evict(tree, 9), 3);
    cr_expect_eq(ks_kv_tree_spare(tree), 0);
    cr_expect_eq(ks_kv_free_pages(kv), PAGES);

    cr_assert(compute("ab", pages));
    drop(pages, 2);
    ks_kv_tree_announce(tree, ids, 3 * KS_PAGE);
    cr_expect_eq(ks_kv_tree_spare(tree), 2);
    cr_expect_eq(ks_kv_tree_evict(tree, 2), 2, "c is announced, and alone");
    cr_expect_eq(find("abc", found, &coming), 0);
    cr_expect(!coming, "nobody waits for what nobody will find");
    for (int i = 0; i < 3; i++) pages[i] = ks_kv_page_take(kv);
    ks_kv_tree_ready(tree, ids, 3 * KS_PAGE, NULL, pages);
    ks_kv_tree_forget(tree, ids, 3 * KS_PAGE);
    drop(pages, 3);
    cr_expect_eq(ks_kv_free_pages(kv), PAGES);
}

/* Two announce the same below a page without scores: one takes it back, the
 * other computes on, and a third does not wait for it. */
Test(kv_tree, one_of_two_takes_back) {
    int32_t ids[4 * KS_PAGE], pages[MOST], found[MOST];
    bool coming;
    cr_assert(compute("a", pages));
    write_ids("abcd", ids);
    ks_kv_tree_announce(tree, ids, 3 * KS_PAGE); /* abc */
    ks_kv_tree_announce(tree, ids, 4 * KS_PAGE); /* abcd */
    ks_kv_tree_forget(tree, ids, 3 * KS_PAGE);
    drop(found, find("abcd", found, &coming));
    cr_expect(coming, "the longer one still comes");
    ks_kv_tree_announce(tree, ids, 3 * KS_PAGE);
    ks_kv_tree_forget(tree, ids, 4 * KS_PAGE);
    drop(found, find("abcd", found, &coming));
    cr_expect(!coming, "and is taken back whole");
    for (int i = 1; i < 3; i++) pages[i] = ks_kv_page_take(kv);
    ks_kv_tree_ready(tree, ids, 3 * KS_PAGE, NULL, pages);
    cr_expect_eq(find("abcd", found, &coming), 1, "its page stays its own");
    drop(found, 1);
    drop(pages, 3);
}

/* Words at random against what a page was computed for. */
Test(kv_tree, pages_hold_what_they_are_asked_for) {
    char holds[PAGES][MOST + 1];
    char held[4][MOST + 1]; /* of sequences that run */
    int32_t pages[4][MOST], counts[4] = {0};
    unsigned state = 1;
    int64_t shared = 0;
    for (int r = 0; r < RUNS; r++) {
        int s = r % 4;
        drop(pages[s], counts[s]);
        counts[s] = 0;
        int n = 1 + (int)((state = state * 1103515245 + 12345) >> 16) % MOST;
        for (int i = 0; i < n; i++)
            held[s][i] =
                (char)('a' + ((state = state * 1103515245 + 12345) >> 16) % 3);
        held[s][n] = 0;
        int32_t old[MOST];
        bool coming;
        int32_t have = find(held[s], old, &coming);
        for (int32_t i = 0; i < have; i++) {
            cr_assert_eq(strlen(holds[old[i]]), (size_t)i + 1);
            cr_assert_eq(memcmp(holds[old[i]], held[s], (size_t)i + 1), 0);
        }
        drop(old, have);
        shared += have;
        if (!compute(held[s], pages[s])) continue;
        counts[s] = n;
        for (int i = have; i < n; i++) {
            memcpy(holds[pages[s][i]], held[s], (size_t)i + 1);
            holds[pages[s][i]][i + 1] = 0;
        }
    }
    cr_expect_gt(shared, RUNS, "%lld pages", (long long)shared);
    for (int s = 0; s < 4; s++) drop(pages[s], counts[s]);
}
