#!/usr/bin/env python3
"""Greedy generation of many problems at once by llama.cpp's batched decoding,
through its low-level API: all prompts in one batch, then a token of every
sequence a step; a sequence that ends leaves the batch.

Usage: generate_peers.py INPUT.json [--tune] [--settings JSON]
INPUT.json, as chain40.py writes it: gguf, prompts (tokens), max_new, stops.
What the prompts have in common is computed once where that is faster ("unified"
of the settings); --tune tries that and others with few new tokens and prints
the fastest as {"settings": {...}}. Prints one JSON object; seconds (the median
of --repeat) are those of prompts and new tokens, without loading and setting
up; prompt_seconds of them end with the first tokens' logits.
"""
import argparse
import json
import statistics
import time

from llama_low import Batched, Sampling, load, texts

CHANGES = ({"unified": 0}, {"flash": 0}, {"kv": "f32"}, {"ubatch": 2048})


class Clocked(Batched):
    """Notes when the prompts' logits are there."""

    def start(self, chosen):
        self.began = time.perf_counter()
        self.prompt_seconds = None
        return super().start(chosen)

    def draw(self, branches, logits):
        if self.prompt_seconds is None:
            self.prompt_seconds = time.perf_counter() - self.began
        return super().draw(branches, logits)


def timed(model, said, most, settings, repeat=1):
    """(seconds, those of the processor, of prompts) of every turn; the ids
    of each prompt; tokens computed."""
    prompts = said["prompts"]
    batched = Clocked(model, Sampling(prompts, [most] * len(prompts),
                                      stops=said["stops"]), settings)
    turns, found = [], None
    for _ in range(repeat):
        start, before = time.perf_counter(), time.process_time()
        found = batched.run()
        turns.append((time.perf_counter() - start,
                      time.process_time() - before, batched.prompt_seconds))
    computed = batched.context.computed
    batched.close()
    return turns, [samples[0] for samples in found], computed


def tune(model, said, most, best):
    least, tried = None, []
    for change in ({}, *CHANGES):
        settings = best | change
        turns, _, _ = timed(model, said, most, settings)
        took = turns[0][0]
        tried.append(settings | {"seconds": took})
        if least is None or took < least:
            best, least = settings, took
    return {"settings": best, "tried": tried}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("input")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--settings", type=json.loads, default={},
                        help="JSON, as --tune prints it; threads as well")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--gguf", help="other weights than the input's")
    parser.add_argument("--max-new", type=int, help="in place of the input's")
    parser.add_argument("--prompts", type=int, help="only the first N")
    options = parser.parse_args()
    with open(options.input, encoding="utf-8") as file:
        said = json.load(file)
    said["prompts"] = said["prompts"][:options.prompts]
    most = options.max_new or said["max_new"]
    model = load(options.gguf or said["gguf"])
    # pages are in memory, threads started
    timed(model, said | {"prompts": said["prompts"][:1]}, 2, options.settings)
    if options.tune:
        print(json.dumps(tune(model, said, min(most, 48),
                              options.settings)))
        return
    turns, found, computed = timed(model, said, most, options.settings,
                                   options.repeat)
    seconds, cpu_seconds, prompt_seconds = map(statistics.median,
                                               zip(*turns))
    sampled = sum(map(len, found))
    print(json.dumps({
        "seconds": seconds, "cpu_seconds": cpu_seconds,
        "prompt_seconds": prompt_seconds,
        "all_seconds": [turn[0] for turn in turns], "sampled": sampled,
        "computed": computed, "tokens_per_s": sampled / seconds,
        "stopped": sum(ids[-1] in said["stops"] for ids in found),
        "ids": found, "completions": [texts(model, ids) for ids in found]}))


if __name__ == "__main__":
    main()
