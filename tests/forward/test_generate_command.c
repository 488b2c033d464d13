/* keystep generate, split and score as a user runs them, on the embedded demo
 * model. */
#include <jansson.h>
#include <math.h>

#include "base.h"
#include "shell.h"

#ifdef KS_PROGRAM

#define MODEL KS_TEST_DATA "/../../experiments/demo/models/demo-a"

static char folder[64];

static void make_folder(void) {
    make_temporary(folder, "generate");
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(generate_command, .init = make_folder, .fini = drop_folder);

/* Runs `keystep ARGS` in the folder; $P is the model. Exit code; out gets
 * stdout and stderr. */
static int keystep(char *out, size_t size, const char *args) {
    char command[2048];
    snprintf(command, sizeof command, "cd '%s' && M='%s' && { %s %s; } 2>&1",
             folder, MODEL, KS_PROGRAM, args);
    return shell_run(command, out, size);
}

static void write_problems(void) {
    char path[128];
    snprintf(path, sizeof path, "%s/problems.jsonl", folder);
    FILE *file = fopen(path, "w");
    cr_assert(file);
    for (int i = 0; i < 3; i++)
        fprintf(file,
                "{\"id\":\"p%d\",\"question\":\"How many coins has Ben? "
                "Ben has %d coins.\",\"answer\":\"%d\"}\n",
                i, i + 2, i + 2);
    fclose(file);
}

static json_t *read_lines(const char *name) {
    char path[128], line[65536];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    cr_assert(file, "%s", path);
    json_t *all = json_array();
    while (fgets(line, sizeof line, file))
        json_array_append_new(all, json_loads(line, 0, NULL));
    fclose(file);
    return all;
}

#define GENERATE                                                               \
    "generate --model $M --problems problems.jsonl --samples 2 "               \
    "--temperature 1 --seed 3 --max-new 24 --instruction '' --threads 1 "

static char out[65536];

Test(generate_command, chains_in_the_order_of_problems) {
    write_problems();
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--out a.jsonl"), 0, "%s",
                 out);
    cr_expect(strstr(out, "6 chains"), "%s", out);
    json_t *all = read_lines("a.jsonl");
    cr_assert_eq(json_array_size(all), 6);
    for (size_t i = 0; i < 6; i++) {
        json_t *c = json_array_get(all, i);
        char id[16];
        snprintf(id, sizeof id, "p%zu/%zu", i / 2, i % 2);
        cr_expect_str_eq(json_string_value(json_object_get(c, "id")), id);
        json_int_t n = json_integer_value(json_object_get(c, "tokens"));
        cr_expect(n > 0 && n <= 24);
        cr_expect(json_is_boolean(json_object_get(c, "correct")));
        if (n < 24) cr_expect(json_is_true(json_object_get(c, "finished")));
        const char *prompt = json_string_value(json_object_get(c, "prompt"));
        cr_expect(strstr(prompt, "Ben?") && !strstr(prompt, "Problem:"));
        cr_expect(json_is_array(json_object_get(c, "steps")));
    }
    json_decref(all);
}

Test(generate_command, sums_as_json) {
    write_problems();
    cr_assert_eq(
        keystep(out, sizeof out, GENERATE "--out a.jsonl --json --quiet"), 0,
        "%s", out);
    json_t *sums = json_loads(out, 0, NULL), *all = read_lines("a.jsonl");
    cr_assert(sums, "%s", out);
    json_int_t sampled = 0, unfinished = 0;
    for (size_t i = 0; i < json_array_size(all); i++) {
        json_t *c = json_array_get(all, i);
        sampled += json_integer_value(json_object_get(c, "tokens"));
        unfinished += !json_is_true(json_object_get(c, "finished"));
    }
    json_int_t seen[5];
    double seconds = -1;
    cr_assert_eq(json_unpack(sums, "{s:I,s:I,s:I,s:I,s:I,s:F}", "chains",
                             &seen[0], "unfinished", &seen[1], "sampled",
                             &seen[2], "prompt_tokens", &seen[3],
                             "shared_tokens", &seen[4], "seconds", &seconds),
                 0, "%s", out);
    cr_expect_eq(seen[0], 6);
    cr_expect_eq(seen[1], unfinished);
    cr_expect_eq(seen[2], sampled);
    /* The second sample of a problem shares its prompt. */
    cr_expect(seen[4] > 0 && seen[4] < seen[3]);
    cr_expect(seconds > 0);
    cr_expect_eq(keystep(out, sizeof out, GENERATE "--out - --json"), 2);
    json_decref(sums);
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--json --dry-run"), 0);
    sums = json_loads(out, 0, NULL);
    cr_assert_eq(json_unpack(sums, "{s:I,s:I}", "problems", &seen[0],
                             "prompt_tokens", &seen[1]),
                 0, "%s", out);
    cr_expect_eq(seen[0], 3);
    cr_expect_eq(2 * seen[1], seen[3]);
    json_decref(sums);
    json_decref(all);
}

