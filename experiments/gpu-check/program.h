/* program.h - the parts of the one program of the bundle: gpu-check tests,
 * gpu-check bench, and every keystep command, so that kernels and library are
 * in it once. */
#ifndef KS_GPU_CHECK_PROGRAM_H
#define KS_GPU_CHECK_PROGRAM_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

int run_tests(int argc, char **argv);
int run_bench(int argc, char **argv);
/* From now on the device counts as a real one (device_control.cpp). */
void run_as_device(bool on);
int keystep_main(int argc, char **argv); /* host/cli/main.c's */

#ifdef __cplusplus
}
#endif

#endif
