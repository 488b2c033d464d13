/* Prompts: templates are recognised by their marks and rendered as the
 * families' own Jinja templates do; stop ids come from every place that lists
 * them. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "prompt.h"

#define TASK                                                                   \
    "Solve the following problem. Put your final answer in \\boxed{}.\n\n"     \
    "Problem:\nQ?"
#define BAR "\xEF\xBD\x9C"

static char folder[64];

static void write_file(const char *name, const char *text) {
    char path[128];
    ks_err err = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(ks_write_file(path, text, strlen(text), true, &err), KS_OK,
                 "%s", err.text);
}

static void make_folder(void) {
    strcpy(folder, "/tmp/keystep-prompt-XXXXXX");
    cr_assert(mkdtemp(folder));
}

static void drop_folder(void) {
    static const char *const names[] = {"tokenizer_config.json",
                                        "generation_config.json", "config.json",
                                        "chat_template.jinja"};
    for (size_t i = 0; i < KS_COUNT(names); i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

TestSuite(prompt, .init = make_folder, .fini = drop_folder);

/* A family's tokenizer from the tokenizer tests; only its BOS matters. */
static ks_tokenizer *tokenizer_of(const char *family) {
    char path[512];
    ks_tokenizer *t = NULL;
    ks_err err = {0};
    snprintf(path, sizeof path, KS_TEST_DATA "/tokenizer/%s/tokenizer.json",
             family);
    cr_assert_eq(ks_tokenizer_open(&t, path, &err), KS_OK, "%s", err.text);
    return t;
}

static void write_template(const char *text) {
    json_t *config = json_pack("{s:s}", "chat_template", text);
    char *dump = json_dumps(config, 0);
    write_file("tokenizer_config.json", dump);
    free(dump);
    json_decref(config);
}

static void expect_prompt(ks_template which, ks_template expected,
                          const char *instruction, const char *text) {
    ks_tokenizer *t = tokenizer_of("gpt2");
    ks_prompt p;
    ks_str out = {0};
    ks_err err = {0};
    cr_assert_eq(ks_prompt_open(&p, folder, t, which, &err), KS_OK, "%s",
                 err.text);
    cr_expect_eq(p.which, expected, "%s", ks_template_name(p.which));
    if (instruction) p.instruction = instruction;
    cr_assert_eq(ks_prompt_render(&p, "Q?", &out, &err), KS_OK);
    cr_expect_str_eq(out.data, text);
    ks_str_free(&out);
    ks_prompt_close(&p);
    ks_tokenizer_close(&t);
}

Test(prompt, smollm2) {
    /* Real newlines, a literal system turn. */
    write_template(
        "{% for message in messages %}{% if loop.first and messages[0]['role'] "
        "!= 'system' %}{{ '<|im_start|>system\nYou are SmolLM<|im_end|>\n' }}"
        "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
        "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% endif %}");
    expect_prompt(KS_TEMPLATE_AUTO, KS_TEMPLATE_CHATML, NULL,
                  "<|im_start|>system\nYou are SmolLM<|im_end|>\n"
                  "<|im_start|>user\n" TASK "\n<|im_end|>\n"
                  "<|im_start|>assistant\n");
}

Test(prompt, olmo3) {
    write_template(
        "{% if not has_system %}{{ '<|im_start|>system\\nYou are "
        "OLMo.<|im_end|>"
        "\\n' }}{% endif %}{{ '<|im_start|>system\\n' + x + '<|im_end|>' }}"
        "{% if loop.last %}{{ '<|im_start|>assistant\\n<think>' }}{% endif %}");
    expect_prompt(KS_TEMPLATE_AUTO, KS_TEMPLATE_OLMO, NULL,
                  "<|im_start|>system\nYou are OLMo.<|im_end|>\n"
                  "<|im_start|>user\n" TASK "\n<|im_end|>\n"
                  "<|im_start|>assistant\n<think>");
}

Test(prompt, olmo2) {
    write_template("{{ bos_token }}{{ '<|user|>\\n' + message['content'] + "
                   "'\\n' }}{{ '<|assistant|>\\n' }}");
    expect_prompt(KS_TEMPLATE_AUTO, KS_TEMPLATE_OLMO, "",
                  "<|user|>\nQ?\n<|assistant|>\n");
}

Test(prompt, qwen3) {
    write_template(
        "{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}"
        "{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is false %}"
        "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}");
    expect_prompt(KS_TEMPLATE_AUTO, KS_TEMPLATE_QWEN, NULL,
                  "<|im_start|>user\n" TASK "\n<|im_end|>\n"
                  "<|im_start|>assistant\n");
}

Test(prompt, template_in_its_own_file) {
    write_template("nothing");
    write_file("chat_template.jinja",
               "{{ '<|im_start|>assistant\\n<think>\\n' }}");
    expect_prompt(KS_TEMPLATE_AUTO, KS_TEMPLATE_QWEN, "",
                  "<|im_start|>user\nQ?<|im_end|>\n"
                  "<|im_start|>assistant\n<think>\n");
}

Test(prompt, deepseek) {
    write_template("{{ '<" BAR "User" BAR ">' + message['content'] }}"
                   "{{ '<" BAR "Assistant" BAR ">' }}");
    expect_prompt(KS_TEMPLATE_AUTO, KS_TEMPLATE_DEEPSEEK_R1, NULL,
                  "<" BAR "User" BAR ">" TASK "\n<" BAR "Assistant" BAR
                  "><think>\n");
}

