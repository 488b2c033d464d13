/* fixture.h - a small activation file with labels and chains in which one
 * layer of one position tells the label, for the tests of the probes. */
#ifndef KS_TESTS_PROBES_FIXTURE_H
#define KS_TESTS_PROBES_FIXTURE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "acts.h"
#include "philox.h"

enum {
    LAYERS = 3,
    WIDTH = 6,
    PROBLEMS = 60,
    CHAINS = 80,
    STEPS = 6,
    ROWS = CHAINS * STEPS,
    TELLING_LAYER = 2
};

typedef struct fixture {
    char dir[64], acts[96], other[96], labels[96], chains[96], out[96];
    char ids[CHAINS][16], problems[CHAINS][16], text[CHAINS][256];
    ks_chain_row rows[CHAINS];
    ks_step_row steps[ROWS];
    int8_t y[ROWS]; /* -1: null */
    int8_t hops[ROWS];
    int64_t spoiled; /* row + 1 that holds an infinity; 0: none */
    float far;       /* what feature 3 lies around */
} fixture;

static inline float draw(uint64_t stream, uint64_t place) {
    uint64_t key[2] = {7, stream};
    uint32_t word[4];
    ks_philox(key, place, word);
    return ks_philox_unit(word[0]);
}

/* Noise of unit variance. */
static inline float noise(uint64_t stream, uint64_t place) {
    return 3.4641f * (draw(stream, place) - 0.5f);
}

/* What layer and position hold of a step. */
static inline void fill(const fixture *f, ks_position p, int32_t layer,
                        int64_t row, float *x) {
    for (int j = 0; j < WIDTH; j++)
        x[j] = noise((uint64_t)(10 + p),
                     (uint64_t)((layer * ROWS + row) * WIDTH + j));
    if (p == KS_MEAN && layer == TELLING_LAYER)
        x[1] += f->y[row] == 1 ? 2.5f : -2.5f;
    x[3] += f->far;
}

/* Chain c's steps, each 20 bytes; the word tells the label, "so" does not. */
static inline void describe(fixture *f) {
    for (int c = 0; c < CHAINS; c++) {
        snprintf(f->ids[c], 16, "p%d/%d", c % PROBLEMS, c / PROBLEMS);
        snprintf(f->problems[c], 16, "p%d", c % PROBLEMS);
        for (int i = 0; i < STEPS; i++) {
            int row = c * STEPS + i;
            bool one = draw(1, (uint64_t)row) < 0.4f;
            f->y[row] = i == STEPS - 1 ? -1 : one;
            f->hops[row] = (int8_t)(1 + (draw(2, (uint64_t)row) < 0.5f));
            char step[64];
            snprintf(step, sizeof step, "%-5s so %4d + 1=2.",
                     one ? "Alpha" : "beta",
                     (int)(1000 + 8999 * draw(3, (uint64_t)row)));
            memcpy(f->text[c] + 20 * i, step, 20);
            f->steps[row] = (ks_step_row){.chain = c,
                                          .index = i,
                                          .token_begin = 4 * i,
                                          .token_end = 4 * i + 4,
                                          .byte_begin = 20 * i,
                                          .byte_end = 20 * i + 20,
                                          .valid = row != 1,
                                          .label = -1};
        }
        f->rows[c].id = f->ids[c];
        f->rows[c].problem = f->problems[c];
        ks_sha256_of(f->text[c], strlen(f->text[c]), f->rows[c].text_sha256);
    }
}

