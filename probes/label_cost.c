/* label_cost.c - what a job will cost in tokens, before it runs. */
#include <string.h>

#include "label_state.h"

/* Tokens of a set that is asked about: the step that changes is somewhere in
 * the middle, so half of the set lies behind it. */
typedef struct reckoning {
    int64_t prompt, text, cue, step, samples,
        new; /* tokens; samples of a set */
    ks_label_cost cost;
} reckoning;

/* n sets of `kept` tokens of text, `anew` of which others have not computed.
 * scored: their perplexity is asked too. */
static void add_sets(reckoning *r, int64_t n, int64_t kept, int64_t anew,
                     bool scored) {
    r->cost.shared += n * (anew + r->cue + r->samples * (r->new - 1));
    r->cost.alone += n * r->samples * (r->prompt + kept + r->cue + r->new - 1);
    if (scored) r->cost.alone += n * (r->prompt + kept);
}

/* As if the sufficient prefix were the whole chain, half of it fell to the
 * selection and each of the rest were tried once and a half. */
static void add_chain(reckoning *r, int64_t steps, const ks_label_options *o) {
    r->cost.chains++;
    r->cost.tokens += r->text;
    r->cost.shared += r->prompt + r->text;
    if (o->method == KS_LABEL_CURVE) {
        add_sets(r, steps, r->text / 2, 0, false);
        return;
    }
    int64_t half = steps / 2, walks = o->orders;
    add_sets(r, 1, 0, 0, false);
    add_sets(r, steps, r->step, r->step, false);
    add_sets(r, steps, r->text / 2, 0, true);
    if (o->method == KS_LABEL_INFLUENCE || o->method == KS_LABEL_SUPPRESSION) {
        add_sets(r, KS__THRESHOLDS / 2, r->text / 2, r->text / 4, true);
        r->cost.shared += 2 * r->text * half; /* the gradients */
        r->cost.alone += 2 * (r->prompt + r->text) * steps;
    }
    if (o->method != KS_LABEL_RANDOM)
        add_sets(r, half * 3 / 2, r->text / 4, r->text / 8, true);
    add_sets(r, walks * steps * 3 / 2, r->text / 2, r->text / 4, true);
    if (o->drop) {
        r->cost.shared += steps * (r->text / 2 + r->cue);
        r->cost.alone += steps * (r->prompt + r->text + r->cue);
    }
}

static int64_t count_tokens(const struct ks_label_job *job, const char *text,
                            size_t n) {
    ks_tokens tokens = {0};
    int64_t count = 0;
    if (ks_tokenize(job->tokenizer, text, n, &tokens, NULL) == KS_OK)
        count = (int64_t)tokens.n;
    ks_tokens_free(&tokens);
    return count;
}

ks_label_cost ks_label_estimate(const ks_label_job *job) {
    const ks_label_options *o = &job->options;
    reckoning r = {.samples = o->exact ? 1 : o->samples};
    r.cue = count_tokens(job, job->cue, strlen(job->cue));
    for (size_t i = 0; i < job->chains.n; i++) {
        const ks__item *item = &job->items[i];
        int64_t steps = (int64_t)item->original.steps.n;
        if (item->skip != KS_SKIP_NONE || !item->problem->answer || !steps)
            continue;
        const char *answer = item->problem->answer;
        r.new = (o->exact ? 1 : 2) * count_tokens(job, answer, strlen(answer));
        r.prompt =
            count_tokens(job, item->chain->prompt, item->chain->prompt_length);
        r.text = count_tokens(job, item->original.data, item->original.length);
        r.step = r.text / steps;
        add_chain(&r, steps, o);
    }
    return r.cost;
}