Test(generate_command, same_bytes_whatever_the_batch) {
    write_problems();
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--out a.jsonl"), 0);
    cr_assert_eq(keystep(out, sizeof out,
                         GENERATE "--out b.jsonl --batch-tokens 7 --memory 2M"),
                 0, "%s", out);
    cr_expect_eq(system("exit 0"), 0);
    char command[256];
    snprintf(command, sizeof command, "cd '%s' && cmp a.jsonl b.jsonl", folder);
    cr_expect_eq(system(command), 0, "the files differ");
}

Test(generate_command, resume_takes_over_what_is_there) {
    write_problems();
    char command[512];
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--out a.jsonl"), 0);
    /* Three chains, out of order, and a line that a kill cut. */
    snprintf(command, sizeof command,
             "cd '%s' && { sed -n 5p a.jsonl; sed -n 1,2p a.jsonl; "
             "sed -n 4p a.jsonl | head -c 40; } > b.jsonl.part",
             folder);
    cr_assert_eq(system(command), 0);
    cr_expect_eq(keystep(out, sizeof out, GENERATE "--out b.jsonl"), 1);
    cr_expect(strstr(out, "--resume"), "%s", out);
    cr_expect_eq(
        keystep(out, sizeof out, GENERATE "--top-k 5 --out b.jsonl --resume"),
        1);
    cr_expect(strstr(out, "other settings"), "%s", out);
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--out b.jsonl --resume"), 0,
                 "%s", out);
    snprintf(command, sizeof command,
             "cd '%s' && cmp a.jsonl b.jsonl && ! test -e b.jsonl.part",
             folder);
    cr_expect_eq(system(command), 0, "the files differ");
}

static void shell(const char *line) {
    char command[1024];
    snprintf(command, sizeof command, "cd '%s' && %s", folder, line);
    cr_expect_eq(system(command), 0, "%s", line);
}

/* An OUT that is there is this run's, or it is refused, and stays. */
Test(generate_command, resume_leaves_what_is_whole) {
    static const struct {
        const char *options, *words;
    } bad[] = {
        {"--seed 4", "a.jsonl line 1 was sampled with other settings: seed is "
                     "4 here and 3 there; --force overwrites it"},
        {"--temperature 2", "temperature is 2.0 here and 1.0 there"},
        {"--samples 3", "is whole with 6 of the 9 chains"},
        {"--samples 1", "sample 1 of 0 to 0"},
        {"--instruction Say", "was sampled from another prompt"},
    };
    char line[256];
    write_problems();
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--out a.jsonl"), 0, "%s",
                 out);
    shell("cp a.jsonl kept && stat -c '%i %Y' a.jsonl > was");
    cr_expect_eq(keystep(out, sizeof out, GENERATE "--out a.jsonl --resume"),
                 0);
    cr_expect(strstr(out, "a.jsonl is already whole"), "%s", out);
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        snprintf(line, sizeof line, GENERATE "--out a.jsonl --resume %s",
                 bad[i].options);
        cr_expect_eq(keystep(out, sizeof out, line), 1, "%s", out);
        cr_expect(strstr(out, bad[i].words), "%s", out);
    }
    shell("stat -c '%i %Y' a.jsonl | cmp - was && cmp a.jsonl kept && "
          "! test -e a.jsonl.part && ! test -e a.jsonl.lock");
    cr_expect_eq(keystep(out, sizeof out,
                         GENERATE "--out a.jsonl --resume --force --seed 4"),
                 0, "%s", out);
    shell("! cmp -s a.jsonl kept");
    /* of an interrupted run with another prompt nothing is taken over */
    shell("head -n 2 kept > b.jsonl.part");
    cr_expect_eq(keystep(out, sizeof out,
                         GENERATE
                         "--instruction Say --out b.jsonl --resume --force"),
                 1);
    cr_expect(strstr(out, "another prompt") &&
                  strstr(out, "--force without --resume starts afresh"),
              "%s", out);
}

/* Two runs write one OUT: the second is told whose it is. */
Test(generate_command, one_process_writes) {
    write_problems();
    cr_assert_eq(keystep(out, sizeof out,
                         GENERATE
                         "--samples 4000 --out a.jsonl & p=$!; until "
                         "[ -s a.jsonl.part ]; do sleep 0.01; done; " KS_PROGRAM
                         " " GENERATE "--out ./a.jsonl --force; echo code $?; "
                         "kill -INT $p; wait $p; echo then $?"),
                 0, "%s", out);
    cr_expect(strstr(out, "./a.jsonl is being written by process "), "%s", out);
    cr_expect(strstr(out, "code 1") && strstr(out, "then 130"), "%s", out);
    shell("test -s a.jsonl.part && ! test -e a.jsonl.lock");
}

Test(generate_command, refusals) {
    write_problems();
    cr_expect_eq(keystep(out, sizeof out, "generate --model $M"), 2);
    cr_expect_eq(keystep(out, sizeof out, GENERATE "--out a --template x"), 2);
    cr_expect(strstr(out, "chatml"), "%s", out);
    cr_expect_eq(keystep(out, sizeof out, GENERATE "--out problems.jsonl"), 2);
    cr_expect(strstr(out, "problems.jsonl"), "%s", out);
    cr_expect_eq(keystep(out, sizeof out,
                         "generate --model /nowhere --problems problems.jsonl "
                         "--out x"),
                 1);
    cr_expect(strstr(out, "/nowhere"), "%s", out);
}

