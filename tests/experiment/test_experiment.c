/* What experiment.yaml may say and what is said of what it may not: file, line,
 * key, expected, found; and YAML that is meant ill. */
#include "fixture.h"

#ifdef KS_PROGRAM

TestSuite(experiment, .init = make_folder, .fini = drop_folder, .timeout = 300);

struct wrong {
    const char *yaml, *sentence;
};

static void refuse(const struct wrong *all, size_t n) {
    for (size_t i = 0; i < n; i++) {
        write_experiment(all[i].yaml);
        int code = keystep("run x.yaml");
        cr_expect(code == 1 || code == 2, "%s: exit code %d", all[i].yaml,
                  code);
        cr_expect(strstr(said, all[i].sentence), "%s\nsaid %slacks %s",
                  all[i].yaml, said, all[i].sentence);
        cr_expect(access("runs", F_OK) != 0, "%s: left something", all[i].yaml);
    }
}

Test(experiment, what_is_wrong_is_named_with_its_line) {
    static const struct wrong all[] = {
        {SMALL "captur: {}\n",
         "x.yaml line 12: captur: there is no such key; did you mean capture?"},
        {HEAD "capture: {postions: mean}\n",
         "x.yaml line 5: capture.postions: there is no such key; did you mean "
         "positions?"},
        {HEAD "capture:\n  positions: mean\n  out: y.h5\n",
         "x.yaml line 7: capture.out: --out is not set in this section"},
        {HEAD "capture: {}\nprobe: {folds: many}\n",
         "x.yaml line 6: probe.folds: expected a whole number, found 'many'"},
        {HEAD "capture: {}\nprobe: {folds: \"3\"}\n",
         "expected a whole number, found the text '3'"},
        {HEAD "capture: {}\nprobe: {no-text: 3}\n",
         "probe.no-text: expected true or false, found '3'"},
        {HEAD "capture: {context: half}\n",
         "capture.context: expected one of the words full|none, found 'half'"},
        {HEAD "capture: {positions: {mean: 1}}\n", "found a mapping"},
        {HEAD "capture:\n  positions: [mean]\n  layers: 3\n",
         "line 7: capture.layers: there is no such key"},
        {HEAD "capture: {}\nprobe: {}\nreport: {charts: d4}\n",
         "line 7: report.charts: expected one of the words d3|svg"},
        {HEAD "capture: {positions: [mean, midle]}\n",
         "x.yaml line 5: capture: --positions: 'midle' is none of"},
        {HEAD "capture: {context: none, positions: before}\n",
         "x.yaml line 5: capture: position 'before' needs --context full"},
        {HEAD "capture: {}\nprobe:\n  folds: 3\n  inner-folds: 4\n",
         "x.yaml line 8: probe: --inner-folds 4: at most one less than"},
        {HEAD "probe: {}\n", "line 5: probe: nothing gives its activations"},
        {"name: x\nmodel: m\nchains: c.jsonl\ncapture: {}\nprobe: {}\n",
         "line 5: probe: nothing gives its labels"},
        {"name: x\nmodel: m\ngenerate: {}\n",
         "line 3: generate: nothing gives its problems"},
        {"name: x\nchains: c.jsonl\ncapture: {}\n",
         "line 3: capture: nothing gives its model: model is missing"},
        {HEAD "generate: {}\n", "line 5: chains and generate: both give"},
        {HEAD "capture: {}\ntransfer: {}\n",
         "line 6: transfer: its sets are the cells of the grid"},
        {HEAD "report: {}\n", "report: there is nothing to report"},
        {"name: x\nmodel: nowhere\nchains: c.jsonl\ncapture: {}\n",
         "x.yaml line 2: model: "},
        {"model: m\n", "x.yaml: name is missing"},
        {"name: ../x\nmodel: m\n", "is no name for a folder"},
        {SMALL "baselines: [{name: a, capture: {}, acts: y.h5}]\n",
         "baselines.a: expected one of capture, score, acts, scores, found "
         "several"},
        {SMALL "baselines: [{capture: {}}]\n", "item 1 has no name"},
        {SMALL "machine: {treads: 2}\n", "did you mean threads?"},
        {SMALL "machine:\n  threads: 1\n  memory: 3X\n",
         "x.yaml line 14: capture: --memory takes bytes such as"},
        {SMALL "machine:\n  memory: 2G\n  probe: {memory: 3X}\n",
         "x.yaml line 14: probe: --memory takes bytes such as"},
        {"name: x\nmodel: m\nproblems: c.jsonl\ngenerate:\n"
         "  template: chatmul\n",
         "x.yaml line 5: generate: --template: template 'chatmul' is not"},
        {"name: x\nmodel: m\ntemplate: chatmul\nproblems: c.jsonl\n"
         "generate: {}\n",
         "x.yaml line 3: generate: --template: template 'chatmul' is not"},
        {HEAD "capture: {}\nmatrix: {name: [y, z]}\n",
         "line 6: matrix: name is the same for all cells"},
        {HEAD "capture: {}\nmatrix: {all: {one: {about: a}}}\n",
         "line 6: matrix: about is the same for all cells"},
        {SMALL "launch: {ranks: 0}\n",
         "launch.ranks: expected a whole number from 1"},
        {HEAD "matrix: {capture.context: full}\ncapture: {}\n",
         &"matrix.capture.context"[7]},
        {HEAD "capture: {}\nmatrix: {capture.context: [full, full]}\n",
         "two cells are named 'context full'"}};
    refuse(all, KS_COUNT(all));
}

