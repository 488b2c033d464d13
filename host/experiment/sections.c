/* sections.c - see sections.h. */
#include "sections.h"

#include <stdlib.h>
#include <string.h>

/* What the runner sets itself, what says where and not what, and what belongs
 * to a call of its own. */
static const char *const ours[] = {
    "out",          "force",        "resume",        "json",
    "quiet",        "dry-run",      "model",         "problems",
    "chains",       "labels",       "labels-on",     "clean",
    "acts",         "backend",      "threads",       "memory",
    "shard",        "batch-tokens", "cells",         "need-cells",
    "set",          "prefixes",     "baseline-acts", "baseline-scores",
    "problems-out", "compare",      "skipped"};

const ks_section *ks_section_find(const ks_section *sections,
                                  const char *name) {
    for (; sections->name; sections++)
        if (strcmp(sections->name, name) == 0) return sections;
    return NULL;
}

static bool ends_table(const struct argp_option *o) {
    return !o->name && !o->key && !o->doc && !o->group;
}

static const struct argp_option *find(const ks_section *section,
                                      const char *name) {
    const struct argp_option *o = section->options;
    for (; !ends_table(o); o++)
        if (o->name && ks_doc_same_key(o->name, name)) return o;
    return NULL;
}

bool ks_section_has(const ks_section *section, const char *option) {
    return find(section, option) != NULL;
}

static bool is_ours(const char *name) {
    for (size_t i = 0; i < KS_COUNT(ours); i++)
        if (strcmp(ours[i], name) == 0) return true;
    return false;
}

const struct argp_option *ks_section_setting(const ks_section *section,
                                             const char *key) {
    const struct argp_option *o = find(section, key);
    return o && !is_ours(o->name) ? o : NULL;
}

/* --------------------------------------------------------------- the types */

/* "full|none": small words and bars alone. */
static bool is_choice(const char *arg) {
    return strchr(arg, '|') &&
           strspn(arg, "abcdefghijklmnopqrstuvwxyz0123456789-|") == strlen(arg);
}

ks_setting_kind ks_setting_kind_of(const struct argp_option *option) {
    static const struct {
        const char *arg;
        ks_setting_kind kind;
    } known[] = {{"N", KS_SETTING_WHOLE},     {"K", KS_SETTING_WHOLE},
                 {"SEED", KS_SETTING_WHOLE},  {"X", KS_SETTING_NUMBER},
                 {"LIST", KS_SETTING_LIST},   {"SCORE,..", KS_SETTING_LIST},
                 {"FILE", KS_SETTING_PATH},   {"PATH", KS_SETTING_PATH},
                 {"FOLDER", KS_SETTING_PATH}, {"", KS_SETTING_TEXT}};
    if (!option->arg) return KS_SETTING_TRUTH;
    if (option->flags & OPTION_ARG_OPTIONAL) return KS_SETTING_TRUTH_OR_LIST;
    if (is_choice(option->arg)) return KS_SETTING_CHOICE;
    for (size_t i = 0; i < KS_COUNT(known); i++)
        if (strcmp(option->arg, known[i].arg) == 0) return known[i].kind;
    return KS_SETTING_TEXT;
}

const char *ks_setting_expected(ks_setting_kind kind) {
    static const char *const words[] = {
        [KS_SETTING_TRUTH] = "true or false",
        [KS_SETTING_WHOLE] = "a whole number",
        [KS_SETTING_NUMBER] = "a number",
        [KS_SETTING_CHOICE] = "one of the words",
        [KS_SETTING_LIST] = "a list, or its items with commas",
        [KS_SETTING_TRUTH_OR_LIST] = "true, false or a list",
        [KS_SETTING_PATH] = "a path",
        [KS_SETTING_TEXT] = "a text"};
    return words[kind];
}

static bool is_list_of_texts(const ks_doc *value) {
    bool good = value->kind == KS_DOC_LIST && value->n > 0;
    for (size_t i = 0; good && i < value->n; i++)
        good = value->items[i].kind == KS_DOC_TEXT &&
               !ks_doc_is_none(&value->items[i]);
    return good;
}

static bool is_among(const char *words, const char *word) {
    size_t n = strlen(word);
    for (const char *at = words; n && at; at = strchr(at, '|')) {
        at += *at == '|';
        if (strcspn(at, "|") == n && strncmp(at, word, n) == 0) return true;
    }
    return false;
}

static bool fits(const ks_doc *value, ks_setting_kind kind, const char *arg) {
    bool truth, text = value->kind == KS_DOC_TEXT && !ks_doc_is_none(value);
    int64_t whole;
    double real;
    switch (kind) {
    case KS_SETTING_TRUTH:
        return ks_doc_truth(value, &truth);
    case KS_SETTING_WHOLE:
        return ks_doc_whole(value, &whole);
    case KS_SETTING_NUMBER:
        return ks_doc_real(value, &real);
    case KS_SETTING_CHOICE:
        return text && is_among(arg, value->text);
    case KS_SETTING_LIST:
    case KS_SETTING_TRUTH_OR_LIST:
        return text || is_list_of_texts(value);
    case KS_SETTING_PATH:
        return text && *value->text;
    case KS_SETTING_TEXT:
        return text;
    }
    return false;
}

/* --------------------------------------------------------------- the checks */

