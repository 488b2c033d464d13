/* slurm_script.c - the scripts that are submitted. See slurm.h. */
#include "slurm_state.h"

#include <stdlib.h>
#include <string.h>

ks_status ks_slurm_script_name(const ks_slurm_script *script, char **name,
                               ks_err *err) {
    const char *end = script->part == KS_JOB_JOIN ? "-join" : "";
    if (asprintf(name, "%s%s.sh", script->kind, end) < 0)
        return ks_fail(err, KS_NOMEM, "out of memory for a script's name");
    return KS_OK;
}

/* ------------------------------------------------------------------ options */

/* "a100:8" to "a100:1": a process that is not cut into shards takes one. */
static ks_status add_gpus(const ks_slurm_script *script, ks_str *text,
                          ks_err *err) {
    const ks_slurm_option *gpus = ks__slurm_option(script, "gpus");
    if (!gpus) return KS_OK;
    const char *colon = strrchr(gpus->value, ':');
    int type = colon ? (int)(colon + 1 - gpus->value) : 0;
    return ks_str_printf(text, err, "#SBATCH --gpus=%.*s%d\n", type,
                         gpus->value, ks_slurm_gpus(script));
}

/* Every option once, in the order in which they were given. */
static ks_status add_options(const ks_slurm_script *script, ks_str *text,
                             ks_err *err) {
    ks_status st = KS_OK;
    const ks_slurm_options *all = script->options;
    for (size_t i = 0; i < all->n; i++) {
        const char *name = all->at[i].name;
        bool seen = strcmp(name, "gpus") == 0;
        for (size_t k = 0; k < i && !seen; k++)
            seen = strcmp(all->at[k].name, name) == 0;
        const ks_slurm_option *option =
            seen ? NULL : ks__slurm_option(script, name);
        if (!option) continue;
        KS_TRY(ks_str_printf(text, err, "#SBATCH --%s%s%s\n", name,
                             option->value ? "=" : "",
                             option->value ? option->value : ""));
    }
done:
    return st;
}

static ks_status add_head(const ks_slurm_script *script, ks_str *text,
                          ks_err *err) {
    ks_status st = KS_OK;
    bool array = script->part == KS_JOB_SHARDS;
    KS_TRY(ks_str_printf(text, err,
                         "#!/bin/sh\n"
                         "#SBATCH --output=slurm/%%x.%s.log\n"
                         "#SBATCH --open-mode=append\n"
                         "#SBATCH --requeue\n"
                         "#SBATCH --signal=B:USR1@120\n"
                         "#SBATCH --kill-on-invalid-dep=yes\n"
                         "#SBATCH --nodes=1\n"
                         "#SBATCH --ntasks=1\n",
                         array ? "%A_%a" : "%j"));
    KS_TRY(add_gpus(script, text, err));
    KS_TRY(add_options(script, text, err));
done:
    return st;
}

/* ------------------------------------------------------------------- words */

static ks_status add_words(const ks_slurm_script *script, ks_str *text,
                           ks_err *err) {
    ks_status st = KS_OK;
    int each = ks_slurm_shards_a_task(script);
    char *name = NULL;
    KS_TRY(ks_slurm_script_name(script, &name, err));
    KS_TRY(ks_str_printf(text, err, "\n# keystep %s, ", script->kind));
    if (script->part == KS_JOB_STAGE)
        KS_TRY(ks_str_printf(text, err, "the whole of a stage."));
    else if (script->part == KS_JOB_JOIN)
        KS_TRY(ks_str_printf(text, err, "one out of its shards."));
    else if (each == 1)
        KS_TRY(ks_str_printf(text, err, "a shard a task."));
    else
        KS_TRY(ks_str_printf(text, err, "%d shards a task, a GPU each.", each));
    KS_TRY(ks_str_printf(text, err,
                         "\n# 'keystep launch' wrote this, and submits it in "
                         "the run folder; by hand:\n"));
    const char *shards = script->part == KS_JOB_STAGE ? "" : " SHARDS";
    const char *array = script->part != KS_JOB_SHARDS ? ""
                        : each == 1                   ? " --array=1-SHARDS"
                                                      : " --array=1-TASKS";
    KS_TRY(ks_str_printf(text, err,
                         "#   sbatch%s --job-name=STAGE%s slurm/%s STAGE%s\n"
                         "# STAGE is the name of a folder in stages/.\n",
                         array, script->part == KS_JOB_JOIN ? ".join" : "",
                         name, shards));
done:
    free(name);
    return st;
}

/* -------------------------------------------------------------------- body */

static const char stopping[] =
    "# Slurm sends USR1 two minutes before the time is up. What runs then "
    "keeps\n"
    "# what it has, and goes on from there when the job starts again. TERM "
    "comes\n"
    "# with a cancellation, to all processes of the job: they end first.\n"
    "pids=\n"
    "stopped=\n"
    "trap 'signalled=yes stopped=yes; kill -USR1 $pids' USR1\n"
    "trap 'signalled=yes' TERM\n"
    "\n"
    "await() { # PID: its exit code, whatever signals come meanwhile\n"
    "    signalled=yes\n"
    "    while [ \"$signalled\" ]; do\n"
    "        signalled=\n"
    "        wait \"$1\"\n"
    "        ended=$?\n"
    "    done\n"
    "    [ $ended = 0 ] || code=$ended\n"
    "}\n"
    "\n";

