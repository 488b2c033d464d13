/* normalize.c - what a tokenizer does to text before it splits it, with every
 * byte's source kept.
 *
 * The Unicode forms work on one cluster at a time: a character that can begin
 * one, and what can compose or reorder with it. In a cluster that changes,
 * characters that are equal from its front and from its back keep their own
 * source; each one between has all of the source between.
 */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "tokenizer.h"

/* ----------------------------------------------------------- pieces, drafts */

ks_status ks_ranges_add(ks_ranges *r, int32_t begin, int32_t end, ks_err *err) {
    ks_status st = KS_OK;
    if (r->n == r->capacity)
        st = ks_grow(&r->at, &r->capacity, r->n + 1, sizeof(*r->at), "splits",
                     err);
    if (st == KS_OK) r->at[r->n++] = (ks_range){begin, end};
    return st;
}

ks_range ks_piece_source(const ks_piece *p, int32_t begin, int32_t end) {
    if (!p->origin) return (ks_range){p->base + begin, p->base + end};
    return (ks_range){p->origin[begin].begin, p->origin[end - 1].end};
}

static ks_status draft_room(ks_draft *d, size_t n, ks_err *err) {
    ks_status st = KS_OK;
    if (d->n + n > INT32_MAX / 2)
        return ks_fail(err, KS_LIMIT,
                       "text grows beyond %d bytes when it is "
                       "normalised",
                       INT32_MAX / 2);
    KS_TRY(
        ks_grow(&d->text, &d->capacity, d->n + n, 1, "normalised text", err));
    KS_TRY(ks_grow(&d->origin, &d->origin_capacity, d->n + n,
                   sizeof(*d->origin), "normalised text", err));
done:
    return st;
}

ks_status ks_draft_add(ks_draft *d, const char *bytes, size_t n,
                       ks_range source, ks_err *err) {
    if (n == 0) return KS_OK;
    ks_status st = draft_room(d, n, err);
    if (st != KS_OK) return st;
    memcpy(d->text + d->n, bytes, n);
    for (size_t i = 0; i < n; i++) d->origin[d->n + i] = source;
    d->n += n;
    return KS_OK;
}

ks_status ks_draft_copy(ks_draft *d, const ks_piece *p, int32_t begin,
                        int32_t end, ks_err *err) {
    if (begin >= end) return KS_OK;
    ks_status st = draft_room(d, (size_t)(end - begin), err);
    if (st != KS_OK) return st;
    memcpy(d->text + d->n, p->text + begin, (size_t)(end - begin));
    for (int32_t i = begin; i < end; i++)
        d->origin[d->n++] = ks_piece_source(p, i, i + 1);
    return KS_OK;
}

ks_piece ks_draft_piece(const ks_draft *d) {
    return (ks_piece){.text = d->text ? d->text : "",
                      .n = (int32_t)d->n,
                      .origin = d->origin};
}

void ks_draft_free(ks_draft *d) {
    free(d->text);
    free(d->origin);
    *d = (ks_draft){0};
}

int32_t ks__utf8_next(const char *text, int32_t n, int32_t *character) {
    const uint8_t *s = (const uint8_t *)text;
    int32_t size = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    size = KS_MIN(size, n);
    int32_t c = size == 1 ? s[0] : s[0] & (0x7f >> size);
    for (int32_t i = 1; i < size; i++) c = c << 6 | (s[i] & 0x3f);
    *character = c;
    return size;
}

/* ------------------------------------------------------------ Unicode forms */

/* One character of a cluster on its way; order keeps the sort stable. */
typedef struct mark {
    int32_t character, class, order;
} mark;

typedef struct former {
    utf8proc_option_t options;
    bool compose;
    mark *marks;
    size_t marks_capacity;
    int32_t *buffer;
    size_t buffer_capacity;
    char *bytes;
    size_t bytes_capacity;
} former;

