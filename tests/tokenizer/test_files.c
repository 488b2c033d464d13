/* test_files.c - tokenizer files that lie, and what is not supported: each a
 * sentence that says what and where. */
#include <sys/stat.h>

#include "fixture.h"

TestSuite(files, .fini = drop_file);

static ks_status open_own(ks_err *err) {
    ks_tokenizer *t = NULL;
    *err = (ks_err){0};
    ks_status st = ks_tokenizer_open(&t, own_file(), err);
    cr_assert(eq(int, st == KS_OK, t != NULL));
    ks_tokenizer_close(&t);
    return st;
}

/* A whole tokenizer.json around the part that a row is about. */
#define BYTES "\"pre_tokenizer\":{\"type\":\"ByteLevel\"}"
#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}"
#define MERGES "\"merges\":[[\"a\",\"b\"]]"
#define MODEL "\"model\":{\"type\":\"BPE\"," VOCAB "," MERGES "}"
#define FILE_OF(rest) "{" BYTES "," rest "}"
#define MODEL_OF(rest) FILE_OF("\"model\":{\"type\":\"BPE\"," rest "}")
#define ADDED(list) FILE_OF(MODEL ",\"added_tokens\":[" list "]")
#define PRE(object) "{" MODEL ",\"pre_tokenizer\":" object "}"
#define NORM(object) FILE_OF(MODEL ",\"normalizer\":" object)
#define REGEX(text)                                                            \
    PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","       \
        "\"pattern\":{\"Regex\":\"" text "\"},\"behavior\":\"Isolated\"},"     \
        "{\"type\":\"ByteLevel\"}]}")

