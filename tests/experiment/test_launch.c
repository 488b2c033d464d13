/* keystep launch through the built program: what it would submit, and what it
 * does submit to programs of Slurm's names that only take notes. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "shell.h"

static char folder[64];

static void put(const char *name, const char *text, bool program) {
    char path[160], command[200], out[8];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert(ks_write_file(path, text, strlen(text), true, NULL) == KS_OK);
    snprintf(command, sizeof command, "chmod +x %s", path);
    if (program) cr_assert(shell_run(command, out, sizeof out) == 0);
}

/* sbatch answers 1, 2, 3 ..; squeue has what stands in queue. */
static void make_all(void) {
    make_temporary(folder, "launch");
    put("chains.jsonl",
        "{\"id\":\"a/0\",\"problem\":\"a\",\"prompt\":\"x\",\"text\":\"One. "
        "Two.\",\"steps\":[{\"begin\":0,\"end\":4},{\"begin\":5,\"end\":9}]}\n"
        "{\"id\":\"b/0\",\"problem\":\"b\",\"prompt\":\"x\",\"text\":\"One. "
        "Two.\",\"steps\":[{\"begin\":0,\"end\":4},{\"begin\":5,\"end\":9}]}\n"
        "{\"id\":\"c/0\",\"problem\":\"c\",\"prompt\":\"x\",\"text\":\"One. "
        "Two.\",\"steps\":[{\"begin\":0,\"end\":4},{\"begin\":5,\"end\":9}]}\n",
        false);
    put("labels.jsonl",
        "{\"chain\":\"a/0\",\"method\":\"x\",\"labels\":[0,1]}\n"
        "{\"chain\":\"b/0\",\"method\":\"x\",\"labels\":[0,1]}\n"
        "{\"chain\":\"c/0\",\"method\":\"x\",\"labels\":[0,1]}\n",
        false);
    put("x.yaml",
        "name: x\nmodel: " KS_TEST_DATA
        "/../../experiments/demo/models/demo-a\n"
        "chains: chains.jsonl\nlabels: labels.jsonl\ncapture: {}\n"
        "probe: {}\nreport: {}\n"
        "launch:\n  ranks: 3\n  slurm: {partition: gpu, gpus: 1, "
        "report: {partition: cpu}}\n",
        false);
    put("sbatch",
        "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho \"$@\" >>submitted\n"
        "wc -l <submitted | tr -d ' '\n",
        true);
    put("squeue", "#!/bin/sh\ncat \"$(dirname \"$0\")/queue\"\n", true);
    put("scancel", "#!/bin/sh\necho \"$@\" >>\"$(dirname \"$0\")/cancelled\"\n",
        true);
    put("queue", "", false);
}

static void drop_all(void) {
    drop_temporary(folder);
}

TestSuite(launch, .init = make_all, .fini = drop_all);

static int launch(const char *options, char *out, size_t n) {
    char command[512];
    snprintf(command, sizeof command,
             "cd %s && PATH=%s:$PATH %s launch x.yaml --out run %s 2>&1",
             folder, folder, KS_PROGRAM, options);
    return shell_run(command, out, n);
}

static void has(const char *text, const char *part) {
    cr_assert(strstr(text, part) != NULL, "'%s' is not in\n%s", part, text);
}

static char *noted(const char *name) {
    char path[160], *text = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!ks_file_exists(path)) return strdup("");
    cr_assert(ks_read_file(path, SIZE_MAX, &text, NULL, NULL) == KS_OK);
    return text;
}

static int lines(const char *text) {
    int n = 0;
    for (; *text; text++) n += *text == '\n';
    return n;
}

Test(launch, print_writes_nothing) {
    char out[1 << 15], path[160];
    cr_assert(launch("--print", out, sizeof out) == 0, "%s", out);
    has(out, "==> slurm/capture.sh <==\n#!/bin/sh\n");
    has(out, "==> slurm/capture-join.sh <==\n");
    has(out, "==> submitted, in /");
    has(out, "job1=$(sbatch --parsable --job-name=capture-");
    has(out, " --array=1-3 slurm/capture.sh capture-");
    has(out, ".join --dependency=afterok:$job1 slurm/capture-join.sh capture-");
    has(out, " --dependency=afterok:$job2 slurm/probe");
    snprintf(path, sizeof path, "%s/run", folder);
    cr_assert(ks_file_exists(path) == false);
    snprintf(path, sizeof path, "%s/submitted", folder);
    cr_assert(ks_file_exists(path) == false);
}

