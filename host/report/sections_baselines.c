/* sections_baselines.c - what does without the activations, with others, or
 * with another kind of probe; the published protocol; the strata. */
#include "sections.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --------------------------------------------------------------- baselines */

enum { MOST_BARS = 40 };

typedef struct entry {
    const char *name;
    const json_t *interval;
    bool blind; /* knows neither activations nor tested labels */
    double value;
} entry;

bool ks__reads_labels(const json_t *baseline) {
    const char *name = ks__text(baseline, "name");
    return name && strcmp(name, "chain majority") == 0;
}

static int by_value(const void *a, const void *b) {
    double x = ((const entry *)a)->value, y = ((const entry *)b)->value;
    return (x < y) - (x > y);
}

static void add_entry(entry *list, size_t *n, const char *name, bool blind,
                      const json_t *interval) {
    double value = ks__number(interval, "value");
    if (isnan(value) || *n == MOST_BARS) return;
    list[(*n)++] = (entry){name, interval, blind, value};
}

/* The probe at each position, then all others, the best first. */
static void baseline_bars(ks_report *r, const ks_runs *runs, size_t run) {
    const ks_run *at = &runs->at[run];
    json_t *one, *best = ks__best_series(at);
    entry list[MOST_BARS];
    size_t n = 0, i;
    ks_report_figure *f = ks__figure(
        r, KS_FIGURE_BARS, ks__file_of(r, runs, run, "baselines", NULL),
        ks__of_run(r, runs, run, "Probes beside the baselines"));
    f->x_label = "balanced accuracy, %";
    f->percent = true;
    ks__reference(f, "chance", 0.5);
    json_array_foreach(json_object_get(at->summary, "probes"), i, one)
        ks__bar_interval(f, "best layer, by position", ks__where(r, at, one),
                         ks__tone(one),
                         ks__member(one, "best", "balanced_accuracy"));
    json_array_foreach(json_object_get(at->summary, "baselines"), i, one)
        add_entry(list, &n, ks__named(r, one, "name"), !ks__reads_labels(one),
                  ks__member(one, "metrics", "balanced_accuracy"));
    json_array_foreach(json_object_get(at->summary, "rivals"), i, one) {
        json_t *same =
            best ? ks__same_where(json_object_get(one, "probes"), best) : NULL;
        add_entry(list, &n, ks__named(r, one, "name"), false,
                  ks__member(same, "best", "balanced_accuracy"));
    }
    qsort(list, n, sizeof *list, by_value);
    for (i = 0; i < n; i++)
        ks__bar_interval(f, "baselines", list[i].name, -1, list[i].interval);
    ks__fit_range(f, 0.4, 1);
    /* the majority of a balanced chain is always wrong: its bar is cut */
    f->low = fmax(f->low, 0.3);
    for (i = 0; i < n && !list[i].blind;) i++;
    if (i < n && best)
        f->finding = ks__report_text(
            r,
            "Best layer at %s, of the positions the highest: %.1f%%. The "
            "highest without the activations, %s: %.1f%%.",
            ks__where(r, at, best),
            100 * ks__number(ks__member(best, "best", "balanced_accuracy"),
                             "value"),
            list[i].name, 100 * list[i].value);
    ks__figure_end(f);
}

static void metric_columns(ks_report_table *t) {
    ks__column(t, KS_COLUMN_PERCENT, "balanced accuracy, %");
    ks__column(t, KS_COLUMN_PERCENT, "accuracy, %");
    ks__column(t, KS_COLUMN_RANGE, "AUC");
    ks__column(t, KS_COLUMN_RANGE, "within-chain AUC");
    ks__column(t, KS_COLUMN_RANGE, "Brier");
}

static void metric_cells(ks_report_table *t, const json_t *metrics) {
    static const char *const names[] = {"balanced_accuracy", "accuracy", "auc",
                                        "within_chain_auc", "brier"};
    for (size_t m = 0; m < KS_COUNT(names); m++)
        ks__cell_interval_of(t, json_object_get(metrics, names[m]));
}

