/* keystep export --probe: networks that AdamW trained as ONNX. What is written
 * gives the scores of probes.h5, also where a feature lies far from 0, and
 * onnxruntime takes it. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "folded_net.h"

#ifdef KS_PROGRAM

#include "export_fixture.h"

static void setup(void) {
    fixture_make_far(&f, 5000);
    cr_assert(
        eq(int,
           sh("$K probe --quiet --acts acts.h5 --labels labels.jsonl "
              "--strengths 0.1 --no-text --analyses none --bootstrap 100 "
              "--positions mean --seeds %d --probes "
              "linear,mlp:8x2,lw-linear,lw-mlp:8,linear-layer,mlp-layer:8 "
              "--out out >/dev/null",
              SEEDS),
           0),
        "%s", said);
    snprintf(path, sizeof path, "%s/out/probes.h5", f.dir);
}

TestSuite(export_networks, .init = setup, .fini = teardown);

static const struct {
    const char *word, *name, *op; /* op: the graph's first */
    int hidden;
} kinds[] = {{"linear", "linear", "ReduceMean", 0},
             {"mlp:8x2", "mlp 8x2", "ReduceMean", 2},
             {"lw-linear", "lw-linear", "Flatten", 0},
             {"lw-mlp:8", "lw-mlp 8", "Flatten", 1},
             {"linear-layer", "linear-layer", "Sub", 0},
             {"mlp-layer:8", "mlp-layer 8", "Sub", 1}};

static ks_folded_net fold(const char *kind, bool each) {
    ks_folded_net net = {0};
    ks_err err = {0};
    ks_folded_options options = {KS_RESID, KS_MEAN, KS_LAYER_BEST, each};
    cr_assert(
        eq(int, ks_folded_net_read(&net, path, kind, &options, &err), KS_OK),
        "%s", err.text);
    return net;
}

/* --------------------------------------------------------------------- folded
 */

/* What a fit says of its inputs. */
static double score(const ks_folded_net *net, int64_t fit, const float *x) {
    double in[LAYERS * WIDTH], out[LAYERS * WIDTH] = {0};
    for (int64_t j = 0; j < ks_folded_net_inputs(net, 0); j++)
        in[j] = (double)x[j] - (double)net->centre[j];
    for (int32_t l = 0; l <= net->recipe.n_hidden; l++) {
        int64_t n = ks_folded_net_inputs(net, l),
                units = ks_folded_net_units(net, l);
        for (int64_t u = 0; u < units; u++) {
            const float *w = net->weight[l] + (fit * units + u) * n;
            out[u] = (double)net->bias[l][fit * units + u];
            for (int64_t j = 0; j < n; j++) out[u] += (double)w[j] * in[j];
        }
        for (int64_t u = 0; u < units; u++) in[u] = fmax(out[u], 0);
    }
    return out[0];
}

/* Step i as a kind reads it. */
static void take_inputs(const ks_folded_net *net, int64_t i, float *x) {
    for (int32_t l = 0; l < net->n_layers; l++) {
        float row[WIDTH];
        fill(&f, KS_MEAN, net->layer[l], i, row);
        for (int j = 0; j < WIDTH; j++) {
            if (net->recipe.input != KS_INPUT_MEAN)
                x[l * WIDTH + j] = row[j];
            else
                x[j] = (l ? x[j] : 0) + row[j];
        }
    }
    for (int j = 0; net->recipe.input == KS_INPUT_MEAN && j < WIDTH; j++)
        x[j] /= (float)net->n_layers;
}

