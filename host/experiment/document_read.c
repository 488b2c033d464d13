/* document_read.c - libyaml's events become a tree (document.h). Events and not
 * libyaml's documents: depth, size and aliases are bounded while they are read,
 * and a value keeps its line. */
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "document.h"

/* Experiments are small; what is beyond is a mistake or meant ill. */
enum { MOST_VALUES = 20000, MOST_DEPTH = 16 };

typedef struct anchor {
    char *name;
    ks_doc doc; /* a copy */
} anchor;

typedef struct reader {
    yaml_parser_t parser;
    const char *name;
    size_t values;
    anchor *anchors;
    size_t n, capacity;
} reader;

static ks_status syntax(const reader *r, ks_err *err) {
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return ks_fail(err, KS_NOMEM, "out of memory for %s", r->name);
    return ks_fail(err, KS_FORMAT, "%s line %zu: %s%s%s", r->name,
                   p->problem_mark.line + 1,
                   p->context ? p->context : "is not YAML",
                   p->problem ? ": " : "", p->problem ? p->problem : "");
}

static ks_status next(reader *r, yaml_event_t *event, ks_err *err) {
    return yaml_parser_parse(&r->parser, event) ? KS_OK : syntax(r, err);
}

static ks_status refuse_tag(const reader *r, const yaml_char_t *tag,
                            size_t line, ks_err *err) {
    if (!tag) return KS_OK;
    return ks_fail(err, KS_FORMAT,
                   "%s line %zu: tag %.60s: values with tags are not taken",
                   r->name, line, (const char *)tag);
}

static ks_status count(reader *r, size_t line, ks_err *err) {
    if (++r->values <= MOST_VALUES) return KS_OK;
    return ks_fail(err, KS_LIMIT,
                   "%s line %zu: more than %d values, aliases counted as often "
                   "as they are used",
                   r->name, line, MOST_VALUES);
}

static ks_status remember(reader *r, const yaml_char_t *name, const ks_doc *doc,
                          ks_err *err) {
    ks_status st = KS_OK;
    if (!name) return KS_OK;
    KS_TRY(ks_grow(&r->anchors, &r->capacity, r->n + 1, sizeof *r->anchors,
                   "anchors", err));
    anchor *a = &r->anchors[r->n];
    *a = (anchor){.name = strdup((const char *)name)};
    r->n++;
    KS_CHECK(a->name, KS_NOMEM, "out of memory for an anchor");
    KS_TRY(ks_doc_copy(&a->doc, doc, err));
done:
    return st;
}

static ks_status count_all(reader *r, const ks_doc *doc, size_t line, int depth,
                           ks_err *err) {
    ks_status st = count(r, line, err);
    if (st == KS_OK && depth > MOST_DEPTH)
        return ks_fail(err, KS_LIMIT, "%s line %zu: more than %d levels deep",
                       r->name, line, MOST_DEPTH);
    for (size_t i = 0; st == KS_OK && i < doc->n; i++)
        st = count_all(r, &doc->items[i], line, depth + 1, err);
    return st;
}

/* An anchor is known once its value has ended, so no value holds itself. */
static ks_status read_alias(reader *r, const yaml_event_t *event, size_t line,
                            int depth, ks_doc *out, ks_err *err) {
    const char *name = (const char *)event->data.alias.anchor;
    for (size_t i = r->n; i-- > 0;) {
        if (strcmp(r->anchors[i].name, name) != 0) continue;
        ks_status st = count_all(r, &r->anchors[i].doc, line, depth, err);
        return st == KS_OK ? ks_doc_copy(out, &r->anchors[i].doc, err) : st;
    }
    return ks_fail(err, KS_FORMAT,
                   "%s line %zu: alias *%s: no anchor &%s stands before it",
                   r->name, line, name, name);
}

/* Names, words and titles end on terminals, where an escape is an order. */
static bool has_control(const char *text, const char *but) {
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        bool c1 = *c == 0xc2 && c[1] < 0xa0; /* U+0080 to U+009F */
        if (c1 || *c == 0x7f || (*c < ' ' && !strchr(but, *c))) return true;
    }
    return false;
}

