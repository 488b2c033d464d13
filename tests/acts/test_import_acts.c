/* keystep import acts: a capture of ours, written as other programs write
 * activations, comes back with the same values. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdarg.h>

#include "acts.h"
#include "shell.h"

#ifdef KS_PROGRAM

#define DEMO KS_TEST_DATA "/../../experiments/demo"
#define AS "--chains c.jsonl --out i.h5 --force --quiet --model-name m "
#define LSD "--order layers,steps,d --first-layer 0 "

static char folder[64], out[1 << 14];

static int sh(const char *format, ...) {
    static char line[2048], command[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    snprintf(command, sizeof command,
             "cd %s && K=%s M=%s/models/demo-a && "
             "export OMP_WAIT_POLICY=passive "
             "LSAN_OPTIONS=$LSAN_OPTIONS:print_suppressions=0 && "
             "{ %s; } 2>&1",
             folder, KS_PROGRAM, DEMO, line);
    return shell_run(command, out, sizeof out);
}

static const char *in_folder(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void setup(void) {
    make_temporary(folder, "import");
    cr_assert(eq(int,
                 sh("head -n 4 %s/problems-a.jsonl >p.jsonl && "
                    "$K generate --model $M --problems p.jsonl --out g.jsonl "
                    "--temperature 1 --instruction= --max-new 320 --quiet && "
                    "$K split --chains g.jsonl --model $M --out c.jsonl "
                    "--quiet && $K capture --model $M --chains c.jsonl "
                    "--out a.h5 --dtype f32 --positions mean,first,middle,"
                    "last,before,tokens --quiet",
                    DEMO),
                 0),
              "%s", out);
}

static void teardown(void) {
    drop_temporary(folder);
}

TestSuite(import_acts, .init = setup, .fini = teardown);

/* ------------------------------------------------------------------ writers */

static void write_npy(const char *name, const char *shape, const float *x,
                      size_t n) {
    char header[128], magic[10] = "\x93NUMPY\1";
    magic[7] = 0;
    int length = snprintf(header, sizeof header,
                          "{'descr': '<f4', 'fortran_order': False, 'shape': "
                          "(%s), }\n",
                          shape);
    magic[8] = (char)length;
    magic[9] = 0;
    FILE *file = fopen(in_folder(name), "wb");
    fwrite(magic, 1, sizeof magic, file);
    fwrite(header, 1, (size_t)length, file);
    fwrite(x, sizeof *x, n, file);
    fclose(file);
}

/* [layers, rows, d] of a position, or the other way round. */
static void write_steps(const ks_acts_file *f, ks_position p, const char *name,
                        bool steps_first, int32_t from_layer) {
    const ks_acts_info *info = ks_acts_get_info(f);
    int64_t n = info->n_steps, d = info->d;
    int64_t layers = info->n_layers + 1 - from_layer;
    float *x = calloc((size_t)(layers * n * d), sizeof *x), *row;
    row = calloc((size_t)(n * d), sizeof *row);
    for (int64_t l = 0; l < layers; l++) {
        cr_assert(eq(int,
                     ks_acts_read(f, KS_RESID, p, (int32_t)l + from_layer, 0, n,
                                  row, NULL),
                     KS_OK));
        for (int64_t i = 0; i < n; i++)
            memcpy(x + (steps_first ? i * layers + l : l * n + i) * d,
                   row + i * d, (size_t)d * sizeof *x);
    }
    char shape[64];
    snprintf(shape, sizeof shape, "%lld, %lld, %lld",
             (long long)(steps_first ? n : layers),
             (long long)(steps_first ? layers : n), (long long)d);
    write_npy(name, shape, x, (size_t)(layers * n * d));
    free(x);
    free(row);
}

