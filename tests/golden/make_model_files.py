#!/usr/bin/env python3
"""Golden model files for tests/model, and what they hold by the packages that
define the formats: `gguf`, `safetensors`, `transformers`.

    python3 tests/golden/make_model_files.py [tests/data/model]

Writes, a few KB each:
  quants.gguf         a tensor a storage type with random blocks, beside it
                      "<type>.expected" in f32 as gguf.quants.dequantize has it
  <family>/           config.json, model.safetensors as transformers saves them
  sharded/            the same with two shards behind an index
  <family>.gguf       as llama.cpp's converter lays them out
  old-<name>.json     config.json in the spelling of transformers 4
  expected.json       what transformers computes from each config
"""
import json
import pathlib
import shutil
import sys

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Q
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

SEED = 20261124
SIZES = dict(vocab_size=12, hidden_size=8, intermediate_size=12,
             num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, max_position_embeddings=128,
             bos_token_id=0, eos_token_id=1, pad_token_id=None)
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0,
              low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", rope_theta=5e5, factor=4.0,
            original_max_position_embeddings=32, beta_fast=32.0,
            beta_slow=1.0)
FAMILIES = {
    "llama": ("LlamaConfig", dict(head_dim=8, rope_parameters=LLAMA3,
                                  attention_bias=True)),
    "mistral": ("MistralConfig", dict(sliding_window=5, rms_norm_eps=1e-5)),
    "qwen2": ("Qwen2Config", dict(use_sliding_window=True, sliding_window=6,
                                  max_window_layers=1,
                                  tie_word_embeddings=True)),
    "qwen3": ("Qwen3Config", dict(head_dim=8, rope_parameters=dict(
        rope_type="linear", rope_theta=1e6, factor=2.0))),
    "olmo2": ("Olmo2Config", dict()),
    "olmo3": ("Olmo3Config", dict(
        num_hidden_layers=4, sliding_window=7,
        rope_parameters=dict(full_attention=YARN, sliding_attention=dict(
            rope_type="default", rope_theta=5e5)))),
    "gemma3": ("Gemma3TextConfig", dict(
        num_hidden_layers=3, head_dim=8, query_pre_attn_scalar=24,
        sliding_window=9, layer_types=["sliding_attention"] * 2 +
        ["full_attention"], final_logit_softcapping=30.0)),
}
OLD = {
    "llama3": dict(
        model_type="llama", rms_norm_eps=1e-5, rope_theta=500000.0,
        rope_scaling=dict(factor=8.0, high_freq_factor=4.0,
                          low_freq_factor=1.0, rope_type="llama3",
                          original_max_position_embeddings=64)),
    "linear": dict(model_type="llama", rope_theta=10000.0,
                   rope_scaling=dict(type="linear", factor=4.0)),
    "yarn": dict(model_type="qwen2", rope_theta=1000000.0, max_window_layers=1,
                 sliding_window=16, use_sliding_window=False,
                 rope_scaling=dict(type="yarn", factor=4.0,
                                   original_max_position_embeddings=32)),
    "gemma3": dict(model_type="gemma3_text", head_dim=8, rope_theta=1000000,
                   rope_local_base_freq=10000, sliding_window=8,
                   sliding_window_pattern=2, query_pre_attn_scalar=8,
                   rope_scaling=dict(rope_type="linear", factor=8.0),
                   hidden_activation="gelu_pytorch_tanh"),
    "olmo3": dict(model_type="olmo3", rope_theta=500000.0, sliding_window=8,
                  layer_types=["sliding_attention", "full_attention"],
                  rope_scaling=dict(
                      rope_type="yarn", factor=8.0, beta_fast=32.0,
                      beta_slow=1.0, attention_factor=1.2079441541679836,
                      original_max_position_embeddings=16)),
    "windows": dict(model_type="qwen2", max_window_layers=1,
                    num_hidden_layers=3, sliding_window=16,
                    use_sliding_window=True),
    # As real models have them: frequencies on both sides of every threshold.
    "rope-llama3": dict(
        model_type="llama", head_dim=64, rope_theta=500000.0,
        max_position_embeddings=131072,
        rope_scaling=dict(factor=8.0, high_freq_factor=4.0,
                          low_freq_factor=1.0, rope_type="llama3",
                          original_max_position_embeddings=8192)),
    "rope-yarn": dict(
        model_type="qwen3", head_dim=128, rope_theta=1000000.0,
        max_position_embeddings=131072,
        rope_scaling=dict(type="yarn", factor=4.0,
                          original_max_position_embeddings=32768)),
    "rope-yarn-options": dict(
        model_type="llama", head_dim=64, rope_theta=150000.0,
        max_position_embeddings=131072,
        rope_scaling=dict(type="yarn", factor=32.0, truncate=False,
                          beta_fast=16.0, beta_slow=2.0, mscale=1.0,
                          mscale_all_dim=0.5,
                          original_max_position_embeddings=4096)),
}


