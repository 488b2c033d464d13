/* label_search.c - the stages of the search in a sufficient prefix. Sets are
 * masks over its q searched steps and the answer suffix. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "label_state.h"

/* Thresholds that are asked about at once, and sets of a greedy removal where
 * few chains are under way: what is asked ahead may be for nothing. */
enum { THRESHOLDS = 3, AHEAD = 4, BUSY = 8 };

const double ks__thresholds[KS__THRESHOLDS] = {
    0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99};

static size_t n_mask(const ks__item *item) {
    return (size_t)item->q + 1;
}

/* The steps of the clean text in a set: those of the mask, and blank ones. */
static uint8_t *expand(ks__item *item, const uint8_t *mask) {
    const ks__text *t = &item->clean;
    uint8_t *keep = NULL;
    ks_status st = ks_alloc(&keep, t->steps.n, 1, "steps", &item->err);
    if (st != KS_OK) {
        ks__fail_item(item, st);
        return NULL;
    }
    memset(keep, 1, (size_t)item->p);
    for (int32_t i = 0; i < item->q; i++) keep[item->steps[i]] = mask[i];
    return keep;
}

bool ks__passes(ks__item *item, const uint8_t *mask, bool *passes) {
    const ks_label_options *o = &item->job->options;
    double attainable = 0, enough = 0;
    bool suffix = (o->compat & KS_COMPAT_PPL) &&
                  item->job->prompt.which != KS_TEMPLATE_HARMONY;
    uint8_t *keep = expand(item, mask);
    *passes = false;
    if (!keep) return false;
    bool known = ks__attainability(item, keep, suffix, &attainable);
    if (known && attainable >= o->enough) {
        known = ks__ask_enough(item, &item->clean, keep, false, &enough);
        *passes = known && ks__round4(enough) >= o->enough;
    }
    free(keep);
    return known;
}

/* -------------------------------------------------------------- influences */

static bool has_matrix(const ks__item *item) {
    ks_label_method method = item->job->options.method;
    return method == KS_LABEL_INFLUENCE || method == KS_LABEL_SUPPRESSION;
}

/* What later steps lose without attention to each, on average; as influences
 * what is lost counts, and no gain. */
static ks_status suppress(ks__item *item, const ks_tokens *tokens,
                          const int32_t *bounds, bool rank, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = item->q + 1;
    size_t size = (size_t)n * (size_t)n;
    ks_label_worker *w = item->worker;
    double *matrix = NULL;
    KS_TRY(ks_alloc(&matrix, size, sizeof(double), "influences", err));
    KS_TRY(ks_alloc(&item->suppressed, (size_t)item->q, sizeof(double),
                    "scores", err));
    ks_influence_close(&w->influence); /* there is memory for one of them */
    if (!w->suppression)
        KS_TRY(ks_suppression_open(&w->suppression, w->engine, err));
    KS_TRY(ks_suppression_of(w->suppression, tokens->ids, (int32_t)tokens->n,
                             bounds, n, matrix, err));
    for (int32_t j = 0; j < item->q; j++) {
        for (int32_t k = j + 1; k < n; k++)
            item->suppressed[j] += matrix[(size_t)k * (size_t)n + (size_t)j];
        item->suppressed[j] /= n - 1 - j;
    }
    for (size_t i = 0; rank && i < size; i++)
        item->matrix[i] = fmax(0, matrix[i]);
done:
    free(matrix);
    return st;
}

static ks_status gradients(ks__item *item, const ks_tokens *tokens,
                           const int32_t *bounds, ks_err *err) {
    ks_status st = KS_OK;
    ks_label_worker *w = item->worker;
    ks_influence_how how = item->job->options.influence;
    how.compat = (item->job->options.compat & KS_COMPAT_SPANS) != 0;
    ks_suppression_close(&w->suppression);
    if (!w->influence) KS_TRY(ks_influence_open(&w->influence, w->engine, err));
    KS_TRY(ks_influence_of(w->influence, tokens->ids, (int32_t)tokens->n,
                           bounds, item->q + 1, &how, item->matrix, err));
done:
    return st;
}

