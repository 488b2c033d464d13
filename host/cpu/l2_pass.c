/* l2_pass.c - the CPU's l2_pass: one read of x for all active columns: block by
 * block Z = X W', residuals, G = R' X, while the block lies in cache.
 *
 * Sums over rows are f32 inside a block of at most KS_L2_BLOCK rows and double
 * beyond it, in lanes whose number depends on n alone, added in order: as many
 * at a time as there are threads, so that memory does not grow with the lanes.
 * Columns that do not train on a block's folds are left out of its products. */
#include <math.h>
#include <string.h>

#include "l2_cpu.h"

/* What one lane of those at a time works with. */
typedef struct lane_work {
    double *g, *r, *h;      /* sums of this lane: [n, d], [n], [n] */
    int32_t *pick;          /* [n] active columns of the block */
    int32_t n_pick, wide;   /* their number, and padded */
    int32_t n_train;        /* of them in front, that train on it */
    float *w, *z, *part;    /* [wide, d], [BLOCK, wide], [wide, d] */
    float *bias, *c;        /* [wide], [n_designs, codes, wide] */
    float *r_part, *h_part; /* [wide] */
    double *x64, *w64, *z64, *part64;
    char *memory; /* of the reader */
    ks_l2_reader reader;
} lane_work;

/* Places in memory; NULL: only how many bytes they take. */
static size_t lane_open(lane_work *lane, const ks_l2_rows *l2, int64_t columns,
                        bool exact, char *memory) {
    size_t n = (size_t)columns, d = (size_t)l2->d;
    size_t wide = (n + KS_L2_PAD - 1) / KS_L2_PAD * KS_L2_PAD;
    size_t elem = exact ? sizeof(double) : sizeof(float);
    size_t bytes = 0;
#define KS_PLACE(field, count, size)                                           \
    do {                                                                       \
        if (memory) lane->field = (void *)(memory + bytes);                    \
        bytes += ((count) * (size) + 63) / 64 * 64;                            \
    } while (0)
    KS_PLACE(g, n * d, sizeof(double));
    KS_PLACE(r, n, sizeof(double));
    KS_PLACE(h, n, sizeof(double));
    KS_PLACE(pick, n, sizeof(int32_t));
    KS_PLACE(bias, wide, sizeof(float));
    KS_PLACE(c, (size_t)l2->n_designs * KS_L2_CODES * wide, sizeof(float));
    KS_PLACE(r_part, wide, sizeof(float));
    KS_PLACE(h_part, wide, sizeof(float));
    KS_PLACE(memory, ks_l2_reader_bytes(l2), 1);
    if (exact) {
        KS_PLACE(x64, KS_L2_BLOCK * d, elem);
        KS_PLACE(w64, wide * d, elem);
        KS_PLACE(z64, KS_L2_BLOCK * wide, elem);
        KS_PLACE(part64, wide * d, elem);
    } else {
        KS_PLACE(w, wide * d, elem);
        KS_PLACE(z, KS_L2_BLOCK * wide, elem);
        KS_PLACE(part, wide * d, elem);
    }
#undef KS_PLACE
    lane->n_pick = -1;
    return bytes;
}

/* The lanes' memory is kept from pass to pass: fresh pages cost more than what
 * is done in them. */
static ks_status lanes_open(ks_dev *dev, lane_work *lanes, int32_t n_lanes,
                            ks_l2_rows *l2, const ks_l2_pass *pass,
                            ks_err *err) {
    ks_status st = KS_OK;
    size_t bytes = lane_open(&lanes[0], l2, pass->n, pass->exact, NULL);
    size_t all = bytes * (size_t)n_lanes;
    if (l2->work->size < all) {
        ks__cpu_free(dev, l2->work);
        KS_TRY(ks__cpu_alloc(dev, l2->work, all, "a pass", err));
    }
    for (int32_t k = 0; k < n_lanes; k++)
        lane_open(&lanes[k], l2, pass->n, pass->exact,
                  (char *)l2->work->data + bytes * (size_t)k);
    for (int32_t k = 0; k < n_lanes; k++)
        ks_l2_reader_open(&lanes[k].reader, l2, lanes[k].memory);
done:
    return st;
}

/* Columns with a training row in the block, and in exact passes behind them the
 * others, since held-out rows need margins; their weights side by side. */
