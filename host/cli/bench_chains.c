/* bench_chains.c - chains to measure on where nobody named any. They are made
 * of the embedded model's problems, as long as GSM8K's solutions and their
 * prompts are (about 190 tokens of a large vocabulary): the first question is
 * the prompt, the sentences of two more are the steps. What they say does not
 * matter for speed. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

enum { EACH = 3 }; /* problems a chain */

/* What a problem says behind its question. */
static const char *facts_of(const ks_problem *p) {
    const char *mark = strchr(p->question, '?');
    return mark ? mark + 1 : p->question;
}

/* Sentences up to the next question mark, a step each. */
static ks_status add_steps(const char *from, ks_str *text, json_t *steps,
                           ks_err *err) {
    ks_status st = KS_OK;
    size_t all = strcspn(from, "?");
    for (size_t at = 0, n; at < all; at += n + 1) {
        n = strcspn(from + at, ".?");
        if (n == 0 || from[at + n] != '.') break;
        size_t begin = text->length, skip = begin ? 0 : 1;
        KS_TRY(ks_str_add(text, from + at + skip, n - skip, err));
        KS_TRY(ks_str_add(text, ".", 1, err));
        json_t *step = json_pack("{s:I,s:I}", "begin", (json_int_t)begin, "end",
                                 (json_int_t)text->length);
        KS_CHECK(!json_array_append_new(steps, step), KS_NOMEM,
                 "no memory for chains");
    }
done:
    return st;
}

static ks_status add_chain(ks_str *lines, const ks_problem *of, int32_t number,
                           ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    json_t *steps = json_array(), *line = NULL;
    for (int i = 1; i < EACH; i++)
        KS_TRY(add_steps(facts_of(&of[i]), &text, steps, err));
    KS_CHECK(json_array_size(steps) > 0, KS_FORMAT,
             "problem %s has no sentences to make a chain of", of[1].id);
    line = json_pack(
        "{s:o,s:o,s:s,s:o,s:s,s:O}", "id", json_sprintf("bench-%d/0", number),
        "problem", json_sprintf("bench-%d", number), "model", "none", "prompt",
        json_sprintf("%s\n", of->question), "text", text.data, "steps", steps);
    KS_CHECK(line, KS_NOMEM, "no memory for chains");
    KS_TRY(ks_jsonl_add(lines, line, err));
done:
    json_decref(line);
    json_decref(steps);
    ks_str_free(&text);
    return st;
}

static ks_status make_chains(const char *folder, int32_t n, const char *path,
                             bool force, ks_err *err) {
    ks_status st = KS_OK;
    ks_problems problems = {0};
    ks_str lines = {0};
    char *from = NULL;
    KS_TRY(ks_path_join(&from, folder, "problems-a.jsonl", err));
    KS_TRY(ks_problems_read(&problems, from, KS_KEEP_FIELDS, err));
    int32_t groups = (int32_t)(problems.n / EACH);
    KS_CHECK(groups > 0, KS_FORMAT, "%s: %zu problems, %d are needed", from,
             problems.n, EACH);
    for (int32_t i = 0; i < n; i++)
        KS_TRY(add_chain(&lines, &problems.at[EACH * (i % groups)], i, err));
    KS_TRY(ks_write_file(path, lines.data, lines.length, force, err));
done:
    ks_str_free(&lines);
    ks_problems_free(&problems);
    free(from);
    return st;
}

static ks_status copy(char **out, const char *text, ks_err *err) {
    ks_str s = {0};
    ks_status st = ks_str_printf(&s, err, "%s", text);
    *out = s.data;
    return st;
}

ks_status ks_bench_source_open(ks_bench_source *out, const ks_bench_input *in,
                               const char *name, int32_t n, ks_err *err) {
    ks_status st = KS_OK;
    char *folder = NULL;
    *out = (ks_bench_source){0};
    if (!in->common.model || !in->common.chains)
        KS_TRY(ks_cli_demo_folder(&folder, err));
    if (in->common.model)
        KS_TRY(copy(&out->model, in->common.model, err));
    else
        KS_TRY(ks_path_join(&out->model, folder, "models/demo-a", err));
    if (in->common.chains) {
        KS_TRY(copy(&out->chains, in->common.chains, err));
        goto done;
    }
    if (in->out_data)
        KS_TRY(copy(&out->chains, in->out_data, err));
    else
        KS_TRY(ks_path_join(&out->chains, in->dir, name, err));
    bool force = in->out_data && in->common.force;
    KS_TRY(ks_refuse_existing(out->chains, force, err));
    KS_TRY(make_chains(folder, in->n_chains ? in->n_chains : n, out->chains,
                       force, err));
    out->made = !in->out_data;
done:
    free(folder);
    if (st != KS_OK) ks_bench_source_close(out);
    return st;
}

void ks_bench_source_close(ks_bench_source *source) {
    if (source->made) unlink(source->chains);
    free(source->model);
    free(source->chains);
    *source = (ks_bench_source){0};
}

/* -------------------------------------------------------------------- tokens
 */

ks_status ks_bench_tokenize(ks_bench_tokens *out, const ks_tokenizer *tokenizer,
                            const ks_chain *chain, ks_err *err) {
    ks_status st = KS_OK;
    ks_str text = {0};
    ks_tokens tokens = {0};
    size_t n = (size_t)chain->n_steps, at = 0;
    *out = (ks_bench_tokens){.n_steps = chain->n_steps};
    KS_CHECK(n > 0, KS_FORMAT, "chain %s has no steps: keystep split cuts them",
             chain->id);
    KS_TRY(ks_str_add(&text, chain->prompt, chain->prompt_length, err));
    KS_TRY(ks_str_add(&text, chain->text, chain->text_length, err));
    KS_TRY(ks_tokenize(tokenizer, text.data, text.length, &tokens, err));
    KS_CHECK(tokens.n > 1 && tokens.n < INT32_MAX, KS_FORMAT,
             "chain %s: %zu tokens", chain->id, tokens.n);
    KS_TRY(ks_alloc(&out->bounds, n + 1, sizeof(int32_t), "steps", err));
    for (size_t k = 0; k <= n; k++) {
        ks_span s = chain->steps[KS_MIN(k, n - 1)];
        size_t byte = chain->prompt_length + (k < n ? s.begin : s.end);
        while (at < tokens.n && (size_t)tokens.end[at] <= byte) at++;
        out->bounds[k] = (int32_t)KS_MAX(at, 1);
    }
    out->n_tokens = (int32_t)tokens.n;
    out->ids = tokens.ids;
    tokens.ids = NULL;
done:
    ks_tokens_free(&tokens);
    ks_str_free(&text);
    if (st != KS_OK) ks_bench_tokens_free(out);
    return st;
}

void ks_bench_tokens_free(ks_bench_tokens *tokens) {
    free(tokens->ids);
    free(tokens->bounds);
    *tokens = (ks_bench_tokens){0};
}
