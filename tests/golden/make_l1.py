#!/usr/bin/env python3
"""Golden fits of tests/probes/test_l1.c from scikit-learn.

Usage: make_l1.py > tests/data/probes/l1.json

Reference: LogisticRegression(l1_ratio=1, solver='saga',
class_weight='balanced') in float64 on standardised features: its intercept is
not regularised. That the solver got there is checked, not believed: the
optimality conditions of the objective over C n must be met within 1e-9.
"""
import json
import sys

import numpy as np
import sklearn
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

N, D, FOLDS = 150, 14, 3
RATIOS = [0.9, 0.5, 0.2, 0.05, 0.01]
rng = np.random.default_rng(3)
x = rng.normal(size=(N, D)) @ (np.eye(D) + 0.4 * rng.normal(size=(D, D)))
y = (x[:, 1] - 0.8 * x[:, 4] + 2 * rng.normal(size=N) > 1.2).astype(int)
x[:, 2] = 500 + 3 * x[:, 2]
x[:, 6] = -2  # constant
x[:, 9] = x[:, 8] + 0.05 * rng.normal(size=N)  # nearly the same
x = x.astype(np.float32).astype(float)
fold = np.arange(N) % FOLDS
fits, worst = [], 0.0
for f in range(FOLDS):
    train = fold != f
    scaler = StandardScaler().fit(x[train])
    z, t = scaler.transform(x), y[train]
    n = train.sum()
    c = 0.5 / np.bincount(t)[t]
    gap = z[train][t == 1].mean(0) - z[train][t == 0].mean(0)
    for ratio in RATIOS:
        lam = ratio * np.abs(gap).max() / 4
        fit = LogisticRegression(l1_ratio=1, solver="saga", C=1 / (lam * n),
                                 class_weight="balanced", tol=1e-14,
                                 max_iter=2000000).fit(z[train], t)
        w, b = fit.coef_[0], fit.intercept_[0]
        r = c * (expit(z[train] @ w + b) - t)
        g = r @ z[train]
        off = np.where(w != 0, np.abs(g + lam * np.sign(w)),
                       np.maximum(np.abs(g) - lam, 0))
        worst = max(worst, off.max(), abs(r.sum()))
        m = z[train] @ w + b
        loss = (c * np.logaddexp(0, np.where(t == 1, -m, m))).sum()
        fits.append({"fold": f, "ratio": ratio, "lambda": lam,
                     "weight": w.tolist(), "bias": b,
                     "objective": loss + lam * np.abs(w).sum(),
                     "margin": (z[~train] @ w + b).tolist()})
if worst > 1e-9:
    sys.exit(f"a condition is missed by {worst}")
print(json.dumps({"settings": {"scikit-learn": sklearn.__version__,
                               "worst condition": worst},
                  "x": x.tolist(), "y": y.tolist(), "fits": fits}))
