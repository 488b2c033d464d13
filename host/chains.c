/* chains.c - readers of problems, chains and labels. */
#include "chains.h"

#include <stdlib.h>
#include <string.h>

enum { WHERE = 512 }; /* bytes of "file line n" in a sentence */

/* What the three readers share: where the lines go and where they were. */
typedef struct reader {
    const char *path;
    ks_keep keep;
    void *list; /* ks_problems, ks_chains or ks_labels */
    size_t capacity;
    size_t *lines; /* [n] numbers, for the sentence on an id's second one */
    size_t n, lines_capacity;
} reader;

static const char *name_of(const char *path) {
    return strcmp(path, "-") == 0 ? "standard input" : path;
}

static void name_place(char *where, const reader *r, size_t line) {
    snprintf(where, WHERE, "%.400s line %zu", name_of(r->path), line);
}

static ks_status read_list(const char *path, ks_keep keep, ks_jsonl_fn each,
                           void *list, const char *what, ks_err *err) {
    ks_status st = KS_OK;
    reader r = {.path = path, .keep = keep, .list = list};
    KS_TRY(ks_jsonl_read(path, each, &r, err));
    KS_CHECK(r.n, KS_FORMAT, "%s is empty, expected %s, one a line",
             name_of(path), what);
done:
    free(r.lines);
    return st;
}

static int64_t place_of(const json_t *index, const char *id) {
    const json_t *place = json_object_get(index, id);
    return place ? (int64_t)json_integer_value(place) : -1;
}

/* Enters id into the index; a second line of the same id is an error. */
static ks_status enter(reader *r, json_t **index, const char *key,
                       const char *id, size_t line, const char *where,
                       ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(*id, KS_FORMAT, "%s: \"%s\" is empty", where, key);
    int64_t before = place_of(*index, id);
    KS_CHECK(before < 0, KS_FORMAT, "%s: %s \"%s\" was already on line %zu",
             where, key, id, r->lines[before]);
    KS_TRY(ks_grow(&r->lines, &r->lines_capacity, r->n + 1, sizeof *r->lines,
                   "line numbers", err));
    if (!*index) *index = json_object();
    KS_CHECK(*index && !json_object_set_new(*index, id,
                                            json_integer((json_int_t)r->n)),
             KS_NOMEM, "%s: out of memory for its id", where);
    r->lines[r->n++] = line;
done:
    return st;
}

/* A string of a line's struct; *at NULL: there is none. */
typedef struct field {
    const char **at;
    size_t length;
} field;

/* The object goes on to the list, or the strings into one block of their own
 * and the object with the line. */
static ks_status keep(const reader *r, json_t **object, char **block,
                      const field *texts, size_t n, ks_err *err) {
    if (r->keep != KS_KEEP_FIELDS) {
        json_incref(*object);
        return KS_OK;
    }
    *object = NULL;
    size_t size = 0;
    for (size_t i = 0; i < n; i++)
        if (*texts[i].at) size += texts[i].length + 1;
    ks_status st = ks_alloc(block, size, 1, "texts", err);
    if (st != KS_OK) return st;
    char *to = *block;
    for (size_t i = 0; i < n; i++) {
        if (!*texts[i].at) continue;
        memcpy(to, *texts[i].at, texts[i].length + 1); /* the NUL too */
        *texts[i].at = to;
        to += texts[i].length + 1;
    }
    return KS_OK;
}

/* A string that the line may leave out: *out is then `other`. */
static ks_status optional_string(json_t *object, const char *key,
                                 const char *where, const char *other,
                                 const char **out, size_t *length,
                                 ks_err *err) {
    json_t *value = json_object_get(object, key);
    if (value && !json_is_null(value))
        return ks_json_string(object, key, where, out, length, err);
    *out = other;
    if (length) *length = other ? strlen(other) : 0;
    return KS_OK;
}

/* ---------------------------------------------------------------- problems */

