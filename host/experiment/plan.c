/* plan.c - see plan.h: which stages a cell takes, and what joins cells. */
#include "plan.h"

#include <stdlib.h>
#include <string.h>

typedef ks__exp_source source;

/* What a cell has so far; name NULL: not there. */
typedef struct cell_files {
    source model, problems;
    source cut;    /* chains as labels were asked of them */
    source chains; /* chains that activations are of */
    source labels, clean, acts;
} cell_files;

typedef struct builder {
    ks__exp_draft draft;
    cell_files *files; /* [n_cells] */
    ks_exp_left_fn left;
    void *user;
} builder;

static const ks_doc *section_of(const builder *b, const char *name) {
    return ks_doc_find(&b->draft.cell->cell->root, name);
}

static source given(const builder *b, const char *key) {
    return (source){-1, ks_exp_text(&b->draft.cell->cell->root, key)};
}

static ks_status need(const ks_doc *section, source from, const char *what,
                      const char *who, ks_err *err) {
    if (from.name) return KS_OK;
    return ks_fail(err, KS_USAGE, "%s: %s: nothing gives its %s: %s",
                   ks_doc_where(section).text, section->key, what, who);
}

static ks_status take(builder *b, const char *option, source from,
                      const char *key, ks_err *err) {
    const ks_doc *at = section_of(b, key);
    return ks__exp_place(at, ks__exp_take(&b->draft, option, from, err), err);
}

/* The section's settings, the one output and the stage itself. */
static ks_status end(builder *b, const char *const *outputs, int *made,
                     ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks__exp_settings(&b->draft, err));
    KS_TRY(ks__exp_output(&b->draft, "out", outputs[0], err));
    KS_TRY(ks__exp_end(&b->draft, outputs, made, err));
done:
    return st;
}

/* ------------------------------------------------------- stages of a cell */

static const char needs_model[] = "model is missing";
static const char needs_problems[] = "problems (or import) is missing";
static const char needs_chains[] = "chains, import or generate is missing";

static ks_status plan_import(builder *b, cell_files *f, const ks_doc *section,
                             ks_err *err) {
    static const char *const outputs[] = {"chains.jsonl", "problems.jsonl",
                                          NULL};
    ks_status st = KS_OK;
    ks__exp_draft *d = &b->draft;
    ks_str path = {0};
    const ks_doc *file = ks_doc_find(section, "file");
    int made;
    KS_TRY(ks__exp_begin(d, "import", section, "", err));
    KS_TRY(ks__exp_place(
        file, ks__exp_input(d, "file", (source){-1, file->text}, &path, err),
        err));
    KS_TRY(ks__exp_word(d, path.data, err));
    /* lines without an id are named after the file */
    const char *slash = strrchr(file->text, '/');
    KS_TRY(ks__exp_setting(d, "file",
                           json_string(slash ? slash + 1 : file->text), err));
    KS_TRY(take(b, "model", f->model, "model", err));
    KS_TRY(take(b, "problems", f->problems, "problems", err));
    KS_TRY(ks__exp_settings(d, err));
    KS_TRY(ks__exp_output(d, "out", outputs[0], err));
    KS_TRY(ks__exp_output(d, "problems-out", outputs[1], err));
    KS_TRY(ks__exp_end(d, outputs, &made, err));
    f->chains = (source){made, outputs[0]};
    if (!f->problems.name) f->problems = (source){made, outputs[1]};
done:
    ks_str_free(&path);
    return st;
}

static ks_status plan_generate(builder *b, cell_files *f, const ks_doc *section,
                               ks_err *err) {
    static const char *const outputs[] = {"chains.jsonl", NULL};
    ks_status st = KS_OK;
    ks__exp_draft *d = &b->draft;
    int made;
    KS_TRY(need(section, f->model, "model", needs_model, err));
    KS_TRY(need(section, f->problems, "problems", needs_problems, err));
    KS_TRY(ks__exp_begin(d, "generate", section, "", err));
    KS_TRY(take(b, "model", f->model, "model", err));
    KS_TRY(take(b, "problems", f->problems, "problems", err));
    KS_TRY(end(b, outputs, &made, err));
    f->chains = (source){made, outputs[0]};
done:
    return st;
}

