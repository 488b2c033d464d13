/* generate_say.c - what keystep generate says: its plan, its progress, its
 * sums. */
#include <math.h>
#include <stdlib.h>

#include "../rates.h"
#include "generate_work.h"

enum { NAMED = 5 }; /* ids in a sentence */

/* ------------------------------------------------------------- left out
 */

static size_t count_fits(const ks_generate_work *w, ks_fit fit) {
    size_t n = 0;
    for (size_t i = 0; i < w->problems.n; i++) n += w->fits[i] == fit;
    return n;
}

static json_t *ids_of(const ks_generate_work *w, ks_fit fit) {
    json_t *ids = json_array();
    for (size_t i = 0; i < w->problems.n; i++)
        if (w->fits[i] == fit)
            json_array_append_new(ids, json_string(w->problems.at[i].id));
    return ids;
}

static size_t count_unanswered(const ks_generate_work *w) {
    size_t n = 0;
    for (size_t i = 0; i < w->problems.n; i++)
        n += w->fits[i] == KS_FIT_GOOD && !w->problems.at[i].answer;
    return n;
}

static void say_left_out(const ks_generate_work *w, ks_fit fit,
                         const char *why) {
    size_t n = count_fits(w, fit), named = 0;
    ks_str ids = {0};
    ks_status st = ks_str_add(&ids, "", 0, NULL);
    for (size_t i = 0; i < w->problems.n && named < NAMED && st == KS_OK; i++)
        if (w->fits[i] == fit)
            st = ks_str_printf(&ids, NULL, "%s%s", named++ ? ", " : "",
                               w->problems.at[i].id);
    if (n > 0)
        ks_log(KS_LOG_INFO, "%zu problem%s %s, left out: %s%s", n, ks_plural(n),
               why, ids.data ? ids.data : "", n > named ? ", .." : "");
    ks_str_free(&ids);
}

static void say_all_left_out(const ks_generate_work *w) {
    char why[64];
    size_t unanswered = count_unanswered(w);
    snprintf(why, sizeof why, "too long for the context (%d tokens)",
             w->engine->model->config.n_context);
    say_left_out(w, KS_FIT_LONG, why);
    say_left_out(w, KS_FIT_EMPTY, "without a token to read");
    if (unanswered)
        ks_log(KS_LOG_INFO, "%zu problem%s without an answer: not judged",
               unanswered, ks_plural(unanswered));
}

static void add_left_out(const ks_generate_work *w, json_t *object) {
    json_object_set_new(object, "too_long", ids_of(w, KS_FIT_LONG));
    json_object_set_new(object, "empty", ids_of(w, KS_FIT_EMPTY));
    json_object_set_new(object, "without_answer",
                        json_integer((json_int_t)count_unanswered(w)));
}

/* ------------------------------------------------------------------- progress
 */

/* New tokens that are left. Chains that ended say how long chains are, those
 * under way counted in (as if each token were the last with one probability);
 * before the first has ended, the most that may come. */
static double tokens_left(const ks_generate_work *w,
                          const ks_generate_stats *so_far, bool *at_most) {
    double under_way = (double)(so_far->sampled - w->ended_tokens);
    double most = fmax(0, (double)w->most_left - fmax(0, under_way));
    double chains = (double)(w->n_requests - w->n_ended);
    double guess = w->n_ended
                       ? chains * (double)so_far->sampled / (double)w->n_ended
                       : INFINITY;
    *at_most = guess >= most;
    return fmin(guess, most);
}

/* Chains end late: what moves meanwhile are prompts, then tokens. */
void ks__generate_progress(ks_generate_work *w,
                           const ks_generate_stats *so_far) {
    int64_t all = w->n_prompt_tokens;
    double now = ks_seconds(), rate = 0;
    bool at_most = false;
    if (so_far->sampled > 0 && w->sampling_since == 0) {
        w->sampling_since = now;
        w->sampled_then = so_far->sampled;
    }
    if (w->sampling_since > 0 && now > w->sampling_since)
        rate = (double)(so_far->sampled - w->sampled_then) /
               (now - w->sampling_since);
    double left = tokens_left(w, so_far, &at_most);
    ks_progress_rate(w->progress, "tok", rate,
                     rate > 0 ? left / rate : INFINITY, at_most);
    ks_progress_note(w->progress, "%s", "");
    if (so_far->prompts < all)
        ks_progress_note(w->progress, "prompts %lld%%",
                         (long long)(100 * so_far->prompts / all));
    ks_progress_set(w->progress, (double)w->n_done);
}

