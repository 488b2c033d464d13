/* sections.c - see sections.h. */
#include "sections.h"

const ks_section ks_cli_sections[] = {
    {"import", ks_cmd_import_options, NULL},
    {"generate", ks_cmd_generate_options, NULL},
    {"split", ks_cmd_split_options, NULL},
    {"label", ks_cmd_label_options, ks_cmd_label_help},
    {"capture", ks_cmd_capture_options, NULL},
    {"score", ks_cmd_score_options, NULL},
    {"probe", ks_cmd_probe_options, NULL},
    {"transfer", ks_cmd_transfer_options, NULL},
    {"report", ks_cmd_report_options, NULL},
    {NULL, NULL, NULL}};
