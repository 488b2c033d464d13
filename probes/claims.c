/* claims.c - see claims.h. */
#include "claims.h"

#include <math.h>
#include <string.h>

#include "evaluation.h"

const char *ks_verdict_name(ks_verdict verdict) {
    static const char *const names[] = {"no", "undecided", "yes"};
    return (size_t)verdict < KS_COUNT(names) ? names[verdict] : "?";
}

ks_verdict ks_verdict_of(ks_interval figure, double p, double above,
                         double below) {
    if (figure.low > above && !(p >= 0.05)) return KS_YES;
    if (figure.high < below) return KS_NO;
    return KS_UNDECIDED; /* with NaN neither holds */
}

/* A claim with its words, to be filled in. */
static ks_claim *claim(ks_claims *all, const char *id, ks_unit unit,
                       const char *question, const char *rule) {
    ks_claim *c = &all->at[all->n++];
    *c = (ks_claim){.id = id,
                    .question = question,
                    .rule = rule,
                    .unit = unit,
                    .figure = {NAN, NAN, NAN},
                    .p = NAN};
    return c;
}

static void name(ks_claim *c, const ks_series *s, const char *what) {
    snprintf(c->what, sizeof c->what, "%s/%s%s%s", ks_stream_name(s->stream),
             ks_position_name(s->position), *what ? " " : "", what);
}

static int32_t find_baseline(const ks_evaluation *r, const char *wanted) {
    for (int32_t b = 0; b < r->baselines.n; b++)
        if (strcmp(r->baselines.at[b].name, wanted) == 0) return b;
    return -1;
}

/* ----------------------------------------------------------- where it stands
 */

static void readable(ks_claims *all, const ks_evaluation *r, int32_t main) {
    const ks_series *s = &r->grid.series[main];
    ks_claim *c = claim(
        all, "readable", KS_PERCENT,
        "Can importance be read off the activations?",
        "yes: the best layer's interval lies above 55% and p of its test "
        "within chains is below 5% after Holm; no: the interval lies below "
        "55%");
    name(c, s, "best layer, balanced accuracy");
    c->figure = s->metrics[KS_BALANCED_ACCURACY];
    c->p = s->p_holm;
    c->verdict = ks_verdict_of(c->figure, c->p, 0.55, 0.55);
}

/* A position's best layer against what is known of the place alone. */
static void position(ks_claims *all, const ks_evaluation *r, ks_position p,
                     const char *id, const char *question) {
    int32_t b = find_baseline(r, "position");
    if (b < 0) return;
    for (int32_t k = 0; k < r->grid.n_series; k++) {
        const ks_series *s = &r->grid.series[k];
        if (s->stream != KS_RESID || s->position != p) continue;
        const ks_gain *gain = ks__evaluation_gain(r, b, k);
        ks_claim *c =
            claim(all, id, KS_POINTS, question,
                  "yes: the best layer beats the step's place (index and "
                  "square), interval above 0 and p below 5% after Holm; else "
                  "no: the interval lies below 2 points");
        name(c, s, "best layer less position");
        c->figure = gain->points;
        c->p = gain->p_holm;
        c->verdict = ks_verdict_of(c->figure, c->p, 0, 0.02);
    }
}

static void layers(ks_claims *all, const ks_evaluation *r, int32_t main) {
    const ks_series *s = &r->grid.series[main];
    const ks_analyses *a = &r->analyses;
    if (a->refinement) {
        ks_claim *c =
            claim(all, "spread", KS_PERCENT, "Is it spread over the layers?",
                  "yes: at least half of the layers lie at most 3 points "
                  "below the best layer as chosen in the training folds, with "
                  "the whole interval; no: fewer, with the whole interval");
        name(c, s, "layers near the best");
        c->figure = a->refinement[main].near_best;
        c->verdict = c->figure.low >= 0.5   ? KS_YES
                     : c->figure.high < 0.5 ? KS_NO
                                            : KS_UNDECIDED;
        c = claim(all, "refined", KS_NUMBER,
                  "Does it become clearer from layer to layer?",
                  "yes: Spearman's correlation of layer and balanced accuracy "
                  "lies above 0 with its interval; no: below 0");
        name(c, s, "trend over layers");
        c->figure = a->refinement[main].trend;
        c->verdict = ks_verdict_of(c->figure, NAN, 0, 0);
    }
    if (a->layers_needed && a->layers_needed[main].n_sizes > 1) {
        ks_claim *c = claim(all, "one-layer", KS_POINTS, "Is one layer enough?",
                            "yes: the best single layer less all layers "
                            "together lies above -2 points with its interval; "
                            "no: below");
        name(c, s, "one layer less all");
        c->figure = a->layers_needed[main].minus_all[0];
        c->verdict = ks_verdict_of(c->figure, NAN, -0.02, -0.02);
    }
    if (a->selectivity) {
        ks_claim *c = claim(all, "selective", KS_POINTS,
                            "Is it more than memory of texts?",
                            "yes: balanced accuracy less that of the control "
                            "task lies above 0 with its interval; no: below");
        name(c, s, "less control task");
        c->figure = a->selectivity[main].selectivity;
        c->verdict = ks_verdict_of(c->figure, NAN, 0, 0);
    }
}

/* ------------------------------------------------------ against other readers
 */

static const char above_it[] =
    "yes: the difference lies above 0 with its interval and p is below 5% "
    "after Holm; no: it lies below 0";