/* ----------------------------------------------------------------------- plan
 */

static int by_ids(const void *a, const void *b) {
    const ks_tokens *x = *(const ks_tokens *const *)a;
    const ks_tokens *y = *(const ks_tokens *const *)b;
    for (size_t t = 0; t < x->n && t < y->n; t++)
        if (x->ids[t] != y->ids[t]) return x->ids[t] < y->ids[t] ? -1 : 1;
    return (x->n > y->n) - (x->n < y->n);
}

/* Tokens of all prompts, what several have in front counted once. */
static int64_t count_distinct(const ks_tokens **prompts, size_t n) {
    int64_t all = 0;
    qsort(prompts, n, sizeof *prompts, by_ids);
    for (size_t i = 0; i < n; i++) {
        const ks_tokens *before = i ? prompts[i - 1] : NULL;
        size_t same = 0;
        while (before && same < before->n && same < prompts[i]->n &&
               before->ids[same] == prompts[i]->ids[same])
            same++;
        all += (int64_t)(prompts[i]->n - same);
    }
    return all;
}

typedef struct plan {
    size_t problems;
    int64_t prompts, distinct, most_new;
    size_t longest;
    uint64_t held; /* bytes in memory before the model computes anything */
    ks_rates rates;
    double seconds; /* at most */
} plan;

static ks_status make_plan(const ks_generate_work *w, plan *out, ks_err *err) {
    const ks_tokens **prompts = NULL;
    *out = (plan){0};
    ks_status st =
        ks_alloc(&prompts, w->problems.n, sizeof *prompts, "prompts", err);
    if (st != KS_OK) return st;
    for (size_t i = 0; i < w->problems.n; i++) {
        if (w->fits[i] != KS_FIT_GOOD) continue;
        prompts[out->problems++] = &w->tokens[i];
        out->prompts += (int64_t)w->tokens[i].n * w->samples;
        out->most_new += ks__most_new(w, i) * w->samples;
        out->longest = KS_MAX(out->longest, w->tokens[i].n);
    }
    out->distinct = count_distinct(prompts, out->problems);
    free(prompts);
    return KS_OK;
}

/* Tokens of the first prompts, to measure on. */
static ks_status some_ids(const ks_generate_work *w, int32_t **ids, int32_t *n,
                          ks_err *err) {
    enum { MOST = 4096 };
    ks_status st = KS_OK;
    KS_TRY(ks_alloc(ids, MOST, sizeof **ids, "ids", err));
    for (size_t i = 0; i < w->problems.n; i++) {
        const ks_tokens *t = &w->tokens[i];
        if (w->fits[i] != KS_FIT_GOOD) continue;
        for (size_t k = 0; k < t->n && *n < MOST; k++)
            (*ids)[(*n)++] = t->ids[k];
    }
done:
    return st;
}

/* What no prompt's end says is how many tokens will follow: at most so many,
 * and half of them stand there on average while they are drawn. */
static ks_status measure(const ks_generate_work *w, plan *p, ks_err *err) {
    ks_status st = KS_OK;
    int32_t *ids = NULL, n = 0;
    p->held = ks_cli_resident_now().peak;
    if (w->n_asked == 0) return KS_OK;
    int size = ks_generate_size(&w->engines, &w->options, w->n_asked);
    ks_generate_options session =
        ks_generate_share(&w->engines, &w->options, size);
    int64_t chains = (int64_t)w->n_asked;
    KS_TRY(some_ids(w, &ids, &n, err));
    ks_rates_of of = {
        .engines = &w->engines,
        .size = size,
        .options = &session,
        .longest = (int32_t)KS_MIN((int64_t)p->longest + w->options.max_new,
                                   (int64_t)w->engine->model->config.n_context),
        .ask = KS_ASK_SAMPLE,
        .ids = ids,
        .n_ids = n,
        .length = (int32_t)KS_MAX(p->prompts / chains, 1),
        .drawn = w->n_asked,
        .drawn_length = (int32_t)((p->prompts + p->most_new / 2) / chains)};
    KS_TRY(ks_rates_measure(&p->rates, &of, err));
    p->seconds = (double)p->distinct / p->rates.read +
                 (double)p->most_new / p->rates.drawn;
done:
    free(ids);
    return st;
}

