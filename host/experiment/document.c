/* document.c - see document.h: the tree and its values. */
#include "document.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void ks_doc_free(ks_doc *doc) {
    for (size_t i = 0; i < doc->n; i++) ks_doc_free(&doc->items[i]);
    free(doc->items);
    free(doc->key);
    free(doc->text);
    *doc = (ks_doc){0};
}

static ks_status copy_text(char **out, const char *from, ks_err *err) {
    if (!from) return KS_OK;
    *out = strdup(from);
    return *out ? KS_OK : ks_fail(err, KS_NOMEM, "out of memory for a setting");
}

ks_status ks_doc_copy(ks_doc *out, const ks_doc *from, ks_err *err) {
    ks_status st = KS_OK;
    *out = (ks_doc){.kind = from->kind,
                    .plain = from->plain,
                    .file = from->file,
                    .line = from->line};
    KS_TRY(copy_text(&out->key, from->key, err));
    KS_TRY(copy_text(&out->text, from->text, err));
    if (from->n)
        KS_TRY(ks_grow(&out->items, &out->capacity, from->n, sizeof *out->items,
                       "settings", err));
    for (; out->n < from->n; out->n++)
        KS_TRY(ks_doc_copy(&out->items[out->n], &from->items[out->n], err));
done:
    if (st != KS_OK) ks_doc_free(out);
    return st;
}

/* --------------------------------------------------------------- the tree */

static char folded(char c) {
    return c == '_' ? '-' : c;
}

bool ks_doc_same_key(const char *a, const char *b) {
    while (*a && folded(*a) == folded(*b)) a++, b++;
    return folded(*a) == folded(*b);
}

ks_doc *ks_doc_find(const ks_doc *doc, const char *key) {
    if (!doc || doc->kind != KS_DOC_MAP) return NULL;
    for (size_t i = 0; i < doc->n; i++)
        if (ks_doc_same_key(doc->items[i].key, key)) return &doc->items[i];
    return NULL;
}

/* The item of a list that `name` or its number from 1 means. */
static ks_doc *find_item(const ks_doc *list, const char *name) {
    for (size_t i = 0; i < list->n; i++) {
        const ks_doc *of = ks_doc_find(&list->items[i], "name");
        if (of && of->kind == KS_DOC_TEXT && strcmp(of->text, name) == 0)
            return &list->items[i];
    }
    char *end;
    unsigned long at = strtoul(name, &end, 10);
    bool number = *name >= '0' && *name <= '9' && !*end;
    return number && at >= 1 && at <= list->n ? &list->items[at - 1] : NULL;
}

static ks_status add_member(ks_doc *map, const char *key, const ks_doc *place,
                            ks_doc **out, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_grow(&map->items, &map->capacity, map->n + 1, sizeof *map->items,
                   "settings", err));
    ks_doc *made = &map->items[map->n];
    *made =
        (ks_doc){.kind = KS_DOC_MAP, .file = place->file, .line = place->line};
    KS_TRY(copy_text(&made->key, key, err));
    map->n++;
    *out = made;
done:
    return st;
}

/* What `name` means in `at`; a member that a mapping lacks is made. */
static ks_status step_into(ks_doc **at, const char *name, const ks_doc *place,
                           const char *path, ks_err *err) {
    ks_status st = KS_OK;
    ks_doc *next = NULL;
    bool nothing = ks_doc_is_none(*at);
    if (nothing) {
        free((*at)->text);
        (*at)->text = NULL;
        (*at)->kind = KS_DOC_MAP;
    }
    KS_CHECK((*at)->kind != KS_DOC_TEXT, KS_USAGE,
             "%s: nothing can be set at '%s': what stands there is a value",
             ks_doc_where(place).text, name);
    if ((*at)->kind == KS_DOC_LIST) {
        next = find_item(*at, name);
        KS_CHECK(next, KS_USAGE,
                 "%s: the list has no item of name or number '%s' (path %s)",
                 ks_doc_where(place).text, name, path);
    } else {
        next = ks_doc_find(*at, name);
        if (!next) KS_TRY(add_member(*at, name, place, &next, err));
    }
    *at = next;
done:
    return st;
}

