"""The benches of what samples: the sufficiency curve of a chain, and many
problems at once, beside transformers and llama.cpp, and the memory that they
take. Inputs are chain40.py's."""
import json
import os
import statistics

from harness import ROOT, figure, peer, ratios, run, say, write

PUBLISHED = "transformers published"
ONE = "llama.cpp, one sequence at a time"
BATCH = "llama.cpp, batched, shared prefixes"
MERGED = BATCH + ", equal samples merged"
OURS = "keystep"
EXACT = "keystep, exact"
GENERATED = "llama.cpp, batched"


def turns(options, forms, rows):
    """Every form in turn, every other round backwards; what they said, by
    name. Rows are added to."""
    said = {name: [] for name in forms}
    for turn in range(options.rounds):
        names = list(forms)
        if turn % 2:
            names.reverse()
        for name in names:
            got = forms[name]()
            said[name].append(got)
            rows.append({"who": name, "round": turn + 1} | {
                key: got.get(key, "") for key in
                ("seconds", "cpu_seconds", "prompt_seconds", "sampled", "computed",
                 "peak_mib", "note")})
            say(name, f"{got['seconds']:.2f} s", got.get("note", ""))
    return said


def seconds(said):
    return {name: [got["seconds"] for got in all_] for name, all_ in
            said.items()}


def differing(some, others):
    """Share of completions that are not the same, of lists of equal shape."""
    pairs = list(zip(some, others))
    return sum(a != b for a, b in pairs) / len(pairs)


# ----------------------------------------------------------------- sufficiency

GOALS = {PUBLISHED: 30, ONE: 3, BATCH: 1.2}


def keystep_curve(options, scratch, data, *more):
    """A call; the same chain, from the problem and its text."""
    with open(data, encoding="utf-8") as file:
        given = json.load(file)
    folder = os.path.dirname(data)

    def keystep():
        out = os.path.join(scratch, "curve.labels.jsonl")
        clean = os.path.join(scratch, "curve.clean.jsonl")
        _, peak, said = run([
            options.keystep, "label", "--method", "curve", "--no-drop",
            "--model", given["gguf"], "--problems",
            os.path.join(folder, "curve.problems.jsonl"), "--chains",
            os.path.join(folder, "curve.chains.jsonl"), "--out", out,
            "--clean", clean, "--samples", str(given["k"]), "--temperature",
            str(given["temperature"]), "--top-p", str(given["top_p"]),
            "--threads", str(options.threads), "--json", "--quiet", *more])
        with open(out, encoding="utf-8") as file:
            curve = json.loads(file.read())["scores"]["sufficiency"]
        os.remove(out)
        os.remove(clean)
        return json.loads(said) | {
            "peak_mib": peak, "sufficiency": curve[:len(given["prompts"])]}
    return keystep


def sufficiency_forms(options, scratch):
    data = os.path.join(options.sampling, "curve.json")

    def ask(form, *more):
        return peer("sufficiency_peers.py", form, data, *more)

    threads = ("--settings", json.dumps({"threads": options.threads}))
    agreed = ask("check", "--prompts", options.checked_prompts, *threads)
    say("checked against each other:", agreed["compared"])
    one = ask("llama-one", "--tune", *threads)
    batch = ask("llama-batch", "--tune", *threads)
    say("llama.cpp's best settings:", one["settings"], batch["settings"],
        "of", one["tried"], batch["tried"])
    one, batch = json.dumps(one["settings"]), json.dumps(batch["settings"])
    return {
        PUBLISHED: lambda: ask("published", "--prompts",
                               options.published_prompts, *threads),
        ONE: lambda: ask("llama-one", "--settings", one),
        BATCH: lambda: ask("llama-batch", "--settings", batch),
        MERGED: lambda: ask("llama-batch", "--merge", "--settings", batch),
        OURS: keystep_curve(options, scratch, data),
        EXACT: keystep_curve(options, scratch, data, "--sufficiency", "exact"),
    }


def bench_sufficiency(options, scratch):
    rows, figures = [], []
    said = turns(options, sufficiency_forms(options, scratch), rows)
    write(options, "sufficiency", rows)
    took = seconds(said)
    figures += [figure(f"{name} / keystep (seconds)",
                       ratios(took, name, OURS), goal)
                for name, goal in GOALS.items()]
    figures += [
        figure(f"{MERGED} / keystep (seconds)", ratios(took, MERGED, OURS)),
        figure(f"{PUBLISHED} / {EXACT} (seconds)",
               ratios(took, PUBLISHED, EXACT), 80)]
    figures.append(figure(
        "completions that llama.cpp draws otherwise batched than one at a "
        "time, by the same random numbers (share)",
        [differing(sum(a["ids"], []), sum(b["ids"], []))
         for a, b in zip(said[ONE], said[BATCH])]))
    for name, all_ in said.items():
        figures += [
            figure(f"{name} (seconds" + (
                ", extrapolated)" if all_[0].get("extrapolated") else ")"),
                took[name]),
            figure(f"{name} (tokens computed)",
                   [got["computed"] for got in all_]),
            figure(f"{name} (mean sufficiency of the prefixes that ran)",
                   [statistics.fmean(got["sufficiency"]) for got in all_])]
    return figures


