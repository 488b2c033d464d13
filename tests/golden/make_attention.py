#!/usr/bin/env python3
"""Golden fits of tests/probes/test_attention.c: the attention-pooled probe by
torch.optim.LBFGS in float64, from given starts.

Usage: make_attention.py > tests/data/probes/attention.json

That the optimiser got there is checked, not believed: the gradient's max-norm
must be at most 1e-8.
"""
import json
import sys

import numpy as np
import torch

torch.set_num_threads(1)
N, D, FOLDS = 48, 5, 4
rng = np.random.default_rng(12)
tokens = rng.integers(1, 8, N)
offset = np.concatenate([[0], np.cumsum(tokens)])
y = rng.integers(0, 2, N)
fold = np.sort(np.arange(N) % FOLDS)
x = rng.normal(size=(offset[-1], D))
for i in range(N):  # one token tells, and is marked
    t = offset[i] + rng.integers(tokens[i])
    x[t, 1] += 1.5
    x[t, 0] += 1.2 * (2 * y[i] - 1)
x[:, 2] = 200 + 5 * x[:, 2]
x[:, 3] = 0.5  # constant
x = x.astype(np.float32).astype(float)
fits, worst = [], 0.0
for hold in ([0], [2, 3]):
    train = ~np.isin(fold, hold)
    rows = np.repeat(train, tokens)
    mean, sd = x[rows].mean(0), x[rows].std(0)
    z = torch.tensor((x - mean) / np.where(sd > 0, sd, 1))
    step = torch.tensor(np.repeat(np.arange(N), tokens))
    t = torch.tensor(y, dtype=torch.float64)
    c = torch.tensor(np.where(train, 0.5 / np.bincount(y[train])[y], 0))

    def forward(v):
        w, q, b = v[:D], v[D:2 * D], v[2 * D]
        logit = z @ q / D**0.5
        e = torch.exp(logit - logit.max())
        total = torch.zeros(N, dtype=z.dtype).index_add(0, step, e)
        a = e / total[step]
        m = torch.zeros(N, dtype=z.dtype).index_add(0, step, a * (z @ w)) + b
        return m, a

    def objective(v, lam):
        m, _ = forward(v)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            m, t, reduction="none")
        return (c * loss).sum() + lam / 2 * (v[:2 * D] ** 2).sum()

    for strength in (0.05, 1.0):
        lam = 1 / (strength * train.sum())
        for kind in ("zero", "random"):
            start = np.zeros(2 * D + 1)
            if kind == "random":
                start = 0.5 * rng.normal(size=2 * D + 1)
            start[[3, D + 3]] = 0
            v = torch.tensor(start, requires_grad=True)
            opt = torch.optim.LBFGS([v], max_iter=5000, tolerance_grad=1e-10,
                                    tolerance_change=1e-16, history_size=20,
                                    line_search_fn="strong_wolfe")

            def closure():
                opt.zero_grad()
                f = objective(v, lam)
                f.backward()
                return f

            for _ in range(5):
                opt.step(closure)
            f = closure().item()
            worst = max(worst, v.grad.abs().max().item())
            m, a = forward(v.detach())
            a = a.numpy()
            entropy = [1.0 if tokens[i] == 1 else
                       float(-(p * np.log(p)).sum() / np.log(tokens[i]))
                       for i, p in enumerate(np.split(a, offset[1:-1]))]
            fits.append({
                "hold": int(sum(1 << h for h in hold)), "strength": strength,
                "start": start.tolist(), "param": v.tolist(), "objective": f,
                "margin": m.tolist(), "first": a[offset[:-1]].tolist(),
                "last": a[offset[1:] - 1].tolist(), "entropy": entropy})
if worst > 1e-8:
    sys.exit(f"a gradient of {worst} is left")
print(json.dumps({"settings": {"torch": torch.__version__, "gradient": worst},
                  "x": x.tolist(), "offset": offset.tolist(), "y": y.tolist(),
                  "fold": fold.tolist(), "fits": fits}))
