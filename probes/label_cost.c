/* label_cost.c - what a job will cost in tokens, before it runs. The stages
 * themselves ask, as in a run; their questions are counted in place of being
 * sent, and answered by what is supposed: every second step is needed, counted
 * back from the answer, so the whole chain is the prefix, and the influences
 * know which. Samples of a set that is enough are alike, those of others say
 * two things, continuations all differ and are as long as the rest of the
 * chain. How many chains fall to a filter that asks the model is not to be
 * known ahead, nor what a full store makes it compute again.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../host/token_tree.h"
#include "between.h"
#include "label_state.h"

/* Tokens of questions that are counted one by one (some seconds of
 * tokenisation); chains beyond that are taken to cost what others of their size
 * do. */
enum { MOST_WALKED = 20000000 };

struct ks__count {
    ks_token_tree tree; /* what the store would hold of a chain's questions */
    bool asked_clean;   /* of this chain */
    int64_t text;       /* its tokens */
    ks_tokens prompt;   /* its own, or that of the chain ahead */
    ks_label_cost cost;
};

/* ------------------------------------------------------------------ a chain */

static bool is_needed(const ks__text *t, size_t step) {
    size_t last = t->steps.n - 1, ahead = last - step;
    if ((int64_t)step == t->answer) return false;
    if (t->answer > (int64_t)step) ahead--;
    return ahead % 2 == 0;
}

/* Of "enough c 1f03" whether the set has all needed steps. */
static bool is_enough(const ks__ask *a) {
    const ks__text *t = &a->item->clean;
    const char *set = strrchr(a->key, ' '), *text = strchr(a->key, ' ');
    if (!text || text[1] != 'c') return false; /* none, or a step alone */
    size_t n = strlen(++set);
    for (size_t i = 0; i < t->steps.n; i++) {
        char digit[2] = {i / 4 < n ? set[i / 4] : '0', 0};
        if (is_needed(t, i) && !(strtoul(digit, NULL, 16) >> i % 4 & 1))
            return false;
    }
    return true;
}

/* Whether a chain that falls to a filter, the last one at the latest, was asked
 * this too. */
static bool is_filter(ks__count *c, const ks__ask *a) {
    const char *text = strchr(a->key, ' ');
    if (a->tally) return false;
    if (!text || text[1] != 'c' || strcmp(a->key, "nll c all") == 0)
        return true;
    bool first = a->kind != KS_ASK_SCORE && !c->asked_clean;
    c->asked_clean |= first;
    return first;
}

ks_status ks__count_ask(ks__ask *a, int32_t max_new, ks_err *err) {
    ks_status st = KS_OK;
    ks__count *c = a->item->job->count;
    int64_t anew = 0, one = 0, most = 0, more = 0;
    bool scored = a->kind != KS_ASK_SAMPLE;
    if (a->tally)
        max_new = (int32_t)KS_MIN(
            max_new, KS_MAX((int64_t)c->prompt.n + c->text - a->n, 1));
    KS_TRY(ks_token_tree_put(&c->tree, a->ids, a->n, &anew, err));
    anew = KS_MAX(anew, 1); /* what the last token says is always made */
    if (!scored) {
        one = max_new - 1;
        most = one * a->wanted;
        more = a->tally ? most : KS_MIN((is_enough(a) ? 1 : 2) * one, most);
    }
    c->cost.shared += anew + more;
    c->cost.sampled += more;
    c->cost.least += anew + one;
    c->cost.most += anew + most;
    c->cost.alone += (int64_t)a->wanted * a->n + most;
    if (is_filter(c, a)) c->cost.filters += anew + more;
done:
    return st;
}

void ks__count_between(ks__item *item, const int32_t *bounds) {
    const ks_label_options *o = &item->job->options;
    ks__count *c = item->job->count;
    int32_t n = item->q + 1;
    bool gradients = o->method == KS_LABEL_INFLUENCE && !o->ranking;
    int64_t pulled, behind;
    ks__between_tokens(bounds, n, &pulled, &behind);
    if (gradients)
        c->cost.between +=
            pulled * (o->influence.kind == KS_INFLUENCE_INTEGRATED
                          ? KS_INFLUENCE_POINTS
                          : 1);
    if (o->suppress || o->method == KS_LABEL_SUPPRESSION) {
        c->cost.between += behind;
        c->cost.suppressed += behind;
    }
    /* those of the needed steps alone, alike */
    for (int32_t k = 0; item->matrix && k < n; k++)
        for (int32_t j = 0; j < KS_MIN(k, item->q); j++)
            item->matrix[(size_t)k * (size_t)n + (size_t)j] =
                is_needed(&item->clean, (size_t)item->steps[j]);
}

/* What is out gets the answers that are supposed. */
static ks_status answer_all(ks__item *item, ks_err *err) {
    ks_status st = KS_OK;
    json_t *tally = NULL;
    while (item->asks) {
        ks__ask *a = item->asks;
        bool perplexity = a->kind == KS_ASK_SCORE;
        if (a->tally) {
            tally = json_pack("[[s,i]]", "", (int)a->wanted);
            KS_CHECK(tally, KS_NOMEM, "out of memory for answers");
        }
        KS_TRY(ks__remember(item, a->key, !perplexity && is_enough(a), NULL,
                            tally, err));
        json_decref(tally);
        tally = NULL;
        ks__ask_free(a);
    }
    item->pending = 0;
done:
    json_decref(tally);
    return st;
}

