"""The bench of influence matrices: one chain's, beside torch's autograd with
one backward a target, as published and with the weights frozen."""
import json
import math
import os
import statistics

from harness import figure, peer, ratios, run, say, write

FORMS = ("published", "frozen")


def matrices_apart(ours, theirs):
    """The largest relative difference of an entry; infinite where one side
    alone is zero, or a value is none."""
    far = [0.0]
    for a, b in ((a, b) for x, y in zip(ours, theirs, strict=True)
                 for a, b in zip(x, y, strict=True)):
        if a != b:
            far.append(abs(a - b) / abs(b) if b and math.isfinite(a - b)
                       else math.inf)
    return max(far)


def influence_round(options, scratch, chain, turn):
    """Every form once: what each said, how far the matrices are apart, and
    the rows of keystep's own table."""
    gguf = os.path.join(options.f32, "model-f32.gguf")
    folder = os.path.join(options.f32, "hf")
    got, made, parts = {}, {}, []

    def keystep(out):
        _, peak, said = run([
            options.keystep, "bench", "influence", "--model", gguf, "--input",
            chain, "--out-data", out, "--force", "--pairs",
            str(options.influence_pairs), "--json", "--quiet"])
        parts.extend(json.loads(said))
        return {"seconds": parts[-1]["seconds"], "peak_mib": peak}

    forms = {"keystep": keystep} | {
        f"torch {form}": lambda out, form=form: peer(
            "peer_influence.py", "--form", form, folder, chain, out)
        for form in FORMS}
    for name in sorted(forms, reverse=turn % 2 == 1):
        out = os.path.join(scratch, "matrix.json")
        got[name] = forms[name](out)
        with open(out, encoding="utf-8") as file:
            made[name] = json.load(file)["matrix"]
        say(name, f"{got[name]['seconds']:.2f} s",
            f"{got[name]['peak_mib']:.0f} MiB")
    apart = max(matrices_apart(made["keystep"], made[f"torch {form}"])
                for form in FORMS)
    if not apart <= 1e-3:
        raise SystemExit(f"influence matrices differ by {apart:.2g}")
    return got, apart, parts


def bench_influence(options, scratch):
    chain = os.path.join(scratch, "chain.json")
    size = peer("peer_influence.py", "--make",
                os.path.join(options.f32, "hf"), options.chains, chain)
    size = {key: size[key] for key in ("steps", "tokens")}
    what = f"influence, {size['steps']} steps, {size['tokens']} tokens"
    rows, parts, times, peaks, apart = [], [], {}, {}, []
    for turn in range(options.rounds):
        got, far, pairs = influence_round(options, scratch, chain, turn)
        apart.append(far)
        parts += [{"round": turn + 1} | row for row in pairs]
        for name, said in got.items():
            times.setdefault(name, []).append(said["seconds"])
            peaks.setdefault(name, []).append(said["peak_mib"])
            rows.append({"who": name, "round": turn + 1, **size, **said})
    write(options, "influence", rows)
    write(options, "influence-parts", parts)
    better = min(FORMS, key=lambda form: statistics.median(
        times[f"torch {form}"]))
    return [
        figure(f"{what}: torch's better form ({better}) / keystep (seconds)",
               ratios(times, f"torch {better}", "keystep"), 3),
        figure(f"{what}: torch as published / keystep (seconds)",
               ratios(times, "torch published", "keystep"), 5),
        figure(f"{what}: keystep / bare products of one forward and every "
               "target's way back", [row["over_products"] for row in parts
                                     if row["pair"] != "all"], 1.5, False),
        figure("largest relative difference of an entry from torch's", apart,
               1e-3, False),
        *(figure(f"{name} (seconds)", times[name]) for name in times),
        *(figure(f"{name} (peak MiB)", peaks[name]) for name in peaks),
    ]
