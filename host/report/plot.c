/* plot.c - gnuplot's commands for a figure; see plot.h. */
#include "plot_parts.h"
#include "ramp.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Okabe and Ito's colours, which people tell apart however they see colours,
 * in the order of the positions; marks of different shape beside them. */
static const char *const tone_colour[] = {
    "#0072B2", "#D55E00", "#009E73", "#AA4499", "#555555",
    /* runs: Tol's muted colours */
    "#332288", "#117733", "#882255", "#8a7a1c", "#2b8cb3"};
static const int tone_mark[] = {7, 9, 5, 13, 11, 6, 8, 4, 12, 10};
static const char grey[] = "#9a9a9a";

const char *ks__plot_colour(int tone) {
    return tone >= 0 && (size_t)tone < KS_COUNT(tone_colour) ? tone_colour[tone]
                                                             : grey;
}

int ks__plot_mark(int tone) {
    return tone >= 0 && (size_t)tone < KS_COUNT(tone_mark) ? tone_mark[tone]
                                                           : 7;
}

/* A string between single quotes: those in it are doubled; gnuplot looks for
 * nothing else there. */
ks_status ks__plot_quoted(ks_str *out, const char *text, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_str_add(out, "'", 1, err));
    for (; *text; text++) {
        if (*text == '\'') KS_TRY(ks_str_add(out, "'", 1, err));
        unsigned char c = (unsigned char)*text;
        KS_TRY(ks_str_add(out, c < 0x20 || c == 0x7F ? " " : text, 1, err));
    }
    KS_TRY(ks_str_add(out, "'", 1, err));
done:
    return st;
}

/* before, the quoted text, after */
ks_status ks__plot_named(ks_str *out, const char *before, const char *text,
                         const char *after, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_str_printf(out, err, "%s", before));
    KS_TRY(ks__plot_quoted(out, text, err));
    KS_TRY(ks_str_printf(out, err, "%s", after));
done:
    return st;
}

ks_status ks__plot_value(ks_str *out, double v, ks_err *err) {
    return isfinite(v) ? ks_str_printf(out, err, " %.6g", v)
                       : ks_str_printf(out, err, " NaN");
}

/* v, but 0 where so many digits would show "-0.0". */
double ks__plot_shown(double v, int digits) {
    return fabs(v) < 0.5 * pow(10, -digits) ? 0 : v;
}

/* ------------------------------------------------------------------- frame */

enum { LETTER = 8 }; /* pixels of one in a title, about */

static size_t letters(const char *text) {
    size_t n = 0;
    for (; *text; text++) n += (*text & 0xC0) != 0x80;
    return n;
}

/* On two lines where one has not the room: cut at the blank nearest to the
 * middle. */
static ks_status title(const char *text, double width, ks_str *out,
                       ks_err *err) {
    ks_status st = KS_OK;
    const char *middle = text + strlen(text) / 2, *cut = NULL;
    ks_str first = {0};
    for (const char *at = text; *at; at++)
        if (*at == ' ' && at > text &&
            (!cut || labs(at - middle) < labs(cut - middle)))
            cut = at;
    if (!cut || LETTER * (double)letters(text) < width - 20) {
        KS_TRY(ks__plot_named(out, "set title ", text, "", err));
    } else {
        KS_TRY(ks_str_add(&first, text, (size_t)(cut - text), err));
        KS_TRY(ks__plot_named(out, "set title ", first.data, ".\"\\n\".", err));
        KS_TRY(ks__plot_quoted(out, cut + 1, err));
    }
    KS_TRY(ks_str_printf(out, err, " textcolor rgb '#222222'\n"));
done:
    ks_str_free(&first);
    return st;
}

