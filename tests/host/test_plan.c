/* keystep plan: its kernels beside docs/roofline.md, values by hand for a tiny
 * shape, labelling's tokens beside a dry run, and the command. */
#include <jansson.h>
#include <math.h>

#include "plan.h"
#include "shell.h"
#include "text_table.h"

/* The next "All calls: X ms." of the page. */
static double next_ms(char **at) {
    static const char mark[] = "All calls: ";
    *at = strstr(*at, mark);
    cr_assert(*at);
    *at += sizeof mark - 1;
    return strtod(*at, at);
}

/* Within a share of what is wanted. */
static void near(double is, double wanted, double share) {
    cr_expect(fabs(is - wanted) <= share * fabs(wanted), "%g, wanted %g", is,
              wanted);
}

Test(plan, kernels_are_those_of_the_roofline) {
    static const char *const names[] = {"Qwen2.5-1.5B", "Qwen2.5-7B",
                                        "gpt-oss-20b"};
    char *page = NULL;
    ks_plan_device on;
    cr_assert_eq(ks_read_file(KS_TEST_DATA "/../../docs/roofline.md", SIZE_MAX,
                              &page, NULL, NULL),
                 KS_OK);
    cr_assert_eq(ks_plan_find_device("h100", &on, NULL), KS_OK);
    char *at = page;
    for (size_t i = 0; i < KS_COUNT(names); i++) {
        ks_plan_shape m;
        cr_assert_eq(ks_plan_find_shape(names[i], &m, NULL), KS_OK);
        ks_plan_kernels k = ks_plan_prefill(&m, 8192, 4096, 40, true);
        near(1e3 * ks_plan_sum(&k, &on).seconds, next_ms(&at), 6e-3);
        k = ks_plan_decode(&m, 64, 2048, 512);
        near(1e3 * ks_plan_sum(&k, &on).seconds, next_ms(&at), 6e-3);
        k = ks_plan_backward(&m, 8, 4096, 40);
        if (m.experts > 0)
            cr_expect_eq(k.n, 0);
        else
            near(1e3 * ks_plan_sum(&k, &on).seconds, next_ms(&at), 6e-3);
        next_ms(&at); /* probes: other columns here */
    }
    free(page);
}

/* L 2, d 4, H 2, G 1, D 2, F 8, V 16: q [4, 4], k and v [2, 4], o [4, 4], three
 * of [8, 4]: 48 + 96 a layer, and two of [16, 4]. */
static const ks_plan_shape tiny = {.layers = 2,
                                   .d = 4,
                                   .heads = 2,
                                   .kv = 1,
                                   .dim = 2,
                                   .ff = 8,
                                   .vocab = 16,
                                   .weights = 1,
                                   .attention = 2};

Test(plan, values_by_hand) {
    cr_expect_eq(ks_plan_parameters(&tiny), 2 * (48 + 96) + 2 * 64);
    cr_expect_eq(ks_plan_weight_bytes(&tiny), 2 * 96 + 2 * (2 * 48 + 128));
    cr_expect_eq(ks_plan_token_bytes(&tiny), 2 * 2 * 2 * 4);
    ks_plan_device on = {.memory = 1e9,
                         .bandwidth = 1e6,
                         .tensor = 1e6,
                         .float_ = 1e6,
                         .double_ = 1e6};
    ks_plan_asked a = ks_plan_defaults();
    a.chains = 10, a.chain_tokens = 100, a.prompt_tokens = 20, a.steps = 5;
    a.devices = 2, a.disk = 1;
    ks_plan_stage s[KS_PLAN_STAGES];
    ks_plan_stages(&tiny, &on, &a, s);
    cr_expect_eq(s[KS_PLAN_GENERATE].tokens, 10 * 120);
    cr_expect_eq(s[KS_PLAN_GENERATE].active, 5); /* of 10 chains on 2 */
    cr_expect_eq(s[KS_PLAN_CAPTURE].tokens, 10 * 120);
    /* 50 steps, 3 layers, 5 positions, 4 values of 2 bytes and a checksum */
    cr_expect_eq(s[KS_PLAN_CAPTURE].file_bytes, 50 * 3 * 5 * 12);
    cr_expect_eq(s[KS_PLAN_CAPTURE].wall_seconds, 50 * 3 * 5 * 12);
    for (int i = 0; i < KS_PLAN_STAGES; i++) {
        cr_expect(s[i].fits);
        cr_expect_float_eq(s[i].device_seconds, 2 * s[i].work.seconds,
                           1e-9 * s[i].work.seconds);
    }
    /* labelling, 3 orders: 5 (1 + 1 + 1/2 + 1 + 4.5) = 40 questions */
    double sampled, backward;
    double all = ks_plan_label_tokens(&a, &sampled, &backward);
    cr_expect_float_eq(sampled, 40 * 1.5 * 7, 1e-9);
    cr_expect_float_eq(backward, 100 + 250, 1e-9);
    cr_expect_float_eq(all,
                       20 + 200 + 200.0 / 3 + 500 * (0.125 + 0.5 + 27.0 / 16) +
                           400 + 420 + 350,
                       1e-9);
    on.memory = 1000; /* not even the weights and a batch */
    ks_plan_stages(&tiny, &on, &a, s);
    for (int i = 0; i < KS_PLAN_PROBE; i++) cr_expect(!s[i].fits, "%d", i);
}