/* Each step's score is the mean over seeds of the fits of its folds. */
Test(export_networks, folded_weights_give_the_scores) {
    static float scores[LAYERS + 1][ROWS];
    static uint8_t folds[SEEDS][ROWS];
    read_set("/fold", H5T_NATIVE_UINT8, folds);
    for (size_t k = 0; k < KS_COUNT(kinds); k++) {
        char name[96];
        ks_folded_net net = fold(kinds[k].word, true);
        bool each = net.recipe.input == KS_INPUT_EACH;
        double worst = 0;
        int checked = 0;
        cr_expect(eq(int, net.n_layers, each ? 1 : LAYERS));
        cr_expect(eq(int, net.d, WIDTH));
        cr_expect(eq(int, net.layer[0], each ? TELLING_LAYER : 1));
        snprintf(name, sizeof name, "/probes/resid-mean/trained/%s/scores",
                 kinds[k].name);
        read_set(name, H5T_NATIVE_FLOAT, scores);
        for (int64_t i = 0; i < ROWS; i++) {
            float x[LAYERS * WIDTH];
            double z = 0;
            if (folds[0][i] == 255) continue;
            take_inputs(&net, i, x);
            for (int s = 0; s < SEEDS; s++)
                z += score(&net, s * FOLDS + folds[s][i], x) / SEEDS;
            worst = fmax(worst,
                         fabs(z - (double)scores[each ? TELLING_LAYER : 0][i]));
            checked++;
        }
        cr_expect(lt(dbl, worst, 2e-5), "%s: %g", kinds[k].name, worst);
        cr_expect(eq(int, checked, CHAINS *(STEPS - 1) - 1));
        ks_folded_net_free(&net);
    }
}

/* ----------------------------------------------------------------------- ONNX
 */

static int count_ops(wire graph, const char *op) {
    int n = 0;
    for (int k = 0; field(graph, 1, k, NULL).at; k++)
        n += says(field(field(graph, 1, k, NULL), 4, 0, NULL), op);
    return n;
}

/* The bytes of an initializer. */
static wire values(wire graph, const char *name) {
    for (int k = 0; field(graph, 5, k, NULL).at; k++)
        if (says(field(field(graph, 5, k, NULL), 8, 0, NULL), name))
            return field(field(graph, 5, k, NULL), 9, 0, NULL);
    return (wire){NULL, NULL};
}

static bool same(wire w, const float *want, int64_t n) {
    return w.at && (size_t)(w.end - w.at) == (size_t)n * sizeof *want &&
           memcmp(w.at, want, (size_t)n * sizeof *want) == 0;
}

Test(export_networks, onnx_holds_every_fit) {
    char name[192];
    for (size_t k = 0; k < KS_COUNT(kinds); k++) {
        ks_folded_net net = fold(kinds[k].word, false);
        int32_t last = net.recipe.n_hidden;
        int64_t inputs = ks_folded_net_inputs(&net, 0),
                units = ks_folded_net_units(&net, 0);
        char *bytes;
        size_t n;
        cr_assert(eq(int,
                     sh("$K export out --probe %s --out p.onnx --force && $K "
                        "export out --probe '%s' --format onnx --out q --force "
                        "&& cmp p.onnx q",
                        kinds[k].word, kinds[k].name),
                     0),
                  "%s", said);
        cr_expect(strstr(said, kinds[k].name) != NULL, "%s", said);
        snprintf(name, sizeof name, "%s/p.onnx", f.dir);
        cr_assert(
            eq(int, ks_read_file(name, SIZE_MAX, &bytes, &n, NULL), KS_OK));
        wire model = {(const uint8_t *)bytes, (const uint8_t *)bytes + n},
             graph = field(model, 7, 0, NULL);
        cr_expect(
            says(field(field(graph, 1, 0, NULL), 4, 0, NULL), kinds[k].op));
        cr_expect(eq(int, count_ops(graph, "Gemm"), FITS *(last + 1)));
        cr_expect(eq(int, count_ops(graph, "Relu"), FITS *last));
        cr_expect(same(values(graph, "centre"), net.centre, inputs));
        cr_expect(
            same(values(graph, "weight0_0"), net.weight[0], units * inputs));
        cr_expect(same(values(graph, "bias0_0"), net.bias[0], units));
        snprintf(name, sizeof name, "bias%d_%d", last, FITS - 1);
        cr_expect(same(values(graph, name), net.bias[last] + FITS - 1, 1));
        free(bytes);
        ks_folded_net_free(&net);
    }
}