static inline ks_status write_acts(const fixture *f, const char *path,
                                   uint32_t positions, ks_err *err) {
    ks_status st = KS_OK;
    ks_acts *acts = NULL;
    int64_t done;
    static float x[ROWS * WIDTH];
    ks_acts_spec spec = {.streams = 1u << KS_RESID,
                         .positions = positions,
                         .n_layers = LAYERS,
                         .d = WIDTH,
                         .dtype = KS_F32,
                         .n_steps = ROWS,
                         .n_chains = CHAINS,
                         .steps = f->steps,
                         .chains = f->rows,
                         .random_weights = -1,
                         .model_name = "tiny",
                         .model_sha256 = "ab12",
                         .tokenizer_hash = "cd34",
                         .isa = "avx2",
                         .backend = "cpu",
                         .config = "{}"};
    ks_acts_options options = {.force = true};
    KS_TRY(ks_acts_create(&acts, path, &spec, &options, &done, err));
    for (int32_t l = 0; l <= LAYERS; l++)
        for (ks_position p = 0; p < KS_TOKENS; p++) {
            if (!(positions >> p & 1)) continue;
            for (int64_t i = 0; i < ROWS; i++) {
                fill(f, p, l, i, x + i * WIDTH);
                if (f->spoiled == i + 1 && l == 1) x[i * WIDTH + 3] = INFINITY;
                for (int j = 0; !f->steps[i].valid && j < WIDTH; j++)
                    x[i * WIDTH + j] = NAN;
            }
            KS_TRY(ks_acts_write(acts, KS_RESID, p, l, 0, ROWS, x, err));
        }
    KS_TRY(ks_acts_commit(acts, 0, ROWS, err));
    return ks_acts_finish(&acts, err);
done:
    ks_acts_abandon(&acts);
    return st;
}

static inline void write_labels(const fixture *f, const char *path) {
    FILE *file = fopen(path, "w");
    for (int c = 0; c < CHAINS; c++) {
        fprintf(file, "{\"chain\":\"%s\",\"labels\":[", f->ids[c]);
        for (int i = 0; i < STEPS; i++)
            fprintf(file, f->y[c * STEPS + i] < 0 ? "%snull" : "%s%d",
                    i ? "," : "", f->y[c * STEPS + i]);
        fprintf(file, "],\"hops\":[");
        for (int i = 0; i < STEPS; i++)
            fprintf(file, "%s%d", i ? "," : "", f->hops[c * STEPS + i]);
        fprintf(file, "],\"scores\":{}}\n");
    }
    fclose(file);
}

static inline void write_chains(const fixture *f, const char *path) {
    FILE *file = fopen(path, "w");
    for (int c = 0; c < CHAINS; c++) {
        fprintf(file,
                "{\"id\":\"%s\",\"problem\":\"%s\",\"prompt\":\"?\","
                "\"text\":\"%s\",\"question\":\"so 1 and 3\",\"steps\":[",
                f->ids[c], f->problems[c], f->text[c]);
        for (int i = 0; i < STEPS; i++)
            fprintf(file, "%s{\"begin\":%d,\"end\":%d}", i ? "," : "", 20 * i,
                    20 * i + 20);
        fprintf(file, "]}\n");
    }
    fclose(file);
}

static inline void fixture_make_far(fixture *f, float far) {
    ks_err err = {0};
    memset(f, 0, sizeof *f);
    f->far = far;
    strcpy(f->dir, "/tmp/keystep-probe-XXXXXX");
    if (!mkdtemp(f->dir)) abort();
    snprintf(f->acts, sizeof f->acts, "%s/acts.h5", f->dir);
    snprintf(f->other, sizeof f->other, "%s/other.h5", f->dir);
    snprintf(f->labels, sizeof f->labels, "%s/labels.jsonl", f->dir);
    snprintf(f->chains, sizeof f->chains, "%s/chains.jsonl", f->dir);
    snprintf(f->out, sizeof f->out, "%s/out", f->dir);
    describe(f);
    if (write_acts(f, f->acts, 1u << KS_MEAN | 1u << KS_BEFORE, &err) !=
        KS_OK) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    write_labels(f, f->labels);
    write_chains(f, f->chains);
}

static inline void fixture_make(fixture *f) {
    fixture_make_far(f, 0);
}

static inline void fixture_free(fixture *f) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", f->dir);
    if (system(command) != 0) abort();
}

#endif
