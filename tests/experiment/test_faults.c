/* keystep run where something is not as it was, or not ours: inputs that change
 * under it, folders in the way on the node, shards of other inputs, words that
 * are no text. */
#include <sys/stat.h>

#include "fixture.h"

#ifdef KS_PROGRAM

TestSuite(faults, .init = make_folder, .fini = drop_folder, .timeout = 300);

static void shell(const char *command) {
    cr_assert_eq(system(command), 0, "%s", command);
}

/* ------------------------------------------------------------------ inputs */

/* A run whose `file` changes while its capture is at work: exit code. */
static int run_and_change(const char *file) {
    char command[128];
    int status;
    write_chains(getenv("KS_UNDER_SANITIZER") ? 150 : 600);
    write_experiment(HEAD "capture: {positions: mean}\n"
                          "probe: {folds: 3, bootstrap: 100, no-text: true, "
                          "analyses: none, layers: 1, strengths: 1}\n"
                          "machine: {threads: 1, batch-tokens: 64}\n");
    pid_t pid = start((const char *[]){"keystep", "run", "x.yaml", NULL});
    wait_for("runs/x/stages/capture-*/acts.h5.journal");
    snprintf(command, sizeof command, "echo >>%s", file);
    shell(command);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    shell_run("cat words", said, sizeof said);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The key of a stage has the content that was there when it was planned. */
Test(faults, an_input_that_changes_ahead_of_its_stage_is_not_taken) {
    cr_expect_eq(run_and_change("l.jsonl"), 1);
    expect_said("l.jsonl: is another file than when this was planned");
    cr_expect_neq(system("ls runs/x/stages/probe-*/stage.json 2>/dev/null"), 0);
    cr_expect_eq(system("ls runs/x/stages/capture-*/stage.json >words"), 0);
    expect_run("run x.yaml", 0); /* planned anew */
    expect_silence("] capture-");
    expect_said("] probe-");
}

Test(faults, an_input_that_changes_under_its_stage_leaves_it_undone) {
    cr_expect_eq(run_and_change("c.jsonl"), 1);
    expect_said("c.jsonl: is another file than when this was planned");
    cr_expect_neq(system("ls runs/x/stages/capture-*/stage.json 2>/dev/null"),
                  0);
    cr_expect_neq(system("ls runs/x/stages/capture-*/acts.h5 2>/dev/null"), 0);
}

/* What begins a text, and the chat template, stand beside tokenizer.json. */
Test(faults, a_tokenizers_settings_are_part_of_a_key) {
    char before[128], after[128];
    write_experiment(HEAD "tokenizer: t/tokenizer.json\ncapture: {}\n");
    shell("mkdir t && cp m/tokenizer.json m/tokenizer_config.json t");
    plan_says("x.yaml", "capture", "key", before);
    shell("echo >>t/tokenizer_config.json");
    plan_says("x.yaml", "capture", "key", after);
    cr_expect_str_neq(before, after);
    shell("rm t/tokenizer_config.json");
    plan_says("x.yaml", "capture", "key", before);
    cr_expect_str_neq(before, after);
}

/* Written twice within one tick of the file system's clock. */
Test(faults, a_new_file_is_not_known_by_its_time) {
    char before[128], after[128];
    write_experiment(HEAD "capture: {positions: mean}\n");
    shell("touch -d '1 hour' c.jsonl && cp -p c.jsonl like");
    expect_run("run x.yaml", 0);
    plan_says("x.yaml", "capture", "key", before);
    shell("sed -i 's/coins has Mona/coins had Mona/' c.jsonl && "
          "touch -r like c.jsonl");
    plan_says("x.yaml", "capture", "key", after);
    cr_expect_str_neq(before, after, "what was there before is taken for it");
}

/* inputs.json spares reading, and no more. */
Test(faults, a_damaged_list_of_inputs_is_made_anew) {
    static const struct {
        const char *damage, *why;
    } all[] = {{"head -c 40 runs/x/inputs.json >cut && "
                "cp cut runs/x/inputs.json",
                "inputs.json line "},
               {": >runs/x/inputs.json", "inputs.json line "},
               {"echo '[]' >runs/x/inputs.json", "expected an object 'files'"},
               {"echo '{\"files\":[]}' >runs/x/inputs.json",
                "expected an object 'files'"}};
    char key[128], again[128];
    write_experiment(HEAD "capture: {positions: mean}\n");
    /* what has just been written may change unseen, and is not in the list */
    shell("find c.jsonl m -exec touch -d '1 hour ago' {} +");
    expect_run("run x.yaml", 0);
    plan_says("x.yaml", "capture", "key", key);
    shell("cp runs/x/inputs.json whole");
    for (size_t i = 0; i < KS_COUNT(all); i++) {
        shell(all[i].damage);
        expect_run("run runs/x", 0);
        expect_said("run: given files are read anew for their SHA-256: /");
        expect_said(all[i].why);
        expect_said("all stages are done");
        shell("cmp whole runs/x/inputs.json");
        expect_run("run runs/x", 0);
        expect_silence("anew");
    }
    /* one entry that is none is one file that is read */
    shell("sed -i 's/\"sha256\": \"......../\"sha256\": \"zzzzzzzz/; "
          "s/\"bytes\": [0-9]*/\"bytes\": []/' runs/x/inputs.json");
    plan_says("x.yaml", "capture", "key", again);
    cr_expect_str_eq(again, key);
    expect_run("run runs/x", 0);
    expect_silence("anew");
    expect_said("all stages are done");
    shell("cmp whole runs/x/inputs.json");
}

/* A baseline's capture reads what the main one reads, or another file. */
Test(faults, diff_tells_inputs_of_baselines_apart) {
    write_experiment(HEAD "capture: {positions: mean, tokenizer: t/a.json}\n"
                          "baselines: [{name: other, capture: {tokenizer: "
                          "t/b.json}}]\nprobe: {folds: 3, bootstrap: 100, "
                          "no-text: true, analyses: none, layers: 1}\n");
    shell("mkdir t && cp m/tokenizer.json t/a.json && cp t/a.json t/b.json && "
          "echo >>t/b.json");
    expect_run("run x.yaml --out a", 0);
    shell("echo ' ' >>t/a.json");
    expect_run("run x.yaml --out b", 0);
    expect_run("diff a b", 0);
    expect_said("tokenizer of capture, x: ");
    expect_silence("tokenizer of capture, x: other");
}

/* A folder whose name begins like the run's is not in it. */
Test(faults, a_run_knows_whence_its_paths_are) {
    char key[128], kept[128];
    write_experiment(HEAD "capture: {positions: mean}\n");
    expect_run("run x.yaml --out exp", 0);
    shell("mkdir exp-2 && cp -r m x.yaml exp-2 && head -20 c.jsonl "
          ">exp-2/c.jsonl && head -20 l.jsonl >exp-2/l.jsonl");
    expect_run("run exp-2/x.yaml --out exp", 0);
    expect_said("] capture-");
    plan_says("exp-2/x.yaml", "capture", "key", key);
    plan_says("exp", "capture", "key", kept);
    cr_expect_str_eq(kept, key, "the folder reads other inputs than the file");
}

/* An axis of what joins all cells would be one value of it, without a word. */
Test(faults, no_axis_of_what_joins_cells) {
    static const char *const keys[] = {
        "report.title: [a, b]", "arm: {a: {transfer.folds: 2}, b: {}}",
        "arm: {a: {report: false}, b: {}}", "launch.ranks: [1, 2]"};
    for (size_t i = 0; i < KS_COUNT(keys); i++) {
        char text[512];
        snprintf(text, sizeof text, "%sreport: {}\nmatrix:\n  %s\n", SMALL,
                 keys[i]);
        write_experiment(text);
        expect_run("run x.yaml --explain", 2);
        expect_said("is the same for all cells");
    }
}

/* ------------------------------------------------------------------ shards */

/* Shards that are there already were made of other inputs. */
Test(faults, shards_of_a_stale_stage_are_not_joined) {
    char key[128], line[256];
    write_experiment(HEAD "split: {}\ncapture: {positions: mean}\n");
    plan_says("x.yaml", "capture", "key", key);
    expect_run("launch x.yaml --local 2", 0);
    shell("ls runs/x/stages/capture-*/acts.2-of-2.h5 >words");
    /* as if the same stage had come out otherwise */
    shell("sed -i 's/\"sha256\": \"......../\"sha256\": \"00000000/' "
          "runs/x/stages/split-*/stage.json");
    snprintf(line, sizeof line, "run runs/x --stage %s --shard 1/2", key);
    expect_run(line, 1);
    expect_said("was made of inputs that were made anew since");
    snprintf(line, sizeof line, "run runs/x --stage %s --join 2", key);
    expect_run(line, 1);
    expect_said("was made of inputs that were made anew since");
    expect_run("run runs/x", 0);
    expect_said("] capture-");
}

/* What another number of processes began is no output of the stage. */
Test(faults, shards_of_another_number_are_no_outputs) {
    char key[128], line[256];
    write_experiment(HEAD "capture: {positions: mean}\nlaunch: {ranks: 2}\n");
    plan_says("x.yaml", "capture", "key", key);
    expect_run("run x.yaml", 0);
    shell("cp runs/x/stages/capture-*/stage.json alone.json");
    expect_run("run x.yaml --again capture", 0);
    shell("rm runs/x/stages/capture-*/stage.json "
          "runs/x/stages/capture-*/acts.h5");
    snprintf(line, sizeof line, "run runs/x --stage %s --shard 1/3", key);
    expect_run(line, 0);
    shell("touch runs/x/stages/capture-*/acts.1-of-3.h5");
    expect_run("run x.yaml", 0);
    cr_expect_neq(system("ls runs/x/stages/capture-*/acts.?-of-* 2>/dev/null"),
                  0);
    cr_expect_neq(
        system("grep -q of-3 runs/x/stages/capture-*/stage.json 2>/dev/null"),
        0);
    snprintf(line, sizeof line, "run runs/x --stage %s --shard 1/2 --join 2",
             key);
    expect_run(line, 2);
    expect_said("--shard and --join");
}

Test(faults, a_stage_that_fails_is_one_stage) {
    write_experiment(HEAD "capture: {positions: mean}\nlaunch: {retries: 0}\n");
    shell("echo '{}' >>c.jsonl");
    expect_run("launch x.yaml --local 2", 1);
    expect_said("1 of 1 stages failed: ");
}

/* ----------------------------------------------------------------- scratch */

/* The name of the capture's folder on the node. */
static void name_scratch(char *out, size_t n) {
    shell("printf %s \"$PWD/runs/x\" | sha256sum | cut -c1-8 >hash; "
          "cd runs/x/stages && ls -d capture-* >../../../id");
    char hash[64] = "", id[64] = "";
    shell_run("tr -d '\\n' <hash", hash, sizeof hash);
    shell_run("tr -d '\\n' <id", id, sizeof id);
    snprintf(out, n, "node/keystep-%s-%s-whole", hash, id);
}

/* On a disk that others write to somebody may have been there first. */
Test(faults, a_scratch_folder_of_others_is_not_taken) {
    char key[128], line[256], name[192];
    write_experiment(HEAD "capture: {positions: mean}\n");
    plan_says("x.yaml", "capture", "key", key);
    expect_run("run x.yaml", 0);
    shell("rm runs/x/stages/capture-*/stage.json "
          "runs/x/stages/capture-*/acts.h5 && mkdir node theirs");
    name_scratch(name, sizeof name);
    cr_assert_eq(symlink("../theirs", name), 0);
    snprintf(line, sizeof line, "run runs/x --stage %s --scratch node", key);
    expect_run(line, 1);
    expect_said("is no folder of this user's");
    cr_expect_neq(system("ls theirs/* 2>/dev/null"), 0);
    cr_assert_eq(unlink(name), 0);
    if (geteuid() == 0) { /* who can make others' */
        cr_assert(mkdir(name, 0777) == 0 && chown(name, 12345, 12345) == 0);
        expect_run(line, 1);
        expect_said("is no folder of this user's");
        rmdir(name); /* empty, it may have gone as one of ours that cannot be
                        used */
    }
    expect_run(line, 0);
}

/* ------------------------------------------------------------------- words */

/* A sentence that is cut amid a character is none for JSON. */
Test(faults, last_words_that_are_cut_are_still_text) {
    static const char *const shift[] = {"", "a"};
    for (size_t i = 0; i < KS_COUNT(shift); i++) {
        char text[2048], command[4096], path[1024];
        size_t n = (size_t)snprintf(path, sizeof path, "%s", shift[i]);
        for (int k = 0; k < 300; k++)
            n += (size_t)snprintf(path + n, sizeof path - n, "%s",
                                  k % 100 == 99 ? "\xc3\xa9/" : "\xc3\xa9");
        snprintf(command, sizeof command,
                 "rm -rf runs && mkdir -p '%s' && echo '{}' >'%s/c.jsonl'",
                 path, path);
        shell(command);
        snprintf(text, sizeof text,
                 "name: x\nmodel: m\nchains: '%s/c.jsonl'\n"
                 "capture: {positions: mean}\n",
                 path);
        write_experiment(text);
        expect_run("run x.yaml", 1);
        expect_said("1 of 1 stages failed: capture-");
        expect_silence("out of memory");
    }
}

#endif
