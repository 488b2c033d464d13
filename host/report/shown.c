/* shown.c - see shown.h. */
#include "shown.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* -------------------------------------------------------------------- read */

/* The series of probes.h5 that summary.json says does best; 0 without. */
static int series_that_does_best(const ks_shown *s) {
    json_t *one, *all = json_object_get(s->run->summary, "probes");
    double most = -1;
    size_t k;
    int best = 0;
    for (int i = 0; i < s->info.n_series; i++) {
        const ks_probes_series *p = &s->info.series[i];
        const char *stream = ks_stream_name(p->stream),
                   *position = ks_position_name(p->position);
        json_array_foreach(all, k, one) {
            double value = ks__number(
                ks__member(one, "best", "balanced_accuracy"), "value");
            if (strcmp(ks__text(one, "stream"), stream) == 0 &&
                strcmp(ks__text(one, "position"), position) == 0 &&
                value > most)
                most = value, best = i;
        }
    }
    return best;
}

static ks_status read_scores(ks_shown *s, ks_err *err) {
    ks_status st = KS_OK;
    size_t steps = (size_t)s->info.n_steps;
    float *best = NULL;
    s->best_series = series_that_does_best(s);
    KS_TRY(ks_alloc(&s->best, steps, sizeof *s->best, "scores", err));
    KS_TRY(ks_alloc(&best, steps, sizeof *best, "scores", err));
    for (int i = 0; i < s->info.n_series; i++) {
        KS_TRY(ks_alloc(&s->scores[i],
                        steps * (size_t)s->info.series[i].n_layers,
                        sizeof(float), "scores", err));
        KS_TRY(ks_probes_scores_read(&s->info, i, s->run->probes, s->scores[i],
                                     i == s->best_series ? s->best : best,
                                     err));
    }
done:
    free(best);
    return st;
}

/* ------------------------------------------------------------------- chains */

/* The chain of that id with the text that was probed: several models' chains
 * of one problem have one id. Without such a text the first of the id, which
 * check_chain refuses. */
static const ks_chain *find(const ks_chains *files, size_t n_files,
                            const char *id, const char *hash,
                            const char **path) {
    const ks_chain *first = NULL;
    for (size_t i = 0; i < n_files; i++) {
        const ks_chain *chain = ks_chains_find(&files[i], id);
        bool same = chain && strcmp(hash, chain->text_sha256) == 0;
        if (!chain || (first && !same)) continue;
        *path = files[i].path;
        if (same || !*hash) return chain;
        first = chain;
    }
    return first;
}

/* Its steps lie in its text, between characters. */
static ks_status check_chain(const ks_shown *s, const ks_shown_chain *c,
                             const char *path, const char *hash, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(!*hash || strcmp(hash, c->chain->text_sha256) == 0, KS_MISMATCH,
             "%s: chain %s has another text than the one that %s scores "
             "(sha256 %.12s.. and %.12s..)",
             path, c->chain->id, s->run->probes, c->chain->text_sha256, hash);
    for (int64_t i = c->first; i < c->first + c->n; i++) {
        size_t begin = (size_t)s->steps.begin[i], end = (size_t)s->steps.end[i];
        KS_CHECK(end <= c->chain->text_length &&
                     (c->chain->text[begin] & 0xC0) != 0x80 &&
                     (c->chain->text[end] & 0xC0) != 0x80,
                 KS_MISMATCH,
                 "%s: step %lld of chain %s is bytes %zu to %zu of a text of "
                 "%zu, or cuts a character of it",
                 s->run->probes, (long long)(i - c->first), c->chain->id, begin,
                 end, c->chain->text_length);
    }
done:
    return st;
}

static void judge(const ks_shown *s, ks_shown_chain *c) {
    for (int64_t i = c->first; i < c->first + c->n; i++) {
        int label = s->steps.label[i];
        if (label < 0 || isnan(s->best[i])) continue;
        c->probed++;
        c->right += (s->best[i] > 0) == (label == 1);
        c->apart += fabs(label - 1 / (1 + exp(-(double)s->best[i])));
    }
    if (!c->probed) return;
    c->right /= c->probed;
    c->apart /= c->probed;
}

