/* The backward pass against torch's autograd on tiny models of every feature
 * (tests/golden/make_backward.py), and what must not change a bit of it. */
#include "apart.h"
#include "gradients.h"

static fixture open_fixture(const char *name, int threads, bool moved) {
    fixture f = fixture_open(name, &(ks_engine_options){.threads = threads});
    if (moved) move_apart(f.engine);
    fixture_place(&f);
    return f;
}

/* All targets of the fixture's own sequence, packed alone. */
static kept pull_within(fixture *f, const ks_backward_limits *limits,
                        bool of_log, const float *inputs) {
    ks_backward *b = NULL;
    ks_engine *e = f->engine;
    must(ks_backward_open(&b, e->dev, e->ops, &e->model->config,
                          ks_placed_weights(f->placed), limits, err));
    ks_seqs seqs = {
        .n_seq = 1, .n_tok = f->g.n, .offsets = (int32_t[]){0, f->g.n}};
    kept k = new_kept(f->engine, f->targets, f->n_targets);
    ks_gradients want = asked(&k, every_layer, of_log);
    must(ks_backward_forward(b, &seqs, f->g.ids, inputs, err));
    must(ks_backward_pull(b, &want, err));
    ks_backward_close(&b);
    return k;
}

static kept pull(fixture *f, int32_t max_rows, int32_t lanes, bool of_log,
                 const float *inputs) {
    ks_backward_limits limits = {
        .max_tokens = f->g.n, .max_rows = max_rows, .lanes = lanes};
    return pull_within(f, &limits, of_log, inputs);
}

/* -------------------------------------------------------------------- tests */

Test(backward, gradients_are_those_of_autograd) {
    for (size_t i = 0; i < KS_COUNT(gradient_cases); i++) {
        fixture f = open_fixture(gradient_cases[i], 0, false);
        kept p = pull(&f, 1000, 1, false, NULL);
        kept log = pull(&f, 1000, 1, true, NULL);
        expect_reference(gradient_cases[i], &f, &p, &log, 1e-4);
        free_kept(&p), free_kept(&log);
        close_fixture(&f);
    }
}

/* Memory that the host cannot touch: the same bits. */
Test(backward, backend_memory_apart) {
    for (size_t i = 0; i < KS_COUNT(gradient_cases); i++) {
        fixture f = open_fixture(gradient_cases[i], 1, false);
        fixture m = open_fixture(gradient_cases[i], 1, true);
        kept here = pull(&f, 60, 1, false, NULL);
        kept there = pull(&m, 60, 1, false, NULL);
        expect_same(&here, &there, gradient_cases[i]);
        free_kept(&here), free_kept(&there);
        close_fixture(&f), close_fixture(&m);
    }
}

/* Groups of targets, lanes and threads change no bit. */
Test(backward, bits_of_groups_lanes_and_threads) {
    for (size_t i = 0; i < KS_COUNT(gradient_cases); i++) {
        fixture f = open_fixture(gradient_cases[i], 1, false);
        fixture g = open_fixture(gradient_cases[i], 3, false);
        kept all = pull(&f, 1000, 1, false, NULL);
        kept one = pull(&f, 54, 1, false, NULL); /* the longest target's rows */
        kept lanes = pull(&g, 1000, 3, false, NULL);
        expect_same(&all, &one, "one target at a time");
        expect_same(&all, &lanes, "three threads");
        free_kept(&all), free_kept(&one), free_kept(&lanes);
        close_fixture(&f), close_fixture(&g);
    }
}

/* Inner values that the forward left behind are those of a replay, in memory
 * that the host cannot touch, too; room for more tokens changes nothing. */
Test(backward, kept_in_place_of_replays) {
    for (size_t i = 0; i < KS_COUNT(gradient_cases); i++) {
        for (int32_t lanes = 1; lanes <= 2; lanes++) {
            fixture f = open_fixture(gradient_cases[i], lanes, lanes == 1);
            ks_backward_limits limits = {.max_tokens = f.g.n + 7,
                                         .max_rows = 60,
                                         .lanes = lanes,
                                         .keep = true};
            kept replayed = pull(&f, 1000, lanes, false, NULL);
            kept all = pull_within(&f, &limits, false, NULL);
            expect_same(&replayed, &all, gradient_cases[i]);
            free_kept(&replayed), free_kept(&all);
            close_fixture(&f);
        }
    }
}

