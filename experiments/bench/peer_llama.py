#!/usr/bin/env python3
"""Prompt speed of llama.cpp through llama-cpp-python's low-level API: every
chain evaluated as a prompt, no token generated, no logits but one a batch.

Usage: peer_llama.py MODEL.gguf CHAINS.jsonl [--batch N]
Prints one JSON object: tokens and seconds of the evaluation alone.
"""
import argparse
import json
import os
import time

import llama_cpp


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("chains")
    parser.add_argument("--batch", type=int, default=2048)
    options = parser.parse_args()
    threads = os.cpu_count()
    # Sequences are packed: llama.cpp's own best form for many short prompts.
    llm = llama_cpp.Llama(options.model, n_ctx=options.batch,
                          n_batch=options.batch, n_ubatch=512,
                          n_threads=threads, n_threads_batch=threads,
                          verbose=False)
    with open(options.chains, encoding="utf-8") as file:
        chains = [json.loads(line) for line in file]
    prompts = [llm.tokenize((c["prompt"] + c["text"]).encode(), add_bos=False,
                            special=True) for c in chains]
    context = llm._ctx.ctx
    batch = llama_cpp.llama_batch_init(options.batch, 0, 1)
    memory = llama_cpp.llama_get_memory(context)
    start = time.perf_counter()
    for ids in prompts:
        llama_cpp.llama_memory_clear(memory, True)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i] = token
            batch.pos[i] = i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i == len(ids) - 1
        if llama_cpp.llama_decode(context, batch) != 0:
            raise SystemExit("llama_decode failed")
    llama_cpp.llama_synchronize(context)
    seconds = time.perf_counter() - start
    print(json.dumps({"tokens": sum(map(len, prompts)), "seconds": seconds}))


if __name__ == "__main__":
    main()