Test(prompt, llama3) {
    write_template("{{ '<|start_header_id|>system' }} Cutting Knowledge Date");
    expect_prompt(
        KS_TEMPLATE_AUTO, KS_TEMPLATE_LLAMA3, NULL,
        "<|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n" TASK
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
}

Test(prompt, harmony_has_no_generation_prompt) {
    write_template("<|start|>assistant<|channel|>final");
    ks_tokenizer *t = tokenizer_of("gpt2");
    ks_prompt p;
    ks_str out = {0};
    ks_err err = {0};
    cr_assert_eq(ks_prompt_open(&p, folder, t, KS_TEMPLATE_AUTO, &err), KS_OK);
    cr_expect_eq(p.which, KS_TEMPLATE_HARMONY);
    cr_assert_eq(ks_prompt_render(&p, "Q?", &out, &err), KS_OK);
    const char *end = "<|start|>user<|message|>" TASK "\n<|end|>";
    cr_expect_str_eq(out.data + out.length - strlen(end), end);
    ks_str_free(&out);
    ks_prompt_close(&p);
    ks_tokenizer_close(&t);
}

static void expect_turns(const char *marks, const char *text) {
    static const ks_turn turns[] = {{KS_ROLE_SYSTEM, " Be brief. "},
                                    {KS_ROLE_USER, "Q?"},
                                    {KS_ROLE_ASSISTANT, "A."},
                                    {KS_ROLE_USER, "Why?"}};
    ks_tokenizer *t = tokenizer_of("gpt2");
    ks_prompt p;
    ks_str out = {0};
    write_template(marks);
    cr_assert_eq(ks_prompt_open(&p, folder, t, KS_TEMPLATE_AUTO, NULL), KS_OK);
    cr_assert_eq(ks_prompt_render_turns(&p, turns, 4, &out, NULL), KS_OK);
    cr_expect_str_eq(out.data, text);
    ks_str_free(&out);
    ks_prompt_close(&p);
    ks_tokenizer_close(&t);
}

Test(prompt, conversations) {
    expect_turns("{{ '<|start_header_id|>system' }} Cutting Knowledge Date",
                 "<|start_header_id|>system<|end_header_id|>\n\n"
                 "Cutting Knowledge Date: December 2023\n"
                 "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|>"
                 "<|start_header_id|>user<|end_header_id|>\n\nQ?<|eot_id|>"
                 "<|start_header_id|>assistant<|end_header_id|>\n\nA."
                 "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhy?"
                 "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
    expect_turns("{{ '<|user|>\\n' }}{{ '<|assistant|>\\n' }}",
                 "<|system|>\n Be brief. \n<|user|>\nQ?\n<|assistant|>\nA."
                 "<|endoftext|>\n<|user|>\nWhy?\n<|assistant|>\n");
    /* the system's turn takes the place of the template's own */
    expect_turns("{{ '<|im_start|>system\\nYou are OLMo.<|im_end|>\\n' }}"
                 "{{ '<|im_start|>assistant\\n<think>' }}",
                 "<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\n"
                 "Q?<|im_end|>\n<|im_start|>assistant\nA.<|im_end|>\n"
                 "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
                 "<think>");
}

Test(prompt, raw_is_the_question) {
    expect_prompt(KS_TEMPLATE_AUTO, KS_TEMPLATE_RAW, NULL, "Q?");
    write_template("<|channel|>");
    expect_prompt(KS_TEMPLATE_RAW, KS_TEMPLATE_RAW, NULL, "Q?");
}

Test(prompt, bos_goes_in_front_where_the_config_wants_it) {
    ks_tokenizer *t = tokenizer_of("llama3");
    ks_prompt p;
    ks_str out = {0};
    ks_err err = {0};
    write_file("tokenizer_config.json",
               "{\"add_bos_token\": true, "
               "\"model_max_length\": 1000000000000000019884624838656}");
    cr_assert_eq(ks_prompt_open(&p, folder, t, KS_TEMPLATE_AUTO, &err), KS_OK);
    cr_assert_eq(ks_prompt_render(&p, "Q?", &out, &err), KS_OK);
    if (ks_tokenizer_bos(t) >= 0)
        cr_expect_str_eq(out.data, "<|begin_of_text|>Q?");
    ks_str_free(&out);
    ks_prompt_close(&p);
    ks_tokenizer_close(&t);
}

Test(prompt, stop_ids_from_every_place) {
    ks_tokenizer *t = tokenizer_of("gpt2");
    ks_prompt p;
    ks_err err = {0};
    write_file("generation_config.json", "{\"eos_token_id\": [5, 6, -1]}");
    write_file("config.json",
               "{\"eos_token_id\": 6, \"text_config\": {\"eos_token_id\": 7}}");
    cr_assert_eq(ks_prompt_open(&p, folder, t, KS_TEMPLATE_AUTO, &err), KS_OK);
    cr_expect_eq(p.n_stops, 3);
    cr_expect(ks_prompt_stops(&p, 5) && ks_prompt_stops(&p, 6) &&
              ks_prompt_stops(&p, 7) && !ks_prompt_stops(&p, 8));
    ks_prompt_close(&p);
    write_file("generation_config.json", "[oops");
    cr_expect_eq(ks_prompt_open(&p, folder, t, KS_TEMPLATE_AUTO, &err),
                 KS_FORMAT);
    cr_expect(strstr(err.text, "generation_config.json"), "%s", err.text);
    ks_tokenizer_close(&t);
}
