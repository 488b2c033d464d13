/* fixture.h - chains and captures of the small demo model, in a folder of
 * their own. */
#ifndef KS_TESTS_CAPTURE_FIXTURE_H
#define KS_TESTS_CAPTURE_FIXTURE_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "capture.h"
#include "shell.h"

#ifndef KS_DEMO_MODEL
#define KS_DEMO_MODEL KS_TEST_DATA "/../../experiments/demo/models/demo-a"
#endif
#define MODEL KS_DEMO_MODEL

static char dir[64];

static inline void begin(void) {
    make_temporary(dir, "capture");
}

static inline void end(void) {
    drop_temporary(dir);
}

static inline const char *name_of(const char *name) {
    static char names[6][160];
    static int at;
    at = (at + 1) % 6;
    snprintf(names[at], sizeof names[at], "%s/%s", dir, name);
    return names[at];
}

static inline void write_text(const char *name, const char *text) {
    ks_err err = {0};
    cr_assert_eq(ks_write_file(name_of(name), text, strlen(text), true, &err),
                 KS_OK, "%s", err.text);
}

/* n chains of some sentences each, every sentence a step; the blank between
 * two belongs to neither. */
static inline void write_chains(const char *name, int n) {
    ks_str all = {0};
    for (int c = 0; c < n; c++) {
        ks_str text = {0}, steps = {0};
        for (int i = 0; i < 2 + c % 4; i++) {
            size_t from = text.length;
            ks_str_printf(&text, NULL, "Ada has %d more plums than Ben%s.",
                          3 * i + c, i % 2 ? " and Cleo" : "");
            ks_str_printf(&steps, NULL, "%s{\"begin\":%zu,\"end\":%zu}",
                          i ? "," : "", from, text.length);
            ks_str_add(&text, " ", 1, NULL);
        }
        ks_str_printf(&all, NULL,
                      "{\"id\":\"p%d/0\",\"problem\":\"p%d\",\"model\":\"m\","
                      "\"prompt\":\"How many plums has Ada? \",\"text\":\"%s\","
                      "\"rest\":\"\",\"steps\":[%s]}\n",
                      c, c, text.data, steps.data);
        ks_str_free(&text);
        ks_str_free(&steps);
    }
    write_text(name, all.data);
    ks_str_free(&all);
}

static inline ks_capture_options options_for(const char *out) {
    static char chains[160], file[2][160];
    static int at;
    at = !at;
    snprintf(chains, sizeof chains, "%s", name_of("chains.jsonl"));
    snprintf(file[at], sizeof file[at], "%s", name_of(out));
    return (ks_capture_options){.model = MODEL,
                                .chains = chains,
                                .out = file[at],
                                .dtype = KS_F32,
                                .streams = 7,
                                .positions = 63,
                                .random_weights = -1,
                                .engine = {.threads = 1}};
}

static inline ks_status capture(const ks_capture_options *options,
                                ks_err *err) {
    ks_capture_job *job = NULL;
    ks_status st = ks_capture_open(&job, options, err);
    if (st == KS_OK) st = ks_capture_run(job, NULL, NULL, NULL, err);
    ks_capture_close(&job);
    return st;
}

static inline void must_capture(const ks_capture_options *options) {
    ks_err err = {0};
    cr_assert_eq(capture(options, &err), KS_OK, "%s", err.text);
}

static inline void must_fail(const ks_capture_options *options, ks_status want,
                             const char *words) {
    ks_err err = {0};
    ks_status st = capture(options, &err);
    cr_assert_eq(st, want, "%s: %s", ks_status_text(st), err.text);
    cr_assert(strstr(err.text, words), "got '%s', expected '%s'", err.text,
              words);
    cr_assert(!ks_file_exists(options->out), "%s was made", options->out);
}

static inline ks_acts_file *must_open(const char *path) {
    ks_acts_file *file = NULL;
    ks_err err = {0};
    cr_assert_eq(ks_acts_verify(path, NULL, &err), KS_OK, "%s", err.text);
    cr_assert_eq(ks_acts_open(&file, path, &err), KS_OK, "%s", err.text);
    return file;
}

static inline void row_of(const ks_acts_file *file, ks_stream s, ks_position p,
                          int32_t layer, int64_t row, float *out) {
    ks_err err = {0};
    cr_assert_eq(ks_acts_read(file, s, p, layer, row, 1, out, &err), KS_OK,
                 "%s", err.text);
}

#endif
