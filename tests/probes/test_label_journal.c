/* What keystep label takes over: an interrupted run's answers, each checked,
 * under the same settings, inputs and machine; or an OUT that is whole. */
#ifdef KS_PROGRAM
#include "label_few.h"

TestSuite(label_journal, .init = make_few, .fini = drop_folder);

#define OUT " --out a --clean ka"

static void append(const char *path, const char *line) {
    FILE *file = fopen(path, "a");
    cr_assert(file && fprintf(file, "%s\n", line) > 0);
    fclose(file);
}

/* ------------------------------------------------------------------ answers */

#define ANSWER(key, answer)                                                    \
    "{\"chain\":\"a0000/0\",\"key\":\"" key "\",\"answer\":" answer "}"

Test(label_journal, checks_each_answer) {
    static const struct {
        const char *line, *words;
    } bad[] = {
        {ANSWER("roll 0", "{\"v\":1}"), "\"tally\" is nothing"},
        {ANSWER("roll 0", "{\"v\":1,\"tally\":{}}"), "\"tally\" is an object"},
        {ANSWER("roll 0", "{\"v\":1,\"tally\":[]}"), "counts 0 answers"},
        {ANSWER("roll 0", "{\"v\":1,\"tally\":[[\"3\",0],[\"4\",4]]}"),
         "place 0 of \"tally\""},
        {ANSWER("roll 0", "{\"v\":1,\"tally\":[[\"4\",2],[3,2]]}"),
         "place 1 of \"tally\""},
        {ANSWER("roll 0", "{\"v\":1,\"tally\":[[\"3\",4,1]]}"),
         "place 0 of \"tally\""},
        {ANSWER("roll 0", "{\"v\":1,\"tally\":[[\"3\",3]]}"),
         "counts 3 answers, expected 4"},
        {ANSWER("roll 0", "{\"v\":1,\"tally\":[[\"3\",5]]}"),
         "place 0 of \"tally\""},
        {ANSWER("roll 0", "{\"v\":1.5,\"tally\":[[\"3\",4]]}"),
         "\"v\" is 1.5, expected a share of 0 to 1"},
        {ANSWER("enough o ", "{}"), "\"v\" is nothing"},
        {ANSWER("enough o ", "{\"v\":\"1\"}"), "\"v\" is a string"},
        {ANSWER("enough o ", "{\"v\":true}"), "\"v\" is a boolean"},
        {ANSWER("enough o ", "{\"v\":2}"), "\"v\" is 2, expected a share"},
        {ANSWER("fresh c 3", "{\"v\":-1}"), "\"v\" is -1, expected a share"},
        {ANSWER("nll c all", "{\"v\":-1}"), "expected a number of 0 or more"},
        {ANSWER("nll+ c all", "{\"v\":-1}"), "expected a number of 0 or more"},
        {ANSWER("nll0", "{\"v\":-1}"), "expected a number of 0 or more"},
        {ANSWER("answer c 3", "{\"v\":1}"), "expected a number of 0 or less"},
        {ANSWER("enough o ", "{\"v\":0,\"text\":5}"), "\"text\" is an integer"},
        {ANSWER("enough o ", "1"), "\"answer\" is an integer"},
        {ANSWER("enoug", "{\"v\":0}"), "asks for none of enough"},
        {ANSWER("enoughs o ", "{\"v\":0}"), "asks for none of enough"},
        {"{\"chain\":\"b\",\"key\":\"nll0\",\"answer\":{\"v\":0}}",
         "chain b is not in"},
        {"{\"chain\":5,\"key\":\"nll0\",\"answer\":{\"v\":0}}",
         "\"chain\" is an integer"},
        {"{\"chain\":\"a0000/0\",\"answer\":{\"v\":0}}", "no \"key\""},
    };
    ks_label_options o = ks_label_defaults();
    o.rollouts = 4;
    begin(o, "head");
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        run("cp head.part a.part", 0);
        append("a.part", bad[i].line);
        run(LABEL FEW OUT " --rollouts 4 --resume", 1);
        expect_said("a.part line 2");
        expect_said(bad[i].words);
        expect_said("; --force without --resume starts afresh");
        cr_expect(access("a", F_OK) != 0 && access("a.part", F_OK) == 0);
    }
    run("cp head.part a.part", 0);
    append("a.part", ANSWER("nll0", "{\"v\":1}"));
    append("a.part", ANSWER("nll0", "{\"v\":1}"));
    append("a.part", ANSWER("nll0", "{\"v\":2}"));
    run(LABEL FEW OUT " --rollouts 4 --resume", 1);
    expect_said("a.part line 4");
    expect_said("a second time");
}

