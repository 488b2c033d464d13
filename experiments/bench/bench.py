#!/usr/bin/env python3
"""Runs ours and theirs in turn on the same inputs; CSV with ratios.

Usage: bench.py BENCH|all|report [OPTION...]
capture  keystep beside transformers and llama.cpp, and the parts of a capture
probe    the grid of probes beside scikit-learn and the published loop
wide     the grid at 28 x 20,000 x 1,536 beside a sample of scikit-learn's
stream   a layer three times --memory beside the disk and the rate in memory
adamw    the published loop of all layers and seeds beside torch
io       the activation writer beside dd
gemm     the product on stored weights beside the BLAS's
influence  a chain's influence matrix beside torch's autograd
sufficiency  K samples behind every prefix of a chain: transformers, llama.cpp
generation   many problems at once, keystep beside llama.cpp
memory       what label and generate take of what --memory allows
local        experiments by one process and by several on this machine
report   README.md from the figures that lie in the folder
Peers run under the same python. OUT/<bench>*.csv hold every run, and
OUT/<bench>-figures.csv what follows from them beside the goals; every row
names commit and machine.
"""
import argparse
import contextlib
import csv
import glob
import json
import math
import os
import tempfile
from importlib import metadata

from adamw import bench_adamw
from harness import ROOT, figure, machine, peer, ratios, run, say, table, write
from influence import bench_influence
from local import bench_local
from probing import bench_stream, bench_wide
from sampling import bench_generation, bench_memory, bench_sufficiency

FIVE = "mean,first,middle,last,before"
PEERS = ("torch", "transformers", "llama-cpp-python", "scikit-learn", "numpy")


# --------------------------------------------------------------------- capture

