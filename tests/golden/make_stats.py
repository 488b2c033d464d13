#!/usr/bin/env python3
"""Golden numbers of tests/probes/test_stats.c from scikit-learn and scipy.

Usage: make_stats.py > tests/data/probes/stats.json
"""
import json

import numpy as np
from scipy import stats
from scipy.special import expit
from sklearn import metrics


def case(seed, n, chains, ties):
    rng = np.random.default_rng(seed)
    chain = np.sort(rng.integers(0, chains, n))
    chain = np.unique(chain, return_inverse=True)[1]
    y = rng.integers(0, 2, n)
    score = rng.normal(size=n) + 0.7 * (y - 0.5)
    if ties:
        score = np.round(score, 1)
    score = score.astype(np.float32)
    wins = pairs = 0.0
    for c in np.unique(chain):
        one, zero = score[(chain == c) & (y == 1)], score[(chain == c) & (y == 0)]
        diff = one[:, None] - zero[None, :]
        wins += (diff > 0).sum() + 0.5 * (diff == 0).sum()
        pairs += diff.size
    predicted = score > 0
    x = rng.normal(size=n) + y
    return {
        "score": [float(s) for s in score], "y": y.tolist(),
        "chain": chain.tolist(), "x": x.tolist(),
        "accuracy": metrics.accuracy_score(y, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, predicted),
        "auc": metrics.roc_auc_score(y, score),
        "within_chain_auc": wins / pairs,
        "brier": metrics.brier_score_loss(y, expit(score.astype(float))),
        "correlation": stats.pointbiserialr(y, x).statistic,
    }


def wilson(k, n):
    interval = stats.binomtest(k, n).proportion_ci(method="wilson")
    return {"k": k, "n": n, "low": interval.low, "high": interval.high}


print(json.dumps({
    "settings": {"numpy": np.__version__},
    "cases": [case(1, 61, 7, False), case(2, 257, 31, True),
              case(3, 13, 3, True)],
    "wilson": [wilson(0, 5), wilson(4, 5), wilson(5, 5), wilson(81, 263)],
}))
