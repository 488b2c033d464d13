/* dataset.c - joins an activation file with labels and chains, by id. */
#include "dataset_rows.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- fit rows */

/* First step row of every chain of a file, and one past the last. */
static ks_status first_rows(const ks_acts_info *info, const char *path,
                            int64_t **out, ks_err *err) {
    ks_status st = KS_OK;
    int64_t *first = NULL, n = info->n_chains;
    KS_TRY(ks_alloc(&first, (size_t)n + 1, sizeof *first, "chain rows", err));
    int64_t chain = 0; /* chains whose first row is known */
    for (int64_t i = 0; i < info->n_steps; i++) {
        int64_t at = info->steps[i].chain;
        KS_CHECK(at >= chain - 1 && at >= 0 && at < n, KS_FORMAT,
                 "%s: step %lld is of chain %lld, expected %lld to %lld", path,
                 (long long)i, (long long)at, (long long)(chain - 1),
                 (long long)(n - 1));
        while (chain <= at) first[chain++] = i;
    }
    while (chain <= n) first[chain++] = info->n_steps;
    *out = first;
    first = NULL;
done:
    free(first);
    return st;
}

/* Chain id -> row of /chains. */
static ks_status index_chains(const ks_acts_info *info, const char *path,
                              json_t **out, ks_err *err) {
    ks_status st = KS_OK;
    json_t *index = json_object();
    KS_CHECK(index, KS_NOMEM, "out of memory for chain ids");
    for (int64_t c = 0; c < info->n_chains; c++) {
        const char *id = info->chains[c].id;
        KS_CHECK(!json_object_get(index, id), KS_FORMAT,
                 "%s: chain %s is there twice", path, id);
        KS_CHECK(json_object_set_new(index, id, json_integer(c)) == 0, KS_NOMEM,
                 "out of memory for chain ids");
    }
    *out = index;
    index = NULL;
done:
    json_decref(index);
    return st;
}

typedef struct counter {
    const json_t *index;
    const int64_t *first;
} counter;

static int32_t steps_of(void *user, const char *chain) {
    const counter *c = user;
    json_t *found = json_object_get(c->index, chain);
    int64_t at = json_integer_value(found);
    return found ? (int32_t)(c->first[at + 1] - c->first[at]) : -1;
}

static ks_status check_labels(const ks_dataset *d, const ks_dataset_paths *p,
                              const json_t *index, const int64_t *first,
                              ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < d->labels.n; i++) {
        const ks_label *label = &d->labels.at[i];
        json_t *found = json_object_get(index, label->chain);
        KS_CHECK(found, KS_MISMATCH, "%s: chain %s is labelled but not in %s",
                 p->labels, label->chain, p->acts);
        int64_t c = json_integer_value(found);
        KS_CHECK(first[c + 1] - first[c] == label->n_steps, KS_MISMATCH,
                 "chain %s: %d labels in %s, %lld steps in %s", label->chain,
                 label->n_steps, p->labels,
                 (long long)(first[c + 1] - first[c]), p->acts);
        const char *hash = label->text_sha256;
        KS_CHECK(!hash || strcmp(hash, d->info->chains[c].text_sha256) == 0,
                 KS_MISMATCH,
                 "chain %s: %s is of another text than %s "
                 "(SHA-256 %.12s... and %.12s...)",
                 label->chain, p->labels, p->acts, hash,
                 d->info->chains[c].text_sha256);
    }
done:
    return st;
}

static ks_status check_text(const ks_dataset *d, const ks_dataset_paths *p,
                            const int64_t *first, ks_err *err) {
    ks_status st = KS_OK;
    for (int64_t c = 0; c < d->info->n_chains; c++) {
        const ks_chain_row *row = &d->info->chains[c];
        const ks_chain *chain = ks_chains_find(&d->chains, row->id);
        KS_CHECK(chain, KS_MISMATCH, "%s: chain %s of %s is not there",
                 p->chains, row->id, p->acts);
        KS_CHECK(strcmp(chain->text_sha256, row->text_sha256) == 0, KS_MISMATCH,
                 "chain %s: %s holds another text than %s "
                 "(SHA-256 %.12s... and %.12s...)",
                 row->id, p->chains, p->acts, chain->text_sha256,
                 row->text_sha256);
        for (int64_t i = first[c]; i < first[c + 1]; i++) {
            const ks_step_row *s = &d->info->steps[i];
            KS_CHECK(s->byte_begin >= 0 && s->byte_begin <= s->byte_end &&
                         (size_t)s->byte_end <= chain->text_length,
                     KS_FORMAT,
                     "%s: chain %s step %d is bytes %d to %d of a "
                     "text of %zu",
                     p->acts, row->id, s->index, s->byte_begin, s->byte_end,
                     chain->text_length);
        }
    }
done:
    return st;
}