static ks_status influences(ks__item *item, ks_err *err) {
    ks_status st = KS_OK;
    const ks_label_options *o = &item->job->options;
    bool ranks = o->method == KS_LABEL_SUPPRESSION;
    int32_t n = item->q + 1, *bounds = NULL;
    ks_tokens tokens = {0};
    KS_TRY(ks_alloc(&bounds, (size_t)n + 1, sizeof *bounds, "steps", err));
    KS_TRY(ks__tokens_of_prefix(item, &tokens, bounds, err));
    if (has_matrix(item))
        KS_TRY(ks_alloc(&item->matrix, (size_t)n * (size_t)n, sizeof(double),
                        "influences", err));
    bool counts = item->job->count != NULL;
    if (counts) ks__count_between(item, bounds);
    if (o->method == KS_LABEL_INFLUENCE && !counts)
        KS_TRY(gradients(item, &tokens, bounds, err));
    if ((o->suppress || ranks) && !counts)
        KS_TRY(suppress(item, &tokens, bounds, ranks, err));
    if (has_matrix(item)) {
        ks_influence matrix = {item->matrix, n};
        KS_TRY(ks_rank_steps(&matrix, item->score, item->order, err));
    }
done:
    if (st == KS_LIMIT)
        ks_fail(err, st, "chain %s: %.300s; a larger --memory is needed",
                item->chain->id, err->text);
    free(bounds);
    ks_tokens_free(&tokens);
    return st;
}

ks__stage_result ks__stage_influence(ks__item *item) {
    ks_status st = KS_OK;
    ks_err *err = &item->err;
    size_t q = (size_t)item->q;
    KS_TRY(ks_alloc(&item->score, q + 1, sizeof(double), "scores", err));
    KS_TRY(ks_alloc(&item->order, q + 1, sizeof(int32_t), "an order", err));
    KS_TRY(ks_alloc(&item->start, q + 1, 1, "steps", err));
    KS_TRY(ks_alloc(&item->core, q + 1, 1, "steps", err));
    memset(item->start, 1, q + 1);
    item->threshold = -1;
    if (q > 0) KS_TRY(influences(item, err));
    return KS__NEXT;
done:
    return ks__fail_item(item, st);
}

/* ------------------------------------------------------------------- sweep */

static ks_status select_at(ks__item *item, int32_t threshold, uint8_t *mask) {
    ks_influence matrix = {item->matrix, item->q + 1};
    ks_select how = {.threshold = ks__thresholds[threshold],
                     .last_step = !(item->job->options.compat & KS_COMPAT_LAST),
                     .recursive = true};
    return ks_select_steps(&matrix, &how, mask, &item->err);
}

static bool is_full(const ks__item *item, const uint8_t *mask) {
    return !memchr(mask, 0, n_mask(item));
}

/* The least threshold whose steps are enough; all steps are the end. */
static ks__stage_result sweep_matrix(ks__item *item) {
    ks_status st = KS_OK;
    int32_t unknown = 0;
    uint8_t *mask = NULL;
    bool found = false, full = false;
    KS_TRY(ks_alloc(&mask, n_mask(item), 1, "steps", &item->err));
    for (int32_t k = 0;
         k < KS__THRESHOLDS && unknown < THRESHOLDS && !found && !full; k++) {
        bool passes;
        KS_TRY(select_at(item, k, mask));
        bool known = ks__passes(item, mask, &passes);
        unknown += !known;
        full = is_full(item, mask);
        found = known && passes && unknown == 0;
        if (!found) continue;
        item->threshold = k;
        memcpy(item->start, mask, n_mask(item));
    }
done:
    free(mask);
    if (st != KS_OK) return ks__fail_item(item, st);
    return unknown > 0 ? KS__WAIT : KS__NEXT;
}

ks__stage_result ks__stage_sweep(ks__item *item) {
    bool passes;
    if (item->q == 0 || item->job->options.method == KS_LABEL_RANDOM)
        return KS__NEXT;
    if (has_matrix(item)) return sweep_matrix(item);
    ks_status st = ks__rank_as_told(item, &item->err);
    if (st != KS_OK) return ks__fail_item(item, st);
    if (!ks__passes(item, item->start, &passes)) return KS__WAIT;
    if (passes)
        item->threshold = 0; /* start is what it was meant to be */
    else
        memset(item->start, 1, n_mask(item));
    return KS__NEXT;
}

/* ------------------------------------------------------------------ greedy */

static ks_status open_walk(ks__item *item, ks__walk *walk, const uint8_t *start,
                           const int32_t *order) {
    ks_status st = KS_OK;
    int32_t *candidates = NULL, n = 0;
    KS_TRY(ks_alloc(&candidates, (size_t)item->q, sizeof *candidates,
                    "an order", &item->err));
    for (int32_t i = 0; i < item->q; i++)
        if (order[i] != item->q - 1) candidates[n++] = order[i];
    KS_TRY(ks_greedy_open(&walk->greedy, item->q + 1, start, candidates, n,
                          &item->err));
    walk->open = true;
done:
    free(candidates);
    return st;
}

