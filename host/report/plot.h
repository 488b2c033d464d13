/* plot.h - figures drawn by gnuplot, which runs as a process of its own.
 * Internal to host/report/. */
#ifndef KS_REPORT_PLOT_H
#define KS_REPORT_PLOT_H

#include "content.h"

typedef enum ks_picture { KS_PICTURE_SVG, KS_PICTURE_PNG } ks_picture;

/* gnuplot's commands for one figure, written to the file NAME.svg.new or
 * NAME.png.new of its folder. Names are between single quotes, where gnuplot
 * replaces nothing. */
ks_status ks__plot_script(const ks_report_figure *figure, ks_picture picture,
                          ks_str *out, ks_err *err);

/* Draws all figures of the report into folder, as NAME.svg and NAME.png.
 * *drawn: false where there is no gnuplot, which is no error. */
ks_status ks__plot_all(const ks_report *report, const char *folder, bool *drawn,
                       ks_err *err);

#endif
