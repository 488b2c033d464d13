/* baselines_scores.c - see baselines.h: scores that others gave the steps. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "baselines_state.h"

enum { MOST_FIELDS = 32 };

typedef struct given {
    const ks_given_scores *from;
    ks_labels lines;
    char *fields[MOST_FIELDS];
    int32_t n_fields;
    float *value;            /* [n, n_fields], NaN: none */
    int64_t lacking;         /* rows without one of them */
    bool lacks[MOST_FIELDS]; /* some row does */
} given;

static void free_given(given *g) {
    for (int32_t k = 0; k < g->n_fields; k++) free(g->fields[k]);
    free(g->value);
    ks_labels_free(&g->lines);
}

/* ------------------------------------------------------------------- fields */

static ks_status add_field(given *g, const char *name, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    for (int32_t k = 0; k < g->n_fields; k++)
        if (strlen(g->fields[k]) == n && memcmp(g->fields[k], name, n) == 0)
            return KS_OK;
    KS_CHECK(g->n_fields < MOST_FIELDS, KS_LIMIT, "%s: more than %d scores",
             g->from->path, MOST_FIELDS);
    char **field = &g->fields[g->n_fields];
    KS_TRY(ks_alloc(field, n + 1, 1, "names of scores", err));
    memcpy(*field, name, n);
    g->n_fields++;
done:
    return st;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static ks_status find_fields(given *g, ks_err *err) {
    ks_status st = KS_OK;
    const char *at = g->from->fields;
    while (at) {
        size_t n = strcspn(at, "+");
        KS_CHECK(n, KS_USAGE, "%s: an empty name of a score in '%s'",
                 g->from->path, g->from->fields);
        KS_TRY(add_field(g, at, n, err));
        at = at[n] ? at + n + 1 : NULL;
    }
    for (size_t i = 0; !g->from->fields && i < g->lines.n; i++) {
        const char *name;
        json_t *list;
        json_object_foreach(json_object_get(g->lines.at[i].object, "scores"),
                            name, list)
            KS_TRY(add_field(g, name, strlen(name), err));
    }
    KS_CHECK(g->n_fields, KS_MISMATCH, "%s: its lines have no scores",
             g->from->path);
    if (!g->from->fields)
        qsort(g->fields, (size_t)g->n_fields, sizeof *g->fields, by_name);
done:
    return st;
}

/* ------------------------------------------------------------------- values */

/* The line of a row's chain, NULL: none; it is of the same steps and text. */
static ks_status line_of(const given *g, const ks_dataset *d, int64_t i,
                         const ks_label **out, ks_err *err) {
    ks_status st = KS_OK;
    const ks_step_row *s = &d->info->steps[d->row[i]];
    const ks_chain_row *chain = &d->info->chains[s->chain];
    const ks_label *line = ks_labels_find(&g->lines, chain->id);
    *out = line;
    if (!line) return KS_OK;
    int32_t n_steps = ks_dataset_steps(d, i);
    KS_CHECK(line->n_steps == n_steps, KS_MISMATCH,
             "%s: chain %s has %d scores, expected %d, one a step",
             g->from->path, chain->id, line->n_steps, n_steps);
    const char *hash = line->text_sha256;
    KS_CHECK(!hash || strcmp(hash, chain->text_sha256) == 0, KS_MISMATCH,
             "%s: chain %s was scored as another text (SHA-256 %.12s..., "
             "expected %.12s...)",
             g->from->path, chain->id, hash, chain->text_sha256);
done:
    return st;
}

static ks_status take_values(given *g, const ks_dataset *d, ks_err *err) {
    ks_status st = KS_OK;
    bool has[MOST_FIELDS] = {false};
    const ks_label *line = NULL;
    KS_TRY(ks_alloc(&g->value, (size_t)(d->n * g->n_fields), sizeof *g->value,
                    "scores", err));
    for (int64_t i = 0; i < d->n; i++) {
        bool all = true;
        if (i == 0 || d->chain[i] != d->chain[i - 1])
            KS_TRY(line_of(g, d, i, &line, err));
        json_t *scores = line ? json_object_get(line->object, "scores") : NULL;
        size_t step = (size_t)d->info->steps[d->row[i]].index;
        for (int32_t k = 0; k < g->n_fields; k++) {
            json_t *v =
                json_array_get(json_object_get(scores, g->fields[k]), step);
            bool there =
                json_is_number(v) && isfinite((float)json_number_value(v));
            g->value[i * g->n_fields + k] =
                there ? (float)json_number_value(v) : NAN;
            has[k] |= there;
            g->lacks[k] |= !there;
            all &= there;
        }
        g->lacking += !all;
    }
    for (int32_t k = 0; k < g->n_fields; k++)
        KS_CHECK(has[k], KS_MISMATCH, "%s: no labelled step has a score \"%s\"",
                 g->from->path, g->fields[k]);
done:
    return st;
}

/* --------------------------------------------------------------------- fits */

/* Where a value lacks, the mean of those of the rows outside fold `out` (-1:
 * of all), and 1 in the column of its own that such a score has. x [n, width].
 */
static void fill(const given *g, int64_t n, const uint8_t *fold, int32_t out,
                 int32_t width, float *x) {
    for (int32_t k = 0, flag = g->n_fields; k < g->n_fields; k++) {
        double sum = 0, count = 0;
        for (int64_t i = 0; i < n; i++) {
            float v = g->value[i * g->n_fields + k];
            if (fold[i] == out || isnan(v)) continue;
            sum += (double)v;
            count++;
        }
        float mean = count > 0 ? (float)(sum / count) : 0;
        for (int64_t i = 0; i < n; i++) {
            float v = g->value[i * g->n_fields + k];
            x[i * width + k] = isnan(v) ? mean : v;
            if (g->lacks[k]) x[i * width + flag] = isnan(v);
        }
        flag += g->lacks[k];
    }
}

/* Some lack a score: the matrix is each fold's own. */
static ks_status fit_folds(ks_baselines_work *w, const given *g, ks_baseline *b,
                           int32_t width, float *x, ks_err *err) {
    ks_status st = KS_OK;
    const ks_folds *all = w->folds;
    const int8_t *y = w->d->y;
    int64_t n = w->d->n;
    ks_nest nest = {0};
    ks_nest_options options = w->options->nest;
    options.keep_weights = options.keep_inner = false;
    options.threads = 1;
    KS_TRY(ks_alloc(&b->by_seed, (size_t)(all->n_seeds * n), sizeof(float),
                    "scores", err));
    KS_TRY(ks_alloc(&b->strength, (size_t)(all->n_seeds * all->n_folds),
                    sizeof(double), "scores", err));
    for (int32_t s = 0; s < all->n_seeds; s++)
        for (int32_t f = 0; f < all->n_folds; f++) {
            ks_folds one = *all;
            one.n_seeds = 1;
            one.fold += s * n;
            options.outer = 1u << f;
            fill(g, n, one.fold, f, width, x);
            KS_TRY(ks_nest_fit(&nest, x, width, &y, &one, &options, err));
            for (int64_t i = 0; i < n; i++)
                if (one.fold[i] == f) b->by_seed[s * n + i] = nest.score[i];
            b->strength[s * all->n_folds + f] = nest.strength[f];
            w->out->fits += nest.columns;
            w->out->unconverged += nest.unconverged;
            ks_nest_free(&nest);
        }
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int32_t s = 0; s < all->n_seeds; s++)
            sum += (double)b->by_seed[s * n + i];
        b->score[i] = (float)(sum / all->n_seeds);
    }
    KS_TRY(ks__baseline_finish(w, b, err));
