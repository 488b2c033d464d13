/* bench_io.c - keystep bench io: the activation writer alone beside `dd
 * conv=fdatasync` of as many bytes, in turn on the same file system. Ours is
 * the layer-major pattern of a capture of SmolLM2-135M (31 layers, width 576,
 * five positions, bf16): batches of steps, each written into every layer's and
 * position's own place, every row checksummed and journaled, from create to
 * the last rename. */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../acts.h"
#include "bench.h"

enum { LAYERS = 30, WIDTH = 576, BATCH_STEPS = 100, CHAIN_STEPS = 5 };
static const uint32_t FIVE = (1u << KS_TOKENS) - 1;

typedef struct io_bench {
    ks_bench *bench;
    ks_acts_spec spec;
    ks_step_row *steps;
    ks_chain_row *chains;
    uint16_t *rows; /* [BATCH_STEPS, WIDTH] */
    char *ours, *theirs;
    uint64_t bytes;          /* of the file, the same for both */
    double *rate[2], *ratio; /* MB/s [pairs]: keystep, dd */
} io_bench;

/* ------------------------------------------------------------- both writers */

static ks_status write_ours(io_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    ks_acts *acts = NULL;
    int64_t done, all = b->spec.n_steps;
    ks_acts_options options = {.force = true};
    KS_TRY(ks_acts_create(&acts, b->ours, &b->spec, &options, &done, err));
    for (int64_t at = 0; at < all; at += BATCH_STEPS) {
        int64_t n = KS_MIN(BATCH_STEPS, all - at);
        for (int32_t l = 0; l <= LAYERS; l++)
            for (ks_position p = 0; p < KS_TOKENS; p++)
                KS_TRY(
                    ks_acts_write(acts, KS_RESID, p, l, at, n, b->rows, err));
        KS_TRY(ks_acts_commit(acts, at, at + n, err));
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    }
    KS_TRY(ks_acts_finish(&acts, err));
done:
    ks_acts_abandon(&acts);
    return st;
}

/* dd's own words go to nowhere. */
static ks_status write_theirs(io_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    char of[4200], count[64];
    snprintf(of, sizeof of, "of=%s", b->theirs);
    snprintf(count, sizeof count, "count=%llu", (unsigned long long)b->bytes);
    char *argv[] = {"dd", "if=/dev/zero",      "bs=1M",          count,
                    of,   "iflag=count_bytes", "conv=fdatasync", "status=none",
                    NULL};
    posix_spawn_file_actions_t actions;
    pid_t child;
    int status = 0;
    KS_CHECK(posix_spawn_file_actions_init(&actions) == 0, KS_NOMEM,
             "no memory to start dd");
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    int failed = posix_spawnp(&child, "dd", &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    KS_CHECK(!failed, KS_IO, "dd cannot be started: %s", strerror(failed));
    while (waitpid(child, &status, 0) < 0)
        KS_CHECK(errno == EINTR, KS_IO, "dd: %s", strerror(errno));
    KS_CHECK(!ks_interrupted, KS_INTERRUPTED, "interrupted");
    KS_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, KS_IO,
             "dd could not write %llu bytes to %s",
             (unsigned long long)b->bytes, b->theirs);
done:
    return st;
}

/* Removing a large file goes on behind the call: the disk is told which blocks
 * are free, which slows whoever writes next. */
static void settle(void) {
    enum { SECONDS = 2 };
    sync();
    sleep(SECONDS);
}

/* MB/s of one writer; removing its file and settling the file system stay
 * outside the clock. */
static ks_status measure(io_bench *b, bool ours, double *rate, ks_err *err) {
    ks_status st = KS_OK;
    const char *path = ours ? b->ours : b->theirs;
    struct stat info;
    settle();
    double start = ks_seconds();
    KS_TRY(ours ? write_ours(b, err) : write_theirs(b, err));
    double seconds = ks_seconds() - start;
    KS_CHECK(stat(path, &info) == 0, KS_IO, "%s: %s", path, strerror(errno));
    if (ours) b->bytes = (uint64_t)info.st_size;
    *rate = (double)info.st_size / seconds / 1e6;
done:
    ks_bench_remove(path);
    return st;
}

/* -------------------------------------------------------------------- table */

static ks_status add_rows(io_bench *b, int pairs, ks_err *err) {
    ks_status st = KS_OK;
    for (int i = 0; i < pairs; i++)
        KS_TRY(ks_bench_row(
            b->bench,
            json_pack("{s:i,s:i,s:I,s:f,s:f,s:f,s:n,s:n}", "pair", i + 1, "mib",
                      b->bench->in->mib, "bytes", (json_int_t)b->bytes,
                      "keystep_mb_s", b->rate[0][i], "dd_mb_s", b->rate[1][i],
                      "ratio", b->ratio[i], "ratio_low", "ratio_high"),
            err));
    ks_spread ours = ks_bench_spread(b->rate[0], pairs);
    ks_spread theirs = ks_bench_spread(b->rate[1], pairs);
    ks_spread ratio = ks_bench_spread(b->ratio, pairs);
    KS_TRY(ks_bench_row(
        b->bench,
        json_pack("{s:s,s:i,s:I,s:f,s:f,s:f,s:o,s:o}", "pair", "all", "mib",
                  b->bench->in->mib, "bytes", (json_int_t)b->bytes,
                  "keystep_mb_s", ours.median, "dd_mb_s", theirs.median,
                  "ratio", ratio.mean, "ratio_low", ks_bench_real(ratio.low),
                  "ratio_high", ks_bench_real(ratio.high)),
        err));
done:
    return st;
}

