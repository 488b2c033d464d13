/* experiment_check.c - what an experiment may say, checked for each cell. */
#include <string.h>

#include "experiment.h"
#include "slurm.h"

enum { MOST_NAME = 64 };

ks_status ks__exp_check_name(const ks_doc *at, const char *name,
                             const char *what, ks_err *err) {
    ks_status st = KS_OK;
    ks_doc_place place = ks_doc_where(at);
    KS_CHECK(*name && strlen(name) <= MOST_NAME, KS_USAGE,
             "%s: %s: expected 1 to %d bytes, found '%.80s'", place.text, what,
             MOST_NAME, name);
    KS_CHECK(!strpbrk(name, "=\n\r\t"), KS_USAGE,
             "%s: %s has a character that names cannot have (=, a tab, a "
             "line's end)",
             place.text, what);
done:
    return st;
}

/* ---------------------------------------------------------- single values */

static ks_status expect_text(const ks_doc *item, const char *path,
                             const char *what, ks_err *err) {
    if (item->kind == KS_DOC_TEXT && !ks_doc_is_none(item) && *item->text)
        return KS_OK;
    return ks_fail(err, KS_USAGE, "%s: %s: expected %s, found %s",
                   ks_doc_where(item).text, path, what, ks_doc_what(item).text);
}

static ks_status expect_whole(const ks_doc *item, const char *path, int64_t low,
                              int64_t high, ks_err *err) {
    int64_t value;
    if (ks_doc_whole(item, &value) && value >= low && value <= high)
        return KS_OK;
    return ks_fail(err, KS_USAGE,
                   "%s: %s: expected a whole number from %lld to %lld, found "
                   "%s",
                   ks_doc_where(item).text, path, (long long)low,
                   (long long)high, ks_doc_what(item).text);
}

static ks_status expect_map(const ks_doc *item, const char *path, ks_err *err) {
    if (item->kind == KS_DOC_MAP || ks_doc_is_none(item)) return KS_OK;
    return ks_fail(err, KS_USAGE, "%s: %s: expected a mapping, found %s",
                   ks_doc_where(item).text, path, ks_doc_what(item).text);
}

/* -------------------------------------------------------- machine, launch */

static const char *const machine_keys[] = {"backend", "threads", "memory",
                                           "batch-tokens"};

static ks_status check_machine(const ks_exp *e, const ks_doc *map,
                               const char *path, bool whole, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(expect_map(map, path, err));
    for (size_t i = 0; i < map->n; i++) {
        const ks_doc *item = &map->items[i];
        char at[96];
        snprintf(at, sizeof at, "%s.%.40s", path, item->key);
        if (ks_doc_same_key(item->key, "threads") ||
            ks_doc_same_key(item->key, "batch-tokens"))
            KS_TRY(expect_whole(item, at, 1, 1 << 24, err));
        else if (ks_doc_same_key(item->key, "backend") ||
                 ks_doc_same_key(item->key, "memory"))
            KS_TRY(expect_text(item, at, "a text", err));
        else if (whole && ks_section_find(e->sections, item->key))
            KS_TRY(check_machine(e, item, at, false, err));
        else
            return ks_unknown_key(item, path, machine_keys,
                                  KS_COUNT(machine_keys), err);
    }
done:
    return st;
}

/* Options of sbatch, for all jobs or, in a mapping, for those of one kind. */
static ks_status check_slurm(const ks_doc *map, ks_err *err) {
    ks_status st = KS_OK;
    ks_slurm_options options = {0};
    json_t *mapping = NULL;
    KS_TRY(expect_map(map, "launch.slurm", err));
    mapping = ks_doc_json(map);
    KS_CHECK(mapping, KS_NOMEM, "out of memory for launch.slurm");
    KS_TRY(ks_slurm_from_json(&options, mapping, ks_doc_where(map).text, err));
done:
    json_decref(mapping);
    ks_slurm_free(&options);
    return st;
}

static ks_status check_launch(const ks_doc *map, ks_err *err) {
    static const char *const keys[] = {"ranks", "retries", "scratch", "slurm"};
    ks_status st = KS_OK;
    KS_TRY(expect_map(map, "launch", err));
    for (size_t i = 0; i < map->n; i++) {
        const ks_doc *item = &map->items[i];
        if (strcmp(item->key, "ranks") == 0) {
            KS_TRY(expect_whole(item, "launch.ranks", 1, 4096, err));
        } else if (strcmp(item->key, "retries") == 0) {
            KS_TRY(expect_whole(item, "launch.retries", 0, 100, err));
        } else if (strcmp(item->key, "scratch") == 0) {
            KS_TRY(expect_text(item, "launch.scratch", "a path", err));
        } else if (strcmp(item->key, "slurm") == 0) {
            KS_TRY(check_slurm(item, err));
        } else {
            return ks_unknown_key(item, "launch", keys, KS_COUNT(keys), err);
        }
    }
done:
    return st;
}

/* -------------------------------------------------------------- baselines */

static const char *const sources[] = {"capture", "score", "acts", "scores"};

