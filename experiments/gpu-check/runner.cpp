/* runner.cpp - runs the tests that were built against shim/criterion, each in
 * a process of its own, and goes on after a failure.
 *   gpu-check tests [--list] [--filter 'suite/name'] [--csv FILE]
 *                   [--timeout SECONDS] [--few N] [--no-fork] [--as-device]
 * The filter is a shell pattern, several with commas; one behind a '!' leaves
 * out. --few: so many of each suite that are not skipped, the suites by turns,
 * for tools that make tests slow: whatever the time allows, all suites had
 * their share. --no-fork is for tools that follow one process alone.
 * --as-device: skips what a real device skips (which this is for anyway, but
 * where it is simulated). */
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

static struct shim_suite *suites;

void shim_register_suite(struct shim_suite *suite) {
    suite->next = suites;
    suites = suite;
}

/* The test's own options, and its suite's where it has none. */
static struct shim_options options_of(const struct shim_test *test) {
    struct shim_options o = test->options;
    for (const struct shim_suite *s = suites; s; s = s->next) {
        if (strcmp(s->name, test->suite) != 0) continue;
        if (!o.init) o.init = s->options.init;
        if (!o.fini) o.fini = s->options.fini;
        if (!(o.timeout > 0)) o.timeout = s->options.timeout;
        o.disabled = o.disabled || s->options.disabled;
    }
    return o;
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
    struct shim_options o = options_of(test);
    if (o.init) o.init();
    test->body();
    if (o.fini) o.fini();
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

/* Every pattern with a ! fails to match, and one of the others, if there are
 * any, matches. */
static bool wanted(const struct shim_test *test, const char *filter) {
    char name[512], pattern[512];
    bool any = false, matched = false;
    snprintf(name, sizeof name, "%s/%s", test->suite, test->name);
    for (const char *at = filter; at && *at;) {
        size_t n = strcspn(at, ",");
        bool out = *at == '!';
        snprintf(pattern, sizeof pattern, "%.*s", (int)n - out, at + out);
        bool match = fnmatch(pattern, name, 0) == 0;
        if (out && match) return false;
        any = any || !out;
        matched = matched || match;
        at += n + (at[n] != 0);
    }
    return matched || !any;
}

struct options {
    const char *filter, *csv;
    double timeout;
    int few; /* 0: all */
    bool list, no_fork;
};

/* Runs one test and says how it went. */
static int judge(const struct shim_test *test, const struct options *o,
                 FILE *csv) {
    double began = now();
    double own = options_of(test).timeout;
    int status = o->no_fork ? run_here(test) << 8
                            : run_apart(test, own > 0 ? own : o->timeout);
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

/* One test of each suite (few), or all; counts passed, failed, skipped. */
static void run_round(const struct options *o, FILE *csv, int count[3]) {
    const char *served = ""; /* the suite that has had its turn */
    for (struct shim_test *t = first; t; t = t->next) {
        if (t->done || !wanted(t, o->filter) || options_of(t).disabled ||
            (o->few && strcmp(served, t->suite) == 0))
            continue;
        t->done = true;
        if (o->list) {
            printf("%s/%s\n", t->suite, t->name);
            served = t->suite;
            continue;
        }
        int verdict = judge(t, o, csv);
        count[verdict == SKIPPED ? 2 : verdict]++;
        if (verdict != SKIPPED) served = t->suite;
    }
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
        } else if (!strcmp(argv[i], "--as-device")) {
            run_as_device(true);
        } else if (!strcmp(argv[i], "--filter")) {
            o.filter = value, i++;
        } else if (!strcmp(argv[i], "--csv")) {
            o.csv = value, i++;
        } else if (!strcmp(argv[i], "--few")) {
            o.few = atoi(value), i++;
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
    for (int round = 0; round < (o.few ? o.few : 1); round++)
        run_round(&o, csv, count);
    if (csv) fclose(csv);
    if (!o.list)
        printf("%d passed, %d failed, %d skipped\n", count[0], count[1],
               count[2]);
    return count[1] != 0;
}
