/* keystep label select and keystep label greedy as a user calls them. */
#include "shell.h"

#ifdef KS_PROGRAM

static int run(const char *args, const char *lines, char out[8192]) {
    char command[16384];
    snprintf(command, sizeof command,
             "printf '%%s\\n' '%s' | timeout 300 %s label %s 2>&1", lines,
             KS_PROGRAM, args);
    return shell_run(command, out, 8192);
}

static void check(const char *args, const char *lines, const char *expected,
                  int expected_code) {
    char out[8192];
    int code = run(args, lines, out);
    cr_expect(code == expected_code, "%s %s: exit %d", args, lines, code);
    cr_expect(strcmp(out, expected) == 0, "%s %s: got %s", args, lines, out);
}

/* One line that fails for this reason. */
static void refused(const char *args, const char *line, const char *reason) {
    char out[8192];
    int code = run(args, line, out);
    cr_expect(code == 1, "%s %s: exit %d", args, line, code);
    cr_expect(strncmp(out, "{\"error\":", 9) == 0 && strstr(out, reason),
              "%s %s: got %s", args, line, out);
    cr_expect(strchr(out, '\n') == out + strlen(out) - 1, "%s", out);
}

/* step 0 -> 2 -> suffix; step 1 matters to the last step 3 alone */
#define MATRIX                                                                 \
    "\"matrix\":[[0,0,0,0,0],[9,0,0,0,0],[1,0,0,0,0],[0,1,0,0,0],"             \
    "[0,0,1,0,0]]"

Test(label_plumbing, select) {
    check("select", "{" MATRIX ",\"threshold\":0.5}",
          "{\"keep\":[1,1,1,1,1]}\n", 0);
    check("select --compat", "{" MATRIX ",\"threshold\":0.5}",
          "{\"keep\":[1,0,1,0,1]}\n", 0);
    check("select --suffix-only", "{" MATRIX ",\"threshold\":0.5}",
          "{\"keep\":[0,0,1,1,1]}\n", 0);
    check("select --compat",
          "{\"matrix\":[[5,5,5],[5,5,5],[1,3,5]],\"thresholds\":[0,0.75,0.8]}",
          "{\"keep\":[[1,1,1],[1,1,1],[1,1,1]]}\n", 0);
    check("select --compat --suffix-only",
          "{\"matrix\":[[5,5,5],[5,5,5],[1,3,5]],\"thresholds\":[0,0.75,0.8]}",
          "{\"keep\":[[0,1,1],[0,1,1],[1,1,1]]}\n", 0);
    check("select", "{\"matrix\":[[0,0],[0,0]],\"thresholds\":[]}",
          "{\"keep\":[]}\n", 0);
}

Test(label_plumbing, select_refuses) {
    static const struct {
        const char *line, *reason;
    } bad[] = {
        {"{\"threshold\":0.5}", "no \\\"matrix\\\""},
        {"{\"matrix\":3,\"threshold\":0.5}", "matrix"},
        {"{" MATRIX "}", "threshold"},
        {"{" MATRIX ",\"threshold\":0.5,\"thresholds\":[1]}", "threshold"},
        {"{" MATRIX ",\"threshold\":\"x\"}", "not a number"},
        {"{" MATRIX ",\"thresholds\":[0.5,null]}", "not a number"},
        {"{" MATRIX ",\"threshold\":1.5}", "0 to 1"},
        {"{\"matrix\":[],\"threshold\":1}", "0 rows"},
        {"{\"matrix\":[[0]],\"threshold\":1}", "1 rows"},
        {"{\"matrix\":[[0,0],[1]],\"threshold\":1}", "row 1 of"},
        {"{\"matrix\":[[0,0,0],[1,0,0]],\"threshold\":1}", "row 0 of"},
        {"{\"matrix\":[[0,0],1],\"threshold\":1}", "row 1 of"},
        {"{\"matrix\":[[0,0],[null,0]],\"threshold\":1}", "row 1"},
        {"{\"matrix\":[[0,0],[-1,0]],\"threshold\":1}", "step 0 on 1 is -1"},
        {"{\"matrix\":[[0,0],[NaN,0]],\"threshold\":1}", "column"},
        {"{\"matrix\":[[0,0],[1e999,0]],\"threshold\":1}", "column"},
        {"[]", "object"},
    };
    for (size_t i = 0; i < KS_COUNT(bad); i++)
        refused("select", bad[i].line, bad[i].reason);
    char out[8192];
    cr_expect(run("select", "{}\n{\"matrix\":[[0,0],[1,0]],\"threshold\":1}",
                  out) == 1);
    cr_expect(strstr(out, "\n{\"keep\":[1,1]}\n") != NULL, "%s", out);
}

