/* shell.h - what tests of files and of the program share: a folder of their
 * own, a shell line with its output and exit code, files compared. */
#ifndef KS_TEST_SHELL_H
#define KS_TEST_SHELL_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base.h"

/* A new folder, which drop_temporary removes with what is in it. */
static inline void make_temporary(char folder[64], const char *name) {
    snprintf(folder, 64, "/tmp/keystep-%s-XXXXXX", name);
    cr_assert(mkdtemp(folder) != NULL);
}

static inline void drop_temporary(const char *folder) {
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert(system(command) == 0);
}

/* Exit code of a shell line, -1 when a signal ended it; out gets the first
 * size - 1 bytes of its standard output. */
static inline int shell_run(const char *command, char *out, size_t size) {
    FILE *pipe = popen(command, "r");
    cr_assert(pipe != NULL);
    out[fread(out, 1, size - 1, pipe)] = 0;
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The most that was resident of a command, in bytes; getrusage(2) counts in
 * KiB. It must end well. */
static inline long long shell_peak(const char *command) {
    char line[2048];
    struct rusage used;
    int status = 0;
    snprintf(line, sizeof line, "exec %s >/dev/null 2>said", command);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    cr_assert_eq(wait4(child, &status, 0, &used), child);
    bool well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    cr_assert(well, "%s: %#x", command, (unsigned)status);
    return (long long)used.ru_maxrss << 10;
}

/* Byte for byte; false too when one cannot be read. */
static inline bool same_files(const char *a, const char *b) {
    char *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    bool same = ks_read_file(a, SIZE_MAX, &x, &n, NULL) == KS_OK &&
                ks_read_file(b, SIZE_MAX, &y, &m, NULL) == KS_OK && n == m &&
                memcmp(x, y, n) == 0;
    free(x);
    free(y);
    return same;
}

#endif
