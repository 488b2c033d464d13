#!/usr/bin/env python3
"""Golden numbers of tests/probes/test_graded.c: ridge regression with nested
choice by scikit-learn, rank correlations by scipy.

Usage: make_graded.py > tests/data/probes/graded.json
"""
import json

import numpy as np
import scipy
import sklearn
from scipy.stats import rankdata, spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

STRENGTHS = 10.0 ** (-3 + 6 * np.arange(9) / 8)
N, D, FOLDS, INNER, CHAINS = 120, 8, 4, 3, 30
rng = np.random.default_rng(8)
x = rng.normal(size=(N, D)) @ rng.normal(size=(D, D))
x[:, 1] = 1000 + 7 * x[:, 1]
x[:, 4] = 0.25  # constant
x = x.astype(np.float32).astype(float)
# heavy tails, and ties
raw = np.round(np.exp(x[:, 0] / x[:, 0].std() + 0.7 * rng.normal(size=N)), 1)
target = (rankdata(raw) - 0.5) / N
other = rng.normal(size=N)
chain = np.arange(N) // (N // CHAINS)
fold = chain % FOLDS


def part(f, g):
    """Inner part of fold g where f is tested."""
    return ((g - f - 1) % FOLDS) * INNER // (FOLDS - 1)


def predict(train, y, strength):
    z = StandardScaler().fit(x[train]).transform(x)
    fit = Ridge(alpha=strength * train.sum(), solver="cholesky")
    return fit.fit(z[train], y[train]).predict(z)


def nested(y):
    score, chosen, least = np.zeros(N), [], []
    for f in range(FOLDS):
        losses = []
        for s in STRENGTHS:
            inner = []
            for p in range(INNER):
                out = np.isin(fold, [g for g in range(FOLDS)
                                     if g != f and part(f, g) == p])
                z = predict(~out & (fold != f), y, s)
                inner.append(np.mean((z - y)[out] ** 2))
            losses.append(np.mean(inner))
        best = int(np.argmin(losses))
        z = predict(fold != f, y, STRENGTHS[best])
        score[fold == f] = z[fold == f]
        chosen.append(STRENGTHS[best])
        least.append(losses[best])
    return {"score": score.tolist(), "chosen": chosen, "loss": least}


fits = [nested(target), nested(other)]
score = np.float32(fits[0]["score"]).astype(float)
within = [spearmanr(score[chain == c], target[chain == c]).statistic
          for c in range(CHAINS) if len(set(raw[chain == c])) > 1]
print(json.dumps({
    "settings": {"scikit-learn": sklearn.__version__,
                 "scipy": scipy.__version__},
    "x": x.tolist(), "raw": raw.tolist(), "target": target.tolist(),
    "other": other.tolist(), "chain": chain.tolist(), "fold": fold.tolist(),
    "fits": fits, "spearman": spearmanr(score, raw).statistic,
    "within": float(np.mean(within)), "r2": r2_score(target, score)}))
