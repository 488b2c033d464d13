/* Cutting steps out of a chain's text: what is left, how it is split anew,
 * what came from where. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "label_state.h"

static ks__text open_text(const char *text, const ks_span *steps, int32_t n) {
    ks__text out;
    ks_err err = {0};
    ks_chain chain = {.text = text,
                      .text_length = strlen(text),
                      .steps = (ks_span *)(uintptr_t)steps,
                      .n_steps = n};
    cr_assert_eq(ks__text_open(&out, &chain, &err), KS_OK, "%s", err.text);
    return out;
}

typedef struct result {
    ks__text text;
    json_t *map;
} result;

static result cut(const ks__text *from, const char *which) {
    result r = {.map = NULL};
    ks_err err = {0};
    uint8_t mask[64] = {0};
    cr_assert_eq(strlen(which), from->steps.n);
    for (size_t i = 0; i < from->steps.n; i++) mask[i] = which[i] == 'x';
    cr_assert_eq(ks__text_cut(from, mask, &r.text, &r.map, &err), KS_OK, "%s",
                 err.text);
    return r;
}

static void expect(const result *r, const char *text, const char *map,
                   int64_t answer) {
    json_t *want = json_loads(map, 0, NULL);
    char *got = json_dumps(r->map, JSON_COMPACT);
    cr_expect_str_eq(r->text.data, text);
    cr_expect_eq(r->text.length, strlen(text));
    cr_expect(json_equal(want, r->map), "%s, expected %s", got, map);
    cr_expect_eq(r->text.steps.n, json_array_size(want));
    cr_expect_eq(r->text.answer, answer, "the answer's step is %lld",
                 (long long)r->text.answer);
    json_decref(want);
    free(got);
}

static void finish(result *r) {
    ks__text_free(&r->text);
    json_decref(r->map);
}

static const char chain[] =
    "First we add numbers. Then we double it. Hm. Wait, let me check that. "
    "It is right again. So it is done.\n";

Test(label_text, cuts_steps_and_splits_anew) {
    ks__text t = open_text(chain, NULL, 0);
    cr_assert_eq(t.steps.n, 5, "\"Hm.\" joins the step ahead");
    t.answer = 4;
    result r = cut(&t, "-----");
    expect(&r, chain, "[[0],[1],[2],[3],[4]]", 4);
    finish(&r);
    r = cut(&t, "-x-x-");
    expect(&r,
           "First we add numbers. Wait, let me check that. So it is done.\n",
           "[[0],[2],[4]]", 2);
    finish(&r);
    r = cut(&t, "xxxx-");
    expect(&r, " So it is done.\n", "[[4]]", 0);
    finish(&r);
    ks__text_free(&t);
}

/* A short step joins the one ahead of it once what stood between is gone. */
Test(label_text, steps_merge_where_a_cut_makes_them) {
    static const char text[] = "A step. Another long step here. The last one.";
    ks__text t = open_text(text, NULL, 0);
    cr_assert_eq(t.steps.n, 3);
    t.answer = 2;
    result r = cut(&t, "---");
    expect(&r, text, "[[0],[1],[2]]", 2);
    finish(&r);
    r = cut(&t, "x--");
    expect(&r, " Another long step here. The last one.", "[[1],[2]]", 1);
    finish(&r);
    ks__text_free(&t);
    /* the end of a step's sentence goes with it */
    static const char open[] =
        "One thing is so\n\nno, two things. And the end.";
    t = open_text(open, NULL, 0);
    cr_assert_eq(t.steps.n, 3);
    t.answer = 2;
    r = cut(&t, "-x-");
    expect(&r, "One thing is so\n And the end.", "[[0,2]]", 0);
    finish(&r);
    ks__text_free(&t);
}

/* Steps that somebody else cut stay his, also where they leave gaps. */
Test(label_text, own_steps_are_not_split_anew) {
    static const char text[] = "aa bb; cc dd. ee, ff gg.";
    static const ks_span steps[] = {{0, 5}, {7, 12}, {14, 17}, {18, 23}};
    ks__text t = open_text(text, steps, 4);
    t.answer = 3;
    result r = cut(&t, "-x--");
    expect(&r, "aa bb; ee, ff gg.", "[[0],[2],[3]]", 2);
    cr_expect(r.text.steps.at[1].begin == 7 && r.text.steps.at[1].end == 10);
    finish(&r);
    ks__text_free(&t);
}

