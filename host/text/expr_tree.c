/* expr_tree.c - from an answer's text to its tree. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "expr_parse.h"

static size_t letters_at(const ks_str *text, size_t at) {
    size_t n = 0;
    while (at + n < text->length &&
           (isalpha((unsigned char)text->data[at + n]) ||
            (unsigned char)text->data[at + n] >= 0x80)) {
        n++;
    }
    return n;
}

/* Words without a digit or a sign are read as words: AB is not BA. A hyphen
 * between single letters is a minus. */
static bool only_words(const ks_str *text) {
    size_t all = 0, longest = 0, i = 0;
    bool hyphen = false;
    while (i < text->length) {
        size_t n = letters_at(text, i);
        char c = text->data[i];
        if (n == 0 && (c == 0 || !strchr(" .,'-", c))) return false;
        hyphen = hyphen || (n == 0 && c == '-');
        longest = KS_MAX(longest, n);
        all += n;
        i += KS_MAX(n, 1u);
    }
    return all >= 2 && (!hyphen || longest >= 3);
}

/* "pi", "five", "two million" */
static bool is_constant(const ks_str *text) {
    static const char *const names[] = {"pi", "infinity", "infty", "inf", "oo"};
    for (size_t i = 0; i < KS_COUNT(names); i++) {
        if (strcmp(text->data, names[i]) == 0) return true;
    }
    size_t first = letters_at(text, 0);
    if (ks__number_word(text->data, first) < 0) return false;
    if (first == text->length) return true;
    const char *second = text->data + first + 1;
    return text->data[first] == ' ' &&
           ks__magnitude(second, text->length - first - 1) > 0;
}

ks_status ks__expr_parse(const char *text, size_t n, bool group, ks_tree *out,
                         ks_err *err) {
    ks_status st = KS_OK;
    bool known;
    *out = (ks_tree){.root = -1};
    KS_TRY(ks__expr_prepare(text, n, &out->text, err));
    if (only_words(&out->text) && !is_constant(&out->text)) return KS_OK;
    KS_TRY(ks__expr_lex(out->text.data, out->text.length, group, &out->tokens,
                        &known, err));
    if (!known) return KS_OK;
    parser p = {.tree = out, .err = err};
    int32_t root = ks__parse_list(&p, KS_X_LIST, 0);
    KS_TRY(p.status);
    if (p.failed || ks__peek(&p)->type != KS_T_END) return KS_OK;
    int32_t first = out->at[root].first;
    out->root = out->at[first].next < 0 ? first : root;
done:
    if (st != KS_OK) ks__expr_free(out);
    return st;
}

void ks__expr_free(ks_tree *tree) {
    for (size_t i = 0; i < tree->n; i++) {
        if (tree->at[i].kind == KS_X_NUMBER) mpq_clear(tree->at[i].value);
    }
    free(tree->at);
    free(tree->units);
    ks_str_free(&tree->text);
    ks__expr_lex_free(&tree->tokens);
    *tree = (ks_tree){.root = -1};
}
