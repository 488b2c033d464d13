#!/usr/bin/env python3
"""Stock readers of what keystep export writes: numpy, safetensors, onnx's
checker, onnxruntime. Each must give the scores of probes.h5.

Usage: read_exports.py KEYSTEP FOLDER, the folder with acts.h5 and out/probes.h5
"""
import json
import subprocess
import sys

import h5py
import numpy as np
import onnx
import onnxruntime
from safetensors import safe_open

keystep, folder = sys.argv[1:]


def export(name, *options):
    path = f"{folder}/{name}"
    subprocess.run([keystep, "export", f"{folder}/out", "--position", "mean",
                    "--out", path, "--force", "--quiet", *options], check=True)
    return path


with h5py.File(f"{folder}/out/probes.h5") as f:
    g = f["probes/resid-mean"]
    weight, mean, scale, bias = (g[k][:].astype(np.float64) for k in (
        "weight", "mean", "scale", "bias"))
    scores, layer = g["scores"][:], g["layer"][:]
    fold, model = f["fold"][:], f.attrs["model_sha256"]
with h5py.File(f"{folder}/acts.h5") as f:
    x = f["activations/resid/mean"][:].astype(np.float32)
probed = fold[0] != 255
x = x[:, probed]
w = weight / scale
b = bias - (w * mean).sum(-1)


def close(got, want, what):
    assert np.allclose(got, want, rtol=1e-5, atol=2e-5), (
        what, np.abs(got - want).max())


# numpy: every fit of every layer; the scores of probes.h5 out of them
z = np.load(export("a.npz", "--layer", "all", "--fold", "all"))
assert z["weight"].shape == weight.shape and z["weight"].dtype == np.float32
close(z["weight"], w, "npz weight")
close(z["bias"], b, "npz bias")
assert (z["layer"] == layer).all()
about = json.loads(z["metadata"].item())
assert about["model_sha256"] in (model, model.decode()
                                 if isinstance(model, bytes) else model)
for l in range(len(layer)):
    s = np.einsum("nd,sfd->sfn", x[l], z["weight"][l]) + z["bias"][l][..., None]
    own = np.mean([np.take_along_axis(s[k], fold[k][probed][None].astype(int),
                                      0)[0] for k in range(len(fold))], 0)
    close(own, scores[l, probed], f"scores of layer {l}")

# safetensors: the mean of the fits, of one layer
with safe_open(export("m.safetensors", "--layer", "1"), "numpy") as f:
    close(f.get_tensor("weight"), w[1].mean((0, 1)), "safetensors weight")
    close(f.get_tensor("bias"), b[1].mean(), "safetensors bias")
    assert f.get_tensor("bias").shape == () and f.metadata()["layer"] == "1"
    assert f.metadata()["format"] == "keystep probe 1"

# ONNX: checked, and run
for options, want in (
        (["--fold", "mean"], (w[2].mean((0, 1))[None], b[2].mean(keepdims=True)[0])),
        (["--fold", "all"], (w[2].reshape(-1, w.shape[-1]), b[2].ravel()))):
    path = export("p.onnx", "--layer", "2", *options)
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded, full_check=True)
    props = {p.key: p.value for p in loaded.metadata_props}
    assert props["layer"] == "2" and props["position"] == "mean", props
    session = onnxruntime.InferenceSession(path,
                                           providers=["CPUExecutionProvider"])
    score, probability = session.run(None, {"activations": x[2]})
    assert [o.name for o in session.get_outputs()] == ["score", "probability"]
    assert score.shape == (x.shape[1], len(want[0])), score.shape
    expected = x[2].astype(np.float64) @ want[0].T + want[1]
    close(score, expected, "onnx score")
    close(probability, 1 / (1 + np.exp(-expected)), "onnx probability")
