/* test_capture.c - what lies in a captured file is what the definitions say,
 * whatever the batches were, and bad input is refused before it costs. Runs on
 * the small demo model of the tree. */
#include <math.h>

#include "fixture.h"

TestSuite(capture, .init = begin, .fini = end, .timeout = 300);

/* ------------------------------------------------------------------- values */

/* Every token's state by a forward of its own, straight from the engine. */
typedef struct states {
    ks_stream stream;
    int32_t layer, n, d;
    float *rows;
} states;

static ks_status keep(void *user, ks_stream stream, ks_position position,
                      int32_t layer, const void *rows, int64_t n, ks_err *err) {
    states *s = user;
    (void)err;
    (void)position;
    if (stream == s->stream && layer == s->layer)
        memcpy(s->rows, rows, (size_t)n * (size_t)s->d * sizeof(float));
    return KS_OK;
}

static void run_alone(const char *model, const ks_tokens *tokens, states *s) {
    ks_engine *engine = NULL;
    ks_err err = {0};
    ks_engine_options o = {.threads = 1};
    cr_assert_eq(ks_engine_open(&engine, model, &o, &err), KS_OK, "%s",
                 err.text);
    s->d = ks_engine_info(engine).d_model;
    s->n = (int32_t)tokens->n;
    s->rows = calloc((size_t)s->n * (size_t)s->d, sizeof(float));
    int32_t offsets[] = {0, s->n};
    ks_segment all = {0, 0, s->n};
    ks_batch batch = {1, offsets, tokens->ids};
    ks_capture want = {.streams = 1u << s->stream,
                       .positions = 1u << KS_TOKENS,
                       .dtype = KS_F32,
                       .n_segments = 1,
                       .segments = &all,
                       .emit = keep,
                       .user = s};
    cr_assert_eq(ks_engine_run(engine, &batch, &want, &err), KS_OK, "%s",
                 err.text);
    ks_engine_close(&engine);
}

static void expect_row(const ks_acts_file *file, const states *s, ks_position p,
                       int64_t row, int32_t from, int32_t to) {
    float got[1024];
    row_of(file, s->stream, p, s->layer, row, got);
    for (int32_t i = 0; i < s->d; i++) {
        double sum = 0;
        for (int32_t t = from; t < to; t++) sum += s->rows[t * s->d + i];
        double want = sum / (to - from);
        double limit = 2e-6 * fmax(1, fabs(want));
        cr_assert(fabs(got[i] - want) <= limit,
                  "%s %s step %lld [%d]: %g, "
                  "expected %g",
                  ks_stream_name(s->stream), ks_position_name(p),
                  (long long)row, i, (double)got[i], want);
    }
}

