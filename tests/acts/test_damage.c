/* test_damage.c - files that are cut short, changed, lying or incomplete are
 * refused with a sentence that says what and where. */
#include <criterion/criterion.h>
#include <fcntl.h>

#include "acts_format.h"
#include "fixture.h"

static const ks_acts_options plain = {.force = true};

static void make(fixture *f) {
    ks_err err = {0};
    fixture_make(f, KS_BF16, 1u << KS_RESID | 1u << KS_MLP,
                 1u << KS_MEAN | 1u << KS_BEFORE | 1u << KS_TOKENS);
    cr_assert_eq(write_file(f, f->path, plain, 4, &err), KS_OK, "%s", err.text);
}

static void refused(const char *path, const char *words) {
    ks_err err = {0};
    cr_assert_neq(ks_acts_verify(path, NULL, &err), KS_OK, "%s was accepted",
                  path);
    cr_assert(strstr(err.text, words) && strstr(err.text, "/tmp/"),
              "got '%s', expected '%s'", err.text, words);
}

static void put(const char *path, uint64_t at, const void *bytes, size_t n) {
    int fd = open(path, O_RDWR);
    cr_assert(pwrite(fd, bytes, n, (off_t)at) == (ssize_t)n);
    close(fd);
}

static ks__acts_layout layout_of(const char *path) {
    ks_acts_file *file = NULL;
    ks_err err = {0};
    cr_assert_eq(ks_acts_open(&file, path, &err), KS_OK, "%s", err.text);
    ks__acts_layout layout = file->layout;
    ks_acts_close(&file);
    return layout;
}

Test(damage, a_flipped_bit_is_named) {
    fixture f;
    make(&f);
    ks__acts_layout layout = layout_of(f.path);
    uint64_t at = ks__acts_row_at(&layout, &layout.sets[3], 1, 6);
    uint8_t byte = 0x55;
    put(f.path, at + 3, &byte, 1);
    refused(f.path, "/activations/mlp/mean layer 1 row 6 (chain 'p1/0', step "
                    "1)");
    fixture_free(&f);
}

Test(damage, nan_in_a_row_with_tokens_is_named) {
    fixture f;
    make(&f);
    ks__acts_layout layout = layout_of(f.path);
    const ks__acts_set *set = &layout.sets[2]; /* resid, tokens */
    uint16_t row[WIDTH];
    int64_t last = set->n_rows - 1;
    fill_row(&f, KS_RESID, KS_TOKENS, 2, last, row);
    row[4] = 0x7fc0;
    uint32_t sum = ks__crc32c(0, row, sizeof row);
    put(f.path, ks__acts_row_at(&layout, set, 2, last), row, sizeof row);
    put(f.path, ks__acts_sum_at(set, 2, last), &sum, sizeof sum);
    char words[64];
    snprintf(words, sizeof words, "layer 2 row %lld (chain '%s'",
             (long long)last, f.ids[CHAINS - 1]);
    refused(f.path, words);
    refused(f.path, "not finite");
    fixture_free(&f);
}

Test(damage, cut_short_at_any_length) {
    fixture f;
    make(&f);
    struct stat info;
    stat(f.path, &info);
    ks_err err = {0};
    for (off_t n = info.st_size - 1; n >= 0; n = n * 7 / 8 - 1) {
        cr_assert_eq(truncate(f.path, n), 0);
        cr_assert_neq(ks_acts_verify(f.path, NULL, &err), KS_OK,
                      "%lld of %lld bytes were accepted", (long long)n,
                      (long long)info.st_size);
        cr_assert(strstr(err.text, f.path), "%s", err.text);
    }
    fixture_free(&f);
}

/* The HDF5 library asks for what a damaged file tells it to and copes when it
 * does not get it; the sanitizer would stop there. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "allocator_may_return_null=1";
}

Test(damage, random_bytes_never_crash, .timeout = 120) {
    fixture f;
    make(&f);
    char *good = NULL;
    size_t n;
    ks_err err = {0};
    cr_assert_eq(ks_read_file(f.path, SIZE_MAX, &good, &n, &err), KS_OK);
    uint32_t state = 2463534242u;
    for (int round = 0; round < 300; round++) {
        char *bad = malloc(n);
        memcpy(bad, good, n);
        for (int k = 0; k < 1 + round % 8; k++) {
            state ^= state << 13, state ^= state >> 17, state ^= state << 5;
            /* mostly where the structure is */
            size_t at = state % (round % 2 ? n : KS_MIN(n, 12000));
            bad[at] = (char)(state >> 24);
        }
        cr_assert_eq(ks_write_file(f.path, bad, n, true, &err), KS_OK);
        ks_acts_verify(f.path, NULL, &err);
        free(bad);
    }
    free(good);
    fixture_free(&f);
}

