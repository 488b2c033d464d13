/* keystep run: keys, what is done and stays done, interruptions, folders that
 * move, one task at a time, and what inspect and diff say afterwards. */
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

#include "fixture.h"

#ifdef KS_PROGRAM

TestSuite(run, .init = make_folder, .fini = drop_folder, .timeout = 300);

/* ------------------------------------------------------------------- keys */

Test(run, keys_follow_content_and_settings_and_not_places) {
    char capture[128], probe[128], key[128];
    write_experiment(SMALL);
    plan_says("x.yaml", "capture", "key", capture);
    plan_says("x.yaml", "probe", "key", probe);
    plan_says("x.yaml --set probe.bootstrap=200", "capture", "key", key);
    cr_expect_str_eq(key, capture, "a probe's setting captures anew");
    plan_says("x.yaml --set probe.bootstrap=200", "probe", "key", key);
    cr_expect_str_neq(key, probe);
    plan_says("x.yaml --set capture.dtype=f32", "probe", "key", key);
    cr_expect_str_neq(key, probe, "a probe of other activations is the same");
    plan_says("x.yaml --set machine.threads=1 --set machine.memory=1G",
              "capture", "key", key);
    cr_expect_str_eq(key, capture, "the machine is part of a key");
    cr_assert_eq(system("mkdir away && cp -r m c.jsonl l.jsonl x.yaml away"),
                 0);
    plan_says("away/x.yaml", "probe", "key", key);
    cr_expect_str_eq(key, probe, "a path is part of a key");
    cr_assert_eq(system("echo ' ' >>m/config.json"), 0);
    plan_says("x.yaml", "capture", "key", key);
    cr_expect_str_neq(key, capture, "a model's content is no part of a key");
}

/* ------------------------------------------------------------- done, twice */

Test(run, what_is_done_stays_done_and_what_changed_is_made) {
    write_experiment(SMALL "report: {no-pictures: true}\n");
    expect_run("run x.yaml", 0);
    expect_said("[3/3] report-");
    expect_said("best layer's balanced accuracy");
    cr_expect_eq(access("runs/x/report/index.html", R_OK), 0);
    expect_silence("all stages are done");
    expect_run("run x.yaml", 0);
    expect_silence(": done in");
    expect_said("runs/x: all stages are done");
    expect_run("run runs/x", 0);
    expect_silence(": done in");
    /* the cost of what would be made of what is there */
    expect_run("run runs/x --set probe.bootstrap=150 --explain", 0);
    expect_said("24 chains, 24 problems, 96 rows, ");
    expect_said(" fits, memory ");
    expect_silence("dry run fails");
    expect_run("run runs/x --set probe.bootstrap=150", 0);
    expect_silence("] capture");
    expect_said("] probe-");
    /* and its setting stays with the folder */
    expect_run("run runs/x", 0);
    expect_silence("] probe-");
    /* the same bytes again: nothing that was made of them is made anew */
    expect_run("run runs/x --again capture", 0);
    expect_said("] capture-");
    expect_silence("] probe-");
    expect_run("run runs/x --again nothing", 2);
    expect_said("no stage of this run has that name");
    write_experiment("name: y\nmodel: m\nchains: c.jsonl\ncapture: {}\n");
    expect_run("run x.yaml --out runs/x", 1);
    expect_said("holds experiment 'x', not 'y'");
}

Test(run, inputs_that_changed_make_stages_anew) {
    write_experiment(SMALL);
    expect_run("run x.yaml", 0);
    write_chains(26);
    expect_run("run x.yaml", 0);
    expect_said("] capture-");
    expect_said("] probe-");
    /* activations that were deleted to save room are not missed ... */
    cr_assert_eq(system("rm runs/x/stages/capture-*/acts.h5"), 0);
    expect_run("run x.yaml", 0);
    expect_silence("] capture-");
    /* ... until another probe needs them */
    expect_run("run x.yaml --set probe.bootstrap=150", 0);
    expect_said("] capture-");
}

/* Labels that somebody mended in the run's folder are no longer what the key of
 * everything made of them says. */
Test(run, an_output_that_was_changed_is_not_taken_for_what_was_made) {
    write_experiment("name: x\nmodel: m\nchains: c.jsonl\nlabels: l.jsonl\n"
                     "split: {}\ncapture: {}\n");
    expect_run("run x.yaml", 0);
    cr_assert_eq(system("touch runs/x/stages/split-*/chains.jsonl"), 0);
    expect_run("run x.yaml --set capture.dtype=f32", 0); /* same bytes */
    cr_assert_eq(system("sed -i 's/Mona/Anna/' "
                        "runs/x/stages/split-*/chains.jsonl"),
                 0);
    expect_run("run x.yaml --set capture.positions=last", 1);
    expect_said("chains.jsonl was changed after keystep split made it: --again "
                "split-");
    expect_run("run x.yaml --set capture.positions=last --again split", 0);
    expect_said("] capture-");
}