static ks_status plan_split(builder *b, cell_files *f, const ks_doc *section,
                            ks_err *err) {
    static const char *const outputs[] = {"chains.jsonl", NULL};
    ks_status st = KS_OK;
    ks__exp_draft *d = &b->draft;
    int made;
    KS_TRY(need(section, f->chains, "chains", needs_chains, err));
    KS_TRY(ks__exp_begin(d, "split", section, "", err));
    KS_TRY(take(b, "chains", f->chains, "chains", err));
    KS_TRY(end(b, outputs, &made, err));
    f->chains = (source){made, outputs[0]};
done:
    return st;
}

static ks_status plan_label(builder *b, cell_files *f, const ks_doc *section,
                            ks_err *err) {
    static const char *const outputs[] = {"labels.jsonl", "clean.jsonl",
                                          "skipped.jsonl", NULL};
    ks_status st = KS_OK;
    ks__exp_draft *d = &b->draft;
    int made;
    KS_TRY(need(section, f->model, "model", needs_model, err));
    KS_TRY(need(section, f->problems, "problems", needs_problems, err));
    KS_TRY(need(section, f->chains, "chains", needs_chains, err));
    KS_TRY(ks__exp_begin(d, "label", section, "", err));
    KS_TRY(take(b, "model", f->model, "model", err));
    KS_TRY(take(b, "problems", f->problems, "problems", err));
    KS_TRY(take(b, "chains", f->chains, "chains", err));
    KS_TRY(ks__exp_settings(d, err));
    KS_TRY(ks__exp_output(d, "out", outputs[0], err));
    KS_TRY(ks__exp_output(d, "clean", outputs[1], err));
    KS_TRY(ks__exp_output(d, "skipped", outputs[2], err));
    KS_TRY(ks__exp_end(d, outputs, &made, err));
    f->labels = (source){made, outputs[0]};
    f->clean = (source){made, outputs[1]};
done:
    return st;
}

static ks_status plan_capture(builder *b, const cell_files *f,
                              const ks_doc *section, const char *what,
                              source *out, ks_err *err) {
    static const char *const outputs[] = {"acts.h5", NULL};
    ks_status st = KS_OK;
    ks__exp_draft *d = &b->draft;
    int made;
    KS_TRY(need(section, f->model, "model", needs_model, err));
    KS_TRY(need(section, f->chains, "chains", needs_chains, err));
    KS_TRY(ks__exp_begin(d, "capture", section, what, err));
    KS_TRY(take(b, "model", f->model, "model", err));
    KS_TRY(take(b, "chains", f->chains, "chains", err));
    KS_TRY(end(b, outputs, &made, err));
    *out = (source){made, outputs[0]};
done:
    return st;
}

static ks_status plan_score(builder *b, const cell_files *f,
                            const ks_doc *section, const char *what,
                            source *out, ks_err *err) {
    static const char *const outputs[] = {"scores.jsonl", NULL};
    ks_status st = KS_OK;
    ks__exp_draft *d = &b->draft;
    int made;
    KS_TRY(need(section, f->model, "model", needs_model, err));
    KS_TRY(need(section, f->chains, "chains", needs_chains, err));
    KS_TRY(ks__exp_begin(d, "score", section, what, err));
    KS_TRY(take(b, "model", f->model, "model", err));
    KS_TRY(take(b, "chains", f->chains, "chains", err));
    KS_TRY(take(b, "problems", f->problems, "problems", err));
    KS_TRY(end(b, outputs, &made, err));
    *out = (source){made, outputs[0]};
done:
    return st;
}

/* --------------------------------------------------------------- baselines */

/* A baseline's capture is the main one but for what it names. */
static ks_status merge(ks_doc *out, const ks_doc *base, const ks_doc *over,
                       ks_err *err) {
    ks_status st = KS_OK;
    if (!base || base->kind != KS_DOC_MAP) return ks_doc_copy(out, over, err);
    KS_TRY(ks_doc_copy(out, base, err));
    free(out->key);
    out->line = over->line;
    out->file = over->file;
    out->key = strdup(over->key);
    KS_CHECK(out->key, KS_NOMEM, "out of memory for a setting");
    for (size_t i = 0; i < over->n; i++) {
        ks_doc copy;
        KS_TRY(ks_doc_copy(&copy, &over->items[i], err));
        KS_TRY(ks_doc_set(out, over->items[i].key, &copy, err));
    }
done:
    return st;
}

