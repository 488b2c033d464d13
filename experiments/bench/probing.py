"""The benches of wide probes and of probes within a memory limit: the grid at
28 x 20,000 x 1,536 beside scikit-learn on a timed sample, and a layer three
times the limit beside the disk and the same passes in memory."""
import filecmp
import os
import shutil

from harness import figure, peer, run, say, table, write

FIVE = "mean,first,middle,last,before"
SMALL_CHANGE = 4  # MiB: stacks and pages that a small run does not reach
REFUSED = 1  # exit code
OUTPUTS = ("table.md", "metrics.csv", "summary.json", "probes.h5")


# ----------------------------------------------------------------- wide probes

def wide_peer(options, data, chosen):
    """Seconds of a sample of layers and folds, and of the whole grid."""
    theirs = peer("peer_sklearn.py", data, "--solver", chosen["solver"],
                  "--tol", chosen["tol"], "--layers", options.wide_peer_layers,
                  "--rows", options.wide_rows, "--run-folds",
                  options.wide_peer_folds)
    done = len(theirs["layers"]) * theirs["run_folds"]
    of = options.wide_layers * 5 * theirs["folds"]
    return theirs, theirs["seconds"] * of / done


def bench_wide(options, scratch):
    data = os.path.join(scratch, "wide.h5")
    shape = ("--rows", options.wide_rows, "--width", options.wide_width,
             "--data-layers", options.wide_layers, "--positions", FIVE)
    ours = table(options, "probe", "--alone", "--pairs", options.wide_rounds,
                 "--out-data", data, *shape)
    parts = [row for row in ours if row["pair"] != "all"]
    chosen = peer("peer_sklearn.py", data, "--rows", options.wide_rows,
                  "--try-strengths", 2)
    say("scikit-learn's solvers:", chosen["tried"])
    theirs, whole = wide_peer(options, data, chosen)
    if theirs["gradient"] > 1e-6:
        raise SystemExit(f"scikit-learn's gradient is {theirs['gradient']}")
    os.remove(data)
    sample = (f"{len(theirs['layers'])} layers, {theirs['run_folds']} of "
              f"{theirs['folds']} folds, both processors")
    rows = [{"who": "keystep", "round": row["pair"], "seconds":
             row["seconds"], "note": "whole grid"} for row in parts]
    rows += [{"who": "scikit-learn", "seconds": tried["seconds"], "note":
              f"choice: {name}, one layer and fold, 2 strengths, gradient "
              f"{tried['gradient']:.1e}"}
             for name, tried in chosen["tried"].items()]
    rows += [{"who": "scikit-learn", "round": 1, "seconds":
              theirs["seconds"], "note": f"{theirs['solver']}: {sample}"},
             {"who": "scikit-learn", "round": 1, "seconds": whole, "note":
              f"whole grid, extrapolated linearly from {sample}"}]
    write(options, "wide", rows)
    write(options, "wide-parts", parts)
    grid = (f"{options.wide_layers} layers x 5 positions x 8 strengths x 5 "
            f"folds, {parts[0]['rows']} x {parts[0]['width']}")
    return [
        figure(f"scikit-learn ({theirs['solver']}, extrapolated from "
               f"{sample}) / keystep, {grid} (seconds)",
               [whole / row["seconds"] for row in parts], 20),
        figure("unconverged fits", [row["unconverged"] for row in parts], 0,
               False),
        figure("reads of a layer, the most", [row["reads"] for row in parts]),
        figure("keystep, whole grid (seconds)",
               [row["seconds"] for row in parts]),
        figure("scikit-learn, whole grid, extrapolated (seconds)", [whole]),
    ]


# ---------------------------------------------------------------------- stream

def probe(options, data, out, *more, done=0):
    """Seconds and peak MiB of one evaluation of one layer."""
    shutil.rmtree(out, ignore_errors=True)
    seconds, peak, _ = run([options.keystep, "probe", "--acts", data, "--out",
                            out, "--layers", "1", "--bootstrap", "200",
                            "--quiet", *more], done)
    return seconds, peak


def start(options, data, out):
    """Peak MiB of what a run starts with: a limit that is refused ends it
    ahead of the work."""
    return probe(options, data, out, "--memory", "1M", done=REFUSED)[1]


def limit_rounds(options, scratch, data, limit):
    """Peaks with and without the limit, beside what the same file's run starts
    with and the code that any run reaches, told by a small file's."""
    small, rows = os.path.join(scratch, "small.h5"), []
    outs = [os.path.join(scratch, name) for name in ("whole", "bound")]
    table(options, "probe", "--alone", "--pairs", 1, "--out-data", small,
          "--rows", 200, "--width", 64, "--data-layers", 2)
    for turn in range(options.rounds):
        least = os.path.join(scratch, "least")
        code = probe(options, small, least)[1] - start(options, small, least)
        start_mib = start(options, data, least)
        whole = probe(options, data, outs[0])
        bound = probe(options, data, outs[1], "--memory", f"{limit}M")
        for name in OUTPUTS:
            if not filecmp.cmp(*(os.path.join(out, name) for out in outs),
                               shallow=False):
                raise SystemExit(f"{name} differs within --memory {limit}M")
        rows.append({"round": turn + 1, "memory_mib": limit,
                     "start_mib": start_mib, "code_mib": code,
                     "peak_mib": bound[1],
                     "seconds": bound[0], "unbound_peak_mib": whole[1],
                     "unbound_seconds": whole[0]})
    return rows


def bench_stream(options, scratch):
    data = os.path.join(scratch, "stream.h5")
    table(options, "probe", "--alone", "--pairs", 1, "--out-data", data,
          "--rows", options.stream_rows, "--width", options.stream_width,
          "--data-layers", 2, "--layers", "0")
    rows = table(options, "stream", "--acts", data, "--dir", scratch,
                 "--pairs", options.stream_pairs)
    parts = [row for row in rows if row["pair"] != "all"]
    write(options, "stream", rows)
    limit = parts[0]["bytes"] // 3 >> 20
    bound = limit_rounds(options, scratch, data, limit)
    write(options, "stream-memory", bound)
    last = rows[-1]
    shape = f"{last['rows']} x {last['width']} f32, {last['columns']} fits"
    return [
        figure("a layer from the disk in every pass / the smaller of the "
               f"disk's rate and the rate in memory, {shape}",
               [row["ratio"] for row in parts], 0.8),
        figure("through the page cache / in memory",
               [row["cached_ratio"] for row in parts]),
        figure(f"a layer three times --memory {limit}M: MiB beyond that and "
               "what the run starts with",
               [row["peak_mib"] - row["start_mib"] - row["code_mib"] - limit
                for row in bound], SMALL_CHANGE, False),
        figure("the same without --memory: MiB beyond what it starts with",
               [row["unbound_peak_mib"] - row["start_mib"] - row["code_mib"]
                for row in bound]),
        figure("evaluation within --memory / without (seconds)",
               [row["seconds"] / row["unbound_seconds"] for row in bound]),
        figure("the disk alone (MB/s)", [row["disk_mb_s"] for row in parts]),
        figure("in memory (MB/s)", [row["resident_mb_s"] for row in parts]),
        figure("from the disk (MB/s)", [row["cold_mb_s"] for row in parts]),
        figure("through the page cache (MB/s)",
               [row["cached_mb_s"] for row in parts]),
    ]