def rope(config, layer_type=None):
    """inv_freq and the factor of cos and sin, as the rotary module has it."""
    p = config.rope_parameters[layer_type] if layer_type else \
        config.rope_parameters
    if p["rope_type"] == "default":
        dim = getattr(config, "head_dim", None) or \
            config.hidden_size // config.num_attention_heads
        f = 1.0 / p["rope_theta"] ** (
            torch.arange(0, dim, 2, dtype=torch.int64).float() / dim)
        return f, 1.0
    return ROPE_INIT_FUNCTIONS[p["rope_type"]](config, "cpu",
                                               layer_type=layer_type)


def expected(config):
    c = config
    two = isinstance(c.rope_parameters.get("full_attention"), dict)
    types = getattr(c, "layer_types", None)
    if types is None:
        types = ["sliding_attention" if c.model_type == "mistral" else
                 "full_attention"] * c.num_hidden_layers
    window = getattr(c, "sliding_window", None) or 0
    head_dim = getattr(c, "head_dim", None) or \
        c.hidden_size // c.num_attention_heads
    f, scale = rope(c, "full_attention" if two else None)
    out = dict(
        n_layers=c.num_hidden_layers, d_model=c.hidden_size,
        n_heads=c.num_attention_heads, n_kv_heads=c.num_key_value_heads,
        head_dim=head_dim, d_ff=c.intermediate_size, n_vocab=c.vocab_size,
        n_context=c.max_position_embeddings, norm_eps=c.rms_norm_eps,
        tied=bool(c.tie_word_embeddings),
        attn_scale=getattr(c, "query_pre_attn_scalar", head_dim) ** -0.5,
        final_softcap=getattr(c, "final_logit_softcapping", None) or 0.0,
        window=[window if t == "sliding_attention" else 0 for t in types],
        inv_freq=f.tolist(), rope_scale=float(scale))
    if two:
        f, scale = rope(c, "sliding_attention")
        out |= dict(inv_freq_local=f.tolist(), rope_scale_local=float(scale))
    return out


def hf_model(name, folder, **save):
    kind, extra = FAMILIES[name]
    config = getattr(transformers, kind)(**{**SIZES, **extra})
    torch.manual_seed(SEED)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # norms and biases away from 1 and 0
        for p in model.parameters():
            if p.ndim == 1:
                p += 0.25 * torch.randn_like(p)
    model.to(torch.bfloat16 if name == "qwen2" else torch.float32)
    model.save_pretrained(folder, **save)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for file in folder.iterdir():
        file.chmod(0o644)
    return config, model


def permuted(w, n_heads):
    """Llama's q and k as llama.cpp's converter lays them out."""
    return (w.reshape(n_heads, 2, w.shape[0] // n_heads // 2, *w.shape[1:])
            .swapaxes(1, 2).reshape(w.shape))


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def gguf_name(name, post_norm):
    if not name.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight",
                "model.norm.weight": "output_norm.weight",
                "lm_head.weight": "output.weight"}[name]
    _, _, layer, rest = name.split(".", 3)
    rest, end = rest.rsplit(".", 1)
    if rest == "post_attention_layernorm":
        rest = "post_attention_norm" if post_norm else "ffn_norm"
    else:
        rest = GGUF_NAMES[rest]
    return f"blk.{layer}.{rest}.{end}"


