/* keystep label on the demo's model: every figure against the method written
 * out again with PyTorch (tests/golden/make_label.py); the same files whatever
 * shares a batch, how often it was stopped, and how; what it says about chains
 * that it cannot label. */
#include <math.h>
#include <signal.h>

#ifdef KS_PROGRAM
#include "label_shell.h"

#define LABEL KEYSTEP_LABEL " --quiet"
/* Enough to share a batch. */
#define SOME " --problems " DATA "problems.jsonl --chains some"

static void make_some(void) {
    make_folder();
    cr_assert(system("head -n 5 " DATA "chains.jsonl > some") == 0);
}

TestSuite(label, .init = make_some, .fini = drop_folder);

static json_t *read_lines(const char *path) {
    json_t *all = json_object();
    FILE *file = fopen(path, "r");
    cr_assert(file, "%s", path);
    for (;;) {
        json_t *line = json_loadf(file, JSON_DISABLE_EOF_CHECK, NULL);
        if (!line) break;
        const char *id = json_string_value(json_object_get(line, "chain"));
        if (!id) id = json_string_value(json_object_get(line, "id"));
        cr_assert(id && !json_object_get(all, id));
        json_object_set_new(all, id, line);
    }
    fclose(file);
    return all;
}

static bool is_close(double a, double b, double relative, double absolute) {
    return fabs(a - b) <= absolute + relative * fabs(b);
}

static void expect_number(const char *chain, const char *name, json_t *got,
                          json_t *want, double tolerance) {
    if (json_is_null(want)) {
        cr_expect(json_is_null(got), "%s: %s is not null", chain, name);
        return;
    }
    double a = json_is_number(got) ? json_number_value(got) : NAN;
    double b = json_number_value(want);
    cr_expect(is_close(a, b, tolerance, tolerance),
              "%s: %s %.9g, expected %.9g", chain, name, a, b);
}

/* want has the searched steps; got one a step of the clean chain, the answer's
 * step last. */
static void expect_list(const char *chain, const char *name, json_t *got,
                        json_t *want, double tolerance) {
    size_t n = json_array_size(want);
    cr_assert(n > 0 && json_array_size(got) > n, "%s: %s", chain, name);
    for (size_t i = 0; i < json_array_size(got); i++)
        if (i < n)
            expect_number(chain, name, json_array_get(got, i),
                          json_array_get(want, i), tolerance);
        else
            cr_expect(json_is_null(json_array_get(got, i)), "%s: %s", chain,
                      name);
}

static void expect_labels(const char *chain, json_t *got, json_t *want) {
    static const char *const exact[] = {"prefix", "threshold", "selected",
                                        "core"};
    static const char *const close[] = {"necessity", "sufficiency_all",
                                        "ppl_all", "ppl_answer"};
    static const char *const scores[] = {"influence", "direct", "drop"};
    cr_assert(got, "%s has no labels", chain);
    for (size_t i = 0; i < KS_COUNT(exact); i++)
        expect_number(chain, exact[i], json_object_get(got, exact[i]),
                      json_object_get(want, exact[i]), 0);
    for (size_t i = 0; i < KS_COUNT(close); i++)
        expect_number(chain, close[i], json_object_get(got, close[i]),
                      json_object_get(want, close[i]), 3e-4);
    expect_list(chain, "labels", json_object_get(got, "labels"),
                json_object_get(want, "labels"), 0);
    json_t *mine = json_object_get(got, "scores");
    for (size_t i = 0; i < KS_COUNT(scores); i++)
        expect_list(chain, scores[i], json_object_get(mine, scores[i]),
                    json_object_get(want, scores[i]), 1e-3);
}

