/* The thinking part of outputs, template by template. */
#include <criterion/criterion.h>
#include <string.h>

#include "text/text.h"

static void check(ks_template which, const char *text, const char *expected,
                  bool expected_closed) {
    ks_span s;
    bool closed;
    ks_err err = {0};
    ks_status st =
        ks_text_extract(text, strlen(text), which, &s, &closed, &err);
    cr_assert(st == KS_OK, "%s", err.text);
    cr_expect(s.end - s.begin == strlen(expected) &&
                  memcmp(text + s.begin, expected, strlen(expected)) == 0,
              "%s, %s: got '%.*s', expected '%s'", ks_template_name(which),
              text, (int)(s.end - s.begin), text + s.begin, expected);
    cr_expect(closed == expected_closed, "%s", text);
}

Test(extract, think) {
    static const ks_template all[] = {KS_TEMPLATE_DEEPSEEK_R1, KS_TEMPLATE_QWEN,
                                      KS_TEMPLATE_OLMO, KS_TEMPLATE_AUTO};
    for (size_t i = 0; i < KS_COUNT(all); i++) {
        check(all[i], "<think>a</think>b", "a", true);
        check(all[i], "x<think>a</think>b</think>", "a", true);
        check(all[i], "<think>a<think>b</think>", "a<think>b", true);
        check(all[i], "a</think>b</think>c", "a</think>b", true);
        check(all[i], "a</think>b<think>c", "a", true);
        check(all[i], "x<think>a", "a", false);
        check(all[i], "plain", "plain", false);
        check(all[i], "", "", false);
    }
}

#define FINAL "<|end|><|start|>assistant<|channel|>final<|message|>"

Test(extract, harmony) {
    static const ks_template all[] = {KS_TEMPLATE_HARMONY, KS_TEMPLATE_AUTO};
    for (size_t i = 0; i < KS_COUNT(all); i++) {
        check(all[i], "<|channel|>analysis<|message|>a" FINAL "b", "a", true);
        check(all[i], "<|channel|>commentary<|message|>a<|end|>", "a", true);
        check(all[i],
              "<|channel|>commentary<|message|>a<|end|>"
              "<|channel|>analysis<|message|>b<|end|>",
              "a", true);
        check(all[i], "<|channel|>analysis<|message|>a", "a", false);
        check(all[i], "<|start|>think" FINAL "b", "think", true);
        check(all[i], "<|start|>system x<|end|><|start|>odd<|end|>" FINAL "b",
              "odd<|end|>", true);
        check(all[i], "<|start|>think on", "think on", false);
        check(all[i], "<|start|>user<|message|>q<|end|>free" FINAL "b", "free",
              true);
        check(all[i], "<|start|>user<|message|>q", "<|start|>user<|message|>q",
              false);
    }
    check(KS_TEMPLATE_HARMONY, "plain", "plain", false);
}

Test(extract, turns) {
    check(KS_TEMPLATE_CHATML, "a<|im_end|>", "a", false);
    check(KS_TEMPLATE_AUTO, "a<|im_end|>\n", "a", false);
    check(KS_TEMPLATE_AUTO,
          "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>a"
          "</think>b<|im_end|>",
          "a", true);
    check(KS_TEMPLATE_LLAMA3, "a<|eot_id|>b", "a", false);
    check(KS_TEMPLATE_AUTO,
          "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>"
          "<|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>",
          "a", false);
    check(KS_TEMPLATE_RAW, "<think>a</think>b", "<think>a</think>b", false);
    check(KS_TEMPLATE_AUTO, "plain", "plain", false);
}

/* The mark that stands first decides. */
Test(extract, first_mark) {
    check(KS_TEMPLATE_AUTO, "<think>see <|channel|></think>b",
          "see <|channel|>", true);
    check(KS_TEMPLATE_AUTO, "analysis<|message|>see </think> here<|end|>",
          "see </think> here", true);
}

Test(extract, names) {
    ks_template which;
    ks_err err = {0};
    for (int i = 0; i < KS_N_TEMPLATES; i++) {
        const char *name = ks_template_name((ks_template)i);
        cr_expect(ks_template_find(name, &which, &err) == KS_OK);
        cr_expect((int)which == i);
    }
    cr_expect(ks_template_find("gpt", &which, &err) == KS_USAGE);
    cr_expect(strstr(err.text, "'gpt'") && strstr(err.text, "harmony"));
    cr_expect(ks_template_name(KS_N_TEMPLATES) == NULL);
}

Test(extract, refuses_bad_utf8_by_byte) {
    ks_span s;
    ks_err err = {0};
    cr_expect(ks_text_extract("a\x80", 2, KS_TEMPLATE_RAW, &s, NULL, &err) ==
              KS_FORMAT);
    cr_expect(strstr(err.text, "byte 1") != NULL, "%s", err.text);
}
