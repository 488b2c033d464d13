#!/usr/bin/env python3
"""Golden influence matrices: what torch's autograd gives for the tiny models of
make_backward.py (same weights, ids, soft caps and sinks), in float32, one
gradient a target.

Writes ../data/probes/influence.json: steps as token bounds, and for each case and
variant the rows of the matrix below the diagonal, row = target. Variants are
written out here from the definitions, not from influence.c: gradient, its
sum over log-probabilities, over the root of the source's tokens, with source
spans a token too far right as the published code has them, gradient times
input, and integrated gradients at five points.

Asserted: every variant differs from the plain gradient by more than a hundred
tolerances on some entry, and a shifted span by more than ten in every row.

Usage: make_influence.py
"""
import json

import torch
import transformers

import make_backward
import make_forward

OUT = make_forward.OUT.parent / "probes" / "influence.json"
# steps of 13, 1, 0, 21, 5, 21 and 15 tokens behind a prompt of 20
BOUNDS = [20, 33, 34, 34, 55, 60, 81, 96]
POINTS = 5
TOLERANCE = 1e-4  # of tests/probes/test_influence.c


def target_gradients(model, ids, inputs, log=False):
    """d f_k / d inputs of every step k, [tokens, d] each."""
    inputs = inputs.detach().requires_grad_()
    scores = model(inputs_embeds=inputs[None]).logits[0, :-1].log_softmax(-1)
    scores = scores.gather(1, ids[1:, None]).squeeze(1)  # of token t at t - 1
    grads = []
    for begin, end in zip(BOUNDS, BOUNDS[1:]):
        part = scores[begin - 1:end - 1]
        f = (part if log else part.exp()).sum()
        grads.append(torch.autograd.grad(f, inputs, retain_graph=True)[0])
    return grads


def matrix(grads, weight=None, shift=0, per_token=False):
    rows = []
    for k, g in enumerate(grads):
        g = g if weight is None else g * weight
        row = []
        for j in range(k):
            span = g[BOUNDS[j] + shift:BOUNDS[j + 1] + shift].double()
            norm = span.square().sum().sqrt().item()
            if per_token and len(span):
                norm /= len(span) ** 0.5
            row.append(norm)
        rows.append(row)
    return rows


def integrated(model, ids, inputs):
    base = inputs.clone()
    base[BOUNDS[0]:] = inputs[BOUNDS[0]:BOUNDS[-1]].mean(0)
    total = [torch.zeros_like(inputs) for _ in BOUNDS[1:]]
    for i in range(1, POINTS + 1):
        at = base + i / POINTS * (inputs - base)
        for sums, g in zip(total, target_gradients(model, ids, at)):
            sums += g / POINTS
    return matrix(total, inputs - base)


def make(name):
    base, changes = make_backward.CASES[name]
    golden = json.loads((make_forward.OUT / base / "golden.json").read_text())
    ids = torch.tensor(golden["ids"])
    assert len(ids) == BOUNDS[-1]
    sinks = make_backward.drawn_sinks() if name == "sinks" else None
    _, model = make_backward.load(base, changes, sinks)
    inputs = model.get_input_embeddings()(ids)
    plain = target_gradients(model, ids, inputs)
    made = {
        "gradient": matrix(plain),
        "log": matrix(target_gradients(model, ids, inputs, log=True)),
        "per_token": matrix(plain, per_token=True),
        "compat": matrix(plain, shift=1),
        "gradient-input": matrix(plain, inputs),
        "integrated": integrated(model, ids, inputs),
    }
    for what, rows in made.items():
        apart = [max((abs(a - b) / b for a, b in zip(x, y) if b), default=0)
                 for x, y in zip(rows, made["gradient"])]
        if what != "gradient":
            assert max(apart) > 100 * TOLERANCE, (what, apart)
        if what == "compat":
            assert all(a > 10 * TOLERANCE for a, row in zip(apart, rows)
                       if any(row)), apart
    print(name, {what: max(map(max, rows[1:])) for what, rows in made.items()})
    return made


def main():
    torch.set_num_threads(1)
    made = {name: make(name) for name in make_backward.CASES}
    OUT.write_text(json.dumps({
        "made_by": "tests/golden/make_influence.py",
        "transformers": transformers.__version__, "torch": torch.__version__,
        "bounds": BOUNDS, "cases": made}) + "\n")


if __name__ == "__main__":
    main()
