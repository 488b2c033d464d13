/* Final answers, the step that gives the answer, steps that give it away. */
#include <criterion/criterion.h>
#include <string.h>

#include "text/text.h"

/* expected NULL: none */
static void check_answer(const char *text, bool compat, const char *expected) {
    ks_span s = {0, 0};
    bool found;
    ks_err err = {0};
    ks_status st = ks_text_answer(text, strlen(text), compat, &s, &found, &err);
    cr_assert(st == KS_OK, "%s", err.text);
    cr_expect(found == (expected != NULL), "%s: found %d '%.*s'", text, found,
              (int)(s.end - s.begin), text + s.begin);
    if (!found || expected == NULL) return;
    cr_expect(s.end - s.begin == strlen(expected) &&
                  memcmp(text + s.begin, expected, strlen(expected)) == 0,
              "%s: got '%.*s', expected '%s'", text, (int)(s.end - s.begin),
              text + s.begin, expected);
}

Test(answer, boxed) {
    check_answer("first \\boxed{1}, then \\boxed{2}.", false, "2");
    check_answer("\\boxed{x = \\boxed{3}}", false, "3");
    check_answer("The answer is 5. \\boxed{4", false, "4");
    check_answer("the answer is 5, \\boxed{}", true, NULL);
    check_answer("the answer is 5, \\boxed{}", false, "5, \\boxed{}");
}

Test(answer, stated) {
    check_answer("He pays 3 * 4 = 12.\n#### 12", false, "12");
    check_answer("#### 1,200\n", false, "1,200");
    check_answer("The answer is 42.", false, "42");
    check_answer("So the final answer is: **42**.", false, "42");
    check_answer("**Answer:** 3.14", false, "3.14");
    check_answer("Final Answer: $\\frac{1}{2}$ of it", false, "\\frac{1}{2}");
    check_answer("The answer is:\n\n$$\nx = 7\n$$\n", false, "x = 7");
    check_answer("The answer is \\(5\\).", false, "5");
    check_answer("The answer is $18.", false, "$18");
    check_answer("The answer is 5! Done", false, "5! Done");
    check_answer("The result equals 12.5 cm.", false, "12.5 cm");
    check_answer("The answer is 4. No, the answer is 5. Good.", false, "5");
    check_answer("The answer is 42.", true, NULL);
    check_answer("answer = 7", false, "7");
}

Test(answer, last_number) {
    check_answer("So she has 18 apples left.", false, "18");
    check_answer("Thus x = 12. That is all of it, done.", false, "12");
    check_answer("It costs $1,234.50 in all.", false, "$1,234.50");
    check_answer("There are 3 groups of 4, or 5/6 of them.", false, "5/6");
    check_answer("It falls to -7 degrees.", false, "-7");
    check_answer("so 12-7 remain", false, "7");
    check_answer("no number here", false, NULL);
    check_answer("", false, NULL);
    check_answer("So she has 18 apples left.", true, NULL);
}

static int64_t step_of(const char *text, const char *gold, bool compat,
                       bool *wrong) {
    ks_spans steps = {0};
    ks_err err = {0};
    int64_t index;
    cr_assert(ks_text_split(text, strlen(text), &steps, &err) == KS_OK);
    ks_status st =
        ks_text_answer_step(text, strlen(text), &steps, gold, strlen(gold),
                            compat, &index, wrong, &err);
    cr_assert(st == KS_OK, "%s", err.text);
    ks_spans_free(&steps);
    return index;
}

Test(answer_step, rules) {
    bool wrong;
    const char *boxed = "We find that it is 7. So we get \\boxed{7} here. And "
                        "that is all of it.";
    cr_expect(step_of(boxed, "7", false, &wrong) == 1 && !wrong);
    cr_expect(step_of(boxed, "8", false, &wrong) == -1 && wrong);
    /* the last box of the last boxed step decides */
    const char *two = "First it is \\boxed{7} here. Then \\boxed{7}, no: "
                      "\\boxed{8}. The end of the text.";
    cr_expect(step_of(two, "7", false, &wrong) == -1 && wrong);
    cr_expect(step_of(two, "8", false, &wrong) == 1 && !wrong);
    const char *plain = "It could be 7 or so. It is 7 indeed. And not 17 or "
                        "0.7 at all.";
    cr_expect(step_of(plain, "7", false, &wrong) == 1 && !wrong);
    cr_expect(step_of(plain, "7", true, &wrong) == 2 && !wrong);
    cr_expect(step_of(plain, "9", false, &wrong) == -1 && !wrong);
    cr_expect(step_of("", "9", false, &wrong) == -1 && !wrong);
}