/* *from: the file; name NULL: it is left out. */
static ks_status plan_baseline(builder *b, const cell_files *f,
                               const ks_doc *baseline, source *from,
                               ks_err *err) {
    ks_status st = KS_OK;
    const char *name = ks_exp_text(baseline, "name");
    const ks_doc *capture = ks_doc_find(baseline, "capture");
    const ks_doc *score = ks_doc_find(baseline, "score");
    const ks_doc *optional = ks_doc_find(baseline, "optional");
    const char *file = ks_exp_text(baseline, "acts");
    bool may_lack = false;
    ks_doc merged = {0};
    char *path = NULL;
    *from = (source){-1, NULL};
    if (capture) {
        KS_TRY(merge(&merged, section_of(b, "capture"), capture, err));
        st = plan_capture(b, f, &merged, name, from, err);
    } else if (score) {
        st = plan_score(b, f, score, name, from, err);
    } else {
        if (!file) file = ks_exp_text(baseline, "scores");
        if (optional) ks_doc_truth(optional, &may_lack);
        KS_TRY(ks_exp_path(b->draft.exp, file, &path, err));
        if (!may_lack || ks_file_exists(path)) *from = (source){-1, file};
        if (!from->name && b->left) b->left(b->user, path);
    }
done:
    ks_doc_free(&merged);
    free(path);
    return st;
}

static bool is_wanted(const ks_doc *probe, const char *name) {
    const ks_doc *wanted = ks_doc_find(probe, "baselines");
    if (!wanted || wanted->kind != KS_DOC_LIST) return true;
    for (size_t i = 0; i < wanted->n; i++)
        if (strcmp(wanted->items[i].text, name) == 0) return true;
    return false;
}

/* "--baseline-acts NAME=FILE", or of scores with ":FIELD". */
static ks_status add_baseline(builder *b, const ks_doc *baseline, source from,
                              ks_err *err) {
    ks_status st = KS_OK;
    ks__exp_draft *d = &b->draft;
    const char *name = ks_exp_text(baseline, "name");
    const char *field = ks_exp_text(baseline, "field");
    bool scores =
        ks_doc_find(baseline, "score") || ks_doc_find(baseline, "scores");
    ks_str word = {0}, role = {0};
    if (!from.name) return KS_OK;
    KS_TRY(ks_str_printf(&role, err, "baseline %s", name));
    KS_TRY(ks_str_printf(&word, err, "%s=", name));
    const ks_doc *file = ks_doc_find(baseline, scores ? "scores" : "acts");
    KS_TRY(ks__exp_place(file, ks__exp_input(d, role.data, from, &word, err),
                         err));
    if (field) KS_TRY(ks_str_printf(&word, err, ":%s", field));
    if (field) KS_TRY(ks__exp_setting(d, role.data, json_string(field), err));
    KS_TRY(
        ks__exp_word(d, scores ? "--baseline-scores" : "--baseline-acts", err));
    KS_TRY(ks__exp_word(d, word.data, err));
done:
    ks_str_free(&word);
    ks_str_free(&role);
    return st;
}

/* ------------------------------------------------------------------ probes */

/* Labels of chains that were cut, brought back to the chains as they were. */
static bool on_original(const builder *b, const cell_files *f) {
    const char *on = ks_exp_text(&b->draft.cell->cell->root, "labels-on");
    return on && strcmp(on, "original") == 0 && f->clean.name;
}

static ks_status take_labels(builder *b, const cell_files *f, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(take(b, "labels", f->labels, "labels", err));
    if (!on_original(b, f)) return KS_OK;
    KS_TRY(ks__exp_word(&b->draft, "--labels-on", err));
    KS_TRY(ks__exp_word(&b->draft, "original", err));
    KS_TRY(
        ks__exp_setting(&b->draft, "labels-on", json_string("original"), err));
    KS_TRY(take(b, "clean", f->clean, "clean", err));
done:
    return st;
}

static ks_status keep_probe(ks_exp_cell_plan *cell, const char *name, int stage,
                            ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_grow(&cell->probes, &cell->probes_capacity, cell->n_probes + 1,
                   sizeof *cell->probes, "probes", err));
    char *copy = strdup(name ? name : "");
    KS_CHECK(copy, KS_NOMEM, "out of memory for a probe");
    cell->probes[cell->n_probes++] = (ks_exp_made){copy, stage};
done:
    return st;
}

