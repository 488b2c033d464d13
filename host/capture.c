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
    KS_TRY(ks_engines_open(&job->engines, options->model, &job->options.engine,
                           err));
    job->engine = job->engines.at[0];
    KS_TRY(open_tokenizer(job, err));
    job->cost.open_seconds = ks_seconds() - start;
    KS_TRY(ks__capture_plan(job, err));
    job->cost.plan_seconds = ks_seconds() - start - job->cost.open_seconds;
    *out = job;
    job = NULL;
done:
    ks_capture_close(&job);
    return st;
}

void ks_capture_close(ks_capture_job **job_at) {
    ks_capture_job *job = *job_at;
    if (!job) return;
    ks_engines_close(&job->engines);
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
