#!/usr/bin/env python3
"""The published text baseline of tests/probes/test_published_text.c.

Usage: make_published_text.py > tests/data/probes/published_text.json

Features: TfidfVectorizer(ngram_range=(1, 5), sublinear_tf=True, max_features)
of scikit-learn, fitted on the training steps. Trainings: PyTorch, float64, on
those features: Linear 128, ReLU, Linear 64, ReLU, Linear 1, AdamW at 1e-3 and
weight decay 1e-4, constant, batches of 256 with the last partial one dropped,
30 epochs, accuracy after the last. Rows, first weights and the order of batches
are those that keystep draws (make_published.py); columns stand in the order in
which the data set first has their terms.
"""
import io
import json
import re
import sys
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import sklearn
import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
    from make_adamw import order, philox
    from make_published import split

WORDS = ["so", "Therefore", "we", "have", "x", "7", "12", "n_1", "a", "the",
         "\u00e9t\u00e9", "3x", "STRA\u00dfE", "\u00b2\u00bd", "number", "is"]
HIDDEN, EPOCHS, BATCH = [128, 64], 30, 256


def texts(n, rng):
    joints = [" ", " ", " ", ", ", " + ", "-", "\n", "e\u0301 "]
    out = []
    for _ in range(n):
        words = rng.choice(WORDS, rng.integers(0, 9))
        out.append("".join(w + joints[rng.integers(len(joints))]
                           for w in words))
    return out


def vectorizer(most):
    return TfidfVectorizer(ngram_range=(1, 5), sublinear_tf=True,
                           max_features=most)


def first_met(all_texts):
    """Terms in the order in which keystep numbers them."""
    place = {}
    for text in all_texts:
        tokens = re.findall(r"(?u)\b\w\w+\b", text.lower())
        for i in range(len(tokens)):
            for k in range(min(5, i + 1), 0, -1):
                place.setdefault(" ".join(tokens[i + 1 - k:i + 1]), len(place))
    return place


def features(all_texts, train, most):
    v = vectorizer(most).fit([all_texts[i] for i in train])
    place = first_met(all_texts)
    terms = sorted(v.vocabulary_, key=place.__getitem__)
    x = v.transform(all_texts).toarray()
    return x[:, [v.vocabulary_[t] for t in terms]]


def clear_cut(all_texts, train, least):
    """So many terms that none left out comes as often as one that stays: of
    equals scikit-learn keeps whichever its sort has first."""
    counts = CountVectorizer(ngram_range=(1, 5)).fit_transform(
        [all_texts[i] for i in train]).sum(0)
    counts = np.sort(np.asarray(counts).ravel())[::-1]
    return next(m for m in range(least, len(counts))
                if counts[m - 1] > counts[m])


def start(seed, sizes):
    at, word, out = 0, None, []
    for i, o in zip(sizes, sizes[1:]):
        values = np.empty((i + 1) * o)
        bound = np.float32(1 / i**0.5)
        for k in range(len(values)):
            if at % 4 == 0:
                word = philox((seed, 0), (1 << 40) + at // 4)
            unit = np.float32(word[at % 4] >> 8) * np.float32(2.0**-24)
            values[k] = (np.float32(2) * unit - np.float32(1)) * bound
            at += 1
        out.append((values[:i * o].reshape(o, i), values[i * o:]))
    return out


def train(all_texts, removable, seed):
    rows, held = split(removable, seed)
    x = features(all_texts, rows, 100000).astype(np.float32)
    modules = []
    for weight, bias in start(seed, [x.shape[1], *HIDDEN, 1]):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(weight))
            linear.bias.copy_(torch.tensor(bias))
        modules += [linear, torch.nn.ReLU()]
    net = torch.nn.Sequential(*modules[:-1])
    xt = torch.tensor(x.astype(np.float64))
    yt = torch.tensor(removable, dtype=torch.float64)
    loss_of = torch.nn.BCEWithLogitsLoss()
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-4)
    for epoch in range(EPOCHS):
        o = [rows[i] for i in order((seed, 0), epoch, len(rows))]
        for b in range(len(rows) // BATCH):
            pick = o[b * BATCH:(b + 1) * BATCH]
            opt.zero_grad()
            loss_of(net(xt[pick]).squeeze(1), yt[pick]).backward()
            opt.step()
    with torch.no_grad():
        z = net(xt[held]).squeeze(1)
    accuracy = float(((z > 0) == (yt[held] > 0.5)).double().mean())
    print(f"seed {seed}: {len(rows)} steps, {x.shape[1]} terms, accuracy "
          f"{accuracy:.4f}, nearest margin {float(z.abs().min()):.1e}",
          file=sys.stderr)
    return {"seed": seed, "inputs": x.shape[1], "accuracy": accuracy}


def main():
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(5)
    few = texts(20, rng)
    fit = list(range(14))
    most = clear_cut(few, fit, 6)
    small = {"texts": few, "n_train": len(fit), "most": most,
             "all": features(few, fit, 100000).tolist(),
             "some": features(few, fit, most).tolist()}
    many = texts(700, rng)
    told = np.array([("therefore" in t.lower()) + ("number is" in t) -
                     ("so" in t) for t in many])
    removable = (told + rng.normal(0, 0.8, len(many)) > 0).astype(int)
    print(json.dumps({
        "scikit-learn": sklearn.__version__, "torch": torch.__version__,
        "small": small, "texts": many, "removable": removable.tolist(),
        "seeds": [train(many, removable, s) for s in (42, 43, 44)]}))


main()
