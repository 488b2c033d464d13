/* capture_plan.c - from chains to token sequences, steps and batches. */
#include "capture_share.h"

#include <stdlib.h>
#include <string.h>

/* A sequence needs a token even when its step has none: this one stands in
 * and is never pooled. */
enum { STAND_IN = 0 };

/* Bytes of the HDF5 library once it makes a file (2 MiB of 1.10), and of a
 * thread's scratch and stack (1.1 MiB). */
enum { HDF5_BYTES = 4 << 20, THREAD_BYTES = 5 << 18 };

/* ------------------------------------------------------------------ pieces */

static ks_status add_ids(ks_capture_job *job, const int32_t *ids, size_t n,
                         ks_err *err) {
    ks_status st = ks_grow(&job->ids, &job->ids_capacity, job->n_ids + n,
                           sizeof *job->ids, "token ids", err);
    if (st != KS_OK) return st;
    if (n) memcpy(job->ids + job->n_ids, ids, n * sizeof *ids);
    job->n_ids += n;
    return KS_OK;
}

static ks_status add_seq(ks_capture_job *job, ks_capture_seq seq, ks_err *err) {
    ks_status st = ks_grow(&job->seqs, &job->seqs_capacity, job->n_seqs + 1,
                           sizeof *job->seqs, "sequences", err);
    if (st == KS_OK) job->seqs[job->n_seqs++] = seq;
    return st;
}

static ks_status add_step(ks_capture_job *job, ks_step_row step, ks_err *err) {
    ks_status st = ks_grow(&job->steps, &job->steps_capacity, job->n_steps + 1,
                           sizeof *job->steps, "steps", err);
    if (st == KS_OK) job->steps[job->n_steps++] = step;
    return st;
}

static int8_t label_of(const ks_capture_job *job, const ks_label *line,
                       int32_t step) {
    return job->options.labels && line ? line->labels[step] : -1;
}

static ks_status check_ids(const ks_capture_job *job, const ks_chain *chain,
                           const ks_tokens *tokens, ks_err *err) {
    int32_t n_vocab = ks_engine_info(job->engine).n_vocab;
    for (size_t i = 0; i < tokens->n; i++)
        if (tokens->ids[i] < 0 || tokens->ids[i] >= n_vocab)
            return ks_fail(err, KS_MISMATCH,
                           "%s: chain '%s' has token id %d; "
                           "the model's vocabulary is 0 to %d: the tokenizer "
                           "does not fit the model",
                           job->options.chains, chain->id, tokens->ids[i],
                           n_vocab - 1);
    return KS_OK;
}

static ks_status tokenize(const ks_capture_job *job, const ks_chain *chain,
                          const char *text, size_t n, ks_tokens *tokens,
                          ks_err *err) {
    ks_status st = ks_tokenize(job->tokenizer, text, n, tokens, err);
    if (st != KS_OK) {
        char reason[sizeof err->text] = "";
        if (err) memcpy(reason, err->text, sizeof reason);
        return ks_fail(err, st, "%s: chain '%s': %s", job->options.chains,
                       chain->id, reason);
    }
    return check_ids(job, chain, tokens, err);
}

/* Chains of other shards are read, cut and tokenised as well: what is wrong
 * with any is found by all, and the identity of the whole takes their tokens.
 */
static bool is_mine(const ks_capture_job *job, int32_t c) {
    return (size_t)c >= job->first && (size_t)c < job->end;
}

/* ------------------------------------------------------------ context: full */

static ks_status chain_steps(ks_capture_job *job, int32_t c,
                             const ks_tokens *tokens, int32_t limit,
                             ks_err *err) {
    ks_status st = KS_OK;
    const ks_chain *chain = &job->chains.at[c];
    const ks_label *line = ks_labels_find(&job->labels, chain->id);
    bool before = job->options.positions & 1u << KS_BEFORE;
    size_t at = 0;
    for (int32_t i = 0; i < chain->n_steps; i++) {
        ks_span span = chain->steps[i];
        int64_t offset = (int64_t)chain->prompt_length;
        ks_span own = ks_tokens_of(tokens, (int64_t)span.begin + offset,
                                   (int64_t)span.end + offset, &at);
        int32_t first = (int32_t)own.begin, last = (int32_t)own.end;
        /* half a step is not the step: cut ones count as without a token */
        if (last > limit) first = last = KS_MIN(first, limit);
        bool valid = first < last && !(before && first == 0);
        KS_TRY(add_step(job,
                        (ks_step_row){c, i, first, last, span.begin, span.end,
                                      valid, label_of(job, line, i)},
                        err));
    }
done:
    return st;
}

