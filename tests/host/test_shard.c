/* Outputs of --shard K/N and what keystep join makes of them, as a user runs
 * both, on the embedded demo model: the bytes of a single process, and no hole,
 * no damage and no other run's shard that is not refused by name. */
#include <jansson.h>
#include <signal.h>

#include "shell.h"

#ifdef KS_PROGRAM

#define MODEL KS_TEST_DATA "/../../experiments/demo/models/demo-a"
#define LABEL_DATA KS_TEST_DATA "/label/"

static char folder[64], said[8192];

static void make_folder(void) {
    make_temporary(folder, "shard");
    cr_assert(chdir(folder) == 0);
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(shard, .init = make_folder, .fini = drop_folder, .timeout = 300);

/* The program has this exit code; what it says is in `said`. */
static void keystep(int code, const char *args) {
    char line[1024];
    snprintf(line, sizeof line, "%s %s 2>&1", KS_PROGRAM, args);
    int got = shell_run(line, said, sizeof said);
    cr_assert_eq(got, code, "%s: exit code %d: %s", args, got, said);
}

static void expect_said(const char *words) {
    cr_expect(strstr(said, words), "'%s' lacks '%s'", said, words);
}

static void refused(const char *args, const char *words) {
    keystep(1, args);
    expect_said(words);
}

static void shell(const char *line) {
    cr_assert_eq(system(line), 0, "%s", line);
}

/* All shards of a command, which names its output. */
static void run_shards(const char *command, int n) {
    char line[1024];
    for (int k = 1; k <= n; k++) {
        snprintf(line, sizeof line, "%s --shard %d/%d", command, k, n);
        keystep(0, line);
    }
}

static void flip_a_bit(const char *path, long at) {
    FILE *file = fopen(path, "r+b");
    cr_assert(file && fseek(file, at, SEEK_END) == 0);
    int byte = fgetc(file);
    cr_assert(fseek(file, at, SEEK_END) == 0 && fputc(byte ^ 4, file) >= 0);
    fclose(file);
}

/* n chains, of which three in a row share their prompt; one step of chain 4
 * has no token. */
static void write_chains(const char *name, int n, const char *word) {
    FILE *file = fopen(name, "w");
    cr_assert(file);
    for (int c = 0; c < n; c++) {
        int steps = 3 + c % 4;
        fprintf(file,
                "{\"id\":\"c%d\",\"problem\":\"p%d\",\"prompt\":\"How many "
                "has %d of the ten? \",\"text\":\"",
                c, c / 3, c / 3);
        for (int i = 0; i < steps; i++)
            fprintf(file, "%s has %02d. ", word, i + c);
        fputs("\",\"steps\":[", file);
        for (int i = 0; i < steps; i++)
            fprintf(file, "%s{\"begin\":%d,\"end\":%d}", i ? "," : "", 12 * i,
                    12 * i + 11);
        if (c == 4)
            fprintf(file, ",{\"begin\":%d,\"end\":%d}", 12 * steps - 1,
                    12 * steps - 1);
        fputs("]}\n", file);
    }
    fclose(file);
}

#define CAPTURE "capture --quiet --threads 1 --model " MODEL " "

/* ------------------------------------------------------------- activations */

Test(shard, a_copied_join_is_what_one_process_writes) {
    static const struct {
        const char *options;
        int chains, shards;
    } runs[] = {
        {"--positions mean,before,tokens --streams resid,attn,mlp", 11, 3},
        {"--context none --dtype f32", 6, 2},
        {"--positions last --random-weights 3 --dtype f16", 4, 4},
    };
    char line[512];
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        int n = runs[i].shards;
        write_chains("c.jsonl", runs[i].chains, "Ada");
        snprintf(line, sizeof line, CAPTURE "--chains c.jsonl %s --out a.h5",
                 runs[i].options);
        keystep(0, line);
        snprintf(line, sizeof line, CAPTURE "--chains c.jsonl %s --out b.h5",
                 runs[i].options);
        run_shards(line, n);
        snprintf(line, sizeof line, "join --quiet --out b.h5 --shards %d", n);
        keystep(0, line);
        keystep(0, "verify --json b.h5");
        json_t *o = json_loads(said, 0, NULL);
        cr_expect_eq(json_integer_value(json_object_get(o, "shards")), n);
        cr_expect(json_is_true(json_object_get(o, "checksums")));
        json_decref(o);
        /* all of it, so resume has nothing to do */
        snprintf(line, sizeof line,
                 CAPTURE "--chains c.jsonl %s --out b.h5 --resume",
                 runs[i].options);
        keystep(0, line);
        snprintf(line, sizeof line,
                 "join --quiet --out b.h5 --shards %d --copy --remove --force",
                 n);
        keystep(0, line);
        shell("cmp a.h5 b.h5 && test \"$(ls | tr '\\n' ' ')\" = "
              "'a.h5 b.h5 c.jsonl ' && rm a.h5 b.h5");
    }
}

