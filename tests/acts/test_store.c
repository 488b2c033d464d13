/* test_store.c - an activation file reads back as written, its bytes depend
 * on nothing but its content, and what is there is never overwritten. */
#include <criterion/criterion.h>
#include <fcntl.h>

#include "acts_format.h"
#include "fixture.h"

static const ks_acts_options plain = {.sync_seconds = 5};

static void expect_rows(const fixture *f, const ks_acts_file *file) {
    float row[WIDTH];
    ks_err err = {0};
    for (ks_stream s = 0; s < KS_N_STREAMS; s++)
        for (ks_position p = 0; p < KS_N_POSITIONS; p++) {
            int64_t n = p == KS_TOKENS ? f->token_row[f->spec.n_steps]
                                       : f->spec.n_steps;
            for (int32_t l = 0; l < LAYERS + (s == KS_RESID); l++)
                for (int64_t r = 0; r < n; r++) {
                    cr_assert_eq(ks_acts_read(file, s, p, l, r, 1, row, &err),
                                 KS_OK, "%s", err.text);
                    bool nan = p != KS_TOKENS && !f->steps[r].valid;
                    for (int i = 0; i < WIDTH; i++)
                        cr_assert(nan ? row[i] != row[i]
                                      : row[i] == expected(s, p, l, r, i),
                                  "%d/%d layer %d row %lld [%d] = %g", s, p, l,
                                  (long long)r, i, (double)row[i]);
                }
        }
}

static void round_trip(ks_type dtype) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, dtype, ALL_STREAMS, ALL_POSITIONS);
    cr_assert_eq(write_file(&f, f.path, plain, 2, &err), KS_OK, "%s", err.text);
    ks_acts_file *file = NULL;
    cr_assert_eq(ks_acts_open(&file, f.path, &err), KS_OK, "%s", err.text);
    const ks_acts_info *info = ks_acts_get_info(file);
    cr_assert_eq(info->n_layers, LAYERS);
    cr_assert_eq(info->d, WIDTH);
    cr_assert_eq((int)info->dtype, (int)dtype);
    cr_assert_eq(info->streams, ALL_STREAMS);
    cr_assert_eq(info->positions, ALL_POSITIONS);
    cr_assert_eq(info->n_tokens, f.token_row[f.spec.n_steps]);
    cr_assert(info->has_labels && !info->context_none);
    cr_assert_eq(info->random_weights, -1);
    cr_assert_str_eq(info->model_name, "tiny");
    cr_assert_str_eq(info->config, "{\"a\":1}");
    cr_assert_eq(info->n_steps, f.spec.n_steps);
    for (int64_t i = 0; i < info->n_steps; i++)
        cr_assert(memcmp(&info->steps[i], &f.steps[i], sizeof f.steps[i]) == 0);
    for (int i = 0; i < CHAINS; i++) {
        cr_assert_str_eq(info->chains[i].id, f.ids[i]);
        cr_assert_str_eq(info->chains[i].problem, f.problems[i]);
        cr_assert_str_eq(info->chains[i].text_sha256, f.chains[i].text_sha256);
    }
    expect_rows(&f, file);
    ks_acts_close(&file);
    ks_acts_report report;
    cr_assert_eq(ks_acts_verify(f.path, &report, &err), KS_OK, "%s", err.text);
    cr_assert(report.has_checksums);
    cr_assert_eq(report.invalid, 2);
    cr_assert_eq(report.nan_rows, 2 * 5 * (3 * LAYERS + 1));
    fixture_free(&f);
}

Test(store, round_trip_bf16) {
    round_trip(KS_BF16);
}

Test(store, round_trip_f16) {
    round_trip(KS_F16);
}

Test(store, round_trip_f32) {
    round_trip(KS_F32);
}

Test(store, bytes_depend_on_content_only) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, ALL_STREAMS, ALL_POSITIONS);
    char ref[160];
    snprintf(ref, sizeof ref, "%s.ref", f.path);
    cr_assert_eq(write_file(&f, ref, plain, 9, &err), KS_OK, "%s", err.text);
    sleep(1); /* a time stamp would show */
    ks_acts_options other = {.sync_seconds = -1, .ring_bytes = 1};
    cr_assert_eq(write_file(&f, f.path, other, 1, &err), KS_OK, "%s", err.text);
    cr_assert(same_files(ref, f.path));
    struct stat info;
    stat(f.path, &info);
    uint64_t estimate = ks_acts_file_bytes(&f.spec);
    cr_assert(estimate >= (uint64_t)info.st_size &&
                  estimate <= (uint64_t)info.st_size + 300000,
              "estimated %llu, is %lld", (unsigned long long)estimate,
              (long long)info.st_size);
    fixture_free(&f);
}

Test(store, small_pieces_in_any_order_of_layers) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, 1u << KS_RESID, 1u << KS_MEAN | 1u << KS_TOKENS);
    char ref[160];
    snprintf(ref, sizeof ref, "%s.ref", f.path);
    cr_assert_eq(write_file(&f, ref, plain, 9, &err), KS_OK, "%s", err.text);
    ks_acts *acts = NULL;
    int64_t done, n = f.spec.n_steps, tokens = f.token_row[n];
    cr_assert_eq(ks_acts_create(&acts, f.path, &f.spec, &plain, &done, &err),
                 KS_OK, "%s", err.text);
    uint16_t row[WIDTH];
    for (int32_t l = LAYERS; l >= 0; l--) {
        for (int64_t r = 0; r < n; r++) {
            fill_row(&f, KS_RESID, KS_MEAN, l, r, row);
            cr_assert_eq(
                ks_acts_write(acts, KS_RESID, KS_MEAN, l, r, 1, row, &err),
                KS_OK);
        }
        for (int64_t r = tokens - 1; r >= 0; r--) {
            fill_row(&f, KS_RESID, KS_TOKENS, l, r, row);
            cr_assert_eq(
                ks_acts_write(acts, KS_RESID, KS_TOKENS, l, r, 1, row, &err),
                KS_OK);
        }
    }
    cr_assert_eq(ks_acts_commit(acts, 0, n, &err), KS_OK, "%s", err.text);
    cr_assert_eq(ks_acts_finish(&acts, &err), KS_OK, "%s", err.text);
    cr_assert(same_files(ref, f.path));
    fixture_free(&f);
}