/* Rows enough for several lanes, and targets that tile a long sequence. */
Test(backward, many_rows_on_lanes) {
    enum { N = 240 };
    int32_t ids[N];
    ks_target targets[MOST_TARGETS];
    fixture f = open_fixture("olmo3", 2, false);
    ks_seqs seqs = {.n_seq = 1, .n_tok = N, .offsets = (int32_t[]){0, N}};
    kept k[2];
    for (int32_t i = 0; i < N; i++) ids[i] = 3 + i * 7 % 50;
    for (int32_t i = 0; i < MOST_TARGETS; i++)
        targets[i] = (ks_target){0, 1 + 29 * i, 1 + 29 * (i + 1), 0};
    for (int32_t lanes = 1; lanes <= 2; lanes++) {
        ks_backward *b = open_backward(f.engine, f.placed, N, 2000, lanes);
        k[lanes - 1] = new_kept(f.engine, targets, MOST_TARGETS);
        ks_gradients want = asked(&k[lanes - 1], every_layer, true);
        must(ks_backward_forward(b, &seqs, ids, NULL, err));
        must(ks_backward_pull(b, &want, err));
        ks_backward_close(&b);
    }
    expect_same(&k[0], &k[1], "two lanes");
    free_kept(&k[0]), free_kept(&k[1]);
    close_fixture(&f);
}

/* The sequence among others gives the bits that it gives alone, and the
 * residual stream's rows as inputs those of its ids. */
Test(backward, packed_among_others_and_from_inputs) {
    for (size_t i = 0; i < KS_COUNT(gradient_cases); i++) {
        fixture f = open_fixture(gradient_cases[i], 2, false);
        int32_t n = f.g.n, offsets[] = {0, 5, 5 + n, 5 + n + 41};
        int32_t *ids = calloc((size_t)offsets[3], sizeof *ids);
        memcpy(ids + 5, f.g.ids, (size_t)n * sizeof *ids);
        ks_target targets[MOST_TARGETS];
        targets[0] = (ks_target){2, 7, 30, 3};
        for (int32_t t = 0; t < f.n_targets; t++) {
            targets[t + 1] = f.targets[t];
            targets[t + 1].seq = 1;
        }
        kept alone = pull(&f, 1000, 1, false, NULL);
        kept among = new_kept(f.engine, targets, f.n_targets + 1);
        ks_gradients want = asked(&among, every_layer, false);
        ks_backward *b = open_backward(f.engine, f.placed, offsets[3], 1000, 1);
        ks_seqs seqs = {.n_seq = 3, .n_tok = offsets[3], .offsets = offsets};
        must(ks_backward_forward(b, &seqs, ids, NULL, err));
        must(ks_backward_pull(b, &want, err));
        ks_backward_close(&b);
        kept own = among; /* without the first target */
        own.targets++, own.n_targets--;
        memmove(own.rows, own.rows + 1, sizeof own.rows - sizeof *own.rows);
        expect_same(&alone, &own, gradient_cases[i]);
        /* layer 0 of the golden states is transformers' embedding output */
        kept from = pull(&f, 1000, 1, false, f.g.hidden);
        for (int32_t t = 0; t < f.n_targets; t++) {
            double e = relative_error(from.rows[t][0], alone.rows[t][0],
                                      floats_of(&alone, t));
            cr_expect(e <= 1e-5, "%s from inputs: %g", gradient_cases[i], e);
        }
        free_kept(&alone), free_kept(&among), free_kept(&from);
        free(ids);
        close_fixture(&f);
    }
}