static void make_shards(void) {
    write_chains("c.jsonl", 11, "Ada");
    run_shards(CAPTURE "--positions mean,tokens --chains c.jsonl --out a.h5",
               3);
    keystep(0, "join --quiet --out a.h5 --shards 3");
}

Test(shard, a_virtual_file_may_be_moved_with_its_shards) {
    make_shards();
    shell("mkdir d other && mv a.*h5 d && cp d/a.1-of-3.h5 other && "
          "ln -s ../d/a.h5 other/link.h5");
    keystep(0, "verify d/a.h5");
    shell("cd other && " KS_PROGRAM " verify ../d/a.h5 && " KS_PROGRAM
          " verify link.h5");
    keystep(0, "inspect d/a.h5");
    expect_said("joined from shards");
    keystep(0, "inspect d/a.2-of-3.h5");
    expect_said("2/3");
    keystep(0, "verify d/a.2-of-3.h5");
    /* the library would look there first */
    shell("HDF5_VDS_PREFIX=other " KS_PROGRAM " verify d/a.h5 2>said; "
          "test $? = 1 && grep -q 'HDF5_VDS_PREFIX is set' said");
}

Test(shard, a_shard_alone_is_no_set_to_probe) {
    make_shards();
    shell("printf '{\"chain\":\"c0\",\"labels\":[1,0,1]}\\n' > l.jsonl");
    refused("probe --quiet --acts a.2-of-3.h5 --labels l.jsonl --out o",
            "a.2-of-3.h5: is shard 2/3 of a run; keystep join makes");
    refused("transfer --quiet --set a=a.2-of-3.h5:l.jsonl --set "
            "b=a.h5:l.jsonl --out o",
            "is shard 2/3 of a run");
    shell("test ! -e o");
}

#define JOIN "join --quiet --out a.h5 --shards 3 --force"

Test(shard, holes_and_damage_of_activations_are_named) {
    make_shards();
    refused("join --out a.h5 --shards 3", "a.h5 exists; --force");
    refused("join --out a.h5 --shards 4 --force",
            "4 of 4 shards are missing: a.1-of-4.h5, a.2-of-4.h5");
    keystep(2, JOIN " --remove");
    expect_said("--remove would take away the rows");
    shell("mv a.2-of-3.h5 kept && touch a.2-of-3.h5.part");
    refused(JOIN, "1 of 3 shards is missing: a.2-of-3.h5 (interrupted");
    refused("verify a.h5", "a.2-of-3.h5: a shard cannot be opened");
    /* cut short; of another place; of another run; not a shard */
    shell("head -c 300000 kept > a.2-of-3.h5");
    refused(JOIN, "a.2-of-3.h5");
    refused("verify a.h5", "a.2-of-3.h5");
    shell("cp a.3-of-3.h5 a.2-of-3.h5");
    refused(JOIN, "a.2-of-3.h5: is shard 3/3, expected 2/3");
    refused("verify a.h5", "a.2-of-3.h5");
    write_chains("d.jsonl", 11, "Bob");
    keystep(0, CAPTURE "--positions mean,tokens --chains d.jsonl --out a.h5 "
                       "--shard 2/3 --force");
    refused(JOIN, "a.1-of-3.h5 and a.2-of-3.h5 are shards of different runs");
    expect_said("the identity of the whole (its chains, steps and labels)");
    refused("verify a.h5", "a.2-of-3.h5: is a shard of another run than a.h5");
    keystep(0, CAPTURE "--positions mean,tokens --chains c.jsonl --out a.h5 "
                       "--random-weights 1 --shard 2/3 --force");
    refused(JOIN, "different runs: the model's SHA-256 is");
    keystep(0, CAPTURE "--positions mean,tokens --chains c.jsonl --out x.h5");
    shell("cp x.h5 a.2-of-3.h5");
    refused(JOIN, "a.2-of-3.h5: is no shard");
    refused("verify a.h5", "a.2-of-3.h5: has no attribute 'shard'");
    /* one bit of a row */
    shell("cp kept a.2-of-3.h5");
    flip_a_bit("a.2-of-3.h5", -64);
    refused(JOIN " --copy",
            "does not have the checksum that was stored with it");
    expect_said("a.2-of-3.h5: /activations/");
    refused("verify a.h5", "a.2-of-3.h5: /activations/");
    /* what was there is still there, and nothing else */
    shell("cp kept a.2-of-3.h5 && ! ls a.h5.* 2>/dev/null");
    keystep(0, "verify a.h5");
    keystep(0, JOIN " --copy");
    shell("cmp a.h5 x.h5");
}