static ks_status open_random(ks__item *item, int32_t k) {
    ks_status st = KS_OK;
    int32_t *order = NULL;
    uint8_t *all = NULL;
    char path[32];
    uint64_t key[2] = {item->job->options.seed, 0};
    snprintf(path, sizeof path, "order %d", k);
    KS_TRY(ks_alloc(&order, (size_t)item->q, sizeof *order, "an order",
                    &item->err));
    KS_TRY(ks_alloc(&all, n_mask(item), 1, "steps", &item->err));
    memset(all, 1, n_mask(item));
    KS_TRY(ks_philox_stream(&key[1], item->chain->id, path, 0, &item->err));
    ks_random_order(key, item->q, order);
    KS_TRY(open_walk(item, &item->orders[k], all, order));
done:
    free(order);
    free(all);
    return st;
}

/* The i-th in line left out; NULL: there is none. */
static uint8_t *without(const ks__walk *walk, int32_t i, uint8_t *mask) {
    int32_t step = ks_greedy_ahead(&walk->greedy, i);
    if (step < 0) return NULL;
    memcpy(mask, walk->greedy.mask, (size_t)walk->greedy.n);
    mask[step] = 0;
    return mask;
}

/* On to where an answer is missing; true at the end. */
static bool go_on(ks__item *item, ks__walk *walk, uint8_t *mask) {
    int32_t ahead = item->worker->in_flight < BUSY ? AHEAD : 1;
    bool passes, known = true;
    while (known && without(walk, 0, mask)) {
        known = ks__passes(item, mask, &passes);
        if (known) ks_greedy_tell(&walk->greedy, passes);
    }
    for (int32_t i = 1; !known && i < ahead && without(walk, i, mask); i++)
        ks__passes(item, mask, &passes);
    return known;
}

ks__stage_result ks__stage_greedy(ks__item *item) {
    ks_status st = KS_OK;
    const ks_label_options *o = &item->job->options;
    bool mine = o->method != KS_LABEL_RANDOM, all = true;
    uint8_t *mask = NULL;
    if (item->q == 0) return KS__NEXT;
    KS_TRY(ks_alloc(&mask, n_mask(item), 1, "steps", &item->err));
    if (mine && !item->main.open)
        KS_TRY(open_walk(item, &item->main, item->start, item->order));
    if (mine) all &= go_on(item, &item->main, mask);
    for (int32_t k = 0; k < o->orders; k++) {
        if (!item->orders[k].open) KS_TRY(open_random(item, k));
        all &= go_on(item, &item->orders[k], mask);
    }
    if (all) {
        const ks__walk *least = mine ? &item->main : &item->orders[0];
        memcpy(item->core, least->greedy.mask, n_mask(item));
    }
done:
    free(mask);
    if (st != KS_OK) return ks__fail_item(item, st);
    return all ? KS__NEXT : KS__WAIT;
}

/* ----------------------------------------------------------------- confirm */

/* The last step was kept without a question: it is asked about now. And the
 * core that many questions chose is asked about with other draws. */
ks__stage_result ks__stage_confirm(ks__item *item) {
    const ks_label_options *o = &item->job->options;
    bool passes = false, known = true;
    item->confirmed = NAN;
    item->last_needed = -1;
    if (item->q == 0) return KS__NEXT;
    if (item->core[item->q - 1]) {
        item->core[item->q - 1] = 0;
        known = ks__passes(item, item->core, &passes);
        item->core[item->q - 1] = 1;
        if (known) item->last_needed = !passes;
    }
    if (o->confirm > 0 && !o->exact) {
        uint8_t *keep = expand(item, item->core);
        if (!keep) return KS__WAIT;
        known &=
            ks__ask_enough(item, &item->clean, keep, true, &item->confirmed);
        free(keep);
    }
    return known ? KS__NEXT : KS__WAIT;
}

/* -------------------------------------------------------------------- drop */

ks__stage_result ks__stage_drop(ks__item *item) {
    ks_status st = KS_OK;
    uint8_t *mask = NULL, *keep = NULL;
    bool all = true;
    double with = 0, lacking = 0;
    if (!item->job->options.drop || item->q == 0) return KS__NEXT;
    if (!item->drop)
        KS_TRY(ks_alloc(&item->drop, (size_t)item->q, sizeof(double), "scores",
                        &item->err));
    KS_TRY(ks_alloc(&mask, n_mask(item), 1, "steps", &item->err));
    memset(mask, 1, n_mask(item));
    for (int32_t i = -1; i < item->q; i++) {
        if (i >= 0) mask[i] = 0;
        keep = expand(item, mask);
        if (i >= 0) mask[i] = 1;
        if (!keep) goto done;
        all &=
            ks__ask_answer(item, &item->clean, keep, i < 0 ? &with : &lacking);
        if (i >= 0) item->drop[i] = with - lacking;
        free(keep);
    }
done:
    free(mask);
    if (st != KS_OK) return ks__fail_item(item, st);
    return all && item->status == KS_OK ? KS__NEXT : KS__WAIT;
}
