/* capture_share.c - groups of sequences and the store of what they share. */
#include "capture_share.h"

#include <stdlib.h>
#include <string.h>

/* Fewer tokens in common are not worth a pass of their own. */
enum { LEAST = 16 };

/* ------------------------------------------------------------------- groups */

/* Tokens in front of which nothing is captured; one is left to go on with. */
static int32_t free_tokens(const ks_capture_job *job,
                           const ks_capture_seq *seq) {
    int32_t n = seq->n_tokens - 1;
    bool before = job->options.positions & 1u << KS_BEFORE;
    for (int32_t i = 0; i < seq->n_steps; i++)
        n = KS_MIN(n, job->steps[seq->step + i].token_begin - before);
    return KS_MAX(n, 0);
}

void ks__share_common(ks_capture_job *job) {
    int32_t mine = 0;
    for (size_t s = 0; s < job->n_seqs; s++) {
        ks_capture_seq *seq = &job->seqs[s];
        int32_t last = mine;
        mine = free_tokens(job, seq);
        seq->common = 0;
        if (s == 0) continue;
        const int32_t *a = job->ids + job->seqs[s - 1].token;
        const int32_t *b = job->ids + seq->token;
        int32_t n = KS_MIN(last, mine);
        while (seq->common < n && a[seq->common] == b[seq->common])
            seq->common++;
    }
}

/* saved[i]: the most tokens that the first i sequences need not compute;
 * begin[i]: where the last group of that cut starts. */
int32_t ks__share_groups(const ks_capture_job *job, size_t from, size_t to,
                         ks__share_group *groups, int32_t *work) {
    int32_t n = (int32_t)(to - from), *saved = work, *begin = work + n + 1;
    saved[0] = 0;
    for (int32_t i = 1; i <= n; i++) {
        int32_t common = INT32_MAX;
        saved[i] = saved[i - 1];
        begin[i] = i - 1;
        for (int32_t j = i - 1; j > 0; j--) { /* the group [j - 1, i) */
            common = KS_MIN(common, job->seqs[from + (size_t)j].common);
            if (common < LEAST) break;
            int32_t all = saved[j - 1] + (i - j) * common;
            if (all <= saved[i]) continue;
            saved[i] = all;
            begin[i] = j - 1;
        }
    }
    int32_t count = 0;
    for (int32_t end = n; end > 0; end = begin[end]) count++;
    for (int32_t end = n, g = count - 1; end > 0; end = begin[end], g--) {
        ks__share_group *group = &groups[g];
        *group = (ks__share_group){begin[end], end - begin[end], 0};
        for (int32_t s = group->first + 1; s < end; s++) {
            int32_t common = job->seqs[from + (size_t)s].common;
            group->n_tokens = s == group->first + 1
                                  ? common
                                  : KS_MIN(group->n_tokens, common);
        }
    }
    return count;
}

/* -------------------------------------------------------------------- store */

struct ks__share {
    const ks_capture_job *job;
    ks_engine *engine;
    ks_kv *kv; /* NULL: no batch shares anything */
    int32_t columns;
    ks__share_group *groups;
    int32_t *work;
    int32_t *offsets, *ids; /* of what is left of a batch */
    int32_t *past, *pages;  /* [sequences], [sequences, columns] */
    int32_t *heads;         /* [sequences, columns] pages of the groups */
    ks_stored stored, common;
    /* of the batch before: its last group's tokens may begin this one */
    int32_t *kept, *kept_pages, n_kept;
};

static int32_t pages_of(int32_t n_tokens) {
    return (n_tokens + KS_PAGE - 1) / KS_PAGE;
}

ks_status ks__share_open(ks__share **out, const ks_capture_job *job,
                         ks_engine *engine, ks_err *err) {
    ks_status st = KS_OK;
    ks__share *s = NULL;
    size_t n = job->max_seqs, m = (size_t)job->share_columns,
           size = sizeof(int);
    *out = NULL;
    KS_TRY(ks_alloc(&s, 1, sizeof *s, "shared prompts", err));
    s->job = job;
    s->engine = engine;
    s->columns = job->share_columns;
    KS_TRY(ks_alloc(&s->offsets, n + 1, size, "a batch", err));
    if (job->share_pages) {
        KS_TRY(ks_kv_open(&s->kv, engine->dev, engine->ops,
                          &engine->model->config, job->share_pages, err));
        KS_TRY(ks_alloc(&s->groups, n, sizeof *s->groups, "a batch", err));
        KS_TRY(ks_alloc(&s->work, 2 * (n + 1), size, "a batch", err));
        KS_TRY(
            ks_alloc(&s->ids, (size_t)job->max_tokens, size, "a batch", err));
        KS_TRY(ks_alloc(&s->past, n, size, "a batch", err));
        KS_TRY(ks_alloc(&s->pages, n * m, size, "a batch", err));
        KS_TRY(ks_alloc(&s->heads, n * m, size, "a batch", err));
        KS_TRY(ks_alloc(&s->kept, m * KS_PAGE, size, "a batch", err));
        KS_TRY(ks_alloc(&s->kept_pages, m, size, "a batch", err));
    }
    *out = s;
    s = NULL;
done:
    ks__share_close(&s);
    return st;
}

void ks__share_close(ks__share **share) {
    ks__share *s = *share;
    if (!s) return;
    ks_kv_close(&s->kv);
    free(s->groups);
    free(s->work);
    free(s->offsets);
    free(s->ids);
    free(s->past);
    free(s->pages);
    free(s->heads);
    free(s->kept);
    free(s->kept_pages);
    free(s);
    *share = NULL;
}