Test(shard, a_join_waits_for_no_other) {
    make_shards();
    ks_lock lock;
    ks_err err = {0};
    cr_assert_eq(ks_lock_take(&lock, "a.h5", &err), KS_OK, "%s", err.text);
    refused(JOIN, "a.h5 is being written by process");
    ks_lock_drop(&lock);
    /* two at once: each is whole or is refused */
    shell("for i in 1 2 3; do " KS_PROGRAM " " JOIN " --copy >/dev/null 2>&1 & "
          "done; wait; " KS_PROGRAM " verify a.h5 && ! ls a.h5.* 2>/dev/null");
}

Test(shard, an_interrupted_shard_resumes) {
    int status = 0;
    write_chains("c.jsonl", 90, "Ada");
    run_shards(CAPTURE "--chains c.jsonl --out a.h5", 2);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c",
              "exec " KS_PROGRAM " " CAPTURE "--batch-tokens 64 "
              "--chains c.jsonl --out b.h5 --shard 2/2 >/dev/null 2>&1",
              (char *)NULL);
        _exit(127);
    }
    while (access("b.2-of-2.h5.journal", F_OK) != 0 &&
           waitpid(child, &status, WNOHANG) == 0)
        usleep(1000);
    kill(child, SIGUSR1);
    waitpid(child, &status, 0);
    if (access("b.2-of-2.h5", F_OK) == 0)
        cr_skip_test("the machine was too fast");
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 130);
    /* another chain of the other shard is another run */
    shell("sed '1s/Ada/Bob/' c.jsonl > d.jsonl");
    refused(CAPTURE "--chains d.jsonl --out b.h5 --shard 2/2 --resume",
            "b.2-of-2.h5.part was made from other chains or settings, in this "
            "shard or in another");
    refused(CAPTURE "--chains c.jsonl --out b.2-of-2.h5 --resume",
            "b.2-of-2.h5.part was made with shard '2/2', now it is 'none'");
    keystep(0, CAPTURE "--chains c.jsonl --out b.h5 --shard 2/2 --resume");
    shell("cmp a.2-of-2.h5 b.2-of-2.h5 && ! ls b.2-of-2.h5.* 2>/dev/null");
}

Test(shard, more_shards_than_chains_and_what_is_none) {
    write_chains("c.jsonl", 3, "Ada");
    keystep(2, CAPTURE "--chains c.jsonl --out a.h5 --shard 1/4");
    expect_said("--shard 1/4: c.jsonl has 3 chains with a step, so there are "
                "at most as many shards");
    static const char *const bad[] = {"0/2",  "3/2",  "2",    "/2",      "1/",
                                      "1/2x", "-1/2", "1/ 2", "1/100001"};
    char line[256];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(line, sizeof line,
                 CAPTURE "--chains c.jsonl --out a.h5 --shard '%s'", bad[i]);
        keystep(2, line);
        expect_said("--shard takes K/N");
    }
    keystep(2, "score --model " MODEL " --chains c.jsonl --out - --shard 1/2");
    expect_said("--shard takes files");
    keystep(2, "score --model " MODEL " --shard 1/2");
    expect_said("--shard goes with --chains");
    keystep(2, "join --out a.h5");
    expect_said("--shards is missing");
    /* wrong in a chain of another shard: all say so */
    shell("sed '3s/\"problem\"/\"p\"/' c.jsonl > d.jsonl");
    refused(CAPTURE "--chains d.jsonl --out a.h5 --shard 1/3",
            "d.jsonl line 3: no \"problem\"");
    shell("sed '2s/\"steps\":.*/\"steps\":[]}/' c.jsonl > d.jsonl");
    keystep(2, CAPTURE "--chains d.jsonl --out a.h5 --shard 2/3");
    expect_said("--shard 2/3: d.jsonl has 2 chains with a step");
    shell("sed 's/\"steps\":.*/\"steps\":[]}/' c.jsonl > d.jsonl");
    refused(CAPTURE "--chains d.jsonl --out a.h5 --shard 1/2",
            "d.jsonl: no chain has a step");
    shell("! ls a.* 2>/dev/null");
}

