#!/usr/bin/env python3
"""Golden suppression matrices: what transformers gives for the tiny models of
make_backward.py (same weights, ids, soft caps and sinks), in float32 with eager
attention, one whole forward a step. In every layer the 4D mask that the model
made itself (causal, with its window) is closed, too, where a token behind the
step would see a token of it.

Writes ../data/probes/suppress.json: steps as token bounds, and for each case the
rows of the matrix below the diagonal: row the step whose tokens lose, column the
step suppressed, mean over the row's tokens of log P - log P suppressed.

Asserted: what is suppressed moves something in every row but by a step without
tokens; a range longer or shorter by one token at either end, a step's own tokens
masked as well, and a mean that leaves out the first token each move some entry by
more than ten tolerances.

Usage: make_suppress.py
"""
import json

import torch
import transformers

import make_backward
import make_forward
from make_influence import BOUNDS

OUT = make_forward.OUT.parent / "probes" / "suppress.json"
TOLERANCE = 1e-4  # of tests/probes/test_suppress.c: relative, a tenth absolute


def scores(model, ids, begin=0, end=0, resume=None):
    """log P(t) of tokens 1, 2, ..; tokens at resume (end) and later do not see
    [begin, end)."""
    place = torch.arange(len(ids))
    resume = end if resume is None else resume
    hidden = ((place[:, None] >= resume) & (place[None, :] >= begin) &
              (place[None, :] < end) & (place[None, :] != place[:, None]))
    seen = []

    def close(_, args, kwargs):
        mask = kwargs["attention_mask"]
        assert mask.shape == (1, 1, len(ids), len(ids)), mask.shape
        seen.append((mask < -1e30).sum().item())
        kwargs["attention_mask"] = mask.masked_fill(
            hidden, torch.finfo(mask.dtype).min)
        return args, kwargs

    hooks = [layer.self_attn.register_forward_pre_hook(close, with_kwargs=True)
             for layer in model.model.layers]
    logits = model(ids[None]).logits[0, :-1]
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(model.model.layers)
    assert min(seen) >= len(ids) * (len(ids) - 1) / 2
    return logits.log_softmax(-1).gather(1, ids[1:, None]).squeeze(1).double()


def matrix(model, ids, longer=(0, 0), inside=False, skip=False):
    plain = scores(model, ids)
    losses = []
    for begin, end in zip(BOUNDS, BOUNDS[1:]):
        if begin == end:
            losses.append(torch.zeros_like(plain))
            continue
        losses.append(plain - scores(
            model, ids, begin - longer[0], end + longer[1],
            begin if inside else None))
    rows = []
    for k, (begin, end) in enumerate(zip(BOUNDS, BOUNDS[1:])):
        first = begin + skip
        rows.append([
            losses[j][first - 1:end - 1].mean().item() if end > first else 0
            for j in range(k)])
    return rows


def apart(a, b):
    return max(abs(x - y) / (1 + abs(y)) for p, q in zip(a, b)
               for x, y in zip(p, q))


def make(name):
    base, changes = make_backward.CASES[name]
    golden = json.loads((make_forward.OUT / base / "golden.json").read_text())
    ids = torch.tensor(golden["ids"])
    assert len(ids) == BOUNDS[-1]
    sinks = make_backward.drawn_sinks() if name == "sinks" else None
    _, model = make_backward.load(base, changes, sinks)
    assert model.config._attn_implementation == "eager"
    made = matrix(model, ids)
    for k, row in enumerate(made):
        if k and BOUNDS[k] < BOUNDS[k + 1] and BOUNDS[k + 1] - 1 > BOUNDS[1]:
            assert max(map(abs, row)) > 10 * TOLERANCE, (name, k, row)
    moved = {str(change): apart(matrix(model, ids, **change), made)
             for change in ({"longer": (1, 0)}, {"longer": (-1, 0)},
                            {"longer": (0, 1)}, {"longer": (0, -1)},
                            {"inside": True}, {"skip": True})}
    assert min(moved.values()) > 10 * TOLERANCE, (name, moved)
    print(name, max(max(map(abs, row)) for row in made[1:]), moved)
    return made


def main():
    torch.set_num_threads(1)
    with torch.no_grad():
        made = {name: make(name) for name in make_backward.CASES}
    OUT.write_text(json.dumps({
        "made_by": "tests/golden/make_suppress.py",
        "transformers": transformers.__version__, "torch": torch.__version__,
        "bounds": BOUNDS, "cases": made}) + "\n")


if __name__ == "__main__":
    main()
