/* transfer_rows.c - the steps that sets on the same chains have in common, and
 * their folds. */
#include <stdlib.h>
#include <string.h>

#include "split.h"
#include "transfer.h"

typedef struct work {
    ks_transfer_rows *rows;
    const ks_transfer_set *set[KS_MAX_SETS];
    int8_t *label[KS_MAX_SETS]; /* [steps of its file] -1: none; NULL */
    int32_t master;             /* the first labelled set */
    json_t *problems, *groups;  /* id -> number */
    int64_t base[KS_MAX_SETS];  /* of the chain at hand, -1: not there */
} work;

/* ------------------------------------------------------------------- labels */

static ks_status lay_out_labels(work *w, int32_t k, ks_err *err) {
    const ks_dataset *d = w->set[k]->dataset;
    size_t n = (size_t)w->set[k]->info->n_steps;
    ks_status st = ks_alloc(&w->label[k], KS_MAX(n, 1), 1, "labels", err);
    if (st != KS_OK) return st;
    memset(w->label[k], -1, n);
    for (int64_t i = 0; i < d->n; i++) w->label[k][d->row[i]] = d->y[i];
    return KS_OK;
}

/* The first set with the same labels on the common rows: its probes serve. */
static void find_equal_labels(ks_transfer_rows *r) {
    for (int32_t k = 0; k < r->n_sets; k++) {
        r->labels_of[k] = k;
        for (int32_t e = 0; e < k && r->y[k]; e++)
            if (r->y[e] && memcmp(r->y[e], r->y[k], (size_t)r->view.n) == 0) {
                r->labels_of[k] = e;
                break;
            }
    }
}

/* -------------------------------------------------------------------- steps */

/* Where chain c of the master begins in every file. */
static ks_status place_chain(work *w, int64_t c, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_set *m = w->set[w->master];
    const ks_chain_row *chain = &m->info->chains[c];
    for (int32_t k = 0; k < w->rows->n_sets; k++) {
        const ks_transfer_set *s = w->set[k];
        json_t *found = json_object_get(s->index, chain->id);
        int64_t at = json_integer_value(found);
        w->base[k] = -1;
        if (!found) continue;
        KS_CHECK(strcmp(s->info->chains[at].text_sha256, chain->text_sha256) ==
                     0,
                 KS_MISMATCH, "chain %s: %s is of another text than %s",
                 chain->id, s->source->acts, m->source->acts);
        KS_CHECK(strcmp(s->info->chains[at].problem, chain->problem) == 0,
                 KS_MISMATCH, "chain %s: of problem %s in %s, %s in %s",
                 chain->id, s->info->chains[at].problem, s->source->acts,
                 chain->problem, m->source->acts);
        KS_CHECK(
            s->first[at + 1] - s->first[at] == m->first[c + 1] - m->first[c],
            KS_MISMATCH, "chain %s: %lld steps in %s, %lld in %s", chain->id,
            (long long)(s->first[at + 1] - s->first[at]), s->source->acts,
            (long long)(m->first[c + 1] - m->first[c]), m->source->acts);
        w->base[k] = s->first[at];
    }
done:
    return st;
}

/* Step i of it: in every file, valid, cut at the same bytes? */
static ks_status check_step(const work *w, int64_t c, int64_t i, bool *common,
                            ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_set *m = w->set[w->master];
    const ks_step_row *step = &m->info->steps[m->first[c] + i];
    *common = false;
    for (int32_t k = 0; k < w->rows->n_sets; k++)
        if (w->base[k] < 0) return KS_OK;
    for (int32_t k = 0; k < w->rows->n_sets; k++) {
        const ks_step_row *s = &w->set[k]->info->steps[w->base[k] + i];
        KS_CHECK(s->byte_begin == step->byte_begin &&
                     s->byte_end == step->byte_end,
                 KS_MISMATCH,
                 "chain %s step %d: bytes %d to %d in %s, %d to %d in %s",
                 m->info->chains[c].id, step->index, s->byte_begin, s->byte_end,
                 w->set[k]->source->acts, step->byte_begin, step->byte_end,
                 m->source->acts);
        if (!s->valid) return KS_OK;
    }
    *common = true;
done:
    return st;
}

