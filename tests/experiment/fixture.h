/* fixture.h - experiments on the embedded model in a folder of their own: a
 * model m, chains c.jsonl with steps, labels l.jsonl; keystep as a user runs
 * it.
 */
#ifndef KS_TEST_EXPERIMENT_FIXTURE_H
#define KS_TEST_EXPERIMENT_FIXTURE_H

#include <fcntl.h>
#include <glob.h>
#include <jansson.h>
#include <time.h>

#include "shell.h"

#define MODEL KS_TEST_DATA "/../../experiments/demo/models/demo-a"

static char folder[64], said[1 << 16];

static inline void write_text(const char *name, const char *text, size_t n) {
    FILE *file = fopen(name, "wb");
    cr_assert(file && fwrite(text, 1, n, file) == n && fclose(file) == 0);
}

/* Chains of four steps and labels that a word of each step tells. */
static inline void write_chains(int n) {
    FILE *chains = fopen("c.jsonl", "w"), *labels = fopen("l.jsonl", "w");
    cr_assert(chains && labels);
    for (int i = 0; i < n; i++) {
        char text[256];
        int marks[4], at[5] = {0}, length = 0;
        for (int s = 0; s < 4; s++) {
            marks[s] = (i * 7 + s * 3) / 2 % 2;
            length +=
                snprintf(text + length, sizeof text - (size_t)length,
                         "%s holds %d coins. ",
                         marks[s] ? "Now Yuri" : "And Mona", (i + s) % 10);
            at[s + 1] = length;
        }
        fprintf(chains,
                "{\"id\":\"p%d/0\",\"problem\":\"p%d\",\"prompt\":\"How many "
                "coins has Mona %d?\",\"text\":\"%s\",\"steps\":[",
                i, i, i, text);
        for (int s = 0; s < 4; s++)
            fprintf(chains, "%s{\"begin\":%d,\"end\":%d}", s ? "," : "", at[s],
                    at[s + 1]);
        fprintf(chains, "]}\n");
        fprintf(labels, "{\"chain\":\"p%d/0\",\"labels\":[%d,%d,%d,%d]}\n", i,
                marks[0], marks[1], marks[2], marks[3]);
    }
    cr_assert(fclose(chains) == 0 && fclose(labels) == 0);
}

static inline void make_folder(void) {
    char command[512];
    make_temporary(folder, "run");
    cr_assert(chdir(folder) == 0);
    snprintf(command, sizeof command, "cp -r '%s' m", MODEL);
    cr_assert_eq(system(command), 0);
    write_chains(24);
}

static inline void drop_folder(void) {
    drop_temporary(folder);
}

/* Exit code; what it says on both streams is in said. */
static inline int keystep(const char *args) {
    char command[2048];
    snprintf(command, sizeof command, "{ %s %s; } 2>&1", KS_PROGRAM, args);
    return shell_run(command, said, sizeof said);
}

static inline void expect_run(const char *args, int code) {
    int got = keystep(args);
    cr_assert_eq(got, code, "keystep %s: exit code %d: %s", args, got, said);
}

/* keystep in the background, its words in the file `words`. */
static inline pid_t start(const char *const *words) {
    pid_t pid = fork();
    if (pid == 0) {
        int to = open("words", O_WRONLY | O_CREAT | O_APPEND, 0666);
        dup2(to, 1);
        dup2(to, 2);
        execv(KS_PROGRAM, (char **)(uintptr_t)words);
        _exit(127);
    }
    cr_assert(pid > 0);
    return pid;
}

/* Until a file of the pattern is there, 60 s at most. */
static inline void wait_for(const char *pattern) {
    for (int i = 0; i < 6000; i++) {
        glob_t found;
        bool there = glob(pattern, 0, NULL, &found) == 0;
        if (there) globfree(&found);
        if (there) return;
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
    cr_assert_fail("%s never came", pattern);
}

static inline void expect_said(const char *words) {
    cr_expect(strstr(said, words), "'%s' lacks '%s'", said, words);
}

static inline void expect_silence(const char *words) {
    cr_expect(!strstr(said, words), "'%s' has '%s'", said, words);
}

#define HEAD "name: x\nmodel: m\nchains: c.jsonl\nlabels: l.jsonl\n"
#define SMALL                                                                  \
    HEAD "capture:\n  positions: [mean, last]\nprobe:\n  folds: 3\n"           \
         "  bootstrap: 100\n  no-text: true\n  analyses: none\n"

static inline void write_experiment(const char *text) {
    write_text("x.yaml", text, strlen(text));
}

/* Member `name` of the first stage of the command in the plan of --explain
 * --json; "" where there is none. */
static inline void plan_says(const char *args, const char *command,
                             const char *name, char out[128]) {
    char line[1024];
    snprintf(line, sizeof line, "%s run %s --explain --json 2>errors",
             KS_PROGRAM, args);
    cr_assert_eq(shell_run(line, said, sizeof said), 0, "%s: %s", args, said);
    json_t *plan = json_loads(said, 0, NULL), *one;
    size_t i;
    cr_assert(plan != NULL, "%s", said);
    out[0] = 0;
    json_array_foreach(json_object_get(plan, "stages"), i, one) {
        const char *of = json_string_value(json_object_get(one, "stage"));
        if (strcmp(of, command) == 0 && !out[0])
            snprintf(out, 128, "%s",
                     json_string_value(json_object_get(one, name)));
    }
    json_decref(plan);
}

#endif
