/* table_claims.c - the claims (claims.h) as text: last, so that on a terminal
 * they are what is seen. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "table_analyses.h"
#include "text_table.h"

static void figure_cell(ks_text_cell out, const ks_claim *c) {
    if (c->unit == KS_NUMBER)
        ks__cell_plain(out, c->figure);
    else
        ks__cell_interval(out, c->figure, c->unit == KS_POINTS);
}

ks_status ks_table_claims(const ks_evaluation *r, bool markdown, ks_str *out,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_text_grid t = {.n_columns = 3};
    if (!r->claims.n) return KS_OK;
    ks_text_cell *row = ks__grid_row(&t, err);
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    snprintf(row[0], KS_TEXT_CELL, "question");
    snprintf(row[1], KS_TEXT_CELL, "figure (%%, points)");
    snprintf(row[2], KS_TEXT_CELL, "answer");
    KS_TRY(ks__text_title(out, markdown, err, "Questions"));
    for (int32_t i = 0; i < r->claims.n; i++) {
        const ks_claim *c = &r->claims.at[i];
        KS_CHECK((row = ks__grid_row(&t, err)), KS_NOMEM,
                 "out of memory for a table");
        snprintf(row[0], KS_TEXT_CELL, "%.*s", (int)KS_TEXT_CELL - 1,
                 c->question);
        figure_cell(row[1], c);
        snprintf(row[2], KS_TEXT_CELL, "%s", ks_verdict_name(c->verdict));
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
    for (int32_t i = 0; markdown && i < r->claims.n; i++) {
        const ks_claim *c = &r->claims.at[i];
        char note[512];
        snprintf(note, sizeof note, "- %s Figure: %s. %c%s.", c->question,
                 c->what, c->rule[0] - 'a' + 'A', c->rule + 1);
        KS_TRY(ks__text_wrapped(note, 2, out, err));
    }
    KS_TRY(ks_str_printf(out, err, markdown ? "\n" : ""));
done:
    free(t.at);
    return st;
}
