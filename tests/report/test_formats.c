/* One table in every format, figures as gnuplot's commands, JSON for a script
 * element: names from files stay names. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "report/page.h"
#include "report/plot.h"
#include "report/ramp.h"
#include "report/sections.h"
#include "shell.h"

/* A name that means something in every format. */
static const char odd[] = "a,\"b\" | \\c_d {50%} <i> & $x^2$ #1 ~ 'q' `e`";

static ks_report report;
static ks_str text;

static void setup(void) {
    report = (ks_report){0};
    text = (ks_str){0};
    report.title = "T";
    ks__section(&report, "s", "S", NULL);
}

static void teardown(void) {
    cr_expect(eq(int, report.st, KS_OK));
    ks_report_free(&report);
    ks_str_free(&text);
}

TestSuite(report_formats, .init = setup, .fini = teardown);

static ks_report_table *sample(void) {
    ks_report_table *t = ks__table(&report, "sample", "Of 100%");
    t->note = "A note_1.";
    ks__column(t, KS_COLUMN_TEXT, "name");
    ks__column(t, KS_COLUMN_WHOLE, "n");
    ks__column(t, KS_COLUMN_PERCENT, "accuracy, %");
    ks__column(t, KS_COLUMN_POINTS, "gain, points");
    ks__column(t, KS_COLUMN_RANGE, "r");
    ks__column(t, KS_COLUMN_P, "p");
    ks__cell_text(t, odd);
    ks__cell_number(t, 12);
    ks__cell_range(t, 0.9675, 0.961, 0.97355);
    ks__cell_range(t, -0.0004, -0.02, 0.0213);
    ks__cell_range(t, -0.25, NAN, NAN);
    ks__cell_number(t, 0.00004);
    ks__cell_text(t, NULL);
    ks__cell_number(t, NAN);
    for (int i = 0; i < 3; i++) ks__cell_range(t, NAN, NAN, NAN);
    ks__cell_number(t, 0.04);
    ks__table_end(t);
    return t;
}

Test(report_formats, csv) {
    cr_assert(eq(int, ks__table_csv(sample(), &text, NULL), KS_OK));
    cr_expect(
        eq(str, text.data,
           (char *)"name,n,accuracy,accuracy low,accuracy high,gain,gain low,"
                   "gain high,r,r low,r high,p\n"
                   "\"a,\"\"b\"\" | \\c_d {50%} <i> & $x^2$ #1 ~ 'q' `e`\",12,"
                   "0.9675,0.961,0.97355,-0.0004,-0.02,0.0213,-0.25,,,4e-05\n"
                   ",,,,,,,,,,,0.04\n"));
}

Test(report_formats, markdown) {
    cr_assert(eq(int, ks__table_markdown(sample(), &text, NULL), KS_OK));
    cr_expect(
        eq(str, text.data,
           (char *)"| name | n | accuracy, % | gain, points | r | p |\n"
                   "|---|--:|--:|--:|--:|--:|\n"
                   "| a,\"b\" \\| \\\\c\\_d \\{50%\\} \\<i\\> &amp; \\$x^2\\$ "
                   "\\#1 \\~ 'q' \\`e\\` | 12 | 96.8 [96.1, 97.4] | "
                   "+0.0 [-2.0, +2.1] | -0.250 | <0.001 |\n"
                   "|  | n/a | n/a | n/a | n/a | 0.040 |\n"));
}

Test(report_formats, latex) {
    cr_assert(eq(int, ks__table_latex(sample(), &text, NULL), KS_OK));
    cr_expect(strstr(text.data, "\\caption{Of 100\\%}") != NULL);
    cr_expect(strstr(text.data, "\\begin{tabular}{lrrrrr}") != NULL);
    cr_expect(strstr(text.data,
                     "a,\\textquotedbl{}b\\textquotedbl{} \\textbar{} "
                     "\\textbackslash{}c\\_d \\{50\\%\\} "
                     "\\textless{}i\\textgreater{} \\& "
                     "\\$x\\textasciicircum{}2\\$ \\#1 \\textasciitilde{} 'q' "
                     "`e` & 12 & 96.8 [96.1, 97.4] & +0.0 [$-$2.0, +2.1] & "
                     "$-$0.250 & $<$0.001 \\\\\n") != NULL,
              "%s", text.data);
    cr_expect(strstr(text.data, "\\footnotesize A note\\_1.") != NULL);
}

