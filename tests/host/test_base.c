/* test_base.c - errors, strings, files, hashes, JSON Lines. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
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

Test(base, whole_numbers) {
    static const struct {
        const char *text;
        int64_t value;
    } good[] = {{"0", 0},
                {"-3", -3},
                {"+5", 5},
                {"007", 7},
                {"1e6", 1000000},
                {"1E+3", 1000},
                {"20e-1", 2},
                {"9e15", 9000000000000000},
                {"9223372036854775807", INT64_MAX}};
    static const char *const bad[] = {
        "",   "x",    "1x",   "1.0",   "1.5e3",  "15e-1", "1e",
        "e3", "0x10", "1e16", "1e999", "1e-999", "1e3x",  "9223372036854775808",
        "1 "};
    for (size_t i = 0; i < KS_COUNT(good); i++) {
        int64_t value = -1;
        cr_expect(ks_whole(good[i].text, &value), "%s", good[i].text);
        cr_expect(value == good[i].value, "%s: %lld", good[i].text,
                  (long long)value);
    }
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        int64_t value = -1;
        cr_expect(ks_whole(bad[i], &value) == false && value == -1, "%s",
                  bad[i]);
    }
}

Test(base, ends_of_texts) {
    cr_expect(ks_ends_with("a.json", ".json"));
    cr_expect(ks_ends_with(".json", ".json"));
    cr_expect(ks_ends_with("a", ""));
    cr_expect(ks_ends_with("json", ".json") == false);
    cr_expect(ks_ends_with("a.json.part", ".json") == false);
    cr_expect(ks_ends_with("", "a") == false);
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
    cr_assert(ks_read_file(path, SIZE_MAX, &text, &n, &err) == KS_OK);
    cr_assert(eq(str, text, "hello"));
    free(text);
    cr_assert(ks_write_file(path, "other", 5, true, &err) == KS_OK);
    cr_assert(ks_read_file(path, SIZE_MAX, &text, &n, &err) == KS_OK);
    cr_assert(eq(str, text, "other"));
    free(text);
    cr_assert(not(ks_file_exists(in_folder("out.txt.new"))));
}

/* Where a case fails, memory would grow without end: not beyond this much.
 * false: a sanitizer needs more than it shows. */
static bool limit_growth(size_t bytes) {
    char *text = NULL;
    if (getenv("KS_UNDER_SANITIZER")) return false;
    cr_assert(ks_read_file("/proc/self/statm", SIZE_MAX, &text, NULL, NULL) ==
              KS_OK);
    rlim_t now = strtoull(text, NULL, 10) * (rlim_t)getpagesize();
    struct rlimit limit = {now + bytes, now + bytes};
    free(text);
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    return true;
}

static void refuses(const char *path, size_t most, ks_status code,
                    const char *words) {
    ks_err err = {0};
    char *text = NULL;
    cr_expect_eq(ks_read_file(path, most, &text, NULL, &err), code, "%s: %s",
                 path, err.text);
    cr_expect(strstr(err.text, words) && !text, "%s: '%s' lacks '%s'", path,
              err.text, words);
}

Test(base, read_file_takes_what_has_an_end_and_no_more_than_most) {
    ks_err err = {0};
    char *text = NULL;
    size_t n = 9;
    const char *path = in_folder("five");
    limit_growth(64 << 20);
    cr_assert(ks_write_file(path, "hello", 5, false, &err) == KS_OK);
    cr_assert(ks_read_file(path, 5, &text, &n, &err) == KS_OK);
    cr_assert(eq(str, text, "hello"));
    free(text);
    text = NULL;
    refuses(path, 4, KS_LIMIT, "five: more than 4 bytes");
    refuses(path, 0, KS_LIMIT, "five: more than 0 bytes");
    cr_assert(ks_read_file("/dev/null", 0, &text, &n, &err) == KS_OK && n == 0);
    free(text);
    refuses("/dev/zero", 5, KS_IO, "/dev/zero: is a device");
    refuses("/dev/zero", SIZE_MAX, KS_IO, "/dev/zero: is a device");
    refuses("/dev/urandom", SIZE_MAX, KS_IO, "/dev/urandom: is a device");
    refuses(folder, SIZE_MAX, KS_IO, "cannot read: Is a directory");
}