Test(capture, rows_are_pooled_from_the_tokens_of_their_step) {
    write_chains("chains.jsonl", 5);
    ks_capture_options o = options_for("x.h5");
    must_capture(&o);
    ks_acts_file *file = must_open(o.out);
    const ks_acts_info *info = ks_acts_get_info(file);
    ks_chains chains = {0};
    ks_tokenizer *tokenizer = NULL;
    ks_tokens tokens = {0};
    ks_err err = {0};
    cr_assert_eq(ks_chains_read(&chains, o.chains, KS_KEEP_FIELDS, &err),
                 KS_OK);
    cr_assert_eq(ks_tokenizer_open(&tokenizer, MODEL, &err), KS_OK);
    const ks_chain *chain = &chains.at[3]; /* not the first of its batch */
    char *text = NULL;
    cr_assert(asprintf(&text, "%s%s", chain->prompt, chain->text) > 0);
    cr_assert_eq(ks_tokenize(tokenizer, text, strlen(text), &tokens, &err),
                 KS_OK);
    for (ks_stream stream = 0; stream < KS_N_STREAMS; stream++) {
        states s = {.stream = stream, .layer = stream == KS_RESID ? 2 : 1};
        run_alone(MODEL, &tokens, &s);
        int64_t token_row = 0;
        for (int64_t r = 0; r < info->n_steps; r++) {
            const ks_step_row *step = &info->steps[r];
            int32_t a = step->token_begin, b = step->token_end;
            if (step->chain == 3) {
                /* the step holds the first byte of exactly these tokens */
                int32_t at = (int32_t)chain->prompt_length;
                for (int32_t t = 0; t < s.n; t++) {
                    bool inside = tokens.begin[t] >= at + step->byte_begin &&
                                  tokens.begin[t] < at + step->byte_end;
                    cr_assert_eq(inside, t >= a && t < b, "token %d", t);
                }
                expect_row(file, &s, KS_MEAN, r, a, b);
                expect_row(file, &s, KS_FIRST, r, a, a + 1);
                int32_t middle = a + (b - a) / 2;
                expect_row(file, &s, KS_MIDDLE, r, middle, middle + 1);
                expect_row(file, &s, KS_LAST, r, b - 1, b);
                expect_row(file, &s, KS_BEFORE, r, a - 1, a);
                for (int32_t t = a; t < b; t++)
                    expect_row(file, &s, KS_TOKENS, token_row + t - a, t,
                               t + 1);
            }
            token_row += b - a;
        }
        cr_assert_eq(token_row, info->n_tokens);
        free(s.rows);
    }
    free(text);
    ks_tokens_free(&tokens);
    ks_tokenizer_close(&tokenizer);
    ks_chains_free(&chains);
    ks_acts_close(&file);
}

Test(capture, batches_and_threads_do_not_change_a_byte) {
    write_chains("chains.jsonl", 9);
    ks_capture_options a = options_for("a.h5"), b = options_for("b.h5");
    a.dtype = b.dtype = KS_BF16;
    b.engine.batch_tokens = 1; /* each chain alone */
    b.engine.threads = 2;
    must_capture(&a);
    must_capture(&b);
    cr_assert(same_files(a.out, b.out));
}

/* Engines that take batches as they come, of one chain each. */
Test(capture, the_number_of_devices_does_not_change_a_byte) {
    write_chains("chains.jsonl", 9);
    ks_capture_options a = options_for("a.h5"), b = options_for("b.h5");
    b.engine.backend = "cpu,cpu,cpu";
    b.engine.batch_tokens = 1;
    b.engine.threads = 1;
    must_capture(&a);
    must_capture(&b);
    cr_assert(same_files(a.out, b.out));
}

Test(capture, less_memory_means_smaller_batches) {
    write_chains("chains.jsonl", 9);
    ks_capture_options a = options_for("a.h5"), b = options_for("b.h5");
    ks_capture_job *job = NULL;
    ks_err err = {0};
    cr_assert_eq(ks_capture_open(&job, &a, &err), KS_OK, "%s", err.text);
    size_t whole = job->cost.run_bytes;
    cr_assert_eq(job->cost.batches, 1);
    ks_capture_close(&job);
    b.engine.memory = whole / 2;
    cr_assert_eq(ks_capture_open(&job, &b, &err), KS_OK, "%s", err.text);
    cr_assert(job->cost.run_bytes <= whole / 2 && job->cost.batches > 1);
    ks_capture_close(&job);
    must_capture(&a);
    must_capture(&b);
    cr_assert(same_files(a.out, b.out));
    b = options_for("c.h5");
    b.engine.memory = whole / 64;
    must_fail(&b, KS_LIMIT, "memory");
}

/* The demo model with a BOS named, or as it is. */
static const char *model_with_bos(bool bos) {
    if (!bos) return MODEL;
    char command[512];
    snprintf(command, sizeof command,
             "cp -r %s %s/model && sed -i "
             "'s/\"bos_token\": null/\"bos_token\": \"<|im_start|>\"/' "
             "%s/model/tokenizer_config.json",
             MODEL, dir, dir);
    cr_assert_eq(system(command), 0);
    static char path[160];
    snprintf(path, sizeof path, "%s", name_of("model"));
    return path;
}

