/* adamw.c - see adamw.h: from probes as a caller has them to the job that a
 * backend's adamw op takes, and back. What the probes need besides x goes up in
 * one piece of memory and comes back in one. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "adamw_state.h"
#include "philox.h"

/* --------------------------------------------------------------------- plan */

/* A call: its job, and the memory of its runs: here and, where that is not the
 * same, in the backend's. */
typedef struct plan {
    const ks_adamw_data *data;
    const ks_adamw_options *o;
    const ks_adamw_probe *probes;
    int32_t n_probes;
    ks_adamw_job job;
    ks_adamw_run *runs; /* pointers into the backend's */
    double *rate;
    size_t bytes, back; /* all; from `back` on, what comes back */
    char *host;
    ks_buf buf;
} plan;

static int32_t input_layers(const ks_adamw_options *o) {
    return o->layers ? o->layers : 1;
}

/* Inputs and units of layer k as the caller counts them. */
static int64_t plain_inputs(const ks_adamw_data *a, const ks_adamw_options *o,
                            int32_t k) {
    return k ? o->hidden[k - 1] : input_layers(o) * a->d;
}

static int64_t plain_units(const ks_adamw_options *o, int32_t k) {
    return k < o->n_hidden ? o->hidden[k] : 1;
}

int64_t ks_adamw_parameters(const ks_adamw_data *data,
                            const ks_adamw_options *options) {
    int64_t n = 0;
    for (int32_t k = 0; k <= options->n_hidden; k++)
        n += (plain_inputs(data, options, k) + 1) * plain_units(options, k);
    return n;
}

static ks_status check_options(const ks_adamw_data *a,
                               const ks_adamw_options *o, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(o->layers >= 0 && input_layers(o) <= a->layers, KS_USAGE,
             "a probe over %d layers: there are %d", o->layers, a->layers);
    KS_CHECK(input_layers(o) <= INT32_MAX / a->stride, KS_LIMIT,
             "%d layers of %lld features are too many for one probe",
             input_layers(o), (long long)a->d);
    KS_CHECK(o->n_hidden >= 0 && o->n_hidden <= KS_ADAMW_MOST_HIDDEN, KS_USAGE,
             "%d hidden layers: expected 0 to %d", o->n_hidden,
             KS_ADAMW_MOST_HIDDEN);
    for (int32_t k = 0; k < o->n_hidden; k++)
        KS_CHECK(o->hidden[k] >= 1 && o->hidden[k] <= 4096, KS_USAGE,
                 "a hidden layer of %d units: expected 1 to 4096",
                 o->hidden[k]);
    KS_CHECK(o->batch >= 0 && o->batch <= KS_ADAMW_MOST_BATCH, KS_USAGE,
             "batches of %d rows: expected 1 to %d", o->batch,
             KS_ADAMW_MOST_BATCH);
    KS_CHECK(o->epochs >= 0 && o->epochs <= 1000000, KS_USAGE,
             "%d epochs: expected 0 to 1000000", o->epochs);
    KS_CHECK(o->beta1 >= 0 && o->beta1 < 1 && o->beta2 >= 0 && o->beta2 < 1 &&
                 o->eps >= 0,
             KS_USAGE, "betas %g and %g, eps %g: expected betas in [0, 1)",
             o->beta1, o->beta2, o->eps);
done:
    return st;
}

static ks_status check_rows(const plan *p, int32_t k, ks_err *err) {
    ks_status st = KS_OK;
    const ks_adamw_probe *c = &p->probes[k];
    long long n = p->data->n;
    for (int32_t i = 0; i < c->n_rows; i++) {
        int32_t row = c->rows[i];
        KS_CHECK(row >= 0 && row < n, KS_USAGE,
                 "probe %d: training row %d, there are %lld", k, row, n);
        KS_CHECK(c->y[row] == 0 || c->y[row] == 1, KS_USAGE,
                 "probe %d, row %d: expected label 0 or 1, found %d", k, row,
                 c->y[row]);
    }
    KS_CHECK(c->n_eval >= 0 && (c->eval || !c->n_eval), KS_USAGE,
             "probe %d: %d rows to evaluate", k, c->n_eval);
    for (int32_t i = 0; i < c->n_eval; i++)
        KS_CHECK(c->eval[i] >= 0 && c->eval[i] < n, KS_USAGE,
                 "probe %d: row %d to evaluate, there are %lld", k, c->eval[i],
                 n);
done:
    return st;
}

