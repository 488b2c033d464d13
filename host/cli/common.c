/* common.c - options and habits that every subcommand shares. */
#include "../resident.h"
#include "../text/text.h"
#include "cli.h"

#include <ctype.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

void ks_cli_common_init(ks_cli_common *common) {
    *common = (ks_cli_common){.dtype = KS_BF16,
                              .temperature = -1,
                              .top_p = -1,
                              .samples = 0,
                              .max_new = 0};
}

/* ----------------------------------------------------------------- numbers */

long long ks_cli_whole(const char *text, long long low, long long high,
                       const char *option, struct argp_state *state) {
    int64_t value = 0;
    if (!ks_whole(text, &value) || value < low || value > high)
        argp_error(state,
                   "--%s takes a whole number from %lld to %lld, got "
                   "'%s'",
                   option, low, high, text);
    return value;
}

double ks_cli_real(const char *text, double low, double high,
                   const char *option, struct argp_state *state) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= low && value <= high))
        argp_error(state, "--%s takes a number from %g to %g, got '%s'", option,
                   low, high, text);
    return value;
}

/* "2G", "512M", "1.5GiB": binary multiples. */
static size_t bytes(const char *text, struct argp_state *state) {
    char *end;
    double value = strtod(text, &end);
    static const char units[] = "KMGT";
    const char *unit =
        isalpha((unsigned char)*end) ? strchr(units, *end & ~0x20) : NULL;
    if (unit) {
        value = ldexp(value, 10 * (int)(unit - units + 1));
        end++;
        if (*end == 'i') end++;
    }
    if (*end == 'B') end++;
    if (end == text || *end || !(value >= 1 && value < 1e18))
        argp_error(state, "--memory takes bytes such as 512M or 2G, got '%s'",
                   text);
    return (size_t)value;
}

uint32_t ks_cli_names(const char *text, const char *(*name)(int), int n,
                      const char *option, struct argp_state *state) {
    uint32_t set = 0;
    while (true) {
        size_t length = strcspn(text, ",");
        int i = 0;
        while (i < n && (strlen(name(i)) != length ||
                         strncmp(name(i), text, length) != 0))
            i++;
        if (i == n) {
            char all[128] = "";
            for (int k = 0; k < n; k++) {
                strcat(all, k ? ", " : "");
                strcat(all, name(k));
            }
            argp_error(state, "--%s: '%.*s' is none of %s", option, (int)length,
                       text, all);
            return 0;
        }
        set |= 1u << i;
        if (!text[length]) return set;
        text += length + 1;
    }
}

static const char *stream_name(int i) {
    return ks_stream_name((ks_stream)i);
}

static const char *position_name(int i) {
    return ks_position_name((ks_position)i);
}

static ks_type storage_type(const char *text, struct argp_state *state) {
    for (ks_type t = KS_F32; t <= KS_BF16; t++)
        if (strcmp(text, ks_type_name(t)) == 0) return t;
    argp_error(state, "--dtype takes bf16, f16 or f32, got '%s'", text);
    return KS_BF16;
}

static bool is_one_of(const char *text, const char *a, const char *b,
                      const char *option, struct argp_state *state) {
    if (strcmp(text, a) == 0) return false;
    if (strcmp(text, b) == 0) return true;
    argp_error(state, "--%s takes %s or %s, got '%s'", option, a, b, text);
    return false;
}

static void check_template(const char *name, struct argp_state *state) {
    ks_template known;
    ks_err err;
    if (ks_template_find(name, &known, &err) != KS_OK)
        argp_error(state, "--template: %s", err.text);
}

