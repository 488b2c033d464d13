/* page.c - see page.h. */
#include "page.h"

#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "embed.h"
#include "ramp.h"

bool ks__page_has_d3(void) {
    return ks__embedded(KS_PAGE_D3).n > 0;
}

/* ------------------------------------------------------------------- parts */

ks_status ks__page_json(const json_t *value, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    /* all of them can only stand inside strings, where \u.. means the same */
    char *text = json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(9));
    KS_CHECK(text, KS_NOMEM, "out of memory for the page");
    const char *from = text;
    for (const char *at = text; *at; at++) {
        const char *instead = NULL;
        size_t n = 1;
        if (*at == '<') instead = "\\u003c";
        if (*at == '>') instead = "\\u003e";
        if (*at == '&') instead = "\\u0026";
        if (memcmp(at, "\xE2\x80\xA8", KS_MIN(3, strlen(at))) == 0)
            instead = "\\u2028", n = 3;
        if (memcmp(at, "\xE2\x80\xA9", KS_MIN(3, strlen(at))) == 0)
            instead = "\\u2029", n = 3;
        if (!instead) continue;
        KS_TRY(ks_str_add(out, from, (size_t)(at - from), err));
        KS_TRY(ks_str_add(out, instead, 6, err));
        from = at + n;
        at += n - 1;
    }
    KS_TRY(ks_str_add(out, from, strlen(from), err));
done:
    free(text);
    return st;
}

/* The title, in an element's text. */
static ks_status add_escaped(ks_str *out, const char *text, ks_err *err) {
    ks_status st = KS_OK;
    for (; *text; text++)
        if (*text == '<')
            KS_TRY(ks_str_printf(out, err, "&lt;"));
        else if (*text == '>')
            KS_TRY(ks_str_printf(out, err, "&gt;"));
        else if (*text == '&')
            KS_TRY(ks_str_printf(out, err, "&amp;"));
        else
            KS_TRY(ks_str_add(out, text, 1, err));
done:
    return st;
}

/* 'sha256-..' of a script or style, as the policy names it. */
static ks_status add_source(ks_str *out, ks_embedded part, ks_err *err) {
    unsigned char hash[SHA256_DIGEST_LENGTH], text[64];
    SHA256((const unsigned char *)part.data, part.n, hash);
    EVP_EncodeBlock(text, hash, sizeof hash);
    return ks_str_printf(out, err, " 'sha256-%s'", (const char *)text);
}

static const ks_page_part scripts[] = {
    KS_PAGE_D3, KS_PAGE_CHARTS, KS_PAGE_FINDINGS, KS_PAGE_READER, KS_PAGE_MAIN};

static ks_status add_policy(ks_str *out, bool d3, ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(ks_str_printf(out, err,
                         "default-src 'none'; base-uri 'none'; "
                         "form-action 'none'; img-src data:; "
                         "style-src"));
    KS_TRY(add_source(out, ks__embedded(KS_PAGE_CSS), err));
    KS_TRY(ks_str_printf(out, err, "; script-src"));
    for (size_t i = d3 ? 0 : 1; i < KS_COUNT(scripts); i++)
        KS_TRY(add_source(out, ks__embedded(scripts[i]), err));
done:
    return st;
}

static ks_status add_scripts(ks_str *out, bool d3, ks_err *err) {
    ks_status st = KS_OK;
    for (size_t i = d3 ? 0 : 1; i < KS_COUNT(scripts); i++) {
        ks_embedded part = ks__embedded(scripts[i]);
        KS_TRY(ks_str_printf(out, err, "<script>"));
        KS_TRY(ks_str_add(out, part.data, part.n, err));
        KS_TRY(ks_str_printf(out, err, "</script>\n"));
    }
done:
    return st;
}

/* -------------------------------------------------------------------- data */

/* {NAME: base64 of figures/NAME.svg}; a picture that is not there is left out,
 * and so is one whose colours are data: the page draws those itself. */
