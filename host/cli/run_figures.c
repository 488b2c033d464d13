/* run_figures.c - what a run found: best balanced accuracies with intervals. */
#include <stdlib.h>
#include <string.h>

#include "run_common.h"

ks_status ks_cli_run_sum_up(const ks_exp_run *run, bool json, ks_err *err) {
    (void)json, (void)err;
    printf("%s\n", run->shown);
    return KS_OK;
}
