/* keystep import as a user calls it. */
#include "shell.h"

static char folder[64];

static void make_folder(void) {
    make_temporary(folder, "import");
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(import_command, .init = make_folder, .fini = drop_folder);

#define GSM8K                                                                  \
    "{\"question\":\"How many?\",\"answer\":\"Two and 3 = <<2+3=5>>5 eggs.  "  \
    "\\r\\n\\n So $<<5*2=10>>10 \\u20ac << left\\n#### 1,010 \\n\","           \
    "\"level\":2}\n"

#ifdef KS_PROGRAM

static const char *path_of(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_lines(const char *name, const char *text) {
    ks_err err = {0};
    cr_assert(ks_write_file(path_of(name), text, strlen(text), true, &err) ==
                  KS_OK,
              "%s", err.text);
}

static int run(const char *args, char out[8192]) {
    char command[1024];
    snprintf(command, sizeof command, "cd %s && %s import %s 2>&1", folder,
             KS_PROGRAM, args);
    return shell_run(command, out, 8192);
}

Test(import_command, files) {
    char out[8192], *text = NULL;
    size_t n;
    write_lines("g.jsonl", GSM8K);
    cr_expect(run("g.jsonl --out c.jsonl --problems-out p.jsonl", out) == 0,
              "%s", out);
    cr_expect(strstr(out, "1 chains, 2 steps; 0 bad lines") != NULL, "%s", out);
    cr_assert(ks_read_file(path_of("c.jsonl"), SIZE_MAX, &text, &n, NULL) ==
              KS_OK);
    cr_expect(strstr(text, "\"id\":\"g/1/0\"") != NULL, "%s", text);
    cr_expect(run("g.jsonl --out c.jsonl", out) == 1 && strstr(out, "c.jsonl"));
    cr_expect(run("g.jsonl --out x.jsonl --problems-out p.jsonl", out) == 1);
    cr_expect(!ks_file_exists(path_of("x.jsonl")));
    cr_expect(run("g.jsonl --out c.jsonl --force --quiet", out) == 0 && !*out);
    /* chains come out as they went in, problems as written fit */
    cr_expect(run("c.jsonl --problems p.jsonl --quiet", out) == 0);
    cr_expect(strstr(out, "\"id\":\"g/1/0\"") && strstr(out, "\"rest\":\"\\n#"),
              "%s", out);
    cr_expect(run("- --quiet <g.jsonl", out) == 0 && strstr(out, "stdin/1/0"));
    cr_expect(run("g.jsonl --template chatml --instruction Solve. --quiet",
                  out) == 0 &&
                  strstr(out, "user\\nSolve.\\n\\nProblem:\\nHow many?\\n<|im"),
              "%s", out);
    write_lines("b.jsonl", "{}\n" GSM8K);
    cr_expect(run("b.jsonl", out) == 1 && strstr(out, "b.jsonl line 1"));
    cr_expect(run("b.jsonl --skip-bad --out d.jsonl", out) == 0 &&
                  strstr(out, "skipped: b.jsonl line 1") &&
                  strstr(out, "1 bad lines skipped"),
              "%s", out);
    free(text);
}

#define TOKENIZER                                                              \
    " --tokenizer " KS_TEST_DATA "/tokenizer/llama3/tokenizer.json"

/* Its template and its BOS; what it does not have is no model. */
Test(import_command, a_model) {
    char out[8192];
    write_lines("g.jsonl", GSM8K);
    write_lines("tokenizer_config.json",
                "{\"add_bos_token\":true,\"chat_template\":\"{{ '<|im_start|>"
                "system\\nBe good.<|im_end|>\\n' }}{{ '<|im_start|>assistant\\n"
                "<think>' }}\"}");
    int code = run("g.jsonl --quiet --model ." TOKENIZER, out);
    cr_expect(code == 0 &&
                  strstr(out, "\"prompt\":\"<|begin_of_text|><|im_start|>system"
                              "\\nBe good.<|im_end|>\\n<|im_start|>user\\nHow "
                              "many?<|im_end|>\\n<|im_start|>assistant\\n"
                              "<think>\"") &&
                  strstr(out, "\"rest\":\"\\n</think>\\n\\n####"),
              "exit %d: %s", code, out);
    code = run("g.jsonl --quiet --model absent" TOKENIZER, out);
    cr_expect(code == 1 && strstr(out, "absent: cannot open"), "%s", out);
}

Test(import_command, usage) {
    char out[8192];
    cr_expect(run("", out) == 2);
    cr_expect(run("a b", out) == 2);
    cr_expect(run("a --from xml", out) == 2);
    cr_expect(run("a --template x", out) == 2);
    cr_expect(run("a --tokenizer x", out) == 2);
    cr_expect(run("a --problems-out -", out) == 2);
    cr_expect(run("a --out b --problems-out b", out) == 2);
    cr_expect(run("absent.jsonl", out) == 1 && strstr(out, "absent.jsonl"));
    cr_expect(run("--help", out) == 0 && strstr(out, "--skip-bad"));
}

#endif
