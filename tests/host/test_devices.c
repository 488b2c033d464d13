/* keystep inspect devices, and what --backend says where nothing answers. */
#include "ops.h"
#include "shell.h"

#ifdef KS_PROGRAM

static char said[8192];

static int shell(const char *line) {
    char command[512];
    snprintf(command, sizeof command, "K=%s; %s", KS_PROGRAM, line);
    return shell_run(command, said, sizeof said);
}

/* Why there is no CUDA device; NULL when there is one. */
static const char *why_none(void) {
    static ks_err err;
    int n;
    return ks_dev_count("cuda", &n, &err) == KS_OK ? NULL : err.text;
}

Test(devices, listed) {
    cr_assert_eq(shell("$K inspect devices --json"), 0, "%s", said);
    json_t *o = json_loads(said, 0, NULL), *cpu = json_object_get(o, "cpu");
    json_t *cuda = json_object_get(o, "cuda");
    cr_assert(json_is_object(cpu) && json_is_object(cuda), "%s", said);
    cr_expect(json_integer_value(json_object_get(cpu, "threads")) >= 1);
    cr_expect(json_array_size(json_object_get(cpu, "instruction_sets")) >= 1);
    json_t *names = json_object_get(o, "backends");
    cr_expect_str_eq(json_string_value(json_array_get(names, 0)), "cpu");
    cr_expect_eq(json_array_size(names), ks_backend_name(1) ? 2 : 1);
    json_t *why = json_object_get(cuda, "why");
    if (why_none()) {
        cr_expect_str_eq(json_string_value(why), why_none());
        cr_expect_eq(json_array_size(json_object_get(cuda, "devices")), 0);
    } else {
        cr_expect(!why && json_array_size(json_object_get(cuda, "devices")));
    }
    json_decref(o);
    cr_assert_eq(shell("$K inspect devices"), 0);
    cr_expect(strstr(said, "instruction_sets ") && strstr(said, "threads "));
    cr_expect(!why_none() || strstr(said, "devices              none"), "%s",
              said);
}

/* One sentence, and the model is not asked for before the device is. */
Test(devices, backend_that_is_not_here) {
    if (!why_none()) cr_skip_test("there is a CUDA device here");
    const char *sentence =
        ks_backend_name(1) ? "backend 'cuda': " : "is not in this build";
    static const char *const lines[] = {
        "$K capture --backend cuda --model none --chains none --out new 2>&1",
        "$K capture --backend cuda:1 --model none --chains none --out new "
        "2>&1"};
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(shell(lines[i]), 1, "%s", said);
        cr_expect(strstr(said, sentence) && strchr(said, '\n') &&
                      !strchr(said, '\n')[1],
                  "%s", said);
    }
}

#endif
