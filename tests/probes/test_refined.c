/* test_refined.c - directions, sparse probes, attention and graded importance
 * in a whole evaluation, on planted truths: a layer that tells, a token in
 * each step that does, a score that is a direction; and the words that ask for
 * them. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <hdf5.h>
#include <math.h>

#include "export.h"
#include "fixture.h"
#include "rows.h"
#include "table.h"

enum { TOKENS = 4, SCORED_NOT = 7 };

static fixture f;
static ks_err err;
static const double strengths[] = {1e-3, 1e-2, 1e-1, 1};
static ks_evaluation_options options;
static ks_evaluation evaluation;

/* In [0, 1): removable, unlabelled, important steps one above the other. */
static float depth_of(int row) {
    return (1.0f +
            (float)(f.y[row] < 0 ? 0
                    : f.y[row]   ? 1
                                 : -1) +
            draw(50, (uint64_t)row)) /
           3;
}

/* Token t of a step: feature 1 is +-2.5 in all of them, the label's in one
 * alone, which feature 0 marks. */
static void fill_token(int row, int t, float *x) {
    int telling = (int)(TOKENS * draw(51, (uint64_t)row));
    uint64_t place = (uint64_t)(row * TOKENS + t);
    bool one = t == telling ? f.y[row] == 1 : draw(52, place) < 0.5f;
    for (int j = 0; j < WIDTH; j++)
        x[j] = 0.3f * noise(53, place * WIDTH + (uint64_t)j);
    x[1] += one ? 2.5f : -2.5f;
    x[0] += t == telling ? 2 : 0;
}

static void fill_row(ks_position p, int32_t layer, int row, float *x) {
    float token[WIDTH];
    fill(&f, p, layer, row, x);
    if (p == KS_BEFORE && layer == 1) x[3] += 4 * depth_of(row);
    if (p == KS_BEFORE && layer == LAYERS) x[4] += 4 * (float)(row % STEPS);
    if (p != KS_MEAN || layer != LAYERS) return;
    memset(x, 0, WIDTH * sizeof *x);
    for (int t = 0; t < TOKENS; t++) {
        fill_token(row, t, token);
        for (int j = 0; j < WIDTH; j++) x[j] += token[j] / TOKENS;
    }
}

/* The fixture's file again: with tokens, and a layer that scores go by. */
static ks_status write_tokens(uint32_t positions, ks_err *e) {
    ks_status st = KS_OK;
    ks_acts *acts = NULL;
    int64_t done;
    static float x[ROWS * WIDTH], tokens[ROWS * TOKENS * WIDTH];
    ks_acts_spec spec = {.streams = 1u << KS_RESID,
                         .positions = positions,
                         .n_layers = LAYERS,
                         .d = WIDTH,
                         .dtype = KS_F32,
                         .n_steps = ROWS,
                         .n_chains = CHAINS,
                         .steps = f.steps,
                         .chains = f.rows,
                         .random_weights = -1,
                         .model_name = "tiny",
                         .model_sha256 = "ab12",
                         .tokenizer_hash = "cd34",
                         .isa = "avx2",
                         .backend = "cpu",
                         .config = "{}"};
    const ks_acts_options force = {.force = true};
    KS_TRY(ks_acts_create(&acts, f.acts, &spec, &force, &done, e));
    for (int32_t l = 0; l <= LAYERS; l++)
        for (ks_position p = 0; p < KS_N_POSITIONS; p++) {
            if (!(positions >> p & 1)) continue;
            for (int i = 0; i < ROWS; i++)
                if (p == KS_TOKENS)
                    for (int t = 0; t < TOKENS; t++)
                        fill_token(i, t, tokens + (i * TOKENS + t) * WIDTH);
                else
                    fill_row(p, l, i, x + i * WIDTH);
            KS_TRY(ks_acts_write(acts, KS_RESID, p, l, 0,
                                 p == KS_TOKENS ? ROWS * TOKENS : ROWS,
                                 p == KS_TOKENS ? tokens : x, e));
        }
    KS_TRY(ks_acts_commit(acts, 0, ROWS, e));
    return ks_acts_finish(&acts, e);
done:
    ks_acts_abandon(&acts);
    return st;
}

