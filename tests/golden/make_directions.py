#!/usr/bin/env python3
"""Golden numbers of tests/probes/test_directions.c: mean differences and
shrunk linear discriminants with nested choice, by numpy and scikit-learn.

Usage: make_directions.py > tests/data/probes/directions.json
"""
import json

import numpy as np
import sklearn
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import StandardScaler

SHRINKAGES = [1e-3, 1e-2, 1e-1, 0.3, 0.9]
N, D, FOLDS, INNER, SEEDS = 110, 9, 5, 2, 2
rng = np.random.default_rng(5)
y = (rng.random(N) < 0.35).astype(int)
x = rng.normal(size=(N, D)) @ rng.normal(size=(D, D))
x[:, 0] = 300 + 40 * x[:, 0]
x[:, 3] = 1.5  # constant
x[:, 5] += 1.1 * (y - 0.5)
x[:, 6] *= 1e-4
x = x.astype(np.float32).astype(float)
folds = [rng.permutation(np.arange(N) % FOLDS) for _ in range(SEEDS)]


def part(f, g):
    """Inner part of fold g where f is tested."""
    return ((g - f - 1) % FOLDS) * INNER // (FOLDS - 1)


def margins(train, kind):
    """Of all rows, and the weights on standardised features."""
    scaler = StandardScaler().fit(x[train])
    z, t = scaler.transform(x), y[train]
    if kind is None:
        m0, m1 = z[train][t == 0].mean(0), z[train][t == 1].mean(0)
        w = m1 - m0
        of = [z[train][t == c] @ w for c in (0, 1)]
        a = w @ w / np.mean([v.var() for v in of])
        return a * ((z - (m0 + m1) / 2) @ w), a * w
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=kind,
                                     priors=[0.5, 0.5]).fit(z[train], t)
    return lda.decision_function(z), lda.coef_[0]


def loss(z, rows):
    s = np.logaddexp(0, np.where(y[rows] == 1, -z[rows], z[rows]))
    return np.mean([s[y[rows] == c].mean() for c in (0, 1)])


def nested(fold, candidates):
    score, chosen, least, weights = np.zeros(N), [], [], []
    for f in range(FOLDS):
        losses = []
        for c in candidates:
            inner = []
            for p in range(INNER):
                out = np.isin(fold, [g for g in range(FOLDS)
                                     if g != f and part(f, g) == p])
                z, _ = margins(~out & (fold != f), c)
                inner.append(loss(z, out))
            losses.append(np.mean(inner))
        best = candidates[int(np.argmin(losses))]
        z, w = margins(fold != f, best)
        score[fold == f] = z[fold == f]
        chosen.append(best)
        least.append(float(min(losses)))
        weights.append(w.tolist())
    return {"score": score.tolist(), "chosen": chosen, "loss": least,
            "weight": weights}


print(json.dumps({
    "settings": {"scikit-learn": sklearn.__version__}, "x": x.tolist(),
    "y": y.tolist(), "folds": [f.tolist() for f in folds],
    "mean_difference": [nested(f, [None]) for f in folds],
    "lda": [nested(f, SHRINKAGES) for f in folds]}))