static void baseline_table(ks_report *r, const ks_runs *runs) {
    json_t *one;
    size_t i;
    ks_report_table *t =
        ks__table(r, "baselines", "Baselines on the same steps and folds");
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "baseline");
    metric_columns(t);
    ks__column(t, KS_COLUMN_TEXT, "what it is");
    for (size_t run = 0; run < runs->n; run++)
        json_array_foreach(json_object_get(runs->at[run].summary, "baselines"),
                           i, one) {
            const char *note = ks__text(one, "note");
            ks__run_cell(t, runs, run);
            ks__cell_text(t, ks__named(r, one, "name"));
            metric_cells(t, json_object_get(one, "metrics"));
            ks__cell_text(t, note ? ks__report_brief(r, note, 1000) : "");
        }
    ks__table_end(t);
}

static void rival_table(ks_report *r, const ks_runs *runs, size_t run) {
    const ks_run *at = &runs->at[run];
    json_t *one, *series, *all = json_object_get(at->summary, "probes");
    size_t i, k;
    ks_report_table *t = ks__table(
        r, ks__file_of(r, runs, run, "rivals", NULL),
        ks__of_run(r, runs, run,
                   "Other activations, their own best layer, balanced "
                   "accuracy, %"));
    ks__column(t, KS_COLUMN_TEXT, "activations");
    json_array_foreach(all, i, series)
        ks__column(t, KS_COLUMN_PERCENT, ks__where(r, at, series));
    json_array_foreach(json_object_get(at->summary, "rivals"), i, one) {
        ks__cell_text(t, ks__named(r, one, "name"));
        json_array_foreach(all, k, series) {
            ks__cell_interval_of(
                t, ks__member(
                       ks__same_where(json_object_get(one, "probes"), series),
                       "best", "balanced_accuracy"));
        }
    }
    ks__table_end(t);
}

static void gain_rows(ks_report_table *t, const ks_runs *runs, size_t run,
                      const char *kind) {
    json_t *one, *gain;
    size_t i, k;
    json_array_foreach(json_object_get(runs->at[run].summary, kind), i, one)
        json_array_foreach(json_object_get(one, "best_layer_minus_this"), k,
                           gain) {
        ks__run_cell(t, runs, run);
        ks__cell_text(t, ks__named(t->of, one, "name"));
        ks__cell_text(t, ks__where(t->of, &runs->at[run], gain));
        ks__cell_interval_of(t, gain);
        ks__cell_number(t, ks__number(gain, "p"));
        ks__cell_number(t, ks__number(gain, "p_holm"));
    }
}

static void gain_table(ks_report *r, const ks_runs *runs) {
    ks_report_table *t = ks__table(
        r, "differences", "Best layer minus baseline, balanced accuracy");
    t->note = "Points, paired: the same steps in the same draws of problems. "
              "p (Holm): corrected over the comparisons of the position.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "minus");
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_POINTS, "difference, points");
    ks__column(t, KS_COLUMN_P, "p");
    ks__column(t, KS_COLUMN_P, "p (Holm)");
    for (size_t run = 0; run < runs->n; run++) {
        gain_rows(t, runs, run, "baselines");
        gain_rows(t, runs, run, "rivals");
    }
    ks__table_end(t);
}

