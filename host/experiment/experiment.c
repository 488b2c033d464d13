/* experiment.c - see experiment.h: the file, --set, and the cells of matrix. */
#include "experiment.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CELLS = 1024, MOST_AXES = 8 };

/* ------------------------------------------------------------------- --set */

static void set_place(ks_doc *doc, const char *name) {
    doc->file = name;
    doc->line = 0;
    for (size_t i = 0; i < doc->n; i++) set_place(&doc->items[i], name);
}

static ks_status apply_set(ks_exp *e, const char *set, ks_err *err) {
    ks_status st = KS_OK;
    ks_doc value = {0};
    const char *equals = strchr(set, '=');
    char *path = NULL, **name = &e->set_names[e->n_sets],
         **kept = &e->sets[e->n_sets];
    KS_CHECK(equals && equals != set, KS_USAGE,
             "--set takes KEY=VALUE such as capture.streams=[attn], got '%s'",
             set);
    path = strndup(set, (size_t)(equals - set));
    *kept = strdup(set);
    e->n_sets++;
    KS_CHECK(path && *kept && asprintf(name, "--set %s", path) >= 0, KS_NOMEM,
             "out of memory for --set");
    const char *text = equals[1] ? equals + 1 : "~";
    KS_TRY(ks_doc_read(&value, *name, text, strlen(text), err));
    set_place(&value, *name);
    KS_TRY(ks_doc_set(&e->root, path, &value, err));
done:
    free(path);
    return st;
}

/* What is set to false is left out. */
static void drop_false(ks_doc *map) {
    size_t kept = 0;
    bool truth = true;
    if (map->kind == KS_DOC_TEXT) return;
    for (size_t i = 0; i < map->n; i++) {
        if (ks_doc_truth(&map->items[i], &truth) && !truth)
            ks_doc_free(&map->items[i]);
        else
            map->items[kept++] = map->items[i];
    }
    map->n = kept;
}

/* ------------------------------------------------------------------- cells */

typedef struct axis {
    const char *key;
    const ks_doc *values; /* a list, or a mapping of named points */
} axis;

typedef struct grid {
    axis axes[MOST_AXES];
    size_t n, cells;
} grid;

static ks_status add_axis(grid *g, const char *key, const ks_doc *values,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_doc_place at = ks_doc_where(values);
    KS_CHECK(values->kind != KS_DOC_TEXT && values->n > 0, KS_USAGE,
             "%s: %s: expected a list of values, or a mapping of named points, "
             "found %s",
             at.text, key, ks_doc_what(values).text);
    KS_CHECK(g->n < MOST_AXES, KS_LIMIT, "%s: more than %d axes", at.text,
             MOST_AXES);
    for (size_t i = 0; values->kind == KS_DOC_MAP && i < values->n; i++)
        KS_CHECK(values->items[i].kind == KS_DOC_MAP, KS_USAGE,
                 "%s: matrix.%s.%s: expected a mapping of settings, found %s",
                 ks_doc_where(&values->items[i]).text, key,
                 values->items[i].key, ks_doc_what(&values->items[i]).text);
    g->axes[g->n++] = (axis){key, values};
    g->cells *= values->n;
    KS_CHECK(g->cells <= MOST_CELLS, KS_LIMIT,
             "%s: the grid has more than %d cells", at.text, MOST_CELLS);
done:
    return st;
}

static ks_status read_grid(grid *g, ks_exp *e, ks_err *err) {
    ks_status st = KS_OK;
    ks_doc *matrix = ks_doc_find(&e->root, "matrix");
    const ks_doc *model = ks_doc_find(&e->root, "model");
    *g = (grid){.cells = 1};
    bool both = model && model->kind == KS_DOC_LIST;
    if (both) KS_TRY(add_axis(g, "model", model, err));
    if (!matrix || ks_doc_is_none(matrix)) return KS_OK;
    KS_CHECK(matrix->kind == KS_DOC_MAP, KS_USAGE,
             "%s: matrix: expected a mapping, found %s",
             ks_doc_where(matrix).text, ks_doc_what(matrix).text);
    drop_false(matrix);
    for (size_t i = 0; i < matrix->n; i++) {
        ks_doc *values = &matrix->items[i];
        if (values->kind == KS_DOC_MAP) drop_false(values);
        KS_CHECK(!both || strcmp(values->key, "model") != 0, KS_USAGE,
                 "%s: matrix.model: model, line %zu, lists models already",
                 ks_doc_where(values).text, model->line);
        KS_TRY(add_axis(g, values->key, values, err));
    }
done:
    return st;
}

/* Of a value that is a path its last part without what says the format. */
static void add_path_name(ks_str *name, const char *path) {
    static const char *const ends[] = {".gguf", ".safetensors", ".jsonl",
                                       ".h5"};
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t from = n;
    while (from > 0 && path[from - 1] != '/') from--;
    for (size_t i = 0; i < KS_COUNT(ends); i++) {
        size_t k = strlen(ends[i]);
        if (n - from > k && strncmp(path + n - k, ends[i], k) == 0) n -= k;
    }
    ks_str_add(name, path + from, n - from, NULL);
}