# ------------------------------------------------------------------ generation

def keystep_generates(options, scratch, model, problems, texts):
    """A call; the prompts must be the peers' to the letter."""
    def keystep():
        out = os.path.join(scratch, "generated.jsonl")
        _, peak, said = run([
            options.keystep, "generate", "--model", model, "--problems",
            problems, "--out", out, "--max-new", str(options.max_new),
            "--threads", str(options.threads), "--json", "--quiet"])
        with open(out, encoding="utf-8") as file:
            chains = [json.loads(line) for line in file]
        os.remove(out)
        if [chain["prompt"] for chain in chains] != texts:
            raise SystemExit("keystep's prompts are not the peers'")
        return json.loads(said) | {
            "peak_mib": peak, "completions": [chain["text"] + chain["rest"]
                                              for chain in chains]}
    return keystep


def bench_generation(options, scratch):
    data = os.path.join(options.sampling, "generation.json")
    with open(data, encoding="utf-8") as file:
        given = json.load(file)
    most = ("--max-new", options.max_new)
    best = peer("generate_peers.py", data, "--tune", "--settings",
                json.dumps({"threads": options.threads}), *most)
    say("llama.cpp's best settings:", best["settings"], "of", best["tried"])
    settings = ("--settings", json.dumps(best["settings"]))
    forms = {
        GENERATED: lambda: peer("generate_peers.py", data, *settings, *most),
        OURS: keystep_generates(
            options, scratch, given["gguf"],
            os.path.join(options.sampling, "generation.problems.jsonl"),
            given["texts"])}
    rows = []
    said = turns(options, forms, rows)
    write(options, "generation", rows)
    rates = {name: [got["sampled"] / got["seconds"] for got in all_]
             for name, all_ in said.items()}
    at_once = f"{len(given['prompts'])} problems at once"
    return [
        figure(f"keystep / llama.cpp, {at_once}, prompts and new tokens (new "
               "tokens/s)", ratios(rates, OURS, GENERATED), 1.0),
        figure("solutions that are not the same to the letter (share)",
               [differing(a["completions"], b["completions"]) for a, b in
                zip(said[GENERATED], said[OURS])]),
        *[figure(f"{name} (new tokens/s)", rates[name]) for name in said],
        *[figure(f"{name} (peak MiB)", [got["peak_mib"] for got in all_])
          for name, all_ in said.items()]]


# ---------------------------------------------------------------------- memory

MEMORY = {"small": (16, 32), "SmolLM2": (100, 200, 400)}  # MiB
SMALL_CHANGE = 4  # MiB: code that was not reached yet, stacks, requests


def memory_commands(options, scratch):
    """Name, options of --memory in MiB, command. Before the model computes, as
    --dry-run tells, a process has its libraries, the tokenizer and the model's
    file."""
    folder = options.sampling
    with open(os.path.join(folder, "curve.json"), encoding="utf-8") as file:
        model = json.load(file)["gguf"]
    demo = os.path.join(ROOT, "experiments", "demo", "models", "demo-a")
    data = os.path.join(ROOT, "tests", "data", "label")
    common = ["--out", os.path.join(scratch, "memory.jsonl"), "--force",
              "--quiet", "--threads", str(options.threads)]

    def label(model, problems, chains, *more):
        return [options.keystep, "label", "--model", model, "--problems",
                problems, "--chains", chains, "--clean",
                os.path.join(scratch, "memory.clean.jsonl"), *common, *more]

    curve = label(model, os.path.join(folder, "curve.problems.jsonl"),
                  os.path.join(folder, "curve.chains.jsonl"), "--method",
                  "curve", "--no-drop")
    small = label(demo, os.path.join(data, "problems.jsonl"),
                  os.path.join(data, "chains.jsonl"), "--suppression")
    generate = [options.keystep, "generate", "--model", model, "--problems",
                os.path.join(folder, "generation.problems.jsonl"),
                "--max-new", "24", *common]
    return [
        ("label, influence and suppression, demo", MEMORY["small"], small),
        ("label, a curve, SmolLM2-135M", MEMORY["SmolLM2"], curve),
        ("generate, SmolLM2-135M", MEMORY["SmolLM2"], generate)]


def bench_memory(options, scratch):
    """What a process takes beyond what it holds before the model computes and
    what it was allowed."""
    rows, figures = [], []
    for name, limits, command in memory_commands(options, scratch):
        _, _, said = run([*command, "--dry-run", "--json"])
        held = json.loads(said)["held_bytes"] / 2**20
        for limit in limits:
            took = [run([*command, "--memory", f"{limit}M"])
                    for _ in range(options.rounds)]
            beyond = [peak - held - limit for _, peak, _ in took]
            rows += [{"command": name, "memory_mib": limit, "round": i + 1,
                      "seconds": seconds, "peak_mib": peak, "held_mib": held}
                     for i, (seconds, peak, _) in enumerate(took)]
            figures.append(figure(
                f"{name}: MiB beyond what it held before and --memory {limit}M",
                beyond, SMALL_CHANGE, at_least=False))
    write(options, "memory", rows)
    return figures