static void write_scores(void) {
    FILE *file = fopen(f.labels, "w");
    for (int c = 0; c < CHAINS; c++) {
        fprintf(file, "{\"chain\":\"%s\",\"labels\":[", f.ids[c]);
        for (int i = 0; i < STEPS; i++)
            fprintf(file, f.y[c * STEPS + i] < 0 ? "%snull" : "%s%d",
                    i ? "," : "", f.y[c * STEPS + i]);
        fprintf(file, "],\"scores\":{\"same\":[1,1,1,1,1,1],\"depth\":[");
        for (int i = 0; i < STEPS; i++)
            if (c * STEPS + i == SCORED_NOT)
                fprintf(file, "%snull", i ? "," : "");
            else /* heavy tails: ranks do not mind */
                fprintf(file, "%s%.6g", i ? "," : "",
                        exp(9 * (double)depth_of(c * STEPS + i)));
        fprintf(file, "],\"late\":[");
        for (int i = 0; i < STEPS; i++)
            fprintf(file, "%s%.6g", i ? "," : "",
                    i + 0.8 * (double)depth_of(c * STEPS + i));
        fprintf(file, "]}}\n");
    }
    fclose(file);
}

static void setup(void) {
    fixture_make(&f);
    ks_status st =
        write_tokens(1u << KS_MEAN | 1u << KS_BEFORE | 1u << KS_TOKENS, &err);
    cr_assert(eq(int, st, KS_OK), "%s", err.text);
    write_scores();
    options = (ks_evaluation_options){
        .paths = {.acts = f.acts, .labels = f.labels, .chains = f.chains},
        .grid = {.nest = {.n_strengths = 4,
                          .strengths = strengths,
                          .threads = 2},
                 .bootstrap = 200,
                 .seed = 1},
        .no_text = true,
        .n_folds = 5,
        .n_inner = 4,
        .n_seeds = 1};
}

static void teardown(void) {
    ks_evaluation_free(&evaluation);
    fixture_free(&f);
}

TestSuite(refined, .init = setup, .fini = teardown);

static void run(void) {
    cr_assert(eq(int, ks_evaluate(&evaluation, &options, &err), KS_OK), "%s",
              err.text);
}

static const ks_other *other_of(const char *probe, ks_position position) {
    for (int32_t i = 0; i < evaluation.others.n; i++) {
        const ks_other *o = &evaluation.others.at[i];
        if (strcmp(o->probe, probe) == 0 && o->position == position) return o;
    }
    cr_assert(false, "no %s", probe);
    return NULL;
}

static json_t *summary(const char *section) {
    json_t *all = NULL;
    cr_assert(eq(int, ks_export_json(&evaluation, &all, &err), KS_OK), "%s",
              err.text);
    json_t *found = json_incref(json_object_get(all, section));
    json_decref(all);
    return found;
}

static double value_of(json_t *interval) {
    return json_number_value(json_object_get(interval, "value"));
}

/* ------------------------------------------------------------------ one label
 */

Test(refined, directions_find_the_layer_that_tells) {
    options.refined.directions = 1u << KS_MEAN_DIFFERENCE | 1u << KS_LDA;
    run();
    const ks_directions *d = &evaluation.refined.directions[0];
    cr_expect(eq(int, d->layer, TELLING_LAYER));
    cr_expect(eq(int, evaluation.others.n, 4)); /* two series */
    for (ks_direction k = 0; k < KS_N_DIRECTIONS; k++) {
        const ks_other *o = other_of(ks_direction_name(k), KS_MEAN);
        cr_expect(gt(dbl, o->metrics[KS_BALANCED_ACCURACY].low, 0.95));
        cr_expect(lt(dbl, fabs(o->minus_best.value), 0.03));
        cr_expect(eq(dbl, d->accuracy[k][TELLING_LAYER].value,
                     o->metrics[KS_BALANCED_ACCURACY].value));
        cr_expect(lt(dbl, d->accuracy[k][0].value, 0.6));
        /* what is predicted is meant: a planted gap of 5 deviations */
        cr_expect(lt(dbl, o->metrics[KS_BRIER].value, 0.03));
    }
    cr_expect(gt(dbl, d->l2_mean, 0.9));
    cr_expect(gt(dbl, d->l2_lda, 0.9));
    cr_expect(gt(dbl, d->mean_lda, 0.9));
    json_t *list = summary("directions");
    cr_assert(eq(sz, json_array_size(list), 2));
    json_t *first = json_array_get(list, 0);
    cr_expect(eq(dbl, d->l2_lda,
                 json_number_value(json_object_get(first, "cosine_l2_lda"))));
    cr_expect(
        eq(sz, json_array_size(json_object_get(first, "layers")), LAYERS + 1));
    json_decref(list);
}