Test(label, equals_the_method_written_again) {
    run(LABEL INPUT " --sufficiency exact --orders 0 --out l --clean k", 0);
    json_t *want = json_load_file(DATA "golden.json", 0, NULL);
    json_t *got = read_lines("l"), *clean = read_lines("k");
    size_t labelled = 0;
    const char *chain;
    json_t *one;
    cr_assert(want);
    json_object_foreach(want, chain, one) {
        json_t *mine = json_object_get(got, chain);
        if (json_object_get(one, "skip")) {
            cr_expect(!mine, "%s is labelled", chain);
            continue;
        }
        labelled++;
        expect_labels(chain, mine, one);
        cr_expect(json_equal(
                      json_object_get(json_object_get(clean, chain), "removed"),
                      json_object_get(one, "cut")),
                  "%s: other steps were cut", chain);
    }
    cr_expect_geq(labelled, 8);
    cr_expect_eq(labelled, json_object_size(got));
    cr_expect_eq(labelled, json_object_size(clean));
    json_decref(want);
    json_decref(got);
    json_decref(clean);
}

/* Neither threads, nor batches, nor memory show in the files; a seed does. */
Test(label, bits_depend_on_chains_and_seed) {
    run(LABEL SOME " --rollouts 3 --max-new 120 --out a --clean ka", 0);
    run(LABEL SOME " --rollouts 3 --max-new 120 --out b --clean kb --threads 1"
                   " --batch-tokens 48 --memory 80M",
        0);
    cr_expect(same_files("a", "b"));
    cr_expect(same_files("ka", "kb"));
    run(LABEL SOME " --rollouts 3 --max-new 120 --out c --clean kc --seed 7",
        0);
    cr_expect(!same_files("a", "c"));
    /* a chain alone */
    run("head -n 1 " DATA "chains.jsonl > one", 0);
    run(LABEL " --problems " DATA "problems.jsonl --chains one --rollouts 3"
              " --max-new 120 --out d --clean kd",
        0);
    run("head -n 1 a | cmp - d", 0);
}

/* Stopped by a signal or killed, as often as it takes. */
Test(label, resumes_to_the_same_files) {
    static const char *const signals[] = {"INT", "KILL", "TERM", "KILL"};
    run(LABEL SOME " --out a --clean ka", 0);
    for (size_t i = 0; i < KS_COUNT(signals); i++) {
        char line[1024];
        snprintf(line, sizeof line,
                 "timeout -s %s 0.%zu " LABEL SOME
                 " --out b --clean kb --resume --threads 1",
                 signals[i], i + 2);
        int code = shell_run(line, text, sizeof text);
        cr_expect(code != 1 && code != 2, "exit code %d", code);
        /* a signal may come when all is written */
        cr_expect(code == 0 || access("b", F_OK) != 0 || same_files("a", "b"),
                  "half a file");
    }
    /* a line that a kill cut */
    if (access("b.part", F_OK) == 0)
        run("printf '{\"chain\":\"a0' >> b.part", 0);
    run(LABEL SOME " --out b --clean kb --resume", 0);
    cr_expect(same_files("a", "b") && same_files("ka", "kb"));
    cr_expect(access("b.part", F_OK) != 0);
}

Test(label, refuses_what_is_left_of_other_settings) {
    run(LABEL SOME " --out a --clean ka --threads 1 --rollouts 90 & p=$!;"
                   " until [ -s a.part ]; do sleep 0.01; done;"
                   " kill -INT $p; wait $p; test $? = 130 -a -e a.part",
        0);
    run(LABEL SOME " --out a --clean ka", 1);
    cr_expect(strstr(text, "--resume continues it"), "%s", text);
    run(LABEL SOME " --out a --clean ka --resume --seed 9", 1);
    cr_expect(strstr(text, "begun with other settings"), "%s", text);
    run("sed '1s/Now/Then/' some > other", 0);
    run(LABEL " --problems " DATA "problems.jsonl --chains other --rollouts 90"
              " --out a --clean ka --resume",
        1);
    cr_expect(strstr(text, "begun with other inputs"), "%s", text);
    run(LABEL SOME " --out a --clean ka --force --seed 9", 0);
    run(LABEL SOME " --out a --clean ka", 1);
    cr_expect(strstr(text, "exists"), "%s", text);
}

