/* embed.c - the page's sources as they lie in page/, and D3 where the build
 * found it, in the program (CMakeLists.txt names the files). */
#include "embed.h"

#define EMBED(name, path)                                                      \
    __asm__(".pushsection .rodata\n"                                           \
            ".global ks__embedded_" #name "\n"                                 \
            ".hidden ks__embedded_" #name "\n"                                 \
            "ks__embedded_" #name ":\n"                                        \
            ".incbin \"" path "\"\n"                                           \
            ".global ks__embedded_" #name "_end\n"                             \
            ".hidden ks__embedded_" #name "_end\n"                             \
            "ks__embedded_" #name "_end:\n"                                    \
            ".byte 0\n"                                                        \
            ".popsection\n");                                                  \
    extern const char ks__embedded_##name[], ks__embedded_##name##_end[];

EMBED(html, KS_PAGE "/page.html")
EMBED(css, KS_PAGE "/page.css")
EMBED(charts, KS_PAGE "/charts.js")
EMBED(findings, KS_PAGE "/findings.js")
EMBED(reader, KS_PAGE "/reader.js")
EMBED(page, KS_PAGE "/page.js")
#ifdef KS_D3
EMBED(d3, KS_D3)
EMBED(d3_licence, KS_PAGE "/d3-licence.txt")
#endif

#define PART(name)                                                             \
    (ks_embedded) {                                                            \
        ks__embedded_##name,                                                   \
            (size_t)(ks__embedded_##name##_end - ks__embedded_##name)          \
    }

ks_embedded ks__embedded(ks_page_part part) {
    switch (part) {
    case KS_PAGE_HTML:
        return PART(html);
    case KS_PAGE_CSS:
        return PART(css);
    case KS_PAGE_CHARTS:
        return PART(charts);
    case KS_PAGE_FINDINGS:
        return PART(findings);
    case KS_PAGE_READER:
        return PART(reader);
    case KS_PAGE_MAIN:
        return PART(page);
#ifdef KS_D3
    case KS_PAGE_D3:
        return PART(d3);
    case KS_PAGE_D3_LICENCE:
        return PART(d3_licence);
#else
    case KS_PAGE_D3:
    case KS_PAGE_D3_LICENCE:
        break;
#endif
    }
    return (ks_embedded){"", 0};
}