static ks_status check_probe(const plan *p, int32_t k, ks_err *err) {
    ks_status st = KS_OK;
    const ks_adamw_probe *c = &p->probes[k];
    KS_CHECK(c->layer >= 0 && c->layer <= p->data->layers - p->job.layers,
             KS_USAGE, "probe %d: layers %d to %d, there are %d", k, c->layer,
             c->layer + p->job.layers - 1, p->data->layers);
    KS_CHECK(c->rows && c->y && c->n_rows >= p->job.batch, KS_MISMATCH,
             "probe %d: %d training rows are less than a batch of %d", k,
             c->n_rows, p->job.batch);
    KS_CHECK(c->lr > 0 && isfinite(c->lr) && c->decay >= 0 &&
                 isfinite(c->decay),
             KS_USAGE, "probe %d: rate %g and decay %g", k, c->lr, c->decay);
    KS_CHECK(c->class_weight[0] >= 0 && c->class_weight[1] >= 0 &&
                 isfinite(c->class_weight[0]) && isfinite(c->class_weight[1]),
             KS_USAGE, "probe %d: class weights %g and %g", k,
             (double)c->class_weight[0], (double)c->class_weight[1]);
    KS_CHECK(c->stop >= 0, KS_USAGE,
             "probe %d: stop after %d epochs: expected 0 or more", k, c->stop);
    KS_TRY(check_rows(p, k, err));
done:
    return st;
}

static ks_status plan_job(plan *p, ks_err *err) {
    ks_status st = KS_OK;
    const ks_adamw_options *o = p->o;
    ks_adamw_job *j = &p->job;
    int32_t epochs = o->epochs ? o->epochs : 30;
    j->n = p->data->n, j->stride = p->data->stride, j->x = p->data->resident;
    if (!p->data->x) j->file = &p->data->file;
    j->layers = input_layers(o);
    j->n_hidden = o->n_hidden;
    for (int32_t k = 0; k < o->n_hidden; k++)
        j->hidden[k] = (o->hidden[k] + KS_ADAMW_UNITS - 1) / KS_ADAMW_UNITS *
                       KS_ADAMW_UNITS;
    j->batch = o->batch ? o->batch : 32;
    j->epochs = epochs;
    j->beta1 = o->beta1 > 0 ? o->beta1 : 0.9;
    j->beta2 = o->beta2 > 0 ? o->beta2 : 0.999;
    j->eps = o->eps > 0 ? (float)o->eps : 1e-8f;
    j->each_epoch = o->each_epoch;
    j->n_runs = p->n_probes;
    KS_TRY(
        ks_alloc(&p->rate, (size_t)j->epochs, sizeof *p->rate, "rates", err));
    for (int32_t e = 0; e < j->epochs; e++)
        p->rate[e] = o->constant ? 1 : 0.5 * (1 + cos(M_PI * e / epochs));
    j->rate = p->rate;
done:
    return st;
}

/* ------------------------------------------------------------------- memory */

/* The next `size` bytes; before there is memory, only counted. */
static void *take(plan *p, size_t size, char *memory) {
    void *at = memory ? memory + p->bytes : NULL;
    p->bytes += (size + 255) / 256 * 256;
    return at;
}

static int32_t epochs_of(const plan *p, const ks_adamw_probe *c) {
    return c->stop ? KS_MIN(c->stop, p->job.epochs) : p->job.epochs;
}

static size_t margin_bytes(const plan *p, const ks_adamw_probe *c) {
    size_t times = p->job.each_epoch ? (size_t)epochs_of(p, c) : 1;
    return times * (size_t)c->n_eval * sizeof(float);
}

