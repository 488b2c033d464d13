/* What must not change a sequence's bits: what shares its batch, how the batch
 * is cut into row blocks, threads, and whether its prefix lies in the KV store
 * or in the batch. */
#include "golden.h"

enum { MANY = 64, LONGEST = 50 };

/* Deterministic lengths and ids of a crowd; sequence `mine` is the golden
 * ids. */
typedef struct crowd {
    int32_t offsets[MANY + 1];
    int32_t *ids;
} crowd;

static crowd make_crowd(const golden *g, int32_t mine, int32_t n_vocab) {
    crowd c = {.offsets = {0}};
    c.ids = malloc((size_t)(MANY * LONGEST + g->n) * sizeof *c.ids);
    for (int32_t s = 0; s < MANY; s++) {
        int32_t n = s == mine ? g->n : 1 + s * 37 % LONGEST;
        for (int32_t t = 0; t < n; t++)
            c.ids[c.offsets[s] + t] =
                s == mine ? g->ids[t] : (s * 31 + t * 17) % n_vocab;
        c.offsets[s + 1] = c.offsets[s] + n;
    }
    return c;
}

static void expect_same_rows(const char *what, const float *alone,
                             const float *crowded, const golden *g,
                             int32_t begin, int32_t n_tok) {
    for (int32_t l = 0; l < g->n_states; l++) {
        size_t n = (size_t)g->n * (size_t)g->d;
        const float *a = alone + (size_t)l * n;
        const float *b = crowded + ((size_t)l * (size_t)n_tok + (size_t)begin) *
                                       (size_t)g->d;
        cr_expect(memcmp(a, b, n * sizeof(float)) == 0,
                  "%s, layer %d: bits differ", what, l);
    }
}

Test(invariance, alone_and_among_64) {
    for (size_t i = 0; i < KS_COUNT(golden_cases); i++) {
        char path[512];
        snprintf(path, sizeof path, DATA "%s", golden_cases[i]);
        ks_engine *engine = open_case(path, 1);
        golden g = golden_open(golden_cases[i], engine);
        float *alone = run_alone(engine, g.ids, g.n);
        ks_engine_close(&engine);
        for (int threads = 1; threads <= 3; threads++) {
            int32_t mine = (int32_t[]){0, 21, 63, 40}[threads];
            engine = open_case(path, threads);
            crowd c = make_crowd(&g, mine, engine->model->config.n_vocab);
            float *got = run_batch(engine, MANY, c.offsets, c.ids);
            expect_same_rows(golden_cases[i], alone, got, &g, c.offsets[mine],
                             c.offsets[MANY]);
            free(got);
            free(c.ids);
            ks_engine_close(&engine);
        }
        free(alone);
        golden_close(&g);
    }
}

/* Every prefix length around page and block edges, then one token at a time:
 * the states of the tokens computed last equal those of one whole pass. */
static void expect_decode_equals_prefill(const char *name, int32_t prefix) {
    char path[512];
    snprintf(path, sizeof path, DATA "%s", name);
    ks_engine *engine = open_case(path, 0);
    golden g = golden_open(name, engine);
    int32_t n_pages = (g.n + KS_PAGE - 1) / KS_PAGE;
    must(
        ks_engine_reserve(engine, &(ks_run_limits){.max_pages = n_pages}, err));
    float *whole = run_alone(engine, g.ids, g.n);
    ks_kv *kv = NULL;
    must(ks_kv_open(&kv, engine->dev, engine->ops, &engine->model->config,
                    n_pages + 3, err));
    (void)ks_kv_page_take(kv); /* so that page ids are not their places */
    int32_t pages[64];
    for (int32_t p = n_pages - 1; p >= 0; p--) pages[p] = ks_kv_page_take(kv);

    states out = {.layer_floats = g.d};
    out.at = malloc((size_t)g.n_states * (size_t)g.d * sizeof(float));
    for (int32_t past = 0; past < g.n;) {
        int32_t n = past == 0 ? prefix : 1;
        ks_segment last = {0, n - 1, n};
        ks_capture capture = {.streams = 1u << KS_RESID,
                              .positions = 1u << KS_TOKENS,
                              .dtype = KS_F32,
                              .n_segments = 1,
                              .segments = &last,
                              .emit = keep_states,
                              .user = &out};
        ks_seqs seqs = {1, n, (int32_t[]){0, n}, &past, pages, n_pages, NULL};
        must(ks_forward(engine->run, &seqs, g.ids + past, kv, &capture, NULL,
                        NULL, err));
        past += n;
        for (int32_t l = 0; l < g.n_states; l++)
            cr_expect(
                memcmp(out.at + (size_t)l * (size_t)g.d,
                       whole + ((size_t)l * (size_t)g.n + (size_t)past - 1) *
                                   (size_t)g.d,
                       (size_t)g.d * sizeof(float)) == 0,
                "%s, prefix %d, token %d, layer %d: bits differ", name, prefix,
                past - 1, l);
    }
    free(out.at);
    free(whole);
    ks_kv_close(&kv);
    golden_close(&g);
    ks_engine_close(&engine);
}

