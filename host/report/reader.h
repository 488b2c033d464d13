/* reader.h - chains with the probe's scores and their labels, for the page's
 * reader and for the picture of a chain. Internal to host/report/. */
#ifndef KS_REPORT_READER_H
#define KS_REPORT_READER_H

#include "../chains.h"
#include "content.h"
#include "runs.h"

typedef struct ks_reader_options {
    const char *const *chains; /* files; n_chains 0: no reader */
    size_t n_chains;
    const char *const *labels; /* files: graded scores beside the probe's */
    size_t n_labels;
    size_t shown;      /* chains of a run, at most, and 8 MiB of all runs; 0:
                          200 and 2 MiB, so that the page stays small */
    const char *strip; /* the chain of the picture; NULL: a typical one */
} ks_reader_options;

/* runs: a list with an object for each run whose chains are there,
 *   {"name","words","position","positions":[{"name","stream","tone","layers",
 *    "best","scores"}],"chains":[{"id","problem","question","pieces","labels",
 *    "graded"?}]}
 * scores: base64 of a byte for each layer and step shown, layer by layer, the
 * steps of all chains one after another: 0 none, else 128 + 16 * score, rounded
 * into 1..255. pieces: the text ahead of the first step, the first step, what
 * lies between it and the second, the second, and so on. why: a sentence where
 * the list is empty. Adds to r a section with a chain's picture for each run.
 */
typedef struct ks_reader {
    json_t *runs;
    const char *why; /* of the report's memory */
} ks_reader;

/* KS_MISMATCH: a chain's text is not the one that was probed, or a label line
 * has another number of steps. */
ks_status ks__reader_build(ks_reader *out, ks_report *r, const ks_runs *runs,
                           const ks_reader_options *options, ks_err *err);
void ks__reader_free(ks_reader *reader);

#endif
