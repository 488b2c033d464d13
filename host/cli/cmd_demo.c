/* cmd_demo.c - the whole line on the embedded model, by the same commands that
 * a user would type; each is printed before it runs. Only the labels are the
 * demo's own: its problems say which quantities the asked one depends on. */
#include "cli.h"

#include "../chains.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Chains sampled, and what became of them. */
typedef struct tally {
    int chains, correct;
    int kept;      /* hold both groups in full: probed */
    int one_group; /* hold the asked group alone */
    int broken;
} tally;

typedef struct demo {
    ks_cli_common common;
    tally tally;
    const char *which; /* "a" or "b" */
    bool chains_only;
    char *data; /* folder with models/ and problems-X.jsonl; owned */
} demo;

/* ------------------------------------------------------------------ labels */

static bool is_word(char c) {
    return isalnum((unsigned char)c) || c == '_' || (c & 0x80);
}

/* Offset of the first whole-word occurrence of name in text, or SIZE_MAX. */
static size_t find_word(const char *text, size_t n, const char *name) {
    size_t length = strlen(name);
    for (size_t i = 0; length && i + length <= n; i++)
        if (memcmp(text + i, name, length) == 0 &&
            (i == 0 || !is_word(text[i - 1])) &&
            (i + length == n || !is_word(text[i + length])))
            return i;
    return SIZE_MAX;
}

/* A computing sentence starts with its quantity: the one named first. */
static json_t *quantity_of(json_t *quantities, const char *step, size_t n) {
    json_t *found = NULL, *quantity;
    size_t first = SIZE_MAX, i;
    json_array_foreach(quantities, i, quantity) {
        const char *name = json_string_value(json_object_get(quantity, "name"));
        size_t at = name ? find_word(step, n, name) : SIZE_MAX;
        if (at < first) {
            first = at;
            found = quantity;
        }
    }
    return found;
}

typedef struct truth {
    const ks_problems *problems;
    ks_str chains, labels;
    tally *tally;
} truth;

/* Labels and hops of one chain; *other counts steps of the other group. false
 * when a quantity comes twice or the asked one never comes. */
static bool label_chain(const ks_chain *chain, const ks_problem *problem,
                        json_t *labels, json_t *hops, size_t *other,
                        size_t *quantities_done) {
    json_t *all = json_object_get(problem->object, "quantities");
    const char *asked =
        json_string_value(json_object_get(problem->object, "asked"));
    bool seen[64] = {false}, answered = false;
    *other = *quantities_done = 0;
    if (!asked || !json_is_array(all) || json_array_size(all) > 64)
        return false;
    for (int32_t s = 0; s < chain->n_steps; s++) {
        ks_span span = chain->steps[s];
        json_t *q = answered ? NULL
                             : quantity_of(all, chain->text + span.begin,
                                           (size_t)(span.end - span.begin));
        json_t *label = json_null(), *hop = json_null();
        if (q) {
            size_t index = 0;
            while (json_array_get(all, index) != q) index++;
            if (seen[index]) return false;
            seen[index] = true;
            answered = strcmp(json_string_value(json_object_get(q, "name")),
                              asked) == 0;
            if (!answered) {
                bool relevant = json_is_true(json_object_get(q, "relevant"));
                label = json_integer(relevant);
                hop = json_incref(json_object_get(q, "hops"));
                *other += !relevant;
                (*quantities_done)++;
            }
        }
        json_array_append_new(labels, label);
        json_array_append_new(hops, hop);
    }
    return answered;
}

static ks_status add_chain(truth *t, const ks_chain *chain, ks_err *err) {
    const ks_problem *problem = ks_problems_find(t->problems, chain->problem);
    if (!problem)
        return ks_fail(err, KS_MISMATCH, "chain %s: no problem %s", chain->id,
                       chain->problem);
    ks_status st = KS_OK;
    json_t *labels = json_array(), *hops = json_array(), *line = NULL;
    size_t other, done;
    int64_t k;
    KS_TRY(ks_json_int(problem->object, "k", problem->id, 2, 32, &k, err));
    if (!label_chain(chain, problem, labels, hops, &other, &done)) {
        t->tally->broken++;
    } else if (done != 2 * (size_t)(k - 1)) {
        t->tally->one_group += other == 0;
        t->tally->broken += other != 0;
    } else {
        line =
            json_pack("{s:s,s:s,s:O,s:O,s:{}}", "chain", chain->id, "method",
                      "constructed", "labels", labels, "hops", hops, "scores");
        KS_CHECK(line, KS_NOMEM, "out of memory for a label line");
        KS_TRY(ks_jsonl_add(&t->labels, line, err));
        KS_TRY(ks_jsonl_add(&t->chains, chain->object, err));
        t->tally->kept++;
    }
done:
    json_decref(labels);
    json_decref(hops);
    json_decref(line);
    return st;
}

