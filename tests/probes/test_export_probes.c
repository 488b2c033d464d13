/* keystep export: what is written gives the scores of probes.h5, and stock
 * readers take it. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <zip.h>

#include "folded.h"
#include "safetensors.h"

#ifdef KS_PROGRAM

#include "export_fixture.h"

static void setup(void) {
    fixture_make(&f);
    cr_assert(eq(int,
                 sh("$K probe --quiet --acts acts.h5 --labels labels.jsonl "
                    "--bootstrap 100 --seeds %d --out out >/dev/null",
                    SEEDS),
                 0),
              "%s", said);
    snprintf(path, sizeof path, "%s/out/probes.h5", f.dir);
}

TestSuite(export_probes, .init = setup, .fini = teardown);

static ks_folded fold(int32_t layer, bool each) {
    ks_folded folded = {0};
    ks_err err = {0};
    ks_folded_options options = {KS_RESID, KS_MEAN, layer, each};
    cr_assert(eq(int, ks_folded_read(&folded, path, &options, &err), KS_OK),
              "%s", err.text);
    return folded;
}

static double score(const ks_folded *p, int64_t fit, const float *x) {
    double z = (double)p->bias[fit];
    for (int j = 0; j < WIDTH; j++)
        z += (double)p->weight[fit * WIDTH + j] * (double)x[j];
    return z;
}

/* Each step's score is the mean over seeds of the fits of its folds. */
Test(export_probes, folded_weights_give_the_scores) {
    static float scores[LAYERS + 1][ROWS], x[ROWS * WIDTH];
    static uint8_t folds[SEEDS][ROWS];
    ks_acts_file *acts;
    ks_folded all = fold(KS_LAYERS_ALL, true),
              mean = fold(KS_LAYERS_ALL, false);
    read_set("/probes/resid-mean/scores", H5T_NATIVE_FLOAT, scores);
    read_set("/fold", H5T_NATIVE_UINT8, folds);
    cr_assert(eq(int, ks_acts_open(&acts, f.acts, NULL), KS_OK));
    cr_assert(eq(int, all.n_layers, LAYERS + 1));
    cr_assert(eq(int, all.n_fits, FITS));
    cr_assert(eq(int, mean.n_fits, 1));
    int checked = 0;
    for (int l = 0; l <= LAYERS; l++) {
        cr_assert(eq(int,
                     ks_acts_read(acts, KS_RESID, KS_MEAN, l, 0, ROWS, x, NULL),
                     KS_OK));
        for (int i = 0; i < ROWS; i++) {
            if (folds[0][i] == 255) continue;
            double z = 0, every = 0;
            for (int s = 0; s < SEEDS; s++)
                z += score(&all, l * FITS + s * FOLDS + folds[s][i],
                           x + i * WIDTH) /
                     SEEDS;
            cr_expect(epsilon_eq(dbl, z, (double)scores[l][i], 2e-5));
            for (int k = 0; k < FITS; k++)
                every += score(&all, l * FITS + k, x + i * WIDTH) / FITS;
            cr_expect(
                epsilon_eq(dbl, score(&mean, l, x + i * WIDTH), every, 1e-5));
            checked++;
        }
    }
    cr_expect(eq(int, checked, (LAYERS + 1) * (CHAINS * (STEPS - 1) - 1)));
    ks_acts_close(&acts);
    ks_folded_free(&all);
    ks_folded_free(&mean);
}

Test(export_probes, the_best_layer_is_the_one_most_chose) {
    ks_folded best = fold(KS_LAYER_BEST, false), two = fold(2, false);
    cr_expect(eq(int, best.layer[0], TELLING_LAYER));
    cr_expect(
        eq(int, memcmp(best.weight, two.weight, sizeof(float) * WIDTH), 0));
    ks_folded_free(&best);
    ks_folded_free(&two);
}

/* -------------------------------------------------------------- safetensors */