static ks_status add_pictures(const ks_report *r, const char *figures,
                              json_t *into, ks_err *err) {
    ks_status st = KS_OK;
    ks_str path = {0};
    ks_map map = {0};
    char *text = NULL;
    for (size_t s = 0; s < r->n_sections; s++)
        for (size_t p = 0; p < r->sections[s].n_parts; p++) {
            const ks_report_figure *f = r->sections[s].parts[p].figure;
            if (!f || f->kind == KS_FIGURE_HEAT || f->kind == KS_FIGURE_STRIP)
                continue;
            path.length = 0;
            KS_TRY(ks_str_printf(&path, err, "%s/%s.svg", figures, f->name));
            if (!ks_file_exists(path.data)) continue;
            KS_TRY(ks_map_open(&map, path.data, err));
            KS_CHECK(map.size < INT32_MAX / 2, KS_LIMIT, "%s: is too large",
                     path.data);
            KS_TRY(ks_alloc(&text, map.size / 3 * 4 + 8, 1, "a picture", err));
            EVP_EncodeBlock((unsigned char *)text, map.data, (int)map.size);
            json_object_set_new(into, f->name, json_string(text));
            free(text);
            text = NULL;
            ks_map_close(&map);
        }
done:
    ks_map_close(&map);
    free(text);
    ks_str_free(&path);
    return st;
}

static ks_status add_data(const ks_report *r, const ks_reader *reader, bool d3,
                          const char *figures, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    json_t *report = NULL, *all = NULL, *pictures = json_object();
    ks_embedded licence = ks__embedded(KS_PAGE_D3_LICENCE);
    KS_TRY(ks__report_json(r, &report, err));
    if (!d3 && figures) KS_TRY(add_pictures(r, figures, pictures, err));
    all = json_pack("{s:O,s:O,s:s,s:O,s:o,s:s%}", "report", report, "reader",
                    reader->runs, "why", reader->why, "pictures", pictures,
                    "ramps", ks__ramps_json(), "licences",
                    d3 ? licence.data : "", d3 ? licence.n : (size_t)0);
    KS_CHECK(all, KS_NOMEM, "out of memory for the page");
    KS_TRY(ks__page_json(all, out, err));
done:
    json_decref(report);
    json_decref(pictures);
    json_decref(all);
    return st;
}

/* -------------------------------------------------------------------- whole */

static ks_status fill(const char *name, size_t n, const ks_report *r,
                      const ks_reader *reader, bool d3, const char *figures,
                      ks_str *out, ks_err *err) {
    ks_embedded css = ks__embedded(KS_PAGE_CSS);
    if (strncmp(name, "policy", n) == 0) return add_policy(out, d3, err);
    if (strncmp(name, "program", n) == 0)
        return ks_str_printf(out, err, "keystep %s", KS_VERSION);
    if (strncmp(name, "title", n) == 0) return add_escaped(out, r->title, err);
    if (strncmp(name, "style", n) == 0)
        return ks_str_add(out, css.data, css.n, err);
    if (strncmp(name, "data", n) == 0)
        return add_data(r, reader, d3, figures, out, err);
    return add_scripts(out, d3, err);
}

ks_status ks__page_write(const ks_report *r, const ks_reader *reader, bool d3,
                         const char *figures, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    ks_embedded html = ks__embedded(KS_PAGE_HTML);
    const char *at = html.data, *end = html.data + html.n;
    while (at < end) {
        const char *open = memmem(at, (size_t)(end - at), "{{", 2);
        const char *close =
            open ? memmem(open, (size_t)(end - open), "}}", 2) : NULL;
        size_t n = (size_t)((close ? open : end) - at);
        KS_TRY(ks_str_add(out, at, n, err));
        if (!close) break;
        KS_TRY(fill(open + 2, (size_t)(close - open - 2), r, reader, d3,
                    figures, out, err));
        at = close + 2;
    }
done:
    return st;
}
