/* files.h - temporary files, and what a refusal has to look like. */
#ifndef KS_TESTS_MODEL_FILES_H
#define KS_TESTS_MODEL_FILES_H

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base.h"
#include "shell.h"

/* A folder of this test's own; files_end removes it with what is in it. */
static char files_dir[64];

static inline void files_begin(void) {
    make_temporary(files_dir, "test");
}

static inline void files_end(void) {
    drop_temporary(files_dir);
}

/* Its path, in a buffer that the next but three calls reuse. */
static inline const char *file_path(const char *name) {
    static char paths[4][256];
    static int at;
    at = (at + 1) % 4;
    snprintf(paths[at], sizeof paths[at], "%s/%s", files_dir, name);
    return paths[at];
}

static inline const char *file_write(const char *name, const void *data,
                                     size_t n) {
    const char *path = file_path(name);
    FILE *f = fopen(path, "wb");
    cr_assert(f != NULL);
    cr_assert(fwrite(data, 1, n, f) == n);
    cr_assert(fclose(f) == 0);
    return path;
}

static inline const char *file_text(const char *name, const char *text) {
    return file_write(name, text, strlen(text));
}

/* The sentence names the file and holds `words`; shows it when it does not. */
static inline bool says(const ks_err *err, const char *path,
                        const char *words) {
    bool good = strstr(err->text, path) && strstr(err->text, words);
    if (!good)
        fprintf(stderr, "got '%s', expected it to name '%s' and say '%s'\n",
                err->text, path, words);
    return good;
}

#endif