static ks_status read_scalar(reader *r, const yaml_event_t *event, ks_doc *out,
                             ks_err *err) {
    ks_status st = KS_OK;
    const char *text = (const char *)event->data.scalar.value;
    size_t n = event->data.scalar.length;
    KS_TRY(refuse_tag(r, event->data.scalar.tag, out->line, err));
    KS_CHECK(strlen(text) == n, KS_FORMAT,
             "%s line %zu: a value with a NUL character", r->name, out->line);
    KS_CHECK(!has_control(text, "\t\n\r"), KS_FORMAT,
             "%s line %zu: a value with a control character", r->name,
             out->line);
    out->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    out->text = strdup(text);
    KS_CHECK(out->text, KS_NOMEM, "out of memory for %s", r->name);
    KS_TRY(remember(r, event->data.scalar.anchor, out, err));
done:
    return st;
}

static ks_status read_value(reader *r, yaml_event_t *event, int depth,
                            ks_doc *out, ks_err *err);

static ks_status read_items(reader *r, int depth, ks_doc *out, ks_err *err) {
    ks_status st = KS_OK;
    yaml_event_t event;
    while (st == KS_OK) {
        KS_TRY(next(r, &event, err));
        if (event.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&event);
            break;
        }
        st = ks_grow(&out->items, &out->capacity, out->n + 1,
                     sizeof *out->items, "settings", err);
        if (st == KS_OK)
            st = read_value(r, &event, depth + 1, &out->items[out->n], err);
        if (st == KS_OK) out->n++;
        yaml_event_delete(&event);
    }
done:
    return st;
}

/* The key's text into *key. */
static ks_status read_key(const reader *r, const yaml_event_t *event,
                          const ks_doc *map, char **key, ks_err *err) {
    ks_status st = KS_OK;
    size_t line = event->start_mark.line + 1;
    KS_CHECK(event->type == YAML_SCALAR_EVENT, KS_FORMAT,
             "%s line %zu: a key that is no word", r->name, line);
    KS_TRY(refuse_tag(r, event->data.scalar.tag, line, err));
    const char *text = (const char *)event->data.scalar.value;
    KS_CHECK(strlen(text) == event->data.scalar.length, KS_FORMAT,
             "%s line %zu: a key with a NUL character", r->name, line);
    KS_CHECK(!has_control(text, ""), KS_FORMAT,
             "%s line %zu: a key with a control character", r->name, line);
    KS_CHECK(strcmp(text, "<<") != 0, KS_FORMAT,
             "%s line %zu: merge keys (<<) are not taken", r->name, line);
    ks_doc *twin = ks_doc_find(map, text);
    KS_CHECK(!twin, KS_FORMAT,
             "%s line %zu: key '%.60s' is given twice, first in line %zu",
             r->name, line, text, twin->line);
    *key = strdup(text);
    KS_CHECK(*key, KS_NOMEM, "out of memory for %s", r->name);
done:
    return st;
}

static ks_status read_members(reader *r, int depth, ks_doc *out, ks_err *err) {
    ks_status st = KS_OK;
    yaml_event_t event;
    char *key = NULL;
    while (st == KS_OK) {
        KS_TRY(next(r, &event, err));
        bool end = event.type == YAML_MAPPING_END_EVENT;
        size_t line = event.start_mark.line + 1;
        if (!end) st = read_key(r, &event, out, &key, err);
        yaml_event_delete(&event);
        if (end || st != KS_OK) break;
        KS_TRY(ks_grow(&out->items, &out->capacity, out->n + 1,
                       sizeof *out->items, "settings", err));
        ks_doc *item = &out->items[out->n];
        KS_TRY(next(r, &event, err));
        st = read_value(r, &event, depth + 1, item, err);
        yaml_event_delete(&event);
        if (st != KS_OK) break;
        free(item->key); /* of the value that an alias copied */
        item->key = key;
        item->line = line;
        key = NULL;
        out->n++;
    }
done:
    free(key);
    return st;
}

