/* label.h - the parts of keystep label. */
#ifndef KS_LABEL_CLI_H
#define KS_LABEL_CLI_H

#include "../base.h"

struct ks_label_job; /* probes/label.h */

/* cmd_label_plumbing.c: argv from its own name on; exit codes */
int ks_cli_label_select(int argc, char **argv);
int ks_cli_label_greedy(int argc, char **argv);

/* cmd_label_compare.c: the same */
int ks_cli_label_compare(int argc, char **argv);

/* label_say.c: what a run will cost, on stdout. The model computes a little. */
ks_status ks_cli_label_cost(struct ks_label_job *job, bool json, ks_err *err);

#endif
