/* test_peers.c - stock tools open the files: h5dump, h5py. Skipped by name
 * where they are not installed. */
#include <criterion/criterion.h>

#include "fixture.h"

static int run(const char *format, const char *argument) {
    char command[512];
    snprintf(command, sizeof command, format, argument);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

Test(peers, h5dump_opens_it) {
    if (run("command -v %s >/dev/null", "h5dump"))
        cr_skip_test("h5dump (Debian package hdf5-tools) is not installed");
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, ALL_STREAMS, ALL_POSITIONS);
    cr_assert_eq(write_file(&f, f.path, (ks_acts_options){0}, 4, &err), KS_OK,
                 "%s", err.text);
    cr_assert_eq(run("h5dump -H %s >/dev/null", f.path), 0);
    cr_assert_eq(run("h5dump -d /activations/resid/mean %s | "
                     "grep -q '(0,0,0): 1, 2, 3, 4, 5, 6, 7'",
                     f.path),
                 0);
    cr_assert_eq(run("h5dump -d /activations/mlp/before -p -H %s | "
                     "grep -q 'CONTIGUOUS'",
                     f.path),
                 0);
    fixture_free(&f);
}

Test(peers, h5py_reads_every_value, .timeout = 120) {
    if (run("python3 -c 'import h5py%s' 2>/dev/null", ""))
        cr_skip_test("python3 with h5py is not installed");
    static const ks_type types[] = {KS_BF16, KS_F16, KS_F32};
    for (size_t i = 0; i < KS_COUNT(types); i++) {
        fixture f;
        ks_err err = {0};
        fixture_make(&f, types[i], ALL_STREAMS, ALL_POSITIONS);
        cr_assert_eq(write_file(&f, f.path, (ks_acts_options){0}, 4, &err),
                     KS_OK, "%s", err.text);
        cr_assert_eq(run("python3 " KS_TEST_DATA
                         "/../acts/read_with_h5py.py %s",
                         f.path),
                     0);
        fixture_free(&f);
    }
}