Test(run, a_folder_that_moved_goes_on_and_is_read_elsewhere) {
    write_experiment(SMALL);
    expect_run("run x.yaml", 0);
    cr_assert_eq(system("mkdir deep && mv runs/x deep/z && rm x.yaml && "
                        "rm deep/z/stages/probe-*/stage.json"),
                 0);
    expect_run("run deep/z", 0);
    expect_silence("] capture-");
    expect_said("] probe-");
    cr_assert_eq(system("mv deep/z . && rm -r m c.jsonl l.jsonl"), 0);
    expect_run("inspect z", 0);
    expect_said("run of an experiment");
    expect_said("resid mean");
    expect_run("run z", 0); /* all done: the inputs are not asked for */
}

/* What a stage took is a number for programs, and a time for people. */
Test(run, seconds_are_numbers_in_json) {
    static const char *const commands[] = {KS_PROGRAM
                                           " run x.yaml --json --quiet",
                                           KS_PROGRAM " inspect runs/x --json"};
    write_experiment(HEAD "capture: {positions: mean}\n");
    for (size_t i = 0; i < KS_COUNT(commands); i++) {
        cr_assert_eq(shell_run(commands[i], said, sizeof said), 0, "%s", said);
        json_t *all = json_loads(said, 0, NULL);
        json_t *stage = json_array_get(json_object_get(all, "stages"), 0);
        json_t *seconds = json_object_get(stage, "seconds");
        cr_expect(json_is_number(seconds) && json_number_value(seconds) > 0 &&
                      json_number_value(seconds) < 300,
                  "%s: %s", commands[i], said);
        json_decref(all);
    }
    expect_run("inspect runs/x", 0);
    expect_said("stage, state, took, program, host, of\n");
    expect_said(" s " KS_VERSION);
}

Test(run, diff_tells_settings_inputs_and_figures) {
    write_experiment(SMALL);
    expect_run("run x.yaml --out a", 0);
    expect_run("run x.yaml --out same", 0);
    expect_run("diff a same", 0);
    expect_said("No difference.");
    write_chains(30);
    expect_run("run x.yaml --out b --set capture.positions=last --set "
               "probe.folds=4",
               0);
    expect_run("diff a b", 0);
    expect_said("capture.positions: [\"mean\", \"last\"] -> last");
    expect_said("probe.folds: 3 -> 4");
    expect_said("chains of capture");
    expect_said("resid, mean: ");
    expect_said("-> (not there)");
    cr_assert_eq(shell_run(KS_PROGRAM " diff a b --json", said, sizeof said),
                 0);
    json_t *all = json_loads(said, 0, NULL);
    cr_assert(all != NULL);
    cr_expect_eq(
        json_integer_value(json_array_get(
            json_object_get(json_object_get(all, "settings"), "probe.folds"),
            1)),
        4);
    json_decref(all);
    expect_run("diff a m", 1);
    expect_said("m: is no run's folder");
    cr_assert_eq(system("sed -i 's/\"version\": 1,/\"version\": 2,/' "
                        "b/run.json"),
                 0);
    expect_run("diff a b", 1);
    expect_said("b/run.json: version 1 is expected");
}

/* ------------------------------------------------------------- interrupted */

static void a_moment(void) {
    nanosleep(&(struct timespec){0, 300000000}, NULL);
}

