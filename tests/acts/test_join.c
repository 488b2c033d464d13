/* Joined activation files through the library: every storage type, stream and
 * position, steps without a token and shards without a row of tokens, copied to
 * the bytes of one writer and read through virtual data sets; and what is
 * refused though each shard is whole. */
#include "acts_format.h"
#include "fixture.h"
#include "join.h"

enum { SHARDS = 4 };

/* Shard k's chains, as floor((k - 1) n / N) says. */
static int first_chain(int k) {
    return (k - 1) * CHAINS / SHARDS;
}

static void write_shard(const fixture *f, int k, const char *whole,
                        ks_err *err) {
    char path[PATH_MAX], shard[32];
    static char rows[512 * WIDTH * 4];
    int from = first_chain(k), to = first_chain(k + 1);
    int64_t begin = f->chain_end[from], end = f->chain_end[to], done;
    ks_step_row steps[MAX_STEPS];
    ks_acts_spec spec = f->spec;
    ks_acts *acts = NULL;
    ks_acts_options options = {.force = true};
    memcpy(steps, f->steps + begin, (size_t)(end - begin) * sizeof *steps);
    for (int64_t i = 0; i < end - begin; i++) steps[i].chain -= from;
    spec.steps = steps;
    spec.n_steps = end - begin;
    spec.chains += from;
    spec.n_chains = to - from;
    snprintf(shard, sizeof shard, "%d/%d", k, SHARDS);
    spec.shard = shard;
    spec.whole_sha256 = whole;
    cr_assert_eq(ks_shard_path((ks_shard){k, SHARDS}, f->path, path, err),
                 KS_OK);
    cr_assert_eq(ks_acts_create(&acts, path, &spec, &options, &done, err),
                 KS_OK, "%s", err->text);
    for (int32_t l = 0; l <= LAYERS; l++)
        for (ks_stream s = 0; s < KS_N_STREAMS; s++)
            for (ks_position p = 0; p < KS_N_POSITIONS; p++) {
                if (!(spec.streams & 1u << s) || !(spec.positions & 1u << p) ||
                    (s != KS_RESID && l == LAYERS))
                    continue;
                bool tokens = p == KS_TOKENS;
                int64_t a = tokens ? f->token_row[begin] : begin;
                int64_t b = tokens ? f->token_row[end] : end;
                for (int64_t r = a; r < b; r++)
                    fill_row(f, s, p, l, r,
                             rows + (size_t)(r - a) * WIDTH * value_size(f));
                cr_assert_eq(ks_acts_write(acts, s, p, l, 0, b - a, rows, err),
                             KS_OK, "%s", err->text);
            }
    cr_assert_eq(ks_acts_commit(acts, 0, end - begin, err), KS_OK, "%s",
                 err->text);
    cr_assert_eq(ks_acts_finish(&acts, err), KS_OK, "%s", err->text);
}

static void write_shards(const fixture *f, ks_err *err) {
    char whole[65];
    cr_assert_eq(ks_acts_spec_hash(&f->spec, whole, err), KS_OK);
    for (int k = 1; k <= SHARDS; k++) write_shard(f, k, whole, err);
}

static void drop_files(fixture *f) {
    char line[160];
    snprintf(line, sizeof line, "rm -rf '%s'", f->dir);
    cr_assert_eq(system(line), 0);
}

/* What has no token has no row of tokens: the second shard is two such steps
 * and a chain without any. */
static void empty_second_shard(fixture *f) {
    for (int64_t i = f->chain_end[first_chain(2)];
         i < f->chain_end[first_chain(3)]; i++) {
        f->steps[i].token_end = f->steps[i].token_begin;
        f->steps[i].valid = 0;
    }
    for (int64_t i = 0; i < f->spec.n_steps; i++)
        f->token_row[i + 1] =
            f->token_row[i] + f->steps[i].token_end - f->steps[i].token_begin;
}

