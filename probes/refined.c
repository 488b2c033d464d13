/* refined.c - see refined.h. */
#include "refined.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------- options
 */

/* Takes a word that is not trained by AdamW; *known: it was one. */
static ks_status take_word(const char *word, size_t n, ks_refined_options *o,
                           bool *known, ks_err *err) {
    static const struct {
        const char *name;
        uint32_t directions;
        bool l1, attention, all;
    } words[] = {
        {"mean-difference", 1u << KS_MEAN_DIFFERENCE, false, false, false},
        {"lda", 1u << KS_LDA, false, false, false},
        {"l1", 0, true, false, false},
        {"attention", 0, false, true, false},
        {"attention:all", 0, false, true, true}};
    for (size_t k = 0; k < KS_COUNT(words); k++) {
        if (strlen(words[k].name) != n || memcmp(words[k].name, word, n) != 0)
            continue;
        if ((o->directions & words[k].directions) || (o->l1 && words[k].l1) ||
            (o->attention && words[k].attention))
            return ks_fail(err, KS_USAGE, "probe '%.*s' comes twice", (int)n,
                           word);
        o->directions |= words[k].directions;
        o->l1 |= words[k].l1;
        o->attention |= words[k].attention;
        o->attention_all |= words[k].all;
        *known = true;
    }
    return KS_OK;
}

ks_status ks_probe_words_read(const char *text, ks_kinds_options *kinds,
                              ks_refined_options *refined, ks_err *err) {
    ks_status st = KS_OK;
    ks_str rest = {0};
    refined->directions = 0;
    refined->l1 = refined->attention = refined->attention_all = false;
    kinds->n_recipes = 0;
    for (const char *at = text; at;) {
        size_t n = strcspn(at, ",");
        bool known = false;
        if (!n) /* says what it expects */
            KS_TRY(ks_recipes_read("", kinds->recipes, &kinds->n_recipes, err));
        KS_TRY(take_word(at, n, refined, &known, err));
        if (!known)
            KS_TRY(ks_str_printf(&rest, err, "%s%.*s", rest.length ? "," : "",
                                 (int)n, at));
        at = at[n] ? at + n + 1 : NULL;
    }
    if (rest.length)
        KS_TRY(
            ks_recipes_read(rest.data, kinds->recipes, &kinds->n_recipes, err));
done:
    ks_str_free(&rest);
    return st;
}

ks_status ks_graded_read(const char *text, ks_refined_options *refined,
                         ks_err *err) {
    ks_status st = KS_OK;
    refined->n_graded = 0;
    for (const char *at = text; at;) {
        size_t n = strcspn(at, ",");
        char *to = refined->graded[refined->n_graded];
        KS_CHECK(refined->n_graded < KS_MOST_GRADED, KS_USAGE,
                 "more than %d scores", KS_MOST_GRADED);
        KS_CHECK(n && n < sizeof refined->graded[0], KS_USAGE,
                 "expected names of scores such as influence,drop, got '%s'",
                 text);
        memcpy(to, at, n);
        to[n] = 0;
        for (int32_t k = 0; k < refined->n_graded; k++)
            KS_CHECK(strcmp(refined->graded[k], to) != 0, KS_USAGE,
                     "score '%s' comes twice", to);
        refined->n_graded++;
        at = at[n] ? at + n + 1 : NULL;
    }
done:
    return st;
}

/* --------------------------------------------------------------------- checks
 */

static bool wants(const ks_grid_options *grid, ks_stream s) {
    return !grid->streams || grid->streams >> s & 1;
}

ks_status ks_refined_check(const ks_dataset *dataset,
                           const ks_grid_options *grid,
                           const ks_refined_options *o, ks_err *err) {
    ks_status st = KS_OK;
    bool tokens = false;
    for (ks_stream s = 0; s < KS_N_STREAMS; s++)
        tokens |= wants(grid, s) && ks_acts_has(dataset->acts, s, KS_TOKENS) &&
                  ks_acts_has(dataset->acts, s, KS_MEAN);
    KS_CHECK(!o->attention || tokens, KS_USAGE,
             "attention looks at a step's tokens and is held beside their "
             "mean, and the activations lack them: capture with --positions "
             "mean,tokens");
    KS_CHECK(!o->attention || !grid->positions ||
                 grid->positions >> KS_MEAN & 1,
             KS_USAGE,
             "attention is held beside the probes at mean, which --positions "
             "leaves out");
    for (int32_t k = 0; k < o->n_graded; k++) {
        ks_dataset *rows = NULL;
        double *target = NULL;
        st = ks_dataset_graded(&rows, &target, dataset, o->graded[k], err);
        ks_dataset_close(&rows);
        free(target);
        KS_TRY(st);
    }
done:
    return st;
}