static void choose(lane_work *lane, const ks_l2_rows *l2,
                   const ks_l2_pass *pass, const uint32_t *folds) {
    int32_t n = 0;
    bool same = true;
    for (int held = 0; held <= (pass->exact ? 1 : 0); held++) {
        for (int32_t k = 0; k < pass->n; k++)
            if (held == !(folds[pass->design[k]] & ~pass->hold[k])) {
                same = same && n < lane->n_pick && lane->pick[n] == k;
                lane->pick[n++] = k;
            }
        if (!held) lane->n_train = n;
    }
    if (same && n == lane->n_pick) return;
    lane->n_pick = n;
    lane->wide = (n + KS_L2_PAD - 1) / KS_L2_PAD * KS_L2_PAD;
    int64_t d = l2->d, wide = lane->wide;
    memset(lane->bias, 0, (size_t)wide * sizeof(float));
    memset(lane->c, 0,
           (size_t)(l2->n_designs * KS_L2_CODES * wide) * sizeof(float));
    for (int32_t k = 0; k < wide; k++) {
        const double *from = k < n ? pass->w + lane->pick[k] * d : NULL;
        for (int64_t j = 0; j < d; j++) {
            if (pass->exact)
                lane->w64[k * d + j] = from ? from[j] : 0;
            else
                lane->w[k * d + j] = from ? (float)from[j] : 0;
        }
    }
    for (int32_t k = 0; k < n; k++) {
        int32_t column = lane->pick[k];
        lane->bias[k] = (float)pass->b[column];
        for (int32_t code = 0; code < KS_L2_CODES; code++)
            if (!(pass->hold[column] >> (code / 2) & 1))
                lane->c[(pass->design[column] * KS_L2_CODES + code) * wide +
                        k] = (float)pass->class_c[2 * column + (code & 1)];
    }
}

static void block_f32(lane_work *lane, const ks_l2_rows *l2,
                      const ks_l2_pass *pass, ks_l2_block block,
                      const float *x) {
    int64_t rows = block.end - block.begin, d = l2->d, wide = lane->wide;
    ks__gemm_f32(false, true, rows, wide, d, x, d, lane->w, d, 0, lane->z,
                 wide);
    memset(lane->r_part, 0, (size_t)wide * sizeof(float));
    memset(lane->h_part, 0, (size_t)wide * sizeof(float));
    for (int32_t from = 0, to; from < lane->n_pick; from = to) {
        int32_t s = pass->design[lane->pick[from]];
        for (to = from; to < lane->n_pick; to++)
            if (pass->design[lane->pick[to]] != s) break;
        if (to == lane->n_pick) to = lane->wide; /* padding has c = 0 */
        ks__l2_kernel(rows, to - from, wide, lane->z + from, lane->bias + from,
                      l2->code + s * l2->n + block.begin,
                      lane->c + (int64_t)s * KS_L2_CODES * wide + from,
                      lane->r_part + from, lane->h_part + from);
    }
    ks__gemm_f32(true, false, wide, d, rows, lane->z, wide, x, d, 0, lane->part,
                 d);
    for (int32_t k = 0; k < lane->n_pick; k++) {
        double *g = lane->g + lane->pick[k] * d;
        const float *part = lane->part + k * d;
        for (int64_t j = 0; j < d; j++) g[j] += (double)part[j];
        lane->r[lane->pick[k]] += (double)lane->r_part[k];
        lane->h[lane->pick[k]] += (double)lane->h_part[k];
    }
}

/* The kernel in double, and the margins of rows that are held out. */
static void residuals_f64(lane_work *lane, const ks_l2_rows *l2,
                          const ks_l2_pass *pass, ks_l2_block block) {
    int64_t wide = lane->wide;
    for (int64_t i = block.begin; i < block.end; i++)
        for (int32_t k = 0; k < lane->n_pick; k++) {
            int32_t column = lane->pick[k];
            uint8_t code = l2->code[pass->design[column] * l2->n + i];
            bool held = pass->hold[column] >> (code / 2) & 1;
            double *at = lane->z64 + (i - block.begin) * wide + k;
            double z = *at + pass->b[column];
            double p = 1 / (1 + exp(-z));
            double c = held ? 0 : pass->class_c[2 * column + (code & 1)];
            *at = c * (p - (double)(code & 1));
            lane->r[column] += *at;
            lane->h[column] += c * p * (1 - p);
            if (held && pass->margin && pass->margin[column])
                pass->margin[column][l2->order[i]] = (float)z;
        }
}