static void compare_values(const fixture *f, ks_err *err) {
    ks_acts_file *file = NULL;
    float row[WIDTH];
    cr_assert_eq(ks_acts_open(&file, f->path, err), KS_OK, "%s", err->text);
    for (ks_stream s = 0; s < KS_N_STREAMS; s++)
        for (ks_position p = 0; p < KS_N_POSITIONS; p++)
            for (int64_t r = 0;
                 r < (p == KS_TOKENS ? f->token_row[f->spec.n_steps]
                                     : f->spec.n_steps);
                 r++) {
                cr_assert_eq(ks_acts_read(file, s, p, 1, r, 1, row, err), KS_OK,
                             "%s", err->text);
                bool nan = p != KS_TOKENS && !f->steps[r].valid;
                for (int i = 0; i < WIDTH; i++)
                    cr_assert(nan ? isnan(row[i])
                                  : row[i] == expected(s, p, 1, r, i),
                              "%d/%d row %lld", (int)s, (int)p, (long long)r);
            }
    cr_expect_eq(ks_acts_get_info(file)->n_chains, CHAINS);
    for (int64_t i = 0; i < f->spec.n_steps; i++)
        cr_assert_eq(ks_acts_get_info(file)->steps[i].chain, f->steps[i].chain);
    cr_expect_null(ks_acts_get_info(file)->shard);
    ks_acts_close(&file);
}

Test(join, is_one_writers_file) {
    static const ks_type types[] = {KS_BF16, KS_F16, KS_F32};
    for (size_t t = 0; t < KS_COUNT(types); t++) {
        fixture f;
        ks_err err = {0};
        char whole[160];
        fixture_make(&f, types[t], ALL_STREAMS, ALL_POSITIONS);
        if (t != 1) empty_second_shard(&f);
        f.spec.has_labels = t != 2;
        ks_join_options o = {.out = f.path, .shards = SHARDS};
        ks_join_sum sum;
        snprintf(whole, sizeof whole, "%s.ref", f.path);
        cr_assert_eq(write_file(&f, whole, (ks_acts_options){0}, 2, &err),
                     KS_OK, "%s", err.text);
        write_shards(&f, &err);
        cr_assert_eq(ks_join(&o, NULL, NULL, &sum, &err), KS_OK, "%s",
                     err.text);
        cr_expect(sum.acts && !sum.copied && sum.steps == f.spec.n_steps &&
                  sum.chains == CHAINS);
        ks_acts_report report;
        cr_assert_eq(ks_acts_verify(f.path, &report, &err), KS_OK, "%s",
                     err.text);
        cr_expect(report.sources == SHARDS && report.has_checksums);
        compare_values(&f, &err);
        o.force = o.copy = o.remove = true;
        cr_assert_eq(ks_join(&o, NULL, NULL, &sum, &err), KS_OK, "%s",
                     err.text);
        cr_expect(same_files(f.path, whole), "%s", ks_type_name(types[t]));
        drop_files(&f);
    }
}

static void refused(const ks_join_options *o, ks_status code,
                    const char *words) {
    ks_join_sum sum;
    ks_err err = {0};
    char fresh[PATH_MAX];
    cr_expect_eq(ks_join(o, NULL, NULL, &sum, &err), code);
    cr_expect(strstr(err.text, words), "'%s' lacks '%s'", err.text, words);
    snprintf(fresh, sizeof fresh, "%s.new", o->out);
    cr_expect(!ks_file_exists(fresh) && !ks_file_exists(o->out));
}

/* All say that they are of the whole, but it has another chain. */
Test(join, shards_that_do_not_make_up_the_whole) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, 1, 1);
    write_shards(&f, &err);
    const ks_join_options o = {.out = f.path, .shards = SHARDS};
    char whole[65];
    cr_assert_eq(ks_acts_spec_hash(&f.spec, whole, &err), KS_OK);
    f.chains[3].id = "another";
    write_shard(&f, 2, whole, &err);
    refused(&o, KS_MISMATCH,
            "do not make up the run that they say they are of");
    drop_files(&f);
}