static ks_status plan_probe(builder *b, const cell_files *f,
                            const ks_doc *probe, const ks_doc *baselines,
                            const source *from, ks_err *err) {
    static const char *const outputs[] = {"probes", NULL};
    ks_status st = KS_OK;
    ks__exp_draft *d = &b->draft;
    const char *name = ks_exp_text(probe, "name");
    int made;
    KS_TRY(ks__exp_begin(d, "probe", probe, name ? name : "", err));
    KS_TRY(take(b, "acts", f->acts, "acts", err));
    KS_TRY(take_labels(b, f, err));
    KS_TRY(take(b, "chains", f->chains, "chains", err));
    for (size_t i = 0; baselines && i < baselines->n; i++) {
        const ks_doc *one = &baselines->items[i];
        if (is_wanted(probe, ks_exp_text(one, "name")))
            KS_TRY(add_baseline(b, one, from[i], err));
    }
    KS_TRY(end(b, outputs, &made, err));
    KS_TRY(keep_probe(d->cell, name, made, err));
done:
    return st;
}

static ks_status plan_probes(builder *b, const cell_files *f, ks_err *err) {
    ks_status st = KS_OK;
    const ks_doc *first = section_of(b, "probe");
    const ks_doc *baselines = section_of(b, "baselines"), *one;
    size_t n = baselines ? baselines->n : 0;
    source *from = NULL;
    KS_CHECK(!n || first, KS_USAGE,
             "%s: baselines: there is no probe to compare them with",
             ks_doc_where(baselines).text);
    if (!first) return KS_OK;
    KS_CHECK(f->acts.name, KS_USAGE,
             "%s: probe: nothing gives its activations: capture (or acts) is "
             "missing",
             ks_doc_where(first).text);
    KS_CHECK(f->labels.name || f->acts.stage < 0, KS_USAGE,
             "%s: probe: nothing gives its labels: labels or label is missing",
             ks_doc_where(first).text);
    KS_TRY(ks_alloc(&from, n + 1, sizeof *from, "baselines", err));
    for (size_t i = 0; i < n; i++) {
        bool wanted = false;
        const char *name = ks_exp_text(&baselines->items[i], "name");
        for (size_t k = 0; (one = ks_exp_probe(b->draft.cell->cell, k)); k++)
            wanted |= is_wanted(one, name);
        if (wanted)
            KS_TRY(plan_baseline(b, f, &baselines->items[i], &from[i], err));
    }
    for (size_t i = 0; (one = ks_exp_probe(b->draft.cell->cell, i)); i++)
        KS_TRY(plan_probe(b, f, one, baselines, from, err));
done:
    free(from);
    return st;
}

/* ------------------------------------------------------------------- cells */

static ks_status plan_chains(builder *b, cell_files *f, ks_err *err) {
    ks_status st = KS_OK;
    const ks_doc *section;
    if ((section = section_of(b, "import")))
        KS_TRY(plan_import(b, f, section, err));
    if ((section = section_of(b, "generate")))
        KS_TRY(plan_generate(b, f, section, err));
    if ((section = section_of(b, "split")))
        KS_TRY(plan_split(b, f, section, err));
    source whole = f->chains;
    if ((section = section_of(b, "label")))
        KS_TRY(plan_label(b, f, section, err));
    f->chains = f->clean.name && !on_original(b, f) ? f->clean : whole;
done:
    return st;
}

static ks_status plan_cell(builder *b, cell_files *f, ks_err *err) {
    ks_status st = KS_OK;
    const ks_doc *section;
    *f = (cell_files){.model = given(b, "model"),
                      .problems = given(b, "problems"),
                      .chains = given(b, "chains"),
                      .labels = given(b, "labels"),
                      .clean = given(b, "clean"),
                      .acts = given(b, "acts")};
    KS_TRY(plan_chains(b, f, err));
    if ((section = section_of(b, "capture")))
        KS_TRY(plan_capture(b, f, section, "", &f->acts, err));
    KS_TRY(plan_probes(b, f, err));
done:
    return st;
}

/* --------------------------------------------------- what joins all cells */

static bool same_source(source a, source b) {
    return a.stage == b.stage && strcmp(a.name, b.name) == 0;
}

/* A file of the cells, each once, as "--OPTION FILE". */
static ks_status take_of_cells(builder *b, const char *option, size_t offset,
                               ks_err *err) {
    ks_status st = KS_OK;
    size_t n = b->draft.exp->n_cells;
    ks_str path = {0};
    for (size_t i = 0; i < n; i++) {
        const source *from =
            (const source *)((const char *)&b->files[i] + offset);
        bool seen = !from->name;
        for (size_t k = 0; k < i && !seen; k++) {
            const source *other =
                (const source *)((const char *)&b->files[k] + offset);
            seen = other->name && same_source(*other, *from);
        }
        if (seen) continue;
        char role[64], words[64];
        snprintf(role, sizeof role, "%s %zu", option, i + 1);
        snprintf(words, sizeof words, "--%s", option);
        path.length = 0;
        const ks_doc *at = ks_doc_find(&b->draft.exp->cells[i].root, option);
        KS_TRY(ks__exp_place(
            at, ks__exp_input(&b->draft, role, *from, &path, err), err));
        KS_TRY(ks__exp_word(&b->draft, words, err));
        KS_TRY(ks__exp_word(&b->draft, path.data, err));
    }
done:
    ks_str_free(&path);
    return st;
}

