/* sections.h - from checked runs to what the report says: one function a
 * section. Internal to host/report/. */
#ifndef KS_REPORT_SECTIONS_H
#define KS_REPORT_SECTIONS_H

#include "content.h"
#include "runs.h"

/* All sections of the runs, but for the chains; r starts as {0}. title NULL:
 * made of the runs' models. */
ks_status ks__sections_build(ks_report *r, const ks_runs *runs,
                             const char *title, ks_err *err);

/* Each adds one section, or a line to what is absent. */
void ks__section_claims(ks_report *r, const ks_runs *runs);
void ks__section_runs(ks_report *r, const ks_runs *runs);
void ks__section_layers(ks_report *r, const ks_runs *runs);
void ks__section_baselines(ks_report *r, const ks_runs *runs);
void ks__section_probes(ks_report *r, const ks_runs *runs);
void ks__section_refined(ks_report *r, const ks_runs *runs);
void ks__section_protocols(ks_report *r, const ks_runs *runs);
void ks__section_depth(ks_report *r, const ks_runs *runs);
void ks__section_controls(ks_report *r, const ks_runs *runs);
void ks__section_surface(ks_report *r, const ks_runs *runs);
void ks__section_curves(ks_report *r, const ks_runs *runs);
void ks__section_transfer(ks_report *r, const ks_runs *runs);

/* ------------------------------------------------------------ in all of them
 */

/* Column of a layer that stands for several: each outer fold has its own. */
#define KS_MOST_FOLDS "layer (most folds)"

/* "WHAT" of one run, "WHAT: NAME" of several. */
const char *ks__of_run(ks_report *r, const ks_runs *runs, size_t run,
                       const char *what);
/* A name for files likewise, with `more` (may be NULL) behind. */
const char *ks__file_of(ks_report *r, const ks_runs *runs, size_t run,
                        const char *what, const char *more);
/* A column "run", and its cell, where there are several. */
void ks__run_column(ks_report_table *t, const ks_runs *runs);
void ks__run_cell(ks_report_table *t, const ks_runs *runs, size_t run);

/* "mean", or "resid mean" where the run has several streams. */
const char *ks__where(ks_report *r, const ks_run *run, const json_t *object);
/* A position's colour: its number, -1 for a word that is none. */
int ks__tone(const json_t *object);
/* Of list, the entry with this stream and position; NULL: none. */
json_t *ks__same_where(const json_t *list, const json_t *where);
/* Does a baseline read labels of the steps that it is tested on? Then it is a
 * measure and no rival. */
bool ks__reads_labels(const json_t *baseline);

/* interval: {"value","low","high"} or NULL. */
void ks__cell_interval_of(ks_report_table *t, const json_t *interval);
void ks__point_interval(ks_report_figure *f, double x, const json_t *interval);
void ks__bar_interval(ks_report_figure *f, const char *group, const char *name,
                      int tone, const json_t *interval);
/* A name from a file, on one line and not too long. */
const char *ks__named(ks_report *r, const json_t *object, const char *key);

/* The series whose best layer does best on held-out steps (so what is said of
 * it as the best is chosen on them); NULL: the run has none. */
json_t *ks__best_series(const ks_run *run);
/* The whole run says nothing about WHAT. */
void ks__absent_in(ks_report *r, const ks_runs *runs, size_t run,
                   const char *what);
/* ------------------------------------------------- entries with points in them
 */

/* Lines over the points of entries {stream, position, list: [{x, y}]}; y: key
 * of an interval. */
typedef struct ks_lines_spec {
    const char *file, *more; /* of its name; more: may be NULL */
    const char *title, *finding, *before, *behind; /* ks__lines_finding */
    const char *list, *x, *y;                      /* keys */
    const char *x_label, *y_label;
    const char *reference; /* a line at `at`; NULL: none */
    double at, low, high;  /* low, high: as ks__fit_range takes them */
    bool percent, log_x, whole_x;
} ks_lines_spec;
void ks__lines_of(ks_report *r, const ks_runs *runs, size_t run,
                  const json_t *all, const ks_lines_spec *spec);

/* Rows of the same: position and a column a key, of the point or the entry. */
typedef struct ks_column_spec {
    const char *name, *key;
    ks_column_kind kind; /* intervals, numbers or p */
    bool of_entry;
} ks_column_spec;
void ks__columns_of(ks_report_table *t, const ks_column_spec *columns,
                    size_t n);
/* named: the run's name in front, where there are several. */
void ks__rows_of(ks_report_table *t, const ks_runs *runs, size_t run,
                 const json_t *all, const char *list,
                 const ks_column_spec *columns, size_t n, bool named);
/* A table of one run. */
typedef struct ks_table_spec {
    const char *file, *title, *note, *list;
    const ks_column_spec *columns;
    size_t n_columns;
} ks_table_spec;
void ks__table_of(ks_report *r, const ks_runs *runs, size_t run,
                  const json_t *all, const ks_table_spec *spec);

/* Rounds low down and high up to a tenth, at least [0.4, 1] of accuracies, and
 * keeps all values of the figure inside. */
void ks__fit_range(ks_report_figure *f, double low, double high);
/* "WHAT. Highest: mean 96.8% at layer 8; ..", of a figure with lines; before
 * and behind: words around x, as "layer " and ""; before NULL: WHAT alone. */
const char *ks__lines_finding(ks_report *r, const ks_report_figure *f,
                              const char *what, const char *before,
                              const char *behind);

#endif
