#!/usr/bin/env python3
"""Golden maps of tests/probes/test_linear_map.c.

Usage: make_linear_map.py > tests/data/probes/linear_map.json

Ridge: scikit-learn's Ridge(alpha = strength n) on StandardScaler's features.
Procrustes: scipy.linalg.orthogonal_procrustes on centred rows where both
spaces have one dimension; else numpy's SVD of the cross-covariance. R^2: one
minus squared errors over squares about the training mean, of held-out rows,
each dimension divided by its training deviation, constant ones left out.
"""
import json

import numpy as np
import scipy
import sklearn
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

HELD = 9


def r2(train_y, y, mapped):
    deviation = train_y.std(0)
    keep = deviation > 1e-9
    error = ((y - mapped)[:, keep] / deviation[keep])**2
    there = ((y - train_y.mean(0))[:, keep] / deviation[keep])**2
    return 1 - error.sum() / there.sum()


def ridge(x, y, held, strength):
    scaler = StandardScaler().fit(x)
    model = Ridge(alpha=strength * len(x), solver="cholesky")
    return model.fit(scaler.transform(x), y).predict(scaler.transform(held))


def procrustes(x, y, held):
    xc, yc = x - x.mean(0), y - y.mean(0)
    if x.shape[1] == y.shape[1]:
        r, scale = orthogonal_procrustes(xc, yc)
    else:
        u, s, vt = np.linalg.svd(xc.T @ yc, full_matrices=False)
        keep = s > 1e-9 * s[0]  # a constant dimension has no direction
        r, scale = u[:, keep] @ vt[keep], s.sum()
    factor = scale / ((xc @ r)**2).sum()
    return y.mean(0) + factor * (held - x.mean(0)) @ r


def case(name, seed, n, d_in, d_out, noise, odd=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + HELD, d_in)) @ rng.normal(size=(d_in, d_in))
    x += 3 * rng.normal(size=d_in)
    y = x @ rng.normal(size=(d_in, d_out)) + noise * rng.normal(
        size=(n + HELD, d_out)) - 2
    if odd:  # badly scaled, far from zero, constant
        x[:, 1] = x[:, 1] * 1e4 + 1e6
        x[:, 2] = 3.25
        y[:, 0] = y[:, 0] * 1e-3 + 50
        y[:, 2] = -1.5
    x, y = (a.astype(np.float32) for a in (x, y))
    tx, ty, hx, hy = (a.astype(np.float64)
                      for a in (x[:n], y[:n], x[n:], y[n:]))
    maps = [{"kind": "ridge", "strength": s, "mapped": ridge(tx, ty, hx, s)}
            for s in (1e-5, 1e-2, 1, 100)]
    maps.append({"kind": "procrustes", "strength": 0,
                 "mapped": procrustes(tx, ty, hx)})
    for m in maps:
        m["r2"] = r2(ty, hy, m["mapped"])
        m["mapped"] = m["mapped"].ravel().tolist()
    return {"name": name, "n": n, "held": HELD, "d_in": d_in, "d_out": d_out,
            "x": [float(v) for v in x.ravel()],
            "y": [float(v) for v in y.ravel()], "maps": maps}


print(json.dumps({
    "settings": {"numpy": np.__version__, "scipy": scipy.__version__,
                 "sklearn": sklearn.__version__},
    "cases": [case("one dimension", 1, 61, 5, 5, 0.3),
              case("to fewer", 2, 53, 7, 3, 1),
              case("to more", 3, 47, 3, 8, 0.5),
              case("badly scaled and constant", 4, 71, 6, 5, 0.2, odd=True)]}))
