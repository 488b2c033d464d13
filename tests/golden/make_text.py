#!/usr/bin/env python3
"""Golden cases for tests/text: steps, boxes, the published normal form and the
surface features, by an independent reading of the method.

    python3 make_text.py ../data/text/golden.json

Seed 7; needs scikit-learn for the TF-IDF cosines only.
"""
import json
import random
import re
import sys

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

WORDS = ("So", "e.g.", "x", "3.14", "the answer", "naïve", "因此", "🙂", "is",
         "1.", "2!", "Hmm", "?", "...", "wait", "\\boxed{4}", "therefore", "Ω")
GAPS = (" ", " ", " ", "  ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "\u00a0",
        "\u2003", "\u3000", "\x1c", "\x85", ". ", ".\n", "? ", "! ", ".\n\n",
        "\n\n\n", ".", ".\t", "")


def steps_of(text):
    """Code points, left to right; then pieces below ten join the one before."""
    pieces, begin = [], 0
    for i, c in enumerate(text):
        paragraph = text.startswith("\n\n", i) or text.startswith("\r\n\r\n", i)
        sentence = c in ".?!" and i + 1 < len(text) and text[i + 1] in " \n"
        if paragraph or sentence:
            pieces.append((begin, i + 1))
            begin = i + 1
    if text[begin:].strip():
        pieces.append((begin, len(text)))
    steps = []
    for b, e in pieces:
        if steps and len(text[b:e].strip()) < 10:
            steps[-1] = (steps[-1][0], e)
        else:
            steps.append((b, e))
    size = lambda n: len(text[:n].encode())
    return [[size(b), size(e)] for b, e in steps]


def boxes_of(text):
    """The published way: every brace counts."""
    found, at = [], text.find("\\boxed{")
    while at >= 0:
        begin = i = at + 7
        depth = 1
        while i < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            i += 1
        content = text[begin:i - 1] if depth == 0 else text[begin:]
        if content:
            found.append(content)
        at = text.find("\\boxed{", begin)
    return found


def normal_of(text):
    s = text.strip().lower().strip("$")
    for space in ("\\,", "\\;", "\\:", "\\!"):
        s = s.replace(space, "")
    s = s.replace("\\qquad", "").replace("\\quad", "")
    s = re.sub(r"\\[hv]space\{[^{}]*\}", "", s)
    s = s.replace("dfrac", "frac").replace("tfrac", "frac")
    s = s.replace("\\ ", "")
    s = "".join(s.split())
    s = s.replace("\\%", "").replace("{,}", "")
    s = re.sub(r"(?<=\d),(?=\d)", "", s)
    s = s.replace("\\times", "*").replace("\\cdot", "*")
    s = re.sub(r"(?<!\d)\.(\d)", r"0.\1", s)
    s = s.replace("{-}", "-")
    s = re.sub(r"\{([^{}]*)\}", r"\1", s)
    s = s.replace("\\pi", "pi")
    s = re.sub(r"\\(?:text|mathrm)\{([^{}]*)\}", r"\1", s)
    s = re.sub(r"([a-z]+)\\+(\d)", r"\1\2", s)
    s = s.replace("\\text", "")
    return re.sub(r"^(?:is|equals|approximately|about|around)(?=\d)", "", s)


def cosines(earlier, step, prompt, pattern):
    documents = ([prompt] if prompt is not None else []) + earlier + [step]
    vectorizer = TfidfVectorizer(token_pattern=pattern)
    try:
        rows = vectorizer.fit_transform(documents).toarray()
    except ValueError:  # no term at all
        return [0, 0, 0]
    own = rows[-1]
    before = rows[len(documents) - 1 - len(earlier):-1] @ own
    return [float(before.mean()) if len(before) else 0.0,
            float(before.max()) if len(before) else 0.0,
            float(rows[0] @ own) if prompt is not None else 0.0]


def random_text(rng, most):
    return "".join(rng.choice(WORDS) + rng.choice(GAPS)
                   for _ in range(rng.randrange(most)))


def random_answer(rng):
    parts = ("1", "23", "4.5", ".5", "\\frac", "\\dfrac", "{", "}", ",", "{,}",
             "-", "{-}", "+", "\\text{", "\\mathrm{cm}", "\\pi", "\\cdot",
             "\\times ", " ", "\\ ", "\\,", "\\!", "\\quad", "$", "\\%", "X",
             "october", "about", "is ", "\\sqrt", "^", "(", ")", "\\hspace{2em}",
             "{ab}", "=", "\\\\3", "\u00a0")
    return "".join(rng.choice(parts) for _ in range(rng.randrange(1, 12)))


def main():
    rng = random.Random(7)
    out = {"spaces": [c for c in range(0x110000) if chr(c).isspace()]}
    texts = [random_text(rng, 25) for _ in range(150)]
    out["split"] = [[t, steps_of(t)] for t in texts]
    marks = ("\\boxed{", "{", "}", "}", "a", "7", "\\boxed {", "\\frac{1}{2}")
    texts = ["".join(rng.choice(marks) for _ in range(rng.randrange(1, 14)))
             for _ in range(120)]
    out["boxes"] = [[t, boxes_of(t)] for t in texts]
    out["normal"] = [[t, normal_of(t)]
                     for t in (random_answer(rng) for _ in range(300))]
    sentences = ("We know that 3 + 4 = 7.", "Wait, let me check 7 * 2.",
                 "So x = 14 and y = 14.5", "Okay.", "x", "",
                 "Multiplying, 14 * 2 = 28 ≠ 29", "The the THE value")
    out["surface"] = []
    for _ in range(40):
        chain = [rng.choice(sentences) for _ in range(rng.randrange(1, 6))]
        prompt = rng.choice((None, "Find x and the value of 3 + 4."))
        for compat, pattern in ((True, r"(?u)\b\w\w+\b"),
                                (False, r"(?u)\w+|[^\w\s]")):
            out["surface"].append(
                [prompt, chain, compat,
                 np.round(cosines(chain[:-1], chain[-1], prompt, pattern),
                          12).tolist()])
    with open(sys.argv[1], "w") as f:
        json.dump(out, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