/* Values of `b` at a layer and position are those of `a`. */
static void check_equal(const char *a, const char *b, ks_position p,
                        int32_t layer, double tolerance) {
    ks_acts_file *x, *y;
    ks_err err = {0};
    cr_assert(eq(int, ks_acts_open(&x, in_folder(a), &err), KS_OK), "%s",
              err.text);
    cr_assert(eq(int, ks_acts_open(&y, in_folder(b), &err), KS_OK), "%s",
              err.text);
    const ks_acts_info *info = ks_acts_get_info(x);
    int64_t n = info->n_steps, d = info->d;
    float *u = calloc((size_t)(n * d), sizeof *u);
    float *v = calloc((size_t)(n * d), sizeof *v);
    cr_assert(eq(i64, ks_acts_get_info(y)->n_steps, n));
    cr_assert(
        eq(int, ks_acts_read(x, KS_RESID, p, layer, 0, n, u, &err), KS_OK));
    cr_assert(
        eq(int, ks_acts_read(y, KS_RESID, p, layer, 0, n, v, &err), KS_OK),
        "%s", err.text);
    for (int64_t i = 0; i < n * d; i++)
        if (!(isnan(u[i]) && isnan(v[i])))
            cr_assert(le(dbl, fabs((double)u[i] - (double)v[i]),
                         tolerance * (1 + fabs((double)u[i]))),
                      "%s layer %d value %lld: %g and %g", ks_position_name(p),
                      layer, (long long)i, (double)u[i], (double)v[i]);
    free(u);
    free(v);
    ks_acts_close(&x);
    ks_acts_close(&y);
}

/* ------------------------------------------------------------ vectors a step
 */

Test(import_acts, vectors_a_step_come_back) {
    ks_acts_file *f;
    cr_assert(eq(int, ks_acts_open(&f, in_folder("a.h5"), NULL), KS_OK));
    write_steps(f, KS_MEAN, "mean.npy", false, 0);
    write_steps(f, KS_LAST, "last.npy", false, 0);
    write_steps(f, KS_FIRST, "first.npy", true, 3);
    ks_acts_close(&f);
    cr_assert(eq(int,
                 sh("$K import acts " AS LSD "--steps mean=mean.npy "
                    "--steps last=last.npy && $K verify i.h5"),
                 0),
              "%s", out);
    for (int32_t l = 0; l <= 8; l++) {
        check_equal("a.h5", "i.h5", KS_MEAN, l, 0);
        check_equal("a.h5", "i.h5", KS_LAST, l, 0);
    }
    /* the same bytes whenever it is made, and another storage */
    cr_expect(eq(int,
                 sh("cp i.h5 was.h5 && $K import acts " AS LSD
                    "--steps mean=mean.npy --steps last=last.npy && "
                    "cmp i.h5 was.h5"),
                 0),
              "%s", out);
    cr_assert(eq(int,
                 sh("$K import acts " AS LSD "--steps mean=mean.npy --dtype "
                    "bf16 && $K capture --model $M --chains c.jsonl --out "
                    "b.h5 --positions mean --quiet"),
                 0),
              "%s", out);
    check_equal("b.h5", "i.h5", KS_MEAN, 5, 0);
    /* layers 3 to 8 alone, under their own numbers */
    cr_assert(eq(int,
                 sh("$K import acts " AS "--order steps,layers,d "
                    "--first-layer 3 --steps first=first.npy --model-sha256 "
                    "%064d && $K verify i.h5 && $K inspect i.h5",
                    7),
                 0),
              "%s", out);
    for (int32_t l = 3; l <= 8; l++)
        check_equal("a.h5", "i.h5", KS_FIRST, l, 0);
    cr_assert(eq(int, ks_acts_open(&f, in_folder("i.h5"), NULL), KS_OK));
    float x[128];
    ks_err err = {0};
    cr_expect(eq(int, ks_acts_get_info(f)->n_layers, 8));
    cr_expect(eq(int, ks_acts_get_info(f)->n_listed, 6));
    cr_expect(eq(int, ks_acts_has_layer(f, KS_RESID, 2), 0));
    cr_expect(eq(int, ks_acts_read(f, KS_RESID, KS_FIRST, 2, 0, 1, x, &err),
                 KS_LIMIT));
    cr_expect(strstr(err.text, "not all of the model's") != NULL);
    ks_acts_close(&f);
    /* reversed numbers */
    cr_assert(eq(int,
                 sh("$K import acts " AS "--order layers,steps,d "
                    "--layer-numbers 8,7,6,5,4,3,2,1,0 --steps mean=mean.npy"),
                 0),
              "%s", out);
    cr_assert(eq(int, ks_acts_open(&f, in_folder("i.h5"), NULL), KS_OK));
    float y[128];
    ks_acts_file *a;
    cr_assert(eq(int, ks_acts_open(&a, in_folder("a.h5"), NULL), KS_OK));
    ks_acts_read(a, KS_RESID, KS_MEAN, 2, 3, 1, x, NULL);
    ks_acts_read(f, KS_RESID, KS_MEAN, 6, 3, 1, y, NULL);
    cr_expect(eq(int, memcmp(x, y, sizeof x), 0));
    ks_acts_close(&a);
    ks_acts_close(&f);
}