static void lone_steps(const char *model, bool has_bos) {
    write_chains("chains.jsonl", 3);
    ks_capture_options o = options_for("x.h5");
    o.model = model;
    o.context_none = true;
    must_fail(&o, KS_USAGE, "before");
    o.positions = 0; /* the default leaves it out */
    must_capture(&o);
    ks_acts_file *file = must_open(o.out);
    const ks_acts_info *info = ks_acts_get_info(file);
    cr_assert(info->context_none);
    cr_assert_eq(info->positions, 15u);
    ks_tokenizer *tokenizer = NULL;
    ks_tokens alone = {0};
    ks_err err = {0};
    cr_assert_eq(ks_tokenizer_open(&tokenizer, model, &err), KS_OK);
    int32_t bos = ks_tokenizer_bos(tokenizer);
    cr_assert_eq(bos >= 0, has_bos);
    const char *text = "Ada has 1 more plums than Ben.";
    cr_assert_eq(ks_tokenize(tokenizer, text, strlen(text), &alone, &err),
                 KS_OK);
    int64_t row = 2; /* the first step of the second chain */
    int32_t ahead = bos >= 0;
    cr_assert_eq(info->steps[row].token_begin, ahead);
    cr_assert_eq(info->steps[row].token_end, ahead + (int32_t)alone.n);
    ks_tokens with = {0};
    with.n = alone.n + (size_t)ahead;
    with.ids = calloc(with.n, sizeof *with.ids);
    with.ids[0] = bos;
    memcpy(with.ids + ahead, alone.ids, alone.n * sizeof *alone.ids);
    states s = {.stream = KS_MLP, .layer = 1};
    run_alone(model, &with, &s);
    expect_row(file, &s, KS_MEAN, row, ahead, s.n);
    expect_row(file, &s, KS_LAST, row, s.n - 1, s.n);
    free(s.rows);
    ks_tokens_free(&with);
    ks_tokens_free(&alone);
    ks_tokenizer_close(&tokenizer);
    ks_acts_close(&file);
}

Test(capture, a_step_alone_has_a_bos_that_is_not_pooled) {
    lone_steps(model_with_bos(true), true);
}

Test(capture, a_step_alone_of_a_model_without_bos) {
    lone_steps(model_with_bos(false), false);
}

Test(capture, steps_without_tokens_are_nan_and_counted) {
    write_text(
        "chains.jsonl",
        "{\"id\":\"a\",\"problem\":\"p\",\"model\":\"m\",\"prompt\":\"\","
        "\"text\":\"Ada.  \",\"rest\":\"\",\"steps\":["
        "{\"begin\":0,\"end\":4},{\"begin\":4,\"end\":4}]}\n"
        "{\"id\":\"b\",\"problem\":\"p\",\"model\":\"m\",\"prompt\":\"\","
        "\"text\":\"\",\"rest\":\"\",\"steps\":[]}\n"
        "{\"id\":\"c\",\"problem\":\"p\",\"model\":\"m\",\"prompt\":\"Q \","
        "\"text\":\"Ben.\",\"rest\":\"\",\"steps\":["
        "{\"begin\":0,\"end\":4}]}\n");
    ks_capture_options o = options_for("x.h5");
    ks_capture_job *job = NULL;
    ks_err err = {0};
    ks_status st = ks_capture_open(&job, &o, &err);
    if (st != KS_OK) /* an empty step may be refused by the reader instead */
        cr_assert(strstr(err.text, "step"), "%s", err.text);
    else {
        cr_assert_eq(job->cost.invalid, 2); /* `before` at token 0, no token */
        ks_capture_close(&job);
        must_capture(&o);
        ks_acts_file *file = must_open(o.out);
        const ks_acts_info *info = ks_acts_get_info(file);
        cr_assert_eq(info->n_steps, 3);
        cr_assert_eq(info->n_chains, 3);
        float row[1024];
        cr_assert_eq(info->steps[0].valid, 0);
        row_of(file, KS_RESID, KS_BEFORE, 1, 0, row);
        cr_assert(isnan(row[0]));
        row_of(file, KS_RESID, KS_MEAN, 1, 0, row);
        cr_assert(!isnan(row[0]));
        row_of(file, KS_RESID, KS_MEAN, 1, 1, row);
        cr_assert(isnan(row[0]));
        cr_assert_eq(info->steps[2].valid, 1);
        ks_acts_close(&file);
    }
}

