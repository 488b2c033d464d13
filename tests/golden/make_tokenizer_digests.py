#!/usr/bin/env python3
"""Makes tests/data/tokenizer/gsm8k.json: what the `tokenizers` package makes
of all of GSM8K, as digests.

    python3 make_tokenizer_digests.py --gsm8k DIR --smollm2 GGUF [--out FILE]

For every tokenizer that the tests can have (tests/data/tokenizer, the demo's,
SmolLM2's from its GGUF): SHA-256 over the ids of BLOCK texts at a time, each
id as a little-endian u32, ffffffff after each text. A text is a problem's
question, a newline and its answer: train.jsonl, then test.jsonl. "texts" has
the same digests of the texts themselves (UTF-8, a zero byte after each), so
that another GSM8K is told from other ids.
"""
import argparse
import hashlib
import json
import os
import struct
import sys

from tokenizers import Tokenizer

import compare_tokenizer
import make_tokenizer as make

BLOCK = 500
HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "../data/tokenizer")
DEMO = os.path.join(HERE, "../../experiments/demo/models")


def digests(pieces):
    """SHA-256 of each BLOCK of byte strings."""
    return [hashlib.sha256(b"".join(pieces[i:i + BLOCK])).hexdigest()
            for i in range(0, len(pieces), BLOCK)]


def ids_of(tokenizer, texts):
    """A text's ids and its separator, as bytes."""
    return [struct.pack(f"<{len(e.ids) + 1}I", *e.ids, 0xffffffff)
            for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--gsm8k", required=True, help="folder with train.jsonl")
    p.add_argument("--smollm2", required=True, help="GGUF of .ci/smollm2")
    p.add_argument("--out", default=os.path.join(DATA, "gsm8k.json"))
    a = p.parse_args()
    texts = list(make.gsm8k(a.gsm8k))
    families = {f: os.path.join(DATA, f, "tokenizer.json")
                for f in make.FAMILIES}
    families.update((m, os.path.join(DEMO, m, "tokenizer.json"))
                    for m in sorted(os.listdir(DEMO)))
    tokenizers = {name: Tokenizer.from_file(path)
                  for name, path in families.items()}
    tokenizers["SmolLM2"] = Tokenizer.from_str(
        compare_tokenizer.from_gguf(a.smollm2))
    made = {"block": BLOCK, "n": len(texts),
            "texts": digests([t.encode() + b"\0" for t in texts]),
            "ids": {name: digests(ids_of(t, texts))
                    for name, t in tokenizers.items()}}
    with open(a.out, "w", encoding="utf-8") as f:
        json.dump(made, f, indent=0)
        f.write("\n")
    print(f"{len(tokenizers)} tokenizers, {len(texts)} texts", file=sys.stderr)


if __name__ == "__main__":
    main()