/* ----------------------------------------------------------- vectors a token
 */

/* Token rows of chain c: those between its first and last step are in the
 * capture; others are not looked at but by `before`, of the first step. */
static void write_tokens(bool ids) {
    ks_acts_file *f;
    cr_assert(eq(int, ks_acts_open(&f, in_folder("a.h5"), NULL), KS_OK));
    const ks_acts_info *info = ks_acts_get_info(f);
    int64_t d = info->d, layers = info->n_layers + 1, past = 0;
    (void)ids;
    cr_assert(eq(int,
                 sh("mkdir -p t && for c in $(sed 's/.*\"id\": *\"\\("
                    "[^\"]*\\)\".*/\\1/' c.jsonl); do mkdir -p "
                    "t/${c%%/*}; done"),
                 0),
              "%s", out);
    for (int64_t c = 0, i = 0; c < info->n_chains; c++) {
        int64_t first = i, n = 0;
        for (; i < info->n_steps && info->steps[i].chain == c; i++)
            n = info->steps[i].token_end;
        float *x = calloc((size_t)(n * layers * d), sizeof *x);
        float *row = calloc((size_t)d, sizeof *row);
        for (int64_t l = 0; l < layers; l++) {
            int64_t at = past;
            ks_acts_read(f, KS_RESID, KS_BEFORE, (int32_t)l, first, 1, row,
                         NULL);
            memcpy(x + ((info->steps[first].token_begin - 1) * layers + l) * d,
                   row, (size_t)d * sizeof *x);
            for (int64_t s = first; s < i; s++)
                for (int32_t t = info->steps[s].token_begin;
                     t < info->steps[s].token_end; t++) {
                    ks_acts_read(f, KS_RESID, KS_TOKENS, (int32_t)l, at++, 1,
                                 row, NULL);
                    memcpy(x + (t * layers + l) * d, row,
                           (size_t)d * sizeof *x);
                }
        }
        for (int64_t s = first; s < i; s++)
            past += info->steps[s].token_end - info->steps[s].token_begin;
        char name[96], shape[64];
        snprintf(name, sizeof name, "t/%s.npy", info->chains[c].id);
        snprintf(shape, sizeof shape, "%lld, %lld, %lld", (long long)n,
                 (long long)layers, (long long)d);
        write_npy(name, shape, x, (size_t)(n * layers * d));
        free(x);
        free(row);
    }
    ks_acts_close(&f);
}

#define TOKENS                                                                 \
    "--tokens t --order tokens,layers,d --first-layer 0 --positions "          \
    "mean,first,middle,last,before "

