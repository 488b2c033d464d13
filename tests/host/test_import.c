/* test_import.c - lines of other tools as chains: each kind with each
 * template, ids and problems, what is refused, what is counted. */
#include "import_lines.h"

TestSuite(import, .init = make_folder, .fini = drop_folder);

/* -------------------------------------------------------------- conversations
 */

#define BAR "\xEF\xBD\x9C"
#define BLOCK "\xE2\x96\x81"
#define ASKED                                                                  \
    "{\"role\":\"system\",\"content\":\"Be brief.\"},"                         \
    "{\"role\":\"user\",\"content\":\" 3 + 4? \"}"
#define THOUGHT                                                                \
    "{\"messages\":[" ASKED ",{\"role\":\"assistant\",\"content\":"            \
    "\"It is \\\\boxed{7}.\",\"reasoning_content\":"                           \
    "\"Add 3 and 4 now. That makes seven.\"}],\"gold\":7}\n"
#define MARKED                                                                 \
    "{\"messages\":[" ASKED ",{\"role\":\"assistant\",\"content\":"            \
    "\"<think>\\nAdd 3 and 4.\\n</think>\\n\\nSeven.\"}]}\n"
#define PLAIN                                                                  \
    "{\"messages\":[" ASKED ",{\"role\":\"assistant\",\"content\":"            \
    "\"Seven.\"}]}\n"

typedef struct family {
    ks_template which;
    const char *prompt; /* to where the assistant's header ends */
    const char *opening, *closing;
    /* of MARKED and PLAIN: what prompt is followed by, the thinking, and
     * whether it is finished */
    const char *marked, *marked_text, *plain, *plain_finished;
} family;

static const family families[] = {
    {KS_TEMPLATE_RAW, "Be brief.\n\n 3 + 4? \n", "", "\n", "",
     "<think>\nAdd 3 and 4.\n</think>\n\nSeven.", "", "(absent)"},
    {KS_TEMPLATE_CHATML,
     "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n 3 + 4? "
     "<|im_end|>\n<|im_start|>assistant\n",
     "<think>\n", "\n</think>\n\n", "<think>", "\nAdd 3 and 4.\n", "",
     "(absent)"},
    {KS_TEMPLATE_QWEN,
     "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n 3 + 4? "
     "<|im_end|>\n<|im_start|>assistant\n",
     "<think>\n", "\n</think>\n\n", "<think>", "\nAdd 3 and 4.\n", "",
     "(absent)"},
    {KS_TEMPLATE_OLMO,
     "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n 3 + 4? "
     "<|im_end|>\n<|im_start|>assistant\n",
     "<think>", "\n</think>\n\n", "<think>", "\nAdd 3 and 4.\n", "<think>",
     "false"},
    {KS_TEMPLATE_DEEPSEEK_R1,
     "<" BAR "begin" BLOCK "of" BLOCK "sentence" BAR ">Be brief.<" BAR
     "User" BAR "> 3 + 4? <" BAR "Assistant" BAR ">",
     "<think>\n", "\n</think>\n\n", "<think>", "\nAdd 3 and 4.\n", "<think>\n",
     "false"},
    {KS_TEMPLATE_LLAMA3,
     "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief."
     "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n3 + 4?<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n",
     "<think>\n", "\n</think>\n\n", "<think>", "\nAdd 3 and 4.\n", "",
     "(absent)"},
};

static void expect_text(const json_t *list, size_t i, const char *key,
                        const char *a, const char *b) {
    char all[2048];
    snprintf(all, sizeof all, "%s%s", a, b);
    const char *got =
        json_string_value(json_object_get(json_array_get(list, i), key));
    cr_expect(got && strcmp(got, all) == 0,
              "line %zu: %s is \"%s\", expected \"%s\"", i, key,
              got ? got : "(absent)", all);
}