/* ------------------------------------------------------------------- strata */

typedef struct names {
    char **at;
    size_t n, capacity;
} names;

static int by_value(const void *pa, const void *pb) {
    const char *a = *(char *const *)pa, *b = *(char *const *)pb;
    char *end_a, *end_b;
    double x = strtod(a, &end_a), y = strtod(b, &end_b);
    bool is_x = end_a != a && !*end_a, is_y = end_b != b && !*end_b;
    if (is_x != is_y) return is_x ? -1 : 1;
    if (is_x && x != y) return x < y ? -1 : 1;
    return strcmp(a, b);
}

/* Text of a stratum value; false: null. */
static bool name_of(json_t *value, char out[64]) {
    switch (json_typeof(value)) {
    case JSON_STRING:
        snprintf(out, 64, "%s", json_string_value(value));
        return true;
    case JSON_INTEGER:
        snprintf(out, 64, "%lld", (long long)json_integer_value(value));
        return true;
    case JSON_REAL:
        snprintf(out, 64, "%.6g", json_real_value(value));
        return true;
    case JSON_TRUE:
        snprintf(out, 64, "true");
        return true;
    case JSON_FALSE:
        snprintf(out, 64, "false");
        return true;
    default:
        return false;
    }
}

static json_t *stratum_of(const ks_dataset *d, const char *field, int64_t i) {
    const ks_step_row *s = &d->info->steps[d->row[i]];
    const ks_label *label =
        ks_labels_find(&d->labels, d->info->chains[s->chain].id);
    return label ? json_array_get(json_object_get(label->object, field),
                                  (size_t)s->index)
                 : NULL;
}

static ks_status collect_names(const ks_dataset *d, const char *field,
                               names *all, ks_err *err) {
    ks_status st = KS_OK;
    json_t *seen = json_object();
    KS_CHECK(seen, KS_NOMEM, "out of memory for strata");
    for (int64_t i = 0; i < d->n; i++) {
        char name[64];
        json_t *value = stratum_of(d, field, i);
        if (d->y[i] != 1 || !value || !name_of(value, name) ||
            json_object_get(seen, name))
            continue;
        KS_CHECK(all->n < 32, KS_LIMIT,
                 "--strata %s: more than 32 different "
                 "values",
                 field);
        KS_TRY(ks_grow(&all->at, &all->capacity, all->n + 1, sizeof *all->at,
                       "strata", err));
        KS_CHECK(json_object_set_new(seen, name, json_true()) == 0 &&
                     (all->at[all->n] = strdup(name)),
                 KS_NOMEM, "out of memory for strata");
        all->n++;
    }
    KS_CHECK(all->n, KS_MISMATCH,
             "--strata %s: no important step has a "
             "value in the label lines",
             field);
    qsort(all->at, all->n, sizeof *all->at, by_value);
done:
    json_decref(seen);
    return st;
}

static ks_status check_strata(const ks_dataset *d, const ks_dataset_paths *p,
                              ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < d->labels.n; i++) {
        const ks_label *label = &d->labels.at[i];
        json_t *field = json_object_get(label->object, p->strata);
        KS_CHECK(!field || (json_is_array(field) &&
                            json_array_size(field) == (size_t)label->n_steps),
                 KS_MISMATCH, "%s: chain %s: \"%s\" is not a list of %d values",
                 p->labels, label->chain, p->strata, label->n_steps);
    }
done:
    return st;
}

static ks_status add_strata(ks_dataset *d, const ks_dataset_paths *p,
                            ks_err *err) {
    ks_status st = KS_OK;
    names all = {0};
    KS_CHECK(p->labels, KS_USAGE, "--strata needs --labels");
    KS_TRY(check_strata(d, p, err));
    KS_TRY(collect_names(d, p->strata, &all, err));
    KS_TRY(
        ks_alloc(&d->stratum, (size_t)d->n, sizeof *d->stratum, "strata", err));
    for (int64_t i = 0; i < d->n; i++) {
        char name[64];
        json_t *value = stratum_of(d, p->strata, i);
        d->stratum[i] = -1;
        if (!value || !name_of(value, name)) continue;
        for (size_t k = 0; k < all.n; k++)
            if (strcmp(all.at[k], name) == 0) d->stratum[i] = (int32_t)k;
    }
done:
    d->strata = all.at;
    d->n_strata = (int32_t)all.n;
    return st;
}

/* --------------------------------------------------------------------- rows */

