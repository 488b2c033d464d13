/* launch_state.h - what the sources of launch.h share. */
#ifndef KS_EXPERIMENT_LAUNCH_STATE_H
#define KS_EXPERIMENT_LAUNCH_STATE_H

#include "launch.h"

/* The script of a part of a stage. */
ks_slurm_script ks__launch_script(const ks_launch *launch, int stage,
                                  ks_job_part part);

#endif
