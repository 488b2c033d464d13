/* capture.c - opens what a capture needs: engines, tokenizer, plan. */
#include "capture.h"

#include <stdlib.h>
#include <string.h>

#include "prompt.h"

/* -------------------------------------------------------------- open, close */

static void fill_defaults(ks_capture_options *o) {
    if (!o->streams) o->streams = 1u << KS_RESID;
    if (!o->positions) {
        o->positions = (1u << KS_TOKENS) - 1; /* every pooled one */
        if (o->context_none) o->positions &= ~(1u << KS_BEFORE);
    }
}

static ks_status open_tokenizer(ks_capture_job *job, ks_err *err) {
    char *home = NULL;
    const char *path = job->options.tokenizer;
    ks_status st = KS_OK;
    if (!path) {
        KS_TRY(ks_model_home(&home, job->options.model, err));
        path = home;
    }
    KS_TRY(ks_tokenizer_open(&job->tokenizer, path, err));
done:
    free(home);
    return st;
}

static ks_status add_backend(ks_capture_job *job, const char *name, size_t n,
                             ks_err *err) {
    job->backends[job->n_backends] = strndup(name, n);
    if (!job->backends[job->n_backends++])
        return ks_fail(err, KS_NOMEM, "no memory for a backend's name");
    return KS_OK;
}

/* Every device of a backend that has several: "cuda" is "cuda:0", ... */
static ks_status list_devices(ks_capture_job *job, const char *backend, int n,
                              ks_err *err) {
    ks_status st = KS_OK;
    char name[64];
    KS_TRY(
        ks_alloc(&job->backends, (size_t)n, sizeof(char *), "backends", err));
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s:%d", backend, i);
        KS_TRY(add_backend(job, name, strlen(name), err));
    }
    job->options.engine.backend = job->backends[0];
done:
    return st;
}

/* "cuda:0,cuda:1" taken apart. */
static ks_status list_backends(ks_capture_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const char *list = job->options.engine.backend;
    int n_devices = 0;
    size_t n = 1;
    if (!list) list = "cpu";
    if (!strpbrk(list, ",:")) {
        KS_TRY(ks_dev_count(list, &n_devices, err));
        if (n_devices > 1) return list_devices(job, list, n_devices, err);
    }
    for (const char *c = list; *c; c++) n += *c == ',';
    KS_TRY(ks_alloc(&job->backends, n, sizeof(char *), "backends", err));
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        KS_TRY(add_backend(job, at, strcspn(at, ","), err));
    }
    job->options.engine.backend = job->backends[0];
done:
    return st;
}

/* The list's other devices; they share the first one's model. */
static ks_status open_more(ks_capture_job *job, ks_err *err) {
    ks_status st = KS_OK;
    const char *isa = job->engine->ops->isa;
    KS_TRY(ks_alloc(&job->more, (size_t)job->n_backends, sizeof(ks_engine *),
                    "engines", err));
    for (int32_t i = 1; i < job->n_backends; i++) {
        ks_engine **other = &job->more[i - 1];
        KS_TRY(ks_engine_share(other, job->engine, job->backends[i], err));
        KS_CHECK(strcmp((*other)->ops->isa, isa) == 0, KS_USAGE,
                 "%s is %s and %s is %s, whose bits differ: one file takes "
                 "devices of one kind",
                 job->backends[0], isa, job->backends[i], (*other)->ops->isa);
    }
    KS_TRY(job->engine->ops->enter(job->engine->dev, err));
done:
    return st;
}

static ks_status check_options(const ks_capture_options *o, ks_err *err) {
    if (o->context_none && o->positions & 1u << KS_BEFORE)
        return ks_fail(err, KS_USAGE,
                       "position 'before' needs --context full: "
                       "a step alone has nothing ahead of it");
    return KS_OK;
}

ks_status ks_capture_open(ks_capture_job **out,
                          const ks_capture_options *options, ks_err *err) {
    ks_status st = KS_OK;
    ks_capture_job *job = NULL;
    *out = NULL;
    KS_TRY(check_options(options, err));
    KS_TRY(ks_alloc(&job, 1, sizeof *job, "a capture", err));
    job->options = *options;
    fill_defaults(&job->options);
    double start = ks_seconds();
    KS_TRY(list_backends(job, err));
    KS_TRY(ks_engine_open(&job->engine, options->model, &job->options.engine,
                          err));
    KS_TRY(open_tokenizer(job, err));
    job->cost.open_seconds = ks_seconds() - start;
    KS_TRY(ks__capture_plan(job, err));
    job->cost.plan_seconds = ks_seconds() - start - job->cost.open_seconds;
    KS_TRY(open_more(job, err));
    if (options->random_weights >= 0)
        KS_TRY(ks_model_randomize(job->engine->model,
                                  (uint64_t)options->random_weights, err));
    *out = job;
    job = NULL;
done:
    ks_capture_close(&job);
    return st;
}

void ks_capture_close(ks_capture_job **job_at) {
    ks_capture_job *job = *job_at;
    if (!job) return;
    for (int32_t i = 1; job->more && i < job->n_backends; i++)
        ks_engine_close(&job->more[i - 1]);
    ks_engine_close(&job->engine);
    for (int32_t i = 0; i < job->n_backends; i++) free(job->backends[i]);
    free(job->backends);
    free(job->more);
    ks_tokenizer_close(&job->tokenizer);
    ks_chains_free(&job->chains);
    ks_labels_free(&job->labels);
    free(job->ids);
    free(job->seqs);
    free(job->steps);
    free(job->token_row);
    free(job->chain_rows);
    free(job->config);
    free(job);
    *job_at = NULL;
}
