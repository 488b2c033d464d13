"""An experiment by one process beside several on the same machine: keystep run
and keystep launch --local N, the same files and the time they took."""
import filecmp
import json
import os
import shutil
import subprocess

from harness import ROOT, figure, process, say, write

WORKERS = (2, 4)
DEMO = os.path.join(ROOT, "experiments", "demo")
# A minute of it, to try the bench.
QUICK = ("capture.positions=[mean, before]", "capture.streams=[resid, attn]",
         "probe.1.protocol=honest", "probe.1.probes=[mean-difference, mlp]",
         "probe.1.bootstrap=200", "probe.2.streams=[attn]",
         "transfer.bootstrap=200")


def make_inputs(options, scratch):
    """The demo's experiment with chains and labels of its own."""
    folder = os.path.join(scratch, "demo")
    os.makedirs(folder)
    shutil.copy(os.path.join(DEMO, "experiment.yaml"), folder)
    os.symlink(os.path.join(DEMO, "models"), os.path.join(folder, "models"))
    few = ["--problems", "150"] if options.quick else []
    subprocess.run([os.path.join(DEMO, "get-inputs"), "--to",
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


def bench_local(options, scratch):
    experiment = make_inputs(options, scratch)
    sets = [word for value in (QUICK if options.quick else ())
            for word in ("--set", value)]
    forms = {"keystep run": ["run"]}
    forms |= {f"launch --local {n}": ["launch", "--local", str(n)]
              for n in WORKERS}
    rows, bad = [], {name: [] for name in forms}
    wall, cpu = ({name: [] for name in forms} for _ in range(2))
    for turn in range(options.local_rounds):
        names = list(forms) if turn % 2 == 0 else list(forms)[::-1]
        for name in names:
            out = os.path.join(scratch, name.replace(" ", ""))
            command, *more = forms[name]
            seconds, usage, _ = process([options.keystep, command, experiment,
                                         *more, "--out", out, *sets])
            wall[name].append(seconds)
            cpu[name].append(usage.ru_utime + usage.ru_stime)
            say(name, f"{seconds:.1f} s, {cpu[name][-1]:.1f} s of processors")
        for name in forms:
            one, other = (os.path.join(scratch, which.replace(" ", ""))
                          for which in ("keystep run", name))
            differ, files = differing(one, other)
            bad[name].append(differ)
            rows.append({"who": name, "round": turn + 1,
                         "seconds": wall[name][turn],
                         "cpu_seconds": cpu[name][turn], "files": files,
                         "files_that_differ": differ})
        for name in forms:
            shutil.rmtree(os.path.join(scratch, name.replace(" ", "")))
    write(options, "local", rows)
    return figures_of(forms, wall, cpu, bad, rows[0]["files"])


def figures_of(forms, wall, cpu, bad, files):
    """One process takes all cores itself, by threads: as fast as it means that
    dealing an experiment out and joining it costs nothing."""
    one, *others = forms
    cores = len(os.sched_getaffinity(0))
    figures = []
    for name in others:
        figures += [
            figure(f"{name}: files of {files} that differ from one process's",
                   bad[name], 0, False),
            figure(f"keystep run with {cores} threads / {name} on the same "
                   f"{cores} cores (seconds)",
                   [a / b for a, b in zip(wall[one], wall[name])]),
            figure(f"keystep run with {cores} threads / {name} (processors' "
                   "seconds)", [a / b for a, b in zip(cpu[one], cpu[name])])]
    for name in forms:
        figures += [figure(f"{name} (seconds)", wall[name]),
                    figure(f"{name} (processors' seconds)", cpu[name])]
    return figures