static const struct {
    ks_status status;
    const char *text, *says;
} rows[] = {
    {KS_OK, FILE_OF(MODEL), ""},
    {KS_OK, MODEL_OF(VOCAB ",\"merges\":[\"a b\"]"), ""},
    {KS_OK, FILE_OF("\"model\":{" VOCAB "," MERGES "}"), ""},
    {KS_OK, ADDED("{\"id\":7,\"content\":\"<x>\",\"special\":true}"), ""},
    {KS_OK, ADDED("{\"id\":2,\"content\":\"ab\",\"special\":true}"), ""},
    /* not a tokenizer.json */
    {KS_FORMAT, "", "line"},
    {KS_FORMAT, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\"", "line 1"},
    {KS_FORMAT, "[1]", "expected a JSON object"},
    {KS_FORMAT, "{}", "no \"model\""},
    {KS_FORMAT, "{\"model\":3}", "\"model\" is not an object"},
    {KS_FORMAT, "{\"model\":{\"type\":3}}", "\"type\" is not a string"},
    {KS_FORMAT, "\"\xff\"", "line 1"},
    /* other kinds */
    {KS_UNSUPPORTED, FILE_OF("\"model\":{\"type\":\"Unigram\",\"vocab\":[]}"),
     "\"Unigram\""},
    {KS_UNSUPPORTED, FILE_OF("\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}"),
     "\"WordPiece\""},
    {KS_UNSUPPORTED, "{" MODEL "}", "no ByteLevel"},
    {KS_UNSUPPORTED, MODEL_OF("\"dropout\":0.1," VOCAB "," MERGES), "dropout"},
    {KS_UNSUPPORTED,
     MODEL_OF("\"continuing_subword_prefix\":\"##\"," VOCAB "," MERGES),
     "\"##\""},
    {KS_UNSUPPORTED, MODEL_OF("\"unk_token\":\"a\"," VOCAB "," MERGES),
     "byte 0x00"},
    {KS_UNSUPPORTED, MODEL_OF("\"byte_fallback\":true," VOCAB "," MERGES),
     "byte_fallback"},
    /* vocabulary */
    {KS_FORMAT, MODEL_OF("\"vocab\":[]," MERGES), "\"vocab\" is not an object"},
    {KS_FORMAT,
     MODEL_OF("\"vocab\":{},"
              "\"merges\":[]"),
     "empty"},
    {KS_FORMAT, MODEL_OF("\"vocab\":{\"a\":0,\"b\":0}," MERGES),
     "id 0 comes twice"},
    {KS_FORMAT, MODEL_OF("\"vocab\":{\"a\":0,\"a\":1}," MERGES), "duplicate"},
    {KS_FORMAT, MODEL_OF("\"vocab\":{\"a\":\"0\"}," MERGES), "not an integer"},
    {KS_FORMAT, MODEL_OF("\"vocab\":{\"a\":1.5}," MERGES), "not an integer"},
    {KS_LIMIT, MODEL_OF("\"vocab\":{\"a\":-1}," MERGES), "id -1 is outside"},
    {KS_LIMIT, MODEL_OF("\"vocab\":{\"a\":2147483648}," MERGES),
     "id 2147483648 is outside"},
    {KS_FORMAT, MODEL_OF("\"vocab\":{\"a\":99999999999999999999}," MERGES),
     "id of token \"a\""},
    /* merges */
    {KS_FORMAT, MODEL_OF(VOCAB), "\"merges\" is not a list"},
    {KS_FORMAT, MODEL_OF(VOCAB ",\"merges\":[[\"a\",\"z\"]]"),
     "merge 0 names \"z\""},
    {KS_FORMAT, MODEL_OF(VOCAB ",\"merges\":[[\"a\",\"b\"],[\"b\",\"a\"]]"),
     "merge 1 names \"ba\""},
    {KS_FORMAT, MODEL_OF(VOCAB ",\"merges\":[\"ab\"]"), "merge 0 is \"ab\""},
    {KS_FORMAT, MODEL_OF(VOCAB ",\"merges\":[\"a  b\"]"), "one space"},
    {KS_FORMAT, MODEL_OF(VOCAB ",\"merges\":[[\"a\",\"b\",\"b\"]]"), "merge 0"},
    {KS_FORMAT, MODEL_OF(VOCAB ",\"merges\":[7]"), "merge 0"},
    /* added tokens */
    {KS_FORMAT, FILE_OF(MODEL ",\"added_tokens\":{}"), "not a list"},
    {KS_FORMAT, ADDED("7"), "not a list of objects"},
    {KS_FORMAT, ADDED("{\"content\":\"<x>\"}"), "\"id\""},
    {KS_FORMAT, ADDED("{\"id\":7}"), "\"content\""},
    {KS_LIMIT, ADDED("{\"id\":4194304,\"content\":\"<x>\"}"), "\"id\""},
    {KS_FORMAT, ADDED("{\"id\":1,\"content\":\"<x>\"}"), "another token's"},
    {KS_FORMAT, ADDED("{\"id\":7,\"content\":\"ab\"}"), "two ids, 2 and 7"},
    {KS_FORMAT,
     ADDED("{\"id\":7,\"content\":\"x\"},{\"id\":8,\"content\":\"x\"}"),
     "two ids, 7 and 8"},
    {KS_FORMAT,
     ADDED("{\"id\":7,\"content\":\"x\"},{\"id\":7,\"content\":\"y\"}"),
     "another token's"},
    {KS_FORMAT, ADDED("{\"id\":7,\"content\":\"x\",\"lstrip\":1}"), "lstrip"},
    /* pre-tokenizers, normalizers */
    {KS_UNSUPPORTED, PRE("{\"type\":\"Metaspace\"}"), "\"Metaspace\""},
    {KS_FORMAT, PRE("{\"type\":\"Sequence\"}"), "pretokenizers"},
    {KS_FORMAT, PRE("{\"type\":\"Split\",\"behavior\":\"Isolated\"}"),
     "pattern"},
    {KS_UNSUPPORTED,
     PRE("{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"},"
         "\"behavior\":\"Other\"}"),
     "\"Other\""},
    {KS_UNSUPPORTED,
     PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
         "{\"type\":\"Digits\"}]}"),
     "after ByteLevel"},
    {KS_FORMAT, REGEX("(a"), "pattern \"(a\" is not valid"},
    {KS_UNSUPPORTED, REGEX("a{1,3}+"), "{n,m}+"},
    {KS_UNSUPPORTED, REGEX("\\\\h"), "\\h"},
    {KS_UNSUPPORTED, REGEX("[a[b]]"), "class inside a class"},
    {KS_UNSUPPORTED, REGEX("[a&&b]"), "&&"},
    {KS_UNSUPPORTED, REGEX("a(?i)b"), "(?i)"},
    {KS_UNSUPPORTED, REGEX("(?m:.)"), "(?m"},
    {KS_UNSUPPORTED, NORM("{\"type\":\"BertNormalizer\"}"), "BertNormalizer"},
    {KS_FORMAT, NORM("{\"type\":\"Replace\",\"content\":\"x\"}"), "pattern"},
    {KS_FORMAT, NORM("{\"type\":\"Sequence\",\"normalizers\":7}"),
     "normalizers"},
};

Test(files, json_rows) {
    for (size_t i = 0; i < KS_COUNT(rows); i++) {
        ks_err err;
        write_own(rows[i].text, strlen(rows[i].text));
        ks_status st = open_own(&err);
        cr_assert(eq(int, st, rows[i].status), "%s\n%s", rows[i].text,
                  err.text);
        if (st == KS_OK) continue;
        cr_assert(says(&err, rows[i].says), "%s\n%s", rows[i].text, err.text);
        cr_assert(says(&err, own_file()), "%s", err.text);
    }
}