static bool attends(const ks_dataset *d, const ks_series *s) {
    return s->position == KS_MEAN && ks_acts_has(d->acts, s->stream, KS_TOKENS);
}

int64_t ks_refined_layers(const ks_grid *grid, const ks_refined_options *o) {
    int64_t n = 0;
    for (int32_t k = 0; k < grid->n_series; k++) {
        int64_t cells = grid->series[k].n_cells;
        n += (o->directions ? cells : 0) + o->l1 + o->n_graded * cells;
        if (o->attention && grid->series[k].position == KS_MEAN)
            n += o->attention_all ? cells : 1;
    }
    return n;
}

/* ------------------------------------------------------------------------ run
 */

typedef struct work {
    ks_refined *out;
    ks_others *others;
    const ks_analysis_input *in;
    const ks_refined_options *o;
    int64_t done;
} work;

static void step_done(work *w) {
    const ks_grid_options *o = w->in->options;
    w->done++;
    if (o->progress) o->progress(o->user, w->done);
}

static ks_status run_directions(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_grid *grid = w->in->grid;
    KS_TRY(ks_alloc(&w->out->directions, (size_t)grid->n_series,
                    sizeof *w->out->directions, "directions", err));
    for (int32_t k = 0; k < grid->n_series; k++)
        KS_TRY(ks_directions_run(&w->out->directions[k], w->others, w->in,
                                 &grid->series[k], w->o->directions, &w->done,
                                 err));
done:
    return st;
}

static ks_status run_sparse(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_grid *grid = w->in->grid;
    KS_TRY(ks_alloc(&w->out->sparse, (size_t)grid->n_series,
                    sizeof *w->out->sparse, "sparse probes", err));
    for (int32_t k = 0; k < grid->n_series; k++) {
        KS_TRY(ks_sparse_run(&w->out->sparse[k], w->others, w->in,
                             &grid->series[k], &w->out->fits,
                             &w->out->unconverged, err));
        step_done(w);
    }
done:
    return st;
}

static ks_status attend_series(work *w, const ks_series *s, ks_err *err) {
    ks_status st = KS_OK;
    bool all = w->o->attention_all;
    for (int32_t c = all ? 0 : -1; c < (all ? s->n_cells : 0); c++) {
        KS_TRY(ks_attended_run(&w->out->attended[w->out->n_attended], w->others,
                               w->in, s, c, &w->out->fits, &w->out->unconverged,
                               err));
        w->out->n_attended++;
        step_done(w);
    }
done:
    return st;
}

static ks_status run_attention(work *w, ks_err *err) {
    ks_status st = KS_OK;
    const ks_grid *grid = w->in->grid;
    size_t most = (size_t)ks_refined_layers(grid, w->o);
    KS_TRY(ks_alloc(&w->out->attended, most, sizeof *w->out->attended,
                    "attention", err));
    for (int32_t k = 0; k < grid->n_series; k++)
        if (attends(w->in->dataset, &grid->series[k]))
            KS_TRY(attend_series(w, &grid->series[k], err));
done:
    return st;
}

static ks_status run_graded(work *w, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_alloc(&w->out->graded, KS_MOST_GRADED, sizeof *w->out->graded,
                    "scores", err));
    for (int32_t k = 0; k < w->o->n_graded; k++)
        KS_TRY(ks_graded_run(&w->out->graded[w->out->n_graded++],
                             w->o->graded[k], w->in, &w->done, err));
done:
    return st;
}

ks_status ks_refined_run(ks_refined *out, ks_others *others,
                         const ks_analysis_input *in,
                         const ks_refined_options *o, ks_err *err) {
    ks_status st = KS_OK;
    work w = {.out = out, .others = others, .in = in, .o = o};
    *out = (ks_refined){.n_series = in->grid->n_series};
    if (o->directions) KS_TRY(run_directions(&w, err));
    if (o->l1) KS_TRY(run_sparse(&w, err));
    if (o->attention) KS_TRY(run_attention(&w, err));
    if (o->n_graded) KS_TRY(run_graded(&w, err));
done:
    if (st != KS_OK) ks_refined_free(out);
    return st;
}

void ks_refined_free(ks_refined *r) {
    for (int32_t k = 0; r->directions && k < r->n_series; k++)
        ks_directions_free(&r->directions[k]);
    for (int32_t k = 0; r->sparse && k < r->n_series; k++)
        ks_sparse_free(&r->sparse[k]);
    for (int32_t k = 0; k < r->n_graded; k++) ks_graded_free(&r->graded[k]);
    free(r->directions);
    free(r->sparse);
    free(r->attended);
    free(r->graded);
    *r = (ks_refined){0};
}
