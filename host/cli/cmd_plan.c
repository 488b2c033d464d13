/* cmd_plan.c - keystep plan: what an experiment would take, on paper. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "../../probes/text_table.h"
#include "../config.h"
#include "../plan.h"
#include "plan_rates.h"

enum {
    KEY_N_CHAINS = KS_KEY_OWN,
    KEY_TOKENS,
    KEY_PROMPT,
    KEY_STEPS,
    KEY_ORDERS,
    KEY_WEIGHTS,
    KEY_GPU,
    KEY_NODES,
    KEY_EACH,
    KEY_SHARE,
    KEY_DISK,
    KEY_MEASURED
};

enum { MOST_MEASURED = 8 };

typedef struct input {
    ks_cli_common common;
    const char *gpu, *weights, *measured[MOST_MEASURED];
    int n_measured;
    double nodes, each, share, disk;
    ks_plan_asked asked;
    bool steps_given;
} input;

static const struct argp_option option_list[] = {
    {"model", KS_KEY_MODEL, "PATH|NAME", 0,
     "GGUF, safetensors, config.json or its folder; or a known name, also its "
     "end: qwen2.5-1.5b, 7b, r1-distill-llama-8b, gpt-oss-20b, 70b-shape",
     0},
    {"chains", KEY_N_CHAINS, "N", 0, "how many (default: 1000)", 0},
    {"tokens-per-chain", KEY_TOKENS, "N", 0, "of reasoning (default: 4000)", 0},
    {"prompt-tokens", KEY_PROMPT, "N", 0, "default: 150", 0},
    {"steps-per-chain", KEY_STEPS, "N", 0, "default: one for 40 tokens", 0},
    {"samples", KS_KEY_SAMPLES, "K", 0,
     "label: of a set of steps (default: 5); what they share is computed once, "
     "so they change little",
     0},
    {"orders", KEY_ORDERS, "N", 0, "label: random ones (default: 3)", 0},
    {"weights", KEY_WEIGHTS, "TYPE", 0,
     "as stored: bf16, q8_0, q4_1, ... (default: the model's own)", 0},
    {"gpu", KEY_GPU, "NAME", 0,
     "a100, h100 (default), h200, b200, rtx-4090, ..; cpu: this machine, "
     "measured now",
     0},
    {"nodes", KEY_NODES, "N", 0, "default: 1", 0},
    {"gpus-per-node", KEY_EACH, "N", 0, "default: 8; of cpu 1", 0},
    {"share", KEY_SHARE, "X", 0,
     "of the least time's speed that is had, where none was measured "
     "(default: 0.5)",
     0},
    {"disk", KEY_DISK, "MB/S", 0,
     "that all activations are written at (default: 1000)", 0},
    {"measured", KEY_MEASURED, "FILE", 0,
     "CSV of keystep bench gemm, capture, probe or io, of that device: its "
     "rates in place of others; may come again",
     0},
    {"batch-tokens", KS_KEY_BATCH_TOKENS, "N", 0, "default: 8192", 0},
    KS_CLI_STREAMS,
    KS_CLI_POSITIONS,
    KS_CLI_DTYPE,
    KS_CLI_THREADS,
    KS_CLI_JSON,
    KS_CLI_QUIET,
    {0}};

static double whole(const char *arg, double high, const char *option,
                    struct argp_state *state) {
    return (double)ks_cli_whole(arg, 1, (long long)high, option, state);
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    ks_plan_asked *a = &in->asked;
    switch (key) {
    case KEY_N_CHAINS:
        a->chains = whole(arg, 1e12, "chains", state);
        return 0;
    case KEY_TOKENS:
        a->chain_tokens = whole(arg, 1e8, "tokens-per-chain", state);
        return 0;
    case KEY_PROMPT:
        a->prompt_tokens = whole(arg, 1e8, "prompt-tokens", state);
        return 0;
    case KEY_STEPS:
        a->steps = whole(arg, 1e7, "steps-per-chain", state);
        in->steps_given = true;
        return 0;
    case KEY_ORDERS:
        a->orders = (double)ks_cli_whole(arg, 0, 16, "orders", state);
        return 0;
    case KEY_NODES:
        in->nodes = whole(arg, 1e6, "nodes", state);
        return 0;
    case KEY_EACH:
        in->each = whole(arg, 1024, "gpus-per-node", state);
        return 0;
    case KEY_SHARE:
        in->share = ks_cli_real(arg, 1e-4, 1, "share", state);
        return 0;
    case KEY_DISK:
        in->disk = ks_cli_real(arg, 1e-3, 1e9, "disk", state) * 1e6;
        return 0;
    case KEY_GPU:
        in->gpu = arg;
        return 0;
    case KEY_WEIGHTS:
        in->weights = arg;
        return 0;
    case KEY_MEASURED:
        if (in->n_measured == MOST_MEASURED)
            argp_error(state, "--measured comes at most %d times",
                       MOST_MEASURED);
        in->measured[in->n_measured++] = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "too many arguments: %s", arg);
        return 0;
    case ARGP_KEY_END:
        if (!in->common.model) argp_error(state, "--model is missing");
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

/* --------------------------------------------------------------------- model
 */

