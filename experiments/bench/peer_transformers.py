#!/usr/bin/env python3
"""Capture with transformers: pooled residual streams of every layer.

Usage: peer_transformers.py --form published|best MODEL_DIR CHAINS.jsonl OUT.h5
published  batch 1, output_hidden_states and logits, as the published code
best       no logits; hooks pool each layer as it is computed, so that no
           hidden state of a whole sequence is kept; batches of like length,
           up to --batch-tokens with their padding (0: chain by chain)
--tune tries batch sizes of the best form on the first chains and prints the
fastest as {"batch_tokens": N}. Else prints one JSON object: tokens and
seconds from tokenising to fsync, loading of the model left out.
"""
import argparse
import json
import os
import time

import h5py
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

POSITIONS = ("mean", "first", "middle", "last", "before")


def read_chains(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def tokenize(tokenizer, chains):
    """Ids of prompt + text and, for each step, its token span."""
    made = []
    for chain in chains:
        text = chain["prompt"] + chain["text"]
        coded = tokenizer(text, add_special_tokens=False,
                          return_offsets_mapping=True)
        starts = np.array([begin for begin, _ in coded["offset_mapping"]])
        # Steps are byte offsets into the text; offsets here are characters.
        raw = chain["text"].encode()
        at = len(chain["prompt"])
        spans = []
        for step in chain["steps"]:
            begin = at + len(raw[:step["begin"]].decode())
            end = at + len(raw[:step["end"]].decode())
            spans.append(np.searchsorted(starts, [begin, end]))
        made.append((coded["input_ids"], spans))
    return made


def pool(hidden, spans):
    """[T, d] -> [steps, positions, d]"""
    rows = []
    for begin, end in spans:
        rows.append(torch.stack([
            hidden[begin:end].mean(0), hidden[begin],
            hidden[begin + (end - begin) // 2], hidden[end - 1],
            hidden[begin - 1]]))
    return torch.stack(rows)


def run_published(model, chains):
    for ids, spans in chains:
        out = model(torch.tensor([ids]), output_hidden_states=True)
        yield torch.stack([pool(h[0], spans) for h in out.hidden_states])


def run_best(model, chains, batch_tokens):
    """Order by length, pad little, pool inside hooks."""
    order = sorted(range(len(chains)), key=lambda i: len(chains[i][0]))
    results = [None] * len(chains)
    layers = model.model.layers
    state = {}

    def keep(hidden):
        for row, i in enumerate(state["batch"]):
            state["rows"][i].append(pool(hidden[row], chains[i][1]))

    def before(_module, inputs):
        keep(inputs[0])

    def after(_module, _inputs, output):
        keep(output[0] if isinstance(output, tuple) else output)

    hooks = [layers[0].register_forward_pre_hook(before)]
    hooks += [layer.register_forward_hook(after) for layer in layers]
    at = 0
    while at < len(order):
        batch = [order[at]]
        while (batch_tokens and at + len(batch) < len(order) and
               (len(batch) + 1) * len(chains[order[at + len(batch)]][0])
               <= batch_tokens):
            batch.append(order[at + len(batch)])
        longest = max(len(chains[i][0]) for i in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, i in enumerate(batch):  # right padding: causal, so harmless
            ids[row, :len(chains[i][0])] = torch.tensor(chains[i][0])
            mask[row, :len(chains[i][0])] = 1
        state["batch"] = batch
        state["rows"] = {i: [] for i in batch}
        same = len({len(chains[i][0]) for i in batch}) == 1
        model.model(ids, attention_mask=None if same else mask,
                    use_cache=False)
        for i in batch:
            results[i] = torch.stack(state["rows"][i])
        at += len(batch)
    for hook in hooks:
        hook.remove()
    yield from results


def tune(model, chains):
    times = {}
    with torch.inference_mode():
        list(run_best(model, chains[:1], 0))
        for size in (0, 512, 1024, 2048):
            start = time.perf_counter()
            list(run_best(model, chains, size))
            times[size] = time.perf_counter() - start
    print(json.dumps({"batch_tokens": min(times, key=times.get),
                      "tried": times}))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--form", choices=["published", "best"],
                        default="best")
    parser.add_argument("--batch-tokens", type=int, default=0)
    parser.add_argument("model")
    parser.add_argument("chains")
    parser.add_argument("out")
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model,
                                                 dtype=torch.float32).eval()
    if options.tune:
        tune(model, tokenize(tokenizer, read_chains(options.chains)[:12]))
        return
    start = time.perf_counter()
    chains = tokenize(tokenizer, read_chains(options.chains))
    with torch.inference_mode():
        if options.form == "published":
            parts = list(run_published(model, chains))
        else:
            parts = list(run_best(model, chains, options.batch_tokens))
    rows = torch.cat(parts, dim=1)  # [L + 1, steps, positions, d]
    with h5py.File(options.out, "w") as file:
        for p, name in enumerate(POSITIONS):
            file.create_dataset(f"activations/resid/{name}",
                                data=rows[:, :, p].numpy())
    fd = os.open(options.out, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    seconds = time.perf_counter() - start
    print(json.dumps({"tokens": sum(len(ids) for ids, _ in chains),
                      "seconds": seconds}))


if __name__ == "__main__":
    main()
