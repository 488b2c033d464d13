#!/usr/bin/env python3
"""A summary.json that holds every section that keystep report shows, with round
figures by a formula. They are nobody's measurement.

Usage: make_report.py > tests/data/report/full/summary.json
"""
import json

LAYERS = range(6)
POSITIONS = {"mean": 0.45, "first": 0.2, "last": 0.3}


def interval(value, half=0.02, low=0.0, high=1.0):
    return {"value": round(value, 6), "low": round(max(low, value - half), 6),
            "high": round(min(high, value + half), 6)}


def signed(value, half=0.03):
    return interval(value, half, -1.0)


def metrics(value):
    return {"accuracy": interval(value), "balanced_accuracy": interval(value),
            "auc": interval(min(1, value + 0.03)),
            "within_chain_auc": interval(min(1, value + 0.02)),
            "brier": interval(0.25 - 0.4 * (value - 0.5), 0.01)}


def where(position):
    return {"stream": "resid", "position": position}


def accuracy(position, layer):
    return 0.5 + POSITIONS[position] * (layer / 5) ** 2


def bins(position):
    out = []
    for i in range(10):
        p = (i + 0.5) / 10
        out.append({"n": 40 + 3 * i, "predicted": p, "observed": interval(
            p + (0.5 - p) * (0.1 if position == "mean" else 0.25), 0.05)})
    return {"bins": out, "ece": interval(0.03, 0.01)}


def series(position):
    top = accuracy(position, 5)
    return {**where(position), "layers": [
        {"layer": l, **metrics(accuracy(position, l)),
         "p": 0.5 - 0.0999 * l, "p_holm": min(1, 6 * (0.5 - 0.0999 * l))}
        for l in LAYERS],
        "best": {**metrics(top), "p": 0.0001, "p_holm": 0.0003,
                 "calibration": bins(position)},
        "best_layer_by_fold": [5, 5, 4, 5, 5]}


def gains(value):
    return [{**where(p), **signed(accuracy(p, 5) - value), "p": 0.0001,
             "p_holm": 0.0004} for p in POSITIONS]


BASELINES = [("majority", 0.5), ("position+length", 0.57),
             ("bag of words", 0.61), ("TF-IDF 1-5 grams", 0.63),
             ("chain majority", 0.06)]
FEATURES = [("position", 0.21), ("length", -0.17), ("numbers", 0.12),
            ("operators", 0.08), ("planning", -0.03)]