static ks_status find_chains(ks_shown *s, const ks_chains *files,
                             size_t n_files, ks_err *err) {
    ks_status st = KS_OK;
    const char *path = NULL;
    KS_TRY(ks_alloc(&s->at, (size_t)s->steps.n_chains, sizeof *s->at, "chains",
                    err));
    for (int64_t i = 0, end; i < s->steps.n_steps; i = end) {
        int32_t row = s->steps.chain[i];
        const char *hash = s->steps.text_sha256[row];
        for (end = i; end < s->steps.n_steps && s->steps.chain[end] == row;)
            end++;
        ks_shown_chain *c = &s->at[s->n];
        *c = (ks_shown_chain){
            .chain = find(files, n_files, s->steps.id[row], hash, &path),
            .first = i,
            .n = end - i};
        if (!c->chain) continue;
        KS_TRY(check_chain(s, c, path, hash, err));
        judge(s, c);
        s->n++;
    }
done:
    return st;
}

ks_status ks__shown_read(ks_shown *out, const ks_run *run,
                         const ks_chains *files, size_t n_files, ks_err *err) {
    ks_status st = KS_OK;
    *out = (ks_shown){.run = run};
    KS_TRY(ks_probes_read(&out->info, run->probes, err));
    KS_TRY(ks_probes_steps_read(&out->steps, run->probes, err));
    KS_TRY(read_scores(out, err));
    KS_TRY(find_chains(out, files, n_files, err));
done:
    if (st != KS_OK) ks__shown_free(out);
    return st;
}

void ks__shown_free(ks_shown *s) {
    ks_probes_free(&s->info);
    ks_probes_steps_free(&s->steps);
    for (size_t i = 0; i < KS_COUNT(s->scores); i++) free(s->scores[i]);
    free(s->best);
    free(s->at);
    *s = (ks_shown){0};
}

/* ------------------------------------------------------------------ choice */

/* From the worst judged to the best; chains without a label last. */
static int by_right(const void *a, const void *b) {
    const ks_shown_chain *x = *(ks_shown_chain *const *)a,
                         *y = *(ks_shown_chain *const *)b;
    if (!x->probed != !y->probed) return !x->probed - !y->probed;
    if (x->right != y->right) return x->right < y->right ? -1 : 1;
    if (x->apart != y->apart) return x->apart > y->apart ? -1 : 1;
    return (x->first > y->first) - (x->first < y->first);
}

/* About what a chain takes in the page: text, and a byte of scores, which
 * base64 makes longer. */
static size_t cost_of(const ks_shown *s, const ks_shown_chain *c) {
    size_t layers = 0;
    for (int i = 0; i < s->info.n_series; i++)
        layers += (size_t)s->info.series[i].n_layers;
    size_t asked = c->chain->question ? c->chain->question_length
                                      : c->chain->prompt_length;
    return c->chain->text_length + KS_MIN(asked, 4000) +
           (size_t)c->n * layers * 4 / 3 + 300;
}

/* Of n in order, the i-th of `wanted`: the first and the last are among them.
 */
static size_t place_of(size_t n, size_t wanted, size_t i) {
    return wanted > 1 ? i * (n - 1) / (wanted - 1) : n / 2;
}

ks_status ks__shown_choose(ks_shown *s, size_t most, size_t bytes,
                           ks_err *err) {
    ks_status st = KS_OK;
    ks_shown_chain **order = NULL;
    size_t used = 0, wanted = KS_MIN(most, s->n);
    KS_TRY(ks_alloc((void *)&order, s->n, sizeof *order, "chains", err));
    for (size_t i = 0; i < s->n; i++) order[i] = &s->at[i];
    qsort((void *)order, s->n, sizeof *order, by_right);
    /* fewer until they have room: all kinds of chains stay among them */
    for (; wanted; wanted = KS_MIN(wanted - 1, wanted * bytes / used)) {
        used = 0;
        for (size_t i = 0; i < wanted; i++)
            used += cost_of(s, order[place_of(s->n, wanted, i)]);
        if (used <= bytes) break;
    }
    for (size_t i = 0; i < wanted; i++)
        order[place_of(s->n, wanted, i)]->shown = true;
    s->n_shown = wanted;
done:
    free((void *)order);
    return st;
}