Test(invariance, decode_equals_prefill) {
    static const int32_t prefixes[] = {1, 15, 16, 17, 40, 63, 64, 65};
    for (size_t i = 0; i < KS_COUNT(golden_cases); i++)
        expect_decode_equals_prefill(golden_cases[i], prefixes[i]);
}

/* More tokens than a row block, so that sequences are cut between blocks. */
Test(invariance, row_blocks) {
    enum { COPIES = 23 };
    ks_engine *engine = open_case(DATA "qwen2", 0);
    golden g = golden_open("qwen2", engine);
    float *alone = run_alone(engine, g.ids, g.n);
    int32_t offsets[COPIES + 1] = {0};
    int32_t *ids = malloc((size_t)(COPIES * g.n) * sizeof *ids);
    for (int32_t s = 0; s < COPIES; s++) {
        memcpy(ids + s * g.n, g.ids, (size_t)g.n * sizeof *ids);
        offsets[s + 1] = offsets[s] + g.n;
    }
    float *got = run_batch(engine, COPIES, offsets, ids);
    for (int32_t s = 0; s < COPIES; s++)
        expect_same_rows("row blocks", alone, got, &g, offsets[s],
                         offsets[COPIES]);
    free(ids);
    free(got);
    free(alone);
    golden_close(&g);
    ks_engine_close(&engine);
}

Test(invariance, forked_page) {
    ks_engine *engine = open_case(DATA "qwen3", 0);
    golden g = golden_open("qwen3", engine);
    must(ks_engine_reserve(engine, &(ks_run_limits){.max_pages = 2}, err));
    float *whole = run_alone(engine, g.ids, g.n);
    ks_kv *kv = NULL;
    must(ks_kv_open(&kv, engine->dev, engine->ops, &engine->model->config, 8,
                    err));
    int32_t a[2] = {ks_kv_page_take(kv), ks_kv_page_take(kv)};
    int32_t n = 20, past = 0;
    ks_seqs seqs = {1, n, (int32_t[]){0, n}, &past, a, 2, NULL};
    must(ks_forward(engine->run, &seqs, g.ids, kv, NULL, NULL, NULL, err));
    /* b shares the first page and forks inside the second. */
    int32_t b[2] = {a[0], ks_kv_page_take(kv)};
    ks_kv_page_share(kv, a[0]);
    must(ks_kv_page_copy(kv, b[1], a[1], n - KS_PAGE, err));
    ks_kv_page_drop(kv, a[0]);
    ks_kv_page_drop(kv, a[1]);
    cr_assert_eq(ks_kv_free_pages(kv), 6);
    states out = {.layer_floats = g.d};
    out.at = malloc((size_t)g.n_states * (size_t)g.d * sizeof(float));
    ks_segment last = {0, 0, 1};
    ks_capture capture = {1u << KS_RESID, 1u << KS_TOKENS, KS_F32, 1,
                          &last,          keep_states,     &out};
    past = n;
    ks_seqs next = {1, 1, (int32_t[]){0, 1}, &past, b, 2, NULL};
    must(ks_forward(engine->run, &next, g.ids + n, kv, &capture, NULL, NULL,
                    err));
    for (int32_t l = 0; l < g.n_states; l++)
        cr_expect(
            memcmp(out.at + (size_t)l * (size_t)g.d,
                   whole + ((size_t)l * (size_t)g.n + (size_t)n) * (size_t)g.d,
                   (size_t)g.d * sizeof(float)) == 0,
            "layer %d: bits differ", l);
    free(out.at);
    free(whole);
    ks_kv_close(&kv);
    golden_close(&g);
    ks_engine_close(&engine);
}