/* A journal of every kind of question is taken over whole: nothing is asked
 * again, and the labels are the same. The name is a second link, since
 * a finished run removes a.part. */
Test(label_journal, takes_over_every_kind) {
    static const char *const runs[] = {
        " --rollouts 3 --max-new 120 --subsets 4 --threads 1",
        " --sufficiency exact --compat=ppl --threads 1"};
    static const char *const kinds[] = {"enough", "fresh",  "nll", "nll+",
                                        "nll0",   "answer", "roll"};
    char line[1024];
    for (size_t i = 0; i < KS_COUNT(runs); i++) {
        snprintf(line, sizeof line,
                 "rm -f a ka b kb; " LABEL FEW OUT
                 "%s & until ln a.part kept; do sleep 0.01; done; wait $!"
                 " && cat kept >> all && mv kept b.part",
                 runs[i]);
        run(line, 0);
        snprintf(line, sizeof line,
                 LABEL FEW " --out b --clean kb --resume --json%s | tr -d ' '",
                 runs[i]);
        run(line, 0);
        expect_said("\"asked\":0,");
        cr_expect(same_files("a", "b") && same_files("ka", "kb"));
    }
    for (size_t i = 0; i < KS_COUNT(kinds); i++) {
        snprintf(line, sizeof line, "grep -q '\"key\":\"%s[\" ]' all",
                 kinds[i]);
        run(line, 0);
    }
}

/* A chain that waits for an answer which no question will bring is no label
 * and no success. */
Test(label_journal, names_a_chain_that_stays_behind) {
    ks_label_job *job = NULL;
    ks_err err = {0};
    ks_label_summary sum;
    ks_label_options o = ks_label_defaults();
    o.model = MODEL;
    o.problems = DATA "problems.jsonl";
    o.chains = "one";
    o.out = "a";
    o.clean = "ka";
    o.rollouts = 2;
    o.rollout_new = 40;
    run("head -n 1 few > one", 0);
    cr_assert_eq(ks_label_open(&job, &o, &err), KS_OK, "%s", err.text);
    cr_assert_eq(ks_label_run(job, NULL, NULL, &sum, &err), KS_OK, "%s",
                 err.text);
    cr_assert_eq(sum.labelled, 1);
    ks_label_close(&job);
    o.force = true;
    cr_assert_eq(ks_label_open(&job, &o, &err), KS_OK, "%s", err.text);
    /* an answer without its tally */
    json_object_set_new(job->items[0].known, "roll 0",
                        json_pack("{s:f}", "v", 1.0));
    cr_expect_eq(ks_label_run(job, NULL, NULL, &sum, &err), KS_INTERNAL);
    cr_expect(strstr(err.text, "chain a0000/0"), "%s", err.text);
    ks_label_close(&job);
}

/* ------------------------------------------------------------------ headers */

Test(label_journal, begins_with_its_settings) {
    /* by the first object, not by the first line */
    begin(ks_label_defaults(), "a");
    run("{ echo; cat a.part; } > b.part", 0);
    append("b.part", ANSWER("nll0", "{\"v\":1}"));
    run(KEYSTEP_LABEL FEW " --out b --clean kb --resume", 0);
    expect_said(" 1 answers from an interrupted run");
    run("{ echo; cat a.part; } > c.part", 0);
    run(LABEL FEW " --out c --clean kc --resume --seed 9", 1);
    expect_said("c.part line 2");
    expect_said("seed is 9 here and 42 there");
    run("echo > d.part", 0);
    append("d.part", ANSWER("nll0", "{\"v\":1}"));
    run(LABEL FEW " --out d --clean kd --resume", 1);
    expect_said("d.part line 2: no \"keystep_labels\"");
    /* blank lines are nothing yet */
    run("echo > e.part; " LABEL FEW " --out e --clean ke --resume", 0);
    cr_expect(same_files("ke", "kb"));
}