static int label_of(const ks_dataset *d, bool from_file, int64_t row,
                    const ks_label *label) {
    if (!from_file) return d->info->steps[row].label;
    return label ? label->labels[d->info->steps[row].index] : -1;
}

ks_status ks__dataset_number_groups(ks_dataset *d, ks_err *err) {
    ks_status st = KS_OK;
    json_t *seen = json_object();
    KS_CHECK(seen, KS_NOMEM, "out of memory for problem ids");
    for (int64_t i = 0; i < d->n; i++) {
        const char *id =
            d->info->chains[d->info->steps[d->row[i]].chain].problem;
        json_t *found = json_object_get(seen, id);
        if (!found) {
            d->group_ids[d->n_groups] = id;
            found = json_integer(d->n_groups++);
            KS_CHECK(json_object_set_new(seen, id, found) == 0, KS_NOMEM,
                     "out of memory for problem ids");
        }
        d->group[i] = (int32_t)json_integer_value(found);
    }
done:
    json_decref(seen);
    return st;
}

ks_status ks__dataset_alloc_rows(ks_dataset *d, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)KS_MAX(d->info->n_steps, 1);
    KS_TRY(ks_alloc(&d->row, n, sizeof *d->row, "rows", err));
    KS_TRY(ks_alloc(&d->y, n, sizeof *d->y, "rows", err));
    KS_TRY(ks_alloc(&d->group, n, sizeof *d->group, "rows", err));
    KS_TRY(ks_alloc(&d->chain, n, sizeof *d->chain, "rows", err));
    KS_TRY(ks_alloc(&d->span, n, sizeof *d->span, "rows", err));
    KS_TRY(ks_alloc(&d->of, n, sizeof *d->of, "rows", err));
    KS_TRY(ks_alloc(&d->group_ids, n, sizeof *d->group_ids, "rows", err));
    KS_TRY(ks_alloc(&d->chain_row, n, sizeof *d->chain_row, "rows", err));
done:
    return st;
}

void ks__dataset_take_row(ks_dataset *d, int64_t row, int8_t y) {
    const ks_step_row *s = &d->info->steps[row];
    int64_t i = d->n++;
    d->row[i] = row;
    d->y[i] = y;
    if (d->n_chains == 0 || d->chain_row[d->n_chains - 1] != s->chain)
        d->chain_row[d->n_chains++] = s->chain;
    d->chain[i] = d->n_chains - 1;
    d->span[i] = (ks_span){(size_t)s->byte_begin, (size_t)s->byte_end};
    if (d->has_text)
        d->of[i] = ks_chains_find(&d->chains, d->info->chains[s->chain].id);
    *(y > 0    ? &d->n_important
      : y == 0 ? &d->n_removable
               : &d->n_unlabelled) += 1;
}

static ks_status take_rows(ks_dataset *d, const ks_dataset_paths *p,
                           const int64_t *first, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks__dataset_alloc_rows(d, err));
    for (int64_t c = 0; c < d->info->n_chains; c++) {
        const ks_label *label =
            p->labels ? ks_labels_find(&d->labels, d->info->chains[c].id)
                      : NULL;
        d->n_chains_unlabelled += p->labels && !label;
        for (int64_t row = first[c]; row < first[c + 1]; row++) {
            const ks_step_row *s = &d->info->steps[row];
            KS_CHECK(s->index == row - first[c], KS_FORMAT,
                     "%s: chain %s: step %d stands at place %lld", p->acts,
                     d->info->chains[c].id, s->index,
                     (long long)(row - first[c]));
            int y = label_of(d, p->labels != NULL, row, label);
            if (y < 0)
                d->n_unlabelled++;
            else if (!s->valid)
                d->n_invalid++;
            else
                ks__dataset_take_row(d, row, (int8_t)y);
        }
    }
    KS_CHECK(d->n_important && d->n_removable, KS_MISMATCH,
             "%s: %lld important and %lld removable steps can be probed, "
             "expected some of both",
             p->labels ? p->labels : p->acts, (long long)d->n_important,
             (long long)d->n_removable);
    KS_TRY(ks__dataset_number_groups(d, err));
done:
    return st;
}

/* --------------------------------------------------------------- open, close
 */

