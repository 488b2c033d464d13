#!/usr/bin/env python3
"""A real model's forward pass against Hugging Face transformers in float32.

The GGUF file (SmolLM2-135M-Instruct, Q4_1) is expanded to float32 by the
format's own rules and run by transformers on GSM8K text.

  compare_forward.py golden --model X.gguf --text gsm8k.jsonl
      writes ../data/forward/smollm2/golden.json (ids, argmax of every position)
      and hidden.f32 [rows, layers + 1, d] of a few tokens, which
      tests/forward/test_smollm2.c checks where the model file is there.
  compare_forward.py live --model X.gguf --text gsm8k.jsonl --program keystep
      runs `keystep capture --positions tokens` on the same text and prints the
      relative error of every layer; fails above 1e-4.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy
import torch
import transformers

OUT = (pathlib.Path(__file__).resolve().parent.parent / "data" / "forward" /
       "smollm2")
TOLERANCE = 1e-4
N_TEXTS = 3  # solutions that are read, each behind its question


def unpermute(w, n_heads):
    """GGUF's Llama q and k have rotary pairs side by side."""
    rows, cols = w.shape
    return (w.reshape(n_heads, rows // n_heads // 2, 2, cols)
            .transpose(0, 2, 1, 3).reshape(rows, cols))


def load(path):
    reader = gguf.GGUFReader(path)
    meta = {k: f.contents() for k, f in reader.fields.items()
            if k.startswith("llama.")}
    n_heads = meta["llama.attention.head_count"]
    n_kv = meta["llama.attention.head_count_kv"]
    config = transformers.LlamaConfig(
        vocab_size=meta["llama.vocab_size"],
        hidden_size=meta["llama.embedding_length"],
        intermediate_size=meta["llama.feed_forward_length"],
        num_hidden_layers=meta["llama.block_count"],
        num_attention_heads=n_heads, num_key_value_heads=n_kv,
        max_position_embeddings=meta["llama.context_length"],
        rms_norm_eps=meta["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default",
                         "rope_theta": meta["llama.rope.freq_base"]},
        tie_word_embeddings=True)
    names = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj",
             "ffn_norm": "post_attention_layernorm",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj"}
    weights = {}
    for t in reader.tensors:
        w = gguf.quants.dequantize(t.data, t.tensor_type)
        parts = t.name.split(".")
        if parts[0] != "blk":
            key = {"token_embd": "model.embed_tokens",
                   "output_norm": "model.norm"}[parts[0]]
        else:
            key = f"model.layers.{parts[1]}.{names[parts[2]]}"
            if parts[2] == "attn_q":
                w = unpermute(w, n_heads)
            elif parts[2] == "attn_k":
                w = unpermute(w, n_kv)
        weights[key + ".weight"] = torch.from_numpy(numpy.array(w)).float()
    model = transformers.LlamaForCausalLM(config).float().eval()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model


def read_text(path):
    lines = [json.loads(x) for x in open(path, encoding="utf-8")][:N_TEXTS]
    return "\n\n".join(x["question"] + "\n" + x["answer"] for x in lines)


def tokenize(program, model, text):
    out = subprocess.run([program, "tokenize", "--model", model],
                         input=json.dumps({"text": text}) + "\n", text=True,
                         check=True, capture_output=True)
    return json.loads(out.stdout)["ids"]


def reference(model, ids):
    """[L + 1, T, d] with the last state before the final norm, and logits."""
    kept = []
    hook = model.model.norm.register_forward_pre_hook(
        lambda _, args: kept.append(args[0]))
    with torch.no_grad():
        out = model(torch.tensor(ids)[None], output_hidden_states=True)
    hook.remove()
    states = torch.cat(list(out.hidden_states[:-1]) + [kept[0]])
    return states.numpy(), out.logits[0]


def golden(options):
    text = read_text(options.text)
    ids = tokenize(options.program, options.model, text)
    states, logits = reference(load(options.model), ids)
    top = logits.topk(2).values
    lead = top[:, 0] - top[:, 1]
    rows = [1, len(ids) // 2, len(ids) - 1]
    OUT.mkdir(parents=True, exist_ok=True)
    (states[:, rows].transpose(1, 0, 2).astype("<f4")
     .tofile(OUT / "hidden.f32"))
    (OUT / "golden.json").write_text(json.dumps({
        "made_by": "tests/golden/compare_forward.py golden",
        "model": pathlib.Path(options.model).name,
        "text": f"the first {N_TEXTS} problems of GSM8K's test split (MIT)",
        "transformers": transformers.__version__, "torch": torch.__version__,
        "rows": rows, "ids": ids, "argmax": logits.argmax(-1).tolist(),
        # Positions whose two best logits are this close may go either way.
        "close": [i for i, x in enumerate(lead.tolist()) if x < 1e-3],
    }) + "\n")
    print(f"{len(ids)} tokens, smallest lead {lead.min():.2g}")


def live(options):
    import h5py
    text = read_text(options.text)
    with tempfile.TemporaryDirectory() as folder:
        chain = {"id": "a/0", "problem": "a", "prompt": "", "text": text,
                 "rest": "", "steps": [{"begin": 0,
                                        "end": len(text.encode())}]}
        chains, out = f"{folder}/chains.jsonl", f"{folder}/acts.h5"
        pathlib.Path(chains).write_text(json.dumps(chain) + "\n")
        subprocess.run([options.program, "capture", "--model", options.model,
                        "--chains", chains, "--positions", "tokens", "--dtype",
                        "f32", "--out", out], check=True)
        with h5py.File(out) as file:
            ours = file["/activations/resid/tokens"][:]
    ids = tokenize(options.program, options.model, text)
    states, _ = reference(load(options.model), ids)
    worst = 0
    for layer, (a, b) in enumerate(zip(ours, states, strict=True)):
        error = numpy.linalg.norm(a - b) / numpy.linalg.norm(b)
        worst = max(worst, error)
        print(f"layer {layer:2d}: relative error {error:.2e}")
    print(f"worst {worst:.2e} over {len(ids)} tokens")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["golden", "live"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--program", default="build/release/keystep")
    chosen = parser.parse_args()
    sys.exit({"golden": golden, "live": live}[chosen.what](chosen))
