#!/usr/bin/env python3
"""Probe training: scikit-learn's logistic regression (lbfgs), and the published
AdamW loop in torch where torch is here; rows x width as keystep bench probe."""
import time

import numpy as np
from sklearn.linear_model import LogisticRegression

import common


def adamw(x, y, epochs):
    import torch
    device = "cuda" if torch.cuda.is_available() else "cpu"
    xs = torch.from_numpy(x).to(device)
    ys = torch.from_numpy(y.astype(np.float32)).to(device)
    model = torch.nn.Linear(x.shape[1], 1).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = torch.nn.BCEWithLogitsLoss()
    began = time.perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(xs), device=device)
        for at in range(0, len(xs), 32):
            batch = order[at:at + 32]
            optimizer.zero_grad()
            loss(model(xs[batch])[:, 0], ys[batch]).backward()
            optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, "torch %s on %s" % (
        torch.__version__, device)


def main():
    args = common.options(__doc__)
    n, d = (200, 16) if args.tiny else (8000, 576)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, d)).astype(np.float32)
    y = (x[:, 0] + rng.standard_normal(n) > 0).astype(np.int64)
    began = time.perf_counter()
    LogisticRegression(C=0.1, max_iter=1000).fit(x, y)
    rows = [{"what": "l2 logistic regression, one fit", "rows": n, "width": d,
             "peer": "scikit-learn lbfgs",
             "seconds": "%.4f" % (time.perf_counter() - began)}]
    epochs = 1 if args.tiny else 5
    try:
        seconds, peer = adamw(x, y, epochs)
        rows.append({"what": "AdamW, batch 32, %d epochs" % epochs, "rows": n,
                     "width": d, "peer": peer, "seconds": "%.4f" % seconds})
    except ImportError:
        print("no torch here: no AdamW loop")
    common.write(args.out, rows)


main()
