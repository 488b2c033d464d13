/* format_latex.c - a table for LaTeX with booktabs. */
#include "content.h"

#include <string.h>

static const char *command_for(char c) {
    switch (c) {
    case '\\':
        return "\\textbackslash{}";
    case '~':
        return "\\textasciitilde{}";
    case '^':
        return "\\textasciicircum{}";
    case '<':
        return "\\textless{}";
    case '>':
        return "\\textgreater{}";
    case '|':
        return "\\textbar{}";
    case '"':
        return "\\textquotedbl{}";
    case '{':
        return "\\{";
    case '}':
        return "\\}";
    case '$':
        return "\\$";
    case '&':
        return "\\&";
    case '#':
        return "\\#";
    case '%':
        return "\\%";
    case '_':
        return "\\_";
    default:
        return NULL;
    }
}

static ks_status add_text(ks_str *out, const char *text, ks_err *err) {
    ks_status st = KS_OK;
    for (; *text; text++) {
        const char *command = command_for(*text);
        /* "--" would become a dash of another length */
        if (command)
            KS_TRY(ks_str_printf(out, err, "%s", command));
        else if (text[0] == '-' && text[1] == '-')
            KS_TRY(ks_str_printf(out, err, "-{}"));
        else
            KS_TRY(ks_str_add(out, text, 1, err));
    }
done:
    return st;
}

/* A leading minus is one in mathematics too. */
static ks_status add_shown(ks_str *out, const char *shown, ks_err *err) {
    ks_status st = KS_OK;
    for (; *shown; shown++)
        if (*shown == '-')
            KS_TRY(ks_str_printf(out, err, "$-$"));
        else if (*shown == '<')
            KS_TRY(ks_str_printf(out, err, "$<$"));
        else
            KS_TRY(ks_str_add(out, shown, 1, err));
done:
    return st;
}

static ks_status top(const ks_report_table *t, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_str_printf(out, err,
                         "%% needs \\usepackage{booktabs}\n"
                         "\\begin{table}\n  \\centering\n  \\small\n"
                         "  \\caption{"));
    KS_TRY(add_text(out, t->title, err));
    KS_TRY(ks_str_printf(out, err,
                         "}\n  \\label{tab:%s}\n"
                         "  \\begin{tabular}{",
                         t->name));
    for (size_t c = 0; c < t->n_columns; c++)
        KS_TRY(ks_str_printf(out, err,
                             t->columns[c].kind == KS_COLUMN_TEXT ? "l" : "r"));
    KS_TRY(ks_str_printf(out, err, "}\n    \\toprule\n    "));
    for (size_t c = 0; c < t->n_columns; c++) {
        if (c) KS_TRY(ks_str_printf(out, err, " & "));
        KS_TRY(add_text(out, t->columns[c].name, err));
    }
    KS_TRY(ks_str_printf(out, err, " \\\\\n    \\midrule\n"));
done:
    return st;
}

ks_status ks__table_latex(const ks_report_table *t, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    char shown[128];
    KS_TRY(top(t, out, err));
    for (size_t r = 0; r < ks__table_rows(t); r++) {
        for (size_t c = 0; c < t->n_columns; c++) {
            const ks_report_cell *cell = &t->cells[r * t->n_columns + c];
            KS_TRY(ks_str_printf(out, err, c ? " & " : "    "));
            if (t->columns[c].kind == KS_COLUMN_TEXT) {
                KS_TRY(add_text(out, cell->text ? cell->text : "", err));
            } else {
                ks__cell_show(cell, t->columns[c].kind, shown, sizeof shown);
                KS_TRY(add_shown(out, shown, err));
            }
        }
        KS_TRY(ks_str_printf(out, err, " \\\\\n"));
    }
    KS_TRY(ks_str_printf(out, err, "    \\bottomrule\n  \\end{tabular}\n"));
    if (t->note) {
        KS_TRY(ks_str_printf(out, err, "  \\par\\smallskip\\footnotesize "));
        KS_TRY(add_text(out, t->note, err));
        KS_TRY(ks_str_printf(out, err, "\n"));
    }
    KS_TRY(ks_str_printf(out, err, "\\end{table}\n"));
done:
    return st;
}