static ks_status add_problem(void *user, size_t line, json_t *object,
                             ks_err *err) {
    ks_status st = KS_OK;
    reader *r = user;
    ks_problems *list = r->list;
    ks_problem p = {.object = object};
    char where[WHERE];
    name_place(where, r, line);
    KS_TRY(ks_json_string(object, "id", where, &p.id, NULL, err));
    KS_TRY(ks_json_string(object, "question", where, &p.question, NULL, err));
    KS_TRY(
        optional_string(object, "answer", where, NULL, &p.answer, NULL, err));
    KS_TRY(ks_grow(&list->at, &r->capacity, list->n + 1, sizeof p, "problems",
                   err));
    KS_TRY(enter(r, &list->index, "id", p.id, line, where, err));
    const field texts[] = {{&p.id, strlen(p.id)},
                           {&p.question, strlen(p.question)},
                           {&p.answer, p.answer ? strlen(p.answer) : 0}};
    KS_TRY(keep(r, &p.object, &p.texts, texts, KS_COUNT(texts), err));
    list->at[list->n++] = p;
done:
    return st;
}

ks_status ks_problems_read(ks_problems *out, const char *path, ks_keep keep,
                           ks_err *err) {
    *out = (ks_problems){0};
    ks_status st = read_list(path, keep, add_problem, out, "problems", err);
    if (st != KS_OK) ks_problems_free(out);
    return st;
}

void ks_problems_free(ks_problems *problems) {
    for (size_t i = 0; i < problems->n; i++) {
        json_decref(problems->at[i].object);
        free(problems->at[i].texts);
    }
    free(problems->at);
    json_decref(problems->index);
    *problems = (ks_problems){0};
}

const ks_problem *ks_problems_find(const ks_problems *problems,
                                   const char *id) {
    int64_t place = place_of(problems->index, id);
    return place < 0 ? NULL : &problems->at[place];
}

/* ------------------------------------------------------------------ chains */

/* Between characters: no UTF-8 continuation byte starts there. */
static bool between(const char *text, size_t n, int64_t at) {
    return (size_t)at == n || ((unsigned char)text[at] & 0xC0) != 0x80;
}

static ks_status read_step(const ks_chain *chain, json_t *step, int32_t i,
                           const char *where, ks_err *err) {
    ks_status st = KS_OK;
    char place[WHERE + 32];
    int64_t begin = 0, end = 0, n = (int64_t)chain->text_length;
    snprintf(place, sizeof place, "%s: step %d", where, i);
    KS_CHECK(json_is_object(step), KS_FORMAT,
             "%s: expected {\"begin\",\"end\"}", place);
    KS_TRY(ks_json_int(step, "begin", place, 0, INT32_MAX, &begin, err));
    KS_TRY(ks_json_int(step, "end", place, 0, INT32_MAX, &end, err));
    KS_CHECK(begin <= end && end <= n, KS_FORMAT,
             "%s: bytes %lld to %lld, but the text has %lld", place,
             (long long)begin, (long long)end, (long long)n);
    int64_t before = i ? (int64_t)chain->steps[i - 1].end : 0;
    KS_CHECK(begin >= before, KS_FORMAT,
             "%s: begins at byte %lld, before the end of step %d at %lld",
             place, (long long)begin, i - 1, (long long)before);
    KS_CHECK(between(chain->text, chain->text_length, begin) &&
                 between(chain->text, chain->text_length, end),
             KS_FORMAT, "%s: bytes %lld to %lld cut a character", place,
             (long long)begin, (long long)end);
    chain->steps[i] = (ks_span){(size_t)begin, (size_t)end};
done:
    return st;
}

static ks_status read_steps(ks_chain *chain, const char *where, ks_err *err) {
    ks_status st = KS_OK;
    json_t *steps = json_object_get(chain->object, "steps");
    if (!steps || json_is_null(steps)) return KS_OK;
    KS_CHECK(json_is_array(steps), KS_FORMAT,
             "%s: \"steps\" is not an array of {\"begin\",\"end\"}", where);
    size_t n = json_array_size(steps);
    KS_CHECK(n <= INT32_MAX, KS_LIMIT, "%s: %zu steps", where, n);
    KS_TRY(ks_alloc(&chain->steps, n, sizeof *chain->steps, "steps", err));
    for (size_t i = 0; i < n; i++)
        KS_TRY(
            read_step(chain, json_array_get(steps, i), (int32_t)i, where, err));
    chain->n_steps = (int32_t)n;
done:
    return st;
}

