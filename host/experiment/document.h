/* document.h - a YAML document as a tree whose values know where they stand.
 *
 * What is taken is the part of YAML that configurations use: mappings, lists,
 * scalars, anchors and aliases (copied, within bounds). Tags, merge keys and
 * several documents in a file are refused, a key that comes twice too.
 */
#ifndef KS_EXPERIMENT_DOCUMENT_H
#define KS_EXPERIMENT_DOCUMENT_H

#include "../base.h"

typedef enum ks_doc_kind { KS_DOC_TEXT, KS_DOC_LIST, KS_DOC_MAP } ks_doc_kind;

typedef struct ks_doc {
    ks_doc_kind kind;
    bool plain;       /* text without quotes: it may be a number or a truth */
    const char *file; /* borrowed: whose line, or "--set KEY" */
    size_t line;      /* from 1; 0: file says all */
    char *key;        /* of a member of a mapping */
    char *text;       /* of KS_DOC_TEXT; as key UTF-8 without control
                         characters, but it may have tabs and lines' ends */
    struct ks_doc *items;
    size_t n, capacity;
} ks_doc;

enum { KS_DOC_MOST_BYTES = 1 << 20 }; /* of text */

/* name stands in errors and in the tree, which borrows it. The sentence names
 * the line. */
ks_status ks_doc_read(ks_doc *out, const char *name, const char *text, size_t n,
                      ks_err *err);
ks_status ks_doc_copy(ks_doc *out, const ks_doc *from, ks_err *err);
void ks_doc_free(ks_doc *doc);

/* The member of a mapping; dashes and underscores in a key are alike. NULL:
 * none, or doc is NULL or no mapping. */
ks_doc *ks_doc_find(const ks_doc *doc, const char *key);
bool ks_doc_same_key(const char *a, const char *b);

/* Puts value (taken over, also on failure) at a dotted path below root,
 * mappings that are missing on the way included. An item of a list is found by
 * its `name`, or by its number from 1. */
ks_status ks_doc_set(ks_doc *root, const char *path, ks_doc *value,
                     ks_err *err);

/* "x.yaml line 3", or "--set capture.streams" */
typedef struct ks_doc_place {
    char text[512];
} ks_doc_place;
ks_doc_place ks_doc_where(const ks_doc *doc);

/* "a list", "a mapping", "'text'": what an error found. */
ks_doc_place ks_doc_what(const ks_doc *doc);

/* Nothing: an empty or null value. */
bool ks_doc_is_none(const ks_doc *doc);
/* false where doc is no such scalar. Truths are true and false, yes and no,
 * on and off; whole numbers are what options take for one, 1e3 too. */
bool ks_doc_truth(const ks_doc *doc, bool *out);
bool ks_doc_whole(const ks_doc *doc, int64_t *out);
bool ks_doc_real(const ks_doc *doc, double *out);

/* Numbers, truths and null as such, other scalars as strings; NULL: out of
 * memory. */
json_t *ks_doc_json(const ks_doc *doc);

#endif
