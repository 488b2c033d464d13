/* test_compose.c - from sampled ids to a chain: where the thinking is, whatever
 * the question says, and which ids the text gives back. */
#include <criterion/criterion.h>
#include <string.h>

#include "generate.h"

#define TOKENIZER KS_TEST_DATA "/tokenizer/llama3/tokenizer.json"

static ks_tokenizer *tokenizer;
static json_t *settings;

static void begin(void) {
    ks_err err = {0};
    cr_assert_eq(ks_tokenizer_open(&tokenizer, TOKENIZER, &err), KS_OK, "%s",
                 err.text);
    settings = json_object();
}

static void end(void) {
    ks_tokenizer_close(&tokenizer);
    json_decref(settings);
}

TestSuite(compose, .init = begin, .fini = end);

static json_t *compose(ks_template which, const char *prompt,
                       const int32_t *ids, size_t n) {
    ks_err err = {0};
    json_t *chain = NULL;
    ks_compose c = {tokenizer, which, "m", settings};
    ks_problem problem = {.id = "p", .question = "", .answer = "4"};
    cr_assert_eq(ks_compose_chain(&c, &problem, 0, prompt, strlen(prompt), ids,
                                  (int32_t)n, KS_FINISH_LENGTH, &chain, &err),
                 KS_OK, "%s", err.text);
    return chain;
}

static const char *word_of(const json_t *chain, const char *key) {
    return json_string_value(json_object_get(chain, key));
}

#define ASKED "What does `</think>` mean, what <think>that</think>?"
#define FINAL "<|end|><|start|>assistant<|channel|>final<|message|>"
#define ANALYSIS "<|channel|>analysis<|message|>"

static const struct {
    ks_template which;
    const char *prompt, *output; /* as rendered; what was sampled */
    const char *text, *rest;
    bool closed;
} cases[] = {
    /* marks of the question are not the output's */
    {KS_TEMPLATE_QWEN, "<|im_start|>user\n" ASKED "<|im_start|>assistant\n",
     "<think>x</think>y", "x", "</think>y", true},
    {KS_TEMPLATE_DEEPSEEK_R1, "<U>" ASKED "<A><think>\n", "x</think>y", "x",
     "</think>y", true},
    {KS_TEMPLATE_DEEPSEEK_R1, "<U>" ASKED "<A><think>\n", "x", "x", "", false},
    {KS_TEMPLATE_OLMO, "<|user|>\n" ASKED "<|assistant|>\n<think>",
     "x</think>y", "x", "</think>y", true},
    {KS_TEMPLATE_CHATML, "<|im_start|>user\n" ASKED "<|im_start|>assistant\n",
     "<think>x</think>y", "x", "</think>y", true},
    {KS_TEMPLATE_LLAMA3, "user " ASKED, "x. y", "x. y", "", false},
    {KS_TEMPLATE_HARMONY,
     "<|start|>user<|message|>Why analysis<|message|>a<|end|>, " FINAL
     "?<|end|><|start|>assistant",
     ANALYSIS "x" FINAL "y", "x", FINAL "y", true},
    /* what the prompt itself opens */
    {KS_TEMPLATE_HARMONY,
     "<|start|>user<|message|>Q<|end|><|start|>assistant" ANALYSIS,
     "x" FINAL "y", "x", FINAL "y", true},
    {KS_TEMPLATE_HARMONY, "<|start|>user<|message|>Q<|end|><|start|>assistant",
     "x" FINAL "y", "x", FINAL "y", true},
    {KS_TEMPLATE_QWEN, "<|im_start|>assistant\n<think>\n", "x", "x", "", false},
    /* an answer without thinking */
    {KS_TEMPLATE_QWEN, ASKED, "y", "y", "", false},
    {KS_TEMPLATE_RAW, ASKED "<think>", "x</think>y", "x</think>y", "", false},
};

Test(compose, thinking_is_the_outputs) {
    for (size_t i = 0; i < KS_COUNT(cases); i++) {
        ks_tokens tokens = {0};
        cr_assert_eq(ks_tokenize(tokenizer, cases[i].output,
                                 strlen(cases[i].output), &tokens, NULL),
                     KS_OK);
        json_t *chain =
            compose(cases[i].which, cases[i].prompt, tokens.ids, tokens.n);
        cr_expect_str_eq(word_of(chain, "text"), cases[i].text, "case %zu: %s",
                         i, word_of(chain, "text"));
        cr_expect_str_eq(word_of(chain, "rest"), cases[i].rest, "case %zu: %s",
                         i, word_of(chain, "rest"));
        cr_expect(strncmp(word_of(chain, "prompt"), cases[i].prompt,
                          strlen(cases[i].prompt)) == 0);
        cr_expect_eq(json_is_true(json_object_get(chain, "closed")),
                     cases[i].closed, "case %zu", i);
        cr_expect_str_eq(word_of(chain, "gold"), "4");
        json_decref(chain);
        ks_tokens_free(&tokens);
    }
}

/* Half a character is one id that is not given back, and not all behind it. */
Test(compose, retokenized_counts_what_differs) {
    static const char odd[] = "\xF0\x93\x80\x80", tail[] = " is good and fine.";
    ks_tokens a = {0}, b = {0};
    int32_t ids[64];
    size_t n = 0;
    cr_assert_eq(ks_tokenize(tokenizer, odd, 4, &a, NULL), KS_OK);
    cr_assert_eq(ks_tokenize(tokenizer, tail, strlen(tail), &b, NULL), KS_OK);
    cr_assert(a.n >= 2 && b.n >= 4, "%zu and %zu", a.n, b.n);
    ids[n++] = b.ids[0];
    ids[n++] = a.ids[0];
    for (size_t i = 0; i < b.n; i++) ids[n++] = b.ids[i];
    json_t *chain = compose(KS_TEMPLATE_RAW, "What?", ids, n);
    cr_expect(strstr(word_of(chain, "text"), "\xEF\xBF\xBD is good"), "%s",
              word_of(chain, "text"));
    cr_expect_eq(json_integer_value(json_object_get(chain, "retokenized")), 1);
    json_decref(chain);
    /* whole, in several ids, it is given back */
    n = 0;
    for (size_t i = 0; i < a.n; i++) ids[n++] = a.ids[i];
    for (size_t i = 0; i < b.n; i++) ids[n++] = b.ids[i];
    chain = compose(KS_TEMPLATE_RAW, "What?", ids, n);
    cr_expect_eq(json_integer_value(json_object_get(chain, "retokenized")), 0);
    json_decref(chain);
    ks_tokens_free(&a);
    ks_tokens_free(&b);
}
