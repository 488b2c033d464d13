/* boxes.c - the contents of \boxed{...}. */
#include <stdlib.h>
#include <string.h>

#include "text.h"

#define BOX "\\boxed{"

/* Open braces: for each the box it opens, or -1. */
typedef struct open_list {
    int64_t *box;
    size_t n, capacity;
} open_list;

static ks_status push(open_list *open, int64_t box, ks_err *err) {
    ks_status st = ks_grow(&open->box, &open->capacity, open->n + 1,
                           sizeof *open->box, "open braces", err);
    if (st == KS_OK) open->box[open->n++] = box;
    return st;
}

/* A brace after an odd number of backslashes. */
static bool escaped(const char *text, size_t i) {
    if (text[i] != '{' && text[i] != '}') return false;
    size_t backslashes = 0;
    while (backslashes < i && text[i - 1 - backslashes] == '\\') backslashes++;
    return backslashes % 2 == 1;
}

/* Drops the boxes that hold nothing. */
static void drop_empty(const char *text, bool compat, ks_spans *boxes) {
    size_t kept = 0;
    for (size_t i = 0; i < boxes->n; i++) {
        ks_span box = boxes->at[i];
        ks_span own = compat ? box : ks_text_trim(text, box);
        if (own.begin < own.end) boxes->at[kept++] = box;
    }
    boxes->n = kept;
}

ks_status ks_text_boxes(const char *text, size_t n, bool compat, ks_spans *out,
                        ks_err *err) {
    ks_status st = KS_OK;
    open_list open = {0};
    out->n = 0;
    KS_TRY(ks_text_check(text, n, "text", err));
    size_t i = 0;
    while (i < n) {
        size_t step = 1;
        if (text[i] == '\\' && n - i >= strlen(BOX) &&
            memcmp(text + i, BOX, strlen(BOX)) == 0) {
            step = strlen(BOX);
            KS_TRY(ks_spans_add(out, i + step, n, err));
            KS_TRY(push(&open, (int64_t)out->n - 1, err));
        } else if (!compat && escaped(text, i)) {
            step = 1; /* \{ and \} belong to the content */
        } else if (text[i] == '{') {
            KS_TRY(push(&open, -1, err));
        } else if (text[i] == '}' && open.n > 0) {
            int64_t box = open.box[--open.n];
            if (box >= 0) out->at[box].end = i;
        }
        i += step;
    }
    drop_empty(text, compat, out);
done:
    free(open.box);
    return st;
}
