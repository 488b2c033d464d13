/* log.c - words and progress on stderr. */
#include "base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ks_log_level level_now = KS_LOG_INFO;
static bool bar_open; /* an unfinished bar line lies on the terminal */

void ks_log_level_set(ks_log_level level) {
    level_now = level;
}

void ks_log(ks_log_level level, const char *format, ...) {
    if (level > level_now) return;
    if (bar_open) fputs("\r\033[K", stderr);
    bar_open = false;
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

struct ks_progress {
    char what[64], unit[32], note[32];
    double total, done, start, shown;
    bool terminal;
    bool rated, at_most; /* ks_progress_rate said what follows */
    char rate_unit[32];
    double rate, left;
    const char *file; /* of KEYSTEP_PROGRESS, NULL: none */
    double filed;     /* when it was written */
};

/* A figure that JSON may not have is null. */
static json_t *figure(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

/* For whoever watches from outside. Renamed, so that it is never read half
 * written; not synced, since after a crash nobody counts on it. Fails silently:
 * progress is a courtesy. */
static void write_progress(ks_progress *p, double now) {
    double rate = p->rated ? p->rate : p->done / (now - p->start);
    double left = p->rated ? p->left : (p->total - p->done) / rate;
    if (p->done >= p->total) left = 0;
    p->filed = now;
    char *fresh = NULL;
    if (asprintf(&fresh, "%s.new", p->file) < 0) return;
    json_t *all = json_pack(
        "{s:s,s:s,s:f,s:f,s:o,s:s,s:o}", "what", p->what, "unit", p->unit,
        "done", p->done, "total", p->total, "rate", figure(rate), "rate_unit",
        p->rated ? p->rate_unit : p->unit, "left", figure(left));
    if (all && json_dump_file(all, fresh, JSON_REAL_PRECISION(9)) == 0)
        (void)rename(fresh, p->file);
    json_decref(all);
    free(fresh);
}

ks_progress *ks_progress_open(const char *what, const char *unit,
                              double total) {
    ks_progress *p = calloc(1, sizeof *p);
    if (!p) return NULL; /* progress is a courtesy: NULL is accepted below */
    snprintf(p->what, sizeof p->what, "%s", what);
    snprintf(p->unit, sizeof p->unit, "%s", unit);
    p->total = total;
    p->start = p->shown = ks_seconds();
    p->terminal = isatty(STDERR_FILENO) == 1;
    p->file = getenv("KEYSTEP_PROGRESS");
    if (p->file && !*p->file) p->file = NULL;
    if (p->file) write_progress(p, p->start);
    return p;
}

void ks_progress_note(ks_progress *p, const char *format, ...) {
    if (!p) return;
    va_list args;
    va_start(args, format);
    vsnprintf(p->note, sizeof p->note, format, args);
    va_end(args);
}

void ks_progress_rate(ks_progress *p, const char *unit, double rate,
                      double left, bool at_most) {
    if (!p) return;
    p->rated = true;
    p->at_most = at_most;
    p->rate = rate;
    p->left = left;
    snprintf(p->rate_unit, sizeof p->rate_unit, "%s", unit);
}

static void format_seconds(char *to, size_t n, double s) {
    if (!isfinite(s) || s > 3600 * 1000.0)
        snprintf(to, n, "--:--");
    else if (s >= 3600)
        snprintf(to, n, "%d:%02d:%02d", (int)s / 3600, (int)s / 60 % 60,
                 (int)s % 60);
    else
        snprintf(to, n, "%d:%02d", (int)s / 60, (int)s % 60);
}

static void show(ks_progress *p, double now, bool last) {
    double elapsed = now - p->start;
    double rate = elapsed > 0 ? p->done / elapsed : 0;
    double share = p->total > 0 ? p->done / p->total : 0;
    double seconds = (p->total - p->done) / rate;
    char left[32];
    if (p->rated) rate = p->rate;
    if (p->rated) seconds = p->left;
    bool at_most = !last && p->rated && p->at_most && isfinite(seconds);
    int digits = rate < 10 ? 1 : 0;
    const char *unit = p->rated ? p->rate_unit : p->unit;
    format_seconds(left, sizeof left, last ? elapsed : seconds);
    const char *word = last ? "took" : "left";
    const char *comma = p->note[0] ? ", " : "";
    if (p->terminal) {
        enum { WIDTH = 20 }; /* a line within 80 columns, note and all */
        char bar[WIDTH + 1];
        int full = (int)(share * WIDTH + 0.5);
        full = KS_MAX(0, KS_MIN(WIDTH, full));
        memset(bar, '#', (size_t)full);
        memset(bar + full, '.', (size_t)(WIDTH - full));
        bar[WIDTH] = 0;
        fprintf(stderr, "\r\033[K%-10s [%s] %3.0f%%  %.*f %s/s  %s%s %s%s%s",
                p->what, bar, 100 * share, digits, rate, unit,
                at_most ? "< " : "", left, word, comma, p->note);
        if (last) fputc('\n', stderr);
        fflush(stderr);
        bar_open = !last;
    } else {
        fprintf(stderr,
                "%s: %3.0f%%, %.0f of %.0f %s, %.*f %s/s, %s%s %s%s%s\n",
                p->what, 100 * share, p->done, p->total, p->unit, digits, rate,
                unit, at_most ? "at most " : "", left, word, comma, p->note);
    }
    p->shown = now;
}

void ks_progress_set(ks_progress *p, double done) {
    if (!p) return;
    p->done = done;
    double now = ks_seconds();
    if (p->file && now - p->filed >= 1.0) write_progress(p, now);
    if (level_now == KS_LOG_QUIET) return;
    if (now - p->shown >= (p->terminal ? 0.1 : 3.0)) show(p, now, false);
}

void ks_progress_close(ks_progress **progress) {
    ks_progress *p = *progress;
    if (!p) return;
    if (p->file) write_progress(p, ks_seconds());
    if (level_now != KS_LOG_QUIET) show(p, ks_seconds(), true);
    free(p);
    *progress = NULL;
}