static ks_status read_texts(ks_chain *c, const char *where, ks_err *err) {
    ks_status st = KS_OK;
    json_t *o = c->object;
    KS_TRY(ks_json_string(o, "id", where, &c->id, NULL, err));
    KS_TRY(ks_json_string(o, "problem", where, &c->problem, NULL, err));
    KS_TRY(
        ks_json_string(o, "prompt", where, &c->prompt, &c->prompt_length, err));
    KS_TRY(ks_json_string(o, "text", where, &c->text, &c->text_length, err));
    KS_TRY(
        optional_string(o, "rest", where, "", &c->rest, &c->rest_length, err));
    const json_t *question = json_object_get(o, "question");
    c->question = json_string_value(question);
    c->question_length = json_string_length(question);
    size_t total = c->prompt_length + c->text_length + c->rest_length;
    KS_CHECK(total <= INT32_MAX, KS_LIMIT, "%s: %zu bytes of text, at most %d",
             where, total, INT32_MAX);
    ks_sha256_of(c->text, c->text_length, c->text_sha256);
done:
    return st;
}

static ks_status add_chain(void *user, size_t line, json_t *object,
                           ks_err *err) {
    ks_status st = KS_OK;
    reader *r = user;
    ks_chains *list = r->list;
    ks_chain c = {.object = object};
    char where[WHERE];
    name_place(where, r, line);
    KS_TRY(read_texts(&c, where, err));
    if (r->keep != KS_KEEP_UNSPLIT) KS_TRY(read_steps(&c, where, err));
    KS_TRY(
        ks_grow(&list->at, &r->capacity, list->n + 1, sizeof c, "chains", err));
    KS_TRY(enter(r, &list->index, "id", c.id, line, where, err));
    const field texts[] = {
        {&c.id, strlen(c.id)},        {&c.problem, strlen(c.problem)},
        {&c.prompt, c.prompt_length}, {&c.text, c.text_length},
        {&c.rest, c.rest_length},     {&c.question, c.question_length}};
    KS_TRY(keep(r, &c.object, &c.texts, texts, KS_COUNT(texts), err));
    list->at[list->n++] = c;
    c.steps = NULL;
done:
    free(c.steps);
    return st;
}

ks_status ks_chains_read(ks_chains *out, const char *path, ks_keep keep,
                         ks_err *err) {
    *out = (ks_chains){.path = name_of(path)};
    ks_status st = read_list(path, keep, add_chain, out, "chains", err);
    if (st != KS_OK) ks_chains_free(out);
    return st;
}

void ks_chains_free(ks_chains *chains) {
    for (size_t i = 0; i < chains->n; i++) {
        free(chains->at[i].steps);
        free(chains->at[i].texts);
        json_decref(chains->at[i].object);
    }
    free(chains->at);
    json_decref(chains->index);
    *chains = (ks_chains){0};
}

const ks_chain *ks_chains_find(const ks_chains *chains, const char *id) {
    int64_t place = place_of(chains->index, id);
    return place < 0 ? NULL : &chains->at[place];
}

static ks_status pack_step(ks_span step, const ks_span *tokens, json_t **out,
                           ks_err *err) {
    *out = json_pack("{s:I,s:I}", "begin", (json_int_t)step.begin, "end",
                     (json_int_t)step.end);
    if (*out && tokens &&
        (json_object_set_new(*out, "token_begin",
                             json_integer((json_int_t)tokens->begin)) ||
         json_object_set_new(*out, "token_end",
                             json_integer((json_int_t)tokens->end)))) {
        json_decref(*out);
        *out = NULL;
    }
    return *out ? KS_OK : ks_fail(err, KS_NOMEM, "out of memory for steps");
}

