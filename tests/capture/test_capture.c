/* test_capture.c - what lies in a captured file is what the definitions say,
 * whatever the batches were, and bad input is refused before it costs. Runs on
 * the small demo model of the tree. */
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "capture.h"
#include "shell.h"

#define MODEL KS_TEST_DATA "/../../experiments/demo/models/demo-a"

/* ----------------------------------------------------------------- fixture */

static char dir[64];

static void begin(void) {
    make_temporary(dir, "capture");
}

static void end(void) {
    drop_temporary(dir);
}

TestSuite(capture, .init = begin, .fini = end, .timeout = 300);

static const char *name_of(const char *name) {
    static char names[6][160];
    static int at;
    at = (at + 1) % 6;
    snprintf(names[at], sizeof names[at], "%s/%s", dir, name);
    return names[at];
}

static void write_text(const char *name, const char *text) {
    ks_err err = {0};
    cr_assert_eq(ks_write_file(name_of(name), text, strlen(text), true, &err),
                 KS_OK, "%s", err.text);
}

/* n chains of some sentences each, every sentence a step; the blank between
 * two belongs to neither. */
static void write_chains(const char *name, int n) {
    ks_str all = {0};
    for (int c = 0; c < n; c++) {
        ks_str text = {0}, steps = {0};
        for (int i = 0; i < 2 + c % 4; i++) {
            size_t from = text.length;
            ks_str_printf(&text, NULL, "Ada has %d more plums than Ben%s.",
                          3 * i + c, i % 2 ? " and Cleo" : "");
            ks_str_printf(&steps, NULL, "%s{\"begin\":%zu,\"end\":%zu}",
                          i ? "," : "", from, text.length);
            ks_str_add(&text, " ", 1, NULL);
        }
        ks_str_printf(&all, NULL,
                      "{\"id\":\"p%d/0\",\"problem\":\"p%d\",\"model\":\"m\","
                      "\"prompt\":\"How many plums has Ada? \",\"text\":\"%s\","
                      "\"rest\":\"\",\"steps\":[%s]}\n",
                      c, c, text.data, steps.data);
        ks_str_free(&text);
        ks_str_free(&steps);
    }
    write_text(name, all.data);
    ks_str_free(&all);
}

static ks_capture_options options_for(const char *out) {
    static char chains[160], file[2][160];
    static int at;
    at = !at;
    snprintf(chains, sizeof chains, "%s", name_of("chains.jsonl"));
    snprintf(file[at], sizeof file[at], "%s", name_of(out));
    return (ks_capture_options){.model = MODEL,
                                .chains = chains,
                                .out = file[at],
                                .dtype = KS_F32,
                                .streams = 7,
                                .positions = 63,
                                .random_weights = -1,
                                .engine = {.threads = 1}};
}

static ks_status capture(const ks_capture_options *options, ks_err *err) {
    ks_capture_job *job = NULL;
    ks_status st = ks_capture_open(&job, options, err);
    if (st == KS_OK) st = ks_capture_run(job, NULL, NULL, NULL, err);
    ks_capture_close(&job);
    return st;
}

static void must_capture(const ks_capture_options *options) {
    ks_err err = {0};
    cr_assert_eq(capture(options, &err), KS_OK, "%s", err.text);
}

static void must_fail(const ks_capture_options *options, ks_status want,
                      const char *words) {
    ks_err err = {0};
    ks_status st = capture(options, &err);
    cr_assert_eq(st, want, "%s: %s", ks_status_text(st), err.text);
    cr_assert(strstr(err.text, words), "got '%s', expected '%s'", err.text,
              words);
    cr_assert(!ks_file_exists(options->out), "%s was made", options->out);
}

static ks_acts_file *must_open(const char *path) {
    ks_acts_file *file = NULL;
    ks_err err = {0};
    cr_assert_eq(ks_acts_verify(path, NULL, &err), KS_OK, "%s", err.text);
    cr_assert_eq(ks_acts_open(&file, path, &err), KS_OK, "%s", err.text);
    return file;
}

