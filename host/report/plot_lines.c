/* plot_lines.c - lines over x, with their intervals, for gnuplot. */
#include <math.h>
#include <string.h>

#include "plot_parts.h"

/* Where the name of a line stands behind its end. */
struct end {
    const ks_report_line *line;
    double y; /* of the axis, moved apart where names would lie on another */
};

enum { MOST_NAMES = 12 };

static size_t ends_of(const ks_report_figure *f, struct end *ends) {
    size_t n = 0;
    double times = f->percent ? 100 : 1;
    /* a line of text, of the axis's 370 pixels */
    double low = times * f->low, high = times * f->high,
           gap = (high - low) * 19 / 370;
    if (f->diagonal || f->n_lines > MOST_NAMES) return 0;
    for (size_t i = 0; i < f->n_lines; i++) {
        const ks_report_line *line = &f->lines[i];
        size_t last = line->first + line->n;
        while (last > line->first && isnan(f->points[last - 1].y)) last--;
        if (last == line->first) continue;
        struct end one = {line, times * f->points[last - 1].y};
        size_t k = n++;
        for (; k > 0 && ends[k - 1].y > one.y; k--) ends[k] = ends[k - 1];
        ends[k] = one;
    }
    for (size_t i = 1; i < n; i++)
        ends[i].y = fmax(ends[i].y, ends[i - 1].y + gap);
    if (n && ends[n - 1].y > high) ends[n - 1].y = high;
    for (size_t i = n; i-- > 1;)
        ends[i - 1].y = fmin(ends[i - 1].y, ends[i].y - gap);
    return n;
}

static ks_status line_names(const ks_report_figure *f, ks_str *out,
                            ks_err *err) {
    ks_status st = KS_OK;
    struct end ends[MOST_NAMES];
    size_t n = ends_of(f, ends), widest = 0;
    for (size_t i = 0; i < n; i++) {
        widest = KS_MAX(widest, strlen(ends[i].line->name));
        KS_TRY(ks__plot_named(out, "set label ", ends[i].line->name, "", err));
        KS_TRY(ks_str_printf(out, err,
                             " at graph 1, first %.6g offset 0.8,0 left "
                             "textcolor rgb '%s'\n",
                             ends[i].y, ks__plot_colour(ends[i].line->tone)));
    }
    if (n) KS_TRY(ks_str_printf(out, err, "set rmargin %zu\n", widest + 3));
done:
    return st;
}

static ks_status line_data(const ks_report_figure *f, size_t which, ks_str *out,
                           ks_err *err) {
    ks_status st = KS_OK;
    const ks_report_line *line = &f->lines[which];
    double times = f->percent ? 100 : 1, along = f->diagonal ? times : 1;
    KS_TRY(ks_str_printf(out, err, "$line%zu << EOD\n", which));
    for (size_t i = line->first; i < line->first + line->n; i++) {
        const ks_report_point *p = &f->points[i];
        bool range = isfinite(p->low) && isfinite(p->high);
        KS_TRY(ks__plot_value(out, along * p->x, err));
        KS_TRY(ks__plot_value(out, times * p->y, err));
        KS_TRY(ks__plot_value(out, times * (range ? p->low : p->y), err));
        KS_TRY(ks__plot_value(out, times * (range ? p->high : p->y), err));
        KS_TRY(ks_str_printf(out, err, "\n"));
    }
    KS_TRY(ks_str_printf(out, err, "EOD\n"));
done:
    return st;
}

static void span_of_x(const ks_report_figure *f, double *low, double *high) {
    *low = INFINITY, *high = -INFINITY;
    for (size_t i = 0; i < f->n_points; i++) {
        *low = fmin(*low, f->points[i].x);
        *high = fmax(*high, f->points[i].x);
    }
    if (!(*high > *low)) *low -= 0.5, *high += 0.5;
}

static double tic_step(double span) {
    static const double steps[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000};
    for (size_t i = 0; i < KS_COUNT(steps); i++)
        if (span / steps[i] <= 16) return steps[i];
    return pow(10, ceil(log10(span / 16)));
}

/* 1, 2, 5, 10, .. of an axis by logarithms, every one or, where those would
 * stand too close, the powers of ten. */
static ks_status log_tics(double low, double high, ks_str *out, ks_err *err) {
    static const double steps[] = {1, 2, 5};
    ks_status st = KS_OK;
    size_t n = high / low < 2e3 ? KS_COUNT(steps) : 1;
    const char *comma = "set xtics (";
    int first = (int)floor(log10(low)), last = (int)floor(log10(high));
    for (int ten = first; ten <= last; ten++)
        for (size_t i = 0; i < n; i++) {
            double v = steps[i] * pow(10, ten);
            if (v < low || v > high) continue;
            KS_TRY(ks_str_printf(out, err, "%s'%.6g' %.6g", comma, v, v));
            comma = ", ";
        }
    if (*comma == ',') KS_TRY(ks_str_printf(out, err, ")\n"));
done:
    return st;
}

