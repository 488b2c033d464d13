/* main.cpp - see program.h. Called as `keystep` (a link), it is keystep. */
#include "program.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    const char *slash = strrchr(argv[0], '/');
    if (!strcmp(slash ? slash + 1 : argv[0], "keystep"))
        return keystep_main(argc, argv);
    if (argc > 1 && !strcmp(argv[1], "tests"))
        return run_tests(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "bench"))
        return run_bench(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "keystep"))
        return keystep_main(argc - 1, argv + 1);
    fprintf(stderr, "usage: gpu-check tests|bench|keystep ...\n");
    return 2;
}