Test(import_acts, vectors_a_token_are_pooled) {
    write_tokens(false);
    cr_assert(eq(int, sh("$K import acts " AS TOKENS "&& $K verify i.h5"), 0),
              "%s", out);
    for (ks_position p = KS_MEAN; p < KS_TOKENS; p++)
        for (int32_t l = 0; l <= 8; l += 4)
            check_equal("a.h5", "i.h5", p, l, p == KS_MEAN ? 1e-6 : 0);
    /* by an index, and a chain that is not asked for */
    cr_assert(eq(int,
                 sh("mv t u && sed 's/.*\"id\": *\"\\([^\"]*\\)\".*/"
                    "{\"chain\":\"\\1\",\"file\":\"u\\/\\1.npy\"}/' c.jsonl "
                    ">t.jsonl && echo '{\"chain\":\"other\",\"file\":\"no\"}' "
                    ">>t.jsonl && cp i.h5 was.h5 && $K import acts " AS
                    "--tokens t.jsonl --order tokens,layers,d --first-layer 0 "
                    "--positions mean,first,middle,last,before && cmp i.h5 "
                    "was.h5"),
                 0),
              "%s", out);
    /* what goes wrong with files of tokens */
    static const struct {
        const char *make, *says;
    } bad[] = {
        {"rm u/a0001/0.npy", "a0001/0.npy"},
        {"sed -i 1d t.jsonl", "has no file for chain"},
        {"head -n 1 t.jsonl >>t.jsonl", "second file"},
        {"sed -i 's/u/v/' t.jsonl", "v/a0000/0.npy"},
        {"sed -i 's/\"token_begin\"/\"x\"/' c.jsonl", "token_begin"},
        {"sed -i 's/\"token_end\": *[0-9]*/\"token_end\": 9999/' c.jsonl",
         "9999"},
        {"echo '{' >t.jsonl", "t.jsonl line 1"},
    };
    cr_assert(eq(int, sh("mkdir good && cp -r c.jsonl t.jsonl u good"), 0));
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        cr_assert(eq(
            int, sh("rm -rf u i.h5 && cp -r good/* . && %s", bad[i].make), 0));
        int code = sh("$K import acts " AS "--tokens t.jsonl --order "
                      "tokens,layers,d --first-layer 0");
        cr_expect(ne(int, code, 0), "%s", bad[i].make);
        cr_expect(strstr(out, bad[i].says) != NULL, "%s: %s", bad[i].make, out);
        cr_expect(eq(int, sh("ls i.h5*"), 2), "%s: %s", bad[i].make, out);
    }
    /* an id that leads out of the folder */
    cr_expect(eq(int,
                 sh("sed 's/\"id\": *\"a0000/\"id\": \"..\\/a0000/' "
                    "good/c.jsonl >c.jsonl && $K import acts " AS
                    "--tokens u --order tokens,layers,d --first-layer 0"),
                 1));
    cr_expect(strstr(out, "cannot name a file") != NULL, "%s", out);
}

/* ----------------------------------------------------------------- refusals */

Test(import_acts, refuses_what_does_not_fit) {
    static const struct {
        const char *args, *says;
        int code;
    } bad[] = {
        {AS LSD, "--steps or --tokens is missing", 2},
        {AS "--steps mean=x.npy --first-layer 0", "--order is missing", 2},
        {AS "--steps mean=x.npy --order layers,steps,d",
         "--first-layer or --layer-numbers is missing", 2},
        {"--chains c.jsonl --out i.h5 " LSD "--steps mean=x.npy",
         "--model or --model-name is missing", 2},
        {AS LSD "--steps x.npy", "POSITION=FILE", 2},
        {AS LSD "--steps tokens=x.npy", "POSITION=FILE", 2},
        {AS LSD "--steps mean=x.npy --steps mean=x.npy", "twice", 2},
        {AS LSD "--steps mean=x.npy --tokens t", "two ways", 2},
        {AS LSD "--steps mean=x.npy --layer-numbers 1", "two ways", 2},
        {AS "--first-layer 0 --order layers,layers,d --steps mean=x.npy",
         "once each", 2},
        {AS "--first-layer 0 --order layers,d --steps mean=x.npy", "lacks", 2},
        {AS "--layer-numbers 1,x --order steps,d --steps mean=x.npy",
         "--layer-numbers", 2},
        {AS LSD "--model-sha256 12 --steps mean=x.npy", "64 hexadecimal", 2},
        {AS LSD "--steps mean=nowhere.npy", "nowhere.npy", 1},
        {AS LSD "--steps mean=few.npy", "few.npy: has 2 rows, the chains", 1},
        {AS "--first-layer 0 --order steps,d --steps mean=x.npy",
         "3 dimensions, --order names 2", 1},
        {AS "--layer-numbers 1,2 --order layers,steps,d --steps mean=x.npy",
         "has 2 numbers, the arrays have 9", 1},
        {AS "--layer-numbers 1,1,2,3,4,5,6,7,8 --order layers,steps,d --steps "
            "mean=x.npy",
         "1 twice", 2},
        {AS LSD "--n-layers 7 --steps mean=x.npy", "layer 8 of resid", 1},
        {AS LSD "--stream mlp --n-layers 8 --steps mean=x.npy",
         "layer 8 of mlp", 1},
        {AS LSD "--steps mean=nan.npy", "step 0 at mean, layer 0: value 5", 1},
        {AS LSD "--dtype f16 --steps mean=huge.npy", "beyond f16", 1},
        {AS LSD "--steps mean=x.npy --steps last=wide.npy", "files before", 1},
        {AS LSD "--steps mean=x.npy --model $M", "--model brings", 2},
        {"--chains c.jsonl --out i.h5 " LSD "--steps mean=wide.npy --model $M "
         "--quiet",
         "the model 128", 1},
        {"--chains c.jsonl --out x.npy " LSD "--steps mean=x.npy --force "
         "--model-name m",
         "x.npy", 2},
        {"--chains g0.jsonl --out i.h5 " LSD "--steps mean=x.npy "
         "--model-name m --quiet",
         "has no steps", 2},
    };
    ks_acts_file *f;
    cr_assert(eq(int, ks_acts_open(&f, in_folder("a.h5"), NULL), KS_OK));
    int64_t n = ks_acts_get_info(f)->n_steps;
    write_steps(f, KS_MEAN, "x.npy", false, 0);
    ks_acts_close(&f);
    char shape[64];
    size_t values = (size_t)(9 * n * 128);
    float *x = calloc(values, sizeof *x);
    write_npy("few.npy", "9, 2, 128", x, 9 * 2 * 128);
    snprintf(shape, sizeof shape, "9, %lld, 64", (long long)n);
    write_npy("wide.npy", shape, x, values / 2);
    snprintf(shape, sizeof shape, "9, %lld, 128", (long long)n);
    x[5] = NAN;
    write_npy("nan.npy", shape, x, values);
    x[5] = 1e6f;
    write_npy("huge.npy", shape, x, values);
    cr_assert(eq(int,
                 sh("head -n 1 g.jsonl | sed 's/\"steps\"/\"was\"/' "
                    ">g0.jsonl"),
                 0));
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        cr_expect(eq(int, sh("$K import acts %s", bad[i].args), bad[i].code),
                  "%s: %s", bad[i].args, out);
        cr_expect(strstr(out, bad[i].says) != NULL, "%s: %s", bad[i].args, out);
        cr_expect(eq(int, sh("ls i.h5*"), 2), "%s", bad[i].args);
    }
    /* steps that are all NaN, where that is said to be so */
    for (int64_t l = 0; l < 9; l++)
        for (int j = 0; j < 128; j++) x[l * n * 128 + j] = NAN;
    write_npy("gap.npy", shape, x, values);
    cr_expect(eq(int,
                 sh("$K import acts " AS LSD "--steps mean=gap.npy "
                    "--nan-missing && $K verify i.h5"),
                 0),
              "%s", out);
    cr_expect(strstr(out, "1 steps without a token (9 rows of NaN)") != NULL,
              "%s", out);
    cr_expect(eq(
        int, sh("rm i.h5; $K import acts " AS LSD "--steps mean=gap.npy"), 1));
    free(x);
}