Test(import, messages_with_every_template) {
    for (size_t i = 0; i < KS_COUNT(families); i++) {
        const family *f = &families[i];
        bool raw = f->which == KS_TEMPLATE_RAW;
        imported in =
            good(THOUGHT MARKED PLAIN, (ks_import_options){0}, f->which);
        expect_text(in.chains, 0, "prompt", f->prompt, f->opening);
        expect_text(in.chains, 0, "text", "Add 3 and 4 now. ",
                    "That makes seven.");
        expect_text(in.chains, 0, "rest", f->closing, "It is \\boxed{7}.");
        expect(in.chains, 0, "closed", raw ? "false" : "true");
        expect(in.chains, 0, "finished", raw ? "(absent)" : "true");
        expect(in.chains, 0, "answer", "\"7\"");
        expect(in.chains, 0, "correct", "true");
        expect(in.chains, 0, "question", "\" 3 + 4? \"");
        expect(in.chains, 0, "messages", "(absent)");
        expect(in.chains, 0, "steps",
               "[{\"begin\":0,\"end\":16},{\"begin\":16,\"end\":34}]");
        expect_text(in.chains, 1, "prompt", f->prompt, f->marked);
        expect_text(in.chains, 1, "text", f->marked_text, "");
        expect_text(in.chains, 1, "rest", raw ? "" : "</think>\n\nSeven.", "");
        expect_text(in.chains, 2, "prompt", f->prompt, f->plain);
        expect_text(in.chains, 2, "text", "Seven.", "");
        expect(in.chains, 2, "finished", f->plain_finished);
        drop(&in);
    }
}

Test(import, messages_in_harmony) {
    imported in = good(
        THOUGHT PLAIN
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
        "{\"role\":\"assistant\",\"content\":\"<|start|>assistant<|channel|>"
        "analysis<|message|>Think.<|end|><|start|>assistant<|channel|>final"
        "<|message|>b\"}]}\n"
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
        "{\"role\":\"assistant\",\"content\":\"\",\"reasoning\":\"Cut o\"}]}",
        (ks_import_options){0}, KS_TEMPLATE_HARMONY);
    const char *prompt = json_string_value(
        json_object_get(json_array_get(in.chains, 0), "prompt"));
    cr_expect(strstr(prompt,
                     "<|end|><|start|>developer<|message|># Instructions\n\n"
                     "Be brief.<|end|><|start|>user<|message|> 3 + 4? <|end|>"
                     "<|start|>assistant<|channel|>analysis<|message|>"),
              "%s", prompt);
    expect_text(in.chains, 0, "rest",
                "<|end|><|start|>assistant<|channel|>final<|message|>",
                "It is \\boxed{7}.");
    expect(in.chains, 0, "finished", "true");
    expect_text(in.chains, 1, "text", "Seven.", "");
    expect(in.chains, 1, "finished", "(absent)");
    expect_text(in.chains, 2, "text", "Think.", "");
    expect(in.chains, 2, "finished", "true");
    expect_text(in.chains, 3, "text", "Cut o", "");
    expect_text(in.chains, 3, "rest", "", "");
    expect(in.chains, 3, "finished", "false");
    drop(&in);
}

Test(import, earlier_turns_and_parts) {
    imported in = good(
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
        "\"text\":\"H\"},{\"type\":\"text\",\"text\":\"i\"}]},{\"role\":"
        "\"assistant\",\"content\":\"<think>x</think>\\n\\nOld\"},{\"role\":"
        "\"user\",\"content\":\"Again\"},{\"role\":\"assistant\",\"content\":"
        "\"Why not.</think>Yes\"}]}",
        (ks_import_options){0}, KS_TEMPLATE_DEEPSEEK_R1);
    expect_text(in.chains, 0, "prompt",
                "<" BAR "begin" BLOCK "of" BLOCK "sentence" BAR "><" BAR
                "User" BAR ">Hi<" BAR "Assistant" BAR ">Old<" BAR "end" BLOCK
                "of" BLOCK "sentence" BAR "><" BAR "User" BAR ">Again<" BAR
                "Assistant" BAR "><think>\n",
                "");
    expect(in.chains, 0, "text", "\"Why not.\"");
    expect(in.chains, 0, "rest", "\"</think>Yes\"");
    expect(in.chains, 0, "question", "\"Again\"");
    drop(&in);
}

/* ------------------------------------------------------------------- outputs
 */