Test(answer_step, refuses) {
    ks_span far = {0, 9};
    ks_spans steps = {&far, 1, 1};
    ks_err err = {0};
    int64_t index;
    bool wrong;
    cr_expect(ks_text_answer_step("abc", 3, &steps, "1", 1, false, &index,
                                  &wrong, &err) == KS_MISMATCH);
    cr_expect(ks_text_answer_step("abc", 3, &steps, " ", 1, false, &index,
                                  &wrong, &err) == KS_FORMAT);
}

static bool states(const char *step, const char *gold, bool compat) {
    bool gives;
    ks_err err = {0};
    ks_status st = ks_text_states(step, strlen(step), gold, strlen(gold),
                                  compat, &gives, &err);
    cr_assert(st == KS_OK, "%s: %s", step, err.text);
    return gives;
}

Test(states, rules) {
    static const struct {
        const char *step, *gold;
        bool plain, compat;
    } cases[] = {
        /* (i) */
        {"Therefore the answer is 42.", "42", true, true},
        {"THUS, we have our RESULT: 42", "42", true, true},
        {"This means that the answer must be 42", "42", true, true},
        {"hence answer 42", "$42$", true, true},
        {"So the answer is\n42", "42", true, false}, /* (iv) */
        {"So it is, as we\nsaid, answer 42", "42", false, false},
        {"The answer42", "42", false, false}, /* no character between */
        {"42 so the answer", "42", false, false},
        {"consequently the result was 42", "42", true, true},
        {"So, it is 42", "42", false, false},
        /* words and numbers must stand alone, except in compat */
        {"We resolve that the answer is 42", "42", true, true}, /* (ii) */
        {"resolve this answer as 42", "42", false, true},
        {"So we answered that it is 42", "42", false, true},
        {"So my answer is near 421", "42", false, true},
        {"So my answer is near 4.2", "2", false, true},
        {"So my answer is near 42.", "42", true, true},
        {"So my answer is near 42.5", "42", false, true},
        {"So the answer is not -42", "42", false, true},
        /* (ii) */
        {"Our final answer: 42", "42", true, true},
        {"The  result,  42", "42", true, true},
        {"the final\nanswer of 42", "42", true, true},
        {"my answer 42", "42", true, true},
        {"your answer 42", "42", false, true}, /* our */
        {"The answer\n42", "42", false, false},
        {"A first answer\nThe answer of 42", "42", true, true},
        /* (iii) of the published rules needs no gold */
        {"So, the result follows", "42", false, false},
        {"So, result follows", "42", false, true},
        {"Therefore answer next", "42", false, true},
        {"Therefore answer", "42", false, false},
        /* boxes */
        {"It is \\boxed{42}", "42", true, true},
        {"It is \\boxed{42.0}", "42", true, true},
        {"\\boxed{42} or \\boxed{7}", "42", true, true},
        {"\\boxed{10001}", "10000", false, true},
        {"It is \\boxed{41}", "42", false, false},
        /* stated in other words */
        {"The answer is \\frac{1}{2}.", "0.5", true, false},
        {"The answer is 0.5.", "1/2", true, false},
        {"#### 42", "42", true, false},
        {"The answer is 41.", "42", false, false},
        /* gold is text, not a pattern */
        {"So the answer is (1,2)", "(1,2)", true, true},
        {"So the answer is a+b", "a+b", true, true},
        {"So the answer is axb", "a.b", false, false},
        {"So the answer is aab", "a*b", false, false},
        {"So the answer is \\frac{1}{2}", "\\frac{1}{2}", true, true},
        {"So the answer is TUESDAY", "Tuesday", true, true},
        {"We take 42 apples", "42", false, false},
    };
    for (size_t i = 0; i < KS_COUNT(cases); i++) {
        cr_expect(states(cases[i].step, cases[i].gold, false) == cases[i].plain,
                  "'%s', gold %s", cases[i].step, cases[i].gold);
        cr_expect(states(cases[i].step, cases[i].gold, true) == cases[i].compat,
                  "compat: '%s', gold %s", cases[i].step, cases[i].gold);
    }
}

Test(states, refuses) {
    bool gives;
    ks_err err = {0};
    cr_expect(ks_text_states("a", 1, " $ ", 3, false, &gives, &err) ==
              KS_FORMAT);
    cr_expect(ks_text_states("a\xff", 2, "1", 1, false, &gives, &err) ==
              KS_FORMAT);
    cr_expect(strstr(err.text, "text: byte 1") != NULL, "%s", err.text);
}
