/* keystep probe --dry-run as a user calls it: what it counts is what a run then
 * says, what a run would refuse is refused, and nothing is written. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "fixture.h"
#include "shell.h"

#ifdef KS_PROGRAM

static fixture f;

static void setup(void) {
    fixture_make(&f);
    ks_err err = {0};
    cr_assert(write_acts(&f, f.other, 1u << KS_MEAN, &err) == KS_OK);
}

static void teardown(void) {
    fixture_free(&f);
}

TestSuite(probe_dry, .init = setup, .fini = teardown, .timeout = 300);

/* A shell line in the folder; $P is the whole command but for --out. */
static int run(const char *line) {
    char command[2048], out[64];
    snprintf(command, sizeof command,
             "cd %s; P='%s probe --acts acts.h5 --labels labels.jsonl --chains "
             "chains.jsonl --quiet --bootstrap 100 --strengths 0.01,1 --folds "
             "3 --seeds 2 --baseline-acts same=other.h5'; %s",
             f.dir, KS_PROGRAM, line);
    return shell_run(command, out, sizeof out);
}

static void expect(const char *line) {
    cr_expect(eq(int, run(line), 0), "%s", line);
}

static json_t *read_json(const char *name) {
    char path[160];
    json_error_t why;
    snprintf(path, sizeof path, "%s/%s", f.dir, name);
    json_t *got = json_load_file(path, 0, &why);
    cr_assert(got != NULL, "%s: %s", path, why.text);
    return got;
}

static long long number(const json_t *of, const char *key) {
    const json_t *at = json_object_get(of, key);
    bool whole = json_is_integer(at);
    cr_assert(whole, "%s", key);
    return json_integer_value(at);
}

/* -------------------------------------------------------------------- counts
 */

static void expect_counts(const char *options) {
    char line[512];
    snprintf(line, sizeof line, "rm -rf o; $P %s --dry-run --json >dry.json",
             options);
    cr_assert(eq(int, run(line), 0), "%s", line);
    snprintf(line, sizeof line, "$P %s --out o >/dev/null", options);
    cr_assert(eq(int, run(line), 0), "%s", line);
    json_t *dry = read_json("dry.json"), *made = read_json("o/summary.json");
    const json_t *rows = json_object_get(made, "rows"), *series;
    size_t k, cells = 0;
    json_array_foreach(json_object_get(made, "probes"), k, series) cells +=
        json_array_size(json_object_get(series, "layers"));
    cr_expect(eq(llong, number(dry, "rows"), number(rows, "steps")));
    cr_expect(eq(llong, number(dry, "chains"), number(rows, "chains")));
    cr_expect(eq(llong, number(dry, "problems"), number(rows, "problems")));
    cr_expect(eq(llong, number(dry, "fits"), number(made, "fits")));
    cr_expect(eq(llong, number(dry, "cells"), (long long)cells));
    cr_expect(
        eq(llong, number(dry, "baselines"),
           (long long)json_array_size(json_object_get(made, "baselines"))));
    /* rivals and analyses are told apart by the dry run alone */
    cr_expect(number(dry, "rival_fits") > 0);
    cr_expect(number(dry, "rival_fits") < number(made, "other_fits"));
    json_decref(dry);
    json_decref(made);
}

Test(probe_dry, counts_are_those_of_the_run) {
    expect_counts("");
    expect_counts("--positions mean --layers 1-2 --no-text --analyses none");
    expect_counts("--inner-folds 2 --analyses learning-curve,selectivity");
}

/* What it says of fits behind the grid is the least of them. */
Test(probe_dry, later_fits_are_at_most_those_made) {
    static const char *const each[] = {"selectivity", "learning-curve",
                                       "surface"};
    expect("$P --no-text --analyses none --dry-run --json >dry.json && "
           "$P --no-text --analyses none --out none >/dev/null");
    json_t *dry = read_json("dry.json"), *made = read_json("none/summary.json");
    long long before = number(dry, "later_fits"),
              without = number(made, "other_fits");
    json_decref(dry);
    json_decref(made);
    for (size_t i = 0; i < KS_COUNT(each); i++) {
        char line[256];
        snprintf(line, sizeof line,
                 "rm -rf o; $P --no-text --analyses %s --dry-run --json "
                 ">dry.json && $P --no-text --analyses %s --out o >/dev/null",
                 each[i], each[i]);
        expect(line);
        dry = read_json("dry.json"), made = read_json("o/summary.json");
        long long said = number(dry, "later_fits") - before,
                  were = number(made, "other_fits") - without;
        cr_expect(said > 0 && said <= were && 2 * said >= were,
                  "%s: said %lld, made %lld", each[i], said, were);
        json_decref(dry);
        json_decref(made);
    }
}

