/* Several simulated devices of one process: a capture's bytes and what is
 * generated do not depend on how many share the work. */
#include "build_name.h"
#include "capture/fixture.h"
#include "control.h"
#include "generate.h"

TestSuite(simt_devices, .init = begin, .fini = end);

Test(simt_devices, a_file_of_two_is_the_file_of_one) {
    if (kernels_alone()) return;
    simt_set_devices(2);
    write_chains("chains.jsonl", (int)cases_here(4, 2));
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

/* ------------------------------------------------------------- generation */

enum { CROWD = 5, NEW = 9 };

static int crowd(void) {
    return (int)cases_here(CROWD, 2);
}

static int length(void) {
    return (int)cases_here(NEW, 3);
}

typedef struct sampled {
    int32_t ids[CROWD][NEW], n[CROWD];
} sampled;

static ks_status keep(void *user, size_t i, const int32_t *ids, int32_t n,
                      ks_finish finish, ks_err *err) {
    sampled *s = user;
    (void)finish, (void)err;
    memcpy(s->ids[i], ids, (size_t)n * sizeof *ids);
    s->n[i] = n;
    return KS_OK;
}

static ks_status generate(const char *backend, sampled *out,
                          ks_generate_stats *stats, ks_err *err) {
    static const int32_t prompt[] = {5, 3, 9, 4, 7, 8, 6, 2};
    ks_engines engines = {0};
    ks_engine_options on = {.backend = backend};
    ks_generate_options options = {
        .temperature = 1, .top_p = 1, .max_new = length(), .seed = 7};
    ks_request requests[CROWD];
    for (int i = 0; i < crowd(); i++)
        requests[i] = (ks_request){.prompt = prompt,
                                   .n_prompt = 4 + i,
                                   .stream = (uint64_t)i + 1,
                                   .group = i};
    *out = (sampled){0};
    ks_status st = ks_engines_open(&engines, MODEL, &on, err);
    if (st == KS_OK)
        st = ks_generate_on(&engines, &options, requests, (size_t)crowd(), keep,
                            out, stats, err);
    ks_engines_close(&engines);
    return st;
}

Test(simt_devices, what_two_generate_one_does) {
    sampled one, two;
    ks_generate_stats alone, both;
    ks_err err = {0};
    if (kernels_alone()) return;
    simt_set_devices(2);
    cr_assert_eq(generate("cuda:1", &one, &alone, &err), KS_OK, "%s", err.text);
    cr_assert_eq(generate("cuda:0,cuda:1", &two, &both, &err), KS_OK, "%s",
                 err.text);
    cr_expect_eq(memcmp(&one, &two, sizeof one), 0);
    cr_expect_eq(alone.sampled, crowd() * length());
    cr_expect_eq(both.sampled, crowd() * length());
    cr_expect_eq(alone.batches, length());
    cr_expect_eq(both.batches, 2 * length(), "one device had nothing to do");
    cr_expect_eq(simt_live_allocations(), 0);
}
