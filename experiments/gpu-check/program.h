/* program.h - the parts of the one program of the bundle: gpu-check tests,
 * gpu-check bench, and every keystep command, so that kernels and library are
 * in it once. */
#ifndef KS_GPU_CHECK_PROGRAM_H
#define KS_GPU_CHECK_PROGRAM_H

#ifdef __cplusplus
extern "C" {
#endif

int run_tests(int argc, char **argv);
int run_bench(int argc, char **argv);
int keystep_main(int argc, char **argv); /* host/cli/main.c's */

#ifdef __cplusplus
}
#endif

#endif