static ks_status bytes_of_type(const char *name, double *out, ks_err *err) {
    for (ks_type t = 0; t < KS_I32; t++)
        if (strcmp(name, ks_type_name(t)) == 0) {
            *out = (double)ks_type_size(t) / (double)ks_type_block(t);
            return KS_OK;
        }
    return ks_fail(err, KS_USAGE, "--weights: no weight type '%.40s'", name);
}

/* A config.json alone says nothing of how weights are stored: bf16. */
static ks_status shape_of_config(const char *path, const char *name,
                                 ks_plan_shape *out, ks_err *err) {
    ks_config config;
    ks_status st = ks_config_from_json(&config, path, NULL, err);
    if (st == KS_OK) ks_plan_shape_of(&config, name, 2, out);
    return st;
}

static ks_status shape_of_model(const char *path, ks_plan_shape *out,
                                ks_err *err) {
    ks_model *model = NULL;
    ks_status st = ks_model_open(&model, path, err);
    if (st != KS_OK) return st;
    double bytes = 0;
    for (size_t i = 0; i < model->n_files; i++)
        bytes += (double)model->files[i].size;
    ks_plan_shape_of(&model->config, model->name, 1, out);
    out->weights = out->attention = bytes / ks_plan_parameters(out);
    ks_model_close(&model);
    return st;
}

static ks_status find_shape(const input *in, ks_plan_shape *out, ks_err *err) {
    ks_status st = KS_OK;
    const char *path = in->common.model;
    struct stat info;
    char *config = NULL;
    if (stat(path, &info) != 0) {
        KS_CHECK(!strchr(path, '/'), KS_IO, "%s: there is no such model", path);
        KS_TRY(ks_plan_find_shape(path, out, err));
    } else if (S_ISDIR(info.st_mode)) {
        KS_TRY(ks_path_join(&config, path, "config.json", err));
        const char *slash = strrchr(path, '/');
        KS_TRY(shape_of_config(config, slash && slash[1] ? slash + 1 : path,
                               out, err));
        snprintf(out->source, sizeof out->source, "%.150s", config);
    } else {
        KS_TRY(ks_ends_with(path, ".json")
                   ? shape_of_config(path, path, out, err)
                   : shape_of_model(path, out, err));
        snprintf(out->source, sizeof out->source, "%.150s", path);
    }
    if (in->weights) {
        KS_TRY(bytes_of_type(in->weights, &out->weights, err));
        out->attention = out->weights;
    }
done:
    free(config);
    return st;
}

/* -------------------------------------------------------------------- output
 */

static void show_number(char out[32], double v, const char *unit) {
    static const char *const prefix[] = {"", "k", "M", "G", "T", "P", "E"};
    size_t i = 0;
    while (fabs(v) >= 1000 && i + 1 < KS_COUNT(prefix)) v /= 1000, i++;
    snprintf(out, 32, "%.3g%s%s%s", v, *unit || i ? " " : "", prefix[i], unit);
}

static ks_status print_values(const ks_plan_values *v, ks_str *out,
                              ks_err *err) {
    static const char *const names[] = {"what is supposed", "value", "mark",
                                        "source"};
    ks_status st = KS_OK;
    ks_text_grid grid = {.n_columns = 4};
    KS_TRY(ks__grid_heading(&grid, names, err));
    for (int32_t i = 0; i < v->n; i++) {
        ks_text_cell *row = ks__grid_row(&grid, err);
        KS_CHECK(row, KS_NOMEM, "no memory for the table");
        snprintf(row[0], KS_TEXT_CELL, "%s", v->at[i].name);
        show_number(row[1], v->at[i].value, v->at[i].unit);
        snprintf(row[2], KS_TEXT_CELL, "%s", v->at[i].mark);
        snprintf(row[3], KS_TEXT_CELL, "%.*s", KS_TEXT_CELL - 1,
                 v->at[i].source);
    }
    KS_TRY(ks__grid_write(&grid, false, out, err));
done:
    free(grid.at);
    return st;
}

