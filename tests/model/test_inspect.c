/* keystep inspect as a user calls it. */
#include "files.h"

#include <sys/wait.h>

#include "acts/fixture.h"

#define DATA KS_TEST_DATA "/model/"

TestSuite(inspect, .init = files_begin, .fini = files_end);

/* stdout of `keystep inspect ARGUMENTS`, and its exit code. */
static char *inspect(const char *arguments, int *code) {
    char command[512], *text;
    ks_err err;
    const char *out = file_path("out");
    snprintf(command, sizeof command, "%s inspect %s >%s 2>%s", KS_PROGRAM,
             arguments, out, file_path("err"));
    int status = system(command);
    *code = WEXITSTATUS(status);
    cr_assert(eq(int, ks_read_file(out, SIZE_MAX, &text, NULL, &err), 0));
    return text;
}

static json_t *inspect_json(const char *path) {
    char arguments[256];
    int code;
    json_error_t where;
    snprintf(arguments, sizeof arguments, "--json %s", path);
    char *text = inspect(arguments, &code);
    cr_assert(eq(int, code, 0), "%s", path);
    json_t *o = json_loads(text, 0, &where);
    cr_assert(o != NULL, "%s", where.text);
    free(text);
    return o;
}

/* A member at "a.b". */
static json_t *at(json_t *o, const char *path) {
    char copy[64];
    snprintf(copy, sizeof copy, "%s", path);
    for (char *part = strtok(copy, "."); part; part = strtok(NULL, "."))
        o = json_object_get(o, part);
    cr_assert(o != NULL, "%s", path);
    return o;
}

static int number(json_t *o, const char *path) {
    return (int)json_integer_value(at(o, path));
}

static char *text(json_t *o, const char *path) {
    return (char *)(uintptr_t)json_string_value(at(o, path));
}

Test(inspect, models) {
    static const char *const paths[] = {DATA "qwen2", DATA "qwen2.gguf",
                                        DATA "qwen2/model.safetensors"};
    for (size_t i = 0; i < KS_COUNT(paths); i++) {
        json_t *o = inspect_json(paths[i]);
        cr_expect(eq(str, text(o, "kind"), "model"));
        cr_expect(eq(str, text(o, "architecture"), "qwen2"));
        cr_expect(eq(int, number(o, "sizes.layers"), 2));
        cr_expect(eq(int, number(o, "tensors"), 26));
        cr_expect(eq(int, number(o, "not used"), 0));
        const char *type = i == 1 ? "types.f16.tensors" : "types.bf16.tensors";
        cr_expect(eq(int, number(o, type), i == 1 ? 15 : 26));
        cr_expect(eq(sz, strlen(text(o, "sha256")), 64));
        cr_expect(strstr(text(o, "tokenizer.error"), "qwen2") != NULL);
        json_decref(o);
    }
}

Test(inspect, words_for_people) {
    int code;
    char *out = inspect("--tensors " DATA "sharded", &code);
    cr_expect(eq(int, code, 0));
    cr_expect(strstr(out, "architecture           mistral\n") != NULL);
    cr_expect(strstr(out, "  model.norm.weight f32 [8] 32\n") != NULL);
    free(out);
}

Test(inspect, json_lines) {
    const char *path =
        file_text("c.jsonl", "{\"id\":\"a/0\",\"problem\":\"a\",\"prompt\":"
                             "\"\",\"text\":\"ab\",\"correct\":true,\"steps\":"
                             "[{\"begin\":0,\"end\":1},"
                             "{\"begin\":1,\"end\":2}]}\n");
    json_t *o = inspect_json(path);
    cr_expect(eq(str, text(o, "kind"), "chains"));
    cr_expect(number(o, "chains") == 1 && number(o, "steps") == 2 &&
              number(o, "correct") == 1 && number(o, "lines") == 1);
    json_decref(o);
    o = inspect_json(file_text("l.jsonl", "{\"chain\":\"a/0\",\"method\":"
                                          "\"m\",\"labels\":[1,0,null,1]}\n"));
    cr_expect(eq(str, text(o, "kind"), "labels"));
    cr_expect(number(o, "important") == 2 && number(o, "removable") == 1 &&
              number(o, "unlabelled") == 1);
    json_decref(o);
    o = inspect_json(file_text("p.jsonl", "{\"id\":\"a\",\"question\":\"q\","
                                          "\"answer\":\"1\"}\n"
                                          "{\"id\":\"b\",\"question\":\"q\"}"));
    cr_expect(eq(str, text(o, "kind"), "problems"));
    cr_expect(number(o, "problems") == 2 && number(o, "with an answer") == 1);
    json_decref(o);
}

Test(inspect, activations) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, 1u << KS_RESID, 1u << KS_MEAN | 1u << KS_LAST);
    ks_status st = write_file(&f, f.path, (ks_acts_options){0}, 3, &err);
    cr_assert(eq(int, st, 0), "%s", err.text);
    json_t *o = inspect_json(f.path);
    cr_expect(eq(str, text(o, "kind"), "activations"));
    cr_expect(eq(str, text(o, "model"), "tiny"));
    cr_expect(eq(int, number(o, "steps"), (int)f.spec.n_steps));
    cr_expect(eq(int, number(o, "steps without a token"), 2));
    cr_expect(eq(sz, json_array_size(at(o, "positions")), 2));
    json_decref(o);
    fixture_free(&f);
}

static void fails(const char *arguments, int want, const char *words) {
    int code;
    char *text_err;
    ks_err err;
    free(inspect(arguments, &code));
    cr_expect(eq(int, code, want), "%s", arguments);
    cr_assert(
        eq(int, ks_read_file(file_path("err"), SIZE_MAX, &text_err, NULL, &err),
           0));
    cr_expect(strstr(text_err, words) != NULL, "%s", text_err);
    free(text_err);
}

