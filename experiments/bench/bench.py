#!/usr/bin/env python3
"""Runs ours and theirs in turn on the same inputs and writes CSV with ratios.

Usage: bench.py capture --f32 DIR --chains FILE [--runs N] --out FILE.csv
       bench.py writer --dir DIR [--runs N] --out FILE.csv
Peers run under the same python. Every row is one process: seconds are wall
clock (for peers without their start and model loading, for ours with it),
peak_mib the largest resident set.
"""
import argparse
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
KEYSTEP = os.path.join(ROOT, "build", "release", "keystep")


def run(command):
    """Wall seconds, peak MiB and standard output of one process."""
    with tempfile.TemporaryFile("w+") as out, \
            tempfile.TemporaryFile("w+") as words:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=words)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        words.seek(0)
        if child.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\n{words.read()[-3000:]}")
        return seconds, usage.ru_maxrss / 1024, out.read()


def peer(script, *arguments):
    command = [sys.executable, os.path.join(HERE, script), *arguments]
    _, peak, out = run(command)
    said = json.loads(out.strip().splitlines()[-1])
    return said["tokens"], said["seconds"], peak


def ours(model, chains, folder, *more):
    out = os.path.join(folder, "acts.h5")
    seconds, peak, _ = run([KEYSTEP, "capture", "--model", model, "--chains",
                            chains, "--out", out, "--force", "--quiet",
                            "--positions", "mean,first,middle,last,before",
                            *more])
    os.remove(out)
    return None, seconds, peak


def spread(values):
    return (f"{statistics.median(values):.3f} "
            f"({min(values):.3f}-{max(values):.3f})")


def write(path, rows, header):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path + ".part", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    os.replace(path + ".part", path)


def bench_capture(options):
    gguf = os.path.join(options.f32, "model-f32.gguf")
    folder = os.path.join(options.f32, "hf")
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        h5 = os.path.join(scratch, "peer.h5")
        forms = {
            "keystep": lambda: ours(gguf, options.chains, scratch),
            "transformers best": lambda: peer(
                "peer_transformers.py", "--form", "best", folder,
                options.chains, h5),
            "transformers published": lambda: peer(
                "peer_transformers.py", "--form", "published", folder,
                options.chains, h5),
            "llama.cpp prompt": lambda: peer(
                "peer_llama.py", gguf, options.chains),
        }
        rows, rates, tokens = [], {name: [] for name in forms}, None
        for turn in range(options.runs):
            for name in reversed(forms):  # peers first: they count tokens
                n, seconds, peak = forms[name]()
                tokens = n or tokens
                rates[name].append(tokens / seconds)
                rows.append(["capture", name, turn, tokens, f"{seconds:.3f}",
                             f"{tokens / seconds:.1f}", f"{peak:.0f}", ""])
                print(*rows[-1], flush=True)
        for name in forms:
            if name != "keystep":
                pairs = [a / b for a, b in zip(rates["keystep"], rates[name])]
                rows.append(["capture", f"keystep / {name}", "", "", "", "",
                             "", spread(pairs)])
                print(*rows[-1], flush=True)
    write(options.out, rows, ["bench", "who", "run", "tokens", "seconds",
                              "tokens_per_s", "peak_mib",
                              "ratio_median_min_max"])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["capture"])
    parser.add_argument("--f32")
    parser.add_argument("--chains")
    parser.add_argument("--scratch", default=None)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    bench_capture(options)


if __name__ == "__main__":
    main()
