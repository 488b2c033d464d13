/* keystep probe --memory: what does not fit is read from a scratch file, with
 * the same bytes in the output, within the memory given, and nothing of it
 * stays behind. */
#include <criterion/criterion.h>
#include <math.h>
#include <sys/resource.h>

#include "acts.h"
#include "philox.h"
#include "shell.h"

#ifdef KS_PROGRAM

static char folder[64];

/* An activation file of attn at mean: steps of 16 bytes, twenty a chain. */
enum { STEPS = 20, BYTES = 16, MOST_CHAINS = 3200 };
typedef struct shape {
    const char *name;
    int chains, width, layers;
    int tokens; /* of a step, kept too; 0: they are not */
} shape;

/* A layer is 78 MiB. */
static const shape big = {"big.h5", 3200, 320, 1, 0};
static const shape small = {"small.h5", 50, 320, 1, 0};
#define LIMIT "36M"
enum { MOST = 36 };

/* Latents common to all features, one of them the label's. */
static void fill(float *x, int width, int layer, int64_t row, int label) {
    const uint64_t key[2] = {11 + (uint64_t)layer, (uint64_t)row};
    float latent[8];
    for (int j = 0; j < width; j += 4) {
        uint32_t word[4];
        ks_philox(key, (uint64_t)j, word);
        for (int k = 0; k < 4; k++) {
            if (j + k < 8) latent[j + k] = ks_philox_unit(word[k]) - 0.5f;
            x[j + k] = ks_philox_unit(word[k]) + latent[(j + k) % 8];
        }
    }
    x[3] += (float)label;
    x[9] += 0.5f * (float)label;
}

/* The rows [n] of a position, `times` for each step, a thousand at a time. */
static void write_rows(ks_acts *acts, const shape *s, ks_position position,
                       int times, const ks_step_row *steps) {
    enum { PIECE = 1000 };
    int64_t n = (int64_t)s->chains * STEPS * times;
    float *x = malloc((size_t)(PIECE * s->width) * sizeof *x);
    ks_err err = {0};
    for (int l = 0; l < s->layers; l++)
        for (int64_t i = 0; i < n; i += PIECE) {
            int64_t some = KS_MIN(PIECE, n - i);
            for (int64_t k = 0; k < some; k++)
                fill(x + k * s->width, s->width, l, i + k,
                     steps[(i + k) / times].label);
            cr_assert_eq(
                ks_acts_write(acts, KS_ATTN, position, l, i, some, x, &err),
                KS_OK, "%s", err.text);
        }
    free(x);
}

/* The file, and beside it chains.jsonl with its text. */
static void make_file(const shape *s) {
    static ks_step_row steps[MOST_CHAINS * STEPS];
    static ks_chain_row rows[MOST_CHAINS];
    static char ids[MOST_CHAINS][12];
    char path[96], text[STEPS * BYTES + 1];
    int64_t done, n = (int64_t)s->chains * STEPS;
    ks_acts *acts = NULL;
    ks_err err = {0};
    ks_acts_options options = {.force = true};
    snprintf(path, sizeof path, "%s/%s", folder, "chains.jsonl");
    FILE *file = fopen(path, "w");
    for (int c = 0; c < s->chains; c++) {
        snprintf(ids[c], sizeof ids[c], "p%d", c);
        rows[c] = (ks_chain_row){.id = ids[c], .problem = ids[c]};
        fprintf(
            file,
            "{\"id\":\"%s\",\"problem\":\"%s\",\"prompt\":\"Q\",\"steps\":[",
            ids[c], ids[c]);
        for (int i = 0; i < STEPS; i++) {
            int at = i * BYTES, label = (i + c) % 3 == 0;
            int tokens = KS_MAX(s->tokens, 1);
            snprintf(text + at, BYTES + 1, "%-6s %7d. ",
                     label ? "So" : "Now it", (i * 7919 + c * 31) % 9999);
            steps[c * STEPS + i] = (ks_step_row){.chain = c,
                                                 .index = i,
                                                 .token_begin = i * tokens,
                                                 .token_end = (i + 1) * tokens,
                                                 .byte_begin = at,
                                                 .byte_end = at + BYTES,
                                                 .valid = 1,
                                                 .label = (int8_t)label};
            fprintf(file, "%s{\"begin\":%d,\"end\":%d}", i ? "," : "", at,
                    at + BYTES);
        }
        fprintf(file, "],\"text\":\"%s\"}\n", text);
        ks_sha256_of(text, strlen(text), rows[c].text_sha256);
    }
    fclose(file);
    ks_acts_spec spec = {.streams = 1u << KS_ATTN,
                         .positions = 1u << KS_MEAN,
                         .n_layers = s->layers,
                         .d = s->width,
                         .dtype = KS_F32,
                         .n_steps = n,
                         .n_chains = s->chains,
                         .steps = steps,
                         .chains = rows,
                         .has_labels = true,
                         .random_weights = -1,
                         .model_name = "tiny",
                         .model_sha256 = "ab12",
                         .tokenizer_hash = "cd34",
                         .isa = "avx2",
                         .backend = "cpu",
                         .config = "{}"};
    if (s->tokens) spec.positions |= 1u << KS_TOKENS;
    snprintf(path, sizeof path, "%s/%s", folder, s->name);
    cr_assert_eq(ks_acts_create(&acts, path, &spec, &options, &done, &err),
                 KS_OK, "%s", err.text);
    write_rows(acts, s, KS_MEAN, 1, steps);
    if (s->tokens) write_rows(acts, s, KS_TOKENS, s->tokens, steps);
    cr_assert_eq(ks_acts_commit(acts, 0, n, &err), KS_OK, "%s", err.text);
    cr_assert_eq(ks_acts_finish(&acts, &err), KS_OK, "%s", err.text);
}

