/* probe_options.h - options and outputs that commands of probes share. */
#ifndef KS_PROBE_OPTIONS_H
#define KS_PROBE_OPTIONS_H

#include <jansson.h>

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

/* A progress bar for one stage after another: begin, show and end are what
 * options of evaluations and transfers take, with it as their user. */
typedef struct ks_cli_stages {
    ks_progress *bar;
} ks_cli_stages;
void ks_cli_stage_begin(void *stages, const char *what, const char *unit,
                        int64_t total);
void ks_cli_stage_show(void *stages, int64_t done);
void ks_cli_stage_end(void *stages);

/* What such a command found, as files and as what stdout gets; all owned. */
typedef struct ks_cli_tables {
    ks_str markdown, shown, csv;
    json_t *json;
} ks_cli_tables;
/* Writes the three files, then prints what is shown, or the JSON. */
ks_status ks_cli_tables_write(const ks_cli_tables *tables, const char *markdown,
                              const char *csv, const char *json,
                              bool print_json, ks_err *err);
void ks_cli_tables_free(ks_cli_tables *tables);

#endif
