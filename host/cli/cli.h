/* cli.h - what the subcommands share. A command is one file, cmd_<name>.c,
 * with `int ks_cmd_<name>(int argc, char **argv)` (argv[0] is its name) that
 * returns the exit code. Options are parsed by glibc's argp.
 */
#ifndef KS_CLI_H
#define KS_CLI_H

#include <argp.h>
#include <limits.h>

#include "../shard.h"

enum {
    KS_EXIT_DONE = 0,
    KS_EXIT_FAILED = 1,
    KS_EXIT_USAGE = 2,
    KS_EXIT_INTERRUPTED = 130
};

/* Runs argp with our conventions: --help, --version, usage errors exit 2,
 * "keystep NAME" as program name. Returns KS_EXIT_DONE or KS_EXIT_USAGE. Where
 * the environment has KEYSTEP_PARSE_ONLY, a good parse ends the program with
 * KS_EXIT_DONE: whoever makes command lines can have them checked. */
int ks_cli_parse(const struct argp *argp, const char *name, int argc,
                 char **argv, void *input);

/* Options that mean the same in every command. Ask for those a command takes
 * by listing them: KS_CLI_OPTION(MODEL), ... in its argp_option array, and
 * hand their keys to ks_cli_common_key first; it returns ARGP_ERR_UNKNOWN for
 * keys that are not common. Numbers are checked; a bad one is a usage error. */
typedef struct ks_cli_common {
    const char *model, *problems, *chains, *labels, *acts, *out, *template_;
    const char *backend, *cue, *labels_on, *clean;
    bool force, resume, dry_run, json, compat, context_none, quiet, seeded;
    uint32_t streams, positions; /* bit sets; 0: the command's default */
    ks_type dtype;               /* default KS_BF16 */
    const char *layers;          /* "0,3-7" */
    int threads, samples, max_new, top_k;
    size_t memory;
    int batch_tokens;
    uint64_t seed;
    double temperature, top_p;
    ks_shard shard;
    char shard_names[4][PATH_MAX]; /* of outputs */
} ks_cli_common;

void ks_cli_common_init(ks_cli_common *common);

enum {
    KS_KEY_MODEL = 1000,
    KS_KEY_PROBLEMS,
    KS_KEY_CHAINS,
    KS_KEY_LABELS,
    KS_KEY_ACTS,
    KS_KEY_OUT,
    KS_KEY_FORCE,
    KS_KEY_RESUME,
    KS_KEY_STREAMS,
    KS_KEY_POSITIONS,
    KS_KEY_CONTEXT,
    KS_KEY_DTYPE,
    KS_KEY_BACKEND,
    KS_KEY_THREADS,
    KS_KEY_MEMORY,
    KS_KEY_BATCH_TOKENS,
    KS_KEY_SEED,
    KS_KEY_DRY_RUN,
    KS_KEY_JSON,
    KS_KEY_TEMPLATE,
    KS_KEY_CUE,
    KS_KEY_SAMPLES,
    KS_KEY_TEMPERATURE,
    KS_KEY_TOP_P,
    KS_KEY_TOP_K,
    KS_KEY_MAX_NEW,
    KS_KEY_LAYERS,
    KS_KEY_LABELS_ON,
    KS_KEY_CLEAN,
    KS_KEY_COMPAT,
    KS_KEY_QUIET,
    KS_KEY_SHARD,
    KS_KEY_OWN = 2000 /* a command's own keys start here */
};

#define KS_CLI_MODEL                                                           \
    {                                                                          \
        "model", KS_KEY_MODEL, "PATH", 0,                                      \
            "model: GGUF, safetensors or folder", 0                            \
    }
#define KS_CLI_PROBLEMS                                                        \
    { "problems", KS_KEY_PROBLEMS, "FILE", 0, "problems, JSON Lines", 0 }
#define KS_CLI_CHAINS                                                          \
    { "chains", KS_KEY_CHAINS, "FILE", 0, "chains, JSON Lines", 0 }
#define KS_CLI_LABELS                                                          \
    { "labels", KS_KEY_LABELS, "FILE", 0, "labels, JSON Lines", 0 }
#define KS_CLI_ACTS                                                            \
    { "acts", KS_KEY_ACTS, "FILE", 0, "activations, HDF5", 0 }
#define KS_CLI_OUT                                                             \
    { "out", KS_KEY_OUT, "FILE", 0, "output; - is stdout", 0 }
#define KS_CLI_FORCE                                                           \
    { "force", KS_KEY_FORCE, NULL, 0, "overwrite an existing output", 0 }
#define KS_CLI_RESUME                                                          \
    {                                                                          \
        "resume", KS_KEY_RESUME, NULL, 0,                                      \
            "continue an interrupted output; afresh when there is none", 0     \
    }