ks_status ks_steps_json(const ks_spans *steps, const ks_span *tokens,
                        json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    json_t *one;
    *out = json_array();
    KS_CHECK(*out, KS_NOMEM, "out of memory for steps");
    for (size_t i = 0; i < steps->n; i++) {
        KS_TRY(pack_step(steps->at[i], tokens ? tokens + i : NULL, &one, err));
        KS_CHECK(!json_array_append_new(*out, one), KS_NOMEM,
                 "out of memory for steps");
    }
done:
    if (st != KS_OK) {
        json_decref(*out);
        *out = NULL;
    }
    return st;
}

ks_status ks_chain_set_steps(ks_chain *chain, const ks_spans *steps,
                             const ks_span *tokens, ks_err *err) {
    ks_status st = KS_OK;
    ks_span *copy = NULL;
    json_t *array = NULL;
    KS_CHECK(steps->n <= INT32_MAX, KS_LIMIT, "%zu steps", steps->n);
    KS_TRY(ks_alloc(&copy, steps->n, sizeof *copy, "steps", err));
    if (steps->n > 0) memcpy(copy, steps->at, steps->n * sizeof *copy);
    if (chain->object) {
        KS_TRY(ks_steps_json(steps, tokens, &array, err));
        KS_TRY(ks_json_set(chain->object, "steps", array, chain->id, err));
    }
    free(chain->steps);
    chain->steps = copy;
    chain->n_steps = (int32_t)steps->n;
    copy = NULL;
done:
    free(copy);
    return st;
}

ks_span ks_tokens_of(const ks_tokens *tokens, int64_t begin, int64_t end,
                     size_t *at) {
    ks_span span;
    while (*at < tokens->n && tokens->begin[*at] < begin) (*at)++;
    span.begin = *at;
    while (*at < tokens->n && tokens->begin[*at] < end) (*at)++;
    span.end = *at;
    return span;
}

ks_status ks_chain_tokens(const ks_chain *chain, const ks_tokenizer *tokenizer,
                          const ks_spans *steps, ks_span *out, ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    ks_tokens tokens = {0};
    int64_t offset = (int64_t)chain->prompt_length;
    size_t at = 0;
    KS_TRY(ks_str_add(&text, chain->prompt, chain->prompt_length, err));
    KS_TRY(ks_str_add(&text, chain->text, chain->text_length, err));
    KS_TRY(ks_tokenize(tokenizer, text.data, text.length, &tokens, err));
    for (size_t i = 0; i < steps->n; i++)
        out[i] = ks_tokens_of(&tokens, offset + (int64_t)steps->at[i].begin,
                              offset + (int64_t)steps->at[i].end, &at);
done:
    ks_str_free(&text);
    ks_tokens_free(&tokens);
    return st;
}

/* ------------------------------------------------------------------ labels */

static ks_status read_values(ks_label *label, const char *where, ks_err *err) {
    ks_status st = KS_OK;
    json_t *values = json_object_get(label->object, "labels");
    KS_CHECK(json_is_array(values), KS_FORMAT,
             "%s: no \"labels\" array of 1, 0 or null", where);
    size_t n = json_array_size(values);
    KS_CHECK(n <= INT32_MAX, KS_LIMIT, "%s: %zu labels", where, n);
    KS_TRY(ks_alloc(&label->labels, n, 1, "labels", err));
    label->n_steps = (int32_t)n;
    for (size_t i = 0; i < n; i++) {
        json_t *v = json_array_get(values, i);
        json_int_t number = json_is_integer(v) ? json_integer_value(v) : -1;
        KS_CHECK(json_is_null(v) || number == 0 || number == 1, KS_FORMAT,
                 "%s: labels[%zu] is not 1, 0 or null", where, i);
        label->labels[i] = (int8_t)number;
    }
done:
    return st;
}