#define TRIED(step, passed) "{\"step\":" #step ",\"passed\":" #passed "}"

Test(label_plumbing, greedy) {
    /* step 0 can go only when 2 is gone */
    check(
        "greedy", "{\"order\":[0,1,2],\"pass\":[[1,1,0,1],[0,1,0,1]]}",
        "{\"keep\":[0,1,0,1],\"tried\":[" TRIED(0, false) "," TRIED(
            1, false) "," TRIED(2, true) "," TRIED(0,
                                                   true) "," TRIED(1,
                                                                   false) "]"
                                                                          "}"
                                                                          "\n",
        0);
    check("greedy", "{\"order\":[1],\"pass\":[[0,0,1]],\"start\":[0,1,1]}",
          "{\"keep\":[0,0,1],\"tried\":[" TRIED(1, true) "]}\n", 0);
    check("greedy", "{\"order\":[],\"pass\":[],\"start\":[1,1]}",
          "{\"keep\":[1,1],\"tried\":[]}\n", 0);
}

Test(label_plumbing, greedy_refuses) {
    static const struct {
        const char *line, *reason;
    } bad[] = {
        {"{\"pass\":[[1,1]]}", "no \\\"order\\\""},
        {"{\"order\":[0]}", "neither"},
        {"{\"order\":[0],\"start\":[1,1]}", "no \\\"pass\\\""},
        {"{\"order\":[0],\"pass\":[]}", "neither"},
        {"{\"order\":[0],\"pass\":[[1,1],[1]]}", "place 1 is not a list of 2"},
        {"{\"order\":[0],\"pass\":[[1,2]]}", "place 1 is not 0 or 1"},
        {"{\"order\":[0],\"pass\":[[1,0]]}", "answer suffix"},
        {"{\"order\":[0],\"pass\":[[1]]}", "answer suffix"},
        {"{\"order\":[0],\"pass\":[],\"start\":[1,0]}", "answer suffix"},
        {"{\"order\":[0.5],\"pass\":[[1,1]]}", "place 0 of"},
        {"{\"order\":[1],\"pass\":[[1,1]]}", "is step 1"},
        {"{\"order\":[0,0],\"pass\":[[1,1]]}", "is step 0"},
        {"{\"order\":[-1],\"pass\":[[1,1]]}", "place 0 of"},
    };
    for (size_t i = 0; i < KS_COUNT(bad); i++)
        refused("greedy", bad[i].line, bad[i].reason);
}

/* A program that lets a set pass when it keeps step 1, and writes down what it
 * was told. */
#define KEEPS_1                                                                \
    "--ask \"while read -r q; do echo \\\"\\$q\\\" >>LOG; case \\$q in "       \
    "*keep*:\\[?,1,*) echo {\\\\\\\"pass\\\\\\\":true};; "                     \
    "*) echo {\\\\\\\"pass\\\\\\\":false};; esac; done\""

Test(label_plumbing, asks_a_program) {
    char folder[64], args[1024], command[160], out[8192], *log = NULL;
    size_t n = 0;
    make_temporary(folder, "ask");
    char *at = args;
    for (const char *from = KEEPS_1; *from; from++) {
        if (strncmp(from, "LOG", 3) == 0) {
            at += sprintf(at, "%s/log", folder);
            from += 2;
        } else {
            *at++ = *from;
        }
    }
    *at = 0;
    char all[1200];
    snprintf(all, sizeof all, "greedy %s", args);
    check(
        all,
        "{\"order\":[0,1],\"start\":[1,1,1],\"id\":\"p/0\"}\n"
        "{\"order\":[0]}\n{\"order\":[1,0],\"start\":[1,1,1]}",
        "{\"keep\":[0,1,1],\"tried\":[" TRIED(0, true) "," TRIED(
            1, false) "]}\n"
                      "{\"error\":\"no \\\"start\\\": the set of 0 and 1 to "
                      "start from, the answer suffix last, tells how many "
                      "steps there are\"}\n"
                      "{\"keep\":[0,1,1],\"tried\":[" TRIED(1, false) "," TRIED(
                          0, true) "," TRIED(1, false) "]}"
                                                       "\n",
        1);
    snprintf(command, sizeof command, "%s/log", folder);
    cr_assert(ks_read_file(command, SIZE_MAX, &log, &n, NULL) == KS_OK);
    cr_expect(strcmp(log, "{\"id\":\"p/0\",\"keep\":[0,1,1]}\n"
                          "{\"id\":\"p/0\",\"keep\":[0,0,1]}\n"
                          "{\"keep\":[1,0,1]}\n{\"keep\":[0,1,1]}\n"
                          "{\"keep\":[0,0,1]}\n") == 0,
              "%s", log);
    (void)out;
    free(log);
    drop_temporary(folder);
}

