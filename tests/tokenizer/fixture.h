/* fixture.h - what the tokenizer's tests share. */
#ifndef KS_TESTS_TOKENIZER_FIXTURE_H
#define KS_TESTS_TOKENIZER_FIXTURE_H

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tokenizer.h"

#define DATA KS_TEST_DATA "/tokenizer"

static inline ks_tokenizer *must_open(const char *path) {
    ks_tokenizer *t = NULL;
    ks_err err = {0};
    cr_assert(eq(int, ks_tokenizer_open(&t, path, &err), KS_OK), "%s",
              err.text);
    return t;
}

static inline ks_tokenizer *open_family(const char *name, const char *file) {
    char path[512];
    snprintf(path, sizeof(path), DATA "/%s/%s", name, file);
    return must_open(path);
}

static inline bool says(const ks_err *err, const char *part) {
    return strstr(err->text, part) != NULL;
}

static inline void must_tokenize(const ks_tokenizer *t, const char *text,
                                 size_t n, ks_tokens *out) {
    ks_err err = {0};
    cr_assert(eq(int, ks_tokenize(t, text, n, out, &err), KS_OK), "%s",
              err.text);
}

/* A file of the test's own process; gone with drop_file. */
static inline const char *own_file(void) {
    static char path[64];
    snprintf(path, sizeof(path), "/tmp/keystep-tokenizer-%d", (int)getpid());
    return path;
}

static inline void drop_file(void) {
    unlink(own_file());
}

static inline void write_own(const void *bytes, size_t n) {
    ks_err err = {0};
    cr_assert(eq(int, ks_write_file(own_file(), bytes, n, true, &err), KS_OK),
              "%s", err.text);
}

#endif