done:
    return st;
}

static ks_status say(const given *g, ks_baseline *b, int64_t n, ks_err *err) {
    ks_status st = KS_OK;
    ks_str note = {0};
    for (int32_t k = 0; k < g->n_fields; k++)
        KS_TRY(ks_str_printf(&note, err, "%s%s", k ? ", " : "scores ",
                             g->fields[k]));
    const char *slash = strrchr(g->from->path, '/');
    KS_TRY(
        ks_str_printf(&note, err, " of %s", slash ? slash + 1 : g->from->path));
    if (g->lacking)
        KS_TRY(ks_str_printf(&note, err,
                             "; %lld of %lld steps lack one, have the training "
                             "rows' mean in its place and a feature that says "
                             "so",
                             (long long)g->lacking, (long long)n));
    b->said = note.data;
    b->note = b->said;
    note.data = NULL;
done:
    ks_str_free(&note);
    return st;
}

static ks_status one(ks_baselines_work *w, const ks_given_scores *from,
                     ks_err *err) {
    ks_status st = KS_OK;
    given g = {.from = from};
    float *x = NULL;
    ks_baseline *b;
    KS_TRY(ks_labels_read(&g.lines, from->path, KS_KEEP_OBJECTS, err));
    KS_TRY(find_fields(&g, err));
    KS_TRY(take_values(&g, w->d, err));
    KS_TRY(ks__baseline_add(w, from->name, "", &b, err));
    KS_TRY(say(&g, b, w->d->n, err));
    int32_t width = g.n_fields;
    for (int32_t k = 0; k < g.n_fields; k++) width += g.lacks[k];
    KS_TRY(ks_alloc(&x, (size_t)(w->d->n * width), sizeof *x, "scores", err));
    if (g.lacking) {
        KS_TRY(fit_folds(w, &g, b, width, x, err));
    } else {
        fill(&g, w->d->n, w->folds->fold, -1, width, x);
        KS_TRY(ks__baseline_fit(w, b, x, width, err));
    }
done:
    free_given(&g);
    free(x);
    return st;
}

ks_status ks__baselines_scores(ks_baselines_work *w, ks_err *err) {
    ks_status st = KS_OK;
    for (int32_t i = 0; i < w->options->n_scores; i++)
        KS_TRY(one(w, &w->options->scores[i], err));
done:
    return st;
}