static ks_status decompose(former *f, const char *text, int32_t n,
                           size_t *count, ks_err *err) {
    ks_status st = KS_OK;
    *count = 0;
    for (int32_t i = 0; i < n;) {
        int32_t c, parts[32], last_class = 0;
        i += ks__utf8_next(text + i, n - i, &c);
        utf8proc_ssize_t k = utf8proc_decompose_char(c, parts, KS_COUNT(parts),
                                                     f->options, &last_class);
        KS_CHECK(k >= 0 && k <= (utf8proc_ssize_t)KS_COUNT(parts), KS_INTERNAL,
                 "cannot decompose character U+%04X", c);
        if (*count + (size_t)k > f->marks_capacity)
            KS_TRY(ks_grow(&f->marks, &f->marks_capacity, *count + (size_t)k,
                           sizeof(mark), "a character's marks", err));
        for (utf8proc_ssize_t j = 0; j < k; j++, ++*count)
            f->marks[*count] = (mark){
                parts[j], utf8proc_get_property(parts[j])->combining_class,
                (int32_t)*count};
    }
done:
    return st;
}

static int by_class(const void *a, const void *b) {
    const mark *x = a, *y = b;
    if (x->class != y->class) return x->class < y->class ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* The canonical order; utf8proc's own sort is quadratic in a run of marks. */
static void reorder(mark *marks, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t end = i + 1;
        if (marks[i].class == 0) {
            i++;
            continue;
        }
        while (end < n && marks[end].class != 0) end++;
        qsort(marks + i, end - i, sizeof(mark), by_class);
        i = end;
    }
}

