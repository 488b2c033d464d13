/* Options of sbatch, the scripts that come of them, what was submitted and what
 * the queue says. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <sys/stat.h>

#include "experiment/slurm.h"
#include "shell.h"

/* --------------------------------------------------------------- options */

Test(slurm, lists_of_options) {
    ks_slurm_options o = {0};
    ks_err err = {0};
    cr_assert(ks_slurm_parse(&o, "partition=gpu,gpus=a100:8,exclude=n[1,3-4]",
                             "--slurm", &err) == KS_OK);
    cr_assert(ks_slurm_parse(&o, "partition=cpu,exclusive,join.time=10",
                             "--slurm", &err) == KS_OK);
    cr_assert(eq(sz, o.n, 5));
    cr_assert(eq(str, o.at[0].name, "partition"));
    cr_assert(eq(str, o.at[0].value, "cpu")); /* the later one counts */
    cr_assert(eq(str, o.at[2].value, "n[1,3-4]"));
    cr_assert(eq(str, o.at[3].name, "exclusive"));
    cr_assert(o.at[3].value == NULL && o.at[3].kind == NULL);
    cr_assert(eq(str, o.at[4].kind, "join"));
    ks_slurm_free(&o);
}

Test(slurm, mappings_of_options) {
    ks_slurm_options o = {0};
    ks_err err = {0};
    json_t *map = json_pack("{s:s,s:i,s:b,s:{s:s}}", "partition", "gpu", "mem",
                            64, "exclusive", 1, "report", "partition", "cpu");
    cr_assert(ks_slurm_from_json(&o, map, "x.yaml line 3", &err) == KS_OK);
    cr_assert(eq(sz, o.n, 4));
    cr_assert(eq(str, o.at[1].value, "64"));
    cr_assert(eq(str, o.at[3].kind, "report"));
    json_decref(map);
    map = json_pack("{s:f}", "mem", 1.5);
    cr_assert(ks_slurm_from_json(&o, map, "x.yaml line 3", &err) == KS_USAGE);
    cr_assert(eq(str, err.text,
                 "x.yaml line 3: mem: expected text, a whole "
                 "number or true, found a real number"));
    json_decref(map);
    ks_slurm_free(&o);
}

/* A script is a program: nothing of a list may become a line of its own. */
Test(slurm, refused_options) {
    static const struct {
        const char *list, *word;
    } bad[] = {{"array=1-9", "itself"},
               {"dependency=afterok:1", "itself"},
               {"signal=TERM", "itself"},
               {"wrap=reboot", "itself"},
               {"partition=a\n#SBATCH --wrap=x", "without blanks"},
               {"partition=\"a b\"", "without blanks"},
               {"comment=a#b", "without blanks"},
               {"--partition=a", "long option"},
               {"Partition=a", "long option"},
               {"=a", "long option"},
               {"gpus=many", "number from 1"},
               {"gpus=0", "number from 1"},
               {"gpus", "number from 1"},
               {"nobody.time=1", "kind of stage"}};
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        ks_slurm_options o = {0};
        ks_err err = {0};
        cr_assert(ks_slurm_parse(&o, bad[i].list, "--slurm", &err) == KS_USAGE,
                  "%s", bad[i].list);
        cr_assert(strstr(err.text, bad[i].word) != NULL, "%s", err.text);
        ks_slurm_free(&o);
    }
}

