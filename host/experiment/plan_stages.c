/* plan_stages.c - one stage in the making: its words, its inputs, its key. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "plan.h"

ks_status ks__exp_begin(ks__exp_draft *d, const char *command,
                        const ks_doc *section, const char *what, ks_err *err) {
    ks_status st = KS_OK;
    ks_exp_stage *s = &d->stage;
    *s = (ks_exp_stage){.section = ks_section_find(d->exp->sections, command),
                        .settings = json_object(),
                        .what = strdup(what),
                        .cells = strdup(d->cell ? d->cell->cell->name : "")};
    KS_CHECK(s->settings && s->what && s->cells, KS_NOMEM,
             "out of memory for a stage");
    if (section) KS_TRY(ks_doc_copy(&s->doc, section, err));
    const ks_doc *root = d->cell ? &d->cell->cell->root : &d->exp->root;
    s->machine = ks_doc_find(root, "machine");
    s->shards = ks_section_has(s->section, "shard");
    KS_TRY(ks__exp_word(d, command, err));
done:
    return st;
}

static ks_status add_word(ks__exp_draft *d, const char *text, bool output,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_exp_stage *s = &d->stage;
    KS_TRY(ks_grow(&s->words, &s->words_capacity, s->n_words + 1,
                   sizeof *s->words, "a command", err));
    char *copy = strdup(text);
    KS_CHECK(copy, KS_NOMEM, "out of memory for a command");
    s->words[s->n_words++] = (ks_exp_word){copy, output};
done:
    return st;
}

ks_status ks__exp_word(ks__exp_draft *d, const char *text, ks_err *err) {
    return add_word(d, text, false, err);
}

static ks_status add_option(ks__exp_draft *d, const char *name, ks_err *err) {
    char option[64];
    snprintf(option, sizeof option, "--%s", name);
    return ks__exp_word(d, option, err);
}

ks_status ks__exp_output(ks__exp_draft *d, const char *option, const char *name,
                         ks_err *err) {
    ks_status st = add_option(d, option, err);
    return st == KS_OK ? add_word(d, name, true, err) : st;
}

ks_status ks__exp_setting(ks__exp_draft *d, const char *name, json_t *value,
                          ks_err *err) {
    return ks_json_set(d->stage.settings, name, value, "settings", err);
}

/* ------------------------------------------------------------------ inputs */

ks_status ks__exp_place(const ks_doc *at, ks_status st, ks_err *err) {
    ks_err first;
    if (st != KS_IO || !at || !err) return st;
    first = *err;
    return ks_fail(err, st, "%s: %s: %s", ks_doc_where(at).text,
                   at->key ? at->key : "", first.text);
}

