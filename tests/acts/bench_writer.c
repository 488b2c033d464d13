/* bench_writer.c - the activation writer alone against `dd conv=fdatasync`,
 * in turn on the same file system: the layer-major pattern of a capture of
 * SmolLM2-135M (31 layers, width 576, five positions, bf16), every row
 * checksummed and journaled, from create to the last rename. CSV on stdout.
 *
 * usage: bench_writer FOLDER [MIB [PAIRS]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "acts.h"

enum {
    LAYERS = 30,
    WIDTH = 576,
    POSITIONS = 31,
    BATCH_STEPS = 100,
    CHAIN_STEPS = 5
};

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static ks_status write_all(const char *path, const ks_acts_spec *spec,
                           const void *rows, ks_err *err) {
    ks_status st = KS_OK;
    ks_acts *acts = NULL;
    int64_t done;
    ks_acts_options options = {.force = true};
    KS_TRY(ks_acts_create(&acts, path, spec, &options, &done, err));
    for (int64_t at = 0; at < spec->n_steps; at += BATCH_STEPS) {
        int64_t n = KS_MIN(BATCH_STEPS, spec->n_steps - at);
        for (int32_t l = 0; l <= LAYERS; l++)
            for (ks_position p = 0; p < KS_TOKENS; p++)
                KS_TRY(ks_acts_write(acts, KS_RESID, p, l, at, n, rows, err));
        KS_TRY(ks_acts_commit(acts, at, at + n, err));
    }
    KS_TRY(ks_acts_finish(&acts, err));
done:
    ks_acts_abandon(&acts);
    return st;
}

/* MB/s of one way to write about `mib` MiB. */
static double rate_of_ours(const char *path, const ks_acts_spec *spec,
                           const void *rows) {
    ks_err err = {0};
    unlink(path);
    sync();
    double start = seconds_now();
    if (write_all(path, spec, rows, &err) != KS_OK) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    double seconds = seconds_now() - start;
    struct stat info;
    stat(path, &info);
    unlink(path);
    return (double)info.st_size / seconds / 1e6;
}

static double rate_of_dd(const char *path, long mib) {
    char command[512];
    snprintf(command, sizeof command,
             "dd if=/dev/zero of='%s' bs=1M "
             "count=%ld conv=fdatasync 2>/dev/null",
             path, mib);
    unlink(path);
    sync();
    double start = seconds_now();
    if (system(command) != 0) exit(1);
    double seconds = seconds_now() - start;
    unlink(path);
    return (double)mib * 1048576 / seconds / 1e6;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: bench_writer FOLDER [MIB [PAIRS]]\n");
        return 2;
    }
    long mib = argc > 2 ? atol(argv[2]) : 2048;
    int pairs = argc > 3 ? atoi(argv[3]) : 10;
    char ours[400], theirs[400];
    snprintf(ours, sizeof ours, "%s/bench.h5", argv[1]);
    snprintf(theirs, sizeof theirs, "%s/bench.dd", argv[1]);
    int64_t chains =
        mib * 1048576 / (WIDTH * 2 + 4) / (5 * (LAYERS + 1)) / CHAIN_STEPS;
    int64_t n = chains * CHAIN_STEPS;
    ks_step_row *steps = calloc((size_t)n, sizeof *steps);
    ks_chain_row *rows = calloc((size_t)chains, sizeof *rows);
    uint16_t *data = malloc((size_t)BATCH_STEPS * WIDTH * 2);
    if (!steps || !rows || !data || n == 0) return 1;
    for (int64_t i = 0; i < n; i++)
        steps[i] = (ks_step_row){.chain = (int32_t)(i / CHAIN_STEPS),
                                 .index = (int32_t)(i % CHAIN_STEPS),
                                 .token_end = 20,
                                 .valid = 1};
    for (int64_t i = 0; i < chains; i++) rows[i].id = rows[i].problem = "p";
    for (int i = 0; i < BATCH_STEPS * WIDTH; i++)
        data[i] = (uint16_t)(0x3f80 + i * 2654435761u % 997);
    ks_acts_spec spec = {.streams = 1u << KS_RESID,
                         .positions = POSITIONS,
                         .n_layers = LAYERS,
                         .d = WIDTH,
                         .dtype = KS_BF16,
                         .n_steps = n,
                         .n_chains = chains,
                         .steps = steps,
                         .chains = rows,
                         .random_weights = -1,
                         .model_name = "bench",
                         .model_sha256 = "",
                         .tokenizer_hash = "",
                         .isa = "",
                         .backend = "",
                         .config = "{}"};
    puts("pair,keystep_mb_s,dd_mb_s,ratio");
    for (int i = 0; i < pairs; i++) {
        bool first = i % 2 == 0; /* each leads half of the pairs */
        double a = first ? rate_of_ours(ours, &spec, data) : 0;
        double b = rate_of_dd(theirs, mib);
        if (!first) a = rate_of_ours(ours, &spec, data);
        printf("%d,%.0f,%.0f,%.3f\n", i, a, b, a / b);
        fflush(stdout);
    }
    free(data);
    free(rows);
    free(steps);
    return 0;
}
