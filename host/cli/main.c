/* main.c - finds the subcommand. */
#include "cli.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;
};

static const struct command commands[] = {
    {"demo", ks_cmd_demo, "all of the below on the embedded model, to a table"},
    {"generate", ks_cmd_generate, "problems -> reasoning chains"},
    {"split", ks_cmd_split, "cut chains into steps"},
    {"capture", ks_cmd_capture, "chains -> activations of every layer, HDF5"},
    {"probe", ks_cmd_probe, "activations + labels -> probes and tables"},
    {"inspect", ks_cmd_inspect, "what is in a model or in a file of ours"},
    {"verify", ks_cmd_verify, "check that activation files are whole"},
    {"bench", ks_cmd_bench, "measure this machine"},
    {"tokenize", ks_cmd_tokenize, "plumbing: text <-> token ids"},
    {"score", ks_cmd_score, "plumbing: log-probabilities of a continuation"},
    {"text", ks_cmd_text, "plumbing: steps, boxes, answers, their equality"},
};

static void usage(FILE *to) {
    fputs("Usage: keystep COMMAND [OPTION...]\n"
          "Where inside a reasoning model the importance of its own steps is "
          "written,\nlayer by layer.\n\nCommands:\n",
          to);
    for (size_t i = 0; i < KS_COUNT(commands); i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].what);
    fputs("\n'keystep COMMAND --help' says more. Results go to stdout, words "
          "to stderr.\nExit codes: 0 done, 1 failed, 2 usage, 130 "
          "interrupted.\n",
          to);
}

/* What was printed into a full disk or a closed pipe is not done. */
static int close_output(const char *name, int code) {
    bool failed = ferror(stdout) != 0;
    errno = 0;
    if (fclose(stdout) != 0) failed = true;
    if (!failed || code != KS_EXIT_DONE) return code;
    fprintf(stderr, "keystep %s: standard output: cannot write%s%s\n", name,
            errno ? ": " : "", errno ? strerror(errno) : "");
    return KS_EXIT_FAILED;
}

/* libgomp's threads spin for milliseconds at every barrier before they sleep,
 * so on a machine with other work most CPU time goes there. It reads its
 * variables when it is loaded, ahead of any code of ours, so the program
 * starts once more, as itself, with one set. The user's own word counts. */
static void spin_briefly(char **argv) {
    char self[PATH_MAX];
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0 || setenv("GOMP_SPINCOUNT", "10000", 0) != 0) return;
    self[n] = 0;
    execv(self, argv); /* fails: then threads spin */
}

int main(int argc, char **argv) {
    if (argc < 2) {
        usage(stderr);
        return KS_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "help") == 0) {
        usage(stdout);
        return KS_EXIT_DONE;
    }
    if (strcmp(name, "--version") == 0) {
        puts("keystep " KS_VERSION);
        return KS_EXIT_DONE;
    }
    for (size_t i = 0; i < KS_COUNT(commands); i++)
        if (strcmp(commands[i].name, name) == 0) {
            spin_briefly(argv);
            ks_cli_catch_signals();
            return close_output(name, commands[i].run(argc - 1, argv + 1));
        }
    fprintf(stderr, "keystep: no command '%s'; 'keystep --help' lists them\n",
            name);
    return KS_EXIT_USAGE;
}
