/* sections.h - the commands that an experiment is made of, with the tables that
 * their options are read from. */
#ifndef KS_CLI_SECTIONS_H
#define KS_CLI_SECTIONS_H

#include "../experiment/sections.h"

extern const struct argp_option ks_cmd_generate_options[],
    ks_cmd_import_options[], ks_cmd_split_options[], ks_cmd_label_options[],
    ks_cmd_capture_options[], ks_cmd_score_options[], ks_cmd_probe_options[],
    ks_cmd_transfer_options[], ks_cmd_report_options[];
char *ks_cmd_label_help(int key, const char *help, void *user);

/* In the order in which they run; a name NULL ends it. */
extern const ks_section ks_cli_sections[];

#endif