/* ------------------------------------------------------------------ refusals
 */

Test(capture, a_chain_beyond_the_context_is_refused_or_cut) {
    ks_str all = {0};
    ks_str_printf(&all, NULL,
                  "{\"id\":\"long\",\"problem\":\"p\",\"model\":"
                  "\"m\",\"prompt\":\"Q \",\"text\":\"");
    size_t steps = 2000;
    for (size_t i = 0; i < steps; i++)
        ks_str_add(&all, "Ada has 7. ", 11, NULL);
    ks_str_printf(&all, NULL, "\",\"rest\":\"\",\"steps\":[");
    for (size_t i = 0; i < steps; i++)
        ks_str_printf(&all, NULL, "%s{\"begin\":%zu,\"end\":%zu}", i ? "," : "",
                      11 * i, 11 * i + 10);
    ks_str_printf(&all, NULL, "]}\n");
    write_text("chains.jsonl", all.data);
    ks_str_free(&all);
    ks_capture_options o = options_for("x.h5");
    o.positions = 1u << KS_MEAN;
    o.streams = 1u << KS_RESID;
    must_fail(&o, KS_LIMIT, "--truncate");
    must_fail(&o, KS_LIMIT, "chain 'long'");
    o.truncate = true;
    ks_capture_job *job = NULL;
    ks_err err = {0};
    cr_assert_eq(ks_capture_open(&job, &o, &err), KS_OK, "%s", err.text);
    cr_assert_eq(job->cost.truncated, 1);
    cr_assert_gt(job->cost.invalid, 0);
    cr_assert_eq(job->n_ids, (size_t)ks_engine_info(job->engine).n_context);
    for (size_t i = 0; i < job->n_steps; i++)
        cr_assert_leq(job->steps[i].token_end, (int32_t)job->n_ids);
    ks_capture_close(&job);
    must_capture(&o);
    ks_acts_file *file = must_open(o.out);
    ks_acts_close(&file);
}

Test(capture, bad_input_makes_no_file) {
    ks_capture_options o = options_for("x.h5");
    must_fail(&o, KS_IO, "chains.jsonl");
    write_text("chains.jsonl", "{\"id\":\"a\"}\n");
    must_fail(&o, KS_FORMAT, "line 1");
    write_text(
        "chains.jsonl",
        "{\"id\":\"a\",\"problem\":\"p\",\"model\":\"m\",\"prompt\":\"\","
        "\"text\":\"Ada.\",\"rest\":\"\",\"steps\":["
        "{\"begin\":0,\"end\":9}]}\n");
    must_fail(&o, KS_FORMAT, "line 1");
    write_text(
        "chains.jsonl",
        "{\"id\":\"a\",\"problem\":\"p\",\"model\":\"m\",\"prompt\":\"\","
        "\"text\":\"Ada.\",\"rest\":\"\",\"steps\":[]}\n");
    must_fail(&o, KS_FORMAT, "no chain has a step");
    write_text("chains.jsonl", "");
    must_fail(&o, KS_FORMAT, "chains.jsonl");
    write_chains("chains.jsonl", 3);
    write_text("labels.jsonl", "{\"chain\":\"p1/0\",\"labels\":[1]}\n");
    o.labels = name_of("labels.jsonl");
    must_fail(&o, KS_MISMATCH, "p1/0");
    o.labels = NULL;
    o.model = "/nonexistent";
    must_fail(&o, KS_IO, "/nonexistent");
}