/* As sbatch of Slurm 22.05 takes and refuses them. */
Test(slurm, forms_of_values) {
    static const char *const good[] = {"time=10",
                                       "time=10:00",
                                       "time=1:2:3",
                                       "time=1-2",
                                       "time=1-2:3",
                                       "time=1-2:3:4",
                                       "time=UNLIMITED",
                                       "time=infinite",
                                       "time=-1",
                                       "time=1-",
                                       "time=0",
                                       "time-min=1:60",
                                       "mem=64",
                                       "mem=64K",
                                       "mem=64g",
                                       "mem=64GB",
                                       "mem=0",
                                       "mem=+5",
                                       "mem=64tb",
                                       "mem-per-cpu=2G",
                                       "mem-per-gpu=64G",
                                       "tmp=100G",
                                       "cpus-per-task=16",
                                       "cpus-per-gpu=+4",
                                       "capture.time=5",
                                       "gpus=a100:2",
                                       "nodelist=4hours",
                                       "deadline=4hours",
                                       "exclusive"};
    static const struct {
        const char *list, *words;
    } bad[] = {
        {"time=4hours", "--slurm: time=4hours: minutes, minutes:seconds, "
                        "hours:minutes:seconds, days-hours, "},
        {"capture.time=4h", "time=4h: minutes"},
        {"time", "time=: minutes"},
        {"time=", "time=: minutes"},
        {"time=1.5", "minutes"},
        {"time=+5", "minutes"},
        {"time=:5", "minutes"},
        {"time=5:", "minutes"},
        {"time=1:2:3:4", "minutes"},
        {"time=1-2:3:4:5", "minutes"},
        {"time=1-1-1", "minutes"},
        {"time=1:2-", "minutes"},
        {"time=-", "minutes"},
        {"time=-1:2", "minutes"},
        {"time=1::2", "minutes"},
        {"time-min=4h", "time-min=4h: minutes"},
        {"mem=1.5G", "mem=1.5G: a whole number of megabytes, or one with K"},
        {"mem=many", "megabytes"},
        {"mem=-5", "megabytes"},
        {"mem=64P", "megabytes"},
        {"mem=64B", "megabytes"},
        {"mem=64GG", "megabytes"},
        {"mem=64GiB", "megabytes"},
        {"mem=G", "megabytes"},
        {"mem=GB", "megabytes"},
        {"mem=+", "megabytes"},
        {"mem=1e3", "megabytes"},
        {"mem", "megabytes"},
        {"mem-per-gpu=1.5G", "megabytes"},
        {"cpus-per-task=0", "cpus-per-task=0: a whole number from 1"},
        {"cpus-per-task=4k", "whole number from 1"},
        {"cpus-per-task=+", "whole number from 1"},
        {"cpus-per-gpu=many", "whole number from 1"}};
    ks_slurm_options o = {0};
    for (size_t i = 0; i < KS_COUNT(good); i++) {
        ks_err err = {0};
        cr_expect(ks_slurm_parse(&o, good[i], "--slurm", &err) == KS_OK,
                  "%s: %s", good[i], err.text);
    }
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        ks_err err = {0};
        cr_expect(ks_slurm_parse(&o, bad[i].list, "--slurm", &err) == KS_USAGE,
                  "%s", bad[i].list);
        cr_expect(strstr(err.text, bad[i].words) != NULL, "%s: %s", bad[i].list,
                  err.text);
    }
    json_t *map = json_pack("{s:s}", "gpus", "a100:4,h100:2");
    ks_err err = {0};
    cr_expect(ks_slurm_from_json(&o, map, "x.yaml line 3", &err) == KS_USAGE);
    json_decref(map);
    ks_slurm_free(&o);
}

/* --------------------------------------------------------------- scripts */

static char *script_of(const char *list, ks_job_part part, bool device,
                       const char *scratch) {
    ks_slurm_options o = {0};
    ks_err err = {0};
    ks_str text = {0};
    cr_assert(ks_slurm_parse(&o, list, "--slurm", &err) == KS_OK, "%s",
              err.text);
    const ks_slurm_script s = {.kind = "capture",
                               .part = part,
                               .device = device,
                               .retries = 2,
                               .program = "/opt/keystep",
                               .scratch = scratch,
                               .options = &o};
    cr_assert(ks_slurm_script_text(&s, &text, &err) == KS_OK, "%s", err.text);
    ks_slurm_free(&o);
    return text.data;
}

static void assert_has(const char *text, const char *part) {
    cr_assert(strstr(text, part) != NULL, "'%s' is not in\n%s", part, text);
}

static void assert_lacks(const char *text, const char *part) {
    cr_assert(strstr(text, part) == NULL, "'%s' is in\n%s", part, text);
}

Test(slurm, array_of_shards) {
    char *s = script_of("partition=gpu,gpus=1,time=4:00:00", KS_JOB_SHARDS,
                        true, NULL);
    assert_has(s, "#!/bin/sh\n#SBATCH --output=slurm/%x.%A_%a.log\n");
    assert_has(s, "#SBATCH --open-mode=append\n#SBATCH --requeue\n"
                  "#SBATCH --signal=B:USR1@120\n");
    assert_has(s, "#SBATCH --gpus=1\n#SBATCH --partition=gpu\n"
                  "#SBATCH --time=4:00:00\n");
    assert_has(s, "run . --stage \"$stage\" --shard \"$task/$shards\" &\n");
    assert_has(s, "retries=2\n");
    assert_lacks(s, "CUDA_VISIBLE_DEVICES");
    free(s);
}