static void against(ks_claims *all, const ks_evaluation *r, int32_t main,
                    int32_t other, const char *other_name, const char *id,
                    const char *question, const char *rule) {
    const ks_gain *gain = ks__evaluation_gain(r, other, main);
    char what[80];
    ks_claim *c = claim(all, id, KS_POINTS, question, rule);
    snprintf(what, sizeof what, "best layer less %.50s", other_name);
    name(c, &r->grid.series[main], what);
    c->figure = gain->points;
    c->p = gain->p_holm;
    c->verdict = ks_verdict_of(c->figure, c->p, 0, 0);
}

/* Of the surface place and length are known without the chains' text. More
 * than these is less to say, and asked as what it is. */
static void surface(ks_claims *all, const ks_evaluation *r, int32_t main) {
    int32_t b = find_baseline(r, "surface"),
            place = find_baseline(r, "position+length");
    if (b >= 0)
        against(all, r, main, b, "surface", "surface",
                "Is it more than the step's surface?", above_it);
    else if (place >= 0)
        against(all, r, main, place, "position+length", "place",
                "Is it more than its place and length?", above_it);
}

/* What is left of it without the surface features. */
static void removed(ks_claims *all, const ks_evaluation *r, int32_t main) {
    const ks_independence *i = &r->independence;
    if (!i->n_features || !i->removed[main].n_layers) return;
    ks_claim *c = claim(all, "surface-removed", KS_PERCENT,
                        "Does it hold without the surface features?",
                        "yes: with the features taken out of the activations "
                        "of the best layer balanced accuracy lies above 55% "
                        "with its interval; no: below");
    name(c, &r->grid.series[main], "less surface features");
    c->figure = i->removed[main].at[0].metrics[KS_BALANCED_ACCURACY];
    c->verdict = ks_verdict_of(c->figure, NAN, 0.55, 0.55);
}

/* The published standard, LW-MLP, or what of its kind was asked for last. */
static void protocol(ks_claims *all, const ks_evaluation *r, int32_t main) {
    const ks_series *s = &r->grid.series[main];
    const ks_protocol *found = NULL;
    for (int32_t k = 0; k < r->kinds.n_protocols; k++) {
        const ks_protocol *p = &r->kinds.protocols[k];
        if (p->stream != s->stream || p->position != s->position) continue;
        if (!found || strcmp(found->probe, "lw-mlp 128") != 0) found = p;
    }
    if (!found) return;
    char what[80];
    ks_claim *c = claim(all, "protocol", KS_POINTS,
                        "Does the published protocol flatter?",
                        "yes: published less honest balanced accuracy lies "
                        "above 0 with its interval; else no: below 2 points");
    snprintf(what, sizeof what, "%.40s, published less honest", found->probe);
    name(c, s, what);
    c->figure = found->difference;
    c->verdict = ks_verdict_of(c->figure, NAN, 0, 0.02);
}

/* The strongest reader of words decides, of those that know no more than what
 * is there when the step is written: activations know no more, either. */
static void text(ks_claims *all, const ks_evaluation *r, int32_t main) {
    int32_t best = -1;
    for (int32_t b = 0; b < r->baselines.n; b++)
        if (r->baselines.at[b].reads_text && !r->baselines.at[b].looks_ahead &&
            (best < 0 || ks__evaluation_gain(r, b, main)->points.value <
                             ks__evaluation_gain(r, best, main)->points.value))
            best = b;
    if (best >= 0)
        against(all, r, main, best, r->baselines.at[best].name, "text",
                "Do activations know more than the text?",
                "yes: the difference to the strongest of the baselines that "
                "read the text as far as it is there when the step is written "
                "lies above 0 with its interval and p is below 5% after Holm; "
                "no: it lies below 0");
}

static void rivals(ks_claims *all, const ks_evaluation *r, int32_t main) {
    for (int32_t i = 0; i < r->n_rivals && all->n + 1 < KS_MOST_CLAIMS; i++) {
        const ks_acts_info *info = ks_acts_get_info(r->rivals[i].file);
        const char *id = info->random_weights >= 0 ? "weights"
                         : info->context_none      ? "context"
                                                   : "other";
        const char *question =
            info->random_weights >= 0 ? "Did the model learn it?"
            : info->context_none      ? "Does it take the step's context?"
                                      : "Is it more than in other activations?";
        against(all, r, main, r->baselines.n + i, r->rivals[i].name, id,
                question, above_it);
    }
}

/* ----------------------------------------------------------------------- all
 */

static void drop_missing(ks_claims *all) {
    int32_t n = 0;
    for (int32_t i = 0; i < all->n; i++)
        if (!isnan(all->at[i].figure.value)) all->at[n++] = all->at[i];
    all->n = n;
}

void ks_claims_of(ks_claims *out, const ks_evaluation *evaluation) {
    const ks_evaluation *r = evaluation;
    out->n = 0;
    if (!r->grid.n_series) return;
    int32_t main = ks_grid_main(&r->grid);
    readable(out, r, main);
    position(out, r, KS_BEFORE, "before",
             "Is it there before the step is written?");
    position(out, r, KS_FIRST, "first", "Is it there at the first token?");
    layers(out, r, main);
    surface(out, r, main);
    removed(out, r, main);
    text(out, r, main);
    rivals(out, r, main);
    protocol(out, r, main);
    drop_missing(out);
}
