/* slurm_state.h - what the sources of slurm.h share. */
#ifndef KS_SLURM_STATE_H
#define KS_SLURM_STATE_H

#include "slurm.h"

/* What a job of the script is given by that name; NULL: nothing. */
const ks_slurm_option *ks__slurm_option(const ks_slurm_script *script,
                                        const char *name);

#endif