/* What the ops share with the caller is written where it is wanted. */
static float *take_margin(plan *p, const ks_adamw_probe *c, char *memory) {
    return p->data->ops->unified ? c->margin
                                 : take(p, margin_bytes(p, c), memory);
}

/* Places of all runs' arrays in memory: what is read, then what comes back. */
static void place_runs(plan *p, ks_adamw_run *runs, char *memory) {
    size_t wide = (size_t)ks_adamw_wide(&p->job) * sizeof(float);
    size_t param = (size_t)ks_adamw_place(&p->job, p->job.n_hidden + 1);
    p->bytes = 0;
    for (int32_t k = 0; k < p->n_probes; k++) {
        const ks_adamw_probe *c = &p->probes[k];
        runs[k].rows = take(p, (size_t)c->n_rows * sizeof(int32_t), memory);
        runs[k].y = take(p, (size_t)p->data->n, memory);
        runs[k].eval = take(p, (size_t)c->n_eval * sizeof(int32_t), memory);
        runs[k].centre = c->standardise ? take(p, wide, memory) : NULL;
        runs[k].inverse = c->standardise ? take(p, wide, memory) : NULL;
    }
    p->back = p->bytes;
    for (int32_t k = 0; k < p->n_probes; k++) {
        runs[k].param = take(p, param * sizeof(float), memory);
        runs[k].margin = p->probes[k].margin && p->probes[k].n_eval
                             ? take_margin(p, &p->probes[k], memory)
                             : NULL;
    }
}

/* --------------------------------------------------------------- parameters */

/* Copies between PyTorch's order (plain) and the job's. */
static void convert_params(const plan *p, float *padded, float *plain,
                           bool to_padded) {
    for (int32_t k = 0; k <= p->o->n_hidden; k++) {
        int64_t inputs = plain_inputs(p->data, p->o, k);
        int64_t units = plain_units(p->o, k), d = p->data->d;
        int64_t wide_inputs = ks_adamw_inputs(&p->job, k);
        int64_t wide = k < p->o->n_hidden ? p->job.hidden[k] : 1;
        float *w = padded + ks_adamw_place(&p->job, k);
        for (int64_t u = 0; u < units; u++)
            for (int64_t i = 0; i <= inputs; i++) {
                int64_t row = i; /* of the job's matrix; the bias is last */
                if (i == inputs)
                    row = wide_inputs;
                else if (k == 0)
                    row = i / d * p->data->stride + i % d;
                float *a = w + row * wide + u;
                float *b = i < inputs ? plain + u * inputs + i
                                      : plain + units * inputs + u;
                if (to_padded)
                    *a = *b;
                else
                    *b = *a;
            }
        plain += (inputs + 1) * units;
    }
}

/* PyTorch's default: weights and biases uniform in +-1/sqrt(inputs). */
static void draw_start(const plan *p, const uint64_t key[2], float *plain) {
    uint64_t at = 0;
    for (int32_t k = 0; k <= p->o->n_hidden; k++) {
        int64_t inputs = plain_inputs(p->data, p->o, k);
        int64_t n = (inputs + 1) * plain_units(p->o, k);
        float bound = (float)(1 / sqrt((double)inputs));
        for (int64_t i = 0; i < n; i++, at++) {
            uint32_t word[4];
            /* far from the counters of orders */
            ks_philox(key, ((uint64_t)1 << 40) + at / 4, word);
            plain[i] = (2 * ks_philox_unit(word[at % 4]) - 1) * bound;
        }
        plain += n;
    }
}

/* ------------------------------------------------------------------ moments */

/* Mean and 1 / deviation of the training rows; padding and constant features
 * become zeros. sum [2, d], row [d]: scratch. */