Test(generate_command, split_keeps_other_fields) {
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

/* The chain rule, and an error that does not stop the lines after it. */
Test(generate_command, score) {
    char path[128];
    snprintf(path, sizeof path, "%s/in.jsonl", folder);
    FILE *file = fopen(path, "w");
    fputs("{\"context\":\"How many coins\",\"continuation\":\" has Ben?\"}\n"
          "{\"context\":\"How many coins has\",\"continuation\":\" Ben?\"}\n"
          "{\"context\":3}\n"
          "{\"context\":\"How many\",\"continuation\":\"\"}\n",
          file);
    fclose(file);
    cr_assert_eq(keystep(out, sizeof out,
                         "score --model $M --threads 1 < in.jsonl > o.jsonl"),
                 1, "%s", out);
    json_t *all = read_lines("o.jsonl");
    cr_assert_eq(json_array_size(all), 4);
    json_t *a = json_object_get(json_array_get(all, 0), "logprobs");
    json_t *b = json_object_get(json_array_get(all, 1), "logprobs");
    size_t n = json_array_size(a), m = json_array_size(b);
    cr_assert(n > m && m > 0);
    for (size_t i = 0; i < m; i++) {
        double x = json_real_value(json_array_get(a, n - m + i));
        cr_expect(x < 0);
        cr_expect_eq(x, json_real_value(json_array_get(b, i)));
    }
    cr_expect(json_object_get(json_array_get(all, 2), "error"));
    cr_expect_eq(
        json_array_size(json_object_get(json_array_get(all, 3), "ids")), 0);
    json_decref(all);
}

/* A copy of the model in which the embedding of the digit 7 is NaN; it is also
 * a row of the head, so that no logits are finite. */
static void spoil_model(void) {
    char path[160];
    ks_tokenizer *tokenizer = NULL;
    ks_tokens tokens = {0};
    snprintf(path, sizeof path, "cp -r '%s' '%s/bad'", MODEL, folder);
    cr_assert_eq(system(path), 0);
    cr_assert_eq(ks_tokenizer_open(&tokenizer, MODEL, NULL), KS_OK);
    cr_assert_eq(ks_tokenize(tokenizer, "has 7", 5, &tokens, NULL), KS_OK);
    cr_assert_geq(tokens.n, 1);
    snprintf(path, sizeof path, "%s/bad/model.safetensors", folder);
    FILE *file = fopen(path, "r+b");
    uint64_t length = 0;
    cr_assert(file && fread(&length, 8, 1, file) == 1);
    char *head = calloc(length + 1, 1);
    cr_assert_eq(fread(head, 1, length, file), length);
    json_t *tensors = json_loads(head, 0, NULL);
    json_t *embed = json_object_get(tensors, "model.embed_tokens.weight");
    json_int_t rows, width, begin, end;
    cr_assert_eq(json_unpack(embed, "{s[II],s[II]}", "shape", &rows, &width,
                             "data_offsets", &begin, &end),
                 0);
    long row = (long)((end - begin) / rows);
    fseek(file, 8 + (long)length + begin + row * tokens.ids[tokens.n - 1],
          SEEK_SET);
    for (long i = 0; i < row; i++) putc(0xff, file);
    fclose(file);
    free(head);
    json_decref(tensors);
    ks_tokens_free(&tokens);
    ks_tokenizer_close(&tokenizer);
}

/* The problem and the line are named, not a place in a batch. */
Test(generate_command, values_that_are_not_finite) {
    char path[128];
    spoil_model();
    snprintf(path, sizeof path, "%s/q.jsonl", folder);
    FILE *file = fopen(path, "w");
    fputs("{\"id\":\"poor\",\"question\":\"Ada has 7 coins.\"}\n"
          "{\"id\":\"good\",\"question\":\"Ada has 3 coins.\"}\n",
          file);
    fclose(file);
    cr_expect_eq(keystep(out, sizeof out,
                         "generate --model bad --problems q.jsonl --out x "
                         "--max-new 4 --quiet --threads 1"),
                 1);
    cr_expect(strstr(out, "problem poor: resid layer 0"), "%s", out);
    snprintf(path, sizeof path, "%s/in.jsonl", folder);
    file = fopen(path, "w");
    fputs("{\"context\":\"Ada has\",\"continuation\":\" 3 coins.\"}\n"
          "{\"context\":\"Ada has\",\"continuation\":\" 7 coins.\"}\n",
          file);
    fclose(file);
    cr_expect_eq(keystep(out, sizeof out,
                         "score --model bad --threads 1 < in.jsonl > o.jsonl"),
                 1);
    json_t *all = read_lines("o.jsonl");
    static const char *const words[] = {"line 1: the log-probabilities of its",
                                        "line 2: resid layer 0"};
    for (size_t i = 0; i < 2; i++) {
        const char *why =
            json_string_value(json_object_get(json_array_get(all, i), "error"));
        cr_expect(why && strstr(why, words[i]), "%s", why);
    }
    json_decref(all);
}

#endif
