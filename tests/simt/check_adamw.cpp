/* check_adamw.cpp - the CUDA adamw op against PyTorch's trainings in float64
 * (tests/golden/make_adamw.py), against the CPU's op on other shapes, and
 * against itself: other schedules of warps and other probes change no bit. */
#include "probe_fixture.h"

extern "C" {
#include "../../probes/adamw.h"
}
#include "adamw_golden.h"

/* |parameters - reference| / |reference|, and margins likewise */
static const double NEAR_PYTORCH = 1e-4, NEAR_CPU = 2e-5;

static sim open_trainer(void) {
    sim s = open_sim();
    s.ops.adamw = ks__cuda_adamw;
    return s;
}

Test(simt_adamw, trains_as_pytorch) {
    json_error_t reason;
    json_t *all = json_load_file(KS_TEST_DATA "/probes/adamw.json", 0, &reason);
    cr_assert(all != NULL, "%s", reason.text);
    json_t *one;
    size_t k = 0;
    json_array_foreach(json_object_get(all, "cases"), k, one) {
        sim s = open_trainer();
        golden g;
        bool opened = golden_open(&g, one);
        cr_assert(opened);
        simt_seed(k);
        FINE(golden_train(&g, &s.ops, s.dev, err));
        NEAR(g.name, golden_distance(&g, true), NEAR_PYTORCH);
        NEAR(g.name, golden_distance(&g, false), NEAR_PYTORCH);
        golden_close(&g);
        close_sim(&s);
    }
    cr_expect(k >= 7);
    json_decref(all);
}

/* --------------------------------------------------------- many probes at once
 */

struct shape {
    int32_t layers, n, d, hidden[3], n_hidden, batch, n_eval;
    bool each_epoch;
};

enum { PROBES = 3, EPOCHS = 2 };

struct trained {
    std::vector<float> param[PROBES], margin[PROBES];
};

/* Probes that differ in rows, layers, rates and standardising. */
static trained train_probes(const struct ks_ops *ops, ks_dev *dev,
                            const shape &h, int first, int count) {
    trained out;
    std::vector<float> x =
        numbers(11, (size_t)(h.layers + 1) * (size_t)h.n * (size_t)h.d);
    std::vector<int8_t> y;
    std::vector<int32_t> rows;
    for (int32_t i = 0; i < h.n; i++) {
        y.push_back(number(12, (uint64_t)i) + (double)x[(size_t)(i * h.d)] > 0);
        rows.push_back((int32_t)((int64_t)i * 7 % h.n));
    }
    ks_adamw_options o = {};
    o.layers = h.layers;
    o.n_hidden = h.n_hidden, o.hidden = h.hidden;
    o.batch = h.batch;
    o.epochs = EPOCHS + 1;
    o.each_epoch = h.each_epoch;
    ks_adamw_data *data = NULL;
    FINE(ks_adamw_open(&data, ops, dev, x.data(), h.layers + 1, h.n, h.d, err));
    ks_adamw_probe probes[PROBES] = {};
    for (int k = 0; k < PROBES; k++) {
        ks_adamw_probe *p = &probes[k];
        out.param[k].assign((size_t)ks_adamw_parameters(data, &o), NAN);
        out.margin[k].assign((size_t)(EPOCHS * h.n_eval), 0);
        p->layer = k % 2;
        p->rows = rows.data() + k;
        p->n_rows = h.n - k * (h.batch / 2 + 1) - k;
        p->y = y.data();
        p->key[0] = 5, p->key[1] = (uint64_t)k;
        p->lr = 1e-2 / (k + 1), p->decay = 1e-2;
        p->class_weight[0] = 1, p->class_weight[1] = 1 + (float)k;
        p->standardise = k != 1;
        p->param = out.param[k].data();
        p->stop = k == 0 ? 1 : EPOCHS; /* what comes behind is not its own */
        p->n_eval = KS_MAX(h.n_eval - k, 0);
        p->eval = rows.data() + (h.n - p->n_eval);
        p->margin = k == 1 ? NULL : out.margin[k].data();
    }
    FINE(ks_adamw_train(data, &o, probes + first, count, err));
    ks_adamw_close(&data);
    return out;
}

static void check_shape(const shape &h) {
    sim s = open_trainer();
    simt_seed(0);
    trained cpu = train_probes(s.cpu_ops, s.cpu, h, 0, PROBES);
    trained got = train_probes(&s.ops, s.dev, h, 0, PROBES);
    for (int k = 0; k < PROBES; k++) {
        NEAR("parameters",
             distance(got.param[k].data(), cpu.param[k].data(),
                      cpu.param[k].size()),
             NEAR_CPU);
        NEAR("margins",
             distance(got.margin[k].data(), cpu.margin[k].data(),
                      cpu.margin[k].size()),
             NEAR_CPU);
    }
    simt_seed(3);
    trained again = train_probes(&s.ops, s.dev, h, 0, PROBES);
    for (int k = 0; k < PROBES; k++)
        cr_expect(again.param[k] == got.param[k] &&
                      again.margin[k] == got.margin[k],
                  "probe %d: other bits", k);
    for (int k = 1; k < PROBES; k++) {
        trained alone = train_probes(&s.ops, s.dev, h, k, 1);
        cr_expect(alone.param[k] == got.param[k] &&
                      alone.margin[k] == got.margin[k],
                  "probe %d alone: other bits", k);
    }
    close_sim(&s);
}

