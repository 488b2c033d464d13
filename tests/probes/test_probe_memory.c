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

enum { CHAINS = 6000, STEPS = 20, ROWS = CHAINS * STEPS, WIDTH = 320 };
/* A layer of the big file is 146 MiB. */
#define LIMIT "48M"
static const long LIMIT_KIB = 48 << 10;

static char folder[64];

/* Latents common to all features, one of them the label's. */
static void fill(float *x, int64_t row, int label) {
    const uint64_t key[2] = {11, (uint64_t)row};
    float latent[8];
    for (int j = 0; j < WIDTH; j += 4) {
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

static void make_file(const char *name, int64_t chains, ks_type type) {
    static ks_step_row steps[ROWS];
    static ks_chain_row rows[CHAINS];
    static char ids[CHAINS][12];
    char path[96];
    int64_t done, n = chains * STEPS;
    ks_acts *acts = NULL;
    ks_err err = {0};
    ks_acts_options options = {.force = true};
    for (int64_t c = 0; c < chains; c++) {
        snprintf(ids[c], sizeof ids[c], "p%d", (int)c);
        rows[c] = (ks_chain_row){.id = ids[c], .problem = ids[c]};
        memset(rows[c].text_sha256, 'a', 64);
        for (int i = 0; i < STEPS; i++)
            steps[c * STEPS + i] = (ks_step_row){.chain = (int32_t)c,
                                                 .index = i,
                                                 .token_begin = i,
                                                 .token_end = i + 1,
                                                 .byte_begin = i,
                                                 .byte_end = i + 1,
                                                 .valid = 1,
                                                 .label = (i + c) % 3 == 0};
    }
    ks_acts_spec spec = {.streams = 1u << KS_ATTN,
                         .positions = 1u << KS_MEAN,
                         .n_layers = 1,
                         .d = WIDTH,
                         .dtype = type,
                         .n_steps = n,
                         .n_chains = chains,
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
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(ks_acts_create(&acts, path, &spec, &options, &done, &err),
                 KS_OK, "%s", err.text);
    for (int64_t i = 0; i < n; i++) {
        float x[WIDTH];
        fill(x, i, steps[i].label);
        cr_assert_eq(ks_acts_write(acts, KS_ATTN, KS_MEAN, 0, i, 1, x, &err),
                     KS_OK, "%s", err.text);
    }
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

/* Few columns, so that rows are what takes memory. A child makes the files: the
 * pages that this process has count in those of a program it starts. */
static void make_files(void) {
    /* a sanitizer has memory of its own for each byte */
    if (getenv("KS_UNDER_SANITIZER"))
        cr_skip_test("memory is not the program's");
    pid_t child = fork();
    int status;
    if (child == 0) {
        make_file("big.h5", CHAINS, KS_F32);
        make_file("small.h5", 50, KS_F32);
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

static bool same_output(const char *a, const char *b) {
    static const char *const names[] = {"table.md", "metrics.csv",
                                        "summary.json", "probes.h5"};
    bool same = true;
    for (size_t i = 0; i < KS_COUNT(names); i++) {
        char x[128], y[128];
        snprintf(x, sizeof x, "%s/%s/%s", folder, a, names[i]);
        snprintf(y, sizeof y, "%s/%s/%s", folder, b, names[i]);
        same = same && same_files(x, y);
    }
    return same;
}

Test(probe_memory, a_layer_of_three_times_the_limit) {
    make_files();
    /* what the libraries take once they have worked */
    long least = peak("$P --acts small.h5 --out tiny >/dev/null");
    long whole = peak("$P --acts big.h5 --out whole >/dev/null");
    long bound =
        peak("$P --acts big.h5 --memory " LIMIT " --out bound >/dev/null");
    fprintf(stderr, "peaks beside %ld KiB: %ld, with --memory %s: %ld\n", least,
            whole - least, LIMIT, bound - least);
    cr_expect(whole - least > 3 * LIMIT_KIB, "%ld KiB beside %ld", whole,
              least);
    cr_expect(bound - least <= LIMIT_KIB, "%ld KiB beside %ld", bound, least);
    cr_expect(same_output("whole", "bound"));
}

Test(probe_memory, too_little_is_told_with_the_least) {
    make_files();
    cr_expect_eq(run("$P --acts big.h5 --memory 2M --out o 2>said"), 1);
    cr_expect_eq(run("test $(wc -l <said) = 1 && test ! -e o"), 0);
    cr_expect_eq(run("m=$(sed -n 's/.*: probes of 120000 steps x 320 features "
                     "need at least \\([0-9]*\\)M$/\\1/p' said); "
                     "test $m -gt 2 && test $m -le 48 && "
                     "$P --acts big.h5 --memory ${m}M --out o >/dev/null"),
                 0, "the least that it names is enough");
}

Test(probe_memory, nothing_stays_of_a_run_that_ends_early) {
    make_files();
    /* the scratch file has no name while it is there */
    cr_expect_eq(
        run("$P --bootstrap 1000000 --acts big.h5 --memory " LIMIT
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
                     "grep -q 'p: no room for a scratch file of 153600000 "
                     "bytes.*File too large' said"),
                 0);
}

#endif
