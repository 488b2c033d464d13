/* What is there when a command is stopped or only asked: SIGINT leaves what
 * resumes to the same bytes, or nothing (probe), --dry-run leaves nothing,
 * labels of clean chains reach the file. On the embedded demo model. */
#include <jansson.h>
#include <signal.h>
#include <time.h>

#include "acts.h"
#include "shell.h"

#ifdef KS_PROGRAM

#define MODEL KS_TEST_DATA "/../../experiments/demo/models/demo-a"

static char folder[64];

static void make_folder(void) {
    char command[512];
    make_temporary(folder, "stop");
    cr_assert(chdir(folder) == 0);
    snprintf(command, sizeof command, "cp -r '%s' m", MODEL);
    cr_assert_eq(system(command), 0);
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(stop, .init = make_folder, .fini = drop_folder, .timeout = 600);

static char said[8192];

static int keystep(const char *args) {
    char command[1024];
    snprintf(command, sizeof command, "%s %s 2>&1", KS_PROGRAM, args);
    return shell_run(command, said, sizeof said);
}

static void write_chains(int n) {
    FILE *file = fopen("c.jsonl", "w");
    cr_assert(file);
    for (int c = 0; c < n; c++) {
        fprintf(file,
                "{\"id\":\"%d\",\"problem\":\"p%d\",\"prompt\":\"Q \","
                "\"text\":\"",
                c, c);
        for (int i = 0; i < 20; i++) fprintf(file, "Ada has %02d. ", i);
        fprintf(file, "\",\"steps\":[");
        for (int i = 0; i < 20; i++)
            fprintf(file, "%s{\"begin\":%d,\"end\":%d}", i ? "," : "", 12 * i,
                    12 * i + 11);
        fprintf(file, "]}\n");
    }
    fclose(file);
}

/* Starts the program, sends the signal once `part` has `bytes` (0: is there),
 * waits. */
static int stop_it(const char *args, int number, const char *part,
                   long long bytes) {
    char command[1024];
    snprintf(command, sizeof command, "exec %s %s", KS_PROGRAM, args);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    int status = 0;
    for (;;) {
        FILE *file = bytes ? fopen(part, "rb") : NULL;
        long long size = !bytes && access(part, F_OK) == 0 ? 0 : -1;
        if (file) {
            fseek(file, 0, SEEK_END);
            size = ftell(file);
            fclose(file);
        }
        if (size >= bytes) break;
        if (waitpid(child, &status, WNOHANG) == child)
            return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        usleep(1000);
    }
    kill(child, number);
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#define CAPTURE "capture --quiet --threads 1 --model m --chains c.jsonl "

Test(stop, an_interrupted_capture_resumes) {
    write_chains(60);
    cr_assert_eq(keystep(CAPTURE "--out a.h5"), 0, "%s", said);
    int code = stop_it(CAPTURE "--batch-tokens 64 --out b.h5", SIGINT,
                       "b.h5.journal", 1);
    if (code == 0) cr_skip_test("the machine was too fast");
    cr_assert_eq(code, 130);
    cr_expect(access("b.h5", F_OK) != 0);
    cr_expect(access("b.h5.part", F_OK) == 0);
    cr_expect_eq(keystep("verify b.h5.part"), 1);
    cr_expect(strstr(said, "--resume"), "%s", said);
    cr_assert_eq(keystep(CAPTURE "--out b.h5 --resume"), 0, "%s", said);
    cr_expect_eq(system("cmp a.h5 b.h5 && ! ls b.h5.*"), 0);
}

#define GENERATE                                                               \
    "generate --quiet --threads 1 --model m --problems p.jsonl "               \
    "--temperature 1 --seed 3 --max-new 40 "

Test(stop, an_interrupted_generate_resumes) {
    FILE *file = fopen("p.jsonl", "w");
    cr_assert(file);
    for (int i = 0; i < 40; i++)
        fprintf(file, "{\"id\":\"%d\",\"question\":\"Ada has %d.\"}\n", i, i);
    fclose(file);
    cr_assert_eq(keystep(GENERATE "--out a.jsonl"), 0, "%s", said);
    int code = stop_it(GENERATE "--memory 2M --out b.jsonl", SIGUSR1,
                       "b.jsonl.part", 1);
    if (code == 0) cr_skip_test("the machine was too fast");
    cr_assert_eq(code, 130);
    cr_expect(access("b.jsonl", F_OK) != 0);
    cr_assert_eq(keystep(GENERATE "--out b.jsonl --resume"), 0, "%s", said);
    cr_expect_eq(system("cmp a.jsonl b.jsonl && ! ls b.jsonl.*"), 0);
}

static json_t *progress_in(const char *path) {
    json_t *o = json_load_file(path, 0, NULL);
    cr_assert(o, "%s", path);
    return o;
}

static double figure_of(const json_t *o, const char *name) {
    return json_number_value(json_object_get(o, name));
}

Test(stop, progress_reaches_a_file_without_a_word) {
    write_chains(3);
    cr_assert_eq(setenv("KEYSTEP_PROGRESS", "now.json", 1), 0);
    cr_assert_eq(keystep(CAPTURE "--out a.h5"), 0, "%s", said);
    json_t *o = progress_in("now.json");
    cr_expect_str_eq(json_string_value(json_object_get(o, "what")), "capture");
    cr_expect_str_eq(json_string_value(json_object_get(o, "unit")), "tok");
    cr_expect(figure_of(o, "total") > 100 &&
              figure_of(o, "done") == figure_of(o, "total"));
    cr_expect(figure_of(o, "rate") > 0);
    cr_expect(json_is_number(json_object_get(o, "left")) &&
              figure_of(o, "left") == 0);
    cr_expect_eq(json_object_size(o), 7);
    json_decref(o);
    cr_expect_eq(keystep("score --quiet --threads 1 --model m --chains c.jsonl "
                         "--out s.jsonl"),
                 0, "%s", said);
    o = progress_in("now.json");
    cr_expect_str_eq(json_string_value(json_object_get(o, "what")), "score");
    cr_expect_str_eq(json_string_value(json_object_get(o, "rate_unit")), "tok");
    json_decref(o);
    /* a place that cannot be written is no reason to fail */
    cr_assert_eq(setenv("KEYSTEP_PROGRESS", "no/such/folder", 1), 0);
    cr_expect_eq(keystep(CAPTURE "--out b.h5"), 0, "%s", said);
    cr_expect_eq(unsetenv("KEYSTEP_PROGRESS"), 0);
    cr_expect_eq(system("cmp a.h5 b.h5 && ! ls now.json.new 2>/dev/null"), 0);
}

Test(stop, a_command_line_can_be_checked_alone) {
    cr_assert_eq(setenv("KEYSTEP_PARSE_ONLY", "1", 1), 0);
    cr_expect_eq(keystep("capture --model none --chains none --out x.h5"), 0);
    cr_expect_str_eq(said, "");
    cr_expect_eq(keystep("capture --model none --chains none --out x.h5 "
                         "--dtype f64"),
                 2);
    cr_expect(strstr(said, "--dtype takes bf16, f16 or f32"), "%s", said);
    cr_expect_eq(keystep("label --model none"), 2);
    cr_expect(strstr(said, "--problems is missing"), "%s", said);
    cr_expect_eq(keystep("import acts --chains none --steps mean=x.npy "
                         "--order steps,d --first-layer 0 --model-name m "
                         "--out x.h5"),
                 0, "%s", said);
    cr_expect_eq(unsetenv("KEYSTEP_PARSE_ONLY"), 0);
    cr_expect_eq(system("! ls x.h5* 2>/dev/null"), 0);
}

/* A million draws a layer: minutes, were they not left. */
Test(stop, an_interrupted_probe_leaves_nothing) {
    write_chains(60);
    FILE *file = fopen("l.jsonl", "w");
    cr_assert(file);
    for (int c = 0; c < 60; c++) {
        fprintf(file, "{\"chain\":\"%d\",\"labels\":[", c);
        for (int i = 0; i < 20; i++)
            fprintf(file, "%s%d", i ? "," : "", (7 * c + i * i) % 3 == 0);
        fputs("]}\n", file);
    }
    fclose(file);
    cr_assert_eq(keystep(CAPTURE "--positions mean --out a.h5"), 0, "%s", said);
    static const int numbers[] = {SIGINT, SIGTERM};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct timespec before, after;
        clock_gettime(CLOCK_MONOTONIC, &before);
        int code = stop_it("probe --quiet --acts a.h5 --labels l.jsonl --out o "
                           "--bootstrap 1000000 2>said",
                           numbers[i], "o", 0);
        clock_gettime(CLOCK_MONOTONIC, &after);
        cr_expect_eq(code, 130);
        cr_expect(after.tv_sec - before.tv_sec < 20, "it went on");
        cr_expect(access("o", F_OK) != 0);
        shell_run("cat said", said, sizeof said);
        cr_expect(strstr(said, "keystep probe: interrupted; nothing"), "%s",
                  said);
        char *line = strchr(said, '\n');
        cr_expect(line && !line[1], "more than a sentence: %s", said);
    }
}

Test(stop, a_dry_run_tells_and_leaves_nothing) {
    write_chains(3);
    cr_assert_eq(keystep(CAPTURE "--out x.h5 --dry-run"), 0, "%s", said);
    static const char *const words[] = {"3 with 60 steps", "\nfile ",
                                        "\nmemory ", "\ntime ", "tok/s"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        cr_expect(strstr(said, words[i]), "'%s' lacks '%s'", said, words[i]);
    cr_assert_eq(keystep(CAPTURE "--out x.h5 --dry-run --json"), 0);
    json_t *o = json_loads(said, 0, NULL);
    cr_assert(o, "%s", said);
    long long bytes = json_integer_value(json_object_get(o, "file_bytes"));
    cr_expect(json_integer_value(json_object_get(o, "memory_bytes")) > 0);
    cr_expect(json_real_value(json_object_get(o, "seconds")) > 0);
    json_decref(o);
    cr_expect_eq(system("! ls x.h5* 2>/dev/null"), 0);
    cr_assert_eq(keystep(CAPTURE "--out x.h5"), 0, "%s", said);
    FILE *file = fopen("x.h5", "rb");
    cr_assert(file);
    fseek(file, 0, SEEK_END);
    /* the plan is an upper bound: HDF5's own part is known only when made */
    cr_expect(ftell(file) <= bytes && ftell(file) >= bytes - 131072);
    fclose(file);
    cr_expect_eq(keystep("verify --json x.h5"), 0);
    o = json_loads(said, 0, NULL);
    cr_assert(o, "%s", said);
    cr_expect(json_is_true(json_object_get(o, "checksums")));
    cr_expect(json_integer_value(json_object_get(o, "rows")) > 0);
    json_decref(o);
}

Test(stop, standard_input_and_output) {
    write_chains(2);
    cr_expect_eq(system("cp c.jsonl d.jsonl"), 0);
    cr_expect_eq(keystep("split --quiet --chains c.jsonl --out s.jsonl"), 0);
    cr_expect_eq(keystep("split --quiet --chains - <c.jsonl >t.jsonl"), 0);
    cr_expect_eq(keystep("split --quiet --chains - --out - <c.jsonl >u.jsonl"),
                 0);
    cr_expect_eq(system("cmp s.jsonl t.jsonl && cmp s.jsonl u.jsonl"), 0);
    cr_expect_eq(keystep(CAPTURE "--out a.h5"), 0, "%s", said);
    cr_expect_eq(keystep("capture --quiet --threads 1 --model m --chains - "
                         "--out b.h5 <c.jsonl"),
                 0, "%s", said);
    cr_expect_eq(system("cmp a.h5 b.h5"), 0);
}

/* Clean chain "k" lacks step 0 of "0"; its last step was steps 2 and 3. */
Test(stop, labels_of_clean_chains_reach_the_file) {
    write_chains(2);
    FILE *file = fopen("k.jsonl", "w");
    fputs("{\"id\":\"k\",\"problem\":\"p0\",\"prompt\":\"\",\"text\":\"abc\","
          "\"of\":\"0\",\"map\":[1,[2,3],null],\"steps\":[{\"begin\":0,"
          "\"end\":1},{\"begin\":1,\"end\":2},{\"begin\":2,\"end\":3}]}\n",
          file);
    fclose(file);
    file = fopen("l.jsonl", "w");
    fputs("{\"chain\":\"k\",\"labels\":[1,0,1]}\n", file);
    fclose(file);
    cr_assert_eq(keystep(CAPTURE "--labels l.jsonl --labels-on original "
                                 "--clean k.jsonl --out a.h5"),
                 0, "%s", said);
    ks_acts_file *acts = NULL;
    ks_err err = {0};
    cr_assert_eq(ks_acts_open(&acts, "a.h5", &err), KS_OK, "%s", err.text);
    const ks_acts_info *info = ks_acts_get_info(acts);
    cr_assert(info->has_labels && info->n_steps == 40);
    static const int8_t want[] = {-1, 1, 0, 0};
    for (int i = 0; i < 40; i++)
        cr_expect_eq(info->steps[i].label, i < 4 ? want[i] : -1, "step %d", i);
    ks_acts_close(&acts);
    /* the same labels name no chain of the file by themselves */
    cr_expect_eq(keystep(CAPTURE "--labels l.jsonl --out b.h5"), 1);
    cr_expect(strstr(said, "\"k\""), "%s", said);
}

#endif
