"""What the benches share: processes and what they print, figures beside
their goals, CSV."""
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


# ------------------------------------------------------------------ processes

def process(command, done=0):
    """Wall seconds, what it took with the processes that it waited for, and
    standard output of one process, whose exit code is done."""
    with tempfile.TemporaryFile("w+") as out, \
            tempfile.TemporaryFile("w+") as words:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=words)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        words.seek(0)
        if child.returncode != done:
            raise SystemExit(f"{' '.join(command)}\n{words.read()[-3000:]}")
        return seconds, usage, out.read()


def run(command, done=0):
    """Wall seconds, peak MiB and standard output of such a process."""
    seconds, usage, out = process(command, done)
    return seconds, usage.ru_maxrss / 1024, out


def peer(script, *arguments):
    """The peer's one line of JSON, with its peak memory."""
    _, peak, out = run([sys.executable, os.path.join(HERE, script),
                        *map(str, arguments)])
    said = json.loads(out.strip().splitlines()[-1])
    said["peak_mib"] = peak
    return said


def table(options, *arguments):
    """Rows of `keystep bench ...`."""
    _, _, out = run([options.keystep, "bench", *map(str, arguments), "--json",
                     "--quiet"])
    return json.loads(out)


def say(*words):
    print(*words, file=sys.stderr, flush=True)


# --------------------------------------------------------------------- results

def machine():
    """What .ci/machine says, a name a line."""
    said = subprocess.run([os.path.join(ROOT, ".ci", "machine")], cwd=ROOT,
                          check=True, capture_output=True, text=True).stdout
    lines = dict(line.split(" ", 1) for line in said.splitlines())
    return {"commit": lines["commit"],
            "machine": f"{lines['processor']}, {lines['memory']}"}


def write(options, name, rows):
    """Rows of any keys as CSV, written aside and renamed."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    keys += [key for key in options.machine if key not in keys]
    os.makedirs(options.out, exist_ok=True)
    path = os.path.join(options.out, name + ".csv")
    with open(path + ".part", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v
                             for k, v in (row | options.machine).items()})
    os.replace(path + ".part", path)
    say("wrote", path)


def figure(what, values, goal=None, at_least=True, interval=None):
    """Median and range of the rounds, or a value with its 95% interval, and
    whether the goal is met: by the value, or where an interval is what the
    goal speaks of, by its upper end."""
    if interval:
        value, low, high, n = interval
        kind = "95% interval"
    else:
        value, low, high = statistics.median(values), min(values), max(values)
        n, kind = len(values), "range"
    row = {"figure": what, "value": value, "low": low, "high": high,
           "spread": kind, "n": n, "goal": "", "met": ""}
    if goal is not None:
        row["goal"] = f"{'>=' if at_least else '<='} {goal:g}"
        judged = high if interval and not at_least and high else value
        row["met"] = ("yes" if (judged >= goal if at_least
                                else judged <= goal) else "no")
    say(f"{what}: {value:.4g}", row["goal"], row["met"])
    return row


def ratios(rates, name, other):
    return [a / b for a, b in zip(rates[name], rates[other])]
