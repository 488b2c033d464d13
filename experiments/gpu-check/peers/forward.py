#!/usr/bin/env python3
"""Forward with pooled residual streams by transformers, on the demo model and
chains as long as its own: batch 1 with output_hidden_states, as the published
code does it."""
import os

import torch
from transformers import AutoModelForCausalLM

import common


def main():
    args = common.options(__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    model = AutoModelForCausalLM.from_pretrained(
        os.path.join(here, "models", "demo-a"),
        dtype=torch.float32).to(device).eval()
    n = 40 if args.tiny else 200
    ids = torch.randint(0, model.config.vocab_size, (1, n), device=device)

    def run():
        with torch.no_grad():
            out = model(ids, output_hidden_states=True)
            return torch.stack([h[0].mean(0) for h in out.hidden_states]).cpu()

    ms = common.median_ms(run, device, 1 if args.tiny else 20)
    common.write(args.out, [{"op": "forward+mean", "model": "demo-a",
                             "tokens": n, "peer": "transformers, torch " +
                             torch.__version__, "ms": "%.4f" % ms,
                             "tokens_per_second": "%.0f" % (n / ms * 1e3)}])


main()