ks_status ks_dataset_open(ks_dataset **out, const ks_dataset_paths *paths,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_dataset *d = NULL;
    json_t *index = NULL;
    int64_t *first = NULL;
    ks_chains clean = {0};
    /* strata and projection read fields of the label lines */
    ks_keep keep = paths->strata || paths->clean || paths->scores
                       ? KS_KEEP_OBJECTS
                       : KS_KEEP_FIELDS;
    KS_TRY(ks_alloc(&d, 1, sizeof *d, "data set", err));
    KS_TRY(ks_acts_open_whole(&d->acts, paths->acts, err));
    d->info = ks_acts_get_info(d->acts);
    KS_CHECK(paths->labels || d->info->has_labels, KS_USAGE,
             "%s carries no labels: --labels is needed", paths->acts);
    KS_TRY(first_rows(d->info, paths->acts, &first, err));
    KS_TRY(index_chains(d->info, paths->acts, &index, err));
    if (paths->labels) {
        KS_TRY(ks_labels_read(&d->labels, paths->labels, keep, err));
        if (paths->clean) {
            KS_TRY(ks_chains_read(&clean, paths->clean, keep, err));
            KS_TRY(ks_labels_project(&d->labels, &clean, steps_of,
                                     &(counter){index, first}, paths->acts,
                                     err));
        }
        KS_TRY(check_labels(d, paths, index, first, err));
    }
    if (paths->chains) {
        KS_TRY(ks_chains_read(&d->chains, paths->chains, KS_KEEP_FIELDS, err));
        KS_TRY(check_text(d, paths, first, err));
        d->has_text = true;
    }
    KS_TRY(take_rows(d, paths, first, err));
    if (paths->strata) KS_TRY(add_strata(d, paths, err));
    *out = d;
    d = NULL;
done:
    ks_chains_free(&clean);
    json_decref(index);
    free(first);
    ks_dataset_close(&d);
    return st;
}

void ks_dataset_close(ks_dataset **dataset) {
    ks_dataset *d = *dataset;
    if (!d) return;
    if (!d->of_another) {
        ks_acts_close(&d->acts);
        ks_chains_free(&d->chains);
        ks_labels_free(&d->labels);
    }
    free(d->row);
    free(d->y);
    free(d->group);
    free(d->chain);
    free(d->span);
    free(d->of);
    free(d->group_ids);
    free(d->chain_row);
    free(d->stratum);
    for (int32_t i = 0; i < d->n_strata; i++) free(d->strata[i]);
    free(d->strata);
    free(d);
    *dataset = NULL;
}

/* ------------------------------------------------------------------- look up
 */

const char *ks_dataset_text(const ks_dataset *d, int64_t i, size_t *n) {
    *n = d->span[i].end - d->span[i].begin;
    return d->of[i]->text + d->span[i].begin;
}

const char *ks_dataset_question(const ks_dataset *d, int64_t i, size_t *n) {
    const ks_chain *chain = d->of[i];
    *n = chain->question ? chain->question_length : chain->prompt_length;
    return chain->question ? chain->question : chain->prompt;
}

int32_t ks_dataset_steps(const ks_dataset *d, int64_t i) {
    int64_t row = d->row[i];
    int32_t chain = d->info->steps[row].chain;
    while (row + 1 < d->info->n_steps && d->info->steps[row + 1].chain == chain)
        row++;
    return d->info->steps[row].index + 1;
}

ks_status ks_dataset_index(const ks_acts_info *info, const char *path,
                           json_t **index, int64_t **first, ks_err *err) {
    ks_status st = first_rows(info, path, first, err);
    if (st == KS_OK) st = index_chains(info, path, index, err);
    if (st != KS_OK) {
        free(*first);
        *first = NULL;
    }
    return st;
}

ks_status ks_dataset_match(const ks_dataset *d, const ks_acts_file *other,
                           const char *path, int64_t *place, ks_err *err) {
    ks_status st = KS_OK;
    json_t *index = NULL;
    int64_t *first = NULL;
    const ks_acts_info *info = ks_acts_get_info(other);
    KS_TRY(first_rows(info, path, &first, err));
    KS_TRY(index_chains(info, path, &index, err));
    for (int64_t i = 0; i < d->n; i++) {
        const ks_step_row *s = &d->info->steps[d->row[i]];
        const ks_chain_row *chain = &d->info->chains[s->chain];
        json_t *found = json_object_get(index, chain->id);
        int64_t c = json_integer_value(found);
        KS_CHECK(found && s->index < first[c + 1] - first[c], KS_MISMATCH,
                 "%s: step %d of chain %s is not there", path, s->index,
                 chain->id);
        KS_CHECK(strcmp(info->chains[c].text_sha256, chain->text_sha256) == 0,
                 KS_MISMATCH, "%s: chain %s is of another text", path,
                 chain->id);
        place[i] = first[c] + s->index;
        KS_CHECK(info->steps[place[i]].valid, KS_MISMATCH,
                 "%s: step %d of chain %s has no activation there", path,
                 s->index, chain->id);
    }
done:
    json_decref(index);
    free(first);
    return st;
}