/* ------------------------------------------------------------------ command */

static ks_status make_spec(io_bench *b, ks_err *err) {
    ks_status st = KS_OK;
    int64_t row = (KS_TOKENS * (LAYERS + 1)) * (WIDTH * 2 + 4);
    int64_t chains = ((int64_t)b->bench->in->mib << 20) / row / CHAIN_STEPS;
    int64_t n = chains * CHAIN_STEPS;
    KS_CHECK(chains > 0, KS_USAGE, "--size %d: expected at least 1 MiB",
             b->bench->in->mib);
    KS_TRY(ks_alloc(&b->steps, (size_t)n, sizeof *b->steps, "steps", err));
    KS_TRY(
        ks_alloc(&b->chains, (size_t)chains, sizeof *b->chains, "chains", err));
    KS_TRY(
        ks_alloc(&b->rows, BATCH_STEPS * WIDTH, sizeof *b->rows, "rows", err));
    for (int64_t i = 0; i < n; i++)
        b->steps[i] = (ks_step_row){.chain = (int32_t)(i / CHAIN_STEPS),
                                    .index = (int32_t)(i % CHAIN_STEPS),
                                    .token_end = 20,
                                    .valid = 1};
    for (int64_t i = 0; i < chains; i++)
        b->chains[i].id = b->chains[i].problem = "p";
    for (uint32_t i = 0; i < BATCH_STEPS * WIDTH; i++) /* finite bf16 */
        b->rows[i] = (uint16_t)(0x3f80 + i * 2654435761u % 997);
    b->spec = (ks_acts_spec){.streams = 1u << KS_RESID,
                             .positions = FIVE,
                             .n_layers = LAYERS,
                             .d = WIDTH,
                             .dtype = KS_BF16,
                             .n_steps = n,
                             .n_chains = chains,
                             .steps = b->steps,
                             .chains = b->chains,
                             .random_weights = -1,
                             .model_name = "bench",
                             .model_sha256 = "",
                             .tokenizer_hash = "",
                             .isa = "",
                             .backend = "",
                             .config = "{}"};
done:
    return st;
}

static ks_status open_bench(io_bench *b, int pairs, ks_err *err) {
    ks_status st = KS_OK;
    const char *dir = b->bench->in->dir;
    KS_CHECK(strlen(dir) < 4000, KS_USAGE, "--dir: the path is too long");
    KS_TRY(ks_path_join(&b->ours, dir, "keystep-bench.h5", err));
    KS_TRY(ks_path_join(&b->theirs, dir, "keystep-bench.dd", err));
    KS_TRY(make_spec(b, err));
    for (int k = 0; k < 2; k++)
        KS_TRY(ks_alloc(&b->rate[k], (size_t)pairs, sizeof(double),
                        "the figures", err));
    KS_TRY(
        ks_alloc(&b->ratio, (size_t)pairs, sizeof(double), "the figures", err));
    KS_TRY(ks_refuse_existing(b->ours, false, err));
    KS_TRY(ks_refuse_existing(b->theirs, false, err));
done:
    return st;
}

ks_status ks_bench_io(ks_bench *bench, ks_err *err) {
    ks_status st = KS_OK;
    io_bench b = {.bench = bench};
    int pairs = bench->in->repeats;
    double warm;
    KS_TRY(open_bench(&b, pairs, err));
    KS_TRY(measure(&b, true, &warm, err)); /* and tells dd how many bytes */
    for (int i = 0; i < pairs; i++) {
        bool first = i % 2 == 0; /* each leads half of the pairs */
        if (first) KS_TRY(measure(&b, true, &b.rate[0][i], err));
        KS_TRY(measure(&b, false, &b.rate[1][i], err));
        if (!first) KS_TRY(measure(&b, true, &b.rate[0][i], err));
        b.ratio[i] = b.rate[0][i] / b.rate[1][i];
        ks_log(KS_LOG_INFO, "pair %d of %d: %.0f and %.0f MB/s, ratio %.3f",
               i + 1, pairs, b.rate[0][i], b.rate[1][i], b.ratio[i]);
    }
    KS_TRY(add_rows(&b, pairs, err));
done:
    for (int k = 0; k < 2; k++) free(b.rate[k]);
    free(b.ratio);
    free(b.steps);
    free(b.chains);
    free(b.rows);
    free(b.ours);
    free(b.theirs);
    return st;
}