static void write_long(const char *path) {
    enum { STEPS = 2999 };
    static const char step[] = "It goes on and on. ";
    FILE *file = fopen(DATA "chains.jsonl", "r");
    cr_assert(file);
    json_t *chain = json_loadf(file, JSON_DISABLE_EOF_CHECK, NULL);
    fclose(file);
    ks_str whole = {0};
    ks_err err = {0};
    for (int i = 0; i < STEPS; i++)
        cr_assert_eq(ks_str_add(&whole, step, sizeof step - 1, &err), KS_OK);
    const char *end = json_string_value(json_object_get(chain, "text"));
    cr_assert_eq(ks_str_add(&whole, end, strlen(end), &err), KS_OK);
    json_object_set_new(chain, "text", json_string(whole.data));
    json_object_del(chain, "steps");
    cr_assert_eq(json_dump_file(chain, path, JSON_COMPACT), 0);
    ks_str_free(&whole);
    json_decref(chain);
}

/* Every way not to be labelled is counted by name. */
Test(label, says_what_it_leaves_out) {
    FILE *file = fopen("p", "w");
    fputs("{\"id\":\"n\",\"question\":\"?\",\"answer\":\"3\"}\n"
          "{\"id\":\"none\",\"question\":\"?\"}\n",
          file);
    fclose(file);
    file = fopen("c", "w");
#define CHAIN(id, problem, text, more)                                         \
    "{\"id\":\"" id "\",\"problem\":\"" problem                                \
    "\",\"prompt\":\"<|im_start|>user\\nQ?<|im_end|>\\n\",\"text\":\"" text    \
    "\"" more "}\n"
    fputs(CHAIN("none/0", "none", "One step of a chain.",
                "") CHAIN("n/0", "n", "One step of a chain.",
                          ",\"finished\":false") CHAIN("n/1", "n", "", "")
              CHAIN("n/2", "n", "So it is \\\\boxed{4}.", "")
                  CHAIN("n/3", "n", "One step of a chain.", "")
                      CHAIN("n/4", "n", "So it is \\\\boxed{3}.", "")
                          CHAIN("n/5", "n",
                                "Some words without an end then 3 words", ""),
          file);
    fclose(file);
    run(KS_PROGRAM " label --model " MODEL
                   " --problems p --chains c --out l --clean k",
        0);
    static const char *const words[] = {
        "1 chains without an answer to the problem",
        "1 chains unfinished",
        "1 chains without steps",
        "1 chains with a wrong answer",
        "1 chains whose answer no step states",
        "2 chains of a single step",
        "0 of 7 chains labelled"};
    for (size_t i = 0; i < KS_COUNT(words); i++)
        cr_expect(strstr(text, words[i]), "'%s' lacks '%s'", text, words[i]);
    /* 3,000 steps, beyond the demo model's context */
    write_long("long");
    run(KS_PROGRAM " label --model " MODEL " --problems " DATA
                   "problems.jsonl --chains long --out ll --clean kl",
        0);
    cr_expect(strstr(text, "1 chains too long for the context"), "%s", text);
    /* bytes that are no UTF-8 are named, and nothing is made */
    run("printf '{\"id\":\"x\",\"problem\":\"n\",\"prompt\":\"\","
        "\"text\":\"a\\377\"}\\n' > bad",
        0);
    run(LABEL " --problems p --chains bad --out m --clean km", 1);
    cr_expect(strstr(text, "bad line 1"), "%s", text);
    run(LABEL " --problems p --chains c --out m --clean km --method external",
        2);
    cr_expect(strstr(text, "--ranking"), "%s", text);
    run("sed s/\\\"n\\\"/\\\"z\\\"/ c > other", 0);
    run(LABEL " --problems p --chains other --out m --clean km", 1);
    cr_expect(strstr(text, "problem z is not in p"), "%s", text);
    cr_expect(access("m", F_OK) != 0 && access("m.part", F_OK) != 0);
}

#endif
