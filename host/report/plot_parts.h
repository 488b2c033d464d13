/* plot_parts.h - what gnuplot's commands for all kinds of figures share.
 * Internal to plot*.c. */
#ifndef KS_REPORT_PLOT_PARTS_H
#define KS_REPORT_PLOT_PARTS_H

#include "plot.h"

/* Of a tone (content.h): "#0072B2", and gnuplot's number of a mark. */
const char *ks__plot_colour(int tone);
int ks__plot_mark(int tone);
/* v, but 0 where so many digits would show "-0.0". */
double ks__plot_shown(double v, int digits);

/* A string between single quotes: those in it are doubled; gnuplot looks for
 * nothing else there. */
ks_status ks__plot_quoted(ks_str *out, const char *text, ks_err *err);
/* before, the quoted text, after */
ks_status ks__plot_named(ks_str *out, const char *before, const char *text,
                         const char *after, ks_err *err);
/* " 0.5" or " NaN" */
ks_status ks__plot_value(ks_str *out, double v, ks_err *err);

ks_status ks__plot_lines(const ks_report_figure *figure, ks_str *out,
                         ks_err *err);

#endif
