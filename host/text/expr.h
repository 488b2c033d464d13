/* expr.h - the expression tree of an answer.
 *
 * text -> ks__expr_prepare (Unicode to LaTeX, outer marks off) -> tokens ->
 * tree. A text that is no expression of the known kind has no tree; that is
 * not an error. Nesting beyond KS_EXPR_DEPTH and more than KS_EXPR_TOKENS
 * tokens have none either.
 */
#ifndef KS_TEXT_EXPR_H
#define KS_TEXT_EXPR_H

#include <gmp.h>

#include "text.h"

enum { KS_EXPR_DEPTH = 300, KS_EXPR_TOKENS = 20000 };

/* ------------------------------------------------------------------ tokens */

typedef enum ks_token_type {
    KS_T_END,
    KS_T_NUMBER,  /* digits, cleaned, in lexer->digits */
    KS_T_LETTERS, /* a run of letters of plain text */
    KS_T_SYMBOL,  /* a named symbol, \alpha */
    KS_T_TEXT,    /* content of \text{...} */
    KS_T_FUNCTION,
    KS_T_SIGN /* code: an ASCII character or one of ks_sign */
} ks_token_type;

typedef enum ks_sign {
    KS_S_LE = 256,
    KS_S_GE,
    KS_S_NE,
    KS_S_IN,
    KS_S_APPROX,
    KS_S_CUP,
    KS_S_CAP,
    KS_S_MINUS_SET,
    KS_S_PM,
    KS_S_MP,
    KS_S_SET_OPEN,
    KS_S_SET_CLOSE,
    KS_S_BAR_OPEN,
    KS_S_BAR_CLOSE,
    KS_S_FLOOR_OPEN,
    KS_S_FLOOR_CLOSE,
    KS_S_CEIL_OPEN,
    KS_S_CEIL_CLOSE,
    KS_S_ANGLE_OPEN,
    KS_S_ANGLE_CLOSE,
    KS_S_FRAC,
    KS_S_SQRT,
    KS_S_CBRT,
    KS_S_BINOM,
    KS_S_OVERLINE,
    KS_S_PI,
    KS_S_INFINITY,
    KS_S_EMPTY,
    KS_S_REALS,
    KS_S_DEGREE,
    KS_S_DOLLAR,
    KS_S_EURO,
    KS_S_STERLING,
    KS_S_MID,
    KS_S_BEGIN,
    KS_S_END,
    KS_S_ROW,
    KS_S_ACCENT,
    KS_S_SKIP
} ks_sign;

typedef enum ks_function {
    KS_F_SIN,
    KS_F_COS,
    KS_F_TAN,
    KS_F_COT,
    KS_F_SEC,
    KS_F_CSC,
    KS_F_ASIN,
    KS_F_ACOS,
    KS_F_ATAN,
    KS_F_SINH,
    KS_F_COSH,
    KS_F_TANH,
    KS_F_LN,
    KS_F_LOG, /* log: children base, argument */
    KS_F_EXP,
    KS_F_ABS,
    KS_F_FLOOR,
    KS_F_CEIL,
    KS_F_FACTORIAL,
    KS_F_BINOMIAL,
    KS_F_GCD,
    KS_F_LCM,
    KS_F_MIN,
    KS_F_MAX,
    KS_N_FUNCTIONS
} ks_function;

const char *ks__function_name(ks_function function);

typedef struct ks_token {
    ks_token_type type;
    int code;
    ks_span text;    /* in the prepared text; KS_T_NUMBER: in digits */
    bool spaced;     /* white space stands before it */
    bool grouped;    /* KS_T_NUMBER with commas between groups of three */
    int32_t places;  /* KS_T_NUMBER: digits after the point, -1 whole */
    int32_t repeats; /* of them, how many repeat for ever */
    int32_t exponent;
} ks_token;

typedef struct ks_tokens_of {
    const char *text; /* prepared */
    size_t n_text;
    ks_str digits;
    ks_token *at;
    size_t n, capacity;
    bool grouped; /* some number has commas between groups of three */
} ks_tokens_of;

/* Unicode signs as LaTeX, without outer $, \( \), \[ \], \boxed{}, ** and a
 * full stop at the end. out is emptied first. */
ks_status ks__expr_prepare(const char *text, size_t n, ks_str *out,
                           ks_err *err);

/* *known is false when a character or a command means nothing here. group:
 * commas before three digits belong to the number ("1,234"). */
ks_status ks__expr_lex(const char *text, size_t n, bool group,
                       ks_tokens_of *out, bool *known, ks_err *err);
void ks__expr_lex_free(ks_tokens_of *tokens);

/* ------------------------------------------------------------------- units */

enum { KS_N_DIMENSIONS = 6 }; /* length, mass, time, dollar, angle, heat */

/* value in unit = value * above/below in base units of these dimensions. A
 * word that is no known unit is kept as label, in the singular, with scale 1;
 * two labelled values are the same only under the same label. */
typedef struct ks_unit {
    int64_t above, below;
    int8_t dimension[KS_N_DIMENSIONS];
    char label[64];
} ks_unit;

/* Reads "cm^2", "miles per hour", "square feet", "apples". False: no unit. */
bool ks__unit_parse(const char *text, size_t n, ks_unit *out);
/* The word alone is a unit of measure. */
bool ks__unit_known(const char *word, size_t n);

/* -------------------------------------------------------------------- tree */

typedef enum ks_kind {
    KS_X_NUMBER,
    KS_X_SYMBOL, /* text */
    KS_X_PI,
    KS_X_INFINITY,
    KS_X_ADD, /* two children and more */
    KS_X_MUL, /* two and more, some divide */
    KS_X_DIV, /* \frac */
    KS_X_POW,
    KS_X_NEG,
    KS_X_PM,       /* code 1: plus or minus, -1: minus or plus */
    KS_X_FUNCTION, /* code: ks_function */
    KS_X_PERCENT,
    KS_X_DEGREE,
    KS_X_UNIT,     /* code: index into units */
    KS_X_RATIO,    /* a:b:c */
    KS_X_RELATION, /* operands with their signs */
    KS_X_LIST,     /* without brackets */
    KS_X_TUPLE,    /* in brackets; code: KS_OPEN_* bits */
    KS_X_SET,
    KS_X_SETOP, /* code: KS_S_CUP, KS_S_CAP, KS_S_MINUS_SET */
    KS_X_EMPTY,
    KS_X_REALS,
    KS_X_MATRIX /* row by row; code: columns */
} ks_kind;

enum { KS_CLOSED_LEFT = 1, KS_CLOSED_RIGHT = 2 };

typedef struct ks_node {
    ks_kind kind;
    int code;
    int sign;            /* before this operand of a relation; '/' before a
                          * divisor of a product */
    int32_t first, next; /* children: first, then along next; -1: none */
    ks_span text;        /* symbols: name in tree->text */
    mpq_t value;         /* KS_X_NUMBER */
    bool decimal;        /* KS_X_NUMBER: written with a point */
    int32_t places;      /* its last digit counts 10^-places */
    int32_t digits;      /* KS_X_NUMBER: significant ones */
} ks_node;

typedef struct ks_tree {
    ks_tokens_of tokens;
    ks_str text; /* prepared text, then names and units put together */
    ks_node *at;
    size_t n, capacity;
    ks_unit *units;
    size_t n_units, unit_capacity;
    int32_t root; /* -1: no tree */
} ks_tree;

/* root is -1 when the text is no expression. */
ks_status ks__expr_parse(const char *text, size_t n, bool group, ks_tree *out,
                         ks_err *err);
void ks__expr_free(ks_tree *tree);

#endif
