/* keystep generate and score as a user runs them, on the embedded demo
 * model. */
#include <math.h>

#include "generate_shell.h"

#ifdef KS_PROGRAM

TestSuite(generate_command, .init = make_folder, .fini = drop_folder);

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
    cr_assert_eq(json_unpack(sums, "{s:I,s:I,s:I,s:I,s:I}", "problems",
                             &seen[0], "prompt_tokens", &seen[1], "chains",
                             &seen[2], "shared_tokens", &seen[4],
                             "most_new_tokens", &sampled),
                 0, "%s", out);
    cr_expect_eq(seen[0], 3);
    cr_expect_eq(seen[1], seen[3]);
    cr_expect_eq(seen[2], 6);
    cr_expect_eq(sampled, 6 * 24);
    /* half is the second samples'; and three questions begin alike */
    cr_expect(seen[4] > seen[3] / 2 && seen[4] < seen[3], "%lld of %lld",
              (long long)seen[4], (long long)seen[3]);
    json_decref(sums);
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--dry-run"), 0);
    cr_expect(strstr(out, "3 problems x 2 samples: 6 chains") &&
                  strstr(out, "at most 144 new tokens, 24 a chain"),
              "%s", out);
    json_decref(all);
}

Test(generate_command, same_bytes_whatever_the_batch) {
    write_problems();
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--out a.jsonl"), 0);
    cr_assert_eq(keystep(out, sizeof out,
                         GENERATE "--out b.jsonl --batch-tokens 7 --memory 2M"),
                 0, "%s", out);
    char command[256];
    snprintf(command, sizeof command, "cd '%s' && cmp a.jsonl b.jsonl", folder);
    cr_expect_eq(system(command), 0, "the files differ");
}

/* One problem that no context holds does not cost the others their chains. */
Test(generate_command, problems_that_do_not_fit_are_left_out) {
    write_problems();
    shell("python3 -c \"print('{\\\"id\\\":\\\"long\\\",\\\"question\\\":"
          "\\\"' + 'Ben has 2 coins. ' * 4000 + '\\\"}')\" >> problems.jsonl; "
          "echo '{\"id\":\"none\",\"question\":\"\"}' >> problems.jsonl");
    expect_said(GENERATE "--template raw --out a.jsonl", 0, "6 chains");
    cr_expect(strstr(out, "1 problem too long for the context (") &&
                  strstr(out, "tokens), left out: long\n"),
              "%s", out);
    cr_expect(strstr(out, "1 problem without a token to read, left out: none"),
              "%s", out);
    shell("test $(wc -l < a.jsonl) = 6");
    cr_assert_eq(keystep(out, sizeof out,
                         GENERATE
                         "--template raw --out b.jsonl --json --quiet"),
                 0);
    json_t *sums = json_loads(out, 0, NULL);
    const char *ids[2];
    json_int_t n[2];
    cr_assert_eq(json_unpack(sums, "{s:I,s:[s],s:[s],s:I}", "chains", &n[0],
                             "too_long", &ids[0], "empty", &ids[1],
                             "without_answer", &n[1]),
                 0, "%s", out);
    cr_expect_str_eq(ids[0], "long");
    cr_expect_str_eq(ids[1], "none");
    cr_expect(n[0] == 6 && n[1] == 0);
    json_decref(sums);
    shell("grep long problems.jsonl > l.jsonl");
    expect_said("generate --model $M --problems l.jsonl --out c.jsonl", 1,
                "l.jsonl: problem long has a prompt of ");
}

Test(generate_command, problems_without_an_answer_are_counted) {
    write_problems();
    shell("sed -i '2s/,\"answer\":\"3\"//' problems.jsonl");
    expect_said(GENERATE "--out a.jsonl", 0,
                "1 problem without an answer: not judged");
    json_t *all = read_lines("a.jsonl");
    for (size_t i = 0; i < 6; i++) {
        json_t *c = json_array_get(all, i);
        bool none = i / 2 == 1;
        cr_expect_eq(json_is_null(json_object_get(c, "correct")), none);
        cr_expect_eq(json_object_get(c, "gold") == NULL, none);
    }
    json_decref(all);
}

Test(generate_command, at_most_8000_new_tokens_by_default) {
    write_problems();
    cr_assert_eq(keystep(out, sizeof out,
                         "generate --model $M --problems problems.jsonl "
                         "--out a.jsonl --threads 1"),
                 0);
    shell("test $(grep -c '\"max_new\":8000,' a.jsonl) = 3");
    expect_said("generate --help", 0, "8000");
}

/* Where standard error is no terminal: a rate of tokens, how long it took. */
Test(generate_command, progress_without_a_terminal) {
    write_problems();
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--out a.jsonl"), 0);
    const char *line = strstr(out, "generate: 100%, 6 of 6 chain, ");
    cr_assert(line, "%s", out);
    char *unit;
    double rate =
        strtod(line + strlen("generate: 100%, 6 of 6 chain, "), &unit);
    cr_expect_gt(rate, 0);
    cr_expect(strncmp(unit, " tok/s, 0:", 10) == 0, "%s", line);
    const char *end = strchr(line, '\n');
    cr_expect(end && strncmp(end - 5, " took", 5) == 0,
              "nothing of prompts is left to say: %s", line);
}

Test(generate_command, memory_is_a_number_and_a_unit) {
    static const char *const bad[] = {"'2 '", "'2 G'", "2X", "'2  '"};
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        char args[256];
        snprintf(args, sizeof args, "generate --memory %s --help", bad[i]);
        expect_said(args, 2, "--memory takes bytes such as");
    }
}

/* An OUT that is there is this run's, or it is refused, and stays. */
Test(generate_command, resume_leaves_what_is_whole) {
    static const struct {
        const char *options, *words;
    } bad[] = {
        {"--seed 4", "a.jsonl line 1 was sampled with other settings: \"seed\" "
                     "is 3 there, 4 here; --force starts afresh"},
        {"--temperature 2", "\"temperature\" is 1.0 there, 2.0 here"},
        {"--samples 3", "has 6 of the 9 chains"},
        {"--samples 1", "sample '1' of 0 to 0"},
        {"--instruction Say", "\"instruction\" is"},
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