Test(files, nesting_has_an_end) {
    ks_str s = {0};
    ks_err err;
    ks_str_printf(&s, &err, "{" MODEL ",\"pre_tokenizer\":");
    for (int i = 0; i < 20; i++)
        ks_str_printf(&s, &err, "{\"type\":\"Sequence\",\"pretokenizers\":[");
    ks_str_printf(&s, &err, "{\"type\":\"ByteLevel\"}");
    for (int i = 0; i < 20; i++) ks_str_printf(&s, &err, "]}");
    ks_str_printf(&s, &err, "}");
    write_own(s.data, s.length);
    cr_assert(eq(int, open_own(&err), KS_LIMIT));
    cr_assert(says(&err, "nested deeper"), "%s", err.text);
    s.length = 0;
    for (int i = 0; i < 100000; i++) ks_str_add(&s, "[", 1, &err);
    write_own(s.data, s.length);
    cr_assert(eq(int, open_own(&err), KS_FORMAT));
    ks_str_free(&s);
}

/* Every prefix of a good file is refused, and none crashes. */
Test(files, truncated) {
    char *text;
    size_t n;
    ks_err err;
    cr_assert(eq(
        int,
        ks_read_file(DATA "/qwen2/tokenizer.json", SIZE_MAX, &text, &n, &err),
        KS_OK));
    while (n > 0 && text[n - 1] == '\n') n--;
    for (size_t k = 0; k < n; k += k < 200 ? 1 : 211) {
        write_own(text, k);
        cr_assert(ne(int, open_own(&err), KS_OK), "%zu of %zu bytes", k, n);
    }
    free(text);
    ks_map map;
    cr_assert(
        eq(int, ks_map_open(&map, DATA "/qwen2/tokenizer.gguf", &err), KS_OK));
    for (size_t k = 0; k < map.size - 64; k += k < 200 ? 1 : 211) {
        write_own(map.data, k);
        cr_assert(ne(int, open_own(&err), KS_OK), "%zu bytes", k);
    }
    ks_map_close(&map);
}

/* As in `tokenizers`: no token, and its neighbours merge over it. */
Test(files, byte_that_the_vocabulary_lacks) {
    ks_tokens got = {0};
    const char *text =
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false"
        "}," MODEL "}";
    write_own(text, strlen(text));
    ks_tokenizer *t = must_open(own_file());
    must_tokenize(t, "bzazbz", 6, &got);
    cr_assert(eq(sz, got.n, 2));
    cr_assert(eq(int, got.ids[0], 1));
    cr_assert(eq(int, got.ids[1], 2));
    cr_assert(eq(int, got.begin[1], 2));
    cr_assert(eq(int, got.end[1], 5));
    must_tokenize(t, "z z", 3, &got);
    cr_assert(eq(sz, got.n, 0));
    ks_tokens_free(&got);
    ks_tokenizer_close(&t);
}

/* What a file leaves out: a special token is looked for as written, another
 * one in normalised text. */
Test(files, normalized_is_what_is_not_special) {
    ks_tokens got = {0};
    const char *text = NORM("{\"type\":\"Lowercase\"}");
    ks_str s = {0};
    cr_assert(eq(int, ks_str_add(&s, text, strlen(text) - 1, NULL), KS_OK));
    cr_assert(
        eq(int,
           ks_str_printf(&s, NULL,
                         ",\"added_tokens\":["
                         "{\"id\":7,\"content\":\"<X>\"},"
                         "{\"id\":8,\"content\":\"<Y>\",\"special\":true}]}"),
           KS_OK));
    write_own(s.data, s.length);
    ks_tokenizer *t = must_open(own_file());
    must_tokenize(t, "<x><X>", 6, &got);
    cr_assert(eq(sz, got.n, 2));
    cr_assert(eq(int, got.ids[0], 7));
    cr_assert(eq(int, got.ids[1], 7));
    must_tokenize(t, "<y><Y>", 6, &got);
    cr_assert(eq(sz, got.n, 1));
    cr_assert(eq(int, got.ids[0], 8));
    cr_assert(eq(int, got.begin[0], 3));
    ks_str_free(&s);
    ks_tokens_free(&got);
    ks_tokenizer_close(&t);
}

