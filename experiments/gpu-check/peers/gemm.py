#!/usr/bin/env python3
"""x W^T by torch in bf16 at bench.cpp's shapes."""
import torch

import common


def main():
    args = common.options(__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for name, d, heads, kv, dim, ff, tokens, _ in (
            common.TINY if args.tiny else common.SHAPES):
        for m in (tokens, 64, 1):
            for what, n, k in (("q", heads * dim, d), ("kv", kv * dim, d),
                               ("o", d, heads * dim), ("up", ff, d),
                               ("down", d, ff)):
                x = torch.randn(m, k, device=device, dtype=torch.bfloat16)
                w = torch.randn(n, k, device=device, dtype=torch.bfloat16)
                ms = common.median_ms(lambda: x @ w.T, device,
                                      1 if args.tiny else 20)
                rows.append({"op": "gemm", "model": name, "shape":
                             "%s %dx%dx%d" % (what, m, n, k),
                             "peer": "torch " + torch.__version__,
                             "ms": "%.4f" % ms, "tflops": "%.2f" % (
                                 2 * m * n * k / ms * 1e-9)})
    common.write(args.out, rows)


main()
