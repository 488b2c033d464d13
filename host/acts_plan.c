/* acts_plan.c - what an activation file of a spec will be: how large each part
 * is, and the identity of the whole. */
#include "acts_format.h"

#include <string.h>

/* ------------------------------------------------------------------ sizing */

static ks_status check_spec(const ks_acts_spec *spec, ks_err *err) {
    ks_status st = KS_OK;
    uint32_t streams = (1u << KS_N_STREAMS) - 1;
    uint32_t positions = (1u << KS_N_POSITIONS) - 1;
    KS_CHECK(spec->streams && !(spec->streams & ~streams), KS_USAGE,
             "no stream, or an unknown one, to keep activations of");
    KS_CHECK(spec->positions && !(spec->positions & ~positions), KS_USAGE,
             "no position, or an unknown one, to keep activations of");
    KS_CHECK(!spec->context_none || !(spec->positions & 1u << KS_BEFORE),
             KS_USAGE,
             "position 'before' needs context: a step alone has "
             "nothing ahead of it");
    KS_CHECK(spec->dtype == KS_BF16 || spec->dtype == KS_F16 ||
                 spec->dtype == KS_F32,
             KS_USAGE, "activations are stored as bf16, f16 or f32, not as %s",
             ks_type_name(spec->dtype));
    KS_CHECK(spec->n_layers > 0 && spec->d > 0, KS_USAGE,
             "a model of %d layers and width %d has no activations",
             spec->n_layers, spec->d);
    for (int32_t i = 0; i < spec->n_listed; i++)
        KS_CHECK(spec->listed[i] > (i ? spec->listed[i - 1] : -1) &&
                     spec->listed[i] <
                         spec->n_layers + (spec->streams == 1u << KS_RESID),
                 KS_USAGE, "layer %d is out of order or beyond the model's %d",
                 spec->listed[i], spec->n_layers);
    KS_CHECK(spec->n_steps > 0 && spec->n_chains > 0, KS_USAGE,
             "there is no step to keep activations of");
    for (int64_t i = 0; i < spec->n_steps; i++) {
        const ks_step_row *s = &spec->steps[i];
        KS_CHECK(s->chain >= 0 && s->chain < spec->n_chains &&
                     s->token_begin >= 0 && s->token_begin <= s->token_end,
                 KS_INTERNAL,
                 "step %lld of the activations has chain %d of "
                 "%lld and tokens %d to %d",
                 (long long)i, s->chain, (long long)spec->n_chains,
                 s->token_begin, s->token_end);
    }
done:
    return st;
}

/* total += a * b * c, false past what an off_t can count. */
static bool add_product(uint64_t *total, uint64_t a, uint64_t b, uint64_t c) {
    uint64_t p;
    return !__builtin_mul_overflow(a, b, &p) &&
           !__builtin_mul_overflow(p, c, &p) &&
           !__builtin_add_overflow(*total, p, total) &&
           *total < (uint64_t)INT64_MAX / 2;
}

size_t ks__acts_longest(const ks_acts_spec *spec, bool problem) {
    size_t n = 0;
    for (int64_t i = 0; i < spec->n_chains; i++) {
        const ks_chain_row *c = &spec->chains[i];
        n = KS_MAX(n, strlen(problem ? c->problem : c->id));
    }
    return n;
}