Test(slurm, one_gpu_a_rank) {
    char *s = script_of("gpus=a100:8", KS_JOB_SHARDS, true,
                        "${TMPDIR:-/tmp}/keystep");
    assert_has(s, "#SBATCH --gpus=a100:8\n");
    assert_has(s, "for i in $(seq 8); do\n");
    assert_has(s, "shard=$(((task - 1) * 8 + i))\n");
    assert_has(s, "--scratch \"${TMPDIR:-/tmp}/keystep\" &\n");
    free(s);
    /* one process takes one GPU, what does not compute takes none */
    s = script_of("gpus=a100:8", KS_JOB_STAGE, true, NULL);
    assert_has(s, "#SBATCH --gpus=a100:1\n");
    free(s);
    s = script_of("gpus=a100:8,partition=gpu,join.partition=cpu", KS_JOB_JOIN,
                  false, NULL);
    assert_lacks(s, "gpus");
    assert_has(s, "#SBATCH --partition=cpu\n");
    assert_has(s, "--join \"$shards\" &\n");
    free(s);
}

/* Every script is one for sh. */
Test(slurm, scripts_parse) {
    char folder[64], path[96], command[160], out[256];
    make_temporary(folder, "slurm");
    for (int part = KS_JOB_STAGE; part <= KS_JOB_JOIN; part++) {
        char *s = script_of("gpus=2,time=1", (ks_job_part)part, true, "/tmp");
        snprintf(path, sizeof path, "%s/%d.sh", folder, part);
        cr_assert(ks_write_file(path, s, strlen(s), true, NULL) == KS_OK);
        snprintf(command, sizeof command, "sh -n %s 2>&1", path);
        cr_assert(shell_run(command, out, sizeof out) == 0, "%s", out);
        free(s);
    }
    drop_temporary(folder);
}

Test(slurm, refused_scratch) {
    ks_slurm_options o = {0};
    ks_str text = {0};
    ks_err err = {0};
    static const char *const bad[] = {"/tmp/$(reboot)", "/tmp/a b", "`id`",
                                      "/tmp/\"; id"};
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        const ks_slurm_script s = {.kind = "capture",
                                   .program = "/opt/keystep",
                                   .scratch = bad[i],
                                   .options = &o};
        cr_assert(ks_slurm_script_text(&s, &text, &err) == KS_USAGE);
        assert_has(err.text, "expected a path of letters");
    }
    ks_str_free(&text);
}

/* ----------------------------------------------------- jobs and the queue */

Test(slurm, jobs_are_kept) {
    char folder[64], path[96];
    ks_jobs jobs = {0}, again = {0};
    ks_err err = {0};
    make_temporary(folder, "slurm");
    snprintf(path, sizeof path, "%s/slurm", folder);
    cr_assert(mkdir(path, 0777) == 0);
    cr_assert(ks_jobs_read(&jobs, folder, &err) == KS_OK && jobs.n == 0);
    for (int i = 0; i < 3; i++) {
        ks_job job = {.stage = strdup("capture-1"),
                      .part = (ks_job_part)i,
                      .shards = i ? 4 : 1,
                      .shards_a_task = 1,
                      .id = 10 + i,
                      .submitted = strdup("2026-11-30T05:00:00Z")};
        if (i == 1) {
            job.tasks = calloc(2, sizeof *job.tasks);
            job.tasks[0] = 2;
            job.tasks[1] = 4;
            job.n_tasks = 2;
        }
        cr_assert(ks_jobs_add(&jobs, &job, &err) == KS_OK);
    }
    cr_assert(ks_jobs_write(&jobs, folder, &err) == KS_OK);
    cr_assert(ks_jobs_read(&again, folder, &err) == KS_OK, "%s", err.text);
    cr_assert(eq(sz, again.n, 3));
    cr_assert(ks_jobs_last(&again, "capture-1", KS_JOB_SHARDS, 4)->id == 11);
    cr_assert(ks_jobs_last(&again, "capture-1", KS_JOB_SHARDS, 3) == NULL);
    cr_assert(ks_jobs_last(&again, "capture-1", KS_JOB_JOIN, 0)->id == 12);
    ks_jobs_free(&jobs);
    ks_jobs_free(&again);
    drop_temporary(folder);
}