Test(simt_adamw, linear) {
    check_shape({1, 70, 31, {}, 0, 32, 9, true});
    check_shape({1, 11, 1, {}, 0, 3, 1, false});
}
Test(simt_adamw, linear_tiles) {
    check_shape({2, 90, 131, {}, 0, 33, 34, true}); /* chunks and groups */
}
Test(simt_adamw, linear_nothing_to_evaluate) {
    check_shape({1, 40, 258, {}, 0, 8, 0, false});
}
Test(simt_adamw, linear_in_global_memory) {
    sim s = open_trainer();
    shape h = {1, 50, 300, {}, 0, 16, 5, true};
    trained cpu = train_probes(s.cpu_ops, s.cpu, h, 0, PROBES);
    trained inside = train_probes(&s.ops, s.dev, h, 0, PROBES);
    /* room for the tiles and not for the state */
    s.dev->shared_most = 2 * 34 * 256 * 4 + 28 + 3 * 16 * 4 + 3 * 305 * 4 - 1;
    trained got = train_probes(&s.ops, s.dev, h, 0, PROBES);
    for (int k = 0; k < PROBES; k++) {
        NEAR("parameters",
             distance(got.param[k].data(), cpu.param[k].data(),
                      cpu.param[k].size()),
             NEAR_CPU);
        cr_expect(got.param[k] == inside.param[k], "other bits outside");
    }
    close_sim(&s);
}

Test(simt_adamw, one_hidden_layer) {
    check_shape({1, 70, 31, {5}, 1, 32, 64, true});
    check_shape({1, 11, 1, {1}, 1, 3, 1, false});
}
Test(simt_adamw, hidden_layers) {
    check_shape({2, 61, 40, {67, 6, 3}, 3, 13, 14, true});
}
Test(simt_adamw, hidden_ranges_and_groups) {
    check_shape({1, 110, 530, {4, 2}, 2, 35, 37, false});
}

/* ------------------------------------------------------------------- errors */

Test(simt_adamw, interrupted) {
    sim s = open_trainer();
    for (int32_t n_hidden = 0; n_hidden < 2; n_hidden++) {
        std::vector<float> x = numbers(1, 8 * 16), param(17 * 64 + 65);
        std::vector<int32_t> rows = {0, 1, 2, 3};
        std::vector<int8_t> y = {0, 1, 0, 1, 0, 1, 0, 1};
        const double rate[] = {1, 1};
        ks_adamw_run run = {};
        run.n_rows = 4, run.n_batches = 2, run.epochs = 2;
        run.rows = to_device(&s, rows), run.y = to_device(&s, y);
        run.lr = 1e-3, run.param = to_device(&s, param);
        ks_adamw_job job = {};
        job.x = to_device(&s, x);
        job.n = 8, job.stride = 16, job.layers = 1;
        job.n_hidden = n_hidden, job.hidden[0] = 64;
        job.batch = 2, job.epochs = 2, job.beta1 = 0.9, job.beta2 = 0.999;
        job.rate = rate, job.n_runs = 1, job.runs = &run;
        ks_err err = {};
        ks_interrupted = 1;
        cr_expect(
            eq(int, ks__cuda_adamw(s.dev, &job, &err), (int)KS_INTERRUPTED));
        ks_interrupted = 0;
        cr_expect(eq(int, ks__cuda_adamw(s.dev, &job, &err), (int)KS_OK));
        ks__cuda_give(s.dev, (void *)run.rows);
        ks__cuda_give(s.dev, (void *)run.y);
        ks__cuda_give(s.dev, run.param);
        ks__cuda_give(s.dev, (void *)job.x);
    }
    close_sim(&s);
}

Test(simt_adamw, bad_jobs_are_refused) {
    sim s = open_trainer();
    ks_adamw_job good = {}, job;
    good.stride = 16, good.layers = 1, good.batch = 1, good.n_runs = 1;
    good.n_hidden = 1, good.hidden[0] = 64;
    ks_err err = {};
#define REFUSED(change)                                                        \
    job = good;                                                                \
    change;                                                                    \
    cr_expect(eq(int, ks__cuda_adamw(s.dev, &job, &err), (int)KS_INTERNAL));
    REFUSED(job.stride = 0)
    REFUSED(job.stride = 17)
    REFUSED(job.layers = 0)
    REFUSED(job.layers = INT32_MAX / 16 + 1)
    REFUSED(job.batch = 0)
    REFUSED(job.batch = KS_ADAMW_MOST_BATCH + 1)
    REFUSED(job.n_runs = 0)
    REFUSED(job.n_hidden = KS_ADAMW_MOST_HIDDEN + 1)
    REFUSED(job.hidden[0] = 0)
    REFUSED(job.hidden[0] = 65)
    s.dev->memory = 1000, s.dev->limited = true;
    cr_expect(eq(int, ks__cuda_adamw(s.dev, &good, &err), (int)KS_NOMEM));
    cr_expect(strstr(err.text, "moments") != NULL, "%s", err.text);
    close_sim(&s);
}
