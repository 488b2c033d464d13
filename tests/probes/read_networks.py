#!/usr/bin/env python3
"""onnx's checker and onnxruntime read the networks that keystep export writes
and give the scores of probes.h5.

Usage: read_networks.py KEYSTEP FOLDER, that with acts.h5 and out/probes.h5
"""
import subprocess
import sys

import h5py
import numpy as np
import onnx
import onnxruntime

keystep, folder = sys.argv[1:]
LAYER = 2


def text(value):
    return value.decode() if isinstance(value, bytes) else value


with h5py.File(f"{folder}/acts.h5") as f:
    x = f["activations/resid/mean"][:].astype(np.float32)
with h5py.File(f"{folder}/out/probes.h5") as f:
    fold = f["fold"][:].astype(int)
    kinds = {name: {"input": text(g.attrs["input"]),
                    **{k: g[k][:] for k in g if k != "rate"}}
             for name, g in f["probes/resid-mean/trained"].items()}
probed = fold[0] != 255
x = np.ascontiguousarray(x[:, probed].swapaxes(0, 1))  # [steps, layers, d]
fold = fold[:, probed]


def run(kind, fits):
    path = f"{folder}/net.onnx"
    alone = kind.split()[0].endswith("-layer")
    layer = ["--layer", str(LAYER)] if alone else []
    subprocess.run([keystep, "export", f"{folder}/out", "--position", "mean",
                    "--probe", kind, "--fold", fits, "--out", path, "--force",
                    "--quiet", *layer], check=True)
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded, full_check=True)
    session = onnxruntime.InferenceSession(path,
                                           providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == ["score", "probability"]
    read = [LAYER] if alone else kinds[kind]["layer"]
    about = {p.key: p.value for p in loaded.metadata_props}
    assert about["format"] == "keystep probe 1", about
    assert about["probe"] == kind, about
    assert about["layer"] == ",".join(map(str, read)), about
    inputs = x[:, LAYER] if alone else x[:, read]
    return session.run(None, {"activations": inputs})


def own(g, p):
    """What every fit of probe p says of every step, in double: [fits, n]."""
    rows = x.astype(np.float64)
    if g["input"] == "each":
        rows = rows[:, g["layer"][p]]
    elif g["input"] == "mean":
        # as the trainer has it: the sum of the layers in f32, over their number
        sums = np.zeros_like(x[:, 0])
        for layer in g["layer"]:
            sums += x[:, layer]
        rows = (sums / np.float32(len(g["layer"]))).astype(np.float64)
    else:
        rows = rows[:, g["layer"]].reshape(len(rows), -1)
    fits = g["mean"].shape[1:3]
    at = [(s, f) for s in range(fits[0]) for f in range(fits[1])]
    out = []
    for s, f in at:
        a = (rows - g["mean"][p, s, f]) / g["scale"][p, s, f]
        level = 0
        while f"weight{level}" in g:
            a = np.maximum(a, 0) if level else a
            a = a @ g[f"weight{level}"][p, s, f].T + g[f"bias{level}"][p, s, f]
            level += 1
        out.append(a[:, 0])
    return np.array(out)


assert len(kinds) == 6, kinds.keys()
worst = {}
for kind, g in kinds.items():
    p = list(g["layer"]).index(LAYER) if g["input"] == "each" else 0
    # Feature 3 lies 5000 deviations from 0: sums over layers in another order
    # differ in their last bit there, which is 4e-4 of a deviation.
    near = 2e-3 if g["input"] == "mean" else 2e-5
    score, probability = run(kind, "all")
    of_fits = own(g, p)
    n_seeds, n_folds = g["mean"].shape[1:3]
    assert score.shape == of_fits.T.shape == (len(x), n_seeds * n_folds)
    held_out = np.mean([score[np.arange(len(x)), s * n_folds + fold[s]]
                        for s in range(n_seeds)], 0)
    mean, of_mean = run(kind, "mean")
    assert mean.shape == (len(x), 1), mean.shape
    for what, got, want in (
            ("each fit", score, of_fits.T),
            ("scores of probes.h5", held_out, g["scores"][p, probed]),
            ("mean", mean[:, 0], of_fits.mean(0)),
            ("probability", probability, 1 / (1 + np.exp(-of_fits.T))),
            ("probability of the mean", of_mean[:, 0],
             1 / (1 + np.exp(-of_fits.mean(0))))):
        apart = np.abs(got - want).max()
        worst[kind] = max(worst.get(kind, 0), apart)
        assert np.allclose(got, want, rtol=1e-5, atol=near), (kind, what, apart)
print("largest difference:", {k: float(f"{v:.2g}") for k, v in worst.items()})