/* The script compares with probes.h5 itself. */
Test(export_networks, stock_readers, .timeout = 120) {
    const char *python = getenv("KS_PEERS");
    if (!python || access(python, X_OK) != 0)
        cr_skip_test("KS_PEERS names no Python with onnxruntime");
    cr_assert(
        eq(int,
           sh("'%s' " KS_TEST_DATA "/../probes/read_networks.py $K .", python),
           0),
        "%s", said);
    fprintf(stderr, "%s", said);
}

/* ------------------------------------------------------------------ refusals
 */

Test(export_networks, refuses_what_is_not_there) {
    static const struct {
        const char *args, *says;
        int code;
    } wrong[] = {
        {"out --probe lda --out p.onnx", "expected l2, linear, mlp", 2},
        {"out --probe lw-mlp:9 --out p.onnx",
         "has no probe lw-mlp 9 of resid at mean", 2},
        {"out --probe lw-mlp:9 --out p.onnx",
         "'keystep probe --probes' trains them", 2},
        {"out --probe mlp:8x2 --out p.npz", "ONNX alone", 2},
        {"out --probe mlp:8x2 --out p.safetensors", "ONNX alone", 2},
        {"out --probe mlp:8x2 --layer 2 --out p.onnx", "takes no --layer", 2},
        {"out --probe mlp-layer:8 --layer 7 --out p.onnx",
         "layer 7 has no probe mlp-layer 8", 2},
        {"out --probe mlp-layer:8 --layer all --out p.onnx", "one layer", 2},
        {"bad.h5 --probe lw-mlp:8 --out p.onnx",
         "has no weights of lw-mlp 8 of resid at mean", 1},
    };
    cr_assert(eq(int, sh("cp out/probes.h5 bad.h5"), 0));
    char bad[192];
    snprintf(bad, sizeof bad, "%s/bad.h5", f.dir);
    hid_t file = H5Fopen(bad, H5F_ACC_RDWR, H5P_DEFAULT);
    cr_assert(H5Ldelete(file, "/probes/resid-mean/trained/lw-mlp 8/weight0",
                        H5P_DEFAULT) >= 0);
    H5Fclose(file);
    for (size_t i = 0; i < KS_COUNT(wrong); i++) {
        cr_expect(eq(int, sh("$K export %s", wrong[i].args), wrong[i].code),
                  "%s: %s", wrong[i].args, said);
        cr_expect(strstr(said, wrong[i].says) != NULL, "%s: %s", wrong[i].args,
                  said);
        cr_expect(
            eq(int, sh("test -e p.npz -o -e p.onnx -o -e p.safetensors"), 1));
    }
}

Test(export_networks, refuses_values_that_cannot_be) {
    static const struct {
        const char *name;
        double value;
        const char *says;
    } bad[] = {{"scale", 0, "fit 7 of lw-mlp 8"},
               {"scale", -1, "fit 7 of lw-mlp 8"},
               {"mean", INFINITY, "fit 7 of lw-mlp 8"},
               {"weight0", NAN, "fit 7 of lw-mlp 8"},
               {"bias0", NAN, "bias0"},
               {"weight1", NAN, "weight1"},
               {"bias1", INFINITY, "bias1"}};
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        static const hsize_t at[5] = {0, 1, 2};
        char name[160];
        snprintf(name, sizeof name, "/probes/resid-mean/trained/lw-mlp 8/%s",
                 bad[i].name);
        spoil(name, at, bad[i].value);
        cr_expect(
            eq(int, sh("$K export bad.h5 --probe lw-mlp:8 --out q.onnx"), 1),
            "%s %g", bad[i].name, bad[i].value);
        cr_expect(strstr(said, bad[i].says) != NULL, "%s", said);
        cr_expect(eq(int, sh("test -e q.onnx"), 1));
    }
}

#endif