static ks_status add_variables(const ks_slurm_script *script, ks_str *text,
                               ks_err *err) {
    ks_status st = KS_OK;
    bool array = script->part == KS_JOB_SHARDS;
    KS_TRY(ks_str_printf(text, err, "\nkeystep='%s'\nstage=$1\n",
                         script->program));
    if (script->part != KS_JOB_STAGE)
        KS_TRY(ks_str_printf(text, err, "shards=$2\n"));
    if (array)
        KS_TRY(
            ks_str_printf(text, err,
                          "task=$SLURM_ARRAY_TASK_ID\n"
                          "job=${SLURM_ARRAY_JOB_ID}_$task\n"
                          "failures=slurm/$SLURM_JOB_NAME.$task.failures\n"));
    else
        KS_TRY(ks_str_printf(text, err,
                             "job=$SLURM_JOB_ID\n"
                             "failures=slurm/$SLURM_JOB_NAME.failures\n"));
    KS_TRY(ks_str_printf(text, err, "retries=%d\n\n", script->retries));
done:
    return st;
}

static ks_status add_command(const ks_slurm_script *script, ks_str *text,
                             ks_err *err) {
    ks_status st = KS_OK;
    int each = ks_slurm_shards_a_task(script);
    bool many = script->part == KS_JOB_SHARDS && each > 1;
    static const char *const what[] = {"", " --shard \"$task/$shards\"",
                                       " --join \"$shards\""};
    if (many)
        KS_TRY(ks_str_printf(
            text, err,
            "export OMP_NUM_THREADS=$((($(nproc) + %d) / %d)) # they share it\n"
            "devices=${CUDA_VISIBLE_DEVICES:-$(seq -s , 0 %d)}\n"
            "for i in $(seq %d); do\n"
            "    shard=$(((task - 1) * %d + i))\n"
            "    [ $shard -le \"$shards\" ] || break\n"
            "    CUDA_VISIBLE_DEVICES=$(echo \"$devices\" | cut "
            "-d , -f $i) \\\n"
            "        ",
            each - 1, each, each - 1, each, each));
    KS_TRY(ks_str_printf(text, err, "\"$keystep\" run . --stage \"$stage\"%s",
                         many ? " --shard \"$shard/$shards\""
                              : what[script->part]));
    if (script->scratch)
        KS_TRY(ks_str_printf(text, err, " \\\n%s        --scratch \"%s\"",
                             many ? "    " : "", script->scratch));
    KS_TRY(ks_str_printf(text, err, " &\n%spids=\"$pids $!\"\n%s",
                         many ? "    " : "", many ? "done\n" : ""));
done:
    return st;
}

static const char ending[] =
    "code=0\n"
    "for pid in $pids; do await \"$pid\"; done\n"
    "\n"
    "if [ $code = 0 ]; then\n"
    "    rm -f \"$failures\"\n"
    "elif [ \"$stopped\" ]; then\n"
    "    scontrol requeue \"$job\" && exit 0\n"
    "elif [ $code != 130 ]; then # a failure: another node may do better\n"
    "    echo \"$(date -u +%FT%TZ) $SLURMD_NODENAME exit code $code\" "
    ">>\"$failures\"\n"
    "    if [ \"$(wc -l <\"$failures\")\" -le $retries ]; then\n"
    "        scontrol requeue \"$job\" && exit 0\n"
    "    fi\n"
    "fi\n"
    "exit $code\n";

/* Variables of the node's environment may stand in it, no other shell. */
static ks_status check_scratch(const char *scratch, ks_err *err) {
    for (const char *at = scratch; at && *at; at++) {
        bool word = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') ||
                    (*at >= '0' && *at <= '9');
        if (!word && !strchr("/._:-${}", *at))
            return ks_fail(err, KS_USAGE,
                           "scratch '%s': expected a path of letters, digits, "
                           "/ . _ - and variables such as ${TMPDIR:-/tmp}",
                           scratch);
    }
    return KS_OK;
}

ks_status ks_slurm_script_text(const ks_slurm_script *script, ks_str *text,
                               ks_err *err) {
    ks_status st = KS_OK;
    KS_TRY(check_scratch(script->scratch, err));
    KS_CHECK(!strpbrk(script->program, "'\n"), KS_USAGE,
             "%s: a path without quotes and newlines is expected for a script",
             script->program);
    KS_TRY(add_head(script, text, err));
    KS_TRY(add_words(script, text, err));
    KS_TRY(add_variables(script, text, err));
    KS_TRY(ks_str_printf(text, err, "%s", stopping));
    KS_TRY(add_command(script, text, err));
    KS_TRY(ks_str_printf(text, err, "%s", ending));
done:
    return st;
}
