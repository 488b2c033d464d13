#!/usr/bin/env python3
"""Golden trainings of tests/probes/test_adamw.c and tests/simt/check_adamw.cpp
from PyTorch.

Usage: make_adamw.py > tests/data/probes/adamw.json

Reference: torch.optim.AdamW and BCEWithLogitsLoss (pos_weight) in float64 on
nn.Linear and nn.ReLU, CosineAnnealingLR by epochs where the case says so, the
batches in the order of host/shuffle.h, which is written out again below. Rows,
labels and the first weights are not stored: value() and uniform() are repeated
in the C tests.
"""
import json
import sys

import numpy as np
import torch

M32 = 0xFFFFFFFF


def philox(key, counter):
    """Philox4x32-10 as host/philox.h: four words."""
    c = [counter & M32, counter >> 32 & M32, key[1] & M32, key[1] >> 32 & M32]
    k0, k1 = key[0] & M32, key[0] >> 32 & M32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k0, p1 & M32, p0 >> 32 ^ c[3] ^ k1, p0 & M32]
        k0, k1 = k0 + 0x9E3779B9 & M32, k1 + 0xBB67AE85 & M32
    return c


def mix(x):
    x ^= x >> 16
    x = x * 0x85EBCA6B & M32
    x ^= x >> 13
    x = x * 0xC2B2AE35 & M32
    return x ^ x >> 16


def order(key, epoch, n):
    """Rows in the order of an epoch."""
    bits = (n - 1).bit_length()
    left_bits, right_bits = bits // 2, bits - bits // 2
    keys = sum((philox(key, epoch * 3 + k) for k in range(3)), [])
    out = []
    for i in range(n):
        while True:
            left, right = i >> right_bits, i & (1 << right_bits) - 1
            for k in range(0, 12, 2):
                left ^= mix(right ^ keys[k]) & (1 << left_bits) - 1
                right ^= mix(left ^ keys[k + 1]) & (1 << right_bits) - 1
            i = left << right_bits | right
            if i < n:
                break
        out.append(i)
    assert sorted(out) == list(range(n))
    return out


def uniform(seed, index):
    """[-1, 1) in steps of 2^-23: MurmurHash3's finaliser of a counter."""
    h = (np.asarray(index) + seed * 0x9E3779B9).astype(np.uint64)
    h = (h & M32).astype(np.uint32)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return (h >> np.uint32(8)).astype(np.float64) * 2.0**-23 - 1


def case(name, seed, n, d, layers, n_train, hidden=(), batch=32, epochs=4,
         stop=None, lr=3e-3, decay=1e-4, pos_weight=1.0, constant=False,
         standardise=False):
    x = uniform(seed, np.arange(layers * n * d)).reshape(layers, n, d)
    x = np.where(np.arange(d) % 5 == 3, 8 * x + 16, x)
    x = np.concatenate(list(x), axis=1)          # [n, layers d]
    y = (x[:, 0] + x[:, min(1, d - 1)] +
         uniform(seed + 1, np.arange(n)) > 0).astype(np.float64)
    # training rows: every row but each n // (n - n_train)-th, backwards
    rows = list(range(n))[::-1][:n_train]
    held = list(range(n))[::-1][n_train:]
    if standardise:
        x = (x - x[rows].mean(0)) / x[rows].std(0)
    torch.set_default_dtype(torch.float64)
    sizes = [layers * d, *hidden, 1]
    modules, at, start = [], 0, []
    for i, o in zip(sizes, sizes[1:]):
        linear = torch.nn.Linear(i, o)
        w = uniform(seed + 2, at + np.arange(o * i + o)) / i**0.5
        w = w.astype(np.float32).astype(np.float64)
        at += o * i + o
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(w[:o * i]).reshape(o, i))
            linear.bias.copy_(torch.tensor(w[o * i:]))
        modules += [linear, torch.nn.ReLU()]
    net = torch.nn.Sequential(*modules[:-1])
    loss_of = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(pos_weight))
    opt = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=epochs)
    xt, yt = torch.tensor(x), torch.tensor(y)
    margins = []
    for epoch in range(stop or epochs):
        o = [rows[i] for i in order((seed, 7), epoch, n_train)]
        for b in range(n_train // batch):
            pick = o[b * batch:(b + 1) * batch]
            opt.zero_grad()
            loss_of(net(xt[pick]).squeeze(1), yt[pick]).backward()
            opt.step()
        if not constant:
            schedule.step()
        with torch.no_grad():
            margins.append(net(xt[held]).squeeze(1).tolist())
    params = torch.cat([p.detach().flatten() for p in net.parameters()])
    print(f"{name}: loss {loss_of(net(xt[rows]).squeeze(1), yt[rows]):.3g}, "
          f"{len(params)} parameters", file=sys.stderr)
    return {"name": name, "seed": seed, "n": n, "d": d, "layers": layers,
            "n_train": n_train, "hidden": list(hidden), "batch": batch,
            "epochs": epochs, "stop": stop or epochs, "lr": lr,
            "decay": decay, "pos_weight": pos_weight, "constant": constant,
            "standardise": standardise,
            "param": [float(f"{v:.8g}") for v in params],
            "margin": [[float(f"{v:.8g}") for v in m] for m in margins]}


cases = [
    case("linear", 1, 131, 17, 1, 101),
    case("linear, weighted, decayed, constant rate", 2, 97, 33, 1, 97 - 11,
         batch=7, decay=0.3, pos_weight=2.5, constant=True),
    case("linear over three layers", 3, 83, 16, 3, 64, batch=16, stop=2),
    case("linear, standardised, one feature", 4, 61, 1, 1, 50, batch=50,
         standardise=True, lr=0.1),
    case("one hidden layer", 5, 131, 19, 1, 101, hidden=[5], decay=0.01),
    case("two hidden layers over two layers", 6, 91, 18, 2, 80,
         hidden=[9, 4], batch=13, standardise=True, pos_weight=0.7),
    case("three hidden layers, big batch", 7, 150, 11, 1, 130,
         hidden=[70, 6, 3], batch=65, stop=3),
]
print(json.dumps({"torch": torch.__version__, "cases": cases}))