/* The number of a problem in the order of first sight. */
static ks_status number(json_t *index, const char *id, int32_t *n, int32_t *out,
                        ks_err *err) {
    ks_status st = KS_OK;
    json_t *found = json_object_get(index, id);
    if (!found) {
        found = json_integer((*n)++);
        KS_CHECK(json_object_set_new(index, id, found) == 0, KS_NOMEM,
                 "out of memory for problem ids");
    }
    *out = (int32_t)json_integer_value(found);
done:
    return st;
}

static ks_status take_labelled(work *w, int64_t c, int64_t i, ks_err *err) {
    ks_status st = KS_OK;
    ks_transfer_rows *r = w->rows;
    ks_dataset *v = &r->view;
    const ks_transfer_set *m = w->set[w->master];
    const char *problem = m->info->chains[c].problem;
    int32_t was = v->n_groups;
    for (int32_t k = 0; k < r->n_sets; k++)
        if (r->y[k] && w->label[k][w->base[k] + i] < 0) return KS_OK;
    int64_t at = v->n;
    KS_TRY(number(w->groups, problem, &v->n_groups, &v->group[at], err));
    if (v->n_groups > was) v->group_ids[was] = problem;
    if (v->n_chains == 0 || v->chain_row[v->n_chains - 1] != c)
        v->chain_row[v->n_chains++] = (int32_t)c;
    v->chain[at] = v->n_chains - 1;
    v->row[at] = m->first[c] + i;
    for (int32_t k = 0; k < r->n_sets; k++) {
        r->place[k][at] = w->base[k] + i;
        if (r->y[k]) r->y[k][at] = w->label[k][w->base[k] + i];
    }
    r->labelled[r->n_all] = v->n++;
done:
    return st;
}

static ks_status take_step(work *w, int64_t c, int64_t i, ks_err *err) {
    ks_status st = KS_OK;
    ks_transfer_rows *r = w->rows;
    const ks_transfer_set *m = w->set[w->master];
    bool common;
    KS_TRY(check_step(w, c, i, &common, err));
    if (!common) return KS_OK;
    r->labelled[r->n_all] = -1;
    KS_TRY(number(w->problems, m->info->chains[c].problem, &r->n_problems,
                  &r->problem[r->n_all], err));
    for (int32_t k = 0; k < r->n_sets; k++)
        r->all[k][r->n_all] = w->base[k] + i;
    KS_TRY(take_labelled(w, c, i, err));
    r->n_all++;
done:
    return st;
}

static ks_status alloc_rows(work *w, ks_err *err) {
    ks_status st = KS_OK;
    ks_transfer_rows *r = w->rows;
    ks_dataset *v = &r->view;
    size_t n = (size_t)KS_MAX(w->set[w->master]->info->n_steps, 1);
    for (int32_t k = 0; k < r->n_sets; k++) {
        KS_TRY(ks_alloc(&r->place[k], n, sizeof(int64_t), "rows", err));
        KS_TRY(ks_alloc(&r->all[k], n, sizeof(int64_t), "rows", err));
        if (!w->set[k]->dataset) continue;
        KS_TRY(ks_alloc(&r->y[k], n, 1, "labels", err));
        KS_TRY(lay_out_labels(w, k, err));
    }
    KS_TRY(ks_alloc(&r->labelled, n, sizeof *r->labelled, "rows", err));
    KS_TRY(ks_alloc(&r->problem, n, sizeof *r->problem, "rows", err));
    KS_TRY(ks_alloc(&v->row, n, sizeof *v->row, "rows", err));
    KS_TRY(ks_alloc(&v->group, n, sizeof *v->group, "rows", err));
    KS_TRY(ks_alloc(&v->chain, n, sizeof *v->chain, "rows", err));
    KS_TRY(ks_alloc(&v->group_ids, n, sizeof *v->group_ids, "rows", err));
    KS_TRY(ks_alloc(&v->chain_row, n, sizeof *v->chain_row, "rows", err));
    w->problems = json_object();
    w->groups = json_object();
    KS_CHECK(w->problems && w->groups, KS_NOMEM,
             "out of memory for problem ids");
done:
    return st;
}

/* -------------------------------------------------------------------- folds */