/* One sentence about a damaged HDF5 file, whatever its library finds, and
 * nothing of the library's own beside it (test_import_array.c tries each
 * byte). */
Test(import_acts, damaged_h5, .timeout = 120) {
    char *bytes;
    size_t n;
    cr_assert(eq(int,
                 ks_read_file(KS_TEST_DATA "/arrays/plain.h5", SIZE_MAX, &bytes,
                              &n, NULL),
                 KS_OK));
    for (size_t k = 0; k < KS_MIN(n, 2400); k += 41) {
        FILE *file = fopen(in_folder("x.h5"), "wb");
        bytes[k] = (char)(bytes[k] ^ 0xff);
        cr_assert(file && fwrite(bytes, 1, n, file) == n);
        bytes[k] = (char)(bytes[k] ^ 0xff);
        fclose(file);
        int code = sh("$K import acts " AS LSD "--steps mean=x.h5 --tensor "
                      "group/f8");
        cr_expect(eq(int, code == 1 || code == 2, 1), "byte %zu: %d", k, code);
        cr_expect(strstr(out, "keystep import acts: ") == out, "%s", out);
        const char *end = strchr(out, '\n');
        cr_expect(end && !end[1], "byte %zu: %.300s", k, out);
    }
    free(bytes);
}

/* ---------------------------------------------------- stock writers, vLLM's */

Test(import_acts, stock_writers, .timeout = 120) {
    const char *python = getenv("KS_PEERS");
    if (!python || access(python, X_OK) != 0)
        cr_skip_test("KS_PEERS names no Python with h5py and safetensors");
    cr_expect(
        eq(int,
           sh("'%s' " KS_TEST_DATA "/../acts/write_arrays.py $K $M .", python),
           0),
        "%s", out);
}

#endif