/* --------------------------------------------------------------- the tables */

static json_t *table(const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/../../host/plan/%s", KS_TEST_DATA, name);
    json_t *all = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    cr_assert(json_array_size(all) > 0, "%s", path);
    return all;
}

/* Weights of the published files, which have norms, biases and sinks besides:
 * less than a thousandth. */
Test(plan, shapes_count_the_published_parameters) {
    static const struct {
        const char *name;
        double parameters;
    } published[] = {{"SmolLM2-135M", 134515008},
                     {"Qwen2.5-0.5B", 494032768},
                     {"Qwen2.5-1.5B", 1543714304},
                     {"Qwen2.5-7B", 7615616512},
                     {"Qwen2.5-14B", 14770033664},
                     {"Qwen2.5-32B", 32763876352},
                     {"Qwen3-8B", 8190735360},
                     {"R1-Distill-Qwen-1.5B", 1777088000},
                     {"R1-Distill-Qwen-7B", 7615616512},
                     {"R1-Distill-Llama-8B", 8030261248},
                     {"Llama-3.1-8B", 8030261248},
                     {"Llama-70B", 70553706496},
                     {"gpt-oss-20b", 20914757184},
                     {"gpt-oss-120b", 116829156672}};
    json_t *all = table("models.json");
    cr_expect_eq(json_array_size(all), KS_COUNT(published));
    for (size_t i = 0; i < KS_COUNT(published); i++) {
        ks_plan_shape m;
        cr_assert_eq(ks_plan_find_shape(published[i].name, &m, NULL), KS_OK);
        double n = ks_plan_parameters(&m), whole = published[i].parameters;
        cr_expect(n < whole && n > whole * (1 - 1e-3), "%s: %.0f of %.0f",
                  published[i].name, n, whole);
        cr_expect(strchr(m.source, '/') && strstr(m.source, ", config.json"),
                  "%s: '%s'", m.name, m.source);
        cr_expect(strlen(m.source) < KS_TEXT_CELL, "cut off: %s", m.source);
    }
    json_decref(all);
}

Test(plan, devices_have_every_rate_and_its_source) {
    json_t *all = table("devices.json"), *one;
    size_t i;
    json_array_foreach(all, i, one) {
        ks_plan_device d;
        const char *name = json_string_value(json_object_get(one, "name"));
        cr_assert_eq(ks_plan_find_device(name, &d, NULL), KS_OK);
        cr_expect(d.memory > 0 && d.bandwidth > 0 && d.double_ > 0, "%s", name);
        cr_expect(d.tensor > d.float_ && d.float_ > d.double_, "%s", name);
        cr_expect(strstr(d.source, "data sheet") ||
                      strstr(d.source, "white paper"),
                  "%s: '%s'", name, d.source);
        cr_expect(strlen(d.source) < KS_TEXT_CELL, "cut off: %s", d.source);
    }
    json_decref(all);
}

#ifdef KS_PROGRAM

static char out[65536];

static int run(const char *args) {
    char command[1024];
    snprintf(command, sizeof command, "M='%s' && %s %s 2>&1",
             KS_TEST_DATA "/../../experiments/demo/models/demo-a", KS_PROGRAM,
             args);
    return shell_run(command, out, sizeof out);
}

static double at(const char *args, size_t stage, const char *key) {
    cr_assert_eq(run(args), 0, "%s", out);
    json_t *all = json_loads(out, 0, NULL);
    double v = json_number_value(json_object_get(
        json_array_get(json_object_get(all, "stages"), stage), key));
    json_decref(all);
    return v;
}