/* The stages of a chain of its own, from the start. */
static ks_status walk(struct ks_label_job *job, const ks__item *like,
                      int64_t text, ks_err *err) {
    ks_status st = KS_OK;
    ks__count *c = job->count;
    int64_t before = c->cost.shared, anew;
    ks_label_worker worker = {
        .job = job, .in_flight = (int32_t)KS_MIN(job->chains.n, 1000)};
    ks__item item = {.job = job,
                     .worker = &worker,
                     .chain = like->chain,
                     .problem = like->problem,
                     .known = json_object()};
    KS_CHECK(item.known, KS_NOMEM, "out of memory for a chain");
    KS_TRY(ks__text_open(&item.original, item.chain, err));
    /* a tree with the prompt of the chain ahead alone: what chains have in
     * common is at their beginning */
    ks_token_tree_clear(&c->tree);
    KS_TRY(ks_token_tree_put(&c->tree, c->prompt.ids, (int32_t)c->prompt.n,
                             &anew, err));
    c->asked_clean = false;
    ks_tokens_free(&c->prompt);
    c->prompt = (ks_tokens){0};
    KS_TRY(ks_tokenize(job->tokenizer, item.chain->prompt,
                       item.chain->prompt_length, &c->prompt, err));
    c->text = text;
    while (!ks__item_done(&item)) {
        ks__item_advance(&item);
        if (item.status != KS_OK && err) *err = item.err;
        KS_TRY(item.status);
        KS_TRY(answer_all(&item, err));
    }
    if (c->cost.shared == before) goto done;
    c->cost.chains++;
    c->cost.tokens += text;
done:
    ks__item_free(&item);
    return st;
}

/* --------------------------------------------------------------------- all */

static int64_t count_tokens(const struct ks_label_job *job, const char *text,
                            size_t n) {
    ks_tokens tokens = {0};
    int64_t count = 0;
    if (ks_tokenize(job->tokenizer, text, n, &tokens, NULL) == KS_OK)
        count = (int64_t)tokens.n;
    ks_tokens_free(&tokens);
    return count;
}

bool ks__may_be_asked(const ks__item *item) {
    return !item->too_long && item->skip == KS_SKIP_NONE &&
           item->problem->answer && item->original.steps.n > 0;
}

/* About the tokens of all questions on a chain; and those of its text. */
static double size_of(const struct ks_label_job *job, const ks__item *item,
                      int64_t *text) {
    enum { QUESTIONS_A_STEP = 8 };
    const ks_chain *c = item->chain;
    if (!ks__may_be_asked(item)) return 0;
    *text = count_tokens(job, c->text, c->text_length);
    return (double)(*text + count_tokens(job, c->prompt, c->prompt_length)) *
           (double)item->original.steps.n * QUESTIONS_A_STEP;
}

static void scale(ks_label_cost *cost, double by) {
    int64_t *const counts[] = {
        &cost->tokens,  &cost->shared,  &cost->least,
        &cost->most,    &cost->filters, &cost->alone,
        &cost->between, &cost->sampled, &cost->suppressed};
    for (size_t i = 0; i < KS_COUNT(counts); i++)
        *counts[i] = (int64_t)llround((double)*counts[i] * by);
}

/* Every so many chains, so that what is walked stays within bounds. */
static ks_status walk_some(struct ks_label_job *job, const double *sizes,
                           const int64_t *texts, ks_err *err) {
    ks_status st = KS_OK;
    ks_label_cost *cost = &job->count->cost;
    double all = 0, walked = 0;
    size_t n = 0, every, k = 0;
    for (size_t i = 0; i < job->chains.n; i++) {
        all += sizes[i];
        n += sizes[i] > 0;
    }
    every = 1 + (size_t)(all / MOST_WALKED);
    for (size_t i = 0; i < job->chains.n; i++) {
        if (sizes[i] == 0 || k++ % every != 0) continue;
        KS_TRY(walk(job, &job->items[i], texts[i], err));
        walked += sizes[i];
        cost->walked++;
    }
    if (cost->walked == (int64_t)n) goto done;
    scale(cost, all / walked);
    cost->chains =
        llround((double)cost->chains * (double)n / (double)cost->walked);
done:
    return st;
}

ks_status ks_label_estimate(ks_label_job *job, ks_label_cost *out,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_label_method method = job->options.method;
    ks__count count = {0};
    double *sizes = NULL;
    int64_t *texts = NULL;
    KS_TRY(ks_alloc(&sizes, job->chains.n, sizeof *sizes, "chains", err));
    KS_TRY(ks_alloc(&texts, job->chains.n, sizeof *texts, "chains", err));
    for (size_t i = job->first; i < job->end; i++)
        sizes[i] = size_of(job, &job->items[i], &texts[i]);
    job->count = &count;
    /* where another judge starts is not read: it knows what influences do */
    if (method == KS_LABEL_EXTERNAL) job->options.method = KS_LABEL_INFLUENCE;
    KS_TRY(walk_some(job, sizes, texts, err));
    if (method == KS_LABEL_CURVE) count.cost.filters = count.cost.shared;
    *out = count.cost;
done:
    job->count = NULL;
    job->options.method = method;
    ks_token_tree_free(&count.tree);
    ks_tokens_free(&count.prompt);
    free(sizes);
    free(texts);
    return st;
}
