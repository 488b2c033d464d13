/* Problems, chains and labels: what is read, and that every bad line is named
 * with file, line and reason. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chains.h"

static char path[64];

static const char *file_of(const char *text) {
    strcpy(path, "/tmp/keystep-chains-XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return path;
}

typedef ks_status (*reader)(const char *, ks_err *);

static ks_status read_problems(const char *p, ks_err *err) {
    ks_problems list;
    ks_status st = ks_problems_read(&list, p, KS_KEEP_FIELDS, err);
    ks_problems_free(&list);
    return st;
}

static ks_status read_chains(const char *p, ks_err *err) {
    ks_chains list;
    ks_status st = ks_chains_read(&list, p, KS_KEEP_FIELDS, err);
    ks_chains_free(&list);
    return st;
}

static ks_status read_labels(const char *p, ks_err *err) {
    ks_labels list;
    ks_status st = ks_labels_read(&list, p, KS_KEEP_FIELDS, err);
    ks_labels_free(&list);
    return st;
}

#define CHAIN(rest) "{\"id\":\"a\",\"problem\":\"p\",\"prompt\":\"x\"," rest "}"
#define GOOD CHAIN("\"text\":\"t\"")

typedef struct bad {
    reader read;
    const char *text, *place, *reason;
} bad;

static const bad bad_files[] = {
    {read_problems, "{\"id\":\"a\"}", "line 1", "question"},
    {read_problems, "{\"id\":\"\",\"question\":\"q\"}", "line 1", "empty"},
    {read_problems, "{\"id\":3,\"question\":\"q\"}", "line 1", "an integer"},
    {read_problems, "{\"id\":\"a\",\"question\":\"q\",\"answer\":7}", "line 1",
     "answer"},
    {read_problems,
     "{\"id\":\"a\",\"question\":\"q\"}\n\n{\"id\":\"a\",\"question\":\"r\"}",
     "line 3", "already on line 1"},
    {read_problems, "{\"id\":\"a\",\"question\":\"q\"}\n{oops", "line 2", ""},
    {read_problems, "[1]", "line 1", "object"},
    {read_chains, CHAIN("\"rest\":\"\""), "line 1", "text"},
    {read_chains, GOOD "\n" GOOD, "line 2", "already on line 1"},
    {read_chains, CHAIN("\"text\":\"ab\",\"steps\":3"), "line 1", "steps"},
    {read_chains, CHAIN("\"text\":\"ab\",\"steps\":[1]"), "line 1", "step 0"},
    {read_chains, CHAIN("\"text\":\"ab\",\"steps\":[{\"begin\":0}]"), "line 1",
     "end"},
    {read_chains, CHAIN("\"text\":\"ab\",\"steps\":[{\"begin\":0,\"end\":3}]"),
     "line 1", "the text has 2"},
    {read_chains, CHAIN("\"text\":\"ab\",\"steps\":[{\"begin\":-1,\"end\":1}]"),
     "line 1", "-1"},
    {read_chains, CHAIN("\"text\":\"ab\",\"steps\":[{\"begin\":2,\"end\":1}]"),
     "line 1", "2 to 1"},
    {read_chains,
     CHAIN("\"text\":\"abc\",\"steps\":[{\"begin\":0,\"end\":2},"
           "{\"begin\":1,\"end\":3}]"),
     "line 1", "before the end of step 0"},
    {read_chains,
     CHAIN("\"text\":\"\\u00e4b\",\"steps\":[{\"begin\":1,\"end\":3}]"),
     "line 1", "cut a character"},
    {read_chains, CHAIN("\"text\":\"a\xff\""), "line 1", "UTF-8"},
    {read_labels, "{\"chain\":\"a\"}", "line 1", "labels"},
    {read_labels, "{\"chain\":\"a\",\"labels\":[2]}", "line 1", "labels[0]"},
    {read_labels, "{\"chain\":\"a\",\"labels\":[1,true]}", "line 1",
     "labels[1]"},
    {read_labels, "{\"chain\":\"a\",\"labels\":[-1]}", "line 1", "labels[0]"},
    {read_labels, "{\"chain\":\"a\",\"labels\":[1],\"scores\":{\"s\":[1,2]}}",
     "line 1", "\"s\""},
    {read_labels, "{\"chain\":\"a\",\"labels\":[1],\"scores\":{\"s\":[\"x\"]}}",
     "line 1", "\"s\" 0"},
    {read_labels,
     "{\"chain\":\"a\",\"labels\":[]}\n{\"chain\":\"a\",\"labels\":[]}",
     "line 2", "already on line 1"},
};

Test(chains, bad_lines_are_named) {
    for (size_t i = 0; i < KS_COUNT(bad_files); i++) {
        const bad *b = &bad_files[i];
        ks_err err = {0};
        const char *file = file_of(b->text);
        cr_expect_neq(b->read(file, &err), KS_OK, "%s passed", b->text);
        cr_expect(strstr(err.text, file) && strstr(err.text, b->place) &&
                      strstr(err.text, b->reason),
                  "%s: '%s' lacks '%s' or '%s'", b->text, err.text, b->place,
                  b->reason);
        unlink(file);
    }
    ks_err err = {0};
    cr_expect_eq(read_chains("/nowhere/at/all", &err), KS_IO);
}

static void expect_what_is_there(ks_keep keep) {
    ks_chains c;
    ks_err err = {0};
    const char *file = file_of(
        "{\"id\":\"p/0\",\"problem\":\"p\",\"prompt\":\"q\\u0000\",\"text\":"
        "\"One. "
        "Two.\",\"question\":\"why\",\"rest\":\"!\",\"steps\":[{\"begin\":0,"
        "\"end\":5},"
        "{\"begin\":5,\"end\":9}],\"mine\":[1,2]}\n"
        "\n" CHAIN("\"text\":\"\",\"steps\":[],\"rest\":null"));
    cr_assert_eq(ks_chains_read(&c, file, keep, &err), KS_OK, "%s", err.text);
    cr_assert_eq(c.n, 2);
    cr_expect_str_eq(c.at[0].text, "One. Two.");
    cr_expect_eq(c.at[0].prompt_length, 2);
    cr_expect_str_eq(c.at[0].rest, "!");
    cr_assert_eq(c.at[0].n_steps, 2);
    cr_expect_eq(c.at[0].steps[1].begin, 5);
    cr_expect_eq(c.at[0].steps[1].end, 9);
    char hash[65];
    ks_sha256_of("One. Two.", 9, hash);
    cr_expect_str_eq(c.at[0].text_sha256, hash);
    if (keep == KS_KEEP_OBJECTS)
        cr_expect_eq(json_array_size(json_object_get(c.at[0].object, "mine")),
                     2);
    else
        cr_expect_null(c.at[0].object);
    cr_expect_str_eq(c.at[0].question, "why");
    cr_expect_null(c.at[1].question);
    cr_expect_arr_eq(c.at[0].prompt, "q\0", 3);
    cr_expect_eq(c.at[1].n_steps, 0);
    cr_expect_not_null(c.at[1].steps);
    cr_expect_eq(c.at[1].rest_length, 0);
    cr_expect_eq(ks_chains_find(&c, "a"), &c.at[1]);
    cr_expect_null(ks_chains_find(&c, "b"));
    unlink(file);
    ks_chains_free(&c);
}

Test(chains, reads_what_is_there) {
    expect_what_is_there(KS_KEEP_FIELDS);
    expect_what_is_there(KS_KEEP_OBJECTS);
}

Test(chains, label_lines_keep_their_fields) {
    static const char text[] =
        "{\"chain\":\"a\",\"method\":\"m\",\"text_sha256\":\"00\","
        "\"labels\":[1,null,0],\"hops\":[1,2,3]}\n"
        "{\"chain\":\"b\",\"labels\":[]}";
    for (int keep = KS_KEEP_FIELDS; keep <= KS_KEEP_OBJECTS; keep++) {
        ks_labels l;
        ks_err err = {0};
        const char *file = file_of(text);
        cr_assert_eq(ks_labels_read(&l, file, (ks_keep)keep, &err), KS_OK, "%s",
                     err.text);
        unlink(file);
        const ks_label *a = ks_labels_find(&l, "a"), *b = &l.at[1];
        cr_assert(a == &l.at[0] && a->n_steps == 3);
        cr_expect_str_eq(a->method, "m");
        cr_expect_str_eq(a->text_sha256, "00");
        cr_expect(a->labels[0] == 1 && a->labels[1] == -1 && a->labels[2] == 0);
        cr_expect_str_eq(b->method, "");
        cr_expect_null(b->text_sha256);
        cr_expect_eq(a->object != NULL, keep == KS_KEEP_OBJECTS);
        ks_labels_free(&l);
    }
}

static void expect_fit(const char *labels_text, ks_status code,
                       const char *words) {
    ks_chains c;
    ks_labels l;
    ks_err err = {0};
    const char *file =
        file_of(CHAIN("\"text\":\"ab\",\"steps\":[{\"begin\":0,\"end\":2}]"));
    cr_assert_eq(ks_chains_read(&c, file, KS_KEEP_FIELDS, &err), KS_OK);
    unlink(file);
    file = file_of(labels_text);
    cr_assert_eq(ks_labels_read(&l, file, KS_KEEP_FIELDS, &err), KS_OK, "%s",
                 err.text);
    unlink(file);
    cr_expect_eq(ks_labels_fit(&l, &c, &err), code, "%s", err.text);
    if (code != KS_OK)
        cr_expect(strstr(err.text, words), "'%s' lacks '%s'", err.text, words);
    ks_labels_free(&l);
    ks_chains_free(&c);
}

Test(chains, labels_fit_their_chains) {
    char hash[65], line[256];
    ks_sha256_of("ab", 2, hash);
    snprintf(line, sizeof line,
             "{\"chain\":\"a\",\"labels\":[null],\"text_sha256\":\"%s\"}",
             hash);
    expect_fit(line, KS_OK, "");
    expect_fit("{\"chain\":\"b\",\"labels\":[1]}", KS_MISMATCH, "\"b\"");
    expect_fit("{\"chain\":\"a\",\"labels\":[1,0]}", KS_MISMATCH,
               "2 labels, but 1 steps");
    expect_fit("{\"chain\":\"a\",\"labels\":[1],\"text_sha256\":\"00\"}",
               KS_MISMATCH, "another text");
}

/* Who replaces steps takes lines whose old ones are broken. */
Test(chains, unsplit_lines_keep_broken_steps) {
    static const char *const steps[] = {"\"none\"", "[{\"begin\":9,\"end\":1}]",
                                        "[3]"};
    for (size_t i = 0; i < KS_COUNT(steps); i++) {
        char line[256];
        ks_chains c;
        ks_err err = {0};
        snprintf(line, sizeof line,
                 "{\"id\":\"a\",\"problem\":\"p\",\"prompt\":\"\",\"text\":"
                 "\"t\",\"steps\":%s}\n",
                 steps[i]);
        const char *file = file_of(line);
        cr_expect_eq(ks_chains_read(&c, file, KS_KEEP_OBJECTS, &err),
                     KS_FORMAT);
        cr_assert_eq(ks_chains_read(&c, file, KS_KEEP_UNSPLIT, &err), KS_OK,
                     "%s", err.text);
        cr_expect(!c.at[0].steps && c.at[0].object);
        unlink(file);
        ks_chains_free(&c);
    }
}

Test(chains, set_steps_reaches_the_object) {
    ks_chains c;
    ks_err err = {0};
    const char *file = file_of(GOOD);
    cr_assert_eq(ks_chains_read(&c, file, KS_KEEP_OBJECTS, &err), KS_OK);
    cr_expect_null(c.at[0].steps);
    ks_spans spans = {0};
    cr_assert_eq(ks_spans_add(&spans, 0, 1, &err), KS_OK);
    cr_assert_eq(ks_chain_set_steps(&c.at[0], &spans, NULL, &err), KS_OK);
    cr_expect_eq(c.at[0].n_steps, 1);
    json_t *steps = json_object_get(c.at[0].object, "steps");
    cr_expect_eq(json_array_size(steps), 1);
    ks_spans_free(&spans);
    unlink(file);
    ks_chains_free(&c);
}