static ks_status line_axes(const ks_report_figure *f, ks_str *out,
                           ks_err *err) {
    ks_status st = KS_OK;
    double low, high, times = f->percent ? 100 : 1;
    span_of_x(f, &low, &high);
    KS_TRY(ks_str_printf(out, err,
                         "set grid ytics lc rgb '#e2e2e2' lt 1 lw 1\n"
                         "set yrange [%.6g:%.6g]\n",
                         times * f->low, times * f->high));
    if (f->diagonal)
        return ks_str_printf(out, err,
                             "set xrange [%.6g:%.6g]\nset size ratio 1\n"
                             "set arrow from graph 0,0 to graph 1,1 nohead lc "
                             "rgb '#555555' dt 2 lw 1.5 back\n",
                             times * f->low, times * f->high);
    if (f->log_x) {
        KS_TRY(log_tics(low * 0.9, high * 1.1, out, err));
        return ks_str_printf(out, err,
                             "set logscale x\nset xrange [%.6g:%.6g]\n",
                             low * 0.9, high * 1.1);
    }
    double pad = (high - low) * 0.02;
    KS_TRY(ks_str_printf(out, err, "set xrange [%.6g:%.6g]\n", low - pad,
                         high + pad));
    if (f->whole_x)
        KS_TRY(
            ks_str_printf(out, err, "set xtics %.6g\n", tic_step(high - low)));
done:
    return st;
}

/* What the broken lines are, beneath the axis. */
static ks_status reference_names(const ks_report_figure *f, ks_str *out,
                                 ks_err *err) {
    ks_status st = KS_OK;
    char name[256];
    double at = 0.09;
    for (size_t i = 0; i < f->n_references; i++) {
        snprintf(name, sizeof name, i ? "%s, %.1f" : "%s",
                 f->references[i].name,
                 (f->percent ? 100 : 1) * f->references[i].at);
        KS_TRY(
            ks_str_printf(out, err,
                          "set arrow from screen %.4f,0.035 to screen "
                          "%.4f,0.035 nohead lc rgb '#333333' dt %d lw 1.5\n",
                          at, at + 0.03, i == 0 ? 2 : 3));
        KS_TRY(ks__plot_named(out, "set label ", name, "", err));
        KS_TRY(ks_str_printf(out, err,
                             " at screen %.4f,0.035 left textcolor rgb "
                             "'#444444'\n",
                             at + 0.038));
        at += 0.07 + 0.0098 * (double)strlen(name);
    }
    if (f->n_references) KS_TRY(ks_str_printf(out, err, "set bmargin 5.4\n"));
done:
    return st;
}

ks_status ks__plot_lines(const ks_report_figure *f, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    double times = f->percent ? 100 : 1;
    const char *comma = "plot ";
    struct end ends[MOST_NAMES];
    bool named = ends_of(f, ends) > 0; /* else the key has the names */
    for (size_t i = 0; i < f->n_lines; i++) KS_TRY(line_data(f, i, out, err));
    KS_TRY(line_axes(f, out, err));
    KS_TRY(line_names(f, out, err));
    KS_TRY(reference_names(f, out, err));
    if (f->diagonal)
        KS_TRY(ks_str_printf(out, err,
                             "set key at graph 0.97,0.04 right bottom vertical "
                             "maxrows auto Right noreverse\n"));
    else if (!named)
        KS_TRY(ks_str_printf(out, err, "set bmargin 6.4\n"));
    for (size_t i = 0; i < f->n_lines; i++, comma = ", \\\n  ")
        KS_TRY(ks_str_printf(
            out, err,
            "%s$line%zu using 1:3:4 with filledcurves lc rgb '%s' notitle",
            comma, i, ks__plot_colour(f->lines[i].tone)));
    for (size_t i = 0; i < f->n_references; i++, comma = ", \\\n  ") {
        KS_TRY(ks_str_printf(out, err,
                             "%s%.6g with lines lc rgb '#333333' dt %d lw 1.5 "
                             "notitle",
                             comma, times * f->references[i].at,
                             i == 0 ? 2 : 3));
    }
    for (size_t i = 0; i < f->n_lines; i++, comma = ", \\\n  ") {
        KS_TRY(ks_str_printf(out, err,
                             "%s$line%zu using 1:2 with linespoints lc rgb "
                             "'%s' pt %d ps 0.7 lw 2.2 %s",
                             comma, i, ks__plot_colour(f->lines[i].tone),
                             ks__plot_mark(f->lines[i].tone),
                             named ? "notitle" : "title "));
        if (!named) KS_TRY(ks__plot_quoted(out, f->lines[i].name, err));
    }
    KS_TRY(ks_str_printf(out, err, "\n"));
done:
    return st;
}