Test(report_formats, json) {
    json_t *object = NULL, *row;
    cr_assert(eq(int, ks__table_json(sample(), &object, NULL), KS_OK));
    row = json_array_get(json_object_get(object, "rows"), 0);
    cr_expect(eq(str, (char *)json_string_value(json_array_get(row, 0)),
                 (char *)odd));
    cr_expect(eq(int, (int)json_integer_value(json_array_get(row, 1)), 12));
    cr_expect(epsilon_eq(
        dbl, json_real_value(json_object_get(json_array_get(row, 2), "high")),
        0.97355, 1e-12));
    bool none = json_is_null(json_object_get(json_array_get(row, 4), "low"));
    cr_expect(none);
    row = json_array_get(json_object_get(object, "rows"), 1);
    none = json_is_null(json_array_get(row, 0)) &&
           json_is_null(json_array_get(row, 1));
    cr_expect(none);
    json_decref(object);
}

Test(report_formats, what_holds_nothing_goes) {
    ks_report_table *t = ks__table(&report, "empty", "Empty");
    ks_report_figure *f = ks__figure(&report, KS_FIGURE_LINES, "empty", "E");
    ks__column(t, KS_COLUMN_TEXT, "x");
    ks__line(f, "l", 0);
    ks__point(f, 1, NAN, NAN, NAN);
    sample();
    ks__figure_end(f);
    ks__table_end(t);
    cr_expect(eq(sz, report.sections[0].n_parts, 1));
    cr_expect(eq(str, (char *)report.sections[0].parts[0].table->name,
                 (char *)"sample"));
}

Test(report_formats, names_and_long_texts) {
    cr_expect(eq(str, (char *)ks__report_name(&report, "Layer, <b>", "ÄX 2"),
                 (char *)"layer-b-x-2"));
    cr_expect(eq(str, (char *)ks__report_name(&report, "../../etc", NULL),
                 (char *)"etc"));
    cr_expect(eq(str, (char *)ks__report_name(&report, "\xE2\x82\xAC", NULL),
                 (char *)"x"));
    char long_name[200];
    memset(long_name, 'y', sizeof long_name - 1);
    long_name[199] = 0;
    cr_expect(
        le(sz, strlen(ks__report_name(&report, long_name, long_name)), 60));
    /* cut between characters, two bytes each */
    cr_expect(eq(str, (char *)ks__report_brief(&report, "ääää", 7),
                 (char *)"ää\u2026"));
    cr_expect(eq(str, (char *)ks__report_brief(&report, "a\nb\tc\x7f", 9),
                 (char *)"a b c "));
    /* what turns the order of what follows */
    cr_expect(eq(
        str,
        (char *)ks__report_brief(&report, "a\u202Eb\u2066c\u200Fd\uFEFF", 40),
        (char *)"abcd"));
}

Test(report_formats, json_in_a_script_element) {
    json_t *all = json_pack("[s]", "</script><!--<b>&amp;\u2028\u2029\"\\");
    cr_assert(eq(int, ks__page_json(all, &text, NULL), KS_OK));
    json_decref(all);
    cr_expect(eq(str, text.data,
                 (char *)"[\"\\u003c/script\\u003e\\u003c!--\\u003cb\\u003e"
                         "\\u0026amp;\\u2028\\u2029\\\"\\\\\"]"));
}

/* --------------------------------------------------------------- gnuplot */