#define KS_CLI_STREAMS                                                         \
    {                                                                          \
        "streams", KS_KEY_STREAMS, "LIST", 0,                                  \
            "of resid, attn, mlp (default: resid)", 0                          \
    }
#define KS_CLI_POSITIONS                                                       \
    {                                                                          \
        "positions", KS_KEY_POSITIONS, "LIST", 0,                              \
            "of mean, first, middle, last, before, tokens (default: all but "  \
            "tokens)",                                                         \
            0                                                                  \
    }
#define KS_CLI_CONTEXT                                                         \
    {                                                                          \
        "context", KS_KEY_CONTEXT, "full|none", 0,                             \
            "the step read in its chain (default) or alone", 0                 \
    }
#define KS_CLI_DTYPE                                                           \
    { "dtype", KS_KEY_DTYPE, "TYPE", 0, "storage: bf16 (default), f16, f32", 0 }
#define KS_CLI_BACKEND                                                         \
    {                                                                          \
        "backend", KS_KEY_BACKEND, "cpu|cuda", 0,                              \
            "where to compute (default: cpu); cuda:1: which device", 0         \
    }
#define KS_CLI_BACKENDS                                                        \
    {                                                                          \
        "backend", KS_KEY_BACKEND, "cpu|cuda", 0,                              \
            "where to compute (default: cpu); cuda: all devices; cuda:1 or "   \
            "cuda:0,cuda:1: which",                                            \
            0                                                                  \
    }
#define KS_CLI_THREADS                                                         \
    { "threads", KS_KEY_THREADS, "N", 0, "default: all it may use", 0 }
#define KS_CLI_MEMORY                                                          \
    {                                                                          \
        "memory", KS_KEY_MEMORY, "BYTES", 0,                                   \
            "most for buffers, keys and values, or of each device, e.g. 2G", 0 \
    }
#define KS_CLI_BATCH_TOKENS                                                    \
    {                                                                          \
        "batch-tokens", KS_KEY_BATCH_TOKENS, "N", 0,                           \
            "most tokens of a packed batch (default: 2048, on a device 8192)", \
            0                                                                  \
    }
#define KS_CLI_SEED                                                            \
    { "seed", KS_KEY_SEED, "N", 0, "random seed", 0 }
#define KS_CLI_DRY_RUN                                                         \
    { "dry-run", KS_KEY_DRY_RUN, NULL, 0, "say what it would cost and stop", 0 }
#define KS_CLI_JSON                                                            \
    { "json", KS_KEY_JSON, NULL, 0, "print JSON", 0 }
#define KS_CLI_TEMPLATE                                                        \
    {                                                                          \
        "template", KS_KEY_TEMPLATE, "NAME", 0,                                \
            "chatml, deepseek-r1, llama3, qwen, olmo, harmony, raw (default: " \
            "the "                                                             \
            "one that the model or the text shows)",                           \
            0                                                                  \
    }
#define KS_CLI_CUE                                                             \
    { "cue", KS_KEY_CUE, "TEXT", 0, "text that asks for the answer", 0 }
#define KS_CLI_SAMPLES                                                         \
    { "samples", KS_KEY_SAMPLES, "N", 0, "samples a problem (default: 1)", 0 }
#define KS_CLI_TEMPERATURE                                                     \
    { "temperature", KS_KEY_TEMPERATURE, "X", 0, "0: greedy (default)", 0 }
#define KS_CLI_TOP_P                                                           \
    { "top-p", KS_KEY_TOP_P, "X", 0, "nucleus; 1: all (default)", 0 }
#define KS_CLI_TOP_K                                                           \
    { "top-k", KS_KEY_TOP_K, "N", 0, "0: all (default)", 0 }
#define KS_CLI_MAX_NEW                                                         \
    {                                                                          \
        "max-new", KS_KEY_MAX_NEW, "N", 0,                                     \
            "most new tokens (default: 8000; the context may leave fewer)", 0  \
    }
#define KS_CLI_LAYERS                                                          \
    {                                                                          \
        "layers", KS_KEY_LAYERS, "LIST", 0,                                    \
            "of 0..L, e.g. 0,3-7 (default: all)", 0                            \
    }
#define KS_CLI_LABELS_ON                                                       \
    {                                                                          \
        "labels-on", KS_KEY_LABELS_ON, "clean|original", 0,                    \
            "original: project labels of --clean chains on the chains that "   \
            "those were cut from",                                             \
            0                                                                  \
    }
#define KS_CLI_CLEAN                                                           \
    {                                                                          \
        "clean", KS_KEY_CLEAN, "FILE", 0,                                      \
            "clean chains, for --labels-on original", 0                        \
    }
#define KS_CLI_COMPAT                                                          \
    { "compat", KS_KEY_COMPAT, NULL, 0, "answer as the published code does", 0 }
#define KS_CLI_QUIET                                                           \
    { "quiet", KS_KEY_QUIET, NULL, 0, "no words on stderr but errors", 0 }