Test(damage, other_files) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, 1u << KS_RESID, 1u << KS_MEAN);
    refused(f.path, "No such file");
    cr_assert_eq(ks_write_file(f.path, "", 0, true, &err), KS_OK);
    refused(f.path, "empty");
    cr_assert_eq(ks_write_file(f.path, "not HDF5", 8, true, &err), KS_OK);
    refused(f.path, "open as HDF5");
    hid_t file = H5Fcreate(f.path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    refused(f.path, "attribute 'format'");
    refused(f.dir, "not a regular file");
    fixture_free(&f);
}

Test(damage, an_unfinished_file_is_said_to_be_one) {
    fixture f;
    ks_err err = {0};
    fixture_make(&f, KS_BF16, 1u << KS_RESID, 1u << KS_MEAN);
    ks_acts *acts = NULL;
    int64_t done;
    cr_assert_eq(ks_acts_create(&acts, f.path, &f.spec, &plain, &done, &err),
                 KS_OK, "%s", err.text);
    cr_assert_eq(write_chains(&f, acts, 0, 2, &err), KS_OK);
    ks_acts_abandon(&acts);
    refused(f.path, "--resume");
    char part[160];
    snprintf(part, sizeof part, "%s.part", f.path);
    refused(part, "--resume");
    /* given the final name by hand it still does not pass */
    rename(part, f.path);
    refused(f.path, "checksum");
    fixture_free(&f);
}

/* ------------------------------------------------------------------- lies */

static void change(const fixture *f, void (*how)(hid_t)) {
    hid_t file = H5Fopen(f->path, H5F_ACC_RDWR, H5P_DEFAULT);
    cr_assert(file >= 0);
    how(file);
    cr_assert(H5Fclose(file) >= 0);
}

static void set_int(hid_t file, const char *name, int64_t value) {
    hid_t a = H5Aopen(file, name, H5P_DEFAULT);
    cr_assert(H5Awrite(a, H5T_NATIVE_INT64, &value) >= 0);
    H5Aclose(a);
}

static void more_layers(hid_t file) {
    set_int(file, "n_layers", LAYERS + 1);
}

static void huge_width(hid_t file) {
    set_int(file, "d_model", INT32_MAX);
}

static void newer(hid_t file) {
    set_int(file, "format_version", 99);
}

static void set_step(hid_t file, const char *name, int32_t value) {
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    int32_t all[MAX_STEPS];
    cr_assert(H5Dread(set, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                      all) >= 0);
    all[3] = value;
    cr_assert(H5Dwrite(set, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                       all) >= 0);
    H5Dclose(set);
}

static void far_chain(hid_t file) {
    set_step(file, "/steps/chain", 1000);
}

static void backward_tokens(hid_t file) {
    set_step(file, "/steps/token_end", -1);
}

static void more_tokens(hid_t file) {
    set_step(file, "/steps/token_end", 1 << 30);
}

static void odd_label(hid_t file) {
    set_step(file, "/steps/label", 5);
}

static void odd_valid(hid_t file) {
    set_step(file, "/steps/valid", 7);
}

static void no_chains(hid_t file) {
    H5Ldelete(file, "/chains/id", H5P_DEFAULT);
}

static void no_activations(hid_t file) {
    H5Ldelete(file, "/activations", H5P_DEFAULT);
}

/* A data set that claims terabytes, in chunks that are not there. */
static void huge_steps(hid_t file) {
    H5Ldelete(file, "/steps/chain", H5P_DEFAULT);
    hsize_t n = (hsize_t)1 << 42, chunk = 1024;
    hid_t how = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(how, 1, &chunk);
    hid_t space = H5Screate_simple(1, &n, NULL);
    hid_t set = H5Dcreate2(file, "/steps/chain", H5T_STD_I32LE, space,
                           H5P_DEFAULT, how, H5P_DEFAULT);
    cr_assert(set >= 0);
    H5Dclose(set);
    H5Sclose(space);
    H5Pclose(how);
}

Test(damage, lies_in_the_structure) {
    static const struct {
        void (*how)(hid_t);
        const char *words;
    } lies[] = {{more_layers, "expected 5"},
                {huge_width, "d_model"},
                {newer, "format_version"},
                {far_chain, "chain 1000"},
                {backward_tokens, "tokens"},
                {more_tokens, "expected"},
                {odd_label, "/steps/label"},
                {odd_valid, "/steps/valid"},
                {no_chains, "/chains/id"},
                {no_activations, "/activations"},
                {huge_steps, "/steps/chain is chunked"}};
    for (size_t i = 0; i < KS_COUNT(lies); i++) {
        fixture f;
        make(&f);
        change(&f, lies[i].how);
        refused(f.path, lies[i].words);
        fixture_free(&f);
    }
}