/* A folder stands for a model, and for the tokenizer in it, alone. */
Test(experiment, a_folder_in_place_of_a_file_is_named_with_its_line) {
    static const struct wrong all[] = {
        {"name: x\nmodel: m\nproblems: .\ngenerate: {}\n",
         "x.yaml line 3: problems: "},
        {"name: x\nmodel: m\nproblems: m\ngenerate: {}\n",
         "/m: expected a file, found a folder\n"},
        {"name: x\nmodel: m\nchains: .\ncapture: {}\n",
         "x.yaml line 3: chains: "},
        {"name: x\nmodel: m\nimport:\n  file: m\n", "x.yaml line 4: file: "},
        {"name: x\nmodel: m\nproblems: c.jsonl\nchains: c.jsonl\n"
         "label:\n  ranking: m\n",
         "x.yaml line 6: ranking: "},
        {SMALL "baselines:\n  - name: a\n    scores: m\n",
         "x.yaml line 14: scores: "},
        {"name: x\nmatrix: {acts: [m, .]}\ntransfer: {}\n",
         "x.yaml line 2: acts: "}};
    for (size_t i = 0; i < KS_COUNT(all); i++) {
        const struct wrong kind = {all[i].yaml, "expected a file, found a"};
        refuse(&kind, 1);
    }
    refuse(all, KS_COUNT(all));
    write_experiment("name: x\nmodel: m\ntokenizer: m\nchains: c.jsonl\n"
                     "capture: {}\n");
    expect_run("run x.yaml --explain", 0);
}

/* What would come to light when the capture is done, hours later. */
Test(experiment, what_nothing_makes_is_named_before_anything_runs) {
    static const struct wrong all[] = {
        {HEAD "capture: {positions: [mean, last]}\n"
              "probe: {positions: [mean, first]}\n",
         "x.yaml line 6: probe.positions: 'first' is not among capture's "
         "positions of cell x, which are mean,last (x.yaml line 5)"},
        {HEAD "capture: {}\nprobe: {streams: attn}\n",
         "line 6: probe.streams: 'attn' is not among capture's streams of cell "
         "x, which are resid"},
        {HEAD "capture: {}\nprobe: {probes: [l1, \"attention:all\"]}\n",
         "line 6: probe.probes: attention takes positions mean and "
         "tokens, and capture's are mean,first"},
        {HEAD "capture: {}\nprobe: {}\nbaselines:\n  - name: said\n"
              "    score: {what: logprob}\n    field: entropy\n",
         "line 9: baseline said: field 'entropy' is not among what score makes "
         "there: logprob"},
        {HEAD "capture: {}\nmatrix:\n  capture.positions: [mean, last]\n"
              "transfer: {}\n",
         "line 8: transfer.positions: 'mean' is not among capture's positions "
         "of cell positions last"}};
    refuse(all, KS_COUNT(all));
    write_experiment(HEAD "capture: {positions: \"mean,tokens\"}\n"
                          "baselines: [{name: said, score: {}, field: entropy}]"
                          "\nprobe: {probes: attention, positions: mean}\n");
    expect_run("run x.yaml --explain", 0);
}