Test(launch, print_of_what_is_done_says_so) {
    static const char capture_alone[] = "--set probe=false --set report=false ";
    char out[1 << 15], options[160];
    snprintf(options, sizeof options, "%s --local 1", capture_alone);
    cr_assert(launch(options, out, sizeof out) == 0, "%s", out);
    snprintf(options, sizeof options, "%s --print", capture_alone);
    cr_assert(launch(options, out, sizeof out) == 0, "%s", out);
    cr_assert(strcmp(out, "run: all stages are done\n") == 0, "%s", out);
}

Test(launch, options_are_set_by_kind) {
    char out[1 << 15];
    cr_assert(launch("--print --slurm gpus=a100:2,join.time=5 --ranks 3", out,
                     sizeof out) == 0,
              "%s", out);
    has(out, "#SBATCH --gpus=a100:2\n#SBATCH --partition=gpu\n");
    has(out, " --array=1-2 slurm/capture.sh capture-"); /* two GPUs a task */
    const char *report = strstr(out, "==> slurm/report.sh <==");
    cr_assert(report != NULL);
    has(report, "#SBATCH --partition=cpu\n");
}

/* GPUs that a partition is charged for and nothing computes on. */
Test(launch, idle_gpus_are_told_of) {
    char out[1 << 15];
    cr_assert(launch("--print", out, sizeof out) == 0, "%s", out);
    has(out, " asks for GPUs and leaves them idle");
    cr_assert(launch("--print --set machine.probe.backend=cuda "
                     "--set machine.capture.backend=cuda",
                     out, sizeof out) == 0,
              "%s", out);
    cr_assert(strstr(out, "idle") == NULL, "%s", out);
}

Test(launch, queued_is_not_submitted_again) {
    char out[1 << 15];
    cr_assert(launch("", out, sizeof out) == 0, "%s", out);
    has(out, "1 capture-");
    has(out, "3 shards in 3 jobs\n");
    char *notes = noted("submitted");
    int n = lines(notes);
    has(notes, "--dependency=afterok:1 slurm/capture-join.sh");
    /* all of it is in the queue; one line a task */
    ks_str queue = {0};
    const char *line = notes;
    for (int id = 1; id <= n; id++) {
        size_t end = strcspn(line, "\n");
        bool array = memmem(line, end, "--array=", 8) != NULL;
        for (int k = 1; array && k <= 3; k++)
            ks_str_printf(&queue, NULL, "%d|%d|%s\n", id, k,
                          id == 1 ? "RUNNING|node|None"
                                  : "PENDING||Dependency");
        if (!array)
            ks_str_printf(&queue, NULL, "%d|N/A|PENDING||Dependency\n", id);
        line += end + (line[end] != 0);
    }
    free(notes);
    put("queue", queue.data, false);
    ks_str_free(&queue);
    cr_assert(launch("", out, sizeof out) == 0, "%s", out);
    has(out, "job 1 is queued already");
    notes = noted("submitted");
    cr_assert(lines(notes) == n);
    free(notes);
    cr_assert(launch("--print", out, sizeof out) == 0, "%s", out);
    has(out, "run: all that is not done is queued already\n");
    cr_assert(strstr(out, "==>") == NULL, "%s", out);
    cr_assert(launch("--ranks 2", out, sizeof out) == 1);
    has(out, "is queued with 3 shards");
}

/* Task 2 has left the queue and made nothing; the others run on. What waited
 * for the array would wait for ever. */
Test(launch, what_is_missing_is_submitted_anew) {
    char out[1 << 15];
    cr_assert(launch("", out, sizeof out) == 0, "%s", out);
    char *notes = noted("submitted");
    int n = lines(notes);
    free(notes);
    put("queue",
        "1|1|RUNNING|node|None\n1|3|PENDING||Resources\n"
        "2|N/A|PENDING||DependencyNeverSatisfied\n",
        false);
    cr_assert(launch("", out, sizeof out) == 0, "%s", out);
    notes = noted("submitted");
    const char *fresh = notes;
    for (int i = 0; i < n; i++) fresh = strchr(fresh, '\n') + 1;
    char expected[80];
    has(fresh, "--array=2 slurm/capture.sh");
    snprintf(expected, sizeof expected, "--dependency=afterok:1_1:1_3:%d ",
             n + 1);
    has(fresh, expected);
    free(notes);
    char *cancelled = noted("cancelled");
    cr_assert(strcmp(cancelled, "2\n") == 0, "%s", cancelled);
    free(cancelled);
}

Test(launch, slurm_says_no) {
    char out[4096];
    put("sbatch",
        "#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n",
        true);
    cr_assert(launch("", out, sizeof out) == 1);
    has(out, "sbatch failed: sbatch: error: invalid partition");
    put("sbatch", "#!/bin/sh\necho welcome\n", true);
    cr_assert(launch("", out, sizeof out) == 1);
    has(out, "sbatch answered 'welcome\n', not a job's number");
}

