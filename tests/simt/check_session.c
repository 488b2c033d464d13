/* Sessions on the simulated device: samples, scores and shares in one batch,
 * shared pages and copies of them, against the CPU and against themselves one
 * at a time. */
#include <math.h>

#include "pair.h"
#include "session.h"

enum { ASKED = 7, PROMPT = 41, FROM = 9, NEW = 6, SET = 5 };

typedef struct crowd {
    int32_t prompt[ASKED][PROMPT];
    ks_request requests[ASKED];
    int32_t ids[ASKED][NEW], n[ASKED], set[SET];
    float logs[ASKED][PROMPT];
} crowd;

/* Three samples of one prompt, and prompts that leave it within a page: scored
 * twice, asked for shares twice, the last time with a set for its last id. */
static void fill(crowd *c, int32_t n_vocab) {
    static const ks_ask asks[ASKED] = {
        KS_ASK_SAMPLE, KS_ASK_SAMPLE, KS_ASK_SAMPLE, KS_ASK_SCORE,
        KS_ASK_SCORE,  KS_ASK_SHARE,  KS_ASK_SHARE};
    memset(c, 0, sizeof *c);
    for (int i = 0; i < ASKED; i++) {
        fill_ids(c->prompt[i], PROMPT, n_vocab);
        if (i > 2) /* parts from the others at token 30 - i */
            for (int t = 30 - i; t < PROMPT; t++)
                c->prompt[i][t] = (c->prompt[i][t] + i) % n_vocab;
        c->requests[i] = (ks_request){.prompt = c->prompt[i],
                                      .n_prompt = PROMPT,
                                      .stream = 77u + (uint64_t)i,
                                      .group = i < 3 ? 0 : i,
                                      .tag = (size_t)i,
                                      .ask = asks[i],
                                      .from = FROM};
    }
    for (int k = 0; k < SET; k++)
        c->set[k] = (c->prompt[6][PROMPT - 1] + 3 * k) % n_vocab;
    c->requests[6].last_ids = c->set;
    c->requests[6].n_last_ids = SET;
}

static ks_status keep(void *user, const ks_request *request,
                      const ks_answer *answer, ks_err *err) {
    crowd *c = user;
    size_t i = request->tag;
    (void)err;
    c->n[i] = answer->n;
    if (answer->ids)
        memcpy(c->ids[i], answer->ids, (size_t)answer->n * sizeof(int32_t));
    else
        memcpy(c->logs[i], answer->logs, (size_t)answer->n * sizeof(float));
    return KS_OK;
}

static void ask(ks_engine *engine, int32_t most_active, size_t pages, crowd *c,
                ks_generate_stats *stats) {
    ks_session *session = NULL;
    ks_generate_options options = {
        .temperature = 0.8F,
        .top_p = 0.9F,
        .max_new = NEW,
        .seed = 3,
        .most_active = most_active,
        .memory = pages * ks_kv_page_bytes(&engine->model->config)};
    fill(c, engine->model->config.n_vocab);
    must(ks_session_open(&session, engine, &options, PROMPT + NEW, true, err));
    for (int i = 0; i < ASKED; i++)
        must(ks_session_add(session, &c->requests[i], err));
    must(ks_session_run(session, keep, c, NULL, err));
    *stats = *ks_session_stats(session);
    ks_session_close(&session);
}

static void expect_close(const pair *p, const crowd *want, const crowd *got) {
    for (int i = 0; i < ASKED; i++) {
        cr_assert_eq(got->n[i], want->n[i]);
        if (want->requests[i].ask == KS_ASK_SAMPLE) {
            for (int t = 0; t < want->n[i]; t++)
                cr_expect_eq(want->ids[i][t], got->ids[i][t],
                             "%s: sample %d, token %d", p->name, i, t);
            continue;
        }
        for (int t = 0; t < want->n[i]; t++) {
            float a = want->logs[i][t], b = got->logs[i][t];
            bool both = isinf(a) && isinf(b);
            cr_expect(both || fabsf(a - b) <= 1e-4F * (1 + fabsf(a)),
                      "%s: request %d, token %d: %g, expected %g", p->name, i,
                      t, (double)b, (double)a);
        }
    }
}

/* On logits that differ in the sixth digit the same draws and scores. */
Test(simt_session, answers_as_the_cpu) {
    static crowd want, got;
    ks_generate_stats stats;
    pair p = open_pair(&variants[QWEN3], "f32");
    ask(p.cpu, 0, 64, &want, &stats);
    ask(p.device, 0, 64, &got, &stats);
    cr_expect_gt(stats.shared, 0);
    expect_close(&p, &want, &got);
    close_pair(&p);
}

/* To the bit, whoever shares the batch and however small the store. */
Test(simt_session, bits_do_not_depend_on_the_batch) {
    static crowd all, one;
    ks_generate_stats stats;
    pair p = open_pair(&variants[QWEN3], "bf16");
    ask(p.device, 0, 64, &all, &stats);
    for (int round = 0; round < 2; round++) {
        ask(p.device, round ? 1 : 3, round ? 64 : 5, &one, &stats);
        cr_expect_eq(memcmp(all.ids, one.ids, sizeof all.ids), 0);
        cr_expect_eq(memcmp(all.logs, one.logs, sizeof all.logs), 0);
    }
    close_pair(&p);
}
