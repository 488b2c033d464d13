/* test_golden.c - ids and offsets as the `tokenizers` package has them, for
 * every model family, from tokenizer.json and from GGUF.
 * Files by tests/golden/make_tokenizer.py. */
#include <pthread.h>
#include <utf8proc.h>

#include "fixture.h"

static const char *const families[] = {"gpt2",  "smollm", "llama3",
                                       "qwen2", "olmo",   "deepseek",
                                       "olmo2", "o200k",  "odd"};

static bool has_gguf(const char *family) {
    return strcmp(family, "odd") != 0;
}

/* One line of texts.jsonl and of a golden.jsonl. */
typedef struct sample {
    json_t *line, *golden;
    const char *text;
    size_t n;
} sample;

typedef struct samples {
    FILE *texts, *golden;
} samples;

static samples open_samples(const char *family) {
    char path[512];
    snprintf(path, sizeof(path), DATA "/%s/golden.jsonl", family);
    samples s = {fopen(DATA "/texts.jsonl", "r"), fopen(path, "r")};
    cr_assert(s.texts && s.golden, "no golden files of %s", family);
    return s;
}

static json_t *next_line(FILE *f) {
    char *line = NULL;
    size_t room = 0;
    json_error_t reason;
    ssize_t n = getline(&line, &room, f);
    json_t *object =
        n > 0 ? json_loadb(line, (size_t)n, JSON_ALLOW_NUL, &reason) : NULL;
    cr_assert(n <= 0 || object, "%s", reason.text);
    free(line);
    return object;
}

static bool next_sample(samples *s, sample *out) {
    *out = (sample){next_line(s->texts), next_line(s->golden), NULL, 0};
    cr_assert(eq(int, !out->line, !out->golden));
    if (!out->line) return false;
    json_t *text = json_object_get(out->line, "text");
    out->text = json_string_value(text);
    out->n = json_string_length(text);
    return true;
}

static void drop_sample(sample *s) {
    json_decref(s->line);
    json_decref(s->golden);
}

static void close_samples(samples *s) {
    fclose(s->texts);
    fclose(s->golden);
}

static bool inside_character(const sample *s, int32_t at) {
    return (size_t)at < s->n && ((uint8_t)s->text[at] & 0xc0) == 0x80;
}

static bool changes(const ks_tokenizer *t, const sample *s) {
    ks_scratch scratch = {0};
    ks_piece in = {.text = s->text, .n = (int32_t)s->n}, out;
    ks_err err;
    cr_assert(eq(int, ks_matcher_open(&scratch.matcher, &err), KS_OK));
    cr_assert(eq(int,
                 ks__normalize(t->rules, t->n_rules, &in, &scratch, &out, &err),
                 KS_OK));
    bool same = out.n == in.n && memcmp(out.text, in.text, s->n) == 0;
    ks_matcher_close(&scratch.matcher);
    ks_draft_free(&scratch.drafts[0]);
    ks_draft_free(&scratch.drafts[1]);
    return !same;
}

static void check_sample(const ks_tokenizer *t, const char *what,
                         const sample *s, ks_tokens *got) {
    json_t *ids = json_object_get(s->golden, "ids");
    json_t *offsets = json_object_get(s->golden, "offsets");
    bool changed = changes(t, s);
    must_tokenize(t, s->text, s->n, got);
    cr_assert(eq(sz, got->n, json_array_size(ids)), "%s: %s", what, s->text);
    for (size_t i = 0; i < got->n; i++) {
        int id = (int)json_integer_value(json_array_get(ids, i));
        json_t *span = json_array_get(offsets, i);
        int begin = (int)json_integer_value(json_array_get(span, 0));
        int end = (int)json_integer_value(json_array_get(span, 1));
        int32_t b = got->begin[i], e = got->end[i];
        cr_assert(eq(int, got->ids[i], id), "%s, token %zu: %s", what, i,
                  s->text);
        cr_assert(b >= 0 && b < e && (size_t)e <= s->n, "%s, token %zu: %s",
                  what, i, s->text);
        while (inside_character(s, b)) b--;
        while (inside_character(s, e)) e++;
        /* theirs has the first source character of a composed one only */
        bool same = changed ? b <= begin && e >= end : b == begin && e == end;
        cr_assert(same, "%s, token %zu: [%d,%d) not [%d,%d): %s", what, i, b, e,
                  begin, end, s->text);
    }
}

static void check_file(const char *family, const char *file) {
    ks_tokenizer *t = open_family(family, file);
    ks_tokens got = {0};
    samples list = open_samples(family);
    sample s;
    size_t n = 0;
    for (; next_sample(&list, &s); n++) {
        check_sample(t, family, &s, &got);
        drop_sample(&s);
    }
    cr_assert(n > 40);
    close_samples(&list);
    ks_tokens_free(&got);
    ks_tokenizer_close(&t);
}