/* Keeps the chains that hold both groups in full and writes their labels. */
static ks_status write_truth(const char *problems_path, const char *in_path,
                             const char *chains_path, const char *labels_path,
                             tally *n, ks_err *err) {
    ks_status st = KS_OK;
    ks_problems problems = {0};
    ks_chains chains = {0};
    truth t = {.problems = &problems, .tally = n};
    KS_TRY(ks_problems_read(&problems, problems_path, KS_KEEP_OBJECTS, err));
    KS_TRY(ks_chains_read(&chains, in_path, KS_KEEP_OBJECTS, err));
    n->chains = (int)chains.n;
    for (size_t i = 0; i < chains.n; i++) {
        n->correct +=
            json_is_true(json_object_get(chains.at[i].object, "correct"));
        KS_TRY(add_chain(&t, &chains.at[i], err));
    }
    ks_log(KS_LOG_INFO,
           "%d chains, %d with the right answer; %d hold both groups in full "
           "and are probed, %d the asked group alone, %d are broken",
           n->chains, n->correct, n->kept, n->one_group, n->broken);
    KS_CHECK(n->kept >= 20, KS_FORMAT,
             "%s: %d chains hold both groups in full, at least 20 are needed",
             in_path, n->kept);
    KS_TRY(
        ks_write_file(chains_path, t.chains.data, t.chains.length, true, err));
    KS_TRY(
        ks_write_file(labels_path, t.labels.data, t.labels.length, true, err));
done:
    ks_str_free(&t.chains);
    ks_str_free(&t.labels);
    ks_chains_free(&chains);
    ks_problems_free(&problems);
    return st;
}

/* ---------------------------------------------------------------- pipeline */

enum { MAX_WORDS = 40 };

/* Prints the command as a user would type it, then runs it. */
static int run(int (*command)(int, char **), const char *const *words) {
    char *argv[MAX_WORDS + 1];
    int argc = 0;
    ks_str line = {0};
    for (; words[argc] && argc < MAX_WORDS; argc++) {
        argv[argc] = (char *)(uintptr_t)words[argc];
        const char *quote = strchr(words[argc], ' ') ? "'" : "";
        ks_str_printf(&line, NULL, " %s%s%s", quote, words[argc], quote);
    }
    argv[argc] = NULL;
    ks_log(KS_LOG_INFO, "\n$ keystep%s", line.data ? line.data : "");
    ks_str_free(&line);
    return command(argc, argv);
}

typedef struct paths {
    char *model, *problems, *raw, *chains, *labels, *acts, *random, *tables,
        *report;
} paths;

static ks_status make_paths(const demo *d, paths *p, ks_err *err) {
    char model[32], problems[32];
    snprintf(model, sizeof model, "models/demo-%s", d->which);
    snprintf(problems, sizeof problems, "problems-%s.jsonl", d->which);
    const char *out = d->common.out;
    struct {
        char **to;
        const char *folder, *name;
    } all[] = {{&p->model, d->data, model},
               {&p->problems, d->data, problems},
               {&p->raw, out, "sampled.jsonl"},
               {&p->chains, out, "chains.jsonl"},
               {&p->labels, out, "labels.jsonl"},
               {&p->acts, out, "acts.h5"},
               {&p->random, out, "random-weights.h5"},
               {&p->tables, out, "probes"},
               {&p->report, out, "report"}};
    for (size_t i = 0; i < KS_COUNT(all); i++) {
        ks_status st = ks_path_join(all[i].to, all[i].folder, all[i].name, err);
        if (st != KS_OK) return st;
    }
    return KS_OK;
}