/* out is free on failure. */
static ks_status read_value(reader *r, yaml_event_t *event, int depth,
                            ks_doc *out, ks_err *err) {
    ks_status st = KS_OK;
    size_t line = event->start_mark.line + 1;
    *out = (ks_doc){.file = r->name, .line = line};
    KS_CHECK(depth <= MOST_DEPTH, KS_LIMIT,
             "%s line %zu: more than %d levels deep", r->name, line,
             MOST_DEPTH);
    if (event->type == YAML_ALIAS_EVENT)
        return read_alias(r, event, line, depth, out, err);
    KS_TRY(count(r, line, err));
    if (event->type == YAML_SCALAR_EVENT)
        KS_TRY(read_scalar(r, event, out, err));
    else if (event->type == YAML_SEQUENCE_START_EVENT) {
        out->kind = KS_DOC_LIST;
        KS_TRY(refuse_tag(r, event->data.sequence_start.tag, line, err));
        KS_TRY(read_items(r, depth, out, err));
        KS_TRY(remember(r, event->data.sequence_start.anchor, out, err));
    } else {
        out->kind = KS_DOC_MAP;
        KS_TRY(refuse_tag(r, event->data.mapping_start.tag, line, err));
        KS_TRY(read_members(r, depth, out, err));
        KS_TRY(remember(r, event->data.mapping_start.anchor, out, err));
    }
done:
    if (st != KS_OK) ks_doc_free(out);
    return st;
}

/* The events around the one document. */
static ks_status read_stream(reader *r, ks_doc *out, ks_err *err) {
    ks_status st = KS_OK;
    yaml_event_t event = {0};
    bool empty = false;
    for (int i = 0; i < 3 && !empty; i++) { /* stream, document, its value */
        yaml_event_delete(&event);
        KS_TRY(next(r, &event, err));
        empty = event.type == YAML_STREAM_END_EVENT;
    }
    KS_CHECK(!empty, KS_FORMAT, "%s: nothing is in it", r->name);
    KS_TRY(read_value(r, &event, 1, out, err));
    for (int i = 0; i < 2; i++) { /* the document's end, the stream's */
        yaml_event_delete(&event);
        KS_TRY(next(r, &event, err));
    }
    KS_CHECK(event.type == YAML_STREAM_END_EVENT, KS_FORMAT,
             "%s line %zu: a second document begins; one is expected", r->name,
             event.start_mark.line + 1);
done:
    yaml_event_delete(&event);
    return st;
}

static size_t line_of(const char *text, size_t at) {
    size_t line = 1;
    for (size_t i = 0; i < at; i++) line += text[i] == '\n';
    return line;
}

ks_status ks_doc_read(ks_doc *out, const char *name, const char *text, size_t n,
                      ks_err *err) {
    ks_status st = KS_OK;
    reader r = {.name = name};
    *out = (ks_doc){0};
    size_t bad = ks_utf8_check(text, n);
    /* a file's bytes were counted as they were read, those of --set not */
    KS_CHECK(n <= KS_DOC_MOST_BYTES, KS_LIMIT, "%s: more than %d bytes", name,
             KS_DOC_MOST_BYTES);
    KS_CHECK(bad == n, KS_FORMAT, "%s line %zu: byte %zu is no UTF-8", name,
             line_of(text, bad), bad + 1);
    KS_CHECK(yaml_parser_initialize(&r.parser), KS_NOMEM,
             "out of memory for %s", name);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, n);
    st = read_stream(&r, out, err);
    yaml_parser_delete(&r.parser);
    for (size_t i = 0; i < r.n; i++) {
        free(r.anchors[i].name);
        ks_doc_free(&r.anchors[i].doc);
    }
    free(r.anchors);
    if (st != KS_OK) ks_doc_free(out);
done:
    return st;
}