/* ------------------------------------------------------------------ shards */

/* Joins two files of the same steps, one behind the other, as a join of
 * shards does: real steps and chains, virtual activations. */
static void join(const fixture *f, const char *path, const char *a,
                 const char *b) {
    ks_err err = {0};
    fixture g = *f;
    static ks_step_row steps[2 * MAX_STEPS];
    int64_t n = f->spec.n_steps;
    for (int64_t i = 0; i < 2 * n; i++) steps[i] = f->steps[i % n];
    g.spec.n_steps = 2 * n;
    g.spec.steps = steps;
    ks__acts_layout layout;
    cr_assert_eq(ks__acts_plan(&layout, &g.spec, &err), KS_OK, "%s", err.text);
    cr_assert_eq(ks__acts_build(path, &g.spec, &layout, NULL, &err), KS_OK,
                 "%s", err.text);
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    H5Ldelete(file, "/checksums", H5P_DEFAULT);
    hid_t type = ks__h5_type(f->spec.dtype);
    for (int i = 0; i < layout.n_sets; i++) {
        const ks__acts_set *set = &layout.sets[i];
        char name[64];
        snprintf(name, sizeof name, "/activations/%s/%s",
                 ks_stream_name(set->stream), ks_position_name(set->position));
        H5Ldelete(file, name, H5P_DEFAULT);
        hsize_t half = (hsize_t)set->n_rows / 2;
        hsize_t all[] = {(hsize_t)set->n_layers, 2 * half, WIDTH};
        hsize_t one[] = {(hsize_t)set->n_layers, half, WIDTH};
        hid_t how = H5Pcreate(H5P_DATASET_CREATE);
        hid_t space = H5Screate_simple(3, all, NULL);
        hid_t from = H5Screate_simple(3, one, NULL);
        for (int k = 0; k < 2; k++) {
            hsize_t start[] = {0, (hsize_t)k * half, 0};
            H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, one, NULL);
            cr_assert(H5Pset_virtual(how, space, k ? b : a, name, from) >= 0);
        }
        H5Sselect_all(space);
        uint16_t nan = 0x7fc0;
        H5Pset_fill_value(how, type, &nan);
        hid_t made =
            H5Dcreate2(file, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
        cr_assert(made >= 0);
        H5Dclose(made);
        H5Sclose(from);
        H5Sclose(space);
        H5Pclose(how);
    }
    H5Tclose(type);
    H5Fclose(file);
}

Test(damage, shards_join_and_a_missing_one_is_an_error) {
    fixture f;
    ks_err err = {0};
    make(&f);
    char second[160], joined[160];
    snprintf(second, sizeof second, "%s.ref", f.path);
    snprintf(joined, sizeof joined, "%s/joined.h5", f.dir);
    cr_assert_eq(write_file(&f, second, plain, 9, &err), KS_OK, "%s", err.text);
    join(&f, joined, "x.h5", second); /* one relative, one absolute */
    ks_acts_report report;
    cr_assert_eq(ks_acts_verify(joined, &report, &err), KS_OK, "%s", err.text);
    cr_assert_eq(report.sources, 2);
    cr_assert(report.has_checksums);
    ks_acts_file *file = NULL;
    cr_assert_eq(ks_acts_open(&file, joined, &err), KS_OK, "%s", err.text);
    float row[WIDTH];
    int64_t n = f.spec.n_steps;
    for (int64_t r = 0; r < 2 * n; r++) {
        cr_assert_eq(ks_acts_read(file, KS_RESID, KS_MEAN, 2, r, 1, row, &err),
                     KS_OK, "%s", err.text);
        if (f.steps[r % n].valid)
            cr_assert_eq(row[3], expected(KS_RESID, KS_MEAN, 2, r % n, 3));
    }
    ks_acts_close(&file);
    /* a shard that lost its end, then one that is gone */
    struct stat info;
    stat(second, &info);
    cr_assert_eq(truncate(second, info.st_size - 100), 0);
    refused(joined, second);
    unlink(second);
    refused(joined, second);
    refused(joined, "shard");
    cr_assert_neq(ks_acts_open(&file, joined, &err), KS_OK);
    /* another model's shard */
    f.spec.model_sha256 = "other";
    cr_assert_eq(write_file(&f, second, plain, 9, &err), KS_OK, "%s", err.text);
    refused(joined, "SHA-256");
    unlink(joined);
    fixture_free(&f);
}
