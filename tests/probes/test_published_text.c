/* test_published_text.c - the published text baseline: features equal to
 * scikit-learn's TfidfVectorizer, figures to PyTorch's on the same steps and
 * batches (tests/golden/make_published_text.py). */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "published_text.h"

enum { MOST = 1000, OF_CHAIN = 5 };

static json_t *golden;
static ks_err err;

static void setup(void) {
    json_error_t reason;
    golden =
        json_load_file(KS_TEST_DATA "/probes/published_text.json", 0, &reason);
    cr_assert(golden != NULL, "%s", reason.text);
}

static void teardown(void) {
    json_decref(golden);
}

TestSuite(published_text, .init = setup, .fini = teardown);

static ks_words *words_of(json_t *texts) {
    ks_words *words = NULL;
    json_t *text;
    size_t i;
    cr_assert(eq(int, ks_words_open(&words, &err), KS_OK));
    json_array_foreach(texts, i, text)
        cr_assert(eq(int,
                     ks_words_add_plain(words, json_string_value(text),
                                        json_string_length(text), &err),
                     KS_OK));
    return words;
}

static void check_features(const ks_words *words, json_t *want, int32_t n_train,
                           int32_t most) {
    int32_t rows[MOST], n = (int32_t)json_array_size(want);
    float *x = NULL;
    int64_t d = 0;
    for (int32_t i = 0; i < n; i++) rows[i] = i;
    cr_assert(
        eq(int,
           ks__published_tfidf(words, rows, n_train, n, most, &x, &d, &err),
           KS_OK),
        "%s", err.text);
    cr_assert(eq(sz, (size_t)d, json_array_size(json_array_get(want, 0))));
    for (int32_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++) {
            double v = json_number_value(
                json_array_get(json_array_get(want, (size_t)i), (size_t)j));
            cr_assert(fabs((double)x[i * d + j] - v) <= 1e-6,
                      "row %d term %lld: %g, scikit-learn has %g", i,
                      (long long)j, (double)x[i * d + j], v);
        }
    free(x);
}

Test(published_text, features_are_those_of_scikit_learn) {
    json_t *small = json_object_get(golden, "small");
    ks_words *words = words_of(json_object_get(small, "texts"));
    int32_t n_train =
        (int32_t)json_integer_value(json_object_get(small, "n_train"));
    int32_t most = (int32_t)json_integer_value(json_object_get(small, "most"));
    json_t *all = json_object_get(small, "all");
    cr_assert(json_array_size(json_array_get(all, 0)) > (size_t)most);
    check_features(words, all, n_train, KS_PUBLISHED_TERMS);
    check_features(words, json_object_get(small, "some"), n_train, most);
    ks_words_close(&words);
}

Test(published_text, words_of_one_letter_are_none) {
    ks_words *words = NULL;
    const int32_t rows[] = {0, 1};
    float *x = NULL;
    int64_t d;
    cr_assert(eq(int, ks_words_open(&words, &err), KS_OK));
    cr_assert(eq(int, ks_words_add_plain(words, "x = 7", 5, &err), KS_OK));
    cr_assert(eq(int, ks_words_add_plain(words, "now", 3, &err), KS_OK));
    cr_expect(eq(int, ks__published_tfidf(words, rows, 1, 2, 9, &x, &d, &err),
                 KS_MISMATCH));
    cr_expect(strstr(err.text, "no training step has a word") != NULL, "%s",
              err.text);
    cr_expect(x == NULL);
    ks_words_close(&words);
}

/* Chains of five steps, each step a text of its own. */
typedef struct rows {
    ks_dataset d;
    ks_chain chain[MOST];
    const ks_chain *of[MOST];
    ks_span span[MOST];
    int8_t y[MOST];
    int32_t group[MOST];
} rows;

static void open_rows(rows *r) {
    json_t *texts = json_object_get(golden, "texts"), *text;
    json_t *removable = json_object_get(golden, "removable");
    size_t i;
    memset(r, 0, sizeof *r);
    json_array_foreach(texts, i, text) {
        r->chain[i].text = json_string_value(text);
        r->of[i] = &r->chain[i];
        r->span[i] = (ks_span){0, json_string_length(text)};
        r->y[i] = !json_integer_value(json_array_get(removable, i));
        r->group[i] = (int32_t)i / OF_CHAIN;
    }
    r->d = (ks_dataset){.n = (int64_t)json_array_size(texts),
                        .y = r->y,
                        .group = r->group,
                        .chain = r->group,
                        .n_groups = (int32_t)i / OF_CHAIN,
                        .n_chains = (int32_t)i / OF_CHAIN,
                        .has_text = true,
                        .span = r->span,
                        .of = r->of};
}