static ks_status print_stages(const ks_plan_stage *s, ks_str *out,
                              ks_err *err) {
    static const char *const names[] = {
        "stage",     "tokens",  "FLOP",  "bytes",      "hours",
        "GPU-hours", "at best", "files", "memory/GPU", "fits"};
    ks_status st = KS_OK;
    ks_text_grid grid = {.n_columns = KS_COUNT(names)};
    KS_TRY(ks__grid_heading(&grid, names, err));
    for (int i = 0; i < KS_PLAN_STAGES; i++, s++) {
        ks_text_cell *row = ks__grid_row(&grid, err);
        KS_CHECK(row, KS_NOMEM, "no memory for the table");
        snprintf(row[0], KS_TEXT_CELL, "%s",
                 ks_plan_stage_name((ks_plan_stage_kind)i));
        show_number(row[1], s->tokens, "");
        show_number(row[2], s->work.flops, "");
        show_number(row[3], s->work.bytes, "B");
        snprintf(row[4], KS_TEXT_CELL, "%.3g", s->wall_seconds / 3600);
        snprintf(row[5], KS_TEXT_CELL, "%.3g", s->device_seconds / 3600);
        snprintf(row[6], KS_TEXT_CELL, "%.3g", s->work.seconds / 3600);
        show_number(row[7], s->file_bytes, "B");
        show_number(row[8], s->memory, "B");
        snprintf(row[9], KS_TEXT_CELL, "%s", s->fits ? "yes" : "no");
    }
    KS_TRY(ks__grid_write(&grid, false, out, err));
done:
    free(grid.at);
    return st;
}

static ks_status print_text(const ks_plan_shape *m, const ks_plan_device *on,
                            const ks_plan_stage *s, const ks_plan_values *v,
                            ks_err *err) {
    ks_status st = KS_OK;
    ks_str out = {0};
    char parameters[32], bytes[32], memory[32];
    show_number(parameters, ks_plan_parameters(m), "");
    show_number(bytes, ks_plan_weight_bytes(m), "B");
    show_number(memory, on->memory, "B");
    KS_TRY(ks_str_printf(
        &out, err,
        "%s, %s parameters, %s (%.3g bytes a weight), on %s, %s each. Computed "
        "on paper, not measured:\n\n",
        m->name, parameters, bytes,
        ks_plan_weight_bytes(m) / ks_plan_parameters(m), on->title, memory));
    KS_TRY(print_stages(s, &out, err));
    KS_TRY(print_values(v, &out, err));
    for (int i = 0; i < KS_PLAN_STAGES; i++) {
        double held = s[i].memory - ks_plan_weight_bytes(m);
        double least = (on->memory - held) / ks_plan_parameters(m);
        if (s[i].fits || i == KS_PLAN_PROBE) continue;
        if (least > 0)
            KS_TRY(ks_str_printf(&out, err,
                                 "%s does not fit a device: at most %.2f bytes "
                                 "a weight would fit.\n",
                                 ks_plan_stage_name((ks_plan_stage_kind)i),
                                 least));
        else
            KS_TRY(ks_str_printf(&out, err,
                                 "%s does not fit a device, whatever its "
                                 "weights take.\n",
                                 ks_plan_stage_name((ks_plan_stage_kind)i)));
    }
    if (s[KS_PLAN_LABEL].refused)
        KS_TRY(
            ks_str_printf(&out, err,
                          "Influences by gradients are refused for a mixture "
                          "of experts: label is without them.\n"));
    fputs(out.data, stdout);
done:
    ks_str_free(&out);
    return st;
}

static json_t *stage_json(ks_plan_stage_kind kind, const ks_plan_stage *s) {
    return json_pack("{s:s,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:b,s:b}",
                     "stage", ks_plan_stage_name(kind), "tokens", s->tokens,
                     "flops", s->work.flops, "bytes_moved", s->work.bytes,
                     "least_gpu_hours", s->work.seconds / 3600, "gpu_hours",
                     s->device_seconds / 3600, "hours", s->wall_seconds / 3600,
                     "file_bytes", s->file_bytes, "memory_bytes", s->memory,
                     "sequences_at_a_time", s->active, "fits", s->fits,
                     "influences_refused", s->refused);
}

