/* label_chain.c - the stages of a chain, up to the shortest prefix that is
 * enough. A stage is called again whenever answers have come, and asks for
 * what it still lacks. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "label_state.h"

/* Prefixes that are asked about at once: the first that is enough is mostly
 * near, and what lies behind it is asked for nothing. */
enum { PREFIXES = 8 };

double ks__round4(double x) {
    return round(x * 1e4) / 1e4;
}

ks__stage_result ks__fail_item(ks__item *item, ks_status st) {
    if (item->status == KS_OK) item->status = st;
    return KS__WAIT;
}

static ks__stage_result skip(ks__item *item, ks_label_skip why) {
    item->skip = why;
    return KS__NEXT;
}

static bool compat(const ks__item *item, ks_label_compat what) {
    return (item->job->options.compat & what) != 0;
}

/* Nothing is filtered, cut or searched. */
static bool is_curve(const ks__item *item) {
    return item->job->options.method == KS_LABEL_CURVE;
}

/* ----------------------------------------------------------------- filters */

/* The thinking ended, as `generate` and `import` say it, where the line has it.
 * Many models open no thinking that a mark could end. */
static bool is_finished(const ks_chain *chain) {
    json_t *finished = json_object_get(chain->object, "finished");
    json_t *closed = json_object_get(chain->object, "closed");
    bool opened =
        ks_text_opening(chain->prompt, chain->prompt_length) != SIZE_MAX;
    return !json_is_false(finished) && !(opened && json_is_false(closed));
}

static bool is_blank(const char *text) {
    ks_span inside = ks_text_trim(text, (ks_span){0, strlen(text)});
    return inside.begin == inside.end;
}

static ks__stage_result filter(ks__item *item) {
    ks_status st = KS_OK;
    ks_err *err = &item->err;
    bool wrong = false;
    const char *gold = item->problem ? item->problem->answer : NULL;
    ks__text *t = &item->original;
    if (!gold || is_blank(gold)) return skip(item, KS_SKIP_NO_ANSWER);
    if (!is_finished(item->chain) && !is_curve(item))
        return skip(item, KS_SKIP_UNFINISHED);
    if (t->steps.n == 0) return skip(item, KS_SKIP_NO_STEPS);
    KS_TRY(ks_text_answer_step(t->data, t->length, &t->steps, gold,
                               strlen(gold), compat(item, KS_COMPAT_EQUAL),
                               &t->answer, &wrong, err));
    if (wrong && !is_curve(item)) return skip(item, KS_SKIP_WRONG);
    if (t->answer < 0 && !is_curve(item)) return skip(item, KS_SKIP_NOT_STATED);
    if (item->too_long) return skip(item, KS_SKIP_TOO_LONG);
    KS_TRY(ks_alloc(&item->cut, t->steps.n, 1, "steps", err));
    return KS__NEXT;
done:
    return ks__fail_item(item, st);
}

static ks__stage_result needed(ks__item *item) {
    ks_status st = KS_OK;
    uint8_t *none = NULL;
    double enough = 0;
    KS_TRY(ks_alloc(&none, item->original.steps.n, 1, "steps", &item->err));
    bool known = ks__ask_enough(item, &item->original, none, false, &enough);
    free(none);
    if (!known) return KS__WAIT;
    item->necessity = ks__round4(1 - enough);
    if (item->necessity < item->job->options.enough)
        return skip(item, KS_SKIP_UNNEEDED);
    return KS__NEXT;
done:
    return ks__fail_item(item, st);
}

/* ---------------------------------------------------------------- shortcuts */

static ks_status states(ks__item *item, size_t i, bool *out) {
    const ks__text *t = &item->original;
    ks_span s = t->steps.at[i];
    const char *gold = item->problem->answer;
    return ks_text_states(t->data + s.begin, s.end - s.begin, gold,
                          strlen(gold), compat(item, KS_COMPAT_STATES), out,
                          &item->err);
}

