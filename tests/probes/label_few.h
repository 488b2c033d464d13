/* label_few.h - label_shell.h with a file "few" of the first chains, two of
 * them to be labelled, and the journal of a run that asks about them. */
#ifndef KS_TEST_LABEL_FEW_H
#define KS_TEST_LABEL_FEW_H

#include "label_shell.h"
#include "label_state.h"

#define FEW " --problems " DATA "problems.jsonl --chains few"
#define LABEL KEYSTEP_LABEL " --quiet"

static inline void make_few(void) {
    make_folder();
    cr_assert(system("head -n 4 " DATA "chains.jsonl > few") == 0);
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
