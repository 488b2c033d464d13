/* keystep status on folders that were made by hand: states, words, times, and
 * files that nobody should have written. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <sys/stat.h>

#include "experiment/watch.h"
#include "shell.h"

static const char run_json[] =
    "{\"format\":\"keystep run\",\"version\":1,\"name\":\"demo\","
    "\"config\":{},\"cells\":[],\"hosts\":[],\"stages\":["
    "{\"id\":\"split-aa\",\"stage\":\"split\",\"what\":\"\",\"cells\":\"\","
    "\"inputs\":[{\"role\":\"chains\",\"path\":\"/x\"}]},"
    "{\"id\":\"capture-bb\",\"stage\":\"capture\",\"what\":\"\",\"cells\":\"\","
    "\"inputs\":[{\"role\":\"chains\",\"stage\":\"split-aa\"}]},"
    "{\"id\":\"probe-cc\",\"stage\":\"probe\",\"what\":\"\",\"cells\":\"\","
    "\"inputs\":[{\"role\":\"acts\",\"stage\":\"capture-bb\"}]}]}";

static char folder[64];

static void put(const char *name, const char *text) {
    char path[160];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert(ks_write_file(path, text, strlen(text), true, NULL) == KS_OK);
}

static void make_run(void) {
    static const char *const folders[] = {"stages", "stages/split-aa",
                                          "stages/capture-bb",
                                          "stages/probe-cc", "slurm"};
    make_temporary(folder, "watch");
    for (size_t i = 0; i < KS_COUNT(folders); i++) {
        char path[160];
        snprintf(path, sizeof path, "%s/%s", folder, folders[i]);
        cr_assert(mkdir(path, 0777) == 0);
    }
    put("run.json", run_json);
}

static void drop_run(void) {
    drop_temporary(folder);
}

TestSuite(watch, .init = make_run, .fini = drop_run);

static void is_text(const char *got, const char *expected) {
    cr_assert(got && strcmp(got, expected) == 0, "'%s', not '%s'",
              got ? got : "nothing", expected);
}

static int status(const char *options, char *out, size_t n) {
    char command[512];
    snprintf(command, sizeof command, "%s status %s %s 2>&1", KS_PROGRAM,
             folder, options);
    return shell_run(command, out, n);
}

static json_t *status_json(void) {
    char out[1 << 15];
    cr_assert(status("--json", out, sizeof out) == 0, "%s", out);
    json_t *all = json_loads(out, 0, NULL);
    cr_assert(all != NULL, "%s", out);
    return all;
}

static const char *stage_state(json_t *all, size_t i) {
    json_t *stage = json_array_get(json_object_get(all, "stages"), i);
    return json_string_value(json_object_get(stage, "state"));
}

static const char *shard_state(json_t *all, size_t i, size_t k) {
    json_t *stage = json_array_get(json_object_get(all, "stages"), i);
    json_t *shard = json_array_get(json_object_get(stage, "shards"), k);
    return json_string_value(json_object_get(shard, "state"));
}

static void put_shards(void) {
    put("stages/split-aa/stage.json",
        "{\"seconds\":12.5,\"host\":\"gpu01\",\"attempts\":1,\"shards\":[]}");
    put("stages/capture-bb/task-1-of-4.json",
        "{\"state\":\"running\",\"host\":\"gpu07\",\"pid\":5,\"attempts\":1}");
    put("stages/capture-bb/progress-1-of-4.json",
        "{\"unit\":\"chains\",\"done\":340,\"total\":1000,\"rate\":12.1,"
        "\"rate_unit\":\"tok\",\"left\":54}");
    put("stages/capture-bb/task-2-of-4.json",
        "{\"state\":\"failed\",\"host\":\"gpu08\",\"attempts\":3,"
        "\"why\":\"x.gguf: cannot open\"}");
    put("stages/capture-bb/log-2-of-4.txt", "first\nlast\n\n");
    put("stages/capture-bb/task-3-of-4.json",
        "{\"state\":\"interrupted\",\"host\":\"gpu09\",\"attempts\":1}");
    put("stages/capture-bb/log-3-of-4.txt", "first\nlast \033[2J words\n  \n");
    put("stages/capture-bb/task-4-of-4.json",
        "{\"state\":\"done\",\"host\":\"gpu09\",\"seconds\":80}");
}

Test(watch, a_table_of_stages_and_shards) {
    char out[1 << 14];
    put_shards();
    cr_assert(status("", out, sizeof out) == 0);
    static const char *const lines[] = {
        "demo: 1 of 3 stages done, 1 running, 1 waiting; at least 3:34 left\n",
        "split-aa                   done     gpu01",
        "took 0:13\n",
        "  1 of 4                   running  gpu07              340 of 1000 "
        "chains, 12 tok/s",
        "0:54 left\n",
        "  2 of 4                   failed   gpu08\n    x.gguf: cannot open  "
        "stages/capture-bb/log-2-of-4.txt (attempt 3)\n",
        "  3 of 4                   stopped  gpu09\n    last ?[2J words  ",
        "  4 of 4                   done     gpu09",
        "probe-cc                   waiting\n"};
    for (size_t i = 0; i < KS_COUNT(lines); i++)
        cr_assert(strstr(out, lines[i]) != NULL, "'%s' is not in\n%s", lines[i],
                  out);
}

Test(watch, inspect_says_the_same_states) {
    char command[512], out[1 << 15];
    put_shards();
    snprintf(command, sizeof command, "%s inspect %s --json 2>&1", KS_PROGRAM,
             folder);
    cr_assert(shell_run(command, out, sizeof out) == 0, "%s", out);
    json_t *said = json_loads(out, 0, NULL), *all = status_json();
    cr_assert(said != NULL, "%s", out);
    for (size_t i = 0; i < 3; i++)
        is_text(stage_state(said, i), stage_state(all, i));
    is_text(stage_state(said, 1), "running");
    is_text(json_string_value(json_object_get(
                json_array_get(json_object_get(said, "stages"), 1), "shards")),
            "1 of 4 done");
    json_decref(said);
    json_decref(all);
}

/* The shard that runs says 54 s, those to come take 80 s as the one that is
 * done did, and one process is there for them: 54 + 2 * (the mean of done). */