ks_status ks_doc_set(ks_doc *root, const char *path, ks_doc *value,
                     ks_err *err) {
    ks_status st = KS_OK;
    char *copy = strdup(path), *rest = copy;
    ks_doc *at = root;
    KS_CHECK(copy, KS_NOMEM, "out of memory for a setting");
    for (char *name; (name = strsep(&rest, ".")) != NULL;) {
        KS_CHECK(*name, KS_USAGE, "%s: '%s' is no dotted path of keys",
                 ks_doc_where(value).text, path);
        KS_TRY(step_into(&at, name, value, path, err));
    }
    ks_doc old = *at;
    *at = *value;
    at->key = old.key;
    old.key = NULL;
    free(value->key);
    *value = (ks_doc){0};
    ks_doc_free(&old);
done:
    if (st != KS_OK) ks_doc_free(value);
    free(copy);
    return st;
}

/* ----------------------------------------------------------------- values */

ks_doc_place ks_doc_where(const ks_doc *doc) {
    ks_doc_place place;
    if (doc->line)
        snprintf(place.text, sizeof place.text, "%s line %zu", doc->file,
                 doc->line);
    else
        snprintf(place.text, sizeof place.text, "%s",
                 doc->file ? doc->file : "settings");
    return place;
}

/* On one line; in quotes it is a text whatever it looks like. */
static void name_text(const ks_doc *doc, ks_doc_place *what) {
    bool truth;
    double real;
    ks_doc bare = {.kind = KS_DOC_TEXT, .plain = true, .text = doc->text};
    bool looks = !doc->plain &&
                 (ks_doc_real(&bare, &real) || ks_doc_truth(&bare, &truth));
    snprintf(what->text, sizeof what->text, "%s'%.*s'%s",
             looks ? "the text " : "", 60, doc->text,
             strlen(doc->text) > 60 ? ".." : "");
    for (char *c = what->text; *c; c++)
        if (*c == '\n' || *c == '\r' || *c == '\t') *c = ' ';
}

ks_doc_place ks_doc_what(const ks_doc *doc) {
    ks_doc_place what;
    if (doc->kind == KS_DOC_LIST)
        snprintf(what.text, sizeof what.text,
                 doc->n ? "a list" : "an empty list");
    else if (doc->kind == KS_DOC_MAP)
        snprintf(what.text, sizeof what.text, "a mapping");
    else if (ks_doc_is_none(doc))
        snprintf(what.text, sizeof what.text, "nothing");
    else
        name_text(doc, &what);
    return what;
}

bool ks_doc_is_none(const ks_doc *doc) {
    return doc->kind == KS_DOC_TEXT && doc->plain &&
           (!*doc->text || strcmp(doc->text, "~") == 0 ||
            strcasecmp(doc->text, "null") == 0);
}

bool ks_doc_truth(const ks_doc *doc, bool *out) {
    static const char *const words[] = {"false", "true", "no",
                                        "yes",   "off",  "on"};
    if (doc->kind != KS_DOC_TEXT || !doc->plain) return false;
    for (size_t i = 0; i < KS_COUNT(words); i++)
        if (strcasecmp(doc->text, words[i]) == 0) {
            *out = i % 2;
            return true;
        }
    return false;
}

bool ks_doc_whole(const ks_doc *doc, int64_t *out) {
    if (doc->kind != KS_DOC_TEXT || !doc->plain) return false;
    return ks_whole(doc->text, out);
}

bool ks_doc_real(const ks_doc *doc, double *out) {
    if (doc->kind != KS_DOC_TEXT || !doc->plain) return false;
    const char *t = doc->text;
    char *end;
    double value = strtod(t, &end);
    if (strspn(t, "+-0123456789.eE") != strlen(t) || end == t || *end ||
        !isfinite(value))
        return false;
    *out = value;
    return true;
}

static json_t *scalar_json(const ks_doc *doc) {
    bool truth;
    int64_t whole;
    double real;
    if (ks_doc_is_none(doc)) return json_null();
    if (ks_doc_truth(doc, &truth)) return json_boolean(truth);
    if (ks_doc_whole(doc, &whole)) return json_integer(whole);
    if (ks_doc_real(doc, &real)) return json_real(real);
    return json_string(doc->text);
}

json_t *ks_doc_json(const ks_doc *doc) {
    if (doc->kind == KS_DOC_TEXT) return scalar_json(doc);
    bool map = doc->kind == KS_DOC_MAP;
    json_t *all = map ? json_object() : json_array();
    for (size_t i = 0; all && i < doc->n; i++) {
        const ks_doc *item = &doc->items[i];
        json_t *value = ks_doc_json(item);
        int bad = map ? json_object_set_new(all, item->key, value)
                      : json_array_append_new(all, value);
        if (!bad) continue;
        json_decref(all);
        all = NULL;
    }
    return all;
}
