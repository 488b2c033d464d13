/* Several simulated devices of one process: a capture's bytes do not depend on
 * how many share its batches. */
#include "capture/fixture.h"
#include "control.h"

TestSuite(simt_devices, .init = begin, .fini = end);

Test(simt_devices, a_file_of_two_is_the_file_of_one) {
    simt_set_devices(2);
    write_chains("chains.jsonl", 4);
    ks_capture_options a = options_for("a.h5"), b = options_for("b.h5");
    a.streams = b.streams = 1u << KS_RESID;
    a.positions = b.positions = 1u << KS_MEAN | 1u << KS_LAST;
    a.engine.backend = "cuda:1";
    b.engine.backend = "cuda";                         /* all there are */
    a.engine.batch_tokens = b.engine.batch_tokens = 1; /* a chain each */
    must_capture(&a);
    must_capture(&b);
    cr_expect(same_files(a.out, b.out));
    cr_expect_eq(simt_live_allocations(), 0);
}

Test(simt_devices, one_that_is_not_there_is_named) {
    ks_capture_job *job = NULL;
    ks_err err = {0};
    simt_set_devices(2);
    write_chains("chains.jsonl", 1);
    ks_capture_options o = options_for("x.h5");
    o.engine.backend = "cuda:0,cuda:2";
    cr_expect_neq(ks_capture_open(&job, &o, &err), KS_OK);
    cr_expect(strstr(err.text, "no CUDA device 2"), "%s", err.text);
    cr_expect_eq(simt_live_allocations(), 0);
}