static ks_status find_moments(const plan *p, const ks_adamw_probe *c,
                              float *centre, float *inverse, double *sum,
                              float *row, ks_err *err) {
    ks_status st = KS_OK;
    const ks_adamw_data *a = p->data;
    const float *x;
    double n = c->n_rows, *square = sum + a->d;
    for (int32_t l = 0; l < p->job.layers; l++) {
        float *to = centre + l * a->stride, *by = inverse + l * a->stride;
        memset(sum, 0, 2 * (size_t)a->d * sizeof *sum);
        for (int32_t i = 0; i < c->n_rows; i++) {
            KS_TRY(ks__adamw_row(a, c->layer + l, c->rows[i], row, &x, err));
            for (int64_t j = 0; j < a->d; j++) sum[j] += (double)x[j];
        }
        for (int64_t j = 0; j < a->d; j++) sum[j] /= n;
        for (int32_t i = 0; i < c->n_rows; i++) {
            KS_TRY(ks__adamw_row(a, c->layer + l, c->rows[i], row, &x, err));
            for (int64_t j = 0; j < a->d; j++) {
                double e = (double)x[j] - sum[j];
                square[j] += e * e;
            }
        }
        for (int64_t j = 0; j < a->d; j++) {
            double variance = square[j] / n;
            to[j] = (float)sum[j];
            by[j] = variance > 1e-12 * sum[j] * sum[j]
                        ? (float)(1 / sqrt(variance))
                        : 0;
        }
    }
done:
    return st;
}

static void put_moments(const plan *p, const ks_adamw_probe *c,
                        const float *centre, const float *inverse) {
    for (int64_t f = 0; f < p->job.layers * p->data->d; f++) {
        int64_t at = f / p->data->d * p->data->stride + f % p->data->d;
        if (c->mean) c->mean[f] = c->standardise ? centre[at] : 0;
        if (c->scale)
            c->scale[f] =
                c->standardise && inverse[at] > 0 ? 1 / inverse[at] : 1;
    }
}

/* ----------------------------------------------------------------- training */

/* Fills probe k's arrays here. */
static ks_status fill(const plan *p, const ks_adamw_run *r,
                      const ks_adamw_probe *c, ks_err *err) {
    ks_status st = KS_OK;
    float *plain = NULL, *row = NULL;
    double *sums = NULL;
    size_t n = (size_t)ks_adamw_parameters(p->data, p->o);
    memcpy((void *)r->rows, c->rows, (size_t)c->n_rows * sizeof *c->rows);
    if (c->n_eval)
        memcpy((void *)r->eval, c->eval, (size_t)c->n_eval * sizeof *c->eval);
    for (int32_t i = 0; i < c->n_rows; i++)
        ((int8_t *)r->y)[c->rows[i]] = c->y[c->rows[i]];
    KS_TRY(ks_alloc(&plain, n, sizeof *plain, "parameters", err));
    KS_TRY(
        ks_alloc(&sums, 2 * (size_t)p->data->d, sizeof *sums, "moments", err));
    KS_TRY(ks_alloc(&row, (size_t)p->data->d, sizeof *row, "moments", err));
    if (c->start)
        memcpy(plain, c->start, n * sizeof *plain);
    else
        draw_start(p, c->key, plain);
    convert_params(p, r->param, plain, true);
    if (c->standardise)
        KS_TRY(find_moments(p, c, (float *)r->centre, (float *)r->inverse, sums,
                            row, err));
    put_moments(p, c, r->centre, r->inverse);
done:
    free(plain);
    free(row);
    free(sums);
    return st;
}

static void settle(const plan *p, ks_adamw_run *r, const ks_adamw_probe *c) {
    bool plain = c->class_weight[0] == 0 && c->class_weight[1] == 0;
    r->layer = c->layer, r->n_rows = c->n_rows;
    r->n_batches = c->n_rows / p->job.batch;
    r->epochs = epochs_of(p, c);
    r->n_eval = c->n_eval;
    r->key[0] = c->key[0], r->key[1] = c->key[1];
    r->lr = c->lr, r->decay = c->decay;
    for (int y = 0; y < 2; y++)
        r->class_weight[y] = plain ? 1 : c->class_weight[y];
}

