/* probe_options.h - options and outputs that commands of probes share. */
#ifndef KS_PROBE_OPTIONS_H
#define KS_PROBE_OPTIONS_H

#include "cli.h"

/* A list of C as "0.01,0.1,1": ascending into strengths [KS_MAX_STRENGTHS],
 * how many is returned; anything else is a usage error. */
int ks_cli_strengths(double *strengths, const char *text,
                     struct argp_state *state);

/* Makes the folder `out` (*made: it is new), names[i] in it into paths[i] (new;
 * freed by the caller, also on failure), and refuses what is there already
 * unless force. */
ks_status ks_cli_folder(const char *out, bool force, int n,
                        const char *const *names, char **paths, bool *made,
                        ks_err *err);

#endif
