/* label_shell.h - keystep label as a user runs it, on the demo's model, in a
 * folder of its own. */
#ifndef KS_TEST_LABEL_SHELL_H
#define KS_TEST_LABEL_SHELL_H

#include "label_state.h"
#include "shell.h"

#define MODEL KS_TEST_DATA "/../../experiments/demo/models/demo-a"
#define DATA KS_TEST_DATA "/label/"
#define INPUT " --problems " DATA "problems.jsonl --chains few"
#define KEYSTEP_LABEL KS_PROGRAM " label --model " MODEL
#define LABEL KEYSTEP_LABEL " --quiet"

static char folder[64], text[1 << 16];

/* "few" has the first chains, two of them to be labelled. */
static inline void make_folder(void) {
    make_temporary(folder, "label");
    cr_assert(chdir(folder) == 0);
    cr_assert(system("head -n 4 " DATA "chains.jsonl > few") == 0);
}

static inline void drop_folder(void) {
    drop_temporary(folder);
}

static inline void run(const char *line, int code) {
    char all[2048];
    snprintf(all, sizeof all, "{ %s; } 2>&1", line);
    int got = shell_run(all, text, sizeof text);
    cr_assert_eq(got, code, "%s: exit code %d: %s", line, got, text);
}

static inline void expect(const char *words) {
    cr_expect(strstr(text, words), "'%s' lacks '%s'", text, words);
}

/* The file's lines, by their "chain". */
static inline json_t *by_chain(const char *path) {
    json_t *all = json_object(), *line;
    FILE *file = fopen(path, "r");
    cr_assert(file, "%s", path);
    while ((line = json_loadf(file, JSON_DISABLE_EOF_CHECK, NULL))) {
        const char *id = json_string_value(json_object_get(line, "chain"));
        cr_assert(id);
        json_object_set_new(all, id, line);
    }
    fclose(file);
    return all;
}

static inline void write_text(const char *path, const char *what) {
    FILE *file = fopen(path, "w");
    cr_assert(file && fputs(what, file) >= 0);
    fclose(file);
}

/* OUT.part of a run that was stopped ahead of its first answer. */
static inline void begin(ks_label_options o, const char *out) {
    ks_label_job *job = NULL;
    ks_err err = {0};
    int64_t lines;
    o.model = MODEL;
    o.problems = DATA "problems.jsonl";
    o.chains = "few";
    o.out = out;
    cr_assert_eq(ks_label_open(&job, &o, &err), KS_OK, "%s", err.text);
    cr_assert_eq(ks__journal_open(job, &lines, &err), KS_OK, "%s", err.text);
    ks_label_close(&job);
}

#endif
