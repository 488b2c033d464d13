/* embed.h - files that the build put into the program. Internal to
 * host/report/. */
#ifndef KS_REPORT_EMBED_H
#define KS_REPORT_EMBED_H

#include <stddef.h>

typedef enum ks_page_part {
    KS_PAGE_HTML,
    KS_PAGE_CSS,
    KS_PAGE_D3, /* empty where the build found none, and its licence too */
    KS_PAGE_CHARTS,
    KS_PAGE_FINDINGS,
    KS_PAGE_READER,
    KS_PAGE_MAIN,
    KS_PAGE_D3_LICENCE
} ks_page_part;

typedef struct ks_embedded {
    const char *data; /* not ended by a NUL of its own */
    size_t n;
} ks_embedded;

ks_embedded ks__embedded(ks_page_part part);

#endif