/* Each is one sentence, for every line alike, and none hangs. */
Test(label_plumbing, programs_that_do_not_answer, .timeout = 900) {
    static const struct {
        const char *program, *reason;
    } bad[] = {
        {"exit 3", "exit code 3"},
        {"read x; kill -9 $$", "signal 9"},
        {"read x; echo nonsense; cat >/dev/null", "answered"},
        {"read x; echo {}; cat >/dev/null", "answered '{}'"},
        {"read x; printf '\\377\\n'; cat >/dev/null", "answered ''"},
        {"read x; printf {; exit", "answered '{'"},
        {"read x; echo []; cat >/dev/null", "answered"},
        {"exec >&-; exec sleep 5", "closed its output"},
        {"no-such-program-of-ours", "exit code 127"},
        {"read x; exec <&-; echo '{\\\"pass\\\":true}'; exec sleep 5",
         "closed its input"},
    };
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        char args[256], out[8192];
        snprintf(args, sizeof args, "greedy --ask \"%s\" 2>/dev/null",
                 bad[i].program);
        for (char *s = args; (s = strstr(s, "$$")); s += 4) {
            memmove(s + 2, s, strlen(s) + 1);
            memcpy(s, "\\$\\$", 4);
        }
        int code = run(args,
                       "{\"order\":[0],\"start\":[1,1]}\n"
                       "{\"order\":[0],\"start\":[1,1]}",
                       out);
        const char *second = strchr(out, '\n');
        cr_expect(code == 1, "%s: exit %d", args, code);
        cr_expect(second && strstr(second, bad[i].reason), "%s: got %s", args,
                  out);
    }
}

Test(label_plumbing, usage) {
    char out[8192];
    cr_expect(run("nonsense", "", out) == 2);
    cr_expect(run("select x", "", out) == 2);
    cr_expect(run("select --ask cat", "", out) == 2);
    cr_expect(run("greedy --suffix-only", "", out) == 2);
    cr_expect(run("greedy --ask \"\"", "", out) == 2);
    cr_expect(run("select --help", "", out) == 0);
    cr_expect(strstr(out, "thresholds") != NULL);
    cr_expect(run("greedy --help", "", out) == 0);
    cr_expect(strstr(out, "--ask") != NULL);
}

/* Before or behind other options; problems are those of the ids. */
Test(label_plumbing, compare) {
    char folder[64], command[1024], out[8192];
    make_temporary(folder, "compare");
    snprintf(command, sizeof command,
             "cd %s && echo '{\"chain\":\"p/0\",\"labels\":[1,0]}' >a && "
             "echo '{\"chain\":\"p/0\",\"labels\":[1,1]}' >b && "
             "%s label --compare a b && %s label --json --compare a b",
             folder, KS_PROGRAM, KS_PROGRAM);
    cr_expect(shell_run(command, out, sizeof out) == 0, "%s", out);
    cr_expect(strstr(out, "2 steps of 1 chains") &&
                  strstr(out, "\"same\":{\"value\":0.5"),
              "%s", out);
    cr_expect(run("--compare a", "", out) == 2);
    cr_expect(run("--compare a b c", "", out) == 2);
    cr_expect(run("--compare a b --bootstrap 1", "", out) == 2);
    cr_expect(run("--compare absent b", "", out) == 1);
    cr_expect(run("--compare --help", "", out) == 0 && strstr(out, "--pairs"));
    cr_expect(run("--help", "", out) == 0 && strstr(out, "select|greedy"));
    drop_temporary(folder);
}

#endif