static size_t distance(const char *a, const char *b) {
    enum { MOST = 40 };
    size_t n = strlen(a), m = strlen(b);
    size_t d[MOST + 1][MOST + 1];
    if (n > MOST || m > MOST) return MOST;
    for (size_t i = 0; i <= n; i++) d[i][0] = i;
    for (size_t k = 0; k <= m; k++) d[0][k] = k;
    for (size_t i = 1; i <= n; i++)
        for (size_t k = 1; k <= m; k++) {
            size_t changed = d[i - 1][k - 1] + (a[i - 1] != b[k - 1]);
            size_t moved = KS_MIN(d[i - 1][k], d[i][k - 1]) + 1;
            d[i][k] = KS_MIN(changed, moved);
            if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1])
                d[i][k] = KS_MIN(d[i][k], d[i - 2][k - 2] + 1);
        }
    return d[n][m];
}

const char *ks_nearest(const char *word, const char *const *names, size_t n) {
    const char *best = NULL;
    size_t least = strlen(word) / 3 + 2;
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(word, names[i]);
        if (d < least) best = names[i], least = d;
    }
    return best;
}

ks_status ks_unknown_key(const ks_doc *item, const char *path,
                         const char *const *names, size_t n, ks_err *err) {
    const char *near = ks_nearest(item->key, names, n);
    ks_doc_place at = ks_doc_where(item);
    const char *dot = *path ? "." : "";
    if (near)
        return ks_fail(err, KS_USAGE,
                       "%s: %s%s%.60s: there is no such key; did you mean %s?",
                       at.text, path, dot, item->key, near);
    return ks_fail(err, KS_USAGE,
                   "%s: %s%s%.60s: there is no such key ('keystep run "
                   "--reference' lists them)",
                   at.text, path, dot, item->key);
}

static ks_status unknown(const ks_section *section, const ks_doc *item,
                         const char *path, const char *const *more,
                         ks_err *err) {
    enum { MOST = 64 };
    const char *names[MOST];
    size_t n = 0;
    const struct argp_option *o = section->options;
    const struct argp_option *known = find(section, item->key);
    if (known)
        return ks_fail(err, KS_USAGE,
                       "%s: %s.%s: --%s is not set in this section: files, "
                       "outputs and the machine are the run's own",
                       ks_doc_where(item).text, path, item->key, known->name);
    for (; !ends_table(o) && n < MOST; o++)
        if (o->name && !is_ours(o->name)) names[n++] = o->name;
    for (; more && *more && n < MOST; more++) names[n++] = *more;
    return ks_unknown_key(item, path, names, n, err);
}

static bool is_one_of(const char *key, const char *const *more) {
    for (; more && *more; more++)
        if (strcmp(*more, key) == 0) return true;
    return false;
}

ks_status ks_section_check(const ks_section *section, const ks_doc *map,
                           const char *path, const char *const *more,
                           ks_err *err) {
    ks_status st = KS_OK;
    if (ks_doc_is_none(map)) return KS_OK;
    KS_CHECK(map->kind == KS_DOC_MAP, KS_USAGE,
             "%s: %s: expected a mapping of options of keystep %s, found %s",
             ks_doc_where(map).text, path, section->name,
             ks_doc_what(map).text);
    for (size_t i = 0; i < map->n; i++) {
        const ks_doc *item = &map->items[i];
        if (is_one_of(item->key, more)) continue;
        const struct argp_option *o = ks_section_setting(section, item->key);
        if (!o) return unknown(section, item, path, more, err);
        ks_setting_kind kind = ks_setting_kind_of(o);
        const char *choice = kind == KS_SETTING_CHOICE ? o->arg : "";
        KS_CHECK(fits(item, kind, o->arg), KS_USAGE,
                 "%s: %s.%s: expected %s%s%s, found %s",
                 ks_doc_where(item).text, path, o->name,
                 ks_setting_expected(kind), *choice ? " " : "", choice,
                 ks_doc_what(item).text);
    }
done:
    return st;
}

/* --------------------------------------------------------------- the values */

ks_status ks_setting_argument(const ks_doc *value, ks_setting_kind kind,
                              ks_str *out, bool *given, ks_err *err) {
    ks_status st = KS_OK;
    int64_t whole;
    *given = true;
    KS_TRY(ks_str_add(out, "", 0, err));
    if (kind == KS_SETTING_WHOLE && ks_doc_whole(value, &whole))
        return ks_str_printf(out, err, "%lld", (long long)whole);
    bool may = kind == KS_SETTING_TRUTH || kind == KS_SETTING_TRUTH_OR_LIST;
    if (may && ks_doc_truth(value, given)) return KS_OK;
    if (value->kind == KS_DOC_TEXT)
        return ks_str_add(out, value->text, strlen(value->text), err);
    for (size_t i = 0; i < value->n; i++)
        KS_TRY(ks_str_printf(out, err, "%s%s", i ? "," : "",
                             value->items[i].text));
done:
    return st;
}

json_t *ks_setting_canonical(const ks_doc *value, ks_setting_kind kind) {
    ks_str text = {0};
    bool given = true;
    int64_t whole;
    double real;
    if (kind == KS_SETTING_WHOLE && ks_doc_whole(value, &whole))
        return json_integer(whole);
    if (kind == KS_SETTING_NUMBER && ks_doc_real(value, &real))
        return json_real(real);
    json_t *made = NULL;
    if (ks_setting_argument(value, kind, &text, &given, NULL) == KS_OK)
        made = text.length ? json_string(text.data) : json_boolean(given);
    /* an empty text, such as `instruction: ""`, is no truth */
    if (made && !text.length && kind != KS_SETTING_TRUTH &&
        kind != KS_SETTING_TRUTH_OR_LIST) {
        json_decref(made);
        made = json_string("");
    }
    ks_str_free(&text);
    return made;
}
