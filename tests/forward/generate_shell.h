/* generate_shell.h - keystep as a user runs it, on the embedded demo model, in
 * a folder of its own with three problems. */
#ifndef KS_TEST_GENERATE_SHELL_H
#define KS_TEST_GENERATE_SHELL_H

#include <jansson.h>

#include "shell.h"

#ifdef KS_PROGRAM

#define MODEL KS_TEST_DATA "/../../experiments/demo/models/demo-a"

static char folder[64];

static inline void make_folder(void) {
    make_temporary(folder, "generate");
}

static inline void drop_folder(void) {
    drop_temporary(folder);
}

/* Runs `keystep ARGS` in the folder; $P is the model. Exit code; out gets
 * stdout and stderr. */
static inline int keystep(char *out, size_t size, const char *args) {
    char command[2048];
    snprintf(command, sizeof command, "cd '%s' && M='%s' && { %s %s; } 2>&1",
             folder, MODEL, KS_PROGRAM, args);
    return shell_run(command, out, size);
}

static inline void write_problems(void) {
    char path[128];
    snprintf(path, sizeof path, "%s/problems.jsonl", folder);
    FILE *file = fopen(path, "w");
    cr_assert(file);
    for (int i = 0; i < 3; i++)
        fprintf(file,
                "{\"id\":\"p%d\",\"question\":\"How many coins has Ben? "
                "Ben has %d coins.\",\"answer\":\"%d\"}\n",
                i, i + 2, i + 2);
    fclose(file);
}

static inline json_t *read_lines(const char *name) {
    char path[128], line[65536];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    cr_assert(file, "%s", path);
    json_t *all = json_array();
    while (fgets(line, sizeof line, file))
        json_array_append_new(all, json_loads(line, 0, NULL));
    fclose(file);
    return all;
}

#define GENERATE                                                               \
    "generate --model $M --problems problems.jsonl --samples 2 "               \
    "--temperature 1 --seed 3 --max-new 24 --instruction '' --threads 1 "

static char out[65536];

/* Runs a shell line in the folder. */
static inline void shell(const char *line) {
    char command[1024];
    snprintf(command, sizeof command, "cd '%s' && { %s; }", folder, line);
    cr_assert_eq(system(command), 0, "%s", line);
}

/* keystep ARGS has this exit code and says these words. */
static inline void expect_said(const char *args, int code, const char *words) {
    int got = keystep(out, sizeof out, args);
    cr_expect_eq(got, code, "%s: exit %d: %s", args, got, out);
    cr_expect(strstr(out, words), "%s: no '%s' in: %s", args, words, out);
}

static inline void write_text(const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(ks_write_file(path, text, strlen(text), true, NULL), KS_OK);
}

#endif
#endif