/* Layers that are asked for, and only those; log-probabilities as scored. */
Test(backward, layers_and_log_probabilities) {
    fixture f = open_fixture("gemma3", 0, false);
    ks_backward *b = open_backward(f.engine, f.placed, f.g.n, 1000, 1);
    ks_seqs seqs = {
        .n_seq = 1, .n_tok = f.g.n, .offsets = (int32_t[]){0, f.g.n}};
    kept all = pull(&f, 1000, 1, false, NULL);
    must(ks_backward_forward(b, &seqs, f.g.ids, NULL, err));
    for (int32_t l = 0; l <= f.g.n_states; l++) {
        bool layers[8] = {0};
        layers[l] = true;
        kept k = new_kept(f.engine, f.targets, f.n_targets);
        ks_gradients want = asked(&k, l == f.g.n_states ? NULL : layers, false);
        must(ks_backward_pull(b, &want, err));
        cr_expect_eq(k.calls, f.n_targets);
        int32_t at = l == f.g.n_states ? 0 : l;
        for (int32_t t = 0; t < f.n_targets; t++)
            cr_expect(memcmp(k.rows[t][at], all.rows[t][at],
                             floats_of(&k, t) * sizeof(float)) == 0);
        free_kept(&k);
    }
    free_kept(&all);

    float got[MOST_TARGETS * 100], scored[100];
    kept k = new_kept(f.engine, f.targets, f.n_targets);
    ks_gradients want = asked(&k, NULL, true);
    want.logprobs = got;
    must(ks_backward_pull(b, &want, err));
    ks_run_limits limits = {.max_tokens = f.g.n};
    ks_view hidden;
    must(ks_engine_reserve(f.engine, &limits, err));
    must(ks_forward(f.engine->run, &seqs, f.g.ids, NULL, NULL, NULL, &hidden,
                    err));
    hidden.rows--;
    must(ks_run_score(f.engine->run, hidden, f.g.ids + 1, scored, err));
    const float *at = got;
    for (int32_t t = 0; t < f.n_targets; t++)
        for (int32_t i = f.targets[t].begin; i < f.targets[t].end; i++, at++)
            cr_expect(fabsf(*at - scored[i - 1]) <= 1e-5f, "token %d: %g, %g",
                      i, (double)*at, (double)scored[i - 1]);
    free_kept(&k);
    ks_backward_close(&b);
    close_fixture(&f);
}

/* What is asked for where nothing arrives is zero. */
Test(backward, tokens_ahead_of_a_window) {
    fixture f = open_fixture("mistral", 0, false); /* 3 layers, window 17 */
    ks_target target = {0, 95, 96, 30};
    ks_backward *b = open_backward(f.engine, f.placed, f.g.n, 100, 1);
    ks_seqs seqs = {
        .n_seq = 1, .n_tok = f.g.n, .offsets = (int32_t[]){0, f.g.n}};
    kept k = new_kept(f.engine, &target, 1);
    ks_gradients want = asked(&k, NULL, true);
    must(ks_backward_forward(b, &seqs, f.g.ids, NULL, err));
    must(ks_backward_pull(b, &want, err));
    for (int32_t t = 30; t < 95; t++) {
        double sum = 0;
        for (int32_t j = 0; j < f.g.d; j++)
            sum += fabs((double)k.rows[0][0][(t - 30) * f.g.d + j]);
        if (t < 94 - 3 * 16)
            cr_expect(sum == 0, "token %d", t);
        else
            cr_expect(sum > 0, "token %d", t);
    }
    free_kept(&k);
    ks_backward_close(&b);
    close_fixture(&f);
}

/* ----------------------------------------------------------------- refusals */

#define REFUSED(status, words, call)                                           \
    do {                                                                       \
        ks_err refused = {0};                                                  \
        _Pragma("GCC diagnostic push")                                         \
            _Pragma("GCC diagnostic ignored \"-Wshadow\"") ks_err *err =       \
                &refused;                                                      \
        _Pragma("GCC diagnostic pop")                                          \
            cr_expect_eq((call), status, "%s", refused.text);                  \
        cr_expect(strstr(refused.text, words), "%s", refused.text);            \
    } while (0)

