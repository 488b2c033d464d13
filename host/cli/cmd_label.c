/* cmd_label.c - keystep label: finds the part that is meant. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "label.h"

static void usage(FILE *to) {
    fputs("Usage: keystep label select|greedy [OPTION...]\n"
          "The search for the steps that matter, on matrices and oracles of "
          "yours.\n'keystep label select --help' says more. Measuring "
          "importance on a model is\nnot written yet.\n",
          to);
}

int ks_cmd_label(int argc, char **argv) {
    const char *part = argc > 1 ? argv[1] : "";
    if (strcmp(part, "select") == 0)
        return ks_cli_label_select(argc - 1, argv + 1);
    if (strcmp(part, "greedy") == 0)
        return ks_cli_label_greedy(argc - 1, argv + 1);
    bool help = strcmp(part, "--help") == 0;
    usage(help ? stdout : stderr);
    return help ? KS_EXIT_DONE : KS_EXIT_USAGE;
}