Test(experiment, hostile_yaml_is_refused_in_a_sentence) {
    static const struct wrong all[] = {
        {"", "x.yaml: nothing is in it"},
        {"- a\n- b\n", "expected a mapping of sections, found a list"},
        {HEAD "capture: {}\nname: y\n",
         "x.yaml line 6: key 'name' is given twice, first in line 1"},
        {HEAD "capture: {random-weights: 1, random_weights: 2}\n",
         "is given twice"},
        {HEAD "capture: !!python/object {}\n", "values with tags"},
        {HEAD "capture: {positions: !x mean}\n", "values with tags"},
        {HEAD "a: &a [1]\n<<: *a\n", "merge keys (<<) are not taken"},
        {HEAD "capture: *nothing\n", "no anchor &nothing stands before it"},
        {HEAD "capture: &c {positions: *c}\n", "no anchor &c stands before it"},
        {HEAD "capture: {random-weights: 99999999999999999999}\n",
         "expected a whole number, found '99999999999999999999'"},
        {HEAD "capture: {random-weights: 0x10}\n", "expected a whole number"},
        {HEAD "capture: {positions: \"mean\\0\"}\n", "a NUL character"},
        {HEAD "capture: {positions: \"me\\e[1man\"}\n",
         "line 5: a value with a control character"},
        {HEAD "about: \"a\\u009b2Jb\"\n",
         "line 5: a value with a control character"},
        {HEAD "\"a\\x7fb\": 1\n", "line 5: a key with a control character"},
        {HEAD "\"a\\nb\": 1\n", "line 5: a key with a control character"},
        {HEAD "capture: \"a\\nb\"\n", "found 'a b'\n"},
        {HEAD "capture: {positions: [mean\n", "x.yaml line"},
        {HEAD "? [a, b]\n: c\n", "a key that is no word"},
        {HEAD "--- \nname: y\n", "a second document begins"},
        {HEAD "about: \xff\xfe\n", "x.yaml line 5: byte 57 is no UTF-8"},
        {HEAD "a: [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]\n",
         "more than 16 levels deep"},
        {"a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
         "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
         "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
         "e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
         "more than 20000 values, aliases counted"}};
    refuse(all, KS_COUNT(all));
    char *deep = malloc(1 << 19);
    memset(deep, '[', 1 << 19);
    write_text("x.yaml", deep, 1 << 19);
    expect_run("run x.yaml", 1);
    expect_said("more than 16 levels deep");
    char *long_one = calloc(1, (2 << 20) + 1);
    memset(long_one, '#', 2 << 20);
    write_text("x.yaml", long_one, 2 << 20);
    expect_run("run x.yaml", 1);
    expect_said("x.yaml: more than 1048576 bytes");
    write_text("x.yaml", "name: x\nabout: a\0b\n", 19);
    expect_run("run x.yaml", 1);
    expect_said("x.yaml line");
    free(deep);
    free(long_one);
    expect_run("run /dev/zero", 1);
    expect_said("/dev/zero: is a device");
    cr_assert_eq(system("mv x.yaml y && mkfifo x.yaml"), 0);
    cr_assert_eq(system("head -c 2000000 /dev/zero >x.yaml 2>/dev/null &"), 0);
    expect_run("run x.yaml", 1);
    expect_said("x.yaml: more than 1048576 bytes");
}

/* The kernel takes no longer word. */
Test(experiment, a_setting_too_long_for_a_command_line_is_told_of) {
    static char yaml[(140 << 10) + 256];
    int n = snprintf(yaml, sizeof yaml,
                     "name: x\nmodel: m\nproblems: c.jsonl\ngenerate:\n"
                     "  instruction: ");
    memset(yaml + n, 'a', 140 << 10);
    yaml[n + (140 << 10)] = '\n';
    write_text("x.yaml", yaml, strlen(yaml));
    expect_run("run x.yaml", 2);
    expect_said("keystep generate cannot be started: Argument list too long");
}

