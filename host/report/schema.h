/* schema.h - what a JSON file of ours may hold, as a table: other people's
 * files are held against it once, and who reads the values afterwards need not
 * look at a kind, a range or a length again. Internal to host/report/. */
#ifndef KS_REPORT_SCHEMA_H
#define KS_REPORT_SCHEMA_H

#include "../base.h"

typedef enum ks_field_kind {
    KS_FIELD_TEXT,     /* a string of at most `most` bytes */
    KS_FIELD_NAME,     /* one of `names` */
    KS_FIELD_NUMBER,   /* of [low, high], or null: not defined */
    KS_FIELD_WHOLE,    /* likewise, without a fraction */
    KS_FIELD_INTERVAL, /* {"value","low","high"}, each as NUMBER */
    KS_FIELD_RANGE,    /* "value", "low", "high" in the object itself */
    KS_FIELD_OBJECT,   /* with `fields` */
    KS_FIELD_LIST,     /* of objects with `fields`, at most `most` */
    KS_FIELD_NUMBERS,  /* of numbers or null of [low, high], at most `most` */
    KS_FIELD_MATRIX,   /* lists of NUMBERS, all as long as the first */
    KS_FIELD_TEXTS,    /* of strings, at most `most` of at most 400 bytes */
    KS_FIELD_INTERVALS /* a square of INTERVAL or null, at most `most` a side */
} ks_field_kind;

typedef struct ks_field {
    const char *name; /* NULL ends a table; KS_FIELD_RANGE has none */
    ks_field_kind kind;
    bool needed; /* else it may be missing or null */
    double low, high;
    size_t most;
    const char *const *names; /* NULL ends them */
    const struct ks_field *fields;
} ks_field;

/* Holds value against fields; what fields do not name is not looked at. The
 * sentence of a failure names `where` (a file) and the place in it:
 * "summary.json: probes[2].layers[3].auc.low is a string, expected a number
 * from 0 to 1 or null". */
ks_status ks__schema_check(json_t *value, const ks_field *fields,
                           const char *where, ks_err *err);

/* A whole file: at most `most` bytes, UTF-8, one JSON object with every key
 * once, held against fields. A new reference. */
ks_status ks__schema_read(const char *path, const ks_field *fields, size_t most,
                          json_t **out, ks_err *err);

#endif