static void print_plan(const ks_generate_work *w, const plan *p) {
    json_t *object = json_pack(
        "{s:I,s:i,s:I,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:I,s:f}", "problems",
        (json_int_t)p->problems, "samples", w->samples, "chains",
        (json_int_t)w->n_asked, "template", ks_template_name(w->prompt.which),
        "prompt_tokens", (json_int_t)p->prompts, "shared_tokens",
        (json_int_t)(p->prompts - p->distinct), "longest_prompt",
        (json_int_t)p->longest, "most_new_tokens", (json_int_t)p->most_new,
        "held_bytes", (json_int_t)p->held, "memory_bytes",
        (json_int_t)(p->held + p->rates.bytes), "tokens_per_second",
        p->rates.read, "sampled_per_second", p->rates.drawn, "sampled_at_once",
        (json_int_t)p->rates.at_once, "most_seconds", p->seconds);
    add_left_out(w, object);
    ks_cli_print_json(object);
}

ks_status ks__generate_plan(const ks_generate_work *w, ks_err *err) {
    ks_status st = KS_OK;
    plan p;
    char all[32], held[32];
    KS_TRY(make_plan(w, &p, err));
    KS_TRY(measure(w, &p, err));
    if (w->in->common.json) {
        print_plan(w, &p);
        goto done;
    }
    ks_cli_bytes(all, p.held + p.rates.bytes);
    ks_cli_bytes(held, p.held);
    printf("%zu problems x %d samples: %zu chains, template %s\n", p.problems,
           w->samples, w->n_asked, ks_template_name(w->prompt.which));
    printf("%lld prompt tokens, the longest prompt has %zu; %lld where chains "
           "share what they begin with\n",
           (long long)p.prompts, p.longest, (long long)p.distinct);
    printf("at most %lld new tokens, %d a chain\n", (long long)p.most_new,
           w->options.max_new);
    if (p.rates.read > 0)
        printf("at most about %s: prompts are read at %.0f tok/s, tokens drawn "
               "at %.0f tok/s, %lld chains at a time, as measured on a few\n",
               ks_cli_time_of(p.seconds).text, p.rates.read, p.rates.drawn,
               (long long)p.rates.at_once);
    printf(
        "memory is about %s at most, of it %s of program, model and prompts\n",
        all, held);
    say_all_left_out(w);
done:
    return st;
}

/* ----------------------------------------------------------------------- sums
 */

static void print_sums(const ks_generate_work *w, size_t unfinished,
                       double took) {
    const ks_generate_stats *s = &w->stats;
    json_t *object = json_pack(
        "{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f}", "chains",
        (json_int_t)w->n_done, "unfinished", (json_int_t)unfinished, "sampled",
        (json_int_t)s->sampled, "computed", (json_int_t)s->computed,
        "prompt_tokens", (json_int_t)w->n_prompt_tokens, "shared_tokens",
        (json_int_t)s->shared, "batches", (json_int_t)s->batches, "preempted",
        (json_int_t)s->preempted, "seconds", took);
    add_left_out(w, object);
    ks_cli_print_json(object);
}

void ks__generate_sum_up(const ks_generate_work *w, double took) {
    size_t finished = 0, correct = 0, judged = 0;
    long long retokenized = 0;
    for (size_t i = 0; i < w->n; i++) {
        const json_t *c = w->chains[i];
        const json_t *right = json_object_get(c, "correct");
        finished += json_is_true(json_object_get(c, "finished"));
        judged += json_is_boolean(right);
        correct += json_is_true(right);
        retokenized += json_integer_value(json_object_get(c, "retokenized"));
    }
    ks_log(KS_LOG_INFO,
           "%zu chains, %zu unfinished, %zu of %zu right; %lld tokens sampled "
           "(%.0f a second), %lld prompt tokens shared, %lld ids differ when "
           "the text is tokenised again",
           w->n_done, w->n_done - finished, correct, judged,
           (long long)w->stats.sampled,
           took > 0 ? (double)w->stats.sampled / took : 0,
           (long long)w->stats.shared, retokenized);
    say_all_left_out(w);
    if (w->in->common.json) print_sums(w, w->n_done - finished, took);
}
