/* cmd_status.c - keystep status: how far a run is. */
#include "cli.h"
#include "status_show.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { KEY_FOLLOW = KS_KEY_OWN };

enum {
    EVERY = 1000, /* milliseconds between two looks at the folder */
    QUEUE = 10,   /* seconds between two questions to Slurm */
    SUMMARY = 30  /* between two summaries that are no news */
};

typedef struct input {
    ks_cli_common common;
    const char *run;
    bool follow;
} input;

static const struct argp_option option_list[] = {
    {"follow", KEY_FOLLOW, 0, 0,
     "go on until everything is done or nobody works on it any more; exit "
     "code 1 unless all is done",
     0},
    KS_CLI_JSON,
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    input *in = state->input;
    switch (key) {
    case KEY_FOLLOW:
        in->follow = true;
        return 0;
    case ARGP_KEY_ARG:
        if (in->run) argp_error(state, "too many arguments: %s", arg);
        in->run = arg;
        return 0;
    case ARGP_KEY_END:
        if (!in->run) argp_error(state, "the run's folder is missing");
        return 0;
    default:
        return ks_cli_common_key(&in->common, key, arg, state);
    }
}

static const struct argp argp = {
    .options = option_list,
    .parser = parse,
    .args_doc = "RUN",
    .doc =
        "Every stage and shard of a run: its state, where it runs or why it "
        "is queued, how much is done, the time left, and of what failed the "
        "last words and the log. Reads RUN alone, so any machine that sees "
        "the folder will do; where squeue is, it is asked about jobs that "
        "'keystep launch' submitted.\v"
        "States: waiting, queued (with Slurm), running, stopped (begun, and "
        "nobody goes on), failed, done. The time left counts what runs by "
        "its own word, and stages to come by like ones that are done; 'at "
        "least' where there are none. On a terminal --follow draws the table "
        "anew, elsewhere it prints a line for each change.",
};

/* What the last look saw. */
typedef struct view {
    const input *in;
    ks_jobs jobs;
    ks_queue queue;
    bool slurm;   /* it answered */
    double asked; /* ks_seconds of that; 0: never */
    ks_watch now, before;
    bool seen; /* before is there */
    double told;
    bool terminal;
} view;

/* The queue first: a job that ended since has left its record. */
static ks_status look(view *v, ks_err *err) {
    ks_status st = KS_OK;
    double now = ks_seconds();
    ks_jobs_free(&v->jobs);
    KS_TRY(ks_jobs_read(&v->jobs, v->in->run, err));
    if (v->jobs.n && (!v->asked || now - v->asked >= QUEUE)) {
        ks_err why = {0};
        ks_queue_free(&v->queue);
        bool first = !v->asked;
        v->asked = now;
        bool asked = ks_queue_ask(&v->queue, &v->slurm, &why) == KS_OK;
        if (!asked && first)
            ks_log(KS_LOG_INFO, "%s; going by the folder alone", why.text);
        v->slurm = v->slurm && asked;
    }
    ks_watch_free(&v->now);
    KS_TRY(ks_watch_read(&v->now, v->in->run, &v->jobs,
                         v->slurm ? &v->queue : NULL, err));
done:
    return st;
}

static bool over(const ks_watch *watch) {
    return watch->counts[KS_WATCH_DONE] == watch->n || !watch->active;
}

/* As much of it as the terminal has lines for, from its top. */
static ks_status draw(view *v, ks_str *out, ks_err *err) {
    ks_status st = KS_OK;
    struct winsize size = {0};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) size.ws_row = 0;
    KS_TRY(ks_status_table(&v->now, size.ws_col, out, err));
    size_t lines = 0;
    for (size_t i = 0; size.ws_row > 2 && i < out->length; i++) {
        lines += out->data[i] == '\n';
        if (lines < (size_t)size.ws_row - 1u) continue;
        out->data[i + 1] = 0;
        out->length = i + 1;
    }
    fputs("\033[H\033[J", stdout);
done:
    return st;
}

static ks_status tell(view *v, ks_err *err) {
    ks_status st = KS_OK;
    ks_str out = {0};
    double now = ks_seconds();
    bool last = over(&v->now);
    KS_TRY(ks_str_add(&out, "", 0, err));
    if (v->in->common.json) {
        json_t *all = ks_status_json(&v->now);
        json_dumpf(all, stdout, JSON_COMPACT);
        json_decref(all);
        putchar('\n');
    } else if (v->terminal) {
        KS_TRY(draw(v, &out, err));
    } else {
        KS_TRY(
            ks_status_changes(&v->now, v->seen ? &v->before : NULL, &out, err));
        if (last || !v->seen || now - v->told >= SUMMARY) {
            KS_TRY(ks_status_summary(&v->now, &out, err));
            KS_TRY(ks_str_add(&out, "\n", 1, err));
            v->told = now;
        }
    }
    fputs(out.data, stdout);
    fflush(stdout);
done:
    ks_str_free(&out);
    return st;
}

/* Two looks agree that nobody works on it: between two stages a coordinator may
 * seem to be gone. */
static ks_status follow(view *v, bool *done, ks_err *err) {
    ks_status st = KS_OK;
    bool idle = false;
    v->terminal = isatty(STDOUT_FILENO) == 1;
    for (;;) {
        KS_TRY(look(v, err));
        bool ends = over(&v->now);
        *done = v->now.counts[KS_WATCH_DONE] == v->now.n;
        if (ends && !*done && !idle) {
            idle = true;
            v->asked = 0;
        } else {
            idle = false;
            KS_TRY(tell(v, err));
            if (ends) break;
            ks_watch_free(&v->before);
            v->before = v->now;
            v->now = (ks_watch){0};
            v->seen = true;
        }
        poll(NULL, 0, EVERY);
        KS_CHECK(!ks_interrupted, KS_INTERRUPTED,
                 "interrupted; what is watched goes on");
    }
done:
    return st;
}

static ks_status show(view *v, ks_err *err) {
    ks_status st = KS_OK;
    ks_str out = {0};
    KS_TRY(look(v, err));
    if (v->in->common.json) {
        ks_cli_print_json(ks_status_json(&v->now));
    } else {
        KS_TRY(ks_status_table(&v->now, 0, &out, err));
        fputs(out.data, stdout);
    }
done:
    ks_str_free(&out);
    return st;
}

int ks_cmd_status(int argc, char **argv) {
    input in = {0};
    ks_cli_common_init(&in.common);
    int code = ks_cli_parse(&argp, "status", argc, argv, &in);
    if (code != KS_EXIT_DONE) return code;
    ks_err err = {0};
    view v = {.in = &in};
    bool done = true;
    ks_status st = in.follow ? follow(&v, &done, &err) : show(&v, &err);
    ks_jobs_free(&v.jobs);
    ks_queue_free(&v.queue);
    ks_watch_free(&v.now);
    ks_watch_free(&v.before);
    if (st != KS_OK) return ks_cli_failed("status", &err);
    return done ? KS_EXIT_DONE : KS_EXIT_FAILED;
}
