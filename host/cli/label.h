/* label.h - the parts of keystep label, each given argv from its own name on;
 * exit codes. */
#ifndef KS_LABEL_CLI_H
#define KS_LABEL_CLI_H

/* cmd_label_plumbing.c */
int ks_cli_label_select(int argc, char **argv);
int ks_cli_label_greedy(int argc, char **argv);

/* cmd_label_compare.c */
int ks_cli_label_compare(int argc, char **argv);

#endif
