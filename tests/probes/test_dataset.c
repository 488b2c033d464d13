/* The join of activations, labels and chains, and what it refuses. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "fixture.h"
#include "layer.h"

static fixture f;
static ks_dataset *d;
static ks_err err;

static void setup(void) {
    fixture_make(&f);
}

static void teardown(void) {
    ks_dataset_close(&d);
    fixture_free(&f);
}

TestSuite(dataset, .init = setup, .fini = teardown);

static ks_status open_all(void) {
    ks_dataset_paths paths = {.acts = f.acts,
                              .labels = f.labels,
                              .chains = f.chains,
                              .strata = "hops"};
    return ks_dataset_open(&d, &paths, &err);
}

/* The file's text with one piece exchanged. */
static void edit(const char *path, const char *from, const char *to) {
    char *text;
    size_t n;
    cr_assert(eq(int, ks_read_file(path, SIZE_MAX, &text, &n, &err), KS_OK));
    char *at = strstr(text, from);
    cr_assert(at != NULL);
    FILE *file = fopen(path, "w");
    fwrite(text, 1, (size_t)(at - text), file);
    fputs(to, file);
    fputs(at + strlen(from), file);
    fclose(file);
    free(text);
}

Test(dataset, joins_labelled_valid_rows) {
    cr_assert(eq(int, open_all(), KS_OK), "%s", err.text);
    cr_expect(eq(i64, d->n, CHAINS * (STEPS - 1) - 1));
    cr_expect(eq(i64, d->n_unlabelled, CHAINS));
    cr_expect(eq(i64, d->n_invalid, 1));
    cr_expect(eq(int, d->n_groups, PROBLEMS));
    cr_expect(eq(int, d->n_chains, CHAINS));
    for (int64_t i = 0; i < d->n; i++) {
        int64_t row = d->row[i];
        cr_assert(eq(int, d->y[i], f.y[row]));
        cr_assert(eq(str, (char *)d->group_ids[d->group[i]],
                     f.problems[f.steps[row].chain]));
        cr_assert(eq(int, d->chain_row[d->chain[i]], f.steps[row].chain));
        cr_assert(eq(int, d->stratum[i], f.hops[row] - 1));
        size_t n;
        const char *text = ks_dataset_text(d, i, &n);
        cr_assert(eq(sz, n, 20));
        cr_assert(
            eq(int,
               memcmp(text,
                      f.text[f.steps[row].chain] + f.steps[row].byte_begin, 20),
               0));
    }
    cr_expect(eq(int, d->n_strata, 2));
    cr_expect(eq(str, d->strata[0], "1"));
    cr_expect(eq(int, ks_dataset_steps(d, 0), STEPS));
}

Test(dataset, reads_the_rows_of_a_layer) {
    static float x[ROWS * WIDTH];
    cr_assert(eq(int, open_all(), KS_OK), "%s", err.text);
    ks_layer layer = {.dataset = d,
                      .file = d->acts,
                      .place = d->row,
                      .stream = KS_RESID,
                      .position = KS_BEFORE,
                      .layer = 1};
    ks_l2_source source = ks_layer_source(&layer);
    cr_assert(eq(int, source.read(source.user, 0, d->n, x, &err), KS_OK));
    for (int64_t i = 0; i < d->n; i++) {
        float want[WIDTH];
        fill(&f, KS_BEFORE, 1, d->row[i], want);
        cr_assert(eq(int, memcmp(x + i * WIDTH, want, sizeof want), 0));
    }
}

Test(dataset, refuses_a_chain_that_is_not_there) {
    edit(f.labels, "\"p3/0\"", "\"p3/9\"");
    cr_assert(eq(int, open_all(), KS_MISMATCH));
    cr_expect(strstr(err.text, "p3/9") != NULL, "%s", err.text);
}

Test(dataset, refuses_another_number_of_steps) {
    edit(f.labels, "null]", "null,1]");
    cr_assert(ne(int, open_all(), KS_OK));
    edit(f.labels, "\"hops\":[", "\"hops\":[1,");
    cr_assert(eq(int, open_all(), KS_MISMATCH));
    cr_expect(strstr(err.text, "7 labels") != NULL, "%s", err.text);
}

