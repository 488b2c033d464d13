/* report.h - one or several runs of `keystep probe` and `keystep transfer` as
 * tables, pictures and a page. */
#ifndef KS_REPORT_H
#define KS_REPORT_H

#include "../base.h"

typedef struct ks_report_options {
    const char *const *runs; /* FOLDER or NAME=FOLDER */
    size_t n_runs;
    const char *out;   /* folder; made where it is not there */
    const char *title; /* NULL: made of the runs */
    const char *const *chains, *const *labels; /* files for the reader */
    size_t n_chains, n_labels;
    size_t shown;      /* chains of a run in the reader, at most; 0: 200, and no
                          more than 2 MiB of them */
    const char *strip; /* the chain of the picture; NULL: a typical one */
    bool force;        /* replace the report that is in out */
    bool no_d3;        /* the page shows gnuplot's pictures */
    bool no_pictures;  /* leave gnuplot out */
} ks_report_options;

typedef struct ks_report_done {
    size_t tables, figures, chains; /* chains: in the reader */
    size_t page_bytes;
    bool drawn;    /* pictures were made */
    bool d3;       /* the page draws its own */
    size_t absent; /* lines that say what is not there */
} ks_report_done;

/* Writes out/: index.html, report.md, report.json, tables/NAME.csv, .md, .tex,
 * .json, figures/NAME.svg, .png (docs/formats.md). index.html comes last and,
 * with force, goes first, so where it is the report is whole; of an earlier
 * report the tables and figures that this one has not go too. Without gnuplot
 * there are no figures, and `drawn` says so. */
ks_status ks_report_make(const ks_report_options *options, ks_report_done *done,
                         ks_err *err);

#endif
