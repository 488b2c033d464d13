/* sections.c - see sections.h: what all sections share. */
#include "sections.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *ks__of_run(ks_report *r, const ks_runs *runs, size_t run,
                       const char *what) {
    if (runs->n == 1) return what;
    return ks__report_text(r, "%s: %s", what,
                           ks__report_brief(r, runs->at[run].name, 60));
}

const char *ks__file_of(ks_report *r, const ks_runs *runs, size_t run,
                        const char *what, const char *more) {
    const char *name = ks__report_name(r, what, more);
    if (runs->n == 1) return name;
    /* two runs' names may have the same letters: the number tells them apart */
    return ks__report_name(
        r, name, ks__report_text(r, "%zu %s", run + 1, runs->at[run].name));
}

void ks__run_column(ks_report_table *t, const ks_runs *runs) {
    if (runs->n > 1) ks__column(t, KS_COLUMN_TEXT, "run");
}

void ks__run_cell(ks_report_table *t, const ks_runs *runs, size_t run) {
    if (runs->n > 1)
        ks__cell_text(t, ks__report_brief(t->of, runs->at[run].name, 60));
}

static bool many_streams(const ks_run *run) {
    json_t *series, *all = json_object_get(run->summary, "probes");
    const char *first = NULL;
    size_t i;
    json_array_foreach(all, i, series) {
        const char *stream = ks__text(series, "stream");
        if (!first) first = stream;
        if (strcmp(first, stream) != 0) return true;
    }
    return false;
}

const char *ks__where(ks_report *r, const ks_run *run, const json_t *object) {
    const char *stream = ks__text(object, "stream");
    const char *position = ks__text(object, "position");
    if (!position) return stream ? ks__named(r, object, "stream") : "";
    if (!stream || !many_streams(run)) return ks__named(r, object, "position");
    return ks__report_text(r, "%s %s", ks__named(r, object, "stream"),
                           ks__named(r, object, "position"));
}

int ks__tone(const json_t *object) {
    const char *name = ks__text(object, "position");
    for (ks_position p = 0; name && p < KS_TOKENS; p++)
        if (strcmp(name, ks_position_name(p)) == 0) return (int)p;
    return -1;
}

json_t *ks__same_where(const json_t *list, const json_t *where) {
    json_t *one;
    size_t i;
    json_array_foreach(list, i, one) {
        if (strcmp(ks__text(one, "stream"), ks__text(where, "stream")) == 0 &&
            strcmp(ks__text(one, "position"), ks__text(where, "position")) == 0)
            return one;
    }
    return NULL;
}

void ks__cell_interval_of(ks_report_table *t, const json_t *interval) {
    ks__cell_range(t, ks__number(interval, "value"),
                   ks__number(interval, "low"), ks__number(interval, "high"));
}

void ks__point_interval(ks_report_figure *f, double x, const json_t *interval) {
    ks__point(f, x, ks__number(interval, "value"), ks__number(interval, "low"),
              ks__number(interval, "high"));
}

void ks__bar_interval(ks_report_figure *f, const char *group, const char *name,
                      int tone, const json_t *interval) {
    ks__bar(f, group, name, tone, ks__number(interval, "value"),
            ks__number(interval, "low"), ks__number(interval, "high"));
}

const char *ks__named(ks_report *r, const json_t *object, const char *key) {
    const char *text = ks__text(object, key);
    return text ? ks__report_brief(r, text, 80) : "";
}

json_t *ks__best_series(const ks_run *run) {
    json_t *series, *best = NULL,
                    *all = json_object_get(run->summary, "probes");
    double most = -1;
    size_t i;
    json_array_foreach(all, i, series) {
        double value = ks__number(
            ks__member(series, "best", "balanced_accuracy"), "value");
        if (value > most) most = value, best = series;
    }
    return best;
}

void ks__absent_in(ks_report *r, const ks_runs *runs, size_t run,
                   const char *what) {
    ks__absent(r, ks__of_run(r, runs, run, what));
}