#define KS_CLI_SHARD                                                           \
    {                                                                          \
        "shard", KS_KEY_SHARD, "K/N", 0,                                       \
            "only the K-th of N shares of the input, into files with .K-of-N " \
            "ahead of the extension; keystep join puts them together",         \
            0                                                                  \
    }

/* With --shard: the n output paths (at most 3; NULL: none) become those of the
 * shard, kept in common; - is a usage error. */
void ks_cli_shard_outputs(ks_cli_common *common, const char **const *paths,
                          size_t n, struct argp_state *state);

/* The clean chains to project labels from, NULL without --labels-on original;
 * a usage error where --labels, --clean and --labels-on do not go together. */
const char *ks_cli_clean(const ks_cli_common *common, struct argp_state *state);

/* error_t for argp: 0, ARGP_ERR_UNKNOWN, or does not return (argp_error). */
error_t ks_cli_common_key(ks_cli_common *common, int key, char *arg,
                          struct argp_state *state);

/* An option's argument as a whole number of [low, high]; anything else is a
 * usage error. */
long long ks_cli_whole(const char *text, long long low, long long high,
                       const char *option, struct argp_state *state);
/* The same for a number. */
double ks_cli_real(const char *text, double low, double high,
                   const char *option, struct argp_state *state);

/* What a command did, for --json. Takes the reference; main looks whether all
 * was written. */
void ks_cli_print_json(json_t *object);

/* "35.0 MiB" */
void ks_cli_bytes(char out[32], uint64_t bytes);

/* "4.2 s", "3:07", "1:00:00" */
typedef struct ks_cli_time {
    char text[24];
} ks_cli_time;
ks_cli_time ks_cli_time_of(double seconds);

/* What the process has in memory (host/resident.h). */
typedef struct ks_cli_resident {
    uint64_t now, peak; /* bytes */
} ks_cli_resident;
ks_cli_resident ks_cli_resident_now(void);
/* Of a dry run on chains: bytes before the model computes anything, and in all,
 * on stdout. */
void ks_cli_print_memory(uint64_t held, uint64_t all);

/* The file of this program; false: nobody knows, out is empty. */
bool ks_cli_self(char out[PATH_MAX]);

/* Is --backend a device, and not the CPU (NULL: the CPU)? */
bool ks_cli_on_device(const char *backend);

/* A comma-separated list of the n names as a bit set; any other word is a usage
 * error of --option. */
uint32_t ks_cli_names(const char *text, const char *(*name)(int), int n,
                      const char *option, struct argp_state *state);

/* "0,3-7" as a bool per layer 0..n-1; NULL text: all. */
ks_status ks_cli_layers(const char *text, int32_t n, bool *on, ks_err *err);

/* Plumbing: one JSON object a line in, one out, in order, flushed a line at a
 * time, {"error":"..."} for a line that fails. answer fills *out (owned by
 * the loop afterwards). Returns the exit code: 1 when any line failed. */
typedef ks_status (*ks_cli_line_fn)(void *user, json_t *in, json_t **out,
                                    ks_err *err);
int ks_cli_lines(ks_cli_line_fn answer, void *user);

/* The folder with the embedded models (models/demo-a) and their problems
 * (problems-a.jsonl); *out is malloc'd. KS_IO where it is nowhere. */
ks_status ks_cli_demo_folder(char **out, ks_err *err);

/* Prints "keystep NAME: sentence" on stderr, returns the exit code for it. */
int ks_cli_failed(const char *name, const ks_err *err);
/* Installs handlers of SIGINT, SIGTERM and SIGUSR1 (schedulers' word that time
 * is nearly up) that set ks_interrupted. */
void ks_cli_catch_signals(void);

int ks_cmd_text(int argc, char **argv);
int ks_cmd_tokenize(int argc, char **argv);
int ks_cmd_score(int argc, char **argv);
int ks_cmd_status(int argc, char **argv);
int ks_cmd_launch(int argc, char **argv);
int ks_cmd_generate(int argc, char **argv);
int ks_cmd_split(int argc, char **argv);
int ks_cmd_import(int argc, char **argv);
int ks_cmd_import_acts(int argc, char **argv);
int ks_cmd_join(int argc, char **argv);
int ks_cmd_label(int argc, char **argv);
int ks_cmd_capture(int argc, char **argv);
int ks_cmd_probe(int argc, char **argv);
int ks_cmd_transfer(int argc, char **argv);
int ks_cmd_report(int argc, char **argv);
int ks_cmd_export(int argc, char **argv);
int ks_cmd_inspect(int argc, char **argv);
int ks_cmd_verify(int argc, char **argv);
int ks_cmd_run(int argc, char **argv);
int ks_cmd_diff(int argc, char **argv);
int ks_cmd_demo(int argc, char **argv);
int ks_cmd_bench(int argc, char **argv);
int ks_cmd_plan(int argc, char **argv);

#endif