/* "--set NAME=ACTS:LABELS" of a cell. */
static ks_status add_set(builder *b, const ks_doc *section, size_t i,
                         ks_err *err) {
    ks_status st = KS_OK;
    const cell_files *f = &b->files[i];
    const char *name = b->draft.exp->cells[i].name;
    const ks_doc *root = &b->draft.exp->cells[i].root;
    ks_str word = {0}, role = {0};
    KS_CHECK(f->acts.name, KS_USAGE,
             "%s: transfer: cell '%s' has no activations: capture (or acts) is "
             "missing",
             ks_doc_where(section).text, name);
    KS_TRY(ks_str_printf(&word, err, "%s=", name));
    KS_TRY(ks_str_printf(&role, err, "acts of %s", name));
    KS_TRY(ks__exp_place(
        ks_doc_find(root, "acts"),
        ks__exp_input(&b->draft, role.data, f->acts, &word, err), err));
    if (f->labels.name) {
        role.length = 0;
        KS_TRY(ks_str_printf(&role, err, "labels of %s", name));
        KS_TRY(ks_str_add(&word, ":", 1, err));
        KS_TRY(ks__exp_place(
            ks_doc_find(root, "labels"),
            ks__exp_input(&b->draft, role.data, f->labels, &word, err), err));
    }
    KS_TRY(ks__exp_word(&b->draft, "--set", err));
    KS_TRY(ks__exp_word(&b->draft, word.data, err));
done:
    ks_str_free(&word);
    ks_str_free(&role);
    return st;
}

static ks_status plan_transfer(builder *b, const ks_doc *section, ks_err *err) {
    static const char *const outputs[] = {"transfer", NULL};
    ks_status st = KS_OK;
    ks__exp_draft *d = &b->draft;
    const ks_exp *e = d->exp;
    KS_CHECK(e->n_cells > 1, KS_USAGE,
             "%s: transfer: its sets are the cells of the grid, and there is "
             "one: matrix, or several models, would make more",
             ks_doc_where(section).text);
    const char *on = ks_exp_text(&e->root, "labels-on");
    KS_CHECK(!on || strcmp(on, "original") != 0, KS_USAGE,
             "%s: transfer: takes no labels of clean chains on the originals "
             "(labels-on: original)",
             ks_doc_where(section).text);
    KS_TRY(ks__exp_begin(d, "transfer", section, "", err));
    for (size_t i = 0; i < e->n_cells; i++) KS_TRY(add_set(b, section, i, err));
    KS_TRY(take_of_cells(b, "chains", offsetof(cell_files, chains), err));
    KS_TRY(end(b, outputs, &d->plan->transfer, err));
done:
    return st;
}

static ks_status add_run(builder *b, const char *name, source from,
                         ks_err *err) {
    ks_status st = KS_OK;
    ks_str word = {0}, role = {0};
    KS_TRY(ks_str_printf(&word, err, "%s=", name));
    KS_TRY(ks_str_printf(&role, err, "run %s", name));
    KS_TRY(ks__exp_input(&b->draft, role.data, from, &word, err));
    KS_TRY(ks__exp_word(&b->draft, word.data, err));
done:
    ks_str_free(&word);
    ks_str_free(&role);
    return st;
}

static ks_status add_runs_of(builder *b, const ks_exp_cell_plan *cell,
                             ks_err *err) {
    ks_status st = KS_OK;
    ks_str name = {0};
    for (size_t i = 0; i < cell->n_probes; i++) {
        const ks_exp_made *probe = &cell->probes[i];
        name.length = 0;
        KS_TRY(ks_str_printf(&name, err, "%s%s%s", cell->cell->name,
                             *probe->name ? ", " : "", probe->name));
        KS_TRY(add_run(b, name.data, (source){probe->stage, "probes"}, err));
    }
done:
    ks_str_free(&name);
    return st;
}

