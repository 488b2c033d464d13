/* selectivity.c - ks_selectivity_run of analyses.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyses.h"

/* The label of a text: the same wherever it stands. Trimmed, as texts in two
 * folds are counted. */
static ks_status control_labels(const ks_dataset *d, uint64_t seed, int8_t *y,
                                ks_err *err) {
    ks_status st = KS_OK;
    ks_sha256 *hash = NULL;
    for (int64_t i = 0; i < d->n; i++) {
        char hex[65], key[40];
        size_t n;
        const char *text = ks_dataset_text(d, i, &n);
        ks_span span = ks_text_trim(text, (ks_span){0, n});
        snprintf(key, sizeof key, "control %llu ", (unsigned long long)seed);
        KS_TRY(ks_sha256_open(&hash, err));
        ks_sha256_add(hash, key, strlen(key));
        ks_sha256_add(hash, text + span.begin, span.end - span.begin);
        ks_sha256_close(&hash, hex);
        y[i] = (hex[0] >= '8'); /* half of the sixteen digits */
    }
done:
    return st;
}

enum { REAL, REAL_RIGHT = 2, CONTROL = 4, CONTROL_RIGHT = 6, N_SUMS = 8 };

static void apart(const double *t, const void *user, double *out) {
    (void)user;
    for (int k = 0; k < 2; k++) {
        const double *n = t + (k ? CONTROL : REAL);
        out[k] = 0.5 * (n[2] / n[0] + n[3] / n[1]);
    }
    out[2] = out[0] - out[1];
}

static ks_status compare(ks_selectivity *out, const ks_analysis_input *in,
                         const float *real, const int8_t *y,
                         const float *control, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = in->dataset;
    double *sums = NULL;
    ks_interval got[3];
    KS_TRY(ks_alloc(&sums, (size_t)d->n_groups * N_SUMS, sizeof *sums,
                    "selectivity", err));
    for (int64_t i = 0; i < d->n; i++) {
        double *t = sums + d->group[i] * N_SUMS;
        t[REAL + d->y[i]]++;
        t[REAL_RIGHT + d->y[i]] += (real[i] > 0) == d->y[i];
        t[CONTROL + y[i]]++;
        t[CONTROL_RIGHT + y[i]] += (control[i] > 0) == y[i];
    }
    KS_TRY(ks_stats_of_sums(sums, d->n_groups, N_SUMS, apart, NULL, 3,
                            in->options->bootstrap, in->options->seed, got,
                            err));
    out->real = got[0];
    out->control = got[1];
    out->selectivity = got[2];
done:
    free(sums);
    return st;
}

ks_status ks_selectivity_run(ks_selectivity *out, const ks_analysis_input *in,
                             const ks_series *series, int32_t *fits,
                             int32_t *unconverged, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = in->dataset;
    const ks_folds *f = in->folds;
    int32_t usual = ks_series_usual(series, f->n_seeds * f->n_folds);
    size_t n = (size_t)d->n;
    const int8_t *sets[KS_MAX_SEEDS];
    ks_interval none = {NAN, NAN, NAN};
    ks_err own = {0};
    int8_t *y = NULL;
    float *score = NULL, *by_seed = NULL;
    *out = (ks_selectivity){series->cells[usual].layer, none, none, none};
    KS_TRY(ks_alloc(&y, n, 1, "control labels", err));
    KS_TRY(ks_alloc(&score, n, sizeof *score, "scores", err));
    KS_TRY(ks_alloc(&by_seed, (size_t)f->n_seeds * n, sizeof *by_seed, "scores",
                    err));
    KS_TRY(control_labels(d, in->options->seed, y, err));
    for (int32_t s = 0; s < f->n_seeds; s++) sets[s] = y;
    st = ks__analysis_fit(by_seed, in, series, series->chosen, sets, f, fits,
                          unconverged, &own);
    if (st == KS_MISMATCH) { /* few texts: a part of one class */
        st = KS_OK;
        goto done;
    }
    KS_CHECK(st == KS_OK, st, "control task: %s", own.text);
    ks_mean_over_seeds(by_seed, f, score);
    KS_TRY(compare(out, in, series->score, y, score, err));
done:
    free(y);
    free(score);
    free(by_seed);
    return st;
}