Test(export_probes, safetensors) {
    ks_folded p = fold(KS_LAYERS_ALL, true);
    ks_safetensors *s;
    ks_err err = {0};
    cr_assert(eq(int,
                 sh("$K export out --position mean --layer all --fold all "
                    "--out p.safetensors"),
                 0),
              "%s", said);
    cr_assert(eq(int, ks_safetensors_open(&s, in_folder("p.safetensors"), &err),
                 KS_OK),
              "%s", err.text);
    const ks_st_tensor *weight = ks_safetensors_find(s, "weight");
    const ks_st_tensor *bias = ks_safetensors_find(s, "bias");
    const ks_st_tensor *layer = ks_safetensors_find(s, "layer");
    cr_assert(weight && bias && layer);
    const int64_t shape[] = {LAYERS + 1, SEEDS, FOLDS, WIDTH};
    cr_expect(eq(int, weight->n_dims, 4));
    cr_expect(eq(int, bias->n_dims, 3));
    for (int i = 0; i < 4; i++) cr_expect(eq(i64, weight->dims[i], shape[i]));
    for (int i = 0; i < 3; i++) cr_expect(eq(i64, bias->dims[i], shape[i]));
    cr_expect(eq(sz, weight->size, sizeof(float) * 4 * FITS * WIDTH));
    cr_expect(eq(int, memcmp(weight->data, p.weight, weight->size), 0));
    cr_expect(eq(int, memcmp(bias->data, p.bias, bias->size), 0));
    cr_expect(eq(int, memcmp(layer->data, p.layer, layer->size), 0));
    ks_safetensors_close(&s);
    ks_folded_free(&p);
}

/* ---------------------------------------------------------------------- npz */

static size_t member(const char *name, char *out, size_t size) {
    int code;
    zip_t *z = zip_open(in_folder("p.npz"), ZIP_RDONLY, &code);
    cr_assert(z != NULL);
    zip_stat_t info;
    cr_assert(eq(int, zip_stat(z, name, 0, &info), 0), "%s", name);
    cr_expect(eq(int, info.comp_method, ZIP_CM_STORE));
    cr_assert(lt(sz, info.size, size));
    zip_file_t *file = zip_fopen(z, name, 0);
    cr_assert(eq(i64, zip_fread(file, out, info.size), (int64_t)info.size));
    zip_fclose(file);
    zip_close(z);
    out[info.size] = 0;
    return info.size;
}

Test(export_probes, npz) {
    static char bytes[1 << 16];
    ks_folded p = fold(KS_LAYER_BEST, false);
    cr_assert(eq(int,
                 sh("$K export out --position mean --out p.npz && "
                    "sleep 2.1; TZ=Asia/Tokyo $K export out/probes.h5 "
                    "--position mean --format npz --out q && cmp p.npz q"),
                 0),
              "%s", said);
    size_t n = member("weight.npy", bytes, sizeof bytes);
    cr_expect(eq(sz, n, 128 + sizeof(float) * WIDTH));
    cr_expect(eq(int, memcmp(bytes, "\x93NUMPY\1\0\x76\0", 10), 0));
    cr_expect(strstr(bytes + 10, "{'descr': '<f4', 'fortran_order': False, "
                                 "'shape': (6,), }") == bytes + 10);
    cr_expect(eq(chr, bytes[127], '\n'));
    cr_expect(eq(int, memcmp(bytes + 128, p.weight, sizeof(float) * WIDTH), 0));
    member("bias.npy", bytes, sizeof bytes);
    cr_expect(strstr(bytes + 10, "'shape': (), }") != NULL);
    cr_expect(eq(int, memcmp(bytes + 128, p.bias, sizeof(float)), 0));
    member("metadata.npy", bytes, sizeof bytes);
    cr_expect(strstr(bytes + 128, "\"layer\":\"2\"") != NULL, "%s",
              bytes + 128);
    cr_expect(strstr(bytes + 128, "\"model_sha256\":\"ab12\"") != NULL);
    ks_folded_free(&p);
}

/* --------------------------------------------------------------------- ONNX */

Test(export_probes, onnx) {
    ks_folded p = fold(2, true);
    char *bytes;
    size_t n;
    uint64_t v = 0;
    cr_assert(eq(int,
                 sh("$K export out --position mean --layer 2 --fold all "
                    "--out p.onnx"),
                 0),
              "%s", said);
    cr_assert(eq(int,
                 ks_read_file(in_folder("p.onnx"), SIZE_MAX, &bytes, &n, NULL),
                 KS_OK));
    wire model = {(const uint8_t *)bytes, (const uint8_t *)bytes + n};
    field(field(model, 8, 0, NULL), 2, 0, &v);
    cr_expect(eq(u64, v, 13));
    wire graph = field(model, 7, 0, NULL);
    cr_expect(says(field(field(graph, 1, 0, NULL), 4, 0, NULL), "Gemm"));
    cr_expect(says(field(field(graph, 1, 1, NULL), 4, 0, NULL), "Sigmoid"));
    cr_expect(
        says(field(field(graph, 11, 0, NULL), 1, 0, NULL), "activations"));
    cr_expect(says(field(field(graph, 12, 0, NULL), 1, 0, NULL), "score"));
    cr_expect(
        says(field(field(graph, 12, 1, NULL), 1, 0, NULL), "probability"));
    wire weight = field(graph, 5, 0, NULL), raw = field(weight, 9, 0, NULL);
    field(weight, 1, 0, &v);
    cr_expect(eq(u64, v, FITS));
    field(weight, 1, 1, &v);
    cr_expect(eq(u64, v, WIDTH));
    cr_assert(eq(sz, (size_t)(raw.end - raw.at), sizeof(float) * FITS * WIDTH));
    cr_expect(
        eq(int, memcmp(raw.at, p.weight, sizeof(float) * FITS * WIDTH), 0));
    raw = field(field(graph, 5, 1, NULL), 9, 0, NULL);
    cr_assert(eq(sz, (size_t)(raw.end - raw.at), sizeof(float) * FITS));
    cr_expect(eq(int, memcmp(raw.at, p.bias, sizeof(float) * FITS), 0));
    free(bytes);
    ks_folded_free(&p);
}

