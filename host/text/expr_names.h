/* expr_names.h - the tables of expr_names.c, for the lexer. */
#ifndef KS_TEXT_EXPR_NAMES_H
#define KS_TEXT_EXPR_NAMES_H

#include "expr.h"

typedef struct ks__name {
    const char *word;
    ks_token_type type; /* KS_T_SIGN or KS_T_FUNCTION */
    int code;
} ks__name;

/* \word, without its backslash; NULL: unknown. */
const ks__name *ks__command_named(const char *word, size_t n);
/* A whole word of plain text that means a sign or a function, or NULL. */
const ks__name *ks__word_named(const char *word, size_t n);

#endif