Test(import, outputs) {
    imported in = good(
        /* 0: prompts stay as they are, marks in them are not the output's */
        "{\"prompt\":\"<think>a</think>b Q?\",\"text\":\"<think>Go on."
        "</think>4\",\"x\":{\"y\":1}}\n"
        /* 1: the prompt opened the thinking */
        "{\"prompt\":\"Q?<think>\\n\",\"completion\":\"One. </think>Two.\"}\n"
        /* 2: and it never ended */
        "{\"prompt\":\"Q?<think>\\n\",\"output\":\"One. \",\"stop\":1}\n"
        /* 3 to 5: what the tool says of the end */
        "{\"prompt\":\"Q?\",\"response\":\"One.\",\"finish_reason\":"
        "\"length\"}\n"
        "{\"prompt\":\"Q?\",\"text\":\"One.\",\"finish_reason\":\"stop\"}\n"
        "{\"prompt\":\"Q?\",\"text\":\"One.\",\"finished\":false}\n"
        /* 6: a question alone */
        "{\"question\":\"Q!\",\"output\":\"It is \\\\boxed{1/2}\",\"answer\":"
        "0.5}\n"
        /* 7: cut already; its answer is what it answered */
        "{\"id\":\"p/3\",\"problem\":\"p\",\"prompt\":\"Q?\",\"text\":\"<think>"
        "\",\"rest\":\" So \\\\boxed{5}\",\"answer\":\"5\",\"correct\":true}\n"
        /* 8: a list of messages as prompt, a solution as right answer */
        "{\"prompt\":[{\"role\":\"user\",\"content\":\"Q,\"}],\"completion\":"
        "\"is 18\",\"answer\":\"a\\nb\\n#### 18\\n\"}\n"
        /* 9: nothing */
        "{\"prompt\":\"Q0\",\"text\":\"\"}\n",
        (ks_import_options){0}, KS_TEMPLATE_AUTO);
    expect(in.chains, 0, "prompt", "\"<think>a</think>b Q?<think>\"");
    expect(in.chains, 0, "text", "\"Go on.\"");
    expect(in.chains, 0, "rest", "\"</think>4\"");
    expect(in.chains, 0, "x", "{\"y\":1}");
    expect(in.chains, 0, "correct", "null");
    expect(in.chains, 1, "text", "\"One. \"");
    expect(in.chains, 1, "finished", "true");
    expect(in.chains, 1, "completion", "(absent)");
    expect(in.chains, 2, "finished", "false");
    expect(in.chains, 2, "stop", "1");
    expect(in.chains, 3, "finished", "false");
    expect(in.chains, 3, "finish_reason", "\"length\"");
    expect(in.chains, 4, "finished", "true");
    expect(in.chains, 5, "finished", "false");
    expect(in.chains, 6, "prompt", "\"Q!\\n\"");
    expect(in.chains, 6, "correct", "true");
    expect(in.chains, 6, "answer", "\"1/2\"");
    expect(in.chains, 6, "gold", "\"0.5\"");
    expect(in.chains, 6, "finished", "(absent)");
    expect(in.chains, 7, "id", "\"p/3\"");
    expect(in.chains, 7, "text", "\"<think>\"");
    expect(in.chains, 7, "rest", "\" So \\\\boxed{5}\"");
    expect(in.chains, 7, "correct", "true"); /* who wrote it knew */
    expect(in.chains, 8, "prompt", "\"Q,\\n\"");
    expect(in.chains, 8, "gold", "\"18\"");
    expect(in.chains, 8, "correct", "true");
    expect(in.chains, 9, "steps", "[]");
    cr_expect(in.all.n == 10 && in.all.unfinished == 3 && in.all.empty == 1 &&
              in.all.judged == 3 && in.all.correct == 3);
    drop(&in);
}

/* The same rule as for chains that were generated here. */
Test(import, marks_of_a_question) {
    imported in =
        good("{\"question\":\"What does `</think>` mean? <think>a</think>\","
             "\"text\":\"<think>It ends.</think>So.\"}\n",
             (ks_import_options){0}, KS_TEMPLATE_QWEN);
    expect(in.chains, 0, "text", "\"It ends.\"");
    expect(in.chains, 0, "rest", "\"</think>So.\"");
    drop(&in);
    in = good(
        "{\"prompt\":\"<|start|>user<|message|>Q<|end|><|start|>assistant"
        "<|channel|>analysis<|message|>\",\"text\":\"It ends.<|end|><|start|>"
        "assistant<|channel|>final<|message|>So.\"}\n",
        (ks_import_options){0}, KS_TEMPLATE_HARMONY);
    expect(in.chains, 0, "text", "\"It ends.\"");
    expect(in.chains, 0, "finished", "true");
    drop(&in);
}

