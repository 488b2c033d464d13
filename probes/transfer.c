/* transfer.c - see transfer.h: opens the sets, finds which of them can be
 * compared and how, and has it done. */
#include "transfer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "significance.h"

const double ks_map_strengths[KS_N_MAP_STRENGTHS] = {
    1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100, 1000};

const char *ks_map_name(ks_map_kind kind) {
    static const char *const names[] = {"ridge", "procrustes", "shuffled",
                                        "identity", "mean"};
    return (size_t)kind < KS_COUNT(names) ? names[kind] : "?";
}

/* ----------------------------------------------------------------- p values */

ks_status ks__transfer_p(ks_transfer_p *out, const ks_scored *rows,
                         double variance, const float *other, uint64_t seed,
                         ks_err *err) {
    ks_status st = KS_OK;
    *out = (ks_transfer_p){NAN, NAN, NAN, NAN};
    KS_TRY(ks_p_within(rows, variance, &out->p, err));
    if (other)
        KS_TRY(ks_p_paired(rows, other, KS_CROSS_VALIDATED, seed, &out->minus,
                           err));
done:
    return st;
}

ks_status ks__transfer_holm(ks_transfer_p *const *all, int32_t n, ks_err *err) {
    ks_status st = KS_OK;
    double p[KS_MAX_SETS * KS_MAX_SETS], minus[KS_MAX_SETS * KS_MAX_SETS];
    for (int32_t i = 0; i < n; i++) p[i] = all[i]->p, minus[i] = all[i]->minus;
    KS_TRY(ks_p_holm(p, n, p, err));
    KS_TRY(ks_p_holm(minus, n, minus, err));
    for (int32_t i = 0; i < n; i++)
        all[i]->p_holm = p[i], all[i]->minus_holm = minus[i];
done:
    return st;
}

/* ---------------------------------------------------------------- one set */

static ks_status read_layers(const ks_transfer_options *o, ks_transfer_set *s,
                             ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = s->info->n_layers + 1;
    ks_err inner = {0};
    if (!o->layers || !o->layers_of) return KS_OK;
    KS_TRY(ks_alloc(&s->layers, (size_t)n, sizeof *s->layers, "layers", err));
    st = o->layers_of(o->layers, n, s->layers, &inner);
    KS_CHECK(st == KS_OK, st, "set %s: %s", s->source->name, inner.text);
done:
    return st;
}

/* Every stream and position that is asked for. */
static ks_status check_asked(const ks_transfer_options *o,
                             const ks_transfer_set *s, ks_err *err) {
    ks_status st = KS_OK;
    for (int i = 0; i < KS_N_STREAMS; i++)
        for (int p = 0; p < KS_N_POSITIONS; p++)
            KS_CHECK(
                !(o->grid.streams >> i & 1 && o->grid.positions >> p & 1) ||
                    ks_acts_has(s->file, (ks_stream)i, (ks_position)p),
                KS_USAGE, "set %s: %s has no activations of %s at %s",
                s->source->name, s->source->acts, ks_stream_name((ks_stream)i),
                ks_position_name((ks_position)p));
done:
    return st;
}

static ks_status open_set(const ks_transfer_options *o, ks_transfer_set *s,
                          ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_source *source = s->source;
    ks_dataset_paths paths = {.acts = source->acts, .labels = source->labels};
    KS_TRY(ks_acts_open_whole(&s->file, source->acts, err));
    s->info = ks_acts_get_info(s->file);
    s->control = s->info->random_weights >= 0;
    KS_CHECK(!s->control || !source->labels, KS_USAGE,
             "set %s: %s is of random weights, a control that takes no labels",
             source->name, source->acts);
    if (!s->control && (source->labels || s->info->has_labels)) {
        KS_TRY(ks_dataset_open(&s->dataset, &paths, err));
        ks_acts_close(&s->file);
        s->file = s->dataset->acts;
        s->info = s->dataset->info;
    }
    KS_TRY(check_asked(o, s, err));
    KS_TRY(read_layers(o, s, err));
    KS_TRY(ks_dataset_index(s->info, source->acts, &s->index, &s->first, err));
done:
    return st;
}

static void close_set(ks_transfer_set *s) {
    if (!s->dataset) ks_acts_close(&s->file);
    ks_dataset_close(&s->dataset);
    json_decref(s->index);
    json_decref(s->questions);
    free(s->first);
    free(s->layers);
}

/* ------------------------------------------------------------------- chains */

static const ks_chain *find_chain(const ks_chains *files, int32_t n,
                                  const ks_chain_row *row) {
    for (int32_t i = 0; i < n; i++) {
        const ks_chain *c = ks_chains_find(&files[i], row->id);
        if (c && strcmp(c->text_sha256, row->text_sha256) == 0) return c;
    }
    return NULL;
}