static ks_status too_long(const ks_capture_job *job, const ks_chain *chain,
                          size_t n, bool by_memory, int32_t longest,
                          ks_err *err) {
    if (by_memory)
        return ks_fail(err, KS_LIMIT,
                       "%s: chain '%s' has %zu tokens; buffers "
                       "for at most %d fit into the memory allowed (--memory)",
                       job->options.chains, chain->id, n, longest);
    return ks_fail(err, KS_LIMIT,
                   "%s: chain '%s' has %zu tokens, the model's "
                   "context is %d; --truncate cuts it there",
                   job->options.chains, chain->id, n, longest);
}

static ks_status plan_chain(ks_capture_job *job, int32_t c, ks_str *text,
                            ks_tokens *tokens, ks_err *err) {
    ks_status st = KS_OK;
    const ks_chain *chain = &job->chains.at[c];
    if (chain->n_steps == 0) return KS_OK;
    text->length = 0;
    KS_TRY(ks_str_add(text, chain->prompt, chain->prompt_length, err));
    KS_TRY(ks_str_add(text, chain->text, chain->text_length, err));
    KS_TRY(tokenize(job, chain, text->data, text->length, tokens, err));
    bool by_memory = false;
    int32_t longest = ks_engine_longest(job->engine, &by_memory);
    size_t n = tokens->n;
    if (n > (size_t)longest) {
        if (!job->options.truncate || by_memory)
            return too_long(job, chain, n, by_memory, longest, err);
        n = (size_t)longest;
        job->cost.truncated += is_mine(job, c);
    }
    ks_capture_seq seq = {.token = (int64_t)job->n_ids,
                          .n_tokens = (int32_t)n,
                          .chain = c,
                          .step = (int64_t)job->n_steps,
                          .n_steps = chain->n_steps};
    KS_TRY(chain_steps(job, c, tokens, (int32_t)n, err));
    if (!is_mine(job, c)) return KS_OK;
    KS_TRY(add_ids(job, tokens->ids, n, err));
    if (n == 0) {
        KS_TRY(add_ids(job, &(int32_t){STAND_IN}, 1, err));
        seq.n_tokens = 1;
    }
    KS_TRY(add_seq(job, seq, err));
done:
    return st;
}

/* ------------------------------------------------------------ context: none */

