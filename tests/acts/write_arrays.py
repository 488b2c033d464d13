#!/usr/bin/env python3
"""A capture written by h5py, numpy and safetensors as other programs write
activations, then read back by keystep import acts: values must be the same.

Usage: write_arrays.py KEYSTEP MODEL FOLDER, the folder with a.h5 (f32, all
positions and tokens) and its chains c.jsonl
"""
import json
import os
import subprocess
import sys

import h5py
import numpy as np
from safetensors.numpy import save_file

keystep, model, folder = sys.argv[1:]
os.chdir(folder)
own = h5py.File("a.h5")
mean = own["activations/resid/mean"][:]


def run(*args):
    return subprocess.run(args, check=True, capture_output=True,
                          text=True).stdout


def check(*args, positions=("mean",), layers=None, tolerance=0.0):
    run(keystep, "import", "acts", "--chains", "c.jsonl", "--out", "back.h5",
        "--force", "--quiet", *args)
    run(keystep, "verify", "back.h5")
    with h5py.File("back.h5") as f:
        for p in positions:
            want = own[f"activations/resid/{p}"][:]
            want = want if layers is None else want[layers]
            got = f[f"activations/resid/{p}"][:]
            assert got.shape == want.shape, (args, got.shape, want.shape)
            assert np.allclose(got, want, rtol=tolerance, atol=tolerance,
                               equal_nan=True), (args, p)
        assert (f["steps/valid"][:] == own["steps/valid"][:]).all()
        assert (f["chains/text_sha256"][:] == own["chains/text_sha256"][:]).all()


name = ("--model-name", "m")
lsd = ("--order", "layers,steps,d", "--first-layer", "0")
np.save("mean.npy", mean)
check(*name, *lsd, "--steps", "mean=mean.npy")
save_file({"x": mean, "y": mean[:1]}, "mean.safetensors")
check(*name, *lsd, "--steps", "mean=mean.safetensors", "--tensor", "x")
with h5py.File("mean.h5", "w") as f:
    f["run/acts"] = np.ascontiguousarray(mean.transpose(1, 0, 2))
    f["one"] = mean[4]
check(*name, "--order", "steps,layers,d", "--first-layer", "0", "--steps",
      "mean=mean.h5", "--tensor", "run/acts")
check(*name, "--order", "steps,d", "--first-layer", "4", "--steps",
      "mean=mean.h5", "--tensor", "one", layers=[4])
check("--model", model, *lsd, "--steps", "mean=mean.npy")
with h5py.File("back.h5") as f:
    assert f.attrs["model_sha256"] == own.attrs["model_sha256"]

# as vLLM's hidden-state extraction: a file a request, hidden_states [tokens,
# layers, d] of some layers and token_ids; the answer's tokens may follow
chains = [json.loads(line) for line in open("c.jsonl")]
tokens, steps = own["activations/resid/tokens"][:], own["steps"]
before = own["activations/resid/before"][:]
some = [5, 0, 8]
os.makedirs("vllm", exist_ok=True)
past = 0
with open("vllm/index.jsonl", "w") as index:
    for c, chain in enumerate(chains):
        text = chain["prompt"] + chain["text"] + chain.get("rest", "")
        ids = json.loads(subprocess.run(
            [keystep, "tokenize", "--model", model], check=True,
            input=json.dumps({"text": text}), capture_output=True,
            text=True).stdout)["ids"]
        rows = np.where(steps["chain"][:] == c)[0]
        x = np.zeros((len(ids), len(some), mean.shape[2]), np.float32)
        first = steps["token_begin"][rows[0]]
        x[first - 1] = before[some][:, rows[0]]
        for r in rows:
            b, e = steps["token_begin"][r], steps["token_end"][r]
            x[b:e] = tokens[some][:, past:past + e - b].transpose(1, 0, 2)
            past += e - b
        save_file({"hidden_states": x, "token_ids": np.array(ids, np.int64)},
                  f"vllm/{c}.safetensors")
        index.write(json.dumps({"chain": chain["id"],
                                "file": f"{c}.safetensors"}) + "\n")
vllm = ("--tokens", "vllm/index.jsonl", "--tensor", "hidden_states", "--order",
        "tokens,layers,d", "--layer-numbers", "5,0,8")
check("--model", model, *vllm, "--positions", "mean", layers=[0, 5, 8],
      tolerance=1e-6)
check("--model", model, *vllm, "--positions", "first,middle,last,before",
      positions=("first", "middle", "last", "before"), layers=[0, 5, 8])
with h5py.File("back.h5") as f:
    assert list(f.attrs["layers"]) == [0, 5, 8]
    for k in ("token_begin", "token_end"):
        assert (f["steps"][k][:] == steps[k][:]).all()

# another chain's file, one with a token in front, one cut short
for what, change in (("is not what chain", lambda t: np.roll(t, 1)),
                     ("is not what chain", lambda t: np.r_[t[0], t[:-1]]),
                     ("the tokenizer has 0 to", lambda t: t + 10**6),
                     ("end at byte", None)):
    from safetensors.numpy import load_file
    t = load_file("vllm/0.safetensors")
    n = steps["token_end"][0]
    bad = ({"hidden_states": t["hidden_states"][:n].copy(),
            "token_ids": t["token_ids"][:n].copy()} if change is None else
           {"hidden_states": t["hidden_states"],
            "token_ids": change(t["token_ids"])})
    save_file(bad, "vllm/bad.safetensors")
    with open("vllm/index.jsonl") as f, open("vllm/bad.jsonl", "w") as g:
        g.write(f.read().replace('"0.safetensors"', '"bad.safetensors"'))
    failed = subprocess.run(
        [keystep, "import", "acts", "--chains", "c.jsonl", "--out", "bad.h5",
         "--model", model, "--tokens", "vllm/bad.jsonl", *vllm[2:]],
        capture_output=True, text=True)
    assert failed.returncode == 1 and what in failed.stderr, failed.stderr
    assert "bad.safetensors" in failed.stderr, failed.stderr
    assert not os.path.exists("bad.h5")
