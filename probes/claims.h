/* claims.h - the questions that an evaluation answers, each with a figure, its
 * interval and a verdict by a rule that stands beside it and was there before
 * the data. What was not measured has no claim. */
#ifndef KS_CLAIMS_H
#define KS_CLAIMS_H

#include "stats.h"

struct ks_evaluation;

typedef enum ks_verdict { KS_NO, KS_UNDECIDED, KS_YES } ks_verdict;
/* "yes", "no", "undecided" */
const char *ks_verdict_name(ks_verdict verdict);

/* How a figure is printed. */
typedef enum ks_unit {
    KS_PERCENT, /* a fraction as % */
    KS_POINTS,  /* a difference of fractions, in points with a sign */
    KS_NUMBER
} ks_unit;

enum { KS_MOST_CLAIMS = 32 }; /* 16 of them rivals */

typedef struct ks_claim {
    const char *id;       /* "before" */
    const char *question; /* one short sentence */
    const char *rule;     /* when it is yes, when no; undecided else */
    char what[96];        /* what the figure is: "resid/before less position" */
    ks_unit unit;
    ks_interval figure;
    double p; /* after Holm; NaN: the rule asks none */
    ks_verdict verdict;
} ks_claim;

typedef struct ks_claims {
    int32_t n;
    ks_claim at[KS_MOST_CLAIMS];
} ks_claims;

void ks_claims_of(ks_claims *out, const struct ks_evaluation *evaluation);

/* yes where the interval lies above `above` and p, if there is one, is below
 * 5%; no where it lies below `below`; undecided else, and where the figure is
 * not defined. */
ks_verdict ks_verdict_of(ks_interval figure, double p, double above,
                         double below);

#endif
