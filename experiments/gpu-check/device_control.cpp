/* device_control.cpp - tests/simt/control.h where the device is real: seeds
 * mean nothing, and what only a simulated device can be told skips the test. */
#include "control.h"
#include "criterion/criterion.h"

static uint64_t state;

void simt_seed(uint64_t seed) {
    state = seed;
}

uint32_t simt_random(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return n ? (uint32_t)(state >> 33) % n : 0;
}

void simt_set_devices(int) {
    shim_skip("sets the number of devices");
}

void simt_set_capability(int, int) {
    shim_skip("sets the device's compute capability");
}

void simt_set_driver(int) {
    shim_skip("sets the driver's version");
}

void simt_fail_devices(int) {
    shim_skip("injects an error of the driver");
}

void simt_set_memory(size_t) {
    shim_skip("sets the device's memory");
}

void simt_set_protect(bool) {
}

void simt_set_watchdog(double) {
}

void simt_fail_next_sync(int) {
    shim_skip("injects an error of the device");
}

size_t simt_live_allocations(void) {
    return 0; /* what it would count, memcheck's leak check does */
}

uint64_t simt_launches(void) {
    shim_skip("counts launches");
}