Test(golden, tokenizer_json) {
    for (size_t i = 0; i < KS_COUNT(families); i++)
        check_file(families[i], "tokenizer.json");
}

Test(golden, gguf) {
    for (size_t i = 0; i < KS_COUNT(families); i++)
        if (has_gguf(families[i])) check_file(families[i], "tokenizer.gguf");
}

Test(golden, both_files_of_a_tokenizer_have_one_hash) {
    char seen[KS_COUNT(families)][65];
    for (size_t i = 0; i < KS_COUNT(families); i++) {
        ks_tokenizer *json = open_family(families[i], "tokenizer.json");
        const char *hash = ks_tokenizer_hash(json);
        cr_assert(eq(sz, strlen(hash), 64));
        memcpy(seen[i], hash, 65);
        for (size_t k = 0; k < i; k++) cr_assert(ne(str, seen[i], seen[k]));
        if (has_gguf(families[i])) {
            ks_tokenizer *gguf = open_family(families[i], "tokenizer.gguf");
            cr_assert(eq(str, (char *)ks_tokenizer_hash(gguf), seen[i]), "%s",
                      families[i]);
            ks_tokenizer_close(&gguf);
        }
        ks_tokenizer_close(&json);
    }
}

Test(golden, ids_go_back_to_the_text) {
    for (size_t i = 0; i < KS_COUNT(families); i++) {
        ks_tokenizer *t = open_family(families[i], "tokenizer.json");
        ks_tokens got = {0};
        samples list = open_samples(families[i]);
        sample s;
        while (next_sample(&list, &s)) {
            char *text;
            size_t n;
            ks_err err;
            must_tokenize(t, s.text, s.n, &got);
            cr_assert(eq(int, ks_detokenize(t, got.ids, got.n, &text, &n, &err),
                         KS_OK));
            cr_assert(eq(sz, strlen(text) <= n, 1));
            if (has_gguf(families[i]) && !changes(t, &s))
                cr_assert(n == s.n && memcmp(text, s.text, n) == 0, "%s: %s",
                          families[i], s.text);
            free(text);
            drop_sample(&s);
        }
        close_samples(&list);
        ks_tokens_free(&got);
        ks_tokenizer_close(&t);
    }
}

Test(golden, bos_and_whether_it_is_wanted) {
    static const struct {
        const char *family, *file;
        int bos;
        bool wants;
    } rows[] = {{"llama3", "tokenizer.json", 0, true},
                {"llama3", "tokenizer.gguf", 0, true},
                {"qwen2", "tokenizer.json", 0, false},
                {"qwen2", "tokenizer.gguf", 0, false},
                {"smollm", "tokenizer.json", -1, false}};
    for (size_t i = 0; i < KS_COUNT(rows); i++) {
        ks_tokenizer *t = open_family(rows[i].family, rows[i].file);
        cr_assert(eq(int, ks_tokenizer_bos(t), rows[i].bos));
        cr_assert(eq(int, ks_tokenizer_wants_bos(t), rows[i].wants), "%s %s",
                  rows[i].family, rows[i].file);
        ks_tokenizer_close(&t);
    }
}

/* ------------------------------------------------------------------- threads
 */

typedef struct job {
    const ks_tokenizer *tokenizer;
    pthread_t thread;
    bool same;
} job;

static void *tokenize_all(void *user) {
    job *j = user;
    ks_tokens got = {0};
    samples list = open_samples("qwen2");
    sample s;
    j->same = true;
    while (next_sample(&list, &s)) {
        json_t *ids = json_object_get(s.golden, "ids");
        ks_err err;
        bool same =
            ks_tokenize(j->tokenizer, s.text, s.n, &got, &err) == KS_OK &&
            got.n == json_array_size(ids);
        for (size_t i = 0; same && i < got.n; i++)
            same = got.ids[i] == json_integer_value(json_array_get(ids, i));
        j->same &= same;
        drop_sample(&s);
    }
    close_samples(&list);
    ks_tokens_free(&got);
    return NULL;
}

Test(golden, threads_share_a_handle) {
    ks_tokenizer *t = open_family("qwen2", "tokenizer.json");
    job jobs[4];
    for (size_t i = 0; i < KS_COUNT(jobs); i++) {
        jobs[i] = (job){.tokenizer = t};
        cr_assert(
            pthread_create(&jobs[i].thread, NULL, tokenize_all, &jobs[i]) == 0);
    }
    for (size_t i = 0; i < KS_COUNT(jobs); i++) {
        pthread_join(jobs[i].thread, NULL);
        cr_assert(jobs[i].same);
    }
    ks_tokenizer_close(&t);
}
