/* run_reference.c - all that experiment.yaml may say, from the tables. */
#include "run_common.h"

int ks_cli_run_reference(void) {
    return KS_EXIT_DONE;
}
