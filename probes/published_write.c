/* published_write.c - see published_write.h. */
#include "published_write.h"

#include <math.h>
#include <stdlib.h>

#include "export_json.h"
#include "text_table.h"

/* --------------------------------------------------------------------- text
 */

static ks_status rung_row(ks_text_grid *t, const ks_protocol *p, int rung,
                          ks_err *err) {
    const ks_rung *r = &p->rungs[rung];
    ks_text_cell *row = ks__grid_row(t, err);
    if (!row) return KS_NOMEM;
    snprintf(row[0], KS_TEXT_CELL, "%.39s", rung ? "" : p->probe);
    if (!rung)
        snprintf(row[1], KS_TEXT_CELL, "%s/%s", ks_stream_name(p->stream),
                 ks_position_name(p->position));
    snprintf(row[2], KS_TEXT_CELL, "%s", ks_rung_name(rung));
    ks__cell_interval(row[3], r->balanced, false);
    ks__cell_interval(row[4], r->accuracy, false);
    if (!isnan(r->sd)) snprintf(row[5], KS_TEXT_CELL, "%.1f", 100 * r->sd);
    return KS_OK;
}

static ks_status protocol_rows(ks_text_grid *t, const ks_protocol *p,
                               ks_err *err) {
    ks_status st = KS_OK;
    for (int r = 0; r < KS_N_RUNGS; r++) KS_TRY(rung_row(t, p, r, err));
    ks_text_cell *row = ks__grid_row(t, err);
    if (!row) return KS_NOMEM;
    snprintf(row[2], KS_TEXT_CELL, "published minus honest");
    ks__cell_interval(row[3], p->difference, true);
done:
    return st;
}

ks_status ks__protocols_table(const ks_kinds *kinds, bool markdown, ks_str *out,
                              ks_err *err) {
    ks_status st = KS_OK;
    ks_text_grid t = {.n_columns = 6};
    if (!kinds->n_protocols) return KS_OK;
    ks_text_cell *row = ks__grid_row(&t, err);
    KS_CHECK(row, KS_NOMEM, "out of memory for a table");
    static const char *const names[] = {
        "probe", "of", "protocol", "balanced, %", "accuracy, %", "SD"};
    for (int c = 0; c < 6; c++) snprintf(row[c], KS_TEXT_CELL, "%s", names[c]);
    KS_TRY(ks__text_title(out, markdown, err, "As published, and honestly"));
    for (int32_t k = 0; k < kinds->n_protocols; k++)
        KS_TRY(protocol_rows(&t, &kinds->protocols[k], err));
    KS_TRY(ks__grid_write(&t, markdown, out, err));
    for (int r = 0; r < KS_N_RUNGS; r++) {
        char note[512];
        snprintf(note, sizeof note, "- %s: %s.", ks_rung_name(r),
                 ks_rung_note(r));
        KS_TRY(ks__text_wrapped(note, 2, out, err));
    }
    KS_TRY(ks_str_printf(out, err, "\n"));
    KS_TRY(ks__text_wrapped(
        "Each row changes one thing of the row above it but the last, which "
        "also standardises, chooses the rate and tests every problem. SD: of "
        "balanced accuracy over seeds (42, 43 and 44; in the last row the "
        "evaluation's). Intervals and the difference draw problems, the same "
        "ones for all rows.",
        0, out, err));
    KS_TRY(ks_str_printf(out, err, "\n"));
done:
    free(t.at);
    return st;
}

ks_status ks__published_texts_table(const ks_published_texts *texts,
                                    bool markdown, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    ks_text_grid t = {.n_columns = 5};
    static const char *const names[] = {"reader", "inputs", "balanced, %",
                                        "accuracy, %", "SD"};
    if (!texts->n) return KS_OK;
    KS_TRY(ks__text_title(out, markdown, err, "Text as published"));
    KS_TRY(ks__grid_heading(&t, names, err));
    for (int32_t k = 0; k < texts->n; k++) {
        const ks_published_text *text = &texts->at[k];
        ks_text_cell *row = ks__grid_row(&t, err);
        KS_CHECK(row, KS_NOMEM, "out of memory for a table");
        snprintf(row[0], KS_TEXT_CELL, "%.39s", text->name);
        snprintf(row[1], KS_TEXT_CELL, "%d", text->n_inputs[0]);
        ks__cell_interval(row[2], text->rung.balanced, false);
        ks__cell_interval(row[3], text->rung.accuracy, false);
        snprintf(row[4], KS_TEXT_CELL, "%.1f", 100 * text->rung.sd);
    }
    KS_TRY(ks__grid_write(&t, markdown, out, err));
    KS_TRY(ks__text_wrapped(
        "The published text baselines on the evaluation steps of \"as "
        "published\": a network of 128 and 64 units after 30 epochs, nothing "
        "chosen. Steps of one chain stand on both sides, so these are to be "
        "held against that row alone.",
        0, out, err));
    KS_TRY(ks_str_printf(out, err, "\n"));
done:
    free(t.at);
    return st;
}

/* --------------------------------------------------------------------- JSON
 */

static json_t *json_seeds(const ks_rung *r) {
    json_t *seeds = json_array();
    for (int s = 0; s < KS_PUBLISHED_SEEDS; s++)
        json_array_append_new(seeds,
                              json_pack("{s:f,s:i,s:f}", "rate", r->rate[s],
                                        "epoch", (int)r->epoch[s], "accuracy",
                                        r->seed_accuracy[s]));
    return seeds;
}

static json_t *json_rung(const ks_rung *r, int number) {
    json_t *one = json_pack(
        "{s:s,s:s,s:I,s:o,s:o,s:o}", "name", ks_rung_name(number), "note",
        ks_rung_note(number), "n", (json_int_t)r->n_eval, "accuracy",
        ks__json_interval(r->accuracy), "balanced_accuracy",
        ks__json_interval(r->balanced), "sd", ks__json_number(r->sd));
    if (number != KS_RUNG_HONEST)
        json_object_set_new(one, "by_seed", json_seeds(r));
    return one;
}

json_t *ks__published_texts_json(const ks_published_texts *texts) {
    json_t *list = json_array();
    for (int32_t k = 0; k < texts->n; k++) {
        const ks_published_text *text = &texts->at[k];
        const ks_rung *r = &text->rung;
        json_array_append_new(
            list, json_pack("{s:s,s:i,s:I,s:o,s:o,s:o,s:o}", "name", text->name,
                            "inputs", (int)text->n_inputs[0], "n",
                            (json_int_t)r->n_eval, "accuracy",
                            ks__json_interval(r->accuracy), "balanced_accuracy",
                            ks__json_interval(r->balanced), "sd",
                            ks__json_number(r->sd), "by_seed", json_seeds(r)));
    }
    return list;
}

json_t *ks__protocols_json(const ks_kinds *kinds) {
    json_t *list = json_array();
    for (int32_t k = 0; k < kinds->n_protocols; k++) {
        const ks_protocol *p = &kinds->protocols[k];
        json_t *steps = json_array();
        for (int r = 0; r < KS_N_RUNGS; r++)
            json_array_append_new(steps, json_rung(&p->rungs[r], r));
        json_array_append_new(
            list, json_pack("{s:s,s:s,s:s,s:o,s:o}", "probe", p->probe,
                            "stream", ks_stream_name(p->stream), "position",
                            ks_position_name(p->position), "steps", steps,
                            "difference", ks__json_interval(p->difference)));
    }
    return list;
}