Test(base, read_file_takes_a_pipe) {
    int ends[2];
    char path[64], *text = NULL;
    cr_assert_eq(pipe(ends), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", ends[0]);
    cr_assert_eq(write(ends[1], "hello", 5), 5);
    close(ends[1]);
    cr_assert(ks_read_file(path, 5, &text, NULL, NULL) == KS_OK);
    cr_assert(eq(str, text, "hello"));
    free(text);
}

/* OUT.part is hours of answers, until OUT is there. */
Test(base, write_file_leaves_the_part_alone) {
    ks_err err = {0};
    ks_part part;
    ks_found found;
    char *text;
    size_t n;
    char path[256];
    snprintf(path, sizeof path, "%s", in_folder("kept.txt"));
    cr_assert(ks_part_open(&part, path, false, false, NULL, NULL, &found,
                           &err) == KS_OK);
    json_t *object = json_pack("{s:i}", "a", 1);
    cr_assert(ks_part_add(&part, object, &err) == KS_OK);
    json_decref(object);
    cr_assert(ks_write_file(path, "whole", 5, false, &err) == KS_OK);
    cr_assert(ks_read_file(part.path, SIZE_MAX, &text, &n, &err) == KS_OK);
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

/* It is no end of the file: what stands behind it would be lost. */
Test(base, jsonl_tells_of_a_line_that_memory_does_not_hold) {
    ks_err err = {0};
    int n = 0;
    const char *path = in_folder("long");
    cr_assert(ks_write_file(path, "{\"a\":1}\n", 8, false, &err) == KS_OK);
    cr_assert_eq(truncate(path, 1 << 30), 0); /* a hole, without a line's end */
    if (!limit_growth(64 << 20)) return;
    cr_assert(eq(int, ks_jsonl_read(path, count, &n, &err), KS_IO));
    cr_assert(strstr(err.text, "long: cannot read: Cannot allocate memory") !=
                  NULL,
              "%s", err.text);
    cr_assert(eq(int, n, 1));
}

/* Killed inside its first line: nothing is begun. */
Test(base, a_part_without_a_whole_line_is_begun_afresh) {
    ks_err err = {0};
    ks_part part;
    ks_found found;
    int lines = 0;
    char path[256];
    snprintf(path, sizeof path, "%s", in_folder("torn"));
    cr_assert(ks_write_file(in_folder("torn.part"), "{\"a", 3, true, &err) ==
              KS_OK);
    cr_assert(ks_part_open(&part, path, true, false, count, &lines, &found,
                           &err) == KS_OK);
    ks_part_close(&part, false);
    cr_assert(eq(int, found, KS_FOUND_NOTHING));
    cr_assert(lines == 0);
    cr_assert(ks_write_file(in_folder("torn.part"), "{}\n{\"a", 6, true,
                            &err) == KS_OK);
    cr_assert(ks_part_open(&part, path, true, false, count, &lines, &found,
                           &err) == KS_OK);
    ks_part_close(&part, true);
    cr_assert(found == KS_FOUND_PART && lines == 1);
    cr_assert(not(ks_file_exists(in_folder("torn.part"))));
}

/* One at a time, the holder by name; free again when it is dropped, and when
 * a process that held it has left the file behind. */
Test(base, locks_name_their_holder) {
    ks_err err = {0};
    ks_lock a, b;
    char path[256], name[300], words[64];
    snprintf(path, sizeof path, "%s", in_folder("held"));
    snprintf(name, sizeof name, "%s.lock", path);
    snprintf(words, sizeof words, "being written by process %ld on ",
             (long)getpid());
    cr_assert(ks_write_file(name, "process 1 on mars\n", 18, false, &err) ==
              KS_OK);
    cr_assert(ks_lock_take(&a, path, &err) == KS_OK, "%s", err.text);
    cr_assert(eq(int, ks_lock_take(&b, path, &err), KS_EXISTS));
    cr_assert(strstr(err.text, words) != NULL, "%s", err.text);
    ks_lock_drop(&b);
    cr_assert(ks_file_exists(name));
    ks_lock_drop(&a);
    cr_assert(not(ks_file_exists(name)));
    cr_assert(ks_lock_take(&b, path, &err) == KS_OK);
    ks_lock_drop(&b);
    ks_lock_drop(&b);
    cr_assert(eq(int, ks_lock_take(&a, "/nowhere/x", &err), KS_IO));
    cr_assert(strstr(err.text, "/nowhere/x.lock") != NULL);
    ks_lock_drop(&a);
}

Test(base, the_same_file_by_any_name) {
    ks_err err = {0};
    char there[256], fresh[256], other[300];
    snprintf(there, sizeof there, "%s", in_folder("there"));
    snprintf(fresh, sizeof fresh, "%s", in_folder("fresh"));
    snprintf(other, sizeof other, "%s/./fresh", folder);
    cr_assert(ks_write_file(there, "", 0, false, &err) == KS_OK);
    ks_use uses[] = {{"--out", fresh, true}, {"--in", there, false}};
    cr_assert(ks_refuse_overlap(uses, 2, &err) == KS_OK);
    uses[0].path = there;
    cr_assert(eq(int, ks_refuse_overlap(uses, 2, &err), KS_USAGE));
    cr_assert(strstr(err.text, "would overwrite what --in names") != NULL);
    uses[0].written = false; /* read twice */
    cr_assert(ks_refuse_overlap(uses, 2, &err) == KS_OK);
    uses[0] = (ks_use){"--out", fresh, true};
    uses[1] = (ks_use){"--too", other, true};
    cr_assert(eq(int, ks_refuse_overlap(uses, 2, &err), KS_USAGE));
    cr_assert(strstr(err.text, "--too name the same file") != NULL);
    uses[1].path = "-";
    cr_assert(ks_refuse_overlap(uses, 2, &err) == KS_OK);
    uses[0].path = "-";
    cr_assert(eq(int, ks_refuse_overlap(uses, 2, &err), KS_USAGE));
    uses[1].written = false; /* standard input */
    cr_assert(ks_refuse_overlap(uses, 2, &err) == KS_OK);
    uses[1].path = NULL;
    cr_assert(ks_refuse_overlap(uses, 2, &err) == KS_OK);
}

Test(base, settings_that_differ_are_named) {
    ks_err err = {0};
    json_t *a = json_pack("{s:i,s:s}", "seed", 7, "cue", "x");
    json_t *b = json_deep_copy(a);
    cr_assert(ks_json_same(a, b, "f", &err) == KS_OK);
    json_object_set_new(b, "seed", json_integer(42));
    cr_assert(eq(int, ks_json_same(a, b, "f", &err), KS_MISMATCH));
    cr_assert(eq(str, err.text, "f: seed is 7 here and 42 there"));
    json_object_del(b, "seed");
    ks_json_same(a, b, "f", &err);
    cr_assert(eq(str, err.text, "f: seed is 7 here and not set there"));
    ks_json_same(b, a, "f", &err);
    cr_assert(eq(str, err.text, "f: seed is not set here and 7 there"));
    cr_assert(eq(int, ks_json_same(a, NULL, "f", &err), KS_FORMAT));
    cr_assert(eq(int, ks_json_same(a, json_object_get(a, "cue"), "f", &err),
                 KS_FORMAT));
    json_decref(a);
    json_decref(b);
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
