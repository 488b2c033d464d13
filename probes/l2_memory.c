/* l2_memory.c - what a solver takes at most, added up ahead of it. */
#include "l2_fit.h"

size_t ks_l2_blas_bytes(int64_t d) {
    return KS_MIN((size_t)32 << 20, 8 * 384 * ((size_t)d + 256));
}

/* A thread's block of rows out of the file. */
static size_t read_bytes(const ks_l2_shape *s, bool scratch) {
    ks_l2_file file = {.type = s->type, .direct = true}; /* which takes more */
    ks_l2_rows rows = {.d = s->d, .file = scratch ? &file : NULL};
    return ks_l2_reader_bytes(&rows);
}

/* While the rows are taken in and the spectrum is found. */
static size_t open_bytes(const ks_l2_shape *s, size_t threads, bool scratch) {
    size_t d = (size_t)s->d, n = (size_t)s->n;
    size_t rank = d <= KS_L2_EXACT ? d : KS_MIN(KS_MIN(n, d), KS_L2_RANK);
    ks_l2_source source = {.type = s->type, .d = s->d};
    size_t fill = 8 * n + threads * ks_l2_piece_bytes(&source) + 4 * 129 * d;
    size_t thread = KS_L2_BLOCK * 4 * d + read_bytes(s, scratch);
    size_t spectrum = threads * (thread + 4 * d * d) + 8 * d * d + 32 * d;
    if (d > KS_L2_EXACT)
        spectrum = threads * (thread + 4 * rank * (KS_L2_BLOCK + d)) +
                   8 * rank * d + 16 * rank * rank;
    return KS_MAX(fill, spectrum);
}

/* While columns are solved. */
static size_t fit_bytes(const ks_l2_shape *s, size_t threads, bool scratch) {
    size_t m = (size_t)s->d + 1, n = (size_t)s->n_columns;
    size_t wide = (n + KS_L2_PAD - 1) / KS_L2_PAD * KS_L2_PAD;
    size_t rank = m - 1 <= KS_L2_EXACT ? m - 1 : KS_L2_RANK;
    size_t columns = n * m * (7 * 8 + 2 * KS_L2_PAIRS * 4) +
                     n * (sizeof(ks_l2_progress) + 256) +
                     (size_t)s->n_splits * m * 4 * 8;
    size_t chunks =
        (n + KS_L2_CHUNK - 1) / KS_L2_CHUNK * (m + rank) * 2 * KS_L2_CHUNK * 4;
    size_t pass = n * m * 8 + wide * m * 16 + KS_L2_BLOCK * (m + wide) * 8 +
                  read_bytes(s, scratch) +
                  (size_t)s->n_designs * KS_L2_CODES * wide * 4;
    size_t work = KS_MIN(threads, KS_L2_MAX_LANES) * pass;
    size_t group = (size_t)KS_MIN(ks__l2_hessians(s->n, s->d), s->n_columns);
    if (group) /* in the same memory */
        work = KS_MAX(work, KS_MIN(threads, group) * KS_L2_BLOCK * m * 8 +
                                read_bytes(s, scratch));
    size_t hessian = group * m * (m + 1) * 8;
    return columns + KS_MAX(chunks, hessian) + work;
}

size_t ks_l2_bytes(const ks_l2_shape *s, int threads, bool scratch) {
    size_t n = (size_t)s->n, d = (size_t)s->d, designs = (size_t)s->n_designs;
    size_t t = (size_t)KS_MAX(threads, 1);
    size_t rank = d <= KS_L2_EXACT ? d : KS_L2_RANK;
    size_t rows = n * (8 + designs) + n / 64 * (16 + 4 * designs);
    size_t moments = designs * (size_t)s->n_folds * 3 * 8 * d +
                     designs * KS_L2_MAX_FOLDS * sizeof(ks_l2_moments);
    size_t kept = rows + moments + 4 * rank * d + 64 * d + ((size_t)1 << 20);
    return (scratch ? 0 : 4 * n * d) + kept + t * ks_l2_blas_bytes(s->d) +
           KS_MAX(open_bytes(s, t, scratch), fit_bytes(s, t, scratch));
}
