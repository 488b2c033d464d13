/* main.c - finds the subcommand. */
#include "../blas.h"
#include "build.h"
#include "cli.h"

#include <errno.h>
#include <hdf5.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    bool blas; /* spends its time there */
    const char *what;
};

static const struct command commands[] = {
    {"demo", ks_cmd_demo, true,
     "all of the below on the embedded model, to a table"},
    {"run", ks_cmd_run, false,
     "an experiment: all of the below, from one file"},
    {"launch", ks_cmd_launch, false,
     "the same on Slurm, or by several processes"},
    {"status", ks_cmd_status, false, "how far a run is"},
    {"generate", ks_cmd_generate, false, "problems -> reasoning chains"},
    {"import", ks_cmd_import, false,
     "other tools' outputs -> chains; acts: activations"},
    {"split", ks_cmd_split, false, "cut chains into steps"},
    {"label", ks_cmd_label, false, "chains -> which steps carry the answer"},
    {"capture", ks_cmd_capture, false,
     "chains -> activations of every layer, HDF5"},
    {"join", ks_cmd_join, false, "outputs of --shard K/N -> one file"},
    {"probe", ks_cmd_probe, true, "activations + labels -> probes and tables"},
    {"transfer", ks_cmd_transfer, true,
     "probes across models and across tasks"},
    {"report", ks_cmd_report, false,
     "what they found -> tables, pictures, a page"},
    {"export", ks_cmd_export, false,
     "probes -> npz, safetensors, ONNX for other programs"},
    {"inspect", ks_cmd_inspect, false,
     "what is in a model or in a file of ours"},
    {"diff", ks_cmd_diff, false, "in what two runs differ"},
    {"verify", ks_cmd_verify, false, "check that activation files are whole"},
    {"bench", ks_cmd_bench, true, "measure this machine"},
    {"plan", ks_cmd_plan, false, "what an experiment would take, on paper"},
    {"tokenize", ks_cmd_tokenize, false, "plumbing: text <-> token ids"},
    {"score", ks_cmd_score, false,
     "plumbing: log-probabilities of a continuation"},
    {"text", ks_cmd_text, false,
     "plumbing: steps, boxes, answers, their equality"},
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

/* libgomp and OpenBLAS read their variables when they are loaded, ahead of any
 * code of ours, so the program starts once more, as itself, with them set.
 * Fails silently: then it is slower. */
static void start_again(char **argv) {
    char self[PATH_MAX];
    if (ks_cli_self(self)) execv(self, argv);
}

/* Threads of libgomp spin for milliseconds at every barrier before they sleep,
 * so on a machine with other work most CPU time goes there. */
static bool spin_briefly(void) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return false;
    return setenv("GOMP_SPINCOUNT", "10000", 0) == 0;
}

/* Set beside a core of our choice, which is not to be trusted unseen. */
static const char chosen[] = "KEYSTEP_CHOSE_BLAS_CORE";

static bool ask_for_core(bool safe) {
    ks_blas_cpu cpu = {__builtin_cpu_supports("avx2") &&
                           __builtin_cpu_supports("fma"),
                       __builtin_cpu_supports("avx512f") &&
                           __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512dq") &&
                           __builtin_cpu_supports("avx512vl"),
                       __builtin_cpu_supports("avx512bf16")};
    /* what it took by itself: of a wrong core, the name it would have had */
    const char *have = safe ? "Prescott" : openblas_get_corename();
    const char *core = ks__blas_core(have, cpu, safe);
    if (!core || setenv("OPENBLAS_CORETYPE", core, 1) != 0) return false;
    return safe ? unsetenv(chosen) == 0 : setenv(chosen, "1", 1) == 0;
}

/* The user's own word counts: a core that was named is left alone. */
static bool use_fast_blas(void) {
    ks_err err = {0};
    if (!getenv("OPENBLAS_CORETYPE")) return ask_for_core(false);
    if (!getenv(chosen)) return false;
    return ks__blas_check(&err) != KS_OK && ask_for_core(true);
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
        ks_build_print();
        return close_output(name, KS_EXIT_DONE);
    }
    for (size_t i = 0; i < KS_COUNT(commands); i++)
        if (strcmp(commands[i].name, name) == 0) {
            bool changed = spin_briefly();
            if (commands[i].blas) changed |= use_fast_blas();
            if (changed) start_again(argv);
            /* We close what we open; of a damaged file HDF5 keeps ids of its
             * own and would end with words that say nothing. */
            H5dont_atexit();
            ks_cli_catch_signals();
            return close_output(name, commands[i].run(argc - 1, argv + 1));
        }
    fprintf(stderr, "keystep: no command '%s'; 'keystep --help' lists them\n",
            name);
    return KS_EXIT_USAGE;
}
