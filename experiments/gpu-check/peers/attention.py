#!/usr/bin/env python3
"""Causal attention by torch's scaled_dot_product_attention, each of its
implementations that takes the shape, in bf16, at bench.cpp's shapes."""
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import common


def main():
    args = common.options(__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for name, _, heads, kv, dim, _, tokens, context in (
            common.TINY if args.tiny else common.SHAPES):
        batch = tokens // context
        q = torch.randn(batch, heads, context, dim, device=device,
                        dtype=torch.bfloat16)
        k = torch.randn(batch, kv, context, dim, device=device,
                        dtype=torch.bfloat16)
        v = torch.randn_like(k)
        flops = 4 * batch * heads * dim * context * (context + 1) / 2
        for which in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION,
                      SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):
            if which == SDPBackend.MATH and not args.tiny:
                continue  # holds all scores: not a rival
            try:
                with sdpa_kernel(which):
                    ms = common.median_ms(
                        lambda: scaled_dot_product_attention(
                            q, k, v, is_causal=True, enable_gqa=True),
                        device, 1 if args.tiny else 20)
            except RuntimeError as why:
                print("%s at %s: %s" % (which, name, str(why).split("\n")[0]))
                continue
            rows.append({"op": "attention", "model": name, "peer": "torch %s "
                         "%s" % (torch.__version__, which.name.lower()),
                         "ms": "%.4f" % ms,
                         "tflops": "%.2f" % (flops / ms * 1e-9)})
    common.write(args.out, rows)


main()