static void setup(void) {
    make_temporary(folder, "probe-memory");
}

static void teardown(void) {
    drop_temporary(folder);
}

TestSuite(probe_memory, .init = setup, .fini = teardown, .timeout = 300);

/* A child makes the files: the pages that this process has count in those of a
 * program it starts. */
static void make_files(const shape *one, const shape *other) {
    /* a sanitizer has memory of its own for each byte */
    if (getenv("KS_UNDER_SANITIZER"))
        cr_skip_test("memory is not the program's");
    pid_t child = fork();
    int status;
    if (child == 0) {
        make_file(one);
        if (other) make_file(other);
        _exit(0);
    }
    cr_assert(waitpid(child, &status, 0) == child && status == 0);
}

/* A shell line in the folder with $K probe; exit code. */
static int run(const char *line) {
    char command[1024], out[64];
    snprintf(command, sizeof command,
             "cd %s; P='%s probe --folds 3 --strengths 0.1 "
             "--bootstrap 100 --threads 2 --no-text --quiet'; %s",
             folder, KS_PROGRAM, line);
    return shell_run(command, out, sizeof out);
}

/* Peak KiB of a process that runs the line's last command in place of the
 * shell. */
static long peak(const char *line) {
    struct rusage after;
    pid_t child = fork();
    int status;
    if (child == 0) _exit(run(line));
    cr_assert(wait4(child, &status, 0, &after) == child);
    cr_assert_eq(status, 0, "%s", line);
    return after.ru_maxrss;
}

/* What libraries take once they have worked is in `least`; whole is what the
 * command takes without --memory, whose output lies in folder "whole". */
static void expect_bound(const char *what, const char *line, long least,
                         long whole, const char *limit) {
    char bounded[512];
    snprintf(bounded, sizeof bounded, "%s --memory %s --out bound >/dev/null",
             line, limit);
    long bound = peak(bounded), most = strtol(limit, NULL, 10) << 10;
    fprintf(stderr, "%s: peaks beside %ld KiB: %ld, with --memory %s: %ld\n",
            what, least, whole - least, limit, bound - least);
    cr_expect(bound - least <= most, "%s: %ld KiB beside %ld", what, bound,
              least);
    cr_expect_eq(run("diff -r whole bound >&2 && rm -r whole bound"), 0,
                 "%s: other files", what);
}

/* What a line says to need at least that is refused that much: "14M". */
static void told_least(const char *line, const char *given, const char *what,
                       char limit[16]) {
    char command[512];
    snprintf(command, sizeof command, "%s --memory %s --out o 2>said", line,
             given);
    cr_expect_eq(run(command), 1);
    cr_expect_eq(run("test $(wc -l <said) = 1 && test ! -e o"), 0);
    snprintf(command, sizeof command,
             "sed -n 's/.*: %s need at least \\([0-9]*M\\).*/\\1/p' %s/said "
             "| tr -d '\\n'",
             what, folder);
    cr_assert_eq(shell_run(command, limit, 16), 0);
    if (!*limit) run("cat said >&2");
    cr_assert(strtol(limit, NULL, 10) > strtol(given, NULL, 10), "%s", what);
}

/* What is too little is told with the least; that is enough. */
static void layer_of_twice_the_limit(void) {
    long least = peak("$P --acts small.h5 --out tiny >/dev/null");
    long whole = peak("$P --acts big.h5 --out whole >/dev/null");
    char limit[16];
    told_least("$P --acts big.h5", "18M",
               "probes of 64000 steps x 320 features", limit);
    long most = strtol(limit, NULL, 10);
    cr_assert(most <= MOST, "%s", limit);
    cr_expect(whole - least > 2 * most << 10, "%ld KiB beside %ld", whole,
              least);
    expect_bound("grid", "$P --acts big.h5", least, whole, limit);
}