Test(backward, what_is_refused) {
    fixture f = open_fixture("llama3", 0, false);
    ks_backward *b = open_backward(f.engine, f.placed, f.g.n, 20, 1);
    int32_t offsets[] = {0, f.g.n}, past[] = {1};
    ks_seqs seqs = {.n_seq = 1, .n_tok = f.g.n, .offsets = offsets};
    ks_target t = {0, 10, 15, 0};
    kept k = new_kept(f.engine, &t, 1);
    ks_gradients want = asked(&k, NULL, false);
    REFUSED(KS_USAGE, "forward first", ks_backward_pull(b, &want, err));
    seqs.past = past;
    REFUSED(KS_USAGE, "whole sequences",
            ks_backward_forward(b, &seqs, f.g.ids, NULL, err));
    seqs.past = NULL;
    seqs.hidden = (int32_t[]){1, 5};
    REFUSED(KS_UNSUPPORTED, "hidden tokens",
            ks_backward_forward(b, &seqs, f.g.ids, NULL, err));
    seqs.hidden = NULL;
    seqs.n_tok++;
    REFUSED(KS_LIMIT, "97 tokens",
            ks_backward_forward(b, &seqs, f.g.ids, NULL, err));
    REFUSED(KS_USAGE, "forward first", ks_backward_pull(b, &want, err));
    seqs.n_tok--;
    must(ks_backward_forward(b, &seqs, f.g.ids, NULL, err));
    static const struct {
        ks_target target;
        ks_status status;
        const char *words;
    } bad[] = {
        {{1, 10, 15, 0}, KS_USAGE, "sequence 1"},
        {{-1, 10, 15, 0}, KS_USAGE, "sequence -1"},
        {{0, 0, 15, 0}, KS_USAGE, "tokens 0 to 15"},
        {{0, 15, 15, 0}, KS_USAGE, "tokens 15 to 15"},
        {{0, 90, 97, 80}, KS_USAGE, "tokens 90 to 97"},
        {{0, 10, 15, 14}, KS_USAGE, "from token 14"},
        {{0, 10, 15, -1}, KS_USAGE, "from token -1"},
        {{0, 10, 22, 0}, KS_LIMIT, "21 rows, there is room for 20"},
    };
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        t = bad[i].target;
        REFUSED(bad[i].status, bad[i].words, ks_backward_pull(b, &want, err));
    }
    cr_expect_eq(k.calls, 0);
    t = (ks_target){0, 10, 15, 0};
    k.fail_at = 1;
    REFUSED(KS_IO, "full", ks_backward_pull(b, &want, err));
    want.n_targets = 0;
    must(ks_backward_pull(b, &want, err));
    cr_expect_eq(k.calls, 1);
    ks_backward_close(&b);
    cr_expect(!b);
    ks_backward_close(&b);

    ks_config *c = &f.engine->model->config;
    ks_backward_limits none = {.max_rows = 1};
    ks_backward_limits some = {.max_tokens = 1, .max_rows = 1};
    const ks_weights *w = ks_placed_weights(f.placed);
    REFUSED(
        KS_USAGE, "at least one token",
        ks_backward_open(&b, f.engine->dev, f.engine->ops, c, w, &none, err));
    c->n_experts = 4;
    REFUSED(
        KS_UNSUPPORTED, "4 experts",
        ks_backward_open(&b, f.engine->dev, f.engine->ops, c, w, &some, err));
    cr_expect(!b);
    c->n_experts = 0;
    close_fixture(&f);
}

/* A weight that is not finite is named by the forward; a gradient that
 * overflows by the way back. */
Test(backward, gradients_that_are_not_finite) {
    fixture f = open_fixture("olmo2", 0, false);
    ks_backward *b = open_backward(f.engine, f.placed, f.g.n, 100, 1);
    ks_seqs seqs = {
        .n_seq = 1, .n_tok = f.g.n, .offsets = (int32_t[]){0, f.g.n}};
    kept k = new_kept(f.engine, f.targets, 1);
    ks_gradients want = asked(&k, NULL, true);
    must(ks_backward_forward(b, &seqs, f.g.ids, NULL, err));
    f.engine->model->weights.layers[1].q_norm[3] = NAN;
    REFUSED(KS_NUMERIC, "target 0, layer 0", ks_backward_pull(b, &want, err));
    REFUSED(KS_NUMERIC, "resid layer 2",
            ks_backward_forward(b, &seqs, f.g.ids, NULL, err));
    cr_expect_eq(k.calls, 0);
    ks_backward_close(&b);
    close_fixture(&f);
}

/* Memory is what ks_backward_bytes said. */
Test(backward, bytes) {
    size_t taken[2];
    fixture f = open_fixture("gemma3", 1, true);
    for (int keep = 0; keep < 2; keep++) {
        ks_backward_limits limits = {
            .max_tokens = 50, .max_rows = 70, .lanes = 1, .keep = keep};
        ks_engine *e = f.engine;
        ks_backward *b = NULL;
        size_t before = 0, after = 0;
        for (size_t i = 0; i < apart.n_live; i++) before += apart.live[i].size;
        must(ks_backward_open(&b, e->dev, e->ops, &e->model->config,
                              ks_placed_weights(f.placed), &limits, err));
        for (size_t i = 0; i < apart.n_live; i++) after += apart.live[i].size;
        taken[keep] = after - before;
        cr_expect_eq(taken[keep],
                     ks_backward_bytes(e->ops, &e->model->config, &limits));
        ks_backward_close(&b);
    }
    cr_expect(taken[1] > taken[0]);
    close_fixture(&f);
}