static ks_status check_scores(const ks_label *label, const char *where,
                              ks_err *err) {
    ks_status st = KS_OK;
    json_t *scores = json_object_get(label->object, "scores"), *list;
    const char *name;
    if (!scores || json_is_null(scores)) return KS_OK;
    KS_CHECK(json_is_object(scores), KS_FORMAT,
             "%s: \"scores\" is not an object of number arrays", where);
    json_object_foreach(scores, name, list) {
        KS_CHECK(json_is_array(list) &&
                     json_array_size(list) == (size_t)label->n_steps,
                 KS_FORMAT, "%s: score \"%s\" is not an array of %d numbers",
                 where, name, label->n_steps);
        for (size_t i = 0; i < json_array_size(list); i++) {
            json_t *v = json_array_get(list, i);
            KS_CHECK(json_is_number(v) || json_is_null(v), KS_FORMAT,
                     "%s: score \"%s\" %zu is not a number or null", where,
                     name, i);
        }
    }
done:
    return st;
}

static ks_status add_label(void *user, size_t line, json_t *object,
                           ks_err *err) {
    ks_status st = KS_OK;
    reader *r = user;
    ks_labels *list = r->list;
    ks_label l = {.object = object};
    char where[WHERE];
    name_place(where, r, line);
    KS_TRY(ks_json_string(object, "chain", where, &l.chain, NULL, err));
    KS_TRY(optional_string(object, "method", where, "", &l.method, NULL, err));
    KS_TRY(optional_string(object, "text_sha256", where, NULL, &l.text_sha256,
                           NULL, err));
    KS_TRY(read_values(&l, where, err));
    KS_TRY(check_scores(&l, where, err));
    KS_TRY(
        ks_grow(&list->at, &r->capacity, list->n + 1, sizeof l, "labels", err));
    KS_TRY(enter(r, &list->index, "chain", l.chain, line, where, err));
    const field texts[] = {
        {&l.chain, strlen(l.chain)},
        {&l.method, strlen(l.method)},
        {&l.text_sha256, l.text_sha256 ? strlen(l.text_sha256) : 0}};
    KS_TRY(keep(r, &l.object, &l.texts, texts, KS_COUNT(texts), err));
    list->at[list->n++] = l;
    l.labels = NULL;
done:
    free(l.labels);
    return st;
}

ks_status ks_labels_read(ks_labels *out, const char *path, ks_keep keep,
                         ks_err *err) {
    *out = (ks_labels){.path = name_of(path)};
    ks_status st =
        read_list(path, keep, add_label, out, "labels of chains", err);
    if (st != KS_OK) ks_labels_free(out);
    return st;
}

void ks_labels_free(ks_labels *labels) {
    for (size_t i = 0; i < labels->n; i++) {
        free(labels->at[i].labels);
        free(labels->at[i].texts);
        json_decref(labels->at[i].object);
    }
    free(labels->at);
    json_decref(labels->index);
    *labels = (ks_labels){0};
}

const ks_label *ks_labels_find(const ks_labels *labels, const char *chain) {
    int64_t place = place_of(labels->index, chain);
    return place < 0 ? NULL : &labels->at[place];
}

ks_status ks_labels_fit(const ks_labels *labels, const ks_chains *chains,
                        ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < labels->n; i++) {
        const ks_label *l = &labels->at[i];
        const ks_chain *c = ks_chains_find(chains, l->chain);
        const char *hash = l->text_sha256;
        KS_CHECK(c, KS_MISMATCH, "%s: chain \"%s\" is not in %s", labels->path,
                 l->chain, chains->path);
        KS_CHECK(c->steps, KS_MISMATCH,
                 "%s: chain \"%s\" has no steps in %s, expected the %d that "
                 "are labelled",
                 labels->path, l->chain, chains->path, l->n_steps);
        KS_CHECK(c->n_steps == l->n_steps, KS_MISMATCH,
                 "%s: chain \"%s\" has %d labels, but %d steps in %s",
                 labels->path, l->chain, l->n_steps, c->n_steps, chains->path);
        KS_CHECK(!hash || strcmp(hash, c->text_sha256) == 0, KS_MISMATCH,
                 "%s: chain \"%s\" was labelled as another text than in %s "
                 "(SHA-256 %.12s... and %.12s...)",
                 labels->path, l->chain, chains->path, hash, c->text_sha256);
    }
done:
    return st;
}