/* The form of text [n] into f->bytes, *size of them. */
static ks_status form(former *f, const char *text, int32_t n, int32_t *size,
                      ks_err *err) {
    ks_status st = KS_OK;
    size_t count;
    KS_TRY(decompose(f, text, n, &count, err));
    reorder(f->marks, count);
    KS_TRY(ks_grow(&f->buffer, &f->buffer_capacity, count + 1, sizeof(int32_t),
                   "a character's marks", err));
    for (size_t i = 0; i < count; i++) f->buffer[i] = f->marks[i].character;
    utf8proc_ssize_t length = (utf8proc_ssize_t)count;
    if (f->compose)
        length = utf8proc_normalize_utf32(f->buffer, length,
                                          UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    KS_CHECK(length >= 0 && length < INT32_MAX / 4, KS_INTERNAL,
             "cannot compose a character of %zu marks", count);
    KS_TRY(ks_grow(&f->bytes, &f->bytes_capacity, (size_t)length * 4 + 1, 1,
                   "a character's marks", err));
    *size = 0;
    for (utf8proc_ssize_t i = 0; i < length; i++)
        *size += (int32_t)utf8proc_encode_char(
            f->buffer[i], (utf8proc_uint8_t *)f->bytes + *size);
done:
    return st;
}

/* Whether nothing before the character can compose or reorder with it. All
 * that compose backwards are marks or Hangul's vowels and finals. */
static bool begins_cluster(const former *f, int32_t c) {
    if (c < 0x300) return true;
    int32_t parts[32], last_class = 0;
    utf8proc_ssize_t k = utf8proc_decompose_char(c, parts, KS_COUNT(parts),
                                                 f->options, &last_class);
    int32_t first = k >= 1 && k <= 32 ? parts[0] : c;
    if (first >= 0x1160 && first <= 0x11ff) return false;
    utf8proc_category_t category = utf8proc_category(first);
    return category != UTF8PROC_CATEGORY_MN &&
           category != UTF8PROC_CATEGORY_MC && category != UTF8PROC_CATEGORY_ME;
}

/* Characters' edge at or before i: never cuts one. */
static int32_t edge_before(const char *text, int32_t i, int32_t n) {
    while (i > 0 && i < n && ((uint8_t)text[i] & 0xc0) == 0x80) i--;
    return i;
}

static ks_status add_cluster(former *f, const ks_piece *in, int32_t begin,
                             int32_t end, ks_draft *out, bool *changed,
                             ks_err *err) {
    const char *old = in->text + begin;
    int32_t n = end - begin, size = 0;
    if (n == 1) return ks_draft_copy(out, in, begin, end, err);
    ks_status st = form(f, old, n, &size, err);
    if (st != KS_OK) return st;
    if (size == n && memcmp(old, f->bytes, (size_t)n) == 0)
        return ks_draft_copy(out, in, begin, end, err);
    *changed = true;
    int32_t front = 0, back = 0, least = KS_MIN(n, size);
    while (front < least && old[front] == f->bytes[front]) front++;
    front =
        KS_MIN(edge_before(old, front, n), edge_before(f->bytes, front, size));
    while (back < least - front &&
           old[n - 1 - back] == f->bytes[size - 1 - back])
        back++;
    while (back > 0 && ((uint8_t)old[n - back] & 0xc0) == 0x80) back--;
    /* what went entirely leaves its source to the character before */
    if (front == size - back && front > 0)
        front = edge_before(f->bytes, front - 1, size);
    ks_range source = {0, 0};
    if (front < n - back)
        source = ks_piece_source(in, begin + front, end - back);
    else /* something appeared between two characters: belongs to the next */
        source = ks_piece_source(in, begin + KS_MIN(front, n - 1),
                                 begin + KS_MIN(front, n - 1) + 1);
    st = ks_draft_copy(out, in, begin, begin + front, err);
    if (st == KS_OK && size - back > front)
        st = ks_draft_add(out, f->bytes + front, (size_t)(size - back - front),
                          source, err);
    if (st == KS_OK) st = ks_draft_copy(out, in, end - back, end, err);
    return st;
}

static ks_status unicode_form(const ks_rule *rule, const ks_piece *in,
                              ks_draft *out, bool *changed, ks_err *err) {
    ks_status st = KS_OK;
    former f = {.options = UTF8PROC_DECOMPOSE | UTF8PROC_STABLE};
    if (rule->type == KS_RULE_NFKC || rule->type == KS_RULE_NFKD)
        f.options |= UTF8PROC_COMPAT;
    f.compose = rule->type == KS_RULE_NFC || rule->type == KS_RULE_NFKC;
    int32_t begin = 0;
    for (int32_t i = 0; i < in->n;) {
        int32_t c, size = ks__utf8_next(in->text + i, in->n - i, &c);
        if (i > begin && begins_cluster(&f, c)) {
            KS_TRY(add_cluster(&f, in, begin, i, out, changed, err));
            begin = i;
        }
        i += size;
    }
    if (begin < in->n)
        KS_TRY(add_cluster(&f, in, begin, in->n, out, changed, err));
done:
    free(f.marks);
    free(f.buffer);
    free(f.bytes);
    return st;
}

/* ---------------------------------------------------------------- the others
 */

static ks_status lowercase(const ks_piece *in, ks_draft *out, ks_err *err) {
    ks_status st = KS_OK;
    for (int32_t i = 0; i < in->n;) {
        int32_t c, size = ks__utf8_next(in->text + i, in->n - i, &c);
        int32_t lower = utf8proc_tolower(c);
        char bytes[8];
        utf8proc_ssize_t n =
            utf8proc_encode_char(lower, (utf8proc_uint8_t *)bytes);
        /* the one character whose lower case is two: dotted capital I */
        if (c == 0x130) n = snprintf(bytes, sizeof(bytes), "i\xcc\x87");
        if (lower == c)
            KS_TRY(ks_draft_copy(out, in, i, i + size, err));
        else
            KS_TRY(ks_draft_add(out, bytes, (size_t)n,
                                ks_piece_source(in, i, i + size), err));
        i += size;
    }
done:
    return st;
}

bool ks__is_blank(int32_t c) {
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static ks_status strip(const ks_rule *rule, const ks_piece *in, ks_draft *out,
                       ks_err *err) {
    int32_t begin = in->n, end = 0, c;
    for (int32_t i = 0; i < in->n;) {
        int32_t size = ks__utf8_next(in->text + i, in->n - i, &c);
        if (!ks__is_blank(c)) {
            begin = KS_MIN(begin, i);
            end = i + size;
        }
        i += size;
    }
    if (end == 0) return KS_OK; /* blanks only: HF's strip leaves nothing */
    return ks_draft_copy(out, in, rule->left ? begin : 0,
                         rule->right ? end : in->n, err);
}

static ks_status prepend(const ks_rule *rule, const ks_piece *in, ks_draft *out,
                         ks_err *err) {
    if (in->n == 0) return KS_OK;
    int32_t c, size = ks__utf8_next(in->text, in->n, &c);
    ks_status st = ks_draft_add(out, rule->content.data, rule->content.length,
                                ks_piece_source(in, 0, size), err);
    if (st == KS_OK) st = ks_draft_copy(out, in, 0, in->n, err);
    return st;
}

static ks_status replace(const ks_rule *rule, const ks_piece *in,
                         ks_matcher *matcher, ks_draft *out, ks_err *err) {
    ks_status st = KS_OK;
    int32_t done = 0;
    ks_range m;
    bool found;
    ks_matcher_rewind(matcher);
    for (;;) {
        KS_TRY(ks_matcher_next(matcher, &rule->pattern, in->text, in->n, &m,
                               &found, err));
        if (!found) break;
        KS_TRY(ks_draft_copy(out, in, done, m.begin, err));
        /* a match of nothing stands for the character behind it */
        int32_t at = KS_MIN(m.begin, in->n - 1);
        ks_range source = m.end > m.begin ? ks_piece_source(in, m.begin, m.end)
                          : in->n > 0     ? ks_piece_source(in, at, at + 1)
                                          : (ks_range){in->base, in->base};
        KS_TRY(ks_draft_add(out, rule->content.data, rule->content.length,
                            source, err));
        done = m.end;
    }
    KS_TRY(ks_draft_copy(out, in, done, in->n, err));
done:
    return st;
}

static bool is_ascii(const char *text, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        if ((uint8_t)text[i] >= 0x80) return false;
    return true;
}

static ks_status apply(const ks_rule *rule, const ks_piece *in,
                       ks_matcher *matcher, ks_draft *out, bool *changed,
                       ks_err *err) {
    *changed = true;
    switch (rule->type) {
    case KS_RULE_NFC:
    case KS_RULE_NFD:
    case KS_RULE_NFKC:
    case KS_RULE_NFKD:
        *changed = false;
        if (is_ascii(in->text, in->n)) return KS_OK;
        return unicode_form(rule, in, out, changed, err);
    case KS_RULE_LOWERCASE:
        return lowercase(in, out, err);
    case KS_RULE_STRIP:
        return strip(rule, in, out, err);
    case KS_RULE_PREPEND:
        return prepend(rule, in, out, err);
    case KS_RULE_REPLACE:
        return replace(rule, in, matcher, out, err);
    }
    return ks_fail(err, KS_INTERNAL, "unknown normalizer %d", (int)rule->type);
}

ks_status ks__normalize(const ks_rule *rules, size_t n_rules,
                        const ks_piece *in, ks_scratch *s, ks_piece *out,
                        ks_err *err) {
    *out = *in;
    for (size_t i = 0; i < n_rules; i++) {
        /* the draft that *out does not lie in */
        ks_draft *draft =
            out->text == s->drafts[0].text ? &s->drafts[1] : &s->drafts[0];
        bool changed;
        draft->n = 0;
        ks_status st = apply(&rules[i], out, &s->matcher, draft, &changed, err);
        if (st != KS_OK) return st;
        if (changed) *out = ks_draft_piece(draft);
    }
    return KS_OK;
}
