"""The bench of trained probes: the published AdamW loop of all layers and seeds,
keystep beside torch."""
import os

from harness import figure, peer, say, table, write

SEEDS, EPOCHS, HIDDEN = 3, 30, 128


def peers(options, data, hidden):
    """torch as published (a DataLoader) and in its fastest form: seconds for
    all layers, seeds and epochs, from a sample of one seed."""
    shape = ("--layer", "all", "--hidden", hidden) if hidden else ()
    epochs = options.adamw_epochs
    said = {}
    for form in ("published", "fastest"):
        more = ("--tune",) if form == "fastest" else ()
        one = peer("peer_adamw.py", data, *shape, *more, "--rows",
                   options.rows, "--epochs", epochs)
        probes = SEEDS * (1 if hidden else one["layers"])
        one["whole"] = one["seconds"] * probes * EPOCHS / epochs
        one["note"] = f"extrapolated from 1 of {probes} probes and {epochs} " \
                      f"of {EPOCHS} epochs; {one['form']}, " \
                      f"{one['threads']} threads"
        said[form] = one
    return said


def one_kind(options, data, hidden, rows, figures):
    what = f"lw-mlp {hidden}" if hidden else "linear"
    goal = 4 if hidden else 100
    ours, theirs, over = [], {"published": [], "fastest": []}, []
    for turn in range(options.rounds):
        parts = table(options, "adamw", "--acts", data, "--pairs", 1, "--rows",
                      options.rows, *(("--hidden", hidden) if hidden else ()),
                      "--epochs", options.adamw_ours)
        mine = parts[0]
        scale = EPOCHS / mine["epochs"]
        ours.append(mine["seconds"] * scale)
        over.append(mine["over_bare"])
        rows.append({"who": "keystep", "probe": what, "round": turn + 1,
                     "seconds": ours[-1], "note": "" if scale == 1 else
                     f"extrapolated from {mine['epochs']} epochs",
                     "bare_products_s": mine["bare_products_s"] * scale,
                     "bare_state_s": mine["bare_state_s"] * scale,
                     "over_bare": mine["over_bare"],
                     "best_accuracy": mine["best_accuracy"]})
        say(what, f"keystep {ours[-1]:.2f} s, over its bare calls "
            f"{over[-1]:.2f}")
        for form, one in peers(options, data, hidden).items():
            theirs[form].append(one["whole"])
            rows.append({"who": f"torch, {form} form", "probe": what,
                         "round": turn + 1, "seconds": one["whole"],
                         "note": one["note"],
                         "best_accuracy": one["best_accuracy"]})
            say(what, f"torch, {form}: {one['whole']:.1f} s", one["note"])
    shape = f"{mine['layers']} layers, {SEEDS} seeds, {EPOCHS} epochs, " \
            f"{mine['train_rows']} x {mine['width']}"
    bound = [r["bare_products_s"] + r["bare_state_s"] for r in rows
             if r["who"] == "keystep" and r["probe"] == what]
    figures += [
        figure(f"{what}: published loop in torch / keystep, {shape} (seconds)",
               [t / k for t, k in zip(theirs["published"], ours)], goal),
        figure(f"{what}: published loop in torch / bare products by the BLAS "
               "and passes over the state: what the bound allows",
               [t / b for t, b in zip(theirs["published"], bound)]),
        figure(f"{what}: torch's fastest form / keystep (seconds)",
               [t / k for t, k in zip(theirs["fastest"], ours)]),
        figure(f"{what}: keystep / bare products and passes over the "
               "optimiser's state", over, 1.5, False),
        figure(f"{what}: keystep (seconds)", ours),
        figure(f"{what}: bare products and state (seconds)", bound),
        figure(f"{what}: published loop in torch, extrapolated (seconds)",
               theirs["published"]),
    ]


def bench_adamw(options, scratch):
    data = options.acts or os.path.join(scratch, "adamw.h5")
    if not options.acts:
        table(options, "probe", "--out-data", data, "--pairs", 1, "--rows",
              options.rows, "--data-layers", options.data_layers)
    rows, figures = [], []
    for hidden in (0, HIDDEN):
        one_kind(options, data, hidden, rows, figures)
    write(options, "adamw", rows)
    return figures