/* --------------------------------------------------------------------- GSM8K
 */

#define GSM8K                                                                  \
    "{\"question\":\"How many?\",\"answer\":\"Two and 3 = <<2+3=5>>5 eggs.  "  \
    "\\r\\n\\n So $<<5*2=10>>10 \\u20ac << left\\n#### 1,010 \\n\","           \
    "\"level\":2}\n"

Test(import, gsm8k) {
    imported in = good(GSM8K, (ks_import_options){0}, KS_TEMPLATE_AUTO);
    expect(in.chains, 0, "prompt", "\"How many?\\n\"");
    expect(in.chains, 0, "text",
           "\"Two and 3 = 5 eggs.\\nSo $10 \\u20ac << left\"");
    expect(in.chains, 0, "rest", "\"\\n#### 1,010\"");
    expect(in.chains, 0, "steps",
           "[{\"begin\":0,\"end\":20},{\"begin\":20,\"end\":38}]");
    expect(in.chains, 0, "gold", "\"1,010\"");
    expect(in.chains, 0, "correct", "true");
    expect(in.chains, 0, "finished", "true");
    expect(in.chains, 0, "level", "2");
    expect(in.chains, 0, "id", "\"in/1/0\"");
    expect(in.problems, 0, "id", "\"in/1\"");
    expect(in.problems, 0, "question", "\"How many?\"");
    expect(in.problems, 0, "answer", "\"1,010\"");
    drop(&in);
    in = good(GSM8K, (ks_import_options){.from = KS_IMPORT_GSM8K},
              KS_TEMPLATE_DEEPSEEK_R1);
    expect_text(in.chains, 0, "prompt",
                "<" BAR "begin" BLOCK "of" BLOCK "sentence" BAR "><" BAR
                "User" BAR ">How many?<" BAR "Assistant" BAR "><think>\n",
                "");
    expect(in.chains, 0, "rest", "\"\\n</think>\\n\\n#### 1,010\"");
    drop(&in);
    in = good(GSM8K, (ks_import_options){0}, KS_TEMPLATE_CHATML);
    expect(in.chains, 0, "rest", "\"\\n#### 1,010\"");
    drop(&in);
}

/* A line of nothing but annotations is as blank as one without anything. */
Test(import, gsm8k_lines_of_annotations) {
    imported in = good("{\"question\":\"Q\",\"answer\":\"<<1+1=2>>\\nSo 2.\\n "
                       "<<3>> <<4>>\\nThus 3.\\n#### 3\"}\n",
                       (ks_import_options){0}, KS_TEMPLATE_AUTO);
    expect(in.chains, 0, "text", "\"So 2.\\nThus 3.\"");
    expect(in.chains, 0, "steps",
           "[{\"begin\":0,\"end\":6},{\"begin\":6,\"end\":13}]");
    drop(&in);
}

/* ------------------------------------------------------------------- refusals
 */