Test(watch, the_time_left) {
    ks_watch w = {0};
    ks_err err = {0};
    put_shards();
    cr_assert(ks_watch_read(&w, folder, NULL, NULL, &err) == KS_OK);
    cr_assert(epsilon_eq(dbl, w.stages[1].left, 54 + 2 * 80, 1e-9));
    cr_assert(w.at_least && isnan(w.stages[2].left));
    cr_assert(epsilon_eq(dbl, w.left, 54 + 2 * 80, 1e-9));
    ks_watch_free(&w);
}

Test(watch, states_with_a_queue) {
    static const char *const states[] = {"queued", "running", "stopped",
                                         "failed"};
    ks_watch w = {0};
    ks_jobs jobs = {0};
    ks_queue queue = {0};
    ks_err err = {0};
    int tasks[] = {1, 2, 3, 4};
    char stage[] = "capture-bb", submitted[] = "";
    ks_job job = {stage, KS_JOB_SHARDS, 4, 1, tasks, 4, 17, submitted};
    jobs = (ks_jobs){&job, 1, 1};
    /* 1 was put back into the queue; 2 runs; 3 ran and its job is gone; 4
     * failed before it wrote anything */
    put("slurm/capture-bb.4.failures", "once\n");
    put("slurm/capture-bb.17_4.log", "x.yaml: gone\n");
    put("stages/capture-bb/task-1-of-4.json",
        "{\"state\":\"running\",\"host\":\"node1\",\"pid\":5}");
    put("stages/capture-bb/task-3-of-4.json",
        "{\"state\":\"running\",\"host\":\"node3\",\"pid\":5}");
    cr_assert(ks_queue_read(&queue,
                            "17|1|PENDING||BeginTime\n17|2|RUNNING|node2|None",
                            &err) == KS_OK);
    cr_assert(ks_watch_read(&w, folder, &jobs, &queue, &err) == KS_OK);
    cr_assert(eq(int, w.stages[1].n_shards, 4));
    for (int i = 0; i < 4; i++)
        is_text(ks_watch_state_name(w.stages[1].shards[i].state), states[i]);
    is_text(w.stages[1].shards[0].reason, "BeginTime");
    is_text(w.stages[1].shards[1].host, "node2");
    is_text(w.stages[1].shards[3].said, "x.yaml: gone");
    is_text(w.stages[1].shards[3].log, "slurm/capture-bb.17_4.log");
    cr_assert(w.active);
    ks_watch_free(&w);
    ks_queue_free(&queue);
}

