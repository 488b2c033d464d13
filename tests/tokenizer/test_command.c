/* test_command.c - keystep tokenize, as a user runs it. */
#include "fixture.h"
#include "shell.h"

#ifdef KS_PROGRAM

TestSuite(command, .fini = drop_file);

static int exit_code(int status) {
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Runs the program on lines from stdin; its stdout, and its exit code. */
static char *run(const char *model, const char *lines, int *code) {
    static char out[8192];
    char command[1024];
    write_own(lines, strlen(lines));
    snprintf(command, sizeof(command), "%s tokenize --model %s < %s 2>&1",
             KS_PROGRAM, model, own_file());
    *code = shell_run(command, out, sizeof(out));
    return out;
}

Test(command, ids_and_back) {
    int code;
    char *out = run(DATA "/gpt2",
                    "{\"text\":\"\\u0001a<|endoftext|>\"}\n"
                    "{\"ids\":[0,65]}\n",
                    &code);
    cr_assert(eq(str, out,
                 "{\"ids\":[190,65,0],\"offsets\":[[0,1],[1,2],[2,15]]}\n"
                 "{\"text\":\"<|endoftext|>a\"}\n"));
    cr_assert(eq(int, code, 0));
}

Test(command, part_of_a_character_becomes_u_fffd) {
    int code;
    char *out = run(DATA "/gpt2",
                    "{\"text\":\"\xf3\xa0\x81\xbf\"}\n{\"ids\":[65]}\n", &code);
    cr_assert(eq(int, code, 0));
    int ids[4];
    cr_assert(sscanf(out, "{\"ids\":[%d,%d,%d,%d]", ids, ids + 1, ids + 2,
                     ids + 3) == 4,
              "%s", out);
    char lines[128];
    snprintf(lines, sizeof(lines),
             "{\"ids\":[65,%d,%d,%d,65,%d]}\n{\"ids\":[%d,%d,%d,%d]}\n", ids[0],
             ids[1], ids[2], ids[3], ids[0], ids[1], ids[2], ids[3]);
    out = run(DATA "/gpt2", lines, &code);
    cr_assert(eq(str, out,
                 "{\"text\":\"a\xef\xbf\xbd"
                 "a\xef\xbf\xbd\"}\n"
                 "{\"text\":\"\xf3\xa0\x81\xbf\"}\n"));
}

Test(command, a_line_that_fails_is_one_error_and_the_rest_go_on) {
    int code;
    char *out = run(DATA "/gpt2",
                    "{\"ids\":[99999999]}\n"
                    "{\"text\":7}\n"
                    "not json\n"
                    "{\"other\":1}\n"
                    "{\"ids\":[1.5]}\n"
                    "{\"text\":\"a\"}\n",
                    &code);
    cr_assert(eq(int, code, 1));
    int errors = 0, lines = 0;
    char *save = NULL;
    for (char *s = strtok_r(out, "\n", &save); s;
         s = strtok_r(NULL, "\n", &save), lines++)
        errors += strncmp(s, "{\"error\":", 9) == 0;
    cr_assert(eq(int, lines, 6));
    cr_assert(eq(int, errors, 5));
}

Test(command, wrong_use) {
    int code;
    run("/nowhere", "", &code);
    cr_assert(eq(int, code, 1));
    cr_assert(
        eq(int, exit_code(system(KS_PROGRAM " tokenize 2>/dev/null")), 2));
}

#endif
