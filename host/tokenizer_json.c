/* tokenizer_json.c - the tokenizer.json of the `tokenizers` package, and the
 * tokenizer_config.json beside it.
 *
 * Read: model, added_tokens, normalizer, pre_tokenizer; of the post-processor
 * only whether it puts a BOS in front. Truncation, padding and the decoder
 * are not. Unknown types are refused by name. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"

enum { NESTING = 8 }; /* of Sequence in Sequence */

/* An optional member: absent and null are the same. */
static json_t *member(json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static ks_status wrong_type(const ks_tokenizer *t, const char *key,
                            const char *expected, ks_err *err) {
    return ks_fail(err, KS_FORMAT, "%s: \"%s\" is not %s", t->path, key,
                   expected);
}

static ks_status get_bool(const ks_tokenizer *t, json_t *object,
                          const char *key, bool otherwise, bool *out,
                          ks_err *err) {
    json_t *value = member(object, key);
    if (value && !json_is_boolean(value))
        return wrong_type(t, key, "true or false", err);
    *out = value ? json_is_true(value) : otherwise;
    return KS_OK;
}

/* "" when absent */
static ks_status get_text(const ks_tokenizer *t, json_t *object,
                          const char *key, const char **text, size_t *n,
                          ks_err *err) {
    json_t *value = member(object, key);
    if (value && !json_is_string(value))
        return wrong_type(t, key, "a string", err);
    *text = value ? json_string_value(value) : "";
    *n = value ? json_string_length(value) : 0;
    return KS_OK;
}

/* "" when it has none */
static ks_status get_type(const ks_tokenizer *t, json_t *object,
                          const char *what, const char **type, ks_err *err) {
    size_t n;
    if (!json_is_object(object)) return wrong_type(t, what, "an object", err);
    return get_text(t, object, "type", type, &n, err);
}

/* {"String": "..."} or {"Regex": "..."} */
static ks_status get_pattern(const ks_tokenizer *t, json_t *object,
                             const char **text, size_t *n, bool *literal,
                             ks_err *err) {
    json_t *pattern = member(object, "pattern");
    json_t *string = member(pattern, "String");
    json_t *regex = member(pattern, "Regex");
    json_t *value = string ? string : regex;
    if (!json_is_string(value))
        return wrong_type(t, "pattern", "{\"String\"} or {\"Regex\"}", err);
    *literal = string != NULL;
    *text = json_string_value(value);
    *n = json_string_length(value);
    return KS_OK;
}

/* ----------------------------------------------------------------- normalizer
 */

static ks_status read_replace(const ks_tokenizer *t, json_t *object,
                              ks_rule *rule, ks_err *err) {
    ks_status st = KS_OK;
    const char *text = "";
    size_t n = 0;
    bool literal = false;
    KS_TRY(get_pattern(t, object, &text, &n, &literal, err));
    KS_TRY(ks_pattern_open(&rule->pattern, text, n, literal, t->path, err));
    KS_TRY(get_text(t, object, "content", &text, &n, err));
    KS_TRY(ks_str_add(&rule->content, text, n, err));
done:
    return st;
}

static ks_status read_rule(ks_tokenizer *t, json_t *object, const char *type,
                           ks_err *err) {
    static const struct {
        const char *name;
        ks_rule_type type;
    } types[] = {{"NFC", KS_RULE_NFC},
                 {"NFD", KS_RULE_NFD},
                 {"NFKC", KS_RULE_NFKC},
                 {"NFKD", KS_RULE_NFKD},
                 {"Lowercase", KS_RULE_LOWERCASE},
                 {"Strip", KS_RULE_STRIP},
                 {"Prepend", KS_RULE_PREPEND},
                 {"Replace", KS_RULE_REPLACE}};
    ks_status st = KS_OK;
    ks_rule rule = {0};
    size_t i = 0, n = 0;
    const char *text = "";
    while (i < KS_COUNT(types) && strcmp(types[i].name, type) != 0) i++;
    KS_CHECK(i < KS_COUNT(types), KS_UNSUPPORTED,
             "%s: normalizer \"%.60s\" is not supported", t->path, type);
    rule.type = types[i].type;
    if (rule.type == KS_RULE_STRIP) {
        KS_TRY(get_bool(t, object, "strip_left", true, &rule.left, err));
        KS_TRY(get_bool(t, object, "strip_right", true, &rule.right, err));
    } else if (rule.type == KS_RULE_PREPEND) {
        KS_TRY(get_text(t, object, "prepend", &text, &n, err));
        KS_TRY(ks_str_add(&rule.content, text, n, err));
    } else if (rule.type == KS_RULE_REPLACE) {
        KS_TRY(read_replace(t, object, &rule, err));
    }
    KS_TRY(ks__tokenizer_put_rule(t, &rule, err));
done:
    ks_str_free(&rule.content);
    ks_pattern_close(&rule.pattern);
    return st;
}

static ks_status read_normalizer(ks_tokenizer *t, json_t *object, int depth,
                                 ks_err *err) {
    ks_status st = KS_OK;
    const char *type;
    if (!object) return KS_OK;
    KS_TRY(get_type(t, object, "normalizer", &type, err));
    if (strcmp(type, "Sequence") != 0) return read_rule(t, object, type, err);
    json_t *list = member(object, "normalizers"), *item;
    if (!json_is_array(list))
        return wrong_type(t, "normalizers", "a list", err);
    KS_CHECK(depth < NESTING, KS_LIMIT,
             "%s: normalizers are nested deeper than %d", t->path, NESTING);
    size_t i;
    json_array_foreach(list, i, item)
        KS_TRY(read_normalizer(t, item, depth + 1, err));
done:
    return st;
}

/* -------------------------------------------------------------- pre-tokenizer
 */

static ks_status read_behavior(const ks_tokenizer *t, json_t *object,
                               ks_behavior otherwise, ks_behavior *out,
                               ks_err *err) {
    const char *name;
    size_t n;
    ks_status st = get_text(t, object, "behavior", &name, &n, err);
    if (st != KS_OK) return st;
    *out = otherwise;
    if (n == 0) return KS_OK;
    for (int b = KS_REMOVED; b <= KS_CONTIGUOUS; b++)
        if (strcmp(name, ks_behavior_name((ks_behavior)b)) == 0) {
            *out = (ks_behavior)b;
            return KS_OK;
        }
    return ks_fail(err, KS_UNSUPPORTED, "%s: behavior \"%.60s\" is not known",
                   t->path, name);
}

static ks_status read_split(ks_tokenizer *t, json_t *object, ks_err *err) {
    ks_status st = KS_OK;
    const char *text = "";
    size_t n = 0;
    bool literal = false, invert = false;
    ks_behavior behavior;
    KS_TRY(get_pattern(t, object, &text, &n, &literal, err));
    KS_TRY(read_behavior(t, object, KS_REMOVED, &behavior, err));
    KS_TRY(get_bool(t, object, "invert", false, &invert, err));
    /* two ways to say it where matches cover the text: one hash */
    if (invert && behavior == KS_REMOVED && !literal &&
        ks_pattern_is_total(text)) {
        invert = false;
        behavior = KS_ISOLATED;
    }
    KS_TRY(ks__tokenizer_put_step(t, text, n, literal, behavior, invert, err));
done:
    return st;
}

static ks_status read_byte_level(ks_tokenizer *t, json_t *object, ks_err *err) {
    ks_status st = KS_OK;
    bool space = false, regex = false;
    KS_TRY(get_bool(t, object, "add_prefix_space", true, &space, err));
    KS_TRY(get_bool(t, object, "use_regex", true, &regex, err));
    if (space)
        KS_TRY(
            ks__tokenizer_put_step(t, NULL, 0, false, KS_ISOLATED, false, err));
    if (regex)
        KS_TRY(ks__tokenizer_put_step(t, ks_pattern_gpt2,
                                      strlen(ks_pattern_gpt2), false,
                                      KS_ISOLATED, false, err));
done:
    return st;
}

static ks_status read_step(ks_tokenizer *t, json_t *object, const char *type,
                           ks_err *err) {
    ks_status st = KS_OK;
    bool individual = false;
    ks_behavior behavior;
    const char *pattern = NULL;
    if (strcmp(type, "Split") == 0) return read_split(t, object, err);
    if (strcmp(type, "Digits") == 0) {
        KS_TRY(
            get_bool(t, object, "individual_digits", false, &individual, err));
        pattern = individual ? "\\p{N}" : "\\p{N}+";
        behavior = KS_ISOLATED;
    } else if (strcmp(type, "Punctuation") == 0) {
        KS_TRY(read_behavior(t, object, KS_ISOLATED, &behavior, err));
        pattern = "[!-/:-@\\[-`{-~\\p{P}]";
    } else if (strcmp(type, "WhitespaceSplit") == 0) {
        pattern = "\\s";
        behavior = KS_REMOVED;
    }
    KS_CHECK(pattern, KS_UNSUPPORTED,
             "%s: pre-tokenizer \"%.60s\" is not supported", t->path, type);
    KS_TRY(ks__tokenizer_put_step(t, pattern, strlen(pattern), false, behavior,
                                  false, err));
done:
    return st;
}

/* *bytes: a ByteLevel came; what follows it would see its alphabet. */
static ks_status read_pretokenizer(ks_tokenizer *t, json_t *object, int depth,
                                   bool *bytes, ks_err *err) {
    ks_status st = KS_OK;
    const char *type;
    if (!object) return KS_OK;
    KS_TRY(get_type(t, object, "pre_tokenizer", &type, err));
    if (strcmp(type, "Sequence") != 0) {
        KS_CHECK(!*bytes, KS_UNSUPPORTED,
                 "%s: pre-tokenizer \"%.60s\" after ByteLevel is not supported",
                 t->path, type);
        *bytes = strcmp(type, "ByteLevel") == 0;
        return *bytes ? read_byte_level(t, object, err)
                      : read_step(t, object, type, err);
    }
    json_t *list = member(object, "pretokenizers"), *item;
    if (!json_is_array(list))
        return wrong_type(t, "pretokenizers", "a list", err);
    KS_CHECK(depth < NESTING, KS_LIMIT,
             "%s: pre-tokenizers are nested deeper than %d", t->path, NESTING);
    size_t i;
    json_array_foreach(list, i, item)
        KS_TRY(read_pretokenizer(t, item, depth + 1, bytes, err));
done:
    return st;
}

/* --------------------------------------------------------------------- model
 */

static ks_status read_merges(ks_tokenizer *t, json_t *merges, ks_err *err) {
    ks_status st = KS_OK;
    size_t i;
    json_t *m;
    if (!json_is_array(merges)) return wrong_type(t, "merges", "a list", err);
    json_array_foreach(merges, i, m) {
        json_t *left = json_array_get(m, 0), *right = json_array_get(m, 1);
        if (json_is_string(m)) {
            KS_TRY(ks__tokenizer_put_merge_line(t, json_string_value(m),
                                                json_string_length(m), err));
            continue;
        }
        KS_CHECK(json_array_size(m) == 2 && json_is_string(left) &&
                     json_is_string(right),
                 KS_FORMAT,
                 "%s: merge %zu is neither a string nor a pair of strings",
                 t->path, i);
        KS_TRY(ks__tokenizer_put_merge(
            t, json_string_value(left), json_string_length(left),
            json_string_value(right), json_string_length(right), err));
    }
done:
    return st;
}

static ks_status read_vocab(ks_tokenizer *t, json_t *vocab, ks_err *err) {
    ks_status st = KS_OK;
    const char *name;
    json_t *id;
    if (!json_is_object(vocab)) return wrong_type(t, "vocab", "an object", err);
    json_object_foreach(vocab, name, id) {
        KS_CHECK(json_is_integer(id), KS_FORMAT,
                 "%s: the id of token \"%.60s\" is not an integer", t->path,
                 name);
        KS_TRY(ks__tokenizer_put(t, json_integer_value(id), name, strlen(name),
                                 KS_TOKEN_NORMAL, err));
    }
done:
    return st;
}

/* What changes ids and is not done here. */
static ks_status check_model(ks_tokenizer *t, json_t *model, ks_err *err) {
    static const char *const must_be_empty[] = {"continuing_subword_prefix",
                                                "end_of_word_suffix"};
    ks_status st = KS_OK;
    const char *type, *text;
    size_t n;
    bool fallback = false;
    KS_TRY(get_type(t, model, "model", &type, err));
    /* old files leave the type out */
    KS_CHECK(strcmp(type, "BPE") == 0 || (!*type && member(model, "merges")),
             KS_UNSUPPORTED,
             "%s: model type \"%.60s\" is not supported, only BPE", t->path,
             type);
    for (size_t i = 0; i < KS_COUNT(must_be_empty); i++) {
        KS_TRY(get_text(t, model, must_be_empty[i], &text, &n, err));
        KS_CHECK(n == 0, KS_UNSUPPORTED,
                 "%s: %s \"%.60s\" is not "
                 "supported",
                 t->path, must_be_empty[i], text);
    }
    json_t *dropout = member(model, "dropout");
    if (dropout && !json_is_number(dropout))
        return wrong_type(t, "dropout", "a number", err);
    KS_CHECK(!dropout || json_number_value(dropout) == 0, KS_UNSUPPORTED,
             "%s: dropout makes ids random and is not supported", t->path);
    KS_TRY(get_bool(t, model, "byte_fallback", false, &fallback, err));
    KS_TRY(get_bool(t, model, "ignore_merges", false, &t->ignore_merges, err));
    KS_TRY(get_text(t, model, "unk_token", &text, &n, err));
    t->needs_bytes = fallback || n > 0;
done:
    return st;
}

static ks_status read_added(ks_tokenizer *t, json_t *object, ks_err *err) {
    ks_status st = KS_OK;
    ks_added added = {0};
    const char *text;
    size_t n;
    int64_t id;
    bool special = false;
    if (!json_is_object(object))
        return wrong_type(t, "added_tokens", "a list of objects", err);
    KS_TRY(ks_json_int(object, "id", t->path, 0, KS_TOKEN_LIMIT - 1, &id, err));
    KS_TRY(ks_json_string(object, "content", t->path, &text, &n, err));
    if (n == 0) return KS_OK; /* as `tokenizers` does */
    KS_TRY(get_bool(t, object, "special", false, &special, err));
    KS_TRY(get_bool(t, object, "lstrip", false, &added.lstrip, err));
    KS_TRY(get_bool(t, object, "rstrip", false, &added.rstrip, err));
    KS_TRY(get_bool(t, object, "single_word", false, &added.single_word, err));
    KS_TRY(get_bool(t, object, "normalized", !special, &added.normalized, err));
    added.id = (int32_t)id;
    KS_TRY(ks_str_add(&added.content, text, n, err));
    KS_TRY(ks__tokenizer_put_added(t, &added, err));
done:
    ks_str_free(&added.content);
    return st;
}

/* ------------------------------------------------------------- BOS or not BOS
 */

/* Whether the template of a text begins with a special token, and its id. */
static void read_template(ks_tokenizer *t, json_t *object) {
    json_t *first = json_array_get(member(object, "single"), 0);
    json_t *name = member(member(first, "SpecialToken"), "id");
    if (!json_is_string(name)) return;
    json_t *token =
        member(member(object, "special_tokens"), json_string_value(name));
    json_t *id = json_array_get(member(token, "ids"), 0);
    int64_t value = json_is_integer(id) ? json_integer_value(id) : -1;
    if (value < 0 || value >= (int64_t)t->n_tokens) return;
    t->bos = (int32_t)value;
    t->wants_bos = true;
}

static void read_postprocessor(ks_tokenizer *t, json_t *object, int depth) {
    json_t *type = member(object, "type"), *item;
    if (!json_is_string(type) || depth > NESTING) return;
    if (strcmp(json_string_value(type), "TemplateProcessing") == 0)
        read_template(t, object);
    size_t i;
    json_array_foreach(member(object, "processors"), i, item)
        read_postprocessor(t, item, depth + 1);
}

static ks_status load(json_t **out, const char *path, ks_err *err) {
    char *text = NULL;
    size_t n;
    json_error_t reason;
    ks_status st = ks_read_file(path, KS_MOST_CONFIG, &text, &n, err);
    if (st != KS_OK) return st;
    *out = ks_json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL,
                         &reason);
    free(text);
    if (!*out)
        return ks_fail(err, KS_FORMAT, "%s line %d column %d: %s", path,
                       reason.line, reason.column, reason.text);
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return ks_fail(err, KS_FORMAT, "%s: expected a JSON object", path);
    }
    return KS_OK;
}