static void nothing_stays_of_a_run_that_ends_early(void) {
    /* the scratch file has no name while it is there */
    cr_expect_eq(
        run("rm -rf o; $P --bootstrap 1000000 --acts big.h5 --memory " LIMIT
            " --out o >/dev/null & for i in $(seq 600); do "
            "ls -l /proc/$!/fd 2>/dev/null | grep -q '/o/.*deleted' && break; "
            "sleep 0.05; done; kill -KILL $!; wait $!; "
            "test $i -lt 600 && test -z \"$(ls -A o)\""),
        0);
    /* a disk that does not take it: told ahead of the work, and nothing stays
     */
    cr_expect_eq(run("(ulimit -f 1024; $P --acts big.h5 --memory " LIMIT
                     " --out p 2>said >/dev/null); "
                     "test $? = 1 && test ! -e p && "
                     "grep -q 'p: no room for a scratch file of 81920000 "
                     "bytes.*File too large' said"),
                 0);
}

Test(probe_memory, a_layer_beyond_the_limit) {
    make_files(&big, &small);
    layer_of_twice_the_limit();
    nothing_stays_of_a_run_that_ends_early();
}

/* Every kind of probe and analysis, each alone: a layer is 12 MiB, six small
 * ones are 15, and more of them at once would not fit. */
Test(probe_memory, every_part_holds_the_limit) {
    static const shape few = {"few.h5", 20, 256, 6, 0},
                       layer = {"layer.h5", 640, 256, 1, 0},
                       layers = {"layers.h5", 128, 256, 6, 0};
    static const struct {
        const shape *of;
        const char *options, *limit;
    } parts[] = {
        {&layers, "--probes linear,lw-linear,linear-layer", "14M"},
        {&layer, "--probes lda,mean-difference", "19M"},
        {&layer, "--probes l1", "32M"},
        {&layer, "--analyses surface --chains chains.jsonl", "19M"},
    };
    for (size_t i = 0; i < KS_COUNT(parts); i++) {
        const char *name = parts[i].of->name, *options = parts[i].options;
        char line[256];
        if (!i || parts[i].of != parts[i - 1].of)
            make_files(&few, parts[i].of); /* whose chains lie there then */
        snprintf(line, sizeof line, "$P --acts few.h5 %s --out tiny >/dev/null",
                 strstr(options, "surface") ? "" : options);
        long least = peak(line);
        cr_expect_eq(run("rm -r tiny"), 0);
        snprintf(line, sizeof line, "$P --acts %s %s", name, options);
        char all[512];
        snprintf(all, sizeof all, "%s --out whole >/dev/null", line);
        long whole = peak(all);
        long rows = (long)parts[i].of->chains * STEPS * 256 * 4 >> 10;
        cr_expect(whole - least > rows, "%s: %ld KiB beside %ld", options,
                  whole, least);
        expect_bound(options, line, least, whole, parts[i].limit);
        /* told ahead of the grid */
        snprintf(all, sizeof all,
                 "%s%s --memory 4M --out o 2>said; test $? = 1 && "
                 "test ! -e o && test $(wc -l <said) = 1 && "
                 "grep -q -- 'need at least [0-9]*M; fewer ' said",
                 line, strstr(options, "--analyses") ? "" : " --analyses none");
        cr_expect_eq(run(all), 0, "%s", options);
        run("cat said >&2");
    }
}

/* Scores of twelve layers: of what an analysis takes a layer is the least. */
Test(probe_memory, scores_of_all_layers_are_counted) {
    static const shape many = {"many.h5", 3200, 16, 12, 0},
                       few = {"few.h5", 20, 16, 12, 0};
    static const struct {
        const char *analysis, *what;
    } parts[] = {{"layer-transfer", "probes of a layer on other layers"},
                 {"layers-needed", "probes of several layers"}};
    make_files(&few, &many);
    for (size_t i = 0; i < KS_COUNT(parts); i++) {
        char line[128], all[192], limit[16];
        snprintf(all, sizeof all,
                 "$P --acts few.h5 --analyses %s --out tiny >/dev/null",
                 parts[i].analysis);
        long least = peak(all);
        cr_expect_eq(run("rm -r tiny"), 0);
        snprintf(line, sizeof line, "$P --acts many.h5 --analyses %s",
                 parts[i].analysis);
        snprintf(all, sizeof all, "%s --out whole >/dev/null", line);
        long whole = peak(all);
        told_least(line, "2M", parts[i].what, limit);
        expect_bound(parts[i].analysis, line, least, whole, limit);
    }
}

