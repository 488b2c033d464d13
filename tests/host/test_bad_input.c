/* What a user can get wrong, command by command: one sentence that names the
 * place, the exit code, and no output that looks whole. The embedded demo model
 * of the tree is the model. */
#include "shell.h"

#ifdef KS_PROGRAM

#define MODEL KS_TEST_DATA "/../../experiments/demo/models/demo-a"

/* Files that every row may use. $1: the model, $2: tests/data. */
static const char make_files[] =
    "set -e; export LC_ALL=C; cp -r \"$1\" m; S=model.safetensors\n"
    "for b in cut empty missing claim nan notok cuttok noconf; do\n"
    "  mkdir $b; ln m/* $b/; done\n"
    "rm cut/$S; head -c 100000 m/$S > cut/$S\n"
    "rm empty/$S; : > empty/$S\n"
    "rm missing/$S; sed 's/layers.1.mlp.down_proj/layers.1.mlp.down_prox/'"
    "  m/$S > missing/$S\n"
    "rm claim/$S; { printf '\\377\\377\\377\\377\\377\\377\\377\\177';"
    "  tail -c +9 m/$S; } > claim/$S\n"
    "rm notok/tokenizer.json noconf/config.json\n"
    "rm cuttok/tokenizer.json\n"
    "head -c 900 m/tokenizer.json > cuttok/tokenizer.json\n"
    "head -c 3000 \"$2/model/llama.gguf\" > cut.gguf\n"
    "cp \"$2/tokenizer/deepseek/tokenizer.json\" other.json\n"
    "one() { printf '{\"id\":\"%s\",\"problem\":\"p\",\"prompt\":\"Q \","
    "\"text\":\"Ada has 7. Ben has 8.\",\"steps\":%s}\\n' \"$1\" \"$2\"; }\n"
    "G='[{\"begin\":0,\"end\":10},{\"begin\":11,\"end\":21}]'\n"
    "{ one a \"$G\"; one b \"$G\"; } > c.jsonl\n"
    "{ one a \"$G\"; one b '[{\"begin\":0,\"end\":99}]'; } > outside.jsonl\n"
    "{ one a \"$G\"; one b "
    "'[{\"begin\":4,\"end\":9},{\"begin\":8,\"end\":10}]';"
    " } > overlap.jsonl\n"
    "{ one a \"$G\"; one a \"$G\"; } > twice.jsonl\n"
    "{ one a \"$G\"; one b null; } > nosteps.jsonl\n"
    "{ one a \"$G\"; one b '[{\"begin\":0,\"end\":1099511627776}]'; }"
    " > huge.jsonl\n"
    "{ one a \"$G\"; one 'b\\u0000' \"$G\"; } > nul.jsonl\n"
    "{ one a \"$G\"; printf '\\000\\n'; } > nulbyte.jsonl\n"
    "{ one a \"$G\"; printf '{\"id\":\"\\377\"}\\n'; } > utf8.jsonl\n"
    "head -c 150 c.jsonl > half.jsonl\n"
    ": > none.jsonl; printf '\\n \\n' > blank.jsonl\n"
    "{ printf '{\"id\":\"l\",\"problem\":\"p\",\"prompt\":\"\",\"steps\":"
    "[{\"begin\":0,\"end\":4}],\"text\":\"';"
    "  yes 'Ada has 7.' | head -n 950000 | tr '\\n' ' '; printf '\"}\\n'; }"
    " > ten.jsonl\n"
    "{ head -c 10000000 /dev/zero | tr '\\0' '['; } > deep.jsonl\n"
    "echo '{\"chain\":\"z\",\"labels\":[1,0]}' > lid.jsonl\n"
    "echo '{\"chain\":\"a\",\"labels\":[1]}' > lcount.jsonl\n"
    "echo '{\"chain\":\"a\",\"labels\":[1,0],\"text_sha256\":\"00\"}'"
    " > lhash.jsonl\n"
    "echo '{\"chain\":\"a\",\"labels\":[1,2]}' > lvalue.jsonl\n"
    "echo '{\"chain\":\"a\",\"labels\":[1,0]}' > l.jsonl\n"
    "echo '{\"id\":\"q\",\"question\":\"How many?\"}' > p.jsonl\n"
    "{ cat p.jsonl; cat p.jsonl; } > ptwice.jsonl\n"
    "echo '{\"id\":\"q\"}' > pnone.jsonl\n"
    "{ printf '{\"id\":\"q\",\"question\":\"';"
    "  yes 'Ada has 7.' | head -n 999 | tr '\\n' ' '; printf '\"}\\n'; }"
    " > plong.jsonl\n"
    "touch taken; mkdir folder; mkfifo pipe\n";

