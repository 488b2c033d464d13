/* keystep label says nothing that it did not measure: curves, chains of which
 * greedy removal took nothing, steps that were cut, and what is wrong with an
 * option. */
#ifdef KS_PROGRAM
#include "label_shell.h"

#define LABEL KEYSTEP_LABEL " --force --out l --clean k "
#define PROMPT "<|im_start|>user\\nQ?<|im_end|>\\n"

TestSuite(label_said, .init = make_folder, .fini = drop_folder);

static json_t *read_lines(const char *path) {
    json_t *all = json_array();
    FILE *file = fopen(path, "r");
    cr_assert(file, "%s", path);
    for (json_t *line; (line = json_loadf(file, JSON_DISABLE_EOF_CHECK, NULL));)
        json_array_append_new(all, line);
    fclose(file);
    return all;
}

static json_int_t whole(const json_t *line, const char *name) {
    const json_t *value = json_object_get(line, name);
    cr_assert(json_is_integer(value), "no %s", name);
    return json_integer_value(value);
}

/* Of the whole chain its sufficiency is known, of the rest nothing. */
Test(label_said, a_curve_is_all_that_was_measured) {
    static const char *const unknown[] = {
        "necessity", "ppl_all",  "ppl_answer", "prefix",
        "threshold", "selected", "core",       "confirmed"};
    run(LABEL INPUT " --method curve", 0);
    expect_said("13 of 14 chains with curves");
    cr_expect(!strstr(text, "labelled") && !strstr(text, "important"), "%s",
              text);
    json_t *lines = read_lines("l"), *line;
    size_t i;
    json_array_foreach(lines, i, line) {
        for (size_t k = 0; k < KS_COUNT(unknown); k++)
            cr_expect(json_is_null(json_object_get(line, unknown[k])), "%s",
                      unknown[k]);
        json_t *curve =
            json_object_get(json_object_get(line, "scores"), "sufficiency");
        json_t *last = json_array_get(curve, json_array_size(curve) - 1);
        cr_expect(json_is_real(last));
        cr_expect(json_equal(json_object_get(line, "sufficiency_all"), last));
    }
    cr_expect_eq(json_array_size(lines), 13);
    json_decref(lines);
    run(LABEL INPUT " --quiet --json --method curve", 0);
    json_t *said = json_loads(text, 0, NULL);
    cr_expect_eq(whole(said, "curves"), 13);
    cr_expect_eq(whole(said, "labelled"), 0);
    json_decref(said);
}

/* The published code drops the chains of which greedy removal took nothing,
 * however much the selection had left out. (Its prefixes of fewer than ten
 * steps go as well, so these chains are long.) */
Test(label_said, keep_drops_what_greedy_removal_left_alone) {
    static const char here[] = KS_TEST_DATA "/../../experiments/demo-labels/";
    char line[1024];
    snprintf(line, sizeof line,
             "grep -E '\"steps\": *1[1-4]' %sproblems.jsonl | head -n 6 > "
             "p; " KS_PROGRAM " generate --quiet --instruction= --model %smodel"
             " --problems p --out c",
             here, here);
    run(line, 0);
    snprintf(line, sizeof line,
             KS_PROGRAM " label --quiet --json --problems p --chains c --orders"
                        " 0 --confirm 0 --model %smodel --out %%s --clean %%s",
             here);
    char plain[1200], keep[1200];
    snprintf(plain, sizeof plain, line, "a", "ka");
    snprintf(keep, sizeof keep, line, "b --compat=keep", "kb");
    run(plain, 0);
    run(keep, 0);
    json_t *all = read_lines("a"), *kept = read_lines("b"), *one;
    size_t i, expected = 0, selected = 0;
    json_array_foreach(all, i, one) {
        json_int_t core = whole(one, "core"), start = whole(one, "selected");
        bool fits = whole(one, "prefix") >= 10;
        expected += fits && core < start;
        selected += fits && core == start && start < whole(one, "searched");
    }
    cr_assert_gt(expected, 0);
    cr_assert_gt(selected, 0);
    cr_expect_eq(json_array_size(kept), expected, "%zu, not %zu chains",
                 json_array_size(kept), expected);
    expect_said("of which greedy removal took nothing");
    json_decref(all);
    json_decref(kept);
}

/* Of a chain that is not enough without what was cut, too. */
Test(label_said, counts_what_was_cut_of_all_chains) {
    FILE *file = fopen("p", "w");
    fputs("{\"id\":\"n\",\"question\":\"?\",\"answer\":\"3\"}\n", file);
    fclose(file);
    file = fopen("c", "w");
    fputs("{\"id\":\"n/0\",\"problem\":\"n\",\"prompt\":\"" PROMPT
          "\",\"text\":\"Now nothing is known yet. Therefore the answer is 3. "
          "So it is \\\\boxed{3}.\"}\n",
          file);
    fclose(file);
    run(LABEL "--problems p --chains c", 0);
    expect_said("1 chains not enough for the answer");
    expect_said("steps that give the answer away were cut: 0 of labelled "
                "chains, 1 of others");
    run(LABEL "--quiet --json --problems p --chains c", 0);
    json_t *said = json_loads(text, 0, NULL);
    cr_expect_eq(whole(said, "cut"), 0);
    cr_expect_eq(whole(said, "cut_of_others"), 1);
    json_decref(said);
}

Test(label_said, names_what_is_wrong_with_an_option) {
    run(LABEL INPUT " --compat=", 2);
    expect_said("--compat: a name is expected, of spans, bos, equal, box, ppl, "
                "states, prefix, last, keep, all");
    run(LABEL INPUT " --compat=,", 2);
    run(LABEL INPUT " --compat=spans,", 2);
    run(LABEL INPUT " --compat=spans,,bos", 2);
    run(LABEL INPUT " --compat=spams", 2);
    expect_said("'spams'");
    run(LABEL INPUT " --compat=spans,bos --dry-run", 0);
    run(LABEL INPUT " --method guess", 2);
    expect_said("influence, suppression, random, external, curve");
    run(LABEL INPUT " --influence guess", 2);
    expect_said("gradient, gradient-input, integrated");
    run(LABEL INPUT " --cue \"$(printf 'So \\377')\"", 2);
    expect_said("--cue: byte 3 is not UTF-8");
    run(LABEL INPUT " --cue-empty \"$(printf '\\377')\"", 2);
    expect_said("--cue-empty: byte 0 is not UTF-8");
    run("echo '{\"matrix\":[[0,0],[1e308,0]],\"threshold\":0.5}' | " KS_PROGRAM
        " label select",
        1);
    expect_said("influence of step 0 on 1 is 1e+308");
    expect_said("at most 8.98847e+307");
}

/* Every name that is taken stands in the help. */
Test(label_said, help_has_all_names) {
    static const char *const names[] = {"influence (default",
                                        "suppression",
                                        "random",
                                        "external",
                                        "curve",
                                        "gradient (default",
                                        "gradient-input",
                                        "integrated",
                                        "spans",
                                        "bos",
                                        "equal",
                                        "box",
                                        "ppl",
                                        "states",
                                        "prefix",
                                        "last",
                                        "keep"};
    run(KS_PROGRAM " label --help", 0);
    for (size_t i = 0; i < KS_COUNT(names); i++) expect_said(names[i]);
}

#endif