def some_chains(path, count, target):
    """So many chains, evenly from the whole file."""
    with open(path, encoding="utf-8") as file:
        lines = file.readlines()
    count = min(count, len(lines))
    with open(target, "w", encoding="utf-8") as file:
        file.writelines(lines[i * len(lines) // count] for i in range(count))


def capture_forms(options, scratch, chains):
    """Each form: a call that returns tokens, seconds from tokenising to the
    last sync (llama.cpp: of evaluating alone) and peak MiB; keystep's also
    the seconds of the whole process, start and model included."""
    gguf = os.path.join(options.f32, "model-f32.gguf")
    folder = os.path.join(options.f32, "hf")
    h5 = os.path.join(scratch, "peer.h5")
    best = peer("peer_transformers.py", "--tune", folder, chains, h5)
    pack = peer("peer_llama.py", "--tune", gguf, chains)
    say("transformers' best form:", best["tried"], "llama.cpp's:",
        pack["tried"])

    def keystep():
        out = os.path.join(scratch, "acts.h5")
        whole, peak, said = run([options.keystep, "capture", "--model", gguf,
                                 "--chains", chains, "--out", out, "--quiet",
                                 "--positions", FIVE, "--dtype", "f32",
                                 "--json"])
        os.remove(out)
        said = json.loads(said)
        return {"tokens": said["tokens"], "shared": said["shared_tokens"],
                "seconds": said["plan_seconds"] + said["seconds"],
                "process_seconds": whole, "peak_mib": peak}

    return {
        "llama.cpp prompt": lambda: peer("peer_llama.py", "--pack",
                                         pack["pack"], gguf, chains),
        "transformers published": lambda: peer(
            "peer_transformers.py", "--form", "published", folder, chains,
            h5),
        "transformers best": lambda: peer(
            "peer_transformers.py", "--form", "best", "--batch-tokens",
            best["batch_tokens"], folder, chains, h5),
        "keystep": keystep,
    }


COMPUTED = "keystep, only tokens that it computed"


def capture_rounds(options, scratch, chains):
    rows, rates, peaks, whole, tokens = [], {}, {}, [], 0
    forms = capture_forms(options, scratch, chains)
    for turn in range(options.rounds):
        names = list(forms)
        if turn % 2:
            names.reverse()
        for name in names:
            got = forms[name]()
            # tokenizers that were converted cut a word in ten thousand
            # otherwise; each form's rate is of its own tokens
            if tokens and abs(got["tokens"] - tokens) > tokens / 1000:
                raise SystemExit(f"{name}: {got['tokens']} tokens, others "
                                 f"{tokens}")
            tokens = got["tokens"]
            rate = got["tokens"] / got["seconds"]
            if "process_seconds" in got:
                whole.append(got["tokens"] / got["process_seconds"])
            rates.setdefault(name, []).append(rate)
            if "shared" in got:  # computed once for several chains
                rates.setdefault(COMPUTED, []).append(
                    (got["tokens"] - got["shared"]) / got["seconds"])
            peaks.setdefault(name, []).append(got["peak_mib"])
            rows.append({"who": name, "round": turn + 1,
                         "tokens": got["tokens"],
                         "seconds": got["seconds"], "tokens_per_s": rate,
                         "process_seconds": got.get("process_seconds", ""),
                         "shared_tokens": got.get("shared", ""),
                         "peak_mib": got["peak_mib"]})
            say(name, f"{rate:.1f} tokens/s", f"{got['peak_mib']:.0f} MiB")
    return rows, rates, peaks, whole


def over(parts, what):
    """Mean and interval of what a kind takes over the forward, in percent."""
    row = next(r for r in parts if r["what"] == what and r["pair"] == "all")
    return tuple(100 * row[key] if row[key] is not None else math.nan
                 for key in ("over_forward", "over_forward_low",
                             "over_forward_high"))


def bench_capture(options, scratch):
    chains = os.path.join(scratch, "chains.jsonl")
    few = os.path.join(scratch, "few.jsonl")
    some_chains(options.chains, options.n_chains, chains)
    some_chains(options.chains, options.n_parts, few)
    rows, rates, peaks, whole = capture_rounds(options, scratch, chains)
    write(options, "capture", rows)
    parts = table(options, "capture", "--model",
                  os.path.join(options.f32, "model-f32.gguf"), "--chains",
                  few, "--dir", scratch, "--pairs", options.pairs)
    write(options, "capture-parts", parts)
    median = {r["what"]: r for r in parts if r["pair"] == "all"}
    shares = [r["products_share"] for r in parts
              if r["what"] == "pooled" and r["pair"] != "all"]
    products = median["products"]["tokens_per_s"]
    half = [a / b for a, b in zip(peaks["keystep"],
                                  peaks["transformers best"])]
    figures = [
        figure("capture, from tokenising to fsync: share of the rate that "
               "its products alone allow",
               [r / products for r in rates["keystep"]], 0.85),
        figure("capture, the process with start and opening of the model: "
               "the same share", [r / products for r in whole]),
        figure("capture in one process with the products, in turn: the same "
               "share", shares, 0.85),
        figure("capture / transformers, best form (tokens/s)",
               ratios(rates, "keystep", "transformers best"), 1.3),
        figure("capture / transformers, published form (tokens/s)",
               ratios(rates, "keystep", "transformers published"), 2),
        figure("capture / llama.cpp prompt (tokens/s)",
               ratios(rates, "keystep", "llama.cpp prompt"), 1.5),
        figure("only tokens that capture computed / transformers, best form",
               ratios(rates, COMPUTED, "transformers best")),
        figure("only tokens that capture computed / llama.cpp prompt",
               ratios(rates, COMPUTED, "llama.cpp prompt")),
        figure("peak memory / transformers' best form", half, 0.5, False),
        figure("capture adds to the forward, resid at five positions (%)",
               None, 3, False, (*over(parts, "pooled"), options.pairs)),
        figure("capture adds to the forward, all streams and tokens (%)",
               None, 10, False, (*over(parts, "all"), options.pairs)),
    ]
    for name in rates:
        figures.append(figure(f"{name} (tokens/s)", rates[name]))
        if name in peaks:
            figures.append(figure(f"{name} (peak MiB)", peaks[name]))
    return figures


# ----------------------------------------------------------------------- probe

def probe_data(options, scratch):
    """The activations: those named, or synthetic ones."""
    if options.acts:
        return options.acts
    data = os.path.join(scratch, "probe.h5")
    table(options, "probe", "--out-data", data, "--pairs", 1, "--rows",
          options.rows, "--data-layers", options.data_layers, "--positions",
          FIVE, "--alone")
    return data


def check_same(options, data, theirs):
    """Both sides must have solved the same problems."""
    ours = table(options, "probe", "--acts", data, "--pairs", 1, "--rows",
                 options.rows, "--layers",
                 ",".join(map(str, theirs["layers"])))[-1]
    apart = abs(ours["accuracy"] - theirs["accuracy"])
    if apart > 1e-3 or theirs["gradient"] > 1e-6:
        raise SystemExit(f"keystep's accuracy {ours['accuracy']}, "
                         f"scikit-learn's {theirs['accuracy']} at a gradient "
                         f"of {theirs['gradient']}")
    return apart


def probe_round(options, data, chosen, turn, rows):
    """One turn of all; rows are added to. Seconds by who."""
    mine = table(options, "probe", "--acts", data, "--pairs",
                 options.probe_pairs, "--rows", options.rows, "--positions",
                 FIVE)
    theirs = peer("peer_sklearn.py", data, "--solver", chosen["solver"],
                  "--tol", chosen["tol"], "--layers", options.peer_layers,
                  "--rows", options.rows)
    loop = peer("peer_adamw.py", data, "--layer", theirs["all_layers"] // 2,
                "--rows", options.rows)
    layers = theirs["all_layers"] * mine[-1]["positions"]
    done = len(theirs["layers"])
    whole = theirs["seconds"] * layers / done
    for who, seconds, of, note in (
            ("keystep", mine[-1]["seconds"], layers, "whole grid"),
            ("scikit-learn", theirs["seconds"], done, theirs["solver"]),
            ("scikit-learn", whole, layers,
             "whole grid" if done == layers else
             f"extrapolated linearly from {done} layers"),
            ("published loop", loop["seconds"], 1, "a layer and seed")):
        rows.append({"who": who, "round": turn + 1, "layers": of,
                     "seconds": seconds, "note": note})
        say(who, f"{seconds:.2f} s", note)
    return mine, theirs, whole, loop["seconds"], layers


def bench_probe(options, scratch):
    data = probe_data(options, scratch)
    chosen = peer("peer_sklearn.py", data, "--rows", options.rows)
    say("scikit-learn's solvers:", chosen["tried"])
    rows, parts, times, apart = [], [], {"k": [], "s": [], "a": []}, 0.0
    for name, tried in chosen["tried"].items():
        rows.append({"who": "scikit-learn", "layers": 1, "note":
                     f"choice: {name}, one layer and fold, gradient "
                     f"{tried['gradient']:.1e}", "seconds": tried["seconds"]})
    for turn in range(options.rounds):
        mine, theirs, whole, loop, layers = probe_round(options, data, chosen,
                                                        turn, rows)
        if turn == 0:
            apart = check_same(options, data, theirs)
        parts += [{"round": turn + 1} | row for row in mine]
        times["k"].append(mine[-1]["seconds"])
        times["s"].append(whole)
        times["a"].append(loop)
    write(options, "probe", rows)
    write(options, "probe-parts", parts)
    pairs = [row["over_bare"] for row in parts if row["pair"] != "all"]
    positions = parts[0]["positions"]
    grid = f"{layers // positions} layers x {positions} positions x 8 " \
           f"strengths x 5 folds, {parts[0]['rows']} x {parts[0]['width']}"
    return [
        figure(f"scikit-learn ({chosen['solver']}) / keystep, {grid} "
               "(seconds)", [s / k for s, k in zip(times["s"], times["k"])],
               20),
        figure("reads of a layer, the most", [row["reads"] for row in parts],
               30, False),
        figure("probe time / bare Gram matrices, factorisations and passes",
               pairs, 1.5, False),
        figure("unconverged fits", [row["unconverged"] for row in parts], 0,
               False),
        figure("published loop, a layer and seed / keystep, a layer's whole "
               "grid (seconds)", [a * layers / k for a, k in
                                  zip(times["a"], times["k"])]),
        figure("accuracy apart from scikit-learn's", [apart], 1e-3, False),
        figure("keystep, whole grid (seconds)", times["k"]),
        figure("scikit-learn, whole grid, extrapolated (seconds)",
               times["s"]),
        figure("published loop, a layer and seed (seconds)", times["a"]),
    ]


# ------------------------------------------------------------------- io, gemm

def bench_io(options, scratch):
    rows = table(options, "io", "--dir", scratch, "--pairs", options.pairs,
                 "--size", options.mib)
    write(options, "io", rows)
    last = rows[-1]
    low, high = last["ratio_low"], last["ratio_high"]
    return [
        figure("writer / dd with fdatasync (MB/s)", None, 0.9, True,
               (last["ratio"], low, high, options.pairs)),
        figure("keystep's writer (MB/s)", [last["keystep_mb_s"]]),
        figure("dd (MB/s)", [last["dd_mb_s"]]),
    ]


def bench_gemm(options, _scratch):
    rows = table(options, "gemm", "--pairs", options.pairs)
    write(options, "gemm", rows)
    rows = [row for row in rows if row["pair"] == "all"]
    return [figure(f"product on {kind} weights / sgemm on f32, rows >= 512, "
                   "shapes of SmolLM2-135M",
                   [row["ratio"] for row in rows
                    if row["type"] == kind and row["m"] >= 512])
            for kind in dict.fromkeys(row["type"] for row in rows)]


BENCHES = {"gemm": bench_gemm, "io": bench_io, "capture": bench_capture,
           "probe": bench_probe, "adamw": bench_adamw,
           "influence": bench_influence, "sufficiency": bench_sufficiency,
           "generation": bench_generation, "memory": bench_memory,
           "wide": bench_wide, "stream": bench_stream, "local": bench_local}
SAMPLING = ("sufficiency", "generation", "memory", "all")


# ---------------------------------------------------------------------- report

def number(text):
    return f"{float(text):.4g}" if text else ""


def peers():
    """Those that are installed, with their versions: not every bench takes
    every peer."""
    for name in PEERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield f"{name} {metadata.version(name)}"


def report(options):
    """README.md of the folder, from its figures alone."""
    lines = ["# Benchmarks", "",
             f"Made by `{options.made_by}` (experiments/bench/bench.py); "
             "nothing here is typed by hand. Ours and theirs ran in turn on "
             "the same inputs and machine. A range is over rounds, an "
             "interval over pairs.", ""]
    for path in sorted(glob.glob(os.path.join(options.out,
                                              "*-figures.csv"))):
        with open(path, encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        name = os.path.basename(path).removesuffix("-figures.csv")
        lines += [f"## {name}", "", "| figure | value | low | high | spread "
                  "| n | goal | met |", "| --- | --- | --- | --- | --- | --- "
                  "| --- | --- |"]
        lines += ["| {} | {} | {} | {} | {} | {} | {} | {} |".format(
            r["figure"], number(r["value"]), number(r["low"]),
            number(r["high"]), r["spread"], r["n"], r["goal"], r["met"])
            for r in rows]
        lines += ["", f"Commit {rows[0]['commit']}; {rows[0]['machine']}.", ""]
    told = ", ".join(peers()) or "none"
    lines += [f"Peers, at the last of these: {told}.", ""]
    with open(os.path.join(options.out, "README.md"), "w",
              encoding="utf-8") as file:
        file.write("\n".join(lines))


# --------------------------------------------------------------------- command

def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=[*BENCHES, "all", "report"])
    parser.add_argument("--f32", help="folder that expand.py made")
    parser.add_argument("--chains", help="chains to capture, one of them "
                        "for influence")
    parser.add_argument("--sampling", help="folder that chain40.py made")
    parser.add_argument("--acts", help="labelled activations to probe; "
                        "default: synthetic")
    parser.add_argument("--out", required=True, help="folder of the CSV")
    parser.add_argument("--scratch", help="folder of files that are removed; "
                        "default: OUT")
    parser.add_argument("--keystep", default=os.path.join(
        ROOT, "build", "release", "keystep"))
    parser.add_argument("--made-by", default="bench.py")
    parser.add_argument("--threads", type=int, default=os.cpu_count(),
                        help="of sufficiency and generation, ours and theirs")
    parser.add_argument("--quick", action="store_true",
                        help="a few runs of little, to try the benches")
    options = parser.parse_args()
    if options.what in ("capture", "influence", "all") and not (
            options.f32 and options.chains):
        parser.error(f"{options.what} needs --f32 and --chains")
    if options.what in SAMPLING and not options.sampling:
        parser.error(f"{options.what} needs --sampling")
    small = options.quick
    options.rounds = 2 if small else 3
    options.pairs = 2 if small else 10
    options.n_chains = 4 if small else 100
    options.n_parts = 2 if small else 30
    options.probe_pairs = 1 if small else 3
    options.adamw_epochs = 1 if small else 30
    options.adamw_ours = 2 if small else 30
    options.influence_pairs = 1 if small else 5
    options.rows = 1000 if small else 8000
    options.data_layers = 4 if small else 31
    options.peer_layers = 2 if small else 4
    options.wide_rows = 1000 if small else 20000
    options.wide_width = 192 if small else 1536
    options.wide_layers = 4 if small else 28
    options.wide_rounds = 1 if small else 2
    options.wide_peer_layers = 2
    options.wide_peer_folds = 1
    options.stream_rows = 60000
    options.stream_width = 1536
    options.stream_pairs = 1 if small else 5
    options.mib = 32 if small else 1024
    options.local_rounds = 1 if small else 2
    options.published_prompts = 2 if small else 8
    options.checked_prompts = 2 if small else 6
    options.max_new = 16 if small else 256
    return options


def main():
    options = parse()
    if options.what == "report":
        report(options)
        return
    options.machine = machine()
    os.makedirs(options.out, exist_ok=True)
    with tempfile.TemporaryDirectory(
            dir=options.scratch or options.out) as scratch:
        for name in BENCHES if options.what == "all" else [options.what]:
            say(f"== {name}")
            write(options, f"{name}-figures", BENCHES[name](options, scratch))
    report(options)


if __name__ == "__main__":
    main()