static ks_status check_baseline(const ks_exp *e, const ks_doc *b,
                                const char *path, ks_err *err) {
    static const char *const keys[] = {"name",   "capture", "score",   "acts",
                                       "scores", "field",   "optional"};
    ks_status st = KS_OK;
    size_t given = 0;
    bool truth;
    char at[160];
    for (size_t i = 0; i < KS_COUNT(sources); i++)
        given += ks_doc_find(b, sources[i]) != NULL;
    KS_CHECK(given == 1, KS_USAGE,
             "%s: %s: expected one of capture, score, acts, scores, found %s",
             ks_doc_where(b).text, path, given ? "several" : "none");
    for (size_t i = 0; i < b->n; i++) {
        const ks_doc *item = &b->items[i];
        const char *key = item->key;
        snprintf(at, sizeof at, "%.100s.%.40s", path, key);
        if (strcmp(key, "capture") == 0 || strcmp(key, "score") == 0)
            KS_TRY(ks_section_check(ks_section_find(e->sections, key), item, at,
                                    NULL, err));
        else if (strcmp(key, "acts") == 0 || strcmp(key, "scores") == 0)
            KS_TRY(expect_text(item, at, "a file", err));
        else if (strcmp(key, "field") == 0)
            KS_TRY(expect_text(item, at, "a score's name", err));
        else if (strcmp(key, "optional") == 0)
            KS_CHECK(ks_doc_truth(item, &truth), KS_USAGE,
                     "%s: %s: expected true or false, found %s",
                     ks_doc_where(item).text, at, ks_doc_what(item).text);
        else if (strcmp(key, "name") != 0)
            return ks_unknown_key(item, path, keys, KS_COUNT(keys), err);
    }
    const ks_doc *field = ks_doc_find(b, "field");
    KS_CHECK(!field || ks_doc_find(b, "score") || ks_doc_find(b, "scores"),
             KS_USAGE, "%s: %s.field goes with score or scores",
             ks_doc_where(field).text, path);
    const ks_doc *optional = ks_doc_find(b, "optional");
    KS_CHECK(!optional || ks_doc_find(b, "acts") || ks_doc_find(b, "scores"),
             KS_USAGE, "%s: %s.optional goes with acts or scores",
             ks_doc_where(optional).text, path);
done:
    return st;
}

static const ks_doc *find_named(const ks_doc *list, const char *name) {
    for (size_t i = 0; list && i < list->n; i++) {
        const char *own = ks_exp_text(&list->items[i], "name");
        if (own && strcmp(own, name) == 0) return &list->items[i];
    }
    return NULL;
}

/* Items of a list have names of their own; one may go without where `unnamed`.
 */
static ks_status check_names(const ks_doc *list, const char *path, bool unnamed,
                             ks_err *err) {
    ks_status st = KS_OK;
    size_t without = 0;
    for (size_t i = 0; i < list->n; i++) {
        const ks_doc *item = &list->items[i];
        KS_TRY(expect_map(item, path, err));
        const ks_doc *name = ks_doc_find(item, "name");
        without += !name;
        KS_CHECK(name || (unnamed && without < 2), KS_USAGE,
                 "%s: %s: item %zu has no name", ks_doc_where(item).text, path,
                 i + 1);
        if (!name) continue;
        KS_TRY(expect_text(name, "name", "a text", err));
        KS_TRY(ks__exp_check_name(name, name->text, "name", err));
        KS_CHECK(find_named(list, name->text) == item, KS_USAGE,
                 "%s: %s: two items are named '%s'", ks_doc_where(name).text,
                 path, name->text);
    }
done:
    return st;
}

static ks_status check_baselines(const ks_exp *e, const ks_doc *list,
                                 ks_err *err) {
    ks_status st = KS_OK;
    char path[128];
    if (ks_doc_is_none(list)) return KS_OK;
    KS_CHECK(list->kind == KS_DOC_LIST, KS_USAGE,
             "%s: baselines: expected a list, found %s",
             ks_doc_where(list).text, ks_doc_what(list).text);
    KS_TRY(check_names(list, "baselines", false, err));
    for (size_t i = 0; i < list->n; i++) {
        snprintf(path, sizeof path, "baselines.%s",
                 ks_exp_text(&list->items[i], "name"));
        KS_TRY(check_baseline(e, &list->items[i], path, err));
    }
done:
    return st;
}

/* ------------------------------------------------------------------ probe */