static int end_of(pid_t pid) {
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Enough chains that a capture is met at work. */
static void write_many(void) {
    write_chains(getenv("KS_UNDER_SANITIZER") ? 150 : 1500);
    write_experiment(HEAD "capture: {positions: mean}\nmachine: {threads: 1, "
                          "batch-tokens: 64}\n");
}

static bool has_rows(void) {
    return system("[ $(cat runs/x/stages/capture-*/acts.h5.journal | wc -l) "
                  "-gt 1 ]") == 0;
}

/* Ended by a signal with rows made: where much else runs, a moment may see
 * none. */
static void interrupt(const char *const *words, const char *journal,
                      int signal) {
    for (int i = 0; i < 20; i++) {
        pid_t pid = start(words);
        wait_for(journal);
        for (int k = 0; k <= i; k++) a_moment();
        kill(pid, signal);
        cr_assert_eq(end_of(pid), 130);
        if (has_rows()) return;
    }
    cr_assert_fail("no rows in twenty attempts");
}

static void expect_same_as_alone(void) {
    expect_run("capture --model m --chains c.jsonl --positions mean --out "
               "alone.h5 --quiet",
               0);
    cr_expect_eq(system("cmp alone.h5 runs/x/stages/capture-*/acts.h5"), 0);
}

Test(run, interrupted_it_goes_on_to_the_same_bytes) {
    const char *const words[] = {"keystep", "run", "x.yaml", NULL};
    write_many();
    pid_t pid = start(words);
    wait_for("runs/x/stages/capture-*/acts.h5.journal");
    /* another one is told whose it is */
    expect_run("run x.yaml", 1);
    expect_said("runs/x is being run by process ");
    kill(pid, SIGTERM);
    cr_expect_eq(end_of(pid), 130);
    if (!has_rows())
        interrupt(words, "runs/x/stages/capture-*/acts.h5.journal", SIGTERM);
    expect_run("run x.yaml --explain", 0);
    expect_said("begun");
    cr_expect_eq(system("ls runs/x/stages/capture-*/acts.h5.part >/dev/null"),
                 0);
    expect_run("run runs/x", 0);
    expect_said("] capture-");
    cr_expect_neq(system("ls runs/x/stages/capture-*/acts.h5.* 2>/dev/null"),
                  0);
    cr_expect_eq(system("grep -q 'were there already' "
                        "runs/x/stages/capture-*/log.txt"),
                 0);
    expect_same_as_alone();
}

Test(run, a_task_on_scratch_moves_what_it_has) {
    char key[128], line[256];
    write_many();
    cr_assert_eq(mkdir("node", 0777), 0);
    plan_says("x.yaml", "capture", "key", key);
    /* a run that is planned and has nothing done */
    pid_t pid = start((const char *[]){"keystep", "run", "x.yaml", NULL});
    wait_for("runs/x/stages/capture-*/task-whole.json");
    kill(pid, SIGKILL);
    end_of(pid);
    nanosleep(&(struct timespec){1, 0}, NULL); /* its child ends with it */
    interrupt((const char *[]){"keystep", "run", "runs/x", "--stage", key,
                               "--scratch", "node", NULL},
              "node/keystep-*/acts.h5.journal", SIGUSR1);
    cr_expect_eq(system("ls runs/x/stages/capture-*/acts.h5.part >/dev/null"),
                 0);
    cr_expect_neq(system("ls -d node/* 2>/dev/null"), 0);
    snprintf(line, sizeof line, "run runs/x --stage %s --scratch node", key);
    expect_run(line, 0);
    cr_expect_eq(system("grep -q 'were there already' "
                        "runs/x/stages/capture-*/log.txt"),
                 0);
    cr_expect_neq(system("ls -d node/* 2>/dev/null"), 0);
    cr_expect_neq(system("ls runs/x/stages/capture-*/acts.h5.* 2>/dev/null"),
                  0);
    expect_same_as_alone();
    expect_run(line, 0);
    expect_silence("] capture-");
    expect_run("run runs/x --stage 0123 --scratch node", 2);
    expect_said("has no stage, or several, of that key");
}

/* Nothing is left on the node of a task that cannot start: not where its log
 * cannot be written, nor where what is there of it cannot be brought. */
Test(run, a_task_that_cannot_start_leaves_no_scratch) {
    static const char *const in_the_way[] = {"log.txt", "acts.h5.part"};
    char key[128], line[256];
    write_experiment(HEAD "capture: {positions: mean}\n");
    plan_says("x.yaml", "capture", "key", key);
    expect_run("run x.yaml", 0);
    cr_assert_eq(mkdir("node", 0777), 0);
    for (size_t i = 0; i < KS_COUNT(in_the_way); i++) {
        snprintf(line, sizeof line,
                 "cd runs/x/stages/capture-* && rm -rf stage.json log.txt %s "
                 "&& mkdir %s",
                 in_the_way[i], in_the_way[i]);
        cr_assert_eq(system(line), 0, "%s", line);
        snprintf(line, sizeof line, "run runs/x --stage %s --scratch node",
                 key);
        expect_run(line, 1);
        expect_said(in_the_way[i]);
        cr_expect_neq(system("ls -d node/* 2>/dev/null"), 0, "%s",
                      in_the_way[i]);
    }
}

Test(run, a_stage_that_fails_holds_back_what_needs_it_alone) {
    write_experiment(HEAD "capture: {}\nbaselines:\n"
                          "  - {name: a, scores: bad.jsonl}\n"
                          "probe: [{name: good, baselines: [], folds: 3, "
                          "no-text: true, analyses: none}, {name: bad}]\n");
    write_text("bad.jsonl", "{}\n", 3);
    expect_run("run x.yaml", 1);
    expect_said("1 of 3 stages failed: probe-");
    expect_said("bad.jsonl");
    expect_said("log.txt]");
    expect_run("inspect runs/x", 0);
    expect_said("x good resid");
    expect_said("failed");
    write_experiment("name: x\nmodel: m\nproblems: p.jsonl\nsplit: {}\n"
                     "chains: c2.jsonl\n");
    expect_run("run x.yaml", 1);
    expect_said("line 5: chains: ");
}

#endif