static void expect_kept(const ks__text *t, const char *which, const char *text,
                        bool some) {
    ks_str out = {0};
    ks_err err = {0};
    uint8_t keep[64];
    bool any;
    for (size_t i = 0; i < t->steps.n; i++) keep[i] = which[i] == 'k';
    cr_assert_eq(ks__text_keep(t, keep, &out, &any, &err), KS_OK);
    cr_expect_str_eq(out.data ? out.data : "", text);
    cr_expect_eq(any, some);
    ks_str_free(&out);
}

/* What lies behind a step, and ahead of the first, comes and goes with it. */
Test(label_text, gaps_go_with_the_step_ahead) {
    static const char text[] = " aa bb; cc dd. ee. ";
    static const ks_span steps[] = {{1, 6}, {8, 13}, {15, 18}};
    ks__text t = open_text(text, steps, 3);
    expect_kept(&t, "k--", " aa bb; ", true);
    expect_kept(&t, "k-k", " aa bb; ee.", true);
    expect_kept(&t, "-kk", "cc dd. ee.", true);
    expect_kept(&t, "kkk", " aa bb; cc dd. ee.", true);
    result r = cut(&t, "x--");
    expect(&r, "cc dd. ee. ", "[[1],[2]]", -1);
    cr_expect(r.text.steps.at[0].begin == 0 && r.text.steps.at[1].begin == 7);
    finish(&r);
    ks__text_free(&t);
}

/* The answer's step is in no set. */
Test(label_text, keeps_steps_as_they_are) {
    ks__text t = open_text(chain, NULL, 0);
    t.answer = 4;
    expect_kept(&t, "-----", "", false);
    expect_kept(&t, "k-k-k", "First we add numbers. Wait, let me check that.",
                true);
    expect_kept(&t, "----k", "", false);
    t.answer = -1;
    expect_kept(&t, "----k", " So it is done.", true);
    ks__text_free(&t);
}

/* Random texts: what is left is the kept bytes, and every step of it knows its
 * bytes' steps. */
Test(label_text, random_cuts) {
    srand(5);
    for (int run = 0; run < 300; run++) {
        char text[400];
        uint8_t mask[200] = {0};
        int n = 20 + rand() % 360;
        for (int i = 0; i < n; i++) text[i] = "abcdefgh i. \n?"[rand() % 14];
        text[n] = 0;
        ks__text t = open_text(text, NULL, 0);
        ks_str left = {0};
        ks_err err = {0};
        size_t at = 0;
        for (size_t i = 0; i < t.steps.n; i++) {
            ks_span s = t.steps.at[i];
            mask[i] = rand() % 3 == 0;
            cr_assert_eq(s.begin, at, "steps tile");
            at = s.end;
            if (!mask[i])
                ks_str_add(&left, text + s.begin, s.end - s.begin, &err);
        }
        ks_str_add(&left, text + at, (size_t)n - at, &err);
        result r;
        t.answer = -1;
        for (size_t i = 0; i < t.steps.n; i++)
            if (!mask[i]) t.answer = (int64_t)i;
        cr_assert_eq(ks__text_cut(&t, mask, &r.text, &r.map, &err), KS_OK);
        cr_expect_str_eq(r.text.data, left.data);
        cr_expect_eq(json_array_size(r.map), r.text.steps.n);
        if (t.answer >= 0 && r.text.answer >= 0) {
            json_t *of = json_array_get(r.map, (size_t)r.text.answer);
            bool there = false;
            for (size_t k = 0; k < json_array_size(of); k++)
                there |= json_integer_value(json_array_get(of, k)) == t.answer;
            cr_expect(there, "the answer's step is elsewhere");
        }
        ks_str_free(&left);
        finish(&r);
        ks__text_free(&t);
    }
}