static bool is_path_key(const char *key) {
    static const char *const keys[] = {"model",     "problems",   "chains",
                                       "labels",    "clean",      "acts",
                                       "tokenizer", "import.file"};
    for (size_t i = 0; i < KS_COUNT(keys); i++)
        if (strcmp(keys[i], key) == 0) return true;
    return false;
}

static ks_status name_point(ks_str *name, const axis *a, const ks_doc *value,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_str argument = {0};
    bool given;
    if (name->length) KS_TRY(ks_str_add(name, ", ", 2, err));
    if (a->values->kind == KS_DOC_MAP) {
        st = ks_str_add(name, value->key, strlen(value->key), err);
    } else if (value->kind == KS_DOC_TEXT && is_path_key(a->key)) {
        add_path_name(name, value->text);
    } else if (value->kind == KS_DOC_MAP) {
        const char *own = ks_exp_text(value, "name");
        st = ks_str_printf(name, err, "%s", own ? own : a->key);
    } else {
        const char *last = strrchr(a->key, '.');
        KS_TRY(ks_setting_argument(value, KS_SETTING_LIST, &argument, &given,
                                   err));
        st = ks_str_printf(name, err, "%s %s", last ? last + 1 : a->key,
                           argument.data);
    }
done:
    ks_str_free(&argument);
    return st;
}

static ks_status set_copy(ks_doc *root, const char *path, const ks_doc *value,
                          ks_err *err) {
    ks_doc copy;
    ks_status st = ks_doc_copy(&copy, value, err);
    return st == KS_OK ? ks_doc_set(root, path, &copy, err) : st;
}

/* What all cells have together is read once, whatever a cell says. */
static ks_status refuse_joint(const ks_doc *value, const char *key,
                              ks_err *err) {
    static const char *const joint[] = {"name",   "about",  "matrix",
                                        "report", "launch", "transfer"};
    size_t n = strcspn(key, ".");
    for (size_t i = 0; i < KS_COUNT(joint); i++)
        if (strlen(joint[i]) == n && strncmp(key, joint[i], n) == 0)
            return ks_fail(err, KS_USAGE,
                           "%s: matrix: %s is the same for all cells; it is no "
                           "part of an axis",
                           ks_doc_where(value).text, key);
    return KS_OK;
}

static ks_status take_point(ks_exp_cell *cell, const axis *a,
                            const ks_doc *value, ks_err *err) {
    ks_status st = KS_OK;
    bool named = a->values->kind == KS_DOC_MAP;
    json_t *point = named ? json_string(value->key) : ks_doc_json(value);
    KS_TRY(ks_json_set(cell->point, a->key, point, "matrix", err));
    if (!named) {
        KS_TRY(refuse_joint(value, a->key, err));
        return set_copy(&cell->root, a->key, value, err);
    }
    for (size_t i = 0; i < value->n; i++) {
        const ks_doc *one = &value->items[i];
        KS_TRY(refuse_joint(one, one->key, err));
        KS_TRY(set_copy(&cell->root, one->key, one, err));
    }
done:
    return st;
}

static ks_status make_cell(ks_exp *e, const grid *g, size_t number,
                           ks_err *err) {
    static const char *const lists[] = {"probe", "baselines"};
    ks_status st = KS_OK;
    ks_exp_cell *cell = &e->cells[number];
    ks_str name = {0};
    size_t of = g->cells;
    *cell = (ks_exp_cell){.point = json_object()};
    e->n_cells++;
    KS_TRY(ks_doc_copy(&cell->root, &e->root, err));
    for (size_t i = 0; i < g->n; i++) {
        const axis *a = &g->axes[i];
        of /= a->values->n;
        const ks_doc *value = &a->values->items[number / of % a->values->n];
        KS_TRY(name_point(&name, a, value, err));
        KS_TRY(ks__exp_check_name(value, name.data, "a cell's name", err));
        KS_TRY(take_point(cell, a, value, err));
    }
    drop_false(&cell->root);
    for (size_t i = 0; i < KS_COUNT(lists); i++) {
        ks_doc *list = ks_doc_find(&cell->root, lists[i]);
        if (list && list->kind == KS_DOC_LIST) drop_false(list);
    }
    if (!g->n) KS_TRY(ks_str_printf(&name, err, "%s", e->name));
    cell->name = name.data;
    name.data = NULL;
    for (size_t i = 0; i < number; i++)
        KS_CHECK(strcmp(e->cells[i].name, cell->name) != 0, KS_USAGE,
                 "%s: two cells are named '%s'; an axis of named points gives "
                 "them names of their own",
                 ks_doc_where(g->axes[0].values).text, cell->name);
    KS_TRY(ks__exp_check_cell(e, cell, err));
done:
    ks_str_free(&name);
    return st;
}