Test(inspect, json_lines_by_model_and_method) {
    static const char chain[] =
        "{\"id\":\"%s\",\"problem\":\"%s\",\"prompt\":\"\",\"text\":\"ab\","
        "\"model\":\"%s\",\"finished\":%s,\"steps\":[{\"begin\":0,\"end\":2}]}"
        "\n";
    char lines[1024];
    int n = snprintf(lines, sizeof lines, chain, "a/0", "a", "m1", "true");
    n += snprintf(lines + n, sizeof lines - (size_t)n, chain, "a/1", "a", "m2",
                  "false");
    snprintf(lines + n, sizeof lines - (size_t)n, chain, "b/0", "b", "m2",
             "false");
    json_t *o = inspect_json(file_text("c.jsonl", lines));
    cr_expect(eq(int, number(o, "chains"), 3));
    cr_expect(eq(int, number(o, "problems"), 2));
    cr_expect(eq(int, number(o, "models.m1"), 1));
    cr_expect(eq(int, number(o, "models.m2"), 2));
    cr_expect(eq(int, number(o, "unfinished"), 2));
    cr_expect(eq(sz, json_array_size(at(o, "fields")), 7));
    json_decref(o);
    o = inspect_json(file_text(
        "l.jsonl", "{\"chain\":\"a\",\"method\":\"m\",\"labels\":[1,0],"
                   "\"scores\":{\"s\":[1,2]}}\n\n"
                   "{\"chain\":\"b\",\"method\":\"m\",\"labels\":[null],"
                   "\"scores\":{}}\n"));
    cr_expect(eq(int, number(o, "lines"), 2));
    cr_expect(eq(int, number(o, "steps"), 3));
    cr_expect(eq(int, number(o, "methods.m"), 2));
    cr_expect(eq(sz, json_array_size(at(o, "scores")), 1));
    json_decref(o);
}

/* An interrupted generate: what is whole is told, the torn line too. */
Test(inspect, torn_lines_of_a_part) {
    static const char two[] =
        "{\"id\":\"a\",\"problem\":\"a\",\"prompt\":\"\",\"text\":\"ab\"}\n"
        "{\"id\":\"b\",\"prob";
    json_t *o = inspect_json(file_text("c.jsonl.part", two));
    cr_expect(eq(str, text(o, "kind"), "chains"));
    cr_expect(eq(int, number(o, "chains"), 1));
    cr_expect(at(o, "torn last line") == json_true());
    json_decref(o);
    char bad[256];
    snprintf(bad, sizeof bad, "%s\n%s", two, two);
    fails(file_text("d.jsonl.part", bad), 1, "d.jsonl.part line 2");
    fails(file_text("c.jsonl", two), 1, "c.jsonl line 2");
}

/* An interrupted capture: how far its journal is. */
Test(inspect, unfinished_activations) {
    fixture f;
    ks_err err = {0};
    ks_acts *acts = NULL;
    int64_t done = -1;
    char part[160], journal[160];
    fixture_make(&f, KS_BF16, 1u << KS_RESID, 1u << KS_MEAN);
    snprintf(part, sizeof part, "%s.part", f.path);
    snprintf(journal, sizeof journal, "%s.journal", f.path);
    ks_acts_options options = {0};
    ks_status st =
        ks_acts_create(&acts, f.path, &f.spec, &options, &done, &err);
    cr_assert(eq(int, st, 0), "%s", err.text);
    cr_assert(eq(int, write_chains(&f, acts, 0, 4, &err), 0), "%s", err.text);
    ks_acts_abandon(&acts);
    json_t *o = inspect_json(part);
    cr_expect(eq(str, text(o, "kind"), "unfinished activations"));
    cr_expect(eq(int, number(o, "steps done"), (int)f.chain_end[4]));
    cr_expect(eq(int, number(o, "chains done"), 4));
    cr_expect(eq(int, number(o, "steps"), (int)f.spec.n_steps));
    json_decref(o);
    o = inspect_json(journal);
    cr_expect(eq(str, text(o, "kind"), "journal of a capture"));
    cr_expect(eq(int, number(o, "steps done"), (int)f.chain_end[4]));
    json_decref(o);
    fails(f.path, 1, "there is no such file");
    cr_assert(eq(int, truncate(part, 4000), 0));
    fails(part, 1, ".part");
    cr_assert(eq(int, truncate(part, 0) + truncate(part, 4000), 0));
    fails(part, 1, "nothing is in it yet");
    fixture_free(&f);
}

Test(inspect, refusals) {
    fails("", 2, "FILE is missing");
    fails("a b", 2, "too many arguments");
    fails("--nonsense", 2, "nonsense");
    fails("/nowhere/x.gguf", 1, "/nowhere/x.gguf: there is no such file");
    fails(file_text("x.txt", "{\"a\":1}\n"), 1, "neither a model nor a file");
    fails(file_text("x.txt", "hello\n"), 1, "line 1");
    fails(file_text("x.txt", ""), 1, "neither a model nor a file");
    fails(file_text("config.json", "{\n\"model_type\":\"llama\"}\n"), 1,
          "inspect its folder");
    fails(file_text("y.gguf", "GGUF"), 1, "y.gguf: cut short");
    fails(file_text("z.h5", "\x89HDF\r\n\x1a\n"), 1, "z.h5");
    fails(file_text("c.jsonl", "{\"id\":\"a\",\"problem\":\"a\",\"prompt\":"
                               "\"\",\"text\":\"ab\",\"steps\":[{\"begin\":1,"
                               "\"end\":9}]}\n"),
          1, "c.jsonl line 1");
}