Test(launch, refusals) {
    char out[4096];
    cr_assert(launch("--local 2 --slurm partition=a", out, sizeof out) == 2);
    has(out, "--local and --slurm are two places");
    cr_assert(launch("--slurm array=1", out, sizeof out) == 2);
    has(out, "launch sets --array itself");
    cr_assert(launch("--set launch.slurm.wrap=reboot", out, sizeof out) == 2,
              "%s", out);
    has(out, "launch sets --wrap itself");
    cr_assert(launch("--set 'launch.scratch=/tmp/$(id)'", out, sizeof out) ==
              2);
    has(out, "expected a path of letters");
}

/* Three processes make what one does. */
Test(launch, processes_of_this_machine) {
    char out[1 << 14], command[1024];
    cr_assert(launch("--local 3 --set probe=false --set report=false", out,
                     sizeof out) == 0,
              "%s", out);
    snprintf(command, sizeof command,
             "cd %s && %s run x.yaml --set probe=false --set report=false "
             "--out one 2>&1 && mkdir copied && cp run/stages/capture-*/"
             "acts.?-of-3.h5 copied && %s join --out copied/acts.h5 --shards 3 "
             "--copy 2>&1 && cmp copied/acts.h5 one/stages/capture-*/acts.h5",
             folder, KS_PROGRAM, KS_PROGRAM);
    cr_assert(shell_run(command, out, sizeof out) == 0, "%s", out);
    snprintf(command, sizeof command, "%s status %s/run", KS_PROGRAM, folder);
    cr_assert(shell_run(command, out, sizeof out) == 0);
    has(out, "x: 1 of 1 stages done\n");
}

/* Of the share that a process has, a command takes what it may. */
Test(launch, a_command_has_no_more_threads_than_its_own) {
    char out[1 << 14], command[256];
    cr_assert(launch("--local 2 --set machine.threads=8 --set probe=false "
                     "--set report=false --set machine.capture.threads=3",
                     out, sizeof out) == 0,
              "%s", out);
    snprintf(command, sizeof command,
             "grep -- '--threads 3 ' %s/run/stages/capture-*/log-2-of-?.txt",
             folder);
    cr_assert(shell_run(command, out, sizeof out) == 0, "%s", out);
}

/* A relative folder is one of the caller's, not of the processes'. */
Test(launch, scratch_of_this_machine_is_found) {
    char out[1 << 14], command[256];
    const char *options = "--local 3 --set probe=false --set report=false "
                          "--set launch.scratch=node";
    cr_assert(launch(options, out, sizeof out) == 1);
    has(out, "launch.scratch 'node': No such file or directory");
    snprintf(command, sizeof command, "mkdir %s/node", folder);
    cr_assert(shell_run(command, out, sizeof out) == 0);
    cr_assert(launch(options, out, sizeof out) == 0, "%s", out);
    snprintf(command, sizeof command,
             "ls %s/run/stages/capture-*/acts.3-of-3.h5 && ! ls %s/node/*",
             folder, folder);
    cr_assert(shell_run(command, out, sizeof out) == 0, "%s", out);
}

/* A job that ends while launch looks is done, though the queue has it no more.
 */
Test(launch, done_meanwhile_is_not_submitted_again) {
    char out[1 << 15];
    cr_assert(launch("--ranks 1", out, sizeof out) == 0, "%s", out);
    has(out, "1 capture-");
    put("squeue",
        "#!/bin/sh\ncd \"$(dirname \"$0\")\"\n"
        "for s in run/stages/capture-*; do\n" KS_PROGRAM
        " run run --stage ${s##*/} >said 2>&1\ndone\n",
        true);
    cr_assert(launch("--ranks 1", out, sizeof out) == 0, "%s", out);
    cr_assert(strstr(out, "capture-") == NULL, "%s", out);
    has(out, " probe-");
}

/* Of as many shards as there are chains with a step. */
Test(launch, chains_without_a_step_are_no_shards) {
    char out[1 << 14], command[1024];
    snprintf(command, sizeof command,
             "cd %s && sed -i '2s/\"steps\":.*/\"steps\":[]}/' chains.jsonl && "
             "sed -i '2s/\\[0,1\\]/[]/' labels.jsonl",
             folder);
    cr_assert(shell_run(command, out, sizeof out) == 0, "%s", out);
    cr_assert(launch("--local 3 --set probe=false --set report=false", out,
                     sizeof out) == 0,
              "%s", out);
    snprintf(command, sizeof command, "ls %s/run/stages/capture-*", folder);
    cr_assert(shell_run(command, out, sizeof out) == 0);
    has(out, "acts.2-of-2.h5");
}
