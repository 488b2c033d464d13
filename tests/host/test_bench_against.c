/* keystep bench --against: crafted tables, nothing is measured. */
#include "shell.h"

#ifdef KS_PROGRAM

static char folder[64], out[65536];

static void make_folder(void) {
    make_temporary(folder, "against");
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(bench_against, .init = make_folder, .fini = drop_folder);

static void put(const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(ks_write_file(path, text, strlen(text), true, NULL), KS_OK);
}

static int compare(const char *more) {
    char command[1024];
    snprintf(command, sizeof command,
             "cd '%s' && %s bench gemm --from now.csv --against was.csv %s "
             "2>&1",
             folder, KS_PROGRAM, more);
    return shell_run(command, out, sizeof out);
}

#define HEAD "m,n,k,type,pair,isa,threads,gflops,ratio,backend,machine\n"
#define ROW(type, pair, gflops, ratio)                                         \
    "8,8,8," type "," pair ",avx2,2," gflops "," ratio ",cpu,\"X, 2 cores\"\n"

/* Geometric means 100 and 80; logarithms spread by 0.01 at most. */
#define WAS                                                                    \
    HEAD ROW("f32", "1", "100", "1.0") ROW("f32", "2", "101", "1.0")           \
        ROW("f32", "3", "99", "1.01") ROW("f32", "all", "1e9", "1e9")

Test(bench_against, a_clear_loss_is_one_and_named) {
    put("was.csv", WAS);
    put("now.csv",
        HEAD ROW("f32", "1", "80", "1.0") ROW("f32", "2", "80.5", "1.0")
            ROW("f32", "3", "79.5", "1.01"));
    cr_expect_eq(compare(""), 1);
    cr_expect(strstr(out, "1 figure is slower"), "%s", out);
    cr_expect(strstr(out, "m=8 n=8 k=8 type=f32"), "%s", out);
    cr_expect(strstr(out, "gflops: 0.800"), "%s", out);
    /* beside what ran in turn nothing was lost */
    cr_expect_eq(compare("--relative"), 0, "%s", out);
    cr_expect_eq(compare("--margin 0.3"), 0, "%s", out);
    cr_expect_eq(compare("--margin 2"), 2);
}

/* Welch by hand: logs of 90, 100, 110 and 85, 95, 105. Their means differ by
 * -0.051657, s^2/n are 0.0033585 and 0.0037244, which makes 3.989 degrees of
 * freedom and half a width of 0.23391. */
Test(bench_against, the_interval_is_welchs) {
    put("was.csv", HEAD ROW("f32", "1", "90", "1") ROW("f32", "2", "100", "1")
                       ROW("f32", "3", "110", "1"));
    put("now.csv", HEAD ROW("f32", "1", "85", "1") ROW("f32", "2", "95", "1")
                       ROW("f32", "3", "105", "1"));
    cr_expect_eq(compare("--json"), 0, "%s", out);
    json_t *all = json_loads(out, 0, NULL);
    json_t *row = json_array_get(
        json_object_get(json_object_get(all, "against"), "rows"), 0);
    cr_expect_float_eq(json_number_value(json_object_get(row, "speed")),
                       0.94965, 1e-5);
    cr_expect_float_eq(json_number_value(json_object_get(row, "low")), 0.75159,
                       1e-5);
    cr_expect_float_eq(json_number_value(json_object_get(row, "high")), 1.19992,
                       1e-5);
    cr_expect_str_eq(json_string_value(json_object_get(row, "verdict")),
                     "undecided");
    json_decref(all);
}

Test(bench_against, a_figure_that_is_gone_does_not_pass) {
    static const char *const gone[] = {"nan", "", "inf", "0", "-5"};
    put("was.csv", WAS);
    for (size_t i = 0; i < KS_COUNT(gone); i++) {
        char text[1024];
        snprintf(text, sizeof text,
                 HEAD ROW("f32", "1", "%s", "1") ROW("f32", "2", "%s", "1"),
                 gone[i], gone[i]);
        put("now.csv", text);
        cr_expect_eq(compare(""), 1, "'%s': %s", gone[i], out);
        cr_expect(strstr(out, "no figure now"), "'%s': %s", gone[i], out);
    }
    put("now.csv", HEAD ROW("f32", "1", "100", "1") ROW("f32", "2", "101", "1")
                       ROW("f32", "3", "nan", "1"));
    cr_expect_eq(compare(""), 1, "%s", out);
}

Test(bench_against, rows_of_one_side_are_told_and_none_in_both_is_an_error) {
    put("was.csv", WAS);
    put("now.csv", HEAD ROW("f32", "1", "100", "1") ROW("f32", "2", "101", "1")
                       ROW("q8_0", "1", "1", "1"));
    cr_expect_eq(compare(""), 0, "%s", out);
    cr_expect(strstr(out, "0 figures are there alone, 1 here alone"), "%s",
              out);
    put("now.csv", HEAD ROW("q8_0", "1", "1", "1") ROW("q8_0", "2", "1", "1"));
    cr_expect_eq(compare(""), 1);
    cr_expect(strstr(out, "nothing can be compared"), "%s", out);
    /* one pair has no noise */
    put("now.csv", HEAD ROW("f32", "1", "100", "1"));
    cr_expect_eq(compare(""), 1);
    cr_expect(strstr(out, "nothing can be compared"), "%s", out);
}

Test(bench_against, another_machine_is_said_and_compared_when_told) {
    put("was.csv", WAS);
    put("now.csv", HEAD "8,8,8,f32,1,avx2,2,100,1,cpu,\"Y, 2 cores\"\n"
                        "8,8,8,f32,2,avx2,2,101,1,cpu,\"Y, 2 cores\"\n");
    cr_expect_eq(compare(""), 1);
    cr_expect(strstr(out, "another machine: 'X, 2 cores' there, 'Y, 2 cores'"),
              "%s", out);
    cr_expect_eq(compare("--other-machine"), 0, "%s", out);
    cr_expect(strstr(out, "another machine"), "%s", out);
}

Test(bench_against, hostile_tables) {
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "a column without a name"},
        {"pair,pair\n", "two columns 'pair'"},
        {HEAD, "a table without rows"},
        {HEAD "1,2\n", "line 2: 2 fields, the first line names 11"},
        {HEAD "8,8,8,\"f32", "a quoted field has no end"},
        {HEAD "8,8,8,f\"32,1,avx2,2,1,1,cpu,x\n", "a quote within a field"},
        {HEAD "8,8,8,\"f\"32,1,avx2,2,1,1,cpu,x\n", "goes on behind its quote"},
        {HEAD ROW("f32", "1", "fast", "1"), "gflops is 'fast'"},
        {"a,b\n1,2\n", "no column 'pair'"},
        {"pair,m\n1,2\n", "no column 'n'"},
        {"\xff\xfe\n", "is no text"},
    };
    put("now.csv", WAS);
    for (size_t i = 0; i < KS_COUNT(cases); i++) {
        put("was.csv", cases[i].text);
        cr_expect_eq(compare(""), 1, "%zu: %s", i, out);
        cr_expect(strstr(out, cases[i].says), "%zu: %s", i, out);
    }
    /* what RFC 4180 allows */
    put("was.csv", "m,n,k,type,pair,isa,threads,gflops,\"a \"\"note\"\"\"\r\n"
                   "8,8,8,f32,1,avx2,2,100,\"two\nlines\"\r\n"
                   "8,8,8,f32,2,avx2,2,100,\r\n");
    cr_expect_eq(compare(""), 0, "%s", out);
}

#endif
