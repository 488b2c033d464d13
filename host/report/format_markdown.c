/* format_markdown.c - tables as pipe tables, and the whole report as one
 * Markdown file that shows its pictures. */
#include "content.h"

#include <stdlib.h>
#include <string.h>

/* Characters that mean something get a backslash, also those of HTML. */
static ks_status add_text(ks_str *out, const char *text, ks_err *err) {
    ks_status st = KS_OK;
    for (; *text; text++) {
        if (*text == '&') {
            KS_TRY(ks_str_add(out, "&amp;", 5, err));
            continue;
        }
        if (strchr("\\`*_{}[]<>|#~$", *text))
            KS_TRY(ks_str_add(out, "\\", 1, err));
        KS_TRY(ks_str_add(out, text, 1, err));
    }
done:
    return st;
}

static ks_status rule(const ks_report_table *t, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    for (size_t c = 0; c < t->n_columns; c++)
        KS_TRY(ks_str_printf(
            out, err, t->columns[c].kind == KS_COLUMN_TEXT ? "|---" : "|--:"));
    KS_TRY(ks_str_printf(out, err, "|\n"));
done:
    return st;
}

ks_status ks__table_markdown(const ks_report_table *t, ks_str *out,
                             ks_err *err) {
    ks_status st = KS_OK;
    char shown[128];
    for (size_t c = 0; c < t->n_columns; c++) {
        KS_TRY(ks_str_printf(out, err, "| "));
        KS_TRY(add_text(out, t->columns[c].name, err));
        KS_TRY(ks_str_printf(out, err, " "));
    }
    KS_TRY(ks_str_printf(out, err, "|\n"));
    KS_TRY(rule(t, out, err));
    for (size_t r = 0; r < ks__table_rows(t); r++) {
        for (size_t c = 0; c < t->n_columns; c++) {
            const ks_report_cell *cell = &t->cells[r * t->n_columns + c];
            KS_TRY(ks_str_printf(out, err, "| "));
            if (t->columns[c].kind == KS_COLUMN_TEXT) {
                KS_TRY(add_text(out, cell->text ? cell->text : "", err));
            } else {
                ks__cell_show(cell, t->columns[c].kind, shown, sizeof shown);
                KS_TRY(ks_str_printf(out, err, "%s", shown));
            }
            KS_TRY(ks_str_printf(out, err, " "));
        }
        KS_TRY(ks_str_printf(out, err, "|\n"));
    }
done:
    return st;
}

/* A line of its own, blank line behind. */
static ks_status paragraph(ks_str *out, const char *before, const char *text,
                           ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_str_printf(out, err, "%s", before));
    KS_TRY(add_text(out, text, err));
    KS_TRY(ks_str_printf(out, err, "\n\n"));
done:
    return st;
}

/* A table's title stands above it unless it is the section's own. */
static ks_status write_part(const ks_report_part *part, const char *section,
                            bool pictures, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    switch (part->kind) {
    case KS_PART_TEXT:
        return paragraph(out, "", part->text, err);
    case KS_PART_TABLE:
        if (strcmp(part->table->title, section) != 0)
            KS_TRY(paragraph(out, "### ", part->table->title, err));
        KS_TRY(ks__table_markdown(part->table, out, err));
        KS_TRY(ks_str_printf(out, err, "\n"));
        if (part->table->note)
            KS_TRY(paragraph(out, "", part->table->note, err));
        break;
    case KS_PART_FIGURE:
        KS_TRY(paragraph(out, "", part->figure->finding, err));
        if (!pictures) break;
        KS_TRY(ks_str_printf(out, err, "!["));
        KS_TRY(add_text(out, part->figure->title, err));
        KS_TRY(ks_str_printf(out, err, "](figures/%s.svg)\n\n",
                             part->figure->name));
        break;
    }
done:
    return st;
}

ks_status ks__report_markdown(const ks_report *r, bool pictures, ks_str *out,
                              ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(paragraph(out, "# ", r->title, err));
    for (size_t s = 0; s < r->n_sections; s++) {
        const ks_report_section *section = &r->sections[s];
        KS_TRY(paragraph(out, "## ", section->title, err));
        if (section->lead) KS_TRY(paragraph(out, "", section->lead, err));
        for (size_t p = 0; p < section->n_parts; p++)
            KS_TRY(write_part(&section->parts[p], section->title, pictures, out,
                              err));
    }
    if (r->n_absent) KS_TRY(ks_str_printf(out, err, "## Not there\n\n"));
    for (size_t i = 0; i < r->n_absent; i++) {
        KS_TRY(ks_str_printf(out, err, "- "));
        KS_TRY(add_text(out, r->absent[i], err));
        KS_TRY(ks_str_printf(out, err, "\n"));
    }
done:
    return st;
}