static void drop(ks__share *s, const int32_t *pages, int32_t n_tokens) {
    for (int32_t p = 0; p < pages_of(n_tokens); p++)
        ks_kv_page_drop(s->kv, pages[p]);
}

static const int32_t *ids_of(const ks__share *s, size_t seq) {
    return s->job->ids + s->job->seqs[seq].token;
}

/* Pages for a group's common tokens: those of the batch before where they are
 * the same (true), else fresh ones. */
static bool place(ks__share *s, const ks__share_group *group,
                  const int32_t *ids, int32_t *pages) {
    int32_t n = group->n_tokens;
    bool same = n > 0 && n == s->n_kept &&
                memcmp(ids, s->kept, (size_t)n * sizeof *ids) == 0;
    if (same) memcpy(pages, s->kept_pages, (size_t)pages_of(n) * sizeof *pages);
    if (!same) drop(s, s->kept_pages, s->n_kept);
    s->n_kept = 0;
    for (int32_t p = 0; p < pages_of(n) && !same; p++)
        pages[p] = ks_kv_page_take(s->kv);
    return same;
}

/* Runs the groups' common tokens that are not stored yet. */
static ks_status run_common(ks__share *s, size_t from, int32_t n_groups,
                            int32_t *faulty, ks_err *err) {
    ks_status st = KS_OK;
    int32_t n = 0, at = 0;
    for (int32_t g = 0; g < n_groups; g++) {
        const ks__share_group *group = &s->groups[g];
        const int32_t *ids = ids_of(s, from + (size_t)group->first);
        int32_t *pages = s->heads + (int64_t)g * s->columns;
        bool there = place(s, group, ids, pages);
        for (int32_t k = 0; k < group->n; k++)
            memcpy(s->pages + (int64_t)(group->first + k) * s->columns, pages,
                   (size_t)pages_of(group->n_tokens) * sizeof *pages);
        if (there || group->n_tokens == 0) continue;
        memcpy(s->ids + at, ids, (size_t)group->n_tokens * sizeof *ids);
        /* rows of the run's own page table, groups that need none left out */
        memmove(s->heads + (int64_t)n * s->columns, pages,
                (size_t)s->columns * sizeof *pages);
        s->work[n] = group->first;
        s->offsets[n++] = at;
        at += group->n_tokens;
    }
    if (n == 0) return KS_OK;
    s->offsets[n] = at;
    memset(s->past, 0, (size_t)n * sizeof *s->past);
    s->common = (ks_stored){.kv = s->kv,
                            .past = s->past,
                            .pages = s->heads,
                            .max_pages = s->columns,
                            .keep = true};
    ks_batch batch = {.n_seq = n, .offsets = s->offsets, .ids = s->ids};
    st = ks__engine_run_behind(s->engine, &batch, &s->common, NULL, err);
    if (st == KS_NUMERIC && s->engine->run) {
        ks_fault fault = ks_run_fault(s->engine->run);
        if (fault.seq >= 0 && fault.seq < n) *faulty = s->work[fault.seq];
    }
    return st;
}

/* What the sequences have behind their common tokens, end to end. */
static void cut(ks__share *s, size_t from, int32_t n_groups) {
    int32_t at = 0;
    for (int32_t g = 0; g < n_groups; g++) {
        const ks__share_group *group = &s->groups[g];
        for (int32_t k = group->first; k < group->first + group->n; k++) {
            const ks_capture_seq *seq = &s->job->seqs[from + (size_t)k];
            int32_t n = seq->n_tokens - group->n_tokens;
            memcpy(s->ids + at, ids_of(s, from + (size_t)k) + group->n_tokens,
                   (size_t)n * sizeof *s->ids);
            s->past[k] = group->n_tokens;
            s->offsets[k] = at;
            s->offsets[k + 1] = at += n;
        }
    }
}

/* The last group's pages stay for the next batch; others are free again, and
 * nothing takes one before that batch is placed. */
static void keep_last(ks__share *s, size_t from, int32_t n_groups) {
    for (int32_t g = 0; g < n_groups; g++) {
        const ks__share_group *group = &s->groups[g];
        const int32_t *pages = s->pages + (int64_t)group->first * s->columns;
        if (g < n_groups - 1) {
            drop(s, pages, group->n_tokens);
            continue;
        }
        s->n_kept = group->n_tokens;
        memcpy(s->kept_pages, pages,
               (size_t)pages_of(s->n_kept) * sizeof *pages);
        memcpy(s->kept, ids_of(s, from + (size_t)group->first),
               (size_t)s->n_kept * sizeof *s->kept);
    }
}

ks_status ks__share_batch(ks__share *s, size_t from, size_t to, ks_batch *batch,
                          const ks_stored **stored, int32_t *faulty,
                          ks_err *err) {
    ks_status st = KS_OK;
    const ks_capture_job *job = s->job;
    int32_t n = (int32_t)(to - from);
    int32_t groups =
        s->kv ? ks__share_groups(job, from, to, s->groups, s->work) : n;
    *stored = NULL;
    *batch = (ks_batch){.n_seq = n, .offsets = s->offsets};
    if (groups == n) { /* the sequences lie end to end: a window */
        batch->ids = ids_of(s, from);
        for (int32_t k = 0; k < n; k++)
            s->offsets[k + 1] =
                s->offsets[k] + job->seqs[from + (size_t)k].n_tokens;
        return KS_OK;
    }
    st = run_common(s, from, groups, faulty, err);
    if (st == KS_OK) cut(s, from, groups);
    keep_last(s, from, groups);
    if (st != KS_OK) return st;
    batch->ids = s->ids;
    s->stored = (ks_stored){.kv = s->kv,
                            .past = s->past,
                            .pages = s->pages,
                            .max_pages = s->columns};
    *stored = &s->stored;
    return KS_OK;
}
