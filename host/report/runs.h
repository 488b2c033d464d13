/* runs.h - the folders that a report is about, read and checked: what
 * `keystep probe` (summary.json, probes.h5) and `keystep transfer`
 * (transfer.json) left there. Internal to host/report/. */
#ifndef KS_REPORT_RUNS_H
#define KS_REPORT_RUNS_H

#include "../base.h"

enum { KS_MAX_RUNS = 64 };

typedef struct ks_run {
    char *name; /* as shown; unique */
    char *folder;
    char *probes;     /* path of probes.h5, NULL: not there */
    json_t *summary;  /* NULL: no summary.json */
    json_t *transfer; /* NULL: no transfer.json */
} ks_run;

typedef struct ks_runs {
    ks_run at[KS_MAX_RUNS];
    size_t n;
} ks_runs;

/* Each argument is FOLDER or NAME=FOLDER; without a NAME it is the folder's
 * last part. KS_USAGE: a name twice; KS_FORMAT: a file that is not as
 * docs/formats.md says. A failed read leaves {0}. */
ks_status ks_runs_read(ks_runs *out, const char *const *arguments, size_t n,
                       ks_err *err);
void ks_runs_free(ks_runs *runs);

/* A number of a checked object, NaN where it is null or missing. */
double ks__number(const json_t *object, const char *key);
/* A string of it; NULL where it is missing. */
const char *ks__text(const json_t *object, const char *key);
/* A member of a member, NULL where one is missing. */
json_t *ks__member(const json_t *object, const char *a, const char *b);
/* A list's size and entries are those of jansson; NULL is empty. */

#endif
