#!/usr/bin/env python3
"""A chain's influence matrix with torch's autograd: one backward a target.

Usage: peer_influence.py --form published|frozen MODEL_DIR INPUT.json OUT.json
published  weights require gradients, so that each backward makes theirs, too,
           as the published code has it; the embeddings' are read
frozen     gradients go to the embeddings alone
--threads  default: all that the machine has

INPUT: {"ids": [..], "bounds": [..]}, tokens of the whole chain and the token
where each step begins, then the last one's end. OUT: the same with "matrix",
row = target. Prints one JSON object: seconds from the forward to the matrix,
loading of the model left out.

       peer_influence.py --make MODEL_DIR CHAINS.jsonl INPUT.json
writes INPUT from the chain that comes nearest to --steps and --tokens.
"""
import argparse
import json
import os
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import peer_transformers


def matrix(model, ids, bounds, published):
    """I[k][j] = |d sum of P(t), t in step k / d embeddings of step j|."""
    for weight in model.parameters():
        weight.requires_grad_(published)
    inputs = model.get_input_embeddings()(torch.tensor(ids)).detach()
    inputs.requires_grad_()
    logits = model(inputs_embeds=inputs[None]).logits[0]
    n = len(bounds) - 1
    out = torch.zeros(n, n, dtype=torch.float64)
    for k in range(1, n):
        begin, end = bounds[k], bounds[k + 1]
        if begin == end or begin == bounds[0]:
            continue
        p = logits[begin - 1:end - 1].softmax(-1)
        f = p.gather(1, torch.tensor(ids[begin:end])[:, None]).sum()
        if published:
            model.zero_grad(set_to_none=True)
            inputs.grad = None
            f.backward(retain_graph=True)
            grad = inputs.grad
        else:
            grad, = torch.autograd.grad(f, inputs, retain_graph=True)
        for j in range(k):
            out[k, j] = grad[bounds[j]:bounds[j + 1]].double().norm()
    return out


def make(tokenizer, chains, steps, tokens):
    """The chain nearest to so many steps, then tokens, as an input."""
    best = None
    for ids, spans in peer_transformers.tokenize(tokenizer, chains):
        if len(spans) < 2:
            continue
        far = (abs(len(spans) - steps), abs(len(ids) - tokens))
        if best is None or far < best[0]:
            bounds = [int(begin) for begin, _ in spans] + [int(spans[-1][1])]
            best = far, ids[:bounds[-1]], bounds
    return {"ids": best[1], "bounds": best[2]}


def write(path, what):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(what, file)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--form", choices=["published", "frozen"],
                        default="frozen")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=294)
    parser.add_argument("model")
    parser.add_argument("input")
    parser.add_argument("out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.make:
        chains = peer_transformers.read_chains(options.input)
        made = make(AutoTokenizer.from_pretrained(options.model), chains,
                    options.steps, options.tokens)
        write(options.out, made)
        print(json.dumps({"tokens": len(made["ids"]),
                          "steps": len(made["bounds"]) - 1}))
        return
    model = AutoModelForCausalLM.from_pretrained(options.model,
                                                 dtype=torch.float32).eval()
    with open(options.input, encoding="utf-8") as file:
        chain = json.load(file)
    start = time.perf_counter()
    made = matrix(model, chain["ids"], chain["bounds"],
                  options.form == "published")
    seconds = time.perf_counter() - start
    write(options.out, chain | {"matrix": made.tolist()})
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