/* Refuses what an earlier demo left, before any work. */
static ks_status prepare(const demo *d, const paths *p, ks_err *err) {
    ks_status st = KS_OK;
    const char *const files[] = {p->raw, p->chains, p->labels, p->acts,
                                 p->random};
    struct stat what;
    if (mkdir(d->common.out, 0777) != 0)
        KS_CHECK(errno == EEXIST && stat(d->common.out, &what) == 0 &&
                     S_ISDIR(what.st_mode),
                 KS_IO, "%s: cannot make the folder: %s", d->common.out,
                 strerror(errno));
    for (size_t i = 0; i < KS_COUNT(files); i++)
        KS_TRY(ks_refuse_existing(files[i], d->common.force, err));
done:
    return st;
}

static void free_paths(paths *p) {
    char **all = &p->model;
    for (size_t i = 0; i < sizeof *p / sizeof *all; i++) free(all[i]);
}

static int walk(demo *d, const paths *p, ks_err *err) {
    char seed[32];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)d->common.seed);
    int code =
        run(ks_cmd_generate,
            (const char *[]){"generate", "--model", p->model, "--problems",
                             p->problems, "--out", p->raw, "--temperature", "1",
                             "--instruction=", "--max-new", "320", "--seed",
                             seed, "--force", NULL});
    if (code != KS_EXIT_DONE) return code;
    if (write_truth(p->problems, p->raw, p->chains, p->labels, &d->tally,
                    err) != KS_OK)
        return ks_cli_failed("demo", err);
    if (d->chains_only) return KS_EXIT_DONE;
    code =
        run(ks_cmd_capture,
            (const char *[]){"capture", "--model", p->model, "--chains",
                             p->chains, "--out", p->acts, "--positions",
                             "mean,first,middle,last,before", "--force", NULL});
    if (code != KS_EXIT_DONE) return code;
    code = run(ks_cmd_capture,
               (const char *[]){
                   "capture", "--model", p->model, "--chains", p->chains,
                   "--out", p->random, "--random-weights", seed, "--positions",
                   "mean,first,middle,last,before", "--force", NULL});
    if (code != KS_EXIT_DONE) return code;
    ks_str control = {0};
    ks_str_printf(&control, NULL, "random weights=%s", p->random);
    code = run(ks_cmd_probe,
               (const char *[]){"probe", "--acts", p->acts, "--labels",
                                p->labels, "--chains", p->chains,
                                "--baseline-acts", control.data, "--strata",
                                "hops", "--out", p->tables, "--force", NULL});
    ks_str_free(&control);
    if (code != KS_EXIT_DONE) return code;
    ks_str named = {0};
    ks_str_printf(&named, NULL, "demo-%s=%s", d->which, p->tables);
    code = run(ks_cmd_report,
               (const char *[]){"report", named.data, "--chains", p->chains,
                                "--labels", p->labels, "--out", p->report,
                                "--force", NULL});
    ks_str_free(&named);
    return code;
}

/* -------------------------------------------------------------------- JSON */

/* Standard output is the object's alone: what the commands print there goes
 * with their other words, and nowhere with --quiet. *kept: the output itself.
 */
static ks_status put_aside(int *kept, bool quiet, ks_err *err) {
    ks_status st = KS_OK;
    int to = quiet ? open("/dev/null", O_WRONLY | O_CLOEXEC)
                   : fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    *kept = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    KS_CHECK(to >= 0 && *kept >= 0 && fflush(stdout) == 0 &&
                 dup2(to, STDOUT_FILENO) >= 0,
             KS_IO, "standard output: cannot put it aside: %s",
             strerror(errno));
done:
    if (to >= 0) close(to);
    return st;
}

static ks_status bring_back(int kept, ks_err *err) {
    ks_status st = KS_OK;
    KS_CHECK(fflush(stdout) == 0 && dup2(kept, STDOUT_FILENO) >= 0, KS_IO,
             "standard output: cannot write: %s", strerror(errno));
done:
    close(kept);
    return st;
}