/* Where the token's text may be an object with "content". */
static ks_status find_bos(ks_tokenizer *t, json_t *bos, const char *path,
                          ks_err *err) {
    if (json_is_object(bos)) bos = member(bos, "content");
    if (!json_is_string(bos))
        return ks_fail(err, KS_FORMAT, "%s: \"bos_token\" is not a string",
                       path);
    t->bos = ks_dict_find(&t->names, json_string_value(bos),
                          json_string_length(bos));
    if (t->bos < 0)
        return ks_fail(err, KS_FORMAT,
                       "%s: the BOS \"%.60s\" is not in the vocabulary of '%s'",
                       path, json_string_value(bos), t->path);
    return KS_OK;
}

ks_status ks__tokenizer_read_config(ks_tokenizer *t, const char *path,
                                    ks_err *err) {
    ks_status st = KS_OK;
    json_t *config = NULL;
    char *dir = NULL, *file = NULL;
    const char *slash = strrchr(path, '/');
    dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    KS_CHECK(dir, KS_NOMEM, "no memory for the path of '%s'", path);
    KS_TRY(ks_path_join(&file, dir, "tokenizer_config.json", err));
    if (!ks_file_exists(file)) goto done;
    KS_TRY(load(&config, file, err));
    json_t *bos = member(config, "bos_token");
    if (bos) KS_TRY(find_bos(t, bos, file, err));
    json_t *wants = member(config, "add_bos_token");
    KS_CHECK(!wants || json_is_boolean(wants), KS_FORMAT,
             "%s: \"add_bos_token\" is not true or false", file);
    if (wants) t->wants_bos = json_is_true(wants);
done:
    json_decref(config);
    free(dir);
    free(file);
    return st;
}