static void strata_table(ks_report *r, const ks_runs *runs, size_t run) {
    const ks_run *at = &runs->at[run];
    json_t *one, *series, *all = json_object_get(at->summary, "probes");
    size_t i, k;
    ks_report_table *t =
        ks__table(r, ks__file_of(r, runs, run, "strata", NULL),
                  ks__of_run(r, runs, run, "By stratum, balanced accuracy, %"));
    t->note = "Important steps of the stratum against all removable ones, "
              "best layer.";
    ks__column(t, KS_COLUMN_TEXT, "stratum");
    ks__column(t, KS_COLUMN_WHOLE, "important steps");
    json_array_foreach(all, i, series)
        ks__column(t, KS_COLUMN_PERCENT, ks__where(r, at, series));
    json_array_foreach(json_object_get(at->summary, "strata"), i, one) {
        ks__cell_text(t, ks__named(r, one, "value"));
        ks__cell_number(t, ks__number(one, "important"));
        json_array_foreach(all, k, series) {
            ks__cell_interval_of(
                t, ks__same_where(json_object_get(one, "balanced_accuracy"),
                                  series));
        }
    }
    ks__table_end(t);
}

void ks__section_baselines(ks_report *r, const ks_runs *runs) {
    ks__section(r, "baselines", "Beside the baselines",
                "What words, place and length of a step give away, on the "
                "same steps and the same folds.");
    for (size_t run = 0; run < runs->n; run++) baseline_bars(r, runs, run);
    baseline_table(r, runs);
    gain_table(r, runs);
    for (size_t run = 0; run < runs->n; run++) {
        rival_table(r, runs, run);
        strata_table(r, runs, run);
    }
}

/* ------------------------------------------------------------ other probes */

static const char *layer_words(ks_report *r, const json_t *object) {
    double layer = ks__number(object, "layer");
    return isnan(layer) ? "" : ks__report_text(r, "%.0f", layer);
}

static void other_rows(ks_report_table *t, const ks_runs *runs, size_t run) {
    ks_report *r = t->of;
    json_t *one, *all = json_object_get(runs->at[run].summary, "other_probes");
    size_t i;
    json_array_foreach(all, i, one) {
        ks__run_cell(t, runs, run);
        ks__cell_text(t, ks__named(r, one, "probe"));
        ks__cell_text(t, ks__where(r, &runs->at[run], one));
        ks__cell_text(t, layer_words(r, one));
        metric_cells(t, json_object_get(one, "metrics"));
        ks__cell_interval_of(t, json_object_get(one, "minus_best_l2"));
    }
    if (runs->at[run].summary && !json_array_size(all))
        ks__absent_in(r, runs, run, "no other kinds of probes");
}

/* What each kind is, behind what the note says already. */
static const char *kind_words(ks_report *r, const ks_runs *runs, size_t run,
                              json_t *told, const char *text) {
    json_t *one, *all = json_object_get(runs->at[run].summary, "other_probes");
    size_t i;
    json_array_foreach(all, i, one) {
        const char *name = ks__text(one, "probe"),
                   *note = ks__text(one, "note");
        if (!note || json_object_get(told, name)) continue;
        json_object_set_new(told, name, json_true());
        text =
            ks__report_text(r, "%s %s: %s.", text, ks__named(r, one, "probe"),
                            ks__report_brief(r, note, 1000));
    }
    return text;
}

/* Of one position: the best layer's linear probe, then the others. Positions
 * are told by their words: some kinds have none, or tokens. */
static void bars_at(ks_report_figure *f, const ks_run *at, const char *where) {
    ks_report *r = f->of;
    json_t *one;
    size_t i;
    const char *group = *where ? where : "all layers";
    json_array_foreach(json_object_get(at->summary, "probes"), i, one) {
        if (strcmp(ks__where(r, at, one), where) == 0)
            ks__bar_interval(f, group, "L2, best layer", ks__tone(one),
                             ks__member(one, "best", "balanced_accuracy"));
    }
    json_array_foreach(json_object_get(at->summary, "other_probes"), i, one) {
        if (strcmp(ks__where(r, at, one), where) == 0)
            ks__bar_interval(f, group, ks__named(r, one, "probe"),
                             ks__tone(one),
                             ks__member(one, "metrics", "balanced_accuracy"));
    }
}

/* Does an entry before the i-th stand at its position? */
static bool seen(ks_report *r, const ks_run *at, const json_t *all, size_t i) {
    const char *where = ks__where(r, at, json_array_get(all, i));
    for (size_t k = 0; k < i; k++)
        if (strcmp(ks__where(r, at, json_array_get(all, k)), where) == 0)
            return true;
    return false;
}

