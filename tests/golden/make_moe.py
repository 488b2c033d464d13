#!/usr/bin/env python3
"""Golden numbers of tests/ops/test_moe.c: mixture-of-experts layers of
transformers, in float32.

Usage: make_moe.py > tests/data/ops/moe.json

Weights are written as the ops take them: [experts * n_out, n_in] row by row.
"""
import json

import torch
from transformers import GptOssConfig, OlmoeConfig, Qwen3MoeConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

ROWS, WIDTH, INNER, EXPERTS, TOP_K = 7, 12, 10, 5, 3


def flat(t):
    return [float(f"{x:.9g}") for x in t.detach().contiguous().flatten().tolist()]


def fill(module, scale):
    for p in module.parameters():
        torch.nn.init.normal_(p, std=scale)


def gpt_oss():
    torch.manual_seed(1)
    config = GptOssConfig(hidden_size=WIDTH, intermediate_size=INNER,
                          num_local_experts=EXPERTS, num_experts_per_tok=TOP_K)
    config._experts_implementation = "eager"
    mlp = GptOssMLP(config)
    fill(mlp, 1.5)  # wide enough for the gate's limits to bite
    x = torch.randn(1, ROWS, WIDTH)
    e = mlp.experts
    inner = x[0] @ e.gate_up_proj[0] + e.gate_up_proj_bias[0]
    assert inner.abs().max() > e.limit > inner.abs().median()
    return {
        "name": "gpt-oss", "clamped": True, "renormalise": True,
        "router": flat(mlp.router.weight), "router_bias": flat(mlp.router.bias),
        "in": flat(e.gate_up_proj.transpose(1, 2)),
        "in_bias": flat(e.gate_up_proj_bias),
        "out": flat(e.down_proj.transpose(1, 2)),
        "out_bias": flat(e.down_proj_bias),
        "x": flat(x), "y": flat(mlp(x)[0]),
    }


def gated(name, block, config_class, renormalise):
    torch.manual_seed(2)
    config = config_class(hidden_size=WIDTH, intermediate_size=INNER,
                          moe_intermediate_size=INNER, num_experts=EXPERTS,
                          num_experts_per_tok=TOP_K, norm_topk_prob=renormalise)
    config._experts_implementation = "eager"
    layer = block(config)
    fill(layer, 0.8)
    x = torch.randn(1, ROWS, WIDTH)
    e = layer.experts
    y = layer(x)
    y = y[0] if isinstance(y, tuple) else y
    return {
        "name": name, "clamped": False, "renormalise": renormalise,
        "router": flat(layer.gate.weight), "in": flat(e.gate_up_proj),
        "out": flat(e.down_proj), "x": flat(x), "y": flat(y),
    }


print(json.dumps({
    "rows": ROWS, "width": WIDTH, "inner": INNER, "experts": EXPERTS,
    "top_k": TOP_K,
    "layers": [
        gpt_oss(),
        gated("olmoe", OlmoeSparseMoeBlock, OlmoeConfig, False),
        gated("qwen3-moe", Qwen3MoeSparseMoeBlock, Qwen3MoeConfig, True),
    ],
}))