static ks_status frame(const ks_report_figure *f, ks_picture picture,
                       double width, double height, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    if (picture == KS_PICTURE_SVG)
        KS_TRY(
            ks_str_printf(out, err,
                          "reset\nset terminal svg noenhanced size %.0f,%.0f "
                          "dynamic font 'Helvetica,14' background '#ffffff'\n",
                          width, height));
    else
        KS_TRY(ks_str_printf(out, err,
                             "reset\nset terminal pngcairo noenhanced size "
                             "%.0f,%.0f font 'DejaVu Sans,18' linewidth 1.7 "
                             "pointscale 1.7\n",
                             1.6 * width, 1.6 * height));
    KS_TRY(ks_str_printf(out, err,
                         "set encoding utf8\nset output '%s.%s.new'\n", f->name,
                         picture == KS_PICTURE_SVG ? "svg" : "png"));
    KS_TRY(title(f->title, width, out, err));
    KS_TRY(ks__plot_named(out, "set xlabel ",
                          f->kind == KS_FIGURE_STRIP
                              ? "step; beneath it its label: \u25CF important, "
                                "\u25CB removable, \u00B7 none"
                              : f->x_label,
                          " textcolor rgb '#444444'\n", err));
    KS_TRY(ks__plot_named(out, "set ylabel ", f->y_label,
                          " textcolor rgb '#444444'\n", err));
    KS_TRY(ks_str_printf(
        out, err,
        "set border 3 lc rgb '#888888'\n"
        "set xtics out nomirror textcolor rgb '#444444'\n"
        "set ytics out nomirror textcolor rgb '#444444'\n"
        "set key at screen 0.5,0.015 center bottom horizontal Left reverse "
        "maxrows 1 samplen 2.5 width 2 textcolor rgb '#222222'\n"
        "set style fill transparent solid 0.14 noborder\n"));
done:
    return st;
}

/* -------------------------------------------------------------------- bars */

static bool begins_group(const ks_report_figure *f, size_t i) {
    const char *group = f->bars[i].group;
    return i == 0 || (group && (!f->bars[i - 1].group ||
                                strcmp(group, f->bars[i - 1].group) != 0));
}

/* The bar's place from below; groups have a gap with their name in it. */
static double bar_place(const ks_report_figure *f, size_t which,
                        double *total) {
    double place = 0, at = 0;
    for (size_t i = 0; i < f->n_bars; i++) {
        place += f->bars[i].group && begins_group(f, i) ? 1.1 : 0;
        if (i == which) at = place;
        place += 1;
    }
    *total = place;
    return at;
}

static ks_status bar_names(const ks_report_figure *f, double total, ks_str *out,
                           ks_err *err) {
    ks_status st = KS_OK;
    double unused;
    KS_TRY(ks_str_printf(out, err, "set ytics scale 0 ("));
    for (size_t i = 0; i < f->n_bars; i++) {
        KS_TRY(ks__plot_named(out, i ? ", " : "", f->bars[i].name, "", err));
        KS_TRY(
            ks_str_printf(out, err, " %.6g", total - bar_place(f, i, &unused)));
    }
    KS_TRY(ks_str_printf(out, err, ")\n"));
    for (size_t i = 0; i < f->n_bars; i++) {
        if (!f->bars[i].group || !begins_group(f, i)) continue;
        KS_TRY(ks__plot_named(out, "set label ", f->bars[i].group, "", err));
        KS_TRY(ks_str_printf(out, err,
                             " at graph 0, first %.6g offset 0.3,0 left "
                             "textcolor rgb '#555555' front\n",
                             total - bar_place(f, i, &unused) + 0.95));
    }
done:
    return st;
}

/* "96.8" behind the bars, in a column of its own. */
static ks_status bar_values(const ks_report_figure *f, double total,
                            ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    double unused;
    for (size_t i = 0; i < f->n_bars; i++) {
        double v = (f->percent ? 100 : 1) * f->bars[i].value;
        int digits = f->percent ? 1 : 2;
        if (!isfinite(v)) continue;
        KS_TRY(ks_str_printf(
            out, err,
            "set label '%.*f' at graph 1, first %.6g offset 4.6,0 right "
            "textcolor rgb '#222222'\n",
            digits, ks__plot_shown(v, digits),
            total - bar_place(f, i, &unused)));
    }
done:
    return st;
}

/* The line that bars begin at, group by group: names stand between. */
static ks_status bar_axis(const ks_report_figure *f, double from, double total,
                          ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    double unused;
    for (size_t i = 0, end; i < f->n_bars; i = end) {
        for (end = i + 1; end < f->n_bars && !begins_group(f, end);) end++;
        KS_TRY(ks_str_printf(
            out, err,
            "set arrow from %.6g,%.6g to %.6g,%.6g nohead lc rgb '#333333' lw "
            "1.5 front\n",
            from, total - bar_place(f, i, &unused) + 0.5, from,
            total - bar_place(f, end - 1, &unused) - 0.5));
    }
done:
    return st;
}

