/* cmd_report.c - keystep report: runs of probe and transfer as tables, pictures
 * and a page that opens from disk. */
#include "../report/report.h"

#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "sections.h"

enum {
    KEY_TITLE = KS_KEY_OWN,
    KEY_SHOWN,
    KEY_STRIP,
    KEY_CHARTS,
    KEY_NO_PICTURES
};

enum { MOST = 64 };

typedef struct input {
    ks_cli_common common;
    ks_report_options options;
    const char *chains[MOST], *labels[MOST];
} input;

const struct argp_option ks_cmd_report_options[] = {
    {"out", KS_KEY_OUT, "FOLDER", 0,
     "for index.html, report.md, report.json, tables/ and figures/", 0},
    {"chains", KS_KEY_CHAINS, "FILE", 0,
     "chains of the runs, to be read in the page; may be repeated", 0},
    {"labels", KS_KEY_LABELS, "FILE", 0,
     "label lines whose graded scores are shown beside the probe's; may be "
     "repeated (the labels themselves are in probes.h5)",
     0},
    {"title", KEY_TITLE, "TEXT", 0, "of the report", 0},
    {"chains-shown", KEY_SHOWN, "N", 0,
     "most chains of a run in the page, spread over how well the probe does, "
     "and at most 8 MiB of all runs (default: 200 in 2 MiB)",
     0},
    {"strip", KEY_STRIP, "ID", 0,
     "the chain of the picture of one chain (default: a typical one)", 0},
    {"charts", KEY_CHARTS, "d3|svg", 0,
     "what draws the page's charts: D3 (default, where it was built in) or "
     "gnuplot's pictures",
     0},
    {"no-pictures", KEY_NO_PICTURES, NULL, 0, "make no figures/ by gnuplot", 0},
    KS_CLI_FORCE,
    KS_CLI_JSON,
    KS_CLI_QUIET,
    {0}};

static void add(const char **list, size_t *n, const char *path,
                const char *option, struct argp_state *state) {
    if (*n == MOST) argp_error(state, "more than %d --%s", MOST, option);
    list[(*n)++] = path;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    ks_report_options *o = &in->options;
    switch (key) {
    case KS_KEY_CHAINS:
        add(in->chains, &o->n_chains, arg, "chains", state);
        return 0;
    case KS_KEY_LABELS:
        add(in->labels, &o->n_labels, arg, "labels", state);
        return 0;
    case KEY_TITLE:
        if (ks_utf8_check(arg, strlen(arg)) != strlen(arg))
            argp_error(state, "--title is not UTF-8");
        o->title = arg;
        return 0;
    case KEY_SHOWN:
        o->shown = (size_t)ks_cli_whole(arg, 1, 1000000, "chains-shown", state);
        return 0;
    case KEY_STRIP:
        o->strip = arg;
        return 0;
    case KEY_CHARTS:
        o->no_d3 = strcmp(arg, "svg") == 0;
        if (!o->no_d3 && strcmp(arg, "d3") != 0)
            argp_error(state, "--charts takes d3 or svg, got '%s'", arg);
        return 0;
    case KEY_NO_PICTURES:
        o->no_pictures = true;
        return 0;
    case ARGP_KEY_ARGS:
        o->runs = (const char *const *)state->argv + state->next;
        o->n_runs = (size_t)(state->argc - state->next);
        return 0;
    case ARGP_KEY_END:
        if (!o->n_runs) argp_error(state, "a RUN is missing");
        if (!in->common.out) argp_error(state, "--out is missing");
        if (o->strip && !o->n_chains)
            argp_error(state, "--strip needs --chains");
        if (o->n_labels && !o->n_chains)
            argp_error(state, "--labels needs --chains");
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

static void say(const input *in, const ks_report_done *done) {
    const char *out = in->common.out;
    if (in->common.json) {
        ks_cli_print_json(json_pack(
            "{s:s,s:I,s:I,s:I,s:I,s:b,s:b,s:I}", "page", out, "tables",
            (json_int_t)done->tables, "figures", (json_int_t)done->figures,
            "chains", (json_int_t)done->chains, "page_bytes",
            (json_int_t)done->page_bytes, "pictures", (int)done->drawn, "d3",
            (int)done->d3, "absent", (json_int_t)done->absent));
    } else {
        printf("%s/index.html: %.1f MB, %zu figures, %zu tables, %zu chains "
               "to read\n",
               out, (double)done->page_bytes / 1e6, done->figures, done->tables,
               done->chains);
    }
    if (!done->drawn && !in->options.no_pictures)
        ks_log(KS_LOG_INFO,
               "report: no gnuplot (Debian: gnuplot-nox), so no "
               "pictures in %s/figures/; tables and page are "
               "there",
               out);
    if (in->options.n_chains && !done->chains)
        ks_log(KS_LOG_INFO,
               "report: none of the runs' chains is in what --chains names, so "
               "there is nothing to read");
    if (!done->d3 && !in->options.no_d3)
        ks_log(KS_LOG_INFO,
               "report: this program was built without D3 (Debian: node-d3), "
               "so the page shows %s",
               done->drawn ? "gnuplot's pictures" : "no charts");
}

int ks_cmd_report(int argc, char **argv) {
    static const struct argp argp = {
        ks_cmd_report_options,
        parse,
        "RUN... --out FOLDER",
        "Tables (CSV, Markdown, LaTeX, JSON), pictures (SVG, PNG) and one "
        "self-contained page of what keystep probe and keystep transfer "
        "found.\vRUN is a folder that they wrote, or NAME=FOLDER. Several "
        "runs stand side by side. What a run has not is left out and said at "
        "the end.",
        NULL,
        NULL,
        NULL};
    input in = {0};
    ks_err err = {0};
    ks_report_done done;
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "report", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    in.options.out = in.common.out;
    in.options.force = in.common.force;
    in.options.chains = in.chains;
    in.options.labels = in.labels;
    if (ks_report_make(&in.options, &done, &err) != KS_OK)
        return ks_cli_failed("report", &err);
    say(&in, &done);
    return KS_EXIT_DONE;
}