static void add_figures(const char *name) {
    ks_report_figure *f = ks__figure(&report, KS_FIGURE_LINES, "lines", name);
    f->x_label = f->y_label = name;
    f->low = 0, f->high = 1;
    ks__reference(f, name, 0.5);
    ks__reference(f, name, 0.6);
    ks__line(f, name, 0);
    for (int i = 0; i < 4; i++) ks__point(f, i, 0.2 * i, 0.1 * i, 0.3 * i);
    ks__line(f, name, 7);
    ks__point(f, 1, 0.5, NAN, NAN);
    f = ks__figure(&report, KS_FIGURE_BARS, "bars", name);
    f->low = 0, f->high = 1;
    ks__bar(f, name, name, 1, 0.5, 0.4, 0.6);
    ks__bar(f, NULL, name, -1, NAN, NAN, NAN);
    for (int kind = 0; kind < 2; kind++) {
        f = ks__figure(&report, kind ? KS_FIGURE_STRIP : KS_FIGURE_HEAT,
                       kind ? "strip" : "heat", name);
        f->low = -4, f->high = 4;
        f->diverging = true;
        ks__heat_row(f, name);
        ks__heat_column(f, name);
        ks__heat_column(f, name);
        ks__heat_value(f, 1.5);
        ks__heat_value(f, NAN);
        for (int i = 0; kind && i < 2; i++) ks__strip_mark(f, (int8_t)i);
    }
}

Test(report_formats, gnuplot_takes_names_as_names) {
    char folder[64], name[256], path[160], out[256];
    make_temporary(folder, "plot");
    if (system("command -v gnuplot >/dev/null") != 0) {
        drop_temporary(folder);
        cr_skip_test("no gnuplot (./check --all installs it)");
    }
    /* would run a command, end a string or start one */
    snprintf(name, sizeof name,
             "`touch %s/ran` '; system \"touch %s/ran\"; ' \" \\ $x @y {/=30 "
             "z}_q ä",
             folder, folder);
    add_figures(name);
    bool drawn = false;
    ks_err err = {0};
    cr_assert(eq(int, ks__plot_all(&report, folder, &drawn, &err), KS_OK), "%s",
              err.text);
    cr_expect(drawn);
    snprintf(path, sizeof path, "ls %s | tr '\\n' ' '", folder);
    shell_run(path, out, sizeof out);
    cr_expect(eq(str, out,
                 (char *)"bars.png bars.svg heat.png heat.svg lines.png "
                         "lines.svg strip.png strip.svg "));
    /* the name stands in the picture as it is */
    char *svg = NULL;
    snprintf(path, sizeof path, "%s/lines.svg", folder);
    cr_assert(eq(int, ks_read_file(path, SIZE_MAX, &svg, NULL, NULL), KS_OK));
    cr_expect(strstr(svg, "{/=30 z}_q ä") != NULL);
    cr_expect(strstr(svg, "`touch ") != NULL);
    free(svg);
    /* the same figures, the same bytes */
    char again[64];
    make_temporary(again, "plot");
    cr_assert(eq(int, ks__plot_all(&report, again, &drawn, &err), KS_OK));
    snprintf(path, sizeof path, "diff -r %s %s", folder, again);
    cr_expect(eq(int, shell_run(path, out, sizeof out), 0), "%s", out);
    drop_temporary(again);
    drop_temporary(folder);
}

/* A heat map of one row is drawn, and a title that has no room on one line
 * stands on two. */
Test(report_formats, one_row_and_a_long_title) {
    char folder[64], path[160];
    make_temporary(folder, "plot");
    if (system("command -v gnuplot >/dev/null") != 0) {
        drop_temporary(folder);
        cr_skip_test("no gnuplot (./check --all installs it)");
    }
    ks_report_figure *f = ks__figure(
        &report, KS_FIGURE_HEAT, "row",
        "A title of many words that goes on and on, far beyond what a picture "
        "of nine hundred pixels has room for, to its very last word");
    ks__heat_row(f, "r");
    f->percent = true;
    f->low = 0, f->high = 1;
    for (int i = 0; i < 2; i++) {
        ks__heat_column(f, i ? "b" : "a");
        ks__heat_value(f, i);
    }
    ks__figure_end(f);
    bool drawn = false;
    ks_err err = {0};
    cr_assert(eq(int, ks__plot_all(&report, folder, &drawn, &err), KS_OK), "%s",
              err.text);
    char *svg = NULL;
    snprintf(path, sizeof path, "%s/row.svg", folder);
    cr_assert(eq(int, ks_read_file(path, SIZE_MAX, &svg, NULL, NULL), KS_OK));
    cr_expect(strstr(svg, "far beyond what a picture") == NULL, "one line");
    cr_expect(strstr(svg, "to its very last word") != NULL);
    /* gnuplot draws no image of one row, and says nothing */
    cr_assert(eq(int, ks__plot_script(f, KS_PICTURE_SVG, &text, NULL), KS_OK));
    cr_expect(strstr(text.data, "with image") == NULL);
    cr_expect(strstr(text.data, "with boxxyerror lc palette") != NULL);
    free(svg);
    drop_temporary(folder);
}

