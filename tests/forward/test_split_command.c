/* keystep split as a user runs it. */
#include "generate_shell.h"
#include "keystep.h"

#ifdef KS_PROGRAM

TestSuite(split_command, .init = make_folder, .fini = drop_folder);

Test(split_command, keeps_other_fields) {
    char path[128];
    snprintf(path, sizeof path, "%s/c.jsonl", folder);
    FILE *file = fopen(path, "w");
    fputs("{\"id\":\"a\",\"problem\":\"p\",\"prompt\":\"\",\"text\":\"One is "
          "one thing. Two is another.\",\"mine\":{\"x\":1}}\n",
          file);
    fclose(file);
    cr_assert_eq(
        keystep(out, sizeof out, "split --chains c.jsonl --out d.jsonl"), 0,
        "%s", out);
    json_t *all = read_lines("d.jsonl"), *c = json_array_get(all, 0);
    json_t *steps = json_object_get(c, "steps");
    cr_assert_eq(json_array_size(steps), 2);
    json_t *second = json_array_get(steps, 1);
    cr_expect_eq(json_integer_value(json_object_get(second, "begin")), 17);
    cr_expect_eq(json_integer_value(json_object_get(second, "end")), 33);
    cr_expect_not_null(json_object_get(c, "mine"));
    json_decref(all);
    cr_expect_eq(
        keystep(out, sizeof out, "split --chains c.jsonl --out d.jsonl"), 1);
}

#define TOKENIZER KS_TEST_DATA "/tokenizer/llama3/tokenizer.json"

/* The spans of /steps/token_begin and token_end of capture: tokens of prompt +
 * text as one, a token in the step that has its first byte. */
Test(split_command, with_token_spans) {
    static const char prompt[] = "How many coins?";
    static const char text[] = " Ben has 3 coins. Ada gives him 4 more.\n\n "
                               "So 7 it is.";
    char line[512];
    ks_tokenizer *tokenizer = NULL;
    ks_tokens tokens = {0};
    json_t *object =
        json_pack("{s:s,s:s,s:s,s:s,s:s}", "id", "a", "problem", "p", "prompt",
                  prompt, "text", text, "steps", "broken");
    char *dump = json_dumps(object, 0);
    snprintf(line, sizeof line,
             "%s\n{\"id\":\"b\",\"problem\":\"p\",\"prompt\":\"\",\"text\":"
             "\" \",\"steps\":[{\"begin\":7,\"end\":3}]}\n",
             dump);
    free(dump);
    json_decref(object);
    write_text("c.jsonl", line);
    expect_said("split --chains c.jsonl --out d.jsonl --tokenizer " TOKENIZER,
                0, "2 chains, 3 steps; 1 chains without a step");
    cr_assert_eq(ks_tokenizer_open(&tokenizer, TOKENIZER, NULL), KS_OK);
    snprintf(line, sizeof line, "%s%s", prompt, text);
    cr_assert_eq(ks_tokenize(tokenizer, line, strlen(line), &tokens, NULL),
                 KS_OK);
    json_t *all = read_lines("d.jsonl"), *step;
    json_t *steps = json_object_get(json_array_get(all, 0), "steps");
    json_int_t before = 0;
    size_t i;
    while (tokens.begin[before] < (int32_t)strlen(prompt)) before++;
    cr_assert_eq(json_array_size(steps), 3);
    json_array_foreach(steps, i, step) {
        json_int_t b, e, tb, te;
        cr_assert_eq(json_unpack(step, "{s:I,s:I,s:I,s:I}", "begin", &b, "end",
                                 &e, "token_begin", &tb, "token_end", &te),
                     0);
        cr_expect_eq(tb, before, "steps tile, and so do their tokens");
        cr_assert(te > tb && te <= (json_int_t)tokens.n);
        for (json_int_t t = tb; t < te; t++)
            cr_expect(tokens.begin[t] >= b + (int)strlen(prompt) &&
                      tokens.begin[t] < e + (int)strlen(prompt));
        before = te;
    }
    cr_expect_eq(before, (json_int_t)tokens.n);
    json_decref(all);
    ks_tokens_free(&tokens);
    ks_tokenizer_close(&tokenizer);
    /* of a model, and readers take such a file */
    expect_said("split --chains c.jsonl --out e.jsonl --model $M", 0,
                "2 chains");
    shell("grep -q '\"token_end\":' e.jsonl");
    expect_said("capture --model $M --chains e.jsonl --out e.h5 --threads 1", 0,
                "3 steps of 2 chains");
    expect_said("split --chains e.jsonl", 0,
                "\"steps\":[{\"begin\":0,\"end\":");
    cr_expect(!strstr(out, "token_begin"), "stale spans stay: %s", out);
    expect_said("split --chains c.jsonl --model nowhere", 1, "nowhere");
}

#endif