/* All arrays, here and in the backend's memory. here: [n_probes] runs. */
static ks_status send(plan *p, ks_adamw_run *here, ks_err *err) {
    ks_status st = KS_OK;
    const struct ks_ops *ops = p->data->ops;
    place_runs(p, here, NULL);
    KS_TRY(ops->alloc(p->data->dev, &p->buf, p->bytes, "probes", err));
    if (ops->unified) {
        p->host = p->buf.data;
        memset(p->host, 0, p->bytes);
    } else {
        KS_TRY(ks_alloc(&p->host, p->bytes, 1, "probes", err));
    }
    place_runs(p, here, p->host);
#pragma omp parallel for schedule(dynamic, 1)
    for (int32_t k = 0; k < p->n_probes; k++) {
        ks_err mine = {0};
        ks_status got = fill(p, &here[k], &p->probes[k], &mine);
        if (got != KS_OK)
#pragma omp critical(ks_adamw_fill)
        {
            st = got;
            if (err) *err = mine;
        }
    }
    if (st != KS_OK) goto done;
    place_runs(p, p->runs, p->buf.data);
    for (int32_t k = 0; k < p->n_probes; k++)
        settle(p, &p->runs[k], &p->probes[k]);
    p->job.runs = p->runs;
    if (ops->unified) return KS_OK;
    KS_TRY(ops->copy(p->data->dev, p->buf.data, p->host, p->bytes, err));
    KS_TRY(ops->sync(p->data->dev, err));
done:
    return st;
}

static ks_status receive(const plan *p, const ks_adamw_run *here, ks_err *err) {
    ks_status st = KS_OK;
    const struct ks_ops *ops = p->data->ops;
    if (!ops->unified) {
        KS_TRY(ops->copy(p->data->dev, p->host + p->back,
                         (char *)p->buf.data + p->back, p->bytes - p->back,
                         err));
        KS_TRY(ops->sync(p->data->dev, err));
    }
    for (int32_t k = 0; k < p->n_probes; k++) {
        const ks_adamw_probe *c = &p->probes[k];
        if (c->param) convert_params(p, here[k].param, c->param, false);
        if (here[k].margin && here[k].margin != c->margin)
            memcpy(c->margin, here[k].margin, margin_bytes(p, c));
    }
done:
    return st;
}

ks_status ks_adamw_train(ks_adamw_data *data, const ks_adamw_options *options,
                         const ks_adamw_probe *probes, int32_t n_probes,
                         ks_err *err) {
    ks_status st = KS_OK;
    plan p = {
        .data = data, .o = options, .probes = probes, .n_probes = n_probes};
    ks_adamw_run *here = NULL;
    KS_CHECK(n_probes >= 1, KS_USAGE, "%d probes to train", n_probes);
    KS_TRY(check_options(data, options, err));
    KS_TRY(plan_job(&p, err));
    for (int32_t k = 0; k < n_probes; k++) KS_TRY(check_probe(&p, k, err));
    KS_TRY(ks_alloc(&here, (size_t)n_probes, sizeof *here, "probes", err));
    KS_TRY(ks_alloc(&p.runs, (size_t)n_probes, sizeof *p.runs, "probes", err));
    KS_TRY(send(&p, here, err));
    KS_TRY(data->ops->adamw(data->dev, &p.job, err));
    KS_TRY(receive(&p, here, err));
done:
    if (p.host != p.buf.data) free(p.host);
    data->ops->free(data->dev, &p.buf);
    free(p.rate);
    free(p.runs);
    free(here);
    return st;
}

void ks_adamw_balance(const int8_t *y, const int32_t *rows, int32_t n_rows,
                      float class_weight[2]) {
    int32_t count[2] = {0, 0};
    for (int32_t i = 0; i < n_rows; i++) count[y[rows[i]] == 1]++;
    for (int c = 0; c < 2; c++)
        class_weight[c] =
            count[0] && count[1] ? 0.5f * (float)n_rows / (float)count[c] : 1;
}
