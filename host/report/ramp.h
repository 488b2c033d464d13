/* ramp.h - the colours of heat maps and chains: one definition for gnuplot's
 * pictures and the page. Internal to host/report/.
 *
 * More is further from the page, light or dark: on paper deeper, in the dark
 * brighter. Between stops colours go straight, in sRGB. The stops' lightness
 * (CIE L*) goes in even steps: 96 78 60 42 24 and 14 30 46 62 78 where colours
 * tell an amount, 96 69 42 and 16 36 57 on either side of the middle where they
 * tell two answers.
 */
#ifndef KS_REPORT_RAMP_H
#define KS_REPORT_RAMP_H

#include "content.h"

enum { KS_RAMP_STOPS = 5 };

typedef struct ks_ramp {
    const char *name;
    const char *light[KS_RAMP_STOPS]; /* "#rrggbb", from the low end */
    const char *dark[KS_RAMP_STOPS];  /* on the page, in the dark */
} ks_ramp;

const ks_ramp *ks__ramp(bool diverging);

/* Is white read better than black on the light colour at part of [0, 1]? The
 * better one of them has a contrast of 4.5 (WCAG AA) on every colour. */
bool ks__ramp_deep(const ks_ramp *ramp, double part);

/* {"sequential": {"light": [..], "dark": [..]}, "diverging": ..}; NULL: out of
 * memory */
json_t *ks__ramps_json(void);

#endif
