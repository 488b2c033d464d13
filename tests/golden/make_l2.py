#!/usr/bin/env python3
"""Golden fits of tests/probes/test_l2.c from scikit-learn.

Usage: make_l2.py > tests/data/probes/l2.json

Reference: LogisticRegression(C, class_weight="balanced",
solver="newton-cholesky") in float64 on features standardised with the mean
and standard deviation of the training rows. scikit-learn minimises
    |w|^2 / 2 + C sum_i s_i log(1 + exp(-z_i)),  s_i = n / (2 n_class);
divided by C n that is the objective of probes/l2.h, so a column's strength IS
C and lambda = 1 / (C n). That the solver got there is checked, not believed:
the max-norm of the gradient of the objective over C n (the mean loss) must be
at most 1e-9, else this program stops; the largest is in the file's settings.

The matrix is not stored: value() below is repeated in test_l2.c. All its steps
but the last are exact in float64, so both round the same numbers to float32;
a sum of their bits is in the file.
"""
import json
import sys

import numpy as np
import sklearn
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

GRADIENT = 1e-9


def uniform(seed, index):
    """[-1, 1) in steps of 2^-23: MurmurHash3's finaliser of a counter."""
    h = (np.asarray(index) + seed * 0x9E3779B9).astype(np.uint64)
    h = (h & 0xFFFFFFFF).astype(np.uint32)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return (h >> np.uint32(8)).astype(np.float64) * 2.0**-23 - 1


def matrix(seed, n, d, odd_features):
    """Neighbours and every third feature are correlated. odd_features:
    feature 2 far from 0 and large, 5 tiny, 7 constant."""
    i, j = np.arange(n)[:, None], np.arange(d)[None, :]
    x = uniform(seed, i * (d + 2) + j) + uniform(
        seed, i * (d + 2) + j + 1) / 2
    x = x + (j % 3 == 0) * uniform(seed, i * (d + 2) + d + 1)
    if odd_features:
        x[:, 2] = x[:, 2] * 4096 + 32768
        x[:, 5] = x[:, 5] * 2.0**-20
        x[:, 7] = 3.25
    return x.astype(np.float32)


def labels(rng, x, share, noise):
    """A linear rule on some features and noise; `share` of the rows are 1.
    Without noise the classes lie apart."""
    z = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    some = min(x.shape[1], 8)
    score = z[:, :some] @ rng.normal(size=some)
    score += noise * score.std() * rng.normal(size=len(x))
    return (score > np.quantile(score, 1 - share)).astype(int)


worst = 0.0


def fit(x, y, held, c):
    global worst
    train = ~held
    x = x.astype(np.float64)
    mean, std = x[train].mean(0), x[train].std(0)
    constant = x[train].min(0) == x[train].max(0)
    std[constant] = 1
    z = (x - mean) / std
    z[:, constant] = 0
    model = LogisticRegression(C=c, class_weight="balanced", tol=1e-12,
                               solver="newton-cholesky", max_iter=1000)
    model.fit(z[train], y[train])
    w, b = model.coef_[0], model.intercept_[0]
    n = train.sum()
    count = np.bincount(y[train], minlength=2)
    r = (expit(z[train] @ w + b) - y[train]) / (2 * count[y[train]])
    gradient = max(np.abs(z[train].T @ r + w / (c * n)).max(), abs(r.sum()))
    if not gradient <= GRADIENT:
        sys.exit(f"scikit-learn stopped at a gradient of {gradient:.2g} "
                 f"(n {n}, d {x.shape[1]}, C {c})")
    worst = max(worst, gradient)
    margin = z[held] @ w + b
    print(f"n {n} d {x.shape[1]} C {c}: gradient {gradient:.1e}, |w| "
          f"{np.linalg.norm(w):.3g}, held-out {held.sum()}, nearest margin "
          f"{np.abs(margin).min(initial=np.inf):.1e}", file=sys.stderr)
    return {"weight": [float(f"{v:.9g}") for v in [*w, b]],
            "right": int((model.predict(z[held]) == y[held]).sum())
            if held.any() else 0}


def case(name, seed, n, d, strengths, holds, share=0.5, noise=0.7,
         odd_features=False, n_designs=1):
    rng = np.random.default_rng(seed)
    x = matrix(seed, n, d, odd_features)
    designs, columns = [], []
    for design in range(n_designs):
        y = labels(rng, x.astype(np.float64), share, noise)
        fold = rng.integers(0, 5, n)
        designs.append({"y": "".join(map(str, y)),
                        "fold": "".join(map(str, fold))})
        for hold in holds:
            held = np.array([hold >> f & 1 for f in fold], bool)
            for c in strengths:
                columns.append({"design": design, "hold": hold, "strength": c,
                                **fit(x, y, held, c)})
    return {"name": name, "seed": seed, "n": n, "d": d,
            "odd_features": odd_features,
            "bits": int(x.view(np.uint32).astype(np.uint64).sum()),
            "designs": designs, "columns": columns}


# Strengths: the least and the largest of keystep probe (1e-4, 10), and 1e3,
# which a caller may ask for. holds: sets of folds as bits; 0: all rows train.
cases = [
    case("odd sizes, two designs", 1, 131, 17, [1e-4, 0.1, 10, 1e3],
         [0b00100, 0b01001, 0], n_designs=2),
    case("one feature", 2, 37, 1, [1e-2, 10], [0b00001]),
    case("badly scaled and constant features", 3, 97, 9, [1e-3, 1, 10, 1e3],
         [0b00010, 0], odd_features=True),
    case("unbalanced", 4, 509, 13, [1e-2, 10, 1e3], [0b10000], share=0.04),
    case("separable", 5, 83, 5, [1e-2, 10, 1e3], [0b00001, 0], noise=0),
    case("wide, fewer rows than the spectrum's rank", 6, 61, 1301, [1e-3, 10],
         [0b00010]),
    case("wide, more rows than the spectrum's rank", 7, 401, 1303,
         [1e-4, 10], [0b01000]),
    case("several lanes", 8, 3203, 33, [1e-4, 0.1, 10, 1e3],
         [0b00001, 0b00110]),
]
print(json.dumps({
    "settings": {"numpy": np.__version__, "sklearn": sklearn.__version__,
                 "solver": "newton-cholesky, float64, tol 1e-12",
                 "worst_gradient": worst},
    "cases": cases}))