Test(experiment, anchors_underscores_and_sets_mean_what_they_say) {
    char a[128], b[128];
    write_experiment(HEAD "capture:\n  random-weights: 1\n  positions: mean\n");
    plan_says("x.yaml", "capture", "key", a);
    write_experiment("about: &one mean\n" HEAD
                     "capture:\n  random_weights: 1\n  positions: [*one]\n");
    plan_says("x.yaml", "capture", "key", b);
    cr_expect_str_eq(a, b);
    write_experiment(HEAD "capture: {}\n");
    plan_says("x.yaml --set capture.positions=[mean] "
              "--set capture.random-weights=1",
              "capture", "key", b);
    cr_expect_str_eq(a, b);
    plan_says("x.yaml", "capture", "key", b);
    cr_expect_str_neq(a, b);
    expect_run("run x.yaml --set capture.context=half", 2);
    expect_said("--set capture.context: capture.context: expected one of");
    expect_run("run x.yaml --set name", 2);
    expect_said("--set takes KEY=VALUE");
    expect_run("run x.yaml --set capture=false", 2);
    expect_said("no section says what to do");
}

/* As on a command's own line, 1e3 is a whole number, and the same one. */
Test(experiment, whole_numbers_may_have_exponents) {
    char plain[128], key[128];
    static const char probe[] = HEAD "capture: {random-weights: 100}\n"
                                     "probe: {bootstrap: 1000, seeds: 2}\n";
    write_experiment(probe);
    plan_says("x.yaml", "probe", "key", plain);
    write_experiment(HEAD "capture: {random-weights: 1E2}\n"
                          "probe: {bootstrap: 1e3, seeds: 20e-1}\n");
    plan_says("x.yaml", "probe", "key", key);
    cr_expect_str_eq(key, plain);
    write_experiment(probe);
    plan_says("x.yaml --set probe.bootstrap=1e+3", "probe", "key", key);
    cr_expect_str_eq(key, plain);
    write_experiment(HEAD "capture: {}\nmachine: {threads: 1e1}\n");
    expect_run("run x.yaml --explain", 0);
    static const struct wrong all[] = {
        {HEAD "capture: {}\nprobe: {seeds: 15e-1}\n",
         "line 6: probe.seeds: expected a whole number, found '15e-1'"},
        {HEAD "capture: {}\nprobe: {seeds: 1.5e3}\n",
         "expected a whole number, found '1.5e3'"},
        {HEAD "capture: {random-weights: 1e16}\n", "expected a whole number"},
        {HEAD "capture: {random-weights: 1e}\n", "expected a whole number"},
        {HEAD "capture: {random-weights: \"1e3\"}\n",
         "expected a whole number, found the text '1e3'"},
        {HEAD "capture: {}\nlaunch: {ranks: 1e4}\n",
         "launch.ranks: expected a whole number from 1 to 4096, found '1e4'"}};
    refuse(all, KS_COUNT(all));
}

Test(experiment, a_grid_shares_what_its_cells_have_in_common) {
    write_experiment(SMALL "matrix:\n  probe.folds: [3, 4]\n  half:\n"
                           "    a: {capture.context: full}\n"
                           "    b: {capture.context: none}\n");
    expect_run("run x.yaml --explain", 0);
    expect_said("4 cells, 6 stages, 6 of them to do");
    expect_said("folds 3, a; folds 4, a");
    expect_said("about ");
    expect_said("cost not known: it waits for its acts");
    expect_said(" of 6 stages\n");
    expect_run("run x.yaml --explain --set matrix.half.b=false", 0);
    expect_said("2 cells, 3 stages");
    write_experiment(HEAD "capture: {}\n");
    expect_run("run x.yaml --explain", 0);
    expect_said("\n1 cell, 1 stage, 1 of them to do");
    expect_silence("differ in nothing");
    write_experiment(HEAD "capture: {}\nprobe: [{}, {name: other}]\n"
                          "matrix: {half: {a: {machine.threads: 1}, "
                          "b: {machine.threads: 2}}}\n");
    expect_run("run x.yaml --explain", 0);
    expect_said("cells 'a' and 'b' differ in nothing that is made");
    expect_said("probes 'probe' and 'other' of cell a differ in nothing but");
}

/* The form that the documentation ends with is the program's own. */
Test(experiment, reference_is_the_documentation) {
    char *docs = NULL;
    size_t n = 0;
    cr_assert_eq(ks_read_file(KS_TEST_DATA "/../../docs/experiments.md",
                              SIZE_MAX, &docs, &n, NULL),
                 KS_OK);
    expect_run("run --reference", 0);
    size_t k = strlen(said);
    cr_assert(n > k && k > 1000);
    cr_expect(memcmp(docs + n - k, said, k) == 0,
              "docs/experiments.md is not up to date: it has to end with what "
              "keystep run --reference prints");
    free(docs);
}

#endif