static ks_status read_questions(ks_transfer_set *s, const ks_chains *files,
                                int32_t n, ks_err *err) {
    ks_status st = KS_OK;
    s->questions = json_object();
    KS_CHECK(s->questions, KS_NOMEM, "out of memory for questions");
    for (int64_t c = 0; c < s->info->n_chains; c++) {
        const ks_chain_row *row = &s->info->chains[c];
        const ks_chain *chain = find_chain(files, n, row);
        char hex[65];
        KS_CHECK(chain, KS_MISMATCH,
                 "set %s: chain %s of %s is in none of the --chains files with "
                 "the text that it has there",
                 s->source->name, row->id, s->source->acts);
        const char *text = chain->question ? chain->question : chain->prompt;
        size_t length =
            chain->question ? chain->question_length : chain->prompt_length;
        ks_span trimmed = ks_text_trim(text, (ks_span){0, length});
        ks_sha256_of(text + trimmed.begin, trimmed.end - trimmed.begin, hex);
        KS_CHECK(json_object_set_new(s->questions, row->problem,
                                     json_string(hex)) == 0,
                 KS_NOMEM, "out of memory for questions");
    }
done:
    return st;
}

static ks_status read_chains(ks_transfer *t, ks_err *err) {
    ks_status st = KS_OK;
    const ks_transfer_options *o = t->options;
    ks_chains *files = NULL;
    if (!o->n_chains) return KS_OK;
    KS_TRY(ks_alloc(&files, (size_t)o->n_chains, sizeof *files, "chains", err));
    for (int32_t i = 0; i < o->n_chains; i++)
        KS_TRY(ks_chains_read(&files[i], o->chains[i], KS_KEEP_FIELDS, err));
    for (int32_t k = 0; k < t->n_sets; k++)
        KS_TRY(read_questions(&t->sets[k], files, o->n_chains, err));
done:
    for (int32_t i = 0; files && i < o->n_chains; i++)
        ks_chains_free(&files[i]);
    free(files);
    return st;
}

/* ------------------------------------------------------------ who with whom */

static bool share_chains(const ks_transfer_set *a, const ks_transfer_set *b) {
    for (int64_t c = 0; c < a->info->n_chains; c++) {
        const ks_chain_row *row = &a->info->chains[c];
        const json_t *found = json_object_get(b->index, row->id);
        if (found &&
            strcmp(b->info->chains[json_integer_value(found)].text_sha256,
                   row->text_sha256) == 0)
            return true;
    }
    return false;
}

/* Sets on the same chains, by way of others too, get one number. */
static void group_sets(ks_transfer *t) {
    for (int32_t k = 0; k < t->n_sets; k++) t->sets[k].same = k;
    for (int32_t a = 0; a < t->n_sets; a++)
        for (int32_t b = 0; b < a; b++) {
            int32_t from = t->sets[a].same, to = t->sets[b].same;
            if (from == to || !share_chains(&t->sets[a], &t->sets[b])) continue;
            for (int32_t k = 0; k < t->n_sets; k++)
                if (t->sets[k].same == KS_MAX(from, to))
                    t->sets[k].same = KS_MIN(from, to);
        }
}

static bool one_model(const ks_transfer_set *a, const ks_transfer_set *b) {
    return strcmp(a->info->model_sha256, b->info->model_sha256) == 0 &&
           a->info->context_none == b->info->context_none &&
           a->info->d == b->info->d && a->info->n_layers == b->info->n_layers;
}

/* Labelled sets of the model of set k on chains that no earlier one of them is
 * on; n is 0 unless k is the first. */
static int32_t sets_of_model(const ks_transfer *t, int32_t k, int32_t *out) {
    int32_t n = 0;
    for (int32_t i = 0; i < t->n_sets; i++) {
        const ks_transfer_set *s = &t->sets[i];
        bool again = false;
        if (!s->dataset || !one_model(s, &t->sets[k])) continue;
        if (i < k) return 0;
        for (int32_t e = 0; e < n; e++)
            again |= t->sets[out[e]].same == s->same;
        if (!again) out[n++] = i;
    }
    return n;
}

static int32_t count_bits(uint32_t set) {
    return __builtin_popcount(set);
}

/* ---------------------------------------------------------------------- run */

static ks_status run_models(ks_transfer *t, ks_err *err) {
    ks_status st = KS_OK;
    const ks_grid_options *o = &t->options->grid;
    int32_t series = count_bits(o->streams) * count_bits(o->positions);
    KS_TRY(ks_alloc(&t->models, (size_t)(t->n_rows * series), sizeof *t->models,
                    "sets", err));
    for (int32_t r = 0; r < t->n_rows; r++)
        for (int s = 0; s < KS_N_STREAMS; s++)
            for (int p = 0; p < KS_N_POSITIONS; p++) {
                if (!(o->streams >> s & 1 && o->positions >> p & 1)) continue;
                ks_transfer_models *m = &t->models[t->n_models++];
                *m = (ks_transfer_models){.rows = &t->rows[r],
                                          .stream = (ks_stream)s,
                                          .position = (ks_position)p};
                KS_TRY(ks__transfer_models(t, m, err));
            }
done:
    return st;
}