Test(capture, a_list_of_devices_is_refused_by_its_bad_one) {
    write_chains("chains.jsonl", 2);
    ks_capture_options o = options_for("x.h5");
    ks_capture_job *job = NULL;
    ks_err err = {0};
    o.engine.backend = "cpu,tpu";
    cr_assert_eq(ks_capture_open(&job, &o, &err), KS_UNSUPPORTED);
    cr_assert(strstr(err.text, "'tpu'"), "%s", err.text);
    cr_assert(job == NULL);
}

Test(capture, labels_go_into_the_file) {
    write_chains("chains.jsonl", 3); /* of 2, 3 and 4 steps */
    write_text("labels.jsonl",
               "{\"chain\":\"p1/0\",\"method\":\"m\",\"labels\":"
               "[1,0,null]}\n{\"chain\":\"p0/0\",\"labels\":[0,1]}\n");
    ks_capture_options o = options_for("x.h5");
    o.labels = name_of("labels.jsonl");
    must_capture(&o);
    ks_acts_file *file = must_open(o.out);
    static const int8_t want[] = {0, 1, 1, 0, -1, -1, -1, -1, -1};
    const ks_acts_info *info = ks_acts_get_info(file);
    cr_assert(info->has_labels);
    for (int64_t i = 0; i < info->n_steps; i++)
        cr_assert_eq(info->steps[i].label, want[i], "step %lld", (long long)i);
    ks_acts_close(&file);
}

static void spoil(const ks_capture_options *o, float factor,
                  const char *words) {
    ks_capture_job *job = NULL;
    ks_err err = {0};
    cr_assert_eq(ks_capture_open(&job, o, &err), KS_OK, "%s", err.text);
    float *norm = job->engine->model->weights.layers[1].mlp_norm;
    for (int32_t i = 0; i < job->spec.d; i++) norm[i] *= factor;
    cr_assert_eq(ks_capture_run(job, NULL, NULL, NULL, &err), KS_NUMERIC, "%s",
                 err.text);
    cr_assert(strstr(err.text, words), "%s", err.text);
    cr_assert(strstr(err.text, "chain 'p0/0', "), "%s", err.text);
    cr_assert(!ks_file_exists(o->out));
    ks_capture_close(&job);
}

Test(capture, values_that_are_not_finite_are_named) {
    write_chains("chains.jsonl", 3);
    ks_capture_options o = options_for("x.h5");
    o.streams = 1u << KS_RESID;
    spoil(&o, NAN, "resid layer 2");
    o.force = true;
    o.dtype = KS_F16;
    spoil(&o, 1e5f, "beyond the range of f16");
    spoil(&o, 1e5f, "resid layer 2");
    o.engine.backend = "cpu,cpu"; /* of two faults the first chain's is told */
    o.engine.batch_tokens = 1;
    spoil(&o, 1e5f, "resid layer 2");
}

Test(capture, random_weights_are_said_and_seeded) {
    write_chains("chains.jsonl", 2);
    ks_capture_options a = options_for("a.h5"), b = options_for("b.h5");
    a.random_weights = b.random_weights = 7;
    must_capture(&a);
    must_capture(&b);
    cr_assert(same_files(a.out, b.out));
    ks_acts_file *file = must_open(a.out);
    cr_assert_eq(ks_acts_get_info(file)->random_weights, 7);
    float one[1024], two[1024];
    row_of(file, KS_RESID, KS_MEAN, 2, 1, one);
    ks_acts_close(&file);
    b.random_weights = -1;
    b.force = true;
    must_capture(&b);
    file = must_open(b.out);
    row_of(file, KS_RESID, KS_MEAN, 2, 1, two);
    ks_acts_close(&file);
    cr_assert_neq(one[0], two[0]);
}
