/* test_base.c - errors, strings, files, hashes, JSON Lines. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base.h"
#include "shell.h"

static char folder[64];

static void make_folder(void) {
    make_temporary(folder, "base");
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(base, .init = make_folder, .fini = drop_folder);

static const char *in_folder(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

Test(base, fail_keeps_the_code_and_one_sentence) {
    ks_err err = {0};
    cr_assert(eq(int, ks_fail(&err, KS_FORMAT, "%s: bad", "x"), KS_FORMAT));
    cr_assert(eq(int, err.code, KS_FORMAT));
    cr_assert(eq(str, err.text, "x: bad"));
    ks_fail(&err, KS_IO, "before: %s", err.text);
    cr_assert(eq(str, err.text, "before: x: bad"));
    cr_assert(eq(int, ks_fail(NULL, KS_IO, "nobody reads"), KS_IO));
}

Test(base, fail_cuts_a_long_sentence) {
    ks_err err = {0};
    char *text = malloc(5000);
    memset(text, 'a', 4999);
    text[4999] = 0;
    ks_fail(&err, KS_IO, "%s", text);
    cr_assert(eq(sz, strlen(err.text), sizeof err.text - 1));
    free(text);
}

Test(base, alloc_refuses_what_overflows) {
    void *p = NULL;
    ks_err err = {0};
    cr_assert(eq(int, ks_alloc(&p, SIZE_MAX / 2, 4, "rows", &err), KS_NOMEM));
    cr_assert(strstr(err.text, "rows") != NULL);
}

Test(base, grow_doubles_and_keeps) {
    int *a = NULL;
    size_t capacity = 0;
    for (size_t i = 0; i < 1000; i++) {
        cr_assert(ks_grow(&a, &capacity, i + 1, sizeof *a, "a", NULL) == 0);
        a[i] = (int)i;
    }
    for (int i = 0; i < 1000; i++) cr_assert(eq(int, a[i], i));
    cr_assert(
        eq(int, ks_grow(&a, &capacity, SIZE_MAX / 2, 8, "a", NULL), KS_NOMEM));
    free(a);
}

Test(base, write_file_is_whole_or_absent) {
    ks_err err = {0};
    const char *path = in_folder("out.txt");
    cr_assert(ks_write_file(path, "hello", 5, false, &err) == KS_OK);
    cr_assert(eq(int, ks_write_file(path, "other", 5, false, &err), KS_EXISTS));
    cr_assert(strstr(err.text, "--force") != NULL);
    char *text;
    size_t n;
    cr_assert(ks_read_file(path, &text, &n, &err) == KS_OK);
    cr_assert(eq(str, text, "hello"));
    free(text);
    cr_assert(ks_write_file(path, "other", 5, true, &err) == KS_OK);
    cr_assert(ks_read_file(path, &text, &n, &err) == KS_OK);
    cr_assert(eq(str, text, "other"));
    free(text);
    cr_assert(not(ks_file_exists(in_folder("out.txt.new"))));
}

/* OUT.part is hours of answers, until OUT is there. */
Test(base, write_file_leaves_the_part_alone) {
    ks_err err = {0};
    ks_part part;
    bool begun;
    char *text;
    size_t n;
    char path[256];
    snprintf(path, sizeof path, "%s", in_folder("kept.txt"));
    cr_assert(ks_part_open(&part, path, false, false, NULL, NULL, &begun,
                           &err) == KS_OK);
    json_t *object = json_pack("{s:i}", "a", 1);
    cr_assert(ks_part_add(&part, object, &err) == KS_OK);
    json_decref(object);
    cr_assert(ks_write_file(path, "whole", 5, false, &err) == KS_OK);
    cr_assert(ks_read_file(part.path, &text, &n, &err) == KS_OK);
    cr_assert(eq(str, text, "{\"a\":1}\n"));
    free(text);
    ks_part_close(&part, true);
    cr_assert(not(ks_file_exists(in_folder("kept.txt.part"))));
    cr_assert(ks_file_exists(path));
}

static ks_status count(void *user, size_t line, json_t *object, ks_err *err) {
    (void)line, (void)object, (void)err;
    ++*(int *)user;
    return KS_OK;
}