/* Shares are cut over the chains that have a step: cut over all, some of these
 * would have nothing to keep. */
Test(shard, every_share_of_a_capture_has_a_step) {
#define NONE "s/\"steps\":.*/\"steps\":[]}/;"
    static const struct {
        const char *sed;
        int left;
    } cases[] = {{"1,4" NONE, 7},
                 {"3,9" NONE, 4},
                 {"8,11" NONE, 7},
                 {"1,3" NONE "5,8" NONE "10,11" NONE, 2}};
    char line[512];
    write_chains("c.jsonl", 11, "Ada");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int n = cases[i].left;
        snprintf(line, sizeof line,
                 "sed '%s' c.jsonl >d.jsonl && "
                 "test $(grep -c -v '\"steps\":\\[\\]' d.jsonl) = %d",
                 cases[i].sed, n);
        shell(line);
        keystep(0, CAPTURE "--positions mean --chains d.jsonl --out a.h5");
        run_shards(CAPTURE "--positions mean --chains d.jsonl --out b.h5", n);
        snprintf(line, sizeof line,
                 "join --quiet --out b.h5 --shards %d --copy", n);
        keystep(0, line);
        shell("cmp a.h5 b.h5 && rm *.h5");
    }
#undef NONE
}

/* -------------------------------------------------------------- JSON Lines */

#define GENERATE                                                               \
    "generate --quiet --threads 1 --model " MODEL " --problems p.jsonl "       \
    "--samples 2 --temperature 1 --max-new 24 "

static void write_problems(void) {
    FILE *file = fopen("p.jsonl", "w");
    cr_assert(file);
    for (int i = 0; i < 7; i++)
        fprintf(file, "{\"id\":\"%d\",\"question\":\"Ada has %d.\"}\n", i, i);
    fclose(file);
}

Test(shard, generated_chains_and_scores_join) {
    write_problems();
    write_chains("c.jsonl", 11, "Ada");
    static const struct {
        const char *command;
        int shards;
    } runs[] = {
        {GENERATE, 3},
        {"score --quiet --threads 1 --model " MODEL " --chains c.jsonl", 4}};
    char line[512];
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        snprintf(line, sizeof line, "%s --out a.jsonl", runs[i].command);
        keystep(0, line);
        snprintf(line, sizeof line, "%s --out b.jsonl", runs[i].command);
        run_shards(line, runs[i].shards);
        keystep(0, "inspect b.1-of-*.jsonl");
        expect_said("shard");
        keystep(0, "inspect b.1-of-*.jsonl.shard.json");
        expect_said("note of a shard");
        snprintf(line, sizeof line, "%s --out b.jsonl --shard 1/%d --resume",
                 runs[i].command, runs[i].shards);
        keystep(0, line);
        snprintf(line, sizeof line, "join --out b.jsonl --remove --shards %d",
                 runs[i].shards);
        keystep(0, line);
        shell("cmp a.jsonl b.jsonl && test \"$(ls | tr '\n' ' ')\" = "
              "'a.jsonl b.jsonl c.jsonl p.jsonl ' && rm a.jsonl b.jsonl");
    }
}

#define LABEL                                                                  \
    "label --quiet --threads 1 --model " MODEL " --problems " LABEL_DATA       \
    "problems.jsonl --chains few --orders 1 "                                  \
    "--confirm 0 --influence gradient "