static char folder[64];

static void make_folder(void) {
    char path[128];
    make_temporary(folder, "bad");
    snprintf(path, sizeof path, "%s/make", folder);
    FILE *file = fopen(path, "w");
    cr_assert(file && fputs(make_files, file) >= 0 && fclose(file) == 0);
    char command[1024];
    snprintf(command, sizeof command, "cd '%s' && sh ./make '%s' '%s'", folder,
             MODEL, KS_TEST_DATA);
    cr_assert_eq(system(command), 0);
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(bad_input, .init = make_folder, .fini = drop_folder, .timeout = 600);

static char said[8192];

/* Exit code of a shell line in the folder; $K is the program; what it wrote
 * to stderr is in `said`. */
static int shell(const char *line) {
    char command[2048];
    snprintf(command, sizeof command, "cd '%s' && K='%s' && { %s; } 2>&1 >out",
             folder, KS_PROGRAM, line);
    return shell_run(command, said, sizeof said);
}

static int count_lines(void) {
    int n = 0;
    for (const char *at = said; (at = strchr(at, '\n')); at++) n++;
    return n;
}

static bool is_there(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

typedef struct row {
    const char *args; /* the outputs are x, x.h5, x.jsonl */
    const char *words[3];
} row;

/* Each row: exit code 1, one line on stderr with the words, no output. */
static void refuse(const char *start, const row *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char line[512];
        snprintf(line, sizeof line, "$K %s %s </dev/null", start, rows[i].args);
        int code = shell(line);
        cr_expect(code == 1, "%s: exit %d, '%s'", line, code, said);
        cr_expect(count_lines() == 1, "%s: not one line: '%s'", line, said);
        for (int k = 0; k < 3 && rows[i].words[k]; k++)
            cr_expect(strstr(said, rows[i].words[k]), "%s: '%s' lacks '%s'",
                      line, said, rows[i].words[k]);
        cr_expect(!is_there("x.h5") && !is_there("x.jsonl"), "%s left a file",
                  line);
    }
}

#define REFUSE(start, ...)                                                     \
    refuse(start, (row[]){__VA_ARGS__},                                        \
           sizeof((row[]){__VA_ARGS__}) / sizeof(row))

#define CAPTURE "capture --quiet --threads 1"

Test(bad_input, models) {
    REFUSE(
        CAPTURE " --chains c.jsonl --out x.h5",
        {"--model cut", {"cut/model.safetensors", "tensor '", "bytes"}},
        {"--model empty", {"empty/model.safetensors", "cut short: 0 bytes"}},
        {"--model missing",
         {"missing/model.safetensors", "layers.1.mlp.down_proj", "missing"}},
        {"--model claim", {"claim/model.safetensors", "9223372036854775807"}},
        {"--model noconf", {"noconf", "config.json"}},
        {"--model notok", {"notok/tokenizer.json"}},
        {"--model cuttok", {"cuttok/tokenizer.json", "line "}},
        {"--model cut.gguf", {"cut.gguf"}},
        {"--model c.jsonl", {"c.jsonl", "not a model", "GGUF"}},
        {"--model /dev/null", {"/dev/null", "not a model"}},
        {"--model nowhere", {"nowhere"}},
        {"--model m --tokenizer other.json",
         {"c.jsonl: chain 'a'", "token id", "does not fit the model"}},
        {"--model m --tokenizer nowhere.json", {"nowhere.json"}},
        {"--model m --backend cuda", {"cuda", "cpu"}});
}

Test(bad_input, chains) {
    REFUSE(CAPTURE " --model m --out x.h5",
           {"--chains outside.jsonl",
            {"outside.jsonl line 2", "0 to 99", "text has 21"}},
           {"--chains overlap.jsonl",
            {"overlap.jsonl line 2", "step 1", "byte 8"}},
           {"--chains twice.jsonl", {"twice.jsonl line 2", "\"a\"", "line 1"}},
           {"--chains nosteps.jsonl", {"nosteps.jsonl", "'b'", "split"}},
           {"--chains huge.jsonl", {"huge.jsonl line 2", "1099511627776"}},
           {"--chains nul.jsonl", {"nul.jsonl line 2", "NUL"}},
           {"--chains nulbyte.jsonl", {"nulbyte.jsonl line 2"}},
           {"--chains utf8.jsonl", {"utf8.jsonl line 2", "byte 8", "UTF-8"}},
           {"--chains half.jsonl", {"half.jsonl line 2"}},
           {"--chains none.jsonl", {"none.jsonl", "empty", "chains"}},
           {"--chains blank.jsonl", {"blank.jsonl", "empty", "chains"}},
           {"--chains deep.jsonl", {"deep.jsonl line 1", "depth"}},
           {"--chains ten.jsonl",
            {"ten.jsonl: chain 'l'", "tokens", "--truncate"}},
           {"--chains folder", {"folder", "directory"}},
           {"--chains nowhere.jsonl", {"nowhere.jsonl", "No such file"}});
}

/* Memory would grow without end, or to the limit that stands here. */
#define BOUND                                                                  \
    "ulimit -t 60; [ -n \"$KS_UNDER_SANITIZER\" ] || ulimit -v 4000000; "      \
    "export OMP_NUM_THREADS=1; "

/* A line of /dev/zero has no end; pipes have one, and are taken. */
Test(bad_input, devices_without_an_end) {
    static const char *const lines[] = {
        "generate --quiet --model m --out x.jsonl --problems /dev/zero",
        "split --out x.jsonl --chains /dev/zero",
        "inspect /dev/zero",
        CAPTURE " --model m --out x.h5 --chains c.jsonl --labels /dev/zero",
        CAPTURE " --model m --out x.h5 --chains c.jsonl --tokenizer /dev/zero",
        "label --quiet --model m --out x.jsonl --problems p.jsonl "
        "--chains c.jsonl --clean y.jsonl --method external "
        "--ranking /dev/zero",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char line[512];
        snprintf(line, sizeof line, BOUND "$K %s </dev/null", lines[i]);
        cr_expect_eq(shell(line), 1, "%s: '%s'", line, said);
        cr_expect(strstr(said, "/dev/zero: is a device") && count_lines() == 1,
                  "%s: '%s'", line, said);
        cr_expect(!is_there("x.h5") && !is_there("x.jsonl"), "%s", line);
    }
    cr_expect_eq(shell(BOUND "$K split --chains - --out x.jsonl </dev/zero"), 1,
                 "%s", said);
    cr_expect(strstr(said, "standard input: is a device"), "%s", said);
    cr_expect_eq(shell(BOUND "head -c 300000000 /dev/zero | $K " CAPTURE
                             " --model m --chains c.jsonl --out x.h5 "
                             "--tokenizer /dev/stdin"),
                 1, "%s", said);
    cr_expect(strstr(said, "/dev/stdin: more than 268435456 bytes"), "%s",
              said);
    cr_expect_eq(shell("cat c.jsonl | $K split --chains /dev/stdin --out a && "
                       "$K split --chains c.jsonl --out b && cmp a b"),
                 0, "%s", said);
}

Test(bad_input, labels) {
    REFUSE(CAPTURE " --model m --chains c.jsonl --out x.h5",
           {"--labels lid.jsonl", {"lid.jsonl", "\"z\"", "c.jsonl"}},
           {"--labels lcount.jsonl",
            {"lcount.jsonl", "1 labels", "2 steps in c.jsonl"}},
           {"--labels lhash.jsonl", {"lhash.jsonl", "\"a\"", "another text"}},
           {"--labels lvalue.jsonl", {"lvalue.jsonl line 1", "labels[1]"}},
           {"--labels none.jsonl", {"none.jsonl", "empty", "labels"}},
           {"--labels c.jsonl", {"c.jsonl line 1", "\"chain\""}},
           {"--labels l.jsonl --labels-on original --clean c.jsonl",
            {"c.jsonl: chain \"a\"", "\"of\""}});
}

Test(bad_input, outputs) {
    REFUSE(CAPTURE " --model m --chains c.jsonl",
           {"--out taken", {"taken exists", "--force"}},
           {"--out folder --force", {"folder exists and is a folder"}},
           {"--out pipe --force", {"pipe exists and is no regular file"}},
           {"--out /dev/full --force", {"/dev/full", "no regular file"}},
           {"--out nowhere/x.h5", {"nowhere/x.h5", "No such file"}},
           {"--out x.h5 --memory 10K", {"c.jsonl: chain 'a'", "--memory"}});
    REFUSE("split --chains c.jsonl", {"--out taken", {"taken exists"}},
           {"--out folder --force", {"is a folder"}},
           {"--out nowhere/x", {"nowhere/x"}});
    cr_expect(is_there("taken") && !is_there("taken.new"));
    cr_expect(access("/dev/full", W_OK) == 0);
}

Test(bad_input, problems) {
    REFUSE("generate --quiet --threads 1 --max-new 2 --out x.jsonl",
           {"--model m --problems ptwice.jsonl",
            {"ptwice.jsonl line 2", "\"q\"", "line 1"}},
           {"--model m --problems pnone.jsonl",
            {"pnone.jsonl line 1", "question"}},
           {"--model m --problems plong.jsonl",
            {"plong.jsonl: problem q", "tokens", "context is"}},
           {"--model m --problems none.jsonl", {"none.jsonl is empty"}},
           {"--model m --problems utf8.jsonl", {"utf8.jsonl line 1"}},
           {"--model m --problems folder", {"folder", "directory"}},
           {"--model cut --problems p.jsonl", {"cut/model.safetensors"}},
           {"--model m --tokenizer other.json --problems p.jsonl",
            {"p.jsonl: problem q", "token id", "does not fit"}});
}

Test(bad_input, split_inspect_verify) {
    REFUSE("split --out x.jsonl", {"--chains half.jsonl", {"line 2"}},
           {"--chains none.jsonl", {"none.jsonl is empty"}});
    REFUSE("inspect", {"nowhere", {"nowhere"}}, {"cut", {"cut/model."}},
           {"cut.gguf", {"cut.gguf"}},
           {"cuttok/tokenizer.json", {"cuttok/tokenizer.json"}},
           {"utf8.jsonl", {"utf8.jsonl line 2"}}, {"none.jsonl", {"none."}},
           {"outside.jsonl", {"outside.jsonl line 2"}});
    REFUSE("verify", {"c.jsonl", {"c.jsonl", "HDF5"}}, {"folder", {"folder"}},
           {"none.jsonl", {"none.jsonl"}}, {"nowhere", {"nowhere"}});
}

Test(bad_input, usage) {
    static const char *const lines[] = {
        "nonsense",
        "capture --model m --chains c.jsonl",
        CAPTURE " --model m --chains c.jsonl --out -",
        CAPTURE " --model m --chains c.jsonl --out ''",
        CAPTURE " --model '' --chains c.jsonl --out x.h5",
        CAPTURE " --model m --chains c.jsonl --out x.h5 more",
        CAPTURE " --model m --chains c.jsonl --out x.h5 --threads 0",
        CAPTURE " --model m --chains c.jsonl --out x.h5 --threads 2000",
        CAPTURE " --model m --chains c.jsonl --out x.h5 --threads 9999999999999"
                "9999999",
        CAPTURE " --model m --chains c.jsonl --out x.h5 --memory -5G",
        CAPTURE " --model m --chains c.jsonl --out x.h5 --memory 1e30",
        CAPTURE " --model m --chains c.jsonl --out x.h5 --streams resid,,mlp",
        CAPTURE " --model m --chains c.jsonl --out x.h5 --dtype f64",
        CAPTURE " --model m --chains c.jsonl --out x.h5 --context none "
                "--positions before",
        CAPTURE " --model m --chains c.jsonl --out x.h5 --labels l.jsonl "
                "--labels-on original",
        CAPTURE " --model m --chains c.jsonl --out x.h5 --clean c.jsonl",
        "generate --model m --problems p.jsonl --out x.jsonl --top-p 2",
        "generate --model m --problems p.jsonl --out x.jsonl --temperature nan",
        "generate --model m --problems p.jsonl --out x.jsonl --seed -1",
        "split",
        "score",
        "verify",
        "inspect",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char line[512];
        snprintf(line, sizeof line, "$K %s </dev/null", lines[i]);
        int code = shell(line);
        cr_expect(code == 2, "%s: exit %d, '%s'", line, code, said);
        cr_expect(strncmp(said, "keystep", 7) == 0, "%s: '%s'", line, said);
        cr_expect(!is_there("x.h5") && !is_there("x.jsonl"), "%s", line);
    }
}

/* A line of ten million bytes and fields that nobody knows are no trouble. */
Test(bad_input, what_is_no_error) {
    cr_assert_eq(shell("sed 's/\"id\"/\"mine\":{\"x\":[null]},&/' c.jsonl > "
                       "extra.jsonl && { head -n 1 c.jsonl; printf '{\"note\":"
                       "\"'; head -c 10000000 /dev/zero | tr '\\0' 'x'; printf "
                       "'\",'; tail -n 1 c.jsonl | cut -c 2-; } > note.jsonl"),
                 0);
    cr_expect_eq(shell("$K " CAPTURE " --model m --chains extra.jsonl --out a"),
                 0, "%s", said);
    cr_expect_eq(shell("$K " CAPTURE " --model m --chains note.jsonl --out b"),
                 0, "%s", said);
    cr_expect_eq(shell("$K verify a b && cmp a b"), 0, "%s", said);
    cr_expect_eq(shell("$K split --chains note.jsonl --out c"), 0, "%s", said);
    cr_expect_eq(shell("$K " CAPTURE
                       " --model m --chains ten.jsonl --out d --truncate "
                       "--positions mean && $K verify d"),
                 0, "%s", said);
}

/* Whatever is printed into a full disk has failed, and says so. */
Test(bad_input, full_disk) {
    static const char *const lines[] = {
        "$K split --chains c.jsonl > /dev/full",
        "$K inspect c.jsonl > /dev/full",
        "echo '{\"text\":\"a\"}' | $K tokenize --model m > /dev/full",
        "echo '{\"text\":\"a\"}' | $K text split > /dev/full",
        "$K capture --model m --chains c.jsonl --out x.h5 --dry-run "
        "> /dev/full",
        "$K generate --quiet --model m --problems p.jsonl --out - --max-new 2 "
        "> /dev/full",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        int code = shell(lines[i]);
        cr_expect(code == 1, "%s: exit %d, '%s'", lines[i], code, said);
        cr_expect(strstr(said, "standard output: cannot write"), "%s: '%s'",
                  lines[i], said);
    }
    /* blocks of 512 bytes: the file does not fit */
    cr_expect_eq(shell("ulimit -f 40; $K " CAPTURE
                       " --model m --chains c.jsonl --out x.h5"),
                 1, "%s", said);
    cr_expect(strstr(said, "x.h5.part") && strstr(said, "large"), "%s", said);
    cr_expect(!is_there("x.h5"));
    cr_expect_eq(shell("yes \"$(head -n 1 c.jsonl)\" | head -n 300 | awk "
                       "'{sub(/\"id\":\"a\"/, \"\\\"id\\\":\\\"\" NR \"\\\"\");"
                       " print}' > many.jsonl; ulimit -f 10; $K split --chains "
                       "many.jsonl --out x.jsonl"),
                 1, "%s", said);
    cr_expect(strstr(said, "x.jsonl.new: cannot write"), "%s", said);
    cr_expect(!is_there("x.jsonl") && !is_there("x.jsonl.new"));
}

/* Resuming under another config is refused and keeps what is there. */
Test(bad_input, resume_with_other_settings) {
    cr_assert_eq(shell("$K " CAPTURE " --model m --chains c.jsonl --out x.h5"),
                 0, "%s", said);
    static const char *const more[] = {
        "--chains c.jsonl --positions mean", "--chains c.jsonl --dtype f32",
        "--chains c.jsonl --random-weights 1", "--chains d.jsonl"};
    cr_assert_eq(shell("sed 's/Ben/Cem/' c.jsonl > d.jsonl"), 0);
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        char line[256];
        snprintf(line, sizeof line,
                 "cp x.h5 y.h5; $K " CAPTURE
                 " --model m --out x.h5 --resume %s; c=$?; cmp x.h5 y.h5 || "
                 "c=9; exit $c",
                 more[i]);
        cr_expect_eq(shell(line), 1, "%s: %s", line, said);
        cr_expect(strstr(said, "x.h5"), "%s", said);
    }
    cr_expect_eq(shell("$K " CAPTURE " --model m --chains c.jsonl --out x.h5 "
                       "--resume && cmp x.h5 y.h5"),
                 0, "%s", said);
}

#endif
