/* device_control.cpp - tests/simt/control.h where the device is real: seeds
 * mean nothing, and what only a simulated device can be told skips the test.
 * In the program for the simulated device it stands in front of the simulator's
 * own (the linker's --wrap), and `tests --as-device` turns it on: what a real
 * device would skip, is skipped. */
#include "control.h"
#include "criterion/criterion.h"
#include "program.h"

static bool as_device;

void run_as_device(bool on) {
    as_device = on;
}

#ifdef KS_WRAPPED
#define KNOB(result, name, parameters, arguments, why)                         \
    extern "C" result __real_##name parameters;                                \
    extern "C" result __wrap_##name parameters;                                \
    extern "C" result __wrap_##name parameters {                               \
        if (as_device) shim_skip(why);                                         \
        return __real_##name arguments;                                        \
    }
extern "C" bool __wrap_simt_simulated(void);
extern "C" bool __wrap_simt_simulated(void) {
    return !as_device;
}
#else
template <class... T> static void unused(T...) {
}
#define KNOB(result, name, parameters, arguments, why)                         \
    result name parameters {                                                   \
        unused arguments;                                                      \
        shim_skip(why);                                                        \
    }

static uint64_t state;

bool simt_simulated(void) {
    return false;
}

void simt_seed(uint64_t seed) {
    state = seed;
}

uint32_t simt_random(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return n ? (uint32_t)(state >> 33) % n : 0;
}

void simt_set_protect(bool) {
}

void simt_set_watchdog(double) {
}

size_t simt_live_allocations(void) {
    return 0; /* what it would count, memcheck's leak check does */
}
#endif

/* The same list stands in targets.cmake. */
KNOB(void, simt_set_devices, (int n), (n), "sets the number of devices")
KNOB(void, simt_set_capability, (int major, int minor), (major, minor),
     "sets the device's compute capability")
KNOB(void, simt_set_driver, (int version), (version),
     "sets the driver's version")
KNOB(void, simt_fail_devices, (int error), (error),
     "injects an error of the driver")
KNOB(void, simt_set_memory, (size_t bytes), (bytes), "sets the device's memory")
KNOB(void, simt_fail_next_sync, (int error), (error),
     "injects an error of the device")
KNOB(uint64_t, simt_launches, (void), (), "counts launches")