summary = {
    "format": "keystep summary", "format_version": 1,
    "program": "keystep 0.1.0", "model": "example", "model_sha256": "0" * 64,
    "dataset": "labels.jsonl", "context": "full", "protocol": "honest",
    "rows": {"steps": 1200, "important": 500, "removable": 700, "chains": 150,
             "problems": 120, "unlabelled": 90, "invalid": 0,
             "chains_without_labels": 0, "texts_in_two_folds": 12},
    "settings": {"folds": 5, "inner_parts": 4, "seeds": 1, "seed": 1,
                 "bootstrap": 2000, "strengths": [0.01, 0.1]},
    "fits": 900, "most_passes": 40, "unconverged": 0, "other_fits": 300,
    "other_unconverged": 0,
    "probes": [series(p) for p in POSITIONS],
    "permuted_labels": [{**metrics(0.5), **where(p)} for p in POSITIONS],
    "baselines": [{"name": name, "note": f"what {name} does",
                   "metrics": metrics(value),
                   "best_layer_minus_this": gains(value)}
                  for name, value in BASELINES],
    "rivals": [{"name": "random weights",
                "probes": [{**series(p), "best": metrics(0.55)}
                           for p in POSITIONS],
                "best_layer_minus_this": gains(0.55)}],
    "strata": [{"value": str(h), "important": 250, "removable": 700,
                "balanced_accuracy": [
                    {**where(p), **interval(accuracy(p, 5) - 0.02 * h)}
                    for p in POSITIONS]} for h in (1, 2)],
    "other_probes": [
        {"probe": "lw-mlp", "kind": "network over all layers", **where("mean"),
         "layer": None, "note": "128 hidden units", "metrics": metrics(0.955),
         "minus_best_l2": signed(0.005)},
        {"probe": "difference of means", "kind": "direction", **where("mean"),
         "layer": 5, "note": "of the two classes", "metrics": metrics(0.88),
         "minus_best_l2": signed(-0.07)}],
    "protocols": [
        {"probe": "lw-mlp", **where("mean"), "difference": signed(0.04),
         "steps": [
             {"name": "published", "note": "steps split at random, best epoch",
              "accuracy": interval(0.98), "balanced_accuracy": interval(0.98),
              "sd": 0.004},
             {"name": "split by problem", "note": "best epoch still",
              "accuracy": interval(0.96), "balanced_accuracy": interval(0.96),
              "sd": 0.006},
             {"name": "honest", "note": "epoch chosen inside",
              "accuracy": interval(0.94), "balanced_accuracy": interval(0.94),
              "sd": None}]}],
    "published_texts": [
        {"name": "TF-IDF", "inputs": 4321, "n": 720,
         "accuracy": interval(0.66), "balanced_accuracy": interval(0.66),
         "sd": 0.011}],
    "directions": [{**where(p), "layer": 5, "cosine_l2_mean_difference": 0.6,
                    "cosine_l2_lda": 0.9, "cosine_mean_difference_lda": -0.1,
                    "layers": [{"layer": l, "lda": interval(accuracy(p, l)),
                                "mean_difference": interval(
                                    accuracy(p, l) - 0.01 * l)}
                               for l in LAYERS]} for p in POSITIONS],
    "sparse": [{**where(p), "layer": 5, "needed": 8,
                "balanced_accuracy": interval(accuracy(p, 5)),
                "points": [{"lambda": 1 / n, "dimensions": n,
                            "balanced_accuracy": interval(
                                accuracy(p, 5) - 0.3 / n),
                            "chosen_minus_this": signed(0.3 / n)}
                           for n in (1, 2.4, 8, 33, 120)]}
               for p in POSITIONS],
    "attention": [{"stream": "resid", "position": "tokens", "layer": 4,
                   "balanced_accuracy": interval(0.96),
                   "mean_balanced_accuracy": interval(0.95),
                   "minus_mean": signed(0.01), "entropy": 1.7, "first": 0.05,
                   "last": 0.4, "even": 0.1}],
    "graded": [{**where(p), "score": score, "steps": 900, "layers": [
        {"layer": l, "spearman": signed(0.12 * l * w),
         "within_spearman": signed(0.1 * l * w), "r2": signed(0.05 * l * w)}
        for l in LAYERS],
        "best": {"spearman": signed(0.6 * w), "within_spearman": signed(0.5 * w),
                 "r2": signed(0.25 * w), "layers_by_fold": [5] * 5,
                 "surface_free": signed(0.5 * w),
                 "bands": {"removable_unlabelled": interval(0.7),
                           "unlabelled_important": interval(0.8)}},
        "baselines": [{"name": "position", "note": "index", "r2": signed(0.01),
                       "spearman": signed(0.1), "within_spearman": signed(0.1)}]}
        for score, w in (("influence", 1), ("drop", 0.7)) for p in POSITIONS],
    "analyses": {
        "agreement": [{**where(p), "layers": [
            {"layer": l, "agreement": interval(0.5 + 0.1 * l),
             "correlation": signed(0.2 * l)} for l in LAYERS],
            "trend": signed(0.9), "near_best": interval(0.3)}
            for p in POSITIONS],
        "layer_transfer": [{**where("mean"), "layers": list(LAYERS),
                            "balanced_accuracy": [
                                [round(0.5 + 0.45 * (min(a, b) / 5) ** 2, 6)
                                 for b in LAYERS] for a in LAYERS]}],
        "layers_needed": [{**where("mean"), "sizes": [
            {"n": n, "layers_by_fold": None if n == 6 else [[5, 4, 3, 2, 1][:n]] * 5,
             "balanced_accuracy": interval(0.95 + 0.003 * n),
             "minus_all": signed(0.003 * (n - 6))} for n in range(1, 7)]}],
        "selectivity": [{**where(p), "layer": 5,
                         "real": interval(accuracy(p, 5)),
                         "control": interval(0.54),
                         "selectivity": signed(accuracy(p, 5) - 0.54)}
                        for p in POSITIONS],
        "learning_curve": [{**where("mean"), "layer": 5, "points": [
            {"problems": n, "balanced_accuracy": interval(0.95 - 2 / n, 0.5 / n ** 0.5)}
            for n in (12.5, 24, 48, 96)]}],
        "surface": {
            "features": [{"name": name, "with_labels": signed(r),
                          "with_scores": signed(1.2 * r)}
                         for name, r in FEATURES],
            "removed": [{**where("mean"), "layers": [
                {"layer": l, "balanced_accuracy": interval(
                    accuracy("mean", l) - 0.01 * l),
                 "minus": signed(-0.01 * l)} for l in LAYERS]}]}},
    "claims": [
        {"id": "read", "question": "Can importance be read off the activations?",
         "rule": "yes: the interval lies above 55%; no: below",
         "figure": interval(0.95), "unit": "percent", "p": 0.0001,
         "verdict": "yes", "note": "resid/mean best layer"},
        {"id": "before", "question": "Is it there before the step is written?",
         "rule": "yes: the interval lies above 0; no: below 2 points",
         "figure": signed(-0.01), "unit": "points", "p": 0.4,
         "verdict": "undecided", "note": "resid/before less position"},
        {"id": "spread", "question": "Is it spread over the layers?",
         "rule": "yes: at least half of them", "figure": interval(0.2),
         "unit": "percent", "p": None, "verdict": "no", "note": "layers near"},
        {"id": "trend", "question": "Does it become clearer?",
         "rule": "yes: above 0", "figure": signed(0.83), "unit": "number",
         "p": None, "verdict": "yes", "note": "Spearman"}],
}
print(json.dumps(summary, indent=1))
