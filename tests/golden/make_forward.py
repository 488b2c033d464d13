#!/usr/bin/env python3
"""Golden files of the forward pass: tiny random models, and what Hugging Face
transformers computes with them in float32.

Writes ../data/forward/<case>/:
  config.json, model.safetensors   the model, as a hub folder has them
  golden.json   ids, the argmax of every position's logits, greedy ids, and the
                measurements that the asserts below looked at
  hidden.f32    [layers + 1, tokens, d] little-endian: embedding output, then
                every block's output; the last one is taken at the input of the
                final norm (transformers lists it after the norm)

Tiny weights and short inputs hide mistakes, so inputs run past the sliding
window and the original rotary context, attention is peaked (mean entropy below
half of uniform), and theta x 1.01, eps x 10 and window +- 1 must each move
some layer by more than ten times the tests' tolerance.

Usage: make_forward.py [case ...]
"""
import copy
import json
import math
import pathlib
import sys

import safetensors.torch
import torch
import transformers

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "forward"
TOKENS, PROMPT, NEW, VOCAB, SEED = 96, 40, 24, 61, 20251
TOLERANCE = 1e-4  # of tests/forward/test_golden.c

BASE = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 40,
    "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "hidden_act": "silu",
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": False,
    "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2,
}
CASES = {
    # Llama 3: its own scaling far beyond the original context, tied, GQA.
    "llama3": dict(
        architectures=["LlamaForCausalLM"], model_type="llama",
        tie_word_embeddings=True, rope_theta=500.0,
        rope_scaling={"rope_type": "llama3", "factor": 8.0,
                      "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 32}),
    # Llama with linear scaling, as many kv heads as heads, wide heads.
    "linear": dict(
        architectures=["LlamaForCausalLM"], model_type="llama",
        num_key_value_heads=4, head_dim=16,
        rope_scaling={"rope_type": "linear", "factor": 4.0}),
    # Qwen 2: biases; the upper layers slide.
    "qwen2": dict(
        architectures=["Qwen2ForCausalLM"], model_type="qwen2",
        use_sliding_window=True, sliding_window=21, max_window_layers=1),
    # A window on every layer, one kv head.
    "mistral": dict(
        architectures=["MistralForCausalLM"], model_type="mistral",
        sliding_window=17, num_key_value_heads=1),
    # q/k norm per head; heads wider than d / H.
    "qwen3": dict(
        architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=16,
        tie_word_embeddings=True),
    # Norms after the blocks, q/k norm over all heads.
    "olmo2": dict(
        architectures=["Olmo2ForCausalLM"], model_type="olmo2"),
    # OLMo 3: the same with windows on some layers, YaRN on the full ones. Both
    # thetas are given: transformers 5 loses "rope_theta" for one of them.
    "olmo3": dict(
        architectures=["Olmo3ForCausalLM"], model_type="olmo3",
        num_hidden_layers=4, sliding_window=19, head_dim=16,
        rope_parameters={
            "full_attention": {
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0,
                "beta_fast": 32.0, "beta_slow": 1.0,
                "attention_factor": 1.2,
                "original_max_position_embeddings": 32},
            "sliding_attention": {"rope_type": "default",
                                  "rope_theta": 10000.0}},
        layer_types=["sliding_attention", "full_attention"] * 2),
    # Gemma 3: norms on both sides, 1 + w, scaled embedding, local angles.
    "gemma3": dict(
        architectures=["Gemma3ForCausalLM"], model_type="gemma3_text",
        num_hidden_layers=4, sliding_window=18, head_dim=16,
        query_pre_attn_scalar=16, hidden_activation="gelu_pytorch_tanh",
        rope_theta=100000.0, rope_local_base_freq=1000.0,
        attn_logit_softcapping=None, final_logit_softcapping=None,
        tie_word_embeddings=True,
        layer_types=["sliding_attention", "sliding_attention",
                     "full_attention", "sliding_attention"]),
}
# Stored types in turn, so that the loader's are all run; values are rounded
# to them first and computed with in float32.
STORED = {"llama3": torch.bfloat16, "qwen2": torch.float32,
          "qwen3": torch.float16}


def build(config):
    kind = transformers.CONFIG_MAPPING[config["model_type"]]
    settings = copy.deepcopy(config)  # transformers writes into nested ones
    del settings["model_type"]
    model = transformers.AutoModelForCausalLM.from_config(
        kind.from_dict(settings), attn_implementation="eager")
    return model.float().eval()


def draw(model, name, peak, seed):
    """Seeded weights: small embedding (so that eps matters), q and k scaled
    by `peak` so that attention is decided, norms and biases far from their
    defaults."""
    gemma = CASES[name]["model_type"].startswith("gemma")
    rng = torch.Generator().manual_seed(seed)
    for key, p in sorted(model.named_parameters()):
        x = torch.randn(p.shape, generator=rng)
        if key.endswith("bias"):
            x *= 0.3
        elif p.dim() == 1:
            x = 0.2 * x + (0.0 if gemma else 1.0)
            if "q_norm" in key or "k_norm" in key:
                x = (1 + x if gemma else x) * peak - (1.0 if gemma else 0.0)
        elif "embed_tokens" in key:
            x *= 0.05 / (math.sqrt(p.shape[1]) if gemma else 1.0)
        else:
            x /= math.sqrt(p.shape[1])
            if "q_proj" in key or "k_proj" in key:
                x *= peak
            elif "o_proj" in key or "down_proj" in key:
                x *= 0.5
        stored = STORED.get(name, torch.float32)
        p.data = x.to(stored).float()


def hidden_states(model, ids):
    """[L + 1, T, d], logits, attentions; the last state before the norm."""
    kept = []
    hook = model.model.norm.register_forward_pre_hook(
        lambda _, args: kept.append(args[0]))
    with torch.no_grad():
        out = model(ids[None], output_hidden_states=True,
                    output_attentions=True)
    hook.remove()
    states = list(out.hidden_states[:-1]) + [kept[0]]
    assert len(states) == model.config.num_hidden_layers + 1
    return torch.cat(states), out.logits[0], out.attentions


def entropy_share(attentions):
    """Mean entropy of attention over the mean entropy of uniform weights on
    the keys that each token sees."""
    ours = uniform = 0.0
    for a in attentions:
        a = a[0].double()
        seen = (a > 0).sum(-1).double()
        ours += -(a * a.clamp_min(1e-300).log()).sum(-1).mean().item()
        uniform += seen.log().mean().item()
    return ours / uniform


def worst_layer(a, b):
    return max(((x - y).norm() / y.norm()).item() for x, y in zip(a, b))


def changed(config):
    """Configs that a right comparison must tell from the original."""
    if "rope_parameters" in config:
        for part in config["rope_parameters"]:
            other = copy.deepcopy(config)
            other["rope_parameters"][part]["rope_theta"] *= 1.01
            yield part, other
    else:
        yield "theta", {**config, "rope_theta": config["rope_theta"] * 1.01}
    yield "eps", {**config, "rms_norm_eps": config["rms_norm_eps"] * 10}
    if "rope_local_base_freq" in config:
        yield "local", {**config, "rope_local_base_freq":
                        config["rope_local_base_freq"] * 1.01}
    if "sliding_window" in config:
        for step in (-1, 1):
            yield f"window{step:+d}", {
                **config, "sliding_window": config["sliding_window"] + step}


def sensitivity(name, config, weights, ids, states):
    moved = {}
    for what, other in changed(config):
        model = build(other)
        model.load_state_dict(weights)
        moved[what] = worst_layer(hidden_states(model, ids)[0], states)
        assert moved[what] > 10 * TOLERANCE, (name, what, moved[what])
    return moved


def greedy(model, ids):
    """Greedy ids one at a time over the whole prefix; smallest lead of the
    winner, so that a tie cannot decide the test."""
    ids, lead = ids.clone(), math.inf
    for _ in range(NEW):
        with torch.no_grad():
            top = model(ids[None]).logits[0, -1].topk(2)
        lead = min(lead, (top.values[0] - top.values[1]).item())
        ids = torch.cat([ids, top.indices[:1]])
    return ids[-NEW:].tolist(), lead


def save(folder, config, model, name, golden, states):
    folder.mkdir(parents=True, exist_ok=True)
    stored = STORED.get(name, torch.float32)
    tensors = {k: v.to(stored).contiguous()
               for k, v in model.state_dict().items()
               if not (k == "lm_head.weight" and
                       config["tie_word_embeddings"])}
    safetensors.torch.save_file(tensors, folder / "model.safetensors",
                                metadata={"format": "pt"})
    config = {**config, "torch_dtype": str(stored).split(".")[1]}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    states.numpy().astype("<f4").tofile(folder / "hidden.f32")


def attempt(name, config, ids, seed):
    """The model of one seed, its attention peaked; None where an argmax is so
    close that rounding could decide it."""
    model = build(config)
    peak = 1.0
    while True:
        draw(model, name, peak, seed)
        states, logits, attentions = hidden_states(model, ids)
        share = entropy_share(attentions)
        if share < 0.45:
            break
        peak *= 1.15
        assert peak < 100, name
    new, lead = greedy(model, ids[:PROMPT])
    top = logits.topk(2).values
    lead = min(lead, (top[:, 0] - top[:, 1]).min().item()) / logits.std().item()
    if lead < 1e-3:
        return None
    return model, states, {
        "made_by": "tests/golden/make_forward.py",
        "transformers": transformers.__version__, "torch": torch.__version__,
        "seed": seed, "peak": peak, "entropy_share": share,
        "argmax_lead": lead, "ids": ids.tolist(),
        "argmax": logits.argmax(-1).tolist(), "greedy_prompt": PROMPT,
        "greedy": new,
    }


def make(name):
    config = {**BASE, **CASES[name]}
    if "rope_parameters" in config:
        del config["rope_theta"]
    ids = torch.randint(3, VOCAB, (TOKENS,),
                        generator=torch.Generator().manual_seed(SEED))
    tries = (attempt(name, config, ids, SEED + i) for i in range(1, 1000))
    model, states, golden = next(x for x in tries if x)
    golden["moved"] = sensitivity(name, config, model.state_dict(), ids, states)
    assert golden["entropy_share"] < 0.5
    save(OUT / name, config, model, name, golden, states)
    print(name, {k: golden[k] for k in ("seed", "peak", "entropy_share",
                                        "argmax_lead", "moved")})


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        make(case)
