#!/usr/bin/env python3
"""Golden numbers of tests/probes/test_words.c from scikit-learn.

Usage: make_words.py > tests/data/probes/words.json

Texts with contexts, labels and folds, and for every kind of n-grams the
strength that each outer fold chooses and the margins of its held-out rows:
TfidfVectorizer(sublinear_tf=True) of the training rows, LogisticRegression(C,
class_weight="balanced", solver="liblinear") to 1e-10, nested as probes/nest.h.
"""
import json

import numpy as np
import sklearn
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

STRENGTHS = [0.01, 0.1, 1, 10, 100]
FOLDS = 5
# words.h's tokens, for these texts
TOKEN = r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+(?:[.,]\d+)*|[^\w\s]|_"


def words(longest, min_df=1):
    return TfidfVectorizer(token_pattern=TOKEN, ngram_range=(1, longest),
                           sublinear_tf=True, min_df=min_df)


def characters():
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=2,
                           sublinear_tf=True)


def features(kind, train):
    """Rows of all, under the vocabulary and idf of the training rows."""
    if kind == "prefix":
        one, two = words(5, 2), words(1, 2)
        one.fit([TEXTS[i] for i in train])
        two.fit([BEFORE[i] for i in train])
        return hstack([one.transform(TEXTS), two.transform(BEFORE)]).tocsr()
    one = characters() if kind == "characters" else words(5)
    one.fit([TEXTS[i] for i in train])
    return one.transform(TEXTS)


def margins(x, train, c):
    model = LogisticRegression(C=c, class_weight="balanced", tol=1e-10,
                               solver="liblinear", max_iter=100000)
    return model.fit(x[train], Y[train]).decision_function(x)


def loss(z, rows):
    s = np.where(Y[rows] == 1, -z[rows], z[rows])
    each = np.logaddexp(0, s)
    return np.mean([each[Y[rows] == c].mean() for c in (0, 1)])


def choose(kind, f):
    total, tried = np.zeros(len(STRENGTHS)), len(STRENGTHS)
    for part in range(1, FOLDS):
        g = (f + part) % FOLDS
        train = np.flatnonzero((FOLD != f) & (FOLD != g))
        rows, x = np.flatnonzero(FOLD == g), features(kind, train)
        last, risen = np.inf, 0
        for k in range(tried):
            now = loss(margins(x, train, STRENGTHS[k]), rows)
            total[k] += now
            risen = risen + 1 if now > last else 0
            last = now
            if risen == 2:
                tried = k + 1
                break
    return STRENGTHS[int(np.argmin(total[:tried]))]


def nested(kind):
    z, strengths = np.zeros(len(Y)), []
    for f in range(FOLDS):
        strengths.append(choose(kind, f))
        train = np.flatnonzero(FOLD != f)
        got = margins(features(kind, train), train, strengths[-1])
        z[FOLD == f] = got[FOLD == f]
    return {"strength": strengths, "margin": z.tolist()}


rng = np.random.default_rng(3)
SUBJECT = ["Ann", "Bob's", "The box", "Übung ", "Each pen", "x"]
VERB = ["has", "buys", "costs $", "=", "holds", "\u2264", "adds up\tto"]
OBJECT = ["3 pens.", "4.50 each!", "1,200 apples", "a - b", "so 7*2=14.", "é"]
CLOSE = ["", " So done.", "\nHence it is 9.", "  wait"]


def sentence(y):
    pick = lambda items, p=None: items[rng.choice(len(items), p=p)]
    lean = np.arange(1, len(OBJECT) + 1, dtype=float)
    lean = lean if y else lean[::-1]
    return " ".join([pick(SUBJECT), pick(VERB), pick(OBJECT, lean / lean.sum())]
                    ) + pick(CLOSE)


Y = (rng.random(150) < 0.45).astype(int)
FOLD = rng.integers(0, FOLDS, len(Y))
TEXTS = [sentence(y) for y in Y]
BEFORE = [" ".join(sentence(y if rng.random() < 0.6 else 1 - y)
                   for _ in range(rng.integers(0, 4))) for y in Y]
print(json.dumps({
    "settings": {"numpy": np.__version__, "sklearn": sklearn.__version__},
    "texts": TEXTS, "before": BEFORE, "y": Y.tolist(), "fold": FOLD.tolist(),
    "words": nested("words"), "characters": nested("characters"),
    "prefix": nested("prefix"),
}))