Test(store, tokens_of_steps_that_all_have_none) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, 1u << KS_RESID, 1u << KS_MEAN | 1u << KS_TOKENS);
    for (int64_t i = 0; i < f.spec.n_steps; i++) {
        f.steps[i].token_end = f.steps[i].token_begin;
        f.steps[i].valid = 0;
        f.token_row[i + 1] = 0;
    }
    cr_assert_eq(write_file(&f, f.path, plain, 4, &err), KS_OK, "%s", err.text);
    cr_assert_eq(ks_acts_verify(f.path, NULL, &err), KS_OK, "%s", err.text);
    fixture_free(&f);
}

Test(store, rows_outside_and_unfinished_commits_are_refused) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, 1u << KS_RESID, 1u << KS_MEAN);
    ks_acts *acts = NULL;
    int64_t done;
    uint16_t row[WIDTH * 2] = {0};
    cr_assert_eq(ks_acts_create(&acts, f.path, &f.spec, &plain, &done, &err),
                 KS_OK);
    cr_assert_neq(
        ks_acts_write(acts, KS_RESID, KS_MEAN, LAYERS + 1, 0, 1, row, &err),
        KS_OK);
    cr_assert_neq(ks_acts_write(acts, KS_RESID, KS_MEAN, 0, f.spec.n_steps - 1,
                                2, row, &err),
                  KS_OK);
    cr_assert_neq(ks_acts_write(acts, KS_ATTN, KS_MEAN, 0, 0, 1, row, &err),
                  KS_OK);
    cr_assert_neq(
        ks_acts_write(acts, KS_RESID, KS_MEAN, 0, INT64_MAX, 1, row, &err),
        KS_OK);
    cr_assert_eq(ks_acts_write(acts, KS_RESID, KS_MEAN, 0, 0, 1, row, &err),
                 KS_OK);
    cr_assert_eq(ks_acts_commit(acts, 0, 1, &err), KS_INTERNAL);
    cr_assert_neq(ks_acts_finish(&acts, &err), KS_OK);
    cr_assert(!acts && !ks_file_exists(f.path));
    fixture_free(&f);
}

Test(store, existing_files_stay) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, 1u << KS_RESID, 1u << KS_MEAN);
    cr_assert_eq(ks_write_file(f.path, "mine", 4, false, &err), KS_OK);
    cr_assert_eq(write_file(&f, f.path, plain, 9, &err), KS_EXISTS);
    cr_assert(strstr(err.text, "--force"), "%s", err.text);
    char *text = NULL;
    ks_read_file(f.path, SIZE_MAX, &text, NULL, &err);
    cr_assert_str_eq(text, "mine");
    free(text);
    ks_acts_options force = {.force = true};
    cr_assert_eq(write_file(&f, f.path, force, 9, &err), KS_OK, "%s", err.text);
    cr_assert_eq(ks_acts_verify(f.path, NULL, &err), KS_OK, "%s", err.text);
    char name[160];
    snprintf(name, sizeof name, "%s.journal", f.path);
    cr_assert(!ks_file_exists(name));
    snprintf(name, sizeof name, "%s.lock", f.path);
    cr_assert(!ks_file_exists(name));
    fixture_free(&f);
}

Test(store, impossible_specs_are_refused) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, 1u << KS_RESID, 1u << KS_BEFORE);
    f.spec.context_none = true;
    cr_assert_eq(write_file(&f, f.path, plain, 9, &err), KS_USAGE);
    cr_assert(strstr(err.text, "before"), "%s", err.text);
    f.spec.context_none = false;
    f.spec.d = INT32_MAX;
    f.spec.n_layers = INT32_MAX - 1;
    f.spec.n_steps = MAX_STEPS;
    cr_assert_eq(write_file(&f, f.path, plain, 9, &err), KS_LIMIT);
    cr_assert(ks_acts_file_bytes(&f.spec) == UINT64_MAX);
    f.spec.n_steps = 0;
    cr_assert_eq(write_file(&f, f.path, plain, 9, &err), KS_USAGE);
    cr_assert(!ks_file_exists(f.path));
    fixture_free(&f);
}

Test(checksum, agrees_with_the_standard) {
    uint8_t data[301];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 37 + 11);
    /* check value of CRC-32C */
    cr_assert_eq(ks__crc32c(0, "123456789", 9), 0xe3069283u);
    for (size_t at = 0; at < 9; at++)
        for (size_t n = 0; n + at <= sizeof data; n += 13) {
            uint32_t whole = ks__crc32c(0, data + at, n);
            cr_assert_eq(whole, ks__crc32c_plain(0, data + at, n));
            uint32_t part = ks__crc32c(0, data + at, n / 3);
            cr_assert_eq(whole, ks__crc32c(part, data + at + n / 3, n - n / 3));
        }
}