static void widen(double *low, double *high, double v) {
    if (isnan(v)) return;
    *low = fmin(*low, v);
    *high = fmax(*high, v);
}

void ks__fit_range(ks_report_figure *f, double low, double high) {
    for (size_t i = 0; i < f->n_points; i++) {
        widen(&low, &high, f->points[i].y);
        widen(&low, &high, f->points[i].low);
        widen(&low, &high, f->points[i].high);
    }
    for (size_t i = 0; i < f->n_bars; i++) {
        widen(&low, &high, f->bars[i].value);
        widen(&low, &high, f->bars[i].low);
        widen(&low, &high, f->bars[i].high);
    }
    for (size_t i = 0; i < f->n_values; i++) widen(&low, &high, f->values[i]);
    f->low = floor(low * 10 + 1e-9) / 10;
    f->high = ceil(high * 10 - 1e-9) / 10;
}

/* The highest of a line and where, for a sentence. */
static const char *line_words(ks_report *r, const ks_report_figure *f,
                              const ks_report_line *line, const char *before,
                              const char *behind) {
    const ks_report_point *high = NULL;
    double times = f->percent ? 100 : 1;
    for (size_t i = line->first; i < line->first + line->n; i++)
        if (!isnan(f->points[i].y) && (!high || f->points[i].y > high->y))
            high = &f->points[i];
    if (!high) return ks__report_text(r, "%s not defined", line->name);
    return ks__report_text(
        r, "%s %.*f%s at %s%.*g%s", line->name, f->percent ? 1 : 3,
        times * high->y, f->percent ? "%" : "", before, high->x < 1000 ? 3 : 9,
        round(high->x) > 99 ? round(high->x) : high->x, behind);
}

const char *ks__lines_finding(ks_report *r, const ks_report_figure *f,
                              const char *what, const char *before,
                              const char *behind) {
    const char *text = what;
    for (size_t i = 0; before && i < f->n_lines; i++)
        text = ks__report_text(r, "%s%s %s", text, i ? ";" : ". Highest:",
                               line_words(r, f, &f->lines[i], before, behind));
    return ks__report_text(r, "%s.", text);
}

/* ---------------------------------------------------------------------- all */

static const char *title_of(ks_report *r, const ks_runs *runs) {
    const char *text = "Probes of";
    size_t named = 0;
    for (size_t i = 0; i < runs->n; i++) {
        const char *model = ks__text(runs->at[i].summary, "model");
        bool seen = model == NULL;
        for (size_t k = 0; k < i && !seen; k++) {
            const char *other = ks__text(runs->at[k].summary, "model");
            seen = other && strcmp(other, model) == 0;
        }
        if (!seen)
            text = ks__report_text(r, "%s%s %s", text, named++ ? "," : "",
                                   ks__report_brief(r, model, 80));
    }
    return named ? text : "Transfer between models";
}

ks_status ks__sections_build(ks_report *r, const ks_runs *runs,
                             const char *title, ks_err *err) {
    r->title = title ? ks__report_brief(r, title, 200) : title_of(r, runs);
    ks__section_claims(r, runs);
    ks__section_runs(r, runs);
    ks__section_layers(r, runs);
    ks__section_baselines(r, runs);
    ks__section_probes(r, runs);
    ks__section_refined(r, runs);
    ks__section_protocols(r, runs);
    ks__section_depth(r, runs);
    ks__section_controls(r, runs);
    ks__section_surface(r, runs);
    ks__section_curves(r, runs);
    ks__section_transfer(r, runs);
    /* a section that found nothing goes again */
    size_t kept = 0;
    for (size_t i = 0; i < r->n_sections; i++)
        if (r->sections[i].n_parts) {
            ks_report_section one = r->sections[i];
            r->sections[kept++] = one;
        } else {
            free(r->sections[i].parts);
        }
    r->n_sections = kept;
    if (r->st != KS_OK) {
        if (err) *err = r->err;
        return r->st;
    }
    return KS_OK;
}
