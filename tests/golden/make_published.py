#!/usr/bin/env python3
"""The published loop of tests/probes/test_published.c in PyTorch.

Usage: make_published.py > tests/data/probes/published.json

For each seed: steps undersampled to equal classes, a stratified 80/20 split,
BCEWithLogitsLoss with pos_weight (positive: removable), AdamW at 3e-4 and
weight decay 1e-4, batches of 32 with the last partial one dropped, 30 epochs,
CosineAnnealingLR by epochs, accuracy on the evaluation rows after each. In
float64, on the rows, the first weights and the order of batches that keystep
draws: host/shuffle.h and host/philox.h, as written out in make_adamw.py.
"""
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import torch

with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
    from make_adamw import order, philox, uniform

N, D, LAYERS = 400, 12, 3
KEEP, EVALUATE, EPOCHS = 1 << 20, 2 << 20, 30


def data():
    x = uniform(21, np.arange(LAYERS * N * D)).reshape(LAYERS, N, D)
    told = uniform(22, np.arange(N))
    y = (told + 0.3 * uniform(23, np.arange(N)) > 0.2).astype(int)
    x[:, :, 0] += 8 * told
    x[:, :, 5] += 1
    x = x.astype(np.float32)
    return x.astype(np.float64), 1 - y          # 1: removable


def split(removable, seed):
    sides = [np.flatnonzero(removable == c) for c in (0, 1)]
    least = min(map(len, sides))
    held = -(-least // 5)
    train, evaluated = [], []
    for c, side in enumerate(sides):
        kept = sorted(side[i] for i in order((seed, KEEP + c), 0,
                                             len(side))[:least])
        places = order((seed, EVALUATE + c), 0, least)
        evaluated += [kept[i] for i in places[:held]]
        train += [kept[i] for i in places[held:]]
    return sorted(map(int, train)), sorted(map(int, evaluated))


def start(seed, sizes):
    at, out = 0, []
    for i, o in zip(sizes, sizes[1:]):
        values = []
        for _ in range((i + 1) * o):
            word = philox((seed, 0), (1 << 40) + at // 4)[at % 4]
            unit = np.float32(word >> 8) * np.float32(2.0**-24)
            values.append((np.float32(2) * unit - np.float32(1)) *
                          np.float32(1 / i**0.5))
            at += 1
        values = np.array(values, np.float64)
        out.append((values[:i * o].reshape(o, i), values[i * o:]))
    return out


def train(x, removable, seed, hidden):
    rows, held = split(removable, seed)
    sizes = [x.shape[1], *hidden, 1]
    modules = []
    for weight, bias in start(seed, sizes):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(weight))
            linear.bias.copy_(torch.tensor(bias))
        modules += [linear, torch.nn.ReLU()]
    net = torch.nn.Sequential(*modules[:-1])
    xt, yt = torch.tensor(x), torch.tensor(removable, dtype=torch.float64)
    negative = float((yt[rows] == 0).sum())
    loss_of = torch.nn.BCEWithLogitsLoss(
        pos_weight=torch.tensor(negative / (len(rows) - negative)))
    opt = torch.optim.AdamW(net.parameters(), lr=3e-4, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=EPOCHS)
    right = []
    for epoch in range(EPOCHS):
        o = [rows[i] for i in order((seed, 0), epoch, len(rows))]
        for b in range(len(rows) // 32):
            pick = o[b * 32:(b + 1) * 32]
            opt.zero_grad()
            loss_of(net(xt[pick]).squeeze(1), yt[pick]).backward()
            opt.step()
        schedule.step()
        with torch.no_grad():
            z = net(xt[held]).squeeze(1)
            right.append(float(((z > 0) == (yt[held] > 0.5)).double().mean()))
    best = int(np.argmax(right))
    print(f"seed {seed}: epoch {best + 1}, {right[best]:.4f}, nearest margin "
          f"{float(z.abs().min()):.1e}", file=sys.stderr)
    return {"seed": seed, "train": rows, "eval": held, "epoch": best + 1,
            "accuracy": right[best]}


def main():
    torch.set_default_dtype(torch.float64)
    x, removable = data()
    cases = [("linear", x.sum(0) / 3, []),
             ("lw-linear", np.concatenate(list(x), axis=1), []),
             ("lw-mlp:6", np.concatenate(list(x), axis=1), [6]),
             ("mlp:8x2", x.sum(0) / 3, [8, 4])]
    print(json.dumps({"torch": torch.__version__, "cases": [
        {"probe": name, "seeds": [train(inputs, removable, seed, hidden)
                                  for seed in (42, 43, 44)]}
        for name, inputs, hidden in cases]}))


if __name__ == "__main__":
    main()