static ks_status print_json(const ks_plan_shape *m, const ks_plan_device *on,
                            const ks_plan_stage *s, const ks_plan_values *v,
                            ks_err *err) {
    json_t *stages = json_array(), *values = json_array();
    for (int i = 0; i < KS_PLAN_STAGES; i++)
        json_array_append_new(stages, stage_json((ks_plan_stage_kind)i, &s[i]));
    for (int32_t i = 0; i < v->n; i++)
        json_array_append_new(
            values,
            json_pack("{s:s,s:f,s:s,s:s,s:s}", "name", v->at[i].name, "value",
                      v->at[i].value, "unit", v->at[i].unit, "mark",
                      v->at[i].mark, "source", v->at[i].source));
    json_t *all = json_pack("{s:s,s:f,s:f,s:s,s:o,s:o}", "model", m->name,
                            "parameters", ks_plan_parameters(m), "weight_bytes",
                            ks_plan_weight_bytes(m), "device", on->title,
                            "stages", stages, "values", values);
    if (!all) return ks_fail(err, KS_NOMEM, "no memory for JSON");
    ks_cli_print_json(all);
    return KS_OK;
}

/* ------------------------------------------------------------------- command
 */

static ks_status plan(input *in, ks_err *err) {
    ks_status st = KS_OK;
    ks_plan_shape shape;
    ks_plan_device on;
    ks_plan_stage stages[KS_PLAN_STAGES];
    ks_plan_values values = {0};
    ks_plan_asked *a = &in->asked;
    const ks_cli_common *c = &in->common;
    bool cpu = strcmp(in->gpu, "cpu") == 0;
    if (!in->steps_given) a->steps = fmax(1, floor(a->chain_tokens / 40));
    KS_CHECK(a->steps <= a->chain_tokens, KS_USAGE,
             "--steps-per-chain %.0f: a step has a token at least, and a chain "
             "%.0f",
             a->steps, a->chain_tokens);
    if (c->samples) a->samples = c->samples;
    if (c->batch_tokens) a->batch_tokens = c->batch_tokens;
    if (c->streams) a->streams = __builtin_popcount(c->streams);
    if (c->positions) {
        KS_CHECK(!(c->positions & 1u << KS_TOKENS), KS_USAGE,
                 "--positions tokens: the plan counts pooled ones alone");
        a->positions = __builtin_popcount(c->positions);
    }
    a->value_bytes = (double)ks_type_size(c->dtype);
    a->devices = in->nodes * (in->each > 0 ? in->each : cpu ? 1 : 8);
    for (int i = 0; i < KS_PLAN_STAGES; i++) a->share[i] = in->share;
    a->disk = in->disk;
    KS_TRY(find_shape(in, &shape, err));
    if (cpu)
        KS_TRY(ks_plan_measure_cpu(&on, c->threads, err));
    else
        KS_TRY(ks_plan_find_device(in->gpu, &on, err));
    ks_plan_list_values(&values, &shape, &on, a);
    for (int i = 0; i < in->n_measured; i++)
        KS_TRY(ks_plan_take_measured(in->measured[i], &on, a, &values, err));
    ks_plan_stages(&shape, &on, a, stages);
    KS_TRY(c->json ? print_json(&shape, &on, stages, &values, err)
                   : print_text(&shape, &on, stages, &values, err));
done:
    return st;
}

int ks_cmd_plan(int argc, char **argv) {
    static const struct argp argp = {
        .options = option_list,
        .parser = parse,
        .args_doc = "--model PATH|NAME",
        .doc =
            "What an experiment would take, on paper: tokens, floating point "
            "operations, bytes moved, hours, files and memory of its stages "
            "generate, label, capture and probe, from the formulas of "
            "docs/plan.md and a device's peak rates. Every figure that goes in "
            "is marked measured, data sheet or assumed, with its source.\v"
            "'at best' is the least time of the devices at their peak rates, "
            "added up; GPU-hours those at the share of it that is had. A model "
            "lies on each device as a whole."};
    input in = {.gpu = "h100",
                .nodes = 1,
                .share = 0.5,
                .disk = 1e9,
                .asked = ks_plan_defaults()};
    ks_err err = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "plan", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    return plan(&in, &err) == KS_OK ? KS_EXIT_DONE
                                    : ks_cli_failed("plan", &err);
}