Test(watch, a_process_that_is_gone) {
    char host[128] = "", text[256];
    gethostname(host, sizeof host - 1);
    snprintf(text, sizeof text,
             "{\"state\":\"running\",\"host\":\"%s\",\"pid\":%d}", host,
             0x3fffffff);
    put("stages/split-aa/task-whole.json", text);
    json_t *all = status_json();
    is_text(stage_state(all, 0), "stopped");
    cr_assert(json_equal(json_object_get(all, "active"), json_false()));
    json_decref(all);
    snprintf(text, sizeof text,
             "{\"state\":\"running\",\"host\":\"%s\",\"pid\":%d}", host,
             (int)getpid());
    put("stages/split-aa/task-whole.json", text);
    all = status_json();
    is_text(stage_state(all, 0), "running");
    json_decref(all);
}

Test(watch, following_ends) {
    char out[4096];
    static const char *const stages[] = {"split-aa", "capture-bb", "probe-cc"};
    cr_assert(status("--follow", out, sizeof out) == 1); /* nobody works */
    cr_assert(
        strstr(out, "0 of 3 stages done, 3 waiting; nobody works on it") !=
        NULL);
    for (size_t i = 0; i < KS_COUNT(stages); i++) {
        char name[64];
        snprintf(name, sizeof name, "stages/%s/stage.json", stages[i]);
        put(name, "{\"seconds\":1,\"host\":\"h\",\"shards\":[]}");
    }
    cr_assert(status("--follow", out, sizeof out) == 0);
    cr_assert(strstr(out, "demo: 3 of 3 stages done\n") != NULL, "%s", out);
    cr_assert(status("--follow --json", out, sizeof out) == 0);
    cr_assert(strstr(out, "\"active\":false") != NULL, "%s", out);
}

/* --------------------------------------------------------- hostile folders */

Test(watch, run_json_of_others) {
    static const char *const bad[] = {
        "",
        "[]",
        "{\"format\":\"keystep run\"}",
        "{\"format\":\"x\",\"version\":1,\"name\":\"a\",\"stages\":[]}",
        ("{\"format\":\"keystep run\",\"version\":1,\"name\":\"a\",\"stages\":["
         "{\"id\":\"../../etc\",\"stage\":\"a\",\"what\":\"\",\"cells\":\"\","
         "\"inputs\":[]}]}"),
        ("{\"format\":\"keystep run\",\"version\":1,\"name\":\"a\",\"stages\":["
         "{\"id\":\"a\",\"stage\":\"a\",\"what\":\"\",\"cells\":\"\","
         "\"inputs\":[{\"stage\":\"a\"}]}]}"),
        ("{\"format\":\"keystep run\",\"version\":1,\"name\":\"a\",\"stages\":["
         "{\"id\":\"a\",\"stage\":\"a\",\"what\":\"\",\"cells\":\"\"}]}")};
    char out[4096];
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        put("run.json", bad[i]);
        cr_assert(status("", out, sizeof out) == 1, "%s: %s", bad[i], out);
        cr_assert(strstr(out, "run.json") != NULL, "%s", out);
    }
}

Test(watch, records_of_others) {
    static const char *const bad[] = {
        "", "nothing", "[1]", "{\"state\":7,\"host\":[],\"pid\":\"x\"}",
        ("{\"state\":\"\\u0000\",\"host\":\"\\u001b[2J\",\"attempts\":1e300,"
         "\"seconds\":-5}")};
    char out[1 << 14], path[160];
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        put("stages/split-aa/task-whole.json", bad[i]);
        put("stages/split-aa/progress-whole.json", bad[i]);
        put("stages/capture-bb/task-1-of-2.json", bad[i]);
        put("stages/capture-bb/task-9-of-2.json", bad[i]);
        put("stages/capture-bb/task-1-of-99999999.json", bad[i]);
        put("slurm/jobs.json", i ? "{\"format\":\"keystep jobs\",\"version\":1,"
                                   "\"jobs\":[]}"
                                 : "{\"format\":\"keystep jobs\",\"version\":1,"
                                   "\"jobs\":[]}\n");
        cr_assert(status("", out, sizeof out) == 0, "%s", out);
        cr_assert(strchr(out, '\033') == NULL);
        json_decref(status_json());
    }
    /* a pipe must not keep it waiting */
    snprintf(path, sizeof path, "%s/stages/probe-cc/task-whole.json", folder);
    cr_assert(mkfifo(path, 0666) == 0);
    cr_assert(status("", out, sizeof out) == 0);
}

Test(watch, shards_are_counted_by_the_youngest) {
    put("stages/capture-bb/task-2-of-3.json",
        "{\"state\":\"done\",\"host\":\"h\"}");
    json_t *all = status_json();
    is_text(shard_state(all, 1, 0), "waiting");
    is_text(shard_state(all, 1, 1), "done");
    cr_assert(shard_state(all, 1, 3) == NULL);
    json_decref(all);
}