/* A model may be a folder, and a tokenizer one that has its file. */
static ks_status expect_file(const char *role, const char *path, ks_err *err) {
    struct stat info;
    if (strcmp(role, "model") == 0 || strcmp(role, "tokenizer") == 0 ||
        stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
        return KS_OK;
    return ks_fail(err, KS_IO, "%s: expected a file, found a folder", path);
}

ks_status ks__exp_input(ks__exp_draft *d, const char *role, ks__exp_source from,
                        ks_str *path, ks_err *err) {
    ks_status st = KS_OK;
    ks_exp_stage *s = &d->stage;
    KS_TRY(ks_grow(&s->inputs, &s->inputs_capacity, s->n_inputs + 1,
                   sizeof *s->inputs, "inputs", err));
    ks_exp_input *in = &s->inputs[s->n_inputs];
    *in = (ks_exp_input){.stage = from.stage, .role = strdup(role)};
    s->n_inputs++;
    KS_CHECK(in->role, KS_NOMEM, "out of memory for an input");
    if (from.stage >= 0) {
        in->name = strdup(from.name);
        KS_CHECK(in->name, KS_NOMEM, "out of memory for an input");
        KS_TRY(ks_str_printf(path, err, "stages/%s/%s",
                             d->plan->stages[from.stage].id, from.name));
    } else {
        KS_TRY(ks_exp_path(d->exp, from.name, &in->name, err));
        KS_TRY(expect_file(role, in->name, err));
        KS_TRY(
            ks_exp_files_hash(d->files, in->name, in->sha256, &in->there, err));
        KS_TRY(ks_str_add(path, in->name, strlen(in->name), err));
    }
done:
    return st;
}

ks_status ks__exp_take(ks__exp_draft *d, const char *option,
                       ks__exp_source from, ks_err *err) {
    ks_status st = KS_OK;
    ks_str path = {0};
    if (!from.name) return KS_OK;
    KS_TRY(ks__exp_input(d, option, from, &path, err));
    KS_TRY(add_option(d, option, err));
    KS_TRY(ks__exp_word(d, path.data, err));
done:
    ks_str_free(&path);
    return st;
}

/* ---------------------------------------------------------------- settings */

/* "--name value", or in one word what would else be taken for an option. */
static ks_status add_argument(ks__exp_draft *d, const struct argp_option *o,
                              const char *value, ks_err *err) {
    ks_status st = KS_OK;
    ks_str word = {0};
    bool one = !*value || *value == '-' || o->flags & OPTION_ARG_OPTIONAL;
    if (!one) {
        KS_TRY(add_option(d, o->name, err));
        KS_TRY(ks__exp_word(d, value, err));
        return KS_OK;
    }
    KS_TRY(ks_str_printf(&word, err, "--%s=%s", o->name, value));
    KS_TRY(ks__exp_word(d, word.data, err));
done:
    ks_str_free(&word);
    return st;
}

static ks_status add_setting(ks__exp_draft *d, const struct argp_option *o,
                             const ks_doc *value, ks_err *err) {
    ks_status st = KS_OK;
    ks_setting_kind kind = ks_setting_kind_of(o);
    ks_str text = {0};
    bool given;
    if (kind == KS_SETTING_PATH)
        return ks__exp_place(
            value,
            ks__exp_take(d, o->name, (ks__exp_source){-1, value->text}, err),
            err);
    KS_TRY(ks_setting_argument(value, kind, &text, &given, err));
    if (!given) goto done;
    KS_TRY(ks__exp_setting(d, o->name, ks_setting_canonical(value, kind), err));
    bool bare = !text.length &&
                (kind == KS_SETTING_TRUTH || kind == KS_SETTING_TRUTH_OR_LIST);
    if (bare)
        KS_TRY(add_option(d, o->name, err));
    else
        KS_TRY(add_argument(d, o, text.data, err));
done:
    ks_str_free(&text);
    return st;
}

ks_status ks__exp_settings(ks__exp_draft *d, ks_err *err) {
    static const char *const common[] = {"tokenizer", "template"};
    ks_status st = KS_OK;
    const ks_section *section = d->stage.section;
    const ks_doc *doc = &d->stage.doc;
    for (size_t i = 0; i < doc->n; i++) {
        const struct argp_option *o =
            ks_section_setting(section, doc->items[i].key);
        if (o) KS_TRY(add_setting(d, o, &doc->items[i], err));
    }
    /* a chain's steps are cut by its text: one split serves all models */
    if (!d->cell || strcmp(section->name, "split") == 0) return KS_OK;
    for (size_t i = 0; i < KS_COUNT(common); i++) {
        const ks_doc *value = ks_doc_find(&d->cell->cell->root, common[i]);
        const struct argp_option *o = ks_section_setting(section, common[i]);
        if (value && o && !ks_doc_find(doc, common[i]))
            KS_TRY(add_setting(d, o, value, err));
    }
done:
    return st;
}

/* --------------------------------------------------------------------- key */

static json_t *inputs_json(const ks_exp_plan *plan, const ks_exp_stage *s) {
    json_t *all = json_object();
    for (size_t i = 0; all && i < s->n_inputs; i++) {
        const ks_exp_input *in = &s->inputs[i];
        json_t *value =
            in->stage < 0
                ? json_string(in->sha256)
                : json_sprintf("%s/%s", plan->stages[in->stage].key, in->name);
        if (json_object_set_new(all, in->role, value) == 0) continue;
        json_decref(all);
        all = NULL;
    }
    return all;
}

static ks_status make_key(const ks_exp_plan *plan, ks_exp_stage *s,
                          ks_err *err) {
    ks_status st = KS_OK;
    char *text = NULL;
    json_t *all =
        json_pack("{s:s,s:O,s:o}", "stage", s->section->name, "settings",
                  s->settings, "inputs", inputs_json(plan, s));
    if (all) text = json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS);
    KS_CHECK(text, KS_NOMEM, "out of memory for a key");
    ks_sha256_of(text, strlen(text), s->key);
    snprintf(s->id, sizeof s->id, "%s-%.10s", s->section->name, s->key);
done:
    json_decref(all);
    free(text);
    return st;
}

void ks__exp_drop(ks__exp_draft *d) {
    ks_exp_stage *s = &d->stage;
    for (size_t i = 0; i < s->n_inputs; i++) {
        free(s->inputs[i].role);
        free(s->inputs[i].name);
    }
    for (size_t i = 0; i < s->n_words; i++) free(s->words[i].text);
    free(s->inputs);
    free(s->words);
    free(s->what);
    free(s->cells);
    json_decref(s->settings);
    ks_doc_free(&s->doc);
    *s = (ks_exp_stage){0};
}

/* Another cell takes the stage too. */
static ks_status add_cell(ks_exp_stage *s, const char *name, ks_err *err) {
    char *both;
    if (strcmp(s->cells, name) == 0) return KS_OK;
    if (asprintf(&both, "%s; %s", s->cells, name) < 0)
        return ks_fail(err, KS_NOMEM, "out of memory for a stage");
    free(s->cells);
    s->cells = both;
    return KS_OK;
}

static ks_status list_in_cell(ks__exp_draft *d, int index, ks_err *err) {
    ks_status st = KS_OK;
    ks_exp_cell_plan *cell = d->cell;
    for (size_t i = 0; i < cell->n_stages; i++)
        if (cell->stages[i] == index) return KS_OK;
    KS_TRY(ks_grow(&cell->stages, &cell->stages_capacity, cell->n_stages + 1,
                   sizeof *cell->stages, "stages", err));
    cell->stages[cell->n_stages++] = index;
    KS_TRY(add_cell(&d->plan->stages[index], cell->cell->name, err));
done:
    return st;
}

ks_status ks__exp_end(ks__exp_draft *d, const char *const *outputs, int *index,
                      ks_err *err) {
    ks_status st = KS_OK;
    ks_exp_plan *p = d->plan;
    d->stage.outputs = outputs;
    KS_TRY(make_key(p, &d->stage, err));
    size_t at = 0;
    while (at < p->n_stages && strcmp(p->stages[at].key, d->stage.key) != 0)
        at++;
    if (at == p->n_stages) {
        KS_TRY(ks_grow(&p->stages, &p->stages_capacity, p->n_stages + 1,
                       sizeof *p->stages, "stages", err));
        p->stages[p->n_stages++] = d->stage;
        d->stage = (ks_exp_stage){0};
    }
    *index = (int)at;
    if (d->cell) KS_TRY(list_in_cell(d, *index, err));
done:
    ks__exp_drop(d);
    return st;
}
