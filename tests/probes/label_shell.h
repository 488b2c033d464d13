/* label_shell.h - keystep label as a user runs it, on the demo's model, in a
 * folder of its own. */
#ifndef KS_TEST_LABEL_SHELL_H
#define KS_TEST_LABEL_SHELL_H

#include <jansson.h>

#include "shell.h"

#define MODEL KS_TEST_DATA "/../../experiments/demo/models/demo-a"
#define DATA KS_TEST_DATA "/label/"
#define INPUT " --problems " DATA "problems.jsonl --chains " DATA "chains.jsonl"
#define KEYSTEP_LABEL KS_PROGRAM " label --model " MODEL

static char folder[64], text[1 << 16];

static inline void make_folder(void) {
    make_temporary(folder, "label");
    cr_assert(chdir(folder) == 0);
}

static inline void drop_folder(void) {
    drop_temporary(folder);
}

/* The shell line has this exit code; what it says is in text. */
static inline void run(const char *line, int code) {
    char all[2048];
    snprintf(all, sizeof all, "{ %s; } 2>&1", line);
    int got = shell_run(all, text, sizeof text);
    cr_assert_eq(got, code, "%s: exit code %d: %s", line, got, text);
}

static inline void expect_said(const char *words) {
    cr_expect(strstr(text, words), "'%s' lacks '%s'", text, words);
}

#endif
