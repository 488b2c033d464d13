/* runner.cpp - runs the tests that were built against shim/criterion, each in
 * a process of its own, and goes on after a failure.
 *   gpu-check tests [--list] [--filter 'suite/name'] [--csv FILE]
 *                   [--timeout SECONDS] [--no-fork]
 * The filter is a shell pattern, several with commas. --no-fork is for tools
 * that follow one process alone. */
#include "criterion/criterion.h"
#include "program.h"

#include <fnmatch.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PASSED = 0, FAILED = 1, SKIPPED = 77 };

static struct shim_test *first;
static int failures; /* of the test that runs in this process */

void shim_register(struct shim_test *test) {
    struct shim_test **at = &first;
    while (*at) {
        int order = strcmp((*at)->suite, test->suite);
        if (order > 0 || (order == 0 && strcmp((*at)->name, test->name) > 0))
            break;
        at = &(*at)->next;
    }
    test->next = *at;
    *at = test;
}

static const char *base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

void shim_fail(bool fatal, const char *file, int line, const char *condition,
               const char *format, ...) {
    va_list args;
    va_start(args, format);
    failures++;
    /* A wrong kernel is wrong in every row; the first ones tell. */
    if (failures <= 20) {
        printf("  %s:%d: not true: %s: ", base(file), line, condition);
        vprintf(format, args);
        printf("\n");
    }
    va_end(args);
    if (fatal) {
        fflush(NULL);
        _exit(FAILED);
    }
}

void shim_skip(const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("  skipped: ");
    vprintf(format, args);
    printf("\n");
    va_end(args);
    fflush(NULL);
    _exit(failures ? FAILED : SKIPPED);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int run_here(const struct shim_test *test) {
    failures = 0;
    if (test->options.init) test->options.init();
    test->body();
    if (test->options.fini) test->options.fini();
    return failures ? FAILED : PASSED;
}

/* The child's wait status; ended by a signal of its own after the time. */
static int run_apart(const struct shim_test *test, double seconds) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        alarm((unsigned)seconds);
        int code = run_here(test);
        fflush(NULL);
        _exit(code);
    }
    int status = FAILED << 8;
    if (pid > 0) waitpid(pid, &status, 0);
    return status;
}

static bool as_expected(const struct shim_test *test, int status) {
    if (test->options.signal)
        return WIFSIGNALED(status) && WTERMSIG(status) == test->options.signal;
    return WIFEXITED(status) && WEXITSTATUS(status) == test->options.exit_code;
}

static bool wanted(const struct shim_test *test, const char *filter) {
    char name[512], pattern[512];
    snprintf(name, sizeof name, "%s/%s", test->suite, test->name);
    for (const char *at = filter; at;) {
        size_t n = strcspn(at, ",");
        snprintf(pattern, sizeof pattern, "%.*s", (int)n, at);
        if (fnmatch(pattern, name, 0) == 0) return true;
        at = at[n] ? at + n + 1 : NULL;
    }
    return filter == NULL;
}

struct options {
    const char *filter, *csv;
    double timeout;
    bool list, no_fork;
};

/* Runs one test and says how it went. */
static int judge(const struct shim_test *test, const struct options *o,
                 FILE *csv) {
    double began = now();
    int status = o->no_fork ? run_here(test) << 8
                            : run_apart(test, test->options.timeout > 0
                                                  ? test->options.timeout
                                                  : o->timeout);
    int verdict = as_expected(test, status) ? PASSED
                  : WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED
                      ? SKIPPED
                      : FAILED;
    static const char *const words[] = {"PASS", "FAIL"};
    const char *word = verdict == SKIPPED ? "SKIP" : words[verdict];
    char why[64] = "";
    if (WIFSIGNALED(status))
        snprintf(why, sizeof why, "%s",
                 WTERMSIG(status) == SIGALRM ? "ran past its time"
                                             : strsignal(WTERMSIG(status)));
    printf("%s %s::%s %.2f s%s%s\n", word, test->suite, test->name,
           now() - began, *why ? ": " : "", why);
    fflush(stdout);
    if (csv) {
        fprintf(csv, "%s,%s,%s,%.2f,%s\n", test->suite, test->name, word,
                now() - began, why);
        fflush(csv);
    }
    return verdict;
}

int run_tests(int argc, char **argv) {
    struct options o = {};
    o.timeout = 120;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--list")) {
            o.list = true;
        } else if (!strcmp(argv[i], "--no-fork")) {
            o.no_fork = true;
        } else if (!strcmp(argv[i], "--filter")) {
            o.filter = value, i++;
        } else if (!strcmp(argv[i], "--csv")) {
            o.csv = value, i++;
        } else if (!strcmp(argv[i], "--timeout")) {
            o.timeout = atof(value), i++;
        } else {
            fprintf(stderr, "gpu-check tests: what is '%s'?\n", argv[i]);
            return 2;
        }
    }
    FILE *csv = o.csv ? fopen(o.csv, "a") : NULL;
    if (o.csv && !csv) {
        perror(o.csv);
        return 2;
    }
    int count[3] = {0, 0, 0};
    for (const struct shim_test *t = first; t; t = t->next) {
        if (t->options.disabled || !wanted(t, o.filter)) continue;
        if (o.list) {
            printf("%s/%s\n", t->suite, t->name);
            continue;
        }
        int verdict = judge(t, &o, csv);
        count[verdict == SKIPPED ? 2 : verdict]++;
    }
    if (csv) fclose(csv);
    if (!o.list)
        printf("%d passed, %d failed, %d skipped\n", count[0], count[1],
               count[2]);
    return count[1] != 0;
}
