/* refinement.c - ks_refine of analyses.h. */
#include <gsl/gsl_statistics_double.h>
#include <math.h>
#include <stdlib.h>

#include "analyses.h"

static const double NEAR = 0.03;

/* ---------------------------------------------------- with the last layer */

enum { ROWS, ALIKE, A, B, AA, BB, AB, N_SUMS };

static void alike(const double *t, const void *user, double *out) {
    (void)user;
    double n = t[ROWS], a = t[AA] - t[A] * t[A] / n,
           b = t[BB] - t[B] * t[B] / n;
    out[0] = t[ALIKE] / n;
    out[1] = a > 0 && b > 0 ? (t[AB] - t[A] * t[B] / n) / sqrt(a * b) : NAN;
}

static ks_status with_last(ks_refinement *out, const ks_analysis_input *in,
                           const ks_series *s, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = in->dataset;
    const float *last = s->cells[s->n_cells - 1].score;
    double *sums = NULL, centre[2];
    size_t size = (size_t)d->n_groups * N_SUMS;
    KS_TRY(ks_alloc(&sums, size, sizeof *sums, "agreement", err));
    for (int32_t c = 0; c < s->n_cells; c++) {
        const float *score = s->cells[c].score;
        ks_interval got[2];
        /* near the means no digits are lost to large common parts */
        centre[0] = (double)score[0], centre[1] = (double)last[0];
        for (size_t i = 0; i < size; i++) sums[i] = 0;
        for (int64_t i = 0; i < d->n; i++) {
            double *t = sums + d->group[i] * N_SUMS;
            double a = (double)score[i] - centre[0],
                   b = (double)last[i] - centre[1];
            t[ROWS]++;
            t[ALIKE] += (score[i] > 0) == (last[i] > 0);
            t[A] += a, t[B] += b, t[AA] += a * a, t[BB] += b * b;
            t[AB] += a * b;
        }
        KS_TRY(ks_stats_of_sums(sums, d->n_groups, N_SUMS, alike, NULL, 2,
                                in->options->bootstrap, in->options->seed, got,
                                err));
        out->agreement[c] = got[0];
        out->correlation[c] = got[1];
    }
done:
    free(sums);
    return st;
}

/* ----------------------------------------------------------- over the layers
 */

enum { MOST_LAYERS = 512 };

/* Spearman's. Where it is 0, rounding leaves a number of either sign, of which
 * "above 0" would make an answer. */
static double rank_correlation(const double *x, const double *y, int32_t n,
                               double *scratch) {
    double rho = gsl_stats_spearman(x, 1, y, 1, (size_t)n, scratch);
    return fabs(rho) < 1e-12 ? 0 : rho;
}

/* total: right rows by class of each layer, then of the layers chosen in the
 * training folds, then rows by class. Layers are in ascending order, so their
 * places rank like their numbers. What is near is held against the chosen ones:
 * the largest of many figures that err alike lies above them by chance, and
 * further the more they err. */
static void over_layers(const double *total, const void *user, double *out) {
    int32_t n = *(const int32_t *)user;
    const double *chosen = total + 2 * n, *rows = chosen + 2;
    double accuracy[MOST_LAYERS], place[MOST_LAYERS], scratch[2 * MOST_LAYERS];
    double best = 0.5 * (chosen[0] / rows[0] + chosen[1] / rows[1]), near = 0;
    for (int32_t l = 0; l < n; l++) {
        accuracy[l] =
            0.5 * (total[2 * l] / rows[0] + total[2 * l + 1] / rows[1]);
        place[l] = l;
        if (isnan(accuracy[l])) { /* a draw of one class */
            out[0] = out[1] = NAN;
            return;
        }
    }
    for (int32_t l = 0; l < n; l++) near += accuracy[l] >= best - NEAR;
    out[0] = n < 3 ? NAN : rank_correlation(place, accuracy, n, scratch);
    out[1] = near / n;
}

static ks_status over(ks_refinement *out, const ks_analysis_input *in,
                      const ks_series *s, ks_err *err) {
    ks_status st = KS_OK;
    const ks_dataset *d = in->dataset;
    int32_t first = s->cells[0].layer == 0 && s->stream == KS_RESID;
    int32_t n = s->n_cells - first;
    double *sums = NULL;
    ks_interval got[2];
    out->trend = out->near_best = (ks_interval){NAN, NAN, NAN};
    if (n < 3 || n > MOST_LAYERS) return KS_OK;
    size_t width = 2 * (size_t)n + 4;
    KS_TRY(ks_alloc(&sums, (size_t)d->n_groups * width, sizeof *sums,
                    "accuracies", err));
    for (int64_t i = 0; i < d->n; i++) {
        double *t = sums + (size_t)d->group[i] * width;
        int y = d->y[i];
        t[2 * n + y] += (s->score[i] > 0) == y;
        t[2 * n + 2 + y]++;
        for (int32_t l = 0; l < n; l++)
            t[2 * l + y] += (s->cells[first + l].score[i] > 0) == y;
    }
    KS_TRY(ks_stats_of_sums(sums, d->n_groups, (int32_t)width, over_layers, &n,
                            2, in->options->bootstrap, in->options->seed, got,
                            err));
    out->trend = got[0];
    out->near_best = got[1];
done:
    free(sums);
    return st;
}

ks_status ks_refine(ks_refinement *out, const ks_analysis_input *in,
                    const ks_series *series, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = (size_t)series->n_cells;
    KS_TRY(
        ks_alloc(&out->agreement, n, sizeof *out->agreement, "agreement", err));
    KS_TRY(ks_alloc(&out->correlation, n, sizeof *out->correlation, "agreement",
                    err));
    KS_TRY(with_last(out, in, series, err));
    KS_TRY(over(out, in, series, err));
done:
    return st;
}
