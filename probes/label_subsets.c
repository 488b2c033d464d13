/* label_subsets.c - a short prefix asked about whole: all its subsets, to tell
 * what searching found from what there is. */
#include <stdlib.h>
#include <string.h>

#include "label_state.h"

static void set_mask(uint8_t *mask, int32_t q, uint32_t bits) {
    for (int32_t i = 0; i < q; i++) mask[i] = bits >> i & 1;
    mask[q] = 1;
}

/* A step is needed that no subset lacks which is enough. */
static void take_passing(ks__item *item, uint32_t bits) {
    ks__subsets *all = &item->subsets;
    int32_t size = __builtin_popcount(bits);
    if (all->passing == 0 || size < all->least) {
        all->least = size;
        all->n_least = 0;
    }
    all->n_least += size == all->least;
    all->needed = all->passing == 0 ? bits : all->needed & bits;
    all->passing++;
}

ks__stage_result ks__stage_subsets(ks__item *item) {
    ks_status st = KS_OK;
    uint8_t *mask = NULL;
    bool all = true;
    int32_t q = item->q;
    if (q == 0 || q > item->job->options.subsets) return KS__NEXT;
    KS_TRY(ks_alloc(&mask, (size_t)q + 1, 1, "steps", &item->err));
    item->subsets = (ks__subsets){.asked = 1u << q};
    /* all steps first: the chain's own text is what most begin with */
    for (uint32_t k = 0; k < 1u << q; k++) {
        uint32_t bits = (1u << q) - 1 - k;
        bool passes;
        set_mask(mask, q, bits);
        if (!ks__passes(item, mask, &passes)) all = false;
        if (all && passes) take_passing(item, bits);
    }
done:
    free(mask);
    if (st != KS_OK) return ks__fail_item(item, st);
    return all && item->status == KS_OK ? KS__NEXT : KS__WAIT;
}

static json_t *needed_at(const ks__item *item, int32_t at, const void *user) {
    const ks__subsets *all = &item->subsets;
    (void)user;
    return json_integer(all->passing ? all->needed >> at & 1 : 1);
}

json_t *ks__subsets_json(const ks__item *item) {
    const ks__subsets *all = &item->subsets;
    if (all->asked == 0) return json_null();
    return json_pack("{s:I,s:I,s:i,s:I,s:o}", "asked", (json_int_t)all->asked,
                     "enough", (json_int_t)all->passing, "least", all->least,
                     "n_least", (json_int_t)all->n_least, "needed",
                     ks__per_step(item, needed_at, NULL));
}
