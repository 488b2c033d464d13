#!/usr/bin/env python3
"""Golden numbers of tests/probes/test_agree.c from scikit-learn and scipy.

Usage: make_agree.py > tests/data/probes/agree.json
"""
import json
import math

import numpy as np
import scipy
import sklearn
from scipy import stats
from sklearn.metrics import cohen_kappa_score

NAMES = [("drop", "drop"), ("influence", "resample")]


def number(value):
    value = float(value)
    return value if math.isfinite(value) else None


def scores(rng, n, base, digits):
    values = np.round(base + rng.normal(size=n), digits)
    return [None if rng.random() < 0.1 else float(v) for v in values]


def chains(seed, count, longest, digits):
    """Label lines of two files on the same chains, a few in one alone."""
    rng = np.random.default_rng(seed)
    a, b = [], []
    for i in range(count):
        chain, n = f"p{i // 2}/{i % 2}", int(rng.integers(1, longest))
        base = rng.normal(size=n)
        one, two = ({"chain": chain,
                     "labels": [None if rng.random() < 0.3
                                else int(v + rng.normal() > 0) for v in base],
                     "scores": {"drop": scores(rng, n, base, digits), name:
                                scores(rng, n, base, digits)}}
                    for name in ("influence", "resample"))
        if i != 1:
            a.append(one)
        if i != 4:
            b.append(two)
    return a, b


def correlations(pairs):
    """Pooled, and the mean over chains that have one."""
    def both(x, y):
        if len(x) < 2 or len(set(x)) < 2 or len(set(y)) < 2:
            return None
        return (stats.spearmanr(x, y).statistic,
                stats.kendalltau(x, y, variant="b").statistic)
    own = [v for v in (both(x, y) for x, y in pairs) if v is not None]
    x = [v for pair in pairs for v in pair[0]]
    y = [v for pair in pairs for v in pair[1]]
    within = np.mean(own, axis=0) if own else [math.nan] * 2
    return {"steps": len(x), "chains": len(own),
            "within": [number(v) for v in within],
            "pooled": [number(v) for v in both(x, y) or [math.nan] * 2]}


def expected(a, b):
    other = {line["chain"]: line for line in b}
    both = [(line, other[line["chain"]]) for line in a
            if line["chain"] in other]
    x = [v for one, _ in both for v in one["labels"]]
    y = [v for _, two in both for v in two["labels"]]
    labelled = [(u, v) for u, v in zip(x, y) if u is not None and v is not None]
    order = {1: 0, 0: 1, None: 2}
    confusion = np.zeros((3, 3), int)
    for u, v in zip(x, y):
        confusion[order[u], order[v]] += 1
    out = {"confusion": confusion.tolist(),
           "same": number(np.mean([u == v for u, v in labelled])),
           "kappa": number(cohen_kappa_score(*zip(*labelled))),
           "kappa_3": number(cohen_kappa_score([order[v] for v in x],
                                               [order[v] for v in y])),
           "scores": []}
    for p, q in NAMES:
        pairs = []
        for one, two in both:
            rows = [(u, v) for u, v in zip(one["scores"][p], two["scores"][q])
                    if u is not None and v is not None]
            pairs.append(([u for u, _ in rows], [v for _, v in rows]))
        out["scores"].append(correlations(pairs))
    return out


def case(*arguments):
    a, b = chains(*arguments)
    return {"a": a, "b": b, **expected(a, b)}


print(json.dumps({
    "settings": {"numpy": np.__version__, "scipy": scipy.__version__,
                 "scikit-learn": sklearn.__version__},
    "cases": [case(1, 12, 9, 6), case(2, 31, 14, 0), case(3, 7, 4, 1)],
}))
