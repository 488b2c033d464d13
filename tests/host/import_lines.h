/* import_lines.h - lines of other tools through ks_import, and what came of
 * them. */
#ifndef KS_TEST_IMPORT_LINES_H
#define KS_TEST_IMPORT_LINES_H

#include "import.h"
#include "shell.h"

static char folder[64];

static inline void make_folder(void) {
    make_temporary(folder, "import");
}

static inline void drop_folder(void) {
    drop_temporary(folder);
}

static inline const char *path_of(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static inline void write_lines(const char *name, const char *text) {
    ks_err err = {0};
    cr_assert(ks_write_file(path_of(name), text, strlen(text), true, &err) ==
                  KS_OK,
              "%s", err.text);
}

static inline void count_skipped(const ks_err *why) {
    cr_expect(strstr(why->text, "in.jsonl line ") != NULL, "%s", why->text);
}

typedef struct imported {
    ks_imported all;
    json_t *chains; /* array */
    json_t *problems;
} imported;

static inline json_t *parse_lines(const ks_str *lines) {
    json_t *out = json_array();
    for (const char *at = lines->data; *at; at = strchr(at, '\n') + 1)
        cr_assert(!json_array_append_new(
            out, json_loadb(at, strcspn(at, "\n"), JSON_ALLOW_NUL, NULL)));
    return out;
}

/* The output is a file of chains as chains.h reads it. */
static inline void check_chains(const ks_imported *all) {
    ks_chains chains;
    ks_err err = {0};
    write_lines("out.jsonl", all->chains.data);
    ks_status st =
        ks_chains_read(&chains, path_of("out.jsonl"), KS_KEEP_FIELDS, &err);
    cr_assert(st == KS_OK, "%s", err.text);
    cr_assert(chains.n == all->n);
    for (size_t i = 0; i < chains.n; i++) {
        const ks_chain *c = &chains.at[i];
        cr_expect(c->steps != NULL);
        for (int32_t k = 0; k < c->n_steps; k++)
            cr_expect(c->steps[k].begin == (k > 0 ? c->steps[k - 1].end : 0),
                      "steps tile");
    }
    ks_chains_free(&chains);
}

static inline ks_status import(const char *lines, ks_import_options options,
                               ks_template which, imported *out, ks_err *err) {
    ks_prompt prompt;
    cr_assert(ks_prompt_of(&prompt, which, err) == KS_OK);
    prompt.instruction = "";
    options.prompt = &prompt;
    options.which = which;
    write_lines("in.jsonl", lines);
    ks_status st = ks_import(&out->all, path_of("in.jsonl"), &options, err);
    if (st == KS_OK) {
        out->chains = parse_lines(&out->all.chains);
        out->problems = parse_lines(&out->all.problems);
        check_chains(&out->all);
    }
    ks_prompt_close(&prompt);
    return st;
}

static inline imported good(const char *lines, ks_import_options options,
                            ks_template which) {
    imported out = {0};
    ks_err err = {0};
    cr_assert(import(lines, options, which, &out, &err) == KS_OK, "%s",
              err.text);
    return out;
}

static inline void drop(imported *out) {
    json_decref(out->chains);
    json_decref(out->problems);
    ks_imported_free(&out->all);
}

static inline void expect(const json_t *list, size_t i, const char *key,
                          const char *expected) {
    json_t *value = json_object_get(json_array_get(list, i), key);
    json_t *want = json_loads(expected, JSON_DECODE_ANY, NULL);
    char *got = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT)
                      : strdup("(absent)");
    cr_assert(want || *expected == '(', "%s", expected);
    cr_expect(want ? value && json_equal(value, want) : !value,
              "line %zu: %s is %s, expected %s", i, key, got, expected);
    json_decref(want);
    free(got);
}

/* A line that is good, with further fields. */
#define O(fields) "{\"prompt\":\"P\",\"text\":\"t\"" fields "}\n"

#endif