static const struct {
    const char *options, *words;
} others[] = {
    {"--seed 9", "seed is 9 here and 42 there"},
    {"--method random", "method is \"random\" here and \"influence\" there"},
    {"--influence integrated",
     "influence is \"integrated\" here and \"gradient\" there"},
    {"--compat=spans,last", "compat is [\"spans\",\"last\"] here and [] there"},
    {"--template raw", "template is \"raw\" here and \"qwen\" there"},
    {"--subsets 4", "subsets is 4 here and 0 there"},
    {"--samples 3", "samples is 3 here and 5 there"},
    {"--confirm 7", "confirm is 7 here"},
    {"--orders 1", "orders is 1 here"},
    {"--temperature 1", "temperature is 1.0 here"},
    {"--top-p 1", "top_p is 1.0 here"},
    {"--top-k 5", "top_k is 5 here"},
    {"--rollouts 2", "rollouts is 2 here"},
    {"--max-new 9", "rollout_new is 9 here"},
    {"--enough 0.5", "enough is 0.5 here"},
    {"--sufficiency exact", "exact is true here and false there"},
    {"--cue X", "cue is \"X\" here"},
    {"--cue-empty X", "cue_empty is \"X\" here"},
    {"--no-drop", "drop is false here"},
    {"--suppression", "suppress is true here"},
    {"--all-prefixes", "all is true here"},
    {"--of-log", "of_log is true here"},
    {"--per-token", "per_token is true here"},
};

static void refuse_others(const char *more) {
    char line[1024];
    size_t step = getenv("KS_UNDER_SANITIZER") ? 6 : 1; /* seconds each there */
    for (size_t i = 0; i < KS_COUNT(others); i += step) {
        snprintf(line, sizeof line, LABEL FEW OUT " --resume %s",
                 others[i].options);
        run(line, 1);
        expect_said(others[i].words);
        expect_said(more);
    }
}

Test(label_journal, names_the_setting_that_differs) {
    begin(ks_label_defaults(), "a");
    run("cp a.part kept", 0);
    refuse_others("a.part line 1 was begun with other settings");
    run("sed '1s/Now/Then/' few > other", 0);
    run(LABEL " --problems " DATA "problems.jsonl --chains other" OUT
              " --resume --force",
        1);
    expect_said("other inputs");
    cr_expect(same_files("a.part", "kept"));
    /* what another version wrote may lack a setting, or have one more */
    run("sed -i 's/,\"subsets\":0//' a.part", 0);
    run(LABEL FEW OUT " --resume", 1);
    expect_said("subsets is 0 here and not set there");
    run("sed 's/,\"subsets\":0/&,\"more\":1/' kept > a.part", 0);
    run(LABEL FEW OUT " --resume", 1);
    expect_said("more is not set here and 1 there");
}

static const char *made(json_t *lines, const char *word) {
    json_t *line = json_object_iter_value(json_object_iter(lines));
    return json_string_value(
        json_object_get(json_object_get(line, "sampling"), word));
}

/* Version, backend and instruction set: refused, unless by force; then the
 * labels tell of both. */
