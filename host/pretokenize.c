/* pretokenize.c - splits text by the steps of a pre-tokenizer. */
#include <string.h>

#include "tokenizer.h"

const char *ks_behavior_name(ks_behavior behavior) {
    static const char *const names[] = {
#define KS_BEHAVIOR_TEXT(name, text) text,
        KS_BEHAVIOR_LIST(KS_BEHAVIOR_TEXT)
#undef KS_BEHAVIOR_TEXT
    };
    return names[behavior];
}

/* Where the parts of one split go, given one after another from the left:
 * parts are matches and what lies between them, without gaps. */
typedef struct joiner {
    ks_behavior behavior;
    ks_ranges *out;
    size_t first;    /* splits before this one are another text's */
    bool last_match; /* whether the part before was a match */
} joiner;

static ks_status join(joiner *j, int32_t begin, int32_t end, bool match,
                      ks_err *err) {
    ks_range *last = j->out->n > j->first ? &j->out->at[j->out->n - 1] : NULL;
    bool after_match = j->last_match, extend = false;
    j->last_match = match;
    switch (j->behavior) {
    case KS_REMOVED:
        if (match) return KS_OK;
        break;
    case KS_ISOLATED:
        break;
    case KS_CONTIGUOUS:
        extend = match == after_match;
        break;
    case KS_MERGED_WITH_PREVIOUS:
        extend = match && !after_match;
        break;
    /* from the right, a match joins what follows unless that is a match */
    case KS_MERGED_WITH_NEXT:
        extend = !match && after_match;
        break;
    }
    if (extend && last) {
        last->end = end;
        return KS_OK;
    }
    if (begin == end) return KS_OK;
    return ks_ranges_add(j->out, begin, end, err);
}

static ks_status split(const ks_step *step, const ks_piece *piece,
                       ks_range range, ks_matcher *matcher, ks_ranges *out,
                       ks_err *err) {
    ks_status st = KS_OK;
    const char *text = piece->text + range.begin;
    int32_t n = range.end - range.begin, done = 0;
    joiner j = {.behavior = step->behavior, .out = out, .first = out->n};
    ks_range m;
    bool found;
    ks_matcher_rewind(matcher);
    for (;;) {
        KS_TRY(
            ks_matcher_next(matcher, &step->pattern, text, n, &m, &found, err));
        if (!found) break;
        if (m.begin > done)
            KS_TRY(join(&j, range.begin + done, range.begin + m.begin,
                        step->invert, err));
        KS_TRY(join(&j, range.begin + m.begin, range.begin + m.end,
                    !step->invert, err));
        done = m.end;
    }
    if (done < n)
        KS_TRY(join(&j, range.begin + done, range.end, step->invert, err));
done:
    return st;
}

/* A space before each split that has none; it comes from the first character
 * behind it. The text moves to s->spaced. */
static ks_status put_spaces(ks_piece *piece, ks_scratch *s, ks_err *err) {
    ks_status st = KS_OK;
    ks_ranges *splits = &s->splits[0];
    ks_draft *draft = &s->spaced;
    if (draft->text == piece->text) /* a second such step finds spaces only */
        return KS_OK;
    draft->n = 0;
    for (size_t i = 0; i < splits->n; i++) {
        ks_range *r = &splits->at[i];
        int32_t c, begin = (int32_t)draft->n;
        int32_t size =
            ks__utf8_next(piece->text + r->begin, r->end - r->begin, &c);
        if (c != ' ')
            KS_TRY(ks_draft_add(
                draft, " ", 1,
                ks_piece_source(piece, r->begin, r->begin + size), err));
        KS_TRY(ks_draft_copy(draft, piece, r->begin, r->end, err));
        *r = (ks_range){begin, (int32_t)draft->n};
    }
    *piece = ks_draft_piece(draft);
done:
    return st;
}

ks_status ks__pretokenize(const ks_step *steps, size_t n_steps, ks_piece *piece,
                          ks_scratch *s, ks_err *err) {
    ks_status st = KS_OK;
    s->splits[0].n = 0;
    if (piece->n > 0) KS_TRY(ks_ranges_add(&s->splits[0], 0, piece->n, err));
    for (size_t k = 0; k < n_steps; k++) {
        if (!steps[k].pattern.code) {
            KS_TRY(put_spaces(piece, s, err));
            continue;
        }
        s->splits[1].n = 0;
        for (size_t i = 0; i < s->splits[0].n; i++)
            KS_TRY(split(&steps[k], piece, s->splits[0].at[i], &s->matcher,
                         &s->splits[1], err));
        ks_ranges swap = s->splits[0];
        s->splits[0] = s->splits[1];
        s->splits[1] = swap;
    }
done:
    return st;
}
