/* test_share.c - tokens that chains have in common are computed once, and no
 * byte of the file tells. */
#include <math.h>

#include "capture_share.h"
#include "fixture.h"

TestSuite(share, .init = begin, .fini = end, .timeout = 300);

/* Chain c of a problem; a long prompt of its own, one for all in front. */
static void add_chain(ks_str *all, int problem, int sample, bool prompt) {
    ks_str text = {0}, steps = {0};
    for (int i = 0; i < 1 + (problem + sample) % 3; i++) {
        size_t from = text.length;
        ks_str_printf(&text, NULL, "Ben has %d more plums than Cleo has.",
                      7 * i + sample);
        ks_str_printf(&steps, NULL, "%s{\"begin\":%zu,\"end\":%zu}",
                      i ? "," : "", from, text.length);
        ks_str_add(&text, " ", 1, NULL);
    }
    ks_str_printf(all, NULL,
                  "{\"id\":\"p%d/%d\",\"problem\":\"p%d\",\"model\":\"m\","
                  "\"prompt\":\"",
                  problem, sample, problem);
    for (int i = 0; prompt && i < 12; i++)
        ks_str_printf(all, NULL, "Ada counts %d plums in box number %d. ",
                      i < 4 ? i : problem + i, i);
    ks_str_printf(all, NULL,
                  "\",\"text\":\"%s\",\"rest\":\"\",\"steps\":[%s]}\n",
                  text.data, steps.data);
    ks_str_free(&text);
    ks_str_free(&steps);
}

/* Problems of some samples each; a chain without a prompt among them, whose
 * first step starts at token 0. */
static void write_samples(int problems, int samples) {
    ks_str all = {0};
    for (int p = 0; p < problems; p++)
        for (int s = 0; s < samples; s++) add_chain(&all, p, s, true);
    add_chain(&all, problems, 0, false);
    add_chain(&all, problems, 1, true);
    write_text("chains.jsonl", all.data);
    ks_str_free(&all);
}

static ks_capture_job *open_with(const ks_capture_options *o) {
    ks_err err = {0};
    ks_capture_job *job;
    cr_assert_eq(ks_capture_open(&job, o, &err), KS_OK, "%s", err.text);
    return job;
}

/* Captures and returns how many tokens were shared. */
static int64_t run(const ks_capture_options *o) {
    ks_err err = {0};
    ks_capture_job *job = open_with(o);
    int64_t shared = job->cost.shared;
    cr_assert_eq(ks_capture_run(job, NULL, NULL, NULL, &err), KS_OK, "%s",
                 err.text);
    ks_capture_close(&job);
    return shared;
}

Test(share, no_byte_tells_what_was_computed_once) {
    write_samples(5, 4);
    ks_capture_options alone = options_for("alone.h5");
    alone.engine.batch_tokens = 1; /* each chain by itself */
    cr_assert_eq(run(&alone), 0);
    /* batches that end inside a problem, with it, or hold several */
    static const int32_t sizes[] = {800, 1100, 2000, 100000};
    for (size_t i = 0; i < KS_COUNT(sizes); i++)
        for (int threads = 1; threads <= 2; threads++) {
            ks_capture_options o = options_for("x.h5");
            o.force = true;
            o.engine.batch_tokens = sizes[i];
            o.engine.threads = threads;
            cr_assert_gt(run(&o), 0);
            cr_assert(same_files(alone.out, o.out), "%d tokens", sizes[i]);
        }
    ks_capture_options o = options_for("x.h5");
    o.force = true;
    o.engine.batch_tokens = 1100;
    o.engine.backend = "cpu,cpu"; /* each keeps a store of its own */
    cr_assert_gt(run(&o), 0);
    cr_assert(same_files(alone.out, o.out));
}

