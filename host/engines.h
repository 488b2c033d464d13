/* engines.h - one model on several devices: an engine each, for work that is
 * dealt out among them. */
#ifndef KS_ENGINES_H
#define KS_ENGINES_H

#include "forward.h"

typedef struct ks_engines {
    ks_engine **at; /* [n]; the first owns the model that all share */
    char **names;   /* [n] of their backends */
    int32_t n;
} ks_engines;

/* options->backend may be a list, "cuda:0,cuda:1", or "cuda": all devices that
 * are there. Devices of one kind alone, for the bits of others differ. Zero
 * *engines before; close it also after a failure. */
ks_status ks_engines_open(ks_engines *engines, const char *model,
                          const ks_engine_options *options, ks_err *err);
void ks_engines_close(ks_engines *engines);

#endif