static ks_status make_cells(ks_exp *e, ks_err *err) {
    ks_status st = KS_OK;
    grid g;
    KS_TRY(read_grid(&g, e, err));
    KS_TRY(ks_alloc(&e->cells, g.cells, sizeof *e->cells, "cells", err));
    for (size_t i = 0; i < g.cells; i++) KS_TRY(make_cell(e, &g, i, err));
done:
    return st;
}

/* ------------------------------------------------------------------- whole */

static ks_status find_folder(ks_exp *e, const char *folder, ks_err *err) {
    ks_status st = KS_OK;
    char *copy = strdup(e->file);
    KS_CHECK(copy, KS_NOMEM, "out of memory for a path");
    e->folder = folder ? strdup(folder) : realpath(dirname(copy), NULL);
    KS_CHECK(e->folder, KS_IO, "%s: cannot find its folder: %s", e->file,
             strerror(errno));
done:
    free(copy);
    return st;
}

static ks_status take_names(ks_exp *e, ks_err *err) {
    ks_status st = KS_OK;
    const ks_doc *name = ks_doc_find(&e->root, "name");
    KS_CHECK(name && name->kind == KS_DOC_TEXT && *name->text, KS_USAGE,
             "%s: name is missing: what the experiment is called", e->file);
    KS_TRY(ks__exp_check_name(name, name->text, "name", err));
    KS_CHECK(!strchr(name->text, '/') && *name->text != '.', KS_USAGE,
             "%s: name: '%s' is no name for a folder", ks_doc_where(name).text,
             name->text);
    e->name = name->text;
    e->about = ks_exp_text(&e->root, "about");
    if (!e->about) e->about = "";
done:
    return st;
}

ks_status ks_exp_open(ks_exp *e, const ks_section *sections, const char *file,
                      const char *folder, const char *const *sets,
                      size_t n_sets, ks_err *err) {
    ks_status st = KS_OK;
    *e = (ks_exp){.sections = sections, .file = strdup(file)};
    KS_CHECK(e->file, KS_NOMEM, "out of memory for a path");
    KS_TRY(ks_read_file(file, KS_DOC_MOST_BYTES, &e->text, &e->length, err));
    KS_TRY(find_folder(e, folder, err));
    KS_TRY(ks_doc_read(&e->root, e->file, e->text, e->length, err));
    KS_CHECK(e->root.kind == KS_DOC_MAP, KS_FORMAT,
             "%s: expected a mapping of sections, found %s", file,
             ks_doc_what(&e->root).text);
    KS_TRY(ks_alloc(&e->sets, n_sets + 1, sizeof *e->sets, "--set", err));
    KS_TRY(ks_alloc(&e->set_names, n_sets + 1, sizeof *e->set_names, "--set",
                    err));
    for (size_t i = 0; i < n_sets; i++) KS_TRY(apply_set(e, sets[i], err));
    KS_TRY(take_names(e, err));
    KS_TRY(make_cells(e, err));
done:
    if (st != KS_OK) ks_exp_close(e);
    return st;
}

void ks_exp_close(ks_exp *e) {
    for (size_t i = 0; i < e->n_cells; i++) {
        free(e->cells[i].name);
        json_decref(e->cells[i].point);
        ks_doc_free(&e->cells[i].root);
    }
    for (size_t i = 0; i < e->n_sets; i++) {
        free(e->sets[i]);
        free(e->set_names[i]);
    }
    free(e->cells);
    free(e->sets);
    free(e->set_names);
    ks_doc_free(&e->root);
    free(e->text);
    free(e->file);
    free(e->folder);
    *e = (ks_exp){0};
}

ks_status ks_exp_path(const ks_exp *e, const char *path, char **out,
                      ks_err *err) {
    if (*path != '/') return ks_path_join(out, e->folder, path, err);
    *out = strdup(path);
    return *out ? KS_OK : ks_fail(err, KS_NOMEM, "out of memory for a path");
}

const char *ks_exp_text(const ks_doc *map, const char *key) {
    const ks_doc *at = map ? ks_doc_find(map, key) : NULL;
    return at && at->kind == KS_DOC_TEXT && !ks_doc_is_none(at) ? at->text
                                                                : NULL;
}

int64_t ks_exp_launch(const ks_exp *e, const char *key, int64_t usual) {
    int64_t value;
    const ks_doc *at = ks_doc_find(ks_doc_find(&e->root, "launch"), key);
    return at && ks_doc_whole(at, &value) ? value : usual;
}

const ks_doc *ks_exp_probe(const ks_exp_cell *cell, size_t i) {
    const ks_doc *probe = ks_doc_find(&cell->root, "probe");
    if (!probe) return NULL;
    if (probe->kind != KS_DOC_LIST) return i == 0 ? probe : NULL;
    return i < probe->n ? &probe->items[i] : NULL;
}