ks_status ks__acts_plan(ks__acts_layout *layout, const ks_acts_spec *spec,
                        ks_err *err) {
    ks_status st = KS_OK;
    *layout = (ks__acts_layout){0};
    KS_TRY(check_spec(spec, err));
    layout->row_bytes = (size_t)spec->d * (spec->dtype == KS_F32 ? 4 : 2);
    layout->n_listed = spec->n_listed;
    layout->listed = spec->listed;
    for (int64_t i = 0; i < spec->n_steps; i++)
        layout->n_tokens +=
            spec->steps[i].token_end - spec->steps[i].token_begin;
    bool fits = true;
    for (ks_stream s = 0; s < KS_N_STREAMS; s++)
        for (ks_position p = 0; p < KS_N_POSITIONS; p++) {
            if (!(spec->streams & 1u << s) || !(spec->positions & 1u << p))
                continue;
            ks__acts_set *set = &layout->sets[layout->n_sets++];
            *set = (ks__acts_set){
                s,
                p,
                spec->n_listed ? spec->n_listed
                               : spec->n_layers + (s == KS_RESID),
                p == KS_TOKENS ? layout->n_tokens : spec->n_steps,
                0,
                0};
            fits = fits &&
                   add_product(&layout->raw_bytes, (uint64_t)set->n_layers,
                               (uint64_t)set->n_rows, layout->row_bytes + 4);
        }
    size_t step_bytes = 6 * sizeof(int32_t) + 2;
    size_t chain_bytes =
        ks__acts_longest(spec, false) + ks__acts_longest(spec, true) + 67;
    fits = fits &&
           add_product(&layout->raw_bytes, (uint64_t)spec->n_steps, step_bytes,
                       1) &&
           add_product(&layout->raw_bytes, (uint64_t)spec->n_chains,
                       chain_bytes, 1);
    KS_CHECK(fits, KS_LIMIT,
             "%lld steps of %d layers of width %d are more "
             "than a file can hold",
             (long long)spec->n_steps, spec->n_layers, spec->d);
done:
    return st;
}

uint64_t ks_acts_file_bytes(const ks_acts_spec *spec) {
    ks__acts_layout layout;
    if (ks__acts_plan(&layout, spec, NULL) != KS_OK) return UINT64_MAX;
    /* headers and at most a page of alignment for each of two sets a pair */
    uint64_t each = 2 * (1024 + KS__ACTS_ALIGN);
    return layout.raw_bytes + 65536 + each * (uint64_t)layout.n_sets;
}

/* ---------------------------------------------------------------- identity */

static void hash_text(ks_sha256 *hash, const char *text) {
    ks_sha256_add(hash, text, strlen(text) + 1);
}

ks_status ks_acts_spec_hash(const ks_acts_spec *spec, char hex[65],
                            ks_err *err) {
    ks_sha256 *hash = NULL;
    ks_status st = ks_sha256_open(&hash, err);
    if (st != KS_OK) return st;
    int64_t numbers[] = {
        KS__ACTS_VERSION, spec->streams,    spec->positions,     spec->n_layers,
        spec->d,          spec->dtype,      spec->context_none,  spec->n_steps,
        spec->n_chains,   spec->has_labels, spec->random_weights};
    ks_sha256_add(hash, numbers, sizeof numbers);
    if (spec->n_listed) /* nothing, where all layers are there */
        ks_sha256_add(hash, spec->listed,
                      (size_t)spec->n_listed * sizeof *spec->listed);
    hash_text(hash, spec->model_name);
    hash_text(hash, spec->model_sha256);
    hash_text(hash, spec->tokenizer_hash);
    hash_text(hash, spec->config);
    if (spec->shard) { /* nothing, where it is all of a run */
        hash_text(hash, spec->shard);
        hash_text(hash, spec->whole_sha256);
    }
    for (int64_t i = 0; i < spec->n_steps; i++) {
        const ks_step_row *s = &spec->steps[i];
        int32_t row[] = {s->chain,       s->index,
                         s->token_begin, s->token_end,
                         s->byte_begin,  s->byte_end,
                         s->valid,       spec->has_labels ? s->label : 0};
        ks_sha256_add(hash, row, sizeof row);
    }
    for (int64_t i = 0; i < spec->n_chains; i++) {
        hash_text(hash, spec->chains[i].id);
        hash_text(hash, spec->chains[i].problem);
        hash_text(hash, spec->chains[i].text_sha256);
    }
    ks_sha256_close(&hash, hex);
    return KS_OK;
}