Test(dataset, refuses_labels_of_another_text) {
    edit(f.labels, "\"scores\"", "\"text_sha256\":\"00ff\",\"scores\"");
    cr_assert(eq(int, open_all(), KS_MISMATCH));
    cr_expect(strstr(err.text, "another text") != NULL, "%s", err.text);
}

Test(dataset, refuses_chains_of_another_text) {
    edit(f.chains, " so ", " as ");
    cr_assert(eq(int, open_all(), KS_MISMATCH));
    cr_expect(strstr(err.text, "p0/0") != NULL, "%s", err.text);
}

Test(dataset, refuses_missing_chains) {
    edit(f.chains, "\"id\":\"p1/0\"", "\"id\":\"p1/7\"");
    cr_assert(eq(int, open_all(), KS_MISMATCH));
    cr_expect(strstr(err.text, "p1/0") != NULL, "%s", err.text);
}

/* Clean chains lack their original's first step; the first two clean steps of
 * chain 0 are its steps 1 and 2 in one. */
Test(dataset, projects_labels_of_clean_chains) {
    char clean[96], lines[96];
    snprintf(clean, sizeof clean, "%s/clean.jsonl", f.dir);
    snprintf(lines, sizeof lines, "%s/clean-labels.jsonl", f.dir);
    FILE *chains = fopen(clean, "w"), *labels = fopen(lines, "w");
    for (int c = 0; c < CHAINS; c++) {
        fprintf(chains,
                "{\"id\":\"clean %d\",\"problem\":\"p\",\"prompt\":\"\","
                "\"text\":\"abc\",\"of\":\"%s\",\"map\":%s,\"steps\":["
                "{\"begin\":0,\"end\":1},{\"begin\":1,\"end\":2},"
                "{\"begin\":2,\"end\":3}]}\n",
                c, f.ids[c], c ? "[1,2,null]" : "[[1,2],3,3]");
        fprintf(labels,
                "{\"chain\":\"clean %d\",\"labels\":%s,"
                "\"hops\":[3,4,5]}\n",
                c, c ? "[1,0,1]" : "[1,0,1]");
    }
    fclose(chains);
    fclose(labels);
    ks_dataset_paths paths = {.acts = f.acts,
                              .labels = lines,
                              .chains = f.chains,
                              .strata = "hops",
                              .clean = clean};
    cr_assert(eq(int, ks_dataset_open(&d, &paths, &err), KS_OK), "%s",
              err.text);
    /* step 1 of chain 0 is not valid in the file; its step 3 is claimed as
     * both, hence null */
    cr_expect(eq(i64, d->n, 1 + 2 * (CHAINS - 1)));
    cr_expect(eq(i64, d->row[0], 2));
    cr_expect(eq(int, d->y[0], 1));
    cr_expect(eq(i64, d->row[1], STEPS + 1));
    cr_expect(eq(int, d->y[1], 1));
    cr_expect(eq(i64, d->row[2], STEPS + 2));
    cr_expect(eq(int, d->y[2], 0));
    cr_expect(eq(int, d->n_strata, 1)); /* of important steps: 3 alone */
    cr_expect(eq(str, d->strata[0], "3"));
    ks_dataset_close(&d);
    edit(clean, "null", "6");
    cr_expect(eq(int, ks_dataset_open(&d, &paths, &err), KS_MISMATCH));
    cr_expect(strstr(err.text, "0 to 5") != NULL, "%s", err.text);
    edit(clean, ",6]", "]");
    cr_expect(eq(int, ks_dataset_open(&d, &paths, &err), KS_FORMAT));
    cr_expect(strstr(err.text, "list of 3 steps") != NULL, "%s", err.text);
    edit(clean, "\"of\":\"p0/0\"", "\"of\":\"p0/9\"");
    cr_expect(eq(int, ks_dataset_open(&d, &paths, &err), KS_MISMATCH));
    cr_expect(strstr(err.text, "p0/9") != NULL, "%s", err.text);
    edit(clean, "\"of\":\"p0/9\"", "\"of\":\"p1/0\"");
    edit(clean, "\"map\":[1,2]", "\"map\":[1,2,null]");
    cr_expect(eq(int, ks_dataset_open(&d, &paths, &err), KS_MISMATCH));
    cr_expect(strstr(err.text, "another labelled chain") != NULL, "%s",
              err.text);
}

