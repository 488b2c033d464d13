"""Experiments by one process beside several on the same machine: keystep run
and keystep launch --local N, the same files and the time they took. In a form
of a minute: the demo's on a third of its problems, gsm8k-planted's on 100
chains of one arm (where KS_GSM8K names GSM8K's folder)."""
import filecmp
import json
import os
import shutil
import subprocess

from harness import ROOT, figure, process, say, write

WORKERS = (2, 4)
EXPERIMENTS = os.path.join(ROOT, "experiments")
GGUF = os.path.join(ROOT, ".cache", "SmolLM2-135M-Instruct.Q4_1.gguf")
# Of each how few inputs, and what of it is left out.
FORMS = {
    "demo": (["--problems", "400"], [
        "capture.positions=[mean, before]", "capture.streams=[resid, attn]",
        "probe.1.protocol=honest", "probe.1.probes=[mean-difference, mlp]",
        "probe.1.bootstrap=200", "probe.2.streams=[attn]",
        "transfer.bootstrap=200"]),
    "gsm8k-planted": (["--gguf", GGUF, "--chains", "100"], [
        "matrix.arm.operands=false", "transfer=false", "probe.2=false",
        "capture.positions=[mean, before]",
        "probe.1.baselines=[no context]"]),
}


def make_inputs(options, scratch, name):
    """The experiment's file with inputs of its own."""
    here, folder = os.path.join(EXPERIMENTS, name), os.path.join(scratch, name)
    os.makedirs(folder)
    shutil.copy(os.path.join(here, "experiment.yaml"), folder)
    if name == "demo":
        os.symlink(os.path.join(here, "models"), os.path.join(folder, "models"))
    few = FORMS[name][0]
    if options.quick:
        few = [*few[:-1], "100"]
    subprocess.run([os.path.join(here, "get-inputs"), "--to",
                    os.path.join(folder, "inputs"), *few], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   env=os.environ | {"KEYSTEP": options.keystep})
    return os.path.join(folder, "experiment.yaml")


def outputs(run):
    """Every file that the stages of a run made, but for activations: those of
    several processes are read from their shards."""
    found = []
    stages = os.path.join(run, "stages")
    for stage in sorted(os.listdir(stages)):
        with open(os.path.join(stages, stage, "stage.json"),
                  encoding="utf-8") as file:
            made = json.load(file)["outputs"]
        found += [os.path.join("stages", stage, one["file"]) for one in made
                  if not one["file"].endswith(".h5")]
    return found


def differing(one, other):
    """Files of the runs that are not the same to the byte, or in one alone,
    and how many there are."""
    files = set(outputs(one)) | set(outputs(other))
    bad = [name for name in sorted(files)
           if not all(os.path.isfile(os.path.join(run, name))
                      for run in (one, other)) or
           not filecmp.cmp(os.path.join(one, name), os.path.join(other, name),
                           shallow=False)]
    for name in bad:
        say("differs:", name)
    return len(bad), len(files)


def one_experiment(options, scratch, experiment, rows):
    file = make_inputs(options, scratch, experiment)
    sets = [word for value in FORMS[experiment][1] for word in ("--set", value)]
    forms = {"keystep run": ["run"]}
    forms |= {f"launch --local {n}": ["launch", "--local", str(n)]
              for n in WORKERS}
    folder = {name: os.path.join(scratch, name.replace(" ", ""))
              for name in forms}
    bad, wall, cpu = ({name: [] for name in forms} for _ in range(3))
    for turn in range(options.local_rounds):
        for name in list(forms)[::-1 if turn % 2 else 1]:
            command, *more = forms[name]
            seconds, usage, _ = process([options.keystep, command, file, *more,
                                         "--out", folder[name], *sets])
            wall[name].append(seconds)
            cpu[name].append(usage.ru_utime + usage.ru_stime)
            say(experiment, name, f"{seconds:.1f} s, {cpu[name][-1]:.1f} s of "
                "processors")
        for name in forms:
            differ, files = differing(folder["keystep run"], folder[name])
            bad[name].append(differ)
            rows.append({"experiment": experiment, "who": name,
                         "round": turn + 1, "seconds": wall[name][turn],
                         "cpu_seconds": cpu[name][turn], "files": files,
                         "files_that_differ": differ})
        for name in forms:
            shutil.rmtree(folder[name])
    return figures_of(experiment, forms, wall, cpu, bad, rows[-1]["files"])


def bench_local(options, scratch):
    rows, figures = [], []
    for experiment in FORMS:
        if experiment != "demo" and not os.environ.get("KS_GSM8K"):
            say(f"no {experiment}: KS_GSM8K names no folder")
            continue
        figures += one_experiment(options, scratch, experiment, rows)
    write(options, "local", rows)
    return figures


def figures_of(experiment, forms, wall, cpu, bad, files):
    """One process takes all cores itself, by threads: as fast as it means that
    dealing an experiment out and joining it costs nothing."""
    one, *others = forms
    cores = len(os.sched_getaffinity(0))
    figures = []
    for name in others:
        what = f"{experiment}, {name}: "
        figures += [
            figure(f"{what}files of {files} that differ from one process's",
                   bad[name], 0, False),
            figure(f"{what}efficiency on {cores} cores: seconds of keystep run "
                   f"with {cores} threads / seconds",
                   [a / b for a, b in zip(wall[one], wall[name])]),
            figure(f"{what}the same in processors' seconds",
                   [a / b for a, b in zip(cpu[one], cpu[name])])]
    for name in forms:
        figures += [figure(f"{experiment}, {name} (seconds)", wall[name])]
    return figures