/* cpu, cuda, cuda:1, or a list of them. */
static void check_backends(const char *list, struct argp_state *state) {
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        size_t n = strcspn(at, ",");
        bool cuda = strncmp(at, "cuda", 4) == 0;
        bool device = cuda && n > 5 && n < 9 && at[4] == ':' &&
                      strspn(at + 5, "0123456789") == n - 5;
        if (!(n == 3 && strncmp(at, "cpu", 3) == 0) && !(n == 4 && cuda) &&
            !device)
            argp_error(state,
                       "--backend takes cpu, cuda, cuda:N or a list of "
                       "devices such as cuda:0,cuda:1, got '%s'",
                       list);
    }
}

/* ----------------------------------------------------------------- options */

static error_t file_key(ks_cli_common *c, int key, const char *arg) {
    switch (key) {
    case KS_KEY_MODEL:
        c->model = arg;
        return 0;
    case KS_KEY_PROBLEMS:
        c->problems = arg;
        return 0;
    case KS_KEY_CHAINS:
        c->chains = arg;
        return 0;
    case KS_KEY_LABELS:
        c->labels = arg;
        return 0;
    case KS_KEY_ACTS:
        c->acts = arg;
        return 0;
    case KS_KEY_OUT:
        c->out = arg;
        return 0;
    case KS_KEY_CLEAN:
        c->clean = arg;
        return 0;
    case KS_KEY_CUE:
        c->cue = arg;
        return 0;
    case KS_KEY_LAYERS:
        c->layers = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t flag_key(ks_cli_common *c, int key) {
    switch (key) {
    case KS_KEY_FORCE:
        c->force = true;
        return 0;
    case KS_KEY_RESUME:
        c->resume = true;
        return 0;
    case KS_KEY_DRY_RUN:
        c->dry_run = true;
        return 0;
    case KS_KEY_JSON:
        c->json = true;
        return 0;
    case KS_KEY_COMPAT:
        c->compat = true;
        return 0;
    case KS_KEY_QUIET:
        c->quiet = true;
        ks_log_level_set(KS_LOG_QUIET);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t number_key(ks_cli_common *c, int key, char *arg,
                          struct argp_state *s) {
    switch (key) {
    case KS_KEY_THREADS:
        c->threads = (int)ks_cli_whole(arg, 1, 1024, "threads", s);
        return 0;
    case KS_KEY_MEMORY:
        c->memory = bytes(arg, s);
        return 0;
    case KS_KEY_BATCH_TOKENS:
        c->batch_tokens = (int)ks_cli_whole(arg, 1, 1 << 24, "batch-tokens", s);
        return 0;
    case KS_KEY_SEED:
        c->seed = (uint64_t)ks_cli_whole(arg, 0, INT64_MAX, "seed", s);
        c->seeded = true;
        return 0;
    case KS_KEY_SAMPLES:
        c->samples = (int)ks_cli_whole(arg, 1, 1 << 20, "samples", s);
        return 0;
    case KS_KEY_MAX_NEW:
        c->max_new = (int)ks_cli_whole(arg, 1, 1 << 24, "max-new", s);
        return 0;
    case KS_KEY_TOP_K:
        c->top_k = (int)ks_cli_whole(arg, 0, 1 << 24, "top-k", s);
        return 0;
    case KS_KEY_TEMPERATURE:
        c->temperature = ks_cli_real(arg, 0, 100, "temperature", s);
        return 0;
    case KS_KEY_TOP_P:
        c->top_p = ks_cli_real(arg, 1e-6, 1, "top-p", s);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

error_t ks_cli_common_key(ks_cli_common *c, int key, char *arg,
                          struct argp_state *s) {
    switch (key) {
    case KS_KEY_STREAMS:
        c->streams = ks_cli_names(arg, stream_name, KS_N_STREAMS, "streams", s);
        return 0;
    case KS_KEY_POSITIONS:
        c->positions =
            ks_cli_names(arg, position_name, KS_N_POSITIONS, "positions", s);
        return 0;
    case KS_KEY_CONTEXT:
        c->context_none = is_one_of(arg, "full", "none", "context", s);
        return 0;
    case KS_KEY_BACKEND:
        check_backends(arg, s);
        c->backend = arg;
        return 0;
    case KS_KEY_LABELS_ON:
        is_one_of(arg, "clean", "original", "labels-on", s);
        c->labels_on = arg;
        return 0;
    case KS_KEY_SHARD:
        if (!ks_shard_read(arg, &c->shard))
            argp_error(s,
                       "--shard takes K/N, such as 2/4, N up to %d, got '%s'",
                       KS_MOST_SHARDS, arg);
        return 0;
    case KS_KEY_DTYPE:
        c->dtype = storage_type(arg, s);
        return 0;
    case KS_KEY_TEMPLATE:
        check_template(arg, s);
        c->template_ = arg;
        return 0;
    default:
        break;
    }
    if (key >= KS_KEY_MODEL && key <= KS_KEY_OUT && !*arg)
        argp_error(s, "a file's name is empty");
    if (file_key(c, key, arg) == 0) return 0;
    if (flag_key(c, key) == 0) return 0;
    return number_key(c, key, arg, s);
}

void ks_cli_shard_outputs(ks_cli_common *c, const char **const *paths, size_t n,
                          struct argp_state *state) {
    for (size_t i = 0; c->shard.n && i < n; i++) {
        ks_err err;
        const char *path = *paths[i];
        if (!path) continue;
        if (strcmp(path, "-") == 0)
            argp_error(state, "--shard takes files: a shard is named by its "
                              "output, and - has no name");
        if (ks_shard_path(c->shard, path, c->shard_names[i], &err) != KS_OK)
            argp_error(state, "%s", err.text);
        *paths[i] = c->shard_names[i];
    }
}

const char *ks_cli_clean(const ks_cli_common *c, struct argp_state *state) {
    bool original = c->labels_on && strcmp(c->labels_on, "original") == 0;
    if (original && !(c->labels && c->clean))
        argp_error(state, "--labels-on original needs --labels and --clean");
    if (c->clean && !original)
        argp_error(state, "--clean goes with --labels-on original");
    return original ? c->clean : NULL;
}

int ks_cli_parse(const struct argp *argp, const char *name, int argc,
                 char **argv, void *input) {
    char program[64];
    snprintf(program, sizeof program, "keystep %s", name);
    argp_err_exit_status = KS_EXIT_USAGE;
    char *was = argv[0];
    argv[0] = program; /* argp names itself after it, also in --help */
    error_t failed = argp_parse(argp, argc, argv, 0, NULL, input);
    argv[0] = was;
    if (!failed && getenv("KEYSTEP_PARSE_ONLY")) exit(KS_EXIT_DONE);
    return failed ? KS_EXIT_USAGE : KS_EXIT_DONE;
}

ks_status ks_cli_layers(const char *text, int32_t n, bool *on, ks_err *err) {
    for (int32_t i = 0; i < n; i++) on[i] = text == NULL;
    for (const char *at = text; at;) {
        char *end;
        long first = strtol(at, &end, 10), last = first;
        bool good = end != at && *at != '-';
        if (good && *end == '-') {
            const char *second = end + 1;
            last = strtol(second, &end, 10);
            good = end != second;
        }
        if (!good || (*end && *end != ',') || first < 0 || last < first ||
            last >= n)
            return ks_fail(err, KS_USAGE,
                           "--layers: '%s' is not a list such as 0,3-7 of "
                           "layers 0 to %d",
                           text, n - 1);
        for (long i = first; i <= last; i++) on[i] = true;
        at = *end ? end + 1 : NULL;
    }
    return KS_OK;
}

bool ks_cli_self(char out[PATH_MAX]) {
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    out[n < 0 ? 0 : n] = 0;
    return n > 0;
}

bool ks_cli_on_device(const char *backend) {
    return backend && strcmp(backend, "cpu") != 0;
}

void ks_cli_bytes(char out[32], uint64_t bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t u = 0;
    for (; value >= 1024 && u + 1 < KS_COUNT(units); u++) value /= 1024;
    snprintf(out, 32, u ? "%.1f %s" : "%.0f %s", value, units[u]);
}

ks_cli_time ks_cli_time_of(double seconds) {
    ks_cli_time time;
    long long s = (long long)(seconds + 0.5);
    if (seconds < 10)
        snprintf(time.text, sizeof time.text, "%.1f s", seconds);
    else if (s < 3600)
        snprintf(time.text, sizeof time.text, "%lld:%02lld", s / 60, s % 60);
    else
        snprintf(time.text, sizeof time.text, "%lld:%02lld:%02lld", s / 3600,
                 s / 60 % 60, s % 60);
    return time;
}

ks_cli_resident ks_cli_resident_now(void) {
    ks_cli_resident r = {ks_resident("VmRSS"), ks_resident("VmHWM")};
    if (!r.now) { /* no /proc; it counts the starting process along */
        struct rusage used;
        getrusage(RUSAGE_SELF, &used);
        r.now = r.peak = (uint64_t)used.ru_maxrss << 10;
    }
    return r;
}

void ks_cli_print_memory(uint64_t held, uint64_t all) {
    char all_text[32], held_text[32];
    ks_cli_bytes(all_text, all);
    ks_cli_bytes(held_text, held);
    printf(
        "Memory is about %s at most, of it %s of program, model and chains.\n",
        all_text, held_text);
}

void ks_cli_print_json(json_t *object) {
    json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(object);
}

/* ---------------------------------------------------------------- plumbing */

static void print_line(json_t *object) {
    json_dumpf(object, stdout,
               JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    putchar('\n');
    fflush(stdout);
}

int ks_cli_lines(ks_cli_line_fn answer, void *user) {
    int code = KS_EXIT_DONE;
    char *line = NULL;
    size_t capacity = 0;
    ssize_t got;
    while (!ks_interrupted && (got = getline(&line, &capacity, stdin)) >= 0) {
        ks_err err = {0};
        json_t *out = NULL, *in = NULL;
        json_error_t reason;
        size_t bad = ks_utf8_check(line, (size_t)got);
        ks_status st = KS_OK;
        if (bad < (size_t)got) {
            st = ks_fail(&err, KS_FORMAT, "byte %zu is not valid UTF-8",
                         bad + 1);
        } else if (!(in = json_loadb(line, (size_t)got,
                                     JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL,
                                     &reason))) {
            st = ks_fail(&err, KS_FORMAT, "column %d: %s", reason.column,
                         reason.text);
        } else if (!json_is_object(in)) {
            st = ks_fail(&err, KS_FORMAT, "expected a JSON object {...}");
        } else {
            st = answer(user, in, &out, &err);
        }
        if (st != KS_OK) {
            json_decref(out);
            out = json_pack("{s:s}", "error", err.text);
            code = KS_EXIT_FAILED;
        }
        print_line(out);
        json_decref(out);
        json_decref(in);
        if (ferror(stdout)) break; /* nobody reads any more */
    }
    free(line);
    if (ks_interrupted) return KS_EXIT_INTERRUPTED;
    return ferror(stdin) ? KS_EXIT_FAILED : code; /* main tells of stdout */
}

int ks_cli_failed(const char *name, const ks_err *err) {
    ks_log(KS_LOG_QUIET, "keystep %s: %s", name,
           err->text[0] ? err->text : ks_status_text(err->code));
    if (err->code == KS_USAGE) return KS_EXIT_USAGE;
    if (err->code == KS_INTERRUPTED) return KS_EXIT_INTERRUPTED;
    return KS_EXIT_FAILED;
}

static void on_signal(int number) {
    if (ks_interrupted) _exit(128 + number); /* the second one is impatient */
    ks_interrupted = number;
}

void ks_cli_catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a limit on files is a write that fails */
}