Test(share, nothing_captured_is_among_the_common_tokens) {
    write_samples(2, 2);
    ks_capture_options o = options_for("x.h5");
    for (int before = 0; before <= 1; before++) {
        o.positions = 1u << KS_MEAN | (before ? 1u << KS_BEFORE : 0);
        ks_capture_job *job = open_with(&o);
        int32_t tightest = INT32_MAX;
        for (size_t s = 0; s < job->n_seqs; s++) {
            const ks_capture_seq *seq = &job->seqs[s];
            int32_t first = job->steps[seq->step].token_begin - before;
            cr_assert_leq(seq->common, KS_MAX(first, 0));
            cr_assert_lt(seq->common, seq->n_tokens);
            if (s % 2 && s < 4)
                tightest = KS_MIN(tightest, first - seq->common);
        }
        cr_expect_eq(tightest, 0, "samples of one problem share all they can");
        ks_capture_close(&job);
    }
}

/* Tokens saved by the best cut of [0, n): every cut tried. */
static int32_t best_of_all(const ks_capture_seq *seqs, int n) {
    int32_t best = 0;
    for (uint32_t cuts = 0; cuts < 1u << (n - 1); cuts++) {
        int32_t saved = 0;
        for (int first = 0, end; first < n; first = end) {
            int32_t common = INT32_MAX;
            for (end = first + 1; end < n && !(cuts >> (end - 1) & 1); end++)
                common = KS_MIN(common, seqs[end].common);
            if (end - first > 1 && common >= 16)
                saved += (end - first - 1) * common;
        }
        best = KS_MAX(best, saved);
    }
    return best;
}

Test(share, groups_save_as_much_as_any_cut_could) {
    uint32_t state = 7;
    for (int round = 0; round < 300; round++) {
        enum { MOST = 9 };
        ks_capture_seq seqs[MOST + 1] = {{0}};
        ks_capture_job job = {.seqs = seqs};
        ks__share_group groups[MOST];
        int32_t work[2 * (MOST + 1)], n = 1 + round % MOST;
        for (int s = 0; s <= n; s++) {
            state = state * 1664525u + 1013904223u;
            seqs[s].common = (int32_t)(state >> 24) % (round % 2 ? 60 : 25);
        }
        /* the batch begins at 1: what its first has in common with the one
         * before is not its own */
        int32_t count = ks__share_groups(&job, 1, (size_t)n + 1, groups, work);
        int32_t saved = 0, at = 0;
        for (int32_t g = 0; g < count; g++) {
            cr_assert_eq(groups[g].first, at);
            at += groups[g].n;
            saved += (groups[g].n - 1) * groups[g].n_tokens;
            for (int32_t s = groups[g].first + 1; s < at; s++)
                cr_assert_leq(groups[g].n_tokens, seqs[s + 1].common);
            if (groups[g].n == 1) cr_assert_eq(groups[g].n_tokens, 0);
        }
        cr_assert_eq(at, n);
        cr_assert_eq(saved, best_of_all(seqs + 1, n), "round %d", round);
    }
}

/* A fault in a prompt that three chains share is the first one's. */
Test(share, a_fault_in_common_tokens_is_named) {
    write_samples(1, 3);
    ks_capture_options o = options_for("x.h5");
    o.streams = 1u << KS_RESID;
    ks_err err = {0};
    ks_capture_job *job = open_with(&o);
    cr_assert_gt(job->cost.shared, 0);
    float *norm = job->engine->model->weights.layers[1].attn_norm;
    for (int64_t j = 0; j < job->spec.d; j++) norm[j] = NAN;
    cr_assert_eq(ks_capture_run(job, NULL, NULL, NULL, &err), KS_NUMERIC);
    cr_assert(strstr(err.text, "chain 'p0/0', resid layer 2"), "%s", err.text);
    cr_assert(strstr(err.text, "token 0"), "%s", err.text);
    ks_capture_close(&job);
}

Test(share, its_memory_is_in_the_plan) {
    write_samples(5, 4);
    ks_capture_options o = options_for("x.h5");
    ks_capture_job *job = open_with(&o);
    uint64_t whole = job->cost.run_bytes;
    cr_assert_gt(job->share_pages, 0);
    ks_capture_close(&job);
    o.engine.memory = whole - 1;
    job = open_with(&o);
    cr_expect_leq(job->cost.run_bytes, whole - 1);
    ks_err err = {0};
    cr_expect_eq(ks_capture_run(job, NULL, NULL, NULL, &err), KS_OK, "%s",
                 err.text);
    ks_capture_close(&job);
}