/* Cells are made, dealt out and taken within the limit, to the same bytes. */
Test(probe_memory, cells_within_the_limit) {
    static const shape few = {"few.h5", 20, 256, 6, 0},
                       layers = {"layers.h5", 128, 256, 6, 0};
    static const char kinds[] = "--probes linear,lw-linear,linear-layer";
    static const char limit[] = "14M";
    char line[256], more[512];
    make_files(&few, &layers);
    snprintf(line, sizeof line, "$P --acts few.h5 %s --out tiny >/dev/null",
             kinds);
    long least = peak(line);
    snprintf(line, sizeof line, "$P --acts layers.h5 %s", kinds);
    snprintf(more, sizeof more, "%s --out whole >/dev/null", line);
    long whole = peak(more);
    cr_expect_eq(run("cp -r whole kept"), 0);
    for (int k = 1; k <= 2; k++) {
        snprintf(more, sizeof more,
                 "%s --cells dealt --shard %d/2 --memory %s >/dev/null", line,
                 k, limit);
        long share = peak(more);
        fprintf(stderr, "share %d/2: %ld KiB beside %ld\n", k, share - least,
                least);
        cr_expect(share - least <= strtol(limit, NULL, 10) << 10,
                  "share %d/2: %ld KiB beside %ld", k, share, least);
    }
    snprintf(more, sizeof more, "%s --cells made", line);
    expect_bound("cells that are made", more, least, whole, limit);
    cr_expect_eq(run("test \"$(ls dealt)\" = \"$(ls made)\""), 0);
    cr_expect_eq(run("mv kept whole"), 0);
    snprintf(more, sizeof more, "%s --cells dealt --need-cells", line);
    expect_bound("cells that are there", more, least, whole, limit);
}

/* Tokens of 25 MiB. */
Test(probe_memory, tokens_beyond_the_limit) {
    static const shape file = {"a.h5", 40, 256, 1, 32},
                       few = {"few.h5", 20, 256, 1, 1};
    make_files(&few, &file);
    long least = peak("$P --acts few.h5 --probes attention --out tiny "
                      ">/dev/null");
    long whole =
        peak("$P --acts a.h5 --probes attention --out whole >/dev/null");
    cr_expect(whole - least > 20 << 10, "%ld KiB beside %ld", whole, least);
    expect_bound("attention", "$P --acts a.h5 --probes attention", least, whole,
                 "20M");
}

/* MiB that the last dry run said of key. */
static double told(const char *key) {
    char command[512], out[32];
    snprintf(command, sizeof command,
             "sed -n 's/.*\"%s\": \\([0-9]*\\).*/\\1/p' %s/dry.json", key,
             folder);
    cr_assert_eq(shell_run(command, out, sizeof out), 0);
    cr_assert(*out, "no %s", key);
    return strtod(out, NULL) / (1 << 20);
}

/* Within three tenths of the peak: what an allocator keeps of freed memory
 * nobody counts. The least that it tells is enough. */
Test(probe_memory, a_dry_run_tells_the_peak) {
    static const shape few = {"few.h5", 20, 256, 6, 0},
                       layers = {"layers.h5", 640, 256, 6, 0};
    static const char *const options[] = {"--analyses none",
                                          "--analyses all",
                                          "--analyses none --threads 1",
                                          "--analyses none --probes lda",
                                          "--analyses none --probes l1",
                                          "--analyses none --memory 30M"};
    make_files(&few, &layers);
    for (size_t i = 0; i < KS_COUNT(options); i++) {
        char line[256], whole[512];
        snprintf(line, sizeof line, "$P --acts layers.h5 %s", options[i]);
        snprintf(whole, sizeof whole, "%s --dry-run --json >dry.json", line);
        cr_assert_eq(run(whole), 0, "%s", line);
        double said = told("memory_bytes"), least = told("least_memory_bytes");
        snprintf(whole, sizeof whole, "%s --force --out whole >/dev/null",
                 line);
        double was = (double)peak(whole) / 1024;
        fprintf(stderr, "%s: %.1f MiB said, %.1f were taken, least %.1f\n",
                options[i], said, was, least);
        cr_expect(said > 0.7 * was && said < 1.3 * was, "%s: %.1f, %.1f",
                  options[i], said, was);
        snprintf(whole, sizeof whole,
                 "%s --memory %.0fM --force --out whole >/dev/null", line,
                 ceil(least) + 1);
        cr_expect_eq(run(whole), 0, "%s", whole);
    }
}

/* Text baselines: n-grams are counted ahead of the grid. */
Test(probe_memory, text_that_does_not_fit_is_told) {
    static const shape file = {"a.h5", 512, 32, 1, 0};
    make_files(&file, NULL);
    cr_expect_eq(run("P=$(echo \"$P\" | sed 's/--no-text//'); "
                     "$P --acts a.h5 --chains chains.jsonl --memory 8M --out o "
                     "2>said; test $? = 1 && test ! -e o && "
                     "grep -q -- '--memory 8M: text baselines, which --no-text "
                     "leaves out,' said"),
                 0);
    cr_expect_eq(run("cat said >&2"), 0);
}

#endif
