/* Steps and boxes, against hand-made cases and an independent reference. */
#include "golden.h"

/* expected: "0-3 3-10" */
static void check_steps(const char *text, size_t n, const char *expected) {
    ks_spans steps = {0};
    ks_err err = {0};
    ks_str got = {0};
    cr_assert(ks_text_split(text, n, &steps, &err) == KS_OK, "%s", err.text);
    cr_assert(ks_str_add(&got, "", 0, &err) == KS_OK);
    for (size_t i = 0; i < steps.n; i++)
        cr_assert(ks_str_printf(&got, &err, "%s%zu-%zu", i ? " " : "",
                                steps.at[i].begin, steps.at[i].end) == KS_OK);
    cr_expect(strcmp(got.data, expected) == 0, "'%s': got %s, expected %s",
              text, got.data, expected);
    ks_str_free(&got);
    ks_spans_free(&steps);
}

#define STEPS(text, expected) check_steps(text, sizeof text - 1, expected)

Test(split, rules) {
    STEPS("", "");
    STEPS("   \n ", "");
    STEPS("One sentence only", "0-17");
    STEPS("First sentence. Second sentence. ", "0-15 15-32");
    STEPS("Is it so here? Yes it is so! Good to know it.", "0-14 14-28 28-45");
    /* no space behind: no boundary */
    STEPS("Pi is 3.14 about.Then the rest", "0-30");
    STEPS("Tab is not a space.\tThen the rest", "0-33");
    /* "1." and "e.g." end a piece; short ones join the step before */
    STEPS("1. First item stands here", "0-2 2-25");
    STEPS("Take a number, e.g. seven of them", "0-19 19-33");
    /* a paragraph ends after its first newline, the rest opens the next */
    STEPS("Paragraph one\n\nParagraph two", "0-14 14-28");
    STEPS("Paragraph one\r\n\r\nParagraph two", "0-14 14-30");
    STEPS("Paragraph one\nstill the same one", "0-32");
    STEPS("Paragraph one\n\n\nParagraph two", "0-15 15-29");
    /* the first piece never merges */
    STEPS("\n\nThe first step is blank", "0-1 1-25");
    /* short ones pile up */
    STEPS("This is a whole step. Ok. No. Hm. Another whole step", "0-33 33-52");
    STEPS("This is a whole step. 123456789. Another whole step",
          "0-21 21-32 32-51");
    STEPS("This is a whole step. 12345678. Another whole step", "0-31 31-50");
    /* the blank tail stays out, also behind a short piece */
    STEPS("This is a whole step.\n\n\n", "0-23");
    STEPS("This is a whole step.  ", "0-21");
}

/* Code points count, not bytes; white space is Unicode's. */
Test(split, code_points) {
    /* nine CJK characters and a stop are ten */
    STEPS("This is a whole step. \xe5\x9b\xa0\xe5\x9b\xa0\xe5\x9b\xa0"
          "\xe5\x9b\xa0\xe5\x9b\xa0\xe5\x9b\xa0\xe5\x9b\xa0\xe5\x9b\xa0"
          "\xe5\x9b\xa0. Next whole step",
          "0-21 21-50 50-66");
    STEPS("This is a whole step. \xf0\x9f\x99\x82\xf0\x9f\x99\x82. Next whole "
          "step",
          "0-31 31-47");
    /* U+3000 and U+00A0 around it do not lengthen a piece */
    STEPS("This is a whole step. \xe3\x80\x80\xc2\xa0\xc2\xa0\xc2\xa0\xc2\xa0"
          "\xc2\xa0\xc2\xa0hm. Next whole step",
          "0-40 40-56");
    STEPS("This is a whole step. \xe3\x80\x80\xe2\x80\x83", "0-21");
}

Test(split, refuses_bad_utf8_by_byte) {
    ks_spans steps = {0};
    ks_err err = {0};
    cr_expect(ks_text_split("ab\xc3(", 4, &steps, &err) == KS_FORMAT);
    cr_expect(strstr(err.text, "byte 2") != NULL, "%s", err.text);
    ks_spans_free(&steps);
}

Test(split, white_space_as_python_has_it) {
    json_t *root, *list = golden("spaces", &root);
    size_t at = 0;
    for (int32_t c = 0; c < 0x110000; c++) {
        bool expected = json_integer_value(json_array_get(list, at)) == c &&
                        at < json_array_size(list);
        at += expected;
        cr_assert(ks_is_space(c) == expected, "U+%04X", (unsigned)c);
    }
    cr_assert(at == json_array_size(list));
    json_decref(root);
}

