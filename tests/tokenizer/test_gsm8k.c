/* test_gsm8k.c - the ids of all of GSM8K as the `tokenizers` package has them,
 * compared as SHA-256 over blocks of texts, so that neither Python nor the ids
 * need be there. KS_GSM8K names the folder with train.jsonl and test.jsonl.
 * Digests by tests/golden/make_tokenizer_digests.py. */
#include "fixture.h"

#define DEMO KS_TEST_DATA "/../../experiments/demo/models"

/* As the ids were made: question, newline, answer; train.jsonl first. */
typedef struct corpus {
    json_t *golden;
    ks_str *texts; /* [n] */
    size_t n, capacity, block;
} corpus;

static ks_status add_problem(void *user, size_t line, json_t *object,
                             ks_err *err) {
    (void)line;
    corpus *c = user;
    ks_status st = KS_OK;
    const char *question, *answer;
    size_t n, m;
    KS_TRY(ks_json_string(object, "question", "GSM8K", &question, &n, err));
    KS_TRY(ks_json_string(object, "answer", "GSM8K", &answer, &m, err));
    KS_TRY(ks_grow(&c->texts, &c->capacity, c->n + 1, sizeof *c->texts, "GSM8K",
                   err));
    ks_str *text = &c->texts[c->n++];
    *text = (ks_str){0};
    KS_TRY(ks_str_add(text, question, n, err));
    KS_TRY(ks_str_add(text, "\n", 1, err));
    KS_TRY(ks_str_add(text, answer, m, err));
done:
    return st;
}

static void read_part(corpus *c, const char *folder, const char *name) {
    char *path;
    ks_err err = {0};
    cr_assert(eq(int, ks_path_join(&path, folder, name, &err), KS_OK));
    if (!ks_file_exists(path)) {
        free(path);
        cr_skip_test("KS_GSM8K names no folder with train.jsonl and "
                     "test.jsonl");
    }
    cr_assert(eq(int, ks_jsonl_read(path, add_problem, c, &err), KS_OK), "%s",
              err.text);
    free(path);
}

/* The sanitizers cost ten times the time, not more care: every sixth block. */
static size_t stride(void) {
    return getenv("KS_UNDER_SANITIZER") ? 6 : 1;
}

/* Digest of a block's bytes: of each text `part` of them. */
typedef void (*part_fn)(const ks_str *text, void *user, ks_sha256 *hash);

static void compare(const corpus *c, const json_t *digests, const char *what,
                    part_fn part, void *user) {
    size_t n_blocks = (c->n + c->block - 1) / c->block;
    cr_assert(eq(sz, json_array_size(digests), n_blocks), "%s", what);
    for (size_t b = 0; b < n_blocks; b += stride()) {
        ks_sha256 *hash = NULL;
        ks_err err = {0};
        char hex[65];
        size_t begin = b * c->block, end = KS_MIN(begin + c->block, c->n);
        cr_assert(eq(int, ks_sha256_open(&hash, &err), KS_OK));
        for (size_t i = begin; i < end; i++) part(&c->texts[i], user, hash);
        ks_sha256_close(&hash, hex);
        const char *wanted = json_string_value(json_array_get(digests, b));
        cr_expect(wanted && strcmp(hex, wanted) == 0,
                  "%s: block %zu, texts %zu to %zu of train.jsonl and then "
                  "test.jsonl, differs",
                  what, b, begin, end - 1);
    }
}

static void add_text(const ks_str *text, void *user, ks_sha256 *hash) {
    (void)user;
    ks_sha256_add(hash, text->data, text->length);
    ks_sha256_add(hash, "", 1);
}

typedef struct ids_of {
    ks_tokenizer *tokenizer;
    ks_tokens got;
} ids_of;

static void add_ids(const ks_str *text, void *user, ks_sha256 *hash) {
    ids_of *of = user;
    const uint8_t separator[4] = {0xff, 0xff, 0xff, 0xff};
    must_tokenize(of->tokenizer, text->data, text->length, &of->got);
    ks_sha256_add(hash, of->got.ids, of->got.n * sizeof *of->got.ids);
    ks_sha256_add(hash, separator, sizeof separator);
}

static corpus open_corpus(void) {
    corpus c = {.golden = json_load_file(DATA "/gsm8k.json", 0, NULL)};
    const char *folder = getenv("KS_GSM8K");
    cr_assert(c.golden != NULL);
    c.block = (size_t)json_integer_value(json_object_get(c.golden, "block"));
    cr_assert(gt(sz, c.block, 0));
    read_part(&c, folder ? folder : "", "train.jsonl");
    read_part(&c, folder ? folder : "", "test.jsonl");
    cr_assert(
        eq(sz, c.n, (size_t)json_integer_value(json_object_get(c.golden, "n"))),
        "another GSM8K");
    compare(&c, json_object_get(c.golden, "texts"), "GSM8K itself", add_text,
            NULL);
    return c;
}

static void close_corpus(corpus *c) {
    for (size_t i = 0; i < c->n; i++) ks_str_free(&c->texts[i]);
    free(c->texts);
    json_decref(c->golden);
}

static void check(const corpus *c, const char *name, const char *path) {
    json_t *digests = json_object_get(json_object_get(c->golden, "ids"), name);
    cr_assert(digests != NULL, "no digests of %s", name);
    ids_of of = {.tokenizer = must_open(path)};
    compare(c, digests, path, add_ids, &of);
    ks_tokens_free(&of.got);
    ks_tokenizer_close(&of.tokenizer);
}

/* Every family of the digests that has this file, at least `least`. */
static void check_families(const char *file, int least) {
    corpus c = open_corpus();
    const char *name;
    json_t *value;
    int n = 0;
    json_object_foreach(json_object_get(c.golden, "ids"), name, value) {
        char path[512];
        snprintf(path, sizeof path, DATA "/%s/%s", name, file);
        if (!ks_file_exists(path)) continue;
        check(&c, name, path);
        n++;
    }
    cr_expect(ge(int, n, least));
    close_corpus(&c);
}

Test(gsm8k, tokenizer_json) {
    check_families("tokenizer.json", 9);
}

Test(gsm8k, gguf) {
    check_families("tokenizer.gguf", 8);
}

Test(gsm8k, demo) {
    corpus c = open_corpus();
    check(&c, "demo-a", DEMO "/demo-a/tokenizer.json");
    check(&c, "demo-b", DEMO "/demo-b/tokenizer.json");
    close_corpus(&c);
}

Test(gsm8k, smollm2) {
    corpus c = open_corpus();
    const char *path = getenv("KS_SMOLLM2");
    if (!path || !ks_file_exists(path))
        cr_skip_test("KS_SMOLLM2 names no file");
    check(&c, "SmolLM2", path);
    close_corpus(&c);
}