def gguf_model(name, path, config, model):
    arch = {"olmo3": "olmo2", "mistral": "llama"}.get(name, name)
    c, w = config, gguf.GGUFWriter(path, arch)
    head_dim = getattr(c, "head_dim", None) or \
        c.hidden_size // c.num_attention_heads
    w.add_name(f"Golden {name}")
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    p = c.rope_parameters.get("full_attention", c.rope_parameters)
    w.add_rope_freq_base(p["rope_theta"])
    if p["rope_type"] in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType(p["rope_type"]))
        w.add_rope_scaling_factor(p["factor"])
    if p["rope_type"] == "yarn":
        w.add_rope_scaling_orig_ctx_len(p["original_max_position_embeddings"])
    if name in ("olmo3", "gemma3", "mistral"):
        w.add_sliding_window(c.sliding_window)
    if name == "gemma3":
        w.add_sliding_window_pattern(
            [t == "sliding_attention" for t in c.layer_types])
        w.add_final_logit_softcapping(c.final_logit_softcapping)
    w.add_token_list([f"t{i}" for i in range(c.vocab_size)])
    if p["rope_type"] == "llama3":
        plain = 1.0 / p["rope_theta"] ** (
            torch.arange(0, head_dim, 2).float() / head_dim)
        w.add_tensor("rope_freqs.weight", (plain / rope(c)[0]).numpy())
    state = model.state_dict()
    if c.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    for key, value in state.items():
        value = value.float().numpy()
        heads = {"q_proj": c.num_attention_heads,
                 "k_proj": c.num_key_value_heads}.get(key.split(".")[-2])
        if arch == "llama" and heads:
            value = permuted(value, heads)
        if name == "gemma3" and key.endswith("norm.weight"):
            value = value + 1
        out = gguf_name(key, name in ("olmo2", "olmo3", "gemma3"))
        if value.ndim == 2 and name == "qwen2":
            value = value.astype(np.float16)
        w.add_tensor(out, np.ascontiguousarray(value))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def quants(path):
    """Random blocks of every type; the f16 scales are kept finite."""
    rng = np.random.default_rng(SEED)
    halves = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2],
              "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
              "Q5_K": [0, 2], "Q6_K": [208], "MXFP4": []}
    w = gguf.GGUFWriter(path, "llama")
    for name in ["F32", "F16", "BF16", *halves]:
        q = Q[name]
        block, size = gguf.GGML_QUANT_SIZES[q]
        n = 512 // block if block == 256 else 96 // block
        n = 6 if name == "MXFP4" else n
        raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
        for at in halves.get(name, []):
            h = (rng.standard_normal(n) / 16).astype(np.float16)
            raw[:, at:at + 2] = h.view(np.uint8).reshape(n, 2)
        if name == "MXFP4":  # the scale's eight bits: both ends, then any
            raw[:, 0] = np.resize([0, 1, 2, 118, 252, 255], n)
        if name == "F32":
            raw = rng.standard_normal(n).astype(np.float32).view(np.uint8)
        elif name in ("F16", "BF16"):  # finite: no exponent of all ones
            bits = rng.integers(0, 0x7800, n, dtype=np.uint16)
            bits |= rng.integers(0, 2, n, dtype=np.uint16) << 15
            raw = bits.view(np.uint8)
        raw = raw.reshape(1, -1)
        values = gguf.quants.dequantize(raw, q).astype(np.float32)
        w.add_tensor(f"{name.lower()}.raw", raw, raw_dtype=q)
        w.add_tensor(f"{name.lower()}.expected", values)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else
                        pathlib.Path(__file__).parents[1] / "data/model")
    root.mkdir(parents=True, exist_ok=True)
    quants(root / "quants.gguf")
    truth = {}
    for name in FAMILIES:
        shutil.rmtree(root / name, ignore_errors=True)
        config, model = hf_model(name, root / name)
        gguf_model(name, root / f"{name}.gguf", config, model)
        truth[name] = expected(config)
    shutil.rmtree(root / "sharded", ignore_errors=True)
    hf_model("mistral", root / "sharded", max_shard_size=1500)
    for name, old in OLD.items():
        path = root / f"old-{name}.json"
        path.write_text(json.dumps({**SIZES, **old}, indent=1) + "\n")
        raw = json.loads(path.read_text())
        kind = raw.pop("model_type")
        truth[f"old-{name}"] = expected(
            transformers.AutoConfig.for_model(kind, **raw))
    truth["settings"] = dict(seed=SEED, torch=torch.__version__,
                             transformers=transformers.__version__,
                             numpy=np.__version__)
    (root / "expected.json").write_text(json.dumps(truth, indent=1) + "\n")


main()
