/* test_install.c - the library as a user gets it: installed into a prefix, and
 * the program of docs/library.md compiled against it through pkg-config, with
 * the shared and with the static library. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base.h"

#define MODEL KS_TEST_DATA "/../../experiments/demo/models/demo-a"

static char folder[] = "/tmp/keystep-install-XXXXXX";

/* Runs a shell command in the folder; its words go to the test's log when it
 * fails. */
__attribute__((format(printf, 1, 2))) static void sh(const char *format, ...) {
    char command[2048];
    int n = snprintf(command, sizeof command, "cd %s && { ", folder);
    va_list list;
    va_start(list, format);
    n += vsnprintf(command + n, sizeof command - (size_t)n, format, list);
    va_end(list);
    cr_assert(n > 0 && n + 32 < (int)sizeof command);
    snprintf(command + n, sizeof command - (size_t)n, "; } >log 2>&1");
    if (system(command) == 0) return;
    char *log = NULL;
    snprintf(command + n, sizeof command - (size_t)n, "; }");
    char path[64];
    snprintf(path, sizeof path, "%s/log", folder);
    ks_read_file(path, SIZE_MAX, &log, NULL, NULL);
    cr_assert(false, "%s\n%s", command, log ? log : "");
}

static void begin(void) {
    cr_assert(mkdtemp(folder) != NULL);
}

static void end(void) {
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    cr_assert(system(command) == 0);
}

TestSuite(install, .init = begin, .fini = end);

/* The page's one C block, into probe.c. */
static void write_program(void) {
    static const char open[] = "\n```c\n", close[] = "\n```\n";
    char *page = NULL, path[64];
    ks_err err;
    cr_assert(ks_read_file(KS_DOCS "/library.md", SIZE_MAX, &page, NULL,
                           &err) == KS_OK,
              "%s", err.text);
    char *from = strstr(page, open);
    cr_assert(from != NULL, "no C block in docs/library.md");
    from += sizeof open - 1;
    char *to = strstr(from, close);
    cr_assert(to != NULL);
    cr_assert(strstr(to, open) == NULL, "a second C block: test that, too");
    snprintf(path, sizeof path, "%s/probe.c", folder);
    cr_assert(ks_write_file(path, from, (size_t)(to + 1 - from), true, &err) ==
              KS_OK);
    free(page);
}

static void write_texts(void) {
    char path[64];
    snprintf(path, sizeof path, "%s/texts", folder);
    FILE *f = fopen(path, "w");
    cr_assert(f != NULL);
    for (int i = 0; i < 20; i++)
        fprintf(f, "Anna has %d coins. Ben has %d coins more than Anna.\n", i,
                7 * i % 10);
    cr_assert(fclose(f) == 0);
}

/* The program's lines: every layer, and halves are easy to tell apart. */
static void check_output(const char *name) {
    char path[64], *text = NULL;
    ks_err err;
    snprintf(path, sizeof path, "%s/%s.out", folder, name);
    cr_assert(ks_read_file(path, SIZE_MAX, &text, NULL, &err) == KS_OK, "%s",
              err.text);
    int layers = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        int layer;
        double right;
        cr_assert(sscanf(line, "layer %d: %lf%% right", &layer, &right) == 2,
                  "%s: %s", name, line);
        cr_assert(eq(int, layer, layers++));
        cr_assert(right >= 90, "%s: %s", name, line);
    }
    cr_assert(layers > 4, "%s: %d layers", name, layers);
    free(text);
}

Test(install, the_program_of_the_page_builds_and_runs) {
    write_program();
    write_texts();
    sh(KS_CMAKE " --install " KS_BUILD " --prefix %s/first", folder);
    sh("mv first prefix"); /* the pkg-config file must not mind */
    sh("echo PKG_CONFIG_PATH=$(dirname $(find $PWD/prefix -name keystep.pc)) "
       ">where && echo export PKG_CONFIG_PATH >>where");
    sh(". ./where; " KS_COMPILE
       " probe.c $(pkg-config --cflags --libs keystep) -Wl,-rpath,"
       "$(pkg-config --variable=libdir keystep) -o shared && ldd shared | "
       "grep -q 'libkeystep.so.* => /' && ./shared " MODEL
       " <texts >shared.out");
    check_output("shared");
    sh("./shared /nowhere <texts 2>words; test $? = 1 && grep /nowhere words");
    sh("rm $(find prefix -name 'libkeystep.so*')");
    sh(". ./where; " KS_COMPILE
       " probe.c $(pkg-config --cflags --libs --static keystep) -o static "
       "&& ! ldd static | grep libkeystep && ./static " MODEL
       " <texts >static.out");
    check_output("static");
    sh("prefix/bin/keystep --version && test -f "
       "prefix/share/keystep/demo/models/demo-a/config.json");
}