static ks_status bars(const ks_report_figure *f, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    double total, unused, times = f->percent ? 100 : 1;
    double from =
        f->n_references ? times * f->references[0].at : times * f->low;
    bar_place(f, 0, &total);
    KS_TRY(bar_names(f, total, out, err));
    KS_TRY(bar_values(f, total, out, err));
    KS_TRY(ks_str_printf(
        out, err,
        "set rmargin 8\nset border 1 lc rgb '#888888'\nunset key\n"
        "set grid xtics lc rgb '#e2e2e2' lt 1 lw 1\n"
        "set xrange [%.6g:%.6g]\nset yrange [0.3:%.6g]\n"
        "set style fill solid 0.85 noborder\nset bars 0.6\n",
        times * f->low, times * f->high, total + 0.7));
    KS_TRY(bar_axis(f, from, total, out, err));
    /* one plot a bar: each has its colour */
    for (size_t i = 0; i < f->n_bars; i++) {
        const ks_report_bar *b = &f->bars[i];
        double y = total - bar_place(f, i, &unused), v = times * b->value;
        double cut = times * f->low;
        if (!isfinite(v)) v = from;
        bool range = isfinite(b->low) && isfinite(b->high);
        KS_TRY(ks_str_printf(
            out, err,
            "$bar%zu << EOD\n%.6g %.6g %.6g %.6g %.6g %.6g %.6g "
            "%.6g\nEOD\n",
            i, fmax(v, cut), y, fmax(cut, fmin(v, from)), fmax(v, from),
            y - 0.36, y + 0.36, fmax(cut, range ? times * b->low : v),
            fmax(cut, range ? times * b->high : v)));
    }
    for (size_t i = 0; i < f->n_bars; i++)
        KS_TRY(ks_str_printf(out, err,
                             "%s$bar%zu using 1:2:3:4:5:6 with boxxyerror lc "
                             "rgb '%s', $bar%zu using 1:2:7:8 with xerrorbars "
                             "lc rgb '#222222' pt 0 lw 1.4",
                             i ? ", \\\n  " : "plot ", i,
                             ks__plot_colour(f->bars[i].tone), i));
    KS_TRY(ks_str_printf(out, err, "\n"));
done:
    return st;
}

/* ---------------------------------------------------------- heat and strip */

static ks_status heat_names(const ks_report_figure *f, bool across, ks_str *out,
                            ks_err *err) {
    ks_status st = KS_OK;
    size_t n = across ? f->n_columns : f->n_rows;
    const char **names = across ? f->columns : f->rows;
    /* not more names than there is room for */
    size_t step = (n + (across ? 29 : 19)) / (across ? 30 : 20);
    KS_TRY(ks_str_printf(out, err, "set %stics scale 0 (", across ? "x" : "y"));
    for (size_t i = 0; i < n; i += step) {
        KS_TRY(ks__plot_named(out, i ? ", " : "", names[i], "", err));
        KS_TRY(ks_str_printf(out, err, " %zu", i));
    }
    KS_TRY(ks_str_printf(out, err, ")\n"));
done:
    return st;
}

/* Figures in the cells, black on pale ones and white on deep ones. */
static ks_status heat_numbers(const ks_report_figure *f, bool light,
                              ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    double times = f->percent ? 100 : 1;
    const ks_ramp *ramp = ks__ramp(f->diverging);
    KS_TRY(ks_str_printf(out, err, "$%s << EOD\n", light ? "light" : "dark"));
    for (size_t i = 0; i < f->n_values; i++) {
        double part = (f->values[i] - f->low) / (f->high - f->low);
        if (!isfinite(f->values[i]) || ks__ramp_deep(ramp, part) != light)
            continue;
        double v = times * f->values[i];
        int digits = f->percent ? 0 : 1;
        KS_TRY(ks_str_printf(out, err, "%zu %zu %.*f\n", i % f->n_columns,
                             i / f->n_columns, digits,
                             ks__plot_shown(v, digits)));
    }
    /* a block must not be empty */
    KS_TRY(ks_str_printf(out, err, "-99 -99 0\nEOD\n"));
done:
    return st;
}

static ks_status strip_marks(const ks_report_figure *f, ks_str *out,
                             ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = 0; i < f->n_marks; i++)
        KS_TRY(ks_str_printf(out, err,
                             "set label '%s' at first %zu, first -1.1 center "
                             "textcolor rgb '%s'\n",
                             f->marks[i] == 1   ? "\u25CF"
                             : f->marks[i] == 0 ? "\u25CB"
                                                : "\u00B7",
                             i, f->marks[i] == 1 ? "#b35806" : "#2166ac"));
