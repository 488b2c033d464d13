/* How the program starts: threads spin briefly unless the user says how. */
#include "shell.h"

#ifdef KS_PROGRAM

static char said[65536];

/* What libgomp, asked to show its settings, says on each load. */
static void start(const char *setting) {
    char command[512];
    snprintf(command, sizeof command,
             "unset OMP_WAIT_POLICY GOMP_SPINCOUNT; %s OMP_DISPLAY_ENV=verbose "
             "%s text split 2>&1 </dev/null",
             setting, KS_PROGRAM);
    cr_expect_eq(shell_run(command, said, sizeof said), 0);
}

static int count(const char *what) {
    int n = 0;
    for (const char *at = said; (at = strstr(at, what)); at++) n++;
    return n;
}

Test(start, threads_spin_briefly) {
    start("");
    if (!count("GOMP_SPINCOUNT")) cr_skip_test("not libgomp");
    cr_expect_eq(count("GOMP_SPINCOUNT = '10000'"), 1, "%s", said);
    cr_expect_eq(count("GOMP_SPINCOUNT"), 2, "%s", said);
}

Test(start, unless_the_user_says_how) {
    start("GOMP_SPINCOUNT=77");
    if (!count("GOMP_SPINCOUNT")) cr_skip_test("not libgomp");
    cr_expect_eq(count("GOMP_SPINCOUNT = '77'"), 1, "%s", said);
    cr_expect_eq(count("GOMP_SPINCOUNT"), 1, "%s", said);
    start("OMP_WAIT_POLICY=active");
    cr_expect_eq(count("GOMP_SPINCOUNT"), 1, "%s", said);
    cr_expect_eq(count("'10000'"), 0, "%s", said);
}

/* Scripts read these lines. */
Test(start, version_names_the_build) {
    static const char *const lines[] = {
        "\ncommit: ", "\ncompiler: ", "\nlibc: glibc ",
        "\ninstruction sets: v2 avx2 avx512\n", "\nbackends: cpu"};
    cr_assert_eq(shell_run(KS_PROGRAM " --version", said, sizeof said), 0);
    cr_expect(strncmp(said, "keystep " KS_VERSION "\n",
                      strlen("keystep " KS_VERSION "\n")) == 0,
              "%s", said);
    for (size_t i = 0; i < KS_COUNT(lines); i++)
        cr_expect(strstr(said, lines[i]), "no '%s' in %s", lines[i] + 1, said);
    cr_expect_eq(
        shell_run(KS_PROGRAM " --version 2>&1 >/dev/full", said, sizeof said),
        1);
    cr_expect(strstr(said, "cannot write"), "%s", said);
}

#endif
