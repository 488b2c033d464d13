#!/usr/bin/env python3
"""Table of what `keystep label --json` said: table.py MODEL SAMPLED EXACT."""
import json
import sys

ORDER = ["without an answer to the problem", "unfinished", "without steps",
         "with a wrong answer", "whose answer no step states",
         "too long for the context", "answered without the chain",
         "of a single step",
         "of nothing but steps that give the answer away",
         "not enough for the answer"]


def main():
    model, *paths = sys.argv[1:]
    said = [json.load(open(path)) for path in paths]
    print(f"{said[0]['chains']} solutions of GSM8K as chains, read by "
          f"{model}.\n\n| chains | sufficiency sampled | exact |\n|---|---|---|")
    for name in ORDER:
        counts = [len(one["skipped"].get(name, [])) for one in said]
        if any(counts):
            print(f"| {name} | {counts[0]} | {counts[1]} |")
    for key in ("labelled",):
        print("| **labelled** | " + " | ".join(f"{one[key]}" for one in said)
              + " |")
    print("\n| steps of labelled chains | sampled | exact |\n|---|---|---|")
    for name, key in (("cut, for they give the answer away", "cut"),
                      ("in sufficient prefixes", "steps"),
                      ("important", "important"), ("removable", "removable"),
                      ("in between", "unlabelled")):
        print(f"| {name} | " + " | ".join(f"{one[key]}" for one in said)
              + " |")
    print("| cores that fail with fresh samples | "
          f"{said[0]['unconfirmed']} | |")


if __name__ == "__main__":
    main()