static void block_f64(lane_work *lane, const ks_l2_rows *l2,
                      const ks_l2_pass *pass, ks_l2_block block,
                      const float *x) {
    int64_t rows = block.end - block.begin, d = l2->d, wide = lane->wide;
    for (int64_t k = 0; k < rows * d; k++) lane->x64[k] = (double)x[k];
    ks__gemm_f64(false, true, rows, wide, d, lane->x64, d, lane->w64, d, 0,
                 lane->z64, wide);
    residuals_f64(lane, l2, pass, block);
    int64_t trained = (lane->n_train + KS_L2_PAD - 1) / KS_L2_PAD * KS_L2_PAD;
    if (trained)
        ks__gemm_f64(true, false, trained, d, rows, lane->z64, wide, lane->x64,
                     d, 0, lane->part64, d);
    for (int32_t k = 0; k < lane->n_train; k++) {
        double *g = lane->g + lane->pick[k] * d;
        for (int64_t j = 0; j < d; j++) g[j] += lane->part64[k * d + j];
    }
}

/* next: the block where this thread goes on afterwards. */
static ks_status run_lane(lane_work *lane, const ks_l2_rows *l2,
                          const ks_l2_pass *pass, int32_t index, int32_t next,
                          ks_err *err) {
    ks_status st = KS_OK;
    if (!lane->g) goto done; /* never: clang-tidy cannot count lanes */
    memset(lane->g, 0, (size_t)(pass->n * l2->d) * sizeof *lane->g);
    memset(lane->r, 0, (size_t)pass->n * sizeof *lane->r);
    memset(lane->h, 0, (size_t)pass->n * sizeof *lane->h);
    int32_t from, to;
    ks__l2_lane(l2, index, &from, &to);
    for (int32_t k = from; k < to; k++) {
        const float *x;
        choose(lane, l2, pass, l2->block_folds + k * l2->n_designs);
        if (!lane->n_pick) continue;
        KS_TRY(ks_l2_reader_get(&lane->reader, k, to, next, &x, err));
        if (pass->exact)
            block_f64(lane, l2, pass, l2->blocks[k], x);
        else
            block_f32(lane, l2, pass, l2->blocks[k], x);
    }
done:
    return st;
}

/* Lanes [first, first + n_lanes), which have run: onto the sums of column k. */
static void add_lanes(const lane_work *lanes, int32_t n_lanes,
                      const ks_l2_pass *pass, int64_t d, int32_t k) {
    double *g = pass->g + k * d;
    for (int32_t lane = 0; lane < n_lanes; lane++) {
        const double *from = lanes[lane].g + k * d;
        for (int64_t j = 0; j < d; j++) g[j] += from[j];
        pass->r[k] += lanes[lane].r[k];
        pass->h[k] += lanes[lane].h[k];
    }
}

ks_status ks__cpu_l2_pass(ks_dev *dev, ks_l2_rows *l2, const ks_l2_pass *pass,
                          ks_err *err) {
    ks_status st = KS_OK;
    lane_work lanes[KS_L2_MAX_LANES] = {{0}};
    ks__l2_outcome outcome = {KS_OK, {0}};
    int32_t step = KS_MIN(dev->threads, l2->n_lanes);
    int restore = ks__blas_serial();
    KS_TRY(lanes_open(dev, lanes, step, l2, pass, err));
    memset(pass->g, 0, (size_t)(pass->n * l2->d) * sizeof *pass->g);
    memset(pass->r, 0, (size_t)pass->n * sizeof *pass->r);
    memset(pass->h, 0, (size_t)pass->n * sizeof *pass->h);
#pragma omp parallel num_threads(step)
    for (int32_t first = 0; first < l2->n_lanes; first += step) {
        int32_t now = KS_MIN(step, l2->n_lanes - first);
#pragma omp for schedule(static, 1)
        for (int32_t k = 0; k < now; k++) {
            ks_err mine = {0};
            int32_t next =
                        first + k + step < l2->n_lanes ? first + k + step : k,
                    begin, end;
            ks__l2_lane(l2, next, &begin, &end);
            if (ks__l2_well(&outcome))
                ks__l2_tell(
                    &outcome,
                    run_lane(&lanes[k], l2, pass, first + k, begin, &mine),
                    &mine);
        }
#pragma omp for schedule(static)
        for (int32_t k = 0; k < pass->n; k++)
            add_lanes(lanes, now, pass, l2->d, k);
    }
    st = outcome.st;
    if (st != KS_OK && err) *err = outcome.err;
done:
    for (int32_t k = 0; k < step; k++) ks_l2_reader_close(&lanes[k].reader);
    ks__blas_restore(restore);
    return st;
}