/* What became of the chains, and probe's summary if there is one. */
static ks_status print_json(const demo *d, const paths *p, ks_err *err) {
    ks_status st = KS_OK;
    const tally *n = &d->tally;
    char *path = NULL;
    json_t *object = NULL, *summary = NULL;
    json_error_t reason;
    KS_TRY(ks_path_join(&path, p->tables, "summary.json", err));
    if (!d->chains_only) {
        summary = json_load_file(path, 0, &reason);
        KS_CHECK(summary, KS_FORMAT, "%s line %d: %s", path, reason.line,
                 reason.text);
    }
    object = json_pack("{s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:O*}", "model", p->model,
                       "out", d->common.out, "chains", n->chains, "correct",
                       n->correct, "probed", n->kept, "one_group", n->one_group,
                       "broken", n->broken, "probe", summary);
    KS_CHECK(object, KS_NOMEM, "out of memory for the summary");
    json_dumpf(object, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    putchar('\n'); /* main looks whether all was written */
done:
    free(path);
    json_decref(summary);
    json_decref(object);
    return st;
}

static int walk_to_json(demo *d, const paths *p, ks_err *err) {
    int kept = -1;
    if (put_aside(&kept, d->common.quiet, err) != KS_OK)
        return ks_cli_failed("demo", err);
    int code = walk(d, p, err);
    if (bring_back(kept, err) != KS_OK ||
        (code == KS_EXIT_DONE && print_json(d, p, err) != KS_OK))
        return ks_cli_failed("demo", err);
    return code;
}

/* ----------------------------------------------------------------- options */

enum { KEY_WHICH = KS_KEY_OWN, KEY_CHAINS_ONLY };

static error_t parse(int key, char *arg, struct argp_state *state) {
    demo *d = state->input;
    switch (key) {
    case KEY_WHICH:
        if (strcmp(arg, "a") != 0 && strcmp(arg, "b") != 0)
            argp_error(state, "--which takes a or b, got '%s'", arg);
        d->which = arg;
        return 0;
    case KEY_CHAINS_ONLY:
        d->chains_only = true;
        return 0;
    case ARGP_KEY_ARG:
        return ARGP_ERR_UNKNOWN;
    default:
        return ks_cli_common_key(&d->common, key, arg, state);
    }
}

int ks_cmd_demo(int argc, char **argv) {
    static const struct argp_option options[] = {
        {"which", KEY_WHICH, "a|b", 0,
         "embedded model: a (Llama, default) or b (Qwen2)", 0},
        {"out", KS_KEY_OUT, "FOLDER", 0,
         "where to put everything (default: keystep-demo)", 0},
        {"chains-only", KEY_CHAINS_ONLY, NULL, 0,
         "no more than chains and labels: what an experiment file takes", 0},
        KS_CLI_FORCE,
        KS_CLI_SEED,
        KS_CLI_JSON,
        KS_CLI_QUIET,
        {0}};
    static const struct argp argp = {
        options,
        parse,
        NULL,
        "Runs everything on the embedded model, from problems to the report: "
        "its own chains of reasoning, activations of every layer, probes. "
        "Each command is shown as you would type it. "
        "Model and problems are constructed, so which steps matter is known.",
        NULL,
        NULL,
        NULL};
    demo d = {.which = "a"};
    ks_err err = {0};
    paths p = {0};
    ks_cli_common_init(&d.common);
    d.common.out = "keystep-demo";
    d.common.seed = 1;
    int code = ks_cli_parse(&argp, "demo", argc, argv, &d);
    if (code != KS_EXIT_DONE) return code;
    if (ks_cli_demo_folder(&d.data, &err) != KS_OK)
        return ks_cli_failed("demo", &err);
    if (make_paths(&d, &p, &err) == KS_OK && prepare(&d, &p, &err) == KS_OK)
        code = d.common.json ? walk_to_json(&d, &p, &err) : walk(&d, &p, &err);
    else
        code = ks_cli_failed("demo", &err);
    free_paths(&p);
    free(d.data);
    if (code == KS_EXIT_DONE && !d.chains_only)
        ks_log(KS_LOG_INFO,
               "\nModel and problems are constructed; the figures say nothing "
               "about other models.\nEverything is in %s/: sampled.jsonl, "
               "chains.jsonl, labels.jsonl, acts.h5, probes/\n"
               "Open it in a browser: %s/report/index.html",
               d.common.out, d.common.out);
    return code;
}