static void other_bars(ks_report *r, const ks_runs *runs, size_t run) {
    const ks_run *at = &runs->at[run];
    json_t *all = json_object_get(at->summary, "other_probes");
    const ks_report_bar *best = NULL;
    if (!json_array_size(all) || json_array_size(all) > MOST_BARS) return;
    ks_report_figure *f =
        ks__figure(r, KS_FIGURE_BARS, ks__file_of(r, runs, run, "probes", NULL),
                   ks__of_run(r, runs, run, "Kinds of probes, by position"));
    f->x_label = "balanced accuracy, %";
    f->percent = true;
    ks__reference(f, "chance", 0.5);
    for (size_t i = 0; i < json_array_size(all); i++)
        if (!seen(r, at, all, i))
            bars_at(f, at, ks__where(r, at, json_array_get(all, i)));
    for (size_t i = 0; i < f->n_bars; i++)
        if (!best || f->bars[i].value > best->value) best = &f->bars[i];
    ks__fit_range(f, 0.4, 1);
    if (best)
        f->finding = ks__report_text(
            r,
            "Highest: %s at %s, %.1f%%. Linear probes of one layer (L2) "
            "stand first at each position.",
            best->name, best->group, 100 * best->value);
    ks__figure_end(f);
}

void ks__section_probes(ks_report *r, const ks_runs *runs) {
    ks__section(r, "probes", "Other kinds of probes",
                "The same steps and folds, with probes of other kinds; the "
                "difference to the best layer's linear probe is paired.");
    for (size_t run = 0; run < runs->n; run++) other_bars(r, runs, run);
    json_t *told = json_object();
    ks_report_table *t = ks__table(r, "probes", "Other kinds of probes");
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "probe");
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_TEXT, "layer");
    metric_columns(t);
    ks__column(t, KS_COLUMN_POINTS, "minus best L2, points");
    t->note = "minus best L2: less the best layer's linear probe at the "
              "position, paired.";
    for (size_t run = 0; run < runs->n; run++) {
        other_rows(t, runs, run);
        t->note = kind_words(r, runs, run, told, t->note);
    }
    json_decref(told);
    ks__table_end(t);
}

/* --------------------------------------------------------------- protocols */

static void protocol_rows(ks_report_table *t, const ks_runs *runs, size_t run) {
    ks_report *r = t->of;
    json_t *one, *rung,
        *all = json_object_get(runs->at[run].summary, "protocols");
    size_t i, k;
    json_array_foreach(all, i, one) {
        json_t *rungs = json_object_get(one, "steps");
        json_array_foreach(rungs, k, rung) {
            const char *note = ks__text(rung, "note");
            ks__run_cell(t, runs, run);
            ks__cell_text(t, ks__named(r, one, "probe"));
            ks__cell_text(t, ks__where(r, &runs->at[run], one));
            ks__cell_text(t, ks__named(r, rung, "name"));
            ks__cell_interval_of(t, json_object_get(rung, "accuracy"));
            ks__cell_interval_of(t, json_object_get(rung, "balanced_accuracy"));
            ks__cell_range(t, ks__number(rung, "sd"), NAN, NAN);
            ks__cell_interval_of(t, k + 1 == json_array_size(rungs)
                                        ? json_object_get(one, "difference")
                                        : NULL);
            ks__cell_text(t, note ? ks__report_brief(r, note, 1000) : "");
        }
    }
    if (runs->at[run].summary && !json_array_size(all))
        ks__absent_in(r, runs, run, "no comparison of protocols");
}