/* A figure in a cell has a contrast of 4.5 (WCAG AA), whatever its colour. */
Test(report_formats, figures_in_cells_are_read) {
    static const double weight[] = {0.2126, 0.7152, 0.0722};
    for (int i = 0; i <= 400; i++) {
        const ks_ramp *ramp = ks__ramp(i % 2);
        double part = i / 400.0, at = 4 * part, y = 0;
        int stop = part < 1 ? (int)at : 3;
        for (int k = 0; k < 3; k++) {
            unsigned from[3], to[3];
            cr_assert(eq(int, 3,
                         sscanf(ramp->light[stop], "#%2x%2x%2x", &from[0],
                                &from[1], &from[2])));
            cr_assert(eq(int, 3,
                         sscanf(ramp->light[stop + 1], "#%2x%2x%2x", &to[0],
                                &to[1], &to[2])));
            double v =
                (from[k] + (at - stop) * ((double)to[k] - from[k])) / 255;
            y += weight[k] *
                 (v <= 0.04045 ? v / 12.92 : pow((v + 0.055) / 1.055, 2.4));
        }
        double ink =
            ks__ramp_deep(ramp, part) ? 1.05 / (y + 0.05) : (y + 0.05) / 0.05;
        cr_expect(ink >= 4.5, "%s at %g: %g", ramp->name, part, ink);
    }
    /* values beyond have the end's colour, and its ink */
    cr_expect(ks__ramp_deep(ks__ramp(false), 7));
    cr_expect(not(ks__ramp_deep(ks__ramp(false), -7)));
}

Test(report_formats, gnuplot_that_fails_leaves_nothing) {
    char folder[64], path[512], out[64];
    make_temporary(folder, "plot");
    snprintf(path, sizeof path,
             "mkdir %s/bin && printf '#!/bin/sh\\ntouch lines.svg.new\\n"
             "echo it broke >&2\\nexit 3\\n' >%s/bin/gnuplot && "
             "chmod +x %s/bin/gnuplot && mkdir %s/out",
             folder, folder, folder, folder);
    cr_assert(eq(int, shell_run(path, out, sizeof out), 0));
    char *was = strdup(getenv("PATH"));
    snprintf(path, sizeof path, "%s/bin:%s", folder, was);
    setenv("PATH", path, 1);
    add_figures("name");
    bool drawn = false;
    ks_err err = {0};
    snprintf(path, sizeof path, "%s/out", folder);
    cr_expect(eq(int, ks__plot_all(&report, path, &drawn, &err), KS_IO));
    cr_expect(strstr(err.text, "gnuplot failed: it broke") != NULL, "%s",
              err.text);
    setenv("PATH", was, 1);
    snprintf(path, sizeof path, "ls %s/out", folder);
    shell_run(path, out, sizeof out);
    cr_expect(eq(str, out, (char *)""));
    /* none at all is no failure */
    setenv("PATH", "/nowhere", 1);
    snprintf(path, sizeof path, "%s/out", folder);
    cr_expect(eq(int, ks__plot_all(&report, path, &drawn, &err), KS_OK));
    cr_expect(not(drawn));
    setenv("PATH", was, 1);
    free(was);
    drop_temporary(folder);
}