Test(refined, one_dimension_is_needed_where_one_tells) {
    options.refined.l1 = true;
    run();
    const ks_sparse *s = &evaluation.refined.sparse[0];
    cr_expect(eq(int, s->layer, TELLING_LAYER));
    cr_expect(eq(dbl, s->needed, 1));
    cr_expect(gt(dbl, s->accuracy.low, 0.95));
    cr_expect(eq(int, evaluation.refined.unconverged, 0));
    /* 15 sets held out; more where folds chose different layers */
    cr_expect(ge(int, evaluation.refined.fits, 2 * 15 * KS_SPARSE_POINTS));
    for (int k = 0; k < 5; k++) cr_expect(eq(int, s->layers[k], s->layer));
    const ks_other *o = other_of("L1", KS_MEAN);
    cr_expect(eq(int, o->layer, -1));
    cr_expect(
        eq(dbl, o->metrics[KS_BALANCED_ACCURACY].value, s->accuracy.value));
    json_t *list = summary("sparse");
    json_t *points = json_object_get(json_array_get(list, 0), "points");
    cr_expect(eq(sz, json_array_size(points), KS_SPARSE_POINTS));
    cr_expect(eq(dbl, s->points[3].accuracy.value,
                 value_of(json_object_get(json_array_get(points, 3),
                                          "balanced_accuracy"))));
    json_decref(list);
}

Test(refined, attention_finds_the_token_that_tells) {
    options.refined.attention = options.refined.attention_all = true;
    run();
    cr_assert(eq(int, evaluation.refined.n_attended, LAYERS + 1));
    const ks_attended *a = &evaluation.refined.attended[LAYERS];
    cr_expect(eq(int, a->layer, LAYERS));
    cr_expect(gt(dbl, a->accuracy.low, 0.9), "%g", a->accuracy.low);
    cr_expect(lt(dbl, a->mean.value, 0.8), "the mean: %g", a->mean.value);
    cr_expect(gt(dbl, a->less_mean.low, 0.1));
    cr_expect(lt(dbl, a->entropy, 0.6));
    cr_expect(eq(dbl, a->even, 1.0 / TOKENS));
    /* the token is anywhere: its share is the same at both ends */
    cr_expect(lt(dbl, fabs(a->first - a->last), 0.1));
    json_t *list = summary("attention");
    cr_expect(eq(sz, json_array_size(list), LAYERS + 1));
    json_decref(list);
}

/* No label to find: what is found is a row's own label that leaked. */
Test(refined, attention_scores_rows_that_it_never_saw) {
    enum { FEW = 60, D = 20 };
    int64_t offset[FEW + 1];
    int8_t y[FEW];
    uint8_t fold[FEW];
    float *x = malloc(sizeof *x * FEW * 3 * D);
    ks_attended_fit fit = {0};
    int right = 0;
    cr_assert(x != NULL);
    for (int i = 0; i < FEW * 3 * D; i++) x[i] = noise(60, (uint64_t)i);
    for (int i = 0; i <= FEW; i++) offset[i] = 3 * i;
    for (int i = 0; i < FEW; i++) {
        y[i] = draw(61, (uint64_t)i) < 0.5f;
        fold[i] = (uint8_t)(i / (FEW / 5));
    }
    const ks_attention_rows rows = {FEW, D, offset, y, fold};
    const ks_l2_source tokens = {.n = FEW * 3, .d = D, .type = KS_F32, .x = x};
    const ks_folds folds = {FEW, 5, 4, 1, fold};
    const ks_nest_options nest = {.threads = 2};
    cr_assert(
        eq(int,
           ks_attended_fit_rows(&fit, &tokens, &rows, &folds, &nest, 1, &err),
           0),
        "%s", err.text);
    for (int i = 0; i < FEW; i++) right += (fit.score[i] > 0) == y[i];
    cr_expect(lt(int, right, 42), "%d of %d", right, FEW);
    ks_attended_fit_free(&fit);
    free(x);
}

