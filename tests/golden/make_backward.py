#!/usr/bin/env python3
"""Golden gradients: what torch's autograd gives for the tiny models of
make_forward.py (their weights are read, not drawn anew), in float32.

Writes ../data/backward/<case>.json and <case>.f32. A target is a run of tokens;
f is the sum of their probabilities (or log-probabilities), and the file holds
df / d(residual stream) at tokens from .. end - 2, little-endian, for each target
of the sums of P: layers 0, 1 and L (ahead of the final norm); then for each
target of the sums of log P: layer 0.

Cases beside make_forward's: "softcap" is gemma3 with both soft caps, "sinks" is
llama3 with attention sinks, by the attention of transformers' gpt-oss.

Asserted: gradients with probabilities and with log-probabilities differ, a
target moves every layer, and every setting that a backward pass treats on its
own (window, caps, sinks, theta, eps) moves some gradient by more than ten
times the test's tolerance.

Usage: make_backward.py [case ...]
"""
import json
import pathlib
import sys

import safetensors.torch
import torch
import transformers
from transformers.models.gemma3 import modeling_gemma3
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.llama import modeling_llama

import make_forward

DATA = make_forward.OUT
OUT = DATA.parent / "backward"
TARGETS = [(88, 95, 40), (20, 24, 0), (95, 96, 80)]  # begin, end, from
TOLERANCE = 1e-4  # of tests/forward/test_backward.c
LLAMA_ATTENTION = modeling_llama.eager_attention_forward
GEMMA_ATTENTION = modeling_gemma3.eager_attention_forward

CASES = {name: (name, {}) for name in make_forward.CASES}
CASES["softcap"] = ("gemma3", {"attn_logit_softcapping": 3.0,
                               "final_logit_softcapping": 0.05})
CASES["sinks"] = ("llama3", {})


def capped_attention(module, *args, **kwargs):
    """transformers 5 reads Gemma 3's attention cap and does not pass it on."""
    return GEMMA_ATTENTION(module, *args, **kwargs,
                           softcap=module.attn_logit_softcapping)


modeling_gemma3.eager_attention_forward = capped_attention


def load(base, changes, sinks):
    config = json.loads((DATA / base / "config.json").read_text())
    del config["torch_dtype"]
    config.update(changes)
    model = make_forward.build(config)
    weights = safetensors.torch.load_file(DATA / base / "model.safetensors")
    missing, unexpected = model.load_state_dict(
        {k: v.float() for k, v in weights.items()}, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, missing
    model.tie_weights()
    modeling_llama.eager_attention_forward = LLAMA_ATTENTION
    if sinks is not None:
        modeling_llama.eager_attention_forward = (
            modeling_gpt_oss.eager_attention_forward)
        for layer, values in zip(model.model.layers, sinks):
            layer.self_attn.sinks = values
    return config, model.requires_grad_(False)


def streams(model, ids):
    """Residual stream ahead of every layer and of the final norm, logits."""
    kept = []

    def keep(_, args, kwargs):
        kept.append(args[0] if args else kwargs["hidden_states"])

    hooks = [m.register_forward_pre_hook(keep, with_kwargs=True)
             for m in [*model.model.layers, model.model.norm]]
    inputs = model.get_input_embeddings()(ids[None]).requires_grad_()
    logits = model(inputs_embeds=inputs).logits[0]
    for hook in hooks:
        hook.remove()
    return kept, logits


def gradients(model, ids):
    """[(P: layers 0, 1, L), ..], [(log P: layer 0), ..]: rows from .. end - 2."""
    kept, logits = streams(model, ids)
    wanted = [kept[0], kept[1], kept[-1]]
    p, log = [], []
    for begin, end, start in TARGETS:
        scores = logits[begin - 1:end - 1].log_softmax(-1)
        scores = scores.gather(1, ids[begin:end, None]).squeeze(1)
        for out, f, at in ((p, scores.exp().sum(), wanted),
                           (log, scores.sum(), wanted[:1])):
            grads = torch.autograd.grad(f, at, retain_graph=True)
            for g in grads:
                assert g[0, end - 1:].abs().max() == 0 if end < len(ids) else 1
                assert g[0, start:end - 1].norm() > 0
            out.append([g[0, start:end - 1] for g in grads])
    return p, log


def flat(p, log):
    return [g for target in [*p, *log] for g in target]


def moved(a, b):
    return max(((x - y).norm() / y.norm()).item() for x, y in zip(a, b))


def variants(config):
    yield from make_forward.changed(config)
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(cap):
            yield cap, {**config, cap: config[cap] * 1.01}


def drawn_sinks():
    rng = torch.Generator().manual_seed(make_forward.SEED)
    return 2 * torch.randn(3, 4, generator=rng)


def make(name):
    base, changes = CASES[name]
    golden = json.loads((DATA / base / "golden.json").read_text())
    ids = torch.tensor(golden["ids"])
    sinks = drawn_sinks() if name == "sinks" else None
    config, model = load(base, changes, sinks)
    p, log = gradients(model, ids)
    grads = flat(p, log)
    sizes = {}
    for what, other in variants(config):
        _, changed = load(base, other, sinks)
        sizes[what] = moved(flat(*gradients(changed, ids)), grads)
    if sinks is not None:
        _, changed = load(base, changes, sinks + 0.01)
        sizes["sinks"] = moved(flat(*gradients(changed, ids)), grads)
    sizes["log"] = moved([x[0] for x in log], [x[0] for x in p])
    assert all(size > 10 * TOLERANCE for size in sizes.values()), sizes
    OUT.mkdir(exist_ok=True)
    info = {"made_by": "tests/golden/make_backward.py",
            "transformers": transformers.__version__,
            "torch": torch.__version__, "model": base, "changes": changes,
            "sinks": sinks.tolist() if sinks is not None else [],
            "targets": TARGETS, "moved": sizes}
    (OUT / f"{name}.json").write_text(json.dumps(info) + "\n")
    torch.cat([g.reshape(-1) for g in grads]).numpy().astype("<f4").tofile(
        OUT / f"{name}.f32")
    print(name, {k: round(v, 5) for k, v in sizes.items()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        make(case)
