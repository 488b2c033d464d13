/* keystep label --dry-run: what it says ahead against what the run counts, by
 * every option that asks the model for more. */
#include <jansson.h>

#include "shell.h"

#ifdef KS_PROGRAM

#define HERE KS_TEST_DATA "/../../experiments/demo-labels/"
#define LABEL                                                                  \
    KS_PROGRAM " label --quiet --json --force --out l --clean k --model " HERE \
               "model --problems p --chains "

static char folder[64], text[1 << 16];
static const char *chains = "c";

static void make_folder(void) {
    const char *few = getenv("KS_UNDER_SANITIZER") ? "3" : "12";
    char line[512];
    make_temporary(folder, "label-cost");
    cr_assert(chdir(folder) == 0);
    snprintf(line, sizeof line,
             "head -n %s " HERE "problems.jsonl > p && " KS_PROGRAM
             " generate --quiet --instruction= --model " HERE
             "model --problems p --out c 2>&1 && head -n 6 c > half",
             few);
    cr_assert_eq(shell_run(line, text, sizeof text), 0, "%s", text);
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(label_cost, .init = make_folder, .fini = drop_folder);

static json_t *run(const char *options, const char *more) {
    char line[1024];
    snprintf(line, sizeof line, LABEL "%s %s %s", chains, options, more);
    cr_assert_eq(shell_run(line, text, sizeof text), 0, "%s: %s", line, text);
    json_t *said = json_loads(text, 0, NULL);
    cr_assert(said, "%s: %s", line, text);
    return said;
}

static double number(const json_t *object, const char *name) {
    const json_t *value = json_object_get(object, name);
    cr_assert(json_is_number(value), "no %s", name);
    return json_number_value(value);
}

static double ahead(const char *options, const char *name) {
    json_t *cost = run(options, "--dry-run");
    double value = number(cost, name);
    json_decref(cost);
    return value;
}

static const char *const ways[] = {"",
                                   "--sufficiency exact",
                                   "--method random",
                                   "--method curve",
                                   "--rollouts 2 --max-new 200",
                                   "--method suppression",
                                   "--subsets 7 --all-prefixes"};

/* All of these chains are labelled. Under a sanitizer the slow runs say nothing
 * that others do not. */
Test(label_cost, is_within_a_factor_of_two) {
    size_t n = getenv("KS_UNDER_SANITIZER") ? 0 : KS_COUNT(ways);
    for (size_t i = 0; i < n; i++) {
        /* a curve costs little, and few of them scatter */
        chains = strstr(ways[i], "curve") ? "c" : "half";
        json_t *said = run(ways[i], "--dry-run"), *did = run(ways[i], "");
        double about = number(said, "computed"), is = number(did, "computed");
        cr_expect(about < 2 * is && is < 2 * about, "%s: about %.0f, is %.0f",
                  ways[i], about, is);
        cr_expect(number(said, "least") <= about &&
                      about <= number(said, "most") &&
                      number(said, "filters") <= about &&
                      about < number(said, "alone"),
                  "%s: %s", ways[i], text);
        json_decref(said);
        json_decref(did);
    }
}

/* What asks for more costs more. */
Test(label_cost, knows_every_option) {
    static const char *const more[] = {"--rollouts 2 --max-new 50",
                                       "--rollouts 9 --max-new 50",
                                       "--rollouts 9 --max-new 60",
                                       "--subsets 8",
                                       "--confirm 200",
                                       "--samples 9",
                                       "--orders 9"};
    double plain = ahead("", "alone"), exact = ahead(ways[1], "alone");
    for (size_t i = 0; i < KS_COUNT(more); i++)
        cr_expect_gt(ahead(more[i], "alone"), plain, "%s", more[i]);
    cr_expect_gt(ahead(more[1], "computed"), ahead(more[0], "computed"));
    cr_expect_gt(ahead(more[2], "computed"), ahead(more[1], "computed"));
    cr_expect_lt(ahead("--no-drop", "alone"), plain);
    cr_expect_lt(exact, plain);
    double gradients = ahead("", "influences");
    cr_expect_eq(ahead("--influence integrated", "influences"), 5 * gradients);
    cr_expect_gt(ahead("--suppression", "influences"), gradients);
    cr_expect_eq(ahead("--method random", "influences"), 0);
    cr_expect_gt(ahead("--method random --suppression", "influences"), 0);
}

/* What is asked of the clean chain is not asked where a filter took it. */
Test(label_cost, bounds_what_filters_leave) {
    json_t *said = run("", "--dry-run");
    json_t *did = run("", "--enough 1 --cue ' Say: ' --cue-empty 'Say: '");
    cr_assert_eq(number(did, "labelled"), 0);
    cr_expect_lt(number(did, "computed"), 2 * number(said, "filters"));
    cr_expect_gt(number(did, "computed"), number(said, "filters") / 2);
    json_decref(said);
    json_decref(did);
}

#endif
