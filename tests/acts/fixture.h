/* fixture.h - a small activation file whose every value can be told from its
 * place, for the tests of the store. */
#ifndef KS_TESTS_ACTS_FIXTURE_H
#define KS_TESTS_ACTS_FIXTURE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "half.h"
#include "acts.h"
#include "shell.h"

enum { LAYERS = 3, WIDTH = 7, CHAINS = 9, MAX_STEPS = 64 };

typedef struct fixture {
    char dir[64], path[128];
    ks_acts_spec spec;
    ks_step_row steps[MAX_STEPS];
    ks_chain_row chains[CHAINS];
    char ids[CHAINS][16], problems[CHAINS][16];
    int64_t chain_end[CHAINS + 1]; /* steps before chain i */
    int64_t token_row[MAX_STEPS + 1];
} fixture;

static inline size_t value_size(const fixture *f) {
    return f->spec.dtype == KS_F32 ? 4 : 2;
}

/* Row bytes from its place: small exact numbers in every storage type. */
static inline void fill_row(const fixture *f, ks_stream s, ks_position p,
                            int32_t layer, int64_t row, void *to) {
    for (int i = 0; i < WIDTH; i++) {
        int v = (int)((s * 131 + p * 31 + layer * 17 + row * 7 + i) % 64) + 1;
        float x = (float)v;
        uint32_t bits;
        memcpy(&bits, &x, 4);
        bool nan = p != KS_TOKENS && !f->spec.steps[row].valid;
        if (nan) bits = 0x7fc00000;
        uint16_t bf16 = (uint16_t)(bits >> 16);
        uint16_t half = ks_f32_to_f16(nan ? NAN : x);
        if (f->spec.dtype == KS_F32)
            memcpy((char *)to + 4 * i, &bits, 4);
        else if (f->spec.dtype == KS_BF16)
            memcpy((char *)to + 2 * i, &bf16, 2);
        else
            memcpy((char *)to + 2 * i, &half, 2);
    }
}

static inline float expected(ks_stream s, ks_position p, int32_t layer,
                             int64_t row, int i) {
    return (float)((s * 131 + p * 31 + layer * 17 + row * 7 + i) % 64 + 1);
}

static inline void fixture_make(fixture *f, ks_type dtype, uint32_t streams,
                                uint32_t positions) {
    *f = (fixture){0};
    strcpy(f->dir, "/tmp/keystep-acts-XXXXXX");
    if (!mkdtemp(f->dir)) abort();
    snprintf(f->path, sizeof f->path, "%s/x.h5", f->dir);
    int64_t n = 0;
    for (int c = 0; c < CHAINS; c++) {
        snprintf(f->ids[c], 16, "p%d/%d", c / 2, c % 2);
        snprintf(f->problems[c], 16, "p%d", c / 2);
        f->chains[c].id = f->ids[c];
        f->chains[c].problem = f->problems[c];
        memset(f->chains[c].text_sha256, "0123456789abcdef"[c], 64);
        f->chains[c].text_sha256[64] = 0;
        for (int i = 0; i < 2 + c % 5; i++, n++) {
            bool empty = n == 4 || n == 11;
            int tokens = empty ? 0 : 1 + (int)(n * 3 % 5);
            f->steps[n] =
                (ks_step_row){c,      i,           10 * i, 10 * i + tokens,
                              20 * i, 20 * i + 20, !empty, (int8_t)(n % 3 - 1)};
            f->token_row[n + 1] = f->token_row[n] + tokens;
        }
        f->chain_end[c + 1] = n;
    }
    f->spec = (ks_acts_spec){.streams = streams,
                             .positions = positions,
                             .n_layers = LAYERS,
                             .d = WIDTH,
                             .dtype = dtype,
                             .n_steps = n,
                             .n_chains = CHAINS,
                             .steps = f->steps,
                             .chains = f->chains,
                             .has_labels = true,
                             .random_weights = -1,
                             .model_name = "tiny",
                             .model_sha256 = "ab12",
                             .tokenizer_hash = "cd34",
                             .isa = "avx2",
                             .backend = "cpu",
                             .config = "{\"a\":1}"};
}

static inline void fixture_free(fixture *f) {
    static const char *const tails[] = {"",      ".part",         ".journal",
                                        ".lock", ".journal.part", ".ref"};
    for (size_t i = 0; i < KS_COUNT(tails); i++) {
        char name[160];
        snprintf(name, sizeof name, "%s%s", f->path, tails[i]);
        unlink(name);
    }
    rmdir(f->dir);
}

/* Queues and commits the rows of chains [from, to), layer by layer as an
 * engine does. */
static inline ks_status write_chains(const fixture *f, ks_acts *acts, int from,
                                     int to, ks_err *err) {
    ks_status st = KS_OK;
    char rows[512 * WIDTH * 4];
    for (int32_t l = 0; l <= LAYERS; l++)
        for (ks_stream s = 0; s < KS_N_STREAMS; s++)
            for (ks_position p = 0; p < KS_N_POSITIONS; p++) {
                if (!(f->spec.streams & 1u << s) ||
                    !(f->spec.positions & 1u << p) ||
                    (s != KS_RESID && l == LAYERS))
                    continue;
                int64_t begin = f->chain_end[from], end = f->chain_end[to];
                if (p == KS_TOKENS)
                    begin = f->token_row[begin], end = f->token_row[end];
                for (int64_t r = begin; r < end; r++)
                    fill_row(f, s, p, l, r,
                             rows +
                                 (size_t)(r - begin) * WIDTH * value_size(f));
                KS_TRY(ks_acts_write(acts, s, p, l, begin, end - begin, rows,
                                     err));
            }
    KS_TRY(ks_acts_commit(acts, f->chain_end[from], f->chain_end[to], err));
done:
    return st;
}

/* Chains whose steps are all done. */
static inline int chains_done(const fixture *f, int64_t steps) {
    int c = 0;
    while (f->chain_end[c] < steps) c++;
    return c;
}

/* The whole of it, `group` chains a commit. */
static inline ks_status write_file(const fixture *f, const char *path,
                                   ks_acts_options options, int group,
                                   ks_err *err) {
    ks_status st = KS_OK;
    ks_acts *acts = NULL;
    int64_t done = 0;
    KS_TRY(ks_acts_create(&acts, path, &f->spec, &options, &done, err));
    for (int c = chains_done(f, done); acts && c < CHAINS; c += group)
        KS_TRY(write_chains(f, acts, c, KS_MIN(c + group, CHAINS), err));
    if (acts) KS_TRY(ks_acts_finish(&acts, err));
done:
    ks_acts_abandon(&acts);
    return st;
}

enum { ALL_STREAMS = 7, ALL_POSITIONS = 63 };

#endif
