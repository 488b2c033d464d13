/* label_text.c - a chain's text without some of its steps. */
#include <stdlib.h>
#include <string.h>

#include "label_state.h"

void ks__text_free(ks__text *t) {
    free(t->data);
    ks_spans_free(&t->steps);
    *t = (ks__text){0};
}

ks_status ks__text_open(ks__text *out, const ks_chain *chain, ks_err *err) {
    ks_status st = KS_OK;
    ks_str copy = {0};
    *out = (ks__text){.answer = -1};
    KS_TRY(ks_str_add(&copy, chain->text, chain->text_length, err));
    out->data = copy.data;
    out->length = copy.length;
    if (!chain->steps)
        return ks_text_split(out->data, out->length, &out->steps, err);
    for (int32_t i = 0; i < chain->n_steps; i++)
        KS_TRY(ks_spans_add(&out->steps, chain->steps[i].begin,
                            chain->steps[i].end, err));
done:
    return st;
}

/* Whether the steps are those that splitting the text gives. */
static ks_status is_split(const ks__text *t, bool *same, ks_err *err) {
    ks_spans spans = {0};
    ks_status st = ks_text_split(t->data, t->length, &spans, err);
    *same = spans.n == t->steps.n &&
            (spans.n == 0 ||
             memcmp(spans.at, t->steps.at, spans.n * sizeof *spans.at) == 0);
    ks_spans_free(&spans);
    return st;
}

ks_span ks__text_extent(const ks__text *t, size_t i) {
    const ks_span *s = t->steps.at + i;
    return (ks_span){i > 0 ? s->begin : 0,
                     i + 1 < t->steps.n ? s[1].begin : s->end};
}

/* Where the kept steps lie in the text without the others. */
static ks_status move_steps(const ks__text *from, const uint8_t *cut,
                            ks__text *out, ks_spans *moved, ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    size_t at = 0;
    KS_TRY(ks_str_add(&text, "", 0, err));
    for (size_t i = 0; i < from->steps.n; i++) {
        ks_span s = from->steps.at[i], all = ks__text_extent(from, i);
        size_t begin = text.length + s.begin - all.begin;
        if (cut[i]) {
            KS_TRY(ks_spans_add(moved, text.length, text.length, err));
            continue;
        }
        KS_TRY(ks_str_add(&text, from->data + all.begin, all.end - all.begin,
                          err));
        KS_TRY(ks_spans_add(moved, begin, begin + s.end - s.begin, err));
    }
    if (from->steps.n > 0) at = from->steps.at[from->steps.n - 1].end;
    KS_TRY(ks_str_add(&text, from->data + at, from->length - at, err));
    out->data = text.data;
    out->length = text.length;
    text.data = NULL;
done:
    free(text.data);
    return st;
}

/* The original's steps that a step of the clean text has bytes of. */
static ks_status map_step(ks_span step, const ks_spans *moved,
                          const uint8_t *cut, json_t *map, ks_err *err) {
    json_t *list = json_array();
    bool good = list != NULL;
    for (size_t i = 0; good && i < moved->n; i++)
        if (!cut[i] && moved->at[i].begin < step.end &&
            moved->at[i].end > step.begin)
            good = !json_array_append_new(list, json_integer((json_int_t)i));
    if (good && json_array_append_new(map, list) == 0) return KS_OK;
    return ks_fail(err, KS_NOMEM, "out of memory for a map of steps");
}

/* The step that holds the first byte of the answer's that is not blank. */
static int64_t find_answer(const ks__text *from, const ks__text *out,
                           const ks_spans *moved) {
    if (from->answer < 0 || (size_t)from->answer >= moved->n) return -1;
    ks_span s = ks_text_trim(out->data, moved->at[from->answer]);
    for (size_t k = 0; k < out->steps.n; k++)
        if (out->steps.at[k].begin <= s.begin && s.begin < out->steps.at[k].end)
            return (int64_t)k;
    return -1;
}

ks_status ks__text_cut(const ks__text *from, const uint8_t *cut, ks__text *out,
                       json_t **map, ks_err *err) {
    ks_status st = KS_OK;
    ks_spans moved = {0};
    bool split = false;
    *out = (ks__text){.answer = -1};
    *map = json_array();
    KS_CHECK(*map, KS_NOMEM, "out of memory for a map of steps");
    KS_TRY(is_split(from, &split, err));
    KS_TRY(move_steps(from, cut, out, &moved, err));
    if (split)
        KS_TRY(ks_text_split(out->data, out->length, &out->steps, err));
    else
        for (size_t i = 0; i < moved.n; i++)
            if (!cut[i])
                KS_TRY(ks_spans_add(&out->steps, moved.at[i].begin,
                                    moved.at[i].end, err));
    for (size_t k = 0; k < out->steps.n; k++)
        KS_TRY(map_step(out->steps.at[k], &moved, cut, *map, err));
    out->answer = find_answer(from, out, &moved);
done:
    ks_spans_free(&moved);
    return st;
}

ks_status ks__text_keep(const ks__text *t, const uint8_t *keep, ks_str *out,
                        bool *any, ks_err *err) {
    ks_status st = KS_OK;
    *any = false;
    for (size_t i = 0; i < t->steps.n; i++) {
        ks_span s = ks__text_extent(t, i);
        if (!keep[i] || (int64_t)i == t->answer) continue;
        *any = true;
        KS_TRY(ks_str_add(out, t->data + s.begin, s.end - s.begin, err));
    }
done:
    return st;
}
