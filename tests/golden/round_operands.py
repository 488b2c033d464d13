#!/usr/bin/env python3
"""How far the rounding of operands alone moves the golden gradients: torch's
autograd with every operand of every product (linear layers, attention; forward
and backward) as the sum of its first two bf16 terms, and as its first alone,
sums in float32. A backend that rounds so cannot be held to less
(tests/simt/pair.h, check_backward.c).

Prints, a case a line, the largest relative error of a target and layer for the
models as they are and at a quarter of their attention scale.

Usage: round_operands.py [case ...]
"""
import json
import sys

import torch

import make_backward

MATMUL, LINEAR = torch.matmul, torch.nn.functional.linear


def one_term(x):
    return x.to(torch.bfloat16).float()


def two_terms(x):
    return one_term(x) + one_term(x - one_term(x))


class Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, rounded):
        a, b = rounded(a), rounded(b)
        ctx.save_for_backward(a, b)
        ctx.rounded = rounded
        return MATMUL(a, b)

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        grad = ctx.rounded(grad)
        return MATMUL(grad, b.mT), MATMUL(a.mT, grad), None


def use(rounded):
    """From here on products have rounded operands; None: as they were."""
    torch.matmul, torch.nn.functional.linear = MATMUL, LINEAR
    if rounded is None:
        return

    def matmul(a, b):
        if a.shape[:2] != b.shape[:2]:  # the angles of rope
            return MATMUL(a, b)
        return Matmul.apply(a, b, rounded)

    def linear(x, w, bias=None):
        y = Matmul.apply(x, w.T, rounded)
        return y if bias is None else y + bias

    torch.matmul, torch.nn.functional.linear = matmul, linear


def measure(name):
    base, changes = make_backward.CASES[name]
    golden = json.loads(
        (make_backward.DATA / base / "golden.json").read_text())
    ids = torch.tensor(golden["ids"])
    sinks = make_backward.drawn_sinks() if name == "sinks" else None
    print(name, end="")
    for scale in (1, 0.25):
        use(None)
        _, model = make_backward.load(base, changes, sinks)
        for layer in model.model.layers:
            layer.self_attn.scaling *= scale
        ref = make_backward.flat(*make_backward.gradients(model, ids))
        for rounded in (two_terms, one_term):
            use(rounded)
            got = make_backward.flat(*make_backward.gradients(model, ids))
            print("  scale %g, %s: %.1e" % (
                scale, rounded.__name__, make_backward.moved(got, ref)),
                end="")
    print()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[1:] or make_backward.CASES:
        measure(case)
