/* kv.c - the paged KV store: pages of KS_PAGE tokens for every layer, counted
 * so that sequences share what they have in common. A page id means the same
 * page in all layers. Taking and dropping pages is the owner's host-side
 * bookkeeping; rope writes and attention reads through page tables. */
#include "forward.h"

#include <stdlib.h>

struct ks_kv {
    ks_dev *dev;
    const struct ks_ops *ops;
    ks_buf memory;
    float *data; /* [L, 2 (k, v), n_pages, KS_PAGE, G D] */
    size_t page; /* floats: KS_PAGE G D */
    int32_t n_layers, n_pages;
    int32_t *owners;   /* [n_pages] */
    int32_t *free_ids; /* [n_free], a stack */
    int32_t n_free;
};

static size_t page_floats(const ks_config *c) {
    return (size_t)KS_PAGE * (size_t)c->n_kv_heads * (size_t)c->head_dim;
}

size_t ks_kv_page_bytes(const ks_config *config) {
    return 2 * sizeof(float) * page_floats(config) * (size_t)config->n_layers;
}

ks_status ks_kv_open(ks_kv **out, ks_dev *dev, const struct ks_ops *ops,
                     const ks_config *config, int32_t n_pages, ks_err *err) {
    ks_status st = KS_OK;
    ks_kv *kv = NULL;
    size_t bytes = 0;
    *out = NULL;
    KS_CHECK(n_pages > 0, KS_USAGE, "a KV store of %d pages", n_pages);
    KS_CHECK(!__builtin_mul_overflow(ks_kv_page_bytes(config), (size_t)n_pages,
                                     &bytes),
             KS_LIMIT, "a KV store of %d pages exceeds the address space",
             n_pages);
    KS_TRY(ks_alloc(&kv, 1, sizeof *kv, "the KV store", err));
    kv->dev = dev;
    kv->ops = ops;
    kv->page = page_floats(config);
    kv->n_layers = config->n_layers;
    kv->n_pages = kv->n_free = n_pages;
    KS_TRY(ks_alloc(&kv->owners, (size_t)n_pages, sizeof(int32_t),
                    "page counts", err));
    KS_TRY(ks_alloc(&kv->free_ids, (size_t)n_pages, sizeof(int32_t),
                    "free pages", err));
    /* Low ids on top of the stack: a small job touches little memory. */
    for (int32_t i = 0; i < n_pages; i++) kv->free_ids[i] = n_pages - 1 - i;
    KS_TRY(ops->alloc(dev, &kv->memory, bytes, "the KV store", err));
    kv->data = kv->memory.data;
    *out = kv;
    kv = NULL;
done:
    ks_kv_close(&kv);
    return st;
}

void ks_kv_close(ks_kv **kv) {
    if (!*kv) return;
    if ((*kv)->memory.data) (*kv)->ops->free((*kv)->dev, &(*kv)->memory);
    free((*kv)->owners);
    free((*kv)->free_ids);
    free(*kv);
    *kv = NULL;
}

int32_t ks_kv_free_pages(const ks_kv *kv) {
    return kv->n_free;
}

int32_t ks_kv_page_take(ks_kv *kv) {
    if (kv->n_free == 0) return -1;
    int32_t page = kv->free_ids[--kv->n_free];
    kv->owners[page] = 1;
    return page;
}

void ks_kv_page_share(ks_kv *kv, int32_t page) {
    kv->owners[page]++;
}

void ks_kv_page_drop(ks_kv *kv, int32_t page) {
    if (--kv->owners[page] == 0) kv->free_ids[kv->n_free++] = page;
}

int32_t ks_kv_page_owners(const ks_kv *kv, int32_t page) {
    return kv->owners[page];
}

ks_kv_layer ks_kv_layer_at(const ks_kv *kv, int32_t layer) {
    size_t half = kv->page * (size_t)kv->n_pages;
    float *k = kv->data + 2 * half * (size_t)layer;
    return (ks_kv_layer){k, k + half};
}

ks_status ks_kv_page_copy(ks_kv *kv, int32_t to, int32_t from, int32_t n,
                          ks_err *err) {
    ks_status st = KS_OK;
    size_t bytes = kv->page / KS_PAGE * (size_t)n * sizeof(float);
    for (int32_t l = 0; l < kv->n_layers; l++) {
        ks_kv_layer at = ks_kv_layer_at(kv, l);
        size_t target = kv->page * (size_t)to, source = kv->page * (size_t)from;
        KS_TRY(
            kv->ops->copy(kv->dev, at.k + target, at.k + source, bytes, err));
        KS_TRY(
            kv->ops->copy(kv->dev, at.v + target, at.v + source, bytes, err));
    }
done:
    return st;
}
