#!/usr/bin/env python3
"""Prompt speed of llama.cpp through its low-level API: every chain evaluated
as a prompt, no token generated, logits of one token a batch.

Usage: peer_llama.py MODEL.gguf CHAINS.jsonl [--pack N] [--tune]
--pack N puts whole chains into batches of up to N tokens, a sequence each;
0 evaluates chain by chain. --tune tries forms on the first chains and prints
the fastest as {"pack": N}. Else prints tokens and seconds of the evaluation
alone: no loading, no tokenising, no writing.
"""
import argparse
import json
import time

import llama_cpp as ll

from llama_low import Context, load

FORMS = (0, 512, 1024, 2048)


def read_prompts(model, path, most):
    vocab = ll.llama_model_get_vocab(model)
    prompts = []
    with open(path, encoding="utf-8") as file:
        for line in list(file)[:most]:
            chain = json.loads(line)
            raw = (chain["prompt"] + chain["text"]).encode()
            ids = (ll.llama_token * len(raw))()
            n = ll.llama_tokenize(vocab, raw, len(raw), ids, len(raw), False,
                                  True)
            prompts.append(list(ids[:n]))
    return prompts


def pack(prompts, most):
    """Lists of prompts, whole ones, of up to `most` tokens each."""
    batches = []
    for ids in prompts:
        if not batches or sum(map(len, batches[-1])) + len(ids) > most:
            batches.append([])
        batches[-1].append(ids)
    return batches


def evaluate(model, prompts, most):
    batches = pack(prompts, most)
    size = max(sum(map(len, b)) for b in batches)
    width = max(map(len, batches))
    context = Context(model, size if width == 1 else size * 2, width)
    start = time.perf_counter()
    for chains in batches:
        context.clear()
        for sequence, ids in enumerate(chains):
            for place, token in enumerate(ids):
                last = sequence == len(chains) - 1 and place == len(ids) - 1
                context.add(token, place, [sequence], last)
        context.decode()
    seconds = time.perf_counter() - start
    context.close()
    return seconds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("chains")
    parser.add_argument("--pack", type=int, default=0)
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    model = load(options.model)
    prompts = read_prompts(model, options.chains,
                           12 if options.tune else None)
    evaluate(model, prompts[:1], 0)  # pages are in memory, threads started
    if options.tune:
        times = {form: evaluate(model, prompts, form) for form in FORMS}
        print(json.dumps({"pack": min(times, key=times.get),
                          "tried": times}))
        return
    seconds = evaluate(model, prompts, options.pack)
    print(json.dumps({"tokens": sum(map(len, prompts)), "seconds": seconds}))


if __name__ == "__main__":
    main()
