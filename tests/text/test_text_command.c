/* keystep text as a user calls it. */
#include "shell.h"

#ifdef KS_PROGRAM

/* Feeds lines through `keystep text ARGS`; out gets stdout. */
static int run(const char *args, const char *lines, char out[4096]) {
    char command[8192];
    snprintf(command, sizeof command,
             "printf '%%s' '%s' | %s text %s 2>/dev/null", lines, KS_PROGRAM,
             args);
    return shell_run(command, out, 4096);
}

static void check(const char *args, const char *lines, const char *expected,
                  int expected_code) {
    char out[4096];
    int code = run(args, lines, out);
    cr_expect(code == expected_code, "%s: exit %d", args, code);
    cr_expect(strcmp(out, expected) == 0, "%s: got %s", args, out);
}

Test(text_command, answers_line_by_line) {
    check("extract", "{\"text\":\"<think>a</think>b\"}\n",
          "{\"text\":\"a\",\"begin\":7}\n", 0);
    check("extract", "{\"text\":\"<think>a\",\"template\":\"raw\"}\n",
          "{\"text\":\"<think>a\",\"begin\":0}\n", 0);
    check("extract --template raw", "{\"text\":\"<think>a\"}\n",
          "{\"text\":\"<think>a\",\"begin\":0}\n", 0);
    check("split", "{\"text\":\"A first step. A second step.\"}\n",
          "{\"steps\":[{\"begin\":0,\"end\":13},{\"begin\":13,\"end\":28}]}\n",
          0);
    check("boxes", "{\"text\":\"\\\\boxed{a\\\\boxed{b}}\"}\n",
          "{\"boxes\":[\"a\\\\boxed{b}\",\"b\"]}\n", 0);
    check("answer", "{\"text\":\"The answer is 4.\"}\n{\"text\":\"\"}\n",
          "{\"answer\":\"4\"}\n{\"answer\":null}\n", 0);
    check("equal", "{\"a\":\"1/2\",\"b\":\"0.5\"}\n{\"a\":\"1\",\"b\":\"2\"}\n",
          "{\"equal\":true}\n{\"equal\":false}\n", 0);
    check("equal --compat", "{\"a\":\"10001\",\"b\":\"10000\"}\n",
          "{\"equal\":true}\n", 0);
    check("states", "{\"text\":\"So the answer is 4\",\"gold\":\"4\"}\n",
          "{\"states\":true}\n", 0);
}

Test(text_command, surface) {
    char out[4096];
    cr_expect(run("surface",
                  "{\"text\":\"Wait, 1 + 1\",\"before\":[\"1 + 1\"],"
                  "\"prompt\":\"1\",\"n\":4}\n",
                  out) == 0);
    cr_expect(strstr(out, "\"position\":1") && strstr(out, "\"numbers\":2") &&
                  strstr(out, "\"relative_position\":0.5") &&
                  strstr(out, "\"verification\":true") &&
                  strstr(out, "\"tfidf_prompt\":0."),
              "%s", out);
    cr_expect(run("surface", "{\"text\":\"x\",\"before\":[1]}\n", out) == 1);
    cr_expect(strstr(out, "\"error\":") != NULL, "%s", out);
}

/* One bad line: its error in its place, the rest answered, exit code 1. */
Test(text_command, bad_lines) {
    char out[4096];
    cr_expect(run("equal",
                  "{\"a\":\"1\",\"b\":\"1\"}\n{\"a\":\"1\"}\nnonsense\n"
                  "{\"a\":\"1\",\"b\":\"\xff\"}\n{\"a\":1,\"b\":\"1\"}\n"
                  "{\"a\":\"2\",\"b\":\"2\"}\n",
                  out) == 1);
    int errors = 0, lines = 0;
    for (char *at = out; (at = strchr(at, '\n')) != NULL; at++) lines++;
    for (char *at = out; (at = strstr(at, "{\"error\":")) != NULL; at++)
        errors++;
    cr_expect(lines == 6 && errors == 4, "%s", out);
    cr_expect(strncmp(out, "{\"equal\":true}\n", 15) == 0, "%s", out);
    cr_expect(strcmp(out + strlen(out) - 15, "{\"equal\":true}\n") == 0);
    cr_expect(run("states", "{\"text\":\"a\",\"gold\":\" \"}\n", out) == 1);
    cr_expect(run("extract", "{\"text\":\"a\",\"template\":\"x\"}\n", out) ==
              1);
}

Test(text_command, usage) {
    char out[4096];
    cr_expect(run("", "", out) == 2);
    cr_expect(run("nonsense", "", out) == 2);
    cr_expect(run("equal split", "", out) == 2);
    cr_expect(run("extract --template x", "", out) == 2);
    cr_expect(run("--help", "", out) == 0);
    cr_expect(strstr(out, "surface") != NULL);
}

#endif