/* Of four chains two are labelled, so one shard of three has no line. */
Test(shard, labels_join_with_their_clean_chains) {
    shell("head -n 4 " LABEL_DATA "chains.jsonl > few");
    keystep(0, LABEL "--out l --clean k --prefixes x.jsonl --skipped u");
    run_shards(LABEL "--out m --clean n --prefixes y.jsonl --skipped v", 3);
    keystep(0, "inspect m.2-of-3");
    keystep(0, "join --out m --shards 3");
    keystep(0, "join --out n --shards 3");
    keystep(0, "join --out y.jsonl --shards 3");
    keystep(0, "join --out v --shards 3");
    shell("cmp l m && cmp k n && cmp x.jsonl y.jsonl && cmp u v && "
          "test $(cat m.1-of-3 m.2-of-3 m.3-of-3 | wc -l) = 2");
    keystep(0, LABEL "--out m --clean n --prefixes y.jsonl --shard 1/3 "
                     "--resume");
    refused(LABEL "--out m --clean n --prefixes y.jsonl --shard 1/3 "
                  "--resume --seed 1",
            "m.1-of-3 was made with other settings: seed is 1 here and 42 "
            "there");
    shell("mv n.1-of-3.shard.json m.1-of-3.shard.json");
    refused("join --out m --shards 3 --force",
            "m.2-of-3 is a shard of another run than m.1-of-3: its output is "
            "'out', that of the first 'clean'");
}

#define JOIN_LINES "join --quiet --out a.jsonl --shards 3"

Test(shard, holes_and_damage_of_lines_are_named) {
    write_problems();
    run_shards(GENERATE "--out a.jsonl --seed 1", 3);
    shell("mkdir k && cp a.* k");
    keystep(2, JOIN_LINES " --copy");
    expect_said("--copy is for activations");
    shell("rm a.2-of-3.jsonl");
    refused(JOIN_LINES, "1 of 3 shards is missing: a.2-of-3.jsonl");
    shell("cp k/* . && sed -i '$d' a.2-of-3.jsonl");
    refused(JOIN_LINES, "a.2-of-3.jsonl: is not what was written");
    shell("cp k/* . && rm a.3-of-3.jsonl.shard.json");
    refused(JOIN_LINES,
            "a.3-of-3.jsonl: a.3-of-3.jsonl.shard.json is not there");
    shell("cp k/* . && cp a.1-of-3.jsonl a.3-of-3.jsonl && "
          "cp a.1-of-3.jsonl.shard.json a.3-of-3.jsonl.shard.json");
    refused(JOIN_LINES, "a.3-of-3.jsonl: is shard 1/3, expected 3/3");
    shell("cp k/* . && sed -i 's/\"begin\": 4/\"begin\": 5/' "
          "a.3-of-3.jsonl.shard.json");
    refused(JOIN_LINES,
            "a.3-of-3.jsonl: takes 5 to 7 of its input's 7, expected 4 to 7");
    shell("cp k/* . && echo '{\"format\":1}' > a.3-of-3.jsonl.shard.json");
    refused(JOIN_LINES, "a.3-of-3.jsonl.shard.json: \"format\" is an integer");
    shell("cp k/* . && echo '{' > a.3-of-3.jsonl.shard.json");
    refused(JOIN_LINES, "a.3-of-3.jsonl.shard.json line ");
    /* another seed, other problems */
    shell("cp k/* .");
    keystep(0, GENERATE "--out a.jsonl --seed 2 --shard 3/3 --force");
    refused(JOIN_LINES, "a.1-of-3.jsonl and a.3-of-3.jsonl are shards of "
                        "different runs: \"seed\" is 1 in the first and 2 in "
                        "the second");
    shell("cp k/* . && sed -i 's/\"0\"/\"00\"/' p.jsonl");
    refused(GENERATE "--out a.jsonl --seed 1 --shard 3/3 --resume",
            "a.3-of-3.jsonl is a shard of another run");
    keystep(0, GENERATE "--out a.jsonl --seed 1 --shard 3/3 --force");
    refused(JOIN_LINES, "are shards of different inputs: sha256");
    /* another machine's */
    shell("cp k/* . && sed -i 's/\"isa\": \"[a-z0-9]*\"/\"isa\": \"z80\"/' "
          "a.3-of-3.jsonl.shard.json");
    refused(JOIN_LINES, "\"isa\" is ");
    expect_said("\"z80\" in the second; --force joins them all the same");
    shell("! ls a.jsonl* 2>/dev/null");
    keystep(0, JOIN_LINES " --force");
    refused(JOIN_LINES, "a.jsonl exists; --force overwrites it");
}

#endif
