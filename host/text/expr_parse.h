/* expr_parse.h - what the parts of the parser share. A function returns
 * the index of its node; once p->failed is set it returns -1 and nothing it
 * returns may be looked at. */
#ifndef KS_TEXT_EXPR_PARSE_H
#define KS_TEXT_EXPR_PARSE_H

#include "expr.h"

typedef struct parser {
    ks_tree *tree;
    size_t at; /* token */
    int depth;
    bool failed;
    ks_status status; /* not KS_OK: no memory */
    ks_err *err;
    bool has_symbol;      /* in the relation so far: "x h" is no hour */
    bool plain_numbers;   /* in an exponent: no mixed numbers */
    bool builder;         /* ":" means "such that" */
    int bars;             /* > 0: "|" closes */
    const char *currency; /* of the value being read */
} parser;

/* expr_parse.c */
int32_t ks__node_add(parser *p, ks_kind kind, int code);
/* A node of one (b = -1) or two children. */
int32_t ks__node_of(parser *p, ks_kind kind, int code, int32_t a, int32_t b);
int32_t ks__parse_fail(parser *p);
ks_token *ks__peek(parser *p);
bool ks__is_sign(parser *p, int code);
bool ks__take_sign(parser *p, int code);
bool ks__is_word(parser *p, const char *word);
int32_t ks__parse_exponent(parser *p);
int32_t ks__parse_power(parser *p);
int32_t ks__parse_sum(parser *p);
int32_t ks__parse_relation(parser *p);
int32_t ks__parse_list(parser *p, ks_kind kind, int code);
bool ks__starts_factor(parser *p);

/* expr_primary.c: names, brackets, functions, fractions, roots */
int32_t ks__parse_primary(parser *p);
/* symbol "x" to "x_suffix" */
int32_t ks__rename(parser *p, int32_t node, const char *suffix, size_t n);
int32_t ks__node_unit(parser *p, int32_t value, const ks_unit *unit);

/* expr_number.c */
/* A number token, or the mixed number that it begins. */
int32_t ks__parse_number(parser *p);
/* The digits `s` of a number token as a node. */
int32_t ks__number_of(parser *p, const ks_token *t, ks_span s);
int32_t ks__whole_number(parser *p, unsigned long value);
int32_t ks__ten_to(parser *p, int zeros);
bool ks__is_whole(parser *p, int32_t node);
/* digits_base: the subscript is the base of the number's digits */
int32_t ks__number_in_base(parser *p, int32_t number);
/* 3 for "thousand", 0 for what is no magnitude */
int ks__magnitude(const char *word, size_t n);
/* "zero".."twenty", "thirty".."ninety"; -1: none */
int ks__number_word(const char *word, size_t n);

#endif