/* As resume lets them through by force, and names all. */
Test(join, other_machines_by_force_alone) {
    fixture f;
    ks_err err = {0};
    char path[PATH_MAX], whole[160];
    fixture_make(&f, KS_BF16, 1, 1);
    write_shards(&f, &err);
    ks_join_options o = {.out = f.path, .shards = SHARDS, .copy = true};
    ks_join_sum sum;
    cr_assert_eq(ks_shard_path((ks_shard){3, SHARDS}, f.path, path, &err),
                 KS_OK);
    cr_assert_eq(ks__acts_amend(path, "avx512", "cpu", "9.9", &err), KS_OK);
    refused(&o, KS_MISMATCH, "the instruction set differs (cpu, avx2, ");
    o.force = true;
    cr_assert_eq(ks_join(&o, NULL, NULL, &sum, &err), KS_OK, "%s", err.text);
    ks_acts_file *file = NULL;
    cr_assert_eq(ks_acts_open(&file, f.path, &err), KS_OK, "%s", err.text);
    cr_expect_str_eq(ks_acts_get_info(file)->isa, "avx2+avx512");
    cr_expect_str_eq(ks_acts_get_info(file)->backend, "cpu");
    cr_expect_str_eq(ks_acts_get_info(file)->program_version,
                     KS_VERSION "+9.9");
    ks_acts_close(&file);
    /* all by another version: joined as that wrote them */
    snprintf(whole, sizeof whole, "%s.ref", f.path);
    cr_assert_eq(write_file(&f, whole, (ks_acts_options){0}, 9, &err), KS_OK);
    cr_assert_eq(ks__acts_amend(whole, "avx2", "cpu", "9.9", &err), KS_OK);
    for (int k = 1; k <= SHARDS; k++) {
        cr_assert_eq(ks_shard_path((ks_shard){k, SHARDS}, f.path, path, &err),
                     KS_OK);
        cr_assert_eq(ks__acts_amend(path, "avx2", "cpu", "9.9", &err), KS_OK);
    }
    cr_assert_eq(ks_join(&o, NULL, NULL, &sum, &err), KS_OK, "%s", err.text);
    cr_expect(same_files(f.path, whole));
    drop_files(&f);
}

Test(join, names_of_shards) {
    static const struct {
        const char *path, *name;
    } names[] = {{"acts.h5", "acts.2-of-4.h5"},
                 {"a.b/acts", "a.b/acts.2-of-4"},
                 {"a/x.tar.gz", "a/x.tar.2-of-4.gz"},
                 {".hidden", ".hidden.2-of-4"},
                 {"a/.hidden.h5", "a/.hidden.2-of-4.h5"}};
    char out[PATH_MAX], *longer;
    ks_err err;
    for (size_t i = 0; i < KS_COUNT(names); i++) {
        cr_assert_eq(ks_shard_path((ks_shard){2, 4}, names[i].path, out, &err),
                     KS_OK);
        cr_expect_str_eq(out, names[i].name);
        cr_assert_eq(ks_shard_path((ks_shard){0}, names[i].path, out, &err),
                     KS_OK);
        cr_expect_str_eq(out, names[i].path);
    }
    longer = calloc(PATH_MAX + 1, 1);
    memset(longer, 'x', PATH_MAX - 4);
    cr_expect_eq(ks_shard_path((ks_shard){2, 4}, longer, out, &err), KS_IO);
    free(longer);
}

/* Every line is one shard's, and none has two more than another. */
Test(join, ranges_of_shards) {
    ks_err err;
    size_t begin, end;
    for (size_t n = 1; n <= 40; n++)
        for (int32_t of = 1; of <= (int32_t)n; of++) {
            size_t at = 0, least = n, most = 0;
            for (int32_t k = 1; k <= of; k++) {
                cr_assert_eq(ks_shard_range((ks_shard){k, of}, n, "x", "lines",
                                            &begin, &end, &err),
                             KS_OK);
                cr_assert(begin == at && end > begin);
                least = KS_MIN(least, end - begin);
                most = KS_MAX(most, end - begin);
                at = end;
            }
            cr_assert(at == n && most - least <= 1);
        }
    cr_expect_eq(
        ks_shard_range((ks_shard){1, 3}, 2, "x", "lines", &begin, &end, &err),
        KS_USAGE);
}
