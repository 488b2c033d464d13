/* window.c - see window.h. */
#include "window.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The rows lie in memory, and as f32. */
static bool lies(const ks_l2_source *s) {
    return s->x && s->type == KS_F32;
}

ks_status ks__window_open(ks__window *w, const ks_l2_source *of, int64_t rows,
                          ks_err *err) {
    ks_status st = KS_OK;
    size_t values = (size_t)rows * (size_t)of->d;
    *w = (ks__window){.of = of};
    if (lies(of)) return KS_OK;
    KS_TRY(ks_alloc(&w->x, values, sizeof *w->x, "rows", err));
    if (of->type != KS_F32)
        KS_TRY(ks_alloc(&w->raw, (size_t)rows,
                        ks_type_row_bytes(of->type, of->d), "rows", err));
done:
    if (st != KS_OK) ks__window_close(w);
    return st;
}

/* Rows [row, row + n) into x [n, d]. */
static ks_status copy(ks__window *w, int64_t row, int64_t n, float *x,
                      ks_err *err) {
    ks_status st = KS_OK;
    const ks_l2_source *s = w->of;
    size_t bytes = ks_type_row_bytes(s->type, s->d);
    const char *from = s->x;
    if (from) {
        from += (size_t)row * bytes;
    } else {
        void *to = s->type == KS_F32 ? (void *)x : w->raw;
        KS_TRY(s->read(s->user, row, n, to, err));
        from = to;
    }
    if (from != (const char *)x) ks_dequantize(s->type, from, x, n * s->d);
done:
    return st;
}

ks_status ks__window_get(ks__window *w, int64_t row, int64_t n, const float **x,
                         ks_err *err) {
    if (lies(w->of)) {
        *x = (const float *)w->of->x + row * w->of->d;
        return KS_OK;
    }
    *x = w->x;
    return copy(w, row, n, w->x, err);
}

void ks__window_close(ks__window *w) {
    free(w->x);
    free(w->raw);
    *w = (ks__window){0};
}

ks_status ks__window_all(const ks_l2_source *of, float *x, ks_err *err) {
    ks_status st = KS_OK;
    ks__window window = {0};
    KS_TRY(ks__window_open(&window, of, KS_WINDOW, err));
    for (int64_t i = 0; i < of->n; i += KS_WINDOW)
        KS_TRY(
            copy(&window, i, KS_MIN(KS_WINDOW, of->n - i), x + i * of->d, err));
done:
    ks__window_close(&window);
    return st;
}

size_t ks__window_bytes(const ks_l2_source *of, int64_t rows) {
    size_t raw = of->type == KS_F32 ? 0 : ks_type_row_bytes(of->type, of->d);
    if (lies(of)) return 0;
    return (size_t)rows * ((size_t)of->d * sizeof(float) + raw);
}

ks_status ks__window_check(const float *x, int64_t row, int64_t n, int64_t d,
                           ks_err *err) {
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int64_t j = 0; j < d; j++) sum += x[i * d + j] * 0.0f;
        if (sum == 0) continue; /* NaN unless every value is finite */
        int64_t j = 0;
        while (j + 1 < d && isfinite(x[i * d + j])) j++;
        return ks_fail(err, KS_NUMERIC,
                       "row %lld, feature %lld: expected a finite value, found "
                       "%g",
                       (long long)(row + i), (long long)j,
                       (double)x[i * d + j]);
    }
    return KS_OK;
}