/* A step that is enough alone gives the answer away. */
static ks__stage_result shortcuts(ks__item *item) {
    ks_status st = KS_OK;
    const ks__text *t = &item->original;
    uint8_t *one = NULL;
    bool all = true;
    KS_TRY(ks_alloc(&one, t->steps.n, 1, "steps", &item->err));
    for (size_t i = 0; i < t->steps.n; i++) {
        bool stated = false, known = true;
        double enough = 0;
        if ((int64_t)i == t->answer) continue;
        KS_TRY(states(item, i, &stated));
        one[i] = 1;
        if (!stated) known = ks__ask_enough(item, t, one, false, &enough);
        one[i] = 0;
        all = all && known;
        item->cut[i] =
            stated || ks__round4(enough) >= item->job->options.enough;
    }
done:
    free(one);
    if (st != KS_OK) return ks__fail_item(item, st);
    return all ? KS__NEXT : KS__WAIT;
}

static ks__stage_result clean(ks__item *item) {
    ks_status st = KS_OK;
    const ks__text *t = &item->original;
    KS_TRY(ks__text_cut(t, item->cut, &item->clean, &item->map, &item->err));
    if (item->clean.steps.n < 2 && !is_curve(item))
        return skip(item, memchr(item->cut, 1, t->steps.n) ? KS_SKIP_ALL_CUT
                                                           : KS_SKIP_ONE_STEP);
    KS_TRY(ks_alloc(&item->steps, item->clean.steps.n, sizeof *item->steps,
                    "steps", &item->err));
    return KS__NEXT;
done:
    return ks__fail_item(item, st);
}

/* ------------------------------------------------------------------ prefix */

static void fill(uint8_t *keep, size_t n, size_t p) {
    for (size_t i = 0; i < n; i++) keep[i] = i < p;
}

/* The clean chain without the step that gives the answer is enough; and what
 * attainability is measured between. */
static ks__stage_result whole(ks__item *item) {
    ks_status st = KS_OK;
    size_t n = item->clean.steps.n;
    uint8_t *keep = NULL;
    double enough = 0;
    KS_TRY(ks_alloc(&keep, n, 1, "steps", &item->err));
    fill(keep, n, n);
    bool known = ks__ask_enough(item, &item->clean, keep, false, &enough);
    free(keep);
    if (known) {
        item->sufficiency = ks__round4(enough);
        if (item->sufficiency < item->job->options.enough)
            return skip(item, KS_SKIP_INSUFFICIENT);
    }
    known &= ks__ask_nll(item, &item->clean, NULL, false, &item->nll_all);
    known &= ks__ask_answer_nll(item, &item->nll_answer);
    return known ? KS__NEXT : KS__WAIT;
done:
    return ks__fail_item(item, st);
}

bool ks__attainability(ks__item *item, const uint8_t *keep, bool suffix,
                       double *out) {
    double nll;
    if (!ks__ask_nll(item, &item->clean, keep, suffix, &nll)) return false;
    double all = exp(item->nll_all), answer = exp(item->nll_answer);
    *out =
        answer == all ? 1 : ks__round4(1 - (exp(nll) - all) / (answer - all));
    return true;
}

/* *passes: of the first p steps. false: not known yet. */
static bool prefix_passes(ks__item *item, uint8_t *keep, int32_t p,
                          bool *passes) {
    const ks_label_options *o = &item->job->options;
    double attainable = 1, enough = 0;
    fill(keep, item->clean.steps.n, (size_t)p);
    *passes = false;
    bool known = compat(item, KS_COMPAT_PREFIX) ||
                 ks__attainability(item, keep, false, &attainable);
    if (!known || (attainable < o->enough && !o->all)) return known;
    if (!ks__ask_enough(item, &item->clean, keep, false, &enough)) return false;
    *passes = attainable >= o->enough && ks__round4(enough) >= o->enough;
    return true;
}

/* Those of the prefix's steps that are searched: not blank, not the answer's.
 */
static void list_steps(ks__item *item) {
    const ks__text *t = &item->clean;
    item->q = 0;
    for (int32_t i = 0; i < item->p; i++) {
        ks_span s = ks_text_trim(t->data, t->steps.at[i]);
        if (i != t->answer && s.end > s.begin) item->steps[item->q++] = i;
    }
}

/* The longest of those that are asked about is asked about first: it computes
 * what the others share. */