/* A pattern that backtracks without end gives up with a sentence. */
Test(files, pattern_without_end, .timeout = 60) {
    ks_tokens got = {0};
    ks_err err;
    const char *text = REGEX("(?:a+)+$|(?:(?:a|a)+)+z");
    write_own(text, strlen(text));
    ks_tokenizer *t = must_open(own_file());
    char a[201];
    memset(a, 'a', 200);
    a[199] = 'b';
    cr_assert(eq(int, ks_tokenize(t, a, 200, &got, &err), KS_LIMIT));
    cr_assert(says(&err, "gave up"), "%s", err.text);
    ks_tokens_free(&got);
    ks_tokenizer_close(&t);
}

/* ------------------------------------------------------------- GGUF metadata
 */

typedef struct writer {
    ks_str out;
    size_t count_at;
    uint64_t count;
} writer;

static void put(writer *w, const void *bytes, size_t n) {
    cr_assert(eq(int, ks_str_add(&w->out, bytes, n, NULL), KS_OK));
}

static void put_string(writer *w, const char *s) {
    uint64_t n = strlen(s);
    put(w, &n, 8);
    put(w, s, n);
}

static void put_key(writer *w, const char *key, uint32_t type) {
    put_string(w, key);
    put(w, &type, 4);
    w->count++;
}

static void put_text(writer *w, const char *key, const char *value) {
    if (!value) return;
    put_key(w, key, 8);
    put_string(w, value);
}

static void put_int(writer *w, const char *key, int32_t value) {
    put_key(w, key, 5);
    put(w, &value, 4);
}

/* list: names between commas */
static void put_list(writer *w, const char *key, const char *list) {
    char copy[256], *save = NULL;
    if (!list) return;
    uint32_t type = 8;
    uint64_t n = 0;
    put_key(w, key, 9);
    put(w, &type, 4);
    snprintf(copy, sizeof(copy), "%s", list);
    for (char *s = strtok_r(copy, ",", &save); s;
         s = strtok_r(NULL, ",", &save))
        n++;
    put(w, &n, 8);
    snprintf(copy, sizeof(copy), "%s", list);
    for (char *s = strtok_r(copy, ",", &save); s;
         s = strtok_r(NULL, ",", &save))
        put_string(w, s);
}

typedef struct facts {
    const char *model, *pre, *tokens, *merges;
    int bos, n_types, types[4];
} facts;

static void write_gguf(const facts *f) {
    writer w = {0};
    uint32_t version = 3, int32 = 5;
    uint64_t zero = 0;
    put(&w, "GGUF", 4);
    put(&w, &version, 4);
    put(&w, &zero, 8);
    w.count_at = w.out.length;
    put(&w, &zero, 8);
    put_text(&w, "tokenizer.ggml.model", f->model);
    put_text(&w, "tokenizer.ggml.pre", f->pre);
    put_list(&w, "tokenizer.ggml.tokens", f->tokens);
    put_list(&w, "tokenizer.ggml.merges", f->merges);
    if (f->n_types) {
        uint64_t n = (uint64_t)f->n_types;
        put_key(&w, "tokenizer.ggml.token_type", 9);
        put(&w, &int32, 4);
        put(&w, &n, 8);
        for (int i = 0; i < f->n_types; i++) put(&w, &f->types[i], 4);
    }
    put_int(&w, "tokenizer.ggml.bos_token_id", f->bos);
    memcpy(w.out.data + w.count_at, &w.count, 8);
    write_own(w.out.data, w.out.length);
    ks_str_free(&w.out);
}