/* --------------------------------------------------------------------- files
 */

Test(probe_dry, nothing_is_written) {
    expect("b=$(ls -lR --time-style=full-iso) && $P --dry-run >/dev/null && "
           "$P --dry-run --out o --cells c >/dev/null && "
           "$P --dry-run --cells c --shard 1/2 --json >/dev/null && "
           "test \"$b\" = \"$(ls -lR --time-style=full-iso)\" && "
           "test ! -e o && test ! -e c");
    /* nor is a file that stands in the way of a run touched, or told of */
    expect("mkdir o && echo mine >o/table.md && $P --out o --dry-run "
           ">/dev/null && test \"$(cat o/table.md)\" = mine && "
           "test $(ls o | wc -l) = 1");
}

Test(probe_dry, cells_that_are_there_are_counted) {
    static const char options[] = "--probes mlp-layer:4 --analyses none";
    char line[512];
    snprintf(line, sizeof line,
             "$P %s --cells c --shard 1/2 >/dev/null && "
             "touch -d '3 days ago' c/$(ls c | head -1).77.new && "
             "$P %s --cells c --dry-run --json >dry.json && "
             "ls c | grep -q 'new$' && rm c/*.new",
             options, options);
    expect(line);
    json_t *dry = read_json("dry.json");
    long long there = number(dry, "stored_there"), all = number(dry, "stored"),
              left = number(dry, "cells_left"), cells = number(dry, "cells");
    json_decref(dry);
    snprintf(line, sizeof line, "test $(ls c | wc -l) = %lld", there);
    expect(line);
    cr_expect(there > 0 && there < all && left > 0 && left < 2 * cells);
    snprintf(line, sizeof line,
             "$P %s --cells c --out o >/dev/null && test $(ls c | wc -l) = "
             "%lld && $P %s --cells c --dry-run --json >dry.json && "
             "$P %s --cells c --dry-run | grep -q '^stored  *%lld of %lld'",
             options, all, options, options, all, all);
    expect(line);
    dry = read_json("dry.json");
    cr_expect(eq(llong, number(dry, "cells_left"), 0));
    cr_expect(eq(llong, number(dry, "read_bytes"), 0));
    json_decref(dry);
    /* what a share would make */
    expect("$P --analyses none --cells d --shard 2/2 --dry-run --json "
           ">dry.json && $P --analyses none --cells d --shard 2/2 --json "
           ">made.json");
    dry = read_json("dry.json");
    json_t *made = read_json("made.json");
    cr_expect(eq(llong, number(dry, "cells_left"), number(made, "made")));
    cr_expect(eq(llong, number(dry, "later_fits"), 0));
    json_decref(dry);
    json_decref(made);
}

/* -------------------------------------------------------------------- errors
 */

Test(probe_dry, what_a_run_refuses_is_refused) {
    static const struct {
        const char *options, *said;
        int code;
    } wrong[] = {{"--memory 1k", "need at least", 1},
                 {"--memory 1k --no-text --analyses none", "need at least", 1},
                 {"--streams mlp", "has no activations of stream mlp", 2},
                 {"--layers 9", "layer", 2},
                 {"--inner-folds 3", "at most one less", 2},
                 {"--probes attention", "tokens", 2},
                 {"--need-cells --cells none", "none: ", 1},
                 {"--cells labels.jsonl", "not a folder", 1},
                 {"--baseline-acts none=none.h5", "none.h5", 1}};
    for (size_t i = 0; i < KS_COUNT(wrong); i++) {
        char line[512];
        snprintf(line, sizeof line,
                 "$P %s --dry-run >out 2>said; test $? = %d && "
                 "test ! -s out && grep -q -- '%s' said",
                 wrong[i].options, wrong[i].code, wrong[i].said);
        cr_expect(eq(int, run(line), 0), "%s", line);
    }
    cr_expect(eq(int, run("$P 2>/dev/null"), 2), "--out is missing");
}

#endif