static void protocol_bars(ks_report *r, const ks_runs *runs, size_t run) {
    const ks_run *at = &runs->at[run];
    json_t *one, *rung;
    size_t i, k;
    ks_report_figure *f = ks__figure(
        r, KS_FIGURE_BARS, ks__file_of(r, runs, run, "protocols", NULL),
        ks__of_run(r, runs, run,
                   "From the published protocol to the honest "
                   "one"));
    f->x_label = "balanced accuracy, %";
    f->percent = true;
    ks__reference(f, "chance", 0.5);
    f->finding = "";
    json_array_foreach(json_object_get(at->summary, "protocols"), i, one) {
        const char *where = ks__where(r, at, one);
        const char *group = ks__report_text(
            r, "%s%s%s", ks__named(r, one, "probe"), *where ? ", " : "", where);
        json_array_foreach(json_object_get(one, "steps"), k, rung)
            ks__bar_interval(f, group, ks__named(r, rung, "name"),
                             ks__tone(one),
                             json_object_get(rung, "balanced_accuracy"));
        double difference =
            ks__number(json_object_get(one, "difference"), "value");
        if (!isnan(difference))
            f->finding = ks__report_text(
                r, "%s%s%s: published minus honest %+.1f points.", f->finding,
                *f->finding ? " " : "", group, 100 * difference);
    }
    if (!*f->finding)
        f->finding =
            "Balanced accuracy in percent by protocol; the table has the "
            "figures.";
    ks__fit_range(f, 0.4, 1);
    ks__figure_end(f);
}

static void published_texts(ks_report *r, const ks_runs *runs) {
    json_t *one;
    size_t i;
    ks_report_table *t = ks__table(r, "published-texts", "Text as published");
    t->note = "The published text baselines on the evaluation steps of \"as "
              "published\": a network of 128 and 64 units after 30 epochs, "
              "nothing chosen. Steps of one chain stand on both sides: to be "
              "held against that protocol alone.";
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "reader");
    ks__column(t, KS_COLUMN_WHOLE, "inputs");
    ks__column(t, KS_COLUMN_PERCENT, "accuracy, %");
    ks__column(t, KS_COLUMN_PERCENT, "balanced accuracy, %");
    ks__column(t, KS_COLUMN_PERCENT, "SD over seeds, points");
    for (size_t run = 0; run < runs->n; run++)
        json_array_foreach(
            json_object_get(runs->at[run].summary, "published_texts"), i, one) {
            ks__run_cell(t, runs, run);
            ks__cell_text(t, ks__named(r, one, "name"));
            ks__cell_number(t, ks__number(one, "inputs"));
            ks__cell_interval_of(t, json_object_get(one, "accuracy"));
            ks__cell_interval_of(t, json_object_get(one, "balanced_accuracy"));
            ks__cell_range(t, ks__number(one, "sd"), NAN, NAN);
        }
    ks__table_end(t);
}

void ks__section_protocols(ks_report *r, const ks_runs *runs) {
    ks__section(r, "protocols", "The published protocol beside the honest one",
                "The published protocol splits steps at random and picks the "
                "best epoch on the evaluation set; the rungs between say what "
                "each of its choices is worth.");
    for (size_t run = 0; run < runs->n; run++) protocol_bars(r, runs, run);
    ks_report_table *t = ks__table(r, "protocols", "Protocols");
    ks__run_column(t, runs);
    ks__column(t, KS_COLUMN_TEXT, "probe");
    ks__column(t, KS_COLUMN_TEXT, "position");
    ks__column(t, KS_COLUMN_TEXT, "protocol");
    ks__column(t, KS_COLUMN_PERCENT, "accuracy, %");
    ks__column(t, KS_COLUMN_PERCENT, "balanced accuracy, %");
    ks__column(t, KS_COLUMN_PERCENT, "SD over seeds, points");
    ks__column(t, KS_COLUMN_POINTS, "published minus honest, points");
    ks__column(t, KS_COLUMN_TEXT, "what it is");
    for (size_t run = 0; run < runs->n; run++) protocol_rows(t, runs, run);
    ks__table_end(t);
    published_texts(r, runs);
}
