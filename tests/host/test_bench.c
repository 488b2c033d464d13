/* keystep bench as a user runs it, on little: the tables' shape, that what is
 * compared did its work, and that files are left and removed as said. How fast
 * anything is, is no test. */
#include <jansson.h>
#include <math.h>

#include "shell.h"

#ifdef KS_PROGRAM

#define MODEL KS_TEST_DATA "/../../experiments/demo/models/demo-a"

static char folder[64], out[65536];

static void make_folder(void) {
    make_temporary(folder, "bench");
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(bench_command, .init = make_folder, .fini = drop_folder);

/* Runs `keystep bench ARGS` in the folder: exit code, and out gets what it
 * says on the stream. */
static int bench(const char *args, const char *stream) {
    char command[2048];
    snprintf(command, sizeof command, "cd '%s' && M='%s' && %s bench %s %s",
             folder, MODEL, KS_PROGRAM, args, stream);
    return shell_run(command, out, sizeof out);
}

/* The table of a bench that must work. */
static json_t *table(const char *args) {
    cr_assert_eq(bench(args, "--json 2>words"), 0, "%s", args);
    json_t *rows = json_loads(out, 0, NULL);
    cr_assert(json_is_array(rows), "%s: %s", args, out);
    return rows;
}

static double number(json_t *rows, size_t row, const char *key) {
    json_t *value = json_object_get(json_array_get(rows, row), key);
    cr_assert(json_is_number(value), "row %zu: %s", row, key);
    return json_number_value(value);
}

/* Files of the folder but for `words`, where stderr went. */
static int files(void) {
    char command[128];
    snprintf(command, sizeof command, "ls '%s' | grep -vc words", folder);
    FILE *pipe = popen(command, "r");
    int n = -1;
    cr_assert_eq(fscanf(pipe, "%d", &n), 1);
    pclose(pipe);
    return n;
}

static void write_chains(void) {
    char path[128];
    snprintf(path, sizeof path, "%s/chains.jsonl", folder);
    FILE *file = fopen(path, "w");
    cr_assert(file);
    for (int i = 0; i < 3; i++)
        fprintf(file,
                "{\"id\":\"p%d/0\",\"problem\":\"p%d\",\"model\":\"m\","
                "\"prompt\":\"How many? \",\"text\":\"Ben holds 3 coins. "
                "Ada holds %d coins.\",\"steps\":[{\"begin\":0,\"end\":18},"
                "{\"begin\":18,\"end\":37}]}\n",
                i, i, i + 2);
    fclose(file);
}

Test(bench_command, gemm_measures_both_and_writes_csv) {
    cr_assert_eq(bench("gemm --shapes 64x256x256 --types f32,q4_1 --pairs 3 "
                       "--out t.csv 2>&1",
                       ""),
                 0, "%s", out);
    json_t *rows = table("gemm --shapes 64x256x256 --types f32,q4_1 --pairs 3");
    cr_assert_eq(json_array_size(rows), 8); /* three pairs, and all */
    for (size_t i = 3; i < 8; i += 4) {
        cr_expect_gt(number(rows, i, "gflops"), 0);
        cr_expect_gt(number(rows, i, "blas_gflops"), 0);
        cr_expect_leq(number(rows, i, "gflops_q1"), number(rows, i, "gflops"));
        cr_expect_leq(number(rows, i, "gflops"), number(rows, i, "gflops_q3"));
    }
    json_decref(rows);
    cr_expect_eq(files(), 1);
}

Test(bench_command, io_writes_as_much_as_dd_and_removes_it) {
    json_t *rows = table("io --size 2 --pairs 2");
    cr_assert_eq(json_array_size(rows), 3);
    double bytes = number(rows, 2, "bytes");
    cr_expect(bytes > 1e6 && bytes < 3e6, "%g bytes", bytes);
    for (size_t i = 0; i < 2; i++)
        cr_expect_float_eq(number(rows, i, "ratio"),
                           number(rows, i, "keystep_mb_s") /
                               number(rows, i, "dd_mb_s"),
                           1e-3 * number(rows, i, "ratio"));
    cr_expect_leq(number(rows, 2, "ratio_low"), number(rows, 2, "ratio"));
    cr_expect_leq(number(rows, 2, "ratio"), number(rows, 2, "ratio_high"));
    json_decref(rows);
    cr_expect_eq(files(), 0);
}

/* The data's best accuracy is Phi(delta sqrt(8)), 0.56 to 0.84 by layer. */
Test(bench_command, probe_converges_on_data_of_known_structure) {
    json_t *rows = table("probe --rows 1500 --width 48 --data-layers 3 "
                         "--pairs 2 --out-data kept.h5");
    cr_assert_eq(json_array_size(rows), 3);
    cr_expect_eq(number(rows, 2, "unconverged"), 0);
    cr_expect_leq(number(rows, 2, "max_gradient"), 1e-6);
    cr_expect_leq(number(rows, 2, "reads"), 30);
    double accuracy = number(rows, 2, "accuracy");
    cr_expect(accuracy > 0.6 && accuracy < 0.8, "accuracy %g", accuracy);
    cr_expect_gt(number(rows, 2, "bare_passes_s"), 0);
    json_decref(rows);
    cr_expect_eq(files(), 1); /* kept, and nothing beside it */
    rows = table("probe --acts kept.h5 --pairs 1");
    cr_expect_float_eq(number(rows, 1, "accuracy"), accuracy, 1e-12);
    cr_expect_eq(number(rows, 1, "rows"), 1500);
    json_decref(rows);
    rows = table("probe --acts kept.h5 --pairs 1 --layers 1 --rows 1000");
    cr_expect_eq(number(rows, 1, "layers"), 1);
    cr_expect_eq(number(rows, 1, "rows"), 1000);
    cr_expect_gt(number(rows, 1, "accuracy"), accuracy + 0.03);
    json_decref(rows);
}

Test(bench_command, probe_removes_data_that_nobody_named) {
    json_decref(table("probe --rows 200 --width 8 --data-layers 2 --pairs 1"));
    cr_expect_eq(files(), 0);
}

Test(bench_command, capture_rows_of_every_kind) {
    static const char *const kinds[] = {"products", "forward", "pooled", "all"};
    write_chains();
    json_t *rows = table("capture --model $M --chains chains.jsonl --pairs 2");
    cr_assert_eq(json_array_size(rows), 12);
    for (size_t i = 0; i < 4; i++) {
        json_t *row = json_array_get(rows, 8 + i);
        cr_expect_str_eq(json_string_value(json_object_get(row, "what")),
                         kinds[i]);
        cr_expect_str_eq(json_string_value(json_object_get(row, "pair")),
                         "all");
        cr_expect_gt(number(rows, 8 + i, "tokens_per_s"), 0);
    }
    cr_expect_float_eq(number(rows, 9, "over_forward"), 0, 1e-12);
    cr_expect_eq(number(rows, 9, "file_bytes"), 0);
    cr_expect_gt(number(rows, 11, "file_bytes"),
                 number(rows, 10, "file_bytes"));
    json_decref(rows);
    cr_expect_eq(files(), 1); /* chains.jsonl */
}

/* On nothing but the program: the embedded model, chains made of its problems.
 */
Test(bench_command, capture_and_label_without_a_model) {
    json_decref(table("capture --n-chains 2 --pairs 1"));
    json_t *rows = table("label --n-chains 1 --samples 2 --pairs 1");
    cr_assert_eq(json_array_size(rows), 8); /* four parts, and all */
    double steps = number(rows, 4, "steps");
    cr_expect_gt(steps, 4);
    cr_expect_eq(number(rows, 4, "questions"), steps);
    cr_expect_eq(number(rows, 4, "samples"), 2 * steps);
    cr_expect_eq(number(rows, 6, "questions"), steps + 1);
    double shares = 0;
    for (size_t i = 4; i < 8; i++) {
        cr_expect_gt(number(rows, i, "tokens"), 0);
        cr_expect_gt(number(rows, i, "seconds"), 0);
        shares += number(rows, i, "share_of_parts");
        json_t *row = json_array_get(rows, i);
        cr_expect(json_string_value(json_object_get(row, "machine")));
        cr_expect(json_string_value(json_object_get(row, "commit")));
    }
    cr_expect_float_eq(shares, 1, 1e-4);
    json_decref(rows);
    cr_expect_eq(files(), 0);
    json_decref(table("influence --pairs 1 --out-data m.json"));
    cr_expect_eq(files(), 1);
}

Test(bench_command, scale_fits_its_sizes) {
    cr_assert_eq(
        bench("scale --over rows=200,400,600 --width 8 --data-layers 2 "
              "--pairs 2 --json --out t.csv",
              "2>words"),
        0, "%s", out);
    json_t *all = json_loads(out, 0, NULL);
    json_t *rows = json_object_get(all, "rows");
    json_t *fit = json_array_get(json_object_get(all, "fits"), 0);
    cr_assert_eq(json_array_size(rows), 9);
    cr_expect_eq(number(rows, 8, "at"), 600);
    cr_expect_gt(number(rows, 8, "per_s"), 0);
    cr_expect(json_is_number(json_object_get(fit, "b")));
    cr_expect(json_is_number(json_object_get(fit, "p_curvature")));
    json_decref(all);
    cr_expect_eq(files(), 1);
}

Test(bench_command, scale_over_processes) {
    json_t *rows = NULL;
    cr_assert_eq(bench("scale --over processes=1,2 --n-chains 2 --pairs 1 "
                       "--json",
                       "2>words"),
                 0, "%s", out);
    json_t *all = json_loads(out, 0, NULL);
    rows = json_object_get(all, "rows");
    cr_assert_eq(json_array_size(rows), 4);
    cr_expect_eq(number(rows, 1, "x"), 0.5);
    json_decref(all);
    cr_expect_eq(files(), 0);
}

/* ids of the demo's vocabulary, whatever they say; steps of 4, 0, 5 and 6 */
static void write_input(const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/in.json", folder);
    FILE *file = fopen(path, "w");
    cr_assert(file);
    fputs(text, file);
    fclose(file);
}

Test(bench_command, influence_and_its_matrix) {
    write_input("{\"ids\":[5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22],"
                "\"bounds\":[3,7,7,12,18]}");
    json_t *rows = table("influence --model $M --input in.json --pairs 2 "
                         "--out-data out.json");
    cr_assert_eq(json_array_size(rows), 3);
    cr_expect_eq(number(rows, 2, "steps"), 4);
    cr_expect_eq(number(rows, 2, "target_rows"), 8 + 14);
    cr_expect_gt(number(rows, 2, "seconds"), 0);
    cr_expect_gt(number(rows, 2, "products_seconds"), 0);
    json_decref(rows);
    char path[128];
    snprintf(path, sizeof path, "%s/out.json", folder);
    json_t *kept = json_load_file(path, 0, NULL);
    rows = json_object_get(kept, "matrix");
    cr_assert_eq(json_array_size(rows), 4);
    cr_assert_eq(json_array_size(json_object_get(kept, "ids")), 18);
    for (size_t k = 0; k < 4; k++)
        for (size_t j = 0; j < 4; j++) {
            double v =
                json_number_value(json_array_get(json_array_get(rows, k), j));
            cr_expect((v > 0) == (j < k && j != 1 && k > 1), "[%zu][%zu] %g", k,
                      j, v);
        }
    json_decref(kept);
    cr_expect_eq(files(), 2);
    write_input("{\"ids\":[5,6,7,8],\"bounds\":[1,3,\"4\"]}");
    cr_expect_eq(bench("influence --model $M --input in.json", "2>&1"), 1);
    cr_expect(strstr(out, "\"bounds\"[2] is no integer"), "%s", out);
    write_input("{\"ids\":[5,6,7,8]}");
    cr_expect_eq(bench("influence --model $M --input in.json", "2>&1"), 1);
    cr_expect(strstr(out, "at \"bounds\""), "%s", out);
    write_input("{");
    cr_expect_eq(bench("influence --model $M --input in.json", "2>&1"), 1);
    cr_expect(strstr(out, "in.json, line 1"), "%s", out);
}

Test(bench_command, says_what_is_wrong) {
    static const struct {
        const char *args, *says;
        int code;
    } cases[] = {
        {"", "what to measure", 2},
        {"nothing", "no bench 'nothing'; there are capture,", 2},
        {"io gemm", "one bench at a time", 2},
        {"io --pairs 0", "expected 1..1000", 2},
        {"io --dir nowhere --size 1", "nowhere", 1},
        {"capture --model nothing", "nothing", 1},
        {"influence --input in.json", "--model is missing", 2},
        {"scale", "scale needs --over", 2},
        {"scale --over rows", "NAME=LIST", 2},
        {"scale --over rows=", "no sizes", 2},
        {"scale --over hair=1", "one of batch-tokens", 2},
        {"scale --over rows=x", "'x' is no size", 2},
        {"io --against nothing.csv", "nothing.csv", 1},
        {"probe --rows 20", "--rows 20", 2},
        {"probe --acts nothing.h5", "nothing.h5", 1},
        {"gemm --shapes 0x1x1", "0x1x1", 2},
        {"gemm --types x9", "x9", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int code = bench(cases[i].args, "2>&1");
        cr_expect_eq(code, cases[i].code, "%s: exit %d", cases[i].args, code);
        cr_expect(strstr(out, cases[i].says), "%s: %s", cases[i].args, out);
    }
}

Test(bench_command, leaves_files_of_others_alone) {
    char path[128];
    snprintf(path, sizeof path, "%s/keystep-bench.h5", folder);
    FILE *file = fopen(path, "w");
    fputs("mine", file);
    fclose(file);
    cr_expect_neq(bench("io --size 1 --pairs 1", "2>&1"), 0);
    cr_expect_neq(bench("probe --rows 200 --width 8 --pairs 1", "2>&1"), 0);
    file = fopen(path, "r");
    cr_assert(file);
    cr_assert(fgets(out, sizeof out, file));
    fclose(file);
    cr_expect_str_eq(out, "mine");
}

#endif