/* Stock readers; the script compares with probes.h5 itself. */
Test(export_probes, stock_readers, .timeout = 120) {
    const char *python = getenv("KS_PEERS");
    if (!python || access(python, X_OK) != 0)
        cr_skip_test("KS_PEERS names no Python with onnxruntime and "
                     "safetensors");
    cr_assert(
        eq(int,
           sh("'%s' " KS_TEST_DATA "/../probes/read_exports.py $K .", python),
           0),
        "%s", said);
}

/* ----------------------------------------------------------------- refusals */

Test(export_probes, refuses_wrong_usage) {
    static const struct {
        const char *args, *says;
    } wrong[] = {
        {"--out p.npz", "probes.h5 is missing"},
        {"out", "--out is missing"},
        {"out --out p.txt", "--format is"},
        {"out --out p.npz --format pickle", "got 'pickle'"},
        {"out --out p.npz --fold 3", "--fold is"},
        {"out --out p.npz --layer last", "--layer"},
        {"out --out p.npz --position tokens", "knows no 'tokens'"},
        {"out --out p.npz", "leave 2 of them"},
        {"out --out p.npz --position first", "leave 0 of them"},
        {"out --out p.npz --position mean --layer 4", "layer 4"},
        {"out --out p.onnx --position mean --layer all", "one layer"},
        {"out/probes.h5 --out out/probes.h5 --format npz --force",
         "out/probes.h5"},
    };
    for (size_t i = 0; i < KS_COUNT(wrong); i++) {
        cr_expect(eq(int, sh("$K export %s", wrong[i].args), 2), "%s: %s",
                  wrong[i].args, said);
        cr_expect(strstr(said, wrong[i].says) != NULL, "%s: %s", wrong[i].args,
                  said);
        cr_expect(eq(int, sh("test -e p.npz -o -e p.onnx"), 1));
    }
    cr_expect(eq(int,
                 sh("echo >p.npz && $K export out --position mean --out "
                    "p.npz"),
                 1));
    cr_expect(strstr(said, "--force") != NULL, "%s", said);
    cr_expect(eq(int, sh("$K export nowhere --out q.npz"), 1));
    cr_expect(eq(int, sh("$K export labels.jsonl --out q.npz"), 1));
    cr_expect(strstr(said, "labels.jsonl") != NULL, "%s", said);
    cr_expect(eq(int,
                 sh("head -c 3000 out/probes.h5 >cut.h5; $K export cut.h5 "
                    "--position mean --out q.npz"),
                 1));
    cr_expect(eq(int, sh("test -e q.npz"), 1));
}

Test(export_probes, refuses_values_that_cannot_be) {
    static const struct {
        const char *name;
        double value;
    } bad[] = {{"/probes/resid-mean/scale", 0},
               {"/probes/resid-mean/scale", -1},
               {"/probes/resid-mean/scale", NAN},
               {"/probes/resid-mean/mean", INFINITY},
               {"/probes/resid-mean/weight", NAN},
               {"/probes/resid-mean/bias", NAN}};
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        static const hsize_t at[4] = {TELLING_LAYER, 1, 2, 3};
        spoil(bad[i].name, at, bad[i].value);
        cr_expect(
            eq(int, sh("$K export bad.h5 --position mean --out q.npz"), 1),
            "%s %g", bad[i].name, bad[i].value);
        cr_expect(strstr(said, "fit 7 of layer 2") != NULL, "%s", said);
        cr_expect(eq(int, sh("test -e q.npz"), 1));
    }
}

#endif
