/* keystep report as a user calls it, over what keystep probe wrote. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "probes/fixture.h"
#include "shell.h"

#ifdef KS_PROGRAM

static fixture f;
static char *text;

/* Exit code of a shell line in the fixture's folder; what it said is in
 * stdout and stderr there. K: the program. */
static int line(const char *format, ...) {
    char arguments[1024], command[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(arguments, sizeof arguments, format, args);
    va_end(args);
    snprintf(command, sizeof command,
             "cd %s && K=%s && { %s; } >stdout 2>stderr", f.dir, KS_PROGRAM,
             arguments);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *read_back(const char *name) {
    char path[160];
    free(text);
    text = NULL;
    snprintf(path, sizeof path, "%s/%s", f.dir, name);
    cr_assert(eq(int, ks_read_file(path, SIZE_MAX, &text, NULL, NULL), KS_OK),
              "%s", path);
    return text;
}

static bool there(const char *name) {
    char path[160];
    snprintf(path, sizeof path, "%s/%s", f.dir, name);
    return ks_file_exists(path);
}

static bool said(const char *words) {
    return strstr(read_back("stderr"), words) != NULL;
}

static void setup(void) {
    fixture_make(&f);
    cr_assert(eq(int,
                 line("$K probe --acts %s --labels %s --chains %s "
                      "--bootstrap 200 --no-text --analyses none --out run",
                      f.acts, f.labels, f.chains),
                 0),
              "%s", read_back("stderr"));
}

static void teardown(void) {
    free(text);
    fixture_free(&f);
}

TestSuite(report_command, .init = setup, .fini = teardown);

Test(report_command, writes_everything) {
    cr_assert(eq(int,
                 line("$K report run --chains %s --labels %s --out report "
                      "--no-pictures --chains-shown 30",
                      f.chains, f.labels),
                 0),
              "%s", read_back("stderr"));
    cr_expect(strstr(read_back("stdout"), "30 chains to read") != NULL);
    static const char *const names[] = {
        "index.html",       "report.md",        "report.json",
        "tables/best.csv",  "tables/best.md",   "tables/best.tex",
        "tables/best.json", "tables/layers.csv"};
    for (size_t i = 0; i < KS_COUNT(names); i++) {
        char name[64];
        snprintf(name, sizeof name, "report/%s", names[i]);
        cr_expect(there(name), "%s", name);
    }
    json_t *report = json_loads(read_back("report/report.json"), 0, NULL);
    cr_assert(report != NULL);
    cr_expect(eq(str,
                 (char *)json_string_value(json_object_get(report, "format")),
                 (char *)"keystep report"));
    json_decref(report);
    const char *page = read_back("report/index.html");
    cr_expect(strstr(page, "default-src 'none'") != NULL);
    cr_expect(strstr(page, "{{") == NULL || strstr(page, "{{data}}") == NULL);
    /* what it says it has not */
    cr_expect(strstr(read_back("report/report.md"),
                     "- no comparison of protocols") != NULL);
}

Test(report_command, texts_as_published) {
    cr_assert(eq(int,
                 line("$K report %s/report/full --out report --no-pictures",
                      KS_TEST_DATA),
                 0),
              "%s", read_back("stderr"));
    const char *table = read_back("report/tables/published-texts.csv");
    cr_expect(strstr(table, "TF-IDF,4321,") != NULL, "%s", table);
}

/* Where each fold has its own layer the one that is named is most folds'. */
Test(report_command, layers_of_most_folds) {
    static const char *const names[] = {"selectivity", "learning", "sparse",
                                        "needed"};
    cr_assert(eq(int,
                 line("$K report %s/report/full --out report --no-pictures",
                      KS_TEST_DATA),
                 0),
              "%s", read_back("stderr"));
    for (size_t k = 0; k < KS_COUNT(names); k++) {
        char name[64];
        snprintf(name, sizeof name, "report/tables/%s.csv", names[k]);
        cr_expect(strstr(read_back(name), ",layer (most folds),") != NULL, "%s",
                  text);
    }
    cr_expect(strstr(read_back("report/report.md"),
                     "layer: the one that most folds chose, each fold on its "
                     "own; with attention:all each layer in turn.") != NULL);
}

Test(report_command, the_same_bytes_again) {
    cr_assert(eq(int,
                 line("$K report run --chains %s --out report && "
                      "cp -r report was",
                      f.chains),
                 0),
              "%s", read_back("stderr"));
    cr_expect(
        eq(int, line("$K report run --chains %s --out report", f.chains), 1));
    cr_expect(said("index.html exists; --force"));
    cr_expect(eq(int,
                 line("$K report run --chains %s --out report --force && "
                      "diff -r report was",
                      f.chains),
                 0),
              "%s", read_back("stdout"));
}

Test(report_command, force_takes_its_own_files_alone) {
    cr_assert(eq(int,
                 line("$K report a=run b=run --out report --no-pictures && "
                      "echo mine >report/tables/Mine.csv && "
                      "echo mine >report/notes.txt && echo keep >precious.csv"),
                 0));
    cr_expect(there("report/tables/layers-1-a.csv"));
    /* a report.json that names what is not a report's */
    cr_assert(eq(int,
                 line("sed -i 's|\"files\": \\[|\"files\": "
                      "[\"../precious.csv\", "
                      "\"tables/../../precious.csv\", \"notes.txt\", "
                      "\"tables/Mine.csv\", 7,|' report/report.json && "
                      "$K report run --out report --no-pictures --force"),
                 0),
              "%s", read_back("stderr"));
    cr_expect(not(there("report/tables/layers-1-a.csv")));
    cr_expect(there("report/tables/layers.csv"));
    cr_expect(there("report/tables/Mine.csv"));
    cr_expect(there("report/notes.txt"));
    cr_expect(there("precious.csv"));
}

/* Entries of transfer.json: model ("": across models), position, sets. */
static void write_entries(FILE *file, const char *list,
                          const char *const (*entry)[4], size_t n) {
    fprintf(file, ",\"%s\":[", list);
    for (size_t i = 0; i < n; i++)
        fprintf(file,
                "%s{\"stream\":\"resid\",\"model\":\"%s\",\"position\":\"%s\","
                "\"names\":[\"%s\",\"%s\"],\"balanced_accuracy\":[[{\"value\":"
                "0.9,\"low\":0.8,\"high\":1},null],[null,null]]}",
                i ? "," : "", entry[i][0], entry[i][1], entry[i][2],
                entry[i][3]);
    fprintf(file, "]");
}

/* Two groups of sets were compared at one stream and position, and a model's
 * name fills that of the file. */
Test(report_command, groups_of_sets_at_one_place) {
#define LONG "a-model-of-a-name-that-goes-on-and-on-beyond-sixty-characters/"
    static const char *const models[][4] = {
        {"", "mean", "a", "b"}, {"", "mean", "c", "d"}, {"", "last", "c", "d"}};
    static const char *const tasks[][4] = {{LONG "1", "mean", "a", "c"},
                                           {LONG "1", "last", "a", "c"},
                                           {LONG "2", "mean", "b", "d"}};
    char path[160];
    snprintf(path, sizeof path, "%s/run/transfer.json", f.dir);
    FILE *file = fopen(path, "w");
    cr_assert(file != NULL);
    fprintf(file, "{\"format\":\"keystep transfer\"");
    write_entries(file, "across_models", models, KS_COUNT(models));
    write_entries(file, "across_tasks", tasks, KS_COUNT(tasks));
    fprintf(file, "}");
    fclose(file);
    cr_assert(eq(int, line("$K report run --out report"), 0), "%s",
              read_back("stderr"));
    json_t *report = json_loads(read_back("report/report.json"), 0, NULL);
    json_t *names = json_object(), *titles = json_object(), *section, *part;
    size_t i, k, n = 0;
    json_array_foreach(json_object_get(report, "sections"), i, section) {
        json_array_foreach(json_object_get(section, "parts"), k, part) {
            json_t *figure = json_object_get(part, "figure");
            if (!figure) continue;
            json_object_set(names,
                            json_string_value(json_object_get(figure, "name")),
                            figure);
            json_object_set(titles,
                            json_string_value(json_object_get(figure, "title")),
                            figure);
            n++;
        }
    }
    cr_expect(gt(sz, n, 5));
    cr_expect(eq(sz, json_object_size(names), n));
    cr_expect(eq(sz, json_object_size(titles), n));
    cr_expect(json_object_get(names, "models-resid-mean") != NULL);
    cr_expect(json_object_get(names, "models-resid-mean-2") != NULL);
    json_decref(names);
    json_decref(titles);
    json_decref(report);
}

Test(report_command, transfer_with_p_values_and_controls) {
    char path[160];
    snprintf(path, sizeof path, "%s/run/transfer.json", f.dir);
    FILE *file = fopen(path, "w");
    cr_assert(file != NULL);
    fputs("{\"format\":\"keystep transfer\",\"across_models\":[{\"stream\":"
          "\"resid\",\"position\":\"mean\",\"names\":[\"a\",\"control\"],"
          "\"balanced_accuracy\":[[{\"value\":0.875,\"low\":0.1,\"high\":0.9},"
          "{\"value\":0.5,\"low\":0.1,\"high\":0.9}],[null,null]],"
          "\"minus_self\":[[{\"value\":0.0,\"low\":0.1,\"high\":0.9},"
          "{\"value\":-0.375,\"low\":0.1,\"high\":0.9}],[null,null]],"
          "\"p\":[[0.0001,0.5],[null,null]],"
          "\"p_holm\":[[0.0002,0.625],[null,null]],"
          "\"minus_self_p\":[[null,0.002],[null,null]],"
          "\"minus_self_p_holm\":[[null,0.004],[null,null]],"
          "\"maps\":[{\"probe_of\":\"a\",\"activations_of\":\"control\","
          "\"map\":\"shuffled\","
          "\"balanced_accuracy\":{\"value\":0.5,\"low\":0.1,\"high\":0.9},"
          "\"minus_own\":{\"value\":-0.25,\"low\":0.1,\"high\":0.9},"
          "\"r2\":{\"value\":-0.125,\"low\":0.1,\"high\":0.9},"
          "\"p\":0.75,\"p_holm\":0.75,\"minus_own_p\":0.03125,"
          "\"minus_own_p_holm\":0.0625}]}]}",
          file);
    fclose(file);
    cr_assert(eq(int, line("$K report run --out report --no-pictures"), 0),
              "%s", read_back("stderr"));
    const char *table = read_back("report/tables/across-models.md");
    cr_expect(strstr(table, "| resid mean | a | control | 50.0 [10.0, 90.0] | "
                            "0.625 | -37.5 [+10.0, +90.0] | 0.004 |") != NULL,
              "%s", table);
    cr_expect(strstr(table, "| control | a |") == NULL, "%s", table);
    table = read_back("report/tables/maps.md");
    cr_expect(strstr(table, "| shuffled | 50.0 [10.0, 90.0] | 0.750 | -25.0 "
                            "[+10.0, +90.0] | 0.062 | n/a | -0.125") != NULL,
              "%s", table);
}

Test(report_command, goes_on_without_gnuplot) {
    cr_assert(eq(int, line("PATH=/nowhere $K report run --out report"), 0));
    cr_expect(said("no gnuplot (Debian: gnuplot-nox)"));
    cr_expect(there("report/index.html"));
    cr_expect(not(there("report/figures/layers.svg")));
    cr_expect(strstr(read_back("report/report.md"), "](figures/") == NULL);
}

Test(report_command, pictures_in_place_of_d3) {
    if (system("command -v gnuplot >/dev/null") != 0)
        cr_skip_test("no gnuplot (./check --all installs it)");
    cr_assert(eq(int, line("$K report run --charts svg --out report"), 0));
    const char *page = read_back("report/index.html");
    cr_expect(strstr(page, "\"pictures\":{\"") != NULL);
    cr_expect(strstr(page, "d3js.org") == NULL);
    cr_expect(there("report/figures/layers.png"));
    char *svg = strdup(read_back("report/figures/layers.svg"));
    cr_expect(strstr(svg, "balanced accuracy, %") != NULL);
    free(svg);
}

Test(report_command, refuses_chains_that_were_not_probed) {
    /* one word of one chain */
    cr_assert(eq(int,
                 line("sed '/\"id\":\"p3.0\"/s/\\(\"text\":\".....\\) so/"
                      "\\1 no/' %s >other.jsonl; ! cmp -s other.jsonl %s",
                      f.chains, f.chains),
                 0));
    cr_expect(
        eq(int, line("$K report run --chains other.jsonl --out report"), 1));
    cr_expect(said("other.jsonl: chain p3/0 has another text than the one "
                   "that run/probes.h5 scores"),
              "%s", text);
    cr_expect(not(there("report/index.html")));
    /* none of them is no failure */
    cr_assert(eq(int,
                 line("sed 's/\"id\":\"p/\"id\":\"q/' %s >none.jsonl && "
                      "$K report run --chains none.jsonl --out report "
                      "--no-pictures",
                      f.chains),
                 0),
              "%s", read_back("stderr"));
    cr_expect(strstr(read_back("report/report.md"),
                     "none of its chains is in the files") != NULL);
    cr_expect(said("none of the runs' chains is in what --chains names"), "%s",
              text);
}

/* Two models' chains of one problem have one id. */
Test(report_command, tells_chains_of_one_id_apart_by_their_text) {
    cr_assert(eq(int,
                 line("sed 's/ so / zq /g' %s >other.jsonl; ! cmp -s "
                      "other.jsonl %s; "
                      "sed 's/\\[[^]]*\\]/[1,0]/g; s/^{/{\"text_sha256\":"
                      "\"%064d\",/' %s >short.jsonl",
                      f.chains, f.chains, 0, f.labels),
                 0));
    cr_expect(eq(int,
                 line("$K report run --chains other.jsonl --chains %s --labels "
                      "short.jsonl --labels %s --out report --no-pictures "
                      "--chains-shown 30",
                      f.chains, f.labels),
                 0),
              "%s", read_back("stderr"));
    cr_expect(strstr(read_back("stdout"), "30 chains to read") != NULL);
    cr_expect(strstr(read_back("report/index.html"), " zq ") == NULL);
}

Test(report_command, refuses_labels_of_other_steps) {
    cr_assert(eq(int,
                 line("sed '3s/\\[[^]]*\\]/[1,0]/g' %s >short.jsonl", f.labels),
                 0));
    cr_expect(eq(int,
                 line("$K report run --chains %s --labels short.jsonl --out r",
                      f.chains),
                 1));
    cr_expect(said("has 2 labels, its probe 6 steps"), "%s", text);
}

Test(report_command, refuses_files_that_are_cut) {
    cr_assert(eq(int, line("truncate -s -1000 run/probes.h5"), 0));
    cr_expect(
        eq(int, line("$K report run --chains %s --out report", f.chains), 1));
    cr_expect(said("run/probes.h5"), "%s", text);
    cr_expect(not(there("report/index.html")));
    cr_assert(eq(int, line("truncate -s 100 run/summary.json"), 0));
    cr_expect(eq(int, line("$K report run --out report"), 1));
    cr_expect(said("run/summary.json line "), "%s", text);
}

Test(report_command, refuses_wrong_usage) {
    cr_expect(eq(int, line("$K report --out report"), 2));
    cr_expect(eq(int, line("$K report run"), 2));
    cr_expect(eq(int, line("$K report run --out r --charts png"), 2));
    cr_expect(eq(int, line("$K report run --out r --strip x"), 2));
    cr_expect(eq(int, line("$K report run --out r --labels x"), 2));
    cr_expect(eq(int, line("$K report run --out r --chains-shown 0"), 2));
    cr_expect(
        eq(int, line("$K report run --out r --title $(printf '\\377')"), 2));
    cr_expect(eq(int, line("$K report run run --out r"), 2));
    cr_expect(eq(int, line("$K report nowhere --out r"), 1));
    cr_expect(eq(int,
                 line("mkdir r && cp %s r/report.md && "
                      "$K report run --chains r/report.md --out ./r --force",
                      f.chains),
                 2));
    cr_expect(said("--out"));
    cr_expect(there("r/report.md"));
    cr_expect(eq(int, line("$K report run --out run/summary.json"), 1));
    cr_expect(
        eq(int, line("$K report run --out r --chains %s --strip zzz", f.chains),
           1));
    cr_expect(said("--strip zzz: no such chain"));
}

#endif