Test(files, gguf_rows) {
    const struct {
        ks_status status;
        facts facts;
        const char *says;
    } list[] = {
        {KS_OK, {"gpt2", "gpt-2", "a,b,ab", "a b", 0, 0, {0}}, ""},
        {KS_OK, {"gpt2", NULL, "a,b,ab", "a b", 0, 0, {0}}, ""},
        {KS_OK, {"gpt2", "qwen2", "a,b,<x>", "", 2, 3, {1, 1, 3}}, ""},
        {KS_UNSUPPORTED,
         {"llama", "default", "a,b,ab", "a b", 0, 0, {0}},
         "\"llama\""},
        {KS_UNSUPPORTED,
         {"gpt2", "new-one", "a,b,ab", "a b", 0, 0, {0}},
         "\"new-one\""},
        {KS_FORMAT,
         {NULL, "gpt-2", "a,b,ab", "a b", 0, 0, {0}},
         "no tokenizer inside"},
        {KS_FORMAT,
         {"gpt2", "gpt-2", NULL, "a b", 0, 0, {0}},
         "tokenizer.ggml.tokens is missing"},
        {KS_FORMAT,
         {"gpt2", "gpt-2", "a,b,ab", NULL, 0, 0, {0}},
         "tokenizer.ggml.merges is missing"},
        {KS_FORMAT,
         {"gpt2", "gpt-2", "a,b,ab", "a c", 0, 0, {0}},
         "merge 0 names \"c\""},
        {KS_FORMAT,
         {"gpt2", "gpt-2", "a,b,a", "", 0, 0, {0}},
         "two ids, 0 and 2"},
        {KS_FORMAT,
         {"gpt2", "gpt-2", "a,b,ab", "a b", 0, 2, {1, 1}},
         "token_type has 2"},
        {KS_UNSUPPORTED,
         {"gpt2", "gpt-2", "a,b,ab", "", 0, 3, {1, 1, 6}},
         "type 6"},
        {KS_FORMAT,
         {"gpt2", "gpt-2", "a,b,ab", "a b", 3, 0, {0}},
         "bos_token_id is 3"},
        {KS_FORMAT,
         {"gpt2", "gpt-2", "a,b,\xff", "", 0, 0, {0}},
         "not valid UTF-8"},
    };
    for (size_t i = 0; i < KS_COUNT(list); i++) {
        ks_err err;
        write_gguf(&list[i].facts);
        ks_status st = open_own(&err);
        cr_assert(eq(int, st, list[i].status), "row %zu: %s", i, err.text);
        cr_assert(st == KS_OK || says(&err, list[i].says), "row %zu: %s", i,
                  err.text);
    }
}

/* ---------------------------------------------------------------- where it is
 */

Test(files, paths) {
    ks_err err = {0};
    ks_tokenizer *t = must_open(DATA "/llama3");
    ks_tokenizer_close(&t);
    t = must_open(DATA "/llama3/model.safetensors");
    ks_tokenizer_close(&t);
    cr_assert(eq(int, ks_tokenizer_open(&t, DATA, &err), KS_IO));
    cr_assert(says(&err, "tokenizer.json"), "%s", err.text);
    cr_assert(t == NULL);
    cr_assert(eq(int, ks_tokenizer_open(&t, "/nowhere/at/all", &err), KS_IO));
    ks_tokenizer_close(&t); /* nothing to close is fine */
}

Test(files, config_names_the_bos) {
    static const struct {
        ks_status status;
        const char *text, *says;
        int bos;
        bool wants;
    } list[] = {
        {KS_OK, "{\"bos_token\":\"ab\",\"add_bos_token\":true}", "", 2, true},
        {KS_OK, "{\"bos_token\":{\"content\":\"b\"}}", "", 1, false},
        {KS_OK, "{\"bos_token\":null,\"add_bos_token\":true}", "", -1, false},
        /* what transformers writes where nobody said a length */
        {KS_OK,
         "{\"bos_token\":\"b\","
         "\"model_max_length\":1000000000000000019884624838656}",
         "", 1, false},
        {KS_FORMAT, "{\"bos_token\":\"zz\"}", "\"zz\"", 0, false},
        {KS_FORMAT, "{\"bos_token\":7}", "bos_token", 0, false},
        {KS_FORMAT, "{\"add_bos_token\":7}", "add_bos_token", 0, false},
        {KS_FORMAT, "{", "line 1", 0, false},
    };
    char folder[] = "/tmp/keystep-config-XXXXXX", path[64], config[64];
    cr_assert(mkdtemp(folder) != NULL);
    snprintf(path, sizeof(path), "%s/tokenizer.json", folder);
    snprintf(config, sizeof(config), "%s/tokenizer_config.json", folder);
    const char *text = FILE_OF(MODEL);
    ks_err err;
    cr_assert(
        eq(int, ks_write_file(path, text, strlen(text), true, &err), KS_OK));
    for (size_t i = 0; i < KS_COUNT(list); i++) {
        ks_tokenizer *t = NULL;
        cr_assert(eq(int,
                     ks_write_file(config, list[i].text, strlen(list[i].text),
                                   true, &err),
                     KS_OK));
        ks_status st = ks_tokenizer_open(&t, folder, &err);
        cr_assert(eq(int, st, list[i].status), "%s: %s", list[i].text,
                  err.text);
        if (st != KS_OK) {
            cr_assert(says(&err, list[i].says), "%s", err.text);
            cr_assert(says(&err, "tokenizer_config.json"), "%s", err.text);
            continue;
        }
        cr_assert(eq(int, ks_tokenizer_bos(t), list[i].bos));
        cr_assert(eq(int, ks_tokenizer_wants_bos(t), list[i].wants));
        ks_tokenizer_close(&t);
    }
    unlink(path);
    unlink(config);
    rmdir(folder);
}
