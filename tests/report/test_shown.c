/* Which chains the page shows. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "report/shown.h"

enum { N = 1000, TEXT = 2000 };

static ks_chain chains[N];
static ks_shown_chain at[N];

/* Chain i is judged right on i of N; its place in the file is another. */
static ks_shown make(void) {
    ks_shown s = {.at = at, .n = N};
    for (size_t i = 0; i < N; i++) {
        size_t rank = i * 7 % N;
        chains[i] = (ks_chain){.text_length = TEXT};
        at[i] = (ks_shown_chain){.chain = &chains[i],
                                 .first = (int64_t)i,
                                 .probed = 1,
                                 .right = (double)rank / N};
    }
    return s;
}

/* Shown ones from the worst judged on; their distances. */
static size_t count(size_t *least, size_t *most) {
    size_t n = 0, last = 0;
    *least = N, *most = 0;
    for (size_t rank = 0; rank < N; rank++)
        for (size_t i = 0; i < N; i++) {
            if (i * 7 % N != rank || !at[i].shown) continue;
            if (n && rank - last < *least) *least = rank - last;
            if (n && rank - last > *most) *most = rank - last;
            cr_expect(n || rank == 0, "the worst judged is not shown");
            last = rank;
            n++;
        }
    cr_expect(eq(sz, last, N - 1), "the best judged is not shown");
    return n;
}

Test(report_shown, are_spread_evenly_by_number) {
    ks_shown s = make();
    size_t least, most;
    cr_assert(eq(int, ks__shown_choose(&s, 200, (size_t)1 << 30, NULL), KS_OK));
    cr_expect(eq(sz, count(&least, &most), 200));
    cr_expect(eq(sz, s.n_shown, 200));
    cr_expect(le(sz, most, least + 1));
}

Test(report_shown, are_spread_evenly_where_room_ends) {
    ks_shown s = make();
    size_t least, most, n;
    cr_assert(
        eq(int, ks__shown_choose(&s, 200, (size_t)50 * TEXT, NULL), KS_OK));
    n = count(&least, &most);
    cr_expect(eq(sz, s.n_shown, n));
    cr_expect(n > 35 && n <= 50, "%zu", n);
    cr_expect(le(sz, most, least + 1));
}

Test(report_shown, none_has_room) {
    ks_shown s = make();
    cr_assert(eq(int, ks__shown_choose(&s, 200, 100, NULL), KS_OK));
    cr_expect(eq(sz, s.n_shown, 0));
    for (size_t i = 0; i < N; i++) cr_expect(not(at[i].shown));
}
