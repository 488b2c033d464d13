/* probe_dry.h - keystep probe --dry-run: what it would cost, said. */
#ifndef KS_PROBE_DRY_H
#define KS_PROBE_DRY_H

#include "../../probes/evaluation.h"

/* Nothing is written. */
ks_status ks_cli_probe_cost(const ks_evaluation_options *options, bool json,
                            ks_err *err);

#endif