static ks_status plan_report(builder *b, const ks_doc *section, ks_err *err) {
    static const char *const outputs[] = {"report", NULL};
    ks_status st = KS_OK;
    ks__exp_draft *d = &b->draft;
    ks_exp_plan *p = d->plan;
    size_t n_probes = 0;
    KS_TRY(ks__exp_begin(d, "report", section, "", err));
    for (size_t i = 0; i < p->exp->n_cells; i++) {
        n_probes += p->cells[i].n_probes;
        KS_TRY(add_runs_of(b, &p->cells[i], err));
    }
    KS_CHECK(n_probes || p->transfer >= 0, KS_USAGE,
             "%s: report: there is nothing to report: probe is missing",
             ks_doc_where(section).text);
    if (p->transfer >= 0)
        KS_TRY(add_run(b, "transfer", (source){p->transfer, "transfer"}, err));
    KS_TRY(take_of_cells(b, "chains", offsetof(cell_files, chains), err));
    KS_TRY(take_of_cells(b, "labels", offsetof(cell_files, labels), err));
    if (!ks_doc_find(&d->stage.doc, "title") && *p->exp->about) {
        KS_TRY(ks__exp_setting(d, "title", json_string(p->exp->about), err));
        KS_TRY(ks__exp_word(d, "--title", err));
        KS_TRY(ks__exp_word(d, p->exp->about, err));
    }
    KS_TRY(end(b, outputs, &p->report, err));
done:
    return st;
}

/* A section that joins cells is the experiment's, and no axis changes it. */
static const ks_doc *joint_section(const ks_exp *e, const char *name) {
    return ks_doc_find(&e->cells[0].root, name);
}

/* ------------------------------------------------------------------- whole */

static ks_status plan_all(builder *b, ks_err *err) {
    ks_status st = KS_OK;
    ks_exp_plan *p = b->draft.plan;
    const ks_exp *e = p->exp;
    const ks_doc *section;
    for (size_t i = 0; i < e->n_cells; i++) {
        p->cells[i].cell = &e->cells[i];
        b->draft.cell = &p->cells[i];
        KS_TRY(plan_cell(b, &b->files[i], err));
    }
    b->draft.cell = NULL;
    if ((section = joint_section(e, "transfer")))
        KS_TRY(plan_transfer(b, section, err));
    if ((section = joint_section(e, "report")))
        KS_TRY(plan_report(b, section, err));
    KS_CHECK(p->n_stages, KS_USAGE, "%s: no section says what to do", e->file);
done:
    return st;
}

ks_status ks_exp_plan_open(ks_exp_plan *p, const ks_exp *exp,
                           ks_exp_files *files, ks_exp_left_fn left, void *user,
                           ks_err *err) {
    ks_status st = KS_OK;
    *p = (ks_exp_plan){.exp = exp, .transfer = -1, .report = -1};
    builder b = {.draft = {.plan = p, .exp = exp, .files = files},
                 .left = left,
                 .user = user};
    KS_TRY(ks_alloc(&p->cells, exp->n_cells, sizeof *p->cells, "cells", err));
    KS_TRY(ks_alloc(&b.files, exp->n_cells, sizeof *b.files, "cells", err));
    KS_TRY(plan_all(&b, err));
done:
    ks__exp_drop(&b.draft);
    free(b.files);
    if (st != KS_OK) ks_exp_plan_close(p);
    return st;
}

void ks_exp_plan_close(ks_exp_plan *p) {
    for (size_t i = 0; i < p->n_stages; i++) {
        ks__exp_draft d = {.stage = p->stages[i]};
        ks__exp_drop(&d);
    }
    for (size_t i = 0; p->cells && i < p->exp->n_cells; i++) {
        for (size_t k = 0; k < p->cells[i].n_probes; k++)
            free(p->cells[i].probes[k].name);
        free(p->cells[i].probes);
        free(p->cells[i].stages);
    }
    free(p->stages);
    free(p->cells);
    *p = (ks_exp_plan){.transfer = -1, .report = -1};
}

int ks_exp_plan_find(const ks_exp_plan *p, const char *key) {
    int found = -1;
    size_t n = strlen(key);
    for (size_t i = 0; n > 0 && i < p->n_stages; i++) {
        const ks_exp_stage *s = &p->stages[i];
        if (strncmp(s->key, key, n) != 0 && strcmp(s->id, key) != 0) continue;
        if (found >= 0) return -1;
        found = (int)i;
    }
    return found;
}