Test(refined, attention_needs_tokens) {
    ks_status st = write_tokens(1u << KS_MEAN, &err);
    cr_assert(eq(int, st, KS_OK), "%s", err.text);
    options.refined.attention = true;
    st = ks_evaluate(&evaluation, &options, &err);
    cr_expect(eq(int, st, KS_USAGE));
    cr_expect(strstr(err.text, "--positions mean,tokens") != NULL, "%s",
              err.text);
}

/* --------------------------------------------------------------------- graded
 */

Test(refined, a_score_is_read_off_the_layer_that_has_it) {
    options.refined.n_graded = 1;
    strcpy(options.refined.graded[0], "depth");
    run();
    const ks_graded *g = &evaluation.refined.graded[0];
    const ks_graded_series *s = &g->series[1];
    cr_assert(eq(int, s->position, KS_BEFORE));
    cr_expect(eq(i64, g->rows->n, ROWS - 2)); /* one not valid, one null */
    cr_expect(gt(i64, g->rows->n_unlabelled, CHAINS - 2));
    for (int k = 0; k < g->n_fits; k++) cr_expect(eq(int, s->chosen[k], 1));
    cr_expect(gt(dbl, s->best.spearman.low, 0.6), "%g", s->best.spearman.low);
    cr_expect(gt(dbl, s->best.within.low, 0.5));
    cr_expect(gt(dbl, s->best.r2.low, 0.35));
    cr_expect(gt(dbl, s->surface_free.low, 0.5));
    for (int b = 0; b < 2; b++)
        cr_expect(gt(dbl, s->bands[b].low, 0.6), "%g", s->bands[b].low);
    cr_expect(lt(dbl, s->layers[0].spearman.low, 0.15));
    cr_expect(eq(int, g->n_baselines, 3));
    /* the last step of each chain is unlabelled, hence in the middle; no more
     * is to be had from the place */
    cr_expect(lt(dbl, g->baselines[0].figures.spearman.value, 0.25));
    json_t *list = summary("graded");
    cr_assert(eq(sz, json_array_size(list), 2));
    json_t *best = json_object_get(json_array_get(list, 1), "best");
    cr_expect(eq(dbl, s->best.spearman.value,
                 value_of(json_object_get(best, "spearman"))));
    cr_expect(eq(dbl, s->bands[1].value,
                 value_of(json_object_get(json_object_get(best, "bands"),
                                          "unlabelled_important"))));
    json_decref(list);
}

/* Place makes most of it, which one layer has; what it leaves, another. */
Test(refined, what_surface_leaves_has_a_layer_of_its_own) {
    options.refined.n_graded = 1;
    strcpy(options.refined.graded[0], "late");
    run();
    const ks_graded *g = &evaluation.refined.graded[0];
    const ks_graded_series *s = &g->series[1];
    for (int k = 0; k < g->n_fits; k++)
        cr_expect(eq(int, s->chosen[k], LAYERS));
    cr_expect(gt(dbl, s->best.spearman.low, 0.9));
    cr_expect(lt(dbl, s->layers[1].spearman.high, 0.5));
    cr_expect(gt(dbl, g->baselines[0].figures.spearman.low, 0.9));
    cr_expect(gt(dbl, s->surface_free.low, 0.5), "%g", s->surface_free.low);
}

Test(refined, scores_that_are_not_there_are_told) {
    options.refined.n_graded = 1;
    strcpy(options.refined.graded[0], "influence");
    ks_status st = ks_evaluate(&evaluation, &options, &err);
    cr_expect(eq(int, st, KS_MISMATCH));
    cr_expect(strstr(err.text, "no step has a score \"influence\"") &&
                  strstr(err.text, "same, depth, late"),
              "%s", err.text);
    strcpy(options.refined.graded[0], "same");
    st = ks_evaluate(&evaluation, &options, &err);
    cr_expect(eq(int, st, KS_MISMATCH));
    cr_expect(strstr(err.text, "the same for all") != NULL, "%s", err.text);
}

/* -------------------------------------------------------------------- the rest
 */

static void read_set(hid_t file, const char *name, float *out, hssize_t n) {
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    cr_assert(set >= 0, "%s", name);
    hid_t space = H5Dget_space(set);
    cr_assert(eq(i64, H5Sget_simple_extent_npoints(space), n), "%s", name);
    cr_assert(H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                      out) >= 0);
    H5Sclose(space);
    H5Dclose(set);
}