Test(published_text, is_what_pytorch_trains) {
    static rows r;
    json_t *want;
    size_t s;
    open_rows(&r);
    const ks_grid_options grid = {
        .nest = {.threads = 2}, .bootstrap = 300, .seed = 1};
    ks_published_texts got = {0};
    cr_assert(eq(int,
                 ks_published_texts_run(&got, &r.d, true, NULL, 0, &grid, &err),
                 KS_OK),
              "%s", err.text);
    cr_assert(eq(int, got.n, 1));
    const ks_published_text *t = &got.at[0];
    double mean = 0;
    cr_expect(eq(str, (char *)t->name, "TF-IDF"));
    json_array_foreach(json_object_get(golden, "seeds"), s, want) {
        double accuracy = json_number_value(json_object_get(want, "accuracy"));
        cr_expect(eq(int, t->n_inputs[s],
                     (int)json_integer_value(json_object_get(want, "inputs"))));
        cr_expect(fabs(t->rung.seed_accuracy[s] - accuracy) <= 1e-9,
                  "seed %zu: %g, PyTorch %g", 42 + s, t->rung.seed_accuracy[s],
                  accuracy);
        mean += accuracy / KS_PUBLISHED_SEEDS;
    }
    cr_assert(eq(sz, s, KS_PUBLISHED_SEEDS));
    cr_expect(fabs(t->rung.accuracy.value - mean) <= 1e-9);
    cr_expect(fabs(t->rung.balanced.value - mean) <= 1e-9,
              "both classes have as many rows");
    cr_expect(t->rung.accuracy.low < mean && mean < t->rung.accuracy.high);
    cr_expect(t->rung.sd >= 0 && t->rung.sd < 0.1, "%g", t->rung.sd);
    ks_published_texts_free(&got);
}

static ks_grid_options bound(size_t limit) {
    return (ks_grid_options){
        .nest = {.threads = 1},
        .room = {.limit = limit, .start = ks_process_bytes()},
        .bootstrap = 100,
        .seed = 1};
}

/* Too little memory, for the net or for the n-grams: it is left out, and
 * nothing else is. */
Test(published_text, what_does_not_fit_is_left_out) {
    static rows r;
    open_rows(&r);
    static const size_t limits[] = {1 << 20, 1};
    for (size_t k = 0; k < KS_COUNT(limits); k++) {
        const ks_grid_options grid = bound(limits[k]);
        ks_published_texts got = {0};
        cr_assert(
            eq(int,
               ks_published_texts_run(&got, &r.d, true, NULL, 0, &grid, &err),
               KS_OK),
            "%s", err.text);
        cr_expect(eq(int, got.n, 0));
        ks_published_texts_free(&got);
    }
}

Test(published_vectors, what_do_not_fit_are_left_out) {
    static fixture f;
    fixture_make(&f);
    const ks_dataset_paths paths = {.acts = f.acts, .labels = f.labels};
    const ks_grid_options grid = bound(1);
    ks_dataset *d = NULL;
    ks_published_texts got = {0};
    cr_assert(eq(int, ks_dataset_open(&d, &paths, &err), KS_OK), "%s",
              err.text);
    const ks_published_vectors vectors = {"noise",  d->acts, d->row,
                                          KS_RESID, KS_MEAN, 0};
    cr_assert(
        eq(int,
           ks_published_texts_run(&got, d, false, &vectors, 1, &grid, &err),
           KS_OK),
        "%s", err.text);
    cr_expect(eq(int, got.n, 0));
    ks_published_texts_free(&got);
    ks_dataset_close(&d);
    fixture_free(&f);
}

/* Vectors of a layer that tells the label, and of one that does not; without
 * text nothing else. */
Test(published_vectors, are_read_by_the_same_net) {
    static fixture f;
    fixture_make(&f);
    const ks_dataset_paths paths = {.acts = f.acts, .labels = f.labels};
    const ks_grid_options grid = {
        .nest = {.threads = 2}, .bootstrap = 200, .seed = 1};
    ks_dataset *d = NULL;
    ks_published_texts got = {0};
    cr_assert(eq(int, ks_dataset_open(&d, &paths, &err), KS_OK), "%s",
              err.text);
    const ks_published_vectors vectors[] = {
        {"telling", d->acts, d->row, KS_RESID, KS_MEAN, TELLING_LAYER},
        {"noise", d->acts, d->row, KS_RESID, KS_MEAN, 0}};
    cr_assert(eq(int,
                 ks_published_texts_run(&got, d, true, vectors, 2, &grid, &err),
                 KS_OK),
              "%s", err.text);
    cr_assert(eq(int, got.n, 2));
    cr_expect(eq(str, got.at[0].name, "telling"));
    cr_expect(eq(int, got.at[0].n_inputs[2], WIDTH));
    cr_expect(gt(dbl, got.at[0].rung.accuracy.low, 0.9));
    double chance = got.at[1].rung.accuracy.value;
    cr_expect(fabs(chance - 0.5) < 0.12, "%g", chance);
    /* as many of each class as the smaller has; a fifth of them, three times */
    int64_t least = KS_MIN(d->n_important, d->n_removable);
    cr_expect(eq(i64, got.at[0].rung.n_eval, 6 * ((least + 4) / 5)));
    ks_published_texts_free(&got);
    ks_dataset_close(&d);
    fixture_free(&f);
}
