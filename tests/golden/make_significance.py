#!/usr/bin/env python3
"""Golden numbers of tests/probes/test_significance.c from scipy, statsmodels
and scikit-learn.

Usage: make_significance.py > tests/data/probes/significance.json
"""
import json

import numpy as np
import statsmodels
from scipy import stats
from scipy.special import expit
from sklearn.calibration import calibration_curve
from statsmodels.stats.multitest import multipletests


def rows(seed, n, chains, shift):
    rng = np.random.default_rng(seed)
    chain = np.unique(rng.integers(0, chains, n), return_inverse=True)[1]
    y = rng.integers(0, 2, n)
    score = (rng.normal(size=n) + shift * (y - 0.5)).astype(np.float32)
    return chain, y, score


def within(chain, y, score):
    predicted = score > 0
    dist, found = np.ones(1), 0
    low = 0
    for c in np.unique(chain):
        here = chain == c
        n, k, m = here.sum(), y[here].sum(), predicted[here].sum()
        support = np.arange(max(0, k + m - n), min(k, m) + 1)
        dist = np.convolve(dist, stats.hypergeom.pmf(support, n, k, m))
        low += support[0]
        found += (predicted & (y == 1) & here).sum()
    return float(dist[found - low:].sum())


def within_case(seed, n, chains, shift):
    chain, y, score = rows(seed, n, chains, shift)
    case = {"chain": chain.tolist(), "y": y.tolist(),
            "score": score.astype(float).tolist(),
            "p": within(chain, y, score)}
    if chains == 1:  # then it is Fisher's
        table = [[int(((y == a) & ((score > 0) == b)).sum()) for b in (1, 0)]
                 for a in (1, 0)]
        case["p"] = stats.fisher_exact(table, alternative="greater").pvalue
    return case


def paired_case(seed, n, groups, shift):
    group, y, a = rows(seed, n, groups, shift)
    b = np.random.default_rng(seed + 100).normal(size=n).astype(np.float32)
    weight = np.where(y == 1, 0.5 / (y == 1).sum(), 0.5 / (y == 0).sum())
    right = [((s > 0) == (y == 1)).astype(float) for s in (a, b)]
    d = np.bincount(group, weight * (right[0] - right[1]))
    exact = groups <= 13
    test = stats.permutation_test(
        (d,), lambda x, axis: x.sum(axis=axis), permutation_type="samples",
        n_resamples=np.inf if exact else 200000, vectorized=True,
        rng=np.random.default_rng(5), alternative="two-sided")
    return {"chain": group.tolist(), "y": y.tolist(),
            "score": a.astype(float).tolist(), "b": b.astype(float).tolist(),
            "p": float(test.pvalue), "exact": exact}


def calibration_case(seed, n):
    chain, y, score = rows(seed, n, 40, 1.0)
    p = expit(score.astype(float))
    observed, predicted = calibration_curve(y, p, n_bins=10,
                                            strategy="quantile")
    size = n // 10
    error = sum(size / n * abs(o - q) for o, q in zip(observed, predicted))
    return {"chain": chain.tolist(), "y": y.tolist(),
            "score": score.astype(float).tolist(),
            "observed": observed.tolist(), "predicted": predicted.tolist(),
            "error": error}


P = [0.01, 0.04, 0.03, 0.005, 0.2, 0.04, 1.0, 1e-9]
print(json.dumps({
    "settings": {"numpy": np.__version__,
                 "statsmodels": statsmodels.__version__},
    "within": [within_case(1, 61, 7, 0.7), within_case(2, 257, 31, 0.3),
               within_case(3, 200, 20, 3.0), within_case(4, 40, 1, 0.8),
               within_case(5, 90, 12, -1.0)],
    "paired": [paired_case(1, 61, 7, 1.0), paired_case(2, 150, 12, 0.2),
               paired_case(3, 300, 40, 0.7), paired_case(4, 400, 60, 0.1)],
    "calibration": [calibration_case(6, 300)],
    "holm": {"p": P, "adjusted": multipletests(P, method="holm")[1].tolist()},
}))
