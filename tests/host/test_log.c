/* test_log.c - the lines of progress that go where no terminal is. */
#include <math.h>

#include "shell.h"

static char folder[64];

static void make_folder(void) {
    make_temporary(folder, "log");
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(log, .init = make_folder, .fini = drop_folder);

/* Standard error goes to a file from here on. */
static const char *catch_words(void) {
    static char path[96];
    snprintf(path, sizeof path, "%s/words", folder);
    cr_assert_not_null(freopen(path, "w", stderr));
    return path;
}

static char *words_in(const char *path) {
    char *text = NULL;
    fflush(stderr);
    cr_assert_eq(ks_read_file(path, SIZE_MAX, &text, NULL, NULL), KS_OK);
    return text;
}

static void wait_for_a_line(void) {
    usleep(3050000);
}

/* Of units that end late nothing would be known until the first one has. */
Test(log, progress_with_a_rate_of_its_own) {
    const char *path = catch_words();
    ks_progress *p = ks_progress_open("generate", "chain", 16);
    ks_progress_set(p, 0); /* too early for a line */
    wait_for_a_line();
    ks_progress_rate(p, "tok", 250, 100, true);
    ks_progress_note(p, "prompts %d%%", 97);
    ks_progress_set(p, 0);
    wait_for_a_line();
    ks_progress_rate(p, "tok", 2.5, 3700, false);
    ks_progress_note(p, "%s", "");
    ks_progress_set(p, 4);
    wait_for_a_line();
    ks_progress_rate(p, "tok", 0, INFINITY, true);
    ks_progress_set(p, 4);
    ks_progress_close(&p);
    char *text = words_in(path);
    static const char lines[] =
        "generate:   0%, 0 of 16 chain, 250 tok/s, at most 1:40 left, prompts "
        "97%\n"
        "generate:  25%, 4 of 16 chain, 2.5 tok/s, 1:01:40 left\n"
        "generate:  25%, 4 of 16 chain, 0.0 tok/s, --:-- left\n"
        "generate:  25%, 4 of 16 chain, 0.0 tok/s, 0:";
    size_t n = strlen(text);
    cr_expect(strncmp(text, lines, strlen(lines)) == 0, "%s", text);
    cr_expect(n > 6 && strcmp(text + n - 6, " took\n") == 0, "%s", text);
    free(text);
}

Test(log, progress_of_units) {
    const char *path = catch_words();
    ks_progress *p = ks_progress_open("capture", "tok", 400);
    wait_for_a_line();
    ks_progress_set(p, 100);
    ks_progress_close(&p);
    char *text = words_in(path), *second = strchr(text, '\n');
    static const char front[] = "capture:  25%, 100 of 400 tok, ";
    char *unit, *left;
    cr_assert(strncmp(text, front, strlen(front)) == 0, "%s", text);
    double rate = strtod(text + strlen(front), &unit);
    cr_assert(strncmp(unit, " tok/s, 0:", 10) == 0, "%s", text);
    long seconds = strtol(unit + 10, &left, 10);
    cr_expect(strncmp(left, " left\n", 6) == 0, "%s", text);
    cr_expect(rate > 20 && rate <= 33 && seconds >= 9 && seconds < 15, "%s",
              text);
    cr_expect(second && strstr(second, "0:03 took"), "%s", text);
    free(text);
}
