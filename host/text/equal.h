/* equal.h - when two final answers mean the same.
 *
 * Both texts are freed of outer $, \boxed{}, **, a full stop; Unicode signs
 * are read as LaTeX. Then, true at the first that holds:
 *
 *  words      Same text, when runs of white space are one blank, blanks beside
 *             a sign are nothing, words of three letters and more (and an
 *             answer of letters alone) are compared in lower case. Months may
 *             be abbreviated and stand on either side of the day; "30th" is
 *             30. An answer of words alone is compared only so: AB is not BA.
 *  times      h:mm, "h o'clock", "h pm". Without am or pm on one side, or with
 *             a bare hour, the clock's face decides. 1:20 and 2:40 are times,
 *             10:20 and 1:2 are ratios.
 *  numbers    Integers and fractions of any length, exactly: 10001 is not
 *             10000, -3/4 not 3/4, 1/2 is 2/4. Commas between groups of three
 *             (also \, {,} or a blank) belong to the number; "1 2" is no
 *             number. 2\frac{1}{2} and 2 1/2 are mixed. 0.\overline{3} is 1/3.
 *             Words: zero to twenty, thirty to ninety; hundred to trillion
 *             multiply.
 *  decimals   A lone decimal equals what it is the rounding of, to its own last
 *             digit: of another decimal if it has four significant digits, of
 *             an exact value other than a whole number if it has three; with
 *             five also what it cuts short. 3.14 is pi, 0.333 is 1/3, 0.33 is
 *             not, 99.99 is not 100. Ten places and more may be off by one
 *             part in 10^9.
 *  percent    If one side alone has %, it may give the number of per cent or
 *             the value: 50% is 50 and 1/2; 50 is not 1/2.
 *  units      If one side alone has a unit or a label ("5 apples", $5), only
 *             the numbers count. Both must measure the same thing and agree
 *             after conversion (5 m is 500 cm, not 5 cm; 50 cents is $0.50);
 *             labels must be the same word, singular or plural. Degrees: as
 *             a unit; against a number with pi, as radians.
 *  algebra    Sums, products, powers, roots: expanded and compared exactly over
 *             rational coefficients; sqrt(12) is 2 sqrt(3), 1/sqrt(2) is
 *             sqrt(2)/2, (x+1)^2 is x^2+2x+1, i^2 is -1. Symbols are told apart
 *             by case.
 *  functions  What has no exact rule (sin, log, roots of sums, symbolic
 *             exponents) is compared at six points in extended precision, if no
 *             number has more than nine digits.
 *  relations  x = 5 is 5 when one side alone is an assignment. Two equations or
 *             two inequalities are the same when one is a multiple of the
 *             other. 1 < x < 2 is (1,2), x >= 3 is [3,\infty).
 *  intervals  End by end; open and closed differ. Unions in any order.
 *  tuples     Round or angle brackets (square ones with three parts and more):
 *             part by part in order; a column or row of a matrix too.
 *  lists      Without brackets: in any order, unless the other side is a tuple
 *             or the parts are named. +- stands for two parts. Sets: in any
 *             order, repeated parts once.
 *  ratios     a:b:c up to a common factor; a:b is a/b.
 *  matrices   Entry by entry.
 *
 * What is none of these is equal only by its words. Answers of more than
 * 65,536 bytes are compared byte by byte.
 */
#ifndef KS_TEXT_EQUAL_H
#define KS_TEXT_EQUAL_H

#include "expr.h"
#include "value.h"

/* A part of an answer; +- in it stands for pm. */
typedef struct ks_view {
    const ks_tree *tree;
    int32_t node;
    int pm;
} ks_view;

/* One comparison. */
typedef struct ks_comparison {
    int64_t work; /* left, in steps of algebra; none: not equal */
    ks_status status;
    ks_err *err;
} ks_comparison;

/* equal_words.c */
ks_status ks__equal_words(const char *a, size_t n_a, const char *b, size_t n_b,
                          bool *equal, ks_err *err);
/* *applies: both are times of day; *equal then decides. */
void ks__equal_times(const char *a, size_t n_a, const char *b, size_t n_b,
                     bool *applies, bool *equal);

/* equal_scalar.c: numbers, percent, units, algebra, functions */
bool ks__equal_scalars(ks_comparison *c, ks_view a, ks_view b);
/* Equations and inequalities that are no assignment and no interval. */
bool ks__equal_relations(ks_comparison *c, ks_view a, ks_view b);
bool ks__equal_ratios(ks_comparison *c, ks_view a, ks_view b);

/* equal_sets.c: everything */
bool ks__equal_views(ks_comparison *c, ks_view a, ks_view b);

#endif