Test(split, reference) {
    json_t *root, *list = golden("split", &root), *item;
    size_t i;
    json_array_foreach(list, i, item) {
        ks_spans steps = {0};
        ks_err err = {0};
        size_t n;
        const char *text = string_at(item, 0, &n);
        json_t *expected = json_array_get(item, 1);
        cr_assert(ks_text_split(text, n, &steps, &err) == KS_OK);
        cr_assert(steps.n == json_array_size(expected), "case %zu", i);
        size_t end = 0;
        for (size_t k = 0; k < steps.n; k++) {
            json_t *s = json_array_get(expected, k);
            json_int_t b = json_integer_value(json_array_get(s, 0));
            json_int_t e = json_integer_value(json_array_get(s, 1));
            cr_expect(steps.at[k].begin == (size_t)b &&
                          steps.at[k].end == (size_t)e,
                      "case %zu step %zu", i, k);
            cr_expect(steps.at[k].begin == end, "a gap");
            end = steps.at[k].end;
        }
        ks_spans_free(&steps);
    }
    json_decref(root);
}

/* expected: contents joined by "|" */
static void check_boxes(const char *text, bool compat, const char *expected) {
    ks_spans boxes = {0};
    ks_err err = {0};
    ks_str got = {0};
    cr_assert(ks_text_boxes(text, strlen(text), compat, &boxes, &err) == KS_OK);
    cr_assert(ks_str_add(&got, "", 0, &err) == KS_OK);
    for (size_t i = 0; i < boxes.n; i++) {
        if (i > 0) cr_assert(ks_str_add(&got, "|", 1, &err) == KS_OK);
        cr_assert(ks_str_add(&got, text + boxes.at[i].begin,
                             boxes.at[i].end - boxes.at[i].begin,
                             &err) == KS_OK);
    }
    cr_expect(strcmp(got.data, expected) == 0, "%s: got %s, expected %s", text,
              got.data, expected);
    ks_str_free(&got);
    ks_spans_free(&boxes);
}

Test(boxes, rules) {
    check_boxes("no box", false, "");
    check_boxes("\\boxed{42} and \\boxed{43}", false, "42|43");
    check_boxes("\\boxed{\\frac{1}{2}}", false, "\\frac{1}{2}");
    check_boxes("\\boxed{a \\boxed{b} c}", false, "a \\boxed{b} c|b");
    check_boxes("\\boxed{4", false, "4");
    check_boxes("\\boxed{a \\boxed{b", false, "a \\boxed{b|b");
    check_boxes("\\boxed{a {b} \\boxed{c} d", false, "a {b} \\boxed{c} d|c");
    check_boxes("\\boxed{}\\boxed{x}", false, "x");
    check_boxes("\\boxed {4}", false, "");
    check_boxes("} \\boxed{4}", false, "4");
    check_boxes("\\\\boxed{4}", false, "4");
}

Test(boxes, escaped_braces) {
    check_boxes("\\boxed{\\{1,2\\}}", false, "\\{1,2\\}");
    check_boxes("\\boxed{\\{1,2\\}}", true, "\\{1,2\\}");
    check_boxes("\\boxed{\\left\\{1\\right.} x", false, "\\left\\{1\\right.");
    check_boxes("\\boxed{\\left\\{1\\right.} x", true, "\\left\\{1\\right.} x");
    check_boxes("\\boxed{a\\\\} b", false, "a\\\\");
    check_boxes("\\boxed{ }\\boxed{1}", false, "1");
    check_boxes("\\boxed{ }\\boxed{1}", true, " |1");
}

Test(boxes, reference) {
    json_t *root, *list = golden("boxes", &root), *item;
    size_t i;
    json_array_foreach(list, i, item) {
        ks_spans boxes = {0};
        ks_err err = {0};
        size_t n, m;
        const char *text = string_at(item, 0, &n);
        json_t *expected = json_array_get(item, 1);
        cr_assert(ks_text_boxes(text, n, true, &boxes, &err) == KS_OK);
        cr_assert(boxes.n == json_array_size(expected), "%s", text);
        for (size_t k = 0; k < boxes.n; k++) {
            const char *content = string_at(expected, k, &m);
            ks_span b = boxes.at[k];
            cr_expect(b.end - b.begin == m &&
                          memcmp(text + b.begin, content, m) == 0,
                      "%s", text);
        }
        ks_spans_free(&boxes);
    }
    json_decref(root);
}
