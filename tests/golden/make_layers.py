#!/usr/bin/env python3
"""Golden numbers of tests/probes/test_analyses.c: logistic regression on the
margins of several layers' probes, by scikit-learn.

Usage: make_layers.py > tests/data/probes/layers.json
"""
import json

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression

RIDGE, FOLDS, N, CELLS = 1e-4, 3, 90, 3
rng = np.random.default_rng(11)
y = rng.integers(0, 2, N)
fold = np.arange(N) % FOLDS
# two layers know half of it each, the third nothing; every fit has its own
# margins, as inner and outer fits do
inner = rng.normal(size=(CELLS, FOLDS, N)) * [[[1.0]], [[3.0]], [[0.5]]]
inner[0] += 1.2 * (y - 0.5)
inner[1] += 3.0 * (y - 0.5)
inner = inner.astype(np.float32)
score = np.zeros(N)
for f in range(FOLDS):
    train, test = fold != f, fold == f
    x = inner[:, f, :].astype(float).T
    scale = x[train].std(axis=0)
    weight = 0.5 / np.bincount(y[train])[y[train]]
    fit = LogisticRegression(C=1 / RIDGE, tol=1e-12, max_iter=10000)
    fit.fit(x[train] / scale, y[train], sample_weight=weight)
    score[test] = fit.decision_function(x[test] / scale)
print(json.dumps({"settings": {"scikit-learn": sklearn.__version__},
                  "y": y.tolist(), "fold": fold.tolist(),
                  "inner": inner.astype(float).tolist(),
                  "score": score.tolist()}))