Test(slurm, hostile_jobs) {
    static const char *const bad[] = {
        "",
        "[]",
        "{",
        "{\"format\":\"keystep jobs\",\"version\":1}",
        "{\"format\":\"x\",\"version\":1,\"jobs\":[]}",
        "{\"format\":\"keystep jobs\",\"version\":2,\"jobs\":[]}",
        "{\"format\":\"keystep jobs\",\"version\":1,\"jobs\":[1]}",
        ("{\"format\":\"keystep jobs\",\"version\":1,\"jobs\":["
         "{\"stage\":\"a\","
         "\"part\":\"shards\",\"job\":1,\"submitted\":\"\",\"shards\":2,"
         "\"shards_a_task\":1,\"tasks\":[2,1]}]}"),
        ("{\"format\":\"keystep jobs\",\"version\":1,\"jobs\":["
         "{\"stage\":\"a\","
         "\"part\":\"shards\",\"job\":1,\"submitted\":\"\",\"shards\":2,"
         "\"shards_a_task\":0,\"tasks\":[1]}]}"),
        ("{\"format\":\"keystep jobs\",\"version\":1,\"jobs\":["
         "{\"stage\":\"a\","
         "\"part\":\"stage\",\"job\":0,\"submitted\":\"\"}]}")};
    char folder[64], path[96];
    make_temporary(folder, "slurm");
    snprintf(path, sizeof path, "%s/slurm", folder);
    cr_assert(mkdir(path, 0777) == 0);
    snprintf(path, sizeof path, "%s/slurm/jobs.json", folder);
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        ks_jobs jobs = {0};
        ks_err err = {0};
        cr_assert(ks_write_file(path, bad[i], strlen(bad[i]), true, NULL) ==
                  KS_OK);
        cr_assert(ks_jobs_read(&jobs, folder, &err) != KS_OK, "%s", bad[i]);
        assert_has(err.text, "jobs.json");
        ks_jobs_free(&jobs);
    }
    drop_temporary(folder);
}

Test(slurm, the_queue_is_read) {
    ks_queue q = {0};
    ks_err err = {0};
    const char *text = "17|2|RUNNING|node3|None\n17|1|PENDING||Priority\n"
                       "9|N/A|PENDING||Dependency\nnoise\n||||\n-1|N/A|a|b|c\n";
    cr_assert(ks_queue_read(&q, text, &err) == KS_OK);
    cr_assert(eq(sz, q.n, 3));
    cr_assert(strcmp(ks_queue_find(&q, 17, 1)->reason, "Priority") == 0);
    cr_assert(strcmp(ks_queue_find(&q, 17, 2)->node, "node3") == 0);
    cr_assert(strcmp(ks_queue_find(&q, 9, 0)->state, "PENDING") == 0);
    cr_assert(ks_queue_find(&q, 17, 3) == NULL);
    ks_queue_free(&q);
}

Test(slurm, programs_are_run) {
    char *out = NULL;
    bool there;
    ks_err err = {0};
    char sh[] = "sh", c[] = "-c", good[] = "pwd; echo word >&2",
         bad[] = "echo because >&2; exit 3", no[] = "keystep-no-such-program";
    char *echo[] = {sh, c, good, NULL}, *fail[] = {sh, c, bad, NULL};
    char *none[] = {no, NULL};
    cr_assert(ks_slurm_run(echo, "/usr", &out, &there, &err) == KS_OK);
    cr_assert(eq(str, out, "/usr\n"));
    free(out);
    cr_assert(ks_slurm_run(fail, NULL, &out, &there, &err) == KS_IO);
    cr_assert(eq(str, err.text, "sh failed: because"));
    cr_assert(ks_slurm_run(none, NULL, &out, &there, &err) == KS_OK && !there);
    cr_assert(ks_slurm_run(none, NULL, &out, NULL, &err) == KS_IO);
}