Test(label_journal, tells_of_another_machine) {
    static const char *const words[] = {"version", "backend", "isa"};
    char line[512], both[128];
    begin(ks_label_defaults(), "head");
    for (size_t i = 0; i < KS_COUNT(words); i++) {
        snprintf(line, sizeof line,
                 "sed 's/\"%s\":\"[^\"]*\"/\"%s\":\"x\"/' head.part > a.part; "
                 "rm -f a ka",
                 words[i], words[i]);
        run(line, 0);
        append("a.part", ANSWER("nll0", "{\"v\":1}"));
        run(LABEL FEW OUT " --resume", 1);
        snprintf(line, sizeof line, "%s is \"", words[i]);
        expect_said(line);
        expect_said("here and \"x\" there; --force continues all the same");
        run(KEYSTEP_LABEL FEW OUT " --resume --force", 0);
        expect_said(" 1 answers from an interrupted run");
        json_t *lines = by_chain("a");
        const char *list = made(lines, words[i]);
        cr_assert(list);
        cr_expect(strncmp(list, "x+", 2) == 0, "%s", list);
        snprintf(both, sizeof both, "%s", list);
        json_decref(lines);
    }
    /* and so does the journal, to whoever goes on with it */
    run("sed 's/\"isa\":\"[^\"]*\"/\"isa\":\"x\"/' head.part > a.part; "
        "cat head.part >> a.part; rm -f a ka",
        0);
    run(LABEL FEW OUT " --resume", 1);
    run(LABEL FEW OUT " --resume --force", 0);
    json_t *lines = by_chain("a");
    cr_expect_str_eq(made(lines, "isa"), both);
    json_decref(lines);
    run("sed 's/\"isa\"/\"Isa\"/' head.part > b.part", 0);
    run(LABEL FEW " --out b --clean kb --resume --force", 1);
    expect_said("\"isa\" is nothing, expected a string");
    /* a header is behind the other's answers */
    run("sed 's/\"version\":\"[^\"]*\"/\"version\":\"x\"/' head.part > c.part",
        0);
    run(LABEL FEW " --out c --clean kc --resume --force --rollouts 0 & "
                  "until ln c.part kept; do sleep 0.01; done; wait $!;"
                  " grep -c keystep_labels kept",
        0);
    expect_said("2\n");
}

/* -------------------------------------------------------------------- whole */

Test(label_journal, leaves_what_is_whole) {
    run(LABEL FEW OUT, 0);
    run("cp a kept; cp ka kept.k; stat -c '%i %Y' a ka > was", 0);
    run(KEYSTEP_LABEL FEW OUT " --resume", 0);
    expect_said("a is already whole: 2 of 4 chains labelled");
    run(LABEL FEW OUT " --resume --json | tr -d ' \\n'", 0);
    expect_said("{\"whole\":true,\"chains\":4,\"labelled\":2,\"curves\":0}");
    refuse_others("a line 1 was made with other settings");
    expect_said("; --force overwrites it");
    /* of other inputs */
    run("sed '1s/Now/Then/' few > other", 0);
    run(LABEL " --problems " DATA "problems.jsonl --chains other" OUT
              " --resume",
        1);
    expect_said("was labelled from other inputs");
    run("tail -n 3 " DATA "chains.jsonl > rest; " LABEL " --problems " DATA
        "problems.jsonl --chains rest" OUT " --resume",
        1);
    expect_said("is not in rest");
    run(LABEL FEW " --out a --clean elsewhere --resume", 1);
    expect_said("elsewhere is not there");
    run("stat -c '%i %Y' a ka | cmp - was", 0);
    cr_expect(same_files("a", "kept") && same_files("ka", "kept.k"));
    cr_expect(access("a.part", F_OK) != 0 && access("a.lock", F_OK) != 0);
    /* by another version, as its own settings tell */
    run("sed -i '2s/\"version\":\"[^\"]*\"/\"version\":\"x\"/' a", 0);
    run(LABEL FEW OUT " --resume", 1);
    expect_said("a line 2 was made with other settings: version is \"");
    /* force makes it anew */
    run(LABEL FEW OUT " --resume --force", 0);
    cr_expect(same_files("a", "kept"));
    run(LABEL FEW OUT " --resume --force --seed 9", 0);
    cr_expect(!same_files("a", "kept"));
    /* a file of another kind is nobody's to overwrite */
    run("cp " DATA "chains.jsonl b; " LABEL FEW
        " --out b --clean kb --resume; test $? = 1 && cmp b " DATA
        "chains.jsonl",
        0);
    /* where nothing tells of settings there is nothing to lose */
    run(": > c; " LABEL FEW " --out c --clean kc --resume", 0);
    cr_expect(same_files("c", "kept"));
}

