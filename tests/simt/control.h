/* control.h - how tests steer the simulator; no CUDA header needed. */
#ifndef KS_SIMT_CONTROL_H
#define KS_SIMT_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Is the device simulated? Not where experiments/gpu-check runs these tests on
 * a real one: there the knobs below that it does not have skip the test. */
bool simt_simulated(void);
/* Order of blocks, warps and lanes, of cp.async's arrival, and of independent
 * streams. 0: plain ascending order, everything as late as allowed. The
 * environment's KS_SIMT_SEED is the first seed. */
void simt_seed(uint64_t seed);
/* A number in [0, n) of the seed's sequence; 0 under seed 0. */
uint32_t simt_random(uint32_t n);

/* Simulated devices (1), at most 4; before the first allocation. */
void simt_set_devices(int count);
/* Compute capability, e.g. 9 and 0; the first is 8.0. */
void simt_set_capability(int major, int minor);
/* The CUDA version of the driver, as 13000; 0: there is none. */
void simt_set_driver(int version);
/* Asking for the devices answers this error (cudaError_t); 0: no more. */
void simt_fail_devices(int error);
/* Bytes that each device says it has (4 GiB). */
void simt_set_memory(size_t bytes);
/* Device memory cannot be touched by the host outside copies: the touch ends
 * the process. Costs some milliseconds a synchronisation. */
void simt_set_protect(bool on);
/* Seconds that one launch may take (60). */
void simt_set_watchdog(double seconds);
/* The next synchronisation answers this error (cudaError_t), once. */
void simt_fail_next_sync(int error);
/* Device allocations not freed: what a closed backend has leaked. */
size_t simt_live_allocations(void);
/* Launches since the process began. */
uint64_t simt_launches(void);

#ifdef __cplusplus
}
#endif

#endif