/* What probes.h5 holds of a direction gives its scores. */
Test(refined, weights_in_the_file_give_the_scores) {
    static float x[ROWS * WIDTH];
    float weight[5 * WIDTH], bias[5], mean[(LAYERS + 1) * 5 * WIDTH],
        scale[(LAYERS + 1) * 5 * WIDTH];
    char path[128], name[64];
    options.refined.directions = 1u << KS_LDA;
    options.refined.l1 = true;
    options.grid.nest.keep_weights = true;
    run();
    snprintf(path, sizeof path, "%s/probes.h5", f.dir);
    cr_assert(eq(int, ks_export_h5(&evaluation, path, &err), KS_OK), "%s",
              err.text);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    cr_assert(file >= 0);
    read_set(file, "/probes/resid-mean/mean", mean, KS_COUNT(mean));
    read_set(file, "/probes/resid-mean/scale", scale, KS_COUNT(scale));
    const ks_dataset *d = evaluation.dataset;
    cr_assert(eq(int,
                 ks_acts_read(d->acts, KS_RESID, KS_MEAN, TELLING_LAYER, 0,
                              ROWS, x, &err),
                 KS_OK));
    static const char *const names[] = {"lda", "l1"};
    static const char *const probes[] = {"LDA", "L1"};
    for (size_t k = 0; k < KS_COUNT(names); k++) {
        const ks_other *o = other_of(probes[k], KS_MEAN);
        snprintf(name, sizeof name, "/probes/resid-mean/%s/weight", names[k]);
        read_set(file, name, weight, 5 * WIDTH);
        snprintf(name, sizeof name, "/probes/resid-mean/%s/bias", names[k]);
        read_set(file, name, bias, 5);
        for (int64_t i = 0; i < d->n; i++) {
            int fit = evaluation.fold[i];
            int at = (TELLING_LAYER * 5 + fit) * WIDTH;
            double z = (double)bias[fit];
            for (int j = 0; j < WIDTH; j++)
                z += (double)weight[fit * WIDTH + j] *
                     (double)((x[d->row[i] * WIDTH + j] - mean[at + j]) /
                              scale[at + j]);
            cr_expect(
                lt(dbl, fabs(z - (double)o->score[i]), 1e-4 * (1 + fabs(z))),
                "%s row %lld", names[k], (long long)i);
        }
    }
    H5Fclose(file);
}

/* Labels that nothing tells, so that outer folds choose different layers: L1
 * and attention are each fold's on its own. */
Test(refined, layers_are_chosen_without_the_test_rows) {
    static float x[LAYERS + 1][ROWS * WIDTH];
    for (int row = 0; row < ROWS; row++)
        if (f.y[row] >= 0) f.y[row] = draw(35, (uint64_t)row) < 0.5f;
    write_scores();
    options.refined.l1 = options.refined.attention = true;
    options.grid.nest.keep_weights = true;
    run();
    const ks_series *series = &evaluation.grid.series[0];
    const ks_sparse *s = &evaluation.refined.sparse[0];
    const ks_dataset *d = evaluation.dataset;
    bool differ = false;
    for (int k = 0; k < 5; k++) {
        differ |= series->chosen[k] != series->chosen[0];
        cr_expect(
            eq(int, s->layers[k], series->cells[series->chosen[k]].layer));
    }
    cr_assert(differ, "all folds chose one layer: nothing is tested");
    for (int l = 0; l <= LAYERS; l++)
        cr_assert(
            eq(int,
               ks_acts_read(d->acts, KS_RESID, KS_MEAN, l, 0, ROWS, x[l], &err),
               KS_OK));
    const ks_other *o = other_of("L1", KS_MEAN);
    for (int64_t i = 0; i < d->n; i++) {
        int fit = evaluation.fold[i];
        const ks_nest *nest = &series->cells[series->chosen[fit]].nest;
        const float *row = x[s->layers[fit]] + d->row[i] * WIDTH;
        double z = (double)s->bias[fit];
        for (int j = 0; j < WIDTH; j++)
            z += (double)(s->weight[fit * WIDTH + j] *
                          (row[j] - nest->mean[fit * WIDTH + j]) /
                          nest->scale[fit * WIDTH + j]);
        cr_expect(lt(dbl, fabs(z - (double)o->score[i]), 1e-4 * (1 + fabs(z))),
                  "row %lld", (long long)i);
    }
    const ks_attended *a = &evaluation.refined.attended[0];
    o = other_of("attention", KS_MEAN);
    cr_expect(
        eq(dbl, a->mean.value, series->metrics[KS_BALANCED_ACCURACY].value));
    cr_expect(eq(dbl, a->less_mean.value, o->minus_best.value));
    const ks_analysis_input in = {d, &evaluation.grid, &evaluation.folds,
                                  &options.grid};
    ks_others each = {0};
    for (int32_t c = 0; c < series->n_cells; c++) {
        ks_attended one;
        int32_t fits = 0, unconverged = 0;
        cr_assert(eq(int,
                     ks_attended_run(&one, &each, &in, series, c, &fits,
                                     &unconverged, &err),
                     KS_OK),
                  "%s", err.text);
    }
    for (int64_t i = 0; i < d->n; i++)
        cr_assert(eq(flt, o->score[i],
                     each.at[series->chosen[evaluation.fold[i]]].score[i]),
                  "row %lld", (long long)i);
    ks_others_free(&each);
}