/* A problem's fold from its labelled steps; 255 where it has none. */
static ks_status fold_all(ks_transfer_rows *r, ks_err *err) {
    ks_status st = KS_OK;
    uint8_t *of = NULL;
    size_t seeds = (size_t)r->folds.n_seeds, n = (size_t)r->n_all;
    KS_TRY(ks_alloc(&of, (size_t)r->n_problems, 1, "folds", err));
    KS_TRY(ks_alloc(&r->all_fold, seeds * n, 1, "folds", err));
    for (size_t s = 0; s < seeds; s++) {
        memset(of, 255, (size_t)r->n_problems);
        for (size_t i = 0; i < n; i++)
            if (r->labelled[i] >= 0)
                of[r->problem[i]] =
                    r->fold[(int64_t)s * r->view.n + r->labelled[i]];
        for (size_t i = 0; i < n; i++)
            r->all_fold[s * n + i] = of[r->problem[i]];
    }
done:
    free(of);
    return st;
}

static ks_status make_folds(ks_transfer_rows *r, const ks_transfer_options *o,
                            const char *name, const int8_t *y, ks_err *err) {
    ks_status st = KS_OK;
    ks_dataset *v = &r->view;
    KS_CHECK(v->n_groups >= o->n_folds, KS_MISMATCH,
             "the steps that %s and the other sets on its chains all label and "
             "hold (%lld) are of %d problems; %d folds by problem need at "
             "least as many",
             name, (long long)v->n, v->n_groups, o->n_folds);
    ks_split_input input = {.n = v->n,
                            .y = y,
                            .group = v->group,
                            .n_groups = v->n_groups,
                            .ids = v->group_ids};
    KS_TRY(ks_alloc(&r->fold, (size_t)(o->n_seeds * v->n), 1, "folds", err));
    for (int32_t s = 0; s < o->n_seeds; s++)
        KS_TRY(ks_split_folds(&input, o->n_folds, o->grid.seed + (uint64_t)s,
                              r->fold + s * v->n, err));
    r->folds = (ks_folds){.n = v->n,
                          .n_folds = o->n_folds,
                          .n_inner = o->n_inner,
                          .n_seeds = o->n_seeds,
                          .fold = r->fold};
    KS_TRY(fold_all(r, err));
done:
    return st;
}

/* Both classes in every label set, of what all of them have. */
static ks_status check_classes(const work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_rows *r = w->rows;
    for (int32_t k = 0; k < r->n_sets; k++) {
        int64_t ones = 0;
        for (int64_t i = 0; r->y[k] && i < r->view.n; i++) ones += r->y[k][i];
        KS_CHECK(!r->y[k] || (ones > 0 && ones < r->view.n), KS_MISMATCH,
                 "set %s: of the %lld steps that all sets on its chains label "
                 "and hold %lld are important, expected some of both",
                 w->set[k]->source->name, (long long)r->view.n,
                 (long long)ones);
    }
done:
    return st;
}

ks_status ks__transfer_rows(ks_transfer_rows *r, const ks_transfer *t,
                            ks_err *err) {
    ks_status st = KS_OK;
    work w = {.rows = r, .master = -1};
    for (int32_t k = 0; k < r->n_sets; k++) {
        w.set[k] = &t->sets[r->set[k]];
        if (w.master < 0 && w.set[k]->dataset) w.master = k;
    }
    KS_CHECK(w.master >= 0, KS_USAGE,
             "set %s and those on the same chains have no labels: NAME=ACTS:"
             "LABELS gives them",
             t->sets[r->set[0]].source->name);
    const ks_transfer_set *m = w.set[w.master];
    r->view.acts = m->file;
    r->view.info = m->info;
    KS_TRY(alloc_rows(&w, err));
    for (int64_t c = 0; c < m->info->n_chains; c++) {
        KS_TRY(place_chain(&w, c, err));
        for (int64_t i = 0; i < m->first[c + 1] - m->first[c]; i++)
            KS_TRY(take_step(&w, c, i, err));
    }
    KS_TRY(check_classes(&w, err));
    find_equal_labels(r);
    KS_TRY(make_folds(r, t->options, m->source->name, r->y[w.master], err));
done:
    for (int32_t k = 0; k < r->n_sets; k++) free(w.label[k]);
    json_decref(w.problems);
    json_decref(w.groups);
    return st;
}

void ks__transfer_rows_free(ks_transfer_rows *r) {
    for (int32_t k = 0; k < r->n_sets; k++) {
        free(r->place[k]);
        free(r->y[k]);
        free(r->all[k]);
    }
    free(r->view.row);
    free(r->view.group);
    free(r->view.chain);
    free(r->view.group_ids);
    free(r->view.chain_row);
    free(r->labelled);
    free(r->problem);
    free(r->fold);
    free(r->all_fold);
    free(r->set);
    *r = (ks_transfer_rows){0};
}