static ks_status read_parts(ks_tokenizer *t, json_t *root, ks_err *err) {
    ks_status st = KS_OK;
    json_t *model = member(root, "model"), *item;
    json_t *added = member(root, "added_tokens");
    bool bytes = false;
    size_t i;
    KS_CHECK(model, KS_FORMAT, "%s: no \"model\": not a tokenizer.json",
             t->path);
    KS_TRY(check_model(t, model, err));
    KS_TRY(read_normalizer(t, member(root, "normalizer"), 0, err));
    KS_TRY(read_pretokenizer(t, member(root, "pre_tokenizer"), 0, &bytes, err));
    KS_CHECK(bytes, KS_UNSUPPORTED,
             "%s: no ByteLevel pre-tokenizer; only byte-level BPE is supported",
             t->path);
    KS_TRY(read_vocab(t, json_object_get(model, "vocab"), err));
    if (added && !json_is_array(added))
        return wrong_type(t, "added_tokens", "a list", err);
    json_array_foreach(added, i, item) KS_TRY(read_added(t, item, err));
    KS_TRY(read_merges(t, json_object_get(model, "merges"), err));
    read_postprocessor(t, member(root, "post_processor"), 0);
done:
    return st;
}

ks_status ks__tokenizer_read_json(ks_tokenizer *t, const char *path,
                                  ks_err *err) {
    json_t *root = NULL;
    ks_status st = load(&root, path, err);
    if (st == KS_OK) st = read_parts(t, root, err);
    json_decref(root);
    return st;
}
