#!/usr/bin/env python3
"""scikit-learn on the grid of `keystep bench probe`: layers x 8 strengths x
folds of standardised, class-balanced L2 logistic regression, layers side by
side in one process each.

Usage: peer_sklearn.py ACTS.h5 [--layers N] [--solver NAME] [--folds N]
           [--run-folds N] [--try-folds N] [--try-strengths N]
Without --solver every candidate is timed on one layer and the fastest whose
results all have a gradient of at most 1e-6 (max-norm, of the mean loss, in
double, as keystep's) is named; with --solver that one is run on N layers. A
solver's tol is tightened until the gradient is there, and only the last run
counts. Prints one JSON object. liblinear is no candidate: it penalises the
intercept, so it solves another problem.
"""
import argparse
import json
import os
import time
import warnings

import numpy as np
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from common import STRENGTHS, TOLERANCE, open_rows, read_layer, spread_layers

# name: solver, type of x, weights of a strength start the next one's fit
CANDIDATES = {
    "lbfgs": ("lbfgs", np.float64, False),
    "lbfgs, warm": ("lbfgs", np.float64, True),
    "lbfgs, f32, warm": ("lbfgs", np.float32, True),
    "newton-cg, warm": ("newton-cg", np.float64, True),
    "newton-cholesky": ("newton-cholesky", np.float64, False),
    "newton-cholesky, warm": ("newton-cholesky", np.float64, True),
}


def gradient_norm(x, y, model, strength):
    """Max-norm of the gradient of the mean loss + |w|^2 / (2 C n)."""
    n = len(y)
    weight = n / (2 * np.bincount(y))[y]
    w, b = model.coef_[0].astype(np.float64), float(model.intercept_[0])
    z = x.astype(np.float64) @ w + b
    r = weight * (1 / (1 + np.exp(-z)) - y) / n
    return max(np.abs(x.T.astype(np.float64) @ r + w / (strength * n)).max(),
               abs(r.sum()))


def fit_layer(x, y, fold, candidate, tol, check, n_folds,
              strengths=STRENGTHS):
    """The strengths, the first folds held out in turn: seconds, worst
    gradient, accuracy."""
    solver, kind, warm = CANDIDATES[candidate]
    seconds, worst, right, tests = 0.0, 0.0, 0, 0
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for f in range(n_folds):
            start = time.perf_counter()
            train, test = fold != f, fold == f
            scaler = StandardScaler()
            inner = scaler.fit_transform(x[train].astype(kind))
            outer = scaler.transform(x[test].astype(kind))
            seconds += time.perf_counter() - start
            model = LogisticRegression(solver=solver, tol=tol, max_iter=5000,
                                       class_weight="balanced",
                                       warm_start=warm)
            for strength in strengths:
                start = time.perf_counter()
                model.C = strength
                model.fit(inner, y[train])
                said = model.predict(outer)
                seconds += time.perf_counter() - start
                right += int((said == y[test]).sum())
                tests += int(test.sum())
                if check:
                    worst = max(worst, gradient_norm(inner, y[train], model,
                                                     strength))
    return seconds, worst, right / tests


def choose(x, y, fold, n_folds, strengths):
    """The fastest candidate that reaches the gradient, and every time."""
    tried, best = {}, None
    for name in CANDIDATES:
        for tol in (TOLERANCE, TOLERANCE / 4, TOLERANCE / 30):
            seconds, worst, _ = fit_layer(x, y, fold, name, tol, True,
                                          n_folds, strengths)
            tried[name] = {"seconds": seconds, "gradient": worst, "tol": tol}
            if worst <= TOLERANCE:
                if best is None or seconds < tried[best]["seconds"]:
                    best = name
                break
            if best and seconds > 3 * tried[best]["seconds"]:
                break
    return best, tried


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("acts")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--solver", choices=CANDIDATES)
    parser.add_argument("--tol", type=float, default=TOLERANCE)
    parser.add_argument("--try-folds", type=int, default=1,
                        help="folds that the choice is made on")
    parser.add_argument("--try-strengths", type=int, default=len(STRENGTHS),
                        help="strengths that it is made on, evenly spread")
    parser.add_argument("--run-folds", type=int,
                        help="folds of those there are that are timed")
    options = parser.parse_args()
    file, keep, y, problem = open_rows(options.acts, options.rows)
    fold = problem % options.folds
    n_layers = file["activations/resid/mean"].shape[0]
    if not options.solver:
        x = read_layer(file, keep, n_layers // 2)
        some = spread_layers(len(STRENGTHS), options.try_strengths)
        best, tried = choose(x, y, fold, options.try_folds, STRENGTHS[some])
        if not best:
            raise SystemExit(f"no solver reaches {TOLERANCE}: {tried}")
        print(json.dumps({"solver": best, "tol": tried[best]["tol"],
                          "tried": tried}))
        return
    layers = spread_layers(n_layers, options.layers)
    data = [read_layer(file, keep, layer) for layer in layers]
    run_folds = options.run_folds or options.folds
    cores = os.cpu_count()
    with Parallel(n_jobs=cores) as pool:
        pool(delayed(int)(0) for _ in range(cores))  # workers are started
        start = time.perf_counter()
        found = pool(delayed(fit_layer)(x, y, fold, options.solver,
                                        options.tol, False, run_folds)
                     for x in data)
        seconds = time.perf_counter() - start
        checked = fit_layer(data[0], y, fold, options.solver, options.tol,
                            True, run_folds)
    print(json.dumps({
        "seconds": seconds, "layers": layers, "all_layers": int(n_layers),
        "solver": options.solver, "tol": options.tol,
        "folds": options.folds, "run_folds": run_folds,
        "gradient": checked[1],
        "accuracy": float(np.mean([f[2] for f in found]))}))


if __name__ == "__main__":
    main()