static const struct {
    const char *lines, *place, *reason;
    ks_import_options options;
} bad[] = {
    {"", "", "empty", {0}},
    {"{\"a\":1}", "line 1", "neither", {0}},
    {O("") "nonsense", "line 2", "column", {0}},
    {O("") "[]", "line 2", "object", {0}},
    {"{\"text\":\"\xff\"}", "line 1", "UTF-8", {0}},
    {"{\"prompt\":\"x\",\"text\":3}", "line 1", "neither", {0}},
    {"{\"prompt\":3,\"text\":\"x\"}", "line 1", "prompt", {0}},
    {"{\"text\":\"x\"}", "line 1", "no question", {0}},
    {"{\"text\":\"x\"}", "line 1", "messages", {.from = KS_IMPORT_MESSAGES}},
    {GSM8K, "line 1", "\"completion\"", {.from = KS_IMPORT_TEXT}},
    {"{\"question\":\"x\",\"answer\":\"a\"}",
     "line 1",
     "####",
     {.from = KS_IMPORT_GSM8K}},
    {"{\"question\":\"x\",\"answer\":\"#### 3\"}", "line 1", "ahead", {0}},
    {"{\"question\":\"x\",\"answer\":\"a\\n#### \"}",
     "line 1",
     "####",
     {.from = KS_IMPORT_GSM8K}},
    {"{\"answer\":\"a\\n#### 3\"}", "line 1", "no question", {0}},
    {"{\"messages\":[]}", "line 1", "messages", {0}},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
     "line 1",
     "not the assistant's",
     {0}},
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\"}]}",
     "line 1",
     "is the user's",
     {0}},
    {"{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"},{\"role\":"
     "\"assistant\",\"content\":\"x\"}]}",
     "line 1",
     "message 0 has the role 'tool'",
     {0}},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":"
     "\"assistant\",\"content\":null}]}",
     "line 1",
     "empty",
     {0}},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\"}]},"
     "{\"role\":\"assistant\",\"content\":\"x\"}]}",
     "line 1",
     "part 0",
     {0}},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"},{\"role\":"
     "\"assistant\",\"content\":\"x\"}]}",
     "line 1",
     "NUL",
     {0}},
    {O(",\"id\":\"\""), "line 1", "\"id\" is empty", {0}},
    {O(",\"seed\":18446744073709551615"), "line 1", "too big integer", {0}},
    {O(",\"id\":[1]"), "line 1", "\"id\" is neither", {0}},
    {O(",\"id\":\"a/1\"") O(",\"id\":\"a/1\""),
     "line 2",
     "already on line 1",
     {0}},
    {O(",\"id\":\"a/1\",\"question\":\"x\"")
         O(",\"id\":\"a/2\",\"question\":\"y\""),
     "line 2",
     "another question on line 1",
     {0}},
    {O(",\"id\":\"a/1\",\"gold\":\"x\"") O(",\"id\":\"a/2\",\"gold\":\"y\""),
     "line 2",
     "another answer on line 1",
     {0}},
    {O(""), "line 1", "no question to write", {.with_problems = true}},
};

Test(import, bad_lines_are_named) {
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        ks_err err = {0};
        imported out = {0};
        ks_status st =
            import(bad[i].lines, bad[i].options, KS_TEMPLATE_AUTO, &out, &err);
        cr_expect(st != KS_OK, "%s was taken", bad[i].lines);
        cr_expect(strstr(err.text, bad[i].place) &&
                      strstr(err.text, bad[i].reason) &&
                      strstr(err.text, "in.jsonl"),
                  "%s: %s", bad[i].lines, err.text);
        ks_imported_free(&out.all);
    }
}

/* Neither does one that no template can say. */
Test(import, a_late_system_message_is_skipped) {
    imported in =
        good("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":"
             "\"system\",\"content\":\"y\"},{\"role\":\"assistant\","
             "\"content\":\"z\"}]}\n" O(""),
             (ks_import_options){.skipped = count_skipped}, KS_TEMPLATE_CHATML);
    cr_expect(in.all.n == 1 && in.all.skipped == 1);
    drop(&in);
}

/* A skipped line leaves nothing behind: the next may have its id. */
Test(import, bad_lines_are_skipped) {
    imported in =
        good("nonsense\n{\"id\":\"a\",\"question\":\"x\"}\n" O(
                 ",\"id\":\"a\",\"question\":\"y\"") O(",\"id\":\"a\","
                                                       "\"question\":\"z\"")
                 O(",\"id\":\"a\",\"question\":\"y\""),
             (ks_import_options){.skipped = count_skipped}, KS_TEMPLATE_AUTO);
    cr_expect(in.all.n == 2 && in.all.skipped == 3, "%zu, %zu", in.all.n,
              in.all.skipped);
    expect(in.chains, 1, "id", "\"a/1\"");
    drop(&in);
    imported none = {0};
    ks_err err = {0};
    cr_expect(import("nonsense\n",
                     (ks_import_options){.skipped = count_skipped},
                     KS_TEMPLATE_AUTO, &none, &err) == KS_FORMAT);
    cr_expect(strstr(err.text, "no line is good") != NULL, "%s", err.text);
    ks_imported_free(&none.all);
}