/* The stages themselves, counted by a dry run, on a chain of 24 steps. */
Test(plan, labelling_costs_what_a_dry_run_counts) {
    char folder[64], command[1024];
    make_temporary(folder, "plan");
    ks_str text = {0}, line = {0};
    json_t *steps = json_array();
    /* neighbours that begin alike would share more than a chain's steps do */
    static const char *const who[] = {"Vera", "Karl", "Dora", "Sven",
                                      "Mona", "Iris", "Nils"};
    for (int i = 0; i <= 24; i++) {
        size_t begin = text.length;
        ks_str_printf(&text, NULL,
                      i < 24 ? "%s%s holds %d coins and Karl %d."
                             : "%s%sSo \\boxed{7}.",
                      i ? " " : "", i < 24 ? who[i % 7] : "", i % 7, i % 5);
        json_array_append_new(steps,
                              json_pack("{s:I,s:I}", "begin", (json_int_t)begin,
                                        "end", (json_int_t)text.length));
    }
    json_t *chain = json_pack("{s:s,s:s,s:s,s:s,s:s,s:o}", "id", "p/0",
                              "problem", "p", "model", "m", "prompt",
                              "How many?\n", "text", text.data, "steps", steps);
    cr_assert_eq(ks_jsonl_add(&line, chain, NULL), KS_OK);
    snprintf(command, sizeof command, "%s/c.jsonl", folder);
    cr_assert_eq(ks_write_file(command, line.data, line.length, true, NULL),
                 KS_OK);
    snprintf(command, sizeof command, "%s/p.jsonl", folder);
    static const char problem[] =
        "{\"id\":\"p\",\"question\":\"How many?\",\"answer\":\"7\"}\n";
    cr_assert_eq(ks_write_file(command, problem, strlen(problem), true, NULL),
                 KS_OK);
    snprintf(command, sizeof command,
             "label --model $M --problems %s/p.jsonl --chains %s/c.jsonl "
             "--dry-run --json --quiet",
             folder, folder);
    cr_assert_eq(run(command), 0, "%s", out);
    json_t *said = json_loads(out, 0, NULL);
    ks_plan_asked a = ks_plan_defaults();
    a.chain_tokens = json_number_value(json_object_get(said, "tokens"));
    a.steps = 24, a.prompt_tokens = 3, a.cue_tokens = 9, a.sample_tokens = 1;
    double sampled, backward;
    double all = ks_plan_label_tokens(&a, &sampled, &backward);
    double computed = json_number_value(json_object_get(said, "computed"));
    double between = json_number_value(json_object_get(said, "influences"));
    /* short steps of few words share more than is supposed */
    near(all - backward, computed, 0.2);
    near(backward, between, 0.15);
    json_decref(said);
    json_decref(chain);
    ks_str_free(&text);
    ks_str_free(&line);
    drop_temporary(folder);
}

Test(plan, command) {
    double one = at("plan --model 7b --json", 2, "gpu_hours");
    cr_expect_gt(one, 0);
    near(at("plan --model qwen2.5-7b --chains 2000 --json", 2, "gpu_hours"),
         2 * one, 1e-4);
    near(at("plan --model 7b --chains 1e6 --json", 2, "tokens"),
         1000 * at("plan --model 7b --json", 2, "tokens"), 1e-9);
    near(at("plan --model 7b --share 0.25 --json", 2, "gpu_hours"), 2 * one,
         1e-4);
    cr_expect_eq(at("plan --model $M --json", 2, "tokens"), 4150000);
    cr_assert_eq(run("plan --model 70b-shape"), 0, "%s", out);
    cr_expect(strstr(out, "no"), "%s", out);
    cr_expect(strstr(out, "data sheet") && strstr(out, "assumed"), "%s", out);
    cr_expect(strstr(out, "meta-llama/Llama-3.3-70B-Instruct, config.json"),
              "%s", out);
    cr_expect(strstr(out, "bytes a weight would fit"), "%s", out);
    cr_assert_eq(run("plan --model gpt-oss-20b"), 0, "%s", out);
    cr_expect(strstr(out, "refused for a mixture"), "%s", out);
}

Test(plan, measured_on_this_machine_and_in_tables) {
    cr_assert_eq(run("plan --model $M --gpu cpu --measured " KS_TEST_DATA
                     "/../../results/bench/gemm.csv --measured " KS_TEST_DATA
                     "/../../results/bench/capture-parts.csv"),
                 0, "%s", out);
    cr_expect(strstr(out, "measured"), "%s", out);
    cr_expect(strstr(out, "0.909"), "%s", out); /* the capture's share */
    cr_expect_eq(run("plan --model $M --gpu h100 --measured " KS_TEST_DATA
                     "/../../results/bench/gemm.csv"),
                 1);
    cr_expect(strstr(out, "measured on a CPU"), "%s", out);
}

Test(plan, says_what_is_wrong) {
    static const struct {
        const char *args, *says;
        int code;
    } cases[] = {
        {"plan", "--model is missing", 2},
        {"plan --model nothing", "no model 'nothing'; known by name:", 2},
        {"plan --model ./nothing", "there is no such model", 1},
        {"plan --model 7b --gpu abacus", "no device 'abacus'", 2},
        {"plan --model 7b --weights f99", "no weight type 'f99'", 2},
        {"plan --model 7b --chains 0", "--chains takes", 2},
        {"plan --model 7b --chains 1e-3", "--chains takes", 2},
        {"plan --model 7b --chains 1e", "--chains takes", 2},
        {"plan --model 7b --chains 1e30", "--chains takes", 2},
        {"plan --model 7b --chains 1e999", "--chains takes", 2},
        {"plan --model 7b --steps-per-chain 5000", "a step has a token", 2},
        {"plan --model 7b --positions tokens", "pooled ones alone", 2},
        {"plan --model 7b --measured /dev/null", "/dev/null", 1},
    };
    for (size_t i = 0; i < KS_COUNT(cases); i++) {
        int code = run(cases[i].args);
        cr_expect_eq(code, cases[i].code, "%s: %d", cases[i].args, code);
        cr_expect(strstr(out, cases[i].says), "%s: %s", cases[i].args, out);
    }
}

#endif