static ks__stage_result prefix(ks__item *item) {
    ks_status st = KS_OK;
    int32_t n = (int32_t)item->clean.steps.n, end, found = 0;
    uint8_t *keep = NULL;
    bool passes[PREFIXES], all = true;
    KS_TRY(ks_alloc(&keep, (size_t)n, 1, "steps", &item->err));
    while (!found && item->p < n && all) {
        end = KS_MIN(item->p + PREFIXES, n);
        for (int32_t p = end; p > item->p; p--)
            all &= prefix_passes(item, keep, p, &passes[p - item->p - 1]);
        if (!all) break;
        for (int32_t p = item->p + 1; p <= end && !found; p++)
            if (passes[p - item->p - 1]) found = p;
        item->p = found ? found : end;
    }
    free(keep);
    if (!all || item->status != KS_OK) return KS__WAIT;
    list_steps(item);
    if (compat(item, KS_COMPAT_KEEP) && (item->p < 10 || item->p > 200))
        return skip(item, KS_SKIP_LENGTH);
    return KS__NEXT;
done:
    return ks__fail_item(item, st);
}

/* Behind the prefix too, for who wants the whole curve. */
static ks__stage_result curve(ks__item *item) {
    ks_status st = KS_OK;
    int32_t n = (int32_t)item->clean.steps.n;
    uint8_t *keep = NULL;
    bool all = true;
    double enough;
    if (!item->job->options.all && !is_curve(item)) return KS__NEXT;
    KS_TRY(ks_alloc(&keep, (size_t)n, 1, "steps", &item->err));
    for (int32_t p = n; p > 0; p--) {
        fill(keep, (size_t)n, (size_t)p);
        all &= ks__ask_enough(item, &item->clean, keep, false, &enough);
    }
    free(keep);
    return all ? KS__NEXT : KS__WAIT;
done:
    return ks__fail_item(item, st);
}

/* ------------------------------------------------------------------ walking */

static ks__stage_result write_line(ks__item *item) {
    ks_status st = ks__write_item(item, &item->err);
    return st == KS_OK ? KS__NEXT : ks__fail_item(item, st);
}

typedef ks__stage_result (*stage_fn)(ks__item *);

static const stage_fn all_stages[] = {filter,
                                      needed,
                                      shortcuts,
                                      clean,
                                      whole,
                                      prefix,
                                      curve,
                                      ks__stage_influence,
                                      ks__stage_sweep,
                                      ks__stage_greedy,
                                      ks__stage_confirm,
                                      ks__stage_drop,
                                      ks__stage_resample,
                                      ks__stage_subsets,
                                      write_line,
                                      NULL};
/* Nothing is searched: what influence and confirm would find stays empty. */
static const stage_fn curve_stages[] = {
    filter,     clean, curve, ks__stage_influence, ks__stage_confirm,
    write_line, NULL};

static stage_fn stage_of(const ks__item *item) {
    return (is_curve(item) ? curve_stages : all_stages)[item->stage];
}

bool ks__item_done(const ks__item *item) {
    return item->skip != KS_SKIP_NONE || !stage_of(item);
}

void ks__item_advance(ks__item *item) {
    while (item->status == KS_OK && !ks__item_done(item)) {
        if (stage_of(item)(item) == KS__WAIT) break;
        item->stage++;
    }
}

static void free_walk(ks__walk *walk) {
    if (walk->open) ks_greedy_close(&walk->greedy);
}

void ks__item_free(ks__item *item) {
    while (item->asks) ks__ask_free(item->asks);
    ks__text_free(&item->original);
    ks__text_free(&item->clean);
    free_walk(&item->main);
    for (int32_t i = 0; i < KS__MOST_ORDERS; i++) free_walk(&item->orders[i]);
    free(item->cut);
    free(item->steps);
    free(item->matrix);
    free(item->score);
    free(item->order);
    free(item->start);
    free(item->core);
    free(item->drop);
    free(item->resample);
    free(item->suppressed);
    json_decref(item->map);
    json_decref(item->known);
    json_decref(item->line);
    json_decref(item->clean_line);
    json_decref(item->prefix_line);
    json_decref(item->skipped_line);
    *item = (ks__item){0};
}