Test(dataset, refuses_one_class) {
    for (int i = 0; i < ROWS; i++)
        if (f.y[i] == 0) f.y[i] = 1;
    write_labels(&f, f.labels);
    cr_assert(eq(int, open_all(), KS_MISMATCH));
    cr_expect(strstr(err.text, "0 removable") != NULL, "%s", err.text);
}

Test(dataset, refuses_a_file_without_labels) {
    ks_dataset_paths paths = {.acts = f.acts};
    cr_assert(eq(int, ks_dataset_open(&d, &paths, &err), KS_USAGE));
}

Test(dataset, refuses_strata_that_do_not_fit) {
    edit(f.labels, "\"hops\":[", "\"hops\":[1,");
    cr_assert(eq(int, open_all(), KS_MISMATCH));
    cr_expect(strstr(err.text, "hops") != NULL, "%s", err.text);
}

/* The same chains in the opposite order. */
static ks_status write_reversed(void) {
    static fixture g;
    g = f;
    for (int c = 0; c < CHAINS; c++) {
        g.rows[c] = f.rows[CHAINS - 1 - c];
        for (int i = 0; i < STEPS; i++) {
            g.steps[c * STEPS + i] = f.steps[(CHAINS - 1 - c) * STEPS + i];
            g.steps[c * STEPS + i].chain = c;
        }
    }
    return write_acts(&g, f.other, 1u << KS_MEAN, &err);
}

Test(dataset, matches_another_file_by_id) {
    ks_acts_file *other = NULL;
    static int64_t place[ROWS];
    cr_assert(eq(int, open_all(), KS_OK), "%s", err.text);
    cr_assert(eq(int, write_reversed(), KS_OK), "%s", err.text);
    cr_assert(eq(int, ks_acts_open(&other, f.other, &err), KS_OK));
    cr_assert(eq(int, ks_dataset_match(d, other, f.other, place, &err), KS_OK),
              "%s", err.text);
    for (int64_t i = 0; i < d->n; i++) {
        const ks_step_row *s = &f.steps[d->row[i]];
        cr_assert(
            eq(i64, place[i], (CHAINS - 1 - s->chain) * STEPS + s->index));
    }
    ks_acts_close(&other);
}

Test(dataset, refuses_a_file_that_lacks_a_step) {
    ks_acts_file *other = NULL;
    static int64_t place[ROWS];
    cr_assert(eq(int, open_all(), KS_OK), "%s", err.text);
    strcpy(f.ids[2], "gone");
    cr_assert(eq(int, write_acts(&f, f.other, 1u << KS_MEAN, &err), KS_OK));
    cr_assert(eq(int, ks_acts_open(&other, f.other, &err), KS_OK));
    cr_assert(
        eq(int, ks_dataset_match(d, other, f.other, place, &err), KS_MISMATCH));
    cr_expect(strstr(err.text, "p2/0") != NULL, "%s", err.text);
    ks_acts_close(&other);
    strcpy(f.ids[2], "p2/0");
    f.steps[2 * STEPS].valid = 0;
    cr_assert(eq(int, write_acts(&f, f.other, 1u << KS_MEAN, &err), KS_OK));
    cr_assert(eq(int, ks_acts_open(&other, f.other, &err), KS_OK));
    cr_assert(
        eq(int, ks_dataset_match(d, other, f.other, place, &err), KS_MISMATCH));
    cr_expect(strstr(err.text, "no activation") != NULL, "%s", err.text);
    ks_acts_close(&other);
}
