/* keystep label on what nobody would call a chain: no answers, blank ones, long
 * cues, hundreds of tiny steps in little memory. */
#include <stdlib.h>

#ifdef KS_PROGRAM
#include "label_shell.h"

#define LABEL KS_PROGRAM " label --quiet --out l --clean k --model "

TestSuite(label_odd, .init = make_folder, .fini = drop_folder);

/* How many of the chains that the reason in the summary names. */
static size_t skipped(const char *reason) {
    json_t *summary = json_loads(text, 0, NULL);
    cr_assert(summary, "%s", text);
    json_t *all = json_object_get(summary, "skipped");
    size_t n = json_array_size(json_object_get(all, reason));
    json_decref(summary);
    return n;
}

/* No chain can be asked about: none is. */
Test(label_odd, no_problem_has_an_answer) {
    run("sed 's/, \"answer\": \"[^\"]*\"//' " DATA "problems.jsonl > p", 0);
    run(LABEL MODEL " --json --chains " DATA "chains.jsonl --problems p", 0);
    cr_expect_gt(skipped("without an answer to the problem"), 3);
    run("wc -c < l", 0);
    cr_expect_eq(atoi(text), 0);
}

Test(label_odd, blank_answers_are_none) {
    run("sed '1s/\"answer\": \"[^\"]*\"/\"answer\": \" \"/' " DATA
        "problems.jsonl > p",
        0);
    run("head -n 3 " DATA "chains.jsonl > c", 0);
    run(LABEL MODEL " --json --chains c --problems p", 0);
    cr_expect_eq(skipped("without an answer to the problem"), 1, "%s", text);
}

/* Models that open no thinking close none; one that was opened must be. */
Test(label_odd, thinking_that_nothing_opened) {
    static const struct {
        const char *edit;
        size_t unfinished;
    } cases[] = {{"s/\"closed\":true/\"closed\":false/", 1},
                 {"s/x/x/", 0},
                 {"s/\"closed\":true/\"closed\":false/;s/<think>//", 0},
                 {"s/\"finished\":true/\"finished\":false/;s/<think>//", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[256];
        snprintf(line, sizeof line, "head -n 1 %s | sed '%s' > c",
                 DATA "chains.jsonl", cases[i].edit);
        run(line, 0);
        run(LABEL MODEL " --force --json --chains c --problems " DATA
                        "problems.jsonl",
            0);
        cr_expect_eq(skipped("unfinished"), cases[i].unfinished, "%s: %s",
                     cases[i].edit, text);
    }
}

/* A cue for no steps at all that is longer than chains are. */
Test(label_odd, a_long_cue) {
    run("head -n 1 " DATA "chains.jsonl > c", 0);
    run(LABEL MODEL " --chains c --problems " DATA
                    "problems.jsonl --cue-empty \"$(yes word | head -n 150 |"
                    " tr '\\n' ' ')\\boxed{\"",
        0);
}

enum { STEPS = 300 };

/* As many steps of three bytes in front of the first chain's. */
static void write_tiny_steps(const char *path) {
    FILE *file = fopen(DATA "chains.jsonl", "r");
    cr_assert(file);
    json_t *chain = json_loadf(file, JSON_DISABLE_EOF_CHECK, NULL);
    fclose(file);
    const char *end = json_string_value(json_object_get(chain, "text"));
    char *whole = malloc(3 * STEPS + strlen(end) + 1);
    json_t *steps = json_array();
    for (int i = 0; i < STEPS; i++) {
        strcpy(whole + 3 * i, "a. ");
        json_array_append_new(
            steps, json_pack("{s:i,s:i}", "begin", 3 * i, "end", 3 * i + 3));
    }
    strcpy(whole + 3 * STEPS, end);
    json_array_append_new(steps,
                          json_pack("{s:i,s:i}", "begin", 3 * STEPS, "end",
                                    3 * STEPS + (int)strlen(end)));
    json_object_set_new(chain, "text", json_string(whole));
    json_object_set_new(chain, "steps", steps);
    cr_assert_eq(json_dump_file(chain, path, JSON_COMPACT), 0);
    free(whole);
    json_decref(chain);
}

/* Beyond the demo model's context, in a store that holds the chain and little
 * more: the same figures as without a limit. */
Test(label_odd, many_tiny_steps_in_little_memory) {
    write_tiny_steps("c");
    run("cp -r " MODEL " m && sed -i -E "
        "'s/(\"max_position_embeddings\": *)[0-9]+/\\13000/' m/config.json",
        0);
#define CURVE                                                                  \
    LABEL "m --method curve --sufficiency exact --chains c --problems " DATA   \
          "problems.jsonl --no-drop --force"
    run(CURVE " && mv l want", 0);
    run(CURVE " --memory 24M && cmp l want", 0);
    run(CURVE " --memory 3M", 1);
    cr_expect(strstr(text, "keys and values"), "%s", text);
}

#endif
