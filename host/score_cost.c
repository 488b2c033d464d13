/* score_cost.c - what a job will cost, before it runs: its questions are made
 * as in a run, counted in place of being sent, and read at a rate that is
 * measured on the first of them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rates.h"
#include "score_state.h"
#include "token_tree.h"

/* Tokens of questions that are counted one by one (some seconds of
 * tokenisation); a tree of what the store has, which is not endless either. */
enum { MOST_WALKED = 20000000, MOST_KEPT = 1 << 20 };

/* About the tokens of all questions on a chain, had they nothing in common. */
static double size_of(const ks_score_job *job, const ks__scored *item) {
    enum { BYTES_A_TOKEN = 4 };
    const ks_chain *c = item->chain;
    double text = (double)(c->prompt_length + c->text_length) / BYTES_A_TOKEN;
    uint32_t kinds = job->options.kinds, of_chain = (1u << KS_SCORE_JUDGE) - 1;
    double questions = (kinds & of_chain) != 0;
    if (kinds & ~of_chain) questions += c->n_steps;
    return 1 + text * questions;
}

/* Tokens that the model computes for a question; the last one's state is not
 * needed, that of the one ahead of what is scored always is, and entropies need
 * all states from there on. */
static ks_status count(ks_token_tree *tree, const ks_request *r,
                       int64_t *computed, ks_err *err) {
    ks_status st = KS_OK;
    int32_t end = r->n_prompt - 1, kept = r->from - 1;
    int64_t ahead = 0, anew = 0;
    if (r->ask == KS_ASK_ENTROPY)
        KS_TRY(ks_token_tree_put(tree, r->prompt, kept, &ahead, err));
    KS_TRY(ks_token_tree_put(tree, r->prompt, end, &anew, err));
    *computed +=
        r->ask == KS_ASK_ENTROPY ? ahead + end - kept : KS_MAX(anew, 1);
    if (tree->n > MOST_KEPT) ks_token_tree_clear(tree);
done:
    return st;
}

static ks_status walk(ks_score_job *job, ks__scored *item, ks_token_tree *tree,
                      int64_t *computed, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks__score_begin(job, item, err));
    for (size_t i = 0; i < item->n_asks; i++)
        KS_TRY(count(tree, &item->asks[i].request, computed, err));
done:
    ks__score_end(item);
    return st;
}

ks_status ks_score_estimate(ks_score_job *job, ks_score_cost *out,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_token_tree tree = {0};
    double all = 0, walked = 0;
    *out = (ks_score_cost){.chains = ks_score_chains(job)};
    for (size_t i = job->first; i < job->end; i++) {
        out->steps += job->chains.at[i].n_steps;
        all += size_of(job, &job->items[i]);
    }
    size_t every = 1 + (size_t)(all / MOST_WALKED);
    for (size_t i = job->first; i < job->end; i += every) {
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
        KS_TRY(walk(job, &job->items[i], &tree, &out->computed, err));
        walked += size_of(job, &job->items[i]);
        out->walked++;
    }
    if (out->walked < out->chains)
        out->computed = llround((double)out->computed * all / walked);
done:
    ks_token_tree_free(&tree);
    return st;
}

/* The first chain that anything is asked of: its questions begun. */
static ks_status first_item(ks_score_job *job, ks__scored **out, ks_err *err) {
    ks_status st = KS_OK;
    *out = NULL;
    for (size_t i = job->first; i < job->end && !*out; i++) {
        ks__scored *item = &job->items[i];
        KS_TRY(ks__score_begin(job, item, err));
        if (item->n_asks)
            *out = item;
        else
            ks__score_end(item);
    }
done:
    return st;
}

ks_status ks_score_measure(ks_score_job *job, ks_score_cost *cost,
                           ks_err *err) {
    ks_status st = KS_OK;
    ks__scored *item = NULL;
    ks_rates rates;
    int size = ks__score_crew(job);
    ks_generate_options session = ks__score_session(job, size);
    KS_TRY(first_item(job, &item, err));
    if (!item) goto done; /* nothing is asked */
    const ks_request *r = &item->asks[0].request;
    ks_rates_of of = {.engines = &job->engines,
                      .size = size,
                      .options = &session,
                      .longest = job->longest,
                      .scores = true,
                      .ask = r->ask,
                      .ids = r->prompt,
                      .n_ids = r->n_prompt,
                      .length = r->n_prompt};
    KS_TRY(ks_rates_measure(&rates, &of, err));
    cost->read = rates.read;
    cost->bytes = rates.bytes;
    cost->seconds = (double)cost->computed / rates.read;
done:
    if (item) ks__score_end(item);
    return st;
}