static void row_of(const ks_acts_file *file, ks_stream s, ks_position p,
                   int32_t layer, int64_t row, float *out) {
    ks_err err = {0};
    cr_assert_eq(ks_acts_read(file, s, p, layer, row, 1, out, &err), KS_OK,
                 "%s", err.text);
}

static bool same_files(const char *a, const char *b) {
    char *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    bool same = ks_read_file(a, &x, &n, NULL) == KS_OK &&
                ks_read_file(b, &y, &m, NULL) == KS_OK && n == m &&
                memcmp(x, y, n) == 0;
    free(x);
    free(y);
    return same;
}

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

/* -------------------------------------------------------- stopping, resuming
 */

static void interrupt_after(void *user, int64_t done, int64_t all) {
    (void)done;
    (void)all;
    int *left = user;
    if (--*left == 0) ks_interrupted = SIGINT;
}

Test(capture, an_interrupted_run_resumes_to_the_same_bytes) {
    write_chains("chains.jsonl", 9);
    ks_capture_options a = options_for("a.h5"), b = options_for("b.h5");
    must_capture(&a);
    b.engine.batch_tokens = 1;
    b.resume = true;
    ks_err err = {0};
    for (int stops = 0; stops < 3; stops++) {
        ks_capture_job *job = NULL;
        int left = 2;
        cr_assert_eq(ks_capture_open(&job, &b, &err), KS_OK, "%s", err.text);
        int64_t resumed = -1;
        cr_assert_eq(
            ks_capture_run(job, interrupt_after, &left, &resumed, &err),
            KS_INTERRUPTED, "%s", err.text);
        cr_assert(strstr(err.text, "--resume"), "%s", err.text);
        cr_assert_eq(resumed, stops ? job->seqs[2 * stops].step : 0);
        ks_capture_close(&job);
        ks_interrupted = 0;
        cr_assert(!ks_file_exists(b.out));
    }
    b.engine.batch_tokens = 0; /* other batches for the rest */
    must_capture(&b);
    cr_assert(same_files(a.out, b.out));
    must_capture(&b); /* nothing left to do */
    b.resume = false;
    cr_assert_eq(capture(&b, &err), KS_EXISTS);
}

#ifdef KS_PROGRAM
static pid_t start_program(const char *out, const char *option) {
    pid_t child = fork();
    if (child == 0) {
        execl(KS_PROGRAM, "keystep", "capture", "--model", MODEL, "--chains",
              name_of("chains.jsonl"), "--out", name_of(out), "--batch-tokens",
              "64", "--threads", "1", "--quiet", option, (char *)NULL);
        _exit(127);
    }
    return child;
}

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int wait_for(pid_t child) {
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(capture, the_program_killed_at_random_moments) {
    if (access(KS_PROGRAM, X_OK) != 0) cr_skip_test("no program was built");
    write_chains("chains.jsonl", 60);
    double start = seconds_now();
    cr_assert_eq(wait_for(start_program("a.h5", "--force")), 0);
    double whole = seconds_now() - start;
    uint32_t state = 2463534242u;
    for (int kills = 0; kills < 25; kills++) {
        state ^= state << 13, state ^= state >> 17, state ^= state << 5;
        pid_t child = start_program("b.h5", "--resume");
        usleep((useconds_t)(whole * 1e6 * (double)(state % 1000) / 1000));
        kill(child, kills % 5 == 4 ? SIGTERM : SIGKILL);
        int code = wait_for(child);
        cr_assert(code == -1 || code == 0 || code == 130, "%d", code);
        if (ks_file_exists(name_of("b.h5"))) {
            cr_assert(same_files(name_of("a.h5"), name_of("b.h5")));
            unlink(name_of("b.h5"));
        }
    }
    cr_assert_eq(wait_for(start_program("b.h5", "--resume")), 0);
    cr_assert(same_files(name_of("a.h5"), name_of("b.h5")));
    cr_assert_eq(wait_for(start_program("b.h5", "--quiet")), 1);
}
#endif