done:
    return st;
}

static ks_status heat_palette(const ks_ramp *ramp, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    for (int i = 0; i < KS_RAMP_STOPS; i++)
        KS_TRY(ks_str_printf(out, err, "%s%d '%s'",
                             i ? ", " : "set palette defined (", i,
                             ramp->light[i]));
    KS_TRY(ks_str_printf(out, err, ")\n"));
done:
    return st;
}

static ks_status heat(const ks_report_figure *f, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    double times = f->percent ? 100 : 1;
    bool numbers = f->n_columns <= 20 && f->n_rows <= 34;
    KS_TRY(ks_str_printf(out, err, "$map << EOD\n"));
    for (size_t i = 0; i < f->n_values; i++) {
        if (isfinite(f->values[i]))
            KS_TRY(ks_str_printf(out, err, "%zu %zu %.6g\n", i % f->n_columns,
                                 i / f->n_columns, times * f->values[i]));
        else
            KS_TRY(ks_str_printf(out, err, "%zu %zu NaN\n", i % f->n_columns,
                                 i / f->n_columns));
    }
    KS_TRY(ks_str_printf(out, err, "EOD\n"));
    KS_TRY(heat_numbers(f, false, out, err));
    KS_TRY(heat_numbers(f, true, out, err));
    KS_TRY(heat_names(f, true, out, err));
    KS_TRY(heat_names(f, false, out, err));
    KS_TRY(strip_marks(f, out, err));
    KS_TRY(ks_str_printf(
        out, err,
        "unset key\nunset border\nset style fill solid 1 noborder\n"
        "set colorbox user origin graph 1.02,0.1 size "
        "graph 0.02,0.8 noborder\nset rmargin 9\n"
        "set cbtics scale 0.4 textcolor rgb '#444444'\n"
        "set cbrange [%.6g:%.6g]\nset xrange [-0.5:%.1f]\n"
        "set yrange [%.1f:%.1f]\n",
        times * f->low, times * f->high, (double)f->n_columns - 0.5,
        f->n_marks ? -1.7 : -0.5, (double)f->n_rows - 0.5));
    KS_TRY(heat_palette(ks__ramp(f->diverging), out, err));
    /* an image has two rows and two columns or more */
    KS_TRY(ks_str_printf(
        out, err,
        f->n_rows > 1 && f->n_columns > 1
            ? "plot $map with image pixels"
            : "plot $map using 1:2:($1-0.5):($1+0.5):($2-0.5):($2+0.5):3 with "
              "boxxyerror lc palette"));
    if (numbers)
        KS_TRY(ks_str_printf(
            out, err,
            ", $dark with labels textcolor rgb '#000000', $light with "
            "labels textcolor rgb '#ffffff'"));
    KS_TRY(ks_str_printf(out, err, "\n"));
done:
    return st;
}

/* ---------------------------------------------------------------------- all */

static double height_of(const ks_report_figure *f) {
    double total = 0;
    switch (f->kind) {
    case KS_FIGURE_BARS:
        bar_place(f, 0, &total);
        return 110 + 27 * total;
    case KS_FIGURE_HEAT:
    case KS_FIGURE_STRIP:
        return 150 + KS_MAX(110.0, KS_MIN(26.0 * (double)f->n_rows, 620.0));
    default:
        return f->diagonal ? 660 : 500;
    }
}

ks_status ks__plot_script(const ks_report_figure *f, ks_picture picture,
                          ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    double width = f->diagonal ? 640 : 900;
    if (f->kind == KS_FIGURE_HEAT)
        width =
            KS_MAX(620, KS_MIN(KS_MAX(260.0 + 64.0 * (double)f->n_columns,
                                      30 + LETTER * (double)letters(f->title)),
                               900.0));
    KS_TRY(frame(f, picture, width, height_of(f), out, err));
    if (f->kind == KS_FIGURE_LINES)
        KS_TRY(ks__plot_lines(f, out, err));
    else if (f->kind == KS_FIGURE_BARS)
        KS_TRY(bars(f, out, err));
    else
        KS_TRY(heat(f, out, err));
    KS_TRY(ks_str_printf(out, err, "unset output\n"));
done:
    return st;
}