static bool is_blank(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* One step alone: BOS where the model has one, then the trimmed text. */
static ks_status plan_lone_step(ks_capture_job *job, int32_t c, int32_t i,
                                const ks_label *line, ks_tokens *tokens,
                                ks_err *err) {
    ks_status st = KS_OK;
    const ks_chain *chain = &job->chains.at[c];
    ks_span span = chain->steps[i];
    int32_t begin = span.begin, end = span.end;
    while (begin < end && is_blank(chain->text[begin])) begin++;
    while (end > begin && is_blank(chain->text[end - 1])) end--;
    KS_TRY(tokenize(job, chain, chain->text + begin, (size_t)(end - begin),
                    tokens, err));
    int32_t bos = ks_tokenizer_bos(job->tokenizer);
    int32_t ahead = bos >= 0;
    bool by_memory = false;
    size_t n = tokens->n;
    size_t longest =
        (size_t)ks_engine_longest(job->engine, &by_memory) - (size_t)ahead;
    bool whole = n <= longest;
    if (!whole) {
        if (!job->options.truncate || by_memory)
            return too_long(job, chain, n, by_memory, (int32_t)longest, err);
        n = longest;
        job->cost.truncated += is_mine(job, c);
    }
    int32_t last = whole ? ahead + (int32_t)n : ahead;
    ks_capture_seq seq = {.token = (int64_t)job->n_ids,
                          .n_tokens = KS_MAX(ahead + (int32_t)n, 1),
                          .chain = c,
                          .step = (int64_t)job->n_steps,
                          .n_steps = 1};
    KS_TRY(add_step(job,
                    (ks_step_row){c, i, ahead, last, span.begin, span.end,
                                  last > ahead, label_of(job, line, i)},
                    err));
    if (!is_mine(job, c)) return KS_OK;
    KS_TRY(add_seq(job, seq, err));
    if (ahead) KS_TRY(add_ids(job, &bos, 1, err));
    KS_TRY(add_ids(job, tokens->ids, n, err));
    if (ahead + n == 0) KS_TRY(add_ids(job, &(int32_t){STAND_IN}, 1, err));
done:
    return st;
}

static ks_status plan_lone_steps(ks_capture_job *job, int32_t c,
                                 ks_tokens *tokens, ks_err *err) {
    ks_status st = KS_OK;
    const ks_chain *chain = &job->chains.at[c];
    const ks_label *line = ks_labels_find(&job->labels, chain->id);
    for (int32_t i = 0; i < chain->n_steps; i++)
        KS_TRY(plan_lone_step(job, c, i, line, tokens, err));
done:
    return st;
}

/* ----------------------------------------------------------------- batches */

size_t ks__capture_batch_end(const ks_capture_job *job, size_t from,
                             int32_t *n_tokens, int32_t *n_steps) {
    size_t end = from;
    *n_tokens = *n_steps = 0;
    do {
        *n_tokens += job->seqs[end].n_tokens;
        *n_steps += job->seqs[end].n_steps;
        end++;
    } while (end < job->n_seqs &&
             (int64_t)*n_tokens + job->seqs[end].n_tokens <= job->batch_tokens);
    return end;
}

/* What the groups of one batch share. */
static void measure_groups(ks_capture_job *job, const ks__share_group *groups,
                           int32_t n) {
    int32_t pages = 0;
    for (int32_t g = 0; g < n; g++) {
        int32_t own = (groups[g].n_tokens + KS_PAGE - 1) / KS_PAGE;
        pages += own;
        job->share_columns = KS_MAX(job->share_columns, own);
        job->cost.shared += (int64_t)(groups[g].n - 1) * groups[g].n_tokens;
    }
    job->share_pages = KS_MAX(job->share_pages, pages);
}

static ks_status measure_batches(ks_capture_job *job, ks_run_limits *limits,
                                 ks_err *err) {
    ks_status st = KS_OK;
    ks__share_group *groups = NULL;
    int32_t *work = NULL;
    KS_TRY(ks_alloc(&groups, job->n_seqs, sizeof *groups, "batches", err));
    KS_TRY(
        ks_alloc(&work, 2 * (job->n_seqs + 1), sizeof *work, "batches", err));
    *limits = (ks_run_limits){.streams = job->options.streams,
                              .positions = job->options.positions,
                              .dtype = job->options.dtype,
                              .lanes = job->engine->limits.lanes};
    job->cost.batches = job->cost.shared = 0;
    job->share_pages = job->share_columns = 0;
    job->max_seqs = 0;
    for (size_t at = 0, end; at < job->n_seqs; at = end) {
        int32_t tokens, steps;
        end = ks__capture_batch_end(job, at, &tokens, &steps);
        measure_groups(job, groups,
                       ks__share_groups(job, at, end, groups, work));
        limits->max_tokens = KS_MAX(limits->max_tokens, tokens);
        limits->max_rows = KS_MAX(limits->max_rows, steps);
        job->max_seqs = KS_MAX(job->max_seqs, end - at);
        job->cost.batches++;
    }
    limits->max_pages = (int64_t)job->max_seqs * job->share_columns;
    job->max_tokens = limits->max_tokens;
    job->max_rows = limits->max_rows;
    job->cost.run_bytes =
        ks_run_bytes(job->engine->ops, &job->engine->model->config, limits) +
        (size_t)job->share_pages *
            ks_kv_page_bytes(&job->engine->model->config);
done:
    free(groups);
    free(work);
    return st;
}

/* Smaller batches until their buffers fit into the memory allowed, or each is
 * one sequence (then the engine refuses with the numbers). */
static ks_status plan_batches(ks_capture_job *job, ks_err *err) {
    ks_status st = KS_OK;
    size_t memory = job->engine->memory;
    ks_run_limits limits;
    job->batch_tokens = job->engine->limits.max_tokens;
    ks__share_common(job);
    KS_TRY(measure_batches(job, &limits, err));
    while (memory && job->cost.run_bytes > memory && job->batch_tokens > 1) {
        job->batch_tokens -= (job->batch_tokens + 7) / 8;
        KS_TRY(measure_batches(job, &limits, err));
    }
    /* the engine's own packing limit must not ask for more than this */
    job->engine->limits.max_tokens = limits.max_tokens;
done:
    return st;
}

/* -------------------------------------------------------------------- spec */

static json_t *names_of(uint32_t set, const char *(*name)(int), int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        if (set & 1u << i) json_array_append_new(list, json_string(name(i)));
    return list;
}

static const char *stream_name(int i) {
    return ks_stream_name((ks_stream)i);
}

static const char *position_name(int i) {
    return ks_position_name((ks_position)i);
}

/* The settings that decide bits, and nothing that does not. */
static ks_status write_config(ks_capture_job *job, ks_err *err) {
    const ks_capture_options *o = &job->options;
    json_t *config =
        json_pack("{s:o,s:o,s:s,s:s,s:b}", "streams",
                  names_of(o->streams, stream_name, KS_N_STREAMS), "positions",
                  names_of(o->positions, position_name, KS_N_POSITIONS),
                  "context", o->context_none ? "none" : "full", "dtype",
                  ks_type_name(o->dtype), "truncate", (int)o->truncate);
    if (config && o->random_weights >= 0)
        json_object_set_new(config, "random_weights",
                            json_integer(o->random_weights));
    job->config =
        config ? json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(config);
    return job->config ? KS_OK
                       : ks_fail(err, KS_NOMEM, "out of memory for the config");
}

static ks_status fill_chain_rows(ks_capture_job *job, ks_err *err) {
    ks_status st = ks_alloc(&job->chain_rows, job->chains.n,
                            sizeof *job->chain_rows, "chains", err);
    if (st != KS_OK) return st;
    for (size_t i = 0; i < job->chains.n; i++) {
        const ks_chain *chain = &job->chains.at[i];
        ks_chain_row *row = &job->chain_rows[i];
        row->id = chain->id;
        row->problem = chain->problem;
        memcpy(row->text_sha256, chain->text_sha256, sizeof row->text_sha256);
    }
    return KS_OK;
}

/* From the whole, whose identity is kept, to the shard: its steps and chains
 * alone, counted from its own first. */
static ks_status take_shard(ks_capture_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const ks_shard shard = job->options.shard;
    size_t begin = 0, end, n = job->n_steps;
    KS_TRY(ks_acts_spec_hash(&job->spec, job->whole_sha256, err));
    while (begin < n && (size_t)job->steps[begin].chain < job->first) begin++;
    end = begin;
    while (end < n && (size_t)job->steps[end].chain < job->end) end++;
    job->n_steps = end - begin;
    memmove(job->steps, job->steps + begin, job->n_steps * sizeof *job->steps);
    for (size_t i = 0; i < job->n_steps; i++)
        job->steps[i].chain -= (int32_t)job->first;
    for (size_t i = 0; i < job->n_seqs; i++)
        job->seqs[i].step -= (int64_t)begin;
    snprintf(job->shard, sizeof job->shard, "%d/%d", shard.k, shard.n);
    job->spec.n_steps = (int64_t)job->n_steps;
    job->spec.n_chains = (int64_t)(job->end - job->first);
    job->spec.chains = job->chain_rows + job->first;
    job->spec.shard = job->shard;
    job->spec.whole_sha256 = job->whole_sha256;
done:
    return st;
}

static ks_status fill_spec(ks_capture_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const ks_capture_options *o = &job->options;
    const ks_model *model = job->engine->model;
    KS_TRY(write_config(job, err));
    KS_TRY(fill_chain_rows(job, err));
    KS_TRY(ks_model_hash(job->engine->model, err));
    if (o->random_weights >= 0) /* which decides the model's hash */
        KS_TRY(ks_model_randomize(job->engine->model,
                                  (uint64_t)o->random_weights, err));
    job->spec =
        (ks_acts_spec){.streams = o->streams,
                       .positions = o->positions,
                       .n_layers = model->config.n_layers,
                       .d = model->config.d_model,
                       .dtype = o->dtype,
                       .context_none = o->context_none,
                       .n_steps = (int64_t)job->n_steps,
                       .n_chains = (int64_t)job->chains.n,
                       .steps = job->steps,
                       .chains = job->chain_rows,
                       .has_labels = o->labels != NULL,
                       .random_weights = o->random_weights,
                       .model_name = model->name,
                       .model_sha256 = model->sha256,
                       .tokenizer_hash = ks_tokenizer_hash(job->tokenizer),
                       .isa = job->engine->ops->isa,
                       .backend = job->engine->ops->name,
                       .config = job->config};
    if (o->shard.n) KS_TRY(take_shard(job, err));
    KS_TRY(ks_alloc(&job->token_row, job->n_steps + 1, sizeof *job->token_row,
                    "steps", err));
    for (size_t i = 0; i < job->n_steps; i++)
        job->token_row[i + 1] = job->token_row[i] + job->steps[i].token_end -
                                job->steps[i].token_begin;
done:
    return st;
}

/* The ring fills with rows as far as there are any, and so do the checksums
 * that wait; steps and chains are written a column at a time, before the first
 * row. */
static uint64_t store_bytes(const ks_capture_job *job) {
    size_t id = 0, column;
    for (size_t i = 0; i < job->chains.n; i++) {
        const ks_chain *c = &job->chains.at[i];
        id = KS_MAX(id, KS_MAX(strlen(c->id), strlen(c->problem)) + 1);
    }
    column = KS_MAX(job->n_steps * sizeof(int32_t),
                    job->chains.n * KS_MAX(id, sizeof(char[65])));
    return HDF5_BYTES +
           KS_MIN(KS_ACTS_RING + KS_ACTS_SUMS, job->cost.file_bytes) + column +
           (job->n_steps + 1) * sizeof *job->token_row;
}

static void fill_cost(ks_capture_job *job) {
    ks_capture_cost *cost = &job->cost;
    cost->chains = job->spec.n_chains;
    cost->steps = (int64_t)job->n_steps;
    cost->tokens = (int64_t)job->n_ids;
    for (size_t i = 0; i < job->n_steps; i++) {
        cost->invalid += !job->steps[i].valid;
        cost->unlabelled += job->steps[i].label < 0;
    }
    cost->file_bytes = ks_acts_file_bytes(&job->spec);
    cost->thread_bytes =
        (uint64_t)ks_dev_threads(job->engine->dev) * THREAD_BYTES;
    cost->store_bytes = store_bytes(job);
    for (size_t i = 0; i < job->engine->model->n_files; i++)
        cost->model_bytes += job->engine->model->files[i].size;
}

static int32_t steps_of(void *chains, const char *id) {
    const ks_chain *chain = ks_chains_find(chains, id);
    return chain ? chain->n_steps : -1;
}

static ks_status read_inputs(ks_capture_job *job, ks_err *err) {
    ks_status st = KS_OK;
    ks_chains clean = {0};
    const ks_capture_options *o = &job->options;
    KS_TRY(ks_chains_read(&job->chains, o->chains, KS_KEEP_FIELDS, err));
    for (size_t i = 0; i < job->chains.n; i++)
        KS_CHECK(job->chains.at[i].steps, KS_FORMAT,
                 "%s: chain '%s' has no \"steps\"; keystep split cuts chains "
                 "into steps",
                 o->chains, job->chains.at[i].id);
    if (!o->labels) return KS_OK;
    /* a projection reads fields of the lines */
    ks_keep keep = o->clean ? KS_KEEP_OBJECTS : KS_KEEP_FIELDS;
    KS_TRY(ks_labels_read(&job->labels, o->labels, keep, err));
    if (o->clean) {
        KS_TRY(ks_chains_read(&clean, o->clean, keep, err));
        KS_TRY(ks_labels_project(&job->labels, &clean, steps_of, &job->chains,
                                 o->chains, err));
    }
    KS_TRY(ks_labels_fit(&job->labels, &job->chains, err));
done:
    ks_chains_free(&clean);
    return st;
}

/* A file of no step is none, so shares are cut over the chains that have one:
 * the others go with the one ahead of them, the first ones with the first. */
static ks_status cut_share(ks_capture_job *job, ks_err *err) {
    ks_status st = KS_OK;
    size_t n = 0, begin, end;
    for (size_t c = 0; c < job->chains.n; c++)
        n += job->chains.at[c].n_steps > 0;
    KS_CHECK(n > 0, KS_FORMAT,
             "%s: no chain has a step; keystep "
             "split cuts chains into steps",
             job->options.chains);
    KS_TRY(ks_shard_range(job->options.shard, n, job->options.chains,
                          "chains with a step", &begin, &end, err));
    job->first = 0;
    job->end = job->chains.n;
    n = 0;
    for (size_t c = 0; c < job->chains.n; c++) {
        if (job->chains.at[c].n_steps == 0) continue;
        if (n == begin && n > 0) job->first = c;
        if (n == end) job->end = c;
        n++;
    }
done:
    return st;
}

ks_status ks__capture_plan(ks_capture_job *job, ks_err *err) {
    ks_status st = KS_OK;
    ks_tokens tokens = {0};
    ks_str text = {0};
    KS_TRY(read_inputs(job, err));
    KS_TRY(cut_share(job, err));
    for (size_t c = 0; c < job->chains.n; c++) {
        if (job->options.context_none)
            KS_TRY(plan_lone_steps(job, (int32_t)c, &tokens, err));
        else
            KS_TRY(plan_chain(job, (int32_t)c, &text, &tokens, err));
    }
    KS_TRY(fill_spec(job, err));
    KS_TRY(plan_batches(job, err));
    fill_cost(job);
done:
    ks_tokens_free(&tokens);
    ks_str_free(&text);
    return st;
}