static ks_status add_rows(ks_transfer *t, int32_t first, ks_err *err) {
    ks_status st = KS_OK;
    ks_transfer_rows *r = &t->rows[t->n_rows];
    KS_TRY(ks_alloc(&r->set, (size_t)t->n_sets, sizeof *r->set, "sets", err));
    for (int32_t k = first; k < t->n_sets; k++)
        if (t->sets[k].same == first) r->set[r->n_sets++] = k;
    if (r->n_sets < 2) {
        ks__transfer_rows_free(r);
        return KS_OK;
    }
    t->n_rows++;
    KS_TRY(ks__transfer_rows(r, t, err));
done:
    return st;
}

static ks_status run_task(ks_transfer *t, const int32_t *sets, int32_t n,
                          ks_err *err) {
    ks_status st = KS_OK;
    const ks_grid_options *o = &t->options->grid;
    for (int s = 0; s < KS_N_STREAMS; s++)
        for (int p = 0; p < KS_N_POSITIONS; p++) {
            if (!(o->streams >> s & 1 && o->positions >> p & 1)) continue;
            ks_transfer_tasks *task = &t->tasks[t->n_tasks++];
            *task = (ks_transfer_tasks){.stream = (ks_stream)s,
                                        .position = (ks_position)p,
                                        .n_sets = n};
            KS_TRY(ks_alloc(&task->set, (size_t)n, sizeof *task->set, "sets",
                            err));
            memcpy(task->set, sets, (size_t)n * sizeof *sets);
            KS_TRY(ks__transfer_tasks(t, task, err));
        }
done:
    return st;
}

static ks_status run_tasks(ks_transfer *t, ks_err *err) {
    ks_status st = KS_OK;
    const ks_grid_options *o = &t->options->grid;
    int32_t series = count_bits(o->streams) * count_bits(o->positions);
    KS_TRY(ks_alloc(&t->tasks, (size_t)(t->n_sets * series), sizeof *t->tasks,
                    "sets", err));
    for (int32_t k = 0; k < t->n_sets; k++) {
        int32_t sets[KS_MAX_SETS], n = 0;
        if (t->sets[k].dataset) n = sets_of_model(t, k, sets);
        if (n >= 2) KS_TRY(run_task(t, sets, n, err));
    }
done:
    return st;
}

/* What there is to compare is known before the first fit. */
static ks_status check_any(const ks_transfer *t, ks_err *err) {
    ks_status st = KS_OK;
    bool any = t->n_rows > 0;
    for (int32_t k = 0; k < t->n_sets; k++) {
        int32_t sets[KS_MAX_SETS];
        if (t->sets[k].dataset) any |= sets_of_model(t, k, sets) >= 2;
    }
    KS_CHECK(any, KS_MISMATCH,
             "no two sets can be compared: none are on the same chains (ids "
             "and texts), and no two labelled ones are of one model");
done:
    return st;
}

ks_status ks_transfer_run(ks_transfer *out, const ks_transfer_options *options,
                          ks_err *err) {
    ks_status st = KS_OK;
    ks_transfer *t = out;
    *t = (ks_transfer){.options = options};
    KS_CHECK(options->n_sets >= 2 && options->n_sets <= KS_MAX_SETS, KS_USAGE,
             "%d sets, expected 2 to %d", options->n_sets, KS_MAX_SETS);
    KS_TRY(ks_alloc(&t->sets, (size_t)options->n_sets, sizeof *t->sets, "sets",
                    err));
    while (t->n_sets < options->n_sets) {
        ks_transfer_set *s = &t->sets[t->n_sets];
        s->source = &options->sets[t->n_sets++];
        KS_TRY(open_set(options, s, err));
    }
    KS_TRY(read_chains(t, err));
    group_sets(t);
    KS_TRY(ks_alloc(&t->rows, (size_t)t->n_sets, sizeof *t->rows, "sets", err));
    for (int32_t k = 0; k < t->n_sets; k++)
        if (t->sets[k].same == k) KS_TRY(add_rows(t, k, err));
    KS_TRY(check_any(t, err));
    KS_TRY(run_models(t, err));
    KS_TRY(run_tasks(t, err));
done:
    if (st != KS_OK) ks_transfer_free(t);
    return st;
}

void ks_transfer_free(ks_transfer *t) {
    for (int32_t i = 0; i < t->n_models; i++)
        ks__transfer_models_free(&t->models[i]);
    for (int32_t i = 0; i < t->n_tasks; i++)
        ks__transfer_tasks_free(&t->tasks[i]);
    for (int32_t i = 0; i < t->n_rows; i++) ks__transfer_rows_free(&t->rows[i]);
    for (int32_t k = 0; k < t->n_sets; k++) close_set(&t->sets[k]);
    free(t->models);
    free(t->tasks);
    free(t->rows);
    free(t->sets);
    *t = (ks_transfer){0};
}