/* Killed inside its first line: nothing is begun. */
Test(base, a_part_without_a_whole_line_is_begun_afresh) {
    ks_err err = {0};
    ks_part part;
    bool begun;
    int lines = 0;
    char path[256];
    snprintf(path, sizeof path, "%s", in_folder("torn"));
    cr_assert(ks_write_file(in_folder("torn.part"), "{\"a", 3, true, &err) ==
              KS_OK);
    cr_assert(ks_part_open(&part, path, true, false, count, &lines, &begun,
                           &err) == KS_OK);
    ks_part_close(&part, false);
    cr_assert(not(begun));
    cr_assert(lines == 0);
    cr_assert(ks_write_file(in_folder("torn.part"), "{}\n{\"a", 6, true,
                            &err) == KS_OK);
    cr_assert(ks_part_open(&part, path, true, false, count, &lines, &begun,
                           &err) == KS_OK);
    ks_part_close(&part, true);
    cr_assert(begun && lines == 1);
    cr_assert(not(ks_file_exists(in_folder("torn.part"))));
}

Test(base, write_file_names_a_folder_that_is_not_there) {
    ks_err err = {0};
    cr_assert(eq(int, ks_write_file("/nowhere/x", "a", 1, false, &err), KS_IO));
    cr_assert(strstr(err.text, "/nowhere/x") != NULL);
}

Test(base, sha256_equals_the_standard_vectors) {
    char hex[65];
    ks_sha256_of("abc", 3, hex);
    cr_assert(eq(str, hex,
                 "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61"
                 "f20015ad"));
    ks_sha256 *hash;
    cr_assert(ks_sha256_open(&hash, NULL) == KS_OK);
    ks_sha256_add(hash, "a", 1);
    ks_sha256_add(hash, "bc", 2);
    char again[65];
    ks_sha256_close(&hash, again);
    cr_assert(eq(str, hex, again));
    cr_assert(hash == NULL);
}

struct utf8 {
    char text[8];
    size_t n, bad;
};

ParameterizedTestParameters(base, utf8_finds_the_first_bad_byte) {
    static struct utf8 cases[] = {
        {"abc", 3, 3},
        {"\xC3\xA9", 2, 2},
        {"\xF0\x9F\x98\x80", 4, 4},
        {"a\x80", 2, 1},
        {"\xC0\x80", 2, 0},
        {"\xE0\x80\x80", 3, 0},
        {"\xED\xA0\x80", 3, 0},
        {"\xF4\x90\x80\x80", 4, 0},
        {"a\xE2\x82", 3, 1},
        {"\xF5\x80\x80\x80", 4, 0},
    };
    return cr_make_param_array(struct utf8, cases, KS_COUNT(cases));
}

ParameterizedTest(struct utf8 *c, base, utf8_finds_the_first_bad_byte) {
    cr_assert(eq(sz, ks_utf8_check(c->text, c->n), c->bad));
}

static ks_status count_lines(void *user, size_t line, json_t *object,
                             ks_err *err) {
    size_t *lines = user;
    int64_t x;
    char where[32];
    snprintf(where, sizeof where, "f line %zu", line);
    (*lines)++;
    return ks_json_int(object, "x", where, 0, 10, &x, err);
}

struct jsonl {
    char text[64], says[64];
    size_t n;
};

ParameterizedTestParameters(base, jsonl_names_the_place) {
    static struct jsonl cases[] = {
        {"{\"x\":1}\n\n{\"x\":2}\n", "", 2},
        {"{\"x\":1}", "", 1},
        {"{\"x\":1}\n[1]\n", "line 2: expected a JSON object", 1},
        {"{\"x\":1}\n{\"x\":\n", "line 2 column", 1},
        {"{\"x\":1,\"x\":2}\n", "duplicate", 0},
        {"{\"x\":\"\xff\"}\n", "line 1: byte 7 is not valid UTF-8", 0},
        {"{\"x\":11}\n", "\"x\" is 11, expected 0 to 10", 1},
        {"{\"x\":\"a\"}\n", "\"x\" is a string, expected an integer", 1},
        {"{\"y\":1}\n", "no \"x\"", 1},
    };
    return cr_make_param_array(struct jsonl, cases, KS_COUNT(cases));
}

ParameterizedTest(struct jsonl *c, base, jsonl_names_the_place) {
    char path[] = "/tmp/keystep-jsonl-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    cr_assert(write(fd, c->text, strlen(c->text)) == (ssize_t)strlen(c->text));
    close(fd);
    size_t lines = 0;
    ks_err err = {0};
    ks_status st = ks_jsonl_read(path, count_lines, &lines, &err);
    unlink(path);
    cr_assert(eq(sz, lines, c->n));
    cr_assert(eq(int, st == KS_OK, c->says[0] == 0));
    cr_assert(strstr(err.text, c->says) != NULL, "said: %s", err.text);
}