static ks_status check_probe(const ks_exp *e, const ks_exp_cell *cell,
                             const ks_doc *probe, ks_err *err) {
    static const char *const more[] = {"name", "baselines", NULL};
    ks_status st = KS_OK;
    char path[128];
    const char *name = ks_exp_text(probe, "name");
    const ks_doc *wanted = ks_doc_find(probe, "baselines");
    const ks_doc *all = ks_doc_find(&cell->root, "baselines");
    snprintf(path, sizeof path, "probe%s%s", name ? "." : "", name ? name : "");
    KS_TRY(ks_section_check(ks_section_find(e->sections, "probe"), probe, path,
                            more, err));
    if (!wanted || ks_doc_is_none(wanted)) return KS_OK;
    KS_CHECK(wanted->kind == KS_DOC_LIST, KS_USAGE,
             "%s: %s.baselines: expected a list of names of baselines (empty: "
             "none), found %s",
             ks_doc_where(wanted).text, path, ks_doc_what(wanted).text);
    for (size_t i = 0; i < wanted->n; i++) {
        const ks_doc *one = &wanted->items[i];
        KS_TRY(expect_text(one, path, "a baseline's name", err));
        KS_CHECK(find_named(all, one->text), KS_USAGE,
                 "%s: %s.baselines: no baseline is named '%s'",
                 ks_doc_where(one).text, path, one->text);
    }
done:
    return st;
}

static ks_status check_probes(const ks_exp *e, const ks_exp_cell *cell,
                              ks_err *err) {
    ks_status st = KS_OK;
    const ks_doc *all = ks_doc_find(&cell->root, "probe"), *one;
    if (all && all->kind == KS_DOC_LIST)
        KS_TRY(check_names(all, "probe", true, err));
    for (size_t i = 0; (one = ks_exp_probe(cell, i)) != NULL; i++)
        KS_TRY(check_probe(e, cell, one, err));
done:
    return st;
}

/* ------------------------------------------------------------------ whole */

static const char *const keys[] = {
    "name",   "about",    "model",     "tokenizer", "template", "problems",
    "chains", "labels",   "clean",     "acts",      "import",   "generate",
    "split",  "label",    "labels-on", "capture",   "probe",    "baselines",
    "report", "transfer", "machine",   "launch",    "matrix"};

static ks_status check_member(const ks_exp *e, const ks_doc *item,
                              ks_err *err) {
    static const char *const sections[] = {"generate", "split",    "label",
                                           "capture",  "transfer", "report"};
    static const char *const texts[] = {
        "name",      "about",    "model",  "template", "labels",
        "tokenizer", "problems", "chains", "clean",    "acts"};
    static const char *const file[] = {"file", NULL};
    const char *key = item->key;
    for (size_t i = 0; i < KS_COUNT(sections); i++)
        if (strcmp(key, sections[i]) == 0)
            return ks_section_check(ks_section_find(e->sections, key), item,
                                    key, NULL, err);
    for (size_t i = 0; i < KS_COUNT(texts); i++)
        if (strcmp(key, texts[i]) == 0)
            return expect_text(item, key, "a text", err);
    if (strcmp(key, "import") == 0)
        return ks_section_check(ks_section_find(e->sections, key), item, key,
                                file, err);
    if (strcmp(key, "baselines") == 0) return check_baselines(e, item, err);
    if (strcmp(key, "machine") == 0)
        return check_machine(e, item, key, true, err);
    if (strcmp(key, "launch") == 0) return check_launch(item, err);
    if (strcmp(key, "probe") == 0 || strcmp(key, "matrix") == 0) return KS_OK;
    if (ks_doc_same_key(key, "labels-on")) {
        const char *on = item->kind == KS_DOC_TEXT ? item->text : "";
        if (strcmp(on, "clean") == 0 || strcmp(on, "original") == 0)
            return KS_OK;
        return ks_fail(err, KS_USAGE,
                       "%s: labels-on: expected clean or original, found %s",
                       ks_doc_where(item).text, ks_doc_what(item).text);
    }
    return ks_unknown_key(item, "", keys, KS_COUNT(keys), err);
}

/* Sections that would make the same thing. */
static ks_status check_pairs(const ks_exp_cell *cell, ks_err *err) {
    static const struct {
        const char *a, *b, *why;
    } pairs[] = {{"chains", "generate", "both give the chains"},
                 {"chains", "import", "both give the chains"},
                 {"labels", "label", "both give the labels"},
                 {"clean", "label", "both give clean chains"},
                 {"acts", "capture", "both give the activations"}};
    ks_status st = KS_OK;
    for (size_t i = 0; i < KS_COUNT(pairs); i++) {
        const ks_doc *a = ks_doc_find(&cell->root, pairs[i].a);
        const ks_doc *b = ks_doc_find(&cell->root, pairs[i].b);
        KS_CHECK(!a || !b, KS_USAGE, "%s: %s and %s: %s; one has to go",
                 ks_doc_where(b).text, pairs[i].a, pairs[i].b, pairs[i].why);
    }
done:
    return st;
}

ks_status ks__exp_check_cell(const ks_exp *e, const ks_exp_cell *cell,
                             ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < cell->root.n; i++)
        KS_TRY(check_member(e, &cell->root.items[i], err));
    const ks_doc *import = ks_doc_find(&cell->root, "import");
    KS_CHECK(!import || ks_exp_text(import, "file"), KS_USAGE,
             "%s: import.file is missing: what is imported",
             ks_doc_where(import).text);
    KS_TRY(check_pairs(cell, err));
    KS_TRY(check_probes(e, cell, err));
done:
    return st;
}
