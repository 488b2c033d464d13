#!/usr/bin/env python3
"""Golden numbers of tests/probes/test_removed.c from scikit-learn and scipy.

Usage: make_removed.py > tests/data/probes/removed.json

Activations x of which features z were taken out: LinearRegression on
StandardScaler's features, fitted on the rows outside a fold; the nested probe
on what is left; and correlations of x's columns with labels and scores.
"""
import json

import numpy as np
import scipy
import sklearn
from scipy import stats
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.preprocessing import StandardScaler

FOLDS, STRENGTHS = 5, [1e-3, 1e-2, 1e-1, 1]
rng = np.random.default_rng(11)
n, d, k = 143, 9, 6
z = rng.normal(size=(n, k))
z[:, 1] = 3 * z[:, 0] + 40        # says what feature 0 says
z[:, 2] = 2.5                     # constant
z[:, 3] = rng.random(n) < 0.1     # a flag
z[:, 4] = 1000 + 200 * z[:, 4]
z = z.astype(np.float32)
y = (z[:, 0] + rng.normal(size=n) > 0).astype(int)
x = rng.normal(size=(n, d)) + z[:, [0]] * rng.normal(size=(1, d)) \
    + 0.3 * z[:, [3]] + 0.002 * z[:, [4]] * rng.normal(size=(1, d)) + 5
x[:, 2] += 0.8 * y
x = x.astype(np.float32)
fold = rng.integers(0, FOLDS, n)
group = np.sort(rng.integers(0, 20, n))
group = np.unique(group, return_inverse=True)[1]


def left(train):
    scaler = StandardScaler().fit(z[train].astype(float))
    features = scaler.transform(z.astype(float))
    # a feature that is constant in training has no part, whatever it does
    features[:, z[train].min(0) == z[train].max(0)] = 0
    fit = LinearRegression().fit(features[train], x[train].astype(float))
    return x - fit.predict(features)


def margins(r, train, c):
    scaler = StandardScaler().fit(r[train])
    model = LogisticRegression(C=c, class_weight="balanced", tol=1e-12,
                               solver="newton-cholesky", max_iter=1000)
    model.fit(scaler.transform(r[train]), y[train])
    return model.decision_function(scaler.transform(r))


def loss(m, rows):
    each = np.logaddexp(0, np.where(y[rows] == 1, -m[rows], m[rows]))
    return np.mean([each[y[rows] == c].mean() for c in (0, 1)])


score = np.zeros(n)
for f in range(FOLDS):
    r = left(np.flatnonzero(fold != f))
    total = [sum(loss(margins(r, np.flatnonzero((fold != f) & (fold != g)), c),
                      np.flatnonzero(fold == g))
                 for g in range(FOLDS) if g != f) for c in STRENGTHS]
    c = STRENGTHS[int(np.argmin(total))]
    score[fold == f] = margins(r, np.flatnonzero(fold != f), c)[fold == f]

r = [[stats.pointbiserialr(y, x[:, j].astype(float)).statistic,
      stats.pearsonr(x[:, j].astype(float), score).statistic]
     for j in range(d)]
print(json.dumps({
    "settings": {"numpy": np.__version__, "scipy": scipy.__version__,
                 "sklearn": sklearn.__version__},
    "n": n, "d": d, "k": k, "x": x.ravel().tolist(), "z": z.ravel().tolist(),
    "y": y.tolist(), "fold": fold.tolist(), "group": group.tolist(),
    "left": [float(f"{v:.9g}") for v in
             left(np.flatnonzero(fold != 1)).ravel()],
    "score": score.tolist(), "r": r,
}))