/* The journal is of OUT; its companions are not overwritten without a word. */
Test(label_journal, companions_are_not_overwritten) {
    write_text("ka", "mine\n");
    run(LABEL FEW OUT " --resume", 1);
    expect_said("ka exists");
    cr_expect(access("a.part", F_OK) != 0);
    run(LABEL FEW " --out - --clean ka > o", 1);
    run("grep -q mine ka", 0);
    begin(ks_label_defaults(), "a");
    run(LABEL FEW OUT " --resume", 0);
    run(LABEL FEW OUT " --out b", 1);
    run(LABEL FEW " --clean - --out b | cmp - ka", 0);
}

/* ----------------------------------------------------------------- the rest */

/* Settings stand by name in every label line, all that decide a bit. */
Test(label_journal, labels_tell_of_all_settings) {
    run(LABEL FEW OUT " --influence integrated --compat=spans,ppl --subsets 3"
                      " --orders 0 --confirm 0 --samples 1",
        0);
    run(LABEL FEW " --out b --clean kb --orders 0 --confirm 0", 0);
    json_t *lines = by_chain("b");
    json_t *line = json_object_iter_value(json_object_iter(lines));
    json_t *s = json_object_get(line, "sampling");
    json_t *stops = json_object_get(s, "stops");
    cr_assert(line);
    cr_expect_str_eq(json_string_value(json_object_get(s, "influence")),
                     "gradient");
    cr_expect_str_eq(json_string_value(json_object_get(s, "template")), "qwen");
    cr_expect(json_is_integer(json_array_get(stops, 0)));
    cr_expect(json_is_array(json_object_get(s, "compat")));
    cr_expect(json_is_integer(json_object_get(s, "subsets")));
    cr_expect(json_is_null(json_object_get(s, "ranking_sha256")));
    cr_expect_str_eq(json_string_value(json_object_get(s, "backend")), "cpu");
    cr_expect(json_object_get(s, "version") && json_object_get(s, "isa"));
    json_decref(lines);
    run("head -n 1 a", 0);
    expect_said("\"influence\":\"integrated\"");
    expect_said("\"compat\":[\"spans\",\"ppl\"]");
    expect_said("\"subsets\":3");
}

/* None of the chains is one to ask about. */
Test(label_journal, nothing_to_ask_is_no_label) {
    write_text("p", "{\"id\":\"n\",\"question\":\"?\"}\n");
    write_text("c", "{\"id\":\"n/0\",\"problem\":\"n\",\"prompt\":\"Q?\","
                    "\"text\":\"One step of a chain. Another step of it.\"}\n");
    run(KEYSTEP_LABEL " --problems p --chains c" OUT, 0);
    expect_said("1 chains without an answer to the problem");
    expect_said("0 of 1 chains labelled");
}

/* Two runs write one OUT: the second is told whose it is. */
Test(label_journal, one_process_writes) {
    run(LABEL FEW OUT " --threads 1 --rollouts 90 & p=$!;"
                      " until [ -s a.part ]; do sleep 0.01; done;" LABEL FEW
                      " --out ./a --clean kb --force --rollouts 90;"
                      " echo code $?; kill -INT $p; wait $p;"
                      " echo then $?; echo process $p; head -c 18 a.part",
        0);
    expect_said("./a is being written by process ");
    expect_said("code 1");
    expect_said("then 130");
    expect_said("{\"keystep_labels\":");
    const char *held = strstr(text, "process "),
               *p = strstr(text, "\nprocess ");
    cr_assert(held && p && held < p);
    cr_expect_eq(strtol(held + 8, NULL, 10), strtol(p + 9, NULL, 10));
    cr_expect(access("a.lock", F_OK) != 0);
    run(LABEL FEW OUT " --force", 0);
}

#endif