Test(refined, tables_name_all_that_was_asked_for) {
    ks_str text = {0};
    options.refined = (ks_refined_options){.directions = 1u << KS_LDA,
                                           .l1 = true,
                                           .attention = true,
                                           .n_graded = 1,
                                           .graded = {"depth"}};
    run();
    cr_assert(eq(int, ks_table_write(&evaluation, true, &text, &err), KS_OK));
    static const char *const titles[] = {
        "Cosine of directions", "Dimensions that carry the signal",
        "Attention over a step's tokens", "Score \"depth\" from activations"};
    for (size_t k = 0; k < KS_COUNT(titles); k++)
        cr_expect(strstr(text.data, titles[k]) != NULL, "%s", titles[k]);
    /* a layer that is most folds' choice and not all of a figure */
    cr_expect(strstr(text.data, "resid/mean, layer 2 (most folds) |") != NULL);
    cr_expect(strstr(text.data, "| layer (most folds) | attention") != NULL);
    cr_expect(strstr(text.data, "- LDA: ") &&
              !strstr(text.data, "mean diff: "));
    ks_str_free(&text);
    /* one layer, as most folds chose it at mean */
    cr_expect(eq(int, evaluation.refined.n_attended, 1));
    cr_expect(eq(int, evaluation.refined.attended[0].layer, TELLING_LAYER));
}

Test(words, are_read_by_one_parser) {
    ks_kinds_options kinds = {0};
    ks_refined_options got = {0};
    cr_assert(eq(int,
                 ks_probe_words_read("lda,lw-mlp:64,l2,attention:all,l1",
                                     &kinds, &got, &err),
                 KS_OK));
    cr_expect(eq(u32, got.directions, 1u << KS_LDA));
    cr_expect(got.l1 && got.attention && got.attention_all);
    cr_expect(eq(int, kinds.n_recipes, 1));
    cr_expect(eq(str, kinds.recipes[0].name, "lw-mlp 64"));
    cr_assert(
        eq(int, ks_probe_words_read("mean-difference", &kinds, &got, &err), 0));
    cr_expect(eq(u32, got.directions, 1u << KS_MEAN_DIFFERENCE));
    cr_expect(not(got.l1 || got.attention));
    cr_expect(eq(int, kinds.n_recipes, 0));
    static const char *const bad[][2] = {
        {"lda,lda", "twice"},    {"attention,attention:all", "twice"},
        {"l1:3", "expected l2"}, {"", "expected l2"},
        {"lda,", "expected l2"}, {"ldaa", "mean-difference, lda"}};
    for (size_t k = 0; k < KS_COUNT(bad); k++) {
        ks_status st = ks_probe_words_read(bad[k][0], &kinds, &got, &err);
        cr_expect(eq(int, st, KS_USAGE), "%s", bad[k][0]);
        cr_expect(strstr(err.text, bad[k][1]) != NULL, "%s: %s", bad[k][0],
                  err.text);
    }
    cr_assert(eq(int, ks_graded_read("influence,drop", &got, &err), KS_OK));
    cr_expect(eq(int, got.n_graded, 2));
    cr_expect(eq(str, got.graded[1], "drop"));
    cr_expect(eq(int, ks_graded_read("drop,drop", &got, &err), KS_USAGE));
    cr_expect(eq(int, ks_graded_read("drop,", &got, &err), KS_USAGE));
    cr_expect(
        eq(int, ks_graded_read("a,b,c,d,e,f,g,h,i", &got, &err), KS_USAGE));
}
